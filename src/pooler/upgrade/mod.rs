//! A new process takes the place of this one, and no client notices.
//!
//! The old process starts the new one ([`Program`]) with a socket in the place of its standard input. The two agree
//! ([`wire`]): the new one reads its configuration, gets the listening sockets and says that it is ready; only then is
//! anything given away. What goes wrong before that ends the new process, and the old one goes on as if nothing had been
//! ([`successor`]). Afterwards clients go over one by one ([`crate::client::exodus`]), pools are divided
//! ([`crate::pool::cede`]) and their servers go over ([`crate::pool::transfer`]), until the old process has nobody left, and ends. The new one's part is [`predecessor`].

mod cancels;
pub mod predecessor;
pub mod successor;
mod wire;

use std::ffi::OsString;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// The argument that tells a process to take over from the one that has started it.
pub const TAKE_OVER: &str = "--take-over";

/// How this process was started, to start another in the same way.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// That of this process. A link in its path is followed when the next one starts, as it may lead elsewhere by then.
    ///
    /// # Errors
    /// The system's.
    pub fn of_this_process() -> std::io::Result<Self> {
        let mut arguments: Vec<_> = std::env::args_os().collect();
        let name = PathBuf::from(if arguments.is_empty() { OsString::new() } else { arguments.remove(0) });
        arguments.retain(|argument| argument != TAKE_OVER);
        let path = match name.parent() {
            Some(directory) if directory != Path::new("") => std::path::absolute(&name)?,
            _ => in_path(&name).map_or_else(std::env::current_exe, Ok)?,
        };
        Ok(Self { path, arguments })
    }
}

/// A program as the shell finds it.
fn in_path(name: &Path) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// Where a process comes from and how it starts the next.
#[derive(Debug)]
pub struct Launch {
    /// How it was started.
    pub program: Program,
    /// The socket to the process whose place it takes, if it takes one's.
    pub inherited: Option<UnixStream>,
}

/// Takes the socket to the old process from where that has put it.
///
/// # Errors
/// The system's.
pub fn inherited_socket() -> std::io::Result<UnixStream> {
    use std::os::fd::AsFd;
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    // What is started from here must not have it.
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    // Something else than a socket was given: whoever starts this by hand is told so.
    socket.peer_addr()?;
    Ok(socket)
}

/// Tells the old process, where there is no runtime, why this one can't take over.
pub fn refuse(socket: &UnixStream, why: &str) {
    wire::refuse(socket, why);
}
