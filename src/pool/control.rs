//! What an operator does to a pool: pauses it, closes it to new clients, has its servers replaced.
//!
//! A paused pool is one whose size is 0: nothing is lent, no login begins, and servers close as they come free. A
//! server is outdated when the pool's generation is no longer the one in which its login began; it closes when it
//! comes free, and what replaces it belongs to the new one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::info;

use super::cede::Division;
use super::queue::Limits;
use super::spec::Spec;
use super::{Pool, background, pins};
use crate::error::ClientError;
use crate::names::ClientId;
use crate::net::world;
use crate::server::{Holder, ServerShared};

/// Who has paused a pool. It lends again when neither has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Pauser {
    /// `PAUSE db` or KILL.
    Database = 1,
    /// PAUSE of everything.
    All = 2,
}

/// In the place of a [`Pauser`]: another pool has taken over, and this one never lends again.
const RETIRED: u8 = 4;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// Of [`Pauser`]; changed with the queue locked.
    pausers: AtomicU8,
    paused_since: Mutex<Option<Instant>>,
    disabled: AtomicBool,
    generation: AtomicU32,
    /// The reserve is in use.
    stretched: AtomicBool,
    /// The size of a pool that sizes itself; 0: it has none yet. Changed with the queue locked.
    auto_size: AtomicU32,
    /// What several Carpools have agreed on, if they share a budget: slots that this one may have. Changed with the queue locked.
    allowance: Option<AtomicU32>,
    /// Since when there is neither a client nor a server.
    unused_since: Mutex<Option<Instant>>,
    /// How the size is divided with another process.
    pub(super) division: Mutex<Division>,
}

impl Control {
    /// For the pool that takes the place of one that is gone: every server of that one is outdated here.
    pub(super) fn inherit(&self) -> Self {
        Self {
            pausers: AtomicU8::new(self.pausers.load(Ordering::Relaxed)),
            paused_since: Mutex::new(*self.paused_since.lock()),
            disabled: AtomicBool::new(self.disabled.load(Ordering::Relaxed)),
            generation: AtomicU32::new(self.generation().wrapping_add(1)),
            stretched: AtomicBool::new(false),
            auto_size: AtomicU32::new(self.auto_size.load(Ordering::Relaxed)),
            allowance: None,
            unused_since: Mutex::default(),
            division: Mutex::new(self.division.lock().here()),
        }
    }

    /// The generation that logins belong to which begin now.
    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Every server of before is outdated.
    pub(super) fn end_generation(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// The size of a pool, without its reserve, whether or not it is paused.
    pub(super) fn size(&self, spec: &Spec) -> u32 {
        let most = spec.limits.size;
        spec.auto.map_or(most, |auto| match self.auto_size.load(Ordering::Relaxed) {
            0 => auto.first.min(most),
            size => size.clamp(auto.least.min(most), most),
        })
    }

    /// Has a pool that sizes itself have this size.
    pub(super) fn set_auto_size(&self, size: u32) {
        self.auto_size.store(size, Ordering::Relaxed);
    }

    /// Has the pool begin with nothing, and have what it is allowed.
    pub(super) fn share(&mut self) {
        self.allowance = Some(AtomicU32::new(0));
    }

    /// Whether it has a budget that is shared.
    pub(super) const fn is_shared(&self) -> bool {
        self.allowance.is_some()
    }

    /// How many slots it may have of what is shared.
    pub(super) fn allowance(&self) -> u32 {
        self.allowance.as_ref().map_or(u32::MAX, |allowance| allowance.load(Ordering::Relaxed))
    }

    /// Changes that.
    pub(super) fn set_allowance(&self, slots: u32) {
        if let Some(allowance) = &self.allowance {
            allowance.store(slots, Ordering::Relaxed);
        }
    }

    /// What a pool may have just now of what the configuration says.
    pub(super) fn limits(&self, spec: &Spec) -> Limits {
        let limits = self.own_limits(spec);
        Limits { size: limits.size.min(self.allowance()), ..limits }
    }

    /// The same, if there were no other Carpools.
    pub(super) fn own_limits(&self, spec: &Spec) -> Limits {
        let configured = spec.limits;
        if self.pausers.load(Ordering::Relaxed) != 0 {
            return Limits { size: 0, ..configured };
        }
        let reserve = if self.stretched.load(Ordering::Relaxed) { spec.reserve.0 } else { 0 };
        let (size, per_user) = (self.size(spec), configured.per_user);
        let size = self.division.lock().part_of(size.saturating_add(reserve));
        Limits { size, per_user: per_user.saturating_add(reserve), ..configured }
    }
}

/// A server that keeps a pool from being paused, or is outdated and in use.
#[derive(Debug)]
pub struct Held {
    /// The server.
    pub server: Arc<ServerShared>,
    /// Who has it; `None`: it is being reset, checked or closed.
    pub holder: Option<Holder>,
}

impl Pool {
    /// Lends nothing any more until [`Pool::resume`]; servers close as they come free. Says whether this is new.
    pub fn pause(self: &Arc<Self>, by: Pauser) -> bool {
        let before = self.set_pausers(|pausers| pausers | by as u8);
        self.control.paused_since.lock().get_or_insert_with(world::now);
        self.reconnect();
        before & by as u8 == 0
    }

    /// Lends again, unless somebody else has paused it. Says whether it was paused so.
    pub fn resume(self: &Arc<Self>, by: Pauser) -> bool {
        let before = self.set_pausers(|pausers| pausers & !(by as u8));
        if !self.is_paused() {
            *self.control.paused_since.lock() = None;
        }
        self.listening.look();
        self.diagnosis.look();
        self.pump();
        before & by as u8 != 0
    }

