//! The timers of a simulation, on the thread where it runs.

use std::cell::RefCell;
use std::task::Waker;
use std::time::Instant;

use super::Waiting;
use crate::net::world;

thread_local! {
    static WAITING: RefCell<Waiting> = RefCell::default();
}

pub(super) fn waiting<R>(f: impl FnOnce(&mut Waiting) -> R) -> R {
    WAITING.with(|waiting| f(&mut waiting.borrow_mut()))
}

/// When the first is due.
pub(in crate::net) fn next() -> Option<Instant> {
    waiting(|waiting| waiting.wakers.first_key_value().map(|(key, _)| key.0))
}

/// Wakes those who are due.
pub(in crate::net) fn ring() {
    waiting(|waiting| waiting.take_due(world::now())).into_iter().for_each(Waker::wake);
}

/// Forgets whoever is left.
pub(in crate::net) fn forget() {
    let left = waiting(std::mem::take);
    drop(left);
}
