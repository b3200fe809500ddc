//! The new process's part: it gets what the old one has.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use tracing::{info, warn};

use super::cancels::Cancels;
use super::wire::{self, Hello, Message, VERSION};
use crate::client::Context;
use crate::client::connection::Connection;
use crate::client::exodus::{self, Traveller};
use crate::net::handoff::{self, Receiver, Sender};
use crate::net::listener::{Spares, Use};
use crate::pool::cede::Kept;

/// The old process.
#[derive(Debug)]
pub struct Predecessor {
    sender: Sender,
    receiver: Receiver,
    hello: Hello,
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
        let (Message::Hello(hello), descriptors) = wire::hear(&mut receiver).await?.ok_or_else(gone)? else {
            return Err(unexpected());
        };
        if hello.version != VERSION {
            let text = format!("the old process hands over in version {}, this one takes {VERSION}", hello.version);
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let given = hello.uses.iter().cloned().zip(descriptors).collect();
        Ok((Self { sender, receiver, hello }, given))
    }

    /// Says that this process could begin, and waits until it may. Pools have nothing to lend then, before the old
    /// process has said what is left to them.
    ///
    /// # Errors
    /// The old process has changed its mind, or is gone.
    pub async fn wait_for_go(&mut self, context: &Context) -> io::Result<()> {
        for pool in &self.hello.pools {
            self.divide(context, pool, Kept::ALL);
        }
        wire::say(&mut self.sender, &Message::Ready, &[]).await?;
        let (Message::Go(numbers), _) = wire::hear(&mut self.receiver).await?.ok_or_else(gone)? else {
            return Err(unexpected());
        };
        context.registry.reserve(numbers);
        Ok(())
    }

    fn divide(&self, context: &Context, pool: &str, kept: Kept) {
        if let Some(pool) = context.pools.get(pool, &context.config.load()) {
            pool.set_elsewhere(kept);
        }
    }

    /// Says that this process accepts connections, and has the sockets' files. From then on there is no way back.
    ///
    /// # Errors
    /// The old process is gone.
    pub async fn serving(&mut self, spares: &Spares) -> io::Result<()> {
        spares.own_files(&self.hello.uses);
        wire::say(&mut self.sender, &Message::Serving, &[]).await
    }

    /// Takes what comes, until the old process has ended.
    pub async fn follow(mut self, context: Arc<Context>) {
        let mut cancels = Cancels::new(&context);
        let mut clients = 0_u64;
        loop {
            let heard = tokio::select! {
                heard = wire::hear(&mut self.receiver) => heard,
                message = cancels.next() => {
                    if let Err(error) = wire::say(&mut self.sender, &message, &[]).await {
                        warn!("the old process doesn't take a cancel request: {error}");
                    }
                    continue;
                }
            };
            match heard {
                Ok(Some((message, descriptors))) => match cancels.take(message) {
                    Some(Message::Client(traveller)) => {
                        clients += u64::from(arrive(&context, *traveller, descriptors));
                    }
                    Some(Message::Kept(pool, kept)) => self.divide(&context, &pool, kept),
                    Some(_) => warn!("{}", unexpected()),
                    None => {}
                },
                Ok(None) => break,
                Err(error) => {
                    warn!("the old process can't be understood any more: {error}");
                    break;
                }
            }
        }
        for pool in &self.hello.pools {
            self.divide(&context, pool, Kept::default());
        }
        context.registry.reserve([]);
        info!("the old process has ended; {clients} of its clients go on here");
    }
}

/// Goes on with a client. Says whether it can.
fn arrive(context: &Arc<Context>, traveller: Traveller, mut descriptors: Vec<OwnedFd>) -> bool {
    let Some(socket) = descriptors.pop() else {
        warn!("a client came over without its socket");
        return false;
    };
    match exodus::arrive(context, traveller, socket) {
        Ok(session) => {
            tokio::spawn(Connection::Entering(Box::pin(async { Some(session) })));
            true
        }
        Err(refused) => {
            if let Some(refused) = refused {
                tokio::spawn(exodus::send_off(refused));
            }
            false
        }
    }
}
