//! Where the time of transactions goes, by database, user and application: for `SHOW WAITS`.
//!
//! A [`Meter`] follows one session's transaction by what it is told at moments that the session knows anyway; what
//! comes out is added to a [`Group`], found once per session. Groups are bounded, since names are the clients' choice.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::audit::{OTHER, Place};
use super::fine::Fine;

/// Groups that are told apart by application. Above that there is one more for each user, up to twice as many.
const PLACES: usize = 500;

/// What takes the time of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The client waits for a server.
    Queue,
    /// The server carries out requests of Carpool's own: settings, statements to be prepared anew, questions.
    Replay,
    /// The server carries out the client's.
    Server,
    /// The server waits for the client's next request.
    Client,
    /// The server waits, or could, since the client doesn't take what has come.
    Backpressure,
}

impl Part {
    /// All.
    pub const ALL: [Self; 5] = [Self::Queue, Self::Replay, Self::Server, Self::Client, Self::Backpressure];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Replay => "replay",
            Self::Server => "server",
            Self::Client => "client",
            Self::Backpressure => "backpressure",
        }
    }
}

/// Microseconds by [`Part`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Parts([u64; 5]);

impl Parts {
    /// Of one.
    #[must_use]
    pub const fn get(&self, part: Part) -> u64 {
        self.0[part as usize]
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds to one.
    pub const fn add(&mut self, part: Part, micros: u64) {
        self.0[part as usize] = self.0[part as usize].saturating_add(micros);
    }

    /// Adds others.
    pub fn add_all(&mut self, other: &Self) {
        Part::ALL.into_iter().for_each(|part| self.add(part, other.get(part)));
    }

    /// The shares of `n` requests that were answered together: each has the same of what came after the first was sent,
    /// and what came before is the first one's. Gives the first one's share and that of each other.
    #[must_use]
    pub fn divide(&self, n: u64) -> (Self, Self) {
        let (mut first, mut other) = (*self, Self::default());
        for part in [Part::Server, Part::Backpressure] {
            let share = self.get(part) / n.max(1);
            other.0[part as usize] = share;
            first.0[part as usize] -= share * (n.max(1) - 1);
        }
        (first, other)
    }
}

/// Microseconds since whenever.
type Moment = u64;

/// Follows one transaction after another.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Meter {
    /// What takes time now; `None` between transactions.
    now: Option<Part>,
    since: Moment,
    whole: Parts,
    /// Since the last statement ended.
    pending: Parts,
}

impl Meter {
    /// A transaction begins: the client has its server now, after so long a wait.
    pub fn begin(&mut self, now: Moment, waited: u64) {
        *self = Self { now: Some(Part::Server), since: now, ..Self::default() };
        self.charge(Part::Queue, waited);
    }

    const fn charge(&mut self, part: Part, micros: u64) {
        self.whole.add(part, micros);
        self.pending.add(part, micros);
    }

    /// What takes time now.
    #[must_use]
    pub const fn now(&self) -> Option<Part> {
        self.now
    }

    /// From now on it is `part` that takes time.
    pub fn turn(&mut self, now: Moment, part: Part) {
        if let Some(before) = self.now {
            self.charge(before, now.saturating_sub(self.since));
            (self.since, self.now) = (now.max(self.since), Some(part));
        }
    }

    /// What takes time since the last turn is another thing than was said then.
    pub fn correct(&mut self, part: Part) {
        self.now = self.now.map(|_| part);
    }

    /// Requests of Carpool's own and the client's were answered together, so half of the time since the last turn counts
    /// for each.
    pub fn split(&mut self, now: Moment) {
        if self.now == Some(Part::Replay) {
            self.turn(self.since + now.saturating_sub(self.since) / 2, Part::Server);
        }
    }

    /// What has come since the last statement ended. One ends now.
    pub fn take_pending(&mut self) -> Parts {
        std::mem::take(&mut self.pending)
    }

    /// The transaction ends. Gives where its time went.
    pub fn end(&mut self, now: Moment) -> Option<Parts> {
        self.turn(now, Part::Client);
        self.now.take().map(|_| self.whole)
    }
}

/// Sums of one kind of transaction.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    /// How many.
    pub transactions: u64,
    total: Parts,
    /// Only of what has ever taken time.
    times: [Option<Fine>; 5],
}

/// One part of [`Sums`], microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Summary {
    /// All of it.
    pub total_us: u64,
    /// The median.
    pub p50_us: u64,
    /// The 99th percentile.
    pub p99_us: u64,
}

