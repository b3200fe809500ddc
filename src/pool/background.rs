//! What happens to servers while no client has them: logging in, tidying up, closing. Each task owns a slot
//! of the queue and gives it back whatever becomes of the task.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::RngExt;
use tracing::{debug, info, warn};

use super::place::Giver;
use super::queue::UserIndex;
use super::spec::Spec;
use super::{Grant, Lease, Pool, PoolUser, Pooled, Welcome};
use crate::auth::ServerCredentials;
use crate::names::ClientId;
use crate::net::stream::IdleState;
use crate::net::timer;
use crate::net::world::{self, spawn_if_running as spawn};
use crate::protocol::session::{Taint, Taints};
use crate::server::connect::{LoggedIn, Login, LoginError};
use crate::server::{QueryError, Server};

/// The first pause after a failed login; it doubles up to `server_login_retry`.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// How long a reset or check may take before the server is closed.
pub(super) const TIDY_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a server waits for a cancel in flight to end.
const CANCEL_POLL: Duration = Duration::from_millis(2);

/// How the queue counts the slot of a server that is being closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Slot {
    /// As on loan.
    Loan,
    /// As given out to be closed.
    Closing,
    /// As on loan, and it goes on with a new server.
    Kept,
}

/// Frees a slot when dropped.
struct SlotGuard {
    pool: Arc<Pool>,
    index: UserIndex,
    kind: Slot,
}

impl SlotGuard {
    /// The slot has another owner from now on.
    fn keep(mut self) {
        self.kind = Slot::Kept;
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        let mut queue = self.pool.queue.lock();
        match self.kind {
            Slot::Loan => queue.lost(self.index),
            Slot::Closing => queue.closed(self.index),
            Slot::Kept => return,
        }
        self.pool.spend(&mut queue);
        drop(queue);
        self.pool.pump();
    }
}

/// Closes a server and frees its slot once it is gone.
pub(super) fn close(mut pooled: Box<Pooled>, kind: Slot) {
    pooled.end_loan();
    let Pooled { server, pool, user, .. } = *pooled;
    pool.books.strike(&server.shared);
    let guard = SlotGuard { pool, index: user.index, kind };
    spawn(async move {
        if !server.close().await {
            guard.pool.budget.note_unsure();
        }
        drop(guard);
    });
}

/// Frees the slot of a server that another process has by now.
pub(super) fn let_go(pooled: Pooled) {
    let Pooled { server, pool, user, .. } = pooled;
    pool.books.strike(&server.shared);
    drop(server);
    drop(SlotGuard { pool, index: user.index, kind: Slot::Closing });
}

/// Closes a server and logs another one in, in the same slot, for `client`.
pub(super) fn renew(pooled: Box<Pooled>, client: ClientId, grant: Giver<Grant>) {
    let Pooled { server, pool, user, loan, .. } = *pooled;
    pool.books.strike(&server.shared);
    let guard = SlotGuard { pool: Arc::clone(&pool), index: user.index, kind: Slot::Loan };
    spawn(async move {
        if !server.close().await {
            pool.budget.note_unsure();
        }
        let logged_in = match pool.strike_out().await {
            Ok(()) => pool.log_in(&user).await,
            Err(error) => Err(error),
        };
        match logged_in {
            Ok(logged_in) => {
                guard.keep();
                let mut pooled = pool.welcome(user, logged_in);
                pooled.loan = loan;
                // Should the client have gone meanwhile, the lease is dropped, and the server offered to others.
                drop(grant.give(Ok(Lease::new(pooled, client, world::now()))));
            }
            Err(error) => {
                if let Some(loan) = loan {
                    pool.queue.lock().take_back(user.index, loan, world::now());
                }
                drop(guard);
                drop(grant.give(Err(error.client_error())));
                pool.login_failed(&user, error);
            }
        }
    });
}

