//! One budget of server connections for several Carpools: what each may have of it is agreed on in a table of the database itself, so that
//! PostgreSQL is who decides, and who knows which sessions there are.
//!
//! A task per pool, with one connection beside the budget, reads and writes the ledger several times a second. [`member`] decides, what it
//! says becomes a bound of the pool's size (`Control::allowance`), and logins ask [`Shared::guard`], so nothing on the way of a query knows
//! of budgets. The task runs from the first client that waits until the pool has been of no use for [`UNUSED`].

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod ledger;
pub mod member;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rand::RngExt;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::queue::Queue;
use super::spec::Spec;
use super::{Pool, Pooled, Ticket, background};
use crate::auth::{Proven, ServerCredentials, StoredSecret};
use crate::config::Secret;
use crate::names::UserName;
use crate::net::{timer, world};
use crate::protocol::settings::SettingsTable;
use crate::server::ask::Row;
use crate::server::connect::{LoggedIn, Login, LoginError};
use crate::server::{QueryError, Server};
use ledger::{Backend, Ledger, MemberId};
use member::{Local, Member, Round, Seen, Step};

/// Its `application_name`.
const NAME: &str = "carpool budget";
/// How often the ledger is looked at where others may want something of this pool, or it of them.
const PERIOD: Duration = Duration::from_millis(250);
/// How often where this pool has nothing and wants nothing.
const IDLE_PERIOD: Duration = Duration::from_secs(1);
/// The shortest pause after something has changed.
const SHORTEST: Duration = Duration::from_millis(10);
/// And after nothing has, or the ledger couldn't be read.
const RETRY: Duration = Duration::from_millis(100);
/// How far back the demand is looked at: it changes from moment to moment.
const RECENT: Duration = Duration::from_secs(2);
/// For how long a pool has had no server and no client that waits when the task ends.
const UNUSED: Duration = Duration::from_secs(60);
/// How often a change is tried again at once, when others were first.
const TRIES: usize = 8;

/// What a pool needs to know of its budget.
#[derive(Clone, PartialEq, Debug)]
pub struct Terms {
    /// `shared_pool_size`.
    pub size: u32,
    /// Who reads and writes the ledger.
    pub user: UserName,
    /// With what.
    pub password: Option<Secret>,
}

impl Terms {
    /// Whether it isn't the same budget, or isn't asked for in the same way; its size may change.
    #[must_use]
    pub fn are_others(one: Option<&Self>, other: Option<&Self>) -> bool {
        let of = |terms: Option<&Self>| terms.map(|terms| (terms.user.clone(), terms.password.clone()));
        of(one) != of(other)
    }
}

const READ: &str = "SELECT b.version, b.state, \
     (date_part('epoch', pg_catalog.clock_timestamp()) * 1000000)::pg_catalog.int8, \
     (SELECT s.setting FROM pg_catalog.pg_settings s WHERE s.name = 'authentication_timeout'), \
     pg_catalog.pg_backend_pid(), \
     (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(a.pid, \
     coalesce((date_part('epoch', a.backend_start) * 1000000)::pg_catalog.int8, 0))) \
     FROM pg_catalog.pg_stat_activity a WHERE a.datname = pg_catalog.current_database() \
     AND coalesce(a.backend_type, 'client backend') = 'client backend'), \
     pg_catalog.pg_is_in_recovery() \
     FROM public.carpool_budget b WHERE b.name = $1";
const WRITE: &str = "UPDATE public.carpool_budget SET version = version + 1, state = $3 \
     WHERE name = $1 AND version = $2::pg_catalog.int8 RETURNING 1";
/// Versions begin with the time, so that none comes twice though the row be deleted.
const BEGIN: &str = "INSERT INTO public.carpool_budget (name, version, state) \
     VALUES ($1, (date_part('epoch', pg_catalog.clock_timestamp()) * 1000000)::pg_catalog.int8, '{\"members\":[]}') \
     ON CONFLICT (name) DO NOTHING";
/// What an operator may do in place of Carpool.
const CREATE: &str = "CREATE TABLE IF NOT EXISTS public.carpool_budget \
     (name text PRIMARY KEY, version bigint NOT NULL, state text NOT NULL)";
