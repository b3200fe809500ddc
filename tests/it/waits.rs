//! Where the time of transactions and statements goes: `track_waits`, `track_statements`.

use std::time::Duration;

use serde_json::Value;

use crate::harness::postgres::free_port;
use crate::harness::raw::{bind, execute, flush, parse, query, sync};
use crate::harness::{Carpool, Raw, Setup, eventually, http};

/// Carpool with these lines in `[pooler]`, and the port of its HTTP.
fn start(lines: &str, database: &str) -> (Carpool, u16) {
    let port = free_port();
    let setup = Setup::pooler(&format!("http_port = {port}\n{lines}")).database(database);
    (Carpool::start(&setup), port)
}

fn json(port: u16, path: &str) -> Value {
    let (status, body) = http(port, "GET", path);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// One group once it has so many transactions.
fn group(port: u16, by: &str, name: &str, transactions: u64) -> Value {
    eventually(&format!("{transactions} transactions of {by} {name}"), || {
        let waits = json(port, "/api/waits");
        let found = waits["groups"].as_array().unwrap().iter().find(|g| g["by"] == by && g["name"] == name)?.clone();
        let n = found["transactions"].as_u64().unwrap();
        assert!(n <= transactions, "{n} transactions in {waits:#}");
        (n == transactions).then_some(found)
    })
}

/// The time of one part, seconds.
fn seconds(group: &Value, part: &str) -> f64 {
    group[part]["total_us"].as_f64().unwrap_or_else(|| panic!("no {part} in {group}")) / 1e6
}

fn client(carpool: &Carpool, user: &str, application: &str) -> Raw {
    let login = [("user", user), ("database", carpool.database.as_str()), ("application_name", application)];
    Raw::login_with(carpool.port, &login)
}

/// The statements with `part` in their text, once each has run: text, calls, and microseconds of a part.
fn statement(port: u16, text: &str) -> Value {
    eventually(&format!("the statement {text}"), || {
        let all = json(port, "/api/statements");
        let found: Vec<_> =
            all["statements"].as_array().unwrap().iter().filter(|s| s["query"] == text).cloned().collect();
        assert!(found.len() < 2, "{found:?}");
        found.into_iter().next()
    })
}

fn took(statement: &Value, part: &str) -> f64 {
    statement["total_us"][part].as_f64().unwrap() / 1e6
}

fn pause(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

#[test]
fn the_servers_time_and_the_clients_are_told_apart() {
    let (carpool, port) = start("track_statements = true", "");
    let mut client = client(&carpool, "app", "web");
    client.query("begin");
    client.value("select pg_sleep(0.3)");
    pause(400);
    client.value("select 1");
    pause(200);
    client.query("commit");
    let group = group(port, "application", "web", 1);
    assert!((0.25..0.55).contains(&seconds(&group, "server")), "{group}");
    assert!((0.59..5.0).contains(&seconds(&group, "client")), "{group}");
    assert_eq!((seconds(&group, "queue"), seconds(&group, "backpressure")), (0.0, 0.0), "{group}");
    assert!(group["client"]["p99_us"].as_f64().unwrap() > 500_000.0, "{group}");
    // Each statement has its own: the time that the client thought counts for the one that ended it.
    let slept = statement(port, "select pg_sleep($1)");
    assert!(took(&slept, "server") >= 0.25 && took(&slept, "client") < 0.2, "{slept}");
    let one = statement(port, "select $1");
    assert!(took(&one, "server") < 0.1 && took(&one, "client") >= 0.4, "{one}");
    assert_eq!(
        (&one["calls"], &one["user"], &one["database"]),
        (&1.into(), &"app".into(), &carpool.database.as_str().into())
    );
    assert!(took(&statement(port, "commit"), "client") >= 0.2);
}

#[test]
fn the_wait_for_a_server_is_the_queues() {
    let (carpool, port) = start("track_statements = true", "pool_size = 1");
    let mut holder = client(&carpool, "app", "holder");
    holder.query("begin");
    let mut other = client(&carpool, "app", "other");
    other.send(&query("select 'waits'; "));
    pause(300);
    holder.query("commit");
    other.until_ready();
    let waited = group(port, "application", "other", 1);
    assert!(seconds(&waited, "queue") >= 0.28 && seconds(&waited, "server") < 0.2, "{waited}");
    assert_eq!(seconds(&group(port, "application", "holder", 1), "queue"), 0.0);
    let both = group(port, "user", "app", 2);
    assert!(seconds(&both, "client") >= 0.28 && seconds(&both, "queue") >= 0.28, "{both}");
    assert_eq!(group(port, "pool", &carpool.database, 2)["queue"], both["queue"]);
    assert!(took(&statement(port, "select $1"), "queue") >= 0.28);
    assert_eq!(took(&statement(port, "commit"), "queue"), 0.0);
}

#[test]
fn a_client_that_does_not_read_is_backpressure() {
    let (carpool, port) = start("track_waits = true", "");
    let mut client = client(&carpool, "app", "slow");
    client.send(&query("select repeat('x', 1000000) from generate_series(1, 60)"));
    pause(700);
    client.until_ready_after_bulk();
    let group = group(port, "application", "slow", 1);
    assert!(seconds(&group, "backpressure") >= 0.4, "{group}");
    assert!(seconds(&group, "server") < seconds(&group, "backpressure"), "{group}");
    assert_eq!(seconds(&group, "client"), 0.0, "{group}");
}

#[test]
fn settings_and_statements_that_a_server_lacks_are_replay() {
    let (carpool, port) = start("track_waits = true", "pool_size = 1");
    let mut one = client(&carpool, "app", "one");
    let mut two = client(&carpool, "app", "two");
    one.query("set statement_timeout = '77s'");
    group(port, "application", "one", 1);
    two.value("select 1");
    let before = seconds(&group(port, "application", "two", 1), "replay");
    assert!(before > 0.0, "statement_timeout was reset for it");
    one.value("select pg_sleep(0.3)");
    let replayed = group(port, "application", "one", 2);
    assert!(seconds(&replayed, "replay") > 0.0 && seconds(&replayed, "replay") < 0.1, "{replayed}");
    assert!(seconds(&replayed, "server") >= 0.2, "{replayed}");
    // A server that doesn't know its statement.
    let mut prepared = client(&carpool, "app", "prepared");
    prepared.send_all(&[parse("p", "select pg_sleep(0.3)"), bind("", "p", &[]), execute("", 0), sync()]);
    prepared.until_ready();
    prepared.send_all(&[bind("", "p", &[]), execute("", 0), sync()]);
    prepared.until_ready();
    let known = group(port, "application", "prepared", 2);
    carpool.console("RECONNECT");
    prepared.send_all(&[bind("", "p", &[]), execute("", 0), sync()]);
    prepared.until_ready();
    let anew = group(port, "application", "prepared", 3);
    let replay = seconds(&anew, "replay") - seconds(&known, "replay");
    assert!(replay > 0.0 && replay < 0.1, "{anew}");
    assert!(seconds(&anew, "server") - seconds(&known, "server") >= 0.2, "{anew}");
    assert!(json(port, "/api/statements")["statements"].as_array().unwrap().is_empty(), "they aren't tracked");
}

#[test]
fn a_batch_is_counted_by_statement() {
    let (carpool, port) = start("track_statements = true", "");
    let mut client = client(&carpool, "app", "batch");
    client.query("create table t (a int)");
    let run = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0)].concat();
    // The first is answered before the second ends.
    client.send_all(&[
        run("select pg_sleep(0.2)"),
        flush(),
        run("select pg_sleep(0.4), 2"),
        run("insert into t values (1)"),
        sync(),
    ]);
    client.until_ready();
    let (first, second) = (statement(port, "select pg_sleep($1)"), statement(port, "select pg_sleep($1), $2"));
    assert!((0.15..0.5).contains(&took(&first, "server")), "{first}");
    assert!(took(&second, "server") >= 0.15, "{second}");
    assert_eq!(statement(port, "insert into t values ($1)")["calls"], 1);
    // What comes behind an error never ran.
    client.send_all(&[
        run("select 1"),
        run("select 1 / (a - 1) from t"),
        run("select a, 1 from t"),
        sync(),
        run("select 'x', 2, 3"),
        sync(),
    ]);
    client.until_ready();
    client.until_ready();
    assert_eq!(statement(port, "select $1, $2, $3")["calls"], 1);
    assert_eq!(statement(port, "select $1 / (a - $2) from t")["calls"], 1);
    let all = json(port, "/api/statements");
    assert!(!all.to_string().contains("select a, $1 from t"), "{all:#}");
    // By name, and by a portal's name.
    client.send_all(&[
        parse("s", "select 7 + 1"),
        bind("p1", "s", &[]),
        bind("p2", "s", &[]),
        execute("p2", 0),
        execute("p1", 0),
        sync(),
    ]);
    client.until_ready();
    assert_eq!(statement(port, "select $1 + $2")["calls"], 2);
    let group = group(port, "application", "batch", 4);
    assert!(seconds(&group, "server") >= 0.6 && seconds(&group, "client") == 0.0, "{group}");
}

