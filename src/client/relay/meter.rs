//! Where the time of a session's transactions goes (`track_waits`, `track_statements`): tells the meter what begins when.
//!
//! The times are those that the session takes anyway, but for what is rare: that a request of Carpool's own, or one of
//! several that the client sent together, is answered before the rest, and that the client takes no more.

use std::sync::Arc;

use super::{Moment, Relay, Work};
use crate::client::registry::ClientShared;
use crate::protocol::settings::Settings;
use crate::stats::audit::Place;
use crate::stats::waits::{Group, Meter, Part, Waits};

use super::statements::Tracker;

/// See the module.
#[derive(Debug)]
pub(super) struct Metered {
    meter: Meter,
    group: Arc<Group>,
    /// The settings that the group was found under: the client's name for itself is among them.
    settings: Arc<Settings>,
    /// The client's transaction has ended, and the server was asked what it has left.
    asked: bool,
    statements: Option<Box<Tracker>>,
}

fn group(waits: &Waits, shared: &ClientShared, settings: &Settings) -> Arc<Group> {
    waits.group(Place {
        database: shared.database.as_str().into(),
        user: shared.user.as_str().into(),
        application: settings.application_name().unwrap_or_default().into(),
    })
}

impl Metered {
    pub(super) fn new(waits: &Waits, shared: &ClientShared, settings: &Arc<Settings>) -> Self {
        let group = group(waits, shared, settings);
        Self { meter: Meter::default(), group, settings: Arc::clone(settings), asked: false, statements: None }
    }

    /// Begins or ends to count by statement.
    pub(super) fn track_statements(&mut self, wanted: bool, shared: &ClientShared) {
        if wanted != self.statements.is_some() {
            self.statements = wanted.then(|| Box::new(Tracker::new(shared)));
        }
    }

    pub(super) const fn reads_messages(&self) -> bool {
        self.statements.is_some()
    }

    /// All but the last `left` of the statements that were sent have ended.
    fn settle(&mut self, left: usize) {
        if let Some(statements) = &mut self.statements {
            statements.settle(left, &mut self.meter);
        }
    }
}

impl Relay {
    fn meter(&mut self) -> Option<&mut Metered> {
        self.watch.as_mut()?.meter.as_mut()
    }

    /// Whether the replies that come next are to a request of Carpool's own.
    fn leads_own(&mut self) -> bool {
        let Work::Active(active) = &mut self.work else { return false };
        active.lease.server().is_some_and(|server| server.state.pipeline.leads_own())
    }

    /// The client has got a server.
    #[inline(never)]
    pub(super) fn meter_lent(&mut self, now: Moment) {
        let Work::Active(active) = &mut self.work else { return };
        let waited = active.lease.server().map_or(0, |server| server.timing.waited());
        if let Some(statements) = self.meter().and_then(|metered| metered.statements.as_mut()) {
            statements.clear();
        }
        self.meter_begin(now, waited);
    }

    fn meter_begin(&mut self, now: Moment, waited: u64) {
        let Some(metered) = self.watch.as_mut().and_then(|watch| watch.meter.as_mut()) else { return };
        let settings = &self.state.settings;
        metered.meter.begin(now, waited);
        metered.asked = false;
        if !Arc::ptr_eq(&metered.settings, settings) {
            if metered.settings.application_name() != settings.application_name() {
                metered.group = group(&self.registered.context().waits, &self.registered.shared, settings);
            }
            metered.settings = Arc::clone(settings);
        }
        if let Some(statements) = &mut metered.statements {
            statements.begin(settings);
        }
    }

    /// The client goes on in its transaction, or begins another on the server that it has.
    #[inline(never)]
    pub(super) fn meter_resume(&mut self, now: Moment) {
        if self.meter().is_some_and(|metered| metered.meter.now().is_none()) {
            self.meter_begin(now, 0);
        } else if let Some(metered) = self.meter() {
            metered.meter.turn(now, Part::Server);
        }
    }

    /// Messages were sent. Where something of Carpool's own stands in front, it is that which takes time first.
    #[inline(never)]
    pub(super) fn meter_sent(&mut self) {
        let own = self.leads_own();
        if self.meter().is_some_and(|metered| metered.asked) {
            return self.meter_sent_behind_question();
        }
        if let Some(metered) = self.meter().filter(|metered| own && metered.meter.now() == Some(Part::Server)) {
            metered.meter.correct(Part::Replay);
        }
    }

