//! A client that speaks the protocol by hand: sends any bytes, and shows every byte that comes back.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::PATIENCE;

/// One message from the server side.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Message type.
    pub tag: u8,
    /// What follows the length.
    pub body: Vec<u8>,
}

impl Message {
    /// A field of an ErrorResponse or NoticeResponse.
    pub fn field(&self, code: char) -> Option<String> {
        let fields = self.body.split(|&b| b == 0);
        fields.into_iter().find(|f| f.first() == Some(&(code as u8))).map(|f| String::from_utf8_lossy(&f[1..]).into())
    }

    /// The columns of a DataRow as text.
    pub fn columns(&self) -> Vec<Option<String>> {
        assert_eq!(self.tag, b'D', "{self:?} is no row");
        let mut rest = &self.body[2..];
        let mut columns = Vec::new();
        while !rest.is_empty() {
            let len = i32::from_be_bytes(rest[..4].try_into().unwrap());
            rest = &rest[4..];
            match usize::try_from(len) {
                Ok(len) => {
                    columns.push(Some(String::from_utf8_lossy(&rest[..len]).into()));
                    rest = &rest[len..];
                }
                Err(_) => columns.push(None),
            }
        }
        columns
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", char::from(self.tag), self.body.escape_ascii())
    }
}

/// See the module. Reads time out after [`PATIENCE`].
pub struct Raw {
    stream: TcpStream,
    buf: Vec<u8>,
    /// From BackendKeyData: process number and secret.
    pub key: Vec<u8>,
    /// ParameterStatus messages of the login.
    pub parameters: Vec<(String, String)>,
}

/// One message: type and body.
pub fn message(tag: char, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag as u8];
    out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// The kinds of messages, in order.
pub fn tags(messages: &[Message]) -> String {
    messages.iter().map(|message| char::from(message.tag)).collect()
}

/// A simple query.
pub fn query(sql: &str) -> Vec<u8> {
    message('Q', &[sql.as_bytes(), b"\0"].concat())
}

/// Parse without parameter types.
pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    message('P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat())
}

/// Bind with text parameters and text results.
pub fn bind(portal: &str, name: &str, parameters: &[&str]) -> Vec<u8> {
    let mut body = [portal.as_bytes(), b"\0", name.as_bytes(), b"\0\0\0"].concat();
    body.extend_from_slice(&u16::try_from(parameters.len()).unwrap().to_be_bytes());
    for parameter in parameters {
        body.extend_from_slice(&u32::try_from(parameter.len()).unwrap().to_be_bytes());
        body.extend_from_slice(parameter.as_bytes());
    }
    body.extend_from_slice(b"\0\0");
    message('B', &body)
}

/// Describe; `what` is 'S' or 'P'.
pub fn describe(what: char, name: &str) -> Vec<u8> {
    message('D', &[&[what as u8], name.as_bytes(), b"\0"].concat())
}

/// Close; `what` is 'S' or 'P'.
pub fn close(what: char, name: &str) -> Vec<u8> {
    message('C', &[&[what as u8], name.as_bytes(), b"\0"].concat())
}

/// Execute, at most `rows` rows (0: all).
pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message('E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()].concat())
}

/// Sync.
pub fn sync() -> Vec<u8> {
    message('S', b"")
}

/// Flush.
pub fn flush() -> Vec<u8> {
    message('H', b"")
}

