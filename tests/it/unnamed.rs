//! `reuse_unnamed_statements`: PostgreSQL parses a text once per connection, whatever its clients' drivers send.

use crate::harness::console::{rows, value};
use crate::harness::raw::{bind, close, describe, execute, parse, sync, tags};
use crate::harness::{Carpool, Message, Postgres, Raw, Setup};

fn start(lines: &str) -> (&'static Postgres, Carpool) {
    let postgres = Postgres::shared();
    let database = postgres.new_database();
    postgres.sql(&database, "create table items as select i as id from generate_series(1, 3) i");
    let setup = Setup::default().database(&format!("pool_size = 1\nmax_pinned = 0\n{lines}"));
    (postgres, Carpool::before(postgres, &database, &setup))
}

/// What drivers send for a query with parameters, where they keep no statements.
fn run(client: &mut Raw, text: &str, values: &[&str]) -> Vec<Message> {
    client.send_all(&[parse("", text), bind("", "", values), describe('P', ""), execute("", 0), sync()]);
    client.until_ready()
}

/// Parse messages from clients, and to servers, that were of statements with names.
fn parses(carpool: &Carpool) -> [u64; 2] {
    let stats = rows(carpool, "SHOW STATS");
    let own = stats.iter().find(|row| value(row, "database") == carpool.database).unwrap();
    ["total_client_parse_count", "total_server_parse_count"].map(|name| value(own, name).parse().unwrap())
}

#[test]
fn a_text_is_parsed_once_per_server_for_all_clients() {
    let (_, carpool) = start("reuse_unnamed_statements = true");
    let mut clients: Vec<Raw> = (0..3).map(|_| carpool.client()).collect();
    for turn in 0..4 {
        for (number, client) in clients.iter_mut().enumerate() {
            let replies =
                run(client, "select id + $1::int from items where id = 2", &[&(turn * 10 + number).to_string()]);
            assert_eq!(tags(&replies), "12TDCZ");
            assert_eq!(replies[3].columns(), [Some((turn * 10 + number + 2).to_string())]);
            // One with its values written into it doesn't come again.
            let text = format!("value {turn} {number}");
            assert_eq!(run(client, &format!("select '{text}'"), &[])[3].columns(), [Some(text)]);
        }
    }
    // The first of the twelve was passed on as it was.
    assert_eq!(parses(&carpool), [11, 1]);
}

#[test]
fn off_by_default() {
    let (_, carpool) = start("");
    let mut client = carpool.client();
    for _ in 0..3 {
        assert_eq!(tags(&run(&mut client, "select id from items", &[])), "12TDDDCZ");
    }
    assert_eq!(parses(&carpool), [0, 0]);
}

/// A schema change that Carpool doesn't see: the text is parsed anew where that is no error of the client's
/// transaction, as it would be without a name.
#[test]
fn a_change_out_of_sight() {
    let (postgres, carpool) = start("reuse_unnamed_statements = true");
    let mut client = carpool.client();
    let all = "select * from items where id = $1::int";
    for _ in 0..3 {
        assert_eq!(run(&mut client, all, &["2"])[3].columns().len(), 1);
    }
    postgres.sql(&carpool.database, "alter table items add column name text default 'new'");
    let replies = run(&mut client, all, &["2"]);
    assert_eq!(tags(&replies), "12TDCZ");
    assert_eq!(replies[3].columns(), [Some("2".to_owned()), Some("new".to_owned())]);
    // In a transaction it is an error, as for any prepared statement, and none the next time.
    postgres.sql(&carpool.database, "alter table items add column more text");
    client.query("begin");
    let replies = run(&mut client, all, &["2"]);
    assert_eq!((tags(&replies).as_str(), replies[1].field('C').as_deref()), ("1EZ", Some("0A000")));
    client.query("rollback");
    let replies = run(&mut client, all, &["2"]);
    assert_eq!((tags(&replies).as_str(), replies[3].columns().len()), ("12TDCZ", 3));
    // A table that is gone.
    postgres.sql(&carpool.database, "drop table items");
    let replies = run(&mut client, all, &["2"]);
    assert_eq!(replies.iter().find(|m| m.tag == b'E').unwrap().field('C').as_deref(), Some("42P01"));
}

/// Clients whose settings read the same text otherwise don't share it.
#[test]
fn each_reads_by_its_own_settings() {
    let (_, carpool) = start("reuse_unnamed_statements = true");
    let database = carpool.database.as_str();
    let login =
        |style| Raw::login_with(carpool.port, &[("user", "postgres"), ("database", database), ("DateStyle", style)]);
    let mut clients = [login("ISO, DMY"), login("ISO, MDY")];
    for _ in 0..4 {
        for (client, wanted) in clients.iter_mut().zip(["2024-02-01", "2024-01-02"]) {
            let replies = run(client, "select '01/02/2024'::date::text", &[]);
            assert_eq!(replies[3].columns(), [Some(wanted.to_owned())]);
        }
    }
    assert_eq!(parses(&carpool), [6, 2]);
}

/// The names in a table, by a statement that is parsed now.
fn read_anew(client: &mut Raw, name: &str) -> Vec<Option<String>> {
    let parse = parse(name, "select name from items");
    client.send_all(&[close('S', name), parse, bind("", name, &[]), execute("", 0), sync()]);
    client.until_ready().iter().filter(|m| m.tag == b'D').flat_map(Message::columns).collect()
}

/// A table that hides another of the same name: what was prepared before reads that other one, so nothing of it may be
/// taken for a statement that is parsed now.
#[test]
fn what_is_parsed_now_reads_the_tables_of_now() {
    let postgres = Postgres::shared();
    let database = postgres.new_database();
    postgres.sql(
        &database,
        "create schema before; create table items as select 'public' as name; create function make() returns void language plpgsql
         as $$ begin create temp table items as select 'new' as name; end $$",
    );
    for hide in [
        "create temp table items (name text); insert into items values ('new')",
        "create temp table items as select 'new' as name",
        "select 'new' as name into temp items",
        "do $$ begin create temp table items as select 'new' as name; end $$",
        "select make()",
        "create table before.items as select 'new' as name",
        "select 'new' as name into before.items",
        "do $$ begin create table before.items as select 'new' as name; end $$",
    ] {
        for lines in ["", "reuse_unnamed_statements = true"] {
            let setup = Setup::default().database(&format!("pool_size = 1\n{lines}"));
            let carpool = Carpool::before(postgres, &database, &setup);
            let mut client = carpool.client();
            // So that the next one changes nothing in how names are looked up.
            for sql in ["create temp table other (a int)", "drop table other", "set search_path = before, public"] {
                client.query(sql);
            }
            for name in ["named", "named", "", ""] {
                assert_eq!(read_anew(&mut client, name), [Some("public".into())], "{name:?}");
            }
            client.query(hide);
            for name in ["named", ""] {
                assert_eq!(read_anew(&mut client, name), [Some("new".into())], "{name:?} after {hide}, {lines:?}");
            }
            client.query("drop table items");
        }
    }
}
