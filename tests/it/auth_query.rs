//! Users who are looked up in a database.

use std::collections::BTreeSet;

use crate::harness::raw::{V3_0, startup};
use crate::harness::{Carpool, Postgres, Raw, Setup, eventually};
use crate::startup::psql;

/// Users with a secret in the server alone; the name is the password.
const USERS: &str = "[users.scram_user]\n[users.md5_user]\n[users.plain_user]\n";

fn setup(pooler: &str) -> Setup {
    Setup::pooler(&format!("auth_user = \"postgres\"\n{pooler}")).sections(USERS)
}

fn whoami(carpool: &Carpool, user: &str, password: &str) -> Result<String, String> {
    psql(carpool.port, &carpool.database, user, password, "select current_user")
}

/// The words of a FATAL error.
fn fatal(result: Result<String, String>) -> String {
    let text = result.expect_err("refused");
    text.split_once("FATAL:").unwrap_or_else(|| panic!("{text}")).1.trim().to_owned()
}

fn reload(carpool: &Carpool) {
    let reloads = || carpool.log().matches("reloaded ").count();
    let before = reloads();
    carpool.signal("HUP");
    eventually("it is reloaded", || (reloads() > before).then_some(()));
}

/// A role of this test alone, with a password.
fn role(carpool: &Carpool, name: &str, options: &str) -> String {
    let name = format!("{}_{name}", carpool.database);
    Postgres::shared().sql("postgres", &format!("create role {name} {options}"));
    name
}

#[test]
fn each_kind_of_secret_by_each_way_to_log_in() {
    for (auth, through) in [
        ("plain", &["scram_user", "md5_user", "plain_user"][..]),
        ("md5", &["scram_user", "md5_user"]),
        ("scram-sha-256", &["scram_user"]),
    ] {
        let carpool = Carpool::start(&setup(&format!("auth_type = \"{auth}\"")));
        for user in through {
            for _ in 0..2 {
                assert_eq!(whoami(&carpool, user, user).as_deref(), Ok(*user), "{auth} {}", carpool.log());
            }
            let wrong = fatal(whoami(&carpool, user, "wrong"));
            assert_eq!(wrong, format!("password authentication failed for user \"{user}\""));
        }
    }
}

#[test]
fn whoever_may_not_log_in_looks_like_a_wrong_password() {
    let carpool = Carpool::start(&setup("auth_type = \"scram-sha-256\""));
    let users = [
        role(&carpool, "none", "login"),
        role(&carpool, "expired", "login password 'x' valid until '2001-01-01'"),
        role(&carpool, "nologin", "password 'x'"),
        format!("{}_unknown", carpool.database),
        // Neither the one that looks others up, nor anything that isn't just a name.
        "postgres".to_owned(),
        "x' or ''='".to_owned(),
        "%".to_owned(),
    ];
    let asked = |user: &str| {
        let mut raw = Raw::connect(carpool.port);
        raw.send(&startup(V3_0, &[("user", user), ("database", &carpool.database)]));
        let message = raw.read();
        (message.tag, message.body)
    };
    let real = role(&carpool, "real", "login password 'x'");
    for user in users {
        for password in ["x", "wrong", "md5"] {
            let expected = format!("password authentication failed for user \"{user}\"");
            assert_eq!(fatal(whoami(&carpool, &user, password)), expected);
        }
        assert_eq!(asked(&user), asked(&real), "{user}");
    }
    assert_eq!(whoami(&carpool, &real, "x"), Ok(real));
}

/// CVE-2015-6817: not even where nobody has to show who they are.
#[test]
fn whoever_is_not_found_is_not_the_one_who_looks_up() {
    let carpool = Carpool::start(&setup("auth_type = \"trust\""));
    let real = role(&carpool, "real", "login password 'x'");
    assert_eq!(whoami(&carpool, &real, ""), Ok(real));
    for user in [format!("{}_unknown", carpool.database), role(&carpool, "nologin", "password 'x'")] {
        let mut raw = Raw::connect(carpool.port);
        raw.send(&startup(V3_0, &[("user", &user), ("database", &carpool.database)]));
        let refused = raw.finish_login().unwrap_or_else(|| panic!("{user} is {}", raw.value("select current_user")));
        assert_eq!(refused.field('C').as_deref(), Some("28000"), "{refused:?}");
    }
}

