//! `config.example.toml` is complete, loads, and tells the truth.

use super::*;
use crate::config::field::Value;
use crate::config::sections::{DATABASE, PEER, USER};
use crate::config::settings::{POOLER, Setting};

const EXAMPLE: &str = include_str!("../../../config.example.toml");

/// With every setting in it active.
fn everything() -> String {
    EXAMPLE.lines().map(|line| line.strip_prefix("# ").unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn it_loads() {
    let config = toml(EXAMPLE);
    assert_eq!(config.pooler, Pooler { http_port: Some(9187), ..Pooler::default() });
    let database = Database { host: vec![Host::Tcp("127.0.0.1".into())], ..Database::default() };
    assert_eq!(config.databases, BTreeMap::from([("app".into(), database)]));
    assert_eq!(config.users["app"], User { password: Some(Secret::new("change me")), ..User::default() });
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn with_every_line_active_it_says_the_same() {
    let (config, all) = (toml(EXAMPLE), toml(&everything()));
    assert_eq!(all.pooler, config.pooler);
    // What a section inherits is given there.
    let pooler = &config.pooler;
    let database = Database {
        pin_notice: Some(pooler.pin_notice),
        server_tls_sslmode: Some(pooler.server_tls_sslmode),
        pool_mode: Some(pooler.pool_mode),
        share_by: Some(pooler.share_by),
        share_weights: Some(pooler.share_weights.clone()),
        strict_session_state: Some(pooler.strict_session_state),
        reuse_unnamed_statements: Some(pooler.reuse_unnamed_statements),
        diagnostic_connection: Some(pooler.diagnostic_connection),
        server_lifetime: Some(pooler.server_lifetime),
        query_wait_timeout: Some(pooler.query_wait_timeout),
        ..config.databases["app"].clone()
    };
    assert_eq!(all.databases["app"], database);
    let user = User {
        pool_mode: Some(pooler.pool_mode),
        pool_size: Some(UNLIMITED),
        query_timeout: Some(pooler.query_timeout),
        idle_transaction_timeout: Some(pooler.idle_transaction_timeout),
        transaction_timeout: Some(pooler.transaction_timeout),
        client_idle_timeout: Some(pooler.client_idle_timeout),
        ..config.users["app"].clone()
    };
    assert_eq!(all.users["app"], user);
}

#[test]
fn it_names_each_setting_with_its_meaning_and_default() {
    fn check<T>(table: &'static [Setting<T>], defaults: &T, section: &str) {
        let (_, text) = EXAMPLE.split_once(&format!("[{section}]\n")).unwrap();
        let text = text.split("\n[").next().unwrap();
        let lines: Vec<_> = text.lines().collect();
        for setting in table {
            let at = lines
                .iter()
                .position(|line| line.strip_prefix("# ").unwrap_or(line).starts_with(&format!("{} = ", setting.name)));
            let at = at.unwrap_or_else(|| panic!("{section}: {} is missing", setting.name));
            let restart = if setting.changeable { "" } else { " Needs a restart." };
            let doc = format!("## {}{restart}", setting.doc);
            assert!(lines[at - 1].starts_with(&doc), "{section}: above {} stands not {doc}", setting.name);
            let value = (setting.get)(defaults);
            if lines[at].starts_with("# ") && value != Value::Unset {
                let default = format!("# {} = {}", setting.name, setting.kind.to_toml(&value));
                assert_eq!(lines[at], default, "{section}");
            }
        }
    }
    check(POOLER, &Pooler::default(), "pooler");
    check(DATABASE, &Database::default(), "databases.app");
    check(USER, &User::default(), "users.app");
    check(PEER, &Peer::default(), "peers.2");
}
