//! More clients than servers: each gets on, in the order of asking, and there is never a server too many.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

use crate::harness::raw::{V3_0, bind, execute, message, parse, query, startup, sync};
use crate::harness::{Carpool, Postgres, Raw, Setup, eventually};

/// The default `pool_size`.
const SERVERS: usize = 25;

/// Counts the backends of a database all the time, but for those of `postgres`, as who tests look at it.
struct Census {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<usize>>,
}

impl Census {
    fn of(database: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, database) = (Arc::clone(&stop), database.to_owned());
        let thread = std::thread::spawn(move || {
            let mut watch = Raw::login(Postgres::shared().port, "postgres", "postgres");
            let sql =
                format!("select count(*) from pg_stat_activity where datname = '{database}' and usename <> 'postgres'");
            let mut most = 0;
            while !stopped.load(Ordering::Relaxed) {
                most = most.max(watch.value(&sql).parse().unwrap());
                std::thread::sleep(Duration::from_millis(1));
            }
            most
        });
        Self { stop, thread: Some(thread) }
    }

    /// The most that there have been.
    fn most(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Census {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Carpool in front of a database on which PostgreSQL itself allows no more than `servers` connections of others
/// than superusers.
fn bounded(setup: &Setup, servers: usize) -> Carpool {
    let postgres = Postgres::shared();
    let database = postgres.new_database();
    postgres.sql("postgres", &format!("alter database {database} connection limit {servers}"));
    Carpool::before(postgres, &database, setup)
}

/// The columns of SHOW POOLS that are looked at.
fn pools(carpool: &Carpool) -> BTreeMap<String, Pool> {
    let mut console = Raw::login(carpool.port, "postgres", "pgbouncer");
    let replies = console.query("show pools");
    let head = replies.iter().find(|m| m.tag == b'T').unwrap();
    let text = String::from_utf8_lossy(&head.body[2..]).into_owned();
    let names = ["user", "cl_waiting", "sv_active", "sv_idle", "sv_login"];
    let mut rest = &head.body[2..];
    let mut all = Vec::new();
    while let Some(end) = rest.iter().position(|&b| b == 0) {
        all.push(String::from_utf8_lossy(&rest[..end]).into_owned());
        rest = &rest[end + 19..];
    }
    let place = |name| all.iter().position(|n| n == name).unwrap_or_else(|| panic!("no {name} in {text}"));
    let places = names.map(place);
    let rows = replies.iter().filter(|m| m.tag == b'D').map(|m| m.columns());
    rows.map(|row| {
        let number = |i: usize| row[places[i]].as_ref().unwrap().parse().unwrap();
        let pool = Pool { waiting: number(1), active: number(2), idle: number(3), login: number(4) };
        (row[places[0]].clone().unwrap(), pool)
    })
    .collect()
}

#[derive(Debug, Clone, Copy)]
struct Pool {
    waiting: usize,
    active: usize,
    idle: usize,
    login: usize,
}

fn wait_for_waiting(carpool: &Carpool, clients: usize) {
    let mut seen = BTreeMap::new();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually(&format!("{clients} clients wait"), || {
            seen = pools(carpool);
            (seen.values().map(|p| p.waiting).sum::<usize>() == clients).then_some(())
        });
    }));
    if let Err(panic) = result {
        eprintln!("{seen:?}");
        std::panic::resume_unwind(panic);
    }
}

/// As many logged in clients, all at once.
fn crowd(carpool: &Carpool, clients: usize, user: &str) -> Vec<Raw> {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let mut crowd: Vec<_> = (0..clients).map(|_| Raw::connect(carpool.port)).collect();
    let hello = startup(V3_0, &[("user", user), ("database", &carpool.database)]);
    crowd.iter_mut().for_each(|c| c.send(&hello));
    for client in &mut crowd {
        let refused = client.finish_login();
        assert!(refused.is_none(), "{refused:?}");
    }
    crowd
}

/// Whether bytes have come.
fn has_news(client: &Raw) -> bool {
    client.stream().set_nonblocking(true).unwrap();
    let news = client.stream().peek(&mut [0]);
    client.stream().set_nonblocking(false).unwrap();
    news.is_ok()
}

fn succeed(client: &mut Raw) {
    let replies = client.until_ready();
    assert!(replies.iter().all(|m| m.tag != b'E'), "{replies:?}");
}

