//! A client that listens: its notifications by the pool's listening connection while it has no server, and by its
//! server while it changes what it listens to. See [`listen`](crate::protocol::listen).

use std::sync::Arc;
use std::task::Context as TaskContext;

use rand::RngExt;

use super::{End, Outputs, Pin, Relay, Work};
use crate::client::registry::CancelSlot;
use crate::config::PoolMode;
use crate::error::{ClientError, SqlState};
use crate::names::DatabaseName;
use crate::net::world;
use crate::pool::listening::Has;
use crate::protocol::Parting;
use crate::protocol::listen::{self, Channel, Handover, Listening, MAILBOX_LIMIT, Mailbox, Place};
use crate::protocol::pipeline::{Kind, Request, ServerUndo};
use crate::protocol::reply::MarkerEnd;
use crate::protocol::session::{Taint, Taints};
use crate::wire::backend::TransactionStatus;
use crate::wire::frontend;

/// How much a client gets from its mailbox at once, bytes.
const CHUNK: usize = 64 * 1024;

impl Relay {
    /// Gives the client the notifications that wait for it, if there are and it may get them now, and goes on with
    /// what waited for the listening connection. Says whether it did.
    pub(super) fn look_into_mailbox(&mut self, cx: &mut TaskContext<'_>) -> Result<bool, End> {
        let Some(listening) = &self.state.listening else { return Ok(false) };
        if !listening.mailbox.is_due() {
            return Ok(false);
        }
        let (mailbox, place) = (Arc::clone(&listening.mailbox), listening.place);
        if mailbox.has_overflowed() || mailbox.is_unreadable() {
            return Err(undeliverable(&mailbox).into());
        }
        let moves = mailbox.is_orphaned() && place == Place::Away;
        let blocked = !self.out.is_empty() || !self.is_between_messages();
        if blocked || (moves && !matches!(self.work, Work::Idle)) {
            return Ok(false);
        }
        mailbox.looked();
        if mailbox.is_orphaned() {
            mailbox.drain(self.out.buffer());
            self.find_listener(place, cx)?;
        } else if mailbox.take(self.out.buffer(), CHUNK) {
            mailbox.wake();
        }
        self.blocked = false;
        self.release_if_free(cx)?;
        Ok(true)
    }

    /// Whether PostgreSQL would send notifications now: no transaction is open and no reply under way.
    fn is_between_messages(&mut self) -> bool {
        let Work::Active(active) = &mut self.work else { return true };
        let server = active.lease.server();
        server.is_some_and(|s| s.state.pipeline.is_idle() && s.remainder.bytes == 0 && !s.state.partial)
    }

    /// The listening connection is gone for good, with the pool or since the pool may not have one any more.
    fn find_listener(&mut self, place: Place, cx: &TaskContext<'_>) -> Result<(), End> {
        let Some(listening) = self.state.listening.take() else { return Ok(()) };
        if place == Place::Here {
            // The server goes on.
            return Ok(());
        }
        if self.pool.is_retired() {
            self.change_pool()?;
        }
        let mailbox = self.pool.mailbox(cx.waker());
        let id = self.shared().id;
        if !self.pool.adopt_listener(id, &mailbox, &self.user, &listening.channels) {
            let text = "the pool can no longer spare a connection for LISTEN";
            return Err(ClientError::fatal(SqlState::CONFIGURATION_LIMIT, text)
                .detail("Notifications for this client can't be delivered any more.")
                .hint("See pool_size, user_pool_size and max_pinned.")
                .into());
        }
        self.state.listening = Some(Box::new(Listening { mailbox, ..*listening }));
        self.note_encoding();
        Ok(())
    }

    /// The client's own task has nothing to do with notifications any more.
    pub(super) fn stop_listening(&mut self) {
        if self.state.listening.take().is_some() {
            self.pool.unlisten(self.registered.shared.id);
        }
    }

