//! The last minutes of each pool: for the dashboard's charts.
//!
//! Two courses: ten minutes by [`TICK`], and an hour by ten of them. Both are rings of fixed length, for at most
//! [`POOLS`] pools, so memory is bounded: 20 KiB for each pool, once an hour has passed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use super::Totals;
use super::histogram::Durations;
use crate::names::DatabaseName;

/// How often [`Recent::record`] is called.
pub const TICK: Duration = Duration::from_secs(2);
/// Pools that are followed.
const POOLS: usize = 100;

/// What a pool is at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Gauges {
    /// Servers on loan, or about to come free.
    pub used: u32,
    /// Servers that nobody uses.
    pub idle: u32,
    /// Clients that wait for one.
    pub waiting: u32,
    /// Servers that clients keep between transactions, among the used ones.
    pub pinned: u32,
}

impl Gauges {
    /// A moment counts less than what was within an interval.
    fn most(self, other: Self) -> Self {
        Self {
            used: self.used.max(other.used),
            idle: self.idle.max(other.idle),
            waiting: self.waiting.max(other.waiting),
            pinned: self.pinned.max(other.pinned),
        }
    }
}

/// One look at a pool.
#[derive(Clone, Debug)]
pub struct Look {
    /// Which.
    pub name: DatabaseName,
    /// What it is.
    pub gauges: Gauges,
    /// Its sums.
    pub totals: Totals,
    /// Its histograms.
    pub durations: Durations,
}

/// What was in one interval: the most of each gauge, rates per second, and microseconds.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Sample {
    gauges: Gauges,
    transactions: f32,
    queries: f32,
    wait: [u32; 2],
    transaction: [u32; 2],
}

/// No such time: nothing was measured.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Track {
    before: Option<(Totals, Durations)>,
    most: Gauges,
    /// Ends where the course's times end.
    samples: VecDeque<Option<Sample>>,
}

/// Which of the courses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Span {
    /// The last ten minutes.
    Minutes,
    /// The last hour.
    Hour,
}

#[derive(Debug)]
struct Course {
    /// Ticks from one sample to the next.
    every: u32,
    /// Samples that are kept.
    keep: usize,
    ticks: u32,
    /// When each sample was taken, milliseconds since 1970.
    times: VecDeque<u64>,
    pools: BTreeMap<DatabaseName, Track>,
    left_out: usize,
}

impl Course {
    const fn new(every: u32, keep: usize) -> Self {
        Self { every, keep, ticks: 0, times: VecDeque::new(), pools: BTreeMap::new(), left_out: 0 }
    }

    fn record(&mut self, at: u64, looks: &[Look]) {
        self.left_out = 0;
        for look in looks {
            if !self.pools.contains_key(&look.name) && self.pools.len() >= POOLS {
                self.left_out += 1;
                continue;
            }
            let new = || Track { before: None, most: Gauges::default(), samples: VecDeque::new() };
            let track = self.pools.entry(look.name.clone()).or_insert_with(new);
            track.most = track.most.most(look.gauges);
        }
        self.ticks += 1;
        if self.ticks < self.every {
            return;
        }
        self.ticks = 0;
        let elapsed = self.times.back().map_or(0, |before| at.saturating_sub(*before));
        self.times.push_back(at);
        if self.times.len() > self.keep {
            self.times.pop_front();
        }
        for (name, track) in &mut self.pools {
            let look = looks.iter().find(|look| look.name == *name);
            track.take(look, elapsed);
            while track.samples.len() > self.times.len() {
                track.samples.pop_front();
            }
        }
        // Of those that are gone nothing is left to be shown some time.
        self.pools.retain(|_, track| track.samples.iter().any(Option::is_some));
    }

    fn since(&self, at: u64) -> CourseView<'_> {
        let first = self.times.iter().position(|time| *time > at).unwrap_or(self.times.len());
        let pools = self.pools.iter().map(|(name, track)| track.view(name, first, self.times.len())).collect();
        CourseView {
            step_ms: u64::try_from(TICK.as_millis()).unwrap_or(u64::MAX).saturating_mul(self.every.into()),
            times: self.times.iter().skip(first).copied().collect(),
            pools,
            left_out: self.left_out,
        }
    }
}

