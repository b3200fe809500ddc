//! From the first byte to the first ReadyForQuery.

use std::io::{Read, Write};
use std::process::Command;

use crate::harness::raw::{V3_0, message, query, startup};
use crate::harness::{Carpool, Message, Postgres, Raw, Setup, eventually};

const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;

fn packet(code: u32) -> Vec<u8> {
    [8u32.to_be_bytes(), code.to_be_bytes()].concat()
}

/// Sends bytes on a new connection and gives what comes back until it is closed.
fn answer(carpool: &Carpool, bytes: &[u8]) -> Vec<u8> {
    let stream = Raw::connect(carpool.port);
    let mut stream = stream.stream();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => answer,
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => panic!("not closed; got {}", answer.escape_ascii()),
        Err(_) => answer,
    }
}

fn is_error(answer: &[u8], code: &str) -> bool {
    let code = format!("\0C{code}\0");
    answer.first() == Some(&b'E') && answer.windows(code.len()).any(|w| w == code.as_bytes())
}

/// The login of a raw client with these parameters: its error, if it is refused.
fn refusal(carpool: &Carpool, parameters: &[(&str, &str)]) -> Option<Message> {
    let mut raw = Raw::connect(carpool.port);
    raw.send(&startup(V3_0, parameters));
    raw.finish_login()
}

#[test]
fn the_startup_packet_byte_by_byte() {
    let carpool = Carpool::start(&Setup::default());
    let mut raw = Raw::connect(carpool.port);
    for byte in startup(V3_0, &[("user", "postgres"), ("database", &carpool.database)]) {
        raw.send(&[byte]);
    }
    assert!(raw.finish_login().is_none());
    assert_eq!(raw.value("select 1"), "1");
}

#[test]
fn queries_behind_the_startup_packet_in_one_write() {
    let carpool = Carpool::start(&Setup::default());
    let mut raw = Raw::connect(carpool.port);
    let login = startup(V3_0, &[("user", "postgres"), ("database", &carpool.database), ("datestyle", "german")]);
    raw.send_all(&[login, query("select 1"), query("show datestyle")]);
    assert!(raw.finish_login().is_none());
    assert_eq!(raw.until_ready()[1].columns()[0].as_deref(), Some("1"));
    assert_eq!(raw.until_ready()[1].columns()[0].as_deref(), Some("German, DMY"));
}

#[test]
fn lengths_that_cannot_be() {
    let carpool = Carpool::start(&Setup::default());
    for len in [0u32, 3, 4, 7, 10_001, 0x7fff_ffff, u32::MAX] {
        let answer = answer(&carpool, &[len.to_be_bytes(), V3_0.to_be_bytes()].concat());
        assert!(answer.is_empty() || is_error(&answer, "08P01"), "{len}: {}", answer.escape_ascii());
    }
    // A message of the protocol proper, before startup.
    for bytes in [message('p', b"secret\0"), query("select 1"), vec![0xff; 20_000], b"GET / HTTP/1.1\r\n\r\n".to_vec()]
    {
        let answer = answer(&carpool, &bytes);
        assert!(answer.is_empty() || is_error(&answer, "08P01"), "{}", answer.escape_ascii());
    }
    assert_eq!(carpool.client().value("select 1"), "1");
}

#[test]
fn parameters_that_do_not_end() {
    let carpool = Carpool::start(&Setup::default());
    for body in
        [&b"user\0postgres"[..], b"user\0postgres\0", b"user\0postgres\0\0x", b"user\0\xff\xfe\0\0", b"user", b""]
    {
        let mut bytes = u32::try_from(body.len() + 8).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(&V3_0.to_be_bytes());
        bytes.extend_from_slice(body);
        assert!(is_error(&answer(&carpool, &bytes), "08P01"), "{}", body.escape_ascii());
    }
    let no_user = startup(V3_0, &[("database", &carpool.database)]);
    assert!(is_error(&answer(&carpool, &no_user), "28000"));
}

