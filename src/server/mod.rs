//! Layer 4: one PostgreSQL connection: logging in, being reset, being cancelled, ending.
//!
//! Invariant: a [`Server`] is idle and clean, or on loan to one client, or on its way out; which of them is the
//! pool's business.

pub mod ask;
pub mod cancel;
pub mod carried;
pub mod connect;
pub mod encrypt;
pub mod pins;
pub mod timing;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::names::{ClientId, ServerId, UserName};
use crate::net::Target;
use crate::net::stream::Stream;
use crate::net::timer;
use crate::protocol::ServerState;
use crate::protocol::pipeline::{Kind, Request, ServerUndo};
use crate::protocol::settings::{IN_HOT_STANDBY, Settings, SettingsTable, follows_client};
use crate::stats::Counters;
use crate::stats::statements::Entry;
use crate::wire::backend::{self, TransactionStatus, tag};
use crate::wire::frame::{self, FrameError};
use crate::wire::frontend;
use crate::wire::startup::CancelKey;

/// How long a server may take to hang up after Terminate before its slot is used again anyway.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Local and remote, where they are of TCP.
type Addresses = (Option<std::net::SocketAddr>, Option<std::net::SocketAddr>);

/// What others may know of a server: counters, for SHOW SERVERS and for cancels. Written by whoever has the
/// server on loan, one at a time.
///
/// In this order in memory: what each transaction touches is together.
#[derive(Debug)]
#[repr(C)]
pub struct ServerShared {
    /// Who has it, since when.
    pub holder: Mutex<Option<Holder>>,
    /// Cancel requests on their way to it. It changes hands only at 0.
    pub cancels: AtomicU32,
    /// Named statements that it has.
    pub prepared: AtomicU32,
    /// The pool's generation in which its login began: when that is over it closes as soon as it comes free.
    pub generation: u32,
    /// A cancel request for it was sent whose end nobody saw, or a client has named its process to have it signalled: it
    /// must not change hands any more.
    pub doomed: AtomicBool,
    /// A cancel request for it was begun, ever.
    pub was_cancelled: AtomicBool,
    /// Its place in the list of hosts.
    pub host: u8,
    /// Statistics.
    pub counters: Counters,
    /// Its number.
    pub id: ServerId,
    /// Where it is.
    pub target: Target,
    /// Who it is logged in as.
    pub user: UserName,
    /// For cancel requests.
    pub key: CancelKey,
    /// Local and remote address (TCP).
    pub addresses: Addresses,
    /// Its encryption, if it has any.
    pub encryption: Option<encrypt::Encryption>,
    /// When it was logged in.
    pub connected: SystemTime,
    /// Why its holder keeps it between transactions.
    pub pinned: pins::PinRecord,
}

/// Who has a server on loan.
#[derive(Clone, Debug)]
pub struct Holder {
    /// The client.
    pub client: ClientId,
    /// Since when.
    pub since: Instant,
    /// What it has begun last, where that is tracked (`track_statements`). It goes with the loan.
    pub statement: Option<Arc<Entry>>,
}

impl ServerShared {
    /// Of a server that was logged in to there, as that user, in that generation, without TLS and on the first host.
    fn new(
        (target, user, generation): (Target, UserName, u32),
        key: CancelKey,
        addresses: Addresses,
        connected: SystemTime,
    ) -> Self {
        Self {
            holder: None.into(),
            cancels: 0.into(),
            prepared: 0.into(),
            generation,
            doomed: false.into(),
            was_cancelled: false.into(),
            host: 0,
            counters: Counters::default(),
            id: connect::next_id(),
            target,
            user,
            key,
            addresses,
            encryption: None,
            connected,
            pinned: pins::PinRecord::default(),
        }
    }

    /// Notes what its holder has begun.
    pub fn note_statement(&self, statement: &Arc<Entry>) {
        if let Some(holder) = &mut *self.holder.lock() {
            holder.statement = Some(Arc::clone(statement));
        }
    }

    /// Notes how many named statements it has.
    pub fn note_prepared(&self, statements: usize) {
        self.prepared.store(u32::try_from(statements).unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}

/// Bytes that a socket didn't take at once.
#[derive(Debug, Default)]
pub struct Outbox(Option<Box<Unsent>>);

/// Apart, since nearly all outboxes are empty at any time.
#[derive(Debug, Default)]
struct Unsent {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outbox {
    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|unsent| unsent.bytes.is_empty())
    }

    /// Adds bytes behind those that wait.
    pub fn push(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.buffer().extend_from_slice(bytes);
        }
    }

