//! The one connection that listens for all clients of a pool: a lease held by a task that lives as long as anybody
//! listens. [`Hub`] keeps the books.
//!
//! Invariant: its server never goes back to the pool, since it has the notifications of others; it is closed.

use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::RngExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tracing::{debug, info, warn};

use super::sharing::Asker;
use super::{Checkout, Lease, Pool, PoolUser};
use crate::error::{ClientError, SqlState};
use crate::names::ClientId;
use crate::net::timer;
use crate::net::world;
use crate::protocol::listen::hub::{Due, Hub};
use crate::protocol::listen::{self, Channel, Mailbox};
use crate::protocol::session::Taint;
use crate::server::{QueryError, Server};
use crate::wire::backend::{self, tag};
use crate::wire::frame;
use crate::wire::frontend;

/// The connection's `application_name`.
pub const NAME: &str = "carpool listener";
/// The fewest servers of a pool, and that one user may have, that it is taken from: one that listens, one for a
/// client that keeps its own meanwhile, one for all others.
const FEWEST_SERVERS: u32 = 3;
/// The fewest servers that may be kept between transactions, it being one.
const FEWEST_PINNED: u32 = 2;
/// How long it may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may be silent before it is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(30);
/// The first pause after it was lost; it doubles up to `server_login_retry`.
const FIRST_RETRY: Duration = Duration::from_millis(50);

/// What a pool's clients and its listening connection share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    hub: Hub<Arc<PoolUser>>,
    /// A task is there.
    running: bool,
    /// It has a server.
    served: bool,
    /// The connection's `client_encoding` while it is up.
    encoding: Option<String>,
    /// It counts among the servers kept between transactions once a client has parted with its permit.
    permit: Option<OwnedSemaphorePermit>,
}

impl Shared {
    /// Of the database `name`.
    pub(super) fn new(name: &str) -> Self {
        // Not to be guessed: who sent a marker could have notifications go astray.
        let marker = format!("carpool_{:032x}", world::rng().random::<u128>());
        let hub = Hub::new(marker.into_bytes().into(), notice(name, None));
        let state = State { hub, running: false, served: false, encoding: None, permit: None };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    /// Has the task look what has changed.
    pub(super) fn look(&self) {
        self.changed.notify_one();
    }
}

/// Whether the listening connection has the channels that a client wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Has {
    /// It listens to them.
    All,
    /// It will, and wakes the client then.
    Soon,
    /// It isn't there. Once it is and has them, it wakes the client.
    Later,
    /// It can't serve this client.
    Never,
}

impl Pool {
    /// A mailbox of the task that `waker` wakes.
    #[must_use]
    pub fn mailbox(&self, waker: &Waker) -> Arc<Mailbox> {
        let marker = Arc::clone(self.listening.state.lock().hub.marker());
        Arc::new(Mailbox::new(waker.clone(), marker))
    }

    /// Whether the pool can spare a connection that listens, logged in as this user.
    fn can_listen(&self, user: &PoolUser) -> bool {
        let spec = self.spec.load();
        let roomy =
            spec.max_pinned >= FEWEST_PINNED && spec.auto.map_or(spec.limits.size, |auto| auto.least) >= FEWEST_SERVERS;
        // What goes to another process is missing for a while; those who listen stay until they leave.
        let has_room = self.control.is_ceding() || self.queue.lock().most_of(user.index) >= FEWEST_SERVERS;
        roomy && !self.is_retired() && has_room
    }

    /// A client wants the listening connection to have these channels.
    pub fn want_channels(
        self: &Arc<Self>,
        client: ClientId,
        mailbox: &Arc<Mailbox>,
        user: &Arc<PoolUser>,
        channels: &[Channel],
        encoding: Option<&str>,
    ) -> Has {
        if !self.can_listen(user) {
            return Has::Never;
        }
        let mut state = self.listening.state.lock();
        if state.encoding.is_some() && state.encoding.as_deref() != encoding {
            return Has::Never;
        }
        let has = state.hub.want(client.0, mailbox, user, channels);
        self.start(&mut state);
        match (has, state.hub.is_up()) {
            (true, _) => Has::All,
            (false, true) => Has::Soon,
            (false, false) => Has::Later,
        }
    }

    /// Whether the listening connection, should it not be there, will have a server though nobody gives one back.
    #[must_use]
    pub fn will_listen(&self, user: &PoolUser) -> bool {
        let served = self.listening.state.lock().served;
        served || self.may_login(world::now()) && self.queue.lock().has_one_for(user.index)
    }

    /// Whether the listening connection is there for a client that reads this encoding.
    #[must_use]
    pub fn is_listening(&self, encoding: Option<&str>) -> bool {
        let state = self.listening.state.lock();
        state.hub.is_up() && state.encoding.as_deref() == encoding
    }

