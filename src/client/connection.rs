//! One client's connection from the login to the end: one task, whose memory is the session's. What a login needs
//! besides is on the heap and freed before the session begins.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::exodus;
use super::relay::depart::Parted;
use super::relay::{Relay, Session};

/// Logs a client in; `None` where that doesn't lead to a session of a pool.
pub type Entering = Pin<Box<dyn Future<Output = Option<Box<Session>>> + Send>>;

/// See the module.
#[expect(clippy::large_enum_variant, reason = "the point of it: nearly all of its life it is in")]
pub enum Connection {
    /// It logs in.
    Entering(Entering),
    /// It is in.
    In(Relay),
    /// It has ended.
    Over,
}

impl Connection {
    const fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Over)
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Entering(entering) = &mut *self {
            match ready!(entering.as_mut().poll(cx)) {
                Some(session) => {
                    let relay = Relay::new(*session);
                    relay.wake_with(cx.waker());
                    self.set(Self::In(relay));
                }
                None => return Poll::Ready(()),
            }
        }
        let Self::In(relay) = &mut *self else { return Poll::Ready(()) };
        let parted = ready!(Pin::new(&mut *relay).poll(cx));
        if let Self::In(relay) = self.get_mut().take() {
            match parted {
                Parted::Ended => relay.spawn_last_words(),
                Parted::Departs => exodus::depart(relay),
            }
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_takes_no_more_than_its_relay() {
        assert!(size_of::<Connection>() <= size_of::<Relay>() + 8);
    }
}
