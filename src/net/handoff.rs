//! Messages with descriptors between two processes, over a pair of unix sockets that nobody else has.
//!
//! A message is its length, the number of its descriptors, and its bytes; the descriptors travel with the first of them
//! (`SCM_RIGHTS`), and the system never joins what came with one set of descriptors to what came with the next.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as BlockingStream;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use zeroize::{Zeroize as _, Zeroizing};

/// Descriptors of one message, at most.
pub const MOST_DESCRIPTORS: usize = 64;
/// The longest message, bytes.
const MOST_BYTES: usize = 256 * 1024 * 1024;
/// What comes before its bytes.
const HEADER: usize = 5;
/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// The end that messages go into.
#[derive(Debug)]
pub struct Sender {
    socket: Arc<UnixStream>,
    /// A message was sent in part.
    is_torn: bool,
}

/// The end that they come out of.
#[derive(Debug)]
pub struct Receiver {
    socket: Arc<UnixStream>,
    bytes: Zeroizing<Vec<u8>>,
    descriptors: VecDeque<OwnedFd>,
}

/// What came.
pub type Parcel = (Zeroizing<Vec<u8>>, Vec<OwnedFd>);

/// Makes the two ends of a connected socket.
///
/// # Errors
/// The system's.
pub fn open(socket: BlockingStream) -> io::Result<(Sender, Receiver)> {
    socket.set_nonblocking(true)?;
    let socket = Arc::new(UnixStream::from_std(socket)?);
    let receiver =
        Receiver { socket: Arc::clone(&socket), bytes: Zeroizing::default(), descriptors: VecDeque::default() };
    Ok((Sender { socket, is_torn: false }, receiver))
}

fn frame(body: &[u8], descriptors: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let too_much = || io::Error::new(io::ErrorKind::InvalidInput, "too much for one message");
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MOST_BYTES).ok_or_else(too_much)?;
    let count = u8::try_from(descriptors).ok().filter(|_| descriptors <= MOST_DESCRIPTORS).ok_or_else(too_much)?;
    let mut frame = Zeroizing::new(Vec::with_capacity(HEADER + body.len()));
    frame.extend_from_slice(&length.to_be_bytes());
    frame.push(count);
    frame.extend_from_slice(body);
    Ok(frame)
}

/// Sends a message without descriptors where there is no runtime.
///
/// # Errors
/// The system's.
pub fn say(mut socket: &BlockingStream, body: &[u8]) -> io::Result<()> {
    socket.write_all(&frame(body, 0)?)
}

impl Sender {
    /// Sends a message. Not to be dropped half done.
    ///
    /// # Errors
    /// The system's, or that it is too much.
    pub async fn send(&mut self, body: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let frame = frame(body, descriptors.len())?;
        let mut sent = 0;
        while sent < frame.len() {
            let with = if sent == 0 { descriptors } else { &[] };
            let send = || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !with.is_empty() {
                    control.push(SendAncillaryMessage::ScmRights(with));
                }
                let bytes = [IoSlice::new(&frame[sent..])];
                Ok(sendmsg(self.socket.as_fd(), &bytes, &mut control, SendFlags::NOSIGNAL)?)
            };
            sent += self.socket.async_io(Interest::WRITABLE, send).await?;
            self.is_torn = sent < frame.len();
        }
        Ok(())
    }

    /// Whether this error of [`Sender::send`] is of the moment: nothing was sent, since too many descriptors are open or
    /// under way.
    #[must_use]
    pub fn may_send_later(&self, error: &io::Error) -> bool {
        const LACKS: [Errno; 5] = [Errno::TOOMANYREFS, Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
        !self.is_torn && Errno::from_io_error(error).is_some_and(|errno| LACKS.contains(&errno))
    }
}

