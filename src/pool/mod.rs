//! Layer 6: the servers of one database, lent to clients.
//!
//! [`queue`] decides, this module acts on it: logs servers in, resets and closes them. A client holds a
//! [`Lease`]; dropping it, in whatever state, gives the server back, tidied up or closed. Every slot that the
//! queue counts is owned by exactly one of: an idle server, a lease, a background task of this module.

mod background;
mod books;
pub mod budget;
pub mod cede;
pub mod control;
mod demand;
pub mod diagnosis;
pub mod directory;
mod kept;
pub mod line;
pub mod listening;
pub mod lookup;
pub mod pins;
pub mod place;
pub mod queue;
pub mod quota;
pub mod sharing;
pub mod spec;
pub mod start;
pub mod starvation;
pub mod transfer;
mod watch;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;

use crate::auth::ServerCredentials;
use crate::cluster::{Cluster, HostState};
use crate::config::ShareBy;
use crate::error::{ClientError, SqlState};
use crate::names::{ClientId, DatabaseName, ServerId, UserName};
use crate::net::stream::IdleState;
use crate::net::world;
use crate::protocol::request::Tables;
use crate::protocol::settings::Settings;
use crate::server::connect::LoginError;
use crate::server::timing::Timing;
use crate::server::{Holder, Server, ServerShared};
use crate::stats::Totals;
use crate::stats::histogram::Durations;
use crate::stats::tally::Happenings;
use books::Books;
use cede::Kept;
use control::Control;
use place::{Giver, Place, Recycled, Spare};
use queue::{Counts, Loan, Plan, Queue, Released, UserIndex, Waiter};
use quota::Quotas;
use sharing::Asker;
use spec::Spec;
use start::Start;

/// What a client gets for waiting.
pub type Grant = Result<Lease, ClientError>;

thread_local! {
    static SPARE: RefCell<Spare<Grant>> = const { Spare::new() };
}

impl Recycled for Grant {
    fn with_spare<R>(f: impl FnOnce(&mut Spare<Self>) -> R) -> Option<R> {
        SPARE.try_with(|spare| spare.try_borrow_mut().ok().map(|mut spare| f(&mut spare))).ok().flatten()
    }
}

/// One who stands in the queue.
#[derive(Debug)]
pub struct Ticket {
    client: ClientId,
    since: Instant,
    grant: Giver<Grant>,
}

impl Waiter for Ticket {
    fn is_waiting(&self) -> bool {
        !self.grant.is_left()
    }
}

/// A server and the pool that it belongs to. In this order in memory, where the server begins with what each transaction touches.
#[derive(Debug)]
#[repr(C)]
pub struct Pooled {
    /// Since when it is on loan, if it is.
    lent: Instant,
    /// To which group, where groups share the servers.
    loan: Option<Loan>,
    /// How long the client waited for it, microseconds.
    waited: u32,
    pool: Arc<Pool>,
    user: Arc<PoolUser>,
    /// The connection.
    pub server: Server,
}

/// A server on loan.
#[derive(Debug)]
pub struct Lease(Option<Box<Pooled>>);

impl Lease {
    fn new(mut pooled: Box<Pooled>, client: ClientId, since: Instant) -> Self {
        pooled.lent = since;
        pooled.server.timing = Timing::default();
        pooled.waited = 0;
        *pooled.server.shared.holder.lock() = Some(Holder { client, since, statement: None });
        Self(Some(pooled))
    }

    /// Notes how long the client waited for it.
    fn after(mut self, waited: Duration) -> Self {
        if let Some(pooled) = &mut self.0 {
            pooled.waited = u32::try_from(waited.as_micros()).unwrap_or(u32::MAX);
        }
        self
    }

    /// The server. A lease has one from its making to its drop.
    pub fn server(&mut self) -> Option<&mut Server> {
        self.0.as_mut().map(|pooled| &mut pooled.server)
    }

    /// Since when it is on loan.
    #[must_use]
    pub fn since(&self) -> Option<Instant> {
        self.0.as_ref().map(|pooled| pooled.lent)
    }

    /// Gives the server back at `now`. As dropping, without a look at the clock.
    pub fn give_back(mut self, now: Instant) {
        if let Some(pooled) = self.0.take() {
            Pool::take_back(pooled, now);
        }
    }

