//! The listening sockets in use: from the beginning to the end, or until another process has them.

use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::info;

use super::accept;
use super::stop::Stop;
use crate::admin::{self, Admin};
use crate::net::listener::Listener;

/// Those who accept connections.
pub(super) struct Serving {
    remote: JoinSet<()>,
    /// Those who look after it can get in by the unix socket while it stops.
    local: JoinSet<()>,
    /// HTTP stays to the end: it tells load balancers that no new connections are taken.
    http: JoinSet<()>,
    ceded: watch::Sender<bool>,
    _open: watch::Sender<bool>,
}

impl Serving {
    /// Begins to accept.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn begin(
        admin: &Arc<Admin>,
        stop: &Stop,
        listeners: Vec<Listener>,
        http: Option<TcpListener>,
    ) -> io::Result<Self> {
        let (open, never) = watch::channel(false);
        let (remote, local, ceded) = (JoinSet::new(), JoinSet::new(), watch::Sender::new(false));
        let mut serving = Self { remote, local, http: JoinSet::new(), ceded, _open: open };
        for listener in listeners {
            info!("listening on {}", listener.address());
            let (tasks, closing) = match listener.is_unix() {
                true => (&mut serving.local, never.clone()),
                false => (&mut serving.remote, stop.watch()),
            };
            tasks.spawn(accept::accept(listener, Arc::clone(admin), closing, serving.ceded.subscribe()));
        }
        if let Some(listener) = http {
            info!("serving HTTP on {}", listener.local_addr()?);
            serving.http.spawn(admin::http::serve(listener, Arc::clone(admin)));
        }
        Ok(serving)
    }

    /// Another process accepts. Whoever was accepted here is let in.
    pub(super) async fn cede(&mut self) {
        self.ceded.send_replace(true);
        self.http.shutdown().await;
        while self.remote.join_next().await.is_some() || self.local.join_next().await.is_some() {}
    }

    /// Nobody new comes in but by the unix socket.
    pub(super) async fn close_remote(&mut self) {
        self.remote.shutdown().await;
    }

    /// Closes the rest.
    pub(super) async fn close(mut self) {
        self.local.shutdown().await;
        self.http.shutdown().await;
    }
}
