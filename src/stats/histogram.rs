//! How long things took, in buckets. Written as [`Counter`]s are: by one thread at a time, two additions each.

use std::ops::{Add, AddAssign};

use super::Counter;

/// The upper ends of the buckets, microseconds; a last one has no end.
pub const BOUNDS: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

const BUCKETS: usize = BOUNDS.len() + 1;

/// Durations that are still being counted.
#[derive(Debug, Default)]
pub struct Histogram([Counter; BUCKETS]);

impl Histogram {
    /// Counts one that took so many microseconds.
    pub fn observe(&self, micros: u64) {
        // Most are short, so this is two or three comparisons.
        let at = BOUNDS.iter().position(|&bound| micros <= bound).unwrap_or(BOUNDS.len());
        self.0[at].add(1);
    }

    /// What was counted so far.
    #[must_use]
    pub fn read(&self) -> Buckets {
        Buckets(std::array::from_fn(|i| self.0[i].get()))
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
        let histogram = Histogram::default();
        for micros in [0, 100, 101, 250, 60_000_000, 60_000_001, u64::MAX] {
            histogram.observe(micros);
        }
        let buckets = histogram.read();
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
        let (a, b) = (Histogram::default(), Histogram::default());
        a.observe(1);
        b.observe(1);
        b.observe(3_000);
        let sum = (a.read() + b.read()).with_immediate(5);
        let cumulative: Vec<_> = sum.cumulative().collect();
        assert_eq!((cumulative[0], cumulative[5], sum.count()), ((Some(100), 7), (Some(5_000), 8), 8));
    }
}
