//! Commands of the console, from text. The grammar is PgBouncer's: one word and perhaps one argument, in any
//! case, with or without a semicolon. Pure.

use std::time::Duration;

use super::show::Show;
use crate::error::{ClientError, SqlState};

/// Parameters that drivers set unasked; they have no meaning here, and are taken.
const IGNORED: [&str; 11] = [
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "default_transaction_isolation",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "standard_conforming_strings",
    "statement_timeout",
    "timezone",
];

/// What the console is asked to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Nothing.
    Empty,
    /// Show something.
    Show(Show),
    /// Show how to use the console.
    Help,
    /// Set a parameter of the session, which has no effect.
    SetIgnored,
    /// Set a setting of the configuration, until the next reload.
    Set(String, String),
    /// Begin a transaction block, with the tag of its answer.
    Begin(&'static str),
    /// End a transaction block, with the tag of its answer.
    EndBlock(&'static str),
    /// A driver's command to clear the session up, answered by its tag.
    Nothing(&'static str),
    /// Forget a prepared statement, or all.
    Deallocate(Option<String>),
    /// Forget what the session has prepared.
    Discard,
    /// Read the configuration again.
    Reload,
    /// Hand everything to a new process.
    Upgrade,
    /// Stop.
    Shutdown(Shutdown),
    /// End a client.
    KillClient(String),
    /// Begin anew to count where time goes.
    ResetWaits,
    /// Write a client's flight record.
    Record(String),
    /// Something about the servers of one database or, without a name, of all.
    Operate(Operation, Option<String>),
}

/// What SHUTDOWN waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shutdown {
    /// Nothing.
    Now,
    /// Transactions.
    WaitForServers,
    /// All clients to leave.
    WaitForClients,
}

/// See [`Command::Operate`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Lend no servers, and answer when all have closed; give up, and lend again, after this time.
    Pause(Option<Duration>),
    /// Lend servers again.
    Resume,
    /// Replace servers as they come free.
    Reconnect,
    /// End all clients and servers at once, and pause.
    Kill,
    /// Answer when no server is left that is to be replaced.
    WaitClose,
    /// Refuse new clients.
    Disable,
    /// Take new clients again.
    Enable,
    /// Stand still: nothing is read from clients or servers.
    Suspend,
}

impl Operation {
    /// Its name, which is the tag of its answer, too.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pause(_) => "PAUSE",
            Self::Resume => "RESUME",
            Self::Reconnect => "RECONNECT",
            Self::Kill => "KILL",
            Self::WaitClose => "WAIT_CLOSE",
            Self::Disable => "DISABLE",
            Self::Enable => "ENABLE",
            Self::Suspend => "SUSPEND",
        }
    }

    fn named(word: &str) -> Option<Self> {
        Some(match word {
            "pause" => Self::Pause(None),
            "resume" => Self::Resume,
            "reconnect" => Self::Reconnect,
            "kill" => Self::Kill,
            "wait_close" => Self::WaitClose,
            "disable" => Self::Disable,
            "enable" => Self::Enable,
            "suspend" => Self::Suspend,
            _ => return None,
        })
    }
}

impl Command {
    /// Whether it takes one of `admin_users`.
    #[must_use]
    pub const fn is_for_admins(&self) -> bool {
        match self {
            // It would show what clients' sockets are good for.
            Self::Show(show) => matches!(show, Show::Fds),
            Self::Reload
            | Self::Upgrade
            | Self::Shutdown(_)
            | Self::KillClient(_)
            | Self::ResetWaits
            | Self::Record(_)
            | Self::Operate(..)
            | Self::Set(..) => true,
            _ => false,
        }
    }
}

/// One part of a command.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    /// Letters, digits, underscores, points.
    Word(String),
    /// In double quotes.
    Name(String),
    /// In single quotes.
    Text(String),
    /// Anything else.
    Symbol(char),
}

impl Token {
    /// The word in lower case, or the quoted name as it is.
    fn word(&self) -> Option<String> {
        match self {
            Self::Word(word) => Some(word.to_ascii_lowercase()),
            Self::Name(name) => Some(name.clone()),
            _ => None,
        }
    }

