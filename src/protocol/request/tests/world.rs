//! Clients, the pooler's pure core and model backends, with the bytes between them, moved in pieces in any order.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use super::backend::{Backend, Database};
use crate::protocol::pipeline::{Kind, Request, ServerUndo};
use crate::protocol::reply::{self, Events, ServerFault, ServerPath};
use crate::protocol::request::{self, ClientPath, Local, Output, Tables};
use crate::protocol::session::Taints;
use crate::protocol::settings::{Settings, follows_client};
use crate::protocol::{ClientState, Keeping, Parting, ServerState};
use crate::wire::backend::tag as reply_tag;
use crate::wire::{backend, frame, frontend};

/// What a client sends, and where it waits for the replies to what went before.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    /// The bytes.
    pub(super) bytes: Vec<u8>,
    /// How many messages a client must have got before it sends them.
    pub(super) after: usize,
}

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    state: ClientState,
    script: VecDeque<Batch>,
    /// Read by the pooler, not taken.
    carry: Vec<u8>,
    remainder: (usize, bool),
    server: Option<usize>,
    waiting: bool,
    stuck: bool,
    /// All that it got.
    pub(super) received: Vec<u8>,
    counted: usize,
    messages: usize,
    /// Why it was disconnected.
    pub(super) end: Option<String>,
}

/// One server connection.
#[derive(Debug)]
pub(super) struct Server {
    state: ServerState,
    backend: Backend,
    /// On the way to the backend.
    towards: Vec<u8>,
    /// Read by the pooler, not taken.
    carry: Vec<u8>,
    remainder: (usize, bool),
    holder: Option<usize>,
    closed: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct World {
    /// What the clients share.
    pub(super) tables: Tables,
    database: Rc<RefCell<Database>>,
    max_prepared: usize,
    /// The clients.
    pub(super) clients: Vec<Client>,
    servers: Vec<Server>,
    /// A closed connection fails the test unless this is set.
    pub(super) may_close: bool,
}

/// Choices, taken from somewhere and never running out.
pub(super) struct Choices<'a>(pub Box<dyn FnMut() -> u32 + 'a>);

impl Choices<'_> {
    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.0)() as usize % n.max(1)
    }

    /// How many of `len` bytes go at once: few, or all.
    fn piece(&mut self, len: usize) -> usize {
        let most = [1, 3, 7, 40, 4096][self.below(5)];
        1 + self.below(len.min(most))
    }
}

impl Client {
    fn receive(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
        let (bytes, messages) = count(&self.received[self.counted..]);
        self.counted += bytes;
        self.messages += messages;
    }
}

impl World {
    /// For clients with their value of DateStyle at startup and their scripts.
    pub(super) fn new(clients: Vec<(String, Vec<Batch>)>, servers: usize, max_prepared: usize) -> Self {
        let database = Rc::new(RefCell::new(Database::default()));
        let tables = Tables::default();
        let mut world = Self { tables, database, max_prepared, clients: vec![], servers: vec![], may_close: false };
        world.servers = (0..servers).map(|_| world.server()).collect();
        let base = Arc::clone(&world.servers[0].state.settings);
        for (style, script) in clients {
            let settings = world.tables.settings.intern(base.with_reported("DateStyle", &style));
            world.clients.push(Client {
                state: ClientState::new(settings, &world.tables.settings),
                script: script.into(),
                carry: vec![],
                remainder: (0, false),
                server: None,
                waiting: false,
                stuck: false,
                received: vec![],
                counted: 0,
                messages: 0,
                end: None,
            });
        }
        world
    }

    /// Whether clients may keep servers: else, as with `max_pinned = 0`, what can't be moved ends with the transaction.
    fn may_pin(&self) -> bool {
        self.servers.len() >= self.clients.len()
    }

