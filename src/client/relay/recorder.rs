//! The flight recorder of a session (`flight_recorder`): notes its events, and has them written to a file when the protocol
//! was broken, or when an admin asks.

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{Moment, Relay, Work};
use crate::names::ClientId;
use crate::net::world;
use crate::stats::flight::{Event, Head, Record, Ring, UNKNOWN, What};
use crate::wire::frame;

/// Files in the directory, at most: above that none is written until some are removed.
const FILES: usize = 100;
/// How files' names begin and end.
const NAME: (&str, &str) = ("carpool-", ".flight");

/// Where a record was written to, or why not.
pub type Written = Result<PathBuf, String>;

/// Records that admins wait for.
#[derive(Debug, Default)]
pub struct Wanted(Mutex<HashMap<ClientId, Vec<oneshot::Sender<Written>>>>);

impl Wanted {
    /// Asks for one of a client, which is then to be told.
    #[must_use]
    pub fn ask(&self, client: ClientId) -> oneshot::Receiver<Written> {
        let (sender, receiver) = oneshot::channel();
        let mut wanted = self.0.lock();
        // Those who have left don't ask any more.
        wanted.retain(|_, senders| senders.iter().any(|sender| !sender.is_closed()));
        wanted.entry(client).or_default().push(sender);
        receiver
    }

    fn take(&self, client: ClientId) -> Vec<oneshot::Sender<Written>> {
        self.0.lock().remove(&client).unwrap_or_default()
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Recorder {
    ring: Ring,
    /// Why a file is due when all that has come is noted.
    due: Option<&'static str>,
}

impl Recorder {
    pub(super) fn new(size: usize) -> Self {
        Self { ring: Ring::new(size), due: None }
    }

    pub(super) const fn size(&self) -> usize {
        self.ring.size()
    }

    /// Notes the messages that begin in `input`, of which the first `skip` bytes belong to one before.
    fn messages(&mut self, now: Moment, what: What, input: &[u8], skip: usize, server: u64) {
        let mut at = skip;
        while let Some(Ok(Some(header))) = input.get(at..).map(frame::peek) {
            self.note(now, what, (header.tag, header.body_len), server, UNKNOWN);
            at = at.saturating_add(header.total_len());
        }
    }

    fn note(&mut self, at: Moment, what: What, (tag, len): (u8, usize), server: u64, owed: u16) {
        self.ring.push(Event { at, what, tag, len: u32::try_from(len).unwrap_or(u32::MAX), server, owed });
    }
}

impl Relay {
    fn recorder(&mut self) -> Option<&mut Recorder> {
        self.watch.as_mut()?.recorder.as_mut()
    }

    /// The server that the client has, and how many requests are unanswered there.
    fn owed(&mut self) -> (u64, u16) {
        let Work::Active(active) = &mut self.work else { return (0, 0) };
        active.lease.server().map_or((0, 0), |server| {
            (server.shared.id.0, u16::try_from(server.state.pipeline.len()).unwrap_or(UNKNOWN - 1))
        })
    }

    /// Notes what is no message.
    pub(super) fn record(&mut self, what: What) {
        if self.recorder().is_some() {
            let (now, (server, owed)) = (self.now().1, self.owed());
            if let Some(recorder) = self.recorder() {
                recorder.note(now, what, (0, 0), server, owed);
            }
        }
    }

    /// Notes a message of the client's, or one that was refused.
    pub(super) fn record_message(&mut self, what: What, message: &[u8]) {
        if self.recorder().is_some() {
            let (now, (server, owed)) = (self.now().1, self.owed());
            let Some(recorder) = self.recorder() else { return };
            if let Ok(Some(header)) = frame::peek(message) {
                recorder.note(now, what, (header.tag, header.body_len), server, owed);
            } else if what == What::Refused {
                recorder.note(now, what, (message.first().copied().unwrap_or(0), 0), server, owed);
            }
        }
    }

    /// Notes the messages of the server's that begin in `input`, behind `skip` bytes of one before.
    pub(super) fn record_replies(&mut self, input: &[u8], skip: usize, violates: bool) {
        if self.recorder().is_some() {
            let (now, (server, owed)) = (self.now().1, self.owed());
            let Some(recorder) = self.recorder() else { return };
            recorder.messages(now, What::Server, input, skip, server);
            if let Some(last) = recorder.ring.last().filter(|last| last.what == What::Server) {
                last.owed = owed;
            }
            if violates {
                recorder.due.get_or_insert("the server says that the protocol was broken");
            }
            self.write_due();
        }
    }

    /// Notes that the server can't be trusted.
    pub(super) fn record_doubt(&mut self) {
        self.record(What::Doubt);
        self.make_due("the server sent what can't be trusted");
    }

    /// Has a file be written.
    pub(super) fn make_due(&mut self, reason: &'static str) {
        if let Some(recorder) = self.recorder() {
            recorder.due.get_or_insert(reason);
            self.write_due();
        }
    }

    fn write_due(&mut self) {
        if let Some(reason) = self.recorder().and_then(|recorder| recorder.due.take()) {
            self.write(reason, Vec::new());
        }
    }

    /// Writes what admins have asked for.
    pub(super) fn record_wanted(&mut self) {
        let asked = self.context().wanted_records.take(self.shared().id);
        if asked.is_empty() {
            return;
        }
        if self.recorder().is_some() {
            self.write("an admin asked for it", asked);
        } else {
            asked.into_iter().for_each(|sender| drop(sender.send(Err("flight_recorder is off".into()))));
        }
    }

    fn write(&mut self, reason: &str, asked: Vec<oneshot::Sender<Written>>) {
        let now = self.now().1;
        let shared = Arc::clone(self.shared());
        let Some(directory) = self.context().config.load().pooler.flight_recorder_dir.clone() else { return };
        let Some(recorder) = self.recorder() else { return };
        let written = world::time_of_day().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let record = recorder.ring.record(Head {
            version: env!("CARGO_PKG_VERSION").into(),
            client: shared.id.to_string(),
            user: shared.user.to_string(),
            database: shared.database.to_string(),
            reason: reason.into(),
            written: u64::try_from(written).unwrap_or(u64::MAX),
            written_at: now,
            events_before: 0,
        });
        // A disk may take its time.
        tokio::task::spawn_blocking(move || {
            let outcome = put(&directory, &record).map_err(|why| format!("{}: {why}", directory.display()));
            match &outcome {
                Ok(path) => {
                    info!(client = %record.head.client, "flight record written to {}: {}", path.display(), record.head.reason)
                }
                Err(why) => warn!(client = %record.head.client, "flight record not written: {why}"),
            }
            asked.into_iter().for_each(|sender| drop(sender.send(outcome.clone())));
        });
    }
}

/// Writes a new file.
fn put(directory: &Path, record: &Record) -> Written {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    // Two at a time could both find room for the last one.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock();
    let files = std::fs::read_dir(directory).map_err(|error| error.to_string())?;
    let is_record = |name: &str| name.starts_with(NAME.0) && name.ends_with(NAME.1);
    let there = files.flatten().filter(|file| file.file_name().to_str().is_some_and(is_record)).count();
    if there >= FILES {
        return Err(format!("{FILES} records are there, remove some"));
    }
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let (begin, end) = NAME;
    let name = format!("{begin}{}-{}-{number}{end}", record.head.written / 1_000_000, record.head.client);
    let path = directory.join(name);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    file.write_all(&record.encode()).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}
