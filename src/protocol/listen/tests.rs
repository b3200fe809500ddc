use std::collections::BTreeSet;
use std::time::Instant;

use proptest::prelude::*;

use super::hub::{Due, Hub};
use super::*;
use crate::wire::backend::Notification;

fn channel(name: &str) -> Channel {
    name.as_bytes().into()
}

fn channels(names: &[&str]) -> Vec<Channel> {
    names.iter().map(|n| channel(n)).collect()
}

fn mailbox() -> Arc<Mailbox> {
    Arc::new(Mailbox::new(Waker::noop().clone(), b"marker"[..].into()))
}

fn bytes(text: &str) -> Arc<[u8]> {
    text.as_bytes().into()
}

fn taken(mailbox: &Mailbox) -> String {
    let mut out = Vec::new();
    mailbox.take(&mut out, usize::MAX);
    String::from_utf8(out).unwrap()
}

#[test]
fn nothing_passes_a_marker_before_the_other_stream_is_there() {
    let mailbox = mailbox();
    mailbox.marker_from_server(1);
    mailbox.from_server(bytes("c"));
    assert_eq!(taken(&mailbox), "");
    assert!(!mailbox.is_settled());
    mailbox.from_listener(&bytes("a"));
    mailbox.from_listener(&bytes("b"));
    assert_eq!(taken(&mailbox), "ab");
    mailbox.marker_from_listener(1);
    mailbox.marker_from_listener(2);
    mailbox.from_listener(&bytes("e"));
    assert_eq!(taken(&mailbox), "c");
    mailbox.from_server(bytes("d"));
    mailbox.marker_from_server(2);
    assert_eq!(taken(&mailbox), "de");
    assert!(mailbox.is_settled());
}

#[test]
fn a_marker_that_fails_holds_nothing_up() {
    let mailbox = mailbox();
    mailbox.marker_from_listener(1);
    mailbox.from_listener(&bytes("a"));
    assert_eq!(taken(&mailbox), "");
    mailbox.forget_marker(1);
    assert_eq!(taken(&mailbox), "a");
}

#[test]
fn too_much_is_an_end() {
    let mailbox = mailbox();
    let message: Arc<[u8]> = vec![b'x'; 64 * 1024].into();
    let fits = MAILBOX_LIMIT / message.len();
    (0..fits).for_each(|_| mailbox.from_listener(&message));
    assert!(!mailbox.has_overflowed());
    let mut out = Vec::new();
    assert!(mailbox.take(&mut out, 100_000), "there is more");
    assert_eq!(out.len(), 2 * message.len());
    (0..3).for_each(|_| mailbox.from_listener(&message));
    assert!(mailbox.has_overflowed());
}

#[test]
fn one_who_reads_ascii_only_is_not_given_other_bytes() {
    let mailbox = mailbox();
    let told =
        |payload: &str| message(&Notification { pid: 0x8080_8080, channel: b"c", payload: payload.as_bytes() }, (0, 0));
    mailbox.from_listener(&told("ä"));
    mailbox.read_ascii_only(true);
    mailbox.from_listener(&told("a"));
    assert!(!mailbox.is_unreadable());
    mailbox.from_listener(&told("ä"));
    assert!(mailbox.is_unreadable());
}

#[test]
fn the_whole_is_what_was_committed() {
    let away = channels(&["a", "b"]);
    let on_server = |names: &[&str], noted| OnServer { channels: channels(names), noted, ..OnServer::default() };
    assert_eq!(on_server(&["c"], false).whole(None), channels(&["c"]));
    assert_eq!(on_server(&["c", "a"], false).whole(Some(&away)), channels(&["a", "b", "c"]));
    assert_eq!(on_server(&["b"], true).whole(Some(&away)), channels(&["b"]));
    assert_eq!(on_server(&[], false).whole(Some(&away)), away);
    assert_eq!(on_server(&[], true).whole(Some(&away)), [] as [Channel; 0]);
}

#[test]
fn texts() {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    assert_eq!(text(listen(&channels(&["a\"b", "C"]))), "LISTEN \"a\"\"b\";LISTEN \"C\";");
    assert_eq!(text(marking(&channels(&["a"]), b"m", 7)), "LISTEN \"a\";LISTEN \"m\";NOTIFY \"m\",'7'");
    assert_eq!(text(clearing(Place::Away, b"m")), "UNLISTEN *");
    assert_eq!(text(clearing(Place::Here, b"m")), "UNLISTEN \"m\"");
}

