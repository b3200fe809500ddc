//! Words that taint a text wherever they stand: functions that change session state, and what makes an object
//! temporary.

use super::process::{self, writes_process_number};
use super::{Lexer, Reading, Token, is_word, is_word_part};
use crate::protocol::numbers;
use crate::protocol::sequences::Advances;
use crate::protocol::session::{Taint, Taints};
use crate::protocol::settings::Settings;

/// A word that taints wherever it stands, in strings as well: they may be run. All have an underscore, which is
/// what is looked for.
pub(super) struct Call {
    pub(super) word: &'static [u8],
    /// Where in the word its first underscore is.
    at: usize,
    pub(super) taint: Taint,
}

pub(super) const CALLS: [Call; 18] = [
    Call { word: b"set_config", at: 3, taint: Taint::Setting },
    Call { word: b"set_limit", at: 3, taint: Taint::Setting },
    Call { word: b"pg_settings", at: 2, taint: Taint::Setting },
    Call { word: b"pg_advisory_lock", at: 2, taint: Taint::AdvisoryLock },
    Call { word: b"pg_try_advisory_lock", at: 2, taint: Taint::AdvisoryLock },
    Call { word: b"pg_advisory_unlock", at: 2, taint: Taint::AdvisoryLock },
    Call { word: b"pg_temp", at: 2, taint: Taint::Temporary },
    Call { word: b"dblink_connect", at: 6, taint: Taint::Lasting },
    Call { word: b"pg_replication_origin_session_setup", at: 2, taint: Taint::Lasting },
    Call { word: b"pg_backup_start", at: 2, taint: Taint::Lasting },
    Call { word: b"pg_start_backup", at: 2, taint: Taint::Lasting },
    Call { word: b"pg_stat_force_next_flush", at: 2, taint: Taint::Process },
    Call { word: b"pg_stat_get_xact_", at: 2, taint: Taint::Process },
    Call { word: b"pg_stat_xact_", at: 2, taint: Taint::Process },
    Call { word: b"pg_notify", at: 2, taint: Taint::Channels },
    Call { word: b"pg_prepared_statement", at: 2, taint: Taint::ShowsPrepared },
    Call { word: b"pg_listening_channels", at: 2, taint: Taint::Channels },
    // Carpool's names of statements.
    Call { word: b"carpool_", at: 7, taint: Taint::SqlPrepare },
];

/// The function that gives the number of the server's process.
const PROCESS_NUMBER: &[u8] = b"pg_backend_pid";
/// In its name, and in those of the functions that signal a process.
const BACKEND: &[u8] = b"_backend";

/// Looks for [`CALLS`] and for identifiers that are written in escapes.
pub(super) fn calls(text: &[u8], tracked: &Settings, reading: &mut Reading) {
    let (mut asks_number, mut signals, mut configures) = (false, false, false);
    for at in memchr::memchr_iter(b'_', text) {
        if text.get(at..at + BACKEND.len()).is_some_and(|word| word.eq_ignore_ascii_case(BACKEND)) {
            let word = at.checked_sub(2).and_then(|start| text.get(start..start + PROCESS_NUMBER.len()));
            let is_number = word.is_some_and(|word| word.eq_ignore_ascii_case(PROCESS_NUMBER));
            (asks_number, signals) = (asks_number || is_number, signals || !is_number);
        }
        for call in &CALLS {
            let Some(start) = at.checked_sub(call.at) else { continue };
            let Some(found) = text.get(start..start + call.word.len()) else { continue };
            let inside = start > 0 && is_word_part(text[start - 1]);
            if inside || !found.eq_ignore_ascii_case(call.word) {
                continue;
            }
            let behind = &text[start + call.word.len()..];
            match call.word {
                b"set_config" => {
                    note_set_config(behind, tracked, reading);
                    configures = true;
                    continue;
                }
                b"pg_advisory_unlock" | b"pg_notify" | b"pg_listening_channels" | b"pg_prepared_statement" => {
                    reading.ends |= call.taint;
                    continue;
                }
                // A view that can be updated, to the same effect as SET.
                b"pg_settings" if !has_update(text) => continue,
                _ => {}
            }
            reading.taint |= call.taint;
        }
    }
    if configures && is_there(text, b"prepare") {
        // What EXECUTE sets can't be seen there, nor be asked for without its name.
        reading.taint |= Taint::Session;
    }
    if asks_number && writes_process_number(text) {
        reading.taint |= Taint::ProcessNumber;
    }
    if asks_number && is_there(text, b"pg_terminate_backend") {
        reading.taint |= Taint::EndsServer;
    }
    if signals {
        reading.numbers = numbers::arguments(text);
    }
    let sequences = sequences(text);
    if sequences.read {
        reading.taint |= Taint::Sequences;
    }
    if sequences.advanced {
        reading.advances = Advances::Likely;
    }
    let escaped = |at: usize| matches!(text[..at].last(), Some(b'u' | b'U')) && text.get(at + 1) == Some(&b'"');
    if memchr::memchr_iter(b'&', text).any(escaped) {
        reading.taint |= Taints::ASKABLE;
        reading.taint |= Taint::Sequences;
        reading.ends |= Taint::Channels;
        reading.sets = true;
    }
}

/// Whether a word in lower case stands in the text, in any case.
fn is_there(text: &[u8], word: &[u8]) -> bool {
    memchr::memmem::find(&text.to_ascii_lowercase(), word).is_some()
}

/// What a text does with sequences by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Named {
    /// `currval` or `lastval` is there, as a word.
    pub(super) read: bool,
    /// `nextval` or `setval` is.
    pub(super) advanced: bool,
}

impl Named {
    /// Whether it names any of them.
    pub(super) const fn any(self) -> bool {
        self.read || self.advanced
    }
}

