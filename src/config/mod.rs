//! The checked configuration: what the rest of Carpool reads.
//!
//! A [`Config`] can't be invalid: every value is typed, in range and consistent with the others. Files
//! (`.toml`, `.ini`) become one through the submodules, which report ALL errors with their key path.
//! No I/O beyond reading the named files, no clock.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::names::{DatabaseName, UserName};

/// When a server connection goes back to the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PoolMode {
    /// When the client disconnects.
    Session,
    /// When the transaction ends.
    #[default]
    Transaction,
    /// After each statement; transaction blocks are refused.
    Statement,
}

/// How clients prove who they are (`auth_type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthType {
    /// Any known user, no password.
    Trust,
    /// Any user name at all, no password (PgBouncer's `any`); databases need a forced user.
    Any,
    /// Clear-text password.
    Plain,
    /// MD5, or SCRAM for users whose secret is a SCRAM one.
    Md5,
    /// SCRAM-SHA-256.
    ScramSha256,
}

/// A secret as the configuration holds it. `Debug` never shows the value.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps a secret value.
    #[must_use]
    pub fn new(value: &str) -> Self {
        Self(value.into())
    }

    /// The value itself: a plain password, `md5…`, or `SCRAM-SHA-256$…`.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// The whole configuration.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Global settings.
    pub pooler: Pooler,
    /// `[databases.NAME]`, without the `*` fallback.
    pub databases: BTreeMap<DatabaseName, Database>,
    /// `[databases."*"]`: serves any name not listed, `dbname` defaulting to the name asked for.
    pub fallback: Option<Database>,
    /// `[users.NAME]` merged with the users of `auth_file` (a `[users]` entry wins, setting by setting).
    pub users: BTreeMap<UserName, User>,
}

/// Global settings; names and meanings are PgBouncer's unless noted. A zero `Duration` means "off".
#[derive(Clone, PartialEq, Debug)]
pub struct Pooler {
    /// Addresses to listen on; `*` means all. Empty: no TCP.
    pub listen_addr: Vec<String>,
    /// TCP port, also the suffix of the unix socket's name.
    pub listen_port: u16,
    /// Directory of the unix socket `.s.PGSQL.PORT`; `None`: no unix socket.
    pub unix_socket_dir: Option<PathBuf>,
    /// Mode of the socket file.
    pub unix_socket_mode: u32,
    /// Where `/metrics`, `/healthz`, `/` are served; off when the port is `None`.
    pub http_addr: String,
    /// See `http_addr`.
    pub http_port: Option<u16>,
    /// Worker threads (Carpool's own); 0: one per core, at most 4 unless set.
    pub worker_threads: usize,
    /// Default pool mode.
    pub pool_mode: PoolMode,
    /// Default of a database's `pool_size`: its hard total of server connections.
    pub default_pool_size: u32,
    /// Servers kept open per database even when idle.
    pub min_pool_size: u32,
    /// Logins to one database's server under way at once (Carpool's own).
    pub max_concurrent_logins: u32,
    /// Client connections in total.
    pub max_client_conn: u32,
    /// How clients log in.
    pub auth_type: AuthType,
    /// PgBouncer's userlist file (already merged into `Config::users`).
    pub auth_file: Option<PathBuf>,
    /// Users who may run changing console commands.
    pub admin_users: Vec<UserName>,
    /// Users who may run SHOW on the console.
    pub stats_users: Vec<UserName>,
    /// Close a server idle for longer.
    pub server_idle_timeout: Duration,
    /// Close a server older than this when it is next idle.
    pub server_lifetime: Duration,
    /// A server's connect and login may take this long.
    pub server_connect_timeout: Duration,
    /// The longest pause between attempts after failed logins (backoff grows up to it).
    pub server_login_retry: Duration,
    /// Query that checks an idle server before reuse; empty: a bare Sync.
    pub server_check_query: String,
    /// Check a server idle for longer than this before reuse.
    pub server_check_delay: Duration,
    /// Run in session mode when a client leaves.
    pub server_reset_query: String,
    /// Run it in all modes.
    pub server_reset_query_always: bool,
    /// A client may wait for a server this long.
    pub query_wait_timeout: Duration,
    /// A query may run this long.
    pub query_timeout: Duration,
    /// A client may sit idle in a transaction this long.
    pub idle_transaction_timeout: Duration,
    /// A transaction may take this long.
    pub transaction_timeout: Duration,
    /// A client may sit idle outside a transaction this long.
    pub client_idle_timeout: Duration,
    /// A client's login may take this long.
    pub client_login_timeout: Duration,
    /// A cancel request may wait and run this long.
    pub cancel_wait_timeout: Duration,
    /// On SIGTERM, running transactions may take this long (Carpool's own).
    pub shutdown_timeout: Duration,
    /// Prepared statements kept per server connection; 0 turns tracking off.
    pub max_prepared_statements: u32,
    /// Largest message from a client that must be held whole (Query, Parse, …), bytes.
    pub max_packet_size: u32,
    /// Startup parameters to drop silently.
    pub ignore_startup_parameters: Vec<String>,
    /// Further parameters that follow the client (reported ones always do).
    pub track_extra_parameters: Vec<String>,
    /// Log connects (and see the next ones).
    pub log_connections: bool,
    /// Log disconnects with the reason.
    pub log_disconnections: bool,
    /// Log what goes wrong with clients and servers.
    pub log_pooler_errors: bool,
    /// Log a line of statistics every `stats_period`.
    pub log_stats: bool,
    /// Window of the averages in SHOW STATS.
    pub stats_period: Duration,
    /// `-v` count; 0 is info.
    pub verbose: u32,
    /// Listen queue length.
    pub listen_backlog: u32,
    /// `SO_REUSEPORT` on the listening sockets.
    pub so_reuseport: bool,
    /// TCP keepalive on both sides: on, and its timings in seconds (0: system's).
    pub tcp_keepalive: bool,
    /// See `tcp_keepalive`.
    pub tcp_keepidle: u32,
    /// See `tcp_keepalive`.
    pub tcp_keepintvl: u32,
    /// See `tcp_keepalive`.
    pub tcp_keepcnt: u32,
    /// `TCP_USER_TIMEOUT` in milliseconds (0: system's).
    pub tcp_user_timeout: u32,
}

