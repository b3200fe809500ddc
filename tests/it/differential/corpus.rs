//! The scripts. Each leaves the tables of the database as it found them, but for `scratch`.

use super::script::{
    Script, Step, bind_all, call, copy_data, copy_done, copy_fail, parse_typed, queries, round, round_of, script, until,
};
use crate::harness::raw::{bind, close, describe, execute, flush, message, parse, query, sync};

/// All scripts.
pub fn all() -> Vec<Script> {
    [
        simple(),
        transactions(),
        copy(),
        copy_extended(),
        extended(),
        pipelines(),
        named(),
        forgetting(),
        settings(),
        bulk(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// `select TEXT` through the unnamed statement.
fn select(sql: &str) -> [Vec<u8>; 3] {
    [parse("", sql), bind("", "", &[]), execute("", 0)]
}

fn pipeline(parts: &[&[Vec<u8>]]) -> Vec<Vec<u8>> {
    parts.concat()
}

fn simple() -> Vec<Script> {
    vec![
        script("one query", queries(&["select 1"])),
        script("empty queries", queries(&["", ";", " -- nothing\n", "/* nothing */", "select 1;;; select 2;"])),
        script("several statements", queries(&["select 1; select 2, 'x'; select 3 where false"])),
        script("an error among several", queries(&["select 1; select 1/0; select 3", "select 4"])),
        script("errors", {
            queries(&[
                "selec 1",
                "select nope from items",
                "select * from nowhere",
                "insert into items values (1, 'again')",
                "select 'Zwölf' || 1/0",
                "do $$ begin raise exception 'mine' using errcode = 'P7777', detail = 'd', hint = 'h'; end $$",
            ])
        }),
        script("notices", {
            queries(&[
                "do $$ begin raise notice 'n %', 1; raise warning 'w'; raise info 'i'; end $$",
                "select shout('a'), shout('b')",
                "drop table if exists nowhere",
                "set local timezone = 'CET'",
                "commit",
                "rollback",
            ])
        }),
        script("nulls and no columns", queries(&["select null, 1, null::text, ''", "select", "select from items"])),
        script("an own type", queries(&["select 'happy'::mood, array['sad','happy']::mood[]", "select * from items"])),
        script("two queries in one write", vec![round(&[query("select 1"), query("select 2")])]),
        script("five queries in one write, two of them wrong", {
            let texts = ["select 1", "select 1/0", "select 3", "selec", "select 5"];
            vec![round(&texts.map(query)), round(&[query("select 6")])]
        }),
        script("function calls", {
            let int = |n: i32| n.to_be_bytes();
            vec![
                round(&[call(177, &[&int(20), &int(22)])]),
                round(&[call(154, &[&int(1), &int(0)])]),
                round(&[call(4_000_000, &[])]),
                round(&[query("begin"), call(177, &[&int(1), &int(2)]), query("commit")]),
                round(&[call(177, &[&int(1), &int(2)]), call(177, &[&int(3), &int(4)]), query("select 5")]),
            ]
        }),
        script("notifications to oneself", {
            queries(&["begin", "listen own_channel", "notify own_channel, 'payload'", "commit", "select 1"])
        }),
        script("schema changes", {
            queries(&[
                "create table made (a int)",
                "insert into made values (1), (2)",
                "select * from made",
                "alter table made add column b text default 'b'",
                "select * from made",
                "drop table made",
                "select * from made",
            ])
        }),
        script("terminate", vec![round(&[query("select 1")]), Step::Closed(message('X', b""))]),
        script("terminate behind a query", vec![Step::Closed([query("select 1"), message('X', b"")].concat())]),
        script("a message of an unknown type", vec![Step::Closed(message('!', b"what"))]),
        script("copy messages when there is no copy", {
            vec![
                round(&[copy_data("stray"), copy_done(), query("select 1")]),
                round(&[copy_fail("stray"), query("select 2"), copy_data("stray"), sync()]),
                round(&[query("begin"), copy_data("stray"), copy_done(), query("select 3"), query("commit")]),
            ]
        }),
        script("sync and flush alone", vec![round(&[sync()]), round(&[flush(), sync(), sync()])]),
        script("extra syncs", vec![round(&[query("select 1"), sync(), sync(), query("select 2"), sync()])]),
    ]
}

fn transactions() -> Vec<Script> {
    vec![
        script("commit and rollback", {
            queries(&[
                "begin",
                "insert into scratch values (1, 'one')",
                "commit",
                "begin",
                "delete from scratch",
                "select count(*) from scratch",
                "rollback",
                "select * from scratch",
            ])
        }),
        script("a failed transaction", {
            queries(&["begin", "select 1/0", "select 1", "commit", "begin", "selec", "rollback", "select 1"])
        }),
        script("savepoints", {
            queries(&[
                "begin",
                "insert into scratch values (1)",
                "savepoint a",
                "insert into scratch values (1/0)",
                "select 1",
                "rollback to a",
                "insert into scratch values (2)",
                "release a",
                "commit",
                "select * from scratch",
                "savepoint outside",
            ])
        }),
        script("warnings", queries(&["begin", "begin", "commit", "commit", "rollback", "end"])),
        script("chains", queries(&["begin", "commit and chain", "select 1", "rollback and chain", "rollback"])),
        script("begin and end within a text", {
            queries(&[
                "begin; select 1",
                "select 2; commit; begin; select 3",
                "commit; select 4",
                "begin; select 1; commit; select 1/0; select 2",
                "insert into scratch values (1); select 1/0",
                "select count(*) from scratch",
            ])
        }),
        script("transactions in one write", {
            let texts = ["begin", "select 1", "commit", "select 2", "begin", "select 1/0", "select 3", "rollback"];
            vec![round(&texts.map(query)), round(&[query("select 4")])]
        }),
        script("cursors", {
            queries(&[
                "begin",
                "declare c cursor for select id, name from items order by id",
                "fetch 2 from c",
                "fetch 3 from c",
                "move 2 from c",
                "fetch all from c",
                "close c",
                "fetch 1 from c",
                "rollback",
                "fetch 1 from c",
            ])
        }),
        script("isolation and modes", {
            queries(&[
                "begin isolation level serializable read only",
                "show transaction_isolation",
                "insert into scratch values (1)",
                "rollback",
                "show transaction_isolation",
                "begin",
                "set transaction isolation level repeatable read",
                "show transaction_isolation",
                "commit",
            ])
        }),
        script("two-phase commit", {
            queries(&["begin", "insert into scratch values (9)", "prepare transaction 'x'", "rollback prepared 'x'"])
        }),
        script("temporary tables that go with their transaction", {
            queries(&[
                "begin",
                "create temp table mine (a int) on commit drop",
                "insert into mine values (1), (2)",
                "select * from mine",
                "commit",
                "select * from mine",
            ])
        }),
        script("sql-level prepare within one transaction", {
            queries(&[
                "begin",
                "prepare p (int) as select $1 + 1",
                "execute p (41)",
                "deallocate p",
                "execute p (41)",
                "rollback",
            ])
        }),
        script("constraints at the end", {
            queries(&[
                "create table pairs (a int unique deferrable initially deferred)",
                "begin",
                "insert into pairs values (1), (1)",
                "select 'still good'",
                "commit",
                "select count(*) from pairs",
                "begin; insert into pairs values (2), (2); commit; select 'never'",
                "drop table pairs",
            ])
        }),
    ]
}

fn copy() -> Vec<Script> {
    let copy_in = || query("copy scratch from stdin");
    vec![
        script("copy out", {
            queries(&[
                "copy items to stdout",
                "copy (select generate_series(1, 500)) to stdout with csv header",
                "copy items (id, name) to stdout with (format binary)",
                "select 1; copy items to stdout; select 2",
                "copy (select 1 / (3 - g) from generate_series(1, 5) g) to stdout",
                "copy nowhere to stdout",
            ])
        }),
        script("copy in", {
            vec![
                until(b'G', &[copy_in()]),
                round_of(1, &[copy_data("1\tone\n"), copy_data("2\ttwo\n3\t\\N\n"), copy_done()]),
                round(&[query("select * from scratch")]),
            ]
        }),
        script("copy in, all in one write", {
            vec![
                round(&[copy_in(), copy_data("1\tone\n2\ttwo\n"), copy_done(), query("select * from scratch")]),
                round(&[copy_in(), copy_done(), query("select count(*) from scratch")]),
            ]
        }),
        script("copy in, bad data in one write with what follows", {
            vec![
                round(&[copy_in(), copy_data("x\tone\n"), copy_data("2\ttwo\n"), copy_done(), query("select 1")]),
                round(&[query("select count(*) from scratch")]),
            ]
        }),
        script("copy in, error before CopyDone", {
            vec![
                until(b'G', &[copy_in()]),
                round_of(1, &[copy_data("x\tone\n")]),
                round(&[copy_data("2\ttwo\n"), copy_done(), query("select count(*) from scratch")]),
            ]
        }),
        script("copy in, error at CopyDone", {
            vec![
                round_of(1, &[copy_in(), copy_data("1\tone\n2"), copy_done()]),
                round(&[query("select count(*) from scratch")]),
            ]
        }),
        script("copy in, error after CopyDone", {
            vec![
                round(&[query("alter table scratch add constraint late unique (a) deferrable initially deferred")]),
                round_of(1, &[copy_in(), copy_data("1\tone\n1\ttwo\n"), copy_done()]),
                round(&[query("select count(*) from scratch"), query("alter table scratch drop constraint late")]),
            ]
        }),
        script("copy in, the client gives up", {
            vec![
                round_of(1, &[copy_in(), copy_data("1\tone\n"), copy_fail("no more")]),
                round(&[query("select count(*) from scratch")]),
            ]
        }),
        script("copy in, no such table, in one write", {
            vec![
                round_of(1, &[query("copy nowhere from stdin"), copy_data("1\n"), copy_done()]),
                round(&[query("select 1")]),
            ]
        }),
        script("copy in, a query in the middle", {
            vec![until(b'G', &[copy_in()]), Step::Closed([copy_data("1\tone\n"), query("select 'too early'")].concat())]
        }),
        script("copy in, sync and flush in the middle", {
            vec![
                until(b'G', &[copy_in()]),
                round_of(1, &[copy_data("1\tone\n"), sync(), flush(), copy_data("2\ttwo\n"), copy_done()]),
                round(&[query("select count(*) from scratch")]),
            ]
        }),
        script("several copies in one text", {
            let sql = "copy scratch from stdin; select count(*) from scratch; copy scratch from stdin; select 2";
            vec![
                until(b'G', &[query(sql)]),
                until(b'G', &[copy_data("1\tone\n"), copy_done()]),
                round_of(1, &[copy_data("2\ttwo\n"), copy_done()]),
                round_of(1, &[query(sql), copy_data("3\tx\n"), copy_done(), copy_data("4\tx\n"), copy_done()]),
                round_of(1, &[query(sql), copy_data("bad\n"), copy_done(), copy_data("4\tx\n"), copy_done()]),
                round(&[query("select * from scratch order by a")]),
            ]
        }),
        script("copy in within a transaction", {
            vec![
                round(&[query("begin")]),
                until(b'G', &[copy_in()]),
                round_of(1, &[copy_data("1\tone\n"), copy_done()]),
                until(b'G', &[copy_in()]),
                round_of(1, &[copy_data("bad\n")]),
                round(&[copy_done(), query("select 1"), query("rollback")]),
                round(&[query("select count(*) from scratch")]),
            ]
        }),
        script("copy in by many small messages", {
            let mut messages = vec![copy_in()];
            messages.extend((0..3000).map(|i| copy_data(&format!("{i}\tZ\n"))));
            messages.push(copy_done());
            vec![round_of(1, &messages), round(&[query("select count(*), sum(a) from scratch")])]
        }),
        script("copy both ways in turn", {
            vec![
                round_of(1, &[copy_in(), copy_data("1\tone\n"), copy_done()]),
                round(&[query("copy scratch to stdout")]),
                round(&[copy_in(), copy_data("2\ttwo\n"), copy_done(), query("copy scratch to stdout")]),
            ]
        }),
    ]
}

fn copy_extended() -> Vec<Script> {
    let begin = || [parse("", "copy scratch from stdin"), bind("", "", &[]), execute("", 0)];
    let count = || round(&[query("select count(*) from scratch")]);
    vec![
        script("extended copy out", {
            vec![
                round(&pipeline(&[&select("copy items to stdout"), &[sync()]])),
                round(&pipeline(&[&select("copy (select 1/(2-g) from generate_series(1,3) g) to stdout"), &[sync()]])),
                round(&pipeline(&[&select("copy items to stdout"), &select("select 2"), &[sync()]])),
            ]
        }),
        script("extended copy in, as libpq does it", {
            vec![
                until(b'G', &pipeline(&[&begin(), &[sync()]])),
                round(&[copy_data("1\tone\n"), copy_data("2\ttwo\n"), copy_done(), sync()]),
                count(),
            ]
        }),
        script("extended copy in with a description", {
            let [p, b, e] = begin();
            vec![
                until(b'G', &[p, b, describe('P', ""), e, sync()]),
                round(&[copy_data("1\tone\n"), copy_done(), sync()]),
                count(),
            ]
        }),
        script("extended copy in with Flush", {
            vec![
                until(b'G', &pipeline(&[&begin(), &[flush()]])),
                until(b'C', &[copy_data("1\tone\n"), copy_done(), flush()]),
                round(&[sync()]),
                count(),
            ]
        }),
        script("extended copy in, all in one write", {
            vec![round(&pipeline(&[&begin(), &[copy_data("1\tone\n"), copy_done(), sync()]])), count()]
        }),
        script("extended copy in, all in one write with two Syncs", {
            vec![
                round_of(1, &pipeline(&[&begin(), &[sync(), copy_data("1\tone\n"), copy_done(), sync()]])),
                round_of(
                    2,
                    &pipeline(&[&begin(), &[sync(), copy_data("2\t\n"), copy_done(), sync(), query("select 1")]]),
                ),
                count(),
            ]
        }),
        script("extended copy in, bad data before CopyDone", {
            vec![
                until(b'G', &pipeline(&[&begin(), &[sync()]])),
                until(b'E', &[copy_data("bad\n")]),
                round(&[copy_data("2\ttwo\n"), copy_done(), sync()]),
                count(),
            ]
        }),
        script("extended copy in, bad data in one write with CopyDone", {
            vec![
                until(b'G', &pipeline(&[&begin(), &[sync()]])),
                round(&[copy_data("bad\n"), copy_data("2\ttwo\n"), copy_done(), sync()]),
                count(),
            ]
        }),
        script("extended copy in, bad data, all in one write and a pipeline behind", {
            let rest = [copy_data("bad\n"), copy_done(), sync()];
            vec![round(&pipeline(&[&begin(), &rest, &select("select 1"), &[sync()]])), count()]
        }),
        script("extended copy in, the client gives up", {
            vec![
                until(b'G', &pipeline(&[&begin(), &[sync()]])),
                round(&[copy_data("1\tone\n"), copy_fail("no more"), sync()]),
                count(),
            ]
        }),
        script("extended copy in, no such table", {
            let p = [parse("", "copy nowhere from stdin"), bind("", "", &[]), execute("", 0), sync()];
            let again = [parse("", "copy nowhere from stdin"), bind("", "", &[]), execute("", 0)];
            let rest = [copy_data("1\n"), copy_done(), sync()];
            vec![round(&p), round(&pipeline(&[&again, &rest])), count()]
        }),
        script("extended copy in, a query in the middle", {
            vec![
                until(b'G', &pipeline(&[&begin(), &[sync()]])),
                Step::Closed([copy_data("1\tone\n"), query("select 'too early'"), sync()].concat()),
            ]
        }),
        script("extended copy in within a transaction", {
            vec![
                round(&[query("begin")]),
                until(b'G', &pipeline(&[&begin(), &[sync()]])),
                round(&[copy_data("1\tone\n"), copy_done(), sync()]),
                round(&pipeline(&[&begin(), &[copy_data("bad\n"), copy_done(), sync()]])),
                round(&pipeline(&[&select("select 1"), &[sync()]])),
                round(&[query("rollback")]),
                count(),
            ]
        }),
        script("copies and queries in one pipeline", {
            let copy = pipeline(&[&begin(), &[copy_data("1\tone\n"), copy_done()]]);
            vec![
                round(&pipeline(&[
                    &select("select 1"),
                    &copy,
                    &select("select count(*) from scratch"),
                    &copy,
                    &[sync()],
                ])),
                count(),
            ]
        }),
    ]
}

fn extended() -> Vec<Script> {
    vec![
        script("unnamed", vec![round(&pipeline(&[&select("select 1"), &[sync()]]))]),
        script("parameters and descriptions", {
            vec![
                round(&[
                    parse_typed("", "select $1, $2::int + 1, $3", &[25, 0, 1082]),
                    describe('S', ""),
                    bind("", "", &["a", "41", "2024-02-29"]),
                    describe('P', ""),
                    execute("", 0),
                    sync(),
                ]),
                round(&[
                    parse("", "insert into scratch values ($1, $2)"),
                    describe('S', ""),
                    bind_all("", "", &[1, 0], &[Some(&7i32.to_be_bytes()), None], &[]),
                    describe('P', ""),
                    execute("", 0),
                    sync(),
                ]),
                round(&[query("select * from scratch")]),
            ]
        }),
        script("binary formats", {
            let binary = |results: &[u16]| bind_all("", "", &[1], &[Some(&5i32.to_be_bytes()), None], results);
            let sql = "select $1::int, $2::text, 1.5::float8, 'x'::text, timestamptz '2024-01-01', null::int";
            vec![
                round(&[parse("", sql), binary(&[1]), describe('P', ""), execute("", 0), sync()]),
                round(&[parse("", sql), binary(&[1, 0, 1, 0, 1, 1]), describe('P', ""), execute("", 0), sync()]),
                round(&[parse("", sql), binary(&[1, 0]), execute("", 0), sync()]),
            ]
        }),
        script("nothing to describe, nothing to do", {
            vec![
                round(&[
                    parse("", ""),
                    describe('S', ""),
                    bind("", "", &[]),
                    describe('P', ""),
                    execute("", 0),
                    sync(),
                ]),
                round(&pipeline(&[&select("begin"), &[describe('P', ""), sync()]])),
                round(&pipeline(&[&select("commit"), &[sync()]])),
            ]
        }),
        script("flush without sync", {
            vec![
                until(b'1', &[parse("s", "select id from items where id = $1"), flush()]),
                until(b'T', &[describe('S', "s"), flush()]),
                until(b'2', &[bind("", "s", &["3"]), flush()]),
                until(b'C', &[execute("", 0), flush()]),
                until(b'2', &[bind("", "s", &["4"]), flush()]),
                until(b'C', &[execute("", 0), flush()]),
                round(&[sync()]),
                until(b'3', &[close('S', "s"), flush()]),
                round(&[sync()]),
            ]
        }),
        script("flush without sync, with an error", {
            vec![
                until(b'1', &[parse("s", "select 1 / $1::int"), flush()]),
                until(b'E', &[bind("", "s", &["0"]), execute("", 0), flush()]),
                round_of(1, &[bind("", "s", &["1"]), execute("", 0), flush(), query("select 'skipped'"), sync()]),
                round(&[bind("", "s", &["1"]), execute("", 0), sync()]),
            ]
        }),
        script("row limits within a transaction", {
            vec![
                round(&[query("begin")]),
                round(&[parse("", "select id from items order by id"), bind("p", "", &[]), execute("p", 3), sync()]),
                round(&[execute("p", 3), sync()]),
                round(&[query("select 'in between'")]),
                round(&[describe('P', "p"), execute("p", 0), sync()]),
                round(&[execute("p", 0), close('P', "p"), sync()]),
                round(&[execute("p", 0), sync()]),
                round(&[query("commit")]),
                round(&[execute("p", 0), sync()]),
            ]
        }),
        script("row limits in one pipeline", {
            let [p, b, e] = [parse("", "select id from items order by id"), bind("", "", &[]), execute("", 4)];
            vec![
                round(&[p, b, e.clone(), e.clone(), e.clone(), e.clone(), sync()]),
                round(&[e, sync()]),
                until(b's', &[parse("", "select id from items"), bind("", "", &[]), execute("", 1), flush()]),
                until(b's', &[execute("", 1), flush()]),
                round(&[sync()]),
            ]
        }),
        script("portals by name", {
            vec![
                round(&[query("begin")]),
                round(&[parse("", "select $1::text"), bind("a", "", &["a"]), bind("b", "", &["b"]), sync()]),
                round(&[execute("b", 0), execute("a", 0), describe('P', "a"), close('P', "b"), sync()]),
                round(&[parse("", "select 1"), bind("a", "", &[]), sync()]),
                round(&[query("rollback")]),
                round(&[describe('P', "a"), sync()]),
                round(&[close('P', "a"), close('P', "never"), sync()]),
            ]
        }),
        script("cursors by sql and portals by protocol", {
            vec![
                round(&[query("begin; declare c cursor for select id from items order by id")]),
                round(&[execute("c", 2), describe('P', "c"), sync()]),
                round(&[query("fetch 2 from c"), query("close c"), query("commit")]),
            ]
        }),
        script("errors at every stage", {
            let rest = [bind("", "", &[]), execute("", 0), sync()];
            vec![
                round(&pipeline(&[&[parse("", "selec 1")], &rest])),
                round(&pipeline(&[&[parse("", "select * from nowhere")], &rest])),
                round(&[parse("", "select $1::int"), bind("", "", &["x"]), execute("", 0), sync()]),
                round(&[parse("", "select $1::int"), bind("", "", &[]), execute("", 0), sync()]),
                round(&[parse("", "select $1::int"), bind("", "", &["1", "2"]), execute("", 0), sync()]),
                round(&[parse("", "select 1; select 2"), bind("", "", &[]), execute("", 0), sync()]),
                round(&pipeline(&[&select("select 1/0"), &[sync()]])),
                round(&[bind("", "unknown", &[]), execute("", 0), sync()]),
                round(&[describe('S', "unknown"), sync()]),
                round(&[describe('P', "unknown"), sync()]),
                round(&[execute("unknown", 0), sync()]),
                round(&[close('S', "unknown"), close('P', "unknown"), sync()]),
                round(&pipeline(&[&select("select 1"), &[sync()]])),
            ]
        }),
        script("errors within a transaction", {
            vec![
                round(&[query("begin")]),
                round(&pipeline(&[&select("select 1/0"), &[sync()]])),
                round(&pipeline(&[&select("select 1"), &[sync()]])),
                round(&[parse("s", "select 2"), sync()]),
                round(&[bind("", "s", &[]), execute("", 0), sync()]),
                round(&pipeline(&[&select("rollback"), &[sync()]])),
                round(&[parse("s", "select 2"), bind("", "s", &[]), execute("", 0), sync()]),
            ]
        }),
        script("a warning in a pipeline", {
            vec![round(&pipeline(&[&select("select shout('x')"), &select("commit"), &select("rollback"), &[sync()]]))]
        }),
    ]
}

fn pipelines() -> Vec<Script> {
    let insert = |n: &str| [parse("", "insert into scratch values ($1)"), bind("", "", &[n]), execute("", 0)];
    let count = || round(&[query("select count(*) from scratch")]);
    vec![
        script("five transactions in one write", {
            let one = |n: i32| pipeline(&[&select(&format!("select {n}")), &[sync()]]);
            vec![round(&(1..=5).flat_map(one).collect::<Vec<_>>())]
        }),
        script("an error in the third of five", {
            let one = |n: i32| pipeline(&[&select(&format!("select 1/({n} - 3)")), &[sync()]]);
            vec![round(&(1..=5).flat_map(one).collect::<Vec<_>>()), round(&[query("select 1")])]
        }),
        script("one implicit transaction", {
            vec![round(&pipeline(&[&insert("1"), &insert("2"), &insert("3"), &[sync()]])), count()]
        }),
        script("one implicit transaction that fails", {
            let failing = pipeline(&[&insert("1"), &insert("x"), &insert("3"), &[sync()], &insert("4"), &[sync()]]);
            vec![round(&failing), count()]
        }),
        script("sync, and the next parse in one write", {
            let tail = |sql| pipeline(&[&[sync()], &select(sql)]);
            vec![
                Step::Until(pipeline(&[&select("select 1"), &tail("select 2"), &[flush()]]).concat(), b'Z'),
                round_of(2, &pipeline(&[&tail("select 3"), &[sync()]])),
            ]
        }),
        script("queries among extended messages", {
            vec![
                round(&pipeline(&[&select("select 1"), &[query("select 2")], &select("select 3"), &[sync()]])),
                round_of(
                    1,
                    &pipeline(&[&select("select 1/0"), &[query("select 'skipped'")], &select("select 3"), &[sync()]]),
                ),
                round(&pipeline(&[&select("select 1"), &[query("select 1/0")], &select("select 3"), &[sync()]])),
                round(&pipeline(&[&insert("1"), &[query("select 1/0")], &insert("2"), &[sync()]])),
                count(),
            ]
        }),
        script("begin and commit in pipelines", {
            vec![
                round(&pipeline(&[&select("begin"), &insert("1"), &select("commit"), &[sync()]])),
                round(&pipeline(&[&select("begin"), &insert("x"), &select("commit"), &[sync()]])),
                round(&pipeline(&[&select("commit"), &[sync()]])),
                round(&pipeline(&[&select("begin"), &[sync()], &insert("2"), &[sync()], &select("commit"), &[sync()]])),
                round(&pipeline(&[&insert("5"), &select("begin"), &insert("6"), &[sync()]])),
                round(&[query("rollback")]),
                count(),
            ]
        }),
        script("a parse error in mid-pipeline", {
            let named = |name: &str, sql: &str| [parse(name, sql), bind("", name, &[]), execute("", 0)];
            vec![
                round(&pipeline(&[&named("a", "select 1"), &named("b", "selec"), &named("c", "select 3"), &[sync()]])),
                round(&[bind("", "a", &[]), execute("", 0), sync(), bind("", "b", &[]), execute("", 0), sync()]),
                round(&[bind("", "c", &[]), execute("", 0), sync()]),
                round(&pipeline(&[&named("b", "select 2"), &named("c", "select 3"), &[sync()]])),
            ]
        }),
        script("describe at the end of a pipeline", {
            vec![
                round(&[parse("", "select 1"), bind("", "", &[]), execute("", 0), describe('P', ""), sync()]),
                round(&[parse("d", "select 1"), describe('S', "d"), sync(), describe('S', "d"), sync()]),
                round(&[bind("q", "d", &[]), describe('P', "q"), sync()]),
            ]
        }),
        script("bytes behind an error", {
            vec![
                until(b'E', &[parse("", "selec"), flush()]),
                round(&[parse("", "select 1"), describe('S', ""), close('S', ""), sync()]),
                round(&pipeline(&[&select("select 2"), &[sync()]])),
            ]
        }),
    ]
}

fn named() -> Vec<Script> {
    let run = |name: &str| [bind("", name, &[]), execute("", 0)];
    vec![
        script("statements over many transactions", {
            vec![
                round(&[parse("s", "select 's'"), sync()]),
                round(&[parse("t", "select 't', $1::int"), describe('S', "t"), sync()]),
                round(&pipeline(&[&run("s"), &[sync()]])),
                round(&[bind("", "t", &["5"]), execute("", 0), sync()]),
                round(&[describe('S', "s"), describe('S', "t"), sync()]),
                round(&pipeline(&[&run("s"), &run("s"), &[sync()], &run("s"), &[sync()]])),
                round(&[query("select 1")]),
                round(&pipeline(&[&[query("begin")], &run("s"), &[sync(), query("commit")]])),
                round(&[close('S', "s"), sync()]),
                round(&pipeline(&[&run("s"), &[sync()]])),
                round(&pipeline(&[&[parse("s", "select 'new s'")], &run("s"), &[sync()]])),
                round(&pipeline(&[&run("s"), &[sync()]])),
            ]
        }),
        script("the unnamed statement over many transactions", {
            vec![
                round(&[parse("", "select 'unnamed', $1::text"), sync()]),
                round(&[bind("", "", &["a"]), execute("", 0), sync()]),
                round(&[describe('S', ""), sync()]),
                round(&[bind("", "", &["b"]), execute("", 0), sync(), bind("", "", &["c"]), execute("", 0), sync()]),
                round(&[query("select 1")]),
                round(&pipeline(&[&run(""), &[sync()]])),
                round(&[parse("", "select 2"), sync()]),
                round(&[parse("", "selec"), sync()]),
                round(&pipeline(&[&run(""), &[sync()]])),
                round(&[parse("", "select 3"), sync()]),
                round(&[close('S', ""), sync()]),
                round(&[describe('S', ""), sync()]),
            ]
        }),
        script("the unnamed statement and a skipped parse", {
            vec![
                round(&[parse("", "select 'kept'"), sync()]),
                round(&[bind("", "unknown", &[]), parse("", "select 'skipped'"), sync()]),
                round(&pipeline(&[&run(""), &[sync()]])),
                round(&[bind("", "unknown", &[]), close('S', ""), sync()]),
                round(&pipeline(&[&run(""), &[sync()]])),
            ]
        }),
        script("duplicates", {
            vec![
                round(&[parse("s", "select 1"), sync()]),
                round(&[parse("s", "select 1"), sync()]),
                round(&[parse("s", "select 2"), sync()]),
                round(&[parse("s", "selec"), sync()]),
                round(&pipeline(&[&run("s"), &[sync()]])),
                round(&[parse("d", "select 3"), parse("d", "select 4"), bind("", "d", &[]), sync()]),
                round(&pipeline(&[&run("d"), &[sync()]])),
                round(&[
                    parse("e", "select 5"),
                    sync(),
                    parse("e", "select 6"),
                    sync(),
                    bind("", "e", &[]),
                    execute("", 0),
                    sync(),
                ]),
                round(&[query("begin"), parse("s", "select 7"), sync(), query("select 8"), query("rollback")]),
                round(&pipeline(&[&run("s"), &[sync()]])),
            ]
        }),
        script("closing and parsing in one pipeline", {
            vec![
                round(&pipeline(&[
                    &[parse("s", "select 1")],
                    &run("s"),
                    &[close('S', "s"), parse("s", "select 2")],
                    &run("s"),
                    &[sync()],
                ])),
                round(&pipeline(&[&run("s"), &[sync()]])),
                round(&pipeline(&[
                    &[close('S', "s"), bind("", "s", &[]), parse("s", "select 3"), sync()],
                    &run("s"),
                    &[sync()],
                ])),
                round(&[
                    close('S', "s"),
                    sync(),
                    close('S', "s"),
                    parse("s", "select 4"),
                    sync(),
                    bind("", "s", &[]),
                    execute("", 0),
                    sync(),
                ]),
            ]
        }),
        script("a close that is skipped", {
            vec![
                round(&[parse("s", "select 1"), sync()]),
                round(&pipeline(&[&select("select 1/0"), &[close('S', "s"), sync()]])),
                round(&pipeline(&[&run("s"), &[sync()]])),
            ]
        }),
        script("a parse in a transaction that is rolled back", {
            vec![
                round(&[query("begin"), parse("s", "select 1"), sync(), query("rollback")]),
                round(&pipeline(&[&run("s"), &[sync()]])),
                round(&pipeline(&[&[parse("t", "select 2")], &select("select 1/0"), &[sync()]])),
                round(&pipeline(&[&run("t"), &[sync()]])),
            ]
        }),
        script("odd names", {
            let mut steps = Vec::new();
            for name in ["S", "s", "with space", "quo\"te", "ümlaut", "carpool_1", "select", &"n".repeat(100)] {
                steps.push(round(&[parse(name, &format!("select '{}'", name.len())), sync()]));
                steps.push(round(&[bind("", name, &[]), execute("", 0), describe('S', name), sync()]));
            }
            for name in ["carpool_2", "carpool_", "carpool_1x"] {
                steps.push(round(&[close('S', name), sync()]));
            }
            steps
        }),
        script("the same text under many names", {
            let names = ["a", "b", "c"];
            let mut steps: Vec<_> = names.iter().map(|n| round(&[parse(n, "select 'same'"), sync()])).collect();
            steps.push(round(&[close('S', "b"), sync()]));
            steps.extend(names.iter().map(|n| round(&pipeline(&[&run(n), &[sync()]]))));
            steps.push(round(&[parse("x", "select 'same'"), parse("y", "select 'same'"), close('S', "x"), sync()]));
            steps.push(round(&pipeline(&[&run("y"), &[sync()]])));
            steps
        }),
        script("texts that differ only in parameter types", {
            vec![
                round(&[parse_typed("a", "select $1", &[23]), parse_typed("b", "select $1", &[25]), sync()]),
                round(&[bind("", "a", &["7"]), describe('P', ""), execute("", 0), sync()]),
                round(&[bind("", "b", &["7"]), describe('P', ""), execute("", 0), sync()]),
                round(&[parse("c", "select $1"), describe('S', "c"), sync()]),
            ]
        }),
        script("statements about tables that come and go", {
            vec![
                round(&[query("create table brief (a int)")]),
                round(&pipeline(&[&[parse("s", "select count(*) from brief")], &run("s"), &[sync()]])),
                round(&[query("drop table brief")]),
                round(&pipeline(&[&run("s"), &[sync()]])),
                round(&[close('S', "s"), parse("s", "select count(*) from brief"), sync()]),
                round(&[query("create table brief (a int)")]),
                round(&pipeline(&[&[parse("s", "select count(*) from brief")], &run("s"), &[sync()]])),
                round(&[query("drop table brief")]),
            ]
        }),
    ]
}

fn forgetting() -> Vec<Script> {
    let run = |name: &str| [bind("", name, &[]), execute("", 0)];
    let prepared = || round(&[parse("s", "select 's'"), parse("t", "select 't'"), sync()]);
    let mut scripts = Vec::new();
    for (name, forget) in [
        ("deallocate", "deallocate s"),
        ("deallocate prepare", "deallocate prepare \"s\""),
        ("deallocate unknown", "deallocate unknown"),
        ("deallocate all", "deallocate all"),
        ("deallocate with a comment", "/* x */ deallocate -- y\n s;"),
        ("deallocate and more", "deallocate s; select 1"),
        ("deallocate twice", "deallocate s; deallocate s"),
        ("deallocate all and an error", "deallocate all; select 1/0"),
        ("discard all", "discard all"),
        ("discard plans", "discard plans"),
        ("discard all and more", "discard all; select 1"),
    ] {
        let by_sql = pipeline(&[&[query(forget), parse("s", "select 's'")], &run("s"), &[sync()]]);
        let by_protocol = pipeline(&[&select(forget), &[parse("s", "select 's'")], &run("s"), &[sync()]]);
        let synced = pipeline(&[&select(forget), &[sync(), parse("s", "select 's'")], &run("s"), &[sync()]]);
        scripts.push(script(
            name,
            vec![
                prepared(),
                round(&[query(forget)]),
                round(&pipeline(&[&run("s"), &[sync()], &run("t"), &[sync()]])),
                round(&[parse("s", "select 'again'"), sync()]),
                round(&pipeline(&[&run("s"), &[sync()]])),
                round(&by_sql),
                round(&by_protocol),
                round(&pipeline(&[&run("s"), &[sync()], &run("t"), &[sync()]])),
                round(&synced),
                round(&[parse("forget", forget), sync()]),
                round(&pipeline(&[&run("forget"), &[sync()]])),
                round(&pipeline(&[&run("s"), &[sync()], &run("t"), &[sync()]])),
                round(&[query("begin"), query(forget), query("rollback")]),
                round(&pipeline(&[&run("s"), &[sync()], &run("t"), &[sync()]])),
            ],
        ));
    }
    scripts.push(script(
        "execute of statements of the protocol",
        vec![
            round(&[parse("s", "select 's', $1::int"), parse("S t", "select 't'"), sync()]),
            round(&[query("execute s(5)")]),
            round(&[query("EXECUTE \"S t\"; execute s (6); execute s(7 + 1)")]),
            round(&[query("explain (costs off) execute s(1)")]),
            round(&[query("execute s")]),
            round(&[query("execute unknown"), query("execute carpool_1"), query("execute \"S t\"")]),
            round(&[query("deallocate s; execute s(1)")]),
            round(&[query("execute s(1)")]),
            round(&[
                query("begin"),
                query("execute s(2)"),
                query("select 1/0"),
                query("execute s(2)"),
                query("rollback"),
            ]),
        ],
    ));
    scripts.push(script(
        "statements prepared by sql and by the protocol",
        vec![
            round(&[parse("s", "select 's'"), sync()]),
            round(&[query("prepare s as select 1")]),
            round(&[parse("", "prepare s as select 1"), bind("", "", &[]), execute("", 0), sync()]),
            round(&[query("begin")]),
            round(&[query("prepare q as select 'q'")]),
            round(&pipeline(&[&run("q"), &[describe('S', "q"), sync()]])),
            round(&[query("savepoint a")]),
            round(&[parse("q", "select 'other'"), sync()]),
            round(&[query("rollback to a; execute q")]),
            round(&[close('S', "q"), sync()]),
            round(&[query("execute q")]),
            round(&[query("rollback to a; prepare q as select 'again'; execute q; deallocate q")]),
            round(&pipeline(&[&[parse("q", "select 'by protocol'")], &run("q"), &[sync()]])),
            round(&[query("execute q; deallocate q; commit")]),
        ],
    ));
    scripts.push(script(
        "a deallocate that is prepared before what it names",
        vec![
            round(&[parse("d", "deallocate s"), sync()]),
            round(&pipeline(&[&run("d"), &[sync()]])),
            prepared(),
            round(&pipeline(&[&run("d"), &[sync()]])),
            round(&pipeline(&[&run("s"), &[sync()], &run("t"), &[sync()]])),
        ],
    ));
    scripts.push(script(
        "deallocate all, executed behind another portal",
        vec![
            prepared(),
            round(&[query("begin"), parse("d", "deallocate all"), sync()]),
            round(&pipeline(&[
                &[
                    bind("p", "d", &[]),
                    bind("q", "t", &[]),
                    execute("q", 0),
                    execute("p", 0),
                    parse("s", "select 'other'"),
                ],
                &run("s"),
                &[sync(), query("commit")],
            ])),
            round(&pipeline(&[&run("s"), &[sync()], &run("t"), &[sync()]])),
        ],
    ));
    scripts.push(script(
        "deallocate all that is bound and not executed",
        vec![
            prepared(),
            round(&[parse("d", "deallocate all"), bind("", "d", &[]), sync()]),
            round(&pipeline(&[&run("s"), &[sync()], &run("t"), &[sync()]])),
        ],
    ));
    scripts
}

fn settings() -> Vec<Script> {
    let run = |name: &str| [bind("", name, &[]), execute("", 0)];
    let show = "select current_setting('TimeZone'), current_setting('DateStyle'), timestamptz '2024-07-01 12:00+00', \
                interval '1 day 02:03:04', current_setting('application_name')";
    let mut scripts = Vec::new();
    for (name, sql) in [
        ("time zone", "set timezone = 'America/New_York'"),
        ("time zone, the standard's way", "set time zone 'Asia/Kolkata'"),
        ("time zone, offset", "set time zone -3.5"),
        ("time zone, interval", "set time zone interval '-08:30' hour to minute"),
        ("time zone, posix", "set timezone = 'FOO+3BAR'"),
        ("time zone, default", "set time zone default"),
        ("date style", "set datestyle = 'SQL, DMY'"),
        ("date style, one half", "set datestyle to german"),
        ("interval style", "set intervalstyle = 'iso_8601'"),
        ("application name", "set application_name = 'it''s \\ \"me\"'"),
        ("application name, not ascii", "set application_name = 'größe'"),
        ("several", "set timezone = 'CET'; set datestyle = 'Postgres, MDY'; set application_name = 'several'"),
        ("session", "set session timezone to 'CET'"),
        ("by function", "select set_config('timezone', 'CET', false)"),
        ("by update of the view", "update pg_settings set setting = 'CET' where name = 'TimeZone'"),
        ("in a block", "do $$ begin set timezone = 'CET'; end $$"),
        ("backslashes", "set standard_conforming_strings = off; set timezone = 'CET'"),
        ("unknown", "set timezone = 'Nowhere/Land'"),
        ("with an error behind", "set timezone = 'CET'; select 1/0"),
        ("local", "begin; set local timezone = 'CET'; select now() is null; commit"),
        ("rolled back", "begin; set timezone = 'CET'; set datestyle = german; rollback"),
        ("set and reset", "set timezone = 'CET'; reset timezone; set datestyle = german; reset datestyle"),
    ] {
        scripts.push(script(
            name,
            vec![
                round(&[query(show)]),
                round(&[query(sql)]),
                round(&[query(show)]),
                round(&pipeline(&[&select(show), &[sync()]])),
                round(&[query("set timezone to 'UTC'")]),
                round(&[query(show)]),
                round(&[query(sql), query(show), query("begin"), query(show), query("commit")]),
                round(&[query("begin")]),
                round(&[query(sql)]),
                round(&[query(show)]),
                round(&[query("rollback")]),
                round(&[query(show)]),
                round(&pipeline(&[&select(sql), &[sync()]])),
                round(&[query(show)]),
            ],
        ));
    }
    scripts.push(script(
        "in transactions with savepoints",
        queries(&[
            "set timezone = 'CET'",
            "begin",
            "set timezone = 'EET'",
            "savepoint a",
            "set local timezone = 'WET'",
            "select now() is null",
            "rollback to a",
            "show timezone",
            "commit",
            "show timezone",
            "begin; set local datestyle = german",
            "select date '2024-02-03'",
            "commit",
            "select date '2024-02-03'",
        ]),
    ));
    scripts.push(script(
        "client encodings",
        vec![
            round(&[query("set client_encoding = 'latin1'")]),
            round(&[message('Q', b"select 'caf\xe9', length('caf\xe9')\0")]),
            round(&[query("set names 'utf8'")]),
            round(&[query("select 'café', length('café')")]),
            round(&[query("set client_encoding to sql_ascii"), query("select 'café'"), query("reset client_encoding")]),
            round(&[query("select 'café'")]),
        ],
    ));
    scripts.push(script(
        "statements read under other settings than they run under",
        vec![
            round(&[query("set datestyle = 'ISO, MDY'"), parse("m", "select date '01/02/2024'"), sync()]),
            round(&[query("set datestyle = 'ISO, DMY'"), parse("d", "select date '01/02/2024'"), sync()]),
            round(&pipeline(&[&run("m"), &[sync()], &run("d"), &[sync()]])),
            round(&[query("set datestyle = 'ISO, MDY'")]),
            round(&pipeline(&[&run("m"), &[sync()], &run("d"), &[sync()]])),
            round(&[parse("z", "select timestamptz '2024-01-01 00:00'"), sync()]),
            round(&[query("set timezone = 'Asia/Tokyo'")]),
            round(&pipeline(&[&run("z"), &[sync()]])),
            round(&[parse("", "select timestamptz '2024-01-01 00:00', date '02/01/2024'"), sync()]),
            round(&pipeline(&[&run(""), &[sync()]])),
        ],
    ));
    scripts.push(script(
        "read only by default",
        queries(&[
            "set default_transaction_read_only = on",
            "insert into scratch values (1)",
            "show transaction_read_only",
            "set default_transaction_read_only = off",
            "insert into scratch values (1)",
        ]),
    ));
    let with = |name, parameters: &[(&'static str, &'static str)], texts: &[&str]| Script {
        name,
        parameters: parameters.to_vec(),
        steps: queries(texts),
    };
    scripts.push(with(
        "startup parameters",
        &[("TimeZone", "Europe/Berlin"), ("datestyle", "german"), ("application_name", "app"), ("geqo", "off")],
        &[show, "show geqo", "set timezone = 'UTC'", show, "show geqo"],
    ));
    scripts.push(with(
        "startup options",
        &[("options", "-c statement_timeout=77s --search_path=elsewhere,public -cmy.own=a\\ b -c TimeZone=CET")],
        &[
            "show statement_timeout",
            "select hello()",
            "show search_path",
            "show my.own",
            show,
            "begin; select hello()",
            "commit",
        ],
    ));
    scripts.push(with(
        "startup with a list that needs its quotes",
        &[("search_path", "\"$user\", elsewhere, \"Odd, one\"")],
        &["show search_path", "select current_schemas(false)", "select hello()"],
    ));
    scripts.push(with(
        "startup with an encoding",
        &[("client_encoding", "LATIN1")],
        &["show client_encoding", "select chr(233)", "set client_encoding = 'utf8'", "select chr(233)"],
    ));
    scripts
}

fn bulk() -> Vec<Script> {
    let large = "x".repeat(300_000);
    vec![
        script(
            "large rows",
            queries(&[
                "select repeat('x', 300000), repeat('Z', 100000)",
                "select repeat('Z', g) from generate_series(1, 300) g",
                "select repeat(E'Z\\n', 40000), null, repeat('I', 70000) from generate_series(1, 3)",
            ]),
        ),
        script(
            "many rows",
            queries(&["select g, 'row ' || g from generate_series(1, 5000) g", "select from generate_series(1, 3000)"]),
        ),
        script(
            "large parameters",
            vec![
                round(&[
                    parse("s", "select length($1), md5($2)"),
                    bind("", "s", &[&large, &large]),
                    execute("", 0),
                    sync(),
                ]),
                round(&[bind("", "s", &[&large, "small"]), execute("", 0), sync()]),
                round(&[bind_all("", "s", &[1], &[Some(large.as_bytes()), None], &[1]), execute("", 0), sync()]),
            ],
        ),
        script(
            "large texts",
            vec![
                round(&[query(&format!("select length('{large}')"))]),
                round(&[parse("", &format!("select length('{large}')")), bind("", "", &[]), execute("", 0), sync()]),
                round(&[query(&format!("select length('{large}'); select 1/0"))]),
                round(&[query(&format!("{large} is no sql"))]),
            ],
        ),
        script("a large error", queries(&["do $$ begin raise exception '%', repeat('E', 100000); end $$", "select 1"])),
        script("a large notice", queries(&["do $$ begin raise notice '%', repeat('N', 100000); end $$", "select 1"])),
        script("large copies", {
            let rows: String = (0..5000).map(|i| format!("{i}\trow {i} with Z\n")).collect();
            vec![
                round(&[
                    query("copy scratch from stdin"),
                    copy_data(&rows),
                    copy_done(),
                    query("select count(*) from scratch"),
                ]),
                round(&[query("copy scratch to stdout")]),
                round(&[
                    query("copy scratch from stdin"),
                    copy_data(&format!("bad{rows}")),
                    copy_done(),
                    query("select 1"),
                ]),
            ]
        }),
    ]
}
