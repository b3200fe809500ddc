//! The rows of the console's SHOW commands, with PgBouncer 1.25's columns.

use super::Totals;
use super::table::{Column, Row, Value, row};

const fn text(name: &'static str) -> Column {
    Column::text(name)
}

const fn int(name: &'static str) -> Column {
    Column::int(name)
}

const fn numeric(name: &'static str) -> Column {
    Column::numeric(name)
}

/// SHOW POOLS.
pub const POOLS: &[Column] = &[
    text("database"),
    text("user"),
    int("cl_active"),
    int("cl_waiting"),
    int("cl_active_cancel_req"),
    int("cl_waiting_cancel_req"),
    int("sv_active"),
    int("sv_active_cancel"),
    int("sv_being_canceled"),
    int("sv_idle"),
    int("sv_used"),
    int("sv_tested"),
    int("sv_login"),
    int("maxwait"),
    int("maxwait_us"),
    text("pool_mode"),
    text("load_balance_hosts"),
];

/// One user of one database.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PoolRow {
    /// The database, as clients call it.
    pub database: String,
    /// As whom its servers are logged in.
    pub user: String,
    /// Clients that have a server, or ask for none.
    pub clients_active: u32,
    /// Clients that wait for a server.
    pub clients_waiting: u32,
    /// Cancel requests on their way to the server.
    pub cancels: u32,
    /// Servers on loan.
    pub active: u32,
    /// Servers that go back when the cancel requests for them have ended.
    pub being_canceled: u32,
    /// Servers ready for use.
    pub idle: u32,
    /// Idle servers that are checked before use.
    pub used: u32,
    /// Servers in reset or check.
    pub tested: u32,
    /// Logins under way.
    pub logins: u32,
    /// Microseconds that the first in the queue has waited.
    pub max_wait: u64,
    /// When servers go back.
    pub mode: &'static str,
    /// Servers that clients keep between transactions, among the active ones; not in SHOW POOLS.
    pub pinned: u32,
}

impl PoolRow {
    /// As a row of [`POOLS`].
    #[must_use]
    pub fn row(&self) -> Row {
        row![
            self.database.clone(),
            self.user.clone(),
            self.clients_active,
            self.clients_waiting,
            self.cancels,
            // A cancel request is passed on at once.
            0u32,
            self.active,
            self.cancels,
            self.being_canceled,
            self.idle,
            self.used,
            self.tested,
            self.logins,
            self.max_wait / 1_000_000,
            self.max_wait % 1_000_000,
            self.mode,
            Value::Null,
        ]
    }

    /// Servers, logins under way included.
    #[must_use]
    pub const fn servers(&self) -> u32 {
        self.active + self.being_canceled + self.idle + self.used + self.tested + self.logins
    }
}

/// SHOW CLIENTS and SHOW SERVERS.
pub const SOCKETS: &[Column] = &[
    text("type"),
    text("user"),
    text("database"),
    text("replication"),
    text("state"),
    text("addr"),
    int("port"),
    text("local_addr"),
    int("local_port"),
    text("connect_time"),
    text("request_time"),
    int("wait"),
    int("wait_us"),
    int("close_needed"),
    text("ptr"),
    text("link"),
    int("remote_pid"),
    text("tls"),
    text("application_name"),
    int("prepared_statements"),
    int("id"),
    // Carpool's own.
    text("pinned"),
    int("pinned_seconds"),
];

/// One end of a connection: its address and port. `unix` for a unix socket.
pub type End = (String, u16);

/// One client or server connection.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SocketRow {
    /// `C` or `S`.
    pub kind: &'static str,
    /// Who is logged in.
    pub user: String,
    /// To which database.
    pub database: String,
    /// `none`, `logical`, `physical`.
    pub replication: &'static str,
    /// What it is doing.
    pub state: &'static str,
    /// The other end.
    pub remote: End,
    /// This end.
    pub local: End,
    /// When it came to be.
    pub connect_time: String,
    /// When something was last asked.
    pub request_time: String,
    /// Microseconds that it has waited.
    pub wait: u64,
    /// Its name in logs.
    pub name: String,
    /// The name in logs of what it is paired with.
    pub link: String,
    /// Process number at the other end, where it is known.
    pub remote_pid: u32,
    /// Protocol version and cipher of its encryption; empty where there is none.
    pub tls: String,
    /// What the client calls itself.
    pub application_name: String,
    /// Named statements.
    pub prepared_statements: u32,
    /// Its number.
    pub id: u64,
    /// Why the client keeps the server between transactions; empty where it doesn't.
    pub pinned: String,
    /// For how many seconds it has.
    pub pinned_seconds: Option<u64>,
    /// Whether the server is closed as soon as it comes free.
    pub close_needed: bool,
}

