//! Messages from servers to clients: tags, the bodies that pooling must read, and the messages that Carpool
//! itself sends to clients.

use super::frame::{self, Fields, FrameError};
use super::startup::CancelKey;
use crate::error::ClientError;

/// Message types, <https://www.postgresql.org/docs/current/protocol-message-formats.html>.
#[expect(missing_docs, reason = "named as in the protocol")]
pub mod tag {
    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY_DATA: u8 = b'K';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const COPY_BOTH_RESPONSE: u8 = b'W';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_IN_RESPONSE: u8 = b'G';
    pub const COPY_OUT_RESPONSE: u8 = b'H';
    pub const DATA_ROW: u8 = b'D';
    pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
    pub const ERROR_RESPONSE: u8 = b'E';
    pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE_RESPONSE: u8 = b'N';
    pub const NOTIFICATION_RESPONSE: u8 = b'A';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const READY_FOR_QUERY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// The transaction state that ReadyForQuery reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TransactionStatus {
    /// Not in a transaction block.
    #[default]
    Idle,
    /// In a transaction block.
    InBlock,
    /// In a failed transaction block.
    Failed,
}

impl TransactionStatus {
    /// The byte on the wire.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InBlock => b'T',
            Self::Failed => b'E',
        }
    }
}

/// Reads a ReadyForQuery body.
///
/// # Errors
/// [`FrameError::Body`] unless it is one of I, T, E.
pub const fn ready_for_query(body: &[u8]) -> Result<TransactionStatus, FrameError> {
    match body {
        b"I" => Ok(TransactionStatus::Idle),
        b"T" => Ok(TransactionStatus::InBlock),
        b"E" => Ok(TransactionStatus::Failed),
        _ => Err(FrameError::Body(tag::READY_FOR_QUERY)),
    }
}

/// Name and value of a ParameterStatus.
///
/// # Errors
/// [`FrameError::Body`] when they don't fill the body exactly.
pub fn parameter_status(body: &[u8]) -> Result<(&[u8], &[u8]), FrameError> {
    let mut fields = Fields::new(tag::PARAMETER_STATUS, body);
    let name = fields.cstr()?;
    let value = fields.cstr()?;
    fields.end().map(|()| (name, value))
}

/// The columns of a DataRow, as they come; `None` is NULL.
///
/// # Errors
/// [`FrameError::Body`] when they don't fill the body exactly.
pub fn data_row(body: &[u8]) -> Result<Vec<Option<Vec<u8>>>, FrameError> {
    let mut fields = Fields::new(tag::DATA_ROW, body);
    let count = fields.u16()?;
    let columns = (0..count).map(|_| fields.value().map(|value| value.map(<[u8]>::to_vec)));
    let columns = columns.collect::<Result<_, _>>()?;
    fields.end().map(|()| columns)
}

/// The key of a BackendKeyData: 4 bytes of secret in protocol 3.0, up to 256 in 3.2.
///
/// # Errors
/// [`FrameError::Body`] for other lengths.
pub fn backend_key_data(body: &[u8]) -> Result<CancelKey, FrameError> {
    let mut fields = Fields::new(tag::BACKEND_KEY_DATA, body);
    let pid = fields.u32()?;
    match fields.rest().len() {
        4..=256 => Ok(CancelKey { pid, secret: fields.rest().into() }),
        _ => Err(FrameError::Body(tag::BACKEND_KEY_DATA)),
    }
}

/// One field of an ErrorResponse or NoticeResponse, as far as `body` (which may be only the start of a long
/// one) goes; `None` when it isn't there.
#[must_use]
pub fn error_field(body: &[u8], field: u8) -> Option<&[u8]> {
    let mut fields = Fields::new(tag::ERROR_RESPONSE, body);
    loop {
        match fields.u8().ok()? {
            0 => return None,
            code => {
                let value = fields.cstr().ok()?;
                if code == field {
                    return Some(value);
                }
            }
        }
    }
}

