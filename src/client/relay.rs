//! One client's session: the only place that sees both sockets.
//!
//! A hand-written future, so that an idle client holds a socket and this struct and no buffers: bytes are read
//! into a buffer of the worker thread and written on from there within one poll; only what a socket doesn't
//! take at once, or the start of a message, is kept. A server is borrowed from the pool for as long as the
//! protocol core says that the client needs it.

mod audit;
pub mod depart;
mod finished;
mod listen;
mod meter;
mod numbers;
mod pins;
pub mod recorder;
mod statements;
mod survive;
mod wait;
mod watch;

use std::cell::RefCell;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll, Waker, ready};
use std::time::Instant;

use tokio::task::coop;
use tracing::{debug, info};

use super::Context;
use super::cancel;
use super::registry::{CancelSlot, ClientShared, Phase, Registered, micros_since, order};
use crate::config::PoolMode;
use crate::error::{ClientError, SqlState};
use crate::net::stream::{IdleState, Stream};
use crate::net::world;
use crate::pool::place::Place;
use crate::pool::sharing::Asker;
use crate::pool::{Checkout, Grant, Lease, Pool, PoolUser};
use crate::protocol::pipeline::{Kind, Request, ServerUndo};
use crate::protocol::reply::{self, Events, ServerPath};
use crate::protocol::request::{self, ClientPath, Local, Output};
use crate::protocol::session::Taint;
use crate::protocol::{ClientState, Keeping, Parting};
use crate::server::{Outbox, Remainder, Server};
use crate::stats::flight::What;
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::{frame, frontend};
use depart::Parted;
use pins::Pin;
use survive::Loss;

/// Requests that one client may have in flight. More aren't read until some are answered: records of them would
/// cost memory without bound, and looking through them time.
const MOST_REQUESTS: usize = 2048;
/// What a worker thread reads into, bytes.
const READ_BUFFER: usize = 64 * 1024;
/// How many small buffers a worker thread keeps for what can't be taken yet.
const SPARE: usize = 64;
/// How large they may be, bytes.
const SPARE_SIZE: usize = 1024;
/// How much a client may send ahead while it waits for a server, bytes.
const READ_AHEAD: usize = 64 * 1024;

/// A worker thread's buffers, used within one poll.
struct Scratch {
    read: Box<[u8]>,
    out: Outputs,
}

#[derive(Default)]
struct Outputs {
    to_server: Output,
    to_client: Output,
    /// Carpool's own answers to the client, and what is sent to the server again.
    own: Vec<u8>,
    /// Memory for what clients have sent that can't be taken yet.
    spare: Vec<Vec<u8>>,
}

impl Outputs {
    fn clear(&mut self) {
        self.to_server.clear();
        self.to_client.clear();
        self.own.clear();
    }

    /// A copy of `bytes`.
    fn keep(&mut self, bytes: &[u8]) -> Vec<u8> {
        if bytes.is_empty() {
            return Vec::new();
        }
        let mut kept = self.spare.pop().unwrap_or_default();
        kept.extend_from_slice(bytes);
        kept
    }

