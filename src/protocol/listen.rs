//! LISTEN without a server of one's own: the notifications of all clients of a database come by one connection
//! that listens for them ([`hub`]), or, while a client changes what it listens to, from the server that it has.
//!
//! PostgreSQL gives every session the notifications in the same order. So the place where one source takes over
//! from the other can be marked by a notification that both see (a *marker*): a client gets what one delivers
//! before it and what the other delivers behind it, nothing twice and nothing not at all.
//!
//! Invariant: of a [`Mailbox`]'s two streams nothing behind a marker is given out before all in front of it.

pub mod hub;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use parking_lot::Mutex;

use super::sql;
use crate::wire::backend;
use crate::wire::frame::HEADER_LEN;

/// A channel's name, as the server has it.
pub type Channel = Box<[u8]>;

/// The most bytes of notifications that wait for one client.
pub const MAILBOX_LIMIT: usize = 8 * 1024 * 1024;

/// Where a client's notifications come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// From the server that it has.
    Here,
    /// From the listening connection.
    Away,
}

/// What a client listens to.
#[derive(Debug)]
pub struct Listening {
    /// The client's process number, as it was told.
    pub pid: u32,
    /// What waits for it.
    pub mailbox: Arc<Mailbox>,
    /// The channels that are the listening connection's to deliver, or were before the server took over.
    pub channels: Vec<Channel>,
    /// Who delivers them.
    pub place: Place,
    /// What was sent before the request at hand has been delivered.
    pub current: bool,
}

/// What a server listens to for its client.
#[derive(Debug, Default)]
pub struct OnServer {
    /// The channels, as it was last asked.
    pub channels: Vec<Channel>,
    /// What it was asked to note, where the client's channels were restored within a transaction.
    pub note: Option<Box<str>>,
    /// Whether it has that note: the restoring was committed.
    pub noted: bool,
    /// Who delivers is being changed.
    pub handover: Option<Handover>,
    /// The request at hand has had its turn to have the channels restored.
    pub passed: bool,
    /// The listening connection is there, so that the server isn't kept for LISTEN.
    pub brief: bool,
    /// The request that the server was made to listen for is yet to come.
    pub expected: bool,
    /// The last change failed; the server keeps delivering.
    pub stuck: bool,
}

/// A change of who delivers: the marker, then what tidies up after it.
#[derive(Debug)]
pub struct Handover {
    /// What the marker says.
    pub nonce: u64,
    /// Who delivers behind it.
    pub to: Place,
    /// What the client listens to from then on.
    pub channels: Vec<Channel>,
    /// The server has delivered the marker.
    pub seen: bool,
    /// The marker's query has ended.
    pub clearing: bool,
}

impl OnServer {
    /// The channels that the client listens to, `away` being those that the listening connection delivers.
    #[must_use]
    pub fn whole(&self, away: Option<&[Channel]>) -> Vec<Channel> {
        match away {
            // Nothing but LISTEN was run without the others being restored first.
            Some(away) if !self.noted => {
                let more = self.channels.iter().filter(|c| !away.contains(c));
                away.iter().chain(more).cloned().collect()
            }
            _ => self.channels.clone(),
        }
    }
}

/// What a change of place sends first.
#[must_use]
pub fn marking(restored: &[Channel], marker: &[u8], nonce: u64) -> Vec<u8> {
    let mut text = listen(restored);
    text.extend(listen(&[marker.into()]));
    text.extend_from_slice(b"NOTIFY ");
    sql::put_identifier(&mut text, marker);
    text.extend_from_slice(format!(",'{nonce}'").as_bytes());
    text
}

/// What it sends then.
#[must_use]
pub fn clearing(to: Place, marker: &[u8]) -> Vec<u8> {
    let mut text = b"UNLISTEN ".to_vec();
    match to {
        Place::Here => sql::put_identifier(&mut text, marker),
        Place::Away => text.push(b'*'),
    }
    text
}

/// Has the server listen to `channels` within a transaction, unless the note is there that it does: it goes with
/// a rollback as the channels do.
#[must_use]
pub fn restoring(channels: &[Channel], note: &str) -> Vec<u8> {
    let mut text = format!(
        "DO $carpool{note}$BEGIN IF pg_catalog.current_setting('{NOTE}',true) IS DISTINCT FROM '{note}' THEN \
         PERFORM pg_catalog.set_config('{NOTE}','{note}',false);"
    )
    .into_bytes();
    text.extend(listen(channels));
    text.extend_from_slice(format!("END IF;END$carpool{note}$").as_bytes());
    text
}

/// The parameter that holds the note.
pub const NOTE: &str = "carpool.listening";

/// `LISTEN` of each.
#[must_use]
pub fn listen(channels: &[Channel]) -> Vec<u8> {
    each("LISTEN ", channels)
}

/// `UNLISTEN` of each.
#[must_use]
pub fn unlisten(channels: &[Channel]) -> Vec<u8> {
    each("UNLISTEN ", channels)
}

fn each(command: &str, channels: &[Channel]) -> Vec<u8> {
    let mut text = Vec::new();
    for channel in channels {
        text.extend_from_slice(command.as_bytes());
        sql::put_identifier(&mut text, channel);
        text.push(b';');
    }
    text
}

/// What waits in a stream of a [`Mailbox`].
#[derive(Clone, PartialEq, Eq, Debug)]
enum Item {
    /// A message for the client.
    Message(Arc<[u8]>),
    /// A marker.
    Marker(u64),
}

#[derive(Debug, Default)]
struct Streams {
    from_listener: VecDeque<Item>,
    from_server: VecDeque<Item>,
    bytes: usize,
}

