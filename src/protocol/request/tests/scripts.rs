//! Random client scripts.

use proptest::prelude::*;

use crate::wire::frame;
use crate::wire::frontend::tag;

/// One message of a client.
#[derive(Clone)]
pub(super) enum Item {
    Parse(String, String, Vec<u32>),
    /// Portal, statement, number of parameters.
    Bind(String, String, usize),
    DescribeStatement(String),
    DescribePortal(String),
    /// Portal, most rows.
    Execute(String, u32),
    CloseStatement(String),
    ClosePortal(String),
    Sync,
    Flush,
    Query(String),
    /// Whether the function exists.
    FunctionCall(bool),
    CopyData(&'static str),
    CopyDone,
    CopyFail,
}

impl std::fmt::Debug for Item {
    /// One line, also in proptest's reports.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Parse(name, text, types) => write!(f, "Parse {name:?} {text:?} {types:?}"),
            Self::Bind(portal, name, n) => write!(f, "Bind {portal:?} {name:?} {n}"),
            Self::DescribeStatement(name) => write!(f, "Describe S {name:?}"),
            Self::DescribePortal(name) => write!(f, "Describe P {name:?}"),
            Self::Execute(portal, most) => write!(f, "Execute {portal:?} {most}"),
            Self::CloseStatement(name) => write!(f, "Close S {name:?}"),
            Self::ClosePortal(name) => write!(f, "Close P {name:?}"),
            Self::Sync => write!(f, "Sync"),
            Self::Flush => write!(f, "Flush"),
            Self::Query(text) => write!(f, "Query {text:?}"),
            Self::FunctionCall(exists) => write!(f, "FunctionCall {exists}"),
            Self::CopyData(line) => write!(f, "CopyData {line:?}"),
            Self::CopyDone => write!(f, "CopyDone"),
            Self::CopyFail => write!(f, "CopyFail"),
        }
    }
}

impl Item {
    /// With another text, where it has one.
    pub(super) fn map_text(self, f: impl Fn(&str) -> String) -> Self {
        match self {
            Self::Parse(name, text, types) => Self::Parse(name, f(&text), types),
            Self::Query(text) => Self::Query(f(&text)),
            other => other,
        }
    }

    /// Appends its bytes.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let cstr = frame::put_cstr;
        let target = |out: &mut Vec<u8>, message, kind, name: &str| {
            frame::message(out, message, |b| {
                b.push(kind);
                cstr(b, name.as_bytes());
            });
        };
        match self {
            Self::Parse(name, text, types) => frame::message(out, tag::PARSE, |b| {
                cstr(b, name.as_bytes());
                cstr(b, text.as_bytes());
                b.extend_from_slice(&u16::try_from(types.len()).unwrap().to_be_bytes());
                types.iter().for_each(|t| b.extend_from_slice(&t.to_be_bytes()));
            }),
            Self::Bind(portal, name, count) => frame::message(out, tag::BIND, |b| {
                cstr(b, portal.as_bytes());
                cstr(b, name.as_bytes());
                b.extend_from_slice(&[0, 0]);
                b.extend_from_slice(&u16::try_from(*count).unwrap().to_be_bytes());
                for _ in 0..*count {
                    b.extend_from_slice(b"\0\0\0\x05Z\0\0\0\x05");
                }
                b.extend_from_slice(&[0, 0]);
            }),
            Self::DescribeStatement(name) => target(out, tag::DESCRIBE, b'S', name),
            Self::DescribePortal(name) => target(out, tag::DESCRIBE, b'P', name),
            Self::CloseStatement(name) => target(out, tag::CLOSE, b'S', name),
            Self::ClosePortal(name) => target(out, tag::CLOSE, b'P', name),
            Self::Execute(portal, most) => frame::message(out, tag::EXECUTE, |b| {
                cstr(b, portal.as_bytes());
                b.extend_from_slice(&most.to_be_bytes());
            }),
            Self::Sync => frame::header(out, tag::SYNC, 0),
            Self::Flush => frame::header(out, tag::FLUSH, 0),
            Self::Query(text) => frame::message(out, tag::QUERY, |b| cstr(b, text.as_bytes())),
            Self::FunctionCall(exists) => frame::message(out, tag::FUNCTION_CALL, |b| {
                b.extend_from_slice(if *exists { &[0, 0, 3, 184] } else { &[0; 4] });
                b.extend_from_slice(&[0; 6]);
            }),
            Self::CopyData(line) => frame::message(out, tag::COPY_DATA, |b| b.extend_from_slice(line.as_bytes())),
            Self::CopyDone => frame::header(out, tag::COPY_DONE, 0),
            Self::CopyFail => frame::message(out, tag::COPY_FAIL, |b| cstr(b, b"no")),
        }
    }
}

