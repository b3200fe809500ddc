//! Servers go over as well, with nothing of those who have had them, and each with its slot.

use std::time::Duration;

use super::{Line, Watch, cancel_a_query, code, has_ended, kill};
use crate::harness::postgres::default_bin;
use crate::harness::raw::{bind, execute, parse, query, sync};
use crate::harness::tls::{Authority, Files, postgres};
use crate::harness::{Carpool, Postgres, Raw, Setup, eventually};

/// Has so many clients in transactions at once; gives their servers' process numbers as well.
fn hold(line: &Line, servers: usize) -> (Vec<Raw>, Vec<String>) {
    let mut clients: Vec<_> = (0..servers).map(|_| line.carpool.client()).collect();
    let mut pids: Vec<_> = clients.iter_mut().map(|client| client.value("begin; select pg_backend_pid()")).collect();
    pids.sort();
    (clients, pids)
}

/// The process numbers of all of a pool's servers, which are idle afterwards.
fn servers(line: &Line, all: usize) -> Vec<String> {
    let (mut clients, pids) = hold(line, all);
    for client in &mut clients {
        assert_eq!(code(&client.query("commit")), None);
    }
    pids
}

#[test]
fn the_same_servers_serve_afterwards() {
    let line = Line::start("", "pool_size = 4");
    let watch = Watch::begin(&line.carpool.database);
    let before = servers(&line, 4);
    for _ in 0..3 {
        line.upgrade_fully();
        assert_eq!(servers(&line, 4), before);
    }
    assert_eq!(watch.end(), 4);
    let shown = line.carpool.console("show servers");
    assert!(before.iter().all(|pid| shown.contains(pid.as_str())), "{shown}");
}

/// With somebody waiting for them all the time: they come free in the old process, or are idle there.
#[test]
fn servers_in_use_follow_when_they_come_free() {
    let line = Line::start("", "pool_size = 3");
    let (mut clients, before) = hold(&line, 3);
    let old = line.upgrade();
    assert_eq!(code(&clients[0].query("commit")), None);
    // There is one server for both.
    let mut other = line.carpool.client();
    let pid = other.value("select pg_backend_pid()");
    assert!(before.contains(&pid), "{pid} is none of {before:?}");
    for client in &mut clients[1..] {
        assert_eq!(code(&client.query("commit")), None);
    }
    eventually("the old process ends", || has_ended(old).then_some(()));
    assert_eq!(servers(&line, 3), before);
}

#[test]
fn nothing_of_those_who_had_them_is_seen() {
    let line = Line::start("", "pool_size = 1");
    let mut client = line.carpool.client();
    client.query("create sequence s");
    let before = client.value("select pg_backend_pid()");
    client.send_all(&[parse("first", "select 'first', $1::int"), bind("", "first", &["1"]), execute("", 0), sync()]);
    client.until_ready();
    client.query("set work_mem = '7MB'");
    client.query("set app.tenant = 'somebody'");
    client.query("set search_path = nowhere");
    client.query("create temporary table pg_temp.mine as select 1");
    client.query("select pg_advisory_lock(17)");
    client.query("prepare by_sql as select 1");
    client.query("declare held cursor with hold for select 1");
    client.query("listen news");
    client.query("select nextval('public.s'), currval('public.s')");
    drop(client);
    let mut client = line.carpool.client();
    assert_eq!(client.value("select pg_backend_pid()"), before);
    client.query("select nextval('s')");
    line.upgrade_fully();
    let mut client = line.carpool.client();
    // In a transaction: Carpool itself can change nothing meanwhile.
    assert_eq!(client.value("begin; select pg_backend_pid()"), before);
    for (sql, wanted) in [
        ("select count(*) from pg_prepared_statements", "0"),
        ("show work_mem", "4MB"),
        ("show search_path", "\"$user\", public"),
        ("select coalesce(current_setting('app.tenant', true), '')", ""),
        ("select count(*) from pg_class where relpersistence = 't'", "0"),
        ("select count(*) from pg_locks where locktype = 'advisory'", "0"),
        ("select count(*) from pg_cursors where name = 'held'", "0"),
        ("select count(*) from pg_listening_channels()", "0"),
    ] {
        assert_eq!(client.value(sql), wanted, "{sql}");
    }
    assert_eq!(client.error("select currval('s')"), "55000");
    client.query("rollback");
    // Both processes number statements alike.
    client.send_all(&[parse("other", "select 'other', $1::int"), bind("", "other", &["2"]), execute("", 0), sync()]);
    let replies = client.until_ready();
    let row = replies.iter().find(|m| m.tag == b'D').unwrap_or_else(|| panic!("{replies:?}"));
    assert_eq!(row.columns(), [Some("other".into()), Some("2".into())]);
}

/// What a process has run before shows in such texts, also to one who is the first to have it here.
#[test]
fn who_needs_a_server_that_nobody_has_used_gets_one() {
    let line = Line::start("", "pool_size = 1");
    let before = servers(&line, 1);
    line.upgrade_fully();
    let mut client = line.carpool.client();
    assert_ne!(client.value("select pg_backend_pid() from (select pg_stat_get_xact_numscans(1)) s"), before[0]);
}

