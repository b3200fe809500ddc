//! Requests in flight on one server and the replies still owed for them.
//!
//! What is owed, and whether the client is to see it, is recorded when a request goes out; replies are matched
//! from the front and never edited afterwards. A request that the server will not carry out (it skips all up to
//! Sync after an error) takes its effects back through its [`Undo`].
//!
//! <https://www.postgresql.org/docs/current/protocol-flow.html>

pub mod loss;

use std::collections::VecDeque;
use std::num::NonZero;
use std::sync::Arc;

use super::own::Refusal;
use super::statements::{Named, Shape, Statement};
use crate::wire::backend::{TransactionStatus, tag};

/// A request by the replies that end it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// ParseComplete.
    Parse,
    /// BindComplete.
    Bind,
    /// ParameterDescription, then RowDescription or NoData.
    DescribeStatement,
    /// RowDescription or NoData.
    DescribePortal,
    /// CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// CloseComplete.
    Close,
    /// ReadyForQuery.
    Sync,
    /// Anything, then ReadyForQuery.
    Query,
    /// FunctionCallResponse, then ReadyForQuery.
    FunctionCall,
    /// Nothing: marks where in the stream a CopyDone or CopyFail went.
    CopyEnd,
}

impl Kind {
    /// Whether this reply is the last one, of requests that don't end in ReadyForQuery.
    const fn ends_with(self, message: u8) -> bool {
        matches!(
            (self, message),
            (Self::Parse, tag::PARSE_COMPLETE)
                | (Self::Bind, tag::BIND_COMPLETE)
                | (Self::Close, tag::CLOSE_COMPLETE)
                | (Self::DescribeStatement | Self::DescribePortal, tag::ROW_DESCRIPTION | tag::NO_DATA)
                | (Self::Execute, tag::COMMAND_COMPLETE | tag::EMPTY_QUERY_RESPONSE | tag::PORTAL_SUSPENDED)
        )
    }
}

/// What becomes of the replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// The client gets them.
    Forward,
    /// The request was Carpool's own: the client sees nothing of it, unless it fails, which then is the
    /// failure of the client's next request.
    Skip,
    /// The request was not sent; the client gets this message type, with an empty body, in its place.
    Insert(u8),
}

/// What a request changed in the records when it was sent.
#[derive(Debug, Default)]
pub struct Undo {
    /// The client's side.
    pub client: ClientUndo,
    /// The server's side.
    pub server: ServerUndo,
}

/// How to take back a change of the client's statements. Small, as [`ServerUndo`] is, since many are in flight.
#[derive(Debug, Default)]
pub enum ClientUndo {
    /// Nothing.
    #[default]
    None,
    /// A name was given to, or taken from (`None` now) a statement: what it meant before.
    Named(Box<Meant>),
    /// The unnamed statement changed: what it was.
    Unnamed(Option<Arc<Statement>>),
}

/// What a client's name of a statement meant.
#[derive(Debug)]
pub struct Meant {
    /// The name.
    pub name: Box<[u8]>,
    /// The statement; `None` for none.
    pub before: Option<Named>,
}

impl ClientUndo {
    /// A name was given to, or taken from, a statement: what it meant `before`.
    #[must_use]
    pub fn named(name: &[u8], before: Option<Named>) -> Self {
        Self::Named(Box::new(Meant { name: name.into(), before }))
    }
}

/// How to take back a change of the server's statements.
#[derive(Debug, Default)]
pub enum ServerUndo {
    /// Nothing.
    #[default]
    None,
    /// Was being prepared.
    Added(u64),
    /// Was being closed.
    Removed(u64),
    /// The unnamed statement changed: what it was.
    Unnamed(Option<NonZero<u64>>),
    /// The session's sequence values were being forgotten.
    Sequences,
    /// Nothing; the request uses this statement.
    Uses(u64),
    /// One that SQL has prepared was being closed.
    ClosedBySql(Box<Meant>),
}

impl ServerUndo {
    /// The unnamed statement changed: what it was `before`. Statements' numbers begin at 1.
    #[must_use]
    pub fn unnamed(before: Option<u64>) -> Self {
        Self::Unnamed(before.and_then(NonZero::new))
    }
}