    /// Has a new server come in the place of this one, for the same client.
    #[must_use]
    pub fn renew(mut self, client: ClientId) -> Place<Grant> {
        let (grant, granted) = place::place();
        if let Some(pooled) = self.0.take() {
            background::renew(pooled, client, grant);
        }
        granted
    }

    /// Closes the connection: it can't be trusted.
    pub fn close(mut self) {
        if let Some(pooled) = self.0.take() {
            let holder = pooled.server.shared.holder.lock().clone();
            if let Some(holder) = holder {
                pooled.note_demand(&holder, world::now());
            }
            background::close(pooled, background::Slot::Loan);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(pooled) = self.0.take() {
            Pool::take_back(pooled, world::now());
        }
    }
}

/// What servers tell of themselves at login.
#[derive(Debug)]
pub struct Welcome {
    /// Every reported parameter, in the server's order.
    pub parameters: Vec<(String, String)>,
    /// Those that follow clients.
    pub baseline: Arc<Settings>,
}

/// What a user's servers are for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Purpose {
    /// Clients.
    Clients,
    /// `auth_query` alone, see [`lookup`].
    Lookup,
    /// Questions about the pool's other servers, see [`diagnosis`].
    Diagnosis,
}

/// One user of a pool, as the server knows it.
#[derive(Debug)]
pub struct PoolUser {
    /// The role that servers are logged in as.
    pub name: UserName,
    index: UserIndex,
    purpose: Purpose,
    /// After a login that was refused for good: when another may be begun that nobody waits for.
    rests_until: Mutex<Option<Instant>>,
    /// What logs it in.
    pub credentials: Mutex<ServerCredentials>,
    /// What its servers said at their login, from the first one on.
    pub welcome: ArcSwapOption<Welcome>,
    /// What startup parameters, as clients spell them, come to.
    canonical: Mutex<Canonical>,
    start: ArcSwapOption<Start>,
}

/// What startup parameters come to.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The settings.
    pub settings: Arc<Settings>,
    /// What the server had to say about them, as whole messages.
    pub notices: Arc<[u8]>,
}

impl Judged {
    /// Settings that the server has nothing to say about.
    #[must_use]
    pub fn silently(settings: Arc<Settings>) -> Self {
        Self { settings, notices: Arc::default() }
    }
}

/// Startup parameters as given, and what they come to.
type Canonical = HashMap<Vec<(String, String)>, Judged, foldhash::fast::RandomState>;

/// The bound of [`PoolUser::canonical`].
const CANONICAL_LIMIT: usize = 1024;

#[derive(Debug, Default)]
struct Users {
    by_name: HashMap<UserName, Arc<PoolUser>>,
    /// Those that no client has.
    apart: HashMap<(Purpose, UserName), Arc<PoolUser>>,
    list: Vec<Arc<PoolUser>>,
}

/// Failed logins in a row, and when to try again.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
    until: Option<Instant>,
    last: Option<Arc<LoginError>>,
}

/// What of a [`Spec`] is looked at for each transaction.
#[derive(Debug)]
struct Hot {
    /// Microseconds; 0: off.
    check_delay: AtomicU64,
    reset_always: AtomicBool,
    max_packet_size: AtomicU32,
    /// Microseconds.
    tells_from: AtomicU64,
    /// A [`crate::config::ShareBy`].
    share_by: AtomicU8,
    /// Loans are recorded.
    records: AtomicBool,
}

impl Hot {
    fn new(spec: &Spec) -> Self {
        let hot = Self {
            check_delay: AtomicU64::new(0),
            reset_always: AtomicBool::new(false),
            max_packet_size: AtomicU32::new(0),
            tells_from: AtomicU64::new(u64::MAX),
            share_by: AtomicU8::new(0),
            records: AtomicBool::new(false),
        };
        hot.set(spec);
        hot
    }

