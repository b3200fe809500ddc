//! The way from client to server: one message at a time from the client's bytes to the server's, with what it
//! changes in the records.
//!
//! Messages go on as the client sent them, as ranges of the read buffer, unless a statement's name must be
//! replaced or something of Carpool's own put in front. Only headers are read, but for Query, Parse and the
//! names in Bind, Describe and Close.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::pipeline::{ClientUndo, Fate, Forget, Kind, Request, ServerUndo, Undo};
use super::settings::SettingsTable;
use super::sql::{self, Effect};
use super::statements::{Presence, SERVER_PREFIX, Statement, StatementTable};
use super::{ClientState, ServerState};
use crate::error::{ClientError, SqlState};
use crate::wire::backend::{self, TransactionStatus, tag as reply};
use crate::wire::frame::{self, FrameError, HEADER_LEN, Header};
use crate::wire::frontend::{self, Target, tag};

/// How much of a long simple query is looked at, bytes.
const QUERY_INSPECTED: usize = 64 * 1024;
/// The longest Describe or Close, and the longest names in a Bind, bytes.
const NAMES_LIMIT: usize = 64 * 1024;
/// The longest execution kept to be sent again, bytes.
const RETRY_LIMIT: usize = 8 * 1024;

/// What all clients of a pool share.
#[derive(Debug, Default)]
pub struct Tables {
    /// Prepared statements by text.
    pub statements: StatementTable,
    /// Settings by content.
    pub settings: SettingsTable,
}

/// Bytes on their way out: a range of the input for as long as they stand there unchanged and in one piece,
/// else a copy.
#[derive(Debug, Default)]
pub struct Output {
    own: Vec<u8>,
    range: Range<usize>,
}

impl Output {
    /// Adds `range` of `input`. All calls until [`Output::clear`] must be about the same `input`.
    pub fn forward(&mut self, input: &[u8], range: Range<usize>) {
        if !self.own.is_empty() {
            self.own.extend_from_slice(&input[range]);
        } else if self.range.is_empty() {
            self.range = range;
        } else if self.range.end == range.start {
            self.range.end = range.end;
        } else {
            self.own(input).extend_from_slice(&input[range]);
        }
    }

    /// The buffer to append bytes to that aren't in `input`.
    pub fn own(&mut self, input: &[u8]) -> &mut Vec<u8> {
        if !self.range.is_empty() {
            self.own.extend_from_slice(&input[std::mem::take(&mut self.range)]);
        }
        &mut self.own
    }

    /// All bytes.
    #[must_use]
    pub fn bytes<'a>(&'a self, input: &'a [u8]) -> &'a [u8] {
        if self.own.is_empty() { &input[self.range.clone()] } else { &self.own }
    }

    /// Forgets the bytes and keeps the memory, unless it grew large.
    pub fn clear(&mut self) {
        self.own.clear();
        self.own.shrink_to(256 * 1024);
        self.range = 0..0;
    }
}

/// What became of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Done with `consumed` bytes of the input; `remaining` bytes of the message's body are still to come and
    /// go the same way (`forward`) or are dropped.
    Taken {
        /// Bytes of input used.
        consumed: usize,
        /// Bytes of the same message still to come.
        remaining: usize,
        /// Whether they go on to the server.
        forward: bool,
    },
    /// More of the message must arrive first.
    More,
    /// Replies to earlier requests must arrive first.
    Blocked,
    /// The client says goodbye.
    Terminate,
}

/// A prepared execution that began outside a transaction, as it was sent: should its plan turn out stale
/// before anything was answered, it is prepared anew and sent again.
#[derive(Debug, Default)]
pub struct Retry {
    state: RetryState,
    bytes: Vec<u8>,
    kinds: Vec<Kind>,
    statement: Option<Arc<Statement>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum RetryState {
    #[default]
    Off,
    Recording,
    /// Sync went out, nothing after it.
    Complete,
}

impl Retry {
    fn stop(&mut self) {
        self.state = RetryState::Off;
    }

