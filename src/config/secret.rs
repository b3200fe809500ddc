//! Secrets: how they are kept, and where they come from: the configuration itself, the environment, a file, or what a
//! command prints. All of them are read anew on each reload. No error here has a secret in its text.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use zeroize::Zeroizing;

use super::document::Raw;
use super::time;

/// What a command may take unless it says otherwise.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// What is read of a command's output, bytes.
const MOST_OUTPUT: u64 = 64 * 1024;
/// What is shown of its errors, characters.
const MOST_SHOWN: usize = 500;

const FORM: &str =
    "a secret from elsewhere is { env = \"NAME\" }, { file = \"path\" } or { command = \"…\", timeout = \"10s\" }";

/// A secret as the configuration holds it. `Debug` never shows the value, and its memory is cleared at its end.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// Wraps a secret value.
    #[must_use]
    pub fn new(value: &str) -> Self {
        Self(Arc::new(Zeroizing::new(value.to_owned())))
    }

    /// The value itself: a plain password, `md5…`, or `SCRAM-SHA-256$…`.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// Reads a secret that stands in a configuration.
///
/// # Errors
/// What is wrong with it, or why it can't be had.
pub(super) fn read(raw: &Raw) -> Result<Secret, String> {
    let value = match raw {
        Raw::Text(text) => Zeroizing::new(text.clone()),
        Raw::Table(keys) => Zeroizing::new(from_elsewhere(keys)?),
        _ => {
            let found = raw.describe();
            return Err(format!(
                "expected a text, {{ env = \"NAME\" }}, {{ file = \"path\" }} or {{ command = \"…\" }}, found {found}"
            ));
        }
    };
    match value.contains('\0') {
        true => Err("must not contain a NUL character".into()),
        false => Ok(Secret::new(&value)),
    }
}

/// What looks careless about where a secret stands.
pub(super) fn warning(raw: &Raw) -> Option<String> {
    let Raw::Table(keys) = raw else { return None };
    let Some(Raw::Text(path)) = keys.get("file") else { return None };
    let mode = std::fs::metadata(path).ok()?.mode() & 0o777;
    (mode & 0o004 != 0).then(|| format!("everybody can read {path} (its mode is {mode:04o}); 0600 is better"))
}

fn from_elsewhere(keys: &BTreeMap<String, Raw>) -> Result<String, String> {
    let text = |key: &str| match keys.get(key) {
        Some(Raw::Text(text)) => Some(text.as_str()),
        _ => None,
    };
    let is_one = keys.len() == 1;
    let value = match (text("env"), text("file"), text("command")) {
        (Some(name), None, None) if is_one => from_environment(name)?,
        (None, Some(path), None) if is_one => {
            std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?
        }
        (None, None, Some(command)) if is_one || (keys.len() == 2 && keys.contains_key("timeout")) => {
            let timeout = keys.get("timeout").map_or(Ok(COMMAND_TIMEOUT), time_limit)?;
            output_of(command, timeout)?
        }
        _ => return Err(FORM.into()),
    };
    // Editors, `echo` and most commands end with a line end, which is no part of the secret.
    let value = match text("env") {
        Some(_) => value.as_str(),
        None => value.trim_end_matches(['\r', '\n']),
    };
    match (value.is_empty(), keys.contains_key("command"), text("env").or_else(|| text("file"))) {
        (false, ..) => Ok(value.to_owned()),
        (true, false, Some(place)) => {
            let kind = if text("env").is_some() { "env" } else { "file" };
            Err(format!("the secret from {kind} {place} is empty"))
        }
        (true, ..) => Err("the command printed nothing".into()),
    }
}

fn from_environment(name: &str) -> Result<String, String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err("env must be the name of an environment variable".into());
    }
    // The error's own text would show a value that isn't Unicode.
    std::env::var(name).map_err(|error| match error {
        std::env::VarError::NotPresent => format!("environment variable {name} is not set"),
        std::env::VarError::NotUnicode(_) => format!("environment variable {name} is not UTF-8"),
    })
}

fn time_limit(raw: &Raw) -> Result<Duration, String> {
    let limit = match raw {
        Raw::Text(text) => time::parse(text)?,
        #[expect(clippy::cast_precision_loss, reason = "what isn't exact is out of range")]
        Raw::Integer { value, .. } => time::of_seconds(*value as f64)?,
        Raw::Float(seconds) => time::of_seconds(*seconds)?,
        _ => return Err("timeout must be a time (seconds, or text such as \"10s\")".into()),
    };
    match limit.is_zero() {
        true => Err("timeout must be more than 0".into()),
        false => Ok(limit),
    }
}