    fn set(&self, spec: &Spec) {
        let check_delay = u64::try_from(spec.check_delay.as_micros()).unwrap_or(u64::MAX);
        self.check_delay.store(check_delay, Ordering::Relaxed);
        self.reset_always.store(spec.reset_always, Ordering::Relaxed);
        self.max_packet_size.store(spec.max_packet_size, Ordering::Relaxed);
        let tells_from = spec.tells_from.map_or(u64::MAX, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
        self.tells_from.store(tells_from, Ordering::Relaxed);
        self.share_by.store(spec.share_by as u8, Ordering::Relaxed);
        self.records.store(spec.records.is_some(), Ordering::Relaxed);
    }

    fn check_delay(&self) -> Duration {
        Duration::from_micros(self.check_delay.load(Ordering::Relaxed))
    }
}

type PoolQueue = Queue<Box<Pooled>, Ticket>;

/// The servers of one database.
#[derive(Debug)]
pub struct Pool {
    /// As clients call it.
    pub name: DatabaseName,
    /// What the configuration says.
    pub spec: ArcSwap<Spec>,
    hot: Hot,
    /// What its clients share.
    pub tables: Tables,
    queue: Mutex<PoolQueue>,
    /// The hosts of its servers.
    pub cluster: Cluster,
    users: Mutex<Users>,
    backoff: Mutex<Backoff>,
    books: Arc<Books>,
    demand: demand::Demand,
    control: Control,
    quotas: Arc<Quotas>,
    retired: AtomicBool,
    pins: pins::Budget,
    /// Who listens, by one connection for all.
    listening: listening::Shared,
    diagnosis: diagnosis::Shared,
    watch: watch::Shared,
    budget: budget::Shared,
}

/// What [`Pool::checkout`] gives.
#[derive(Debug)]
pub enum Checkout {
    /// A server at once.
    Now(Lease),
    /// A place in the queue.
    Wait(Place<Grant>),
}

impl Pool {
    /// A pool without servers.
    #[must_use]
    pub(super) fn new(name: DatabaseName, spec: Spec, quotas: &Arc<Quotas>) -> Arc<Self> {
        Self::with(name, spec, Arc::default(), Control::default(), quotas)
    }

    /// The pool that takes the place of this one, which is to be retired: what was counted goes on, and it is paused
    /// or disabled as this one is.
    #[must_use]
    pub fn successor(&self, spec: Spec) -> Arc<Self> {
        let next = Self::with(self.name.clone(), spec, Arc::clone(&self.books), self.control.inherit(), &self.quotas);
        let read = self.tables.sequences_read.load(Ordering::Relaxed);
        next.tables.sequences_read.fetch_or(read, Ordering::Relaxed);
        next.set_elsewhere(self.control.division.lock().elsewhere());
        next
    }

    fn with(
        name: DatabaseName,
        spec: Spec,
        books: Arc<Books>,
        mut control: Control,
        quotas: &Arc<Quotas>,
    ) -> Arc<Self> {
        let quotas = Arc::clone(quotas);
        let tables = Tables::default();
        tables.set_strict(spec.strict_session_state);
        tables.set_reuses_unnamed(spec.reuses_unnamed);
        let cluster = Cluster::new(name.as_str(), &spec.policy);
        if spec.budget.is_some() {
            control.share();
        }
        let mut queue = Queue::new(control.limits(&spec));
        queue.set_weights(&spec.share_weights);
        Arc::new(Self {
            listening: listening::Shared::new(name.as_str()),
            diagnosis: diagnosis::Shared::default(),
            watch: watch::Shared::default(),
            budget: budget::Shared::default(),
            name,
            tables,
            queue: Mutex::new(queue),
            cluster,
            pins: pins::Budget::new(spec.max_pinned),
            hot: Hot::new(&spec),
            demand: demand::Demand::new(spec.records),
            spec: ArcSwap::from_pointee(spec),
            users: Mutex::default(),
            backoff: Mutex::default(),
            books,
            control,
            quotas,
            retired: AtomicBool::new(false),
        })
    }

    /// The pool's user `name`, made on first use. Credentials and `share` (the user's own cap of servers) given
    /// here are the newest ones and replace what was known.
    pub fn user(&self, name: &UserName, credentials: ServerCredentials, share: Option<u32>) -> Arc<PoolUser> {
        let mut users = self.users.lock();
        if let Some(user) = users.by_name.get(name) {
            user.renew(credentials);
            self.queue.lock().set_user_limit(user.index, share);
            return Arc::clone(user);
        }
        let user = self.new_user(name, credentials, share, Purpose::Clients);
        users.by_name.insert(name.clone(), Arc::clone(&user));
        users.list.push(Arc::clone(&user));
        user
    }

