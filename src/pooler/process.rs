//! What concerns the process: as whom it runs, in the background or not, its pid file.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::unistd::{self, Uid, User};

/// Becomes another user of the system, as root may: its groups, too.
///
/// # Errors
/// When there is no such user, or it isn't allowed.
pub fn become_user(name: &str) -> io::Result<()> {
    let wrong = |error: io::Error| io::Error::new(error.kind(), format!("cannot run as user \"{name}\": {error}"));
    let found = User::from_name(name).map_err(|error| wrong(error.into()))?;
    let user = found.ok_or_else(|| wrong(io::Error::new(io::ErrorKind::NotFound, "no such user")))?;
    if user.uid == Uid::effective() {
        return Ok(());
    }
    let name = std::ffi::CString::new(name)?;
    // The groups first: afterwards it isn't allowed any more.
    unistd::initgroups(&name, user.gid).map_err(|error| wrong(error.into()))?;
    unistd::setgid(user.gid).map_err(|error| wrong(error.into()))?;
    unistd::setuid(user.uid).map_err(|error| wrong(error.into()))
}

/// Goes on in the background, without a terminal; relative paths stay what they were. To be called before there is
/// any thread.
///
/// # Errors
/// The system's.
pub fn daemonize() -> io::Result<()> {
    unistd::daemon(true, false).map_err(|error| io::Error::new(io::Error::from(error).kind(), "cannot run as a daemon"))
}

/// The file with the process's number; removed when dropped, unless it has another's by then.
#[derive(Debug)]
pub struct PidFile(PathBuf);

impl PidFile {
    /// Checks that the file doesn't name a living process.
    ///
    /// # Errors
    /// When it does, or can't be read.
    pub fn check(path: &Path) -> io::Result<()> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        };
        // A dead process has left its file behind.
        let pid = text.trim().parse().ok().filter(|pid: &i32| *pid > 0 && *pid != unistd::getpid().as_raw());
        let lives = pid.is_some_and(|pid| nix::sys::signal::kill(unistd::Pid::from_raw(pid), None).is_ok());
        match lives {
            true => {
                let text = format!("pidfile {} exists, another instance running?", path.display());
                Err(io::Error::new(io::ErrorKind::AlreadyExists, text))
            }
            false => Ok(()),
        }
    }

    /// Writes this process's number.
    ///
    /// # Errors
    /// As [`PidFile::check`], or when it can't be written.
    pub fn write(path: &Path) -> io::Result<Self> {
        Self::check(path)?;
        Self::replace(path)
    }

    /// Writes this process's number, whichever is there.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn replace(path: &Path) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("pidfile {}: {error}", path.display()));
        let mut file = File::create(path).map_err(named)?;
        writeln!(file, "{}", std::process::id()).map_err(named)?;
        // Its directory may not be the working directory's at the end.
        let path = path.canonicalize().map_err(named)?;
        Ok(Self(path))
    }
}

/// Has a pid file that names another process name this one again.
pub fn restore_pid(path: &Path) {
    let own = format!("{}\n", std::process::id());
    if std::fs::read_to_string(path).is_ok_and(|text| text != own) {
        if let Err(error) = std::fs::write(path, own) {
            tracing::warn!("pidfile {}: {error}", path.display());
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // One that another process has taken over stays. Already gone is as good.
        let pid = std::fs::read_to_string(&self.0).ok().and_then(|text| text.trim().parse().ok());
        if pid == Some(std::process::id()) {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_keeps_its_pid_file() {
        let path = std::env::temp_dir().join(format!("carpool-pidfile-{}", std::process::id()));
        let mut other = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        std::fs::write(&path, format!("{}\n", other.id())).unwrap();
        let error = PidFile::write(&path).unwrap_err();
        assert!(error.to_string().ends_with("exists, another instance running?"), "{error}");
        drop(other.stdin.take());
        other.wait().unwrap();
        let file = PidFile::write(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
        std::fs::write(&path, "nonsense").unwrap();
        drop(PidFile::write(&path).unwrap());
    }

    #[test]
    fn users_must_be_there() {
        assert!(become_user("no such user").is_err());
        let own = User::from_uid(Uid::effective()).unwrap().unwrap();
        assert!(become_user(&own.name).is_ok());
    }
}
