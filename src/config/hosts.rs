//! Where a database's servers are, if that is more than one place: `host` and `port` as lists, `load_balance_hosts` and
//! `target_session_attrs`, as libpq has them:
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS>.

use super::document::Raw;
use super::field::{Field, Value};
use super::{Format, Host};

/// Hosts of one database at most.
pub(super) const MOST: usize = 32;

/// Which host of the list a login tries first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LoadBalance {
    /// The first of the list.
    Disable,
    /// Any.
    Random,
    /// Each in turn.
    #[default]
    RoundRobin,
}

impl LoadBalance {
    /// All.
    pub const ALL: [Self; 3] = [Self::Disable, Self::Random, Self::RoundRobin];
    /// The words of the configuration, in the same order.
    pub const WORDS: [&'static str; 3] = ["disable", "random", "round-robin"];

    /// The word of the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        Self::WORDS[self as usize]
    }
}

/// Whether a database has a read-only route, `NAME@ro`, and what its servers have to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReadOnlyRoute {
    /// There is none.
    #[default]
    Off,
    /// Standbys, or what the database's own servers are where none can be used.
    PreferStandby,
    /// Standbys.
    Standby,
}

impl ReadOnlyRoute {
    /// All.
    pub const ALL: [Self; 3] = [Self::Off, Self::PreferStandby, Self::Standby];
    /// The words of the configuration, in the same order.
    pub const WORDS: [&'static str; 3] = ["off", "prefer-standby", "standby"];

    /// The word of the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        Self::WORDS[self as usize]
    }

    /// What its servers have to be.
    #[must_use]
    pub const fn attrs(self) -> Option<SessionAttrs> {
        match self {
            Self::Off => None,
            Self::PreferStandby => Some(SessionAttrs::PreferStandby),
            Self::Standby => Some(SessionAttrs::Standby),
        }
    }
}

/// What a server said of itself when it logged somebody in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Role {
    /// It is in recovery (`in_hot_standby`).
    pub standby: bool,
    /// Sessions begin read-only: it is a standby, or has `default_transaction_read_only`.
    pub read_only: bool,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match (self.standby, self.read_only) {
            (true, _) => "standby",
            (false, false) => "primary",
            (false, true) => "read-only primary",
        })
    }
}

/// What a server has to be (`target_session_attrs`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SessionAttrs {
    /// Anything.
    #[default]
    Any,
    /// One whose sessions may write.
    ReadWrite,
    /// One whose sessions may not, unless they ask for it.
    ReadOnly,
    /// Not in recovery.
    Primary,
    /// In recovery.
    Standby,
    /// In recovery, or anything if no host of the list is.
    PreferStandby,
}

impl SessionAttrs {
    /// All.
    pub const ALL: [Self; 6] =
        [Self::Any, Self::ReadWrite, Self::ReadOnly, Self::Primary, Self::Standby, Self::PreferStandby];
    /// The words of the configuration, in the same order.
    pub const WORDS: [&'static str; 6] = ["any", "read-write", "read-only", "primary", "standby", "prefer-standby"];

    /// The word of the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        Self::WORDS[self as usize]
    }

    /// Whether a server is as wanted. One that is only preferred otherwise is.
    #[must_use]
    pub const fn fits(self, role: Role) -> bool {
        match self {
            Self::Any | Self::PreferStandby => true,
            Self::ReadWrite => !role.standby && !role.read_only,
            Self::ReadOnly => role.standby || role.read_only,
            Self::Primary => !role.standby,
            Self::Standby => role.standby,
        }
    }

    /// Whether a standby may be what is wanted.
    #[must_use]
    pub const fn takes_standbys(self) -> bool {
        !matches!(self, Self::ReadWrite | Self::Primary)
    }

    /// Whether standbys are what is wanted, or preferred.
    #[must_use]
    pub const fn is_for_standbys(self) -> bool {
        matches!(self, Self::ReadOnly | Self::Standby | Self::PreferStandby)
    }

    /// What is looked for first, and where no host of the list is that, then.
    #[must_use]
    pub const fn passes(self) -> &'static [Self] {
        match self {
            Self::Any => &[Self::Any],
            Self::ReadWrite => &[Self::ReadWrite],
            Self::ReadOnly => &[Self::ReadOnly],
            Self::Primary => &[Self::Primary],
            Self::Standby => &[Self::Standby],
            Self::PreferStandby => &[Self::Standby, Self::Any],
        }
    }
}

/// The items of a list, which stands in one text as libpq has it, or is one in TOML.
fn items(raw: &Raw) -> Option<Vec<String>> {
    match raw {
        Raw::Text(text) if text.contains(',') => Some(text.split(',').map(|item| item.trim().to_owned()).collect()),
        Raw::List(items) if !items.is_empty() => items.iter().map(Raw::as_text).collect(),
        _ => None,
    }
}

/// Reads hosts; `one` reads one.
pub(super) fn parse(raw: &Raw, one: impl Fn(&Raw) -> Result<String, String>) -> Result<String, String> {
    let Some(items) = items(raw) else { return one(raw) };
    if items.iter().any(|item| item.contains(',')) {
        return Err("an item of the list has a comma".into());
    }
    let items: Vec<String> = items.into_iter().map(|item| one(&Raw::Text(item))).collect::<Result<_, _>>()?;
    Ok(items.join(","))
}