/// Whether the table is one that nobody else can have put there: what belongs to another role could run code of that role's as this one.
const VET: &str = "SELECT c.relkind = 'r' AND (r.rolsuper OR r.rolname = current_user), r.rolname FROM pg_catalog.pg_class c \
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_roles r ON r.oid = c.relowner \
     WHERE n.nspname = 'public' AND c.relname = 'carpool_budget'";
const END: &str = "SELECT count(pg_catalog.pg_terminate_backend(a.pid)) FROM pg_catalog.pg_stat_activity a \
     JOIN ROWS FROM (pg_catalog.unnest($1::pg_catalog.int4[]), pg_catalog.unnest($2::pg_catalog.int8[])) AS e(pid, began) \
     ON e.pid = a.pid AND e.began = (date_part('epoch', a.backend_start) * 1000000)::pg_catalog.int8 \
     WHERE a.datname = pg_catalog.current_database()";

/// Of a pool.
#[derive(Debug, Default)]
pub(super) struct Shared {
    is_running: AtomicBool,
    changed: Notify,
    /// Until when logins may begin.
    lease: Mutex<Option<Instant>>,
    /// Another number each time that the pool takes part anew: what began before doesn't count any more.
    incarnation: AtomicU64,
    /// Logins that failed without PostgreSQL having said so, and servers that didn't hang up.
    unsure: AtomicU32,
    /// Slots that have come free. Changed with the queue locked.
    freed: AtomicU64,
    /// Looks at the ledger that have ended well.
    looks: watch::Sender<u64>,
    view: ArcSwapOption<View>,
}

/// What is known of the budget, for SHOW BUDGET and errors.
#[derive(Debug)]
pub struct View {
    /// When it was read last.
    pub at: Instant,
    /// Why it couldn't be since.
    pub error: Option<String>,
    /// Its size.
    pub size: u32,
    /// Those who take part.
    pub members: Vec<Part>,
}

/// One who takes part.
#[derive(Clone, Debug)]
pub struct Part {
    /// Where it runs.
    pub name: String,
    /// Its number.
    pub id: String,
    /// It is this process.
    pub own: bool,
    /// `active`; `silent`: it hasn't written for long; `given up`: it has no part any more, and its servers are being ended.
    pub state: &'static str,
    /// How many servers it could use.
    pub want: u32,
    /// How many it may have.
    pub held: u32,
    /// How many PostgreSQL has of it.
    pub servers: u32,
}

impl Shared {
    /// Has the task look at once.
    pub(super) fn look(&self) {
        self.changed.notify_one();
    }

    /// Of one connection it isn't known whether PostgreSQL still has it.
    pub(super) fn note_unsure(&self) {
        self.unsure.fetch_add(1, Ordering::AcqRel);
    }

    fn has_lease(&self, now: Instant) -> bool {
        self.lease.lock().is_some_and(|until| until > now)
    }

    /// Lets a login go on for as long as this process may log in.
    pub(super) async fn guard(
        &self,
        login: impl Future<Output = Result<LoggedIn, LoginError>>,
    ) -> Result<LoggedIn, LoginError> {
        let incarnation = self.incarnation.load(Ordering::Acquire);
        if !self.has_lease(world::now()) {
            return Err(LoginError::Budget);
        }
        let result = tokio::select! {
            biased;
            () = self.lapses() => Err(LoginError::Budget),
            result = login => result,
        };
        if result.as_ref().is_err_and(|error| !error.is_the_servers()) {
            self.note_unsure();
        }
        match self.incarnation.load(Ordering::Acquire) == incarnation {
            true => result,
            false => Err(LoginError::Budget),
        }
    }

    async fn lapses(&self) {
        loop {
            let now = world::now();
            let Some(until) = self.lease.lock().filter(|until| *until > now) else { return };
            timer::sleep(until - now).await;
        }
    }
}

/// The task is running as long as this is there. It keeps the pool: as long as the ledger says that it has something, somebody has
/// to look after that.
struct Running(Arc<Pool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.budget.is_running.store(false, Ordering::Release);
    }
}

impl Pool {
    /// Whether what is agreed on with others lets a login begin.
    pub(super) fn may_login_by_budget(&self, now: Instant) -> bool {
        !self.control.is_shared() || self.budget.has_lease(now)
    }

    /// What is known of its budget; `None`: it has none, or nobody has asked for it.
    #[must_use]
    pub fn budget(&self) -> Option<Arc<View>> {
        self.budget.view.load_full()
    }

