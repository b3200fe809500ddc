//! The client's side of a SCRAM exchange: Carpool towards PostgreSQL.
//!
//! [`start`] gives the client-first message, [`AwaitServerFirst`] turns server-first into client-final, and
//! [`AwaitServerFinal`] checks that the server knows the secret too. Each consumes itself. What the server sends is
//! as little trusted as what a client sends: nonce, salt and iteration count are bounded before they cost anything.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::message::{Attributes, Malformed, is_nonce};
use super::{
    AuthMessage, ChannelBinding, Key, MAX_NONCE, MECHANISM, MECHANISM_PLUS, ScramKeys, decode_key, parse_iterations,
    same, xor,
};
use crate::auth::secret::Password;

/// Most PBKDF2 rounds a server can make Carpool do: 24 times PostgreSQL's default, tens of milliseconds.
/// The cap of pgjdbc and rust-postgres. Keys passed through from a client's login cost no rounds and have no cap.
pub const MAX_ITERATIONS: u32 = 100_000;
/// Longest salt a server may give, bytes. PostgreSQL's is 16.
pub const MAX_SALT: usize = 512;

/// What to prove.
#[derive(Clone, Debug)]
pub enum ScramCredentials {
    /// The password, and the keys that an earlier login derived from it, used again if salt and iterations fit.
    Password(Password, Option<ScramKeys>),
    /// Keys learned from a client's login; they work only with the salt and iterations of the same secret.
    Keys(ScramKeys),
}

/// Why an exchange failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ScramClientError {
    /// The message isn't SCRAM.
    #[error("server sent a malformed SCRAM message: {0}")]
    Malformed(#[from] Malformed),
    /// The server offered no mechanism that is known here.
    #[error("server offers none of the SASL mechanisms known here")]
    NoMechanism,
    /// The server's nonce doesn't extend the one sent.
    #[error("server sent a SCRAM nonce that does not extend the client's")]
    Nonce,
    /// Nonce, salt or iteration count over its bound.
    #[error("server sent a SCRAM {what} over the limit of {limit}")]
    TooMuch {
        /// What is too large.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// The secret known here isn't the server's: logging in with its keys can't work.
    #[error(
        "the SCRAM secret known here has another salt or iteration count than the server's: both must be the same text"
    )]
    AnotherSecret,
    /// The server ended the exchange with `e=`.
    #[error("server ended the SCRAM exchange with an error: {0}")]
    Refused(String),
    /// The server doesn't know the secret: it may be an impostor.
    #[error("server did not prove that it knows the SCRAM secret")]
    WrongSignature,
}

/// Waits for server-first.
#[derive(Debug)]
pub struct AwaitServerFirst {
    credentials: ScramCredentials,
    nonce: String,
    /// Flag and binding data, base64: the value of `c=`.
    binding_data: String,
}

/// Waits for server-final.
#[derive(Debug)]
pub struct AwaitServerFinal {
    keys: ScramKeys,
    signature: Signature,
}

/// What the server has to answer; no secret once sent, but kept out of logs.
struct Signature(Key);

impl std::fmt::Debug for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signature(***)")
    }
}

/// The first message of an exchange.
#[derive(Debug)]
pub struct Start {
    /// The mechanism chosen.
    pub mechanism: &'static str,
    /// The client-first message.
    pub client_first: Vec<u8>,
    /// The state that takes the answer.
    pub state: AwaitServerFirst,
}

/// Begins an exchange with a fresh `nonce` ([`super::nonce`]): chooses a mechanism among those for which `offers` is
/// true, as libpq does.
///
/// # Errors
/// [`ScramClientError::NoMechanism`].
pub fn start(
    credentials: ScramCredentials,
    binding: &ChannelBinding,
    offers: impl Fn(&str) -> bool,
    nonce: String,
) -> Result<Start, ScramClientError> {
    let (mechanism, header, hash): (_, _, &[u8]) = match binding {
        ChannelBinding::TlsServerEndPoint(hash) if offers(MECHANISM_PLUS) => {
            (MECHANISM_PLUS, "p=tls-server-end-point,,", hash)
        }
        _ if !offers(MECHANISM) => return Err(ScramClientError::NoMechanism),
        ChannelBinding::TlsServerEndPoint(_) => (MECHANISM, "y,,", &[]),
        ChannelBinding::None => (MECHANISM, "n,,", &[]),
    };
    Ok(Start {
        mechanism,
        // PostgreSQL takes the user from the startup packet; libpq leaves it out here too.
        client_first: format!("{header}n=,r={nonce}").into_bytes(),
        state: AwaitServerFirst {
            credentials,
            nonce,
            binding_data: STANDARD.encode([header.as_bytes(), hash].concat()),
        },
    })
}

/// What server-first says, within bounds.
struct Challenge<'a> {
    nonce: &'a [u8],
    salt: Vec<u8>,
    iterations: u32,
}

