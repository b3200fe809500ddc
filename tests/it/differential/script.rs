//! Scripts of what a client sends, and the helpers that write them.

use crate::harness::Message;
use crate::harness::raw::{Raw, V3_0, message, query, startup};

/// One thing that a client does.
pub enum Step {
    /// Sends bytes and reads replies up to the given number of ReadyForQuery.
    Ready(Vec<u8>, usize),
    /// Sends bytes and reads replies up to and with a message of this type.
    Until(Vec<u8>, u8),
    /// Sends bytes and reads on until the connection ends.
    Closed(Vec<u8>),
}

/// What one client does from login to end.
pub struct Script {
    pub name: &'static str,
    /// Startup parameters besides user and database.
    pub parameters: Vec<(&'static str, &'static str)>,
    pub steps: Vec<Step>,
}

/// A script without startup parameters.
pub fn script(name: &'static str, steps: Vec<Step>) -> Script {
    Script { name, parameters: Vec::new(), steps }
}

/// Messages in one write, then a ReadyForQuery for each Sync, Query and FunctionCall among them.
pub fn round(messages: &[Vec<u8>]) -> Step {
    let count = messages.iter().filter(|m| matches!(m[0], b'S' | b'Q' | b'F')).count();
    Step::Ready(messages.concat(), count)
}

/// As [`round`], where errors leave fewer ReadyForQuery.
pub fn round_of(count: usize, messages: &[Vec<u8>]) -> Step {
    Step::Ready(messages.concat(), count)
}

/// Simple queries, each sent after the reply to the one before.
pub fn queries(texts: &[&str]) -> Vec<Step> {
    texts.iter().map(|sql| round(&[query(sql)])).collect()
}

/// Messages in one write, then replies up to a message of type `tag`.
pub fn until(tag: u8, messages: &[Vec<u8>]) -> Step {
    Step::Until(messages.concat(), tag)
}

/// A Bind in full: formats of parameters, parameters, formats of results.
pub fn bind_all(portal: &str, name: &str, formats: &[u16], parameters: &[Option<&[u8]>], results: &[u16]) -> Vec<u8> {
    let mut body = [portal.as_bytes(), b"\0", name.as_bytes(), b"\0"].concat();
    put_formats(&mut body, formats);
    body.extend_from_slice(&u16::try_from(parameters.len()).unwrap().to_be_bytes());
    for parameter in parameters {
        match parameter {
            Some(value) => {
                body.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
                body.extend_from_slice(value);
            }
            None => body.extend_from_slice(&u32::MAX.to_be_bytes()),
        }
    }
    put_formats(&mut body, results);
    message('B', &body)
}

fn put_formats(body: &mut Vec<u8>, formats: &[u16]) {
    body.extend_from_slice(&u16::try_from(formats.len()).unwrap().to_be_bytes());
    formats.iter().for_each(|f| body.extend_from_slice(&f.to_be_bytes()));
}

/// A Parse with parameter types.
pub fn parse_typed(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = [name.as_bytes(), b"\0", sql.as_bytes(), b"\0"].concat();
    body.extend_from_slice(&u16::try_from(types.len()).unwrap().to_be_bytes());
    types.iter().for_each(|t| body.extend_from_slice(&t.to_be_bytes()));
    message('P', &body)
}

/// A FunctionCall with binary arguments and result.
pub fn call(oid: u32, arguments: &[&[u8]]) -> Vec<u8> {
    let mut body = oid.to_be_bytes().to_vec();
    put_formats(&mut body, &[1]);
    body.extend_from_slice(&u16::try_from(arguments.len()).unwrap().to_be_bytes());
    for argument in arguments {
        body.extend_from_slice(&u32::try_from(argument.len()).unwrap().to_be_bytes());
        body.extend_from_slice(argument);
    }
    body.extend_from_slice(&1u16.to_be_bytes());
    message('F', &body)
}

/// CopyData.
pub fn copy_data(data: &str) -> Vec<u8> {
    message('d', data.as_bytes())
}

/// CopyDone.
pub fn copy_done() -> Vec<u8> {
    message('c', b"")
}

/// CopyFail.
pub fn copy_fail(why: &str) -> Vec<u8> {
    message('f', &[why.as_bytes(), b"\0"].concat())
}

/// How the bytes are cut up on their way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// Each step in one write.
    Whole,
    /// One byte per write.
    Bytes,
    /// Pieces of 1 to 13 bytes.
    Pieces,
}

impl Cut {
    fn send(self, client: &mut Raw, bytes: &[u8]) {
        // Cutting up bulk takes long and shows nothing new behind the first few kilobytes.
        let (head, tail) = bytes.split_at(bytes.len().min(2048));
        match self {
            Self::Whole => return client.send(bytes),
            Self::Bytes => head.chunks(1).for_each(|piece| client.send(piece)),
            Self::Pieces => {
                let mut rest = head;
                for size in (1..=13).cycle() {
                    if rest.is_empty() {
                        break;
                    }
                    let (piece, more) = rest.split_at(size.min(rest.len()));
                    client.send(piece);
                    rest = more;
                }
            }
        }
        client.send(tail);
    }
}

impl Script {
    /// Runs it and gives all replies, those of the login first. `idle` is called whenever the client has been
    /// answered and is in no transaction.
    pub fn run(&self, port: u16, database: &str, cut: Cut, mut idle: impl FnMut()) -> Result<Vec<Message>, String> {
        let mut parameters = vec![("user", "postgres"), ("database", database)];
        parameters.extend(&self.parameters);
        let mut client = Raw::connect(port);
        cut.send(&mut client, &startup(V3_0, &parameters));
        let mut replies = Vec::new();
        read_until(&mut client, &mut replies, b'Z', 1)?;
        idle();
        for step in &self.steps {
            match step {
                Step::Ready(bytes, count) => {
                    cut.send(&mut client, bytes);
                    read_until(&mut client, &mut replies, b'Z', *count)?;
                    if replies.last().is_some_and(|m| m.body == b"I") {
                        idle();
                    }
                }
                Step::Until(bytes, tag) => {
                    cut.send(&mut client, bytes);
                    read_until(&mut client, &mut replies, *tag, 1)?;
                }
                Step::Closed(bytes) => {
                    cut.send(&mut client, bytes);
                    replies.extend(client.until_closed());
                    return Ok(replies);
                }
            }
        }
        // What was sent too much would show up here.
        client.send(&query("select 'the end'"));
        read_until(&mut client, &mut replies, b'Z', 1)?;
        Ok(replies)
    }
}

fn read_until(client: &mut Raw, replies: &mut Vec<Message>, tag: u8, count: usize) -> Result<(), String> {
    let mut left = count;
    while left > 0 {
        match client.try_read() {
            Ok(message) => {
                left -= usize::from(message.tag == tag);
                replies.push(message);
            }
            Err(error) => {
                let last = &replies[replies.len().saturating_sub(6)..];
                return Err(format!("{error} after {last:?}"));
            }
        }
    }
    Ok(())
}
