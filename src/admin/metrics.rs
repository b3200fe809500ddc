//! `/metrics` and `/api/pools`: the console's rows, for machines.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::collect::{CONSOLE, View};
use super::{Admin, waits};
use crate::pool::pins::PinWaits;
use crate::protocol::session::{Taint, Taints};
use crate::stats::Totals;
use crate::stats::histogram::Durations;
use crate::stats::prometheus::{Exposition, Type, seconds};
use crate::stats::rows::PoolRow;
use crate::stats::tally::{REFUSALS, Tally};

/// The label of all databases that `*` serves: their names are the clients' choice, and would be without end.
const FALLBACK: &str = "*";

/// How often each kind of event was.
type Kinds = BTreeMap<&'static str, u64>;

/// Sums of one database for `/metrics`.
#[derive(Default)]
struct Sums {
    pool: PoolRow,
    size: u32,
    totals: Totals,
    durations: Durations,
    server_errors: Kinds,
    ended: Kinds,
    pins: Kinds,
    pinned: BTreeMap<&'static str, u32>,
    pin_waits: PinWaits,
    most_pinned: u32,
    starves: bool,
    starvations: u64,
    paused: bool,
    disabled: bool,
}

/// The text of `/metrics`.
#[must_use]
pub fn prometheus(admin: &Arc<Admin>) -> String {
    let view = View::new(admin);
    let sums = sums(admin, &view);
    let mut text = Exposition::default();
    process(admin, &view, &mut text);
    states(&sums, &mut text);
    pins(&sums, &mut text);
    starvation(&sums, &mut text);
    view.share_metrics(|name| label(&view, name).to_owned(), &mut text);
    view.host_metrics(|name| label(&view, name).to_owned(), &mut text);
    view.budget_metrics(|name| label(&view, name).to_owned(), &mut text);
    admin.advice_metrics(|name| view.config.databases.contains_key(name), &mut text);
    counters(&sums, &mut text);
    durations(&sums, &mut text);
    happenings(admin, &sums, &mut text);
    waits::metrics(admin, |name| label(&view, name).to_owned(), &mut text);
    text.finish()
}

/// A database's label.
fn label<'n>(view: &View<'_>, name: &'n str) -> &'n str {
    if view.config.databases.contains_key(name) { name } else { FALLBACK }
}

/// By database, those of `*` as one, without the console.
fn sums(admin: &Admin, view: &View<'_>) -> BTreeMap<String, Sums> {
    let label = |name: &str| label(view, name).to_owned();
    let mut sums: BTreeMap<String, Sums> = BTreeMap::new();
    for row in view.pools().into_iter().filter(|row| row.database != CONSOLE) {
        add(&mut sums.entry(label(&row.database)).or_default().pool, &row);
    }
    for pool in admin.context.pools.all() {
        let sum = sums.entry(label(pool.name.as_str())).or_default();
        sum.totals += pool.totals();
        sum.durations += pool.durations();
        let happenings = pool.happenings();
        add_kinds(&mut sum.server_errors, &happenings.server_errors);
        add_kinds(&mut sum.ended, &happenings.ended);
        add_kinds(&mut sum.pins, &happenings.pins);
        sum.size = sum.size.saturating_add(pool.size());
        sum.paused |= pool.is_paused();
        sum.disabled |= pool.is_disabled();
        sum.most_pinned = sum.most_pinned.saturating_add(pool.spec.load().max_pinned);
        for (reason, n) in pool.pinned_by_reason() {
            *sum.pinned.entry(reason).or_default() += n;
        }
        sum.starves |= pool.starvation().is_starving();
        sum.starvations += pool.starvation().count();
        let PinWaits { waits, micros } = pool.pin_waits();
        sum.pin_waits.waits += waits;
        sum.pin_waits.micros += micros;
    }
    sums
}

fn add_kinds(sum: &mut Kinds, tally: &Tally) {
    for (kind, n) in tally.read() {
        *sum.entry(kind).or_default() += n;
    }
}

