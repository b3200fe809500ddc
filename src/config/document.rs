//! What the readers of TOML and of ini make of a file: keys and values, not yet typed.

use std::collections::BTreeMap;
use std::path::Path;

/// A value as a file has it. No `Debug`: it may be a secret.
#[derive(Clone, PartialEq)]
pub(super) enum Raw {
    /// Text; in an ini file all values are.
    Text(String),
    /// A whole number.
    Integer {
        /// Its value; what doesn't fit is the nearest that does.
        value: i64,
        /// Whether it was written in decimal.
        decimal: bool,
    },
    /// Any other number.
    Float(f64),
    /// `true` or `false`.
    Flag(bool),
    /// Several values.
    List(Vec<Raw>),
    /// Keys with values.
    Table(BTreeMap<String, Raw>),
    /// A date or a time of day.
    Date,
}

impl Raw {
    /// What kind of value it is, for an error.
    pub(super) const fn describe(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer { .. } => "a number",
            Self::Float(_) => "a number with a fraction",
            Self::Flag(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Date => "a date",
        }
    }

    /// The value as an ini file has it; `None` for lists and tables.
    pub(super) fn as_text(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.clone()),
            Self::Integer { value, .. } => Some(value.to_string()),
            Self::Float(value) => Some(value.to_string()),
            Self::Flag(flag) => Some(u8::from(*flag).to_string()),
            Self::List(_) | Self::Table(_) | Self::Date => None,
        }
    }
}

/// The keys of a section, in the order of the file.
pub(super) type Section = Vec<(String, Raw)>;

impl From<toml::Value> for Raw {
    fn from(value: toml::Value) -> Self {
        match value {
            toml::Value::String(text) => Self::Text(text),
            toml::Value::Integer(value) => Self::Integer { value, decimal: true },
            toml::Value::Float(value) => Self::Float(value),
            toml::Value::Boolean(flag) => Self::Flag(flag),
            toml::Value::Datetime(_) => Self::Date,
            toml::Value::Array(items) => Self::List(items.into_iter().map(Self::from).collect()),
            toml::Value::Table(table) => Self::Table(table.into_iter().map(|(k, v)| (k, v.into())).collect()),
        }
    }
}

/// A file's sections.
#[derive(Clone, Default)]
pub(super) struct Document {
    /// `[pooler]`, which is `[pgbouncer]` in an ini file.
    pub(super) pooler: Section,
    /// `[databases]`, with `*`.
    pub(super) databases: BTreeMap<String, Section>,
    /// `[users]`.
    pub(super) users: BTreeMap<String, Section>,
    /// `[peers]`.
    pub(super) peers: BTreeMap<String, Section>,
}

/// Reads a file of text, without the mark that some editors put in front.
///
/// # Errors
/// Why it can't be read.
pub(super) fn read_text(path: &Path) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        format!("is not UTF-8 text (line {})", 1 + valid.iter().filter(|b| **b == b'\n').count())
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// What stands in quotes at the start of a text, and what comes after them. A quote in it is doubled.
pub(super) fn unquote(text: &str, quote: char) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text.strip_prefix(quote)?;
    loop {
        let (part, behind) = rest.split_once(quote)?;
        value.push_str(part);
        match behind.strip_prefix(quote) {
            Some(further) => {
                value.push(quote);
                rest = further;
            }
            None => return Some((value, behind)),
        }
    }
}
