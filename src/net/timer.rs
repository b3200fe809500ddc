//! Timers, kept by a thread of their own where [`run_apart`] was called: a runtime that keeps timers looks at the
//! clock several times on every turn of its event loop, which for single transactions was an eighth of all
//! instructions.

#![expect(clippy::disallowed_methods, reason = "the one place for them")]

use std::future::pending;
use std::io;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, EnterGuard, Handle};
use tokio::time::{Interval, Sleep, Timeout};

static TIMERS: OnceLock<Handle> = OnceLock::new();

/// Has a thread keep the timers from now on, so that other runtimes need none.
///
/// # Errors
/// The system's, when there can be no thread.
pub fn run_apart() -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    // Lost only to one that does the same.
    let _ = TIMERS.set(runtime.handle().clone());
    let thread = std::thread::Builder::new().name("timers".into());
    thread.spawn(move || runtime.block_on(pending::<()>()))?;
    Ok(())
}

/// While this lives, timers that are made belong to the thread.
fn apart() -> Option<EnterGuard<'static>> {
    TIMERS.get().map(Handle::enter)
}

/// As [`tokio::time::timeout`].
pub fn timeout<F: Future>(limit: Duration, future: F) -> Timeout<F> {
    let _apart = apart();
    tokio::time::timeout(limit, future)
}

/// As [`tokio::time::sleep`].
pub fn sleep(duration: Duration) -> Sleep {
    let _apart = apart();
    tokio::time::sleep(duration)
}

/// As [`tokio::time::sleep_until`].
pub fn sleep_until(deadline: Instant) -> Sleep {
    let _apart = apart();
    tokio::time::sleep_until(deadline.into())
}

/// As [`tokio::time::interval`].
#[must_use]
pub fn interval(period: Duration) -> Interval {
    let _apart = apart();
    tokio::time::interval(period)
}