fn add(sum: &mut PoolRow, row: &PoolRow) {
    sum.clients_active += row.clients_active;
    sum.clients_waiting += row.clients_waiting;
    sum.cancels += row.cancels;
    sum.active += row.active;
    sum.being_canceled += row.being_canceled;
    sum.idle += row.idle;
    sum.used += row.used;
    sum.tested += row.tested;
    sum.logins += row.logins;
    sum.max_wait = sum.max_wait.max(row.max_wait);
}

fn process(admin: &Admin, view: &View<'_>, text: &mut Exposition) {
    let version = env!("CARGO_PKG_VERSION");
    text.family("carpool_build_info", Type::Gauge, "Always 1; the version is a label.")
        .sample(&[("version", version)], 1);
    let started = SystemTime::now().checked_sub(admin.context.started.elapsed());
    let started = started.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    text.family("process_start_time_seconds", Type::Gauge, "When the process began to serve, seconds since 1970.")
        .sample(&[], started.as_secs_f64());
    text.family("carpool_accepting", Type::Gauge, "1 while new connections are taken, 0 once Carpool is stopping.")
        .sample(&[], u8::from(admin.is_accepting()));
    let (connections, registered) = view.connections();
    text.family("carpool_client_connections", Type::Gauge, "Client connections, those logging in included.")
        .sample(&[], connections);
    text.family("carpool_client_connections_limit", Type::Gauge, "max_client_conn.")
        .sample(&[], view.config.pooler.max_client_conn);
    text.family("carpool_client_logins_in_progress", Type::Gauge, "Client connections that have not logged in yet.")
        .sample(&[], connections - registered);
    let consoles = view.pools().iter().filter(|r| r.database == CONSOLE).map(|r| r.clients_active).sum::<u32>();
    text.family("carpool_console_connections", Type::Gauge, "Admin console sessions.").sample(&[], consoles);
}

fn states(sums: &BTreeMap<String, Sums>, text: &mut Exposition) {
    let mut clients =
        text.family("carpool_clients", Type::Gauge, "Clients by state. Active ones have a server or ask for none.");
    for (database, Sums { pool, .. }) in sums {
        for (state, n) in [("active", pool.clients_active), ("waiting", pool.clients_waiting)] {
            clients.sample(&[("database", database), ("state", state)], n);
        }
    }
    let help = "How long the first client in the queue has waited for a server, seconds; 0 when none waits.";
    let mut wait = text.family("carpool_client_max_wait_seconds", Type::Gauge, help);
    for (database, Sums { pool, .. }) in sums {
        wait.sample(&[("database", database)], seconds(pool.max_wait));
    }
    let mut servers = text.family("carpool_servers", Type::Gauge, "Server connections by state, as in SHOW POOLS.");
    for (database, Sums { pool, .. }) in sums {
        for (state, n) in [
            ("active", pool.active),
            ("idle", pool.idle),
            ("used", pool.used),
            ("tested", pool.tested),
            ("being_canceled", pool.being_canceled),
            ("login", pool.logins),
        ] {
            servers.sample(&[("database", database), ("state", state)], n);
        }
    }
    let mut size = text.family("carpool_pool_size", Type::Gauge, "Server connections at most.");
    for (database, sum) in sums {
        size.sample(&[("database", database)], sum.size);
    }
    let mut paused = text.family("carpool_paused", Type::Gauge, "1 while the database is paused (PAUSE, KILL).");
    for (database, sum) in sums {
        paused.sample(&[("database", database)], u8::from(sum.paused));
    }
    let help = "1 while the database takes no new clients (DISABLE).";
    let mut disabled = text.family("carpool_disabled", Type::Gauge, help);
    for (database, sum) in sums {
        disabled.sample(&[("database", database)], u8::from(sum.disabled));
    }
    let mut cancels = text.family("carpool_cancels_in_progress", Type::Gauge, "Cancel requests on their way.");
    for (database, Sums { pool, .. }) in sums {
        cancels.sample(&[("database", database)], pool.cancels);
    }
}

