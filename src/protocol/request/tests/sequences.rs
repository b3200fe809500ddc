//! Sequence values stay with their client, and are a client's own for as long as it could know.

use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::scripts::Item;
use super::world::{Batch, World};
use super::{Script, choices, encode, readable};

const LAST: &str = "select lastval()";

/// One text, by the simple protocol, the extended one, or as a statement prepared before.
fn sent(text: String, how: u8) -> Vec<Item> {
    let execute = |name: &str| vec![Item::Bind(String::new(), name.into(), 0), Item::Execute(String::new(), 0)];
    let mut items = match how {
        0 => return vec![Item::Query(text)],
        1 => vec![Item::Parse(String::new(), text, vec![])],
        _ => vec![Item::CloseStatement("s".into()), Item::Parse("s".into(), text, vec![])],
    };
    items.extend(execute(if how == 1 { "" } else { "s" }));
    // Without a Sync the batch goes on.
    if how < 3 {
        items.push(Item::Sync);
    }
    items
}

fn sequence_script() -> impl Strategy<Value = Script> {
    let texts = prop::sample::select(vec![
        "select nextval",
        "select nextval",
        LAST,
        LAST,
        LAST,
        "begin",
        "commit",
        "rollback",
        "select 1",
        "select 1/0",
        "set foo = 1",
        "discard sequences",
        "discard all",
        "select nextval; select 1/0",
    ]);
    let piece = (texts, 0u8..4).prop_map(|(text, how)| {
        let several = text.contains(';') && how > 0;
        sent(text.to_owned(), if several { 0 } else { how })
    });
    let batch = prop::collection::vec(piece, 1..4).prop_map(|pieces| pieces.concat());
    prop::collection::vec((any::<bool>(), batch), 1..8).prop_map(|mut batches| {
        batches.push((false, vec![Item::Sync, Item::Query("rollback".into()), Item::Sync]));
        batches
    })
}

/// With each `nextval` giving a value that is nobody else's.
fn marked(client: usize, script: &Script) -> Script {
    let next = std::cell::Cell::new(0);
    let mark = |text: &str| {
        next.set(next.get() + 1);
        text.replace("nextval", &format!("nextval.c{client}.{}", next.get()))
    };
    let items =
        |(waits, items): &(bool, Vec<Item>)| (*waits, items.iter().map(|item| item.clone().map_text(mark)).collect());
    script.iter().map(items).collect()
}

/// What one client got of sequence values must be its own, the last; `keeps`: and there, once it has read some.
fn check(client: usize, received: &[u8], keeps: bool) {
    let lines = readable(received);
    let (mut highest, mut last, mut known, mut has_read) = (0, None, false, false);
    for (at, line) in lines.iter().enumerate() {
        let context = || format!("client {client}: {:#?}", &lines[at.saturating_sub(9)..=at]);
        let value = line.split("nextval.").nth(1).filter(|_| line.starts_with("D "));
        if let Some((of, number)) = value.and_then(|value| value.split_once('.')) {
            let number: u32 = number.parse().unwrap();
            assert_eq!(of, format!("c{client}"), "{}", context());
            if number > highest {
                (highest, last) = (number, Some(number));
            } else {
                assert_eq!(last, Some(number), "an old one, {}", context());
                has_read = true;
            }
            known |= has_read;
        } else if line.starts_with("E ") && line.contains("55000") {
            assert!(!known || !keeps, "{}", context());
            has_read = true;
        } else if line.starts_with("C DISCARD") {
            (last, known, has_read) = (None, false, false);
        }
    }
}

fn run(scripts: &[Script], servers: usize, seed: u64, known: bool) -> World {
    let clients = scripts.iter().enumerate().map(|(i, script)| {
        let (_, batches) = encode(&marked(i, script));
        ("default".to_owned(), batches.into_iter().map(|bytes| Batch { bytes, after: 0 }).collect())
    });
    let mut world = World::new(clients.collect(), servers, 3);
    world.tables.sequences_read.store(known, Ordering::Relaxed);
    world.run(&mut choices(seed));
    world
}

proptest! {
    #[test]
    fn clients_that_share_servers_read_only_their_own_sequence_values(
        scripts in prop::collection::vec(sequence_script(), 2..4),
        servers in 1usize..4,
        seed: u64,
    ) {
        let world = run(&scripts, servers, seed, true);
        for (i, client) in world.clients.iter().enumerate() {
            check(i, &client.received, servers >= scripts.len());
        }
    }
}

/// The first time that anybody reads any: between transactions, in one, behind what is still unanswered, by each
/// protocol.
#[test]
fn the_first_to_read_sequence_values_reads_nobody_elses() {
    let next: Script = vec![(false, vec![Item::Query("select nextval".into())])];
    let fronts = [vec![], sent("begin".into(), 0), sent("begin".into(), 1), sent("set foo = 1".into(), 3)];
    for front in fronts {
        for how in 0..4 {
            let reads = [front.clone(), sent(LAST.into(), how), vec![Item::Sync, Item::Query("rollback".into())]];
            let reads: Script = vec![(false, reads.concat())];
            for seed in 0..50 {
                let world = run(&[next.clone(), reads.clone()], 1, seed, false);
                let lines = readable(&world.clients[1].received);
                assert!(lines.iter().any(|line| line.contains("55000")), "{front:?} {how} {lines:#?}");
            }
        }
    }
}