    /// The transaction has ended and the server listens, or did: settles who delivers from now on.
    ///
    /// # Errors
    /// When nobody can deliver.
    pub(super) fn settle_listening(&mut self, cx: &mut TaskContext<'_>) -> Result<(), End> {
        let Work::Active(active) = &mut self.work else { return Ok(()) };
        let Some(server) = active.lease.server() else { return Ok(()) };
        let Some(listens) = &server.state.listens else { return Ok(()) };
        let listening = self.state.listening.as_deref();
        let away = listening.filter(|l| l.place == Place::Away).map(|l| l.channels.as_slice());
        let whole = listens.whole(away);
        if !listens.channels.is_empty() {
            if listens.stuck || listens.expected || !self.send_away(cx, whole)? {
                self.rest(false);
            }
            return Ok(());
        }
        server.state.listens = None;
        let parting = server.state.parting(&self.pool.tables);
        if whole.is_empty() {
            self.stop_listening();
        }
        match parting {
            Parting::Free => self.give_back(),
            Parting::Ask(messages) => self.ask(cx, &messages),
            Parting::Pinned | Parting::Listens => self.rest(false),
        }
        Ok(())
    }

    /// Has the listening connection take over with these channels, if it has them. Says whether it is about to.
    fn send_away(&mut self, cx: &mut TaskContext<'_>, channels: Vec<Channel>) -> Result<bool, End> {
        let id = self.shared().id;
        let known = self.state.listening.as_ref().map(|l| Arc::clone(&l.mailbox));
        let mailbox = known.unwrap_or_else(|| self.pool.mailbox(cx.waker()));
        let encoding = self.state.settings.get("client_encoding");
        let has = self.pool.want_channels(id, &mailbox, &self.user, &channels, encoding);
        // Listening connections come and go; others must get on meanwhile.
        let needs_room = has == Has::Later && self.pin.is_none() && !self.take_permit();
        if needs_room && !self.pool.will_listen(&self.user) {
            return self.part_with_gap(mailbox, channels);
        }
        if has == Has::Never {
            return Ok(false);
        }
        let marker = Arc::clone(&mailbox.marker);
        if self.state.listening.is_none() {
            let pid = self.shared().key.pid;
            let listening = Listening { pid, mailbox, channels: Vec::new(), place: Place::Here, current: false };
            self.state.listening = Some(Box::new(listening));
        }
        if has != Has::All {
            return Ok(false);
        }
        let nonce = self.pool.will_enter(id, &channels);
        self.begin_handover(Place::Away, nonce, channels);
        let mut message = Vec::new();
        frontend::put_query(&mut message, &listen::marking(&[], &marker, nonce));
        self.ask(cx, &message);
        Ok(true)
    }

    /// Whether the client's request waits until notifications that were sent before it are there, as they would be on a
    /// connection of its own.
    pub(super) fn falls_behind(&mut self) -> bool {
        let Some(listening) = self.state.listening.as_deref_mut() else { return false };
        if std::mem::take(&mut listening.current) || listening.place == Place::Here {
            return false;
        }
        listening.current = self.pool.fall_behind(self.registered.shared.id);
        listening.current
    }

    /// Whether it still waits for that.
    pub(super) fn is_behind(&self) -> bool {
        self.state.listening.as_ref().is_some_and(|listening| listening.mailbox.is_behind())
    }

    /// The listening connection isn't there, and it could need the server that the client has: the client gets what
    /// comes once it is there, and is told that something may be missing. Says whether it did.
    fn part_with_gap(&mut self, mailbox: Arc<Mailbox>, channels: Vec<Channel>) -> Result<bool, End> {
        let Work::Active(active) = &mut self.work else { return Ok(false) };
        let Some(server) = active.lease.server() else { return Ok(false) };
        if !server.state.pins.without(Taint::Listen.into()).is_empty() {
            return Ok(false);
        }
        if !self.pool.adopt_listener(self.registered.shared.id, &mailbox, &self.user, &channels) {
            return Err(too_many_listen(&self.pool.name).into());
        }
        server.state.listens = None;
        server.state.pins = Taints::NONE;
        server.state.touched |= Taint::Session;
        let pid = self.registered.shared.key.pid;
        self.state.listening = Some(Box::new(Listening { pid, mailbox, channels, place: Place::Away, current: false }));
        self.note_encoding();
        self.give_back();
        Ok(true)
    }