/// With `auth_type` md5 the exchange depends on the secret: unknown users pretend to have one as the others.
#[test]
fn the_kind_of_an_unknown_users_secret_is_the_usual_one() {
    let carpool = Carpool::start(&setup("auth_type = \"md5\""));
    let real = role(&carpool, "real", "login password 'x'");
    let asked = |user: &str| {
        let mut raw = Raw::connect(carpool.port);
        raw.send(&startup(V3_0, &[("user", user), ("database", &carpool.database)]));
        raw.read().body[..4].to_vec()
    };
    assert_eq!(asked("nobody_at_all"), asked(&real));
    assert_eq!(asked("md5_user"), [0, 0, 0, 5]);
    assert_eq!(asked("nobody_else"), [0, 0, 0, 5]);
}

#[test]
fn a_user_made_or_removed_later() {
    let carpool = Carpool::start(&setup("auth_type = \"scram-sha-256\"\nauth_query_cache_ttl = 0.5"));
    let postgres = Postgres::shared();
    let name = format!("{}_late", carpool.database);
    fatal(whoami(&carpool, &name, "x"));
    postgres.sql("postgres", &format!("create role {name} login password 'x'"));
    eventually("the new user gets in", || whoami(&carpool, &name, "x").ok());
    postgres.sql("postgres", &format!("drop role {name}"));
    eventually("the user is gone", || whoami(&carpool, &name, "x").err());
}

#[test]
fn a_changed_password() {
    let postgres = Postgres::shared();
    for auth in ["plain", "scram-sha-256"] {
        let carpool = Carpool::start(&setup(&format!("auth_type = \"{auth}\"\nauth_query_cache_ttl = \"1d\"")));
        let name = role(&carpool, "changing", "login password 'old'");
        assert_eq!(whoami(&carpool, &name, "old"), Ok(name.clone()));
        postgres.sql("postgres", &format!("alter role {name} password 'new'"));
        let mut failures = 0;
        eventually("the new password", || {
            let result = whoami(&carpool, &name, "new");
            // A secret that is younger than a second isn't asked for again.
            failures += u32::from(result.is_err());
            result.ok()
        });
        fatal(whoami(&carpool, &name, "old"));
        // At a leisurely pace: in plain at once, by SCRAM at the second try.
        postgres.sql("postgres", &format!("alter role {name} password 'newer' valid until '2199-01-01'"));
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let first = whoami(&carpool, &name, "newer");
        assert_eq!(first.is_ok(), auth == "plain", "{auth}: {first:?}");
        assert_eq!(whoami(&carpool, &name, "newer"), Ok(name.clone()));
        // A reload forgets all.
        postgres.sql("postgres", &format!("alter role {name} password 'newest'"));
        reload(&carpool);
        assert_eq!(whoami(&carpool, &name, "newest"), Ok(name));
    }
}

/// A function that writes down each time that it is called, and in what kind of session.
fn counting(postgres: &Postgres, database: &str) {
    postgres.sql(
        database,
        "create schema lookups; grant usage on schema lookups to public;
         create table lookups.calls(name text, path text, application text, role text, read_only text);
         create function lookups.find(wanted text) returns table(name text, secret text) language sql security definer as $$
             insert into lookups.calls select wanted, current_setting('search_path'), current_setting('application_name'),
                 session_user, current_setting('default_transaction_read_only');
             select rolname::text, rolpassword from pg_catalog.pg_authid where rolname = wanted and rolcanlogin $$",
    );
}

const COUNTING: &str = "auth_query = \"select * from lookups.find($1)\"";

