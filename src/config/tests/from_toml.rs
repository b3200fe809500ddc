//! Carpool's own format.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn toml_errors(text: &str) -> Vec<String> {
    errors(text, Format::Toml)
}

#[test]
fn a_typical_file() {
    let config = toml(
        r#"
        [pooler]
        listen_addr = "*"
        pool_mode = "session"
        query_wait_timeout = "1.5s"
        server_lifetime = "2h"
        client_idle_timeout = 90
        admin_users = ["root", "dba"]
        stats_users = "metrics, root"
        unix_socket_mode = "0700"
        default_pool_size = 10
        max_user_connections = 7

        [databases.app]
        host = "db.example"
        port = 5433
        pool_size = 40
        user_pool_size = 30
        min_pool_size = 2
        timezone = "UTC"
        max_db_client_connections = 100
        [databases."*"]
        host = "/run/postgresql"
        user = "shared"

        [users.alice]
        password = "secret"
        pool_mode = "transaction"
        query_timeout = "500ms"
        max_user_connections = 0
        [users."bob the builder"]
        "#,
    );
    let pooler = &config.pooler;
    assert_eq!(pooler.listen_addr, ["*"]);
    assert_eq!(pooler.query_wait_timeout, Duration::from_millis(1500));
    assert_eq!(pooler.server_lifetime, Duration::from_secs(7200));
    assert_eq!(pooler.client_idle_timeout, Duration::from_secs(90));
    assert_eq!(pooler.admin_users, ["root".into(), "dba".into()]);
    assert_eq!(pooler.stats_users, ["metrics".into(), "root".into()]);
    assert_eq!(pooler.unix_socket_mode, 0o700);
    let (app, is_fallback) = config.database("app").unwrap();
    assert!(!is_fallback);
    assert_eq!(app.places().collect::<Vec<_>>(), [(Host::Tcp("db.example".into()), 5433)]);
    assert_eq!((app.pool_size, app.user_pool_size, app.min_pool_size), (40, Some(30), 2));
    assert_eq!(app.max_client_connections, 100);
    assert_eq!(app.startup_parameters, BTreeMap::from([("timezone".into(), "UTC".into())]));
    let (other, is_fallback) = config.database("anything").unwrap();
    assert!(is_fallback);
    assert_eq!((&other.host, other.pool_size), (&vec![Host::Unix("/run/postgresql".into())], 10));
    assert_eq!(other.user, Some("shared".into()));
    let alice = &config.users["alice"];
    assert_eq!((alice.pool_mode, alice.max_user_connections), (Some(PoolMode::Transaction), 0));
    assert_eq!(alice.query_timeout, Some(Duration::from_millis(500)));
    assert_eq!(config.users["bob the builder"], User { max_user_connections: 7, ..User::default() });
}

#[test]
fn all_errors_at_once_each_with_its_place() {
    let text = r#"[pooler]
listen_port = 99999
pool_mod = "session"
query_timeout = "10 minutes"
tcp_keepalive = "yes"
auth_type = "kerberos"
max_client_conn = 2.5

[databases.app]
pool_size = 0
hots = "db"
dbname = 5
[databases."my db"]
host = "a,"

[users.u]
max_client_connections = 1
max_user_client_connections = 2
[user.v]
[listen_addr]
"#;
    let expected = [
        "c.toml:2: pooler.listen_port: 99999 is out of range (0 to 65535)",
        "c.toml:3: pooler.pool_mod: unknown setting; did you mean pool_mode?",
        "c.toml:4: pooler.query_timeout: \"10 minutes\" isn't a time: a number of seconds, or a number with one of us, \
         ms, s, min, h, d",
        "c.toml:5: pooler.tcp_keepalive: expected true or false, found a text",
        "c.toml:6: pooler.auth_type: \"kerberos\" is not one of trust, any, plain, md5, scram-sha-256, hba, \
         peer, ldap, pam, jwt, cert",
        "c.toml:7: pooler.max_client_conn: expected a whole number, found a number with a fraction",
        "c.toml:10: databases.app.pool_size: 0 is out of range (1 to 2147483647)",
        "c.toml:11: databases.app.hots: unknown setting; did you mean host?",
        "c.toml:12: databases.app.dbname: expected a text in quotes, found a number",
        "c.toml:14: databases.\"my db\".host: is empty",
        "c.toml:18: users.u.max_user_client_connections: max_client_connections and max_user_client_connections are the \
         same setting",
        "c.toml:19: user: unknown section; did you mean [users]?",
        "c.toml:20: listen_addr: unknown section; did you mean [pooler]?",
    ];
    assert_eq!(toml_errors(text), expected);
}

