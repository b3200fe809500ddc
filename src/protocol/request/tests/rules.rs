//! Rules that random scripts seldom meet, one by one.

use std::sync::Arc;

use super::scripts::Item;
use super::{Script, World, assert_like_direct, readable, run};
use crate::protocol::functions::Unknown;
use crate::protocol::pipeline::{Kind, Pipeline, Request, ServerUndo};
use crate::protocol::reply::{Events, ServerPath};
use crate::protocol::request::{self, ClientPath, Local, Output, Step, Tables, local};
use crate::protocol::session::{Probe, Taint, Taints};
use crate::protocol::settings::Settings;
use crate::protocol::statements::{DUMMY, Presence};
use crate::protocol::{ClientState, Keeping, ServerState, reply};
use crate::wire::backend::tag as answer;
use crate::wire::frame;
use crate::wire::frontend::tag;

pub(super) fn parse(name: &str, text: &str) -> Item {
    Item::Parse(name.into(), text.into(), vec![])
}

pub(super) fn query(text: &str) -> Item {
    Item::Query(text.into())
}

fn execute(name: &str) -> Vec<Item> {
    vec![Item::Bind(String::new(), name.into(), 0), Item::Execute(String::new(), 0)]
}

pub(super) fn described(name: &str) -> Vec<Item> {
    vec![
        Item::Bind(String::new(), name.into(), 0),
        Item::DescribePortal(String::new()),
        Item::Execute(String::new(), 0),
        Item::Sync,
    ]
}

fn batch(parts: &[&[Item]]) -> (bool, Vec<Item>) {
    (true, parts.concat())
}

/// A client and a server without the bytes between them.
pub(super) struct Hand {
    pub(super) client: ClientState,
    pub(super) server: ServerState,
    pub(super) tables: Tables,
    /// What the server's messages made to be sent to it.
    pub(super) resent: Vec<u8>,
}

impl Hand {
    pub(super) fn new() -> Self {
        let tables = Tables::default();
        let settings = tables.settings.intern(Settings::from_reported([("DateStyle", "ISO")]));
        let client = ClientState::new(Arc::clone(&settings), &tables.settings);
        let mut server = ServerState::new(settings, 10);
        server.keeping = Keeping::Never;
        Self { client, server, tables, resent: Vec::new() }
    }

    /// Takes the first message: what became of it, what goes to the server and what to the client.
    fn send(&mut self, input: &[u8]) -> (Step, Vec<u8>, Vec<u8>) {
        let (mut out, mut own) = (Output::default(), Vec::new());
        let mut path = ClientPath {
            client: &mut self.client,
            server: &mut self.server,
            tables: &self.tables,
            max_packet_size: 1 << 20,
            to_server: &mut out,
            to_client: &mut own,
            flushes_own: false,
        };
        let step = path.message(input, 0).unwrap();
        (step, out.bytes(input).to_vec(), own)
    }

    pub(super) fn send_item(&mut self, item: &Item) -> (Step, Vec<u8>, Vec<u8>) {
        let mut bytes = Vec::new();
        item.put(&mut bytes);
        self.send(&bytes)
    }

    /// Takes the server's messages, whole or as far as they go, and gives what the client gets.
    pub(super) fn answer(&mut self, input: &[u8]) -> Vec<u8> {
        let (mut out, mut events) = (Output::default(), Events::default());
        let mut path = ServerPath {
            client: &mut self.client,
            server: &mut self.server,
            tables: &self.tables,
            to_client: &mut out,
            to_server: &mut self.resent,
            events: &mut events,
        };
        let mut at = 0;
        while at < input.len() {
            match path.message(input, at).unwrap() {
                reply::Step::Taken { consumed, .. } => at += consumed,
                reply::Step::More => break,
            }
        }
        out.bytes(input).to_vec()
    }

    pub(super) fn answer_empty(&mut self, tags: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        tags.iter().for_each(|&tag| frame::header(&mut bytes, tag, 0));
        self.answer(&bytes)
    }

    pub(super) fn answer_ready(&mut self) {
        self.answer(b"Z\0\0\0\x05I");
    }
}

pub(super) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::message(&mut out, tag, |b| b.extend_from_slice(body));
    out
}

