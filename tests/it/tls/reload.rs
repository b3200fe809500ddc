//! Certificates are renewed while Carpool runs.

use std::process::Command;

use crate::harness::tls::{Authority, Files, Identity, client_config, postgres, proxy};
use crate::harness::{Carpool, Raw, Setup, eventually};

use super::psql;

#[test]
fn a_renewed_certificate_serves_new_clients_and_parts_with_nobody() {
    let (old, new, files) = (Authority::new("old"), Authority::new("new"), Files::new());
    let root = |authority: &Authority, name: &str| files.write(name, &authority.pem());
    let (old_root, new_root) = (root(&old, "old.crt"), root(&new, "new.crt"));
    let carpool = Carpool::start(&Setup::pooler(&files.pooler(&old.issue("localhost", &["localhost"]), "require")));
    let believes = |root: &str| psql(&carpool, &format!("sslmode=verify-full sslrootcert={root}"), "select 1").is_ok();
    assert!(believes(&old_root) && !believes(&new_root));
    let mut client = Raw::login(proxy(carpool.port, client_config(&old)), "postgres", &carpool.database);
    client.query("begin");
    files.write_identity("carpool", &new.issue("localhost", &["localhost"]));
    // The files alone change nothing.
    assert!(believes(&old_root) && !believes(&new_root));
    carpool.signal("HUP");
    eventually("the new certificate is shown", || believes(&new_root).then_some(()));
    assert!(!believes(&old_root));
    assert_eq!(client.value("select 1"), "1");
}

#[test]
fn a_bad_file_fails_the_reload_as_a_whole() {
    let (authority, files) = (Authority::new("root"), Files::new());
    let identity = authority.issue("localhost", &["localhost"]);
    let other = authority.issue("localhost", &["localhost"]);
    let root = files.write("root.crt", &authority.pem());
    let lines = files.pooler(&identity, "require") + "max_client_conn = 77\n";
    let carpool = Carpool::start(&Setup::pooler(&lines));
    let toml = std::fs::read_to_string(&carpool.config).unwrap();
    std::fs::write(&carpool.config, toml.replace("= 77", "= 78")).unwrap();
    let encrypted = format!("-----BEGIN ENCRYPTED PRIVATE KEY-----\n{}", "x".repeat(40));
    let mixed = Identity { certificate: identity.certificate.clone(), key: other.key };
    for (file, text, setting, reason) in [
        ("carpool.key", mixed.key.as_str(), "client_tls_key_file", "is not the key of tls_cert_file"),
        ("carpool.key", &encrypted, "client_tls_key_file", "encrypted with a passphrase"),
        ("carpool.key", "", "client_tls_key_file", "no private key"),
        ("carpool.crt", "nonsense", "client_tls_cert_file", "no certificate"),
    ] {
        files.write_identity("carpool", &identity);
        files.write(file, text);
        let command = psql_console(&carpool, "reload");
        let error = command.unwrap_err();
        let path = files.path(file);
        assert!(error.contains(setting) && error.contains(reason), "{error}");
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        // Nothing has changed, and the certificate from before is still shown.
        assert!(psql_console(&carpool, "show config").unwrap().contains("max_client_conn|77|"));
        let conninfo = format!("sslmode=verify-full sslrootcert={root}");
        assert_eq!(psql(&carpool, &conninfo, "select 1"), Ok("1".into()));
        let check = Command::new(env!("CARGO_BIN_EXE_carpool")).arg("check").arg(&carpool.config).output().unwrap();
        let said = String::from_utf8_lossy(&check.stderr).into_owned();
        assert!(check.status.code() == Some(64) && said.contains(setting), "{said}");
    }
    std::fs::remove_file(files.path("carpool.crt")).unwrap();
    let error = psql_console(&carpool, "reload").unwrap_err();
    assert!(error.contains("client_tls_cert_file") && error.contains("No such file"), "{error}");
    files.write_identity("carpool", &identity);
    psql_console(&carpool, "reload").unwrap();
    assert!(psql_console(&carpool, "show config").unwrap().contains("max_client_conn|78|"));
}

