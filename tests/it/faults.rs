//! What goes wrong around Carpool: servers that end, hang or refuse, clients that vanish or don't read.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use crate::harness::postgres::default_bin;
use crate::harness::raw::{bind, execute, message, parse, query, sync};
use crate::harness::{Carpool, Message, Postgres, Raw, Setup, eventually};

fn code(replies: &[Message]) -> Option<String> {
    replies.iter().find(|m| m.tag == b'E').and_then(|m| m.field('C'))
}

fn signal(pid: &str, name: &str) {
    assert!(Command::new("kill").args(["-s", name, pid]).status().unwrap().success(), "no process {pid}");
}

/// Backends of a database whose query contains `text` and that run it.
fn running(postgres: &Postgres, database: &str, text: &str) -> usize {
    let sql = format!(
        "select count(*) from pg_stat_activity where datname = '{database}' and state = 'active' \
         and query like '%{text}%' and pid <> pg_backend_pid()"
    );
    postgres.sql("postgres", &sql).parse().unwrap()
}

fn wait_until_running(postgres: &Postgres, database: &str, text: &str) {
    eventually("the query runs", || (running(postgres, database, text) > 0).then_some(()));
}

/// Carpool before a cluster of the test's own.
fn own(setup: &Setup) -> (Postgres, Carpool) {
    let postgres = Postgres::own();
    let database = postgres.new_database();
    let carpool = Carpool::before(&postgres, &database, setup);
    (postgres, carpool)
}

/// Clients that wait for a server are counted by the console.
fn waiting(carpool: &Carpool) -> usize {
    carpool.console("show clients").lines().filter(|c| c.contains("|waiting|")).count()
}

#[test]
fn postgres_crashes_and_recovers() {
    let (_postgres, carpool) = own(&Setup::pooler("server_login_retry = 0.2").database("pool_size = 2"));
    let mut clients: Vec<_> = (0..4).map(|_| carpool.client()).collect();
    let pid = clients[0].value("select pg_backend_pid()");
    clients[0].query("begin");
    let busy = clients[0].value("select pg_backend_pid()");
    assert_eq!(pid, busy);
    // The death of one backend makes PostgreSQL end all others and start anew.
    signal(&pid, "KILL");
    assert_eq!(code(&clients[0].until_closed()).as_deref(), Some("08006"));
    for client in &mut clients[1..] {
        assert_eq!(client.value("select 'well'"), "well");
    }
    assert_eq!(carpool.client().value("select 'well'"), "well");
}

#[test]
fn postgres_is_stopped_and_started_while_clients_wait() {
    let (postgres, carpool) = own(&Setup::pooler("server_login_retry = 0.2").database("pool_size = 2"));
    let mut clients: Vec<_> = (0..6).map(|_| carpool.client()).collect();
    clients.iter_mut().for_each(|c| assert_eq!(c.value("select 1"), "1"));
    postgres.control(&["-s", "-w", "-m", "immediate", "stop"]);
    for client in &mut clients {
        client.send(&query("select 'well'"));
    }
    eventually("all wait", || (waiting(&carpool) == 6).then_some(()));
    postgres.start_again();
    for client in &mut clients {
        let replies = client.until_ready();
        assert_eq!(replies[1].columns()[0].as_deref(), Some("well"), "{replies:?}");
    }
}

#[test]
fn a_hung_server_is_given_up_and_the_next_client_served() {
    let (_postgres, carpool) = own(&Setup::pooler("query_timeout = 0.5").database("pool_size = 1"));
    let mut client = carpool.client();
    let pid = client.value("select pg_backend_pid()");
    signal(&pid, "STOP");
    client.send(&query("select 1"));
    let last = client.until_closed().pop().expect("an error");
    assert_eq!(last.field('M').as_deref(), Some("query timeout"));
    // The hung server keeps its slot until closing it has taken too long.
    let mut next = carpool.client();
    let replies = next.query("select 'well'");
    signal(&pid, "CONT");
    assert!(code(&replies).is_none() || next.value("select 'well'") == "well", "{replies:?}");
}

#[test]
fn logins_refused_for_a_while_keep_clients_waiting() {
    let (postgres, carpool) = own(&Setup::pooler("server_login_retry = 0.2"));
    let database = carpool.database.clone();
    let mut client = carpool.client();
    postgres.sql("postgres", &format!("alter database {database} allow_connections false"));
    let kill = format!("select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = '{database}'");
    postgres.sql("postgres", &kill);
    client.send(&query("select 'well'"));
    carpool.logs("refused the login");
    assert_eq!(waiting(&carpool), 1);
    postgres.sql("postgres", &format!("alter database {database} allow_connections true"));
    assert_eq!(client.until_ready()[1].columns()[0].as_deref(), Some("well"));
}

