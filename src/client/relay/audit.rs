//! The readiness audit of one session (`audit`): notes what its messages use of the session, once they are taken.

use std::sync::Arc;

use super::Relay;
use crate::client::registry::ClientShared;
use crate::protocol::audit::{PREPARED, uses};
use crate::protocol::session::Taints;
use crate::protocol::sql::Effect;
use crate::protocol::statements::{Statement, significant};
use crate::protocol::{ClientState, settings::Settings};
use crate::stats::audit::{Audit, Group, Place, Seen};
use crate::wire::{frame, frontend};

/// See the module.
#[derive(Debug)]
pub(super) struct Auditor {
    group: Arc<Group>,
    /// What the client called itself when it was found.
    application: Box<str>,
    seen: Seen,
}

fn application(settings: &Settings) -> &str {
    settings.application_name().unwrap_or_default()
}

impl Auditor {
    pub(super) fn new(audit: &Audit, shared: &ClientShared, settings: &Settings) -> Self {
        let application = application(settings);
        let place = Place {
            database: shared.database.as_str().into(),
            user: shared.user.as_str().into(),
            application: application.into(),
        };
        Self { group: audit.group(place), application: application.into(), seen: Seen::default() }
    }

    fn text(&mut self, text: &[u8]) {
        for (kind, detail) in uses(text) {
            self.group.count(kind, &detail, &mut self.seen);
        }
    }

    fn statement(&mut self, statement: &Statement) {
        // Most do nothing; the rest is read again, as it is read without the client's settings.
        if statement.sets || !statement.taint.is_empty() || statement.effect != Effect::None {
            self.text(statement.rest().split(|&b| b == 0).next().unwrap_or_default());
        }
    }

    fn message(&mut self, message: &[u8], client: &ClientState) {
        let Ok(Some(header)) = frame::peek(message) else { return };
        let body = &message[frame::HEADER_LEN..];
        match header.tag {
            // One that isn't here as a whole is too long to be read.
            frontend::tag::QUERY if body.len() == header.body_len => {
                if let Ok(text) = frontend::query(body) {
                    self.text(text);
                }
            }
            frontend::tag::PARSE if frontend::parse(body).is_ok_and(|(name, _)| !name.is_empty()) => {
                self.group.count(PREPARED, "", &mut self.seen);
            }
            frontend::tag::BIND => {
                let Some((_, name, _)) = frontend::bind_names(body) else { return };
                let statement = if name.is_empty() {
                    client.statements.unnamed.as_ref()
                } else {
                    client.statements.named.get(significant(name)).map(|named| &named.statement)
                };
                if let Some(statement) = statement {
                    self.statement(statement);
                }
            }
            _ => {}
        }
    }
}

impl Relay {
    /// Notes a message that was taken.
    pub(super) fn audit_message(&mut self, message: &[u8]) {
        let Some(audit) = self.watch.as_mut().and_then(|watch| watch.audit.as_mut()) else { return };
        if *audit.application != *application(&self.state.settings) {
            let context = self.registered.context();
            *audit = Auditor::new(&context.audit, &self.registered.shared, &self.state.settings);
        }
        audit.message(message, &self.state);
    }

    /// Notes for what the client has begun to keep its server.
    pub(super) fn audit_pins(&mut self, new: Taints) {
        let Some(audit) = self.watch.as_mut().and_then(|watch| watch.audit.as_mut()) else { return };
        for taint in new.iter() {
            audit.group.count_pin(taint.as_str());
        }
    }
}
