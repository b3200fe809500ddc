//! The old process's part: it starts the new one, and gives it what it has.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::cancels::Cancels;
use super::wire::{self, Hello, Message, VERSION};
use super::{Program, TAKE_OVER};
use crate::admin::Admin;
use crate::client::Context;
use crate::client::exodus::{self, Departing};
use crate::client::registry::{ClientKind, order};
use crate::error::{ClientError, SqlState};
use crate::names::{DatabaseName, UserName};
use crate::net::handoff::{self, Receiver, Sender};
use crate::net::listener::Spares;
use crate::net::stream::Stream;
use crate::net::timer;
use crate::pool::cede::Kept;
use crate::pool::directory;
use crate::pooler::stop::{How, Stop};
use crate::pooler::{process, systemd};

/// How often clients are told and slots are given up.
const ROUND: Duration = Duration::from_millis(5);
/// How often it is looked whether all have gone.
const POLL: Duration = Duration::from_millis(20);
/// How long a process that has hung up may take to end.
const END_LIMIT: Duration = Duration::from_secs(1);
/// How long consoles may stay when all others have gone.
const CONSOLES_LIMIT: Duration = Duration::from_secs(1);
/// After how many rounds clients are told again, who may have been about to send something.
const TELL_AGAIN: u32 = 40;
/// A pool smaller than this can't be divided.
const DIVISIBLE: u32 = 2;

/// Starts new processes.
pub struct Launcher {
    /// Which.
    pub program: Program,
    /// What they listen on.
    pub spares: Spares,
    /// What they get.
    pub admin: Arc<Admin>,
}

/// The new process, which serves.
#[derive(Debug)]
pub struct Successor {
    sender: Sender,
    receiver: Receiver,
}

/// A process that has not taken over; ended when dropped.
struct Unborn(Child);

impl Drop for Unborn {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Launcher {
    /// Has a new process take over. Dropped before the end, all goes on as it was.
    ///
    /// # Errors
    /// Why it didn't; then all goes on as it was.
    pub async fn upgrade(&self) -> Result<Successor, String> {
        self.check()?;
        let limit = self.admin.context.config.load().pooler.upgrade_timeout;
        let (mut unborn, sender, receiver) = self.start()?;
        info!("upgrade: process {} of {} is to take over", unborn.0.id(), self.program.path.display());
        let agreed = timer::timeout(limit, self.agree(sender, receiver)).await;
        let failed = match agreed {
            Ok(Ok(successor)) => {
                self.spares.disown_files();
                systemd::main_pid(unborn.0.id());
                info!("upgrade: process {} serves", unborn.0.id());
                // Not to be ended any more, nor waited for.
                std::mem::forget(unborn);
                return Ok(successor);
            }
            Ok(Err(Some(why))) => why,
            Ok(Err(None)) => how_it_ended(&mut unborn.0).await,
            Err(_) => format!("the new process was not ready within {limit:?} (upgrade_timeout)"),
        };
        drop(unborn);
        if let Some(path) = &self.admin.context.config.load().pooler.pidfile {
            // It may have got as far as that.
            process::restore_pid(path);
        }
        Err(failed)
    }

    /// Whether this is no time for it.
    fn check(&self) -> Result<(), String> {
        let pools = self.admin.context.pools.all();
        if self.admin.is_suspended() || pools.iter().any(|pool| pool.is_paused() || pool.is_disabled()) {
            return Err("something is paused, suspended or disabled: RESUME or ENABLE it first".into());
        }
        if std::process::id() == 1 {
            return Err("process 1 of a container can't be replaced: the container would end with it".into());
        }
        Ok(())
    }

    fn start(&self) -> Result<(Unborn, Sender, Receiver), String> {
        let start = || {
            let (own, theirs) = UnixStream::pair()?;
            let mut command = Command::new(&self.program.path);
            command.args(&self.program.arguments).arg(TAKE_OVER).stdin(Stdio::from(OwnedFd::from(theirs)));
            // These name the process that they are for.
            for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"] {
                command.env_remove(name);
            }
            let unborn = Unborn(command.spawn()?);
            let (sender, receiver) = handoff::open(own)?;
            Ok((unborn, sender, receiver))
        };
        start().map_err(|error: std::io::Error| format!("{} cannot be started: {error}", self.program.path.display()))
    }

