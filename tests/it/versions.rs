//! PostgreSQL 14 to 18, a quick pass each. The binaries are in `.cache/postgres/MAJOR/bin`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::drivers::{python, script};
use crate::harness::postgres::run;
use crate::harness::raw::{bind, describe, execute, message, parse, query, sync};
use crate::harness::{Carpool, Message, Postgres, Raw, Setup, eventually};

/// The server binaries of one major version, where PostgreSQL's user can read them.
pub fn binaries(major: u32) -> PathBuf {
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!(".cache/postgres/{major}"));
    let missing = "is missing: `make test` prepares it (tests/setup.sh)";
    assert!(found.join("bin/postgres").exists(), "{} {missing}", found.display());
    let readable = |dir: &Path| std::fs::metadata(dir).is_ok_and(|m| m.permissions().mode() & 0o005 == 0o005);
    if found.ancestors().all(readable) {
        return found.join("bin");
    }
    let copy = std::env::temp_dir().join(format!("carpool-test-{}-postgres-{major}", std::process::id()));
    run(Command::new("cp").arg("-a").arg(&found).arg(&copy));
    copy.join("bin")
}

fn succeed(replies: &[Message]) {
    assert!(replies.iter().all(|m| m.tag != b'E'), "{replies:?}");
}

fn row(replies: &[Message]) -> Vec<Option<String>> {
    replies.iter().find(|m| m.tag == b'D').unwrap_or_else(|| panic!("no row: {replies:?}")).columns()
}

fn simple_and_extended(client: &mut Raw) {
    assert_eq!(client.value("select 1 + 1"), "2");
    assert_eq!(client.error("select 1/0"), "22012");
    succeed(&client.query(
        "create table item(id int, name text); insert into item select i, 'item ' || i from generate_series(1, 100) i",
    ));
    client.send_all(&[parse("", "select name from item where id = $1"), bind("", "", &["7"]), execute("", 0), sync()]);
    assert_eq!(row(&client.until_ready()), [Some("item 7".into())]);
}

/// Changes of the table between two executions of one statement, by another client. One that is told each time
/// what rows look like, as libpq has it, gets the new columns; for one that isn't, nothing it was told changes.
fn prepared_with_ddl_between(one: &mut Raw, other: &mut Raw) {
    one.send_all(&[parse("s", "select * from item where id = $1"), sync()]);
    one.send_all(&[parse("t", "select name from item where id = $1"), sync()]);
    succeed(&one.until_ready());
    succeed(&one.until_ready());
    let all = |client: &mut Raw| {
        client.send_all(&[bind("", "s", &["7"]), describe('P', ""), execute("", 0), sync()]);
        row(&client.until_ready())
    };
    let name = |client: &mut Raw| {
        client.send_all(&[bind("", "t", &["7"]), execute("", 0), sync()]);
        row(&client.until_ready())
    };
    assert_eq!(all(one).len(), 2);
    assert_eq!(name(one), [Some("item 7".into())]);
    other.send_all(&[parse("s", "select 'mine', $1::text"), bind("", "s", &["x"]), execute("", 0), sync()]);
    assert_eq!(row(&other.until_ready()), [Some("mine".into()), Some("x".into())]);
    succeed(&other.query("alter table item add column more int default 5"));
    assert_eq!(all(one)[2], Some("5".into()));
    assert_eq!(name(one), [Some("item 7".into())]);
    succeed(&other.query("alter table item rename name to label; alter table item rename label to name"));
    assert_eq!((all(one).len(), name(one).len()), (3, 1));
}

fn copies(client: &mut Raw) {
    client.send_all(&[query("copy item from stdin"), message('d', b"200\tcopied\t1\n"), message('c', b"")]);
    succeed(&client.until_ready());
    let replies = client.query("copy (select name from item where id = 200) to stdout");
    assert!(replies.contains(&Message { tag: b'd', body: b"copied\n".to_vec() }), "{replies:?}");
    client.send_all(&[query("copy item from stdin"), message('f', b"no more\0")]);
    assert!(client.until_ready().iter().any(|m| m.field('C').as_deref() == Some("57014")));
}

