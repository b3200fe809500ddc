//! Which session state applications use: counts by database, user, application and kind, for `SHOW AUDIT`.
//!
//! Everything is bounded, since names are the clients' choice: what is over a bound counts under [`OTHER`].

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

/// Databases, users and applications told apart, in all.
const PLACES: usize = 500;
/// Details of one kind told apart in one place.
const DETAILS: usize = 60;
/// How much of a detail is kept, bytes: PostgreSQL's names are no longer.
const DETAIL_LENGTH: usize = 63;

/// What is over a bound.
pub const OTHER: &str = "(other)";

/// Where something was used.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    /// As clients call it.
    pub database: Arc<str>,
    /// As whom they are logged in.
    pub user: Arc<str>,
    /// What they call themselves.
    pub application: Arc<str>,
}

/// What was used: its kind and, as with parameters, which.
pub type What = (&'static str, Box<str>);

/// How often.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Times that clients asked for it.
    pub uses: u64,
    /// Client sessions that did.
    pub sessions: u64,
    /// Times that a client began to keep a server for it.
    pub pins: u64,
}

/// What one session has been counted for.
#[derive(Debug, Default)]
pub struct Seen(BTreeSet<What>);

/// The counts of one place.
#[derive(Debug)]
pub struct Group {
    place: Place,
    counts: Mutex<HashMap<What, Counts>>,
}

/// One line of the outcome.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Line {
    /// Where.
    pub place: Place,
    /// What.
    pub what: What,
    /// As in [`Counts`].
    pub uses: u64,
    /// As in [`Counts`].
    pub sessions: u64,
    /// As in [`Counts`].
    pub pins: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Audit(Mutex<HashMap<Place, Arc<Group>>>);

impl Audit {
    /// The counts of a place.
    #[must_use]
    pub fn group(&self, place: Place) -> Arc<Group> {
        let mut groups = self.0.lock();
        let place = if groups.contains_key(&place) || groups.len() < PLACES {
            place
        } else {
            let other: Arc<str> = OTHER.into();
            Place { database: Arc::clone(&other), user: Arc::clone(&other), application: other }
        };
        let group = || Arc::new(Group { place: place.clone(), counts: Mutex::default() });
        Arc::clone(groups.entry(place.clone()).or_insert_with(group))
    }

    /// All counts, in order.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        let groups: Vec<_> = self.0.lock().values().cloned().collect();
        let mut lines = Vec::new();
        for group in groups {
            for (what, &Counts { uses, sessions, pins }) in &*group.counts.lock() {
                lines.push(Line { place: group.place.clone(), what: what.clone(), uses, sessions, pins });
            }
        }
        lines.sort_unstable();
        lines
    }
}

impl Group {
    /// Counts a use by a session that has been counted for `seen`.
    pub fn count(&self, kind: &'static str, detail: &str, seen: &mut Seen) {
        let what = self.add(kind, detail, |counts| counts.uses += 1);
        if seen.0.insert(what.clone()) {
            self.add(kind, &what.1, |counts| counts.sessions += 1);
        }
    }

    /// Counts that a client began to keep a server.
    pub fn count_pin(&self, kind: &'static str) {
        self.add(kind, "", |counts| counts.pins += 1);
    }

    fn add(&self, kind: &'static str, detail: &str, count: impl FnOnce(&mut Counts)) -> What {
        let end = (0..=DETAIL_LENGTH.min(detail.len())).rfind(|&end| detail.is_char_boundary(end)).unwrap_or(0);
        let mut what: What = (kind, detail[..end].into());
        let mut counts = self.counts.lock();
        if !counts.contains_key(&what) && counts.keys().filter(|(known, _)| *known == kind).count() >= DETAILS {
            what.1 = OTHER.into();
        }
        count(counts.entry(what.clone()).or_default());
        what
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(application: &str) -> Place {
        Place { database: "d".into(), user: "u".into(), application: application.into() }
    }

    #[test]
    fn sessions_count_once_for_each_thing() {
        let audit = Audit::default();
        let (mut one, mut two) = (Seen::default(), Seen::default());
        for seen in [&mut one, &mut two] {
            let group = audit.group(place("a"));
            group.count("settings", "x", seen);
            group.count("settings", "x", seen);
            group.count("settings", "y", seen);
            group.count_pin("temporary object");
        }
        let lines: Vec<_> = audit.lines().into_iter().map(|l| (l.what.1, l.uses, l.sessions, l.pins)).collect();
        assert_eq!(lines, [("x".into(), 4, 2, 0), ("y".into(), 2, 2, 0), ("".into(), 0, 0, 2)]);
    }

    #[test]
    fn details_are_bounded_and_the_rest_is_counted_together() {
        let audit = Audit::default();
        let (group, mut seen) = (audit.group(place("a")), Seen::default());
        for i in 0..1000 {
            group.count("settings", &format!("my.x{i}"), &mut seen);
        }
        // Another kind has room of its own, and what is known stays known.
        group.count("listen", "", &mut seen);
        group.count("settings", "my.x0", &mut seen);
        let lines = audit.lines();
        assert_eq!(lines.len(), DETAILS + 2);
        let of = |detail: &str| lines.iter().find(|l| &*l.what.1 == detail).map(|l| (l.uses, l.sessions));
        assert_eq!(of(OTHER), Some((1000 - DETAILS as u64, 1)));
        assert_eq!(of("my.x0"), Some((2, 1)));
        assert!(seen.0.len() <= DETAILS + 2, "a session's own memory, too");
    }

    #[test]
    fn places_are_bounded_and_the_rest_is_counted_together() {
        let audit = Audit::default();
        for i in 0..2000 {
            audit.group(place(&format!("a{i}"))).count("listen", "", &mut Seen::default());
        }
        let lines = audit.lines();
        assert_eq!(lines.len(), PLACES + 1);
        let other = lines.iter().find(|l| &*l.place.application == OTHER).unwrap();
        assert_eq!((other.uses, other.sessions), (2000 - PLACES as u64, 2000 - PLACES as u64));
        assert_eq!(&*audit.group(place("a7")).place.application, "a7");
    }

    #[test]
    fn long_details_are_cut_between_characters() {
        let audit = Audit::default();
        audit.group(place("a")).count("settings", &"é".repeat(100), &mut Seen::default());
        assert_eq!(audit.lines()[0].what.1.len(), DETAIL_LENGTH - 1);
    }
}