#[test]
fn nothing_of_the_client_is_in_the_session_that_looks_it_up() {
    let postgres = Postgres::shared();
    let carpool = Carpool::start(&setup(&format!("auth_type = \"trust\"\n{COUNTING}\nauth_query_cache_ttl = 0")));
    counting(postgres, &carpool.database);
    // CVE-2025-12819 and its like: as the client's user, as the very user that looks up, in every way.
    for user in ["app", "postgres"] {
        for hostile in [
            ("search_path", "evil, public"),
            ("options", "-c search_path=evil -c default_transaction_read_only=on"),
            ("application_name", "evil"),
            ("role", "none"),
        ] {
            let parameters = [("user", user), ("database", carpool.database.as_str()), hostile];
            let mut client = Raw::login_with(carpool.port, &parameters);
            client.query("set search_path = evil; set application_name = evil; set default_transaction_read_only = on");
        }
    }
    let seen = postgres.sql(&carpool.database, "select distinct path, application, role, read_only from lookups.calls");
    assert_eq!(seen, "\"$user\", public|carpool auth_query|postgres|off");
    let names = postgres.sql(&carpool.database, "select distinct name from lookups.calls order by 1");
    assert_eq!(names, "app\npostgres");
}

#[test]
fn answers_are_kept_and_shared() {
    let postgres = Postgres::shared();
    let carpool =
        Carpool::start(&setup(&format!("auth_type = \"scram-sha-256\"\n{COUNTING}\nauth_query_cache_ttl = \"1h\"")));
    counting(postgres, &carpool.database);
    let calls = || postgres.sql(&carpool.database, "select count(*) from lookups.calls").parse::<u32>().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert_eq!(whoami(&carpool, "scram_user", "scram_user").as_deref(), Ok("scram_user")));
        }
    });
    assert_eq!(calls(), 1);
    // Wrong passwords don't make it ask for each try either.
    for _ in 0..10 {
        fatal(whoami(&carpool, "scram_user", "wrong"));
    }
    let after = calls();
    assert!(after < 11, "{after}");
    reload(&carpool);
    whoami(&carpool, "scram_user", "scram_user").unwrap();
    assert!(calls() > after);
}

#[test]
fn a_cold_pool_full_of_logins_answers() {
    let carpool = Carpool::start(&setup("auth_type = \"scram-sha-256\"").database("pool_size = 1"));
    let users: Vec<_> = (0..8).map(|n| role(&carpool, &format!("u{n}"), "login password 'x'")).collect();
    std::thread::scope(|scope| {
        for user in users.iter().chain(&users) {
            let carpool = &carpool;
            scope.spawn(move || assert_eq!(whoami(carpool, user, "x").as_ref(), Ok(user), "{}", carpool.log()));
        }
    });
    assert!(Postgres::shared().backends(&carpool.database) <= 1);
}