    /// Whether a client has been there.
    fn has_clients(&self) -> bool {
        self.users.lock().list.iter().any(|user| user.purpose == Purpose::Clients)
    }

    /// The pool's user `name` for a server of another process; credentials that are known here are the newest ones.
    fn user_of_arrived(&self, name: &UserName, credentials: ServerCredentials, share: Option<u32>) -> Arc<PoolUser> {
        let known = self.users.lock().by_name.get(name).cloned();
        known.unwrap_or_else(|| self.user(name, credentials, share))
    }

    /// Whether somebody has logged in to servers as this user, or was to.
    #[must_use]
    pub fn knows(&self, name: &UserName) -> bool {
        self.users.lock().by_name.contains_key(name)
    }

    fn new_user(
        &self,
        name: &UserName,
        credentials: ServerCredentials,
        share: Option<u32>,
        purpose: Purpose,
    ) -> Arc<PoolUser> {
        // Lookups let users in whatever the role that does them has: it must never wait for itself.
        let quota = (purpose == Purpose::Clients).then(|| self.quotas.of(name));
        let mut queue = self.queue.lock();
        let index = queue.add_user(share, quota);
        queue.set_user_weight(index, self.spec.load().user_weight(name));
        if purpose == Purpose::Clients {
            queue.set_elsewhere(index, self.control.elsewhere_of(name));
        }
        drop(queue);
        Arc::new(PoolUser {
            name: name.clone(),
            index,
            purpose,
            rests_until: Mutex::default(),
            credentials: Mutex::new(credentials),
            welcome: ArcSwapOption::empty(),
            canonical: Mutex::default(),
            start: ArcSwapOption::empty(),
        })
    }

    /// Lends a server: an idle one if there is one and nobody waits, else a place in the queue. One that has the
    /// asker's settings already is preferred: on another they'd have to be set first.
    pub fn checkout(self: &Arc<Self>, user: &PoolUser, asker: &Asker<'_>, now: Instant) -> Checkout {
        let client = asker.client;
        let name = self.group_name(asker);
        loop {
            let mut queue = self.queue.lock();
            let taken = self.take_idle(&mut queue, user.index, asker.state, now);
            let group = name.map(|name| queue.group(user.index, name));
            let Some((mut pooled, since, grows)) = taken else {
                let (grant, granted) = place::place();
                let ticket = Ticket { client, since: now, grant };
                match client {
                    ClientId::LISTENER => queue.wait_in_front(user.index, ticket, now),
                    _ => queue.wait(user.index, group, ticket, now),
                }
                let may_plan = queue.may_plan();
                drop(queue);
                if may_plan {
                    self.pump();
                }
                self.keep_budget();
                return Checkout::Wait(granted);
            };
            pooled.loan = group.and_then(|group| queue.lend(user.index, group, now));
            drop(queue);
            if grows {
                background::login(self, user.index);
            }
            let check_delay = self.hot.check_delay();
            if pooled.server.stream.idle_state() == IdleState::Disturbed {
                background::close(pooled, background::Slot::Loan);
            } else if !check_delay.is_zero() && now.duration_since(since) > check_delay {
                background::check(pooled);
            } else {
                return Checkout::Now(Lease::new(pooled, client, now));
            }
        }
    }

    /// A lease has ended.
    fn take_back(pooled: Box<Pooled>, now: Instant) {
        let holder = pooled.server.shared.holder.lock().take();
        if let Some(holder) = holder {
            pooled.note_demand(&holder, now);
        }
        let server = &pooled.server;
        // Those of a retired pool are outdated.
        let worn_out = server.expires.is_some_and(|at| at <= now)
            || pooled.pool.is_outdated(&server.shared)
            || pooled.pool.cluster.is_unfit(server.shared.host)
            || (server.state.promoted && pooled.pool.cluster.wants_standbys());
        // Who cancels marks a doomed server before it takes its count back, so in this order nothing is missed.
        let awaits_cancel = server.shared.cancels.load(Ordering::Acquire) > 0;
        if awaits_cancel || server.shared.doomed.load(Ordering::Acquire) {
            background::tidy(pooled);
        } else if server.is_clean() && !worn_out && !pooled.pool.hot.reset_always.load(Ordering::Relaxed) {
            Self::offer(pooled, now, false);
        } else if server.is_at_boundary() && server.state.pipeline.is_answered() && !worn_out {
            background::tidy(pooled);
        } else {
            background::close(pooled, background::Slot::Loan);
        }
    }

