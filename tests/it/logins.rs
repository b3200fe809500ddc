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
use crate::hba::jwt::{self, Issuer};
use crate::hba::ldap::Slapd;

/// `auth_type` with what Carpool needs for it, and the lines of `pg_hba.conf`, by user, that mean the same.
struct Rules {
    auth_type: &'static str,
    settings: String,
    lines: Vec<(&'static str, String)>,
}

impl Rules {
    fn of_method(auth_type: &'static str, method: &str) -> Self {
        Self { auth_type, settings: String::new(), lines: vec![("all", method.to_owned())] }
    }

    /// Those that look at a stored secret, or at none.
    fn by_secret() -> Vec<Self> {
        [("trust", "trust"), ("plain", "password"), ("md5", "md5"), ("scram-sha-256", "scram-sha-256")]
            .map(|(auth_type, method)| Self::of_method(auth_type, method))
            .into()
    }
}

/// `client_tls_sslmode` with the kind of `pg_hba.conf`'s line, and its option, that is the same.
const SERVER_TLS: [(&str, &str, &str); 5] = [
    ("disable", "host", ""),
    ("allow", "host", ""),
    ("require", "hostssl", ""),
    ("verify-ca", "hostssl", "clientcert=verify-ca"),
    // For the method that asks for certificates itself.
    ("verify-full", "hostssl", ""),
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
    /// `client_tls_sslmode`.
    sslmode: &'static str,
    /// Whether PostgreSQL offers TLS.
    tls: bool,
    /// Users with their passwords.
    users: Vec<(String, String)>,
}

impl World {
    /// PostgreSQL has a database for each of the rules, and one for Carpool.
    fn new(sslmode: &'static str, rules: &[Rules]) -> Self {
        let tls = sslmode != "disable";
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
        postgres.sql("postgres", "create role bare_user login");
        postgres.sql("postgres", "create database pooled");
        let users = USERS.map(|(user, password)| (user.to_owned(), password.to_owned())).into();
        let world = Self { authority, client, files, postgres, sslmode, tls, users };
        let mut hba = "local all all trust\nhost postgres,pooled all all trust\n".to_owned();
        for rules in rules {
            world.postgres.sql("postgres", &format!("create database {}", database(rules)));
            hba += &world.lines(rules, &database(rules));
        }
        std::fs::write(world.postgres.dir.join("data/pg_hba.conf"), hba).unwrap();
        world.postgres.control(&["-s", "reload"]);
        world
    }

