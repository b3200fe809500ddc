//! The packets before authentication: StartupMessage, SSLRequest, GSSENCRequest, CancelRequest.

use super::frame::{self, Fields, FrameError};

const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
/// Protocol 3.0.
pub const PROTOCOL_3_0: u32 = 3 << 16;
/// Protocol 3.2: cancel keys of up to 256 bytes.
pub const PROTOCOL_3_2: u32 = PROTOCOL_3_0 | 2;

/// One packet of the startup family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StartupPacket {
    /// Asks for TLS.
    Ssl,
    /// Asks for GSSAPI encryption.
    GssEnc,
    /// Cancels another connection's query.
    Cancel(CancelKey),
    /// Opens a session.
    Startup(Startup),
    /// A protocol that isn't 3.x; the number as sent.
    UnsupportedProtocol(u32),
}

/// What identifies a session to a cancel request. The secret has 4 bytes in protocol 3.0, up to 256 in 3.2.
#[derive(Clone, PartialEq, Eq)]
pub struct CancelKey {
    /// "Process ID" of BackendKeyData.
    pub pid: u32,
    /// The secret, 4 to 256 bytes.
    pub secret: Secret,
}

/// The secret of a [`CancelKey`]. Every client has one for as long as it is connected, most of them a short one.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// Of 4 bytes.
    Short([u8; 4]),
    /// Of another length.
    Long(Box<[u8]>),
}

impl From<&[u8]> for Secret {
    fn from(bytes: &[u8]) -> Self {
        bytes.try_into().map_or_else(|_| Self::Long(bytes.into()), Self::Short)
    }
}

impl std::ops::Deref for Secret {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Short(bytes) => bytes,
            Self::Long(bytes) => bytes,
        }
    }
}

impl std::ops::DerefMut for Secret {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Short(bytes) => bytes,
            Self::Long(bytes) => bytes,
        }
    }
}

impl std::fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CancelKey {{ pid: {}, secret: *** }}", self.pid)
    }
}

/// A StartupMessage: version and parameters in the order sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Startup {
    /// Major << 16 | minor.
    pub protocol: u32,
    /// Name and value, UTF-8 as PostgreSQL expects of clients before an encoding is known.
    pub parameters: Vec<(String, String)>,
}

impl Startup {
    /// The value of a parameter; the last one wins, as in PostgreSQL.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Protocol extensions asked for (`_pq_.…`), none of which Carpool knows.
    pub fn extensions(&self) -> impl Iterator<Item = &str> {
        self.parameters.iter().map(|(n, _)| n.as_str()).filter(|n| n.starts_with("_pq_."))
    }
}

/// Reads the packet whose length [`frame::peek_startup`] has found; `packet` is exactly that long.
///
/// # Errors
/// [`FrameError::Body`] for fields that end early, go on too long, or aren't UTF-8.
pub fn parse(packet: &[u8]) -> Result<StartupPacket, FrameError> {
    let mut fields = Fields::new(0, packet.get(4..).ok_or(FrameError::Body(0))?);
    match fields.u32()? {
        SSL_REQUEST => fields.end().map(|()| StartupPacket::Ssl),
        GSSENC_REQUEST => fields.end().map(|()| StartupPacket::GssEnc),
        CANCEL_REQUEST => {
            let pid = fields.u32()?;
            match fields.rest().len() {
                4..=256 => Ok(StartupPacket::Cancel(CancelKey { pid, secret: fields.rest().into() })),
                _ => Err(FrameError::Body(0)),
            }
        }
        protocol if protocol >> 16 == 3 => {
            parameters(fields).map(|parameters| StartupPacket::Startup(Startup { protocol, parameters }))
        }
        protocol => Ok(StartupPacket::UnsupportedProtocol(protocol)),
    }
}

fn parameters(mut fields: Fields<'_>) -> Result<Vec<(String, String)>, FrameError> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| FrameError::Body(0));
    let mut parameters = Vec::new();
    loop {
        let name = fields.cstr()?;
        if name.is_empty() {
            return fields.end().map(|()| parameters);
        }
        parameters.push((text(name)?, text(fields.cstr()?)?));
    }
}

/// Appends a StartupMessage.
pub fn put_startup<'a>(out: &mut Vec<u8>, protocol: u32, parameters: impl IntoIterator<Item = (&'a str, &'a str)>) {
    frame::untagged(out, |b| {
        b.extend_from_slice(&protocol.to_be_bytes());
        for (name, value) in parameters {
            frame::put_cstr(b, name.as_bytes());
            frame::put_cstr(b, value.as_bytes());
        }
        b.push(0);
    });
}

/// Appends an SSLRequest.
pub fn put_ssl_request(out: &mut Vec<u8>) {
    frame::untagged(out, |b| b.extend_from_slice(&SSL_REQUEST.to_be_bytes()));
}

/// Appends a CancelRequest.
pub fn put_cancel(out: &mut Vec<u8>, key: &CancelKey) {
    frame::untagged(out, |b| {
        b.extend_from_slice(&CANCEL_REQUEST.to_be_bytes());
        b.extend_from_slice(&key.pid.to_be_bytes());
        b.extend_from_slice(&key.secret);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(bytes: &[u8]) -> Result<StartupPacket, FrameError> {
        let len = frame::peek_startup(bytes).unwrap().unwrap();
        assert_eq!(len, bytes.len());
        parse(bytes)
    }

    #[test]
    fn startup_round_trip_and_truncation() {
        let mut bytes = Vec::new();
        put_startup(&mut bytes, PROTOCOL_3_2, [("user", "alice"), ("database", "app"), ("user", "bob")]);
        let StartupPacket::Startup(startup) = packet(&bytes).unwrap() else { panic!() };
        assert_eq!(startup.protocol, PROTOCOL_3_2);
        assert_eq!(startup.parameter("user"), Some("bob"));
        for end in 8..bytes.len() {
            assert!(parse(&bytes[..end]).is_err(), "at {end}");
        }
    }

    #[test]
    fn cancel_round_trip_with_any_key_length() {
        for len in [4usize, 32, 256] {
            let key = CancelKey { pid: 77, secret: (&*vec![7; len]).into() };
            let mut bytes = Vec::new();
            put_cancel(&mut bytes, &key);
            assert_eq!(packet(&bytes), Ok(StartupPacket::Cancel(key)));
        }
        for len in [0usize, 3, 257] {
            let mut bytes = Vec::new();
            put_cancel(&mut bytes, &CancelKey { pid: 77, secret: (&*vec![7; len]).into() });
            assert!(packet(&bytes).is_err(), "length {len}");
        }
    }

    #[test]
    fn requests_with_trailing_bytes_are_malformed() {
        let mut bytes = Vec::new();
        frame::untagged(&mut bytes, |b| b.extend_from_slice(&SSL_REQUEST.to_be_bytes()));
        assert_eq!(packet(&bytes), Ok(StartupPacket::Ssl));
        let mut bytes = Vec::new();
        frame::untagged(&mut bytes, |b| {
            b.extend_from_slice(&SSL_REQUEST.to_be_bytes());
            b.push(0);
        });
        assert!(packet(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