fn pins(sums: &BTreeMap<String, Sums>, text: &mut Exposition) {
    let help = "Servers that clients keep between transactions, by the first reason.";
    let mut pinned = text.family("carpool_pinned_servers", Type::Gauge, help);
    for (database, sum) in sums {
        for reason in Taints::PINNING.iter().map(Taint::as_str) {
            let n = sum.pinned.get(reason).copied().unwrap_or_default();
            pinned.sample(&[("database", database), ("reason", reason)], n);
        }
    }
    let mut most = text.family("carpool_pinned_servers_limit", Type::Gauge, "max_pinned.");
    for (database, sum) in sums {
        most.sample(&[("database", database)], sum.most_pinned);
    }
    let help = "Times that a client had to wait for the permit to keep a server.";
    let mut waits = text.family("carpool_pin_waits_total", Type::Counter, help);
    for (database, sum) in sums {
        waits.sample(&[("database", database)], sum.pin_waits.waits);
    }
    let help = "Time that clients waited for the permit to keep a server.";
    let mut waited = text.family("carpool_pin_wait_seconds_total", Type::Counter, help);
    for (database, sum) in sums {
        waited.sample(&[("database", database)], seconds(sum.pin_waits.micros));
    }
}

fn starvation(sums: &BTreeMap<String, Sums>, text: &mut Exposition) {
    let help =
        "1 while all servers are held in transactions that do nothing while their own application waits for another.";
    let mut starves = text.family("carpool_starving", Type::Gauge, help);
    for (database, sum) in sums {
        starves.sample(&[("database", database)], u8::from(sum.starves));
    }
    let mut spells = text.family("carpool_starvations_total", Type::Counter, "How often that has begun.");
    for (database, sum) in sums {
        spells.sample(&[("database", database)], sum.starvations);
    }
}

fn counters(sums: &BTreeMap<String, Sums>, text: &mut Exposition) {
    let mut counter = |name, help, value: fn(&Totals) -> f64| {
        let mut family = text.family(name, Type::Counter, help);
        for (database, sum) in sums {
            family.sample(&[("database", database)], value(&sum.totals));
        }
    };
    counter("carpool_transactions_total", "Transactions.", |t| t.transactions as f64);
    counter("carpool_transactions_pinned_total", "Transactions of clients that kept their server.", |t| {
        t.pinned_transactions as f64
    });
    counter("carpool_queries_total", "Queries.", |t| t.queries as f64);
    counter("carpool_received_bytes_total", "Bytes from clients to servers.", |t| t.received as f64);
    counter("carpool_sent_bytes_total", "Bytes from servers to clients.", |t| t.sent as f64);
    counter("carpool_transaction_seconds_total", "Time in transactions.", |t| seconds(t.transaction_time));
    counter("carpool_query_seconds_total", "Time in queries.", |t| seconds(t.query_time));
    counter("carpool_client_wait_seconds_total", "Time that clients waited for a server.", |t| seconds(t.wait_time));
    counter("carpool_server_assignments_total", "Times that a client got a server.", |t| t.assignments as f64);
    counter("carpool_client_logins_total", "Client logins.", |t| t.client_logins as f64);
    counter("carpool_server_logins_total", "Server logins.", |t| t.server_logins as f64);
    counter("carpool_client_parses_total", "Named statements prepared by clients.", |t| t.client_parses as f64);
    counter("carpool_server_parses_total", "Named statements prepared on servers.", |t| t.server_parses as f64);
    counter("carpool_binds_total", "Uses of named statements.", |t| t.binds as f64);
    let help = "Parses and uses of named statements that the server had already.";
    counter("carpool_prepared_statement_hits_total", help, |t| t.hits as f64);
}