/// All begin a transaction at once: `SERVERS` of them can. Each that has one ends it, and so lets another in.
fn from_cold(clients: usize) {
    let carpool = bounded(&Setup::default(), SERVERS);
    Postgres::shared().sql(&carpool.database, "create table visits(n int); grant all on visits to public");
    let census = Census::of(&carpool.database);
    let mut crowd = crowd(&carpool, clients, "app");
    for (n, client) in crowd.iter_mut().enumerate() {
        client.send(&query(&format!("begin; insert into visits values ({n})")));
    }
    wait_for_waiting(&carpool, clients - SERVERS);
    assert_eq!(Postgres::shared().backends(&carpool.database), SERVERS);
    let mut rest: Vec<_> = crowd.iter_mut().collect();
    assert_eq!(rest.iter().filter(|c| has_news(c)).count(), SERVERS);
    while !rest.is_empty() {
        let (served, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(|c| has_news(c));
        for client in served {
            succeed(client);
            client.send(&query("commit"));
            succeed(client);
        }
        rest = others;
    }
    // And once more, each for itself.
    crowd.iter_mut().for_each(|c| c.send(&query("insert into visits values (-1)")));
    crowd.iter_mut().for_each(succeed);
    let visits = Postgres::shared().sql(&carpool.database, "select count(*), count(distinct n) from visits");
    assert_eq!(visits, format!("{}|{}", 2 * clients, clients + 1));
    assert_eq!(census.most(), SERVERS);
    assert!(!carpool.log().contains("too many connections"), "a login too many");
}

#[test]
fn one_client_more_than_servers() {
    from_cold(SERVERS + 1);
}

#[test]
fn twice_as_many_clients_as_servers() {
    from_cold(2 * SERVERS);
}

#[test]
fn a_hundred_times_as_many_clients_as_servers() {
    from_cold(100 * SERVERS);
}

/// Clients queue up one by one behind one who has the only server; simple queries and extended ones.
#[test]
fn first_come_first_served() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    Postgres::shared().sql(&carpool.database, "create table served(place serial, n int)");
    let mut holder = carpool.client();
    let mut queue: Vec<_> = (0..100).map(|_| carpool.client()).collect();
    holder.query("begin");
    for (n, client) in queue.iter_mut().enumerate() {
        if n % 2 == 0 {
            client.send(&query(&format!("insert into served(n) values ({n})")));
        } else {
            let insert = parse("", "insert into served(n) values ($1)");
            client.send_all(&[insert, bind("", "", &[&n.to_string()]), execute("", 0), sync()]);
        }
        wait_for_waiting(&carpool, n + 1);
    }
    // One who comes late while the others are served.
    holder.query("commit");
    holder.send(&query("insert into served(n) values (100)"));
    queue.iter_mut().for_each(succeed);
    succeed(&mut holder);
    let order = Postgres::shared().sql(&carpool.database, "select string_agg(n::text, ' ' order by place) from served");
    assert_eq!(order, (0..=100).map(|n| n.to_string()).collect::<Vec<_>>().join(" "));
}

/// One who gives up, or is cancelled, leaves the order of the others as it is.
#[test]
fn the_order_outlives_those_who_leave_it() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    Postgres::shared().sql(&carpool.database, "create table served(place serial, n int)");
    let mut holder = carpool.client();
    let mut queue: Vec<_> = (0..12).map(|_| carpool.client()).collect();
    holder.query("begin");
    for (n, client) in queue.iter_mut().enumerate() {
        client.send(&query(&format!("insert into served(n) values ({n})")));
        wait_for_waiting(&carpool, n + 1);
    }
    Raw::cancel(carpool.port, &queue[3].key);
    drop(queue.remove(7));
    wait_for_waiting(&carpool, 10);
    holder.query("commit");
    let cancelled = queue[3].until_ready();
    assert_eq!(cancelled[0].field('C').as_deref(), Some("57014"));
    drop(queue.remove(3));
    queue.iter_mut().for_each(succeed);
    let order = Postgres::shared().sql(&carpool.database, "select string_agg(n::text, ' ' order by place) from served");
    assert_eq!(order, "0 1 2 4 5 6 8 9 10 11");
}

