//! Who keeps a server between transactions, and why: SHOW PINS, and the last columns of SHOW CLIENTS and SERVERS.

use std::collections::HashMap;
use std::sync::Arc;

use super::collect::View;
use crate::server::ServerShared;
use crate::stats::table::{Row, row};

impl View<'_> {
    /// Why a server is kept between transactions, and for how many seconds it has been.
    pub(super) fn pinned(&self, server: &ServerShared) -> (String, Option<u64>) {
        let Some(pinned) = server.pinned.get() else { return (String::new(), None) };
        (pinned.reasons.names(), Some(self.now.saturating_duration_since(pinned.since).as_secs()))
    }

    /// SHOW PINS: the longest first, in each database.
    pub(super) fn pins(&self) -> Vec<Row> {
        let mut clients = HashMap::new();
        self.admin.context.registry.for_each(|client| {
            let settings = Arc::clone(&client.settings.lock());
            clients.insert(client.id, (client.user.clone(), settings));
        });
        let mut rows = Vec::new();
        for pool in &self.pools {
            let mut pins = pool.pinned();
            pins.sort_by_key(|(_, _, pinned)| pinned.since);
            for (server, holder, pinned) in pins {
                let Some((user, settings)) = clients.get(&holder.client) else { continue };
                rows.push(row![
                    pool.name.to_string(),
                    user.to_string(),
                    holder.client.to_string(),
                    holder.client.0,
                    settings.get("application_name").unwrap_or_default().to_owned(),
                    server.id.to_string(),
                    server.key.pid,
                    pinned.reasons.names(),
                    self.now.saturating_duration_since(pinned.since).as_secs(),
                    pinned.last_command,
                ]);
            }
        }
        rows
    }
}