    fn begin(&mut self, statement: &Arc<Statement>) {
        self.state = RetryState::Recording;
        self.bytes.clear();
        self.kinds.clear();
        if !self.statement.as_ref().is_some_and(|s| Arc::ptr_eq(s, statement)) {
            self.statement = Some(Arc::clone(statement));
        }
    }

    fn record(&mut self, kind: Kind, bytes: &[u8]) {
        if self.state != RetryState::Recording || self.bytes.len() + bytes.len() > RETRY_LIMIT {
            self.stop();
            return;
        }
        self.bytes.extend_from_slice(bytes);
        self.kinds.push(kind);
        if kind == Kind::Sync {
            self.state = RetryState::Complete;
        }
    }

    /// The statement in use, when a plan error can only be about it.
    #[must_use]
    pub fn statement(&self) -> Option<&Arc<Statement>> {
        self.statement.as_ref().filter(|_| self.state != RetryState::Off)
    }

    /// Whether sending it again is safe: it is all there, nothing came after it, and the client will learn the
    /// shape of the rows anew, since it asked for a description.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        let described = self.kinds.iter().position(|&k| k == Kind::DescribePortal);
        let executed = self.kinds.iter().position(|&k| k == Kind::Execute);
        self.state == RetryState::Complete && described.is_some() && described < executed
    }
}

impl ServerState {
    /// Prepares the recorded execution anew and sends it again. The Sync of the first try is at the front of
    /// the pipeline and will be answered to nobody.
    pub fn send_again(&mut self, tables: &Tables, out: &mut Vec<u8>) {
        let Some(statement) = self.retry.statement.clone() else { return };
        self.retry.stop();
        if let Some(sync) = self.pipeline.front() {
            sync.fate = Fate::Skip;
        }
        let name = statement.server_name();
        frontend::put_statement_target(out, tag::CLOSE, &name);
        self.pipeline.push(Request::skip(Kind::Close, ServerUndo::Removed(statement.id)));
        frontend::put_parse(out, &name, statement.rest());
        self.pipeline.push(Request::skip(Kind::Parse, ServerUndo::Added(statement.id)));
        self.statements.insert(&statement, tables.statements.epoch());
        self.counts.server_parses += 1;
        out.extend_from_slice(&self.retry.bytes);
        for kind in std::mem::take(&mut self.retry.kinds) {
            self.pipeline.push(Request::forward(kind));
        }
    }
}

/// What a bound portal will do to the records when it is executed.
#[derive(Debug, Default)]
pub enum Bound {
    /// Nothing.
    #[default]
    Plain,
    /// DEALLOCATE of one statement.
    Forget(Box<Forget>),
    /// DEALLOCATE ALL, DISCARD ALL.
    ForgetAll,
}

/// A client with a server on loan, while its bytes are read.
#[derive(Debug)]
pub struct ClientPath<'a> {
    /// The client's memory.
    pub client: &'a mut ClientState,
    /// The server's.
    pub server: &'a mut ServerState,
    /// What the pool's clients share.
    pub tables: &'a Tables,
    /// `max_packet_size`.
    pub max_packet_size: usize,
    /// What goes to the server.
    pub to_server: &'a mut Output,
    /// What Carpool answers itself.
    pub to_client: &'a mut Vec<u8>,
}

impl From<FrameError> for ClientError {
    fn from(error: FrameError) -> Self {
        Self::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string())
    }
}

