//! A new process takes over from a running one, and no client notices.

mod budget;
mod servers;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::harness::raw::{V3_0, bind, describe, execute, parse, query, startup, sync};
use crate::harness::tls::{Authority, Files, SSL_REQUEST, begin, client_config, socket};
use crate::harness::{Carpool, Message, Postgres, Raw, Setup, eventually};

mod homecoming;

/// A Carpool whose processes follow each other.
struct Line {
    carpool: Carpool,
    dir: PathBuf,
}

impl Line {
    fn start(pooler: &str, database: &str) -> Self {
        Self::start_with(Setup::pooler(pooler).database(database))
    }

    fn start_with(setup: Setup) -> Self {
        Self::start_by(setup, Carpool::start)
    }

    fn start_by(mut setup: Setup, start: impl FnOnce(&Setup) -> Carpool) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("carpool-upgrade-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).unwrap();
        // Another may stand there when the next process is started.
        let program = dir.join("carpool");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_carpool"), &program).unwrap();
        setup.program = Some(program);
        setup.pooler += &format!("\npidfile = \"{}\"\n", dir.join("pid").display());
        Self { carpool: start(&setup), dir }
    }

    /// The process that serves.
    fn pid(&self) -> u32 {
        std::fs::read_to_string(self.dir.join("pid")).unwrap().trim().parse().unwrap()
    }

    /// Whether the pid file names this process. While it is being written it names none.
    fn is_pid(&self, pid: u32) -> bool {
        std::fs::read_to_string(self.dir.join("pid")).is_ok_and(|text| text == format!("{pid}\n"))
    }

