//! A lexer for the little SQL that pooling must understand: the first words of statements, and where
//! statements end. It follows PostgreSQL's lexical rules (`scan.l`) for comments, strings, quoted identifiers
//! and dollar quotes, so that a keyword inside one is never taken for a command.

mod blocks;
mod calls;
mod functions;
pub mod normal;
mod process;
pub mod shape;

use std::ops::Range;

use super::numbers;
use super::own;
pub use calls::taint_of_function;
use calls::{calls, creates_temporary};
use functions::{calls_known, functions};
pub use process::makes_temporary;

use super::sequences::Advances;
use super::session::{Taint, Taints};
use super::settings::{ROLE, Settings};

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
    backslashes: bool,
}

impl<'a> Lexer<'a> {
    /// A lexer over `text`.
    #[must_use]
    pub const fn new(text: &'a [u8]) -> Self {
        Self { rest: text, backslashes: false }
    }

    /// A lexer over `text` as it reads under `standard_conforming_strings = off`, where a backslash escapes in
    /// every string.
    #[must_use]
    pub const fn with_backslashes(text: &'a [u8]) -> Self {
        Self { rest: text, backslashes: true }
    }

    /// What is still to be read.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
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
            b'\'' => Token::Text(self.take(quoted_len(self.rest, b'\'', self.backslashes))),
            b'e' | b'E' if self.rest.get(1) == Some(&b'\'') => Token::Text(self.take(escape_string_len(self.rest))),
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

/// Length of an `E'…'` string that starts `text`, with what continues it behind a line break (only white space
/// and `--` comments between): escapes work there, too.
fn escape_string_len(text: &[u8]) -> usize {
    let mut len = 1 + quoted_len(&text[1..], b'\'', true);
    while let Some(blank) = continuation(&text[len..]) {
        len += blank + quoted_len(&text[len + blank..], b'\'', true);
    }
    len
}

/// How far it is to the quote that continues a string which ended just before `text`.
fn continuation(text: &[u8]) -> Option<usize> {
    let (mut at, mut newline) = (0, false);
    loop {
        match text.get(at..)? {
            [b'\n' | b'\r', ..] => (at, newline) = (at + 1, true),
            [b' ' | b'\t' | b'\x0b' | b'\x0c', ..] => at += 1,
            [b'-', b'-', rest @ ..] => at += 2 + rest.iter().position(|&b| matches!(b, b'\n' | b'\r'))?,
            [b'\'', ..] if newline => return Some(at),
            _ => return None,
        }
    }
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
    /// `PREPARE name AS …`: what the name means waits for its outcome.
    Prepare(Mention),
    /// `EXECUTE name`.
    Execute(Mention),
    /// `DEALLOCATE ALL` or `DISCARD ALL`: later requests wait for its outcome.
    ForgetAll,
    /// `RESET ALL`: as before.
    ResetAll,
    /// `COPY … FROM STDIN`: what a Sync means depends on whether it begins.
    CopyIn,
    /// `DISCARD SEQUENCES`: as before.
    ForgetSequences,
    /// Several statements, one of them of the above kinds: later requests wait for its outcome.
    Several,
}

impl Effect {
    /// Whether what it names is looked up when it is sent: it must be sent anew for each use.
    #[must_use]
    pub const fn names_for_now(&self) -> bool {
        matches!(self, Self::Deallocate(_) | Self::Prepare(_) | Self::Execute(_))
    }

    /// The name that it looks up then.
    #[must_use]
    pub fn target(&self) -> Option<&[u8]> {
        match self {
            Self::Deallocate(name) => Some(name),
            Self::Prepare(mention) | Self::Execute(mention) => mention.name.as_deref(),
            _ => None,
        }
    }
}

/// What is read from a text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reading {
    /// What it does to state kept for the client.
    pub effect: Effect,
    /// Session state that running it may leave on the server beyond what [`Settings`] follows. `RESET ALL` at the
    /// end isn't counted, see [`Reading::resets`].
    pub taint: Taints,
    /// Session state that may be gone once it has run.
    pub ends: Taints,
    /// Parameters set back to their defaults (RESET, SET … TO DEFAULT) and not set since, in lower case.
    pub defaults: Vec<Box<str>>,
    /// The parameter that the last SET gave a value.
    assigned: Option<Box<str>>,
    /// The parameters that [`Taint::Named`] is about, in lower case.
    pub names: Vec<Box<str>>,
    /// It ends in `RESET ALL`: settings changed before it don't matter.
    pub resets: bool,
    /// Whether it advances a sequence.
    pub advances: Advances,
    /// The functions that it calls, but for those that are known to leave nothing behind.
    pub functions: Vec<Box<str>>,
    /// It may change settings that [`Settings`] follows, at once or by ending a transaction.
    pub sets: bool,
    /// It may create a table from rows: the server says `SELECT` of that, not `CREATE`.
    pub creates: bool,
    /// The statements that it names, in order.
    pub mentions: Vec<Mention>,
    /// What it sets of Carpool's own settings, in order.
    pub own: Vec<own::Assignment>,
    /// Where it says which process a signal is for.
    pub numbers: Vec<numbers::Argument>,
}