/// Names that two clients, or two statements of one, may well share. The last could be the pooler's own.
fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "", "a", "a", "b", "carpool_1", "carpool_0", "carpool_x"]).prop_map(str::to_owned)
}

fn portal() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "", "", "p"]).prop_map(str::to_owned)
}

/// What can be prepared and sent as a query.
fn text() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "select 1",
        "select 2",
        "select 3",
        "select rows",
        "select notice",
        "select 1/0",
        "select nothing",
        "selec",
        "insert",
        "",
        "begin",
        "begin",
        "commit",
        "commit",
        "rollback",
        "show datestyle",
        "set datestyle = 'iso'",
        "set datestyle = 'sql'",
        "set local datestyle = 'german'",
        "show application_name",
        "set application_name = 'x'",
        "set foo = 1",
        "set foo = 2",
        "show foo",
        "set bar = 1",
        "select hide(3)",
        "select hide(4)",
        "listen x",
        "copy t to stdout",
    ])
    .prop_map(str::to_owned)
}

fn prepared_text() -> impl Strategy<Value = (String, Vec<u32>)> {
    prop_oneof![
        4 => text().prop_map(|t| (t, vec![])),
        1 => prop::sample::select(vec![vec![], vec![23], vec![25]]).prop_map(|types| ("select $1".to_owned(), types)),
        1 => Just(("select 1; select 2".to_owned(), vec![])),
    ]
}

fn forgetting() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "deallocate a",
        "DEALLOCATE PREPARE b",
        "deallocate \"a\"",
        "deallocate carpool_1",
        "deallocate nosuch",
        "deallocate a; select 1",
        "deallocate a; deallocate a",
        "select 2; deallocate \"a\"; deallocate prepare b; select 1/0",
        "deallocate all; deallocate a",
        "deallocate b; deallocate nosuch; deallocate a",
        "deallocate all",
        "DISCARD ALL",
        "discard all; -- and nothing else",
        "select 1; discard all",
        "select 2; deallocate all; select 3",
        "reset foo",
        "reset datestyle",
        "reset all",
        "select 1; reset all;",
        "reset all; select 1/0",
    ])
    .prop_map(str::to_owned)
}

/// SQL-level PREPARE, which keeps its server.
fn by_sql() -> impl Strategy<Value = Vec<Item>> {
    let texts = vec![
        "prepare a as select 7",
        "prepare b as select 8",
        "prepare q as select 1",
        "begin; prepare b as select 8; commit",
        "prepare b as select 8; select 1/0",
        "deallocate q",
        "deallocate b",
    ];
    (prop::sample::select(texts), any::<bool>()).prop_map(|(text, extended)| {
        if !extended || text.contains(';') {
            return vec![Item::Query(text.to_owned())];
        }
        vec![
            Item::Parse(String::new(), text.to_owned(), vec![]),
            Item::Bind(String::new(), String::new(), 0),
            Item::Execute(String::new(), 0),
            Item::Sync,
        ]
    })
}

