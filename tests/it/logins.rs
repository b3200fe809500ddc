//! The matrix of logins: each way to authenticate × secret × TLS on either side × driver, right and wrong. PostgreSQL,
//! set up the same way, says what has to come of each: who is let in, over what, or with which SQLSTATE it is refused.

mod tokio_postgres_;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::drivers::{node, python, root};
use crate::harness::certificates::Certificates;
use crate::harness::postgres::default_bin;
use crate::harness::{Carpool, Postgres, Setup};

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

const DRIVERS: [&str; 6] = ["psql", "psycopg2", "psycopg", "asyncpg", "node-postgres", "tokio-postgres"];

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

/// One PostgreSQL that judges, TLS on or off, with a database for each combination, and one for Carpool.
fn judge(certificates: &Certificates, tls: bool) -> Postgres {
    let conf = if tls { certificates.postgresql_conf() } else { String::new() };
    let postgres = Postgres::start(&default_bin(), &conf);
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
    postgres
}

fn database(auth_type: &str, sslmode: &str) -> String {
    format!("{auth_type}_{sslmode}").replace('-', "_")
}

/// Carpool with the same rules.
fn pooled(postgres: &Postgres, certificates: &Certificates, auth_type: &str, sslmode: &str) -> Carpool {
    let secret = |user: &str| postgres.sql("postgres", &format!("select rolpassword from pg_authid where rolname = '{user}'"));
    let users = format!(
        "[users.scram_user]\npassword = '{}'\n[users.md5_user]\npassword = '{}'\n\
         [users.plain_user]\npassword = 'plain_user'\n[users.bare_user]\n",
        secret("scram_user"),
        secret("md5_user"),
    );
    let pooler = format!("auth_type = \"{auth_type}\"\n{}", certificates.client_tls(sslmode));
    let setup = Setup::pooler(&pooler).sections(&users);
    Carpool::before(postgres, "pooled", &setup)
}

/// The cases of one driver.
fn cases(driver: &str, certificates: &Certificates) -> Vec<Value> {
    let mut cases = Vec::new();
    for (user, password) in USERS {
        for password in [password, "wrong"] {
            for sslmode in client_tls(driver) {
                for with_certificate in [false, true] {
                    let (cert, key) = certificates.client();
                    // One kind of client without TLS, and with a certificate where that is all the difference.
                    if with_certificate && (*sslmode == "disable" || password == "wrong" || user != "scram_user") {
                        continue;
                    }
                    cases.push(json!({
                        "user": user, "password": password, "sslmode": sslmode,
                        "sslrootcert": (*sslmode == "verify-full").then(|| certificates.authority()),
                        "sslcert": with_certificate.then_some(cert), "sslkey": with_certificate.then_some(key),
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
fn outcomes(driver: &str, cases: &Value) -> Vec<String> {
    let mut command = match driver {
        "tokio-postgres" => return tokio_postgres_::outcomes(cases),
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

/// All drivers against one combination; gives how many cases there were of each outcome.
fn compare(postgres: &Postgres, certificates: &Certificates, auth_type: &str, sslmode: &str) -> BTreeMap<String, usize> {
    let carpool = pooled(postgres, certificates, auth_type, sslmode);
    let (mut counts, mut wrong) = (BTreeMap::new(), Vec::new());
    for driver in DRIVERS {
        let cases = cases(driver, certificates);
        let direct = outcomes(driver, &at(&cases, postgres.port, &database(auth_type, sslmode)));
        let through = outcomes(driver, &at(&cases, carpool.port, "pooled"));
        assert_eq!((direct.len(), through.len()), (cases.len(), cases.len()));
        for ((case, want), got) in cases.iter().zip(direct).zip(through) {
            *counts.entry(want.split(' ').next_back().unwrap().to_owned()).or_default() += 1;
            if want != got {
                wrong.push(format!("{driver}, {case}: PostgreSQL {want}, Carpool {got}"));
            }
        }
    }
    assert!(wrong.is_empty(), "auth_type {auth_type}, client_tls_sslmode {sslmode}:\n{}", wrong.join("\n"));
    counts
}

/// Prints the number of cases, for `cargo test -- --nocapture logins`.
fn matrix(tls: bool) {
    let certificates = Certificates::new();
    let postgres = judge(&certificates, tls);
    for (sslmode, ..) in SERVER_TLS.into_iter().filter(|(mode, ..)| tls != (*mode == "disable")) {
        for (auth_type, _) in METHODS {
            let counts = compare(&postgres, &certificates, auth_type, sslmode);
            let all: usize = counts.values().sum();
            println!("auth_type {auth_type}, client_tls_sslmode {sslmode}: {all} logins {counts:?}");
            for outcome in ["plain", "tls", "28P01", "28000", "client"] {
                assert!(outcome != "28P01" || auth_type == "trust" || counts.contains_key(outcome), "{outcome}: none");
            }
        }
    }
}

#[test]
fn without_tls() {
    matrix(false);
}

#[test]
fn with_tls() {
    matrix(true);
}
