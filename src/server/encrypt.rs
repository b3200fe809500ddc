//! Opening a connection to a server, with TLS or without, as `server_tls_sslmode` wants it.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::config::Host;
use crate::net::stream::Stream;
use crate::net::{Target, TcpOptions, tls};
use crate::tls::{Cipher, ConnectTls, SslMode, SslNegotiation, TlsInfo};
use crate::wire::startup;

/// One of the ways to open a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Without TLS.
    Plain,
    /// With TLS, or without it if the server says that it has none.
    TlsIfOffered,
    /// With TLS.
    Tls,
}

/// Why a connection was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The server has no TLS.
    #[error("the server does not offer TLS (server_tls_sslmode)")]
    NotOffered,
    /// Unencrypted bytes behind the answer: they could only have been injected (CVE-2021-23222).
    #[error("received unencrypted data after the server's answer to the TLS request")]
    Injected,
    /// It answered otherwise.
    #[error("the server answered the TLS request with byte 0x{0:02x}")]
    Answer(u8),
    /// TLS with it can't be had.
    #[error("TLS handshake failed: {0}")]
    Handshake(io::Error),
    /// It speaks TLS, but not PostgreSQL's protocol inside.
    #[error("the server did not agree on the protocol by ALPN, as direct TLS demands (sslnegotiation)")]
    NoAlpn,
}

impl OpenError {
    /// Whether trying again can't help before somebody changes something.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Io(_) | Self::Answer(_) | Self::Injected => false,
            Self::NotOffered | Self::NoAlpn => true,
            // A server that restarts hangs up, too.
            Self::Handshake(error) => matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput),
        }
    }
}

/// What is kept of an encrypted connection, for SHOW SERVERS and cancels.
#[derive(Clone, Debug)]
pub struct Encryption {
    /// Protocol version and cipher.
    pub cipher: Cipher,
    /// With what it was made: cancels go the same way.
    pub tls: ConnectTls,
}

/// The ways to try, in this order. Over unix sockets there is no TLS, as in libpq.
#[must_use]
pub fn ways(target: &Target, tls: &ConnectTls) -> &'static [Way] {
    match (&target.host, tls.settings.mode) {
        (Host::Unix(_), _) | (_, SslMode::Disable) => &[Way::Plain],
        (_, SslMode::Allow) => &[Way::Plain, Way::Tls],
        (_, SslMode::Prefer) => &[Way::TlsIfOffered, Way::Plain],
        (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[Way::Tls],
    }
}

/// Opens a connection in this way.
///
/// # Errors
/// See [`OpenError`].
pub async fn open(
    target: &Target,
    options: &TcpOptions,
    tls: &ConnectTls,
    way: Way,
) -> Result<(Stream, Option<TlsInfo>), OpenError> {
    let stream = target.connect(options).await?;
    let (Some(config), Host::Tcp(host), true) = (&tls.config, &target.host, way != Way::Plain) else {
        return Ok((stream, None));
    };
    let Stream::Tcp(mut socket) = stream else { return Ok((stream, None)) };
    let direct = tls.settings.negotiation == SslNegotiation::Direct;
    if !direct && !is_offered(&mut socket).await? {
        return match way {
            Way::TlsIfOffered => Ok((Stream::Tcp(socket), None)),
            _ => Err(OpenError::NotOffered),
        };
    }
    let (stream, info) = tls::connect(socket, config, host).await.map_err(OpenError::Handshake)?;
    if direct && !stream.has_alpn() {
        return Err(OpenError::NoAlpn);
    }
    Ok((Stream::Tls(Box::new(stream)), Some(info)))
}

/// Asks whether the server has TLS.
async fn is_offered(socket: &mut TcpStream) -> Result<bool, OpenError> {
    let mut request = Vec::new();
    startup::put_ssl_request(&mut request);
    socket.write_all(&request).await?;
    let mut answer = [0; 2];
    let n = socket.read(&mut answer).await?;
    match (n, answer[0]) {
        (0, _) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        (1, b'S') => Ok(true),
        (1, b'N') => Ok(false),
        (_, b'S' | b'N') => Err(OpenError::Injected),
        (_, other) => Err(OpenError::Answer(other)),
    }
}
