//! What attackers and broken clients try.

use std::io::{Read, Write};

use crate::harness::raw::{V3_0, query, startup};
use crate::harness::tls::{Authority, Files, SSL_REQUEST, begin, client_config, proxy, socket};
use crate::harness::{Carpool, Postgres, Raw, Setup, eventually};

const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

struct World {
    authority: Authority,
    carpool: Carpool,
    _files: Files,
}

fn world(lines: &str, database: &str) -> World {
    let (authority, files) = (Authority::new("root"), Files::new());
    let identity = authority.issue("localhost", &["localhost"]);
    let setup = Setup::pooler(&(files.pooler(&identity, "allow") + lines)).database(database);
    World { authority, carpool: Carpool::start(&setup), _files: files }
}

/// All that comes until the connection ends.
fn rest(mut from: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    match from.read_to_end(&mut bytes) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("not closed"),
        _ => bytes,
    }
}

fn login(database: &str) -> Vec<u8> {
    startup(V3_0, &[("user", "postgres"), ("database", database)])
}

#[test]
fn bytes_behind_an_encryption_request_end_the_connection() {
    let World { carpool, .. } = world("", "");
    for request in [SSL_REQUEST, GSSENC_REQUEST] {
        let mut socket = socket(carpool.port);
        socket.write_all(&[&request[..], &login(&carpool.database)].concat()).unwrap();
        let answer = rest(socket);
        // An error in the clear, and no invitation to go on.
        assert_eq!(answer.first(), Some(&b'E'), "{}", answer.escape_ascii());
        assert!(answer.windows(5).any(|w| w == b"08P01"), "{}", answer.escape_ascii());
    }
    assert_eq!(carpool.client().value("select 1"), "1");
}

#[test]
fn encryption_is_asked_for_once() {
    let World { carpool, authority, .. } = world("", "");
    for request in [SSL_REQUEST, GSSENC_REQUEST] {
        let mut raw = Raw::connect(proxy(carpool.port, client_config(&authority)));
        raw.send(&request);
        let error = raw.read();
        assert_eq!((error.tag, error.field('C').as_deref()), (b'E', Some("08P01")), "{error:?}");
        assert_eq!(raw.until_closed(), []);
    }
    // GSSAPI first, as libpq does where it has a ticket, and then TLS.
    let mut socket = socket(carpool.port);
    let mut answer = [0];
    for (request, expected) in [(GSSENC_REQUEST, b'N'), (SSL_REQUEST, b'S')] {
        socket.write_all(&request).unwrap();
        socket.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [expected]);
    }
    let mut tls = begin(socket, client_config(&authority)).unwrap();
    tls.write_all(&login(&carpool.database)).unwrap();
    tls.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [b'R']);
}

#[test]
fn tls_can_begin_at_once_with_alpn_alone() {
    let World { carpool, authority, .. } = world("", "");
    let with = |alpn: &[&[u8]]| {
        let mut config = client_config(&authority);
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        begin(socket(carpool.port), config)
    };
    let mut tls = with(&[b"postgresql"]).unwrap();
    assert_eq!(tls.conn.alpn_protocol(), Some(&b"postgresql"[..]));
    tls.write_all(&login(&carpool.database)).unwrap();
    let mut answer = [0];
    tls.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [b'R']);
    // Encrypted already, so there is nothing to ask for.
    let mut tls = with(&[b"postgresql"]).unwrap();
    tls.write_all(&SSL_REQUEST).unwrap();
    tls.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [b'E']);
    // Without it, or for another protocol: not a byte of an answer.
    let mut tls = with(&[]).unwrap();
    let _ = tls.write_all(&login(&carpool.database));
    assert_eq!(rest(tls), b"");
    assert!(with(&[b"http/1.1"]).is_err());
    carpool.logs("without ALPN");
}

#[test]
fn tls_that_is_off_is_no_way_in() {
    let carpool = Carpool::start(&Setup::default());
    let mut socket = socket(carpool.port);
    socket.write_all(&[0x16, 3, 1, 0, 100, 1, 0, 0, 96, 3, 3]).unwrap();
    assert_eq!(rest(socket).first(), Some(&b'E'));
    assert_eq!(carpool.client().value("select 1"), "1");
}