    fn server(&self) -> Server {
        let backend = Backend::new(&self.database, &[]);
        let settings = Settings::from_reported(backend.reported());
        let state = ServerState::new(self.tables.settings.intern(settings), self.max_prepared);
        let (towards, carry) = (vec![], vec![]);
        Server { state, backend, towards, carry, remainder: (0, false), holder: None, closed: false }
    }

    /// Runs until all scripts are done.
    ///
    /// # Panics
    /// When nothing can move and something should.
    pub(super) fn run(&mut self, choices: &mut Choices<'_>) {
        loop {
            let mut moves = Vec::new();
            for (i, client) in self.clients.iter().enumerate() {
                let may_send = client.script.front().is_some_and(|b| client.messages >= b.after);
                if client.end.is_none() && !client.waiting && !client.stuck && may_send {
                    moves.push((0, i));
                }
                if client.waiting && self.servers.iter().any(|s| s.holder.is_none()) {
                    moves.push((1, i));
                }
            }
            for (i, server) in self.servers.iter().enumerate() {
                if !server.towards.is_empty() {
                    moves.push((2, i));
                }
                if !server.backend.output.is_empty() {
                    moves.push((3, i));
                }
            }
            if moves.is_empty() {
                break;
            }
            match moves[choices.below(moves.len())] {
                (0, i) => self.client_sends(i, choices),
                (1, i) => self.granted(i, choices),
                (2, i) => {
                    let server = &mut self.servers[i];
                    let n = choices.piece(server.towards.len());
                    let bytes: Vec<u8> = server.towards.drain(..n).collect();
                    server.backend.feed(&bytes);
                }
                (_, i) => self.server_sends(i, choices),
            }
        }
        for (i, client) in self.clients.iter().enumerate() {
            let idle = client.script.is_empty() && client.carry.is_empty() && !client.waiting;
            let state = || client.server.map(|j| (j, &self.servers[j].state.pipeline, self.servers[j].state.hold));
            assert!(
                idle || client.end.is_some(),
                "client {i} is stuck: {:?} {:?} behind {}",
                client.carry,
                state(),
                client.received.escape_ascii()
            );
        }
    }

    fn client_sends(&mut self, i: usize, choices: &mut Choices<'_>) {
        let client = &mut self.clients[i];
        let Some(batch) = client.script.front_mut() else { return };
        let n = choices.piece(batch.bytes.len());
        client.carry.extend(batch.bytes.drain(..n));
        if batch.bytes.is_empty() {
            client.script.pop_front();
        }
        self.take_from_client(i, choices);
    }

    fn granted(&mut self, i: usize, choices: &mut Choices<'_>) {
        self.clients[i].waiting = false;
        self.take_from_client(i, choices);
    }

    /// As the relay's `take_messages`.
    fn take_from_client(&mut self, i: usize, choices: &mut Choices<'_>) {
        let input = std::mem::take(&mut self.clients[i].carry);
        let (mut out, mut own) = (Output::default(), Vec::new());
        let mut activated = Vec::new();
        let allowed = self.may_pin();
        let client = &mut self.clients[i];
        client.stuck = false;
        let mut at = client.remainder.0.min(input.len());
        if client.remainder.1 {
            out.forward(&input, 0..at);
        }
        client.remainder.0 -= at;
        while at < input.len() {
            let client = &mut self.clients[i];
            let Some(j) = client.server else {
                match request::local(&mut client.state, &input, at, &mut own).unwrap() {
                    Local::Taken { consumed, remaining } => {
                        at += consumed;
                        client.remainder = (remaining, false);
                    }
                    Local::More => break,
                    Local::NeedsServer => match self.borrow(i, choices) {
                        Some(replay) => activated = replay,
                        None => {
                            self.clients[i].waiting = true;
                            break;
                        }
                    },
                    Local::Terminate => unreachable!(),
                }
                continue;
            };
            let mut path = ClientPath {
                client: &mut client.state,
                server: &mut self.servers[j].state,
                tables: &self.tables,
                max_packet_size: 1 << 20,
                to_server: &mut out,
                to_client: &mut own,
                flushes_own: i % 2 == 1,
            };
            match path.message(&input, at).unwrap() {
                request::Step::Taken { consumed, remaining, forward } => {
                    at += consumed;
                    client.remainder = (remaining, forward);
                }
                request::Step::More => break,
                request::Step::Blocked => {
                    client.stuck = true;
                    break;
                }
                request::Step::Pins | request::Step::PinsToListen => {
                    self.servers[j].state.keeping = if allowed { Keeping::Allowed } else { Keeping::Never };
                }
                // Here all servers are the same.
                request::Step::Fresh => self.servers[j].state.sequences.accept(),
                request::Step::Numbers => {
                    if let Some(numbers) = &mut self.servers[j].state.numbers {
                        numbers.answer(|_| None);
                    }
                }
                request::Step::Listens | request::Step::Terminate => unreachable!(),
            }
        }
        let client = &mut self.clients[i];
        client.carry = input[at..].to_vec();
        client.receive(&own);
        if let Some(j) = client.server {
            self.servers[j].towards.extend_from_slice(&activated);
            self.servers[j].towards.extend_from_slice(out.bytes(&input));
        }
    }