/// A StartupMessage of this protocol version.
pub fn startup(protocol: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = protocol.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend_from_slice(&[name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    body.push(0);
    let mut out = u32::try_from(body.len() + 4).unwrap().to_be_bytes().to_vec();
    out.extend_from_slice(&body);
    out
}

/// Protocol 3.0.
pub const V3_0: u32 = 3 << 16;

impl Raw {
    /// A connection on which nothing was sent.
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, buf: Vec::new(), key: Vec::new(), parameters: Vec::new() }
    }

    /// Logged in without a password.
    pub fn login(port: u16, user: &str, database: &str) -> Self {
        Self::login_with(port, &[("user", user), ("database", database)])
    }

    /// Logged in without a password, with these startup parameters.
    pub fn login_with(port: u16, parameters: &[(&str, &str)]) -> Self {
        let mut raw = Self::connect(port);
        raw.send(&startup(V3_0, parameters));
        let refused = raw.finish_login();
        assert!(refused.is_none(), "login refused: {refused:?}");
        raw
    }

    /// Reads up to the first ReadyForQuery; gives the error if the login was refused.
    pub fn finish_login(&mut self) -> Option<Message> {
        loop {
            let message = self.read();
            match message.tag {
                b'R' => assert_eq!(message.body, [0; 4], "a password is wanted"),
                b'K' => self.key = message.body,
                b'S' => {
                    let text = String::from_utf8(message.body).unwrap();
                    let mut parts = text.split('\0');
                    self.parameters.push((parts.next().unwrap().into(), parts.next().unwrap().into()));
                }
                b'Z' => return None,
                b'E' => return Some(message),
                b'N' | b'v' => {}
                _ => panic!("{message:?} during login"),
            }
        }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends several messages in one write.
    pub fn send_all(&mut self, messages: &[Vec<u8>]) {
        self.send(&messages.concat());
    }

    /// The next message.
    ///
    /// # Panics
    /// When none comes, or the connection ends.
    pub fn read(&mut self) -> Message {
        self.try_read().unwrap_or_else(|e| panic!("no message: {e}"))
    }

    /// The next message, or why there is none.
    pub fn try_read(&mut self) -> io::Result<Message> {
        loop {
            if let Some((&[tag, a, b, c, d], rest)) = self.buf.split_first_chunk::<5>() {
                let len = u32::from_be_bytes([a, b, c, d]) as usize - 4;
                if rest.len() >= len {
                    let body = rest[..len].to_vec();
                    self.buf.drain(..len + 5);
                    return Ok(Message { tag, body });
                }
            }
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.buf.extend_from_slice(&chunk[..n]),
                // A signal to the whole process; with a time limit on the socket the system doesn't take it up again.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// All messages up to and with the next ReadyForQuery.
    pub fn until_ready(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            messages.push(self.read());
            if messages.last().is_some_and(|m| m.tag == b'Z') {
                return messages;
            }
        }
    }

    /// Sends bytes and gives all messages up to the next ReadyForQuery, or why the connection has ended before.
    ///
    /// # Panics
    /// When there is neither.
    pub fn exchange(&mut self, bytes: &[u8]) -> io::Result<Vec<Message>> {
        let mut messages = Vec::new();
        self.stream.write_all(bytes)?;
        while messages.last().is_none_or(|m: &Message| m.tag != b'Z') {
            let message = self.try_read();
            assert!(!message.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock), "got only {messages:?}");
            messages.push(message?);
        }
        Ok(messages)
    }

    /// Passes over bytes, the rest of a bulk message say, up to a ReadyForQuery outside transactions.
    pub fn until_ready_after_bulk(&mut self) {
        let end = *b"Z\0\0\0\x05I";
        let mut last = std::mem::take(&mut self.buf);
        while !last.ends_with(&end) {
            let mut byte = [0; 1024];
            let n = self.stream.read(&mut byte).unwrap();
            assert!(n > 0, "closed");
            last.extend_from_slice(&byte[..n]);
        }
    }

    /// Runs a simple query and gives all replies.
    pub fn query(&mut self, sql: &str) -> Vec<Message> {
        self.send(&query(sql));
        self.until_ready()
    }

    /// Runs a simple query that must not fail; gives the first column of the first row.
    pub fn value(&mut self, sql: &str) -> String {
        let replies = self.query(sql);
        if let Some(error) = replies.iter().find(|m| m.tag == b'E') {
            panic!("{sql}: {error:?}");
        }
        let row = replies.iter().find(|m| m.tag == b'D').unwrap_or_else(|| panic!("{sql}: no row in {replies:?}"));
        row.columns().swap_remove(0).unwrap_or_default()
    }

    /// Runs a simple query that must fail; gives the SQLSTATE.
    pub fn error(&mut self, sql: &str) -> String {
        let replies = self.query(sql);
        let error = replies.iter().find(|m| m.tag == b'E').unwrap_or_else(|| panic!("{sql} doesn't fail: {replies:?}"));
        error.field('C').unwrap()
    }

    /// Reads on until the connection ends; gives the messages before.
    pub fn until_closed(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            match self.try_read() {
                Ok(message) => messages.push(message),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => panic!("not closed; got {messages:?}"),
                Err(_) => return messages,
            }
        }
    }

    /// Sends a cancel request for `key` on a connection of its own and waits until it is hung up.
    pub fn cancel(port: u16, key: &[u8]) {
        let mut raw = Self::connect(port);
        let mut packet = u32::try_from(key.len() + 8).unwrap().to_be_bytes().to_vec();
        packet.extend_from_slice(&80_877_102u32.to_be_bytes());
        packet.extend_from_slice(key);
        raw.send(&packet);
        raw.until_closed();
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}
