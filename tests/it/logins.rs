//! The matrix of logins: each way to authenticate × secret × TLS on either side × driver, right and wrong. PostgreSQL,
//! set up the same way, says what has to come of each: who is let in, over what, or with which SQLSTATE it is refused.

mod rust;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::drivers::{node, python, root};
use crate::harness::postgres::default_bin;
use crate::harness::tls::{Authority, Files, Identity, client_config};
use crate::harness::{Carpool, Postgres, Setup, tls};

/// `auth_type`, and the method of `pg_hba.conf` that is the same.
const METHODS: [(&str, &str); 4] =
    [("trust", "trust"), ("plain", "password"), ("md5", "md5"), ("scram-sha-256", "scram-sha-256")];

/// `client_tls_sslmode` with the kind of `pg_hba.conf`'s line, and its option, that is the same.
const SERVER_TLS: [(&str, &str, &str); 4] = [
    ("disable", "host", ""),
    ("allow", "host", ""),
    ("require", "hostssl", ""),
    ("verify-ca", "hostssl", "clientcert=verify-ca"),
];

const DRIVERS: [&str; 5] = ["psql", "psycopg", "asyncpg", "node-postgres", "tokio-postgres"];

/// Users by the secret that Carpool has of them, with their passwords.
const USERS: [(&str, &str); 5] = [
    ("scram_user", "scram_user"),
    ("md5_user", "md5_user"),
    ("plain_user", "plain_user"),
    ("bare_user", "anything"),
    ("missing_user", "missing_user"),
];

/// How a client asks for TLS.
fn client_tls(driver: &str) -> &'static [&'static str] {
    match driver {
        // It has nothing between.
        "node-postgres" => &["disable", "require", "verify-full"],
        "tokio-postgres" => &["disable", "prefer", "require", "verify-full"],
        _ => &["disable", "allow", "prefer", "require", "verify-full"],
    }
}

/// Certificates, and the PostgreSQL that judges.
struct World {
    authority: Authority,
    client: Identity,
    files: Files,
    postgres: Postgres,
    /// Whether PostgreSQL offers TLS.
    tls: bool,
}

impl World {
    /// PostgreSQL has a database for each combination, and one for Carpool.
    fn new(tls: bool) -> Self {
        let (authority, files) = (Authority::new("root"), Files::new());
        let server = authority.issue("localhost", &["localhost", "127.0.0.1"]);
        let client = authority.issue("scram_user", &[]);
        files.write("root.crt", &authority.pem());
        files.write_identity("client", &client);
        let postgres = match tls {
            true => tls::postgres(&default_bin(), &files, &server, Some(&authority)),
            false => Postgres::start(&default_bin(), ""),
        };
        files.write_identity("carpool", &server);
        let mut hba = "local all all trust\nhost postgres,pooled all all trust\n".to_owned();
        postgres.sql("postgres", "create role bare_user login");
        postgres.sql("postgres", "create database pooled");
        for (sslmode, kind, option) in SERVER_TLS.into_iter().filter(|(mode, ..)| tls != (*mode == "disable")) {
            for (auth_type, method) in METHODS {
                let database = database(auth_type, sslmode);
                postgres.sql("postgres", &format!("create database {database}"));
                hba += &format!("{kind} {database} all all {method} {option}\n");
            }
        }
        std::fs::write(postgres.dir.join("data/pg_hba.conf"), hba).unwrap();
        postgres.control(&["-s", "reload"]);
        Self { authority, client, files, postgres, tls }
    }

    fn path(&self, name: &str) -> String {
        self.files.path(name).to_str().unwrap().to_owned()
    }

    /// What rustls clients believe, and show.
    fn client_config(&self, with_certificate: bool) -> rustls::ClientConfig {
        let mut config = client_config(&self.authority);
        if with_certificate {
            let chain = CertificateDer::pem_slice_iter(self.client.certificate.as_bytes()).map(Result::unwrap);
            let key = PrivateKeyDer::from_pem_slice(self.client.key.as_bytes()).unwrap();
            let provider = std::sync::Arc::clone(config.crypto_provider());
            let key = provider.key_provider.load_private_key(key).unwrap();
            let shown = rustls::sign::CertifiedKey::new(chain.collect(), key);
            config.client_auth_cert_resolver = std::sync::Arc::new(rustls::sign::SingleCertAndKey::from(shown));
        }
        config
    }