    /// A client comes over from a pool that is gone. Says whether it may.
    pub fn adopt_listener(
        self: &Arc<Self>,
        client: ClientId,
        mailbox: &Arc<Mailbox>,
        user: &Arc<PoolUser>,
        channels: &[Channel],
    ) -> bool {
        if !self.can_listen(user) {
            return false;
        }
        let mut state = self.listening.state.lock();
        state.hub.adopt(client.0, mailbox, user, channels);
        self.start(&mut state);
        true
    }

    fn start(self: &Arc<Self>, state: &mut State) {
        if !std::mem::replace(&mut state.running, true) {
            world::spawn(run(Arc::clone(self)));
        }
        self.listening.look();
    }

    /// From a marker on the client gets `channels` from the listening connection: gives what it says.
    #[must_use]
    pub fn will_enter(&self, client: ClientId, channels: &[Channel]) -> u64 {
        let nonce = world::rng().random();
        self.listening.state.lock().hub.will_enter(nonce, client.0, channels.to_vec());
        nonce
    }

    /// From a marker on the client gets nothing from the listening connection: gives what it says, unless the
    /// client isn't known there.
    #[must_use]
    pub fn will_leave(&self, client: ClientId) -> Option<u64> {
        let nonce = world::rng().random();
        self.listening.state.lock().hub.will_leave(nonce, client.0).then_some(nonce)
    }

    /// The client's server has delivered a marker.
    pub fn marker_passed(&self, nonce: u64) {
        self.listening.state.lock().hub.passed(nonce, world::now());
        self.listening.look();
    }

    /// A marker could not be sent.
    pub fn marker_failed(&self, nonce: u64) {
        self.listening.state.lock().hub.cancel(nonce);
    }

    /// A client is about to do something: see [`Hub::fall_behind`].
    #[must_use]
    pub fn fall_behind(&self, client: ClientId) -> bool {
        let waits = self.listening.state.lock().hub.fall_behind(client.0);
        if waits {
            self.listening.look();
        }
        waits
    }

    /// A client parts with its permit to keep a server: the listening connection needs one.
    pub fn give_permit(&self, permit: OwnedSemaphorePermit) {
        let mut state = self.listening.state.lock();
        if state.running && state.permit.is_none() {
            state.permit = Some(permit);
        }
    }

    /// Whether the listening connection reads this `client_encoding`, as far as is known.
    #[must_use]
    pub fn listens_in(&self, encoding: Option<&str>) -> bool {
        let state = self.listening.state.lock();
        state.encoding.is_none() || state.encoding.as_deref() == encoding
    }

    /// A client listens no more.
    pub fn unlisten(&self, client: ClientId) {
        self.listening.state.lock().hub.remove(client.0);
        self.listening.look();
    }

    /// All clients must look for another listening connection.
    pub(super) fn stop_listening(&self) {
        self.listening.state.lock().hub.dissolve();
        self.listening.look();
    }

    /// Whether the task may end; then it counts as ended.
    fn nobody_listens(&self) -> bool {
        let users: Vec<_> = self.listening.state.lock().hub.users().take(1).cloned().collect();
        if users.first().is_some_and(|user| !self.can_listen(user)) {
            self.stop_listening();
        }
        let mut state = self.listening.state.lock();
        if !state.hub.is_empty() {
            return false;
        }
        state.running = false;
        state.permit = None;
        state.encoding = None;
        true
    }
}

