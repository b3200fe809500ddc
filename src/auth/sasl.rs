//! The bodies of the SASL messages: mechanism lists, SASLInitialResponse, SASLResponse.
//!
//! Bodies come without type and frame length (the frame reader has those); the one length inside a body, that of
//! the initial response, must agree with the body exactly (CVE-2026-6664).
//!
//! See <https://www.postgresql.org/docs/current/protocol-message-formats.html>.

/// Longest body of a SASL message from a client, bytes; PostgreSQL's bound.
pub const MAX_CLIENT_MESSAGE: usize = 1024;
/// Longest body of an authentication message from a server, bytes; libpq's bound.
pub const MAX_SERVER_MESSAGE: usize = 2000;

/// Why a body isn't what it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SaslError {
    /// Longer than the bound.
    #[error("SASL message too long")]
    TooLong,
    /// A name or the list isn't ended by its NUL, or something follows the end.
    #[error("invalid SASL mechanism list")]
    Mechanisms,
    /// The mechanism's name isn't ended, or the length of the response disagrees with the body.
    #[error("invalid SASL initial response")]
    InitialResponse,
}

/// What a client opens an exchange with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InitialResponse<'a> {
    /// Name of the mechanism that it chose.
    pub mechanism: &'a [u8],
    /// The mechanism's first message; `None` if it wants an empty challenge first.
    pub response: Option<&'a [u8]>,
}

impl<'a> InitialResponse<'a> {
    /// Reads the body of a SASLInitialResponse.
    ///
    /// # Errors
    /// [`SaslError::TooLong`] and [`SaslError::InitialResponse`].
    pub fn parse(body: &'a [u8]) -> Result<Self, SaslError> {
        let body = parse_response(body)?;
        let end = memchr::memchr(0, body).ok_or(SaslError::InitialResponse)?;
        let (mechanism, rest) = (&body[..end], &body[end + 1..]);
        let (length, response) = rest.split_first_chunk::<4>().ok_or(SaslError::InitialResponse)?;
        let response = match i32::from_be_bytes(*length) {
            -1 if response.is_empty() => None,
            length if usize::try_from(length) == Ok(response.len()) => Some(response),
            _ => return Err(SaslError::InitialResponse),
        };
        Ok(Self { mechanism, response })
    }

    /// The body that [`InitialResponse::parse`] reads.
    #[must_use]
    pub fn encode(mechanism: &str, response: &[u8]) -> Vec<u8> {
        // What this side sends is a few hundred bytes.
        let length = i32::try_from(response.len()).unwrap_or(i32::MAX);
        [mechanism.as_bytes(), b"\0", &length.to_be_bytes(), response].concat()
    }
}

/// Reads the body of a SASLResponse: all of it is the mechanism's, within the bound.
///
/// # Errors
/// [`SaslError::TooLong`].
pub const fn parse_response(body: &[u8]) -> Result<&[u8], SaslError> {
    if body.len() > MAX_CLIENT_MESSAGE {
        return Err(SaslError::TooLong);
    }
    Ok(body)
}

/// The mechanisms that a server offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mechanisms<'a>(&'a [u8]);

impl<'a> Mechanisms<'a> {
    /// Reads the rest of an AuthenticationSASL body, after its code: names ended by NUL, and a NUL.
    ///
    /// # Errors
    /// [`SaslError::TooLong`] and [`SaslError::Mechanisms`].
    pub fn parse(body: &'a [u8]) -> Result<Self, SaslError> {
        if body.len() > MAX_SERVER_MESSAGE {
            return Err(SaslError::TooLong);
        }
        match body {
            [0] => Ok(Self(b"")),
            [names @ .., 0, 0] if !starts_or_has_empty(names) => Ok(Self(names)),
            _ => Err(SaslError::Mechanisms),
        }
    }

    /// Whether `mechanism` is among them.
    #[must_use]
    pub fn offers(&self, mechanism: &str) -> bool {
        self.names().any(|name| name == mechanism.as_bytes())
    }

    /// Their names, in the server's order; unchecked bytes.
    pub fn names(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.0.split(|byte| *byte == 0).filter(|name| !name.is_empty())
    }

