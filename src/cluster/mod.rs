//! Layer 5: the hosts of a database: which of them a login goes to, and what became of it.
//!
//! [`hosts`] decides (pure), this module logs in. It owns no connection: each login happens within a slot of the pool's,
//! one host after the other, so several hosts never make for more connections than `pool_size`. A database with one
//! host that may have any role has nothing to decide, and its logins go straight there.
//!
//! Invariant: before a login fails, every host of the list that doesn't rest was tried, and the error has each one's
//! reason.

pub mod hosts;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::RngExt;
use tracing::{info, warn};

use crate::config::{Database, LoadBalance, SessionAttrs};
use crate::net::{Target, world};
use crate::protocol::settings::SettingsTable;
use crate::server::connect::{self, LoggedIn, Login, LoginError};
use hosts::{Health, Hosts, News, Outcome};

/// What the configuration says.
#[derive(Clone, PartialEq, Debug)]
pub struct Policy {
    /// `host` and `port`; one at least.
    pub hosts: Arc<[Target]>,
    /// `load_balance_hosts`.
    pub balance: LoadBalance,
    /// `target_session_attrs`.
    pub attrs: SessionAttrs,
    /// `server_login_retry`: the longest rest of a host.
    longest_rest: Duration,
}

impl Policy {
    /// Of a database.
    #[must_use]
    pub fn new(database: &Database, longest_rest: Duration) -> Self {
        Self {
            hosts: database.places().map(|(host, port)| Target { host, port }).collect(),
            balance: database.load_balance_hosts,
            attrs: database.target_session_attrs,
            longest_rest,
        }
    }

    /// The first host.
    #[must_use]
    pub fn first(&self) -> Target {
        self.hosts[0].clone()
    }

    /// Whether servers by this policy can't be those of another.
    #[must_use]
    pub fn is_elsewhere(&self, other: &Self) -> bool {
        self.hosts != other.hosts || self.attrs != other.attrs
    }

    /// There is nothing to decide.
    fn is_plain(&self) -> bool {
        self.hosts.len() == 1 && self.attrs == SessionAttrs::Any
    }
}

/// One host, for SHOW HOSTS.
#[derive(Clone, Debug)]
pub struct HostState {
    /// Where it is.
    pub target: Target,
    /// What is known of it.
    pub health: Health,
    /// It has another role than is wanted.
    pub unwanted: bool,
    /// Why the last login to it failed; `None`: it didn't.
    pub last_error: Option<Arc<LoginError>>,
}

impl HostState {
    /// What can be said of it in one word.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match self.health {
            Health { failures: 1.., .. } => "down",
            _ if self.unwanted => "wrong role",
            Health { logins: 0, role: None, .. } => "unknown",
            _ => "up",
        }
    }
}

#[derive(Debug)]
struct Known {
    hosts: Hosts,
    /// Why the last login to each failed.
    errors: Vec<Option<Arc<LoginError>>>,
}

/// The hosts of one pool. Their list and what they have to be never change: another pool takes its place then.
#[derive(Debug)]
pub struct Cluster {
    /// The database's name, for the log.
    name: String,
    attrs: SessionAttrs,
    plain: bool,
    known: Mutex<Known>,
}

/// A login under way; one that is dropped before its end is forgotten.
struct Attempt<'c> {
    cluster: &'c Cluster,
    at: usize,
    began: Instant,
    policy: &'c Policy,
    open: bool,
}

impl Attempt<'_> {
    fn end(mut self, outcome: Outcome, error: Option<&Arc<LoginError>>) {
        self.open = false;
        let mut known = self.cluster.known.lock();
        let times = (self.began, world::now());
        let news = known.hosts.end(self.at, outcome, times, self.policy.longest_rest, world::rng().random());
        known.errors[self.at] = error.cloned();
        drop(known);
        let (database, host) = (&self.cluster.name, &self.policy.hosts[self.at]);
        for news in news {
            match news {
                News::Up => info!(%database, %host, "host answers again"),
                News::Down => {
                    let error = error.map(ToString::to_string).unwrap_or_default();
                    warn!(%database, %host, "host is left alone for a while: {error}");
                }
                News::Role(role) => info!(%database, %host, "host has another role: it is a {role} now"),
            }
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.open {
            let times = (self.began, self.began);
            let longest = self.policy.longest_rest;
            self.cluster.known.lock().hosts.end(self.at, Outcome::Abandoned, times, longest, 0.0);
        }
    }
}

impl Cluster {
    /// The hosts of the pool of a database.
    #[must_use]
    pub fn new(name: &str, policy: &Policy) -> Self {
        let count = policy.hosts.len();
        let known = Known { hosts: Hosts::new(count), errors: vec![None; count] };
        Self { name: name.to_owned(), attrs: policy.attrs, plain: policy.is_plain(), known: Mutex::new(known) }
    }