#[test]
fn encryption_is_refused_politely() {
    let carpool = Carpool::start(&Setup::default());
    for asked in [&[SSL][..], &[GSS], &[SSL, GSS], &[GSS, SSL]] {
        let mut raw = Raw::connect(carpool.port);
        for code in asked {
            raw.send(&packet(*code));
            let mut byte = [0];
            raw.stream().read_exact(&mut byte).unwrap();
            assert_eq!(&byte, b"N", "{asked:?}");
        }
        raw.send(&startup(V3_0, &[("user", "postgres"), ("database", &carpool.database)]));
        assert!(raw.finish_login().is_none());
        assert_eq!(raw.value("select 1"), "1");
    }
    for twice in [[SSL, SSL], [GSS, GSS]] {
        let mut raw = Raw::connect(carpool.port);
        raw.send(&packet(twice[0]));
        raw.stream().read_exact(&mut [0]).unwrap();
        raw.send(&packet(twice[1]));
        let replies = raw.until_closed();
        assert!(replies.iter().all(|m| m.tag == b'E'), "{replies:?}");
    }
}

/// CVE-2021-3935: what comes in one write with the request can only have been injected.
#[test]
fn bytes_behind_an_encryption_request_close_the_connection() {
    let carpool = Carpool::start(&Setup::default());
    let login = startup(V3_0, &[("user", "postgres"), ("database", &carpool.database)]);
    for code in [SSL, GSS] {
        for behind in [&login[..], &[login.clone(), query("select 1")].concat(), &[0], &packet(SSL), &packet(GSS)] {
            let answer = answer(&carpool, &[&packet(code), behind].concat());
            assert!(is_error(&answer, "08P01"), "{}", answer.escape_ascii());
        }
    }
}

#[test]
fn newer_protocols_and_extensions_are_negotiated() {
    let carpool = Carpool::start(&Setup::default());
    let user = [("user", "postgres"), ("database", carpool.database.as_str())];
    let extended = [&user[..], &[("_pq_.one", "1"), ("_pq_.two", "2")]].concat();
    for (version, parameters, expected, secret) in [
        (V3_0, &user[..], None, 4),
        (V3_0 | 2, &user, None, 32),
        (V3_0 | 99, &user, Some(&b"\0\x03\0\x02\0\0\0\0"[..]), 32),
        (V3_0, &extended, Some(b"\0\x03\0\0\0\0\0\x02_pq_.one\0_pq_.two\0"), 4),
        (V3_0 | 9999, &extended, Some(b"\0\x03\0\x02\0\0\0\x02_pq_.one\0_pq_.two\0"), 32),
    ] {
        let mut raw = Raw::connect(carpool.port);
        raw.send(&startup(version, parameters));
        if let Some(expected) = expected {
            let first = raw.read();
            assert_eq!((first.tag, first.body.as_slice()), (b'v', expected), "{version:x}");
        }
        assert!(raw.finish_login().is_none());
        assert_eq!(raw.key.len(), 4 + secret, "{version:x}");
        assert_eq!(raw.value("select 1"), "1");
    }
    for version in [2 << 16, 4 << 16, 1] {
        let answer = answer(&carpool, &startup(version, &user));
        assert!(is_error(&answer, "0A000"), "{version:x}: {}", answer.escape_ascii());
    }
}

#[test]
fn names_too_long_are_refused_even_before_a_fallback() {
    let postgres = Postgres::shared();
    let sections = format!("[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {}\n", postgres.port);
    let carpool = Carpool::start(&Setup::default().sections(&sections));
    let long = "x".repeat(9_900);
    for parameters in [[("user", "postgres"), ("database", long.as_str())], [("user", &long), ("database", "x")]] {
        let error = refusal(&carpool, &parameters).expect("refused");
        assert!(matches!(error.field('C').as_deref(), Some("08P01" | "3D000" | "28000")), "{error:?}");
    }
    // The fallback works, and what PostgreSQL doesn't have is its word.
    assert!(refusal(&carpool, &[("user", "postgres"), ("database", "postgres")]).is_none());
    let error = refusal(&carpool, &[("user", "postgres"), ("database", "nowhere")]).expect("refused");
    assert_eq!(error.field('C').as_deref(), Some("3D000"));
}

