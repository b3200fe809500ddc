//! Statements of the protocol that texts run by name: EXECUTE, EXPLAIN EXECUTE, CREATE TABLE AS EXECUTE. Every script
//! runs directly and through Carpool, with a new server each time that none is kept.

use crate::harness::raw::{bind, close, describe, execute, parse, query, sync};
use crate::harness::{Carpool, Message, Postgres, Raw, Setup};

/// What a client can tell of replies: their kinds, the rows, the errors.
fn told(replies: &[Message]) -> Vec<String> {
    let told = |m: &Message| match m.tag {
        b'D' => format!("D {:?}", m.columns()),
        b'E' => format!("E {} {}", m.field('C').unwrap(), m.field('M').unwrap()),
        b'T' | b't' | b'C' => format!("{} {}", char::from(m.tag), m.body.escape_ascii()),
        b'S' => String::new(),
        tag => char::from(tag).to_string(),
    };
    replies.iter().map(told).filter(|told| !told.is_empty()).collect()
}

/// Parse, Bind, Describe, Execute and Sync of an unnamed statement.
fn run(text: &str) -> Vec<u8> {
    [parse("", text), describe('S', ""), bind("", "", &[]), execute("", 0), sync()].concat()
}

fn again(name: &str) -> Vec<u8> {
    [bind("", name, &[]), describe('P', ""), execute("", 0), sync()].concat()
}

fn prepare(name: &str, text: &str) -> Vec<u8> {
    [parse(name, text), sync()].concat()
}

fn scripts() -> Vec<Vec<Vec<u8>>> {
    vec![
        vec![prepare("s", "select 7 as a"), run("execute s"), run("EXECUTE \"s\""), again("s")],
        // One with parameters, one that is prepared itself.
        vec![
            prepare("s", "select $1::int + 1 as a"),
            prepare("e", "execute s(41)"),
            again("e"),
            again("e"),
            [close('S', "s"), sync()].concat(),
            again("e"),
            prepare("s", "select $1::text as b"),
            again("e"),
        ],
        vec![
            prepare("s", "select 7 as a"),
            run("explain (costs off) execute s"),
            query("explain (costs off) execute s"),
        ],
        vec![
            prepare("s", "select 7 as a"),
            run("create table made as execute s"),
            query("select a + 0 as a from made"),
            query("drop table made; create table made as execute s; select count(*) from made"),
            query("drop table made"),
        ],
        vec![
            run("execute nosuch"),
            run("execute carpool_1"),
            query("execute carpool_1"),
            run("explain execute nosuch"),
        ],
        // Round in circles, as far as it goes.
        vec![prepare("a", "select 1 as x"), prepare("b", "execute a"), again("b")],
        // All in one batch.
        vec![
            [
                parse("s", "select 5 as a"),
                parse("", "execute s"),
                describe('S', ""),
                bind("", "", &[]),
                execute("", 0),
                close('S', "s"),
                sync(),
            ]
            .concat(),
            run("execute s"),
        ],
        vec![
            query("begin"),
            prepare("s", "select 1/0"),
            run("execute s"),
            run("execute s"),
            query("rollback"),
            run("execute s"),
        ],
        // A simple query within a batch that isn't synced.
        vec![
            prepare("s", "select 3 as a"),
            [parse("t", "select 4 as b"), query("execute s"), query("execute t"), sync()].concat(),
            [bind("", "t", &[]), query("execute t; execute s; deallocate t"), sync()].concat(),
            query("execute t"),
        ],
        vec![
            [parse("u", "select 1/0"), bind("", "u", &[]), execute("", 0), query("execute u"), sync()].concat(),
            query("execute u"),
        ],
    ]
}

