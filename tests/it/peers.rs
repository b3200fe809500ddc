//! Cancel requests that come to another Carpool than the query (`[peers]`).

use crate::harness::postgres::free_port;
use crate::harness::raw::query;
use crate::harness::{Carpool, Postgres, Raw, Setup, eventually};

/// Two that know each other, and one that nobody listens for.
fn pair() -> [Carpool; 2] {
    let (ports, nowhere) = ([free_port(), free_port()], free_port());
    let peers = format!(
        "[peers.1]\nhost = \"127.0.0.1\"\nport = {}\n[peers.2]\nhost = \"127.0.0.1\"\nport = {}\n\
         [peers.3]\nhost = \"127.0.0.1\"\nport = {nowhere}\npool_size = 7\n",
        ports[0], ports[1]
    );
    [0, 1].map(|i| {
        let setup = Setup::pooler(&format!("listen_port = {}\npeer_id = {}", ports[i], i + 1)).sections(&peers);
        Carpool::start(&setup)
    })
}

fn runs(carpool: &Carpool) {
    let sql = format!(
        "select 1 from pg_stat_activity where datname = '{}' and state = 'active' and query like '%pg_sleep%'",
        carpool.database
    );
    eventually("the query runs", || (Postgres::shared().sql("postgres", &sql) == "1").then_some(()));
}

#[test]
fn a_request_that_comes_to_another_one_is_passed_on() {
    let [one, two] = pair();
    let mut client = one.client();
    for port in [two.port, one.port] {
        client.send(&query("select pg_sleep(600)"));
        runs(&one);
        Raw::cancel(port, &client.key);
        let error = client.until_ready().into_iter().find(|m| m.tag == b'E').and_then(|m| m.field('C'));
        assert_eq!(error.as_deref(), Some("57014"), "by port {port}");
        assert_eq!(client.value("select 1"), "1");
    }
    let shown = two.console("SHOW PEERS");
    assert!(shown.contains(&format!("1|127.0.0.1|{}|25", one.port)) && shown.contains("|7"), "{shown}");
    assert_eq!(two.console("SHOW PEER_POOLS"), "1|0|0|0|0\n2|0|0|0|0\n3|0|0|0|0");
    assert!(two.console("SHOW LISTS").contains("peers|3"));
}

#[test]
fn keys_of_nobody_cancel_nothing_and_end() {
    let [one, two] = pair();
    let mut client = one.client();
    client.send(&query("select pg_sleep(600)"));
    runs(&one);
    let key = |change: fn(&mut [u8])| {
        let mut key = client.key.clone();
        change(&mut key[4..]);
        key
    };
    for wrong in [
        // A wrong secret of a session that is there, of a peer that isn't there, of none, passed on too often.
        key(|secret| secret[2] ^= 1),
        key(|secret| secret[..2].copy_from_slice(&[0, 3])),
        key(|secret| secret[..2].copy_from_slice(&[0, 99])),
        key(|secret| secret[3] &= !3),
    ] {
        Raw::cancel(two.port, &wrong);
    }
    two.logs("cancel request could not be passed on");
    runs(&one);
    Raw::cancel(two.port, &client.key);
    client.until_ready();
}
