//! What the process gets from outside besides bytes: the time, chance, and somebody who runs its tasks. All code in front
//! of the pure layers takes them from here, so that a simulation can put its own in their place (tests only: in a
//! release each of these is what it calls).

use std::time::{Instant, SystemTime};

use rand::CryptoRng;

#[cfg(test)]
use super::simulated;

/// The time by the clock that never goes back.
#[inline]
#[must_use]
pub fn now() -> Instant {
    #[cfg(test)]
    if let Some(now) = simulated::now() {
        return now;
    }
    Instant::now()
}

/// The time of day.
#[inline]
#[must_use]
pub fn time_of_day() -> SystemTime {
    #[cfg(test)]
    if let Some(now) = simulated::time_of_day() {
        return now;
    }
    SystemTime::now()
}

/// Chance.
#[cfg(not(test))]
#[inline]
pub fn rng() -> impl CryptoRng {
    rand::rng()
}

/// Chance.
#[cfg(test)]
pub fn rng() -> impl CryptoRng {
    simulated::Chance
}

/// Runs a task.
#[inline]
pub fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    #[cfg(test)]
    if simulated::is_running() {
        return simulated::spawn(Box::pin(task));
    }
    tokio::spawn(task);
}

/// Runs a task where a runtime runs; at its end, what is left is dropped.
#[inline]
pub fn spawn_if_running(task: impl Future<Output = ()> + Send + 'static) {
    #[cfg(test)]
    if simulated::is_running() {
        return simulated::spawn(Box::pin(task));
    }
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(task);
    }
}