impl Receiver {
    /// The next message; `None`: the other process has hung up. May be dropped half done.
    ///
    /// # Errors
    /// The system's, or that what comes is none.
    pub async fn next(&mut self) -> io::Result<Option<Parcel>> {
        loop {
            if let Some(parcel) = self.take()? {
                return Ok(Some(parcel));
            }
            if self.read().await? == 0 {
                return if self.bytes.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    fn take(&mut self) -> io::Result<Option<Parcel>> {
        let Some((header, _)) = self.bytes.split_at_checked(HEADER) else { return Ok(None) };
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let count = usize::from(header[4]);
        if length > MOST_BYTES || count > MOST_DESCRIPTORS {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a message of Carpool's"));
        }
        if self.bytes.len() < HEADER + length {
            return Ok(None);
        }
        if self.descriptors.len() < count {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "descriptors are missing; see ulimit -n"));
        }
        let body = Zeroizing::new(self.bytes[HEADER..HEADER + length].to_vec());
        self.bytes.drain(..HEADER + length);
        Ok(Some((body, self.descriptors.drain(..count).collect())))
    }

    async fn read(&mut self) -> io::Result<usize> {
        let Self { socket, bytes, descriptors } = self;
        let receive = || {
            let mut chunk = [0; CHUNK];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut chunk)];
            let received = recvmsg(socket.as_fd(), &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(came) = message {
                    descriptors.extend(came);
                }
            }
            bytes.extend_from_slice(&chunk[..received.bytes]);
            // No more than was written: most messages are short.
            chunk[..received.bytes].zeroize();
            if received.flags.contains(ReturnFlags::CTRUNC) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "descriptors were lost; see ulimit -n"));
            }
            Ok(received.bytes)
        };
        socket.async_io(Interest::READABLE, receive).await
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixStream as Pipe;

    use super::*;

    fn pair() -> (Sender, Receiver) {
        let (one, other) = BlockingStream::pair().unwrap();
        (open(one).unwrap().0, open(other).unwrap().1)
    }

    fn pipe() -> (Pipe, Pipe) {
        Pipe::pair().unwrap()
    }

    #[tokio::test]
    async fn descriptors_come_with_their_message() {
        let (mut sender, mut receiver) = pair();
        let (readers, writers): (Vec<_>, Vec<_>) = (0..5).map(|_| pipe()).unzip();
        let sending = async move {
            for (i, writer) in writers.iter().enumerate() {
                // Long ones go in parts, and the ones between have none.
                sender.send(&vec![b'x'; i * 300_000], &[writer.as_fd()]).await.unwrap();
                sender.send(b"between", &[]).await.unwrap();
            }
            sender.send(b"two", &[writers[0].as_fd(), writers[1].as_fd()]).await.unwrap();
        };
        let receiving = async {
            for (i, mut reader) in readers.into_iter().enumerate() {
                let (body, mut came) = receiver.next().await.unwrap().unwrap();
                assert_eq!((body.len(), came.len()), (i * 300_000, 1));
                std::fs::File::from(came.remove(0)).write_all(&[b'0' + u8::try_from(i).unwrap()]).unwrap();
                let mut byte = [0];
                reader.read_exact(&mut byte).unwrap();
                assert_eq!(usize::from(byte[0] - b'0'), i, "another one's");
                let (body, came) = receiver.next().await.unwrap().unwrap();
                assert_eq!((&body[..], came.len()), (&b"between"[..], 0));
            }
            let (_, came) = receiver.next().await.unwrap().unwrap();
            assert_eq!(came.len(), 2);
            assert!(receiver.next().await.unwrap().is_none(), "it has hung up");
        };
        tokio::join!(sending, receiving);
    }

    #[tokio::test]
    async fn what_was_sent_in_part_can_not_be_sent_later() {
        let (mut sender, mut receiver) = pair();
        let lack = io::Error::from(Errno::TOOMANYREFS);
        assert!(sender.may_send_later(&lack));
        assert!(!sender.may_send_later(&io::ErrorKind::BrokenPipe.into()));
        let message = vec![0; 10_000_000];
        tokio::select! {
            sent = sender.send(&message, &[]) => panic!("that's too much at once: {sent:?}"),
            read = receiver.read() => assert!(read.unwrap() > 0),
        }
        assert!(!sender.may_send_later(&lack), "the other end has a part of it");
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused() {
        for bytes in [&b"\xff\xff\xff\xff\0"[..], b"\0\0\0\x02\x09hi", b"\0\0\0\x02\x01hi"] {
            let (mut one, other) = BlockingStream::pair().unwrap();
            let (_sender, mut receiver) = open(other).unwrap();
            one.write_all(bytes).unwrap();
            assert_eq!(receiver.next().await.unwrap_err().kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
        let (one, other) = BlockingStream::pair().unwrap();
        let (_sender, mut receiver) = open(other).unwrap();
        (&one).write_all(b"\0\0\0\x02\0h").unwrap();
        drop(one);
        assert_eq!(receiver.next().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let (mut sender, _receiver) = pair();
        let (_reader, writer) = pipe();
        let many = vec![writer.as_fd(); MOST_DESCRIPTORS + 1];
        assert!(sender.send(b"", &many).await.is_err());
    }
}
