//! The checked configuration: what the rest of Carpool reads.
//!
//! A [`Config`] can't be invalid: every value is typed, in range and consistent with the others. Files
//! (`.toml`, `.ini`) become one through the submodules, which report ALL errors with their key path.
//! No I/O beyond reading the named files and running the commands that print secrets, no clock.
//!
//! | module | owns |
//! |---|---|
//! | `toml_file`, `ini`, `url` | a text to its keys and values, in the order of the file: `document` |
//! | `userlist` | PgBouncer's `auth_file` |
//! | `hba`, `ldap`, `jwt` | who may connect, and how they show who they are; `access` puts it together |
//! | `tls` | the files of TLS |
//! | `settings`, `sections` | the table of every setting: name, kind, default, meaning |
//! | `foreign` | PgBouncer's settings that have no effect here, or are refused |
//! | `sharing`, `target`, `hosts` | values with a grammar of their own |
//! | `route` | the read-only routes of databases, `NAME@ro` |
//! | `secret` | secrets, and where they come from |
//! | `kind`, `field`, `time` | values: from a file, to a typed field, and back to text |
//! | `draft` | a configuration as it was read, for SET |
//! | `plan` | what changes from one configuration to another |
//! | `build`, `check` | keys and values to a [`Config`], and what must hold between settings |
//! | `write` | a [`Config`] to TOML, and to the rows of SHOW CONFIG |
//! | `report` | errors and warnings with their place |

pub mod access;
mod build;
mod check;
mod document;
mod draft;
mod field;
mod foreign;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub mod hba;
mod hosts;
mod ini;
pub mod jwt;
mod kind;
pub mod ldap;
mod plan;
mod report;
mod route;
mod secret;
mod sections;
mod settings;
mod sharing;
mod target;
#[cfg(test)]
mod tests;
mod time;
mod tls;
mod toml_file;
mod url;
mod userlist;
mod web;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::names::{DatabaseName, UserName};
use crate::tls::{AcceptTls, BindingMode, SslMode, SslNegotiation};

pub use draft::{Draft, SetError};
pub use hosts::{LoadBalance, ReadOnlyRoute, Role, SessionAttrs};
pub use plan::{Change, Plan};
pub use report::{ConfigError, ConfigErrors};
pub use secret::Secret;
pub use sharing::{ShareBy, Weights};
pub use target::Target;
pub use tls::ServerTls;
pub use web::HttpAnonymous;

/// A length of time as settings spell it: seconds, or a number with its unit.
#[must_use]
pub fn parse_time(text: &str) -> Option<Duration> {
    time::parse(text).ok()
}

/// A pool without a size of its own (PgBouncer's 0, `"unlimited"` in TOML).
pub const UNLIMITED: u32 = u32::MAX;

/// PgBouncer's `auth_query`.
const DEFAULT_AUTH_QUERY: &str = "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END \
                                  FROM pg_authid WHERE rolname=$1 AND rolcanlogin";

/// The databases of the admin console, which can't be configured.
const RESERVED_DATABASES: [&str; 2] = ["pgbouncer", "carpool"];

/// What a configuration was written in. The two have different defaults.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// Carpool's own.
    #[default]
    Toml,
    /// PgBouncer's.
    Ini,
}

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

impl PoolMode {
    /// All modes.
    pub const ALL: [Self; 3] = [Self::Session, Self::Transaction, Self::Statement];

    /// The word of the configuration and of SHOW.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Transaction => "transaction",
            Self::Statement => "statement",
        }
    }
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
    /// As the line of `auth_hba_file` says that is for the connection.
    Hba,
    /// By the user of the operating system at the other end of the unix socket.
    Peer,
    /// Clear-text password that an LDAP server knows.
    Ldap,
    /// Clear-text password that PAM knows.
    Pam,
    /// Signed token in the place of a clear-text password (Carpool's own).
    Jwt,
    /// A certificate whose common name is the user's name.
    Cert,
}

impl AuthType {
    /// All types.
    pub const ALL: [Self; 11] = [
        Self::Trust,
        Self::Any,
        Self::Plain,
        Self::Md5,
        Self::ScramSha256,
        Self::Hba,
        Self::Peer,
        Self::Ldap,
        Self::Pam,
        Self::Jwt,
        Self::Cert,
    ];