#[test]
fn a_role_that_may_not_log_in_is_told_at_once() {
    let (postgres, carpool) = own(&Setup::default());
    postgres.sql("postgres", "alter role app nologin");
    let mut raw = Raw::connect(carpool.port);
    raw.send(&crate::harness::raw::startup(
        crate::harness::raw::V3_0,
        &[("user", "app"), ("database", &carpool.database)],
    ));
    let error = raw.finish_login().expect("refused");
    assert_eq!(error.field('C').as_deref(), Some("28000"), "{error:?}");
    postgres.sql("postgres", "alter role app login");
    eventually("the role may log in", || {
        let mut raw = Raw::connect(carpool.port);
        let login = [("user", "app"), ("database", carpool.database.as_str())];
        raw.send(&crate::harness::raw::startup(crate::harness::raw::V3_0, &login));
        raw.finish_login().is_none().then_some(())
    });
}

#[test]
fn postgres_out_of_connections_keeps_clients_waiting() {
    let postgres = Postgres::start(&default_bin(), "max_connections = 8\nmax_wal_senders = 2\n");
    let database = postgres.new_database();
    let carpool = Carpool::before(&postgres, &database, &Setup::pooler("server_login_retry = 0.2"));
    let hogs: Vec<_> = (0..5).map(|_| Raw::login(postgres.port, "app", &database)).collect();
    let port = carpool.port;
    std::thread::scope(|scope| {
        let client = scope.spawn(|| Raw::login(port, "app", &database).value("select 'well'"));
        carpool.logs("refused the login");
        drop(hogs);
        assert_eq!(client.join().unwrap(), "well");
    });
}

/// A server on a port of its own: each connection is handled by `serve`, which gets its number.
fn fake(serve: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = std::sync::Arc::new(serve);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
            let serve = std::sync::Arc::clone(&serve);
            std::thread::spawn(move || serve(number, stream));
        }
    });
    port
}

/// Reads a startup packet.
fn read_startup(stream: &mut TcpStream) {
    let mut len = [0; 4];
    if stream.read_exact(&mut len).is_ok() {
        let mut rest = vec![0; u32::from_be_bytes(len) as usize - 4];
        let _ = stream.read_exact(&mut rest);
    }
}

/// Passes bytes both ways until both sides have ended.
fn pass_on(client: &TcpStream, port: u16) {
    let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
    std::thread::scope(|scope| {
        for (mut from, mut to) in [(client, &server), (&server, client)] {
            scope.spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Write);
            });
        }
    });
}

fn error(severity: &str, code: &str, text: &str) -> Vec<u8> {
    message('E', format!("S{severity}\0V{severity}\0C{code}\0M{text}\0\0").as_bytes())
}

/// Carpool before a fake server.
fn before_fake(setup: Setup, lines: &str, port: u16) -> Carpool {
    // The first that it is asked is to be the login.
    Carpool::start(&setup.database(&format!("port = {port}\nserver_tls_sslmode = \"disable\"\n{lines}")))
}

#[test]
fn a_server_that_is_starting_up_keeps_clients_waiting() {
    let real = Postgres::shared().port;
    let port = fake(move |number, mut stream| {
        if number < 3 {
            read_startup(&mut stream);
            let _ = stream.write_all(&error("FATAL", "57P03", "the database system is starting up"));
        } else {
            pass_on(&stream, real);
        }
    });
    let carpool = before_fake(Setup::pooler("server_login_retry = 0.2"), "", port);
    assert_eq!(carpool.client().value("select 'well'"), "well");
    carpool.logs("starting up");
}

#[test]
fn notices_during_a_servers_login_are_passed_over() {
    let real = Postgres::shared().port;
    let port = fake(move |_, mut stream| {
        let notice = message('N', b"SWARNING\0VWARNING\0C01000\0Mcollation version mismatch\0\0");
        // The first thing that the client side reads.
        stream.write_all(&[notice.clone(), notice].concat()).unwrap();
        pass_on(&stream, real);
    });
    let carpool = before_fake(Setup::default(), "", port);
    assert_eq!(carpool.client().value("select 'well'"), "well");
}

