//! The tables themselves.

use std::collections::BTreeSet;

use super::*;
use crate::config::document::Raw;
use crate::config::field::Value;
use crate::config::sections::{DATABASE, USER};
use crate::config::settings::{POOLER, Setting};

fn raw(value: toml::Value) -> Raw {
    match value {
        toml::Value::String(text) => Raw::Text(text),
        toml::Value::Integer(value) => Raw::Integer { value, decimal: true },
        toml::Value::Boolean(flag) => Raw::Flag(flag),
        toml::Value::Array(items) => Raw::List(items.into_iter().map(raw).collect()),
        toml::Value::Table(table) => Raw::Table(table.into_iter().map(|(key, value)| (key, raw(value))).collect()),
        other => panic!("{other} is never written"),
    }
}

/// Each default can be written in both formats, and is read as itself.
fn defaults_are_read_back<T>(table: &'static [Setting<T>], mut defaults: T, format: Format) {
    for setting in table {
        let value = (setting.get)(&defaults);
        if value == Value::Unset && setting.unset.is_none() {
            continue;
        }
        let text = Raw::Text(setting.text(&defaults));
        if format == Format::Ini {
            assert_eq!(setting.parse(&text, Format::Ini), Ok(value.clone()), "{} in ini", setting.name);
        }
        if value != Value::Unset {
            let written = raw(setting.kind.to_toml(&value));
            assert_eq!(setting.parse(&written, Format::Toml), Ok(value.clone()), "{} in TOML", setting.name);
        }
        setting.store(&mut defaults, value.clone()).unwrap();
        assert_eq!((setting.get)(&defaults), value, "{}", setting.name);
    }
}

#[test]
fn defaults() {
    defaults_are_read_back(POOLER, Pooler::defaults(Format::Toml), Format::Toml);
    defaults_are_read_back(POOLER, Pooler::defaults(Format::Ini), Format::Ini);
    defaults_are_read_back(DATABASE, Database::default(), Format::Toml);
    defaults_are_read_back(USER, User::default(), Format::Toml);
}

#[test]
fn defaults_of_pgbouncer_are_stored() {
    let defaults = Pooler::defaults(Format::Ini);
    for setting in POOLER {
        if let Some(text) = setting.ini_default {
            assert_eq!(setting.text(&defaults), text, "{}", setting.name);
        }
    }
    assert_eq!(ini("[pgbouncer]").pooler, defaults);
}

#[test]
fn names_are_unique() {
    fn check<T>(table: &'static [Setting<T>]) {
        let names = table.iter().map(|setting| setting.name).chain(table.iter().filter_map(|setting| setting.alias));
        let mut seen = BTreeSet::new();
        names.for_each(|name| assert!(seen.insert(name), "{name}"));
        let mut seen = BTreeSet::new();
        table.iter().filter_map(|setting| setting.ini_name).for_each(|name| assert!(seen.insert(name), "{name}"));
    }
    check(POOLER);
    check(DATABASE);
    check(USER);
}

#[test]
fn no_field_is_left_out() {
    // Each field shows by name in `Debug`, which needs no list kept by hand.
    fn fields(debug: &str) -> BTreeSet<String> {
        let lines = debug.lines().filter(|line| line.starts_with("    ") && !line.starts_with("     "));
        lines.filter_map(|line| Some(line.trim().split_once(": ")?.0.to_owned())).collect()
    }
    fn names<T>(table: &'static [Setting<T>]) -> BTreeSet<String> {
        table.iter().map(|setting| setting.name.to_owned()).collect()
    }
    assert_eq!(fields(&format!("{:#?}", Pooler::default())), names(POOLER));
    let mut database = fields(&format!("{:#?}", Database::default()));
    assert!(database.remove("startup_parameters"));
    // `pool_size = "auto"`.
    assert!(database.remove("auto_pool_size"));
    // Of a database that no file has.
    assert!(database.remove("route_of"));
    database.extend(["application_name", "client_encoding", "datestyle", "timezone"].map(str::to_owned));
    assert_eq!(database, names(DATABASE));
    assert_eq!(fields(&format!("{:#?}", User::default())), names(USER));
}

#[test]
fn show_config() {
    let config = ini("[pgbouncer]\nquery_timeout = 1.5\nadmin_users = a, b\nserver_check_query = select 1");
    let entries = config.entries();
    assert!(entries.is_sorted_by_key(|entry| entry.name));
    assert_eq!(entries.len(), POOLER.len());
    let shown = |name: &str| {
        let entry = entries.iter().find(|entry| entry.name == name).unwrap();
        format!("{}|{}|{}", entry.value, entry.default, entry.changeable)
    };
    assert_eq!(shown("query_timeout"), "1.5|0|true");
    assert_eq!(shown("admin_users"), "a,b||true");
    assert_eq!(shown("server_check_query"), "select 1|<empty>|true");
    assert_eq!(shown("default_pool_size"), "20|20|true");
    assert_eq!(shown("listen_port"), "6432|6432|false");
    assert_eq!(shown("unix_socket_mode"), "0777|0777|false");
    assert_eq!(shown("http_port"), "0|0|false");
    assert_eq!(shown("log_stats"), "1|1|true");
    let default = Config::default().entries();
    assert!(default.iter().all(|entry| entry.value == entry.default));
}