    /// Hands a clean server to whoever is next.
    fn offer(mut pooled: Box<Pooled>, now: Instant, login: bool) {
        let pool = Arc::clone(&pooled.pool);
        let mut queue = pool.queue.lock();
        let index = pooled.user.index;
        if let Some(loan) = pooled.loan.take() {
            queue.take_back(index, loan, now);
        }
        match queue.release(index, pooled, now, login) {
            Released::Handed(ticket, mut pooled, loan) => {
                drop(queue);
                pooled.loan = loan;
                // Should the client have gone meanwhile, the lease comes back and is dropped, and so offered again.
                let waited = now.saturating_duration_since(ticket.since);
                drop(ticket.grant.give(Ok(Lease::new(pooled, ticket.client, now).after(waited))));
            }
            Released::Kept => {
                let others_wait = queue.has_waiting();
                drop(queue);
                if others_wait {
                    pool.pump();
                }
            }
            Released::Surplus(pooled) => {
                drop(queue);
                transfer::part(pooled);
            }
        }
    }

    /// Begins what the queue says is to be done.
    pub fn pump(self: &Arc<Self>) {
        loop {
            let may_login = self.may_login(world::now());
            let plan = self.queue.lock().plan(may_login);
            match plan {
                None => return,
                Some(Plan::Login(index)) => background::login(self, index),
                Some(Plan::Close(_, pooled)) => background::close(pooled, background::Slot::Closing),
            }
        }
    }

    fn may_login(&self, now: Instant) -> bool {
        let waiting_out = self.backoff.lock().until.is_some_and(|until| until > now);
        !waiting_out && !self.retired.load(Ordering::Relaxed) && self.may_login_by_budget(now)
    }

    /// What is to be done from time to time: those who have waited too long are told, with what `holders` says of those
    /// who have the servers; see also [`Pool::sweep`].
    pub fn tick(self: &Arc<Self>, now: Instant, holders: impl FnOnce() -> String) {
        let wait_timeout = self.spec.load().wait_timeout;
        let deadline = now.checked_sub(wait_timeout).filter(|_| !wait_timeout.is_zero());
        let overdue = deadline.map(|deadline| self.queue.lock().take_overdue(deadline)).unwrap_or_default();
        if !overdue.is_empty() {
            let error = self.wait_timeout_error(wait_timeout, now, holders);
            for ticket in overdue {
                drop(ticket.grant.give(Err(error.clone())));
            }
        }
        self.sweep(now);
    }

    /// Idle servers past their time are closed, the minimum is kept, logins are tried again.
    fn sweep(self: &Arc<Self>, now: Instant) {
        let spec = self.spec.load_full();
        // What is outdated became idle at the moment that it was outdated, and goes whatever the minimum.
        let outdated = |pooled: &Pooled, _: Instant| self.is_outdated(&pooled.server.shared);
        let mut expired = self.queue.lock().take_expired(0, |pooled, since| outdated(pooled, since));
        let over = |pooled: &Pooled, since: Instant| {
            let idle = !spec.idle_timeout.is_zero() && now.duration_since(since) > spec.idle_timeout;
            idle || pooled.server.expires.is_some_and(|at| at <= now)
        };
        expired.extend(self.queue.lock().take_expired(spec.min_size, |pooled, since| over(pooled, since)));
        for (_, pooled) in expired {
            background::close(pooled, background::Slot::Closing);
        }
        self.stretch(&spec, now);
        if self.control.is_shared() && (spec.min_size > 0 || self.queue.lock().has_waiting()) {
            self.keep_budget();
        }
        self.keep_minimum(spec.min_size, now);
        self.keep_diagnosing(now);
        self.keep_watching();
        self.pump();
    }