/// As each of a few clients with one server, and each of their transactions on a server that has other things.
pub(super) fn assert_script(script: &[(bool, Vec<Item>)]) {
    for (servers, max_prepared) in [(1, 1), (2, 1), (3, 10)] {
        for seed in 0..8 {
            let other: Script =
                vec![batch(&[&[query("select 9"), parse("x", "select 8")], &execute("x"), &[Item::Sync]])];
            let clients = [("iso".to_owned(), script.to_vec()), ("sql".to_owned(), other)];
            assert_like_direct(&clients, servers, max_prepared, seed);
        }
    }
}

fn one_client(script: &[(bool, Vec<Item>)]) -> World {
    run(&[("default".to_owned(), script.to_vec())], 2, 4, 3, false)
}

#[test]
fn a_statement_keeps_the_settings_it_was_read_under() {
    assert_script(&[
        batch(&[&[query("set datestyle = 'german'"), parse("m", "select literal"), Item::Sync]]),
        batch(&[&[query("set datestyle = 'sql'"), parse("d", "select literal"), Item::Sync]]),
        batch(&[&execute("m"), &[Item::Sync], &execute("d"), &[Item::Sync]]),
        batch(&[&[query("show datestyle")]]),
        batch(&[&execute("m"), &[Item::Sync]]),
        batch(&[&[Item::DescribeStatement("m".into())], &execute("d"), &[Item::Sync, query("show datestyle")]]),
    ]);
}

/// Its text fails to parse under the old settings: the client's next messages are skipped, and the settings are
/// back afterwards.
#[test]
fn a_statement_that_can_not_be_prepared_again() {
    let mut hand = Hand::new();
    hand.send_item(&parse("s", "select gone"));
    hand.send_item(&Item::Sync);
    hand.answer_empty(b"1");
    hand.answer_ready();
    let settings = hand.tables.settings.intern(Settings::from_reported([("DateStyle", "SQL")]));
    hand.client.set_settings(Arc::clone(&settings), &hand.tables.settings);
    let statement = &hand.client.statements.named[&b"s"[..]].statement;
    hand.server = ServerState::new(settings, 10);
    let name = String::from_utf8(statement.server_name().to_vec()).unwrap();
    let (step, sent, _) = hand.send_item(&execute("s")[0]);
    assert_eq!(step, Step::Blocked);
    let sent: Vec<_> = readable(&sent).into_iter().map(|line| line.replace(&name, "NAME")).collect();
    assert_eq!(
        sent,
        [
            "Q SET \\\"datestyle\\\" TO \\'ISO\\';\\x00",
            "P NAME\\x00select gone\\x00\\x00\\x00",
            "S ",
            "Q SET \\\"datestyle\\\" TO \\'SQL\\';\\x00",
        ]
    );
    hand.answer(&[message(answer::COMMAND_COMPLETE, b"SET\0"), message(answer::READY_FOR_QUERY, b"I")].concat());
    let error = message(answer::ERROR_RESPONSE, b"SERROR\0C42P01\0Mgone\0\0");
    assert_eq!(hand.answer(&error), error);
    hand.answer_ready();
    assert_eq!(hand.send_item(&execute("s")[0]).0, Step::Blocked, "the settings aren't back yet");
    hand.answer(&[message(answer::COMMAND_COMPLETE, b"SET\0"), message(answer::READY_FOR_QUERY, b"I")].concat());
    let (step, sent, _) = hand.send_item(&execute("s")[0]);
    assert!(matches!(step, Step::Taken { forward: false, .. }) && sent.is_empty(), "skipped");
    let (_, sent, _) = hand.send_item(&Item::Sync);
    assert_eq!(sent, message(tag::SYNC, b""));
    hand.answer_ready();
    assert!(hand.server.pipeline.is_idle());
}

