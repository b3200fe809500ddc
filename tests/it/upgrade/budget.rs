//! Where several Carpools share a budget, the two processes of an upgrade are two of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Line, Watch, checked};
use crate::harness::Postgres;

#[test]
fn both_processes_keep_to_one_budget() {
    const BUDGET: usize = 3;
    // By its name what reads the ledger is told from what serves.
    Postgres::shared().sql("postgres", "create role keeper superuser login");
    let terms = format!("shared_pool_size = {BUDGET}\nshared_pool_user = \"keeper\"");
    let line = Line::start("health_check_timeout = 1", &terms);
    let watch = Watch::begin_but(&line.carpool.database, "keeper");
    let (stop, upgrading) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let clients: Vec<_> = (0..6)
        .map(|number| {
            let (port, database) = (line.carpool.port, line.carpool.database.clone());
            let (stop, upgrading) = (Arc::clone(&stop), Arc::clone(&upgrading));
            std::thread::spawn(move || checked(port, database, stop, upgrading, number))
        })
        .collect();
    for _ in 0..4 {
        line.upgrade_fully();
        assert_eq!(line.carpool.client().value("select 'comes in'"), "comes in");
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(!client.join().unwrap()[1].is_empty());
    }
    let most = watch.end();
    assert!((1..=BUDGET).contains(&most), "{most} servers of {BUDGET}");
}
