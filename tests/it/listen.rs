//! LISTEN in transaction mode: no client keeps a server for it, and each gets what a direct connection would.

use crate::harness::raw::{self, bind, execute, parse, sync};
use crate::harness::{Carpool, Message, Postgres, Raw, Setup, eventually};

/// Channel and payload of a NotificationResponse.
fn read_notification(message: &Message) -> (String, String) {
    assert_eq!(message.tag, b'A', "{message:?}");
    let text = String::from_utf8(message.body[4..].to_vec()).unwrap();
    let mut parts = text.split('\0').map(str::to_owned);
    (parts.next().unwrap(), parts.next().unwrap())
}

/// The next `n` messages, which must be notifications: their payloads.
fn payloads(client: &mut Raw, n: usize) -> Vec<String> {
    (0..n).map(|_| read_notification(&client.read()).1).collect()
}

/// Runs a query that must not fail; gives the payloads of the notifications that came before its end.
fn run(client: &mut Raw, sql: &str) -> Vec<String> {
    let replies = client.query(sql);
    assert!(replies.iter().all(|m| m.tag != b'E'), "{sql}: {replies:?}");
    replies.iter().filter(|m| m.tag == b'A').map(|m| read_notification(m).1).collect()
}

/// A Carpool before a pool of `size` servers, and a client that notifies, directly.
fn with_pool(size: u32) -> (Carpool, Raw) {
    let carpool = Carpool::start(&Setup::default().database(&format!("pool_size = {size}")));
    let writer = Raw::login(Postgres::shared().port, "postgres", &carpool.database);
    (carpool, writer)
}

/// Waits until no client has a server, but for the listening connection.
fn all_released(carpool: &Carpool) {
    eventually("no client keeps a server", || {
        let rows = carpool.console("show servers");
        let busy: Vec<_> = rows.lines().filter(|r| r.contains("|active|")).collect();
        busy.iter().all(|r| r.contains("carpool listener")).then_some(())
    });
}

#[test]
fn a_listening_client_keeps_no_server() {
    let (carpool, mut writer) = with_pool(3);
    let mut clients: Vec<_> = (0..20).map(|_| carpool.client()).collect();
    for client in &mut clients {
        assert_eq!(run(client, "listen news"), [""; 0]);
    }
    all_released(&carpool);
    for i in 0..50 {
        run(&mut writer, &format!("notify news, '{i}'"));
    }
    let want: Vec<_> = (0..50).map(|i| i.to_string()).collect();
    for client in &mut clients {
        assert_eq!(payloads(client, 50), want);
        assert_eq!(client.value("select 1"), "1");
    }
    assert!(Postgres::shared().backends(&carpool.database) <= 4);
}

/// Whoever knows that another has notified needs only ask its server for anything.
#[test]
fn what_was_sent_before_a_request_comes_before_its_end() {
    let (carpool, mut writer) = with_pool(3);
    let mut client = carpool.client();
    run(&mut client, "listen news");
    all_released(&carpool);
    for i in 0..200 {
        run(&mut writer, &format!("notify news, '{i}'"));
        assert_eq!(run(&mut client, "select 1"), [i.to_string()]);
    }
    // One who leaves at once has its request run all the same.
    client.query("create table t (x int)");
    client.send(&[raw::query("insert into t values (1)"), raw::message('X', b"")].concat());
    drop(client);
    eventually("the row is there", || (writer.value("select count(*) from t") == "1").then_some(()));
}

#[test]
fn what_a_client_sends_itself_comes_with_the_reply() {
    let (carpool, _writer) = with_pool(3);
    let mut client = carpool.client();
    run(&mut client, "listen news");
    all_released(&carpool);
    for sql in ["notify news, 'a'", "select pg_notify('news', 'a')", "begin; notify news, 'a'; commit"] {
        let replies = client.query(sql);
        let own: Vec<_> = replies.iter().filter(|m| m.tag == b'A').collect();
        assert_eq!(own.len(), 1, "{sql}: {replies:?}");
        assert_eq!(own[0].body[..4], client.key[..4], "the sender is the client itself");
        all_released(&carpool);
    }
    client.send_all(&[parse("", "select pg_notify('news', $1)"), bind("", "", &["b"]), execute("", 0), sync()]);
    let replies = client.until_ready();
    assert!(replies.iter().any(|m| m.tag == b'A'), "{replies:?}");
}

