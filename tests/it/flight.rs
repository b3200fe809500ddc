//! The flight recorder, and `carpool replay`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::raw::{bind, execute, message, parse, query, sync};
use crate::harness::{Carpool, Postgres, Raw, Setup, eventually};

/// A directory that ends with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("carpool-flight-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn lines(&self, events: u32) -> String {
        format!("flight_recorder = {events}\nflight_recorder_dir = {:?}", self.0)
    }

    fn files(&self) -> Vec<PathBuf> {
        std::fs::read_dir(&self.0).unwrap().map(|file| file.unwrap().path()).collect()
    }

    /// The one file, once it is there.
    fn file(&self) -> PathBuf {
        eventually("a flight record", || {
            let mut files = self.files();
            assert!(files.len() < 2, "{files:?}");
            files.pop().filter(|file| replay(file).is_ok())
        })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What `carpool replay` prints, or says on stderr.
fn replay(file: &Path) -> Result<String, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_carpool")).arg("replay").arg(file).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// What follows each other in a timeline.
fn has(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let at = rest.find(part).unwrap_or_else(|| panic!("no {part:?} in its place in\n{text}"));
        rest = &rest[at + part.len()..];
    }
}

/// RECORD of the only client of a user, on the console: the notice or the error.
fn record(carpool: &Carpool, user: &str) -> String {
    let clients = carpool.console("SHOW CLIENTS");
    let id = |line: &str| {
        let columns: Vec<_> = line.split('|').collect();
        (columns[1] == user && columns[2] != "pgbouncer").then(|| columns.to_vec().join("|"))
    };
    let line = clients.lines().find_map(id).unwrap_or_else(|| panic!("no {user} in {clients}"));
    let mut console = Raw::login(carpool.port, "postgres", "pgbouncer");
    let head = console.query("SHOW CLIENTS");
    let description = head.iter().find(|m| m.tag == b'T').unwrap();
    let names = String::from_utf8_lossy(&description.body).into_owned();
    let place = names.split('\0').filter(|part| !part.is_empty());
    let names: Vec<_> = place.map(|part| part.trim_start_matches(|c: char| !c.is_ascii_lowercase())).collect();
    let at = names.iter().filter(|name| !name.is_empty()).position(|name| *name == "id").unwrap();
    let replies = console.query(&format!("RECORD {}", line.split('|').nth(at).unwrap()));
    let said = replies.iter().find(|m| matches!(m.tag, b'N' | b'E')).unwrap();
    said.field('M').unwrap()
}

const MARKER: &str = "xyzzyplugh";

#[test]
fn a_client_that_breaks_the_protocol_is_recorded_without_contents() {
    let directory = Directory::new("refused");
    let carpool = Carpool::start(&Setup::pooler(&directory.lines(64)));
    let login = [("user", "app"), ("database", carpool.database.as_str()), ("application_name", MARKER)];
    let mut client = Raw::login_with(carpool.port, &login);
    client.query(&format!("create table {MARKER} (a text)"));
    client.query("begin");
    assert_eq!(client.value(&format!("select '{MARKER}' || '1' /* {MARKER} */")), format!("{MARKER}1"));
    let run = [parse(MARKER, "select $1::text"), bind(MARKER, MARKER, &[MARKER]), execute(MARKER, 0), sync()];
    client.send_all(&run);
    client.until_ready();
    client.query(&format!("select {MARKER}.{MARKER} from nowhere"));
    client.send(&message('!', MARKER.as_bytes()));
    let last = client.until_closed();
    assert_eq!(last.last().unwrap().field('C').unwrap(), "08P01");
    let file = directory.file();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = std::fs::read(&file).unwrap();
    for part in [MARKER, "xyzzy", "plugh", "nowhere", "create", "select"] {
        assert!(!bytes.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part.as_bytes())), "{part}");
    }
    let text = replay(&file).unwrap();
    has(
        &text,
        &["user \"app\"", "the client broke the protocol", "client has S-", "client   --> Query", "owed: Query"],
    );
    let batch = ["--> Parse", "--> Bind", "--> Execute", "--> Sync", "owed: Parse, Bind, Execute, Sync"];
    has(&text, &batch);
    has(
        &text,
        &["<-- ParseComplete", "owed: Bind, Execute, Sync", "<-- DataRow", "owed: Execute, Sync", "<-- ReadyForQuery"],
    );
    has(&text, &["<-- ErrorResponse", "client   --> message of an unknown type (10 bytes): REFUSED"]);
    carpool.logs("flight record written to");
}

