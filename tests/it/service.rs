//! Carpool as a service: the service manager's notices and sockets, in the background, its files.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::postgres::free_port;
use crate::harness::{Carpool, PATIENCE, Postgres, Raw, Setup, eventually, http};

/// A directory, gone with this value.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("carpool-service-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A configuration in front of the shared cluster.
    fn config(&self, pooler: &str) -> PathBuf {
        let text = Setup::pooler(pooler).toml(Postgres::shared(), "postgres");
        std::fs::write(self.file("carpool.toml"), text).unwrap();
        self.file("carpool.toml")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn signal(pid: &str, name: &str) -> bool {
    Command::new("kill").args(["-s", name, pid]).stderr(std::process::Stdio::null()).status().unwrap().success()
}

/// The next of a service's notices that has this in it.
fn notice(manager: &UnixDatagram, wanted: &str) -> String {
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    loop {
        let mut buf = [0; 4096];
        let n = manager.recv(&mut buf).unwrap_or_else(|error| panic!("no {wanted}: {error}"));
        let text = String::from_utf8_lossy(&buf[..n]).into_owned();
        if text.contains(wanted) {
            return text;
        }
    }
}

#[test]
fn the_service_manager_is_told() {
    let dir = Directory::new("notify");
    let manager = UnixDatagram::bind(dir.file("notify")).unwrap();
    let environment = |name: &str, value: String| (name.to_owned(), value);
    let setup = Setup {
        environment: vec![
            environment("NOTIFY_SOCKET", dir.file("notify").display().to_string()),
            environment("WATCHDOG_USEC", "200000".into()),
        ],
        ..Setup::default()
    };
    let mut carpool = Carpool::start(&setup);
    assert!(notice(&manager, "READY=1").contains(&format!("MAINPID={}", carpool.pid())));
    notice(&manager, "WATCHDOG=1");
    carpool.signal("HUP");
    assert!(notice(&manager, "RELOADING=1").contains("MONOTONIC_USEC="));
    notice(&manager, "READY=1");
    std::fs::write(&carpool.config, "broken").unwrap();
    carpool.signal("HUP");
    notice(&manager, "RELOADING=1");
    assert!(notice(&manager, "READY=1").contains("the last reload failed"));
    carpool.signal("TERM");
    notice(&manager, "STOPPING=1");
    assert!(carpool.wait().success());
}

/// As systemd does it: the sockets are there from 3 on.
#[test]
fn sockets_may_come_from_the_service_manager() {
    let dir = Directory::new("activation");
    let config = dir.config("unix_socket_dir = \"/nonexistent\"");
    let unix = dir.file(".s.PGSQL.1");
    let script = "import os, socket, sys\n\
        tcp = socket.create_server(('127.0.0.1', 0))\n\
        unix = socket.socket(socket.AF_UNIX)\n\
        unix.bind(sys.argv[2])\n\
        unix.listen()\n\
        fds = [os.dup(s.fileno()) for s in (tcp, unix)]\n\
        fds = [os.dup(fd) for fd in fds]\n\
        for n, fd in enumerate(fds): os.dup2(fd, 3 + n, True)\n\
        os.environ.update(LISTEN_FDS='2', LISTEN_PID=str(os.getpid()))\n\
        os.execv(sys.argv[1], [sys.argv[1], sys.argv[3]])\n";
    let log = dir.file("log");
    let mut child = Command::new("python3")
        .args(["-c", script, env!("CARGO_BIN_EXE_carpool")])
        .arg(&unix)
        .arg(&config)
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let port: u16 = eventually("it listens", || {
        let log = std::fs::read_to_string(&log).unwrap();
        let (_, rest) = log.split_once("listening on 127.0.0.1:")?;
        rest.lines().next()?.trim().parse().ok()
    });
    assert_eq!(Raw::login(port, "postgres", "postgres").value("select 1"), "1");
    let mut psql = Command::new("psql");
    psql.args(["-XAt", "-h", dir.0.to_str().unwrap(), "-p", "1", "-U", "postgres", "-c", "select 2"]);
    assert_eq!(String::from_utf8_lossy(&psql.output().unwrap().stdout), "2\n");
    assert!(signal(&child.id().to_string(), "TERM"));
    assert!(child.wait().unwrap().success());
    assert!(unix.exists(), "the file is the service manager's");
}

#[test]
fn it_goes_into_the_background_and_leaves_a_pid_file_and_a_log() {
    let dir = Directory::new("daemon");
    let (pidfile, logfile, port) = (dir.file("pid"), dir.file("log"), free_port());
    let files = format!("pidfile = \"{}\"\nlogfile = \"{}\"", pidfile.display(), logfile.display());
    let run = |config: &Path| Command::new(env!("CARGO_BIN_EXE_carpool")).arg("-d").arg(config).output().unwrap();
    let refused = run(&dir.config(&format!("listen_port = {port}")));
    assert!(!refused.status.success());
    assert_eq!(String::from_utf8_lossy(&refused.stderr), "daemon needs pidfile configured\n");
    let config = dir.config(&format!("listen_port = {port}\n{files}"));
    let started = run(&config);
    assert!(started.status.success(), "{started:?}");
    assert!(started.stderr.is_empty() && started.stdout.is_empty(), "{started:?}");
    let pid = eventually("the pid file is there", || {
        let text = std::fs::read_to_string(&pidfile).ok()?;
        text.ends_with('\n').then(|| text.trim().to_owned())
    });
    let log = || std::fs::read_to_string(&logfile).unwrap();
    eventually("it listens", || log().contains("listening on").then_some(()));
    assert_eq!(Raw::login(port, "postgres", "postgres").value("select 1"), "1");
    let second = run(&config);
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another instance running?"), "{second:?}");
    // A log that was moved away is left at the next reload.
    std::fs::rename(&logfile, dir.file("log.1")).unwrap();
    assert!(signal(&pid, "HUP"));
    eventually("the log is a new one", || logfile.exists().then(log).filter(|text| text.contains("reloaded")));
    assert!(signal(&pid, "TERM"));
    eventually("it ends", || (!pidfile.exists()).then_some(()));
    eventually("it says so", || log().contains("stopped").then_some(()));
}

#[test]
fn pgbouncers_online_restart_is_refused_by_name() {
    let output = Command::new(env!("CARGO_BIN_EXE_carpool")).args(["-R", "-d", "x.ini"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("-R is not supported: "));
}

#[test]
fn ready_says_whether_it_takes_clients() {
    let port = free_port();
    let mut carpool = Carpool::start(&Setup::pooler(&format!("http_port = {port}\nhttp_addr = \"0.0.0.0\"")));
    let config = carpool.config.display().to_string();
    let ask = |target: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_carpool")).args(["ready", target]).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(ask(&config), (true, String::new()));
    assert_eq!(ask(&format!("http://127.0.0.1:{port}/")), (true, String::new()));
    let mut client = carpool.client();
    client.query("begin");
    carpool.signal("TERM");
    eventually("it says that it stops", || {
        let (ready, why) = ask(&config);
        (!ready).then(|| assert_eq!(why, format!("http://127.0.0.1:{port} is stopping\n")))
    });
    client.query("commit");
    carpool.wait();
    let (ready, why) = ask(&config);
    assert!(!ready && why.contains("refused"), "{why}");
    assert!(!ask("/dev/null").0, "nothing to ask");
}

#[test]
fn those_on_this_host_reload_over_http() {
    let port = free_port();
    let carpool = Carpool::start(&Setup::pooler(&format!("http_port = {port}\nquery_timeout = 7")));
    assert_eq!(http(port, "POST", "/api/reload"), (200, "nothing changes\n".into()));
    let text = std::fs::read_to_string(&carpool.config).unwrap();
    std::fs::write(&carpool.config, text.replace("query_timeout = 7", "query_timeout = 8")).unwrap();
    assert_eq!(http(port, "POST", "/api/reload"), (200, "pooler.query_timeout: 7 -> 8\n".into()));
    assert_eq!(http(port, "GET", "/api/reload").0, 405);
    std::fs::write(&carpool.config, "[pooler]\nquery_timeout = 'x'").unwrap();
    let (status, body) = http(port, "POST", "/api/reload");
    assert_eq!(status, 422);
    assert!(body.contains("pooler.query_timeout") && body.contains("nothing has changed"), "{body}");
}