#[test]
fn the_channels_are_those_of_committed_transactions() {
    let (carpool, mut writer) = with_pool(3);
    let mut client = carpool.client();
    let channels = |client: &mut Raw| {
        all_released(&carpool);
        let replies = client.query("select pg_listening_channels()");
        let rows = replies.iter().filter(|m| m.tag == b'D');
        rows.map(|m| m.columns()[0].clone().unwrap()).collect::<Vec<_>>().join(" ")
    };
    let steps: &[(&[&str], &str)] = &[
        (&["begin", "listen a", "rollback"], ""),
        (&["listen a"], "a"),
        (&["begin", "listen b", "rollback"], "a"),
        (&["begin", "listen b", "commit"], "a b"),
        (&["begin", "unlisten a", "rollback"], "a b"),
        (&["begin", "unlisten a", "commit"], "b"),
        (&["begin", "savepoint s", "unlisten b", "rollback to s", "listen c", "commit"], "b c"),
        (&["begin", "savepoint s", "listen d", "rollback to s", "unlisten c", "commit"], "b"),
        (&["begin", "unlisten b", "savepoint s", "listen e", "rollback to s", "listen f", "commit"], "f"),
        (&["begin", "unlisten *", "listen g", "commit"], "g"),
        (&["begin", "unlisten *", "select 1/0", "rollback"], "g"),
        (&["do $$ begin execute 'listen h'; execute 'unlisten g'; end $$"], "h"),
        (&["listen \"a \"\" b\"; unlisten h"], "a \" b"),
        (&["begin", "unlisten *", "commit"], ""),
        (&["listen a; listen b"], "a b"),
        (&["unlisten b"], "a"),
        (&["discard all"], ""),
        (&["listen a", "unlisten *"], ""),
    ];
    for (texts, want) in steps {
        for text in *texts {
            client.query(text);
        }
        assert_eq!(channels(&mut client), *want, "{texts:?}");
    }
    run(&mut writer, "notify a, 'to nobody'");
    assert_eq!(run(&mut client, "select 1"), [""; 0]);
    eventually("the listening connection ends with its last client", || {
        (!carpool.console("show servers").contains("carpool listener")).then_some(())
    });
}

#[test]
fn a_client_in_a_transaction_gets_them_at_its_end() {
    let (carpool, mut writer) = with_pool(3);
    let mut client = carpool.client();
    run(&mut client, "listen news");
    all_released(&carpool);
    run(&mut client, "begin");
    run(&mut writer, "notify news, 'one'");
    let mut other = carpool.client();
    run(&mut other, "listen news");
    all_but_one_released(&carpool);
    run(&mut writer, "notify news, 'two'");
    // That the other has it says that the listening connection has.
    assert_eq!(payloads(&mut other, 1), ["two"]);
    assert_eq!(run(&mut client, "select 1"), [""; 0]);
    assert_eq!(run(&mut client, "commit"), ["one", "two"]);
}

fn all_but_one_released(carpool: &Carpool) {
    eventually("one client keeps a server", || {
        let rows = carpool.console("show servers");
        (rows.lines().filter(|r| r.contains("|active|")).count() == 2).then_some(())
    });
}

/// The process number of the listening connection's server.
fn listener(carpool: &Carpool, postgres: &Postgres) -> Option<String> {
    let sql = format!(
        "select pid from pg_stat_activity where datname = '{}' and application_name = 'carpool listener'",
        carpool.database
    );
    Some(postgres.sql("postgres", &sql)).filter(|pid| !pid.is_empty())
}

/// Reads notifications up to the warning that some may be missing, which must come.
fn until_gap(client: &mut Raw) -> Vec<String> {
    let mut before = Vec::new();
    loop {
        let message = client.read();
        if message.tag == b'N' {
            assert_eq!(message.field('C').as_deref(), Some("01000"), "{message:?}");
            assert_eq!(message.field('M').as_deref(), Some("notifications may have been lost"));
            return before;
        }
        before.push(read_notification(&message).1);
    }
}

