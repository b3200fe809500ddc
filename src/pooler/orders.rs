//! What signals and the console ask of the whole: reload, changes of settings, pauses, stopping.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing::info;

use super::reload::Keeper;
use super::stop::{How, Stop};
use super::systemd;
use super::upgrade::successor::{self, Launcher, Successor};
use crate::admin::{Admin, Failure, Order, Outcome, Request};

/// The signals that mean something, as PgBouncer has them.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    user1: Signal,
    user2: Signal,
}

/// What is asked for.
enum Asked {
    Reload,
    Pause,
    Resume,
    /// A signal to stop.
    Stop(How),
    Order(Request),
    /// The console is gone.
    Nothing,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self, orders: &mut mpsc::Receiver<Request>) -> Asked {
        tokio::select! {
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.user1.recv() => Asked::Pause,
            _ = self.user2.recv() => Asked::Resume,
            _ = self.terminate.recv() => Asked::Stop(How::AfterTransactions),
            _ = self.interrupt.recv() => Asked::Stop(How::AfterQueries),
            _ = self.quit.recv() => Asked::Stop(How::AtOnce),
            order = orders.recv() => order.map_or(Asked::Nothing, Asked::Order),
        }
    }
}

/// An upgrade under way, and who wants to know what comes of it.
struct Upgrading<'l> {
    attempt: Pin<Box<dyn Future<Output = Result<Successor, String>> + Send + 'l>>,
    outcome: oneshot::Sender<Outcome>,
}

/// What comes of an upgrade; never, where there is none.
async fn attempted(upgrading: &mut Option<Upgrading<'_>>) -> Result<Successor, String> {
    match upgrading {
        Some(upgrading) => upgrading.attempt.as_mut().await,
        None => std::future::pending().await,
    }
}

/// Who may ask for something, and what is done at once.
pub struct Orders {
    admin: Arc<Admin>,
    keeper: Keeper,
    signals: Signals,
    requests: mpsc::Receiver<Request>,
}

impl Orders {
    /// # Errors
    /// When signals can't be had.
    pub fn new(admin: &Arc<Admin>, keeper: Keeper, requests: mpsc::Receiver<Request>) -> io::Result<Self> {
        Ok(Self { admin: Arc::clone(admin), keeper, signals: Signals::new()?, requests })
    }

    /// Does what is asked for. Returns at the first signal or command to stop, or when a new process has taken over; see
    /// [`Orders::hasten`] for later ones.
    pub async fn handle(&mut self, stop: &Stop, launcher: &Launcher) -> Option<Successor> {
        let Self { admin, keeper, signals, requests } = self;
        let mut upgrading: Option<Upgrading<'_>> = None;
        loop {
            let asked = tokio::select! {
                asked = signals.next(requests) => asked,
                attempted = attempted(&mut upgrading) => match end_attempt(&mut upgrading, attempted) {
                    Some(successor) => {
                        stop.hand_over();
                        return Some(successor);
                    }
                    None => continue,
                },
            };
            match asked {
                // What went wrong is in the log already.
                Asked::Reload => drop(keeper.reload().await),
                Asked::Pause => pause(admin),
                Asked::Resume => resume(admin),
                Asked::Stop(how) => break stop.signalled(how),
                Asked::Order(Request { order, outcome }) => {
                    if order == Order::Upgrade {
                        begin_attempt(&mut upgrading, launcher, outcome);
                        continue;
                    }
                    let done = match order {
                        Order::Reload => keeper.reload().await.map_err(Failure::Reload),
                        Order::Plan => keeper.plan().await.map_err(Failure::Reload),
                        Order::Set(key, value) => keeper.set(&key, &value).await.map_err(Failure::Set),
                        ref stopping => begin_to_stop(stop, stopping),
                    };
                    // The console may have gone meanwhile.
                    drop(outcome.send(done));
                    if stop.has_begun() {
                        break;
                    }
                }
                Asked::Nothing => break,
            }
        }
        if upgrading.is_some() {
            successor::tell_failure("it is told to stop");
        }
        systemd::stopping(stop.limit());
        None
    }

    /// While it stops or hands over: any further signal to stop means at once, unless it is the first (after an upgrade none
    /// has been given), commands mean what they say. Never ends.
    pub async fn hasten(&mut self, stop: &Stop, mut is_first: bool) {
        loop {
            match self.signals.next(&mut self.requests).await {
                Asked::Stop(how) if std::mem::take(&mut is_first) => stop.begin(how),
                Asked::Stop(_) => stop.begin(How::AtOnce),
                Asked::Order(Request { order, outcome }) => drop(outcome.send(begin_to_stop(stop, &order))),
                Asked::Reload => info!("got SIGHUP while shutting down, ignoring"),
                Asked::Pause => info!("got SIGUSR1 while shutting down, ignoring"),
                Asked::Resume => info!("got SIGUSR2 while shutting down, ignoring"),
                Asked::Nothing => std::future::pending().await,
            }
        }
    }
}

fn begin_attempt<'l>(upgrading: &mut Option<Upgrading<'l>>, launcher: &'l Launcher, outcome: oneshot::Sender<Outcome>) {
    // The console may have gone meanwhile.
    if upgrading.is_some() {
        drop(outcome.send(Err(Failure::Upgrade("an upgrade is under way already".into()))));
    } else {
        *upgrading = Some(Upgrading { attempt: Box::pin(launcher.upgrade()), outcome });
    }
}

fn end_attempt(upgrading: &mut Option<Upgrading<'_>>, attempted: Result<Successor, String>) -> Option<Successor> {
    let outcome = upgrading.take()?.outcome;
    match attempted {
        Ok(successor) => {
            drop(outcome.send(Ok(crate::config::Plan::default())));
            Some(successor)
        }
        Err(why) => {
            successor::tell_failure(&why);
            drop(outcome.send(Err(Failure::Upgrade(why))));
            None
        }
    }
}

fn begin_to_stop(stop: &Stop, order: &Order) -> Outcome {
    stop.begin(match order {
        Order::Reload | Order::Plan | Order::Set(..) | Order::Upgrade => return Err(Failure::Gone),
        Order::StopAfterClients => How::AfterClients,
        Order::StopAfterTransactions => How::AfterTransactions,
        Order::StopNow => How::AtOnce,
    });
    Ok(crate::config::Plan::default())
}

fn pause(admin: &Admin) {
    match !admin.is_suspended() && admin.context.pools.pause() {
        true => info!("got SIGUSR1, pausing all activity"),
        false => info!("got SIGUSR1, but already paused/suspended"),
    }
}

fn resume(admin: &Admin) {
    if admin.unsuspend() {
        info!("got SIGUSR2, continuing from SUSPEND");
    } else if admin.context.pools.resume() {
        info!("got SIGUSR2, continuing from PAUSE");
    } else {
        info!("got SIGUSR2, but not paused/suspended");
    }
}
