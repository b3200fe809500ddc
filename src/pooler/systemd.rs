//! The service manager: told when Carpool is ready, reloads, stops, and that it is alive. Without one, nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{debug, info};

use crate::net::timer;

/// Says something, if there is anybody to say it to.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!("the service manager was not told: {error}");
    }
}

/// It serves.
pub(super) fn ready(status: &str) {
    // The number is for one that has gone into the background.
    tell(&[NotifyState::Ready, NotifyState::MainPid(std::process::id()), NotifyState::Status(status)]);
}

/// Another process is the service from now on.
pub(super) fn main_pid(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// It reads its configuration again; [`ready`] says that this has ended.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => debug!("no clock for the service manager: {error}"),
    }
}

/// It stops, which may take as long as `limit`.
pub(super) fn stopping(limit: Option<Duration>) {
    tell(&[NotifyState::Stopping]);
    if let Some(limit) = limit {
        let micros = u32::try_from(limit.as_micros()).unwrap_or(u32::MAX);
        tell(&[NotifyState::ExtendTimeoutUsec(micros)]);
    }
}

/// Says that it is alive, as often as the service manager wants to hear it: from the runtime that serves connections,
/// so that one which has got stuck is noticed.
pub(super) async fn watchdog() {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    info!("the service manager wants to hear within {period:?} that Carpool is alive");
    loop {
        tell(&[NotifyState::Watchdog]);
        timer::sleep(period / 2).await;
    }
}
