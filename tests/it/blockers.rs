//! Who holds the servers that others wait for, and whom these wait for themselves.

use std::io::Read as _;

use crate::harness::console::{rows, value};
use crate::harness::postgres::free_port;
use crate::harness::raw::{bind, execute, parse, query, sync};
use crate::harness::{Carpool, Postgres, Raw, Setup, eventually, http};

type Rows = Vec<Vec<(String, String)>>;

fn client(carpool: &Carpool, application: &str) -> Raw {
    let name = carpool.database.as_str();
    Raw::login_with(carpool.port, &[("user", "postgres"), ("database", name), ("application_name", application)])
}

/// Waits until a client's query runs: only then who comes next finds the pool full.
fn runs(carpool: &Carpool, query: &str) {
    let sql = format!(
        "select count(*) from pg_stat_activity where datname = current_database() and state = 'active' and query = '{query}'"
    );
    eventually(query, || (Postgres::shared().sql(&carpool.database, &sql) == "1").then_some(()));
}

fn blockers(carpool: &Carpool, what: &str, found: impl Fn(&Rows) -> bool) -> Rows {
    eventually(what, || Some(rows(carpool, "SHOW BLOCKERS")).filter(&found))
}

#[test]
fn holders_are_named_while_somebody_waits() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 2"));
    let [mut idle, mut busy, mut waits] = ["nightly", "report", "web"].map(|name| client(&carpool, name));
    idle.query("begin");
    let pid = idle.value("select pg_backend_pid()");
    assert_eq!(rows(&carpool, "SHOW BLOCKERS").len(), 0, "nobody waits");
    busy.send(&query("select pg_sleep(60)"));
    runs(&carpool, "select pg_sleep(60)");
    waits.send(&query("select 'well'"));
    let found = blockers(&carpool, "both holders", |rows| rows.len() == 2);
    let (first, second) = (&found[0], &found[1]);
    for (column, want) in [
        ("database", carpool.database.as_str()),
        ("cl_waiting", "1"),
        ("user", "postgres"),
        ("application_name", "nightly"),
        ("server_pid", &pid),
        ("state", "idle in transaction"),
        ("waits_for", ""),
        ("query", ""),
        ("starved_by", ""),
    ] {
        assert_eq!(value(first, column), want, "{column}");
    }
    assert_eq!((value(second, "application_name"), value(second, "state")), ("report", "active"));
    let number = |row, column| value(row, column).parse::<u64>().unwrap();
    assert!(number(first, "held_us") >= number(second, "held_us"));
    assert!(number(first, "maxwait_us") < 60_000_000);
    idle.query("commit");
    assert!(waits.until_ready().iter().any(|m| m.tag == b'D'));
    blockers(&carpool, "nobody waits", Vec::is_empty);
}

#[test]
fn who_waits_too_long_is_told_what_holders_do() {
    let carpool = Carpool::start(&Setup::pooler("query_wait_timeout = 0.5").database("pool_size = 1"));
    let (mut holder, mut waits) = (client(&carpool, "nightly"), client(&carpool, "web"));
    holder.query("begin");
    waits.send(&query("select 1"));
    let detail = waits.until_closed().remove(0).field('D').unwrap();
    let held = detail.split_once("1 of 1 are in use, longest by: C-").expect(&detail).1;
    assert!(held.contains("(user \"postgres\", application \"nightly\") for "), "{detail}");
    assert!(held.contains(", idle in transaction since 0."), "{detail}");
    assert!(!detail.contains("Starvation"), "{detail}");
}

/// Each request of an application holds a server and waits for another: nothing moves until somebody gives up.
#[test]
fn an_application_that_starves_itself_is_named() {
    let port = free_port();
    let setup = Setup::pooler(&format!("query_wait_timeout = 4\nhttp_port = {port}")).database("pool_size = 2");
    let carpool = Carpool::start(&setup);
    let [mut one, mut two, mut three, mut four] = ["web", "web", "web", "web"].map(|name| client(&carpool, name));
    let gauge = |n: u8| {
        let (_, metrics) = http(port, "GET", "/metrics");
        let line = format!("carpool_starving{{database=\"{}\"}} {n}\n", carpool.database);
        metrics.contains(&line).then_some(metrics)
    };
    assert!(gauge(0).is_some());
    one.query("begin");
    two.query("begin");
    three.send(&query("select 1"));
    four.send(&query("select 1"));
    carpool.logs("Starvation: all servers are held in transactions that do nothing");
    carpool.logs("application \"web\" (user \"postgres\") at 127.0.0.1 holds 2 and waits for 2 more");
    eventually("the gauge", || gauge(1));
    let found = rows(&carpool, "SHOW BLOCKERS");
    assert!(value(&found[0], "starved_by").contains("holds 2 and waits for 2 more"), "{found:?}");
    let detail = three.until_closed().remove(0).field('D').unwrap();
    assert!(detail.contains("Starvation: ") && detail.contains("application \"web\""), "{detail}");
    carpool.logs("starvation is over");
    let metrics = eventually("the gauge", || gauge(0));
    assert!(metrics.contains(&format!("carpool_starvations_total{{database=\"{}\"}} 1\n", carpool.database)));
}