    /// Closes the server of a user that has been idle for longest, if one is idle: another pool needs its place.
    fn make_room(self: &Arc<Self>, user: &UserName) -> bool {
        let Some(user) = self.users.lock().by_name.get(user).cloned() else { return false };
        let oldest = self.queue.lock().take_oldest(user.index);
        oldest.map(|pooled| background::close(pooled, background::Slot::Closing)).is_some()
    }

    fn keep_minimum(self: &Arc<Self>, min_size: u32, now: Instant) {
        let Some(user) = self.users.lock().list.iter().find(|user| user.purpose == Purpose::Clients).cloned() else {
            return;
        };
        if user.rests_until.lock().is_some_and(|until| until > now) {
            return;
        }
        while self.may_login(now) {
            let mut queue = self.queue.lock();
            if queue.slots() >= min_size || !queue.spare_login(user.index) {
                return;
            }
            drop(queue);
            background::login(self, user.index);
        }
    }

    fn wait_timeout_error(&self, waited: Duration, now: Instant, holders: impl FnOnce() -> String) -> ClientError {
        let error =
            ClientError::fatal(SqlState::TOO_MANY_CONNECTIONS, "query_wait_timeout").hint(match self.is_paused() {
                true => "RESUME on the console ends the pause; see query_wait_timeout.",
                false if self.spec.load().share_by == ShareBy::None => "See query_wait_timeout and pool_size.",
                false => "See query_wait_timeout, pool_size, share_by and share_weights; SHOW SHARES on the console.",
            });
        let waited = format!("No server connection of database \"{}\" came free within {waited:?}.", self.name);
        error.detail(format!("{waited} {}", self.why_waiting(now, holders)))
    }

    /// Who holds the servers, as `holders` says, or why there are none: sentences.
    fn why_waiting(&self, now: Instant, holders: impl FnOnce() -> String) -> String {
        if let Some(paused) = self.paused_for(now) {
            let seconds = paused.as_secs_f64();
            return format!("It has been paused for {seconds:.1} s, by PAUSE or KILL on the console, until RESUME.");
        }
        let nobody = || self.servers().iter().all(|server| server.holder.lock().is_none());
        if let Some(error) = self.backoff.lock().last.as_ref().filter(|_| nobody()) {
            return format!("The last login failed: {error}.");
        }
        format!("{}{}{}{}", holders(), self.why_pinned(), self.why_limited(), self.why_budgeted())
    }

    /// A sentence about users who have all that they may have of all pools; empty for none.
    fn why_limited(&self) -> String {
        let limited = self.counts().into_iter().filter(|(name, _)| !self.quotas.of(name).has_room());
        let names: Vec<_> = limited.map(|(name, _)| format!("\"{name}\"")).collect();
        match names.is_empty() {
            true => String::new(),
            false => format!(" All of max_user_connections are in use, over all databases, of: {}.", names.join(", ")),
        }
    }

    /// Ends the pool: nothing is lent any more, servers close as they come back.
    pub fn retire(self: &Arc<Self>) {
        self.retired.store(true, Ordering::Relaxed);
        self.end();
        self.set_elsewhere(Kept::default());
        let users = self.users.lock().list.clone();
        let waiting: Vec<_> = users.iter().flat_map(|u| self.queue.lock().take_waiting(u.index)).collect();
        // They find out that their ticket is void and look for the pool that has taken over, if any.
        drop(waiting);
        self.stop_listening();
        self.diagnosis.look();
        self.watch.look();
        self.budget.look();
        self.sweep(world::now());
    }

    /// Whether [`Pool::retire`] was called.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Takes over a changed configuration.
    pub fn reconfigure(self: &Arc<Self>, spec: Spec) {
        self.pins.resize(self.spec.load().max_pinned, spec.max_pinned);
        self.tables.set_strict(spec.strict_session_state);
        self.tables.set_reuses_unnamed(spec.reuses_unnamed);
        self.hot.set(&spec);
        self.demand.set(spec.records);
        // Users that come meanwhile have their weight by the one or the other.
        let users = self.users.lock();
        let mut queue = self.queue.lock();
        queue.set_limits(self.control.limits(&spec));
        queue.set_weights(&spec.share_weights);
        users.list.iter().for_each(|user| queue.set_user_weight(user.index, spec.user_weight(&user.name)));
        self.spec.store(Arc::new(spec));
        drop((queue, users));
        self.listening.look();
        self.diagnosis.look();
        self.watch.look();
        self.pump();
    }

