//! `currval` and `lastval` in transaction mode: a client reads its own values or gets PostgreSQL's own error.

use std::collections::HashSet;

use crate::harness::raw::{bind, execute, parse, sync};
use crate::harness::{Carpool, Postgres, Raw, Setup, eventually};

const NOT_YET: &str = "55000";

fn start(pool_size: u32) -> Carpool {
    let carpool = Carpool::start(&Setup::default().database(&format!("pool_size = {pool_size}\nmax_pinned = 1")));
    carpool.client().query("create table t (id serial, x text); create sequence s start 1000");
    carpool
}

fn backend(client: &mut Raw) -> String {
    client.value("select pg_backend_pid()")
}

fn prepared(client: &mut Raw, sql: &str) -> Result<String, String> {
    client.send_all(&[parse("", sql), bind("", "", &[]), execute("", 0), sync()]);
    let replies = client.until_ready();
    let row = replies.iter().find(|m| m.tag == b'D').map(|m| m.columns().swap_remove(0).unwrap());
    row.ok_or_else(|| replies.iter().find_map(|m| m.field('C')).unwrap())
}

#[test]
fn clients_that_take_turns_on_one_server_read_no_value_of_the_other() {
    for by_extended in [false, true] {
        let carpool = start(1);
        let (mut one, mut other) = (carpool.client(), carpool.client());
        let read = |client: &mut Raw, sql: &str| {
            if by_extended { prepared(client, sql).unwrap_err() } else { client.error(sql) }
        };
        for _ in 0..2 {
            one.query("insert into t (x) values ('one')");
            assert_eq!(read(&mut other, "select lastval()"), NOT_YET);
            assert_eq!(read(&mut other, "select currval('t_id_seq')"), NOT_YET);
            other.query("discard sequences");
        }
        // In a transaction that began without.
        one.query("insert into t (x) values ('one')");
        other.query("begin");
        assert_eq!(read(&mut other, "select lastval()"), NOT_YET);
        other.query("rollback");
        other.query("discard all");
        assert_eq!(backend(&mut one), backend(&mut other), "nobody is tied to the server any more");
    }
}

#[test]
fn a_client_that_has_read_sequence_values_keeps_them() {
    for pool_size in [1, 2] {
        let carpool = start(pool_size);
        let mut one = carpool.client();
        one.query("begin; insert into t (x) values ('one')");
        let mine = one.value("select currval('t_id_seq')");
        one.query("commit");
        let mut others: Vec<_> = if pool_size == 1 { vec![] } else { (0..3).map(|_| carpool.client()).collect() };
        for _ in 0..3 {
            others.iter_mut().for_each(|other| drop(other.query("insert into t (x) values ('other')")));
            assert_eq!(one.value("select lastval()"), mine);
            assert_eq!(prepared(&mut one, "select currval('t_id_seq')"), Ok(mine.clone()));
        }
        // Until it says that it needs them no more: then others get its server.
        let pid = backend(&mut one);
        one.query("discard sequences");
        assert_eq!(one.error("select lastval()"), NOT_YET);
        assert_eq!(backend(&mut one), pid, "it has read one again");
        one.query("discard all");
        drop(others);
        let pids = [backend(&mut carpool.client()), backend(&mut one)];
        assert!(pool_size > 1 || pids[0] == pids[1]);
    }
}

/// With nobody between, the server that a client gets is as it left it.
#[test]
fn a_value_lasts_while_nobody_else_has_the_server() {
    let carpool = start(1);
    let mut one = carpool.client();
    one.query("select nextval('s')");
    assert_eq!(one.value("select lastval()"), "1000");
}

#[test]
fn nextval_ties_nobody_to_a_server() {
    let carpool = start(1);
    let (mut one, mut other) = (carpool.client(), carpool.client());
    for _ in 0..3 {
        one.value("select nextval('s')");
        other.query("insert into t (x) values ('other') returning id");
    }
    assert_eq!(backend(&mut one), backend(&mut other));
}

/// Nothing is pinned: what a transaction has read ends with it.
#[test]
fn without_pins_values_end_with_the_transaction() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1\nmax_pinned = 0"));
    let (mut one, mut other) = (carpool.client(), carpool.client());
    one.query("create sequence s");
    one.query("begin; select nextval('s')");
    assert_eq!(one.value("select lastval()"), "1");
    one.query("commit");
    assert_eq!(other.error("select lastval()"), NOT_YET);
    assert_eq!(one.error("select lastval()"), NOT_YET);
}

/// `currval`, by the fast-path protocol.
#[test]
fn by_a_function_call_message() {
    let carpool = start(1);
    let (mut one, mut other) = (carpool.client(), carpool.client());
    one.query("select nextval('s')");
    let oid =
        |name: &str| -> u32 { carpool.client().value(&format!("select '{name}'::regproc::oid")).parse().unwrap() };
    let mut body = oid("pg_catalog.lastval").to_be_bytes().to_vec();
    body.extend_from_slice(&[0, 0, 0, 0, 0, 0]);
    other.send(&crate::harness::raw::message('F', &body));
    let replies = other.until_ready();
    assert_eq!(replies[0].field('C').as_deref(), Some(NOT_YET), "{replies:?}");
}

/// As long as there are servers enough, nobody needs another's, and whoever comes back finds its own values.
#[test]
fn a_client_finds_its_values_while_the_pool_has_servers_for_all() {
    let carpool = start(4);
    read_some(&carpool);
    let mut clients: Vec<_> = (0..4).map(|_| carpool.client()).collect();
    // At first they take turns on what servers there are, which has the pool log more in.
    eventually("there is a server for each", || {
        clients.iter_mut().for_each(|client| drop(client.query("insert into t (x) values ('mine')")));
        let pids: HashSet<_> = clients.iter_mut().map(backend).collect();
        (pids.len() == 4).then_some(())
    });
    let insert = "insert into t (x) values ('mine') returning id";
    let ids: Vec<_> = clients.iter_mut().map(|client| client.value(insert)).collect();
    clients[1..].iter_mut().for_each(|client| drop(client.query("select 1")));
    assert_eq!(clients[0].value("select lastval()"), ids[0]);
}

/// A client that is gone has no claim to the servers that it leaves behind: others have no need of more.
#[test]
fn one_who_has_left_keeps_no_server_from_others() {
    let carpool = start(4);
    read_some(&carpool);
    for _ in 0..20 {
        carpool.client().query("insert into t (x) values ('gone')");
        left(&carpool);
    }
    assert_eq!(Postgres::shared().backends(&carpool.database), 1);
}

/// From then on it matters to whom values belong.
fn read_some(carpool: &Carpool) {
    carpool.client().query("begin; select nextval('s'); select lastval(); rollback");
    left(carpool);
}

/// Waits until no client is there.
fn left(carpool: &Carpool) {
    eventually("all have left", || (!carpool.console("show clients").contains(&carpool.database)).then_some(()));
}