#[test]
fn clients_are_told_of_a_gap() {
    let (carpool, mut writer) = with_pool(4);
    let mut clients: Vec<_> = (0..3).map(|_| carpool.client()).collect();
    clients.iter_mut().for_each(|c| drop(run(c, "listen news")));
    all_released(&carpool);
    let mut bystander = carpool.client();
    assert_eq!(bystander.value("select 1"), "1");
    let pid = listener(&carpool, Postgres::shared()).unwrap();
    run(&mut writer, &format!("select pg_terminate_backend({pid})"));
    for client in &mut clients {
        assert_eq!(until_gap(client), [""; 0]);
    }
    let again = listener(&carpool, Postgres::shared()).unwrap();
    assert_ne!(pid, again);
    run(&mut writer, "notify news, 'after'");
    for client in &mut clients {
        assert_eq!(payloads(client, 1), ["after"]);
    }
    carpool.logs("3 clients may have missed notifications");
    assert_eq!(run(&mut bystander, "select 1"), [""; 0]);
}

#[test]
fn listening_outlives_a_restart_of_postgresql() {
    let postgres = Postgres::own();
    let database = postgres.new_database();
    let setup = Setup::pooler("server_login_retry = 1").database("pool_size = 4");
    let carpool = Carpool::before(&postgres, &database, &setup);
    let mut client = carpool.client();
    run(&mut client, "listen news");
    all_released(&carpool);
    postgres.control(&["-s", "-w", "-m", "fast", "stop"]);
    postgres.start_again();
    assert_eq!(until_gap(&mut client), [""; 0]);
    let mut writer = Raw::login(postgres.port, "postgres", &database);
    run(&mut writer, "notify news, 'after'");
    assert_eq!(payloads(&mut client, 1), ["after"]);
    assert_eq!(client.value("select 1"), "1");
}

#[test]
fn a_lost_connection_gives_nothing_twice() {
    let (carpool, mut killer) = with_pool(4);
    let (stop, thread) = storm(&carpool);
    let clients: Vec<_> = (0..3)
        .map(|i| {
            let mut client = carpool.client();
            std::thread::spawn(move || {
                run(&mut client, "listen numbers");
                let (mut last, mut gaps, mut told, mut rounds) = (None, 0, false, 0);
                while gaps < 4 {
                    // Those who change what they listen to are in the midst of it when the connection goes.
                    rounds += 1;
                    let changes = i > 0 && rounds % 20 == 0;
                    let messages = if changes { client.query("notify nobody") } else { vec![client.read()] };
                    for message in messages {
                        match message.tag {
                            b'N' => (gaps, told) = (gaps + 1, true),
                            b'A' => {
                                let number: u64 = read_notification(&message).1.parse().unwrap();
                                if let Some(last) = last {
                                    assert!(number > last, "client {i}: {number} after {last}");
                                    assert!(number == last + 1 || told, "client {i}: {last}, {number}");
                                }
                                (last, told) = (Some(number), false);
                            }
                            b'E' => panic!("client {i}: {message:?}"),
                            _ => {}
                        }
                    }
                }
                assert!(last.is_some());
            })
        })
        .collect();
    while !clients.iter().all(std::thread::JoinHandle::is_finished) {
        if let Some(pid) = listener(&carpool, Postgres::shared()) {
            run(&mut killer, &format!("select pg_terminate_backend({pid})"));
        }
    }
    clients.into_iter().for_each(|c| c.join().unwrap());
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    thread.join().unwrap();
}

#[test]
fn one_who_does_not_read_is_ended_and_holds_nobody_up() {
    let (carpool, mut writer) = with_pool(3);
    let (mut slow, mut quick) = (carpool.client(), carpool.client());
    run(&mut slow, "listen news");
    run(&mut quick, "listen news");
    all_released(&carpool);
    const ROUNDS: usize = 60;
    for round in 0..ROUNDS {
        run(
            &mut writer,
            &format!(
                "select pg_notify('news', {round} || '-' || i || repeat('x', 7900)) from generate_series(1, 100) i"
            ),
        );
        assert!(payloads(&mut quick, 100)[0].starts_with(&format!("{round}-1x")));
    }
    // Whether it reads why in time is up to it.
    slow.until_closed();
    carpool.logs("closing because: too many notifications wait for the client");
}

