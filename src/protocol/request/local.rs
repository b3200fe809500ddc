//! What a client is answered without a server.

use super::{NAMES_LIMIT, Step, body, check_size, pass};
use crate::error::ClientError;
use crate::protocol::ClientState;
use crate::protocol::statements::significant;
use crate::wire::backend::{self, TransactionStatus, tag as reply};
use crate::wire::frame;
use crate::wire::frontend::{self, Target, tag};

/// What Carpool answers to a client that has no server and asks for nothing that needs one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Local {
    /// Answered, or nothing to answer; as [`Step::Taken`] with the rest dropped.
    Taken {
        /// Bytes of input used.
        consumed: usize,
        /// Bytes of the same message still to come and be dropped.
        remaining: usize,
    },
    /// More of the message must arrive first.
    More,
    /// It needs a server.
    NeedsServer,
    /// The client says goodbye.
    Terminate,
}

/// Takes the message at `at` for a client without a server.
///
/// # Errors
/// As [`ClientPath::message`](super::ClientPath::message).
pub fn local(client: &mut ClientState, input: &[u8], at: usize, to_client: &mut Vec<u8>) -> Result<Local, ClientError> {
    let Some(header) = frame::peek(&input[at..])? else { return Ok(Local::More) };
    let dropped = match pass(input, at, header, false) {
        Step::Taken { consumed, remaining, .. } => Local::Taken { consumed, remaining },
        _ => Local::More,
    };
    match header.tag {
        tag::TERMINATE => Ok(Local::Terminate),
        tag::SYNC => {
            client.skipping = false;
            backend::put_ready(to_client, TransactionStatus::Idle);
            Ok(dropped)
        }
        _ if client.skipping => Ok(dropped),
        tag::FLUSH | tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => Ok(dropped),
        tag::CLOSE => {
            check_size(header, NAMES_LIMIT)?;
            let Some(body) = body(input, at, header.body_len) else { return Ok(Local::More) };
            match frontend::target(header.tag, body)? {
                Target::Statement(b"") => client.statements.unnamed = None,
                Target::Statement(name) => drop(client.statements.named.remove(significant(name))),
                // No portal outlives its transaction.
                Target::Portal(_) => {}
            }
            backend::put_empty(to_client, reply::CLOSE_COMPLETE);
            Ok(dropped)
        }
        _ => Ok(Local::NeedsServer),
    }
}