    /// The word of the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trust => "trust",
            Self::Any => "any",
            Self::Plain => "plain",
            Self::Md5 => "md5",
            Self::ScramSha256 => "scram-sha-256",
            Self::Hba => "hba",
            Self::Peer => "peer",
            Self::Ldap => "ldap",
            Self::Pam => "pam",
            Self::Jwt => "jwt",
            Self::Cert => "cert",
        }
    }
}

/// The whole configuration. Two are equal when they say the same, however they were written.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Global settings.
    pub pooler: Pooler,
    /// `[databases.NAME]`, without the `*` fallback.
    pub databases: BTreeMap<DatabaseName, Database>,
    /// `[databases."*"]`: serves any name not listed, `dbname` defaulting to the name asked for.
    pub fallback: Option<Database>,
    /// What serves `NAME@ro` for any such name, where the fallback has a read-only route.
    pub fallback_route: Option<Database>,
    /// `[users.NAME]` merged with the users of `auth_file` (a `[users]` entry wins, setting by setting).
    pub users: BTreeMap<UserName, User>,
    /// `[peers.ID]`: where cancel requests for others' sessions go.
    pub peers: BTreeMap<u32, Peer>,
    /// The users whose password is the one in `auth_file`.
    pub auth_file_users: BTreeSet<UserName>,
    /// What the files of `auth_hba_file` and the like have.
    pub access: Arc<access::Access>,
    /// TLS with clients: the `client_tls_*` settings and the files that they name.
    pub client_tls: AcceptTls,
    /// TLS to servers, by database.
    pub server_tls: ServerTls,
    /// What the file asks for without effect, and what looks wrong; to be logged at start and on reload.
    pub warnings: Vec<String>,
    /// What it was read from.
    pub format: Format,
}

impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        self.pooler == other.pooler
            // Routes follow from these.
            && self.given_databases().eq(other.given_databases())
            && self.fallback == other.fallback
            && self.users == other.users
            && self.peers == other.peers
    }
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
    /// The system's group that the socket file belongs to; `None`: the process's.
    pub unix_socket_group: Option<String>,
    /// The system's user that the process becomes.
    pub user: Option<String>,
    /// The file with the process's number.
    pub pidfile: Option<PathBuf>,
    /// Where `/metrics`, `/healthz`, `/` are served; off when the port is `None`.
    pub http_addr: String,
    /// See `http_addr`.
    pub http_port: Option<u16>,
    /// What of it needs no login.
    pub http_anonymous: HttpAnonymous,
    /// Names with a dot by which browsers may reach it.
    pub http_hosts: Vec<String>,
    /// Worker threads (Carpool's own); 0: one for every two cores, at most 4 unless set.
    pub worker_threads: usize,
    /// Who this one is among `[peers]`; 0: it has none.
    pub peer_id: u32,
    /// Default pool mode.
    pub pool_mode: PoolMode,
    /// Default of a database's `pool_size`: its hard total of server connections.
    pub default_pool_size: u32,
    /// Servers kept open per database even when idle.
    pub min_pool_size: u32,
    /// Servers on top of a pool's size, for clients that have waited for `reserve_pool_timeout`.
    pub reserve_pool_size: u32,
    /// See `reserve_pool_size`; zero: never.
    pub reserve_pool_timeout: Duration,
    /// Pools of the `*` database are dropped when nobody used them for this long.
    pub autodb_idle_timeout: Duration,
    /// Logins to one database's server under way at once (Carpool's own).
    pub max_concurrent_logins: u32,
    /// Client connections in total.
    pub max_client_conn: u32,
    /// Connections from one address (of IPv6: from one network /64), those not logged in among them; 0: no limit (Carpool's
    /// own).
    pub max_client_conn_per_address: u32,
    /// Connections that have not proved who they are (Carpool's own).
    pub max_login_connections: u32,
    /// Default of a database's `max_client_connections`; 0: no limit.
    pub max_db_client_connections: u32,
    /// Default of a user's `max_client_connections`; 0: no limit.
    pub max_user_client_connections: u32,
    /// Default of a user's `max_user_connections`; 0: no limit.
    pub max_user_connections: u32,
    /// How clients log in.
    pub auth_type: AuthType,
    /// SCRAM iterations of users whose secret is a plain password.
    pub scram_iterations: u32,
    /// PgBouncer's userlist file (already merged into `Config::users`).
    pub auth_file: Option<PathBuf>,
    /// Who may connect from where and how, in the format of `pg_hba.conf` (already read into `Config::access`).
    pub auth_hba_file: Option<PathBuf>,
    /// The identity maps of its lines, in the format of `pg_ident.conf`.
    pub auth_ident_file: Option<PathBuf>,
    /// The LDAP server of `auth_type = ldap`, as options of an hba line; may have a password in it.
    pub auth_ldap_options: Option<Secret>,
    /// The keys that tokens are signed with, as a JSON Web Key Set (Carpool's own).
    pub auth_jwks_file: Option<PathBuf>,
    /// Who must have issued a token (Carpool's own).
    pub auth_jwt_issuer: Option<String>,
    /// For whom a token must be: one of these (Carpool's own).
    pub auth_jwt_audience: Vec<String>,
    /// The claim that has the user's name (Carpool's own).
    pub auth_jwt_user_claim: String,
    /// How far the clocks of issuer and Carpool may differ (Carpool's own).
    pub auth_jwt_leeway: Duration,
    /// Default of a database's `auth_user`: who looks up users without a secret here.
    pub auth_user: Option<UserName>,
    /// Default of a database's `auth_query`: what it asks.
    pub auth_query: String,
    /// Default of a database's `auth_dbname`: where it asks; `None`: in the database that the client wants.
    pub auth_dbname: Option<DatabaseName>,
    /// What was looked up holds for so long (Carpool's own); zero: for logins at the same time only.
    pub auth_query_cache_ttl: Duration,
    /// Whether clients may, or must, use TLS.
    pub client_tls_sslmode: SslMode,
    /// Private key for TLS with clients.
    pub client_tls_key_file: Option<PathBuf>,
    /// Its certificate, and those between it and its authority.
    pub client_tls_cert_file: Option<PathBuf>,
    /// Authorities of clients' certificates.
    pub client_tls_ca_file: Option<PathBuf>,
    /// Protocol versions with clients.
    pub client_tls_protocols: String,
    /// Ciphers of TLS 1.2 with clients.
    pub client_tls_ciphers: String,
    /// Ciphers of TLS 1.3 with clients.
    pub client_tls13_ciphers: String,
    /// Curves of the key exchange with clients.
    pub client_tls_ecdhcurve: String,
    /// Has no effect.
    pub client_tls_dheparams: String,
    /// Users who may run changing console commands.
    pub admin_users: Vec<UserName>,
    /// Users who may run SHOW on the console.
    pub stats_users: Vec<UserName>,
    /// Whether servers may, or must, use TLS.
    pub server_tls_sslmode: SslMode,
    /// Authorities of servers' certificates.
    pub server_tls_ca_file: Option<PathBuf>,
    /// Private key to show to servers.
    pub server_tls_key_file: Option<PathBuf>,
    /// Its certificate.
    pub server_tls_cert_file: Option<PathBuf>,
    /// Protocol versions to servers.
    pub server_tls_protocols: String,
    /// Ciphers of TLS 1.2 to servers.
    pub server_tls_ciphers: String,
    /// Ciphers of TLS 1.3 to servers.
    pub server_tls13_ciphers: String,
    /// Close a server idle for longer.
    pub server_idle_timeout: Duration,
    /// Close a server older than this when it is next idle.
    pub server_lifetime: Duration,
    /// A server's connect and login may take this long.
    pub server_connect_timeout: Duration,
    /// The longest pause between attempts after failed logins (backoff grows up to it).
    pub server_login_retry: Duration,
    /// How often each of several hosts is asked what it is (Carpool's own).
    pub health_check_interval: Duration,
    /// How long one may take to answer (Carpool's own).
    pub health_check_timeout: Duration,
    /// Query that checks an idle server before reuse; empty (PgBouncer's `<empty>`): a bare Sync.
    pub server_check_query: String,
    /// Check a server idle for longer than this before reuse.
    pub server_check_delay: Duration,
    /// Run in session mode when a client leaves.
    pub server_reset_query: String,
    /// Run it in all modes.
    pub server_reset_query_always: bool,
    /// Hand out idle servers in turn, not the one used last.
    pub server_round_robin: bool,
    /// In session mode, end idle clients whose server is to be closed.
    pub server_fast_close: bool,
    /// Ask for session state after every transaction that may have changed it out of sight (Carpool's own).
    pub strict_session_state: bool,
    /// Run unnamed statements that come again as prepared ones (Carpool's own).
    pub reuse_unnamed_statements: bool,
    /// Keep one server connection of each pool to ask who blocks whom (Carpool's own).
    pub diagnostic_connection: bool,
    /// Texts of statements may be shown (Carpool's own).
    pub show_query_text: bool,
    /// What makes clients a group, which gets servers in turn with others (Carpool's own).
    pub share_by: ShareBy,
    /// What groups may have, in relation to others (Carpool's own).
    pub share_weights: Weights,
    /// A client may wait for a server this long.
    pub query_wait_timeout: Duration,
    /// A client that has waited for this long gets a notice; whole seconds.
    pub query_wait_notify: Duration,
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
    /// A new process may take this long until it is ready to take over (Carpool's own).
    pub upgrade_timeout: Duration,
    /// Clients that can't be handed to it may stay this long (Carpool's own).
    pub upgrade_drain_timeout: Duration,
    /// SIGTERM waits for clients, SIGINT for transactions, as PgBouncer's (Carpool's own).
    pub stop_waits_for_clients: bool,
    /// On SUSPEND, clients' buffers may take this long to be flushed.
    pub suspend_timeout: Duration,
    /// Prepared statements kept per server connection; 0 turns tracking off.
    pub max_prepared_statements: u32,
    /// Largest message from a client that must be held whole (Query, Parse, …), bytes.
    pub max_packet_size: u32,
    /// Startup parameters to drop silently.
    pub ignore_startup_parameters: Vec<String>,
    /// Add the client's address to the `application_name` that it starts with.
    pub application_name_add_host: bool,
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
    /// Log transactions that take so long; zero: none (Carpool's own).
    pub log_slow_transactions: Duration,
    /// Where spans are exported to, by OTLP over HTTP (Carpool's own).
    pub otlp_endpoint: Option<String>,
    /// Percent of the transactions without a trace of the caller's that get a span (Carpool's own).
    pub otlp_sampling: u32,
    /// Window of the averages in SHOW STATS.
    pub stats_period: Duration,
    /// `-v` count; 0 is info.
    pub verbose: u32,
    /// Log to this file, too.
    pub logfile: Option<PathBuf>,
    /// Log to the system's log, too.
    pub syslog: bool,
    /// As what.
    pub syslog_ident: String,
    /// Under which facility.
    pub syslog_facility: String,
    /// Let the system write core dumps, which hold secrets (Carpool's own).
    pub core_dumps: bool,
    /// Listen queue length.
    pub listen_backlog: u32,
    /// `SO_REUSEPORT` on the listening sockets.
    pub so_reuseport: bool,
    /// Record what session state clients use (Carpool's own).
    pub audit: bool,
    /// Keep where the time of transactions goes (Carpool's own).
    pub track_waits: bool,
    /// And of statements (Carpool's own).
    pub track_statements: bool,
    /// Events that the flight recorder keeps of each connection; 0: none (Carpool's own).
    pub flight_recorder: u32,
    /// Where it writes them to (Carpool's own).
    pub flight_recorder_dir: Option<PathBuf>,
    /// Record the demand on pools, for advice on their size (Carpool's own).
    pub advisor: bool,
    /// What a size has to fulfil (Carpool's own).
    pub advisor_target: Target,
    /// How far back the record goes (Carpool's own).
    pub advisor_window: Duration,
    /// A pool that sizes itself shrinks when that was advised for so long (Carpool's own).
    pub auto_pool_size_delay: Duration,
    /// Clients get a notice when they begin to keep a server (Carpool's own).
    pub pin_notice: bool,
    /// Connections are accepted when their first bytes are there (`TCP_DEFER_ACCEPT`; Linux).
    pub tcp_defer_accept: bool,
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
    /// `SO_SNDBUF` and `SO_RCVBUF` in bytes (0: system's).
    pub tcp_socket_buffer: u32,
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
    /// Where the servers are, one at least. Default: the unix socket directory `/var/run/postgresql`, as libpq on Debian.
    pub host: Vec<Host>,
    /// Their port (5432): one for all, or one for each host.
    pub port: Vec<u16>,
    /// Which of several hosts is tried first.
    pub load_balance_hosts: LoadBalance,
    /// What a server has to be (libpq's).
    pub target_session_attrs: SessionAttrs,
    /// Whether clients may ask for `NAME@ro` (Carpool's own).
    pub read_only_route: ReadOnlyRoute,
    /// A standby that is further behind isn't used (Carpool's own); zero: however far.
    pub max_replica_lag: Duration,
    /// It is the read-only route of this database.
    pub route_of: Option<DatabaseName>,
    /// Name on the server; `None`: as the client asked.
    pub dbname: Option<String>,
    /// Log in to the server as this user for everybody.
    pub user: Option<UserName>,
    /// That user's (or every user's) password towards the server.
    pub password: Option<Secret>,
    /// Overrides the global `auth_user`.
    pub auth_user: Option<UserName>,
    /// Overrides the global `auth_query`.
    pub auth_query: Option<String>,
    /// Overrides the global `auth_dbname`.
    pub auth_dbname: Option<DatabaseName>,
    /// Overrides `server_tls_sslmode` (Carpool's own).
    pub server_tls_sslmode: Option<SslMode>,
    /// Overrides `server_tls_ca_file` (Carpool's own).
    pub server_tls_ca_file: Option<PathBuf>,
    /// How TLS begins (libpq's).
    pub sslnegotiation: SslNegotiation,
    /// Whether logins to the server are bound to the TLS connection (libpq's).
    pub channel_binding: BindingMode,
    /// Hard total of server connections, logins included. With `auto_pool_size` it is `max_auto_pool_size`.
    pub pool_size: u32,
    /// `pool_size = "auto"`: the pool sizes itself (Carpool's own).
    pub auto_pool_size: bool,
    /// It has this size at least (Carpool's own).
    pub min_auto_pool_size: u32,
    /// And at most (Carpool's own).
    pub max_auto_pool_size: u32,
    /// What several Carpools may have together, each at most its `pool_size` (Carpool's own); 0: it has what it has for itself.
    pub shared_pool_size: u32,
    /// Who keeps the books of it, on the server (Carpool's own); `None`: `user`.
    pub shared_pool_user: Option<UserName>,
    /// Servers kept open even when idle.
    pub min_pool_size: u32,
    /// Servers on top of `pool_size`, for clients that have waited for `reserve_pool_timeout`.
    pub reserve_pool_size: u32,
    /// Cap of one user's share; `None`: the whole pool.
    pub user_pool_size: Option<u32>,
    /// Servers that clients may keep between transactions for session state that can't be moved; 0: none, such
    /// state ends with the transaction.
    pub max_pinned: u32,
    /// Overrides `pin_notice`.
    pub pin_notice: Option<bool>,
    /// Overrides `share_by`.
    pub share_by: Option<ShareBy>,
    /// Overrides `share_weights`, as a whole.
    pub share_weights: Option<Weights>,
    /// Overrides `strict_session_state` (Carpool's own).
    pub strict_session_state: Option<bool>,
    /// Overrides `reuse_unnamed_statements` (Carpool's own).
    pub reuse_unnamed_statements: Option<bool>,
    /// Overrides `diagnostic_connection` (Carpool's own).
    pub diagnostic_connection: Option<bool>,
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