/// It is prepared anew and sent again where the client learns the rows' shape with them.
#[test]
fn a_stale_plan_is_retried_where_that_is_safe() {
    let mut hand = Hand::new();
    hand.send_item(&parse("s", "select shape"));
    hand.send_item(&Item::Sync);
    hand.answer_empty(b"1");
    hand.answer_ready();
    let sent: Vec<_> = described("s").iter().flat_map(|item| hand.send_item(item).1).collect();
    let error = message(answer::ERROR_RESPONSE, b"SERROR\0C0A000\0Mcached\0RRevalidateCachedQuery\0\0");
    assert!(hand.answer(&error).is_empty());
    let id = hand.client.statements.named[&b"s"[..]].statement.id;
    let resent = readable(&std::mem::take(&mut hand.resent));
    let again = [format!("C Scarpool_{id}\\x00"), format!("P carpool_{id}\\x00select shape\\x00\\x00\\x00")];
    assert_eq!(resent, [again.to_vec(), readable(&sent)].concat());
    // Of the first try nothing is seen, of the second all.
    assert!(hand.answer(b"Z\0\0\0\x05I").is_empty());
    assert!(hand.answer_empty(b"31").is_empty());
    assert!(!hand.server.pipeline.is_idle());
    let row = message(answer::ROW_DESCRIPTION, b"\0\0");
    let replies = [message(b'2', b""), row, message(b'C', b"SELECT 0\0"), message(b'Z', b"I")].concat();
    assert_eq!(hand.answer(&replies), replies);
    assert!(hand.server.pipeline.is_idle());
    // Once: should it fail again, the client is told.
    let _: Vec<_> = described("s").iter().map(|item| hand.send_item(item)).collect();
    assert!(hand.answer(&error).is_empty());
    hand.answer(b"Z\0\0\0\x05I");
    hand.answer_empty(b"31");
    assert_eq!(hand.answer(&error), error);
}

#[test]
fn a_stale_plan_is_an_error_where_it_is_not() {
    let no_description = [execute("s"), vec![Item::Sync]].concat();
    let in_a_transaction = [vec![query("begin")], described("s"), vec![query("rollback")]].concat();
    let with_more = [described("s"), vec![query("select 1")]].concat();
    let told = [vec![Item::DescribeStatement("s".into()), Item::Sync], described("s")].concat();
    for (again, told) in [(no_description, false), (in_a_transaction, false), (with_more, false), (told, true)] {
        let first = if told { vec![Item::DescribeStatement("s".into())] } else { vec![] };
        let script = [
            batch(&[&[parse("s", "select shape")], &first, &execute("s"), &[Item::Sync]]),
            (false, [vec![query("alter t")], again].concat()),
        ];
        let world = run(&[("default".to_owned(), script.to_vec())], 1, 4, 0, false);
        let lines = readable(&world.clients[0].received);
        let errors: Vec<_> = lines.iter().filter(|line| line.starts_with("E ")).collect();
        assert!(errors.iter().any(|e| e.contains("cached plan must not change result type")), "{lines:#?}");
    }
}

#[test]
fn a_query_that_is_too_long_to_be_read_may_do_anything() {
    let mut hand = Hand::new();
    let long = format!("select '{}'; set x = 1", "a".repeat(300_000));
    let bytes = message(tag::QUERY, &[long.as_bytes(), b"\0"].concat());
    let (step, sent, _) = hand.send(&bytes[..270_000]);
    assert_eq!(step, Step::Taken { consumed: 270_000, remaining: bytes.len() - 270_000, forward: true });
    assert_eq!(sent.len(), 270_000);
    assert_eq!(hand.server.touched, Taints::ASKABLE);
    assert!(hand.server.hold && hand.server.unsettled);
}

/// 900 MB don't fit into memory, nor need they.
#[test]
fn large_messages_stream() {
    const LEN: usize = 900 << 20;
    for (tag, start) in [
        (tag::BIND, &b"\0s\0\0\0"[..]),
        (tag::COPY_DATA, b"x"),
        (tag::FUNCTION_CALL, b"\0\0\x03\xb8"),
        (tag::EXECUTE, b""),
    ] {
        let mut hand = Hand::new();
        hand.send_item(&query("copy t to stdout"));
        let mut bytes = Vec::new();
        frame::header(&mut bytes, tag, LEN);
        bytes.extend_from_slice(start);
        let (step, sent, _) = hand.send(&bytes);
        let remaining = LEN - start.len();
        assert_eq!(step, Step::Taken { consumed: bytes.len(), remaining, forward: true }, "{tag}");
        assert_eq!(sent, bytes);
    }
    for tag in [answer::DATA_ROW, answer::COPY_DATA, answer::NOTICE_RESPONSE] {
        let mut hand = Hand::new();
        hand.send_item(&query("select 1"));
        let mut bytes = Vec::new();
        frame::header(&mut bytes, tag, LEN);
        bytes.extend_from_slice(b"start");
        assert_eq!(hand.answer(&bytes), bytes);
        assert!(hand.server.partial);
    }
}

