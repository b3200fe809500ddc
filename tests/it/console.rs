//! The admin console and HTTP, with real clients and servers to show.

#![allow(clippy::unwrap_used, reason = "test code")]

use crate::harness::postgres::free_port;
use crate::harness::raw::{bind, describe, execute, parse, query, sync};
use crate::harness::{Carpool, Message, Raw, Setup, eventually, http};

fn console(carpool: &Carpool) -> Raw {
    Raw::login(carpool.port, "postgres", "pgbouncer")
}

/// The rows of a console command, as maps would have them: the value of `column` in the row that begins so.
fn rows(console: &mut Raw, command: &str) -> Vec<Vec<String>> {
    let replies = console.query(command);
    let text = |m: &Message| m.columns().into_iter().map(Option::unwrap_or_default).collect();
    replies.iter().filter(|m| m.tag == b'D').map(text).collect()
}

/// The row of SHOW POOLS about the test's own database.
fn pool(carpool: &Carpool, console: &mut Raw) -> Vec<String> {
    rows(console, "SHOW POOLS").into_iter().find(|row| row[0] == carpool.database).unwrap()
}

#[test]
fn pools_clients_and_servers_are_what_they_are() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let (mut holder, mut waiter, mut console) = (carpool.client(), carpool.client(), console(&carpool));
    holder.query("begin");
    waiter.send(&query("select 1"));
    let row = eventually("one waits", || Some(pool(&carpool, &mut console)).filter(|row| row[3] == "1"));
    assert_eq!((row[2].as_str(), row[6].as_str(), row[9].as_str(), row[15].as_str()), ("1", "1", "0", "transaction"));
    let clients = rows(&mut console, "SHOW CLIENTS");
    let states: Vec<_> = clients.iter().map(|row| row[4].as_str()).collect();
    assert_eq!(states, ["active", "waiting", "idle"]);
    let servers = rows(&mut console, "SHOW SERVERS");
    assert_eq!((servers[0][4].as_str(), &servers[0][15]), ("active", &clients[0][14]), "linked with its client");
    assert_eq!(clients[0][15], servers[0][14]);
    assert_eq!(servers[0][16], holder.value("select pg_backend_pid()"));
    holder.query("commit");
    waiter.until_ready();
    let row = pool(&carpool, &mut console);
    assert_eq!((row[2].as_str(), row[3].as_str(), row[6].as_str(), row[9].as_str()), ("2", "0", "0", "1"));
}

#[test]
fn statistics_count_what_happened() {
    let carpool = Carpool::start(&Setup::default());
    let (mut client, mut console) = (carpool.client(), console(&carpool));
    for _ in 0..3 {
        client.query("select 1");
    }
    client.query("begin");
    client.query("select 1");
    client.query("commit");
    client.send_all(&[parse("s", "select 1"), bind("", "s", &[]), execute("", 0), sync()]);
    client.until_ready();
    client.send_all(&[bind("", "s", &[]), execute("", 0), sync()]);
    client.until_ready();
    let stats = rows(&mut console, "SHOW STATS");
    let row = stats.iter().find(|row| row[0] == carpool.database).unwrap();
    let [assigned, transactions, queries] = [1, 2, 3].map(|i| row[i].parse::<u32>().unwrap());
    assert_eq!((assigned, transactions, queries), (6, 6, 8));
    assert_eq!([9, 10, 11, 12].map(|i| row[i].as_str()), ["1", "1", "2", "1"], "parses, binds and logins");
    let clients = rows(&mut console, "SHOW CLIENTS");
    assert_eq!(clients[0][19], "1", "one prepared statement");
}

#[test]
fn the_extended_protocol_gives_the_same_rows() {
    let carpool = Carpool::start(&Setup::default());
    let mut console = console(&carpool);
    let simple = rows(&mut console, "SHOW STATE");
    console.send_all(&[parse("", "show state;"), bind("", "", &[]), describe('P', ""), execute("", 0), sync()]);
    let replies = console.until_ready();
    assert_eq!(replies.iter().map(|m| char::from(m.tag)).collect::<String>(), "12TDDDCZ");
    let extended: Vec<Vec<_>> = replies
        .iter()
        .filter(|m| m.tag == b'D')
        .map(|m| m.columns().into_iter().map(Option::unwrap_or_default).collect())
        .collect();
    assert_eq!(simple, extended);
    console.send_all(&[parse("", "nonsense"), bind("", "", &[]), execute("", 0), sync(), query("show version")]);
    assert_eq!(console.until_ready()[0].field('C').as_deref(), Some("08P01"));
    assert_eq!(console.until_ready().len(), 4);
}

