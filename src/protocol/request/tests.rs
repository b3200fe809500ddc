//! The two ways through the core, run against a model of PostgreSQL.

pub(crate) mod backend;
#[cfg(test)]
mod rules;
mod scripts;
#[cfg(test)]
mod sequences;
#[cfg(test)]
mod unnamed;
mod world;

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use scripts::{Item, naming_script, script, shape_script};
use world::{Batch, Choices, World, count, direct};

use crate::wire::frame;

/// Messages, readable.
fn readable(bytes: &[u8]) -> Vec<String> {
    let mut list = Vec::new();
    let mut at = 0;
    while let Some((header, body)) = frame::whole(&bytes[at..]).unwrap() {
        at += header.total_len();
        list.push(format!("{} {}", char::from(header.tag), body.escape_ascii()));
    }
    if at < bytes.len() {
        list.push(format!("… {}", bytes[at..].escape_ascii()));
    }
    list
}

/// What must be the same. Which of several names for one statement an error about its parameters carries isn't
/// kept; and what counts of ParameterStatus is what a client knows at each ReadyForQuery.
fn comparable(bytes: &[u8], style: &str) -> Vec<String> {
    let mut list = Vec::new();
    let mut known = BTreeMap::from([
        ("S DateStyle".to_owned(), style.to_owned()),
        ("S application_name".to_owned(), "default".to_owned()),
    ]);
    let mut told = known.clone();
    for line in readable(bytes) {
        if let (Some((name, value)), true) = (line.split_once("\\x00"), line.starts_with("S ")) {
            known.insert(name.to_owned(), value.trim_end_matches("\\x00").to_owned());
            continue;
        }
        if line.starts_with("Z ") {
            list.extend(known.iter().filter(|(n, v)| told.get(*n) != Some(v)).map(|(n, v)| format!("{n} {v}")));
            told.clone_from(&known);
        }
        list.push(match (line.find("but prepared statement "), line.find(" requires")) {
            (Some(from), Some(to)) => format!("{}{}", &line[..from], &line[to..]),
            _ => line,
        });
    }
    list
}

fn encode(batches: &[(bool, Vec<Item>)]) -> (Vec<bool>, Vec<Vec<u8>>) {
    batches
        .iter()
        .map(|(waits, items)| {
            let mut bytes = Vec::new();
            items.iter().for_each(|item| item.put(&mut bytes));
            (*waits, bytes)
        })
        .unzip()
}

fn choices(seed: u64) -> Choices<'static> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    Choices(Box::new(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as u32
    }))
}

/// In how many orders of events each set of scripts is run.
const ORDERS: u64 = 4;

type Script = Vec<(bool, Vec<Item>)>;

/// Runs the scripts through the core and asserts that each client gets what it would get from a backend of its own.
fn assert_like_direct(scripts: &[(String, Script)], servers: usize, max_prepared: usize, seed: u64) {
    let mut expected = Vec::new();
    let mut clients = Vec::new();
    for (style, script) in scripts {
        let (waits, batches) = encode(script);
        let received = direct(style, &batches);
        let mut after = 0;
        let sent = batches.into_iter().zip(waits).zip(&received).map(|((bytes, waits), so_far)| {
            let batch = Batch { bytes, after: if waits { after } else { 0 } };
            after = count(so_far).1;
            batch
        });
        clients.push((style.clone(), sent.filter(|b| !b.bytes.is_empty()).collect()));
        expected.push(received.last().cloned().unwrap_or_default());
    }
    // Several orders of events: more is found, and what is found shrinks better.
    for round in 0..ORDERS {
        let mut world = World::new(clients.clone(), servers, max_prepared);
        world.tables.set_reuses_unnamed(round % 2 == 1);
        world.run(&mut choices(seed.wrapping_add(round)));
        compare(&world, scripts, &expected);
    }
}

fn compare(world: &World, scripts: &[(String, Script)], expected: &[Vec<u8>]) {
    for ((client, expected), (style, _)) in world.clients.iter().zip(expected).zip(scripts) {
        let (got, wanted) = (comparable(&client.received, style), comparable(expected, style));
        if got != wanted {
            let at = got.iter().zip(&wanted).take_while(|(a, b)| a == b).count();
            let from = at.saturating_sub(4);
            let end = |list: &[String]| list[from..list.len().min(at + 3)].to_vec();
            panic!("from message {from} on\n   got {:#?}\nwanted {:#?}", end(&got), end(&wanted));
        }
    }
}

/// Runs scripts through the core and gives what each client gets, and whether it was disconnected.
fn run(scripts: &[(String, Script)], servers: usize, max_prepared: usize, seed: u64, may_close: bool) -> World {
    let clients = scripts.iter().map(|(style, script)| {
        let (_, batches) = encode(script);
        (style.clone(), batches.into_iter().map(|bytes| Batch { bytes, after: 0 }).collect())
    });
    let mut world = World::new(clients.collect(), servers, max_prepared);
    world.tables.set_reuses_unnamed(seed % 2 == 1);
    world.may_close = may_close;
    world.run(&mut choices(seed));
    world
}

