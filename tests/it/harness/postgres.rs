//! PostgreSQL clusters in temporary directories.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// One running cluster. Users: `postgres` (superuser) and `app` (trusted), `scram_user`, `md5_user` and
/// `plain_user` (by the method of that name; the password is the user's name).
pub struct Postgres {
    /// TCP port on 127.0.0.1, and the suffix of the socket in [`Postgres::dir`].
    pub port: u16,
    /// Holds the data directory `data` and the unix socket.
    pub dir: PathBuf,
    bin: PathBuf,
    // Its end tells the watchdog to clean up.
    lifeline: Option<ChildStdin>,
    watchdog: Child,
}

/// See [`Postgres::gate`].
pub struct Gate(super::Raw);

impl Gate {
    /// SQL of a value that is there when the gate is open.
    pub const PASS: &'static str = "pg_advisory_xact_lock(4711)";
}

const HBA: &str = "\
local all all trust
host all scram_user all scram-sha-256
host all md5_user all md5
host all plain_user all password
host replication all all trust
host all all all trust
";

const CONF: &str = "\
listen_addresses = '127.0.0.1'
max_connections = 400
fsync = off
full_page_writes = off
synchronous_commit = off
autovacuum = off
wal_level = logical
max_wal_senders = 10
max_prepared_transactions = 10
log_min_messages = fatal
";

const ROLES: &str = "\
create role app login;
set password_encryption = 'md5'; create role md5_user login password 'md5_user';
set password_encryption = 'scram-sha-256';
create role scram_user login password 'scram_user';
create role plain_user login password 'plain_user';
";

impl Postgres {
    /// The cluster that most tests share, each with a database of its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&default_bin(), ""))
    }

    /// A cluster for one test alone.
    pub fn own() -> Self {
        Self::start(&default_bin(), "")
    }

    /// A new cluster with the binaries in `bin` and further lines of `postgresql.conf`.
    pub fn start(bin: &Path, conf: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("carpool-test-{}-{number}", std::process::id()));
        // Whoever had this process number before may have been killed before it could clean up.
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).unwrap();
        if let Some(user) = unprivileged_user() {
            run(Command::new("chown").arg(user).arg(&dir));
        }
        let data = dir.join("data");
        run(as_user(&bin.join("initdb")).args(["--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8"]).args([
            "--locale=C",
            "-D",
            data.to_str().unwrap(),
        ]));
        std::fs::write(data.join("pg_hba.conf"), HBA).unwrap();
        let socket = format!("unix_socket_directories = '{}'\n", dir.display());
        let settings =
            format!("{}\n{CONF}{socket}{conf}", std::fs::read_to_string(data.join("postgresql.conf")).unwrap());
        std::fs::write(data.join("postgresql.conf"), settings).unwrap();
        let port = start_on_free_port(bin, &data);
        let mut watchdog = watchdog(&dir);
        let lifeline = watchdog.stdin.take();
        let postgres = Self { port, dir, bin: bin.to_owned(), lifeline, watchdog };
        postgres.sql("postgres", ROLES);
        postgres
    }

    /// A streaming standby of this one, called `name` in `synchronous_standby_names`.
    pub fn standby(&self, name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("carpool-test-{}-standby-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).unwrap();
        if let Some(user) = unprivileged_user() {
            run(Command::new("chown").arg(user).arg(&dir));
        }
        let data = dir.join("data");
        copy(&self.bin, self.port, name, &dir);
        let port = start_on_free_port(&self.bin, &data);
        let mut watchdog = watchdog(&dir);
        let lifeline = watchdog.stdin.take();
        Self { port, dir, bin: self.bin.clone(), lifeline, watchdog }
    }

    /// Makes this one a standby of another, from nothing, and starts it again.
    pub fn follow(&self, other: &Self, name: &str) {
        self.control(&["stop", "-s", "-m", "immediate"]);
        let data = self.dir.join("data");
        std::fs::remove_dir_all(&data).unwrap();
        copy(&self.bin, other.port, name, &self.dir);
        self.start_again();
    }

    /// Runs SQL as `postgres` and gives what `psql -At` prints.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let output = Command::new("psql")
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres", "-d", database])
            .args(["-p", &self.port.to_string(), "-c", sql])
            .output()
            .expect("psql is installed");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{sql}: {error}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// A new database that nobody else uses.
    pub fn new_database(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("create database {name}"));
        // Before 15 everybody may create in `public`.
        self.sql(&name, "grant all on schema public to public");
        name
    }

    /// Client backends of a database.
    pub fn backends(&self, database: &str) -> usize {
        let sql = format!(
            "select count(*) from pg_stat_activity where datname = '{database}' and backend_type = 'client backend'"
        );
        self.sql("postgres", &sql).parse().unwrap()
    }

    /// Keeps queries that contain [`Gate::PASS`] from ending until it is dropped.
    pub fn gate(&self, database: &str) -> Gate {
        let mut client = super::Raw::login(self.port, "postgres", database);
        client.query("select pg_advisory_lock(4711)");
        Gate(client)
    }

    /// `pg_ctl` with these arguments.
    pub fn control(&self, arguments: &[&str]) {
        run(as_user(&self.bin.join("pg_ctl")).arg("-D").arg(self.dir.join("data")).args(arguments));
    }

    /// Starts it again, after [`Postgres::control`] or a signal has stopped it.
    pub fn start_again(&self) {
        let options = format!("-p {}", self.port);
        self.control(&["-s", "-w", "-l", self.dir.join("data/log").to_str().unwrap(), "-o", &options, "start"]);
    }

    /// The postmaster's process number.
    pub fn postmaster(&self) -> u32 {
        let file = std::fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap();
        file.lines().next().unwrap().parse().unwrap()
    }

    /// Sends a signal to the postmaster alone.
    pub fn signal(&self, name: &str) {
        run(Command::new("kill").args(["-s", name, &self.postmaster().to_string()]));
    }

    /// Its major version.
    pub fn version(&self) -> u32 {
        self.sql("postgres", "show server_version_num").parse::<u32>().unwrap() / 10_000
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Only clusters of a single test get here; the shared one ends with the process.
        self.lifeline = None;
        let _ = self.watchdog.wait();
    }
}