#[test]
fn the_servers_complaint_is_recorded_and_the_ring_is_bounded() {
    let directory = Directory::new("complaint");
    let carpool = Carpool::start(&Setup::pooler(&directory.lines(16)));
    let mut client = Raw::login(carpool.port, "app", &carpool.database);
    for _ in 0..500 {
        client.value("select 1");
    }
    assert!(directory.files().is_empty());
    client.send_all(&[parse("", "select 1"), bind("", "", &["too many"]), execute("", 0), sync()]);
    client.until_ready();
    let text = replay(&directory.file()).unwrap();
    has(&text, &["the server says that the protocol was broken", "16 events, ", "<-- ErrorResponse"]);
    assert_eq!(text.lines().count(), 3 + 16, "{text}");
    let size = std::fs::metadata(directory.file()).unwrap().len();
    assert!(size < 1024, "{size}");
    client.value("select 'goes on'");
}

/// Passes everything on, but what nobody has asked for when a query says so.
fn liar(server: u16) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(upstream) = TcpStream::connect(("127.0.0.1", server)) else { continue };
            let (mut from, mut to) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
            let mut lies = client.try_clone().unwrap();
            std::thread::spawn(move || {
                let mut buf = [0; 8192];
                while let Ok(n @ 1..) = from.read(&mut buf) {
                    if buf[..n].windows(6).any(|window| window == b"'lie!'") {
                        let _ = lies.write_all(b"3\0\0\0\x04");
                    } else if to.write_all(&buf[..n]).is_err() {
                        return;
                    }
                }
                let _ = to.shutdown(Shutdown::Both);
            });
            let (mut from, mut to) = (upstream, client);
            std::thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
        }
    });
    port
}

#[test]
fn a_server_in_doubt_is_recorded() {
    let directory = Directory::new("doubt");
    let postgres = Postgres::shared();
    let setup = Setup::pooler(&directory.lines(100)).database(&format!("port = {}", liar(postgres.port)));
    let carpool = Carpool::before(postgres, &postgres.new_database(), &setup);
    let mut client = Raw::login(carpool.port, "app", &carpool.database);
    client.value("select 1");
    client.send(&query("select 'lie!'"));
    assert_eq!(client.until_closed().last().unwrap().field('C').unwrap(), "08006");
    let text = replay(&directory.file()).unwrap();
    has(&text, &["can't be trusted", "--> Query", "owed: Query", "<-- CloseComplete", "IS IN DOUBT"]);
}

#[test]
fn admins_ask_for_a_record() {
    let directory = Directory::new("asked");
    let carpool = Carpool::start(&Setup::pooler(&format!("flight_recorder_dir = {:?}", directory.0)));
    let mut client = Raw::login(carpool.port, "app", &carpool.database);
    client.value("select 1");
    assert_eq!(record(&carpool, "app"), "flight_recorder is off");
    let mut console = Raw::login(carpool.port, "postgres", "pgbouncer");
    console.query("SET flight_recorder = 10");
    client.query("begin");
    client.value("select 2");
    let said = record(&carpool, "app");
    let path = said.strip_prefix("written to ").unwrap_or_else(|| panic!("{said}"));
    let text = replay(Path::new(path)).unwrap();
    has(
        &text,
        &["an admin asked for it", "client has S-", "--> Query", "<-- CommandComplete", "--> Query", "<-- DataRow"],
    );
    assert!(!text.contains("goes back"), "{text}");
    client.query("commit");
    let second = record(&carpool, "app");
    has(&replay(Path::new(second.strip_prefix("written to ").unwrap())).unwrap(), &["goes back to the pool"]);
    assert_eq!(directory.files().len(), 2, "none is overwritten");
    for number in 0..98 {
        std::fs::write(directory.0.join(format!("carpool-{number}.flight")), "").unwrap();
    }
    let said = record(&carpool, "app");
    assert!(said.contains("100 records are there, remove some"), "{said}");
    assert_eq!(directory.files().len(), 100);
    for command in ["RECORD", "RECORD x", "RECORD 999999"] {
        assert_eq!(console.error(command), "08P01", "{command}");
    }
    console.query("SET flight_recorder = 0");
    assert_eq!(record(&carpool, "app"), "flight_recorder is off");
    let refused = console.query("SET flight_recorder_dir = ''");
    assert!(refused.iter().all(|m| m.tag != b'E'), "{refused:?}");
    assert_eq!(console.error("SET flight_recorder = 10"), "08P01", "it needs a directory");
}

#[test]
fn what_is_no_record_is_refused() {
    let directory = Directory::new("foreign");
    let said = |name: &str, bytes: &[u8]| {
        let path = directory.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        replay(&path).unwrap_err()
    };
    assert!(said("a", b"\x7fELF").ends_with("a: is no flight record of Carpool\n"));
    assert!(said("b", b"CPFLIGH\x01\0\0").contains("is cut short: 10 of 16 bytes are there"));
    assert!(said("c", b"CPFLIGH\x02\0\0\0\0").contains("format 2"));
    assert!(replay(&directory.0.join("none")).unwrap_err().contains("No such file"));
}
