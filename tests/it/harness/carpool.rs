//! The `carpool` binary as a process.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::{Postgres, Raw, eventually};

/// What a Carpool is started with.
#[derive(Clone, Default)]
pub struct Setup {
    /// Lines of `[pooler]`.
    pub pooler: String,
    /// Lines of the database's section.
    pub database: String,
    /// Whole further sections.
    pub sections: String,
    /// Further environment.
    pub environment: Vec<(String, String)>,
    /// The program, in the place of the binary under test.
    pub program: Option<std::path::PathBuf>,
}

impl Setup {
    /// With these lines in `[pooler]`.
    pub fn pooler(lines: &str) -> Self {
        Self { pooler: lines.into(), ..Self::default() }
    }

    /// With these lines in the database's section.
    #[must_use]
    pub fn database(mut self, lines: &str) -> Self {
        self.database = lines.into();
        self
    }

    /// With these sections at the end.
    #[must_use]
    pub fn sections(mut self, text: &str) -> Self {
        self.sections = text.into();
        self
    }

    /// The configuration: clients are trusted unless `pooler` names an `auth_type`; `postgres`, `app` and the
    /// users with passwords are known.
    pub fn toml(&self, postgres: &Postgres, database: &str) -> String {
        let auth = if self.pooler.contains("auth_type") { "" } else { "auth_type = \"trust\"" };
        let admins = if self.pooler.contains("admin_users") { "" } else { "admin_users = [\"postgres\"]" };
        let listen = if self.pooler.contains("listen_port") { "" } else { "listen_port = 0" };
        let Self { pooler, database: lines, sections, .. } = self;
        let users = self.users();
        let host = if lines.contains("host") { "" } else { "host = \"127.0.0.1\"" };
        let port = if lines.contains("port") { String::new() } else { format!("port = {}", postgres.port) };
        format!(
            "[pooler]\n{listen}\n{auth}\n{admins}\n{pooler}\n\
             [databases.{database}]\n{port}\n{host}\n{lines}\n\
             [users.postgres]\n[users.app]\n{users}{sections}\n"
        )
    }

    /// Sections of the users with passwords, which are their names, unless `sections` has others.
    fn users(&self) -> String {
        let names = ["scram_user", "md5_user", "plain_user"].into_iter();
        let names = names.filter(|name| !self.sections.contains(&format!("[users.{name}]")));
        names.map(|name| format!("[users.{name}]\npassword = \"{name}\"\n")).collect()
    }
}

/// A running Carpool in front of one database.
pub struct Carpool {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    /// The one database's name.
    pub database: String,
    /// Its configuration file.
    pub config: std::path::PathBuf,
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Carpool {
    /// In front of a new database of the shared cluster.
    pub fn start(setup: &Setup) -> Self {
        let postgres = Postgres::shared();
        Self::before(postgres, &postgres.new_database(), setup)
    }

    /// In front of `database`.
    pub fn before(postgres: &Postgres, database: &str, setup: &Setup) -> Self {
        // Tests that run at the same time may have databases of the same name, on clusters of their own.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("carpool-test-{}-{number}-{database}.toml", std::process::id());
        let config = std::env::temp_dir().join(name);
        let program = setup.program.as_deref().unwrap_or(std::path::Path::new(env!("CARGO_BIN_EXE_carpool")));
        let toml = setup.toml(postgres, database);
        let mut carpool = Self::spawn_as(program, &config, database, &toml, &setup.environment);
        let listening = "listening on 127.0.0.1:";
        carpool.port = eventually("Carpool listens", || {
            let log = carpool.log();
            assert!(carpool.exit_status().is_none(), "Carpool ended: {log}");
            let (_, rest) = log.split_once(listening)?;
            rest.lines().next()?.trim().parse().ok()
        });
        carpool
    }

    /// Starts the binary with this configuration, without waiting.
    pub fn spawn(config: &std::path::Path, database: &str, toml: &str, environment: &[(String, String)]) -> Self {
        let program = std::path::Path::new(env!("CARGO_BIN_EXE_carpool"));
        Self::spawn_as(program, config, database, toml, environment)
    }

    fn spawn_as(
        program: &std::path::Path,
        config: &std::path::Path,
        database: &str,
        toml: &str,
        environment: &[(String, String)],
    ) -> Self {
        std::fs::write(config, toml).unwrap();
        let mut child = Command::new(program)
            .arg(config)
            .envs(environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (lines, copy) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let mut log = copy.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self { port: 0, database: database.into(), config: config.into(), child, log }
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits for `text` in its log: what it does shows to a client before the line has come through the pipe.
    pub fn logs(&self, text: &str) {
        eventually(&format!("the log has {text:?}"), || self.log().contains(text).then_some(()));
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal by name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(sent.success(), "no process to signal");
    }

    /// How it ended, if it has.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        eventually("Carpool ends", || self.exit_status())
    }

    /// A raw client, logged in as `postgres`.
    pub fn client(&self) -> Raw {
        Raw::login(self.port, "postgres", &self.database)
    }

    /// Its URL for drivers.
    pub fn url(&self, user: &str, password: &str) -> String {
        format!("postgresql://{user}:{password}@127.0.0.1:{}/{}", self.port, self.database)
    }

    /// Runs a console command through psql and gives its rows, columns separated by `|`.
    pub fn console(&self, command: &str) -> String {
        let output = Command::new("psql")
            .args(["-XAt", "-h", "127.0.0.1", "-U", "postgres", "-d", "pgbouncer"])
            .args(["-p", &self.port.to_string(), "-c", command])
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }
}

impl Drop for Carpool {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.config);
        if std::thread::panicking() {
            eprintln!("--- log of Carpool before {} ---\n{}", self.database, self.log());
        }
    }
}