#[test]
fn slow_queries_hold_up_nobody_for_ever() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 2"));
    let census = Census::of(&carpool.database);
    let mut crowd = crowd(&carpool, 200, "app");
    for round in 0..2 {
        for client in &mut crowd {
            client.send(&query(&format!("select pg_sleep(0.005), {round}")));
        }
        crowd.iter_mut().for_each(succeed);
    }
    assert_eq!(census.most(), 2);
}

/// A door in front of PostgreSQL that opens on command, and counts logins under way.
struct Door {
    dir: std::path::PathBuf,
    open: Arc<AtomicBool>,
    under_way: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Door {
    /// A unix socket in front of the shared cluster's.
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("carpool-test-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).unwrap();
        let socket = format!(".s.PGSQL.{}", Postgres::shared().port);
        let listener = UnixListener::bind(dir.join(&socket)).unwrap();
        let server = Postgres::shared().dir.join(socket);
        let door = Self { dir, open: Arc::default(), under_way: Arc::default(), most: Arc::default() };
        let (open, under_way, most) = (Arc::clone(&door.open), Arc::clone(&door.under_way), Arc::clone(&door.most));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let now = under_way.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                let (open, under_way, server) = (Arc::clone(&open), Arc::clone(&under_way), server.clone());
                std::thread::spawn(move || pass(client, &server, &open, &under_way));
            }
        });
        door
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.open.store(true, Ordering::SeqCst);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Passes one connection on once the door is open; its login is over with the first ReadyForQuery.
fn pass(mut client: UnixStream, server: &Path, open: &AtomicBool, under_way: &AtomicUsize) {
    while !open.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut server = UnixStream::connect(server).unwrap();
    let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(std::net::Shutdown::Write);
    });
    let ready = [b'Z', 0, 0, 0, 5, b'I'];
    let (mut seen, mut buf, mut login) = (Vec::new(), [0; 4096], true);
    while let Ok(n @ 1..) = server.read(&mut buf) {
        seen.extend_from_slice(&buf[..n]);
        if login && seen.windows(6).any(|w| w == ready) {
            login = false;
            under_way.fetch_sub(1, Ordering::SeqCst);
        }
        if client.write_all(&buf[..n]).is_err() {
            break;
        }
    }
    let _ = client.shutdown(std::net::Shutdown::Both);
}

/// From cold several servers log in at a time, but not all at once.
#[test]
fn slow_logins_come_several_at_a_time() {
    let door = Door::new("door");
    let host = format!("host = {:?}", door.dir.to_str().unwrap());
    let carpool = Carpool::start(&Setup::pooler("max_concurrent_logins = 4").database(&host));
    let mut crowd: Vec<_> = (0..60).map(|_| Raw::connect(carpool.port)).collect();
    let hello = startup(V3_0, &[("user", "app"), ("database", &carpool.database)]);
    crowd.iter_mut().for_each(|c| c.send(&hello));
    eventually("four logins are under way", || (door.under_way.load(Ordering::SeqCst) == 4).then_some(()));
    door.open.store(true, Ordering::SeqCst);
    for client in &mut crowd {
        assert!(client.finish_login().is_none());
        client.send(&query("begin"));
    }
    wait_for_waiting(&carpool, 60 - SERVERS);
    assert_eq!(Postgres::shared().backends(&carpool.database), SERVERS);
    assert_eq!(door.most.load(Ordering::SeqCst), 4);
}

/// Roles of this test alone, known to Carpool.
fn roles(count: usize, label: &str) -> (Vec<String>, Setup) {
    let names: Vec<_> = (0..count).map(|i| format!("{label}_{i}")).collect();
    for name in &names {
        Postgres::shared().sql("postgres", &format!("create role {name} login"));
    }
    let sections: String = names.iter().map(|name| format!("[users.{name}]\n")).collect();
    (names, Setup::default().sections(&sections))
}

/// Users share one pool: one with no server gets room made by an idle server of another.
#[test]
fn idle_servers_of_one_user_make_room_for_another() {
    let (users, setup) = roles(3, "room");
    let carpool = bounded(&setup, SERVERS);
    let census = Census::of(&carpool.database);
    let mut first = crowd(&carpool, SERVERS, &users[0]);
    first.iter_mut().for_each(|c| c.send(&query("begin")));
    first.iter_mut().for_each(succeed);
    first.iter_mut().for_each(|c| c.send(&query("commit")));
    first.iter_mut().for_each(succeed);
    eventually("all are idle", || (pools(&carpool)[&users[0]].idle == SERVERS).then_some(()));
    for user in &users[1..] {
        let mut client = Raw::login(carpool.port, user, &carpool.database);
        assert_eq!(client.value("select current_user"), *user);
    }
    for client in &mut first {
        assert_eq!(client.value("select current_user"), users[0]);
    }
    assert_eq!(census.most(), SERVERS);
    assert!(!carpool.log().contains("too many connections"), "a login too many");
}

