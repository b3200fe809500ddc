//! Nothing that one client leaves on a server reaches another: the ways around a look at the query's text.

use crate::harness::raw::{bind, close, execute, message, parse, query, sync};
use crate::harness::{Carpool, Message, Postgres, Raw, Setup};

/// Two clients on the one server of a pool.
fn two_clients() -> (Carpool, Raw, Raw) {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1\nmax_pinned = 0"));
    let (one, other) = (carpool.client(), carpool.client());
    (carpool, one, other)
}

fn run(client: &mut Raw, messages: &[Vec<u8>]) -> Vec<Message> {
    client.send_all(messages);
    client.until_ready()
}

fn succeeds(replies: &[Message]) {
    assert!(replies.iter().all(|m| m.tag != b'E'), "{replies:?}");
}

#[test]
fn settings_stay_with_their_client() {
    let leaks = |sql: &&str| {
        let (_carpool, mut one, mut other) = two_clients();
        succeeds(&one.query(sql));
        other.value("show statement_timeout") != "0"
    };
    let leaking: Vec<_> = [
        "set statement_timeout = '77s'",
        "set session statement_timeout to '77s'",
        "select set_config('statement_timeout', '77s', false)",
        "select Set_Config('statement_timeout', '77s', false)",
        "select pg_catalog.\"set_config\"('statement_timeout', '77s', false)",
        "update pg_settings set setting = 77000 where name = 'statement_timeout'",
        "/* x */ set statement_timeout = '77s'",
        "begin; set statement_timeout = '77s'; commit",
        "select ';'; ; set statement_timeout = '77s'",
        "with x as (select set_config('statement_timeout', '77s', false)) select * from x",
        "explain analyze select set_config('statement_timeout', '77s', false)",
    ]
    .into_iter()
    .filter(leaks)
    .collect();
    assert!(leaking.is_empty(), "{leaking:#?}");
}

#[test]
fn settings_behind_a_long_text_stay_with_their_client() {
    let (_carpool, mut one, mut other) = two_clients();
    succeeds(&one.query(&format!("select length('{}'); set statement_timeout = '77s'", "x".repeat(100_000))));
    assert_eq!(other.value("show statement_timeout"), "0");
}

#[test]
fn settings_by_function_call_message_stay_with_their_client() {
    let (_carpool, mut one, mut other) = two_clients();
    let oid: u32 = one.value("select 'pg_catalog.set_config'::regproc::oid").parse().unwrap();
    let mut body = oid.to_be_bytes().to_vec();
    body.extend_from_slice(&[0, 1, 0, 0, 0, 3]);
    for argument in ["statement_timeout", "77s", "off"] {
        body.extend_from_slice(&u32::try_from(argument.len()).unwrap().to_be_bytes());
        body.extend_from_slice(argument.as_bytes());
    }
    body.extend_from_slice(&[0, 0]);
    succeeds(&run(&mut one, &[message('F', &body)]));
    assert_eq!(other.value("show statement_timeout"), "0");
}

#[test]
fn temporary_tables_stay_with_their_client() {
    let leaks = |sql: &&str| {
        let (_carpool, mut one, mut other) = two_clients();
        succeeds(&one.query(sql));
        other.query("select * from secrets").iter().any(|m| m.tag == b'D')
    };
    let leaking: Vec<_> = [
        "create temp table secrets as select 'secret'",
        "create Temporary table secrets as select 'secret'",
        "create tEmP table secrets as select 'secret'",
        "select 'secret' into temp secrets",
        "create table pg_temp.secrets as select 'secret'",
        "create table \"pg_temp\".secrets as select 'secret'",
        "select 'secret' into pg_temp.secrets",
        "create view pg_temp.secrets as select 'secret'::text",
        "set search_path = pg_temp; create table secrets as select 'secret'",
    ]
    .into_iter()
    .filter(leaks)
    .collect();
    assert!(leaking.is_empty(), "{leaking:#?}");
}

#[test]
fn locks_roles_channels_cursors_and_statements_stay_with_their_client() {
    let (_carpool, mut one, mut other) = two_clients();
    succeeds(&one.query("select pg_advisory_lock(5)"));
    assert_eq!(other.value(ADVISORY_LOCKS), "0");
    succeeds(&one.query("set role app"));
    assert_eq!(other.value("select current_user"), "postgres");
    succeeds(&one.query("set session authorization app"));
    assert_eq!(other.value("select session_user"), "postgres");
    succeeds(&one.query("listen secrets"));
    assert_eq!(other.value("select count(*) from pg_listening_channels()"), "0");
    succeeds(&one.query("declare secrets cursor with hold for select 'secret'"));
    assert_eq!(other.error("fetch 1 from secrets"), "34000");
    succeeds(&one.query("prepare secrets as select 'secret'"));
    assert_eq!(other.error("execute secrets"), "26000");
    succeeds(&run(&mut one, &[parse("secrets", "select 'secret'"), sync()]));
    assert_eq!(other.error("execute secrets"), "26000");
    assert_eq!(run(&mut other, &[bind("", "secrets", &[]), sync()])[0].field('C').as_deref(), Some("26000"));
    assert_eq!(run(&mut other, &[close('S', "secrets"), sync()]).len(), 2);
    succeeds(&run(&mut one, &[bind("", "secrets", &[]), execute("", 0), sync()]));
}

