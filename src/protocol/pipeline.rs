//! Requests in flight on one server and the replies still owed for them.
//!
//! What is owed, and whether the client is to see it, is recorded when a request goes out; replies are matched
//! from the front and never edited afterwards. A request that the server will not carry out (it skips all up to
//! Sync after an error) takes its effects back through its [`Undo`].
//!
//! <https://www.postgresql.org/docs/current/protocol-flow.html>

use std::collections::VecDeque;
use std::sync::Arc;

use super::statements::Statement;
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

/// How to take back a change of the client's statements.
#[derive(Debug, Default)]
pub enum ClientUndo {
    /// Nothing.
    #[default]
    None,
    /// A name was given to, or taken from (`None` now) a statement: what it meant before.
    Named(Box<[u8]>, Option<Arc<Statement>>),
    /// The unnamed statement changed: what it was.
    Unnamed(Option<Arc<Statement>>),
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
    Unnamed(Option<u64>),
}

/// What a successful command does to the records, known by its CommandComplete.
#[derive(Debug)]
pub struct Forget {
    /// The client's name.
    pub name: Box<[u8]>,
    /// The statement on the server.
    pub id: u64,
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
    /// For DEALLOCATE of one statement.
    pub forget: Option<Box<Forget>>,
    /// For a Parse of a name that the client already has: its error must carry the client's name.
    pub duplicate: Option<Box<[u8]>>,
}

