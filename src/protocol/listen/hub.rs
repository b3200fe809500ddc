//! Who listens to what by the one connection of a pool. Pure bookkeeping: a task of the pool does what
//! [`Hub::due`] says and reports what came of it.
//!
//! Invariants: the connection listens to a channel before anybody's notifications of it are taken from there; a
//! client is given a channel's notifications from its marker on, or, where the connection was lost, with a notice
//! that some may be missing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::{Channel, Mailbox, message};
use crate::wire::backend::Notification;

/// One client.
#[derive(Debug)]
struct Listener<U> {
    mailbox: Arc<Mailbox>,
    user: U,
    /// What the connection is to listen to for it.
    wanted: Vec<Channel>,
    /// What it is given.
    active: Vec<Channel>,
    /// It waits until the connection listens to all that it wants.
    waits: bool,
    /// Some may be missing.
    gap: bool,
}

/// A change of who delivers that is under way.
#[derive(Debug)]
struct Marker {
    client: u64,
    /// Its place among all.
    number: u64,
    /// What the client is given behind it.
    channels: Vec<Channel>,
    enters: bool,
    /// When the client's server had delivered it.
    passed: Option<Instant>,
}

/// What the connection must be told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Due {
    /// To listen to these.
    pub listen: Vec<Channel>,
    /// To stop listening to these.
    pub unlisten: Vec<Channel>,
    /// To say how far it has come.
    pub answer: bool,
}

/// See the module. `U` is what logs the connection in.
#[derive(Debug)]
pub struct Hub<U> {
    marker: Arc<[u8]>,
    listeners: HashMap<u64, Listener<U>>,
    /// Who is given a channel.
    audience: HashMap<Channel, Vec<u64>>,
    /// How many want it.
    wanted: HashMap<Channel, usize>,
    /// What the connection listens to.
    listened: HashSet<Channel>,
    markers: HashMap<u64, Marker>,
    /// How many there were.
    numbers: u64,
    /// The connection is there and listens to the markers.
    up: bool,
    /// What those are told who may have missed something, where the connection is there again.
    notice: Option<Arc<[u8]>>,
    /// The same, of those who don't wait for that.
    lost_notice: Arc<[u8]>,
    /// How many were told.
    told: usize,
    /// Who waits until the connection has come as far as PostgreSQL is now.
    behind: Vec<Arc<Mailbox>>,
    /// Those for whom it was asked already.
    asked: Vec<Arc<Mailbox>>,
}

impl<U: Clone> Hub<U> {
    /// One without clients, whose markers go by the channel `marker`. `lost_notice` is told to one who has missed
    /// something and whose server takes over while the connection isn't there.
    #[must_use]
    pub fn new(marker: Arc<[u8]>, lost_notice: Arc<[u8]>) -> Self {
        Self {
            marker,
            lost_notice,
            listeners: HashMap::new(),
            audience: HashMap::new(),
            wanted: HashMap::new(),
            listened: HashSet::new(),
            markers: HashMap::new(),
            numbers: 0,
            up: false,
            notice: None,
            told: 0,
            behind: Vec::new(),
            asked: Vec::new(),
        }
    }

    /// The channel of the markers.
    #[must_use]
    pub const fn marker(&self) -> &Arc<[u8]> {
        &self.marker
    }

    /// Nobody listens.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    /// Whose login could serve the connection, in some order.
    pub fn users(&self) -> impl Iterator<Item = &U> {
        self.listeners.values().map(|l| &l.user)
    }

