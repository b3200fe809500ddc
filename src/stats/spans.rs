//! Transactions as OpenTelemetry's spans, on their way from sessions to the thread that exports them, and as JSON of
//! OTLP: <https://opentelemetry.io/docs/specs/otlp/>. Sessions never wait: where the exporter doesn't keep up, spans
//! are dropped, and counted.

use std::collections::VecDeque;
use std::fmt::Write;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};

use crate::names::{DatabaseName, UserName};

/// Spans that may wait.
const LIMIT: usize = 4096;
/// Spans that are exported at once.
pub const BATCH: usize = 512;
/// How long the first one of a batch waits for others.
const DELAY: Duration = Duration::from_secs(1);

/// One transaction. Times in microseconds.
#[derive(Clone, Debug)]
pub struct Span {
    /// The trace.
    pub trace: [u8; 16],
    /// This span.
    pub id: [u8; 8],
    /// The caller's.
    pub parent: Option<[u8; 8]>,
    /// The span of the wait for a server.
    pub wait_id: [u8; 8],
    /// When it ended, since 1970.
    pub end: u64,
    /// How long the client waited for its server.
    pub wait: u64,
    /// How long it had it.
    pub taken: u64,
    /// The database, as clients call it.
    pub database: DatabaseName,
    /// The client's user.
    pub user: UserName,
    /// What the client calls itself.
    pub application: String,
    /// The client.
    pub client: String,
    /// The server.
    pub server: String,
    /// The class of the last error that the client was told.
    pub error: Option<&'static str>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Span>,
    is_running: bool,
    is_closed: bool,
    exported: u64,
    dropped: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    /// Hands a span over, or drops it.
    pub fn push(&self, span: Span) {
        let mut state = self.state.lock();
        if state.waiting.len() >= LIMIT || state.is_closed {
            state.dropped += 1;
            return;
        }
        state.waiting.push_back(span);
        if [1, BATCH].contains(&state.waiting.len()) {
            self.changed.notify_all();
        }
    }

    /// Says that there is an exporter from now on. Gives whether there was none.
    pub fn begin(&self) -> bool {
        !std::mem::replace(&mut self.state.lock().is_running, true)
    }

    /// The next spans to be exported; waits until there are some. `None` when it is closed and empty: then the
    /// exporter is over.
    #[must_use]
    pub fn next(&self) -> Option<Vec<Span>> {
        let mut state = self.state.lock();
        while state.waiting.is_empty() {
            if state.is_closed {
                state.is_running = false;
                self.changed.notify_all();
                return None;
            }
            self.changed.wait(&mut state);
        }
        if state.waiting.len() < BATCH && !state.is_closed {
            self.changed.wait_while_for(&mut state, |s| s.waiting.len() < BATCH && !s.is_closed, DELAY);
        }
        let n = state.waiting.len().min(BATCH);
        Some(state.waiting.drain(..n).collect())
    }

    /// Counts what became of `n` spans.
    pub fn note(&self, n: usize, exported: bool) {
        let mut state = self.state.lock();
        let count = if exported { &mut state.exported } else { &mut state.dropped };
        *count += n as u64;
    }

