//! The unix socket: sessions, cancel requests, the console for whom Carpool runs as, and its file.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::harness::postgres::free_port;
use crate::harness::{Carpool, Postgres, Raw, Setup, eventually};

/// A Carpool that listens on a unix socket, too. The directory is gone with this value.
struct Local {
    carpool: Carpool,
    dir: PathBuf,
}

impl Local {
    fn start(pooler: &str) -> Self {
        let port = free_port();
        let dir = std::env::temp_dir().join(format!("carpool-unix-{}-{port}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let lines = format!("unix_socket_dir = \"{}\"\nlisten_port = {port}\n{pooler}", dir.display());
        Self { carpool: Carpool::start(&Setup::pooler(&lines)), dir }
    }

    fn socket(&self) -> PathBuf {
        self.dir.join(format!(".s.PGSQL.{}", self.carpool.port))
    }

    /// psql by the socket, without a password.
    fn psql(&self, user: &str, database: &str, command: &str) -> Command {
        let mut psql = Command::new("psql");
        psql.args(["-XAtw", "-h", self.dir.to_str().unwrap(), "-p", &self.carpool.port.to_string()]);
        psql.args(["-U", user, "-d", database, "-c", command]);
        psql
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

fn stderr(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn sessions_go_by_the_socket_and_its_file_goes_with_the_process() {
    let mut local = Local::start("unix_socket_mode = \"0700\"");
    let file = std::fs::metadata(local.socket()).unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o700);
    let database = local.carpool.database.clone();
    let output = local.psql("postgres", &database, "select current_database()").output().unwrap();
    assert_eq!(stdout(&output), database);
    let mut console = Raw::login(local.carpool.port, "postgres", "pgbouncer");
    let mut psql = local.psql("postgres", &database, "select pg_sleep(600)").stdout(Stdio::null()).spawn().unwrap();
    let row = eventually("it is shown", || {
        let clients = console.query("show clients");
        let mut rows = clients.iter().filter(|m| m.tag == b'D').map(crate::harness::Message::columns);
        rows.find(|row| row[5].as_deref() == Some("unix"))
    });
    assert_eq!(row[6].as_deref(), Some(local.carpool.port.to_string().as_str()));
    local.carpool.signal("INT");
    psql.wait().unwrap();
    assert!(local.carpool.wait().success());
    assert!(!local.socket().exists());
}

#[test]
fn a_file_that_a_dead_process_left_is_replaced_and_a_living_one_is_not() {
    let local = Local::start("");
    let port = local.carpool.port;
    let second = Setup::pooler(&format!(
        "unix_socket_dir = \"{}\"\nlisten_addr = []\nlisten_port = {port}",
        local.dir.display()
    ));
    let toml = second.toml(Postgres::shared(), "none");
    let config = local.dir.join("second.toml");
    let mut rival = Carpool::spawn(&config, "none", &toml, &[]);
    assert!(!rival.wait().success());
    rival.logs("cannot listen on");
    local.carpool.signal("KILL");
    let mut dead = local;
    dead.carpool.wait();
    assert!(dead.socket().exists());
    let heir = Carpool::spawn(&config, "none", &toml, &[]);
    heir.logs("listening on unix:");
}

#[test]
fn a_cancel_request_goes_by_the_socket() {
    let local = Local::start("");
    let database = local.carpool.database.clone();
    let mut psql = local.psql("postgres", &database, "select pg_sleep(600), 'by unix'");
    let psql = psql.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let running =
        format!("select count(*) from pg_stat_activity where datname = '{database}' and query like '%by unix%'");
    eventually("it runs", || (Postgres::shared().sql("postgres", &running) == "1").then_some(()));
    let sent = Command::new("kill").args(["-s", "INT", &psql.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let said = stderr(&psql.wait_with_output().unwrap());
    assert!(said.contains("canceling statement due to user request"), "{said}");
}

/// Whoever Carpool runs as could read its secrets anyway.
#[test]
fn the_own_user_needs_no_password_for_the_console() {
    let local = Local::start("auth_type = \"scram-sha-256\"");
    for name in ["pgbouncer", "carpool"] {
        let output = local.psql(name, name, "show version").output().unwrap();
        assert!(stdout(&output).starts_with("Carpool "));
        assert_eq!(stdout(&local.psql(name, name, "set verbose = 1").output().unwrap()), "SET verbose=1", "an admin");
    }
    let database = local.carpool.database.clone();
    let refused = stderr(&local.psql("pgbouncer", &database, "select 1").output().unwrap());
    assert!(refused.contains("password"), "for the console alone: {refused}");
    let refused = stderr(&local.psql("postgres", "pgbouncer", "show version").output().unwrap());
    assert!(refused.contains("password"), "under its own name alone: {refused}");
    let mut by_tcp = local.psql("pgbouncer", "pgbouncer", "show version");
    let refused = stderr(&by_tcp.args(["-h", "127.0.0.1"]).output().unwrap());
    assert!(refused.contains("password"), "by the socket alone: {refused}");
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if root {
        let mut other = Command::new("setpriv");
        other.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "--", "psql", "-XAtw", "-h"]);
        other.arg(&local.dir).args(["-p", &local.carpool.port.to_string(), "-U", "pgbouncer", "-c", "show version"]);
        let refused = stderr(&other.arg("pgbouncer").env("HOME", "/").current_dir("/").output().unwrap());
        assert!(refused.contains("password"), "nobody else: {refused}");
    }
}

/// It is the way in for those who look after it, to the end.
#[test]
fn the_console_is_open_while_it_waits_for_clients_to_leave() {
    let mut local = Local::start("");
    let database = local.carpool.database.clone();
    let (mut client, mut console) = (local.carpool.client(), Raw::login(local.carpool.port, "postgres", "pgbouncer"));
    client.query("select 1");
    console.query("SHUTDOWN WAIT_FOR_CLIENTS");
    local.carpool.logs("stopping");
    let refused = stderr(&local.psql("postgres", &database, "select 1").output().unwrap());
    assert!(refused.contains("Carpool is shutting down"), "{refused}");
    assert!(stdout(&local.psql("postgres", "pgbouncer", "show clients").output().unwrap()).contains(&database));
    assert_eq!(client.value("select 2"), "2");
    assert_eq!(stdout(&local.psql("postgres", "pgbouncer", "shutdown").output().unwrap()), "SHUTDOWN");
    assert_eq!(client.until_closed()[0].field('C').as_deref(), Some("57P01"));
    assert!(local.carpool.wait().success());
}
