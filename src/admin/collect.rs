//! Gathers what SHOW and HTTP give: one look at clients, pools and servers, made into rows.
//!
//! The columns are PgBouncer's; where Carpool differs, they mean this. `ptr` and `link` are the numbers that the
//! log uses. `pool_size` of SHOW DATABASES is what one user can have, `max_connections` the total, which users
//! share. `sv_used` are idle servers past `server_check_delay`, as in PgBouncer, though Carpool checks them only
//! when they are next wanted. A cancel request is passed on at once, so none waits, and each counts as one
//! client's and one server's connection. `wait` is 0 for a client that has its server. Reserve pools and
//! peers don't exist: their columns are 0 or NULL. A database of several hosts has all of them in `host`, and the first's `port`.

use std::collections::{BTreeMap, HashMap};
use std::mem::size_of;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use super::Admin;
use crate::client::registry::{CancelSlot, ClientKind, ClientShared, Phase};
use crate::client::relay::Relay;
use crate::config::{Config, Database, Host, PoolMode, User};
use crate::names::{ClientId, ServerId};
use crate::net::Peer;
use crate::pool::control::Pauser;
use crate::pool::{Pool, PoolUser, diagnosis, directory, listening, lookup};
use crate::server::{Server, ServerShared};
use crate::stats::rows::{End, PoolRow, SocketRow};
use crate::stats::table::{Row, Value, row};

/// The console's database, by its first name.
pub const CONSOLE: &str = "pgbouncer";

/// "yes" or "no".
#[must_use]
pub const fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// One look.
#[derive(Debug)]
pub struct View<'a> {
    /// When it is.
    pub now: Instant,
    /// The configuration in force.
    pub config: Arc<Config>,
    pub(super) admin: &'a Admin,
    clock: SystemTime,
    pub(super) pools: Vec<Arc<Pool>>,
}

/// What a server does: its state as SHOW SERVERS words it, and since when it is idle if it is.
pub(super) struct ServerState {
    pub(super) name: &'static str,
    pub(super) idle_since: Option<Instant>,
    /// Who has it, since when.
    pub(super) holder: Option<(ClientId, Instant)>,
}

/// What a connection of Carpool's own is called, which has a server as clients do.
pub(super) const fn own_name(client: ClientId) -> Option<&'static str> {
    match client {
        ClientId::LISTENER => Some(listening::NAME),
        ClientId::LOOKUP => Some(lookup::NAME),
        ClientId::DIAGNOSIS => Some(diagnosis::NAME),
        _ => None,
    }
}

impl<'a> View<'a> {
    /// A look now.
    #[must_use]
    pub fn new(admin: &'a Admin) -> Self {
        let context = &admin.context;
        Self {
            now: Instant::now(),
            config: context.config.load_full(),
            admin,
            clock: SystemTime::now(),
            pools: context.pools.all(),
        }
    }

    fn time(&self, at: SystemTime) -> String {
        let text = humantime::format_rfc3339_seconds(at).to_string();
        text.replace('T', " ").replace('Z', " UTC")
    }

    fn time_of(&self, at: Instant) -> String {
        let ago = self.now.saturating_duration_since(at);
        self.time(self.clock.checked_sub(ago).unwrap_or(self.clock))
    }

    /// Where a client is at the socket's far and near end.
    fn ends(&self, peer: Peer, local: Option<SocketAddr>) -> (End, End) {
        let end = |addr: Option<SocketAddr>| match addr {
            Some(addr) => (addr.ip().to_canonical().to_string(), addr.port()),
            None => ("unix".to_owned(), self.config.pooler.listen_port),
        };
        match peer {
            Peer::Tcp(addr) => (end(Some(addr)), end(local)),
            Peer::Unix => (end(None), end(None)),
        }
    }

