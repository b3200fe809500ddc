//! Servers: which of them Carpool believes, and how it comes to them.

use crate::harness::postgres::default_bin;
use crate::harness::tls::{Authority, Files, expired, postgres};
use crate::harness::{Carpool, Postgres, Raw, Setup, eventually};

use super::tls_column;

/// A cluster with TLS in front of which Carpools are started.
struct World {
    files: Files,
    authority: Authority,
    postgres: Postgres,
}

impl World {
    /// One whose certificate has this name.
    fn new(name: &str) -> Self {
        let (authority, files) = (Authority::new("root"), Files::new());
        let postgres = postgres(&default_bin(), &files, &authority.issue(name, &[name]), Some(&authority));
        Self { files, authority, postgres }
    }

    /// Lines of the database's section.
    fn carpool(&self, pooler: &str, database: &str) -> Carpool {
        let name = self.postgres.new_database();
        let root = self.files.write("root.crt", &self.authority.pem());
        let lines = format!("host = \"localhost\"\n{database}").replace("ROOT", &root);
        Carpool::before(&self.postgres, &name, &Setup::pooler(&pooler.replace("ROOT", &root)).database(&lines))
    }

    fn hba(&self, lines: &str) {
        std::fs::write(self.postgres.dir.join("data/pg_hba.conf"), lines).unwrap();
        self.postgres.control(&["reload"]);
    }
}

/// Whether the server's own end is encrypted, or why nobody gets in.
fn is_encrypted(carpool: &Carpool) -> Result<bool, String> {
    let mut raw = Raw::connect(carpool.port);
    raw.send(&crate::harness::raw::startup(
        crate::harness::raw::V3_0,
        &[("user", "postgres"), ("database", &carpool.database)],
    ));
    if let Some(error) = raw.finish_login() {
        return Err(format!("{error:?}"));
    }
    let ssl = raw.value("select ssl from pg_stat_ssl where pid = pg_backend_pid()") == "t";
    let shown = tls_column(carpool, "servers");
    assert_eq!(shown.iter().any(|tls| tls.starts_with("TLSv1.3/")), ssl, "{shown:?}");
    Ok(ssl)
}

#[test]
fn each_sslmode_against_a_server_with_tls() {
    let world = World::new("localhost");
    for (mode, encrypted) in [
        ("disable", false),
        ("allow", false),
        ("prefer", true),
        ("require", true),
        ("verify-ca", true),
        ("verify-full", true),
    ] {
        let root = if mode.starts_with("verify") { "server_tls_ca_file = \"ROOT\"" } else { "" };
        let global = world.carpool(&format!("server_tls_sslmode = \"{mode}\"\n{root}"), "");
        assert_eq!(is_encrypted(&global), Ok(encrypted), "{mode}");
        let own = world.carpool("", &format!("server_tls_sslmode = \"{mode}\"\n{root}"));
        assert_eq!(is_encrypted(&own), Ok(encrypted), "{mode} of the database");
    }
    // Where nothing is said it is as in PgBouncer.
    assert_eq!(is_encrypted(&world.carpool("", "")), Ok(true));
    // Over a unix socket there is none, whatever is said.
    let dir = world.postgres.dir.display().to_string();
    let name = world.postgres.new_database();
    let root = world.files.write("root.crt", &world.authority.pem());
    let lines = format!("host = \"{dir}\"\nserver_tls_sslmode = \"verify-full\"\nserver_tls_ca_file = \"{root}\"");
    let unix = Carpool::before(&world.postgres, &name, &Setup::default().database(&lines));
    assert_eq!(is_encrypted(&unix), Ok(false));
}

#[test]
fn a_server_without_tls_is_only_good_for_those_who_do_not_insist() {
    let postgres = Postgres::shared();
    for (mode, gets_in) in [("disable", true), ("allow", true), ("prefer", true), ("require", false)] {
        let database = postgres.new_database();
        let carpool = Carpool::before(
            postgres,
            &database,
            &Setup::default().database(&format!("server_tls_sslmode = \"{mode}\"")),
        );
        match is_encrypted(&carpool) {
            Ok(encrypted) => assert!(gets_in && !encrypted, "{mode}"),
            Err(error) => {
                assert!(!gets_in && error.contains("does not offer TLS (server_tls_sslmode)"), "{mode}: {error}");
                assert!(error.contains("08006"), "{error}");
            }
        }
    }
}

