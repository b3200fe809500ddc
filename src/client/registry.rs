//! Every client connection, by its cancel key: for cancels, timeouts, SHOW CLIENTS and stopping.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dashmap::DashMap;
use parking_lot::Mutex;
use rand::RngExt;

use super::door::{Entrant, Waiting};
use super::numbering::Numbering;
use crate::config::Config;
use crate::error::{ClientError, SqlState};
use crate::names::{ClientId, DatabaseName, UserName};
use crate::net::world;
use crate::net::{Ends, Peer};
use crate::protocol::settings::Settings;
use crate::server::ServerShared;
use crate::tls::Cipher;
use crate::wire::startup::{CancelKey, PROTOCOL_3_2};

/// Bytes of a cancel secret towards protocol 3.2 and later; before it is 4.
const LONG_SECRET: usize = 32;

/// What a client is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Phase {
    /// Logging in.
    Login,
    /// Outside a transaction, nothing asked.
    Idle,
    /// Waiting for a server.
    Waiting,
    /// A query runs.
    Active,
    /// In a transaction, nothing asked.
    IdleInTransaction,
}

impl Phase {
    const ALL: [Self; 5] = [Self::Login, Self::Idle, Self::Waiting, Self::Active, Self::IdleInTransaction];
}

/// What a client uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ClientKind {
    /// Servers of a pool.
    #[default]
    Pooled,
    /// The admin console.
    Console,
    /// A server of its own, for physical replication.
    PhysicalReplication,
    /// A server of its own, for logical replication.
    LogicalReplication,
}

/// What a cancel request for a client must do just now.
#[derive(Debug, Default)]
pub enum CancelSlot {
    /// Nothing to cancel.
    #[default]
    Idle,
    /// The client waits for a server.
    Waiting,
    /// The client's settings are being replayed; a cancel is kept until its own request runs.
    Replaying {
        /// Where.
        server: Arc<ServerShared>,
        /// Whether one came.
        wanted: bool,
    },
    /// The client's requests run here.
    Running(Arc<ServerShared>),
}

/// Orders to a client's task.
pub mod order {
    /// End at once, with the error given.
    pub const END_NOW: u16 = 1;
    /// End when no transaction is open, with the error given.
    pub const END_IDLE: u16 = 2;
    /// Stop waiting for a server: the query was cancelled.
    pub const CANCEL_WAIT: u16 = 4;
    /// End when the query that runs has ended, transaction or not, with the error given.
    pub const END_QUERY: u16 = 8;
    /// See what is to be noted of the session.
    pub const WATCH: u16 = 16;
    /// Stand still: send what is there, and read nothing.
    pub const SUSPEND: u16 = 32;
    /// No order, but the client's answer: it stands still.
    pub const STANDS: u16 = 64;
    /// Send a notice that the client waits.
    pub const NOTIFY_WAIT: u16 = 128;
    /// Leave for the process that takes over, as soon as nothing of the session is anywhere but here.
    pub const DEPART: u16 = 256;
}

/// What others may know of a client, and tell it.
///
/// The first fields are those that each transaction touches: they stay together in memory.
#[derive(Debug)]
pub struct ClientShared {
    doing: Doing,
    /// What it uses.
    pub kind: ClientKind,
    requested: AtomicU64,
    transaction_since: AtomicU64,
    /// For cancel requests.
    pub cancel: Mutex<CancelSlot>,
    /// Its settings, `application_name` among them.
    pub settings: Mutex<Arc<Settings>>,
    /// As whom it logged in.
    pub user: UserName,
    /// To which database.
    pub database: DatabaseName,
    /// Since when, microseconds after 1970.
    connected: u64,
    end: Mutex<Option<Box<ClientError>>>,
    waker: OnceLock<Waker>,
    /// Its cancel key.
    pub key: CancelKey,
    /// Its number.
    pub id: ClientId,
    /// From where, to where.
    pub ends: Ends,
    /// Its encryption, if it has any.
    pub tls: Option<Cipher>,
}

/// What a client is doing, and is to do.
#[derive(Debug)]
#[repr(C)]
struct Doing {
    orders: AtomicU16,
    phase: AtomicU8,
    prepared: AtomicU32,
    since: AtomicU64,
}

