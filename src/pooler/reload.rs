//! Taking over a changed configuration, all or nothing.

use std::sync::Arc;

use tracing::{error, info, warn};

use super::log::LogControl;
use super::{Loaded, Origin, Source, systemd, traces};
use crate::client::Context;
use crate::client::registry::{ClientKind, order};
use crate::client::secrets::kinds;
use crate::config::{Config, Draft, Plan, SetError};
use crate::error::{ClientError, SqlState};
use crate::pool::directory;

/// Keeps the configuration in force, and what it was made from.
pub struct Keeper {
    context: Arc<Context>,
    source: Source,
    draft: Draft,
    log: LogControl,
}

impl Keeper {
    /// Of the configuration that `context` has, which `draft` was made.
    pub fn new(context: Arc<Context>, source: Source, draft: Draft, log: LogControl) -> Self {
        Self { context, source, draft, log }
    }

    /// Reads the configuration again and applies it. What is wrong with it is logged, and then nothing changes.
    /// What SET has changed is as the file has it again.
    ///
    /// # Errors
    /// What was logged.
    pub async fn reload(&mut self) -> Result<Plan, String> {
        systemd::reloading();
        let outcome = self.read_again().await;
        systemd::ready(if outcome.is_ok() { "serving" } else { "serving; the last reload failed, see the log" });
        outcome
    }

    /// What a reload would change now. Secrets are read for it as for a reload, commands included.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub async fn plan(&self) -> Result<Plan, String> {
        let Loaded { config, .. } = self.read().await?;
        Ok(Plan::new(&self.context.config.load(), &config))
    }

    /// Reads the configuration, which changes nothing yet.
    async fn read(&self) -> Result<Loaded, String> {
        let Origin::File(path) = &self.source.origin else {
            return Err("nothing to reload: the configuration came from the environment".into());
        };
        let path = path.display().to_string();
        // Files are read and commands run, which may take their time.
        let source = self.source.clone();
        let Ok(loaded) = tokio::task::spawn_blocking(move || source.load()).await else {
            return Err(format!("{path} could not be read, nothing has changed"));
        };
        loaded.map_err(|errors| format!("{path} was not reloaded, nothing has changed:\n{errors}"))
    }

    async fn read_again(&mut self) -> Result<Plan, String> {
        let Loaded { config, draft } = match self.read().await {
            Ok(loaded) => loaded,
            Err(text) if matches!(self.source.origin, Origin::Url(_)) => {
                info!("{text}");
                return Err(text);
            }
            Err(text) => {
                error!("{text}");
                return Err(text);
            }
        };
        for warning in &config.warnings {
            warn!("{warning}");
        }
        self.draft = draft;
        let plan = self.apply(config);
        if let Origin::File(path) = &self.source.origin {
            info!("reloaded {}: {plan}", path.display());
        }
        Ok(plan)
    }

    /// Changes one setting until the next reload.
    ///
    /// # Errors
    /// Why not; then nothing changes.
    pub async fn set(&mut self, key: &str, value: &str) -> Result<Plan, SetError> {
        let (mut draft, name, text) = (self.draft.clone(), key.to_owned(), value.to_owned());
        // As for a reload: the secrets' commands run again.
        let made = tokio::task::spawn_blocking(move || draft.set(&name, &text).map(|config| (draft, config))).await;
        let made = made.unwrap_or_else(|_| Err(SetError::Invalid("the configuration could not be made".into())));
        let (draft, config) = made.inspect_err(|error| info!("SET failed: {error}"))?;
        self.draft = draft;
        let plan = self.apply(self.source.finish(config));
        info!("SET {key}: {plan}");
        Ok(plan)
    }

    fn apply(&self, config: Config) -> Plan {
        let before = self.context.config.load_full();
        let plan = Plan::new(&before, &config);
        (self.log)(&config.pooler);
        apply(&self.context, config);
        plan
    }
}

/// Applies a checked configuration.
pub(crate) fn apply(context: &Arc<Context>, config: Config) {
    let before = context.config.swap(Arc::new(config));
    let config = context.config.load_full();
    context.verifiers.set_iterations(config.pooler.scram_iterations);
    context.secrets.note_configured(&config);
    derive_verifiers(context);
    context.pools.apply(&config);
    context.secrets.forget_all();
    traces::follow(context);
    let watches = |config: &Config| {
        let pooler = &config.pooler;
        let tracks = (pooler.track_waits, pooler.track_statements);
        (pooler.audit, pooler.otlp_endpoint.is_some(), tracks, pooler.flight_recorder)
    };
    let watch_changed = watches(&before) != watches(&config);
    context.registry.for_each(|client| {
        if watch_changed && client.kind == ClientKind::Pooled {
            client.order(order::WATCH);
        }
        if client.kind != ClientKind::Console && directory::find(&config, client.database.as_str()).is_none() {
            let text = format!("database \"{}\" was removed from the configuration", client.database);
            client.end(order::END_IDLE, ClientError::fatal(SqlState::ADMIN_SHUTDOWN, text));
        }
    });
}

/// Away from the event loop: it may take seconds.
pub(super) fn derive_verifiers(context: &Arc<Context>) {
    let config = context.config.load_full();
    if kinds::needs_deriving(&config) {
        let context = Arc::clone(context);
        tokio::task::spawn_blocking(move || kinds::derive(&config, &context.verifiers));
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::config::{AuthType, Secret, User};

    /// Else the first login of each took longer than an unknown user's.
    #[tokio::test]
    async fn a_reload_derives_verifiers() {
        let context = Arc::new(Context::new(Config::default()));
        let mut config = Config::default();
        config.pooler.auth_type = AuthType::ScramSha256;
        config.users.insert("anna".into(), User { password: Some(Secret::new("secret")), ..User::default() });
        apply(&context, config);
        let begun = Instant::now();
        while !context.verifiers.has(&"anna".into()) {
            assert!(begun.elapsed() < Duration::from_secs(30), "it derives none");
            tokio::task::yield_now().await;
        }
    }
}
