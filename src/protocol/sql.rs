//! A lexer for the little SQL that pooling must understand: the first words of statements, and where
//! statements end. It follows PostgreSQL's lexical rules (`scan.l`) for comments, strings, quoted identifiers
//! and dollar quotes, so that a keyword inside one is never taken for a command.

use super::Taint;
use super::settings::Settings;

/// A lexical token; white space and comments are passed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Token<'a> {
    /// A keyword or unquoted identifier, as written.
    Word(&'a [u8]),
    /// A double-quoted identifier, with its quotes.
    Quoted(&'a [u8]),
    /// A string or dollar-quoted constant, with its quotes.
    Text(&'a [u8]),
    /// Any other byte.
    Symbol(u8),
}

/// Splits SQL text into tokens.
#[derive(Clone, Debug)]
pub struct Lexer<'a> {
    rest: &'a [u8],
}

impl<'a> Lexer<'a> {
    /// A lexer over `text`.
    #[must_use]
    pub const fn new(text: &'a [u8]) -> Self {
        Self { rest: text }
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    fn skip_blank(&mut self) {
        loop {
            match self.rest {
                [b' ' | b'\t' | b'\n' | b'\r' | b'\x0b' | b'\x0c', rest @ ..] => self.rest = rest,
                [b'-', b'-', ..] => {
                    let end = self.rest.iter().position(|&b| matches!(b, b'\n' | b'\r'));
                    self.take(end.unwrap_or(self.rest.len()));
                }
                [b'/', b'*', ..] => {
                    let len = comment_len(self.rest);
                    self.take(len);
                }
                _ => return,
            }
        }
    }
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_blank();
        let token = match *self.rest.first()? {
            b'"' => Token::Quoted(self.take(quoted_len(self.rest, b'"', false))),
            b'\'' => Token::Text(self.take(quoted_len(self.rest, b'\'', false))),
            b'e' | b'E' if self.rest.get(1) == Some(&b'\'') => {
                let len = 1 + quoted_len(&self.rest[1..], b'\'', true);
                Token::Text(self.take(len))
            }
            b'$' => match dollar_len(self.rest) {
                Some(len) => Token::Text(self.take(len)),
                None => Token::Symbol(self.take(1)[0]),
            },
            byte if is_word_start(byte) => {
                let len = self.rest.iter().position(|&b| !is_word_part(b)).unwrap_or(self.rest.len());
                Token::Word(self.take(len))
            }
            _ => Token::Symbol(self.take(1)[0]),
        };
        Some(token)
    }
}

const fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

const fn is_word_part(byte: u8) -> bool {
    is_word_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

/// Length of a nested comment that starts `text`, to its end or the text's.
fn comment_len(text: &[u8]) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < text.len() {
        match &text[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    text.len()
}

/// Length of a quoted run that starts `text`, both quotes counted; a doubled quote doesn't end it.
fn quoted_len(text: &[u8], quote: u8, backslash: bool) -> usize {
    let mut at = 1;
    while at < text.len() {
        match text[at] {
            b'\\' if backslash => at += 2,
            byte if byte == quote && text.get(at + 1) == Some(&quote) => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// Length of a dollar-quoted constant that starts `text`; `None` when it isn't one (`$1`).
fn dollar_len(text: &[u8]) -> Option<usize> {
    let tag_end = 1 + text[1..].iter().position(|&b| b == b'$' || !is_word_part(b))?;
    if text[tag_end] != b'$' || text[1].is_ascii_digit() {
        return None;
    }
    let tag = &text[..=tag_end];
    let body = &text[tag.len()..];
    Some(memchr::memmem::find(body, tag).map_or(text.len(), |at| tag.len() + at + tag.len()))
}

/// What a query text does to state that Carpool keeps for the client. Only statements that are alone in
/// their text are named; among several the text is [`Effect::Several`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Effect {
    /// Nothing that must be known before the server's reply.
    #[default]
    None,
    /// `DEALLOCATE name` (folded as PostgreSQL folds identifiers).
    Deallocate(Box<[u8]>),
    /// `DEALLOCATE ALL` or `DISCARD ALL`: later requests wait for its outcome.
    ForgetAll,
    /// Several statements, one of them of the above kinds: later requests wait for its outcome.
    Several,
}

/// Reads the [`Effect`] of a text. Cheap when its first letter rules everything out.
#[must_use]
pub fn effect(text: &[u8]) -> Effect {
    let start = text.iter().position(|b| !b.is_ascii_whitespace()).unwrap_or(text.len());
    let several = memchr::memchr(b';', text).is_some_and(|at| text[at + 1..].iter().any(|b| !b.is_ascii_whitespace()));
    match text.get(start) {
        Some(b'd' | b'D' | b'-' | b'/') => {}
        _ if several => {}
        _ => return Effect::None,
    }
    if several { effect_of_several(text) } else { effect_of_one(&mut Lexer::new(text)) }
}

fn effect_of_several(text: &[u8]) -> Effect {
    let mut lexer = Lexer::new(text);
    loop {
        if effect_of_one(&mut lexer) != Effect::None {
            return Effect::Several;
        }
        // `effect_of_one` stops at or before the statement's end.
        loop {
            match lexer.next() {
                None => return Effect::None,
                Some(Token::Symbol(b';')) => break,
                Some(_) => {}
            }
        }
    }
}

fn effect_of_one(lexer: &mut Lexer<'_>) -> Effect {
    let is =
        |token: Option<Token<'_>>, word: &[u8]| matches!(token, Some(Token::Word(w)) if w.eq_ignore_ascii_case(word));
    let mut ahead = lexer.clone();
    let first = ahead.next();
    if is(first, b"discard") {
        return if is(ahead.next(), b"all") { Effect::ForgetAll } else { Effect::None };
    }
    if !is(first, b"deallocate") {
        return Effect::None;
    }
    let mut name = ahead.next();
    if is(name, b"prepare") {
        // `DEALLOCATE PREPARE x`; a statement that is itself named "prepare" must be quoted.
        name = ahead.next();
    }
    match name {
        Some(Token::Word(word)) if word.eq_ignore_ascii_case(b"all") => Effect::ForgetAll,
        Some(Token::Word(word)) => Effect::Deallocate(word.to_ascii_lowercase().into()),
        Some(Token::Quoted(quoted)) => Effect::Deallocate(unquote(quoted).into()),
        _ => Effect::None,
    }
}

/// The identifier that a double-quoted token means.
fn unquote(quoted: &[u8]) -> Vec<u8> {
    let inner = quoted.strip_prefix(b"\"").unwrap_or(quoted);
    let inner = inner.strip_suffix(b"\"").unwrap_or(inner);
    let mut name = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(&byte) = bytes.next() {
        name.push(byte);
        if byte == b'"' {
            bytes.next();
        }
    }
    name
}

/// Session state that running `text` leaves on the server beyond what [`Settings`] follows: read from the
/// words, so it may say yes too often (a word in another role) but misses only what is out of sight (inside
/// functions and DO blocks). `tracked` are the parameters that follow the client anyway.
#[must_use]
pub fn taint(text: &[u8], tracked: &Settings) -> Option<Taint> {
    if let Some(taint) = taint_of_calls(text) {
        return Some(taint);
    }
    let mut lexer = Lexer::new(text);
    let mut rest = text;
    loop {
        if let Some(taint) = taint_of_one(&mut lexer, tracked) {
            return Some(taint);
        }
        // Most texts are one statement: look for another only where a semicolon stands.
        let at = memchr::memchr(b';', rest)?;
        rest = &rest[at + 1..];
        loop {
            match lexer.next()? {
                Token::Symbol(b';') => break,
                _ => {}
            }
        }
    }
}

/// Words that may stand anywhere in a statement.
fn taint_of_calls(text: &[u8]) -> Option<Taint> {
    let has = |words: &[&[u8]]| words.iter().any(|word| memchr::memmem::find(text, word).is_some());
    if has(&[b"temp", b"TEMP", b"Temp"]) && has_word(text, &[b"temp", b"temporary"]) {
        return Some(Taint::SessionObject);
    }
    if has(&[b"advisory_lock", b"ADVISORY_LOCK"]) {
        return Some(Taint::SessionObject);
    }
    if has(&[b"set_config", b"SET_CONFIG"]) {
        return Some(Taint::Setting);
    }
    None
}

fn has_word(text: &[u8], words: &[&[u8]]) -> bool {
    Lexer::new(text).any(|token| is_word(Some(token), words))
}

fn is_word(token: Option<Token<'_>>, words: &[&[u8]]) -> bool {
    matches!(token, Some(Token::Word(w)) if words.iter().any(|x| w.eq_ignore_ascii_case(x)))
}

/// The statement at the lexer's place; leaves the lexer at or before the statement's end.
fn taint_of_one(lexer: &mut Lexer<'_>, tracked: &Settings) -> Option<Taint> {
    lexer.skip_blank();
    // SELECT, INSERT, UPDATE, BEGIN and so on end here.
    if !matches!(lexer.rest.first()?, b's' | b'S' | b'r' | b'R' | b'p' | b'P' | b'l' | b'L' | b'd' | b'D') {
        return None;
    }
    let mut ahead = lexer.clone();
    let Some(Token::Word(first)) = ahead.next() else { return None };
    let first = first.to_ascii_lowercase();
    match first.as_slice() {
        b"set" => taint_of_set(&mut ahead, tracked),
        b"reset" => match ahead.next() {
            Some(Token::Word(name)) if names_tracked(name, tracked) => None,
            Some(Token::Word(name)) if name.eq_ignore_ascii_case(b"session") => Some(Taint::SessionUser),
            _ => Some(Taint::Setting),
        },
        b"prepare" if is_word(ahead.next(), &[b"transaction"]) => None,
        b"prepare" => Some(Taint::SqlPrepare),
        b"listen" => Some(Taint::Listen),
        b"load" => Some(Taint::Load),
        b"declare" if has_word(ahead.rest, &[b"hold"]) => Some(Taint::SessionObject),
        _ => None,
    }
}

/// What follows SET.
fn taint_of_set(tokens: &mut Lexer<'_>, tracked: &Settings) -> Option<Taint> {
    let mut name = tokens.next();
    if is_word(name, &[b"local", b"transaction", b"constraints"]) {
        return None;
    }
    if is_word(name, &[b"session"]) {
        name = tokens.next();
        if is_word(name, &[b"authorization"]) {
            return Some(Taint::SessionUser);
        }
    }
    match name {
        Some(Token::Word(word)) if word.eq_ignore_ascii_case(b"time") || word.eq_ignore_ascii_case(b"names") => None,
        Some(Token::Word(word)) if word.eq_ignore_ascii_case(b"role") => Some(Taint::SessionUser),
        Some(Token::Word(word)) if names_tracked(word, tracked) => None,
        _ => Some(Taint::Setting),
    }
}

fn names_tracked(word: &[u8], tracked: &Settings) -> bool {
    std::str::from_utf8(word).is_ok_and(|name| tracked.reported(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn deallocate(name: &str) -> Effect {
        Effect::Deallocate(name.as_bytes().into())
    }

    #[test]
    fn effects() {
        for (text, want) in [
            ("select 1", Effect::None),
            ("DEALLOCATE ALL", Effect::ForgetAll),
            (" -- x\n/* a /* b */ */ deallocate prepare all;", Effect::ForgetAll),
            ("discard all ; ", Effect::ForgetAll),
            ("DISCARD PLANS", Effect::None),
            ("deallocate Foo", deallocate("foo")),
            ("deallocate \"Fo\"\"o\"", deallocate("Fo\"o")),
            ("deallocate prepare s1;", deallocate("s1")),
            ("select 1; discard all", Effect::Several),
            ("select '; discard all'", Effect::None),
            ("select $$;$$; select $a$; discard all $a$", Effect::None),
            ("select E'\\'; discard all'", Effect::None),
            ("deallocate s1; select 1", Effect::Several),
            ("deallocate", Effect::None),
            ("", Effect::None),
        ] {
            assert_eq!(effect(text.as_bytes()), want, "{text}");
        }
    }

    #[test]
    fn taints() {
        let tracked = Settings::from_reported([("TimeZone", "UTC"), ("DateStyle", "ISO")]);
        for none in [
            "select 1",
            "SET LOCAL x = 1",
            "set transaction read only",
            "/**/ set constraints all deferred",
            "SET TIME ZONE 'UTC'",
            "set timezone to 'UTC'",
            "SET SESSION DateStyle = 'ISO'",
            "reset timezone",
            "select 'temp', \"temporary\" -- temp",
            "declare c cursor for select 1",
            "prepare transaction 'x'",
            "begin; set local x = 1; commit",
        ] {
            assert_eq!(taint(none.as_bytes(), &tracked), None, "{none}");
        }
        for (text, want) in [
            ("SET statement_timeout = 1", Taint::Setting),
            ("set session geqo = off", Taint::Setting),
            ("reset all", Taint::Setting),
            ("SET ROLE x", Taint::SessionUser),
            ("set session authorization x", Taint::SessionUser),
            ("reset session authorization", Taint::SessionUser),
            ("prepare s as select 1", Taint::SqlPrepare),
            ("-- c\nlisten x", Taint::Listen),
            ("begin; listen x; commit", Taint::Listen),
            ("select ';'; set x = 1", Taint::Setting),
            ("create temp table t(i int)", Taint::SessionObject),
            ("CREATE /**/ TEMPORARY view v", Taint::SessionObject),
            ("declare c cursor with hold for select 1", Taint::SessionObject),
            ("select pg_advisory_lock(1)", Taint::SessionObject),
            ("select set_config('a', 'b', false)", Taint::Setting),
        ] {
            assert_eq!(taint(text.as_bytes(), &tracked), Some(want), "{text}");
        }
    }

    proptest! {
        #[test]
        fn lexing_ends_and_never_panics(text: Vec<u8>) {
            let _ = (effect(&text), taint(&text, &Settings::default()));
            prop_assert!(Lexer::new(&text).count() <= text.len());
        }

        #[test]
        fn dense_quotes_and_comments(text in r#"[-/*'"$aE;\\ \n]{0,40}"#) {
            prop_assert!(Lexer::new(text.as_bytes()).count() <= text.len());
        }
    }
}
