//! Statements that a text names: PREPARE, EXECUTE, DEALLOCATE. Those that the client has by the protocol bear other
//! names on servers.

use std::sync::Arc;

use super::ClientPath;
use super::prepare::{Found, nonexistent};
use crate::protocol::pipeline::{ClientUndo, ErrorText, Extra, Fate, Kind, Request, ServerUndo};
use crate::protocol::session::Taints;
use crate::protocol::sql::{self, Mention, Use};
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

    /// Has the server know a statement that a simple query runs. Where it can't be prepared, the query will fail.
    fn ensure_for_query(&mut self, input: &[u8], statement: &Arc<Statement>) {
        let presence = self.server.statements.touch(statement);
        let pipeline = &self.server.pipeline;
        let failed = !pipeline.runs() && pipeline.status() == TransactionStatus::Failed;
        let in_batch = pipeline.is_open();
        if presence == Presence::Current || failed {
            return;
        }
        if presence == Presence::Stale {
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
