//! `/metrics`, as Prometheus' own parser reads it.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::postgres::free_port;
use crate::harness::raw::{V3_0, bind, execute, parse, startup, sync};
use crate::harness::{Carpool, Raw, Setup, eventually, http};

/// Every sample, by name and labels.
struct Samples(HashMap<String, f64>);

impl Samples {
    fn read(port: u16) -> Self {
        let (status, text) = http(port, "GET", "/metrics");
        assert_eq!(status, 200);
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut parser = Command::new(root.join(".venv/bin/python"))
            .arg(root.join("tests/drivers/metrics.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = parser.wait_with_output().unwrap();
        assert!(output.status.success(), "{text}");
        Self(serde_json::from_slice(&output.stdout).unwrap())
    }

    fn get(&self, key: &str) -> f64 {
        *self.0.get(key).unwrap_or_else(|| panic!("no {key}"))
    }
}

#[test]
fn durations_are_in_cumulative_buckets() {
    let port = free_port();
    let carpool = Carpool::start(&Setup::pooler(&format!("http_port = {port}")).database("pool_size = 1"));
    let name = carpool.database.clone();
    let mut client = carpool.client();
    client.value("select 1");
    let before = Samples::read(port);
    // One transaction of two queries with a pause, which another client waits for.
    client.value("begin; select pg_sleep(0.3)");
    let mut other = carpool.client();
    other.send(&crate::harness::raw::query("select 2"));
    let waiting = format!("carpool_clients{{database=\"{name}\",state=\"waiting\"}} 1\n");
    eventually("the other waits", || http(port, "GET", "/metrics").1.contains(&waiting).then_some(()));
    client.query("commit");
    other.until_ready();
    let after = Samples::read(port);
    let of = |family: &str, rest: &str| format!("carpool_{family}_duration_seconds_{rest}");
    let grown = |key: &str| after.get(key) - before.get(key);
    let plain = format!("{{database={name}}}");
    assert_eq!(grown(&of("transaction", &format!("count{plain}"))), 2.0);
    assert_eq!(grown(&of("query", &format!("count{plain}"))), 3.0);
    assert_eq!(grown(&of("wait", &format!("count{plain}"))), 2.0, "each time that a client got a server");
    // Long ones aren't in the short buckets.
    let short = format!("bucket{{database={name},le=0.25}}");
    assert_eq!(grown(&of("transaction", &short)), 1.0);
    assert_eq!(grown(&of("query", &short)), 2.0);
    assert!(grown(&of("transaction", &format!("sum{plain}"))) >= 0.3);
    assert!(grown(&of("wait", &format!("sum{plain}"))) > 0.0);
    let zero = format!("bucket{{database={name},le=0.0001}}");
    assert!(grown(&of("wait", &zero)) < 2.0, "one has waited");
}

#[test]
fn durations_outlive_their_servers() {
    let port = free_port();
    let carpool = Carpool::start(&Setup::pooler(&format!("http_port = {port}")));
    let mut client = carpool.client();
    client.value("select 1");
    let key = format!("carpool_query_duration_seconds_count{{database={}}}", carpool.database);
    let before = Samples::read(port).get(&key);
    let mut console = Raw::login(carpool.port, "postgres", "pgbouncer");
    console.query("RECONNECT");
    client.value("select 1");
    assert_eq!(Samples::read(port).get(&key), before + 1.0);
}

#[test]
fn errors_logins_pins_and_statements_are_counted_by_kind() {
    let port = free_port();
    let setup = format!("http_port = {port}\nauth_type = \"scram-sha-256\"\nidle_transaction_timeout = 0.2");
    let carpool = Carpool::start(&Setup::pooler(&setup).sections("[users.trusted]\n"));
    let name = carpool.database.clone();
    // Without a password there is no way in.
    let mut refused = Raw::connect(carpool.port);
    refused.send(&startup(V3_0, &[("user", "nobody"), ("database", &name)]));
    drop(refused);
    eventually("a lost login", || {
        (Samples::read(port).get("carpool_client_logins_failed_total{reason=lost}") >= 1.0).then_some(())
    });

    let port = free_port();
    let setup = format!("http_port = {port}\nidle_transaction_timeout = 0.2");
    let carpool = Carpool::start(&Setup::pooler(&setup));
    let name = carpool.database.clone();
    let mut wrong = Raw::connect(carpool.port);
    wrong.send(&startup(V3_0, &[("user", "postgres"), ("database", "nowhere")]));
    wrong.until_closed();
    let mut client = carpool.client();
    client.query("select 1/0");
    client.query("do $$begin raise exception sqlstate 'ZZ999'; end$$");
    for _ in 0..2 {
        client.send_all(&[parse("s", "select 1"), bind("", "s", &[]), execute("", 0), sync()]);
        client.until_ready();
        client.send_all(&[crate::harness::raw::close('S', "s"), sync()]);
        client.until_ready();
    }
    client.query("create temp table kept (a int)");
    client.query("begin");
    client.until_closed();
    let samples = Samples::read(port);
    for (key, want) in [
        ("carpool_client_logins_failed_total{reason=no_database}".to_owned(), 1.0),
        ("carpool_client_logins_failed_total{reason=password}".to_owned(), 0.0),
        (format!("carpool_client_logins_total{{database={name}}}"), 1.0),
        (format!("carpool_server_errors_total{{class=22,database={name}}}"), 1.0),
        (format!("carpool_server_errors_total{{class=other,database={name}}}"), 1.0),
        (format!("carpool_client_errors_total{{database={name},sqlstate=25P03}}"), 1.0),
        (format!("carpool_pins_total{{database={name},reason=temporary object}}"), 1.0),
        (format!("carpool_pins_total{{database={name},reason=advisory lock}}"), 0.0),
        // The first Parse brings it to the server; the second one and both uses find it there.
        (format!("carpool_server_parses_total{{database={name}}}"), 1.0),
        (format!("carpool_prepared_statement_hits_total{{database={name}}}"), 3.0),
    ] {
        assert_eq!(samples.get(&key), want, "{key}");
    }
    assert_eq!(samples.0.keys().filter(|key| key.starts_with("carpool_build_info{")).count(), 1);
}

/// Whoever reaches the port can open connections and say nothing: the checks of a load balancer don't wait for that.
#[test]
fn silent_connections_do_not_delay_health_checks() {
    // As in `admin::http`: how many there may be, and how long one may say nothing.
    const CONNECTIONS: usize = 64;
    const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
    let port = free_port();
    // Only root may look at the descriptors of a process that leaves no core dump.
    let carpool = Carpool::start(&Setup::pooler(&format!("http_port = {port}\ncore_dumps = true")));
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", carpool.pid())).unwrap().count();
    let before = descriptors();
    let begun = Instant::now();
    let silent: Vec<_> = (0..3 * CONNECTIONS)
        .map(|number| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            // Some begin to say something.
            stream.write_all([&b""[..], b"GET /hea", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"][number % 3]).unwrap();
            stream.set_nonblocking(true).unwrap();
            stream
        })
        .collect();
    let is_open = |mut stream: &TcpStream| match stream.read(&mut [0; 64]) {
        Err(error) => error.kind() == ErrorKind::WouldBlock,
        Ok(_) => false,
    };
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(http(port, "GET", path).0, 200);
    }
    let now = descriptors();
    let open = silent.iter().filter(|stream| is_open(stream)).count();
    assert!(begun.elapsed() < HEAD_TIMEOUT, "they have timed out by themselves");
    // The last ones are there, and no more than there may be.
    assert!((CONNECTIONS / 2..CONNECTIONS).contains(&open), "{open} silent ones are open");
    assert!(silent[silent.len() - CONNECTIONS / 2..].iter().all(is_open));
    assert!(now <= before + CONNECTIONS + 1, "{before} descriptors before, {now} after");
}