#[test]
fn broken_toml_has_its_line_and_shows_nothing() {
    let found = toml_errors("[pooler]\nlisten_port = = 3\n\n[users.u]\npassword = \"hunter2\n[users.u]\n");
    assert!(found.len() >= 2, "{found:?}");
    assert!(found[0].starts_with("c.toml:2: "), "{found:?}");
    assert!(found.iter().any(|error| error.starts_with("c.toml:5: ")), "{found:?}");
    assert!(!found.iter().any(|error| error.contains("hunter2")), "{found:?}");
    let twice = toml_errors("[pooler]\nverbose = 1\nverbose = 2");
    assert_eq!(twice, ["c.toml:3: duplicate key"]);
}

#[test]
fn contradictions() {
    for (text, error) in [
        ("[pooler]\nmin_pool_size = 30", "pooler.min_pool_size: 30 is more than default_pool_size (25)"),
        ("[databases.a]\nmin_pool_size = 5\npool_size = 4", "databases.a.min_pool_size: 5 is more than pool_size (4)"),
        ("[pooler]\nauth_type = \"any\"\n[databases.a]", "databases.a.user: must be set with auth_type any"),
        ("[pooler]\nlisten_addr = []", "pooler.listen_addr: is empty, and so is unix_socket_dir: nobody could connect"),
        ("[pooler]\nhttp_port = 6432", "pooler.http_port: 6432 is the listen_port too"),
        ("[pooler]\nunix_socket_dir = \"@x\"", "abstract sockets are not supported yet"),
        ("[databases.pgbouncer]", "databases.pgbouncer: this name is the admin console's"),
        ("[databases.carpool]", "databases.carpool: this name is the admin console's"),
        ("[databases.\"\"]", "databases.\"\": the name is empty"),
        ("[users.\"a\\u0000b\"]", "the name has a NUL character"),
        ("[databases.a]\npassword = \"a\\u0000b\"", "databases.a.password: must not contain a NUL character"),
        ("[databases.a]\nuser = \"a\\u0000b\"", "databases.a.user: must not contain a NUL character"),
        ("[pooler]\nunix_socket_mode = 777", "write \"0777\" or 0o777"),
        ("[pooler]\nserver_connect_timeout = 0", "pooler.server_connect_timeout: must be at least 1ms"),
        ("[databases]\na = 1", "databases.a: expected a section [databases.a]"),
        ("pooler = 1", "pooler: expected a section"),
        ("[pooler]\nadmin_users = [\"\"]", "pooler.admin_users: an item of the list is empty"),
        ("[pooler]\nlisten_port = 99999999999999999999", "is out of range"),
        ("[pooler]\nquery_timeout = nan", "pooler.query_timeout: not a number of seconds"),
        ("[pooler]\nquery_timeout = -1", "pooler.query_timeout: out of range"),
    ] {
        let found = toml_errors(text);
        assert!(found.len() == 1 && found[0].contains(error), "{text}: {found:?}");
    }
    let long = format!("[users.{}]", "u".repeat(64));
    assert!(toml_errors(&long)[0].contains("longer than PostgreSQL's 63 bytes"));
}

#[test]
fn min_pool_size_is_inherited_up_to_the_size() {
    let config = toml("[pooler]\nmin_pool_size = 5\n[databases.a]\npool_size = 2\n[databases.b]");
    assert_eq!(config.databases["a"].min_pool_size, 2);
    assert_eq!(config.databases["b"].min_pool_size, 5);
}

#[test]
fn pgbouncers_settings_are_judged() {
    let refused = "[pooler]\nauth_query = \"x\"\ndisable_pqexec = 1\nmax_db_connections = 5\n\
                   [databases.a]\nauth_dbname = \"x\"\nmax_db_connections = 5";
    let found = toml_errors(refused);
    let keys: Vec<_> = found.iter().map(|error| error.split(": ").nth(1).unwrap()).collect();
    assert_eq!(
        keys,
        [
            "pooler.auth_query",
            "pooler.disable_pqexec",
            "pooler.max_db_connections",
            "databases.a.auth_dbname",
            "databases.a.max_db_connections",
        ]
    );
    let config = toml(
        "[pooler]\nresolv_conf = \"x\"\npkt_buf = 8192\nsbuf_loopcnt = 5\n[databases.a]\nreserve_pool_size = 3\n[users.u]\nquery_wait_timeout = 1",
    );
    let keys: Vec<_> = config.warnings.iter().map(|warning| warning.split(": ").nth(1).unwrap()).collect();
    let mut keys = keys;
    keys.sort_unstable();
    assert_eq!(keys, ["pooler.pkt_buf", "pooler.resolv_conf", "users.u.query_wait_timeout"]);
}