impl SocketRow {
    /// As a row of [`SOCKETS`].
    #[must_use]
    pub fn row(mut self) -> Row {
        let own = row![std::mem::take(&mut self.pinned), self.pinned_seconds];
        self.standard().into_iter().chain(own).collect()
    }

    /// As a row of PgBouncer's columns alone.
    #[must_use]
    pub fn standard(self) -> Row {
        row![
            self.kind,
            self.user,
            self.database,
            self.replication,
            self.state,
            self.remote.0,
            self.remote.1,
            self.local.0,
            self.local.1,
            self.connect_time,
            self.request_time,
            self.wait / 1_000_000,
            self.wait % 1_000_000,
            self.close_needed,
            self.name,
            self.link,
            self.remote_pid,
            self.tls,
            self.application_name,
            self.prepared_statements,
            self.id,
        ]
    }
}

/// SHOW SOCKETS and ACTIVE_SOCKETS: PgBouncer's columns of SHOW CLIENTS, and those about buffers.
pub const ALL_SOCKETS: &[Column] = &[
    text("type"),
    text("user"),
    text("database"),
    text("replication"),
    text("state"),
    text("addr"),
    int("port"),
    text("local_addr"),
    int("local_port"),
    text("connect_time"),
    text("request_time"),
    int("wait"),
    int("wait_us"),
    int("close_needed"),
    text("ptr"),
    text("link"),
    int("remote_pid"),
    text("tls"),
    text("application_name"),
    int("prepared_statements"),
    int("id"),
    int("recv_pos"),
    int("pkt_pos"),
    int("pkt_remain"),
    int("send_pos"),
    int("send_remain"),
    int("pkt_avail"),
    int("send_avail"),
];

/// SHOW FDS.
pub const FDS: &[Column] = &[
    int("fd"),
    text("task"),
    text("user"),
    text("database"),
    text("addr"),
    int("port"),
    Column::long("cancel"),
    int("link"),
    text("client_encoding"),
    text("std_strings"),
    text("datestyle"),
    text("timezone"),
    text("password"),
    Column::bytea("scram_client_key"),
    Column::bytea("scram_server_key"),
];

/// SHOW PAUSED, Carpool's own.
pub const PAUSED: &[Column] = &[
    text("database"),
    int("paused_seconds"),
    int("cl_waiting"),
    text("client"),
    int("client_id"),
    text("server_user"),
    int("server_pid"),
    int("held_seconds"),
];

/// SHOW DATABASES.
pub const DATABASES: &[Column] = &[
    text("name"),
    text("host"),
    int("port"),
    text("database"),
    text("force_user"),
    int("pool_size"),
    int("min_pool_size"),
    int("reserve_pool_size"),
    int("server_lifetime"),
    text("pool_mode"),
    text("load_balance_hosts"),
    int("max_connections"),
    int("current_connections"),
    int("max_client_connections"),
    int("current_client_connections"),
    int("paused"),
    int("disabled"),
];

/// SHOW USERS.
pub const USERS: &[Column] = &[
    text("name"),
    text("pool_size"),
    text("reserve_pool_size"),
    text("pool_mode"),
    int("max_user_connections"),
    int("current_connections"),
    int("max_user_client_connections"),
    int("current_client_connections"),
];

/// SHOW PINS, Carpool's own.
pub const PINS: &[Column] = &[
    text("database"),
    text("user"),
    text("client"),
    int("client_id"),
    text("application_name"),
    text("server"),
    int("server_pid"),
    text("reasons"),
    int("seconds"),
    text("last_command"),
];