    /// The vector to append to.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.0.get_or_insert_default().bytes
    }

    /// What waits.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |unsent| &unsent.bytes[unsent.sent..])
    }

    /// `n` bytes of it were sent. The memory goes when nothing is left.
    pub fn advance(&mut self, n: usize) {
        let Some(unsent) = &mut self.0 else { return };
        unsent.sent += n;
        if unsent.sent >= unsent.bytes.len() {
            self.0 = None;
        }
    }
}

/// The part of a message that is still to come and goes the way its beginning went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Remainder {
    /// Bytes.
    pub bytes: usize,
    /// Whether they go on.
    pub forward: bool,
}

/// One PostgreSQL connection. In this order in memory: what each transaction touches is together.
#[derive(Debug)]
#[repr(C)]
pub struct Server {
    /// The socket.
    pub stream: Stream,
    /// Of the message being read.
    pub remainder: Remainder,
    /// Bytes read and not yet taken: the start of a message.
    pub carry: Vec<u8>,
    /// Bytes not yet sent.
    pub out: Outbox,
    /// What others may know.
    pub shared: Arc<ServerShared>,
    /// When it is to be replaced.
    pub expires: Option<Instant>,
    /// Of the transaction that runs on it.
    pub timing: timing::Timing,
    /// What was sent to it last ends within a message, as whoever sent it has left.
    pub cut: bool,
    /// The protocol's state.
    pub state: ServerState,
}

/// A reply that a query of Carpool's own must not get.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The socket failed.
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
    /// A malformed message.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The server refused it.
    #[error("{message}")]
    Refused {
        /// SQLSTATE.
        code: String,
        /// In the server's words.
        message: String,
    },
    /// It took too long.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

impl Server {
    /// One with nothing under way.
    fn new(stream: Stream, state: ServerState, shared: ServerShared, expires: Option<Instant>) -> Self {
        Self {
            stream,
            remainder: Remainder::default(),
            carry: Vec::new(),
            out: Outbox::default(),
            shared: Arc::new(shared),
            expires,
            timing: timing::Timing::default(),
            cut: false,
            state,
        }
    }

