//! Tests of the whole: the real binary in front of real PostgreSQL.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::expect_used,
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "test code"
)]

mod advice;
mod asking;
mod audit;
mod auth_query;
mod basics;
mod blockers;
mod budget;
mod cancel;
mod cluster;
mod console;
mod dashboard;
mod differential;
mod documents;
mod door;
mod drivers;
mod failover;
mod faults;
mod flight;
mod functions;
mod harness;
mod hba;
mod hostile;
mod isolation;
mod layers;
mod listen;
mod logins;
mod metrics;
mod modes;
mod names;
mod numbers;
mod operations;
mod packaging;
mod peers;
mod pins;
mod process;
mod replicas;
mod saturation;
mod secrets;
mod sequences;
mod service;
mod settings;
mod shares;
mod sharing;
mod slow;
mod startup;
mod stopping;
mod survival;
mod tls;
mod top;
mod traces;
mod unix;
mod unnamed;
mod unsent;
mod upgrade;
mod versions;
mod waits;
