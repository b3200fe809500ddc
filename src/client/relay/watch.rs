//! What is noted of a session, where the configuration asks for it: the readiness audit, whose trace a transaction
//! belongs to, where its time goes. One pointer for a session of which nothing is noted.

use std::sync::Arc;

use super::Relay;
use super::audit::Auditor;
use super::finished::Tracer;
use super::meter::Metered;

/// See the module.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) audit: Option<Auditor>,
    pub(super) tracer: Option<Tracer>,
    pub(super) meter: Option<Metered>,
}

impl Watch {
    /// Whether each message is looked at.
    pub(super) fn reads_messages(&self) -> bool {
        self.audit.is_some() || self.tracer.is_some() || self.meter.as_ref().is_some_and(Metered::reads_messages)
    }
}

impl Relay {
    /// Begins or ends what is noted of this session, as the configuration says now.
    pub(super) fn set_watch(&mut self) {
        let context = Arc::clone(self.context());
        let config = context.config.load();
        let pooler = &config.pooler;
        let before = self.watch.take().map_or((None, None, None), |watch| (watch.audit, watch.tracer, watch.meter));
        let auditor = || Auditor::new(&context.audit, self.shared(), &self.state.settings);
        let audit = pooler.audit.then(|| before.0.unwrap_or_else(auditor));
        let tracer = pooler.otlp_endpoint.is_some().then(|| before.1.unwrap_or_default());
        let metered = || Metered::new(&context.waits, self.shared(), &self.state.settings);
        let mut meter = (pooler.track_waits || pooler.track_statements).then(|| before.2.unwrap_or_else(metered));
        if let Some(meter) = &mut meter {
            meter.track_statements(pooler.track_statements, self.shared());
        }
        let any = audit.is_some() || tracer.is_some() || meter.is_some();
        self.watch = any.then(|| Box::new(Watch { audit, tracer, meter }));
    }

    /// Notes a message that was taken.
    pub(super) fn watch_message(&mut self, message: &[u8]) {
        if self.watch.is_some() {
            self.note_message(message);
        }
    }

    #[cold]
    fn note_message(&mut self, message: &[u8]) {
        self.audit_message(message);
        let Some(watch) = &mut self.watch else { return };
        if let Some(tracer) = &mut watch.tracer {
            tracer.message(message);
        }
        self.meter_message(message);
    }
}
