//! PgBouncer's settings of pools and clients, each by what it does.

use crate::harness::raw::query;
use crate::harness::{Carpool, Message, Postgres, Raw, Setup, eventually};

fn console(carpool: &Carpool) -> Raw {
    Raw::login(carpool.port, "postgres", "pgbouncer")
}

fn rows(console: &mut Raw, command: &str) -> Vec<Vec<String>> {
    let replies = console.query(command);
    let text = |m: &Message| m.columns().into_iter().map(Option::unwrap_or_default).collect();
    replies.iter().filter(|m| m.tag == b'D').map(text).collect()
}

#[test]
fn the_reserve_serves_those_who_have_waited_and_is_given_up() {
    let pooler = "reserve_pool_size = 1\nreserve_pool_timeout = 0.2";
    let carpool = Carpool::start(&Setup::pooler(pooler).database("pool_size = 1"));
    let (mut holder, mut waiter) = (carpool.client(), carpool.client());
    holder.query("begin");
    assert_eq!(waiter.value("select 'served'"), "served", "by the reserve");
    carpool.logs("taking connection from reserve_pool");
    let backends = || Postgres::shared().backends(&carpool.database);
    eventually("the reserve is given up", || {
        waiter.query("select 1");
        (backends() <= 2).then_some(())
    });
    holder.query("commit");
    eventually("the pool has its size again", || {
        waiter.query("select 1");
        (backends() == 1).then_some(())
    });
}

#[test]
fn those_who_wait_get_a_notice_once() {
    let carpool = Carpool::start(&Setup::pooler("query_wait_notify = 0.2").database("pool_size = 1"));
    let (mut holder, mut waiter) = (carpool.client(), carpool.client());
    holder.query("begin");
    waiter.send(&query("select 'served'"));
    let notice = waiter.read();
    assert_eq!(notice.tag, b'N', "{notice:?}");
    assert!(notice.field('M').unwrap().starts_with("No server connection available"), "{notice:?}");
    // Longer than a second time would take.
    holder.query("select pg_sleep(0.5)");
    holder.query("commit");
    assert_eq!(waiter.read().tag, b'T', "no second notice");
    waiter.until_ready();
}

#[test]
fn servers_take_turns_if_they_are_to() {
    for (setting, want) in [("true", 3), ("false", 1)] {
        let setup = Setup::pooler(&format!("server_round_robin = {setting}")).database("pool_size = 3");
        let carpool = Carpool::start(&setup);
        let mut clients: Vec<_> = (0..3).map(|_| carpool.client()).collect();
        clients.iter_mut().for_each(|client| drop(client.query("begin")));
        clients.iter_mut().for_each(|client| drop(client.query("commit")));
        let pids = (0..6).map(|_| clients[0].value("select pg_backend_pid()"));
        assert_eq!(pids.collect::<std::collections::HashSet<_>>().len(), want, "{setting}");
    }
}

#[test]
fn fast_close_ends_idle_sessions_whose_server_is_outdated() {
    let carpool = Carpool::start(&Setup::pooler("pool_mode = \"session\"\nserver_fast_close = true"));
    let (mut idle, mut busy, mut console) = (carpool.client(), carpool.client(), console(&carpool));
    idle.query("select 1");
    busy.query("begin");
    console.query("RECONNECT");
    assert_eq!(idle.until_closed()[0].field('M').as_deref(), Some("database configuration changed"));
    assert_eq!(busy.value("select 1"), "1", "its transaction goes on");
    busy.send(&query("commit"));
    let last = busy.until_closed();
    assert_eq!(last[0].body, b"COMMIT\0", "{last:?}");
}

#[test]
fn pools_of_the_fallback_are_forgotten_when_nobody_uses_them() {
    let postgres = Postgres::shared();
    let other = postgres.new_database();
    let pooler = "autodb_idle_timeout = 0.5\nserver_idle_timeout = 0.2";
    let sections = format!("[databases.'*']\nhost = \"127.0.0.1\"\nport = {}\n", postgres.port);
    let carpool = Carpool::start(&Setup::pooler(pooler).sections(&sections));
    let mut console = console(&carpool);
    let has = |console: &mut Raw| rows(console, "show databases").iter().any(|row| row[0] == other);
    let mut client = Raw::login(carpool.port, "postgres", &other);
    client.query("select 1");
    eventually("its server is gone", || (postgres.backends(&other) == 0).then_some(()));
    assert!(has(&mut console), "a client is there");
    assert_eq!(client.value("select 2"), "2");
    drop(client);
    eventually("it is forgotten", || (!has(&mut console)).then_some(()));
    assert_eq!(Raw::login(carpool.port, "postgres", &other).value("select 3"), "3");
    assert!(rows(&mut console, "show databases").iter().any(|row| row[0] == carpool.database), "those named stay");
}

#[test]
fn the_address_is_added_to_the_application_name() {
    let carpool = Carpool::start(&Setup::pooler("application_name_add_host = true"));
    let parameters = [("user", "postgres"), ("database", carpool.database.as_str()), ("application_name", "shop")];
    let mut named = Raw::login_with(carpool.port, &parameters);
    let address = named.stream().local_addr().unwrap();
    assert_eq!(named.value("show application_name"), format!("shop - {address}"));
    let mut nameless = carpool.client();
    let address = nameless.stream().local_addr().unwrap();
    assert_eq!(nameless.value("show application_name"), format!("app - {address}"));
}

