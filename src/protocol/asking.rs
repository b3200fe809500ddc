//! How a server is asked what there is of session state ([`Probe`](super::session::Probe)): by a simple query at first,
//! and by a prepared statement as long as the question stays the same. To parse and plan it each time would take
//! PostgreSQL nearly as long as to answer it.

use std::sync::Arc;

use super::ServerState;
use super::pipeline::{Extra, Kind, Request, ServerUndo};
use super::statements::{Presence, Statement, StatementTable};
use crate::wire::frontend::{self, tag};

impl ServerState {
    /// Notes the question and gives the messages that ask it. `repeats`: it may be asked again in these words.
    pub(super) fn ask(&mut self, sql: &str, repeats: bool, table: &StatementTable) -> Vec<u8> {
        let mut out = Vec::new();
        match self.prepared_question(sql, repeats, table) {
            Some(statement) => self.put_prepared(&mut out, &statement, table),
            None => {
                frontend::put_query(&mut out, sql.as_bytes());
                // A simple query drops it.
                self.statements.unnamed = None;
                self.pipeline.push(Request::skip(Kind::Query, ServerUndo::None));
            }
        }
        out
    }

    /// The statement that asks it, if this isn't the first time. It is one of those that the server is known to have:
    /// like them it goes with DEALLOCATE ALL, and when there are too many.
    fn prepared_question(&mut self, sql: &str, repeats: bool, table: &StatementTable) -> Option<Arc<Statement>> {
        // All in it is qualified and plain, so that it reads the same whatever a client has set.
        if !repeats || !sql.is_ascii() {
            return None;
        }
        let rest = [sql.as_bytes(), b"\0\0\0"].concat();
        match &self.question {
            Some(known) if *known.rest() == *rest => {
                let there = self.statements.presence(known) != Presence::Missing;
                (there || self.statements.has_room()).then(|| Arc::clone(known))
            }
            _ => {
                self.question = Some(table.intern(&rest, &Arc::default()));
                None
            }
        }
    }

    fn put_prepared(&mut self, out: &mut Vec<u8>, statement: &Arc<Statement>, table: &StatementTable) {
        let presence = self.statements.touch(statement);
        if presence == Presence::Stale {
            frontend::put_statement_target(out, tag::CLOSE, statement.server_name());
            self.statements.remove(statement.id);
            self.push_optional(Kind::Close, ServerUndo::Removed(statement.id));
        }
        if presence != Presence::Current {
            frontend::put_parse(out, statement.server_name(), statement.rest());
            self.statements.insert(statement, table.epoch());
            self.push_optional(Kind::Parse, ServerUndo::Added(statement.id));
        }
        frontend::put_run(out, statement.server_name());
        self.push_optional(Kind::Bind, ServerUndo::None);
        self.push_optional(Kind::Execute, ServerUndo::None);
        self.pipeline.push(Request::skip(Kind::Sync, ServerUndo::None));
    }

    /// Should it fail, it is asked otherwise: see [`Self::ask_otherwise`].
    fn push_optional(&mut self, kind: Kind, undo: ServerUndo) {
        self.pipeline.push(Request::skip(kind, undo).with(Extra { optional: true, ..Extra::default() }));
    }

    /// The statement could not be run: code out of sight has removed it, say. The question is open again.
    pub(super) fn ask_otherwise(&mut self, asked: super::session::Taints) {
        self.touched |= asked;
        if let Some(question) = self.question.take() {
            // Whether it is there is unknown.
            self.statements.restore(question.id);
        }
    }
}
