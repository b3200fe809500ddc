//! `carpool replay`: prints a flight record as a timeline, with what was owed when.
//!
//! What is owed is deduced from the messages, and corrected by the number of unanswered requests that was recorded: what
//! the messages don't show are requests of Carpool's own.

use std::collections::VecDeque;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use crate::names::ServerId;
use crate::stats::flight::{Event, Record, UNKNOWN, What};
use crate::wire::{backend, frontend};

/// Kinds of requests that are listed one by one.
const LISTED: usize = 6;
/// A request of Carpool's own, of whatever kind.
const OWN: &str = "own";

/// Reads a file and gives its timeline.
///
/// # Errors
/// Why it can't be read.
pub fn read(path: &Path) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let record = Record::decode(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(timeline(&record))
}

/// The timeline of a record.
#[must_use]
pub fn timeline(record: &Record) -> String {
    let head = &record.head;
    let mut text = String::new();
    let written = UNIX_EPOCH + Duration::from_micros(head.written);
    let written = humantime(written);
    // Writing to a String can't fail.
    let _ = writeln!(
        text,
        "client {} (user {:?}, database {:?}), Carpool {}",
        head.client, head.user, head.database, head.version
    );
    let _ = writeln!(text, "written {written}: {}", head.reason);
    let _ = writeln!(
        text,
        "{} events, {} before them; seconds before the record was written",
        record.events.len(),
        head.events_before
    );
    let mut owed = Owed::default();
    for event in &record.events {
        owed.follow(event);
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let before = head.written_at.saturating_sub(event.at) as f64 / 1e6;
        let _ = writeln!(text, "{:>14}  {:<58} {}", format!("-{before:.6}"), describe(event), owed.describe());
    }
    text
}

/// Seconds since 1970, since nothing here knows calendars.
fn humantime(time: std::time::SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("at {}.{:06} s after 1970", since.as_secs(), since.subsec_micros())
}

fn describe(event: &Event) -> String {
    let server = ServerId(event.server);
    let size = |name: &str| format!("{name} ({} bytes)", event.len);
    match event.what {
        What::Client => format!("client   --> {}", size(request(event.tag))),
        What::Server => format!("{server} <-- {}", size(reply(event.tag))),
        What::Waits => "client waits for a server".into(),
        What::Lent => format!("client has {server}"),
        What::Returned => format!("{server} goes back to the pool"),
        What::Closed => format!("client leaves, with {server}").trim_end_matches(", with S-000000").to_owned(),
        What::Asks => format!("{server} is asked what the transaction has left"),
        What::Refused => format!("client   --> {}: REFUSED", size(request(event.tag))),
        What::Doubt => format!("{server} IS IN DOUBT"),
    }
}

const fn request(tag: u8) -> &'static str {
    use frontend::tag;
    match tag {
        tag::BIND => "Bind",
        tag::CLOSE => "Close",
        tag::COPY_DATA => "CopyData",
        tag::COPY_DONE => "CopyDone",
        tag::COPY_FAIL => "CopyFail",
        tag::DESCRIBE => "Describe",
        tag::EXECUTE => "Execute",
        tag::FLUSH => "Flush",
        tag::FUNCTION_CALL => "FunctionCall",
        tag::PARSE => "Parse",
        tag::QUERY => "Query",
        tag::SYNC => "Sync",
        tag::TERMINATE => "Terminate",
        _ => "message of an unknown type",
    }
}

const fn reply(tag: u8) -> &'static str {
    use backend::tag;
    match tag {
        tag::PARSE_COMPLETE => "ParseComplete",
        tag::BIND_COMPLETE => "BindComplete",
        tag::CLOSE_COMPLETE => "CloseComplete",
        tag::COMMAND_COMPLETE => "CommandComplete",
        tag::COPY_DATA => "CopyData",
        tag::COPY_DONE => "CopyDone",
        tag::COPY_IN_RESPONSE => "CopyInResponse",
        tag::COPY_OUT_RESPONSE => "CopyOutResponse",
        tag::DATA_ROW => "DataRow",
        tag::EMPTY_QUERY_RESPONSE => "EmptyQueryResponse",
        tag::ERROR_RESPONSE => "ErrorResponse",
        tag::FUNCTION_CALL_RESPONSE => "FunctionCallResponse",
        tag::NO_DATA => "NoData",
        tag::NOTICE_RESPONSE => "NoticeResponse",
        tag::NOTIFICATION_RESPONSE => "NotificationResponse",
        tag::PARAMETER_DESCRIPTION => "ParameterDescription",
        tag::PARAMETER_STATUS => "ParameterStatus",
        tag::PORTAL_SUSPENDED => "PortalSuspended",
        tag::READY_FOR_QUERY => "ReadyForQuery",
        tag::ROW_DESCRIPTION => "RowDescription",
        _ => "message of an unknown type",
    }
}

