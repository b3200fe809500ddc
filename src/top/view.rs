//! What `carpool top` shows, as lines of text.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Instant;

/// The rows of a SHOW command, by the names of their columns.
pub type Rows = Vec<HashMap<String, String>>;

/// What the console showed at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// SHOW VERSION.
    pub version: Rows,
    /// SHOW STATS.
    pub stats: Rows,
    /// SHOW POOLS.
    pub pools: Rows,
    /// SHOW CLIENTS.
    pub clients: Rows,
    /// When.
    pub at: Instant,
}

/// What comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Sort {
    /// The longest waits.
    Wait,
    /// Most clients.
    Clients,
    /// Most transactions.
    Transactions,
    /// By name.
    Name,
}

impl Sort {
    /// The one of a key.
    #[must_use]
    pub const fn of_key(key: char) -> Option<Self> {
        Some(match key {
            'w' => Self::Wait,
            'c' => Self::Clients,
            't' => Self::Transactions,
            'n' => Self::Name,
            _ => return None,
        })
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Clients => "clients",
            Self::Transactions => "transactions",
            Self::Name => "name",
        }
    }
}

/// Rates of a database; times in milliseconds.
#[derive(Clone, Debug, Default, PartialEq)]
struct Database {
    name: String,
    clients: f64,
    waiting: f64,
    longest: f64,
    servers: f64,
    transactions: f64,
    queries: f64,
    received: f64,
    sent: f64,
    transaction_time: f64,
    query_time: f64,
    wait_time: f64,
}

/// The last two looks and how to show them.
#[derive(Debug)]
pub struct View {
    /// What comes first.
    pub sort: Sort,
    /// When the last look was.
    pub taken: Option<Instant>,
    before: Option<Sample>,
    now: Option<Sample>,
    failure: Option<String>,
}

fn text<'r>(row: &'r HashMap<String, String>, column: &str) -> &'r str {
    row.get(column).map_or("", String::as_str)
}

fn number(row: &HashMap<String, String>, column: &str) -> f64 {
    text(row, column).parse().unwrap_or(0.0)
}

/// Seconds of two columns, seconds and microseconds.
fn wait(row: &HashMap<String, String>, seconds: &str) -> f64 {
    number(row, seconds) + number(row, &format!("{seconds}_us")) / 1e6
}

