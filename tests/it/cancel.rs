//! Cancel requests reach the query they are meant for, or nothing.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::harness::raw::{V3_0, bind, execute, parse, query, startup, sync};
use crate::harness::{Carpool, Gate, Message, Postgres, Raw, Setup, eventually};

/// The SQLSTATE of the error among replies.
fn code(replies: &[Message]) -> Option<String> {
    replies.iter().find(|m| m.tag == b'E').and_then(|m| m.field('C'))
}

/// How many backends of the database run a text that contains `text`.
fn running(postgres: &Postgres, database: &str, text: &str) -> usize {
    let sql = format!(
        "select count(*) from pg_stat_activity where datname = '{database}' and state = 'active' \
         and query like '%{text}%' and pid <> pg_backend_pid()"
    );
    postgres.sql("postgres", &sql).parse().unwrap()
}

fn wait_until_running(carpool: &Carpool, text: &str) {
    eventually("the query runs", || (running(Postgres::shared(), &carpool.database, text) > 0).then_some(()));
}

#[test]
fn keys_are_random_and_all_different() {
    let carpool = Carpool::start(&Setup::default());
    let keys: std::collections::HashSet<_> = (0..50).map(|_| carpool.client().key).collect();
    assert_eq!(keys.len(), 50);
    assert!(keys.iter().all(|k| k.len() == 8 && k[0] < 0x80), "{keys:?}");
}

#[test]
fn a_running_query_is_cancelled_and_the_client_goes_on() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let mut client = carpool.client();
    for _ in 0..3 {
        client.send(&query("select pg_sleep(600)"));
        wait_until_running(&carpool, "pg_sleep");
        Raw::cancel(carpool.port, &client.key);
        assert_eq!(code(&client.until_ready()).as_deref(), Some("57014"));
        assert_eq!(client.value("select 1"), "1");
    }
    client.query("begin");
    client.send_all(&[parse("", "select pg_sleep(600)"), bind("", "", &[]), execute("", 0), sync()]);
    wait_until_running(&carpool, "pg_sleep");
    Raw::cancel(carpool.port, &client.key);
    assert_eq!(code(&client.until_ready()).as_deref(), Some("57014"));
    assert_eq!(client.error("select 1"), "25P02");
    client.query("rollback");
}

#[test]
fn wrong_keys_cancel_nothing() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let mut client = carpool.client();
    client.send(&query("select pg_sleep(600)"));
    wait_until_running(&carpool, "pg_sleep");
    let key = client.key.clone();
    for bit in 0..64 {
        let mut wrong = key.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        Raw::cancel(carpool.port, &wrong);
    }
    // Of the server itself, whose number clients can see.
    let pid = Postgres::shared().sql(
        "postgres",
        &format!("select pid from pg_stat_activity where datname = '{}' and state = 'active'", carpool.database),
    );
    let pid = pid.parse::<u32>().unwrap().to_be_bytes();
    Raw::cancel(carpool.port, &[&pid[..], &key[4..]].concat());
    for length in [0, 4, 7, 9, 12, 36, 300] {
        let longer: Vec<u8> = key.iter().copied().chain(std::iter::repeat(0)).take(length).collect();
        Raw::cancel(carpool.port, &longer);
    }
    assert_eq!(running(Postgres::shared(), &carpool.database, "pg_sleep"), 1);
    Raw::cancel(carpool.port, &key);
    assert_eq!(code(&client.until_ready()).as_deref(), Some("57014"));
}

#[test]
fn an_idle_client_is_not_cancelled_nor_who_has_its_server() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let (mut idle, mut busy) = (carpool.client(), carpool.client());
    idle.value("select 1");
    let undisturbed = query(&format!("select {}, 'undisturbed'", Gate::PASS));
    let gate = Postgres::shared().gate(&carpool.database);
    busy.send(&undisturbed);
    wait_until_running(&carpool, "undisturbed");
    for _ in 0..20 {
        Raw::cancel(carpool.port, &idle.key);
    }
    drop(gate);
    assert_eq!(code(&busy.until_ready()), None);
    // The key of one who has gone.
    let gone = carpool.client().key;
    carpool.logs("client close request");
    let gate = Postgres::shared().gate(&carpool.database);
    busy.send(&undisturbed);
    wait_until_running(&carpool, "undisturbed");
    Raw::cancel(carpool.port, &gone);
    drop(gate);
    assert_eq!(code(&busy.until_ready()), None);
}

