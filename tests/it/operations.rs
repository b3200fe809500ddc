//! What operators do to running pools by the console and by signals: pause, resume, reconnect, kill, disable, suspend,
//! change settings.

use crate::harness::raw::query;
use crate::harness::{Carpool, Message, Postgres, Raw, Setup, eventually};

fn console(carpool: &Carpool) -> Raw {
    Raw::login(carpool.port, "postgres", "pgbouncer")
}

fn rows(console: &mut Raw, command: &str) -> Vec<Vec<String>> {
    let replies = console.query(command);
    assert!(replies.iter().all(|m| m.tag != b'E'), "{command}: {replies:?}");
    let text = |m: &Message| m.columns().into_iter().map(Option::unwrap_or_default).collect();
    replies.iter().filter(|m| m.tag == b'D').map(text).collect()
}

/// The tag of a command that must succeed.
fn tag(console: &mut Raw, command: &str) -> String {
    console.send(&query(command));
    done(console)
}

fn done(console: &mut Raw) -> String {
    let replies = console.until_ready();
    let complete = replies.iter().find(|m| m.tag == b'C').unwrap_or_else(|| panic!("{replies:?}"));
    String::from_utf8(complete.body.clone()).unwrap().trim_end_matches('\0').to_owned()
}

/// The error of a command that must fail.
fn error(console: &mut Raw, command: &str) -> (String, String) {
    let replies = console.query(command);
    let error = replies.iter().find(|m| m.tag == b'E').unwrap_or_else(|| panic!("{command}: {replies:?}"));
    (error.field('C').unwrap(), error.field('M').unwrap())
}

fn is_waiting(carpool: &Carpool, console: &mut Raw, clients: &str) {
    eventually("clients wait", || {
        let pools = rows(console, "show pools");
        pools.iter().any(|row| row[0] == carpool.database && row[3] == clients).then_some(())
    });
}

/// A column of SHOW DATABASES.
fn database(carpool: &Carpool, console: &mut Raw, column: usize) -> String {
    let rows = rows(console, "show databases");
    rows.into_iter().find(|row| row[0] == carpool.database).unwrap().swap_remove(column)
}

fn setting(console: &mut Raw, key: &str) -> String {
    rows(console, "show config").into_iter().find(|row| row[0] == key).unwrap().swap_remove(1)
}

fn no_backends(carpool: &Carpool) {
    eventually("no server is left", || (Postgres::shared().backends(&carpool.database) == 0).then_some(()));
}

#[test]
fn a_pause_waits_for_transactions_and_clients_wait_for_its_end() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 2\nmin_pool_size = 2"));
    let (mut holder, mut waiter) = (carpool.client(), carpool.client());
    let (mut pausing, mut other) = (console(&carpool), console(&carpool));
    holder.query("begin");
    pausing.send(&query(&format!("PAUSE {}", carpool.database)));
    let held =
        eventually("the holder is shown", || rows(&mut other, "show paused").pop().filter(|row| !row[4].is_empty()));
    let clients = rows(&mut other, "show clients");
    assert_eq!((&held[0], &held[4]), (&carpool.database, &clients[0][20]));
    assert_eq!(held[6], holder.value("select pg_backend_pid()"), "its transaction goes on");
    waiter.send(&query("select 'after'"));
    is_waiting(&carpool, &mut other, "1");
    assert_eq!(database(&carpool, &mut other, 15), "1", "SHOW DATABASES says that it is paused");
    holder.query("commit");
    assert_eq!(done(&mut pausing), "PAUSE");
    assert_eq!(Postgres::shared().backends(&carpool.database), 0, "no server is left, whatever the minimum");
    assert_eq!(rows(&mut other, "show paused")[0][2..5], ["1", "", ""]);
    // A login needs no server once one has told how it is configured.
    let mut late = carpool.client();
    late.send(&query("select 'late'"));
    is_waiting(&carpool, &mut other, "2");
    assert_eq!(tag(&mut other, &format!("RESUME {}", carpool.database)), "RESUME");
    for (client, want) in [(&mut waiter, "after"), (&mut late, "late")] {
        assert_eq!(client.until_ready()[1].columns(), [Some(want.to_owned())]);
    }
    assert!(rows(&mut other, "show paused").is_empty());
    let again = error(&mut other, &format!("RESUME {}", carpool.database));
    assert_eq!(again, ("08P01".into(), format!("database {} is not paused", carpool.database)));
}

