//! The flight recorder's record of one connection: its last events, in a ring, and the file that they are written to.
//!
//! Of messages there are type, length, time and direction, never what is in them. Times are microseconds after the start
//! of the process.

use serde::{Deserialize, Serialize};

/// What a file begins with; the last byte is the format's version.
const MAGIC: &[u8; 8] = b"CPFLIGH\x01";
/// Bytes of an event in a file.
const EVENT: usize = 24;
/// The longest head of a file, bytes.
const HEAD: usize = 64 * 1024;
/// In [`Event::owed`]: not known at this moment.
pub const UNKNOWN: u16 = u16::MAX;

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum What {
    /// A message of the client's was taken.
    Client,
    /// A message of the server's was taken.
    Server,
    /// The client began to wait for a server.
    Waits,
    /// It got one.
    Lent,
    /// The server went back to the pool.
    Returned,
    /// The server was closed, or is being cancelled.
    Closed,
    /// The server is asked what the transaction has left.
    Asks,
    /// A message of the client's was refused.
    Refused,
    /// The server sent what can't be trusted.
    Doubt,
}

impl What {
    const ALL: [Self; 9] = [
        Self::Client,
        Self::Server,
        Self::Waits,
        Self::Lent,
        Self::Returned,
        Self::Closed,
        Self::Asks,
        Self::Refused,
        Self::Doubt,
    ];
}

/// One event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// When.
    pub at: u64,
    /// What.
    pub what: What,
    /// The message's type, if there is one.
    pub tag: u8,
    /// The length of its body, bytes.
    pub len: u32,
    /// The server's number, if there is one.
    pub server: u64,
    /// Requests that are unanswered afterwards, or [`UNKNOWN`].
    pub owed: u16,
}

impl Event {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.at.to_be_bytes());
        out.extend_from_slice(&self.server.to_be_bytes());
        out.extend_from_slice(&self.len.to_be_bytes());
        out.extend_from_slice(&self.owed.to_be_bytes());
        out.extend_from_slice(&[self.what as u8, self.tag]);
    }

    fn decode(bytes: &[u8; EVENT]) -> Option<Self> {
        let (at, rest) = bytes.split_first_chunk()?;
        let (server, rest) = rest.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (owed, rest) = rest.split_first_chunk()?;
        let &[what, tag] = rest else { return None };
        Some(Self {
            at: u64::from_be_bytes(*at),
            what: *What::ALL.get(usize::from(what))?,
            tag,
            len: u32::from_be_bytes(*len),
            server: u64::from_be_bytes(*server),
            owed: u16::from_be_bytes(*owed),
        })
    }
}

/// The last events of a connection.
#[derive(Debug)]
pub struct Ring {
    events: Vec<Event>,
    size: usize,
    /// How many there have been.
    count: u64,
}

impl Ring {
    /// For so many events. All memory is taken at once.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self { events: Vec::with_capacity(size), size, count: 0 }
    }

    /// For how many there is room.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Adds one in the place of the oldest.
    pub fn push(&mut self, event: Event) {
        if self.events.len() < self.size {
            self.events.push(event);
        } else {
            let at = usize::try_from(self.count % self.size.max(1) as u64).unwrap_or_default();
            if let Some(oldest) = self.events.get_mut(at) {
                *oldest = event;
            }
        }
        self.count += 1;
    }

    /// The newest one, which may be completed.
    pub fn last(&mut self) -> Option<&mut Event> {
        let at = self.count.checked_sub(1)? % self.size.max(1) as u64;
        self.events.get_mut(usize::try_from(at).ok()?)
    }

    /// A record of what is there, the oldest first.
    #[must_use]
    pub fn record(&self, head: Head) -> Record {
        let oldest = match self.events.len() < self.size {
            true => 0,
            false => usize::try_from(self.count % self.size.max(1) as u64).unwrap_or_default(),
        };
        let (new, old) = self.events.split_at(oldest.min(self.events.len()));
        Record {
            head: Head { events_before: self.count - self.events.len() as u64, ..head },
            events: [old, new].concat(),
        }
    }
}

/// What a record is of.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Head {
    /// Of Carpool.
    pub version: String,
    /// The client, as in the log.
    pub client: String,
    /// Its user.
    pub user: String,
    /// Its database.
    pub database: String,
    /// Why it was written.
    pub reason: String,
    /// When, microseconds since 1970.
    pub written: u64,
    /// And after the start of the process.
    pub written_at: u64,
    /// How many events there were before the first one.
    pub events_before: u64,
}

/// One file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// What it is of.
    pub head: Head,
    /// The events, the oldest first.
    pub events: Vec<Event>,
}

