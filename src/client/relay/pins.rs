//! Keeping a server between transactions: the permit for it, and telling others.

use std::task::{Context as TaskContext, Poll, ready};

use tokio::sync::OwnedSemaphorePermit;

use super::{CancelSlot, End, Phase, Relay, Waiting, Work};
use crate::config::PoolMode;
use crate::error::{ClientError, Severity};
use crate::net::world;
use crate::protocol::Keeping;
use crate::protocol::own::Refusal;
use crate::protocol::session::Taint;
use crate::server::pins::Mark;

/// See [`Relay::pin`].
pub(super) enum Pin {
    /// It waits for a permit.
    Waiting(std::pin::Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, ClientError>> + Send>>),
    /// It may keep its server, or does.
    Held(Held),
}

/// What goes when the client parts from the server.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Has the server be seen as pinned.
    pub(super) mark: Option<Mark>,
    /// Missing where what ties the client to its server was found only afterwards, and all others were taken.
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

impl std::fmt::Debug for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Self::Held(_)) { "Held" } else { "Waiting" })
    }
}

impl Pin {
    fn held(permit: OwnedSemaphorePermit) -> Self {
        Self::Held(Held { mark: None, permit: Some(permit) })
    }
}

impl Relay {
    /// Whether the client may go on with a request that will tie it to its server. If not, it waits for its
    /// permit, without a server unless a transaction is open.
    pub(super) fn allow_pin(&mut self) -> bool {
        let for_session = self.mode == PoolMode::Session;
        let never = !for_session && self.pool.spec.load().max_pinned == 0;
        if !never && !for_session {
            self.ask_for_permit();
        }
        let waits = self.waits_for_pin();
        let Work::Active(active) = &mut self.work else { return false };
        let Some(server) = active.lease.server() else { return false };
        if never {
            server.state.keeping = Keeping::Never;
        } else if for_session || !waits {
            server.state.keeping = Keeping::Allowed;
        } else {
            if server.state.pipeline.is_idle() && server.is_at_boundary() {
                self.give_back();
                self.wait_visibly();
            }
            return false;
        }
        true
    }

    /// Whether the client may go on with a request that needs a server that nobody else has used. If not, it waits for
    /// its permit to keep one, or for the server that comes in the place of this one.
    pub(super) fn change_server(&mut self) -> bool {
        if !self.allow_pin() {
            return false;
        }
        let Work::Active(active) = &mut self.work else { return false };
        let Some(server) = active.lease.server() else { return false };
        if server.state.keeping == Keeping::Never {
            return true;
        }
        if self.mode == PoolMode::Session && server.state.sequences.has_own() {
            // The session has begun on this one.
            server.state.sequences.accept();
            return true;
        }
        if !server.state.pipeline.is_idle() || !server.is_at_boundary() {
            return false;
        }
        let Work::Active(active) = std::mem::replace(&mut self.work, Work::Idle) else { return false };
        let since = self.now().1;
        self.wait_visibly();
        self.work = Work::Waiting(Waiting { granted: active.lease.renew(self.shared().id), since });
        false
    }

    /// Whether a client that keeps its server by hand may have one. If not, it waits for its permit.
    pub(super) fn may_pin_by_hand(&mut self) -> Result<bool, End> {
        if self.mode == PoolMode::Session {
            return Ok(true);
        }
        if self.pool.spec.load().max_pinned == 0 {
            return Err(ClientError { severity: Severity::Fatal, ..Refusal::NoPins.into() }.into());
        }
        self.ask_for_permit();
        if self.waits_for_pin() {
            self.wait_visibly();
            return Ok(false);
        }
        Ok(true)
    }

    /// Whether a client that has asked for its server in a way that couldn't be seen before may keep it at once. If
    /// not, its next request waits for a permit.
    pub(super) fn keep_from_now_on(&mut self) -> bool {
        if self.pool.spec.load().max_pinned == 0 {
            return false;
        }
        if !self.take_permit() {
            return false;
        }
        let Work::Active(active) = &mut self.work else { return false };
        let Some(server) = active.lease.server() else { return false };
        server.state.keeping = Keeping::Allowed;
        server.state.keep_by_hand(true);
        true
    }

    /// Takes a permit if one is free. Says whether the client may keep its server, by this one or from before.
    pub(super) fn take_permit(&mut self) -> bool {
        if self.pin.is_none() {
            self.pin = self.pool.try_pin().map(|permit| Box::new(Pin::held(permit)));
        }
        matches!(self.pin.as_deref(), Some(Pin::Held(_)))
    }

    /// Takes a permit, or a place in the queue for one.
    fn ask_for_permit(&mut self) {
        if !self.take_permit() && self.pin.is_none() {
            self.pin = Some(Box::new(Pin::Waiting(Box::pin(self.pool.pin()))));
        }
    }

    /// The client waits without a server.
    fn wait_visibly(&self) {
        *self.shared().cancel.lock() = CancelSlot::Waiting;
        self.set_phase(Phase::Waiting, self.now().1);
    }

    /// Looks whether the permit that the client waits for has come: then it goes on.
    pub(super) fn poll_pin(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), End>> {
        let Some(Pin::Waiting(permit)) = self.pin.as_deref_mut() else { return Poll::Pending };
        match ready!(permit.as_mut().poll(cx)) {
            Ok(permit) => {
                self.pin = Some(Box::new(Pin::held(permit)));
                self.blocked = false;
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    pub(super) fn waits_for_pin(&self) -> bool {
        self.pin.as_deref().is_some_and(|pin| matches!(pin, Pin::Waiting(_)))
    }

    /// A transaction has ended and the client keeps its server: others can see that, and why.
    pub(super) fn note_pinned(&mut self) {
        let Work::Active(active) = &mut self.work else { return };
        let Some(server) = active.lease.server() else { return };
        let pin = self.pin.get_or_insert_with(|| Box::new(Pin::Held(Held::default())));
        let Pin::Held(held) = &mut **pin else { return };
        if held.permit.is_none() {
            // It counts for the budget as soon as that has room.
            held.permit = self.pool.try_pin();
        }
        let mark = held.mark.get_or_insert_with(|| Mark::new(&server.shared, world::now()));
        let new = mark.update(server.state.pins, &server.state.last_command);
        let mut reasons: Vec<_> = new.iter().map(Taint::as_str).collect();
        // Several go by one name.
        reasons.dedup();
        reasons.into_iter().for_each(|reason| self.pool.happenings().pins.count(reason));
        let pins = server.state.pins;
        let wanted = self.state.own.pin_notice.unwrap_or_else(|| self.pool.spec.load().pin_notice);
        let least = self.state.settings.get("client_min_messages").unwrap_or_default();
        if wanted && !["warning", "error"].contains(&least) {
            self.state.to_tell = pins.without(self.state.told);
        }
        self.audit_pins(new);
    }
}