#[test]
fn a_pause_of_everything_holds_pools_that_come_later() {
    let sections = "[databases.'*']\nhost = \"127.0.0.1\"\nport = PORT\n";
    let postgres = Postgres::shared();
    let later = postgres.new_database();
    let setup = Setup::default().sections(&sections.replace("PORT", &postgres.port.to_string()));
    let carpool = Carpool::start(&setup);
    let mut console = console(&carpool);
    let mut client = carpool.client();
    client.query("select 1");
    assert_eq!(tag(&mut console, "PAUSE"), "PAUSE");
    no_backends(&carpool);
    assert_eq!(rows(&mut console, "show state"), [["active", "no"], ["paused", "yes"], ["suspended", "no"]]);
    assert_eq!(error(&mut console, "PAUSE").1, "already suspended/paused");
    assert_eq!(error(&mut console, "KILL").1, "already suspended/paused");
    client.send(&query("select 'on'"));
    let (port, name) = (carpool.port, later.clone());
    let login = std::thread::spawn(move || Raw::login(port, "postgres", &name).value("select 'there'"));
    eventually("both wait", || {
        let pools = rows(&mut console, "show pools");
        (pools.iter().filter(|row| row[3] == "1").count() == 2).then_some(())
    });
    assert_eq!(postgres.backends(&later), 0);
    assert_eq!(tag(&mut console, "RESUME"), "RESUME");
    assert_eq!(client.until_ready()[1].columns(), [Some("on".to_owned())]);
    assert_eq!(login.join().unwrap(), "there");
    assert_eq!(error(&mut console, "RESUME").1, "pooler is not paused/suspended");
}

#[test]
fn a_pause_that_takes_too_long_is_undone_and_says_who_was_in_the_way() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let (mut holder, mut waiter, mut console) = (carpool.client(), carpool.client(), console(&carpool));
    holder.query("begin");
    let id = rows(&mut console, "show clients")[0][14].clone();
    for command in [format!("PAUSE {} 200ms", carpool.database), "PAUSE TIMEOUT 0.2".to_owned()] {
        let replies = console.query(&command);
        let field = |code| replies[0].field(code).unwrap_or_default();
        assert_eq!(field('C'), "57014", "{replies:?}");
        assert!(field('M').ends_with("came free within 200ms"), "{replies:?}");
        assert!(field('D').starts_with("The pause was undone.") && field('D').contains(&id), "{replies:?}");
        assert!(field('H').contains("SHOW PAUSED"), "{replies:?}");
    }
    waiter.send(&query("select 'served'"));
    holder.query("commit");
    assert_eq!(waiter.until_ready()[1].columns(), [Some("served".to_owned())]);
    assert_eq!(rows(&mut console, "show state")[0], ["active", "yes"]);
}

#[test]
fn a_cancelled_pause_is_undone_but_not_one_whose_console_left() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let (mut holder, mut pausing, mut other) = (carpool.client(), console(&carpool), console(&carpool));
    holder.query("begin");
    pausing.send(&query("PAUSE"));
    eventually("it is paused", || (rows(&mut other, "show state")[1][1] == "yes").then_some(()));
    Raw::cancel(carpool.port, &pausing.key.clone());
    assert_eq!(pausing.until_ready()[0].field('C').as_deref(), Some("57014"));
    assert_eq!(rows(&mut other, "show state")[1][1], "no");
    pausing.send(&query(&format!("PAUSE {}", carpool.database)));
    eventually("it is paused", || (database(&carpool, &mut other, 15) == "1").then_some(()));
    drop(pausing);
    eventually("the console is gone", || {
        let consoles = rows(&mut other, "show clients");
        (consoles.iter().filter(|row| row[2] == "pgbouncer").count() == 1).then_some(())
    });
    holder.query("commit");
    no_backends(&carpool);
    assert_eq!(database(&carpool, &mut other, 15), "1");
    assert_eq!(tag(&mut other, &format!("RESUME {}", carpool.database)), "RESUME");
    assert_eq!(holder.value("select 1"), "1");
}