#[test]
fn whom_carpool_does_not_believe() {
    let (authority, other, files) = (Authority::new("root"), Authority::new("other"), Files::new());
    let root = files.write("root.crt", &authority.pem());
    let wildcard = authority.intermediate("middle").issue("x", &["*.localdomain", "localhost"]);
    for (identity, believers) in [
        (wildcard, "require verify-ca verify-full"),
        (authority.issue("localhost", &["db.example.com"]), "require verify-ca"),
        // libpq's rule: without an alternative name the common name counts.
        (authority.issue("localhost", &[]), "require verify-ca verify-full"),
        (authority.issue_with("localhost", &["localhost"], expired), "require"),
        (other.issue("localhost", &["localhost"]), "require"),
    ] {
        let postgres = postgres(&default_bin(), &files, &identity, None);
        for mode in ["require", "verify-ca", "verify-full"] {
            let lines =
                format!("host = \"localhost\"\nserver_tls_sslmode = \"{mode}\"\nserver_tls_ca_file = \"{root}\"\n");
            let carpool = Carpool::before(&postgres, &postgres.new_database(), &Setup::default().database(&lines));
            let got = is_encrypted(&carpool);
            assert_eq!(got.is_ok(), believers.split(' ').any(|word| word == mode), "{believers}: {mode}: {got:?}");
            if let Err(error) = got {
                assert!(error.contains("TLS handshake failed: invalid peer certificate"), "{error}");
            }
        }
    }
}

#[test]
fn allow_and_prefer_try_the_other_way_as_libpq_does() {
    let world = World::new("localhost");
    let (allow, prefer) = ("server_tls_sslmode = \"allow\"", "server_tls_sslmode = \"prefer\"");
    for (hba, mode, expected) in [
        ("hostssl all all all trust", allow, Ok(true)),
        ("hostnossl all all all trust", prefer, Ok(false)),
        ("hostssl all all all trust", "server_tls_sslmode = \"disable\"", Err(())),
        ("hostnossl all all all trust", "server_tls_sslmode = \"require\"", Err(())),
    ] {
        let carpool = world.carpool(mode, "");
        world.hba(&format!("local all all trust\n{hba}\n"));
        let got = eventually("PostgreSQL has the new rules", || {
            let got = is_encrypted(&carpool);
            (got.is_ok() == expected.is_ok()).then_some(got)
        });
        assert_eq!(got.clone().map_err(|_| ()), expected, "{hba}: {got:?}");
        world.hba("local all all trust\nhost all all all trust\n");
    }
}

#[test]
fn a_certificate_shows_servers_who_carpool_is() {
    let world = World::new("localhost");
    let identity = |name: &str, common_name: &str| {
        let (certificate, key) = world.files.write_identity(name, &world.authority.issue(common_name, &[]));
        format!("server_tls_cert_file = \"{certificate}\"\nserver_tls_key_file = \"{key}\"\n")
    };
    let (good, wrong) = (identity("good", "postgres"), identity("wrong", "somebody"));
    let carpools = [&good, &wrong, ""].map(|lines| world.carpool(lines, "server_tls_sslmode = \"require\""));
    world.hba("local all all trust\nhostssl all all all cert\n");
    let results = eventually("PostgreSQL wants certificates", || {
        let results: Vec<_> = carpools.iter().map(is_encrypted).collect();
        results[2].is_err().then_some(results)
    });
    assert_eq!(results[0], Ok(true));
    assert!(results[1].is_err() && results[2].is_err(), "{results:?}");
}