/// What waits for one client. Filled by the listening connection's task and by the client's own, emptied by the
/// latter when the client may get notifications.
#[derive(Debug)]
pub struct Mailbox {
    waker: Waker,
    /// The channel of the markers.
    pub marker: Arc<[u8]>,
    streams: Mutex<Streams>,
    due: AtomicBool,
    overflowed: AtomicBool,
    orphaned: AtomicBool,
    ascii_only: AtomicBool,
    unreadable: AtomicBool,
    behind: AtomicBool,
}

impl Mailbox {
    /// An empty one, of the task that `waker` wakes.
    #[must_use]
    pub fn new(waker: Waker, marker: Arc<[u8]>) -> Self {
        Self {
            waker,
            marker,
            streams: Mutex::default(),
            due: false.into(),
            overflowed: false.into(),
            orphaned: false.into(),
            ascii_only: false.into(),
            unreadable: false.into(),
            behind: false.into(),
        }
    }

    /// Has the client's task have a look.
    pub fn wake(&self) {
        self.due.store(true, Ordering::Release);
        self.waker.wake_by_ref();
    }

    /// The listening connection is gone for good: the client must find another.
    pub fn orphan(&self) {
        self.orphaned.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether [`Mailbox::orphan`] was called.
    #[must_use]
    pub fn is_orphaned(&self) -> bool {
        self.orphaned.load(Ordering::Acquire)
    }

    /// Whether the client's task is to have a look.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.due.load(Ordering::Relaxed)
    }

    /// It has begun to look.
    pub fn looked(&self) {
        self.due.store(false, Ordering::Release);
    }

    /// The client waits until the listening connection has come as far as PostgreSQL is now.
    pub fn fall_behind(&self) {
        self.behind.store(true, Ordering::Release);
    }

    /// It has, or is gone.
    pub fn catch_up(&self) {
        self.behind.store(false, Ordering::Release);
        self.wake();
    }

    /// Whether the client waits for that.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Acquire)
    }

    /// More waits than may.
    #[must_use]
    pub fn has_overflowed(&self) -> bool {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// The client reads in another encoding than the listening connection, so that only ASCII is the same.
    pub fn read_ascii_only(&self, only: bool) {
        self.ascii_only.store(only, Ordering::Relaxed);
    }

    /// A notification came that the client could not have read.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// The listening connection delivers a message.
    pub fn from_listener(&self, message: &Arc<[u8]>) {
        let text = message.get(HEADER_LEN + size_of::<u32>()..).unwrap_or_default();
        if self.ascii_only.load(Ordering::Relaxed) && !text.is_ascii() {
            self.unreadable.store(true, Ordering::Relaxed);
        }
        let mut streams = self.streams.lock();
        streams.bytes += message.len();
        if streams.bytes > MAILBOX_LIMIT {
            *streams = Streams::default();
            self.overflowed.store(true, Ordering::Relaxed);
        } else if !self.has_overflowed() {
            streams.from_listener.push_back(Item::Message(Arc::clone(message)));
        }
        drop(streams);
        self.wake();
    }

    /// The listening connection has come to a marker.
    pub fn marker_from_listener(&self, nonce: u64) {
        self.streams.lock().from_listener.push_back(Item::Marker(nonce));
        self.wake();
    }

    /// The client's server delivers a message.
    pub fn from_server(&self, message: Arc<[u8]>) {
        let mut streams = self.streams.lock();
        streams.bytes += message.len();
        streams.from_server.push_back(Item::Message(message));
    }

    /// The client's server has come to a marker.
    pub fn marker_from_server(&self, nonce: u64) {
        self.streams.lock().from_server.push_back(Item::Marker(nonce));
        self.wake();
    }

    /// Neither stream waits for the other.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let streams = self.streams.lock();
        let mut items = streams.from_listener.iter().chain(&streams.from_server);
        !items.any(|item| matches!(item, Item::Marker(_)))
    }

    /// A marker won't come from the server.
    pub fn forget_marker(&self, nonce: u64) {
        self.streams.lock().from_listener.retain(|item| *item != Item::Marker(nonce));
    }

    /// Appends all, the markers aside.
    pub fn drain(&self, out: &mut Vec<u8>) {
        let streams = std::mem::take(&mut *self.streams.lock());
        for item in streams.from_listener.into_iter().chain(streams.from_server) {
            if let Item::Message(message) = item {
                out.extend_from_slice(&message);
            }
        }
    }

    /// Appends what may be given out now, until `most` bytes are passed. Says whether there is more.
    pub fn take(&self, out: &mut Vec<u8>, most: usize) -> bool {
        let mut streams = self.streams.lock();
        let Streams { from_listener, from_server, bytes } = &mut *streams;
        let begin = out.len();
        loop {
            for stream in [&mut *from_listener, &mut *from_server] {
                while let Some(Item::Message(message)) = stream.front() {
                    if out.len() - begin > most {
                        return true;
                    }
                    *bytes -= message.len();
                    out.extend_from_slice(message);
                    stream.pop_front();
                }
            }
            match (from_listener.front(), from_server.front()) {
                (Some(one), Some(other)) if one == other => {
                    from_listener.pop_front();
                    from_server.pop_front();
                }
                _ => break,
            }
        }
        if from_listener.is_empty() && from_server.is_empty() {
            // The memory goes with the storm.
            *streams = Streams::default();
        }
        false
    }
}

/// A whole NotificationResponse, with the sender's process number replaced if it is `pid.0` by `pid.1`.
#[must_use]
pub fn message(notification: &backend::Notification<'_>, pid: (u32, u32)) -> Arc<[u8]> {
    let sender = if notification.pid == pid.0 { pid.1 } else { notification.pid };
    let mut out = Vec::new();
    backend::put_notification(&mut out, &backend::Notification { pid: sender, ..*notification });
    out.into()
}

#[cfg(test)]
mod tests;