/// A name without what a terminal would take for an order: clients choose theirs.
fn clean(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Bytes, short.
fn bytes(n: f64) -> String {
    let units = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
    units
        .iter()
        .find(|(unit, _)| n >= *unit)
        .map_or_else(|| format!("{n:.0}"), |(unit, name)| format!("{:.1}{name}", n / unit))
}

impl View {
    /// Nothing yet.
    #[must_use]
    pub const fn new(sort: Sort) -> Self {
        Self { sort, taken: None, before: None, now: None, failure: None }
    }

    /// Another look.
    pub fn take(&mut self, sample: Sample) {
        self.taken = Some(sample.at);
        self.failure = None;
        self.before = self.now.replace(sample);
    }

    /// A look that failed: what was seen last stays.
    pub fn fail(&mut self, why: String, now: Instant) {
        self.taken = Some(now);
        self.failure = Some(why);
    }

    fn databases(&self) -> Vec<Database> {
        let Some(now) = &self.now else { return Vec::new() };
        let mut found: Vec<_> = now.stats.iter().map(|row| self.database(now, row)).collect();
        found.sort_by(|a, b| {
            let order = match self.sort {
                Sort::Wait => (b.longest, b.waiting).partial_cmp(&(a.longest, a.waiting)),
                Sort::Clients => b.clients.partial_cmp(&a.clients),
                Sort::Transactions => b.transactions.partial_cmp(&a.transactions),
                Sort::Name => None,
            };
            order.unwrap_or(std::cmp::Ordering::Equal).then_with(|| a.name.cmp(&b.name))
        });
        found
    }

    fn database(&self, now: &Sample, row: &HashMap<String, String>) -> Database {
        let name = text(row, "database");
        let pools = || now.pools.iter().filter(|pool| text(pool, "database") == name);
        let sum = |columns: &[&str]| pools().flat_map(|p| columns.iter().map(|c| number(p, c))).sum::<f64>();
        let old = self.before.as_ref().and_then(|before| {
            let row = before.stats.iter().find(|old| text(old, "database") == name)?;
            Some((row, now.at.saturating_duration_since(before.at).as_secs_f64().max(1e-3)))
        });
        // The first look has nothing to compare with: then Carpool's own averages.
        let grown = |total: &str, old: &HashMap<String, String>| (number(row, total) - number(old, total)).max(0.0);
        let rate = |total: &str, average: &str| match old {
            Some((old, seconds)) => grown(total, old) / seconds,
            None => number(row, average),
        };
        let each = |time: &str, count: &str, average: &str| match old {
            Some((old, _)) => grown(time, old) / grown(count, old).max(1.0) / 1e3,
            None => number(row, average) / 1e3,
        };
        Database {
            name: clean(name),
            clients: sum(&["cl_active", "cl_waiting"]),
            waiting: sum(&["cl_waiting"]),
            longest: pools().map(|p| wait(p, "maxwait")).fold(0.0, f64::max),
            servers: sum(&["sv_active", "sv_idle", "sv_used", "sv_tested", "sv_being_canceled"]),
            transactions: rate("total_xact_count", "avg_xact_count"),
            queries: rate("total_query_count", "avg_query_count"),
            received: rate("total_received", "avg_recv"),
            sent: rate("total_sent", "avg_sent"),
            transaction_time: each("total_xact_time", "total_xact_count", "avg_xact_time"),
            query_time: each("total_query_time", "total_query_count", "avg_query_time"),
            wait_time: each("total_wait_time", "total_server_assignment_count", "avg_wait_time"),
        }
    }

    /// The text, cut to a size.
    #[must_use]
    pub fn lines(&self, width: usize, height: usize) -> Vec<String> {
        let databases = self.databases();
        let mut lines = self.summary(&databases);
        let blocks = [database_table(&databases), self.pool_table(), self.client_table()];
        for block in blocks {
            lines.push(String::new());
            lines.extend(block);
        }
        lines.truncate(height);
        lines.into_iter().map(|line| line.chars().take(width).collect::<String>().trim_end().to_owned()).collect()
    }

    fn summary(&self, databases: &[Database]) -> Vec<String> {
        let sum = |f: fn(&Database) -> f64| databases.iter().map(f).sum::<f64>();
        let version = self.now.as_ref().and_then(|now| now.version.first()).map(|row| clean(text(row, "version")));
        let longest = databases.iter().map(|d| d.longest).fold(0.0, f64::max);
        let state = match &self.failure {
            Some(failure) => format!("no answer: {}", clean(failure)),
            None => format!(
                "{:.0} transactions/s, {:.0} queries/s, {}B/s in, {}B/s out",
                sum(|d| d.transactions),
                sum(|d| d.queries),
                bytes(sum(|d| d.received)),
                bytes(sum(|d| d.sent)),
            ),
        };
        vec![
            format!("{} - {state}", version.unwrap_or_else(|| "carpool".into())),
            format!(
                "clients {:.0}, waiting {:.0} (longest {longest:.3} s), servers {:.0}; by {} (keys: w c t n, q quits)",
                sum(|d| d.clients),
                sum(|d| d.waiting),
                sum(|d| d.servers),
                self.sort.as_str(),
            ),
        ]
    }

    fn pool_table(&self) -> Vec<String> {
        let head = format!(
            "{:<20} {:<16} {:<11} {:>8} {:>8} {:>9} {:>7} {:>7} {:>7}",
            "POOL", "USER", "MODE", "CLIENTS", "WAITING", "LONGEST", "ACTIVE", "IDLE", "LOGIN"
        );
        let mut pools: Vec<_> = self.now.iter().flat_map(|now| &now.pools).collect();
        let micros = |row: &HashMap<String, String>| (wait(row, "maxwait") * 1e6) as u64;
        let clients = |row: &HashMap<String, String>| (number(row, "cl_active") + number(row, "cl_waiting")) as u64;
        pools.sort_by_key(|row| (text(row, "database"), text(row, "user")));
        match self.sort {
            Sort::Wait => pools.sort_by_key(|row| Reverse(micros(row))),
            Sort::Clients | Sort::Transactions => pools.sort_by_key(|row| Reverse(clients(row))),
            Sort::Name => {}
        }
        let line = |row: &&HashMap<String, String>| {
            format!(
                "{:<20} {:<16} {:<11} {:>8} {:>8} {:>9.3} {:>7} {:>7} {:>7}",
                clean(text(row, "database")),
                clean(text(row, "user")),
                text(row, "pool_mode"),
                clients(row),
                text(row, "cl_waiting"),
                wait(row, "maxwait"),
                text(row, "sv_active"),
                number(row, "sv_idle") + number(row, "sv_used"),
                text(row, "sv_login"),
            )
        };
        std::iter::once(head).chain(pools.iter().map(line)).collect()
    }

    /// Clients that do anything, those that wait first.
    fn client_table(&self) -> Vec<String> {
        let head = format!(
            "{:<10} {:<20} {:<16} {:<20} {:<8} {:>9} {:<10} {}",
            "CLIENT", "DATABASE", "USER", "APPLICATION", "STATE", "WAIT", "SERVER", "PINNED"
        );
        let is_busy =
            |row: &&HashMap<String, String>| text(row, "state") != "idle" && text(row, "database") != "pgbouncer";
        let mut clients: Vec<_> = self.now.iter().flat_map(|now| &now.clients).filter(is_busy).collect();
        let order = |row: &HashMap<String, String>| {
            (Reverse((wait(row, "wait") * 1e6) as u64), text(row, "request_time").to_owned())
        };
        clients.sort_by_key(|row| order(row));
        let line = |row: &&HashMap<String, String>| {
            format!(
                "{:<10} {:<20} {:<16} {:<20} {:<8} {:>9.3} {:<10} {}",
                text(row, "ptr"),
                clean(text(row, "database")),
                clean(text(row, "user")),
                clean(text(row, "application_name")),
                text(row, "state"),
                wait(row, "wait"),
                text(row, "link"),
                text(row, "pinned"),
            )
        };
        std::iter::once(head).chain(clients.iter().map(line)).collect()
    }
}

fn database_table(databases: &[Database]) -> Vec<String> {
    let head = format!(
        "{:<20} {:>8} {:>8} {:>8} {:>9} {:>9} {:>8} {:>8} {:>9} {:>9} {:>9}",
        "DATABASE",
        "CLIENTS",
        "WAITING",
        "SERVERS",
        "XACT/S",
        "QUERY/S",
        "IN/S",
        "OUT/S",
        "XACT ms",
        "QUERY ms",
        "WAIT ms"
    );
    let line = |d: &Database| {
        format!(
            "{:<20} {:>8} {:>8} {:>8} {:>9.1} {:>9.1} {:>8} {:>8} {:>9.3} {:>9.3} {:>9.3}",
            d.name,
            d.clients,
            d.waiting,
            d.servers,
            d.transactions,
            d.queries,
            bytes(d.received),
            bytes(d.sent),
            d.transaction_time,
            d.query_time,
            d.wait_time,
        )
    };
    std::iter::once(head).chain(databases.iter().map(line)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rows(names: &str, values: &[&str]) -> Rows {
        let row = |line: &&str| names.split(' ').map(str::to_owned).zip(line.split(' ').map(str::to_owned)).collect();
        values.iter().map(row).collect()
    }

    fn sample(at: Instant, counts: [u32; 2]) -> Sample {
        let stats = "database total_xact_count total_query_count total_xact_time avg_xact_count avg_xact_time";
        let of = |name: &str, n: u32| format!("{name} {n} {} {} 7 3000", 2 * n, u64::from(n) * 2_000);
        let stats = rows(stats, &[&of("a", counts[0]), &of("b", counts[1])]);
        let pools = "database user pool_mode cl_active cl_waiting maxwait maxwait_us sv_active sv_idle sv_login";
        let pools = rows(pools, &["a u transaction 5 0 0 0 1 2 0", "b u transaction 1 3 2 500000 4 0 0"]);
        let clients = "ptr database user application_name state wait wait_us link";
        let clients = rows(clients, &["C1 a u \u{1b}[2Jx idle 0 0 S1", "C2 b u \u{1b}[2Jx waiting 2 500000 -"]);
        Sample { version: rows("version", &["0.1"]), stats, pools, clients, at }
    }

    #[test]
    fn rates_are_between_two_looks() {
        let mut view = View::new(Sort::Name);
        let start = Instant::now();
        view.take(sample(start, [100, 0]));
        let first = view.databases();
        assert_eq!((first[0].transactions, first[0].transaction_time), (7.0, 3.0), "Carpool's own averages");
        view.take(sample(start + Duration::from_secs(2), [300, 0]));
        let now = view.databases();
        assert_eq!((now[0].transactions, now[0].queries, now[0].transaction_time), (100.0, 200.0, 2.0));
        assert_eq!((now[1].transactions, now[1].transaction_time), (0.0, 0.0), "none is no division by zero");
        // A restart: counters begin anew.
        view.take(sample(start + Duration::from_secs(4), [10, 0]));
        assert_eq!(view.databases()[0].transactions, 0.0);
    }

    #[test]
    fn keys_choose_what_comes_first() {
        let mut view = View::new(Sort::Wait);
        let start = Instant::now();
        view.take(sample(start, [0, 0]));
        view.take(sample(start + Duration::from_secs(1), [100, 1]));
        let first = |view: &View| view.databases()[0].name.clone();
        assert_eq!(first(&view), "b", "there one waits");
        for (key, want) in [('c', "a"), ('t', "a"), ('n', "a"), ('w', "b")] {
            view.sort = Sort::of_key(key).unwrap();
            assert_eq!(first(&view), want, "{key}");
        }
        assert_eq!(Sort::of_key('x'), None);
    }

    #[test]
    fn names_give_the_terminal_no_orders() {
        let mut view = View::new(Sort::Wait);
        view.take(sample(Instant::now(), [0, 0]));
        let text = view.lines(usize::MAX, usize::MAX).join("\n");
        assert!(text.contains("?[2Jx") && !text.contains('\u{1b}'), "{text}");
        assert!(text.contains("\nC2 ") && !text.contains("\nC1 "), "idle clients aren't listed: {text}");
    }

    #[test]
    fn it_fits_the_screen() {
        let mut view = View::new(Sort::Wait);
        view.take(sample(Instant::now(), [0, 0]));
        let lines = view.lines(30, 4);
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| line.chars().count() <= 30));
        view.fail("gone".into(), Instant::now());
        assert!(view.lines(80, 24)[0].contains("no answer: gone"));
    }
}