/// The largest `peer_id`, as in PgBouncer.
pub const MOST_PEERS: u32 = 16_383;

/// Another Carpool that clients of the same address may come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Where it listens.
    pub host: Option<Host>,
    /// See `host`.
    pub port: u16,
    /// Cancel requests that are passed on to it at a time.
    pub pool_size: u32,
}

impl Default for Peer {
    fn default() -> Self {
        Self { host: None, port: 6432, pool_size: 25 }
    }
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

impl Default for Pooler {
    /// The defaults of a `.toml` file. Where they differ from PgBouncer's, transaction mode with one pool of 25
    /// and room for many clients is what Carpool is for.
    #[expect(clippy::too_many_lines, reason = "one for each setting")]
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            listen_addr: vec!["127.0.0.1".into()],
            listen_port: 6432,
            unix_socket_dir: None,
            unix_socket_mode: 0o777,
            unix_socket_group: None,
            user: None,
            pidfile: None,
            http_addr: "127.0.0.1".into(),
            http_port: None,
            http_anonymous: HttpAnonymous::Status,
            http_hosts: Vec::new(),
            worker_threads: 0,
            peer_id: 0,
            pool_mode: PoolMode::Transaction,
            default_pool_size: 25,
            min_pool_size: 0,
            reserve_pool_size: 0,
            reserve_pool_timeout: seconds(5),
            autodb_idle_timeout: seconds(3600),
            max_concurrent_logins: 4,
            max_client_conn: 10_000,
            max_client_conn_per_address: 0,
            max_login_connections: 10_000,
            max_db_client_connections: 0,
            max_user_client_connections: 0,
            max_user_connections: 0,
            auth_type: AuthType::ScramSha256,
            scram_iterations: 4096,
            auth_file: None,
            auth_hba_file: None,
            auth_ident_file: None,
            auth_ldap_options: None,
            auth_jwks_file: None,
            auth_jwt_issuer: None,
            auth_jwt_audience: Vec::new(),
            auth_jwt_user_claim: "sub".into(),
            auth_jwt_leeway: seconds(30),
            auth_user: None,
            auth_query: DEFAULT_AUTH_QUERY.into(),
            auth_dbname: None,
            auth_query_cache_ttl: seconds(5),
            client_tls_sslmode: SslMode::Disable,
            client_tls_key_file: None,
            client_tls_cert_file: None,
            client_tls_ca_file: None,
            client_tls_protocols: "secure".into(),
            client_tls_ciphers: "default".into(),
            client_tls13_ciphers: String::new(),
            client_tls_ecdhcurve: "auto".into(),
            client_tls_dheparams: "auto".into(),
            admin_users: Vec::new(),
            stats_users: Vec::new(),
            server_tls_sslmode: SslMode::Prefer,
            server_tls_ca_file: None,
            server_tls_key_file: None,
            server_tls_cert_file: None,
            server_tls_protocols: "secure".into(),
            server_tls_ciphers: "default".into(),
            server_tls13_ciphers: String::new(),
            server_idle_timeout: seconds(600),
            server_lifetime: seconds(3600),
            server_connect_timeout: seconds(15),
            server_login_retry: seconds(15),
            health_check_interval: seconds(2),
            health_check_timeout: seconds(2),
            server_check_query: String::new(),
            server_check_delay: seconds(30),
            server_reset_query: "DISCARD ALL".into(),
            server_reset_query_always: false,
            server_round_robin: false,
            server_fast_close: false,
            strict_session_state: false,
            reuse_unnamed_statements: false,
            diagnostic_connection: false,
            show_query_text: false,
            share_by: ShareBy::None,
            share_weights: Weights::new(),
            query_wait_timeout: seconds(120),
            query_wait_notify: seconds(5),
            query_timeout: Duration::ZERO,
            idle_transaction_timeout: Duration::ZERO,
            transaction_timeout: Duration::ZERO,
            client_idle_timeout: Duration::ZERO,
            client_login_timeout: seconds(60),
            cancel_wait_timeout: seconds(10),
            shutdown_timeout: seconds(30),
            upgrade_timeout: seconds(30),
            upgrade_drain_timeout: seconds(300),
            stop_waits_for_clients: false,
            suspend_timeout: seconds(10),
            max_prepared_statements: 200,
            max_packet_size: 0x3fff_ffff,
            ignore_startup_parameters: Vec::new(),
            application_name_add_host: false,
            track_extra_parameters: Vec::new(),
            log_connections: true,
            log_disconnections: true,
            log_pooler_errors: true,
            log_stats: true,
            log_slow_transactions: Duration::ZERO,
            otlp_endpoint: None,
            otlp_sampling: 100,
            stats_period: seconds(60),
            verbose: 0,
            logfile: None,
            syslog: false,
            syslog_ident: "carpool".into(),
            syslog_facility: "daemon".into(),
            core_dumps: false,
            listen_backlog: 1024,
            so_reuseport: false,
            pin_notice: false,
            audit: false,
            track_waits: false,
            track_statements: false,
            flight_recorder: 0,
            flight_recorder_dir: None,
            tcp_defer_accept: true,
            advisor: false,
            advisor_target: Target::default(),
            advisor_window: seconds(900),
            auto_pool_size_delay: seconds(300),
            tcp_keepalive: true,
            tcp_keepidle: 0,
            tcp_keepintvl: 0,
            tcp_keepcnt: 0,
            tcp_user_timeout: 0,
            tcp_socket_buffer: 0,
        }
    }
}