#[test]
fn what_must_be_held_whole_is_bounded() {
    let mut hand = Hand::new();
    for tag in [tag::PARSE, tag::DESCRIBE, tag::CLOSE] {
        let mut bytes = Vec::new();
        frame::header(&mut bytes, tag, 2 << 20);
        let (mut out, mut own) = (Output::default(), Vec::new());
        let mut path = ClientPath {
            client: &mut hand.client,
            server: &mut hand.server,
            tables: &hand.tables,
            max_packet_size: 1 << 20,
            to_server: &mut out,
            to_client: &mut own,
            flushes_own: false,
        };
        assert!(path.message(&bytes, 0).is_err(), "{tag}");
    }
}

/// A reply given in the server's place must not come amid one of the server's.
#[test]
fn nothing_is_put_into_a_message_that_comes_in_parts() {
    let mut hand = Hand::new();
    hand.send_item(&parse("a", "select 1"));
    hand.send_item(&Item::Sync);
    hand.answer_empty(b"1");
    hand.answer_ready();
    hand.send_item(&query("select notice"));
    let notice = message(answer::NOTICE_RESPONSE, b"SNOTICE\0\0");
    hand.answer(&notice[..8]);
    hand.answer(&[]);
    let mut idle = Hand::new();
    std::mem::swap(&mut idle.server.pipeline, &mut hand.server.pipeline);
    assert!(hand.server.partial);
    for item in [parse("b", "select 1"), Item::CloseStatement("a".into())] {
        let (_, sent, own) = hand.send_item(&item);
        assert!(!sent.is_empty() && own.is_empty(), "the server is asked to answer itself");
    }
    let (_, _, own) = hand.send_item(&Item::Flush);
    assert!(own.is_empty());
}

/// RowDescription ends a Describe: what is due behind it comes with its last byte, not with the next message.
#[test]
fn what_is_due_behind_a_description_comes_at_once() {
    let mut hand = Hand::new();
    for item in
        [parse("a", "select 1"), Item::DescribeStatement("a".into()), Item::CloseStatement("a".into()), Item::Flush]
    {
        hand.send_item(&item);
    }
    hand.answer_empty(b"1");
    hand.answer(&message(answer::PARAMETER_DESCRIPTION, b"\0\0"));
    let row = message(answer::ROW_DESCRIPTION, b"\0\0");
    assert!(hand.answer(&row[..6]).is_empty());
    assert_eq!(hand.answer(&row), [row, message(answer::CLOSE_COMPLETE, b"")].concat());
}

#[test]
fn requests_in_flight_are_bounded() {
    let mut hand = Hand::new();
    let mut sent = 0;
    while hand.send_item(&parse("", "select 1")).0 != Step::Blocked {
        sent += 1;
    }
    assert_eq!(sent, Pipeline::LIMIT);
    hand.answer_empty(b"1");
    assert_ne!(hand.send_item(&Item::Sync).0, Step::Blocked);
    // Those that Carpool answers itself are answered then, so that they can't pile up.
    let mut hand = Hand::new();
    for _ in 0..3 * Pipeline::LIMIT {
        assert_ne!(hand.send_item(&Item::CloseStatement("s".into())).0, Step::Blocked);
    }
}

/// The client never sent a Sync for it, so it must not get an answer.
#[test]
fn a_sync_during_copy_data_is_not_sent() {
    let mut hand = Hand::new();
    hand.send_item(&query("copy t from stdin"));
    assert_eq!(hand.send_item(&Item::Sync).0, Step::Blocked, "whether it begins isn't known");
    hand.answer(&message(answer::COPY_IN_RESPONSE, b"\0\0\0"));
    for item in [Item::Sync, Item::Flush] {
        let (step, sent, _) = hand.send_item(&item);
        assert!(matches!(step, Step::Taken { forward: false, .. }) && sent.is_empty());
    }
    assert!(!hand.send_item(&Item::CopyData("1\n")).1.is_empty());
    assert!(!hand.send_item(&Item::CopyDone).1.is_empty());
    assert_eq!(hand.send_item(&Item::Sync).0, Step::Blocked, "the query's own end comes first");
}

/// A reset after CopyDone, in the same text: what is sent meanwhile waits.
#[test]
fn copy_data_is_not_held_back_by_what_its_text_forgets() {
    assert_script(&[
        batch(&[&[query("copy t from stdin; deallocate all"), Item::CopyData("1\n"), Item::CopyDone]]),
        batch(&[&[parse("a", "select 1")], &execute("a"), &[Item::Sync]]),
    ]);
}

