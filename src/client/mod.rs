//! Layer 7: the application side: startup, login, and the relay between a client and its server.

pub mod access;
pub mod cancel;
pub mod cert;
pub mod connection;
pub mod door;
pub mod login;
pub mod registry;
pub mod relay;
pub mod replication;
pub mod secrets;
pub mod startup;

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::auth::Verifiers;
use crate::config::Config;
use crate::pool::directory::Directory;
use crate::stats::audit::Audit;
use crate::stats::tally::Tally;
use registry::Registry;

/// What all client connections share.
#[derive(Debug)]
pub struct Context {
    /// The configuration in force.
    pub config: ArcSwap<Config>,
    /// The pools.
    pub pools: Directory,
    /// Connections that have not logged in.
    pub door: door::Door,
    /// The clients.
    pub registry: Registry,
    /// What logins leave to others.
    pub outside: access::outside::Outside,
    /// Users who were looked up in a database.
    pub secrets: secrets::Secrets,
    /// What logins check passwords with.
    pub verifiers: Verifiers,
    /// What session state clients use, see `audit`.
    pub audit: Audit,
    /// Logins that failed, by reason.
    pub refusals: Tally,
    /// When the process began to serve.
    pub started: Instant,
    /// SUSPEND: everything stands still.
    pub suspended: AtomicBool,
}

impl Context {
    /// A context without pools or clients.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let context = Self {
            pools: Directory::default(),
            door: door::Door::default(),
            registry: Registry::default(),
            outside: access::outside::Outside::default(),
            secrets: secrets::Secrets::default(),
            verifiers: Verifiers::new(&mut rand::rng()),
            audit: Audit::default(),
            refusals: Tally::default(),
            started: Instant::now(),
            suspended: AtomicBool::new(false),
            config: ArcSwap::from_pointee(config),
        };
        context.verifiers.set_iterations(context.config.load().pooler.scram_iterations);
        context.pools.apply(&context.config.load());
        context
    }
}
