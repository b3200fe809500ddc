//! What is known of a user: a plain password, PostgreSQL's md5 hash, or its SCRAM secret.
//!
//! The text comes from the configuration or from `pg_authid`. `Debug` never shows a value, there is no `Display`,
//! and the only way to a password's bytes is [`Password::expose`].

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::md5;
use super::scram::ScramVerifier;
use crate::config::Secret;
use crate::names::UserName;

/// A clear-text password; any bytes but NUL, not necessarily UTF-8. Cheap to clone; its memory is cleared at its end.
#[derive(Clone)]
pub struct Password(Arc<Zeroizing<Vec<u8>>>);

impl Password {
    /// Wraps the bytes of a password, without the NUL that ends it on the wire.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(Arc::new(Zeroizing::new(bytes.to_vec())))
    }

    /// The bytes themselves.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}

/// `md5(password ‖ user)`: enough to check and to answer an md5 challenge, so as secret as a password.
#[derive(Clone)]
pub struct Md5Secret([u8; 16]);

impl Md5Secret {
    /// Wraps the hash.
    #[must_use]
    pub const fn from_bytes(hash: [u8; 16]) -> Self {
        Self(hash)
    }

    /// Hashes a password as PostgreSQL stores it.
    #[must_use]
    pub fn of_password(user: &UserName, password: &Password) -> Self {
        Self(md5::hash(&[password.expose(), user.as_str().as_bytes()]))
    }

    /// Reads `md5` and 32 lower-case hexadecimal digits; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("md5")?.as_bytes();
        let mut hash = [0; 16];
        if digits.len() != 2 * hash.len() {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = (hex_digit(pair[0])? << 4) | hex_digit(pair[1])?;
        }
        Some(Self(hash))
    }

    /// The 16 bytes of the hash.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for Md5Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Md5Secret(***)")
    }
}

/// The kind of a [`StoredSecret`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SecretKind {
    /// A clear-text password.
    #[default]
    Plain,
    /// `md5…`.
    Md5,
    /// `SCRAM-SHA-256$…`.
    Scram,
}

/// A user's secret as it is stored.
#[derive(Clone, Debug)]
pub enum StoredSecret {
    /// The password itself.
    Plain(Password),
    /// Its md5 hash.
    Md5(Md5Secret),
    /// Its SCRAM verifier.
    Scram(Arc<ScramVerifier>),
}

impl StoredSecret {
    /// Reads a secret; PostgreSQL's rule: what is exactly one of its two formats is that, all else is a password.
    #[must_use]
    pub fn parse(secret: &Secret) -> Self {
        let text = secret.expose();
        if let Some(hash) = Md5Secret::parse(text) {
            return Self::Md5(hash);
        }
        match ScramVerifier::parse(text) {
            Some(verifier) => Self::Scram(Arc::new(verifier)),
            None => Self::Plain(Password::new(text.as_bytes())),
        }
    }

    /// Which of the formats it is.
    #[must_use]
    pub const fn kind(&self) -> SecretKind {
        match self {
            Self::Plain(_) => SecretKind::Plain,
            Self::Md5(_) => SecretKind::Md5,
            Self::Scram(_) => SecretKind::Scram,
        }
    }

    /// Whether it is a password of no characters, which nobody may log in with.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Plain(password) if password.expose().is_empty())
    }
}

const fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SCRAM: &str = "SCRAM-SHA-256$4096:sSPH3ClElxUm3mAsK/k09g==$AjVBrdRb3Cr4AO4jP8xutJfdoKWUCwJ1pFtjXL4cRRU=:pYTlh3CudnqPCA8S/XvxPVbMG/Wrm6xBA9wasT7/AOM=";

    fn parse(text: &str) -> StoredSecret {
        StoredSecret::parse(&Secret::new(text))
    }

    #[test]
    fn md5_of_postgresql_15() {
        for (user, password, stored) in [
            ("h", "secret", "md5a1c2cced0c3bcb0923524fd5300c40be"),
            ("i", "пароль", "md535fecbdc595ba8899b64ca8126c11079"),
        ] {
            let StoredSecret::Md5(parsed) = parse(stored) else {
                panic!("not read as md5");
            };
            let hashed = Md5Secret::of_password(&UserName::from(user), &Password::new(password.as_bytes()));
            assert_eq!(parsed.expose(), hashed.expose());
        }
    }

    #[test]
    fn scram_is_read_and_written() {
        let StoredSecret::Scram(verifier) = parse(SCRAM) else {
            panic!("not read as SCRAM");
        };
        assert_eq!(verifier.encode(), SCRAM);
        assert!(verifier.check_password(b"secret").is_some());
        assert!(verifier.check_password(b"Secret").is_none());
    }

    #[test]
    fn all_else_is_a_password() {
        let mut texts = vec![
            String::new(),
            "md5".into(),
            "md5A1C2CCED0C3BCB0923524FD5300C40BE".into(),
            "md5a1c2cced0c3bcb0923524fd5300c40be0".into(),
            "MD5a1c2cced0c3bcb0923524fd5300c40be".into(),
            SCRAM.replace("4096", "0"),
            SCRAM.replace("4096", "-1"),
            SCRAM.replace("4096", "+1"),
            SCRAM.replace("4096", "4294967296"),
            SCRAM.replace("sSPH3ClElxUm3mAsK/k09g==", ""),
            SCRAM.replace("sSPH3ClElxUm3mAsK/k09g==", "*"),
            SCRAM.replace("SHA-256", "SHA-512"),
            format!("{SCRAM}="),
            format!(" {SCRAM}"),
        ];
        texts.extend((0..SCRAM.len()).map(|end| SCRAM[..end].to_owned()));
        for text in texts {
            let StoredSecret::Plain(password) = parse(&text) else {
                panic!("{text:?} isn't a password");
            };
            assert_eq!(password.expose(), text.as_bytes());
        }
    }

    #[test]
    fn debug_shows_nothing() {
        let shown =
            format!("{:?} {:?} {:?}", parse("hunter2"), parse("md5a1c2cced0c3bcb0923524fd5300c40be"), parse(SCRAM));
        assert_eq!(shown, "Plain(Password(***)) Md5(Md5Secret(***)) Scram(ScramVerifier(***))");
    }

    proptest! {
        #[test]
        fn any_text_is_some_secret(text in "(md5|SCRAM-SHA-256\\$)?[0-9a-f:$=]{0,80}") {
            if let StoredSecret::Plain(password) = parse(&text) {
                prop_assert_eq!(password.expose(), text.as_bytes());
            }
        }
    }
}
