//! Listening sockets: TCP addresses and the unix socket, accepted from as one.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::stream::Stream;
use super::{Peer, TcpOptions};
use crate::config::Pooler;

/// One listening socket. A unix socket's file is removed when it is dropped.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpSocket),
    /// The unix socket and its file.
    Unix(UnixListener, SocketFile),
}

/// A TCP socket to accept from.
#[derive(Debug)]
pub struct TcpSocket {
    listener: TcpListener,
    /// The address of its connections' own ends, unless it listens on all addresses.
    local: Option<SocketAddr>,
    /// The options that its connections inherit.
    options: TcpOptions,
    /// The service manager has opened it.
    inherited: bool,
}

/// One connection.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub stream: Stream,
    /// Who is at the other end.
    pub peer: Peer,
    /// Address of the socket itself (TCP).
    pub local: Option<SocketAddr>,
}

/// Removes the file on drop, unless it is somebody else's.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    is_own: Arc<AtomicBool>,
}

impl SocketFile {
    fn new(path: &Path, is_own: bool) -> Self {
        Self { path: path.to_owned(), is_own: Arc::new(AtomicBool::new(is_own)) }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_own.load(Ordering::Relaxed) {
            // Already gone is as good.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    /// Takes one connection.
    ///
    /// # Errors
    /// The system's, `EMFILE` among them: try again later.
    pub async fn accept(&mut self, options: TcpOptions) -> io::Result<Accepted> {
        match self {
            Self::Tcp(socket) => socket.accept(options).await,
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok(Accepted { stream: Stream::Unix(stream), peer: Peer::Unix, local: None })
            }
        }
    }

    /// Whether it is the unix socket.
    #[must_use]
    pub const fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(..))
    }

    /// What it listens on, for logs.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(socket) => socket.listener.local_addr().map_or_else(|e| e.to_string(), |a| a.to_string()),
            Self::Unix(_, file) => format!("unix:{}", file.path.display()),
        }
    }
}

impl TcpSocket {
    fn open(addr: SocketAddr, pooler: &Pooler) -> io::Result<Self> {
        Self::new(open_tcp(addr, pooler)?, pooler)
    }

    fn new(listener: TcpListener, pooler: &Pooler) -> io::Result<Self> {
        let options = TcpOptions::from(pooler);
        set_options(&listener, &options)?;
        let addr = listener.local_addr()?;
        let local = (!addr.ip().is_unspecified()).then_some(addr);
        Ok(Self { listener, local, options, inherited: false })
    }

    /// Linux hands the options of a listening socket down to its connections, which saves setting them on each.
    async fn accept(&mut self, options: TcpOptions) -> io::Result<Accepted> {
        const INHERITED: bool = cfg!(target_os = "linux");
        if INHERITED && self.options != options {
            set_options(&self.listener, &options)?;
            self.options = options;
        }
        let (stream, addr) = self.listener.accept().await?;
        if !INHERITED {
            options.apply(&stream)?;
        }
        let local = self.local.or_else(|| stream.local_addr().ok());
        Ok(Accepted { stream: Stream::Tcp(stream), peer: Peer::Tcp(addr), local })
    }
}

/// Sets what is of the listening socket itself, and what it hands down.
fn set_options(listener: &TcpListener, options: &TcpOptions) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    nix::sys::socket::setsockopt(listener, defer::DeferAccept, &options.defer_accept)?;
    options.apply(listener)
}

#[cfg(target_os = "linux")]
mod defer {
    use nix::sys::socket::sockopt::SetBool;

    /// `TCP_DEFER_ACCEPT`. A client speaks first, so nothing is to be done for one before it has: with its first bytes
    /// there the accepting and the reading are one turn of the event loop. The number is of seconds, in which the system
    /// repeats its part of the handshake once; after that a silent connection is accepted all the same, and is
    /// subject to `client_login_timeout` and `max_login_connections`.
    #[derive(Clone)]
    pub(super) struct DeferAccept;

    nix::setsockopt_impl!(DeferAccept, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, bool, SetBool);
}