    /// Carpool with the same rules.
    fn pooled(&self, auth_type: &str, sslmode: &str) -> Carpool {
        let secret = |user: &str| {
            let sql = format!("select rolpassword from pg_authid where rolname = '{user}'");
            self.postgres.sql("postgres", &sql)
        };
        let users = format!(
            "[users.scram_user]\npassword = '{}'\n[users.md5_user]\npassword = '{}'\n\
             [users.plain_user]\npassword = 'plain_user'\n[users.bare_user]\n",
            secret("scram_user"),
            secret("md5_user"),
        );
        let mut pooler = format!("auth_type = \"{auth_type}\"\nclient_tls_sslmode = \"{sslmode}\"\n");
        if sslmode != "disable" {
            for (setting, file) in [("cert", "carpool.crt"), ("key", "carpool.key"), ("ca", "root.crt")] {
                pooler += &format!("client_tls_{setting}_file = \"{}\"\n", self.path(file));
            }
        }
        Carpool::before(&self.postgres, "pooled", &Setup::pooler(&pooler).sections(&users))
    }
}

fn database(auth_type: &str, sslmode: &str) -> String {
    format!("{auth_type}_{sslmode}").replace('-', "_")
}

/// The cases of one driver.
fn cases(driver: &str, world: &World) -> Vec<Value> {
    let mut cases = Vec::new();
    for (user, password) in USERS {
        for password in [password, "wrong"] {
            for sslmode in client_tls(driver) {
                for with_certificate in [false, true] {
                    // With a certificate in addition, where that is all the difference.
                    if with_certificate && (*sslmode == "disable" || user != "scram_user") {
                        continue;
                    }
                    cases.push(json!({
                        "user": user, "password": password, "sslmode": sslmode,
                        "sslrootcert": (*sslmode == "verify-full").then(|| world.path("root.crt")),
                        "sslcert": with_certificate.then(|| world.path("client.crt")),
                        "sslkey": with_certificate.then(|| world.path("client.key")),
                    }));
                }
            }
        }
    }
    cases
}

/// The same cases at another place.
fn at(cases: &[Value], port: u16, dbname: &str) -> Value {
    let placed = cases.iter().map(|case| {
        let mut case = case.clone();
        case["port"] = json!(port);
        case["dbname"] = json!(dbname);
        case
    });
    placed.collect()
}

/// What comes of them.
fn outcomes(driver: &str, cases: &Value, world: &World) -> Vec<String> {
    let mut command = match driver {
        "tokio-postgres" => return rust::outcomes(cases, world),
        "node-postgres" => with_script(node(), "logins.js"),
        driver => {
            let mut command = with_script(python(), "logins.py");
            command.arg(driver);
            command
        }
    };
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(cases.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{driver}: {error}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{driver}: {e}: {error}"))
}

fn with_script(mut interpreter: Command, name: &str) -> Command {
    interpreter.arg(root().join("tests/drivers").join(name));
    interpreter
}

/// All drivers against one combination; gives how many cases there were of each outcome, and notes what is `wrong`.
fn compare(world: &World, auth_type: &str, sslmode: &str, wrong: &mut Vec<String>) -> BTreeMap<String, usize> {
    let carpool = world.pooled(auth_type, sslmode);
    let mut counts = BTreeMap::new();
    for driver in DRIVERS {
        let cases = cases(driver, world);
        let direct = outcomes(driver, &at(&cases, world.postgres.port, &database(auth_type, sslmode)), world);
        let through = outcomes(driver, &at(&cases, carpool.port, "pooled"), world);
        assert_eq!((direct.len(), through.len()), (cases.len(), cases.len()));
        for ((case, want), got) in cases.iter().zip(direct).zip(through) {
            *counts.entry(want.split(' ').next_back().unwrap().to_owned()).or_default() += 1;
            if want != got {
                let rules = format!("auth_type {auth_type}, client_tls_sslmode {sslmode}");
                wrong.push(format!("{rules}: {driver}, {case}: PostgreSQL {want}, Carpool {got}"));
            }
        }
    }
    counts
}

/// All combinations with one `client_tls_sslmode`. Prints the numbers of cases.
fn matrix(sslmode: &str, wanted: &[&str]) {
    let world = World::new(sslmode != "disable");
    let (mut outcomes, mut wrong) = (BTreeMap::new(), Vec::new());
    for (auth_type, _) in METHODS {
        let counts = compare(&world, auth_type, sslmode, &mut wrong);
        counts.into_iter().for_each(|(outcome, count)| *outcomes.entry(outcome).or_default() += count);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("client_tls_sslmode {sslmode}: {} logins: {outcomes:?}", outcomes.values().sum::<usize>());
    assert!(wanted.iter().all(|outcome| outcomes.contains_key(*outcome)), "{outcomes:?}");
}

#[test]
fn without_tls() {
    matrix("disable", &["plain", "28P01", "28000", "client"]);
}

#[test]
fn with_tls_if_the_client_wants() {
    matrix("allow", &["tls", "plain", "28P01", "28000"]);
}

#[test]
fn with_tls() {
    matrix("require", &["tls", "28P01", "28000"]);
}

#[test]
fn with_certificates() {
    matrix("verify-ca", &["tls", "28P01", "28000"]);
}
