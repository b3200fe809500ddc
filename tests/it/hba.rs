//! Who may connect from where and how: `auth_hba_file` and the methods that look at no stored secret.

mod compare;
pub mod jwt;
pub mod ldap;
#[cfg(feature = "pam")]
mod pam;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::raw::{V3_0, message, startup};
use crate::harness::tls::{Authority, Files};
use crate::harness::{Carpool, Message, PATIENCE, Postgres, Setup, eventually};

/// What a client says it wants.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    /// The last byte of its address 127.0.0.N; `None`: over the unix socket.
    pub from: Option<u8>,
    pub user: &'a str,
    pub database: &'a str,
    pub replication: bool,
}

/// A client's socket of either kind.
pub trait Socket: Read + Write {}
impl<T: Read + Write> Socket for T {}

impl Login<'_> {
    /// Connects and gives the first answer to the startup packet.
    pub fn first_answer(&self, port: u16, socket_dir: &Path) -> (Box<dyn Socket>, Message) {
        let mut parameters = vec![("user", self.user), ("database", self.database)];
        if self.replication {
            parameters.push(("replication", "true"));
        }
        let mut socket: Box<dyn Socket> = match self.from {
            Some(last) => Box::new(connect_from(last, port)),
            None => {
                let path = socket_dir.join(format!(".s.PGSQL.{port}"));
                // A Carpool that finds its port itself has the configured 0 in the name.
                let path = if path.exists() { path } else { socket_dir.join(".s.PGSQL.0") };
                let socket = UnixStream::connect(path).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                Box::new(socket)
            }
        };
        socket.write_all(&startup(V3_0, &parameters)).unwrap();
        let answer = read_message(&mut *socket);
        (socket, answer)
    }
}

pub fn connect_from(last: u8, port: u16) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let own: SocketAddr = (Ipv4Addr::new(127, 0, 0, last), 0).into();
    socket.bind(&own.into()).unwrap();
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

pub fn read_message(socket: &mut dyn Socket) -> Message {
    let mut head = [0; 5];
    socket.read_exact(&mut head).unwrap();
    let len = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize - 4;
    let mut body = vec![0; len];
    socket.read_exact(&mut body).unwrap();
    Message { tag: head[0], body }
}

/// Answers a request for a clear-text password, and gives what comes of it: `None` when the client is in.
pub fn with_password(carpool: &Carpool, user: &str, database: &str, password: &str) -> Option<Message> {
    let login = Login { from: Some(1), user, database, replication: false };
    let (mut socket, asked) = login.first_answer(carpool.port, Path::new(""));
    assert_eq!((asked.tag, asked.body.as_slice()), (b'R', &3u32.to_be_bytes()[..]), "{asked:?}");
    socket.write_all(&message('p', &[password.as_bytes(), b"\0"].concat())).unwrap();
    let answer = read_message(&mut *socket);
    (answer.tag == b'E').then_some(answer)
}

/// SQLSTATE and text of an error.
pub fn told(error: &Message) -> (String, String) {
    (error.field('C').unwrap(), error.field('M').unwrap())
}

/// An hba file, an ident file, and a Carpool that reads them.
pub struct Rules {
    pub files: Files,
    pub carpool: Carpool,
}

impl Rules {
    pub fn start(hba: &str, ident: &str, pooler: &str, sections: &str) -> Self {
        Self::before(&Setup::pooler(pooler).sections(sections), hba, ident)
    }

    fn before(setup: &Setup, hba: &str, ident: &str) -> Self {
        let files = Files::new();
        let (hba, ident) = (files.write("hba", hba), files.write("ident", ident));
        let more = format!(
            "auth_type = \"hba\"\nauth_hba_file = \"{hba}\"\nauth_ident_file = \"{ident}\"\nunix_socket_dir = \"{}\"\n",
            files.path("").display()
        );
        let setup = Setup { pooler: setup.pooler.clone() + "\n" + &more, ..setup.clone() };
        let carpool = Carpool::start(&setup);
        Self { carpool, files }
    }

