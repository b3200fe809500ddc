//! Layer 9: the whole, put together: accepting, the recurring work, signals, reload, stopping.

pub mod accept;
pub mod log;
pub mod orders;
pub mod process;
pub mod reload;
mod serving;
mod starvation;
pub mod stop;
mod systemd;
pub mod timeouts;
mod traces;
pub mod upgrade;

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::admin::{self, Admin, Control};
use crate::client::login::forced_login;
use crate::client::{Context, holders};
use crate::config::{Config, ConfigErrors, Draft};
use crate::net::listener::{self, Spares};
use crate::net::timer;
use crate::net::world;
use log::LogControl;
use orders::Orders;
use process::PidFile;
use reload::Keeper;
use serving::Serving;
use stop::Stop;
use upgrade::Launch;
use upgrade::predecessor::Predecessor;
use upgrade::successor::{HandedOver, Launcher};

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
    pub fn load(&self) -> Result<Loaded, ConfigErrors> {
        let draft = match &self.origin {
            Origin::File(path) => Draft::read(path)?,
            Origin::Url(url) => Draft::of_url(url),
        };
        let config = self.finish(draft.build()?);
        Ok(Loaded { config, draft })
    }

    /// Puts what the command line says in front of what a configuration says.
    fn finish(&self, mut config: Config) -> Config {
        let pooler = &mut config.pooler;
        pooler.listen_port = self.overrides.listen_port.unwrap_or(pooler.listen_port);
        pooler.http_port = self.overrides.http_port.or(pooler.http_port);
        config
    }
}

/// A configuration as it was read.
#[derive(Debug)]
pub struct Loaded {
    /// What it says.
    pub config: Config,
    /// What it was made from.
    pub draft: Draft,
}

/// Serves until told to stop. Returns when all connections are closed.
///
/// # Errors
/// When a listening socket can't be opened.
pub async fn run(loaded: Loaded, source: Source, log: LogControl, launch: Launch) -> io::Result<()> {
    let Loaded { config, draft } = loaded;
    let Launch { program, inherited } = launch;
    let (listeners, http, mut predecessor) = match inherited {
        None => (listener::open_all(&config.pooler)?, listener::open_http(&config.pooler)?, None),
        Some(socket) => {
            let (predecessor, given) = Predecessor::meet(socket).await?;
            let (listeners, http) = listener::take_over(&config.pooler, given)?;
            (listeners, http, Some(predecessor))
        }
    };
    let mut spares = Spares::of(&listeners, http.as_ref())?;
    let context = Arc::new(Context::new(config));
    reload::derive_verifiers(&context);
    let stop = Stop::new(Arc::clone(&context));
    let (control, requests) = Control::new();
    let admin = Arc::new(Admin::new(Arc::clone(&context), control, stop.watch()));
    // Its own is written and removed by whoever has started it.
    let _pid_file = match &mut predecessor {
        Some(predecessor) => {
            predecessor.wait_for_go(&context).await?;
            context.config.load().pooler.pidfile.as_deref().map(PidFile::replace).transpose()?
        }
        None => None,
    };
    let mut recurring = recurring(&admin);
    if http.is_some() {
        recurring.spawn(admin::keep_recent(Arc::clone(&admin)));
    }
    let serving = Serving::begin(&admin, &stop, listeners, http)?;
    info!("process up: Carpool {}", env!("CARGO_PKG_VERSION"));
    traces::follow(&context);
    systemd::ready("serving");
    if let Some(mut predecessor) = predecessor {
        predecessor.serving(&mut spares).await?;
        recurring.spawn(predecessor.follow(Arc::clone(&context), stop.clone()));
    }
    let keeper = Keeper::new(Arc::clone(&context), source, draft, log);
    let orders = Orders::new(&admin, keeper, requests)?;
    let launcher = Launcher { program, spares, admin: Arc::clone(&admin) };
    let mut serving = serve(serving, orders, &stop, launcher).await?;
    // Listening sockets close first, so that nobody new comes in.
    serving.close_remote().await;
    admin.unsuspend();
    stop.drain().await;
    serving.close().await;
    stop.tell().await;
    recurring.shutdown().await;
    traces::finish(&context).await;
    info!("stopped");
    Ok(())
}

