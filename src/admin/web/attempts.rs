//! How often a password may be tried from one address. Pure: time comes in as an argument.
//!
//! A try counts before it is known how it ends, so that many at once are no way around it; a right password takes it
//! back. Bounded: of more addresses than [`ADDRESSES`] those are forgotten that have begun the longest ago.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Wrong passwords from one address in a [`PERIOD`].
const TRIES: u32 = 10;
/// See [`TRIES`].
const PERIOD: Duration = Duration::from_secs(60);
/// Addresses that are told apart.
const ADDRESSES: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<HashMap<IpAddr, (Instant, u32)>>);

/// Of IPv6, one who has one address has 2⁶⁴ of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => Ipv6Addr::from_bits(six.to_bits() & !u128::from(u64::MAX)).into(),
        four => four,
    }
}

impl Attempts {
    /// Counts a try.
    ///
    /// # Errors
    /// There were too many: when there may be another.
    pub(super) fn begin(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut tries = self.0.lock();
        let key = network(address);
        if !tries.contains_key(&key) && tries.len() >= ADDRESSES {
            tries.retain(|_, (since, _)| now.saturating_duration_since(*since) < PERIOD);
            if tries.len() >= ADDRESSES {
                let oldest = tries.iter().min_by_key(|(_, (since, _))| *since).map(|(key, _)| *key);
                oldest.and_then(|key| tries.remove(&key));
            }
        }
        let (since, n) = tries.entry(key).or_insert((now, 0));
        let passed = now.saturating_duration_since(*since);
        if passed >= PERIOD {
            (*since, *n) = (now, 0);
        }
        if *n >= TRIES {
            return Err(PERIOD.saturating_sub(passed));
        }
        *n += 1;
        Ok(())
    }

    /// The password was right.
    pub(super) fn was_right(&self, address: IpAddr) {
        if let Some((_, n)) = self.0.lock().get_mut(&network(address)) {
            *n = n.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_counted_by_address_and_time() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        let [one, other] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse::<IpAddr>().unwrap());
        for _ in 0..TRIES {
            assert!(attempts.begin(one, start).is_ok());
        }
        assert_eq!(attempts.begin(one, start + PERIOD / 3), Err(PERIOD - PERIOD / 3));
        assert!(attempts.begin("::ffff:10.0.0.1".parse().unwrap(), start).is_err(), "the same one");
        assert!(attempts.begin(other, start).is_ok());
        attempts.was_right(one);
        assert!(attempts.begin(one, start).is_ok());
        assert!(attempts.begin(one, start).is_err());
        assert!(attempts.begin(one, start + PERIOD).is_ok());
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let refused =
            (0..2 * TRIES).filter(|i| attempts.begin(format!("2001:db8::{i}").parse().unwrap(), now).is_err());
        assert_eq!(refused.count(), TRIES as usize);
    }

    #[test]
    fn addresses_are_bounded() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for i in 0..3 * ADDRESSES as u32 {
            assert!(attempts.begin(IpAddr::from(i.to_be_bytes()), now).is_ok());
        }
        assert!(attempts.0.lock().len() <= ADDRESSES);
    }
}
