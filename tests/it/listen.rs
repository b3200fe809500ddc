//! LISTEN in transaction mode: no client keeps a server for it, and each gets what a direct connection would.

use crate::harness::raw::{bind, execute, parse, query, sync};
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