/// What few requests need to have noted.
#[derive(Debug, Default)]
pub struct Extra {
    /// For each DEALLOCATE of one statement in it, the last first: the client's name of it, which goes when the
    /// command succeeds; `None` for one that isn't the client's by the protocol.
    pub forget: Vec<Option<Box<[u8]>>>,
    /// For each PREPARE in it, the last first: the name, which is taken when the command succeeds.
    pub makes: Vec<Box<[u8]>>,
    /// For a request of Carpool's own, followed by a Sync of its own: it may fail, and the client isn't told.
    pub optional: bool,
    /// What the client must read in an error, since the request isn't as the client sent it.
    pub error: Option<ErrorText>,
    /// For Describe of a statement.
    pub describes: Option<Describes>,
    /// For a query that ends in RESET ALL: if it succeeds, the session is as after login.
    pub resets: bool,
    /// A table may be created, though the command's end doesn't say so.
    pub creates: bool,
    /// For `DISCARD SEQUENCES`: the client asks for no values from before.
    pub forgets_sequences: bool,
    /// For a query that sets these parameters, which the client has values for from its startup, to their defaults.
    pub defaults: Vec<Box<str>>,
}

/// What an error must say.
#[derive(Debug)]
pub enum ErrorText {
    /// The client's name of the statement.
    Name(Box<[u8]>),
    /// That the statement's parameters or rows are no longer those that the client was told.
    Changed,
    /// That a value can't be given to one of Carpool's own settings.
    Own(Refusal),
}

/// A Describe of a statement in flight.
#[derive(Debug)]
pub struct Describes {
    /// Of this one.
    pub statement: Arc<Statement>,
    /// The client's name of it, when the client asked.
    pub name: Option<Box<[u8]>>,
    /// What must come out, because an execution that relies on it has been sent.
    pub expected: Option<Shape>,
    /// What has come so far.
    pub shape: Vec<u8>,
}

/// One request in flight.
#[derive(Debug)]
pub struct Request {
    /// By what replies it ends.
    pub kind: Kind,
    /// Who sees them.
    pub fate: Fate,
    /// How to take it back.
    pub undo: Undo,
    /// What few need.
    pub extra: Option<Box<Extra>>,
}

impl Request {
    /// A request of the client's that changes nothing in the records.
    #[must_use]
    pub fn forward(kind: Kind) -> Self {
        Self { kind, fate: Fate::Forward, undo: Undo::default(), extra: None }
    }

    /// As [`Request::forward`], with a name for errors.
    #[must_use]
    pub fn renamed(kind: Kind, name: &[u8]) -> Self {
        let error = Some(ErrorText::Name(name.into()));
        Self::forward(kind).with(Extra { error, ..Extra::default() })
    }

    /// With an extra.
    #[must_use]
    pub fn with(self, extra: Extra) -> Self {
        Self { extra: Some(Box::new(extra)), ..self }
    }

    /// Whether the session is as after login when it succeeds.
    #[must_use]
    pub fn resets(&self) -> bool {
        self.extra.as_ref().is_some_and(|e| e.resets)
    }

    /// A request of Carpool's own.
    #[must_use]
    pub fn skip(kind: Kind, server: ServerUndo) -> Self {
        Self { fate: Fate::Skip, undo: Undo { client: ClientUndo::None, server }, ..Self::forward(kind) }
    }

    /// A reply that Carpool gives in the server's place.
    #[must_use]
    pub fn insert(message: u8, client: ClientUndo) -> Self {
        Self {
            fate: Fate::Insert(message),
            undo: Undo { client, server: ServerUndo::None },
            ..Self::forward(Kind::Close)
        }
    }

    /// Whether it runs something.
    #[must_use]
    pub const fn runs(&self) -> bool {
        matches!(self.kind, Kind::Execute | Kind::Query | Kind::FunctionCall)
    }

    const fn ends_in_ready(&self) -> bool {
        matches!(self.kind, Kind::Sync | Kind::Query | Kind::FunctionCall)
    }

    /// It changed the records about named statements.
    const fn changes_named(&self) -> bool {
        matches!(self.undo.client, ClientUndo::Named(..))
            || matches!(self.undo.server, ServerUndo::Added(_) | ServerUndo::Removed(_) | ServerUndo::ClosedBySql(_))
    }

    /// It changed the records about the unnamed statement.
    const fn changes_unnamed(&self) -> bool {
        matches!(self.undo.client, ClientUndo::Unnamed(_)) || matches!(self.undo.server, ServerUndo::Unnamed(_))
    }
}

/// A reply that answers nothing that was asked. The server connection can't be trusted any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the server sent an unexpected message of type 0x{0:02x}")]
pub struct Unexpected(pub u8);

