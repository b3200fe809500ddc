//! Rows and notices as messages.

use std::fmt::Write;

use crate::error::{ClientError, SqlState};
use crate::stats::table::{Column, Kind, Row, Value};
use crate::wire::backend::tag;
use crate::wire::frame;

/// How values are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    Text,
    Binary,
}

impl Format {
    const fn code(self) -> u16 {
        match self {
            Self::Text => 0,
            Self::Binary => 1,
        }
    }
}

/// The formats of a result's columns, as Bind gives them: none, one for all, or one each.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Formats(Box<[Format]>);

impl Formats {
    /// From Bind's codes, for a result of `columns` columns.
    pub(super) fn new(codes: &[u16], columns: usize) -> Result<Self, ClientError> {
        if codes.len() > 1 && codes.len() != columns {
            let text = format!("bind message has {} result formats but query has {columns} columns", codes.len());
            return Err(ClientError::error(SqlState::PROTOCOL_VIOLATION, text));
        }
        let format = |&code: &u16| match code {
            0 => Ok(Format::Text),
            1 => Ok(Format::Binary),
            other => {
                let text = format!("unsupported format code: {other}");
                Err(ClientError::error(SqlState::INVALID_PARAMETER_VALUE, text))
            }
        };
        codes.iter().map(format).collect::<Result<_, _>>().map(Self)
    }

    fn of(&self, column: usize) -> Format {
        match &*self.0 {
            [] => Format::Text,
            [one] => *one,
            each => each.get(column).copied().unwrap_or(Format::Text),
        }
    }
}

/// Type number and size.
const fn pg_type(kind: Kind) -> (u32, i16) {
    match kind {
        Kind::Text => (25, -1),
        Kind::Int4 => (23, 4),
        Kind::Int8 => (20, 8),
        Kind::Numeric => (1700, -1),
        Kind::Bytea => (17, -1),
    }
}

fn put_count(out: &mut Vec<u8>, n: usize) {
    out.extend_from_slice(&u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes());
}

/// Appends a RowDescription.
pub(super) fn put_row_description(out: &mut Vec<u8>, columns: &[Column], formats: &Formats) {
    frame::message(out, tag::ROW_DESCRIPTION, |b| {
        put_count(b, columns.len());
        for (i, column) in columns.iter().enumerate() {
            frame::put_cstr(b, column.name.as_bytes());
            // No table, no column of one.
            b.extend_from_slice(&[0; 6]);
            let (number, size) = pg_type(column.kind);
            b.extend_from_slice(&number.to_be_bytes());
            b.extend_from_slice(&size.to_be_bytes());
            b.extend_from_slice(&(-1i32).to_be_bytes());
            b.extend_from_slice(&formats.of(i).code().to_be_bytes());
        }
    });
}

/// Appends a DataRow.
pub(super) fn put_data_row(out: &mut Vec<u8>, columns: &[Column], row: &Row, formats: &Formats) {
    let mut text = String::new();
    frame::message(out, tag::DATA_ROW, |b| {
        put_count(b, columns.len());
        for (i, (column, value)) in columns.iter().zip(row).enumerate() {
            match value {
                Value::Null => b.extend_from_slice(&(-1i32).to_be_bytes()),
                Value::Text(text) => put_value(b, text.as_bytes()),
                Value::Int(n) if formats.of(i) == Format::Binary => put_binary(b, column.kind, *n),
                Value::Int(n) => {
                    text.clear();
                    // Writing to a String can't fail.
                    let _ = write!(text, "{}", clamp(column.kind, *n));
                    put_value(b, text.as_bytes());
                }
            }
        }
    });
}