/// A user that comes when another has all servers, and clients waiting for more, gets its turn.
#[test]
fn a_user_with_all_servers_and_more_to_do_yields() {
    let (users, setup) = roles(2, "hog");
    let carpool = bounded(&setup.database("pool_size = 4"), 4);
    let mut late = Raw::login(carpool.port, &users[1], &carpool.database);
    let mut hogs = crowd(&carpool, 12, &users[0]);
    hogs.iter_mut().for_each(|c| c.send(&query("begin")));
    wait_for_waiting(&carpool, 8);
    late.send(&query("select current_user"));
    wait_for_waiting(&carpool, 9);
    // Each that has a server ends its transaction and asks for the next one.
    let mut transactions = 0;
    while !has_news(&late) {
        for client in hogs.iter_mut().filter(|c| has_news(c)) {
            succeed(client);
            client.send(&query("commit"));
            succeed(client);
            client.send(&query("begin"));
            transactions += 1;
        }
        assert!(transactions < 1000, "the other user starves");
    }
    succeed(&mut late);
}

/// Several users, each with more clients than there are servers, all busy.
#[test]
fn busy_users_share_the_servers() {
    let (users, setup) = roles(4, "busy");
    let carpool = bounded(&setup, SERVERS);
    let census = Census::of(&carpool.database);
    let mut crowds: Vec<_> = users.iter().map(|user| (user.clone(), crowd(&carpool, 40, user))).collect();
    for _ in 0..3 {
        for (_, crowd) in &mut crowds {
            crowd.iter_mut().for_each(|c| c.send(&query("select current_user")));
        }
        for (user, crowd) in &mut crowds {
            for client in crowd {
                let replies = client.until_ready();
                let row = replies.iter().find(|m| m.tag == b'D').unwrap_or_else(|| panic!("{replies:?}"));
                assert_eq!(row.columns()[0].as_ref(), Some(&*user));
            }
        }
    }
    assert!(census.most() <= SERVERS);
    assert!(!carpool.log().contains("too many connections"), "a login too many");
}

#[test]
fn a_users_own_share_is_kept_to() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 10\nuser_pool_size = 3"));
    let census = Census::of(&carpool.database);
    let mut crowd = crowd(&carpool, 8, "app");
    crowd.iter_mut().for_each(|c| c.send(&query("begin")));
    wait_for_waiting(&carpool, 5);
    assert_eq!(carpool.client().value("select 1"), "1");
    let by_user = "select string_agg(distinct usename || ' ' || n, ', ') from
        (select usename, count(*) over (partition by usename) n from pg_stat_activity where datname = ";
    let by_user = format!("{by_user}'{}') s", carpool.database);
    assert_eq!(Postgres::shared().sql("postgres", &by_user), "app 3, postgres 1");
    assert!(census.most() <= 10);
}

#[test]
fn clients_beyond_max_client_conn_are_told_so() {
    let carpool = Carpool::start(&Setup::pooler("max_client_conn = 5"));
    let mut clients: Vec<_> = (0..5).map(|_| carpool.client()).collect();
    let attempt = || {
        let mut client = Raw::connect(carpool.port);
        client.send(&startup(V3_0, &[("user", "postgres"), ("database", &carpool.database)]));
        client.try_read()
    };
    let error = attempt().unwrap();
    assert_eq!(error.tag, b'E', "{error:?}");
    assert_eq!(error.field('C').as_deref(), Some("53300"));
    assert_eq!(error.field('S').as_deref(), Some("FATAL"));
    assert_eq!(error.field('M').as_deref(), Some("no more connections allowed (max_client_conn)"));
    for client in &mut clients {
        assert_eq!(client.value("select 1"), "1");
    }
    drop(clients.pop());
    eventually("there is room again", || (attempt().ok()?.tag == b'R').then_some(()));
}