/// The server's binaries: `CARPOOL_TEST_PGBIN`, else Debian's newest.
pub fn default_bin() -> PathBuf {
    if let Some(bin) = std::env::var_os("CARPOOL_TEST_PGBIN") {
        return bin.into();
    }
    let versions =
        std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed, or CARPOOL_TEST_PGBIN set");
    let mut versions: Vec<PathBuf> = versions.map(|v| v.unwrap().path().join("bin")).collect();
    versions.retain(|bin| bin.join("initdb").exists());
    versions.sort();
    versions.pop().expect("a PostgreSQL server is installed")
}

/// PostgreSQL refuses to run as root.
fn unprivileged_user() -> Option<&'static str> {
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    root.then_some("nobody")
}

/// Has a file belong to the user that servers run as.
pub fn give_to_server(path: &Path) {
    if let Some(user) = unprivileged_user() {
        run(Command::new("chown").arg(user).arg(path));
        // The directory in front of it, too, must let that user through.
        run(Command::new("chmod").arg("755").arg(path.parent().unwrap()));
    }
}

fn as_user(program: &Path) -> Command {
    match unprivileged_user() {
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", user, "--regid", "nogroup", "--clear-groups", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// Runs a command to its end; its output shows only when it fails.
pub fn run(command: &mut Command) {
    let output = command.current_dir("/").stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&text));
}

/// Copies the cluster at this port to `data` in a directory, as its standby.
fn copy(bin: &Path, port: u16, name: &str, dir: &Path) {
    let from = format!("host=127.0.0.1 port={port} user=postgres application_name={name}");
    let data = dir.join("data");
    let options = ["-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", &from, "-D"];
    run(as_user(&bin.join("pg_basebackup")).args(options).arg(&data));
    let conf = data.join("postgresql.conf");
    let settings = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, format!("{settings}\nunix_socket_directories = '{}'\n", dir.display())).unwrap();
}

fn start_on_free_port(bin: &Path, data: &Path) -> u16 {
    // Another process may take the port between the look and the start.
    for _ in 0..10 {
        let port = free_port();
        let log = data.join("log");
        let mut command = as_user(&bin.join("pg_ctl"));
        command.current_dir("/").args(["-s", "-w", "-t", "60", "-D"]).arg(data).arg("-l").arg(&log);
        // Output to nowhere: the postmaster would inherit a pipe and keep it open.
        let started = command.args(["-o", &format!("-p {port}"), "start"]).stdout(Stdio::null()).stderr(Stdio::null());
        if started.status().unwrap().success() {
            return port;
        }
    }
    panic!("PostgreSQL doesn't start: {}", std::fs::read_to_string(data.join("log")).unwrap_or_default());
}

/// A port that nobody listens on just now.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// A process that outlives this one and then stops the cluster and removes its directory.
fn watchdog(dir: &Path) -> Child {
    let script = r#"trap '' INT TERM HUP
        cat >/dev/null
        pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
        [ -z "$pid" ] || { kill -CONT "$pid"; kill -QUIT "$pid"; while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done; }
        rm -rf "$1""#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "watchdog"]).arg(dir).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().unwrap()
}
