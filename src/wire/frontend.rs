//! Messages from clients to servers: tags, the bodies that pooling must read, and the messages that Carpool
//! itself sends to servers.

use super::frame::{self, Fields, FrameError};

/// Message types, <https://www.postgresql.org/docs/current/protocol-message-formats.html>.
#[expect(missing_docs, reason = "named as in the protocol")]
pub mod tag {
    pub const BIND: u8 = b'B';
    pub const CLOSE: u8 = b'C';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const DESCRIBE: u8 = b'D';
    pub const EXECUTE: u8 = b'E';
    pub const FLUSH: u8 = b'H';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const PARSE: u8 = b'P';
    pub const PASSWORD: u8 = b'p';
    pub const QUERY: u8 = b'Q';
    pub const SYNC: u8 = b'S';
    pub const TERMINATE: u8 = b'X';
}

/// What Describe and Close name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target<'a> {
    /// A prepared statement.
    Statement(&'a [u8]),
    /// A portal.
    Portal(&'a [u8]),
}

/// Splits a Parse body into the statement's name and the rest: query text with its zero, parameter types.
///
/// # Errors
/// [`FrameError::Body`] when the fields don't fill the body exactly.
pub fn parse(body: &[u8]) -> Result<(&[u8], &[u8]), FrameError> {
    let mut fields = Fields::new(tag::PARSE, body);
    let name = fields.cstr()?;
    let rest = fields.rest();
    fields.cstr()?;
    let count = usize::from(fields.u16()?);
    if fields.rest().len() == count * 4 { Ok((name, rest)) } else { Err(FrameError::Body(tag::PARSE)) }
}

/// The text of a simple query (a whole Query body).
///
/// # Errors
/// [`FrameError::Body`] without a terminating zero, or with bytes after it.
pub fn query(body: &[u8]) -> Result<&[u8], FrameError> {
    let mut fields = Fields::new(tag::QUERY, body);
    let text = fields.cstr()?;
    fields.end().map(|()| text)
}

/// Portal and statement name at the start of a Bind body, and how many bytes they took; `None` while
/// `prefix` (the part of the body that has arrived) doesn't hold both.
#[must_use]
pub fn bind_names(prefix: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let mut fields = Fields::new(tag::BIND, prefix);
    let portal = fields.cstr().ok()?;
    let statement = fields.cstr().ok()?;
    Some((portal, statement, prefix.len() - fields.rest().len()))
}

/// The portal that a whole Execute body names.
///
/// # Errors
/// [`FrameError::Body`] when the fields don't fill the body exactly.
pub fn portal(body: &[u8]) -> Result<&[u8], FrameError> {
    let mut fields = Fields::new(tag::EXECUTE, body);
    let portal = fields.cstr()?;
    fields.u32()?;
    fields.end().map(|()| portal)
}

/// The target of a whole Describe or Close body.
///
/// # Errors
/// [`FrameError::Body`] for another kind than 'S' and 'P', or a bad name.
pub fn target(message: u8, body: &[u8]) -> Result<Target<'_>, FrameError> {
    let mut fields = Fields::new(message, body);
    let kind = fields.u8()?;
    let name = fields.cstr()?;
    fields.end()?;
    match kind {
        b'S' => Ok(Target::Statement(name)),
        b'P' => Ok(Target::Portal(name)),
        _ => Err(FrameError::Body(message)),
    }
}

/// Appends a Query.
pub fn put_query(out: &mut Vec<u8>, text: &[u8]) {
    frame::message(out, tag::QUERY, |b| frame::put_cstr(b, text));
}

/// Appends a Parse; `rest` is what [`parse`] gave: text with zero, parameter types.
pub fn put_parse(out: &mut Vec<u8>, name: &[u8], rest: &[u8]) {
    frame::message(out, tag::PARSE, |b| {
        frame::put_cstr(b, name);
        b.extend_from_slice(rest);
    });
}

/// Appends a Describe (`tag::DESCRIBE`) or Close (`tag::CLOSE`) of a prepared statement.
pub fn put_statement_target(out: &mut Vec<u8>, message: u8, name: &[u8]) {
    frame::message(out, message, |b| {
        b.push(b'S');
        frame::put_cstr(b, name);
    });
}

/// Appends a message without a body: Sync, Flush, Terminate, CopyDone.
pub fn put_empty(out: &mut Vec<u8>, message: u8) {
    frame::header(out, message, 0);
}

/// Appends Bind and Execute of a portal that runs a statement, without parameters and with text results.
fn put_bind_and_execute(out: &mut Vec<u8>, portal: &[u8], statement: &[u8]) {
    frame::message(out, tag::BIND, |b| {
        frame::put_cstr(b, portal);
        frame::put_cstr(b, statement);
        b.extend_from_slice(&[0; 6]);
    });
    frame::message(out, tag::EXECUTE, |b| {
        frame::put_cstr(b, portal);
        b.extend_from_slice(&[0; 4]);
    });
}

/// Appends Bind, Execute and Close of a portal that runs the statement of the same name, without parameters.
pub fn put_execution(out: &mut Vec<u8>, name: &[u8]) {
    put_bind_and_execute(out, name, name);
    frame::message(out, tag::CLOSE, |b| {
        b.push(b'P');
        frame::put_cstr(b, name);
    });
}

