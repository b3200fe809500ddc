//! What is known of a database's servers, over all pools that it has had: a reload that puts another pool in the
//! place of one leaves statistics and SHOW SERVERS whole.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::starvation::Spells;
use crate::names::ServerId;
use crate::server::ServerShared;
use crate::stats::Totals;
use crate::stats::histogram::Durations;
use crate::stats::tally::Happenings;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Books {
    servers: Mutex<HashMap<ServerId, Arc<ServerShared>>>,
    /// Of servers that are gone, and of logins.
    past: Mutex<Totals>,
    /// Of servers that are gone.
    past_durations: Mutex<Durations>,
    /// Rare events.
    pub(super) happenings: Happenings,
    /// When it starved.
    pub(super) starvation: Spells,
}

impl Books {
    /// A server has logged in.
    pub(super) fn enter(&self, server: &Arc<ServerShared>) {
        self.servers.lock().insert(server.id, Arc::clone(server));
        self.past.lock().server_logins += 1;
    }

    /// A server has come from another process, where its login was counted.
    pub(super) fn adopt(&self, server: &Arc<ServerShared>) {
        self.servers.lock().insert(server.id, Arc::clone(server));
    }

    /// A server is going to be closed, or to another process.
    pub(super) fn strike(&self, server: &ServerShared) {
        // In this order in `totals`, too: it is counted in one place at each moment.
        let mut servers = self.servers.lock();
        if servers.remove(&server.id).is_some() {
            self.past.lock().count(&server.counters);
            *self.past_durations.lock() += server.counters.durations();
        }
    }

    /// A client has logged in.
    pub(super) fn count_client_login(&self) {
        self.past.lock().client_logins += 1;
    }

    /// The servers that are there, by number.
    pub(super) fn servers(&self) -> Vec<Arc<ServerShared>> {
        let mut servers: Vec<_> = self.servers.lock().values().cloned().collect();
        servers.sort_by_key(|s| s.id);
        servers
    }

    /// How long things took since the start.
    pub(super) fn durations(&self) -> Durations {
        let servers = self.servers.lock();
        let past = *self.past_durations.lock();
        servers.values().fold(past, |sum, server| sum + server.counters.durations())
    }

    /// Sums since the start.
    pub(super) fn totals(&self) -> Totals {
        let servers = self.servers.lock();
        let mut totals = *self.past.lock();
        servers.values().for_each(|s| totals.count(&s.counters));
        totals
    }
}
