//! Work for logins that blocks, or talks to others: off the event loop, so much at once, and for so long.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use crate::net::timer;

/// How much of each kind is under way at once.
const MOST: usize = 32;
/// How long one piece may take, with the wait for its turn.
pub const LIMIT: Duration = Duration::from_secs(15);

/// See the module.
#[derive(Debug)]
pub struct Outside {
    checks: Arc<Semaphore>,
    /// Apart from the others: whoever has slow names must not hold up passwords.
    lookups: Arc<Semaphore>,
    /// Where the network is talked to by libraries that need a runtime with timers; begun at the first use.
    network: Mutex<Option<Handle>>,
}

impl Default for Outside {
    fn default() -> Self {
        let turns = || Arc::new(Semaphore::new(MOST));
        Self { checks: turns(), lookups: turns(), network: Mutex::default() }
    }
}

impl Outside {
    /// Checks a password by what blocks, on a thread of its own.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn check<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
        blocking(&self.checks, work).await
    }

    /// Looks something up by what blocks, on a thread of its own.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn look_up<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
        blocking(&self.lookups, work).await
    }

    /// Talks to somebody. What takes too long is ended.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn network<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, String> {
        let network = self.runtime().map_err(|error| error.to_string())?;
        bounded(async {
            let _turn = self.checks.acquire().await.map_err(|error| error.to_string())?;
            AbortOnDropHandle::new(network.spawn(work)).await.map_err(|error| error.to_string())
        })
        .await
    }

    fn runtime(&self) -> io::Result<Handle> {
        let mut network = self.network.lock();
        if let Some(handle) = &*network {
            return Ok(handle.clone());
        }
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let thread = std::thread::Builder::new().name("logins".into());
        thread.spawn(move || runtime.block_on(std::future::pending::<()>()))?;
        Ok(network.insert(handle).clone())
    }
}

/// One that takes too long is left alone, and keeps its turn.
async fn blocking<T: Send + 'static>(
    turns: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    bounded(async {
        let turn = Arc::clone(turns).acquire_owned().await.map_err(|error| error.to_string())?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        done.await.map_err(|error| error.to_string())
    })
    .await
}

async fn bounded<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    timer::timeout(LIMIT, work).await.unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}")))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn no_more_than_so_much_at_once() {
        let outside = Arc::new(Outside::default());
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks: Vec<_> = (0..4 * MOST)
            .map(|_| {
                let (outside, now, most) = (Arc::clone(&outside), Arc::clone(&now), Arc::clone(&most));
                tokio::spawn(async move {
                    let work = move || {
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        now.fetch_sub(1, Ordering::SeqCst);
                    };
                    outside.check(work).await
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert!((1..=MOST).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let outside = Outside::default();
        assert!(outside.check(|| panic!("on purpose")).await.is_err());
        assert!(outside.network(async { panic!("on purpose") }).await.is_err());
        assert_eq!(outside.network(async { 7 }).await, Ok(7));
        assert_eq!(outside.checks.available_permits(), MOST);
    }
}