impl<'a> Challenge<'a> {
    fn read(message: &'a [u8], client_nonce: &str) -> Result<Self, ScramClientError> {
        let mut attributes = Attributes::new(message);
        let nonce = attributes.expect(b'r')?;
        let theirs = nonce
            .strip_prefix(client_nonce.as_bytes())
            .filter(|theirs| is_nonce(theirs))
            .ok_or(ScramClientError::Nonce)?;
        at_most("nonce", theirs.len(), MAX_NONCE)?;
        let salt = attributes.expect(b's')?;
        at_most("salt", salt.len() / 4 * 3, MAX_SALT)?;
        let salt = STANDARD.decode(salt).ok().filter(|salt| !salt.is_empty()).ok_or(Malformed("Invalid salt."))?;
        let iterations = parse_iterations(attributes.expect(b'i')?).ok_or(Malformed("Invalid iteration count."))?;
        if !attributes.is_done() {
            return Err(Malformed("Garbage at the end of server-first-message.").into());
        }
        Ok(Self { nonce, salt, iterations })
    }
}

fn at_most(what: &'static str, length: usize, limit: usize) -> Result<(), ScramClientError> {
    if length > limit {
        return Err(ScramClientError::TooMuch { what, limit });
    }
    Ok(())
}

impl ScramCredentials {
    fn keys(self, salt: &[u8], iterations: u32) -> Result<ScramKeys, ScramClientError> {
        match self {
            Self::Keys(keys) if keys.fits(salt, iterations) => Ok(keys),
            Self::Keys(_) => Err(ScramClientError::AnotherSecret),
            Self::Password(_, Some(keys)) if keys.fits(salt, iterations) => Ok(keys),
            Self::Password(password, _) if iterations <= MAX_ITERATIONS => {
                Ok(ScramKeys::derive(password.expose(), salt, iterations))
            }
            Self::Password(..) => {
                Err(ScramClientError::TooMuch { what: "iteration count", limit: MAX_ITERATIONS as usize })
            }
        }
    }
}

impl AwaitServerFirst {
    /// Takes server-first, gives the next state and client-final. With a password whose keys aren't known yet for
    /// this salt it derives them: about a millisecond for each 4096 iterations.
    ///
    /// # Errors
    /// What is wrong with the message, or why the credentials can't answer it.
    pub fn server_first(self, message: &[u8]) -> Result<(AwaitServerFinal, Vec<u8>), ScramClientError> {
        let challenge = Challenge::read(message, &self.nonce)?;
        let keys = self.credentials.keys(&challenge.salt, challenge.iterations)?;
        let client_first_bare = format!("n=,r={}", self.nonce);
        let mut client_final = [b"c=", self.binding_data.as_bytes(), b",r=", challenge.nonce].concat();
        let auth_message = AuthMessage([client_first_bare.as_bytes(), message, &client_final]);
        let client_signature = auth_message.signed_with(&keys.verifier().stored_key);
        let signature = Signature(auth_message.signed_with(&keys.server_key));
        let proof = STANDARD.encode(xor(&keys.client_key, &client_signature));
        client_final.extend_from_slice(b",p=");
        client_final.extend_from_slice(proof.as_bytes());
        Ok((AwaitServerFinal { keys, signature }, client_final))
    }
}

