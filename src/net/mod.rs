//! Layer 3: sockets. Knows nothing of messages.

pub mod handoff;
pub mod listener;
#[cfg(test)]
pub mod simulated;
pub mod stream;
pub mod timer;
pub mod tls;
pub mod world;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use crate::config::{Host, Pooler};
use stream::Stream;

/// Where a server is: what to connect to, as configured.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Target {
    /// Host name, address or socket directory.
    pub host: Host,
    /// TCP port or suffix of the socket's name.
    pub port: u16,
}

impl Target {
    /// The socket file of a unix target.
    fn socket_path(&self, dir: &std::path::Path) -> PathBuf {
        dir.join(format!(".s.PGSQL.{}", self.port))
    }

    /// Connects; TCP with no delay and the configured keepalive.
    ///
    /// # Errors
    /// The system's; for a name with several addresses the last one's.
    pub async fn connect(&self, options: &TcpOptions) -> io::Result<Stream> {
        #[cfg(test)]
        if let Some(connected) = simulated::connect() {
            return connected;
        }
        match &self.host {
            Host::Unix(dir) => Ok(Stream::Unix(UnixStream::connect(self.socket_path(dir)).await?)),
            Host::Tcp(host) => {
                let stream = TcpStream::connect((host.as_str(), self.port)).await?;
                options.apply(&stream)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            Host::Unix(dir) => write!(f, "{}:{}", dir.display(), self.port),
            Host::Tcp(host) => write!(f, "{host}:{}", self.port),
        }
    }
}

/// Who is at the other end of an accepted connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over the unix socket.
    Unix,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // A socket for both families gives IPv4 as ::ffff:….
            Self::Tcp(addr) => SocketAddr::new(addr.ip().to_canonical(), addr.port()).fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// Both ends of a client's connection, in the least of memory: every idle client has them. Flow and scope of IPv6 are left
/// out.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    peer: Option<End>,
    local: Option<End>,
}

/// An address without padding.
#[derive(Clone, Copy, Debug)]
struct End(IpAddr, [u8; 2]);

impl From<SocketAddr> for End {
    fn from(addr: SocketAddr) -> Self {
        Self(addr.ip(), addr.port().to_ne_bytes())
    }
}

impl From<End> for SocketAddr {
    fn from(End(ip, port): End) -> Self {
        Self::new(ip, u16::from_ne_bytes(port))
    }
}

impl Ends {
    /// Of a connection with `peer`, whose socket here has the address `local`.
    #[must_use]
    pub fn new(peer: Peer, local: Option<SocketAddr>) -> Self {
        let peer = match peer {
            Peer::Tcp(addr) => Some(addr.into()),
            Peer::Unix => None,
        };
        Self { peer, local: local.map(End::from) }
    }

    /// The other end.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.peer.map_or(Peer::Unix, |end| Peer::Tcp(end.into()))
    }

    /// This end (TCP).
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        self.local.map(SocketAddr::from)
    }
}

/// The `tcp_*` settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpOptions {
    /// For listening sockets: see `listener`.
    defer_accept: bool,
    keepalive: bool,
    idle: u32,
    interval: u32,
    count: u32,
    user_timeout: u32,
    buffer: u32,
}

impl From<&Pooler> for TcpOptions {
    fn from(pooler: &Pooler) -> Self {
        Self {
            defer_accept: pooler.tcp_defer_accept,
            keepalive: pooler.tcp_keepalive,
            idle: pooler.tcp_keepidle,
            interval: pooler.tcp_keepintvl,
            count: pooler.tcp_keepcnt,
            user_timeout: pooler.tcp_user_timeout,
            buffer: pooler.tcp_socket_buffer,
        }
    }
}

impl TcpOptions {
    /// Sets the options on a connected socket, or on a listening one that hands them down.
    ///
    /// # Errors
    /// The system's.
    pub fn apply(&self, socket: &impl AsFd) -> io::Result<()> {
        let socket = socket2::SockRef::from(socket);
        socket.set_tcp_nodelay(true)?;
        if self.keepalive {
            let seconds = |n: u32| Duration::from_secs(n.into());
            let mut keepalive = socket2::TcpKeepalive::new();
            if self.idle > 0 {
                keepalive = keepalive.with_time(seconds(self.idle));
            }
            if self.interval > 0 {
                keepalive = keepalive.with_interval(seconds(self.interval));
            }
            if self.count > 0 {
                keepalive = keepalive.with_retries(self.count);
            }
            socket.set_tcp_keepalive(&keepalive)?;
        } else {
            socket.set_keepalive(false)?;
        }
        if self.buffer > 0 {
            socket.set_send_buffer_size(self.buffer as usize)?;
            socket.set_recv_buffer_size(self.buffer as usize)?;
        }
        let timeout = (self.user_timeout > 0).then(|| Duration::from_millis(self.user_timeout.into()));
        socket.set_tcp_user_timeout(timeout)
    }
}
