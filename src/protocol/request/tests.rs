//! The two ways through the core, run against a model of PostgreSQL.

mod backend;
mod scripts;
mod world;

use std::collections::BTreeMap;

use proptest::prelude::*;

use scripts::{Item, script};
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
const ORDERS: u64 = 8;

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

proptest! {
    #[test]
    fn clients_that_share_servers_get_what_each_would_get_from_its_own(
        scripts in prop::collection::vec((prop::sample::select(vec!["default", "iso", "sql"]), script()), 1..4),
        servers in 1usize..4,
        max_prepared in 1usize..4,
        seed: u64,
    ) {
        let scripts: Vec<_> = scripts.into_iter().map(|(style, script)| (style.to_owned(), script)).collect();
        assert_like_direct(&scripts, servers, max_prepared, seed);
    }
}
