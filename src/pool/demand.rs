//! The record of the demand on a pool, for the advisor (`advisor`, `pool_size = "auto"`), and the size of a pool that
//! sizes itself.
//!
//! A loan is recorded when its server comes back, from times that are known by then. With the record off that is one
//! look at a flag.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Pool, Pooled};
use crate::net::world;
use crate::server::Holder;
use crate::stats::advisor::trace::{Loan, Recorder, Trace};

/// See the module.
#[derive(Debug)]
pub(super) struct Demand {
    /// Where its times begin.
    epoch: Instant,
    recorder: Mutex<Option<Box<Recorder>>>,
}

impl Demand {
    /// With nothing recorded yet.
    pub(super) fn new(window: Option<Duration>) -> Self {
        let demand = Self { epoch: world::now(), recorder: Mutex::default() };
        demand.set(window);
        demand
    }

    /// Records what the last `window` had, or nothing. What was recorded stays unless the window changes.
    pub(super) fn set(&self, window: Option<Duration>) {
        let now = self.micros(world::now());
        let new = window.map(|window| Box::new(Recorder::new(micros(window), now)));
        let mut recorder = self.recorder.lock();
        if recorder.as_ref().map(|r| r.window()) != new.as_ref().map(|r| r.window()) {
            *recorder = new;
        }
    }

    fn micros(&self, at: Instant) -> u64 {
        micros(at.saturating_duration_since(self.epoch))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn short(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

impl Pooled {
    /// Notes who had it, until `now`.
    pub(super) fn note_demand(&self, holder: &Holder, now: Instant) {
        if self.pool.hot.records.load(Ordering::Relaxed) {
            self.record(holder, now);
        }
    }

    #[inline(never)]
    fn record(&self, holder: &Holder, now: Instant) {
        // Who has the same settings and role counts as of one application: the settings are shared by all that have them.
        let (settings, user) = (Arc::as_ptr(&self.server.state.settings), Arc::as_ptr(&self.user));
        let both = (settings as usize as u64) ^ (user as usize as u64).rotate_left(21);
        let loan = Loan {
            end: self.pool.demand.micros(now),
            wait: self.waited,
            hold: short(now.saturating_duration_since(self.lent)),
            client: holder.client.0 as u32,
            group: (both.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u16,
        };
        if let Some(recorder) = self.pool.demand.recorder.lock().as_mut() {
            recorder.record(loan);
        }
    }
}

impl Pool {
    /// What is recorded, with the loans that haven't ended as if they did now; `None`: nothing is.
    #[must_use]
    pub fn demand(&self) -> Option<Trace> {
        let now = world::now();
        let end = self.demand.micros(now);
        let mut windows = self.demand.recorder.lock().as_ref()?.windows(end);
        let servers = self.servers();
        let held = servers.iter().filter_map(|server| server.holder.lock().clone());
        if let Some(window) = windows.last_mut().filter(|window| window.end == end) {
            let loan = |holder: Holder| {
                let hold = short(now.saturating_duration_since(holder.since));
                Loan { end, wait: 0, hold, client: holder.client.0 as u32, group: 0 }
            };
            window.loans.extend(held.map(loan));
        }
        Some(Trace { database: self.name.to_string(), size: self.size(), windows })
    }

    /// The size that it has, whether or not it is paused.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.control.size(&self.spec.load())
    }

    /// Between which sizes it sizes itself, if it does.
    #[must_use]
    pub fn auto_bounds(&self) -> Option<(u32, u32)> {
        let spec = self.spec.load();
        spec.auto.map(|auto| (auto.least, spec.limits.size))
    }

    /// Has it have another size, within the bounds of the configuration, as a reload would: servers over it close as they
    /// come free.
    pub fn set_size(self: &Arc<Self>, size: u32) {
        let spec = self.spec.load_full();
        let mut queue = self.queue.lock();
        self.control.set_auto_size(size);
        queue.set_limits(self.control.limits(&spec));
        drop(queue);
        self.listening.look();
        self.pump();
    }
}