fn psql_console(carpool: &Carpool, command: &str) -> Result<String, String> {
    super::psql_as(carpool.port, "dbname=pgbouncer user=postgres sslmode=require", command)
}

#[test]
fn changed_authorities_are_for_new_server_connections() {
    let (authority, other, files) = (Authority::new("root"), Authority::new("other"), Files::new());
    let bin = crate::harness::postgres::default_bin();
    let postgres = postgres(&bin, &files, &authority.issue("localhost", &["localhost"]), None);
    let root = files.write("root.crt", &authority.pem());
    let lines = format!("host = \"localhost\"\nserver_tls_sslmode = \"verify-full\"\nserver_tls_ca_file = \"{root}\"");
    let setup = Setup::default().database(&(lines + "\npool_size = 1\nquery_wait_timeout = \"2s\""));
    let carpool = Carpool::before(&postgres, &postgres.new_database(), &setup);
    let mut client = carpool.client();
    let server = client.value("select pg_backend_pid()");
    files.write("root.crt", &other.pem());
    carpool.console("reload");
    assert_eq!(client.value("select pg_backend_pid()"), server);
    postgres.sql("postgres", &format!("select pg_terminate_backend({server})"));
    client.send(&crate::harness::raw::query("select 1"));
    let error = client.until_closed().pop().expect("an error");
    let text = format!("{error:?}");
    assert!(text.contains("invalid peer certificate") || text.contains("closed the connection"), "{text}");
    carpool.logs("UnknownIssuer");
    files.write("root.crt", &(other.pem() + &authority.pem()));
    carpool.console("reload");
    assert_eq!(carpool.client().value("select 1"), "1");
}

#[test]
fn what_cannot_be_had_is_said_by_name() {
    let (authority, files) = (Authority::new("root"), Files::new());
    let lines = files.pooler(&authority.issue("localhost", &["localhost"]), "allow");
    let check = |further: &str| {
        let path = files.path("c.toml");
        std::fs::write(&path, format!("[pooler]\n{lines}{further}\n[databases.a]\n[users.u]\n")).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_carpool")).arg("check").arg(&path).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (further, code, said) in [
        ("", 0, ""),
        ("client_tls_protocols = \"all\"", 0, ""),
        ("client_tls_protocols = \"tlsv1.1,tlsv1.2\"", 0, "client_tls_protocols: tlsv1.1 is not spoken here"),
        ("client_tls_protocols = \"tlsv1.0\"", 64, "client_tls_protocols: allows neither"),
        ("client_tls_protocols = \"tlsv1.9\"", 64, "client_tls_protocols: \"tlsv1.9\" is not a protocol"),
        ("client_tls_ciphers = \"HIGH:!aNULL:!MD5\"", 0, ""),
        ("client_tls_ciphers = \"AES256-SHA:ECDHE-RSA-AES128-GCM-SHA256\"", 0, "AES256-SHA is not a cipher"),
        ("client_tls13_ciphers = \"TLS_AES_128_CCM_SHA256\"", 0, "client_tls13_ciphers: TLS_AES_128_CCM_SHA256"),
        ("client_tls_ecdhcurve = \"prime256v1\"", 0, ""),
        ("client_tls_ecdhcurve = \"brainpoolP256r1\"", 64, "client_tls_ecdhcurve: names no curve"),
        ("client_tls_dheparams = \"legacy\"", 0, "client_tls_dheparams: has no effect"),
        ("auth_type = \"cert\"", 64, "client_tls_sslmode: must be verify-full"),
        ("server_tls_sslmode = \"verify-full\"", 64, "server_tls_ca_file: must be set"),
        ("server_tls_key_file = \"/nowhere/x\"", 64, "server_tls_key_file: /nowhere/x: No such file"),
    ] {
        let (status, text) = check(further);
        assert_eq!(status, Some(code), "{further}: {text}");
        assert!(text.contains(said) && (!said.is_empty() || text.is_empty()), "{further}: {text}");
    }
}
