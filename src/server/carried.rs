//! A server on its way to another process, see [`crate::pool::transfer`]: all but its socket, as plain data and back.

use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Server, ServerShared};
use crate::names::UserName;
use crate::net::Target;
use crate::net::stream::Stream;
use crate::net::world;
use crate::protocol::carried::CarriedServerState;
use crate::protocol::request::Tables;
use crate::wire::startup::CancelKey;

/// A server that nobody has, and that was reset.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CarriedServer {
    /// Process number and secret, for cancel requests.
    key: (u32, Vec<u8>),
    /// When it was logged in, since 1970.
    connected: Duration,
    /// How long it may yet serve; `None`: without end.
    left: Option<Duration>,
    state: CarriedServerState,
}

impl Server {
    /// Whether all that there is to know of it can go to another process. A cancel request that was begun could arrive
    /// when another client has it there; what TLS keeps can't be taken out of it.
    #[must_use]
    pub fn may_go(&self) -> bool {
        let shared = &self.shared;
        let cancelled = shared.was_cancelled.load(Ordering::Acquire) || shared.doomed.load(Ordering::Acquire);
        let plain = shared.encryption.is_none() && matches!(self.stream, Stream::Tcp(_) | Stream::Unix(_));
        let current = self.expires.is_none_or(|at| at > world::now());
        !cancelled && plain && current && !self.cut && self.is_clean() && self.state.listens.is_none()
    }

    /// What is to be carried of it; `None` where it can't go.
    #[must_use]
    pub fn carry(&self) -> Option<CarriedServer> {
        let (now, key) = (world::now(), &self.shared.key);
        let state = CarriedServerState::of(&self.state).filter(|_| self.may_go())?;
        Some(CarriedServer {
            key: (key.pid, key.secret.to_vec()),
            connected: self.shared.connected.duration_since(UNIX_EPOCH).unwrap_or_default(),
            left: self.expires.map(|at| at.saturating_duration_since(now)),
            state,
        })
    }
}

/// What of a server isn't carried, since the other process knows it.
#[derive(Clone, Debug)]
pub struct Known {
    /// Where it is: the only host.
    pub target: Target,
    /// Who it is logged in as.
    pub user: UserName,
    /// The generation that it belongs to.
    pub generation: u32,
    /// `max_prepared_statements`.
    pub max_prepared_statements: usize,
}

impl CarriedServer {
    /// The server again.
    #[must_use]
    pub fn unpack(self, stream: Stream, known: Known, tables: &Tables) -> Server {
        let (pid, secret) = self.key;
        let key = CancelKey { pid, secret: secret.as_slice().into() };
        let state = self.state.unpack(tables, known.max_prepared_statements);
        let login = (known.target, known.user, known.generation);
        let shared = ServerShared::new(login, key, stream.addresses(), UNIX_EPOCH + self.connected);
        Server::new(stream, state, shared, self.left.map(|left| world::now() + left))
    }
}
