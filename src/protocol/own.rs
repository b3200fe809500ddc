//! Carpool's own settings, which clients set as parameters of PostgreSQL: `carpool.pin` (keep my server) and
//! `carpool.pin_notice` (tell me when I keep one).
//!
//! PostgreSQL takes a parameter with a dot in its name, with any value, and treats it as all others: transactions,
//! RESET, SHOW and startup parameters work by themselves, and what comes of them follows the client like every
//! setting ([`super::settings`]). All that is done here is to read the outcome ([`Own::of`]) and to find values in a
//! text that PostgreSQL wouldn't take for a parameter that is on or off ([`assignments`]).

use std::ops::Range;

use super::settings::Settings;
use super::sql::{Lexer, Token};
use crate::error::{ClientError, SqlState};

/// Keeps the client's server from transaction to transaction.
pub const PIN: &str = "carpool.pin";
/// A notice when the client begins to keep its server.
pub const PIN_NOTICE: &str = "carpool.pin_notice";

/// What a client has set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Own {
    /// `carpool.pin`. A value that is none, as `set_config()` can give it, is off.
    pub pin: bool,
    /// `carpool.pin_notice`.
    pub pin_notice: Option<bool>,
}

impl Own {
    /// From a client's settings.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let of = |name| settings.get(name).and_then(|value| boolean(value.as_bytes()));
        Self { pin: of(PIN) == Some(true), pin_notice: of(PIN_NOTICE) }
    }
}

/// Whether a parameter is one of those here, by its name in lower case.
#[must_use]
pub fn is_own(name: &str) -> bool {
    [PIN, PIN_NOTICE].contains(&name)
}

/// Reads a value as PostgreSQL reads one that is on or off (`parse_bool`).
#[must_use]
pub fn boolean(value: &[u8]) -> Option<bool> {
    let begins = |word: &[u8], least: usize| {
        (least..=word.len()).contains(&value.len()) && word[..value.len()].eq_ignore_ascii_case(value)
    };
    if begins(b"true", 1) || begins(b"yes", 1) || begins(b"on", 2) || value == b"1" {
        return Some(true);
    }
    (begins(b"false", 1) || begins(b"no", 1) || begins(b"off", 2) || value == b"0").then_some(false)
}

/// Why a parameter can't have a value at startup.
#[must_use]
pub fn refusal(name: &str, value: &str) -> Option<Refusal> {
    let name = [PIN, PIN_NOTICE].into_iter().find(|own| own.eq_ignore_ascii_case(name))?;
    boolean(value.as_bytes()).is_none().then_some(Refusal::NotBoolean(name))
}

/// Why a value can't be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It is neither on nor off.
    NotBoolean(&'static str),
    /// `max_pinned` is 0.
    NoPins,
}

impl From<Refusal> for ClientError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotBoolean(name) => {
                let text = format!("parameter \"{name}\" requires a Boolean value");
                Self::error(SqlState::INVALID_PARAMETER_VALUE, text)
            }
            Refusal::NoPins => Self::error(SqlState::CONFIGURATION_LIMIT, "carpool.pin cannot be on here")
                .detail("No client of this database may keep a server connection between transactions.")
                .hint("See max_pinned."),
        }
    }
}

/// `SET` of one of these parameters, where the value can be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assignment {
    /// Where the statement stands.
    pub at: Range<usize>,
    /// The parameter.
    pub name: &'static str,
    /// The value; `None`: neither on nor off.
    pub value: Option<bool>,
}

impl Assignment {
    /// Why it can't be run.
    #[must_use]
    pub fn refusal(&self, may_pin: bool) -> Option<Refusal> {
        match self.value {
            None => Some(Refusal::NotBoolean(self.name)),
            Some(true) if self.name == PIN && !may_pin => Some(Refusal::NoPins),
            Some(_) => None,
        }
    }

    /// Whether the client keeps its server when it is run.
    #[must_use]
    pub fn pins(&self) -> bool {
        self.name == PIN && self.value == Some(true)
    }
}

/// Finds the assignments in a text. `SET LOCAL` is none: it is over when the transaction ends.
#[must_use]
pub fn assignments(mut lexer: Lexer<'_>, text: &[u8]) -> Vec<Assignment> {
    let (mut found, mut statement) = (Vec::new(), Vec::new());
    let (mut start, mut end) = (0, 0);
    loop {
        let token = lexer.next();
        let at = text.len() - lexer.rest().len();
        match token {
            Some(token) if token != Token::Symbol(b';') => {
                if let (true, Token::Word(first)) = (statement.is_empty(), token) {
                    start = at - first.len();
                }
                end = at;
                if statement.len() < STATEMENT_LIMIT {
                    statement.push(token);
                }
            }
            other => {
                let read = assignment(&statement);
                found.extend(read.map(|(name, value)| Assignment { at: start..end, name, value }));
                statement.clear();
                if other.is_none() {
                    return found;
                }
            }
        }
    }
}

/// More tokens than an assignment has.
const STATEMENT_LIMIT: usize = 32;

