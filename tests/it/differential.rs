//! Transaction mode behaves like a direct connection: each script of the corpus gets, byte for byte, the replies
//! that PostgreSQL gives it directly, whoever uses the servers in between and whichever server it comes to.

mod corpus;
mod script;

use crate::harness::proxy::Proxy;
use crate::harness::raw::{bind, close, execute, parse, sync};
use crate::harness::{Carpool, Message, Postgres, Raw, Setup, eventually};
use script::{Cut, Script};

const TABLES: &str = "create table items (id int primary key, name text, at timestamptz);
    insert into items select i, 'item ' || i, '2024-02-03 04:05:06+00' from generate_series(1, 10) i;
    create table scratch (a int, b text);
    create type mood as enum ('sad', 'happy');
    create schema elsewhere;
    create function elsewhere.hello() returns text language sql as 'select ''hello''::text';
    create function shout(text) returns text language plpgsql as
        'begin raise notice ''shouting %'', $1; return upper($1); end'";

/// Takes servers and leaves on them whatever a client can leave.
struct Intruder {
    tidy: Raw,
    dirty: Raw,
    rounds: usize,
}

impl Intruder {
    fn new(carpool: &Carpool) -> Self {
        let database = carpool.database.as_str();
        let common = [("user", "postgres"), ("database", database), ("application_name", "intruder")];
        let settings = [
            ("TimeZone", "Asia/Tokyo"),
            ("DateStyle", "German, DMY"),
            ("IntervalStyle", "sql_standard"),
            ("client_encoding", "LATIN1"),
            ("options", "-c standard_conforming_strings=off -c search_path=elsewhere -c extra_float_digits=-3"),
        ];
        let tidy = Raw::login_with(carpool.port, &[&common[..], &settings[..]].concat());
        let dirty = Raw::login_with(carpool.port, &common);
        Self { tidy, dirty, rounds: 0 }
    }

    fn intrude(&mut self) {
        self.rounds += 1;
        let texts = ["select 'intruder one'", "select 'intruder two', 2", "select 3 where false"];
        let mut messages = Vec::new();
        for (i, name) in ["s", "t", ""].into_iter().enumerate() {
            let text = texts[(i + self.rounds) % texts.len()];
            messages.extend([close('S', name), parse(name, text), bind("", name, &[]), execute("", 0)]);
        }
        messages.push(sync());
        self.tidy.send_all(&messages);
        let replies = self.tidy.until_ready();
        assert!(replies.iter().all(|m| m.tag != b'E'), "{replies:?}");
        if self.rounds % 3 == 0 {
            self.leave_dirt();
        }
    }

    fn leave_dirt(&mut self) {
        for sql in [
            "set role app; set statement_timeout = 1234; set search_path = pg_catalog; set timezone = 'CET'",
            "prepare s as select 'dirt'; prepare t as select 'dirt'; listen dirt; select pg_advisory_lock(7)",
            "create temp table items as select 'dirt' as id; declare held cursor with hold for select 'dirt'",
        ] {
            let replies = self.dirty.query(sql);
            assert!(replies.iter().all(|m| m.tag != b'E'), "{sql}: {replies:?}");
        }
        self.dirty.error("begin; select 1/0");
        self.dirty.query("rollback");
    }
}

/// What is different by nature, made equal: object ids, and the process that notifies.
fn normal(message: &Message) -> Message {
    let mut normal = message.clone();
    match message.tag {
        b'T' => hide_oids(&mut normal.body),
        b'K' => normal.body.clear(),
        b'A' => normal.body[..4].fill(0),
        _ => {}
    }
    normal
}

/// Table and type ids of a RowDescription that aren't PostgreSQL's own.
fn hide_oids(body: &mut [u8]) {
    let mut at = 2;
    while at < body.len() {
        at += body[at..].iter().position(|&b| b == 0).unwrap() + 1;
        for oid in [at, at + 6] {
            if u32::from_be_bytes(body[oid..oid + 4].try_into().unwrap()) >= 16384 {
                body[oid..oid + 4].fill(0xff);
            }
        }
        at += 18;
    }
}

/// Fields of an error or notice, without where in PostgreSQL's source it was raised.
fn without_source(message: &Message) -> Vec<&[u8]> {
    let fields = message.body.split(|&b| b == 0);
    fields.filter(|f| !matches!(f.first(), None | Some(b'F' | b'L' | b'R'))).collect()
}