    fn command(&self) -> Command {
        let url = format!("postgresql://postgres@127.0.0.1:{}/pgbouncer", self.carpool.port);
        let mut command = Command::new(env!("CARGO_BIN_EXE_carpool"));
        command.args(["upgrade", &url]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn try_upgrade(&self) -> Output {
        self.command().output().unwrap()
    }

    /// The next process takes over. Gives the number of the one before.
    fn upgrade(&self) -> u32 {
        let before = self.pid();
        let output = self.try_upgrade();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_ne!(self.pid(), before, "the same process serves");
        before
    }

    /// As [`Line::upgrade`]; the old process has ended.
    fn upgrade_fully(&self) {
        let before = self.upgrade();
        eventually("the old process ends", || has_ended(before).then_some(()));
    }

    /// It fails: why. The old process goes on.
    fn fails(&self) -> String {
        let (pid, mut client) = (self.pid(), self.carpool.client());
        let output = self.try_upgrade();
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(self.pid(), pid);
        assert_eq!(client.value("select 'goes on'"), "goes on");
        assert_eq!(self.carpool.client().value("select 'comes in'"), "comes in");
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(why.starts_with("carpool upgrade: UPGRADE failed, all goes on as before: "), "{why}");
        self.carpool.logs("upgrade failed, all goes on as before: ");
        why
    }

    /// Has another program stand where the binary does.
    fn replace_program(&self, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let new = self.dir.join("new");
        std::fs::write(&new, script).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(&new, self.dir.join("carpool")).unwrap();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Ok(pid) = std::fs::read_to_string(self.dir.join("pid")) {
            let _ = Command::new("kill").args(["-s", "KILL", pid.trim()]).stderr(Stdio::null()).status();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Whether a process has ended, reaped or not.
fn has_ended(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Resident memory, KiB.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn code(replies: &[Message]) -> Option<String> {
    replies.iter().find(|m| m.tag == b'E').and_then(|m| m.field('C'))
}

fn pgbench(line: &Line, arguments: &[&str]) -> Child {
    let mut command = Command::new("pgbench");
    command.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &line.carpool.port.to_string(), "-n"]);
    command.args(arguments).arg(&line.carpool.database).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// How long requests took, without upgrades and with.
type Waits = [Vec<Duration>; 2];

/// A client that checks each reply; gives how long each took.
fn checked(port: u16, database: String, stop: Arc<AtomicBool>, upgrading: Arc<AtomicBool>, number: usize) -> Waits {
    let mut client = Raw::login_with(port, &[("user", "postgres"), ("database", &database)]);
    client.query(&format!("set app.number = '{number}'"));
    client.send_all(&[parse("mine", &format!("select {number} + $1::int, current_setting('app.number')")), sync()]);
    client.until_ready();
    let (mut asked, mut waits) = (0, Waits::default());
    while !stop.load(Ordering::Relaxed) {
        let phase = usize::from(upgrading.load(Ordering::Relaxed));
        let begun = Instant::now();
        client.send_all(&[bind("", "mine", &[&asked.to_string()]), execute("", 0), sync()]);
        let replies = client.until_ready();
        waits[phase].push(begun.elapsed());
        let row = replies.iter().find(|m| m.tag == b'D').unwrap_or_else(|| panic!("{replies:?}"));
        assert_eq!(row.columns(), [Some((number as u64 + asked).to_string()), Some(number.to_string())]);
        asked += 1;
    }
    waits
}

/// How many, and of how many of them it was no longer than that: half, 99 %, all.
fn summary(done: &[Waits], phase: usize) -> String {
    let mut waits: Vec<_> = done.iter().flat_map(|waits| waits[phase].iter().copied()).collect();
    waits.sort();
    let at = |percent: usize| waits[(waits.len() - 1) * percent / 100];
    format!("{} replies, half within {:?}, 99 % within {:?}, all within {:?}", waits.len(), at(50), at(99), at(100))
}

#[test]
fn ten_upgrades_under_load() {
    const POOL: usize = 5;
    const TURNS: usize = 10;
    let line = Line::start("", &format!("pool_size = {POOL}"));
    let (postgres, database) = (Postgres::shared(), line.carpool.database.clone());
    let port = line.carpool.port;
    let init = ["-h", "127.0.0.1", "-U", "postgres", "-p", &postgres.port.to_string(), "-i", "-q", &database]
        .map(String::from);
    assert!(Command::new("pgbench").args(init).stderr(Stdio::null()).status().unwrap().success());
    let stop = Arc::new(AtomicBool::new(false));
    let upgrading = Arc::new(AtomicBool::new(false));
    let watch = Watch::begin(&database);
    let clients: Vec<_> = (0..6)
        .map(|number| {
            let (database, stop, upgrading) = (database.clone(), Arc::clone(&stop), Arc::clone(&upgrading));
            std::thread::spawn(move || checked(port, database, stop, upgrading, number))
        })
        .collect();
    let newcomers = {
        let (database, stop) = (database.clone(), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut came = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(Raw::login(port, "postgres", &database).value("select 'in'"), "in");
                came += 1;
            }
            came
        })
    };
    let loads: Vec<_> = ["prepared", "simple"]
        .map(|mode| pgbench(&line, &["-M", mode, "-c", "4", "-j", "4", "-t", "1000000000"]))
        .into();
    // The same load without an upgrade, to compare with.
    std::thread::sleep(Duration::from_secs(5));
    upgrading.store(true, Ordering::Relaxed);
    let (mut sizes, begun) = (Vec::new(), Instant::now());
    for _ in 0..TURNS {
        line.upgrade_fully();
        sizes.push((descriptors(line.pid()), memory(line.pid())));
    }
    let took = begun.elapsed();
    for mut load in loads {
        assert!(load.try_wait().unwrap().is_none(), "pgbench has ended: {}", said(load));
        // It ends after the transactions at hand.
        let _ = Command::new("kill").args(["-s", "INT", &load.id().to_string()]).status();
        load.wait().unwrap();
        let mut text = String::new();
        load.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(!text.contains("aborted") && !text.contains("error"), "{text}");
    }
    stop.store(true, Ordering::Relaxed);
    let done: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    let most = watch.end();
    let came = newcomers.join().unwrap();
    println!("without upgrades: {}", summary(&done, 0));
    println!("{TURNS} upgrades in {took:?}: {}", summary(&done, 1));
    println!("{came} logins, at most {most} servers of {POOL}; descriptors and KiB: {sizes:?}");
    assert!(most <= POOL, "{most} servers");
    assert!(came > 0 && done.iter().all(|waits| waits.iter().all(|waits| !waits.is_empty())));
    let sums = "select count(distinct s) from (select sum(abalance) from pgbench_accounts union all
         select sum(tbalance) from pgbench_tellers union all select sum(delta) from pgbench_history) as sums(s)";
    assert_eq!(postgres.sql(&database, sums), "1", "what pgbench has booked doesn't add up");
    // A process that has just begun may not have all clients yet.
    let early = |of: fn(&(usize, u64)) -> u64| sizes[1..TURNS / 2].iter().map(of).max().unwrap();
    let (first_fds, first_memory) = (early(|size| size.0 as u64), early(|size| size.1));
    let (last_fds, last_memory) = sizes[TURNS - 1];
    assert!(last_fds as u64 <= first_fds + 8, "{first_fds} descriptors, then {last_fds}");
    assert!(last_memory <= first_memory + first_memory / 4, "{first_memory} KiB, then {last_memory}");
}

fn said(mut child: Child) -> String {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_session_goes_on_as_it_was() {
    let line = Line::start("auth_type = \"trust\"", "pool_size = 2");
    let mut client = Raw::login_with(
        line.carpool.port,
        &[
            ("user", "postgres"),
            ("database", &line.carpool.database),
            ("application_name", "traveller"),
            ("DateStyle", "German"),
        ],
    );
    client.query("set timezone = 'Asia/Tokyo'");
    client.query("set app.tenant = 'o''neill'");
    client.query("create table t (a int)");
    client.send_all(&[
        parse("named", "select $1::date, current_setting('app.tenant')"),
        describe('S', "named"),
        sync(),
    ]);
    client.until_ready();
    client.send_all(&[parse("", "select 'unnamed'"), sync()]);
    client.until_ready();
    let connected = |line: &Line| {
        let rows = line.carpool.console("show clients");
        let row = rows.lines().find(|row| row.contains("traveller")).unwrap_or_else(|| panic!("{rows}")).to_owned();
        row.split('|').find(|column| column.starts_with("20") && column.contains('-')).unwrap().to_owned()
    };
    let before = connected(&line);
    for _ in 0..2 {
        line.upgrade_fully();
        client.send_all(&[bind("", "", &[]), execute("", 0), sync()]);
        let replies = client.until_ready();
        assert_eq!(replies[1].columns(), [Some("unnamed".into())], "{replies:?}");
        assert_eq!(connected(&line), before);
        client.send_all(&[bind("", "named", &["03.02.2001"]), execute("", 0), sync()]);
        let replies = client.until_ready();
        let row = replies.iter().find(|m| m.tag == b'D').unwrap_or_else(|| panic!("{replies:?}"));
        assert_eq!(row.columns(), [Some("03.02.2001".into()), Some("o'neill".into())]);
        assert_eq!(client.value("show timezone"), "Asia/Tokyo");
        client.send_all(&[parse("named", "select 1"), sync()]);
        assert_eq!(code(&client.until_ready()).as_deref(), Some("42P05"), "the name is taken");
        cancel_a_query(&line, &mut client);
        client.send_all(&[parse("", "select 'unnamed'"), sync()]);
        client.until_ready();
    }
    client.query("reset all");
    assert_eq!(client.value("show datestyle"), "German, DMY", "what it started with");
}

/// A cancel request that comes to whoever listens now reaches the client's query.
fn cancel_a_query(line: &Line, client: &mut Raw) {
    client.send(&query("select pg_sleep(600)"));
    let running = format!(
        "select count(*) from pg_stat_activity where datname = '{}' and state = 'active' and query like '%sleep%' \
         and pid <> pg_backend_pid()",
        line.carpool.database
    );
    eventually("it runs", || (Postgres::shared().sql("postgres", &running) == "1").then_some(()));
    Raw::cancel(line.carpool.port, &client.key);
    assert_eq!(code(&client.until_ready()).as_deref(), Some("57014"));
}

#[test]
fn who_is_in_a_transaction_follows_at_its_end() {
    let line = Line::start("", "pool_size = 3");
    let mut client = line.carpool.client();
    client.query("begin");
    client.query("create temporary table mine on commit drop as select 7 as a");
    let old = line.upgrade();
    let mut other = line.carpool.client();
    assert_eq!(other.value("select 1"), "1", "others go on meanwhile");
    assert_eq!(client.value("select a from mine"), "7");
    // The new process has the listening socket, and passes the request on.
    cancel_a_query(&line, &mut client);
    assert!(!has_ended(old));
    client.query("rollback");
    eventually("the old process ends", || has_ended(old).then_some(()));
    assert_eq!(client.value("select 'still here'"), "still here");
}

/// One client that stays with the old process has a server there when it needs one, and none more.
#[test]
fn who_listens_stays_until_it_leaves() {
    let line = Line::start("", "pool_size = 4");
    let mut listener = line.carpool.client();
    listener.query("listen news");
    let old = line.upgrade();
    let mut others: Vec<_> = (0..4).map(|_| line.carpool.client()).collect();
    for other in &mut others {
        assert_eq!(other.value("select 1"), "1");
    }
    assert!(Postgres::shared().backends(&line.carpool.database) <= 4);
    others[0].query("notify news, 'hello'");
    let message = listener.read();
    assert_eq!(message.tag, b'A', "{message:?}");
    assert_eq!(listener.value("select 2"), "2");
    assert!(!has_ended(old));
    drop(listener);
    eventually("the old process ends", || has_ended(old).then_some(()));
}

#[test]
fn who_has_tls_stays_for_a_while() {
    let (authority, files) = (Authority::new("root"), Files::new());
    let identity = authority.issue("localhost", &["localhost"]);
    let pooler = format!("{}\nupgrade_drain_timeout = 2", files.pooler(&identity, "allow"));
    let line = Line::start(&pooler, "pool_size = 2");
    let mut raw = socket(line.carpool.port);
    raw.write_all(&SSL_REQUEST).unwrap();
    let mut answer = [0];
    raw.read_exact(&mut answer).unwrap();
    let mut tls = begin(raw, client_config(&authority)).unwrap();
    tls.write_all(&startup(V3_0, &[("user", "postgres"), ("database", &line.carpool.database)])).unwrap();
    let until = |tls: &mut crate::harness::tls::Blocking, end: &[u8]| {
        let mut got = Vec::new();
        while !got.windows(end.len()).any(|w| w == end) {
            let mut chunk = [0; 4096];
            let n = tls.read(&mut chunk).unwrap();
            assert!(n > 0, "{}", String::from_utf8_lossy(&got));
            got.extend_from_slice(&chunk[..n]);
        }
        got
    };
    until(&mut tls, b"Z\0\0\0\x05I");
    let old = line.upgrade();
    assert_eq!(line.carpool.client().value("select 1"), "1");
    tls.write_all(&query("select 'by tls'")).unwrap();
    let got = until(&mut tls, b"Z\0\0\0\x05I");
    assert!(got.windows(6).any(|w| w == b"by tls"));
    assert!(!has_ended(old));
    let text = String::from_utf8_lossy(&until(&mut tls, b"upgrade_drain_timeout")).into_owned();
    assert!(text.contains("57P01"), "{text}");
    eventually("the old process ends", || has_ended(old).then_some(()));
}

#[test]
fn what_goes_wrong_before_changes_nothing() {
    let line = Line::start("upgrade_timeout = 1", "pool_size = 2");
    let good = std::fs::read_to_string(&line.carpool.config).unwrap();
    std::fs::write(&line.carpool.config, good.replace("[pooler]", "[pooler]\nnonsense = 1")).unwrap();
    let why = line.fails();
    assert!(why.contains("nonsense"), "{why}");
    std::fs::write(&line.carpool.config, format!("{good}\n")).unwrap();
    let port_in_use = good.replace("listen_port = 0", &format!("listen_port = {}", Postgres::shared().port));
    std::fs::write(&line.carpool.config, port_in_use).unwrap();
    let why = line.fails();
    assert!(why.contains("cannot listen on"), "{why}");
    std::fs::write(&line.carpool.config, &good).unwrap();
    for (script, wanted) in [
        ("#!/bin/false\n", "ended before it was ready (exit status: 1)"),
        ("#!/bin/sh\nexec sleep 600\n", "not ready within 1s (upgrade_timeout)"),
        ("#!/bin/sh\necho nonsense >&0\nexec sleep 600\n", "can't be understood"),
    ] {
        line.replace_program(script);
        let why = line.fails();
        assert!(why.contains(wanted), "{script}: {why}");
    }
    std::fs::remove_file(line.dir.join("carpool")).unwrap();
    assert!(line.fails().contains("cannot be started"));
    line.carpool.console("pause");
    let output = line.try_upgrade();
    assert!(String::from_utf8_lossy(&output.stderr).contains("RESUME"), "{output:?}");
    line.carpool.console("resume");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_carpool"), line.dir.join("carpool")).unwrap();
    let mut client = line.carpool.client();
    line.upgrade_fully();
    assert_eq!(client.value("select 'after all'"), "after all");
}

#[test]
fn only_one_at_a_time_and_none_while_stopping() {
    let line = Line::start("upgrade_timeout = 600", "pool_size = 2");
    line.replace_program("#!/bin/sh\nexec sleep 600\n");
    let mut first = line.command().spawn().unwrap();
    line.carpool.logs("is to take over");
    let output = line.try_upgrade();
    assert!(String::from_utf8_lossy(&output.stderr).contains("under way already"), "{output:?}");
    let mut client = line.carpool.client();
    client.query("begin");
    let pid = line.pid();
    assert!(Command::new("kill").args(["-s", "TERM", &pid.to_string()]).status().unwrap().success());
    line.carpool.logs("upgrade failed, all goes on as before: it is told to stop");
    client.query("commit");
    assert_eq!(client.until_closed().last().and_then(|m| m.field('C')).as_deref(), Some("57P01"));
    eventually("it ends", || has_ended(pid).then_some(()));
    assert!(!first.wait().unwrap().success());
}

/// The socket's file, HTTP and the pid file are the new process's; it is told to the service manager.
#[test]
fn files_and_sockets_go_over() {
    let files = Files::new();
    let manager = std::os::unix::net::UnixDatagram::bind(files.path("notify")).unwrap();
    manager.set_read_timeout(Some(crate::harness::PATIENCE)).unwrap();
    let pooler = format!(
        "listen_port = {}\nhttp_addr = \"127.0.0.1\"\nhttp_port = {}\nunix_socket_dir = \"{}\"",
        crate::harness::postgres::free_port(),
        crate::harness::postgres::free_port(),
        files.path("").display()
    );
    let setup = Setup {
        environment: vec![("NOTIFY_SOCKET".into(), files.path("notify").display().to_string())],
        ..Setup::pooler(&pooler)
    };
    let line = Line::start_with(setup);
    let psql = || {
        let mut psql = Command::new("psql");
        psql.args([
            "-XAt",
            "-h",
            files.path("").to_str().unwrap(),
            "-p",
            &line.carpool.port.to_string(),
            "-U",
            "postgres",
        ]);
        let output = psql.args(["-d", &line.carpool.database, "-c", "select 'by file'"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for _ in 0..2 {
        assert_eq!(psql(), "by file\n");
        line.upgrade_fully();
        let told = format!("MAINPID={}", line.pid());
        loop {
            let mut buf = [0; 4096];
            let n = manager.recv(&mut buf).unwrap();
            if String::from_utf8_lossy(&buf[..n]).trim() == told {
                break;
            }
        }
        assert_eq!(psql(), "by file\n");
    }
    // By the configuration: the unix socket needs no password.
    let output = Command::new(env!("CARGO_BIN_EXE_carpool")).arg("upgrade").arg(&line.carpool.config).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let pid = line.pid();
    assert!(Command::new("kill").args(["-s", "TERM", &pid.to_string()]).status().unwrap().success());
    eventually("it ends", || has_ended(pid).then_some(()));
    assert!(!line.dir.join("pid").exists() && psql().is_empty(), "its files are left");
}

/// A user's servers are logged in with what that user's login has shown.
#[test]
fn passwords_are_not_asked_for_again() {
    let pooler = "auth_type = \"scram-sha-256\"\nadmin_users = [\"plain_user\"]";
    let line = Line::start(pooler, "pool_size = 2");
    let url = line.carpool.url("scram_user", "scram_user");
    let script = "import psycopg, sys\n\
        with psycopg.connect(sys.argv[1], autocommit=True) as connection:\n\
        \x20 for line in sys.stdin:\n\
        \x20   print(connection.execute('select current_user').fetchone()[0], flush=True)\n";
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/.venv/bin/python");
    let psycopg3 = concat!(env!("CARGO_MANIFEST_DIR"), "/.venv/psycopg3");
    let mut child = Command::new(python)
        .env("PYTHONPATH", psycopg3)
        .args(["-c", script, &url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut to, mut from) = (child.stdin.take().unwrap(), std::io::BufReader::new(child.stdout.take().unwrap()));
    let mut ask = || {
        to.write_all(b"\n").unwrap();
        let mut text = String::new();
        std::io::BufRead::read_line(&mut from, &mut text).unwrap();
        text
    };
    assert_eq!(ask(), "scram_user\n");
    let (old, console) = (line.pid(), line.carpool.url("plain_user", "plain_user"));
    let console = console.replace(&format!("/{}", line.carpool.database), "/pgbouncer");
    let output = Command::new(env!("CARGO_BIN_EXE_carpool")).args(["upgrade", &console]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    eventually("the old process ends", || has_ended(old).then_some(()));
    assert_eq!(ask(), "scram_user\n", "the new process has no server yet");
    drop(to);
    assert!(child.wait().unwrap().success());
}

fn kill(pid: u32, signal: &str) {
    assert!(Command::new("kill").args(["-s", signal, &pid.to_string()]).status().unwrap().success());
}

/// Counts a database's servers as fast as it can, until it is dropped.
struct Watch {
    stop: Arc<AtomicBool>,
    counting: Option<std::thread::JoinHandle<usize>>,
}

impl Watch {
    fn begin(database: &str) -> Self {
        Self::begin_but(database, "")
    }

    /// Without those of one user.
    fn begin_but(database: &str, user: &str) -> Self {
        let sql = format!("select count(*) from pg_stat_activity where datname = '{database}' and usename <> '{user}'");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let counting = std::thread::spawn(move || {
            let mut watcher = Raw::login(Postgres::shared().port, "postgres", "postgres");
            let mut most = 0;
            while !stopped.load(Ordering::Relaxed) {
                most = most.max(watcher.value(&sql).parse().unwrap());
            }
            most
        });
        Self { stop, counting: Some(counting) }
    }

    /// The most there were.
    fn end(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.counting.take().unwrap().join().unwrap()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Both processes make a pool for the same database, the old one for somebody who was at its door.
#[test]
fn a_pool_that_both_make_keeps_its_size() {
    let born = format!("born_{}", std::process::id());
    let postgres = Postgres::shared();
    postgres.sql("postgres", &format!("create database {born}"));
    let sections = format!("[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {}\npool_size = 3\n", postgres.port);
    let line = Line::start_with(Setup::default().sections(&sections));
    let port = line.carpool.port;
    let startup = startup(V3_0, &[("user", "postgres"), ("database", &born)]);
    let mut late = Raw::connect(port);
    late.send(&startup[..3]);
    // Whoever comes later is accepted later.
    assert_eq!(line.carpool.client().value("select 1"), "1");
    let watch = Watch::begin(&born);
    let old = line.upgrade();
    let mut holders: Vec<_> = (0..2).map(|_| Raw::login(port, "postgres", &born)).collect();
    for holder in &mut holders {
        assert_eq!(code(&holder.query("begin")), None);
    }
    let mut third = Raw::login(port, "postgres", &born);
    third.send(&query("select 'third'"));
    late.send(&startup[3..]);
    assert!(late.finish_login().is_none());
    assert_eq!(late.value("select 'in'"), "in");
    eventually("the old process ends", || has_ended(old).then_some(()));
    assert_eq!(code(&third.until_ready()), None, "the slot comes over");
    assert_eq!(watch.end(), 3);
    assert_eq!(late.value("select 'still in'"), "still in");
}

/// The first process has a client yet when the third takes over from the second.
#[test]
fn three_processes_at_a_time() {
    // Of 6 the one in the middle may be left with one, behind which a client waits that the test has to go on with.
    let line = Line::start("", "pool_size = 8");
    let database = line.carpool.database.clone();
    let mut first = line.carpool.client();
    first.query("begin");
    let mut listener = line.carpool.client();
    listener.query("listen news");
    let watch = Watch::begin(&database);
    let old = line.upgrade();
    let mut second = line.carpool.client();
    assert_eq!(second.value("begin; select 1"), "1");
    let middle = line.upgrade();
    let mut clients: Vec<_> = (0..4).map(|_| line.carpool.client()).collect();
    // More of them at once than are left to the third.
    clients.iter_mut().for_each(|client| client.send(&query("select 'by the third' from pg_sleep(0.2)")));
    for client in &mut clients {
        let replies = client.until_ready();
        assert_eq!(replies[1].columns(), [Some("by the third".into())], "{replies:?}");
    }
    for client in [&mut first, &mut second] {
        cancel_a_query(&line, client);
        client.query("rollback");
        assert_eq!(client.value("select 'goes over'"), "goes over");
    }
    clients[0].query("notify news, 'hello'");
    assert_eq!(listener.read().tag, b'A');
    assert!(!has_ended(old) && !has_ended(middle), "its clients come by way of the one in the middle");
    listener.query("unlisten *");
    eventually("both end", || (has_ended(old) && has_ended(middle)).then_some(()));
    assert!(watch.end() <= 8);
    for client in [&mut first, &mut second, &mut listener] {
        cancel_a_query(&line, client);
    }
}

/// Clients that haven't left go on, and so does everything else.
#[test]
fn the_old_process_serves_again_when_the_new_one_dies() {
    let files = Files::new();
    let http = crate::harness::postgres::free_port();
    let (listen, dir) = (crate::harness::postgres::free_port(), files.path(""));
    let pooler = format!(
        "listen_port = {listen}\nhttp_addr = \"127.0.0.1\"\nhttp_port = {http}\nunix_socket_dir = \"{}\"",
        dir.display()
    );
    let line = Line::start(&pooler, "pool_size = 2");
    let mut mover = line.carpool.client();
    let mut stayer = line.carpool.client();
    stayer.query("begin");
    let mut old = line.pid();
    for _ in 0..2 {
        assert_eq!(line.upgrade(), old);
        assert_eq!(mover.value("select 'went'"), "went");
        let new = line.pid();
        kill(new, "KILL");
        mover.until_closed();
        mover = line.carpool.client();
        assert_eq!(mover.value("select 'comes in'"), "comes in");
        assert_eq!(stayer.value("select 'stays'"), "stays");
        eventually("the pid file", || line.is_pid(old).then_some(()));
        assert_eq!(crate::harness::http::http(http, "GET", "/readyz").0, 200);
        let by_file = Command::new("psql")
            .args(["-XAt", "-h", dir.to_str().unwrap(), "-p", &listen.to_string(), "-U", "postgres"])
            .args(["-d", &line.carpool.database, "-c", "select 'by file'"])
            .output();
        assert_eq!(String::from_utf8_lossy(&by_file.unwrap().stdout), "by file\n");
        eventually("the dead one's servers go", || {
            (Postgres::shared().backends(&line.carpool.database) <= 2).then_some(())
        });
        cancel_a_query(&line, &mut mover);
    }
    line.upgrade();
    stayer.query("commit");
    eventually("the old process ends", || has_ended(old).then_some(()));
    old = line.pid();
    assert_eq!((stayer.value("select 1"), mover.value("select 2")), ("1".into(), "2".into()));
    kill(old, "TERM");
    eventually("it ends", || has_ended(old).then_some(()));
    assert!(!dir.join(format!(".s.PGSQL.{listen}")).exists(), "its file is left");
}

/// The new process dies at any moment of the handing over; nobody gets a wrong answer, or none.
#[test]
fn a_new_process_that_dies_under_load() {
    const CLIENTS: usize = 20;
    let line = Line::start("", "pool_size = 4");
    let (port, database, old) = (line.carpool.port, line.carpool.database.clone(), line.pid());
    let stop = Arc::new(AtomicBool::new(false));
    let load = |number: usize| {
        let (stop, database) = (Arc::clone(&stop), database.clone());
        std::thread::spawn(move || {
            let (mut answers, mut losses) = (0_u64, 0_u64);
            while !stop.load(Ordering::Relaxed) {
                let mut client = Raw::connect(port);
                if client.exchange(&startup(V3_0, &[("user", "postgres"), ("database", &database)])).is_err() {
                    losses += 1;
                    continue;
                }
                while !stop.load(Ordering::Relaxed) {
                    let Ok(replies) = client.exchange(&query(&format!("select {number} + {answers}"))) else {
                        losses += 1;
                        break;
                    };
                    let row = replies.iter().find(|m| m.tag == b'D').unwrap_or_else(|| panic!("{replies:?}"));
                    assert_eq!(row.columns(), [Some((number as u64 + answers).to_string())]);
                    answers += 1;
                }
            }
            (answers, losses)
        })
    };
    let loads: Vec<_> = (0..CLIENTS).map(load).collect();
    // It keeps the old process from ending.
    let mut stayer = line.carpool.client();
    stayer.query("begin");
    for round in 0..6 {
        assert_eq!(line.upgrade(), old);
        std::thread::sleep(Duration::from_millis(round * 4));
        kill(line.pid(), "KILL");
        eventually("the old process serves", || line.is_pid(old).then_some(()));
        assert_eq!(line.carpool.client().value("select 'in'"), "in");
        assert_eq!(stayer.value("select 'in a transaction'"), "in a transaction");
    }
    line.upgrade();
    stayer.query("commit");
    eventually("the old process ends", || has_ended(old).then_some(()));
    stop.store(true, Ordering::Relaxed);
    let done: Vec<_> = loads.into_iter().map(|load| load.join().unwrap()).collect();
    assert!(done.iter().all(|(answers, _)| *answers > 0), "{done:?}");
    println!("6 deaths: (answers, connections lost) of each client: {done:?}");
}

#[test]
fn more_sockets_than_go_into_one_message() {
    let port = crate::harness::postgres::free_port();
    let addresses: Vec<_> = (1..=70).map(|n| format!("\"127.0.1.{n}\"")).collect();
    let pooler = format!("listen_port = {port}\nlisten_addr = [\"127.0.0.1\", {}]", addresses.join(", "));
    let line = Line::start(&pooler, "pool_size = 2");
    line.upgrade_fully();
    for n in [1, 64, 70] {
        drop(std::net::TcpStream::connect((format!("127.0.1.{n}"), port)).unwrap());
    }
    assert_eq!(line.carpool.client().value("select 1"), "1");
}

/// The new process is told to stop while the old one has clients yet: that doesn't take its place, but stops as well.
#[test]
fn a_stop_is_for_both() {
    let line = Line::start("", "pool_size = 2");
    let mut listener = line.carpool.client();
    listener.query("listen news");
    let old = line.upgrade();
    let new = line.pid();
    kill(new, "TERM");
    eventually("both end", || (has_ended(new) && has_ended(old)).then_some(()));
    assert_eq!(listener.until_closed().last().and_then(|m| m.field('C')).as_deref(), Some("57P01"));
    assert!(std::net::TcpStream::connect(("127.0.0.1", line.carpool.port)).is_err());
}
