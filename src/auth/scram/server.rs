//! The server's side of a SCRAM exchange: Carpool towards its clients.
//!
//! [`ServerFirst`] turns the client-first message into server-first, [`ServerFinal`] turns client-final into
//! server-final and the client's key. Each consumes itself, so no step can be taken twice. The checks and their
//! order are those of PostgreSQL's `auth-scram.c`. The caller bounds the messages' length
//! ([`crate::auth::sasl::MAX_CLIENT_MESSAGE`]); nothing here tells a decoy verifier from a real one.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::CryptoRng;

use super::message::{Attributes, Malformed, is_nonce};
use super::{
    AuthMessage, ChannelBinding, Key, MAX_NONCE, MECHANISM, MECHANISM_PLUS, ScramKeys, ScramVerifier, decode_key,
    nonce, xor,
};

/// Why an exchange ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ScramError {
    /// The message isn't SCRAM.
    #[error("malformed SCRAM message: {0}")]
    Malformed(#[from] Malformed),
    /// Neither SCRAM-SHA-256 nor, inside TLS, SCRAM-SHA-256-PLUS.
    #[error("client selected an invalid SASL authentication mechanism")]
    InvalidMechanism,
    /// A channel binding other than `tls-server-end-point`.
    #[error("unsupported SCRAM channel-binding type")]
    UnsupportedChannelBinding,
    /// The client believes that channel binding isn't offered, but it was: somebody took it off the list.
    #[error("SCRAM channel binding negotiation error")]
    ChannelBindingNegotiation,
    /// The binding in client-final isn't this connection's, or not the one announced before.
    #[error("SCRAM channel binding check failed")]
    ChannelBindingMismatch,
    /// The client wants to act as another user.
    #[error("client uses authorization identity, but it is not supported")]
    AuthorizationIdentity,
    /// The client demands an extension (`m=`).
    #[error("client requires an unsupported SCRAM extension")]
    MandatoryExtension,
    /// A nonce with characters that RFC 5802 forbids, or longer than [`MAX_NONCE`].
    #[error("invalid SCRAM nonce")]
    InvalidNonce,
    /// The nonce in client-final isn't the one agreed on.
    #[error("SCRAM nonce does not match")]
    NonceMismatch,
    /// The proof doesn't fit the verifier: the password is wrong.
    #[error("SCRAM proof does not fit")]
    WrongProof,
}

/// Waits for client-first.
#[derive(Debug)]
pub struct ServerFirst {
    verifier: Arc<ScramVerifier>,
    binding: ChannelBinding,
    nonce: String,
}

/// Waits for client-final.
#[derive(Debug)]
pub struct ServerFinal {
    verifier: Arc<ScramVerifier>,
    /// What the client must give as `c=`.
    binding_data: String,
    /// What has been said: client-first-bare, then server-first, which begins with `r=` and both sides' nonces.
    said: Vec<u8>,
    client_first_len: usize,
    nonce_len: usize,
}

/// The client has proved that it knows the password.
#[derive(Debug)]
pub struct Verified {
    /// Keys to log in elsewhere with the same secret.
    pub keys: ScramKeys,
    /// The server-final message, which the client waits for.
    pub server_final: Vec<u8>,
}

impl ServerFirst {
    /// Begins an exchange against `verifier`, with a fresh nonce.
    pub fn new(verifier: Arc<ScramVerifier>, binding: ChannelBinding, rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        Self { verifier, binding, nonce: nonce(rng) }
    }

