//! The way from server to client: one message at a time from the server's bytes to the client's, with what it
//! settles in the records.
//!
//! Rows and other bulk go on unread, by their headers. Bodies are read only of ErrorResponse, ReadyForQuery,
//! ParameterStatus and CommandComplete.

use super::pipeline::{ClientUndo, Fate, Kind, Request, ServerUndo, Unexpected};
use super::request::{Output, Tables};
use super::settings::follows_client;
use super::statements::SERVER_PREFIX;
use super::{ClientState, ServerState, Taint};
use crate::error::{ClientError, SqlState};
use crate::wire::backend::{self, TransactionStatus, tag};
use crate::wire::frame::{self, FrameError, HEADER_LEN, Header};

/// How much of a long error is looked at, bytes.
const ERROR_INSPECTED: usize = 8 * 1024;
/// How much of a command tag is looked at, bytes. The longest are about 40.
const COMMAND_INSPECTED: usize = 64;
/// The longest ParameterStatus, bytes.
const PARAMETER_LIMIT: usize = 1024 * 1024;

/// Why a server connection can't be used any more.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ServerFault {
    /// A reply that answers nothing.
    #[error(transparent)]
    Unexpected(#[from] Unexpected),
    /// A malformed message.
    #[error("the server broke the protocol: {0}")]
    Frame(#[from] FrameError),
    /// A query of Carpool's own failed, so the client's settings are not in force.
    #[error("the client's settings could not be restored: {0}")]
    Replay(String),
}

/// What became of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Done with `consumed` bytes of the input; `remaining` bytes of the message's body are still to come and
    /// go to the client (`forward`) or are dropped.
    Taken {
        /// Bytes of input used.
        consumed: usize,
        /// Bytes of the same message still to come.
        remaining: usize,
        /// Whether they go on to the client.
        forward: bool,
    },
    /// More of the message must arrive first.
    More,
}

/// What happened on the way, for the caller to act on when all bytes at hand are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Events {
    /// The client's requests that ended in ReadyForQuery.
    pub queries: u32,
    /// Those among them that left no transaction open.
    pub transactions: u32,
    /// The server said that it ends the connection.
    pub fatal: bool,
    /// A query of Carpool's own ended well.
    pub replayed: bool,
    /// The client's settings changed.
    pub settings_changed: bool,
}

/// A server on loan to a client, while its bytes are read.
#[derive(Debug)]
pub struct ServerPath<'a> {
    /// The client's memory.
    pub client: &'a mut ClientState,
    /// The server's.
    pub server: &'a mut ServerState,
    /// What the pool's clients share.
    pub tables: &'a Tables,
    /// What goes to the client.
    pub to_client: &'a mut Output,
    /// What goes to the server, should something have to be sent again.
    pub to_server: &'a mut Vec<u8>,
    /// What happened.
    pub events: &'a mut Events,
}

