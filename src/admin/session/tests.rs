use super::*;
use crate::admin::tests::Stand;
use crate::client::Context;
use crate::client::door;
use crate::client::registry::order;
use crate::client::registry::{Admission, ClientKind, Identity, Registered, Registry};
use crate::config::SetError;
use crate::net::Peer;
use crate::protocol::settings::Settings;
use crate::wire::frame;

/// A session and what it stands on.
struct Scene {
    session: Session,
    me: Registered,
    stand: Stand,
}

impl Scene {
    fn new(is_admin: bool) -> Self {
        let stand = Stand::new(&[]);
        let me = register(&stand.admin.context);
        let session = Session::new(Arc::clone(&stand.admin), Arc::clone(&me.shared), is_admin);
        Self { session, me, stand }
    }

    /// Sends messages one after the other; gives the answers as tags and bodies.
    async fn say(&mut self, messages: &[(u8, &[u8])]) -> Vec<(u8, Vec<u8>)> {
        let mut out = Vec::new();
        for (tag, body) in messages {
            assert_eq!(self.session.message(*tag, body, &mut out).await.unwrap(), Flow::Continue);
        }
        let (mut rest, mut answers) = (&out[..], Vec::new());
        while let Some((header, body)) = frame::whole(rest).unwrap() {
            answers.push((header.tag, body.to_vec()));
            rest = &rest[header.total_len()..];
        }
        answers
    }

    async fn tags(&mut self, messages: &[(u8, &[u8])]) -> String {
        self.say(messages).await.iter().map(|(tag, _)| char::from(*tag)).collect()
    }

    /// The code of the first error that a query gives.
    async fn code(&mut self, query: &str) -> String {
        let answers = self.say(&[(tag::QUERY, &[query.as_bytes(), b"\0"].concat())]).await;
        let error = answers.iter().find(|(tag, _)| *tag == reply::ERROR_RESPONSE);
        let code = error.and_then(|(_, body)| backend::error_field(body, b'C'));
        String::from_utf8(code.unwrap_or_default().to_vec()).unwrap()
    }
}

fn register(context: &Arc<Context>) -> Registered {
    let identity = Identity {
        user: "u".into(),
        database: "pgbouncer".into(),
        kind: ClientKind::Console,
        peer: Peer::Unix,
        local: None,
        tls: None,
        protocol: crate::wire::startup::PROTOCOL_3_0,
    };
    let config = context.config.load_full();
    let entering = door::enter(context, &config.pooler, Peer::Unix);
    let entrant = futures_util::FutureExt::now_or_never(entering).unwrap().unwrap();
    Registry::register(Admission::new(entrant, &config).unwrap(), identity, Arc::new(Settings::default()))
}

const PARSE: (u8, &[u8]) = (tag::PARSE, b"\0show state\0\0\0");
const BIND: (u8, &[u8]) = (tag::BIND, b"\0\0\0\0\0\0\0\0");
const DESCRIBE: (u8, &[u8]) = (tag::DESCRIBE, b"P\0");
const EXECUTE: (u8, &[u8]) = (tag::EXECUTE, b"\0\0\0\0\0");
const SYNC: (u8, &[u8]) = (tag::SYNC, b"");

#[tokio::test]
async fn simple_queries() {
    let mut scene = Scene::new(true);
    assert_eq!(scene.tags(&[(tag::QUERY, b"show state\0")]).await, "TDDDCZ");
    assert_eq!(scene.tags(&[(tag::QUERY, b"\0")]).await, "IZ");
    assert_eq!(scene.tags(&[(tag::QUERY, b"show version; bad; show version\0")]).await, "TDCEZ");
    assert_eq!(scene.tags(&[(tag::QUERY, b"show help\0")]).await, "NCZ");
    assert_eq!(scene.code(&"show state;".repeat(9)).await, "54000");
}

#[tokio::test]
async fn the_extended_protocol() {
    let mut scene = Scene::new(true);
    assert_eq!(scene.tags(&[PARSE, (tag::DESCRIBE, b"S\0"), SYNC]).await, "1tTZ");
    assert_eq!(scene.tags(&[BIND, DESCRIBE, EXECUTE, SYNC]).await, "2TDDDCZ");
    assert_eq!(scene.tags(&[(tag::PARSE, b"\0reload\0\0\0"), BIND, DESCRIBE, SYNC]).await, "12nZ");
    assert_eq!(scene.tags(&[(tag::PARSE, b"\0\0\0\0"), BIND, EXECUTE, SYNC]).await, "12IZ");
}

