//! What a certificate says: whom it is for, and what binds a login to it.

use std::net::IpAddr;

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// The certificate of the other side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its subject's common name: the user name of `auth_type = cert`. `None` if there is none, or one with a NUL.
    pub common_name: Option<String>,
    /// Its subject, as PostgreSQL's `clientname=DN` has it: RFC 2253, `CN=alice,O=Example`.
    pub subject: String,
    /// Its authority and its time were checked. Nobody may be let in by a certificate that wasn't.
    pub verified: bool,
}

impl Peer {
    /// Reads a certificate in DER; `None` if it isn't one.
    #[must_use]
    pub fn read(der: &[u8], verified: bool) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?;
        let subject = certificate.tbs_certificate().subject();
        let common_name = common_name_of(&certificate);
        Some(Self { common_name, subject: escape_beyond_ascii(&subject.to_string()), verified })
    }
}

/// OpenSSL, and so PostgreSQL, writes what isn't ASCII byte by byte.
fn escape_beyond_ascii(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            escaped.push(c);
            continue;
        }
        let mut buf = [0; 4];
        for byte in c.encode_utf8(&mut buf).bytes() {
            escaped.push_str(&format!("\\{byte:02X}"));
        }
    }
    escaped
}

/// The common name that stands first in the certificate, as OpenSSL's `X509_NAME_get_text_by_NID` takes it.
fn common_name_of(certificate: &Certificate) -> Option<String> {
    let name = certificate.tbs_certificate().subject().common_name().ok()??;
    let name = name.value();
    (!name.is_empty() && !name.contains('\0')).then(|| name.into_owned())
}

/// The names that a server's certificate is good for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServerNames {
    dns: Vec<String>,
    addresses: Vec<Vec<u8>>,
    common_name: Option<String>,
}

impl ServerNames {
    /// Reads a certificate in DER; `None` if it isn't one.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?;
        let mut names = Self { common_name: common_name_of(&certificate), ..Self::default() };
        let alternative = certificate.tbs_certificate().get_extension::<SubjectAltName>().ok()?;
        for name in alternative.into_iter().flat_map(|(_, alternative)| alternative.0) {
            match name {
                GeneralName::DnsName(name) => names.dns.push(name.as_str().to_owned()),
                GeneralName::IpAddress(address) => names.addresses.push(address.as_bytes().to_vec()),
                _ => {}
            }
        }
        Some(names)
    }

    /// Whether a server of this name may have the certificate. libpq's rules: the common name counts only where there
    /// is no alternative name that could be meant, `*` stands for the whole first label and for no other.
    #[must_use]
    pub fn fits(&self, host: &str) -> bool {
        if let Ok(address) = host.parse::<IpAddr>() {
            let bytes = match address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            if self.addresses.contains(&bytes) || self.dns.iter().any(|name| name.eq_ignore_ascii_case(host)) {
                return true;
            }
            let unnamed = self.addresses.is_empty() && self.dns.is_empty();
            return unnamed && self.common_name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(host));
        }
        match self.dns.is_empty() {
            false => self.dns.iter().any(|name| is_name_of(name, host)),
            true => self.common_name.as_deref().is_some_and(|name| is_name_of(name, host)),
        }
    }
}

fn is_name_of(pattern: &str, host: &str) -> bool {
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let Some(domain) = pattern.strip_prefix('*') else { return false };
    let Some(at) = host.find('.') else { return false };
    // A certificate of "*.com" is nobody's, nor one without a label in front of the domain.
    at > 0 && domain.len() > 2 && domain[1..].contains('.') && domain.eq_ignore_ascii_case(&host[at..])
}

/// Whether the certificate is in its time, `now` being seconds since 1970.
#[must_use]
pub fn is_in_time(der: &[u8], now: u64) -> bool {
    Certificate::from_der(der).is_ok_and(|certificate| {
        let validity = certificate.tbs_certificate().validity();
        let seconds = |time: &x509_cert::time::Time| time.to_unix_duration().as_secs();
        (seconds(&validity.not_before)..=seconds(&validity.not_after)).contains(&now)
    })
}

/// The hash of a server's certificate for `tls-server-end-point` (RFC 5929, section 4.1): by the hash of its
/// signature, but SHA-256 in place of MD5 and SHA-1. Empty where that isn't defined (Ed25519).
#[must_use]
pub fn server_end_point(der: &[u8]) -> Vec<u8> {
    let Ok(certificate) = Certificate::from_der(der) else { return Vec::new() };
    match signature_hash(&certificate) {
        Some(Hash::Sha224) => Sha224::digest(der).to_vec(),
        Some(Hash::Sha256) => Sha256::digest(der).to_vec(),
        Some(Hash::Sha384) => Sha384::digest(der).to_vec(),
        Some(Hash::Sha512) => Sha512::digest(der).to_vec(),
        None => Vec::new(),
    }
}

#[derive(Clone, Copy)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");

