//! Session state that functions change out of sight of the text.

use crate::harness::proxy::Proxy;
use crate::harness::raw::{bind, execute, parse, sync};
use crate::harness::{Carpool, Message, Postgres, Raw, Setup};

/// Two servers, or one for both clients.
fn start(lines: &str) -> Carpool {
    let carpool = Carpool::start(&Setup::default().database(lines));
    let mut client = carpool.client();
    for sql in [
        "create function sets(v text) returns int language plpgsql as $$begin
             perform set_config('work_mem', v, false); return 1; end$$",
        "create function pure(i int) returns int immutable language sql as 'select i'",
        "create function locks() returns int language plpgsql as
             $$begin perform pg_advisory_lock(7); return 1; end$$",
        "create function mine() returns bigint language sql as 'select lastval()'",
        "create sequence s start 50",
        "create table t (i int); create function trigger() returns trigger language plpgsql as $$begin
             perform set_config('work_mem', '777kB', false); return new; end$$;
         create trigger trigger before insert on t for each row execute function trigger()",
    ] {
        succeed(&client.query(sql));
    }
    carpool
}

fn succeed(replies: &[Message]) {
    assert!(replies.iter().all(|m| m.tag != b'E'), "{replies:?}");
}

fn work_mem(client: &mut Raw) -> String {
    client.value("show work_mem")
}

#[test]
fn settings_of_functions_follow_their_client() {
    for lines in ["pool_size = 1", "pool_size = 2"] {
        let carpool = start(lines);
        let (mut one, mut other) = (carpool.client(), carpool.client());
        let default = work_mem(&mut other);
        for value in ["100kB", "200kB"] {
            succeed(&one.query(&format!("select sets('{value}')")));
            assert_eq!(work_mem(&mut other), default);
            assert_eq!(work_mem(&mut one), value);
        }
        one.send_all(&[parse("p", "select sets($1)"), sync()]);
        succeed(&one.until_ready());
        for value in ["300kB", "400kB"] {
            one.send_all(&[bind("", "p", &[value]), execute("", 0), sync()]);
            succeed(&one.until_ready());
            assert_eq!(work_mem(&mut other), default);
            assert_eq!(work_mem(&mut one), value);
        }
    }
}

/// No view of PostgreSQL lists parameters with a dot.
#[test]
fn own_parameters_that_functions_set_follow_their_client() {
    let tenant = |client: &mut Raw| client.value("select coalesce(current_setting('app.tenant', true), '')");
    for lines in ["pool_size = 1", "pool_size = 2"] {
        let carpool = start(lines);
        let (mut one, mut other) = (carpool.client(), carpool.client());
        for sql in [
            "create function enter(v text) returns void language plpgsql as
                 $$begin perform set_config('app.Tenant', v, false); end$$",
            "create function nested(v text) returns void language sql as 'select enter(v)'",
            "create function computed(n text, v text) returns void language plpgsql as
                 $$begin perform set_config(n, v, false); end$$",
        ] {
            succeed(&one.query(sql));
        }
        for (sql, kept) in [
            ("select enter('a')", "a"),
            ("select nested('b')", "b"),
            ("do $$begin set app.tenant = 'c'; end$$", "c"),
            ("do $$begin perform nested('d'); end$$", "d"),
            ("select set_config(n, 'e', false) from (values ('app.tenant')) v (n)", "e"),
            ("begin; select nested('f'); rollback", "e"),
            ("select set_config('app.tenant', 'g', true)", "e"),
            ("select computed('app.tenant', 'h')", "h"),
            ("reset all", ""),
        ] {
            succeed(&one.query(sql));
            assert_eq!(tenant(&mut other), "", "{lines}, {sql}");
            assert_eq!(tenant(&mut one), kept, "{lines}, {sql}");
        }
        succeed(&one.query("do $$begin set app.block = 'y'; end$$"));
        succeed(&one.query("prepare q as select set_config('app.prepared', 'z', false)"));
        succeed(&one.query("execute q; deallocate q"));
        for name in ["app.block", "app.prepared"] {
            assert_eq!(other.value(&format!("select coalesce(current_setting('{name}', true), '')")), "", "{name}");
        }
        assert_eq!(one.value("show app.block"), "y");
        succeed(&one.query("set app.empty = ''"));
        assert_eq!(one.value("show app.empty"), "");
        // Nothing in the functions' sources has this one's name: it is lost, but nobody else gets it.
        succeed(&one.query("select computed('app.unseen', 'x')"));
        assert_eq!(other.value("select coalesce(current_setting('app.unseen', true), '')"), "");
    }
}