    /// As [`Self::meter_sent`], behind a question about the transaction before: it is another that waits for the answer.
    fn meter_sent_behind_question(&mut self) {
        let Work::Active(active) = &mut self.work else { return };
        if active.lease.server().is_none_or(|server| server.state.pipeline.client_runs() == 0) {
            return;
        }
        let now = self.now().1;
        let Some(metered) = self.meter() else { return };
        metered.asked = false;
        if let Some(parts) = metered.meter.end(now) {
            metered.group.count(&parts);
        }
        self.meter_begin(now, 0);
        if let Some(metered) = self.meter() {
            metered.meter.correct(Part::Replay);
        }
    }

    /// A message of the client's was taken.
    pub(super) fn meter_message(&mut self, message: &[u8]) {
        let Work::Active(active) = &mut self.work else { return };
        let Some(server) = active.lease.server() else { return };
        let skips = server.state.pipeline.is_skipping();
        let Some(metered) = self.watch.as_mut().and_then(|watch| watch.meter.as_mut()) else { return };
        if let Some(statements) = &mut metered.statements {
            let context = self.registered.context();
            if let Some(begun) = statements.message(message, skips, &self.state, &context.statements) {
                server.shared.note_statement(begun);
            }
        }
    }

    /// Replies were taken.
    #[inline(never)]
    pub(super) fn meter_replied(&mut self, skipped: &[(usize, usize)]) {
        let Work::Active(active) = &mut self.work else { return };
        let Some(server) = active.lease.server() else { return };
        let pipeline = &server.state.pipeline;
        let Some(metered) = self.watch.as_mut().and_then(|watch| watch.meter.as_mut()) else { return };
        if let Some(statements) = &mut metered.statements {
            skipped.iter().for_each(|&skipped| statements.skip(skipped));
        }
        if pipeline.is_answered() {
            // The time is taken when it is seen what that means.
            return;
        }
        let own = pipeline.leads_own();
        let left = if metered.statements.is_some() { pipeline.client_runs() } else { 0 };
        let replayed = metered.meter.now() == Some(Part::Replay) && !own;
        let asks = metered.meter.now() == Some(Part::Server) && own;
        let ended = metered.statements.as_ref().is_some_and(|statements| statements.running() > left);
        if !replayed && !asks && !ended {
            return;
        }
        let now = self.now().1;
        let Some(metered) = self.meter() else { return };
        if ended {
            metered.meter.split(now);
        }
        if let Some(part) = metered.meter.now() {
            metered.meter.turn(now, part);
        }
        metered.settle(left);
        if replayed || asks {
            metered.meter.turn(now, if own { Part::Replay } else { Part::Server });
        }
    }

    /// The server is about to be asked about the session, when the client has its answer.
    #[inline(never)]
    pub(super) fn meter_asks(&mut self) {
        let now = self.now().1;
        let Some(metered) = self.meter() else { return };
        metered.meter.split(now);
        metered.meter.turn(now, Part::Replay);
        metered.settle(0);
        metered.asked = true;
    }

    /// All is answered, and the transaction has ended unless `in_block`.
    #[inline(never)]
    pub(super) fn meter_answered(&mut self, now: Moment, in_block: bool) {
        let Some(metered) = self.meter().filter(|metered| metered.meter.now().is_some()) else { return };
        metered.meter.split(now);
        metered.meter.turn(now, Part::Client);
        metered.settle(0);
        metered.asked = false;
        if !in_block {
            if let Some(parts) = metered.meter.end(now) {
                metered.group.count(&parts);
            }
        }
    }

    /// The client doesn't take what has come, so that no more is read from the server.
    #[inline(never)]
    pub(super) fn meter_stalls(&mut self) {
        let now = self.watch.as_ref().map(|_| self.now().1);
        if let (Some(now), Some(metered)) = (now, self.meter()) {
            if matches!(metered.meter.now(), Some(Part::Server | Part::Replay)) {
                metered.meter.turn(now, Part::Backpressure);
            }
        }
    }

    /// The client has taken all that had come.
    #[inline(never)]
    pub(super) fn meter_flows(&mut self) {
        let own = self.leads_own();
        let now = self.watch.as_ref().map(|_| self.now().1);
        if let (Some(now), Some(metered)) = (now, self.meter()) {
            if metered.meter.now() == Some(Part::Backpressure) {
                metered.meter.turn(now, if own { Part::Replay } else { Part::Server });
            }
        }
    }
}