    /// Mechanisms to offer, the preferred one first.
    #[must_use]
    pub const fn mechanisms(&self) -> &'static [&'static str] {
        match self.binding {
            ChannelBinding::None => &[MECHANISM],
            ChannelBinding::TlsServerEndPoint(_) => &[MECHANISM_PLUS, MECHANISM],
        }
    }

    /// Checks that the client chose one of [`ServerFirst::mechanisms`].
    ///
    /// # Errors
    /// [`ScramError::InvalidMechanism`].
    pub fn choose(&self, mechanism: &[u8]) -> Result<Mechanism, ScramError> {
        if mechanism == MECHANISM.as_bytes() {
            return Ok(Mechanism::Scram);
        }
        let offered = self.mechanisms().contains(&MECHANISM_PLUS);
        if offered && mechanism == MECHANISM_PLUS.as_bytes() {
            return Ok(Mechanism::ScramPlus);
        }
        Err(ScramError::InvalidMechanism)
    }

    /// Takes client-first, gives the next state and server-first.
    ///
    /// # Errors
    /// What is wrong with the message; never [`ScramError::WrongProof`].
    pub fn client_first(self, mechanism: Mechanism, message: &[u8]) -> Result<(ServerFinal, Vec<u8>), ScramError> {
        check_text(message)?;
        let (gs2_header, bare) = self.split_gs2_header(mechanism, message)?;
        let client_nonce = read_bare(bare)?;
        let salt = STANDARD.encode(&self.verifier.salt);
        let iterations = self.verifier.iterations.to_string();
        let own = self.nonce.as_bytes();
        let said = [bare, b"r=", client_nonce, own, b",s=", salt.as_bytes(), b",i=", iterations.as_bytes()].concat();
        let server_first = said[bare.len()..].to_vec();
        let exchange = ServerFinal {
            binding_data: self.binding_data(mechanism, gs2_header),
            verifier: self.verifier,
            said,
            client_first_len: bare.len(),
            nonce_len: client_nonce.len() + own.len(),
        };
        Ok((exchange, server_first))
    }

    /// Splits off `n,,`, `y,,` or `p=…,,`.
    fn split_gs2_header<'a>(
        &self,
        mechanism: Mechanism,
        message: &'a [u8],
    ) -> Result<(&'a [u8], &'a [u8]), ScramError> {
        let after_flag = match (message.first(), mechanism) {
            (Some(b'n' | b'y'), Mechanism::ScramPlus) => {
                return Err(Malformed(
                    "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data.",
                )
                .into());
            }
            (Some(b'y'), _) if self.binding != ChannelBinding::None => {
                return Err(ScramError::ChannelBindingNegotiation);
            }
            (Some(b'n' | b'y'), Mechanism::Scram) => &message[1..],
            (Some(b'p'), Mechanism::Scram) => {
                return Err(Malformed(
                    "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data.",
                )
                .into());
            }
            (Some(b'p'), Mechanism::ScramPlus) => {
                message.strip_prefix(b"p=tls-server-end-point").ok_or(ScramError::UnsupportedChannelBinding)?
            }
            _ => return Err(Malformed("Unexpected channel-binding flag.").into()),
        };
        match after_flag {
            [b',', b',', bare @ ..] => Ok((&message[..message.len() - bare.len()], bare)),
            [b',', b'a', ..] => Err(ScramError::AuthorizationIdentity),
            [b',', ..] => Err(Malformed("Unexpected attribute in client-first-message.").into()),
            _ => Err(Malformed("Comma expected after the channel-binding flag.").into()),
        }
    }

    fn binding_data(&self, mechanism: Mechanism, gs2_header: &[u8]) -> String {
        match (&self.binding, mechanism) {
            (ChannelBinding::TlsServerEndPoint(hash), Mechanism::ScramPlus) => {
                STANDARD.encode([gs2_header, hash].concat())
            }
            _ => STANDARD.encode(gs2_header),
        }
    }
}

/// The mechanism that the client chose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mechanism {
    /// SCRAM-SHA-256.
    Scram,
    /// SCRAM-SHA-256-PLUS.
    ScramPlus,
}

/// Reads client-first-bare, returns the client's nonce. The user name in it doesn't count: the startup packet's does.
fn read_bare(bare: &[u8]) -> Result<&[u8], ScramError> {
    let mut attributes = Attributes::new(bare);
    if attributes.peek() == Some(b'm') {
        return Err(ScramError::MandatoryExtension);
    }
    attributes.expect(b'n')?;
    let nonce = attributes.expect(b'r')?;
    if !is_nonce(nonce) || nonce.len() > MAX_NONCE {
        return Err(ScramError::InvalidNonce);
    }
    while !attributes.is_done() {
        attributes.next()?;
    }
    Ok(nonce)
}

impl ServerFinal {
    /// Takes client-final; gives the client's keys and server-final.
    ///
    /// # Errors
    /// What is wrong with the message, or [`ScramError::WrongProof`].
    pub fn client_final(self, message: &[u8]) -> Result<Verified, ScramError> {
        check_text(message)?;
        let (client_first, server_first) = self.said.split_at(self.client_first_len);
        let mut attributes = Attributes::new(message);
        if attributes.expect(b'c')? != self.binding_data.as_bytes() {
            return Err(ScramError::ChannelBindingMismatch);
        }
        let nonce = attributes.expect(b'r')?;
        let (without_proof, proof) = read_proof(message, attributes)?;
        if server_first.get(2..2 + self.nonce_len) != Some(nonce) {
            return Err(ScramError::NonceMismatch);
        }
        let auth_message = AuthMessage([client_first, server_first, without_proof]);
        let client_key = xor(&proof, &auth_message.signed_with(&self.verifier.stored_key));
        let signature = auth_message.signed_with(&self.verifier.server_key);
        if !self.verifier.is_client_key(&client_key) {
            return Err(ScramError::WrongProof);
        }
        Ok(Verified {
            keys: self.verifier.with_client_key(client_key),
            server_final: [b"v=", STANDARD.encode(signature).as_bytes()].concat(),
        })
    }
}

