//! `carpool top`, as a program reads it and on a terminal.

use std::path::Path;
use std::process::Command;

use crate::harness::raw::query;
use crate::harness::{Carpool, Setup, eventually};

fn url(carpool: &Carpool) -> String {
    format!("postgres://postgres@127.0.0.1:{}/pgbouncer", carpool.port)
}

/// What it prints with these arguments, once it has ended well.
fn top(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_carpool")).arg("top").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn batch_mode_shows_who_waits() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let mut client = carpool.client();
    client.query("begin");
    let mut other = carpool.client();
    other.send(&query("select 1"));
    let text = eventually("one waits", || {
        Some(top(&[&url(&carpool), "-b", "-n", "1"])).filter(|text| text.contains(", waiting 1 (longest "))
    });
    let database = text.lines().find(|line| line.starts_with(&carpool.database)).unwrap_or_else(|| panic!("{text}"));
    let columns: Vec<_> = database.split_whitespace().collect();
    assert_eq!(&columns[1..4], ["2", "1", "1"], "clients, waiting, servers: {text}");
    let waiting = text.lines().find(|line| line.contains(" waiting ") && line.contains(&carpool.database));
    assert!(waiting.is_some(), "the client that waits has a line: {text}");
    client.query("commit");
    other.until_ready();
    // Two looks, the second with rates of its own.
    let text = top(&[&url(&carpool), "--batch", "-n", "2", "-d", "0.1", "-o", "name"]);
    assert_eq!(text.matches("XACT/S").count(), 2, "{text}");
    assert!(text.contains("by name"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn what_cannot_be_reached_is_told() {
    let port = crate::harness::postgres::free_port();
    let url = format!("postgres://postgres@127.0.0.1:{port}/pgbouncer");
    let output = Command::new(env!("CARGO_BIN_EXE_carpool")).args(["top", &url, "-b", "-n", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("carpool top: "), "{output:?}");
}

#[test]
fn keys_work_on_a_terminal() {
    let carpool = Carpool::start(&Setup::default());
    let mut client = carpool.client();
    client.value("select 1");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(root.join(".venv/bin/python"))
        .arg(root.join("tests/drivers/top.py"))
        .args([env!("CARGO_BIN_EXE_carpool"), &url(&carpool), &carpool.database])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_configuration_tells_where_the_console_is() {
    let carpool = Carpool::start(&Setup::default());
    // The port in the file is 0: the one at hand is put in.
    let text = std::fs::read_to_string(&carpool.config).unwrap();
    let file = carpool.config.with_extension("top.toml");
    std::fs::write(&file, text.replace("listen_port = 0", &format!("listen_port = {}", carpool.port))).unwrap();
    let text = top(&[file.to_str().unwrap(), "-b", "-n", "1"]);
    std::fs::remove_file(&file).unwrap();
    assert!(text.contains("transactions/s"), "{text}");
}
