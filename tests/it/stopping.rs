//! Signals: stopping gently, fast and at once; reload.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::harness::raw::{V3_0, query, startup};
use crate::harness::{Carpool, Gate, Message, Postgres, Raw, Setup, eventually};

fn code(replies: &[Message]) -> Option<String> {
    replies.iter().find(|m| m.tag == b'E').and_then(|m| m.field('C'))
}

/// Waits until Carpool has said that it stops.
fn stopping(carpool: &Carpool) {
    carpool.logs("stopping");
}

fn wait_until_running(carpool: &Carpool, text: &str) {
    let sql = format!(
        "select count(*) from pg_stat_activity where datname = '{}' and state = 'active' and query like '%{text}%' \
         and pid <> pg_backend_pid()",
        carpool.database
    );
    eventually("the query runs", || (Postgres::shared().sql("postgres", &sql) != "0").then_some(()));
}

#[test]
fn sigterm_lets_transactions_end_and_idle_clients_go_at_once() {
    let mut carpool = Carpool::start(&Setup::default().database("pool_size = 3"));
    let (mut idle, mut in_transaction, mut busy) = (carpool.client(), carpool.client(), carpool.client());
    idle.value("select 1");
    in_transaction.query("begin");
    let gate = Postgres::shared().gate(&carpool.database);
    busy.send(&query(&format!("select {}, 'finished'", Gate::PASS)));
    wait_until_running(&carpool, "finished");
    carpool.signal("TERM");
    let last = idle.until_closed();
    assert_eq!(code(&last).as_deref(), Some("57P01"), "{last:?}");
    for i in 0..10 {
        assert_eq!(in_transaction.value(&format!("select {i}")), i.to_string());
    }
    drop(gate);
    let replies = busy.until_closed();
    assert!(replies.iter().any(|m| m.tag == b'D'), "{replies:?}");
    assert!(replies.iter().any(|m| m.tag == b'Z'), "{replies:?}");
    assert_eq!(code(&replies).as_deref(), Some("57P01"), "{replies:?}");
    in_transaction.send(&query("commit"));
    let replies = in_transaction.until_closed();
    assert_eq!(replies[0].body, b"COMMIT\0", "{replies:?}");
    assert_eq!(code(&replies).as_deref(), Some("57P01"));
    assert!(carpool.wait().success(), "{}", carpool.log());
    let left = || Postgres::shared().backends(&carpool.database) == 0;
    eventually("no server is left", || left().then_some(()));
}

/// As PgBouncer's SIGTERM and SIGINT.
#[test]
fn patient_signals_wait_for_clients_and_for_transactions() {
    let patient = || Carpool::start(&Setup::pooler("stop_waits_for_clients = true\nshutdown_timeout = 0.1"));
    let mut carpool = patient();
    let mut client = carpool.client();
    carpool.signal("TERM");
    stopping(&carpool);
    for i in 0..10 {
        assert_eq!(client.value(&format!("select {i}")), i.to_string());
    }
    carpool.signal("USR2");
    carpool.logs("got SIGUSR2 while shutting down, ignoring");
    drop(client);
    assert!(carpool.wait().success());
    let mut carpool = patient();
    let mut client = carpool.client();
    carpool.signal("TERM");
    stopping(&carpool);
    carpool.signal("TERM");
    assert_eq!(code(&client.until_closed()).as_deref(), Some("57P01"), "the second one means at once");
    carpool.wait();
    let mut carpool = Carpool::start(&Setup::pooler("stop_waits_for_clients = true"));
    let (mut idle, mut busy) = (carpool.client(), carpool.client());
    busy.query("begin");
    carpool.signal("INT");
    assert_eq!(code(&idle.until_closed()).as_deref(), Some("57P01"));
    assert_eq!(busy.value("select 1"), "1", "the transaction goes on");
    busy.send(&query("commit"));
    assert_eq!(busy.until_closed()[0].body, b"COMMIT\0");
    assert!(carpool.wait().success());
}

#[test]
fn nobody_new_comes_in_while_it_stops() {
    let mut carpool = Carpool::start(&Setup::default());
    let mut holder = carpool.client();
    holder.query("begin");
    carpool.signal("TERM");
    stopping(&carpool);
    eventually("it doesn't listen", || {
        std::net::TcpStream::connect(("127.0.0.1", carpool.port)).is_err().then_some(())
    });
    holder.query("commit");
    assert!(carpool.wait().success());
}

/// Who is half way through a login has nothing to lose.
#[test]
fn logins_under_way_do_not_hold_up_the_end() {
    let setup = Setup::pooler("auth_type = \"scram-sha-256\"\nshutdown_timeout = 600\nclient_login_timeout = 600");
    let mut carpool = Carpool::start(&setup);
    let silent = Raw::connect(carpool.port);
    let mut half = Raw::connect(carpool.port);
    half.send(&startup(V3_0, &[("user", "scram_user"), ("database", &carpool.database)]));
    assert_eq!(half.read().tag, b'R');
    carpool.signal("TERM");
    assert!(carpool.wait().success(), "{}", carpool.log());
    drop(silent);
}

