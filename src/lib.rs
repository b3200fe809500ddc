//! Carpool, a PostgreSQL connection pooler.
//!
//! The modules are layers, each importing only those above it in this list (a test checks it):
//!
//! | layer | modules | own |
//! |---|---|---|
//! | 0 vocabulary | [`error`], [`names`], [`tls`], [`config`], [`stats`] | words, counters and rows that all others use; pure |
//! | 1 wire | [`wire`] | bytes ↔ messages; pure |
//! | 2 protocol | [`protocol`], [`auth`] | what messages mean; authentication as state machines; pure |
//! | 3 net | [`net`] | sockets, TLS |
//! | 4 server | [`server`] | one PostgreSQL connection |
//! | 5 cluster | [`cluster`] | the hosts of a database: which one a login goes to |
//! | 6 pool | [`pool`] | the servers of a database, lent to clients |
//! | 7 client | [`client`] | login, registry, and the relay that sees both sides |
//! | 8 operations | [`admin`] | the admin console, HTTP: health, metrics, dashboard |
//! | 9 composition | [`pooler`], [`top`], [`ready`], [`replay`], [`advise`] | accepting, recurring work, signals, reload, stopping; `carpool top`, `ready`, `replay`, `advise` |

pub mod admin;
pub mod advise;
pub mod auth;
pub mod client;
pub mod cluster;
pub mod config;
pub mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod names;
pub mod net;
pub mod pool;
pub mod pooler;
pub mod protocol;
pub mod ready;
pub mod replay;
pub mod server;
#[cfg(test)]
mod simulation;
pub mod stats;
pub mod tls;
pub mod top;
pub mod wire;