    /// Comes to an agreement with the new process, or to why not; `None`: it has hung up.
    async fn agree(&self, mut sender: Sender, mut receiver: Receiver) -> Result<Successor, Option<String>> {
        let context = &self.admin.context;
        let pools = context.pools.all().iter().map(|pool| pool.name.as_str().to_owned()).collect();
        let hello = Hello { version: VERSION, uses: self.spares.uses(), pools };
        // Where it doesn't take what is said, hearing tells why.
        let _ = wire::say(&mut sender, &Message::Hello(hello), &self.spares.descriptors()).await;
        expect(&mut receiver, |message| matches!(message, Message::Ready)).await?;
        self.check()?;
        let _ = wire::say(&mut sender, &Message::Go(context.registry.numbers()), &[]).await;
        expect(&mut receiver, |message| matches!(message, Message::Serving)).await?;
        Ok(Successor { sender, receiver })
    }
}

/// Waits for a message.
async fn expect(receiver: &mut Receiver, wanted: impl Fn(&Message) -> bool) -> Result<(), Option<String>> {
    match wire::hear(receiver).await {
        Ok(Some((Message::Refused(why), _))) => Err(Some(format!("the new process can't take over: {why}"))),
        Ok(Some((message, _))) if wanted(&message) => Ok(()),
        Ok(Some(_)) => Err(Some("the new process says what can't be said now".into())),
        Ok(None) => Err(None),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Err(None),
        Err(error) => Err(Some(format!("the new process can't be understood: {error}"))),
    }
}

/// Of one that has hung up.
async fn how_it_ended(child: &mut Child) -> String {
    let begun = Instant::now();
    while begun.elapsed() < END_LIMIT {
        match child.try_wait() {
            Ok(Some(status)) => {
                return format!("the new process ended before it was ready ({status}); see what it printed");
            }
            Ok(None) => timer::sleep(POLL).await,
            Err(_) => break,
        }
    }
    "the new process doesn't talk; is it a Carpool?".into()
}

impl Successor {
    /// Gives clients and pools away until nobody is left, for `upgrade_drain_timeout` at most.
    pub async fn hand_over(self, context: &Arc<Context>, stop: &Stop) {
        let mut departing = context.exodus.open();
        let give = async {
            let mut giving = Giving::new(self, context);
            if let Err(error) = giving.run(&mut departing).await {
                error!("the new process has gone: {error}");
            }
            drop(giving);
            // Nobody takes them any more.
            while let Some(departing) = departing.recv().await {
                send_away(departing);
            }
            std::future::pending().await
        };
        tokio::select! {
            () = give => {}
            () = see_off(context, stop) => {}
        }
    }
}

fn send_away(departing: Departing) {
    let Departing { traveller, socket, registered } = departing;
    let Ok(stream) = Stream::from_fd(socket, traveller.peer.is_some()) else { return };
    let error = ClientError::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
        .detail("Carpool was being upgraded, and its new process has ended.");
    tokio::spawn(async move {
        exodus::send_off(Box::new((stream, error))).await;
        drop(registered);
    });
}

/// Waits until all have gone; those that take too long are ended.
async fn see_off(context: &Arc<Context>, stop: &Stop) {
    let begun = Instant::now();
    while !stop.only_consoles() || !context.door.is_empty() {
        let limit = context.config.load().pooler.upgrade_drain_timeout;
        if !stop.is_patient() {
            return stop.drain().await;
        }
        if begun.elapsed() >= limit {
            info!("upgrade: ending the clients that could not be handed over (upgrade_drain_timeout)");
            context.registry.for_each(|client| client.end(order::END_IDLE, outstayed()));
            stop.begin(How::AfterTransactions);
            return stop.drain().await;
        }
        timer::sleep(POLL).await;
    }
    // Whoever has asked for the upgrade reads the answer and leaves.
    let only_consoles = Instant::now();
    while context.registry.connections() > 0 && only_consoles.elapsed() < CONSOLES_LIMIT {
        timer::sleep(POLL).await;
    }
    stop.begin(How::AtOnce);
    stop.drain().await;
}