    /// Whether it may go to another client as it is.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.state.pipeline.is_idle() && self.is_at_boundary() && self.state.left().is_empty()
    }

    /// No message is half read or half sent.
    #[must_use]
    pub fn is_at_boundary(&self) -> bool {
        self.remainder.bytes == 0 && self.carry.is_empty() && self.out.is_empty()
    }

    /// Runs a query of Carpool's own on a server at a message boundary and waits for its end; settings that the
    /// server reports are noted.
    ///
    /// # Errors
    /// After any, the server must be closed.
    pub async fn query(&mut self, sql: &str, settings: &SettingsTable, timeout: Duration) -> Result<(), QueryError> {
        self.query_with_notices(sql, settings, timeout).await.map(drop)
    }

    /// As [`Server::query`]; gives the notices that it brings, as whole messages.
    ///
    /// # Errors
    /// As [`Server::query`].
    pub async fn query_with_notices(
        &mut self,
        sql: &str,
        settings: &SettingsTable,
        timeout: Duration,
    ) -> Result<Vec<u8>, QueryError> {
        let run = self.run_query(sql, settings);
        timer::timeout(timeout, run).await.unwrap_or(Err(QueryError::Timeout(timeout)))
    }

    async fn run_query(&mut self, sql: &str, settings: &SettingsTable) -> Result<Vec<u8>, QueryError> {
        let mut message = Vec::new();
        if sql.is_empty() {
            frontend::put_empty(&mut message, frontend::tag::SYNC);
        } else {
            frontend::put_query(&mut message, sql.as_bytes());
            // A simple query drops it.
            self.state.statements.unnamed = None;
        }
        let kind = if sql.is_empty() { Kind::Sync } else { Kind::Query };
        let mut notices = Vec::new();
        let each = |tag, body: &[u8]| {
            if tag == tag::NOTICE_RESPONSE {
                frame::message(&mut notices, tag::NOTICE_RESPONSE, |b| b.extend_from_slice(body));
            }
            Ok(())
        };
        self.exchange(&message, kind, settings, each).await?;
        Ok(notices)
    }

    /// Sends requests of Carpool's own that end in one ReadyForQuery, and reads up to it. Errors and parameters are
    /// seen to; other messages are shown to `each`, by tag and body.
    async fn exchange(
        &mut self,
        message: &[u8],
        kind: Kind,
        settings: &SettingsTable,
        mut each: impl FnMut(u8, &[u8]) -> Result<(), FrameError>,
    ) -> Result<(), QueryError> {
        self.state.pipeline.push(Request::skip(kind, ServerUndo::None));
        self.stream.write_all(message).await?;
        let mut refused = None;
        let mut buf = std::mem::take(&mut self.carry);
        loop {
            let (header, body) = next_message(&mut self.stream, &mut buf).await?;
            match header.tag {
                tag::READY_FOR_QUERY => {
                    let status = backend::ready_for_query(&body)?;
                    self.state.pipeline.ready(status).map_err(|_| FrameError::Body(tag::READY_FOR_QUERY))?;
                    self.state.settle();
                    break;
                }
                tag::ERROR_RESPONSE => {
                    let text = |field| {
                        String::from_utf8_lossy(backend::error_field(&body, field).unwrap_or_default()).into_owned()
                    };
                    refused = Some(QueryError::Refused { code: text(b'C'), message: text(b'M') });
                }
                tag::PARAMETER_STATUS => self.note_parameter(&body, settings)?,
                tag => each(tag, &body)?,
            }
        }
        self.carry = buf;
        refused.map_or(Ok(()), Err)
    }

    fn note_parameter(&mut self, body: &[u8], settings: &SettingsTable) -> Result<(), FrameError> {
        let (name, value) = backend::parameter_status(body)?;
        if let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) {
            self.state.promoted |= name == IN_HOT_STANDBY;
            if follows_client(name) && self.state.settings.get(name) != Some(value) {
                self.state.settings = settings.intern(self.state.settings.with_reported(name, value));
            }
        }
        Ok(())
    }

    /// Ends an open transaction.
    ///
    /// # Errors
    /// As [`Server::query`].
    pub async fn rollback(&mut self, settings: &SettingsTable, timeout: Duration) -> Result<(), QueryError> {
        if self.state.pipeline.status() == TransactionStatus::Idle {
            return Ok(());
        }
        self.query("ROLLBACK", settings, timeout).await
    }

    /// Brings the session back to what it was after login, by `DISCARD ALL` or whatever the configuration says.
    ///
    /// # Errors
    /// As [`Server::query`].
    pub async fn reset(&mut self, sql: &str, settings: &SettingsTable, timeout: Duration) -> Result<(), QueryError> {
        self.query(sql, settings, timeout).await?;
        if self.state.pipeline.status() != TransactionStatus::Idle {
            let message = "server_reset_query left a transaction open".into();
            return Err(QueryError::Refused { code: "25001".into(), message });
        }
        let left: Settings = self.state.settings.only_reported();
        self.state.settings = settings.intern(left);
        self.state.statements.clear_named();
        self.state.statements.unnamed = None;
        self.state.discarded();
        self.state.listens = None;
        // One that the configuration names may leave these.
        let words: String = sql.to_ascii_lowercase().split_whitespace().collect();
        if !["discardall", "discardsequences"].iter().any(|forgets| words.contains(forgets)) {
            self.state.sequences.distrust();
        }
        Ok(())
    }

    /// Says goodbye and waits until the server has hung up, so that it is gone from PostgreSQL's own count
    /// before its slot is used again. One that doesn't hang up in time is left to itself: says whether it did.
    pub async fn close(mut self) -> bool {
        timer::timeout(CLOSE_TIMEOUT, self.goodbye()).await.is_ok()
    }

    /// Says goodbye and waits until the server has hung up. May be cancelled and called again.
    pub async fn goodbye(&mut self) {
        // Behind a part of a message it would be taken for the rest of that, and a request run that nobody has made.
        if !self.cut && self.out.is_empty() {
            let mut message = Vec::new();
            frontend::put_empty(&mut message, frontend::tag::TERMINATE);
            // Fails where it was said before, or nobody listens any more: reading will tell.
            let _ = self.stream.write_all(&message).await;
        }
        let _ = self.stream.shutdown().await;
        // An error is an end as well.
        let _ = tokio::io::copy(&mut self.stream, &mut tokio::io::sink()).await;
    }
}

/// Reads one whole message; `buf` holds what was read beyond it.
async fn next_message(stream: &mut Stream, buf: &mut Vec<u8>) -> Result<(frame::Header, Vec<u8>), QueryError> {
    loop {
        if let Some((header, body)) = frame::whole(buf)? {
            let body = body.to_vec();
            buf.drain(..header.total_len());
            return Ok((header, body));
        }
        if buf.len() > LOGIN_MESSAGE_LIMIT {
            return Err(FrameError::Body(buf[0]).into());
        }
        buf.reserve(4096);
        if stream.read_buf(buf).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

/// The longest message that a login or a query of Carpool's own may bring, bytes.
const LOGIN_MESSAGE_LIMIT: usize = 1024 * 1024;
