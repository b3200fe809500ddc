//! Session mode, statement mode, and replication connections.

use crate::harness::raw::{V3_0, bind, execute, message, parse, query, startup, sync};
use crate::harness::{Carpool, Message, Postgres, Raw, Setup, eventually};

fn code(replies: &[Message]) -> Option<String> {
    replies.iter().find(|m| m.tag == b'E').and_then(|m| m.field('C'))
}

fn session_mode(size: u32) -> Carpool {
    Carpool::start(&Setup::default().database(&format!("pool_size = {size}\npool_mode = \"session\"")))
}

#[test]
fn a_session_keeps_its_server_and_what_it_left_there() {
    let carpool = session_mode(2);
    let (mut one, mut two) = (carpool.client(), carpool.client());
    let pid = one.value("select pg_backend_pid()");
    assert_ne!(two.value("select pg_backend_pid()"), pid);
    one.query("set statement_timeout = '77s'; create temp table mine as select 1 as a; listen mine");
    one.query("prepare p as select 'prepared'; select pg_advisory_lock(1)");
    one.query("declare c cursor with hold for select 'held'");
    one.send_all(&[parse("s", "select 'named'"), sync()]);
    one.until_ready();
    two.query("select 1");
    assert_eq!(one.value("show statement_timeout"), "77s");
    assert_eq!(one.value("select a from mine"), "1");
    assert_eq!(one.value("execute p"), "prepared");
    assert_eq!(one.value("fetch c"), "held");
    one.send_all(&[bind("", "s", &[]), execute("", 0), sync()]);
    assert_eq!(code(&one.until_ready()), None);
    two.query("notify mine, 'payload'");
    // It comes when PostgreSQL has it, asked or not.
    let notification = one.read();
    assert_eq!((notification.tag, &notification.body[4..]), (b'A', &b"mine\0payload\0"[..]));
    assert_eq!(one.value("select pg_backend_pid()"), pid);
}

#[test]
fn the_next_session_finds_a_clean_server() {
    let carpool = session_mode(1);
    let mut one = carpool.client();
    one.query("set statement_timeout = '77s'; set timezone = 'CET'; create temp table mine as select 1 as a");
    one.query("prepare p as select 1; select pg_advisory_lock(1); listen mine");
    one.query("set role app");
    one.send_all(&[parse("s", "select 'named'"), sync()]);
    one.until_ready();
    let pid = one.value("select pg_backend_pid()");
    let mut two = carpool.client();
    two.send(&query("show statement_timeout"));
    one.send(&message('X', b""));
    assert_eq!(two.until_ready()[1].columns()[0].as_deref(), Some("0"));
    assert_eq!(two.value("select pg_backend_pid()"), pid, "it is the same server");
    assert_eq!(two.value("show timezone"), "Etc/UTC");
    assert_eq!(two.value("select current_user"), "postgres");
    assert_eq!(two.error("select * from mine"), "42P01");
    assert_eq!(two.error("execute p"), "26000");
    assert_eq!(two.value("select count(*) from pg_listening_channels()"), "0");
    assert_eq!(two.value("select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"), "0");
    two.send_all(&[bind("", "s", &[]), execute("", 0), sync()]);
    assert_eq!(code(&two.until_ready()).as_deref(), Some("26000"));
}

#[test]
fn a_session_that_vanishes_in_a_transaction_is_rolled_back() {
    let carpool = session_mode(1);
    Postgres::shared().sql(&carpool.database, "create table t (a int)");
    let mut one = carpool.client();
    one.query("begin; insert into t values (1)");
    drop(one);
    assert_eq!(carpool.client().value("select count(*) from t"), "0");
    let mut one = carpool.client();
    one.query("begin");
    one.send(&query("select pg_sleep(600)"));
    drop(one);
    assert_eq!(carpool.client().value("select 'well'"), "well");
}

#[test]
fn queries_of_an_idle_session_can_be_cancelled() {
    let carpool = session_mode(1);
    let mut one = carpool.client();
    for _ in 0..3 {
        one.value("select 1");
        one.send(&query("select pg_sleep(600)"));
        let sql = format!(
            "select count(*) from pg_stat_activity where datname = '{}' and query like '%pg_sleep%' and state = 'active'",
            carpool.database
        );
        eventually("it runs", || (Postgres::shared().sql("postgres", &sql) == "1").then_some(()));
        Raw::cancel(carpool.port, &one.key);
        assert_eq!(code(&one.until_ready()).as_deref(), Some("57014"));
    }
}

#[test]
fn the_mode_of_a_user_comes_before_the_databases() {
    let setup = Setup::pooler("pool_mode = \"transaction\"").database("pool_size = 2\npool_mode = \"statement\"");
    let carpool = Carpool::start(&setup.sections("[users.sessions]\npool_mode = \"session\"\n"));
    Postgres::shared().sql("postgres", "create role sessions login");
    let mut session = Raw::login(carpool.port, "sessions", &carpool.database);
    session.query("set statement_timeout = '77s'");
    assert_eq!(session.value("show statement_timeout"), "77s");
    let mut client = carpool.client();
    client.send(&query("begin"));
    assert_eq!(code(&client.until_closed()).as_deref(), Some("08P01"));
}

