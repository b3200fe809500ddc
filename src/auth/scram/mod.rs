//! SCRAM-SHA-256 (RFC 5802, RFC 7677) as PostgreSQL speaks it: the keys, and both sides of the exchange.
//!
//! [`server`] is Carpool towards its clients, [`client`] is Carpool towards PostgreSQL, [`verifiers`] gives
//! users without a SCRAM secret (a plain password, or no such user at all) something to run the exchange with.
//! No state is kept here beyond an exchange. Keys never appear in `Debug`.
//!
//! See <https://www.postgresql.org/docs/current/sasl-authentication.html>.

pub mod client;
mod message;
pub mod server;
pub mod verifiers;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use rand::CryptoRng;
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

pub use message::Malformed;

/// Name of the mechanism without channel binding.
pub const MECHANISM: &str = "SCRAM-SHA-256";
/// Name of the mechanism with channel binding (only inside TLS).
pub const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";
/// PBKDF2 rounds of secrets made here; PostgreSQL's default.
pub const DEFAULT_ITERATIONS: u32 = 4096;
/// Bytes of salt in secrets made here; PostgreSQL's.
pub const SALT_LEN: usize = 16;
/// Longest nonce accepted from the other side, characters. PostgreSQL and libpq send 24.
pub const MAX_NONCE: usize = 512;
/// Random bytes in a nonce made here, before base64; PostgreSQL's.
const RAW_NONCE: usize = 18;

/// One of SCRAM's 256-bit keys or signatures.
pub type Key = [u8; 32];

/// What TLS lends to the exchange so that nobody can relay it to another connection (RFC 5929).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum ChannelBinding {
    /// The connection isn't encrypted, or its certificate can't be hashed.
    #[default]
    None,
    /// Hash of the server's certificate, `tls-server-end-point`.
    TlsServerEndPoint(Vec<u8>),
}

/// What a server must know of a user: it can check a proof and prove itself, but can't log in with it.
#[derive(Clone)]
pub struct ScramVerifier {
    iterations: u32,
    salt: Arc<[u8]>,
    stored_key: Key,
    server_key: Key,
}

impl ScramVerifier {
    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, the text in `pg_authid.rolpassword`;
    /// `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (iterations, rest) = text.strip_prefix(MECHANISM)?.strip_prefix('$')?.split_once(':')?;
        let (salt, keys) = rest.split_once('$')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let salt = STANDARD.decode(salt).ok()?;
        if salt.is_empty() {
            return None;
        }
        Some(Self {
            iterations: parse_iterations(iterations.as_bytes())?,
            salt: salt.into(),
            stored_key: decode_key(stored_key.as_bytes())?,
            server_key: decode_key(server_key.as_bytes())?,
        })
    }

    /// The text that [`ScramVerifier::parse`] reads. It is a secret.
    #[must_use]
    pub fn encode(&self) -> String {
        format!(
            "{MECHANISM}${}:{}${}:{}",
            self.iterations,
            STANDARD.encode(&self.salt),
            STANDARD.encode(self.stored_key),
            STANDARD.encode(self.server_key)
        )
    }

    /// Joins the verifier with the key that a client's login has revealed.
    #[must_use]
    pub fn with_client_key(&self, client_key: Key) -> ScramKeys {
        ScramKeys { iterations: self.iterations, salt: Arc::clone(&self.salt), client_key, server_key: self.server_key }
    }

    /// The keys of `password` if it is the right one, in the time of one PBKDF2 derivation either way.
    #[must_use]
    pub fn check_password(&self, password: &[u8]) -> Option<ScramKeys> {
        let keys = ScramKeys::derive(password, &self.salt, self.iterations);
        self.is_client_key(&keys.client_key).then_some(keys)
    }

    fn is_client_key(&self, client_key: &Key) -> bool {
        same(&sha256(client_key), &self.stored_key)
    }
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramVerifier(***)")
    }
}

/// What a client needs to log in by SCRAM without the password, for the one salt and iteration count they were
/// derived with. Deriving them from a password is the slow part of a login (milliseconds), so they are worth keeping.
#[derive(Clone)]
pub struct ScramKeys {
    iterations: u32,
    salt: Arc<[u8]>,
    client_key: Key,
    server_key: Key,
}