/// A portal is what it was bound to, whatever was bound since.
#[test]
fn portals_are_told_apart() {
    let bind = |portal: &str, name: &str| Item::Bind(portal.into(), name.into(), 0);
    let run = |portal: &str| Item::Execute(portal.into(), 0);
    assert_script(&[
        batch(&[&[parse("a", "select 1"), parse("all", "deallocate all"), parse("b", "select 2"), Item::Sync]]),
        batch(&[&[
            query("begin"),
            bind("p", "all"),
            bind("q", "b"),
            run("p"),
            parse("a", "select 3"),
            bind("r", "a"),
            run("r"),
            run("q"),
            Item::Sync,
            query("commit"),
        ]]),
        batch(&[&execute("a"), &[Item::Sync], &execute("b"), &[Item::Sync]]),
    ]);
}

/// What one client bound and never executed is nothing to the next.
#[test]
fn portals_end_with_their_transaction() {
    let mut hand = Hand::new();
    hand.send_item(&parse("d", "deallocate all"));
    hand.send_item(&Item::Bind(String::new(), "d".into(), 0));
    hand.send_item(&Item::Sync);
    hand.answer_empty(b"12");
    hand.answer_ready();
    let (_, sent, _) = hand.send_item(&Item::Execute(String::new(), 0));
    assert!(!hand.server.hold);
    assert_eq!(readable(&sent).len(), 1, "no Flush");
}

/// Names count up to their 63rd byte, as in PostgreSQL.
#[test]
fn long_names() {
    let name = |end: char| format!("{}{end}", "n".repeat(63));
    let world = one_client(&[
        batch(&[&[parse(&name('a'), "select 1"), Item::Sync]]),
        batch(&[&[
            Item::Bind(String::new(), name('b'), 0),
            Item::Execute(String::new(), 0),
            parse(&name('c'), "select 2"),
            Item::Sync,
        ]]),
    ]);
    let lines = readable(&world.clients[0].received);
    assert!(lines[2].starts_with('2') && lines[5].contains("42P05"), "{lines:#?}");
}

#[test]
fn a_dummy_is_never_a_clients() {
    let world = one_client(&[
        batch(&[&[parse("a", "select 1"), parse("a", "select 2"), Item::Sync]]),
        batch(&[&[Item::Bind(String::new(), String::from_utf8(DUMMY.to_vec()).unwrap(), 0), Item::Sync]]),
        batch(&[&[query("deallocate carpool_0")]]),
    ]);
    let lines = readable(&world.clients[0].received);
    let errors: Vec<_> = lines.iter().filter(|l| l.starts_with("E ")).collect();
    assert_eq!(errors.len(), 3, "{lines:#?}");
    for error in &errors[1..] {
        assert!(error.contains("prepared statement \\\"carpool_0\\\" does not exist"), "{error}");
    }
}

/// More is parsed of a client's statements than the server keeps: the one in use is never closed under it.
#[test]
fn eviction_while_bound() {
    let names = ["a", "b", "c", "d"];
    let prepared: Vec<_> = names.iter().map(|n| parse(n, "select rows")).chain([Item::Sync]).collect();
    let bound: Vec<_> = names.iter().map(|n| Item::Bind((*n).to_owned(), (*n).to_owned(), 0)).collect();
    let executed: Vec<_> = names.iter().map(|n| Item::Execute((*n).to_owned(), 1)).collect();
    assert_script(&[
        batch(&[&prepared]),
        batch(&[
            &[query("begin")],
            &bound,
            &executed,
            &[Item::Sync],
            &executed,
            &executed,
            &[Item::Sync, query("commit")],
        ]),
    ]);
}

#[test]
fn a_client_without_a_server_is_answered() {
    let mut client = Hand::new().client;
    client.skipping = true;
    let mut answer = Vec::new();
    let mut take = |client: &mut ClientState, item: Option<&Item>| {
        let mut bytes = Vec::new();
        match item {
            Some(item) => item.put(&mut bytes),
            None => frame::header(&mut bytes, tag::TERMINATE, 0),
        }
        for end in 0..bytes.len().min(5) {
            assert_eq!(local(client, &bytes[..end], 0, &mut answer).unwrap(), Local::More);
        }
        let step = local(client, &bytes, 0, &mut answer).unwrap();
        (step, readable(&std::mem::take(&mut answer)))
    };
    let taken = |bytes| Local::Taken { consumed: bytes, remaining: 0 };
    assert_eq!(take(&mut client, Some(&query("select 1"))), (taken(14), vec![]), "skipped");
    assert_eq!(take(&mut client, Some(&Item::Sync)), (taken(5), vec!["Z I".to_owned()]));
    assert_eq!(take(&mut client, Some(&query("select 1"))).0, Local::NeedsServer);
    assert_eq!(take(&mut client, Some(&Item::Flush)), (taken(5), vec![]));
    assert_eq!(take(&mut client, Some(&Item::CopyData("x"))), (taken(6), vec![]));
    assert_eq!(take(&mut client, Some(&Item::CloseStatement("s".into()))), (taken(8), vec!["3 ".to_owned()]));
    assert_eq!(take(&mut client, Some(&Item::DescribePortal(String::new()))).0, Local::NeedsServer);
    assert_eq!(take(&mut client, None).0, Local::Terminate);
}

