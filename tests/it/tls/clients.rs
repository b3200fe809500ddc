//! Clients: who gets in with which `sslmode`, and with which certificate.

use crate::harness::tls::{Authority, Files, client_config, expired, proxy};
use crate::harness::{Carpool, Raw, Setup};

use super::{psql, psql_as, tls_column};

const TLS13: &str = "TLSv1.3/TLS_AES_256_GCM_SHA384";

/// What psql says of its connection.
const CONNINFO: &str = "\\conninfo";

#[test]
fn each_sslmode_of_libpq_against_each_of_carpool() {
    let (authority, files) = (Authority::new("root"), Files::new());
    let identity = authority.issue("localhost", &["localhost"]);
    let root = files.write("root.crt", &authority.pem());
    // What is expected of libpq's disable, prefer, require, verify-ca and verify-full: plain, encrypted or refused.
    for (mode, expected) in [("disable", "pp---"), ("allow", "peeee"), ("prefer", "peeee"), ("require", "-eeee")] {
        let carpool = Carpool::start(&Setup::pooler(&files.pooler(&identity, mode)));
        let modes = ["disable", "prefer", "require", "verify-ca", "verify-full"];
        for (libpq, expected) in modes.into_iter().zip(expected.chars()) {
            let conninfo = format!("sslmode={libpq} sslrootcert={root}");
            let got = psql(&carpool, &conninfo, CONNINFO);
            let seen = match &got {
                Ok(text) if text.contains("SSL connection (protocol: TLSv1.3") => 'e',
                Ok(_) => 'p',
                Err(_) => '-',
            };
            assert_eq!(seen, expected, "client_tls_sslmode {mode}, sslmode {libpq}: {got:?}");
            if expected != '-' {
                assert_eq!(psql(&carpool, &conninfo, "select 1 + 1"), Ok("2".into()));
            }
        }
    }
}

#[test]
fn without_tls_where_it_is_required_the_error_says_so() {
    let (authority, files) = (Authority::new("root"), Files::new());
    let identity = authority.issue("localhost", &["localhost"]);
    let carpool = Carpool::start(&Setup::pooler(&files.pooler(&identity, "require")));
    let error = psql(&carpool, "sslmode=disable", "select 1").unwrap_err();
    assert!(error.contains("FATAL:  SSL required") && error.contains("client_tls_sslmode"), "{error}");
    let mut raw = Raw::connect(carpool.port);
    raw.send(&crate::harness::raw::startup(crate::harness::raw::V3_0, &[("user", "postgres")]));
    let error = raw.finish_login().expect("refused");
    assert_eq!(error.field('C').as_deref(), Some("28000"));
}

#[test]
fn unix_sockets_need_no_tls() {
    let (authority, files) = (Authority::new("root"), Files::new());
    let identity = authority.issue("localhost", &["localhost"]);
    let dir = files.path("");
    let lines = format!("{}unix_socket_dir = \"{}\"\n", files.pooler(&identity, "require"), dir.display());
    let lines = format!("{lines}listen_port = {}\n", crate::harness::postgres::free_port());
    let carpool = Carpool::start(&Setup::pooler(&lines));
    let conninfo = format!("host={} dbname={} user=postgres", dir.display(), carpool.database);
    assert_eq!(psql_as(carpool.port, &conninfo, "select 2"), Ok("2".into()));
}

#[test]
fn libpq_notices_a_wrong_certificate() {
    let (authority, other, files) = (Authority::new("root"), Authority::new("other"), Files::new());
    let root = files.write("root.crt", &authority.pem());
    let middle = authority.intermediate("between").intermediate("lower");
    for (identity, works) in [
        (middle.issue("localhost", &["localhost"]), "require verify-ca verify-full"),
        (authority.issue("x", &["elsewhere.example"]), "require verify-ca"),
        (authority.issue_with("localhost", &["localhost"], expired), "require"),
        (other.issue("localhost", &["localhost"]), "require"),
    ] {
        let carpool = Carpool::start(&Setup::pooler(&files.pooler(&identity, "prefer")));
        for mode in ["require", "verify-ca", "verify-full"] {
            // With a root certificate, libpq takes "require" for "verify-ca".
            let root = if mode == "require" { "sslrootcert=/nowhere".into() } else { format!("sslrootcert={root}") };
            let got = psql(&carpool, &format!("sslmode={mode} {root}"), "select 1");
            assert_eq!(got.is_ok(), works.split(' ').any(|w| w == mode), "{works}: {mode}: {got:?}");
        }
    }
}

#[test]
fn protocols_and_ciphers_are_as_configured() {
    let (authority, files) = (Authority::new("root"), Files::new());
    let identity = authority.issue("localhost", &["localhost"]);
    let port = |lines: &str| Carpool::start(&Setup::pooler(&(files.pooler(&identity, "require") + lines)));
    for (lines, versions, expected) in [
        ("", None, TLS13),
        ("client_tls_protocols = \"tlsv1.2\"", None, "TLSv1.2/ECDHE-ECDSA-AES256-GCM-SHA384"),
        ("client_tls_ciphers = \"ECDHE-ECDSA-CHACHA20-POLY1305\"", Some("12"), "TLSv1.2/ECDHE-ECDSA-CHACHA20-POLY1305"),
        ("client_tls13_ciphers = \"TLS_AES_128_GCM_SHA256\"", None, "TLSv1.3/TLS_AES_128_GCM_SHA256"),
    ] {
        let carpool = port(lines);
        let limit = versions.map_or("", |_| "ssl_max_protocol_version=TLSv1.2");
        let shown = psql(&carpool, &format!("sslmode=require {limit}"), CONNINFO).unwrap();
        let (version, cipher) = expected.split_once('/').unwrap();
        assert!(shown.contains(version) && shown.contains(cipher), "{lines}: {shown}");
    }
    let strict = port("client_tls_protocols = \"tlsv1.3\"");
    assert!(psql(&strict, "sslmode=require ssl_max_protocol_version=TLSv1.2", "select 1").is_err());
    let config = client_config(&authority);
    let mut client = Raw::login(proxy(strict.port, config), "postgres", &strict.database);
    assert_eq!(client.value("select 1"), "1");
    assert_eq!(tls_column(&strict, "clients"), [TLS13]);
    assert_eq!(tls_column(&strict, "servers"), [""]);
    strict.logs("tls=\"TLSv1.3/TLS_AES_256_GCM_SHA384\"");
}

