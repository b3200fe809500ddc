//! What is noted of a session, where the configuration asks for it: the readiness audit, whose trace a transaction
//! belongs to, where its time goes, its last events. One pointer for a session of which nothing is noted.

use std::sync::Arc;

use super::Relay;
use super::audit::Auditor;
use super::finished::Tracer;
use super::meter::Metered;
use super::recorder::Recorder;
use crate::stats::flight::What;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub(super) audit: Option<Auditor>,
    pub(super) tracer: Option<Tracer>,
    pub(super) meter: Option<Metered>,
    pub(super) recorder: Option<Recorder>,
}

impl Watch {
    /// Whether each message is looked at.
    pub(super) fn reads_messages(&self) -> bool {
        let any = self.audit.is_some() || self.tracer.is_some() || self.recorder.is_some();
        any || self.meter.as_ref().is_some_and(Metered::reads_messages)
    }
}

impl Relay {
    /// Begins or ends what is noted of this session, as the configuration says now.
    pub(super) fn set_watch(&mut self) {
        let context = Arc::clone(self.context());
        let config = context.config.load();
        let pooler = &config.pooler;
        let before = self.watch.take().map(|watch| *watch);
        let Watch { audit, tracer, meter, recorder } = before.unwrap_or_default();
        let auditor = || Auditor::new(&context.audit, self.shared(), &self.state.settings);
        let audit = pooler.audit.then(|| audit.unwrap_or_else(auditor));
        let tracer = pooler.otlp_endpoint.is_some().then(|| tracer.unwrap_or_default());
        let metered = || Metered::new(&context.waits, self.shared(), &self.state.settings);
        let mut meter = (pooler.track_waits || pooler.track_statements).then(|| meter.unwrap_or_else(metered));
        if let Some(meter) = &mut meter {
            meter.track_statements(pooler.track_statements, self.shared());
        }
        let size = usize::try_from(pooler.flight_recorder).unwrap_or_default();
        let recorder = recorder.filter(|recorder| recorder.size() == size);
        let recorder = recorder.or_else(|| (size > 0).then(|| Recorder::new(size)));
        let any = audit.is_some() || tracer.is_some() || meter.is_some() || recorder.is_some();
        self.watch = any.then(|| Box::new(Watch { audit, tracer, meter, recorder }));
    }

    /// Notes a message that was taken.
    pub(super) fn watch_message(&mut self, message: &[u8]) {
        if self.watch.is_some() {
            self.note_message(message);
        }
    }

    #[inline(never)]
    fn note_message(&mut self, message: &[u8]) {
        self.audit_message(message);
        let Some(watch) = &mut self.watch else { return };
        if let Some(tracer) = &mut watch.tracer {
            tracer.message(message);
        }
        self.meter_message(message);
        self.record_message(What::Client, message);
    }
}
