//! The way from server to client: one message at a time from the server's bytes to the client's, with what it
//! settles in the records.
//!
//! Rows and other bulk go on unread, by their headers. Bodies are read only of ErrorResponse, ReadyForQuery,
//! ParameterStatus and CommandComplete.

mod notify;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::functions::changes_functions;
use super::pipeline::{ClientUndo, Describes, ErrorText, Fate, Kind, Meant, Passes, Request, ServerUndo, Unexpected};
use super::request::{OWN, Output, Tables};
use super::session::{Findings, Probe, Taint, Taints};
use super::settings::{
    DEFAULT_READ_ONLY, IN_HOT_STANDBY, ROLE, SESSION_AUTHORIZATION, Settings, canonical_name, follows_client,
};
use super::sql::makes_temporary;
use super::statements::{DUMMY, SERVER_PREFIX, Told};
use super::{ClientState, ServerState};
use crate::error::{ClientError, SqlState};
use crate::stats::tally::class_of;
use crate::wire::backend::{self, TransactionStatus, tag};
use crate::wire::frame::{self, FrameError, HEADER_LEN, Header};
use crate::wire::frontend;

/// How much of a long error is looked at, bytes.
const ERROR_INSPECTED: usize = 8 * 1024;
/// The longest message that must be held whole, bytes.
const WHOLE_LIMIT: usize = 1024 * 1024;

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
    /// A COPY failed when it had been sent a Sync, which may or may not be answered.
    #[error("a COPY failed in a way that leaves open what the server will answer")]
    Copy,
    /// A statement that had to be prepared anew isn't what the client was told, and its execution has been sent.
    #[error("a prepared statement's parameters or rows have changed")]
    Changed,
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
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Events {
    /// The client's requests that ended in ReadyForQuery.
    pub queries: u32,
    /// Those among them that left no transaction open.
    pub transactions: u32,
    /// The server said that it ends the connection: the body of its ErrorResponse, which the client hasn't got.
    pub last_words: Option<Box<[u8]>>,
    /// A query of Carpool's own ended well.
    pub replayed: bool,
    /// The client's settings changed.
    pub settings_changed: bool,
    /// The marker of a change of who delivers notifications has passed, or has failed.
    pub marker: Option<MarkerEnd>,
    /// The classes of the errors that the client is told.
    pub errors: Vec<&'static str>,
    /// For each error how many of the client's requests that would have run something were skipped, and how many were in
    /// flight behind them.
    pub skipped_runs: Vec<(usize, usize)>,
    /// The server says that the protocol was broken.
    pub violates: bool,
}