/// A request that was passed on may come at any time, also when another client has the server.
#[test]
fn one_that_was_cancelled_stays_behind() {
    let line = Line::start("", "pool_size = 2");
    let (mut clients, before) = hold(&line, 2);
    let pid = clients[0].value("select pg_backend_pid()");
    cancel_a_query(&line, &mut clients[0]);
    clients.iter_mut().for_each(|client| drop(client.query("rollback")));
    drop(clients);
    assert_eq!(servers(&line, 2), before, "it serves on in this process");
    line.upgrade_fully();
    let after = servers(&line, 2);
    assert!(!after.contains(&pid), "{after:?}");
    assert!(before.iter().any(|other| after.contains(other)), "{before:?}, {after:?}");
}

#[test]
fn tls_stays_behind() {
    let (authority, files) = (Authority::new("root"), Files::new());
    let postgres = postgres(&default_bin(), &files, &authority.issue("localhost", &["localhost"]), None);
    let database = postgres.new_database();
    for (mode, go) in [("require", false), ("disable", true)] {
        let setup =
            Setup::pooler(&format!("server_tls_sslmode = \"{mode}\"")).database("host = \"localhost\"\npool_size = 2");
        let line = Line::start_by(setup, |setup| Carpool::before(&postgres, &database, setup));
        let before = servers(&line, 2);
        line.upgrade_fully();
        let after = servers(&line, 2);
        assert_eq!(after == before, go, "{mode}: {before:?}, {after:?}");
        assert!(go || after.iter().all(|pid| !before.contains(pid)), "{mode}: {before:?}, {after:?}");
    }
}

/// The new process has read another configuration: what it wouldn't log in to is closed, and never counts twice.
#[test]
fn what_the_new_process_has_no_use_for_is_closed() {
    for (change, size, go) in [
        ("pool_size = 2", 2, true),
        ("pool_size = 3\nconnect_query = \"select 1\"", 3, false),
        ("pool_size = 3\nuser = \"plain_user\"\npassword = \"plain_user\"", 3, false),
        ("pool_size = 3\nhost = \"localhost\"", 3, false),
        ("pool_size = 3\nserver_tls_sslmode = \"disable\"", 3, false),
        ("pool_size = 3\nmax_replica_lag = \"1s\"\ntarget_session_attrs = \"primary\"", 3, false),
        ("pool_size = 3\nserver_lifetime = \"7h\"", 3, true),
    ] {
        let line = Line::start("", "pool_size = 3");
        let before = servers(&line, 3);
        let config = std::fs::read_to_string(&line.carpool.config).unwrap();
        let host = change.contains("host");
        let lines = config.lines().filter(|line| !(host && line.starts_with("host =")));
        let config = lines.map(|line| format!("{line}\n")).collect::<String>();
        std::fs::write(&line.carpool.config, config.replace("pool_size = 3", change)).unwrap();
        let watch = Watch::begin(&line.carpool.database);
        line.upgrade_fully();
        let after = servers(&line, size);
        assert_eq!(after.iter().all(|pid| before.contains(pid)), go, "{change}: {before:?}, {after:?}");
        assert!(go || after.iter().all(|pid| !before.contains(pid)), "{change}: {before:?}, {after:?}");
        eventually("no more than there may be", || {
            (Postgres::shared().backends(&line.carpool.database) <= size).then_some(())
        });
        assert!(watch.end() <= 3, "{change}");
    }
}

/// Whenever it dies: its servers end with it, and each slot is there once.
#[test]
fn no_slot_is_lost_or_counted_twice_when_the_new_process_dies() {
    const POOL: usize = 5;
    let line = Line::start("", &format!("pool_size = {POOL}"));
    let database = line.carpool.database.clone();
    let (old, mut stayer) = (line.pid(), line.carpool.client());
    stayer.query("begin");
    for round in 0..8 {
        drop(hold(&line, POOL - 1));
        eventually("they are idle", || {
            let idle = format!("select count(*) from pg_stat_activity where datname = '{database}' and state = 'idle'");
            (Postgres::shared().sql("postgres", &idle) == (POOL - 1).to_string()).then_some(())
        });
        assert_eq!(line.upgrade(), old);
        std::thread::sleep(Duration::from_micros(round * 1500));
        kill(line.pid(), "KILL");
        eventually("the old process serves", || line.is_pid(old).then_some(()));
        eventually("the dead one's servers go", || (Postgres::shared().backends(&database) <= POOL).then_some(()));
        let watch = Watch::begin(&database);
        let (mut clients, _) = hold(&line, POOL - 1);
        let mut more = line.carpool.client();
        more.send(&query("select 'waits'"));
        assert!(watch.end() <= POOL, "round {round}");
        assert_eq!(stayer.value("select 'in a transaction'"), "in a transaction");
        clients[0].query("rollback");
        assert_eq!(code(&more.until_ready()), None);
    }
    line.upgrade();
    stayer.query("rollback");
    eventually("the old process ends", || has_ended(old).then_some(()));
    drop(hold(&line, POOL));
}
