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

mod basics;
mod console;
mod drivers;
mod harness;
mod layers;