impl ServerPath<'_> {
    /// Takes the message that starts at `at`.
    ///
    /// # Errors
    /// When the server can't be trusted any more; it must be closed.
    pub fn message(&mut self, input: &[u8], at: usize) -> Result<Step, ServerFault> {
        let Some(header) = frame::peek(&input[at..])? else { return Ok(Step::More) };
        let inspected = match header.tag {
            tag::PARAMETER_STATUS if header.body_len > PARAMETER_LIMIT => {
                return Err(FrameError::Body(header.tag).into());
            }
            tag::READY_FOR_QUERY if header.body_len != 1 => return Err(FrameError::Body(header.tag).into()),
            tag::READY_FOR_QUERY | tag::PARAMETER_STATUS => header.body_len,
            tag::ERROR_RESPONSE => header.body_len.min(ERROR_INSPECTED),
            tag::COMMAND_COMPLETE => header.body_len.min(COMMAND_INSPECTED),
            _ => 0,
        };
        let start = at + HEADER_LEN;
        let Some(body) = input.get(start..start + inspected) else { return Ok(Step::More) };
        let forward = match header.tag {
            // These may come at any time; those of Carpool's own requests are nobody's business.
            tag::NOTICE_RESPONSE | tag::NOTIFICATION_RESPONSE => !self.is_own(),
            tag::PARAMETER_STATUS => self.parameter_status(body)?,
            tag::ERROR_RESPONSE => self.error(input, body)?,
            tag::READY_FOR_QUERY => self.ready(input, body)?,
            _ => self.reply(input, header, body)?,
        };
        let consumed = header.total_len().min(input.len() - at);
        if forward {
            self.to_client.forward(input, at..at + consumed);
        }
        let remaining = header.total_len() - consumed;
        if remaining == 0 {
            self.inserts(input);
        }
        Ok(Step::Taken { consumed, remaining, forward })
    }

    /// Gives the replies that are due in the server's place.
    fn inserts(&mut self, input: &[u8]) {
        while let Some(message) = self.server.pipeline.next_insert() {
            backend::put_empty(self.to_client.own(input), message);
        }
    }

    fn is_own(&mut self) -> bool {
        self.server.pipeline.front().is_some_and(|r| r.fate == Fate::Skip)
    }

    fn reply(&mut self, input: &[u8], header: Header, body: &[u8]) -> Result<bool, ServerFault> {
        self.inserts(input);
        if header.tag == tag::COMMAND_COMPLETE {
            self.command_complete(body);
        }
        let (forward, ended) = self.server.pipeline.reply(header.tag)?;
        if ended.is_some() && self.server.pipeline.is_answered() {
            self.server.hold = false;
        }
        Ok(forward)
    }

    /// Applies what the front request, now known to have succeeded, does to the records.
    fn command_complete(&mut self, body: &[u8]) {
        let Some(front) = self.server.pipeline.front() else { return };
        if front.fate != Fate::Forward {
            return;
        }
        let command = body.strip_suffix(b"\0").unwrap_or(body);
        match command {
            b"DEALLOCATE ALL" | b"DISCARD ALL" => {
                self.client.statements.named.clear();
                self.server.statements.clear_named();
                if command == b"DISCARD ALL" {
                    let left = self.server.settings.only_reported();
                    self.server.settings = self.tables.settings.intern(left);
                    self.server.taint = None;
                }
            }
            b"DEALLOCATE" => {
                if let Some(forget) = front.forget.take() {
                    self.client.statements.named.remove(&forget.name);
                    self.server.statements.remove(forget.id);
                }
            }
            _ if [&b"ALTER "[..], b"CREATE ", b"DROP "].iter().any(|p| command.starts_with(p)) => {
                self.server.schema_changed = true;
            }
            _ => {}
        }
    }

    /// Notes a parameter's new value. The client learns it unless Carpool's own replay caused it.
    fn parameter_status(&mut self, body: &[u8]) -> Result<bool, ServerFault> {
        let (name, value) = backend::parameter_status(body)?;
        let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else {
            return Err(FrameError::Body(tag::PARAMETER_STATUS).into());
        };
        let own = self.is_own();
        if !follows_client(name) {
            if name == "session_authorization" {
                self.server.taint = self.server.taint.or(Some(Taint::SessionUser));
            }
            return Ok(!own);
        }
        if self.server.settings.get(name) != Some(value) {
            let settings = self.server.settings.with_reported(name, value);
            self.server.settings = self.tables.settings.intern(settings);
        }
        // In a replay the server may spell a value its own way: that spelling is the client's from now on, or
        // the two would differ for ever.
        if self.client.settings.get(name) != Some(value) {
            let settings = self.tables.settings.intern(self.client.settings.with_reported(name, value));
            self.client.set_settings(settings, &self.tables.settings);
            self.events.settings_changed = true;
        }
        Ok(!own)
    }

    fn error(&mut self, input: &[u8], body: &[u8]) -> Result<bool, ServerFault> {
        self.inserts(input);
        let code = backend::error_field(body, b'C').unwrap_or(b"XX000");
        let fatal = backend::is_fatal(body);
        let stale_plan = code == b"0A000" && backend::error_field(body, b'R') == Some(b"RevalidateCachedQuery");
        let again = stale_plan && self.stale_plan();
        let failure = self.server.pipeline.error();
        if failure.own_query && !fatal {
            let message = backend::error_field(body, b'M').unwrap_or(b"unknown error");
            return Err(ServerFault::Replay(String::from_utf8_lossy(message).into_owned()));
        }
        let duplicate = failure.undone.last().and_then(|r| r.duplicate.clone()).filter(|_| code == b"42P05");
        let failed_at = failure.undone.len();
        for (i, request) in failure.undone.into_iter().enumerate() {
            self.undo(request, i + 1 == failed_at);
        }
        if again {
            self.server.send_again(self.tables, self.to_server);
            return Ok(false);
        }
        self.server.retry = super::request::Retry::default();
        self.server.bound = super::request::Bound::Plain;
        if self.server.pipeline.is_answered() {
            self.server.hold = false;
        }
        self.note_unknown_statement(code, body);
        self.events.fatal |= fatal;
        if let Some(name) = duplicate {
            let name = String::from_utf8_lossy(&name);
            let text = format!("prepared statement \"{name}\" already exists");
            let error = ClientError::error(SqlState::DUPLICATE_STATEMENT, text);
            backend::put_error(self.to_client.own(input), &error);
            return Ok(false);
        }
        Ok(failure.forward || fatal)
    }

    /// A plan can't be used any more since what it returns has changed. Says whether to send the execution again.
    fn stale_plan(&mut self) -> bool {
        match self.server.retry.statement() {
            Some(statement) => statement.mark_stale(),
            None => self.tables.statements.schema_changed(),
        }
        let bind_failed = self.server.pipeline.front().is_some_and(|r| r.kind == Kind::Bind && r.fate == Fate::Forward);
        bind_failed && self.server.retry.is_safe()
    }

    /// The server lacks a statement that it should have: what it has is unknown.
    fn note_unknown_statement(&mut self, code: &[u8], body: &[u8]) {
        let message = backend::error_field(body, b'M').unwrap_or_default();
        if code == SqlState::INVALID_STATEMENT_NAME.0.as_bytes()
            && memchr::memmem::find(message, &[b"\"", SERVER_PREFIX].concat()).is_some()
        {
            self.server.taint = self.server.taint.or(Some(Taint::SqlPrepare));
        }
    }

    /// Takes a request back that failed (`failed`) or was skipped.
    fn undo(&mut self, request: Request, failed: bool) {
        let statements = &mut self.client.statements;
        match request.undo.client {
            ClientUndo::None => {}
            ClientUndo::Named(name, Some(old)) => drop(statements.named.insert(name, old)),
            ClientUndo::Named(name, None) => drop(statements.named.remove(&name)),
            // A failed Parse of the unnamed statement has dropped the old one first.
            ClientUndo::Unnamed(_) if failed => statements.unnamed = None,
            ClientUndo::Unnamed(old) => statements.unnamed = old,
        }
        let statements = &mut self.server.statements;
        match request.undo.server {
            ServerUndo::None => {}
            ServerUndo::Added(id) => statements.remove(id),
            ServerUndo::Removed(id) => statements.restore(id),
            ServerUndo::Unnamed(_) if failed => statements.unnamed = None,
            ServerUndo::Unnamed(old) => statements.unnamed = old,
        }
    }

    fn ready(&mut self, input: &[u8], body: &[u8]) -> Result<bool, ServerFault> {
        self.inserts(input);
        let status = backend::ready_for_query(body)?;
        let request = self.server.pipeline.ready(status)?;
        let forward = request.fate == Fate::Forward;
        if forward {
            self.events.queries += 1;
        } else if request.kind == Kind::Query {
            self.events.replayed = true;
        }
        if status == TransactionStatus::Idle {
            self.events.transactions += u32::from(forward);
            if std::mem::take(&mut self.server.schema_changed) {
                self.tables.statements.schema_changed();
            }
        }
        if self.server.pipeline.is_answered() {
            self.server.hold = false;
        }
        Ok(forward)
    }
}
