//! pgbench in its three protocols and in pipelines; what it has booked must add up.

use std::process::Command;

use super::among_others;
use crate::harness::{Postgres, Setup};

const CLIENTS: usize = 8;
const TRANSACTIONS: usize = 60;

/// TPC-B's transaction in one pipeline.
const PIPELINE: &str = r"\set aid random(1, 100000 * :scale)
\set bid random(1, 1 * :scale)
\set tid random(1, 10 * :scale)
\set delta random(-5000, 5000)
\startpipeline
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
END;
\endpipeline
";

fn pgbench(port: u16, database: &str, arguments: &[&str]) {
    let mut command = Command::new("pgbench");
    command.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &port.to_string()]).args(arguments).arg(database);
    let output = command.output().expect("pgbench is installed");
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&text));
}

fn adds_up(arguments: &[&str]) {
    among_others(Setup::default(), |carpool, _| {
        let (postgres, database) = (Postgres::shared(), carpool.database.as_str());
        pgbench(postgres.port, database, &["-i", "-q", "-I", "dtgp"]);
        let (clients, transactions) = (CLIENTS.to_string(), TRANSACTIONS.to_string());
        // A thread each: pgbench waits for one client's connection or PREPARE while another's transaction, of the
        // same thread, holds a server.
        let load = ["-n", "-c", &clients, "-j", &clients, "-t", &transactions];
        pgbench(carpool.port, database, &[&load, arguments].concat());
        let sums = postgres.sql(
            database,
            "select count(*), count(distinct s) from (select sum(abalance) from pgbench_accounts
             union all select sum(tbalance) from pgbench_tellers union all select sum(bbalance) from pgbench_branches
             union all select sum(delta) from pgbench_history) as sums(s)",
        );
        assert_eq!(sums, "4|1", "accounts, tellers, branches and history differ");
        let booked = postgres.sql(database, "select count(*) from pgbench_history");
        assert_eq!(booked, (CLIENTS * TRANSACTIONS).to_string());
    });
}

#[test]
fn simple() {
    adds_up(&["-M", "simple"]);
}

#[test]
fn extended() {
    adds_up(&["-M", "extended"]);
}

#[test]
fn prepared() {
    adds_up(&["-M", "prepared"]);
}

#[test]
fn pipelines() {
    let script = std::env::temp_dir().join(format!("carpool-test-{}-pipeline.sql", std::process::id()));
    std::fs::write(&script, PIPELINE).unwrap();
    let script_name = script.to_str().unwrap();
    adds_up(&["-M", "extended", "-f", script_name]);
    adds_up(&["-M", "prepared", "-f", script_name]);
    std::fs::remove_file(script).unwrap();
}

/// New connections all the time.
#[test]
fn connecting_each_time() {
    adds_up(&["-M", "prepared", "-C"]);
}