/// As a server does that doesn't know a protocol as new, or an option: what it says of that is its answer, not a fault.
#[test]
fn a_server_that_negotiates_the_protocol() {
    let real = Postgres::shared().port;
    for body in [&b"\0\x03\0\0\0\0\0\0"[..], b"\0\x03\0\0\0\0\0\x01_pq_.option\0"] {
        let port = fake(move |_, mut stream| {
            stream.write_all(&message('v', body)).unwrap();
            pass_on(&stream, real);
        });
        let carpool = before_fake(Setup::default(), "", port);
        assert_eq!(carpool.client().value("select 'well'"), "well");
    }
}

#[test]
fn servers_that_break_the_protocol_during_login() {
    for answer in [
        error("FATAL", "XX000", "no"),
        // CVE-2026-6666: an error without code and message, or without anything.
        message('E', b"SFATAL\0\0"),
        message('E', b""),
        message('E', b"\xff\xff\xff"),
        message('R', b"\0"),
        message('R', b"\0\0\0\x05"),
        message('R', &[0, 0, 0, 99]),
        message('Z', b"I"),
        b"R\0\0\0\x03".to_vec(),
        b"R\xff\xff\xff\xff".to_vec(),
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        Vec::new(),
        // CVE-2026-6665: a huge SCRAM nonce.
        message('R', &[&[0, 0, 0, 11], &b"r=x"[..], &[b'x'; 100_000], b",s=AAAA,i=4096"].concat()),
    ] {
        let sent = answer.clone();
        let port = fake(move |_, mut stream| {
            read_startup(&mut stream);
            let _ = stream.write_all(&sent);
        });
        let setup = Setup::pooler("query_wait_timeout = 0.5\nserver_login_retry = 0.1");
        let mut carpool = before_fake(setup, "", port);
        let mut raw = Raw::connect(carpool.port);
        let login = [("user", "postgres"), ("database", carpool.database.as_str())];
        raw.send(&crate::harness::raw::startup(crate::harness::raw::V3_0, &login));
        let refused = raw.finish_login().expect("no server, no login");
        assert_eq!(refused.field('S').as_deref(), Some("FATAL"), "{refused:?}");
        assert!(carpool.exit_status().is_none(), "{}", answer.escape_ascii());
    }
}

/// A server that logs everybody in and answers the first query with the given bytes, later ones well.
fn misbehaving(answer: Vec<u8>) -> u16 {
    fake(move |number, mut stream| {
        read_startup(&mut stream);
        let parameters = [("server_version", "15.0"), ("client_encoding", "UTF8"), ("application_name", "")];
        let parameters = parameters.map(|(n, v)| message('S', format!("{n}\0{v}\0").as_bytes())).concat();
        let ready = message('Z', b"I");
        let login =
            [message('R', &[0; 4]), parameters, message('K', &[0, 0, 0, 9, 1, 2, 3, 4]), ready.clone()].concat();
        stream.write_all(&login).unwrap();
        let mut buf = [0; 4096];
        while let Ok(1..) = stream.read(&mut buf) {
            let well = [message('C', b"SELECT 0\0"), ready.clone()].concat();
            if stream.write_all(if number == 0 { &answer } else { &well }).is_err() {
                return;
            }
        }
    })
}

#[test]
fn servers_that_break_the_protocol_later_are_closed_and_not_lent_again() {
    let ready = message('Z', b"I");
    for answer in [
        message('1', b""),
        message('Z', b"X"),
        message('Z', b"II"),
        [message('C', b"SELECT 1\0"), ready.clone(), ready.clone()].concat(),
        [message('C', b"SELECT 1\0"), ready.clone(), message('D', b"\0\0")].concat(),
        message('W', b"\0\0\0"),
        message('R', &[0; 4]),
        message('K', &[0; 8]),
        message('t', b"\0\0"),
        b"D\0\0\0\x03".to_vec(),
        b"D\xff\xff\xff\xff".to_vec(),
        message('S', b"no zero"),
        message('E', b"SFATAL\0VFATAL\0C57P01\0Mbye\0\0"),
    ] {
        let port = misbehaving(answer.clone());
        // One of them has the second client wait for as long as the first one's query may run.
        let setup = Setup::pooler("query_timeout = 5\nquery_wait_notify = 0");
        let carpool = before_fake(setup, "pool_size = 1", port);
        let (mut first, mut second) = (carpool.client(), carpool.client());
        first.send(&query("select 1"));
        // The answer may be whole for the client, with more behind it that was not asked for.
        let _ = first.try_read();
        let replies = second.query("select 2");
        let tags: Vec<_> = replies.iter().map(|m| char::from(m.tag)).collect();
        assert_eq!(tags, ['C', 'Z'], "{}: {replies:?}", answer.escape_ascii());
        assert_eq!(replies[0].body, b"SELECT 0\0", "{}: the first one's reply", answer.escape_ascii());
    }
}