/// Looks for the functions of sequences.
pub(super) fn sequences(text: &[u8]) -> Named {
    let mut named = Named::default();
    for at in memchr::memchr2_iter(b'v', b'V', text) {
        let is = |word: &[u8], before: usize| {
            let Some(start) = at.checked_sub(before) else { return false };
            let end = start + word.len();
            text.get(start..end).is_some_and(|found| found.eq_ignore_ascii_case(word))
                && !text[..start].last().is_some_and(|&b| is_word_part(b))
                && !text.get(end).is_some_and(|&b| is_word_part(b))
        };
        named.read |= is(b"currval", 4) || is(b"lastval", 4);
        named.advanced |= is(b"nextval", 4) || is(b"setval", 3);
    }
    named
}

/// What follows `set_config`.
fn note_set_config(behind: &[u8], tracked: &Settings, reading: &mut Reading) {
    reading.sets = true;
    match configured(behind) {
        // It ends with the transaction.
        Configured::Local(name) if !name.as_deref().is_some_and(process::is_of_process) => {}
        Configured::Local(name) => reading.note_parameter(name.as_deref(), tracked),
        Configured::Session(name) => {
            reading.note_parameter(name.as_deref(), tracked);
            if name.is_none() {
                // Nobody can ask for one with a dot, so others get the server when it has been reset.
                reading.taint |= Taint::Session;
            }
        }
    }
}

/// What a call of `set_config` does: to a parameter of this name, in lower case, where it is a constant.
enum Configured {
    /// Until the transaction ends.
    Local(Option<String>),
    /// For the session, or it can't be told.
    Session(Option<String>),
}

/// What `set_config` does by what follows it.
fn configured(behind: &[u8]) -> Configured {
    // Its name may be quoted.
    let mut tokens = Lexer::new(behind.strip_prefix(b"\"").unwrap_or(behind));
    if tokens.next() != Some(Token::Symbol(b'(')) {
        return Configured::Session(None);
    }
    let mut ahead = tokens.clone();
    let name = match (ahead.next(), ahead.next()) {
        (Some(Token::Text(name)), Some(Token::Symbol(b','))) => constant(name),
        _ => None,
    };
    // With a backslash it may be that the text reads otherwise.
    let plain = memchr::memchr(b'\\', behind).is_none();
    if plain && is_local(tokens) { Configured::Local(name) } else { Configured::Session(name) }
}

/// The parameter's name that a string constant has.
fn constant(text: &[u8]) -> Option<String> {
    let name = text.strip_prefix(b"'")?.strip_suffix(b"'")?;
    String::from_utf8(name.to_ascii_lowercase()).ok()
}

/// Whether the third of three arguments is the word `true`.
fn is_local(mut tokens: Lexer<'_>) -> bool {
    let (mut depth, mut commas) = (0u32, 0);
    while let Some(token) = tokens.next() {
        match token {
            Token::Symbol(b'(' | b'[') => depth += 1,
            Token::Symbol(b')' | b']') if depth == 0 => return false,
            Token::Symbol(b')' | b']') => depth -= 1,
            Token::Symbol(b',') if depth == 0 => commas += 1,
            Token::Symbol(b';') => return false,
            _ if commas == 2 => return is_word(Some(token), &[b"true"]) && tokens.next() == Some(Token::Symbol(b')')),
            _ => {}
        }
    }
    false
}

fn has_update(text: &[u8]) -> bool {
    text.windows(6).any(|w| w.eq_ignore_ascii_case(b"update"))
}

/// Whether TEMP or TEMPORARY stands where it makes what is created temporary: after CREATE, with OR REPLACE,
/// LOCAL or GLOBAL between, or after SELECT … INTO.
pub(super) fn creates_temporary(text: &[u8]) -> bool {
    let near = |at: usize| {
        let start = at.checked_sub(2)?;
        text.get(start..start + 4).map(|w| w.eq_ignore_ascii_case(b"temp"))
    };
    if !memchr::memchr2_iter(b'm', b'M', text).any(|at| near(at).unwrap_or(false)) {
        return false;
    }
    let backslashes = memchr::memchr(b'\\', text).is_some();
    temporary_in(Lexer::new(text)) || (backslashes && temporary_in(Lexer::with_backslashes(text)))
}

fn temporary_in(lexer: Lexer<'_>) -> bool {
    const MAKES: [&[u8]; 5] = [b"create", b"replace", b"local", b"global", b"into"];
    let (mut before, mut last) = (None, None);
    for token in lexer {
        let temporary = is_word(Some(token), &[b"temp", b"temporary"]) && is_word(last, &MAKES);
        let plain_insert = is_word(last, &[b"into"]) && is_word(before, &[b"insert", b"merge"]);
        if temporary && !plain_insert {
            return true;
        }
        (before, last) = (last, Some(token));
    }
    false
}

/// Functions that the fast-path protocol is there for, by their OIDs (`pg_proc.dat`): those of large objects,
/// whose descriptors don't outlive a transaction.
const LARGE_OBJECT_FUNCTIONS: [u32; 16] =
    [715, 764, 765, 767, 952, 953, 954, 955, 956, 957, 958, 964, 1004, 3170, 3171, 3172];

/// `currval` and `lastval`.
const SEQUENCE_FUNCTIONS: [u32; 2] = [1575, 2559];

/// What a FunctionCall of the function `oid` may leave behind.
#[must_use]
pub fn taint_of_function(oid: u32) -> Taints {
    if LARGE_OBJECT_FUNCTIONS.contains(&oid) {
        Taints::NONE
    } else if SEQUENCE_FUNCTIONS.contains(&oid) {
        Taint::Sequences.into()
    } else {
        Taints::ASKABLE
    }
}