#[test]
fn a_login_that_does_not_go_on_is_ended() {
    let carpool = Carpool::start(&Setup::pooler("client_login_timeout = 0.3\nauth_type = \"scram-sha-256\""));
    let login = startup(V3_0, &[("user", "scram_user"), ("database", &carpool.database)]);
    for sent in [&b""[..], &login[..5], &login, &packet(SSL)] {
        let mut raw = Raw::connect(carpool.port);
        raw.send(sent);
        if sent == packet(SSL) {
            raw.stream().read_exact(&mut [0]).unwrap();
        }
        let last = raw.until_closed().pop();
        assert_eq!(last.and_then(|m| m.field('M')).as_deref(), Some("client_login_timeout"));
    }
}

/// Runs psql with a password and gives its output, or its error's text.
pub fn psql(port: u16, database: &str, user: &str, password: &str, sql: &str) -> Result<String, String> {
    let output = Command::new("psql")
        .args(["-XAtqw", "-h", "127.0.0.1", "-p", &port.to_string(), "-U", user, "-d", database, "-c", sql])
        .env("PGPASSWORD", password)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[test]
fn before_authentication_nothing_tells_what_there_is() {
    for auth in ["plain", "md5", "scram-sha-256"] {
        let carpool = Carpool::start(&Setup::pooler(&format!("auth_type = \"{auth}\"")));
        let database = carpool.database.as_str();
        let try_login = |user: &str, database: &str| {
            let error = psql(carpool.port, database, user, "wrong", "select 1").expect_err("a wrong password");
            let (_, error) = error.split_once("FATAL:").unwrap_or_else(|| panic!("{error}"));
            error.replace(user, "USER").trim().to_owned()
        };
        let wrong = try_login("plain_user", database);
        assert!(wrong.contains("password authentication failed"), "{wrong}");
        assert_eq!(try_login("nobody_at_all", database), wrong, "{auth}: unknown user");
        assert_eq!(try_login("plain_user", "nowhere"), wrong, "{auth}: unknown database");
        assert_eq!(try_login("app", database), wrong, "{auth}: user without a password");
        assert_eq!(try_login("nobody_at_all", "pgbouncer"), wrong, "{auth}: console");
        // With the right password the truth comes out.
        let error = psql(carpool.port, "nowhere", "plain_user", "plain_user", "select 1").unwrap_err();
        assert!(error.contains("\"nowhere\""), "{error}");
        // The requests for a password are alike, too, but for what is random.
        let asked = |user: &str| {
            let mut raw = Raw::connect(carpool.port);
            raw.send(&startup(V3_0, &[("user", user), ("database", database)]));
            let Message { tag, body } = raw.read();
            (tag, body.len(), body[..4].to_vec())
        };
        assert_eq!(asked("plain_user"), asked("nobody_at_all"), "{auth}");
        assert_eq!(asked("plain_user"), asked("app"), "{auth}");
    }
}

/// CVE-2026-6664.
#[test]
fn sasl_lengths_that_cannot_be() {
    let carpool = Carpool::start(&Setup::pooler("auth_type = \"scram-sha-256\""));
    let login = startup(V3_0, &[("user", "scram_user"), ("database", &carpool.database)]);
    for (len, rest) in
        [(u32::MAX, 0), (u32::MAX - 1, 0), (0, 0), (0x7fff_ffff, 5), (5, 4), (4, 5), (1 << 16, 60_000), (u32::MAX, 50)]
    {
        let mut body = b"SCRAM-SHA-256\0".to_vec();
        body.extend_from_slice(&len.to_be_bytes());
        body.extend(std::iter::repeat_n(b'n', rest));
        let mut raw = Raw::connect(carpool.port);
        raw.send(&login);
        assert_eq!(raw.read().tag, b'R');
        raw.send(&message('p', &body));
        loop {
            let Ok(reply) = raw.try_read() else { panic!("{len}: no error") };
            match reply.tag {
                b'E' => break,
                // -1: the client's first message is to follow.
                b'R' if len == u32::MAX && rest == 0 => {
                    assert_eq!(reply.body, [0, 0, 0, 11]);
                    raw.send(&message('p', b"nonsense"));
                }
                _ => panic!("{len}: {reply:?}"),
            }
        }
        assert!(raw.until_closed().is_empty());
    }
    for len in [0u32, 3, 0x4000_0000, u32::MAX, 100_000_000] {
        let mut raw = Raw::connect(carpool.port);
        raw.send(&login);
        raw.read();
        raw.send(&[&b"p"[..], &len.to_be_bytes()].concat());
        assert!(raw.until_closed().iter().all(|m| m.tag == b'E'), "{len}");
    }
    assert_eq!(psql(carpool.port, &carpool.database, "scram_user", "scram_user", "select 1"), Ok("1".into()));
}

#[test]
fn startup_parameters_hold_per_client() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let database = carpool.database.as_str();
    let base = [("user", "postgres"), ("database", database)];
    let login = |more: &[(&str, &str)]| Raw::login_with(carpool.port, &[&base, more].concat());
    let mut clients = [
        login(&[]),
        login(&[("DateStyle", "German"), ("TimeZone", "Asia/Tokyo"), ("application_name", "first")]),
        login(&[("options", "-c datestyle=sql -c work_mem=5MB"), ("search_path", "pg_catalog, public")]),
        login(&[("application_name", "nämé ".repeat(20).trim()), ("options", "-c geqo=off -c geqo=on")]),
    ];
    let names = ["datestyle", "timezone", "application_name", "work_mem", "search_path", "geqo"];
    for parameters in [&clients[0].parameters, &clients[1].parameters] {
        assert!(parameters.iter().any(|(name, _)| name == "server_version"), "{parameters:?}");
    }
    let reported = |client: &Raw, name: &str| client.parameters.iter().find(|(n, _)| n == name).unwrap().1.clone();
    assert_eq!(reported(&clients[1], "DateStyle"), "German, DMY");
    assert_eq!(reported(&clients[1], "TimeZone"), "Asia/Tokyo");
    assert_eq!(reported(&clients[1], "application_name"), "first");
    for _ in 0..3 {
        let shown = |client: &mut Raw| names.map(|name| client.value(&format!("show {name}")));
        assert_eq!(shown(&mut clients[0])[..2], ["ISO, MDY", "Etc/UTC"]);
        assert_eq!(shown(&mut clients[0])[3..], ["4MB", "\"$user\", public", "on"]);
        assert_eq!(shown(&mut clients[1])[..3], ["German, DMY", "Asia/Tokyo", "first"]);
        let expected = ["SQL, MDY", "Etc/UTC", "", "5MB", "pg_catalog, public", "on"];
        assert_eq!(shown(&mut clients[2]), expected);
        assert!(shown(&mut clients[3])[2].len() < 64);
    }
    // What others see in PostgreSQL is whoever has the server.
    clients[1].query("begin");
    let sql = format!("select application_name from pg_stat_activity where datname = '{database}'");
    assert_eq!(Postgres::shared().sql("postgres", &sql), "first");
    clients[1].query("commit");
}