fn outstayed() -> ClientError {
    ClientError::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
        .detail("Carpool was upgraded, and this connection can't go over to the new process.")
        .hint("Connect again. See upgrade_drain_timeout.")
}

/// The giving away.
struct Giving<'c> {
    context: &'c Arc<Context>,
    sender: Sender,
    receiver: Receiver,
    cancels: Cancels,
    /// What the new process knows to be kept here.
    told: HashMap<DatabaseName, Kept>,
    rounds: u32,
}

impl<'c> Giving<'c> {
    fn new(successor: Successor, context: &'c Arc<Context>) -> Self {
        let Successor { sender, receiver } = successor;
        Self { context, sender, receiver, cancels: Cancels::new(context), told: HashMap::new(), rounds: 0 }
    }

    /// Runs until the new process is gone.
    async fn run(&mut self, departing: &mut mpsc::UnboundedReceiver<Departing>) -> std::io::Result<()> {
        let mut rounds = timer::interval(ROUND);
        loop {
            tokio::select! {
                Some(leaving) = departing.recv() => self.give(leaving).await?,
                heard = wire::hear(&mut self.receiver) => match heard? {
                    Some((message, _)) => drop(self.cancels.take(message)),
                    None => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                },
                message = self.cancels.next() => wire::say(&mut self.sender, &message, &[]).await?,
                _ = rounds.tick() => self.round().await?,
            }
        }
    }

    async fn give(&mut self, departing: Departing) -> std::io::Result<()> {
        let Departing { traveller, socket, registered } = departing;
        wire::say(&mut self.sender, &Message::Client(Box::new(traveller)), &[socket.as_fd()]).await?;
        // It counts here as long as it is on its way.
        drop(registered);
        Ok(())
    }

    /// Tells clients to leave, and gives up the slots that those who stay don't need.
    async fn round(&mut self) -> std::io::Result<()> {
        let mut staying: HashMap<DatabaseName, HashSet<UserName>> = HashMap::new();
        let config = self.context.config.load_full();
        self.rounds = self.rounds.wrapping_add(1);
        let again = self.rounds % TELL_AGAIN == 0;
        self.context.registry.for_each(|client| {
            if client.kind != ClientKind::Pooled {
                return;
            }
            staying.entry(client.database.clone()).or_default().insert(client.user.clone());
            if client.tls.is_none() && (again || client.orders() & order::DEPART == 0) {
                client.order(order::DEPART);
            }
            let size = directory::find(&config, client.database.as_str()).map_or(0, |database| database.pool_size);
            if client.tls.is_some() && size < DIVISIBLE && client.orders() & order::END_IDLE == 0 {
                client.end(order::END_IDLE, outstayed());
            }
        });
        // One who logs in may need a server, as whoever it turns out to be.
        let entering = !self.context.door.is_empty();
        for pool in self.context.pools.all() {
            let forced = directory::find(&config, pool.name.as_str()).and_then(|database| database.user.clone());
            let staying = staying.get(&pool.name);
            let needs = |user: &UserName| {
                entering || staying.is_some_and(|staying| forced.as_ref() == Some(user) || staying.contains(user))
            };
            let kept = pool.cede(needs, u32::from(entering));
            if self.told.get(&pool.name) != Some(&kept) {
                let message = Message::Kept(pool.name.as_str().to_owned(), kept.clone());
                wire::say(&mut self.sender, &message, &[]).await?;
                self.told.insert(pool.name.clone(), kept);
            }
        }
        Ok(())
    }
}

/// How a new process that has not taken over is told of in the log.
pub(in crate::pooler) fn tell_failure(why: &str) {
    warn!("upgrade failed, all goes on as before: {why}");
}