impl Default for Database {
    /// A database on the local unix socket with a pool of 25.
    fn default() -> Self {
        Self {
            host: vec![Host::Unix("/var/run/postgresql".into())],
            port: vec![5432],
            load_balance_hosts: LoadBalance::RoundRobin,
            target_session_attrs: SessionAttrs::Any,
            read_only_route: ReadOnlyRoute::Off,
            max_replica_lag: Duration::ZERO,
            route_of: None,
            dbname: None,
            user: None,
            password: None,
            auth_user: None,
            auth_query: None,
            auth_dbname: None,
            server_tls_sslmode: None,
            server_tls_ca_file: None,
            sslnegotiation: SslNegotiation::Postgres,
            channel_binding: BindingMode::Prefer,
            pool_size: 25,
            auto_pool_size: false,
            min_auto_pool_size: 5,
            max_auto_pool_size: 100,
            shared_pool_size: 0,
            shared_pool_user: None,
            min_pool_size: 0,
            reserve_pool_size: 0,
            user_pool_size: None,
            max_pinned: 20,
            pin_notice: None,
            share_by: None,
            share_weights: None,
            strict_session_state: None,
            reuse_unnamed_statements: None,
            diagnostic_connection: None,
            pool_mode: None,
            max_client_connections: 0,
            server_lifetime: None,
            connect_query: None,
            query_wait_timeout: None,
            startup_parameters: BTreeMap::new(),
        }
    }
}

