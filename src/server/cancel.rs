//! Cancelling what a server runs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::ServerShared;
use super::encrypt::{self, Way};
use crate::net::TcpOptions;
use crate::net::stream::Stream;
use crate::net::timer;
use crate::wire::startup;

/// Holds a server back from changing hands while a cancel request for it is on its way. One that was sent and
/// not seen to its end may still come at any time: the server is then doomed.
#[derive(Debug)]
pub struct CancelInFlight {
    server: Arc<ServerShared>,
    /// Sent, and PostgreSQL hasn't hung up.
    pending: bool,
}

impl CancelInFlight {
    /// Must be called while the server can't be given back (under the holder's cancel slot).
    #[must_use]
    pub fn begin(server: &Arc<ServerShared>) -> Self {
        server.was_cancelled.store(true, Ordering::Release);
        server.cancels.fetch_add(1, Ordering::AcqRel);
        Self { server: Arc::clone(server), pending: false }
    }

    /// Sends the request and waits until PostgreSQL has hung up: by then the signal has been sent, and what the
    /// server begins afterwards isn't hit.
    ///
    /// # Errors
    /// The socket's; `TimedOut`.
    pub async fn send(mut self, options: TcpOptions, timeout: Duration) -> io::Result<()> {
        let request = async {
            let mut stream = self.connect(&options).await?;
            let mut message = Vec::new();
            startup::put_cancel(&mut message, &self.server.key);
            self.pending = true;
            stream.write_all(&message).await?;
            let mut sink = [0u8; 64];
            while stream.read(&mut sink).await? > 0 {}
            self.pending = false;
            Ok(())
        };
        timer::timeout(timeout, request).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl CancelInFlight {
    /// As the server's own connection was made: encrypted, if that is.
    async fn connect(&self, options: &TcpOptions) -> io::Result<Stream> {
        let server = &self.server;
        let Some(encryption) = &server.encryption else { return server.target.connect(options).await };
        let opened = encrypt::open(&server.target, options, &encryption.tls, Way::Tls).await;
        opened.map(|(stream, _)| stream).map_err(io::Error::other)
    }
}

impl Drop for CancelInFlight {
    fn drop(&mut self) {
        if self.pending {
            self.server.doomed.store(true, Ordering::Release);
        }
        self.server.cancels.fetch_sub(1, Ordering::AcqRel);
    }
}