impl Sums {
    fn count(&mut self, parts: &Parts) {
        self.transactions += 1;
        self.total.add_all(parts);
        for part in Part::ALL {
            if parts.get(part) > 0 {
                self.times[part as usize].get_or_insert_default().observe(parts.get(part));
            }
        }
    }

    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        self.transactions += other.transactions;
        self.total.add_all(&other.total);
        for (sum, times) in self.times.iter_mut().zip(&other.times) {
            if let Some(times) = times {
                sum.get_or_insert_default().add(times);
            }
        }
    }

    /// Where the time went, all in all.
    #[must_use]
    pub const fn total(&self) -> &Parts {
        &self.total
    }

    /// One part.
    #[must_use]
    pub fn summary(&self, part: Part) -> Summary {
        let percentile = |percent| {
            self.times[part as usize].as_ref().map_or(0, |times| times.percentile(percent, self.transactions))
        };
        Summary { total_us: self.total.get(part), p50_us: percentile(50), p99_us: percentile(99) }
    }

    /// For each of `exponents` in how many transactions a part took less than 2 to its power microseconds.
    #[must_use]
    pub fn below(&self, part: Part, exponents: &[u32]) -> Vec<(u64, u64)> {
        match &self.times[part as usize] {
            Some(times) => times.below(exponents, self.transactions).collect(),
            None => exponents.iter().map(|&exponent| (1 << exponent, self.transactions)).collect(),
        }
    }
}

/// The transactions of an application's sessions as one user of one database.
#[derive(Debug)]
pub struct Group {
    place: Place,
    sums: Mutex<Sums>,
}