fn signature_hash(certificate: &Certificate) -> Option<Hash> {
    let algorithm = certificate.signature_algorithm();
    if algorithm.oid == RSA_PSS {
        return Some(pss_hash(&algorithm.parameters.as_ref()?.to_der().ok()?));
    }
    match algorithm.oid.to_string().as_str() {
        // RSA and ECDSA with SHA-1, RSA with MD5 among them.
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" => Some(Hash::Sha256),
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => Some(Hash::Sha224),
        "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" => Some(Hash::Sha256),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(Hash::Sha384),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(Hash::Sha512),
        _ => None,
    }
}

/// The hash in RSASSA-PSS-params: the first hash's identifier that stands there; SHA-1 has none, being the default.
fn pss_hash(parameters: &[u8]) -> Hash {
    // 2.16.840.1.101.3.4.2.N, encoded without its last number.
    const SHA2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
    let at = parameters.windows(SHA2.len()).position(|window| window == SHA2);
    match at.and_then(|at| parameters.get(at + SHA2.len())) {
        Some(2) => Hash::Sha384,
        Some(3) => Hash::Sha512,
        Some(4) => Hash::Sha224,
        _ => Hash::Sha256,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(dns: &[&str], addresses: &[&[u8]], common_name: &str) -> ServerNames {
        ServerNames {
            dns: dns.iter().map(|name| (*name).to_owned()).collect(),
            addresses: addresses.iter().map(|address| address.to_vec()).collect(),
            common_name: Some(common_name.to_owned()),
        }
    }

    #[test]
    fn which_names_a_certificate_is_good_for() {
        let fits = |names: &ServerNames, hosts: &[&str]| {
            hosts.iter().filter(|host| names.fits(host)).map(|host| (*host).to_owned()).collect::<Vec<_>>()
        };
        let hosts = ["db.example.com", "DB.example.COM", "a.db.example.com", "example.com", "other", ".example.com"];
        assert_eq!(fits(&names(&["db.example.com"], &[], "other"), &hosts), hosts[..2]);
        assert_eq!(fits(&names(&["*.example.com"], &[], ""), &hosts), hosts[..2]);
        assert_eq!(fits(&names(&[], &[], "*.example.com"), &hosts), hosts[..2]);
        assert_eq!(fits(&names(&[], &[], "other"), &hosts), ["other"]);
        // What a wildcard is no good for.
        for pattern in ["*", "*.", "*.com", "*com", "*.*.com", "d*.example.com", "db.*.com", "**.example.com"] {
            assert_eq!(fits(&names(&[pattern], &[], ""), &["db.example.com", "x.com", "com"]), Vec::<String>::new());
        }
        let v6 = std::net::Ipv6Addr::LOCALHOST.octets();
        let with_addresses = names(&["example.com"], &[&[10, 0, 0, 1], &v6], "10.0.0.2");
        assert_eq!(
            fits(&with_addresses, &["10.0.0.1", "10.0.0.2", "::1", "0:0::1", "::2"]),
            ["10.0.0.1", "::1", "0:0::1"]
        );
        // The common name is an address where no other name is given.
        assert_eq!(fits(&names(&[], &[], "10.0.0.2"), &["10.0.0.1", "10.0.0.2"]), ["10.0.0.2"]);
        assert_eq!(fits(&names(&["*.0.0.1"], &[], ""), &["10.0.0.1"]), Vec::<String>::new());
    }

    /// As `openssl req -x509 -newkey ec` without extensions makes them, of version 1, and one by RSA-PSS with SHA-384.
    const OLD: &[u8] = include_bytes!("tests/version1.der");
    const PSS: &[u8] = include_bytes!("tests/pss384.der");

    #[test]
    fn binds_by_the_hash_of_the_signature() {
        assert_eq!(server_end_point(OLD), Sha256::digest(OLD).to_vec());
        assert_eq!(server_end_point(PSS), Sha384::digest(PSS).to_vec());
        assert_eq!(server_end_point(b"no certificate"), Vec::<u8>::new());
    }

    #[test]
    fn reads_subjects_as_postgresql_writes_them() {
        let peer = Peer::read(OLD, true).unwrap();
        assert_eq!(peer.common_name.as_deref(), Some("old.example.com"));
        assert_eq!(peer.subject, "CN=old.example.com,O=Caf\\C3\\A9\\, Inc.,C=DE");
        assert!(ServerNames::read(OLD).unwrap().fits("old.example.com"));
        assert!(is_in_time(OLD, 1_800_000_000) && !is_in_time(OLD, 1_000_000_000) && !is_in_time(OLD, 9_000_000_000));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes: Vec<u8>, at in 0..OLD.len(), byte: u8) {
            let mut changed = OLD.to_vec();
            changed[at] = byte;
            for der in [&bytes, &changed] {
                let _ = (Peer::read(der, true), ServerNames::read(der), server_end_point(der), is_in_time(der, 1));
            }
        }
    }
}
