//! The way from client to server: one message at a time from the client's bytes to the server's, with what it
//! changes in the records.
//!
//! Messages go on as the client sent them, as ranges of the read buffer, unless a statement's name must be
//! replaced or something of Carpool's own put in front. Only headers are read, but for Query, Parse and the
//! names in Bind, Describe, Close and (where it matters) Execute.

mod extended;
mod functions;
mod local;
mod names;
mod numbers;
mod output;
mod prepare;
mod retry;
mod sequences;
mod unnamed;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::AtomicBool;

pub use local::{Local, local};
pub use output::Output;
pub use retry::Retry;

use super::functions::FunctionTable;
use super::listen::Place;
use super::own::{Assignment, Refusal};
use super::pipeline::loss::begins_block;
use super::pipeline::{ClientUndo, ErrorText, Extra, Kind, Request, ServerUndo, Undo};
use super::sequences::Advances;
use super::session::{Taint, Taints};
use super::settings::{ROLE, SESSION_AUTHORIZATION, SettingsTable};
use super::sql::{self, Effect, Reading};
use super::statements::{StatementTable, significant};
use super::{ClientState, Keeping, ServerState};
use crate::error::{ClientError, SqlState};
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::frame::{self, FrameError, HEADER_LEN, Header};
use crate::wire::frontend::{self, tag};

/// The longest simple query that is read, bytes; a longer one may do anything.
const QUERY_INSPECTED: usize = 256 * 1024;
/// The longest Describe or Close, and the longest names in a Bind, bytes.
const NAMES_LIMIT: usize = 64 * 1024;

/// What stands for one of Carpool's own settings that can't have its value: a statement that nobody has.
pub(super) const OWN: &[u8] = b"carpool.own";

/// What all clients of a pool share.
#[derive(Debug, Default)]
pub struct Tables {
    /// Prepared statements by text.
    pub statements: StatementTable,
    /// Settings by content.
    pub settings: SettingsTable,
    /// Somebody has read sequence values (`currval`, `lastval`): they are forgotten for each new client of a server.
    pub sequences_read: AtomicBool,
    /// Functions by name.
    pub functions: FunctionTable,
    /// `strict_session_state`.
    strict: AtomicBool,
    /// `reuse_unnamed_statements`.
    reuses_unnamed: AtomicBool,
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
    /// The client must be allowed to keep the server first, see [`super::Keeping`].
    Pins,
    /// As [`Step::Pins`], for LISTEN alone.
    PinsToListen,
    /// The client must have a server that nobody else has used, see [`Taint::Process`].
    Fresh,
    /// The server must listen to the client's channels first, see [`super::listen`].
    Listens,
    /// It must be found out first what the clients' numbers in it mean, see [`super::numbers`].
    Numbers,
    /// The client says goodbye.
    Terminate,
}

/// What executing a portal does to the records.
#[derive(Debug)]
enum Runs {
    /// DEALLOCATE of the client's statement of this name: later requests wait for the outcome.
    Forgets(Box<[u8]>),
    /// DEALLOCATE of a name that the client doesn't have: an error must carry it.
    Renamed(Box<[u8]>),
    /// EXECUTE of such a name: as before.
    Unknown(Box<[u8]>),
    /// DEALLOCATE ALL, DISCARD ALL, COPY FROM STDIN: later requests wait for the outcome.
    AndWaits,
    /// PREPARE: as before.
    Makes(Box<[u8]>),
    /// DISCARD SEQUENCES: as before.
    ForgetsSequences,
    /// CREATE TABLE … AS, SELECT … INTO.
    Creates,
    /// RESET of parameters that the client gave at startup: as before.
    Defaults(Vec<Box<str>>),
}

/// The portals that change the records when they are executed, by name.
#[derive(Debug, Default)]
pub struct Portals(HashMap<Box<[u8]>, Runs>);