impl Track {
    /// Adds a sample of the last `elapsed` milliseconds.
    fn take(&mut self, look: Option<&Look>, elapsed: u64) {
        let gauges = std::mem::take(&mut self.most);
        let sample = look.map(|look| {
            // Without a look before there is no rate.
            let (totals, durations) = self.before.unwrap_or((look.totals, look.durations));
            let average = |now: u64, before: u64| match elapsed {
                0 => 0.0,
                _ => now.saturating_sub(before) as f32 * 1000.0 / elapsed as f32,
            };
            let new = look.durations.since(&durations);
            let assignments = look.totals.assignments.saturating_sub(totals.assignments);
            let immediate = assignments.saturating_sub(new.waits.count());
            let short = |micros: Option<u64>| micros.map_or(NONE, |micros| u32::try_from(micros).unwrap_or(NONE - 1));
            Sample {
                gauges,
                transactions: average(look.totals.transactions, totals.transactions),
                queries: average(look.totals.queries, totals.queries),
                wait: [0.5, 0.99].map(|share| short(new.waits.quantile(share, immediate))),
                transaction: [0.5, 0.99].map(|share| short(new.transactions.quantile(share, 0))),
            }
        });
        self.before = look.map(|look| (look.totals, look.durations));
        self.samples.push_back(sample);
    }

    fn view<'t>(&self, name: &'t DatabaseName, first: usize, all: usize) -> PoolView<'t> {
        let mut view = PoolView { database: name.as_str(), ..PoolView::default() };
        let missing = all - self.samples.len().min(all);
        let samples = std::iter::repeat_n(None, missing).chain(self.samples.iter().copied());
        for sample in samples.skip(first) {
            view.used.push(sample.map(|s| s.gauges.used));
            view.idle.push(sample.map(|s| s.gauges.idle));
            view.waiting.push(sample.map(|s| s.gauges.waiting));
            view.pinned.push(sample.map(|s| s.gauges.pinned));
            view.transactions.push(sample.map(|s| rounded(s.transactions)));
            view.queries.push(sample.map(|s| rounded(s.queries)));
            let micros = |of: fn(&Sample) -> u32| sample.as_ref().map(of).filter(|micros| *micros != NONE);
            view.wait_p50_us.push(micros(|s| s.wait[0]));
            view.wait_p99_us.push(micros(|s| s.wait[1]));
            view.transaction_p50_us.push(micros(|s| s.transaction[0]));
            view.transaction_p99_us.push(micros(|s| s.transaction[1]));
        }
        view
    }
}

/// To a tenth: more is noise, and longer to send.
fn rounded(rate: f32) -> f64 {
    (f64::from(rate) * 10.0).round() / 10.0
}

/// A course, to be written as JSON.
#[derive(Serialize, Debug)]
struct CourseView<'c> {
    step_ms: u64,
    times: Vec<u64>,
    pools: Vec<PoolView<'c>>,
    /// Pools that are too many to be followed.
    left_out: usize,
}

/// One pool's part: a value for each time; null where there was nothing.
#[derive(Serialize, Debug, Default)]
struct PoolView<'c> {
    database: &'c str,
    used: Vec<Option<u32>>,
    idle: Vec<Option<u32>>,
    waiting: Vec<Option<u32>>,
    pinned: Vec<Option<u32>>,
    transactions: Vec<Option<f64>>,
    queries: Vec<Option<f64>>,
    wait_p50_us: Vec<Option<u32>>,
    wait_p99_us: Vec<Option<u32>>,
    transaction_p50_us: Vec<Option<u32>>,
    transaction_p99_us: Vec<Option<u32>>,
}

/// See the module.
#[derive(Debug)]
pub struct Recent(Mutex<[Course; 2]>);