    /// What a setting is set to.
    fn value(&self) -> Option<&str> {
        match self {
            Self::Word(text) | Self::Name(text) | Self::Text(text) => Some(text),
            Self::Symbol(_) => None,
        }
    }

    /// The argument as it was written, without quotes.
    fn argument(&self) -> Option<&str> {
        match self {
            Self::Word(text) | Self::Name(text) => Some(text),
            _ => None,
        }
    }
}

/// Splits a simple query at its semicolons. Parts of white space alone are left out.
#[must_use]
pub fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut from, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(q)) if c == q => quote = None,
            (';', None) => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

/// Reads one command.
///
/// # Errors
/// When there is no such command, or not with these arguments.
pub fn parse(text: &str) -> Result<Command, ClientError> {
    let text = text.trim().trim_end_matches(';').trim_end();
    let Some(tokens) = tokens(text) else { return Err(invalid(text)) };
    let Some((first, rest)) = tokens.split_first() else { return Ok(Command::Empty) };
    let Some(word) = first.word() else { return Err(invalid(text)) };
    if let Some(command) = of_driver(&word, rest) {
        return Ok(command);
    }
    if word == "pause" {
        return pause(rest).ok_or_else(|| invalid(text));
    }
    let argument = match rest {
        [] => None,
        [one] => Some(one.argument().ok_or_else(|| invalid(text))?),
        _ => return Err(invalid(text)),
    };
    let lower = argument.map(str::to_ascii_lowercase);
    match (word.as_str(), lower.as_deref()) {
        ("show" | "select", Some("help")) => Ok(Command::Help),
        ("show" | "select", Some(what)) => Show::named(what).map(Command::Show).ok_or_else(|| invalid(text)),
        ("reload", None) => Ok(Command::Reload),
        ("upgrade", None) => Ok(Command::Upgrade),
        ("shutdown", None) => Ok(Command::Shutdown(Shutdown::Now)),
        ("shutdown", Some("wait_for_servers")) => Ok(Command::Shutdown(Shutdown::WaitForServers)),
        ("shutdown", Some("wait_for_clients")) => Ok(Command::Shutdown(Shutdown::WaitForClients)),
        ("reset_waits", None) => Ok(Command::ResetWaits),
        ("record", _) => Ok(Command::Record(argument.unwrap_or_default().to_owned())),
        ("kill_client", _) => Ok(Command::KillClient(argument.unwrap_or_default().to_owned())),
        ("suspend", Some(_)) => Err(invalid(text)),
        (word, _) => {
            let operation = Operation::named(word).ok_or_else(|| invalid(text))?;
            Ok(Command::Operate(operation, argument.map(str::to_owned)))
        }
    }
}

/// `PAUSE [db]`, as PgBouncer has it, or with a limit: `PAUSE db 5s`, `PAUSE [db] TIMEOUT 5s`.
fn pause(rest: &[Token]) -> Option<Command> {
    let is_timeout = |token: &Token| matches!(token, Token::Word(word) if word.eq_ignore_ascii_case("timeout"));
    let time = |token: &Token| match token {
        Token::Word(text) | Token::Text(text) => crate::config::parse_time(text).filter(|time| !time.is_zero()),
        _ => None,
    };
    let (database, limit) = match rest {
        [] => (None, None),
        [database] => (Some(database), None),
        [word, limit] if is_timeout(word) => (None, Some(limit)),
        [database, word, limit] if is_timeout(word) => (Some(database), Some(limit)),
        [database, limit] => (Some(database), Some(limit)),
        _ => return None,
    };
    let limit = limit.map(|limit| time(limit).ok_or(())).transpose().ok()?;
    let database = database.map(|token| token.argument().map(str::to_owned).ok_or(())).transpose().ok()?;
    Some(Command::Operate(Operation::Pause(limit), database))
}