/// What became of a marker, see [`super::listen`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MarkerEnd {
    /// The server has delivered it.
    Passed(u64),
    /// It could not be sent.
    Failed(u64),
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
        let start = at + HEADER_LEN;
        let found = header.tag == tag::DATA_ROW && self.server.probe.is_some() && self.is_own();
        let wanted = if found { header.body_len.min(WHOLE_LIMIT) } else { inspected(header)? };
        let Some(body) = input.get(start..start + wanted) else { return Ok(Step::More) };
        self.inserts(input);
        let forward = match header.tag {
            // These may come at any time; notices of Carpool's own requests are nobody's business.
            tag::NOTICE_RESPONSE => !self.is_own(),
            tag::NOTIFICATION_RESPONSE => self.notification(input, body)?,
            tag::PARAMETER_STATUS => self.parameter_status(body)?,
            tag::ERROR_RESPONSE => self.error(input, header, body)?,
            tag::READY_FOR_QUERY => self.ready(input, body)?,
            _ => self.reply(header, body)?,
        };
        let consumed = header.total_len().min(input.len() - at);
        if forward {
            self.to_client.forward(input, at..at + consumed);
        }
        let remaining = header.total_len() - consumed;
        self.server.partial = remaining > 0;
        if remaining == 0 {
            self.inserts(input);
            if self.server.pipeline.is_answered() {
                self.server.hold = false;
            }
        }
        Ok(Step::Taken { consumed, remaining, forward })
    }

    /// Passes on whole messages of results and ends of requests, from `at` on, as far as they change no other records.
    /// Gives where they end.
    pub fn results(&mut self, input: &[u8], at: usize) -> Result<usize, ServerFault> {
        if self.server.partial {
            return Ok(at);
        }
        let quiet = self.server.left().is_empty();
        let mut passes = self.server.pipeline.passes();
        let mut end = at;
        while let Some(header) = frame::peek(&input[end..])? {
            let Some(message) = input.get(end..end + header.total_len()) else { break };
            let noted = header.tag == tag::COMMAND_COMPLETE && !(quiet && is_of_results(&message[HEADER_LEN..]));
            let within = match header.tag {
                tag::DATA_ROW => passes != Passes::Nothing,
                tag::ROW_DESCRIPTION => quiet && passes == Passes::Results,
                tag::COMMAND_COMPLETE => !noted && passes == Passes::Results,
                _ => false,
            };
            if !within {
                if noted || !self.server.pipeline.pass_end(header.tag) {
                    break;
                }
                passes = self.server.pipeline.passes();
            }
            end += message.len();
        }
        if end > at {
            self.to_client.forward(input, at..end);
        }
        Ok(end)
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

    fn reply(&mut self, header: Header, body: &[u8]) -> Result<bool, ServerFault> {
        match header.tag {
            tag::DATA_ROW if self.is_own() => {
                if let Some(probe) = &mut self.server.probe {
                    probe.row(header.tag, body)?;
                }
            }
            tag::COMMAND_COMPLETE => self.command_complete(body),
            tag::PARAMETER_DESCRIPTION | tag::ROW_DESCRIPTION => self.describe(header.tag, body)?,
            _ => {}
        }
        let (forward, ended) = self.server.pipeline.reply(header.tag)?;
        let copies = header.tag == tag::COPY_IN_RESPONSE;
        if let Some(describes) = ended.and_then(|extra| extra.describes) {
            self.described(describes)?;
        }
        // A simple query goes on after its COPY.
        let executes = copies && self.server.pipeline.front().is_some_and(|r| r.kind == Kind::Execute);
        if executes || self.server.pipeline.is_answered() {
            self.server.hold = false;
        }
        Ok(forward)
    }

    /// Collects what a statement looks like.
    fn describe(&mut self, message: u8, body: &[u8]) -> Result<(), ServerFault> {
        let extra = self.server.pipeline.front().and_then(|r| r.extra.as_mut());
        if let Some(describes) = extra.and_then(|e| e.describes.as_mut()) {
            describes.shape.push(message);
            match message {
                tag::ROW_DESCRIPTION => backend::put_row_shape(&mut describes.shape, body)?,
                _ => describes.shape.extend_from_slice(body),
            }
        }
        Ok(())
    }

    /// A statement's description is complete.
    fn described(&mut self, describes: Describes) -> Result<(), ServerFault> {
        let Describes { statement, name, expected, shape } = describes;
        let epoch = self.tables.statements.epoch();
        let shape = statement.shape(&shape, epoch);
        self.server.statements.set_shape(statement.id, shape, epoch);
        if expected.is_some() && shape != expected {
            self.tables.statements.schema_changed();
            return Err(ServerFault::Changed);
        }
        let named = name.and_then(|name| self.client.statements.named.get_mut(&name));
        if let Some(named) = named.filter(|n| n.statement.rest() == statement.rest()) {
            let shape = shape.and_then(|shape| named.statement.shape_of(&statement, shape));
            named.told = shape.map_or(Told::Nothing, Told::Shape);
        }
        Ok(())
    }

    /// Applies what the front request, now known to have succeeded, does to the records.
    fn command_complete(&mut self, body: &[u8]) {
        if self.is_own() {
            return;
        }
        let command = body.strip_suffix(b"\0").unwrap_or(body);
        self.server.note_command(command);
        let Some(front) = self.server.pipeline.front() else { return };
        match command {
            b"DEALLOCATE ALL" | b"DISCARD ALL" => {
                self.client.statements.named.clear();
                self.server.by_sql.clear();
                self.server.statements.clear_named();
                if command == b"DISCARD ALL" {
                    let settings = self.server.settings.without(ROLE);
                    self.server.settings = self.tables.settings.intern(settings);
                    self.server.was_reset = true;
                    let role = self.client.settings.with_that_of(&self.client.startup, ROLE);
                    self.client.settings = self.tables.settings.intern(role);
                    self.client.tenant = self.server.sequences.forget_for_client();
                    self.server.discarded();
                }
            }
            b"DISCARD SEQUENCES" if front.extra.as_ref().is_some_and(|e| e.forgets_sequences) => {
                self.client.tenant = self.server.sequences.forget_for_client();
                self.server.touched = self.server.touched.without(Taint::Sequences.into());
                self.server.pins = self.server.pins.without(Taint::Sequences.into());
            }
            b"DEALLOCATE" => {
                if let Some(Some(name)) = front.extra.as_mut().and_then(|e| e.forget.pop()) {
                    self.client.statements.named.remove(&name);
                    self.server.by_sql.remove(&name);
                }
            }
            b"PREPARE" => {
                let made = front.extra.as_mut().and_then(|e| e.makes.pop());
                self.server.by_sql.extend(made);
            }
            b"RESET" | b"SET" => {
                self.server.was_reset |= front.resets();
                if let Some(extra) = &mut front.extra {
                    self.server.defaulted.append(&mut extra.defaults);
                }
            }
            // What a block does isn't told.
            b"DO" => (self.server.schema_changed, self.server.functions_changed) = (true, true),
            _ if command.starts_with(b"SELECT ") && front.extra.as_ref().is_some_and(|e| e.creates) => {
                self.server.schema_changed = true;
            }
            _ if SCHEMA_CHANGES.iter().any(|begins| command.starts_with(begins)) => {
                self.server.schema_changed = true;
                self.server.functions_changed |= changes_functions(command);
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
            if name == DEFAULT_READ_ONLY && !own {
                // Was it the session, in whatever way, or who runs the server?
                self.server.touched |= Taint::Setting;
            }
            self.server.promoted |= name == IN_HOT_STANDBY;
            return Ok(!own);
        }
        if self.server.settings.get(name) != Some(value) {
            let settings = self.server.settings.with_reported(name, value);
            self.server.settings = self.tables.settings.intern(settings);
        }
        let of_one = self.server.defaulted.iter().any(|defaulted| defaulted.eq_ignore_ascii_case(name));
        if self.server.was_reset || of_one {
            // Of the server's own defaults; what the client gets back is settled at ReadyForQuery.
            return Ok(false);
        }
        // In a replay the server may spell a value its own way: that spelling is the client's from now on, or
        // the two would differ for ever.
        if self.client.settings.get(name) != Some(value) {
            let context = Arc::clone(&self.client.context);
            let settings = self.tables.settings.intern(self.client.settings.with_reported(name, value));
            self.client.set_settings(settings, &self.tables.settings);
            self.events.settings_changed = true;
            let unforeseen = !own && !self.server.unsettled && !Arc::ptr_eq(&context, &self.client.context);
            if unforeseen {
                self.server.statements.distrust_recent();
            }
        }
        Ok(!own)
    }

    fn error(&mut self, input: &[u8], header: Header, body: &[u8]) -> Result<bool, ServerFault> {
        let code = backend::error_field(body, b'C').unwrap_or(b"XX000");
        self.events.violates |= code == SqlState::PROTOCOL_VIOLATION.0.as_bytes();
        if backend::is_fatal(body) && header.body_len == body.len() {
            // The server's last words: what they mean for the session is not decided here.
            self.events.last_words = Some(body.into());
            return Ok(false);
        }
        let stale_plan = code == b"0A000" && backend::error_field(body, b'R') == Some(b"RevalidateCachedQuery");
        let again = stale_plan && self.stale_plan();
        let extra = self.server.pipeline.front().and_then(|r| r.extra.as_mut());
        let text = extra.and_then(|e| e.error.take());
        let failure = self.server.pipeline.error();
        if failure.own_query && self.server.probe.take().is_some() {
            // What there is can't be told, so the client keeps the server.
            self.server.pins |= Taint::Unknown;
            return Ok(false);
        }
        if let (false, false, Some(probe)) = (failure.forward, failure.own_query, &mut self.server.probe) {
            probe.fail();
        }
        if failure.own_query && self.marker_failed() {
            return Ok(false);
        }
        if failure.own_query {
            let message = backend::error_field(body, b'M').unwrap_or(b"unknown error");
            return Err(ServerFault::Replay(String::from_utf8_lossy(message).into_owned()));
        }
        if failure.doubtful {
            return Err(ServerFault::Copy);
        }
        let failed_at = failure.undone.len();
        if !again {
            let skipped = failure.undone.iter().rev().skip(1).filter(|r| r.fate == Fate::Forward && r.runs()).count();
            if skipped > 0 {
                self.events.skipped_runs.push((skipped, self.server.pipeline.client_runs()));
            }
        }
        for (i, request) in failure.undone.into_iter().enumerate() {
            self.undo(request, i + 1 == failed_at);
        }
        if again {
            self.server.send_again(self.tables.statements.epoch(), self.to_server);
            return Ok(false);
        }
        self.server.retry.stop();
        if std::mem::take(&mut self.server.was_reset) {
            // It is rolled back, or not: DISCARD ALL may not be.
            self.server.touched |= Taint::Setting;
        }
        self.server.defaulted.clear();
        if self.server.touched.has(Taint::Named) {
            // Perhaps it wasn't set, or can't be: only what the session has set is the client's.
            self.server.touched |= Taint::Setting;
        }
        if self.server.pipeline.is_answered() {
            self.server.hold = false;
        }
        let forward = failure.forward;
        if forward {
            self.events.errors.push(class_of(code));
        }
        Ok(forward && !(header.body_len == body.len() && self.put_for_client(input, code, body, text.as_ref())))
    }

    /// A plan can't be used any more since what it takes or returns has changed. Says whether to send the
    /// execution again.
    fn stale_plan(&mut self) -> bool {
        self.tables.statements.schema_changed();
        let Some(front) = self.server.pipeline.front() else { return false };
        let forwarded_bind = front.kind == Kind::Bind && front.fate == Fate::Forward;
        let used = match (&front.undo.server, front.extra.as_ref().and_then(|e| e.describes.as_ref())) {
            (_, Some(describes)) => describes.statement.id,
            (ServerUndo::Uses(id), None) => *id,
            _ => return false,
        };
        let named = self.client.statements.named.values().map(|named| &named.statement).find(|s| s.id == used);
        if let Some(statement) = named.or_else(|| self.server.statements.get(used)) {
            statement.mark_stale();
        }
        forwarded_bind && self.server.retry.is_safe()
    }

    /// Gives the client an error about a statement that has another name on the server, in the client's words.
    /// Says whether it did; else the error may go on as it is.
    fn put_for_client(&mut self, input: &[u8], code: &[u8], body: &[u8], text: Option<&ErrorText>) -> bool {
        let about_names = [&b"26000"[..], b"42P05", b"08P01", b"42601"].contains(&code);
        let Some(message) = backend::error_field(body, b'M').filter(|_| about_names) else { return false };
        let (sent, name) = match text {
            Some(ErrorText::Changed) => {
                backend::put_changed(self.to_client.own(input));
                return true;
            }
            Some(&ErrorText::Own(refusal)) => {
                let is_it = memchr::memmem::find(message, OWN).is_some();
                if is_it {
                    backend::put_error(self.to_client.own(input), &refusal.into());
                }
                return is_it;
            }
            Some(ErrorText::Name(name)) => {
                let sent = if code == SqlState::DUPLICATE_STATEMENT.0.as_bytes() {
                    DUMMY.to_vec()
                } else {
                    [b"?", &**name].concat()
                };
                (sent, name.clone())
            }
            None => {
                let Some(id) = server_id(message) else { return false };
                if code == SqlState::INVALID_STATEMENT_NAME.0.as_bytes() {
                    // The server lacks a statement that it should have: what it has is unknown.
                    self.server.touched |= Taint::SqlPrepare;
                    self.server.pins |= Taint::Unknown;
                }
                let named = self.client.statements.named.iter().find(|(_, named)| named.statement.id == id);
                let name = match named {
                    Some((name, _)) => name.clone(),
                    None if self.tables.reuses_unnamed() => Box::default(),
                    None => return false,
                };
                ([SERVER_PREFIX, id.to_string().as_bytes()].concat(), name)
            }
        };
        let Some(at) = memchr::memmem::find(message, &sent) else { return false };
        let message = [&message[..at], &name, &message[at + sent.len()..]].concat();
        backend::put_error_with_message(self.to_client.own(input), body, &message);
        true
    }

    /// Takes a request back that failed (`failed`) or was skipped.
    fn undo(&mut self, request: Request, failed: bool) {
        let statements = &mut self.client.statements;
        let described = request.extra.as_ref().and_then(|e| e.describes.as_ref()).and_then(|d| d.name.as_ref());
        if let Some(named) = described.and_then(|name| statements.named.get_mut(name)) {
            named.told = Told::Nothing;
        }
        match request.undo.client {
            ClientUndo::None => {}
            ClientUndo::Named(meant) => match *meant {
                Meant { name, before: Some(old) } => drop(statements.named.insert(name, old)),
                Meant { name, before: None } => drop(statements.named.remove(&name)),
            },
            ClientUndo::Unnamed(old) => {
                // A failed Parse of the unnamed statement has dropped the old one first.
                if let Some(now) = self.server.pipeline.restore_client_unnamed(old.filter(|_| !failed)) {
                    statements.unnamed = now;
                }
            }
        }
        let statements = &mut self.server.statements;
        match request.undo.server {
            ServerUndo::None | ServerUndo::Uses(_) => {}
            ServerUndo::ClosedBySql(meant) => drop(self.server.by_sql.insert(meant.name)),
            ServerUndo::Added(id) => statements.remove(id),
            ServerUndo::Removed(id) => statements.restore(id),
            ServerUndo::Sequences => self.server.sequences.distrust(),
            ServerUndo::Unnamed(old) => {
                if let Some(now) = self.server.pipeline.restore_server_unnamed(old.filter(|_| !failed)) {
                    statements.unnamed = now;
                }
            }
        }
    }

    fn ready(&mut self, input: &[u8], body: &[u8]) -> Result<bool, ServerFault> {
        let status = backend::ready_for_query(body)?;
        let request = self.server.pipeline.ready(status)?;
        let forward = request.fate == Fate::Forward;
        if forward {
            self.events.queries += 1;
            if !self.client.to_tell.is_empty() {
                self.tell_pins(input);
            }
        } else if (request.kind == Kind::Query || self.server.probe.is_some()) && !self.hand_over()? {
            self.events.replayed = true;
            if let Some(probe) = self.server.probe.take() {
                self.answered(*probe);
            }
        }
        if request.resets() && status != TransactionStatus::Idle {
            // It may yet be rolled back.
            self.server.touched |= Taint::Setting;
        }
        if status == TransactionStatus::Idle {
            self.events.transactions += u32::from(forward);
            if forward {
                self.give_notifications(input);
            }
            if std::mem::take(&mut self.server.schema_changed) {
                self.tables.statements.schema_changed();
            }
            if std::mem::take(&mut self.server.functions_changed) {
                self.tables.functions.forget();
                if self.server.called {
                    // Perhaps one that was made, or made another, on the way.
                    self.server.touched |= Taints::ASKABLE;
                }
            }
        }
        if std::mem::take(&mut self.server.was_reset) {
            self.settle_reset(input);
        }
        if !self.server.defaulted.is_empty() {
            self.settle_defaults(input);
        }
        if self.server.pipeline.is_answered() {
            self.server.hold = false;
            self.server.settle();
        }
        Ok(forward)
    }

    /// A question has its answer.
    fn answered(&mut self, probe: Probe) {
        let (asked, epoch) = (probe.asked(), probe.functions_epoch());
        if probe.has_failed() {
            return self.server.ask_otherwise(asked);
        }
        let findings = probe.finish();
        self.learn_functions(&findings, epoch);
        self.apply_findings(asked, findings);
    }

    /// Notes what functions may do, for this call and for later ones.
    fn learn_functions(&mut self, findings: &Findings, epoch: u32) {
        for (name, class) in &findings.functions {
            self.tables.functions.learn(name, *class, epoch);
            // The rest was asked for as well.
            let left = class.taint(self.tables.strict()).without(Taints::ASKABLE);
            self.server.found(left.and(Taints::PINNING));
            self.server.touched |= left.without(Taints::PINNING);
            self.tables.sequences_read.fetch_or(class.reads_sequences, Ordering::Relaxed);
        }
        if findings.custom_asked {
            self.tables.functions.learn_custom(findings.custom.iter().map(|(name, _)| name.clone()), epoch);
        }
    }

    /// What a probe found: settings are the client's from now on, and everything else ties it to the server.
    fn apply_findings(&mut self, asked: Taints, mut findings: Findings) {
        if asked.has(Taint::Listen) {
            self.note_channels(std::mem::take(&mut findings.channels), findings.noted);
        }
        let pins = self.server.pins.without(asked).or(findings.present);
        self.server.pins = pins;
        if !pins.has(Taint::SqlPrepare) {
            self.server.by_sql.clear();
        }
        let mut settings = (*self.client.settings).clone();
        if findings.complete {
            settings = settings.retain(|name, reported| reported || name == ROLE);
        }
        let unnamed = |name: &str| findings.complete && name.contains('.') && self.client.settings.get(name).is_none();
        let custom = findings.custom.into_iter().map(|(name, value)| (String::from(name), value));
        findings.settings.extend(custom);
        for (name, value) in findings.settings {
            match value {
                _ if settings.reported(&name) => {}
                // As those with a dot are that were reset, by whomever.
                Some(value) if value.is_empty() && unnamed(&name) => {}
                Some(value) if name != ROLE || value != "none" => settings = settings.with(&name, &value),
                _ => settings = settings.without(&name),
            }
        }
        if settings.get("search_path").is_some_and(makes_temporary) {
            // What it creates is temporary, and nothing in the texts will show it.
            self.server.found(Taint::Process.into());
        }
        self.adopt(settings);
        self.server.settings = Arc::clone(&self.client.settings);
    }

    /// Makes these the client's settings.
    fn adopt(&mut self, settings: Settings) {
        let settings = self.tables.settings.intern(settings);
        self.events.settings_changed |= !Arc::ptr_eq(&settings, &self.client.settings);
        self.client.set_settings(settings, &self.tables.settings);
        self.server.keep_by_hand(self.client.own.pin);
    }

    /// Tells the client of a reported parameter's value, unless that is what it knows.
    fn tell(&mut self, input: &[u8], name: &str, value: &str) {
        if self.client.settings.get(name) != Some(value) {
            let out = self.to_client.own(input);
            backend::put_parameter_status(out, canonical_name(name).as_bytes(), value.as_bytes());
        }
    }

    /// Tells the client why it keeps its server. The reasons were found when it had its last answer, so they are told
    /// in front of the end of this one, where PostgreSQL tells its notices.
    fn tell_pins(&mut self, input: &[u8]) {
        let reasons = std::mem::take(&mut self.client.to_tell);
        self.client.told |= reasons;
        let text = format!("carpool: this session keeps its server connection: {}", reasons.names());
        let notice = ClientError::error(SqlState::SUCCESSFUL_COMPLETION, text)
            .hint("See max_pinned, and SHOW PINS on the console.");
        backend::put_notice(self.to_client.own(input), &notice);
    }

    /// As [`Self::settle_reset`], for some parameters.
    fn settle_defaults(&mut self, input: &[u8]) {
        let startup = Arc::clone(&self.client.startup);
        let mut settings = (*self.client.settings).clone();
        let mut left = (*self.server.settings).clone();
        for name in std::mem::take(&mut self.server.defaulted) {
            let Some(value) = startup.get(&name) else { continue };
            if *name == *ROLE && left.get(SESSION_AUTHORIZATION) != startup.get(SESSION_AUTHORIZATION) {
                // Another user may not have the right to it.
                continue;
            }
            settings = settings.with_that_of(&startup, &name);
            if !startup.reported(&name) {
                left = left.without(&name);
            } else {
                self.tell(input, &name, value);
            }
        }
        self.adopt(settings);
        self.server.settings = self.tables.settings.intern(left);
        self.replay();
    }

    /// The client has reset its session. On a connection of its own that brings back what it asked for at
    /// startup, where the server only knows its own defaults.
    fn settle_reset(&mut self, input: &[u8]) {
        let left = self.server.settings.only_reported().with_that_of(&self.server.settings, ROLE);
        self.server.settings = self.tables.settings.intern(left);
        // RESET ALL leaves these two alone, and what DISCARD ALL makes of them is known.
        let settings = self.client.startup.with_that_of(&self.client.settings, ROLE);
        let settings = settings.with_that_of(&self.server.settings, SESSION_AUTHORIZATION);
        for (name, value) in settings.iter().filter(|(name, _)| settings.reported(name)) {
            self.tell(input, name, value);
        }
        self.adopt(settings);
        self.replay();
    }

    /// Has the server's settings be the client's, now.
    fn replay(&mut self) {
        let sql = self.server.settings.replay(&self.client.settings);
        if !sql.is_empty() {
            frontend::put_query(self.to_server, sql.as_bytes());
            self.server.pipeline.push(Request::skip(Kind::Query, ServerUndo::None));
            self.server.statements.unnamed = None;
            self.server.hold = true;
        }
        self.server.settings = Arc::clone(&self.client.settings);
    }
}

/// How much of a message's body is looked at. Those that end a request are held whole, so that nothing can be
/// put into them.
fn inspected(header: Header) -> Result<usize, FrameError> {
    let len = header.body_len;
    match header.tag {
        tag::READY_FOR_QUERY if len == 1 => Ok(len),
        tag::PARSE_COMPLETE
        | tag::BIND_COMPLETE
        | tag::CLOSE_COMPLETE
        | tag::NO_DATA
        | tag::EMPTY_QUERY_RESPONSE
        | tag::PORTAL_SUSPENDED
            if len == 0 =>
        {
            Ok(len)
        }
        tag::PARAMETER_STATUS
        | tag::PARAMETER_DESCRIPTION
        | tag::ROW_DESCRIPTION
        | tag::COMMAND_COMPLETE
        | tag::NOTIFICATION_RESPONSE
            if len <= WHOLE_LIMIT =>
        {
            Ok(len)
        }
        tag::ERROR_RESPONSE => Ok(len.min(ERROR_INSPECTED)),
        tag::DATA_ROW
        | tag::COPY_DATA
        | tag::COPY_DONE
        | tag::COPY_IN_RESPONSE
        | tag::COPY_OUT_RESPONSE
        | tag::FUNCTION_CALL_RESPONSE
        | tag::NOTICE_RESPONSE => Ok(0),
        other => Err(FrameError::Body(other)),
    }
}

/// How the tags of commands begin after which a name may mean another table, or none.
const SCHEMA_CHANGES: [&[u8]; 5] = [b"ALTER ", b"CREATE ", b"DROP ", b"IMPORT ", b"COMMIT PREPARED"];

/// Whether a command tag is that of a command which reads or writes rows, and does nothing else.
fn is_of_results(tag: &[u8]) -> bool {
    matches!(tag.first_chunk::<7>(), Some(b"SELECT " | b"INSERT " | b"UPDATE " | b"DELETE "))
}

/// The id in one of Carpool's names that stands in an error's text.
fn server_id(message: &[u8]) -> Option<u64> {
    let at = memchr::memmem::find(message, &[b"\"", SERVER_PREFIX].concat())?;
    let digits = &message[at + 1 + SERVER_PREFIX.len()..];
    let len = digits.iter().position(|b| !b.is_ascii_digit())?;
    std::str::from_utf8(&digits[..len]).ok()?.parse().ok()
}
