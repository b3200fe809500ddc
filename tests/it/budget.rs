//! Several Carpools with one budget of server connections (`shared_pool_size`), while they are frozen, killed and cut off.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::console::{rows, value};
use crate::harness::raw::{query, startup};
use crate::harness::{Carpool, Postgres, Raw, Setup, eventually};

/// One of several in front of the same database.
fn carpool(postgres: &Postgres, database: &str, lines: &str) -> Carpool {
    let user = if lines.contains("shared_pool_user") { "" } else { "shared_pool_user = \"postgres\"" };
    let setup = Setup::pooler("health_check_timeout = 1").database(&format!("{lines}\n{user}"));
    Carpool::before(postgres, database, &setup)
}

const WORK: &str = "select count(*) from pg_stat_activity where datname = current_database() and usename = 'app' \
                    and backend_type = 'client backend'";

/// How many sessions of applications there are; none of them logs in as anybody else.
fn sessions(postgres: &Postgres, database: &str) -> usize {
    postgres.sql(database, WORK).parse().unwrap()
}

fn as_app(carpool: &Carpool) -> Raw {
    Raw::login(carpool.port, "app", &carpool.database)
}

/// Looks all the time that there are never more sessions than there may be.
struct Inspector {
    stop: Arc<AtomicBool>,
    looks: std::thread::JoinHandle<(usize, usize)>,
}

impl Inspector {
    fn start(postgres: &Postgres, database: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (port, database, stopped) = (postgres.port, database.to_owned(), Arc::clone(&stop));
        let looks = std::thread::spawn(move || {
            let mut client = Raw::login(port, "postgres", &database);
            let (mut looks, mut most) = (0, 0);
            while !stopped.load(Ordering::Relaxed) {
                most = most.max(client.value(WORK).parse().unwrap());
                looks += 1;
            }
            (looks, most)
        });
        Self { stop, looks }
    }

    /// The most that there were, of how many looks.
    fn end(self) -> (usize, usize) {
        self.stop.store(true, Ordering::Relaxed);
        self.looks.join().unwrap()
    }
}

