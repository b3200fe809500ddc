//! Carpool's own question about the session, asked by a prepared statement from the second time on.

use crate::harness::raw::{bind, execute, parse, sync};
use crate::harness::{Carpool, Setup};

/// With a view that shows all statements of the server, which no text names, and a trigger that changes a setting.
fn start(pooler: &str) -> Carpool {
    let carpool = Carpool::start(&Setup::pooler(pooler).database("pool_size = 1\nstrict_session_state = true"));
    let mut client = carpool.client();
    for sql in [
        "create view seen as select * from pg_prepared_statements where statement like '/* carpool */%'",
        "create table t (i int)",
        "create function f() returns trigger language plpgsql as \
         $$ begin perform set_config('work_mem', new.i || 'kB', false); return new; end $$",
        "create trigger f before insert on t for each row execute function f()",
    ] {
        client.query(sql);
    }
    carpool
}

const PREPARED: &str = "select count(*) from seen";

#[test]
fn it_is_prepared_once() {
    let carpool = start("");
    let (mut client, mut other) = (carpool.client(), carpool.client());
    for _ in 0..4 {
        client.query("select 1");
        other.query("select 1");
    }
    assert_eq!(client.value(PREPARED), "1");
    // Others' settings, and the statements of clients, don't matter.
    other.query("set work_mem = '2MB'; set search_path = pg_catalog; set standard_conforming_strings = off");
    other.send_all(&[parse("mine", "select 'mine'"), sync()]);
    other.until_ready();
    for _ in 0..3 {
        other.send_all(&[bind("", "mine", &[]), execute("", 0), sync()]);
        assert_eq!(other.until_ready()[1].columns(), [Some("mine".to_owned())]);
        assert_eq!(other.value("show work_mem"), "2MB");
        assert_eq!(client.value("show work_mem"), "4MB");
    }
    assert_eq!(client.value(PREPARED), "1");
    assert_eq!(carpool.console("SHOW PINS"), "");
}

#[test]
fn what_it_finds_is_the_clients() {
    let carpool = start("");
    let (mut client, mut other) = (carpool.client(), carpool.client());
    for size in 100..110 {
        client.query(&format!("insert into t values ({size})"));
        assert_eq!(other.value("show work_mem"), "4MB");
        assert_eq!(client.value("show work_mem"), format!("{size}kB"));
        if size % 3 == 0 {
            client.query("create temp table mine (i int)");
            assert!(carpool.console("SHOW PINS").contains("temporary object"));
            client.query("drop table mine");
            assert_eq!(carpool.console("SHOW PINS"), "");
        }
    }
    assert_eq!(client.value(PREPARED), "1");
}

#[test]
fn one_that_is_gone_is_asked_all_the_same() {
    let carpool = start("");
    let (mut client, mut other) = (carpool.client(), carpool.client());
    for (at, removes) in ["deallocate all", "discard all", "do $$ begin execute 'deallocate all'; end $$"]
        .into_iter()
        .cycle()
        .take(9)
        .enumerate()
    {
        for _ in 0..3 {
            client.query("select 1");
        }
        assert_eq!(client.value(PREPARED), "1", "{removes}");
        assert_eq!(client.query(removes).iter().filter(|m| m.tag == b'E').count(), 0);
        let size = 100 + at;
        client.query(&format!("insert into t values ({size})"));
        assert_eq!(other.value("show work_mem"), "4MB", "{removes}");
        assert_eq!(client.value("show work_mem"), format!("{size}kB"), "{removes}");
        assert_eq!(carpool.console("SHOW PINS"), "", "{removes}");
    }
}

/// Within the transaction that is asked about.
#[test]
fn one_that_the_transaction_has_removed() {
    let carpool = start("");
    let (mut client, mut other) = (carpool.client(), carpool.client());
    for size in 100..105 {
        for _ in 0..3 {
            client.query("select 1");
        }
        client.query(&format!(
            "begin; insert into t values ({size}); do $$ begin execute 'deallocate all'; end $$; commit"
        ));
        assert_eq!(other.value("show work_mem"), "4MB");
        assert_eq!(client.value("show work_mem"), format!("{size}kB"));
        assert_eq!(carpool.console("SHOW PINS"), "");
    }
}

#[test]
fn it_takes_nobodys_place() {
    let carpool = start("max_prepared_statements = 1");
    let mut client = carpool.client();
    client.send_all(&[parse("mine", "select 'mine'"), sync()]);
    client.until_ready();
    for _ in 0..4 {
        client.query("select 1");
        client.send_all(&[bind("", "mine", &[]), execute("", 0), sync()]);
        assert_eq!(client.until_ready()[1].columns(), [Some("mine".to_owned())]);
    }
    assert_eq!(client.value(PREPARED), "0");
}