/// Every message, cut at every byte: nothing is taken before what must be read is there, and nothing panics.
#[test]
fn truncation_at_every_byte() {
    let items = [
        parse("s", "select $1"),
        Item::Bind("p".into(), "s".into(), 1),
        Item::DescribeStatement("s".into()),
        Item::DescribePortal("p".into()),
        Item::Execute("p".into(), 0),
        Item::CloseStatement("s".into()),
        Item::Sync,
        Item::Flush,
        query("deallocate all"),
        Item::FunctionCall(true),
        Item::CopyData("data"),
    ];
    for item in &items {
        let mut bytes = Vec::new();
        item.put(&mut bytes);
        for end in 0..bytes.len() {
            let mut hand = Hand::new();
            hand.send_item(&parse("s", "select $1"));
            let (step, sent, _) = hand.send(&bytes[..end]);
            match step {
                Step::More => assert!(sent.is_empty(), "{item:?} at {end}"),
                Step::Taken { consumed, remaining, .. } => {
                    assert_eq!((consumed, consumed + remaining), (end, bytes.len()))
                }
                other => panic!("{other:?}: {item:?} at {end}"),
            }
        }
    }
}

/// The same for servers' messages.
#[test]
fn truncation_of_replies_at_every_byte() {
    let bodies: [(u8, &[u8]); 8] = [
        (answer::PARAMETER_STATUS, b"DateStyle\0SQL\0"),
        (answer::NOTICE_RESPONSE, b"SNOTICE\0\0"),
        (answer::NOTIFICATION_RESPONSE, b"\0\0\0\x01channel\0payload\0"),
        (answer::ERROR_RESPONSE, b"SERROR\0C42P01\0Mno\0\0"),
        (answer::ROW_DESCRIPTION, b"\0\0"),
        (answer::DATA_ROW, b"\0\x01\0\0\0\x06Z\0\0\0\x05I"),
        (answer::COMMAND_COMPLETE, b"SELECT 1\0"),
        (answer::READY_FOR_QUERY, b"I"),
    ];
    for (tag, body) in bodies {
        let bytes = message(tag, body);
        for end in 0..bytes.len() {
            let mut hand = Hand::new();
            hand.send_item(&query("select 1"));
            let got = hand.answer(&bytes[..end]);
            assert!(got.is_empty() || got == bytes[..end], "{tag} at {end}");
        }
        let mut hand = Hand::new();
        hand.send_item(&query("select 1"));
        assert_eq!(hand.answer(&bytes), bytes);
    }
}

/// Random bytes from either side never panic.
#[test]
fn arbitrary_bytes() {
    let mut next = super::choices(7);
    for _ in 0..2000 {
        let mut hand = Hand::new();
        hand.send_item(&query("select 1"));
        let tags = b"PBDCESHQFdcfX123tTnDCIsGHZNASEKRWv";
        let mut bytes = vec![tags[next.below(tags.len())], 0, 0, 0];
        bytes.push(4 + u8::try_from(next.below(20)).unwrap());
        bytes.extend((0..next.below(24)).map(|_| u8::try_from(next.below(4) * 29).unwrap()));
        let (mut out, mut own) = (Output::default(), Vec::new());
        let mut path = ClientPath {
            client: &mut hand.client,
            server: &mut hand.server,
            tables: &hand.tables,
            max_packet_size: 1 << 20,
            to_server: &mut out,
            to_client: &mut own,
            flushes_own: false,
        };
        let _ = path.message(&bytes, 0);
        let (mut out, mut events) = (Output::default(), Events::default());
        let mut path = ServerPath {
            client: &mut hand.client,
            server: &mut hand.server,
            tables: &hand.tables,
            to_client: &mut out,
            to_server: &mut own,
            events: &mut events,
        };
        let _ = path.message(&bytes, 0);
        let _ = request::local(&mut hand.client, &bytes, 0, &mut own);
    }
}

