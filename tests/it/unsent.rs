//! Requests of which nothing has been sent to a server that has ended: another runs them, and the client sees nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::harness::raw::query;
use crate::harness::{Carpool, Postgres, Raw, Setup, eventually};

const ROUNDS: usize = 100;
const CLIENTS: usize = 4;

fn as_app(carpool: &Carpool) -> Raw {
    Raw::login(carpool.port, "app", &carpool.database)
}

#[test]
fn idle_servers_that_have_ended_are_noticed_before_anything_is_sent() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 8"));
    let (stop, others) = (AtomicBool::new(false), AtomicUsize::new(0));
    let killed = std::thread::scope(|scope| {
        // Others keep the pool busy meanwhile.
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = carpool.client();
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(client.value("select 2"), "2");
                    others.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut clients: Vec<Raw> = (0..CLIENTS).map(|_| as_app(&carpool)).collect();
        let mut killer = Raw::login(Postgres::shared().port, "postgres", &carpool.database);
        let mut killed = 0;
        for round in 0..ROUNDS {
            for (number, client) in clients.iter_mut().enumerate() {
                client.send(&query(&format!("select {round} * 10 + {number}")));
            }
            for (number, client) in clients.iter_mut().enumerate() {
                let replies = client.until_ready();
                let row = replies.iter().find(|message| message.tag == b'D').unwrap_or_else(|| panic!("{replies:?}"));
                assert_eq!(row.columns()[0].as_deref(), Some((round * 10 + number).to_string().as_str()));
            }
            // Nobody has a server: all end, and are gone when this is answered.
            let kill = "select count(*) filter (where pg_terminate_backend(pid, 10000)) from pg_stat_activity \
                        where usename = 'app' and datname = current_database()";
            killed += killer.value(kill).parse::<usize>().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        killed
    });
    assert!(killed >= ROUNDS, "{killed}");
    assert!(others.load(Ordering::Relaxed) > ROUNDS);
}

/// In front of a server: an answer that has [`LAST`] in it is held back until a word comes, and then goes out with the
/// connection's end right behind it.
struct Dying {
    port: u16,
    held: Receiver<()>,
    go: Sender<()>,
    done: Receiver<()>,
}

const LAST: &str = "the last answer";

impl Dying {
    fn start(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell_held, held) = channel();
        let (go, wait) = channel();
        let (tell_done, done) = channel();
        let gate = std::sync::Arc::new(std::sync::Mutex::new((tell_held, wait, tell_done)));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let upstream = TcpStream::connect(("127.0.0.1", server)).unwrap();
                let (mut from, mut to) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
                let gate = std::sync::Arc::clone(&gate);
                std::thread::spawn(move || answers(upstream, client, &gate));
            }
        });
        Self { port, held, go, done }
    }
}

type Gate = std::sync::Mutex<(Sender<()>, Receiver<()>, Sender<()>)>;

fn answers(mut from: TcpStream, mut to: TcpStream, gate: &Gate) {
    let mut buf = vec![0; 65536];
    while let Ok(n @ 1..) = from.read(&mut buf) {
        let is_last = buf[..n].windows(LAST.len()).any(|window| window == LAST.as_bytes());
        if !is_last {
            let _ = to.write_all(&buf[..n]);
            continue;
        }
        let gate = gate.lock().unwrap();
        gate.0.send(()).unwrap();
        gate.1.recv().unwrap();
        to.write_all(&buf[..n]).unwrap();
        to.shutdown(Shutdown::Write).unwrap();
        gate.2.send(()).unwrap();
    }
}

#[test]
fn who_is_handed_a_server_that_has_ended_gets_another() {
    let postgres = Postgres::shared();
    let database = postgres.new_database();
    let proxy = Dying::start(postgres.port);
    let lines = format!("pool_size = 1\nport = {}", proxy.port);
    let carpool = Carpool::before(postgres, &database, &Setup::default().database(&lines));
    let (mut first, mut second) = (carpool.client(), carpool.client());
    for _ in 0..3 {
        first.send(&query(&format!("select '{LAST}'")));
        proxy.held.recv().unwrap();
        second.send(&query("select 'and another'"));
        eventually("the second waits", || {
            let pools = carpool.console("show pools");
            let line = pools.lines().find(|line| line.starts_with(&format!("{database}|postgres|"))).unwrap();
            (line.split('|').nth(3) == Some("1")).then_some(())
        });
        // So that the answer and the end of the connection are there at the same time.
        carpool.signal("STOP");
        let stat = format!("/proc/{}/stat", carpool.pid());
        eventually("Carpool stands still", || std::fs::read_to_string(&stat).unwrap().contains(") T ").then_some(()));
        proxy.go.send(()).unwrap();
        proxy.done.recv().unwrap();
        carpool.signal("CONT");
        for (client, expected) in [(&mut first, LAST), (&mut second, "and another")] {
            let replies = client.until_ready();
            let row = replies.iter().find(|message| message.tag == b'D').unwrap_or_else(|| panic!("{replies:?}"));
            assert_eq!(row.columns()[0].as_deref(), Some(expected));
        }
    }
}