    /// The name of the database and of the pool's user that a client belongs to.
    fn place<'n>(&'n self, client: &'n ClientShared) -> (&'n str, &'n str) {
        if client.kind == ClientKind::Console {
            return (CONSOLE, CONSOLE);
        }
        let forced = directory::find(&self.config, client.database.as_str()).and_then(|d| d.user.as_ref());
        (client.database.as_str(), forced.unwrap_or(&client.user).as_str())
    }

    fn mode(&self, database: Option<&Database>, user: &str) -> &'static str {
        let of_user = self.config.users.get(user).and_then(|u| u.pool_mode);
        mode_name(of_user.or(database.and_then(|d| d.pool_mode)).unwrap_or(self.config.pooler.pool_mode))
    }

    /// SHOW POOLS, the console's own row included.
    #[must_use]
    pub fn pools(&self) -> Vec<PoolRow> {
        let mut rows = BTreeMap::new();
        for pool in &self.pools {
            self.pool_rows(pool, &mut rows);
        }
        let console = PoolRow { mode: "statement", ..PoolRow::default() };
        rows.insert((CONSOLE.to_owned(), CONSOLE.to_owned()), console);
        self.admin.context.registry.for_each(|client| {
            let (phase, _) = client.phase(self.now, self.admin.context.started);
            let (database, user) = self.place(client);
            if phase != Phase::Waiting {
                if let Some(row) = rows.get_mut(&(database.to_owned(), user.to_owned())) {
                    row.clients_active += 1;
                }
            }
        });
        let named = |((database, user), row)| PoolRow { database, user, ..row };
        rows.into_iter().map(named).collect()
    }

    /// The rows of one pool's users, without the clients that don't wait.
    fn pool_rows(&self, pool: &Pool, rows: &mut BTreeMap<(String, String), PoolRow>) {
        let database = directory::find(&self.config, pool.name.as_str());
        let place = |user: &str| (pool.name.as_str().to_owned(), user.to_owned());
        for (user, counts) in pool.counts() {
            let waited = counts.waiting_since.map_or(Duration::ZERO, |since| self.now.saturating_duration_since(since));
            let row = PoolRow {
                clients_waiting: counts.waiting,
                logins: counts.logins,
                max_wait: u64::try_from(waited.as_micros()).unwrap_or(u64::MAX),
                mode: self.mode(database, user.as_str()),
                ..PoolRow::default()
            };
            rows.insert(place(user.as_str()), row);
        }
        let idle = pool.idle_servers();
        for server in pool.servers() {
            let Some(row) = rows.get_mut(&place(server.user.as_str())) else { continue };
            row.cancels += server.cancels.load(Ordering::Relaxed);
            row.pinned += u32::from(server.pinned.get().is_some());
            let count = match self.server_state(&server, &idle).name {
                "active" => &mut row.active,
                "idle" => &mut row.idle,
                "used" => &mut row.used,
                "being_canceled" => &mut row.being_canceled,
                _ => &mut row.tested,
            };
            *count += 1;
        }
    }

    pub(super) fn server_state(&self, server: &ServerShared, idle: &HashMap<ServerId, Instant>) -> ServerState {
        let check_delay = self.config.pooler.server_check_delay;
        let idle_since = idle.get(&server.id).copied();
        let holder = server.holder.lock().as_ref().map(|h| (h.client, h.since));
        let name = match (idle_since, holder) {
            (Some(since), _) => {
                let due = !check_delay.is_zero() && self.now.saturating_duration_since(since) > check_delay;
                if due { "used" } else { "idle" }
            }
            (None, Some(_)) => "active",
            (None, None) if server.cancels.load(Ordering::Relaxed) > 0 => "being_canceled",
            (None, None) => "tested",
        };
        ServerState { name, idle_since, holder }
    }

    /// SHOW CLIENTS.
    #[must_use]
    pub fn clients(&self) -> Vec<SocketRow> {
        self.admin.context.registry.all().iter().map(|client| self.client(client)).collect()
    }

    fn client(&self, client: &ClientShared) -> SocketRow {
        let context = &self.admin.context;
        let (phase, since) = client.phase(self.now, context.started);
        let link = match &*client.cancel.lock() {
            CancelSlot::Running(server) | CancelSlot::Replaying { server, .. } => Some(Arc::clone(server)),
            CancelSlot::Idle | CancelSlot::Waiting => None,
        };
        let waits = phase == Phase::Waiting;
        let state = match &link {
            _ if waits => "waiting",
            Some(_) => "active",
            None => "idle",
        };
        let replication = match client.kind {
            ClientKind::Pooled | ClientKind::Console => "none",
            ClientKind::PhysicalReplication => "physical",
            ClientKind::LogicalReplication => "logical",
        };
        let settings = Arc::clone(&client.settings.lock());
        let (pinned, pinned_seconds) = link.as_ref().map(|server| self.pinned(server)).unwrap_or_default();
        let connect_time = self.time(client.connected());
        let (remote, local) = self.ends(client.peer(), client.ends.local());
        SocketRow {
            kind: "C",
            user: client.user.to_string(),
            database: self.place(client).0.to_owned(),
            replication,
            state,
            remote,
            local,
            request_time: client
                .last_request(context.started)
                .map_or_else(|| connect_time.clone(), |at| self.time_of(at)),
            connect_time,
            wait: if waits { u64::try_from(since.as_micros()).unwrap_or(u64::MAX) } else { 0 },
            name: client.id.to_string(),
            link: link.map(|server| server.id.to_string()).unwrap_or_default(),
            remote_pid: 0,
            tls: client.tls.map(|cipher| cipher.to_string()).unwrap_or_default(),
            application_name: settings.get("application_name").unwrap_or_default().to_owned(),
            prepared_statements: client.prepared(),
            id: client.id.0,
            pinned,
            pinned_seconds,
            close_needed: false,
        }
    }

    /// SHOW SERVERS: those of pools. Logins under way have no row before they are done.
    #[must_use]
    pub fn servers(&self) -> Vec<SocketRow> {
        let mut names = HashMap::new();
        self.admin.context.registry.for_each(|client| {
            let settings = Arc::clone(&client.settings.lock());
            names.insert(client.id, settings);
        });
        let mut rows = Vec::new();
        for pool in &self.pools {
            let idle = pool.idle_servers();
            for server in pool.servers() {
                let state = self.server_state(&server, &idle);
                let settings = state.holder.and_then(|(client, _)| names.get(&client));
                let own = state.holder.and_then(|(client, _)| own_name(client));
                let name = own.or_else(|| settings.and_then(|s| s.get("application_name"))).unwrap_or_default();
                rows.push(SocketRow {
                    close_needed: pool.is_outdated(&server),
                    database: pool.name.to_string(),
                    application_name: name.to_owned(),
                    ..self.server(&server, &state)
                });
            }
        }
        rows
    }

    fn server(&self, server: &ServerShared, state: &ServerState) -> SocketRow {
        let end = |addr: Option<SocketAddr>| match addr {
            Some(addr) => (addr.ip().to_canonical().to_string(), addr.port()),
            None => ("unix".to_owned(), server.target.port),
        };
        let connect_time = self.time(server.connected);
        let asked = state.holder.map(|(_, since)| since).or(state.idle_since);
        let (pinned, pinned_seconds) = self.pinned(server);
        SocketRow {
            kind: "S",
            user: server.user.to_string(),
            replication: "none",
            state: state.name,
            remote: end(server.addresses.1),
            local: end(server.addresses.0),
            request_time: asked.map_or_else(|| connect_time.clone(), |at| self.time_of(at)),
            connect_time,
            name: server.id.to_string(),
            link: state.holder.map(|(client, _)| client.to_string()).unwrap_or_default(),
            remote_pid: server.key.pid,
            tls: server.encryption.as_ref().map(|e| e.cipher.to_string()).unwrap_or_default(),
            prepared_statements: server.prepared.load(Ordering::Relaxed),
            id: server.id.0,
            pinned,
            pinned_seconds,
            ..SocketRow::default()
        }
    }

    /// SHOW DATABASES: those of the configuration, those that `*` has served, and the console.
    #[must_use]
    pub fn databases(&self) -> Vec<Row> {
        let mut clients: HashMap<String, u32> = HashMap::new();
        self.admin.context.registry.for_each(|c| *clients.entry(self.place(c).0.to_owned()).or_default() += 1);
        let count = |name: &str| clients.get(name).copied().unwrap_or(0);
        let mut rows: Vec<_> = self.pools.iter().filter_map(|p| self.database(p, count(p.name.as_str()))).collect();
        let (none, port) = (Value::Null, self.config.pooler.listen_port);
        let user = CONSOLE;
        let consoles = count(CONSOLE);
        rows.push(row![
            CONSOLE,
            none.clone(),
            port,
            CONSOLE,
            user,
            0u32,
            0u32,
            0u32,
            0u32,
            "statement",
            none,
            0u32,
            0u32,
            0u32,
            consoles,
            0u32,
            0u32
        ]);
        rows
    }

    fn database(&self, pool: &Pool, clients: u32) -> Option<Row> {
        let database = directory::find(&self.config, pool.name.as_str())?;
        let name = |host: &Host| match host {
            Host::Tcp(host) => host.clone(),
            Host::Unix(dir) => dir.display().to_string(),
        };
        let host = database.host.iter().map(name).collect::<Vec<_>>().join(",");
        let balance = (database.host.len() > 1).then(|| database.load_balance_hosts.as_str());
        let lifetime = database.server_lifetime.unwrap_or(self.config.pooler.server_lifetime);
        let most = pool.size();
        let size = database.user_pool_size.unwrap_or(most).min(most);
        Some(row![
            pool.name.to_string(),
            host,
            database.port.first().copied().unwrap_or_default(),
            pool.spec.load().dbname.clone(),
            database.user.as_ref().map(ToString::to_string),
            size,
            database.min_pool_size,
            database.reserve_pool_size,
            lifetime.as_secs(),
            database.pool_mode.map(mode_name),
            balance,
            limit(most),
            pool.slots(),
            database.max_client_connections,
            clients,
            pool.is_paused_by(Pauser::Database),
            pool.is_disabled(),
        ])
    }

    /// SHOW USERS: those of the configuration, and those who are there all the same.
    #[must_use]
    pub fn users(&self) -> Vec<Row> {
        let mut users: BTreeMap<String, (u32, u32)> = BTreeMap::new();
        users.extend(self.config.users.keys().map(|name| (name.to_string(), (0, 0))));
        self.admin.context.registry.for_each(|c| users.entry(c.user.to_string()).or_default().0 += 1);
        for (user, counts) in self.pools.iter().flat_map(|pool| pool.counts()) {
            users.entry(user.to_string()).or_default().1 += counts.idle + counts.busy + counts.logins;
        }
        let none = User::default();
        let row = |(name, (clients, servers)): (String, (u32, u32))| {
            let user = self.config.users.get(name.as_str()).unwrap_or(&none);
            let size = user.pool_size.map(|n| n.to_string()).unwrap_or_default();
            let mode = user.pool_mode.map(mode_name);
            row![name, size, "", mode, user.max_user_connections, servers, user.max_client_connections, clients]
        };
        users.into_iter().map(row).collect()
    }

    /// SHOW LISTS.
    #[must_use]
    pub fn lists(&self) -> Vec<Row> {
        let (connections, registered) = self.connections();
        let servers: u32 = self.pools.iter().map(|pool| pool.slots()).sum();
        vec![
            row!["databases", self.databases().len()],
            row!["users", self.users().len()],
            row!["peers", self.config.peers.len()],
            row!["pools", self.pools().len()],
            row!["peer_pools", self.config.peers.len()],
            row!["free_clients", 0u32],
            row!["used_clients", connections],
            row!["login_clients", connections.saturating_sub(registered)],
            row!["free_servers", 0u32],
            row!["used_servers", servers],
            row!["dns_names", 0u32],
            row!["dns_zones", 0u32],
            row!["dns_queries", 0u32],
            row!["dns_pending", 0u32],
        ]
    }

    /// All client connections, and those among them that have logged in.
    #[must_use]
    pub fn connections(&self) -> (u32, u32) {
        let registry = &self.admin.context.registry;
        let mut registered = 0;
        registry.for_each(|_| registered += 1);
        // Counted apart, so a login may have ended between the two.
        (registry.connections().max(registered), registered)
    }

    /// SHOW MEM: how many there are of the main structures, and their own size, without what they point to.
    #[must_use]
    pub fn memory(&self) -> Vec<Row> {
        let (connections, _) = self.connections();
        let servers: u32 = self.pools.iter().map(|pool| pool.slots()).sum();
        let users: usize = self.pools.iter().map(|pool| pool.counts().len()).sum();
        let statements: usize = self.pools.iter().map(|pool| pool.tables.statements.len()).sum();
        let row = |name: &'static str, size: usize, used: usize| row![name, size, used, 0u32, size * used];
        vec![
            row("user_cache", size_of::<User>(), self.config.users.len()),
            row("db_cache", size_of::<Pool>(), self.pools.len()),
            row("pool_cache", size_of::<PoolUser>(), users),
            row("server_cache", size_of::<Server>() + size_of::<ServerShared>(), servers as usize),
            row("client_cache", size_of::<Relay>() + size_of::<ClientShared>(), connections as usize),
            row("statement_cache", size_of::<crate::protocol::statements::Statement>(), statements),
        ]
    }
}

/// PgBouncer's name of a pool mode.
#[must_use]
pub const fn mode_name(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
        PoolMode::Statement => "statement",
    }
}

/// A limit as PgBouncer shows it, where 0 means none.
fn limit(n: u32) -> u32 {
    if i32::try_from(n).is_ok_and(|n| n < i32::MAX) { n } else { 0 }
}
