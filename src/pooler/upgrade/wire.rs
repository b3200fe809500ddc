//! What two processes say to each other.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::client::exodus::Traveller;
use crate::net::handoff::{self, Receiver, Sender};
use crate::net::listener::Use;
use crate::net::timer;
use crate::pool::cede::Kept;

/// Raised with each change that an older or newer Carpool would misunderstand.
pub(super) const VERSION: u32 = 1;
/// How long the other process may take to take a message.
const SEND_LIMIT: Duration = Duration::from_secs(10);

/// What the old process says first. All versions understand it.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub(super) struct Hello {
    /// [`VERSION`].
    pub(super) version: u32,
    /// What the descriptors are that come with it.
    pub(super) uses: Vec<Use>,
    /// The databases whose pools it has.
    pub(super) pools: Vec<String>,
}

/// In the order in which they are first said.
#[derive(Serialize, Deserialize)]
pub(super) enum Message {
    /// The old one: here are the listening sockets, don't use them yet.
    Hello(Hello),
    /// The new one: this is why it can't take over.
    Refused(String),
    /// The new one: it could begin.
    Ready,
    /// The old one: begin. These are the numbers of its clients.
    Go(Vec<u32>),
    /// The new one: it accepts connections.
    Serving,
    /// The old one: a client, whose socket comes with it.
    Client(Box<Traveller>),
    /// The old one: this is what it keeps of a database's servers.
    Kept(String, Kept),
    /// Either: cancel what the client with this number and secret does. The first is the request's own number.
    Cancel(u64, u32, Vec<u8>),
    /// Either: that is done; whether there was such a client.
    Cancelled(u64, bool),
}

/// Says something.
///
/// # Errors
/// The system's, or that the other one doesn't listen.
pub(super) async fn say(to: &mut Sender, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let body = Zeroizing::new(serde_json::to_vec(message)?);
    timer::timeout(SEND_LIMIT, to.send(&body, descriptors))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// What the other one says next; `None`: it is gone.
///
/// # Errors
/// The system's, or that it is nothing that this version understands.
pub(super) async fn hear(from: &mut Receiver) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
    let Some((body, descriptors)) = from.next().await? else { return Ok(None) };
    Ok(Some((serde_json::from_slice(&body)?, descriptors)))
}

/// See [`super::refuse`].
pub(super) fn refuse(socket: &UnixStream, why: &str) {
    if let Ok(body) = serde_json::to_vec(&Message::Refused(why.to_owned())) {
        // Whoever doesn't listen sees the process end.
        let _ = handoff::say(socket, &body);
    }
}