    /// Whether a LISTEN within a transaction goes on without a permit: who has a server must not wait for those who
    /// wait for the listening connection, which may need just this server.
    pub(super) fn listens_in_transaction(&mut self) -> bool {
        if self.mode == PoolMode::Session || self.state.listening.is_none() {
            return false;
        }
        self.take_permit();
        let Work::Active(active) = &mut self.work else { return false };
        let Some(server) = active.lease.server() else { return false };
        let idle = server.state.pipeline.is_idle() && server.is_at_boundary();
        if idle || self.pin.is_some() {
            return false;
        }
        server.state.listens.get_or_insert_default().brief = true;
        true
    }

    /// Whether a LISTEN needs no permit to keep the server, since the listening connection takes over at once. Where
    /// it isn't there it is made now: once all servers are kept by those who wait for it, it would have no place.
    pub(super) fn listens_briefly(&mut self) -> bool {
        if self.mode == PoolMode::Session {
            return false;
        }
        let there = self.pool.is_listening(self.state.settings.get("client_encoding"));
        if !there {
            self.call_listener();
            return false;
        }
        let Work::Active(active) = &mut self.work else { return false };
        let Some(server) = active.lease.server() else { return false };
        server.state.listens.get_or_insert_default().brief = true;
        true
    }

    fn call_listener(&mut self) {
        let shared = &self.registered.shared;
        let (None, Some(waker)) = (&self.state.listening, shared.waker()) else { return };
        let mailbox = self.pool.mailbox(waker);
        let encoding = self.state.settings.get("client_encoding");
        if self.pool.want_channels(shared.id, &mailbox, &self.user, &[], encoding) != Has::Never {
            let pid = self.shared().key.pid;
            let listening = Listening { pid, mailbox, channels: Vec::new(), place: Place::Here, current: false };
            self.state.listening = Some(Box::new(listening));
        }
    }

    /// Notes a change of who delivers, whose marker is about to be sent.
    fn begin_handover(&mut self, to: Place, nonce: u64, channels: Vec<Channel>) {
        let Work::Active(active) = &mut self.work else { return };
        let Some(server) = active.lease.server() else { return };
        let state = &mut server.state;
        let handover = Handover { nonce, to, channels, seen: false, clearing: false };
        state.listens.get_or_insert_default().handover = Some(handover);
        state.pins |= Taint::Listen;
        state.pipeline.push(Request::skip(Kind::Query, ServerUndo::None));
        state.statements.unnamed = None;
        state.hold = true;
    }

    /// The request at hand needs the server to listen to the client's channels. Says whether it may go on as
    /// things are.
    pub(super) fn listen_here(&mut self, input: &[u8], out: &mut Outputs) -> bool {
        let Some(listening) = &self.state.listening else { return true };
        let (mailbox, place, channels) = (Arc::clone(&listening.mailbox), listening.place, listening.channels.clone());
        let Work::Active(active) = &mut self.work else { return false };
        let Some(server) = active.lease.server() else { return false };
        let pipeline = &server.state.pipeline;
        let status = pipeline.status();
        // Within a batch nothing can be put in front, nor in a failed transaction, and there is no need.
        if pipeline.is_open() || mailbox.is_orphaned() || pipeline.has_failed() {
            return self.pass();
        }
        if place == Place::Here || !pipeline.is_answered() {
            return false;
        }
        if status == TransactionStatus::Idle {
            let Some(nonce) = self.pool.will_leave(self.shared().id) else { return self.pass() };
            self.begin_handover(Place::Here, nonce, Vec::new());
            frontend::put_query(out.to_server.own(input), &listen::marking(&channels, &mailbox.marker, nonce));
        } else if let Some(text) = self.restore(&channels) {
            frontend::put_query(out.to_server.own(input), &text);
        }
        self.keep_cancels();
        false
    }

