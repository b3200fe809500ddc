//! A session goes on without the server that it has lost, where nothing but the request under way is lost with it.
//!
//! That request may have run or not, as with any lost connection: it fails, and isn't sent again.

use std::io;
use std::sync::atomic::Ordering;
use std::task::Context as TaskContext;

use tracing::info;

use super::{End, Outputs, Relay, Work};
use crate::config::PoolMode;
use crate::error::{ClientError, SqlState};
use crate::protocol::pipeline::loss::Owed;
use crate::server::Outbox;
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::frame;

/// How it was lost.
pub(super) enum Loss {
    /// It said why; the body of its ErrorResponse.
    Told(Box<[u8]>),
    /// It closed the connection, or that failed.
    Untold(Option<io::Error>),
}

impl Loss {
    /// Whether it came to the server from outside, or at least nothing is known of another cause. What PostgreSQL ends a
    /// session for (a broken protocol, a time limit) ends the client's.
    fn is_an_accident(&self) -> bool {
        match self {
            Self::Told(body) => matches!(backend::error_field(body, b'C'), Some(b"57P01" | b"57P02")),
            Self::Untold(_) => true,
        }
    }

    /// Appends the error as one that ends a request.
    fn put_error(&self, out: &mut Vec<u8>) {
        match self {
            Self::Told(body) => backend::put_error_of_severity(out, body, b"ERROR"),
            Self::Untold(error) => {
                let hint = "The statement may have run or not. The session goes on with another server.";
                let error = ClientError { severity: crate::error::Severity::Error, ..untold(error.as_ref()) };
                backend::put_error(out, &error.hint(hint));
            }
        }
    }
}

fn untold(error: Option<&io::Error>) -> ClientError {
    let why = error.map_or_else(|| "it closed the connection".to_owned(), ToString::to_string);
    let text = "server closed the connection unexpectedly";
    ClientError::fatal(SqlState::CONNECTION_FAILURE, text).detail(format!("The server connection was lost: {why}."))
}

impl Relay {
    /// The server is lost. Fails the request under way, and parts from the server; the session ends where that isn't all
    /// that is lost: in a transaction block, with a server that is kept for what is on it, in session mode.
    #[cold]
    pub(super) fn survive(&mut self, cx: &mut TaskContext<'_>, loss: Loss, out: &mut Outputs) -> Result<(), End> {
        let owed = if loss.is_an_accident() { self.is_owed() } else { None };
        let Some(owed) = owed else { return Err(self.bereft(loss)) };
        let mut replies = Vec::new();
        if owed != Owed::Nothing {
            loss.put_error(&mut replies);
        }
        if owed == Owed::Answer {
            backend::put_ready(&mut replies, TransactionStatus::Idle);
        }
        let Work::Active(active) = &mut self.work else { return Ok(()) };
        active.broken = true;
        let Some(server) = active.lease.server() else { return Ok(()) };
        server.out = Outbox::default();
        server.carry.clear();
        let skipping = owed != Owed::Answer && (owed == Owed::Error || server.state.pipeline.is_skipping());
        let (id, pid) = (server.shared.id, server.state.pid);
        self.take_replies(cx, &replies, out)?;
        self.remainder.forward = false;
        self.state.skipping = skipping;
        info!(client = %self.shared().id, server = %id, pid, "server connection lost; the client goes on with another");
        // Unless that was the end of its transaction.
        self.give_back();
        Ok(())
    }

    /// What the client is owed, if its session can go on.
    fn is_owed(&mut self) -> Option<Owed> {
        // What it has sent ahead counts on what is under way.
        let alone = self.carry.is_empty() && !self.leaving && self.pin.is_none() && self.mode != PoolMode::Session;
        let Work::Active(active) = &mut self.work else { return None };
        let server = active.lease.server().filter(|server| alone && server.remainder.bytes == 0)?;
        if server.shared.doomed.load(Ordering::Acquire) {
            // It was named to be ended, as the process of this client.
            return None;
        }
        server.state.lose()
    }

    /// The session ends.
    fn bereft(&mut self, loss: Loss) -> End {
        match loss {
            Loss::Told(body) => {
                if let Work::Active(active) = &mut self.work {
                    active.broken = true;
                }
                frame::message(self.out.buffer(), backend::tag::ERROR_RESPONSE, |b| b.extend_from_slice(&body));
                End::ServerFatal
            }
            Loss::Untold(error) => untold(error.as_ref()).into(),
        }
    }
}