#[test]
fn texts_are_alike_but_for_constants_and_bounded() {
    let (carpool, port) = start("track_statements = true", "");
    let mut client = client(&carpool, "app", "many");
    for text in ["select 'a', 1 /* x */", "SELECT 'b' , -2", "select $$c$$,3;"] {
        client.query(text);
    }
    assert_eq!(statement(port, "select $1, $2")["calls"], 3);
    let texts: Vec<_> = (0..2500).map(|n| query(&format!("select 1 as c{n}"))).collect();
    for some in texts.chunks(100) {
        client.send_all(some);
        some.iter().for_each(|_| drop(client.until_ready()));
    }
    let all = json(port, "/api/statements");
    let known = all["statements"].as_array().unwrap().len();
    let left_out = all["left_out"].as_u64().unwrap();
    assert!(known <= 2000 && known + usize::try_from(left_out).unwrap() == 2501, "{known} and {left_out}");
    assert!(carpool.console("SHOW STATEMENTS").lines().count() <= 2000);
    let (_, metrics) = http(port, "GET", "/metrics");
    assert!(metrics.contains(&format!("carpool_statements {known}\n")), "{metrics}");
    // Many applications.
    for n in 0..600 {
        client.query(&format!("set application_name = 'a{n}'"));
        client.value("select 1");
    }
    let waits = json(port, "/api/waits");
    let applications = waits["groups"].as_array().unwrap().iter().filter(|g| g["by"] == "application").count();
    assert!(applications <= 501, "{applications}");
    let other = group(port, "application", "(other)", 201);
    assert!(seconds(&other, "server") > 0.0);
}