    pub fn dir(&self) -> PathBuf {
        self.files.path("")
    }

    /// The first answer to a login.
    pub fn answer(&self, login: Login<'_>) -> Message {
        login.first_answer(self.carpool.port, &self.dir()).1
    }

    /// Reads changed files; gives the lines that the log got by it.
    pub fn reload(&self) -> String {
        let before = self.carpool.log().len();
        self.carpool.signal("HUP");
        eventually("it reloads", || {
            let log = self.carpool.log()[before..].to_owned();
            let done = log.contains("INFO reloaded") || log.contains("was not reloaded");
            done.then_some(log)
        })
    }
}

fn is_ok(answer: &Message) -> bool {
    answer.tag == b'R' && answer.body == 0u32.to_be_bytes()
}

#[test]
fn the_socket_tells_who_the_user_is() {
    let me = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    let me = me.trim();
    let ident = format!("m {me} app\nm /^(.*)$ \\1_mapped\n");
    let sections = format!("[users.{me}]\n[users.{me}_mapped]\n[databases.x]\nhost = \"127.0.0.1\"\nport = 1\n");
    let hba = "local x all peer\nlocal all all peer map=m\nhost all all all trust\n";
    let rules = Rules::start(hba, &ident, "", &sections);
    let database = rules.carpool.database.clone();
    let local = |user: &str, database: &str| rules.answer(Login { from: None, user, database, replication: false });
    assert!(is_ok(&local("app", &database)), "{}", rules.carpool.log());
    for (user, database) in [("postgres", "x"), ("postgres", database.as_str()), (me, database.as_str())] {
        let text = format!("Peer authentication failed for user \"{user}\"");
        assert_eq!(told(&local(user, database)), ("28000".to_owned(), text));
    }
    // The name is proven by a map, but nobody with that name is known.
    let unknown = local(&format!("{me}_mapped"), &database);
    assert!(told(&unknown).0 != "28000" || !told(&unknown).1.contains("Peer"), "{unknown:?}");
}

#[test]
fn auth_type_peer() {
    let me = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    let me = me.trim();
    let files = Files::new();
    let setup = Setup::pooler(&format!("auth_type = \"peer\"\nunix_socket_dir = \"{}\"", files.path("").display()));
    let carpool = Carpool::start(&setup.database("user = \"app\"").sections(&format!("[users.{me}]\n")));
    let login = |from, user| {
        let login = Login { from, user, database: &carpool.database, replication: false };
        login.first_answer(carpool.port, &files.path("")).1
    };
    assert!(is_ok(&login(None, me)), "{}", carpool.log());
    assert_eq!(told(&login(None, "postgres")).1, "Peer authentication failed for user \"postgres\"");
    assert_eq!(told(&login(Some(1), me)).0, "28000");
}

