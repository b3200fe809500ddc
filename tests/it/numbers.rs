//! The process number that a client got at login, given to `pg_terminate_backend()` and `pg_cancel_backend()`.

use crate::harness::raw::{Message, bind, execute, message, parse, query, sync};
use crate::harness::{Carpool, Gate, Postgres, Raw, Setup, eventually};

const TRANSACTION: &str = "pool_size = 2";
const SESSION: &str = "pool_size = 3\npool_mode = \"session\"";

/// What a client was told at login.
fn number(client: &Raw) -> u32 {
    u32::from_be_bytes(client.key[..4].try_into().unwrap())
}

fn codes(replies: &[Message]) -> Vec<(String, String)> {
    let errors = replies.iter().filter(|m| m.tag == b'E');
    errors.map(|m| (m.field('V').unwrap(), m.field('C').unwrap())).collect()
}

fn one(severity: &str, code: &str) -> Vec<(String, String)> {
    vec![(severity.to_owned(), code.to_owned())]
}

/// The one row's first column.
fn value(replies: &[Message]) -> Option<String> {
    replies.iter().find(|m| m.tag == b'D')?.columns().swap_remove(0)
}

/// Parse with types of parameters.
fn parse_typed(name: &str, sql: &str, oids: &[u32]) -> Vec<u8> {
    let count = u16::try_from(oids.len()).unwrap().to_be_bytes();
    let oids: Vec<u8> = oids.iter().flat_map(|oid| oid.to_be_bytes()).collect();
    message('P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0", &count, &oids].concat())
}

/// Bind with binary parameters and text results.
fn bind_binary(name: &str, parameters: &[&[u8]]) -> Vec<u8> {
    let mut body = [b"\0", name.as_bytes(), b"\0\0\x01\0\x01"].concat();
    body.extend_from_slice(&u16::try_from(parameters.len()).unwrap().to_be_bytes());
    for parameter in parameters {
        body.extend_from_slice(&u32::try_from(parameter.len()).unwrap().to_be_bytes());
        body.extend_from_slice(parameter);
    }
    body.extend_from_slice(b"\0\0");
    message('B', &body)
}

/// A way to call a function.
type Way = (&'static str, Vec<Vec<u8>>, Vec<Vec<u8>>);

/// The ways to call `function` with a number: messages to send first, and those that run it.
fn ways(function: &str, number: u32) -> Vec<Way> {
    let text = number.to_string();
    let constant = format!("select {function}({number})");
    let parameter = format!("select {function}($1)");
    let cast = format!("select {function}($1::int)");
    let run = |bind: Vec<u8>| vec![bind, execute("", 0), sync()];
    let unnamed = |parse: Vec<u8>, bind: Vec<u8>| [vec![parse], run(bind)].concat();
    let (four, eight) = (number.to_be_bytes(), u64::from(number).to_be_bytes());
    vec![
        ("constant", vec![], vec![query(&constant)]),
        ("quoted", vec![], vec![query(&format!("SELECT pg_catalog.\"{function}\"('{number}'::integer)"))]),
        ("behind another", vec![], vec![query(&format!("select 1; {constant}"))]),
        ("unnamed constant", vec![], unnamed(parse("", &constant), bind("", "", &[]))),
        ("text", vec![], unnamed(parse("", &parameter), bind("", "", &[&text]))),
        ("int4", vec![], unnamed(parse_typed("", &parameter, &[23]), bind_binary("", &[&four]))),
        ("untyped", vec![], unnamed(parse("", &parameter), bind_binary("", &[&four]))),
        ("int8", vec![], unnamed(parse_typed("", &cast, &[20]), bind_binary("", &[&eight]))),
        ("named", vec![parse("s", &parameter), sync()], run(bind_binary("s", &[&four]))),
        ("named constant", vec![parse("s", &constant), sync()], run(bind("", "s", &[]))),
    ]
}

#[test]
fn numbers_are_none_that_a_process_can_have() {
    let carpool = Carpool::start(&Setup::default());
    for _ in 0..20 {
        assert!((1 << 22..1 << 31).contains(&number(&carpool.client())));
    }
}

#[test]
fn one_who_ends_itself_is_disconnected() {
    for (mode, lines) in [("transaction", TRANSACTION), ("session", SESSION)] {
        let carpool = Carpool::start(&Setup::default().database(lines));
        for in_block in [false, true] {
            for way in 0..ways("", 0).len() {
                let mut client = carpool.client();
                let (name, before, messages) = ways("pg_terminate_backend", number(&client)).swap_remove(way);
                if !before.is_empty() {
                    client.send_all(&before);
                    assert_eq!(codes(&client.until_ready()), []);
                }
                if in_block {
                    client.query("begin");
                }
                client.send_all(&messages);
                let replies = client.until_closed();
                assert_eq!(codes(&replies), one("FATAL", "57P01"), "{mode} {name} {in_block}");
            }
        }
        assert_eq!(carpool.client().value("select 'well'"), "well");
    }
}

#[test]
fn one_who_cancels_itself_goes_on() {
    for (mode, lines) in [("transaction", TRANSACTION), ("session", SESSION)] {
        let carpool = Carpool::start(&Setup::default().database(lines));
        let mut client = carpool.client();
        for in_block in [false, true] {
            for (name, before, messages) in ways("pg_cancel_backend", number(&client)) {
                if !before.is_empty() {
                    client.send_all(&before);
                    client.until_ready();
                }
                if in_block {
                    client.query("begin");
                }
                client.send_all(&messages);
                assert_eq!(codes(&client.until_ready()), one("ERROR", "57014"), "{mode} {name} {in_block}");
                client.query("rollback; deallocate all");
                assert_eq!(client.value("select 'well'"), "well");
            }
        }
    }
}

/// As on a direct connection, one who has a server is found behind its number; PostgreSQL decides on the right to.
#[test]
fn another_client_is_ended_in_its_transaction() {
    for (mode, lines) in [("transaction", TRANSACTION), ("session", SESSION)] {
        let carpool = Carpool::start(&Setup::default().database(lines));
        let mut caller = carpool.client();
        for way in 0..ways("", 0).len() {
            let mut other = carpool.client();
            other.query("begin");
            assert_eq!(other.value("select 'there'"), "there");
            let (name, before, messages) = ways("pg_terminate_backend", number(&other)).swap_remove(way);
            if !before.is_empty() {
                caller.send_all(&before);
                assert_eq!(codes(&caller.until_ready()), []);
            }
            caller.send_all(&messages);
            let replies = caller.until_ready();
            assert_eq!(codes(&replies), [], "{mode} {name}");
            let last = replies.iter().rev().find(|m| m.tag == b'D').unwrap();
            assert_eq!(last.columns(), [Some("t".to_owned())], "{mode} {name}");
            assert_eq!(codes(&other.until_closed()), one("FATAL", "57P01"), "{mode} {name}");
            caller.query("deallocate all");
        }
        assert_eq!(caller.value("select 'well'"), "well");
    }
}

#[test]
fn another_client_is_cancelled() {
    let carpool = Carpool::start(&Setup::default().database(TRANSACTION));
    let (mut caller, mut other) = (carpool.client(), carpool.client());
    other.send(&query("select pg_sleep(600)"));
    let running = format!(
        "select count(*) from pg_stat_activity where datname = '{}' and query like '%pg_sleep%' and state = 'active' \
         and pid <> pg_backend_pid()",
        carpool.database
    );
    eventually("it runs", || (Postgres::shared().sql("postgres", &running) == "1").then_some(()));
    assert_eq!(caller.value(&format!("select pg_cancel_backend({})", number(&other))), "t");
    assert_eq!(codes(&other.until_ready()), one("ERROR", "57014"));
    // The signal might have come later: nobody else gets that server.
    carpool.logs("a cancel request for it may still come, or a signal");
    assert_eq!(other.value("select 'well'"), "well");
}

/// One that was named outside a block ends, too, though others whose server is lost there go on.
#[test]
fn another_client_is_ended_while_a_query_runs() {
    let carpool = Carpool::start(&Setup::default().database(TRANSACTION));
    let (mut caller, mut other) = (carpool.client(), carpool.client());
    let gate = Postgres::shared().gate(&carpool.database);
    other.send(&query(&format!("select {}", Gate::PASS)));
    eventually("it has a server", || carpool.console("show clients").contains("|active|").then_some(()));
    let text = format!("select pg_terminate_backend({})", number(&other));
    eventually("it is found", || (caller.value(&text) == "t").then_some(()));
    assert_eq!(codes(&other.until_closed()), one("FATAL", "57P01"));
    drop(gate);
}

/// One between transactions has no process, and stays; so does everybody else.
#[test]
fn one_without_a_server_is_not_found() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let (mut caller, mut other) = (carpool.client(), carpool.client());
    let before = other.value("select pg_backend_pid()");
    for function in ["pg_terminate_backend", "pg_cancel_backend"] {
        for (name, before, messages) in ways(function, number(&other)) {
            if !before.is_empty() {
                caller.send_all(&before);
                caller.until_ready();
            }
            caller.send_all(&messages);
            let replies = caller.until_ready();
            assert_eq!(codes(&replies), [], "{name}");
            let notice = replies.iter().find(|m| m.tag == b'N').unwrap_or_else(|| panic!("{name}: {replies:?}"));
            assert!(notice.field('M').unwrap().starts_with(&format!("PID {} is not", number(&other))), "{notice:?}");
            caller.query("deallocate all");
        }
    }
    assert_eq!(other.value("select pg_backend_pid()"), before);
}

#[test]
fn the_right_to_signal_is_postgresqls() {
    let carpool = Carpool::start(&Setup::default().database(TRANSACTION));
    let mut other = carpool.client();
    other.query("begin");
    let mut caller = Raw::login(carpool.port, "app", &carpool.database);
    for function in ["pg_terminate_backend", "pg_cancel_backend"] {
        assert_eq!(caller.error(&format!("select {function}({})", number(&other))), "42501");
        assert_eq!(caller.error(&format!("select {function}({})", number(&other))), "42501");
    }
    assert_eq!(other.value("select 'well'"), "well");
    other.query("commit");
    assert_eq!(other.value("select 'well'"), "well");
    // Itself it may end.
    caller.send(&query(&format!("select pg_terminate_backend({})", number(&caller))));
    assert_eq!(codes(&caller.until_closed()), one("FATAL", "57P01"));
}

/// Numbers of clients of another database mean nothing here.
#[test]
fn another_database_is_out_of_reach() {
    let postgres = Postgres::shared();
    let second = postgres.new_database();
    let sections = format!("[databases.{second}]\nhost = \"127.0.0.1\"\nport = {}\n", postgres.port);
    let carpool = Carpool::start(&Setup::default().sections(&sections));
    let (mut caller, mut other) = (carpool.client(), Raw::login(carpool.port, "postgres", &second));
    other.query("begin");
    assert_eq!(caller.value(&format!("select pg_terminate_backend({})", number(&other))), "f");
    assert_eq!(other.value("select 'well'"), "well");
}

/// The same number where it isn't the argument is what it is.
#[test]
fn only_the_argument_is_another() {
    let carpool = Carpool::start(&Setup::default().database(TRANSACTION));
    let mut client = carpool.client();
    let number = number(&client);
    let text = number.to_string();
    for sql in [
        format!("select 'pg_terminate_backend({number})'"),
        format!("select {number} -- pg_terminate_backend({number})"),
        format!("select {number} /* pg_terminate_backend({number}) */"),
        format!("select $${number} pg_terminate_backend({number})$$"),
        format!("select {number}, pg_cancel_backend(0)"),
    ] {
        assert!(client.value(&sql).contains(&text), "{sql}");
    }
    let four = number.to_be_bytes();
    let sql = "select $1::int, pg_terminate_backend($2)";
    client.send_all(&[parse("", sql), bind_binary("", &[&four, &[0; 4]]), execute("", 0), sync()]);
    assert_eq!(value(&client.until_ready()), Some(text.clone()));
    // Which of the two is meant can't be told: it is left as it is.
    let sql = "select $1::int, pg_terminate_backend($1)";
    client.send_all(&[parse("", sql), bind_binary("", &[&four]), execute("", 0), sync()]);
    assert_eq!(value(&client.until_ready()), Some(text.clone()));
    // A cancel reaches the client, and the error points to where the client sees the fault.
    let sql = format!("select pg_cancel_backend({number}), nonsense");
    let error = client.query(&sql).into_iter().find(|m| m.tag == b'E').unwrap();
    assert_eq!(error.field('P'), Some((sql.find("nonsense").unwrap() + 1).to_string()));
    client.query("create view v as select pg_terminate_backend(1) as x");
    client.query(&format!("create view w as select pg_cancel_backend({number}) as x"));
    assert!(client.value("select pg_get_viewdef('w'::regclass)").contains(&text));
    assert_eq!(client.value("select 'well'"), "well");
}

/// Two clients share a statement with the number of one of them in its text.
#[test]
fn a_shared_statement_means_the_same_client_to_all() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 1"));
    let (mut named, mut other) = (carpool.client(), carpool.client());
    let sql = format!("select pg_cancel_backend({})", number(&named));
    let run = [bind("", "s", &[]), execute("", 0), sync()];
    for client in [&mut named, &mut other] {
        client.send_all(&[parse("s", &sql), sync()]);
        assert_eq!(codes(&client.until_ready()), []);
    }
    for _ in 0..3 {
        named.send_all(&run);
        assert_eq!(codes(&named.until_ready()), one("ERROR", "57014"));
        other.send_all(&run);
        let replies = other.until_ready();
        assert_eq!((codes(&replies), value(&replies)), (vec![], Some("f".into())));
        // By SQL, too, where it isn't looked up.
        assert_eq!(other.value("execute s"), "f");
    }
    assert_eq!(named.value("select 'well'"), "well");
}

/// Clients end each other in transactions and are ended, while others, who were never named, see no error.
#[test]
fn nobody_else_is_hit() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 4"));
    std::thread::scope(|scope| {
        let named: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..15 {
                        let (mut victim, mut caller) = (carpool.client(), carpool.client());
                        victim.send_all(&[query("begin"), query("select 1"), query("commit")]);
                        // It may be just before, in, or behind its transaction.
                        let text = format!("select pg_terminate_backend({})", number(&victim));
                        assert_eq!(codes(&caller.query(&text)), []);
                    }
                })
            })
            .collect();
        let mut bystander = carpool.client();
        while named.iter().any(|thread| !thread.is_finished()) {
            assert_eq!(bystander.value("select 'well'"), "well");
            bystander.query("begin");
            assert_eq!(bystander.value("select 'well'"), "well");
            bystander.query("commit");
        }
    });
}