    /// Whether the connection is there.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.up
    }

    /// A client wants these channels listened to. Says whether they are; else it is woken when they are.
    pub fn want(&mut self, client: u64, mailbox: &Arc<Mailbox>, user: &U, channels: &[Channel]) -> bool {
        let listener = self.listeners.entry(client).or_insert_with(|| Listener {
            mailbox: Arc::clone(mailbox),
            user: user.clone(),
            wanted: Vec::new(),
            active: Vec::new(),
            waits: false,
            gap: false,
        });
        if listener.wanted != channels {
            let old = std::mem::replace(&mut listener.wanted, channels.to_vec());
            channels.iter().for_each(|c| *self.wanted.entry(c.clone()).or_default() += 1);
            self.unwant(&old);
        }
        let ready = channels.iter().all(|c| self.listened.contains(c));
        if let Some(listener) = self.listeners.get_mut(&client) {
            listener.waits = !ready;
        }
        ready
    }

    fn unwant(&mut self, channels: &[Channel]) {
        for channel in channels {
            if let Some(count) = self.wanted.get_mut(channel) {
                *count -= 1;
                if *count == 0 {
                    self.wanted.remove(channel);
                }
            }
        }
    }

    /// A client comes over from another hub, with a gap behind it.
    pub fn adopt(&mut self, client: u64, mailbox: &Arc<Mailbox>, user: &U, channels: &[Channel]) {
        self.want(client, mailbox, user, channels);
        self.activate(client, channels.to_vec());
        if let Some(listener) = self.listeners.get_mut(&client) {
            listener.gap = true;
        }
    }

    /// From the marker `nonce` on the client is given `channels`.
    pub fn will_enter(&mut self, nonce: u64, client: u64, channels: Vec<Channel>) {
        self.note_marker(nonce, client, Some(channels));
    }

    /// From the marker `nonce` on the client is given nothing; what it has now stays listened to. Says whether it
    /// has anything.
    pub fn will_leave(&mut self, nonce: u64, client: u64) -> bool {
        let known = self.listeners.contains_key(&client);
        if known {
            self.note_marker(nonce, client, None);
            if !self.up {
                // It delivers nothing now, and may not listen yet when the marker is sent.
                self.reach(nonce);
            }
        }
        known
    }

    fn note_marker(&mut self, nonce: u64, client: u64, channels: Option<Vec<Channel>>) {
        let (enters, channels, number) = (channels.is_some(), channels.unwrap_or_default(), self.numbers);
        self.numbers += 1;
        self.markers.insert(nonce, Marker { client, number, channels, enters, passed: None });
    }

    /// The client's server has delivered the marker.
    pub fn passed(&mut self, nonce: u64, now: Instant) {
        if let Some(marker) = self.markers.get_mut(&nonce) {
            marker.passed = Some(now);
        }
    }

    /// The marker won't come.
    pub fn cancel(&mut self, nonce: u64) {
        if let Some(marker) = self.markers.remove(&nonce) {
            if let Some(listener) = self.listeners.get(&marker.client) {
                listener.mailbox.forget_marker(nonce);
            }
        }
    }

    /// Since when the connection owes a marker, if it does.
    #[must_use]
    pub fn owes_since(&self) -> Option<Instant> {
        self.markers.values().filter_map(|m| m.passed).min()
    }

    /// A client listens no more.
    pub fn remove(&mut self, client: u64) {
        self.activate(client, Vec::new());
        if let Some(listener) = self.listeners.remove(&client) {
            self.unwant(&listener.wanted);
        }
        self.markers.retain(|_, marker| marker.client != client);
    }

    /// A client is about to do something: on a connection of its own it would have all notifications by then that were
    /// sent before. Says whether it is to wait for that; it is woken when the connection has come so far, or is gone.
    pub fn fall_behind(&mut self, client: u64) -> bool {
        let Some(listener) = self.listeners.get(&client).filter(|_| self.up) else { return false };
        listener.mailbox.fall_behind();
        self.behind.push(Arc::clone(&listener.mailbox));
        true
    }

    /// The connection has answered what it was last told.
    pub fn answered(&mut self) {
        self.asked.drain(..).for_each(|mailbox| mailbox.catch_up());
    }

    fn stop_waiting(&mut self) {
        self.asked.append(&mut self.behind);
        self.answered();
    }

    /// All go.
    pub fn dissolve(&mut self) {
        self.stop_waiting();
        let listeners = std::mem::take(&mut self.listeners);
        *self = Self::new(Arc::clone(&self.marker), Arc::clone(&self.lost_notice));
        listeners.values().for_each(|l| l.mailbox.orphan());
    }

    fn activate(&mut self, client: u64, channels: Vec<Channel>) {
        let Some(listener) = self.listeners.get_mut(&client) else { return };
        let old = std::mem::replace(&mut listener.active, channels.clone());
        for channel in old {
            if let Some(audience) = self.audience.get_mut(&channel) {
                audience.retain(|&c| c != client);
                if audience.is_empty() {
                    self.audience.remove(&channel);
                }
            }
        }
        for channel in channels {
            self.audience.entry(channel).or_default().push(client);
        }
    }

    /// What the connection must be told now. It counts as not listening to the latter from here on.
    pub fn due(&mut self) -> Due {
        let listen = self.wanted.keys().filter(|c| !self.listened.contains(*c)).cloned().collect();
        let unlisten: Vec<_> = self.listened.iter().filter(|c| !self.wanted.contains_key(*c)).cloned().collect();
        self.listened.retain(|c| self.wanted.contains_key(c));
        let answer = !self.behind.is_empty();
        self.asked.append(&mut self.behind);
        Due { listen, unlisten, answer }
    }

    /// The connection listens to these from now on.
    pub fn listens(&mut self, channels: Vec<Channel>) {
        self.listened.extend(channels);
        for listener in self.listeners.values_mut() {
            if listener.waits && listener.wanted.iter().all(|c| self.listened.contains(c)) {
                listener.waits = false;
                listener.mailbox.wake();
            }
        }
    }

    /// The connection delivers a notification.
    pub fn deliver(&mut self, notification: &Notification<'_>) {
        if *notification.channel == *self.marker {
            let nonce = std::str::from_utf8(notification.payload).ok().and_then(|text| text.parse().ok());
            return nonce.map_or((), |nonce| self.reach(nonce));
        }
        let Some(audience) = self.audience.get(notification.channel) else { return };
        let message = message(notification, (0, 0));
        for client in audience {
            if let Some(listener) = self.listeners.get_mut(client) {
                self.told += usize::from(listener.tell(self.notice.as_ref()));
                listener.mailbox.from_listener(&message);
            }
        }
    }

    /// A marker takes effect, and before it those of the same client that the connection has missed.
    fn reach(&mut self, nonce: u64) {
        let Some(marker) = self.markers.remove(&nonce) else { return };
        let client = marker.client;
        let earlier = self.markers.iter().filter(|(_, m)| m.client == client && m.number < marker.number);
        let mut earlier: Vec<_> = earlier.map(|(&nonce, m)| (m.number, nonce)).collect();
        earlier.sort_unstable();
        for (_, missed) in earlier {
            self.take_effect(missed, None);
            if let Some(listener) = self.listeners.get_mut(&client) {
                listener.gap = true;
            }
        }
        self.take_effect(nonce, Some(marker));
    }

    fn take_effect(&mut self, nonce: u64, marker: Option<Marker>) {
        let Some(marker) = marker.or_else(|| self.markers.remove(&nonce)) else { return };
        self.activate(marker.client, marker.channels);
        if let Some(listener) = self.listeners.get_mut(&marker.client) {
            if !marker.enters {
                listener.tell(Some(&self.lost_notice));
            }
            listener.mailbox.marker_from_listener(nonce);
        }
    }

    /// The connection is gone.
    pub fn lost(&mut self) {
        self.stop_waiting();
        self.listened.clear();
        self.up = false;
        self.notice = None;
        for listener in self.listeners.values_mut() {
            listener.gap |= !listener.active.is_empty();
            if std::mem::replace(&mut listener.waits, true) {
                listener.mailbox.wake();
            }
        }
        let leaving: Vec<u64> = self.markers.iter().filter(|(_, m)| !m.enters).map(|(&nonce, _)| nonce).collect();
        leaving.into_iter().for_each(|nonce| self.reach(nonce));
    }

    /// The markers that a new connection can't deliver, since they have passed before it listens.
    #[must_use]
    pub fn missed(&self) -> Vec<u64> {
        self.markers.iter().filter(|(_, m)| m.enters && m.passed.is_some()).map(|(&nonce, _)| nonce).collect()
    }

    /// A new connection listens to the markers and is about to listen to what is wanted. Those who may have missed something get `notice`, in
    /// front of what it delivers.
    pub fn returns(&mut self, notice: Arc<[u8]>) {
        self.up = true;
        self.notice = Some(notice);
        self.told = 0;
    }

    /// The new connection listens to all that was wanted, `missed` being the markers that it can't deliver. Gives
    /// how many were told of the gap.
    pub fn restored(&mut self, missed: &[u64]) -> usize {
        for nonce in missed {
            let client = self.markers.get(nonce).map(|m| m.client);
            self.reach(*nonce);
            if let Some(listener) = client.and_then(|c| self.listeners.get_mut(&c)) {
                listener.gap = true;
            }
        }
        let notice = self.notice.as_ref();
        self.told + self.listeners.values_mut().filter_map(|l| l.tell(notice).then_some(())).count()
    }
}

impl<U> Listener<U> {
    /// Tells the client of a gap, if there is one.
    fn tell(&mut self, notice: Option<&Arc<[u8]>>) -> bool {
        let Some(notice) = notice.filter(|_| self.gap) else { return false };
        self.gap = false;
        self.mailbox.from_listener(notice);
        true
    }
}
