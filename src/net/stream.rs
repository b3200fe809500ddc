//! One connected socket of any kind.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::tls::TlsStream;

/// What a socket nearly always takes at once, bytes: so much is written without preparing to wait. Where less was
/// taken than given, waiting needs one more system call.
const AT_ONCE: usize = 4096;

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Box<TlsStream>),
    /// In memory.
    #[cfg(test)]
    Simulated(super::simulated::SimulatedStream),
}

/// What a look at an idle socket showed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdleState {
    /// Nothing to read.
    Quiet,
    /// Closed by the peer, or bytes that nobody asked for.
    Disturbed,
}

impl Stream {
    /// Reads what is there into `buf`; 0 bytes is the end.
    pub fn poll_read_into(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Self::Tls(stream) = self {
            return stream.poll_read_into(cx, buf);
        }
        let mut buf = ReadBuf::new(buf);
        match Pin::new(self).poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(buf.filled().len())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Whether there may be something to read, without a system call and without having anybody woken. Once a read
    /// was pending for want of input, the task that it was for is woken when this turns true.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, || Ok(())).is_ok(),
            Self::Unix(stream) => stream.try_io(Interest::READABLE, || Ok(())).is_ok(),
            Self::Tls(_) => true,
            #[cfg(test)]
            Self::Simulated(stream) => stream.is_readable(),
        }
    }

    /// Writes from `bytes`, as much as the socket takes. After `Pending` the next write must begin with the same bytes.
    pub fn poll_write_from(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.len() > AT_ONCE {
            return Pin::new(self).poll_write(cx, bytes);
        }
        let written = match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
            Self::Tls(stream) => return stream.poll_write_from(cx, bytes),
            #[cfg(test)]
            Self::Simulated(stream) => stream.try_write(bytes),
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Pin::new(self).poll_write(cx, bytes),
            written => Poll::Ready(written),
        }
    }

    /// Looks at a socket that nobody reads. Costs no system call while it is quiet: the runtime's cached
    /// readiness tells.
    pub fn idle_state(&mut self) -> IdleState {
        if let Self::Tls(stream) = self {
            // Records that are for TLS itself disturb nobody.
            let read = stream.poll_read_into(&mut Context::from_waker(Waker::noop()), &mut [0]);
            return if read.is_pending() { IdleState::Quiet } else { IdleState::Disturbed };
        }
        let mut byte = [0u8; 1];
        let read = match self {
            Self::Tcp(stream) => stream.try_read(&mut byte),
            Self::Unix(stream) => stream.try_read(&mut byte),
            Self::Tls(_) => return IdleState::Disturbed,
            #[cfg(test)]
            Self::Simulated(stream) => return stream.idle_state(),
        };
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => IdleState::Quiet,
            _ => IdleState::Disturbed,
        }
    }

    /// As [`Stream::idle_state`], by a system call: the runtime may not have noticed yet what has come. Plain sockets only.
    #[must_use]
    pub fn idle_state_now(&self) -> IdleState {
        let look = |socket| recv(socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        match self.as_fd().map(look) {
            Some(Err(Errno::WOULDBLOCK)) => IdleState::Quiet,
            _ => IdleState::Disturbed,
        }
    }

    /// The system's user at the other end of a unix socket.
    #[must_use]
    pub fn peer_uid(&self) -> Option<u32> {
        match self {
            Self::Tcp(_) | Self::Tls(_) => None,
            #[cfg(test)]
            Self::Simulated(_) => None,
            Self::Unix(stream) => stream.peer_cred().ok().map(|peer| peer.uid()),
        }
    }

    /// The bare socket, which the runtime knows nothing of any more.
    ///
    /// # Errors
    /// The system's; TLS can't be taken off a socket.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(stream) => stream.into_std().map(OwnedFd::from),
            Self::Unix(stream) => stream.into_std().map(OwnedFd::from),
            Self::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
            #[cfg(test)]
            Self::Simulated(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The bare socket, where that is all that there is of the stream.
    #[must_use]
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tcp(stream) => Some(stream.as_fd()),
            Self::Unix(stream) => Some(stream.as_fd()),
            Self::Tls(_) => None,
            #[cfg(test)]
            Self::Simulated(_) => None,
        }
    }

    /// Sets the options that a server's socket has.
    ///
    /// # Errors
    /// The system's.
    pub fn set_options(&self, options: &super::TcpOptions) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => options.apply(stream),
            _ => Ok(()),
        }
    }

    /// A stream of a connected socket, of TCP or else a unix socket.
    ///
    /// # Errors
    /// The system's.
    pub fn from_fd(socket: OwnedFd, is_tcp: bool) -> io::Result<Self> {
        if is_tcp {
            let stream = std::net::TcpStream::from(socket);
            stream.set_nonblocking(true)?;
            return TcpStream::from_std(stream).map(Self::Tcp);
        }
        let stream = std::os::unix::net::UnixStream::from(socket);
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream).map(Self::Unix)
    }

    /// Addresses of the two ends as SHOW CLIENTS and SHOW SERVERS give them: local, remote.
    #[must_use]
    pub fn addresses(&self) -> (Option<std::net::SocketAddr>, Option<std::net::SocketAddr>) {
        let stream = match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.socket(),
            Self::Unix(_) => return (None, None),
            #[cfg(test)]
            Self::Simulated(_) => return (None, None),
        };
        (stream.local_addr().ok(), stream.peer_addr().ok())
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => match stream.poll_read_into(cx, buf.initialize_unfilled()) {
                Poll::Ready(Ok(n)) => {
                    buf.advance(n);
                    Poll::Ready(Ok(()))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => Poll::Pending,
            },
            #[cfg(test)]
            Self::Simulated(stream) => stream.poll_read(cx, buf.initialize_unfilled()).map_ok(|n| buf.advance(n)),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => stream.poll_write_from(cx, buf),
            #[cfg(test)]
            Self::Simulated(stream) => stream.poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => stream.poll_shutdown(cx),
            #[cfg(test)]
            Self::Simulated(stream) => {
                stream.shutdown();
                Poll::Ready(Ok(()))
            }
        }
    }
}
