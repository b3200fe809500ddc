//! Several hosts per database: real streaming replication, promotion, hosts that fail in every way.

use std::net::TcpListener;

use crate::harness::postgres::free_port;
use crate::harness::raw::startup;
use crate::harness::{Carpool, Postgres, Raw, Setup, eventually};

// Further tests are in `replicas.rs` and `failover.rs`.

/// The lines of a database with these ports on 127.0.0.1.
pub fn places(ports: &[u16]) -> String {
    let hosts = vec!["127.0.0.1"; ports.len()].join(",");
    format!("host = \"{hosts}\"\nport = {ports:?}\n")
}

/// Carpool before these ports.
pub fn carpool(postgres: &Postgres, database: &str, pooler: &str, ports: &[u16], lines: &str) -> Carpool {
    let setup = Setup::pooler(pooler).database(&format!("{}{lines}\n", places(ports)));
    Carpool::before(postgres, database, &setup)
}

/// A primary with a database and a table `t`, and its standby, that has both.
pub fn replicated() -> (Postgres, Postgres, String) {
    let primary = Postgres::own();
    let database = primary.new_database();
    primary.sql(&database, "create table t (client int, n int)");
    let standby = primary.standby("s1");
    eventually("the standby has the table", || {
        (standby.sql(&database, "select count(*) from pg_class where relname = 't'") == "1").then_some(())
    });
    (primary, standby, database)
}

/// A second standby, which follows the first. (PostgreSQL makes no copy of a standby without `full_page_writes`.)
pub fn cascading(primary: &Postgres, standby: &Postgres) -> Postgres {
    let second = primary.standby("s2");
    let conninfo = format!("host=127.0.0.1 port={} user=postgres", standby.port);
    second.sql("postgres", &format!("alter system set primary_conninfo = '{conninfo}'"));
    second.sql("postgres", "select pg_reload_conf()");
    eventually("it follows the other standby", || {
        let sql = "select sender_port from pg_stat_wal_receiver where status = 'streaming'";
        (second.sql("postgres", sql) == standby.port.to_string()).then_some(())
    });
    second
}

/// The port that a client's server listens on.
pub const PORT: &str = "select current_setting('port')";

pub fn port(client: &mut Raw) -> u16 {
    client.value(PORT).parse().unwrap()
}

/// The ports of the servers that a client gets one after the other, each closed behind it.
fn ports_of_new_servers(carpool: &Carpool, count: usize) -> Vec<u16> {
    let each = (0..count).map(|_| {
        let port = port(&mut carpool.client());
        carpool.console(&format!("reconnect {}", carpool.database));
        eventually("the server is closed", || carpool.console("show servers").is_empty().then_some(()));
        port
    });
    each.collect()
}

#[test]
fn new_connections_take_turns_or_prefer_the_first() {
    let (a, b) = (Postgres::own(), Postgres::own());
    let turns = carpool(&a, "postgres", "", &[a.port, b.port], "");
    let ports = ports_of_new_servers(&turns, 4);
    assert_eq!(ports[0], ports[2]);
    assert_eq!(ports[1], ports[3]);
    assert_ne!(ports[0], ports[1]);
    let first = carpool(&a, "postgres", "", &[b.port, a.port], "load_balance_hosts = \"disable\"");
    assert_eq!(ports_of_new_servers(&first, 3), [b.port; 3]);
    let row = first.console("show databases");
    assert!(row.contains("127.0.0.1,127.0.0.1") && row.contains("|disable|"), "{row}");
}

#[test]
fn a_host_that_is_never_there_holds_nobody_up() {
    let postgres = Postgres::own();
    let dead = free_port();
    let carpool = carpool(&postgres, "postgres", "", &[dead, postgres.port], "load_balance_hosts = \"disable\"");
    assert_eq!(ports_of_new_servers(&carpool, 3), [postgres.port; 3]);
    carpool.logs("host is left alone for a while");
    let hosts = carpool.console("show hosts");
    let line = |port: u16| hosts.lines().find(|line| line.contains(&format!("|{port}|"))).unwrap().to_owned();
    assert!(line(dead).contains("|down|") && line(dead).contains("cannot connect to server"), "{hosts}");
    assert!(line(postgres.port).contains("|primary|up|"), "{hosts}");
}

#[test]
fn a_host_that_hangs_holds_up_one_login() {
    let postgres = Postgres::own();
    // The system accepts, nobody says anything.
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let ports = [silent.local_addr().unwrap().port(), postgres.port];
    let pooler = "server_connect_timeout = 2\nserver_login_retry = 60";
    let carpool = carpool(&postgres, "postgres", pooler, &ports, "load_balance_hosts = \"disable\"\npool_size = 3");
    let mut first = carpool.client();
    assert_eq!(port(&mut first), postgres.port);
    carpool.logs("server_connect_timeout");
    assert_eq!(ports_of_new_servers(&carpool, 2), [postgres.port; 2]);
}