fn same(direct: &Message, pooled: &Message) -> bool {
    // These Carpool words itself: the duplicate, whose name the server knows otherwise, and messages that it
    // doesn't pass on.
    let own = direct.tag == b'E' && matches!(direct.field('C').as_deref(), Some("42P05" | "08P01"));
    if own && pooled.tag == b'E' && pooled.field('F').is_none() {
        return without_source(direct) == without_source(pooled);
    }
    normal(direct) == normal(pooled)
}

/// What is different, if anything is.
fn difference(direct: &[Message], pooled: &[Message]) -> Option<String> {
    for (i, (direct_one, pooled_one)) in direct.iter().zip(pooled).enumerate() {
        if !same(direct_one, pooled_one) {
            let from = i.saturating_sub(5);
            let shown = |messages: &[Message]| format!("{:?}", &messages[from..messages.len().min(i + 4)]);
            return Some(format!(
                "reply {i} differs\ndirect: {:.3000}\npooled: {:.3000}",
                shown(direct),
                shown(pooled)
            ));
        }
    }
    let (expected, got) = (direct.len(), pooled.len());
    (expected != got).then(|| format!("{got} replies instead of {expected}: {:?}", pooled.last()))
}

/// The direct connection and the pooled one, in front of the same database.
struct Pair {
    postgres: &'static Postgres,
    carpool: Carpool,
}

impl Pair {
    fn new(setup: &Setup) -> Self {
        let postgres = Postgres::shared();
        let database = postgres.new_database();
        postgres.sql(&database, TABLES);
        Self { postgres, carpool: Carpool::before(postgres, &database, setup) }
    }

    /// Runs each script both ways. `idle` is called between the transactions of the pooled run.
    fn check(&self, how: &str, scripts: &[Script], cut: Cut, mut idle: impl FnMut()) {
        let failures: Vec<_> = scripts.iter().filter_map(|s| self.check_one(s, cut, &mut idle)).collect();
        assert!(
            failures.is_empty(),
            "{how}: {} of {} scripts:\n{}",
            failures.len(),
            scripts.len(),
            failures.join("\n")
        );
    }

    fn check_one(&self, script: &Script, cut: Cut, idle: &mut impl FnMut()) -> Option<String> {
        let database = self.carpool.database.as_str();
        let clean = [("user", "postgres"), ("database", database), ("application_name", "clean")];
        let mut clean = Raw::login_with(self.postgres.port, &clean);
        clean.query("truncate scratch");
        let direct = script.run(self.postgres.port, database, Cut::Whole, || ());
        let direct = direct.unwrap_or_else(|error| panic!("{}, direct: {error}", script.name));
        clean.query("truncate scratch");
        let pooled = script.run(self.carpool.port, database, cut, idle);
        let difference = pooled.map_or_else(Some, |pooled| difference(&direct, &pooled));
        difference.map(|difference| format!("--- {}: {difference}", script.name))
    }
}

#[test]
fn alone() {
    let pair = Pair::new(&Setup::default());
    pair.check("alone", &corpus::all(), Cut::Whole, || ());
}

#[test]
fn with_an_intruder_on_the_same_server() {
    let pair = Pair::new(&Setup::default().database("pool_size = 1\nmax_pinned = 0"));
    let mut intruder = Intruder::new(&pair.carpool);
    pair.check("same server", &corpus::all(), Cut::Whole, || intruder.intrude());
}

#[test]
fn with_an_intruder_and_two_servers_by_turns() {
    let pair = Pair::new(&Setup::default().database("pool_size = 2\nmax_pinned = 0"));
    let mut intruder = Intruder::new(&pair.carpool);
    let mut blocker = pair.carpool.client();
    let mut pids = std::collections::HashSet::new();
    let mut observer = pair.carpool.client();
    let mut blocking = false;
    // The server used last is lent next: so it is held back, or the one held back is put on top.
    let idle = || {
        intruder.intrude();
        pids.insert(observer.value("select pg_backend_pid()"));
        blocker.query(if blocking { "commit" } else { "begin" });
        blocking = !blocking;
    };
    pair.check("two servers", &corpus::all(), Cut::Whole, idle);
    assert!(pids.len() >= 2, "the servers didn't take turns");
}

