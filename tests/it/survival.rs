//! Sessions whose server is lost: they go on where no more than the request under way is lost with it.

use crate::harness::raw::{Message, bind, execute, flush, parse, query, sync, tags};
use crate::harness::{Carpool, Postgres, Raw, Setup, eventually};

/// The error among the replies: severity and SQLSTATE.
fn error(replies: &[Message]) -> (String, String) {
    let error = replies.iter().find(|m| m.tag == b'E').unwrap_or_else(|| panic!("no error in {replies:?}"));
    assert_eq!(error.field('S'), error.field('V'));
    (error.field('S').unwrap(), error.field('C').unwrap())
}

fn terminated(severity: &str) -> (String, String) {
    (severity.into(), "57P01".into())
}

/// Ends every server of Carpool's that is at `state`.
fn terminate(carpool: &Carpool, state: &str) {
    let sql = format!(
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity \
         where datname = '{}' and application_name = 'one' and state = '{state}'",
        carpool.database
    );
    let postgres = Postgres::shared();
    eventually("there is one to end", || postgres.sql("postgres", &sql).contains('t').then_some(()));
}

fn one(carpool: &Carpool) -> Raw {
    let parameters = [("user", "postgres"), ("database", &carpool.database), ("application_name", "one")];
    Raw::login_with(carpool.port, &parameters)
}

#[test]
fn a_query_fails_and_its_session_goes_on() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let mut client = one(&carpool);
    client.query("set time zone 'Asia/Tokyo'");
    client.send_all(&[parse("kept", "select current_setting('timezone')"), sync()]);
    assert_eq!(tags(&client.until_ready()), "1Z");
    client.send(&query("select pg_sleep(600)"));
    terminate(&carpool, "active");
    let replies = client.until_ready();
    assert_eq!(error(&replies), terminated("ERROR"), "{replies:?}");
    assert_eq!(replies.last().unwrap().body, b"I");
    // All that was the session's is there.
    assert_eq!(client.value("show time zone"), "Asia/Tokyo");
    client.send_all(&[bind("", "kept", &[]), execute("", 0), sync()]);
    assert_eq!(client.until_ready()[1].columns(), [Some("Asia/Tokyo".to_owned())]);
    // And nothing is left of the query, to be cancelled or to hold the place of another.
    assert_eq!(
        carpool.client().value(
            "select count(*) from pg_stat_activity where datname = current_database() and query like '%sleep(600)'"
        ),
        "0"
    );
    carpool.logs("server connection lost; the client goes on with another");
}

/// The one server is killed, and says nothing: PostgreSQL ends the others, and starts anew.
#[test]
fn a_crash_ends_no_session_that_had_nothing_open() {
    let postgres = Postgres::own();
    let database = postgres.new_database();
    let carpool =
        Carpool::before(&postgres, &database, &Setup::pooler("server_login_retry = 0.2").database("pool_size = 3"));
    let mut clients: Vec<_> = (0..3).map(|_| carpool.client()).collect();
    let mut pids = Vec::new();
    for client in &mut clients {
        client.send(&query("select pg_backend_pid(), pg_sleep(600)"));
    }
    let sql = format!("select pid from pg_stat_activity where datname = '{database}' and query like '%pg_sleep%'");
    eventually("they run", || {
        pids = postgres.sql("postgres", &sql).lines().map(str::to_owned).collect();
        (pids.len() == 3).then_some(())
    });
    assert!(std::process::Command::new("kill").args(["-s", "KILL", &pids[0]]).status().unwrap().success());
    for client in &mut clients {
        // Newer versions say nothing that would end a session, but warn.
        let (severity, code) = error(&client.until_ready());
        assert!(severity == "ERROR" && ["08006", "57P02"].contains(&&*code), "{severity} {code}");
    }
    for client in &mut clients {
        assert_eq!(client.value("select 'well'"), "well");
    }
}

#[test]
fn requests_of_the_extended_protocol_fail_up_to_their_sync() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let mut client = one(&carpool);
    let sleep = [bind("", "kept", &[]), execute("", 0)];
    client.send_all(&[&[parse("kept", "select pg_sleep(600)")], &sleep[..], &[sync()]].concat());
    terminate(&carpool, "active");
    let replies = client.until_ready();
    assert!(tags(&replies).ends_with("EZ"), "{replies:?}");
    assert_eq!(error(&replies), terminated("ERROR"));
    // The statement is there, as after any error in running it. Without Sync the rest is skipped until it comes.
    client.send_all(&[&[parse("", "select 1")], &sleep[..], &[flush()]].concat());
    terminate(&carpool, "active");
    let mut replies = Vec::new();
    while replies.last().is_none_or(|m: &Message| m.tag != b'E') {
        replies.push(client.read());
    }
    assert_eq!(error(&replies), terminated("ERROR"));
    client.send_all(&[parse("skipped", "select 1"), bind("", "skipped", &[]), execute("", 0), sync()]);
    assert_eq!(tags(&client.until_ready()), "Z");
    client.send_all(&[bind("", "skipped", &[]), sync()]);
    assert_eq!(error(&client.until_ready()).1, "26000");
    assert_eq!(client.value("select 'well'"), "well");
}

