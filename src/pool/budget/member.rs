//! What one Carpool knows of the budget, and does next. Pure: it is told what was read and what the time is, and says what is to be
//! written.
//!
//! Five rules keep the sum within the size, whoever is cut off, frozen or killed, and whenever:
//! - A login may begin only within what the ledger says for sure that the member holds, and while its last *confirmed* write is younger than
//!   [`LEASE`]. From a look at the pool until the ledger is sure of what follows, the pool begins nothing beyond what it had.
//! - The slot of a server that has ended isn't used again before a look at the ledger: it may be written down there, and then it must be
//!   struck out first, so that what a member holds beyond the servers that are written down is as many as it can have besides.
//! - A member that hasn't written for [`DEAD`], by the clock of who watches, may be condemned, by a write. From then on it can't begin
//!   anything: its own writes fail, and its lease has long run out.
//! - What a condemned member holds comes free as its servers are seen to have ended (they are ended by who condemned it). Logins of which
//!   nobody knows end by themselves within `authentication_timeout`, or are seen as sessions that are nobody's.
//! - A server that the pool has given up counts until PostgreSQL has it no more, and so does a session that nobody knows, where a login
//!   has failed, or a server hasn't hung up, of which it may be what is left.
//!
//! No two clocks are compared: ages are by the clock of who watches, and moments by PostgreSQL's.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::ledger::{Backend, Claim, Entry, Ledger, MemberId, divide};

/// How long a confirmed write lets logins begin.
pub(super) const LEASE: Duration = Duration::from_secs(10);
/// How long a member has to have been silent before others may condemn it; more than [`LEASE`].
pub(super) const DEAD: Duration = Duration::from_secs(15);
/// How often a member writes, if only to say that it is there.
pub(super) const BEAT: Duration = Duration::from_secs(2);
/// How long a server that the pool has given up may go on before it is ended.
pub(super) const PATIENCE: Duration = Duration::from_secs(6);

/// What was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Of the ledger's row.
    pub version: u64,
    /// What it says.
    pub ledger: Ledger,
    /// The server's clock, microseconds since 1970.
    pub now: i64,
    /// `authentication_timeout`: how long a login may take, as the server has it.
    pub login_limit: Duration,
    /// The process that was asked.
    pub link: Backend,
    /// Sessions of clients in this database, Carpools' connections to the ledger among them.
    pub backends: Vec<Backend>,
}

impl Seen {
    /// The session with this process number.
    fn session(&self, pid: u32) -> Option<Backend> {
        self.backends.iter().copied().find(|backend| backend.0 == pid)
    }

    fn is_alive(&self, backend: Backend) -> bool {
        self.backends.contains(&backend)
    }

    /// Sessions that began within this time, or it isn't told when, and that no member has written down.
    fn nobodys(&self, (from, to): (i64, i64)) -> impl Iterator<Item = &Backend> {
        let known: HashSet<Backend> =
            self.ledger.members.iter().flat_map(|entry| entry.servers.iter().chain(&entry.link)).copied().collect();
        let began = move |backend: &Backend| backend.1 == 0 || (from..=to).contains(&backend.1);
        self.backends.iter().filter(move |backend| began(backend) && !known.contains(backend) && **backend != self.link)
    }
}

/// What the pool has, at a moment from which on it begins no login beyond `slots`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Local {
    /// Slots taken: servers, logins under way, servers that are being closed.
    pub slots: u32,
    /// Logins among them.
    pub logins: u32,
    /// How many it needs now for those who wait, with those that it has; not more than it may have by its own configuration.
    pub need: u32,
    /// How many it could have used of late; not more than that, either.
    pub want: u32,
    /// Process numbers of its servers, without those that are being closed.
    pub servers: Vec<u32>,
    /// Logins that have failed since the last look without PostgreSQL having said so, and servers that haven't hung up: it may have them.
    pub unsure: u32,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Round {
    /// The others have given this member up: no server of its may be used any more. These are to be ended; when the pool has no slot
    /// left, it takes part anew, as somebody else.
    Lost(Vec<Backend>),
    /// Goes on.
    Step(Step),
}

/// See [`Round`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// What the ledger is to say, if anything; a change of the version that was seen.
    pub write: Option<Ledger>,
    /// How many slots the pool may have once the write is confirmed; without one, at once.
    pub after: u32,
    /// Processes that are to be ended.
    pub end: Vec<Backend>,
}

/// Since when another member's entry has been as it is.
#[derive(Clone, Copy, Debug)]
struct Watched {
    beat: u64,
    condemned: bool,
    since: Instant,
}

/// See the module.
#[derive(Debug)]
pub struct Member {
    /// Who it is.
    pub id: MemberId,
    name: String,
    beat: u64,
    /// Until when the last confirmed write lets logins begin.
    lease: Option<Instant>,
    /// A write may still arrive, so nothing that is read is sure.
    doubtful: bool,
    others: HashMap<MemberId, Watched>,
    /// Servers that the pool has given up, and since when they are still there.
    ghosts: HashMap<Backend, Instant>,
    strays: Option<Strays>,
}

