//! Process numbers that clients got at login, in calls of `pg_terminate_backend()` and `pg_cancel_backend()`.
//!
//! Such a number is Carpool's own ([`FIRST`]); no PostgreSQL process has it. Where one stands in such a call, as a
//! constant in the text or as a parameter, the number of the process takes its place that has the client's session at
//! that moment. [`arguments`] finds the places in a text, which errs on the side of finding none; [`Numbers`] has what
//! the numbers of one request mean. Who is meant, and whether there is a process, is found outside.

use std::ops::Range;

use super::sql::{Lexer, Token};
use crate::wire::frame::{Fields, FrameError};
use crate::wire::frontend::tag;

/// The first number given to clients: Linux has no process of this number or a higher one (`PID_MAX_LIMIT`).
pub const FIRST: u32 = 1 << 22;
/// The last: it is positive as a signed number, as clients show it.
pub const LAST: u32 = i32::MAX as u32;

/// How many calls of one text are looked at.
const MOST: usize = 16;
/// Types of parameters whose binary values are integers: `int4`, `int8`; 0: none was given, and PostgreSQL takes the
/// function's.
const INTEGERS: [u32; 3] = [0, 23, 20];

/// The argument of a call that says which process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Argument {
    /// `pg_terminate_backend`, which ends the session.
    pub ends: bool,
    /// What stands there.
    pub value: Value,
}

/// What stands as an [`Argument`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// A client's number, whose digits stand here.
    Constant(u32, Range<usize>),
    /// The parameter of this number, from 0 on, which stands nowhere else.
    Parameter(usize),
}

impl Argument {
    /// The number in the text.
    #[must_use]
    pub const fn constant(&self) -> Option<u32> {
        match self.value {
            Value::Constant(number, _) => Some(number),
            Value::Parameter(_) => None,
        }
    }
}

/// Whether a number is a client's.
const fn is_a_clients(number: u32) -> bool {
    number >= FIRST && number <= LAST
}

/// Finds the calls in a text. One that is stored rather than run (in a view, a function, a prepared statement of SQL)
/// is none, nor is any in a text with backslashes, which may read in two ways.
#[must_use]
pub fn arguments(text: &[u8]) -> Vec<Argument> {
    const RUN: [&str; 3] = ["select", "with", "values"];
    let mut found = Vec::new();
    if memchr::memchr(b'\\', text).is_some() {
        return found;
    }
    let mut tokens = Lexer::new(text);
    let (mut runs, mut begins) = (false, true);
    let mut last = [None; 2];
    while let Some(token) = tokens.next() {
        if std::mem::replace(&mut begins, token == Token::Symbol(b';')) {
            runs = RUN.iter().any(|word| is_named(token, word));
        }
        if let (true, Some(ends)) = (runs && is_builtin(last) && found.len() < MOST, signals(token)) {
            found.extend(argument(tokens.clone(), text).map(|value| Argument { ends, value }));
        }
        last = [Some(token), last[0]];
    }
    found.retain(|argument| match argument.value {
        Value::Constant(number, _) => is_a_clients(number),
        Value::Parameter(_) => true,
    });
    let stands = parameters(text);
    let count = |found: &[Argument], index| found.iter().filter(|a| a.value == Value::Parameter(index)).count();
    let alone = |index: usize| count(&found, index) == stands.iter().filter(|at| **at == index).count();
    let elsewhere: Vec<_> = stands.iter().copied().filter(|index| !alone(*index)).collect();
    found.retain(|argument| !elsewhere.iter().any(|index| argument.value == Value::Parameter(*index)));
    found
}