#[test]
fn passwords_by_line() {
    let sections = "[users.scram_user]\npassword = \"scram_user\"\n[users.nobody]\npassword = \"x\"\n";
    let hba = "host all scram_user 127.0.0.1/32 scram-sha-256\nhost all scram_user 127.0.0.2/32 password\n\
               host all scram_user 127.0.0.3/32 md5\nhost all all 127.0.0.4/32 trust\n";
    let rules = Rules::start(hba, "", "", sections);
    let database = rules.carpool.database.clone();
    let first = |last, user| {
        let answer = rules.answer(Login { from: Some(last), user, database: &database, replication: false });
        (answer.tag, u32::from_be_bytes(answer.body[..4].try_into().unwrap()))
    };
    assert_eq!(first(1, "scram_user"), (b'R', 10));
    assert_eq!(first(2, "scram_user"), (b'R', 3));
    assert_eq!(first(3, "scram_user"), (b'R', 5));
    assert_eq!(first(4, "scram_user"), (b'R', 0));
    let login = Login { from: Some(4), user: "none", database: &database, replication: false };
    let (mut socket, asked) = login.first_answer(rules.carpool.port, &rules.dir());
    assert_eq!(
        (asked.tag, asked.body.as_slice()),
        (b'R', &[0; 4][..]),
        "as PostgreSQL, which looks for the role later"
    );
    let unknown = read_message(&mut *socket);
    assert_eq!(told(&unknown), ("28000".to_owned(), "role \"none\" does not exist".to_owned()));
    // Whether there is such a user shows no earlier than in PostgreSQL.
    let refused = |user| rules.answer(Login { from: Some(1), user, database: &database, replication: false });
    let (known, unknown) = (told(&refused("nobody")), told(&refused("none")));
    assert_eq!(known.1.replace("nobody", "none"), unknown.1);
    let psql = |password: &str| {
        let url = rules.carpool.url("scram_user", password);
        let output = Command::new("psql").args(["-XAtd", &url, "-c", "select current_user"]).output().unwrap();
        (
            String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    assert_eq!(psql("scram_user").0, "scram_user");
    assert!(psql("wrong").1.contains("password authentication failed for user \"scram_user\""));
}

#[test]
fn the_console_has_one_name_in_the_file() {
    let rules = Rules::start("host pgbouncer all all reject\nhost all all all trust\n", "", "", "");
    for database in ["pgbouncer", "carpool"] {
        let answer = rules.answer(Login { from: Some(1), user: "postgres", database, replication: false });
        let text = "pg_hba.conf rejects connection for host \"127.0.0.1\", user \"postgres\", database \"pgbouncer\", \
                    no encryption";
        assert_eq!(told(&answer), ("28000".to_owned(), text.to_owned()));
        assert_eq!(answer.field('H').as_deref(), Some("See auth_hba_file."));
    }
    // With a line for it, the console's own rules hold.
    rules.files.write("hba", "host pgbouncer postgres all trust\n");
    assert!(rules.reload().contains("INFO reloaded"));
    assert!(!rules.carpool.console("show version").is_empty());
}

#[test]
fn a_reload_takes_all_or_nothing() {
    let rules = Rules::start("host all all all trust\n", "", "", "");
    let database = rules.carpool.database.clone();
    let login = || rules.answer(Login { from: Some(1), user: "app", database: &database, replication: false });
    assert!(is_ok(&login()));
    let hba = rules.files.write("hba", "host all all all reject\nhost all all 1.2.3.4/33 trust\ninclude none\n");
    let log = rules.reload();
    assert!(log.contains(&format!("{hba}:2: invalid CIDR mask")) && log.contains(&format!("{hba}:3: ")), "{log}");
    assert!(is_ok(&login()));
    let check = Command::new(env!("CARGO_BIN_EXE_carpool")).arg("check").arg(&rules.carpool.config).output().unwrap();
    assert_eq!(check.status.code(), Some(64));
    let errors = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(errors.contains(":2: ") && errors.contains(":3: "), "{errors}");
    rules.files.write("more", "host all app all reject\n");
    rules.files.write("hba", "include more\nhost all all all trust\n");
    let log = rules.reload();
    assert!(log.contains("INFO reloaded") && log.contains("the rules have changed"), "{log}");
    assert_eq!(told(&login()).0, "28000");
    assert!(!rules.reload().contains("the rules have changed"));
}

#[test]
fn membership_is_asked_for() {
    let postgres = Postgres::shared();
    postgres.sql(
        "postgres",
        "create role hba_staff; create role hba_sub in role hba_staff; create role hba_ann login in role hba_sub; \
         create role hba_bob login; create role hba_looks superuser login",
    );
    let sections = "[users.hba_looks]\n[users.hba_ann]\n[users.hba_bob]\n";
    let hba =
        "host all +hba_staff 127.0.0.1/32 reject\nhost samerole all 127.0.0.2/32 reject\nhost all all all trust\n";
    let rules = Rules::before(&Setup::pooler("auth_user = \"hba_looks\"").sections(sections), hba, "");
    let database = rules.carpool.database.clone();
    let answer = |user, last| rules.answer(Login { from: Some(last), user, database: &database, replication: false });
    assert_eq!(told(&answer("hba_ann", 1)).0, "28000", "{}", rules.carpool.log());
    assert!(is_ok(&answer("hba_bob", 1)), "{}", rules.carpool.log());
    assert!(is_ok(&answer("hba_ann", 2)));
    // Without anybody who could be asked, such a file isn't taken.
    let alone = std::fs::read_to_string(&rules.carpool.config).unwrap().replace("auth_user", "# auth_user");
    let config = rules.files.write("alone.toml", &alone);
    let check = Command::new(env!("CARGO_BIN_EXE_carpool")).args(["check", &config]).output().unwrap();
    let errors = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(errors.contains("hba:1: +role and samerole need auth_query") && errors.contains("hba:2: "), "{errors}");
}

#[test]
fn certificates_and_encryption() {
    let (authority, files) = (Authority::new("hba authority"), Files::new());
    let ca = files.write("ca.crt", &authority.pem());
    let mut pooler = files.pooler(&authority.issue("localhost", &["localhost"]), "prefer");
    pooler.push_str(&format!("client_tls_ca_file = \"{ca}\"\n"));
    let hba = "hostnossl all postgres all reject\nhostssl all app all cert map=m\n\
               hostssl all scram_user all scram-sha-256 clientcert=verify-full\n\
               hostssl all plain_user all password clientcert=verify-ca\nhostssl all postgres all trust\n\
               hostssl all md5_user all cert map=dn clientname=DN\n";
    let ident = "m /^(.*)@corp$ \\1\ndn \"/CN=boss,O=Example\" md5_user\n";
    let rules = Rules::before(&Setup::pooler(&pooler), hba, ident);
    let identity = |name: &str| {
        let (certificate, key) = files.write_identity(name, &authority.issue(name, &[]));
        format!("sslcert={certificate} sslkey={key}")
    };
    let psql = |user: &str, more: &str| {
        let (port, database) = (rules.carpool.port, &rules.carpool.database);
        let uri = format!("host=127.0.0.1 port={port} dbname={database} user={user} password={user} {more}");
        let mut psql = Command::new("psql");
        psql.args(["-XAtd", &uri, "-c", "select current_user"]).env("HOME", "/nonexistent");
        let output = psql.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(error) }
    };
    let none = "sslmode=require sslcert= sslkey=";
    let with = |name: &str| format!("sslmode=require {}", identity(name));
    assert_eq!(psql("postgres", none), Ok(()));
    let refused = psql("postgres", "sslmode=disable").unwrap_err();
    assert!(refused.contains("pg_hba.conf rejects connection") && refused.contains("no encryption"), "{refused}");
    assert_eq!(psql("app", &with("app@corp")), Ok(()), "{}", rules.carpool.log());
    for (user, more, part) in [
        ("app", with("app"), "certificate authentication failed for user \"app\""),
        ("app", none.to_owned(), "connection requires a valid client certificate"),
        ("app", "sslmode=disable".to_owned(), "no pg_hba.conf entry"),
        ("scram_user", with("other"), "password authentication failed for user \"scram_user\""),
        ("scram_user", none.to_owned(), "connection requires a valid client certificate"),
        ("plain_user", none.to_owned(), "connection requires a valid client certificate"),
        ("md5_user", with("clerk"), "certificate authentication failed for user \"md5_user\""),
    ] {
        let error = psql(user, &more).unwrap_err();
        assert!(error.contains(part), "{user} {more}: {error}");
    }
    assert_eq!(psql("scram_user", &with("scram_user")), Ok(()));
    assert_eq!(psql("plain_user", &with("anybody")), Ok(()));
    assert_eq!(psql("md5_user", &with("boss")), Ok(()), "{}", rules.carpool.log());
}
