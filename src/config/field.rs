//! Between a checked [`Value`] and the typed field that holds it.

use std::path::PathBuf;
use std::time::Duration;

use super::{
    AuthType, Host, HttpAnonymous, LoadBalance, PoolMode, ReadOnlyRoute, Secret, SessionAttrs, ShareBy, Target, Weights,
};
use crate::names::{DatabaseName, UserName};
use crate::tls::{BindingMode, SslMode, SslNegotiation};

/// A setting's value, checked, without the field's own type.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Value {
    /// A whole number.
    Number(u32),
    /// On or off.
    Flag(bool),
    /// A length of time.
    Time(Duration),
    /// Text, a word, a path, a host.
    Text(String),
    /// Several texts.
    List(Vec<String>),
    /// A secret.
    Secret(Secret),
    /// Names with a weight each.
    Weights(Weights),
    /// Not set.
    Unset,
}

/// A type that fields of the configuration have.
pub(super) trait Field: Sized {
    /// The field's value.
    fn to_value(&self) -> Value;
    /// The field with that value; `None` when the value is of another kind.
    fn from_value(value: Value) -> Option<Self>;
}

impl<T: Field> Field for Option<T> {
    fn to_value(&self) -> Value {
        self.as_ref().map_or(Value::Unset, Field::to_value)
    }

    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Unset => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}

/// A type that one variant of [`Value`] holds.
macro_rules! field {
    ($type:ty, $variant:ident, $to:expr, $from:expr) => {
        impl Field for $type {
            fn to_value(&self) -> Value {
                let to: fn(&Self) -> _ = $to;
                Value::$variant(to(self))
            }

            fn from_value(value: Value) -> Option<Self> {
                let Value::$variant(value) = value else { return None };
                let from: fn(_) -> Option<Self> = $from;
                from(value)
            }
        }
    };
}

field!(u32, Number, |n| *n, Some);
field!(u16, Number, |n| (*n).into(), |n: u32| n.try_into().ok());
field!(usize, Number, |n| u32::try_from(*n).unwrap_or(u32::MAX), |n: u32| n.try_into().ok());
field!(bool, Flag, |b| *b, Some);
field!(Duration, Time, |t| *t, Some);
field!(String, Text, Clone::clone, Some);
field!(PathBuf, Text, |p| p.to_string_lossy().into_owned(), |t: String| Some(t.into()));
field!(UserName, Text, |n| n.as_str().to_owned(), |t: String| Some(t.into()));
field!(DatabaseName, Text, |n| n.as_str().to_owned(), |t: String| Some(t.into()));
field!(Vec<String>, List, Clone::clone, Some);
field!(Vec<UserName>, List, |names| names.iter().map(|n| n.as_str().to_owned()).collect(), |names: Vec<String>| {
    Some(names.into_iter().map(UserName::from).collect())
});
field!(Secret, Secret, Clone::clone, Some);
field!(
    Host,
    Text,
    |host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(directory) => directory.to_string_lossy().into_owned(),
    },
    |text: String| Some(if text.starts_with('/') { Host::Unix(text.into()) } else { Host::Tcp(text) })
);
field!(PoolMode, Text, |mode| mode.as_str().to_owned(), |word: String| {
    PoolMode::ALL.into_iter().find(|mode| mode.as_str() == word)
});
field!(AuthType, Text, |auth| auth.as_str().to_owned(), |word: String| {
    AuthType::ALL.into_iter().find(|auth| auth.as_str() == word)
});
field!(SslMode, Text, |mode| mode.as_str().to_owned(), |word: String| {
    SslMode::ALL.into_iter().find(|mode| mode.as_str() == word)
});
field!(SslNegotiation, Text, |way| way.as_str().to_owned(), |word: String| {
    SslNegotiation::ALL.into_iter().find(|way| way.as_str() == word)
});
field!(ShareBy, Text, |by| by.as_str().to_owned(), |word: String| {
    ShareBy::ALL.into_iter().find(|by| by.as_str() == word)
});
field!(LoadBalance, Text, |way| way.as_str().to_owned(), |word: String| {
    LoadBalance::ALL.into_iter().find(|way| way.as_str() == word)
});
field!(SessionAttrs, Text, |attrs| attrs.as_str().to_owned(), |word: String| {
    SessionAttrs::ALL.into_iter().find(|attrs| attrs.as_str() == word)
});
field!(ReadOnlyRoute, Text, |route| route.as_str().to_owned(), |word: String| {
    ReadOnlyRoute::ALL.into_iter().find(|route| route.as_str() == word)
});
field!(HttpAnonymous, Text, |level| level.as_str().to_owned(), |word: String| {
    HttpAnonymous::ALL.into_iter().find(|level| level.as_str() == word)
});
field!(Target, Text, ToString::to_string, |text: String| text.parse().ok());
field!(Weights, Weights, Clone::clone, Some);
field!(BindingMode, Text, |mode| mode.as_str().to_owned(), |word: String| {
    BindingMode::ALL.into_iter().find(|mode| mode.as_str() == word)
});
