//! Connections that have not proved who they are, and how many there are from each address.
//!
//! Anybody can open connections and say nothing. So they don't count in `max_client_conn` before they have proved who
//! they are, and there are at most `max_login_connections` of them: for one more, the one that came first is closed,
//! once it has had [`GRACE`]. Real clients are through by then, so a flood slows them down and keeps nobody out. One
//! for which Carpool itself has something to do (a lookup, a cancel request) isn't closed for another.
//!
//! Whatever ends a login from outside comes this way: that there is no room, `client_login_timeout`, a stop. So a login
//! listens to one thing besides its socket, and has no timer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::warn;

use super::Context;
use crate::config::Pooler;
use crate::error::{ClientError, SqlState};
use crate::net::world;
use crate::net::{Peer, timer};

/// What a connection has at least to prove who it is.
const GRACE: Duration = Duration::from_secs(1);
/// How often it is looked for room.
const POLL: Duration = Duration::from_millis(20);
/// The log tells of a flood once in this time.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub struct Door {
    line: Mutex<Line>,
    addresses: DashMap<IpAddr, u32>,
    told: Mutex<Option<Instant>>,
}

/// All that are not in yet.
#[derive(Debug, Default)]
struct Line {
    /// By their coming.
    entries: BTreeMap<u64, Entry>,
    /// How many of them have not proved who they are.
    unproved: usize,
    next: u64,
    is_stopping: bool,
}

#[derive(Debug)]
struct Entry {
    waiting: Arc<Waiting>,
    is_proved: bool,
    /// A stop of Carpool ends it: one who hasn't said what it wants is asked then, and who looks after Carpool may stay.
    ends_with_stop: bool,
}

/// Why a connection that isn't in yet is sent away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It makes room for one that came later.
    NoRoom,
    /// It has taken longer than `client_login_timeout`, which is this.
    Late(Duration),
    /// Carpool stops.
    Stop,
}

/// One that is not in yet.
#[derive(Debug)]
pub struct Waiting {
    since: Instant,
    busy: AtomicBool,
    end: OnceLock<End>,
    told: Notify,
}

impl Waiting {
    /// Ends when the connection is to be sent away.
    pub async fn ended(&self) -> End {
        loop {
            self.told.notified().await;
            if let Some(end) = self.end.get() {
                return *end;
            }
        }
    }

    fn end(&self, end: End) {
        // Whatever was first counts.
        let _ = self.end.set(end);
        self.told.notify_one();
    }

    /// While this lives Carpool itself is at work for the connection, so that it isn't closed for another.
    #[must_use]
    pub fn busy(&self) -> Busy<'_> {
        self.busy.store(true, Ordering::Relaxed);
        Busy(self)
    }
}

/// See [`Waiting::busy`].
#[derive(Debug)]
pub struct Busy<'a>(&'a Waiting);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Relaxed);
    }
}

/// What becomes of one more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Room {
    /// It comes in; whether another was closed for it.
    Free(bool),
    /// Not yet: those there are have come just now.
    Soon,
    /// All wait for Carpool.
    None,
}

impl Line {
    fn room(&mut self, most: usize, now: Instant) -> Room {
        if self.unproved < most {
            return Room::Free(false);
        }
        let mut unproved = self.entries.iter().filter(|(_, entry)| !entry.is_proved);
        let Some((&first, entry)) = unproved.find(|(_, entry)| !entry.waiting.busy.load(Ordering::Relaxed)) else {
            return Room::None;
        };
        if now.saturating_duration_since(entry.waiting.since) < GRACE {
            return Room::Soon;
        }
        self.end(first, End::NoRoom);
        Room::Free(true)
    }

    fn enter(&mut self, now: Instant) -> (u64, Arc<Waiting>) {
        self.next += 1;
        let (busy, end, told) = (AtomicBool::new(false), OnceLock::new(), Notify::new());
        let waiting = Arc::new(Waiting { since: now, busy, end, told });
        let entry = Entry { waiting: Arc::clone(&waiting), is_proved: false, ends_with_stop: false };
        self.entries.insert(self.next, entry);
        self.unproved += 1;
        (self.next, waiting)
    }

    fn proved(&mut self, number: u64) {
        if let Some(entry) = self.entries.get_mut(&number) {
            self.unproved -= usize::from(!std::mem::replace(&mut entry.is_proved, true));
        }
    }

    fn remove(&mut self, number: u64) -> Option<Arc<Waiting>> {
        let entry = self.entries.remove(&number)?;
        self.unproved -= usize::from(!entry.is_proved);
        Some(entry.waiting)
    }

    fn end(&mut self, number: u64, end: End) {
        if let Some(waiting) = self.remove(number) {
            waiting.end(end);
        }
    }