    /// Lets the request at hand go on as things are.
    fn pass(&mut self) -> bool {
        let Work::Active(active) = &mut self.work else { return false };
        let Some(server) = active.lease.server() else { return false };
        server.state.listens.get_or_insert_default().passed = true;
        true
    }

    /// Within a transaction: what has the server listen to the client's channels, should it be committed.
    fn restore(&mut self, channels: &[Channel]) -> Option<Vec<u8>> {
        let Work::Active(active) = &mut self.work else { return None };
        let state = &mut active.lease.server()?.state;
        let listens = state.listens.get_or_insert_default();
        let note = listens.note.get_or_insert_with(|| format!("{:016x}", world::rng().random::<u64>()).into());
        let text = listen::restoring(channels, note);
        listens.passed = true;
        state.touched |= Taint::Listen;
        state.pipeline.push(Request::skip(Kind::Query, ServerUndo::None));
        state.statements.unnamed = None;
        state.hold = true;
        Some(text)
    }

    /// A cancel isn't meant for what is sent ahead.
    fn keep_cancels(&mut self) {
        let Work::Active(active) = &mut self.work else { return };
        if let Some(server) = active.lease.server().map(|s| Arc::clone(&s.shared)) {
            *self.registered.shared.cancel.lock() = CancelSlot::Replaying { server, wanted: false };
        }
    }

    /// What became of a marker on the client's server.
    pub(super) fn note_marker(&mut self, end: MarkerEnd) {
        match end {
            MarkerEnd::Passed(nonce) => self.pool.marker_passed(nonce),
            MarkerEnd::Failed(nonce) => self.pool.marker_failed(nonce),
        }
        let Work::Active(active) = &mut self.work else { return };
        let free = active.lease.server().is_some_and(|s| s.state.left().is_empty());
        if let (true, Some(Pin::Held(_))) = (free, self.pin.as_deref()) {
            if let Some(Pin::Held(permit)) = self.pin.take().map(|pin| *pin) {
                if let Some(permit) = permit.permit {
                    self.pool.give_permit(permit);
                }
            }
        }
    }

    /// The client's encoding may have changed.
    pub(super) fn note_encoding(&self) {
        if let Some(listening) = &self.state.listening {
            let same = self.pool.listens_in(self.state.settings.get("client_encoding"));
            listening.mailbox.read_ascii_only(!same);
        }
    }
}

fn too_many_listen(database: &DatabaseName) -> ClientError {
    ClientError::fatal(SqlState::TOO_MANY_CONNECTIONS, "no server connection can be kept for LISTEN")
        .detail(format!(
            "The connection that listens for all clients of database \"{database}\" is not there, and others keep as \
             many server connections as may be kept."
        ))
        .hint("See max_pinned; the log says why the connection was lost.")
}

fn undeliverable(mailbox: &Mailbox) -> ClientError {
    if mailbox.is_unreadable() {
        let text = "a notification can't be given in the client's encoding";
        return ClientError::fatal(SqlState::FEATURE_NOT_SUPPORTED, text)
            .detail("The client has changed client_encoding since its LISTEN.")
            .hint("Set client_encoding before LISTEN, or in the connection's parameters.");
    }
    ClientError::fatal(SqlState::PROGRAM_LIMIT_EXCEEDED, "too many notifications wait for the client")
        .detail(format!("The client has not read what it was sent, and more than {MAILBOX_LIMIT} bytes wait."))
        .hint("Read notifications promptly, and keep transactions short in a session that listens.")
}
