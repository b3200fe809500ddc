//! Passwords that an LDAP server knows: Debian's slapd, as an unprivileged process.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{Rules, told, with_password};
use crate::harness::postgres::free_port;
use crate::harness::tls::{Authority, Files};
use crate::harness::{Carpool, Setup, eventually};

const ENTRIES: &str = "\
dn: dc=example,dc=net
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: uid=ann,dc=example,dc=net
objectClass: inetOrgPerson
uid: ann
sn: Ann
cn: Ann
mail: ann@example.net
userPassword: annpw

dn: uid=app,dc=example,dc=net
objectClass: inetOrgPerson
uid: app
sn: App
cn: App
mail: app@example.net
userPassword: app pw

dn: ou=twins,dc=example,dc=net
objectClass: organizationalUnit
ou: twins

dn: cn=one,ou=twins,dc=example,dc=net
objectClass: inetOrgPerson
cn: one
sn: twin
userPassword: twin

dn: cn=two,ou=twins,dc=example,dc=net
objectClass: inetOrgPerson
cn: two
sn: twin
userPassword: twin
";

/// A running slapd.
pub struct Slapd {
    pub port: u16,
    tls_port: u16,
    child: Child,
    files: Files,
}

impl Drop for Slapd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn find(paths: [&str; 2]) -> PathBuf {
    let found = paths.into_iter().map(PathBuf::from).find(|path| path.exists());
    found.expect("slapd is installed (tests/setup.sh)")
}