/// What an ErrorResponse meant.
#[derive(Debug)]
pub struct Failure {
    /// Whether the client sees it.
    pub forward: bool,
    /// The requests that it undid, newest first; the failed one is last and still what it was.
    pub undone: Vec<Request>,
    /// A simple query of Carpool's own failed: the client's state could not be restored.
    pub own_query: bool,
    /// A COPY failed, and whether the server had read a Sync as copy data or will yet answer it can't be known.
    pub doubtful: bool,
}

impl Failure {
    const fn new(forward: bool) -> Self {
        Self { forward, undone: Vec::new(), own_query: false, doubtful: false }
    }
}

/// A COPY FROM STDIN under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum CopyIn {
    #[default]
    No,
    /// The server reads copy data and drops Sync and Flush.
    Open,
    /// CopyDone or CopyFail went out.
    Ended,
}

/// Replies that can be passed on without a look at the records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Passes {
    /// None.
    Nothing,
    /// Rows.
    Rows,
    /// Rows, what describes them and, unless something is to be noted of the command, the end of their command.
    Results,
}

/// Requests in flight on one server.
#[derive(Debug, Default)]
pub struct Pipeline {
    requests: VecDeque<Request>,
    status: TransactionStatus,
    copy_in: CopyIn,
    /// Syncs sent ahead of the COPY under way, which the server drops unless the COPY fails before it reads them.
    dropped_syncs: usize,
    /// Extended-protocol messages went out since the last Sync.
    open: bool,
    /// The server skips everything up to the next Sync.
    skipping: bool,
    /// How many of `requests` are of a kind.
    count: Counts,
    /// The unnamed statement was changed since the last Sync went out.
    unnamed_changed: bool,
}

/// How many requests are of a kind: numbers of 16 bits in two words, since all are kept up to date twice for each
/// request. [`Pipeline::LIMIT`] keeps them apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Counts {
    sent: u64,
    changes: u32,
}

impl Counts {
    const READY: u64 = 1;
    const SYNC: u64 = 1 << 16;
    const RUNS: u64 = 1 << 32;
    const UNSENT: u64 = 1 << 48;
    const NAMED: u32 = 1;
    const UNNAMED: u32 = 1 << 16;
    const LANE: u64 = 0xffff;

    /// What one request counts as.
    fn of(request: &Request) -> Self {
        let by_kind = match request.kind {
            Kind::Parse | Kind::Bind | Kind::DescribeStatement | Kind::DescribePortal | Kind::Close => 0,
            Kind::Execute => Self::RUNS,
            Kind::Sync => Self::READY | Self::SYNC,
            Kind::Query | Kind::FunctionCall => Self::READY | Self::RUNS,
            Kind::CopyEnd => Self::UNSENT,
        };
        // A marker is never inserted, so this doesn't count it twice.
        let inserted = u64::from(matches!(request.fate, Fate::Insert(_))) * Self::UNSENT;
        let named = u32::from(request.changes_named()) * Self::NAMED;
        let unnamed = u32::from(request.changes_unnamed()) * Self::UNNAMED;
        Self { sent: by_kind | inserted, changes: named | unnamed }
    }

    const fn add(&mut self, other: Self) {
        self.sent = self.sent.wrapping_add(other.sent);
        self.changes = self.changes.wrapping_add(other.changes);
    }

    const fn subtract(&mut self, other: Self) {
        self.sent = self.sent.wrapping_sub(other.sent);
        self.changes = self.changes.wrapping_sub(other.changes);
    }

    /// Those that end in ReadyForQuery.
    const fn ready(self) -> u64 {
        self.sent & Self::LANE
    }

    /// Whether any is a Sync.
    const fn any_sync(self) -> bool {
        self.sent & (Self::LANE << 16) != 0
    }

    /// Whether any runs something.
    const fn any_run(self) -> bool {
        self.sent & (Self::LANE << 32) != 0
    }

    /// Whether any is no request to the server: a reply in its place, or a marker.
    const fn any_unsent(self) -> bool {
        self.sent & (Self::LANE << 48) != 0
    }

    /// Whether any changed the records about named statements.
    const fn any_named(self) -> bool {
        self.changes & 0xffff != 0
    }

    /// Whether any changed the records about the unnamed statement.
    const fn any_unnamed(self) -> bool {
        self.changes >> 16 != 0
    }
}