#[test]
fn statement_mode_refuses_transaction_blocks() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1\npool_mode = \"statement\""));
    let mut fine = carpool.client();
    assert_eq!(fine.value("select 1; select 2"), "1");
    fine.send_all(&[parse("", "select 3"), bind("", "", &[]), execute("", 0), sync()]);
    assert_eq!(code(&fine.until_ready()), None);
    for sql in ["begin", "start transaction", "select 1; begin; select 2", "/* x */ begin; insert into t values (1)"] {
        let mut client = carpool.client();
        Postgres::shared().sql(&carpool.database, "create table if not exists t (a int)");
        client.send(&query(sql));
        let last = client.until_closed().pop().expect("an error");
        assert_eq!(last.field('C').as_deref(), Some("08P01"), "{sql}");
        assert!(last.field('M').unwrap().contains("statement pooling"), "{last:?}");
        assert_eq!(fine.value("select count(*) from t"), "0", "{sql}: not rolled back");
    }
    let mut client = carpool.client();
    client.send_all(&[parse("", "begin"), bind("", "", &[]), execute("", 0), sync()]);
    assert_eq!(client.until_closed().pop().unwrap().field('C').as_deref(), Some("08P01"));
    assert_eq!(fine.value("select 'well'"), "well");
}

fn replication(carpool: &Carpool, mode: &str) -> Raw {
    let login = [("user", "postgres"), ("database", carpool.database.as_str()), ("replication", mode)];
    Raw::login_with(carpool.port, &login)
}

#[test]
fn replication_connections_pass_through() {
    let postgres = Postgres::own();
    let database = postgres.new_database();
    postgres.sql(&database, "create table t (a int)");
    let carpool = Carpool::before(&postgres, &database, &Setup::default().database("pool_size = 1"));
    let mut physical = replication(&carpool, "true");
    let replies = physical.query("IDENTIFY_SYSTEM");
    assert_eq!(replies[1].columns().len(), 4, "{replies:?}");
    assert!(physical.parameters.iter().any(|(name, _)| name == "server_version"));
    let mut logical = replication(&carpool, "database");
    assert_eq!(logical.value("select current_database()"), database);
    postgres.sql(&database, "create publication p for table t");
    let created = logical.query("CREATE_REPLICATION_SLOT slot TEMPORARY LOGICAL pgoutput");
    assert_eq!(code(&created), None, "{created:?}");
    logical.send(&query("START_REPLICATION SLOT slot LOGICAL 0/0 (proto_version '1', publication_names 'p')"));
    let started = logical.read();
    assert_eq!(started.tag, b'W', "{started:?}");
    // The pool's own server is free meanwhile.
    let mut client = carpool.client();
    client.query("insert into t values (4711)");
    let change = std::iter::repeat_with(|| logical.read()).find(|m| m.body.windows(4).any(|w| w == b"4711"));
    assert_eq!(change.unwrap().tag, b'd');
    // A cancel ends the stream, as it does on a connection of one's own.
    Raw::cancel(carpool.port, &logical.key);
    let end = std::iter::repeat_with(|| logical.read()).find(|m| m.tag == b'E').unwrap();
    assert_eq!(end.field('C').as_deref(), Some("57014"));
    let senders = "select count(*) from pg_stat_replication";
    drop((physical, logical));
    eventually("they are gone", || (postgres.sql("postgres", senders) == "0").then_some(()));
}

#[test]
fn what_is_no_replication_is_a_session_and_what_is_nonsense_is_refused() {
    let carpool = Carpool::start(&Setup::default());
    for mode in ["false", "off", "no", "0"] {
        let mut client = replication(&carpool, mode);
        assert_eq!(client.error("IDENTIFY_SYSTEM"), "42601", "{mode}");
    }
    for mode in ["on", "yes", "1"] {
        assert_eq!(replication(&carpool, mode).query("IDENTIFY_SYSTEM")[0].tag, b'T', "{mode}");
    }
    let mut raw = Raw::connect(carpool.port);
    raw.send(&startup(V3_0, &[("user", "postgres"), ("database", &carpool.database), ("replication", "nonsense")]));
    assert_eq!(raw.finish_login().unwrap().field('S').as_deref(), Some("FATAL"));
}

#[test]
fn startup_parameters_reach_replication_connections() {
    let carpool = Carpool::start(&Setup::default());
    let login = [
        ("user", "postgres"),
        ("database", carpool.database.as_str()),
        ("replication", "database"),
        ("application_name", "my_standby"),
        ("options", "-c statement_timeout=77s"),
    ];
    let mut client = Raw::login_with(carpool.port, &login);
    assert_eq!(client.value("show statement_timeout"), "77s");
    assert_eq!(client.value("show application_name"), "my_standby");
}