impl ClientPath<'_> {
    /// Takes the message that starts at `at`.
    ///
    /// # Errors
    /// For a malformed message, one that a client may not send now, or one over a limit: the client is told and
    /// disconnected.
    pub fn message(&mut self, input: &[u8], at: usize) -> Result<Step, ClientError> {
        let Some(header) = frame::peek(&input[at..])? else { return Ok(Step::More) };
        if self.server.hold {
            return Ok(Step::Blocked);
        }
        if self.server.pipeline.is_skipping() && !matches!(header.tag, tag::SYNC | tag::TERMINATE) {
            return Ok(pass(input, at, header, false));
        }
        match header.tag {
            tag::QUERY => self.query(input, at, header),
            tag::PARSE => self.parse(input, at, header),
            tag::BIND => self.bind(input, at, header),
            tag::DESCRIBE | tag::CLOSE => self.describe_or_close(input, at, header),
            tag::EXECUTE => self.execute(input, at, header),
            tag::SYNC => {
                self.server.pipeline.sync();
                Ok(self.forward(input, at, header, Kind::Sync))
            }
            tag::FLUSH => {
                self.server.retry.stop();
                while let Some(message) = self.server.pipeline.next_insert() {
                    backend::put_empty(self.to_client, message);
                }
                Ok(self.pass_on(input, at, header))
            }
            tag::FUNCTION_CALL => {
                self.server.pipeline.push(Request::forward(Kind::FunctionCall));
                Ok(self.forward(input, at, header, Kind::FunctionCall))
            }
            // Copy data that comes when no copy is on: dropped, as PostgreSQL drops it.
            tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL if self.server.pipeline.is_answered() => {
                Ok(pass(input, at, header, false))
            }
            tag::COPY_DATA => Ok(self.pass_on(input, at, header)),
            tag::COPY_DONE | tag::COPY_FAIL => {
                self.server.pipeline.copy_end();
                Ok(self.pass_on(input, at, header))
            }
            tag::TERMINATE => Ok(Step::Terminate),
            other => {
                Err(ClientError::fatal(SqlState::PROTOCOL_VIOLATION, format!("invalid frontend message type {other}")))
            }
        }
    }

    /// Sends on as much of the message as is there.
    fn pass_on(&mut self, input: &[u8], at: usize, header: Header) -> Step {
        let step = pass(input, at, header, true);
        if let Step::Taken { consumed, .. } = step {
            self.to_server.forward(input, at..at + consumed);
        }
        step
    }

    /// As [`Self::pass_on`], for a message that may have to be sent again.
    fn forward(&mut self, input: &[u8], at: usize, header: Header, kind: Kind) -> Step {
        let step = self.pass_on(input, at, header);
        match step {
            Step::Taken { consumed, remaining: 0, .. } => self.server.retry.record(kind, &input[at..at + consumed]),
            _ => self.server.retry.stop(),
        }
        step
    }

    fn query(&mut self, input: &[u8], at: usize, header: Header) -> Result<Step, ClientError> {
        let wanted = header.body_len.min(QUERY_INSPECTED);
        let Some(body) = body(input, at, wanted) else { return Ok(Step::More) };
        let text = if wanted == header.body_len { frontend::query(body)? } else { body };
        self.server.retry.stop();
        let mut request = Request::forward(Kind::Query);
        match sql::effect(text) {
            Effect::None => {}
            Effect::Deallocate(name) => {
                if let Some(statement) = self.client.statements.named.get(&name).cloned() {
                    if self.server.pipeline.uncertain(&name, statement.id) {
                        return Ok(Step::Blocked);
                    }
                    return Ok(self.deallocate(input, at, header, name, &statement));
                }
            }
            Effect::ForgetAll | Effect::Several => self.server.hold = true,
        }
        self.note_taint(sql::taint(text, &self.client.settings));
        self.client.statements.unnamed = None;
        self.server.statements.unnamed = None;
        request.undo = Undo::default();
        self.server.pipeline.push(request);
        Ok(self.pass_on(input, at, header))
    }

    fn note_taint(&mut self, taint: Option<super::Taint>) {
        self.server.taint = self.server.taint.or(taint);
    }

    /// A simple query `DEALLOCATE name`: the server knows the statement by another name.
    fn deallocate(
        &mut self,
        input: &[u8],
        at: usize,
        header: Header,
        name: Box<[u8]>,
        statement: &Arc<Statement>,
    ) -> Step {
        let Some(_) = body(input, at, header.body_len) else { return Step::More };
        let was_open = self.server.pipeline.is_open();
        if self.ensure_named(input, statement) && !was_open {
            // The failure of what was put in front must not swallow the query.
            frontend::put_empty(self.to_server.own(input), tag::SYNC);
            self.server.pipeline.push(Request::skip(Kind::Sync, ServerUndo::None));
        }
        let mut text = b"DEALLOCATE ".to_vec();
        statement.put_server_name(&mut text);
        frontend::put_query(self.to_server.own(input), &text);
        let forget = Some(Box::new(Forget { name, id: statement.id }));
        self.server.pipeline.push(Request { forget, ..Request::forward(Kind::Query) });
        self.client.statements.unnamed = None;
        self.server.statements.unnamed = None;
        self.server.hold = true;
        Step::Taken { consumed: header.total_len(), remaining: 0, forward: true }
    }

    fn parse(&mut self, input: &[u8], at: usize, header: Header) -> Result<Step, ClientError> {
        check_size(header, self.max_packet_size)?;
        let Some(body) = body(input, at, header.body_len) else { return Ok(Step::More) };
        let (name, rest) = frontend::parse(body)?;
        self.server.retry.stop();
        let taken = Step::Taken { consumed: header.total_len(), remaining: 0, forward: true };
        let known = self.client.statements.unnamed.as_ref().filter(|s| s.is(rest, &self.client.context));
        let statement = known.cloned().unwrap_or_else(|| self.tables.statements.intern(rest, &self.client.context));
        if name.is_empty() {
            self.parse_unnamed(input, at, header, statement);
            return Ok(taken);
        }
        if let Some(old) = self.client.statements.named.get(name).cloned() {
            if self.server.pipeline.uncertain(name, old.id) {
                return Ok(Step::Blocked);
            }
            // The server is to find the duplicate itself, after whatever else is wrong with the text.
            self.ensure_named(input, &old);
            frontend::put_parse(self.to_server.own(input), &old.server_name(), rest);
            self.server.pipeline.push(Request { duplicate: Some(name.into()), ..Request::forward(Kind::Parse) });
            return Ok(taken);
        }
        if self.server.pipeline.uncertain(name, statement.id) {
            return Ok(Step::Blocked);
        }
        self.server.counts.client_parses += 1;
        let undo = ClientUndo::Named(name.into(), None);
        let failed = self.server.pipeline.status() == TransactionStatus::Failed;
        let presence = self.server.statements.touch(&statement, self.tables.statements.epoch());
        if presence == Presence::Current && !failed {
            self.server.pipeline.push(Request::insert(reply::PARSE_COMPLETE, undo));
        } else {
            if presence != Presence::Missing {
                self.close_on_server(input, statement.id);
            }
            let rest = self.rest_for_server(&statement).into_owned();
            self.prepare(input, &statement, &rest, Fate::Forward, undo);
        }
        self.client.statements.named.insert(name.into(), statement);
        Ok(taken)
    }

    fn parse_unnamed(&mut self, input: &[u8], at: usize, header: Header, statement: Arc<Statement>) {
        if matches!(statement.effect, Effect::Deallocate(_)) {
            let rest = self.rest_for_server(&statement).into_owned();
            frontend::put_parse(self.to_server.own(input), b"", &rest);
        } else {
            self.to_server.forward(input, at..at + header.total_len());
        }
        let undo = Undo {
            server: ServerUndo::Unnamed(self.server.statements.unnamed.replace(statement.id)),
            client: ClientUndo::Unnamed(self.client.statements.unnamed.replace(statement)),
        };
        self.server.pipeline.push(Request { undo, ..Request::forward(Kind::Parse) });
    }

    fn bind(&mut self, input: &[u8], at: usize, header: Header) -> Result<Step, ClientError> {
        let start = at + HEADER_LEN;
        let here = &input[start..input.len().min(start + header.body_len)];
        let Some((portal, name, names_len)) = frontend::bind_names(&here[..here.len().min(NAMES_LIMIT)]) else {
            let all = here.len() == header.body_len || here.len() >= NAMES_LIMIT;
            return if all { Err(FrameError::Body(tag::BIND).into()) } else { Ok(Step::More) };
        };
        let idle = self.server.pipeline.is_idle();
        let statement = match self.find(input, name) {
            Found::Blocked => return Ok(Step::Blocked),
            Found::Unknown => None,
            Found::Known(statement) => Some(statement),
        };
        self.server.counts.binds += u32::from(!name.is_empty());
        if let Some(statement) = &statement {
            self.prepare_to_run(input, statement);
            let injected = if name.is_empty() { true } else { self.ensure_named(input, statement) };
            if name.is_empty() {
                self.ensure_unnamed(input, statement);
            }
            if idle && !injected {
                self.server.retry.begin(statement);
            } else {
                self.server.retry.stop();
            }
        }
        let sent_name = statement.filter(|_| !name.is_empty()).map(|s| s.server_name());
        let sent_name = sent_name.or_else(|| name.starts_with(SERVER_PREFIX).then(|| [b"?", name].concat()));
        self.server.pipeline.push(Request::forward(Kind::Bind));
        let Some(sent_name) = sent_name else {
            return Ok(self.forward(input, at, header, Kind::Bind));
        };
        let out = self.to_server.own(input);
        let from = out.len();
        frame::header(out, tag::BIND, header.body_len - name.len() + sent_name.len());
        frame::put_cstr(out, portal);
        frame::put_cstr(out, &sent_name);
        out.extend_from_slice(&here[names_len..]);
        let remaining = header.body_len - here.len();
        if remaining == 0 {
            self.server.retry.record(Kind::Bind, &out[from..]);
        } else {
            self.server.retry.stop();
        }
        Ok(Step::Taken { consumed: HEADER_LEN + here.len(), remaining, forward: true })
    }

    /// What running a statement does besides: taints, and what its outcome changes in the records.
    fn prepare_to_run(&mut self, input: &[u8], statement: &Arc<Statement>) {
        self.note_taint(statement.taint);
        match &statement.effect {
            Effect::None => {}
            Effect::ForgetAll | Effect::Several => self.server.bound = Bound::ForgetAll,
            Effect::Deallocate(name) => {
                if let Some(target) = self.client.statements.named.get(name).cloned() {
                    self.ensure_named(input, &target);
                    self.server.bound = Bound::Forget(Box::new(Forget { name: name.clone(), id: target.id }));
                }
            }
        }
    }

    fn describe_or_close(&mut self, input: &[u8], at: usize, header: Header) -> Result<Step, ClientError> {
        check_size(header, NAMES_LIMIT)?;
        let Some(body) = body(input, at, header.body_len) else { return Ok(Step::More) };
        let taken = Step::Taken { consumed: header.total_len(), remaining: 0, forward: true };
        match (header.tag, frontend::target(header.tag, body)?) {
            (tag::DESCRIBE, Target::Portal(_)) => {
                self.server.pipeline.push(Request::forward(Kind::DescribePortal));
                return Ok(self.forward(input, at, header, Kind::DescribePortal));
            }
            (tag::DESCRIBE, Target::Statement(name)) => {
                self.server.retry.stop();
                match self.find(input, name) {
                    Found::Blocked => return Ok(Step::Blocked),
                    Found::Known(statement) if name.is_empty() => {
                        self.ensure_unnamed(input, &statement);
                        self.to_server.forward(input, at..at + header.total_len());
                    }
                    Found::Known(statement) => {
                        self.ensure_named(input, &statement);
                        let out = self.to_server.own(input);
                        frontend::put_statement_target(out, tag::DESCRIBE, &statement.server_name());
                    }
                    Found::Unknown if name.starts_with(SERVER_PREFIX) => {
                        let out = self.to_server.own(input);
                        frontend::put_statement_target(out, tag::DESCRIBE, &[b"?", name].concat());
                    }
                    Found::Unknown => self.to_server.forward(input, at..at + header.total_len()),
                }
                self.server.pipeline.push(Request::forward(Kind::DescribeStatement));
            }
            (_, Target::Portal(_)) => {
                self.server.pipeline.push(Request::forward(Kind::Close));
                return Ok(self.forward(input, at, header, Kind::Close));
            }
            (_, Target::Statement(b"")) => {
                let undo = Undo {
                    client: ClientUndo::Unnamed(self.client.statements.unnamed.take()),
                    server: ServerUndo::Unnamed(self.server.statements.unnamed.take()),
                };
                self.server.pipeline.push(Request { undo, ..Request::forward(Kind::Close) });
                return Ok(self.forward(input, at, header, Kind::Close));
            }
            (_, Target::Statement(name)) => {
                self.server.retry.stop();
                if self.server.pipeline.uncertain(name, 0) {
                    return Ok(Step::Blocked);
                }
                let undo = match self.client.statements.named.remove(name) {
                    Some(old) => ClientUndo::Named(name.into(), Some(old)),
                    None => ClientUndo::None,
                };
                self.server.pipeline.push(Request::insert(reply::CLOSE_COMPLETE, undo));
            }
        }
        Ok(taken)
    }

    fn execute(&mut self, input: &[u8], at: usize, header: Header) -> Result<Step, ClientError> {
        let bound = std::mem::take(&mut self.server.bound);
        let forget = match bound {
            Bound::Plain => {
                self.server.pipeline.push(Request::forward(Kind::Execute));
                return Ok(self.forward(input, at, header, Kind::Execute));
            }
            Bound::Forget(forget) => Some(forget),
            Bound::ForgetAll => None,
        };
        check_size(header, NAMES_LIMIT)?;
        if body(input, at, header.body_len).is_none() {
            self.server.bound = forget.map_or(Bound::ForgetAll, Bound::Forget);
            return Ok(Step::More);
        }
        self.server.retry.stop();
        self.server.pipeline.push(Request { forget, ..Request::forward(Kind::Execute) });
        let step = self.pass_on(input, at, header);
        // What comes next depends on how this ends, so the server is asked to say so now.
        frontend::put_empty(self.to_server.own(input), tag::FLUSH);
        self.server.hold = true;
        Ok(step)
    }

    /// The statement that the client means by `name`. An unknown unnamed one must be unknown to the server, too.
    fn find(&mut self, input: &[u8], name: &[u8]) -> Found {
        if name.is_empty() {
            if let Some(statement) = self.client.statements.unnamed.clone() {
                return Found::Known(statement);
            }
            if let Some(old) = self.server.statements.unnamed.take() {
                frontend::put_statement_target(self.to_server.own(input), tag::CLOSE, b"");
                self.server.pipeline.push(Request::skip(Kind::Close, ServerUndo::Unnamed(Some(old))));
            }
            return Found::Unknown;
        }
        let statement = self.client.statements.named.get(name).cloned();
        if self.server.pipeline.uncertain(name, statement.as_ref().map_or(0, |s| s.id)) {
            return Found::Blocked;
        }
        statement.map_or(Found::Unknown, Found::Known)
    }

    /// Has the server's unnamed statement be the client's.
    fn ensure_unnamed(&mut self, input: &[u8], statement: &Arc<Statement>) {
        let fixed = !matches!(statement.effect, Effect::Deallocate(_));
        if fixed && self.server.statements.unnamed == Some(statement.id) {
            return;
        }
        let rest = self.rest_for_server(statement).into_owned();
        frontend::put_parse(self.to_server.own(input), b"", &rest);
        let old = self.server.statements.unnamed.replace(statement.id);
        self.server.pipeline.push(Request::skip(Kind::Parse, ServerUndo::Unnamed(old)));
    }

    /// Has the server know a named statement. Says whether something had to be put in front for it.
    fn ensure_named(&mut self, input: &[u8], statement: &Arc<Statement>) -> bool {
        let fixed = !matches!(statement.effect, Effect::Deallocate(_));
        match self.server.statements.touch(statement, self.tables.statements.epoch()) {
            Presence::Current if fixed => return false,
            Presence::Missing => {}
            Presence::Current | Presence::Stale => self.close_on_server(input, statement.id),
        }
        let rest = self.rest_for_server(statement).into_owned();
        self.prepare(input, statement, &rest, Fate::Skip, ClientUndo::None);
        true
    }

    fn close_on_server(&mut self, input: &[u8], id: u64) {
        let name = [SERVER_PREFIX, id.to_string().as_bytes()].concat();
        frontend::put_statement_target(self.to_server.own(input), tag::CLOSE, &name);
        self.server.statements.remove(id);
        self.server.pipeline.push(Request::skip(Kind::Close, ServerUndo::Removed(id)));
    }

    fn prepare(&mut self, input: &[u8], statement: &Arc<Statement>, rest: &[u8], fate: Fate, client: ClientUndo) {
        if let Some(victim) = self.server.statements.evict() {
            self.close_on_server(input, victim);
        }
        frontend::put_parse(self.to_server.own(input), &statement.server_name(), rest);
        let undo = Undo { client, server: ServerUndo::Added(statement.id) };
        self.server.pipeline.push(Request { fate, undo, ..Request::forward(Kind::Parse) });
        self.server.statements.insert(statement, self.tables.statements.epoch());
        self.server.counts.server_parses += 1;
    }

    /// The Parse body after the name as the server must get it: `DEALLOCATE` of one of this client's statements
    /// names the server's.
    fn rest_for_server<'s>(&self, statement: &'s Arc<Statement>) -> Cow<'s, [u8]> {
        let Effect::Deallocate(name) = &statement.effect else { return Cow::Borrowed(statement.rest()) };
        let Some(target) = self.client.statements.named.get(name) else { return Cow::Borrowed(statement.rest()) };
        let types = memchr::memchr(0, statement.rest()).map_or(&b""[..], |at| &statement.rest()[at..]);
        let mut rest = b"DEALLOCATE ".to_vec();
        target.put_server_name(&mut rest);
        rest.extend_from_slice(types);
        Cow::Owned(rest)
    }
}

