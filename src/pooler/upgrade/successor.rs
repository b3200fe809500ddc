//! The old process's part: it starts the new one, and gives it what it has.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use super::cancels::Cancels;
use super::wire::{self, Hello, Message, VERSION};
use super::{Program, TAKE_OVER};
use crate::admin::Admin;
use crate::client::Context;
use crate::client::exodus::{self, Departing, Neighbour};
use crate::client::registry::{ClientKind, order};
use crate::config::Config;
use crate::error::{ClientError, SqlState};
use crate::names::{DatabaseName, UserName};
use crate::net::handoff::{self, MOST_DESCRIPTORS, Receiver, Sender};
use crate::net::listener::Spares;
use crate::net::stream::Stream;
use crate::net::timer;
use crate::net::world;
use crate::pool::Pool;
use crate::pool::cede::Kept;
use crate::pool::directory;
use crate::pool::transfer::{self, Way};
use crate::pooler::stop::{How, Stop};
use crate::pooler::{process, systemd};

/// How often clients are told and slots are given up.
const ROUND: Duration = Duration::from_millis(5);
/// How often it is looked whether all have gone.
const POLL: Duration = Duration::from_millis(20);
/// How long a process that has hung up may take to end.
const END_LIMIT: Duration = Duration::from_secs(1);
/// How long consoles may stay when all others have gone, and servers may take to go.
const CONSOLES_LIMIT: Duration = Duration::from_secs(1);
/// After how many rounds clients are told again, who may have been about to send something.
const TELL_AGAIN: u32 = 40;
/// Clients on their way at once: were the answers to fill the socket, both processes would wait for each other.
const MOST_ON_THEIR_WAY: usize = 64;
/// What one is told of that speaks out of turn.
const UNEXPECTED: &str = "the new process says what can't be said now";
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
    child: Child,
    sender: Sender,
    receiver: Receiver,
    /// The addresses that it listens on.
    addresses: Vec<String>,
}

/// What has come of handing over.
#[derive(Debug)]
pub enum HandedOver {
    /// Nobody is left here.
    All,
    /// The new process is no more. This one goes on, with these sockets.
    Back(Spares),
}

/// A process that has not taken over; ended when dropped.
struct Unborn(Option<Child>);

impl Drop for Unborn {
    fn drop(&mut self) {
        let Some(child) = &mut self.0 else { return };
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
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
        let number = unborn.0.as_ref().map_or(0, Child::id);
        info!("upgrade: process {number} of {} is to take over", self.program.path.display());
        let agreed = timer::timeout(limit, self.agree(sender, receiver)).await;
        let failed = match agreed {
            Ok(Ok((sender, receiver, addresses))) => {
                let Some(child) = unborn.0.take() else { return Err("the new process is nowhere".into()) };
                self.spares.disown_files();
                systemd::main_pid(child.id());
                info!("upgrade: process {} serves", child.id());
                return Ok(Successor { child, sender, receiver, addresses });
            }
            Ok(Err(Some(why))) => why,
            Ok(Err(None)) => how_it_ended(unborn.0.as_mut()).await,
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
            let unborn = Unborn(Some(command.spawn()?));
            let (sender, receiver) = handoff::open(own)?;
            Ok((unborn, sender, receiver))
        };
        start().map_err(|error: std::io::Error| format!("{} cannot be started: {error}", self.program.path.display()))
    }

    /// Comes to an agreement with the new process, or to why not; `None`: it has hung up.
    async fn agree(
        &self,
        mut sender: Sender,
        mut receiver: Receiver,
    ) -> Result<(Sender, Receiver, Vec<String>), Option<String>> {
        let context = &self.admin.context;
        // Where it doesn't take what is said, hearing tells why.
        let _ = self.greet(&mut sender).await;
        match hear(&mut receiver).await? {
            Message::Ready => {}
            _ => return Err(Some(UNEXPECTED.into())),
        }
        self.check()?;
        let go = Message::Go(context.registry.numbers(), context.registry.numbering.next_lane());
        let _ = wire::say(&mut sender, &go, &[]).await;
        match hear(&mut receiver).await? {
            Message::Serving(addresses) => Ok((sender, receiver, addresses)),
            _ => Err(Some(UNEXPECTED.into())),
        }
    }

