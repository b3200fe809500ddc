//! The log: to stderr, to `logfile`, to syslog, as settings say.
//!
//! A line that can't be written is lost: nothing may wait for the log, and there is nobody to tell. Invariant: only
//! Carpool itself begins a line. What a client calls itself, say, can't look like another entry.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::Pooler;

/// Where the system's log listens.
const SYSLOG: &str = "/dev/log";

/// Called with the settings when they have changed, and at each reload.
pub type LogControl = Box<dyn Fn(&Pooler) + Send + Sync>;

/// What the command line says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// Errors only; with another place for the log, nothing at all to stderr.
    pub quiet: bool,
    /// `verbose` at least.
    pub verbose: u32,
    /// There is no stderr.
    pub in_background: bool,
}

/// Where lines go.
#[derive(Default)]
struct Places {
    stderr: bool,
    file: Option<File>,
    syslog: Option<Syslog>,
}

struct Syslog {
    socket: UnixDatagram,
    ident: String,
    /// As in the protocol: the number times 8.
    facility: u8,
}

/// See the module.
#[derive(Clone)]
struct Log(Arc<Mutex<Places>>);

/// One line on its way.
struct Line {
    log: Log,
    /// Of syslog.
    severity: u8,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let entry = as_one_entry(bytes);
        let mut places = self.log.0.lock();
        if places.stderr {
            let _ = io::stderr().lock().write_all(&entry);
        }
        if let Some(file) = &mut places.file {
            let _ = file.write_all(&entry);
        }
        if let Some(syslog) = &places.syslog {
            syslog.send(self.severity, &entry);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has all lines of an entry but the first begin with a tab, as PostgreSQL's log; other control characters are escaped
/// where the entry is made, but for this one.
fn as_one_entry(bytes: &[u8]) -> Cow<'_, [u8]> {
    let (text, end) = match bytes.split_last() {
        Some((b'\n', text)) => (text, &b"\n"[..]),
        _ => (bytes, &b""[..]),
    };
    if memchr::memchr2(b'\n', b'\r', text).is_none() {
        return Cow::Borrowed(bytes);
    }
    let mut entry = Vec::with_capacity(bytes.len() + 8);
    for byte in text {
        match byte {
            b'\n' => entry.extend_from_slice(b"\n\t"),
            b'\r' => entry.extend_from_slice(b"\\r"),
            byte => entry.push(*byte),
        }
    }
    entry.extend_from_slice(end);
    Cow::Owned(entry)
}

impl<'w> MakeWriter<'w> for Log {
    type Writer = Line;

    fn make_writer(&'w self) -> Line {
        Line { log: self.clone(), severity: severity(Level::INFO) }
    }

    fn make_writer_for(&'w self, meta: &Metadata<'_>) -> Line {
        Line { log: self.clone(), severity: severity(*meta.level()) }
    }
}

/// As syslog counts.
const fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

impl Syslog {
    fn open(ident: &str, facility: &str) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(SYSLOG)?;
        // A log that doesn't keep up must not hold anybody up.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, ident: ident.to_owned(), facility: number_of(facility).unwrap_or(3) << 3 })
    }

    fn send(&self, severity: u8, line: &[u8]) {
        let _ = self.socket.send(&self.message(severity, line));
    }

    /// `<PRI>ident[pid]: text`, as the C library sends it but for the time, which the receiver adds.
    fn message(&self, severity: u8, line: &[u8]) -> Vec<u8> {
        let head = format!("<{}>{}[{}]: ", self.facility | severity, self.ident, std::process::id());
        [head.as_bytes(), line.trim_ascii_end()].concat()
    }
}

/// The number of a facility, see syslog.h; PgBouncer's `syslog_facility`.
#[must_use]
pub fn number_of(facility: &str) -> Option<u8> {
    Some(match facility {
        "user" => 1,
        "daemon" => 3,
        "auth" => 4,
        "authpriv" => 10,
        "local0" => 16,
        "local1" => 17,
        "local2" => 18,
        "local3" => 19,
        "local4" => 20,
        "local5" => 21,
        "local6" => 22,
        "local7" => 23,
        _ => return None,
    })
}

impl Places {
    /// Opens what the settings name. What can't be opened is told on stderr, and is left out.
    fn open(pooler: &Pooler, wanted: Wanted) -> Self {
        let mut places = Self::default();
        if let Some(path) = &pooler.logfile {
            places.file = open_file(path).map_err(|error| eprintln!("logfile {}: {error}", path.display())).ok();
        }
        if pooler.syslog {
            let opened = Syslog::open(&pooler.syslog_ident, &pooler.syslog_facility);
            places.syslog = opened.map_err(|error| eprintln!("syslog ({SYSLOG}): {error}")).ok();
        }
        let elsewhere = places.file.is_some() || places.syslog.is_some();
        let silent = wanted.in_background || (wanted.quiet && elsewhere);
        places.stderr = !silent;
        places
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Starts the log; gives what makes it follow the settings. The file is opened again each time that is called, so that
/// it can be rotated.
#[must_use]
pub fn start(pooler: &Pooler, wanted: Wanted) -> LogControl {
    let level = move |pooler: &Pooler| {
        let elsewhere = pooler.logfile.is_some() || pooler.syslog;
        match (wanted.quiet && !elsewhere, wanted.verbose.max(pooler.verbose)) {
            (true, _) => "error",
            (false, 0) => "info",
            (false, 1) => "debug",
            (false, _) => "trace",
        }
    };
    let given = EnvFilter::try_from_env("CARPOOL_LOG").ok();
    let is_given = given.is_some();
    let log = Log(Arc::new(Mutex::new(Places::open(pooler, wanted))));
    let plain = pooler.logfile.is_some() || pooler.syslog || !io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(given.unwrap_or_else(|| EnvFilter::new(level(pooler))))
        .with_writer(log.clone())
        .with_ansi(!plain)
        .with_target(false)
        .with_filter_reloading();
    let handle = subscriber.reload_handle();
    subscriber.init();
    let known = Mutex::new(pooler.verbose);
    Box::new(move |pooler| {
        *log.0.lock() = Places::open(pooler, wanted);
        if !is_given && std::mem::replace(&mut *known.lock(), pooler.verbose) != pooler.verbose {
            // Fails only when the log is gone.
            let _ = handle.reload(EnvFilter::new(level(pooler)));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_to_the_file_and_to_syslog() {
        let path = std::env::temp_dir().join(format!("carpool-log-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let (socket, receiver) = UnixDatagram::pair().unwrap();
        let syslog = Syslog { socket, ident: "pooler".into(), facility: number_of("local1").unwrap() << 3 };
        let places = Places { stderr: false, file: Some(open_file(&path).unwrap()), syslog: Some(syslog) };
        let log = Log(Arc::new(Mutex::new(places)));
        let mut line = Line { log, severity: severity(Level::WARN) };
        line.write_all(b"something\nforged\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "something\n\tforged\n");
        let mut buf = [0; 100];
        let n = receiver.recv(&mut buf).unwrap();
        let want = format!("<140>pooler[{}]: something\n\tforged", std::process::id());
        assert_eq!(String::from_utf8_lossy(&buf[..n]), want);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn an_entry_begins_one_line() {
        let written = |text: &str| String::from_utf8(as_one_entry(text.as_bytes()).into_owned()).unwrap();
        for plain in ["", "\n", "one\n", "one", "tab\there\n"] {
            assert_eq!(written(plain), plain);
        }
        assert_eq!(written("one\ntwo\r\n\n"), "one\n\ttwo\\r\n\t\n");
        assert_eq!(written("\n\n"), "\n\t\n");
    }
}