/// The requests that are unanswered, the oldest first.
#[derive(Debug, Default)]
struct Owed(VecDeque<&'static str>);

impl Owed {
    fn follow(&mut self, event: &Event) {
        let recorded = (event.owed != UNKNOWN).then_some(usize::from(event.owed));
        match event.what {
            What::Client => self.requested(event.tag, recorded),
            What::Server => self.answered(event.tag),
            What::Waits | What::Returned | What::Closed => self.0.clear(),
            What::Lent | What::Asks | What::Refused | What::Doubt => {}
        }
        let Some(recorded) = recorded.filter(|_| !matches!(event.what, What::Returned | What::Closed)) else { return };
        // The oldest have been answered, or there are others that no message showed.
        while self.0.len() > recorded {
            self.0.pop_front();
        }
        while self.0.len() < recorded {
            self.0.push_back(OWN);
        }
    }

    fn requested(&mut self, tag: u8, recorded: Option<usize>) {
        use frontend::tag;
        let asks = matches!(
            tag,
            tag::BIND
                | tag::CLOSE
                | tag::DESCRIBE
                | tag::EXECUTE
                | tag::FUNCTION_CALL
                | tag::PARSE
                | tag::QUERY
                | tag::SYNC
        );
        let more = recorded.map_or(usize::from(asks), |recorded| recorded.saturating_sub(self.0.len()));
        // Carpool's own stand in front of it.
        for _ in usize::from(asks)..more {
            self.0.push_back(OWN);
        }
        if asks && more > 0 {
            self.0.push_back(request(tag));
        }
    }

    fn answered(&mut self, tag: u8) {
        use backend::tag;
        let ends = match tag {
            tag::PARSE_COMPLETE => &["Parse", OWN][..],
            tag::BIND_COMPLETE => &["Bind", OWN],
            tag::CLOSE_COMPLETE => &["Close", OWN],
            tag::NO_DATA | tag::ROW_DESCRIPTION => &["Describe"],
            tag::COMMAND_COMPLETE | tag::EMPTY_QUERY_RESPONSE | tag::PORTAL_SUSPENDED => &["Execute"],
            tag::READY_FOR_QUERY => &["Sync", "Query", "FunctionCall", OWN],
            tag::ERROR_RESPONSE => return self.failed(),
            _ => return,
        };
        if self.0.front().is_some_and(|front| ends.contains(front)) {
            self.0.pop_front();
        }
    }

    /// Of the extended protocol all is skipped up to Sync.
    fn failed(&mut self) {
        while self.0.front().is_some_and(|front| !["Sync", "Query", "FunctionCall", OWN].contains(front)) {
            self.0.pop_front();
        }
    }

    fn describe(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let mut text = format!("owed: {}", self.0.iter().take(LISTED).copied().collect::<Vec<_>>().join(", "));
        if self.0.len() > LISTED {
            let _ = write!(text, " and {} more", self.0.len() - LISTED);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::flight::{Head, Ring};

    fn lines(events: &[(What, u8, u16)]) -> Vec<String> {
        let mut ring = Ring::new(100);
        for (at, &(what, tag, owed)) in (0u64..).zip(events) {
            ring.push(Event { at: at * 1000, what, tag, len: 9, server: 1, owed });
        }
        let record = ring.record(Head { written_at: 1_000_000, ..Head::default() });
        timeline(&record).lines().skip(3).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn a_batch_with_requests_of_carpools_own_and_an_error() {
        let lines = lines(&[
            (What::Lent, 0, 1),
            (What::Client, b'B', 3),
            (What::Client, b'E', 4),
            (What::Client, b'S', 5),
            (What::Server, b'Z', UNKNOWN),
            (What::Server, b'1', UNKNOWN),
            (What::Server, b'2', 2),
            (What::Server, b'D', UNKNOWN),
            (What::Server, b'E', UNKNOWN),
            (What::Server, b'Z', 0),
            (What::Returned, 0, 0),
            (What::Closed, 0, 0),
        ]);
        assert_eq!(
            lines,
            [
                "-1.000000 client has S-000001 owed: own",
                "-0.999000 client --> Bind (9 bytes) owed: own, own, Bind",
                "-0.998000 client --> Execute (9 bytes) owed: own, own, Bind, Execute",
                "-0.997000 client --> Sync (9 bytes) owed: own, own, Bind, Execute, Sync",
                "-0.996000 S-000001 <-- ReadyForQuery (9 bytes) owed: own, Bind, Execute, Sync",
                "-0.995000 S-000001 <-- ParseComplete (9 bytes) owed: Bind, Execute, Sync",
                "-0.994000 S-000001 <-- BindComplete (9 bytes) owed: Execute, Sync",
                "-0.993000 S-000001 <-- DataRow (9 bytes) owed: Execute, Sync",
                "-0.992000 S-000001 <-- ErrorResponse (9 bytes) owed: Sync",
                "-0.991000 S-000001 <-- ReadyForQuery (9 bytes)",
                "-0.990000 S-000001 goes back to the pool",
                "-0.989000 client leaves, with S-000001",
            ]
        );
    }

    #[test]
    fn what_the_messages_do_not_show_is_corrected() {
        let lines = lines(&[
            (What::Client, b'Q', 1),
            (What::Server, b'C', UNKNOWN),
            (What::Server, b'x', 0),
            (What::Client, b'Z', 0),
            (What::Asks, 0, 2),
            (What::Server, b'Z', 1),
            (What::Refused, b'!', 1),
            (What::Doubt, 0, 1),
        ]);
        assert_eq!(lines[1], "-0.999000 S-000001 <-- CommandComplete (9 bytes) owed: Query");
        assert_eq!(lines[2], "-0.998000 S-000001 <-- message of an unknown type (9 bytes)");
        assert_eq!(lines[3], "-0.997000 client --> message of an unknown type (9 bytes)");
        assert_eq!(lines[4], "-0.996000 S-000001 is asked what the transaction has left owed: own, own");
        assert_eq!(lines[5], "-0.995000 S-000001 <-- ReadyForQuery (9 bytes) owed: own");
        assert_eq!(lines[6], "-0.994000 client --> message of an unknown type (9 bytes): REFUSED owed: own");
        assert_eq!(lines[7], "-0.993000 S-000001 IS IN DOUBT owed: own");
    }
}