/// Whether what follows these tokens, the last first, is a name that may be one of PostgreSQL's own functions.
fn is_builtin(last: [Option<Token<'_>>; 2]) -> bool {
    match last {
        [Some(Token::Symbol(b'.')), schema] => schema.is_some_and(|schema| is_named(schema, "pg_catalog")),
        _ => true,
    }
}

/// Whether it is one of the two functions, and then whether it ends the process.
fn signals(token: Token<'_>) -> Option<bool> {
    let ends = is_named(token, "pg_terminate_backend");
    (ends || is_named(token, "pg_cancel_backend")).then_some(ends)
}

fn is_named(token: Token<'_>, name: &str) -> bool {
    match token {
        Token::Word(word) => word.eq_ignore_ascii_case(name.as_bytes()),
        Token::Quoted(quoted) => quoted.get(1..quoted.len() - 1) == Some(name.as_bytes()),
        _ => false,
    }
}

/// The first argument of a call, `tokens` being behind the function's name, if it is a constant or a parameter, with
/// casts among integers at most.
fn argument(mut tokens: Lexer<'_>, text: &[u8]) -> Option<Value> {
    if tokens.next()? != Token::Symbol(b'(') {
        return None;
    }
    let first = tokens.next()?;
    let behind = text.len() - tokens.rest().len();
    let (value, end) = match first {
        Token::Symbol(b'$') => {
            let (digits, number) = number(text, behind)?;
            (Value::Parameter(usize::try_from(number).ok()?.checked_sub(1)?), digits.end)
        }
        Token::Symbol(byte) if byte.is_ascii_digit() => {
            let (digits, number) = number(text, behind - 1)?;
            let end = digits.end;
            (Value::Constant(number, digits), end)
        }
        Token::Text(string @ [b'\'', ..]) => {
            let (digits, number) = number(text, behind - string.len() + 1)?;
            if digits.end != behind - 1 {
                return None;
            }
            (Value::Constant(number, digits), behind)
        }
        _ => return None,
    };
    ends_argument(Lexer::new(&text[end..])).then_some(value)
}

/// Whether nothing but casts among integers stands before the argument's end.
fn ends_argument(mut tokens: Lexer<'_>) -> bool {
    const TYPES: [&str; 5] = ["int", "int4", "integer", "int8", "bigint"];
    loop {
        match tokens.next() {
            Some(Token::Symbol(b',' | b')')) => return true,
            Some(Token::Symbol(b':')) => {}
            _ => return false,
        }
        let cast = tokens.next() == Some(Token::Symbol(b':'));
        let known = |token| matches!(token, Token::Word(_)) && TYPES.iter().any(|name| is_named(token, name));
        if !cast || !tokens.next().is_some_and(known) {
            return false;
        }
    }
}

/// The digits at a place, and the number that they are, unless they are the beginning of something else.
fn number(text: &[u8], start: usize) -> Option<(Range<usize>, u32)> {
    let len = text[start..].iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len() - start);
    let digits = start..start + len;
    let goes_on = text.get(digits.end).is_some_and(|&b| b.is_ascii_alphanumeric() || b"_.$".contains(&b) || b >= 0x80);
    let number = std::str::from_utf8(&text[digits.clone()]).ok()?.parse().ok()?;
    (!goes_on).then_some((digits, number))
}

/// The parameters that stand in a text, each as often as it does.
fn parameters(text: &[u8]) -> Vec<usize> {
    let mut tokens = Lexer::new(text);
    let mut found = Vec::new();
    while let Some(token) = tokens.next() {
        if token == Token::Symbol(b'$') {
            let digits = tokens.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
            let number = std::str::from_utf8(&tokens.rest()[..digits]).ok().and_then(|digits| digits.parse().ok());
            found.extend(number.and_then(|number: usize| number.checked_sub(1)));
        }
    }
    found
}

/// The process that a client's number stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// It is that of the server at hand: the client has named itself.
    pub own: bool,
}

/// The clients' numbers in the request at hand.
#[derive(Debug, Default)]
pub struct Numbers {
    known: Vec<(u32, Option<Process>)>,
    answered: bool,
}

impl Numbers {
    /// Numbers that aren't known yet.
    pub fn ask(numbers: impl IntoIterator<Item = u32>) -> Self {
        Self { known: numbers.into_iter().map(|number| (number, None)).collect(), answered: false }
    }

    /// Finds out what they mean; `None`: nobody has a process by this number.
    pub fn answer(&mut self, mut process: impl FnMut(u32) -> Option<Process>) {
        for (number, found) in &mut self.known {
            *found = process(*number);
        }
        self.answered = true;
    }

    /// Whether it is known of all of these what they mean.
    #[must_use]
    pub fn answers(&self, numbers: &[u32]) -> bool {
        self.answered && numbers.iter().all(|number| self.known.iter().any(|(known, _)| known == number))
    }

    fn process(&self, number: u32) -> Option<Process> {
        self.known.iter().find(|(known, _)| *known == number)?.1
    }

    /// Whether one of these calls ends the server at hand.
    #[must_use]
    pub fn ends_own(&self, calls: &[(bool, u32)]) -> bool {
        calls.iter().any(|(ends, number)| *ends && self.process(*number).is_some_and(|process| process.own))
    }