/// A reload of one would end every database.
#[test]
fn an_empty_file_is_an_error() {
    for text in ["", "\n\n", "# only a comment\n"] {
        let found = errors(text, Format::Toml);
        assert_eq!(found, ["c.toml: is empty: expected at least a section [pooler] or [databases.NAME]"], "{text:?}");
    }
}

#[test]
fn what_is_likely_a_mistake_is_a_warning() {
    let warnings = toml("[pooler]").warnings;
    assert_eq!(
        warnings,
        [
            "c.toml: names no database, so clients can only use the console",
            "c.toml: names no user, so nobody can log in"
        ]
    );
    let warnings = toml(
        "[databases.a]\npassword = \"SCRAM-SHA-256$4096:x\"\n\
         [users.u]\npassword = \"md5a1c2cced0c3bcb0923524fd5300c40be\"",
    )
    .warnings;
    assert!(warnings[0].starts_with("c.toml:2: databases.a.password: is a SCRAM secret"), "{warnings:?}");
    assert!(warnings[1].starts_with("c.toml:4: users.u.password: is an md5 secret"), "{warnings:?}");
}

#[test]
fn secrets_from_elsewhere() {
    let directory = directory(&[("secret", "from a file\n"), ("empty", "\n")]);
    let path = |name: &str| directory.join(name).display().to_string();
    // A variable that every process started by cargo has.
    let home = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let config = toml(&format!(
        "[databases.a]\npassword = {{ env = \"CARGO_MANIFEST_DIR\" }}\n[users.u]\npassword = {{ file = {:?} }}",
        path("secret")
    ));
    assert_eq!(config.databases["a"].password, Some(Secret::new(&home)));
    assert_eq!(config.users["u"].password, Some(Secret::new("from a file")));
    for (secret, error) in [
        ("{ env = \"CARPOOL_TEST_NOT_SET\" }".to_owned(), "environment variable CARPOOL_TEST_NOT_SET is not set"),
        ("{ env = \"\" }".to_owned(), "env must be the name of an environment variable"),
        ("{ env = \"A=B\" }".to_owned(), "env must be the name of an environment variable"),
        (format!("{{ file = {:?} }}", path("none")), "none: No such file"),
        (format!("{{ file = {:?} }}", path("empty")), "empty is empty"),
        ("{ env = \"A\", file = \"B\" }".to_owned(), "a secret from elsewhere is { env = \"NAME\" }, {"),
        ("{ vault = \"A\" }".to_owned(), "a secret from elsewhere is { env = \"NAME\" }, {"),
        (
            "5".to_owned(),
            "expected a text, { env = \"NAME\" }, { file = \"path\" } or { command = \"…\" }, found a number",
        ),
    ] {
        let found = toml_errors(&format!("[users.u]\npassword = {secret}"));
        assert!(found.len() == 1 && found[0].contains(error), "{secret}: {found:?}");
    }
}

#[test]
fn users_of_auth_file() {
    let list = "\"alice\" \"from the list\"\n\"bob\" \"bobs\"\n\"nopass\" \"\"\n\"bob\" \"bobs second\"\n";
    let directory = directory(&[("list", list), ("broken", "\"a\" \"b\"\nbroken secret\n")]);
    let with = |name: &str, rest: &str| format!("[pooler]\nauth_file = {:?}\n{rest}", directory.join(name));
    let users = "max_user_connections = 3\n[users.alice]\npassword = \"own\"\n[users.bob]\npool_size = 5";
    let config = toml(&with("list", users));
    assert_eq!(config.users["alice"].password, Some(Secret::new("own")));
    assert_eq!(config.users["bob"].password, Some(Secret::new("bobs second")));
    assert_eq!(config.users["bob"].pool_size, Some(5));
    assert_eq!(config.users["nopass"], User { max_user_connections: 3, ..User::default() });
    assert_eq!(config.auth_file_users, BTreeSet::from(["bob".into(), "nopass".into()]));
    assert!(config.warnings.iter().any(|warning| warning.contains("list:4: \"bob\" stands there again")));
    let found = toml_errors(&with("broken", ""));
    assert_eq!(found, [format!("{}:2: expected \"user\" \"secret\"", directory.join("broken").display())]);
    let found = toml_errors(&with("none", ""));
    assert!(found[0].starts_with("c.toml:2: pooler.auth_file: ") && found[0].contains("No such file"), "{found:?}");
}

