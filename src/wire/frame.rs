//! Message boundaries: the only place that reads or writes a length.
//!
//! A message is a tag byte, then a 32-bit big-endian length that counts itself but not the tag, then the body.
//! Startup packets have no tag. Lengths are checked before anything is allocated for them.

/// Bytes of tag and length.
pub const HEADER_LEN: usize = 5;

/// PostgreSQL's own bound of a message, bytes with the length field: the body is built in one allocation of at most
/// `MaxAllocSize` (0x3fff_ffff), with a zero behind it.
pub const MAX_MESSAGE_LEN: usize = 0x3fff_fffe + 4;

/// PostgreSQL's bound of a startup packet (`MAX_STARTUP_PACKET_LENGTH`), bytes with the length field.
pub const MAX_STARTUP_LEN: usize = 10_000;

/// A length or a body that can't be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// The length field is below 4 or above the limit.
    #[error("invalid message length {len} of message type 0x{tag:02x}")]
    Length {
        /// Message type; 0 for a startup packet.
        tag: u8,
        /// What the length field said.
        len: u32,
    },
    /// A body ended before its fields did, or went on after them.
    #[error("malformed message of type 0x{0:02x}")]
    Body(u8),
}

/// Tag and body length of a message whose header has arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Message type.
    pub tag: u8,
    /// Bytes of the body (without tag and length).
    pub body_len: usize,
}

impl Header {
    /// Bytes of the whole message.
    #[must_use]
    pub const fn total_len(self) -> usize {
        HEADER_LEN + self.body_len
    }
}

/// Reads the header at the start of `buf`; `None` while fewer than five bytes are there.
///
/// # Errors
/// [`FrameError::Length`] when the length can't be.
pub fn peek(buf: &[u8]) -> Result<Option<Header>, FrameError> {
    let Some((&[tag, a, b, c, d], _)) = buf.split_first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes([a, b, c, d]);
    match (len as usize).checked_sub(4) {
        Some(body_len) if body_len + 4 <= MAX_MESSAGE_LEN => Ok(Some(Header { tag, body_len })),
        _ => Err(FrameError::Length { tag, len }),
    }
}

/// Length of the startup packet at the start of `buf`, with its length field; `None` while fewer than four
/// bytes are there.
///
/// # Errors
/// [`FrameError::Length`] below 8 or above [`MAX_STARTUP_LEN`].
pub fn peek_startup(buf: &[u8]) -> Result<Option<usize>, FrameError> {
    let Some((bytes, _)) = buf.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes(*bytes);
    match len as usize {
        n if (8..=MAX_STARTUP_LEN).contains(&n) => Ok(Some(n)),
        _ => Err(FrameError::Length { tag: 0, len }),
    }
}

/// A whole message at the start of `buf`: its header and body; `None` while it isn't all there.
///
/// # Errors
/// As [`peek`].
pub fn whole(buf: &[u8]) -> Result<Option<(Header, &[u8])>, FrameError> {
    let Some(header) = peek(buf)? else { return Ok(None) };
    Ok(buf.get(HEADER_LEN..header.total_len()).map(|body| (header, body)))
}

/// Appends one message to `out`; `body` writes the body.
pub fn message(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    untagged(out, body);
}

/// Appends a message without tag (the startup family).
pub fn untagged(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let len = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    if let Some(field) = out.get_mut(at..at + 4) {
        field.copy_from_slice(&len.to_be_bytes());
    }
}

/// Appends only a header, for a message whose body follows from elsewhere.
pub fn header(out: &mut Vec<u8>, tag: u8, body_len: usize) {
    out.push(tag);
    let len = u32::try_from(body_len + 4).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_be_bytes());
}

/// Appends a zero-terminated string. A zero byte inside would end it early, so it ends there.
pub fn put_cstr(out: &mut Vec<u8>, text: &[u8]) {
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    out.extend_from_slice(&text[..end]);
    out.push(0);
}