/// Where something moves, or others wait than those who hold, waiting is all that it is.
#[test]
fn waiting_is_not_starving() {
    let carpool = Carpool::start(&Setup::pooler("query_wait_timeout = 3").database("pool_size = 2"));
    let [mut one, mut two, mut three] = ["web", "web", "web"].map(|name| client(&carpool, name));
    one.query("begin");
    two.send(&query("select pg_sleep(60)"));
    runs(&carpool, "select pg_sleep(60)");
    three.send(&query("select 1"));
    let detail = three.until_closed().remove(0).field('D').unwrap();
    assert!(detail.contains("2 of 2 are in use") && !detail.contains("Starvation"), "{detail}");
    drop(two);
    let [mut other, mut waits] = ["web", "report"].map(|name| client(&carpool, name));
    assert!(other.query("begin").iter().all(|m| m.tag != b'E'));
    waits.send(&query("select 1"));
    let detail = waits.until_closed().remove(0).field('D').unwrap();
    assert!(detail.contains("2 of 2 are in use") && !detail.contains("Starvation"), "{detail}");
    assert!(!carpool.log().contains("Starvation"), "{}", carpool.log());
}

#[test]
fn locks_are_traced_to_who_has_them() {
    let setup = Setup::pooler("diagnostic_connection = true\nshow_query_text = true").database("pool_size = 3");
    let carpool = Carpool::start(&setup);
    let postgres = Postgres::shared();
    postgres.sql(&carpool.database, "create table t (a int primary key); insert into t values (1), (2)");
    let [mut own, mut behind, mut waits] = ["migration", "api", "web"].map(|name| client(&carpool, name));
    // A client's own lock: it holds one server, who waits for it another, and the third is the diagnostic one.
    own.query("begin");
    assert!(own.query("update t set a = 1 where a = 1").iter().all(|m| m.tag != b'E'));
    eventually("the diagnostic connection", || {
        let names = rows(&carpool, "SHOW SERVERS");
        names.iter().any(|row| value(row, "application_name") == "carpool diagnosis").then_some(())
    });
    let is_blocked = |row: &[(String, String)], by: &str, query: &str| {
        let is = |column, what: &str| value(row, column).contains(what);
        let by = format!("application \"{by}\", idle in transaction");
        is("blocked_by", &by) && is("waits_for", "Lock: ") && is("query", query)
    };
    // They have their servers before somebody else wants one.
    let blocked = |n: usize| {
        let waiting =
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        let all = || postgres.sql(&carpool.database, waiting) == n.to_string();
        eventually("they wait for the lock", || all().then_some(()));
    };
    behind.send(&query("update t set a = 1 where a = 1"));
    blocked(1);
    waits.send(&query("select 1"));
    let found = blockers(&carpool, "who is blocked", |rows| {
        let mut api = rows.iter().filter(|row| value(row, "application_name") == "api");
        api.any(|row| is_blocked(row, "migration", "update t set a = 1 where a = 1"))
    });
    assert_eq!(found.len(), 3, "{found:?}");
    own.query("commit");
    assert!(behind.until_ready().iter().any(|m| m.tag == b'C'));
    waits.until_ready();
    // Somebody's who doesn't come by way of Carpool.
    let mut outside = Raw::login_with(
        postgres.port,
        &[("user", "postgres"), ("database", &carpool.database), ("application_name", "psql")],
    );
    outside.query("begin");
    outside.query("lock table t");
    for client in [&mut own, &mut behind] {
        client.send(&query("select a from t"));
    }
    blocked(2);
    waits.send(&query("select 1"));
    blockers(&carpool, "who is blocked", |rows| {
        rows.iter().filter(|row| is_blocked(row, "psql", "select a from t")).count() == 2
    });
    outside.query("commit");
    own.until_ready();
    behind.until_ready();
    waits.until_ready();
}