/// Statements of both kinds under the same names. Batches are synced before a text names a statement: what an unsynced
/// one leaves of the records isn't followed there.
pub(super) fn naming_script() -> impl Strategy<Value = Vec<(bool, Vec<Item>)>> {
    let piece = prop_oneof![
        4 => by_sql(),
        4 => naming().prop_map(|text| vec![Item::Query(text)]),
        3 => execution(),
        3 => reuse(),
        1 => name().prop_map(|name| vec![Item::CloseStatement(name), Item::Sync]),
        1 => forgetting_extended().prop_map(|mut items| {
            items.push(Item::Sync);
            items
        }),
    ];
    let batch = prop::collection::vec(piece, 1..5).prop_map(|pieces| pieces.concat());
    prop::collection::vec((any::<bool>(), batch), 1..10).prop_map(|mut batches| {
        batches.push((false, vec![Item::Sync, Item::Query("rollback".into()), Item::Sync]));
        batches
    })
}

/// What runs statements by name.
fn naming() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "execute a",
        "EXECUTE \"a\"",
        "execute b",
        "execute nosuch",
        "execute carpool_1",
        "select 1; execute a",
        "execute a; execute b",
        "deallocate a; execute a",
        "prepare a as select 9; execute a; deallocate a",
        "begin; execute b",
    ])
    .prop_map(str::to_owned)
}

fn lists() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "select 1; select 2",
        "begin; select 1",
        "select hide(5); select harmless(1)",
        "select 1; select 1/0; select 2",
        "; select 1;",
        " ; ",
        "set datestyle = 'sql'; select 1/0",
        "select 1; commit; begin; set local datestyle = 'iso'",
        "copy t to stdout; select 1",
    ])
    .prop_map(str::to_owned)
}

fn message() -> impl Strategy<Value = Vec<Item>> {
    let one = prop_oneof![
        6 => (name(), prepared_text()).prop_map(|(name, (text, types))| Item::Parse(name, text, types)),
        6 => (portal(), name(), 0usize..2).prop_map(|(portal, name, n)| Item::Bind(portal, name, n)),
        2 => name().prop_map(Item::DescribeStatement),
        2 => portal().prop_map(Item::DescribePortal),
        5 => (portal(), 0u32..3).prop_map(|(portal, most)| Item::Execute(portal, most)),
        2 => name().prop_map(Item::CloseStatement),
        1 => portal().prop_map(Item::ClosePortal),
        8 => Just(Item::Sync),
        2 => Just(Item::Flush),
        4 => text().prop_map(Item::Query),
        2 => forgetting().prop_map(Item::Query),
        1 => lists().prop_map(Item::Query),
        1 => any::<bool>().prop_map(Item::FunctionCall),
        1 => Just(Item::CopyData("stray\n")),
        1 => Just(Item::CopyDone),
    ];
    one.prop_map(|item| vec![item])
}

/// Parse, Bind and Execute as drivers send them.
fn execution() -> impl Strategy<Value = Vec<Item>> {
    (name(), prepared_text(), any::<(bool, bool, bool)>()).prop_map(|(name, (text, types), flags)| {
        let parameters = usize::from(text.contains("$1"));
        let mut items = vec![Item::Parse(name.clone(), text, types)];
        if flags.0 {
            items.push(Item::DescribeStatement(name.clone()));
            if flags.1 {
                items.push(Item::Sync);
            }
        }
        items.push(Item::Bind(String::new(), name, parameters));
        if flags.2 {
            items.push(Item::DescribePortal(String::new()));
        }
        items.extend([Item::Execute(String::new(), 0), Item::Sync]);
        items
    })
}

/// An execution of what was prepared before.
fn reuse() -> impl Strategy<Value = Vec<Item>> {
    (name(), 0usize..2).prop_map(|(name, parameters)| {
        vec![Item::Bind(String::new(), name, parameters), Item::Execute(String::new(), 0), Item::Sync]
    })
}

/// DEALLOCATE and the like through the extended protocol. (Prepared, then executed at once: what it means is
/// settled when it is bound.)
fn forgetting_extended() -> impl Strategy<Value = Vec<Item>> {
    let texts = vec!["deallocate a", "deallocate carpool_1", "deallocate nosuch", "deallocate all", "discard all"];
    (prop::sample::select(texts), any::<bool>()).prop_map(|(text, sync)| {
        let mut items = vec![
            Item::CloseStatement("d".into()),
            Item::Parse("d".into(), text.into(), vec![]),
            Item::Bind("d".into(), "d".into(), 0),
            Item::Execute("d".into(), 0),
        ];
        items.extend(sync.then_some(Item::Sync));
        items
    })
}