#[test]
fn with_a_new_server_for_each_transaction() {
    let pair = Pair::new(&Setup::pooler("server_lifetime = 0.001").database("pool_size = 1\nmax_pinned = 0"));
    pair.check("new servers", &corpus::all(), Cut::Whole, || ());
}

#[test]
fn with_the_idle_server_terminated_after_each_transaction() {
    let pair = Pair::new(&Setup::default().database("pool_size = 1\nmax_pinned = 0"));
    let database = pair.carpool.database.clone();
    let mut admin = Raw::login(pair.postgres.port, "postgres", "postgres");
    let servers = format!("from pg_stat_activity where datname = '{database}' and application_name <> 'clean'");
    let mut console = Raw::login(pair.carpool.port, "postgres", "pgbouncer");
    let idle = || {
        // Only one that was given back: with a client's question or reset under way it isn't idle.
        eventually("the servers are idle", || {
            let rows = console.query("show servers");
            let mut states = rows.iter().filter(|m| m.tag == b'D').map(|row| row.columns().swap_remove(4));
            states.all(|state| state.as_deref() == Some("idle")).then_some(())
        });
        admin.query(&format!("select pg_terminate_backend(pid) {servers}"));
        eventually("the servers end", || (admin.value(&format!("select count(*) {servers}")) == "0").then_some(()));
    };
    pair.check("terminated servers", &corpus::all(), Cut::Whole, idle);
}

/// Unnamed statements that PostgreSQL has under a name: each script comes three times, so that all texts come again.
#[test]
fn with_unnamed_statements_reused() {
    for lines in ["", "pool_size = 1\nmax_pinned = 0"] {
        let pair = Pair::new(&Setup::pooler("reuse_unnamed_statements = true").database(lines));
        let mut intruder = Intruder::new(&pair.carpool);
        let mut idle = || {
            if !lines.is_empty() {
                intruder.intrude();
            }
        };
        for turn in ["first", "second", "third"] {
            pair.check(&format!("{turn} time, {lines:?}"), &corpus::all(), Cut::Whole, &mut idle);
        }
    }
}

#[test]
fn byte_by_byte() {
    let pair = Pair::new(&Setup::default().database("pool_size = 1\nmax_pinned = 0"));
    let mut intruder = Intruder::new(&pair.carpool);
    pair.check("bytes", &corpus::all(), Cut::Bytes, || intruder.intrude());
}

#[test]
fn encrypted_on_both_sides() {
    use crate::harness::tls::{Authority, Files, client_config, postgres, proxy};
    let (authority, files) = (Authority::new("root"), Files::new());
    let identity = authority.issue("localhost", &["localhost"]);
    let bin = crate::harness::postgres::default_bin();
    // As the shared one, it ends with the process.
    let postgres: &'static Postgres = Box::leak(Box::new(postgres(&bin, &files, &identity, None)));
    let database = postgres.new_database();
    postgres.sql(&database, TABLES);
    let root = files.write("root.crt", &authority.pem());
    let pooler = files.pooler(&identity, "allow")
        + &format!("server_tls_sslmode = \"verify-full\"\nserver_tls_ca_file = \"{root}\"\n");
    let lines = "host = \"localhost\"\npool_size = 1\nmax_pinned = 0";
    let mut carpool = Carpool::before(postgres, &database, &Setup::pooler(&pooler).database(lines));
    carpool.port = proxy(carpool.port, client_config(&authority));
    let pair = Pair { postgres, carpool };
    let mut intruder = Intruder::new(&pair.carpool);
    pair.check("encrypted", &corpus::all(), Cut::Whole, || intruder.intrude());
    pair.check("encrypted bytes", &corpus::all(), Cut::Bytes, || ());
}

#[test]
fn in_odd_pieces_both_ways() {
    let postgres = Postgres::shared();
    let database = postgres.new_database();
    postgres.sql(&database, TABLES);
    let proxy = Proxy::start(postgres.port, 7);
    let lines = format!("pool_size = 1\nmax_pinned = 0\nport = {}", proxy.port);
    let carpool = Carpool::before(postgres, &database, &Setup::default().database(&lines));
    let pair = Pair { postgres, carpool };
    let mut intruder = Intruder::new(&pair.carpool);
    pair.check("pieces", &corpus::all(), Cut::Pieces, || intruder.intrude());
}
