//! Connections in memory: bytes are on their way until they are brought to the other end, in pieces.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use rand::RngExt;
use rand::rngs::StdRng;

use super::{below, note_busy};
use crate::net::stream::IdleState;

/// How much may be on its way, bytes.
const FLIGHT: usize = 8192;
/// How much may wait to be read, bytes.
const ARRIVED: usize = 4096;

/// How far the end of one direction has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Fin {
    #[default]
    Open,
    Sent,
    Arrived,
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    flight: VecDeque<u8>,
    arrived: VecDeque<u8>,
    fin: Fin,
    reset: bool,
    reader_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

type Wakers = [Option<Waker>; 2];

impl Pipe {
    /// Brings a piece to its end. Says whether more can be brought, and who is to be woken.
    pub(super) fn deliver(&mut self, chance: &mut StdRng) -> (bool, Wakers) {
        let room = ARRIVED.saturating_sub(self.arrived.len()).min(self.flight.len());
        let mut wakers = Wakers::default();
        if room > 0 {
            // Mostly all, often a few bytes, and what ends in a header more often than by chance alone.
            let most = [1, 5, 6, 40, 400, ARRIVED, ARRIVED, ARRIVED][chance.random_range(0..8)];
            let n = if most == ARRIVED { room } else { chance.random_range(1..=room.min(most)) };
            self.arrived.extend(self.flight.drain(..n));
            wakers = [self.reader.take(), self.writer.take()];
        } else if self.flight.is_empty() && self.fin == Fin::Sent {
            self.fin = Fin::Arrived;
            wakers[0] = self.reader.take();
        }
        let more = !self.flight.is_empty() && self.arrived.len() < ARRIVED;
        (more || self.flight.is_empty() && self.fin == Fin::Sent, wakers)
    }

    fn reset(&mut self) -> Wakers {
        self.reset = true;
        self.flight.clear();
        [self.reader.take(), self.writer.take()]
    }

    fn is_readable(&self) -> bool {
        !self.arrived.is_empty() || self.fin == Fin::Arrived || self.reset
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct SimulatedStream(Box<Ends>);

#[derive(Debug)]
struct Ends {
    reads: (u64, Arc<Mutex<Pipe>>),
    writes: (u64, Arc<Mutex<Pipe>>),
}

/// The two ends of a new connection.
pub(super) fn pair(number: &mut impl FnMut() -> u64) -> (SimulatedStream, SimulatedStream) {
    let (a, b) = ((number(), Arc::default()), (number(), Arc::default()));
    let end = |reads: &(u64, Arc<_>), writes: &(u64, Arc<_>)| {
        SimulatedStream(Box::new(Ends { reads: reads.clone(), writes: writes.clone() }))
    };
    (end(&a, &b), end(&b, &a))
}

fn wake(wakers: Wakers) {
    wakers.into_iter().flatten().for_each(Waker::wake);
}

impl SimulatedStream {
    pub(in crate::net) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let (number, shared) = &self.0.reads;
        let mut pipe = shared.lock();
        if !pipe.arrived.is_empty() {
            let n = pipe.arrived.len().min(buf.len());
            for (to, from) in buf.iter_mut().zip(pipe.arrived.drain(..n)) {
                *to = from;
            }
            if !pipe.flight.is_empty() || pipe.fin == Fin::Sent {
                note_busy(*number, shared);
            }
            return Poll::Ready(Ok(n));
        }
        if pipe.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if pipe.fin == Fin::Arrived {
            return Poll::Ready(Ok(0));
        }
        pipe.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// What a write that would not wait does.
    pub(in crate::net) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (number, shared) = &self.0.writes;
        let mut pipe = shared.lock();
        if pipe.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if pipe.fin != Fin::Open {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if pipe.reader_gone {
            // Nobody is there: the answer is a reset, which is seen by what comes next.
            let wakers = pipe.reset();
            drop(pipe);
            wake(wakers);
            let wakers = self.0.reads.1.lock().reset();
            wake(wakers);
            return Ok(bytes.len());
        }
        let room = FLIGHT.saturating_sub(pipe.flight.len()).min(bytes.len());
        if room == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = if room > 1 && below(8) == 0 { 1 + below(room) } else { room };
        pipe.flight.extend(&bytes[..n]);
        note_busy(*number, shared);
        Ok(n)
    }

    pub(in crate::net) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.0.writes.1.lock().writer = Some(cx.waker().clone());
                Poll::Pending
            }
            done => Poll::Ready(done),
        }
    }

    pub(in crate::net) fn is_readable(&self) -> bool {
        self.0.reads.1.lock().is_readable()
    }

    pub(in crate::net) fn idle_state(&self) -> IdleState {
        if self.is_readable() { IdleState::Disturbed } else { IdleState::Quiet }
    }

    pub(in crate::net) fn shutdown(&mut self) {
        let (number, shared) = &self.0.writes;
        let mut pipe = shared.lock();
        if pipe.fin == Fin::Open {
            pipe.fin = Fin::Sent;
            note_busy(*number, shared);
        }
    }

    /// Breaks the connection: what is on its way is lost.
    pub fn reset(&mut self) {
        for (_, pipe) in [&self.0.reads, &self.0.writes] {
            let wakers = pipe.lock().reset();
            wake(wakers);
        }
    }
}

impl Drop for SimulatedStream {
    /// As closing a socket: where something is unread, the other end gets a reset.
    fn drop(&mut self) {
        let unread = {
            let mut reads = self.0.reads.1.lock();
            reads.reader_gone = true;
            // Whoever waits for room finds out that nobody is there.
            let writer = reads.writer.take();
            let unread = !reads.arrived.is_empty() || !reads.flight.is_empty();
            drop(reads);
            wake([writer, None]);
            unread
        };
        if unread { self.reset() } else { self.shutdown() }
    }
}