/// Skips extensions up to the proof, which must come last; returns the message before it, and the proof.
fn read_proof<'a>(message: &'a [u8], mut attributes: Attributes<'a>) -> Result<(&'a [u8], Key), ScramError> {
    loop {
        // The comma before the attribute isn't signed either.
        let without = message.len() - attributes.remaining();
        let (name, value) = attributes.next()?;
        if name != b'p' {
            continue;
        }
        let proof = decode_key(value).ok_or(Malformed("Malformed proof in client-final-message."))?;
        if !attributes.is_done() {
            return Err(Malformed("Garbage found at the end of client-final-message.").into());
        }
        return Ok((&message[..without - 1], proof));
    }
}

fn check_text(message: &[u8]) -> Result<(), Malformed> {
    if message.is_empty() {
        return Err(Malformed("The message is empty."));
    }
    if message.contains(&0) {
        return Err(Malformed("Message length does not match input length."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn exchange(binding: ChannelBinding) -> ServerFirst {
        let verifier = ScramKeys::derive(b"secret", b"0123456789abcdef", 1).verifier();
        ServerFirst::new(Arc::new(verifier), binding, &mut StdRng::seed_from_u64(1))
    }

    fn first(message: &[u8]) -> Result<(ServerFinal, Vec<u8>), ScramError> {
        exchange(ChannelBinding::None).client_first(Mechanism::Scram, message)
    }

    fn tls() -> ChannelBinding {
        ChannelBinding::TlsServerEndPoint(vec![1, 2, 3])
    }

    /// A right client-final for what `first(b"n,,n=,r=abc")` asks.
    fn client_final() -> Vec<u8> {
        let (_, server_first) = first(b"n,,n=,r=abc").unwrap();
        let nonce = server_first[2..].split(|byte| *byte == b',').next().unwrap();
        let without_proof = [b"c=biws,r=", nonce].concat();
        let keys = ScramKeys::derive(b"secret", b"0123456789abcdef", 1);
        let signature =
            AuthMessage([b"n=,r=abc", &server_first, &without_proof]).signed_with(&keys.verifier().stored_key);
        let proof = STANDARD.encode(xor(&keys.client_key, &signature));
        [&without_proof[..], b",p=", proof.as_bytes()].concat()
    }

    #[test]
    fn a_right_proof_is_accepted() {
        let (state, _) = first(b"n,,n=,r=abc").unwrap();
        let verified = state.client_final(&client_final()).unwrap();
        assert!(verified.server_final.starts_with(b"v="));
        assert!(verified.keys.fits(b"0123456789abcdef", 1));
    }

    #[test]
    fn what_postgresql_accepts_in_client_first() {
        for message in
            [&b"n,,n=,r=x"[..], b"y,,n=,r=x", b"n,,n=*,r=x", b"n,,n=\xe9\xff,r=x", b"n,,n=,r=x,e=extension,f="]
        {
            assert!(first(message).is_ok(), "{message:?}");
        }
    }

    #[test]
    fn what_postgresql_refuses_in_client_first() {
        use ScramError as E;
        let malformed = |message: &[u8]| {
            assert!(matches!(first(message), Err(E::Malformed(_))), "{message:?}");
        };
        for message in [
            &b""[..],
            b"n",
            b"n,",
            b"n,,",
            b"n,,n=",
            b"n,,r=x",
            b"n,,n=,x=y",
            b"n,,n=,r=x,",
            b"n,x,n=,r=x",
            b"N,,n=,r=x",
            b"x",
            b"nn,,n=,r=x",
            b"n,,n=,r=x\0",
            b"n,,n=,r=x,1=",
            b"p=tls-server-end-point,,n=,r=x",
        ] {
            malformed(message);
        }
        let long = [b"n,,n=,r=", &[b'x'; MAX_NONCE + 1][..]].concat();
        for (message, error) in [
            (&b"n,a=other,n=,r=x"[..], E::AuthorizationIdentity),
            (b"n,,m=x,n=,r=x", E::MandatoryExtension),
            (b"n,,n=,r=", E::InvalidNonce),
            (b"n,,n=,r=\x7f", E::InvalidNonce),
            (&long, E::InvalidNonce),
        ] {
            assert_eq!(first(message).unwrap_err(), error, "{message:?}");
        }
    }

    #[test]
    fn channel_binding_flags_inside_tls() {
        use ScramError as E;
        let first = |mechanism, message: &[u8]| {
            exchange(tls()).client_first(mechanism, message).map(|(state, _)| state.binding_data)
        };
        assert_eq!(first(Mechanism::Scram, b"n,,n=,r=x"), Ok("biws".into()));
        assert_eq!(first(Mechanism::Scram, b"y,,n=,r=x"), Err(E::ChannelBindingNegotiation));
        let bound = first(Mechanism::ScramPlus, b"p=tls-server-end-point,,n=,r=x").unwrap();
        assert_eq!(STANDARD.decode(bound).unwrap(), b"p=tls-server-end-point,,\x01\x02\x03");
        assert_eq!(first(Mechanism::ScramPlus, b"p=tls-unique,,n=,r=x"), Err(E::UnsupportedChannelBinding));
        assert!(matches!(first(Mechanism::ScramPlus, b"n,,n=,r=x"), Err(E::Malformed(_))));
    }

    #[test]
    fn only_what_is_offered_can_be_chosen() {
        let plain = exchange(ChannelBinding::None);
        assert_eq!(plain.mechanisms(), [MECHANISM]);
        assert_eq!(plain.choose(b"SCRAM-SHA-256"), Ok(Mechanism::Scram));
        for name in [&b""[..], b"SCRAM-SHA-256-PLUS", b"scram-sha-256", b"PLAIN"] {
            assert_eq!(plain.choose(name), Err(ScramError::InvalidMechanism));
        }
        let bound = exchange(tls());
        assert_eq!(bound.mechanisms(), [MECHANISM_PLUS, MECHANISM]);
        assert_eq!(bound.choose(b"SCRAM-SHA-256-PLUS"), Ok(Mechanism::ScramPlus));
    }

    #[test]
    fn every_byte_of_client_final_counts() {
        let right = client_final();
        for index in 0..right.len() {
            let (state, _) = first(b"n,,n=,r=abc").unwrap();
            assert!(state.client_final(&right[..index]).is_err(), "cut at {index}");
            let mut wrong = right.clone();
            wrong[index] ^= 1;
            let (state, _) = first(b"n,,n=,r=abc").unwrap();
            assert!(state.client_final(&wrong).is_err(), "changed at {index}");
        }
    }

    #[test]
    fn client_final_errors() {
        use ScramError as E;
        let right = String::from_utf8(client_final()).unwrap();
        let fails = |message: String| {
            let (state, _) = first(b"n,,n=,r=abc").unwrap();
            state.client_final(message.as_bytes()).unwrap_err()
        };
        assert_eq!(fails(right.replace("biws", "eSws")), E::ChannelBindingMismatch);
        assert_eq!(fails(right.replace("r=abc", "r=abd")), E::NonceMismatch);
        assert_eq!(fails(right.replace("r=abc", "r=xabc")), E::NonceMismatch);
        assert_eq!(fails(right.replace(",p=", ",x=1,p=")), E::WrongProof, "an extension is skipped, but signed");
        let short_proof = &right[..right.len() - 4];
        for garbage in [format!("{right},"), format!("{right},x=1"), format!("{right}\0"), short_proof.to_owned()] {
            assert!(matches!(fails(garbage), E::Malformed(_)));
        }
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(
            head in "(n,,|y,,|p=tls-server-end-point,,)?(n=,r=)?",
            tail: Vec<u8>,
            last in "(c=biws)?(,r=abc)?(,[a-z]=[a-zA-Z0-9+/=]{0,50}){0,3}",
            plus: bool,
        ) {
            let mechanism = if plus { Mechanism::ScramPlus } else { Mechanism::Scram };
            let message = [head.as_bytes(), &tail].concat();
            let _ = exchange(tls()).client_first(mechanism, &message);
            let (state, _) = first(b"n,,n=,r=abc").unwrap();
            prop_assert!(state.client_final(last.as_bytes()).is_err());
        }
    }
}
