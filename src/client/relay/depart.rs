//! A session that leaves for another process of this Carpool, see [`crate::client::exodus`].

use std::os::fd::OwnedFd;
use std::time::UNIX_EPOCH;

use super::{Relay, Work};
use crate::auth::carried::CarriedCredentials;
use crate::client::exodus::{Departing, Traveller};
use crate::net::Peer;
use crate::net::stream::Stream;
use crate::protocol::carried::CarriedState;

/// How a session has come off its task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parted {
    /// It has ended.
    Ended,
    /// It goes on in another process.
    Departs,
}

impl Relay {
    /// Whether its state and its socket are all that there is of the session: it is between transactions, has nothing on
    /// a server and nothing half read or half sent. What TLS keeps can't be taken out of it.
    pub(super) fn may_depart(&self) -> bool {
        let quiet = matches!(self.work, Work::Idle) && self.out.is_empty() && self.carry.is_empty();
        let whole = self.remainder.bytes == 0 && !self.state.skipping && !self.leaving;
        let free = self.pin.is_none() && self.state.listening.is_none();
        quiet && whole && free && !matches!(self.stream, Stream::Tls(_))
    }

    /// Takes the session apart; what is left of it here is its entry in the registry.
    ///
    /// # Errors
    /// The system's, or that the socket is one of TLS.
    pub fn depart(self) -> std::io::Result<Departing> {
        let Self { stream, registered, pool, user, state, .. } = self;
        let socket: OwnedFd = stream.into_fd()?;
        pool.tenant_left(&user, state.tenant);
        let client = &registered.shared;
        let traveller = Traveller {
            user: client.user.as_str().to_owned(),
            database: client.database.as_str().to_owned(),
            connected: client.connected().duration_since(UNIX_EPOCH).unwrap_or_default(),
            number: client.key.pid,
            secret: client.key.secret.to_vec(),
            peer: match client.peer() {
                Peer::Tcp(addr) => Some(addr),
                Peer::Unix => None,
            },
            local: client.ends.local(),
            server_user: user.name.as_str().to_owned(),
            credentials: CarriedCredentials::from(&*user.credentials.lock()),
            state: CarriedState::of(&state),
        };
        Ok(Departing { traveller, socket, registered })
    }
}