/// What a text does with a statement that it names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// DEALLOCATE.
    Forget,
    /// PREPARE.
    Make,
    /// EXECUTE.
    Run,
}

/// A statement that a text names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mention {
    /// What for.
    pub to: Use,
    /// Where the name stands.
    pub at: Range<usize>,
    /// The name, folded as PostgreSQL folds identifiers; `None`: ALL (also by DISCARD).
    pub name: Option<Box<[u8]>>,
}

impl Reading {
    /// Of a text that can't be read: it may do anything.
    #[must_use]
    pub fn unreadable() -> Self {
        Self {
            effect: Effect::Several,
            taint: Taints::ASKABLE,
            ends: Taint::Channels.into(),
            sets: true,
            creates: true,
            advances: Advances::Likely,
            ..Self::default()
        }
    }

    fn or(mut self, other: Self) -> Self {
        self.names.extend(other.names);
        self.defaults.extend(other.defaults);
        Self {
            effect: if self.effect == other.effect { self.effect } else { Effect::Several },
            taint: self.taint.or(other.taint),
            ends: self.ends.or(other.ends),
            names: self.names,
            defaults: self.defaults,
            assigned: None,
            resets: self.resets && other.resets,
            advances: self.advances.max(other.advances),
            functions: self.functions,
            sets: self.sets || other.sets,
            creates: self.creates || other.creates,
            mentions: if self.mentions == other.mentions { self.mentions } else { Vec::new() },
            own: if self.own == other.own { self.own } else { Vec::new() },
            numbers: Vec::new(),
        }
    }
}

/// Client encodings in which a byte that looks like a backslash may be part of a character.
const UNSAFE_ENCODINGS: [&str; 7] = ["SJIS", "SHIFT_JIS_2004", "BIG5", "GBK", "UHC", "GB18030", "JOHAB"];

/// Reads a text, run under the settings `tracked` (which follow the client). Read from the words, so it may say
/// yes too often (a word in another role) but misses only what is out of sight (inside functions and DO
/// blocks).
#[must_use]
pub fn read(text: &[u8], tracked: &Settings) -> Reading {
    if !is_plain(text) {
        return read_closely(text, tracked);
    }
    Reading { advances: plain_advances(text), ..Reading::default() }
}

/// Whether a text that is plain advances a sequence.
#[must_use]
pub fn plain_advances(text: &[u8]) -> Advances {
    let inserts = text.first().is_some_and(|first| first | 0x20 == b'i');
    if inserts { Advances::Likely } else { Advances::Maybe }
}

fn read_closely(text: &[u8], tracked: &Settings) -> Reading {
    let mut reading = read_statements(Lexer::new(text), text, tracked);
    if memchr::memchr(b'\\', text).is_some() {
        // `standard_conforming_strings` may be changed on the way, by the text itself even: both readings count.
        let encoding = tracked.get("client_encoding").unwrap_or_default();
        if !text.is_ascii() && UNSAFE_ENCODINGS.iter().any(|e| e.eq_ignore_ascii_case(encoding)) {
            return Reading::unreadable();
        }
        reading = reading.or(read_statements(Lexer::with_backslashes(text), text, tracked));
    }
    calls(text, tracked, &mut reading);
    functions(text, &mut reading);
    if creates_temporary(text) {
        reading.taint |= Taint::Temporary;
    }
    reading
}