#[test]
fn a_pool_whose_servers_are_all_kept_says_so_in_time() {
    let pooler = "auth_type = \"scram-sha-256\"\npool_mode = \"session\"\nquery_wait_timeout = 0.5";
    let carpool = Carpool::start(&setup(pooler).database("pool_size = 2"));
    let holder = role(&carpool, "holder", "login password 'x'");
    let url = carpool.url(&holder, "x");
    let hold = |_| {
        let mut psql = std::process::Command::new("psql");
        psql.args(["-XAtq", &url, "-c", "select pg_sleep(60)"]).stdout(std::process::Stdio::null());
        psql.stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    let mut holders = [0, 1].map(hold);
    let sleeping = format!(
        "select count(*) from pg_stat_activity where datname = '{}' and query like '%pg_sleep(60)%' and state = 'active' \
         and pid <> pg_backend_pid()",
        carpool.database
    );
    eventually("both are held", || (Postgres::shared().sql("postgres", &sleeping) == "2").then_some(()));
    let error = fatal(whoami(&carpool, "scram_user", "scram_user"));
    assert!(error.contains("auth_query failed: no") && error.contains("query_wait_timeout"), "{error}");
    // Who holds the servers is for the log, not for one who isn't logged in.
    assert!(!error.contains(&holder), "{error}");
    eventually("it is logged", || carpool.log().contains(&format!("(user \"{holder}\"")).then_some(()));
    holders.iter_mut().for_each(|child| child.kill().unwrap());
    for holder in &mut holders {
        holder.wait().unwrap();
    }
    eventually("it works again", || whoami(&carpool, "scram_user", "scram_user").ok());
}

#[test]
fn queries_that_fail_or_make_no_sense() {
    for (query, logged) in [
        ("select $1::text, secret from nowhere", "nowhere"),
        ("select $1::text", "columns"),
        ("select $1::text, 'a', 1, 2", "columns"),
        ("select 'postgres'::text, 'known' where $1 <> ''", "another name"),
        ("select null::text, 'known' where $1 <> ''", "another name"),
        ("select $1::text, 'known' from generate_series(1, 3)", "more than one row"),
        ("select $1::text, 'known', 'soon'", "third column"),
        ("select 1 / (length($1) - length($1))", "division by zero"),
    ] {
        let setup = setup(&format!("auth_type = \"plain\"\nauth_query = \"{query}\""));
        let carpool = Carpool::start(&setup);
        for _ in 0..2 {
            let error = fatal(whoami(&carpool, "scram_user", "known"));
            assert!(error.starts_with("auth_query failed:") && error.contains("See auth_query"), "{query}: {error}");
            assert!(!error.contains(logged), "{error}");
        }
        carpool.logs(logged);
        assert!(!carpool.log().contains("known"), "{}", carpool.log());
    }
}

#[test]
fn a_third_column_ends_the_secret() {
    let query = "auth_query = \"select rolname, rolpassword, extract(epoch from rolvaliduntil - clock_timestamp()) \
                 from pg_authid where rolname = $1\"";
    let setup = setup(&format!("auth_type = \"scram-sha-256\"\n{query}\nauth_query_cache_ttl = \"1d\""));
    let carpool = Carpool::start(&setup);
    let name = role(&carpool, "short", "login password 'x'");
    let valid = |seconds: u32| {
        let until = Postgres::shared().sql("postgres", &format!("select now() + '{seconds} s'"));
        Postgres::shared().sql("postgres", &format!("alter role {name} valid until '{until}'"));
    };
    valid(3);
    let begun = std::time::Instant::now();
    whoami(&carpool, &name, "x").unwrap();
    eventually("its time is over", || whoami(&carpool, &name, "x").err());
    assert!(begun.elapsed().as_secs() >= 2);
}

#[test]
fn databases_with_a_lookup_of_their_own_and_reloaded_ones() {
    let postgres = Postgres::shared();
    let sections = format!("{USERS}[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {}\n", postgres.port);
    let setup = Setup::pooler("auth_type = \"scram-sha-256\"").sections(&sections);
    let lines =
        "auth_user = \"postgres\"\nauth_query = \"select rolname, rolpassword from pg_authid where rolname = $1\"";
    let carpool = Carpool::start(&setup.clone().database(lines));
    assert_eq!(whoami(&carpool, "scram_user", "scram_user").as_deref(), Ok("scram_user"));
    // The others don't look up.
    fatal(psql(carpool.port, "postgres", "scram_user", "scram_user", "select 1"));
    fatal(psql(carpool.port, "pgbouncer", "scram_user", "scram_user", "show version"));
    // With a place for all: unknown databases are told of, the console lets its users in.
    let everywhere = Setup {
        pooler: format!(
            "auth_type = \"scram-sha-256\"\nauth_user = \"postgres\"\nauth_dbname = \"{}\"\nstats_users = [\"scram_user\"]\n\
             listen_port = {}",
            carpool.database, carpool.port
        ),
        sections: format!(
            "{USERS}[databases.forced]\nhost = \"127.0.0.1\"\nport = {}\ndbname = \"postgres\"\nuser = \"app\"\n",
            postgres.port
        ),
        ..Setup::default()
    };
    std::fs::write(&carpool.config, everywhere.toml(postgres, &carpool.database)).unwrap();
    carpool.signal("HUP");
    eventually("the console lets its users in", || {
        psql(carpool.port, "pgbouncer", "scram_user", "scram_user", "show version").ok()
    });
    let error = fatal(psql(carpool.port, "nowhere", "scram_user", "scram_user", "select 1"));
    assert!(error.contains("database \"nowhere\" does not exist"), "{error}");
    let wrong = fatal(psql(carpool.port, "nowhere", "scram_user", "wrong", "select 1"));
    assert!(wrong.contains("password authentication failed"), "{wrong}");
    // A database that was added, with a user for everybody.
    let forced = psql(carpool.port, "forced", "scram_user", "scram_user", "select current_user");
    assert_eq!(forced.as_deref(), Ok("app"));
    fatal(psql(carpool.port, "forced", "scram_user", "wrong", "select current_user"));
}

#[test]
fn names_of_databases_that_are_not_there_leave_nothing() {
    let postgres = Postgres::shared();
    let sections = format!(
        "{USERS}[users.plain]\npassword = \"plain\"\n[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {}\n",
        postgres.port
    );
    let carpool =
        Carpool::start(&setup("auth_type = \"scram-sha-256\"\nstats_users = [\"plain\"]").sections(&sections));
    assert!(psql(carpool.port, "postgres", "scram_user", "scram_user", "select 1").is_ok());
    for n in 0..30 {
        let error = fatal(psql(carpool.port, &format!("nowhere{n}"), "scram_user", "scram_user", "select 1"));
        assert!(error.starts_with("auth_query failed"), "{error}");
    }
    let known: BTreeSet<_> = eventually("only those that are there", || {
        let shown = psql(carpool.port, "pgbouncer", "plain", "plain", "show databases").unwrap();
        let names: BTreeSet<_> = shown.lines().map(|line| line.split('|').next().unwrap().to_owned()).collect();
        (!names.iter().any(|name| name.starts_with("nowhere"))).then_some(names)
    });
    assert!(known.contains("postgres"), "{known:?}");
}

#[test]
fn the_one_who_looks_up_has_a_password() {
    let postgres = Postgres::own();
    let hba = "local all all trust\nhost all finder all scram-sha-256\nhost all all all trust\n";
    std::fs::write(postgres.dir.join("data/pg_hba.conf"), hba).unwrap();
    postgres.sql("postgres", "create role finder login password 'own'; select pg_reload_conf()");
    postgres.sql("postgres", "create role anna login password 'x'; grant pg_read_all_data to finder");
    postgres.sql(
        "postgres",
        "create function find(text) returns table(n name, s text) security definer language sql as
         'select rolname, rolpassword from pg_authid where rolname = $1'",
    );
    let pooler = |password: &str| {
        let lines = "auth_type = \"scram-sha-256\"\nauth_user = \"finder\"\nauth_query = \"select n, s from find($1)\"";
        Setup::pooler(lines).sections(&format!("[users.finder]\npassword = \"{password}\"\n"))
    };
    let carpool = Carpool::before(&postgres, "postgres", &pooler("own"));
    assert_eq!(whoami(&carpool, "anna", "x").as_deref(), Ok("anna"));
    assert_eq!(whoami(&carpool, "finder", "own").as_deref(), Ok("finder"));
    drop(carpool);
    let carpool = Carpool::before(&postgres, "postgres", &pooler("other"));
    let error = fatal(whoami(&carpool, "anna", "x"));
    assert!(error.starts_with("auth_query failed: there is no server connection"), "{error}");
    assert!(!error.contains("finder"), "{error}");
    carpool.logs("password authentication failed");
    // Nobody else is held up by that.
    let error = fatal(whoami(&carpool, "postgres", "x"));
    assert!(error.starts_with("auth_query failed"), "{error}");
}