/// Why the connection is no longer there.
#[derive(Debug, thiserror::Error)]
enum Lost {
    /// A query failed, or the connection.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// A malformed message.
    #[error(transparent)]
    Frame(#[from] frame::FrameError),
    /// It could not be had.
    #[error("{0}")]
    Login(ClientError),
    /// PAUSE or RECONNECT: it makes way, and another one takes its place in time.
    #[error("its server is to be closed")]
    Outdated,
    /// It has not given a marker that others have.
    #[error("a notification that others have did not come within {ANSWER_TIMEOUT:?}")]
    Silent,
}

impl From<std::io::Error> for Lost {
    fn from(error: std::io::Error) -> Self {
        Self::Query(error.into())
    }
}

/// The task: has a connection for as long as anybody listens.
async fn run(pool: Arc<Pool>) {
    let (mut attempt, mut lost, mut pause) = (0, None, FIRST_RETRY);
    while !pool.nobody_listens() {
        attempt += 1;
        let ended = match connect(&pool, attempt).await {
            Ok(None) => continue,
            Ok(Some(lease)) => {
                pool.listening.state.lock().served = true;
                let mut connection = Connection { pool: &pool, lease, buf: Vec::new(), up: false, heard: world::now() };
                let ended = connection.serve(lost).await;
                let was_up = connection.up;
                connection.lease.close();
                pool.listening.state.lock().served = false;
                if was_up {
                    (lost, pause) = (None, FIRST_RETRY);
                }
                ended
            }
            Err(error) => Err(error),
        };
        let Err(error) = ended else { continue };
        warn!(database = %pool.name, "the connection that listens for clients is not there: {error}");
        lost = lost.or(Some(world::now()));
        pool.lose_listener();
        timer::sleep(pause).await;
        pause = (pause * 2).min(pool.spec.load().login_retry.max(FIRST_RETRY));
    }
}

/// A server as the pool gives it, in turn with clients; `None` when nobody listens any more.
async fn connect(pool: &Arc<Pool>, attempt: usize) -> Result<Option<Lease>, Lost> {
    let users: Vec<_> = pool.listening.state.lock().hub.users().cloned().collect();
    let Some(user) = users.get(attempt % users.len().max(1)) else { return Ok(None) };
    let mut granted = match pool.checkout(user, &Asker::itself(ClientId::LISTENER), world::now()) {
        Checkout::Now(lease) => return Ok(Some(lease)),
        Checkout::Wait(granted) => granted,
    };
    loop {
        tokio::select! {
            grant = &mut granted => return match grant {
                Ok(Ok(lease)) => Ok(Some(lease)),
                Ok(Err(error)) => Err(Lost::Login(error)),
                Err(_) => Ok(None),
            },
            () = pool.listening.changed.notified() => {
                if pool.listening.state.lock().hub.is_empty() {
                    return Ok(None);
                }
            }
        }
    }
}

struct Connection<'a> {
    pool: &'a Arc<Pool>,
    lease: Lease,
    buf: Vec<u8>,
    /// It listens to what was wanted when it came.
    up: bool,
    /// When it last said something.
    heard: Instant,
}

/// A query under way: what it changes, and since when.
struct Asked {
    listen: Vec<Channel>,
    since: Instant,
}