#[test]
fn resume_ends_a_pause_that_is_still_waited_for() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let (mut holder, mut pausing, mut other) = (carpool.client(), console(&carpool), console(&carpool));
    holder.query("begin");
    pausing.send(&query("PAUSE"));
    eventually("it is paused", || (rows(&mut other, "show state")[1][1] == "yes").then_some(()));
    assert_eq!(tag(&mut other, "RESUME"), "RESUME");
    let replies = pausing.until_ready();
    assert_eq!(replies[0].field('M').as_deref(), Some("the pause of all databases was ended by RESUME"));
    assert_eq!(holder.value("select 1"), "1");
}

/// Nobody waits for ever, and the error says what for.
#[test]
fn query_wait_timeout_holds_while_it_is_paused() {
    let carpool = Carpool::start(&Setup::pooler("query_wait_timeout = 0.3"));
    let (mut client, mut console) = (carpool.client(), console(&carpool));
    client.query("select 1");
    assert_eq!(tag(&mut console, &format!("PAUSE {}", carpool.database)), "PAUSE");
    client.send(&query("select 1"));
    let error = client.until_closed().remove(0);
    assert_eq!((error.field('C').as_deref(), error.field('M').as_deref()), (Some("53300"), Some("query_wait_timeout")));
    assert!(error.field('D').unwrap().contains("It has been paused for"), "{error:?}");
    assert!(error.field('H').unwrap().contains("RESUME"), "{error:?}");
}

#[test]
fn a_session_pool_pauses_when_clients_have_left() {
    let carpool = Carpool::start(&Setup::pooler("pool_mode = \"session\""));
    let (mut client, mut pausing, mut other) = (carpool.client(), console(&carpool), console(&carpool));
    client.query("select 1");
    pausing.send(&query("PAUSE"));
    eventually("it is held up", || rows(&mut other, "show paused").pop().filter(|row| !row[4].is_empty()));
    assert_eq!(client.value("select 2"), "2", "its session goes on");
    drop(client);
    assert_eq!(done(&mut pausing), "PAUSE");
    no_backends(&carpool);
}

/// The connection that listens makes way, comes back, and those who may have missed something are told.
#[test]
fn listeners_do_not_keep_a_pool_from_being_paused() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 3"));
    let (mut listener, mut console) = (carpool.client(), console(&carpool));
    listener.query("listen news");
    eventually("it is shared", || {
        let servers = rows(&mut console, "show servers");
        let active: Vec<_> = servers.iter().filter(|row| row[4] == "active").map(|row| row[18].as_str()).collect();
        (active == ["carpool listener"]).then_some(())
    });
    assert_eq!(tag(&mut console, &format!("PAUSE {} 20s", carpool.database)), "PAUSE");
    assert_eq!(tag(&mut console, &format!("RESUME {}", carpool.database)), "RESUME");
    let warning = listener.read();
    assert_eq!((warning.tag, warning.field('C').as_deref()), (b'N', Some("01000")), "{warning:?}");
    let mut writer = carpool.client();
    writer.query("notify news, 'again'");
    let notification = listener.read();
    assert!(notification.tag == b'A' && notification.body.ends_with(b"again\0"), "{notification:?}");
}

