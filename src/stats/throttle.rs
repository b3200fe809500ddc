//! Repeats in the log: of what is alike, a line now and then that says how many were left out.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Kinds that are told apart. More begin anew.
const LIMIT: usize = 1024;

/// See the module.
#[derive(Debug)]
pub struct Throttle<K> {
    period: Duration,
    kinds: Mutex<HashMap<K, (Instant, u64)>>,
}

impl<K: Eq + Hash> Throttle<K> {
    /// One that lets one of a kind pass per period.
    #[must_use]
    pub fn new(period: Duration) -> Self {
        Self { period, kinds: Mutex::default() }
    }

    /// Whether one of this kind is told at `now`: then how many were left out since the last one.
    pub fn admit(&self, kind: K, now: Instant) -> Option<u64> {
        let mut kinds = self.kinds.lock();
        if let Some((last, left_out)) = kinds.get_mut(&kind) {
            if now.saturating_duration_since(*last) < self.period {
                *left_out += 1;
                return None;
            }
            *last = now;
            return Some(std::mem::take(left_out));
        }
        if kinds.len() >= LIMIT {
            kinds.clear();
        }
        kinds.insert(kind, (now, 0));
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_left_out_and_counted() {
        let throttle = Throttle::new(Duration::from_secs(10));
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        assert_eq!(throttle.admit("a", at(0)), Some(0));
        assert_eq!(throttle.admit("a", at(9)), None);
        assert_eq!(throttle.admit("b", at(9)), Some(0), "another kind");
        assert_eq!(throttle.admit("a", at(9)), None);
        assert_eq!(throttle.admit("a", at(10)), Some(2));
        assert_eq!(throttle.admit("a", at(20)), Some(0));
    }

    #[test]
    fn kinds_are_bounded() {
        let throttle = Throttle::new(Duration::from_secs(10));
        let now = Instant::now();
        for kind in 0..5 * LIMIT {
            assert_eq!(throttle.admit(kind, now), Some(0));
        }
        assert!(throttle.kinds.lock().len() <= LIMIT);
    }
}
