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