/// Lines that have Carpool ask for clients' certificates.
fn asks(files: &Files, authority: &Authority, server: &Authority, mode: &str) -> String {
    let ca = files.write("clients.crt", &authority.pem());
    let identity = server.issue("localhost", &["localhost"]);
    format!("{}client_tls_ca_file = \"{ca}\"\n", files.pooler(&identity, mode))
}

#[test]
fn with_verify_ca_only_certificates_of_the_authority_let_in() {
    let (server, clients, other, files) = (Authority::new("s"), Authority::new("c"), Authority::new("o"), Files::new());
    let carpool = Carpool::start(&Setup::pooler(&asks(&files, &clients, &server, "verify-ca")));
    let with = |name: &str, identity| {
        let (certificate, key) = files.write_identity(name, &identity);
        psql(&carpool, &format!("sslmode=require sslcert={certificate} sslkey={key}"), "select 1")
    };
    assert_eq!(with("good", clients.issue("anybody", &[])), Ok("1".into()));
    assert_eq!(with("chain", clients.intermediate("i").issue("anybody", &[])), Ok("1".into()));
    for (name, identity) in
        [("other", other.issue("postgres", &[])), ("expired", clients.issue_with("postgres", &[], expired))]
    {
        let error = with(name, identity).unwrap_err();
        assert!(error.contains("SSL") || error.contains("closed"), "{name}: {error}");
    }
    let error = psql(&carpool, "sslmode=require sslcert=/nowhere", "select 1").unwrap_err();
    assert!(error.contains("connection requires a valid client certificate"), "{error}");
    carpool.logs("TLS handshake failed: ");
}

#[test]
fn auth_type_cert_goes_by_the_common_name() {
    let (server, clients, other, files) = (Authority::new("s"), Authority::new("c"), Authority::new("o"), Files::new());
    let lines = asks(&files, &clients, &server, "verify-full") + "auth_type = \"cert\"\n";
    let carpool = Carpool::start(&Setup::pooler(&lines));
    let with = |user: &str, identity| {
        let (certificate, key) = files.write_identity("client", &identity);
        let login = format!("dbname={} user={user} sslmode=require", carpool.database);
        psql_as(carpool.port, &format!("{login} sslcert={certificate} sslkey={key}"), "select current_user")
    };
    assert_eq!(with("app", clients.issue("app", &[])), Ok("app".into()));
    assert_eq!(with("postgres", clients.issue("postgres", &[])), Ok("postgres".into()));
    // An alternative name is a host's; a name in another case, or with more behind it, is another's.
    for (user, identity) in [
        ("app", clients.issue("postgres", &["app"])),
        ("app", clients.issue("App", &[])),
        ("app", clients.issue("app ", &[])),
        ("unknown", clients.issue("unknown", &[])),
    ] {
        let error = with(user, identity).unwrap_err();
        assert!(error.contains(&format!("certificate authentication failed for user \"{user}\"")), "{error}");
    }
    assert!(with("app", other.issue("app", &[])).is_err());
}

#[test]
fn channel_binding_to_clients() {
    let (authority, files) = (Authority::new("root"), Files::new());
    let identity = authority.issue("localhost", &["localhost"]);
    let lines = files.pooler(&identity, "allow") + "auth_type = \"scram-sha-256\"\n";
    let carpool = Carpool::start(&Setup::pooler(&lines));
    let as_user = |further: &str| {
        let login = format!("dbname={} user=scram_user password=scram_user", carpool.database);
        psql_as(carpool.port, &format!("{login} {further}"), "select current_user")
    };
    for binding in ["require", "prefer", "disable"] {
        assert_eq!(
            as_user(&format!("sslmode=require channel_binding={binding}")),
            Ok("scram_user".into()),
            "{binding}"
        );
    }
    let error = as_user("sslmode=disable channel_binding=require").unwrap_err();
    assert!(error.contains("channel binding"), "{error}");
    let mut plain = Raw::connect(proxy(carpool.port, client_config(&authority)));
    plain.send(&crate::harness::raw::startup(
        crate::harness::raw::V3_0,
        &[("user", "scram_user"), ("database", &carpool.database)],
    ));
    let offer = plain.read();
    assert_eq!(offer.body, b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
    // As one from whom the offer was hidden on the way.
    let first = b"SCRAM-SHA-256\0\0\0\0\x1dy,,n=,r=abcdefghijklmnopqrstuvwx";
    let mut message = first.to_vec();
    message[14..18].copy_from_slice(&u32::try_from(first.len() - 18).unwrap().to_be_bytes());
    plain.send(&crate::harness::raw::message('p', &message));
    let error = plain.read();
    assert_eq!((error.tag, error.field('C').as_deref()), (b'E', Some("28000")), "{error:?}");
}
