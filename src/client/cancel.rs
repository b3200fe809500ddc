//! Cancel requests: from clients on to the server that runs their query, and of what a vanished client left
//! running.

use std::sync::Arc;

use tracing::{debug, warn};

use super::Context;
use super::exodus::Neighbour;
use super::peers;
use super::registry::{CancelSlot, ClientShared, order};
use crate::net::TcpOptions;
use crate::net::timer;
use crate::net::world;
use crate::pool::Lease;
use crate::server::ServerShared;
use crate::server::cancel::CancelInFlight;
use crate::wire::startup::CancelKey;

/// Sends a cancel to `server`. The caller holds the cancel slot of the client that has it on loan, so the server
/// can't change hands before the cancel is counted.
pub fn spawn(context: &Context, server: &Arc<ServerShared>) {
    let in_flight = CancelInFlight::begin(server);
    world::spawn(send(in_flight, settings(context), Arc::clone(server)));
}

type Settings = (TcpOptions, std::time::Duration);

fn settings(context: &Context) -> Settings {
    let config = context.config.load();
    ((&config.pooler).into(), config.pooler.cancel_wait_timeout)
}

async fn send(in_flight: CancelInFlight, (options, timeout): Settings, server: Arc<ServerShared>) {
    if let Err(error) = in_flight.send(options, timeout).await {
        warn!(server = %server.id, "cancel request failed: {error}");
    }
}

/// How long a server may take to hang up before another of its queries is cancelled.
const NEXT_QUERY: std::time::Duration = std::time::Duration::from_millis(100);
/// Queries of one vanished client that are cancelled at most.
const MOST_QUERIES: u32 = 20;

/// Cancels what runs on a server whose client has gone, then closes the server. Queries that were sent behind the
/// one that runs begin as it ends: each is cancelled in turn.
pub fn then_close(context: &Context, mut lease: Lease) {
    let Some(shared) = lease.server().map(|s| Arc::clone(&s.shared)) else { return };
    let in_flight = CancelInFlight::begin(&shared);
    let settings = settings(context);
    world::spawn(async move {
        send(in_flight, settings, Arc::clone(&shared)).await;
        for _ in 0..MOST_QUERIES {
            if lease.server().is_none() || hangs_up(&mut lease).await {
                break;
            }
            send(CancelInFlight::begin(&shared), settings, Arc::clone(&shared)).await;
        }
        lease.close();
    });
}

/// Says goodbye; whether the server has hung up soon after.
async fn hangs_up(lease: &mut Lease) -> bool {
    let Some(server) = lease.server() else { return true };
    timer::timeout(NEXT_QUERY, server.goodbye()).await.is_ok()
}

/// Does what a cancel request asks for. Returns when PostgreSQL has got it, as PostgreSQL itself hangs up only
/// then. A key that fits nobody is nobody's business.
pub async fn request(context: &Context, key: &CancelKey) {
    let client = match locate(context, key).await {
        Located::Here(client) => client,
        Located::Elsewhere => return,
        Located::Nowhere => {
            let Some(key) = peers::resolve(context, key).await else { return };
            match locate(context, &key).await {
                Located::Here(client) => client,
                Located::Elsewhere => return,
                Located::Nowhere => return debug!("cancel request with an unknown key"),
            }
        }
    };
    carry_out(context, &client).await;
}

/// Whose a key is.
enum Located {
    Here(Arc<ClientShared>),
    /// Another process of this Carpool has seen to it, see [`super::exodus`].
    Elsewhere,
    Nowhere,
}

async fn locate(context: &Context, key: &CancelKey) -> Located {
    if let Some(client) = context.registry.find(key) {
        return Located::Here(client);
    }
    if context.exodus.cancel(key).await {
        return Located::Elsewhere;
    }
    // It may have come over meanwhile.
    context.registry.find(key).map_or(Located::Nowhere, Located::Here)
}

/// Does what a cancel request asks for that came by way of the process on the one side of this one; those for a client
/// that is here no more, or not yet, go on to the other side. Says whether there is such a client.
pub async fn request_from(context: &Context, from: Neighbour, key: &CancelKey) -> bool {
    let onward = match from {
        Neighbour::Before => Neighbour::After,
        Neighbour::After => Neighbour::Before,
    };
    match context.registry.find(key) {
        Some(client) => carry_out(context, &client).await,
        None => return context.exodus.cancel_in(onward, key).await,
    }
    true
}

async fn carry_out(context: &Context, client: &ClientShared) {
    if let Due::Send(in_flight, server) = due(client) {
        debug!(client = %client.id, server = %server.id, "cancel request");
        send(in_flight, settings(context), server).await;
    }
}

/// Cancels what a client runs or waits for, as a request with its key would. Says whether there was anything.
pub fn spawn_for(context: &Context, client: &ClientShared) -> bool {
    match due(client) {
        Due::Nothing => return false,
        Due::Noted => {}
        Due::Send(in_flight, server) => {
            world::spawn(send(in_flight, settings(context), server));
        }
    }
    true
}

/// What a cancel of a client comes to.
enum Due {
    /// It has asked for nothing.
    Nothing,
    /// It, or its task, was told.
    Noted,
    /// This is to be sent to its server.
    Send(CancelInFlight, Arc<ServerShared>),
}

/// Under the client's slot, so that the server can't change hands before the cancel is counted.
fn due(client: &ClientShared) -> Due {
    match &mut *client.cancel.lock() {
        CancelSlot::Idle => Due::Nothing,
        CancelSlot::Waiting => {
            client.order(order::CANCEL_WAIT);
            Due::Noted
        }
        CancelSlot::Replaying { wanted, .. } => {
            *wanted = true;
            Due::Noted
        }
        CancelSlot::Running(server) => Due::Send(CancelInFlight::begin(server), Arc::clone(server)),
    }
}
