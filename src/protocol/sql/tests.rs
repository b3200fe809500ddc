use proptest::prelude::*;

use super::*;

fn tracked() -> Settings {
    Settings::from_reported([
        ("TimeZone", "UTC"),
        ("DateStyle", "ISO"),
        ("client_encoding", "UTF8"),
        ("standard_conforming_strings", "on"),
    ])
}

fn read_text(text: &str) -> Reading {
    read(text.as_bytes(), &tracked())
}

fn deallocate(name: &str) -> Effect {
    Effect::Deallocate(name.as_bytes().into())
}

#[test]
fn what_likely_advances_a_sequence() {
    for (text, likely) in [
        ("insert into t values (1)", true),
        ("  /* x */ INSERT into t default values", true),
        ("merge into t using u on a = b when not matched then insert values (1)", true),
        ("with x as (insert into t values (1) returning id) select * from x", true),
        ("with x as (select 1) select * from x", false),
        ("copy t from stdin", true),
        ("select NextVal('s')", true),
        ("select pg_catalog.setval('s', 1)", true),
        ("begin; select 1; insert into t values (1); commit", true),
        ("do 'begin null; end'", true),
        ("call p()", true),
        ("select nextvalue, xsetval from t", false),
        ("select 1 from inserts", false),
        ("update t set x = 1", false),
    ] {
        assert_eq!(read_text(text).advances == Advances::Likely, likely, "{text}");
    }
}

#[test]
fn effects() {
    for (text, want) in [
        ("select 1", Effect::None),
        ("DEALLOCATE ALL", Effect::ForgetAll),
        (" -- x\n/* a /* b */ */ deallocate prepare all;", Effect::ForgetAll),
        ("discard all ; ", Effect::ForgetAll),
        ("\x0b\x0cdiscard all; -- done", Effect::ForgetAll),
        ("DISCARD PLANS", Effect::None),
        ("discard /**/ Sequences;", Effect::ForgetSequences),
        ("discard sequences; select 1", Effect::Several),
        ("discard all x", Effect::None),
        ("deallocate Foo", deallocate("foo")),
        ("deallocate \"Fo\"\"o\"", deallocate("Fo\"o")),
        ("deallocate prepare s1;", deallocate("s1")),
        ("deallocate prepare", deallocate("prepare")),
        ("deallocate s1 s2", Effect::None),
        ("deallocate u&\"s1\"", Effect::None),
        ("select 1; discard all", Effect::Several),
        ("; discard all", Effect::Several),
        ("select '; discard all'", Effect::None),
        ("select $$;$$; select $a$; discard all $a$", Effect::None),
        ("select E'\\'; discard all'", Effect::None),
        ("deallocate s1; select 1", Effect::Several),
        ("deallocate", Effect::None),
        ("", Effect::None),
        ("copy t from stdin", Effect::CopyIn),
        ("/**/COPY t (a, b) FROM STDIN WITH (FORMAT csv)", Effect::CopyIn),
        ("copy t to stdout", Effect::None),
        ("select 1; copy t from stdin", Effect::Several),
        ("reset all", Effect::ResetAll),
        ("close all; reset all;", Effect::Several),
    ] {
        assert_eq!(read_text(text).effect, want, "{text}");
    }
}

#[test]
fn no_taint() {
    for text in [
        "select 1",
        "SET LOCAL x = 1",
        "set transaction read only",
        "/**/ set constraints all deferred",
        "SET TIME ZONE 'UTC'",
        "SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE",
        "SET SESSION TIME ZONE LOCAL",
        "set names 'UTF8'",
        "set timezone to 'UTC'",
        "SET SESSION DateStyle = 'ISO'",
        "reset timezone",
        "reset all",
        "select pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;",
        "select 'temp', \"temporary\" -- temp",
        "select temp from weather",
        "insert into temp values (1)",
        "create table template (i int)",
        "declare c cursor for select 1",
        "declare c cursor for select 1; select hold from t",
        "prepare transaction 'x'",
        "begin; set local x = 1; commit",
        "select set_config('TimeZone', 'CET', false)",
        "select pg_catalog . set_config ( 'timezone' , $1, false)",
        "select nextval('s'), currvalue, my_lastval()",
        "select pg_advisory_xact_lock(1), pg_try_advisory_xact_lock(2)",
        "select offset_limit, reset_config from t",
        "select setting from pg_settings",
        "select lo_open(1, 2)",
        "select '\\d+', E'it\\'s'",
        "settle",
    ] {
        assert_eq!(read_text(text).taint, Taints::NONE, "{text}");
    }
}