/// In a transaction block, too, RESET ALL brings back what the client started with, for what follows in it.
#[test]
fn reset_all_in_a_transaction() {
    for end in ["commit", "rollback"] {
        assert_script(&[
            batch(&[&[query("begin"), query("set datestyle = 'german'")]]),
            batch(&[&[query("reset all"), query("show datestyle"), query(end), query("show datestyle")]]),
            batch(&[&[query("set datestyle = 'german'"), query("begin"), query("reset all")]]),
            batch(&[&[query("show datestyle"), query(end), query("show datestyle")]]),
        ]);
    }
}

/// What comes behind a reset begins on what the client started with, however much is sent ahead.
#[test]
fn resets_of_one_parameter() {
    let show = [vec![parse("", "show datestyle")], execute(""), vec![Item::Sync]].concat();
    for reset in
        [vec![query("reset datestyle")], [vec![parse("r", "reset datestyle")], execute("r"), vec![Item::Sync]].concat()]
    {
        assert_script(&[
            batch(&[&[query("set datestyle = 'german'")], &reset, &show, &[query("begin")], &show]),
            batch(&[&[query("set datestyle = 'german'")], &reset, &show, &[query("commit")], &show]),
        ]);
    }
}

/// Taking back a skipped Parse of the unnamed statement must not take back what was sent behind the Sync.
#[test]
fn an_undo_does_not_reach_behind_the_sync() {
    let mut hand = Hand::new();
    hand.send_item(&parse("", "select 1"));
    hand.send_item(&Item::Sync);
    hand.answer_empty(b"1");
    hand.answer_ready();
    for item in [Item::DescribePortal("no".into()), parse("", "select 2"), Item::Sync, query("select 3")] {
        hand.send_item(&item);
    }
    hand.answer(&message(answer::ERROR_RESPONSE, b"SERROR\0C34000\0\0"));
    hand.answer_ready();
    assert!(hand.server.statements.unnamed.is_none() && hand.client.statements.unnamed.is_none());
}

/// A function may set what no text showed: what was parsed meanwhile may have been read under either value.
#[test]
fn what_is_parsed_while_settings_change_unseen_is_parsed_again() {
    let mut hand = Hand::new();
    hand.send_item(&parse("before", "select 1"));
    hand.send_item(&Item::Sync);
    hand.answer_empty(b"1");
    hand.answer_ready();
    hand.send_item(&query("insert into triggered values (1)"));
    hand.send_item(&parse("meanwhile", "select 2"));
    hand.send_item(&Item::Sync);
    hand.answer(&message(answer::PARAMETER_STATUS, b"DateStyle\0SQL\0"));
    let presence = |name: &[u8]| hand.server.statements.presence(&hand.client.statements.named[name].statement);
    assert_eq!((presence(b"before"), presence(b"meanwhile")), (Presence::Current, Presence::Stale));
}

/// Behind a SET in the same batch nobody knows the settings: such a statement is nobody else's.
#[test]
fn what_is_parsed_behind_a_set_is_not_shared() {
    let mut hand = Hand::new();
    for item in
        [parse("set", "set datestyle = 'sql'"), Item::Bind(String::new(), "set".into(), 0), parse("s", "select 1")]
    {
        hand.send_item(&item);
    }
    assert!(hand.client.statements.named[&b"s"[..]].statement.context().is_unshared());
    hand.send_item(&Item::Sync);
    hand.answer_empty(b"121");
    hand.answer_ready();
    // From now on it is known what its text means.
    hand.server = ServerState::new(Arc::clone(&hand.client.settings), 10);
    hand.server.keeping = Keeping::Never;
    hand.send_item(&execute("s")[0]);
    assert!(!hand.client.statements.named[&b"s"[..]].statement.context().is_unshared());
}