#[test]
fn a_killed_client_is_told() {
    let carpool = Carpool::start(&Setup::default());
    let (mut client, mut console) = (carpool.client(), console(&carpool));
    client.query("begin");
    let id = rows(&mut console, "SHOW CLIENTS")[0][20].clone();
    console.query(&format!("KILL_CLIENT {id}"));
    let last = client.until_closed();
    assert_eq!(last[0].field('C').as_deref(), Some("57P01"));
    assert_eq!(console.error("KILL_CLIENT 999999"), "42704");
    eventually("the server is free again", || (pool(&carpool, &mut console)[6] == "0").then_some(()));
}

/// All that is wrong, as in the log, and nothing has changed.
#[test]
fn a_failed_reload_says_why() {
    let carpool = Carpool::start(&Setup::default());
    let (mut client, mut console) = (carpool.client(), console(&carpool));
    let good = std::fs::read_to_string(&carpool.config).unwrap();
    for (text, want) in [
        (
            good.replace("[pooler]", "[pooler]\npool_sise = 3\nverbose = 'no'"),
            &["pool_sise: unknown setting", "verbose"][..],
        ),
        (String::new(), &["is empty"]),
        ("[pooler".to_owned(), &[".toml:1: "]),
    ] {
        std::fs::write(&carpool.config, text).unwrap();
        let error = console.query("RELOAD").remove(0);
        assert_eq!((error.tag, error.field('C').as_deref()), (b'E', Some("F0000")), "{error:?}");
        let detail = error.field('D').unwrap();
        assert!(want.iter().all(|part| detail.contains(part)), "{detail}");
        assert_eq!(client.value("select 1"), "1");
    }
    std::fs::write(&carpool.config, good).unwrap();
    assert_eq!(console.query("RELOAD")[0].tag, b'C');
}

#[test]
fn shutdown_ends_the_process() {
    let mut carpool = Carpool::start(&Setup::default());
    let (mut idle, mut console) = (carpool.client(), console(&carpool));
    idle.query("begin");
    let replies = console.query("SHUTDOWN");
    assert_eq!(replies[0].tag, b'C');
    assert_eq!(idle.until_closed()[0].field('C').as_deref(), Some("57P01"));
    assert_eq!(console.until_closed()[0].field('C').as_deref(), Some("57P01"));
    assert!(carpool.wait().success());
}

#[test]
fn http_tells_health_and_numbers() {
    let port = free_port();
    let mut carpool = Carpool::start(&Setup::pooler(&format!("http_port = {port}")));
    let mut client = carpool.client();
    client.query("select 1");
    assert_eq!(http(port, "GET", "/healthz"), (200, "ok".into()));
    assert_eq!(http(port, "GET", "/readyz").0, 200);
    assert_eq!(http(port, "HEAD", "/"), (200, String::new()));
    assert_eq!(http(port, "GET", "/no").0, 404);
    assert_eq!(http(port, "POST", "/metrics").0, 405);
    let (_, metrics) = http(port, "GET", "/metrics");
    assert!(metrics.contains(&format!("carpool_queries_total{{database=\"{}\"}} 1\n", carpool.database)), "{metrics}");
    let (_, json) = http(port, "GET", "/api/pools");
    assert!(json.contains(&format!("\"database\":\"{}\"", carpool.database)), "{json}");
    client.query("begin");
    carpool.signal("TERM");
    eventually("it is no longer ready", || (http(port, "GET", "/readyz").0 == 503).then_some(()));
    assert_eq!(http(port, "GET", "/healthz").0, 200);
    client.query("commit");
    assert!(carpool.wait().success());
}