    /// Whether it has one host, which may be anything.
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.plain
    }

    /// Whether a server that is promoted isn't what is wanted any more.
    #[must_use]
    pub const fn wants_standbys(&self) -> bool {
        matches!(self.attrs, SessionAttrs::ReadOnly | SessionAttrs::Standby | SessionAttrs::PreferStandby)
    }

    /// When a login may be begun after one that failed; `None`: each host has to be asked, since there is only one.
    #[must_use]
    pub fn next_attempt(&self, now: Instant) -> Option<Instant> {
        let wanted = *self.attrs.passes().last()?;
        (!self.plain).then(|| self.known.lock().hosts.next_attempt(wanted, now))
    }

    /// Logs in to the first host that can be used, `login` being what all of them have in common.
    ///
    /// # Errors
    /// The only host's, or [`LoginError::Hosts`].
    pub async fn login(
        &self,
        mut login: Login,
        policy: &Policy,
        settings: &SettingsTable,
    ) -> Result<LoggedIn, LoginError> {
        if self.plain {
            return connect::login(&login, settings).await;
        }
        let mut tried: Vec<Option<Arc<LoginError>>> = vec![None; policy.hosts.len()];
        let passes = policy.attrs.passes();
        for (pass, attrs) in passes.iter().enumerate() {
            login.attrs = *attrs;
            for at in self.order(policy, *attrs, pass + 1 == passes.len(), &tried) {
                login.target = policy.hosts[at].clone();
                match self.try_one(at, &login, policy, settings).await {
                    Ok(logged_in) => {
                        self.settle(at, policy);
                        return Ok(logged_in);
                    }
                    Err(error) => tried[at] = Some(error),
                }
            }
        }
        Err(self.failure(tried))
    }

    /// The hosts to try, without those that have failed already.
    fn order(&self, policy: &Policy, attrs: SessionAttrs, last: bool, tried: &[Option<Arc<LoginError>>]) -> Vec<usize> {
        let mut known = self.known.lock();
        let random = |below: usize| world::rng().random_range(0..below);
        let mut order = known.hosts.order(policy.balance, attrs, world::now(), random);
        let may_do =
            |at: &usize| !matches!(tried[*at].as_deref(), Some(error) if !matches!(error, LoginError::Role { .. }));
        order.retain(may_do);
        if order.is_empty() && last && tried.iter().all(Option::is_none) {
            return known.hosts.by_readiness(attrs);
        }
        order
    }

    async fn try_one(
        &self,
        at: usize,
        login: &Login,
        policy: &Policy,
        settings: &SettingsTable,
    ) -> Result<LoggedIn, Arc<LoginError>> {
        let began = world::now();
        self.known.lock().hosts.begin(at, began);
        let attempt = Attempt { cluster: self, at, began, policy, open: true };
        match connect::login(login, settings).await {
            Ok(logged_in) => {
                attempt.end(Outcome::In(logged_in.role), None);
                Ok(logged_in)
            }
            Err(error) => {
                let outcome = match &error {
                    LoginError::Role { role, .. } => Outcome::Unwanted(*role),
                    error if error.is_permanent() => Outcome::Refused,
                    _ => Outcome::Failed,
                };
                let error = Arc::new(error);
                attempt.end(outcome, Some(&error));
                Err(error)
            }
        }
    }

    fn settle(&self, at: usize, policy: &Policy) {
        if self.known.lock().hosts.settle(at, policy.attrs) {
            info!(database = %self.name, host = %policy.hosts[at], "server connections go to another host now");
        }
    }

    /// What is wrong with all of them: where one rests, with the last login to it.
    fn failure(&self, tried: Vec<Option<Arc<LoginError>>>) -> LoginError {
        let known = self.known.lock();
        let reason = |(now, before): (Option<_>, &Option<_>)| now.or_else(|| before.clone());
        LoginError::Hosts(tried.into_iter().zip(&known.errors).filter_map(reason).collect())
    }

    /// Each host.
    #[must_use]
    pub fn hosts(&self, policy: &Policy) -> Vec<HostState> {
        let known = self.known.lock();
        let wanted = policy.attrs.passes().first().copied().unwrap_or_default();
        let each = policy.hosts.iter().zip(known.hosts.list()).zip(&known.errors);
        let host = |((target, health), error): ((&Target, &Health), &Option<Arc<LoginError>>)| HostState {
            target: target.clone(),
            health: *health,
            unwanted: health.is_unwanted(wanted),
            last_error: error.clone(),
        };
        each.map(host).collect()
    }

    /// How often logins have gone to another host since the one before couldn't be used any more.
    #[must_use]
    pub fn failovers(&self) -> u64 {
        self.known.lock().hosts.failovers()
    }
}