#[test]
fn clients_that_wait_for_a_server_are_told_at_once() {
    let mut carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let (mut holder, mut waiter) = (carpool.client(), carpool.client());
    holder.query("begin");
    waiter.send(&query("select 1"));
    eventually("it waits", || carpool.console("show clients").contains("|waiting|").then_some(()));
    carpool.signal("TERM");
    assert_eq!(code(&waiter.until_closed()).as_deref(), Some("57P01"));
    holder.query("commit");
    assert!(carpool.wait().success());
}

#[test]
fn the_deadline_ends_what_does_not_end() {
    let mut carpool = Carpool::start(&Setup::pooler("shutdown_timeout = 0.3").database("pool_size = 2"));
    let (mut busy, mut in_transaction) = (carpool.client(), carpool.client());
    in_transaction.query("begin");
    busy.send(&query("select pg_sleep(600)"));
    wait_until_running(&carpool, "pg_sleep");
    carpool.signal("TERM");
    assert_eq!(code(&busy.until_closed()).as_deref(), Some("57P01"));
    assert_eq!(code(&in_transaction.until_closed()).as_deref(), Some("57P01"));
    carpool.wait();
    let left = || Postgres::shared().backends(&carpool.database) == 0;
    eventually("the query is cancelled", || left().then_some(()));
}

#[test]
fn sigint_ends_transactions_and_waits_for_queries() {
    let mut carpool = Carpool::start(&Setup::default().database("pool_size = 2"));
    let (mut busy, mut in_transaction) = (carpool.client(), carpool.client());
    in_transaction.query("begin");
    let gate = Postgres::shared().gate(&carpool.database);
    busy.send(&query(&format!("select {}, 'finished'", Gate::PASS)));
    wait_until_running(&carpool, "finished");
    carpool.signal("INT");
    assert_eq!(code(&in_transaction.until_closed()).as_deref(), Some("57P01"));
    drop(gate);
    let replies = busy.until_closed();
    assert!(replies.iter().any(|m| m.tag == b'D'), "{replies:?}");
    assert_eq!(code(&replies).as_deref(), Some("57P01"));
    assert!(carpool.wait().success());
}

#[test]
fn a_second_signal_and_sigquit_end_all_at_once() {
    for signals in [&["TERM", "TERM"][..], &["TERM", "INT"], &["INT", "TERM"], &["QUIT"]] {
        let mut carpool = Carpool::start(&Setup::pooler("shutdown_timeout = 600").database("pool_size = 2"));
        let (mut busy, mut in_transaction) = (carpool.client(), carpool.client());
        in_transaction.query("begin");
        busy.send(&query("select pg_sleep(600)"));
        wait_until_running(&carpool, "pg_sleep");
        for signal in signals {
            carpool.signal(signal);
            stopping(&carpool);
        }
        assert_eq!(code(&busy.until_closed()).as_deref(), Some("57P01"), "{signals:?}");
        assert_eq!(code(&in_transaction.until_closed()).as_deref(), Some("57P01"), "{signals:?}");
        carpool.wait();
    }
}

/// Writes another configuration and has it read.
fn reload(carpool: &Carpool, toml: &str) {
    let count = || carpool.log().matches("reloaded").count();
    let before = count();
    std::fs::write(&carpool.config, toml).unwrap();
    carpool.signal("HUP");
    eventually("it is read", || (count() > before).then_some(()));
}

#[test]
fn a_bad_configuration_changes_nothing() {
    let setup = Setup::default();
    let carpool = Carpool::start(&setup);
    let mut client = carpool.client();
    let good = std::fs::read_to_string(&carpool.config).unwrap();
    for bad in [
        "[pooler".into(),
        format!("{good}\n[databases.more]\nprot = 5432\n"),
        format!("{good}\n[users.more]\npassword = 7\n"),
        good.replace("[pooler]", "[pooler]\ndefault_pool_size = \"many\""),
    ] {
        let count = |text: &str| carpool.log().matches(text).count();
        let (refused, reloaded) = (count("was not reloaded"), count("INFO reloaded"));
        std::fs::write(&carpool.config, &bad).unwrap();
        carpool.signal("HUP");
        eventually("it is refused", || (count("was not reloaded") > refused).then_some(()));
        assert_eq!(count("INFO reloaded"), reloaded);
        assert_eq!(client.value("select 'well'"), "well");
        assert_eq!(carpool.client().value("select 'well'"), "well");
        let mut raw = Raw::connect(carpool.port);
        raw.send(&startup(V3_0, &[("user", "more"), ("database", &carpool.database)]));
        assert!(raw.finish_login().is_some(), "a user of the bad configuration");
    }
}

