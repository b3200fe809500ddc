//! Tests of the whole: the real binary in front of real PostgreSQL.

#![allow(dead_code, missing_docs, unreachable_pub, clippy::too_many_lines, reason = "test code")]

mod basics;
mod drivers;
mod harness;
mod layers;