    /// Whether the ledger may say that it has something.
    #[must_use]
    pub fn is_in_ledger(&self) -> bool {
        self.budget.is_running.load(Ordering::Acquire)
    }

    /// Somebody waits, or nobody may have seen what others want.
    pub(super) fn keep_budget(self: &Arc<Self>) {
        if !self.control.is_shared() {
            return;
        }
        if self.budget.is_running.swap(true, Ordering::AcqRel) {
            return self.budget.look();
        }
        world::spawn(run(Running(Arc::clone(self))));
    }

    /// Why those who wait for a server may not get one: a sentence; empty without a budget.
    pub(super) fn why_budgeted(&self) -> String {
        let Some(view) = self.budget() else { return String::new() };
        if let Some(error) = &view.error {
            return format!(" The budget that several Carpools share (shared_pool_size) can't be asked for: {error}.");
        }
        let (own, others): (Vec<_>, Vec<_>) = view.members.iter().partition(|part| part.own);
        let held: u32 = own.iter().map(|part| part.held).sum();
        let others: Vec<_> = others.iter().map(|part| format!("{} {}", part.name, part.held)).collect();
        let others = if others.is_empty() { String::new() } else { format!(", others: {}", others.join(", ")) };
        format!(
            " Of the {} server connections that several Carpools share (shared_pool_size) it has {held}{others}.",
            view.size
        )
    }

    /// A slot has come free: it isn't used again before a look at the ledger, where its server may be written down.
    pub(super) fn spend(&self, queue: &mut Queue<Box<Pooled>, Ticket>) {
        if self.control.is_shared() {
            self.budget.freed.fetch_add(1, Ordering::Relaxed);
            self.control.set_allowance(self.control.allowance().min(queue.slots()));
            queue.set_limits(self.control.limits(&self.spec.load()));
            self.budget.look();
        }
    }

    /// Waits for a look at the ledger that begins from now on: a server has ended whose slot is to be used again.
    pub(super) async fn strike_out(&self) -> Result<(), LoginError> {
        if !self.control.is_shared() {
            return Ok(());
        }
        let mut looks = self.budget.looks.subscribe();
        // One may be under way.
        let enough = looks.borrow().wrapping_add(2);
        let looked = async {
            while *looks.borrow_and_update() < enough {
                self.budget.look();
                if looks.changed().await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            () = self.budget.lapses() => Err(LoginError::Budget),
            () = looked => Ok(()),
        }
    }

    /// What the pool has, and how many slots have come free before. It begins nothing beyond that until it is told what it may have.
    fn freeze(&self, spec: &Spec, peak: &mut Peak) -> (Local, u64) {
        let now = world::now();
        let mut queue = self.queue.lock();
        let (load, freed) = (queue.load(), self.budget.freed.load(Ordering::Relaxed));
        self.control.set_allowance(self.control.allowance().min(load.slots));
        queue.set_limits(self.control.limits(spec));
        drop(queue);
        let least = if self.has_clients() { spec.min_size } else { 0 };
        let most = self.control.own_limits(spec).size;
        let need = load.need.max(least).min(most);
        // After the queue: one that closes meanwhile has its slot, and isn't listed.
        let servers = self.servers().iter().map(|server| server.key.pid).collect();
        let unsure = self.budget.unsure.swap(0, Ordering::AcqRel);
        let want = peak.of(need, now).min(most);
        (Local { slots: load.slots, logins: load.logins, need, want, servers, unsure }, freed)
    }

    /// Changes what it may have. What has come free since `freed` isn't written down as that.
    fn allow(self: &Arc<Self>, slots: u32, freed: u64) {
        let spec = self.spec.load();
        let mut queue = self.queue.lock();
        let as_seen = self.budget.freed.load(Ordering::Relaxed) == freed;
        self.control.set_allowance(if as_seen { slots } else { slots.min(queue.slots()) });
        queue.set_limits(self.control.limits(&spec));
        let over = queue.take_expired(0, |_, _| false);
        drop(queue);
        for (_, pooled) in over {
            background::close(pooled, background::Slot::Closing);
        }
        self.pump();
    }

    fn budget_login(&self, spec: &Spec, terms: &Terms) -> Login {
        let secret = terms.password.as_ref().map(StoredSecret::parse);
        let credentials = ServerCredentials::new(secret.as_ref(), &Proven::Nothing);
        let parameters = vec![("application_name".to_owned(), NAME.to_owned())];
        Login { timeout: spec.health_check.1, ..spec.login(terms.user.clone(), credentials, parameters) }
    }
}

/// The most that was needed of late.
#[derive(Debug, Default)]
struct Peak(VecDeque<(Instant, u32)>);

impl Peak {
    fn of(&mut self, need: u32, now: Instant) -> u32 {
        self.0.push_back((now, need));
        while self.0.front().is_some_and(|(at, _)| now.duration_since(*at) > RECENT) {
            self.0.pop_front();
        }
        self.0.iter().map(|(_, need)| *need).max().unwrap_or(need)
    }
}

/// What comes of a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    /// Something has changed, or is about to.
    Soon,
    /// Nothing has.
    Later,
    /// The pool needs no budget any more, and is in no ledger.
    Never,
}

