//! Connections that have not logged in, and how many there may be.

use std::io::Read;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::raw::{V3_0, startup};
use crate::harness::{Carpool, Postgres, Raw, Setup, eventually};
use crate::startup::psql;

fn login(carpool: &Carpool, user: &str) -> Vec<u8> {
    startup(V3_0, &[("user", user), ("database", &carpool.database)])
}

#[test]
fn connections_of_one_address_are_limited() {
    let carpool = Carpool::start(&Setup::pooler("max_client_conn_per_address = 3\ntcp_defer_accept = false"));
    let mut clients: Vec<_> = (0..2).map(|_| carpool.client()).collect();
    // One that says nothing counts, too.
    let silent = Raw::connect(carpool.port);
    let refused = || {
        let mut raw = Raw::connect(carpool.port);
        raw.until_closed().pop().expect("an error")
    };
    let error = refused();
    assert_eq!(error.field('C').as_deref(), Some("53300"), "{error:?}");
    assert!(error.field('H').unwrap().contains("max_client_conn_per_address"), "{error:?}");
    drop(silent);
    let another = || {
        let mut raw = Raw::connect(carpool.port);
        raw.send(&login(&carpool, "postgres"));
        raw.try_read().ok().filter(|m| m.tag == b'R').map(|_| raw)
    };
    let third = eventually("there is room again", another);
    assert_eq!(clients[0].value("select 1"), "1");
    refused();
    clients.pop();
    let fourth = eventually("a client that left makes room", another);
    drop((clients, third, fourth));
    // Whatever became of them, nothing stays counted.
    for _ in 0..20 {
        drop(eventually("there is room", another));
    }
}

/// They neither take the places of clients, nor keep anybody out for long.
#[test]
fn a_flood_of_silent_connections() {
    let carpool = Carpool::start(&Setup::pooler(
        "auth_type = \"scram-sha-256\"\nmax_login_connections = 20\nmax_client_conn = 5",
    ));
    let over = AtomicBool::new(false);
    let first = login(&carpool, "scram_user");
    std::thread::scope(|scope| {
        for number in 0..40 {
            let (over, first, port) = (&over, &first, carpool.port);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let raw = Raw::connect(port);
                    let mut stream = raw.stream();
                    // Some stop in the middle of the exchange.
                    let sent = [&b""[..], &first[..7], first][number % 3];
                    let _ = std::io::Write::write_all(&mut stream, sent);
                    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                    let mut byte = [0; 512];
                    loop {
                        match stream.read(&mut byte) {
                            Ok(1..) => {}
                            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                                if over.load(Ordering::Relaxed) {
                                    break;
                                }
                            }
                            _ => break,
                        }
                    }
                }
            });
        }
        carpool.logs("max_login_connections");
        for _ in 0..3 {
            let answer = psql(carpool.port, &carpool.database, "scram_user", "scram_user", "select 1");
            if answer.is_err() {
                over.store(true, Ordering::Relaxed);
            }
            assert_eq!(answer.as_deref(), Ok("1"), "{}", carpool.log());
        }
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn those_not_logged_in_take_no_clients_place() {
    let carpool = Carpool::start(&Setup::pooler("auth_type = \"plain\"\nmax_client_conn = 2"));
    let start = || {
        let mut raw = Raw::connect(carpool.port);
        raw.send(&login(&carpool, "plain_user"));
        assert_eq!(raw.read().tag, b'R');
        raw
    };
    let mut waiting: Vec<_> = (0..6).map(|_| start()).collect();
    let prove = |raw: &mut Raw| {
        raw.send(&crate::harness::raw::message('p', b"plain_user\0"));
        raw.finish_login()
    };
    assert!(prove(&mut waiting[0]).is_none());
    assert!(prove(&mut waiting[1]).is_none());
    let error = prove(&mut waiting[2]).expect("no room");
    assert_eq!(error.field('C').as_deref(), Some("53300"));
    assert!(error.field('H').unwrap().contains("max_client_conn"));
    waiting.remove(0);
    eventually("there is room", || prove(&mut start()).is_none().then_some(()));
    assert_eq!(waiting[0].value("select 1"), "1");
}

/// Bytes of memory that the process has.
fn memory(carpool: &Carpool) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", carpool.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn a_silent_connection_costs_little_more_than_a_socket() {
    let carpool = Carpool::start(&Setup::default());
    let open = |count: usize| -> Vec<_> {
        let silent: Vec<_> = (0..count).map(|_| Raw::connect(carpool.port)).collect();
        // By now it has been let in.
        assert_eq!(carpool.client().value("select 1"), "1");
        silent
    };
    let some = open(100);
    let before = memory(&carpool);
    let more = open(600);
    let each = memory(&carpool).saturating_sub(before) / more.len();
    println!("{each} bytes for each silent connection");
    assert!(each < 12_000, "{each} bytes");
    drop(some);
}