#[test]
fn what_may_advance_a_sequence() {
    for (text, want) in [
        ("", false),
        ("begin; set x = 1; SAVEPOINT a", false),
        ("/**/ Show x", false),
        ("select 1", true),
        ("begin; insert into t default values", true),
        ("with x as (select 1) select 1", true),
        ("beginning", true),
        ("(select 1)", true),
    ] {
        assert_eq!(read_text(text).advances != Advances::No, want, "{text}");
    }
}

#[test]
fn taints() {
    for (text, want) in [
        ("SET statement_timeout = 1", Taint::Named),
        ("sEt statement_timeout = 1", Taint::Named),
        ("set session geqo = off", Taint::Named),
        ("set a.b = 1", Taint::Named),
        ("set local.b = 1", Taint::Named),
        ("set session.b = 1", Taint::Named),
        ("set timezone.b = 1", Taint::Named),
        ("set time.b = 1", Taint::Named),
        ("set transaction /**/ . b = 1", Taint::Named),
        ("SET SCHEMA 'x'", Taint::Named),
        ("set search_path to x", Taint::Named),
        ("SET SEED TO 0.5", Taint::Unknown),
        ("SET XML OPTION CONTENT", Taint::Named),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", Taint::Setting),
        ("reset all; select 1", Taint::Setting),
        ("reset timezone.x", Taint::Named),
        ("reset geqo", Taint::Named),
        ("SET ROLE x", Taint::SessionUser),
        ("set session authorization x", Taint::SessionUser),
        ("reset session authorization", Taint::SessionUser),
        ("prepare s as select 1", Taint::SqlPrepare),
        ("PREPARE transaction AS select 1", Taint::SqlPrepare),
        ("-- c\nlisten x", Taint::Listen),
        ("begin; listen x; commit", Taint::Listen),
        (";;listen x", Taint::Listen),
        ("BEGIN; SET x = 1", Taint::Named),
        ("select ';'; set x = 1", Taint::Named),
        ("LOAD 'x'", Taint::Unknown),
        ("create temp table t(i int)", Taint::Temporary),
        ("create tEmP table t(i int)", Taint::Temporary),
        ("CREATE /**/ TEMPORARY view v", Taint::Temporary),
        ("create or replace temp view v as select 1", Taint::Temporary),
        ("create local temporary table t(i int)", Taint::Temporary),
        ("select 1 as i into Temp t", Taint::Temporary),
        ("create table pg_temp.t(i int)", Taint::Temporary),
        ("create table PG_temp.t(i int)", Taint::Temporary),
        ("create function \"pg_temp\".f() returns int", Taint::Temporary),
        ("declare c cursor with hold for select 1", Taint::HeldCursor),
        ("select Pg_Advisory_Lock(1)", Taint::AdvisoryLock),
        ("select pg_advisory_lock_shared(1)", Taint::AdvisoryLock),
        ("select pg_try_advisory_lock(1)", Taint::AdvisoryLock),
        ("select Set_Config('a', 'b', false)", Taint::Named),
        ("select \"set_config\"('a', 'b', false)", Taint::Named),
        ("with x as (select set_config('a', 'b', false)) select * from x", Taint::Named),
        ("update pg_settings set setting = 'x' where name = 'y'", Taint::Setting),
        ("select currval('s')", Taint::Sequences),
        ("select pg_catalog.\"lastval\"()", Taint::Sequences),
        ("prepare transaction 'LastVal'", Taint::Sequences),
        ("deallocate CARPOOL_5", Taint::SqlPrepare),
        ("select dblink_connect('x', 'y')", Taint::Lasting),
        ("select pg_backup_start('x')", Taint::Lasting),
    ] {
        assert_eq!(read_text(text).taint, want.into(), "{text}");
    }
}

