//! Stopping: what runs may end, within a bound, then everything is closed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::client::Context;
use crate::client::registry::{ClientKind, order};
use crate::error::{ClientError, SqlState};
use crate::net::timer;
use crate::net::world;
use crate::pool::Pool;

/// How often the drain looks whether all have gone.
const POLL: Duration = Duration::from_millis(20);
/// What SIGINT leaves queries at most.
const FAST_LIMIT: Duration = Duration::from_secs(5);
/// How long closing may take when nothing is waited for any more.
const LAST_LIMIT: Duration = Duration::from_secs(2);

/// How much is waited for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum How {
    /// Nothing has been said.
    Running,
    /// Another process has taken over.
    HandingOver,
    /// Clients leave of themselves.
    AfterClients,
    /// Transactions end (`shutdown_timeout` at most).
    AfterTransactions,
    /// Queries end (5 seconds at most).
    AfterQueries,
    /// Nothing is waited for.
    AtOnce,
}

/// The state of stopping, shared by those who may hasten it.
#[derive(Clone, Debug)]
pub struct Stop {
    context: Arc<Context>,
    how: watch::Sender<How>,
    stopping: watch::Sender<bool>,
    /// The process before this one knows that this one stops.
    told: watch::Sender<bool>,
}

impl Stop {
    /// Not stopping.
    #[must_use]
    pub fn new(context: Arc<Context>) -> Self {
        let (stopping, told) = (watch::Sender::new(false), watch::Sender::new(false));
        Self { context, how: watch::Sender::new(How::Running), stopping, told }
    }

    /// Becomes true when stopping begins.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// How much is waited for, each time that it changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<How> {
        self.how.subscribe()
    }

    /// The process before this one was told that this one stops.
    pub fn note_told(&self) {
        self.told.send_replace(true);
    }

    /// Waits until the process before this one, if there is one, knows that this one stops: it would take its place.
    pub async fn tell(&self) {
        if self.context.exodus.has_one_before() {
            let mut told = self.told.subscribe();
            // One that doesn't listen can't be told.
            drop(timer::timeout(LAST_LIMIT, told.wait_for(|told| *told)).await);
        }
    }

    /// How long it may take in all, if there is a bound.
    #[must_use]
    pub fn limit(&self) -> Option<Duration> {
        let limit = self.context.config.load().pooler.shutdown_timeout;
        (!matches!(*self.how.borrow(), How::AfterClients | How::HandingOver)).then_some(limit + 2 * LAST_LIMIT)
    }

    /// Whether stopping has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Begins to stop, or hastens it; never slows it down.
    pub fn begin(&self, how: How) {
        let hastened = self.how.send_if_modified(|now| {
            let faster = how > *now;
            *now = (*now).max(how);
            faster
        });
        if hastened {
            info!("stopping: {how:?}");
        }
        self.stopping.send_replace(true);
        self.context.door.stop();
    }

    /// Another process has taken over: clients go there, and whoever logs in may.
    pub fn hand_over(&self) {
        self.how.send_modify(|now| *now = (*now).max(How::HandingOver));
        self.stopping.send_replace(true);
    }

    /// The other process is no more, and this one serves again, unless it was told to stop. Says whether it does.
    pub fn resume(&self) -> bool {
        let resumed = self.how.send_if_modified(|now| {
            let hands_over = *now == How::HandingOver;
            if hands_over {
                *now = How::Running;
            }
            hands_over
        });
        if resumed {
            self.stopping.send_replace(false);
        }
        resumed
    }

    /// Whether clients may take their time.
    #[must_use]
    pub fn is_patient(&self) -> bool {
        *self.how.borrow() <= How::AfterClients
    }

    /// A signal to stop: SIGTERM, SIGINT or SIGQUIT, in Carpool's meaning, or that which the configuration gives them.
    pub fn signalled(&self, how: How) {
        let patient = self.context.config.load().pooler.stop_waits_for_clients;
        self.begin(match how {
            How::AfterTransactions if patient => How::AfterClients,
            How::AfterQueries if patient => How::AfterTransactions,
            how => how,
        });
    }

    /// Ends the clients as [`Stop::begin`] said, then the servers.
    pub async fn drain(&self) {
        let mut begun = world::now();
        let limit = self.context.config.load().pooler.shutdown_timeout;
        while self.context.registry.connections() > 0 {
            let (how, passed) = (*self.how.borrow(), world::now().saturating_duration_since(begun));
            if matches!(how, How::AfterClients | How::HandingOver) {
                if self.only_consoles() {
                    self.begin(How::AtOnce);
                }
                begun = world::now();
                timer::sleep(POLL).await;
                continue;
            }
            let bound = match how {
                How::AfterClients | How::HandingOver | How::Running | How::AfterTransactions => limit,
                How::AfterQueries => limit.min(FAST_LIMIT),
                How::AtOnce => Duration::ZERO,
            };
            if passed >= bound + LAST_LIMIT {
                warn!("{} clients did not go in time", self.context.registry.connections());
                break;
            }
            self.order(if passed >= bound { How::AtOnce } else { how });
            timer::sleep(POLL).await;
        }
        self.close_servers().await;
    }

    /// Whether nobody is there but consoles.
    #[must_use]
    pub fn only_consoles(&self) -> bool {
        let mut consoles = 0;
        self.context.registry.for_each(|client| consoles += u32::from(client.kind == ClientKind::Console));
        self.context.registry.connections() <= consoles
    }

    /// Tells every client, those that have come in meanwhile included.
    fn order(&self, how: How) {
        let order = match how {
            How::Running | How::HandingOver | How::AfterClients | How::AfterTransactions => order::END_IDLE,
            How::AfterQueries => order::END_QUERY,
            How::AtOnce => order::END_NOW,
        };
        self.context.registry.for_each(|client| {
            if client.orders() & order == 0 {
                let text = "terminating connection due to administrator command";
                client
                    .end(order, ClientError::fatal(SqlState::ADMIN_SHUTDOWN, text).detail("Carpool is shutting down."));
            }
        });
    }

    async fn close_servers(&self) {
        let pools = self.context.pools.all();
        for pool in &pools {
            pool.retire();
        }
        let begun = world::now();
        let is_there = |pool: &Arc<Pool>| pool.slots() > 0 || pool.is_in_ledger();
        while world::now().saturating_duration_since(begun) < LAST_LIMIT && pools.iter().any(is_there) {
            timer::sleep(POLL).await;
        }
    }
}
