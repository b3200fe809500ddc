//! The admin console and HTTP, with real clients and servers to show.

#![allow(clippy::unwrap_used, reason = "test code")]

use crate::drivers::{node, python, script};
use crate::harness::postgres::free_port;
use crate::harness::raw::{bind, describe, execute, parse, query, sync, tags};
use crate::harness::{Carpool, Message, Raw, Setup, eventually, http};

fn console(carpool: &Carpool) -> Raw {
    Raw::login(carpool.port, "postgres", "pgbouncer")
}

/// The rows of a console command, as maps would have them: the value of `column` in the row that begins so.
fn rows(console: &mut Raw, command: &str) -> Vec<Vec<String>> {
    let replies = console.query(command);
    let text = |m: &Message| m.columns().into_iter().map(Option::unwrap_or_default).collect();
    replies.iter().filter(|m| m.tag == b'D').map(text).collect()
}

/// The row of SHOW POOLS about the test's own database.
fn pool(carpool: &Carpool, console: &mut Raw) -> Vec<String> {
    rows(console, "SHOW POOLS").into_iter().find(|row| row[0] == carpool.database).unwrap()
}

#[test]
fn pools_clients_and_servers_are_what_they_are() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let (mut holder, mut waiter, mut console) = (carpool.client(), carpool.client(), console(&carpool));
    holder.query("begin");
    waiter.send(&query("select 1"));
    let row = eventually("one waits", || Some(pool(&carpool, &mut console)).filter(|row| row[3] == "1"));
    assert_eq!((row[2].as_str(), row[6].as_str(), row[9].as_str(), row[15].as_str()), ("1", "1", "0", "transaction"));
    let clients = rows(&mut console, "SHOW CLIENTS");
    let states: Vec<_> = clients.iter().map(|row| row[4].as_str()).collect();
    assert_eq!(states, ["active", "waiting", "idle"]);
    let servers = rows(&mut console, "SHOW SERVERS");
    assert_eq!((servers[0][4].as_str(), &servers[0][15]), ("active", &clients[0][14]), "linked with its client");
    assert_eq!(clients[0][15], servers[0][14]);
    assert_eq!(servers[0][16], holder.value("select pg_backend_pid()"));
    holder.query("commit");
    waiter.until_ready();
    let row = pool(&carpool, &mut console);
    assert_eq!((row[2].as_str(), row[3].as_str(), row[6].as_str(), row[9].as_str()), ("2", "0", "0", "1"));
}

#[test]
fn statistics_count_what_happened() {
    let carpool = Carpool::start(&Setup::default());
    let (mut client, mut console) = (carpool.client(), console(&carpool));
    for _ in 0..3 {
        client.query("select 1");
    }
    client.query("begin");
    client.query("select 1");
    client.query("commit");
    client.send_all(&[parse("s", "select 1"), bind("", "s", &[]), execute("", 0), sync()]);
    client.until_ready();
    client.send_all(&[bind("", "s", &[]), execute("", 0), sync()]);
    client.until_ready();
    let stats = rows(&mut console, "SHOW STATS");
    let row = stats.iter().find(|row| row[0] == carpool.database).unwrap();
    let [assigned, transactions, queries] = [1, 2, 3].map(|i| row[i].parse::<u32>().unwrap());
    assert_eq!((assigned, transactions, queries), (6, 6, 8));
    assert_eq!([9, 10, 11, 23].map(|i| row[i].as_str()), ["1", "1", "2", "1"], "parses, binds and logins");
    let clients = rows(&mut console, "SHOW CLIENTS");
    assert_eq!(clients[0][19], "1", "one prepared statement");
}

#[test]
fn the_extended_protocol_gives_the_same_rows() {
    let carpool = Carpool::start(&Setup::default());
    let mut console = console(&carpool);
    let simple = rows(&mut console, "SHOW STATE");
    console.send_all(&[parse("", "show state;"), bind("", "", &[]), describe('P', ""), execute("", 0), sync()]);
    let replies = console.until_ready();
    assert_eq!(tags(&replies), "12TDDDCZ");
    let extended: Vec<Vec<_>> = replies
        .iter()
        .filter(|m| m.tag == b'D')
        .map(|m| m.columns().into_iter().map(Option::unwrap_or_default).collect())
        .collect();
    assert_eq!(simple, extended);
    console.send_all(&[parse("", "nonsense"), bind("", "", &[]), execute("", 0), sync(), query("show version")]);
    assert_eq!(console.until_ready()[0].field('C').as_deref(), Some("08P01"));
    assert_eq!(console.until_ready().len(), 4);
}

#[test]
fn a_killed_client_is_told() {
    let carpool = Carpool::start(&Setup::default());
    let (mut client, mut console) = (carpool.client(), console(&carpool));
    client.query("begin");
    let id = rows(&mut console, "SHOW CLIENTS")[0][20].clone();
    console.query(&format!("KILL_CLIENT {id}"));
    let last = client.until_closed();
    assert_eq!(last[0].field('C').as_deref(), Some("57P01"));
    assert_eq!(console.error("KILL_CLIENT 999999"), "08P01");
    eventually("the server is free again", || (pool(&carpool, &mut console)[6] == "0").then_some(()));
}