#[test]
fn reconnect_replaces_servers_as_they_come_free() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 2"));
    let (mut holder, mut client) = (carpool.client(), carpool.client());
    let (mut console, mut waiting) = (console(&carpool), console(&carpool));
    holder.query("begin");
    let held = holder.value("select pg_backend_pid()");
    let idle = client.value("select pg_backend_pid()");
    assert_eq!(tag(&mut console, "WAIT_CLOSE"), "WAIT_CLOSE", "nothing to wait for");
    assert_eq!(tag(&mut console, &format!("RECONNECT {}", carpool.database)), "RECONNECT");
    assert_ne!(client.value("select pg_backend_pid()"), idle, "an idle server is replaced at once");
    assert_eq!(holder.value("select pg_backend_pid()"), held, "one in use is kept");
    let servers = rows(&mut console, "show servers");
    let needed: Vec<_> = servers.iter().map(|row| (row[16] == held, row[13].as_str())).collect();
    assert!(needed.contains(&(true, "1")) && needed.contains(&(false, "0")), "{servers:?}");
    waiting.send(&query("WAIT_CLOSE"));
    eventually("it waits", || {
        let clients = rows(&mut console, "show clients");
        (clients.iter().filter(|row| row[2] == "pgbouncer").count() == 2).then_some(())
    });
    holder.query("commit");
    assert_eq!(done(&mut waiting), "WAIT_CLOSE");
    assert_ne!(holder.value("select pg_backend_pid()"), held);
    assert!(rows(&mut console, "show servers").iter().all(|row| row[13] == "0"));
}

#[test]
fn kill_ends_clients_and_servers_at_once_and_pauses() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 2"));
    let (mut busy, mut in_transaction, mut waiter) = (carpool.client(), carpool.client(), carpool.client());
    let mut console = console(&carpool);
    in_transaction.query("begin");
    busy.send(&query("select pg_sleep(600)"));
    waiter.send(&query("select 1"));
    is_waiting(&carpool, &mut console, "1");
    assert_eq!(tag(&mut console, "KILL"), "KILL");
    for client in [&mut busy, &mut in_transaction, &mut waiter] {
        let last = client.until_closed();
        let error = last.last().unwrap();
        assert_eq!(error.field('C').as_deref(), Some("57P01"), "{last:?}");
        assert_eq!(error.field('M').as_deref(), Some("database removed"), "{last:?}");
    }
    no_backends(&carpool);
    let mut late = carpool.client();
    late.send(&query("select 'late'"));
    is_waiting(&carpool, &mut console, "1");
    let replies = console.query("RESUME");
    assert!(replies[0].field('H').unwrap().contains(&format!("\"{}\"", carpool.database)), "{replies:?}");
    assert_eq!(tag(&mut console, &format!("RESUME {}", carpool.database)), "RESUME");
    assert_eq!(late.until_ready()[1].columns(), [Some("late".to_owned())]);
}

#[test]
fn a_disabled_database_takes_no_new_clients() {
    let carpool = Carpool::start(&Setup::default());
    let (mut client, mut console) = (carpool.client(), console(&carpool));
    assert_eq!(tag(&mut console, &format!("DISABLE {}", carpool.database)), "DISABLE");
    assert_eq!(client.value("select 1"), "1", "those who are in stay");
    assert_eq!(database(&carpool, &mut console, 16), "1");
    let mut refused = Raw::connect(carpool.port);
    refused.send(&crate::harness::raw::startup(
        crate::harness::raw::V3_0,
        &[("user", "postgres"), ("database", &carpool.database)],
    ));
    let error = refused.finish_login().unwrap();
    assert_eq!(error.field('M').unwrap(), format!("database \"{}\" is disabled", carpool.database));
    assert_eq!(tag(&mut console, &format!("ENABLE {}", carpool.database)), "ENABLE");
    assert_eq!(carpool.client().value("select 2"), "2");
}

#[test]
fn databases_must_be_there_and_not_be_the_console() {
    let carpool = Carpool::start(&Setup::default());
    let mut console = console(&carpool);
    for command in ["PAUSE", "RESUME", "RECONNECT", "KILL", "WAIT_CLOSE", "DISABLE", "ENABLE"] {
        let found = error(&mut console, &format!("{command} nowhere"));
        assert_eq!(found, ("08P01".into(), "no such database: nowhere".into()), "{command}");
    }
    for (command, text) in [
        ("PAUSE pgbouncer", "cannot pause admin db: pgbouncer"),
        ("KILL carpool", "cannot kill admin db: carpool"),
        ("RECONNECT pgbouncer", "cannot reconnect admin db: pgbouncer"),
        ("WAIT_CLOSE pgbouncer", "cannot wait in admin db: pgbouncer"),
        ("DISABLE pgbouncer", "cannot disable admin db: pgbouncer"),
        ("DISABLE", "a database is required"),
        ("ENABLE", "a database is required"),
    ] {
        assert_eq!(error(&mut console, command), ("08P01".into(), text.into()));
    }
}

