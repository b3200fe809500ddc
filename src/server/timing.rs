//! Where the time of a client's transaction goes: waiting for a server, on the server, with the client.
//!
//! The times are those that the client takes anyway; nothing here looks at a clock.

use super::Server;
use crate::stats::histogram::{Bucket, What};

/// The transaction at hand, microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timing {
    waited: u64,
    busy: u64,
}

/// Where the time of a transaction went, microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Split {
    /// The client waited for a server.
    pub wait: u64,
    /// The server had something to do.
    pub server: u64,
    /// The server waited for the client's next request.
    pub client: u64,
}

impl Split {
    /// The whole.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.wait.saturating_add(self.server).saturating_add(self.client)
    }
}

impl Timing {
    /// How long the client waited for the server, if this is its first transaction on it.
    #[must_use]
    pub const fn waited(&self) -> u64 {
        self.waited
    }
}

impl Server {
    /// A client has waited for it.
    pub fn note_wait(&mut self, micros: u64) {
        let counters = &self.shared.counters;
        counters.wait_time.add(micros);
        counters.taken.observe(What::Wait, Bucket::of(micros));
        self.timing.waited = micros;
    }

    /// What was asked for is answered, after so long, and ends no transaction.
    pub fn note_query(&mut self, micros: u64) {
        self.count_query(micros, Bucket::of(micros));
    }

    fn count_query(&mut self, micros: u64, bucket: Bucket) {
        let counters = &self.shared.counters;
        counters.query_time.add(micros);
        counters.taken.observe(What::Query, bucket);
        self.timing.busy = self.timing.busy.wrapping_add(micros);
    }

    /// A transaction has ended, so long after the client got the server for it; with the `query` that was being
    /// answered, if one was.
    pub fn note_transaction(&mut self, micros: u64, query: Option<u64>) -> Split {
        let bucket = Bucket::of(micros);
        if let Some(query) = query {
            // Most transactions are one query.
            self.count_query(query, if query == micros { bucket } else { Bucket::of(query) });
        }
        let counters = &self.shared.counters;
        counters.transaction_time.add(micros);
        counters.taken.observe(What::Transaction, bucket);
        let Timing { waited, busy } = std::mem::take(&mut self.timing);
        Split { wait: waited, server: busy.min(micros), client: micros.saturating_sub(busy) }
    }
}