/// All that is wrong, as in the log, and nothing has changed.
#[test]
fn a_failed_reload_says_why() {
    let carpool = Carpool::start(&Setup::default());
    let (mut client, mut console) = (carpool.client(), console(&carpool));
    let good = std::fs::read_to_string(&carpool.config).unwrap();
    for (text, want) in [
        (
            good.replace("[pooler]", "[pooler]\npool_sise = 3\nverbose = 'no'"),
            &["pool_sise: unknown setting", "verbose"][..],
        ),
        (String::new(), &["is empty"]),
        ("[pooler".to_owned(), &[".toml:1: "]),
    ] {
        std::fs::write(&carpool.config, text).unwrap();
        let error = console.query("RELOAD").remove(0);
        assert_eq!((error.tag, error.field('C').as_deref()), (b'E', Some("F0000")), "{error:?}");
        let detail = error.field('D').unwrap();
        assert!(want.iter().all(|part| detail.contains(part)), "{detail}");
        assert_eq!(client.value("select 1"), "1");
    }
    std::fs::write(&carpool.config, good).unwrap();
    assert_eq!(console.query("RELOAD")[0].tag, b'C');
}

#[test]
fn shutdown_ends_the_process() {
    let mut carpool = Carpool::start(&Setup::default());
    let (mut idle, mut console) = (carpool.client(), console(&carpool));
    idle.query("begin");
    let replies = console.query("SHUTDOWN");
    assert_eq!(replies[0].tag, b'C');
    assert_eq!(idle.until_closed()[0].field('C').as_deref(), Some("57P01"));
    assert_eq!(console.until_closed()[0].field('C').as_deref(), Some("57P01"));
    assert!(carpool.wait().success());
}

#[test]
fn http_tells_health_and_numbers() {
    let port = free_port();
    let mut carpool = Carpool::start(&Setup::pooler(&format!("http_port = {port}")));
    let mut client = carpool.client();
    client.query("select 1");
    assert_eq!(http(port, "GET", "/healthz"), (200, "ok".into()));
    assert_eq!(http(port, "GET", "/readyz").0, 200);
    assert_eq!(http(port, "HEAD", "/"), (200, String::new()));
    assert_eq!(http(port, "GET", "/no").0, 404);
    assert_eq!(http(port, "POST", "/metrics").0, 405);
    let (_, metrics) = http(port, "GET", "/metrics");
    assert!(metrics.contains(&format!("carpool_queries_total{{database=\"{}\"}} 1\n", carpool.database)), "{metrics}");
    let (_, json) = http(port, "GET", "/api/pools");
    assert!(json.contains(&format!("\"database\":\"{}\"", carpool.database)), "{json}");
    client.query("begin");
    carpool.signal("TERM");
    eventually("it is no longer ready", || (http(port, "GET", "/readyz").0 == 503).then_some(()));
    assert_eq!(http(port, "GET", "/healthz").0, 200);
    client.query("commit");
    assert!(carpool.wait().success());
}

/// The URL of the console, and the name of the test's own database.
fn for_scripts(carpool: &Carpool) -> [String; 2] {
    let url = format!("postgresql://postgres:unused@127.0.0.1:{}/pgbouncer", carpool.port);
    [url, carpool.database.clone()]
}

#[test]
fn psycopg_uses_the_console() {
    let carpool = Carpool::start(&Setup::default());
    let [url, database] = for_scripts(&carpool);
    script(python(), "console.py", &[&url, &database]);
}

#[test]
fn node_postgres_uses_the_console() {
    let carpool = Carpool::start(&Setup::default());
    let [url, database] = for_scripts(&carpool);
    script(node(), "console.js", &[&url, &database]);
}