/// Connections that were given up, of which PostgreSQL may still have some, and which nobody has written down.
#[derive(Clone, Copy, Debug)]
struct Strays {
    count: u32,
    /// When such a session has begun, by PostgreSQL's clock.
    began: (i64, i64),
    noted: Instant,
}

impl Member {
    /// One that holds nothing.
    #[must_use]
    pub fn new(id: MemberId, name: String) -> Self {
        let (others, ghosts) = (HashMap::new(), HashMap::new());
        Self { id, name, beat: 0, lease: None, doubtful: false, others, ghosts, strays: None }
    }

    /// Until when logins may begin.
    #[must_use]
    pub const fn lease(&self) -> Option<Instant> {
        self.lease
    }

    /// Decides what is to be done, `now` being when what was read was asked for, and `size` what the configuration says.
    pub(super) fn look(&mut self, seen: &Seen, local: &Local, size: u32, now: Instant) -> Round {
        let own = seen.ledger.of(self.id);
        if own.is_some_and(|own| own.condemned.is_some()) || (own.is_none() && self.lease.is_some()) {
            return Round::Lost(local.servers.iter().filter_map(|pid| seen.session(*pid)).collect());
        }
        self.watch(&seen.ledger, now);
        let spent = self.note_ghosts(seen, own, local, now) + self.note_strays(seen, own, local, now);
        let mut ledger = seen.ledger.clone();
        let mut end = self.free(&mut ledger, seen, now);
        end.extend(self.condemn(&mut ledger, seen, local, size, now));
        end.extend(
            self.ghosts.iter().filter(|(_, since)| now.duration_since(**since) >= PATIENCE).map(|(ghost, _)| *ghost),
        );
        end.retain(|backend| backend.1 != 0);

        let part = self.part(&ledger, seen, local, size, now).saturating_sub(spent);
        let slots = local.slots.max(part.min(local.need));
        let held = slots.saturating_add(spent);
        let entry = self.entry(seen, local, size, held);
        let says_more = own.is_none_or(|own| !says_the_same(own, &entry));
        let is_due = self.lease.is_none_or(|until| now + LEASE >= until + BEAT);
        let others_change = !others(&ledger, self.id).eq(others(&seen.ledger, self.id));
        ledger.set(entry);
        let write = (self.doubtful || is_due || says_more || others_change).then_some(ledger);
        Round::Step(Step { write, after: slots.min(part), end })
    }

    /// The write of a step, sent at `sent`, has been done.
    pub fn confirmed(&mut self, sent: Instant) {
        self.beat += 1;
        self.doubtful = false;
        self.lease = Some(sent + LEASE);
    }

    /// It isn't known whether it has been done, or still will be: another has to be, which then can't be.
    pub const fn doubt(&mut self) {
        self.beat += 1;
        self.doubtful = true;
    }

    /// The ledger without this member, which has no server any more.
    #[must_use]
    pub fn leave(&self, ledger: &Ledger) -> Ledger {
        Ledger { members: others(ledger, self.id).cloned().collect() }
    }

    /// Others that have been silent for so long that nothing is to be expected of them.
    #[must_use]
    pub fn is_silent(&self, id: MemberId, now: Instant) -> bool {
        self.others.get(&id).is_some_and(|watched| now.duration_since(watched.since) >= DEAD)
    }

    fn watch(&mut self, ledger: &Ledger, now: Instant) {
        self.others.retain(|id, _| ledger.of(*id).is_some());
        for entry in others(ledger, self.id) {
            let seen = Watched { beat: entry.beat, condemned: entry.condemned.is_some(), since: now };
            let known = self.others.entry(entry.id).or_insert(seen);
            if (known.beat, known.condemned) != (seen.beat, seen.condemned) {
                *known = seen;
            }
        }
    }

    /// Servers that the pool has given up and PostgreSQL still has, but for those whose slots are still taken.
    fn note_ghosts(&mut self, seen: &Seen, own: Option<&Entry>, local: &Local, now: Instant) -> u32 {
        let given_up = |backend: &Backend| seen.is_alive(*backend) && !local.servers.contains(&backend.0);
        self.ghosts.retain(|ghost, _| given_up(ghost));
        for ghost in own.into_iter().flat_map(|own| &own.servers).filter(|backend| given_up(backend)) {
            self.ghosts.entry(*ghost).or_insert(now);
        }
        let closing = local.slots.saturating_sub(local.logins).saturating_sub(count(local.servers.len()));
        count(self.ghosts.len()).saturating_sub(closing)
    }

    /// Sessions that may be what is left of logins that have failed, or of servers that were given up.
    fn note_strays(&mut self, seen: &Seen, own: Option<&Entry>, local: &Local, now: Instant) -> u32 {
        // It may have been cut off since it wrote last.
        let earliest =
            own.map_or(seen.now, |own| own.written.min(seen.now)).saturating_sub(2 * micros(seen.login_limit));
        if local.unsure > 0 {
            let known = self.strays.map_or((0, earliest), |strays| (strays.count, strays.began.0));
            let count = known.0.saturating_add(local.unsure);
            self.strays = Some(Strays { count, began: (known.1, seen.now), noted: now });
        }
        let Some(strays) = &mut self.strays else { return 0 };
        let is_own = |backend: &Backend| local.servers.contains(&backend.0);
        let nobodys =
            seen.nobodys(strays.began).filter(|backend| !is_own(backend) && !self.ghosts.contains_key(backend));
        let left = count(nobodys.count()).min(strays.count);
        if now.duration_since(strays.noted) >= PATIENCE {
            strays.count = left;
        }
        if strays.count == 0 {
            self.strays = None;
        }
        left
    }

