//! Names and values that look like something else: SQL, lines of the log, formats.

use crate::harness::raw::{V3_0, query, startup};
use crate::harness::{Carpool, Postgres, Raw, Setup};
use crate::startup::psql;

/// What ends a string constant or an identifier early, somewhere.
const TEXTS: [&str; 12] = [
    "'",
    "''; create table public.broken(); --",
    "\"; create table public.broken(); --",
    "\\'; create table public.broken(); --",
    "\\\\'; create table public.broken(); --",
    "$$; create table public.broken(); --",
    "$1",
    "E'\\'; create table public.broken(); --",
    "';\ncreate table public.broken(); --",
    "/* '",
    "U&'\\0027'; create table public.broken(); --",
    "{}%s%n\u{1b}[2J",
];

fn is_whole(postgres: &Postgres, database: &str) {
    let broken = postgres.sql(database, "select count(*) from pg_class where relname = 'broken'");
    assert_eq!(broken, "0", "a text was run as SQL");
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// They are looked up, logged in to the server with, and shown as what they are.
#[test]
fn names_that_look_like_sql_are_names() {
    let postgres = Postgres::shared();
    let pooler = "auth_type = \"scram-sha-256\"\nauth_user = \"postgres\"\nstats_users = [\"plain_user\"]";
    let carpool = Carpool::start(&Setup::pooler(pooler));
    for (number, text) in TEXTS.iter().enumerate() {
        // In the shared cluster names are nobody else's; PostgreSQL takes 63 bytes.
        let user = format!("{number} {text}");
        let prefix = format!("{} ", carpool.database);
        let user = format!("{prefix}{user}").chars().take(63).collect::<String>();
        postgres.sql("postgres", &format!("create role {} login password 'pw'", quoted(&user)));
        let got = psql(carpool.port, &carpool.database, &user, "pw", "select current_user");
        assert_eq!(got.as_deref(), Ok(user.as_str()));
        let refused = psql(carpool.port, &carpool.database, &user, "wrong", "select 1").unwrap_err();
        assert!(refused.contains("password authentication failed"), "{refused}");
        // Of those who aren't there the question is the same.
        let refused = psql(carpool.port, &carpool.database, text, "wrong", "select 1").unwrap_err();
        assert!(refused.contains("password authentication failed"), "{refused}");
        let refused = psql(carpool.port, text, &user, "pw", "select 1").unwrap_err();
        assert!(refused.contains("authentication failed"), "{refused}");
        postgres.sql("postgres", &format!("drop role {}", quoted(&user)));
    }
    is_whole(postgres, &carpool.database);
}

/// Settings are set on servers by text, under whatever `standard_conforming_strings` and `client_encoding` either
/// client has.
#[test]
fn settings_that_look_like_sql_are_values() {
    let postgres = Postgres::shared();
    let carpool = Carpool::start(&Setup::pooler("").database("pool_size = 1"));
    for conforming in ["on", "off"] {
        let mut other = carpool.client();
        other.query("set standard_conforming_strings = off; set client_encoding = 'SJIS'; set my.own = 'x'");
        for text in TEXTS {
            let name = "application_name";
            let parameters = [("user", "postgres"), ("database", &carpool.database), (name, text), ("my.text", text)];
            let mut client = Raw::login_with(carpool.port, &parameters);
            client.query(&format!("set standard_conforming_strings = {conforming}"));
            client.query(&format!("set search_path = {}, public", quoted(text)));
            for _ in 0..2 {
                // The server was another's meanwhile.
                assert_eq!(other.value("select current_setting('my.own')"), "x");
                assert_eq!(client.value("select current_setting('my.text')"), text);
                assert_eq!(client.value("select current_setting('search_path')"), format!("{}, public", quoted(text)));
            }
        }
    }
    is_whole(postgres, &carpool.database);
}

/// A role and a channel are identifiers, and are quoted as such where Carpool sends them itself.
#[test]
fn identifiers_that_look_like_sql_are_identifiers() {
    let postgres = Postgres::shared();
    let carpool = Carpool::start(&Setup::pooler(""));
    let mut other = carpool.client();
    for (number, text) in TEXTS.iter().enumerate() {
        let role = format!("{} {number} {text}", carpool.database).chars().take(63).collect::<String>();
        postgres.sql("postgres", &format!("create role {}", quoted(&role)));
        let mut client = carpool.client();
        let channel = quoted(&text.chars().take(63).collect::<String>());
        client.query(&format!("listen {channel}"));
        client.query(&format!("set role {}", quoted(&role)));
        other.value("select 1");
        assert_eq!(client.value("select current_user"), role);
        assert_eq!(client.value("select pg_listening_channels()"), text.chars().take(63).collect::<String>());
        client.query("unlisten *; reset role");
        drop(client);
        postgres.sql("postgres", &format!("drop role {}", quoted(&role)));
    }
    is_whole(postgres, &carpool.database);
}

/// Whatever clients call themselves: every line of the log begins as Carpool begins them, or shows that it goes on.
#[test]
fn nobody_writes_lines_into_the_log() {
    let forged = "x\n2030-01-01T00:00:00.000000Z  INFO forged\r\u{1b}[2J";
    let hba = std::env::temp_dir().join(format!("carpool-{}-hostile-hba", std::process::id()));
    std::fs::write(
        &hba,
        "host all app all trust\nhost all plain_user all scram-sha-256\nhost all md5_user all reject\n",
    )
    .unwrap();
    let pooler = format!(
        "auth_type = \"hba\"\nauth_hba_file = \"{}\"\nverbose = 2\nlog_connections = true\nlog_disconnections = true",
        hba.display()
    );
    let carpool = Carpool::start(&Setup::pooler(&pooler));
    let attempt = |parameters: &[(&str, &str)]| {
        let mut raw = Raw::connect(carpool.port);
        raw.send(&startup(V3_0, parameters));
        raw.try_read().map(|message| message.tag)
    };
    let database = carpool.database.as_str();
    for parameters in [
        &[("user", forged), ("database", database)][..],
        &[("user", "app"), ("database", forged)],
        &[("user", "md5_user"), ("database", forged)],
        &[("user", "plain_user"), ("database", forged)],
        &[("user", "app"), ("database", database), ("options", forged)],
        &[("user", "app"), ("database", database), (forged, forged)],
        &[("user", "app"), ("database", database), ("carpool.pin", forged)],
        &[("user", "app"), ("database", database), ("replication", forged)],
        &[("user", forged), ("database", "pgbouncer")],
    ] {
        assert!(attempt(parameters).is_ok(), "{parameters:?}");
    }
    let mut named =
        Raw::login_with(carpool.port, &[("user", "app"), ("database", database), ("application_name", forged)]);
    named.send(&query(&format!("select 1 as \"{forged}\"; {forged}")));
    named.until_ready();
    named.send(&crate::harness::raw::message('?', forged.as_bytes()));
    named.until_closed();
    carpool.logs("forged");
    let log = carpool.log();
    let begins = |line: &str| line.starts_with("20") && line.as_bytes().get(10) == Some(&b'T');
    for line in log.lines() {
        assert!(begins(line) || line.starts_with('\t'), "{line:?} in\n{log}");
        assert!(!line.starts_with("2030"), "{line:?} in\n{log}");
        assert!(!line.contains('\u{1b}') && !line.contains('\r'), "{line:?}");
    }
    std::fs::remove_file(hba).unwrap();
}

/// By PgBouncer's default, `md5`, users with a SCRAM secret are asked by SCRAM: so must those be who aren't there.
#[test]
fn unknown_users_are_asked_as_most_are() {
    let postgres = Postgres::shared();
    let stored =
        |user: &str| postgres.sql("postgres", &format!("select rolpassword from pg_authid where rolname = '{user}'"));
    let section = |user: &str, secret: &str| format!("[users.{user}]\npassword = \"{secret}\"\n");
    for (usual, rare) in [("scram_user", "md5_user"), ("md5_user", "scram_user")] {
        let secret = stored(usual);
        let sections = section(usual, &secret) + &section(rare, &stored(rare)) + &section("plain_user", &secret);
        let carpool = Carpool::start(&Setup::pooler("auth_type = \"md5\"").sections(&sections));
        let asked = |user: &str| {
            let mut raw = Raw::connect(carpool.port);
            raw.send(&startup(V3_0, &[("user", user), ("database", &carpool.database)]));
            raw.read().body[..4].to_vec()
        };
        assert_eq!(asked("nobody_at_all"), asked(usual), "most are as {usual}");
        assert_ne!(asked("nobody_at_all"), asked(rare));
        // A reload changes which kind that is.
        let now = stored(rare);
        let sections = section(usual, &secret) + &section(rare, &now) + &section("plain_user", &now);
        let toml = Setup::pooler("auth_type = \"md5\"").sections(&sections).toml(postgres, &carpool.database);
        std::fs::write(&carpool.config, toml).unwrap();
        carpool.signal("HUP");
        carpool.logs("reloaded");
        assert_eq!(asked("nobody_at_all"), asked(rare), "most are as {rare} now");
    }
}
