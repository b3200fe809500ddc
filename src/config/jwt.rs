//! What a signed token must fulfil, and the keys that it may be signed with (a JSON Web Key Set, RFC 7517).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// The shortest RSA modulus that is taken, bits; RFC 7518's.
const LEAST_RSA_BITS: usize = 2048;
/// The longest, bits.
const MOST_RSA_BITS: usize = 8192;

/// What a token must fulfil.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JwtRules {
    /// What it may be signed with; at least one.
    pub keys: Vec<JwtKey>,
    /// Its `iss`.
    pub issuer: String,
    /// One of its `aud`; at least one.
    pub audience: Vec<String>,
    /// The claim that has the user's name.
    pub user_claim: String,
    /// How far clocks may differ.
    pub leeway: Duration,
}

/// A public key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JwtKey {
    /// The name by which tokens refer to it.
    pub id: Option<String>,
    /// The key itself; it goes with exactly one algorithm.
    pub kind: JwtKeyKind,
}

/// A public key of either algorithm.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JwtKeyKind {
    /// For RS256.
    Rsa {
        /// The modulus, big-endian, without leading zeros.
        modulus: Vec<u8>,
        /// The exponent, big-endian, without leading zeros.
        exponent: Vec<u8>,
    },
    /// For ES256: a point of P-256 as SEC 1 writes it, uncompressed.
    P256(Vec<u8>),
}

/// The keys of a file, and why others of it are of no use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct KeySet {
    pub(super) keys: Vec<JwtKey>,
    pub(super) skipped: Vec<String>,
}

#[derive(Deserialize)]
struct RawSet {
    keys: Vec<RawKey>,
}

#[derive(Deserialize)]
struct RawKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<serde::de::IgnoredAny>,
}

impl KeySet {
    /// Reads a set. Keys of other kinds are passed over, as the RFC demands.
    ///
    /// # Errors
    /// Why it can't be used.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let raw: RawSet = serde_json::from_str(text).map_err(|error| format!("is not a JSON Web Key Set: {error}"))?;
        let mut set = Self { keys: Vec::new(), skipped: Vec::new() };
        for (index, raw) in raw.keys.into_iter().enumerate() {
            let name = raw.kid.as_ref().map_or_else(|| format!("key {}", index + 1), |kid| format!("key {kid:?}"));
            if raw.d.is_some() {
                return Err(format!("{name} is a private key, which belongs to the issuer alone"));
            }
            match raw.read() {
                Ok(key) if key.id.is_some() && set.keys.iter().any(|other| other.id == key.id) => {
                    return Err(format!("{name} stands there twice"));
                }
                Ok(key) => set.keys.push(key),
                Err(Unfit::Other(why)) => set.skipped.push(format!("{name} is not used: {why}")),
                Err(Unfit::Broken(why)) => return Err(format!("{name}: {why}")),
            }
        }
        match set.keys.is_empty() {
            true => Err("has no key for RS256 or ES256".into()),
            false => Ok(set),
        }
    }
}

/// Why a key isn't used.
enum Unfit {
    /// It is for something else.
    Other(String),
    /// It is wrong.
    Broken(String),
}

impl RawKey {
    fn read(self) -> Result<JwtKey, Unfit> {
        if self.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
            return Err(Unfit::Other("it is not for signatures".into()));
        }
        let algorithm = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => "RS256",
            ("EC", Some("P-256")) => "ES256",
            _ => return Err(Unfit::Other("it is neither an RSA key nor one of P-256".into())),
        };
        if self.alg.as_deref().is_some_and(|alg| alg != algorithm) {
            return Err(Unfit::Other(format!("it is not for {algorithm}")));
        }
        let kind = match algorithm {
            "RS256" => {
                let (modulus, exponent) = (number(self.n.as_deref(), "n")?, number(self.e.as_deref(), "e")?);
                let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
                if !(LEAST_RSA_BITS..=MOST_RSA_BITS).contains(&bits) {
                    let message = format!("{bits} bits are not {LEAST_RSA_BITS} to {MOST_RSA_BITS}");
                    return Err(Unfit::Broken(message));
                }
                JwtKeyKind::Rsa { modulus, exponent }
            }
            _ => {
                let (x, y) = (bytes(self.x.as_deref(), "x")?, bytes(self.y.as_deref(), "y")?);
                if x.len() != 32 || y.len() != 32 {
                    return Err(Unfit::Broken("x and y must have 32 bytes each".into()));
                }
                JwtKeyKind::P256([&[4][..], &x, &y].concat())
            }
        };
        Ok(JwtKey { id: self.kid, kind })
    }
}