#[test]
fn what_set_config_may_leave() {
    let mut unnamed = Taints::from(Taint::Setting);
    unnamed |= Taint::Session;
    for text in [
        "select set_config('timezone' || 'x', 'b', false)",
        "select set_config('time'\n'zone_x', 'b', false)",
        "select set_config($1, $2, false)",
        "select set_config($1, $2, $3)",
        "select set_config(n, v, is_local => true) from t",
        "select set_config(n, 'a\\', true), set_config(m, ', false)'",
        "select set_config(n, v",
        "select set_config(n, v); select f(1, 2, true)",
    ] {
        let reading = read_text(text);
        assert_eq!(reading.taint, unnamed, "{text}");
        assert!(reading.sets, "{text}");
    }
    for text in [
        "select set_config('app.tenant', $1, true)",
        "select set_config($1, $2, TRUE)",
        "select set_config('a.b', coalesce($1, ', false'), true), set_config('c.d', (select max(x, 1) from t), true)",
        "select \"set_config\" ( 'a' , array[1, 2]::text /* , false */, true )",
    ] {
        let reading = read_text(text);
        assert!(reading.taint.is_empty() && reading.sets, "{text}");
    }
    assert_eq!(read_text("select set_config('a', 'b', true), set_config('c.d', 'e', false)").names, ["c.d".into()]);
}

/// What they run isn't there to be read.
#[test]
fn anything_may_be_left_of_what_is_out_of_sight() {
    for text in
        ["do $$begin set x = 1; end$$", "call p()", "execute s", "select U&\"set\\005Fconfig\"('a', 'b', false)"]
    {
        assert_eq!(read_text(text).taint.and(Taints::ASKABLE), Taints::ASKABLE, "{text}");
    }
}

#[test]
fn names_of_parameters() {
    for (text, want) in [
        ("set Work_Mem = 1", "work_mem"),
        ("set session \"a\".B to 2", "a.b"),
        ("set schema 'x'", "search_path"),
        ("set xml option document", "xmloption"),
        ("reset lock_timeout", "lock_timeout"),
        ("select set_config('App.Tenant', $1, false)", "app.tenant"),
    ] {
        assert_eq!(read_text(text).names, [want.into()], "{text}");
    }
    assert!(read_text("set \"it's\" = 1").taint.has(Taint::Setting), "a name that can't be asked for");
}

#[test]
fn resets_of_one_parameter() {
    for (text, want) in [
        ("reset TimeZone", "timezone"),
        ("reset time zone", "timezone"),
        ("set timezone to default", "timezone"),
        ("set time zone local", "timezone"),
        ("set session work_mem = default", "work_mem"),
    ] {
        assert_eq!(read_text(text).defaults, [want.into()], "{text}");
    }
    let two = read_text("reset a; reset timezone; reset b; set timezone = 'CET'");
    assert_eq!(two.defaults, ["a".into(), "b".into()]);
    assert!(read_text("set timezone to 'default'").defaults.is_empty());
}

/// Of these the server says `SELECT`, not `CREATE`.
#[test]
fn what_may_create_a_table_from_rows() {
    for text in [
        "create table t as select 1 as a",
        "CREATE unlogged TABLE t AS VALUES (1)",
        "begin; create table t as execute s",
        "select 1 as a into t",
        "SELECT a INTO TABLE t FROM b",
        "select a\ninto t from b where c = '\\'",
        "with b as (select 1 as a) select a into t from b",
    ] {
        assert!(read_text(text).creates && !is_plain(text.as_bytes()), "{text}");
    }
    for text in
        ["select 1 as point_of_view", "insert into t values (1)", "select 'into' as a from t", "update t set a = 1"]
    {
        assert!(!read_text(text).creates, "{text}");
    }
    assert!(is_plain(b"insert into t values (1)"));
}

#[test]
fn what_may_end_a_pin() {
    for (text, want) in [
        ("drop table t", Taints::from(Taint::Temporary)),
        ("unlisten *", Taints::from(Taint::Listen).or(Taint::Channels.into())),
        ("close c", Taint::HeldCursor.into()),
        ("select pg_advisory_unlock(1)", Taint::AdvisoryLock.into()),
        ("discard temp", Taints::ASKABLE.or(Taint::Channels.into())),
        ("select 1", Taints::NONE),
    ] {
        assert_eq!(read_text(text).ends, want, "{text}");
    }
}

/// Where standard_conforming_strings may be off, what is hidden under one reading may be a statement under the
/// other.
#[test]
fn both_readings_of_backslashes_count() {
    for text in [
        r"select '\'; set x = 1; --'",
        r"select '\''; set x = 1; select '",
        r"select '\''; set x = 1; select '\''",
        "select E'a'\n'\\'', '\\'; set x = 1 --'",
        "select E'a' -- c\n  '\\'; listen y; --'; set x = 1",
    ] {
        assert_eq!(read_text(text).taint, Taint::Named.into(), "{text}");
    }
    assert_eq!(read_text(r"select '\''; discard all; select '").effect, Effect::Several);
    assert_eq!(read_text("select E'a'\n'\\'; listen y; --'").taint, Taints::NONE, "a continued E string is one");
    let sjis = tracked().with_reported("client_encoding", "SJIS");
    assert_eq!(read(b"select E'\x95\\'; set x = 1; --'", &sjis), Reading::unreadable());
    assert_eq!(read("select 'é\\'".as_bytes(), &tracked()).taint, Taints::NONE);
}

