//! Where the time of statements goes, by database, user and normalized text: for `SHOW STATEMENTS`. As pg_stat_statements
//! does it, there is room for so many, and when it is full those that are used least make way for others.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::fine::Fine;
use super::waits::Parts;

/// Statements that there is room for.
pub const LIMIT: usize = 2000;
/// How many make way at once: a twentieth.
const LEAVING: usize = LIMIT / 20;
/// What a use counts for after each such time, by pg_stat_statements.
const DECAY: f64 = 0.99;
/// How much of a text is kept, bytes.
pub const TEXT_LIMIT: usize = 2000;

/// What is known of a statement.
#[derive(Clone, Debug)]
pub struct Data {
    /// The database, as clients call it.
    pub database: Arc<str>,
    /// The client's user.
    pub user: Arc<str>,
    /// The text, normalized.
    pub query: Box<str>,
    /// How often it ended.
    pub calls: u64,
    /// Where its time went.
    pub total: Parts,
    times: Fine,
    usage: f64,
}

impl Data {
    /// One that has not run.
    #[must_use]
    pub fn new(database: &str, user: &str, query: String) -> Self {
        Self {
            database: database.into(),
            user: user.into(),
            query: query.into(),
            calls: 0,
            total: Parts::default(),
            times: Fine::default(),
            usage: 0.0,
        }
    }

    /// The time that one takes on average, microseconds.
    #[must_use]
    pub fn mean(&self) -> u64 {
        self.total.total().checked_div(self.calls).unwrap_or(0)
    }

    /// The 99th percentile, microseconds.
    #[must_use]
    pub fn p99(&self) -> u64 {
        self.times.percentile(99, self.calls)
    }
}

/// A statement. Sessions keep some of those that they used last.
#[derive(Debug)]
pub struct Entry {
    gone: AtomicBool,
    /// `None` once it has made way: then what sessions keep is next to nothing.
    data: Mutex<Option<Box<Data>>>,
}

impl Entry {
    /// Whether it has made way for another.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Its text; `None` once it has made way.
    #[must_use]
    pub fn query(&self) -> Option<String> {
        self.data.lock().as_ref().map(|data| data.query.as_ref().into())
    }

    /// Counts a run.
    pub fn count(&self, parts: &Parts) {
        if let Some(data) = &mut *self.data.lock() {
            data.calls += 1;
            data.usage += 1.0;
            data.total.add_all(parts);
            data.times.observe(parts.total());
        }
    }

    fn leave(&self) {
        *self.data.lock() = None;
        self.gone.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Table {
    known: HashMap<u64, Arc<Entry>>,
    left_out: u64,
}

impl Table {
    fn make_room(&mut self) {
        let usage = |(&key, entry): (&u64, &Arc<Entry>)| {
            let mut data = entry.data.lock();
            let usage = data.as_mut().map_or(0.0, |data| {
                data.usage *= DECAY;
                data.usage
            });
            (usage, key)
        };
        let mut all: Vec<_> = self.known.iter().map(usage).collect();
        let least = LEAVING.min(all.len().saturating_sub(1));
        let (leaving, ..) = all.select_nth_unstable_by(least, |a, b| a.0.total_cmp(&b.0));
        for (_, key) in leaving {
            if let Some(entry) = self.known.remove(key) {
                entry.leave();
                self.left_out += 1;
            }
        }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Statements(Mutex<Table>);

impl Statements {
    /// The statement of this key, which stands for database, user and text; what is to be known of it where it is new.
    #[must_use]
    pub fn entry(&self, key: u64, data: impl FnOnce() -> Data) -> Arc<Entry> {
        let mut table = self.0.lock();
        if let Some(entry) = table.known.get(&key) {
            return Arc::clone(entry);
        }
        if table.known.len() >= LIMIT {
            table.make_room();
        }
        let entry = Entry { gone: AtomicBool::new(false), data: Mutex::new(Some(Box::new(data()))) };
        Arc::clone(table.known.entry(key).or_insert(Arc::new(entry)))
    }

    /// All that have run, those first that took most time.
    #[must_use]
    pub fn read(&self) -> Vec<Data> {
        let entries: Vec<_> = self.0.lock().known.values().cloned().collect();
        let data = |entry: Arc<Entry>| entry.data.lock().as_deref().cloned();
        let mut all: Vec<_> = entries.into_iter().filter_map(data).filter(|data| data.calls > 0).collect();
        all.sort_by(|a, b| b.total.total().cmp(&a.total.total()).then_with(|| a.query.cmp(&b.query)));
        all
    }

    /// How many are known, and how many have made way for others.
    #[must_use]
    pub fn counts(&self) -> (usize, u64) {
        let table = self.0.lock();
        (table.known.len(), table.left_out)
    }

    /// Begins anew.
    pub fn reset(&self) {
        let mut table = self.0.lock();
        table.known.drain().for_each(|(_, entry)| entry.leave());
        table.left_out = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::waits::Part;
    use super::*;

    fn took(micros: u64) -> Parts {
        let mut parts = Parts::default();
        parts.add(Part::Server, micros);
        parts
    }

    fn entry(statements: &Statements, key: u64) -> Arc<Entry> {
        statements.entry(key, || Data::new("d", "u", format!("select {key}")))
    }

    #[test]
    fn those_used_least_make_way() {
        let statements = Statements::default();
        let often = entry(&statements, 0);
        (0..100).for_each(|_| often.count(&took(10)));
        let first = entry(&statements, 1);
        first.count(&took(1));
        for key in 2..100_000 {
            entry(&statements, key).count(&took(1));
            if key % 10 == 0 {
                entry(&statements, 0).count(&took(10));
            }
        }
        let (known, left_out) = statements.counts();
        assert!(known <= LIMIT && known > LIMIT - LEAVING, "{known}");
        assert_eq!(known as u64 + left_out, 100_000);
        assert!(!often.is_gone());
        let read = statements.read();
        assert_eq!((&*read[0].query, read[0].calls), ("select 0", 100 + 9999));
        assert_eq!((read[0].mean(), read[0].p99()), (10, 10));
        assert!(first.is_gone() && first.data.lock().is_none(), "what sessions keep of it is small");
        first.count(&took(1));
        statements.reset();
        assert_eq!(statements.counts(), (0, 0));
        assert!(often.is_gone());
    }

    #[test]
    fn what_never_ended_is_not_shown() {
        let statements = Statements::default();
        let one = entry(&statements, 1);
        assert!(statements.read().is_empty());
        one.count(&took(5));
        entry(&statements, 1).count(&took(7));
        let read = statements.read();
        assert_eq!((read.len(), read[0].calls, read[0].total.total(), read[0].mean()), (1, 2, 12, 6));
    }
}