impl Group {
    /// Counts a transaction.
    pub fn count(&self, parts: &Parts) {
        self.sums.lock().count(parts);
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Waits {
    groups: Mutex<HashMap<Place, Arc<Group>>>,
    since: Mutex<Option<Instant>>,
}

impl Waits {
    /// The group of a place, or where there are too many of those the one of all other applications of its user, then
    /// of all other users of its database, then of all others.
    #[must_use]
    pub fn group(&self, place: Place) -> Arc<Group> {
        let mut groups = self.groups.lock();
        let other: Arc<str> = OTHER.into();
        let of_user = Place { application: Arc::clone(&other), ..place.clone() };
        let of_database = Place { user: Arc::clone(&other), ..of_user.clone() };
        let of_all = Place { database: other, ..of_database.clone() };
        let rooms = [(place, PLACES), (of_user, 2 * PLACES), (of_database, 3 * PLACES), (of_all, usize::MAX)];
        let n = groups.len();
        let found = rooms.into_iter().find(|(place, room)| n < *room || groups.contains_key(place));
        // The last one always has room.
        let place = found.map_or_else(
            || Place { database: OTHER.into(), user: OTHER.into(), application: OTHER.into() },
            |(place, _)| place,
        );
        let group = || Arc::new(Group { place: place.clone(), sums: Mutex::default() });
        Arc::clone(groups.entry(place.clone()).or_insert_with(group))
    }

    /// All sums, in order.
    #[must_use]
    pub fn read(&self) -> Vec<(Place, Sums)> {
        let groups: Vec<_> = self.groups.lock().values().cloned().collect();
        let read = |group: Arc<Group>| (group.place.clone(), group.sums.lock().clone());
        let mut sums: Vec<_> = groups.into_iter().map(read).filter(|(_, sums)| sums.transactions > 0).collect();
        sums.sort_by(|a, b| a.0.cmp(&b.0));
        sums
    }

    /// Since when they count; `None`: since the start.
    #[must_use]
    pub fn since(&self) -> Option<Instant> {
        *self.since.lock()
    }

    /// Begins anew.
    pub fn reset(&self, now: Instant) {
        let mut groups = self.groups.lock();
        groups.values().for_each(|group| *group.sums.lock() = Sums::default());
        // Sessions keep theirs.
        groups.retain(|_, group| Arc::strong_count(group) > 1);
        *self.since.lock() = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(user: &str, application: &str) -> Place {
        Place { database: "d".into(), user: user.into(), application: application.into() }
    }

    fn parts(of: [u64; 5]) -> Parts {
        Parts(of)
    }

    #[test]
    fn a_transaction_is_followed() {
        let mut meter = Meter::default();
        assert_eq!((meter.end(5), meter.now()), (None, None));
        meter.begin(100, 40);
        meter.correct(Part::Replay);
        meter.turn(110, Part::Server);
        meter.turn(150, Part::Backpressure);
        meter.turn(250, Part::Server);
        assert_eq!(meter.take_pending(), parts([40, 10, 40, 0, 100]));
        meter.turn(251, Part::Client);
        meter.turn(1251, Part::Server);
        assert_eq!(meter.end(1256), Some(parts([40, 10, 46, 1000, 100])));
        assert_eq!(meter.take_pending(), parts([0, 0, 6, 1000, 0]));
        assert_eq!(meter.end(2000), None, "it has ended");
    }

    #[test]
    fn what_is_answered_together_is_shared() {
        let mut meter = Meter::default();
        meter.begin(0, 0);
        meter.split(7);
        meter.correct(Part::Replay);
        meter.split(10);
        assert_eq!(meter.end(10), Some(parts([0, 5, 5, 0, 0])));
        let (first, other) = parts([3, 4, 11, 5, 2]).divide(3);
        assert_eq!((first, other), (parts([3, 4, 5, 5, 2]), parts([0, 0, 3, 0, 0])));
        assert_eq!(parts([1, 2, 3, 4, 5]).divide(1).0, parts([1, 2, 3, 4, 5]));
    }

    #[test]
    fn groups_are_bounded_and_no_user_is_lost_among_applications() {
        let waits = Waits::default();
        for application in 0..3 * PLACES {
            waits.group(place("u", &format!("a{application}"))).count(&parts([1, 0, 0, 0, 0]));
        }
        for user in 0..5 * PLACES {
            waits.group(place(&format!("u{user}"), "x")).count(&parts([0, 0, 1, 0, 0]));
        }
        for database in 0..5 * PLACES {
            let place = Place { database: format!("d{database}").into(), ..place("u", "x") };
            waits.group(place).count(&parts([0, 0, 0, 1, 0]));
        }
        let read = waits.read();
        assert_eq!(read.len(), 3 * PLACES + 1);
        let of = |database: &str, user: &str, application: &str| {
            let place = Place { database: database.into(), user: user.into(), application: application.into() };
            read.iter().find(|(p, _)| *p == place).map(|(_, sums)| sums.transactions)
        };
        assert_eq!(of("d", "u", "a7"), Some(1));
        assert_eq!(of("d", "u", OTHER), Some(2 * PLACES as u64));
        assert_eq!((of("d", "u0", OTHER), of("d", OTHER, OTHER).is_some()), (Some(1), true));
        assert!(of(OTHER, OTHER, OTHER).is_some());
        assert_eq!(read.iter().map(|(_, sums)| sums.transactions).sum::<u64>(), 13 * PLACES as u64);
        waits.reset(Instant::now());
        assert_eq!((waits.read().len(), waits.groups.lock().len()), (0, 0));
    }

    #[test]
    fn a_reset_leaves_sessions_their_groups() {
        let waits = Waits::default();
        let group = waits.group(place("u", "a"));
        group.count(&parts([0, 0, 7, 0, 0]));
        waits.reset(Instant::now());
        assert!(waits.read().is_empty());
        group.count(&parts([1000, 0, 3, 0, 0]));
        let read = waits.read();
        assert_eq!((read.len(), read[0].1.transactions), (1, 1));
        assert_eq!(read[0].1.summary(Part::Server), Summary { total_us: 3, p50_us: 3, p99_us: 3 });
        assert_eq!(read[0].1.summary(Part::Client), Summary::default());
        assert_eq!(read[0].1.below(Part::Queue, &[9, 10]), [(512, 0), (1024, 1)]);
        assert_eq!(read[0].1.below(Part::Replay, &[9]), [(512, 1)]);
    }

    proptest! {
        /// Whatever happens within it, the parts are the whole, for the transaction and for its statements.
        #[test]
        fn the_parts_are_the_whole(
            waited in 0u64..1000,
            steps in proptest::collection::vec((0u64..1000, 0usize..8), 0..30),
        ) {
            let (mut meter, mut now, mut statements) = (Meter::default(), 5u64, Parts::default());
            meter.begin(now, waited);
            for (micros, step) in steps {
                now += micros;
                match step {
                    5 => meter.split(now),
                    6 => meter.correct(Part::Replay),
                    7 => {
                        let (first, other) = meter.take_pending().divide(3);
                        [first, other, other].iter().for_each(|parts| statements.add_all(parts));
                    }
                    part => meter.turn(now, Part::ALL[part]),
                }
            }
            let whole = meter.end(now + 3).unwrap();
            statements.add_all(&meter.take_pending());
            prop_assert_eq!(whole.total(), waited + now + 3 - 5);
            prop_assert_eq!(statements, whole);
        }
    }
}
