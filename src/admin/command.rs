//! Commands of the console, from text. The grammar is PgBouncer's: one word and perhaps one argument, in any
//! case, with or without a semicolon. Pure.

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
    /// Set a parameter, by its name.
    Set(String),
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
    /// Stop; `true`: when transactions have ended.
    Shutdown(bool),
    /// End a client.
    KillClient(String),
    /// One of PgBouncer's that Carpool doesn't have.
    Unsupported(&'static str),
}

impl Command {
    /// Whether it takes one of `admin_users`.
    #[must_use]
    pub const fn is_for_admins(&self) -> bool {
        matches!(self, Self::Reload | Self::Shutdown(_) | Self::KillClient(_) | Self::Unsupported(_) | Self::Set(_))
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
    let argument = match rest {
        [] => None,
        [one] => Some(one.argument().ok_or_else(|| invalid(text))?),
        _ => return Err(invalid(text)),
    };
    let lower = argument.map(str::to_ascii_lowercase);
    match (word.as_str(), lower.as_deref()) {
        ("show" | "select", Some("help")) => Ok(Command::Help),
        ("show" | "select", Some(what)) => match what {
            "fds" => Ok(Command::Unsupported("SHOW FDS")),
            "sockets" => Ok(Command::Unsupported("SHOW SOCKETS")),
            "active_sockets" => Ok(Command::Unsupported("SHOW ACTIVE_SOCKETS")),
            what => Show::named(what).map(Command::Show).ok_or_else(|| invalid(text)),
        },
        ("reload", None) => Ok(Command::Reload),
        ("shutdown", None) => Ok(Command::Shutdown(false)),
        ("shutdown", Some("wait_for_servers")) => Ok(Command::Shutdown(true)),
        ("shutdown", Some("wait_for_clients")) => Ok(Command::Unsupported("SHUTDOWN WAIT_FOR_CLIENTS")),
        ("kill_client", _) => Ok(Command::KillClient(argument.unwrap_or_default().to_owned())),
        ("pause", _) => Ok(Command::Unsupported("PAUSE")),
        ("resume", _) => Ok(Command::Unsupported("RESUME")),
        ("reconnect", _) => Ok(Command::Unsupported("RECONNECT")),
        ("disable", _) => Ok(Command::Unsupported("DISABLE")),
        ("enable", _) => Ok(Command::Unsupported("ENABLE")),
        ("kill", _) => Ok(Command::Unsupported("KILL")),
        ("suspend", None) => Ok(Command::Unsupported("SUSPEND")),
        ("wait_close", _) => Ok(Command::Unsupported("WAIT_CLOSE")),
        _ => Err(invalid(text)),
    }
}

/// What drivers and their pools send of themselves: settings, transactions around each command, clearing up.
fn of_driver(word: &str, rest: &[Token]) -> Option<Command> {
    let next = rest.first().and_then(Token::word);
    let all = next.as_deref() == Some("all");
    match word {
        "set" => match rest {
            [name, equals, _, ..] if *equals == Token::Symbol('=') || equals.word().as_deref() == Some("to") => {
                let name = name.word()?.to_ascii_lowercase();
                let known = IGNORED.contains(&name.as_str());
                Some(if known { Command::SetIgnored } else { Command::Set(name) })
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
        for text in ["RELOAD", "SHUTDOWN", "SHUTDOWN WAIT_FOR_SERVERS", "KILL_CLIENT 7", "PAUSE db", "SET verbose = 1"]
        {
            assert!(parse(text).unwrap().is_for_admins(), "{text}");
        }
        assert_eq!(parse("kill_client 7").unwrap(), Command::KillClient("7".into()));
        assert_eq!(parse("shutdown wait_for_servers").unwrap(), Command::Shutdown(true));
        assert!(parse("SHUTDOWN soon").is_err());
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
            ("SET pool_mode = session", Command::Set("pool_mode".into())),
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
