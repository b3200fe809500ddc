//! The main job, seen through one client at a time.

use crate::harness::{Carpool, Postgres, Setup};

#[test]
fn a_query_is_answered() {
    let carpool = Carpool::start(&Setup::default());
    let mut client = carpool.client();
    assert_eq!(client.value("select 1 + 1"), "2");
    assert_eq!(client.error("select 1/0"), "22012");
    assert_eq!(client.value("select current_database()"), carpool.database);
}

#[test]
fn clients_share_servers() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let mut clients: Vec<_> = (0..10).map(|_| carpool.client()).collect();
    let pids: Vec<_> = clients.iter_mut().map(|c| c.value("select pg_backend_pid()")).collect();
    assert!(pids.iter().all(|p| *p == pids[0]), "{pids:?}");
    assert_eq!(Postgres::shared().backends(&carpool.database), 1);
}
