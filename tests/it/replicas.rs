//! Read-only routes, health checks and two primaries: real streaming replication.

use crate::cluster::{PORT, carpool, cascading, places, port, replicated};
use crate::harness::postgres::{Gate, free_port};
use crate::harness::raw::{query, startup};
use crate::harness::{Carpool, Message, Postgres, Raw, Setup, eventually};

/// Checks that don't keep a test waiting.
const OFTEN: &str = "health_check_interval = 0.1\nhealth_check_timeout = 1\n";

fn login(carpool: &Carpool, database: &str) -> Raw {
    Raw::login(carpool.port, "postgres", database)
}

/// The error that ends a client which waits for a server in vain.
fn refusal(client: &mut Raw) -> Message {
    client.send(&query(PORT));
    client.until_closed().into_iter().find(|message| message.tag == b'E').unwrap()
}

/// The column of SHOW HOSTS, counted from 0, of the host with this port.
fn of_host(carpool: &Carpool, database: &str, port: u16, column: usize) -> String {
    let hosts = carpool.console("show hosts");
    let begin = format!("{database}|127.0.0.1|{port}|");
    let line = hosts.lines().find(|line| line.starts_with(&begin)).unwrap_or_else(|| panic!("{port}: {hosts}"));
    line.split('|').nth(column).unwrap().to_owned()
}

const ROLE: usize = 3;
const STATE: usize = 4;
const SERVERS: usize = 5;
const LOGINS: usize = 6;
const FAILED: usize = 7;
const FAILURES: usize = 8;
const ERROR: usize = 10;
const CHECKED: usize = 11;
const LAG: usize = 12;
const TIMELINE: usize = 13;

fn has_state(carpool: &Carpool, database: &str, port: u16, state: &str) {
    eventually(&format!("{port} is {state}"), || (of_host(carpool, database, port, STATE) == state).then_some(()));
}

/// Waits until a health check has asked the host.
fn is_checked(carpool: &Carpool, database: &str, port: u16) {
    let checked = || !of_host(carpool, database, port, CHECKED).is_empty();
    eventually(&format!("{port} is checked"), || checked().then_some(()));
}

#[test]
fn a_read_only_route_leads_to_standbys() {
    let (primary, standby, database) = replicated();
    let route = format!("{database}@ro");
    let lines = "target_session_attrs = \"primary\"\nread_only_route = \"prefer-standby\"\nmax_replica_lag = \"10s\"";
    let carpool = carpool(&primary, &database, OFTEN, &[primary.port, standby.port], lines);
    let (mut writer, mut reader) = (carpool.client(), login(&carpool, &route));
    assert_eq!((port(&mut writer), port(&mut reader)), (primary.port, standby.port));
    assert_eq!(reader.value("select current_database()"), database);
    assert_eq!(reader.error("insert into t values (1, 1)"), "25006");
    let pools = carpool.console("show pools");
    assert!(pools.lines().any(|line| line.starts_with(&format!("{route}|"))), "{pools}");
    // Each has servers of its own, none beyond what clients had.
    assert_eq!(carpool.console("show servers").lines().count(), 2);
    // Without a standby the primary serves, and no longer than that.
    standby.control(&["stop", "-s", "-m", "immediate"]);
    eventually("the primary serves", || {
        let answer = reader.query(PORT);
        let value = answer.iter().find(|message| message.tag == b'D').and_then(|row| row.columns()[0].clone());
        (value? == primary.port.to_string()).then_some(())
    });
    standby.start_again();
    eventually("the standby serves", || (port(&mut reader) == standby.port).then_some(()));
    eventually("nothing is left at the primary", || {
        (of_host(&carpool, &route, primary.port, SERVERS) == "0").then_some(())
    });
    assert_eq!(port(&mut writer), primary.port);
}

#[test]
fn a_route_of_standbys_alone_waits_for_one() {
    let (primary, standby, database) = replicated();
    let lines = "read_only_route = \"standby\"\nquery_wait_timeout = 2";
    let carpool = carpool(&primary, &database, OFTEN, &[primary.port, standby.port], lines);
    let mut reader = login(&carpool, &format!("{database}@ro"));
    assert_eq!(port(&mut reader), standby.port);
    standby.control(&["promote", "-s", "-w"]);
    let mut raw = Raw::connect(carpool.port);
    eventually("it is no standby any more", || {
        (of_host(&carpool, &format!("{database}@ro"), standby.port, SERVERS) == "0").then_some(())
    });
    raw.send(&startup(196_608, &[("user", "postgres"), ("database", &format!("{database}@ro"))]));
    // The login needs no server, since one has been there.
    assert!(raw.finish_login().is_none());
    let error = refusal(&mut raw);
    assert_eq!(error.field('M').as_deref(), Some("query_wait_timeout"));
    assert!(error.field('D').unwrap().contains("which is not standby"), "{error:?}");
}