/// What drivers and their pools send of themselves: settings, transactions around each command, clearing up.
fn of_driver(word: &str, rest: &[Token]) -> Option<Command> {
    let next = rest.first().and_then(Token::word);
    let all = next.as_deref() == Some("all");
    match word {
        "set" => match rest {
            [name, equals, _, ..] if *equals == Token::Symbol('=') || equals.word().as_deref() == Some("to") => {
                let name = name.word()?.to_ascii_lowercase();
                if IGNORED.contains(&name.as_str()) {
                    return Some(Command::SetIgnored);
                }
                match rest {
                    [_, _, value] => Some(Command::Set(name, value.value()?.to_owned())),
                    _ => None,
                }
            }
            _ => None,
        },
        "begin" => Some(Command::Begin("BEGIN")),
        "start" if next.as_deref() == Some("transaction") => Some(Command::Begin("START TRANSACTION")),
        "commit" | "end" => Some(Command::EndBlock("COMMIT")),
        "rollback" | "abort" => Some(Command::EndBlock("ROLLBACK")),
        "reset" if all => Some(Command::Nothing("RESET")),
        "close" if all => Some(Command::Nothing("CLOSE CURSOR ALL")),
        "unlisten" => Some(Command::Nothing("UNLISTEN")),
        "discard" if all => Some(Command::Discard),
        "deallocate" => {
            let prepare = rest.len() == 2 && next.as_deref() == Some("prepare");
            match &rest[usize::from(prepare)..] {
                [Token::Word(all)] if all.eq_ignore_ascii_case("all") => Some(Command::Deallocate(None)),
                [name] => Some(Command::Deallocate(Some(name.word()?))),
                _ => None,
            }
        }
        "select" => match (next.as_deref(), rest.len()) {
            (Some("1"), 1) => Some(Command::Show(Show::One)),
            (Some("pg_advisory_unlock_all"), 3) => Some(Command::Show(Show::UnlockAll)),
            _ => None,
        },
        _ => None,
    }
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_ascii_whitespace() => {}
            '"' | '\'' => {
                let mut quoted = String::new();
                loop {
                    match chars.next()? {
                        end if end == c && chars.next_if_eq(&c).is_none() => break,
                        other => quoted.push(other),
                    }
                }
                tokens.push(if c == '"' { Token::Name(quoted) } else { Token::Text(quoted) });
            }
            c if is_word(c) => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(|&c| is_word(c)) {
                    word.push(c);
                }
                tokens.push(Token::Word(word));
            }
            c => tokens.push(Token::Symbol(c)),
        }
    }
    Some(tokens)
}

const fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.'
}