/// Reads the fields of one delimited body. Every method fails rather than read past the end.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    tag: u8,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields of a body of message type `tag`.
    #[must_use]
    pub const fn new(tag: u8, body: &'a [u8]) -> Self {
        Self { tag, rest: body }
    }

    /// What has not been read.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// A zero-terminated string, without the zero.
    ///
    /// # Errors
    /// [`FrameError::Body`] when there is no zero.
    pub fn cstr(&mut self) -> Result<&'a [u8], FrameError> {
        let end = memchr::memchr(0, self.rest).ok_or(FrameError::Body(self.tag))?;
        let (text, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        Ok(text)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`FrameError::Body`] at the end.
    pub fn u8(&mut self) -> Result<u8, FrameError> {
        let (&byte, rest) = self.rest.split_first().ok_or(FrameError::Body(self.tag))?;
        self.rest = rest;
        Ok(byte)
    }

    /// A 16-bit big-endian number.
    ///
    /// # Errors
    /// [`FrameError::Body`] when fewer than two bytes are left.
    pub fn u16(&mut self) -> Result<u16, FrameError> {
        let (bytes, rest) = self.rest.split_first_chunk::<2>().ok_or(FrameError::Body(self.tag))?;
        self.rest = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    /// A 32-bit big-endian number.
    ///
    /// # Errors
    /// [`FrameError::Body`] when fewer than four bytes are left.
    pub fn u32(&mut self) -> Result<u32, FrameError> {
        let (bytes, rest) = self.rest.split_first_chunk::<4>().ok_or(FrameError::Body(self.tag))?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    /// A column's value with its length in front; `None` for NULL.
    ///
    /// # Errors
    /// [`FrameError::Body`] when the value isn't all there.
    pub fn value(&mut self) -> Result<Option<&'a [u8]>, FrameError> {
        let len = self.u32()?;
        if len == u32::MAX {
            return Ok(None);
        }
        let (value, rest) = self.rest.split_at_checked(len as usize).ok_or(FrameError::Body(self.tag))?;
        self.rest = rest;
        Ok(Some(value))
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// [`FrameError::Body`] otherwise.
    pub const fn end(self) -> Result<(), FrameError> {
        if self.rest.is_empty() { Ok(()) } else { Err(FrameError::Body(self.tag)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn truncation_at_every_byte_asks_for_more() {
        let mut buf = Vec::new();
        message(&mut buf, b'Q', |b| put_cstr(b, b"select 1"));
        for end in 0..buf.len() {
            assert_eq!(whole(&buf[..end]), Ok(None), "at {end}");
        }
        let (header, body) = whole(&buf).unwrap().unwrap();
        assert_eq!((header.tag, header.total_len(), body), (b'Q', buf.len(), &b"select 1\0"[..]));
    }

    #[test]
    fn impossible_lengths_are_errors() {
        for len in [0u32, 3, 0x4000_0003, 0x7fff_ffff, u32::MAX] {
            let mut buf = vec![b'Q'];
            buf.extend_from_slice(&len.to_be_bytes());
            assert_eq!(peek(&buf), Err(FrameError::Length { tag: b'Q', len }));
        }
        let longest = [&[b'D'][..], &0x4000_0002u32.to_be_bytes()].concat();
        assert_eq!(peek(&longest), Ok(Some(Header { tag: b'D', body_len: 0x3fff_fffe })));
        for len in [0u32, 7, 10_001, u32::MAX] {
            assert_eq!(peek_startup(&len.to_be_bytes()), Err(FrameError::Length { tag: 0, len }));
        }
    }

    proptest! {
        #[test]
        fn round_trip(tag: u8, body: Vec<u8>, after: Vec<u8>) {
            let mut buf = Vec::new();
            message(&mut buf, tag, |b| b.extend_from_slice(&body));
            let end = buf.len();
            buf.extend_from_slice(&after);
            let (header, got) = whole(&buf).unwrap().unwrap();
            prop_assert_eq!((header.tag, header.total_len(), got), (tag, end, &body[..]));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = whole(&bytes);
            let _ = peek_startup(&bytes);
            let mut fields = Fields::new(0, &bytes);
            let _ = (fields.cstr(), fields.u32(), fields.u8(), fields.end());
        }
    }
}
