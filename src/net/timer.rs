//! Timers of the whole process, in one place and without a thread: where [`start`] was called, a timer of the kernel's
//! wakes the event loop when the first is due. A runtime that keeps timers itself looks at the clock several times on
//! every turn of its loop, an eighth of all instructions where transactions come singly; and a second thread would
//! make every system call of the first dearer, since descriptors are then counted.

mod alarm;
#[cfg(test)]
pub(super) mod simulated;

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pin_project_lite::pin_project;

use super::world;
use alarm::Alarm;

/// What stands for "never": no process lives as long.
const FAR: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

static TIMERS: LazyLock<Timers> = LazyLock::new(Timers::default);

/// When a timer is due, and a number that tells it from others of the same moment.
type Key = (Instant, u64);

/// Who is to be woken when.
#[derive(Debug, Default)]
struct Waiting {
    wakers: BTreeMap<Key, Waker>,
    next_number: u64,
    /// When the alarm goes off.
    alarm_at: Option<Instant>,
}

impl Waiting {
    fn insert(&mut self, at: Instant, waker: Waker) -> Key {
        self.next_number += 1;
        let key = (at, self.next_number);
        self.wakers.insert(key, waker);
        key
    }

    /// Takes those who are due at `now`.
    fn take_due(&mut self, now: Instant) -> Vec<Waker> {
        let mut due = Vec::new();
        while let Some(first) = self.wakers.first_entry().filter(|first| first.key().0 <= now) {
            due.push(first.remove());
        }
        due
    }

    /// When the alarm is to go off, if that is sooner than it is set to.
    fn sooner(&mut self) -> Option<Instant> {
        let first = self.wakers.first_key_value()?.0.0;
        let sooner = self.alarm_at.is_none_or(|at| first < at);
        sooner.then(|| *self.alarm_at.insert(first))
    }
}

#[derive(Debug, Default)]
struct Timers {
    waiting: Mutex<Waiting>,
    alarm: Alarm,
}

impl Timers {
    fn insert(&'static self, at: Instant, waker: Waker) -> Key {
        let mut waiting = self.waiting.lock();
        let key = waiting.insert(at, waker);
        self.set_alarm(&mut waiting);
        key
    }

    fn set_alarm(&'static self, waiting: &mut Waiting) {
        if let Some(at) = waiting.sooner() {
            self.alarm.set(at, self);
        }
    }

    /// The alarm went off, or may have: wakes those who are due.
    fn ring(&'static self) {
        let due = {
            let mut waiting = self.waiting.lock();
            let due = waiting.take_due(Instant::now());
            waiting.alarm_at = None;
            self.set_alarm(&mut waiting);
            due
        };
        due.into_iter().for_each(Waker::wake);
    }
}

/// Has `waker` woken at `at`.
fn insert(at: Instant, waker: Waker) -> Key {
    #[cfg(test)]
    if super::simulated::is_running() {
        return simulated::waiting(|waiting| waiting.insert(at, waker));
    }
    TIMERS.insert(at, waker)
}

/// Those who wait.
fn waiting<R>(f: impl FnOnce(&mut Waiting) -> R) -> R {
    #[cfg(test)]
    if super::simulated::is_running() {
        return simulated::waiting(f);
    }
    f(&mut TIMERS.waiting.lock())
}

/// Has the runtime that this is called in ring the alarm from now on, for all. Without, a thread does.
///
/// # Errors
/// The system's, when there can be no kernel timer.
pub fn start() -> io::Result<()> {
    alarm::start(&TIMERS)
}

/// See [`sleep_until`].
#[derive(Debug)]
pub struct Sleep {
    at: Instant,
    /// Where its waker is, once it has been polled.
    key: Option<Key>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(key) = self.key else {
            if self.at <= world::now() {
                return Poll::Ready(());
            }
            self.key = Some(insert(self.at, cx.waker().clone()));
            return Poll::Pending;
        };
        waiting(|waiting| match waiting.wakers.get_mut(&key) {
            Some(waker) => {
                waker.clone_from(cx.waker());
                Poll::Pending
            }
            None => Poll::Ready(()),
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            // An alarm that it has set goes off for nothing.
            let waker = waiting(|waiting| waiting.wakers.remove(&key));
            // Its task may end with it, and that may have timers of its own: not while the lock is held.
            drop(waker);
        }
    }
}

/// Ends at `deadline`.
#[must_use]
pub const fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { at: deadline, key: None }
}

/// Ends after `duration`.
#[must_use]
pub fn sleep(duration: Duration) -> Sleep {
    let now = world::now();
    sleep_until(now.checked_add(duration.min(FAR)).unwrap_or(now))
}

