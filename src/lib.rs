//! Carpool, a PostgreSQL connection pooler.
//!
//! The modules are layers, each importing only those above it in this list (a test checks it):
//!
//! | layer | modules | own |
//! |---|---|---|
//! | 0 vocabulary | [`error`], [`names`], [`config`], [`stats`] | words, counters and rows that all others use; pure |
//! | 8 operations | [`admin`] | the admin console, HTTP: health, metrics, status page |

pub mod admin;
pub mod auth;
pub mod client;
pub mod config;
pub mod error;
pub mod names;
pub mod net;
pub mod pool;
pub mod pooler;
pub mod protocol;
pub mod server;
pub mod stats;
pub mod wire;