#[test]
fn a_standby_that_is_behind_is_left_out_until_it_has_caught_up() {
    let (primary, standby, database) = replicated();
    let route = format!("{database}@ro");
    let lines = "read_only_route = \"prefer-standby\"\nmax_replica_lag = \"1s\"\ntarget_session_attrs = \"primary\"";
    let carpool = carpool(&primary, &database, OFTEN, &[primary.port, standby.port], lines);
    let mut reader = login(&carpool, &route);
    assert_eq!(port(&mut reader), standby.port);
    // As long as nothing is written nobody is behind, however long ago the last commit was.
    let idle_since = primary.sql("postgres", "select clock_timestamp()");
    eventually("longer than the limit", || {
        let sql = format!("select clock_timestamp() - '{idle_since}' > interval '1.5s'");
        (primary.sql("postgres", &sql) == "t").then_some(())
    });
    assert_eq!(port(&mut reader), standby.port);
    standby.sql("postgres", "select pg_wal_replay_pause()");
    primary.sql(&database, "insert into t values (1, 1)");
    eventually("the primary serves", || (port(&mut reader) == primary.port).then_some(()));
    assert_eq!(of_host(&carpool, &route, standby.port, STATE), "lagging");
    assert!(of_host(&carpool, &route, standby.port, LAG).parse::<u32>().unwrap() > 1000);
    assert_eq!(reader.value("select count(*) from t"), "1");
    standby.sql("postgres", "select pg_wal_replay_resume()");
    eventually("the standby serves", || (port(&mut reader) == standby.port).then_some(()));
    assert_eq!(reader.value("select count(*) from t"), "1");
    assert_eq!(of_host(&carpool, &route, standby.port, STATE), "up");
}

#[test]
fn who_waits_for_a_standby_is_told_how_far_it_is_behind() {
    let (primary, standby, database) = replicated();
    let lines = "target_session_attrs = \"standby\"\nmax_replica_lag = \"200ms\"\nquery_wait_timeout = 3";
    let carpool = carpool(&primary, &database, OFTEN, &[primary.port, standby.port], lines);
    let mut reader = carpool.client();
    assert_eq!(port(&mut reader), standby.port);
    standby.sql("postgres", "select pg_wal_replay_pause()");
    primary.sql(&database, "insert into t values (1, 1)");
    has_state(&carpool, &database, standby.port, "lagging");
    let error = refusal(&mut reader);
    let detail = error.field('D').unwrap();
    let expected = format!("server 127.0.0.1:{} is ", standby.port);
    assert!(detail.contains(&expected) && detail.contains("behind, more than 200ms (max_replica_lag)"), "{detail}");
}

#[test]
fn checks_find_out_before_clients_do() {
    let (a, b) = (Postgres::own(), Postgres::own());
    let lines = "load_balance_hosts = \"disable\"\ntarget_session_attrs = \"any\"";
    let carpool = carpool(&a, "postgres", OFTEN, &[a.port, b.port], lines);
    let mut client = carpool.client();
    assert_eq!(port(&mut client), a.port);
    is_checked(&carpool, "postgres", b.port);
    assert_eq!(of_host(&carpool, "postgres", b.port, STATE), "up");
    assert_eq!(of_host(&carpool, "postgres", b.port, LOGINS), "0");
    assert_eq!(of_host(&carpool, "postgres", b.port, ROLE), "primary");
    assert_eq!(of_host(&carpool, "postgres", a.port, TIMELINE), "1");
    assert!(of_host(&carpool, "postgres", a.port, CHECKED).parse::<u32>().unwrap() < 30_000);
    a.control(&["stop", "-s", "-m", "immediate"]);
    has_state(&carpool, "postgres", a.port, "down");
    // Nobody has tried to log in there.
    assert_eq!(of_host(&carpool, "postgres", a.port, FAILED), "0");
    assert_eq!(port(&mut client), b.port);
    a.start_again();
    has_state(&carpool, "postgres", a.port, "up");
    assert_eq!(of_host(&carpool, "postgres", a.port, LOGINS), "1");
    // One connection to each host, which PAUSE takes away as well.
    let checks = "select count(*) from pg_stat_activity where application_name = 'carpool health check'";
    eventually("one", || (a.sql("postgres", checks) == "1").then_some(()));
    // For a moment two, where a check logs in anew.
    eventually("one", || (b.sql("postgres", checks) == "1").then_some(()));
    carpool.console("pause");
    eventually("none", || (a.sql("postgres", checks) == "0" && b.sql("postgres", checks) == "0").then_some(()));
    carpool.console("resume");
    eventually("one again", || (a.sql("postgres", checks) == "1").then_some(()));
}