/// What prometheus-community/pgbouncer_exporter asks, as it does, and the columns that it reads by name. It takes all
/// but the first for numbers, unless it knows them.
#[test]
fn the_exporters_queries_work() {
    let carpool = Carpool::start(&Setup::default());
    let (mut client, mut console) = (carpool.client(), console(&carpool));
    client.query("select 1");
    let columns = |message: &Message| {
        let mut rest = &message.body[2..];
        let mut names = Vec::new();
        while !rest.is_empty() {
            let end = rest.iter().position(|b| *b == 0).unwrap();
            names.push(String::from_utf8_lossy(&rest[..end]).into_owned());
            rest = &rest[end + 19..];
        }
        names
    };
    for (command, wanted) in [
        (
            "SHOW DATABASES;",
            "name host port database force_user pool_size reserve_pool_size pool_mode max_connections \
            current_connections paused disabled max_client_connections current_client_connections",
        ),
        (
            "SHOW STATS;",
            "database avg_query_count avg_query_time avg_recv avg_sent avg_wait_time avg_xact_count \
            avg_xact_time total_query_count total_query_time total_received total_sent total_wait_time total_xact_count \
            total_xact_time total_server_assignment_count total_client_parse_count total_server_parse_count total_bind_count",
        ),
        (
            "SHOW POOLS;",
            "database user cl_active cl_active_cancel_req cl_waiting cl_waiting_cancel_req sv_active \
            sv_active_cancel sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode",
        ),
        ("SHOW LISTS;", "list items"),
        ("SHOW CONFIG;", "key value"),
        ("SHOW VERSION;", "version"),
        ("SHOW CLIENTS;", "database user state addr application_name"),
    ] {
        let replies = console.query(command);
        assert_eq!(replies.iter().map(|m| m.tag).find(|tag| *tag == b'E'), None, "{command}: {replies:?}");
        let names = columns(&replies[0]);
        for want in wanted.split_whitespace() {
            assert!(names.iter().any(|name| name == want), "{command}: {want}");
        }
    }
    let config = rows(&mut console, "SHOW CONFIG;");
    for key in ["max_client_conn", "default_pool_size", "max_user_connections"] {
        let row = config.iter().find(|row| row[0] == key).unwrap();
        assert!(row[1].parse::<u64>().is_ok(), "{row:?}");
    }
    let lists = rows(&mut console, "SHOW LISTS;");
    for list in [
        "databases",
        "users",
        "pools",
        "free_clients",
        "used_clients",
        "login_clients",
        "free_servers",
        "used_servers",
        "dns_names",
        "dns_zones",
        "dns_queries",
        "dns_pending",
    ] {
        let row = lists.iter().find(|row| row[0] == list).unwrap();
        assert!(row[1].parse::<u64>().is_ok(), "{row:?}");
    }
}

/// A file as PgBouncer's documentation has it, run as it is.
#[test]
fn a_pgbouncer_ini_is_run_unchanged() {
    let postgres = crate::harness::Postgres::shared();
    let dir = std::env::temp_dir().join(format!("carpool-ini-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir(&dir).unwrap();
    let (database, port, at) = (postgres.new_database(), free_port(), dir.display());
    let text = format!(
        ";; databases\n[databases]\n{database} = host=127.0.0.1 port={} pool_size=2 ; no comment\n\
         forced = host=127.0.0.1 port={} dbname={database} user=app connect_query='select 1'\n\
         * = host=127.0.0.1 port={}\n%include {at}/more.ini\n\n[pgbouncer]\nlogfile = {at}/pgbouncer.log\n\
         pidfile = {at}/pgbouncer.pid\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir = {at}\n\
         auth_type = plain\nauth_file = {at}/userlist.txt\nadmin_users = postgres\nstats_users = stats, app\n\
         pool_mode = transaction\nserver_reset_query = DISCARD ALL\nmax_client_conn = 100\ndefault_pool_size = 20\n\
         reserve_pool_size = 5\nserver_lifetime = 3600\nignore_startup_parameters = extra_float_digits\nverbose = 0\n",
        postgres.port, postgres.port, postgres.port
    )
    .replace(" ; no comment", "");
    std::fs::write(dir.join("more.ini"), "[users]\napp = pool_mode=session max_user_connections=3\n").unwrap();
    std::fs::write(dir.join("userlist.txt"), "\"postgres\" \"secret\"\n\"app\" \"app\"\n").unwrap();
    std::fs::write(dir.join("pgbouncer.ini"), text).unwrap();
    let run = |arguments: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_carpool")).args(arguments).current_dir(&dir).output().unwrap()
    };
    assert!(run(&["-V"]).stdout.starts_with(b"Carpool "));
    let started = run(&["-q", "-d", "-v", "pgbouncer.ini"]);
    assert!(started.status.success() && started.stderr.is_empty(), "{started:?}");
    let psql = |database: &str, user: &str, command: &str| {
        let port = port.to_string();
        let arguments = ["-XAtw", "-h", "127.0.0.1", "-p", &port, "-U", user, "-d", database, "-c", command];
        let password = if user == "app" { "app" } else { "secret" };
        let output = std::process::Command::new("psql").args(arguments).env("PGPASSWORD", password).output().unwrap();
        (String::from_utf8_lossy(&output.stdout).trim_end().to_owned(), output.status.success())
    };
    eventually("it listens", || psql(&database, "postgres", "select 1").1.then_some(()));
    assert_eq!(psql("forced", "postgres", "select current_user").0, "app");
    assert_eq!(psql("postgres", "postgres", "select current_database()").0, "postgres");
    assert!(psql("pgbouncer", "app", "show pools").0.contains("|session|"));
    assert!(!psql("pgbouncer", "app", "reload").1);
    assert_eq!(psql("pgbouncer", "postgres", "reload"), ("RELOAD".into(), true));
    let pid = std::fs::read_to_string(dir.join("pgbouncer.pid")).unwrap();
    let stopped = std::process::Command::new("kill").args(["-s", "INT", pid.trim()]).status().unwrap();
    assert!(stopped.success());
    eventually("it ends", || (!dir.join("pgbouncer.pid").exists()).then_some(()));
    let log = std::fs::read_to_string(dir.join("pgbouncer.log")).unwrap();
    assert!(log.contains("reloaded") && log.contains("stopped"), "{log}");
    std::fs::remove_dir_all(&dir).unwrap();
}
