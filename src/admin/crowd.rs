//! The HTTP connections that there are, and which of them makes room where they are too many.
//!
//! Anybody who gets there can open connections and say nothing, and must not so keep out what asks for the health of
//! Carpool. So for one more the connection that came first of those without a whole request is closed; where all have
//! asked, the first of those that have had [`TURN`] for taking the answer. Invariant: there are at most as many
//! connections as permits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};

use crate::net::timer;

/// What one that has asked has for its answer, at least.
const TURN: Duration = Duration::from_secs(1);
/// How often it is looked for room.
const POLL: Duration = Duration::from_millis(20);

/// Told by a connection that it has sent a whole request.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked(Arc<AtomicBool>);

impl Asked {
    pub(super) fn tell(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Connection {
    since: Instant,
    asked: Asked,
    task: AbortHandle,
}

/// See the module. Ends them all when dropped.
#[derive(Debug)]
pub(super) struct Crowd {
    places: Arc<Semaphore>,
    tasks: JoinSet<()>,
    /// By their coming.
    connections: Vec<Connection>,
}

impl Crowd {
    pub(super) fn new(most: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(most)), tasks: JoinSet::new(), connections: Vec::new() }
    }

    /// Has one more served, as soon as there is room.
    pub(super) async fn serve<F>(&mut self, serve: impl FnOnce(Asked) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let place = self.place().await;
        while self.tasks.try_join_next().is_some() {}
        self.connections.retain(|connection| !connection.task.is_finished());
        let asked = Asked::default();
        let serving = serve(asked.clone());
        let task = self.tasks.spawn(async move {
            serving.await;
            drop(place);
        });
        self.connections.push(Connection { since: Instant::now(), asked, task });
    }

    async fn place(&mut self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Some(place);
        }
        loop {
            self.make_room(Instant::now());
            // Never closed, so there always comes one.
            if let Ok(place) = timer::timeout(POLL, Arc::clone(&self.places).acquire_owned()).await {
                return place.ok();
            }
        }
    }

    fn make_room(&mut self, now: Instant) {
        self.connections.retain(|connection| !connection.task.is_finished());
        let silent = self.connections.iter().position(|connection| !connection.asked.0.load(Ordering::Relaxed));
        let had_its_turn = |connection: &Connection| now.saturating_duration_since(connection.since) >= TURN;
        if let Some(index) = silent.or_else(|| self.connections.iter().position(had_its_turn)) {
            self.connections.remove(index).task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ended(task: &AbortHandle) {
        let begun = Instant::now();
        while !task.is_finished() {
            assert!(begun.elapsed() < Duration::from_secs(10), "it goes on");
            tokio::task::yield_now().await;
        }
    }

    async fn full(most: usize) -> (Crowd, Vec<Asked>) {
        let (mut crowd, mut asked) = (Crowd::new(most), Vec::new());
        for _ in 0..most {
            crowd
                .serve(|told| {
                    asked.push(told);
                    std::future::pending()
                })
                .await;
        }
        (crowd, asked)
    }

    #[tokio::test]
    async fn the_first_without_a_request_makes_room() {
        let (mut crowd, asked) = full(3).await;
        asked[0].tell();
        let (first, second) = (crowd.connections[0].task.clone(), crowd.connections[1].task.clone());
        crowd.serve(|_| std::future::pending()).await;
        ended(&second).await;
        assert!(!first.is_finished() && crowd.connections.len() == 3);
        assert_eq!(crowd.places.available_permits(), 0, "never more than three");
    }

    #[tokio::test]
    async fn one_who_has_asked_has_its_turn() {
        let (mut crowd, asked) = full(2).await;
        asked.iter().for_each(Asked::tell);
        let first = crowd.connections[0].task.clone();
        let begun = crowd.connections[0].since;
        crowd.make_room(begun + TURN / 2);
        assert_eq!(crowd.connections.len(), 2, "both may still be at it");
        crowd.make_room(begun + TURN);
        assert_eq!(crowd.connections.len(), 1);
        ended(&first).await;
    }

    #[tokio::test]
    async fn those_that_ended_are_forgotten() {
        let mut crowd = Crowd::new(1);
        for _ in 0..50 {
            crowd.serve(|asked| async move { asked.tell() }).await;
        }
        assert!(crowd.connections.len() <= 1 && crowd.tasks.len() <= 1);
    }
}