/// Where a database's servers are.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Host {
    /// Host name or address.
    Tcp(String),
    /// Directory of the unix socket.
    Unix(PathBuf),
}

/// One `[databases.NAME]`, with the global defaults already filled in where `Option` isn't needed.
#[derive(Clone, PartialEq, Debug)]
pub struct Database {
    /// Where the server is. Default: the unix socket directory `/var/run/postgresql`, as libpq on Debian.
    pub host: Host,
    /// Server's port (5432).
    pub port: u16,
    /// Name on the server; `None`: as the client asked.
    pub dbname: Option<String>,
    /// Log in to the server as this user for everybody.
    pub user: Option<UserName>,
    /// That user's (or every user's) password towards the server.
    pub password: Option<Secret>,
    /// Hard total of server connections, logins included.
    pub pool_size: u32,
    /// Servers kept open even when idle.
    pub min_pool_size: u32,
    /// Cap of one user's share; `None`: the whole pool.
    pub user_pool_size: Option<u32>,
    /// Overrides the global mode.
    pub pool_mode: Option<PoolMode>,
    /// Client connections to this database; 0: no limit.
    pub max_client_connections: u32,
    /// Overrides `server_lifetime`.
    pub server_lifetime: Option<Duration>,
    /// SQL run on each new server connection.
    pub connect_query: Option<String>,
    /// Overrides `query_wait_timeout` (Carpool's own).
    pub query_wait_timeout: Option<Duration>,
    /// Settings given with the database that each client session starts with (`client_encoding`, `datestyle`, `timezone`, `application_name`).
    pub startup_parameters: BTreeMap<String, String>,
}

/// One user: its secret and limits.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct User {
    /// Plain, `md5…` or `SCRAM-SHA-256$…`; `None`: can't log in with a password.
    pub password: Option<Secret>,
    /// Overrides the database's and the global mode.
    pub pool_mode: Option<PoolMode>,
    /// Cap of this user's servers in one pool.
    pub pool_size: Option<u32>,
    /// Client connections of this user; 0: no limit.
    pub max_client_connections: u32,
    /// Server connections of this user over all pools; 0: no limit.
    pub max_user_connections: u32,
    /// Overrides of the global timeouts.
    pub query_timeout: Option<Duration>,
    /// See `query_timeout`.
    pub idle_transaction_timeout: Option<Duration>,
    /// See `query_timeout`.
    pub transaction_timeout: Option<Duration>,
    /// See `query_timeout`.
    pub client_idle_timeout: Option<Duration>,
}