/// Those who were told why they aren't let in are waited for only so long, and only so many of them: they count nowhere.
#[test]
fn those_who_were_sent_away_take_no_descriptors() {
    const MANY: usize = 400;
    // As in `pooler::accept`.
    const MOST_LEAVING: usize = 64;
    for (pooler, code) in [("", "0A000"), ("max_client_conn_per_address = 1", "53300")] {
        let carpool = Carpool::start(&Setup::pooler(pooler));
        // The one that there may be of this address.
        let counted = (!pooler.is_empty()).then(|| carpool.client());
        let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", carpool.pid())).unwrap().count();
        let before = descriptors();
        let refused: Vec<_> = (0..MANY)
            .map(|_| {
                let mut raw = Raw::connect(carpool.port);
                if pooler.is_empty() {
                    raw.send(&startup(9 << 16, &[]));
                }
                assert_eq!(raw.read().field('C').as_deref(), Some(code));
                raw
            })
            .collect();
        let now = descriptors();
        assert!(now <= before + MOST_LEAVING + 8, "{before} descriptors before, {now} after");
        drop((refused, counted));
    }
}

fn cancel_packet(key: &[u8]) -> Vec<u8> {
    let mut packet = u32::try_from(key.len() + 8).unwrap().to_be_bytes().to_vec();
    packet.extend_from_slice(&80_877_102u32.to_be_bytes());
    packet.extend_from_slice(key);
    packet
}

/// Anybody can make up keys of a peer: that this one says nothing keeps nobody out.
#[test]
fn cancel_requests_for_a_silent_peer_make_room() {
    // The system accepts for it.
    let peer = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = peer.local_addr().unwrap().port();
    let setup = Setup::pooler("peer_id = 1\nmax_login_connections = 3\ncancel_wait_timeout = 600");
    let carpool = Carpool::start(&setup.sections(&format!("[peers.2]\nhost = \"127.0.0.1\"\nport = {port}\n")));
    let requests: Vec<_> = (0..3)
        .map(|_| {
            let raw = Raw::connect(carpool.port);
            std::io::Write::write_all(&mut raw.stream(), &cancel_packet(&[0, 0, 0, 9, 0, 2, 7, 3])).unwrap();
            // It has been passed on, and is waited for.
            let passed = peer.accept().unwrap();
            (raw, passed)
        })
        .collect();
    let mut client = carpool.client();
    assert_eq!(client.value("select 1"), "1");
    drop(requests);
}

/// Who cancels a query of its own isn't sent away for others while PostgreSQL takes its time.
#[test]
fn cancel_requests_for_queries_of_ones_own_stay() {
    let postgres = Postgres::own();
    let database = postgres.new_database();
    let setup = Setup::pooler("max_login_connections = 1\ncancel_wait_timeout = 600\nmax_client_conn_per_address = 10");
    let carpool = Carpool::before(&postgres, &database, &setup);
    let mut client = carpool.client();
    client.send(&crate::harness::raw::query("select pg_sleep(600)"));
    let running = "select count(*) from pg_stat_activity where state = 'active' and query = 'select pg_sleep(600)'";
    eventually("the query runs", || (postgres.sql(&database, running) == "1").then_some(()));
    let postmaster = postgres.postmaster().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args(["-s", name, &postmaster]).status().unwrap().success());
    signal("STOP");
    let mut request = Raw::connect(carpool.port);
    request.send(&cancel_packet(&client.key));
    let refused = || {
        let mut raw = Raw::connect(carpool.port);
        raw.send(&login(&carpool, "postgres"));
        raw.try_read().ok().filter(|m| m.tag == b'E')
    };
    eventually("the request is being sent", refused);
    for _ in 0..20 {
        // Nor do they stay counted, of this address, who are sent away.
        let error = refused().expect("there is no room");
        assert!(error.field('M').unwrap().contains("max_login_connections"), "{error:?}");
    }
    signal("CONT");
    let replies = client.until_ready();
    let cancelled = replies.iter().find(|m| m.tag == b'E').and_then(|m| m.field('C'));
    assert_eq!(cancelled.as_deref(), Some("57014"), "{replies:?}");
    request.until_closed();
}
