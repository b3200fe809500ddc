//! What depends on the server's process: clients that look at it get one of their own, and its number holds.

use crate::harness::{Carpool, Message, Postgres, Raw, Setup, eventually};

fn succeeds(replies: &[Message]) {
    assert!(replies.iter().all(|m| m.tag != b'E'), "{replies:?}");
}

fn pid(client: &mut Raw) -> String {
    client.value("select pg_backend_pid()")
}

/// Whether PostgreSQL still has the process.
fn is_there(pid: &str) -> bool {
    Postgres::shared().sql("postgres", &format!("select count(*) from pg_stat_activity where pid = {pid}")) == "1"
}

fn gone(pid: &str) {
    eventually("the process has ended", || (!is_there(pid)).then_some(()));
}

/// A worn server is replaced, within the pool's size; what its client has set and prepared goes on.
#[test]
fn who_looks_at_its_own_process_gets_a_new_one() {
    for text in [
        "select pg_stat_force_next_flush()",
        "set stats_fetch_consistency = none",
        "set search_path = pg_temp",
        "set plpgsql.no_such_parameter = on",
    ] {
        let carpool = Carpool::start(&Setup::default().database("pool_size = 2\nmax_pinned = 1"));
        let (mut one, mut other) = (carpool.client(), carpool.client());
        // Held by `one`, so that the other has to be replaced.
        succeeds(&one.query("begin"));
        let worn = pid(&mut other);
        succeeds(&one.query("commit"));
        let mut third = carpool.client();
        succeeds(&third.query("set work_mem = '3MB'"));
        succeeds(&other.query("do $$ begin end $$"));
        let before = [pid(&mut other), pid(&mut one), worn];
        succeeds(&third.query(text));
        let fresh = pid(&mut third);
        assert!(!before.contains(&fresh), "{text}: {fresh} is one of {before:?}");
        assert_eq!(third.value("show work_mem"), "3MB", "{text}");
        for _ in 0..3 {
            assert_ne!(pid(&mut one), fresh, "{text}");
            assert_eq!(pid(&mut third), fresh, "{text}");
        }
        assert!(Postgres::shared().backends(&carpool.database) <= 2, "{text}");
        assert!(carpool.console("SHOW PINS").contains("server process"), "{text}");
        drop(third);
        gone(&fresh);
        succeeds(&one.query("begin"));
        pid(&mut other);
    }
}

/// In session mode only where the session has run nothing yet.
#[test]
fn a_session_that_has_begun_keeps_its_server() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1\npool_mode = \"session\""));
    let worn = pid(&mut carpool.client());
    let mut one = carpool.client();
    succeeds(&one.query("set work_mem = '3MB'; reset work_mem"));
    drop(one);
    let mut two = carpool.client();
    succeeds(&two.query("select pg_stat_force_next_flush()"));
    let fresh = pid(&mut two);
    assert_ne!(fresh, worn);
    succeeds(&two.query("select pg_stat_force_next_flush()"));
    assert_eq!(pid(&mut two), fresh);
    drop(two);
    let mut three = carpool.client();
    let first = pid(&mut three);
    drop(three);
    let mut four = carpool.client();
    assert_eq!(pid(&mut four), first);
    succeeds(&four.query("select pg_stat_force_next_flush()"));
    assert_eq!(pid(&mut four), first, "it has run something there");
}

/// Statistics that a session has forced out are there, whatever other servers keep back.
#[test]
fn a_session_finds_its_own_statistics() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 3"));
    let (mut one, mut other) = (carpool.client(), carpool.client());
    succeeds(&one.query("create table counted (a int)"));
    succeeds(&one.query("set stats_fetch_consistency = none"));
    for round in 1..4 {
        succeeds(&one.query("insert into counted values (1)"));
        succeeds(&other.query("select 1"));
        succeeds(&one.query("select pg_stat_force_next_flush()"));
        let counted = one.value("select n_tup_ins from pg_stat_user_tables where relname = 'counted'");
        assert_eq!(counted, round.to_string());
    }
}

/// No reset removes these, so nobody else may get the server.
#[test]
fn what_no_reset_removes_goes_with_its_server() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    for text in ["load 'plpgsql'", "select setseed(0.5)", "set seed to 0.5"] {
        let mut one = carpool.client();
        succeeds(&one.query(text));
        let kept = pid(&mut one);
        succeeds(&one.query("discard all"));
        assert_eq!(pid(&mut one), kept, "{text}");
        drop(one);
        let mut other = carpool.client();
        assert_ne!(pid(&mut other), kept, "{text}");
    }
}

/// Tables made under such a search_path are temporary, though no text says so.
#[test]
fn a_search_path_that_begins_with_pg_temp_pins() {
    for text in ["set search_path = pg_temp, public", "select set_config('search_path', 'pg_temp, public', false)"] {
        let carpool = Carpool::start(&Setup::default().database("pool_size = 2"));
        let (mut one, mut other) = (carpool.client(), carpool.client());
        succeeds(&one.query(text));
        succeeds(&one.query("create table mine (a int)"));
        succeeds(&one.query("begin; insert into mine values (1); commit"));
        for _ in 0..3 {
            assert_eq!(other.error("select * from mine"), "42P01", "{text}");
            assert_eq!(one.value("select a from mine"), "1", "{text}");
        }
    }
}

#[test]
fn a_process_number_that_was_written_down_holds() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 3"));
    let (mut one, mut other, mut third) = (carpool.client(), carpool.client(), carpool.client());
    succeeds(&one.query("create table pids (pid int)"));
    succeeds(&one.query("insert into pids select pg_backend_pid()"));
    let written = other.value("select pid from pids");
    for _ in 0..3 {
        succeeds(&third.query("begin"));
        assert_ne!(pid(&mut other), written);
        assert_eq!(pid(&mut one), written);
        succeeds(&third.query("commit"));
    }
    assert!(carpool.console("SHOW PINS").contains("process number"));
    one.send(&crate::harness::raw::query("select pg_sleep(60)"));
    eventually("it runs", || {
        let state = format!("select 1 from pg_stat_activity where pid = {written} and state = 'active'");
        (!Postgres::shared().sql("postgres", &state).is_empty()).then_some(())
    });
    assert_eq!(other.value("select pg_cancel_backend(pid) from pids"), "t");
    let replies = one.until_ready();
    assert!(replies.iter().any(|m| m.tag == b'E' && m.field('C').as_deref() == Some("57014")), "{replies:?}");
    succeeds(&one.query("discard all"));
    eventually("it isn't kept any more", || (!carpool.console("SHOW PINS").contains("process number")).then_some(()));
}

/// A server that can't be replaced is an error, and its slot is free.
#[test]
fn a_new_server_that_is_refused() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 2\nmax_pinned = 1"));
    let (mut one, mut other) = (carpool.client(), carpool.client());
    pid(&mut one);
    pid(&mut other);
    let postgres = Postgres::shared();
    postgres.sql("postgres", &format!("alter database {} allow_connections false", carpool.database));
    one.send(&crate::harness::raw::query("select pg_stat_force_next_flush()"));
    let error = one.until_closed().remove(0);
    assert!(error.field('M').unwrap().contains("not currently accepting connections"), "{error:?}");
    postgres.sql("postgres", &format!("alter database {} allow_connections true", carpool.database));
    for _ in 0..2 {
        let mut next = carpool.client();
        succeeds(&next.query("begin"));
        succeeds(&next.query("select pg_stat_force_next_flush()"));
    }
    assert_eq!(other.value("select 1"), "1");
}