/// Clients of one Carpool that ask all the time, until it is gone or they are told to stop; counts what was answered.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(carpool: &Carpool, clients: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let one = |number: usize| {
            let (port, database) = (carpool.port, carpool.database.clone());
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            std::thread::spawn(move || {
                let mut client = Raw::login(port, "app", &database);
                for turn in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let asked = format!("{number} {turn}");
                    let Ok(answer) = client.exchange(&query(&format!("select '{asked}', pg_sleep(0.01)"))) else {
                        return;
                    };
                    match answer.iter().find(|message| message.tag == b'D') {
                        Some(row) => assert_eq!(row.columns()[0].as_deref(), Some(asked.as_str())),
                        // Its server was ended: it is told, and goes on.
                        None => {
                            let code = answer.iter().find(|m| m.tag == b'E').and_then(|m| m.field('C')).unwrap();
                            assert!(matches!(&code[..], "57P01" | "08006" | "53300"), "{code}");
                            continue;
                        }
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let clients = (0..clients).map(one).collect();
        Self { stop, answered, clients }
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until more was answered.
    fn goes_on(&self, what: &str) {
        let before = self.answered();
        eventually(what, || (self.answered() > before + 5).then_some(()));
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().unwrap();
        }
    }
}

/// What each member holds, by SHOW BUDGET of one of them.
fn held(carpool: &Carpool) -> HashMap<String, (String, u32)> {
    let row = |row: &Vec<(String, String)>| {
        let part = (value(row, "state").to_owned(), value(row, "held").parse().unwrap());
        (value(row, "name").to_owned(), part)
    };
    rows(carpool, "SHOW BUDGET").iter().map(row).collect()
}

/// What the Carpool itself holds, by its own words.
fn own(carpool: &Carpool) -> u32 {
    let rows = rows(carpool, "SHOW BUDGET");
    rows.iter().find(|row| value(row, "own") == "yes").map_or(0, |row| value(row, "held").parse().unwrap())
}

/// Waits until every Carpool has as many servers, all of them written down: of one that is stopped while logins are under way nobody
/// knows what became of these, so they would count for `authentication_timeout`.
fn settled(each: &[Carpool], part: u32) {
    let number = |row: &Vec<(String, String)>, column: &str| value(row, column).parse::<u32>().unwrap();
    eventually("each has its part", || {
        let books = rows(&each[0], "SHOW BUDGET");
        let is_settled = |row| number(row, "held") == part && number(row, "servers") == part;
        (books.len() == each.len() && books.iter().all(is_settled)).then_some(())
    });
}

#[test]
fn three_share_by_demand() {
    let postgres = Postgres::own();
    let database = postgres.new_database();
    let each: Vec<Carpool> = (0..3).map(|_| carpool(&postgres, &database, "shared_pool_size = 6")).collect();
    let inspector = Inspector::start(&postgres, &database);
    let first = Load::start(&each[0], 8);
    eventually("the only one that has clients has it all", || (sessions(&postgres, &database) == 6).then_some(()));
    assert_eq!(own(&each[0]), 6);
    let others: Vec<Load> = each[1..].iter().map(|carpool| Load::start(carpool, 8)).collect();
    eventually("each has its part", || each.iter().all(|carpool| own(carpool) == 2).then_some(()));
    [&first, &others[0], &others[1]].iter().for_each(|load| load.goes_on("each goes on"));
    others.into_iter().for_each(Load::end);
    eventually("what others don't need any more it has again", || (own(&each[0]) == 6).then_some(()));
    first.end();
    let (looks, most) = inspector.end();
    assert!(most == 6 && looks > 50, "{most} in {looks} looks");
    let metrics = rows(&each[0], "SHOW BUDGET");
    assert!(metrics.iter().all(|row| value(row, "state") == "active"), "{metrics:?}");
}

#[test]
fn with_fewer_servers_than_members_each_has_its_turn() {
    let postgres = Postgres::own();
    let database = postgres.new_database();
    let each: Vec<Carpool> = (0..3).map(|_| carpool(&postgres, &database, "shared_pool_size = 1")).collect();
    let inspector = Inspector::start(&postgres, &database);
    let loads: Vec<Load> = each.iter().map(|carpool| Load::start(carpool, 2)).collect();
    for _ in 0..2 {
        loads.iter().for_each(|load| load.goes_on("each has its turn"));
    }
    loads.into_iter().for_each(Load::end);
    assert_eq!(inspector.end().1, 1);
}

#[test]
fn one_that_is_frozen_loses_its_part_and_comes_back() {
    let postgres = Postgres::own();
    let database = postgres.new_database();
    let each: Vec<Carpool> = (0..3).map(|_| carpool(&postgres, &database, "shared_pool_size = 6")).collect();
    let inspector = Inspector::start(&postgres, &database);
    let loads: Vec<Load> = each.iter().map(|carpool| Load::start(carpool, 8)).collect();
    settled(&each, 2);
    each[2].signal("STOP");
    // PostgreSQL has its sessions still; the others want them.
    eventually("the others have it all", || (own(&each[0]) + own(&each[1]) == 6).then_some(()));
    loads[..2].iter().for_each(|load| load.goes_on("the others go on"));
    each[2].signal("CONT");
    each[2].logs("was given up by others");
    eventually("it has its part again", || each.iter().all(|carpool| own(carpool) == 2).then_some(()));
    loads.iter().for_each(|load| load.goes_on("all go on"));
    loads.into_iter().for_each(Load::end);
    let (looks, most) = inspector.end();
    assert!(most == 6 && looks > 50, "{most} in {looks} looks");
}

#[test]
fn what_one_that_is_killed_had_comes_free() {
    let postgres = Postgres::own();
    let database = postgres.new_database();
    let mut each: Vec<Carpool> = (0..2).map(|_| carpool(&postgres, &database, "shared_pool_size = 4")).collect();
    let inspector = Inspector::start(&postgres, &database);
    let load = Load::start(&each[0], 6);
    let other = Load::start(&each[1], 6);
    settled(&each, 2);
    each[1].signal("KILL");
    each[1].wait();
    eventually("the other has it all", || (own(&each[0]) == 4).then_some(()));
    load.goes_on("it goes on");
    for client in other.clients {
        client.join().unwrap();
    }
    // One that ends in order leaves nothing behind.
    let next = carpool(&postgres, &database, "shared_pool_size = 4");
    let mut client = as_app(&next);
    assert_eq!(client.value("select 1"), "1");
    eventually("it is there", || (held(&each[0]).len() == 2).then_some(()));
    drop(client);
    let mut next = next;
    next.signal("TERM");
    next.wait();
    eventually("it is not there any more", || (held(&each[0]).len() == 1).then_some(()));
    load.end();
    assert_eq!(inspector.end().1, 4);
}

/// In front of PostgreSQL: passes bytes on until it is cut, from when on both ends hear nothing, not even an end, until it is healed.
struct Wire {
    port: u16,
    cut: Arc<AtomicBool>,
    held: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    fn start(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cut, held) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (is_cut, kept) = (Arc::clone(&cut), Arc::clone(&held));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if is_cut.load(Ordering::Relaxed) {
                    kept.lock().unwrap().push(client);
                    continue;
                }
                let server = TcpStream::connect(("127.0.0.1", server)).unwrap();
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (is_cut, kept) = (Arc::clone(&is_cut), Arc::clone(&kept));
                    std::thread::spawn(move || pass(from, to, &is_cut, &kept));
                }
            }
        });
        Self { port, cut, held }
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// New connections get through. Those from before are lost.
    fn heal(&self) {
        self.cut.store(false, Ordering::Relaxed);
        for stream in self.held.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, is_cut: &AtomicBool, kept: &Mutex<Vec<TcpStream>>) {
    let mut buffer = vec![0; 65536];
    loop {
        let read = from.read(&mut buffer);
        if is_cut.load(Ordering::Relaxed) {
            // Neither end hears of it.
            kept.lock().unwrap().extend([from, to]);
            return;
        }
        match read {
            Ok(n @ 1..) if to.write_all(&buffer[..n]).is_ok() => {}
            _ => {
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}

#[test]
fn one_that_is_cut_off_has_nothing_and_the_others_have_its_part() {
    let postgres = Postgres::own();
    let database = postgres.new_database();
    let wire = Wire::start(postgres.port);
    let far = carpool(&postgres, &database, &format!("port = {}\nshared_pool_size = 4", wire.port));
    let near = carpool(&postgres, &database, "shared_pool_size = 4");
    let inspector = Inspector::start(&postgres, &database);
    // They hold all servers, within transactions.
    let mut clients: Vec<Raw> = (0..4).map(|_| as_app(&far)).collect();
    clients.iter_mut().for_each(|client| drop(client.query("begin")));
    settled(std::slice::from_ref(&far), 4);
    wire.cut();
    let began = Instant::now();
    let load = Load::start(&near, 6);
    load.goes_on("the other one gets on");
    // Not before it was certain that the one that is cut off begins nothing any more.
    assert!(began.elapsed() > Duration::from_secs(10), "{:?}", began.elapsed());
    eventually("the other one has it all", || (own(&near) == 4).then_some(()));
    assert!(held(&near).len() <= 2);
    wire.heal();
    // Its clients were in transactions that are gone.
    for mut client in clients {
        client.send(&query("select 1"));
        client.until_closed();
    }
    let mut again = as_app(&far);
    assert_eq!(again.value("select 2"), "2");
    load.end();
    let (looks, most) = inspector.end();
    assert!(most == 4 && looks > 50, "{most} in {looks} looks");
}

#[test]
fn who_waits_is_told_who_has_it() {
    let postgres = Postgres::own();
    let database = postgres.new_database();
    let one = carpool(&postgres, &database, "shared_pool_size = 1");
    let setup =
        Setup::pooler("query_wait_timeout = 2").database("shared_pool_size = 1\nshared_pool_user = \"postgres\"");
    let other = Carpool::before(&postgres, &database, &setup);
    let mut holder = as_app(&one);
    holder.query("begin");
    let mut waits = Raw::connect(other.port);
    waits.send(&startup(196_608, &[("user", "app"), ("database", &database)]));
    let error = waits.until_closed().into_iter().find(|message| message.tag == b'E').unwrap();
    let detail = error.field('D').unwrap();
    assert!(detail.contains("shared_pool_size") && detail.contains("it has 0, others: "), "{detail}");
    holder.query("commit");
    let mut next = as_app(&other);
    assert_eq!(next.value("select 1"), "1");
}

#[test]
fn who_may_not_keep_the_books_is_told_what_is_missing() {
    let postgres = Postgres::own();
    let database = postgres.new_database();
    postgres.sql(&database, "revoke create on schema public from public");
    let lines = "shared_pool_size = 2\nquery_wait_timeout = 2\nshared_pool_user = \"app\"";
    let poor = carpool(&postgres, &database, lines);
    let mut waits = Raw::connect(poor.port);
    waits.send(&startup(196_608, &[("user", "app"), ("database", &database)]));
    let error = waits.until_closed().into_iter().find(|message| message.tag == b'E').unwrap();
    let detail = error.field('D').unwrap();
    assert!(detail.contains("can't be asked for") && detail.contains("docs/budget.md"), "{detail}");
    assert!(sessions(&postgres, &database) <= 1, "only its own question");
    postgres.sql(
        &database,
        "create table public.carpool_budget (name text primary key, version bigint not null, state text not null)",
    );
    postgres.sql(&database, "grant select, insert, update on public.carpool_budget to app");
    let mut next = as_app(&poor);
    assert_eq!(next.value("select 1"), "1");
}

#[test]
fn a_reload_changes_the_size() {
    let postgres = Postgres::own();
    let database = postgres.new_database();
    let carpool = carpool(&postgres, &database, "shared_pool_size = 2");
    let load = Load::start(&carpool, 6);
    eventually("it has two", || (sessions(&postgres, &database) == 2).then_some(()));
    let text = std::fs::read_to_string(&carpool.config).unwrap();
    std::fs::write(&carpool.config, text.replace("shared_pool_size = 2", "shared_pool_size = 5")).unwrap();
    carpool.signal("HUP");
    eventually("it has five", || (sessions(&postgres, &database) == 5).then_some(()));
    std::fs::write(&carpool.config, text.replace("shared_pool_size = 2", "shared_pool_size = 1")).unwrap();
    carpool.signal("HUP");
    eventually("it has one", || (sessions(&postgres, &database) == 1).then_some(()));
    load.goes_on("it goes on");
    load.end();
}

#[test]
fn a_table_that_somebody_else_has_put_there_is_not_used() {
    let postgres = Postgres::own();
    let database = postgres.new_database();
    let columns = "(name text primary key, version bigint not null, state text not null)";
    let mut app = Raw::login(postgres.port, "app", &database);
    app.query(&format!("create table public.carpool_budget {columns}"));
    let carpool = carpool(&postgres, &database, "shared_pool_size = 2");
    let mut waits = Raw::connect(carpool.port);
    waits.send(&startup(196_608, &[("user", "app"), ("database", &database)]));
    carpool.logs("has to be a table of shared_pool_user or of a superuser, and is app's");
    app.query("drop table public.carpool_budget");
    assert_eq!(waits.until_ready().last().map(|message| message.tag), Some(b'Z'));
    assert_eq!(
        postgres.sql(&database, "select tableowner from pg_tables where tablename = 'carpool_budget'"),
        "postgres"
    );
}