/// Opens every listening socket that the settings ask for; those that the service manager hands over take their
/// place.
///
/// # Errors
/// The first that fails, with its address in the text.
pub fn open_all(pooler: &Pooler) -> io::Result<Vec<Listener>> {
    let mut listeners = inherited(pooler)?;
    if !listeners.is_empty() {
        return Ok(listeners);
    }
    for name in &pooler.listen_addr {
        let named =
            |e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {name}:{}: {e}", pooler.listen_port));
        for addr in resolve(name, pooler.listen_port).map_err(named)? {
            listeners.push(Listener::Tcp(TcpSocket::open(addr, pooler).map_err(named)?));
        }
    }
    if let Some(dir) = &pooler.unix_socket_dir {
        let path = dir.join(format!(".s.PGSQL.{}", pooler.listen_port));
        let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {}: {e}", path.display()));
        listeners.push(open_unix(&path, pooler).map_err(named)?);
    }
    Ok(listeners)
}

/// What a listening socket that another process hands over is for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Use {
    /// Clients, by TCP; whether the service manager has opened it.
    Tcp(bool),
    /// Clients, by the unix socket of this name, and whether its file goes with it: else the service manager has opened it.
    Unix(PathBuf, bool),
    /// HTTP.
    Http,
}

/// Further descriptors of the listening sockets, to be handed over. They keep the sockets open, so they must go before
/// the sockets are to be closed.
#[derive(Debug, Default)]
pub struct Spares {
    sockets: Vec<(Use, OwnedFd)>,
    files: Vec<(PathBuf, Arc<AtomicBool>)>,
}

impl Spares {
    /// Of these sockets.
    ///
    /// # Errors
    /// The system's.
    pub fn of(listeners: &[Listener], http: Option<&TcpListener>) -> io::Result<Self> {
        let mut spares = Self::default();
        for listener in listeners {
            match listener {
                Listener::Tcp(socket) => spares.add(Use::Tcp(socket.inherited), &socket.listener)?,
                Listener::Unix(socket, file) => {
                    spares.add(Use::Unix(file.path.clone(), file.is_own.load(Ordering::Relaxed)), socket)?;
                    spares.files.push((file.path.clone(), Arc::clone(&file.is_own)));
                }
            }
        }
        if let Some(http) = http {
            spares.add(Use::Http, http)?;
        }
        Ok(spares)
    }

    fn add(&mut self, purpose: Use, socket: &impl AsFd) -> io::Result<()> {
        self.sockets.push((purpose, socket.as_fd().try_clone_to_owned()?));
        Ok(())
    }

    /// What they are for.
    #[must_use]
    pub fn uses(&self) -> Vec<Use> {
        self.sockets.iter().map(|(purpose, _)| purpose.clone()).collect()
    }

    /// The addresses that they listen on.
    ///
    /// # Errors
    /// The system's.
    pub fn addresses(&self) -> io::Result<Vec<String>> {
        self.sockets.iter().map(|(_, socket)| address_of(socket)).collect()
    }

    /// Closes those that listen elsewhere than on these addresses.
    pub fn keep(&mut self, addresses: &[String]) {
        self.sockets.retain(|(_, socket)| address_of(socket).is_ok_and(|address| addresses.contains(&address)));
    }

    /// The sockets and what they are for, to listen on them again.
    #[must_use]
    pub fn into_given(self) -> Vec<(Use, OwnedFd)> {
        self.sockets
    }

    /// The descriptors, in the same order.
    #[must_use]
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.sockets.iter().map(|(_, socket)| socket.as_fd()).collect()
    }

    /// The files of unix sockets are another process's from now on.
    pub fn disown_files(&self) {
        self.files.iter().for_each(|(_, is_own)| is_own.store(false, Ordering::Relaxed));
    }

    /// This process has the files of the sockets that were given to it from now on; those that it doesn't listen on go.
    pub fn own_files(&mut self, given: &[Use]) {
        for given in given {
            let Use::Unix(path, true) = given else { continue };
            let same =
                self.sockets.iter_mut().filter(|(purpose, _)| matches!(purpose, Use::Unix(own, _) if own == path));
            same.for_each(|(purpose, _)| purpose.clone_from(given));
            match self.files.iter().find(|(own, _)| own == path) {
                Some((_, is_own)) => is_own.store(true, Ordering::Relaxed),
                // Already gone is as good.
                None => drop(std::fs::remove_file(path)),
            }
        }
    }
}