    fn end_late(&mut self, limit: Duration, now: Instant) {
        while let Some((&first, entry)) = self.entries.first_key_value() {
            if now.saturating_duration_since(entry.waiting.since) < limit {
                return;
            }
            self.end(first, End::Late(limit));
        }
    }

    fn stop(&mut self) {
        self.is_stopping = true;
        let going = self.entries.iter().filter(|(_, entry)| entry.ends_with_stop);
        for number in going.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.end(number, End::Stop);
        }
    }
}

/// The address that a limit counts: one of IPv4 is the same however it comes. Of IPv6 it is the network of 64 bits, as
/// every host has one and can take any address in it.
fn address(peer: Peer) -> Option<IpAddr> {
    match peer {
        Peer::Tcp(addr) => Some(match addr.ip().to_canonical() {
            IpAddr::V6(ip) if !ip.is_loopback() => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
            ip => ip,
        }),
        Peer::Unix => None,
    }
}

impl Door {
    /// One more connection, unless there are too many of its address.
    fn count(&self, peer: Peer, limit: u32) -> Result<(), ClientError> {
        let Some(address) = address(peer) else { return Ok(()) };
        let mut count = self.addresses.entry(address).or_default();
        if limit > 0 && *count >= limit {
            let text = "too many connections from this address (max_client_conn_per_address)";
            return Err(
                ClientError::fatal(SqlState::TOO_MANY_CONNECTIONS, text).hint("See max_client_conn_per_address.")
            );
        }
        *count += 1;
        Ok(())
    }

    /// A connection that another process of this Carpool has let in: no limit keeps it out.
    pub(super) fn count_again(&self, peer: Peer) {
        if let Some(address) = address(peer) {
            *self.addresses.entry(address).or_default() += 1;
        }
    }

    /// Whether anybody is between its first byte and its session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.line.lock().entries.is_empty()
    }

    /// A connection is gone.
    pub(super) fn uncount(&self, peer: Peer) {
        let Some(address) = address(peer) else { return };
        self.addresses.remove_if_mut(&address, |_, count| {
            *count = count.saturating_sub(1);
            *count == 0
        });
    }

    /// How many have not proved who they are.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.line.lock().unproved
    }

    /// Sends those away who take longer than `limit` (0: none) to log in. For each tick.
    pub fn end_late(&self, limit: Duration, now: Instant) {
        if !limit.is_zero() {
            self.line.lock().end_late(limit, now);
        }
    }

    /// Carpool stops: who logs in is sent away, and so are those who begin to from now on.
    pub fn stop(&self) {
        self.line.lock().stop();
    }

    fn tell(&self, now: Instant, pooler: &Pooler) {
        let mut told = self.told.lock();
        if told.is_none_or(|at| now.saturating_duration_since(at) > TELL_EVERY) {
            *told = Some(now);
            let most = pooler.max_login_connections;
            warn!("{most} connections have not logged in (max_login_connections): closing the oldest for new ones");
        }
    }
}

/// A connection that has come in; uncounted when dropped, unless a client of the registry has taken its place.
#[derive(Debug)]
pub struct Entrant {
    context: Arc<Context>,
    peer: Peer,
    number: u64,
    waiting: Arc<Waiting>,
    is_counted: bool,
}

impl Entrant {
    /// The context that it is counted in.
    #[must_use]
    pub const fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// What the others may ask of it.
    #[must_use]
    pub const fn waiting(&self) -> &Arc<Waiting> {
        &self.waiting
    }

    /// It has said that it wants to log in. Gives false where that can't be, as Carpool stops.
    #[must_use]
    pub fn may_log_in(&self) -> bool {
        let mut line = self.context.door.line.lock();
        let stopping = line.is_stopping;
        if let Some(entry) = line.entries.get_mut(&self.number) {
            entry.ends_with_stop = true;
        }
        !stopping
    }

    /// It has proved who it is.
    pub(super) fn proved(&self) {
        self.context.door.line.lock().proved(self.number);
    }

    /// A registered client counts for it from now on, up to [`Door::uncount`].
    pub(super) fn hand_over(mut self) {
        self.is_counted = false;
    }
}

impl Drop for Entrant {
    fn drop(&mut self) {
        self.context.door.line.lock().remove(self.number);
        if self.is_counted {
            self.context.door.uncount(self.peer);
        }
    }
}