/// SHOW BLOCKERS, Carpool's own. The first columns are the pool's, the others of one who holds a server of it.
/// Microseconds: how long the first client in the queue has waited (`maxwait_us`), for how long the server has been held,
/// and for how long its holder has been in its state. `waits_for` and `blocked_by` are known with `diagnostic_connection`;
/// `query`, which needs `show_query_text`, with that or `track_statements`.
pub const BLOCKERS: &[Column] = &[
    text("database"),
    int("cl_waiting"),
    Column::long("maxwait_us"),
    text("user"),
    text("client"),
    int("client_id"),
    text("application_name"),
    text("addr"),
    text("server"),
    int("server_pid"),
    Column::long("held_us"),
    text("state"),
    Column::long("state_us"),
    text("pinned"),
    text("waits_for"),
    text("blocked_by"),
    text("query"),
    text("starved_by"),
];

/// SHOW SHARES, Carpool's own. `sv_active` are the servers that a group has, `waits` those that it got after waiting,
/// and `wait_time` is the microseconds that it waited for these.
pub const SHARES: &[Column] = &[
    text("database"),
    text("user"),
    text("share_by"),
    text("group"),
    int("weight"),
    int("sv_active"),
    int("cl_waiting"),
    int("maxwait"),
    int("maxwait_us"),
    Column::long("waits"),
    Column::long("wait_time"),
];

/// SHOW HOSTS, Carpool's own. `failures` are those in a row, `rests_ms` how long the host is still left alone,
/// `checked_ms` how long ago it last answered a health check.
pub const HOSTS: &[Column] = &[
    text("database"),
    text("host"),
    int("port"),
    text("role"),
    text("state"),
    int("servers"),
    Column::long("logins"),
    Column::long("failed_logins"),
    int("failures"),
    Column::long("rests_ms"),
    text("last_error"),
    Column::long("checked_ms"),
    Column::long("lag_ms"),
    int("timeline"),
];

/// SHOW BUDGET, Carpool's own: who shares `shared_pool_size`. `want` is what one could use, `held` what it may have, `servers`
/// what PostgreSQL has of it, `age_ms` how long ago that was read.
pub const BUDGET: &[Column] = &[
    text("database"),
    int("shared_pool_size"),
    text("member"),
    text("name"),
    text("own"),
    text("state"),
    int("want"),
    int("held"),
    int("servers"),
    Column::long("age_ms"),
    text("last_error"),
];

/// SHOW ADVICE, Carpool's own.
pub const ADVICE: &[Column] = &[
    text("database"),
    int("pool_size"),
    int("recommended"),
    int("low"),
    int("high"),
    int("enough"),
    text("target"),
    Column::long("wait_p50_us"),
    Column::long("wait_p99_us"),
    Column::long("expected_wait_p99_us"),
    int("utilization_percent"),
    Column::long("transactions"),
    Column::long("seconds"),
    text("contention"),
    text("verdict"),
];

/// SHOW AUDIT, Carpool's own.
pub const AUDIT: &[Column] = &[
    text("database"),
    text("user"),
    text("application_name"),
    text("kind"),
    text("detail"),
    Column::long("uses"),
    Column::long("sessions"),
    Column::long("pins"),
    text("handling"),
    text("advice"),
];

/// SHOW WAITS, Carpool's own: all of the time, the median and the 99th percentile of a transaction, microseconds.
pub const WAITS: &[Column] = &[
    text("by"),
    text("database"),
    text("name"),
    Column::long("transactions"),
    Column::long("queue_time"),
    Column::long("queue_p50"),
    Column::long("queue_p99"),
    Column::long("replay_time"),
    Column::long("replay_p50"),
    Column::long("replay_p99"),
    Column::long("server_time"),
    Column::long("server_p50"),
    Column::long("server_p99"),
    Column::long("client_time"),
    Column::long("client_p50"),
    Column::long("client_p99"),
    Column::long("backpressure_time"),
    Column::long("backpressure_p50"),
    Column::long("backpressure_p99"),
];

