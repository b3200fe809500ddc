//! The pool-size advisor: what waits and throughput another size of a pool would bring, and which size is enough.
//!
//! Recorded demand ([`trace`]; as text: [`format`]) is cut into [`pieces`] of time. From them it is told how much longer
//! transactions take when more servers are at work ([`contention`]), and they are replayed ([`simulate`]) for each size.
//! [`advise`] puts that together; [`auto`] decides when a pool that sizes itself changes. Pure: no clock, no
//! randomness but a fixed seed's, so the same trace gives the same advice.

pub mod advise;
pub mod auto;
pub mod contention;
pub mod format;
pub mod pieces;
pub mod simulate;
#[cfg(test)]
mod tests;
pub mod trace;

pub use advise::{Advice, advise};
