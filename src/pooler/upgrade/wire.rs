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
use crate::pool::transfer::Arrival;

/// Raised with each change that an older or newer Carpool would misunderstand.
pub(super) const VERSION: u32 = 2;
/// How long the other process may take to take a message.
const SEND_LIMIT: Duration = Duration::from_secs(10);

/// What the old process says first. All versions understand it.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub(super) struct Hello {
    /// [`VERSION`].
    pub(super) version: u32,
    /// How many listening sockets there are. They come next.
    pub(super) sockets: usize,
}

/// In the order in which they are first said.
#[derive(Serialize, Deserialize)]
pub(super) enum Message {
    /// The old one: here I am.
    Hello(Hello),
    /// The old one: here are some of the listening sockets, and what they are for. Don't use them yet.
    Sockets(Vec<Use>),
    /// The new one: this is why it can't take over.
    Refused(String),
    /// The new one: it could begin.
    Ready,
    /// The old one: begin. These are the numbers of its clients, and the lane of those that the new one gives out.
    Go(Vec<u32>, u32),
    /// The new one: it accepts connections at these addresses.
    Serving(Vec<String>),
    /// The new one: it has made pools for these databases. What is kept of their servers?
    Claim(Vec<String>),
    /// The old one: this is what it keeps of databases' servers.
    Kept(Vec<(String, Kept)>),
    /// The old one: a client, whose socket comes with it.
    Client(Box<Traveller>),
    /// The old one: a server, whose socket comes with it, and its slot.
    Server(Box<Arrival>),
    /// The new one: the client with this number is here, and goes on once this is said.
    Arrived(u32),
    /// Either: cancel what the client with this number and secret does. The first is the request's own number.
    Cancel(u64, u32, Vec<u8>),
    /// Either: that is done; whether there was such a client.
    Cancelled(u64, bool),
    /// The new one: a third process has the listening sockets; this one won't need the old one to take its place.
    Passed,
    /// The new one: it was told to stop; whether it waits for its clients to leave.
    Stopping(bool),
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
