//! Layer 7: the application side: startup, login, and the relay between a client and its server.

pub mod access;
pub mod cancel;
pub mod cert;
pub mod connection;
pub mod door;
pub mod exodus;
pub mod holders;
pub mod login;
pub mod numbering;
pub mod peers;
pub mod registry;
pub mod relay;
pub mod replication;
pub mod secrets;
pub mod startup;

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::auth::Verifiers;
use crate::config::Config;
use crate::names::{DatabaseName, UserName};
use crate::net::world;
use crate::pool::directory::Directory;
use crate::stats::audit::Audit;
use crate::stats::spans;
use crate::stats::statements::Statements;
use crate::stats::tally::Tally;
use crate::stats::throttle::Throttle;
use crate::stats::waits::Waits;
use registry::Registry;

/// How long a slow transaction keeps others of its kind out of the log.
const SLOW_PERIOD: Duration = Duration::from_secs(10);

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
    /// Where the time of transactions goes, see `track_waits`.
    pub waits: Waits,
    /// And by statement, see `track_statements`.
    pub statements: Statements,
    /// Records of the flight recorder that admins wait for.
    pub wanted_records: relay::recorder::Wanted,
    /// Cancel requests on their way to other Carpools.
    pub peers: peers::Peers,
    /// The other process, while one hands its clients to another.
    pub exodus: exodus::Exodus,
    /// Logins that failed, by reason.
    pub refusals: Tally,
    /// Transactions on their way to a collector of traces, see `otlp_endpoint`.
    pub spans: spans::Queue,
    /// Which slow transactions are in the log, by database, user and `application_name`.
    pub slow: Throttle<(DatabaseName, UserName, Box<str>)>,
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
            verifiers: Verifiers::new(&mut world::rng()),
            audit: Audit::default(),
            waits: Waits::default(),
            wanted_records: relay::recorder::Wanted::default(),
            statements: Statements::default(),
            peers: peers::Peers::default(),
            exodus: exodus::Exodus::default(),
            refusals: Tally::default(),
            spans: spans::Queue::default(),
            slow: Throttle::new(SLOW_PERIOD),
            started: world::now(),
            suspended: AtomicBool::new(false),
            config: ArcSwap::from_pointee(config),
        };
        context.verifiers.set_iterations(context.config.load().pooler.scram_iterations);
        context.secrets.note_configured(&context.config.load());
        context.pools.apply(&context.config.load());
        context
    }
}