#[test]
fn it_is_off_until_it_is_set_and_begins_anew() {
    let (carpool, port) = start("stats_users = [\"app\"]", "");
    let mut clients = [client(&carpool, "app", "web"), client(&carpool, "postgres", "web")];
    clients.iter_mut().for_each(|client| drop(client.value("select 'off'")));
    let waits = json(port, "/api/waits");
    assert_eq!((&waits["tracking"], waits["groups"].as_array().unwrap().len()), (&false.into(), 0));
    assert_eq!(json(port, "/api/statements")["tracking"], false);
    let mut admin = Raw::login(carpool.port, "postgres", "pgbouncer");
    let notice = admin.query("show statements").into_iter().find(|m| m.tag == b'N').unwrap();
    assert_eq!(notice.field('M').unwrap(), "track_statements is off");
    admin.query("SET track_statements = true");
    clients.iter_mut().for_each(|client| drop(client.value("select 'on'")));
    assert_eq!(group(port, "application", "web", 2)["transactions"], 2);
    let rows = |console: &mut Raw| {
        let rows = console.query("SHOW STATEMENTS").into_iter().filter(|m| m.tag == b'D');
        let mut rows: Vec<_> =
            rows.map(|m| m.columns()[1..4].iter().flatten().cloned().collect::<Vec<_>>().join(" ")).collect();
        rows.sort();
        rows
    };
    assert_eq!(rows(&mut admin), ["app select $1 1", "postgres select $1 1"]);
    // Those who only read see their own texts, and reset nothing.
    let mut reader = Raw::login(carpool.port, "app", "pgbouncer");
    assert_eq!(rows(&mut reader), ["app select $1 1", "postgres <insufficient privilege> 1"]);
    assert_eq!(reader.error("RESET_WAITS"), "08P01");
    admin.query("RESET_WAITS");
    assert!(rows(&mut admin).is_empty());
    assert!(json(port, "/api/waits")["groups"].as_array().unwrap().is_empty());
    clients[0].value("select 'again'");
    assert_eq!(rows(&mut admin), ["app select $1 1"]);
    admin.query("SET track_statements = false");
    clients[0].value("select 'off'");
    assert_eq!(rows(&mut admin), ["app select $1 1"], "what was counted stays");
    assert_eq!(json(port, "/api/waits")["tracking"], false);
    group(port, "application", "web", 1);
}

#[test]
fn every_mode_is_metered() {
    for mode in ["session", "statement"] {
        let (carpool, port) = start(&format!("track_statements = true\npool_mode = \"{mode}\""), "");
        let mut client = client(&carpool, "app", mode);
        client.value("select pg_sleep(0.2)");
        pause(200);
        client.value("select 2");
        let group = group(port, "application", mode, 2);
        assert!((0.15..0.5).contains(&seconds(&group, "server")), "{group}");
        assert_eq!(seconds(&group, "client"), 0.0, "between transactions: {group}");
        assert_eq!(statement(port, "select pg_sleep($1)")["calls"], 1);
        assert_eq!(statement(port, "select $1")["calls"], 1);
    }
    // A client that keeps its server, and is asked about.
    let (carpool, port) = start("track_statements = true", "");
    let mut client = client(&carpool, "app", "pins");
    client.query("create temp table kept (a int)");
    client.query("insert into kept values (1)");
    assert_eq!(client.value("select a from kept"), "1");
    let group = group(port, "application", "pins", 3);
    assert!(seconds(&group, "replay") > 0.0, "the server was asked: {group}");
    assert_eq!(statement(port, "insert into kept values ($1)")["calls"], 1);
    assert_eq!(statement(port, "select a from kept")["calls"], 1);
}
