//! The pool-size advisor: SHOW ADVICE, `/api/advice`, `carpool advise`, pools that size themselves.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::postgres::free_port;
use crate::harness::raw::{bind, describe, execute, parse, sync, tags};
use crate::harness::{Carpool, Raw, Setup, eventually, http};

/// So many clients sleep in the database and then think, again and again, for as long as `during` takes.
fn under_load<T>(carpool: &Carpool, clients: usize, sleep: f64, think: u64, during: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let mut client = carpool.client();
                while !stop.load(Ordering::Relaxed) {
                    client.query(&format!("select pg_sleep({sleep})"));
                    std::thread::sleep(Duration::from_millis(think));
                }
            });
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(during));
        stop.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Transactions of the database so far.
fn transactions(carpool: &Carpool) -> u64 {
    let stats = carpool.console("SHOW STATS_TOTALS");
    let row = stats.lines().find(|line| line.starts_with(&carpool.database)).unwrap();
    row.split('|').nth(2).unwrap().parse().unwrap()
}

/// Load until there is enough to go by: transactions, and time.
fn load(carpool: &Carpool, clients: usize, sleep: f64, think: u64) {
    let begun = Instant::now();
    under_load(carpool, clients, sleep, think, || {
        eventually("enough has run", || {
            (transactions(carpool) > 600 && begun.elapsed() > Duration::from_secs(3)).then_some(())
        });
    });
}

fn start(lines: &str, database: &str) -> (Carpool, u16) {
    let port = free_port();
    (Carpool::start(&Setup::pooler(&format!("http_port = {port}\n{lines}")).database(database)), port)
}