/// What Carpool has sent in front of the client's request is no more than that.
#[test]
fn a_replay_in_front_is_not_in_the_way() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let (mut client, mut other) = (one(&carpool), one(&carpool));
    client.query("set time zone 'Asia/Tokyo'");
    for _ in 0..5 {
        assert_eq!(other.value("show time zone"), "Etc/UTC");
        client.send_all(&[parse("", "select pg_sleep(600)"), bind("", "", &[]), execute("", 0), sync()]);
        terminate(&carpool, "active");
        assert_eq!(error(&client.until_ready()), terminated("ERROR"));
    }
    assert_eq!(client.value("show time zone"), "Asia/Tokyo");
}

#[test]
fn rows_that_came_are_kept() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let mut client = one(&carpool);
    client.send(&query(
        "copy (select n from generate_series(1, 3000) n union all select 1 from pg_sleep(600)) to stdout",
    ));
    while client.read().tag != b'd' {}
    terminate(&carpool, "active");
    let replies = client.until_ready();
    assert_eq!(error(&replies), terminated("ERROR"), "{:?}", &replies[replies.len() - 2..]);
    assert!(replies[..replies.len() - 2].iter().all(|m| m.tag == b'd'));
    assert_eq!(client.value("select 'well'"), "well");
}

/// Going on would be wrong.
#[test]
fn those_who_have_lost_more_are_told_so_and_disconnected() {
    /// What was lost, what ran before, what was under way, and the state that PostgreSQL shows.
    type Lost<'a> = (&'a str, &'a [&'a str], Vec<Vec<u8>>, &'a str);
    let lost: [Lost<'_>; 7] = [
        ("a transaction", &["begin"], vec![], "idle in transaction"),
        ("a transaction at work", &["begin"], vec![query("select pg_sleep(600)")], "active"),
        ("a failed transaction", &["begin", "select 1/0"], vec![], "idle in transaction (aborted)"),
        ("a temporary table", &["create temp table t (i int)"], vec![query("select pg_sleep(600)")], "active"),
        ("a lock", &["select pg_advisory_lock(1)"], vec![query("select pg_sleep(600)")], "active"),
        ("what was sent ahead", &[], vec![query("select pg_sleep(600)"), query("select 1")], "active"),
        ("a copy", &["create table if not exists copied (i int)"], vec![query("copy copied from stdin")], "active"),
    ];
    let carpool = Carpool::start(&Setup::default().database("pool_size = 2"));
    for (what, before, under_way, state) in lost {
        let mut client = one(&carpool);
        for sql in before {
            client.query(sql);
        }
        client.send_all(&under_way);
        terminate(&carpool, state);
        assert_eq!(error(&client.until_closed()), terminated("FATAL"), "{what}");
    }
    let mut client = one(&carpool);
    assert_eq!(client.value("select 'well'"), "well");
}

/// PostgreSQL ends a session for what its client does, or doesn't do.
#[test]
fn what_a_session_is_ended_for_ends_it() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    carpool.client().query("create table copied (i int)");
    let mut client = one(&carpool);
    client.send(&query("copy copied from stdin"));
    assert_eq!(client.read().tag, b'G');
    client.send_all(&[query("select 1"), query("select 2")]);
    let replies = client.until_closed();
    assert_eq!(error(&replies[replies.len() - 1..]), ("FATAL".into(), "08P01".into()), "{replies:?}");
    assert_eq!(one(&carpool).value("select 'well'"), "well");
}

#[test]
fn in_session_mode_a_session_ends_with_its_server() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1\npool_mode = \"session\""));
    let mut client = one(&carpool);
    client.send(&query("select pg_sleep(600)"));
    terminate(&carpool, "active");
    assert_eq!(error(&client.until_closed()), terminated("FATAL"));
}

/// As on a connection of its own; nobody else has ended the server.
#[test]
fn one_who_ends_its_own_server_is_disconnected() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 2"));
    let end = "select pg_terminate_backend(pg_backend_pid())";
    for messages in [vec![query(end)], vec![parse("", end), bind("", "", &[]), execute("", 0), sync()]] {
        let mut client = carpool.client();
        client.send_all(&messages);
        let replies = client.until_closed();
        assert!(replies.iter().any(|m| m.field('C').as_deref() == Some("57P01")), "{replies:?}");
        // Another's server is not its own.
        let mut other = carpool.client();
        assert_eq!(other.value("select pg_terminate_backend(0) or pg_backend_pid() > 0"), "t");
        assert_eq!(other.value("select 1"), "1");
    }
}

/// Drivers (asyncpg) take it that BEGIN fails with the connection only: after an error, all that comes later would be in a
/// block that isn't there.
#[test]
fn one_whose_begin_is_lost_is_disconnected() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    for (sql, ends) in [("begin", true), ("select 1", false), ("START TRANSACTION READ ONLY", true), ("commit", false)]
    {
        let mut client = one(&carpool);
        // One that ended well is of no account.
        client.query("begin");
        client.query("commit");
        let pid = client.value("select pg_backend_pid()");
        let signal = |name: &str| {
            assert!(std::process::Command::new("kill").args(["-s", name, &pid]).status().unwrap().success())
        };
        signal("STOP");
        client.send(&query(sql));
        eventually("it was sent", || carpool.console("show servers").contains("|active|").then_some(()));
        Postgres::shared().sql("postgres", &format!("select pg_terminate_backend({pid})"));
        signal("CONT");
        if ends {
            assert_eq!(error(&client.until_closed()), terminated("FATAL"), "{sql}");
        } else {
            assert_eq!(error(&client.until_ready()), terminated("ERROR"), "{sql}");
            assert_eq!(client.value("select 'well'"), "well");
        }
    }
}