#[test]
fn channel_binding_to_servers() {
    let world = World::new("localhost");
    let users = "[users.scram_user]\npassword = \"scram_user\"\n";
    for (lines, works) in [
        ("channel_binding = \"require\"", Ok(())),
        ("channel_binding = \"prefer\"", Ok(())),
        ("channel_binding = \"disable\"", Ok(())),
        ("channel_binding = \"require\"\nserver_tls_sslmode = \"disable\"", Err("channel_binding")),
        ("channel_binding = \"require\"\nuser = \"app\"", Err("the server asks for no SCRAM login")),
        ("channel_binding = \"require\"\nuser = \"md5_user\"\npassword = \"md5_user\"", Err("no SCRAM login")),
    ] {
        let forced = if lines.contains("user =") { "" } else { "user = \"scram_user\"\npassword = \"scram_user\"\n" };
        let setup = Setup::default().database(&format!("host = \"localhost\"\n{forced}{lines}")).sections(users);
        let carpool = Carpool::before(&world.postgres, &world.postgres.new_database(), &setup);
        match (is_encrypted(&carpool), works) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(why)) => assert!(error.contains(why), "{lines}: {error}"),
            (got, _) => panic!("{lines}: {got:?}"),
        }
    }
}

#[test]
fn changed_settings_are_for_idle_servers_too() {
    let world = World::new("localhost");
    let carpool = world.carpool("server_tls_sslmode = \"disable\"", "pool_size = 2");
    let mut client = carpool.client();
    let ssl = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    assert_eq!(client.value(ssl), "f");
    let mut busy = carpool.client();
    busy.query("begin");
    let toml = std::fs::read_to_string(&carpool.config).unwrap();
    std::fs::write(&carpool.config, toml.replace("\"disable\"", "\"require\"")).unwrap();
    carpool.console("reload");
    // The transaction goes on where it began, everything else is encrypted.
    assert_eq!(busy.value(ssl), "f");
    assert_eq!(client.value(ssl), "t");
    busy.query("commit");
    assert_eq!(busy.value(ssl), "t");
}

/// A server that answers the request for TLS as it likes.
fn fake_server(answer: &'static [u8]) -> u16 {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut request = [0; 8];
                stream.read_exact(&mut request).unwrap();
                let _ = stream.write_all(answer);
                let mut sink = [0; 512];
                while matches!(stream.read(&mut sink), Ok(1..)) {}
            });
        }
    });
    port
}

#[test]
fn a_server_that_says_more_than_yes_is_not_believed() {
    for (answer, why) in [
        (&b"SR\0\0\0\x08\0\0\0\0"[..], "received unencrypted data"),
        (b"X", "answered the TLS request with byte 0x58"),
        (b"N", "does not offer TLS"),
    ] {
        let lines = format!(
            "host = \"127.0.0.1\"\nport = {}\nserver_tls_sslmode = \"require\"\nquery_wait_timeout = \"1s\"",
            fake_server(answer)
        );
        let carpool = Carpool::start(&Setup::default().database(&lines));
        let error = is_encrypted(&carpool).unwrap_err();
        eventually(&format!("{why:?} shows, not only {error:?}"), || {
            (error.contains(why) || carpool.log().contains(why)).then_some(())
        });
    }
}

#[test]
fn direct_tls_with_a_server_of_version_17() {
    let (authority, files) = (Authority::new("root"), Files::new());
    let bin = crate::versions::binaries(17);
    let postgres = postgres(&bin, &files, &authority.issue("localhost", &["localhost"]), None);
    let lines = "host = \"localhost\"\nserver_tls_sslmode = \"require\"\nsslnegotiation = \"direct\"\n";
    let carpool = Carpool::before(&postgres, &postgres.new_database(), &Setup::default().database(lines));
    assert_eq!(is_encrypted(&carpool), Ok(true));
    // Cancel requests go the same way.
    super::traffic::cancel(&carpool, carpool.port);
    // One that knows nothing of it.
    let old = Postgres::shared();
    let lines = "server_tls_sslmode = \"require\"\nsslnegotiation = \"direct\"\nquery_wait_timeout = \"1s\"";
    let carpool = Carpool::before(old, &old.new_database(), &Setup::default().database(lines));
    assert!(is_encrypted(&carpool).is_err());
}
