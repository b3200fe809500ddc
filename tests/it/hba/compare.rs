//! The same files and the same connections, to PostgreSQL and to Carpool.

use std::path::Path;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::{Login, Rules};
use crate::harness::postgres::default_bin;
use crate::harness::{Message, Postgres, eventually};

/// Files that are compared.
const FILES: usize = 25;
/// Connections for each.
const LOGINS: usize = 14;

/// The newest PostgreSQL that there is: host-based rules have grown.
fn newest() -> std::path::PathBuf {
    match Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/postgres/18/bin/postgres").exists() {
        true => crate::versions::binaries(18),
        false => default_bin(),
    }
}

fn word(words: &[&'static str]) -> impl Strategy<Value = &'static str> + use<> {
    prop::sample::select(words.to_vec())
}

fn list(words: &[&'static str]) -> impl Strategy<Value = String> + use<> {
    prop::collection::vec(word(words), 1..3).prop_map(|words| words.join(","))
}

/// One line, or several.
fn line(version: u32) -> impl Strategy<Value = String> {
    let mut databases = vec!["all", "all", "sameuser", "replication", "d1", "d2", "\"all\"", "\"d 3\""];
    let mut users = vec!["all", "all", "hba_u1", "hba_u2", "\"all\"", "\"hba_u1\""];
    if version >= 16 {
        databases.extend(["/^d[12]$", "/d", "\"/^d 3$\""]);
        users.extend(["/u1$", "/^hba_u\\d$"]);
    }
    let kinds = word(&["local", "host", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"]);
    let addresses = word(&[
        "all",
        "samehost",
        "samenet",
        "127.0.0.1/32",
        "127.0.0.0/30",
        "127.0.0.0/31",
        "127.0.0.2 255.255.255.255",
        "127.1.2.3 255.0.0.0",
        "0.0.0.0/0",
        "::1/128",
        "::/0",
        "localhost",
        ".localdomain",
        "nowhere.invalid",
    ]);
    let methods = word(&["trust", "trust", "reject", "password", "scram-sha-256", "md5"]);
    (kinds, list(&databases), list(&users), addresses, methods, any::<bool>()).prop_map(
        |(kind, databases, users, address, method, split)| {
            let address = if kind == "local" { "" } else { address };
            let gap = if split { " \\\n  " } else { " " };
            format!("{kind} {databases} {users}{gap}{address} {method} # comment\n")
        },
    )
}

#[derive(Clone, Debug)]
struct Case {
    from: Option<u8>,
    user: &'static str,
    database: &'static str,
    replication: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let from = prop_oneof![Just(None), (1..4_u8).prop_map(Some), (1..4_u8).prop_map(Some)];
    let users = word(&["hba_u1", "hba_u2", "all"]);
    let databases = word(&["d1", "d2", "d 3", "hba_u1", "all", "replication"]);
    (from, users, databases, prop::bool::weighted(0.15)).prop_map(|(from, user, database, replication)| Case {
        from,
        user,
        database,
        replication,
    })
}

/// What an answer comes to: the request for a password, or the refusal in PostgreSQL's words. Whoever is let in is
/// told something of the database.
fn outcome(answer: &Message) -> String {
    match answer.tag {
        b'R' => match u32::from_be_bytes(answer.body[..4].try_into().unwrap()) {
            0 => "in".into(),
            code => format!("asked for {code}"),
        },
        b'E' => match answer.field('C').unwrap().as_str() {
            "28000" => answer.field('M').unwrap(),
            _ => "in".into(),
        },
        _ => panic!("{answer:?}"),
    }
}

fn generate<T>(runner: &mut TestRunner, strategy: &impl Strategy<Value = T>) -> T {
    strategy.new_tree(runner).unwrap().current()
}

/// Has PostgreSQL use a file, and waits until it does: a line of its own shows it.
fn apply(postgres: &Postgres, hba: &str, number: usize) {
    let marker = format!("local marker_{number} all reject\n");
    std::fs::write(postgres.dir.join("data/pg_hba.conf"), marker + hba).unwrap();
    postgres.control(&["-s", "reload"]);
    let database = format!("marker_{number}");
    eventually("PostgreSQL reads its file", || {
        let login = Login { from: None, user: "hba_u1", database: &database, replication: false };
        let (_, answer) = login.first_answer(postgres.port, &postgres.dir);
        answer.field('M').is_some_and(|text| text.contains("rejects")).then_some(())
    });
}

#[test]
fn as_postgresql_decides() {
    let postgres = Postgres::start(&newest(), "");
    postgres.sql("postgres", "create role hba_u1 login password 'x'; create role hba_u2 login password 'x'");
    postgres.sql("postgres", "create role \"all\" login password 'x'");
    let secret = |user: &str| {
        let sql = format!("select rolpassword from pg_authid where rolname = '{user}'");
        format!("[users.{user}]\npassword = \"{}\"\n", postgres.sql("postgres", &sql))
    };
    let sections: String = ["hba_u1", "hba_u2", "all"].map(secret).concat();
    let rules = Rules::start("local all all reject\n", "", "", &sections);
    let version = postgres.version();
    let mut runner = TestRunner::deterministic();
    let (mut seen, mut kinds) = (0, std::collections::BTreeSet::new());
    for number in 0..FILES {
        let hba: String = generate(&mut runner, &prop::collection::vec(line(version), 1..7)).concat();
        apply(&postgres, &hba, number);
        rules.files.write("hba", &hba);
        let log = rules.reload();
        assert!(log.contains("INFO reloaded"), "{hba}\n{log}");
        for _ in 0..LOGINS {
            let Case { from, user, database, replication } = generate(&mut runner, &case());
            let login = Login { from, user, database, replication };
            let theirs = outcome(&login.first_answer(postgres.port, &postgres.dir).1);
            let ours = outcome(&rules.answer(login));
            assert_eq!(ours, theirs, "{login:?} by\n{hba}");
            seen += 1;
            kinds.insert(theirs.split(" for").next().unwrap().to_owned());
        }
    }
    assert_eq!(seen, FILES * LOGINS);
    // Let in, refused by a line, refused by none, asked for either kind of password.
    assert!(kinds.len() >= 5, "{kinds:?}");
}