/// Whether a text is one SELECT, INSERT, UPDATE or DELETE without anything that must be looked at more closely. Says
/// no too often; most texts pass, for one quick pass over their bytes.
#[must_use]
pub fn is_plain(text: &[u8]) -> bool {
    const COMMANDS: [&[u8; 6]; 4] = [b"select", b"insert", b"update", b"delete"];
    let Some((command, rest)) = text.split_first_chunk::<6>() else { return false };
    let rest = rest.trim_ascii_end();
    let rest = rest.strip_suffix(b";").unwrap_or(rest);
    let separated = rest.first().is_some_and(|&b| matches!(b, b' ' | b'\n'));
    separated
        && COMMANDS.iter().any(|known| command.eq_ignore_ascii_case(*known))
        && !has_suspect(rest, command[0] | 0x20 == b's')
        && calls_known(text)
}

/// Whether something stands in `text` that separates statements, escapes, or begins one of [`CALLS`] or TEMP, or, in a
/// SELECT (`selects`), INTO.
fn has_suspect(text: &[u8], selects: bool) -> bool {
    let mut start = 0;
    while start < text.len() {
        // Blocks of one size, with the bytes behind, so that vector instructions do it.
        let mut block = [0u8; BLOCK + 3];
        let part = &text[start..text.len().min(start + block.len())];
        block[..part.len()].copy_from_slice(part);
        let suspect = |at: usize| is_suspect(block[at], block[at + 1], block[at + 2], block[at + 3], selects);
        if (0..BLOCK).fold(false, |any, at| any | suspect(at)) {
            return true;
        }
        start += BLOCK;
    }
    false
}

/// See [`has_suspect`].
const BLOCK: usize = 64;

/// Whether a text may not be plain for the sake of four bytes of it. Without branches.
fn is_suspect(a: u8, b: u8, c: u8, d: u8, selects: bool) -> bool {
    let (first, lower) = (a, a | 0x20);
    let alone = (first == b';') | (first == b'\\') | (first == b'&');
    let ends_prefix = (lower == b't') | (lower == b'g') | (lower == b'k') | (lower == b'l');
    let temp = (lower == b't') & (b | 0x20 == b'e') & (c | 0x20 == b'm') & (d | 0x20 == b'p');
    let into = selects & (lower == b'i') & (b | 0x20 == b'n') & (c | 0x20 == b't') & (d | 0x20 == b'o');
    alone | (ends_prefix & (b == b'_')) | temp | into
}

fn read_statements(mut lexer: Lexer<'_>, text: &[u8], tracked: &Settings) -> Reading {
    let mut whole = Reading::default();
    let (start, mut sets_own) = (lexer.clone(), false);
    let mut rest = text;
    let mut statements = 0u32;
    loop {
        let one = read_one(&mut lexer, text, tracked);
        statements += 1;
        // Most texts are one statement: look for another only where a semicolon stands.
        let next = memchr::memchr(b';', rest).and_then(|at| {
            rest = &rest[at + 1..];
            if rest.trim_ascii_start().is_empty() { None } else { next_statement(&mut lexer) }
        });
        whole.sets |= one.sets;
        whole.creates |= one.creates;
        whole.advances = whole.advances.max(one.advances);
        whole.taint |= one.taint;
        whole.ends |= one.ends;
        whole.defaults.retain(|name| Some(name) != one.assigned.as_ref());
        whole.names.extend(one.names);
        whole.defaults.extend(one.defaults);
        whole.mentions.extend(one.mentions);
        sets_own |= one.assigned.is_some_and(|name| own::is_own(&name));
        if one.resets && next.is_some() {
            whole.taint |= Taint::Setting;
        }
        whole.resets = one.resets;
        whole.effect = match (std::mem::take(&mut whole.effect), one.effect) {
            (Effect::None, effect) if statements == 1 && next.is_none() => effect,
            (Effect::None, Effect::None) => Effect::None,
            _ => Effect::Several,
        };
        if next.is_none() {
            if sets_own {
                whole.note_own(own::assignments(start, text));
            }
            return whole;
        }
    }
}

/// Passes over the end of the statement at hand; `None` when nothing but blank follows.
fn next_statement(lexer: &mut Lexer<'_>) -> Option<()> {
    while lexer.next()? != Token::Symbol(b';') {}
    loop {
        lexer.skip_blank();
        match lexer.rest.first()? {
            b';' => lexer.take(1),
            _ => return Some(()),
        };
    }
}

