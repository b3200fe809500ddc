//! Averages over the last statistics periods, from two looks at the sums: nothing is added to what counts them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Totals;
use crate::names::DatabaseName;

/// The sums at one moment.
#[derive(Clone, Debug)]
struct Look {
    at: Instant,
    totals: HashMap<DatabaseName, Totals>,
}

#[derive(Debug)]
struct Looks {
    older: Look,
    newer: Look,
}

/// The two latest looks. Averages are taken since the older one, as PgBouncer takes them: over one to two periods.
#[derive(Debug)]
pub struct History(Mutex<Looks>);

impl History {
    /// A history that begins at `now`, with all sums zero.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let look = Look { at: now, totals: HashMap::new() };
        Self(Mutex::new(Looks { older: look.clone(), newer: look }))
    }

    /// Notes a look at the sums. Gives the averages of all since the look before it.
    pub fn record(&self, now: Instant, totals: impl IntoIterator<Item = (DatabaseName, Totals)>) -> Totals {
        let look = Look { at: now, totals: totals.into_iter().collect() };
        let mut looks = self.0.lock();
        let previous = std::mem::replace(&mut looks.newer, look);
        looks.older = previous;
        let sum = |look: &Look| look.totals.values().copied().sum::<Totals>();
        sum(&looks.newer).average_since(sum(&looks.older), elapsed(&looks.older, now))
    }

    /// The averages of one database whose sums at `now` are `totals`.
    #[must_use]
    pub fn average(&self, name: &DatabaseName, totals: Totals, now: Instant) -> Totals {
        let looks = self.0.lock();
        let before = looks.older.totals.get(name).copied().unwrap_or_default();
        totals.average_since(before, elapsed(&looks.older, now))
    }

    /// The averages of all databases together, whose sums at `now` are `totals`.
    #[must_use]
    pub fn average_of_all(&self, totals: Totals, now: Instant) -> Totals {
        let looks = self.0.lock();
        let before = looks.older.totals.values().copied().sum();
        totals.average_since(before, elapsed(&looks.older, now))
    }
}

fn elapsed(look: &Look, now: Instant) -> Duration {
    now.saturating_duration_since(look.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queries(queries: u64) -> Totals {
        Totals { queries, ..Totals::default() }
    }

    #[test]
    fn averages_reach_back_to_the_older_look() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let [a, b] = ["a", "b"].map(DatabaseName::from);
        let history = History::new(start);
        assert_eq!(history.average(&a, queries(50), at(5)).queries, 10, "since the start");
        let line = history.record(at(10), [(a.clone(), queries(100)), (b.clone(), queries(10))]);
        assert_eq!(line.queries, 11);
        assert_eq!(history.average(&a, queries(100), at(20)).queries, 5, "the older look is still the start");
        let line = history.record(at(20), [(a.clone(), queries(400)), (b, queries(10))]);
        assert_eq!(line.queries, 30);
        assert_eq!(history.average(&a, queries(400), at(30)).queries, 15);
        assert_eq!(history.average_of_all(queries(510), at(30)).queries, 20);
        assert_eq!(history.average(&"new".into(), queries(40), at(30)).queries, 2);
    }
}