const ADVISORY_LOCKS: &str = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()";

#[test]
fn advisory_locks_however_spelled_stay_with_their_client() {
    let (_carpool, mut one, mut other) = two_clients();
    succeeds(&one.query("select Pg_Advisory_Lock(5)"));
    assert_eq!(other.value(ADVISORY_LOCKS), "0");
}

#[test]
fn the_server_names_of_statements_are_of_no_use_to_clients() {
    let (_carpool, mut one, mut other) = two_clients();
    succeeds(&run(&mut one, &[parse("secrets", "select 'secret'"), sync()]));
    for number in 0..200 {
        let name = format!("carpool_{number}");
        let replies = run(&mut other, &[bind("", &name, &[]), execute("", 0), sync()]);
        assert_eq!(replies[0].field('C').as_deref(), Some("26000"), "{name}: {replies:?}");
    }
    succeeds(&run(&mut one, &[bind("", "secrets", &[]), execute("", 0), sync()]));
}

/// Sharing a statement by its text must not share one client's reading of it: literals are read when they are
/// parsed, under the settings then in force, which a SET sent just ahead of the Parse has changed by then.
#[test]
fn a_setting_sent_ahead_of_a_parse_is_not_read_into_others_statements() {
    let (_carpool, mut one, mut other) = two_clients();
    let text = "select (date '01/02/2024')::text";
    succeeds(&other.query("set datestyle = 'ISO, MDY'"));
    one.send_all(&[query("set datestyle = 'ISO, DMY'"), parse("d", text), sync()]);
    one.until_ready();
    one.until_ready();
    let replies = run(&mut other, &[parse("d", text), bind("", "d", &[]), execute("", 0), sync()]);
    let row = replies.iter().find(|m| m.tag == b'D').unwrap_or_else(|| panic!("{replies:?}"));
    assert_eq!(row.columns()[0].as_deref(), Some("2024-01-02"), "read as the other client's dates are");
}

/// As above, where the statement is prepared anew on another server after its client has changed a setting.
#[test]
fn a_statement_prepared_anew_under_other_settings_is_not_shared() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1\nmax_pinned = 0"));
    let (mut one, mut other) = (carpool.client(), carpool.client());
    let text = "select (date '01/02/2024')::text";
    let value = |replies: &[Message]| replies.iter().find(|m| m.tag == b'D').unwrap().columns()[0].clone();
    let terminate = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()";
    succeeds(&run(&mut one, &[parse("d", text), sync()]));
    succeeds(&one.query("set datestyle = 'ISO, DMY'"));
    Postgres::shared().sql("postgres", &terminate.replace("current_database()", &format!("'{}'", carpool.database)));
    crate::harness::eventually("the server ends", || {
        (Postgres::shared().backends(&carpool.database) == 0).then_some(())
    });
    succeeds(&run(&mut one, &[bind("", "d", &[]), execute("", 0), sync()]));
    let replies = run(&mut other, &[parse("d", text), bind("", "d", &[]), execute("", 0), sync()]);
    assert_eq!(value(&replies).as_deref(), Some("2024-01-02"), "read as the other client's dates are");
}

/// The unnamed statement is dropped by any simple query on the server, Carpool's own ones too.
#[test]
fn the_unnamed_statement_survives_a_roll_back_for_another() {
    let (carpool, mut one, other) = two_clients();
    let mut other = other;
    succeeds(&run(&mut one, &[parse("", "select 'kept'"), sync()]));
    // The same text, so that the server isn't asked to parse again; then the client goes, its transaction open.
    other.query("begin");
    succeeds(&run(&mut other, &[parse("", "select 'kept'"), sync()]));
    drop(other);
    let replies = run(&mut one, &[bind("", "", &[]), execute("", 0), sync()]);
    succeeds(&replies);
    drop(carpool);
}

#[test]
fn the_unnamed_statement_survives_the_login_of_another() {
    let (carpool, mut one, _other) = two_clients();
    succeeds(&run(&mut one, &[parse("", "select 'kept'"), sync()]));
    // Startup parameters that come to the settings that the server has: it is asked, and nothing changes.
    let login = [("user", "postgres"), ("database", &carpool.database), ("datestyle", "iso,mdy")];
    drop(Raw::login_with(carpool.port, &login));
    succeeds(&run(&mut one, &[bind("", "", &[]), execute("", 0), sync()]));
}

/// A value given at startup is replayed whatever the encoding that the server was left in.
#[test]
fn replayed_values_are_not_read_in_another_clients_encoding() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1\nmax_pinned = 0"));
    let with = [("user", "postgres"), ("database", carpool.database.as_str()), ("options", "-c my.name=größe")];
    let mut one = Raw::login_with(carpool.port, &with);
    let mut other = carpool.client();
    assert_eq!(one.value("show my.name"), "größe");
    succeeds(&other.query("set client_encoding = 'latin1'"));
    assert_eq!(one.value("show my.name"), "größe");
}

