//! The kinds of settings: what a file may say, and how a value is written.

use std::time::Duration;

use super::document::Raw;
use super::field::Value;
use super::{AuthType, Format, PoolMode, Target, UNLIMITED, hosts, secret, sharing, time};

/// The largest whole number that is taken, PgBouncer's `int`.
const LARGEST: u32 = i32::MAX as u32;
/// The size of a pool that sizes itself.
pub(super) const AUTO: &str = "auto";
/// What PgBouncer calls a check that is a query without text.
const EMPTY_QUERY: &str = "<empty>";

/// What a setting's value may be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Kind {
    /// A whole number from the first to the second.
    Number(u32, u32),
    /// A pool's size: a number from 1, or [`UNLIMITED`].
    Size,
    /// A [`Kind::Size`], or in TOML [`AUTO`].
    AutoSize,
    /// On or off.
    Flag,
    /// A length of time; `0` is "off".
    Time,
    /// A length of time that can't be off, at least this long.
    Bound(Duration),
    /// Any text.
    Text,
    /// Any text; PgBouncer's `<empty>` is none.
    CheckQuery,
    /// Several texts, separated by commas.
    List,
    /// A file or directory.
    Path,
    /// The permission bits of a file, in octal.
    FileMode,
    /// A host name, an address, or the directory of a unix socket.
    Host,
    /// One or several [`Kind::Host`]s.
    Hosts,
    /// One port, or several.
    Ports,
    /// A [`PoolMode`].
    PoolMode,
    /// An [`AuthType`].
    AuthType,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A secret, given here or elsewhere.
    Secret,
    /// Names with a weight each.
    Weights,
    /// A [`Target`].
    Target,
}

impl Kind {
    /// A whole number without a bound of its own.
    pub(super) const ANY_NUMBER: Self = Self::Number(0, LARGEST);

    /// Reads a value.
    ///
    /// # Errors
    /// What is wrong with it. A number, a time or a word is shown, other text never: it may be a secret.
    pub(super) fn parse(self, raw: &Raw, format: Format) -> Result<Value, String> {
        match self {
            Self::Number(least, most) => in_range(number(raw, format)?, least, most).map(Value::Number),
            Self::AutoSize if format == Format::Toml && *raw == Raw::Text(AUTO.into()) => Ok(Value::Text(AUTO.into())),
            Self::Size | Self::AutoSize => size(raw, format),
            Self::Flag => flag(raw, format).map(Value::Flag),
            Self::Time => duration(raw).map(Value::Time),
            Self::Bound(least) => {
                let given = duration(raw)?;
                let allowed = (least..=time::LONGEST).contains(&given);
                allowed.then_some(Value::Time(given)).ok_or_else(|| format!("must be at least {least:?}"))
            }
            Self::Text | Self::Path => text(raw).map(Value::Text),
            Self::CheckQuery => text(raw).map(|t| Value::Text(if t == EMPTY_QUERY { String::new() } else { t })),
            Self::List => list(raw).map(Value::List),
            Self::FileMode => file_mode(raw, format).map(Value::Number),
            Self::Host => host(raw).map(Value::Text),
            Self::Hosts => hosts::parse(raw, host).map(Value::Text),
            Self::Ports => hosts::parse_ports(raw, format, |raw, format| in_range(number(raw, format)?, 1, 65535)),
            Self::PoolMode => word(raw, &PoolMode::ALL.map(PoolMode::as_str)),
            Self::AuthType => word(raw, &AuthType::ALL.map(AuthType::as_str)),
            Self::Word(words) => word(raw, words),
            Self::Secret => secret::read(raw).map(Value::Secret),
            Self::Weights => sharing::parse(raw).map(Value::Weights),
            Self::Target => text(raw)?.parse().map(|target: Target| Value::Text(target.to_string())),
        }
    }

    /// Whether PgBouncer reads it as a number.
    pub(super) const fn is_number(self) -> bool {
        matches!(self, Self::Number(..) | Self::Size | Self::AutoSize | Self::Time | Self::Bound(_) | Self::Ports)
    }

    /// A value as an ini file has it.
    pub(super) fn to_text(self, value: &Value) -> String {
        match (self, value) {
            (Self::FileMode, Value::Number(mode)) => format!("{mode:04o}"),
            (Self::Size | Self::AutoSize, Value::Number(UNLIMITED)) => "0".into(),
            (Self::CheckQuery, Value::Text(text)) if text.is_empty() => EMPTY_QUERY.into(),
            (_, Value::Number(number)) => number.to_string(),
            (_, Value::Flag(flag)) => u8::from(*flag).to_string(),
            (_, Value::Time(time)) => time::to_seconds(*time),
            (_, Value::Text(text)) => text.clone(),
            (_, Value::List(items)) => items.join(","),
            (_, Value::Weights(weights)) => sharing::to_text(weights),
            (_, Value::Secret(_) | Value::Unset) => String::new(),
        }
    }

    /// A value as TOML.
    pub(super) fn to_toml(self, value: &Value) -> toml::Value {
        match value {
            Value::Number(UNLIMITED) if matches!(self, Self::Size | Self::AutoSize) => "unlimited".into(),
            Value::Number(number) if self != Self::FileMode => i64::from(*number).into(),
            Value::Flag(flag) => (*flag).into(),
            Value::Time(time) => time::to_toml(*time),
            Value::List(items) => items.iter().map(String::as_str).collect::<Vec<_>>().into(),
            Value::Secret(secret) => secret.expose().into(),
            Value::Weights(weights) => {
                toml::Value::Table(weights.iter().map(|(name, n)| (name.clone(), i64::from(*n).into())).collect())
            }
            value => self.to_text(value).into(),
        }
    }
}

