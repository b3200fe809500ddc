//! The steps of one connection inside TLS, without its socket: records in, plaintext and records out. Both kinds of
//! rustls' connections, towards clients and towards servers, behind one face.

use std::fmt;
use std::io;

use rustls::CommonState;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};

use super::{LEAST_READ, OVERHEAD};

/// What uses a connection that may send application data.
pub(super) type Write<'w> = dyn FnMut(&mut dyn Encrypt, &mut Vec<u8>) -> io::Result<()> + 'w;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) connection: Connection,
    /// close_notify was sent.
    pub(super) closed: bool,
}

pub(super) enum Connection {
    /// With a client.
    Accepted(UnbufferedServerConnection),
    /// With a server.
    Connected(UnbufferedClientConnection),
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accepted(_) => "Accepted",
            Self::Connected(_) => "Connected",
        })
    }
}

/// What came of looking at bytes.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Bytes that aren't needed any more.
    pub(super) consumed: usize,
    /// The other side has said goodbye.
    pub(super) peer_closed: bool,
    /// The handshake is done: application data may be sent.
    pub(super) established: bool,
}

impl Session {
    pub(super) fn state(&self) -> &CommonState {
        match &self.connection {
            Connection::Accepted(connection) => connection,
            Connection::Connected(connection) => connection,
        }
    }

    /// Takes whole records from `input`: plaintext goes to `plain`, what the protocol itself has to say is put behind
    /// `outgoing`, and then `write` may use the connection, if the handshake is done.
    pub(super) fn advance(
        &mut self,
        input: &mut [u8],
        plain: &mut dyn FnMut(&[u8]),
        outgoing: &mut Vec<u8>,
        write: &mut Write<'_>,
    ) -> io::Result<Progress> {
        let mut progress = Progress::default();
        loop {
            let (consumed, step) = self.step(&mut input[progress.consumed..], plain, outgoing, write);
            progress.consumed += consumed;
            match step {
                Ok(Step::More) => {}
                Ok(Step::PeerClosed) => progress.peer_closed = true,
                Ok(Step::Established) => {
                    // A server could write before it knows who is there.
                    progress.established = !self.state().is_handshaking();
                    return Ok(progress);
                }
                Ok(Step::Done) => return Ok(progress),
                Err(error) => {
                    self.take_alert(&mut input[progress.consumed..], plain, outgoing);
                    return Err(error);
                }
            }
        }
    }

    fn step(
        &mut self,
        input: &mut [u8],
        plain: &mut dyn FnMut(&[u8]),
        outgoing: &mut Vec<u8>,
        write: &mut Write<'_>,
    ) -> (usize, io::Result<Step>) {
        match &mut self.connection {
            Connection::Accepted(connection) => {
                take_step(connection.process_tls_records(input), plain, outgoing, write)
            }
            Connection::Connected(connection) => {
                take_step(connection.process_tls_records(input), plain, outgoing, write)
            }
        }
    }

    /// What the other side is to be told about an error. `input` is what wasn't consumed: rustls remembers places in
    /// it.
    fn take_alert(&mut self, input: &mut [u8], plain: &mut dyn FnMut(&[u8]), outgoing: &mut Vec<u8>) {
        let mut consumed = 0;
        while self.state().wants_write() {
            let (more, step) = self.step(&mut input[consumed..], plain, outgoing, &mut nothing_to_write);
            consumed += more;
            if !matches!(step, Ok(Step::More)) {
                return;
            }
        }
    }
}

/// One turn of [`Session::advance`].
enum Step {
    More,
    PeerClosed,
    Established,
    /// Nothing more can be done without further bytes.
    Done,
}

/// The two kinds of connections encrypt alike.
pub(super) trait Encrypt {
    /// Appends a record, or several.
    fn encrypt(&mut self, plain: &[u8], outgoing: &mut Vec<u8>) -> io::Result<()>;
    /// Appends close_notify.
    fn close(&mut self, outgoing: &mut Vec<u8>) -> io::Result<()>;
}

impl<Data> Encrypt for WriteTraffic<'_, Data> {
    fn encrypt(&mut self, plain: &[u8], outgoing: &mut Vec<u8>) -> io::Result<()> {
        append(outgoing, encrypted_len(plain.len()), |out| WriteTraffic::encrypt(self, plain, out).map_err(needed))
    }

    fn close(&mut self, outgoing: &mut Vec<u8>) -> io::Result<()> {
        append(outgoing, OVERHEAD, |out| self.queue_close_notify(out).map_err(needed))
    }
}

/// Room for the records of so much plaintext: 22 bytes are added to each 16 KiB. Where something else is to go out
/// first, more is asked for.
const fn encrypted_len(plain: usize) -> usize {
    plain + plain / 256 + 64
}

fn needed(error: EncryptError) -> Option<usize> {
    match error {
        EncryptError::InsufficientSize(needed) => Some(needed.required_size),
        EncryptError::EncryptExhausted => None,
    }
}

/// Has `encode` write behind what is there, with room for `room` bytes, or for as many as it says it needs.
fn append(
    out: &mut Vec<u8>,
    room: usize,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> io::Result<()> {
    let at = out.len();
    out.resize(at + room, 0);
    let mut written = encode(&mut out[at..]);
    if let Err(Some(needed)) = written {
        out.resize(at + needed, 0);
        written = encode(&mut out[at..]);
    }
    out.truncate(at + written.as_ref().map_or(0, |n| *n));
    written.map(drop).map_err(|_| io::Error::other("TLS keys are used up"))
}

fn take_step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    plain: &mut dyn FnMut(&[u8]),
    outgoing: &mut Vec<u8>,
    write: &mut Write<'_>,
) -> (usize, io::Result<Step>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    plain(record.payload);
                }
                Some(Err(error)) => break Err(error_of(error)),
                None => break Ok(Step::More),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => append(outgoing, LEAST_READ, |out| {
            data.encode(out).map_err(|error| match error {
                EncodeError::InsufficientSize(needed) => Some(needed.required_size),
                EncodeError::AlreadyEncoded => None,
            })
        })
        .map(|()| Step::More),
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // It goes out in order, in front of whatever is written next.
            data.done();
            Ok(Step::More)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Step::PeerClosed),
        Ok(ConnectionState::WriteTraffic(mut traffic)) => write(&mut traffic, outgoing).map(|()| Step::Established),
        // Nobody is let in without a handshake of its own, so early data is never on.
        Ok(_) => Ok(Step::Done),
        Err(error) => Err(error_of(error)),
    };
    (discard, step)
}

pub(super) fn error_of(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

pub(super) fn nothing_to_write(_: &mut dyn Encrypt, _: &mut Vec<u8>) -> io::Result<()> {
    Ok(())
}