fn check_reset(resets: &[&str]) {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1\nmax_pinned = 0"));
    let with = [
        ("user", "postgres"),
        ("database", carpool.database.as_str()),
        ("TimeZone", "Asia/Tokyo"),
        ("application_name", "mine"),
        ("options", "-c statement_timeout=77s -c my.own=start"),
    ];
    for (reset, extended) in resets.iter().flat_map(|reset| [(reset, false), (reset, true)]) {
        let how = format!("{reset}, extended: {extended}");
        let mut client = Raw::login_with(carpool.port, &with);
        for sql in ["set timezone = 'CET'", "set work_mem = '5MB'", "set my.other = 'x'"] {
            succeeds(&client.query(sql));
        }
        let all = reset.ends_with("all");
        let messages = [parse("", reset), bind("", "", &[]), execute("", 0), sync()];
        succeeds(&if extended { run(&mut client, &messages) } else { client.query(reset) });
        assert_eq!(client.value("show timezone"), "Asia/Tokyo", "{how}");
        assert_eq!(client.value("show application_name"), "mine", "{how}");
        assert_eq!(client.value("show statement_timeout"), "77s", "{how}");
        assert_eq!(client.value("show my.own"), "start", "{how}");
        assert_eq!(client.value("show my.other"), if all { "" } else { "x" }, "{how}");
        assert_eq!(client.value("show work_mem"), if all { "4MB" } else { "5MB" }, "{how}");
    }
}

/// RESET goes back to what the client started with, as on a connection of its own.
#[test]
fn reset_all_goes_back_to_the_startup_parameters() {
    check_reset(&["reset all", "discard all"]);
}

#[test]
fn reset_of_one_goes_back_to_its_startup_parameter() {
    check_reset(&["reset timezone", "set timezone to default", "set time zone local"]);
}

/// The role that a client starts with comes back with DISCARD ALL and RESET SESSION AUTHORIZATION.
#[test]
fn the_role_goes_back_to_that_of_the_startup() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1\nmax_pinned = 0"));
    let with =
        [("user", "postgres"), ("database", carpool.database.as_str()), ("options", "-c role=app -c work_mem=9MB")];
    let mut client = Raw::login_with(carpool.port, &with);
    let mut other = carpool.client();
    let user = |client: &mut Raw| client.value("select session_user || ' as ' || current_user");
    for (sql, want) in [
        ("select 1", "postgres as app"),
        ("discard all", "postgres as app"),
        ("reset all", "postgres as app"),
        ("set role none", "postgres as postgres"),
        ("reset all", "postgres as postgres"),
        ("reset role", "postgres as app"),
        ("set role none", "postgres as postgres"),
        ("reset session authorization", "postgres as app"),
        ("set role none", "postgres as postgres"),
        ("set session authorization default", "postgres as app"),
        ("set session authorization md5_user", "md5_user as md5_user"),
        ("reset role", "md5_user as md5_user"),
        ("reset session authorization", "postgres as app"),
        ("set role none", "postgres as postgres"),
        ("discard all", "postgres as app"),
    ] {
        succeeds(&client.query(sql));
        assert_eq!(user(&mut client), want, "{sql}");
        assert_eq!(client.value("show work_mem"), "9MB", "{sql}");
        assert_eq!(user(&mut other), "postgres as postgres", "{sql}");
    }
}

/// What a session can't change isn't its own: another server needn't be told.
#[test]
fn parameters_that_could_not_be_set_are_nobodys() {
    let carpool = Carpool::start(&Setup::pooler("server_lifetime = 0.001").database("pool_size = 1"));
    let mut client = carpool.client();
    for _ in 0..2 {
        for sql in ["set max_connections = 5", "reset max_connections", "select set_config('wal_level', 'x', false)"] {
            client.error(sql);
        }
        assert_eq!(client.value("select 1"), "1");
    }
    let mut app = Raw::login(carpool.port, "app", &carpool.database);
    app.error("set log_statement = 'all'");
    succeeds(&app.query("set work_mem = '5MB'"));
    app.error("begin; set work_mem = '6MB'; select 1/0");
    succeeds(&app.query("rollback"));
    assert_eq!(app.value("show work_mem"), "5MB");
}

/// COPY data is not held back by what precedes it in its own query text.
#[test]
fn a_copy_behind_deallocate_all_goes_on() {
    let (carpool, mut one, _other) = two_clients();
    Postgres::shared().sql(&carpool.database, "create table copied (a int)");
    one.send(&query("deallocate all; copy copied from stdin"));
    loop {
        if one.read().tag == b'G' {
            break;
        }
    }
    one.send_all(&[message('d', b"1\n"), message('c', b"")]);
    one.until_ready();
    assert_eq!(one.value("select count(*) from copied"), "1");
}
