//! Statements that a text names: PREPARE, EXECUTE, DEALLOCATE. Those that the client has by the protocol bear other
//! names on servers.

use std::sync::Arc;

use super::ClientPath;
use super::prepare::{Found, nonexistent};
use crate::protocol::pipeline::{ClientUndo, ErrorText, Extra, Fate, Kind, Request, ServerUndo};
use crate::protocol::session::{Taint, Taints};
use crate::protocol::sql::{self, Effect, Mention, Use};
use crate::protocol::statements::{Presence, SERVER_PREFIX, Statement, significant};
use crate::wire::backend::TransactionStatus;
use crate::wire::frontend::{self, tag};

/// How many DEALLOCATEs of a text can be of statements that the client has by the protocol.
const DUMMIES: usize = 16;

impl ClientPath<'_> {
    /// What the statements may leave behind that are run by name.
    pub(super) fn may_leave_by_name(&self, mentions: &[Mention]) -> Taints {
        let run = mentions.iter().filter(|mention| mention.to == Use::Run);
        let named = run.filter_map(|m| self.client.statements.named.get(significant(m.name.as_ref()?)));
        named.fold(Taints::NONE, |taint, named| taint.or(self.may_leave(named.statement.runs())))
    }

    /// Has the server know those that are run by name. `false`: replies must arrive first.
    pub(super) fn ensure_mentioned(&mut self, input: &[u8], mentions: &[Mention]) -> bool {
        for mention in mentions.iter().filter(|mention| mention.to == Use::Run) {
            let Some(name) = &mention.name else { continue };
            match self.find(input, name) {
                Found::Blocked => return false,
                Found::Unknown => {}
                Found::Known(named) => self.ensure_for_query(input, &named.statement),
            }
        }
        true
    }

    /// The statement that another one runs by name, where the client has that by the protocol.
    pub(super) fn run_by(&self, statement: &Statement) -> Option<&Arc<Statement>> {
        let Effect::Execute(mention) = &statement.effect else { return None };
        let named = self.client.statements.named.get(significant(mention.name.as_ref()?))?;
        // One that runs another in turn could go round in circles.
        (!matches!(named.statement.effect, Effect::Execute(_))).then_some(&named.statement)
    }

    /// What a prepared statement may leave behind, with what it runs by name.
    pub(super) fn may_leave_prepared(&self, statement: &Statement) -> Taints {
        let own = self.may_leave(statement.runs());
        self.run_by(statement).map_or(own, |run| own.or(self.may_leave(run.runs())))
    }

    /// Has the server know the statement that one of the extended protocol runs by name.
    pub(super) fn ensure_run_by(&mut self, input: &[u8], statement: &Statement) {
        let Some(run) = self.run_by(statement).cloned() else { return };
        match self.server.statements.touch(&run) {
            Presence::Current if run.numbers.is_empty() => return,
            Presence::Current | Presence::Stale => self.close_on_server(input, run.id),
            Presence::Missing => {}
        }
        let rest = self.rest_for_server(&run).into_owned();
        self.prepare_beside(input, &run, &rest, Fate::Skip, ClientUndo::None);
    }

    /// The text of a prepared statement that runs one of the client's by name, which has another name on servers.
    pub(super) fn text_that_runs(&self, statement: &Statement) -> Option<Vec<u8>> {
        let Effect::Execute(Mention { at, name, .. }) = &statement.effect else { return None };
        let text = statement.rest().split(|&b| b == 0).next()?;
        let (before, behind) = (text.get(..at.start)?, text.get(at.end..)?);
        let name = match self.run_by(statement) {
            Some(run) => run.server_name().to_vec(),
            None if name.as_ref()?.starts_with(SERVER_PREFIX) => {
                let mut identifier = Vec::new();
                sql::put_identifier(&mut identifier, &nonexistent(name.as_ref()?));
                identifier
            }
            None => return None,
        };
        Some([before, &name, behind].concat())
    }

    /// Has the server know a statement that a simple query runs. Where it can't be prepared, the query will fail.
    fn ensure_for_query(&mut self, input: &[u8], statement: &Arc<Statement>) {
        let presence = self.server.statements.touch(statement);
        let pipeline = &self.server.pipeline;
        let failed = !pipeline.runs() && pipeline.status() == TransactionStatus::Failed;
        let in_batch = pipeline.is_open();
        if (presence == Presence::Current && statement.numbers.is_empty()) || failed {
            return;
        }
        if presence != Presence::Missing {
            self.close_on_server(input, statement.id);
        }
        let rest = self.rest_for_server(statement).into_owned();
        // Another that the text runs must stay.
        self.prepare_beside(input, statement, &rest, Fate::Skip, ClientUndo::None);
        if in_batch {
            return;
        }
        if let Some(parse) = self.server.pipeline.last() {
            parse.extra = Some(Box::new(Extra { optional: true, ..Extra::default() }));
        }
        // After an error nothing would be run before a Sync.
        frontend::put_empty(self.to_server.own(input), tag::SYNC);
        self.server.pipeline.push(Request::skip(Kind::Sync, ServerUndo::None));
    }

    /// Before a text shows which statements the server has: those of other clients are closed, and the client's own
    /// that it lacks prepared, where that can't fail what the client has begun.
    pub(super) fn show_own_statements(&mut self, input: &[u8], ends: Taints) {
        let failed = self.server.pipeline.status() == TransactionStatus::Failed || self.server.pipeline.has_failed();
        if failed || !ends.has(Taint::ShowsPrepared) {
            return;
        }
        let own: Vec<_> = self.client.statements.named.values().map(|named| Arc::clone(&named.statement)).collect();
        for statement in &own {
            let between = self.server.pipeline.status() == TransactionStatus::Idle && !self.server.pipeline.is_open();
            if between && self.reads_alike(statement) {
                self.ensure_for_query(input, statement);
            }
        }
        for id in self.server.statements.ids(false) {
            if !own.iter().any(|statement| statement.id == id) {
                self.close_on_server(input, id);
            }
        }
    }

    /// Gives a text that names statements as the server must get it, if otherwise than the client sent it:
    /// DEALLOCATE of one that the client has by the protocol deallocates another, made for that; EXECUTE runs it by
    /// its name on servers; PREPARE finds that there is one.
    pub(super) fn rename(
        &mut self,
        input: &[u8],
        text: &[u8],
        mentions: &[Mention],
        extra: &mut Extra,
    ) -> Option<Vec<u8>> {
        let mut sent = Vec::new();
        let mut copied = 0;
        let mut gone = Gone::default();
        for Mention { to, at, name } in mentions {
            let Some(name) = name else {
                gone.all = true;
                continue;
            };
            let Some(replacement) = self.replacement(input, *to, name, &mut gone, extra) else { continue };
            sent.extend_from_slice(&text[copied..at.start]);
            sent.extend_from_slice(&replacement);
            copied = at.end;
        }
        extra.forget.reverse();
        extra.makes.reverse();
        sent.extend_from_slice(&text[copied..]);
        (copied > 0).then_some(sent)
    }

    /// What stands in the place of one name.
    fn replacement(
        &mut self,
        input: &[u8],
        to: Use,
        name: &[u8],
        gone: &mut Gone,
        extra: &mut Extra,
    ) -> Option<Vec<u8>> {
        let key = significant(name);
        let known = self.client.statements.named.get(key).filter(|_| !gone.has(key)).cloned();
        match (to, known) {
            (Use::Forget, known) => {
                extra.forget.push(Some(key.into()));
                if known.is_some() && gone.names.len() < DUMMIES {
                    let dummy = self.prepare_dummy(input, gone.names.len());
                    gone.names.push(key.into());
                    return Some(dummy);
                }
            }
            (Use::Run, Some(named)) => return Some(named.statement.server_name().to_vec()),
            (Use::Make, Some(_)) if gone.names.is_empty() => {
                extra.error.get_or_insert_with(|| ErrorText::Name(name.into()));
                return Some(self.prepare_dummy(input, 0));
            }
            (Use::Make, _) => {
                extra.makes.push(key.into());
                return None;
            }
            (Use::Run, None) => {}
        }
        // One of Carpool's names is none of the client's.
        name.starts_with(SERVER_PREFIX).then(|| {
            extra.error.get_or_insert_with(|| ErrorText::Name(name.into()));
            let mut identifier = Vec::new();
            sql::put_identifier(&mut identifier, &nonexistent(name));
            identifier
        })
    }
}

/// The statements that a text has deallocated so far.
#[derive(Default)]
struct Gone {
    names: Vec<Box<[u8]>>,
    all: bool,
}

impl Gone {
    fn has(&self, name: &[u8]) -> bool {
        self.all || self.names.iter().any(|gone| **gone == *name)
    }
}
