//! Results of SHOW: columns with types, rows of values.

use std::borrow::Cow;

/// The type of a column, one of those that PgBouncer's console uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `text`.
    Text,
    /// `int4`; what is larger shows as the largest.
    Int4,
    /// `int8`.
    Int8,
    /// `numeric`.
    Numeric,
    /// `bytea`; always null.
    Bytea,
}

/// One column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
}

impl Column {
    /// A `text` column.
    #[must_use]
    pub const fn text(name: &'static str) -> Self {
        Self { name, kind: Kind::Text }
    }

    /// An `int4` column.
    #[must_use]
    pub const fn int(name: &'static str) -> Self {
        Self { name, kind: Kind::Int4 }
    }

    /// An `int8` column.
    #[must_use]
    pub const fn long(name: &'static str) -> Self {
        Self { name, kind: Kind::Int8 }
    }

    /// A `bytea` column.
    #[must_use]
    pub const fn bytea(name: &'static str) -> Self {
        Self { name, kind: Kind::Bytea }
    }

    /// A `numeric` column.
    #[must_use]
    pub const fn numeric(name: &'static str) -> Self {
        Self { name, kind: Kind::Numeric }
    }
}

/// One value. Nothing that Carpool shows is negative.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// Not known, or not set.
    Null,
    /// Of a text column.
    Text(Cow<'static, str>),
    /// Of any other.
    Int(u64),
}

/// One row, a value per column.
pub type Row = Vec<Value>;

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

macro_rules! value_of_int {
    ($($int:ty),*) => {$(
        impl From<$int> for Value {
            fn from(n: $int) -> Self {
                Self::Int(n.into())
            }
        }
    )*};
}

value_of_int!(u64, u32, u16, bool);

impl From<usize> for Value {
    fn from(n: usize) -> Self {
        Self::Int(n as u64)
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A row of values that convert.
macro_rules! row {
    ($($value:expr),* $(,)?) => { vec![$($crate::stats::table::Value::from($value)),*] };
}
pub(crate) use row;