impl Pipeline {
    /// The most requests in flight. PostgreSQL sends its replies on at the latest when they fill 8 KiB, so that
    /// one who waits for the number to fall doesn't wait for ever.
    pub const LIMIT: usize = 4096;

    /// Records a request that goes out now.
    pub fn push(&mut self, request: Request) {
        self.open = !request.ends_in_ready();
        if request.kind == Kind::Sync {
            self.unnamed_changed = false;
        }
        self.unnamed_changed |= request.changes_unnamed();
        self.add(request);
    }

    fn add(&mut self, request: Request) {
        self.count.add(Counts::of(&request));
        if self.requests.is_empty() {
            // Begins at the same place in memory each time, which is in the cache.
            self.requests.clear();
        }
        self.requests.push_back(request);
    }

    fn pop(&mut self) -> Option<Request> {
        let request = self.requests.pop_front()?;
        self.count.subtract(Counts::of(&request));
        Some(request)
    }

    /// The request at the front has succeeded: gives what few have. Not the request itself, which would be moved for
    /// nothing.
    fn pop_done(&mut self) -> Option<Box<Extra>> {
        let front = self.requests.front_mut()?;
        let extra = front.extra.take();
        self.count.subtract(Counts::of(front));
        self.requests.pop_front();
        extra
    }

    /// The client sends Sync. Says whether to send it on: while the server reads copy data it would drop it
    /// without an answer, or answer it if the COPY has failed meanwhile; not sent, it can't do the latter.
    pub fn sync(&mut self) -> bool {
        if self.reads_copy_data() {
            return false;
        }
        self.skipping = false;
        self.push(Request::forward(Kind::Sync));
        true
    }

    /// A COPY FROM STDIN is under way, and the client has not ended its data.
    #[must_use]
    pub fn reads_copy_data(&self) -> bool {
        self.copy_in == CopyIn::Open
    }

    /// The client ends its copy data.
    pub fn copy_end(&mut self) {
        if self.copy_in == CopyIn::Open {
            self.copy_in = CopyIn::Ended;
        } else if !self.requests.is_empty() {
            self.add(Request::forward(Kind::CopyEnd));
        }
    }

    /// After an error the server skips requests up to Sync; there is no use in sending them.
    #[must_use]
    pub const fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// The last reported transaction status.
    #[must_use]
    pub const fn status(&self) -> TransactionStatus {
        self.status
    }