enum Found {
    Known(Arc<Statement>),
    Unknown,
    Blocked,
}

/// The first `wanted` bytes of the body, once they are there.
fn body(input: &[u8], at: usize, wanted: usize) -> Option<&[u8]> {
    let start = at + HEADER_LEN;
    input.get(start..start + wanted)
}

/// As much of the message as is there, the rest to follow.
fn pass(input: &[u8], at: usize, header: Header, forward: bool) -> Step {
    let consumed = header.total_len().min(input.len() - at);
    Step::Taken { consumed, remaining: header.total_len() - consumed, forward }
}

fn check_size(header: Header, limit: usize) -> Result<(), ClientError> {
    if header.body_len <= limit {
        return Ok(());
    }
    let text = format!("message of type \"{}\" with {} bytes is too long", char::from(header.tag), header.body_len);
    Err(ClientError::fatal(SqlState::PROGRAM_LIMIT_EXCEEDED, text)
        .detail(format!("Messages that must be held whole may have {limit} bytes."))
        .hint("See max_packet_size."))
}

/// What Carpool answers to a client that has no server and asks for nothing that needs one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Local {
    /// Answered, or nothing to answer; as [`Step::Taken`] with the rest dropped.
    Taken {
        /// Bytes of input used.
        consumed: usize,
        /// Bytes of the same message still to come and be dropped.
        remaining: usize,
    },
    /// More of the message must arrive first.
    More,
    /// It needs a server.
    NeedsServer,
    /// The client says goodbye.
    Terminate,
}