fn address_of(socket: &OwnedFd) -> io::Result<String> {
    let address = socket2::SockRef::from(socket).local_addr()?;
    Ok(match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => address.to_string(),
        (None, path) => path.unwrap_or(Path::new("")).display().to_string(),
    })
}

/// Listening sockets that were given: TCP, unix, HTTP.
type Given = (Vec<TcpSocket>, Vec<(UnixListener, SocketFile)>, Option<TcpListener>);

fn sort(pooler: &Pooler, given: Vec<(Use, OwnedFd)>) -> io::Result<Given> {
    let (mut tcp, mut unix, mut http) = (Vec::new(), Vec::new(), None);
    for (purpose, socket) in given {
        match purpose {
            Use::Tcp(inherited) => {
                tcp.push(TcpSocket { inherited, ..TcpSocket::new(tcp_listener(socket)?, pooler)? });
            }
            Use::Http => http = Some(tcp_listener(socket)?),
            Use::Unix(path, _) => {
                let socket = std::os::unix::net::UnixListener::from(socket);
                socket.set_nonblocking(true)?;
                unix.push((UnixListener::from_std(socket)?, SocketFile::new(&path, false)));
            }
        }
    }
    Ok((tcp, unix, http))
}

fn all(tcp: Vec<TcpSocket>, unix: Vec<(UnixListener, SocketFile)>) -> Vec<Listener> {
    let unix = unix.into_iter().map(|(socket, file)| Listener::Unix(socket, file));
    tcp.into_iter().map(Listener::Tcp).chain(unix).collect()
}

/// Listens again on sockets that were handed to a process which is no more.
///
/// # Errors
/// The system's.
pub fn listen_again(pooler: &Pooler, given: Vec<(Use, OwnedFd)>) -> io::Result<(Vec<Listener>, Option<TcpListener>)> {
    let (tcp, unix, http) = sort(pooler, given)?;
    Ok((all(tcp, unix), http))
}

/// Goes on with another process's sockets where the settings ask for the same, and opens the others. Where the service
/// manager has opened them, they are as they are. The files of unix sockets stay the other's, see [`Spares::own_files`].
///
/// # Errors
/// The first that fails, with its address in the text.
pub fn take_over(pooler: &Pooler, given: Vec<(Use, OwnedFd)>) -> io::Result<(Vec<Listener>, Option<TcpListener>)> {
    let from_manager = given.iter().any(|(purpose, _)| matches!(purpose, Use::Tcp(true) | Use::Unix(_, false)));
    let (mut tcp, mut unix, http) = sort(pooler, given)?;
    let http = match (&pooler.http_addr, pooler.http_port, http) {
        (name, Some(port), Some(http)) if is_one_of(&http, &resolve(name, port)?) => Some(http),
        _ => open_http(pooler)?,
    };
    if from_manager {
        return Ok((all(tcp, unix), http));
    }
    let mut listeners = Vec::new();
    for name in &pooler.listen_addr {
        let named =
            |e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {name}:{}: {e}", pooler.listen_port));
        for addr in resolve(name, pooler.listen_port).map_err(named)? {
            let same = tcp.iter().position(|socket| is_one_of(&socket.listener, &[addr]));
            let socket = same.map_or_else(|| TcpSocket::open(addr, pooler).map_err(named), |at| Ok(tcp.remove(at)))?;
            listeners.push(Listener::Tcp(socket));
        }
    }
    if let Some(dir) = &pooler.unix_socket_dir {
        let path = dir.join(format!(".s.PGSQL.{}", pooler.listen_port));
        let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {}: {e}", path.display()));
        listeners.push(match unix.iter().position(|(_, file)| file.path == path) {
            Some(at) => {
                let (socket, file) = unix.remove(at);
                Listener::Unix(socket, file)
            }
            None => open_unix(&path, pooler).map_err(named)?,
        });
    }
    Ok((listeners, http))
}