fn assignment(tokens: &[Token<'_>]) -> Option<(&'static str, Option<bool>)> {
    let (first, rest) = tokens.split_first()?;
    let rest = match rest.split_first()? {
        (session, rest) if is_word(*session, b"session") => rest,
        _ => rest,
    };
    let [prefix, Token::Symbol(b'.'), name, sign, value @ ..] = rest else { return None };
    if !is_word(*first, b"set") || !(*sign == Token::Symbol(b'=') || is_word(*sign, b"to")) {
        return None;
    }
    let name = [PIN, PIN_NOTICE].into_iter().find(|known| {
        let (first, second) = known.split_once('.').unwrap_or_default();
        is_identifier(*prefix, first) && is_identifier(*name, second)
    })?;
    Some((name, boolean(&constant(value)?)))
}

fn is_word(token: Token<'_>, word: &[u8]) -> bool {
    matches!(token, Token::Word(w) if w.eq_ignore_ascii_case(word))
}

/// Names of parameters compare without case, quoted or not.
fn is_identifier(token: Token<'_>, name: &str) -> bool {
    match token {
        Token::Word(word) => word.eq_ignore_ascii_case(name.as_bytes()),
        Token::Quoted(quoted) => {
            quoted.get(1..quoted.len() - 1).is_some_and(|q| q.eq_ignore_ascii_case(name.as_bytes()))
        }
        _ => false,
    }
}

/// The value of a constant in plain spelling: a word, a string without escapes, a number.
fn constant(tokens: &[Token<'_>]) -> Option<Vec<u8>> {
    match tokens {
        // Not a value.
        [word] if is_word(*word, b"default") || is_word(*word, b"local") => None,
        [Token::Word(word)] => Some(word.to_vec()),
        [Token::Quoted(text)] | [Token::Text(text @ [b'\'', ..])] => {
            let inner = text.get(1..text.len().checked_sub(1)?)?;
            (!inner.iter().any(|b| b"'\"\\".contains(b))).then(|| inner.to_vec())
        }
        [Token::Symbol(_), ..] => tokens
            .iter()
            .map(|token| match token {
                Token::Symbol(byte) if byte.is_ascii_digit() || b"+-.".contains(byte) => Some(*byte),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Option<Option<bool>> {
        let found = assignments(Lexer::new(text.as_bytes()), text.as_bytes());
        assert!(found.len() < 2, "{found:?}");
        found.first().map(|a| {
            assert_eq!(&text[a.at.clone()], text.trim_matches([' ', ';']), "{text}");
            a.value
        })
    }

    #[test]
    fn values_are_read_as_postgresql_reads_them() {
        for (text, want) in [
            ("on", Some(true)),
            ("ON", Some(true)),
            ("tRu", Some(true)),
            ("y", Some(true)),
            ("1", Some(true)),
            ("of", Some(false)),
            ("n", Some(false)),
            ("FALSE", Some(false)),
            ("0", Some(false)),
            ("o", None),
            ("", None),
            ("onn", None),
            ("truely", None),
            ("10", None),
            (" on", None),
        ] {
            assert_eq!(boolean(text.as_bytes()), want, "{text:?}");
        }
    }

    #[test]
    fn assignments_in_every_spelling() {
        for text in [
            "set carpool.pin = on",
            "SET Carpool.Pin TO 'on';",
            "set session carpool.pin to true",
            "set \"carpool\".\"pin\" = \"on\"",
            " set carpool . pin=1 ; ",
        ] {
            assert_eq!(one(text), Some(Some(true)), "{text}");
        }
        for text in ["set carpool.pin = banana", "set carpool.pin_notice to 'x'", "set carpool.pin = 10"] {
            assert_eq!(one(text), Some(None), "{text}");
        }
        assert_eq!(one("set carpool.pin = off"), Some(Some(false)));
    }

    #[test]
    fn what_is_none_or_is_left_to_postgresql() {
        for text in [
            "set local carpool.pin = on",
            "set carpool.pin to default",
            "set carpool.pin = 'a', 'b'",
            "set carpool.pin = E'o\\156'",
            "set carpool.pinned = x",
            "set other.pin = x",
            "reset carpool.pin",
            "select 'set carpool.pin = x'",
            "set carpool.pin",
            "",
        ] {
            assert_eq!(one(text), None, "{text}");
        }
    }

    #[test]
    fn among_several_statements_each_has_its_place() {
        let text = "select 1; set carpool.pin = maybe /* ; */; set carpool.pin_notice = on";
        let found = assignments(Lexer::new(text.as_bytes()), text.as_bytes());
        assert_eq!(&text[found[0].at.clone()], "set carpool.pin = maybe");
        assert_eq!(found[0].refusal(true), Some(Refusal::NotBoolean(PIN)));
        assert_eq!((found[1].name, found[1].refusal(false)), (PIN_NOTICE, None));
    }

    #[test]
    fn a_pin_needs_a_budget() {
        let text = "set carpool.pin = on";
        let found = assignments(Lexer::new(text.as_bytes()), text.as_bytes());
        assert_eq!((found[0].refusal(true), found[0].refusal(false)), (None, Some(Refusal::NoPins)));
    }
}