    /// The text with processes in the place of clients; `None`: it stays as it is. Where the digits are no more than they
    /// were, blanks make up for it, so that an error names the right place.
    #[must_use]
    pub fn in_text(&self, text: &[u8], arguments: &[Argument]) -> Option<Vec<u8>> {
        let (mut sent, mut copied) = (Vec::new(), 0);
        for argument in arguments {
            let Value::Constant(number, digits) = &argument.value else { continue };
            let Some(process) = self.process(*number) else { continue };
            sent.extend_from_slice(text.get(copied..digits.start)?);
            sent.extend_from_slice(format!("{:<width$}", process.pid, width = digits.len()).as_bytes());
            copied = digits.end;
        }
        sent.extend_from_slice(text.get(copied..)?);
        (copied > 0).then_some(sent)
    }

    /// As [`Numbers::in_text`], of a Bind body behind its names.
    #[must_use]
    pub fn in_parameters(&self, bind: &[u8], calls: &Calls<'_>) -> Option<Vec<u8>> {
        let (mut sent, mut copied) = (Vec::new(), 0);
        for Parameter { value, number, text } in calls.parameters(bind).ok()? {
            let Some(process) = self.process(number) else { continue };
            let pid = match (text, value.len()) {
                (true, _) => process.pid.to_string().into_bytes(),
                (false, 8) => u64::from(process.pid).to_be_bytes().to_vec(),
                (false, _) => process.pid.to_be_bytes().to_vec(),
            };
            sent.extend_from_slice(bind.get(copied..value.start.checked_sub(4)?)?);
            sent.extend_from_slice(&u32::try_from(pid.len()).ok()?.to_be_bytes());
            sent.extend_from_slice(&pid);
            copied = value.end;
        }
        sent.extend_from_slice(bind.get(copied..)?);
        (copied > 0).then_some(sent)
    }
}

/// The calls of a prepared statement.
#[derive(Clone, Copy, Debug)]
pub struct Calls<'a> {
    /// Its arguments.
    pub arguments: &'a [Argument],
    /// The types of its parameters, as Parse has them behind the text: a count and OIDs.
    pub types: &'a [u8],
}

/// A parameter that is a client's number.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Parameter {
    /// Where its value stands.
    value: Range<usize>,
    number: u32,
    /// It is written in decimal digits.
    text: bool,
}

impl Calls<'_> {
    /// All clients' numbers in the calls of an execution, by its Bind body behind the names, and whether they end the
    /// process.
    #[must_use]
    pub fn numbers(&self, bind: &[u8]) -> Vec<(bool, u32)> {
        let constants = self.arguments.iter().filter_map(|argument| Some((argument.ends, argument.constant()?)));
        let mut numbers: Vec<_> = constants.collect();
        for argument in self.arguments {
            let Value::Parameter(index) = argument.value else { continue };
            let alone = Calls { arguments: std::slice::from_ref(argument), ..*self };
            let parameters = alone.parameters(bind).unwrap_or_default();
            debug_assert!(parameters.len() <= 1, "{index}");
            numbers.extend(parameters.into_iter().map(|parameter| (argument.ends, parameter.number)));
        }
        numbers
    }

    /// The parameters of an execution that are clients' numbers and stand in the calls.
    ///
    /// # Errors
    /// Where the server will find fault with the message.
    fn parameters(&self, bind: &[u8]) -> Result<Vec<Parameter>, FrameError> {
        let mut fields = Fields::new(tag::BIND, bind);
        let formats = (0..fields.u16()?).map(|_| fields.u16()).collect::<Result<Vec<_>, _>>()?;
        let mut found = Vec::new();
        for index in 0..usize::from(fields.u16()?) {
            let Some(value) = fields.value()? else { continue };
            let text = match formats[..] {
                [] => true,
                [all] => all == 0,
                _ => formats.get(index) == Some(&0),
            };
            if !self.arguments.iter().any(|argument| argument.value == Value::Parameter(index)) {
                continue;
            }
            if let Some(number) = self.read(index, value, text).filter(|number| is_a_clients(*number)) {
                let end = bind.len() - fields.rest().len();
                found.push(Parameter { value: end - value.len()..end, number, text });
            }
        }
        Ok(found)
    }

    /// A parameter's value, if that is a number for sure.
    fn read(&self, index: usize, value: &[u8], text: bool) -> Option<u32> {
        if text {
            let digits = value.iter().all(u8::is_ascii_digit);
            return std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok();
        }
        let at = 2 + 4 * index;
        let oid = self.types.get(at..at + 4).and_then(|oid| oid.try_into().ok()).map_or(0, u32::from_be_bytes);
        match value.len() {
            _ if !INTEGERS.contains(&oid) => None,
            4 => value.try_into().ok().map(u32::from_be_bytes),
            8 => value.try_into().ok().map(u64::from_be_bytes)?.try_into().ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