#[test]
fn a_statistics_user_changes_nothing() {
    let setup = Setup::pooler("stats_users = [\"app\"]").sections("");
    let carpool = Carpool::start(&setup);
    let mut watcher = Raw::login(carpool.port, "app", "pgbouncer");
    for command in [
        "PAUSE",
        "RESUME",
        "RECONNECT",
        "KILL",
        "WAIT_CLOSE",
        "SUSPEND",
        "SHUTDOWN",
        "RELOAD",
        "KILL_CLIENT 1",
        "DISABLE x",
        "ENABLE x",
        "SET verbose = 1",
        "SHOW FDS",
        "SHUTDOWN WAIT_FOR_CLIENTS",
    ] {
        assert_eq!(error(&mut watcher, command), ("08P01".into(), "admin access needed".into()), "{command}");
    }
    for what in ["POOLS", "SOCKETS", "ACTIVE_SOCKETS", "STATE", "CONFIG", "PAUSED", "DNS_HOSTS", "PEERS"] {
        rows(&mut watcher, &format!("SHOW {what}"));
    }
    assert_eq!(carpool.client().value("select 1"), "1");
}

#[test]
fn set_changes_a_setting_until_the_next_reload() {
    let carpool = Carpool::start(&Setup::pooler("query_wait_timeout = 77"));
    let (mut client, mut console) = (carpool.client(), console(&carpool));
    assert_eq!(tag(&mut console, "SET query_timeout = 0.2"), "SET query_timeout=0.2");
    assert_eq!(setting(&mut console, "query_timeout"), "0.2");
    client.send(&query("select pg_sleep(600)"));
    let late = client.until_closed().pop().unwrap();
    assert_eq!(late.field('M').as_deref(), Some("query timeout"), "it holds at once");
    for refused in ["query_timeout = soon", "listen_port = 1", "nonsense = 1", "pkt_buf = 1", "min_pool_size = 1000"] {
        assert_eq!(error(&mut console, &format!("SET {refused}")).0, "08P01", "{refused}");
    }
    assert_eq!(setting(&mut console, "min_pool_size"), "0");
    assert_eq!(tag(&mut console, "SET default_pool_size = 3"), "SET default_pool_size=3");
    assert_eq!(database(&carpool, &mut console, 11), "3", "databases inherit it");
    assert_eq!(tag(&mut console, "set verbose to '1'"), "SET verbose=1");
    let replies = console.query("RELOAD");
    let plan = replies[0].field('D').unwrap();
    assert!(plan.contains("pooler.query_timeout: 0.2 -> 0") && plan.contains("pooler.verbose: 1 -> 0"), "{plan}");
    assert_eq!(setting(&mut console, "query_timeout"), "0");
    assert_eq!(setting(&mut console, "query_wait_timeout"), "77");
}

#[test]
fn usr1_pauses_and_usr2_resumes() {
    let carpool = Carpool::start(&Setup::default());
    let mut client = carpool.client();
    client.query("select 1");
    carpool.signal("USR1");
    no_backends(&carpool);
    let mut console = console(&carpool);
    assert_eq!(rows(&mut console, "show state")[1][1], "yes");
    client.send(&query("select 'on'"));
    is_waiting(&carpool, &mut console, "1");
    carpool.signal("USR2");
    assert_eq!(client.until_ready()[1].columns(), [Some("on".to_owned())]);
    carpool.signal("USR2");
    carpool.logs("got SIGUSR2, but not paused/suspended");
}