/// Why a file can't be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// It begins otherwise.
    #[error("is no flight record of Carpool")]
    Foreign,
    /// It is one of a later version.
    #[error("is a flight record in format {0}, this Carpool reads format 1")]
    Version(u8),
    /// It ends too early.
    #[error("is cut short: {have} of {want} bytes are there")]
    Short {
        /// Bytes that are there.
        have: usize,
        /// Bytes that should be.
        want: usize,
    },
    /// Something in it can't be.
    #[error("is damaged: {0}")]
    Damaged(String),
}

impl Record {
    /// The bytes of its file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Texts and numbers are always written.
        let head = serde_json::to_vec(&self.head).unwrap_or_default();
        let mut out = MAGIC.to_vec();
        for len in [head.len(), self.events.len()] {
            out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
        }
        out.extend_from_slice(&head);
        self.events.iter().for_each(|event| event.encode(&mut out));
        out
    }

    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let short = |want| RecordError::Short { have: bytes.len(), want };
        let known = bytes.len().min(MAGIC.len() - 1);
        if bytes[..known] != MAGIC[..known] || bytes.is_empty() {
            return Err(RecordError::Foreign);
        }
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| short(MAGIC.len() + 8))?;
        if magic != MAGIC {
            return Err(RecordError::Version(magic[7]));
        }
        let (head, rest) = rest.split_first_chunk().ok_or_else(|| short(MAGIC.len() + 8))?;
        let (events, rest) = rest.split_first_chunk().ok_or_else(|| short(MAGIC.len() + 8))?;
        let (head, events) = (u32::from_be_bytes(*head) as usize, u32::from_be_bytes(*events) as usize);
        if head > HEAD {
            return Err(RecordError::Damaged(format!("its head would have {head} bytes")));
        }
        let want = head.saturating_add(events.saturating_mul(EVENT));
        if rest.len() < want {
            return Err(short(want.saturating_add(MAGIC.len() + 8)));
        }
        if rest.len() > want {
            return Err(RecordError::Damaged(format!("{} bytes are too many", rest.len() - want)));
        }
        let (head, events) = rest.split_at(head);
        let head = serde_json::from_slice(head).map_err(|error| RecordError::Damaged(format!("its head: {error}")))?;
        let decode = |(at, bytes): (usize, &[u8])| {
            let event = bytes.first_chunk().and_then(Event::decode);
            event.ok_or_else(|| RecordError::Damaged(format!("event {at} is none")))
        };
        let events = events.chunks_exact(EVENT).enumerate().map(decode).collect::<Result<_, _>>()?;
        Ok(Self { head, events })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(at: u64) -> Event {
        Event { at, what: What::Server, tag: b'Z', len: 5, server: 7, owed: 1 }
    }

    fn times(ring: &Ring) -> Vec<u64> {
        ring.record(Head::default()).events.iter().map(|event| event.at).collect()
    }

    #[test]
    fn a_ring_keeps_the_last() {
        let mut ring = Ring::new(3);
        assert!(ring.last().is_none() && times(&ring).is_empty());
        for at in 1..=3 {
            ring.push(event(at));
        }
        assert_eq!(times(&ring), [1, 2, 3]);
        let taken = ring.events.capacity();
        for at in 4..1000 {
            ring.push(event(at));
            assert_eq!(ring.last().unwrap().at, at);
            assert_eq!(times(&ring), [at - 2, at - 1, at]);
        }
        assert_eq!((ring.events.capacity(), ring.record(Head::default()).head.events_before), (taken, 996));
    }

    #[test]
    fn all_kinds_are_known_by_number() {
        assert!(What::ALL.iter().enumerate().all(|(at, what)| *what as usize == at));
    }

    #[test]
    fn what_is_no_record_says_so() {
        let mut ring = Ring::new(4);
        ring.push(event(1));
        ring.push(event(2));
        let record = ring.record(Head { user: "ü\"".into(), ..Head::default() });
        let bytes = record.encode();
        assert_eq!(Record::decode(&bytes), Ok(record));
        for len in 1..bytes.len() {
            let error = Record::decode(&bytes[..len]).unwrap_err();
            assert!(matches!(error, RecordError::Short { have, want } if have == len && want > len), "{len}: {error}");
        }
        assert_eq!(Record::decode(b""), Err(RecordError::Foreign));
        assert_eq!(Record::decode(b"#!/bin/sh"), Err(RecordError::Foreign));
        let change = |at: usize, to: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = to;
            Record::decode(&bytes).unwrap_err()
        };
        assert_eq!(change(7, 9), RecordError::Version(9));
        assert!(matches!(change(8, 255), RecordError::Damaged(_)));
        assert!(matches!(change(16, b'x'), RecordError::Damaged(_)));
        assert!(matches!(change(bytes.len() - 2, 200), RecordError::Damaged(_)));
        assert!(matches!(Record::decode(&[&bytes[..], b"x"].concat()), Err(RecordError::Damaged(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>, lengths: [u8; 8]) {
            let _ = Record::decode(&bytes);
            let _ = Record::decode(&[&MAGIC[..], &lengths, &bytes].concat());
        }
    }
}
