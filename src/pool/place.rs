//! A place in the queue: one end waits, the other gives, once. As a oneshot channel, but made of memory that the
//! thread has used for the same before: with more clients than servers nearly every transaction waits.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// How many unused ones a thread keeps.
const SPARE: usize = 256;

#[derive(Debug)]
enum State<T> {
    /// Nobody has looked.
    Fresh,
    /// This one is to be woken.
    Waits(Waker),
    Given(T),
    /// The giver is gone, without having given anything; or what it gave has been taken.
    Over,
    /// The one who waited is gone.
    Left,
}

type Shared<T> = Arc<Mutex<State<T>>>;

/// The end that gives.
#[derive(Debug)]
pub struct Giver<T>(Option<Shared<T>>);

/// The end that waits.
#[derive(Debug)]
pub struct Place<T: Recycled>(Option<Shared<T>>);

/// The giver is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gone;

/// Where a thread keeps those that are used up.
pub trait Recycled: Sized {
    /// Gives `f` the thread's spare ones, unless they are in use, or the thread ends.
    fn with_spare<R>(f: impl FnOnce(&mut Spare<Self>) -> R) -> Option<R>;
}

/// Unused places.
#[derive(Debug)]
pub struct Spare<T>(Vec<Shared<T>>);

impl<T> Spare<T> {
    /// None.
    #[must_use]
    pub const fn new() -> RefCell<Self> {
        RefCell::new(Self(Vec::new()))
    }
}

/// A new place.
#[must_use]
pub fn place<T: Recycled>() -> (Giver<T>, Place<T>) {
    let shared = T::with_spare(|spare| spare.0.pop()).flatten().unwrap_or_else(|| Arc::new(Mutex::new(State::Fresh)));
    (Giver(Some(Arc::clone(&shared))), Place(Some(shared)))
}

impl<T> Giver<T> {
    /// Whether the one who waits is gone.
    #[must_use]
    pub fn is_left(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| matches!(*shared.lock(), State::Left))
    }

    /// Gives. What comes back wasn't wanted any more.
    #[must_use]
    pub fn give(mut self, what: T) -> Option<T> {
        let Some(shared) = self.0.take() else { return Some(what) };
        let mut state = shared.lock();
        if matches!(*state, State::Left) {
            return Some(what);
        }
        let before = std::mem::replace(&mut *state, State::Given(what));
        drop(state);
        // First, so that the place can be used again.
        drop(shared);
        if let State::Waits(waker) = before {
            waker.wake();
        }
        None
    }
}

impl<T> Drop for Giver<T> {
    fn drop(&mut self) {
        let Some(shared) = self.0.take() else { return };
        let mut state = shared.lock();
        if matches!(*state, State::Fresh | State::Waits(_)) {
            let before = std::mem::replace(&mut *state, State::Over);
            drop(state);
            if let State::Waits(waker) = before {
                waker.wake();
            }
        }
    }
}

impl<T: Recycled> Future for Place<T> {
    type Output = Result<T, Gone>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(shared) = &self.0 else { return Poll::Ready(Err(Gone)) };
        let mut state = shared.lock();
        match &mut *state {
            State::Waits(waker) => waker.clone_from(cx.waker()),
            State::Fresh => *state = State::Waits(cx.waker().clone()),
            State::Given(_) | State::Over | State::Left => {
                return Poll::Ready(match std::mem::replace(&mut *state, State::Over) {
                    State::Given(what) => Ok(what),
                    _ => Err(Gone),
                });
            }
        }
        Poll::Pending
    }
}

impl<T: Recycled> Drop for Place<T> {
    fn drop(&mut self) {
        let Some(mut shared) = self.0.take() else { return };
        // What was given and never taken is dropped when nothing is locked or borrowed: it may lead back here.
        if let Some(state) = Arc::get_mut(&mut shared) {
            let left = std::mem::replace(state.get_mut(), State::Fresh);
            T::with_spare(|spare| {
                if spare.0.len() < SPARE {
                    spare.0.push(shared);
                }
            });
            drop(left);
        } else {
            let left = std::mem::replace(&mut *shared.lock(), State::Left);
            drop(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Debug)]
    struct Thing(#[expect(dead_code, reason = "counted")] Rc<()>);

    thread_local! {
        static SPARE: RefCell<Spare<Thing>> = const { Spare::new() };
    }

    impl Recycled for Thing {
        fn with_spare<R>(f: impl FnOnce(&mut Spare<Self>) -> R) -> Option<R> {
            SPARE.with(|spare| spare.try_borrow_mut().ok().map(|mut spare| f(&mut spare)))
        }
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll(place: &mut Place<Thing>, count: &Arc<Count>) -> Poll<Result<Thing, Gone>> {
        Pin::new(place).poll(&mut Context::from_waker(&Waker::from(Arc::clone(count))))
    }

    #[test]
    fn what_is_given_comes_once_and_wakes_once() {
        let (count, all) = (Arc::new(Count::default()), Rc::new(()));
        let (giver, mut place) = place();
        assert!(poll(&mut place, &count).is_pending() && poll(&mut place, &count).is_pending());
        assert!(!giver.is_left());
        assert!(giver.give(Thing(Rc::clone(&all))).is_none());
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(matches!(poll(&mut place, &count), Poll::Ready(Ok(_))));
        assert!(matches!(poll(&mut place, &count), Poll::Ready(Err(Gone))));
        drop(place);
        assert_eq!((Rc::strong_count(&all), Arc::strong_count(&count)), (1, 1), "nothing is kept");
    }

    #[test]
    fn one_who_has_left_gets_nothing_and_loses_nothing() {
        let (all, count) = (Rc::new(()), Arc::new(Count::default()));
        let (giver, mut left) = place();
        assert!(poll(&mut left, &count).is_pending());
        drop(left);
        assert!(giver.is_left());
        assert_eq!(Arc::strong_count(&count), 1, "its waker has gone with it");
        assert!(giver.give(Thing(Rc::clone(&all))).is_some());
        let (giver, untaken) = place();
        assert!(giver.give(Thing(Rc::clone(&all))).is_none());
        drop(untaken);
        assert_eq!(Rc::strong_count(&all), 1);
    }

    #[test]
    fn a_giver_that_goes_is_noticed() {
        let count = Arc::new(Count::default());
        let (giver, mut waits) = place();
        assert!(poll(&mut waits, &count).is_pending());
        drop(giver);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(matches!(poll(&mut waits, &count), Poll::Ready(Err(Gone))));
    }

    #[test]
    fn a_used_place_is_as_new() {
        let count = Arc::new(Count::default());
        let addresses: Vec<_> = (0..4)
            .map(|round| {
                let (giver, mut place) = place();
                let address = place.0.as_ref().map(Arc::as_ptr);
                assert!(poll(&mut place, &count).is_pending(), "round {round}");
                match round {
                    0 => drop(giver),
                    1 => drop(giver.give(Thing(Rc::new(())))),
                    // The one that is left first is used again last: its giver may still look.
                    _ => drop((giver, place)),
                }
                address
            })
            .collect();
        assert!(addresses.iter().all(|address| *address == addresses[0]), "{addresses:?}");
    }
}
