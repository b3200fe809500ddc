//! How long things took, in buckets. Written as [`Counter`]s are: by one thread at a time.

use std::ops::{Add, AddAssign};

use super::Counter;

/// The upper ends of the buckets, microseconds; a last one has no end.
pub const BOUNDS: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

const BUCKETS: usize = BOUNDS.len() + 1;

/// What takes its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// A wait for a server.
    Wait,
    /// A transaction.
    Transaction,
    /// A query.
    Query,
}

/// In which bucket a time is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bucket(usize);

impl Bucket {
    /// Of so many microseconds.
    #[must_use]
    pub fn of(micros: u64) -> Self {
        // Most are short, so this is two or three comparisons.
        Self(BOUNDS.iter().position(|&bound| micros <= bound).unwrap_or(BOUNDS.len()))
    }
}

/// Durations that are still being counted. By bucket first: a transaction of one query is counted twice in the same
/// bucket, and that in one place in memory.
#[derive(Debug, Default)]
pub struct Histograms([[Counter; 3]; BUCKETS]);

impl Histograms {
    /// Counts one.
    pub fn observe(&self, what: What, bucket: Bucket) {
        if let Some(counters) = self.0.get(bucket.0) {
            counters[what as usize].add(1);
        }
    }

    /// What was counted so far.
    #[must_use]
    pub fn read(&self) -> Durations {
        let all = |what: What| Buckets(std::array::from_fn(|i| self.0[i][what as usize].get()));
        Durations { waits: all(What::Wait), transactions: all(What::Transaction), queries: all(What::Query) }
    }
}

/// How many there are in each bucket, not those below.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Buckets([u64; BUCKETS]);

impl Buckets {
    /// All.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds some that took no time.
    #[must_use]
    pub const fn with_immediate(mut self, n: u64) -> Self {
        self.0[0] = self.0[0].saturating_add(n);
        self
    }

    /// For each bound how many took no longer, microseconds; then all.
    pub fn cumulative(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bounds = BOUNDS.iter().copied().map(Some).chain([None]);
        let mut sum = 0u64;
        bounds.zip(self.0).map(move |(bound, n)| {
            sum = sum.saturating_add(n);
            (bound, sum)
        })
    }
}

impl Buckets {
    /// What came since `before`. A pool that was made anew meanwhile counts from zero.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].saturating_sub(before.0[i])))
    }

    /// The time in microseconds that a part of all, `share` of 1, took no longer than, with further `immediate` ones
    /// that took no time. Within a bucket times count as spread evenly; those past the last bound are given as
    /// that. `None` where there is nothing.
    #[must_use]
    pub fn quantile(&self, share: f64, immediate: u64) -> Option<u64> {
        let all = self.count().saturating_add(immediate);
        if all == 0 {
            return None;
        }
        let rank = (share * all as f64).max(f64::MIN_POSITIVE) - immediate as f64;
        if rank <= 0.0 {
            return Some(0);
        }
        let (mut below, mut from) = (0u64, 0u64);
        for (bound, &n) in BOUNDS.iter().zip(&self.0) {
            if n > 0 && rank <= (below + n) as f64 {
                let part = (rank - below as f64) / n as f64;
                return Some(from + ((bound - from) as f64 * part).round() as u64);
            }
            below += n;
            from = *bound;
        }
        Some(from)
    }
}

impl Add for Buckets {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].wrapping_add(other.0[i])))
    }
}

/// The durations of one server, or of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Durations {
    /// Waits for a server, of those who had to.
    pub waits: Buckets,
    /// Transactions, from the moment that the client had its server.
    pub transactions: Buckets,
    /// From a request that goes to the server to the moment that nothing is owed.
    pub queries: Buckets,
}

impl Add for Durations {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            waits: self.waits + other.waits,
            transactions: self.transactions + other.transactions,
            queries: self.queries + other.queries,
        }
    }
}

impl Durations {
    /// As [`Buckets::since`], of each.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            waits: self.waits.since(&before.waits),
            transactions: self.transactions.since(&before.transactions),
            queries: self.queries.since(&before.queries),
        }
    }
}

impl AddAssign for Durations {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_the_bucket_that_it_ends() {
        let histograms = Histograms::default();
        for micros in [0, 100, 101, 250, 60_000_000, 60_000_001, u64::MAX] {
            histograms.observe(What::Wait, Bucket::of(micros));
        }
        let Durations { waits: buckets, transactions, queries } = histograms.read();
        assert_eq!((transactions.count(), queries.count()), (0, 0));
        let cumulative: Vec<_> = buckets.cumulative().collect();
        assert_eq!(cumulative[0], (Some(100), 2));
        assert_eq!(cumulative[1], (Some(250), 4));
        assert_eq!(cumulative[17], (Some(60_000_000), 5));
        assert_eq!(cumulative[18], (None, 7));
        assert_eq!(buckets.count(), 7);
        assert!(BOUNDS.is_sorted());
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let histograms = Histograms::default();
        assert_eq!(histograms.read().waits.quantile(0.5, 0), None, "nothing");
        assert_eq!(histograms.read().waits.quantile(0.99, 7), Some(0), "nobody had to wait");
        for micros in [200, 200, 200, 200, 7_000, u64::MAX] {
            histograms.observe(What::Wait, Bucket::of(micros));
        }
        let waits = histograms.read().waits;
        let median = waits.quantile(0.5, 0).unwrap();
        assert!((100..=250).contains(&median), "{median}");
        let most = waits.quantile(0.75, 0).unwrap();
        assert!((5_000..=10_000).contains(&most), "{most}");
        assert_eq!(waits.quantile(1.0, 0), Some(60_000_000), "as far as is known");
        assert_eq!(waits.quantile(0.5, 100), Some(0), "most had none");
        assert_eq!(waits.since(&waits).quantile(0.5, 0), None);
        assert_eq!(waits.since(&Buckets::default()), waits);
    }

    #[test]
    fn sums_are_by_bucket() {
        let (a, b) = (Histograms::default(), Histograms::default());
        a.observe(What::Query, Bucket::of(1));
        b.observe(What::Query, Bucket::of(1));
        b.observe(What::Query, Bucket::of(3_000));
        b.observe(What::Transaction, Bucket::of(3_000));
        let both = a.read() + b.read();
        assert_eq!((both.waits.count(), both.transactions.count()), (0, 1));
        let sum = both.queries.with_immediate(5);
        let cumulative: Vec<_> = sum.cumulative().collect();
        assert_eq!((cumulative[0], cumulative[5], sum.count()), ((Some(100), 7), (Some(5_000), 8), 8));
    }
}
