//! Layer 8: operations: the admin console and HTTP, for those who run Carpool.
//!
//! [`command`] reads what the console is asked, [`show`] answers it with rows that [`collect`] has gathered,
//! [`operate`] acts on pools, [`session`] speaks the protocol, [`console`] owns the socket; [`http`] serves [`metrics`], and [`web`] the
//! dashboard, from the same rows. What changes the running whole (reload, stop) is asked of the composition above
//! through [`Control`].

pub mod advice;
pub mod audit;
mod blockers;
mod budgets;
pub mod collect;
pub mod command;
pub mod console;
mod crowd;
mod encode;
mod hosts;
pub mod http;
mod local;
pub mod metrics;
mod operate;
mod operator;
mod peers;
mod pins;
mod portal;
mod record;
pub mod session;
mod shares;
pub mod show;
mod sockets;
mod suspend;
pub mod waits;
mod web;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot, watch};
use tracing::info;

use crate::client::Context;
use crate::config::{Plan, SetError};
use crate::names::DatabaseName;
use crate::net::timer;
use crate::stats::Totals;
use crate::stats::history::History;
use crate::stats::recent::{self, Gauges, Look, Recent};

/// Orders that wait to be carried out, at most.
const ORDERS: usize = 16;

/// What the console asks of the whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// Read the configuration again.
    Reload,
    /// Tell what a reload would change.
    Plan,
    /// Change a setting until the next reload.
    Set(String, String),
    /// Hand everything to a new process.
    Upgrade,
    /// Stop when all clients have left.
    StopAfterClients,
    /// Stop when the transactions under way have ended.
    StopAfterTransactions,
    /// Stop at once.
    StopNow,
}

/// Why an order was not carried out.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// What is wrong with the configuration.
    #[error("{0}")]
    Reload(String),
    /// What is wrong with the setting.
    #[error(transparent)]
    Set(#[from] SetError),
    /// Why no new process has taken over.
    #[error("{0}")]
    Upgrade(String),
    /// Nobody takes orders any more.
    #[error("Carpool is shutting down")]
    Gone,
}

/// What an order has changed, or why nothing.
pub type Outcome = Result<Plan, Failure>;

/// An order and where its outcome goes.
#[derive(Debug)]
pub struct Request {
    /// What to do.
    pub order: Order,
    /// What came of it.
    pub outcome: oneshot::Sender<Outcome>,
}

/// Gives orders to the composition.
#[derive(Clone, Debug)]
pub struct Control(mpsc::Sender<Request>);

impl Control {
    /// The two ends.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Request>) {
        let (sender, receiver) = mpsc::channel(ORDERS);
        (Self(sender), receiver)
    }

    /// Has an order carried out.
    ///
    /// # Errors
    /// Why it wasn't.
    pub async fn order(&self, order: Order) -> Outcome {
        let (outcome, done) = oneshot::channel();
        self.0.send(Request { order, outcome }).await.map_err(|_| Failure::Gone)?;
        done.await.unwrap_or(Err(Failure::Gone))
    }
}

/// What console sessions and HTTP share.
#[derive(Debug)]
pub struct Admin {
    /// Clients, pools, configuration.
    pub context: Arc<Context>,
    /// For averages.
    pub history: History,
    /// The last minutes, for the dashboard.
    pub recent: Recent,
    /// To reload and stop.
    pub control: Control,
    stopping: watch::Receiver<bool>,
    web: web::Web,
    advisor: advice::Advisor,
    console_logins: AtomicU64,
    console_commands: AtomicU64,
}

impl Admin {
    /// For the process that `context` describes. `stopping` becomes true when it begins to stop.
    #[must_use]
    pub fn new(context: Arc<Context>, control: Control, stopping: watch::Receiver<bool>) -> Self {
        let history = History::new(context.started);
        let (console_logins, console_commands) = (AtomicU64::new(0), AtomicU64::new(0));
        let (recent, web) = (Recent::default(), web::Web::default());
        let advisor = advice::Advisor::default();
        Self { context, history, recent, control, stopping, web, advisor, console_logins, console_commands }
    }