/// Whether an ErrorResponse ends the connection (FATAL or PANIC). `V` isn't localized; `S` stands in for
/// servers before 9.6.
#[must_use]
pub fn is_fatal(body: &[u8]) -> bool {
    let severity = error_field(body, b'V').or_else(|| error_field(body, b'S'));
    matches!(severity, Some(b"FATAL" | b"PANIC"))
}

/// Appends an ErrorResponse.
pub fn put_error(out: &mut Vec<u8>, error: &ClientError) {
    put_report(out, tag::ERROR_RESPONSE, error.severity.as_str(), error);
}

/// Appends a NoticeResponse of severity WARNING.
pub fn put_warning(out: &mut Vec<u8>, error: &ClientError) {
    put_report(out, tag::NOTICE_RESPONSE, "WARNING", error);
}

/// Appends a NoticeResponse of severity NOTICE.
pub fn put_notice(out: &mut Vec<u8>, notice: &ClientError) {
    put_report(out, tag::NOTICE_RESPONSE, "NOTICE", notice);
}

fn put_report(out: &mut Vec<u8>, tag: u8, severity: &str, error: &ClientError) {
    frame::message(out, tag, |b| {
        let mut field = |code: u8, value: &str| {
            b.push(code);
            frame::put_cstr(b, value.as_bytes());
        };
        field(b'S', severity);
        field(b'V', severity);
        field(b'C', error.code.0);
        field(b'M', &error.message);
        if let Some(detail) = &error.detail {
            field(b'D', detail);
        }
        if let Some(hint) = &error.hint {
            field(b'H', hint);
        }
        b.push(0);
    });
}

/// Appends an ErrorResponse that is `body` (whole) but for its message.
pub fn put_error_with_message(out: &mut Vec<u8>, body: &[u8], message: &[u8]) {
    put_error_with(out, body, b"M", message);
}

/// Appends an ErrorResponse that is `body` (whole) but for its severity.
pub fn put_error_of_severity(out: &mut Vec<u8>, body: &[u8], severity: &[u8]) {
    put_error_with(out, body, b"SV", severity);
}

/// Appends an ErrorResponse that is `body` with another `value` of the fields with these `codes`.
fn put_error_with(out: &mut Vec<u8>, body: &[u8], codes: &[u8], value: &[u8]) {
    frame::message(out, tag::ERROR_RESPONSE, |b| {
        let mut fields = Fields::new(tag::ERROR_RESPONSE, body);
        while let (Ok(code @ 1..), Ok(was)) = (fields.u8(), fields.cstr()) {
            b.push(code);
            frame::put_cstr(b, if codes.contains(&code) { value } else { was });
        }
        b.push(0);
    });
}

/// Appends the ErrorResponse that PostgreSQL gives when a statement's rows aren't what they were. Drivers know
/// it by code and routine.
pub fn put_changed(out: &mut Vec<u8>) {
    const FIELDS: [(u8, &[u8]); 6] = [
        (b'S', b"ERROR"),
        (b'V', b"ERROR"),
        (b'C', b"0A000"),
        (b'M', b"cached plan must not change result type"),
        (b'F', b"plancache.c"),
        (b'R', b"RevalidateCachedQuery"),
    ];
    frame::message(out, tag::ERROR_RESPONSE, |b| {
        for (code, value) in FIELDS {
            b.push(code);
            frame::put_cstr(b, value);
        }
        b.push(0);
    });
}

/// Appends what a RowDescription says of the rows themselves: names, types and type modifiers, not the tables
/// that they come from.
///
/// # Errors
/// [`FrameError::Body`] when the fields don't fill the body exactly.
pub fn put_row_shape(out: &mut Vec<u8>, body: &[u8]) -> Result<(), FrameError> {
    let mut fields = Fields::new(tag::ROW_DESCRIPTION, body);
    for _ in 0..fields.u16()? {
        frame::put_cstr(out, fields.cstr()?);
        let (_table, _column) = (fields.u32()?, fields.u16()?);
        out.extend_from_slice(&fields.u32()?.to_be_bytes());
        out.extend_from_slice(&fields.u16()?.to_be_bytes());
        out.extend_from_slice(&fields.u32()?.to_be_bytes());
        let _format = fields.u16()?;
    }
    fields.end()
}