impl Slapd {
    pub fn start() -> Self {
        let files = Files::new();
        let authority = Authority::new("ldap authority");
        files.write("ca.crt", &authority.pem());
        files.write_identity("slapd", &authority.issue("localhost", &["localhost"]));
        std::fs::create_dir(files.path("db")).unwrap();
        let path = |name: &str| files.path(name).display().to_string();
        let schema = "/etc/ldap/schema";
        let config = format!(
            "include {schema}/core.schema\ninclude {schema}/cosine.schema\ninclude {schema}/inetorgperson.schema\n\
             pidfile {}\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n\
             TLSCACertificateFile {}\nTLSCertificateFile {}\nTLSCertificateKeyFile {}\n\
             database mdb\nsuffix \"dc=example,dc=net\"\nrootdn \"cn=admin,dc=example,dc=net\"\nrootpw adminpw\n\
             directory {}\nmaxsize 10485760\n",
            path("pid"),
            path("ca.crt"),
            path("slapd.crt"),
            path("slapd.key"),
            path("db"),
        );
        let config = files.write("slapd.conf", &config);
        let entries = files.write("entries.ldif", ENTRIES);
        let add = find(["/usr/sbin/slapadd", "/sbin/slapadd"]);
        let added = Command::new(add).args(["-f", &config, "-l", &entries]).output().unwrap();
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        let (port, tls_port) = (free_port(), free_port());
        let urls = format!("ldap://localhost:{port} ldaps://localhost:{tls_port}");
        let mut slapd = Command::new(find(["/usr/sbin/slapd", "/sbin/slapd"]));
        // In the foreground.
        slapd.args(["-f", &config, "-h", &urls, "-d", "0"]).stdout(Stdio::null()).stderr(Stdio::null());
        let child = slapd.spawn().unwrap();
        let slapd = Self { port, tls_port, child, files };
        eventually("slapd listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop));
        eventually("slapd listens", || std::net::TcpStream::connect(("localhost", tls_port)).ok().map(drop));
        slapd
    }

    fn carpool(&self, options: &str) -> Carpool {
        // An apostrophe ends nothing in there.
        let pooler = format!("auth_type = \"ldap\"\nauth_ldap_options = '{options}'");
        let ca = self.files.path("ca.crt").display().to_string();
        let environment = vec![("SSL_CERT_FILE".to_owned(), ca)];
        let setup = Setup::pooler(&pooler).database("user = \"app\"");
        Carpool::start(&Setup { environment, ..setup })
    }
}

fn try_all(slapd: &Slapd, options: &str) {
    let carpool = slapd.carpool(options);
    let login = |user: &str, password: &str| with_password(&carpool, user, &carpool.database, password);
    assert!(login("ann", "annpw").is_none(), "{options}: {}", carpool.log());
    assert!(login("app", "app pw").is_none(), "{options}: {}", carpool.log());
    for (user, password) in [("ann", "app pw"), ("none", "annpw"), ("ann", "annpw2"), ("ann)(uid=app", "annpw")] {
        let error = login(user, password).unwrap_or_else(|| panic!("{options}: {user} is in"));
        let text = format!("LDAP authentication failed for user \"{user}\"");
        assert_eq!(told(&error), ("28000".to_owned(), text), "{options}");
    }
    // Without a password LDAP would take anybody for nobody in particular, and be content.
    let error = login("ann", "").unwrap();
    assert_eq!(told(&error), ("28P01".to_owned(), "empty password returned by client".to_owned()));
    for secret in ["annpw", "app pw", "adminpw"] {
        assert!(!carpool.log().contains(secret), "{secret} is in the log");
    }
}

#[test]
fn binds_and_searches() {
    let slapd = Slapd::start();
    let Slapd { port, tls_port, .. } = slapd;
    let admin = "ldapbinddn=\"cn=admin,dc=example,dc=net\" ldapbindpasswd=adminpw";
    for options in [
        format!("ldapserver=127.0.0.1 ldapport={port} ldapprefix=\"uid=\" ldapsuffix=\",dc=example,dc=net\""),
        format!("ldapserver=127.0.0.1 ldapport={port} ldapbasedn=\"dc=example,dc=net\""),
        format!("ldapserver=127.0.0.1 ldapport={port} ldapbasedn=\"dc=example,dc=net\" {admin}"),
        format!("ldapurl=\"ldap://127.0.0.1:{port}/dc=example,dc=net?uid?sub\""),
        format!("ldapurl=\"ldap://127.0.0.1:{port}/dc=example,dc=net??sub?(mail=$username@example.net)\""),
        // The first one doesn't answer.
        format!("ldapserver=\"127.0.0.1:1 127.0.0.1\" ldapport={port} ldapbasedn=\"dc=example,dc=net\""),
        format!("ldapserver=localhost ldapport={port} ldaptls=1 ldapbasedn=\"dc=example,dc=net\""),
        format!("ldapurl=\"ldaps://localhost:{tls_port}/dc=example,dc=net?uid?sub\""),
    ] {
        try_all(&slapd, &options);
    }
}

#[test]
fn what_cannot_be_told_lets_nobody_in() {
    let slapd = Slapd::start();
    let base = format!("ldapserver=127.0.0.1 ldapport={}", slapd.port);
    for (options, reason) in [
        (format!("{base} ldapbasedn=\"ou=twins,dc=example,dc=net\" ldapsearchattribute=sn"), "several entries"),
        (format!("{base} ldapbasedn=\"dc=none\""), "search for"),
        (format!("{base} ldapbasedn=\"dc=example,dc=net\" ldapbinddn=\"cn=x\" ldapbindpasswd=no"), "ldapbinddn"),
        ("ldapserver=127.0.0.1 ldapport=1 ldapbasedn=x".to_owned(), "ldap://127.0.0.1:1"),
        // The certificate is for localhost.
        (format!("ldapserver=127.0.0.1 ldapport={} ldapscheme=ldaps ldapbasedn=x", slapd.tls_port), "ertificate"),
    ] {
        let carpool = slapd.carpool(&options);
        let error = with_password(&carpool, "twin", &carpool.database, "twin").unwrap_or_else(|| panic!("{options}"));
        assert_eq!(told(&error).1, "LDAP authentication failed for user \"twin\"");
        carpool.logs(reason);
    }
}

#[test]
fn a_line_with_ldap_gives_the_password_on() {
    let slapd = Slapd::start();
    let options = format!("ldapserver=127.0.0.1 ldapport={} ldapbasedn=\"dc=example,dc=net\"", slapd.port);
    let rules = Rules::start(&format!("host all all 127.0.0.1/32 ldap {options}\n"), "", "", "");
    // PostgreSQL trusts this user, so any password does there.
    let database = rules.carpool.database.clone();
    assert!(with_password(&rules.carpool, "app", &database, "app pw").is_none(), "{}", rules.carpool.log());
    assert!(with_password(&rules.carpool, "app", &database, "wrong").is_some());
}
