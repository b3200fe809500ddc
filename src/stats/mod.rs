//! Layer 0: what Carpool counts, and the rows it shows. Pure: no sockets, no clock; time comes as an argument.
//!
//! [`counters`], [`histogram`] and [`tally`] are written where things happen and summed when somebody looks; [`history`]
//! makes averages of two looks, [`recent`] a course of many; [`table`] and [`rows`] are the SHOW results, [`prometheus`] the text of `/metrics`, [`spans`] what a
//! collector of traces gets, [`advisor`] what size a pool should have. Nothing here
//! knows where the numbers come from.

pub mod advisor;
pub mod audit;
pub mod counters;
pub mod histogram;
pub mod history;
pub mod prometheus;
pub mod recent;
pub mod rows;
pub mod spans;
pub mod table;
pub mod tally;
pub mod throttle;

pub use counters::{Counter, Counters, StatementCounts, Totals};