/// Whatever a client was at when it vanished, the next one gets the only server, and nothing goes on running.
#[test]
fn clients_vanish_at_any_point() {
    let postgres = Postgres::shared();
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let database = carpool.database.as_str();
    postgres.sql(database, "create table t (a int)");
    let sleep = || query("select pg_sleep(600)");
    let extended = [parse("", "select pg_sleep(600)"), bind("", "", &[]), execute("", 0), sync()].concat();
    let large = "x".repeat(1_000_000);
    for (name, first, rest) in [
        ("in a transaction", query("begin; insert into t values (1)"), Vec::new()),
        ("in a failed transaction", query("begin; select 1/0"), Vec::new()),
        ("in a query", Vec::new(), sleep()),
        ("in an extended query", Vec::new(), extended.clone()),
        ("in a query within a transaction", query("begin; insert into t values (1)"), sleep()),
        ("with more queries behind", Vec::new(), [sleep(), query("select 1"), sleep(), extended.clone()].concat()),
        (
            "with a query held back",
            Vec::new(),
            [query("deallocate all; select pg_sleep(600)"), query("select 1")].concat(),
        ),
        (
            "without a Sync",
            Vec::new(),
            [parse("s", "insert into t values (1)"), bind("", "s", &[]), execute("", 0)].concat(),
        ),
        ("in a copy", Vec::new(), [query("copy t from stdin"), message('d', b"1\n")].concat()),
        ("in a copy within a transaction", query("begin"), [query("copy t from stdin"), message('d', b"1\n")].concat()),
        ("in a message", Vec::new(), query(&large)[..500_000].to_vec()),
        (
            "in a message within a transaction",
            query("begin; insert into t values (1)"),
            query(&large)[..500_000].to_vec(),
        ),
        ("in a header", query("begin; insert into t values (1)"), b"Q\0".to_vec()),
        (
            "before reading a large result",
            Vec::new(),
            query("select repeat('x', 1000000) from generate_series(1, 1000)"),
        ),
        (
            "before reading a large copy",
            Vec::new(),
            query("copy (select repeat('x', 1000000) from generate_series(1, 1000)) to stdout"),
        ),
    ] {
        let mut client = carpool.client();
        if !first.is_empty() {
            client.send(&first);
            client.until_ready();
        }
        client.send(&rest);
        if rest.windows(8).any(|w| w == b"pg_sleep") {
            wait_until_running(postgres, database, "pg_sleep");
        }
        drop(client);
        let mut next = carpool.client();
        assert_eq!(next.value("select count(*) from t"), "0", "{name}");
        assert_eq!(running(postgres, database, "pg_sleep(600)"), 0, "{name}: still runs");
        // Where the next one was served before the other's bytes were read, the server has been closed since.
        assert!(postgres.backends(database) <= 1, "{name}");
    }
}

#[test]
fn clients_vanish_in_the_queue() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let mut holder = carpool.client();
    holder.query("begin");
    let mut patient = carpool.client();
    let gone: Vec<_> = (0..20)
        .map(|_| {
            let mut client = carpool.client();
            client.send(&query("create table never_made ()"));
            client
        })
        .collect();
    eventually("they wait", || (waiting(&carpool) == 20).then_some(()));
    patient.send(&query("select to_regclass('never_made') is null"));
    eventually("all wait", || (waiting(&carpool) == 21).then_some(()));
    drop(gone);
    eventually("they are noticed", || (waiting(&carpool) == 1).then_some(()));
    holder.query("commit");
    assert_eq!(patient.until_ready()[1].columns()[0].as_deref(), Some("t"));
}

#[test]
fn terminated_servers() {
    let postgres = Postgres::shared();
    let carpool = Carpool::start(&Setup::default().database("pool_size = 2"));
    let (mut busy, mut in_transaction, mut idle) = (carpool.client(), carpool.client(), carpool.client());
    idle.value("select 1");
    in_transaction.query("begin");
    busy.send(&query("select pg_sleep(600)"));
    wait_until_running(postgres, &carpool.database, "pg_sleep");
    let sql = format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{}'", carpool.database);
    postgres.sql("postgres", &sql);
    assert_eq!(code(&busy.until_ready()).as_deref(), Some("57P01"));
    assert_eq!(code(&in_transaction.until_closed()).as_deref(), Some("57P01"));
    assert_eq!(busy.value("select 'well'"), "well");
    assert_eq!(idle.value("select 'well'"), "well");
}

