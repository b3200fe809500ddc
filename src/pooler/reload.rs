//! Taking over a changed configuration, all or nothing.

use std::sync::Arc;

use tracing::{error, info, warn};

use super::{Origin, Source};
use crate::client::Context;
use crate::client::registry::{ClientKind, order};
use crate::config::Config;
use crate::error::{ClientError, SqlState};
use crate::pool::directory;

/// Reads the configuration again and applies it. What is wrong with it is logged, and then nothing changes.
///
/// # Errors
/// What was logged.
pub async fn reload(context: Arc<Context>, source: Source) -> Result<(), String> {
    /// One after the other.
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _turn = TURN.lock().await;
    let Origin::File(path) = &source.origin else {
        let text = "nothing to reload: the configuration came from the environment";
        info!("{text}");
        return Err(text.into());
    };
    // Files are read and commands run, which may take their time.
    let reading = source.clone();
    let Ok(loaded) = tokio::task::spawn_blocking(move || reading.load()).await else {
        return Err("the configuration could not be read".into());
    };
    match loaded {
        Ok(config) => {
            for warning in &config.warnings {
                warn!("{warning}");
            }
            apply(&context, config);
            info!("reloaded {}", path.display());
            Ok(())
        }
        Err(errors) => {
            let text = format!("{} was not reloaded, nothing has changed:\n{errors}", path.display());
            error!("{text}");
            Err(text)
        }
    }
}

/// Applies a checked configuration.
pub fn apply(context: &Arc<Context>, config: Config) {
    let before = context.config.swap(Arc::new(config));
    let config = context.config.load_full();
    context.pools.apply(&config);
    context.secrets.forget_all();
    let audit_changed = before.pooler.audit != config.pooler.audit;
    context.registry.for_each(|client| {
        if audit_changed && client.kind == ClientKind::Pooled {
            client.order(order::AUDIT);
        }
        if client.kind != ClientKind::Console && directory::find(&config, client.database.as_str()).is_none() {
            let text = format!("database \"{}\" was removed from the configuration", client.database);
            client.end(order::END_IDLE, ClientError::fatal(SqlState::ADMIN_SHUTDOWN, text));
        }
    });
}
