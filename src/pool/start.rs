//! What a session starts with. Most of a user's logins ask for the same as the one before, and get the same.

use std::sync::Arc;

use super::{Judged, PoolUser, Welcome};
use crate::protocol::settings::{Settings, SettingsTable};
use crate::wire::backend;

/// What a session starts with.
#[derive(Debug)]
pub struct Start {
    wanted: Vec<(String, String)>,
    welcome: Arc<Welcome>,
    /// Its settings.
    pub settings: Arc<Settings>,
    /// Those that matter when a text is parsed.
    pub context: Arc<Settings>,
    /// Notices about what the client asked for, and the parameters, as whole messages.
    pub greeting: Box<[u8]>,
}

impl Start {
    /// For a client that asks for `wanted`, which comes to `judged`.
    #[must_use]
    pub fn new(wanted: Vec<(String, String)>, welcome: Arc<Welcome>, judged: &Judged, table: &SettingsTable) -> Self {
        let settings = Arc::clone(&judged.settings);
        let mut greeting = judged.notices.to_vec();
        for (name, value) in &welcome.parameters {
            let value = settings.get(name).unwrap_or(value);
            backend::put_parameter_status(&mut greeting, name.as_bytes(), value.as_bytes());
        }
        let context = table.intern(settings.when_parsing());
        Self { wanted, welcome, settings, context, greeting: greeting.into() }
    }
}

impl PoolUser {
    /// What the last client started with, if it asked for the same.
    #[must_use]
    pub fn last_start(&self, wanted: &[(String, String)]) -> Option<Arc<Start>> {
        let last = self.start.load_full().filter(|last| last.wanted == wanted)?;
        let welcome = self.welcome.load();
        welcome.as_ref().is_some_and(|welcome| Arc::ptr_eq(welcome, &last.welcome)).then_some(last)
    }

    /// Notes what a client starts with.
    pub fn note_start(&self, start: &Arc<Start>) {
        self.start.store(Some(Arc::clone(start)));
    }
}