    /// As the relay's `activate`: gives the replay of the client's settings.
    fn borrow(&mut self, i: usize, choices: &mut Choices<'_>) -> Option<Vec<u8>> {
        let free: Vec<_> = (0..self.servers.len()).filter(|&j| self.servers[j].holder.is_none()).collect();
        if free.is_empty() {
            return None;
        }
        let j = free[choices.below(free.len())];
        if self.servers[j].closed {
            self.servers[j] = self.server();
        }
        let (client, server) = (&mut self.clients[i], &mut self.servers[j]);
        assert_eq!(server.backend.foreign_statements(), 0);
        assert!(server.backend.leftovers.is_empty(), "{:?}", server.backend.leftovers);
        let (real, records) = (server.backend.ids(), &server.state.statements);
        assert!(real.iter().all(|id| records.ids(false).contains(id)), "{real:?} {:?}", records.ids(false));
        assert!(records.ids(true).iter().all(|id| real.contains(id)), "{real:?} {:?}", records.ids(true));
        server.state.keeping = Keeping::Unasked;
        client.server = Some(j);
        server.holder = Some(i);
        let mut bytes = Vec::new();
        server.state.sequences.lend_to(client.state.tenant);
        let mut sql = server.state.settings.replay(&client.state.settings);
        sql.push_str(server.state.forget_for_new_tenant(&self.tables).unwrap_or_default());
        if !sql.is_empty() {
            frontend::put_query(&mut bytes, sql.as_bytes());
            server.state.pipeline.push(Request::skip(Kind::Query, ServerUndo::None));
            server.state.statements.unnamed = None;
        }
        server.state.settings = Arc::clone(&client.state.settings);
        Some(bytes)
    }

    fn server_sends(&mut self, j: usize, choices: &mut Choices<'_>) {
        let server = &mut self.servers[j];
        let n = choices.piece(server.backend.output.len());
        server.carry.extend(server.backend.output.drain(..n));
        let Some(i) = server.holder else { panic!("a server that nobody has says {:?}", server.carry) };
        match self.take_from_server(i, j) {
            Ok(()) => {}
            Err(fault) => {
                assert!(self.may_close, "{fault}");
                self.clients[i].end = Some(fault.to_string());
                self.clients[i].server = None;
                self.servers[j] = self.server();
                return;
            }
        }
        self.clients[i].stuck = false;
        self.release(i, j);
        // What had to wait may go on now.
        if !self.clients[i].carry.is_empty() && !self.clients[i].waiting {
            self.take_from_client(i, choices);
        }
    }