    /// Takes back the memory of such a copy.
    fn recycle(&mut self, mut kept: Vec<u8>) {
        if kept.capacity() <= SPARE_SIZE && self.spare.len() < SPARE {
            kept.clear();
            self.spare.push(kept);
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        RefCell::new(Scratch { read: vec![0; READ_BUFFER].into(), out: Outputs::default() });
}

/// Microseconds after the start: differences of these are cheap.
type Moment = u64;

/// What the client is doing.
#[derive(Debug)]
enum Work {
    /// Nothing.
    Idle,
    /// It waits for a server.
    Waiting(Waiting),
    /// It has one.
    Active(Active),
}

#[derive(Debug)]
struct Waiting {
    granted: Place<Grant>,
    since: Moment,
}

#[derive(Debug)]
struct Active {
    lease: Lease,
    /// Since when there is a transaction, or the client has the server for one.
    since: Option<NonZero<Moment>>,
    /// Since when a query runs.
    query_since: Option<NonZero<Moment>>,
    /// The server takes nothing any more; what it still says is passed on.
    broken: bool,
}

/// Why a session ends.
#[derive(Debug)]
enum End {
    /// The client left.
    Left(&'static str),
    /// The client is told why.
    Error(Box<ClientError>),
    /// The server was lost, and the client was told by it.
    ServerFatal,
    /// It goes on in another process.
    Departs,
}

impl From<ClientError> for End {
    fn from(error: ClientError) -> Self {
        Self::Error(Box::new(error))
    }
}

/// What a session begins with.
#[derive(Debug)]
pub struct Session {
    /// The client's socket.
    pub stream: Stream,
    /// Bytes read behind the login.
    pub unread: Vec<u8>,
    /// Its entry in the registry.
    pub registered: Registered,
    /// The pool that it uses.
    pub pool: Arc<Pool>,
    /// The pool's user that it uses.
    pub user: Arc<PoolUser>,
    /// Its settings.
    pub state: ClientState,
    /// When its servers go back.
    pub mode: PoolMode,
}

/// See the module. In this order in memory: what each turn touches is together.
#[derive(Debug)]
#[repr(C)]
pub struct Relay {
    work: Work,
    stream: Stream,
    out: Outbox,
    mode: PoolMode,
    /// `carry` can't be taken before more bytes come.
    starved: bool,
    /// `carry` can't be taken before replies come.
    blocked: bool,
    /// These are of Carpool's own requests, which make the server ready for it: on another one they would be needed
    /// again, and clients could trade servers for ever.
    expects: bool,
    /// A read from the client was pending: this task is woken when there is something.
    heeded: bool,
    /// The client has said goodbye behind requests that are still running: they run to their end, as they would
    /// on a connection of its own.
    leaving: bool,
    remainder: Remainder,
    /// Bytes read and not yet taken.
    carry: Vec<u8>,
    registered: Registered,
    pool: Arc<Pool>,
    user: Arc<PoolUser>,
    /// Its permit to keep its server between transactions.
    pin: Option<Box<Pin>>,
    /// What is noted of it, where anything is.
    watch: Option<Box<watch::Watch>>,
    state: ClientState,
}

impl Relay {
    /// A session that has just logged in.
    #[must_use]
    pub fn new(session: Session) -> Self {
        let Session { stream, unread, registered, pool, user, state, mode } = session;
        registered.shared.set_phase(Phase::Idle, micros_since(registered.context().started, world::now()));
        let mut relay = Self {
            stream,
            registered,
            pool,
            user,
            state,
            carry: unread,
            out: Outbox::default(),
            remainder: Remainder::default(),
            work: Work::Idle,
            mode,
            starved: false,
            blocked: false,
            expects: false,
            heeded: false,
            leaving: false,
            pin: None,
            watch: None,
        };
        relay.set_watch();
        if relay.context().suspended.load(Ordering::Relaxed) {
            relay.shared().order(order::SUSPEND);
        }
        relay
    }

    /// Has orders wake the task that it is now. A task's waker is the same as long as it lives.
    pub fn wake_with(&self, waker: &Waker) {
        self.shared().wake_with(waker);
    }

    /// Has what is left for the client be sent, by a task of its own.
    pub fn spawn_last_words(self) {
        let Self { stream, out, .. } = self;
        if !out.is_empty() {
            world::spawn(super::login::last_words(stream, out.pending().to_vec()));
        }
    }

    fn shared(&self) -> &Arc<ClientShared> {
        &self.registered.shared
    }

    /// What all clients share.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        self.registered.context()
    }

    fn set_phase(&self, phase: Phase, since: Moment) {
        self.shared().set_phase(phase, since);
    }

    /// The time, as the pool and as statistics want it.
    fn now(&self) -> (Instant, Moment) {
        let now = world::now();
        (now, micros_since(self.context().started, now))
    }

    fn poll_run(&mut self, cx: &mut TaskContext<'_>, scratch: &mut Scratch) -> Poll<End> {
        loop {
            if self.shared().orders() != 0 {
                if let Some(end) = self.obey() {
                    return Poll::Ready(end);
                }
                if self.stands_still(cx) {
                    return Poll::Pending;
                }
            }
            if self.flush(cx).is_err() {
                if !self.leaving {
                    return Poll::Ready(End::Left("client connection lost"));
                }
                self.out = Outbox::default();
            }
            if self.state.listening.is_some() {
                match self.look_into_mailbox(cx) {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(end) => return Poll::Ready(end),
                }
            }
            let step = match self.work {
                Work::Idle => ready!(self.poll_idle(cx, scratch)),
                Work::Waiting(_) => ready!(self.poll_waiting(cx, scratch)),
                Work::Active(_) => ready!(self.poll_active(cx, scratch)),
            };
            if let Err(end) = step {
                return Poll::Ready(end);
            }
        }
    }

    /// Sends what the client's socket takes of what waits for it.
    fn flush(&mut self, cx: &mut TaskContext<'_>) -> std::io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        while !self.out.is_empty() {
            match self.stream.poll_write_from(cx, self.out.pending()) {
                Poll::Ready(Ok(n)) => self.out.advance(n),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(()),
            }
        }
        self.meter_flows();
        Ok(())
    }

    fn poll_idle(&mut self, cx: &mut TaskContext<'_>, scratch: &mut Scratch) -> Poll<Result<(), End>> {
        // One who doesn't read gets no more answers.
        if !self.out.is_empty() {
            return Poll::Pending;
        }
        if self.waits_for_pin() {
            return match self.poll_pin(cx) {
                Poll::Pending => self.poll_ahead(cx, scratch),
                granted => granted,
            };
        }
        if self.is_behind() {
            return self.poll_ahead(cx, scratch);
        }
        self.poll_client(cx, scratch)
    }

    /// Reads from the client. As long as it has nothing to say, asking costs next to nothing.
    fn poll_read(&mut self, cx: &mut TaskContext<'_>, buf: &mut [u8]) -> Poll<std::io::Result<usize>> {
        if self.heeded && !self.stream.is_readable() {
            return Poll::Pending;
        }
        let read = self.stream.poll_read_into(cx, buf);
        // One that has only had its share of this turn isn't heeded, but called again.
        self.heeded = read.is_pending() && coop::has_budget_remaining();
        read
    }

    /// Takes bytes from the client: those kept from before, or new ones.
    fn poll_client(&mut self, cx: &mut TaskContext<'_>, scratch: &mut Scratch) -> Poll<Result<(), End>> {
        if !self.carry.is_empty() && !self.starved {
            return Poll::Ready(self.take_carry(cx, &mut scratch.out));
        }
        let n = match ready!(self.poll_read(cx, &mut scratch.read)) {
            Ok(0) => return Poll::Ready(Err(End::Left("client close request"))),
            Ok(n) => n,
            Err(_) => return Poll::Ready(Err(End::Left("client connection lost"))),
        };
        if self.carry.is_empty() {
            let input = &scratch.read[..n];
            let taken = self.take_bytes(cx, input, &mut scratch.out);
            return Poll::Ready(taken.map(|at| self.carry = scratch.out.keep(&input[at..])));
        }
        self.carry.extend_from_slice(&scratch.read[..n]);
        Poll::Ready(self.take_carry(cx, &mut scratch.out))
    }

    fn take_carry(&mut self, cx: &mut TaskContext<'_>, out: &mut Outputs) -> Result<(), End> {
        let mut input = std::mem::take(&mut self.carry);
        let at = self.take_bytes(cx, &input, out)?;
        if at < input.len() {
            input.drain(..at);
            self.carry = input;
        } else {
            out.recycle(input);
        }
        Ok(())
    }

    /// Takes messages from `input` as far as it goes, and sends on what comes of them. Gives how far it went.
    fn take_bytes(&mut self, cx: &mut TaskContext<'_>, input: &[u8], out: &mut Outputs) -> Result<usize, End> {
        out.clear();
        (self.starved, self.blocked, self.expects) = (false, false, false);
        let mut at = 0;
        let taken = self.take_messages(input, &mut at, out);
        if let (Err(End::Error(_)), true) = (&taken, self.watch.is_some()) {
            self.record_message(What::Refused, &input[at..]);
        }
        self.out.push(&out.own);
        if let Work::Active(active) = &mut self.work {
            let bytes = out.to_server.bytes(input);
            let resumes = active.query_since.is_none() && !bytes.is_empty();
            active.send(cx, bytes);
            if resumes {
                let (_, now) = self.now();
                self.begin_query(now);
            }
            if self.watch.is_some() {
                self.meter_sent();
            }
        }
        taken.map(|()| at)
    }

    fn begin_query(&mut self, now: Moment) {
        if let Work::Active(active) = &mut self.work {
            active.query_since = NonZero::new(now);
            if active.since.is_none() {
                active.since = NonZero::new(now);
                self.registered.shared.begin_transaction(now);
            }
            self.set_phase(Phase::Active, now);
            if self.watch.is_some() {
                self.meter_resume(now);
            }
        }
    }

    fn take_messages(&mut self, input: &[u8], at: &mut usize, out: &mut Outputs) -> Result<(), End> {
        *at = self.remainder.bytes.min(input.len());
        if *at > 0 {
            if self.remainder.forward {
                out.to_server.forward(input, 0..*at);
            }
            self.remainder.bytes -= *at;
        }
        while *at < input.len() {
            if matches!(self.work, Work::Idle) {
                if self.take_local(input, at, out)? {
                    continue;
                }
                return Ok(());
            }
            let Work::Active(active) = &mut self.work else { return Ok(()) };
            let Some(server) = active.lease.server() else { return Ok(()) };
            if server.state.pipeline.len() >= MOST_REQUESTS && is_crowded(server, input, out) {
                self.blocked = true;
                return Ok(());
            }
            let mut path = ClientPath {
                client: &mut self.state,
                server: &mut server.state,
                tables: &self.pool.tables,
                max_packet_size: self.pool.max_packet_size(),
                to_server: &mut out.to_server,
                to_client: &mut out.own,
                flushes_own: self.watch.as_ref().is_some_and(|watch| watch.meter.is_some()),
            };
            let step = match &self.watch {
                Some(watch) if watch.reads_messages() => path.message(input, *at),
                _ => path.messages(input, at, MOST_REQUESTS),
            };
            match step? {
                request::Step::Taken { consumed, remaining, forward } => {
                    self.watch_message(&input[*at..*at + consumed]);
                    *at += consumed;
                    self.remainder = Remainder { bytes: remaining, forward };
                }
                request::Step::More => {
                    self.starved = true;
                    return Ok(());
                }
                request::Step::Blocked => {
                    self.expects = server.state.pipeline.is_own();
                    self.blocked = true;
                    return Ok(());
                }
                step @ (request::Step::Pins
                | request::Step::PinsToListen
                | request::Step::Fresh
                | request::Step::Numbers
                | request::Step::Listens) => {
                    if !self.may_go_on(step, input, out) {
                        return Ok(());
                    }
                }
                request::Step::Terminate => {
                    *at = input.len();
                    return self.leave();
                }
            }
        }
        Ok(())
    }

    /// Takes a message without a server, or gets one. Says whether to go on.
    fn take_local(&mut self, input: &[u8], at: &mut usize, out: &mut Outputs) -> Result<bool, End> {
        match request::local(&mut self.state, input, *at, &mut out.own)? {
            Local::Taken { consumed, remaining } => {
                self.record_message(What::Client, &input[*at..]);
                *at += consumed;
                self.remainder = Remainder { bytes: remaining, forward: false };
            }
            Local::More => {
                self.starved = true;
                return Ok(false);
            }
            Local::NeedsServer if self.falls_behind() => return Ok(false),
            Local::NeedsServer if self.state.own.pin && !self.may_pin_by_hand()? => return Ok(false),
            Local::NeedsServer => self.borrow_server(input, out)?,
            Local::Terminate => return Err(End::Left("client close request")),
        }
        Ok(true)
    }

    /// Has the server, or the right to keep it, be what the request at hand needs. Says whether it may go on.
    fn may_go_on(&mut self, step: request::Step, input: &[u8], out: &mut Outputs) -> bool {
        let expects = matches!(step, request::Step::Listens | request::Step::Fresh);
        let goes_on = match step {
            request::Step::Listens => self.listen_here(input, out),
            request::Step::Fresh => self.change_server(),
            request::Step::Numbers => self.find_processes(),
            request::Step::PinsToListen if self.listens_briefly() || self.listens_in_transaction() => true,
            _ => self.allow_pin(),
        };
        if !goes_on {
            // What is sent ahead is for this request.
            (self.blocked, self.expects) = (true, expects);
        }
        goes_on
    }

    /// The client has said goodbye. What it asked for before runs to its end.
    fn leave(&mut self) -> Result<(), End> {
        let Work::Active(active) = &mut self.work else { return Err(End::Left("client close request")) };
        self.leaving = active.lease.server().is_some_and(|server| server.state.pipeline.awaits_ready());
        if self.leaving { Ok(()) } else { Err(End::Left("client close request")) }
    }

    /// Gets a server or a place in the queue for one.
    fn borrow_server(&mut self, input: &[u8], out: &mut Outputs) -> Result<(), End> {
        if self.pool.is_retired() {
            self.change_pool()?;
        }
        let (instant, now) = self.now();
        let client = self.shared();
        let asker = Asker { client: client.id, user: Some(&client.user), state: Some(&self.state) };
        match self.pool.checkout(&self.user, &asker, instant) {
            Checkout::Now(lease) => self.activate(lease, now, input, out),
            Checkout::Wait(granted) => {
                // Those who have a server and wait for a permit would wait for each other with this one.
                self.pin = None;
                *self.shared().cancel.lock() = CancelSlot::Waiting;
                self.set_phase(Phase::Waiting, now);
                self.work = Work::Waiting(Waiting { granted, since: now });
                self.record(What::Waits);
            }
        }
        Ok(())
    }

    /// A changed configuration has put another pool in the place of this one, or none.
    fn change_pool(&mut self) -> Result<(), End> {
        let context = self.context();
        let config = context.config.load_full();
        let pool = context.pools.get(self.shared().database.as_str(), &config);
        let Some(pool) = pool.filter(|p| !p.is_retired()) else { return Err(pool_gone(&self.pool).into()) };
        let credentials = self.user.credentials.lock().clone();
        let share = config.user_share(&self.user.name);
        self.user = pool.user(&self.user.name, credentials, share);
        let settings = pool.tables.settings.intern((*self.state.settings).clone());
        self.state.set_settings(settings, &pool.tables.settings);
        self.pool = pool;
        Ok(())
    }

    /// Begins to use a server: the client's settings go ahead of its request where the server's differ.
    fn activate(&mut self, mut lease: Lease, now: Moment, input: &[u8], out: &mut Outputs) {
        let Some(server) = lease.server() else { return };
        server.state.keeping = Keeping::Unasked;
        if self.state.own.pin && self.pin.is_some() {
            server.state.keeping = Keeping::Allowed;
            server.state.keep_by_hand(true);
        }
        let shared = Arc::clone(&server.shared);
        shared.counters.assignments.add(1);
        let mut replays = false;
        server.state.sequences.lend_to(self.state.tenant);
        let forget = server.state.forget_for_new_tenant(&self.pool.tables);
        if forget.is_some() || !Arc::ptr_eq(&server.state.settings, &self.state.settings) {
            let mut sql = server.state.settings.replay(&self.state.settings);
            sql.push_str(forget.unwrap_or_default());
            if !sql.is_empty() {
                frontend::put_query(out.to_server.own(input), sql.as_bytes());
                server.state.pipeline.push(Request::skip(Kind::Query, ServerUndo::None));
                server.state.statements.unnamed = None;
                replays = true;
            }
            server.state.settings = Arc::clone(&self.state.settings);
        }
        *self.shared().cancel.lock() = match replays {
            true => CancelSlot::Replaying { server: shared, wanted: false },
            false => CancelSlot::Running(shared),
        };
        self.set_phase(Phase::Active, now);
        self.shared().begin_transaction(now);
        let since = NonZero::new(now);
        self.work = Work::Active(Active { lease, since, query_since: since, broken: false });
        if self.watch.is_some() {
            self.meter_lent(now);
            self.record(What::Lent);
        }
    }

    fn poll_waiting(&mut self, cx: &mut TaskContext<'_>, scratch: &mut Scratch) -> Poll<Result<(), End>> {
        let Work::Waiting(waiting) = &mut self.work else { return Poll::Ready(Ok(())) };
        if let Poll::Ready(granted) = std::pin::Pin::new(&mut waiting.granted).poll(cx) {
            let since = waiting.since;
            let lease = match granted {
                Ok(Ok(lease)) => lease,
                Ok(Err(error)) => return Poll::Ready(Err(error.into())),
                // The pool has been retired: what is in `carry` begins anew with the one that took over.
                Err(_) => {
                    self.work = Work::Idle;
                    return Poll::Ready(Ok(()));
                }
            };
            return Poll::Ready(self.granted(cx, lease, since, &mut scratch.out));
        }
        self.poll_ahead(cx, scratch)
    }

    /// Reads from a client whose messages can't be taken yet: one who leaves is noticed, and what is sent ahead is
    /// kept, within bounds.
    fn poll_ahead(&mut self, cx: &mut TaskContext<'_>, scratch: &mut Scratch) -> Poll<Result<(), End>> {
        if self.carry.len() >= READ_AHEAD || self.leaving {
            return Poll::Pending;
        }
        match ready!(self.poll_read(cx, &mut scratch.read)) {
            // It has said goodbye behind requests that wait for a server: they run, as on a connection of its own.
            Ok(0)
                if (matches!(self.work, Work::Waiting(_)) || self.is_behind())
                    && self.carry.ends_with(&wait::GOODBYE) =>
            {
                self.leaving = true;
                Poll::Ready(Ok(()))
            }
            Ok(0) | Err(_) => Poll::Ready(Err(End::Left("client gone while waiting"))),
            Ok(n) => {
                if self.carry.is_empty() {
                    self.carry = scratch.out.keep(&scratch.read[..n]);
                } else {
                    self.carry.extend_from_slice(&scratch.read[..n]);
                }
                Poll::Ready(Ok(()))
            }
        }
    }

    fn granted(
        &mut self,
        cx: &mut TaskContext<'_>,
        mut lease: Lease,
        since: Moment,
        out: &mut Outputs,
    ) -> Result<(), End> {
        // It was given a moment ago.
        let instant = lease.since().unwrap_or_else(world::now);
        let now = micros_since(self.context().started, instant).max(since);
        if let Some(server) = lease.server() {
            server.note_wait(now - since);
        }
        if self.state.own.pin && !self.may_pin_by_hand()? {
            self.work = Work::Idle;
            lease.give_back(instant);
            return Ok(());
        }
        // Its goodbye is among what it has sent.
        self.leaving = false;
        // It may have ended since it was handed over. Nothing was sent to it, so another will do.
        if lease.server().is_some_and(|server| server.stream.idle_state() == IdleState::Disturbed) {
            lease.close();
            self.work = Work::Idle;
            return Ok(());
        }
        out.clear();
        let input = std::mem::take(&mut self.carry);
        self.activate(lease, now, &input, out);
        // The thread's buffer stays with the thread.
        let head = out.to_server.own(&input);
        if let (Work::Active(active), false) = (&mut self.work, head.is_empty()) {
            if let Some(server) = active.lease.server() {
                server.out.push(head);
            }
            head.clear();
        }
        self.carry = input;
        self.starved = false;
        self.take_carry(cx, out)
    }

    fn poll_active(&mut self, cx: &mut TaskContext<'_>, scratch: &mut Scratch) -> Poll<Result<(), End>> {
        let Work::Active(active) = &mut self.work else { return Poll::Ready(Ok(())) };
        let mut progress = active.flush(cx);
        if self.waits_for_pin() {
            match self.poll_pin(cx) {
                Poll::Ready(Ok(())) => progress = true,
                Poll::Ready(Err(end)) => return Poll::Ready(Err(end)),
                Poll::Pending => {}
            }
        }
        // The server first: its answer mostly ends the transaction, and then the client is looked at as idle.
        if self.out.is_empty() {
            if let Poll::Ready(taken) = self.poll_server(cx, scratch) {
                return Poll::Ready(taken);
            }
        }
        let Work::Active(active) = &mut self.work else { return Poll::Ready(Ok(())) };
        if active.can_take() && !self.leaving {
            let taken = if self.blocked { self.poll_ahead(cx, scratch) } else { self.poll_client(cx, scratch) };
            match taken {
                Poll::Ready(Ok(())) => progress = true,
                Poll::Ready(Err(end)) => return Poll::Ready(Err(end)),
                Poll::Pending => {}
            }
        }
        if progress { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_server(&mut self, cx: &mut TaskContext<'_>, scratch: &mut Scratch) -> Poll<Result<(), End>> {
        let Work::Active(active) = &mut self.work else { return Poll::Ready(Ok(())) };
        let Some(server) = active.lease.server() else { return Poll::Ready(Ok(())) };
        let n = match ready!(server.stream.poll_read_into(cx, &mut scratch.read)) {
            Ok(n) if n > 0 => n,
            lost => return Poll::Ready(self.survive(cx, Loss::Untold(lost.err()), &mut scratch.out)),
        };
        server.shared.counters.sent.add(n as u64);
        let Scratch { read, out } = scratch;
        if server.carry.is_empty() {
            return Poll::Ready(self.take_replies(cx, &read[..n], out));
        }
        let mut input = std::mem::take(&mut server.carry);
        input.extend_from_slice(&read[..n]);
        Poll::Ready(self.take_replies(cx, &input, out))
    }

    /// Takes the server's messages from `input`, gives the server back if it is free, and sends on what is the
    /// client's, in this order: others wait for the server.
    fn take_replies(&mut self, cx: &mut TaskContext<'_>, input: &[u8], out: &mut Outputs) -> Result<(), End> {
        out.clear();
        self.blocked = false;
        let Work::Active(active) = &mut self.work else { return Ok(()) };
        let Some(server) = active.lease.server() else { return Ok(()) };
        let mut events = Events::default();
        let before = server.remainder.bytes;
        let taken = take_server_messages(server, &mut self.state, &self.pool, input, out, &mut events);
        let at = match taken {
            Ok(at) => at,
            Err(error) => {
                // It may look idle, but has said what nobody asked for.
                active.broken = true;
                // What came before goes out, in front of the reason for the end.
                self.out.push(out.to_client.bytes(input));
                self.record_replies(input, before, false);
                self.record_doubt();
                return Err(error.into());
            }
        };
        server.carry.extend_from_slice(&input[at..]);
        if !out.own.is_empty() {
            active.send(cx, &out.own);
        }
        let last_words = events.last_words.take();
        if self.watch.is_some() {
            self.meter_replied(&events.skipped_runs);
            self.record_replies(&input[..at], before, events.violates);
        }
        self.note(events);
        if let Some(body) = last_words {
            self.out.push(out.to_client.bytes(input));
            return self.survive(cx, Loss::Told(body), out);
        }
        self.release_if_free(cx)?;
        let sent = self.send_to_client(cx, out.to_client.bytes(input));
        if self.leaving { self.leave_when_answered() } else { sent }
    }

    /// Ends the session of one who has said goodbye once nothing that was asked is unanswered. Whether anybody
    /// still reads the answers doesn't matter.
    fn leave_when_answered(&mut self) -> Result<(), End> {
        let Work::Active(active) = &mut self.work else { return Err(End::Left("client close request")) };
        match active.lease.server() {
            Some(server) if server.state.pipeline.awaits_ready() => Ok(()),
            _ => Err(End::Left("client close request")),
        }
    }

    fn note(&mut self, events: Events) {
        if events.settings_changed {
            *self.shared().settings.lock() = Arc::clone(&self.state.settings);
            self.note_encoding();
        }
        if let Some(end) = events.marker {
            self.note_marker(end);
        }
        if events.replayed {
            let mut slot = self.registered.shared.cancel.lock();
            if let CancelSlot::Replaying { server, wanted } = &*slot {
                let (server, wanted) = (Arc::clone(server), *wanted);
                if wanted {
                    cancel::spawn(self.registered.context(), &server);
                }
                *slot = CancelSlot::Running(server);
            }
        }
        for class in events.errors {
            self.pool.happenings().server_errors.count(class);
            self.trace_error(class);
        }
        let Work::Active(active) = &mut self.work else { return };
        let Some(server) = active.lease.server() else { return };
        let counters = &server.shared.counters;
        counters.queries.add(events.queries.into());
        counters.transactions.add(events.transactions.into());
        if !server.state.pins.is_empty() {
            counters.pinned_transactions.add(events.transactions.into());
        }
        counters.take(&mut server.state.counts);
        server.shared.note_prepared(server.state.statements.len());
        self.registered.shared.note_prepared(self.state.statements.named.len());
    }

    /// Gives the server back when nothing ties the client to it.
    fn release_if_free(&mut self, cx: &mut TaskContext<'_>) -> Result<(), End> {
        let Work::Active(active) = &mut self.work else { return Ok(()) };
        let Some(server) = active.lease.server() else { return Ok(()) };
        let pipeline = &server.state.pipeline;
        if !pipeline.is_answered() {
            return Ok(());
        }
        let free = pipeline.is_idle() && server.is_at_boundary() && self.remainder.bytes == 0;
        let in_block = pipeline.status() != TransactionStatus::Idle;
        if in_block && self.mode == PoolMode::Statement {
            let text = "transaction blocks not allowed in statement pooling mode";
            return Err(ClientError::fatal(SqlState::PROTOCOL_VIOLATION, text).hint("See pool_mode.").into());
        }
        let ends = free && self.mode != PoolMode::Session;
        let shares = ends && !self.expects && !active.broken;
        let parting = if ends && active.broken {
            Parting::Free
        } else if shares {
            if !server.state.left().is_empty() && self.pool.spec.load().max_pinned == 0 {
                server.state.keeping = Keeping::Never;
            }
            server.state.parting(&self.pool.tables)
        } else {
            Parting::Pinned
        };
        match parting {
            Parting::Free if self.state.own.pin && shares && self.keep_from_now_on() => {
                self.note_pinned();
                self.rest(in_block);
            }
            Parting::Free => self.give_back(),
            Parting::Ask(messages) => self.ask(cx, &messages),
            Parting::Pinned => {
                if shares {
                    self.note_pinned();
                }
                self.rest(in_block);
            }
            Parting::Listens => self.settle_listening(cx)?,
        }
        Ok(())
    }

    /// Asks the server what ties the client to it. A cancel meanwhile isn't meant for this question.
    fn ask(&mut self, cx: &mut TaskContext<'_>, messages: &[u8]) {
        let Work::Active(active) = &mut self.work else { return };
        let Some(server) = active.lease.server().map(|s| Arc::clone(&s.shared)) else { return };
        if self.watch.is_some() {
            self.meter_asks();
            self.record(What::Asks);
        }
        let Work::Active(active) = &mut self.work else { return };
        *self.registered.shared.cancel.lock() = CancelSlot::Replaying { server, wanted: false };
        active.send(cx, messages);
    }

    /// A query has ended and the client keeps the server.
    fn rest(&mut self, in_block: bool) {
        let (_, now) = self.now();
        let bound = self.pool.tells_from();
        let Work::Active(active) = &mut self.work else { return };
        if active.query_since.is_none() {
            return;
        }
        let finished = active.answered(now, in_block, bound);
        if self.watch.is_some() {
            self.meter_answered(now, in_block);
        }
        let phase = if in_block { Phase::IdleInTransaction } else { Phase::Idle };
        self.set_phase(phase, now);
        if let Some(finished) = finished {
            self.tell(&finished);
        }
    }

    /// The client needs its server no more.
    fn give_back(&mut self) {
        let watched = self.watch.is_some();
        if watched {
            self.record(What::Returned);
        }
        let Work::Active(mut active) = std::mem::replace(&mut self.work, Work::Idle) else { return };
        let (instant, now) = self.now();
        let finished = active.answered(now, false, self.pool.tells_from());
        if watched {
            self.meter_answered(now, false);
        }
        if !self.waits_for_pin() {
            self.pin = None;
        }
        *self.shared().cancel.lock() = CancelSlot::Idle;
        self.set_phase(Phase::Idle, now);
        if active.broken {
            active.lease.close();
        } else {
            active.lease.give_back(instant);
        }
        if let Some(finished) = finished {
            self.tell(&finished);
        }
    }

    fn send_to_client(&mut self, cx: &mut TaskContext<'_>, bytes: &[u8]) -> Result<(), End> {
        let mut sent = 0;
        while self.out.is_empty() && sent < bytes.len() {
            match self.stream.poll_write_from(cx, &bytes[sent..]) {
                Poll::Ready(Ok(n)) => sent += n,
                Poll::Ready(Err(_)) => return Err(End::Left("client connection lost")),
                Poll::Pending => break,
            }
        }
        if sent < bytes.len() {
            self.out.push(&bytes[sent..]);
            self.meter_stalls();
        }
        Ok(())
    }

    /// Carries out what others have ordered.
    #[cold]
    #[inline(never)]
    fn obey(&mut self) -> Option<End> {
        let orders = self.shared().orders();
        let answered = match &mut self.work {
            Work::Active(active) => active.lease.server().is_some_and(|s| s.state.pipeline.is_answered()),
            _ => true,
        };
        let idle = self.is_idle_session();
        // Where it can go on it needn't end.
        if orders & order::DEPART != 0 && orders & order::END_NOW == 0 && self.may_depart() {
            return Some(End::Departs);
        }
        let due = orders & order::END_NOW != 0
            || (orders & order::END_IDLE != 0 && idle)
            || (orders & order::END_QUERY != 0 && answered);
        if due {
            return self.shared().end_error().map(End::from);
        }
        if orders & order::WATCH != 0 {
            self.shared().clear_order(order::WATCH);
            self.set_watch();
            self.record_wanted();
        }
        if orders & order::NOTIFY_WAIT != 0 {
            self.shared().clear_order(order::NOTIFY_WAIT);
            if matches!(self.work, Work::Waiting(_)) {
                wait::put_notice(self.out.buffer(), &self.pool);
            }
        }
        if orders & order::CANCEL_WAIT != 0 {
            self.shared().clear_order(order::CANCEL_WAIT);
            if matches!(self.work, Work::Waiting(_)) || (matches!(self.work, Work::Idle) && self.waits_for_pin()) {
                self.cancel_wait();
            } else {
                self.cancel_late();
            }
        }
        None
    }

    /// Whether it is to stand still. Sends what waits, and says so when that is done.
    fn stands_still(&mut self, cx: &mut TaskContext<'_>) -> bool {
        if self.shared().orders() & order::SUSPEND == 0 {
            return false;
        }
        let lost = self.flush(cx).is_err();
        let sent = match &mut self.work {
            Work::Active(active) => {
                active.flush(cx);
                active.broken || active.can_take()
            }
            _ => true,
        };
        if lost || (sent && self.out.is_empty()) {
            self.shared().note_standing();
        }
        true
    }

    fn is_idle_session(&mut self) -> bool {
        match &mut self.work {
            Work::Active(active) => active.lease.server().is_some_and(|s| s.state.pipeline.is_idle()),
            _ => true,
        }
    }

    /// The query that was to be cancelled while it waited has got its server just now: it is cancelled there.
    fn cancel_late(&self) {
        match &mut *self.shared().cancel.lock() {
            CancelSlot::Running(server) => cancel::spawn(self.context(), server),
            CancelSlot::Replaying { wanted, .. } => *wanted = true,
            CancelSlot::Idle | CancelSlot::Waiting => {}
        }
    }

    /// The query that waits for a server was cancelled: it fails as it would have on a server.
    fn cancel_wait(&mut self) {
        self.work = Work::Idle;
        self.pin = None;
        *self.shared().cancel.lock() = CancelSlot::Idle;
        self.set_phase(Phase::Idle, self.now().1);
        let error = ClientError::error(SqlState::QUERY_CANCELED, "canceling statement due to user request")
            .detail("The statement was still waiting for a server connection.");
        backend::put_error(self.out.buffer(), &error);
        self.starved = false;
        let Ok(Some(header)) = frame::peek(&self.carry) else { return };
        if matches!(header.tag, frontend::tag::QUERY | frontend::tag::FUNCTION_CALL) {
            let here = header.total_len().min(self.carry.len());
            self.carry.drain(..here);
            self.remainder = Remainder { bytes: header.total_len() - here, forward: false };
            backend::put_ready(self.out.buffer(), TransactionStatus::Idle);
        } else {
            self.state.skipping = true;
        }
    }

    /// Parts from server and client.
    #[cold]
    #[inline(never)]
    fn finish(&mut self, end: End) {
        let (reason, error) = match end {
            End::Left(reason) => (reason.to_owned(), None),
            End::ServerFatal => ("server connection ended".to_owned(), None),
            End::Departs => return,
            End::Error(error) => {
                if error.code == SqlState::PROTOCOL_VIOLATION {
                    self.make_due("the client broke the protocol");
                }
                self.pool.happenings().ended.count(error.code.0);
                (error.to_string(), Some(error))
            }
        };
        let mid_message = self.part_from_server();
        self.stop_listening();
        self.pool.tenant_left(&self.user, self.state.tenant);
        let context = Arc::clone(self.context());
        if context.config.load().pooler.log_disconnections {
            let shared = self.shared();
            info!(client = %shared.id, user = %shared.user, database = %shared.database, "closing because: {reason}");
        }
        if let (Some(error), false) = (&error, mid_message) {
            backend::put_error(self.out.buffer(), error);
        }
    }

    /// Gives the server back, or has it cancelled and closed when something still runs there. Says whether the
    /// client has got only a part of a message.
    fn part_from_server(&mut self) -> bool {
        *self.shared().cancel.lock() = CancelSlot::Idle;
        self.record(What::Closed);
        let Work::Active(mut active) = std::mem::replace(&mut self.work, Work::Idle) else { return false };
        let Some(server) = active.lease.server() else { return false };
        let mid_message = server.remainder.bytes > 0 && server.remainder.forward;
        let usable = server.is_at_boundary() && server.state.pipeline.is_answered() && !server.state.pipeline.is_open();
        server.cut |= self.remainder.bytes > 0 && self.remainder.forward;
        if let Some(Pin::Held(held)) = self.pin.as_deref_mut() {
            held.mark = None;
        }
        if usable && self.remainder.bytes == 0 && !active.broken {
            if self.mode == PoolMode::Session {
                server.state.touched |= Taint::Session;
            }
            drop(active);
        } else if active.broken || server.state.pipeline.is_answered() {
            active.lease.close();
        } else {
            debug!(client = %self.shared().id, "cancelling what still runs");
            cancel::then_close(self.context(), active.lease);
        }
        mid_message
    }
}

/// Too many requests are in flight. Gives the replies that are due in the server's place, and says whether that
/// wasn't enough: then the server is asked not to keep back what it has answered, as it may until Sync or Flush.
fn is_crowded(server: &mut Server, input: &[u8], out: &mut Outputs) -> bool {
    let pipeline = &mut server.state.pipeline;
    while let Some(message) = pipeline.next_insert() {
        backend::put_empty(&mut out.own, message);
    }
    let crowded = pipeline.len() >= MOST_REQUESTS;
    if crowded && pipeline.is_open() {
        frontend::put_empty(out.to_server.own(input), frontend::tag::FLUSH);
    }
    crowded
}

fn take_server_messages(
    server: &mut Server,
    client: &mut ClientState,
    pool: &Pool,
    input: &[u8],
    out: &mut Outputs,
    events: &mut Events,
) -> Result<usize, ClientError> {
    let mut at = server.remainder.bytes.min(input.len());
    if at > 0 {
        if server.remainder.forward {
            out.to_client.forward(input, 0..at);
        }
        server.remainder.bytes -= at;
    }
    let mut path = ServerPath {
        client,
        server: &mut server.state,
        tables: &pool.tables,
        to_client: &mut out.to_client,
        to_server: &mut out.own,
        events,
    };
    let fault = |error: reply::ServerFault| {
        let text = format!("server connection is in doubt: {error}");
        ClientError::fatal(SqlState::CONNECTION_FAILURE, text).detail("It was closed.")
    };
    while at < input.len() {
        at = path.results(input, at).map_err(fault)?;
        match path.message(input, at).map_err(fault)? {
            reply::Step::Taken { consumed, remaining, forward } => {
                at += consumed;
                server.remainder = Remainder { bytes: remaining, forward };
            }
            reply::Step::More => break,
        }
    }
    Ok(at)
}

fn pool_gone(pool: &Pool) -> ClientError {
    ClientError::fatal(SqlState::ADMIN_SHUTDOWN, format!("database \"{}\" was removed", pool.name))
}

impl Active {
    /// What was asked for is answered, and the transaction has ended unless `in_block`: counts both. Gives what is to
    /// be told of the transaction if it took `bound` microseconds.
    fn answered(&mut self, now: Moment, in_block: bool, bound: u64) -> Option<finished::Finished> {
        let query = self.query_since.take().map(|since| now.saturating_sub(since.get()));
        let since = self.since.take_if(|_| !in_block);
        let server = self.lease.server()?;
        match (since, query) {
            (Some(since), query) => {
                let split = server.note_transaction(now.saturating_sub(since.get()), query);
                Relay::finished(bound, split, server)
            }
            (None, Some(query)) => {
                server.note_query(query);
                None
            }
            (None, None) => None,
        }
    }

    /// Sends bytes to the server, and keeps what it doesn't take.
    fn send(&mut self, cx: &mut TaskContext<'_>, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let Some(server) = self.lease.server() else { return };
        server.shared.counters.received.add(bytes.len() as u64);
        if !server.out.is_empty() || self.broken {
            server.out.push(bytes);
            self.flush(cx);
            return;
        }
        let mut sent = 0;
        while sent < bytes.len() {
            match server.stream.poll_write_from(cx, &bytes[sent..]) {
                Poll::Ready(Ok(n)) => sent += n,
                Poll::Ready(Err(_)) => {
                    self.broken = true;
                    return;
                }
                Poll::Pending => {
                    server.out.push(&bytes[sent..]);
                    return;
                }
            }
        }
    }

    /// Sends what waits for the server. Says whether anything moved.
    fn flush(&mut self, cx: &mut TaskContext<'_>) -> bool {
        let Some(server) = self.lease.server() else { return false };
        let mut progress = false;
        while !server.out.is_empty() && !self.broken {
            match server.stream.poll_write_from(cx, server.out.pending()) {
                Poll::Ready(Ok(n)) => {
                    server.out.advance(n);
                    progress = true;
                }
                Poll::Ready(Err(_)) => self.broken = true,
                Poll::Pending => break,
            }
        }
        progress
    }

    /// Whether the server takes more from the client.
    fn can_take(&mut self) -> bool {
        !self.broken && self.lease.server().is_some_and(|s| s.out.is_empty())
    }
}

impl Future for Relay {
    type Output = Parted;

    fn poll(self: std::pin::Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Parted> {
        let relay = self.get_mut();
        let end = ready!(SCRATCH.with_borrow_mut(|scratch| relay.poll_run(cx, scratch)));
        let parted = if matches!(end, End::Departs) { Parted::Departs } else { Parted::Ended };
        relay.finish(end);
        Poll::Ready(parted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_client_is_small() {
        // The task's future is the relay and little more; buffers belong to the worker thread.
        let (relay, shared) = (size_of::<Relay>(), size_of::<ClientShared>());
        assert!(relay <= 288, "a Relay has {relay} bytes");
        assert!(shared <= 240, "a ClientShared has {shared} bytes");
    }
}
