//! What is written as TOML is read as the same configuration.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::config::field::{Field, Value};
use crate::config::kind::Kind;
use crate::config::sections::{DATABASE, USER};
use crate::config::settings::{POOLER, Setting};

/// Any value of a kind.
fn value(kind: Kind) -> BoxedStrategy<Value> {
    let text = || "[^\0]{1,12}";
    let time = || (0..time::LONGEST.as_micros() as u64).prop_map(Duration::from_micros);
    match kind {
        Kind::Number(least, most) => (least..=most).prop_map(Value::Number).boxed(),
        Kind::Target => proptest::sample::select(&["p99 wait < 5ms", "p99.9 wait < 1.5s"][..])
            .prop_map(|t| Value::Text(t.into()))
            .boxed(),
        Kind::Size | Kind::AutoSize => {
            prop_oneof![Just(UNLIMITED), 1..=i32::MAX as u32].prop_map(Value::Number).boxed()
        }
        Kind::Flag => any::<bool>().prop_map(Value::Flag).boxed(),
        Kind::Time => prop_oneof![time(), (0..9_999_u64).prop_map(Duration::from_secs)].prop_map(Value::Time).boxed(),
        Kind::Bound(least) => time().prop_map(move |time| Value::Time(time.max(least))).boxed(),
        Kind::Text | Kind::Path | Kind::CheckQuery => text().prop_map(Value::Text).boxed(),
        Kind::Word(words) => proptest::sample::select(words).prop_map(|w| Value::Text(w.into())).boxed(),
        Kind::List => vec(text(), 0..4).prop_map(Value::List).boxed(),
        Kind::FileMode => (0..=0o777_u32).prop_map(Value::Number).boxed(),
        Kind::Host => prop_oneof!["[a-z0-9.:-]{1,12}", "/[a-z/ ]{0,12}"].prop_map(Value::Text).boxed(),
        Kind::Hosts => vec(prop_oneof!["[a-z0-9.:-]{1,12}", "/[a-z/]{0,12}"], 1..4)
            .prop_map(|hosts| Value::Text(hosts.join(",")))
            .boxed(),
        // Several have to be as many as the hosts are.
        Kind::Ports => (1..=65535_u32).prop_map(Value::Number).boxed(),
        Kind::PoolMode => {
            proptest::sample::select(&PoolMode::ALL[..]).prop_map(|m| Value::Text(m.as_str().into())).boxed()
        }
        Kind::AuthType => {
            proptest::sample::select(&AuthType::ALL[..]).prop_map(|a| Value::Text(a.as_str().into())).boxed()
        }
        Kind::Weights => btree_map("[a-z_][a-z0-9_=. ]{0,8}[a-z]", 1..=1000_u32, 0..4).prop_map(Value::Weights).boxed(),
        Kind::Secret => text().prop_map(|secret| Value::Secret(Secret::new(&secret))).boxed(),
    }
}

/// Some of a table's settings, with a value each.
fn some_of<T>(table: &'static [Setting<T>]) -> impl Strategy<Value = Vec<(usize, Value)>> {
    let some = proptest::sample::subsequence((0..table.len()).collect::<Vec<_>>(), 0..=table.len());
    let with_value = |at: usize| value(table[at].kind).prop_map(move |value| (at, value));
    some.prop_flat_map(move |chosen| chosen.into_iter().map(with_value).collect::<Vec<_>>())
}

fn set<T>(table: &'static [Setting<T>], values: Vec<(usize, Value)>, target: &mut T) {
    for (at, value) in values {
        let setting = &table[at];
        // What says "not set" isn't a value.
        if setting.unset != Some(setting.kind.to_text(&value).as_str()) {
            setting.store(target, value).unwrap();
        }
    }
}

prop_compose! {
    fn pooler()(values in some_of(POOLER)) -> Pooler {
        let mut pooler = Pooler::default();
        set(POOLER, values, &mut pooler);
        pooler.min_pool_size = pooler.min_pool_size.min(pooler.default_pool_size);
        pooler.listen_addr = vec!["localhost".into(), "::1".into()];
        pooler.unix_socket_dir = pooler.unix_socket_dir.map(|_| "/tmp/x y".into());
        pooler.http_port = pooler.http_port.filter(|port| *port != pooler.listen_port);
        // With a file: see the test below.
        pooler.auth_file = None;
        // These need files, or another build.
        let types = [AuthType::Cert, AuthType::Hba, AuthType::Ldap, AuthType::Pam, AuthType::Jwt];
        if types.contains(&pooler.auth_type) {
            pooler.auth_type = AuthType::Peer;
        }
        pooler.auth_query.push_str("$1");
        pooler.auth_dbname = None;
        if pooler.flight_recorder_dir.is_none() {
            pooler.flight_recorder = 0;
        }
        pooler.otlp_endpoint = pooler.otlp_endpoint.map(|_| "http://collector:4318".into());
        let other = Pooler::default();
        pooler.client_tls_sslmode = SslMode::Disable;
        pooler.server_tls_sslmode = pooler.server_tls_sslmode.min(SslMode::Require);
        (pooler.server_tls_ca_file, pooler.server_tls_cert_file, pooler.server_tls_key_file) = (None, None, None);
        (pooler.server_tls_protocols, pooler.server_tls_ciphers) = (other.server_tls_protocols, "AES256:CHACHA20".into());
        pooler.server_tls13_ciphers = "TLS_AES_128_GCM_SHA256".into();
        pooler
    }
}