    /// As the relay's `take_server_messages`.
    fn take_from_server(&mut self, i: usize, j: usize) -> Result<(), ServerFault> {
        let (client, server) = (&mut self.clients[i], &mut self.servers[j]);
        let input = std::mem::take(&mut server.carry);
        let (mut out, mut own, mut events) = (Output::default(), Vec::new(), Events::default());
        let mut at = server.remainder.0.min(input.len());
        if server.remainder.1 {
            out.forward(&input, 0..at);
        }
        server.remainder.0 -= at;
        let mut path = ServerPath {
            client: &mut client.state,
            server: &mut server.state,
            tables: &self.tables,
            to_client: &mut out,
            to_server: &mut own,
            events: &mut events,
        };
        let mut result = Ok(());
        while at < input.len() {
            let taken = path.results(&input, at).and_then(|end| {
                at = end;
                path.message(&input, at)
            });
            match taken {
                Ok(reply::Step::Taken { consumed, remaining, forward }) => {
                    at += consumed;
                    server.remainder = (remaining, forward);
                }
                Ok(reply::Step::More) => break,
                Err(fault) => {
                    result = Err(fault);
                    break;
                }
            }
        }
        client.receive(out.bytes(&input));
        server.carry = input[at..].to_vec();
        server.towards.extend_from_slice(&own);
        result
    }

    fn release(&mut self, i: usize, j: usize) {
        let allowed = self.may_pin();
        let server = &mut self.servers[j];
        let boundary = server.remainder.0 == 0 && server.carry.is_empty() && server.towards.is_empty();
        if !server.state.pipeline.is_idle() || !boundary || self.clients[i].remainder.0 > 0 {
            return;
        }
        assert!(server.backend.output.is_empty(), "an idle server has more to say");
        if !allowed {
            server.state.keeping = Keeping::Never;
        }
        match server.state.parting(&self.tables) {
            Parting::Free => {}
            Parting::Ask(messages) => return server.towards.extend_from_slice(&messages),
            Parting::Pinned => return,
            Parting::Listens if server.state.pins.is_empty() => server.state.listens = None,
            Parting::Listens => return,
        }
        self.clients[i].server = None;
        server.holder = None;
        let left = server.state.left();
        if !left.and(Taints::LASTING).is_empty() {
            server.closed = true;
        } else if !left.is_empty() {
            self.reset(j);
        }
    }

    /// As `Server::reset`.
    fn reset(&mut self, j: usize) {
        let server = &mut self.servers[j];
        let mut bytes = Vec::new();
        frontend::put_query(&mut bytes, b"DISCARD ALL");
        server.backend.feed(&bytes);
        let output = std::mem::take(&mut server.backend.output);
        let mut at = 0;
        while let Some((header, body)) = frame::whole(&output[at..]).unwrap() {
            at += header.total_len();
            if header.tag == reply_tag::PARAMETER_STATUS {
                let (name, value) = backend::parameter_status(body).unwrap();
                let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
                assert!(follows_client(&text(name)));
                let settings = server.state.settings.with_reported(&text(name), &text(value));
                server.state.settings = self.tables.settings.intern(settings);
            }
        }
        server.state.settings = self.tables.settings.intern(server.state.settings.only_reported());
        server.state.statements.clear_named();
        server.state.statements.unnamed = None;
        server.state.discarded();
    }
}

/// Whole messages: their bytes and their number, without those that may come at other times.
pub(super) fn count(bytes: &[u8]) -> (usize, usize) {
    let (mut at, mut count) = (0, 0);
    while let Some((header, _)) = frame::whole(&bytes[at..]).unwrap() {
        at += header.total_len();
        count += usize::from(header.tag != reply_tag::PARAMETER_STATUS);
    }
    (at, count)
}

/// What a client of its own backend gets: the bytes after each batch.
pub(super) fn direct(style: &str, batches: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let database = Rc::new(RefCell::new(Database::default()));
    let mut backend = Backend::new(&database, &[("DateStyle", style)]);
    let mut received = Vec::new();
    batches
        .iter()
        .map(|batch| {
            backend.feed(batch);
            received.append(&mut backend.output);
            received.clone()
        })
        .collect()
}
