//! `reuse_unnamed_statements`: what random scripts don't show, since it is seen on the way to the server.

use std::sync::Arc;

use super::rules::{Hand, assert_script, described, message, parse, query};
use super::scripts::Item;
use super::{readable, run};
use crate::protocol::ServerState;
use crate::wire::backend::tag as answer;

/// One transaction of a client whose driver parses each time, without names.
fn unnamed(text: &str) -> Vec<Item> {
    [vec![parse("", text)], described("")].concat()
}

/// All that goes out for these.
fn send_all(hand: &mut Hand, items: &[Item]) -> Vec<String> {
    readable(&items.iter().flat_map(|item| hand.send_item(item).1).collect::<Vec<_>>())
}

fn rows_come() -> Vec<u8> {
    let row = message(answer::ROW_DESCRIPTION, b"\0\0");
    [message(b'2', b""), row, message(b'C', b"SELECT 0\0"), message(b'Z', b"I")].concat()
}

/// With a server that has a text under a name, since it has come twice.
fn that_knows(text: &str) -> Hand {
    let mut hand = Hand::new();
    hand.tables.set_reuses_unnamed(true);
    for _ in 0..2 {
        send_all(&mut hand, &unnamed(text));
        hand.answer_empty(b"1");
        hand.answer(&rows_come());
    }
    hand
}

#[test]
fn unnamed_statements_that_come_again_are_parsed_once() {
    let mut hand = Hand::new();
    hand.tables.set_reuses_unnamed(true);
    let script = unnamed("select rows");
    let as_they_are = readable(&script.iter().fold(Vec::new(), |mut bytes, item| {
        item.put(&mut bytes);
        bytes
    }));
    assert_eq!(send_all(&mut hand, &script), as_they_are, "the first time");
    hand.answer_empty(b"1");
    hand.answer(&rows_come());
    let id = hand.client.statements.unnamed.as_ref().unwrap().id;
    let named: Vec<_> = as_they_are
        .iter()
        .map(|line| {
            let line = line.replacen("P \\x00", &format!("P carpool_{id}\\x00"), 1);
            line.replacen("B \\x00\\x00", &format!("B \\x00carpool_{id}\\x00"), 1)
        })
        .collect();
    assert_eq!(send_all(&mut hand, &script), named, "the second time");
    assert_eq!(hand.answer_empty(b"1"), message(b'1', b""));
    hand.answer(&rows_come());
    for _ in 0..2 {
        assert_eq!(send_all(&mut hand, &script), named[1..], "from then on");
        let wanted = [message(b'1', b""), rows_come()].concat();
        assert_eq!(hand.answer(&rows_come()), wanted);
        assert!(hand.server.pipeline.is_idle());
    }
    // A text that comes once has no name, and takes none's place.
    let other = unnamed("select 7");
    assert!(send_all(&mut hand, &other)[0].starts_with("P \\x00select 7"));
    assert_eq!(hand.server.statements.len(), 1);
    hand.answer_empty(b"1");
    hand.answer(&rows_come());
    // Switched off, all goes as it comes.
    hand.tables.set_reuses_unnamed(false);
    assert_eq!(send_all(&mut hand, &script), as_they_are);
}