/// Appends a ReadyForQuery.
pub fn put_ready(out: &mut Vec<u8>, status: TransactionStatus) {
    frame::message(out, tag::READY_FOR_QUERY, |b| b.push(status.byte()));
}

/// Appends a message without a body: ParseComplete, CloseComplete, …
pub fn put_empty(out: &mut Vec<u8>, message: u8) {
    frame::header(out, message, 0);
}

/// Appends a ParameterStatus.
pub fn put_parameter_status(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    frame::message(out, tag::PARAMETER_STATUS, |b| {
        frame::put_cstr(b, name);
        frame::put_cstr(b, value);
    });
}

/// A NotificationResponse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notification<'a> {
    /// The sender's process number.
    pub pid: u32,
    /// Where it was sent.
    pub channel: &'a [u8],
    /// What was sent.
    pub payload: &'a [u8],
}

/// Reads a NotificationResponse body.
///
/// # Errors
/// [`FrameError::Body`] when it isn't one exactly.
pub fn notification(body: &[u8]) -> Result<Notification<'_>, FrameError> {
    let mut fields = Fields::new(tag::NOTIFICATION_RESPONSE, body);
    let (pid, channel, payload) = (fields.u32()?, fields.cstr()?, fields.cstr()?);
    fields.end().map(|()| Notification { pid, channel, payload })
}

/// Appends a NotificationResponse.
pub fn put_notification(out: &mut Vec<u8>, notification: &Notification<'_>) {
    frame::message(out, tag::NOTIFICATION_RESPONSE, |b| {
        b.extend_from_slice(&notification.pid.to_be_bytes());
        frame::put_cstr(b, notification.channel);
        frame::put_cstr(b, notification.payload);
    });
}

/// Appends a BackendKeyData.
pub fn put_backend_key(out: &mut Vec<u8>, key: &CancelKey) {
    frame::message(out, tag::BACKEND_KEY_DATA, |b| {
        b.extend_from_slice(&key.pid.to_be_bytes());
        b.extend_from_slice(&key.secret);
    });
}

/// Appends an Authentication message; `body` as the auth layer made it (code and data).
pub fn put_authentication(out: &mut Vec<u8>, body: &[u8]) {
    frame::message(out, tag::AUTHENTICATION, |b| b.extend_from_slice(body));
}

/// Appends a NegotiateProtocolVersion: the newest minor version served and the options not known.
pub fn put_negotiate<'a>(out: &mut Vec<u8>, protocol: u32, options: impl Iterator<Item = &'a str>) {
    frame::message(out, tag::NEGOTIATE_PROTOCOL_VERSION, |b| {
        b.extend_from_slice(&protocol.to_be_bytes());
        let options: Vec<_> = options.collect();
        b.extend_from_slice(&u32::try_from(options.len()).unwrap_or(0).to_be_bytes());
        for option in options {
            frame::put_cstr(b, option.as_bytes());
        }
    });
}