/// Servers of `database` that have sat idle for longer than two seconds.
fn long_idle(database: &str) -> usize {
    let sql =
        "select count(*) from pg_stat_activity where state_change < clock_timestamp() - interval '2 s' and datname = ";
    Postgres::shared().sql("postgres", &format!("{sql}'{database}'")).parse().unwrap()
}

#[test]
fn idle_servers_go_but_for_the_minimum() {
    let carpool = Carpool::start(&Setup::pooler("server_idle_timeout = 1").database("min_pool_size = 3"));
    let mut crowd = crowd(&carpool, 8, "app");
    crowd.iter_mut().for_each(|c| c.send(&query("begin")));
    crowd.iter_mut().for_each(succeed);
    assert_eq!(Postgres::shared().backends(&carpool.database), 8);
    crowd.iter_mut().for_each(|c| c.send(&query("commit")));
    crowd.iter_mut().for_each(succeed);
    eventually("three are left, far past their time", || {
        (long_idle(&carpool.database) == 3 && Postgres::shared().backends(&carpool.database) == 3).then_some(())
    });
    crowd.iter_mut().for_each(|c| c.send(&query("select 1")));
    crowd.iter_mut().for_each(succeed);
}

#[test]
fn the_minimum_is_there_before_it_is_needed() {
    let carpool = Carpool::start(&Setup::default().database("min_pool_size = 5"));
    let mut client = carpool.client();
    assert_eq!(client.value("select 1"), "1");
    eventually("five servers", || (Postgres::shared().backends(&carpool.database) == 5).then_some(()));
}

/// As PgBouncer does for databases with a `user`.
#[test]
fn the_minimum_of_a_forced_user_needs_no_client() {
    let postgres = Postgres::shared();
    let database = postgres.new_database();
    let warm = format!(
        "[databases.warm]\nhost = \"127.0.0.1\"\nport = {}\ndbname = \"{database}\"\nuser = \"app\"\nmin_pool_size = 3\n",
        postgres.port
    );
    let _carpool = Carpool::start(&Setup::default().sections(&warm));
    eventually("three servers", || (postgres.backends(&database) == 3).then_some(()));
}

#[test]
fn idle_servers_all_go_without_a_minimum() {
    let carpool = Carpool::start(&Setup::pooler("server_idle_timeout = 1"));
    let mut client = carpool.client();
    assert_eq!(client.value("select 1"), "1");
    eventually("no server", || (Postgres::shared().backends(&carpool.database) == 0).then_some(()));
    assert_eq!(client.value("select 2"), "2");
}

#[test]
fn old_servers_are_replaced_between_transactions() {
    let carpool = Carpool::start(&Setup::pooler("server_lifetime = 1").database("pool_size = 1"));
    let mut client = carpool.client();
    client.query("begin");
    let pid = client.value("select pg_backend_pid()");
    let age = "select extract(epoch from clock_timestamp() - backend_start) > 2 from pg_stat_activity where pid = ";
    eventually("the server is past its time", || {
        (client.value(&format!("{age}pg_backend_pid()")) == "t").then_some(())
    });
    assert_eq!(client.value("select pg_backend_pid()"), pid, "not in a transaction");
    client.query("commit");
    assert_ne!(client.value("select pg_backend_pid()"), pid);
}

/// A secret with few rounds, so that 2,500 clients take no time for theirs.
const SCRAM_ROUNDS: u32 = 64;

fn scram_secret(password: &str) -> String {
    use base64::Engine;
    use hmac::{Hmac, KeyInit, Mac};
    use sha2::{Digest, Sha256};
    let hmac = |key: &[u8], text: &[u8]| {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        mac.update(text);
        mac.finalize().into_bytes()
    };
    let salt = b"salt of 16 bytes";
    let mut block = hmac(password.as_bytes(), &[&salt[..], &[0, 0, 0, 1]].concat());
    let mut salted = block;
    for _ in 1..SCRAM_ROUNDS {
        block = hmac(password.as_bytes(), &block);
        salted.iter_mut().zip(block).for_each(|(s, b)| *s ^= b);
    }
    let stored = Sha256::digest(hmac(&salted, b"Client Key"));
    let text = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    format!("SCRAM-SHA-256${SCRAM_ROUNDS}:{}${}:{}", text(salt), text(&stored), text(&hmac(&salted, b"Server Key")))
}

