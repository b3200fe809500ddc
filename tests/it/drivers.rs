//! Drivers and their habits, through transaction mode with two servers: every transaction may land on another
//! one, and other clients use the same statement names, with other settings, all the while.
//!
//! The scripts in `tests/drivers` do the same on a direct connection and compare.

mod pgbench;
mod rust;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::harness::raw::{bind, describe, execute, parse, sync, tags};
use crate::harness::{Carpool, Postgres, Raw, Setup, eventually};

/// Statement names that drivers use.
const NAMES: [&str; 6] = ["", "_pg3_0", "_pg3_1", "__asyncpg_stmt_1__", "s0", "sqlx_s_1"];

/// A client in the background that is in everybody's way: it prepares its own statements under the names that
/// drivers use and changes its settings, and checks that it gets its own answers.
struct Nuisance {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Nuisance {
    fn start(carpool: &Carpool, number: usize) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&done));
        let (port, database) = (carpool.port, carpool.database.clone());
        let thread = std::thread::spawn(move || {
            let zone = ["Asia/Kolkata", "America/St_Johns"][number % 2];
            let parameters =
                [("user", "postgres"), ("database", &database), ("TimeZone", zone), ("application_name", "nuisance")];
            let mut client = Raw::login_with(port, &parameters);
            for name in &NAMES[1..] {
                client.send_all(&[parse(name, &own_query(name, number)), sync()]);
                assert_eq!(tags(&client.until_ready()), "1Z");
            }
            let mut round = 0;
            while !stopped.load(Ordering::Relaxed) {
                nuisance_round(&mut client, round, number, zone);
                round += 1;
                count.store(round as u64, Ordering::Relaxed);
                // A pace, so that many tests at once don't take the processor from each other.
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Self { stop, done, thread: Some(thread) }
    }

    /// Ends it; it must have got on, and fared well.
    fn finish(mut self) {
        eventually("other clients get on", || (self.done.load(Ordering::Relaxed) >= 5).then_some(()));
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Nuisance {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn own_query(name: &str, number: usize) -> String {
    format!("select 'nuisance {number} {name} ' || $1::text || current_setting('TimeZone')")
}

fn nuisance_round(client: &mut Raw, round: usize, number: usize, zone: &str) {
    let name = NAMES[round % NAMES.len()];
    if name.is_empty() {
        client.send(&parse(name, &own_query(name, number)));
    }
    client.send_all(&[describe('S', name), bind("", name, &[&round.to_string()]), execute("", 0), sync()]);
    let replies = client.until_ready();
    let row = replies.iter().find(|m| m.tag == b'D').unwrap_or_else(|| panic!("{name}: {replies:?}"));
    assert_eq!(row.columns()[0], Some(format!("nuisance {number} {name} {round}{zone}")));
    if round % 5 == 0 {
        client.query(&format!("set application_name to 'nuisance {round}'; set datestyle to 'German'"));
        client.query("begin");
        assert_eq!(client.value("select '2024-12-31'::date"), "31.12.2024");
        assert_eq!(client.value("show application_name"), format!("nuisance {round}"));
        client.query("rollback");
    }
}

/// Runs `work` in front of a new database with two servers, nuisances included.
fn among_others(setup: Setup, work: impl FnOnce(&Carpool, &str)) {
    let carpool = Carpool::start(&setup.database("pool_size = 2"));
    let nuisances: Vec<_> = (0..2).map(|n| Nuisance::start(&carpool, n)).collect();
    let direct = format!("postgresql://postgres@127.0.0.1:{}/{}", Postgres::shared().port, carpool.database);
    work(&carpool, &direct);
    nuisances.into_iter().for_each(Nuisance::finish);
    // Direct connections of the script's own may still be on their way out.
    let servers = || Postgres::shared().backends(&carpool.database);
    eventually("the pool's servers alone are left", || (servers() <= 2).then_some(()));
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn prepared(path: PathBuf) -> PathBuf {
    assert!(path.exists(), "{} is missing: `make test` prepares it (tests/setup.sh)", path.display());
    path
}

/// What follows is ended when it hangs.
fn limited() -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "240"]);
    command
}

/// The interpreter with the drivers.
pub fn python() -> Command {
    let given = std::env::var_os("CARPOOL_TEST_PYTHON").map(PathBuf::from);
    let mut command = limited();
    command.arg(prepared(given.unwrap_or_else(|| root().join(".venv/bin/python"))));
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONPATH", root().join(".venv/psycopg3"));
    command
}

pub fn node() -> Command {
    prepared(root().join("tests/drivers/node_modules/pg"));
    let mut command = limited();
    command.arg("node");
    command
}

/// Runs a script of `tests/drivers` with further arguments.
pub fn script(mut interpreter: Command, name: &str, arguments: &[&str]) {
    let output = interpreter
        .arg(root().join("tests/drivers").join(name))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{interpreter:?}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {text}");
}

fn python_script(name: &str, setup: Setup, further: &[&str]) {
    among_others(setup, |carpool, direct| {
        let url = carpool.url("postgres", "unused");
        script(python(), name, &[&[&url, direct], further].concat());
    });
}

#[test]
fn psycopg2() {
    python_script("psycopg2_.py", Setup::default(), &[]);
}

#[test]
fn psycopg3() {
    python_script("psycopg3.py", Setup::default(), &[]);
}

#[test]
fn psycopg3_async() {
    python_script("psycopg3_async.py", Setup::default(), &[]);
}

#[test]
fn asyncpg() {
    python_script("asyncpg_.py", Setup::default(), &[]);
}

#[test]
fn asyncpg_pool_settings() {
    python_script("asyncpg_pool_settings.py", Setup::default(), &[]);
}

#[test]
fn django_with_psycopg2() {
    python_script("django_.py", Setup::default(), &["psycopg2"]);
}

#[test]
fn django_with_psycopg3() {
    python_script("django_.py", Setup::default(), &["psycopg"]);
}

#[test]
fn connections_survive_their_servers() {
    let carpool = Carpool::start(&Setup::default());
    let direct = format!("postgresql://postgres@127.0.0.1:{}/{}", Postgres::shared().port, carpool.database);
    script(python(), "survival.py", &[&carpool.url("postgres", "unused"), &direct]);
}

#[test]
fn node_postgres() {
    among_others(Setup::default(), |carpool, direct| {
        script(node(), "pg.js", &[&carpool.url("postgres", "unused"), direct]);
    });
}

/// What is known to differ, separated by commas.
const OPEN_SESSION_STATE: &str = "";

#[test]
fn session_state() {
    python_script("session_state.py", Setup::default(), &[OPEN_SESSION_STATE]);
}
