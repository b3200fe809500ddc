//! The unnamed statement, and running it as a prepared one where its text comes again (`reuse_unnamed_statements`):
//! PostgreSQL then doesn't parse it each time, and plans it as it plans prepared ones.
//!
//! What the client calls its unnamed statement stays its own: a simple query drops it, and so does a Parse that fails.
//! A text that comes for the first time is passed on as it is, since one with values written into it won't come again;
//! so is one whose Parse can't be answered in the server's place, or that isn't the same under a name.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{ClientPath, Tables};
use crate::protocol::pipeline::{ClientUndo, Kind, Request, ServerUndo, Undo};
use crate::protocol::sql::Effect;
use crate::protocol::statements::{Presence, Statement};
use crate::wire::frame::Header;
use crate::wire::frontend;

impl Tables {
    /// Takes over `reuse_unnamed_statements`.
    pub fn set_reuses_unnamed(&self, reuses: bool) {
        self.reuses_unnamed.store(reuses, Ordering::Relaxed);
    }

    /// `reuse_unnamed_statements`.
    #[must_use]
    pub fn reuses_unnamed(&self) -> bool {
        self.reuses_unnamed.load(Ordering::Relaxed)
    }
}

impl Statement {
    /// Whether it does the same under a name.
    fn bears_a_name(&self) -> bool {
        self.effect == Effect::None && self.ends.is_empty() && self.own.is_empty() && self.numbers.is_empty()
    }
}

impl ClientPath<'_> {
    pub(super) fn parse_unnamed(&mut self, input: &[u8], at: usize, header: Header, statement: Arc<Statement>) {
        if self.reuse(input, &statement) {
            return;
        }
        if statement.effect.names_for_now() {
            self.ensure_run_by(input, &statement);
            let rest = self.rest_for_server(&statement).into_owned();
            frontend::put_parse(self.to_server.own(input), b"", &rest);
        } else {
            self.to_server.forward(input, at..at + header.total_len());
        }
        let undo = Undo {
            server: ServerUndo::unnamed(self.server.statements.unnamed.replace(statement.id)),
            client: ClientUndo::Unnamed(self.client.statements.unnamed.replace(statement)),
        };
        self.server.pipeline.push(Request { undo, ..Request::forward(Kind::Parse) });
    }

    /// Whether Bind and Describe of the client's unnamed statement mean one that the server has, or is to have, under a
    /// name.
    pub(super) fn is_reused(&self, statement: &Statement) -> bool {
        let servers = &self.server.statements;
        if !self.may_reuse(statement) || servers.unnamed == Some(statement.id) {
            return false;
        }
        servers.presence(statement) == Presence::Current || self.reads_alike(statement)
    }

    fn may_reuse(&self, statement: &Statement) -> bool {
        self.tables.reuses_unnamed() && statement.bears_a_name()
    }

    /// Has the client's Parse be of a statement that the server has under a name, or gets now. Says whether it did.
    fn reuse(&mut self, input: &[u8], statement: &Arc<Statement>) -> bool {
        let again = self.may_reuse(statement) && statement.comes_again();
        if !again || !self.may_answer_parse() {
            return false;
        }
        let first = self.server.pipeline.is_idle();
        let undo = ClientUndo::Unnamed(self.client.statements.unnamed.replace(Arc::clone(statement)));
        self.server.statements.leave_unnamed(statement.id);
        if self.parse_shared(input, statement, undo) && first {
            self.server.retry.expect();
        }
        true
    }
}
