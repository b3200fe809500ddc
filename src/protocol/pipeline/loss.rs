//! What a client is owed when its server is lost.

use super::{CopyIn, Fate, Kind, Pipeline};
use crate::wire::backend::TransactionStatus;

/// What ends the client's request in the place of the lost server's replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owed {
    /// An error and ReadyForQuery.
    Answer,
    /// An error. It has yet to send Sync.
    Error,
    /// Nothing: all is answered, or it was told of an error and has yet to send Sync.
    Nothing,
}

/// Whether a query begins a transaction block, as drivers write that.
#[must_use]
pub fn begins_block(text: &[u8]) -> bool {
    let word = text.trim_ascii_start().get(..5).unwrap_or_default();
    word.eq_ignore_ascii_case(b"begin") || word.eq_ignore_ascii_case(b"start")
}

impl Pipeline {
    /// The server is lost. What its client is owed, if that is the end of a single request outside a transaction
    /// block: then the client has lost no more than what it asked for. More than one can't fail one by one: had the
    /// first of them been BEGIN, what comes behind would run without it. What Carpool has asked for first is forgotten.
    pub fn lose(&mut self) -> Option<Owed> {
        let copies = self.copy_in != CopyIn::No || self.requests.iter().any(|r| r.kind == Kind::CopyEnd);
        if self.status != TransactionStatus::Idle || copies {
            return None;
        }
        while self.requests.front().is_some_and(|r| r.fate == Fate::Skip && r.kind == Kind::Query) {
            self.pop();
        }
        let last = self.requests.back();
        match self.count.ready() {
            0 if self.skipping => Some(Owed::Nothing),
            0 if self.open => Some(Owed::Error),
            1 if last.is_some_and(|r| r.ends_in_ready() && r.fate == Fate::Forward) => Some(Owed::Answer),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Request, ServerUndo};
    use super::*;

    fn after(kinds: &[Kind]) -> Pipeline {
        let mut pipeline = Pipeline::default();
        kinds.iter().for_each(|kind| pipeline.push(Request::forward(*kind)));
        pipeline
    }

    #[test]
    fn what_begins_a_block() {
        for text in
            ["BEGIN", "begin;", "\n  Begin isolation level serializable", "START TRANSACTION", "begin; select 1"]
        {
            assert!(begins_block(text.as_bytes()), "{text}");
        }
        for text in ["", "beg", "commit", "select 1", "select 'begin'"] {
            assert!(!begins_block(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn one_request_ends() {
        for kinds in
            [&[Kind::Query][..], &[Kind::FunctionCall], &[Kind::Sync], &[Kind::Parse, Kind::Execute, Kind::Sync]]
        {
            assert_eq!(after(kinds).lose(), Some(Owed::Answer), "{kinds:?}");
        }
        assert_eq!(after(&[Kind::Parse, Kind::Bind]).lose(), Some(Owed::Error));
    }

    #[test]
    fn several_do_not() {
        for kinds in [
            &[Kind::Query, Kind::Query][..],
            &[Kind::Sync, Kind::Sync],
            &[Kind::Query, Kind::Parse],
            &[Kind::Execute, Kind::Sync, Kind::Parse],
            &[],
        ] {
            assert_eq!(after(kinds).lose(), None, "{kinds:?}");
        }
    }

    #[test]
    fn nor_does_one_in_a_transaction_block() {
        for status in [TransactionStatus::InBlock, TransactionStatus::Failed] {
            let mut pipeline = after(&[Kind::Query]);
            pipeline.ready(status).unwrap();
            pipeline.push(Request::forward(Kind::Query));
            assert_eq!(pipeline.lose(), None);
        }
    }

    #[test]
    fn nor_does_a_copy() {
        let mut pipeline = after(&[Kind::Query]);
        pipeline.reply(crate::wire::backend::tag::COPY_IN_RESPONSE).unwrap();
        assert_eq!(pipeline.lose(), None);
        pipeline.copy_end();
        assert_eq!(pipeline.lose(), None);
        // Sent ahead of a reply.
        let mut pipeline = after(&[Kind::Query]);
        pipeline.copy_end();
        assert_eq!(pipeline.lose(), None);
    }

    #[test]
    fn carpools_own_requests_in_front_do_not_count() {
        let mut pipeline = Pipeline::default();
        pipeline.push(Request::skip(Kind::Query, ServerUndo::None));
        assert_eq!(pipeline.lose(), None, "nothing is owed to the client");
        pipeline.push(Request::skip(Kind::Query, ServerUndo::None));
        pipeline.push(Request::forward(Kind::Query));
        assert_eq!((pipeline.lose(), pipeline.len()), (Some(Owed::Answer), 1));
        pipeline.push(Request::skip(Kind::Query, ServerUndo::None));
        assert_eq!(pipeline.lose(), None, "a question behind it");
    }

    #[test]
    fn an_error_that_was_told_is_not_told_again() {
        let mut pipeline = after(&[Kind::Parse, Kind::Bind]);
        pipeline.error();
        assert_eq!(pipeline.lose(), Some(Owed::Nothing));
        assert!(pipeline.sync());
        assert_eq!(pipeline.lose(), Some(Owed::Answer));
    }
}