/// The same text under a name is told from it by what the client calls it.
#[test]
fn an_unnamed_statement_ends_as_on_a_direct_connection() {
    let again = [unnamed("select rows"), unnamed("select rows")].concat();
    let bind = vec![Item::Bind(String::new(), String::new(), 0), Item::Sync];
    let failing = vec![parse("", "selec"), Item::Sync];
    let close = vec![Item::CloseStatement(String::new()), Item::Sync];
    for ends in [vec![query("select 1")], failing, close, vec![query("deallocate all")], vec![query("discard all")]] {
        assert_script(&[(true, [again.clone(), ends, bind.clone()].concat())]);
    }
    // With the wrong number of parameters the error has the client's name for it.
    let wrong = vec![Item::Bind(String::new(), String::new(), 1), Item::Sync];
    let world = run(&[("default".to_owned(), vec![(true, [again, wrong].concat())])], 1, 4, 1, false);
    let lines = readable(&world.clients[0].received);
    assert!(lines.iter().any(|line| line.contains(r#"prepared statement \"\" requires"#)), "{lines:#?}");
}

#[test]
fn a_stale_plan_of_an_unnamed_statement_is_retried() {
    let (mut hand, script) = (that_knows("select shape"), unnamed("select shape"));
    send_all(&mut hand, &script);
    let error = message(answer::ERROR_RESPONSE, b"SERROR\0C0A000\0Mcached\0RRevalidateCachedQuery\0\0");
    assert_eq!(hand.answer(&error), message(b'1', b""), "the Parse was answered in the server's place");
    let id = hand.client.statements.unnamed.as_ref().unwrap().id;
    let resent = readable(&std::mem::take(&mut hand.resent));
    assert_eq!(
        resent[..2],
        [format!("C Scarpool_{id}\\x00"), format!("P carpool_{id}\\x00select shape\\x00\\x00\\x00")]
    );
    assert!(hand.answer(b"Z\0\0\0\x05I").is_empty());
    assert!(hand.answer_empty(b"31").is_empty());
    assert_eq!(hand.answer(&rows_come()), rows_come());
    assert!(hand.server.pipeline.is_idle());
    // The plan is good now: nothing is parsed.
    assert!(send_all(&mut hand, &script)[0].starts_with("B "));
    hand.answer(&rows_come());
    // Where the rows aren't described the error goes on, and the next execution is of a new plan.
    let run = [Item::Bind(String::new(), String::new(), 0), Item::Execute(String::new(), 0), Item::Sync];
    send_all(&mut hand, &run);
    assert_eq!(hand.answer(&error), error);
    hand.answer_ready();
    assert_eq!(send_all(&mut hand, &run)[..2], resent[..2]);
}

/// In a transaction block nothing would come of it.
#[test]
fn a_stale_plan_in_a_transaction_is_an_error() {
    let mut hand = that_knows("select shape");
    send_all(&mut hand, &[query("begin")]);
    hand.answer(&[message(b'C', b"BEGIN\0"), message(b'Z', b"T")].concat());
    assert!(send_all(&mut hand, &unnamed("select shape"))[0].starts_with("B "));
    let error = message(answer::ERROR_RESPONSE, b"SERROR\0C0A000\0Mcached\0RRevalidateCachedQuery\0\0");
    assert_eq!(hand.answer(&error), [message(b'1', b""), error].concat());
}

#[test]
fn a_statement_is_known_as_long_as_a_server_has_it() {
    let mut hand = that_knows("select rows");
    for n in 0..1000 {
        send_all(&mut hand, &unnamed(&format!("select {n}")));
        hand.answer_empty(b"1");
        hand.answer(&rows_come());
    }
    assert!(hand.tables.statements.len() < 100, "texts that came once are kept");
    assert!(send_all(&mut hand, &unnamed("select rows"))[0].starts_with("B "));
}

/// What a statement was read under is part of what it is: once its client has other settings, a server that lacks it
/// can't be given it under the name that others know it by.
#[test]
fn what_was_read_under_other_settings_is_not_prepared_for_others() {
    let mut hand = Hand::new();
    hand.tables.set_reuses_unnamed(true);
    for item in [parse("", "select literal"), Item::Sync] {
        hand.send_item(&item);
    }
    hand.answer_empty(b"1");
    hand.answer_ready();
    let later = hand.tables.settings.intern(hand.client.settings.with_reported("DateStyle", "SQL"));
    hand.client.set_settings(Arc::clone(&later), &hand.tables.settings);
    hand.server = ServerState::new(later, 10);
    let without_name = ["P \\x00select literal\\x00\\x00\\x00", "B \\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00"];
    let sent = send_all(&mut hand, &described(""));
    assert_eq!(sent[..2], without_name);
    // The same settings again, as far as is known yet.
    let mut hand = Hand::new();
    hand.tables.set_reuses_unnamed(true);
    send_all(&mut hand, &[parse("", "select literal"), Item::Sync]);
    hand.answer_empty(b"1");
    hand.answer_ready();
    hand.server.statements.unnamed = None;
    hand.server.unsettled = true;
    assert_eq!(send_all(&mut hand, &described(""))[..2], without_name);
}

/// As for statements with names: after a schema change it could fail, or mean something else.
#[test]
fn none_is_answered_in_the_servers_place_after_a_schema_change() {
    let mut hand = that_knows("select rows");
    hand.tables.statements.schema_changed();
    let id = hand.client.statements.unnamed.as_ref().unwrap().id;
    let sent = send_all(&mut hand, &unnamed("select rows"));
    let again = [format!("C Scarpool_{id}\\x00"), format!("P carpool_{id}\\x00select rows\\x00\\x00\\x00")];
    assert_eq!(sent[..2], again);
    assert_eq!(hand.answer_empty(b"31"), message(b'1', b""));
    hand.answer(&rows_come());
    assert!(send_all(&mut hand, &unnamed("select rows"))[0].starts_with("B "));
}

/// Those that name statements, or mean something to Carpool.
#[test]
fn texts_with_effects_stay_unnamed() {
    for text in ["deallocate s", "deallocate all", "execute s", "prepare s as select 1", "set carpool.pin = on"] {
        let mut hand = Hand::new();
        hand.tables.set_reuses_unnamed(true);
        for _ in 0..3 {
            let sent = send_all(&mut hand, &[parse("", text), Item::Sync]);
            assert_eq!(sent[0], format!("P \\x00{text}\\x00\\x00\\x00"));
            hand.answer_empty(b"1");
            hand.answer_ready();
        }
    }
}
