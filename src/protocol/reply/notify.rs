//! Notifications from a client's server, and the change from one source of them to the other, see
//! [`listen`](crate::protocol::listen).

use super::{MarkerEnd, ServerFault, ServerPath};
use crate::protocol::listen::{self, Channel, OnServer, Place};
use crate::protocol::pipeline::{Kind, Request, ServerUndo};
use crate::protocol::session::Taint;
use crate::wire::{backend, frontend};

impl ServerPath<'_> {
    /// A NotificationResponse; says whether it goes on as it is. The sender's process number is the client's own
    /// where the server has sent it to itself.
    pub(super) fn notification(&mut self, input: &[u8], body: &[u8]) -> Result<bool, ServerFault> {
        let notification = backend::notification(body)?;
        let Some(listening) = self.client.listening.as_deref() else { return Ok(true) };
        let pid = (self.server.pid, listening.pid);
        let mailbox = &listening.mailbox;
        let handover = self.server.listens.as_mut().and_then(|l| l.handover.as_mut());
        if *notification.channel == *mailbox.marker {
            if let Some(handover) = handover.filter(|h| notification.payload == h.nonce.to_string().as_bytes()) {
                handover.seen = true;
                mailbox.marker_from_server(handover.nonce);
            }
            self.give_notifications(input);
            return Ok(false);
        }
        let wanted = match handover {
            // The listening connection delivers what is in front of the marker, and behind it.
            Some(handover) if handover.to == Place::Here => handover.seen,
            Some(handover) if handover.seen => false,
            _ => listening.place == Place::Here || !listening.channels.iter().any(|c| **c == *notification.channel),
        };
        if wanted {
            mailbox.from_server(listen::message(&notification, pid));
            self.give_notifications(input);
        }
        Ok(false)
    }

    /// Gives the client what waits for it: at a place where PostgreSQL would.
    pub(super) fn give_notifications(&mut self, input: &[u8]) {
        if let Some(listening) = self.client.listening.as_deref() {
            listening.mailbox.take(self.to_client.own(input), usize::MAX);
        }
    }

    /// What the server listens to was asked.
    pub(super) fn note_channels(&mut self, channels: Vec<Channel>, noted: bool) {
        if channels.is_empty() && self.client.listening.is_none() {
            self.server.listens = None;
            return;
        }
        let listens = self.server.listens.get_or_insert_default();
        listens.noted = noted;
        listens.note = None;
        if listens.channels != channels {
            listens.channels = channels;
            listens.stuck = false;
        }
    }

    /// A query of Carpool's own has ended. Where it was the marker's, what tidies up is sent; then says so.
    pub(super) fn hand_over(&mut self) -> Result<bool, ServerFault> {
        let Some(listening) = self.client.listening.as_deref_mut() else { return Ok(false) };
        let Some(listens) = self.server.listens.as_deref_mut() else { return Ok(false) };
        let Some(handover) = &mut listens.handover else { return Ok(false) };
        if !handover.clearing {
            if !handover.seen {
                return Err(ServerFault::Replay("the server has not delivered its own notification".into()));
            }
            handover.clearing = true;
            let text = listen::clearing(handover.to, &listening.mailbox.marker);
            frontend::put_query(self.to_server, &text);
            self.server.pipeline.push(Request::skip(Kind::Query, ServerUndo::None));
            self.server.statements.unnamed = None;
            self.server.hold = true;
            return Ok(true);
        }
        self.events.marker = Some(MarkerEnd::Passed(handover.nonce));
        listening.place = handover.to;
        match handover.to {
            Place::Here => {
                let channels = listening.channels.clone();
                self.server.listens = Some(Box::new(OnServer { channels, expected: true, ..OnServer::default() }));
            }
            Place::Away => {
                listening.channels = std::mem::take(&mut handover.channels);
                self.server.listens = None;
                self.server.pins = self.server.pins.without(Taint::Listen.into());
            }
        }
        Ok(false)
    }

    /// A query of Carpool's own has failed. Says whether it was a marker's without which all stays as it was.
    pub(super) fn marker_failed(&mut self) -> bool {
        let Some(listens) = self.server.listens.as_deref_mut() else { return false };
        let Some(handover) = listens.handover.take_if(|h| h.to == Place::Away && !h.clearing) else { return false };
        listens.stuck = true;
        self.events.marker = Some(MarkerEnd::Failed(handover.nonce));
        true
    }
}
