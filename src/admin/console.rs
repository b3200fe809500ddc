//! A console session's socket: messages in, answers out, each within bounds, until one side ends it.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing::info;

use super::Admin;
use super::session::{Flow, Session};
use crate::client::login::{self, Console};
use crate::client::registry::{ClientShared, order};
use crate::error::{ClientError, SqlState};
use crate::net::stream::Stream;
use crate::net::timer;
use crate::wire::{backend, frame};

/// The longest message, bytes.
const MESSAGE_LIMIT: usize = 64 * 1024;
/// How long a client may take to read an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a session ends.
enum End {
    /// The client left, or its socket failed.
    Left(&'static str),
    /// The client is told why.
    Error(ClientError),
}

impl From<ClientError> for End {
    fn from(error: ClientError) -> Self {
        Self::Error(error)
    }
}

/// Serves one console session to its end.
pub async fn serve(console: Console, admin: Arc<Admin>) {
    let Console { handshake, registered, is_admin } = console;
    admin.count_login();
    let shared = Arc::clone(&registered.shared);
    let (stream, unread) = handshake.into_parts();
    let mut link = Link { stream, buf: unread, shared: Arc::clone(&shared) };
    let session = Session::new(Arc::clone(&admin), Arc::clone(&shared), is_admin);
    let end = converse(&mut link, session).await;
    let (reason, error) = match end {
        End::Left(reason) => (reason.to_owned(), None),
        End::Error(error) => (error.to_string(), Some(error)),
    };
    if admin.context.config.load().pooler.log_disconnections {
        info!(client = %shared.id, user = %shared.user, database = %shared.database, "closing because: {reason}");
    }
    // Its place is free from here on; the last words have a bound of their own.
    drop(registered);
    admin.console_left();
    if let Some(error) = error {
        let mut message = Vec::new();
        backend::put_error(&mut message, &error);
        login::last_words(link.stream, message).await;
    }
}

async fn converse(link: &mut Link, mut session: Session) -> End {
    loop {
        let (tag, body) = match link.message().await {
            Ok(message) => message,
            Err(end) => return end,
        };
        let mut out = Vec::new();
        let answered = tokio::select! {
            biased;
            flow = session.message(tag, &body, &mut out) => Ok(flow),
            // PAUSE and others may take long.
            end = link.end() => Err(end),
        };
        let flow = match answered {
            Ok(flow) => flow,
            Err(end) => return end,
        };
        if let Err(end) = link.send(&out).await {
            return end;
        }
        match flow {
            Ok(Flow::Continue) => {}
            Ok(Flow::Terminate) => return End::Left("client close request"),
            Err(error) => return End::Error(error),
        }
    }
}

/// The socket, what was read from it and not taken, and what may end it.
struct Link {
    stream: Stream,
    buf: Vec<u8>,
    shared: Arc<ClientShared>,
}

impl Link {
    /// The next whole message: its tag and body.
    async fn message(&mut self) -> Result<(u8, Vec<u8>), End> {
        // Between two messages the session is idle, so every order to end is due, even while more are there.
        if let Some(error) = ordered(&self.shared, ALL) {
            return Err(End::Error(error));
        }
        loop {
            if let Some(header) = frame::peek(&self.buf).map_err(ClientError::from)? {
                if header.body_len > MESSAGE_LIMIT {
                    let text = format!("message of {} bytes is too long for the console", header.body_len);
                    return Err(ClientError::fatal(SqlState::PROGRAM_LIMIT_EXCEEDED, text).into());
                }
            }
            if let Some((header, body)) = frame::whole(&self.buf).map_err(ClientError::from)? {
                let message = (header.tag, body.to_vec());
                self.buf.drain(..header.total_len());
                return Ok(message);
            }
            self.fill().await?;
        }
    }

    /// Waits for the client to leave, or an order to end, while its command runs. What it sends ahead is kept.
    async fn end(&mut self) -> End {
        loop {
            if self.buf.len() > MESSAGE_LIMIT {
                return End::Error(wait_for_order(&self.shared, ALL).await);
            }
            if let Err(end) = self.fill().await {
                return end;
            }
        }
    }

    async fn fill(&mut self) -> Result<(), End> {
        let mut chunk = vec![0u8; 4096];
        let read = tokio::select! {
            read = self.stream.read(&mut chunk) => read,
            error = wait_for_order(&self.shared, ALL) => return Err(End::Error(error)),
        };
        match read {
            Ok(0) => Err(End::Left("client close request")),
            Ok(n) => {
                self.buf.extend_from_slice(&chunk[..n]);
                Ok(())
            }
            Err(_) => Err(End::Left("client connection lost")),
        }
    }

    /// Sends an answer. A client that doesn't read it in time is left, without a word: it would not fit in
    /// between.
    async fn send(&mut self, bytes: &[u8]) -> Result<(), End> {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        let written = tokio::select! {
            // What the socket takes at once is sent, order or not.
            biased;
            written = timer::timeout(WRITE_TIMEOUT, write) => written,
            _ = wait_for_order(&self.shared, order::END_NOW) => return Err(End::Left("ended by the administrator")),
        };
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Left("client connection lost")),
            Err(_) => Err(End::Left("client did not read its answer in time")),
        }
    }
}

/// Every order that ends a session.
const ALL: u16 = order::END_NOW | order::END_IDLE | order::END_QUERY;

/// The error to end with, if one of `orders` was given.
fn ordered(shared: &ClientShared, orders: u16) -> Option<ClientError> {
    if shared.orders() & orders == 0 { None } else { shared.end_error() }
}

async fn wait_for_order(shared: &ClientShared, orders: u16) -> ClientError {
    std::future::poll_fn(|cx| {
        shared.wake_with(cx.waker());
        ordered(shared, orders).map_or(Poll::Pending, Poll::Ready)
    })
    .await
}