/// The time was up first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("deadline has elapsed")]
pub struct Elapsed;

pin_project! {
    /// See [`timeout`].
    #[derive(Debug)]
    pub struct Timeout<F> {
        #[pin]
        future: F,
        sleep: Sleep,
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(this.sleep).poll(cx).map(|()| Err(Elapsed))
    }
}

/// Waits for `future`, but no longer than `limit`.
pub fn timeout<F: Future>(limit: Duration, future: F) -> Timeout<F> {
    Timeout { future, sleep: sleep(limit) }
}

/// See [`interval`].
#[derive(Debug)]
pub struct Interval {
    next: Instant,
    period: Duration,
}

impl Interval {
    /// Waits for the next tick. Ticks that were missed are left out.
    pub async fn tick(&mut self) {
        sleep_until(self.next).await;
        let now = world::now();
        while self.next <= now {
            self.next += self.period;
        }
    }
}

/// Ticks now, and then every `period`, which must not be 0.
#[must_use]
pub fn interval(period: Duration) -> Interval {
    Interval { next: world::now(), period }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn takes_those_who_are_due_and_keeps_the_rest() {
        let (start, mut waiting) = (Instant::now(), Waiting::default());
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(waiting.sooner(), None, "nobody waits");
        for (millis, number) in [(20, 1), (10, 2), (10, 3)] {
            waiting.wakers.insert((at(millis), number), Waker::noop().clone());
        }
        assert_eq!(waiting.sooner(), Some(at(10)));
        assert_eq!(waiting.sooner(), None, "it is set already");
        assert_eq!(waiting.take_due(at(9)).len(), 0);
        assert_eq!(waiting.take_due(at(10)).len(), 2);
        waiting.alarm_at = None;
        assert_eq!(waiting.sooner(), Some(at(20)));
    }

    #[test]
    fn a_sleep_wakes_whoever_polled_it_last_and_leaves_nothing_behind() {
        let (first, last) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let mut sleep = sleep(Duration::from_millis(30));
        for count in [&first, &last] {
            let waker = Waker::from(Arc::clone(count));
            assert!(Pin::new(&mut sleep).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        assert_eq!(Arc::strong_count(&first), 1, "nobody keeps the first one's waker");
        while last.0.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        assert!(sleep.at <= Instant::now(), "not before its time");
        assert!(Pin::new(&mut sleep).poll(&mut Context::from_waker(Waker::noop())).is_ready());
        assert_eq!(first.0.load(Ordering::Relaxed), 0);

        let mut dropped = sleep_until(Instant::now() + FAR);
        let waker = Waker::from(Arc::clone(&first));
        assert!(Pin::new(&mut dropped).poll(&mut Context::from_waker(&waker)).is_pending());
        drop((dropped, waker));
        assert_eq!(Arc::strong_count(&first), 1);
    }

    /// In a runtime that rings, and in one that leaves it to the thread, whichever test comes first.
    fn on_both(test: impl AsyncFn()) {
        for rings in [false, true] {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
            let timers: &'static Timers = Box::leak(Box::default());
            runtime.block_on(async {
                if rings {
                    alarm::start(timers).unwrap();
                }
                let count = Arc::new(Count::default());
                timers.insert(Instant::now() + Duration::from_millis(5), Waker::from(Arc::clone(&count)));
                timers.insert(Instant::now() + Duration::from_millis(1), Waker::from(Arc::clone(&count)));
                while count.0.load(Ordering::Relaxed) < 2 {
                    tokio::task::yield_now().await;
                }
                test().await;
            });
        }
    }

    #[test]
    fn alarms_go_off_one_after_the_other() {
        on_both(async || {
            assert_eq!(timeout(Duration::from_millis(1), pending::<()>()).await, Err(Elapsed));
            assert_eq!(timeout(Duration::ZERO, ready(1)).await, Ok(1), "what is there counts");
            assert_eq!(timeout(Duration::MAX, ready(2)).await, Ok(2));
            let (start, period) = (Instant::now(), Duration::from_millis(3));
            let mut interval = interval(period);
            interval.tick().await;
            interval.tick().await;
            assert!(start.elapsed() >= period);
        });
    }

    #[test]
    fn missed_ticks_are_left_out() {
        let (now, period) = (Instant::now(), Duration::from_secs(5));
        let mut interval = Interval { next: now.checked_sub(Duration::from_secs(12)).unwrap(), period };
        let ticked = std::pin::pin!(interval.tick()).poll(&mut Context::from_waker(Waker::noop())).is_ready();
        assert!(ticked && interval.next > now && interval.next <= Instant::now() + period);
    }
}
