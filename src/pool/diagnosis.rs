//! What PostgreSQL says of those who hold a pool's servers while others wait: who waits for a lock, and whom for.
//!
//! A full pool has no server to ask on, so with `diagnostic_connection` one is kept for that: a lease held by a task,
//! counted in `pool_size`, as a user apart from all clients' users (as with `auth_query`), so nothing of a client is
//! ever in its session. It asks once a second, and only while somebody has waited for [`CONGESTED`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::Notify;
use tracing::{debug, warn};

use super::sharing::Asker;
use super::{Checkout, Lease, Pool, PoolUser, Purpose};
use crate::names::ClientId;
use crate::net::timer;
use crate::net::world;
use crate::server::QueryError;

/// Its `application_name`.
pub const NAME: &str = "carpool diagnosis";
/// The fewest servers of a pool of which one is kept for it.
const FEWEST_SERVERS: u32 = 2;
/// How long somebody has to have waited before anything is asked.
const CONGESTED: Duration = Duration::from_millis(500);
/// How often.
const PERIOD: Duration = Duration::from_secs(1);
/// For how long an answer counts.
const FRESH: Duration = Duration::from_secs(3);
/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// `$1`: the servers' process numbers. Who may not see others' activity is told who blocks, and nothing else.
const QUESTION: &str = "WITH held AS MATERIALIZED (\
     SELECT a.pid, a.wait_event_type, a.wait_event, pg_catalog.left(a.query, 1000) AS query, \
     CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.pid = a.pid AND NOT l.granted) \
     THEN pg_catalog.pg_blocking_pids(a.pid) ELSE '{}'::pg_catalog.int4[] END AS blocked_by \
     FROM pg_catalog.pg_stat_activity a WHERE a.pid = ANY ($1::pg_catalog.int4[])), \
     others AS (SELECT DISTINCT pg_catalog.unnest(h.blocked_by) AS pid FROM held h) \
     SELECT pg_catalog.json_build_object(\
     'held', (SELECT pg_catalog.json_agg(h) FROM held h), \
     'others', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object('pid', o.pid, 'user', a.usename, \
     'application', a.application_name, 'state', a.state, 'query', pg_catalog.left(a.query, 1000))) \
     FROM others o LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = o.pid))::pg_catalog.text";

/// What PostgreSQL says of one of the pool's servers.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Finding {
    /// The server's process number.
    pub pid: u32,
    /// What it waits for, by `pg_stat_activity`.
    pub wait_event_type: Option<String>,
    /// See there.
    pub wait_event: Option<String>,
    /// The text of its last statement.
    pub query: Option<String>,
    /// Whose locks it waits for.
    pub blocked_by: Vec<i64>,
}

/// What it says of one whose locks are waited for.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Blocker {
    /// Its process number; 0: a prepared transaction.
    pub pid: i64,
    /// Its role.
    pub user: Option<String>,
    /// Its `application_name`.
    pub application: Option<String>,
    /// Its state, by `pg_stat_activity`.
    pub state: Option<String>,
    /// The text of its last statement.
    pub query: Option<String>,
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
pub struct Diagnosis {
    held: Option<Vec<Finding>>,
    others: Option<Vec<Blocker>>,
}

impl Diagnosis {
    fn read(json: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json)
    }

    /// Of the server with this process number.
    #[must_use]
    pub fn of(&self, pid: u32) -> Option<&Finding> {
        self.held.as_deref().unwrap_or_default().iter().find(|finding| finding.pid == pid)
    }

    /// Of one that is waited for.
    #[must_use]
    pub fn blocker(&self, pid: i64) -> Option<&Blocker> {
        self.others.as_deref().unwrap_or_default().iter().find(|blocker| blocker.pid == pid)
    }
}

/// Of a pool.
#[derive(Debug, Default)]
pub(super) struct Shared {
    is_running: AtomicBool,
    /// When one may be begun after a failure.
    rests_until: Mutex<Option<Instant>>,
    changed: Notify,
    answer: ArcSwapOption<(Instant, Diagnosis)>,
}

impl Shared {
    /// Has the task look what has changed.
    pub(super) fn look(&self) {
        self.changed.notify_one();
    }
}

/// The task is running as long as this is there.
struct Running(Arc<Pool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.diagnosis.is_running.store(false, Ordering::Release);
    }
}

impl Pool {
    /// What PostgreSQL said last, if that was just now.
    #[must_use]
    pub fn diagnosis(&self, now: Instant) -> Option<Arc<(Instant, Diagnosis)>> {
        self.diagnosis.answer.load_full().filter(|answer| now.saturating_duration_since(answer.0) <= FRESH)
    }

