//! The functions that a text calls, by name, but for those that are known to leave no session state behind.
//!
//! `known_names.txt` has PostgreSQL's own functions of versions 14 to 18 that an SQL text can call (from their
//! catalogs, without those that run text that is given to them, or that change session state otherwise than
//! `calls` sees), those of the extensions uuid-ossp and pgcrypto that are volatile only for being random, and the key
//! words that can't be a
//! function's name.

use std::sync::LazyLock;

use super::calls::sequences;
use super::{Lexer, Reading, Token, is_word, is_word_part, unquote};
use crate::protocol::session::{Taint, Taints};

static KNOWN: LazyLock<Vec<&'static [u8]>> =
    LazyLock::new(|| include_str!("known_names.txt").lines().map(str::as_bytes).collect());

/// How many functions of one text are told apart.
const MOST: usize = 16;
/// How many bytes of a name PostgreSQL looks at (`NAMEDATALEN - 1`).
const NAME_LIMIT: usize = 63;

/// What stands before a name that a parenthesis follows where it is no function's.
const NO_CALL: [&[u8]; 8] = [b"into", b"as", b"copy", b"references", b"table", b"exists", b"with", b"recursive"];

/// Whether the text can be seen at once to call nothing but known functions, and none of those of sequences.
pub(super) fn calls_known(text: &[u8]) -> bool {
    let mut none = true;
    let known = memchr::memchr_iter(b'(', text).all(|at| {
        none = false;
        matches!(before(&text[..at]), Before::Nothing)
    });
    known && (none || !sequences(text).any())
}

/// Notes the functions that the text calls, and what is known of them.
pub(super) fn functions(text: &[u8], reading: &mut Reading) {
    // Most texts have no parenthesis, or only known names before them.
    let mut doubtful = false;
    for at in memchr::memchr_iter(b'(', text) {
        match before(&text[..at]) {
            Before::Nothing => {}
            Before::Seed => reading.taint |= Taint::Unknown,
            Before::Doubtful => doubtful = true,
        }
    }
    if doubtful {
        collect(Lexer::new(text), reading);
        if memchr::memchr(b'\\', text).is_some() {
            collect(Lexer::with_backslashes(text), reading);
        }
    }
}

/// What a parenthesis follows.
enum Before {
    /// No function, or one that is known.
    Nothing,
    /// `setseed`: the seed can't be asked for.
    Seed,
    /// Something that must be looked at again, token by token.
    Doubtful,
}

fn before(text: &[u8]) -> Before {
    let trimmed = text.trim_ascii_end();
    match trimmed.last() {
        // A quoted name, or a comment.
        Some(b'"' | b'/') => return Before::Doubtful,
        Some(&byte) if is_word_part(byte) => {}
        _ => return Before::Nothing,
    }
    let (rest, word) = last_word(trimmed);
    // The word may be a comment's.
    let commented = trimmed.len() < text.len() && memchr::memmem::find(text, b"--").is_some();
    if word.eq_ignore_ascii_case(b"setseed") {
        return Before::Seed;
    }
    if commented || rest.last() == Some(&b'.') {
        return Before::Doubtful;
    }
    let table = || last_word(rest.trim_ascii_end()).1.eq_ignore_ascii_case(b"into");
    if is_known(word) || table() { Before::Nothing } else { Before::Doubtful }
}

/// The text up to its last word, and that.
fn last_word(text: &[u8]) -> (&[u8], &[u8]) {
    let start = text.iter().rposition(|&b| !is_word_part(b)).map_or(0, |at| at + 1);
    text.split_at(start)
}

/// Whether it is a known name, in any case.
fn is_known(word: &[u8]) -> bool {
    let mut folded = [0; NAME_LIMIT];
    let Some(folded) = folded.get_mut(..word.len()) else { return false };
    folded.copy_from_slice(word);
    folded.make_ascii_lowercase();
    KNOWN.binary_search(&&*folded).is_ok()
}

/// A name, the schema before it and what stands before those.
#[derive(Clone, Copy)]
struct Name<'a> {
    token: Token<'a>,
    schema: Option<Token<'a>>,
    before: Option<Token<'a>>,
}

