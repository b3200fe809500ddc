//! The text form shared by all SCRAM messages: comma-separated `name=value` attributes.
//!
//! Works on bytes, since user names in other encodings may stand in a client-first message and must reach the
//! signed text unchanged. Never allocates and never looks beyond the slice it was given.

/// Why a message isn't SCRAM, in the words of PostgreSQL's error detail.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// What of a message hasn't been read yet.
#[derive(Clone, Copy)]
pub(super) struct Attributes<'a> {
    /// `None` after the last attribute; `Some(b"")` where one should stand.
    rest: Option<&'a [u8]>,
}

impl<'a> Attributes<'a> {
    /// Starts at the first attribute of `message`.
    pub(super) const fn new(message: &'a [u8]) -> Self {
        Self { rest: Some(message) }
    }

    /// Whether all attributes have been read.
    pub(super) const fn is_done(&self) -> bool {
        self.rest.is_none()
    }

    /// Bytes not read yet, without the comma before them.
    pub(super) fn remaining(&self) -> usize {
        self.rest.map_or(0, <[u8]>::len)
    }

    /// The name of the next attribute.
    pub(super) fn peek(&self) -> Option<u8> {
        self.rest?.first().copied()
    }

    /// The value of the next attribute, which must be called `name`.
    pub(super) fn expect(&mut self, name: u8) -> Result<&'a [u8], Malformed> {
        match self.next()? {
            (found, value) if found == name => Ok(value),
            _ => Err(Malformed("Another attribute was expected.")),
        }
    }

    /// The next attribute, whatever its name: one ASCII letter.
    pub(super) fn next(&mut self) -> Result<(u8, &'a [u8]), Malformed> {
        let rest = self.rest.unwrap_or_default();
        let (name, value) = match rest {
            [] => {
                return Err(Malformed("Attribute expected, but found end of the message."));
            }
            [name, b'=', value @ ..] if name.is_ascii_alphabetic() => (*name, value),
            [name, ..] if name.is_ascii_alphabetic() => {
                return Err(Malformed("Character \"=\" expected after an attribute."));
            }
            _ => {
                return Err(Malformed("Attribute expected, but found another character."));
            }
        };
        let Some(comma) = memchr::memchr(b',', value) else {
            self.rest = None;
            return Ok((name, value));
        };
        self.rest = Some(&value[comma + 1..]);
        Ok((name, &value[..comma]))
    }
}

/// Whether `nonce` has at least one character and only ones that RFC 5802 allows: visible ASCII but the comma.
pub(super) fn is_nonce(nonce: &[u8]) -> bool {
    !nonce.is_empty() && nonce.iter().all(|byte| (0x21..=0x7e).contains(byte) && *byte != b',')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_attributes_in_order() {
        let mut attributes = Attributes::new(b"r=abc,s=QQ==,i=4096");
        assert_eq!(attributes.expect(b'r'), Ok(&b"abc"[..]));
        assert_eq!(attributes.peek(), Some(b's'));
        assert_eq!(attributes.expect(b's'), Ok(&b"QQ=="[..]));
        assert_eq!(attributes.remaining(), 6);
        assert!(!attributes.is_done());
        assert_eq!(attributes.next(), Ok((b'i', &b"4096"[..])));
        assert!(attributes.is_done());
        assert!(attributes.next().is_err());
    }

    #[test]
    fn refuses_what_is_no_attribute() {
        for text in ["", ",", "=", "a", "ab=", "1=x", "a,b=c", "\u{e9}=1"] {
            assert!(Attributes::new(text.as_bytes()).next().is_err(), "{text:?}");
        }
        let mut trailing_comma = Attributes::new(b"a=b,");
        trailing_comma.next().unwrap();
        assert!(!trailing_comma.is_done());
        assert!(trailing_comma.next().is_err());
    }

    #[test]
    fn nonce_characters() {
        assert!(is_nonce(b"!~azAZ09+/="));
        for bad in [&b""[..], b"a,b", b"a b", b"a\x7f", b"a\0", b"\xc3\xa9"] {
            assert!(!is_nonce(bad), "{bad:?}");
        }
    }
}