fn bytes(text: Option<&str>, name: &str) -> Result<Vec<u8>, Unfit> {
    let text = text.ok_or_else(|| Unfit::Broken(format!("it has no {name}")))?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Unfit::Broken(format!("{name} is not base64url")))
}

fn number(text: Option<&str>, name: &str) -> Result<Vec<u8>, Unfit> {
    let bytes = bytes(text, name)?;
    let start = bytes.iter().position(|byte| *byte != 0).ok_or_else(|| Unfit::Broken(format!("{name} is zero")))?;
    Ok(bytes[start..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coordinate(byte: u8) -> String {
        URL_SAFE_NO_PAD.encode([byte; 32])
    }

    fn rsa(bytes: usize) -> String {
        let modulus = URL_SAFE_NO_PAD.encode([&[0][..], &vec![0xff; bytes]].concat());
        format!(r#"{{"kty":"RSA","kid":"r","n":"{modulus}","e":"AQAB"}}"#)
    }

    fn set(keys: &[String]) -> Result<KeySet, String> {
        KeySet::parse(&format!(r#"{{"keys":[{}]}}"#, keys.join(",")))
    }

    #[test]
    fn keys_of_both_kinds() {
        let ec = format!(r#"{{"kty":"EC","crv":"P-256","x":"{}","y":"{}"}}"#, coordinate(1), coordinate(2));
        let set = set(&[rsa(256), ec, r#"{"kty":"oct","kid":"h","k":"AAAA"}"#.into()]).unwrap();
        let JwtKeyKind::Rsa { modulus, exponent } = &set.keys[0].kind else { panic!("{set:?}") };
        assert_eq!((modulus.len(), exponent.as_slice()), (256, &[1, 0, 1][..]));
        let JwtKeyKind::P256(point) = &set.keys[1].kind else { panic!("{set:?}") };
        assert_eq!((point.len(), point[0], point[1], point[33]), (65, 4, 1, 2));
        assert_eq!(set.skipped.len(), 1);
    }

    #[test]
    fn sets_that_cannot_be_used() {
        let short = format!(r#"{{"kty":"EC","crv":"P-256","x":"AQ","y":"{}"}}"#, coordinate(2));
        let private = rsa(256).replace(r#""e""#, r#""d":"AQAB","e""#);
        let encryption = rsa(256).replace(r#""e""#, r#""use":"enc","e""#);
        let other = rsa(256).replace(r#""e""#, r#""alg":"RS512","e""#);
        for (keys, part) in [
            (vec![], "has no key"),
            (vec![rsa(128)], "bits"),
            (vec![rsa(256), rsa(256)], "twice"),
            (vec![short], "32 bytes"),
            (vec![private], "private"),
            (vec![encryption], "has no key"),
            (vec![other], "has no key"),
            (vec![r#"{"kty":"RSA","n":"AQ"}"#.into()], "no e"),
            (vec![r#"{"kty":"oct","k":"AAAA"}"#.into()], "has no key"),
        ] {
            let error = set(&keys).unwrap_err();
            assert!(error.contains(part), "{keys:?}: {error}");
        }
        assert!(KeySet::parse("[]").is_err());
    }
}