impl Connection<'_> {
    fn server(&mut self) -> Result<&mut Server, Lost> {
        // A lease has one until it is dropped.
        self.lease.server().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected).into())
    }

    /// Makes it the listening connection, whoever had the server before.
    async fn set_up(&mut self) -> Result<(), Lost> {
        let (pool, marker) = (self.pool, Arc::clone(self.pool.listening.state.lock().hub.marker()));
        let server = self.server()?;
        server.state.touched |= Taint::Lasting;
        let settings = &pool.tables.settings;
        server.reset("DISCARD ALL", settings, ANSWER_TIMEOUT).await?;
        let own = format!(
            "SET application_name TO '{NAME}'; SELECT pg_catalog.set_config(name,'0',false) FROM pg_catalog.pg_settings \
             WHERE name IN ('idle_session_timeout','statement_timeout');"
        );
        server.query(&own, settings, ANSWER_TIMEOUT).await?;
        let encoding = server.state.settings.get("client_encoding").map(str::to_owned);
        let listen = String::from_utf8_lossy(&listen::listen(&[(*marker).into()])).into_owned();
        server.query(&listen, settings, ANSWER_TIMEOUT).await?;
        self.buf = std::mem::take(&mut server.carry);
        pool.listening.state.lock().encoding = encoding;
        Ok(())
    }

    /// Delivers notifications until nobody listens or the connection is lost. `lost`: since when there was none.
    async fn serve(&mut self, lost: Option<Instant>) -> Result<(), Lost> {
        self.set_up().await?;
        let missed = {
            let mut state = self.pool.listening.state.lock();
            state.hub.returns(notice(self.pool.name.as_str(), lost));
            state.hub.missed()
        };
        let mut asked: Option<Asked> = None;
        let mut chunk = vec![0u8; 8192];
        loop {
            if asked.is_none() {
                if self.pool.nobody_wants() {
                    return Ok(());
                }
                if self.lease.server().is_some_and(|server| self.pool.is_outdated(&server.shared)) {
                    return Err(Lost::Outdated);
                }
                asked = self.tell().await?;
            }
            let until = self.deadline(asked.as_ref());
            let pool = self.pool;
            let n = tokio::select! {
                n = self.server()?.stream.read(&mut chunk) => n?,
                () = pool.listening.changed.notified() => continue,
                () = timer::sleep_until(until) => {
                    self.overdue(&mut asked).await?;
                    continue;
                }
            };
            if n == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
            self.heard = world::now();
            self.buf.extend_from_slice(&chunk[..n]);
            let answered = self.take_messages()?;
            if let Some(asked) = asked.take_if(|_| answered) {
                self.note_listening(asked.listen, &missed, lost);
            }
        }
    }

    /// Tells the server what is due, if anything is.
    async fn tell(&mut self) -> Result<Option<Asked>, Lost> {
        let Due { listen, unlisten, answer } = self.pool.listening.state.lock().hub.due();
        let as_it_was = listen.is_empty() && unlisten.is_empty();
        if as_it_was && !answer && self.up {
            return Ok(None);
        }
        if !as_it_was {
            debug!(database = %self.pool.name, "listening to {} more channels, {} less", listen.len(), unlisten.len());
        }
        let text = [listen::unlisten(&unlisten), listen::listen(&listen)].concat();
        self.ask(&text).await?;
        Ok(Some(Asked { listen, since: world::now() }))
    }

    async fn ask(&mut self, text: &[u8]) -> Result<(), Lost> {
        let mut message = Vec::new();
        frontend::put_query(&mut message, text);
        let send = self.server()?.stream.write_all(&message);
        let late = |_| QueryError::Timeout(ANSWER_TIMEOUT);
        timer::timeout(ANSWER_TIMEOUT, send).await.map_err(late)??;
        Ok(())
    }

    fn deadline(&self, asked: Option<&Asked>) -> Instant {
        let owes = self.pool.listening.state.lock().hub.owes_since();
        let answer = asked.map(|a| a.since).into_iter().chain(owes).min().map(|since| since + ANSWER_TIMEOUT);
        answer.unwrap_or(self.heard + SILENCE)
    }

    /// A deadline has passed.
    async fn overdue(&mut self, asked: &mut Option<Asked>) -> Result<(), Lost> {
        if asked.is_some() {
            return Err(QueryError::Timeout(ANSWER_TIMEOUT).into());
        }
        if self.pool.listening.state.lock().hub.owes_since().is_some() {
            return Err(Lost::Silent);
        }
        self.ask(b"").await?;
        *asked = Some(Asked { listen: Vec::new(), since: world::now() });
        Ok(())
    }

    /// Takes the messages that are there. Says whether the query under way has ended.
    fn take_messages(&mut self) -> Result<bool, Lost> {
        let (mut at, mut answered) = (0, false);
        let mut state = self.pool.listening.state.lock();
        while let Some((header, body)) = frame::whole(&self.buf[at..])? {
            match header.tag {
                tag::NOTIFICATION_RESPONSE => state.hub.deliver(&backend::notification(body)?),
                tag::READY_FOR_QUERY => answered = true,
                tag::ERROR_RESPONSE => {
                    let text = |field| String::from_utf8_lossy(backend::error_field(body, field).unwrap_or_default());
                    let (code, message) = (text(b'C').into_owned(), text(b'M').into_owned());
                    return Err(QueryError::Refused { code, message }.into());
                }
                _ => {}
            }
            at += header.total_len();
        }
        drop(state);
        self.buf.drain(..at);
        Ok(answered)
    }

    /// It listens to these, too. The first time, those who may have missed something are told.
    fn note_listening(&mut self, channels: Vec<Channel>, missed: &[u64], lost: Option<Instant>) {
        let mut state = self.pool.listening.state.lock();
        state.hub.listens(channels);
        state.hub.answered();
        if std::mem::replace(&mut self.up, true) {
            return;
        }
        let told = state.hub.restored(missed);
        drop(state);
        match lost {
            Some(since) if told > 0 => {
                warn!(database = %self.pool.name, "listening again after {:.3} s: {told} clients may have missed notifications", world::now().saturating_duration_since(since).as_secs_f64());
            }
            _ => info!(database = %self.pool.name, "listening for clients"),
        }
    }
}

impl Pool {
    /// The connection is gone.
    fn lose_listener(&self) {
        let mut state = self.listening.state.lock();
        state.hub.lost();
        state.encoding = None;
    }

    /// As [`Pool::nobody_listens`], for a task with a connection: that counts as gone.
    fn nobody_wants(&self) -> bool {
        let mut state = self.listening.state.lock();
        let user = state.hub.users().next().cloned();
        if user.is_none() {
            state.hub.lost();
            state.encoding = None;
        }
        drop(state);
        user.is_none_or(|user| !self.can_listen(&user))
    }
}

/// What clients are told that may have missed something.
fn notice(database: &str, lost: Option<Instant>) -> Arc<[u8]> {
    let time = lost.map_or_else(String::new, |since| {
        format!(" for {:.3} s, until now", world::now().saturating_duration_since(since).as_secs_f64())
    });
    let warning = ClientError::error(SqlState::WARNING, "notifications may have been lost")
        .detail(format!("The connection that listens for the clients of database \"{database}\" was not there{time}."))
        .hint("Look at the data that the notifications are about.");
    let mut out = Vec::new();
    backend::put_warning(&mut out, &warning);
    out.into()
}