#[test]
fn what_changes_settings() {
    for text in [
        "set local timezone = 'UTC'",
        "SET TIME ZONE 'UTC'",
        "reset timezone",
        "discard all",
        "rollback",
        "COMMIT",
        "end",
        "abort",
        "call p()",
        "do 'begin end'",
        "select set_config('TimeZone', 'CET', true)",
        "select 1; set local x = 1",
        "prepare transaction 'x'",
    ] {
        assert!(read_text(text).sets, "{text}");
    }
    for text in ["select 1", "begin", "insert into t values (1)", "listen x", "deallocate all"] {
        assert!(!read_text(text).sets, "{text}");
    }
}

#[test]
fn a_reset_counts_at_the_end_only() {
    for (text, want) in [("reset all", true), ("select 1; reset all;", true), ("reset all; select 1", false)] {
        assert_eq!(read_text(text).resets, want, "{text}");
    }
}

#[test]
fn fast_path_functions() {
    assert_eq!(taint_of_function(952), Taints::NONE);
    assert_eq!(taint_of_function(3172), Taints::NONE);
    assert_eq!(taint_of_function(2078), Taints::ASKABLE);
}

#[test]
fn a_long_list_of_statements_is_read_to_its_end() {
    let text = "select ';';".repeat(2000) + "set x = 1";
    assert_eq!(read_text(&text).taint, Taint::Named.into());
}

/// Places where a keyword is not one.
fn hidden() -> impl Strategy<Value = String> {
    let inside = prop::sample::select(vec![
        "; set x = 1;",
        "; listen y;",
        ";DISCARD ALL;",
        "; deallocate s;",
        "create temp table t",
        ";copy t from stdin;",
        "; RESET ALL; ",
    ]);
    (inside, 0usize..9).prop_map(|(inside, place)| match place {
        0 => format!("'{inside}'"),
        1 => format!("'it''s {inside} '''"),
        2 => format!("E'\\'{inside}''\\\\'"),
        3 => format!("\"{inside}\"\"\""),
        4 => format!("$${inside}$$"),
        5 => format!("$q${inside} $$ $r$ $q$"),
        6 => format!("/* {inside} /* */ {inside} */ 1"),
        7 => format!("1 --{inside}\n"),
        _ => format!("U&'{inside}'"),
    })
}

/// What may stand in a text that looks plain at first sight.
fn nearly_plain() -> impl Strategy<Value = String> {
    let parts = [
        "a",
        "_b",
        " ",
        " ",
        "\n",
        "'x'",
        "pgbench_accounts",
        "; ",
        ";",
        "pg_advisory_lock(1)",
        "SET_config('a','b',true)",
        "dblink_connect",
        "carpool_1",
        "temp",
        "create temp table",
        "into TEMP t",
        "tem",
        "update",
        "pg_settings",
        "U&\"x\"",
        "\\'",
        "--",
        "/*",
        "*/",
        "discard all",
        "pg_temp.x",
        "set_limit(1)",
        "listen x",
        "é",
    ];
    let starts = ["select ", "SELECT", "Insert\ninto", "update ", "delete ", "selects ", "set x=1", " select ", ""];
    let rest = prop::collection::vec(prop::sample::select(parts.to_vec()), 0..8);
    (prop::sample::select(starts.to_vec()), rest).prop_map(|(start, rest)| format!("{start}{}", rest.concat()))
}

#[test]
fn most_texts_are_plain() {
    for text in [
        "SELECT abalance FROM pgbench_accounts WHERE aid = 1;",
        "update t set a = $1 where b = 'c'",
        "INSERT INTO t (a, b) VALUES (1, 'x') RETURNING id; ",
        "delete from member_items",
        "select count(*) from t where i in (1, 2)",
    ] {
        assert!(is_plain(text.as_bytes()), "{text}");
    }
    for text in ["select f(1)", "select currval('s')", "select a.lower('x')", "select setseed(1)"] {
        assert!(!is_plain(text.as_bytes()), "{text}");
    }
}