#[test]
fn what_functions_leave_pins() {
    let carpool = start("pool_size = 2");
    let (mut one, mut other) = (carpool.client(), carpool.client());
    let pid = one.value("select pg_backend_pid() + 0 * locks()");
    for _ in 0..2 {
        assert_ne!(other.value("select pg_backend_pid()"), pid);
        assert_eq!(one.value("select pg_backend_pid()"), pid);
    }
    one.query("select pg_advisory_unlock_all()");
    other.query("begin");
    let free = other.value("select pg_backend_pid()");
    one.query("begin");
    assert_ne!(one.value("select pg_backend_pid()"), free, "nobody waits");
}

/// Asked once, then known; and asked anew when it has changed.
#[test]
fn a_function_that_is_replaced_is_asked_about_anew() {
    let carpool = start("pool_size = 1");
    let (mut one, mut other) = (carpool.client(), carpool.client());
    let default = work_mem(&mut other);
    for _ in 0..2 {
        assert_eq!(one.value("select pure(1)"), "1");
        assert_eq!(work_mem(&mut other), default);
    }
    let replaced = |security: &str| {
        format!(
            "create or replace function pure(i int) returns int volatile language plpgsql {security} as $$begin
                 perform set_config('work_mem', '555kB', false); return i; end$$"
        )
    };
    // In one text with its use, and before.
    succeed(&one.query(&format!("{}; select pure(1)", replaced(""))));
    assert_eq!(work_mem(&mut other), default);
    assert_eq!(work_mem(&mut one), "555kB");
    succeed(&other.query("select pure(2)"));
    assert_eq!(work_mem(&mut other), "555kB");
    succeed(&other.query("reset work_mem"));
    succeed(&other.query("begin"));
    succeed(&other.query(&replaced("security definer")));
    succeed(&other.query("select pure(2)"));
    succeed(&other.query("commit"));
    succeed(&one.query("reset work_mem"));
    assert_eq!((work_mem(&mut one), work_mem(&mut other)), (default, "555kB".into()));
}

#[test]
fn a_function_that_reads_sequence_values_pins() {
    let carpool = start("pool_size = 2");
    let (mut one, mut other) = (carpool.client(), carpool.client());
    assert_eq!(one.value("begin; select nextval('s')"), "50");
    assert_eq!(one.value("select mine()"), "50");
    succeed(&one.query("commit"));
    for _ in 0..3 {
        succeed(&other.query("select nextval('s')"));
        assert_eq!(one.value("select mine()"), "50");
    }
}

#[test]
fn triggers_are_seen_if_strict() {
    let carpool = start("pool_size = 1\nstrict_session_state = true");
    let (mut one, mut other) = (carpool.client(), carpool.client());
    let default = work_mem(&mut other);
    succeed(&one.query("insert into t values (1)"));
    assert_eq!(work_mem(&mut other), default);
    assert_eq!(work_mem(&mut one), "777kB");
}