fn durations(sums: &BTreeMap<String, Sums>, text: &mut Exposition) {
    let help = "Waits for a server, one for each time that a client got one; those at once count as none.";
    let mut waits = text.family("carpool_wait_duration_seconds", Type::Histogram, help);
    for (database, Sums { durations, totals, .. }) in sums {
        let at_once = totals.assignments.saturating_sub(durations.waits.count());
        waits.histogram(("database", database), &durations.waits.with_immediate(at_once), totals.wait_time);
    }
    let help = "Transactions, from the moment that the client had its server.";
    let mut transactions = text.family("carpool_transaction_duration_seconds", Type::Histogram, help);
    for (database, Sums { durations, totals, .. }) in sums {
        transactions.histogram(("database", database), &durations.transactions, totals.transaction_time);
    }
    let help = "Queries, until they are answered; those that are sent together count as one.";
    let mut queries = text.family("carpool_query_duration_seconds", Type::Histogram, help);
    for (database, Sums { durations, totals, .. }) in sums {
        queries.histogram(("database", database), &durations.queries, totals.query_time);
    }
}

fn happenings(admin: &Admin, sums: &BTreeMap<String, Sums>, text: &mut Exposition) {
    let refusals = admin.context.refusals.read();
    let help = "Logins that failed, by reason.";
    let mut refused = text.family("carpool_client_logins_failed_total", Type::Counter, help);
    for reason in REFUSALS {
        refused.sample(&[("reason", reason)], refusals.get(reason).copied().unwrap_or_default());
    }
    let (exported, dropped) = admin.context.spans.counts();
    text.family("carpool_spans_exported_total", Type::Counter, "Transactions told to the collector of traces.")
        .sample(&[], exported);
    let help = "Transactions not told to it, since it or the export did not keep up.";
    text.family("carpool_spans_dropped_total", Type::Counter, help).sample(&[], dropped);
    let help = "Errors of servers that clients were told, by class of SQLSTATE.";
    let mut errors = text.family("carpool_server_errors_total", Type::Counter, help);
    for (database, sum) in sums {
        for (class, n) in &sum.server_errors {
            errors.sample(&[("database", database), ("class", class)], n);
        }
    }
    let help = "Sessions that Carpool ended with an error of its own, by SQLSTATE.";
    let mut ended = text.family("carpool_client_errors_total", Type::Counter, help);
    for (database, sum) in sums {
        for (code, n) in &sum.ended {
            ended.sample(&[("database", database), ("sqlstate", code)], n);
        }
    }
    let help = "Times that clients began to keep their server between transactions, by reason.";
    let mut pins = text.family("carpool_pins_total", Type::Counter, help);
    for (database, sum) in sums {
        for reason in Taints::PINNING.iter().map(Taint::as_str) {
            let n = sum.pins.get(reason).copied().unwrap_or_default();
            pins.sample(&[("database", database), ("reason", reason)], n);
        }
    }
}

/// What `/api/pools` gives.
#[derive(Serialize)]
struct Overview {
    version: &'static str,
    uptime_seconds: u64,
    accepting: bool,
    client_connections: u32,
    client_connections_limit: u32,
    databases: Vec<DatabaseInfo>,
    pools: Vec<PoolInfo>,
}

/// One database. Averages are over the last one to two statistics periods.
#[derive(Serialize)]
struct DatabaseInfo {
    database: String,
    pool_size: u32,
    servers: u32,
    max_pinned: u32,
    /// By the first reason.
    pinned: BTreeMap<&'static str, u32>,
    transactions_per_second: u64,
    queries_per_second: u64,
    average_query_microseconds: u64,
    average_wait_microseconds: u64,
    login_failure: Option<String>,
    paused: bool,
    disabled: bool,
}

/// One user of one database.
#[derive(Serialize)]
struct PoolInfo {
    database: String,
    user: String,
    pool_mode: &'static str,
    clients_active: u32,
    clients_waiting: u32,
    longest_wait_seconds: f64,
    servers_active: u32,
    servers_idle: u32,
    servers_tested: u32,
    servers_login: u32,
    servers_pinned: u32,
    servers: u32,
}