    fn wants_diagnosis(&self) -> bool {
        let diagnoses = self.spec.load().diagnoses;
        diagnoses && self.size() >= FEWEST_SERVERS && !self.is_retired() && !self.is_paused()
    }

    /// Keeps a connection for it where the configuration says so and a client has been there.
    pub(super) fn keep_diagnosing(self: &Arc<Self>, now: Instant) {
        let rests = || self.diagnosis.rests_until.lock().is_some_and(|until| until > now);
        if !self.wants_diagnosis() || self.diagnosis.is_running.load(Ordering::Acquire) || rests() {
            return;
        }
        let Some(user) = self.diagnosing_user() else { return };
        self.diagnosis.is_running.store(true, Ordering::Release);
        world::spawn(run(Running(Arc::clone(self)), user));
    }

    /// The role of the clients that came first.
    fn diagnosing_user(&self) -> Option<Arc<PoolUser>> {
        let users = self.users.lock();
        let first = users.list.iter().find(|user| user.purpose == Purpose::Clients).cloned()?;
        drop(users);
        let credentials = first.credentials.lock().clone();
        Some(self.user_apart(&first.name, credentials, Purpose::Diagnosis))
    }

    fn is_congested(&self, now: Instant) -> bool {
        let since = self.counts().into_iter().filter_map(|(_, counts)| counts.waiting_since).min();
        since.is_some_and(|since| now.saturating_duration_since(since) >= CONGESTED)
    }
}

async fn run(running: Running, user: Arc<PoolUser>) {
    let pool = &running.0;
    let granted = match pool.checkout(&user, &Asker::itself(ClientId::DIAGNOSIS), world::now()) {
        Checkout::Now(lease) => Ok(Ok(lease)),
        Checkout::Wait(granted) => granted.await,
    };
    match granted {
        Ok(Ok(lease)) => serve(pool, lease).await,
        Ok(Err(error)) => {
            debug!(database = %pool.name, "no diagnostic connection: {error}");
            rest(pool);
        }
        // The pool was replaced.
        Err(_) => {}
    }
}

fn rest(pool: &Pool) {
    *pool.diagnosis.rests_until.lock() = world::now().checked_add(RETRY);
}

/// Asks for as long as it is wanted and the server is good.
async fn serve(pool: &Arc<Pool>, mut lease: Lease) {
    while pool.wants_diagnosis() && !lease.server().is_some_and(|server| pool.is_outdated(&server.shared)) {
        if pool.is_congested(world::now()) {
            match ask(pool, &mut lease).await {
                Ok(answer) => pool.diagnosis.answer.store(Some(Arc::new((world::now(), answer)))),
                Err(error) => {
                    warn!(database = %pool.name, "the diagnostic connection failed: {error}");
                    rest(pool);
                    break;
                }
            }
        }
        tokio::select! {
            () = timer::sleep(PERIOD) => {}
            () = pool.diagnosis.changed.notified() => {}
        }
    }
    lease.close();
}

async fn ask(pool: &Pool, lease: &mut Lease) -> Result<Diagnosis, String> {
    let held = pool.held();
    let pids = held.iter().filter(|held| held.holder.is_some()).map(|held| held.server.key.pid.to_string());
    let pids = format!("{{{}}}", pids.collect::<Vec<_>>().join(","));
    let timeout = pool.spec.load().connect_timeout;
    let Some(server) = lease.server() else { return Err("no server".into()) };
    let rows = server.ask(QUESTION, &[&pids], &pool.tables.settings, timeout).await;
    let rows = rows.map_err(|error: QueryError| error.to_string())?;
    let json = rows.into_iter().next().and_then(|row| row.into_iter().next().flatten()).unwrap_or_default();
    Diagnosis::read(&json).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let json = br#"{"held" : [{"pid":7,"wait_event_type":"Lock","wait_event":"transactionid","query":"UPDATE t",
            "blocked_by":[9,0]}], "others" : [{"pid" : 9, "user" : "u", "application" : "psql",
            "state" : "idle in transaction", "query" : null}, {"pid" : 0, "user" : null, "application" : null,
            "state" : null, "query" : null}]}"#;
        let diagnosis = Diagnosis::read(json).unwrap();
        assert_eq!(diagnosis.of(7).unwrap().blocked_by, [9, 0]);
        assert_eq!(diagnosis.of(8), None);
        assert_eq!(diagnosis.blocker(9).unwrap().application.as_deref(), Some("psql"));
        assert_eq!(diagnosis.blocker(0).unwrap().user, None);
        assert_eq!(Diagnosis::read(br#"{"held" : null, "others" : null}"#).unwrap(), Diagnosis::default());
        assert!(Diagnosis::read(b"").is_err());
    }
}