fn advice(port: u16) -> serde_json::Value {
    let (status, body) = http(port, "GET", "/api/advice");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn advise(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_carpool")).arg("advise").args(arguments).output().unwrap()
}

#[test]
fn a_starving_pool_is_told_how_many_it_takes() {
    let (carpool, port) = start("advisor = true", "pool_size = 2");
    load(&carpool, 16, 0.004, 4);
    let report = advice(port);
    let pool = &report["pools"][0];
    let text = pool.to_string();
    let text = &text[..text.len().min(1500)];
    assert_eq!((report["enabled"].as_bool(), report["target"].as_str()), (Some(true), Some("p99 wait < 5ms")));
    assert_eq!((pool["database"].as_str(), pool["size"].as_u64()), (Some(&*carpool.database), Some(2)));
    let recommended = pool["recommended"].as_u64().unwrap();
    assert!((4..=17).contains(&recommended), "{text}");
    assert!(pool["low"].as_u64().unwrap() <= recommended, "{text}");
    assert!(pool["verdict"].as_str().unwrap().contains("too few"), "{text}");
    assert!(pool["measured"]["wait_p99_us"].as_u64().unwrap() > 5_000, "{text}");
    assert!(pool["measured"]["utilization"].as_f64().unwrap() > 0.5, "{text}");
    assert!(pool["trace"]["transactions"].as_u64().unwrap() > 600, "{text}");
    assert!(pool["trace"]["seconds"].as_f64().unwrap() > 3.0, "{text}");
    assert!(pool["contention"]["sigma"].is_number() && pool["contention"]["kappa"].is_number(), "{text}");
    let sizes = pool["sizes"].as_array().unwrap();
    assert_eq!(sizes.len(), 200);
    for (i, size) in sizes.iter().enumerate() {
        assert_eq!(size["size"].as_u64(), Some(i as u64 + 1));
        let [low, p99, high] =
            ["wait_p99_low_us", "wait_p99_us", "wait_p99_high_us"].map(|n| size[n].as_u64().unwrap());
        assert!(low <= p99 && p99 <= high, "{size}");
        assert!(size["wait_p50_us"].as_u64().unwrap() <= p99, "{size}");
        assert!(size["utilization"].as_f64().unwrap() <= 1.001 && size["throughput"].as_f64().unwrap() > 0.0, "{size}");
    }
    // What it has now is predicted from the same record that it was measured with.
    let (now, measured) = (&sizes[1], pool["measured"]["wait_p99_us"].as_f64().unwrap());
    let predicted = now["wait_p99_us"].as_f64().unwrap();
    assert!((0.5..2.0).contains(&(predicted / measured)), "{now} {measured}");
    // The console says the same, by both protocols.
    let shown = carpool.console("SHOW ADVICE");
    let columns: Vec<&str> = shown.split('|').collect();
    assert_eq!(columns[..4], [&*carpool.database, "2", &recommended.to_string(), &pool["low"].to_string()], "{shown}");
    assert_eq!(columns[6], "p99 wait < 5ms");
    assert_eq!(columns[14], pool["verdict"].as_str().unwrap());
    let mut console = Raw::login(carpool.port, "postgres", "pgbouncer");
    console.send_all(&[parse("", "show advice"), bind("", "", &[]), describe('P', ""), execute("", 0), sync()]);
    let replies = console.until_ready();
    assert_eq!(tags(&replies), "12TDCZ");
    let row: Vec<_> = replies[3].columns().into_iter().map(Option::unwrap_or_default).collect();
    assert_eq!(row.join("|"), shown);
    let (_, metrics) = http(port, "GET", "/metrics");
    let gauge = format!("carpool_pool_size_recommended{{database=\"{}\"}} {recommended}\n", carpool.database);
    assert!(metrics.contains(&gauge), "{gauge}");
}

#[test]
fn an_oversized_pool_is_told_that_fewer_would_do_and_a_trace_says_the_same_elsewhere() {
    let (carpool, port) = start("advisor = true", "pool_size = 60");
    load(&carpool, 5, 0.003, 3);
    let report = advice(port);
    let pool = &report["pools"][0];
    let recommended = pool["recommended"].as_u64().unwrap();
    assert!((1..=8).contains(&recommended), "{}", pool["verdict"]);
    assert!(pool["verdict"].as_str().unwrap().contains("more than"), "{}", pool["verdict"]);
    // The same from a file, with another target.
    let (status, trace) = http(port, "GET", "/api/trace");
    assert_eq!(status, 200);
    let file = std::env::temp_dir().join(format!("carpool-trace-{}-{}", std::process::id(), carpool.database));
    std::fs::write(&file, &trace).unwrap();
    let path = file.to_str().unwrap();
    let output = advise(&[path, "--json"]);
    assert!(output.status.success(), "{output:?}");
    let from_file: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let there = from_file["pools"][0]["recommended"].as_u64().unwrap();
    assert!(there.abs_diff(recommended) <= 1, "{there} {recommended}");
    let strict = advise(&[path, "--json", "--target", "p99.9 wait < 10us"]);
    let strict: serde_json::Value = serde_json::from_slice(&strict.stdout).unwrap();
    assert!(strict["pools"][0]["recommended"].as_u64().unwrap() >= there);
    // As a table; and from the running one.
    for source in [path.to_owned(), format!("http://127.0.0.1:{port}")] {
        let output = advise(&[&source, "--sizes", "1,3-4"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text} {:?}", output.stderr);
        assert!(text.starts_with(&format!("database {}: 60 servers are ", carpool.database)), "{text}");
        let sizes: Vec<&str> = text.lines().skip(5).map(|line| line.split_whitespace().next().unwrap()).collect();
        assert_eq!(sizes, ["1", "3", "4"], "{text}");
    }
    // What is no trace is refused, with the line.
    std::fs::write(&file, trace.replace("end ", "end 9")).unwrap();
    let output = advise(&[path]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("should be here"), "{error}");
    for arguments in [&[path, "--sizes", "0"][..], &["/does/not/exist"], &[path, "--target", "fast"]] {
        assert!(!advise(arguments).status.success(), "{arguments:?}");
    }
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn without_it_nothing_is_recorded_and_the_console_says_how() {
    let (carpool, port) = start("", "pool_size = 5");
    let mut client = carpool.client();
    client.query("select 1");
    let row = carpool.console("SHOW ADVICE");
    assert!(row.starts_with(&format!("{}|5||", carpool.database)), "{row}");
    assert!(row.contains("off: advisor = true in [pooler]"), "{row}");
    assert_eq!(http(port, "GET", "/api/trace"), (200, "carpool-trace 1\nend 0\n".into()));
    let report = advice(port);
    assert_eq!((report["enabled"].as_bool(), report["pools"].as_array().map(Vec::len)), (Some(false), Some(0)));
    assert!(!http(port, "GET", "/metrics").1.contains("carpool_pool_size_recommended"));
    // From now on it is; one who has a server already counts from when it got it.
    client.query("begin");
    assert_eq!(carpool.console("SET advisor = 1"), "SET advisor=1");
    client.query("commit");
    client.query("select 1");
    let (_, trace) = http(port, "GET", "/api/trace");
    assert!(
        trace.contains(&format!("database {}\nsize 5\n", carpool.database)) && trace.ends_with("end 2\n"),
        "{trace}"
    );
    client.query("begin");
    let (_, trace) = http(port, "GET", "/api/trace");
    assert!(trace.ends_with("end 3\n"), "one that goes on is there too: {trace}");
    client.query("commit");
    assert_eq!(carpool.console("SET advisor = 0"), "SET advisor=0");
    client.query("select 1");
    assert_eq!(http(port, "GET", "/api/trace").1, "carpool-trace 1\nend 0\n");
}

#[test]
fn a_few_transactions_are_too_little_to_go_by() {
    let (carpool, port) = start("advisor = true", "");
    carpool.client().query("select 1");
    let report = advice(port);
    let pool = &report["pools"][0];
    assert!(pool["recommended"].is_null() && pool["sizes"].as_array().unwrap().is_empty(), "{pool}");
    assert!(pool["verdict"].as_str().unwrap().starts_with("too little data: "), "{pool}");
}

/// The waits and loans of a session whose transactions are known.
#[test]
fn the_record_has_waits_and_loans_as_they_were() {
    let (carpool, port) = start("advisor = true", "pool_size = 1");
    let (mut first, mut second) = (carpool.client(), carpool.client());
    second.query("select 1");
    first.query("begin");
    second.send(&crate::harness::raw::query("select pg_sleep(0.05)"));
    eventually("it waits", || {
        carpool.console("SHOW POOLS").lines().any(|line| line.split('|').nth(3) == Some("1")).then_some(())
    });
    first.query("select pg_sleep(0.1)");
    first.query("commit");
    second.until_ready();
    let (_, trace) = http(port, "GET", "/api/trace");
    let loans: Vec<Vec<u64>> = trace
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()))
        .map(|line| line.split(' ').map(|n| n.parse().unwrap()).collect())
        .collect();
    let [.., a, b] = loans.as_slice() else { panic!("{trace}") };
    assert!(a[1] == 0 && a[2] >= 100_000, "no wait, a tenth of a second: {trace}");
    assert!(b[1] >= 100_000 && b[2] >= 50_000 && b[0] >= a[0] + b[2], "{trace}");
    assert_ne!(a[3], b[3]);
    assert_eq!(a[4], b[4], "of one application");
}

#[test]
fn a_pool_that_sizes_itself_grows_within_its_bounds_and_says_why() {
    let lines = "pool_size = \"auto\"\nmin_auto_pool_size = 2\nmax_auto_pool_size = 4";
    let (carpool, port) = start("auto_pool_size_delay = 1\ndefault_pool_size = 2", lines);
    assert_eq!(carpool.console("SHOW DATABASES").lines().next().unwrap().split('|').nth(11), Some("2"));
    let most = AtomicUsize::new(0);
    under_load(&carpool, 16, 0.004, 4, || {
        eventually("it grows", || {
            let servers = carpool.console("SHOW SERVERS").lines().count();
            most.fetch_max(servers, Ordering::Relaxed);
            carpool.log().contains("pool_size: 2 -> 4, too few: ").then_some(())
        });
        eventually("there are four", || (carpool.console("SHOW SERVERS").lines().count() == 4).then_some(()));
        for _ in 0..20 {
            most.fetch_max(carpool.console("SHOW SERVERS").lines().count(), Ordering::Relaxed);
        }
    });
    assert_eq!(most.load(Ordering::Relaxed), 4);
    let pool = &advice(port)["pools"][0];
    assert_eq!((pool["size"].as_u64(), &pool["auto"]), (Some(4), &serde_json::json!([2, 4])));
    assert!(
        http(port, "GET", "/metrics")
            .1
            .contains(&format!("carpool_pool_size{{database=\"{}\"}} 4\n", carpool.database))
    );
}

#[test]
fn a_pool_that_sizes_itself_shrinks_when_that_was_advised_for_a_while() {
    let lines = "pool_size = \"auto\"\nmin_auto_pool_size = 2\nmax_auto_pool_size = 20\nmin_pool_size = 2";
    let (carpool, _) = start("auto_pool_size_delay = 2\ndefault_pool_size = 30", lines);
    let size = || carpool.console("SHOW DATABASES").lines().next().unwrap().split('|').nth(11).unwrap().to_owned();
    assert_eq!(size(), "20", "the largest");
    under_load(&carpool, 3, 0.003, 3, || {
        eventually("it shrinks", || carpool.log().contains("pool_size: 20 -> 15, more than needed for ").then_some(()));
    });
    assert_eq!(size(), "15");
}
