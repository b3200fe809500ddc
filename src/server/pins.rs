//! What others may know of a server that a client keeps between transactions: why, since when, what it ran last.
//!
//! Written by the client that has the server on loan, and only when its transactions end pinned; a [`Mark`] goes
//! with the loan.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::ServerShared;
use crate::protocol::session::Taints;

/// Why a server is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pinned {
    /// The reasons.
    pub reasons: Taints,
    /// Since when.
    pub since: Instant,
    /// The command tag of the last statement, without its numbers.
    pub last_command: String,
}

/// The place in [`ServerShared`] where it is written.
#[derive(Debug, Default)]
pub struct PinRecord(Mutex<Option<Pinned>>);

impl PinRecord {
    /// Why the server is kept, if it is.
    #[must_use]
    pub fn get(&self) -> Option<Pinned> {
        self.0.lock().clone()
    }
}

/// Has a server be seen as pinned until it is dropped.
#[derive(Debug)]
pub struct Mark(Arc<ServerShared>);

impl Mark {
    /// Marks a server from `now` on.
    #[must_use]
    pub fn new(server: &Arc<ServerShared>, now: Instant) -> Self {
        let pinned = Pinned { reasons: Taints::NONE, since: now, last_command: String::new() };
        *server.pinned.0.lock() = Some(pinned);
        Self(Arc::clone(server))
    }

    /// Writes down why it is, and what ran last. Gives the reasons that are new.
    pub fn update(&self, reasons: Taints, last_command: &str) -> Taints {
        let mut new = reasons;
        if let Some(pinned) = &mut *self.0.pinned.0.lock() {
            new = reasons.without(pinned.reasons);
            pinned.reasons = reasons;
            if pinned.last_command != last_command {
                last_command.clone_into(&mut pinned.last_command);
            }
        }
        new
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        *self.0.pinned.0.lock() = None;
    }
}
