//! Layer 1: bytes ↔ messages, in both directions.
//!
//! [`frame`] is the ONLY reader of message lengths; [`startup`], [`frontend`] and [`backend`] read and write
//! bodies that it has delimited. Pure: no sockets, no clock. Nothing here keeps state between messages.
//!
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

pub mod backend;
pub mod frame;
pub mod frontend;
pub mod startup;