proptest! {
    #[test]
    fn a_plain_text_has_no_effect(text in nearly_plain()) {
        if is_plain(text.as_bytes()) {
            let nothing = Reading { advances: plain_advances(text.as_bytes()), ..Reading::default() };
            prop_assert_eq!(read_closely(text.as_bytes(), &tracked()), nothing, "{}", text);
        }
    }

    #[test]
    fn keywords_inside_quotes_and_comments_are_not_seen(parts in prop::collection::vec(hidden(), 1..5)) {
        let text = format!("select {}", parts.join(", "));
        // A backslash makes for a second reading, which may well see more.
        let reading = read_statements(Lexer::new(text.as_bytes()), text.as_bytes(), &tracked());
        let nothing = Reading { advances: Advances::Maybe, ..Reading::default() };
        prop_assert_eq!(&reading, &nothing, "{}", text);
        if !text.contains('\\') {
            prop_assert_eq!(read_text(&text), nothing, "{}", text);
        }
    }

    #[test]
    fn keywords_behind_quotes_and_comments_are_seen(parts in prop::collection::vec(hidden(), 1..5), case: u32) {
        let keyword: String = "set x = 1"
            .chars()
            .enumerate()
            .map(|(i, c)| if case >> i & 1 == 1 { c.to_ascii_uppercase() } else { c })
            .collect();
        let text = format!("select {}; {keyword}", parts.join(", "));
        prop_assert_eq!(read_text(&text).taint != Taints::NONE, true, "{}", text);
    }

    #[test]
    fn calls_are_seen_in_any_case(case: u64, at in 0usize..CALLS.len()) {
        let call: String = String::from_utf8(CALLS[at].word.to_vec())
            .unwrap()
            .chars()
            .enumerate()
            .map(|(i, c)| if case >> (i % 64) & 1 == 1 { c.to_ascii_uppercase() } else { c })
            .collect();
        let text = format!("update t set a = b where {call}(1) is null");
        let reading = read_text(&text);
        let seen = reading.taint.or(reading.ends).without(Taint::Session.into());
        prop_assert_eq!(seen, CALLS[at].taint.into(), "{}", text);
    }

    #[test]
    fn lexing_ends_and_never_panics(text: Vec<u8>) {
        let _ = read(&text, &Settings::default());
        prop_assert!(Lexer::new(&text).count() <= text.len());
        prop_assert!(Lexer::with_backslashes(&text).count() <= text.len());
    }

    #[test]
    fn dense_quotes_and_comments(text in r#"[-/*'"$aE;\\ \n_&U]{0,60}"#) {
        let _ = read(text.as_bytes(), &tracked());
        prop_assert!(Lexer::new(text.as_bytes()).count() <= text.len());
    }
}

#[test]
fn what_acts_on_channels() {
    for (text, acts) in [
        ("listen a", true),
        ("unlisten *", true),
        ("NOTIFY a, 'x'", true),
        ("select pg_notify('a', 'x')", true),
        ("select * from pg_catalog.pg_listening_channels()", true),
        ("discard all", true),
        ("begin; notify a", true),
        ("do 'begin end'", true),
        ("call f()", true),
        ("execute s", true),
        ("deallocate all", false),
        ("select 1", false),
        ("select 'notify a'", false),
        ("select my_pg_notify('a')", false),
        ("close all", false),
    ] {
        assert_eq!(read_text(text).ends.has(Taint::Channels), acts, "{text}");
    }
    assert_eq!(read_text("listen a").taint, Taint::Listen.into());
    assert!(read_text("unlisten a").ends.has(Taint::Listen));
}

#[test]
fn what_runs_statements_by_name() {
    for (text, want) in [
        ("execute s(1)", Some("s")),
        ("explain (analyze) execute \"S\"", Some("S")),
        ("create table t as execute s", Some("s")),
        ("create temp table t (a) on commit drop as execute S (1) with no data", Some("s")),
        ("create view v as select 1 as execute_s", None),
        ("create trigger a before insert on t for each row execute function f()", None),
        ("create trigger a before insert on t for each row when (x is null) execute procedure f()", None),
        ("create table t as select 1; execute s", Some("s")),
        ("select 1 as a", None),
    ] {
        let reading = read_text(text);
        let named: Vec<_> = reading.mentions.iter().filter_map(|m| m.name.as_deref()).collect();
        let want: Vec<_> = want.iter().map(|name| name.as_bytes()).collect();
        assert_eq!(named, want, "{text}");
    }
}
