//! What admins do from the dashboard: as the console's commands of the same names, by the same code.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::super::command::Operation;
use super::super::http::{Response, json as answer};
use super::super::operator::Operator;
use super::super::{Admin, Failure, Order};
use super::error;
use crate::config::Plan;
use crate::error::ClientError;
use crate::names::UserName;

/// How long a pause waits for servers to come free before it is undone.
const PAUSE_LIMIT: Duration = Duration::from_secs(15);

/// What is done to a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Deed {
    Kill,
    Cancel,
}

/// Ends a client, or cancels what it runs.
pub(super) fn client(admin: &Admin, id: u64, deed: Deed, user: &UserName, peer: SocketAddr) -> Response {
    let by = Operator::Web { user, peer };
    let done = match deed {
        Deed::Kill => admin.kill_client(id, &by).then_some(true),
        Deed::Cancel => admin.cancel_client(id, &by),
    };
    match done {
        Some(true) => answer(Ok("{}".into())),
        Some(false) => error(409, "the client runs nothing and waits for nothing", ""),
        None => error(404, "there is no such client any more", ""),
    }
}

/// The operation of a name.
pub(super) fn operation(name: &str) -> Option<Operation> {
    Some(match name {
        "pause" => Operation::Pause(Some(PAUSE_LIMIT)),
        "resume" => Operation::Resume,
        "reconnect" => Operation::Reconnect,
        "disable" => Operation::Disable,
        "enable" => Operation::Enable,
        _ => return None,
    })
}

/// Carries out an operation on one pool, to its end even if whoever asked has left.
pub(super) async fn pool(
    admin: &Arc<Admin>,
    name: String,
    operation: Operation,
    user: &UserName,
    peer: SocketAddr,
) -> Response {
    let (admin, user) = (Arc::clone(admin), user.clone());
    let carried_out = tokio::spawn(async move {
        let by = Operator::Web { user: &user, peer };
        admin.operate(operation, Some(&name), &by).await
    });
    match carried_out.await {
        Ok(Ok(())) => answer(Ok("{}".into())),
        Ok(Err(ClientError { message, detail, hint, .. })) => {
            let text = [Some(message.into_owned()), detail].into_iter().flatten().collect::<Vec<_>>().join(". ");
            error(409, &text, hint.as_deref().unwrap_or_default())
        }
        Err(_) => error(500, "internal error", "The log has the reason."),
    }
}

/// The changes that a reload would make, or has made.
pub(super) async fn reload(admin: &Admin, order: Order) -> Response {
    match admin.control.order(order).await {
        Ok(plan) => answer(serde_json::to_string(&json!({ "changes": changes(&plan) }))),
        Err(Failure::Gone) => error(503, "stopping", ""),
        Err(failure) => error(422, &failure.to_string(), "Nothing has changed."),
    }
}

fn changes(plan: &Plan) -> Vec<serde_json::Value> {
    plan.iter().map(|change| json!({ "key": change.key, "what": change.what })).collect()
}