/// What a command of the shell prints. It gets no input, and is killed with all that it started after `timeout`.
/// The errors don't show the command, in which there may be a secret, nor what it printed but for its complaints.
fn output_of(command: &str, timeout: Duration) -> Result<String, String> {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = shell.spawn().map_err(|error| format!("the command can't be run: {error}"))?;
    let group = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    let (sender, receiver) = mpsc::channel();
    let watch = move || {
        // It may have given up by then.
        let _ = sender.send(finish(child));
    };
    std::thread::Builder::new()
        .name("secret".into())
        .spawn(watch)
        .map_err(|error| format!("the command can't be watched: {error}"))?;
    let Ok((output, complaints, status)) = receiver.recv_timeout(timeout) else {
        if let Some(group) = group {
            // Gone already, or out of reach: then its output is waited for no longer all the same.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        return Err(format!("the command took longer than {timeout:?} (its timeout)"));
    };
    match status {
        // Whatever the command thinks of it that nobody reads on.
        _ if output.len() as u64 > MOST_OUTPUT => Err(format!("the command printed more than {MOST_OUTPUT} bytes")),
        Ok(status) if status.success() => {
            String::from_utf8(output.to_vec()).map_err(|_| "what the command printed is not UTF-8 text".into())
        }
        Ok(status) => Err(format!("the command failed ({status}){}", shown(&complaints))),
        Err(error) => Err(format!("the command's end can't be seen: {error}")),
    }
}

type Finished = (Zeroizing<Vec<u8>>, Vec<u8>, std::io::Result<ExitStatus>);

fn finish(mut child: Child) -> Finished {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let complaints = std::thread::spawn(move || read_some(stderr));
    let output = Zeroizing::new(read_some(stdout));
    (output, complaints.join().unwrap_or_default(), child.wait())
}

/// What is too much is left; the command then finds nobody to write to.
fn read_some(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What came before an error is all there is.
        let _ = pipe.take(MOST_OUTPUT + 1).read_to_end(&mut bytes);
    }
    bytes
}

fn shown(complaints: &[u8]) -> String {
    let text = String::from_utf8_lossy(complaints);
    let text: String = text.trim().chars().take(MOST_SHOWN).flat_map(char::escape_default).collect();
    if text.is_empty() {
        text
    } else {
        format!(": {}", text.replace("\\n", "; ").replace("\\'", "'").replace("\\\"", "\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elsewhere(pairs: &[(&str, &str)]) -> Result<String, String> {
        let keys = pairs.iter().map(|(key, value)| ((*key).to_owned(), Raw::Text((*value).to_owned())));
        read(&Raw::Table(keys.collect())).map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn what_commands_print() {
        assert_eq!(elsewhere(&[("command", "echo s3cret")]).as_deref(), Ok("s3cret"));
        assert_eq!(elsewhere(&[("command", "printf 'two words \\r\\n'")]).as_deref(), Ok("two words "));
        assert_eq!(elsewhere(&[("command", "cat; echo x"), ("timeout", "5s")]).as_deref(), Ok("x"));
        // More on stderr than a pipe holds.
        assert_eq!(elsewhere(&[("command", "head -c 60000 /dev/zero >&2; echo x")]).as_deref(), Ok("x"));
    }

    #[test]
    fn commands_that_fail() {
        for (pairs, expected) in [
            (
                &[("command", "echo planted; echo 'no \"such\" thing' >&2; exit 3")][..],
                "exit status: 3): no \"such\" thing",
            ),
            (&[("command", "echo planted; kill -9 $$")], "signal: 9"),
            (&[("command", "true planted")], "printed nothing"),
            (&[("command", "printf 'planted\\377'")], "not UTF-8"),
            (&[("command", "printf 'planted\\0'")], "NUL"),
            (&[("command", "yes planted")], "more than 65536 bytes"),
            (&[("command", "head -c 100000 /dev/zero | tr '\\0' p")], "more than 65536 bytes"),
            (&[("command", "echo planted; sleep 60"), ("timeout", "200ms")], "200ms (its timeout)"),
            (&[("command", "sleep 60 & echo planted"), ("timeout", "200ms")], "200ms (its timeout)"),
            (&[("command", "echo planted"), ("timeout", "soon")], "time"),
            (&[("command", "echo planted"), ("timeout", "0")], "more than 0"),
            (&[("command", "echo planted"), ("file", "x")], "a secret from elsewhere"),
            (&[("env", "planted"), ("timeout", "1s")], "a secret from elsewhere"),
            (&[("command", "")], "printed nothing"),
            (&[("cmd", "planted")], "a secret from elsewhere"),
        ] {
            let error = elsewhere(pairs).expect_err("no secret");
            assert!(error.contains(expected), "{pairs:?}: {error}");
            assert!(!error.contains("planted"), "{error}");
        }
    }

    #[test]
    fn a_command_is_killed_with_all_it_started() {
        let command = format!("sleep 62.{} & wait", std::process::id());
        assert!(elsewhere(&[("command", &command), ("timeout", "300ms")]).is_err());
        let needle = format!("62.{}", std::process::id());
        let lives = || {
            std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
                let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                line.starts_with(b"sleep\0") && String::from_utf8_lossy(&line).contains(&needle)
            })
        };
        let gone = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            !lives()
        });
        assert!(gone);
    }

    #[test]
    fn files_that_everybody_can_read() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("carpool-secret-file-{}", std::process::id()));
        std::fs::write(&path, "planted\n").unwrap();
        let keys = BTreeMap::from([("file".to_owned(), Raw::Text(path.to_str().unwrap().to_owned()))]);
        let raw = Raw::Table(keys);
        for (mode, warns) in [(0o600, false), (0o640, false), (0o644, true), (0o604, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(warning(&raw).is_some(), warns, "{mode:o}");
            assert_eq!(read(&raw).map(|secret| secret.expose().to_owned()).as_deref(), Ok("planted"));
        }
        std::fs::remove_file(path).unwrap();
    }
}