/// The process that takes logins hangs, and those that serve don't.
#[test]
fn a_host_that_answers_and_takes_no_logins_is_down() {
    let (a, b) = (Postgres::own(), Postgres::own());
    let lines = "target_session_attrs = \"any\"\nload_balance_hosts = \"disable\"";
    let carpool = carpool(&a, "postgres", OFTEN, &[a.port, b.port], lines);
    let mut client = carpool.client();
    assert_eq!(port(&mut client), a.port);
    is_checked(&carpool, "postgres", a.port);
    let mut observer = Raw::login(a.port, "postgres", "postgres");
    let mut another_check = |what: &str| {
        let sql = "select max(query_start) from pg_stat_activity where application_name = 'carpool health check'";
        let before = observer.value(sql);
        eventually(what, || (observer.value(sql) != before).then_some(()));
    };
    a.signal("STOP");
    // Nobody has tried to log in there but a check.
    has_state(&carpool, "postgres", a.port, "down");
    assert_eq!(of_host(&carpool, "postgres", a.port, FAILED), "0");
    assert!(of_host(&carpool, "postgres", a.port, ERROR).contains("health_check_timeout"));
    for _ in 0..3 {
        another_check("an answer on the connection from before");
        assert_eq!(of_host(&carpool, "postgres", a.port, STATE), "down");
    }
    // What is there goes on; whoever needs a new connection doesn't wait for that host.
    client.query("begin");
    assert_eq!(port(&mut client), a.port);
    let asked = std::time::Instant::now();
    let mut other = carpool.client();
    assert_eq!(port(&mut other), b.port);
    assert!(asked.elapsed().as_millis() < 900, "{:?}, as long as a check that hangs", asked.elapsed());
    client.query("commit");
    a.signal("CONT");
    has_state(&carpool, "postgres", a.port, "up");
    assert_eq!(of_host(&carpool, "postgres", a.port, LOGINS), "1");
    another_check("one connection goes on");
    let checks = "select count(*) from pg_stat_activity where application_name = 'carpool health check'";
    eventually("one", || (a.sql("postgres", checks) == "1").then_some(()));
}

/// Logins that fail come before the checks' turn to log in; a promotion then isn't held up by what checks hear.
#[test]
fn a_primary_that_takes_no_logins_holds_up_no_failover() {
    let (primary, standby, database) = replicated();
    let pooler = "health_check_interval = 0.3\nhealth_check_timeout = 1\nserver_connect_timeout = 1";
    let lines = "target_session_attrs = \"primary\"\npool_size = 2";
    let carpool = carpool(&primary, &database, pooler, &[primary.port, standby.port], lines);
    let mut client = carpool.client();
    assert_eq!(port(&mut client), primary.port);
    has_state(&carpool, &database, standby.port, "wrong role");
    has_state(&carpool, &database, primary.port, "up");
    client.query("begin");
    primary.signal("STOP");
    let waiting = {
        let (port, database) = (carpool.port, database.clone());
        std::thread::spawn(move || Raw::login(port, "postgres", &database).value(PORT))
    };
    has_state(&carpool, &database, primary.port, "down");
    let failures = || of_host(&carpool, &database, primary.port, FAILURES).parse::<u32>().unwrap();
    let before = failures();
    eventually("checks don't end that", || (failures() > before + 2).then_some(()));
    standby.control(&["promote", "-s", "-w"]);
    assert_eq!(waiting.join().unwrap(), standby.port.to_string());
    client.query("commit");
    eventually("the new primary", || (port(&mut client) == standby.port).then_some(()));
    primary.signal("CONT");
    has_state(&carpool, &database, primary.port, "deposed");
}

