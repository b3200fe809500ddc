//! Layer 9: the whole, put together: accepting, the recurring work, signals, reload, stopping.

pub mod accept;
pub mod reload;
pub mod stop;
pub mod timeouts;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::info;

use crate::admin::{self, Admin, Control, Order};
use crate::client::Context;
use crate::config::{Config, ConfigErrors};
use crate::net::listener;
use crate::net::timer;
use stop::Stop;

/// How often the recurring work is done.
const TICK: Duration = Duration::from_millis(100);

/// Where the configuration comes from, first and at each reload.
#[derive(Clone, Debug)]
pub struct Source {
    /// The place.
    pub origin: Origin,
    /// What the command line says.
    pub overrides: Overrides,
}

/// See [`Source`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// This file.
    File(PathBuf),
    /// The URL of a database, from the environment; it can't change.
    Url(String),
}

/// Settings of the command line, which come before those of the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Overrides {
    /// `listen_port`.
    pub listen_port: Option<u16>,
    /// `http_port`.
    pub http_port: Option<u16>,
}

impl Source {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn load(&self) -> Result<Config, ConfigErrors> {
        let mut config = match &self.origin {
            Origin::File(path) => Config::load(path)?,
            Origin::Url(url) => Config::from_database_url(url)?,
        };
        let pooler = &mut config.pooler;
        pooler.listen_port = self.overrides.listen_port.unwrap_or(pooler.listen_port);
        pooler.http_port = self.overrides.http_port.or(pooler.http_port);
        Ok(config)
    }
}

/// Serves until told to stop. Returns when all connections are closed.
///
/// # Errors
/// When a listening socket can't be opened.
pub async fn run(config: Config, source: Source) -> io::Result<()> {
    let listeners = listener::open_all(&config.pooler)?;
    let http = listener::open_http(&config.pooler)?;
    let context = Arc::new(Context::new(config));
    let stop = Stop::new(Arc::clone(&context));
    let (control, orders) = Control::new();
    let admin = Arc::new(Admin::new(Arc::clone(&context), control, stop.watch()));
    let mut tasks = tokio::task::JoinSet::new();
    for listener in listeners {
        info!("listening on {}", listener.address());
        tasks.spawn(accept::accept(listener, Arc::clone(&admin), stop.watch()));
    }
    let mut recurring = tokio::task::JoinSet::new();
    recurring.spawn(tick(Arc::clone(&context)));
    recurring.spawn(admin::keep_statistics(Arc::clone(&admin)));
    // HTTP stays to the end: it tells load balancers that no new connections are taken.
    if let Some(listener) = http {
        info!("serving HTTP on {}", listener.local_addr()?);
        recurring.spawn(admin::http::serve(listener, Arc::clone(&admin)));
    }
    handle_orders(&context, &source, &stop, orders).await?;
    // Listening sockets close first, so that nobody new comes in.
    tasks.shutdown().await;
    stop.drain().await;
    recurring.shutdown().await;
    info!("stopped");
    Ok(())
}

/// Reloads on SIGHUP or RELOAD; returns on the first signal or command to stop, and has later signals hasten the
/// end.
async fn handle_orders(
    context: &Arc<Context>,
    source: &Source,
    stop: &Stop,
    mut orders: mpsc::Receiver<admin::Request>,
) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    loop {
        tokio::select! {
            // What went wrong is in the log already.
            _ = hangup.recv() => drop(tokio::spawn(reload::reload(Arc::clone(context), source.clone()))),
            Some(request) = orders.recv() => {
                let how = match request.order {
                    Order::Reload => {
                        let reload = reload::reload(Arc::clone(context), source.clone());
                        // The console may have gone meanwhile.
                        tokio::spawn(async move { drop(request.outcome.send(reload.await)) });
                        continue;
                    }
                    Order::StopAfterTransactions => stop::How::AfterTransactions,
                    Order::StopNow => stop::How::AtOnce,
                };
                drop(request.outcome.send(Ok(())));
                break stop.begin(how);
            }
            _ = terminate.recv() => break stop.begin(stop::How::AfterTransactions),
            _ = interrupt.recv() => break stop.begin(stop::How::AfterQueries),
            _ = quit.recv() => break stop.begin(stop::How::AtOnce),
        }
    }
    let hasten = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
        }
        hasten.begin(stop::How::AtOnce);
    });
    Ok(())
}

async fn tick(context: Arc<Context>) {
    let mut interval = timer::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        let now = Instant::now();
        for pool in context.pools.all() {
            pool.tick(now);
        }
        timeouts::enforce(&context, now);
    }
}