/// The portal of [`put_run`].
const RUN: &[u8] = b"carpool";

/// Appends Bind, Execute and Sync that run the statement of this name, without parameters and with text results.
pub fn put_run(out: &mut Vec<u8>, name: &[u8]) {
    put_bind_and_execute(out, RUN, name);
    put_empty(out, tag::SYNC);
}

/// Appends Parse, Bind, Execute and Sync of one unnamed statement with text parameters and text results.
pub fn put_question(out: &mut Vec<u8>, sql: &str, parameters: &[&str]) {
    // No types: the server infers them.
    put_parse(out, b"", &[sql.as_bytes(), b"\0\0\0"].concat());
    frame::message(out, tag::BIND, |b| {
        b.extend_from_slice(&[0; 4]);
        b.extend_from_slice(&u16::try_from(parameters.len()).unwrap_or(u16::MAX).to_be_bytes());
        for parameter in parameters {
            b.extend_from_slice(&u32::try_from(parameter.len()).unwrap_or(u32::MAX).to_be_bytes());
            b.extend_from_slice(parameter.as_bytes());
        }
        b.extend_from_slice(&[0; 2]);
    });
    frame::message(out, tag::EXECUTE, |b| b.extend_from_slice(&[0; 5]));
    put_empty(out, tag::SYNC);
}

/// Appends a password message (also SASL responses); `body` as the auth layer made it.
pub fn put_password(out: &mut Vec<u8>, body: &[u8]) {
    frame::message(out, tag::PASSWORD, |b| b.extend_from_slice(body));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parse_reads_what_put_parse_wrote() {
        let rest = b"select $1\0\0\x01\0\0\0\x17";
        let mut out = Vec::new();
        put_parse(&mut out, b"s1", rest);
        let (_, body) = frame::whole(&out).unwrap().unwrap();
        assert_eq!(parse(body), Ok((&b"s1"[..], &rest[..])));
        for end in 0..body.len() {
            assert!(parse(&body[..end]).is_err(), "at {end}");
        }
        let longer = [body, b"x"].concat();
        assert!(parse(&longer).is_err());
    }

    #[test]
    fn bind_names_wait_for_both() {
        let body = b"portal\0stmt\0\0\0\0\0\0\0";
        for end in 0..12 {
            assert_eq!(bind_names(&body[..end]), None, "at {end}");
        }
        assert_eq!(bind_names(body), Some((&b"portal"[..], &b"stmt"[..], 12)));
    }

    #[test]
    fn targets() {
        assert_eq!(target(b'D', b"Sx\0"), Ok(Target::Statement(b"x")));
        assert_eq!(target(b'C', b"P\0"), Ok(Target::Portal(b"")));
        for bad in [&b"Qx\0"[..], b"Sx", b"Sx\0y", b""] {
            assert!(target(b'D', bad).is_err(), "{bad:?}");
        }
    }

    /// A body and whether a reader takes it.
    type Case<'a> = (&'a [u8], fn(&[u8]) -> bool);

    /// Each reader, at every byte: all of the body or nothing.
    #[test]
    fn truncation_and_surplus() {
        let whole: [Case<'_>; 5] = [
            (b"s\0select $1\0\0\x01\0\0\0\x17", |b| parse(b).is_ok()),
            (b"select 1\0", |b| query(b).is_ok()),
            (b"portal\0\0\0\0\0", |b| portal(b).is_ok()),
            (b"Sname\0", |b| target(tag::DESCRIBE, b).is_ok()),
            (b"P\0", |b| target(tag::CLOSE, b).is_ok()),
        ];
        for (body, reads) in whole {
            assert!(reads(body));
            for end in 0..body.len() {
                assert!(!reads(&body[..end]), "{body:?} at {end}");
            }
            assert!(!reads(&[body, b"\0"].concat()), "{body:?} and more");
        }
    }

    /// As PostgreSQL counts them: 65535 parameters, no more and no fewer than said.
    #[test]
    fn parameter_types() {
        let body = |count: u16, types: usize| [&b"\0\0"[..], &count.to_be_bytes(), &vec![0; types * 4]].concat();
        assert!(parse(&body(u16::MAX, usize::from(u16::MAX))).is_ok());
        assert!(parse(&body(2, 1)).is_err() && parse(&body(1, 2)).is_err());
    }

    proptest! {
        #[test]
        fn what_is_put_reads_back(name in "[^\0]{0,20}", text in "[^\0]{0,40}", kind: bool) {
            let mut out = Vec::new();
            put_query(&mut out, text.as_bytes());
            put_statement_target(&mut out, if kind { tag::DESCRIBE } else { tag::CLOSE }, name.as_bytes());
            let (header, body) = frame::whole(&out).unwrap().unwrap();
            prop_assert_eq!((header.tag, query(body)), (tag::QUERY, Ok(text.as_bytes())));
            let (header, body) = frame::whole(&out[header.total_len()..]).unwrap().unwrap();
            prop_assert_eq!(target(header.tag, body), Ok(Target::Statement(name.as_bytes())));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = (parse(&bytes), query(&bytes), bind_names(&bytes), target(b'D', &bytes), portal(&bytes));
        }
    }
}