impl Database {
    /// Each host with its port.
    pub fn places(&self) -> impl Iterator<Item = (Host, u16)> {
        let last = self.port.last().copied().unwrap_or(5432);
        let port = move |at: usize| self.port.get(at).copied().unwrap_or(last);
        self.host.iter().enumerate().map(move |(at, host)| (host.clone(), port(at)))
    }
}

impl Config {
    /// Reads a configuration file: `.toml`, or PgBouncer's `.ini`. Relative paths in it start from the working
    /// directory, as PgBouncer's do.
    ///
    /// # Errors
    /// All that is wrong with it, each with its place.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        Draft::read(path)?.build()
    }

    /// One database, from a `postgres://` URL as libpq takes it, with every default. Clients use the name of the
    /// database and the user of the URL.
    ///
    /// # Errors
    /// All that is wrong with it. The text never has the URL, which holds a password.
    pub fn from_database_url(url: &str) -> Result<Self, ConfigErrors> {
        url::load(url)
    }

    /// A server user's own cap of servers in one pool, if it has one: no pool can have more than
    /// `max_user_connections`, which is kept over all of them.
    #[must_use]
    pub fn user_share(&self, name: &UserName) -> Option<u32> {
        let user = self.users.get(name);
        let most = user.map_or(self.pooler.max_user_connections, |u| u.max_user_connections);
        let caps = [user.and_then(|u| u.pool_size), (most > 0).then_some(most)];
        caps.into_iter().flatten().min()
    }

    /// What the configuration says of the database that clients call `name`: its own entry, else the `*`
    /// fallback, or that one's read-only route (then `true`).
    #[must_use]
    pub fn database(&self, name: &str) -> Option<(&Database, bool)> {
        let own = self.databases.get(name).map(|database| (database, false));
        let route = || self.fallback_route.as_ref().filter(|_| self.fallback_base(name).is_some());
        own.or_else(|| route().or(self.fallback.as_ref()).map(|database| (database, true)))
    }
}

/// One global setting as SHOW CONFIG gives it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// PgBouncer's name, or Carpool's own.
    pub name: &'static str,
    /// The value in force, spelled as in an ini file.
    pub value: String,
    /// What it is when not set.
    pub default: String,
    /// Whether a reload can change it.
    pub changeable: bool,
    /// What it does, in one line.
    pub doc: &'static str,
}