/// What the task keeps.
struct Task {
    link: Option<Server>,
    settings: SettingsTable,
    member: Option<Member>,
    peak: Peak,
    unused_since: Option<Instant>,
    /// What was told in the log last.
    told: Option<String>,
}

async fn run(running: Running) {
    let pool = Arc::clone(&running.0);
    let (settings, peak) = (SettingsTable::default(), Peak::default());
    let mut task = Task { link: None, settings, member: None, peak, unused_since: None, told: None };
    loop {
        let (next, pause) = task.round(&pool).await;
        if next == Next::Never {
            break;
        }
        timer::sleep(if next == Next::Soon { SHORTEST } else { RETRY }).await;
        tokio::select! {
            () = timer::sleep(pause) => {}
            () = pool.budget.changed.notified() => {}
        }
    }
    // Whoever waits from now on begins another.
    drop(running);
    if let Some(link) = task.link {
        link.close().await;
    }
}

impl Task {
    /// Looks at the ledger, and does what follows. Gives how long until the next time, if nothing happens.
    async fn round(&mut self, pool: &Arc<Pool>) -> (Next, Duration) {
        let spec = pool.spec.load_full();
        let Some(terms) = &spec.budget else { return (Next::Never, PERIOD) };
        let mut next = Err(String::new());
        for _ in 0..TRIES {
            next = self.attempt(pool, &spec, terms).await;
            match &next {
                Ok(None) => {}
                _ => break,
            }
        }
        match next {
            Ok(next) => {
                self.tell(pool, None);
                pool.budget.looks.send_modify(|looks| *looks += 1);
                let next = next.unwrap_or(Next::Soon);
                if next == Next::Never {
                    self.left(pool);
                    pool.budget.view.store(None);
                }
                let idle = pool.slots() == 0 && self.peak.0.iter().all(|(_, need)| *need == 0);
                (next, if idle { IDLE_PERIOD } else { PERIOD })
            }
            Err(error) => {
                self.tell(pool, Some(&error));
                // Nobody waits for a pool that is gone.
                (if pool.is_retired() && pool.slots() == 0 { Next::Never } else { Next::Later }, PERIOD)
            }
        }
    }

    /// Whether the pool has been of no use for long.
    fn is_unused(&mut self, pool: &Pool, local: &Local, now: Instant) -> bool {
        if local.slots > 0 || (local.want > 0 && !pool.is_retired()) {
            self.unused_since = None;
            return false;
        }
        let since = *self.unused_since.get_or_insert(now);
        pool.is_retired() || now.saturating_duration_since(since) >= UNUSED
    }

    /// `None`: somebody else was first.
    async fn attempt(&mut self, pool: &Arc<Pool>, spec: &Spec, terms: &Terms) -> Result<Option<Next>, String> {
        let asked = world::now();
        let seen = self.read(pool, spec, terms).await?;
        if self.member.is_none() {
            if pool.slots() > 0 {
                // Servers from before are still there.
                return Ok(Some(Next::Later));
            }
            self.member = Some(Member::new(MemberId(world::rng().random()), name()));
            pool.budget.incarnation.fetch_add(1, Ordering::AcqRel);
        }
        let (local, freed) = pool.freeze(spec, &mut self.peak);
        if self.is_unused(pool, &local, asked) {
            return self.leave(pool, &seen).await;
        }
        let Some(member) = &mut self.member else { return Ok(Some(Next::Later)) };
        let round = member.look(&seen, &local, terms.size, asked);
        pool.budget.view.store(Some(Arc::new(View::new(&seen, member, terms.size, asked))));
        match round {
            Round::Lost(end) => {
                warn!(database = %pool.name, "this process was given up by others who share shared_pool_size: its server connections are closed");
                self.left(pool);
                pool.reconnect();
                self.end(pool, &end).await?;
                Ok(Some(Next::Soon))
            }
            Round::Step(step) => self.step(pool, &seen, (&local, freed), step).await,
        }
    }