impl From<PoolRow> for PoolInfo {
    fn from(row: PoolRow) -> Self {
        Self {
            servers: row.servers(),
            database: row.database,
            user: row.user,
            pool_mode: row.mode,
            clients_active: row.clients_active,
            clients_waiting: row.clients_waiting,
            longest_wait_seconds: seconds(row.max_wait),
            servers_active: row.active,
            servers_idle: row.idle + row.used,
            servers_tested: row.tested + row.being_canceled,
            servers_login: row.logins,
            servers_pinned: row.pinned,
        }
    }
}

/// The JSON of `/api/pools`. What failed logins say, names and addresses among it, is for those on this host, and those
/// who have logged in: who `is_told`.
///
/// # Errors
/// None that is known.
pub fn overview(admin: &Admin, is_told: bool) -> serde_json::Result<String> {
    let view = View::new(admin);
    let database = |pool: &std::sync::Arc<crate::pool::Pool>| {
        let average = admin.history.average(&pool.name, pool.totals(), view.now);
        DatabaseInfo {
            database: pool.name.to_string(),
            pool_size: pool.size(),
            servers: pool.slots(),
            max_pinned: pool.spec.load().max_pinned,
            pinned: pool.pinned_by_reason(),
            transactions_per_second: average.transactions,
            queries_per_second: average.queries,
            average_query_microseconds: average.query_time,
            average_wait_microseconds: average.wait_time,
            login_failure: pool.login_failure().map(|error| match is_told {
                true => error.to_string(),
                false => "see the log".to_owned(),
            }),
            paused: pool.is_paused(),
            disabled: pool.is_disabled(),
        }
    };
    let (client_connections, _) = view.connections();
    serde_json::to_string(&Overview {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: admin.context.started.elapsed().as_secs(),
        accepting: admin.is_accepting(),
        client_connections,
        client_connections_limit: view.config.pooler.max_client_conn,
        databases: admin.context.pools.all().iter().map(database).collect(),
        pools: view.pools().into_iter().filter(|row| row.database != CONSOLE).map(PoolInfo::from).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::tests::Stand;

    #[test]
    fn databases_of_the_fallback_share_one_label() {
        let stand = Stand::new(&["app"]);
        let context = &stand.admin.context;
        for name in ["one", "two"] {
            let pool = context.pools.get(name, &context.config.load()).unwrap();
            pool.count_client_login();
        }
        let text = prometheus(&stand.admin);
        let samples: Vec<_> = text.lines().filter(|l| l.starts_with("carpool_client_logins_total")).collect();
        let want = ["carpool_client_logins_total{database=\"*\"} 2", "carpool_client_logins_total{database=\"app\"} 0"];
        assert_eq!(samples, want);
        assert!(text.contains("carpool_pool_size{database=\"*\"} 50\n"));
    }

    #[test]
    fn each_metric_has_one_heading() {
        let text = prometheus(&Stand::new(&["app"]).admin);
        let mut headings: Vec<_> = text.lines().filter(|l| l.starts_with("# TYPE")).collect();
        let all = headings.len();
        headings.sort_unstable();
        headings.dedup();
        assert_eq!(headings.len(), all);
    }

    #[test]
    fn the_overview_lists_databases_without_the_console() {
        let json = overview(&Stand::new(&["app", "a\"b"]).admin, false).unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["databases"][0]["database"], "a\"b");
        assert_eq!(value["databases"].as_array().unwrap().len(), 2);
        assert_eq!(value["accepting"], true);
        assert_eq!(value["pools"].as_array().unwrap().len(), 0);
    }
    /// The dashboard asks for nothing that isn't there.
    #[test]
    fn the_dashboard_shows_what_there_is() {
        let text = prometheus(&Stand::new(&["app"]).admin);
        let dashboard = include_str!("../../docker/grafana/carpool.json");
        let names = dashboard.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let mut names: Vec<_> = names.filter(|name| name.starts_with("carpool_")).collect();
        names.sort_unstable();
        names.dedup();
        assert!(names.len() > 15, "{names:?}");
        for name in names {
            let name = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(text.contains(&format!("# TYPE {name} ")), "{name}");
        }
    }
}