prop_compose! {
    fn database(pooler: Pooler)(values in some_of(DATABASE)) -> Database {
        let mut database = Database::inheriting(&pooler);
        set(DATABASE, values, &mut database);
        database.min_pool_size = database.min_pool_size.min(database.pool_size);
        database.auth_query = database.auth_query.map(|query| query + "$1");
        database.auth_dbname = None;
        database.server_tls_ca_file = None;
        database.server_tls_sslmode = database.server_tls_sslmode.map(|mode| mode.min(SslMode::Require));
        if database.sslnegotiation == SslNegotiation::Direct {
            database.server_tls_sslmode = Some(SslMode::Require);
        }
        if database.shared_pool_size > 0 {
            database.user.get_or_insert("forced".into());
            database.target_session_attrs = SessionAttrs::Primary;
        }
        if pooler.auth_type == AuthType::Any {
            database.user.get_or_insert("forced".into());
        }
        database
    }
}

prop_compose! {
    fn user(pooler: Pooler)(values in some_of(USER)) -> User {
        let mut user = User::inheriting(&pooler);
        set(USER, values, &mut user);
        user
    }
}

fn config() -> impl Strategy<Value = Config> {
    pooler().prop_flat_map(|pooler| {
        let databases = btree_map("[^\0*]{1,12}", database(pooler.clone()), 0..4);
        let fallback = proptest::option::of(database(pooler.clone()));
        let users = btree_map("[^\0]{1,12}", user(pooler.clone()), 0..4);
        let peer = ("[a-z/]{1,9}", 1..=65535u16, 1..=65535u32);
        let peer = peer.prop_map(|(host, port, pool_size)| Peer {
            host: Field::from_value(Value::Text(host)),
            port,
            pool_size,
        });
        let peers = btree_map(1..=MOST_PEERS, peer, 0..3);
        (Just(pooler), databases, fallback, users, peers).prop_map(|(pooler, databases, fallback, users, peers)| {
            Config {
                pooler,
                databases: databases.into_iter().map(|(name, database)| (name.into(), database)).collect(),
                fallback,
                users: users.into_iter().map(|(name, user)| (name.into(), user)).collect(),
                peers,
                ..Config::default()
            }
        })
    })
}

proptest! {
    #[test]
    fn any_configuration(config in config()) {
        let text = config.to_toml();
        let read = load(&text, Format::Toml);
        prop_assert_eq!(read.as_ref(), Ok(&config), "{}", text);
    }

    #[test]
    fn any_ini_file(
        values in some_of(POOLER),
        sizes in ("(-1|0|[1-9]|30)", "(-1|0|[1-9]|30)", "(-1|0|[1-9]|30)", "(0|[1-9]|30)"),
        unlimited in any::<bool>(),
    ) {
        let mut pooler = Pooler::defaults(Format::Ini);
        set(POOLER, values, &mut pooler);
        let mut text = "[pgbouncer]\n".to_owned();
        for setting in POOLER {
            let value = setting.text(&pooler);
            // A value of several lines, or with spaces around it, can't be written in this format.
            let writable = !value.contains(['\n', '\r']) && value.trim() == value && !value.is_empty();
            let others = ["listen_addr", "unix_socket_dir", "auth_file", "http_port", "auth_type", "auth_query", "auth_dbname", "otlp_endpoint", "flight_recorder"];
            let needs_file = setting.name.contains("_tls");
            if writable && !needs_file && !others.contains(&setting.name) {
                text += &format!("{} = {value}\n", setting.name);
            }
        }
        let (pool_size, total, min, global) = sizes;
        if !unlimited {
            text += &format!("max_db_connections = {global}\n");
        }
        text += &format!("[databases]\na = pool_size={pool_size} max_db_connections={total} min_pool_size={min}\n* =\n");
        let config = load(&text, Format::Ini);
        prop_assert!(config.is_ok(), "{}\n{:?}", text, config);
        let config = config.unwrap();
        prop_assert_eq!(load(&config.to_toml(), Format::Toml), Ok(config));
    }
}

#[test]
fn secrets_of_auth_file_stay_there() {
    let directory = directory(&[("list", "\"alice\" \"a\"\n\"bob\" \"b\"\n\"carol\" \"\"\n")]);
    let text = format!(
        "[pgbouncer]\nauth_file = {}\n[users]\nbob = pool_size=3\ndave = pool_mode=session\n\
         [databases]\na = host=h user=x password='its ''p'''\n",
        directory.join("list").display()
    );
    let config = ini(&text);
    let written = config.to_toml();
    assert!(written.contains("[users.bob]\npool_size = 3\n"), "{written}");
    assert!(written.contains("its 'p'"), "{written}");
    assert!(!written.contains("alice") && !written.contains("[users.bob]\npassword"), "{written}");
    let read = toml(&written);
    assert_eq!(read, config);
    assert_eq!(read.auth_file_users, config.auth_file_users);
    // Without the file they are a part of the configuration.
    let alone = Config { pooler: Pooler { auth_file: None, ..config.pooler.clone() }, ..config };
    assert_eq!(toml(&alone.to_toml()), alone);
}

#[test]
fn nothing_at_its_default_is_written() {
    assert_eq!(toml("[pooler]").to_toml(), "[pooler]\n");
    let config = toml("[pooler]\nlisten_port = 6432\n[databases.app]\nport = 5432\n[users.u]\n");
    assert_eq!(config.to_toml(), "[databases.app]\n\n[users.u]\n");
}
