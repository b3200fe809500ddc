//! When applications starve each other, or themselves: all servers of a pool are held by clients that do nothing with
//! them, because what they wait for is behind the queue. An application that takes a second connection within a
//! transaction does that as soon as enough of its requests come at once: each holds one server and waits for another.
//! Nothing ends it but `query_wait_timeout` and `idle_transaction_timeout`.
//!
//! Pure: what holders and waiting clients do is told from outside.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::names::UserName;

/// How long nobody may have done anything, before it counts. A client that thinks between two statements looks the same
/// for a moment.
pub const STILLNESS: Duration = Duration::from_secs(1);

/// Whom connections belong to, as far as can be told from outside.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Application {
    /// Its `application_name`; may be empty.
    pub name: String,
    /// As whom it has logged in.
    pub user: UserName,
    /// Its host; `None`: this one, by the unix socket.
    pub host: Option<IpAddr>,
}

impl std::fmt::Display for Application {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name.as_str() {
            "" => write!(f, "user \"{}\"", self.user)?,
            name => write!(f, "application \"{name}\" (user \"{}\")", self.user)?,
        }
        match self.host {
            Some(host) => write!(f, " at {host}"),
            None => Ok(()),
        }
    }
}

/// One that holds a server.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Whose it is; `None`: Carpool's own.
    pub application: Option<Application>,
    /// For how long the server has waited for its client; `None`: it has something to do.
    pub still: Option<Duration>,
}

/// One application that starves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Starving {
    /// Which.
    pub application: Application,
    /// Servers that it holds and does nothing with.
    pub holds: u32,
    /// Its connections that wait for one.
    pub waits: u32,
}

/// Who starves, if the whole pool does: `size` servers, all held by clients that don't use them, and of each application
/// that holds one others wait. Those that hold most come first.
#[must_use]
pub fn starving(seats: &[Seat], waiting: &BTreeMap<Application, u32>, size: u32) -> Vec<Starving> {
    let mut holds: BTreeMap<&Application, u32> = BTreeMap::new();
    for seat in seats {
        match (&seat.application, seat.still) {
            // The listening connection and its like stay as they are: nobody waits for what they do.
            (None, _) => {}
            (Some(application), Some(still)) if still >= STILLNESS => *holds.entry(application).or_default() += 1,
            // It does something, or did so just now: it may well come to an end.
            (Some(_), _) => return Vec::new(),
        }
    }
    let is_full = u32::try_from(seats.len()).is_ok_and(|seats| seats >= size);
    if !is_full || holds.is_empty() || holds.keys().any(|application| !waiting.contains_key(*application)) {
        return Vec::new();
    }
    let mut starving: Vec<_> = holds
        .into_iter()
        .map(|(application, holds)| {
            let waits = waiting.get(application).copied().unwrap_or_default();
            Starving { application: application.clone(), holds, waits }
        })
        .collect();
    starving.sort_by_key(|starving| std::cmp::Reverse(starving.holds));
    starving
}

/// How many applications are named.
const NAMED: usize = 3;

/// A sentence about them; empty for none.
#[must_use]
pub fn sentence(starving: &[Starving]) -> String {
    if starving.is_empty() {
        return String::new();
    }
    let one = |s: &Starving| format!("{} holds {} and waits for {} more", s.application, s.holds, s.waits);
    let named: Vec<_> = starving.iter().take(NAMED).map(one).collect();
    let rest = match starving.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("; and {more} others"),
    };
    format!(
        "Starvation: all servers are held in transactions that do nothing while their own application waits: {}{rest}.",
        named.join("; ")
    )
}

/// Spells of starvation in one pool.
#[derive(Debug, Default)]
pub struct Spells {
    /// The present one: since when, and who.
    now: Mutex<Option<(Instant, Vec<Starving>)>>,
    begun: AtomicU64,
}

/// What a look has changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A spell begins.
    Begins,
    /// One is over, after so long.
    Ends(Duration),
}

impl Spells {
    /// Notes who starves at `now`; nobody: none.
    pub fn note(&self, starving: Vec<Starving>, now: Instant) -> Option<Change> {
        let mut spell = self.now.lock();
        if starving.is_empty() {
            return spell.take().map(|(since, _)| Change::Ends(now.saturating_duration_since(since)));
        }
        let since = spell.as_ref().map(|(since, _)| *since);
        *spell = Some((since.unwrap_or(now), starving));
        since.is_none().then(|| {
            self.begun.fetch_add(1, Ordering::Relaxed);
            Change::Begins
        })
    }

    /// Whether the pool starved at the last look.
    #[must_use]
    pub fn is_starving(&self) -> bool {
        self.now.lock().is_some()
    }

    /// How many there have been.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn application(name: &str) -> Application {
        Application { name: name.into(), user: "u".into(), host: None }
    }

    fn seat(name: &str, still: Option<u64>) -> Seat {
        Seat { application: Some(application(name)), still: still.map(Duration::from_millis) }
    }

    fn waiting(names: &[(&str, u32)]) -> BTreeMap<Application, u32> {
        names.iter().map(|&(name, n)| (application(name), n)).collect()
    }

    #[test]
    fn all_hold_and_wait() {
        let seats = [seat("a", Some(1000)), seat("b", Some(5000)), seat("b", Some(1500))];
        let found = starving(&seats, &waiting(&[("a", 1), ("b", 7), ("c", 3)]), 3);
        let short: Vec<_> = found.iter().map(|s| (s.application.name.as_str(), s.holds, s.waits)).collect();
        assert_eq!(short, [("b", 2, 7), ("a", 1, 1)]);
        let text = sentence(&found);
        assert!(
            text.contains("application \"b\" (user \"u\") holds 2 and waits for 7 more; application \"a\""),
            "{text}"
        );
    }

    #[test]
    fn anything_that_moves_ends_it() {
        let a = || seat("a", Some(2000));
        let waits = waiting(&[("a", 1)]);
        let none = |seats: &[Seat], waits: &BTreeMap<_, _>, size| assert_eq!(starving(seats, waits, size), []);
        assert_eq!(starving(&[a(), a()], &waits, 2).len(), 1);
        none(&[a(), a()], &waits, 3);
        none(&[a(), seat("a", None)], &waits, 2);
        none(&[a(), seat("a", Some(999))], &waits, 2);
        none(&[a(), seat("b", Some(2000))], &waits, 2);
        none(&[a(), a()], &BTreeMap::new(), 2);
        none(&[], &waits, 0);
    }

    #[test]
    fn spells_are_told_once() {
        let (spells, begun) = (Spells::default(), Instant::now());
        let some = || vec![Starving { application: application("a"), holds: 1, waits: 1 }];
        let at = |s| begun + Duration::from_secs(s);
        assert_eq!(spells.note(Vec::new(), at(0)), None);
        assert_eq!(spells.note(some(), at(1)), Some(Change::Begins));
        assert_eq!(spells.note(some(), at(2)), None);
        assert!(spells.is_starving());
        assert_eq!(spells.note(Vec::new(), at(5)), Some(Change::Ends(Duration::from_secs(4))));
        assert_eq!(spells.note(Vec::new(), at(6)), None);
        assert_eq!(spells.note(some(), at(7)), Some(Change::Begins));
        assert_eq!(spells.count(), 2);
    }

    #[test]
    fn what_is_carpools_own_counts_as_taken() {
        let own = Seat { application: None, still: None };
        let seats = [own.clone(), seat("a", Some(2000))];
        assert_eq!(starving(&seats, &waiting(&[("a", 1)]), 2).len(), 1);
        assert_eq!(starving(&[own], &waiting(&[("a", 1)]), 1), []);
    }
}