    /// The lines of `pg_hba.conf` for a database.
    fn lines(&self, rules: &Rules, database: &str) -> String {
        let (_, kind, option) = SERVER_TLS.into_iter().find(|(mode, ..)| *mode == self.sslmode).unwrap();
        let line = |(user, method): &(&str, String)| format!("{kind} {database} {user} all {method} {option}\n");
        rules.lines.iter().map(line).collect()
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
    fn pooled(&self, rules: &Rules) -> Carpool {
        let Self { sslmode, .. } = self;
        let Rules { auth_type, settings, .. } = rules;
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
        let mut pooler = format!("auth_type = \"{auth_type}\"\n{settings}client_tls_sslmode = \"{sslmode}\"\n");
        if *auth_type == "hba" {
            let file = self.files.write("hba", &self.lines(rules, "pooled"));
            pooler += &format!("auth_hba_file = \"{file}\"\n");
        }
        if self.tls {
            for (setting, file) in [("cert", "carpool.crt"), ("key", "carpool.key"), ("ca", "root.crt")] {
                pooler += &format!("client_tls_{setting}_file = \"{}\"\n", self.path(file));
            }
        }
        Carpool::before(&self.postgres, "pooled", &Setup::pooler(&pooler).sections(&users))
    }
}

fn database(rules: &Rules) -> String {
    format!("by_{}", rules.auth_type).replace('-', "_")
}

/// The cases of one driver.
fn cases(driver: &str, world: &World) -> Vec<Value> {
    let mut cases = Vec::new();
    for (user, password) in &world.users {
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
fn compare(world: &World, rules: &Rules, wrong: &mut Vec<String>) -> BTreeMap<String, usize> {
    let carpool = world.pooled(rules);
    let mut counts = BTreeMap::new();
    for driver in DRIVERS {
        let cases = cases(driver, world);
        let direct = outcomes(driver, &at(&cases, world.postgres.port, &database(rules)), world);
        let through = outcomes(driver, &at(&cases, carpool.port, "pooled"), world);
        assert_eq!((direct.len(), through.len()), (cases.len(), cases.len()));
        for ((case, mut want), got) in cases.iter().zip(direct).zip(through) {
            // PostgreSQL takes the token for a password, and so calls it one.
            if rules.auth_type == "jwt" && want == "28P01" {
                want = "28000".to_owned();
            }
            *counts.entry(want.split(' ').next_back().unwrap().to_owned()).or_default() += 1;
            if want != got {
                let (auth_type, sslmode) = (rules.auth_type, world.sslmode);
                let by = format!("auth_type {auth_type}, client_tls_sslmode {sslmode}");
                wrong.push(format!("{by}: {driver}, {case}: PostgreSQL {want}, Carpool {got}"));
            }
        }
    }
    counts
}

/// All combinations with the rules. Prints the numbers of cases.
fn matrix(world: &World, rules: &[Rules], wanted: &[&str]) {
    let (mut outcomes, mut wrong) = (BTreeMap::new(), Vec::new());
    for rules in rules {
        let counts = compare(world, rules, &mut wrong);
        counts.into_iter().for_each(|(outcome, count)| *outcomes.entry(outcome).or_default() += count);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let by = rules.iter().map(|rules| rules.auth_type).collect::<Vec<_>>().join(", ");
    let count = outcomes.values().sum::<usize>();
    println!("client_tls_sslmode {}, auth_type {by}: {count} logins: {outcomes:?}", world.sslmode);
    assert!(wanted.iter().all(|outcome| outcomes.contains_key(*outcome)), "{outcomes:?}");
}

fn by_secret(sslmode: &'static str, wanted: &[&str]) {
    let rules = Rules::by_secret();
    matrix(&World::new(sslmode, &rules), &rules, wanted);
}

#[test]
fn without_tls() {
    by_secret("disable", &["plain", "28P01", "28000", "client"]);
}

#[test]
fn with_tls_if_the_client_wants() {
    by_secret("allow", &["tls", "plain", "28P01", "28000"]);
}

#[test]
fn with_tls() {
    by_secret("require", &["tls", "28P01", "28000"]);
}

#[test]
fn with_certificates() {
    by_secret("verify-ca", &["tls", "28P01", "28000"]);
}

#[test]
fn by_certificates_alone() {
    let rules = [Rules::of_method("cert", "cert")];
    matrix(&World::new("verify-full", &rules), &rules, &["tls", "28000"]);
}

/// The same lines for both.
#[test]
fn by_lines_of_a_file() {
    let lines = [
        ("scram_user", "scram-sha-256"),
        ("md5_user", "md5"),
        ("plain_user", "password"),
        ("bare_user", "trust"),
        ("missing_user", "reject"),
    ];
    let lines = lines.map(|(user, method)| (user, method.to_owned()));
    let rules = [Rules { auth_type: "hba", settings: String::new(), lines: lines.into() }];
    matrix(&World::new("allow", &rules), &rules, &["tls", "plain", "28P01", "28000"]);
}

#[test]
fn by_ldap() {
    let slapd = Slapd::start();
    let options = format!("ldapserver=127.0.0.1 ldapport={} ldapbasedn=\"dc=example,dc=net\"", slapd.port);
    let settings = format!("auth_ldap_options = '{options}'\n");
    let rules = [Rules { auth_type: "ldap", settings, lines: vec![("all", format!("ldap {options}"))] }];
    let mut world = World::new("allow", &rules);
    world.postgres.sql("postgres", "create role ann login");
    let users = [("ann", "annpw"), ("app", "app pw"), ("scram_user", "scram_user"), ("missing_user", "annpw")];
    world.users = users.map(|(user, password)| (user.to_owned(), password.to_owned())).into();
    matrix(&world, &rules, &["tls", "plain", "28000"]);
}

/// Users who need no entry, for whom PostgreSQL has the token as a password.
#[test]
fn by_tokens() {
    let issuer = Issuer::new("one");
    let files = Files::new();
    files.write("jwks", &issuer.jwks());
    let lines = vec![("all", "password".to_owned())];
    let rules = [Rules { auth_type: "jwt", settings: jwt::settings(&files), lines }];
    let mut world = World::new("allow", &rules);
    for user in ["md5_user", "bare_user"] {
        let token = issuer.token(&jwt::claims(user));
        world.postgres.sql("postgres", &format!("alter role {user} password '{token}'"));
        world.users.retain(|(name, _)| name != user);
        world.users.push((user.to_owned(), token));
    }
    // The password that the server has is no token.
    world.postgres.sql("postgres", "alter role scram_user password null; alter role plain_user password null");
    matrix(&world, &rules, &["tls", "plain", "28000"]);
}
