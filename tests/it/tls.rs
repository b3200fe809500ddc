//! TLS on both sides: who gets in how, whom Carpool believes, what is the same as without it, and what attackers try.

mod clients;
mod hostile;
mod reload;
mod servers;
mod traffic;

use std::process::Command;

use crate::harness::Carpool;

/// Runs SQL through psql; gives what it prints, or why it failed.
fn psql(carpool: &Carpool, conninfo: &str, sql: &str) -> Result<String, String> {
    psql_as(carpool.port, &format!("dbname={} user=postgres {conninfo}", carpool.database), sql)
}

fn psql_as(port: u16, conninfo: &str, sql: &str) -> Result<String, String> {
    let host = if conninfo.contains("host=") { "" } else { "host=localhost hostaddr=127.0.0.1" };
    let conninfo = format!("{host} port={port} connect_timeout=20 {conninfo}");
    let output = Command::new("timeout")
        .args(["60", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", &conninfo, "-c", sql])
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The `tls` column of SHOW CLIENTS or SHOW SERVERS for each row of the database.
fn tls_column(carpool: &Carpool, what: &str) -> Vec<String> {
    let rows = carpool.console(&format!("show {what}"));
    let rows = rows.lines().map(|row| row.split('|').collect::<Vec<_>>());
    rows.filter(|row| row[2] == carpool.database).map(|row| row[17].to_owned()).collect()
}
