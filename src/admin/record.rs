//! RECORD: has the flight recorder's record of a client be written.

use std::time::Duration;

use super::Admin;
use crate::client::registry::{ClientKind, order};
use crate::error::{ClientError, SqlState};
use crate::names::ClientId;
use crate::net::timer;

/// How long a session, and the disk, may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Has it be written. Gives where.
///
/// # Errors
/// When there is no such client, or none is written.
pub(super) async fn record(admin: &Admin, id: &str) -> Result<String, ClientError> {
    let refused = |text: String| ClientError::error(SqlState::PROTOCOL_VIOLATION, text);
    let hint = "SHOW CLIENTS gives it in the column id.";
    let id = id.parse().map(ClientId).map_err(|_| refused("invalid client pointer supplied".into()).hint(hint))?;
    let mut found = None;
    admin.context.registry.for_each(|client| {
        if client.id == id && client.kind == ClientKind::Pooled {
            found = Some(admin.context.wanted_records.ask(id));
            client.order(order::WATCH);
        }
    });
    let asked = found.ok_or_else(|| refused("client not found".into()).hint(hint))?;
    let settings = "See flight_recorder and flight_recorder_dir.";
    match timer::timeout(TIMEOUT, asked).await {
        Ok(Ok(Ok(path))) => Ok(path.display().to_string()),
        Ok(Ok(Err(why))) => Err(refused(why).hint(settings)),
        Ok(Err(_)) => Err(refused("the client has left, or flight_recorder_dir is not set".into()).hint(settings)),
        Err(_) => Err(refused("not written within 10 seconds".into()).hint(settings)),
    }
}