/// A C function's variables live as long as its backend: the client keeps it, and nobody gets it afterwards.
#[test]
fn a_c_function_keeps_its_server_and_ends_it() {
    let postgres = Postgres::shared();
    let database = postgres.new_database();
    // Any volatile function in C that no extension owns.
    postgres.sql(
        &database,
        "create function tick() returns timestamptz volatile language internal as 'clock_timestamp';
         create function handler() returns language_handler language c as '$libdir/plpgsql', 'plpgsql_call_handler';
         create function check_it(oid) returns void volatile strict language c as '$libdir/plpgsql', 'plpgsql_validator'",
    );
    let carpool = Carpool::before(postgres, &database, &Setup::default().database("pool_size = 2"));
    let (mut one, mut other) = (carpool.client(), carpool.client());
    let pid = one.value("select pg_backend_pid()");
    succeed(&one.query("select check_it(null), tick()"));
    assert_eq!(one.value("select pg_backend_pid()"), pid);
    succeed(&one.query("discard all"));
    for _ in 0..3 {
        assert_ne!(other.value("select pg_backend_pid()"), pid);
        assert_eq!(one.value("select pg_backend_pid()"), pid);
    }
    drop(one);
    let gone = format!("select count(*) from pg_stat_activity where pid = {pid}");
    crate::harness::eventually("its backend ends", || (postgres.sql("postgres", &gone) == "0").then_some(()));
}

#[test]
fn the_seed_stays_with_its_client() {
    let carpool = start("pool_size = 2");
    let (mut one, mut other) = (carpool.client(), carpool.client());
    one.query("select setseed(0.5)");
    let first = one.value("select random()");
    other.query("select random()");
    one.query("select setseed(0.5)");
    other.query("select random()");
    assert_eq!(one.value("select random()"), first);
}

/// Descriptors of large objects don't outlive their transaction, on any connection.
#[test]
fn large_objects_need_nothing() {
    let carpool = start("pool_size = 1");
    let (mut one, mut other) = (carpool.client(), carpool.client());
    succeed(&one.query("begin; select lo_creat(-1)"));
    let object = one.value("select lo_creat(-1)");
    let descriptor = one.value(&format!("select lo_open({object}, 131072)"));
    succeed(&one.query(&format!("select lowrite({descriptor}, 'x')")));
    succeed(&one.query("commit"));
    assert_eq!(one.error(&format!("select lowrite({descriptor}, 'x')")), "42704");
    assert_eq!(other.value("select 1"), "1", "nobody keeps the server");
}

/// Temporary functions pin, like temporary tables.
#[test]
fn temporary_functions_stay() {
    let carpool = start("pool_size = 2");
    let (mut one, mut other) = (carpool.client(), carpool.client());
    succeed(&one.query("create function pg_temp.f() returns int language sql as 'select 9'"));
    for _ in 0..3 {
        succeed(&other.query("select 1"));
        assert_eq!(one.value("select pg_temp.f()"), "9");
    }
    assert_eq!(other.error("select pg_temp.f()"), "3F000");
}

/// How many questions Carpool asks for ten transactions, each run alone.
fn questions_for_ten(lines: &str, sql: &str) -> usize {
    let postgres = Postgres::shared();
    let database = postgres.new_database();
    postgres.sql(
        &database,
        "create table t (i int); insert into t values (1); create function f() returns int language sql as 'select 1';
         create function g() returns int immutable language sql as 'select 1'",
    );
    let proxy = Proxy::start(postgres.port, usize::MAX);
    let lines = format!("pool_size = 1\nport = {}\n{lines}", proxy.port);
    let carpool = Carpool::before(postgres, &database, &Setup::default().database(&lines));
    let mut client = carpool.client();
    for _ in 0..10 {
        succeed(&client.query(sql));
    }
    // Behind the last question.
    succeed(&client.query("begin"));
    proxy.questions()
}

#[test]
fn what_is_asked_for_what() {
    let strict = "strict_session_state = true";
    for (lines, sql, questions) in [
        ("", "select count(*), lower('a') from t where i in (1, 2)", 0),
        ("", "update t set i = i + 1; insert into t (i) values (2)", 0),
        ("", "select f()", 10),
        (strict, "begin; set local work_mem = '1MB'; commit", 0),
        (strict, "select i from t", 10),
        (strict, "begin; update t set i = 2; update t set i = 3; commit", 10),
    ] {
        assert_eq!(questions_for_ten(lines, sql), questions, "{lines} {sql}");
    }
    // The next call may come before the answer does.
    let asked = questions_for_ten("", "select g()");
    assert!((1..=2).contains(&asked), "{asked}");
}