#[test]
fn checks_can_be_switched_off_and_one_host_has_none() {
    let postgres = Postgres::own();
    let checks = "select count(*) from pg_stat_activity where application_name = 'carpool health check'";
    let dead = free_port();
    let off = carpool(&postgres, "postgres", "health_check_interval = 0", &[postgres.port, dead], "");
    let one = carpool(&postgres, "postgres", OFTEN, &[postgres.port], "target_session_attrs = \"primary\"");
    let on = carpool(&postgres, "postgres", OFTEN, &[postgres.port, dead], "");
    let mut clients = [off.client(), one.client(), on.client()];
    clients.iter_mut().for_each(|client| assert_eq!(port(client), postgres.port));
    has_state(&on, "postgres", dead, "down");
    // The others would have had theirs as early. For a moment it may have two.
    eventually("one", || (postgres.sql("postgres", checks) == "1").then_some(()));
    assert_eq!(of_host(&off, "postgres", postgres.port, CHECKED), "");
}

#[test]
fn a_client_that_may_ask_nothing_but_its_role_will_do() {
    let (primary, standby, database) = replicated();
    primary.sql(&database, "revoke execute on function pg_control_system() from public");
    let lines = "target_session_attrs = \"primary\"\nuser = \"app\"";
    let carpool = carpool(&primary, &database, OFTEN, &[primary.port, standby.port], lines);
    assert_eq!(port(&mut carpool.client()), primary.port);
    has_state(&carpool, &database, standby.port, "wrong role");
    assert_eq!(of_host(&carpool, &database, standby.port, ROLE), "standby");
    has_state(&carpool, &database, primary.port, "up");
    is_checked(&carpool, &database, primary.port);
    assert_eq!(of_host(&carpool, &database, primary.port, TIMELINE), "");
}

#[test]
fn a_role_that_only_reads_costs_nobody_else_a_connection() {
    let (primary, standby, database) = replicated();
    primary.sql(&database, "alter role app set default_transaction_read_only = on");
    let lines = "target_session_attrs = \"read-write\"\nload_balance_hosts = \"disable\"\nquery_wait_timeout = 1";
    let carpool = carpool(&primary, &database, OFTEN, &[primary.port, standby.port], lines);
    let mut raw = Raw::connect(carpool.port);
    raw.send(&startup(196_608, &[("user", "app"), ("database", &database)]));
    assert!(raw.finish_login().is_some(), "no host is read-write for it");
    let mut client = carpool.client();
    let pid = client.value("select pg_backend_pid()");
    for _ in 0..3 {
        let sql = "select max(query_start) from pg_stat_activity where application_name = 'carpool health check'";
        let before = primary.sql("postgres", sql);
        eventually("another check", || (primary.sql("postgres", sql) != before).then_some(()));
        assert_eq!(client.value("select pg_backend_pid()"), pid);
    }
}

#[test]
fn of_two_primaries_the_one_that_was_promoted_is_used() {
    let (primary, standby, database) = replicated();
    let lines = "target_session_attrs = \"read-write\"\nquery_wait_timeout = 3";
    let carpool = carpool(&primary, &database, OFTEN, &[primary.port, standby.port], lines);
    let (mut client, mut busy) = (carpool.client(), carpool.client());
    assert_eq!(port(&mut client), primary.port);
    has_state(&carpool, &database, standby.port, "wrong role");
    busy.query("begin");
    assert_eq!(port(&mut busy), primary.port);
    // Nobody stops the old one.
    standby.control(&["promote", "-s", "-w"]);
    eventually("the new primary", || (port(&mut client) == standby.port).then_some(()));
    let log = carpool.log();
    let told = format!("more than one primary: 127.0.0.1:{} and 127.0.0.1:{};", standby.port, primary.port);
    assert!(log.contains("ERROR") && log.contains(&told), "{log}");
    has_state(&carpool, &database, primary.port, "deposed");
    assert_eq!(of_host(&carpool, &database, standby.port, TIMELINE), "2");
    // A transaction isn't broken off; its end is the end there.
    assert_eq!(port(&mut busy), primary.port);
    busy.query("commit");
    assert_eq!(port(&mut busy), standby.port);
    eventually("nothing is left at the old one", || {
        (of_host(&carpool, &database, primary.port, SERVERS) == "0").then_some(())
    });
    for _ in 0..5 {
        carpool.console(&format!("reconnect {database}"));
        assert_eq!(port(&mut client), standby.port);
        has_state(&carpool, &database, primary.port, "deposed");
    }
    // When the new one goes away the old one is not the primary again, unless an operator says so.
    standby.control(&["stop", "-s", "-m", "immediate"]);
    has_state(&carpool, &database, standby.port, "down");
    let mut other = carpool.client();
    let error = refusal(&mut other);
    let detail = error.field('D').unwrap();
    assert!(detail.contains(&format!("server 127.0.0.1:{} says that it is the primary", primary.port)), "{detail}");
    carpool.console(&format!("reconnect {database}"));
    let mut client = carpool.client();
    eventually("the old one", || (port(&mut client) == primary.port).then_some(()));
}

