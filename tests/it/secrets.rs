//! Secrets come from anywhere and show nowhere.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use crate::harness::http::request;
use crate::harness::postgres::free_port;
use crate::harness::{Carpool, Postgres, Setup, http};
use crate::startup::psql;

/// What every planted secret has in it.
const PLANTED: &str = "pl4nted";

/// All that SHOW has, and the rest that only reads.
const SHOWS: [&str; 22] = [
    "active_sockets",
    "audit",
    "clients",
    "config",
    "databases",
    "dns_hosts",
    "dns_zones",
    "fds",
    "help",
    "lists",
    "mem",
    "pins",
    "pools",
    "servers",
    "sockets",
    "state",
    "stats",
    "stats_averages",
    "stats_totals",
    "totals",
    "users",
    "version",
];

fn file(name: &str, mode: u32, text: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("carpool-{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    path
}

#[test]
fn planted_secrets_show_nowhere() {
    let postgres = Postgres::shared();
    let in_file = file("secret", 0o644, "pl4nted-file\n");
    let name = postgres.new_database();
    let role = format!("{name}_looked_up");
    postgres.sql("postgres", &format!("create role {role} login password 'pl4nted-role'"));
    let scram = postgres.sql("postgres", &format!("select rolpassword from pg_authid where rolname = '{role}'"));
    let sections = format!(
        "[users.a]\npassword = \"pl4nted-plain\"\n[users.b]\npassword = {{ file = \"{}\" }}\n\
         [users.c]\npassword = {{ env = \"CARPOOL_PLANTED\" }}\n\
         [users.d]\npassword = {{ command = \"echo pl4nted-command; echo complaint >&2\" }}\n\
         [users.e]\npassword = \"{scram}\"\n\
         [databases.forced]\nhost = \"127.0.0.1\"\nport = {}\ndbname = \"{name}\"\nuser = \"plain_user\"\npassword = \"pl4nted-forced\"\n",
        in_file.display(),
        postgres.port,
    );
    let port = free_port();
    let pooler = format!(
        "auth_type = \"plain\"\nauth_user = \"postgres\"\nverbose = 2\nhttp_port = {port}\nstats_users = [\"a\"]"
    );
    let mut setup = Setup::pooler(&pooler).sections(&sections);
    setup.environment.push(("CARPOOL_PLANTED".into(), "pl4nted-env".into()));
    setup.environment.push(("CARPOOL_LOG".into(), "trace".into()));
    let carpool = Carpool::before(postgres, &name, &setup);
    let mut shown = String::new();
    for (user, password) in [
        ("a", "pl4nted-plain"),
        ("b", "pl4nted-file"),
        ("c", "pl4nted-env"),
        ("d", "pl4nted-command"),
        ("e", "pl4nted-role"),
        (role.as_str(), "pl4nted-role"),
    ] {
        // Roles a to e aren't in the server: it says so, after the password was found right.
        let outcome = psql(carpool.port, &name, user, password, "select 1");
        match outcome {
            Ok(answer) => assert_eq!(answer, "1"),
            Err(error) => {
                assert!(error.contains("does not exist"), "{user}: {error}");
                shown += &error;
            }
        }
        shown += &psql(carpool.port, &name, user, "pl4nted-guess", "select 1").unwrap_err();
        shown += &psql(carpool.port, "forced", user, password, "select 1").unwrap_err();
    }
    for what in SHOWS {
        match psql(carpool.port, "pgbouncer", "a", "pl4nted-plain", &format!("show {what}")) {
            Ok(text) | Err(text) => shown += &text,
        }
    }
    for path in ["/", "/metrics", "/api/pools", "/api/audit", "/readyz", "/nowhere"] {
        shown += &http(port, "GET", path).1;
    }
    let credentials = "{\"user\": \"a\", \"password\": \"pl4nted-plain\"}";
    let login = request(port, "POST", "/api/login", &[("Content-Type", "application/json")], credentials);
    assert_eq!(login.status, 200, "{}", login.body);
    shown += &login.body;
    let cookie = login.header("set-cookie").unwrap().split(';').next().unwrap();
    for path in ["/api/config", "/api/clients", "/api/servers", "/api/pools", "/api/history", "/api/session"] {
        let answer = request(port, "GET", path, &[("Cookie", cookie)], "");
        assert_eq!(answer.status, 200, "{path}");
        shown += &answer.body;
    }
    // A reload that fails, with each secret's line among those that are wrong.
    let broken = std::fs::read_to_string(&carpool.config)
        .unwrap()
        .replace("password = ", "pasword = ")
        .replace("[pooler]", "[pooler]\nlog_stats = \"pl4nted\"\nauth_dbname = { command = \"echo pl4nted\" }");
    std::fs::write(&carpool.config, broken).unwrap();
    carpool.signal("HUP");
    carpool.logs("was not reloaded");
    shown += &carpool.log();
    let keys: Vec<&str> = scram.split(['$', ':']).filter(|part| part.len() > 20).collect();
    assert_eq!(keys.len(), 3, "{scram}");
    for secret in keys.into_iter().chain([PLANTED]) {
        if let Some(at) = shown.find(secret) {
            panic!("{secret} shows: …{}…", &shown[at.saturating_sub(200)..(at + 100).min(shown.len())]);
        }
    }
    carpool.logs("everybody can read");
    std::fs::remove_file(in_file).unwrap();
}

#[test]
fn secrets_are_read_again_on_reload() {
    let postgres = Postgres::shared();
    let in_file = file("rotating", 0o600, "first\n");
    let sections = format!(
        "[users.a]\npassword = {{ command = \"cat {0}\", timeout = \"20s\" }}\n[users.b]\npassword = {{ file = \"{0}\" }}\n",
        in_file.display()
    );
    let setup = Setup::pooler("auth_type = \"scram-sha-256\"").sections(&sections);
    let carpool = Carpool::start(&setup.database("user = \"app\""));
    let get_in = |user: &str, password: &str| {
        psql(carpool.port, &carpool.database, user, password, "select current_user").is_ok()
    };
    assert!(get_in("a", "first") && get_in("b", "first") && !get_in("a", "second"));
    std::fs::write(&in_file, "second").unwrap();
    carpool.signal("HUP");
    carpool.logs("reloaded ");
    assert!(get_in("a", "second") && get_in("b", "second") && !get_in("a", "first"));
    // A command that fails changes nothing.
    std::fs::remove_file(&in_file).unwrap();
    carpool.signal("HUP");
    carpool.logs("the command failed (exit status: 1)");
    assert!(get_in("a", "second") && get_in("b", "second"));
    assert!(postgres.backends(&carpool.database) > 0);
}

/// A slow command holds up nobody who is there.
#[test]
fn a_slow_command_holds_up_nobody() {
    let gate = file("gate", 0o600, "open");
    let sections = format!(
        "[users.slow]\npassword = {{ command = \"until [ -e {} ]; do sleep 0.05; done; echo x\", timeout = \"60s\" }}\n",
        gate.display()
    );
    let carpool = Carpool::start(&Setup::default().sections(&sections));
    std::fs::remove_file(&gate).unwrap();
    carpool.signal("HUP");
    for _ in 0..20 {
        assert_eq!(carpool.client().value("select 1"), "1");
    }
    assert!(!carpool.log().contains("reloaded "));
    std::fs::write(&gate, "open").unwrap();
    carpool.logs("reloaded ");
    std::fs::remove_file(&gate).unwrap();
}

#[test]
fn no_core_dumps() {
    for (lines, limit) in [("", "0"), ("core_dumps = true", "unlimited or a number")] {
        let carpool = Carpool::start(&Setup::pooler(lines));
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", carpool.pid())).unwrap();
        let own = std::fs::read_to_string("/proc/self/limits").unwrap();
        let core = |text: &str| text.lines().find(|line| line.starts_with("Max core")).unwrap().to_owned();
        match limit {
            "0" => assert_eq!(core(&limits).split_whitespace().nth(4), Some("0"), "{limits}"),
            _ => assert_eq!(core(&limits), core(&own)),
        }
    }
}