impl Portals {
    /// The transaction has ended, and with it all portals.
    pub fn clear(&mut self) {
        self.0.clear();
    }
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
    /// The server is to answer at once what is put in front of a request, so that its time is known.
    pub flushes_own: bool,
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
        if self.server.pipeline.reads_copy_data() {
            if let Some(step) = self.while_copying(input, at, header) {
                return Ok(step);
            }
        }
        if self.server.hold {
            return Ok(Step::Blocked);
        }
        if self.server.pipeline.is_skipping() && !matches!(header.tag, tag::SYNC | tag::TERMINATE) {
            return Ok(pass(input, at, header, false));
        }
        if self.server.pipeline.is_full() {
            self.give_inserts();
            if self.server.pipeline.is_full() {
                return Ok(Step::Blocked);
            }
        }
        if self.server.was_reset && self.server.pipeline.is_answered() && header.tag != tag::SYNC {
            // What follows would begin on settings that aren't the client's. DISCARD ALL has committed already.
            frontend::put_empty(self.to_server.own(input), tag::SYNC);
            self.server.pipeline.push(Request::skip(Kind::Sync, ServerUndo::None));
            self.server.hold = true;
            return Ok(Step::Blocked);
        }
        match header.tag {
            tag::QUERY => self.query(input, at, header),
            tag::PARSE => self.parse(input, at, header),
            tag::BIND => self.bind(input, at, header),
            tag::DESCRIBE => self.describe(input, at, header),
            tag::CLOSE => self.close(input, at, header),
            tag::EXECUTE => self.execute(input, at, header),
            tag::SYNC => {
                self.server.pipeline.sync();
                self.server.hold = self.server.was_reset || !self.server.defaulted.is_empty();
                Ok(self.forward(input, at, header, Kind::Sync))
            }
            tag::FLUSH => {
                self.server.retry.stop();
                self.give_inserts();
                Ok(self.pass_on(input, at, header))
            }
            tag::FUNCTION_CALL => self.function_call(input, at, header),
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

    /// Takes messages from `at` on, which goes along, as long as they are whole, no more than `most` requests are in
    /// flight, and nothing is to be done between them. Gives what was met last.
    ///
    /// # Errors
    /// As [`ClientPath::message`].
    pub fn messages(&mut self, input: &[u8], at: &mut usize, most: usize) -> Result<Step, ClientError> {
        loop {
            match self.message(input, *at)? {
                Step::Taken { consumed, remaining: 0, .. }
                    if *at + consumed < input.len() && self.server.pipeline.len() < most =>
                {
                    *at += consumed;
                }
                step => return Ok(step),
            }
        }
    }

    /// The messages of a COPY FROM STDIN under way. Sync and Flush mean nothing within; a server that had to
    /// drop them could also have failed before it reads them, and then would answer them.
    fn while_copying(&mut self, input: &[u8], at: usize, header: Header) -> Option<Step> {
        match header.tag {
            tag::SYNC | tag::FLUSH => Some(pass(input, at, header, false)),
            tag::COPY_DATA => Some(self.pass_on(input, at, header)),
            tag::COPY_DONE | tag::COPY_FAIL => {
                self.server.pipeline.copy_end();
                Some(self.pass_on(input, at, header))
            }
            tag::TERMINATE => None,
            // The server ends the connection over anything else.
            _ => Some(self.pass_on(input, at, header)),
        }
    }

    /// Gives the replies that are due in the server's place. None is while a message is on its way to the
    /// client in parts, see [`ServerState::partial`].
    fn give_inserts(&mut self) {
        while let Some(message) = self.server.pipeline.next_insert() {
            backend::put_empty(self.to_client, message);
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

    /// Those that the client has values for from its startup: they aren't the server's defaults.
    fn given_at_startup(&self, mut names: Vec<Box<str>>) -> Vec<Box<str>> {
        names.retain(|name| self.client.startup.get(name).is_some());
        names
    }

    /// All that RESET ALL would bring back.
    fn all_given_at_startup(&self) -> Vec<Box<str>> {
        let users = [ROLE, SESSION_AUTHORIZATION];
        self.client.startup.iter().filter(|(name, _)| !users.contains(name)).map(|(name, _)| name.into()).collect()
    }

    /// Whether a request that may leave this behind must wait until its client may keep the server, and for what.
    fn must_ask(&self, taint: Taints) -> Option<Step> {
        if !taint.will_pin() || self.server.keeping != Keeping::Unasked {
            return None;
        }
        if taint.and(Taints::PINNING) != Taint::Listen.into() {
            return Some(Step::Pins);
        }
        let brief = self.server.listens.as_ref().is_some_and(|l| l.brief);
        (!brief).then_some(Step::PinsToListen)
    }

    /// Whether a request that may leave this behind must wait for a server that nobody else has used. Where the client
    /// has begun something on the one it has, that will have to do.
    fn must_be_fresh(&self, taint: Taints) -> bool {
        let server = &self.server;
        taint.has(Taint::Process)
            && server.sequences.is_worn()
            && server.keeping != Keeping::Never
            && server.pipeline.status() == TransactionStatus::Idle
            && !server.pipeline.is_open()
            && server.left().is_empty()
            && server.listens.is_none()
    }

    /// Whether a request that ends or shows this must wait until the server listens to what its client does.
    fn must_listen(&mut self, ends: Taints) -> bool {
        let Some(listening) = self.client.listening.as_deref().filter(|_| ends.has(Taint::Channels)) else {
            return false;
        };
        let ready = listening.place == Place::Here && listening.mailbox.is_settled();
        let Some(listens) = self.server.listens.as_deref_mut() else { return !ready };
        listens.expected &= !ready;
        !ready && !std::mem::take(&mut listens.passed)
    }

    fn query(&mut self, input: &[u8], at: usize, header: Header) -> Result<Step, ClientError> {
        let wanted = header.body_len.min(QUERY_INSPECTED);
        let Some(body) = body(input, at, wanted) else { return Ok(Step::More) };
        let text = (wanted == header.body_len).then(|| frontend::query(body)).transpose()?;
        if text.is_some_and(sql::is_plain) {
            return Ok(self.plain_query(input, at, header));
        }
        self.server.begins |= text.is_some_and(begins_block);
        let reading = text.map_or_else(Reading::unreadable, |text| sql::read(text, &self.client.settings));
        let mut names = reading.mentions.iter().filter_map(|mention| mention.name.as_ref());
        if names.any(|name| self.server.pipeline.uncertain(significant(name), 0)) {
            return Ok(Step::Blocked);
        }
        let taint = self.may_leave(functions::Runs::of(&reading)).or(self.may_leave_by_name(&reading.mentions));
        if self.must_be_fresh(taint) {
            return Ok(Step::Fresh);
        }
        if let Some(step) = self.must_ask(taint) {
            return Ok(step);
        }
        if taint.has(Taint::Sequences) && !self.forget_foreign_sequences(input) {
            return Ok(Step::Blocked);
        }
        if !self.ensure_mentioned(input, &reading.mentions) {
            return Ok(Step::Blocked);
        }
        if self.must_find_constants(&reading.numbers) {
            return Ok(Step::Numbers);
        }
        if self.must_listen(reading.ends) {
            return Ok(Step::Listens);
        }
        self.show_own_statements(input, reading.ends);
        if let Some(text) = text.and_then(|text| self.with_processes(text, &reading.numbers)) {
            let reading = sql::read(&text, &self.client.settings);
            return Ok(self.run_query(
                input,
                at,
                header,
                (Some(&text), Some(&text)),
                (reading, taint),
                Extra::default(),
            ));
        }
        let refused = if reading.own.is_empty() { None } else { text.zip(self.refused(&reading.own)) };
        let Some((text, (at_text, refusal))) = refused else {
            return Ok(self.run_query(input, at, header, (text, None), (reading, taint), Extra::default()));
        };
        // In its place stands what fails there, and the error is replaced.
        let fails = [b"DEALLOCATE \"", &*prepare::nonexistent(OWN), b"\""].concat();
        let text = [&text[..at_text.start], &fails, &text[at_text.end..]].concat();
        let reading = sql::read(&text, &self.client.settings);
        let taint = self.may_leave(functions::Runs::of(&reading)).or(self.may_leave_by_name(&reading.mentions));
        let extra = Extra { error: Some(ErrorText::Own(refusal)), ..Extra::default() };
        Ok(self.run_query(input, at, header, (Some(&text), Some(&text)), (reading, taint), extra))
    }

    /// The first of these assignments that can't be run, and why.
    fn refused(&self, own: &[Assignment]) -> Option<(Range<usize>, Refusal)> {
        let may_pin = self.server.keeping != Keeping::Never;
        own.iter().find_map(|assignment| Some((assignment.at.clone(), assignment.refusal(may_pin)?)))
    }

    /// Sends a query on: its text, if that could be read, and the text to send in place of it; what was read, and what
    /// it may leave behind.
    fn run_query(
        &mut self,
        input: &[u8],
        at: usize,
        header: Header,
        (text, instead): (Option<&[u8]>, Option<&[u8]>),
        (reading, taint): (Reading, Taints),
        mut extra: Extra,
    ) -> Step {
        let runs = functions::Runs::of(&reading);
        self.server.retry.stop();
        self.server.touch(taint, reading.ends, &reading.names);
        self.note_run(runs, taint);
        self.server.unsettled |= reading.sets;
        let sent = self.rename(input, text.unwrap_or_default(), &reading.mentions, &mut extra);
        match reading.effect {
            Effect::None | Effect::Execute(_) => {}
            Effect::Deallocate(_) => self.server.hold = !extra.forget.is_empty(),
            _ => {
                extra.resets = reading.resets;
                extra.forgets_sequences = reading.effect == Effect::ForgetSequences;
                self.server.hold = true;
            }
        }
        let undo = self.forget_unnamed();
        extra.defaults = self.given_at_startup(reading.defaults);
        // Those reset before, in an unsynced batch, are settled when this ends.
        self.server.hold |= !extra.defaults.is_empty() || !self.server.defaulted.is_empty();
        extra.creates = reading.creates;
        let marked = extra.resets || extra.creates || extra.forgets_sequences || !extra.makes.is_empty();
        let plain = extra.forget.is_empty() && extra.error.is_none() && !marked && extra.defaults.is_empty();
        let extra = (!plain).then(|| Box::new(extra));
        self.server.pipeline.push(Request { undo, extra, ..Request::forward(Kind::Query) });
        let Some(text) = sent.as_deref().or(instead) else { return self.pass_on(input, at, header) };
        frontend::put_query(self.to_server.own(input), text);
        pass(input, at, header, true)
    }

    /// A query that leaves nothing behind, see [`sql::is_plain`].
    fn plain_query(&mut self, input: &[u8], at: usize, header: Header) -> Step {
        self.server.retry.stop();
        self.server.sequences.note(sql::plain_advances(&input[at + HEADER_LEN..]));
        if self.tables.strict() {
            self.server.touch(Taints::ASKABLE, Taints::NONE, &[]);
            self.server.unsettled = true;
        }
        self.server.hold |= !self.server.defaulted.is_empty();
        let undo = self.forget_unnamed();
        self.server.pipeline.push(Request { undo, ..Request::forward(Kind::Query) });
        self.pass_on(input, at, header)
    }

    /// A simple query drops the unnamed statement; should it be skipped, that is still there.
    fn forget_unnamed(&mut self) -> Undo {
        Undo {
            client: ClientUndo::Unnamed(self.client.statements.unnamed.take()),
            server: ServerUndo::unnamed(self.server.statements.unnamed.take()),
        }
    }

    fn function_call(&mut self, input: &[u8], at: usize, header: Header) -> Result<Step, ClientError> {
        let Some(start) = body(input, at, header.body_len.min(4)) else { return Ok(Step::More) };
        let oid = <[u8; 4]>::try_from(start).map(u32::from_be_bytes).unwrap_or_default();
        let taint = sql::taint_of_function(oid);
        if let Some(step) = self.must_ask(taint) {
            return Ok(step);
        }
        if taint.has(Taint::Sequences) && !self.forget_foreign_sequences(input) {
            return Ok(Step::Blocked);
        }
        self.server.touch(taint, Taints::NONE, &[]);
        self.server.sequences.note(if taint.is_empty() { Advances::No } else { Advances::Likely });
        self.server.unsettled = true;
        self.server.hold |= !self.server.defaulted.is_empty();
        self.server.pipeline.push(Request::forward(Kind::FunctionCall));
        Ok(self.forward(input, at, header, Kind::FunctionCall))
    }
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

#[cfg(any(test, feature = "fuzzing"))]
#[allow(clippy::unwrap_used, reason = "these are tests, which fuzzing runs, too")]
pub(crate) mod tests;
