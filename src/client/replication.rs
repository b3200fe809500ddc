//! Replication connections: a server connection of their own, outside the pool, and bytes passed through.

use std::io;
use std::sync::Arc;

use tracing::info;

use super::login::{Entered, finish_greeting};
use super::registry::{Admission, CancelSlot, Identity, Registered, Registry};
use super::startup::{Handshake, HandshakeError};
use crate::auth::ServerCredentials;
use crate::error::{ClientError, SqlState};
use crate::names::UserName;
use crate::pool::Pool;
use crate::protocol::settings::Settings;
use crate::server::Server;
use crate::server::connect::Login;
use crate::wire::backend;

/// A replication connection, logged in on both sides.
#[derive(Debug)]
pub struct Replication {
    handshake: Handshake,
    registered: Registered,
    server: Server,
}

/// How to log in to the server.
pub(super) fn login(
    pool: &Pool,
    user: UserName,
    credentials: ServerCredentials,
    mode: &str,
    settings: Vec<(String, String)>,
) -> Login {
    let mut parameters = vec![("replication".to_owned(), mode.to_owned())];
    parameters.extend(settings);
    pool.spec.load().login(user, credentials, parameters)
}

/// Logs in to the server and greets the client with what the server said.
pub(super) async fn enter(
    admission: Admission,
    handshake: &mut Option<Handshake>,
    (login, pool): (Login, &Pool),
    identity: Identity,
) -> Result<Entered, HandshakeError> {
    let table = crate::protocol::settings::SettingsTable::default();
    let spec = pool.spec.load_full();
    let logged_in = pool.cluster.login(login, &spec.policy, &table).await.map_err(|error| error.client_error())?;
    let Some(mut io) = handshake.take() else { return Err(io::Error::from(io::ErrorKind::NotConnected).into()) };
    let registered = Registry::register(admission, identity, Arc::new(Settings::default()));
    *registered.shared.cancel.lock() = CancelSlot::Running(Arc::clone(&logged_in.server.shared));
    let mut message = Vec::new();
    backend::put_authentication(&mut message, &[0; 4]);
    for (name, value) in &logged_in.parameters {
        backend::put_parameter_status(&mut message, name.as_bytes(), value.as_bytes());
    }
    finish_greeting(&mut message, &registered);
    io.send(&message).await?;
    Ok(Entered::Replication(Box::new(Replication { handshake: io, registered, server: logged_in.server })))
}

impl Replication {
    /// Its entry in the registry.
    #[must_use]
    pub const fn registered(&self) -> &Registered {
        &self.registered
    }

    /// Passes bytes both ways until one side ends, or the client is told to.
    pub async fn run(self) {
        let Self { handshake, registered, server } = self;
        let shared = Arc::clone(&registered.shared);
        let (mut client, unread) = handshake.into_parts();
        let mut upstream = server.stream;
        let pass = async {
            tokio::io::AsyncWriteExt::write_all(&mut upstream, &unread).await?;
            tokio::io::copy_bidirectional(&mut client, &mut upstream).await
        };
        let ordered = std::future::poll_fn(|cx| {
            shared.wake_with(cx.waker());
            if shared.orders() == 0 { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
        });
        let ended = tokio::select! {
            passed = pass => passed.map(|_| ()).map_err(|e| e.to_string()),
            () = ordered => Err("ended by the administrator".to_owned()),
        };
        *shared.cancel.lock() = CancelSlot::Idle;
        info!(client = %shared.id, "replication connection ended: {}", ended.as_ref().err().map_or("closed", |e| e.as_str()));
        if ended.is_err() {
            let default = || ClientError::fatal(SqlState::CONNECTION_FAILURE, "replication connection lost");
            let mut message = Vec::new();
            backend::put_error(&mut message, &shared.end_error().unwrap_or_else(default));
            super::login::last_words(client, message).await;
        }
    }
}