/// Makes a server ready for its next client: waits for cancels in flight, rolls back, resets. What fails is closed.
pub(super) fn tidy(mut pooled: Box<Pooled>) {
    pooled.end_loan();
    // Should this task be dropped, the server goes the way of a lost one.
    let mut lost = Abandoned(Some(pooled));
    spawn(async move {
        let Some(pooled) = lost.0.as_mut() else { return };
        let deadline = world::now() + pooled.pool.spec.load().cancel_timeout + TIDY_TIMEOUT;
        while pooled.server.shared.cancels.load(Ordering::Acquire) > 0 {
            if world::now() > deadline {
                return;
            }
            timer::sleep(CANCEL_POLL).await;
        }
        if pooled.server.shared.doomed.load(Ordering::Acquire) {
            info!(server = %pooled.server.shared.id, "closing because: a cancel request for it may still come, or a signal");
            return;
        }
        let lasting = pooled.server.state.left().and(Taints::LASTING);
        if let Some(taint) = lasting.first() {
            info!(server = %pooled.server.shared.id, database = %pooled.pool.name, "closing because: no reset removes this: {}", taint.as_str());
            return;
        }
        if !pooled.server.is_at_boundary() || !pooled.server.state.pipeline.is_answered() {
            return;
        }
        let spec = pooled.pool.spec.load_full();
        let pool = Arc::clone(&pooled.pool);
        if let Err(error) = restore(&mut pooled.server, &spec, &pool).await {
            warn!(server = %pooled.server.shared.id, database = %pool.name, "closing because: reset query failed: {error}");
            return;
        }
        lost.offer();
    });
}

async fn restore(server: &mut Server, spec: &Spec, pool: &Pool) -> Result<(), QueryError> {
    let settings = &pool.tables.settings;
    server.rollback(settings, TIDY_TIMEOUT).await?;
    let left = server.state.left();
    if left.is_empty() && !spec.reset_always {
        return Ok(());
    }
    let why = left.first().map_or("server_reset_query_always", Taint::as_str);
    debug!(server = %server.shared.id, "reset because of: {why}");
    // DISCARD ALL where the configuration names no query: nothing may leak.
    let sql = if spec.reset_query.is_empty() { "DISCARD ALL" } else { &spec.reset_query };
    server.reset(sql, settings, TIDY_TIMEOUT).await
}

/// Closes the server when dropped.
struct Abandoned(Option<Box<Pooled>>);

impl Abandoned {
    /// Hands the server on, unless it has said something unasked behind its last answer, as one does that was
    /// terminated meanwhile: a waiting client would get it without a further look.
    fn offer(mut self) {
        let fit = |pooled: &mut Box<Pooled>| {
            pooled.server.is_at_boundary()
                && pooled.server.stream.idle_state() == IdleState::Quiet
                && !pooled.pool.is_outdated(&pooled.server.shared)
                && !pooled.pool.cluster.is_unfit(pooled.server.shared.host)
        };
        if self.0.as_mut().is_some_and(fit) {
            if let Some(pooled) = self.0.take() {
                Pool::offer(pooled, world::now(), false);
            }
        }
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        if let Some(pooled) = self.0.take() {
            close(pooled, Slot::Loan);
        }
    }
}

/// Asks a server that was idle for long whether it is still there.
pub(super) fn check(mut pooled: Box<Pooled>) {
    pooled.end_loan();
    let mut lost = Abandoned(Some(pooled));
    spawn(async move {
        let Some(pooled) = lost.0.as_mut() else { return };
        let (pool, query) = (Arc::clone(&pooled.pool), pooled.pool.spec.load().check_query.clone());
        if let Err(error) = pooled.server.query(&query, &pool.tables.settings, TIDY_TIMEOUT).await {
            info!(server = %pooled.server.shared.id, database = %pool.name, "closing because: server check failed: {error}");
            return;
        }
        lost.offer();
    });
}

/// Frees the slot of a login when dropped before [`LoginGuard::succeed`].
struct LoginGuard(Option<(Arc<Pool>, Arc<PoolUser>)>);

impl LoginGuard {
    /// The slot is the server's from now on.
    fn succeed(mut self) {
        self.0 = None;
    }
}

impl Drop for LoginGuard {
    fn drop(&mut self) {
        if let Some((pool, user)) = self.0.take() {
            pool.queue.lock().login_failed(user.index);
        }
    }
}

/// Logs a new server in; its slot is taken already.
pub(super) fn login(pool: &Arc<Pool>, index: UserIndex) {
    let Some(user) = pool.users.lock().list.iter().find(|u| u.index == index).cloned() else { return };
    let pool = Arc::clone(pool);
    let guard = LoginGuard(Some((Arc::clone(&pool), Arc::clone(&user))));
    spawn(async move {
        match pool.log_in(&user).await {
            Ok(logged_in) => {
                guard.succeed();
                pool.logged_in(user, logged_in);
            }
            Err(error) => {
                drop(guard);
                pool.login_failed(&user, error);
            }
        }
    });
}

