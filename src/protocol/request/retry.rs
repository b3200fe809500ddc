//! Sending a prepared execution again whose plan turned out stale before anything was answered.

use std::sync::Arc;

use crate::protocol::ServerState;
use crate::protocol::pipeline::{Fate, Kind, Request, ServerUndo};
use crate::protocol::statements::Statement;
use crate::wire::frontend::{self, tag};

/// The longest execution kept to be sent again, bytes.
const LIMIT: usize = 8 * 1024;

/// A prepared execution that began outside a transaction, as it was sent: should its plan turn out stale
/// before anything was answered, it is prepared anew and sent again.
#[derive(Debug, Default)]
pub struct Retry {
    state: State,
    bytes: Vec<u8>,
    kinds: Vec<Kind>,
    statement: Option<Arc<Statement>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    #[default]
    Off,
    /// An execution that comes next would be the first thing that the server gets.
    Expected,
    Recording,
    /// Sync went out, nothing after it.
    Complete,
}

impl Retry {
    /// What is recorded isn't sent again.
    pub fn stop(&mut self) {
        self.state = State::Off;
    }

    /// A Parse was answered in the server's place, before which there was nothing.
    pub(super) fn expect(&mut self) {
        self.state = State::Expected;
    }

    /// Whether what comes now is still the first that the server gets.
    pub(super) fn is_expected(&self) -> bool {
        self.state == State::Expected
    }

    pub(super) fn begin(&mut self, statement: &Arc<Statement>) {
        self.state = State::Recording;
        self.bytes.clear();
        self.kinds.clear();
        if !self.statement.as_ref().is_some_and(|s| Arc::ptr_eq(s, statement)) {
            self.statement = Some(Arc::clone(statement));
        }
    }

    pub(super) fn record(&mut self, kind: Kind, bytes: &[u8]) {
        if self.state != State::Recording || self.bytes.len() + bytes.len() > LIMIT {
            self.stop();
            return;
        }
        self.bytes.extend_from_slice(bytes);
        self.kinds.push(kind);
        if kind == Kind::Sync {
            self.state = State::Complete;
        }
    }

    /// The statement in use, when a plan error can only be about it.
    #[must_use]
    pub fn statement(&self) -> Option<&Arc<Statement>> {
        self.statement.as_ref().filter(|_| matches!(self.state, State::Recording | State::Complete))
    }

    /// Whether sending it again is safe: it is all there, nothing came after it, and the client will learn the
    /// shape of the rows anew, since it asked for a description.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        let described = self.kinds.iter().position(|&k| k == Kind::DescribePortal);
        let executed = self.kinds.iter().position(|&k| k == Kind::Execute);
        self.state == State::Complete && described.is_some() && described < executed
    }
}

impl ServerState {
    /// Prepares the recorded execution anew and sends it again. The Sync of the first try is at the front of
    /// the pipeline and will be answered to nobody.
    pub fn send_again(&mut self, epoch: u32, out: &mut Vec<u8>) {
        let Some(statement) = self.retry.statement.clone() else { return };
        self.retry.stop();
        if let Some(sync) = self.pipeline.front() {
            sync.fate = Fate::Skip;
        }
        let name = statement.server_name();
        frontend::put_statement_target(out, tag::CLOSE, name);
        self.pipeline.push(Request::skip(Kind::Close, ServerUndo::Removed(statement.id)));
        frontend::put_parse(out, name, statement.rest());
        self.pipeline.push(Request::skip(Kind::Parse, ServerUndo::Added(statement.id)));
        self.statements.insert(&statement, epoch);
        self.counts.server_parses += 1;
        out.extend_from_slice(&self.retry.bytes);
        for kind in std::mem::take(&mut self.retry.kinds) {
            self.pipeline.push(Request::forward(kind));
        }
    }
}
