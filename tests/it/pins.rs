//! Clients that keep their server between transactions: who can see it, who is told, and keeping one by hand.

use crate::harness::postgres::free_port;
use crate::harness::raw::query;
use crate::harness::{Carpool, Message, Raw, Setup, eventually, http};

const PIN: &str = "create temp table kept (a int)";

/// The rows of a console command by the names of their columns.
fn rows(carpool: &Carpool, command: &str) -> Vec<Vec<(String, String)>> {
    let mut console = Raw::login(carpool.port, "postgres", "pgbouncer");
    let replies = console.query(command);
    let head = replies.iter().find(|m| m.tag == b'T').unwrap_or_else(|| panic!("{replies:?}"));
    let mut rest = &head.body[2..];
    let mut names = Vec::new();
    while let Some(end) = rest.iter().position(|&b| b == 0) {
        names.push(String::from_utf8_lossy(&rest[..end]).into_owned());
        rest = &rest[end + 19..];
    }
    let row = |m: &Message| names.iter().cloned().zip(m.columns().into_iter().map(Option::unwrap_or_default)).collect();
    replies.iter().filter(|m| m.tag == b'D').map(row).collect()
}

fn value<'r>(row: &'r [(String, String)], column: &str) -> &'r str {
    &row.iter().find(|(name, _)| name == column).unwrap_or_else(|| panic!("no {column} in {row:?}")).1
}

/// SHOW PINS, once there are so many.
fn pins(carpool: &Carpool, n: usize) -> Vec<Vec<(String, String)>> {
    eventually(&format!("{n} pins"), || Some(rows(carpool, "SHOW PINS")).filter(|rows| rows.len() == n))
}

fn succeeds(replies: &[Message]) {
    assert!(replies.iter().all(|m| m.tag != b'E'), "{replies:?}");
}

#[test]
fn pins_are_seen_with_reason_and_age() {
    let port = free_port();
    let carpool = Carpool::start(&Setup::pooler(&format!("http_port = {port}")));
    let name = carpool.database.as_str();
    let mut client =
        Raw::login_with(carpool.port, &[("user", "postgres"), ("database", name), ("application_name", "nightly")]);
    assert_eq!(rows(&carpool, "SHOW PINS").len(), 0);
    succeeds(&client.query(PIN));
    let row = pins(&carpool, 1).remove(0);
    let pid = client.value("select pg_backend_pid()");
    for (column, want) in [
        ("database", name),
        ("user", "postgres"),
        ("application_name", "nightly"),
        ("server_pid", &pid),
        ("reasons", "temporary object"),
        ("last_command", "CREATE TABLE"),
    ] {
        assert_eq!(value(&row, column), want, "{column}");
    }
    assert!(value(&row, "seconds").parse::<u32>().unwrap() < 30);
    succeeds(&client.query("insert into kept values (1), (2)"));
    succeeds(&client.query("select pg_advisory_lock(7)"));
    eventually("both reasons", || {
        let row = pins(&carpool, 1).remove(0);
        (value(&row, "reasons") == "temporary object, advisory lock" && value(&row, "last_command") == "SELECT")
            .then_some(())
    });
    for command in ["SHOW CLIENTS", "SHOW SERVERS"] {
        let row = rows(&carpool, command).remove(0);
        let last: Vec<_> = row.iter().rev().take(2).map(|(name, _)| name.as_str()).collect();
        assert_eq!(last, ["pinned_seconds", "pinned"], "at the end of {command}");
        assert_eq!(value(&row, "pinned"), "temporary object, advisory lock", "{command}");
        assert!(value(&row, "pinned_seconds").parse::<u32>().unwrap() < 30, "{command}");
    }
    let (_, metrics) = http(port, "GET", "/metrics");
    for line in [
        format!("carpool_pinned_servers{{database=\"{name}\",reason=\"temporary object\"}} 1\n"),
        format!("carpool_pinned_servers{{database=\"{name}\",reason=\"advisory lock\"}} 0\n"),
        format!("carpool_pinned_servers_limit{{database=\"{name}\"}} 20\n"),
        format!("carpool_transactions_pinned_total{{database=\"{name}\"}} 3\n"),
        format!("carpool_pin_waits_total{{database=\"{name}\"}} 0\n"),
    ] {
        assert!(metrics.contains(&line), "no {line} in {metrics}");
    }
    let (_, json) = http(port, "GET", "/api/pools");
    assert!(json.contains("\"pinned\":{\"temporary object\":1}"), "{json}");
    assert!(json.contains("\"servers_pinned\":1"), "{json}");
    succeeds(&client.query("drop table kept; select pg_advisory_unlock(7)"));
    pins(&carpool, 0);
    let row = rows(&carpool, "SHOW CLIENTS").remove(0);
    assert_eq!((value(&row, "pinned"), value(&row, "pinned_seconds")), ("", ""));
}

