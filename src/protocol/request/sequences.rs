//! Before a client reads sequence values, those are forgotten that others left on its server.

use std::sync::atomic::Ordering;

use super::{ClientPath, Tables};
use crate::protocol::ServerState;
use crate::protocol::pipeline::{Kind, Request, ServerUndo};
use crate::protocol::statements::DUMMY;
use crate::wire::backend::TransactionStatus;
use crate::wire::frontend::{self, tag};

/// Forgets sequence values. Allowed within transactions, and not undone by a rollback.
const FORGET: &[u8] = b"DISCARD SEQUENCES";

impl Tables {
    /// Notes that somebody reads sequence values.
    fn note_sequences_read(&self) {
        if !self.sequences_read.load(Ordering::Relaxed) {
            self.sequences_read.store(true, Ordering::Relaxed);
        }
    }
}

impl ServerState {
    /// What goes in front of a new tenant's first request for the sake of sequence values, in databases where they
    /// are read.
    pub fn forget_for_new_tenant(&mut self, tables: &Tables) -> Option<&'static str> {
        let forget = self.sequences.only_foreign() && tables.sequences_read.load(Ordering::Relaxed);
        forget.then(|| {
            self.sequences.forget();
            "DISCARD SEQUENCES;"
        })
    }
}

impl ClientPath<'_> {
    /// Has the server forget sequence values where none can be the client's own. Says whether the client's request
    /// may follow; else replies must arrive first.
    ///
    /// Where it may have values of its own, this is the first time that anybody of this database reads some, or the
    /// transaction began before that: from then on foreign ones are forgotten when a server changes hands.
    pub(super) fn forget_foreign_sequences(&mut self, input: &[u8]) -> bool {
        self.tables.note_sequences_read();
        if !self.server.sequences.only_foreign() {
            return true;
        }
        if self.server.pipeline.is_open() {
            self.forget_in_batch(input);
            return true;
        }
        self.give_inserts();
        if !self.server.pipeline.is_answered() {
            // The transaction may have failed.
            self.server.hold = true;
            return false;
        }
        if self.server.pipeline.status() != TransactionStatus::Failed {
            frontend::put_query(self.to_server.own(input), FORGET);
            self.server.pipeline.push(Request::skip(Kind::Query, ServerUndo::None));
            self.server.statements.unnamed = None;
            self.server.sequences.forget();
        }
        true
    }

    /// As [`Self::forget_foreign_sequences`], within a batch of the extended protocol.
    pub(super) fn forget_foreign_sequences_in_batch(&mut self, input: &[u8]) {
        self.tables.note_sequences_read();
        if self.server.sequences.only_foreign() {
            self.forget_in_batch(input);
        }
    }

    /// As messages of the client's batch: should they fail, all that follows in it would have.
    fn forget_in_batch(&mut self, input: &[u8]) {
        let out = self.to_server.own(input);
        frontend::put_statement_target(out, tag::CLOSE, DUMMY);
        frontend::put_parse(out, DUMMY, &[FORGET, b"\0\0\0"].concat());
        frontend::put_execution(out, DUMMY);
        let skip = |kind| Request::skip(kind, ServerUndo::None);
        for kind in [Kind::Close, Kind::Parse, Kind::Bind] {
            self.server.pipeline.push(skip(kind));
        }
        self.server.pipeline.push(Request::skip(Kind::Execute, ServerUndo::Sequences));
        self.server.pipeline.push(skip(Kind::Close));
        self.server.sequences.forget();
    }
}