fn expected<T>(what: &str, raw: &Raw) -> Result<T, String> {
    Err(format!("expected {what}, found {}", raw.describe()))
}

fn number(raw: &Raw, format: Format) -> Result<i64, String> {
    match (raw, format) {
        (Raw::Integer { value, .. }, _) => Ok(*value),
        (Raw::Text(text), Format::Ini) => c_integer(text).ok_or_else(|| "expected a whole number".into()),
        _ => expected("a whole number", raw),
    }
}

/// A number as C's `strtol` reads it with base 0, which is PgBouncer's way: `0x` is hexadecimal, `0` octal.
pub(super) fn c_integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.trim() {
        text if text.starts_with('-') => (true, &text[1..]),
        text => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let hexadecimal = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (digits, radix) = match hexadecimal {
        Some(digits) => (digits, 16),
        None if digits.len() > 1 && digits.starts_with('0') => (&digits[1..], 8),
        None => (digits, 10),
    };
    // `from_str_radix` would take a second sign.
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    let value = i64::from_str_radix(digits, radix).ok()?;
    Some(if negative { -value } else { value })
}

fn in_range(value: i64, least: u32, most: u32) -> Result<u32, String> {
    let allowed = u32::try_from(value).ok().filter(|n| (least..=most).contains(n));
    allowed.ok_or_else(|| format!("{value} is out of range ({least} to {most})"))
}

fn size(raw: &Raw, format: Format) -> Result<Value, String> {
    let unlimited = match (raw, format) {
        (Raw::Text(text), Format::Toml) => text == "unlimited",
        (Raw::Text(text), Format::Ini) => c_integer(text) == Some(0),
        _ => false,
    };
    if unlimited {
        return Ok(Value::Number(UNLIMITED));
    }
    match raw {
        Raw::Text(_) if format == Format::Toml => Err("expected a whole number or \"unlimited\"".into()),
        _ => in_range(number(raw, format)?, 1, LARGEST).map(Value::Number),
    }
}

fn flag(raw: &Raw, format: Format) -> Result<bool, String> {
    match (raw, format) {
        (Raw::Flag(flag), _) => Ok(*flag),
        (Raw::Integer { value: value @ (0 | 1), .. }, _) => Ok(*value == 1),
        // PgBouncer reads a number; the words do no harm.
        (Raw::Text(text), Format::Ini) => match text.to_ascii_lowercase().as_str() {
            "on" | "yes" | "true" => Ok(true),
            "off" | "no" | "false" => Ok(false),
            text => c_integer(text).map(|n| n != 0).ok_or_else(|| "expected 1 or 0".into()),
        },
        (Raw::Integer { .. }, _) => Err("expected true or false".into()),
        _ => expected("true or false", raw),
    }
}

fn duration(raw: &Raw) -> Result<Duration, String> {
    match raw {
        Raw::Text(text) => time::parse(text),
        #[expect(clippy::cast_precision_loss, reason = "what isn't exact is out of range")]
        Raw::Integer { value, .. } => time::of_seconds(*value as f64),
        Raw::Float(seconds) => time::of_seconds(*seconds),
        _ => expected("a time (seconds, or text such as \"10min\")", raw),
    }
}

/// Text that can go over the wire, where a NUL ends it.
fn text(raw: &Raw) -> Result<String, String> {
    match raw {
        Raw::Text(text) if text.contains('\0') => Err("must not contain a NUL character".into()),
        Raw::Text(text) => Ok(text.clone()),
        _ => expected("a text in quotes", raw),
    }
}

fn list(raw: &Raw) -> Result<Vec<String>, String> {
    let items: Vec<String> = match raw {
        Raw::Text(_) => {
            let text = text(raw)?;
            return Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect());
        }
        Raw::List(items) => items.iter().map(text).collect::<Result<_, _>>()?,
        _ => return expected("a list of texts", raw),
    };
    match items.iter().any(String::is_empty) {
        true => Err("an item of the list is empty".into()),
        false => Ok(items),
    }
}

fn file_mode(raw: &Raw, format: Format) -> Result<u32, String> {
    let mode = match (raw, format) {
        // 777 meant as octal would set quite other bits.
        (Raw::Integer { value, decimal: true }, Format::Toml) if *value != 0 => {
            return Err("file modes are octal: write \"0777\" or 0o777".into());
        }
        (Raw::Integer { value, .. }, _) => Some(*value),
        (Raw::Text(text), Format::Ini) => c_integer(text),
        (Raw::Text(text), Format::Toml) => {
            let digits = text.strip_prefix("0o").unwrap_or(text);
            digits.bytes().all(|b| b.is_ascii_digit()).then(|| i64::from_str_radix(digits, 8).ok()).flatten()
        }
        _ => return expected("a file mode such as \"0777\"", raw),
    };
    let mode = mode.and_then(|m| u32::try_from(m).ok()).filter(|m| *m <= 0o777);
    mode.ok_or_else(|| "expected a file mode in octal, 0000 to 0777".into())
}

fn host(raw: &Raw) -> Result<String, String> {
    let host = text(raw)?;
    match host.as_str() {
        "" => Err("is empty".into()),
        name if name.starts_with('@') => Err("abstract unix sockets are not supported yet".into()),
        name if name.starts_with('/') => Ok(host),
        name if name.contains(',') => Err("only databases may have several hosts".into()),
        name if name.contains(char::is_whitespace) => Err("a host name has no spaces".into()),
        _ => Ok(host),
    }
}

fn word(raw: &Raw, words: &[&str]) -> Result<Value, String> {
    let given = text(raw)?;
    let word = words.iter().find(|word| word.eq_ignore_ascii_case(&given));
    let word = word.ok_or_else(|| format!("{given:?} is not one of {}", words.join(", ")))?;
    Ok(Value::Text((*word).to_owned()))
}