#[test]
fn channels_are_listened_to_as_long_as_somebody_wants_them() {
    let (mut hub, one, two) = (Hub::new(b"marker"[..].into(), bytes("lost")), mailbox(), mailbox());
    assert!(!hub.want(1, &one, &(), &channels(&["a", "b"])));
    assert!(!hub.want(2, &two, &(), &channels(&["b"])));
    let due = hub.due();
    assert_eq!(due.listen.iter().cloned().collect::<BTreeSet<_>>(), BTreeSet::from_iter(channels(&["a", "b"])));
    hub.listens(due.listen);
    assert!(one.is_due() && two.is_due());
    assert!(hub.want(1, &one, &(), &channels(&["b"])));
    assert_eq!(hub.due(), Due { unlisten: channels(&["a"]), ..Due::default() });
    assert!(!hub.want(1, &one, &(), &channels(&["a"])), "it is being given up");
    assert_eq!(hub.due().listen, channels(&["a"]));
    hub.remove(2);
    assert_eq!(hub.due().unlisten, channels(&["b"]));
    hub.remove(1);
    assert!(hub.is_empty());
}

#[test]
fn one_who_is_behind_waits_for_the_next_answer_or_the_end_of_the_connection() {
    let (mut hub, one, two) = (Hub::new(b"marker"[..].into(), bytes("lost")), mailbox(), mailbox());
    for (client, mailbox) in [(1, &one), (2, &two)] {
        hub.want(client, mailbox, &(), &channels(&["a"]));
    }
    assert!(!hub.fall_behind(1) && !one.is_behind(), "there is no connection");
    hub.returns(bytes("notice"));
    let due = hub.due();
    assert!(!due.answer);
    assert!(hub.fall_behind(1) && !hub.fall_behind(3), "3 doesn't listen");
    hub.answered();
    assert!(one.is_behind(), "that was asked before");
    assert!(hub.due().answer && hub.fall_behind(2));
    one.looked();
    hub.answered();
    assert!(!one.is_behind() && one.is_due() && two.is_behind());
    assert!(hub.due().answer && !hub.due().answer);
    assert!(hub.fall_behind(1));
    hub.lost();
    assert!(!one.is_behind() && !two.is_behind());
    hub.returns(bytes("notice"));
    assert!(hub.fall_behind(1));
    hub.dissolve();
    assert!(!one.is_behind() && !hub.fall_behind(1));
}

#[test]
fn a_gap_is_told_to_those_who_may_have_missed_something() {
    let mut hub = Hub::new(b"marker"[..].into(), bytes("lost"));
    hub.returns(bytes("gap"));
    let boxes: Vec<_> = (0..4).map(|_| mailbox()).collect();
    for (i, mailbox) in (0..).zip(&boxes) {
        hub.want(i, mailbox, &(), &channels(&["a"]));
    }
    hub.listens(channels(&["a"]));
    // The first is given the channel, the second is on the way there, the third on the way back, the last waits.
    for (client, nonce) in [(0, 10), (2, 12)] {
        hub.will_enter(nonce, client, channels(&["a"]));
        hub.deliver(&Notification { pid: 1, channel: b"marker", payload: nonce.to_string().as_bytes() });
        boxes[usize::try_from(client).unwrap()].marker_from_server(nonce);
    }
    hub.will_enter(11, 1, channels(&["a"]));
    boxes[1].marker_from_server(11);
    hub.passed(11, Instant::now());
    assert!(hub.will_leave(22, 2));
    boxes[2].marker_from_server(22);
    hub.lost();
    assert_eq!(taken(&boxes[2]), "lost");
    assert!(boxes[2].is_settled(), "what it had is all that it gets");
    assert!(!hub.want(3, &boxes[3], &(), &channels(&["a"])));
    hub.returns(bytes("gap"));
    let missed = hub.missed();
    assert_eq!(missed, [11]);
    let due = hub.due();
    // In front of what comes while it is not yet known to listen.
    hub.deliver(&Notification { pid: 1, channel: b"a", payload: b"" });
    assert!(taken(&boxes[0]).starts_with("gapA"));
    boxes[0].from_listener(&bytes("gap"));
    hub.listens(due.listen);
    assert_eq!(hub.restored(&missed), 2);
    let got: Vec<_> = boxes.iter().map(|b| taken(b)).collect();
    assert_eq!(got, ["gap", "gap", "", ""]);
    hub.dissolve();
    assert!(boxes.iter().all(|b| b.is_orphaned()) && hub.is_empty());
}

#[test]
fn one_who_leaves_while_there_is_no_connection_does_not_wait_for_it() {
    let (mut hub, mailbox) = (Hub::new(b"marker"[..].into(), bytes("lost")), mailbox());
    hub.returns(bytes("gap"));
    hub.want(1, &mailbox, &(), &channels(&["a"]));
    hub.listens(channels(&["a"]));
    hub.will_enter(1, 1, channels(&["a"]));
    hub.passed(1, Instant::now());
    mailbox.marker_from_server(1);
    hub.lost();
    assert!(hub.will_leave(2, 1));
    mailbox.marker_from_server(2);
    mailbox.from_server(bytes("b"));
    assert_eq!(taken(&mailbox), "lostb", "in the order of the markers");
    assert!(mailbox.is_settled());
    // The connection comes back behind the markers: nothing of it is for the client.
    hub.returns(bytes("gap"));
    assert_eq!(hub.missed(), [] as [u64; 0]);
    hub.listens(channels(&["a"]));
    hub.restored(&[]);
    hub.deliver(&Notification { pid: 1, channel: b"a", payload: b"" });
    assert_eq!(taken(&mailbox), "");
}