/// First words of statements that advance no sequence.
const NO_ADVANCE: [&[u8]; 16] = [
    b"begin",
    b"start",
    b"commit",
    b"end",
    b"rollback",
    b"abort",
    b"savepoint",
    b"release",
    b"set",
    b"reset",
    b"show",
    b"discard",
    b"deallocate",
    b"close",
    b"listen",
    b"unlisten",
];

/// Whether a statement that begins with this letter advances a sequence, as far as that shows.
fn advances(first: u8, text: &[u8]) -> Advances {
    let within = || text.windows(6).any(|w| w.eq_ignore_ascii_case(b"insert"));
    match first {
        b'i' | b'm' => Advances::Likely,
        b'w' if within() => Advances::Likely,
        _ => Advances::Maybe,
    }
}

/// Whether a command advances a sequence, of those that `read_one` knows.
fn advances_by_name(command: &[u8]) -> Advances {
    match command {
        b"copy" | b"do" | b"call" | b"execute" => Advances::Likely,
        _ if NO_ADVANCE.contains(&command) => Advances::No,
        _ => Advances::Maybe,
    }
}

/// The statement at the lexer's place; leaves the lexer within it.
fn read_one(lexer: &mut Lexer<'_>, text: &[u8], tracked: &Settings) -> Reading {
    let mut reading = Reading::default();
    lexer.skip_blank();
    let Some(first) = lexer.rest.first().map(u8::to_ascii_lowercase) else { return reading };
    reading.advances = advances(first, text);
    if first == b'w' {
        reading.creates = has_word(lexer.clone(), &[b"into"]);
    }
    // INSERT, WITH and so on end here.
    if !b"sreplcdaubn".contains(&first) {
        return reading;
    }
    let mut ahead = lexer.clone();
    let Some(Token::Word(first)) = ahead.next() else { return reading };
    if first.len() > 10 {
        return reading;
    }
    let lower = first.to_ascii_lowercase();
    reading.advances = advances_by_name(&lower);
    match lower.as_slice() {
        b"set" => read_set(&mut ahead, tracked, &mut reading),
        b"reset" => read_reset(&mut ahead, tracked, &mut reading),
        b"prepare" => {
            let mut name = ahead.clone();
            let two_phase = is_word(ahead.next(), &[b"transaction"]) && matches!(ahead.next(), Some(Token::Text(_)));
            reading.sets = two_phase;
            if !two_phase {
                reading.taint |= Taint::SqlPrepare;
                reading.mention(Use::Make, &mut name, text);
            }
        }
        b"listen" => (reading.taint, reading.ends) = (Taint::Listen.into(), Taint::Channels.into()),
        b"unlisten" => reading.ends = Taints::from(Taint::Listen).or(Taint::Channels.into()),
        b"notify" => reading.ends |= Taint::Channels,
        b"load" => reading.taint |= Taint::Unknown,
        b"declare" if has_word(ahead.clone(), &[b"hold"]) => reading.taint |= Taint::HeldCursor,
        b"close" => reading.ends |= Taint::HeldCursor,
        b"drop" => reading.ends |= Taint::Temporary,
        b"discard" | b"deallocate" => {
            reading.ends = Taints::ASKABLE;
            reading.note_forgetting(first, ahead, text);
            reading.sets = first.eq_ignore_ascii_case(b"discard");
            if reading.sets {
                reading.ends |= Taint::Channels;
            }
        }
        b"copy" if has_word(ahead.clone(), &[b"stdin"]) => reading.effect = Effect::CopyIn,
        b"commit" | b"end" | b"rollback" | b"abort" => reading.sets = true,
        // What they run isn't here to be read.
        b"do" | b"call" => {
            (reading.taint, reading.sets) = (Taints::ASKABLE, true);
            reading.ends |= Taint::Channels;
            reading.names = blocks::sets_within(ahead);
        }
        b"execute" => {
            (reading.taint, reading.sets) = (Taints::ASKABLE, true);
            reading.ends |= Taint::Channels;
            reading.mention(Use::Run, &mut ahead, text);
        }
        b"explain" => reading.run_within(ahead, text),
        b"select" => reading.creates = has_word(ahead, &[b"into"]),
        b"create" => read_create(ahead, text, &mut reading),
        _ => {}
    }
    reading
}