fn tcp_listener(socket: OwnedFd) -> io::Result<TcpListener> {
    let socket = std::net::TcpListener::from(socket);
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

/// Whether a socket listens on one of these addresses, on any port where theirs is 0.
fn is_one_of(socket: &TcpListener, addrs: &[SocketAddr]) -> bool {
    let own = socket.local_addr();
    own.is_ok_and(|own| addrs.iter().any(|a| a.ip() == own.ip() && (a.port() == own.port() || a.port() == 0)))
}

/// Opens the listening socket for HTTP, if the settings ask for one.
///
/// # Errors
/// The system's, with the address in the text.
pub fn open_http(pooler: &Pooler) -> io::Result<Option<TcpListener>> {
    let (name, Some(port)) = (&pooler.http_addr, pooler.http_port) else { return Ok(None) };
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {name}:{port} for HTTP: {e}"));
    let first = resolve(name, port).map_err(named)?.into_iter().next();
    let addr = first.ok_or_else(|| named(io::ErrorKind::AddrNotAvailable.into()))?;
    open_tcp(addr, pooler).map(Some).map_err(named)
}

fn resolve(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if name == "*" {
        // One socket for both families; without IPv6 on this host, IPv4 alone.
        let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let usable = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).is_ok();
        return Ok(vec![if usable { v6 } else { SocketAddr::from(([0, 0, 0, 0], port)) }]);
    }
    Ok((name, port).to_socket_addrs()?.collect())
}

fn open_tcp(addr: SocketAddr, pooler: &Pooler) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if pooler.so_reuseport {
        socket.set_reuse_port(true)?;
    }
    if addr.is_ipv6() {
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(i32::try_from(pooler.listen_backlog).unwrap_or(i32::MAX))?;
    TcpListener::from_std(socket.into())
}

fn open_unix(path: &Path, pooler: &Pooler) -> io::Result<Listener> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    if is_socket {
        // A living process answers; a dead one has left its file behind.
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::from(io::ErrorKind::AddrInUse));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    // From here on the file goes when this fails.
    let file = SocketFile::new(path, true);
    if let Some(group) = &pooler.unix_socket_group {
        let wrong =
            |why: String| io::Error::new(io::ErrorKind::InvalidInput, format!("unix_socket_group {group:?}: {why}"));
        let found = nix::unistd::Group::from_name(group).map_err(|error| wrong(error.to_string()))?;
        let id = found.ok_or_else(|| wrong("no such group".into()))?.gid.as_raw();
        std::os::unix::fs::chown(path, None, Some(id)).map_err(|error| wrong(error.to_string()))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(pooler.unix_socket_mode))?;
    Ok(Listener::Unix(listener, file))
}

/// The sockets that the service manager has opened for this process, if any.
fn inherited(pooler: &Pooler) -> io::Result<Vec<Listener>> {
    let mut given = listenfd::ListenFd::from_env();
    let mut listeners = Vec::new();
    for at in 0..given.len() {
        if let Ok(Some(listener)) = given.take_unix_listener(at) {
            listener.set_nonblocking(true)?;
            let path = listener.local_addr()?.as_pathname().map(Path::to_owned).unwrap_or_default();
            listeners.push(Listener::Unix(UnixListener::from_std(listener)?, SocketFile::new(&path, false)));
        } else if let Some(listener) = given.take_tcp_listener(at)? {
            listener.set_nonblocking(true)?;
            let socket = TcpSocket::new(TcpListener::from_std(listener)?, pooler)?;
            listeners.push(Listener::Tcp(TcpSocket { inherited: true, ..socket }));
        }
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[tokio::test]
    async fn connections_have_the_options_of_the_moment() {
        let mut pooler = Config::default().pooler;
        (pooler.tcp_keepalive, pooler.tcp_keepidle) = (true, 77);
        let mut socket = TcpSocket::open(([127, 0, 0, 1], 0).into(), &pooler).unwrap();
        let addr = socket.local.unwrap();
        let mut early = Some(tokio::net::TcpStream::connect(addr).await.unwrap());
        for keepidle in [77, 88] {
            pooler.tcp_keepidle = keepidle;
            let options = TcpOptions::from(&pooler);
            let connect = async {
                match early.take() {
                    Some(early) => early,
                    None => tokio::net::TcpStream::connect(addr).await.unwrap(),
                }
            };
            let (accepted, _client) = tokio::join!(biased; socket.accept(options), connect);
            let Accepted { stream: Stream::Tcp(stream), local, .. } = accepted.unwrap() else { panic!("not TCP") };
            assert!(stream.nodelay().unwrap());
            let time = socket2::SockRef::from(&stream).tcp_keepalive_time().unwrap();
            assert_eq!((time.as_secs(), local), (keepidle.into(), Some(addr)));
        }
    }
}