    /// The transaction has failed, and nothing in flight can end it.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.is_answered() && self.status == TransactionStatus::Failed && !self.open
    }

    /// Nothing owed, no transaction, nothing half sent: the server may go to another client.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.is_answered() && self.status == TransactionStatus::Idle && !self.open && !self.skipping
    }

    /// Nothing owed.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.requests.is_empty()
    }

    /// Replies are owed, all to requests of Carpool's own.
    #[must_use]
    pub fn is_own(&self) -> bool {
        !self.requests.is_empty() && self.requests.iter().all(|r| r.fate == Fate::Skip)
    }

    /// The replies that come next are to a request of Carpool's own.
    #[must_use]
    pub fn leads_own(&self) -> bool {
        self.requests.front().is_some_and(|r| r.fate == Fate::Skip)
    }

    /// The number of the client's requests in flight that run something.
    #[must_use]
    pub fn client_runs(&self) -> usize {
        if !self.runs() {
            return 0;
        }
        self.requests.iter().filter(|r| r.fate == Fate::Forward && r.runs()).count()
    }

    /// As many requests are in flight as may be.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.requests.len() >= Self::LIMIT
    }

    /// A request is unanswered that ends in ReadyForQuery: the transaction's state may change yet.
    #[must_use]
    pub const fn awaits_ready(&self) -> bool {
        self.count.ready() > 0
    }

    /// Something in flight runs.
    #[must_use]
    pub const fn runs(&self) -> bool {
        self.count.any_run()
    }

    /// Extended-protocol messages went out since the last Sync.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.open
    }

    /// What the records say of a client's statement `name` or of statement `id` may yet be taken back without
    /// that the request that relies on it is skipped: something before the last Sync in flight changed it.
    #[must_use]
    pub fn uncertain(&self, name: &[u8], id: u64) -> bool {
        if !self.count.any_sync() || !self.count.any_named() {
            return false;
        }
        let last = self.requests.iter().rposition(|r| r.kind == Kind::Sync).unwrap_or(0);
        self.requests.iter().take(last).any(|r| {
            matches!(&r.undo.client, ClientUndo::Named(meant) if *meant.name == *name)
                || matches!(r.undo.server, ServerUndo::Added(i) | ServerUndo::Removed(i) if i == id)
                || matches!(&r.undo.server, ServerUndo::ClosedBySql(meant) if *meant.name == *name)
        })
    }

    /// As [`Pipeline::uncertain`], for the unnamed statement.
    #[must_use]
    pub const fn unnamed_uncertain(&self) -> bool {
        self.count.any_sync() && self.count.any_unnamed() && !self.unnamed_changed
    }

    /// Takes back a change of the client's unnamed statement: gives what it is now, or `None` when a request in
    /// flight has changed it since; that one then knows.
    pub fn restore_client_unnamed(&mut self, old: Option<Arc<Statement>>) -> Option<Option<Arc<Statement>>> {
        let later = self.requests.iter_mut().find_map(|r| match &mut r.undo.client {
            ClientUndo::Unnamed(before) => Some(before),
            _ => None,
        });
        match later {
            Some(before) => {
                *before = old;
                None
            }
            None => Some(old),
        }
    }

    /// As [`Pipeline::restore_client_unnamed`], of the server's.
    pub fn restore_server_unnamed(&mut self, old: Option<NonZero<u64>>) -> Option<Option<u64>> {
        let later = self.requests.iter_mut().find_map(|r| match &mut r.undo.server {
            ServerUndo::Unnamed(before) => Some(before),
            _ => None,
        });
        match later {
            Some(before) => {
                *before = old;
                None
            }
            None => Some(old.map(NonZero::get)),
        }
    }

    /// The request at the front, whose replies come next.
    pub fn front(&mut self) -> Option<&mut Request> {
        self.requests.front_mut()
    }

    /// The request that went out last.
    pub fn last(&mut self) -> Option<&mut Request> {
        self.requests.back_mut()
    }

    /// The number of requests in flight.
    #[must_use]
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether none is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Takes the message to insert next, if the front of the queue is one.
    #[inline]
    pub fn next_insert(&mut self) -> Option<u8> {
        // Asked around every message.
        if self.count.any_unsent() { self.take_insert() } else { None }
    }

    #[cold]
    fn take_insert(&mut self) -> Option<u8> {
        self.drop_markers();
        match self.requests.front()?.fate {
            Fate::Insert(message) => {
                self.pop();
                Some(message)
            }
            _ => None,
        }
    }

    fn drop_markers(&mut self) {
        // Asked around every ReadyForQuery.
        if self.count.any_unsent() {
            self.drop_marked();
        }
    }

    #[cold]
    fn drop_marked(&mut self) {
        while self.requests.front().is_some_and(|r| r.kind == Kind::CopyEnd) {
            self.pop();
        }
    }

    /// Which replies that come now are the client's and change nothing here.
    #[must_use]
    pub fn passes(&self) -> Passes {
        match self.requests.front() {
            Some(front) if front.fate == Fate::Forward && !self.count.any_unsent() => match front.kind {
                Kind::Query if front.extra.is_none() && self.copy_in == CopyIn::No && self.dropped_syncs == 0 => {
                    Passes::Results
                }
                Kind::Query | Kind::Execute => Passes::Rows,
                _ => Passes::Nothing,
            },
            _ => Passes::Nothing,
        }
    }

    /// Takes a reply that does no more than end the request at the front, which is the client's, with more to come.
    /// Says whether it was one; any other is for [`Pipeline::reply`]. Of the end of a command the caller knows that
    /// there is nothing to be noted.
    pub fn pass_end(&mut self, message: u8) -> bool {
        let Some(front) = self.requests.front() else { return false };
        let simple = front.fate == Fate::Forward && front.extra.is_none() && self.requests.len() > 1;
        let copies = self.copy_in != CopyIn::No || self.dropped_syncs > 0;
        if !front.kind.ends_with(message) || !simple || copies || self.count.any_unsent() {
            return false;
        }
        self.pop_done();
        true
    }

    /// A reply other than ErrorResponse, ReadyForQuery and the ones that may come at any time (notices,
    /// notifications, ParameterStatus). Says whether the client gets it, and gives the request's extra if this ends it.
    /// Inserts at the front must have been taken.
    ///
    /// # Errors
    /// [`Unexpected`] when the front request has no such reply.
    pub fn reply(&mut self, message: u8) -> Result<(bool, Option<Box<Extra>>), Unexpected> {
        let front = self.requests.front().ok_or(Unexpected(message))?;
        let forward = front.fate == Fate::Forward;
        let ends = match (front.kind, message) {
            (kind, message) if kind.ends_with(message) => true,
            (Kind::DescribeStatement, tag::PARAMETER_DESCRIPTION)
            | (Kind::Execute | Kind::Query, tag::DATA_ROW | tag::COPY_OUT_RESPONSE | tag::COPY_DATA | tag::COPY_DONE)
            | (Kind::Query, tag::ROW_DESCRIPTION | tag::COMMAND_COMPLETE | tag::EMPTY_QUERY_RESPONSE)
            | (Kind::FunctionCall, tag::FUNCTION_CALL_RESPONSE) => false,
            (Kind::Execute | Kind::Query, tag::COPY_IN_RESPONSE) => {
                self.begin_copy_in();
                false
            }
            _ => return Err(Unexpected(message)),
        };
        if message == tag::COMMAND_COMPLETE {
            self.end_copy();
        }
        Ok((forward, if ends { self.pop_done() } else { None }))
    }

    /// The server now reads copy data: it drops each Sync that was sent before the CopyDone or CopyFail.
    fn begin_copy_in(&mut self) {
        self.copy_in = CopyIn::Open;
        let mut at = 1;
        while let Some(request) = self.requests.get(at) {
            match request.kind {
                Kind::CopyEnd => {
                    self.copy_in = CopyIn::Ended;
                    self.remove(at);
                    break;
                }
                Kind::Sync => {
                    self.remove(at);
                    self.dropped_syncs += 1;
                }
                _ => at += 1,
            }
        }
        let last = self.requests.iter().rev().find(|r| r.kind != Kind::CopyEnd);
        self.open = last.is_some_and(|r| !r.ends_in_ready());
    }

    fn remove(&mut self, at: usize) {
        if let Some(request) = self.requests.remove(at) {
            self.count.subtract(Counts::of(&request));
        }
    }

    fn end_copy(&mut self) {
        self.copy_in = CopyIn::No;
        self.dropped_syncs = 0;
    }

    /// An ErrorResponse. A simple query ends with the ReadyForQuery that follows; of the extended protocol
    /// everything up to Sync is undone. Inserts at the front must have been taken.
    pub fn error(&mut self) -> Failure {
        let doubtful = self.dropped_syncs > 0;
        self.end_copy();
        self.drop_markers();
        let mut failure = match self.requests.front_mut() {
            None => Failure::new(true),
            Some(front) if front.ends_in_ready() => {
                if let Some(extra) = &mut front.extra {
                    extra.resets = false;
                }
                let forward = front.fate == Fate::Forward;
                Failure { own_query: !forward, ..Failure::new(forward) }
            }
            Some(front) => {
                let optional = front.extra.as_ref().is_some_and(|e| e.optional);
                let undone = self.undo_to_sync();
                self.skipping &= !optional;
                Failure { undone, ..Failure::new(!optional) }
            }
        };
        failure.doubtful = doubtful;
        failure
    }

    fn undo_to_sync(&mut self) -> Vec<Request> {
        let sync = self.requests.iter().position(|r| r.kind == Kind::Sync);
        // Where only Carpool has synced, the client hasn't: it believes that all is skipped until it does.
        self.skipping = sync.is_none_or(|at| self.requests[at].fate == Fate::Skip);
        let mut undone = Vec::new();
        // Queries that stood before the Sync are skipped like the rest.
        for _ in 0..sync.unwrap_or(self.requests.len()) {
            undone.extend(self.pop());
        }
        undone.reverse();
        undone
    }

    /// A ReadyForQuery: gives the request that it ends. Inserts at the front must have been taken.
    ///
    /// # Errors
    /// [`Unexpected`] when none was owed.
    pub fn ready(&mut self, status: TransactionStatus) -> Result<Request, Unexpected> {
        self.drop_markers();
        self.end_copy();
        match self.requests.front() {
            Some(r) if r.ends_in_ready() => {}
            _ => return Err(Unexpected(tag::READY_FOR_QUERY)),
        }
        let request = self.pop().ok_or(Unexpected(tag::READY_FOR_QUERY))?;
        self.status = status;
        self.drop_markers();
        Ok(request)
    }
}

#[cfg(test)]
mod tests;