/// Every value of a text that depends on settings must come of the client's own: its values of DateStyle all
/// begin with `c` and its number.
fn assert_own_settings(scripts: &[Script], servers: usize, max_prepared: usize, seed: u64) {
    let own = |i: usize, script: &Script| -> Script {
        let text = |text: &str| {
            let text = ["iso", "sql", "german"].iter().fold(text.to_owned(), |t, s| t.replace(s, &format!("c{i}{s}")));
            match text.as_str() {
                "select 1" | "select 2" | "show application_name" => "select literal".to_owned(),
                "insert" => format!("insert c{i}sneak"),
                _ => text,
            }
        };
        let items = |items: &Vec<Item>| items.iter().map(|item| item.clone().map_text(text)).collect();
        script.iter().map(|(waits, list)| (*waits, items(list))).collect()
    };
    let scripts: Vec<_> = scripts.iter().enumerate().map(|(i, s)| (format!("c{i}start"), own(i, s))).collect();
    for round in 0..ORDERS {
        let world = run(&scripts, servers, max_prepared, seed.wrapping_add(round), false);
        for (i, client) in world.clients.iter().enumerate() {
            for row in readable(&client.received).iter().filter(|line| line.starts_with("D ")) {
                let foreign = row.contains("default") || (0..10).any(|j| j != i && row.contains(&format!("c{j}")));
                assert!(!foreign, "client {i} got {row}");
            }
        }
    }
}

/// Every row must be of the shape that the client was told last.
fn assert_told_shapes(scripts: &[Script], servers: usize, max_prepared: usize, seed: u64) {
    let scripts: Vec<_> = scripts.iter().map(|s| ("default".to_owned(), s.clone())).collect();
    for round in 0..ORDERS {
        let world = run(&scripts, servers, max_prepared, seed.wrapping_add(round), true);
        for client in &world.clients {
            let only_changes = client.end.as_ref().is_none_or(|end| end.contains("have changed"));
            assert!(only_changes, "{:?}", client.end);
            let (mut told, mut before) = (None, String::new());
            for line in readable(&client.received) {
                let shape = |name: &str| line.find(name).map(|at| line[at..].split('\\').next().map(str::to_owned));
                if line.starts_with("T ") {
                    told = shape("column").unwrap_or(told);
                } else if !line.starts_with("D ") {
                } else if let Some(row) = shape("column") {
                    assert_eq!(told, row, "{:#?}", readable(&client.received));
                } else if let (Some(Some(row)), true) = (shape("other"), before.starts_with("T ")) {
                    assert!(before.contains(&row), "{:#?}", readable(&client.received));
                }
                before = line;
            }
        }
    }
}

/// Scripts of clients with their DateStyle, servers, prepared statements that each keeps, and a seed for the order.
type Case = (Vec<(String, Script)>, usize, usize, u64);

fn settings_case() -> impl Strategy<Value = (Vec<Script>, usize, usize, u64)> {
    (prop::collection::vec(script(), 2..4), 1usize..3, 1usize..4, any::<u64>())
}

fn shapes_case() -> impl Strategy<Value = (Vec<Script>, usize, usize, u64)> {
    (prop::collection::vec(shape_script(), 1..4), 1usize..4, 1usize..3, any::<u64>())
}

fn names_case() -> impl Strategy<Value = Case> {
    let parts = (prop::collection::vec(naming_script(), 1..3), 0usize..2, 1usize..4, any::<u64>());
    parts.prop_map(|(scripts, more, max_prepared, seed)| {
        let servers = scripts.len() + more;
        let scripts = scripts.into_iter().map(|script| ("default".to_owned(), script)).collect();
        (scripts, servers, max_prepared, seed)
    })
}

fn shared_case() -> impl Strategy<Value = Case> {
    let style = prop::sample::select(vec!["default", "iso", "sql"]).prop_map(str::to_owned);
    (prop::collection::vec((style, script()), 1..4), 1usize..4, 1usize..4, any::<u64>())
}

/// Plays one case of the tests below, which of them says the first byte. The others are a seed: the bytes themselves in
/// the place of chance (`PassThrough`) don't do, since each choice among strategies halves what is left of them, and
/// without any choices never end.
pub(crate) fn operations(data: &[u8]) {
    let Some((&which, seed)) = data.split_first() else { return };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &spread(seed));
    let mut runner = TestRunner::new_with_rng(Config { failure_persistence: None, ..Config::default() }, rng);
    match which % 4 {
        0 => {
            let (scripts, servers, max_prepared, seed) = settings_case().new_tree(&mut runner).unwrap().current();
            assert_own_settings(&scripts, servers, max_prepared, seed);
        }
        1 => {
            let (scripts, servers, max_prepared, seed) = shapes_case().new_tree(&mut runner).unwrap().current();
            assert_told_shapes(&scripts, servers, max_prepared, seed);
        }
        2 => {
            let (scripts, servers, max_prepared, seed) = names_case().new_tree(&mut runner).unwrap().current();
            assert_like_direct(&scripts, servers, max_prepared, seed);
        }
        _ => {
            let (scripts, servers, max_prepared, seed) = shared_case().new_tree(&mut runner).unwrap().current();
            assert_like_direct(&scripts, servers, max_prepared, seed);
        }
    }
}

/// A seed of the length that is wanted.
fn spread(bytes: &[u8]) -> Vec<u8> {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let mut words = choices(hash);
    (0..8).flat_map(|_| (words.0)().to_le_bytes()).collect()
}

#[cfg(test)]
proptest! {
    #[test]
    fn clients_that_share_servers_never_see_the_others_settings(
        (scripts, servers, max_prepared, seed) in settings_case(),
    ) {
        assert_own_settings(&scripts, servers, max_prepared, seed);
    }

    #[test]
    fn statements_prepared_by_sql_and_by_the_protocol_share_their_names(
        (scripts, servers, max_prepared, seed) in names_case(),
    ) {
        assert_like_direct(&scripts, servers, max_prepared, seed);
    }

    #[test]
    fn rows_are_of_the_shape_that_the_client_was_told((scripts, servers, max_prepared, seed) in shapes_case()) {
        assert_told_shapes(&scripts, servers, max_prepared, seed);
    }

    #[test]
    fn clients_that_share_servers_get_what_each_would_get_from_its_own(
        (scripts, servers, max_prepared, seed) in shared_case(),
    ) {
        assert_like_direct(&scripts, servers, max_prepared, seed);
    }
}