    async fn step(
        &mut self,
        pool: &Arc<Pool>,
        seen: &Seen,
        (local, freed): (&Local, u64),
        step: Step,
    ) -> Result<Option<Next>, String> {
        let Some(ledger) = &step.write else {
            pool.allow(step.after, freed);
            self.end(pool, &step.end).await?;
            return Ok(Some(Next::Later));
        };
        let sent = world::now();
        let written = self.write(pool, seen.version, ledger).await;
        let Some(member) = &mut self.member else { return Ok(Some(Next::Later)) };
        match written {
            Ok(true) => {
                member.confirmed(sent);
                *pool.budget.lease.lock() = member.lease();
                pool.allow(step.after, freed);
                self.end(pool, &step.end).await?;
                let settled = local.need <= step.after && local.slots <= step.after;
                Ok(Some(if settled { Next::Later } else { Next::Soon }))
            }
            Ok(false) => Ok(None),
            Err(error) => {
                member.doubt();
                Err(error)
            }
        }
    }

    /// This pool takes part no more.
    async fn leave(&mut self, pool: &Arc<Pool>, seen: &Seen) -> Result<Option<Next>, String> {
        let Some(member) = &self.member else { return Ok(Some(Next::Never)) };
        let ledger = member.leave(&seen.ledger);
        let done = ledger == seen.ledger || self.write(pool, seen.version, &ledger).await?;
        Ok(done.then_some(Next::Never))
    }

    fn left(&mut self, pool: &Arc<Pool>) {
        self.member = None;
        *pool.budget.lease.lock() = None;
        pool.budget.incarnation.fetch_add(1, Ordering::AcqRel);
        pool.allow(0, 0);
    }

    async fn read(&mut self, pool: &Arc<Pool>, spec: &Spec, terms: &Terms) -> Result<Seen, String> {
        if self.link.is_none() {
            let login = pool.budget_login(spec, terms);
            let logged_in =
                pool.cluster.login(login, &spec.policy, &self.settings).await.map_err(|error| error.to_string())?;
            self.link = Some(logged_in.server);
            if let Err(error) = self.vet(pool).await {
                self.link = None;
                return Err(error);
            }
        }
        for _ in 0..2 {
            match self.ask(pool, READ, &[pool.name.as_str()]).await {
                Ok(rows) => match rows.first() {
                    // It may be another server that is to be asked.
                    Some(row) if is_standby(row) => {
                        self.link = None;
                        return Err("the server is a standby, which can't keep the ledger".to_owned());
                    }
                    Some(row) => return read(row),
                    None => self.ask(pool, BEGIN, &[pool.name.as_str()]).await.map(drop).map_err(explain)?,
                },
                Err(error) => {
                    // The table may be gone, or another one.
                    self.link = None;
                    return Err(explain(error));
                }
            }
        }
        Err("the ledger was removed just now".to_owned())
    }

    /// Makes the table if there is none, and looks whose it is.
    async fn vet(&mut self, pool: &Pool) -> Result<(), String> {
        if self.ask(pool, VET, &[]).await.map_err(explain)?.is_empty() {
            self.ask(pool, CREATE, &[]).await.map(drop).map_err(explain)?;
        }
        let rows = self.ask(pool, VET, &[]).await.map_err(explain)?;
        let text = |at: usize| rows.first().and_then(|row| row.get(at)).and_then(Option::as_deref);
        if text(0) == Some(b"t") {
            return Ok(());
        }
        let owner = String::from_utf8_lossy(text(1).unwrap_or_default()).into_owned();
        Err(format!(
            "public.carpool_budget has to be a table of shared_pool_user or of a superuser, and is {owner}'s: see docs/budget.md"
        ))
    }

    async fn write(&mut self, pool: &Pool, version: u64, ledger: &Ledger) -> Result<bool, String> {
        let state = serde_json::to_string(ledger).map_err(|error| error.to_string())?;
        let rows = self.ask(pool, WRITE, &[pool.name.as_str(), &version.to_string(), &state]).await;
        rows.map(|rows| !rows.is_empty()).map_err(explain)
    }