/// Who logs in.
#[derive(Debug)]
pub struct Identity {
    /// As whom.
    pub user: UserName,
    /// To which database.
    pub database: DatabaseName,
    /// What it is going to use.
    pub kind: ClientKind,
    /// From where.
    pub peer: Peer,
    /// Socket's own address.
    pub local: Option<std::net::SocketAddr>,
    /// Its encryption, if it has any.
    pub tls: Option<Cipher>,
    /// Protocol version: decides the cancel key's length.
    pub protocol: u32,
}

impl ClientShared {
    /// From where.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.ends.peer()
    }

    /// When it logged in.
    #[must_use]
    pub fn connected(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.connected)
    }

    /// Notes what the client does from `since` on, microseconds after the start, see [`micros_since`].
    pub fn set_phase(&self, phase: Phase, since: u64) {
        self.doing.since.store(since, Ordering::Relaxed);
        // One that has waited has asked when it began to wait.
        let waited = self.doing.phase.load(Ordering::Relaxed) == Phase::Waiting as u8;
        if phase == Phase::Waiting || (phase == Phase::Active && !waited) {
            self.requested.store(since, Ordering::Relaxed);
        }
        self.doing.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// When it last asked for something; `None` before it ever did.
    #[must_use]
    pub fn last_request(&self, epoch: Instant) -> Option<Instant> {
        let micros = self.requested.load(Ordering::Relaxed);
        (micros > 0).then(|| epoch + Duration::from_micros(micros))
    }

    /// Notes that the console got a request.
    pub fn note_request(&self, now: Instant, epoch: Instant) {
        self.requested.store(micros_since(epoch, now), Ordering::Relaxed);
    }

    /// Notes how many named statements it has.
    pub fn note_prepared(&self, statements: usize) {
        self.doing.prepared.store(u32::try_from(statements).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// How many named statements it has.
    #[must_use]
    pub fn prepared(&self) -> u32 {
        self.doing.prepared.load(Ordering::Relaxed)
    }

    /// Notes that the client has a server from `since` on, microseconds after the start.
    pub fn begin_transaction(&self, since: u64) {
        self.transaction_since.store(since, Ordering::Relaxed);
    }

    /// For how long the client has had its server at `now`, if it has one.
    #[must_use]
    pub fn transaction_time(&self, now: Instant, epoch: Instant) -> Option<Duration> {
        let (phase, _) = self.phase(now, epoch);
        let since = epoch + Duration::from_micros(self.transaction_since.load(Ordering::Relaxed));
        matches!(phase, Phase::Active | Phase::IdleInTransaction).then(|| now.saturating_duration_since(since))
    }

    /// What the client does, and for how long at `now`.
    #[must_use]
    pub fn phase(&self, now: Instant, epoch: Instant) -> (Phase, Duration) {
        let phase = Phase::ALL[usize::from(self.doing.phase.load(Ordering::Relaxed))];
        let since = epoch + Duration::from_micros(self.doing.since.load(Ordering::Relaxed));
        (phase, now.saturating_duration_since(since))
    }

    /// Orders given so far.
    #[must_use]
    pub fn orders(&self) -> u16 {
        self.doing.orders.load(Ordering::Relaxed)
    }

    /// Takes an order back.
    pub fn clear_order(&self, order: u16) {
        self.doing.orders.fetch_and(!order, Ordering::AcqRel);
    }

    /// Tells the client to end, now or when it is idle, with `error`. The first reason given stays.
    pub fn end(&self, order: u16, error: ClientError) {
        self.end.lock().get_or_insert_with(|| Box::new(error));
        self.order(order);
    }

    /// Gives an order.
    pub fn order(&self, order: u16) {
        self.doing.orders.fetch_or(order, Ordering::AcqRel);
        self.wake();
    }

    /// Has its task look at its orders.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// The client's task says that it stands still.
    pub fn note_standing(&self) {
        self.doing.orders.fetch_or(order::STANDS, Ordering::AcqRel);
    }

    /// The error to end with.
    #[must_use]
    pub fn end_error(&self) -> Option<ClientError> {
        self.end.lock().as_deref().cloned()
    }

    /// What wakes its task.
    #[must_use]
    pub fn waker(&self) -> Option<&Waker> {
        self.waker.get()
    }

    /// Has orders wake this task. A task's waker is the same as long as it lives.
    pub fn wake_with(&self, waker: &Waker) {
        if self.waker.get().is_none() {
            // Lost only to itself.
            let _ = self.waker.set(waker.clone());
        }
    }
}

/// Microseconds from `epoch` to `now`.
#[must_use]
pub fn micros_since(epoch: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(epoch).as_micros()).unwrap_or(u64::MAX)
}

/// All clients.
#[derive(Debug, Default)]
pub struct Registry {
    clients: DashMap<u32, Arc<ClientShared>>,
    /// Connections that want a session, logged in or not.
    connections: AtomicU32,
    /// Those that have proved who they are.
    clients_admitted: AtomicU32,
    next_id: AtomicU64,
    /// The numbers that they get.
    pub numbering: Numbering,
}

/// A connection that wants a session; uncounted when dropped.
#[derive(Debug)]
pub struct Admission {
    context: Arc<crate::client::Context>,
    /// Up to its place in the registry.
    entrant: Option<Entrant>,
    is_client: bool,
}

impl Admission {
    /// Counts a connection, unless `max_client_conn` clients are there.
    #[must_use]
    pub fn new(entrant: Entrant, config: &Config) -> Option<Self> {
        let context = Arc::clone(entrant.context());
        let registry = &context.registry;
        if registry.clients_admitted.load(Ordering::Acquire) >= config.pooler.max_client_conn {
            return None;
        }
        registry.connections.fetch_add(1, Ordering::AcqRel);
        Some(Self { context, entrant: Some(entrant), is_client: false })
    }

    /// The context that counts it.
    #[must_use]
    pub const fn context(&self) -> &Arc<crate::client::Context> {
        &self.context
    }

    /// What keeps it from being closed for another.
    #[must_use]
    pub fn waiting(&self) -> Option<Arc<Waiting>> {
        self.entrant.as_ref().map(|entrant| Arc::clone(entrant.waiting()))
    }

    /// It has proved who it is: it counts as a client, unless `max_client_conn` are there by now.
    ///
    /// # Errors
    /// What it is told.
    pub fn proved(&mut self, config: &Config) -> Result<(), ClientError> {
        if let Some(entrant) = &self.entrant {
            entrant.proved();
        }
        let max = config.pooler.max_client_conn;
        let count = &self.context.registry.clients_admitted;
        let admitted = count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < max).then_some(n + 1));
        self.is_client = admitted.is_ok();
        admitted.map(drop).map_err(|_| Self::refusal())
    }

    /// What one is told for whom there is no room.
    #[must_use]
    pub fn refusal() -> ClientError {
        let text = "no more connections allowed (max_client_conn)";
        ClientError::fatal(SqlState::TOO_MANY_CONNECTIONS, text).hint("See max_client_conn.")
    }

    /// The registry counts it from now on.
    fn hand_over(mut self) -> Arc<crate::client::Context> {
        if !std::mem::replace(&mut self.is_client, true) {
            self.context.registry.clients_admitted.fetch_add(1, Ordering::AcqRel);
        }
        if let Some(entrant) = self.entrant.take() {
            entrant.hand_over();
        }
        // The counts stay: see the drop.
        self.is_client = false;
        self.context.registry.connections.fetch_add(1, Ordering::AcqRel);
        Arc::clone(&self.context)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let registry = &self.context.registry;
        registry.connections.fetch_sub(1, Ordering::AcqRel);
        if self.is_client {
            registry.clients_admitted.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// A registered client; removed when dropped.
#[derive(Debug)]
pub struct Registered {
    /// What others know of it.
    pub shared: Arc<ClientShared>,
    context: Arc<crate::client::Context>,
}

impl Registered {
    /// The context that it is registered in.
    #[must_use]
    pub const fn context(&self) -> &Arc<crate::client::Context> {
        &self.context
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let registry = &self.context.registry;
        registry.clients.remove(&self.shared.key.pid);
        registry.clients_admitted.fetch_sub(1, Ordering::AcqRel);
        registry.connections.fetch_sub(1, Ordering::AcqRel);
        self.context.door.uncount(self.shared.peer());
    }
}

/// See [`Registry::hold`].
#[derive(Debug)]
pub struct Held<'r>(&'r Registry);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Registry {
    /// Registers a client under a new random cancel key.
    #[must_use]
    pub fn register(admission: Admission, identity: Identity, settings: Arc<Settings>) -> Registered {
        let context = admission.hand_over();
        let registry = &context.registry;
        let mut rng = world::rng();
        let mut secret = [0u8; LONG_SECRET];
        let secret = &mut secret[..if identity.protocol >= PROTOCOL_3_2 { LONG_SECRET } else { 4 }];
        rng.fill(secret);
        super::peers::sign(secret, context.config.load().pooler.peer_id);
        loop {
            let pid = registry.numbering.pick(&mut rng);
            let dashmap::Entry::Vacant(vacant) = registry.clients.entry(pid) else { continue };
            let key = CancelKey { pid, secret: (&*secret).into() };
            let shared = registry.shared(identity, key, settings, world::time_of_day());
            vacant.insert(Arc::clone(&shared));
            drop(rng);
            return Registered { shared, context };
        }
    }

    /// Registers a client that comes from another process, with the key and the time of its login. `None` where somebody
    /// has its number already.
    #[must_use]
    pub fn adopt(
        context: &Arc<crate::client::Context>,
        identity: Identity,
        key: CancelKey,
        settings: Arc<Settings>,
        connected: SystemTime,
    ) -> Option<Registered> {
        let registry = &context.registry;
        registry.numbering.came(key.pid);
        let dashmap::Entry::Vacant(vacant) = registry.clients.entry(key.pid) else { return None };
        context.door.count_again(identity.peer);
        registry.connections.fetch_add(1, Ordering::AcqRel);
        registry.clients_admitted.fetch_add(1, Ordering::AcqRel);
        let shared = registry.shared(identity, key, settings, connected);
        vacant.insert(Arc::clone(&shared));
        Some(Registered { shared, context: Arc::clone(context) })
    }

    fn shared(
        &self,
        identity: Identity,
        key: CancelKey,
        settings: Arc<Settings>,
        connected: SystemTime,
    ) -> Arc<ClientShared> {
        Arc::new(ClientShared {
            id: ClientId(self.next_id.fetch_add(1, Ordering::Relaxed) + 1),
            key,
            user: identity.user,
            database: identity.database,
            kind: identity.kind,
            ends: Ends::new(identity.peer, identity.local),
            tls: identity.tls,
            connected: connected
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX)),
            settings: Mutex::new(settings),
            cancel: Mutex::default(),
            doing: Doing {
                orders: AtomicU16::new(0),
                phase: AtomicU8::new(Phase::Login as u8),
                prepared: AtomicU32::new(0),
                since: AtomicU64::new(0),
            },
            requested: AtomicU64::new(0),
            transaction_since: AtomicU64::new(0),
            end: Mutex::default(),
            waker: OnceLock::new(),
        })
    }

    /// The numbers of all clients, those that other processes have among them.
    #[must_use]
    pub fn numbers(&self) -> Vec<u32> {
        self.clients.iter().map(|client| *client.key()).chain(self.numbering.elsewhere()).collect()
    }

    /// While this lives, one connection more is counted: one that is counted anew isn't missed in between.
    #[must_use]
    pub fn hold(&self) -> Held<'_> {
        self.connections.fetch_add(1, Ordering::AcqRel);
        Held(self)
    }

    /// The client that a cancel request names, if the secret is right.
    #[must_use]
    pub fn find(&self, key: &CancelKey) -> Option<Arc<ClientShared>> {
        let client = self.clients.get(&key.pid)?;
        let same = subtle::ConstantTimeEq::ct_eq(&*client.key.secret, &*key.secret);
        bool::from(same).then(|| Arc::clone(&client))
    }

    /// The client that was given this process number.
    #[must_use]
    pub fn numbered(&self, number: u32) -> Option<Arc<ClientShared>> {
        self.clients.get(&number).map(|client| Arc::clone(&client))
    }

    /// The client with this number. Looks through all of them.
    #[must_use]
    pub fn find_by_id(&self, id: ClientId) -> Option<Arc<ClientShared>> {
        self.clients.iter().find(|client| client.id == id).map(|client| Arc::clone(&client))
    }

    /// All clients.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<ClientShared>> {
        let mut clients: Vec<_> = self.clients.iter().map(|c| Arc::clone(&c)).collect();
        clients.sort_by_key(|c| c.id);
        clients
    }

    /// Calls `f` with each client, in no order.
    pub fn for_each(&self, mut f: impl FnMut(&ClientShared)) {
        self.clients.iter().for_each(|c| f(&c));
    }

    /// Connections counted, those logging in among them.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Acquire)
    }

    /// How many clients of this user and of this database there are.
    #[must_use]
    pub fn counts(&self, user: &UserName, database: &DatabaseName) -> (u32, u32) {
        let mut counts = (0, 0);
        self.for_each(|c| {
            counts.0 += u32::from(c.user == *user);
            counts.1 += u32::from(c.database == *database);
        });
        counts
    }
}
