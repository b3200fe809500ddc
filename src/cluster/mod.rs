//! Layer 5: the hosts of a database: which of them a login goes to, and what became of it.
//!
//! [`hosts`] and [`watch`] decide (pure), this module logs in. It owns no connection: each login happens within a slot of the pool's,
//! one host after the other, so several hosts never make for more connections than `pool_size`. A database with one
//! host that may have any role has nothing to decide, and its logins go straight there.
//!
//! Invariant: before a login fails, every host of the list that doesn't rest was tried, and the error has each one's
//! reason.

pub mod hosts;
pub mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::RngExt;
use tracing::{error, info, warn};

use crate::config::{Database, LoadBalance, SessionAttrs};
use crate::net::{Target, world};
use crate::protocol::settings::SettingsTable;
use crate::server::connect::{self, LoggedIn, Login, LoginError};
use hosts::{Door, Health, Hosts, News, Outcome};
use watch::{Answer, Checked, Split, Verdict, Watch, has};

/// What the configuration says.
#[derive(Clone, PartialEq, Debug)]
pub struct Policy {
    /// `host` and `port`; one at least.
    pub hosts: Arc<[Target]>,
    /// `load_balance_hosts`.
    pub balance: LoadBalance,
    /// `target_session_attrs`.
    pub attrs: SessionAttrs,
    /// `max_replica_lag`; zero where it doesn't matter.
    pub max_lag: Duration,
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
            max_lag: if database.limits_lag() { database.max_replica_lag } else { Duration::ZERO },
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
        self.hosts != other.hosts || self.attrs != other.attrs || self.is_plain() != other.is_plain()
    }

    /// There is nothing to decide.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.hosts.len() == 1 && self.attrs == SessionAttrs::Any && self.max_lag.is_zero()
    }

    /// Whether it matters what hosts are at any time.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.hosts.len() > 1 || !self.max_lag.is_zero()
    }

    /// What is looked for first, and where no host of the list is that, then.
    fn passes(&self) -> &'static [SessionAttrs] {
        match self.attrs {
            // A standby that is too far behind isn't what is wanted, though it were the last host.
            SessionAttrs::PreferStandby if !self.max_lag.is_zero() => &[SessionAttrs::Standby, SessionAttrs::Primary],
            attrs => attrs.passes(),
        }
    }

    /// Hosts that can't be used for a server of this kind.
    fn barred(&self, attrs: SessionAttrs, watch: &Watch) -> watch::Set {
        let verdict = watch.verdict();
        match attrs {
            // How far standbys are behind will be known in a moment.
            _ if !self.max_lag.is_zero() && !watch.has_begun() => verdict.lagging,
            SessionAttrs::Primary | SessionAttrs::ReadWrite => verdict.deposed,
            // The last way out is for the primary.
            SessionAttrs::Any if self.attrs == SessionAttrs::PreferStandby => verdict.deposed | verdict.astray,
            _ => verdict.lagging | verdict.astray,
        }
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
    /// It says that it is the primary, and isn't the one that is used.
    pub deposed: bool,
    /// It is a standby that follows another than the primary that is used.
    pub astray: bool,
    /// It is too far behind.
    pub lagging: bool,
    /// What it said when it was last asked.
    pub checked: Checked,
    /// Why the last login to it failed; `None`: it didn't.
    pub last_error: Option<Arc<LoginError>>,
}

impl HostState {
    /// What can be said of it in one word.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match self.health {
            Health { failures: 1.., .. } => "down",
            _ if self.deposed => "deposed",
            _ if self.unwanted => "wrong role",
            _ if self.astray => "astray",
            _ if self.lagging => "lagging",
            Health { logins: 0, role: None, .. } => "unknown",
            _ => "up",
        }
    }
}

#[derive(Debug)]
struct Known {
    hosts: Hosts,
    watch: Watch,
    /// Why the last login to each failed.
    errors: Vec<Option<Arc<LoginError>>>,
}

