//! The budget of pins: how many servers clients may keep between transactions (`max_pinned`), who waits for one,
//! and who has them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Pool;
use crate::error::{ClientError, SqlState};
use crate::names::{ClientId, UserName};
use crate::net::timer;
use crate::net::world;
use crate::protocol::session::Taint;
use crate::server::pins::Pinned;
use crate::server::{Holder, ServerShared};

/// How many of those who hold servers an error names.
pub(super) const NAMED: usize = 3;

/// See the module.
#[derive(Debug)]
pub(super) struct Budget {
    /// One permit for each server that may be pinned.
    permits: Arc<Semaphore>,
    waits: AtomicU64,
    wait_micros: AtomicU64,
}

/// Sums of waits for a pin since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PinWaits {
    /// How often a client had to wait.
    pub waits: u64,
    /// Microseconds that they waited in vain or not, those who left meanwhile not counted.
    pub micros: u64,
}

impl Budget {
    pub(super) fn new(max_pinned: u32) -> Self {
        let permits = Arc::new(Semaphore::new(max_pinned as usize));
        Self { permits, waits: AtomicU64::new(0), wait_micros: AtomicU64::new(0) }
    }

    pub(super) fn resize(&self, old: u32, new: u32) {
        self.permits.add_permits(new.saturating_sub(old) as usize);
        // Those in use can't be taken back; the rest of the difference stays until the next change.
        self.permits.forget_permits(old.saturating_sub(new) as usize);
    }
}

impl Pool {
    /// The permit to keep a server between transactions, if one is free.
    #[must_use]
    pub fn try_pin(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.pins.permits).try_acquire_owned().ok()
    }

    /// Waits for the permit to keep a server between transactions.
    ///
    /// # Errors
    /// What the client is told when it has waited for `query_wait_timeout`.
    pub fn pin(self: &Arc<Self>) -> impl Future<Output = Result<OwnedSemaphorePermit, ClientError>> + Send + 'static {
        let pool = Arc::clone(self);
        let since = world::now();
        pool.pins.waits.fetch_add(1, Ordering::Relaxed);
        let limit = self.spec.load().wait_timeout;
        let limit = if limit.is_zero() { Duration::MAX } else { limit };
        async move {
            let permit = Arc::clone(&pool.pins.permits).acquire_owned();
            let outcome = timer::timeout(limit, permit).await;
            let waited = u64::try_from(world::now().saturating_duration_since(since).as_micros()).unwrap_or(u64::MAX);
            pool.pins.wait_micros.fetch_add(waited, Ordering::Relaxed);
            match outcome {
                Ok(Ok(permit)) => Ok(permit),
                _ => Err(pool.pin_timeout_error(limit, world::now())),
            }
        }
    }

    fn pin_timeout_error(&self, waited: Duration, now: Instant) -> ClientError {
        let pinned = self.pinned();
        let most = self.spec.load().max_pinned;
        // Others have a permit for what their transaction, which is still open, will leave behind.
        let open = (most as usize).saturating_sub(self.pins.permits.available_permits()).saturating_sub(pinned.len());
        let open = if open == 0 { String::new() } else { format!(", {open} are going to be by open transactions") };
        let detail = format!(
            "The request would keep a server connection of database \"{}\" between transactions. {} of {most} are kept \
             so{open}, and none came free within {waited:?}; longest by: {}.",
            self.name,
            pinned.len(),
            if pinned.is_empty() { "nobody".into() } else { longest(&pinned, now) },
        );
        ClientError::fatal(SqlState::TOO_MANY_CONNECTIONS, "query_wait_timeout")
            .detail(detail)
            .hint("See max_pinned and query_wait_timeout; SHOW PINS on the console lists who keeps one and why.")
    }

    /// The servers that are kept between transactions, by whom and why.
    #[must_use]
    pub fn pinned(&self) -> Vec<(Arc<ServerShared>, Holder, Pinned)> {
        let kept = |server: Arc<ServerShared>| {
            let holder = server.holder.lock().clone()?;
            let pinned = server.pinned.get()?;
            Some((server, holder, pinned))
        };
        self.servers().into_iter().filter_map(kept).collect()
    }

    /// How many servers are kept between transactions, by the first reason of each.
    #[must_use]
    pub fn pinned_by_reason(&self) -> BTreeMap<&'static str, u32> {
        let mut counts = BTreeMap::new();
        for (_, _, pinned) in self.pinned() {
            let reason = pinned.reasons.first().map_or("unknown state", Taint::as_str);
            *counts.entry(reason).or_default() += 1;
        }
        counts
    }

    /// A sentence about the servers that are kept between transactions; empty when none is.
    pub(super) fn why_pinned(&self) -> String {
        let counts = self.pinned_by_reason();
        if counts.is_empty() {
            return String::new();
        }
        let total: u32 = counts.values().sum();
        let reasons: Vec<_> = counts.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
        format!(" {total} are kept between transactions ({}); see SHOW PINS and max_pinned.", reasons.join(", "))
    }

    /// How much clients have waited for the permit to keep a server.
    #[must_use]
    pub fn pin_waits(&self) -> PinWaits {
        PinWaits {
            waits: self.pins.waits.load(Ordering::Relaxed),
            micros: self.pins.wait_micros.load(Ordering::Relaxed),
        }
    }
}

fn longest(pinned: &[(Arc<ServerShared>, Holder, Pinned)], now: Instant) -> String {
    let mut pins: Vec<_> = pinned.iter().collect();
    pins.sort_by_key(|(_, _, pinned)| pinned.since);
    let name = |(server, holder, pinned): &(Arc<ServerShared>, Holder, Pinned)| {
        let age = now.saturating_duration_since(pinned.since);
        format!("{}, {}", who(holder, &server.user, age), pinned.reasons.names())
    };
    pins.into_iter().take(NAMED).map(name).collect::<Vec<_>>().join("; ")
}

/// A client that has a server, for an error.
pub(super) fn who(holder: &Holder, user: &UserName, held: Duration) -> String {
    let seconds = held.as_secs_f64();
    match holder.client {
        ClientId::LISTENER => format!("the connection that listens for all clients for {seconds:.1} s"),
        ClientId::LOOKUP => format!("the connection that runs auth_query (user \"{user}\") for {seconds:.1} s"),
        ClientId::DIAGNOSIS => format!("the diagnostic connection for {seconds:.1} s"),
        client => format!("{client} (user \"{user}\") for {seconds:.1} s"),
    }
}