#[test]
fn all_hosts_down_and_back() {
    let (primary, standby, database) = replicated();
    let pooler = "server_login_retry = 0.5";
    let carpool =
        carpool(&primary, &database, pooler, &[primary.port, standby.port], "target_session_attrs = \"primary\"");
    let mut client = carpool.client();
    assert_eq!(port(&mut client), primary.port);
    standby.control(&["stop", "-s", "-m", "immediate"]);
    primary.control(&["stop", "-s", "-m", "immediate"]);
    // Who comes now waits.
    let waiting = {
        let (port, database) = (carpool.port, carpool.database.clone());
        std::thread::spawn(move || Raw::login(port, "postgres", &database).value(PORT))
    };
    eventually("it has found out about both", || {
        (carpool.console("show hosts").lines().filter(|line| line.contains("|down|")).count() == 2).then_some(())
    });
    standby.start_again();
    carpool.logs("host answers again");
    primary.start_again();
    assert_eq!(waiting.join().unwrap(), primary.port.to_string());
    assert_eq!(client.value("select 'on'"), "on");
}

#[test]
fn who_waits_in_vain_is_told_of_each_host() {
    let (primary, standby, database) = replicated();
    let dead = free_port();
    let ports = [dead, standby.port];
    let lines = "target_session_attrs = \"read-write\"\nquery_wait_timeout = 2";
    let carpool = carpool(&primary, &database, "", &ports, lines);
    let mut raw = Raw::connect(carpool.port);
    raw.send(&startup(196_608, &[("user", "postgres"), ("database", &database)]));
    let error = raw.finish_login().unwrap();
    let detail = error.field('D').unwrap();
    assert!(detail.contains(&format!("127.0.0.1:{dead}")), "{detail}");
    let role =
        format!("server 127.0.0.1:{} is a standby, which is not read-write (target_session_attrs)", standby.port);
    assert!(detail.contains(&role), "{detail}");
}

#[test]
fn servers_have_the_role_that_is_wanted() {
    let (primary, standby, database) = replicated();
    let ports = [primary.port, standby.port];
    for (attrs, expected) in [
        ("primary", primary.port),
        ("read-write", primary.port),
        ("standby", standby.port),
        ("read-only", standby.port),
        ("prefer-standby", standby.port),
    ] {
        let lines = format!("target_session_attrs = \"{attrs}\"");
        let carpool = carpool(&primary, &database, "", &ports, &lines);
        assert_eq!(ports_of_new_servers(&carpool, 3), [expected; 3], "{attrs}");
        let only = [primary.port];
        if attrs == "prefer-standby" {
            let carpool = self::carpool(&primary, &database, "", &only, &lines);
            assert_eq!(ports_of_new_servers(&carpool, 2), [primary.port; 2], "there is no standby");
        }
    }
    primary.sql("postgres", "alter system set default_transaction_read_only = on");
    primary.sql("postgres", "select pg_reload_conf()");
    let carpool = carpool(&primary, &database, "", &[primary.port], "target_session_attrs = \"read-only\"");
    assert_eq!(port(&mut carpool.client()), primary.port);
}

#[test]
fn a_connection_to_a_standby_that_is_promoted_is_closed() {
    let (primary, standby, database) = replicated();
    // One that follows the old primary wouldn't do.
    let second = cascading(&primary, &standby);
    let lines = "target_session_attrs = \"standby\"\nload_balance_hosts = \"disable\"";
    let carpool = carpool(&primary, &database, "", &[standby.port, second.port], lines);
    let mut client = carpool.client();
    assert_eq!(port(&mut client), standby.port);
    standby.control(&["promote", "-s", "-w"]);
    // PostgreSQL says so with the end of a query.
    eventually("the other standby", || (port(&mut client) == second.port).then_some(()));
    assert!(carpool.log().contains("it is a primary now"), "{}", carpool.log());
}

#[test]
fn a_reload_changes_the_list() {
    let (a, b) = (Postgres::own(), Postgres::own());
    let carpool = carpool(&a, "postgres", "", &[a.port], "");
    let mut client = carpool.client();
    assert_eq!(port(&mut client), a.port);
    let lines = format!("{}load_balance_hosts = \"disable\"\n", places(&[free_port(), b.port]));
    let setup = Setup::default().database(&lines);
    std::fs::write(&carpool.config, setup.toml(&a, "postgres")).unwrap();
    carpool.signal("HUP");
    eventually("the new host", || (port(&mut client) == b.port).then_some(()));
}