/// SHOW STATEMENTS, Carpool's own. Times in microseconds.
pub const STATEMENTS: &[Column] = &[
    text("database"),
    text("user"),
    text("query"),
    Column::long("calls"),
    Column::long("total_time"),
    Column::long("mean_time"),
    Column::long("p99_time"),
    Column::long("queue_time"),
    Column::long("replay_time"),
    Column::long("server_time"),
    Column::long("client_time"),
    Column::long("backpressure_time"),
];

/// SHOW LISTS.
pub const LISTS: &[Column] = &[text("list"), int("items")];
/// SHOW CONFIG.
pub const CONFIG: &[Column] = &[text("key"), text("value"), text("default"), text("changeable")];
/// SHOW MEM.
pub const MEM: &[Column] = &[text("name"), int("size"), int("used"), int("free"), int("memtotal")];
/// SHOW STATE.
pub const STATE: &[Column] = &[text("key"), text("value")];
/// SHOW VERSION.
pub const VERSION: &[Column] = &[text("version")];
/// SHOW TOTALS.
pub const TOTALS: &[Column] = &[text("name"), numeric("value")];
/// SHOW PEERS.
pub const PEERS: &[Column] = &[int("peer_id"), text("host"), int("port"), int("pool_size")];
/// SHOW PEER_POOLS.
pub const PEER_POOLS: &[Column] = &[
    int("peer_id"),
    int("cl_active_cancel_req"),
    int("cl_waiting_cancel_req"),
    int("sv_active_cancel"),
    int("sv_login"),
];
/// SHOW DNS_HOSTS.
pub const DNS_HOSTS: &[Column] = &[text("hostname"), Column::long("ttl"), text("addrs")];
/// SHOW DNS_ZONES.
pub const DNS_ZONES: &[Column] = &[text("zonename"), Column::long("serial"), int("count")];

/// SHOW STATS.
pub const STATS: &[Column] = &[
    text("database"),
    numeric("total_server_assignment_count"),
    numeric("total_xact_count"),
    numeric("total_query_count"),
    numeric("total_received"),
    numeric("total_sent"),
    numeric("total_xact_time"),
    numeric("total_query_time"),
    numeric("total_wait_time"),
    numeric("total_client_parse_count"),
    numeric("total_server_parse_count"),
    numeric("total_bind_count"),
    numeric("avg_server_assignment_count"),
    numeric("avg_xact_count"),
    numeric("avg_query_count"),
    numeric("avg_recv"),
    numeric("avg_sent"),
    numeric("avg_xact_time"),
    numeric("avg_query_time"),
    numeric("avg_wait_time"),
    numeric("avg_client_parse_count"),
    numeric("avg_server_parse_count"),
    numeric("avg_bind_count"),
    // Of a later PgBouncer.
    numeric("total_client_login_count"),
    numeric("avg_client_login_count"),
];

/// SHOW STATS_TOTALS.
pub const STATS_TOTALS: &[Column] = &[
    text("database"),
    numeric("server_assignment_count"),
    numeric("xact_count"),
    numeric("query_count"),
    numeric("bytes_received"),
    numeric("bytes_sent"),
    numeric("xact_time"),
    numeric("query_time"),
    numeric("wait_time"),
    numeric("client_parse_count"),
    numeric("server_parse_count"),
    numeric("bind_count"),
    numeric("client_login_count"),
];

/// SHOW STATS_AVERAGES.
pub const STATS_AVERAGES: &[Column] = &[
    text("database"),
    numeric("server_assignment_count"),
    numeric("xact_count"),
    numeric("query_count"),
    numeric("bytes_received"),
    numeric("bytes_sent"),
    numeric("xact_time"),
    numeric("query_time"),
    numeric("wait_time"),
    numeric("avg_client_parse_count"),
    numeric("avg_server_parse_count"),
    numeric("avg_bind_count"),
    numeric("avg_client_login_count"),
];

/// The names in SHOW TOTALS, after `total_` and `avg_`.
const TOTALS_NAMES: [&str; 11] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
];