impl Request {
    /// A request of the client's that changes nothing in the records.
    #[must_use]
    pub fn forward(kind: Kind) -> Self {
        Self { kind, fate: Fate::Forward, undo: Undo::default(), forget: None, duplicate: None }
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

/// Requests in flight on one server.
#[derive(Debug, Default)]
pub struct Pipeline {
    requests: VecDeque<Request>,
    status: TransactionStatus,
    copy_in: CopyIn,
    /// Extended-protocol messages went out since the last Sync.
    open: bool,
    /// The server skips everything up to the next Sync.
    skipping: bool,
    /// Requests that end in ReadyForQuery and haven't been answered.
    owed_ready: usize,
}

impl Pipeline {
    /// Records a request that goes out now.
    pub fn push(&mut self, request: Request) {
        match request.kind {
            Kind::Sync | Kind::Query | Kind::FunctionCall => {
                self.open = false;
                self.owed_ready += 1;
            }
            _ => self.open = true,
        }
        self.requests.push_back(request);
    }

    /// The client sends Sync. Says whether to send it on: during COPY FROM STDIN the server drops it without
    /// an answer.
    pub fn sync(&mut self) -> bool {
        if self.copy_in == CopyIn::Open {
            return false;
        }
        self.skipping = false;
        self.push(Request::forward(Kind::Sync));
        true
    }

    /// The client ends its copy data.
    pub fn copy_end(&mut self) {
        if self.copy_in == CopyIn::Open {
            self.copy_in = CopyIn::Ended;
        } else if !self.requests.is_empty() {
            self.requests.push_back(Request::forward(Kind::CopyEnd));
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

    /// A request is unanswered that ends in ReadyForQuery: what was sent before it may yet turn out otherwise
    /// than recorded.
    #[must_use]
    pub const fn awaits_ready(&self) -> bool {
        self.owed_ready > 0
    }

    /// Extended-protocol messages went out since the last Sync.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.open
    }

    /// What the records say of a client's statement `name` or of statement `id` may yet be taken back, because
    /// a request before the last Sync or Query in flight changed it.
    #[must_use]
    pub fn uncertain(&self, name: &[u8], id: u64) -> bool {
        if !self.awaits_ready() {
            return false;
        }
        let settles = |r: &Request| matches!(r.kind, Kind::Sync | Kind::Query | Kind::FunctionCall);
        let last = self.requests.iter().rposition(settles).unwrap_or(0);
        self.requests.iter().take(last).any(|r| {
            matches!(&r.undo.client, ClientUndo::Named(n, _) if **n == *name)
                || matches!(r.undo.server, ServerUndo::Added(i) | ServerUndo::Removed(i) if i == id)
        })
    }

    /// The request at the front, whose replies come next.
    pub fn front(&mut self) -> Option<&mut Request> {
        self.requests.front_mut()
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
    pub fn next_insert(&mut self) -> Option<u8> {
        self.drop_markers();
        match self.requests.front()?.fate {
            Fate::Insert(message) => {
                self.requests.pop_front();
                Some(message)
            }
            _ => None,
        }
    }

    fn drop_markers(&mut self) {
        while self.requests.front().is_some_and(|r| r.kind == Kind::CopyEnd) {
            self.requests.pop_front();
        }
    }

    /// A reply other than ErrorResponse, ReadyForQuery and the ones that may come at any time (notices,
    /// notifications, ParameterStatus). Says whether the client gets it, and gives the request if this ends it.
    /// Inserts at the front must have been taken.
    ///
    /// # Errors
    /// [`Unexpected`] when the front request has no such reply.
    pub fn reply(&mut self, message: u8) -> Result<(bool, Option<Request>), Unexpected> {
        let front = self.requests.front().ok_or(Unexpected(message))?;
        let forward = front.fate == Fate::Forward;
        let ends = match (front.kind, message) {
            (Kind::Parse, tag::PARSE_COMPLETE)
            | (Kind::Bind, tag::BIND_COMPLETE)
            | (Kind::Close, tag::CLOSE_COMPLETE)
            | (Kind::DescribeStatement | Kind::DescribePortal, tag::ROW_DESCRIPTION | tag::NO_DATA)
            | (Kind::Execute, tag::COMMAND_COMPLETE | tag::EMPTY_QUERY_RESPONSE | tag::PORTAL_SUSPENDED) => true,
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
            self.copy_in = CopyIn::No;
        }
        Ok((forward, if ends { self.requests.pop_front() } else { None }))
    }

    /// The server now reads copy data: it drops each Sync that was sent before the CopyDone or CopyFail.
    fn begin_copy_in(&mut self) {
        let mut at = 1;
        while let Some(request) = self.requests.get(at) {
            match request.kind {
                Kind::CopyEnd => {
                    self.copy_in = CopyIn::Ended;
                    self.requests.remove(at);
                    return;
                }
                Kind::Sync => {
                    self.requests.remove(at);
                    self.owed_ready -= 1;
                    self.open = true;
                }
                _ => at += 1,
            }
        }
        self.copy_in = CopyIn::Open;
    }

    /// An ErrorResponse. A simple query ends with the ReadyForQuery that follows; of the extended protocol
    /// everything up to Sync is undone.
    pub fn error(&mut self) -> Failure {
        self.copy_in = CopyIn::No;
        self.drop_markers();
        let front = self.requests.front().map(|r| (r.kind, r.fate));
        match front {
            None => Failure { forward: true, undone: Vec::new(), own_query: false },
            Some((Kind::Query | Kind::FunctionCall | Kind::Sync, fate)) => {
                Failure { forward: fate == Fate::Forward, undone: Vec::new(), own_query: fate != Fate::Forward }
            }
            Some(_) => Failure { forward: true, undone: self.undo_to_sync(), own_query: false },
        }
    }

    fn undo_to_sync(&mut self) -> Vec<Request> {
        let sync = self.requests.iter().position(|r| r.kind == Kind::Sync);
        let end = sync.unwrap_or(self.requests.len());
        self.skipping = sync.is_none();
        let mut undone: Vec<_> = self.requests.drain(..end).collect();
        // Queries that stood before the Sync are skipped like the rest.
        self.owed_ready -= undone.iter().filter(|r| matches!(r.kind, Kind::Query | Kind::FunctionCall)).count();
        undone.reverse();
        undone
    }

    /// A ReadyForQuery: gives the request that it ends. Inserts at the front must have been taken.
    ///
    /// # Errors
    /// [`Unexpected`] when none was owed.
    pub fn ready(&mut self, status: TransactionStatus) -> Result<Request, Unexpected> {
        self.drop_markers();
        self.copy_in = CopyIn::No;
        match self.requests.front() {
            Some(r) if matches!(r.kind, Kind::Sync | Kind::Query | Kind::FunctionCall) => {}
            _ => return Err(Unexpected(tag::READY_FOR_QUERY)),
        }
        let request = self.requests.pop_front().ok_or(Unexpected(tag::READY_FOR_QUERY))?;
        self.owed_ready -= 1;
        self.status = status;
        self.drop_markers();
        Ok(request)
    }
}

#[cfg(test)]
mod tests;
