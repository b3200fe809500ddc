//! A TCP connection inside TLS, with the polling of a plain one.
//!
//! rustls' unbuffered connections are used, so that buffers belong to the worker thread, as the relay's do: an idle
//! connection keeps its keys and no buffer. What is kept between polls is the beginning of a record, plaintext that the
//! reader had no room for, and ciphertext that the socket didn't take.
//!
//! Invariant: a write is reported only once its ciphertext is in the socket, so nobody needs to flush. Until then it
//! is pending, and the next write must begin with the same bytes (as OpenSSL's `SSL_write`); whoever keeps what a
//! socket didn't take and tries again does that anyway.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod session;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use session::{Connection, Progress, Session, Write, error_of, nothing_to_write};

use super::timer;
use crate::tls::{ALPN, Cipher, Peer, TlsInfo, certificate};

/// What a worker thread decrypts in, bytes: what it reads at once, and the start of a record in front of it. A
/// handshake's longest message (64 KiB, rustls' bound) fits.
const INCOMING: usize = 96 * 1024;
/// At least how much is read at once, bytes.
const LEAST_READ: usize = 4096;
/// Plaintext that is encrypted at once, bytes: four records.
const MOST_PLAIN: usize = 64 * 1024;
/// More than what its encryption adds, key updates and alerts included.
const OVERHEAD: usize = 2048;

/// How long a client that isn't let in may take to hang up.
const PARTING_TIMEOUT: Duration = Duration::from_secs(2);

/// A worker thread's buffers, used within one poll.
struct Scratch {
    incoming: Box<[u8]>,
    outgoing: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        incoming: vec![0; INCOMING].into(),
        outgoing: vec![0; MOST_PLAIN + OVERHEAD],
    });
}

/// Bytes that wait.
#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    taken: usize,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    /// The memory goes with the last byte.
    fn take(&mut self, n: usize) {
        self.taken += n;
        if self.taken >= self.bytes.len() {
            *self = Self::default();
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct TlsStream {
    socket: TcpStream,
    session: Session,
    /// The start of a record, or of a handshake message.
    partial: Vec<u8>,
    plain: Waiting,
    outgoing: Waiting,
    /// How much plaintext the ciphertext in `outgoing` stands for, if its write is pending.
    unreported: usize,
    end: End,
}

/// How far a connection is from its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Open,
    /// The other side has said goodbye.
    PeerClosed,
    /// The other side broke the protocol.
    Broken,
}

/// Accepts TLS from a client. `read` is what was read from the socket of it already.
///
/// # Errors
/// The socket's; `InvalidData` with the reason for a handshake that failed, of which the client was told.
pub async fn accept(
    socket: TcpStream,
    config: &Arc<ServerConfig>,
    read: Vec<u8>,
    verifies: bool,
) -> io::Result<(TlsStream, TlsInfo)> {
    let connection = UnbufferedServerConnection::new(Arc::clone(config)).map_err(error_of)?;
    let mut stream = TlsStream::new(socket, Connection::Accepted(connection), read);
    if let Err(error) = std::future::poll_fn(|cx| stream.poll_handshake(cx)).await {
        stream.part().await;
        return Err(error);
    }
    let info = stream.info(verifies)?;
    Ok((stream, info))
}

/// Begins TLS with a server. The certificate's name is checked by the configuration, if it asks for that.
///
/// # Errors
/// The socket's; `InvalidData` with the reason for a handshake that failed.
pub async fn connect(socket: TcpStream, config: &Arc<ClientConfig>, host: &str) -> io::Result<(TlsStream, TlsInfo)> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("\"{host}\" is not a name that a certificate can have"))
    })?;
    let connection = UnbufferedClientConnection::new(Arc::clone(config), name).map_err(error_of)?;
    let mut stream = TlsStream::new(socket, Connection::Connected(connection), Vec::new());
    std::future::poll_fn(|cx| stream.poll_handshake(cx)).await?;
    let info = stream.info(false)?;
    Ok((stream, info))
}