/// Does what is asked for, until it is to stop, or has been handed over to another process.
async fn serve(mut serving: Serving, mut orders: Orders, stop: &Stop, mut launcher: Launcher) -> io::Result<Serving> {
    let admin = Arc::clone(&launcher.admin);
    let context = &admin.context;
    while let Some(successor) = orders.handle(stop, &launcher).await {
        let Launcher { program, spares, .. } = launcher;
        serving.cede().await;
        let handed_over = tokio::select! {
            handed_over = successor.hand_over(context, stop, spares) => handed_over,
            () = orders.hasten(stop, true) => HandedOver::All,
        };
        let HandedOver::Back(spares) = handed_over else { break };
        let given = spares.into_given();
        let uses: Vec<_> = given.iter().map(|(purpose, _)| purpose.clone()).collect();
        let (listeners, http) = listener::listen_again(&context.config.load().pooler, given)?;
        let mut spares = Spares::of(&listeners, http.as_ref())?;
        spares.own_files(&uses);
        serving = Serving::begin(&admin, stop, listeners, http)?;
        if let Some(path) = &context.config.load().pooler.pidfile {
            process::restore_pid(path);
        }
        systemd::ready("serving");
        warn!("upgrade undone: this process serves again, with {} clients", context.registry.connections());
        launcher = Launcher { program, spares, admin: Arc::clone(&admin) };
    }
    let stop = stop.clone();
    world::spawn(async move { orders.hasten(&stop, false).await });
    Ok(serving)
}

/// The recurring work.
fn recurring(admin: &Arc<Admin>) -> tokio::task::JoinSet<()> {
    let mut recurring = tokio::task::JoinSet::new();
    recurring.spawn(tick(Arc::clone(&admin.context)));
    recurring.spawn(admin::keep_statistics(Arc::clone(admin)));
    recurring.spawn(admin::advice::size_pools(Arc::clone(admin)));
    recurring.spawn(systemd::watchdog());
    recurring
}

pub(crate) async fn tick(context: Arc<Context>) {
    let mut interval = timer::interval(TICK);
    let begun = world::now();
    let mut before = begun;
    loop {
        interval.tick().await;
        let now = world::now();
        for pool in context.pools.all() {
            pool.tick(now, || holders::look(&context, &pool, now).sentences());
        }
        context.pools.balance();
        context.door.end_late(context.config.load().pooler.client_login_timeout, now);
        if context.suspended.load(Ordering::Relaxed) {
            continue;
        }
        timeouts::enforce(&context, now);
        timeouts::notify_waiting(&context, now, before);
        timeouts::close_fast(&context);
        if (now - begun).as_secs() != (before - begun).as_secs() {
            forget_unused(&context, now);
            warm_up(&context);
            starvation::look(&context, now);
        }
        before = now;
    }
}

/// Has pools keep their `min_pool_size` before a client has come, where it is known as whom to log in.
fn warm_up(context: &Context) {
    let config = context.config.load();
    for (name, database) in config.databases.iter().filter(|(_, database)| database.min_pool_size > 0) {
        let Some((user, credentials)) = forced_login(&config, database) else { continue };
        if let Some(pool) = context.pools.get(name.as_str(), &config).filter(|pool| !pool.knows(&user)) {
            pool.user(&user, credentials, config.user_share(&user));
        }
    }
}

/// Forgets the pools of the fallback that nobody uses.
fn forget_unused(context: &Context, now: Instant) {
    let config = context.config.load();
    if config.fallback.is_none() {
        return;
    }
    let mut used = HashSet::new();
    context.registry.for_each(|client| {
        used.insert(client.database.clone());
    });
    context.pools.forget_unused(&config, |name| used.contains(name), now);
}