/// What the two sources are told to do, and in which order they get on.
#[derive(Clone, Copy, Debug)]
enum Op {
    Notify(bool),
    ServerReads,
    ListenerReads,
    Enter,
    Leave,
    Give,
}

/// One client, its server and the listening connection, each at its place in the one order of notifications.
struct World {
    queue: Vec<(&'static str, String)>,
    hub: Hub<()>,
    mailbox: Arc<Mailbox>,
    listener_at: usize,
    server_at: usize,
    place: Place,
    handover: Option<Handover>,
    nonces: u64,
    from: usize,
    got: Vec<String>,
}

impl World {
    fn new(before: usize) -> Self {
        let (mut hub, mailbox) = (Hub::new(b"marker"[..].into(), bytes("lost")), mailbox());
        hub.returns(bytes("gap"));
        hub.want(1, &mailbox, &(), &channels(&["c"]));
        hub.listens(channels(&["c"]));
        let queue: Vec<_> = (0..before).map(|i| ("c", i.to_string())).collect();
        let server_at = queue.len();
        Self {
            queue,
            hub,
            mailbox,
            listener_at: 0,
            server_at,
            place: Place::Here,
            handover: None,
            nonces: 0,
            from: before,
            got: Vec::new(),
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Notify(ours) => {
                let number = self.queue.iter().filter(|(c, _)| *c == "c").count();
                self.queue.push(if ours { ("c", number.to_string()) } else { ("other", String::new()) });
            }
            Op::ServerReads => self.server_reads(),
            Op::ListenerReads => {
                if let Some((channel, payload)) = self.queue.get(self.listener_at) {
                    let (channel, payload) = (channel.as_bytes(), payload.as_bytes());
                    self.hub.deliver(&Notification { pid: 1, channel, payload });
                    self.listener_at += 1;
                }
            }
            Op::Enter if self.place == Place::Here && self.handover.is_none() && self.mailbox.is_settled() => {
                self.begin(Place::Away);
            }
            Op::Leave if self.place == Place::Away && self.handover.is_none() => self.begin(Place::Here),
            Op::Enter | Op::Leave => {}
            Op::Give => self.give(),
        }
    }

    fn begin(&mut self, to: Place) {
        self.nonces += 1;
        let nonce = self.nonces;
        match to {
            Place::Away => self.hub.will_enter(nonce, 1, channels(&["c"])),
            Place::Here => {
                assert!(self.hub.will_leave(nonce, 1));
                // It listens from now on.
                self.server_at = self.queue.len();
            }
        }
        self.handover = Some(Handover { nonce, to, channels: vec![], seen: false, clearing: false });
        self.queue.push(("marker", nonce.to_string()));
    }

    fn server_reads(&mut self) {
        let listens = self.place == Place::Here || self.handover.is_some();
        let Some((name, payload)) = self.queue.get(self.server_at).filter(|_| listens) else { return };
        self.server_at += 1;
        match (*name, &mut self.handover) {
            ("marker", Some(handover)) if *payload == handover.nonce.to_string() => {
                self.mailbox.marker_from_server(handover.nonce);
                self.place = handover.to;
                self.handover = None;
            }
            ("c", handover) if handover.as_ref().is_none_or(|h| h.to == Place::Away) => {
                let notification = Notification { pid: 1, channel: b"c", payload: payload.as_bytes() };
                self.mailbox.from_server(message(&notification, (0, 0)));
            }
            _ => {}
        }
    }

    fn give(&mut self) {
        let mut out = Vec::new();
        self.mailbox.take(&mut out, usize::MAX);
        let mut rest = &out[..];
        while let Ok(Some((header, body))) = crate::wire::frame::whole(rest) {
            let payload = backend::notification(body).unwrap().payload;
            self.got.push(String::from_utf8(payload.to_vec()).unwrap());
            rest = &rest[header.total_len()..];
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => any::<bool>().prop_map(Op::Notify),
        4 => Just(Op::ServerReads),
        4 => Just(Op::ListenerReads),
        1 => Just(Op::Enter),
        1 => Just(Op::Leave),
        1 => Just(Op::Give),
    ]
}

proptest! {
    #[test]
    fn each_notification_is_given_once_and_in_order(before in 0..4usize, ops in prop::collection::vec(op(), 1..200)) {
        let mut world = World::new(before);
        ops.iter().for_each(|op| world.step(*op));
        for _ in 0..world.queue.len() {
            world.step(Op::ServerReads);
            world.step(Op::ListenerReads);
        }
        world.step(Op::Give);
        let all = world.queue.iter().filter(|(c, _)| *c == "c").count();
        let want: Vec<_> = (world.from..all).map(|i| i.to_string()).collect();
        prop_assert_eq!(&world.got, &want);
        prop_assert!(world.mailbox.is_settled());
    }
}
