//! Bytes from one socket to the other, and back.

use std::io::{self, Write};
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Interest, Poll, Token};

use super::{Moved, Service, moved, read};

/// Connections lie in pairs: the one of token `t` has its peer at `t ^ 1`.
pub struct Forward {
    to: SocketAddr,
    ends: Vec<Option<End>>,
}

struct End {
    stream: TcpStream,
    /// What its socket hasn't taken yet.
    pending: Vec<u8>,
}

impl Forward {
    pub const fn new(to: SocketAddr) -> Self {
        Self { to, ends: Vec::new() }
    }

    /// Copies what has come at `at` to its peer. Says whether both live on.
    fn copy(&mut self, at: usize, chunk: &mut [u8]) -> bool {
        loop {
            // Of a peer that takes no more nothing more is read; its being writable calls again.
            if self.ends[at ^ 1].as_ref().is_none_or(|peer| !peer.pending.is_empty()) {
                return true;
            }
            let Some(end) = &mut self.ends[at] else { return true };
            let n = match read(&mut end.stream, chunk) {
                Moved::Bytes(n) => n,
                Moved::Later => return true,
                Moved::Over => return false,
            };
            if !self.ends[at ^ 1].as_mut().is_none_or(|peer| peer.write(&chunk[..n])) {
                return false;
            }
            // A short read is the last one: the rest comes with the next event.
            if n < chunk.len() {
                return true;
            }
        }
    }

    fn flush(&mut self, at: usize) -> bool {
        let Some(end) = &mut self.ends[at] else { return true };
        let pending = std::mem::take(&mut end.pending);
        pending.is_empty() || end.write(&pending)
    }
}

impl End {
    fn write(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match moved(self.stream.write(bytes)) {
                Moved::Bytes(n) => bytes = &bytes[n..],
                Moved::Later => {
                    self.pending.extend_from_slice(bytes);
                    return true;
                }
                Moved::Over => return false,
            }
        }
        true
    }
}

impl Service for Forward {
    fn accept(&mut self, poll: &Poll, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::from_std({
            let server = std::net::TcpStream::connect(self.to)?;
            server.set_nodelay(true)?;
            server.set_nonblocking(true)?;
            server
        });
        let free = self.ends.chunks(2).position(|pair| pair.iter().all(Option::is_none));
        let at = free.map_or(self.ends.len(), |pair| pair * 2);
        if at == self.ends.len() {
            self.ends.extend([None, None]);
        }
        for (token, mut stream) in [(at, client), (at + 1, server)] {
            poll.registry().register(&mut stream, Token(token), Interest::READABLE | Interest::WRITABLE)?;
            self.ends[token] = Some(End { stream, pending: Vec::new() });
        }
        Ok(())
    }

    fn ready(&mut self, _: &Poll, Token(at): Token, chunk: &mut [u8]) {
        let blocked = self.ends[at].as_ref().is_some_and(|end| !end.pending.is_empty());
        let alive = self.flush(at) && self.copy(at, chunk) && (!blocked || self.copy(at ^ 1, chunk));
        if !alive {
            // Closing them takes them out of epoll.
            (self.ends[at], self.ends[at ^ 1]) = (None, None);
        }
    }
}