#[test]
fn a_client_in_the_queue_is_cancelled() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let (mut holder, mut simple, mut extended) = (carpool.client(), carpool.client(), carpool.client());
    holder.query("begin");
    // A second query behind the first one: only the first is cancelled.
    simple.send_all(&[query("select 'cancelled'"), query("select 'not cancelled'")]);
    let text = ["select 'cancelled'", "select 'skipped'", "select 'not cancelled'"];
    let run = |i: usize| [parse("", text[i]), bind("", "", &[]), execute("", 0)].concat();
    extended.send_all(&[run(0), run(1), sync(), run(2), sync()]);
    eventually("both wait", || {
        let clients = carpool.console("show clients");
        (clients.lines().filter(|c| c.contains("|waiting|")).count() == 2).then_some(())
    });
    for client in [&mut simple, &mut extended] {
        Raw::cancel(carpool.port, &client.key);
        let replies = client.until_ready();
        assert_eq!(code(&replies).as_deref(), Some("57014"), "{replies:?}");
        assert_eq!(replies.len(), 2);
    }
    holder.query("commit");
    for client in [&mut simple, &mut extended] {
        let replies = client.until_ready();
        let row = replies.iter().find(|m| m.tag == b'D').unwrap_or_else(|| panic!("{replies:?}"));
        assert_eq!(row.columns()[0].as_deref(), Some("not cancelled"));
        assert_eq!(client.value("select 'well'"), "well");
    }
}

/// Clients run queries of distinct lengths on a small pool while each other's cancels fly. One who never was
/// cancelled since its query was sent must never see an error.
#[test]
fn a_hundred_cancels_at_once_hit_nobody_else() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 3"));
    let (port, database) = (carpool.port, carpool.database.as_str());
    let stop = AtomicBool::new(false);
    let (finished, cancelled) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let victims: Vec<_> = (0..10).map(|_| carpool.client()).collect();
    let keys: Vec<_> = victims.iter().map(|v| v.key.clone()).collect();
    std::thread::scope(|scope| {
        // Short queries, so that they end while cancels are on their way.
        for mut victim in victims {
            let (stop, cancelled) = (&stop, &cancelled);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let replies = victim.query("select pg_sleep(0.002)");
                    if let Some(code) = code(&replies) {
                        assert_eq!(code, "57014");
                        cancelled.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let bystanders: Vec<_> = (0..10)
            .map(|number| {
                let finished = &finished;
                let mut client = Raw::login(port, "postgres", database);
                // Each with a setting of its own, so that replays happen.
                client.query(&format!("set timezone = '{}'", number + 1));
                scope.spawn(move || {
                    for _ in 0..40 {
                        let sql = format!("select {number} from pg_sleep(0.002)");
                        assert_eq!(client.value(&sql), number.to_string(), "not one's own row");
                        finished.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let cancellers: Vec<_> = (0..100)
            .map(|i| {
                let (key, stop) = (&keys[i % keys.len()], &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        Raw::cancel(port, key);
                    }
                })
            })
            .collect();
        let results: Vec<_> = bystanders.into_iter().map(|b| b.join()).collect();
        stop.store(true, Ordering::Relaxed);
        cancellers.into_iter().for_each(|c| c.join().unwrap());
        results.into_iter().for_each(|r| r.unwrap());
    });
    assert_eq!(finished.load(Ordering::Relaxed), 400);
    assert!(cancelled.load(Ordering::Relaxed) > 0, "no cancel ever hit: nothing was shown");
}

#[test]
fn cancels_while_settings_are_replayed_end_no_session() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let port = carpool.port;
    let mut clients = [carpool.client(), carpool.client()];
    clients[0].query("set timezone = 'Asia/Tokyo'");
    clients[1].query("set timezone = 'Europe/Rome'");
    let key = clients[0].key.clone();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    Raw::cancel(port, &key);
                }
            });
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..300 {
                // Each takes the server over from the other, so each time there is a replay.
                let replies = clients[0].query("show timezone");
                match code(&replies) {
                    None => assert_eq!(replies[1].columns()[0].as_deref(), Some("Asia/Tokyo")),
                    Some(code) => assert_eq!(code, "57014", "{replies:?}"),
                }
                assert_eq!(clients[1].value("show timezone"), "Europe/Rome");
            }
        }));
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|e| std::panic::resume_unwind(e));
    });
}

#[test]
fn cancel_clients_that_vanish_or_say_too_much() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let mut client = carpool.client();
    client.send(&query("select pg_sleep(600)"));
    wait_until_running(&carpool, "pg_sleep");
    let packet = [&16u32.to_be_bytes()[..], &80_877_102u32.to_be_bytes(), &client.key].concat();
    for end in 0..packet.len() {
        let mut stream = TcpStream::connect(("127.0.0.1", carpool.port)).unwrap();
        stream.write_all(&packet[..end]).unwrap();
    }
    assert_eq!(running(Postgres::shared(), &carpool.database, "pg_sleep"), 1, "half a cancel request did something");
    // Whole, with bytes behind it, and gone at once.
    let mut stream = TcpStream::connect(("127.0.0.1", carpool.port)).unwrap();
    stream.write_all(&[&packet[..], &query("select 'injected'"), &[0xff; 3000]].concat()).unwrap();
    drop(stream);
    assert_eq!(code(&client.until_ready()).as_deref(), Some("57014"));
    assert_eq!(client.value("select 'well'"), "well");
}