fn copy_in() -> impl Strategy<Value = Vec<Item>> {
    let table = prop::sample::select(vec!["t", "t", "missing", "frozen"]);
    let lines = prop::collection::vec(prop::sample::select(vec!["1\n", "Z\0\0\0\x05I", "bad\n"]), 0..4);
    (table, lines, any::<(bool, bool, bool, bool)>()).prop_map(|(table, lines, (simple, ahead, flush, fail))| {
        let text = format!("copy {table} from stdin");
        let mut items = if simple {
            vec![Item::Query(if flush { format!("select 1; {text}; select 2") } else { text })]
        } else {
            vec![
                Item::CloseStatement("c".into()),
                Item::Parse("c".into(), text, vec![]),
                Item::Bind("c".into(), "c".into(), 0),
                Item::Execute("c".into(), 0),
            ]
        };
        // Where the COPY fails before it reads the Sync, PostgreSQL answers it, else not.
        if ahead && !simple && table != "frozen" {
            items.push(Item::Sync);
        }
        if flush && !simple {
            items.push(Item::Flush);
        }
        items.extend(lines.into_iter().map(Item::CopyData));
        items.push(if fail { Item::CopyFail } else { Item::CopyDone });
        if !simple {
            items.push(Item::Sync);
        }
        items
    })
}

/// Scripts about a table that is altered: the statement `a` is described when it is prepared, `b` isn't; when
/// they are executed, they are described or not.
pub(super) fn shape_script() -> impl Strategy<Value = Vec<(bool, Vec<Item>)>> {
    let name = || prop::sample::select(vec!["a", "b"]).prop_map(str::to_owned);
    let piece = prop_oneof![
        3 => name().prop_map(|name| {
            let (text, describe) = if name == "a" { ("select shape", true) } else { ("select other", false) };
            let mut items =
                vec![Item::CloseStatement(name.clone()), Item::Parse(name.clone(), text.into(), vec![])];
            items.extend(describe.then_some(Item::DescribeStatement(name)));
            items.push(Item::Sync);
            items
        }),
        6 => (name(), any::<bool>()).prop_map(|(name, describe)| {
            let mut items = vec![Item::Bind(String::new(), name, 0)];
            items.extend(describe.then_some(Item::DescribePortal(String::new())));
            items.extend([Item::Execute(String::new(), 0), Item::Sync]);
            items
        }),
        1 => Just(vec![Item::Query("alter t".into())]),
        1 => Just(vec![Item::Query("begin".into())]),
        1 => Just(vec![Item::Query("rollback".into())]),
        1 => (Just("c".to_owned()), text()).prop_map(|(name, text)| {
            vec![Item::CloseStatement(name.clone()), Item::Parse(name, text, vec![]), Item::Sync]
        }),
    ];
    let batch = prop::collection::vec(piece, 1..4).prop_map(|pieces| pieces.concat());
    prop::collection::vec((any::<bool>(), batch), 1..10).prop_map(|mut batches| {
        batches.push((false, vec![Item::Query("rollback".into())]));
        batches
    })
}

/// Batches: whether the client waits for what went before, and what it sends. The last ends what is open.
pub(super) fn script() -> impl Strategy<Value = Vec<(bool, Vec<Item>)>> {
    let piece = prop_oneof![
        8 => message(),
        4 => execution(),
        4 => reuse(),
        1 => forgetting_extended(),
        1 => copy_in(),
    ];
    let batch = prop::collection::vec(piece, 1..6).prop_map(|pieces| pieces.concat());
    prop::collection::vec((any::<bool>(), batch), 1..10).prop_map(|mut batches| {
        batches.push((false, vec![Item::Sync, Item::Query("rollback".into()), Item::Sync]));
        batches
    })
}