/// The time in transactions isn't the session's.
#[test]
fn transaction_times_of_sessions_leave_out_what_is_between() {
    let pooler = "pool_mode = \"session\"\ntransaction_timeout = 1";
    let carpool = Carpool::start(&Setup::pooler(pooler));
    let (mut client, mut console) = (carpool.client(), console(&carpool));
    client.query("select pg_sleep(0.1)");
    // The session is older than a transaction may be, and its transactions aren't.
    let old = format!(
        "select clock_timestamp() - backend_start > '1.2 s' from pg_stat_activity where datname = '{}'",
        carpool.database
    );
    eventually("it is old", || (Postgres::shared().sql("postgres", &old) == "t").then_some(()));
    client.query("select pg_sleep(0.3)");
    assert_eq!(client.value("select 1"), "1");
    drop(client);
    let time = eventually("the server is free", || {
        let free = rows(&mut console, "show servers").iter().all(|row| row[4] != "active");
        let stats = rows(&mut console, "show stats");
        let row = stats.into_iter().find(|row| row[0] == carpool.database)?;
        free.then(|| row[6].parse::<u64>().unwrap())
    });
    assert!((400_000..1_200_000).contains(&time), "{time}");
}

/// What was asked for before the goodbye is done, as on a connection of its own.
#[test]
fn a_query_in_the_queue_runs_though_its_client_has_said_goodbye() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let (mut holder, mut parting, mut console) = (carpool.client(), carpool.client(), console(&carpool));
    holder.query("create table t (a int); begin");
    let goodbye = crate::harness::raw::message('X', b"");
    parting.send_all(&[query("insert into t values (1)"), goodbye]);
    drop(parting);
    eventually("it waits", || rows(&mut console, "show pools").iter().any(|row| row[3] == "1").then_some(()));
    holder.query("commit");
    let count = || Postgres::shared().sql(&carpool.database, "select count(*) from t");
    eventually("it has run", || (count() == "1").then_some(()));
    eventually("it is gone", || {
        let clients = rows(&mut console, "show clients");
        (clients.iter().filter(|row| row[2] == carpool.database).count() == 1).then_some(())
    });
}

/// Over all pools together; an idle server of one makes way for another's.
#[test]
fn a_user_has_its_connections_over_all_pools() {
    let postgres = Postgres::shared();
    let other = postgres.new_database();
    let sections = format!("[databases.{other}]\nhost = \"127.0.0.1\"\nport = {}\n", postgres.port);
    let setup = Setup::pooler("max_user_connections = 2\nquery_wait_timeout = 5").sections(&sections);
    let carpool = Carpool::start(&setup);
    let mut here: Vec<_> = (0..2).map(|_| carpool.client()).collect();
    here.iter_mut().for_each(|client| drop(client.query("begin")));
    let mut refused = Raw::connect(carpool.port);
    refused
        .send(&crate::harness::raw::startup(crate::harness::raw::V3_0, &[("user", "postgres"), ("database", &other)]));
    let error = refused.finish_login().unwrap();
    assert_eq!(error.field('M').as_deref(), Some("query_wait_timeout"), "{error:?}");
    let mut app = Raw::login(carpool.port, "app", &other);
    assert_eq!(app.value("select 1"), "1", "each user has its own");
    here[0].query("commit");
    assert_eq!(Raw::login(carpool.port, "postgres", &other).value("select 2"), "2", "the idle one made way");
    let count = "select count(*) from pg_stat_activity where usename = 'postgres' and datname in ";
    let count = postgres.sql("postgres", &format!("{count} ('{other}', '{}')", carpool.database));
    assert!(count.parse::<u32>().unwrap() <= 2, "{count}");
    assert_eq!(here[1].value("select 3"), "3");
}

/// A reload makes the server read-only in the midst of sessions, as on direct connections, and not for good.
#[test]
fn a_server_made_read_only_is_so_for_all_until_it_is_over() {
    let postgres = Postgres::own();
    let database = postgres.new_database();
    let carpool = Carpool::before(&postgres, &database, &Setup::default().database("pool_size = 1"));
    let mut clients = [carpool.client(), carpool.client()];
    clients[0].query("create table t (a int)");
    let mut chosen = carpool.client();
    chosen.query("set default_transaction_read_only = off");
    for (change, want) in
        [("set default_transaction_read_only = on", "on"), ("reset default_transaction_read_only", "off")]
    {
        postgres.sql("postgres", &format!("alter system {change}"));
        postgres.sql("postgres", "select pg_reload_conf()");
        let mut server = Raw::login(postgres.port, "postgres", &database);
        eventually("it is reloaded", || (server.value("show default_transaction_read_only") == want).then_some(()));
        for client in &mut clients {
            // Each server notices by itself.
            eventually("the client sees it", || {
                (client.value("show default_transaction_read_only") == want).then_some(())
            });
        }
        for client in &mut clients {
            assert_eq!(client.value("show default_transaction_read_only"), want);
            let replies = client.query("insert into t values (1)");
            assert_eq!(replies[0].tag == b'E', want == "on", "{replies:?}");
            assert_eq!(chosen.value("show default_transaction_read_only"), "off", "it has set that itself");
        }
    }
    // What a client has set is its own, also where its text doesn't show it.
    clients[0].query(
        "create schema pg; create function pg.lower(text) returns text language sql as \
        'select set_config(''default_transaction_read_only'', $1, false)'",
    );
    clients[0].query("set search_path = pg, public, pg_catalog");
    for set in [
        "set default_transaction_read_only = on",
        "set session characteristics as transaction read only",
        "select lower('on')",
    ] {
        clients[0].query(set);
        assert_eq!(clients[1].value("show default_transaction_read_only"), "off");
        assert_eq!(clients[0].error("insert into t values (1)"), "25006");
        clients[0].query("set default_transaction_read_only = off");
        assert_eq!(clients[1].value("show default_transaction_read_only"), "off");
        assert_eq!(clients[0].value("show default_transaction_read_only"), "off");
    }
}
