//! What tells that the first timer is due: on Linux a descriptor that the event loop waits for like for any other,
//! elsewhere, and where no runtime has been told to, a thread.

use std::io;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Timers;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Alarm(OnceLock<Kind>);

#[derive(Debug)]
enum Kind {
    #[cfg(target_os = "linux")]
    Descriptor(std::os::fd::OwnedFd),
    Thread(&'static Clock),
}

/// What the thread waits at.
#[derive(Debug, Default)]
struct Clock {
    at: Mutex<Option<Instant>>,
    changed: Condvar,
}

impl Alarm {
    /// Has it go off at `at`, and not when it was set to before.
    pub(super) fn set(&self, at: Instant, timers: &'static Timers) {
        match self.0.get_or_init(|| Kind::Thread(Clock::run(timers))) {
            #[cfg(target_os = "linux")]
            Kind::Descriptor(timer) => linux::set(timer, at),
            Kind::Thread(clock) => {
                *clock.at.lock() = Some(at);
                clock.changed.notify_one();
            }
        }
    }
}

impl Clock {
    /// A clock with its thread.
    fn run(timers: &'static Timers) -> &'static Self {
        let clock: &'static Self = Box::leak(Box::default());
        let thread = std::thread::Builder::new().name("timers".into());
        if let Err(error) = thread.spawn(move || clock.ring_for_ever(timers)) {
            tracing::error!("cannot start the thread that keeps timers: {error}");
        }
        clock
    }

    fn ring_for_ever(&self, timers: &'static Timers) {
        loop {
            self.wait();
            timers.ring();
        }
    }

    /// Waits until it goes off, and leaves it unset.
    fn wait(&self) {
        let mut at = self.at.lock();
        loop {
            match *at {
                None => self.changed.wait(&mut at),
                Some(deadline) if deadline <= Instant::now() => break,
                Some(deadline) => drop(self.changed.wait_until(&mut at, deadline)),
            }
        }
        *at = None;
    }
}

/// Has the runtime that this is called in ring from now on.
#[cfg(target_os = "linux")]
pub(super) fn start(timers: &'static Timers) -> io::Result<()> {
    let timer = linux::create()?;
    linux::ring_when_due(timer.try_clone()?, timers)?;
    // Lost only where a thread does it already.
    let _ = timers.alarm.0.set(Kind::Descriptor(timer));
    Ok(())
}

/// Has a thread ring from now on.
#[cfg(not(target_os = "linux"))]
pub(super) fn start(timers: &'static Timers) -> io::Result<()> {
    timers.alarm.0.get_or_init(|| Kind::Thread(Clock::run(timers)));
    Ok(())
}

#[cfg(target_os = "linux")]
mod linux {
    use super::{Duration, Instant, Timers, io};
    use std::os::fd::OwnedFd;

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
    };
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    pub(super) fn create() -> io::Result<OwnedFd> {
        Ok(timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?)
    }

    pub(super) fn set(timer: &OwnedFd, at: Instant) {
        // 0 would turn it off.
        let left = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let left =
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        let once = Itimerspec { it_interval: never, it_value: left };
        if let Err(error) = timerfd_settime(timer, TimerfdTimerFlags::empty(), &once) {
            tracing::error!("cannot set the timer of the process: {error}");
        }
    }

    pub(super) fn ring_when_due(timer: OwnedFd, timers: &'static Timers) -> io::Result<()> {
        #[expect(deprecated, reason = "unsound only for what doesn't own its descriptor")]
        let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
        tokio::spawn(async move {
            // Fails when the runtime is no more.
            while let Ok(mut due) = timer.readable().await {
                due.clear_ready();
                // It may have been set anew meanwhile, and have nothing to say: then it comes again.
                let _ = rustix::io::read(timer.get_ref(), &mut [0u8; 8]);
                timers.ring();
            }
        });
        Ok(())
    }
}