/// What follows the method in an authentication request.
fn authentication(client: &mut Raw, method: u8) -> Vec<u8> {
    let message = client.read();
    assert!(message.tag == b'R' && message.body[3] == method, "{message:?} instead of method {method}");
    message.body[4..].to_vec()
}

/// 2,500 logins by SCRAM, all at each step together; the servers are logged in with what the clients prove.
#[test]
fn a_hundred_times_as_many_logins_with_scram() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let (role, password) = ("saturation_scram", "not so secret");
    let secret = scram_secret(password);
    let postgres = Postgres::own();
    postgres.sql("postgres", &format!("create role {role} login password '{secret}'"));
    let hba = postgres.dir.join("data/pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, format!("host all {role} all scram-sha-256\n{rules}")).unwrap();
    postgres.control(&["reload"]);
    let database = postgres.new_database();
    let setup =
        Setup::pooler("auth_type = \"scram-sha-256\"").sections(&format!("[users.{role}]\npassword = \"{secret}\"\n"));
    let carpool = Carpool::before(&postgres, &database, &setup);
    let mut crowd: Vec<_> = (0..100 * SERVERS).map(|_| Raw::connect(carpool.port)).collect();
    let hello = startup(V3_0, &[("user", role), ("database", &database)]);
    crowd.iter_mut().for_each(|c| c.send(&hello));
    let mut exchanges = Vec::new();
    for client in &mut crowd {
        authentication(client, 10);
        let exchange = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let first = exchange.message();
        let len = u32::try_from(first.len()).unwrap().to_be_bytes();
        client.send(&message('p', &[b"SCRAM-SHA-256\0", &len[..], first].concat()));
        exchanges.push(exchange);
    }
    for (client, exchange) in crowd.iter_mut().zip(&mut exchanges) {
        exchange.update(&authentication(client, 11)).unwrap();
        client.send(&message('p', exchange.message()));
    }
    for (client, exchange) in crowd.iter_mut().zip(&mut exchanges) {
        exchange.finish(&authentication(client, 12)).unwrap();
        let refused = client.finish_login();
        assert!(refused.is_none(), "{refused:?}");
    }
    crowd.iter_mut().for_each(|c| c.send(&query("select current_user")));
    for client in &mut crowd {
        let replies = client.until_ready();
        assert_eq!(replies[1].columns()[0].as_deref(), Some(role), "{replies:?}");
    }
    assert!(postgres.backends(&database) <= SERVERS);
    // And a wrong password among as many right ones is still wrong.
    let mut wrong = Raw::connect(carpool.port);
    wrong.send(&hello);
    authentication(&mut wrong, 10);
    let mut exchange = ScramSha256::new(b"wrong", ChannelBinding::unsupported());
    let len = u32::try_from(exchange.message().len()).unwrap().to_be_bytes();
    wrong.send(&message('p', &[b"SCRAM-SHA-256\0", &len[..], exchange.message()].concat()));
    exchange.update(&authentication(&mut wrong, 11)).unwrap();
    wrong.send(&message('p', exchange.message()));
    assert_eq!(wrong.read().field('C').as_deref(), Some("28P01"));
}

/// Each needs its settings replayed and then its statement prepared under others: it must not give the server away
/// in between, or the two would take it from each other for ever.
#[test]
fn two_who_need_preparations_do_not_trade_the_server_for_ever() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let mut clients: Vec<_> = ["German", "SQL"]
        .iter()
        .map(|style| {
            let mut client = carpool.client();
            client.send_all(&[parse("s", &format!("select '{style}', '2024-12-31'::date")), sync()]);
            client.until_ready();
            client.query(&format!("set datestyle to '{style}'"));
            client
        })
        .collect();
    let mut holder = carpool.client();
    holder.query("discard all");
    holder.query("begin");
    for client in &mut clients {
        client.send_all(&[bind("", "s", &[]), execute("", 0), sync()]);
    }
    eventually("both wait", || {
        let pools = carpool.console("show pools");
        let pool = pools.lines().find(|row| row.starts_with(&carpool.database))?;
        (pool.split('|').nth(3) == Some("2")).then_some(())
    });
    holder.query("commit");
    for client in &mut clients {
        let replies = client.until_ready();
        assert!(replies.iter().any(|m| m.tag == b'D'), "{replies:?}");
    }
}