#[test]
fn files_are_told_by_their_name() {
    let directory = directory(&[("a.toml", "[pooler]"), ("a.ini", "[pgbouncer]"), ("a.conf", "")]);
    assert_eq!(Config::load(&directory.join("a.toml")).unwrap().format, Format::Toml);
    assert_eq!(Config::load(&directory.join("a.ini")).unwrap().format, Format::Ini);
    let error = |name| Config::load(&directory.join(name)).unwrap_err().to_string();
    assert!(error("a.conf").ends_with("the name of a configuration ends in .toml or .ini"));
    assert!(error("b.toml").contains("b.toml: cannot be read: No such file"));
    std::fs::write(directory.join("b.ini"), b"[pgbouncer]\n; \xff").unwrap();
    assert!(error("b.ini").ends_with("b.ini: is not UTF-8 text (line 2)"));
}

proptest! {
    #[test]
    fn never_panics(text in "(\\PC|[\\[\\]=\"\n{}. ]){0,80}") {
        let _ = load(&text, Format::Toml);
        let _ = load(&format!("[pooler]\n{text}"), Format::Toml);
    }

    #[test]
    fn secrets_stay_out_of_errors(secret in "[a-z]{12}", broken in 0..6) {
        let text = match broken {
            0 => format!("[users.u]\npassword = \"{secret}\\u0000\""),
            1 => format!("[users.u]\npassword = \"{secret}"),
            2 => format!("[users.u]\npassword = [\"{secret}\"]"),
            3 => format!("[users.u]\npassword = {{ env = \"A\", x = \"{secret}\" }}"),
            4 => format!("[users.u]\npasword = \"{secret}\""),
            _ => format!("[users.u]\npassword = {secret}"),
        };
        prop_assert!(!errors(&text, Format::Toml).concat().contains(&secret));
    }

    #[test]
    fn debug_hides_secrets(secret in "[a-z]{12}") {
        let config = toml(&format!("[databases.a]\npassword = \"{secret}\"\n[users.u]\npassword = \"{secret}\""));
        let shown = format!("{config:?}");
        prop_assert!(!shown.contains(&secret));
    }
}

#[test]
fn who_shares_and_by_which_weights() {
    let config = toml(
        r#"
        [pooler]
        share_by = "application_name"
        share_weights = { web = 3, "nightly, batch" = 1 }
        [databases.inherits]
        host = "h"
        [databases.own]
        host = "h"
        share_by = "user"
        share_weights = { alice = 2 }
        [databases.none]
        host = "h"
        share_by = "none"
        share_weights = { alice = 2 }
        [users.alice]
        "#,
    );
    assert_eq!(config.pooler.share_by, ShareBy::ApplicationName);
    assert_eq!(config.pooler.share_weights, [("web".into(), 3), ("nightly, batch".into(), 1)].into());
    let database = |name: &str| config.database(name).unwrap().0;
    assert_eq!((database("inherits").share_by, &database("inherits").share_weights), (None, &None));
    assert_eq!(database("own").share_by, Some(ShareBy::User));
    assert_eq!(database("own").share_weights, Some([("alice".into(), 2)].into()));
    let warnings: Vec<_> = config.warnings.iter().filter(|warning| warning.contains("share_weights")).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("databases.none.share_weights: has no effect"), "{warnings:?}");
    let errors =
        toml_errors("[pooler]\nshare_by = \"app\"\nshare_weights = { web = 0 }\n[databases.app]\nhost = \"h\"");
    assert!(errors.iter().any(|e| e.contains("\"app\" is not one of none, user, application_name")), "{errors:?}");
    assert!(errors.iter().any(|e| e.contains("\"web\": 0 is out of range (1 to 1000)")), "{errors:?}");
    // Carpool's own settings stand in a PgBouncer file, too.
    let config = ini("[pgbouncer]\nshare_by = user\nshare_weights = alice=3, bob = 2\n[databases]\na = host=h");
    assert_eq!(config.pooler.share_weights, [("alice".into(), 3), ("bob".into(), 2)].into());
}