impl Drop for ScramKeys {
    fn drop(&mut self) {
        self.client_key.zeroize();
        self.server_key.zeroize();
    }
}

impl ScramKeys {
    /// Derives the keys of a password: `iterations` rounds of PBKDF2, about a millisecond for 4096.
    #[must_use]
    pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let salted = pbkdf2(&saslprep(password), salt, iterations);
        Self {
            iterations,
            salt: salt.into(),
            client_key: hmac_sha256(&salted, &[b"Client Key"]),
            server_key: hmac_sha256(&salted, &[b"Server Key"]),
        }
    }

    /// Iterations, salt, client key and server key.
    pub(in crate::auth) fn parts(&self) -> (u32, &[u8], &Key, &Key) {
        (self.iterations, &self.salt, &self.client_key, &self.server_key)
    }

    /// From [`Self::parts`].
    pub(in crate::auth) fn from_parts(iterations: u32, salt: &[u8], client_key: Key, server_key: Key) -> Self {
        Self { iterations, salt: salt.into(), client_key, server_key }
    }

    /// Whether the keys fit this salt and iteration count.
    #[must_use]
    pub fn fits(&self, salt: &[u8], iterations: u32) -> bool {
        self.iterations == iterations && *self.salt == *salt
    }

    /// What a server must know to check these keys.
    #[must_use]
    pub fn verifier(&self) -> ScramVerifier {
        ScramVerifier {
            iterations: self.iterations,
            salt: Arc::clone(&self.salt),
            stored_key: sha256(&self.client_key),
            server_key: self.server_key,
        }
    }
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramKeys(***)")
    }
}

/// RFC 4013, or the bytes as they are where it refuses them: PostgreSQL's rule, so that any password works.
fn saslprep(password: &[u8]) -> Cow<'_, [u8]> {
    let prepared = std::str::from_utf8(password).ok().and_then(|text| stringprep::saslprep(text).ok());
    match prepared {
        Some(Cow::Owned(text)) if !text.is_empty() => Cow::Owned(text.into_bytes()),
        // Unchanged, refused, or nothing would be left of it.
        _ => Cow::Borrowed(password),
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut hmac = keyed(key);
    for part in parts {
        hmac.update(part);
    }
    hmac.finalize().into_bytes().into()
}

fn sha256(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

/// `Hi` of RFC 5802: PBKDF2 with one block of output. The keyed state is cloned, which halves the work per round.
fn pbkdf2(password: &[u8], salt: &[u8], iterations: u32) -> Key {
    let keyed = keyed(password);
    let round = |parts: [&[u8]; 2]| -> Key {
        let mut hmac = keyed.clone();
        hmac.update(parts[0]);
        hmac.update(parts[1]);
        hmac.finalize().into_bytes().into()
    };
    let mut last = round([salt, &[0, 0, 0, 1]]);
    let mut result = last;
    for _ in 1..iterations {
        last = round([&last, &[]]);
        result = xor(&result, &last);
    }
    result
}

fn xor(left: &Key, right: &Key) -> Key {
    std::array::from_fn(|index| left[index] ^ right[index])
}

/// Comparison in constant time.
fn same(left: &[u8], right: &[u8]) -> bool {
    subtle::ConstantTimeEq::ct_eq(left, right).into()
}

/// The text that both sides sign: client-first-bare, server-first and client-final without its proof.
struct AuthMessage<'a>([&'a [u8]; 3]);

impl AuthMessage<'_> {
    fn signed_with(&self, key: &Key) -> Key {
        let [client_first, server_first, client_final] = self.0;
        hmac_sha256(key, &[client_first, b",", server_first, b",", client_final])
    }
}

fn decode_key(text: &[u8]) -> Option<Key> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

/// A decimal of 1 to `i32::MAX` (PostgreSQL's range), without sign or leading zero.
fn parse_iterations(digits: &[u8]) -> Option<u32> {
    let plain = digits.first()? != &b'0' && digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(digits).ok().filter(|_| plain)?;
    text.parse::<i32>().ok()?.try_into().ok()
}

/// A fresh nonce: 24 characters that hold 144 random bits.
pub fn nonce(rng: &mut (impl CryptoRng + ?Sized)) -> String {
    let mut raw = [0; RAW_NONCE];
    rng.fill_bytes(&mut raw);
    STANDARD.encode(raw)
}

#[cfg(test)]
mod tests;