#[test]
fn the_connection_outlives_the_client_that_it_logged_in_as() {
    let (carpool, mut writer) = with_pool(4);
    let mut first = Raw::login(carpool.port, "app", &carpool.database);
    let mut second = carpool.client();
    run(&mut first, "listen news");
    all_released(&carpool);
    run(&mut second, "listen news");
    all_released(&carpool);
    let pid = listener(&carpool, Postgres::shared()).unwrap();
    drop(first);
    run(&mut writer, "notify news, 'one'");
    assert_eq!(payloads(&mut second, 1), ["one"]);
    run(&mut writer, &format!("select pg_terminate_backend({pid})"));
    assert_eq!(until_gap(&mut second), [""; 0]);
    run(&mut writer, "notify news, 'two'");
    assert_eq!(payloads(&mut second, 1), ["two"]);
}

#[test]
fn a_small_pool_keeps_the_server_for_its_listener() {
    for lines in
        ["pool_size = 1", "pool_size = 2", "pool_size = 5\nmax_pinned = 1", "pool_size = 9\nuser_pool_size = 2"]
    {
        let carpool = Carpool::start(&Setup::default().database(lines));
        let mut writer = Raw::login(Postgres::shared().port, "postgres", &carpool.database);
        let mut client = carpool.client();
        run(&mut client, "listen news");
        assert_eq!(run(&mut client, "select 1"), [""; 0]);
        run(&mut writer, "notify news, 'one'");
        assert_eq!(payloads(&mut client, 1), ["one"], "{lines}");
        assert_eq!(run(&mut client, "notify news, 'two'"), ["two"], "{lines}");
        run(&mut client, "unlisten *");
        run(&mut writer, "notify news, 'three'");
        assert_eq!(run(&mut client, "select 1"), [""; 0]);
        assert_eq!(listener(&carpool, Postgres::shared()), None);
    }
}

#[test]
fn other_encodings_are_not_mixed_up() {
    let (carpool, mut writer) = with_pool(4);
    let mut utf8 = carpool.client();
    run(&mut utf8, "listen news");
    all_released(&carpool);
    let parameters = [("user", "postgres"), ("database", carpool.database.as_str()), ("client_encoding", "LATIN1")];
    let mut latin = Raw::login_with(carpool.port, &parameters);
    run(&mut latin, "listen news");
    run(&mut writer, "notify news, 'ä'");
    assert_eq!(payloads(&mut utf8, 1), ["ä"]);
    assert_eq!(latin.read().body[4..], *b"news\0\xe4\0");
    // One who changes it later can be given what is the same in both.
    run(&mut utf8, "set client_encoding to 'LATIN1'");
    run(&mut writer, "notify news, 'plain'");
    assert_eq!(payloads(&mut utf8, 1), ["plain"]);
    run(&mut writer, "notify news, 'ö'");
    let last = utf8.until_closed().pop().unwrap();
    assert_eq!((last.tag, last.field('C').as_deref()), (b'E', Some("0A000")), "{last:?}");
}

#[test]
fn a_reload_takes_listeners_along() {
    let (old, new) = (Postgres::shared(), Postgres::own());
    let carpool = Carpool::start(&Setup::default().database("pool_size = 3"));
    new.sql("postgres", &format!("create database {}", carpool.database));
    let mut client = carpool.client();
    run(&mut client, "listen news");
    all_released(&carpool);
    let setup = Setup::pooler(&format!("listen_port = {}", carpool.port)).database("pool_size = 3");
    reload(&carpool, &setup.toml(&new, &carpool.database));
    assert_eq!(until_gap(&mut client), [""; 0]);
    let mut writer = Raw::login(new.port, "postgres", &carpool.database);
    run(&mut writer, "notify news, 'moved'");
    assert_eq!(payloads(&mut client, 1), ["moved"]);
    assert_eq!(client.value("show port"), new.port.to_string());
    eventually("the old servers close", || (old.backends(&carpool.database) == 0).then_some(()));
    // A pool that becomes too small says so.
    reload(&carpool, &setup.clone().database("pool_size = 2").toml(&new, &carpool.database));
    let last = client.until_closed().pop().unwrap();
    assert_eq!((last.tag, last.field('C').as_deref()), (b'E', Some("53400")), "{last:?}");
}

