//! Who asks for an operation, and how what takes long can be ended for them.

use std::fmt;
use std::net::SocketAddr;

use crate::client::registry::{CancelSlot, ClientShared, order};
use crate::names::UserName;
use crate::net::Peer;

/// See the module.
#[derive(Debug)]
pub(super) enum Operator<'a> {
    /// A session of the console: a cancel request ends its waiting.
    Console(&'a ClientShared),
    /// Somebody at the dashboard: waits have limits of their own.
    Web {
        /// As whom they have logged in.
        user: &'a UserName,
        /// From where.
        peer: SocketAddr,
    },
}

impl Operator<'_> {
    /// It begins to wait.
    pub(super) fn begin_wait(&self) {
        if let Self::Console(console) = self {
            console.clear_order(order::CANCEL_WAIT);
            *console.cancel.lock() = CancelSlot::Waiting;
        }
    }

    /// Whether it no longer wants to wait.
    pub(super) fn has_cancelled(&self) -> bool {
        match self {
            Self::Console(console) => console.orders() & order::CANCEL_WAIT != 0,
            Self::Web { .. } => false,
        }
    }

    /// It waits no more.
    pub(super) fn end_wait(&self) {
        if let Self::Console(console) = self {
            *console.cancel.lock() = CancelSlot::Idle;
        }
    }
}

impl fmt::Display for Operator<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Console(console) => write!(f, "{} of user {}", console.id, console.user),
            Self::Web { user, peer } => write!(f, "the dashboard, user {user}, {}", Peer::Tcp(*peer)),
        }
    }
}