    /// Ends sessions that count, and that nobody has any more.
    async fn end(&mut self, pool: &Pool, end: &[Backend]) -> Result<(), String> {
        if end.is_empty() {
            return Ok(());
        }
        let list = |items: Vec<String>| format!("{{{}}}", items.join(","));
        let pids = list(end.iter().map(|backend| backend.0.to_string()).collect());
        let starts = list(end.iter().map(|backend| backend.1.to_string()).collect());
        match self.ask(pool, END, &[&pids, &starts]).await {
            Ok(_) => {
                info!(database = %pool.name, "ended server connections of shared_pool_size that nobody has any more: {pids}");
                Ok(())
            }
            // They count until they end by themselves.
            Err(QueryError::Refused { message, .. }) => {
                let why = format!(
                    "server connections that nobody has any more can't be ended, and count until they are: {message} \
                    (shared_pool_user should be a member of pg_signal_backend)"
                );
                self.tell(pool, Some(&why));
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    async fn ask(&mut self, pool: &Pool, sql: &str, parameters: &[&str]) -> Result<Vec<Row>, QueryError> {
        let timeout = pool.spec.load().health_check.1;
        let Some(link) = &mut self.link else { return Err(QueryError::Timeout(timeout)) };
        let answer = link.ask(sql, parameters, &self.settings, timeout).await;
        if !matches!(answer, Ok(_) | Err(QueryError::Refused { .. })) {
            self.link = None;
        }
        answer
    }

    /// Notes why the budget can't be asked for, or that it can.
    fn tell(&mut self, pool: &Pool, error: Option<&str>) {
        if self.told.as_deref() == error {
            return;
        }
        match error {
            Some(error) => warn!(database = %pool.name, "shared_pool_size: {error}"),
            None => info!(database = %pool.name, "shared_pool_size: the ledger is read again"),
        }
        self.told = error.map(str::to_owned);
        if error.is_some() {
            let view = pool.budget.view.load_full();
            let (at, size, members) =
                view.map_or((world::now(), 0, Vec::new()), |view| (view.at, view.size, view.members.clone()));
            pool.budget.view.store(Some(Arc::new(View { at, error: self.told.clone(), size, members })));
        }
    }
}

impl View {
    fn new(seen: &Seen, member: &Member, size: u32, at: Instant) -> Self {
        let part = |entry: &ledger::Entry| Part {
            name: entry.name.clone(),
            id: entry.id.to_string(),
            own: entry.id == member.id,
            state: match entry.condemned {
                Some(_) => "given up",
                None if member.is_silent(entry.id, at) => "silent",
                None => "active",
            },
            want: entry.want,
            held: entry.held,
            servers: u32::try_from(entry.servers.len()).unwrap_or(u32::MAX),
        };
        Self { at, error: None, size: seen.ledger.size(size), members: seen.ledger.members.iter().map(part).collect() }
    }
}

/// Where this process runs, for people.
fn name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), std::process::id())
}

fn is_standby(row: &Row) -> bool {
    row.get(6).and_then(Option::as_deref) == Some(b"t")
}

fn read(row: &Row) -> Result<Seen, String> {
    let text = |at: usize| row.get(at).and_then(Option::as_deref).and_then(|value| std::str::from_utf8(value).ok());
    let number = |at: usize| text(at).and_then(|text| text.parse::<i64>().ok());
    let read = || {
        let backends: Vec<Backend> = serde_json::from_str(text(5).unwrap_or("[]")).ok()?;
        let pid = u32::try_from(number(4)?).ok()?;
        Some(Seen {
            version: u64::try_from(number(0)?).ok()?,
            ledger: serde_json::from_str(text(1)?).ok()?,
            now: number(2)?,
            login_limit: Duration::from_secs(u64::try_from(number(3)?).ok()?),
            link: backends.iter().copied().find(|backend| backend.0 == pid).unwrap_or(Backend(pid, 0)),
            backends,
        })
    };
    read().ok_or_else(|| "the row in public.carpool_budget can't be read".to_owned())
}

fn explain(error: QueryError) -> String {
    match error {
        QueryError::Refused { code, message } if matches!(&code[..], "42P01" | "42501" | "25006" | "3F000") => {
            format!("{message} (as shared_pool_user; it needs the table that docs/budget.md describes)")
        }
        error => error.to_string(),
    }
}