    /// Slots taken: servers and logins.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.queue.lock().slots()
    }

    /// Its users with their counts, for SHOW POOLS.
    #[must_use]
    pub fn counts(&self) -> Vec<(UserName, Counts)> {
        let users = self.users.lock().list.clone();
        let queue = self.queue.lock();
        let mut sums: BTreeMap<UserName, Counts> = BTreeMap::new();
        // One who runs auth_query may be a client's user as well.
        users.iter().for_each(|u| sums.entry(u.name.clone()).or_default().add(queue.counts(u.index)));
        sums.into_iter().collect()
    }

    /// When it starved.
    #[must_use]
    pub fn starvation(&self) -> &starvation::Spells {
        &self.books.starvation
    }

    /// Its servers, for SHOW SERVERS; those of a pool whose place it has taken included.
    #[must_use]
    pub fn servers(&self) -> Vec<Arc<ServerShared>> {
        self.books.servers()
    }

    /// Its idle servers, and since when they are.
    #[must_use]
    pub fn idle_servers(&self) -> HashMap<ServerId, Instant> {
        self.queue.lock().idle().map(|(pooled, since)| (pooled.server.shared.id, since)).collect()
    }

    /// Counts a client that has logged in.
    pub fn count_client_login(&self) {
        self.books.count_client_login();
    }

    /// Its statistics since the start, those of pools whose place it has taken included.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.books.totals()
    }

    /// How long a transaction has to take for something to be told of it, microseconds.
    #[must_use]
    pub fn tells_from(&self) -> u64 {
        self.hot.tells_from.load(Ordering::Relaxed)
    }

    /// How long things took since the start.
    #[must_use]
    pub fn durations(&self) -> Durations {
        self.books.durations()
    }

    /// `max_packet_size`, bytes.
    #[must_use]
    pub fn max_packet_size(&self) -> usize {
        self.hot.max_packet_size.load(Ordering::Relaxed) as usize
    }

    /// Its rare events, those of pools whose place it has taken included.
    #[must_use]
    pub fn happenings(&self) -> &Happenings {
        &self.books.happenings
    }

    /// Its hosts. Of one that is the only one, and may be anything, no more is known than of the pool.
    #[must_use]
    pub fn hosts(&self) -> Vec<HostState> {
        let mut hosts = self.cluster.hosts(&self.spec.load().policy);
        let logins = self.totals().server_logins;
        if let ([host], true) = (&mut hosts[..], self.cluster.is_plain()) {
            let backoff = self.backoff.lock();
            host.health.failures = backoff.failures;
            host.health.rests_until = backoff.until;
            host.last_error.clone_from(&backoff.last);
            host.health.logins = logins;
        }
        hosts
    }

    /// The last failed login, if none has succeeded since.
    #[must_use]
    pub fn login_failure(&self) -> Option<Arc<LoginError>> {
        self.backoff.lock().last.clone()
    }
}

impl PoolUser {
    /// Takes over newer credentials; what was derived from the same password is kept.
    fn renew(&self, mut credentials: ServerCredentials) {
        let mut known = self.credentials.lock();
        if let (
            ServerCredentials::Password { password: old, keys: Some(derived) },
            ServerCredentials::Password { password: new, keys: keys @ None },
        ) = (&*known, &mut credentials)
        {
            if old.expose() == new.expose() {
                *keys = Some(derived.clone());
            }
        }
        *known = credentials;
    }

    /// What startup parameters come to on this user's servers, if that is known.
    #[must_use]
    pub fn canonical(&self, parameters: &[(String, String)]) -> Option<Judged> {
        if parameters.is_empty() {
            return self.welcome.load().as_ref().map(|w| Judged::silently(Arc::clone(&w.baseline)));
        }
        self.canonical.lock().get(parameters).cloned()
    }

    /// Notes what startup parameters come to.
    pub fn learn_canonical(&self, parameters: Vec<(String, String)>, judged: Judged) {
        let mut known = self.canonical.lock();
        if known.len() >= CANONICAL_LIMIT {
            known.clear();
        }
        known.insert(parameters, judged);
    }
}