/// Takes the message at `at` for a client without a server.
///
/// # Errors
/// As [`ClientPath::message`].
pub fn local(client: &mut ClientState, input: &[u8], at: usize, to_client: &mut Vec<u8>) -> Result<Local, ClientError> {
    let Some(header) = frame::peek(&input[at..])? else { return Ok(Local::More) };
    let dropped = match pass(input, at, header, false) {
        Step::Taken { consumed, remaining, .. } => Local::Taken { consumed, remaining },
        _ => Local::More,
    };
    match header.tag {
        tag::TERMINATE => Ok(Local::Terminate),
        tag::SYNC => {
            client.skipping = false;
            backend::put_ready(to_client, TransactionStatus::Idle);
            Ok(dropped)
        }
        _ if client.skipping => Ok(dropped),
        tag::FLUSH | tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => Ok(dropped),
        tag::CLOSE => {
            check_size(header, NAMES_LIMIT)?;
            let Some(body) = body(input, at, header.body_len) else { return Ok(Local::More) };
            match frontend::target(header.tag, body)? {
                Target::Statement(b"") => client.statements.unnamed = None,
                Target::Statement(name) => drop(client.statements.named.remove(name)),
                // No portal outlives its transaction.
                Target::Portal(_) => {}
            }
            backend::put_empty(to_client, reply::CLOSE_COMPLETE);
            Ok(dropped)
        }
        _ => Ok(Local::NeedsServer),
    }
}

#[cfg(test)]
mod tests;