/// Sends each of a script's steps and gives what comes of it. `between` runs something on other servers.
fn play(client: &mut Raw, script: &[Vec<u8>], mut between: impl FnMut()) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for step in script {
        client.send(step);
        // A step ends with the answer to this query, which is one more ReadyForQuery.
        client.send(&query("select 'end of step'"));
        let mut replies = Vec::new();
        loop {
            replies.extend(client.until_ready());
            if replies.iter().any(|m| m.tag == b'D' && m.columns() == [Some("end of step".into())]) {
                break;
            }
            let failed = replies.iter().any(|m| m.tag == b'E' && m.field('C').as_deref() == Some("25P02"));
            if failed && replies.iter().filter(|m| m.tag == b'Z').count() > 1 {
                break;
            }
        }
        all.push(told(&replies));
        between();
    }
    all
}

#[test]
fn texts_run_statements_of_the_protocol_by_name() {
    let postgres = Postgres::shared();
    let carpool = Carpool::start(&Setup::default().database("pool_size = 2"));
    // Another client has other statements under the same names, on the same servers.
    let mut other = carpool.client();
    for (name, text) in [("s", "select 'another'"), ("a", "select 'another'"), ("e", "execute s")] {
        other.send(&prepare(name, text));
        other.until_ready();
    }
    for script in scripts() {
        let mut direct = Raw::login(postgres.port, "postgres", &carpool.database);
        let want = play(&mut direct, &script, || {});
        let mut turn = 0;
        let mut client = carpool.client();
        let got = play(&mut client, &script, || {
            turn += 1;
            for step in [prepare("n", "select 1"), run("execute s"), again("e"), [close('S', "n"), sync()].concat()] {
                if turn % 2 == 0 {
                    other.send(&step);
                    let replies = other.until_ready();
                    assert!(replies.iter().all(|m| m.tag != b'E'), "{replies:?}");
                }
            }
        });
        let shown: Vec<_> = script.iter().map(|step| step.escape_ascii().to_string()).collect();
        for ((got, want), step) in got.iter().zip(&want).zip(&shown) {
            assert_eq!(got, want, "{step}\nin {shown:#?}");
        }
    }
}

/// As on a connection of its own: what others have prepared on the server isn't there, what the client has is.
#[test]
fn pg_prepared_statements_shows_the_clients_own() {
    let carpool = Carpool::start(&Setup::default().database("pool_size = 2"));
    let (mut one, mut other) = (carpool.client(), carpool.client());
    let texts = |client: &mut Raw| {
        client.value("select string_agg(statement, ' ' order by statement) from pg_prepared_statements")
    };
    for step in [prepare("a", "select 1"), prepare("b", "select 2")] {
        one.send(&step);
        one.until_ready();
    }
    other.send(&prepare("a", "select 3"));
    other.until_ready();
    for _ in 0..2 {
        assert_eq!(texts(&mut one), "select 1 select 2");
        assert_eq!(texts(&mut other), "select 3");
        // On another server.
        other.query("begin");
        assert_eq!(texts(&mut one), "select 1 select 2");
        other.query("commit");
    }
    one.send(&[close('S', "b"), sync()].concat());
    one.until_ready();
    // One that can't be prepared any more fails nothing else.
    one.query("create table shortly (a int)");
    one.send(&prepare("t", "select a from shortly"));
    one.until_ready();
    other.query("drop table shortly");
    other.query("begin");
    let count = "select count(*) from pg_prepared_statements where statement <> 'select a from shortly'";
    assert_eq!(one.value(count), "1");
    other.query("commit");
    one.send(&prepare("n", count));
    one.until_ready();
    one.send(&again("n"));
    let replies = one.until_ready();
    assert!(replies.iter().any(|m| m.tag == b'D' && m.columns() == [Some("2".into())]), "{replies:?}");
    // In a transaction nothing is prepared for it, which could fail, but what others have isn't there either.
    other.query("begin");
    assert!(["", "select 3"].contains(&texts(&mut other).as_str()));
    other.send(&again("a"));
    assert!(other.until_ready().iter().any(|m| m.tag == b'D'));
    assert_eq!(texts(&mut other), "select 3");
}