    /// Lends nothing for ever; servers close as they come free.
    pub(super) fn end(&self) {
        self.set_pausers(|pausers| pausers | RETIRED);
        self.control.end_generation();
    }

    /// Changes who has paused it, and its size, in one step as the queue sees it. Gives who had.
    fn set_pausers(&self, change: impl Fn(u8) -> u8) -> u8 {
        let mut queue = self.queue.lock();
        let before = self.control.pausers.load(Ordering::Relaxed);
        self.control.pausers.store(change(before), Ordering::Relaxed);
        queue.set_limits(self.control.limits(&self.spec.load()));
        before
    }

    /// Whether nothing is lent.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.control.pausers.load(Ordering::Relaxed) != 0
    }

    /// Whether it was paused so.
    #[must_use]
    pub fn is_paused_by(&self, by: Pauser) -> bool {
        self.control.pausers.load(Ordering::Relaxed) & by as u8 != 0
    }

    /// For how long it has been paused.
    #[must_use]
    pub fn paused_for(&self, now: Instant) -> Option<Duration> {
        self.control.paused_since.lock().map(|since| now.saturating_duration_since(since))
    }

    /// Uses the reserve from the moment that a client has waited for long until nobody waits.
    pub(super) fn stretch(&self, spec: &Spec, now: Instant) {
        let (reserve, patience) = spec.reserve;
        let stretched = self.control.stretched.load(Ordering::Relaxed);
        if !stretched && (reserve == 0 || patience.is_zero()) {
            return;
        }
        let mut queue = self.queue.lock();
        let waited = queue.waiting_since().map(|since| now.saturating_duration_since(since));
        let wanted = reserve > 0 && waited.is_some_and(|waited| stretched || waited >= patience);
        if wanted != stretched {
            self.control.stretched.store(wanted, Ordering::Relaxed);
            queue.set_limits(self.control.limits(spec));
            drop(queue);
            if wanted {
                info!(database = %self.name, "taking connection from reserve_pool");
            }
        }
    }

    /// Refuses new clients, or takes them again.
    pub fn set_disabled(&self, disabled: bool) {
        self.control.disabled.store(disabled, Ordering::Relaxed);
    }

    /// Whether new clients are refused.
    #[must_use]
    pub fn is_disabled(&self) -> bool {
        self.control.disabled.load(Ordering::Relaxed)
    }

    /// For how long there has been neither a server nor, as far as `has_clients` said each time, a client. A pool that
    /// an operator has paused or disabled counts as used.
    pub(super) fn unused_for(&self, now: Instant, has_clients: bool) -> Option<Duration> {
        let mut since = self.control.unused_since.lock();
        if has_clients || self.slots() > 0 || self.is_paused() || self.is_disabled() || self.queue.lock().has_waiting()
        {
            *since = None;
            return None;
        }
        Some(now.saturating_duration_since(*since.get_or_insert(now)))
    }

    /// Has every server closed as it comes free, those whose login is under way included; others take their places.
    pub fn reconnect(self: &Arc<Self>) {
        self.control.end_generation();
        let idle = self.queue.lock().take_expired(0, |_, _| true);
        for (_, pooled) in idle {
            background::close(pooled, background::Slot::Closing);
        }
        self.listening.look();
        self.diagnosis.look();
        self.watch.look();
        self.pump();
    }

    /// Whether a server is to be closed when it comes free.
    #[must_use]
    pub fn is_outdated(&self, server: &ServerShared) -> bool {
        server.generation != self.control.generation()
    }

    /// The servers that are to be closed and are still there.
    #[must_use]
    pub fn outdated(&self) -> Vec<Arc<ServerShared>> {
        self.servers().into_iter().filter(|server| self.is_outdated(server)).collect()
    }

    /// Tells everyone who waits for a server that there will be none.
    pub fn fail_waiting(&self, error: &ClientError) {
        let users = self.users.lock().list.clone();
        for user in users {
            let waiting = self.queue.lock().take_waiting(user.index);
            // The listening connection is no client, and finds out by itself.
            for ticket in waiting.into_iter().filter(|ticket| ticket.client != ClientId::LISTENER) {
                drop(ticket.grant.give(Err(error.clone())));
            }
        }
    }

    /// Who has servers that are to be closed, for an error: a list of the first ones.
    #[must_use]
    pub fn holders(&self, now: Instant) -> String {
        let held = self.held();
        let name = |held: &Held| match &held.holder {
            Some(holder) => pins::who(holder, &held.server.user, now.saturating_duration_since(holder.since)),
            None => format!("{} while it is being closed", held.server.id),
        };
        let named: Vec<_> = held.iter().take(pins::NAMED).map(name).collect();
        match held.len() {
            0 => "logins under way".to_owned(),
            n if n > pins::NAMED => format!("{} and {} more", named.join(", "), n - pins::NAMED),
            _ => named.join(", "),
        }
    }

    /// The servers that are in use, and by whom: those in use longest first.
    #[must_use]
    pub fn held(&self) -> Vec<Held> {
        let idle = self.idle_servers();
        let busy = self.servers().into_iter().filter(|server| !idle.contains_key(&server.id));
        let mut held: Vec<_> = busy
            .map(|server| {
                let holder = server.holder.lock().clone();
                Held { server, holder }
            })
            .collect();
        held.sort_by_key(|held| held.holder.as_ref().map(|holder| holder.since));
        held
    }
}