#[tokio::test]
async fn an_error_drops_everything_up_to_sync() {
    let mut scene = Scene::new(true);
    let bad = (tag::PARSE, &b"\0bad\0\0\0"[..]);
    assert_eq!(scene.tags(&[bad, PARSE, BIND, EXECUTE, (tag::QUERY, b"show state\0")]).await, "E");
    assert_eq!(scene.tags(&[SYNC, PARSE, BIND, EXECUTE, SYNC]).await, "Z12DDDCZ");
    assert_eq!(scene.tags(&[EXECUTE, SYNC]).await, "EZ", "the portal went with its transaction");
    let parameters = (tag::BIND, &b"\0\0\0\0\0\x01\0\0\0\x01x\0\0"[..]);
    assert_eq!(scene.tags(&[parameters, SYNC]).await, "EZ");
}

#[tokio::test]
async fn a_portal_gives_its_rows_in_parts() {
    let mut scene = Scene::new(true);
    let two = (tag::EXECUTE, &b"\0\0\0\0\x02"[..]);
    assert_eq!(scene.tags(&[PARSE, BIND, two, two, two, SYNC]).await, "12DDsDCCZ");
    assert_eq!(scene.tags(&[(tag::QUERY, b"begin\0"), PARSE, BIND, two, SYNC]).await, "CZ12DDsZ");
    let rest = scene.say(&[two, SYNC, (tag::QUERY, b"commit\0")]).await;
    let ready: Vec<_> = rest.iter().filter(|(t, _)| *t == reply::READY_FOR_QUERY).map(|(_, b)| b[0]).collect();
    assert_eq!(ready, b"TI");
    assert_eq!(scene.tags(&[two, SYNC]).await, "EZ");
}

#[tokio::test]
async fn statements_have_names_and_a_bound() {
    let mut scene = Scene::new(true);
    let named = (tag::PARSE, &b"s\0show state\0\0\0"[..]);
    assert_eq!(scene.tags(&[named, SYNC, named, SYNC]).await, "1ZEZ");
    assert_eq!(scene.code("deallocate s").await, "");
    assert_eq!(scene.code("deallocate s").await, "26000");
    assert_eq!(scene.tags(&[named, (tag::CLOSE, b"Ss\0"), (tag::CLOSE, b"Snone\0"), named, SYNC]).await, "1331Z");
    for i in 1..NAMED_LIMIT {
        assert_eq!(scene.tags(&[(tag::PARSE, format!("n{i}\0show state\0\0\0").as_bytes())]).await, "1");
    }
    assert_eq!(scene.tags(&[PARSE, SYNC]).await, "EZ");
}

/// All that changes anything, or hands out sockets.
const FOR_ADMINS: [&str; 24] = [
    "reload",
    "shutdown",
    "shutdown wait_for_servers",
    "shutdown wait_for_clients",
    "kill_client 1",
    "kill_client 0x1",
    "pause",
    "pause app",
    "pause app 5s",
    "pause timeout 5s",
    "resume",
    "resume app",
    "reconnect",
    "kill app",
    "wait_close app",
    "disable app",
    "enable app",
    "suspend",
    "set pool_mode = session",
    "set log_level to 'debug'",
    "show fds",
    " RELOAD ; ",
    "\"shutdown\"",
    "show state; reload",
];

/// CVE-2026-6667.
#[tokio::test]
async fn only_admins_change_anything() {
    let mut scene = Scene::new(false);
    for query in FOR_ADMINS {
        assert_eq!(scene.code(query).await, "08P01", "{query}");
        // By the extended protocol, too, at the latest when it is executed.
        if !query.contains("state") {
            let parse = [b"\0", query.as_bytes(), b"\0\0\0"].concat();
            let answers = scene.say(&[(tag::PARSE, &parse), BIND, EXECUTE, SYNC]).await;
            let error = answers.iter().find(|(tag, _)| *tag == reply::ERROR_RESPONSE);
            let code = error.and_then(|(_, body)| backend::error_field(body, b'C'));
            assert_eq!(code, Some(&b"08P01"[..]), "{query}");
        }
    }
    assert_eq!(scene.tags(&[(tag::QUERY, b"show clients\0")]).await, "TDCZ");
    assert!(scene.stand.orders.try_recv().is_err());
}