fn reload(carpool: &Carpool, toml: &str) {
    std::fs::write(&carpool.config, toml).unwrap();
    carpool.console("reload");
}

#[test]
fn many_clients_listen_in_a_small_pool() {
    let (carpool, mut writer) = with_pool(5);
    let clients: Vec<_> = (0..100)
        .map(|i| {
            let mut client = carpool.client();
            std::thread::spawn(move || {
                run(&mut client, "listen news");
                run(&mut client, &format!("listen own_{i}"));
                client
            })
        })
        .collect();
    let mut clients: Vec<_> = clients.into_iter().map(|c| c.join().unwrap()).collect();
    all_released(&carpool);
    for number in 0..20 {
        run(&mut writer, &format!("notify news, '{number}'"));
    }
    run(&mut writer, "select pg_notify('own_' || i, 'for ' || i) from generate_series(0, 99) i");
    for (i, client) in clients.iter_mut().enumerate() {
        let want: Vec<_> = (0..20).map(|n| n.to_string()).chain([format!("for {i}")]).collect();
        assert_eq!(payloads(client, 21), want);
    }
    // All servers are there for others.
    let mut others: Vec<_> = (0..4).map(|_| carpool.client()).collect();
    others.iter_mut().for_each(|c| drop(run(c, "begin")));
    assert_eq!(Postgres::shared().backends(&carpool.database), 6);
}

#[test]
fn a_connection_without_a_place_is_waited_for() {
    let (carpool, mut writer) = with_pool(3);
    let mut busy: Vec<_> = (0..2).map(|_| carpool.client()).collect();
    busy.iter_mut().for_each(|c| drop(run(c, "begin")));
    let mut client = carpool.client();
    run(&mut client, "listen news");
    run(&mut writer, "notify news, 'one'");
    assert_eq!(payloads(&mut client, 1), ["one"]);
    assert_eq!(client.value("select 1"), "1");
    run(&mut busy[0], "commit");
    eventually("the listening connection is there", || listener(&carpool, Postgres::shared()));
    eventually("the client's server is free", || {
        let rows = carpool.console("show servers");
        (rows.lines().filter(|r| r.contains("|active|")).count() == 2).then_some(())
    });
    run(&mut writer, "notify news, 'two'");
    assert_eq!(payloads(&mut client, 1), ["two"]);
}

/// Sends numbers on channel `numbers` until it is told to stop.
fn storm(carpool: &Carpool) -> (std::sync::Arc<std::sync::atomic::AtomicBool>, std::thread::JoinHandle<()>) {
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let mut writer = Raw::login(Postgres::shared().port, "postgres", &carpool.database);
    let thread = std::thread::spawn(move || {
        let mut number = 0;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            run(&mut writer, &format!("notify numbers, '{number}'; notify others, '{number}'"));
            number += 1;
        }
    });
    (stop, thread)
}