#[test]
fn a_server_that_ends_an_idle_transaction_by_itself() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let mut client = carpool.client();
    client.query("begin; set local idle_in_transaction_session_timeout = 50");
    assert_eq!(code(&client.until_closed()).as_deref(), Some("25P03"));
    assert_eq!(carpool.client().value("select 'well'"), "well");
}

#[test]
fn descriptors_run_out_and_come_back() {
    let carpool = Carpool::start(&Setup::default());
    let mut client = carpool.client();
    assert_eq!(client.value("select 1"), "1");
    let limit = Command::new("prlimit").args(["--pid", &carpool.pid().to_string(), "--nofile=40:40"]).status();
    assert!(limit.unwrap().success());
    let crowd: Vec<_> = (0..100).map(|_| Raw::connect(carpool.port)).collect();
    carpool.logs("accept failed");
    // Who is in goes on.
    assert_eq!(client.value("select 'well'"), "well");
    drop(crowd);
    assert_eq!(carpool.client().value("select 'well'"), "well");
}

#[test]
fn waiting_too_long_says_who_has_the_servers() {
    let carpool = Carpool::start(&Setup::pooler("query_wait_timeout = 0.3").database("pool_size = 1"));
    let (mut holder, mut waiter) = (carpool.client(), carpool.client());
    holder.query("begin");
    waiter.send(&query("select 1"));
    let error = waiter.until_closed().pop().expect("an error");
    assert_eq!(error.field('M').as_deref(), Some("query_wait_timeout"));
    assert!(error.field('H').unwrap().contains("pool_size"), "{error:?}");
    let detail = error.field('D').unwrap();
    let clients = carpool.console("show clients");
    let holder_line = clients.lines().find(|c| c.contains("active") && !c.contains("pgbouncer"));
    assert!(detail.contains("1 of 1 are in use") && detail.contains("postgres"), "{detail}\n{holder_line:?}");
    holder.query("commit");
    assert_eq!(carpool.client().value("select 'well'"), "well");
}

#[test]
fn time_limits() {
    let postgres = Postgres::shared();
    for (name, begin, then, code) in [
        ("query_timeout", "select 1", "select pg_sleep(600)", "57014"),
        ("query_timeout", "begin", "select pg_sleep(600)", "57014"),
        ("idle_transaction_timeout", "begin", "", "25P03"),
        ("transaction_timeout", "begin", "select pg_sleep(600)", "57014"),
        ("transaction_timeout", "begin", "", "57014"),
        ("client_idle_timeout", "select 1", "", "57P05"),
    ] {
        let carpool = Carpool::start(&Setup::pooler(&format!("{name} = 0.4")).database("pool_size = 1"));
        let mut client = carpool.client();
        client.query(begin);
        if !then.is_empty() {
            client.send(&query(then));
        }
        let replies = client.until_closed();
        let error = replies.iter().find(|m| m.tag == b'E').unwrap_or_else(|| panic!("{name}: {replies:?}"));
        let text = if name == "client_idle_timeout" { name.to_owned() } else { name.replace('_', " ") };
        assert_eq!(error.field('M'), Some(text));
        assert_eq!(error.field('H'), Some(format!("See {name}.")));
        assert_eq!(error.field('C').as_deref(), Some(code), "{name}");
        assert_eq!(carpool.client().value("select 'well'"), "well");
        assert_eq!(running(postgres, &carpool.database, "pg_sleep"), 0, "{name}");
    }
}

#[test]
fn time_limits_spare_those_within_them() {
    let limits = "query_timeout = 2\nidle_transaction_timeout = 2\ntransaction_timeout = 4\nclient_idle_timeout = 2";
    let carpool = Carpool::start(&Setup::pooler(limits).database("pool_size = 1"));
    let mut client = carpool.client();
    for _ in 0..2 {
        client.query("begin");
        for _ in 0..3 {
            client.query("select pg_sleep(0.4)");
        }
        client.query("commit");
    }
    assert_eq!(client.value("select 'well'"), "well");
}

/// Resident memory, MB.
fn memory(carpool: &Carpool) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", carpool.pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