    async fn greet(&self, sender: &mut Sender) -> std::io::Result<()> {
        let (uses, sockets) = (self.spares.uses(), self.spares.descriptors());
        let hello = Hello { version: VERSION, sockets: sockets.len() };
        wire::say(sender, &Message::Hello(hello), &[]).await?;
        for (uses, sockets) in uses.chunks(MOST_DESCRIPTORS).zip(sockets.chunks(MOST_DESCRIPTORS)) {
            wire::say(sender, &Message::Sockets(uses.to_vec()), sockets).await?;
        }
        Ok(())
    }
}

/// Waits for a message.
async fn hear(receiver: &mut Receiver) -> Result<Message, Option<String>> {
    match wire::hear(receiver).await {
        Ok(Some((Message::Refused(why), _))) => Err(Some(format!("the new process can't take over: {why}"))),
        Ok(Some((message, _))) => Ok(message),
        Ok(None) => Err(None),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Err(None),
        Err(error) => Err(Some(format!("the new process can't be understood: {error}"))),
    }
}

/// Of one that has hung up.
async fn how_it_ended(child: Option<&mut Child>) -> String {
    let ended = match child {
        Some(child) => end_of(child).await,
        None => None,
    };
    match ended {
        Some(status) => format!("the new process ended before it was ready ({status}); see what it printed"),
        None => "the new process doesn't talk; is it a Carpool?".into(),
    }
}

/// How a process ends that has hung up; `None`: it doesn't.
async fn end_of(child: &mut Child) -> Option<ExitStatus> {
    let begun = world::now();
    while world::now().saturating_duration_since(begun) < END_LIMIT {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) => timer::sleep(POLL).await,
            Err(_) => break,
        }
    }
    None
}

impl Successor {
    /// Gives clients and pools away until nobody is left, for `upgrade_drain_timeout` at most, or until the new process is
    /// no more: then this one takes everything back that is left.
    pub async fn hand_over(mut self, context: &Arc<Context>, stop: &Stop, mut spares: Spares) -> HandedOver {
        spares.keep(&self.addresses);
        let (way, servers) = mpsc::unbounded_channel();
        let leaving = Leaving { clients: context.exodus.open(), servers };
        context.pools.keep_all(true);
        tokio::select! {
            spares = self.give(context, stop, (spares, way), leaving) => HandedOver::Back(spares),
            () = see_off(context, stop) => HandedOver::All,
        }
    }

    /// Gives away. Returns when the new process is no more and this one is to go on.
    async fn give(
        &mut self,
        context: &Arc<Context>,
        stop: &Stop,
        (spares, way): (Spares, Way),
        mut leaving: Leaving,
    ) -> Spares {
        let Self { child, sender, receiver, .. } = self;
        let mut giving = Giving::new((sender, receiver), context, stop, (spares, way));
        let Err(error) = giving.run(&mut leaving).await else { std::future::pending().await };
        let is_gone = is_gone(child, &error).await;
        giving.hear_the_rest().await;
        let Giving { unsent, unsent_server, on_their_way, spares, .. } = giving;
        let Leaving { clients: mut departing, servers } = leaving;
        // They are closed.
        drop(servers);
        match unsent_server {
            Some(mut server) if is_gone => server.distrust(),
            Some(server) => server.gone(),
            None => {}
        }
        context.exodus.close();
        context.registry.for_each(|client| client.clear_order(order::DEPART));
        let mut left: Vec<_> = unsent.into_iter().collect();
        while let Ok(next) = departing.try_recv() {
            left.push(next);
        }
        if !is_gone {
            error!("upgrade: the new process serves, but takes no more clients ({error}): those that are here stay");
            left.into_iter().for_each(send_away);
            return std::future::pending().await;
        }
        context.registry.numbering.precede_nobody();
        context.pools.all().iter().for_each(Pool::cede_nothing);
        let back = on_their_way.into_values().chain(left);
        back.for_each(|client| exodus::come_home(context, client));
        match spares {
            Some(spares) if stop.resume() => spares,
            _ => std::future::pending().await,
        }
    }
}

/// Whether the new process has ended. One that doesn't take what it is given serves nobody, and is ended.
async fn is_gone(child: &mut Child, error: &std::io::Error) -> bool {
    if error.kind() == std::io::ErrorKind::TimedOut {
        error!("upgrade: the new process hangs, and is ended");
        // It may have ended by itself.
        let _ = child.kill();
    }
    let ended = end_of(child).await;
    if let Some(status) = ended {
        error!("upgrade: the new process has ended ({status}), and its clients with it");
    }
    ended.is_some()
}