/// Appends a CommandComplete.
pub fn put_command_complete(out: &mut Vec<u8>, command: &str) {
    frame::message(out, tag::COMMAND_COMPLETE, |b| frame::put_cstr(b, command.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::SqlState;
    use proptest::prelude::*;

    #[test]
    fn error_fields_read_back() {
        let error = ClientError::fatal(SqlState::ADMIN_SHUTDOWN, "bye").detail("d").hint("h");
        let mut out = Vec::new();
        put_error(&mut out, &error);
        let (_, body) = frame::whole(&out).unwrap().unwrap();
        assert!(is_fatal(body));
        for (field, value) in [(b'C', "57P01"), (b'M', "bye"), (b'D', "d"), (b'H', "h"), (b'S', "FATAL")] {
            assert_eq!(error_field(body, field), Some(value.as_bytes()));
        }
        assert_eq!(error_field(body, b'R'), None);
    }

    #[test]
    fn an_error_without_code_or_message_is_just_that() {
        assert_eq!(error_field(b"SERROR\0\0", b'C'), None);
        assert_eq!(error_field(b"", b'C'), None);
        assert!(!is_fatal(b"\0"));
    }

    /// A body and whether a reader takes it.
    type Case<'a> = (&'a [u8], fn(&[u8]) -> bool);

    #[test]
    fn truncation_and_surplus() {
        let two_columns = [&b"\0\x02a\0\0\0\0\x01\0\x01\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0"[..], &[0; 19]].concat();
        let whole: [Case<'_>; 3] = [
            (b"T", |b| ready_for_query(b).is_ok()),
            (b"TimeZone\0UTC\0", |b| parameter_status(b).is_ok()),
            (&two_columns, |b| put_row_shape(&mut Vec::new(), b).is_ok()),
        ];
        for (body, reads) in whole {
            assert!(reads(body), "{body:?}");
            for end in 0..body.len() {
                assert!(!reads(&body[..end]), "{body:?} at {end}");
            }
            assert!(!reads(&[body, b"\0"].concat()), "{body:?} and more");
        }
        for bad in [&b"X"[..], b"", b"i", b"II"] {
            assert!(ready_for_query(bad).is_err());
        }
        // Four bytes of secret in protocol 3.0, up to 256 in 3.2.
        for (len, ok) in [(3, false), (4, true), (32, true), (256, true), (257, false)] {
            assert_eq!(backend_key_data(&vec![1; 4 + len]).is_ok(), ok, "{len}");
        }
    }

    /// Names and types count, not which table they are from, nor in what format they come.
    #[test]
    fn shapes_of_rows() {
        let shape = |name: &str, table: u8, oid: u8, format: u8| {
            let mut body = vec![0, 1];
            frame::put_cstr(&mut body, name.as_bytes());
            body.extend_from_slice(&[0, 0, 0, table, 0, table, 0, 0, 0, oid, 0, 4, 0, 0, 0, 0, 0, format]);
            let mut out = Vec::new();
            put_row_shape(&mut out, &body).unwrap();
            out
        };
        assert_eq!(shape("a", 1, 23, 0), shape("a", 2, 23, 1));
        assert_ne!(shape("a", 1, 23, 0), shape("b", 1, 23, 0));
        assert_ne!(shape("a", 1, 23, 0), shape("a", 1, 20, 0));
    }

    #[test]
    fn another_message_in_an_error() {
        let body = b"SERROR\0C26000\0Mold\0Hhint\0\0";
        let mut out = Vec::new();
        put_error_with_message(&mut out, body, b"new");
        let (_, got) = frame::whole(&out).unwrap().unwrap();
        assert_eq!(got, b"SERROR\0C26000\0Mnew\0Hhint\0\0");
        out.clear();
        put_changed(&mut out);
        let (_, got) = frame::whole(&out).unwrap().unwrap();
        assert_eq!(error_field(got, b'R'), Some(&b"RevalidateCachedQuery"[..]));
        assert!(!is_fatal(got));
    }

    #[test]
    fn what_is_fatal() {
        for (body, fatal) in [
            (&b"SFATAL\0VFATAL\0\0"[..], true),
            (b"SFATAL\0\0", true),
            (b"SPANIC\0VPANIC\0\0", true),
            (b"SFATALE\0VFATAL\0\0", true),
            (b"SFATAL\0VERROR\0\0", false),
            (b"SERROR\0VERROR\0\0", false),
        ] {
            assert_eq!(is_fatal(body), fatal, "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, field: u8) {
            let _ = (ready_for_query(&bytes), parameter_status(&bytes), backend_key_data(&bytes));
            let _ = (error_field(&bytes, field), is_fatal(&bytes), put_row_shape(&mut Vec::new(), &bytes));
            put_error_with_message(&mut Vec::new(), &bytes, b"x");
        }
    }
}
