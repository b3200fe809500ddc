//! Spans for a collector of traces, by OTLP.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::harness::postgres::free_port;
use crate::harness::raw::{bind, execute, parse, query, sync};
use crate::harness::{Carpool, Raw, Setup, eventually, http};

const TRACE: &str = "5bd66ef5095369c7b0d1f8f4bd33716a";
const CALLER: &str = "c532cb4098ac3dd2";

/// A text of the caller's, sampled or not.
fn traced(sql: &str, flags: &str) -> String {
    format!("{sql} /*action='run',traceparent='00-{TRACE}-{CALLER}-{flags}'*/")
}

/// Takes what is exported.
struct Collector {
    port: u16,
    spans: Arc<Mutex<Vec<Value>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, spans) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
        let taken = Arc::clone(&spans);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, taken) = (stream.unwrap(), Arc::clone(&taken));
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    while let Some(body) = request(&mut reader) {
                        let body: Value = serde_json::from_slice(&body).unwrap();
                        let resource = &body["resourceSpans"][0];
                        let service = &resource["resource"]["attributes"][0];
                        assert_eq!(
                            (&service["key"], &service["value"]["stringValue"]),
                            (&"service.name".into(), &"carpool".into())
                        );
                        taken.lock().unwrap().extend(resource["scopeSpans"][0]["spans"].as_array().unwrap().clone());
                        let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
                        stream.write_all(answer.as_bytes()).unwrap();
                    }
                });
            }
        });
        Self { port, spans }
    }

    /// All spans once there are so many.
    fn spans(&self, n: usize) -> Vec<Value> {
        eventually(&format!("{n} spans"), || {
            let spans = self.spans.lock().unwrap().clone();
            assert!(spans.len() <= n, "{spans:#?}");
            Some(spans).filter(|spans| spans.len() == n)
        })
    }
}

/// The body of the next request.
fn request(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let (mut line, mut length, mut first) = (String::new(), 0, true);
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if std::mem::take(&mut first) {
            assert_eq!(line.trim_end(), "POST /v1/traces HTTP/1.1");
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        } else if lower.trim_end().is_empty() {
            break;
        }
    }
    assert!(length > 0, "no content-length");
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(body)
}

fn attribute<'s>(span: &'s Value, key: &str) -> &'s str {
    let found = span["attributes"].as_array().unwrap().iter().find(|a| a["key"] == key);
    found.unwrap_or_else(|| panic!("no {key} in {span}"))["value"]["stringValue"].as_str().unwrap()
}

fn nanos(span: &Value, key: &str) -> u128 {
    span[key].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_transaction_belongs_to_its_callers_trace_and_its_wait_to_it() {
    let collector = Collector::start();
    let lines = format!("otlp_endpoint = \"http://127.0.0.1:{}\"\notlp_sampling = 0", collector.port);
    let carpool = Carpool::start(&Setup::pooler(&lines).database("pool_size = 1"));
    let mut client = carpool.client();
    // Neither sampled here nor by the caller.
    client.value("select 1");
    client.value(&traced("select 1", "00"));
    client.query("begin");
    let mut other = Raw::login_with(
        carpool.port,
        &[("user", "postgres"), ("database", &carpool.database), ("application_name", "shop")],
    );
    let text = traced("select 2", "01");
    other.send_all(&[parse("", &text), bind("", "", &[]), execute("", 0), sync()]);
    std::thread::sleep(std::time::Duration::from_millis(50));
    client.query("commit");
    other.until_ready();
    let spans = collector.spans(2);
    let whole = spans.iter().find(|span| span["name"] == "transaction").unwrap();
    let wait = spans.iter().find(|span| span["name"] == "wait for a server").unwrap();
    assert_eq!((&whole["traceId"], &whole["parentSpanId"]), (&TRACE.into(), &CALLER.into()));
    assert_eq!((&wait["traceId"], &wait["parentSpanId"]), (&TRACE.into(), &whole["spanId"]));
    assert_eq!(attribute(whole, "db.namespace"), carpool.database);
    assert_eq!(attribute(whole, "carpool.application_name"), "shop");
    assert!(!whole.to_string().contains("select 2"), "texts aren't exported");
    let (begin, end) = (nanos(whole, "startTimeUnixNano"), nanos(whole, "endTimeUnixNano"));
    let (wait_begin, wait_end) = (nanos(wait, "startTimeUnixNano"), nanos(wait, "endTimeUnixNano"));
    assert!(begin == wait_begin && wait_begin < wait_end && wait_end <= end, "{spans:#?}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    assert!(end <= now && now - end < 60_000_000_000, "{end} {now}");
    // The next transaction of the same client is nobody's.
    other.value("select 3");
    other.value(&traced("select 4", "01"));
    collector.spans(3);
}

#[test]
fn errors_are_seen_and_roots_are_sampled() {
    let collector = Collector::start();
    let lines = format!("otlp_endpoint = \"http://127.0.0.1:{}/v1/traces\"", collector.port);
    let mut carpool = Carpool::start(&Setup::pooler(&lines));
    let mut client = carpool.client();
    client.query("select 1/0");
    client.value("select 1");
    // What waits is exported in the end.
    drop(client);
    carpool.signal("TERM");
    assert!(carpool.wait().success());
    let spans: Vec<_> =
        collector.spans.lock().unwrap().iter().filter(|s| s["name"] == "transaction").cloned().collect();
    assert_eq!(spans.len(), 2, "{spans:#?}");
    let failed: Vec<_> = spans.iter().filter(|span| span["status"]["code"] == 2).collect();
    assert_eq!(failed.len(), 1, "{spans:#?}");
    assert_eq!(attribute(failed[0], "error.type"), "22");
    assert!(spans.iter().all(|span| span.get("parentSpanId").is_none()));
    assert_ne!(spans[0]["traceId"], spans[1]["traceId"]);
}

#[test]
fn without_a_collector_sessions_go_on_and_drops_are_counted() {
    let (port, nowhere) = (free_port(), free_port());
    let lines = format!("http_port = {port}\notlp_endpoint = \"http://127.0.0.1:{nowhere}\"");
    let carpool = Carpool::start(&Setup::pooler(&lines));
    let mut client = carpool.client();
    for _ in 0..3 {
        client.value("select 1");
    }
    eventually("drops", || {
        let (_, metrics) = http(port, "GET", "/metrics");
        (metrics.contains("carpool_spans_dropped_total 3\n") && metrics.contains("carpool_spans_exported_total 0\n"))
            .then_some(())
    });
    carpool.logs("spans could not be exported");
}

#[test]
fn sessions_that_are_there_begin_and_end_to_be_traced() {
    let collector = Collector::start();
    let carpool = Carpool::start(&Setup::default());
    let mut client = carpool.client();
    client.value("select 1");
    let mut console = Raw::login(carpool.port, "postgres", "pgbouncer");
    let refused = console.query("SET otlp_endpoint = 'nowhere'");
    let refused = refused.iter().find(|m| m.tag == b'E').and_then(|m| m.field('M'));
    assert!(refused.as_ref().is_some_and(|text| text.contains("no URL")), "{refused:?}");
    console.query(&format!("SET otlp_endpoint = 'http://127.0.0.1:{}'", collector.port));
    client.send(&query(&traced("select 1", "01")));
    client.until_ready();
    assert_eq!(collector.spans(1)[0]["traceId"], TRACE);
    console.query("SET otlp_endpoint = ''");
    client.value(&traced("select 1", "01"));
    console.query(&format!("SET otlp_endpoint = 'http://127.0.0.1:{}'", collector.port));
    client.value(&traced("select 1", "01"));
    collector.spans(2);
}
