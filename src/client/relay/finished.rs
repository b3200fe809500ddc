//! What is told of a transaction that is over: a line in the log if it was slow (`log_slow_transactions`), a span
//! (`otlp_endpoint`). With both off the session only compares how long it took with a bound that nothing reaches.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rand::RngExt;
use tracing::info;

use super::Relay;
use crate::names::ServerId;
use crate::net::world;
use crate::protocol::session::Taints;
use crate::protocol::trace::{Parent, parent};
use crate::server::Server;
use crate::server::timing::Split;
use crate::stats::spans::Span;
use crate::wire::{frame, frontend};

/// A transaction that is over.
#[derive(Debug)]
pub(super) struct Finished {
    split: Split,
    server: ServerId,
    pins: Taints,
}

/// Of the transaction at hand, for its span.
#[derive(Debug, Default)]
pub(super) struct Tracer {
    parent: Option<Parent>,
    error: Option<&'static str>,
}

impl Tracer {
    /// Looks for the caller's trace in a text.
    pub(super) fn message(&mut self, message: &[u8]) {
        let Ok(Some(header)) = frame::peek(message) else { return };
        let body = &message[frame::HEADER_LEN..];
        // The first one counts. A text that isn't here as a whole is too long to be read.
        if self.parent.is_some() || body.len() != header.body_len {
            return;
        }
        let text = match header.tag {
            frontend::tag::QUERY => frontend::query(body).ok(),
            frontend::tag::PARSE => frontend::parse(body).ok().map(|(_, rest)| rest),
            _ => None,
        };
        self.parent = text.and_then(parent);
    }
}

impl Relay {
    /// Notes for the span of the transaction at hand that the client was told of an error.
    pub(super) fn trace_error(&mut self, class: &'static str) {
        if let Some(tracer) = self.watch.as_mut().and_then(|watch| watch.tracer.as_mut()) {
            tracer.error = Some(class);
        }
    }

    /// What is to be told of a transaction that has just ended on `server`, if anything is.
    pub(super) fn finished(bound: u64, split: Split, server: &Server) -> Option<Finished> {
        (split.total() >= bound).then(|| Finished { split, server: server.shared.id, pins: server.state.pins })
    }

    /// Tells of a transaction.
    #[cold]
    pub(super) fn tell(&mut self, finished: &Finished) {
        let context = Arc::clone(self.context());
        let bound = context.config.load().pooler.log_slow_transactions;
        if !bound.is_zero() && Duration::from_micros(finished.split.total()) >= bound {
            self.log_slow(finished);
        }
        let Some(tracer) = self.watch.as_mut().and_then(|watch| watch.tracer.as_mut()) else { return };
        let Tracer { parent, error } = std::mem::take(tracer);
        let percent = context.config.load().pooler.otlp_sampling;
        if parent.map_or_else(|| world::rng().random_range(0..100) < percent, |parent| parent.is_sampled) {
            context.spans.push(self.span(finished, parent, error));
        }
    }

    fn log_slow(&self, finished: &Finished) {
        let shared = self.shared();
        let application = self.state.settings.application_name().unwrap_or_default();
        let kind = (shared.database.clone(), shared.user.clone(), application.into());
        let Some(left_out) = self.context().slow.admit(kind, world::now()) else { return };
        let seconds = |micros| Duration::from_micros(micros).as_secs_f64();
        let Split { wait, server, client } = finished.split;
        info!(
            client = %shared.id,
            user = %shared.user,
            database = %shared.database,
            application_name = ?application,
            server = %finished.server,
            pinned = %finished.pins.names(),
            left_out,
            "slow transaction: {:.3} s (waited for a server {:.3} s, server {:.3} s, client {:.3} s)",
            seconds(finished.split.total()),
            seconds(wait),
            seconds(server),
            seconds(client),
        );
    }

    fn span(&self, finished: &Finished, parent: Option<Parent>, error: Option<&'static str>) -> Span {
        let shared = self.shared();
        let mut random = world::rng();
        let Split { wait, server, client } = finished.split;
        let now = world::time_of_day().duration_since(UNIX_EPOCH).unwrap_or_default();
        Span {
            trace: parent.map_or_else(|| random.random(), |parent| parent.trace),
            id: random.random(),
            parent: parent.map(|parent| parent.span),
            wait_id: random.random(),
            end: u64::try_from(now.as_micros()).unwrap_or(u64::MAX),
            wait,
            taken: server + client,
            database: shared.database.clone(),
            user: shared.user.clone(),
            application: self.state.settings.application_name().unwrap_or_default().to_owned(),
            client: shared.id.to_string(),
            server: finished.server.to_string(),
            error,
        }
    }
}
