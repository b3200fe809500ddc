//! SHOW SOCKETS, ACTIVE_SOCKETS and FDS: all connections in one list.
//!
//! Carpool keeps no buffers for idle connections, and their positions are known to nobody else: PgBouncer's columns
//! about them are 0. Active are those with something under way. Sockets are never handed over, so FDS has no numbers of
//! descriptors, and neither passwords nor keys.

use super::collect::View;
use crate::stats::rows::SocketRow;
use crate::stats::table::{Row, Value, row};

/// PgBouncer's columns about buffers.
const BUFFERS: usize = 7;

impl View<'_> {
    /// SHOW SOCKETS, or those with something under way.
    pub(super) fn sockets(&self, active_only: bool) -> Vec<Row> {
        let named = |row: SocketRow, prefix: &str| {
            let state = match (prefix, row.state) {
                // As PgBouncer has it: one that only sits there.
                (_, "idle") if prefix == "cl" => "idle".to_owned(),
                (prefix, state) => format!("{prefix}_{state}"),
            };
            (row, state)
        };
        let clients = self.clients().into_iter().map(|row| named(row, "cl"));
        let servers = self.servers().into_iter().map(|row| named(row, "sv"));
        let wanted = |(row, _): &(SocketRow, String)| !active_only || matches!(row.state, "active" | "waiting");
        let whole = |(row, state): (SocketRow, String)| {
            let mut row = row.standard();
            row[4] = state.into();
            row.extend(std::iter::repeat_n(Value::Int(0), BUFFERS));
            row
        };
        clients.chain(servers).filter(wanted).map(whole).collect()
    }

    /// SHOW FDS: what listens, then clients and servers.
    pub(super) fn descriptors(&self) -> Vec<Row> {
        let none = || Value::Null;
        let pooler = &self.config.pooler;
        let listening = pooler.listen_addr.iter().map(|addr| (addr.clone(), pooler.listen_port));
        let unix = pooler.unix_socket_dir.iter().map(|_| ("unix".to_owned(), pooler.listen_port));
        let listening = listening.chain(unix).map(|(addr, port)| {
            let mut row = row![none(), "pooler", none(), none(), addr, port, 0u32, 0u32];
            row.extend([const { Value::Null }; 7]);
            row
        });
        let mut encodings = std::collections::HashMap::new();
        self.admin.context.registry.for_each(|client| {
            let settings = client.settings.lock().clone();
            encodings.insert(client.id.0, settings);
        });
        let whole = |task: &'static str, socket: SocketRow| {
            let settings = encodings.get(&socket.id).filter(|_| task == "client");
            let setting = |name: &str| settings.and_then(|s| s.get(name)).map(str::to_owned);
            let remote = socket.remote;
            let mut row = row![none(), task, socket.user, socket.database, remote.0, remote.1, 0u32, 0u32];
            let names = ["client_encoding", "standard_conforming_strings", "DateStyle", "TimeZone"];
            row.extend(names.map(|name| setting(name).into()));
            row.extend([const { Value::Null }; 3]);
            row
        };
        let clients = self.clients().into_iter().map(|row| whole("client", row));
        let servers = self.servers().into_iter().map(|row| whole("server", row));
        listening.chain(clients).chain(servers).collect()
    }
}