#[test]
fn nothing_is_lost_or_doubled_while_the_source_changes() {
    let (carpool, _writer) = with_pool(5);
    let (stop, thread) = storm(&carpool);
    let clients: Vec<_> = (0..8)
        .map(|i| {
            let mut client = carpool.client();
            std::thread::spawn(move || {
                let mut numbers = Vec::new();
                let mut take = |messages: Vec<Message>| {
                    assert!(messages.iter().all(|m| m.tag != b'E'), "{messages:?}");
                    let notifications = messages.iter().filter(|m| m.tag == b'A').map(read_notification);
                    let of = notifications.filter(|(channel, _)| channel == "numbers");
                    numbers.extend(of.map(|(_, payload)| payload.parse::<u64>().unwrap()));
                };
                take(client.query("listen numbers"));
                for round in 0..60 {
                    for _ in 0..10 {
                        take(vec![client.read()]);
                    }
                    let text = match (round + i) % 6 {
                        0 => "notify nobody",
                        1 => "listen others",
                        2 => "unlisten others",
                        3 => "begin; listen others; commit",
                        4 => "select pg_listening_channels()",
                        _ => "select 1",
                    };
                    if round % 7 == 0 {
                        take(client.query("begin"));
                        take(client.query(text));
                        take(client.query(if round % 2 == 0 { "commit" } else { "rollback" }));
                    } else {
                        take(client.query(text));
                    }
                }
                for pair in numbers.windows(2) {
                    assert_eq!(pair[1], pair[0] + 1, "client {i}");
                }
                numbers.len()
            })
        })
        .collect();
    for client in clients {
        let count = client.join().unwrap();
        assert!(count >= 500, "{count}");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    thread.join().unwrap();
}

/// Those of drivers that have an interface for it.
#[test]
fn drivers_listen() {
    use crate::drivers::{node, python, script};
    let (carpool, _writer) = with_pool(5);
    // The listening connection is there: until then one that finds no permit has a gap, and is told.
    let mut first = carpool.client();
    run(&mut first, "listen first");
    all_released(&carpool);
    let direct = format!("postgresql://postgres@127.0.0.1:{}/{}", Postgres::shared().port, carpool.database);
    let url = carpool.url("postgres", "unused");
    script(python(), "listening.py", &[&url, &direct]);
    script(node(), "listening.js", &[&url, &direct]);
    all_released(&carpool);
}

#[test]
fn tokio_postgres_listens() {
    use futures_util::StreamExt;
    use tokio_postgres::{AsyncMessage, NoTls};
    let (carpool, mut writer) = with_pool(3);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (sender, received) = std::sync::mpsc::channel();
    let client = runtime.block_on(async {
        let (client, mut connection) =
            tokio_postgres::connect(&carpool.url("postgres", "unused"), NoTls).await.unwrap();
        tokio::spawn(async move {
            let mut messages = futures_util::stream::poll_fn(move |cx| connection.poll_message(cx));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notification(notification) = message {
                    sender.send(notification.payload().to_owned()).unwrap();
                }
            }
        });
        client.batch_execute("listen news").await.unwrap();
        client
    });
    all_released(&carpool);
    run(&mut writer, "notify news, 'one'");
    runtime.block_on(async {
        client.execute("select pg_notify('news', $1)", &[&"two"]).await.unwrap();
        client.query_one("select 1", &[]).await.unwrap();
    });
    let got: Vec<_> = received.try_iter().collect();
    assert_eq!(got, ["one", "two"]);
}

/// The listening connection isn't there yet and nobody else may keep a server, but there is one for it.
#[test]
fn nobody_misses_anything_while_the_connection_comes() {
    let database = "pool_size = 4\nmax_pinned = 2";
    let carpool = Carpool::start(&Setup::default().database(database));
    let mut writer = Raw::login(Postgres::shared().port, "postgres", &carpool.database);
    let mut pinned: Vec<_> = (0..2).map(|_| carpool.client()).collect();
    for (i, client) in pinned.iter_mut().enumerate() {
        run(client, &format!("select pg_advisory_lock({i})"));
    }
    let mut client = carpool.client();
    for sql in ["begin", "listen news", "commit"] {
        run(&mut client, sql);
    }
    run(&mut writer, "notify news, 'x'");
    assert_eq!(payloads(&mut client, 1), ["x"], "without a warning");
    for (i, client) in pinned.iter_mut().enumerate() {
        assert_eq!(client.value(&format!("select pg_advisory_unlock({i})")), "t");
    }
    all_released(&carpool);
}

/// The listening connection isn't there yet, and those who have begun to listen have all servers.
#[test]
fn listeners_with_all_servers_do_not_wait_for_each_other() {
    let (carpool, mut writer) = with_pool(3);
    let mut clients: Vec<_> = (0..3).map(|_| carpool.client()).collect();
    for sql in ["begin", "listen news", "commit"] {
        for client in &mut clients {
            run(client, sql);
        }
    }
    all_released(&carpool);
    run(&mut writer, "notify news, 'x'");
    for client in &mut clients {
        // One of them is told of a gap.
        let message = std::iter::repeat_with(|| client.read()).find(|m| m.tag != b'N').unwrap();
        assert_eq!(read_notification(&message).1, "x");
    }
}
