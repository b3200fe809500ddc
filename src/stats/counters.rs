//! Counters of one server, and sums of them.

use std::ops::{Add, AddAssign};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::histogram::{Durations, Histograms};

/// A sum with a single writer at a time.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Reads it.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Sums over the transactions that ran on one server. Each is written by one thread at a time, without
/// read-modify-write instructions. In this order in memory: what each transaction writes is together.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Counters {
    /// Times that a client got the server.
    pub assignments: Counter,
    /// Transactions.
    pub transactions: Counter,
    /// Queries.
    pub queries: Counter,
    /// Bytes from clients.
    pub received: Counter,
    /// Bytes to clients.
    pub sent: Counter,
    /// Microseconds in transactions.
    pub transaction_time: Counter,
    /// Microseconds in queries.
    pub query_time: Counter,
    /// Microseconds that clients waited for a server.
    pub wait_time: Counter,
    /// Uses of named statements by clients.
    pub binds: Counter,
    /// Parses and uses of named statements that the server had already.
    pub hits: Counter,
    /// Named statements prepared by clients.
    pub client_parses: Counter,
    /// Named statements prepared on the server.
    pub server_parses: Counter,
    /// Transactions of clients that kept the server between transactions.
    pub pinned_transactions: Counter,
    /// Of the waits in `wait_time`, the transactions in `transaction_time` and what is in `query_time`.
    pub taken: Histograms,
}

impl Counters {
    /// Adds what the protocol counted, and clears it there.
    pub fn take(&self, counts: &mut StatementCounts) {
        if *counts == StatementCounts::default() {
            return;
        }
        let StatementCounts { client_parses, server_parses, binds, hits } = std::mem::take(counts);
        self.client_parses.add(client_parses.into());
        self.server_parses.add(server_parses.into());
        self.binds.add(binds.into());
        self.hits.add(hits.into());
    }

    /// How long what ran on it took.
    #[must_use]
    pub fn durations(&self) -> Durations {
        self.taken.read()
    }
}

/// What the protocol counts while it reads messages, until it is added to [`Counters`].
#[expect(missing_docs, reason = "named as in Counters")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StatementCounts {
    pub client_parses: u32,
    pub server_parses: u32,
    pub binds: u32,
    pub hits: u32,
}

/// Sums of a pool since the start; times in microseconds. Also used for averages: counts per second, and times
/// per transaction, query or assignment.
#[expect(missing_docs, reason = "named as in Counters")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub assignments: u64,
    pub transactions: u64,
    pub pinned_transactions: u64,
    pub queries: u64,
    pub received: u64,
    pub sent: u64,
    pub transaction_time: u64,
    pub query_time: u64,
    pub wait_time: u64,
    pub client_parses: u64,
    pub server_parses: u64,
    pub binds: u64,
    pub hits: u64,
    pub client_logins: u64,
    pub server_logins: u64,
}

impl Totals {
    /// Adds one server's counters.
    pub fn count(&mut self, c: &Counters) {
        *self += Self {
            assignments: c.assignments.get(),
            transactions: c.transactions.get(),
            pinned_transactions: c.pinned_transactions.get(),
            queries: c.queries.get(),
            received: c.received.get(),
            sent: c.sent.get(),
            transaction_time: c.transaction_time.get(),
            query_time: c.query_time.get(),
            wait_time: c.wait_time.get(),
            client_parses: c.client_parses.get(),
            server_parses: c.server_parses.get(),
            binds: c.binds.get(),
            hits: c.hits.get(),
            client_logins: 0,
            server_logins: 0,
        };
    }

    fn combine(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            assignments: f(self.assignments, other.assignments),
            transactions: f(self.transactions, other.transactions),
            pinned_transactions: f(self.pinned_transactions, other.pinned_transactions),
            queries: f(self.queries, other.queries),
            received: f(self.received, other.received),
            sent: f(self.sent, other.sent),
            transaction_time: f(self.transaction_time, other.transaction_time),
            query_time: f(self.query_time, other.query_time),
            wait_time: f(self.wait_time, other.wait_time),
            client_parses: f(self.client_parses, other.client_parses),
            server_parses: f(self.server_parses, other.server_parses),
            binds: f(self.binds, other.binds),
            hits: f(self.hits, other.hits),
            client_logins: f(self.client_logins, other.client_logins),
            server_logins: f(self.server_logins, other.server_logins),
        }
    }

    /// What came since `before`, `elapsed` ago, per second; times per transaction, query or assignment. As
    /// PgBouncer computes its averages, rounding down. A pool that was made anew meanwhile counts from zero.
    #[must_use]
    pub fn average_since(self, before: Self, elapsed: Duration) -> Self {
        let new = self.combine(before, u64::saturating_sub);
        let micros = elapsed.as_micros().max(1);
        let rate = |n: u64, _| u64::try_from(u128::from(n) * 1_000_000 / micros).unwrap_or(u64::MAX);
        let per = |time: u64, count: u64| time.checked_div(count).unwrap_or(0);
        Self {
            transaction_time: per(new.transaction_time, new.transactions),
            query_time: per(new.query_time, new.queries),
            wait_time: per(new.wait_time, new.assignments),
            ..new.combine(Self::default(), rate)
        }
    }

    /// PgBouncer 1.25's eleven, in its order.
    #[must_use]
    pub const fn listed(&self) -> [u64; 11] {
        [
            self.assignments,
            self.transactions,
            self.queries,
            self.received,
            self.sent,
            self.transaction_time,
            self.query_time,
            self.wait_time,
            self.client_parses,
            self.server_parses,
            self.binds,
        ]
    }
}

impl Add for Totals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.combine(other, u64::wrapping_add)
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Totals {
    fn sum<I: Iterator<Item = Self>>(totals: I) -> Self {
        totals.fold(Self::default(), Self::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_rates_and_times_per_event() {
        let before = Totals { transactions: 100, queries: 200, transaction_time: 1_000, ..Totals::default() };
        let now = Totals {
            transactions: 300,
            queries: 200,
            transaction_time: 5_000,
            query_time: 77,
            received: 1_000,
            ..Totals::default()
        };
        let average = now.average_since(before, Duration::from_secs(2));
        assert_eq!((average.transactions, average.queries), (100, 0));
        assert_eq!((average.transaction_time, average.query_time), (20, 0), "no query, no time per query");
        assert_eq!(average.received, 500);
    }

    #[test]
    fn a_pool_made_anew_has_no_negative_rate() {
        let before = Totals { queries: 10, ..Totals::default() };
        let average = Totals::default().average_since(before, Duration::ZERO);
        assert_eq!(average, Totals::default());
    }

    #[test]
    fn what_the_protocol_counts_is_added_once() {
        let counters = Counters::default();
        let mut counts = StatementCounts { client_parses: 1, server_parses: 2, binds: 3, hits: 4 };
        counters.take(&mut counts);
        counters.take(&mut counts);
        let mut totals = Totals::default();
        totals.count(&counters);
        assert_eq!((totals.client_parses, totals.server_parses, totals.binds, totals.hits), (1, 2, 3, 4));
    }
}
