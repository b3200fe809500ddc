//! `log_slow_transactions`.

use crate::harness::raw::query;
use crate::harness::{Carpool, Raw, Setup, eventually};

/// The lines of slow transactions so far.
fn slow(carpool: &Carpool) -> Vec<String> {
    carpool.log().lines().filter(|line| line.contains("slow transaction")).map(str::to_owned).collect()
}

fn one(carpool: &Carpool) -> String {
    eventually("a slow transaction in the log", || slow(carpool).pop())
}

/// A number of seconds behind `what`.
fn seconds(line: &str, what: &str) -> f64 {
    let (_, rest) = line.split_once(what).unwrap_or_else(|| panic!("no {what:?} in {line}"));
    rest.split(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{line}"))
}

#[test]
fn the_line_says_where_the_time_went() {
    let setup = Setup::pooler("log_slow_transactions = 0.3").database("pool_size = 1");
    let carpool = Carpool::start(&setup);
    let mut client = Raw::login_with(
        carpool.port,
        &[("user", "postgres"), ("database", &carpool.database), ("application_name", "night\u{1b}ly")],
    );
    client.value("select 'fast'");
    client.query("begin");
    client.value("select pg_sleep(0.4), 'secret'");
    let mut other = carpool.client();
    other.send(&query("select 2"));
    std::thread::sleep(std::time::Duration::from_millis(400));
    client.query("commit");
    other.until_ready();
    let lines = eventually("both lines", || Some(slow(&carpool)).filter(|lines| lines.len() == 2));
    let mine = lines.iter().find(|line| line.contains("ly")).unwrap();
    assert!(seconds(mine, ", server ") >= 0.4, "{mine}");
    assert!(seconds(mine, ", client ") >= 0.3, "{mine}");
    assert!(seconds(mine, "(waited for a server ") < 0.3, "{mine}");
    assert!(seconds(mine, "slow transaction: ") >= 0.7, "{mine}");
    for part in ["user=postgres", &format!("database={}", carpool.database), "client=", "server=", "left_out=0"] {
        assert!(mine.contains(part), "no {part} in {mine}");
    }
    assert!(!mine.contains("secret") && !mine.contains("pg_sleep"), "texts aren't logged: {mine}");
    assert!(!mine.contains('\u{1b}'), "{mine:?}");
    let others = lines.iter().find(|line| !line.contains("ly")).unwrap();
    assert!(seconds(others, "(waited for a server ") >= 0.3, "who waited is slow, too: {others}");
    assert!(seconds(others, ", server ") < 0.3, "{others}");
}

#[test]
fn repeats_are_left_out_and_pins_named() {
    let carpool = Carpool::start(&Setup::pooler("log_slow_transactions = 0.1"));
    let mut client = carpool.client();
    client.query("create temp table kept (a int)");
    for _ in 0..3 {
        client.value("select pg_sleep(0.15)");
    }
    assert!(one(&carpool).contains("pinned=temporary object"), "{}", one(&carpool));
    // Another application is told of all the same.
    client.query("set application_name = 'other'");
    client.value("select pg_sleep(0.15)");
    eventually("the other's line", || slow(&carpool).iter().any(|line| line.contains("other")).then_some(()));
    assert_eq!(slow(&carpool).len(), 2, "{:?}", slow(&carpool));
}

#[test]
fn it_is_off_until_it_is_set() {
    let carpool = Carpool::start(&Setup::default());
    let mut client = carpool.client();
    client.value("select pg_sleep(0.2)");
    let mut console = Raw::login(carpool.port, "postgres", "pgbouncer");
    console.query("SET log_slow_transactions = 0.1");
    client.value("select pg_sleep(0.2)");
    one(&carpool);
    assert_eq!(slow(&carpool).len(), 1);
}