impl AwaitServerFinal {
    /// Takes server-final. The keys are worth keeping for the next login of the same user: now they are known to be
    /// the server's.
    ///
    /// # Errors
    /// [`ScramClientError::WrongSignature`], the server's `e=`, or what is wrong with the message.
    pub fn server_final(self, message: &[u8]) -> Result<ScramKeys, ScramClientError> {
        let mut attributes = Attributes::new(message);
        let (name, value) = attributes.next()?;
        if name == b'e' {
            let shown = value.iter().take(100).map(|byte| char::from(*byte));
            let shown = shown.flat_map(char::escape_default).collect();
            return Err(ScramClientError::Refused(shown));
        }
        let theirs = decode_key(value)
            .filter(|_| name == b'v' && attributes.is_done())
            .ok_or(Malformed("Invalid server-final-message."))?;
        if same(&theirs, &self.signature.0) { Ok(self.keys) } else { Err(ScramClientError::WrongSignature) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SALT: &[u8] = b"0123456789abcdef";
    const SALT_TEXT: &str = "MDEyMzQ1Njc4OWFiY2RlZg==";

    fn password() -> ScramCredentials {
        ScramCredentials::Password(Password::new(b"secret"), None)
    }

    fn begin(credentials: ScramCredentials) -> AwaitServerFirst {
        start(credentials, &ChannelBinding::None, |_| true, "mine".into()).unwrap().state
    }

    fn server_first(nonce: &str, salt: &str, iterations: &str) -> String {
        let ours = begin(password()).nonce;
        format!("r={ours}{nonce},s={salt},i={iterations}")
    }

    fn answer(message: &str) -> Result<(AwaitServerFinal, Vec<u8>), ScramClientError> {
        begin(password()).server_first(message.as_bytes())
    }

    #[test]
    fn every_byte_of_server_first_counts() {
        let message = server_first("xyz", SALT_TEXT, "1");
        assert!(answer(&message).is_ok());
        for end in 0..message.len() {
            assert!(answer(&message[..end]).is_err(), "cut at {end}");
        }
        for wrong in [
            server_first("", SALT_TEXT, "1"),
            server_first("x z", SALT_TEXT, "1"),
            server_first("xyz", "", "1"),
            server_first("xyz", "MDEyMzQ1Njc4OWFiY2RlZg", "1"),
            server_first("xyz", SALT_TEXT, "0"),
            server_first("xyz", SALT_TEXT, "-1"),
            server_first("xyz", SALT_TEXT, "1x"),
            server_first("xyz", SALT_TEXT, "99999999999"),
            format!("{message},"),
            format!("{message},x=y"),
            format!("m=x,{message}"),
            message.replacen("r=", "r=A", 1),
        ] {
            assert!(answer(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_the_server_sends_is_bounded() {
        let too_much = |message: &str| match answer(message) {
            Err(ScramClientError::TooMuch { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        let long = "x".repeat(100_000);
        assert_eq!(too_much(&server_first(&long, SALT_TEXT, "1")), "nonce");
        let salt = STANDARD.encode(long.as_bytes());
        assert_eq!(too_much(&server_first("xyz", &salt, "1")), "salt");
        assert_eq!(too_much(&server_first("xyz", SALT_TEXT, "100001")), "iteration count");
        assert!(answer(&server_first("xyz", SALT_TEXT, "100000")).is_ok());
        let mut keys = ScramKeys::derive(b"", SALT, 1);
        keys.iterations = 2_000_000_000;
        let message = server_first("xyz", SALT_TEXT, "2000000000");
        let known = begin(ScramCredentials::Keys(keys)).server_first(message.as_bytes());
        assert!(known.is_ok(), "keys cost no rounds");
    }

    #[test]
    fn keys_of_another_secret_are_a_clear_error() {
        let keys = ScramKeys::derive(b"secret", SALT, 2);
        for (salt, iterations) in [(SALT_TEXT, "1"), ("AAAA", "2")] {
            let message = server_first("xyz", salt, iterations);
            let state = begin(ScramCredentials::Keys(keys.clone()));
            let error = state.server_first(message.as_bytes()).unwrap_err();
            assert_eq!(error, ScramClientError::AnotherSecret);
        }
    }

    #[test]
    fn cached_keys_are_used_only_where_they_fit() {
        let mut cached = ScramKeys::derive(b"secret", SALT, 2);
        cached.client_key = [7; 32];
        let keys = |iterations| {
            ScramCredentials::Password(Password::new(b"secret"), Some(cached.clone())).keys(SALT, iterations).unwrap()
        };
        assert_eq!(keys(2).client_key, [7; 32]);
        assert_eq!(keys(1).client_key, ScramKeys::derive(b"secret", SALT, 1).client_key);
    }

    #[test]
    fn the_server_must_prove_itself() {
        let message = server_first("xyz", SALT_TEXT, "1");
        let finish = |text: &str| answer(&message).unwrap().0.server_final(text.as_bytes());
        let (state, _) = answer(&message).unwrap();
        let right = format!("v={}", STANDARD.encode(state.signature.0));
        assert!(finish(&right).unwrap().fits(SALT, 1));
        for end in 0..right.len() {
            assert!(finish(&right[..end]).is_err());
            let mut wrong = right.clone().into_bytes();
            wrong[end] ^= 1;
            let (state, _) = answer(&message).unwrap();
            assert!(state.server_final(&wrong).is_err());
        }
        assert!(finish(&format!("{right},")).is_err());
        assert!(finish(&right.replace("v=", "x=")).is_err());
        assert_eq!(finish(&format!("v={}", STANDARD.encode([0; 32]))).unwrap_err(), ScramClientError::WrongSignature);
        assert_eq!(finish("e=other-error\x1b").unwrap_err(), ScramClientError::Refused("other-error\\u{1b}".into()));
    }

    #[test]
    fn chooses_a_mechanism_as_libpq() {
        let tls = ChannelBinding::TlsServerEndPoint(vec![1]);
        let none = ChannelBinding::None;
        let choose = |binding: &ChannelBinding, offered: &[&str]| {
            let offers = |name: &str| offered.contains(&name);
            let start = start(password(), binding, offers, "mine".into())?;
            Ok((start.mechanism, start.client_first[..2].to_vec()))
        };
        let both = [MECHANISM_PLUS, MECHANISM];
        assert_eq!(choose(&tls, &both), Ok((MECHANISM_PLUS, b"p=".to_vec())));
        assert_eq!(choose(&tls, &[MECHANISM]), Ok((MECHANISM, b"y,".to_vec())));
        assert_eq!(choose(&none, &both), Ok((MECHANISM, b"n,".to_vec())));
        for offered in [&[MECHANISM_PLUS][..], &[], &["OAUTHBEARER"]] {
            let chosen = choose(&none, offered);
            assert_eq!(chosen, Err(ScramClientError::NoMechanism));
        }
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(first: Vec<u8>, tail in "[rsiem]?[a-z0-9=+/,]{0,60}", last: Vec<u8>) {
            let _ = begin(password()).server_first(&first);
            let message = server_first(&tail, SALT_TEXT, "1");
            if let Ok((state, _)) = answer(&message) {
                prop_assert!(state.server_final(&last).is_err());
            }
        }
    }
}