fn send_away(departing: Departing) {
    let Departing { traveller, socket, registered } = departing;
    let Ok(stream) = Stream::from_fd(socket, traveller.peer.is_some()) else { return };
    let error = ClientError::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
        .detail("Carpool was being upgraded, and its new process has ended.");
    world::spawn(async move {
        exodus::send_off(Box::new((stream, error))).await;
        drop(registered);
    });
}

/// Waits until all have gone; those that take too long are ended.
async fn see_off(context: &Arc<Context>, stop: &Stop) {
    let begun = world::now();
    // The process before this one may still have clients that come by way of this one.
    while !stop.only_consoles() || !context.door.is_empty() || context.exodus.has_one_before() {
        let limit = context.config.load().pooler.upgrade_drain_timeout;
        if !stop.is_patient() {
            return stop.drain().await;
        }
        if world::now().saturating_duration_since(begun) >= limit {
            info!("upgrade: ending the clients that could not be handed over (upgrade_drain_timeout)");
            context.registry.for_each(|client| client.end(order::END_IDLE, outstayed()));
            stop.begin(How::AfterTransactions);
            return stop.drain().await;
        }
        timer::sleep(POLL).await;
    }
    // Whoever has asked for the upgrade reads the answer and leaves.
    let only_consoles = world::now();
    let anything = || context.registry.connections() > 0 || context.pools.all().iter().any(|pool| pool.slots() > 0);
    while anything() && world::now().saturating_duration_since(only_consoles) < CONSOLES_LIMIT {
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

/// Those that are to go.
struct Leaving {
    clients: mpsc::UnboundedReceiver<Departing>,
    servers: mpsc::UnboundedReceiver<transfer::Leaving>,
}

/// The giving away.
struct Giving<'s> {
    context: &'s Arc<Context>,
    stop: &'s Stop,
    sender: &'s mut Sender,
    receiver: &'s mut Receiver,
    cancels: Cancels,
    /// To go on with, should the new process end.
    spares: Option<Spares>,
    /// A client that could not be given away.
    unsent: Option<Departing>,
    /// A server of which nobody knows whether the new process has it.
    unsent_server: Option<transfer::Leaving>,
    /// Where servers come from.
    way: Way,
    /// Clients that are on their way, by their numbers: they count here, and come back should the new process die.
    on_their_way: HashMap<u32, Departing>,
    /// What the new process knows to be kept here.
    told: HashMap<DatabaseName, Kept>,
    /// The databases whose pools the new process waits to hear of.
    claimed: Vec<String>,
    rounds: u32,
}

impl<'s> Giving<'s> {
    fn new(
        (sender, receiver): (&'s mut Sender, &'s mut Receiver),
        context: &'s Arc<Context>,
        stop: &'s Stop,
        (spares, way): (Spares, Way),
    ) -> Self {
        Self {
            context,
            stop,
            sender,
            receiver,
            cancels: Cancels::new(context, Neighbour::After),
            spares: Some(spares),
            unsent: None,
            unsent_server: None,
            way,
            on_their_way: HashMap::new(),
            told: HashMap::new(),
            claimed: Vec::new(),
            rounds: 0,
        }
    }

    /// Runs until the new process is gone.
    async fn run(&mut self, leaving: &mut Leaving) -> std::io::Result<()> {
        let mut rounds = timer::interval(ROUND);
        loop {
            tokio::select! {
                Some(client) = leaving.clients.recv(), if self.on_their_way.len() < MOST_ON_THEIR_WAY => {
                    // First what those wait for who have gone.
                    if let Err(error) = self.give_servers(&mut leaving.servers).await {
                        self.unsent = Some(client);
                        return Err(error);
                    }
                    self.give(client).await?;
                }
                Some(server) = leaving.servers.recv() => self.give_server(server).await?,
                heard = wire::hear(self.receiver) => match heard? {
                    Some((message, _)) => self.take(message),
                    None => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                },
                message = self.cancels.next() => wire::say(self.sender, &message, &[]).await?,
                _ = rounds.tick() => self.round().await?,
            }
        }
    }

    /// What a process that has ended had still to say.
    async fn hear_the_rest(&mut self) {
        while let Ok(Ok(Some((message, _)))) = timer::timeout(END_LIMIT, wire::hear(self.receiver)).await {
            self.take(message);
        }
    }

    fn take(&mut self, message: Message) {
        match self.cancels.take(message) {
            Some(Message::Claim(names)) => self.claimed.extend(names),
            Some(Message::Arrived(number)) => {
                self.context.registry.numbering.went(number);
                self.on_their_way.remove(&number);
            }
            Some(Message::Passed) => self.spares = None,
            Some(Message::Stopping(patient)) => {
                self.spares = None;
                self.stop.begin(if patient { How::AfterClients } else { How::AfterTransactions });
            }
            Some(_) => warn!("upgrade: the new process says what can't be said now"),
            None => {}
        }
    }

    async fn give(&mut self, departing: Departing) -> std::io::Result<()> {
        let Departing { traveller, socket, registered } = departing;
        let message = Message::Client(Box::new(traveller));
        let sent = wire::say(self.sender, &message, &[socket.as_fd()]).await;
        let Message::Client(traveller) = message else { return Ok(()) };
        let departing = Departing { traveller: *traveller, socket, registered };
        let Err(error) = sent else {
            self.on_their_way.insert(departing.traveller.number, departing);
            return Ok(());
        };
        if !self.sender.may_send_later(&error) {
            self.unsent = Some(departing);
            return Err(error);
        }
        debug!("a client stays for now, as its socket can't be sent: {error}");
        exodus::come_home(self.context, departing);
        Ok(())
    }

    async fn give_servers(&mut self, servers: &mut mpsc::UnboundedReceiver<transfer::Leaving>) -> std::io::Result<()> {
        while let Ok(server) = servers.try_recv() {
            self.give_server(server).await?;
        }
        Ok(())
    }

    /// Gives a server away with its slot. What can't go is closed.
    async fn give_server(&mut self, leaving: transfer::Leaving) -> std::io::Result<()> {
        let Some(arrival) = leaving.pack() else { return Ok(()) };
        let (name, kept) = arrival.kept();
        let Some(socket) = leaving.socket() else { return Ok(()) };
        match wire::say(self.sender, &Message::Server(Box::new(arrival)), &[socket]).await {
            Ok(()) => {
                leaving.gone();
                self.told.insert(name, kept);
            }
            Err(error) if self.sender.may_send_later(&error) => {
                debug!("a server is closed, as its socket can't be sent: {error}");
            }
            Err(error) => {
                self.unsent_server = Some(leaving);
                return Err(error);
            }
        }
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
        self.account(&config, &staying).await
    }

    /// Says of each pool what is kept here, where that isn't known. All that is known first goes into one message: what is
    /// kept of a user's servers counts in all pools.
    async fn account(
        &mut self,
        config: &Config,
        staying: &HashMap<DatabaseName, HashSet<UserName>>,
    ) -> std::io::Result<()> {
        let mut account = Vec::new();
        for name in std::mem::take(&mut self.claimed) {
            // Whoever logs in here as yet may want it: it is divided before anybody can have servers of it.
            match self.context.pools.get(&name, config) {
                Some(pool) => drop(self.told.remove(&pool.name)),
                None => account.push((name, Kept::default())),
            }
        }
        // One who logs in may need a server, as whoever it turns out to be.
        let entering = !self.context.door.is_empty();
        for pool in self.context.pools.all() {
            let forced = directory::find(config, pool.name.as_str()).and_then(|database| database.user.clone());
            let staying = staying.get(&pool.name);
            let needs = |user: &UserName| {
                entering || staying.is_some_and(|staying| forced.as_ref() == Some(user) || staying.contains(user))
            };
            let kept = pool.cede(needs, u32::from(entering), &self.way);
            if self.told.get(&pool.name) != Some(&kept) {
                account.push((pool.name.as_str().to_owned(), kept.clone()));
                self.told.insert(pool.name.clone(), kept);
            }
        }
        if !account.is_empty() {
            wire::say(self.sender, &Message::Kept(account), &[]).await?;
        }
        Ok(())
    }
}

/// How a new process that has not taken over is told of in the log.
pub(in crate::pooler) fn tell_failure(why: &str) {
    warn!("upgrade failed, all goes on as before: {why}");
}