fn invalid(text: &str) -> ClientError {
    let text: String = text.chars().take(200).collect();
    let message = format!("invalid command '{text}', use SHOW HELP;");
    ClientError::error(SqlState::PROTOCOL_VIOLATION, message).hint("Use SHOW HELP;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_space_and_semicolon_do_not_matter() {
        for text in ["SHOW POOLS", "show pools;", " \tShOw\n\"pools\" ; ", "SELECT pools"] {
            assert_eq!(parse(text).unwrap(), Command::Show(Show::Pools), "{text}");
        }
        assert_eq!(parse("show help").unwrap(), Command::Help);
        assert_eq!(parse(" ; ").unwrap(), Command::Empty);
    }

    #[test]
    fn unknown_commands_are_refused_as_pgbouncer_does() {
        for text in
            ["SHOW", "SHOW nonsense", "nonsense", "SHOW POOLS now", "SELECT * FROM t", "SHOW 'POOLS'", "'x'", "\"x"]
        {
            let error = parse(text).unwrap_err();
            assert_eq!(error.code, SqlState::PROTOCOL_VIOLATION, "{text}");
            assert_eq!(error.message, format!("invalid command '{text}', use SHOW HELP;"));
            assert_eq!(error.hint.as_deref(), Some("Use SHOW HELP;"));
        }
    }

    #[test]
    fn changing_commands_are_for_admins() {
        for text in [
            "RELOAD",
            "UPGRADE",
            "RESET_WAITS",
            "RECORD 7",
            "SHUTDOWN",
            "SHUTDOWN WAIT_FOR_SERVERS",
            "KILL_CLIENT 7",
            "PAUSE db",
            "SET verbose = 1",
        ] {
            assert!(parse(text).unwrap().is_for_admins(), "{text}");
        }
        assert_eq!(parse("kill_client 7").unwrap(), Command::KillClient("7".into()));
        assert_eq!(parse("shutdown wait_for_servers").unwrap(), Command::Shutdown(Shutdown::WaitForServers));
        assert!(parse("SHUTDOWN soon").is_err());
        assert!(parse("SHOW FDS").unwrap().is_for_admins());
        assert!(!parse("SHOW SOCKETS").unwrap().is_for_admins());
    }

    #[test]
    fn operations_take_one_database_or_all() {
        for (text, operation, database) in [
            ("RESUME", Operation::Resume, None),
            ("resume \"My db\"", Operation::Resume, Some("My db")),
            ("RECONNECT app;", Operation::Reconnect, Some("app")),
            ("kill App", Operation::Kill, Some("App")),
            ("WAIT_CLOSE", Operation::WaitClose, None),
            ("DISABLE app", Operation::Disable, Some("app")),
            ("ENABLE app", Operation::Enable, Some("app")),
            ("SUSPEND", Operation::Suspend, None),
            ("PAUSE", Operation::Pause(None), None),
            ("PAUSE timeout", Operation::Pause(None), Some("timeout")),
            ("PAUSE app 5s", Operation::Pause(Some(Duration::from_secs(5))), Some("app")),
            ("pause \"a b\" timeout '1.5'", Operation::Pause(Some(Duration::from_millis(1500))), Some("a b")),
            ("PAUSE TIMEOUT 200ms", Operation::Pause(Some(Duration::from_millis(200))), None),
        ] {
            let want = Command::Operate(operation, database.map(str::to_owned));
            assert_eq!(parse(text).unwrap(), want, "{text}");
        }
        for text in ["PAUSE app soon", "PAUSE app 0", "PAUSE 'app'", "PAUSE a timeout 1s x", "SUSPEND app", "KILL a b"]
        {
            assert_eq!(parse(text).unwrap_err().code, SqlState::PROTOCOL_VIOLATION, "{text}");
        }
    }

    #[test]
    fn what_drivers_send_is_taken() {
        for (text, want) in [
            ("SET client_encoding TO 'UTF8'", Command::SetIgnored),
            ("set DateStyle = ISO, MDY", Command::SetIgnored),
            ("SET extra_float_digits = 3", Command::SetIgnored),
            ("BEGIN ISOLATION LEVEL READ COMMITTED", Command::Begin("BEGIN")),
            ("COMMIT", Command::EndBlock("COMMIT")),
            ("SELECT 1", Command::Show(Show::One)),
            ("SELECT pg_advisory_unlock_all()", Command::Show(Show::UnlockAll)),
            ("CLOSE ALL", Command::Nothing("CLOSE CURSOR ALL")),
            ("UNLISTEN *", Command::Nothing("UNLISTEN")),
            ("DISCARD ALL", Command::Discard),
            ("DEALLOCATE \"Stmt 1\"", Command::Deallocate(Some("Stmt 1".into()))),
            ("DEALLOCATE PREPARE ALL", Command::Deallocate(None)),
            ("SET pool_mode = session", Command::Set("pool_mode".into(), "session".into())),
            (
                "set server_reset_query to 'RESET ALL; x'",
                Command::Set("server_reset_query".into(), "RESET ALL; x".into()),
            ),
        ] {
            assert_eq!(parse(text).unwrap(), want, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_command_or_an_error(text: String) {
            for part in split(&text) {
                let _ = parse(part);
            }
        }
    }

    #[test]
    fn splitting_heeds_quotes() {
        assert_eq!(split("a; 'b;''c' ;\n;\"d;\""), ["a", " 'b;''c' ", "\"d;\""]);
        assert!(split(" ;; ").is_empty());
    }
}