/// CREATE, `ahead` being behind that word.
fn read_create(mut ahead: Lexer<'_>, text: &[u8], reading: &mut Reading) {
    reading.creates = true;
    // CREATE TABLE … AS EXECUTE; a trigger's EXECUTE FUNCTION is something else.
    let behind_as = |ahead: &mut Lexer<'_>| {
        ahead.take_while(|&token| token != Token::Symbol(b';')).any(|token| is_word(Some(token), &[b"as"]))
    };
    while behind_as(&mut ahead) {
        if is_word(ahead.clone().next(), &[b"execute"]) {
            reading.run_within(ahead, text);
            break;
        }
    }
}

/// The token of a name, and the name; `None`: ALL.
type Forgotten<'a> = (&'a [u8], Option<Box<[u8]>>);

/// What DISCARD or DEALLOCATE is about, `ahead` being behind that word; `None` for what is neither ALL nor one name.
fn forgets<'a>(first: &[u8], mut ahead: Lexer<'a>) -> Option<Forgotten<'a>> {
    let mut tokens = [ahead.next(), ahead.next(), ahead.next()];
    for at in 0..tokens.len() {
        if tokens[at] == Some(Token::Symbol(b';')) {
            tokens[at..].fill(None);
        }
    }
    // `DEALLOCATE PREPARE x`, but also `DEALLOCATE prepare`.
    let discard = first.eq_ignore_ascii_case(b"discard");
    let name = match tokens {
        [name, None, None] => name,
        [prepare, name, None] if !discard && is_word(prepare, &[b"prepare"]) => name,
        _ => return None,
    };
    match name? {
        Token::Word(word) if word.eq_ignore_ascii_case(b"all") => Some((word, None)),
        Token::Word(word) if !discard => Some((word, Some(word.to_ascii_lowercase().into()))),
        Token::Quoted(quoted) if !discard => Some((quoted, Some(unquote(quoted).into()))),
        _ => None,
    }
}