/// It has the same system identifier, and what is written to the old primary. A role that isn't told which timeline a standby is
/// sent finds out as well.
#[test]
fn a_standby_of_the_old_primary_serves_nobody() {
    let (old, new, database) = replicated();
    let lost = old.standby("s2");
    old.sql(&database, "grant select on t to public");
    let ports = [old.port, new.port, lost.port];
    let lines = "target_session_attrs = \"primary\"\nread_only_route = \"prefer-standby\"\nquery_wait_timeout = 2";
    let route = format!("{database}@ro");
    let carpools = ["postgres", "app"].map(|user| (user, carpool(&old, &database, OFTEN, &ports, lines)));
    let lines = "target_session_attrs = \"standby\"\nquery_wait_timeout = 2";
    let strict = carpool(&old, &database, OFTEN, &ports, lines);
    let mut readers: Vec<_> = carpools.iter().map(|(user, carpool)| Raw::login(carpool.port, user, &route)).collect();
    readers.iter_mut().for_each(|reader| assert_ne!(port(reader), old.port));
    strict.client().query("select 1");
    for (_, carpool) in &carpools {
        has_state(carpool, &route, new.port, "up");
        has_state(carpool, &route, lost.port, "up");
        assert_eq!(of_host(carpool, &route, lost.port, TIMELINE), "1");
    }
    // Nobody stops the old one, and nobody tells its other standby.
    new.control(&["promote", "-s", "-w"]);
    old.sql(&database, "insert into t values (1, 1)");
    eventually("it has it", || (lost.sql(&database, "select count(*) from t") == "1").then_some(()));
    for ((user, carpool), reader) in carpools.iter().zip(&mut readers) {
        has_state(carpool, &route, lost.port, "astray");
        eventually("the new primary", || (port(reader) == new.port).then_some(()));
        eventually("nothing is left", || (of_host(carpool, &route, lost.port, SERVERS) == "0").then_some(()));
        carpool.logs(&format!("127.0.0.1:{} is a standby that does not follow the primary", lost.port));
        for _ in 0..5 {
            carpool.console("reconnect");
            let mut reader = Raw::login(carpool.port, user, &route);
            assert_eq!((port(&mut reader), reader.value("select count(*) from t")), (new.port, "0".into()));
        }
    }
    has_state(&strict, &database, lost.port, "astray");
    let error = refusal(&mut strict.client());
    let detail = error.field('D').unwrap();
    let expected =
        format!("127.0.0.1:{} is a standby that does not follow the primary, 127.0.0.1:{}", lost.port, new.port);
    assert!(detail.contains(&expected), "{detail}");
    // Not either when nobody but it is left of the old ones.
    old.control(&["stop", "-s", "-m", "immediate"]);
    has_state(&strict, &database, old.port, "down");
    assert_eq!(of_host(&strict, &database, lost.port, STATE), "astray");
    lost.follow(&new, "s2");
    for ((_, carpool), reader) in carpools.iter().zip(&mut readers) {
        has_state(carpool, &route, lost.port, "up");
        eventually("the standby", || (port(reader) == lost.port).then_some(()));
        assert_eq!(of_host(carpool, &route, lost.port, TIMELINE), "2");
    }
}

