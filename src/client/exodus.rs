//! Clients on their way from one process of a Carpool to the one that takes its place.
//!
//! A client leaves when it is told to ([`order::DEPART`](super::registry::order::DEPART)) and between transactions, with
//! its socket and what its session has set up; the other process goes on with it as if nothing had been. Who has the
//! two talk is [`crate::pooler`]'s business. While they do, a cancel request for a client of the other one is passed on.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

use super::Context;
use super::login;
use super::registry::{ClientKind, Identity, Registered, Registry};
use super::relay::{Relay, Session};
use crate::auth::carried::CarriedCredentials;
use crate::error::{ClientError, SqlState};
use crate::names::{DatabaseName, UserName};
use crate::net::Peer;
use crate::net::stream::Stream;
use crate::protocol::carried::CarriedState;
use crate::wire::backend;
use crate::wire::startup::{CancelKey, PROTOCOL_3_2};

/// Cancel requests on their way to the other process, at most; more wait.
const CANCELS: usize = 64;

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

/// The ways to the other process, while there is one.
#[derive(Debug, Default)]
pub struct Exodus {
    departing: OnceLock<mpsc::UnboundedSender<Departing>>,
    cancels: ArcSwapOption<mpsc::Sender<Asked>>,
}

impl Exodus {
    /// Where those come out who leave. Their number is that of the clients.
    pub fn open(&self) -> mpsc::UnboundedReceiver<Departing> {
        let (sender, receiver) = mpsc::unbounded_channel();
        // A process gives its clients away once.
        drop(self.departing.set(sender));
        receiver
    }

    /// Where cancel requests come out that are for the other process.
    pub fn open_cancels(&self) -> mpsc::Receiver<Asked> {
        let (sender, receiver) = mpsc::channel(CANCELS);
        self.cancels.store(Some(Arc::new(sender)));
        receiver
    }

    /// There is no other process any more.
    pub fn close_cancels(&self) {
        self.cancels.store(None);
    }

    /// Has the other process cancel what its client with this key does. Says whether it has one.
    pub async fn cancel(&self, key: &CancelKey) -> bool {
        let Some(cancels) = self.cancels.load_full() else { return false };
        let (done, answer) = oneshot::channel();
        let asked = cancels.send(Asked { key: key.clone(), done }).await;
        drop(cancels);
        asked.is_ok() && answer.await.unwrap_or(false)
    }
}

/// A session has come off its task to leave.
pub fn depart(relay: Relay) {
    let context = Arc::clone(relay.context());
    let departed = relay.depart();
    match (departed, context.exodus.departing.get()) {
        (Ok(departing), Some(way)) => drop(way.send(departing)),
        (Err(error), _) => warn!("a client could not be handed over: {error}"),
        (Ok(_), None) => debug!("a client left that nobody waits for"),
    }
}

/// Why one that has come over can't stay.
pub type Refused = Box<(Stream, ClientError)>;

/// Goes on with a client of the other process.
///
/// # Errors
/// The socket, and what the client is to be told; `None` where the socket can't be used.
pub fn arrive(context: &Arc<Context>, traveller: Traveller, socket: OwnedFd) -> Result<Box<Session>, Option<Refused>> {
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