impl TlsStream {
    fn new(socket: TcpStream, connection: Connection, partial: Vec<u8>) -> Self {
        Self {
            socket,
            session: Session { connection, closed: false },
            partial,
            plain: Waiting::default(),
            outgoing: Waiting::default(),
            unreported: 0,
            end: End::Open,
        }
    }

    /// The socket.
    pub(super) const fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Whether the other side has agreed on PostgreSQL's protocol by ALPN.
    #[must_use]
    pub fn has_alpn(&self) -> bool {
        self.session.state().alpn_protocol() == Some(ALPN)
    }

    /// Ends a connection that nobody is to use, in an order that lets goodbyes and alerts arrive: closing a socket
    /// with unread bytes would reset the connection and take them with it.
    pub async fn part(mut self) {
        let parting = async {
            std::future::poll_fn(|cx| self.poll_shutdown(cx)).await?;
            tokio::io::copy(&mut self.socket, &mut tokio::io::sink()).await
        };
        // One who doesn't listen isn't waited for.
        let _ = timer::timeout(PARTING_TIMEOUT, parting).await;
    }

    fn info(&self, verified: bool) -> io::Result<TlsInfo> {
        let state = self.session.state();
        let cipher = state.negotiated_cipher_suite().and_then(Cipher::of);
        let cipher = cipher.ok_or_else(|| io::Error::other("a TLS cipher without a name"))?;
        let peer = state.peer_certificates().and_then(|chain| chain.first());
        let server_end_point = match (&self.session.connection, peer) {
            (Connection::Connected(_), Some(server)) => certificate::server_end_point(server),
            _ => Vec::new(),
        };
        let peer = peer.and_then(|certificate| Peer::read(certificate, verified)).map(Box::new);
        Ok(TlsInfo { cipher, peer, server_end_point })
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let advanced = self.advance_partial();
            // An alert goes out even so, if the socket takes it at once.
            let sent = self.poll_send(cx);
            let progress = advanced?;
            ready!(sent)?;
            if progress.established {
                return Poll::Ready(Ok(()));
            }
            if progress.peer_closed {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            if self.partial.len() >= INCOMING {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "TLS handshake message is too long",
                )));
            }
            let at = self.partial.len();
            self.partial.resize(at + LEAST_READ, 0);
            let mut buf = ReadBuf::new(&mut self.partial[at..]);
            let read = Pin::new(&mut self.socket).poll_read(cx, &mut buf);
            let n = buf.filled().len();
            self.partial.truncate(at + n);
            ready!(read)?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Takes what there is of records from `partial`.
    fn advance_partial(&mut self) -> io::Result<Progress> {
        let Self { session, partial, plain, outgoing, .. } = self;
        let keep = &mut |bytes: &[u8]| plain.bytes.extend_from_slice(bytes);
        let advanced = session.advance(partial, keep, &mut outgoing.bytes, &mut nothing_to_write);
        let progress = advanced.inspect_err(|_| self.end = End::Broken)?;
        partial.drain(..progress.consumed);
        if partial.is_empty() {
            *partial = Vec::new();
        }
        Ok(progress)
    }

    /// Sends ciphertext that waits.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let n = ready!(Pin::new(&mut self.socket).poll_write(cx, self.outgoing.rest()))?;
            self.outgoing.take(n);
        }
        Poll::Ready(Ok(()))
    }

    /// As [`super::stream::Stream::poll_read_into`].
    pub(super) fn poll_read_into(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            if !self.plain.is_empty() {
                let n = self.plain.rest().len().min(buf.len());
                buf[..n].copy_from_slice(&self.plain.rest()[..n]);
                self.plain.take(n);
                return Poll::Ready(Ok(n));
            }
            match self.end {
                End::Open => {}
                End::PeerClosed => return Poll::Ready(Ok(0)),
                End::Broken => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            }
            let read = SCRATCH.with_borrow_mut(|scratch| self.poll_records(cx, &mut scratch.incoming, buf));
            // Key updates and alerts that are due: what the socket doesn't take wakes this task when it can.
            let sent = self.poll_send(cx);
            let n = ready!(read)?;
            if let Poll::Ready(Err(error)) = sent {
                return Poll::Ready(Err(error));
            }
            if n > 0 {
                return Poll::Ready(Ok(n));
            }
        }
    }

    /// Reads once, and decrypts what is whole to `buf`, and further to `plain`. 0 bytes: nothing of it was the
    /// application's, or the end, see `end`.
    fn poll_records(&mut self, cx: &mut Context<'_>, incoming: &mut [u8], buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let had = self.partial.len();
        let room = buf.len().saturating_sub(had).max(LEAST_READ);
        let most = incoming.len().min(had + room);
        if had >= most {
            self.end = End::Broken;
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "TLS message is too long")));
        }
        let mut target = ReadBuf::new(&mut incoming[had..most]);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut target))?;
        let n = target.filled().len();
        if n == 0 {
            // Without close_notify, as most clients leave. Messages have their own end, so nothing can be cut off.
            self.end = End::PeerClosed;
            return Poll::Ready(Ok(0));
        }
        incoming[..had].copy_from_slice(&self.partial);
        let input = &mut incoming[..had + n];
        let mut filled = 0;
        let Self { session, plain, outgoing, .. } = self;
        let deliver = &mut |bytes: &[u8]| {
            let here = bytes.len().min(buf.len() - filled);
            buf[filled..filled + here].copy_from_slice(&bytes[..here]);
            filled += here;
            plain.bytes.extend_from_slice(&bytes[here..]);
        };
        let advanced = session.advance(input, deliver, &mut outgoing.bytes, &mut nothing_to_write);
        let progress = match advanced {
            Ok(progress) => progress,
            Err(error) => {
                self.end = End::Broken;
                // What came before it is good.
                return Poll::Ready(if filled > 0 { Ok(filled) } else { Err(error) });
            }
        };
        if progress.peer_closed {
            self.end = End::PeerClosed;
        }
        let rest = &input[progress.consumed..];
        self.partial = if rest.is_empty() { Vec::new() } else { rest.to_vec() };
        Poll::Ready(Ok(filled))
    }

    /// As [`super::stream::Stream::poll_write_from`], see the module's invariant.
    pub(super) fn poll_write_from(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        if self.unreported > 0 {
            return Poll::Ready(Ok(std::mem::take(&mut self.unreported).min(bytes.len())));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.session.closed || self.end == End::Broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let chunk = &bytes[..bytes.len().min(MOST_PLAIN)];
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.outgoing.clear();
            self.encrypt(&mut scratch.outgoing, &mut |traffic, out| traffic.encrypt(chunk, out))?;
            let mut sent = 0;
            while sent < scratch.outgoing.len() {
                match Pin::new(&mut self.socket).poll_write(cx, &scratch.outgoing[sent..]) {
                    Poll::Ready(n) => sent += n?,
                    Poll::Pending => {
                        self.outgoing.bytes.extend_from_slice(&scratch.outgoing[sent..]);
                        self.unreported = chunk.len();
                        return Poll::Pending;
                    }
                }
            }
            Poll::Ready(Ok(chunk.len()))
        })
    }

    /// Has `write` use the connection. What is in `partial` has been looked at before, and is no whole record.
    fn encrypt(&mut self, outgoing: &mut Vec<u8>, write: &mut Write<'_>) -> io::Result<()> {
        let Self { session, partial, plain, .. } = self;
        let keep = &mut |bytes: &[u8]| plain.bytes.extend_from_slice(bytes);
        let advanced = session.advance(partial, keep, outgoing, write);
        let progress = advanced.inspect_err(|_| self.end = End::Broken)?;
        partial.drain(..progress.consumed);
        if progress.established { Ok(()) } else { Err(io::ErrorKind::NotConnected.into()) }
    }

    /// Says goodbye and closes this direction.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.session.closed && self.end != End::Broken && !self.session.state().is_handshaking() {
            let mut goodbye = Vec::new();
            self.encrypt(&mut goodbye, &mut |traffic, out| traffic.close(out))?;
            self.outgoing.bytes.extend_from_slice(&goodbye);
            self.session.closed = true;
        }
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