/// Lets a connection in, as soon as there is room.
///
/// # Errors
/// What it is told where there is none.
pub async fn enter(context: &Arc<Context>, pooler: &Pooler, peer: Peer) -> Result<Entrant, ClientError> {
    context.door.count(peer, pooler.max_client_conn_per_address)?;
    let most = usize::try_from(pooler.max_login_connections).unwrap_or(usize::MAX);
    loop {
        let now = world::now();
        let (room, entered) = {
            let mut line = context.door.line.lock();
            let room = line.room(most, now);
            (room, matches!(room, Room::Free(_)).then(|| line.enter(now)))
        };
        if room != Room::Free(false) {
            context.door.tell(now, pooler);
        }
        if let Some((number, waiting)) = entered {
            return Ok(Entrant { context: Arc::clone(context), peer, number, waiting, is_counted: true });
        }
        if room == Room::None {
            context.door.uncount(peer);
            let text = "too many connections are logging in (max_login_connections)";
            return Err(ClientError::fatal(SqlState::TOO_MANY_CONNECTIONS, text).hint("See max_login_connections."));
        }
        timer::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_to_come_makes_room_after_its_grace() {
        let (mut line, begin) = (Line::default(), Instant::now());
        let (_, first) = line.enter(begin);
        let (second, _) = line.enter(begin + GRACE / 2);
        assert_eq!(line.room(3, begin), Room::Free(false));
        assert_eq!(line.room(2, begin + GRACE / 2), Room::Soon);
        {
            let _busy = first.busy();
            assert_eq!(line.room(2, begin + GRACE), Room::Soon, "one that is busy stays");
        }
        assert_eq!(line.room(2, begin + GRACE), Room::Free(true));
        assert_eq!(first.end.get(), Some(&End::NoRoom));
        assert_eq!(line.entries.keys().copied().collect::<Vec<_>>(), [second]);
        let last = Arc::clone(&line.entries[&second].waiting);
        let _busy = last.busy();
        assert_eq!(line.room(1, begin + 9 * GRACE), Room::None);
    }

    #[test]
    fn who_has_proved_who_it_is_takes_no_room_and_makes_none() {
        let (mut line, begin) = (Line::default(), Instant::now());
        let (first, proved) = line.enter(begin);
        let (_, second) = line.enter(begin);
        line.proved(first);
        line.proved(first);
        assert_eq!(line.room(2, begin), Room::Free(false));
        assert_eq!(line.room(1, begin + GRACE), Room::Free(true));
        assert_eq!((proved.end.get(), second.end.get()), (None, Some(&End::NoRoom)));
        assert_eq!((line.unproved, line.remove(first).is_some(), line.unproved), (0, true, 0));
    }

    #[test]
    fn who_takes_too_long_is_sent_away_in_whatever_state() {
        let (mut line, begin) = (Line::default(), Instant::now());
        let limit = Duration::from_secs(60);
        let (_, first) = line.enter(begin);
        let (second, proved) = line.enter(begin);
        let (third, last) = line.enter(begin + limit / 2);
        let _busy = first.busy();
        line.proved(second);
        line.end_late(limit, begin + limit - Duration::from_millis(1));
        assert!(first.end.get().is_none());
        line.end_late(limit, begin + limit);
        assert_eq!([first.end.get(), proved.end.get()], [Some(&End::Late(limit)); 2]);
        assert_eq!((last.end.get(), line.entries.len(), line.unproved), (None, 1, 1));
        line.end(third, End::Stop);
        assert_eq!(last.end.get(), Some(&End::Stop));
    }

    #[test]
    fn a_stop_ends_those_who_log_in() {
        let (mut line, now) = (Line::default(), Instant::now());
        let (_, silent) = line.enter(now);
        let (number, waiting) = line.enter(now);
        line.entries.get_mut(&number).unwrap().ends_with_stop = true;
        line.stop();
        assert_eq!((silent.end.get(), waiting.end.get()), (None, Some(&End::Stop)));
        assert_eq!(line.unproved, 1);
    }

    #[test]
    fn addresses_are_counted_whatever_their_notation() {
        let door = Door::default();
        let peer = |text: &str| Peer::Tcp(text.parse().unwrap());
        let peers = ["192.0.2.1:5", "[::ffff:192.0.2.1]:6", "[2001:db8::1]:7"].map(peer);
        assert_eq!(address(peers[2]), address(peer("[2001:db8::ffff:0:0:2]:1")), "of one network");
        assert_ne!(address(peers[2]), address(peer("[2001:db8:0:1::1]:7")));
        assert!(door.count(peers[0], 2).is_ok() && door.count(peers[1], 2).is_ok());
        assert_eq!(door.count(peers[0], 2).unwrap_err().code, SqlState::TOO_MANY_CONNECTIONS);
        assert!(door.count(peers[2], 2).is_ok() && door.count(peers[1], 0).is_ok());
        (0..3).for_each(|_| door.uncount(peers[0]));
        assert!(door.count(Peer::Unix, 1).is_ok() && door.count(Peer::Unix, 1).is_ok());
        assert_eq!(door.addresses.len(), 1, "an address without connections is forgotten");
    }
}