    /// How many were exported, and how many dropped.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.exported, state.dropped)
    }

    /// Takes no more, and waits until the exporter is done with those that wait, for so long at most.
    pub fn finish(&self, timeout: Duration) {
        let mut state = self.state.lock();
        state.is_closed = true;
        self.changed.notify_all();
        self.changed.wait_while_for(&mut state, |s| s.is_running, timeout);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn attributes(pairs: &[(&str, &str)]) -> Value {
    let one = |(key, value): &(&str, &str)| json!({ "key": key, "value": { "stringValue": value } });
    pairs.iter().filter(|(_, value)| !value.is_empty()).map(one).collect()
}

/// `SPAN_KIND_INTERNAL`: the wait happens within Carpool.
const INTERNAL: u8 = 1;
/// `SPAN_KIND_SERVER`: Carpool serves the caller.
const SERVER: u8 = 2;
/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;

impl Span {
    /// The transaction, and the wait for its server if there was one.
    fn to_json(&self) -> impl Iterator<Item = Value> {
        let nanos = |micros: u64| (u128::from(micros) * 1000).to_string();
        let lent = self.end.saturating_sub(self.taken);
        let begin = lent.saturating_sub(self.wait);
        let class = self.error.unwrap_or_default();
        let mut span = json!({
            "traceId": hex(&self.trace),
            "spanId": hex(&self.id),
            "name": "transaction",
            "kind": SERVER,
            "startTimeUnixNano": nanos(begin),
            "endTimeUnixNano": nanos(self.end),
            "attributes": attributes(&[
                ("db.system.name", "postgresql"),
                ("db.namespace", self.database.as_str()),
                ("carpool.user", self.user.as_str()),
                ("carpool.application_name", &self.application),
                ("carpool.client", &self.client),
                ("carpool.server", &self.server),
                ("error.type", class),
            ]),
        });
        if let Some(parent) = &self.parent {
            span["parentSpanId"] = hex(parent).into();
        }
        if self.error.is_some() {
            span["status"] = json!({ "code": ERROR, "message": format!("SQLSTATE class {class}") });
        }
        let wait = (self.wait > 0).then(|| {
            json!({
                "traceId": hex(&self.trace),
                "spanId": hex(&self.wait_id),
                "parentSpanId": hex(&self.id),
                "name": "wait for a server",
                "kind": INTERNAL,
                "startTimeUnixNano": nanos(begin),
                "endTimeUnixNano": nanos(lent),
            })
        });
        std::iter::once(span).chain(wait)
    }
}

/// The body of an ExportTraceServiceRequest.
#[must_use]
pub fn to_otlp(spans: &[Span]) -> Value {
    let version = env!("CARGO_PKG_VERSION");
    let spans: Vec<_> = spans.iter().flat_map(Span::to_json).collect();
    json!({ "resourceSpans": [{
        "resource": { "attributes": attributes(&[("service.name", "carpool"), ("service.version", version)]) },
        "scopeSpans": [{ "scope": { "name": "carpool", "version": version }, "spans": spans }],
    }] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span() -> Span {
        Span {
            trace: [0xab; 16],
            id: [1; 8],
            parent: Some([2; 8]),
            wait_id: [3; 8],
            end: 10_000_000,
            wait: 2_000,
            taken: 5_000,
            database: "app".into(),
            user: "u".into(),
            application: String::new(),
            client: "c1".into(),
            server: "s1".into(),
            error: None,
        }
    }

    #[test]
    fn the_wait_is_a_child_that_ends_where_the_server_was_lent() {
        let body = to_otlp(&[span()]);
        let spans = body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
        let [whole, wait] = spans.as_slice() else { panic!("{body}") };
        assert_eq!(whole["traceId"], "ab".repeat(16));
        assert_eq!((&whole["spanId"], &whole["parentSpanId"]), (&json!("01".repeat(8)), &json!("02".repeat(8))));
        assert_eq!((&wait["spanId"], &wait["parentSpanId"]), (&json!("03".repeat(8)), &whole["spanId"]));
        let times = |span: &Value| (span["startTimeUnixNano"].clone(), span["endTimeUnixNano"].clone());
        assert_eq!(times(whole), (json!("9993000000"), json!("10000000000")));
        assert_eq!(times(wait), (json!("9993000000"), json!("9995000000")));
        assert!(whole.get("status").is_none());
        assert!(!body.to_string().contains("application_name"), "what is empty is left out");
    }

    #[test]
    fn one_who_did_not_wait_and_failed() {
        let body = to_otlp(&[Span { wait: 0, parent: None, error: Some("23"), ..span() }]);
        let spans = body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
        assert_eq!(spans.len(), 1);
        assert_eq!(spans[0]["status"]["code"], 2);
        assert!(spans[0].get("parentSpanId").is_none());
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let queue = Queue::default();
        for _ in 0..LIMIT + 3 {
            queue.push(span());
        }
        assert_eq!(queue.counts(), (0, 3));
        assert_eq!(queue.next().unwrap().len(), BATCH);
        queue.note(BATCH, true);
        queue.push(span());
        assert_eq!(queue.counts(), (BATCH as u64, 3));
    }

    #[test]
    fn what_waits_at_the_end_is_still_exported() {
        let queue = std::sync::Arc::new(Queue::default());
        assert!(queue.begin());
        assert!(!queue.begin(), "there is one");
        queue.push(span());
        let exporter = std::thread::spawn({
            let queue = std::sync::Arc::clone(&queue);
            move || {
                let mut n = 0;
                while let Some(spans) = queue.next() {
                    n += spans.len();
                }
                n
            }
        });
        queue.finish(Duration::from_secs(60));
        assert_eq!(exporter.join().unwrap(), 1);
        queue.push(span());
        assert_eq!(queue.counts(), (0, 1), "after the end nobody would take it");
    }
}
