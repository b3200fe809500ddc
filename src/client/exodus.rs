//! Clients on their way from one process of a Carpool to the one that takes its place.
//!
//! A client leaves when it is told to ([`order::DEPART`](super::registry::order::DEPART)) and between transactions, with
//! its socket and what its session has set up; the other process goes on with it as if nothing had been. One that can't be
//! given to it goes on here ([`come_home`]). Who has the two talk is [`crate::pooler`]'s business. While they do, a cancel
//! request for a client of the other one is passed on; where three processes follow each other, through the one in the
//! middle.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::Context;
use super::connection::Connection;
use super::login;
use super::registry::{ClientKind, Identity, Registered, Registry};
use super::relay::{Relay, Session};
use crate::auth::carried::CarriedCredentials;
use crate::error::{ClientError, SqlState};
use crate::names::{DatabaseName, UserName};
use crate::net::Peer;
use crate::net::stream::Stream;
use crate::net::timer;
use crate::net::world;
use crate::protocol::carried::CarriedState;
use crate::wire::backend;
use crate::wire::startup::{CancelKey, PROTOCOL_3_2};

/// Cancel requests on their way to the other process, at most; more wait.
const CANCELS: usize = 64;
/// How long the other process may take for one.
const CANCEL_LIMIT: Duration = Duration::from_secs(30);

/// All of a session but its socket.
#[derive(Serialize, Deserialize)]
pub struct Traveller {
    /// As whom it logged in.
    pub user: String,
    /// To which database.
    pub database: String,
    /// When, since 1970.
    pub connected: Duration,
    /// Its process number.
    pub number: u32,
    /// The secret of its cancel key.
    pub secret: Vec<u8>,
    /// From where; `None`: the unix socket.
    pub peer: Option<SocketAddr>,
    /// The socket's own address.
    pub local: Option<SocketAddr>,
    /// As whom its servers are logged in.
    pub server_user: String,
    /// With what.
    pub credentials: CarriedCredentials,
    /// What it has set up.
    pub state: CarriedState,
}

/// A session that has come off its task.
pub struct Departing {
    /// What goes over.
    pub traveller: Traveller,
    /// The client's socket.
    pub socket: OwnedFd,
    /// Its entry here: to be dropped when the other process has it.
    pub registered: Registered,
}

/// A cancel request for the other process, which says whether the client is there.
#[derive(Debug)]
pub struct Asked {
    /// Its key.
    pub key: CancelKey,
    /// Where the answer goes.
    pub done: oneshot::Sender<bool>,
}

/// Which of the other processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Neighbour {
    /// The one whose place this one has taken.
    Before,
    /// The one that takes the place of this one.
    After,
}

/// The ways to the other processes, while there are any.
#[derive(Debug, Default)]
pub struct Exodus {
    departing: Mutex<Option<mpsc::UnboundedSender<Departing>>>,
    before: ArcSwapOption<mpsc::Sender<Asked>>,
    after: ArcSwapOption<mpsc::Sender<Asked>>,
}

impl Exodus {
    /// Where those come out who leave. Their number is that of the clients.
    pub fn open(&self) -> mpsc::UnboundedReceiver<Departing> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.departing.lock() = Some(sender);
        receiver
    }

    /// Nobody comes out any more.
    pub fn close(&self) {
        *self.departing.lock() = None;
    }

    const fn cancels(&self, of: Neighbour) -> &ArcSwapOption<mpsc::Sender<Asked>> {
        match of {
            Neighbour::Before => &self.before,
            Neighbour::After => &self.after,
        }
    }

    /// Where cancel requests come out that are for this process.
    pub fn open_cancels(&self, of: Neighbour) -> mpsc::Receiver<Asked> {
        let (sender, receiver) = mpsc::channel(CANCELS);
        self.cancels(of).store(Some(Arc::new(sender)));
        receiver
    }

    /// It isn't there any more.
    pub fn close_cancels(&self, of: Neighbour) {
        self.cancels(of).store(None);
    }

    /// Whether the process before this one is still there.
    #[must_use]
    pub fn has_one_before(&self) -> bool {
        self.before.load().is_some()
    }

    /// Has another process cancel what its client with this key does. Says whether one has such a client.
    pub async fn cancel(&self, key: &CancelKey) -> bool {
        self.cancel_in(Neighbour::After, key).await || self.cancel_in(Neighbour::Before, key).await
    }

    /// As [`Exodus::cancel`], of one other process and those behind it.
    pub async fn cancel_in(&self, neighbour: Neighbour, key: &CancelKey) -> bool {
        let Some(cancels) = self.cancels(neighbour).load_full() else { return false };
        let (done, answer) = oneshot::channel();
        let asked = cancels.send(Asked { key: key.clone(), done }).await;
        drop(cancels);
        // One that hangs mustn't hold up who asks for good.
        asked.is_ok() && matches!(timer::timeout(CANCEL_LIMIT, answer).await, Ok(Ok(true)))
    }
}

