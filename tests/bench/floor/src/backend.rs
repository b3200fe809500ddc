//! Answers to all queries: one row of one column.

use std::io::{self, Write};

use mio::net::TcpStream;
use mio::{Interest, Poll, Token};

use super::{Moved, Service, moved, read};

const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

#[derive(Default)]
pub struct Backend {
    sessions: Vec<Option<Session>>,
}

struct Session {
    stream: TcpStream,
    started: bool,
    /// What has come of a message that isn't whole.
    unread: Vec<u8>,
    /// What its socket hasn't taken yet.
    pending: Vec<u8>,
}

/// A session is over.
struct Over;

impl Session {
    fn turn(&mut self, number: usize, chunk: &mut [u8]) -> Result<(), Over> {
        self.flush()?;
        loop {
            let n = match read(&mut self.stream, chunk) {
                Moved::Bytes(n) => n,
                Moved::Later => return Ok(()),
                Moved::Over => return Err(Over),
            };
            let mut input = std::mem::take(&mut self.unread);
            input.extend_from_slice(&chunk[..n]);
            let taken = self.take(number, &input)?;
            input.drain(..taken);
            self.unread = input;
            self.flush()?;
            if n < chunk.len() {
                return Ok(());
            }
        }
    }

    fn flush(&mut self) -> Result<(), Over> {
        let mut sent = 0;
        while sent < self.pending.len() {
            match moved(self.stream.write(&self.pending[sent..])) {
                Moved::Bytes(n) => sent += n,
                Moved::Later => break,
                Moved::Over => return Err(Over),
            }
        }
        self.pending.drain(..sent);
        Ok(())
    }

    /// Answers the whole messages in `input`; gives where they end.
    fn take(&mut self, number: usize, input: &[u8]) -> Result<usize, Over> {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            let head = usize::from(self.started);
            let Some(length) = rest.get(head..head + 4) else { return Ok(at) };
            let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
            let Some(body) = rest.get(head + 4..head + length) else { return Ok(at) };
            match self.started {
                true => self.answer(rest[0], body)?,
                false => self.greet(number, body)?,
            }
            at += head + length;
        }
    }

    fn greet(&mut self, number: usize, body: &[u8]) -> Result<(), Over> {
        let code = body.get(..4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        match code {
            SSL_REQUEST | GSSENC_REQUEST => self.pending.push(b'N'),
            CANCEL_REQUEST => return Err(Over),
            _ => {
                self.started = true;
                self.put(b'R', &0u32.to_be_bytes());
                // As everybody wants it here, so that a pooler has nothing to set.
                for (name, value) in [
                    ("server_version", "17.0"),
                    ("server_encoding", "UTF8"),
                    ("client_encoding", "UTF8"),
                    ("application_name", "pgbench"),
                    ("DateStyle", "ISO, MDY"),
                    ("IntervalStyle", "postgres"),
                    ("TimeZone", "Etc/UTC"),
                    ("integer_datetimes", "on"),
                    ("standard_conforming_strings", "on"),
                    ("in_hot_standby", "off"),
                    ("default_transaction_read_only", "off"),
                    ("is_superuser", "off"),
                    ("session_authorization", "bench"),
                    ("scram_iterations", "4096"),
                    ("search_path", "\"$user\", public"),
                ] {
                    self.put(b'S', format!("{name}\0{value}\0").as_bytes());
                }
                let number = number as u32 + 1;
                self.put(b'K', &[number.to_be_bytes(), 1234u32.to_be_bytes()].concat());
                self.put(b'Z', b"I");
            }
        }
        Ok(())
    }

    fn answer(&mut self, tag: u8, body: &[u8]) -> Result<(), Over> {
        const ROW: &[u8] = b"\0\x01\0\0\0\x011";
        const DESCRIPTION: &[u8] = b"\0\x01?column?\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0";
        match tag {
            b'Q' if body.first().is_some_and(|first| first.eq_ignore_ascii_case(&b's')) && !is_set(body) => {
                self.put(b'T', DESCRIPTION);
                self.put(b'D', ROW);
                self.put(b'C', b"SELECT 1\0");
                self.put(b'Z', b"I");
            }
            b'Q' => {
                self.put(b'C', b"SET\0");
                self.put(b'Z', b"I");
            }
            b'P' => self.put(b'1', b""),
            b'B' => self.put(b'2', b""),
            b'C' => self.put(b'3', b""),
            b'D' => {
                if body.first() == Some(&b'S') {
                    self.put(b't', b"\0\0");
                }
                self.put(b'T', DESCRIPTION);
            }
            b'E' => {
                self.put(b'D', ROW);
                self.put(b'C', b"SELECT 1\0");
            }
            b'S' => self.put(b'Z', b"I"),
            b'X' => return Err(Over),
            _ => {}
        }
        Ok(())
    }

    fn put(&mut self, tag: u8, body: &[u8]) {
        self.pending.push(tag);
        self.pending.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        self.pending.extend_from_slice(body);
    }
}

fn is_set(text: &[u8]) -> bool {
    text.get(..4).is_some_and(|word| word.eq_ignore_ascii_case(b"set "))
}

impl Service for Backend {
    fn accept(&mut self, poll: &Poll, mut stream: TcpStream) -> io::Result<()> {
        let at = self.sessions.iter().position(Option::is_none).unwrap_or(self.sessions.len());
        if at == self.sessions.len() {
            self.sessions.push(None);
        }
        poll.registry().register(&mut stream, Token(at), Interest::READABLE | Interest::WRITABLE)?;
        self.sessions[at] = Some(Session { stream, started: false, unread: Vec::new(), pending: Vec::new() });
        Ok(())
    }

    fn ready(&mut self, _: &Poll, Token(at): Token, chunk: &mut [u8]) {
        if let Some(session) = &mut self.sessions[at] {
            if session.turn(at, chunk).is_err() {
                self.sessions[at] = None;
            }
        }
    }
}