/// The connection counts, doesn't stand in the way of a pause, and goes with the setting.
#[test]
fn the_diagnostic_connection_is_one_of_the_pool() {
    let setup = Setup::pooler("diagnostic_connection = true").database("pool_size = 2");
    let carpool = Carpool::start(&setup);
    let mut one = client(&carpool, "web");
    one.query("select 1");
    let diagnoses = |carpool: &Carpool| {
        let names = rows(carpool, "SHOW SERVERS");
        names.iter().filter(|row| value(row, "application_name") == "carpool diagnosis").count()
    };
    eventually("the diagnostic connection", || (diagnoses(&carpool) == 1).then_some(()));
    let (mut two, mut three) = (client(&carpool, "web"), client(&carpool, "web"));
    two.query("begin");
    three.send(&query("select 'three'"));
    blockers(&carpool, "one who waits", |rows| rows.len() == 2);
    assert_eq!(Postgres::shared().backends(&carpool.database), 2);
    two.query("commit");
    three.until_ready();
    carpool.console("PAUSE");
    assert_eq!(Postgres::shared().backends(&carpool.database), 0);
    carpool.console("RESUME");
    eventually("it again", || (diagnoses(&carpool) == 1).then_some(()));
    carpool.console("SET diagnostic_connection = 0");
    eventually("it gone", || (diagnoses(&carpool) == 0).then_some(()));
    carpool.console("SET diagnostic_connection = 1");
    eventually("it again", || (diagnoses(&carpool) == 1).then_some(()));
    // Should its server end, another comes.
    Postgres::shared().sql(
        &carpool.database,
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'carpool diagnosis'",
    );
    assert_eq!(one.value("select 'well'"), "well");
    two.query("begin");
    three.send(&query("select 'three'"));
    carpool.logs("the diagnostic connection failed");
    two.query("commit");
    three.until_ready();
    eventually("another", || (diagnoses(&carpool) == 1).then_some(()));
}

#[test]
fn json_has_all_pools() {
    let port = free_port();
    let carpool = Carpool::start(&Setup::pooler(&format!("http_port = {port}")).database("pool_size = 1"));
    let (mut holder, mut waits) = (client(&carpool, "nightly"), client(&carpool, "web"));
    holder.query("begin");
    waits.send(&query("select 1"));
    let json = eventually("who waits", || {
        let (status, body) = http(port, "GET", "/api/blockers");
        assert_eq!(status, 200, "{body}");
        body.contains("\"waiting\":1").then_some(body)
    });
    for part in
        ["\"application\":\"nightly\"", "\"state\":\"idle in transaction\"", "\"starved_by\":null", "\"query\":null"]
    {
        assert!(json.contains(part), "{part} in {json}");
    }
    // Nobody is in the way of who reads on.
    waits.stream().set_nonblocking(true).unwrap();
    assert!(waits.stream().read(&mut [0]).is_err());
}

/// Without a word from PostgreSQL: the last statement of who holds the server, without constants, and of nobody else.
#[test]
fn what_a_holder_runs_is_told_where_statements_are_tracked() {
    let setup = Setup::pooler("track_statements = true\nshow_query_text = true").database("pool_size = 1");
    let carpool = Carpool::start(&setup);
    let (mut holder, mut waits) = (client(&carpool, "nightly"), client(&carpool, "web"));
    let shown = |who: &str, want: &str| {
        blockers(&carpool, want, |rows| {
            rows.len() == 1 && value(&rows[0], "application_name") == who && value(&rows[0], "query") == want
        });
    };
    holder.query("begin");
    holder.query("select 'secret', 42");
    waits.send(&query("select 7"));
    shown("nightly", "select $1, $2");
    // By Parse, Bind and Execute, with the server's own lock in the way: it is still running.
    let mut other = Raw::login(Postgres::shared().port, "postgres", &carpool.database);
    other.query("select pg_advisory_lock(1)");
    holder
        .send(&[parse("", "select pg_advisory_lock($1::int)"), bind("", "", &["1"]), execute("", 0), sync()].concat());
    shown("nightly", "select pg_advisory_lock($1::int)");
    carpool.console("SET show_query_text = 0");
    shown("nightly", "");
    carpool.console("SET show_query_text = 1");
    other.query("select pg_advisory_unlock(1)");
    holder.until_ready();
    holder.query("select pg_advisory_unlock(1)");
    holder.query("commit");
    waits.until_ready();
    // The next one has a statement of its own, or none.
    carpool.console("SET track_statements = 0");
    waits.query("begin");
    holder.send(&query("select 1"));
    shown("web", "");
    waits.query("commit");
    holder.until_ready();
}