impl Default for Recent {
    fn default() -> Self {
        Self(Mutex::new([Course::new(1, 300), Course::new(10, 180)]))
    }
}

impl Recent {
    /// Notes a look at all pools, `at` milliseconds since 1970.
    pub fn record(&self, at: u64, looks: &[Look]) {
        self.0.lock().iter_mut().for_each(|course| course.record(at, looks));
    }

    /// A course from after `since`, milliseconds since 1970, as JSON.
    ///
    /// # Errors
    /// None that is known.
    pub fn json(&self, span: Span, since: u64) -> serde_json::Result<String> {
        serde_json::to_string(&self.0.lock()[span as usize].since(since))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn look(name: &str, used: u32, transactions: u64) -> Look {
        Look {
            name: name.into(),
            gauges: Gauges { used, ..Gauges::default() },
            totals: Totals { transactions, ..Totals::default() },
            durations: Durations::default(),
        }
    }

    fn read(recent: &Recent, span: Span, since: u64) -> Value {
        serde_json::from_str(&recent.json(span, since).unwrap()).unwrap()
    }

    #[test]
    fn rates_are_those_of_the_interval() {
        let recent = Recent::default();
        for (at, transactions) in [(2_000, 1_000), (4_000, 1_300), (8_000, 1_300)] {
            recent.record(at, &[look("a", 1, transactions)]);
        }
        let all = read(&recent, Span::Minutes, 0);
        assert_eq!(all["times"], json!([2_000, 4_000, 8_000]));
        assert_eq!(all["pools"][0]["transactions"], json!([0.0, 150.0, 0.0]));
        assert_eq!(all["pools"][0]["wait_p99_us"], json!([null, null, null]));
        let new = read(&recent, Span::Minutes, 4_000);
        assert_eq!((&new["times"], &new["pools"][0]["used"]), (&json!([8_000]), &json!([1])));
        assert_eq!(read(&recent, Span::Minutes, 8_000)["times"], json!([]));
    }

    #[test]
    fn a_pool_that_comes_later_has_no_past_and_one_that_went_is_forgotten() {
        let recent = Recent::default();
        recent.record(1, &[look("a", 1, 0)]);
        recent.record(2, &[look("a", 1, 0), look("b", 2, 9)]);
        recent.record(3, &[look("b", 2, 9)]);
        let all = read(&recent, Span::Minutes, 0);
        assert_eq!(all["pools"][0]["used"], json!([1, 1, null]));
        assert_eq!(all["pools"][1]["used"], json!([null, 2, 2]));
        assert_eq!(read(&recent, Span::Minutes, 2)["pools"][0]["used"], json!([null]));
        for at in 4..400 {
            recent.record(at, &[look("b", 2, 9)]);
        }
        let all = read(&recent, Span::Minutes, 0);
        assert_eq!(all["pools"].as_array().unwrap().len(), 1);
        assert_eq!(
            (all["times"].as_array().unwrap().len(), all["pools"][0]["used"].as_array().unwrap().len()),
            (300, 300)
        );
    }

    #[test]
    fn the_hour_shows_the_most_of_each_interval() {
        let recent = Recent::default();
        for at in 1..=30 {
            recent.record(at, &[look("a", u32::from(at == 15) * 7, 0)]);
        }
        let hour = read(&recent, Span::Hour, 0);
        assert_eq!((&hour["times"], &hour["step_ms"]), (&json!([10, 20, 30]), &json!(20_000)));
        assert_eq!(hour["pools"][0]["used"], json!([0, 7, 0]));
    }

    #[test]
    fn pools_are_bounded() {
        let recent = Recent::default();
        let looks: Vec<_> = (0..POOLS + 20).map(|i| look(&format!("p{i}"), 0, 0)).collect();
        recent.record(1, &looks);
        let all = read(&recent, Span::Minutes, 0);
        assert_eq!((all["pools"].as_array().unwrap().len(), &all["left_out"]), (POOLS, &json!(20)));
    }
}