impl Pool {
    /// Logs in to the host whose turn it is, or to another that can be used.
    async fn log_in(&self, user: &PoolUser) -> Result<LoggedIn, LoginError> {
        let (login, spec) = (self.login_for(user), self.spec.load_full());
        let login = self.cluster.login(login, &spec.policy, &self.tables.settings);
        if self.control.is_shared() { self.budget.guard(login).await } else { login.await }
    }

    fn login_for(&self, user: &PoolUser) -> Login {
        let spec = self.spec.load();
        Login {
            connect_query: spec.connect_query.clone(),
            max_prepared_statements: spec.max_prepared_statements,
            lifetime: spec.lifetime,
            generation: self.control.generation(),
            ..spec.login(user.name.clone(), user.credentials.lock().clone(), user.startup_parameters())
        }
    }

    fn logged_in(self: &Arc<Self>, user: Arc<PoolUser>, logged_in: LoggedIn) {
        let pooled = self.welcome(user, logged_in);
        if self.control.is_shared() {
            self.budget.look();
        }
        if self.is_outdated(&pooled.server.shared) {
            self.queue.lock().login_outdated(pooled.user.index);
            close(pooled, Slot::Loan);
        } else {
            Self::offer(pooled, world::now(), true);
        }
        self.pump();
    }

    /// Notes what a new server says of itself.
    fn welcome(self: &Arc<Self>, user: Arc<PoolUser>, logged_in: LoggedIn) -> Box<Pooled> {
        let LoggedIn { server, parameters, keys, .. } = logged_in;
        *self.backoff.lock() = super::Backoff::default();
        // What changed without Carpool seeing it is found out sometime.
        self.tables.functions.forget();
        if let (Some(keys), ServerCredentials::Password { keys: known, .. }) = (keys, &mut *user.credentials.lock()) {
            *known = Some(keys);
        }
        let baseline = Arc::clone(&server.state.settings);
        user.welcome.store(Some(Arc::new(Welcome { parameters, baseline })));
        self.books.enter(&server.shared);
        let shared = &server.shared;
        let from = shared.addresses.0.map_or_else(|| "unix".to_owned(), |local| local.to_string());
        info!(
            server = %shared.id, database = %self.name, user = %user.name, target = %shared.target,
            "new connection to server (from {from})"
        );
        Box::new(Pooled { server, pool: Arc::clone(self), user, lent: world::now(), loan: None, waited: 0 })
    }

    fn login_failed(self: &Arc<Self>, user: &PoolUser, error: LoginError) {
        if matches!(error, LoginError::Budget) {
            // Nothing is wrong with the server. It is tried again as soon as that is allowed.
            return info!(database = %self.name, user = %user.name, "closing because: {error}");
        }
        warn!(database = %self.name, user = %user.name, "closing because: {}: {error}", error.reason());
        let error = Arc::new(error);
        let longest = self.spec.load().login_retry.max(FIRST_RETRY);
        // Waiting can't help those who would log in the same way, unless others of the user are served.
        let mut queue = self.queue.lock();
        let hopeless = error.is_permanent() && queue.established(user.index) == 0;
        let told = if hopeless { queue.take_waiting(user.index) } else { Vec::new() };
        drop(queue);
        let mut backoff = self.backoff.lock();
        backoff.failures += 1;
        backoff.last = Some(Arc::clone(&error));
        let pause = FIRST_RETRY.saturating_mul(1 << backoff.failures.min(16).saturating_sub(1)).min(longest);
        let now = world::now();
        let jitter = pause.mul_f64(world::rng().random_range(0.75..=1.0));
        // Of several hosts each rests for itself.
        let until = Some(match self.cluster.next_attempt(now, &self.spec.load().policy) {
            Some(next) if !error.is_permanent() => next,
            _ => now + jitter,
        });
        // One user's wrong password holds up no other user.
        match hopeless {
            true => *user.rests_until.lock() = until,
            false => backoff.until = until,
        }
        drop(backoff);
        for ticket in told {
            drop(ticket.grant.give(Err(error.client_error())));
        }
    }
}
