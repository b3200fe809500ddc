//! What is noted of a session's messages, where the configuration asks for it: the readiness audit, and whose trace a
//! transaction belongs to. One pointer for a session of which nothing is noted.

use std::sync::Arc;

use super::Relay;
use super::audit::Auditor;
use super::finished::Tracer;

/// See the module.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) audit: Option<Auditor>,
    pub(super) tracer: Option<Tracer>,
}

impl Relay {
    /// Begins or ends what is noted of this session, as the configuration says now.
    pub(super) fn set_watch(&mut self) {
        let context = Arc::clone(self.context());
        let config = context.config.load();
        let (audits, traces) = (config.pooler.audit, config.pooler.otlp_endpoint.is_some());
        let before = self.watch.take().map_or((None, None), |watch| (watch.audit, watch.tracer));
        let auditor = || Auditor::new(&context.audit, self.shared(), &self.state.settings);
        let audit = audits.then(|| before.0.unwrap_or_else(auditor));
        let tracer = traces.then(|| before.1.unwrap_or_default());
        self.watch = (audits || traces).then(|| Box::new(Watch { audit, tracer }));
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
        if let Some(tracer) = self.watch.as_mut().and_then(|watch| watch.tracer.as_mut()) {
            tracer.message(message);
        }
    }
}