    /// The body that [`Mechanisms::parse`] reads.
    #[must_use]
    pub fn encode(names: &[&str]) -> Vec<u8> {
        let mut body = Vec::new();
        for name in names {
            body.extend_from_slice(name.as_bytes());
            body.push(0);
        }
        body.push(0);
        body
    }
}

/// An empty name would end the list before its end.
fn starts_or_has_empty(names: &[u8]) -> bool {
    names.split(|byte| *byte == 0).any(<[u8]>::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn initial(length: u32, response: &[u8]) -> Vec<u8> {
        [b"X\0", &length.to_be_bytes()[..], response].concat()
    }

    #[test]
    fn initial_response_lengths() {
        let parse = |length, response: &[u8]| {
            let body = initial(length, response);
            let parsed = InitialResponse::parse(&body).ok()?;
            assert_eq!(parsed.mechanism, b"X");
            Some(parsed.response.map(<[u8]>::to_vec))
        };
        assert_eq!(parse(u32::MAX, b""), Some(None));
        assert_eq!(parse(0, b""), Some(Some(vec![])));
        assert_eq!(parse(3, b"abc"), Some(Some(b"abc".to_vec())));
        for (length, response) in [
            (u32::MAX, &b"a"[..]),
            (u32::MAX - 1, b""),
            (0x8000_0000, b""),
            (0x7fff_ffff, b"abc"),
            (0, b"a"),
            (1, b""),
            (2, b"abc"),
            (4, b"abc"),
        ] {
            assert_eq!(parse(length, response), None, "{length} {response:?}");
        }
    }

    #[test]
    fn initial_response_cut_anywhere() {
        let body = InitialResponse::encode("SCRAM-SHA-256", b"n,,n=,r=x");
        assert!(InitialResponse::parse(&body).is_ok());
        for end in 0..body.len() {
            let parsed = InitialResponse::parse(&body[..end]);
            assert_eq!(parsed, Err(SaslError::InitialResponse), "{end}");
        }
    }

    #[test]
    fn messages_are_bounded() {
        assert!(parse_response(&[b'x'; MAX_CLIENT_MESSAGE]).is_ok());
        let long = [b'x'; MAX_CLIENT_MESSAGE + 1];
        assert_eq!(parse_response(&long), Err(SaslError::TooLong));
        assert_eq!(InitialResponse::parse(&long), Err(SaslError::TooLong));
        let long = [b'x'; MAX_SERVER_MESSAGE + 1];
        assert_eq!(Mechanisms::parse(&long), Err(SaslError::TooLong));
    }

    #[test]
    fn mechanism_lists() {
        let body = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
        let list = Mechanisms::parse(body).unwrap();
        assert!(list.offers("SCRAM-SHA-256") && list.offers("SCRAM-SHA-256-PLUS"));
        assert!(!list.offers("SCRAM") && !list.offers(""));
        assert_eq!(list.names().count(), 2);
        assert_eq!(Mechanisms::parse(b"\0").unwrap().names().count(), 0);
        for end in 0..body.len() {
            assert!(Mechanisms::parse(&body[..end]).is_err(), "{end}");
        }
        for bad in [&b"A\0\0B\0\0"[..], b"\0A\0\0", b"A\0\0\0", b"\0\0", b"A\0\0x"] {
            assert_eq!(Mechanisms::parse(bad), Err(SaslError::Mechanisms), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(name in "[A-Z0-9-]{0,20}", response in proptest::collection::vec(any::<u8>(), 0..900)) {
            let body = InitialResponse::encode(&name, &response);
            let parsed = InitialResponse::parse(&body).unwrap();
            prop_assert_eq!(parsed.mechanism, name.as_bytes());
            prop_assert_eq!(parsed.response, Some(&response[..]));
        }

        #[test]
        fn lists_are_written_as_they_are_read(body in proptest::collection::vec(prop_oneof![Just(0u8), 65..70u8], 0..12)) {
            if let Ok(list) = Mechanisms::parse(&body) {
                let names: Vec<_> = list.names().map(|name| std::str::from_utf8(name).unwrap()).collect();
                prop_assert_eq!(Mechanisms::encode(&names), body);
            }
        }

        #[test]
        fn no_body_makes_it_panic(body: Vec<u8>) {
            let _ = InitialResponse::parse(&body);
            let _ = Mechanisms::parse(&body);
        }
    }
}