#[test]
fn a_client_that_leaves_is_no_pin_any_more() {
    let carpool = Carpool::start(&Setup::default());
    let mut client = carpool.client();
    succeeds(&client.query(PIN));
    pins(&carpool, 1);
    drop(client);
    pins(&carpool, 0);
    assert_eq!(rows(&carpool, "SHOW SERVERS").iter().filter(|row| !value(row, "pinned").is_empty()).count(), 0);
}

/// `pool_size` 2 allows one pin.
#[test]
fn who_waits_for_a_pin_is_told_who_has_them() {
    let port = free_port();
    let setup = Setup::pooler(&format!("http_port = {port}\nquery_wait_timeout = 0.3")).database("pool_size = 2");
    let carpool = Carpool::start(&setup);
    let (mut holder, mut other) = (carpool.client(), carpool.client());
    succeeds(&holder.query(PIN));
    let row = pins(&carpool, 1).remove(0);
    other.send(&query("select pg_advisory_lock(1)"));
    let error = other.until_closed().remove(0);
    assert_eq!(error.field('M').as_deref(), Some("query_wait_timeout"));
    assert_eq!(error.field('C').as_deref(), Some("53300"));
    let detail = error.field('D').unwrap();
    assert!(detail.contains(value(&row, "client")) && detail.contains("temporary object"), "{detail}");
    assert!(detail.contains("1 of 1 are kept"), "{detail}");
    assert!(error.field('H').unwrap().contains("max_pinned"), "{error:?}");
    let (_, metrics) = http(port, "GET", "/metrics");
    assert!(metrics.contains(&format!("carpool_pin_waits_total{{database=\"{}\"}} 1\n", carpool.database)));
}

#[test]
fn who_waits_for_a_server_is_told_what_is_pinned() {
    let carpool = Carpool::start(&Setup::pooler("query_wait_timeout = 0.3").database("pool_size = 1"));
    let (mut holder, mut other) = (carpool.client(), carpool.client());
    succeeds(&holder.query(PIN));
    pins(&carpool, 1);
    other.send(&query("select 1"));
    let detail = other.until_closed()[0].field('D').unwrap();
    assert!(detail.contains("1 are kept between transactions (temporary object 1); see SHOW PINS"), "{detail}");
}

/// A request that waits for a pin gives it up when its client goes.
#[test]
fn a_client_that_leaves_while_it_waits_for_a_pin_is_noticed() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 2"));
    let (mut holder, mut other) = (carpool.client(), carpool.client());
    succeeds(&holder.query(PIN));
    pins(&carpool, 1);
    other.send(&query("select pg_advisory_lock(1)"));
    let waiting = |carpool: &Carpool| {
        let clients = rows(carpool, "SHOW CLIENTS");
        clients.iter().filter(|row| value(row, "state") == "waiting").count()
    };
    eventually("it waits", || (waiting(&carpool) == 1).then_some(()));
    drop(other);
    eventually("it is gone", || (waiting(&carpool) == 0).then_some(()));
}