/// A transaction that has failed, though ReadyForQuery has not said so yet, lets no Parse through.
#[test]
fn no_parse_is_answered_while_the_transaction_may_have_failed() {
    let mut hand = Hand::new();
    hand.send_item(&parse("a", "select 1"));
    hand.send_item(&query("begin"));
    hand.answer_empty(b"1");
    hand.answer(&[message(answer::COMMAND_COMPLETE, b"BEGIN\0"), message(answer::READY_FOR_QUERY, b"T")].concat());
    assert!(hand.send_item(&parse("b", "select 1")).1.is_empty(), "answered in the server's place");
    hand.send_item(&Item::Execute("no".into(), 0));
    hand.send_item(&Item::Sync);
    hand.answer(&message(answer::ERROR_RESPONSE, b"SERROR\0C34000\0\0"));
    assert!(!hand.send_item(&parse("c", "select 1")).1.is_empty());
}

/// Nor while a table may be dropped.
#[test]
fn no_parse_is_answered_after_a_schema_change() {
    let mut hand = Hand::new();
    hand.send_item(&parse("a", "select 1"));
    hand.send_item(&Item::Sync);
    hand.answer_empty(b"1");
    hand.answer_ready();
    assert!(hand.send_item(&parse("b", "select 1")).1.is_empty());
    hand.send_item(&query("drop table t"));
    assert!(!hand.send_item(&parse("c", "select 1")).1.is_empty());
    hand.send_item(&Item::Sync);
    hand.answer(&message(answer::COMMAND_COMPLETE, b"DROP TABLE\0"));
    hand.answer_ready();
    hand.answer_empty(b"31");
    hand.answer_ready();
    assert!(!hand.send_item(&parse("d", "select 1")).1.is_empty(), "prepared before the change was known");
    hand.answer_empty(b"31");
    assert!(hand.send_item(&parse("e", "select 1")).1.is_empty());
    hand.tables.statements.schema_changed();
    assert!(!hand.send_item(&parse("f", "select 1")).1.is_empty(), "another client's change");
}

/// Nor after a table was made that could hide another, by whatever command, or while there are temporary ones.
#[test]
fn no_parse_is_answered_where_a_table_may_be_hidden() {
    let known = |hand: &mut Hand| {
        hand.send_item(&parse("a", "select 1"));
        hand.send_item(&Item::Sync);
        hand.answer_empty(b"1");
        hand.answer_ready();
    };
    let extended = |text: &str| [vec![parse("", text)], execute(""), vec![Item::Sync]].concat();
    for (text, tag, hides) in [
        ("create table t as select 2", "SELECT 1", true),
        ("select 2 as a into t", "SELECT 1", true),
        ("do 'begin end'", "DO", true),
        ("create view v as select 2", "CREATE VIEW", true),
        ("import foreign schema a from server b into c", "IMPORT FOREIGN SCHEMA", true),
        ("commit prepared 'x'", "COMMIT PREPARED", true),
        ("select 2", "SELECT 1", false),
        ("insert into t values (1)", "INSERT 0 1", false),
    ] {
        for (script, replies) in [(vec![query(text)], &b""[..]), (extended(text), b"12")] {
            let mut hand = Hand::new();
            known(&mut hand);
            script.iter().for_each(|item| drop(hand.send_item(item)));
            hand.answer_empty(replies);
            hand.answer(&message(answer::COMMAND_COMPLETE, format!("{tag}\0").as_bytes()));
            hand.answer_ready();
            hand.server.touched = Taints::NONE;
            assert_eq!(hand.send_item(&parse("b", "select 1")).1.is_empty(), !hides, "{text}");
        }
    }
    let mut hand = Hand::new();
    known(&mut hand);
    hand.server.pins |= Taint::Temporary;
    assert!(!hand.send_item(&parse("b", "select 1")).1.is_empty());
    // Whether there are any is being asked; settings that are being restored change nothing.
    for asks in [true, false] {
        let mut hand = Hand::new();
        known(&mut hand);
        hand.server.pipeline.push(Request::skip(Kind::Query, ServerUndo::None));
        hand.server.probe =
            asks.then(|| Box::new(Probe::new(Taint::Temporary.into(), &[], None, Unknown::default()).0));
        assert_eq!(hand.send_item(&parse("b", "select 1")).1.is_empty(), !asks);
    }
}

/// A portal's name that is bound anew means what it is bound to.
#[test]
fn a_portal_bound_again_waits_for_nothing() {
    let mut hand = Hand::new();
    for item in [parse("all", "deallocate all"), parse("a", "select 1")] {
        hand.send_item(&item);
    }
    for name in ["all", "a"] {
        hand.send_item(&Item::Bind(String::new(), name.into(), 0));
    }
    hand.send_item(&Item::Execute(String::new(), 0));
    assert!(!hand.server.hold);
}