#[test]
fn everything_stands_still_while_it_is_suspended() {
    let carpool = Carpool::start(&Setup::default());
    let (mut in_transaction, mut idle, mut console) = (carpool.client(), carpool.client(), console(&carpool));
    in_transaction.query("begin");
    assert_eq!(tag(&mut console, "SUSPEND"), "SUSPEND");
    assert_eq!(rows(&mut console, "show state")[2][1], "yes");
    in_transaction.send(&query("select 'in'"));
    idle.send(&query("select 'idle'"));
    assert_eq!(error(&mut console, "SUSPEND").1, "already suspended/paused");
    let states: Vec<_> = rows(&mut console, "show clients").into_iter().map(|mut row| row.swap_remove(4)).collect();
    assert_eq!(states, ["active", "idle", "idle"], "nothing was taken");
    assert_eq!(tag(&mut console, "RESUME"), "RESUME");
    for (client, want) in [(&mut in_transaction, "in"), (&mut idle, "idle")] {
        assert_eq!(client.until_ready()[1].columns(), [Some(want.to_owned())]);
    }
    // Without anybody to say that it may go on, it does.
    assert_eq!(tag(&mut console, "SUSPEND"), "SUSPEND");
    drop(console);
    idle.send(&query("select 'on'"));
    assert_eq!(idle.until_ready()[1].columns(), [Some("on".to_owned())]);
}

#[test]
fn shutdown_waits_for_clients_to_leave() {
    let mut carpool = Carpool::start(&Setup::default());
    let (mut client, mut console) = (carpool.client(), console(&carpool));
    client.query("select 1");
    assert_eq!(tag(&mut console, "SHUTDOWN WAIT_FOR_CLIENTS"), "SHUTDOWN");
    eventually("nobody new comes in", || {
        std::net::TcpStream::connect(("127.0.0.1", carpool.port)).is_err().then_some(())
    });
    assert_eq!(client.value("select 2"), "2", "those who are in stay");
    assert_eq!(error(&mut console, "RESUME").1, "pooler is shutting down");
    assert_eq!(error(&mut console, "RELOAD"), ("08P01".into(), "Carpool is shutting down".into()));
    drop(client);
    assert!(carpool.wait().success(), "{}", carpool.log());
}

/// What was counted, and who is paused, outlives the pool.
#[test]
fn a_reload_that_replaces_a_pool_keeps_its_sums_and_state() {
    let carpool = Carpool::start(&Setup::default().database("host = \"127.0.0.1\""));
    let (mut holder, mut client, mut console) = (carpool.client(), carpool.client(), console(&carpool));
    let queries = |console: &mut Raw| {
        let stats = rows(console, "show stats");
        stats.iter().find(|row| row[0] == carpool.database).unwrap()[3].parse::<u32>().unwrap()
    };
    for _ in 0..5 {
        client.query("select 1");
    }
    holder.query("begin");
    let before = queries(&mut console);
    assert_eq!(before, 6);
    let text = std::fs::read_to_string(&carpool.config).unwrap();
    std::fs::write(&carpool.config, text.replace("\"127.0.0.1\"", "\"localhost\"")).unwrap();
    let replies = console.query("RELOAD");
    let plan = replies[0].field('D').unwrap();
    assert!(plan.contains("host: 127.0.0.1 -> localhost") && plan.contains("another place"), "{plan}");
    assert!(queries(&mut console) >= before);
    client.query("select 1");
    assert_eq!(queries(&mut console), before + 1);
    let servers = rows(&mut console, "show servers");
    let mut needed: Vec<_> = servers.iter().map(|row| row[13].as_str()).collect();
    needed.sort_unstable();
    assert_eq!(needed, ["0", "1"], "the old server is shown while it is used");
    holder.query("commit");
    eventually("the old server closes", || (rows(&mut console, "show servers").len() == 1).then_some(()));
    assert_eq!(queries(&mut console), before + 2);
    assert_eq!(tag(&mut console, &format!("PAUSE {}", carpool.database)), "PAUSE");
    let text = std::fs::read_to_string(&carpool.config).unwrap();
    std::fs::write(&carpool.config, text.replace("\"localhost\"", "\"127.0.0.1\"")).unwrap();
    assert_eq!(tag(&mut console, "RELOAD"), "RELOAD");
    client.send(&query("select 'on'"));
    is_waiting(&carpool, &mut console, "1");
    assert_eq!(tag(&mut console, &format!("RESUME {}", carpool.database)), "RESUME");
    assert_eq!(client.until_ready()[1].columns(), [Some("on".to_owned())]);
}
