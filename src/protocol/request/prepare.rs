//! Having the server know what the client believes that it knows.

use std::borrow::Cow;
use std::sync::Arc;

use super::{ClientPath, Portals, Runs};
use crate::protocol::pipeline::{ClientUndo, Describes, Extra, Fate, Kind, Request, ServerUndo, Undo};
use crate::protocol::session::Taint;
use crate::protocol::settings::Settings;
use crate::protocol::sql::{self, Effect, Mention};
use crate::protocol::statements::{DUMMY, Named, Presence, SERVER_PREFIX, Shape, Statement, Told, significant};
use crate::wire::backend::TransactionStatus;
use crate::wire::frontend::{self, tag};

/// What a client's name stands for.
pub(super) enum Found {
    Known(Named),
    Unknown,
    /// Replies must arrive first.
    Blocked,
}

/// Whether an execution may go out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fit {
    /// The statement is on the server as the client was told. `injected`: something was put in front for it.
    Fits { injected: bool },
    /// It isn't as the client was told.
    Changed,
    /// Replies must arrive first.
    Blocked,
}

impl ClientPath<'_> {
    /// The statement that the client means by `name`. An unknown unnamed one must be unknown to the server, too.
    pub(super) fn find(&mut self, input: &[u8], name: &[u8]) -> Found {
        if name.is_empty() {
            return self.find_unnamed(input);
        }
        let name = significant(name);
        if self.server.pipeline.uncertain(name, 0) {
            return Found::Blocked;
        }
        let Some(known) = self.client.statements.named.get(name).cloned() else { return Found::Unknown };
        let Some(named) = self.in_force(input, known) else { return Found::Blocked };
        if self.server.pipeline.uncertain(name, named.statement.id) {
            return Found::Blocked;
        }
        if let Some(known) = self.client.statements.named.get_mut(name) {
            if !Arc::ptr_eq(&known.statement, &named.statement) {
                known.clone_from(&named);
            }
        }
        Found::Known(named)
    }

    fn find_unnamed(&mut self, input: &[u8]) -> Found {
        if self.server.pipeline.unnamed_uncertain() {
            return Found::Blocked;
        }
        if let Some(statement) = self.client.statements.unnamed.clone() {
            if self.server.pipeline.uncertain(b"", statement.id) && self.is_reused(&statement) {
                return Found::Blocked;
            }
            return Found::Known(Named { statement, told: Told::Nothing });
        }
        if let Some(old) = self.server.statements.unnamed.take() {
            frontend::put_statement_target(self.to_server.own(input), tag::CLOSE, b"");
            self.server.pipeline.push(Request::skip(Kind::Close, ServerUndo::unnamed(Some(old))));
        }
        Found::Unknown
    }

    /// The settings to note for a text that is parsed now. While they aren't certain, ones that nobody shares.
    pub(super) fn context(&self) -> Arc<Settings> {
        if self.server.unsettled { self.client.unshared_context() } else { Arc::clone(&self.client.context) }
    }

    /// Whether its text reads now as when it was parsed, by the settings in force.
    pub(super) fn reads_alike(&self, statement: &Statement) -> bool {
        *statement.context() == self.client.context && !self.server.unsettled
    }

    /// The statement as it can be used now. One that was parsed under other settings than those in force, which
    /// a server lacks, is prepared there under its own; where that can't be, it is taken for another that has the
    /// same text. `None`: replies must arrive first.
    fn in_force(&mut self, input: &[u8], named: Named) -> Option<Named> {
        let pipeline = &self.server.pipeline;
        let current = self.server.statements.presence(&named.statement) == Presence::Current;
        if current || self.reads_alike(&named.statement) {
            return Some(named);
        }
        let movable = !pipeline.is_open() && !named.statement.context().is_unshared();
        if movable && !pipeline.is_answered() {
            return None;
        }
        if movable && pipeline.status() == TransactionStatus::Idle && !self.server.unsettled {
            self.prepare_under_its_settings(input, &named.statement);
            return None;
        }
        let statement = self.tables.statements.intern(named.statement.rest(), &self.context());
        let told = match named.told {
            Told::Shape(told) => statement.shape_of(&named.statement, told).map_or(Told::Nothing, Told::Shape),
            told => told,
        };
        Some(Named { statement, told })
    }

    /// Has the server prepare a statement under the settings that it was parsed under first. Between transactions
    /// only: in one, it could not be undone after an error.
    fn prepare_under_its_settings(&mut self, input: &[u8], statement: &Arc<Statement>) {
        let (now, then) = (Arc::clone(&self.client.context), Arc::clone(statement.context()));
        if self.server.statements.presence(statement) != Presence::Missing {
            self.close_on_server(input, statement.id);
        }
        frontend::put_query(self.to_server.own(input), now.replay(&then).as_bytes());
        self.server.pipeline.push(Request::skip(Kind::Query, ServerUndo::None));
        let rest = self.rest_for_server(statement).into_owned();
        self.prepare(input, statement, &rest, Fate::Skip, ClientUndo::None);
        // An error must not have the settings stay.
        frontend::put_empty(self.to_server.own(input), tag::SYNC);
        self.server.pipeline.push(Request::skip(Kind::Sync, ServerUndo::None));
        frontend::put_query(self.to_server.own(input), then.replay(&now).as_bytes());
        self.server.pipeline.push(Request::skip(Kind::Query, ServerUndo::None));
        self.server.statements.unnamed = None;
        self.server.hold = true;
    }

    /// Has the server's unnamed statement be the client's.
    pub(super) fn ensure_unnamed(&mut self, input: &[u8], statement: &Arc<Statement>) {
        let fixed = !statement.changes();
        if fixed && self.server.statements.unnamed == Some(statement.id) {
            return;
        }
        let statement = self.tables.statements.intern(statement.rest(), &self.context());
        self.ensure_run_by(input, &statement);
        let rest = self.rest_for_server(&statement).into_owned();
        frontend::put_parse(self.to_server.own(input), b"", &rest);
        let old = self.server.statements.unnamed.replace(statement.id);
        self.server.pipeline.push(Request::skip(Kind::Parse, ServerUndo::unnamed(old)));
        self.flush_own(input);
        self.client.statements.unnamed = Some(statement);
    }

    /// Has the server know a named statement. Says whether something had to be put in front for it.
    pub(super) fn ensure_named(&mut self, input: &[u8], statement: &Arc<Statement>) -> bool {
        let fixed = !statement.changes();
        self.ensure_run_by(input, statement);
        match self.server.statements.touch(statement) {
            Presence::Current if fixed => return false,
            Presence::Missing => {}
            Presence::Current | Presence::Stale => self.close_on_server(input, statement.id),
        }
        let rest = self.rest_for_server(statement).into_owned();
        self.prepare(input, statement, &rest, Fate::Skip, ClientUndo::None);
        self.flush_own(input);
        true
    }

    /// Has the server answer what was put in front at once, where it is to be known how long that takes.
    fn flush_own(&mut self, input: &[u8]) {
        if self.flushes_own {
            frontend::put_empty(self.to_server.own(input), tag::FLUSH);
        }
    }

    /// As [`Self::ensure_named`], for an execution by a client that was told what the rows look like: it isn't
    /// told again, so they must look so.
    pub(super) fn ensure_fit(&mut self, input: &[u8], named: &Named) -> Fit {
        let statement = &named.statement;
        let lacks = self.server.statements.presence(statement) != Presence::Current;
        if named.told == Told::Asked && lacks {
            // Replies of Carpool's own are none to wait for.
            self.give_inserts();
        }
        if named.told == Told::Asked && lacks && !self.server.pipeline.is_answered() {
            return self.wait_for_replies(input);
        }
        let injected = self.ensure_named(input, statement);
        let told = match named.told {
            Told::Shape(told) if !self.server.pipeline.has_failed() => told,
            _ => return Fit::Fits { injected },
        };
        match self.server.statements.shape(statement.id) {
            Some(shape) if shape == told => Fit::Fits { injected },
            Some(_) => Fit::Changed,
            None if statement.is_steady(self.tables.statements.epoch()) => {
                self.probe(input, statement, Some(told));
                Fit::Fits { injected: true }
            }
            None => {
                self.probe(input, statement, None);
                self.wait_for_replies(input)
            }
        }
    }

    /// Has the server answer what is in flight before anything else is taken.
    fn wait_for_replies(&mut self, input: &[u8]) -> Fit {
        frontend::put_empty(self.to_server.own(input), tag::FLUSH);
        self.server.hold = true;
        Fit::Blocked
    }

    /// Asks the server what a statement looks like there.
    fn probe(&mut self, input: &[u8], statement: &Arc<Statement>, expected: Option<Shape>) {
        frontend::put_statement_target(self.to_server.own(input), tag::DESCRIBE, statement.server_name());
        let describes = Describes { statement: Arc::clone(statement), name: None, expected, shape: Vec::new() };
        let extra = Extra { describes: Some(describes), ..Extra::default() };
        self.server.pipeline.push(Request::skip(Kind::DescribeStatement, ServerUndo::None).with(extra));
    }

    pub(super) fn close_on_server(&mut self, input: &[u8], id: u64) {
        let name = [SERVER_PREFIX, id.to_string().as_bytes()].concat();
        frontend::put_statement_target(self.to_server.own(input), tag::CLOSE, &name);
        self.server.statements.remove(id);
        self.server.pipeline.push(Request::skip(Kind::Close, ServerUndo::Removed(id)));
    }

    pub(super) fn prepare(
        &mut self,
        input: &[u8],
        statement: &Arc<Statement>,
        rest: &[u8],
        fate: Fate,
        client: ClientUndo,
    ) {
        while let Some(victim) = self.server.statements.evict() {
            self.close_on_server(input, victim);
        }
        self.prepare_beside(input, statement, rest, fate, client);
    }

    /// As [`Self::prepare`], beside all that the server has, however many those are.
    pub(super) fn prepare_beside(
        &mut self,
        input: &[u8],
        statement: &Arc<Statement>,
        rest: &[u8],
        fate: Fate,
        client: ClientUndo,
    ) {
        frontend::put_parse(self.to_server.own(input), statement.server_name(), rest);
        let undo = Undo { client, server: ServerUndo::Added(statement.id) };
        self.server.pipeline.push(Request { fate, undo, ..Request::forward(Kind::Parse) });
        self.server.statements.insert(statement, self.tables.statements.epoch());
        self.server.counts.server_parses += 1;
    }

    /// Has the server know a statement whose name is [`DUMMY`] and `zeros` more zeros, and gives that name. It can't
    /// fail: an empty text is fine even in a failed transaction.
    pub(super) fn prepare_dummy(&mut self, input: &[u8], zeros: usize) -> Vec<u8> {
        let name = [DUMMY, &vec![b'0'; zeros]].concat();
        let out = self.to_server.own(input);
        frontend::put_statement_target(out, tag::CLOSE, &name);
        frontend::put_parse(out, &name, b"\0\0\0");
        self.server.pipeline.push(Request::skip(Kind::Close, ServerUndo::None));
        self.server.pipeline.push(Request::skip(Kind::Parse, ServerUndo::None));
        name
    }

    /// What running a statement does besides: taints, and what its outcome changes in the records.
    pub(super) fn prepare_to_run(&mut self, input: &[u8], statement: &Arc<Statement>, portal: &[u8]) {
        let runs = statement.runs();
        let taint = self.may_leave_prepared(statement);
        if taint.has(Taint::Sequences) {
            self.forget_foreign_sequences_in_batch(input);
        }
        self.server.touch(taint, statement.ends, &statement.names);
        self.note_run(runs, taint);
        self.server.unsettled |= statement.sets;
        let runs = match &statement.effect {
            Effect::Execute(Mention { name: Some(name), .. })
                if name.starts_with(SERVER_PREFIX) && self.run_by(statement).is_none() =>
            {
                Runs::Unknown(name.clone())
            }
            Effect::None | Effect::ResetAll | Effect::Execute(_) => {
                let defaults = match statement.effect {
                    Effect::ResetAll => self.all_given_at_startup(),
                    _ => self.given_at_startup(statement.defaults.clone()),
                };
                match (defaults.is_empty(), statement.creates) {
                    (true, false) => return self.server.portals.forget(portal),
                    (true, true) => Runs::Creates,
                    (false, _) => Runs::Defaults(defaults),
                }
            }
            Effect::Prepare(Mention { name, .. }) => {
                let name = name.clone().unwrap_or_default();
                if self.client.statements.named.contains_key(significant(&name)) {
                    self.prepare_dummy(input, 0);
                    Runs::Renamed(name)
                } else {
                    Runs::Makes(name)
                }
            }
            Effect::ForgetSequences => Runs::ForgetsSequences,
            Effect::ForgetAll | Effect::Several | Effect::CopyIn => Runs::AndWaits,
            Effect::Deallocate(name) if !self.client.statements.named.contains_key(significant(name)) => {
                Runs::Renamed(name.clone())
            }
            Effect::Deallocate(name) => {
                self.prepare_dummy(input, 0);
                Runs::Forgets(significant(name).into())
            }
        };
        self.server.portals.note(portal, runs);
    }

    /// The Parse body after the name as the server must get it: `DEALLOCATE` of one of this client's statements
    /// names one that the server has to spare; of none of them, nothing of Carpool's.
    pub(super) fn rest_for_server<'s>(&self, statement: &'s Arc<Statement>) -> Cow<'s, [u8]> {
        let text = match &statement.effect {
            Effect::Deallocate(name) => self.deallocate_text(name),
            Effect::Prepare(mention) => self.prepare_text(statement.rest(), mention),
            Effect::Execute(_) => self.text_that_runs(statement),
            _ => self.text_with_processes(statement),
        };
        let Some(text) = text else { return Cow::Borrowed(statement.rest()) };
        let types = memchr::memchr(0, statement.rest()).map_or(&b""[..], |at| &statement.rest()[at..]);
        Cow::Owned([&text, types].concat())
    }

    /// PREPARE of a name that the client has by the protocol: the server must find that there is one.
    fn prepare_text(&self, rest: &[u8], Mention { at, name, .. }: &Mention) -> Option<Vec<u8>> {
        self.client.statements.named.get(significant(name.as_ref()?))?;
        let text = rest.split(|&b| b == 0).next()?;
        Some([text.get(..at.start)?, DUMMY, text.get(at.end..)?].concat())
    }

    /// `DEALLOCATE name` as the server must get it, if otherwise than the client sent it.
    pub(super) fn deallocate_text(&self, name: &[u8]) -> Option<Vec<u8>> {
        let mut text = b"DEALLOCATE ".to_vec();
        if self.client.statements.named.contains_key(significant(name)) {
            text.extend_from_slice(DUMMY);
        } else if name.starts_with(SERVER_PREFIX) {
            sql::put_identifier(&mut text, &nonexistent(name));
        } else {
            return None;
        }
        Some(text)
    }
}

/// In place of a client's name that could be one of Carpool's, one that can't.
pub(super) fn nonexistent(name: &[u8]) -> Vec<u8> {
    [b"?", name].concat()
}

impl Portals {
    fn note(&mut self, portal: &[u8], runs: Runs) {
        self.0.insert(portal.into(), runs);
    }

    fn forget(&mut self, portal: &[u8]) {
        if !self.0.is_empty() {
            self.0.remove(portal);
        }
    }
}
