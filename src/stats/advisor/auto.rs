//! When a pool that sizes itself (`pool_size = "auto"`) changes its size, and to what.
//!
//! It grows at once when the advice says so, by half of itself or two at most: what advice says of sizes far from those
//! that were seen is less sure, and the next advice knows more. It shrinks only when that was advised for a while, to
//! the largest size that was advised meanwhile, and by a quarter at a time: a quiet hour must not cost the busy one.
//! After a change it rests, until enough of what is recorded was seen at the new size.

use std::time::Duration;

use super::Advice;

/// After a change nothing changes for so long.
pub const REST: Duration = Duration::from_secs(30);
/// A pool that is larger than needed by less than this part stays.
const SLACK: f64 = 0.15;

/// A change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The new size.
    pub size: u32,
    /// Why, for the log.
    pub reason: String,
}

/// What is remembered from one look to the next.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Memory {
    /// When the size was changed last.
    changed: Option<Duration>,
    /// Since when less is advised, and the most of what was advised since.
    less: Option<(Duration, u32)>,
}

/// Looks at advice at `now`, after a moment of the caller's choice. `size`: what the pool has. `bounds`: the smallest and the
/// largest size. `patience`: for how long a smaller size has to be advised.
pub fn decide(
    memory: &mut Memory,
    advice: &Advice,
    size: u32,
    bounds: (u32, u32),
    now: Duration,
    patience: Duration,
) -> Option<Change> {
    let (least, most) = (bounds.0.max(1), bounds.1.max(bounds.0).max(1));
    let change = |memory: &mut Memory, size, reason| {
        *memory = Memory { changed: Some(now), less: None };
        Some(Change { size, reason })
    };
    if !(least..=most).contains(&size) {
        return change(memory, size.clamp(least, most), "min_auto_pool_size and max_auto_pool_size".into());
    }
    let best = advice.best()?;
    let wanted = best.clamp(least, most);
    if wanted >= size {
        memory.less = None;
    }
    if memory.changed.is_some_and(|changed| now < changed + REST) {
        return None;
    }
    let seen = format!(
        "p99 wait {} us, {:.0} % of the servers in use, {} advised",
        advice.measured.wait_p99_us,
        advice.measured.utilization * 100.0,
        best
    );
    if wanted > size {
        let next = wanted.min(size + (size / 2).max(2));
        return change(memory, next, format!("too few: {seen}"));
    }
    if f64::from(wanted) > f64::from(size) * (1.0 - SLACK) || wanted == size {
        memory.less = None;
        return None;
    }
    let (since, highest) = memory.less.map_or((now, wanted), |(since, highest)| (since, highest.max(wanted)));
    memory.less = Some((since, highest));
    if now < since + patience {
        return None;
    }
    let next = highest.max(size - (size / 4).max(1));
    change(memory, next, format!("more than needed for {} s: {seen}", (now - since).as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::advisor::tests::advice_of;

    const PATIENCE: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_grows_at_once_but_by_half_at_most() {
        let mut memory = Memory::default();
        let advice = advice_of(30);
        let change = decide(&mut memory, &advice, 8, (1, 100), at(0), PATIENCE).unwrap();
        assert_eq!(change.size, 12);
        assert!(change.reason.contains("30 advised"), "{}", change.reason);
        assert_eq!(decide(&mut memory, &advice, 12, (1, 100), at(29), PATIENCE), None, "it rests");
        assert_eq!(decide(&mut memory, &advice, 12, (1, 100), at(30), PATIENCE).unwrap().size, 18);
        assert_eq!(
            decide(&mut memory, &advice, 18, (1, 20), at(60), PATIENCE).unwrap().size,
            20,
            "never over its bound"
        );
        assert_eq!(decide(&mut memory, &advice, 20, (1, 20), at(90), PATIENCE), None);
    }

    #[test]
    fn it_shrinks_when_that_was_advised_for_long_and_to_the_most_of_it() {
        let mut memory = Memory::default();
        assert_eq!(decide(&mut memory, &advice_of(4), 40, (2, 100), at(0), PATIENCE), None);
        assert_eq!(decide(&mut memory, &advice_of(33), 40, (2, 100), at(100), PATIENCE), None);
        assert_eq!(decide(&mut memory, &advice_of(4), 40, (2, 100), at(299), PATIENCE), None);
        assert_eq!(decide(&mut memory, &advice_of(4), 40, (2, 100), at(300), PATIENCE).unwrap().size, 33);
        assert_eq!(decide(&mut memory, &advice_of(4), 33, (2, 100), at(340), PATIENCE), None);
        // A busy moment, and it begins anew.
        assert_eq!(decide(&mut memory, &advice_of(33), 33, (2, 100), at(400), PATIENCE), None);
        assert_eq!(decide(&mut memory, &advice_of(4), 33, (2, 100), at(700), PATIENCE), None);
        assert_eq!(
            decide(&mut memory, &advice_of(4), 33, (2, 100), at(1000), PATIENCE).unwrap().size,
            25,
            "by a quarter"
        );
        assert_eq!(decide(&mut memory, &advice_of(1), 3, (2, 100), at(2000), PATIENCE), None);
        assert_eq!(
            decide(&mut memory, &advice_of(1), 3, (2, 100), at(2300), PATIENCE).unwrap().size,
            2,
            "never under its bound"
        );
    }

    #[test]
    fn bounds_hold_whatever_is_advised() {
        let mut memory = Memory::default();
        assert_eq!(decide(&mut memory, &advice_of(4), 40, (2, 30), at(0), PATIENCE).unwrap().size, 30);
        let mut advice = advice_of(4);
        (advice.recommended, advice.enough) = (None, None);
        assert_eq!(decide(&mut memory, &advice, 30, (2, 30), at(100), PATIENCE), None, "too little data");
    }

    #[test]
    fn a_little_too_large_is_right() {
        let mut memory = Memory::default();
        for second in 0..1000 {
            assert_eq!(decide(&mut memory, &advice_of(35), 40, (2, 100), at(second), PATIENCE), None);
        }
    }

    proptest::proptest! {
        /// Whatever is advised when, sizes stay in bounds and changes apart.
        #[test]
        fn sizes_stay_in_bounds_and_changes_apart(
            looks in proptest::collection::vec((1..20u64, 1..250u32), 1..200),
            least in 1..20u32,
            more in 0..100u32,
            begin in 1..300u32,
        ) {
            let (mut memory, mut size, mut now, mut last) = (Memory::default(), begin, 0, None);
            for (step, advised) in looks {
                now += step;
                if let Some(change) = decide(&mut memory, &advice_of(advised), size, (least, least + more), at(now), PATIENCE) {
                    proptest::prop_assert!((least..=least + more).contains(&change.size));
                    proptest::prop_assert!(change.size != size);
                    proptest::prop_assert!(last.is_none_or(|last| now - last >= 30));
                    (size, last) = (change.size, Some(now));
                }
            }
        }
    }
}
