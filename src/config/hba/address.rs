//! The address field of hba lines.

use std::net::IpAddr;

/// Which addresses a line is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Addresses {
    /// `all`.
    All,
    /// `samehost`: those of this host.
    SameHost,
    /// `samenet`: those of the networks that this host is in.
    SameNet,
    /// A network.
    Net(Net),
    /// A host's name in lower case; with a dot in front, all names that end so.
    Name(String),
}

/// An address and the bits that count. A bit that isn't set in the mask may be anything in the address, as in
/// PostgreSQL (in PgBouncer no client matches such a line).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Net {
    address: IpAddr,
    mask: IpAddr,
}

impl Net {
    /// Of an address and a mask; `None` when one is IPv4 and the other IPv6.
    #[must_use]
    pub fn new(address: IpAddr, mask: IpAddr) -> Option<Self> {
        (address.is_ipv4() == mask.is_ipv4()).then_some(Self { address, mask })
    }

    /// With the first `bits` counting; `None` when there aren't that many.
    #[must_use]
    pub fn of_prefix(address: IpAddr, bits: u32) -> Option<Self> {
        let mask = match address {
            IpAddr::V4(_) => {
                let rest = 32_u32.checked_sub(bits)?;
                IpAddr::V4(u32::MAX.checked_shl(rest).unwrap_or(0).into())
            }
            IpAddr::V6(_) => {
                let rest = 128_u32.checked_sub(bits)?;
                IpAddr::V6(u128::MAX.checked_shl(rest).unwrap_or(0).into())
            }
        };
        Some(Self { address, mask })
    }

    /// One address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        let mask = match address {
            IpAddr::V4(_) => IpAddr::V4(u32::MAX.into()),
            IpAddr::V6(_) => IpAddr::V6(u128::MAX.into()),
        };
        Self { address, mask }
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, other: IpAddr) -> bool {
        match (self.address, self.mask, other) {
            (IpAddr::V4(net), IpAddr::V4(mask), IpAddr::V4(other)) => {
                (net.to_bits() ^ other.to_bits()) & mask.to_bits() == 0
            }
            (IpAddr::V6(net), IpAddr::V6(mask), IpAddr::V6(other)) => {
                (net.to_bits() ^ other.to_bits()) & mask.to_bits() == 0
            }
            _ => false,
        }
    }

    /// The address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether it is of IPv4 addresses written as IPv6, which no client's address is taken for.
    pub(super) fn is_mapped(&self) -> bool {
        matches!(self.address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some())
    }
}

/// Reads the field, and the mask in the field behind it where it needs one. Gives whether it took that.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(text: &str, next: Option<&str>) -> Result<(Addresses, bool), String> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let Ok(parsed) = address.parse::<IpAddr>() else {
        return match bits {
            Some(_) if !looks_numeric(address) => {
                Err(format!("specifying both host name and CIDR mask is invalid: \"{text}\""))
            }
            _ => name(address).map(|name| (Addresses::Name(name), false)),
        };
    };
    if let Some(bits) = bits {
        let digits = bits.bytes().all(|b| b.is_ascii_digit()).then(|| bits.parse().ok()).flatten();
        let net = digits.and_then(|bits| Net::of_prefix(parsed, bits));
        let net = net.ok_or_else(|| format!("invalid CIDR mask in address \"{text}\""))?;
        return Ok((Addresses::Net(net), false));
    }
    let Some(mask) = next else {
        return Err("an address needs a network size: ADDRESS/BITS, or a netmask behind it".into());
    };
    let parsed_mask = mask.parse().map_err(|_| format!("invalid IP mask \"{mask}\""))?;
    let net = Net::new(parsed, parsed_mask).ok_or("IP address and mask do not match")?;
    Ok((Addresses::Net(net), true))
}

/// Whether somebody meant an address: `10.1/16` is a host's name to nobody.
fn looks_numeric(text: &str) -> bool {
    text.contains(':') || text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

fn name(text: &str) -> Result<String, String> {
    if text.is_empty() || looks_numeric(text) {
        return Err(format!("invalid IP address \"{text}\""));
    }
    Ok(text.to_ascii_lowercase())
}

/// Whether a host's name is what a line has: itself, or its end where that begins with a dot.
pub(super) fn name_matches(pattern: &str, name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    if pattern.starts_with('.') { name.ends_with(pattern) } else { name == pattern }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> Net {
        let (address, mask) = text.split_once(' ').map_or((text, None), |(a, m)| (a, Some(m)));
        match parse(address, mask).unwrap() {
            (Addresses::Net(net), took) if took == mask.is_some() => net,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn networks() {
        for (text, inside, outside) in [
            ("10.1.0.0/16", "10.1.255.3", "10.2.0.0"),
            ("10.1.2.3/16", "10.1.0.0", "10.2.0.0"),
            ("10.1.2.3/32", "10.1.2.3", "10.1.2.4"),
            ("10.0.0.0 255.0.0.255", "10.9.9.0", "10.9.9.1"),
            ("0.0.0.0/0", "255.255.255.255", "::ffff:1.2.3.4"),
            ("::/0", "ffff::1", "1.2.3.4"),
            ("fe80::/10", "febf::1", "fec0::1"),
            ("2001:db8:: ffff:ffff::", "2001:db8::1", "2001:db9::1"),
        ] {
            let net = net(text);
            assert!(net.contains(inside.parse().unwrap()), "{inside} in {text}");
            assert!(!net.contains(outside.parse().unwrap()), "{outside} in {text}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(parse("Host.Example", None), Ok((Addresses::Name("host.example".into()), false)));
        for (pattern, name, expected) in [
            ("a.example", "A.example", true),
            ("a.example", "b.a.example", false),
            (".example", "a.example", true),
            (".example", "b.a.EXAMPLE", true),
            (".example", "example", false),
            (".example", "a.xexample", false),
        ] {
            assert_eq!(name_matches(pattern, name), expected, "{name} for {pattern}");
        }
    }

    #[test]
    fn what_is_none() {
        for (text, next) in [
            ("1.2.3.4/33", None),
            ("::1/129", None),
            ("1.2.3.4/", None),
            ("1.2.3.4/+8", None),
            ("1.2.3.4/8x", None),
            ("1.2.3.4", None),
            ("1.2.3.4", Some("trust")),
            ("1.2.3.4", Some("ffff::")),
            ("10.1/16", None),
            ("1.2.3.400", None),
            ("name/8", None),
            ("", None),
            ("::g/8", None),
        ] {
            assert!(parse(text, next).is_err(), "{text} {next:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[0-9a-f.:/x]{0,20}", next in "[0-9a-f.:]{0,20}") {
            let _ = parse(&text, Some(&next));
        }

        #[test]
        fn prefixes_count_bits(address: u32, other: u32, bits in 0..=32_u32) {
            let net = Net::of_prefix(IpAddr::V4(address.into()), bits).unwrap();
            let same = (0..bits).all(|bit| (address ^ other) >> (31 - bit) & 1 == 0);
            prop_assert_eq!(net.contains(IpAddr::V4(other.into())), same);
        }
    }
}
