//! The new process's part: it gets what the old one has.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::cancels::Cancels;
use super::wire::{self, Message, VERSION};
use crate::client::Context;
use crate::client::exodus::{self, Neighbour};
use crate::names::DatabaseName;
use crate::net::handoff::{self, Receiver, Sender};
use crate::net::listener::{Spares, Use};
use crate::pooler::stop::{How, Stop};

/// Pools asked about with one message, at most.
const CLAIMS: usize = 10_000;

/// The old process.
#[derive(Debug)]
pub struct Predecessor {
    sender: Sender,
    receiver: Receiver,
    uses: Vec<Use>,
    /// Pools that it is to be asked about.
    claims: Option<mpsc::UnboundedReceiver<DatabaseName>>,
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the old process says what can't be said now")
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the old process has gone")
}

impl Predecessor {
    /// Gets the listening sockets, not to be used yet.
    ///
    /// # Errors
    /// Why it can't take over.
    pub async fn meet(socket: UnixStream) -> io::Result<(Self, Vec<(Use, OwnedFd)>)> {
        let (sender, mut receiver) = handoff::open(socket)?;
        let (Message::Hello(hello), _) = wire::hear(&mut receiver).await?.ok_or_else(gone)? else {
            return Err(unexpected());
        };
        if hello.version != VERSION {
            let text = format!("the old process hands over in version {}, this one takes {VERSION}", hello.version);
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let mut given = Vec::new();
        while given.len() < hello.sockets {
            let (Message::Sockets(uses), sockets) = wire::hear(&mut receiver).await?.ok_or_else(gone)? else {
                return Err(unexpected());
            };
            if uses.is_empty() || uses.len() != sockets.len() {
                return Err(unexpected());
            }
            given.extend(uses.into_iter().zip(sockets));
        }
        let uses = given.iter().map(|(purpose, _)| purpose.clone()).collect();
        Ok((Self { sender, receiver, uses, claims: None }, given))
    }

    /// Says that this process could begin, and waits until it may. Pools have nothing to lend then, before the old
    /// process has said what is left to them.
    ///
    /// # Errors
    /// The old process has changed its mind, or is gone.
    pub async fn wait_for_go(&mut self, context: &Context) -> io::Result<()> {
        self.claims = Some(context.pools.share());
        wire::say(&mut self.sender, &Message::Ready, &[]).await?;
        let (Message::Go(numbers, lane), _) = wire::hear(&mut self.receiver).await?.ok_or_else(gone)? else {
            return Err(unexpected());
        };
        context.registry.numbering.follow(lane, numbers);
        Ok(())
    }

    /// Says that this process accepts connections, and has the sockets' files. Should it die from then on, the old one
    /// takes its place.
    ///
    /// # Errors
    /// The old process is gone.
    pub async fn serving(&mut self, spares: &mut Spares) -> io::Result<()> {
        spares.own_files(&self.uses);
        wire::say(&mut self.sender, &Message::Serving(spares.addresses()?), &[]).await
    }

    /// Takes what comes, until the old process has ended.
    pub async fn follow(mut self, context: Arc<Context>, stop: Stop) {
        let mut cancels = Cancels::new(&context, Neighbour::Before);
        let (mut clients, mut servers) = (0_u64, 0_u64);
        let mut how = stop.changes();
        how.mark_changed();
        loop {
            let said = tokio::select! {
                heard = wire::hear(&mut self.receiver) => match heard {
                    Ok(Some((message, descriptors))) => {
                        if let Some(message) = cancels.take(message) {
                            let came = self.take(&context, message, descriptors).await;
                            clients += u64::from(came == Some(Came::Client));
                            servers += u64::from(came == Some(Came::Server));
                        }
                        continue;
                    }
                    Ok(None) => break,
                    Err(error) => {
                        warn!("the old process can't be understood any more: {error}");
                        break;
                    }
                },
                message = cancels.next() => message,
                names = claimed(&mut self.claims) => Message::Claim(names),
                Ok(()) = how.changed() => match *how.borrow_and_update() {
                    How::Running => continue,
                    How::HandingOver => Message::Passed,
                    how => Message::Stopping(how == How::AfterClients),
                },
            };
            let stopping = matches!(said, Message::Stopping(_));
            if let Err(error) = wire::say(&mut self.sender, &said, &[]).await {
                warn!("the old process doesn't take a message: {error}");
            }
            if stopping {
                stop.note_told();
            }
        }
        drop(cancels);
        stop.note_told();
        context.pools.share_no_more();
        context.registry.numbering.follow_nobody();
        info!("the old process has ended; {clients} of its clients and {servers} of its servers go on here");
    }
}

/// Who goes on here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Came {
    Client,
    Server,
}

impl Predecessor {
    /// Says who has come, if anybody has.
    async fn take(&mut self, context: &Arc<Context>, message: Message, mut descriptors: Vec<OwnedFd>) -> Option<Came> {
        match message {
            Message::Kept(kept) => context.pools.divide(kept, &context.config.load()),
            Message::Server(arrival) => {
                let Some(socket) = descriptors.pop() else {
                    warn!("a server came over without its socket");
                    return None;
                };
                let stays = context.pools.take_in(*arrival, socket, &context.config.load());
                return stays.then_some(Came::Server);
            }
            Message::Client(traveller) => {
                let Some(socket) = descriptors.pop() else {
                    warn!("a client came over without its socket");
                    return None;
                };
                // First: what the old process doesn't know to be here it takes back, should this one die.
                if let Err(error) = wire::say(&mut self.sender, &Message::Arrived(traveller.number), &[]).await {
                    warn!("the old process doesn't hear that a client has come: {error}");
                }
                return exodus::enter(context, *traveller, socket).then_some(Came::Client);
            }
            _ => warn!("{}", unexpected()),
        }
        None
    }
}

/// The next pools to ask about.
async fn claimed(claims: &mut Option<mpsc::UnboundedReceiver<DatabaseName>>) -> Vec<String> {
    let mut names = Vec::new();
    if let Some(claims) = claims {
        claims.recv_many(&mut names, CLAIMS).await;
    }
    if names.is_empty() {
        std::future::pending().await
    }
    names.iter().map(|name| name.as_str().to_owned()).collect()
}