#[test]
fn notices_about_startup_parameters() {
    let carpool = Carpool::start(&Setup::default());
    let long = "x".repeat(70);
    let parameters = [("user", "postgres"), ("database", &carpool.database), ("application_name", &long)];
    let login = |port| {
        let mut raw = Raw::connect(port);
        raw.send(&startup(V3_0, &parameters));
        let messages = raw.until_ready();
        let at = |tag| messages.iter().position(|m| m.tag == tag).expect("a message of this type");
        assert!(at(b'R') < at(b'N') && at(b'N') < at(b'S'), "{messages:?}");
        ['S', 'C', 'M'].map(|field| messages[at(b'N')].field(field))
    };
    let direct = login(Postgres::shared().port);
    // The first time a server is asked, then what it said is remembered.
    assert_eq!([login(carpool.port), login(carpool.port)], [direct.clone(), direct]);
}

#[test]
fn startup_parameters_that_are_refused() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let database = carpool.database.as_str();
    for more in [
        ("nonsense", "1"),
        ("DateStyle", "nonsense"),
        ("TimeZone", "Nowhere/Land"),
        ("client_encoding", "nonsense"),
        ("options", "-c work_mem=lots"),
        ("options", "-c max_connections=5"),
        ("options", "-c nonsense=1"),
    ] {
        let parameters = [("user", "postgres"), ("database", database), more];
        let through = refusal(&carpool, &parameters).unwrap_or_else(|| panic!("{more:?} was taken"));
        let mut direct = Raw::connect(Postgres::shared().port);
        direct.send(&startup(V3_0, &parameters));
        let direct = direct.finish_login().expect("PostgreSQL refuses it");
        for field in ['S', 'C', 'M'] {
            assert_eq!(through.field(field), direct.field(field), "{more:?}");
        }
        assert_eq!(carpool.client().value("select 1"), "1");
    }
}