#[test]
fn rubbish_in_place_of_a_handshake() {
    let World { carpool, .. } = world("", "");
    let long_record = [&[0x16, 3, 1, 0xff, 0xff][..], &[1; 70_000]].concat();
    let long_message = [&[0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..], &[0; 16_380]].concat();
    // The beginning of a ClientHello, and then a record that can't be.
    let broken_off = [0x16, 3, 1, 0, 6, 1, 0, 0, 96, 3, 3, 0x99, 3, 3, 0, 1, 0];
    for bytes in [
        &broken_off[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0; 5],
        &[0x16, 3, 1, 0, 0],
        &login("x"),
        &long_record,
        &long_message,
    ] {
        let mut socket = socket(carpool.port);
        socket.write_all(&SSL_REQUEST).unwrap();
        let mut answer = [0];
        socket.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [b'S']);
        let _ = socket.write_all(bytes);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        // An alert, if anything, but nothing in the clear.
        let answer = rest(socket);
        assert!(answer.is_empty() || answer[0] == 0x15, "{}", answer.escape_ascii());
    }
    assert_eq!(carpool.client().value("select 1"), "1");
    assert!(!carpool.log().contains("panicked"), "{}", carpool.log());
}

#[test]
fn a_slow_handshake_ends() {
    let World { carpool, .. } = world("client_login_timeout = \"500ms\"", "");
    let mut sockets: Vec<_> = (0..3).map(|_| socket(carpool.port)).collect();
    for (socket, bytes) in sockets.iter_mut().zip([&[][..], &[0x16], &[0x16, 3, 1, 0, 200, 1, 0, 0, 196]]) {
        socket.write_all(&SSL_REQUEST).unwrap();
        let mut answer = [0];
        socket.read_exact(&mut answer).unwrap();
        socket.write_all(bytes).unwrap();
    }
    for socket in sockets {
        assert_eq!(rest(socket), b"");
    }
    carpool.logs("client_login_timeout");
}

#[test]
fn those_who_vanish_leave_nothing_behind() {
    let World { carpool, authority, .. } = world("", "pool_size = 1");
    for cut in 0..12 {
        let mut socket = socket(carpool.port);
        socket.write_all(&SSL_REQUEST[..cut.min(8)]).unwrap();
        if cut >= 8 {
            let mut answer = [0];
            socket.read_exact(&mut answer).unwrap();
            socket.write_all(&[0x16, 3, 1, 0][..cut - 8]).unwrap();
        }
    }
    let mut tls = begin_session(&carpool, &authority);
    tls.write_all(&query("begin; create table left_behind (); select pg_sleep(1000)")).unwrap();
    let busy = format!(
        "select count(*) from pg_stat_activity where datname = '{}' and query like '%pg_sleep(1000)%' and state = 'active'",
        carpool.database
    );
    let postgres = Postgres::shared();
    eventually("the query runs", || (postgres.sql("postgres", &busy) == "1").then_some(()));
    drop(tls);
    // Its query is cancelled, its transaction is no more, and the only server is free.
    assert_eq!(carpool.client().value("select to_regclass('left_behind') is null"), "t");
}

/// Logged in, the greeting read.
fn begin_session(carpool: &Carpool, authority: &Authority) -> crate::harness::tls::Blocking {
    let mut config = client_config(authority);
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let mut tls = begin(socket(carpool.port), config).unwrap();
    tls.write_all(&login(&carpool.database)).unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"Z\0\0\0\x05I") {
        let mut byte = [0];
        tls.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    tls
}

#[test]
fn forged_records_end_the_session() {
    let World { carpool, authority, .. } = world("", "pool_size = 1");
    let mut tls = begin_session(&carpool, &authority);
    tls.write_all(&query("begin; create table forged ()")).unwrap();
    let mut byte = [0];
    tls.read_exact(&mut byte).unwrap();
    // A record that nobody encrypted, with a query in it.
    let forged = query("commit");
    let header = [0x17, 3, 3, 0, u8::try_from(forged.len()).unwrap()];
    tls.sock.write_all(&[&header[..], &forged].concat()).unwrap();
    let _ = rest(&mut tls);
    assert_eq!(carpool.client().value("select to_regclass('forged') is null"), "t");
}

#[test]
fn a_client_may_say_goodbye_by_tls_alone() {
    let World { carpool, authority, .. } = world("", "");
    let mut tls = begin_session(&carpool, &authority);
    tls.conn.send_close_notify();
    tls.conn.complete_io(&mut tls.sock).unwrap();
    eventually("the client is gone", || {
        let rows = carpool.console("show clients");
        (!rows.contains(&format!("|{}|", carpool.database))).then_some(())
    });
}