fn settings(one: &mut Raw, other: &mut Raw) {
    succeed(&one.query("set timezone = 'Asia/Tokyo'; set datestyle = 'German'"));
    assert_eq!(other.value("show timezone"), "UTC");
    succeed(&one.query("set search_path = pg_catalog; set statement_timeout = '77s'"));
    assert_eq!(other.value("show search_path"), "\"$user\", public");
    assert_eq!(other.value("show statement_timeout"), "0");
    let state = "select concat_ws(' ', current_setting('TimeZone'), current_setting('DateStyle'), current_setting('search_path'),
                 current_setting('statement_timeout'))";
    assert_eq!(one.value(state), "Asia/Tokyo German, DMY pg_catalog 77s");
    succeed(&one.query("reset all"));
    assert_eq!(one.value("show timezone"), "UTC");
}

fn cursors(client: &mut Raw) {
    client.send_all(&[
        query("begin"),
        query("declare c cursor for select id from item order by id"),
        query("fetch 2 from c"),
    ]);
    succeed(&client.until_ready());
    succeed(&client.until_ready());
    assert_eq!(client.until_ready().iter().filter(|m| m.tag == b'D').count(), 2);
    client.send_all(&[parse("", "select id from item order by id"), bind("p", "", &[]), execute("p", 3), sync()]);
    assert_eq!(client.until_ready().iter().filter(|m| m.tag == b'D').count(), 3);
    client.send_all(&[execute("p", 2), sync()]);
    let replies = client.until_ready();
    assert_eq!(row(&replies), [Some("4".into())]);
    assert!(replies.iter().any(|m| m.tag == b's'), "{replies:?}");
    succeed(&client.query("commit"));
}

fn cancel(carpool: &Carpool, postgres: &Postgres, client: &mut Raw) {
    client.send(&query("select pg_sleep(600)"));
    let sleeping = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
    eventually("the query sleeps", || (postgres.sql("postgres", sleeping) == "1").then_some(()));
    Raw::cancel(carpool.port, &client.key);
    let replies = client.until_ready();
    assert!(replies.iter().any(|m| m.field('C').as_deref() == Some("57014")), "{replies:?}");
    assert_eq!(client.value("select 'alive'"), "alive");
}

/// Logins with each kind of secret, on both sides.
fn passwords(postgres: &Postgres) {
    let setup = Setup::pooler("auth_type = \"md5\"");
    let carpool = Carpool::before(postgres, &postgres.new_database(), &setup);
    for user in ["scram_user", "md5_user", "plain_user"] {
        let url = carpool.url(user, user);
        run(Command::new("psql").args(["-XAtc", "select 1", &url]));
        let wrong = Command::new("psql").args(["-XAtc", "select 1", &carpool.url(user, "wrong")]).output().unwrap();
        assert!(!wrong.status.success(), "{user} came in with a wrong password");
    }
}

fn passwords_by_scram(postgres: &Postgres) {
    let setup = Setup::pooler("auth_type = \"scram-sha-256\"");
    let carpool = Carpool::before(postgres, &postgres.new_database(), &setup);
    run(Command::new("psql").args(["-XAtc", "select 1", &carpool.url("scram_user", "scram_user")]));
    assert_eq!(postgres.backends(&carpool.database), 1);
}

fn check(major: u32) {
    let postgres = Postgres::start(&binaries(major), "timezone = 'UTC'\n");
    assert_eq!(postgres.version(), major);
    let database = postgres.new_database();
    let carpool = Carpool::before(&postgres, &database, &Setup::default().database("pool_size = 1"));
    let (mut one, mut other) = (carpool.client(), carpool.client());
    assert!(one.value("show server_version").starts_with(&major.to_string()));
    simple_and_extended(&mut one);
    prepared_with_ddl_between(&mut one, &mut other);
    copies(&mut one);
    settings(&mut one, &mut other);
    cursors(&mut one);
    cancel(&carpool, &postgres, &mut one);
    passwords(&postgres);
    passwords_by_scram(&postgres);
    assert_eq!(postgres.backends(&database), 1);
    drop(carpool);
    let carpool = Carpool::before(&postgres, &postgres.new_database(), &Setup::default().database("pool_size = 2"));
    let direct = format!("postgresql://postgres@127.0.0.1:{}/{}", postgres.port, carpool.database);
    // Carpool's protocol towards clients doesn't depend on the server's.
    script(python(), "protocol_3_2.py", &[&carpool.url("postgres", "unused"), &direct]);
}

#[test]
fn postgresql_14() {
    check(14);
}

#[test]
fn postgresql_15() {
    check(15);
}

#[test]
fn postgresql_16() {
    check(16);
}

#[test]
fn postgresql_17() {
    check(17);
}

#[test]
fn postgresql_18() {
    check(18);
}