/// The secret of a user whose password is its name, as the configuration may have it.
fn secret(kind: &str, user: &str) -> String {
    let sql = match kind {
        "plain" => return user.to_owned(),
        "md5" => format!("select 'md5' || md5('{user}{user}')"),
        // Pass-through needs the very secret that the server has.
        _ => format!("select rolpassword from pg_authid where rolname = '{user}'"),
    };
    Postgres::shared().sql("postgres", &sql)
}

/// For each way to log in and each kind of secret, which of the servers' methods Carpool can answer.
#[test]
fn every_combination_of_secrets_and_methods() {
    let (all, none) = ("scram_user md5_user plain_user", "");
    for (auth, kind, through) in [
        ("trust", "plain", all),
        ("trust", "md5", "md5_user"),
        ("trust", "scram", none),
        ("plain", "plain", all),
        ("plain", "md5", all),
        ("plain", "scram", "scram_user plain_user"),
        ("md5", "plain", all),
        ("md5", "md5", "md5_user"),
        ("md5", "scram", "scram_user"),
        ("scram-sha-256", "plain", all),
        ("scram-sha-256", "md5", none),
        ("scram-sha-256", "scram", "scram_user"),
    ] {
        let users = all.split(' ').filter(|user| kind != "scram" || *user != "md5_user");
        let section = |user: &str| format!("[users.{user}]\npassword = \"{}\"\n", secret(kind, user));
        let sections: String = users.clone().map(section).collect();
        let carpool = Carpool::start(&Setup::pooler(&format!("auth_type = \"{auth}\"")).sections(&sections));
        for user in users {
            let got = psql(carpool.port, &carpool.database, user, user, "select current_user");
            let right = if through.contains(user) { got.as_deref() == Ok(user) } else { got.is_err() };
            assert!(right, "auth_type {auth}, {kind} secret, {user}: {got:?}\n{}", carpool.log());
            if auth != "trust" {
                psql(carpool.port, &carpool.database, user, "wrong", "select 1").expect_err("a wrong password");
            }
        }
    }
}

#[test]
fn a_wrong_password_of_the_configuration_is_told_to_whom_it_concerns() {
    let sections = "[users.other]\npassword = \"right\"\n";
    let setup = Setup::pooler("auth_type = \"plain\"\nserver_login_retry = 0.2").sections(sections);
    let carpool = Carpool::start(&setup.database("user = \"scram_user\"\npassword = \"wrong\""));
    let error = psql(carpool.port, &carpool.database, "other", "right", "select 1").unwrap_err();
    assert!(error.contains("password authentication failed for user \"scram_user\""), "{error}");
}

#[test]
fn many_logins_at_once_make_no_more_servers_than_the_pool_has() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 4"));
    let port = carpool.port;
    std::thread::scope(|scope| {
        for _ in 0..60 {
            scope.spawn(|| {
                let mut client = Raw::login(port, "postgres", &carpool.database);
                assert_eq!(client.value("select 1 from pg_sleep(0.01)"), "1");
            });
        }
    });
    assert!(Postgres::shared().backends(&carpool.database) <= 4);
}

#[test]
fn connections_that_say_nothing_hold_up_nobody() {
    let carpool = Carpool::start(&Setup::default());
    let silent: Vec<_> = (0..200).map(|_| Raw::connect(carpool.port)).collect();
    assert_eq!(carpool.client().value("select 1"), "1");
    drop(silent);
    eventually("they are gone", || (carpool.client().value("select 1") == "1").then_some(()));
}