impl Known {
    /// Why a host can't be used though it is there.
    fn why_barred(&self, at: usize, policy: &Policy) -> Option<LoginError> {
        let (target, verdict) = (policy.hosts[at].clone(), self.watch.verdict());
        let barred = policy.barred(policy.passes().last().copied()?, &self.watch);
        let primary = self.watch.primary().filter(|primary| *primary != at && !has(verdict.deposed, *primary));
        let primary = primary.map(|at| policy.hosts[at].clone());
        if has(barred & verdict.deposed, at) {
            return Some(LoginError::Deposed { target, primary });
        }
        if has(verdict.astray, at) {
            return Some(LoginError::Astray { target, primary });
        }
        let lagging = !policy.max_lag.is_zero() && has(verdict.lagging, at);
        lagging.then(|| LoginError::Lag { target, lag: self.watch.hosts()[at].lag, limit: policy.max_lag })
    }
}

/// What a health check has found out about one host.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Where it stands.
    pub answer: Answer,
    /// Whether it takes logins.
    pub door: Door,
    /// What is wrong.
    pub error: Option<Arc<LoginError>>,
}

/// The hosts of one pool. Their list and what they have to be never change: another pool takes its place then.
#[derive(Debug)]
pub struct Cluster {
    /// The database's name, for the log.
    name: String,
    attrs: SessionAttrs,
    plain: bool,
    /// [`Verdict::unfit`].
    unfit: AtomicU32,
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
        self.cluster.tell(&news, &self.policy.hosts[self.at], error.map(AsRef::as_ref));
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
        let watch = Watch::new(count, !policy.max_lag.is_zero());
        let known = Mutex::new(Known { hosts: Hosts::new(count), watch, errors: vec![None; count] });
        let unfit = AtomicU32::new(0);
        Self { name: name.to_owned(), attrs: policy.attrs, plain: policy.is_plain(), unfit, known }
    }

    /// Whether it has one host, which may be anything.
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.plain
    }

    /// Whether a server that is promoted isn't what is wanted any more.
    #[must_use]
    pub const fn wants_standbys(&self) -> bool {
        self.attrs.is_for_standbys()
    }

    /// When a login may be begun after one that failed; `None`: each host has to be asked, since there is only one.
    #[must_use]
    pub fn next_attempt(&self, now: Instant, policy: &Policy) -> Option<Instant> {
        let wanted = *policy.passes().last()?;
        if self.plain {
            return None;
        }
        let known = self.known.lock();
        let barred = policy.barred(wanted, &known.watch);
        Some(known.hosts.next_attempt(wanted, now, |at| has(barred, at)))
    }

    /// Whether a connection to this host is to be closed when it comes free.
    #[inline]
    #[must_use]
    pub fn is_unfit(&self, host: u8) -> bool {
        let unfit = self.unfit.load(Ordering::Relaxed);
        unfit != 0 && has(unfit, host.into())
    }

    /// Whether an idle connection to this host is to be closed.
    #[must_use]
    pub fn is_no_good(&self, host: u8) -> bool {
        let Verdict { unfit, dead, .. } = self.known.lock().watch.verdict();
        has(unfit | dead, host.into())
    }

    /// To which hosts a health check has to log in anew, where each is logged in to at least every `longest`.
    #[must_use]
    pub fn doubtful(&self, longest: Duration) -> Vec<bool> {
        self.known.lock().hosts.doubtful(world::now(), longest)
    }

    /// Takes notice of what was found out about the hosts in a health check begun at `began`. Says whether it changes
    /// which of them can be used.
    pub fn checked(&self, policy: &Policy, findings: &[Finding], began: Instant) -> bool {
        let now = world::now();
        let mut known = self.known.lock();
        let (before, resting, had_begun) = (known.watch.verdict(), known.hosts.resting(), known.watch.has_begun());
        for (at, Finding { answer, door, error }) in findings.iter().enumerate() {
            let role = match answer {
                Answer::Said { said, .. } => Some(known.hosts.role(at, said.standby)),
                Answer::Failed | Answer::Refused => None,
            };
            let news = known.hosts.checked(at, (role, *door), (began, now), policy.longest_rest, world::rng().random());
            if *door != Door::Untried {
                known.errors[at].clone_from(error);
            }
            self.tell(&news, &policy.hosts[at], error.as_deref());
        }
        let answers: Vec<Answer> = findings.iter().map(|finding| finding.answer).collect();
        let Known { hosts, watch, .. } = &mut *known;
        let splits = watch.answered(&answers, policy.attrs, policy.max_lag, hosts);
        let verdict = watch.verdict();
        self.unfit.store(verdict.unfit, Ordering::Relaxed);
        let changed = before != verdict || resting != hosts.resting() || !had_begun;
        drop(known);
        splits.iter().for_each(|split| self.tell_of_split(policy, split));
        changed
    }

    /// Hosts aren't asked for the time being, or, where that is `off`, ever: nothing follows from what they said then.
    pub fn unwatched(&self, policy: &Policy, off: bool) {
        let mut known = self.known.lock();
        let limited = !policy.max_lag.is_zero();
        if off {
            known.watch = Watch::new(policy.hosts.len(), limited);
            self.unfit.store(0, Ordering::Relaxed);
        } else {
            known.watch.pause(limited);
        }
    }

    /// What was seen of timelines doesn't count any more: an operator knows better.
    pub fn forget_timelines(&self) {
        self.known.lock().watch.forget();
    }

    fn tell(&self, news: &[News], host: &Target, error: Option<&impl ToString>) {
        let database = &self.name;
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

    fn tell_of_split(&self, policy: &Policy, split: &Split) {
        let names =
            |hosts: &[usize]| hosts.iter().map(|at| policy.hosts[*at].to_string()).collect::<Vec<_>>().join(", ");
        let database = &self.name;
        match split {
            Split::Torn(primary, others) => {
                let (primary, others) = (&policy.hosts[*primary], names(others));
                error!(%database, "more than one primary: {primary} and {others}; {primary} is used, being on the latest timeline, \
                    or, where they are on the same or belong to different clusters, the one that was");
            }
            Split::Stale(hosts) => {
                let hosts = names(hosts);
                error!(%database, "{hosts} says that it is the primary, but another was, on a later timeline or of another \
                    cluster: it is not used for writing until that one is back, or RECONNECT on the console");
            }
            Split::Astray(hosts) => {
                let hosts = names(hosts);
                warn!(%database, "{hosts} is a standby that does not follow the primary: it is not used");
            }
            Split::Back(hosts) => info!(%database, "{} follows the primary", names(hosts)),
            Split::Healed => info!(%database, "no more than one host says that it is the primary"),
        }
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
        let passes = policy.passes();
        for (pass, attrs) in passes.iter().enumerate() {
            login.attrs = *attrs;
            for at in self.order(policy, *attrs, pass + 1 == passes.len(), &tried) {
                login.target = policy.hosts[at].clone();
                login.host = u8::try_from(at).unwrap_or(u8::MAX);
                match self.try_one(at, &login, policy, settings).await {
                    Ok(logged_in) => {
                        self.settle(at, policy);
                        return Ok(logged_in);
                    }
                    Err(error) => tried[at] = Some(error),
                }
            }
        }
        Err(self.failure(tried, policy))
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
            order = known.hosts.by_readiness(attrs);
        }
        let barred = policy.barred(attrs, &known.watch);
        order.retain(|at| !has(barred, *at));
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
    fn failure(&self, tried: Vec<Option<Arc<LoginError>>>, policy: &Policy) -> LoginError {
        let known = self.known.lock();
        let barred = |at: usize| known.why_barred(at, policy).map(Arc::new);
        let each = tried.into_iter().enumerate();
        let reason = |(at, now): (usize, Option<_>)| now.or_else(|| barred(at)).or_else(|| known.errors[at].clone());
        LoginError::Hosts(each.filter_map(reason).collect())
    }

    /// Each host.
    #[must_use]
    pub fn hosts(&self, policy: &Policy) -> Vec<HostState> {
        let known = self.known.lock();
        let wanted = policy.attrs.passes().first().copied().unwrap_or_default();
        let verdict = known.watch.verdict();
        let host = |(at, target): (usize, &Target)| HostState {
            target: target.clone(),
            health: known.hosts.list()[at],
            unwanted: known.hosts.list()[at].is_unwanted(wanted),
            deposed: has(verdict.deposed, at),
            astray: has(verdict.astray, at),
            lagging: has(verdict.lagging, at) && known.watch.has_begun(),
            checked: known.watch.hosts()[at],
            last_error: known.errors[at].clone(),
        };
        policy.hosts.iter().enumerate().map(host).collect()
    }

    /// How often logins have gone to another host since the one before couldn't be used any more.
    #[must_use]
    pub fn failovers(&self) -> u64 {
        self.known.lock().hosts.failovers()
    }
}

#[cfg(test)]
mod tests;
