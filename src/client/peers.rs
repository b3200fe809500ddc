//! Cancel requests for sessions of another Carpool (`[peers]`): where several stand behind one address, a request may
//! come to one that doesn't know its key. The key says whose it is.
//!
//! A secret begins with the `peer_id`, and its last two bits say how often the request may be passed on, so that peers
//! that take each other for somebody else don't do so for ever.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::Context;
use crate::config::Peer;
use crate::net::timer;
use crate::net::{Target, TcpOptions};
use crate::wire::startup::{self, CancelKey};

/// The bits that say how often a request may still be passed on.
const HOPS: u8 = 0b11;

/// Requests on their way to one peer.
#[derive(Debug)]
pub struct Traffic {
    size: u32,
    permits: Semaphore,
    waiting: AtomicU32,
    active: AtomicU32,
}

/// Requests on their way, by peer.
#[derive(Debug, Default)]
pub struct Peers(Mutex<HashMap<u32, Arc<Traffic>>>);

impl Peers {
    /// Of a peer that takes `size` requests at once.
    fn traffic(&self, id: u32, size: u32) -> Arc<Traffic> {
        let new = || {
            let permits = Semaphore::new((size as usize).min(Semaphore::MAX_PERMITS));
            Arc::new(Traffic { size, permits, waiting: AtomicU32::new(0), active: AtomicU32::new(0) })
        };
        let mut all = self.0.lock();
        let traffic = all.entry(id).or_insert_with(new);
        if traffic.size != size {
            *traffic = new();
        }
        Arc::clone(traffic)
    }

    /// How many requests are on their way to a peer, and how many wait for that.
    #[must_use]
    pub fn counts(&self, id: u32) -> (u32, u32) {
        let count = |t: &Arc<Traffic>| (t.active.load(Ordering::Relaxed), t.waiting.load(Ordering::Relaxed));
        self.0.lock().get(&id).map(count).unwrap_or_default()
    }
}

/// Counts one for as long as it lives.
struct Counted<'c>(&'c AtomicU32);

impl<'c> Counted<'c> {
    fn new(count: &'c AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Writes into a random secret whose it is. 0: nobody's.
pub fn sign(secret: &mut [u8], peer_id: u32) {
    let Ok(id) = u16::try_from(peer_id) else { return };
    if let (true, [first, second, .., last]) = (id > 0, secret) {
        [*first, *second] = id.to_be_bytes();
        *last |= HOPS;
    }
}

/// What becomes of a key that no session here has.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    /// It is one of this Carpool's own: the key as it was given out.
    Own(CancelKey),
    /// It is this peer's: the key to pass on.
    Peer(u32, CancelKey),
    /// Nobody's, or it has been passed on too often.
    Nowhere,
}

fn route(key: &CancelKey, own: u32) -> Route {
    let mut key = key.clone();
    let [first, second, .., last] = &mut *key.secret else { return Route::Nowhere };
    let (id, hops) = (u32::from(u16::from_be_bytes([*first, *second])), *last & HOPS);
    match (own, hops) {
        (0, _) => Route::Nowhere,
        (own, _) if own == id => {
            *last |= HOPS;
            Route::Own(key)
        }
        (_, 0) => Route::Nowhere,
        (_, hops) => {
            *last = (*last & !HOPS) | (hops - 1);
            Route::Peer(id, key)
        }
    }
}

/// The key that a request means if it is for a session here. Passes it on, and waits for that, if it is a peer's.
pub async fn resolve(context: &Context, key: &CancelKey) -> Option<CancelKey> {
    let config = context.config.load_full();
    match route(key, config.pooler.peer_id) {
        Route::Own(key) => return Some(key),
        Route::Nowhere => debug!("cancel request with an unknown key"),
        Route::Peer(id, key) => match config.peers.get(&id) {
            None => debug!("cancel request with an unknown key"),
            Some(peer) => {
                let (options, timeout) = (TcpOptions::from(&config.pooler), config.pooler.cancel_wait_timeout);
                if let Err(error) = pass_on(context, id, peer, &key, &options, timeout).await {
                    warn!(peer_id = id, "cancel request could not be passed on: {error}");
                }
            }
        },
    }
    None
}

async fn pass_on(
    context: &Context,
    id: u32,
    peer: &Peer,
    key: &CancelKey,
    options: &TcpOptions,
    timeout: Duration,
) -> io::Result<()> {
    let Some(host) = peer.host.clone() else { return Ok(()) };
    let target = Target { host, port: peer.port };
    let traffic = context.peers.traffic(id, peer.pool_size);
    let request = async {
        let waiting = Counted::new(&traffic.waiting);
        let permit = traffic.permits.acquire().await.map_err(io::Error::other)?;
        drop(waiting);
        let _active = Counted::new(&traffic.active);
        debug!(peer_id = id, "passing a cancel request on");
        let mut stream = target.connect(options).await?;
        let mut message = Vec::new();
        startup::put_cancel(&mut message, key);
        stream.write_all(&message).await?;
        let mut sink = [0u8; 64];
        while stream.read(&mut sink).await? > 0 {}
        drop(permit);
        Ok(())
    };
    timer::timeout(timeout, request).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(secret: &[u8]) -> CancelKey {
        CancelKey { pid: 7, secret: secret.into() }
    }

    #[test]
    fn a_signed_key_finds_home_and_no_further() {
        for len in [4, 32] {
            let mut secret = vec![0b1010_1000; len];
            sign(&mut secret, 258);
            assert_eq!(secret[..2], [1, 2]);
            let signed = key(&secret);
            assert_eq!(route(&signed, 258), Route::Own(signed.clone()));
            let mut passed = signed.clone();
            for _ in 0..3 {
                let Route::Peer(258, next) = route(&passed, 3) else { panic!("not passed on") };
                // Whoever it belongs to takes it for the one that it gave out.
                assert_eq!(route(&next, 258), Route::Own(signed.clone()));
                passed = next;
            }
            assert_eq!(route(&passed, 3), Route::Nowhere, "it was passed on often enough");
        }
    }

    #[test]
    fn without_a_peer_id_keys_are_left_alone() {
        let mut secret = [9, 9, 9, 8];
        sign(&mut secret, 0);
        assert_eq!(secret, [9, 9, 9, 8]);
        assert_eq!(route(&key(&secret), 0), Route::Nowhere);
    }
}