/// Reads until `len` bytes have come.
fn read_bytes(client: &Raw, len: usize) {
    let mut buf = vec![0; 1 << 20];
    let mut left = len;
    while left > 0 {
        let part = buf.len().min(left);
        let n = client.stream().read(&mut buf[..part]).unwrap();
        assert!(n > 0, "closed with {left} bytes to come");
        left -= n;
    }
}

#[test]
fn a_slow_reader_of_a_large_result_holds_up_nobody_and_costs_no_memory() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 2"));
    let mut slow = carpool.client();
    slow.send(&query("select repeat('x', 1000000) from generate_series(1, 300)"));
    read_bytes(&slow, 1000);
    for _ in 0..3 {
        let mut other = carpool.client();
        for _ in 0..50 {
            assert_eq!(other.value("select 'well'"), "well");
        }
        assert!(memory(&carpool) < 100, "{} MB", memory(&carpool));
    }
    read_bytes(&slow, 250_000_000);
    assert!(memory(&carpool) < 100, "{} MB", memory(&carpool));
    read_bytes(&slow, 300 * 1_000_011 - 250_001_000);
    // Row description, command tag and ReadyForQuery are left.
    eventually("the result ends", || {
        let mut byte = [0];
        slow.stream().read_exact(&mut byte).unwrap();
        (byte[0] == b'Z').then_some(())
    });
}

#[test]
fn a_row_and_a_parameter_of_300_megabytes_stream_through() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let mut client = carpool.client();
    let size = 300_000_000usize;
    client.send(&query(&format!("select repeat('x', {size})")));
    let mut most = 0;
    for _ in 0..100 {
        read_bytes(&client, size / 100);
        most = most.max(memory(&carpool));
    }
    client.until_ready_after_bulk();
    assert_eq!(client.value("select 'well'"), "well");
    // The other way: a Bind.
    client.send(&parse("", "select length($1)"));
    let mut body = b"\0\0\0\0\0\x01".to_vec();
    body.extend_from_slice(&u32::try_from(size).unwrap().to_be_bytes());
    let length = u32::try_from(4 + body.len() + size + 2).unwrap();
    client.send(&[&b"B"[..], &length.to_be_bytes(), &body].concat());
    let piece = vec![b'y'; size / 100];
    for _ in 0..100 {
        client.send(&piece);
        most = most.max(memory(&carpool));
    }
    client.send_all(&[vec![0, 0], execute("", 0), sync()]);
    let replies = client.until_ready();
    assert_eq!(replies[2].columns()[0].as_deref(), Some("300000000"), "{:?}", replies[0]);
    assert!(most < 100, "{most} MB");
}

/// What one client asks ahead of a long query is not read without bound: it costs neither memory nor the time of
/// the thread that serves others, too.
#[test]
fn much_asked_ahead_of_a_long_query_holds_up_nobody() {
    let carpool = Carpool::start(&Setup::pooler("worker_threads = 1").database("pool_size = 2"));
    let (mut greedy, mut other) = (carpool.client(), carpool.client());
    greedy.query("begin");
    greedy.send(&query("select pg_sleep(600)"));
    let closes = crate::harness::raw::close('S', "none").repeat(10_000);
    std::thread::scope(|scope| {
        let stream = greedy.stream();
        let flood = scope.spawn(|| {
            // Until it takes no more, or has taken far more than it should.
            let mut taken = 0;
            while taken < 50_000_000 && (&mut &*stream).write_all(&closes).is_ok() {
                taken += closes.len();
            }
            taken
        });
        for _ in 0..200 {
            assert_eq!(other.value("select 'well'"), "well");
        }
        assert!(memory(&carpool) < 100, "{} MB", memory(&carpool));
        stream.shutdown(std::net::Shutdown::Both).unwrap();
        assert!(flood.join().unwrap() < 50_000_000);
    });
}

#[test]
fn ten_thousand_executions_in_one_pipeline() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let mut client = carpool.client();
    let one = [parse("", "select 1"), bind("", "", &[]), execute("", 0)].concat();
    let named = [parse("s", "select 2"), crate::harness::raw::close('S', "s")].concat();
    let mut sender = client.stream().try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let all = [one.repeat(10_000), named.repeat(10_000), sync()].concat();
            sender.write_all(&all).unwrap();
        });
        let replies = client.until_ready();
        let count = |tag| replies.iter().filter(|m| m.tag == tag).count();
        assert_eq!([b'1', b'2', b'D', b'C', b'3', b'Z'].map(count), [20_000, 10_000, 10_000, 10_000, 10_000, 1]);
    });
    assert_eq!(client.value("select 'well'"), "well");
}