/// Whether it is DISCARD SEQUENCES.
fn forgets_sequences(first: &[u8], mut ahead: Lexer<'_>) -> bool {
    first.eq_ignore_ascii_case(b"discard") && is_word(ahead.next(), &[b"sequences"])
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

/// Appends a double-quoted identifier.
pub fn put_identifier(out: &mut Vec<u8>, name: &[u8]) {
    out.push(b'"');
    for &byte in name {
        out.push(byte);
        if byte == b'"' {
            out.push(byte);
        }
    }
    out.push(b'"');
}

/// A parameter's name in SET or RESET, in lower case: words or quoted identifiers with dots between. `None`:
/// something else.
fn parameter(tokens: &mut Lexer<'_>) -> Option<String> {
    let mut name = Vec::new();
    loop {
        match tokens.next()? {
            Token::Word(word) => name.extend_from_slice(word),
            Token::Quoted(quoted) => name.extend(unquote(quoted)),
            _ => return None,
        }
        let mut ahead = tokens.clone();
        if ahead.next() != Some(Token::Symbol(b'.')) {
            break;
        }
        *tokens = ahead;
        name.push(b'.');
    }
    String::from_utf8(name).ok().map(|name| name.to_ascii_lowercase())
}

/// What follows RESET.
fn read_reset(tokens: &mut Lexer<'_>, tracked: &Settings, reading: &mut Reading) {
    reading.sets = true;
    match parameter(tokens).as_deref() {
        Some("all") => {
            reading.resets = true;
            reading.effect = Effect::ResetAll;
        }
        // It brings back the role, too.
        Some("session") => {
            reading.taint |= Taint::SessionUser;
            reading.defaults.push(ROLE.into());
        }
        Some("time") => reading.defaults.push("timezone".into()),
        name => {
            reading.note_parameter(name, tracked);
            reading.defaults.extend(name.map(Box::from));
        }
    }
}

/// What follows SET.
fn read_set(tokens: &mut Lexer<'_>, tracked: &Settings, reading: &mut Reading) {
    reading.sets = true;
    let mut name = parameter(tokens);
    if name.as_deref() == Some("local") && parameter(tokens).is_some_and(|name| process::is_of_process(&name)) {
        reading.taint |= Taint::Process;
    }
    if matches!(name.as_deref(), Some("local" | "transaction" | "constraints")) {
        return;
    }
    if name.as_deref() == Some("session") {
        name = parameter(tokens);
        match name.as_deref() {
            Some("authorization") => {
                reading.taint |= Taint::SessionUser;
                if is_word(tokens.next(), &[b"default"]) {
                    reading.defaults.push(ROLE.into());
                }
                return;
            }
            Some("characteristics") => name = None,
            _ => {}
        }
    }
    let name = match name.as_deref() {
        Some("time") => {
            // SET TIME ZONE …
            tokens.next();
            Some("timezone")
        }
        Some("names") => Some("client_encoding"),
        Some("schema") => Some("search_path"),
        Some("xml") => Some("xmloption"),
        other => other,
    };
    reading.note_parameter(name, tracked);
    if name == Some("search_path") && process::leads_to_temporary(tokens.clone()) {
        reading.taint |= Taint::Process;
    }
    let value = tokens.find(|&token| token != Token::Symbol(b'=') && !is_word(Some(token), &[b"to"]));
    if is_word(value, &[b"default", b"local"]) {
        reading.defaults.extend(name.map(Box::from));
    } else {
        reading.assigned = name.map(Box::from);
    }
}

impl Reading {
    /// DISCARD or DEALLOCATE.
    fn note_forgetting(&mut self, first: &[u8], ahead: Lexer<'_>, text: &[u8]) {
        if forgets_sequences(first, ahead.clone()) {
            self.effect = Effect::ForgetSequences;
        }
        let Some((token, name)) = forgets(first, ahead) else { return };
        let start = token.as_ptr() as usize - text.as_ptr() as usize;
        self.effect = name.clone().map_or(Effect::ForgetAll, Effect::Deallocate);
        self.mentions.push(Mention { to: Use::Forget, at: start..start + token.len(), name });
    }

    /// EXPLAIN and the like, perhaps of an EXECUTE.
    fn run_within(&mut self, ahead: Lexer<'_>, text: &[u8]) {
        let mut rest = ahead.take_while(|&token| token != Token::Symbol(b';'));
        if rest.any(|token| is_word(Some(token), &[b"execute"])) {
            (self.taint, self.sets) = (Taints::ASKABLE, true);
            self.mention(Use::Run, &mut rest, text);
        }
    }

    /// PREPARE or EXECUTE of what the next of `tokens` names.
    fn mention<'a>(&mut self, to: Use, tokens: &mut impl Iterator<Item = Token<'a>>, text: &[u8]) {
        let (token, name) = match tokens.next() {
            Some(Token::Word(word)) => (word, word.to_ascii_lowercase()),
            Some(Token::Quoted(quoted)) => (quoted, unquote(quoted)),
            _ => return,
        };
        let start = token.as_ptr() as usize - text.as_ptr() as usize;
        let mention = Mention { to, at: start..start + token.len(), name: Some(name.into()) };
        self.effect = if to == Use::Make { Effect::Prepare(mention.clone()) } else { Effect::Execute(mention.clone()) };
        self.mentions.push(mention);
    }

    /// Carpool's own settings are set.
    fn note_own(&mut self, assignments: Vec<own::Assignment>) {
        if assignments.iter().any(own::Assignment::pins) {
            self.taint |= Taint::ByHand;
        }
        self.own = assignments;
    }

    /// A parameter is set or reset; `None` is one whose name can't be told.
    fn note_parameter(&mut self, name: Option<&str>, tracked: &Settings) {
        if name.is_some_and(process::is_of_process) {
            self.taint |= Taint::Process;
        }
        match name {
            Some("role" | "session_authorization") => self.taint |= Taint::SessionUser,
            Some("seed") => self.taint |= Taint::Unknown,
            Some(name) if tracked.reported(name) => {}
            // One that needs more than plain quotes isn't worth the care.
            Some(name) if !name.contains(['\\', '\'']) => {
                self.taint |= Taint::Named;
                self.names.push(name.into());
            }
            _ => self.taint |= Taint::Setting,
        }
    }
}

/// Whether one of `words` stands in the rest of the statement.
fn has_word(lexer: Lexer<'_>, words: &[&[u8]]) -> bool {
    lexer.take_while(|&token| token != Token::Symbol(b';')).any(|token| is_word(Some(token), words))
}

fn is_word(token: Option<Token<'_>>, words: &[&[u8]]) -> bool {
    matches!(token, Some(Token::Word(w)) if words.iter().any(|x| w.eq_ignore_ascii_case(x)))
}

#[cfg(test)]
use calls::CALLS;
#[cfg(test)]
mod tests;