/// A session has come off its task to leave.
pub fn depart(relay: Relay) {
    let context = Arc::clone(relay.context());
    let departing = match relay.depart() {
        Ok(departing) => departing,
        Err(error) => return warn!("a client could not be handed over: {error}"),
    };
    let way = context.exodus.departing.lock();
    let returned = match &*way {
        Some(way) => way.send(departing).err().map(|unsent| unsent.0),
        None => Some(departing),
    };
    drop(way);
    if let Some(departing) = returned {
        come_home(&context, departing);
    }
}

/// Goes on here with a client that was to leave.
pub fn come_home(context: &Arc<Context>, departing: Departing) {
    let Departing { traveller, socket, registered } = departing;
    // It is counted anew: nobody is to take this for the end of the last one.
    let _held = context.registry.hold();
    drop(registered);
    enter(context, traveller, socket);
}

/// Goes on with a client of another process, or tells it why not. Says whether it could.
pub fn enter(context: &Arc<Context>, traveller: Traveller, socket: OwnedFd) -> bool {
    match arrive(context, traveller, socket) {
        Ok(session) => {
            world::spawn(Connection::Entering(Box::pin(async { Some(session) })));
            true
        }
        Err(refused) => {
            if let Some(refused) = refused {
                world::spawn(send_off(refused));
            }
            false
        }
    }
}

/// Why one that has come over can't stay.
pub type Refused = Box<(Stream, ClientError)>;

/// Goes on with a client of the other process.
///
/// # Errors
/// The socket, and what the client is to be told; `None` where the socket can't be used.
fn arrive(context: &Arc<Context>, traveller: Traveller, socket: OwnedFd) -> Result<Box<Session>, Option<Refused>> {
    let over_tcp = traveller.peer.is_some();
    let stream = Stream::from_fd(socket, over_tcp).map_err(|error| {
        warn!("a client's socket could not be taken over: {error}");
        None
    })?;
    let refuse = |stream, error| Err(Some(Box::new((stream, error))));
    let config = context.config.load_full();
    let (mut user, mut name) = (UserName::from(traveller.user), DatabaseName::from(traveller.database));
    let database = crate::pool::directory::find(&config, name.as_str());
    let (Some(database), Some(pool)) = (database, context.pools.get(name.as_str(), &config)) else {
        let text = format!("database \"{name}\" was removed from the configuration");
        return refuse(stream, ClientError::fatal(SqlState::ADMIN_SHUTDOWN, text));
    };
    let carried = (UserName::from(traveller.server_user), traveller.credentials.into());
    let (server_user, credentials) = login::server_login_again(&config, database, &user, carried);
    let share = config.user_share(&server_user);
    let pool_user = pool.user(&server_user, credentials, share);
    let state = traveller.state.unpack(&pool.tables);
    user.share(&pool_user.name);
    name.share(&pool.name);
    let identity = Identity {
        user: user.clone(),
        database: name,
        kind: ClientKind::Pooled,
        peer: traveller.peer.map_or(Peer::Unix, Peer::Tcp),
        local: traveller.local,
        tls: None,
        protocol: PROTOCOL_3_2,
    };
    let key = CancelKey { pid: traveller.number, secret: traveller.secret.as_slice().into() };
    let connected = UNIX_EPOCH + traveller.connected;
    let settings = Arc::clone(&state.settings);
    let Some(registered) = Registry::adopt(context, identity, key, settings, connected) else {
        let text = "another client has this one's number";
        return refuse(stream, ClientError::fatal(SqlState::ADMIN_SHUTDOWN, text));
    };
    registered.shared.note_prepared(state.statements.named.len());
    let mode = login::pool_mode(&config, database, &user);
    Ok(Box::new(Session { stream, unread: Vec::new(), registered, pool, user: pool_user, state, mode }))
}

/// Tells one that can't stay why.
pub async fn send_off(refused: Refused) {
    let (stream, error) = *refused;
    let mut message = Vec::new();
    backend::put_error(&mut message, &error);
    login::last_words(stream, message).await;
}