/// The old primary is gone, as it should be: standbys of the new one serve on.
#[test]
fn a_standby_of_the_promoted_one_serves_on() {
    let (old, new, database) = replicated();
    let cascading = cascading(&old, &new);
    old.sql(&database, "grant select on t to public");
    eventually("those behind it have that", || {
        (cascading.sql(&database, "select has_table_privilege('app', 't', 'select')") == "t").then_some(())
    });
    let ports = [old.port, new.port, cascading.port];
    let lines = "target_session_attrs = \"primary\"\nread_only_route = \"standby\"\nload_balance_hosts = \"disable\"";
    let carpool = self::carpool(&old, &database, OFTEN, &ports, lines);
    let route = format!("{database}@ro");
    let mut reader = Raw::login(carpool.port, "app", &route);
    let told = self::carpool(&old, &database, OFTEN, &ports, lines);
    let mut other = login(&told, &route);
    assert_eq!((port(&mut reader), port(&mut other)), (new.port, new.port));
    let has_timeline = |carpool: &Carpool, port, timeline: &str| {
        eventually("its timeline", || (of_host(carpool, &route, port, TIMELINE) == timeline).then_some(()));
    };
    old.control(&["stop", "-s", "-m", "immediate"]);
    new.control(&["promote", "-s", "-w"]);
    eventually("the other standby", || (port(&mut reader) == cascading.port).then_some(()));
    new.sql(&database, "insert into t values (1, 1)");
    eventually("it has the row", || (reader.value("select count(*) from t") == "1").then_some(()));
    eventually("the new timeline", || {
        let sql = "select received_tli from pg_stat_wal_receiver";
        (cascading.sql("postgres", sql) == "2").then_some(())
    });
    assert_eq!(of_host(&carpool, &route, cascading.port, STATE), "up");
    assert!(!carpool.log().contains("does not follow"), "{}", carpool.log());
    // A role that is told more knows it before the control file does.
    assert_eq!(cascading.sql("postgres", "select timeline_id from pg_control_checkpoint()"), "1");
    has_timeline(&carpool, cascading.port, "1");
    has_timeline(&told, cascading.port, "2");
    assert_eq!(port(&mut other), cascading.port);
}

/// While its server is being reset the primary is replaced.
#[test]
fn a_server_of_a_deposed_primary_is_not_lent_again_after_a_reset() {
    let (primary, standby, database) = replicated();
    let pooler = format!("{OFTEN}server_reset_query = \"select {}\"\nserver_reset_query_always = 1", Gate::PASS);
    let lines = "target_session_attrs = \"primary\"";
    let carpool = carpool(&primary, &database, &pooler, &[primary.port, standby.port], lines);
    let gate = primary.gate(&database);
    let mut client = carpool.client();
    assert_eq!(port(&mut client), primary.port);
    has_state(&carpool, &database, standby.port, "wrong role");
    standby.control(&["promote", "-s", "-w"]);
    has_state(&carpool, &database, primary.port, "deposed");
    assert_ne!(of_host(&carpool, &database, primary.port, SERVERS), "0", "it is being reset");
    drop(gate);
    eventually("it is closed", || (of_host(&carpool, &database, primary.port, SERVERS) == "0").then_some(()));
    assert_eq!(port(&mut client), standby.port);
}

#[test]
fn rules_for_a_database_are_for_its_route() {
    let postgres = Postgres::shared();
    let database = postgres.new_database();
    let hba = std::env::temp_dir().join(format!("carpool-test-{}-route.hba", std::process::id()));
    let rules = format!(
        "host {database} app all reject\nhost \"{database}@ro\" scram_user all reject\nhost all all all trust\n"
    );
    std::fs::write(&hba, rules).unwrap();
    let pooler = format!("auth_type = \"hba\"\nauth_hba_file = \"{}\"", hba.display());
    let lines = format!("{}read_only_route = \"prefer-standby\"\n", places(&[postgres.port]));
    let carpool = Carpool::before(postgres, &database, &Setup::pooler(&pooler).database(&lines));
    let refused = |user: &str, database: &str| {
        let mut raw = Raw::connect(carpool.port);
        raw.send(&startup(196_608, &[("user", user), ("database", database)]));
        raw.finish_login().is_some_and(|error| error.field('C').as_deref() == Some("28000"))
    };
    let route = format!("{database}@ro");
    assert_eq!(["postgres", "app", "scram_user"].map(|user| refused(user, &route)), [false, true, true]);
    assert_eq!(["postgres", "app", "scram_user"].map(|user| refused(user, &database)), [false, true, false]);
    let _ = std::fs::remove_file(hba);
}