/// A row of [`STATS`], [`STATS_TOTALS`] or [`STATS_AVERAGES`]: a name, then each group of numbers in turn, then what
/// PgBouncer 1.25 doesn't have.
#[must_use]
pub fn stats_row(database: &str, groups: &[Totals]) -> Row {
    let numbers = groups.iter().flat_map(|totals| totals.listed()).chain(groups.iter().map(|t| t.client_logins));
    std::iter::once(Value::from(database.to_owned())).chain(numbers.map(Value::from)).collect()
}

/// All rows of [`TOTALS`].
#[must_use]
pub fn totals_rows(totals: Totals, averages: Totals) -> Vec<Row> {
    let group = |prefix: &'static str, numbers: Totals| {
        TOTALS_NAMES.iter().zip(numbers.listed()).map(move |(name, n)| row![format!("{prefix}_{name}"), n])
    };
    let logins = [("total_client_login_count", totals), ("avg_client_login_count", averages)];
    let logins = logins.into_iter().map(|(name, numbers)| row![name, numbers.client_logins]);
    group("total", totals).chain(group("avg", averages)).chain(logins).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::table::Kind;

    /// The types as PgBouncer's source writes them: i, q, s, N.
    fn kinds(columns: &[Column]) -> String {
        let letter = |c: &Column| match c.kind {
            Kind::Text => 's',
            Kind::Int4 => 'i',
            Kind::Int8 => 'q',
            Kind::Numeric => 'N',
            Kind::Bytea => 'b',
        };
        columns.iter().map(letter).collect()
    }

    #[test]
    fn types_are_pgbouncers() {
        for (columns, want) in [
            (POOLS, "ssiiiiiiiiiiiiiss"),
            (SOCKETS, "ssssssisissiiississiisi"),
            (ALL_SOCKETS, "ssssssisissiiississiiiiiiiii"),
            (FDS, "issssiqisssssbb"),
            (DATABASES, "ssissiiiissiiiiii"),
            (USERS, "ssssiiii"),
            (LISTS, "si"),
            (CONFIG, "ssss"),
            (MEM, "siiii"),
            (STATE, "ss"),
            (VERSION, "s"),
            (TOTALS, "sN"),
            (PEERS, "isii"),
            (PEER_POOLS, "iiiii"),
            (DNS_HOSTS, "sqs"),
            (DNS_ZONES, "sqi"),
            (STATS, "sNNNNNNNNNNNNNNNNNNNNNNNN"),
            (STATS_TOTALS, "sNNNNNNNNNNNN"),
            (STATS_AVERAGES, "sNNNNNNNNNNNN"),
        ] {
            assert_eq!(kinds(columns), want, "{}", columns[0].name);
        }
    }

    #[test]
    fn rows_fill_their_columns() {
        assert_eq!(PoolRow::default().row().len(), POOLS.len());
        assert_eq!(SocketRow::default().row().len(), SOCKETS.len());
        assert_eq!(SOCKETS[..21], ALL_SOCKETS[..21]);
        let totals = Totals { queries: 7, ..Totals::default() };
        let all = |columns: &[Column], prefix| columns.iter().all(|column| column.name.starts_with(prefix));
        // PgBouncer 1.25's come first, for those who read by place.
        assert!(all(&STATS[1..12], "total_") && all(&STATS[12..23], "avg_"));
        assert_eq!(stats_row("db", &[totals, totals]).len(), STATS.len());
        assert_eq!(stats_row("db", &[totals]).len(), STATS_TOTALS.len());
        let rows = totals_rows(totals, Totals::default());
        assert_eq!(rows.len(), 24);
        assert_eq!(rows[2], row!["total_query_count", 7u32]);
        assert_eq!(rows[13], row!["avg_query_count", 0u32]);
        assert_eq!(rows[23], row!["avg_client_login_count", 0u32]);
    }

    #[test]
    fn waiting_is_split_into_seconds_and_the_rest() {
        let row = PoolRow { max_wait: 2_000_001, ..PoolRow::default() }.row();
        assert_eq!(row[13..15], row![2u32, 1u32]);
        let row = SocketRow { wait: 1_999_999, ..SocketRow::default() }.row();
        assert_eq!(row[11..13], row![1u32, 999_999u32]);
    }
}