    /// What is to be said of this member.
    fn entry(&self, seen: &Seen, local: &Local, size: u32, held: u32) -> Entry {
        let own = seen.ledger.of(self.id);
        let mut servers: Vec<Backend> = local.servers.iter().filter_map(|pid| seen.session(*pid)).collect();
        servers.extend(self.ghosts.keys());
        servers.sort_unstable();
        let without = (held == 0 && local.want > 0).then(|| own.and_then(|own| own.without).unwrap_or(seen.now));
        Entry {
            id: self.id,
            name: self.name.clone(),
            beat: self.beat + 1,
            size,
            want: local.want,
            held,
            link: Some(seen.link),
            servers,
            written: seen.now,
            without,
            condemned: None,
        }
    }

    /// Frees what condemned members hold, as far as that is over. Gives what of theirs is to be ended.
    fn free(&self, ledger: &mut Ledger, seen: &Seen, now: Instant) -> Vec<Backend> {
        let mut end = Vec::new();
        for entry in &mut ledger.members {
            let Some(condemned) = entry.condemned else { continue };
            let mut unknown = entry.held.saturating_sub(count(entry.servers.len()));
            let since = self.others.get(&entry.id).map_or(now, |watched| watched.since);
            if now.duration_since(since) >= seen.login_limit {
                let limit = micros(seen.login_limit);
                let began = (entry.written.saturating_sub(2 * limit), condemned.saturating_add(limit));
                unknown = unknown.min(count(seen.nobodys(began).count()));
            }
            entry.servers.retain(|backend| seen.is_alive(*backend));
            end.extend(&entry.servers);
            entry.held = unknown.saturating_add(count(entry.servers.len()));
        }
        ledger.members.retain(|entry| entry.condemned.is_none() || entry.held > 0);
        end
    }

    /// Condemns members that are silent, if their servers are gone, or what they hold is needed. Gives what is to be ended.
    fn condemn(&self, ledger: &mut Ledger, seen: &Seen, local: &Local, size: u32, now: Instant) -> Vec<Backend> {
        let held = ledger.of(self.id).map_or(0, |own| own.held);
        let is_short = local.need > held && ledger.held() >= ledger.size(size);
        let mut end = Vec::new();
        for entry in ledger.members.iter_mut().filter(|entry| entry.condemned.is_none() && entry.id != self.id) {
            let alive: Vec<Backend> = entry.servers.iter().copied().filter(|backend| seen.is_alive(*backend)).collect();
            if self.is_silent(entry.id, now) && (is_short || alive.is_empty()) {
                entry.condemned = Some(seen.now);
                end.extend(alive);
            }
        }
        end
    }

    /// How many this member may hold now.
    fn part(&self, ledger: &Ledger, seen: &Seen, local: &Local, size: u32, now: Instant) -> u32 {
        let claim = |entry: &Entry| {
            let without = entry.without.and_then(|since| u64::try_from(seen.now.saturating_sub(since)).ok());
            // One that is silent keeps what it has, for the time being, and gets no more.
            let want = if self.is_silent(entry.id, now) { entry.want.min(entry.held) } else { entry.want };
            Claim { want, held: entry.held, without: Duration::from_micros(without.unwrap_or_default()) }
        };
        let held = ledger.of(self.id).map_or(0, |own| own.held);
        let (condemned, active): (Vec<&Entry>, Vec<&Entry>) =
            ledger.members.iter().partition(|entry| entry.condemned.is_some());
        let gone = condemned.iter().fold(0_u32, |sum, entry| sum.saturating_add(entry.held));
        // Its own place among them is that of its number, as all others see it.
        let at = active.partition_point(|entry| entry.id < self.id);
        let mut claims: Vec<Claim> = active.iter().map(|entry| claim(entry)).collect();
        match active.get(at).filter(|entry| entry.id == self.id) {
            Some(_) => claims[at].want = local.want,
            None => claims.insert(at, Claim { want: local.want, held: 0, without: Duration::ZERO }),
        }
        let size = ledger.size(size);
        let part = divide(size.saturating_sub(gone), &claims)[at];
        part.min(size.saturating_sub(ledger.held().saturating_sub(held)))
    }
}

fn others(ledger: &Ledger, id: MemberId) -> impl Iterator<Item = &Entry> {
    ledger.members.iter().filter(move |entry| entry.id != id)
}

/// Whether an entry is as another but for what changes each time.
fn says_the_same(one: &Entry, other: &Entry) -> bool {
    let apart = Entry { beat: other.beat, written: other.written, ..one.clone() };
    apart == *other
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 4)
}