#[test]
fn databases_and_users_come_and_go_under_load() {
    let postgres = Postgres::shared();
    let setup = Setup::default().database("pool_size = 3");
    let carpool = Carpool::start(&setup);
    let (port, database) = (carpool.port, carpool.database.as_str());
    let listen = format!("listen_port = {port}");
    let with =
        |sections: &str| Setup { pooler: listen.clone(), ..setup.clone() }.sections(sections).toml(postgres, database);
    let extra_name = postgres.new_database();
    postgres.sql("postgres", &format!("create role {extra_name} login"));
    let extra = format!(
        "[databases.{extra_name}]\nhost = \"127.0.0.1\"\nport = {}\npool_size = 2\n[users.{extra_name}]\n",
        postgres.port
    );
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for number in 0..6 {
            let (stop, done) = (&stop, &done);
            scope.spawn(move || {
                let mut client = Raw::login(port, "postgres", database);
                while !stop.load(Ordering::Relaxed) {
                    client.query("begin");
                    assert_eq!(client.value(&format!("select {number}")), number.to_string());
                    client.query("commit");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..10 {
                reload(&carpool, &with(&extra));
                let mut client = Raw::login(port, &extra_name, &extra_name);
                assert_eq!(client.value("select current_database()"), extra_name);
                let mut in_transaction = Raw::login(port, "postgres", &extra_name);
                in_transaction.query("begin");
                reload(&carpool, &with(""));
                // Idle clients of a database that is gone are told; a transaction may end.
                assert_eq!(code(&client.until_closed()).as_deref(), Some("57P01"));
                assert_eq!(in_transaction.value("select 'well'"), "well");
                in_transaction.send(&query("commit"));
                assert_eq!(in_transaction.until_closed()[0].body, b"COMMIT\0");
                for (user, wanted) in [("postgres", &*extra_name), (&extra_name, database)] {
                    let mut raw = Raw::connect(port);
                    raw.send(&startup(V3_0, &[("user", user), ("database", wanted)]));
                    assert!(raw.finish_login().is_some(), "{user} at {wanted} is let in");
                }
                eventually("its servers close", || (postgres.backends(&extra_name) == 0).then_some(()));
            }
        }));
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|e| std::panic::resume_unwind(e));
    });
    assert!(done.load(Ordering::Relaxed) > 0);
}

#[test]
fn a_changed_pool_size_holds_from_the_reload_on() {
    let postgres = Postgres::shared();
    let setup = Setup::default().database("pool_size = 4");
    let carpool = Carpool::start(&setup);
    let mut clients: Vec<_> = (0..4).map(|_| carpool.client()).collect();
    clients.iter_mut().for_each(|c| drop(c.query("begin")));
    assert_eq!(postgres.backends(&carpool.database), 4);
    let listen = format!("listen_port = {}", carpool.port);
    let with = |lines: &str| Setup::pooler(&listen).database(lines).toml(postgres, &carpool.database);
    reload(&carpool, &with("pool_size = 2"));
    clients.iter_mut().for_each(|c| drop(c.query("commit")));
    eventually("two are closed", || (postgres.backends(&carpool.database) == 2).then_some(()));
    assert_eq!(clients[0].value("select 'well'"), "well");
    // Idle ones close as well.
    reload(&carpool, &with("pool_size = 1"));
    eventually("one is closed", || (postgres.backends(&carpool.database) == 1).then_some(()));
    reload(&carpool, &with("pool_size = 3"));
    clients[..3].iter_mut().for_each(|c| drop(c.query("begin")));
    assert_eq!(postgres.backends(&carpool.database), 3);
}

/// A database that moves takes its clients along, each between two transactions.
#[test]
fn a_database_moves_to_another_server() {
    let (old, new) = (Postgres::shared(), Postgres::own());
    let carpool = Carpool::start(&Setup::default().database("pool_size = 2"));
    new.sql("postgres", &format!("create database {}", carpool.database));
    let (mut idle, mut in_transaction) = (carpool.client(), carpool.client());
    idle.query("set timezone = 'CET'");
    idle.send_all(&[crate::harness::raw::parse("s", "show port"), crate::harness::raw::sync()]);
    idle.until_ready();
    in_transaction.query("begin");
    let setup = Setup::pooler(&format!("listen_port = {}", carpool.port)).database("pool_size = 2");
    reload(&carpool, &setup.toml(&new, &carpool.database));
    let (was, is) = (old.port.to_string(), new.port.to_string());
    assert_eq!(idle.value("show port"), is);
    assert_eq!(idle.value("show timezone"), "CET");
    use crate::harness::raw::{bind, execute, sync};
    idle.send_all(&[bind("", "s", &[]), execute("", 0), sync()]);
    let replies = idle.until_ready();
    assert_eq!(replies[1].columns()[0].as_ref(), Some(&is), "{replies:?}");
    assert_eq!(in_transaction.value("show port"), was);
    in_transaction.query("commit");
    assert_eq!(in_transaction.value("show port"), is);
    eventually("the old servers close", || (old.backends(&carpool.database) == 0).then_some(()));
}