/// Reads ports; `one` reads one.
pub(super) fn parse_ports(
    raw: &Raw,
    format: Format,
    one: impl Fn(&Raw, Format) -> Result<u32, String>,
) -> Result<Value, String> {
    let Some(items) = items(raw) else { return one(raw, format).map(Value::Number) };
    // Within a text they are text in TOML, too.
    let items = items.into_iter().map(|item| one(&Raw::Text(item), Format::Ini));
    let ports: Vec<u32> = items.collect::<Result<_, _>>()?;
    match ports.as_slice() {
        [port] => Ok(Value::Number(*port)),
        ports => Ok(Value::Text(ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))),
    }
}

impl Field for Vec<Host> {
    fn to_value(&self) -> Value {
        let text = |host: &Host| match host.to_value() {
            Value::Text(text) => text,
            _ => String::new(),
        };
        Value::Text(self.iter().map(text).collect::<Vec<_>>().join(","))
    }

    fn from_value(value: Value) -> Option<Self> {
        let Value::Text(text) = value else { return None };
        text.split(',').map(|host| Host::from_value(Value::Text(host.to_owned()))).collect()
    }
}

impl Field for Vec<u16> {
    fn to_value(&self) -> Value {
        match self.as_slice() {
            [port] => Value::Number((*port).into()),
            ports => Value::Text(ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
        }
    }

    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Number(port) => Some(vec![port.try_into().ok()?]),
            Value::Text(text) => text.split(',').map(|port| port.parse().ok()).collect(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{errors, ini, toml};

    #[test]
    fn roles_are_judged_as_libpq_does() {
        let roles = [(false, false), (false, true), (true, true), (true, false)];
        let fits = |attrs: SessionAttrs| roles.map(|(standby, read_only)| attrs.fits(Role { standby, read_only }));
        assert_eq!(fits(SessionAttrs::Any), [true; 4]);
        assert_eq!(fits(SessionAttrs::PreferStandby), [true; 4]);
        assert_eq!(fits(SessionAttrs::ReadWrite), [true, false, false, false]);
        assert_eq!(fits(SessionAttrs::ReadOnly), [false, true, true, true]);
        assert_eq!(fits(SessionAttrs::Primary), [true, true, false, false]);
        assert_eq!(fits(SessionAttrs::Standby), [false, false, true, true]);
    }

    #[test]
    fn words_are_those_of_the_variants() {
        for attrs in SessionAttrs::ALL {
            assert_eq!(SessionAttrs::ALL.iter().find(|a| a.as_str() == attrs.as_str()), Some(&attrs));
        }
        assert_eq!(SessionAttrs::PreferStandby.as_str(), "prefer-standby");
        assert_eq!(LoadBalance::ALL.map(LoadBalance::as_str), LoadBalance::WORDS);
    }

    #[test]
    fn lists_are_read_and_written() {
        for text in ["host = 'a, b,/c'\nport = '1,2,3'", "host = ['a', 'b', '/c']\nport = [1, 2, 3]"] {
            let config = toml(&format!("[databases.d]\n{text}"));
            let database = &config.databases["d"];
            let places: Vec<_> = database.places().collect();
            let named = |name: &str| Host::Tcp(name.into());
            assert_eq!(places, [(named("a"), 1), (named("b"), 2), (Host::Unix("/c".into()), 3)]);
            assert_eq!(toml(&config.to_toml()).databases["d"], *database);
        }
        let config = ini("[pgbouncer]\n[databases]\nd = host=a,b port=6000 load_balance_hosts=random\n");
        let database = &config.databases["d"];
        assert_eq!(database.places().map(|(_, port)| port).collect::<Vec<_>>(), [6000, 6000]);
        assert_eq!(database.load_balance_hosts, LoadBalance::Random);
    }

    #[test]
    fn what_is_wrong_with_a_list() {
        for (text, error) in [
            ("host = 'a,,b'", "host: is empty"),
            ("host = 'a,b'\nport = '1,2,3'", "port: there are 3 ports for 2 hosts: one for all, or one for each"),
            ("host = 'a'\nport = '1,2'", "port: there are 2 ports for 1 host: one for all, or one for each"),
            ("host = 'a,b'\nport = '1,0'", "port: 0 is out of range (1 to 65535)"),
            ("host = 'a,b'\nport = '1,'", "port: expected a whole number"),
            ("host = ['a,b', 'c']", "host: an item of the list has a comma"),
            ("host = 'a,b c'", "host: a host name has no spaces"),
        ] {
            let errors = errors(&format!("[databases.d]\n{text}"), Format::Toml).join("\n");
            assert!(errors.contains(error), "{text}: {errors}");
        }
        let many = vec!["h"; MOST + 1].join(",");
        let errors = errors(&format!("[databases.d]\nhost = '{many}'"), Format::Toml);
        assert!(errors[0].contains("has more than 32 hosts"), "{errors:?}");
    }
}