#[tokio::test]
async fn errors_have_their_codes() {
    let mut scene = Scene::new(true);
    for (query, code) in [
        ("nonsense", "08P01"),
        ("pause nowhere", ""),
        ("resume nowhere", ""),
        ("resume nowhere", "08P01"),
        ("resume nobody", "08P01"),
        ("pause pgbouncer", "08P01"),
        ("disable", "08P01"),
        ("show fds", ""),
        ("kill_client x", "08P01"),
        ("kill_client 99", "08P01"),
        ("set datestyle to iso", ""),
    ] {
        assert_eq!(scene.code(query).await, code, "{query}");
    }
}

#[tokio::test]
async fn kill_client_ends_that_client() {
    let mut scene = Scene::new(true);
    let other = register(scene.me.context());
    assert_eq!(scene.code(&format!("kill_client {}", other.shared.id.0)).await, "");
    assert_eq!(other.shared.orders(), order::END_NOW);
    assert_eq!(other.shared.end_error().unwrap().code, SqlState::ADMIN_SHUTDOWN);
    assert_eq!(scene.me.shared.orders(), 0);
}

#[tokio::test]
async fn orders_go_to_the_composition_and_failures_come_back() {
    let mut scene = Scene::new(true);
    let Scene { session, stand, .. } = &mut scene;
    for (query, want, outcome, code) in [
        ("reload", Order::Reload, Ok(Plan::default()), None),
        ("reload", Order::Reload, Err(Failure::Reload("c.toml:1: what is wrong".to_owned())), Some("F0000")),
        ("shutdown", Order::StopNow, Ok(Plan::default()), None),
        ("shutdown wait_for_servers", Order::StopAfterTransactions, Ok(Plan::default()), None),
        ("shutdown wait_for_clients", Order::StopAfterClients, Ok(Plan::default()), None),
        ("set x = 'y z'", Order::Set("x".into(), "y z".into()), Ok(Plan::default()), None),
        ("set x = y", Order::Set("x".into(), "y".into()), Err(SetError::Fixed("x".into()).into()), Some("08P01")),
        ("set x = y", Order::Set("x".into(), "y".into()), Err(Failure::Gone), Some("08P01")),
    ] {
        let mut out = Vec::new();
        let carry_out = async {
            let request = stand.orders.recv().await.unwrap();
            assert_eq!(request.order, want);
            request.outcome.send(outcome).unwrap();
        };
        let body = [query.as_bytes(), b"\0"].concat();
        let (flow, ()) = tokio::join!(session.message(tag::QUERY, &body, &mut out), carry_out);
        assert_eq!(flow.unwrap(), Flow::Continue);
        let (header, body) = frame::whole(&out).unwrap().unwrap();
        match code {
            None => assert_eq!(header.tag, reply::COMMAND_COMPLETE, "{query}"),
            Some(code) => {
                assert_eq!(backend::error_field(body, b'C'), Some(code.as_bytes()));
                let detail = (code == "F0000").then_some(&b"c.toml:1: what is wrong"[..]);
                assert_eq!(backend::error_field(body, b'D'), detail);
            }
        }
    }
}

#[tokio::test]
async fn malformed_messages_end_the_session() {
    let mut scene = Scene::new(true);
    let mut out = Vec::new();
    for (tag, body) in [(tag::QUERY, &b"no zero"[..]), (tag::PARSE, b"\0"), (b'!', b"")] {
        assert!(scene.session.message(tag, body, &mut out).await.is_err());
    }
    assert_eq!(scene.session.message(tag::TERMINATE, b"", &mut out).await.unwrap(), Flow::Terminate);
}

proptest::proptest! {
    #[test]
    fn arbitrary_messages_never_panic(messages: Vec<(u8, Vec<u8>)>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut scene = Scene::new(false);
            for (tag, body) in messages {
                let mut out = Vec::new();
                let tag = b"QPBDECSHF"[usize::from(tag) % 9];
                let _ = scene.session.message(tag, &body, &mut out).await;
                while let Some((header, _)) = frame::whole(&out).unwrap() {
                    out.drain(..header.total_len());
                }
                assert!(out.is_empty());
            }
        });
    }
}
