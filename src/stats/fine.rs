//! How long things took, in buckets fine enough for percentiles: four for each doubling, so that what is read is within
//! an eighth of the truth.

/// Times below this have a bucket each, microseconds.
const EXACT: u64 = 8;
/// The last doubling that is told apart: 2³⁶ µs are 19 hours.
const LAST: u32 = 36;
const BUCKETS: usize = EXACT as usize + 4 * (LAST as usize - 2);

/// Durations, without those of no time at all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fine {
    count: u64,
    buckets: Box<[u64; BUCKETS]>,
}

impl Default for Fine {
    fn default() -> Self {
        Self { count: 0, buckets: Box::new([0; BUCKETS]) }
    }
}

/// In which bucket a time is.
fn bucket(micros: u64) -> usize {
    if micros < EXACT {
        return usize::try_from(micros).unwrap_or_default();
    }
    let doubling = micros.ilog2();
    if doubling > LAST {
        return BUCKETS - 1;
    }
    let quarter = usize::try_from((micros >> (doubling - 2)) & 3).unwrap_or_default();
    EXACT as usize + 4 * (doubling as usize - 3) + quarter
}

/// The first time that is in a bucket, microseconds.
const fn lowest(bucket: usize) -> u64 {
    if bucket < EXACT as usize {
        return bucket as u64;
    }
    let at = bucket - EXACT as usize;
    (4 + (at % 4) as u64) << (at / 4 + 1)
}

impl Fine {
    /// Counts one.
    pub fn observe(&mut self, micros: u64) {
        if micros > 0 {
            self.count += 1;
            self.buckets[bucket(micros)] += 1;
        }
    }

    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.buckets.iter_mut().zip(other.buckets.iter()).for_each(|(sum, n)| *sum += n);
    }

    /// The time that `percent` of all `total` are no longer than, microseconds; those that aren't counted took none.
    #[must_use]
    pub fn percentile(&self, percent: u64, total: u64) -> u64 {
        let zeros = total.saturating_sub(self.count);
        // The how-manieth it is.
        let rank = u64::try_from((u128::from(total) * u128::from(percent)).div_ceil(100)).unwrap_or(total).max(1);
        if rank <= zeros {
            return 0;
        }
        let mut seen = zeros;
        let at = self.buckets.iter().position(|n| {
            seen += n;
            seen >= rank
        });
        at.map_or(0, |at| lowest(at).midpoint(lowest(at + 1).saturating_sub(1)))
    }

    /// For each of `exponents` how many took less than 2 to its power microseconds, of `total`.
    pub fn below<'f>(&'f self, exponents: &'f [u32], total: u64) -> impl Iterator<Item = (u64, u64)> + 'f {
        let zeros = total.saturating_sub(self.count);
        exponents.iter().map(move |&exponent| {
            let bound = 1u64 << exponent;
            (bound, zeros + self.buckets[..bucket(bound)].iter().sum::<u64>())
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_follow_each_other() {
        for at in 0..BUCKETS {
            assert_eq!(bucket(lowest(at)), at);
            assert!(at == 0 || bucket(lowest(at) - 1) == at - 1, "{at}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn those_without_time_count() {
        let mut fine = Fine::default();
        assert_eq!(fine.percentile(99, 0), 0);
        fine.observe(0);
        fine.observe(1_000);
        assert_eq!((fine.percentile(50, 2), fine.percentile(99, 100), fine.percentile(100, 100)), (0, 0, 959));
        let below: Vec<_> = fine.below(&[9, 10], 2).collect();
        assert_eq!(below, [(512, 1), (1024, 2)]);
    }

    proptest! {
        #[test]
        fn percentiles_are_within_an_eighth(mut times in proptest::collection::vec(0u64..100_000_000, 1..200)) {
            let (mut whole, mut parts) = (Fine::default(), [Fine::default(), Fine::default()]);
            for (at, &time) in times.iter().enumerate() {
                whole.observe(time);
                parts[at % 2].observe(time);
            }
            let [mut sum, other] = parts;
            sum.add(&other);
            prop_assert_eq!(&sum, &whole);
            times.sort_unstable();
            for percent in [1, 50, 99, 100] {
                let exact = times[(times.len() * percent).div_ceil(100) - 1];
                let read = whole.percentile(percent as u64, times.len() as u64);
                prop_assert!(read.abs_diff(exact) <= exact / 8 + 1, "{}: {} for {}", percent, read, exact);
            }
        }
    }
}