fn put_value(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// The number, or the largest of the type.
fn clamp(kind: Kind, n: u64) -> u64 {
    match kind {
        Kind::Int4 => n.min(i32::MAX as u64),
        Kind::Int8 => n.min(i64::MAX as u64),
        Kind::Text | Kind::Numeric | Kind::Bytea => n,
    }
}

fn put_binary(out: &mut Vec<u8>, kind: Kind, n: u64) {
    let n = clamp(kind, n);
    match kind {
        Kind::Int4 => put_value(out, &u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes()),
        Kind::Int8 => put_value(out, &n.to_be_bytes()),
        Kind::Numeric => put_value(out, &numeric(n)),
        Kind::Text | Kind::Bytea => put_value(out, n.to_string().as_bytes()),
    }
}

/// A `numeric` in binary: number of digits, weight of the first, sign, scale, then digits of base 10000 without
/// zeros at the end.
fn numeric(mut n: u64) -> Vec<u8> {
    let mut digits = Vec::new();
    while n > 0 {
        digits.push(u16::try_from(n % 10_000).unwrap_or(0));
        n /= 10_000;
    }
    let weight = digits.len().saturating_sub(1);
    let zeros = digits.iter().take_while(|&&d| d == 0).count();
    let digits = &digits[zeros..];
    let mut out = Vec::with_capacity(8 + 2 * digits.len());
    put_count(&mut out, digits.len());
    put_count(&mut out, weight);
    out.extend_from_slice(&[0; 4]);
    for digit in digits.iter().rev() {
        out.extend_from_slice(&digit.to_be_bytes());
    }
    out
}

/// Appends the ParameterDescription of a statement without parameters.
pub(super) fn put_no_parameters(out: &mut Vec<u8>) {
    frame::message(out, tag::PARAMETER_DESCRIPTION, |b| put_count(b, 0));
}

/// Appends a NoticeResponse of severity NOTICE.
pub(super) fn put_notice(out: &mut Vec<u8>, message: &str, detail: Option<&str>) {
    frame::message(out, tag::NOTICE_RESPONSE, |b| {
        let fields = [(b'S', "NOTICE"), (b'V', "NOTICE"), (b'C', "00000"), (b'M', message)];
        for (code, value) in fields.into_iter().chain(detail.map(|d| (b'D', d))) {
            b.push(code);
            frame::put_cstr(b, value.as_bytes());
        }
        b.push(0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::table::row;

    #[test]
    fn numerics_are_as_postgresql_writes_them() {
        // Each as `numeric_send` gives it.
        for (n, want) in [
            (0, &[0u16, 0, 0, 0][..]),
            (7, &[1, 0, 0, 0, 7]),
            (10_000, &[1, 1, 0, 0, 1]),
            (120_000_034, &[3, 2, 0, 0, 1, 2000, 34]),
            (u64::MAX, &[5, 4, 0, 0, 1844, 6744, 737, 955, 1615]),
        ] {
            let want: Vec<u8> = want.iter().flat_map(|d| d.to_be_bytes()).collect();
            assert_eq!(numeric(n), want, "{n}");
        }
    }

    #[test]
    fn values_in_both_formats() {
        let columns = [Column::text("t"), Column::int("i"), Column::long("q"), Column::text("n")];
        let row = row!["x", u64::MAX, 5u32, Value::Null];
        let body = |formats: &Formats| {
            let mut out = Vec::new();
            put_data_row(&mut out, &columns, &row, formats);
            frame::whole(&out).unwrap().unwrap().1.to_vec()
        };
        let text = body(&Formats::default());
        assert_eq!(text, b"\0\x04\0\0\0\x01x\0\0\0\x0a2147483647\0\0\0\x015\xff\xff\xff\xff");
        let binary = body(&Formats::new(&[1], 4).unwrap());
        assert_eq!(binary, b"\0\x04\0\0\0\x01x\0\0\0\x04\x7f\xff\xff\xff\0\0\0\x08\0\0\0\0\0\0\0\x05\xff\xff\xff\xff");
        assert_eq!(body(&Formats::new(&[0, 1, 0, 0], 4).unwrap())[..11], binary[..11]);
    }

    #[test]
    fn formats_must_fit() {
        assert!(Formats::new(&[1, 1], 3).is_err());
        assert!(Formats::new(&[2], 3).is_err());
        assert!(Formats::new(&[], 3).is_ok());
    }
}