#[test]
fn a_cancel_behind_an_encryption_request() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let mut client = carpool.client();
    client.send(&query("select pg_sleep(600)"));
    wait_until_running(&carpool, "pg_sleep");
    let mut canceller = Raw::connect(carpool.port);
    canceller.send(&[&8u32.to_be_bytes()[..], &80_877_103u32.to_be_bytes()].concat());
    let mut answer = [0];
    std::io::Read::read_exact(&mut canceller.stream(), &mut answer).unwrap();
    assert_eq!(&answer, b"N");
    canceller.send(&[&16u32.to_be_bytes()[..], &80_877_102u32.to_be_bytes(), &client.key].concat());
    assert!(canceller.until_closed().is_empty());
    assert_eq!(code(&client.until_ready()).as_deref(), Some("57014"));
}

#[test]
fn long_keys_of_protocol_3_2() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let mut client = Raw::connect(carpool.port);
    client.send(&startup(V3_0 | 2, &[("user", "postgres"), ("database", &carpool.database)]));
    assert!(client.finish_login().is_none());
    assert_eq!(client.key.len(), 4 + 32);
    client.send(&query("select pg_sleep(600)"));
    wait_until_running(&carpool, "pg_sleep");
    Raw::cancel(carpool.port, &client.key[..8]);
    let mut wrong = client.key.clone();
    wrong[35] ^= 1;
    Raw::cancel(carpool.port, &wrong);
    assert_eq!(running(Postgres::shared(), &carpool.database, "pg_sleep"), 1);
    Raw::cancel(carpool.port, &client.key);
    assert_eq!(code(&client.until_ready()).as_deref(), Some("57014"));
}

/// A cancel that PostgreSQL takes its time for must not hit whoever has the server by then.
#[test]
fn a_late_cancel_hits_nobody_else() {
    let postgres = Postgres::own();
    let database = postgres.new_database();
    let setup = Setup::pooler("cancel_wait_timeout = 0.5").database("pool_size = 1");
    let carpool = Carpool::before(&postgres, &database, &setup);
    let (mut first, mut second) = (carpool.client(), carpool.client());
    let gate = postgres.gate(&database);
    first.send(&query(&format!("select {}, 'the first'", Gate::PASS)));
    eventually("the query runs", || (running(&postgres, &database, "the first") > 0).then_some(()));
    // The postmaster, which takes new connections and so cancels, stands still; its backends go on.
    let postmaster = postgres.postmaster().to_string();
    let signal =
        |name| assert!(std::process::Command::new("kill").args(["-s", name, &postmaster]).status().unwrap().success());
    signal("STOP");
    Raw::cancel(carpool.port, &first.key);
    carpool.logs("cancel request failed");
    drop(gate);
    assert_eq!(code(&first.until_ready()), None, "the first query ends by itself");
    // On the same server it would begin at once; on a new one it waits for the postmaster.
    second.send(&query("select pg_sleep(2), 'the second'"));
    eventually("the server is closed", || {
        carpool.log().contains("a cancel request for it may still come").then_some(())
    });
    signal("CONT");
    assert_eq!(code(&second.until_ready()), None, "the cancel hit the wrong query");
}

#[test]
fn cancels_over_a_restart_delay_nothing() {
    let postgres = Postgres::own();
    let database = postgres.new_database();
    let carpool =
        Carpool::before(&postgres, &database, &Setup::pooler("server_login_retry = 0.2").database("pool_size = 3"));
    let mut clients: Vec<_> = (0..20).map(|_| carpool.client()).collect();
    clients.iter_mut().for_each(|c| c.send(&query("select pg_sleep(600)")));
    eventually("three queries run", || (running(&postgres, &database, "pg_sleep") == 3).then_some(()));
    let keys: Vec<_> = clients.iter().map(|c| c.key.clone()).collect();
    std::thread::scope(|scope| {
        for key in &keys {
            scope.spawn(|| Raw::cancel(carpool.port, key));
        }
        postgres.control(&["-s", "-w", "-m", "immediate", "stop"]);
        postgres.start_again();
    });
    // Those who waited were cancelled; of those who ran the server was lost, or they were cancelled just in time.
    for client in &mut clients {
        let replies = std::iter::repeat_with(|| client.read()).find(|m| m.tag != b'T');
        let code = replies.as_slice().first().and_then(|m| m.field('C'));
        assert!(matches!(code.as_deref(), Some("57014" | "57P01" | "57P02" | "08006")), "{replies:?}");
    }
    assert_eq!(carpool.client().value("select 'well'"), "well");
}