    /// Counts a command on the console.
    pub(super) fn count_command(&self) {
        self.console_commands.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a login to the console.
    pub fn count_login(&self) {
        self.console_logins.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether new connections are taken.
    #[must_use]
    pub fn is_accepting(&self) -> bool {
        !*self.stopping.borrow()
    }

    /// Takes a look at every pool, for the dashboard's charts. Costs a few microseconds for each of its servers.
    fn look(&self) {
        let look = |pool: &Arc<crate::pool::Pool>| {
            let mut gauges = Gauges { pinned: pool.pinned_by_reason().values().sum(), ..Gauges::default() };
            for (_, counts) in pool.counts() {
                gauges.used += counts.busy;
                gauges.idle += counts.idle;
                gauges.waiting += counts.waiting;
            }
            Look { name: pool.name.clone(), gauges, totals: pool.totals(), durations: pool.durations() }
        };
        let looks: Vec<_> = self.context.pools.all().iter().map(look).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.recent.record(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), &looks);
    }

    /// The sums of every database, the console's included, by name.
    #[must_use]
    pub fn totals(&self) -> Vec<(DatabaseName, Totals)> {
        let pools = self.context.pools.all();
        let mut totals: Vec<_> = pools.iter().map(|pool| (pool.name.clone(), pool.totals())).collect();
        let client_logins = self.console_logins.load(Ordering::Relaxed);
        let commands = self.console_commands.load(Ordering::Relaxed);
        // As in PgBouncer, each is a query and a transaction.
        let console = Totals { client_logins, transactions: commands, queries: commands, ..Totals::default() };
        totals.push((collect::CONSOLE.into(), console));
        totals.sort_by(|a, b| a.0.cmp(&b.0));
        totals
    }
}

/// Follows the pools for the dashboard, while there is one.
pub async fn keep_recent(admin: Arc<Admin>) {
    let mut interval = timer::interval(recent::TICK);
    loop {
        interval.tick().await;
        admin.look();
    }
}

/// Looks at the sums every `stats_period`, and logs PgBouncer's line of averages.
pub async fn keep_statistics(admin: Arc<Admin>) {
    loop {
        let (period, wanted) = {
            let config = admin.context.config.load();
            (config.pooler.stats_period.max(Duration::from_secs(1)), config.pooler.log_stats)
        };
        timer::sleep(period).await;
        let a = admin.history.record(Instant::now(), admin.totals());
        if wanted {
            info!(
                "stats: {} xacts/s, {} queries/s, {} client parses/s, {} server parses/s, {} binds/s, \
                 in {} B/s, out {} B/s, xact {} us, query {} us, wait {} us, {} client logins/s",
                a.transactions,
                a.queries,
                a.client_parses,
                a.server_parses,
                a.binds,
                a.received,
                a.sent,
                a.transaction_time,
                a.query_time,
                a.wait_time,
                a.client_logins,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Database, Pooler};

    /// An [`Admin`] with the other ends of what it holds.
    pub(super) struct Stand {
        pub(super) admin: Arc<Admin>,
        pub(super) orders: mpsc::Receiver<Request>,
        pub(super) stopping: watch::Sender<bool>,
    }

    impl Stand {
        /// With the databases named, and a fallback.
        pub(super) fn new(names: &[&str]) -> Self {
            let databases = names.iter().map(|name| ((*name).into(), Database::default())).collect();
            let (pooler, fallback) = (Pooler::default(), Some(Database::default()));
            let context = Arc::new(Context::new(Config { pooler, databases, fallback, ..Config::default() }));
            let (control, orders) = Control::new();
            let stopping = watch::Sender::new(false);
            let admin = Arc::new(Admin::new(context, control, stopping.subscribe()));
            Self { admin, orders, stopping }
        }
    }

    #[tokio::test]
    async fn orders_fail_when_nobody_takes_them() {
        let stand = Stand::new(&[]);
        drop(stand.orders);
        assert!(stand.admin.control.order(Order::Reload).await.is_err());
    }

    #[test]
    fn the_console_has_sums_among_the_databases() {
        let stand = Stand::new(&["app", "zoo"]);
        stand.admin.count_login();
        stand.admin.count_command();
        let totals = stand.admin.totals();
        assert_eq!(totals.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["app", "pgbouncer", "zoo"]);
        assert_eq!((totals[1].1.client_logins, totals[1].1.transactions, totals[1].1.queries), (1, 1, 1));
    }
}