fn collect(lexer: Lexer<'_>, reading: &mut Reading) {
    let mut name: Option<Name<'_>> = None;
    let (mut last, mut qualified) = (None, false);
    for token in lexer {
        match token {
            Token::Word(_) | Token::Quoted(_) => {
                name = Some(match name {
                    Some(name) if qualified => Name { token, schema: Some(name.token), ..name },
                    _ => Name { token, schema: None, before: last },
                });
            }
            Token::Symbol(b'.') if name.is_some() => {}
            Token::Symbol(b'(') => {
                if let Some(name) = name.take() {
                    called(name, reading);
                }
            }
            _ => name = None,
        }
        qualified = token == Token::Symbol(b'.');
        last = Some(token);
    }
}

fn called(name: Name<'_>, reading: &mut Reading) {
    if is_word(name.before, &NO_CALL) {
        return;
    }
    let mut folded = match name.token {
        Token::Quoted(quoted) => unquote(quoted),
        Token::Word(word) => word.to_ascii_lowercase(),
        _ => return,
    };
    if folded == b"setseed" {
        reading.taint |= Taint::Unknown;
        return;
    }
    let builtin = match name.schema {
        None => true,
        Some(Token::Quoted(quoted)) => unquote(quoted) == b"pg_catalog",
        schema => is_word(schema, &[b"pg_catalog"]),
    };
    if builtin && KNOWN.binary_search(&folded.as_slice()).is_ok() {
        return;
    }
    folded.truncate(NAME_LIMIT);
    // One that needs more than plain quotes isn't worth the care.
    let plain = folded.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$'));
    match String::from_utf8(folded) {
        Ok(name) if plain && reading.functions.iter().any(|known| **known == *name) => {}
        Ok(name) if plain && reading.functions.len() < MOST => reading.functions.push(name.into()),
        _ => {
            reading.taint |= Taints::ASKABLE;
            reading.sets = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;
    use crate::protocol::settings::Settings;

    fn names(text: &str) -> Vec<String> {
        let reading = read(text.as_bytes(), &Settings::default());
        reading.functions.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_known_names_are_sorted() {
        assert!(KNOWN.is_sorted() && KNOWN.len() > 2000);
        assert!(KNOWN.iter().all(|name| name.len() <= NAME_LIMIT && *name == name.to_ascii_lowercase()));
    }

    #[test]
    fn known_functions_tables_and_strings_are_none() {
        for text in [
            "select 1",
            "select count(*), Coalesce(a, now()) from t where b in (1, 2) and (c or d)",
            "insert into pgbench_history (tid, bid) values (1, 2), (3, 4)",
            "insert into a.b (tid) values (lower('f(x)'))",
            "with x (a) as (select 1) select pg_catalog.upper('a') from x as y (b)",
            "create table if not exists f (a varchar(10) references g (b))",
            "select 'f(1)', $$ f(2) $$ -- f(3)\n, /* f(4) */ (5)",
            "select \"lower\"('x')",
            "copy t (a, b) from stdin",
        ] {
            assert_eq!(names(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn others_are_collected() {
        for (text, want) in [
            ("select f(1)", &["f"][..]),
            ("select F ( 1 ), f(2), g(3)", &["f", "g"]),
            ("select a.lower('x')", &["lower"]),
            ("select a . b . F(1)", &["f"]),
            ("select \"F\"(1)", &["F"]),
            ("select f /* x */ (1)", &["f"]),
            ("select f -- lower\n (1)", &["f"]),
            ("select f\n(1)", &["f"]),
            ("select * from f(1) join g(2) on h(3)", &["f", "g", "h"]),
            ("select E'\\'', f(1) --'", &["f"]),
            ("select '\\', f(1) --'", &["f"]),
            ("select ts_stat('select f()')", &["ts_stat"]),
        ] {
            assert_eq!(names(text), want, "{text}");
        }
    }

    #[test]
    fn odd_names_and_many_may_do_anything() {
        let many = format!("select {}", (0..=MOST).map(|i| format!("f{i}()")).collect::<Vec<_>>().join(", "));
        for text in [many.as_str(), "select \"a'b\"()", "select é()"] {
            assert_eq!(read(text.as_bytes(), &Settings::default()).taint, Taints::ASKABLE, "{text}");
        }
        assert_eq!(names(&format!("select {}()", "a".repeat(70))), ["a".repeat(63)]);
    }

    #[test]
    fn the_seed_pins() {
        for text in
            ["select setseed(0.5)", "select SetSeed (0.5)", "select pg_catalog.\"setseed\"(1)", "select setseed/**/(0)"]
        {
            assert_eq!(read(text.as_bytes(), &Settings::default()).taint, Taint::Unknown.into(), "{text}");
        }
        assert!(read(b"select my_setseed", &Settings::default()).taint.is_empty());
    }
}
