//! Health checks of a pool's hosts, where there are several or standbys must not be too far behind: a task that keeps one
//! connection to each host, beside `pool_size` (in a full pool it has to go on), and asks all of them at once where they
//! stand, every `health_check_interval`. It runs from the first client on, as the role of a client.
//!
//! That a connection from before answers doesn't say that the host takes logins. So where the last one failed, or is long in
//! coming, and now and then in any case, a check logs in anew while it asks; the new connection takes the old one's place.
//!
//! Invariant: a round ends within `health_check_timeout`, and the task holds the pool only while a round lasts.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::debug;

use super::spec::Spec;
use super::{Pool, Purpose, background};
use crate::cluster::Finding;
use crate::cluster::hosts::Door;
use crate::cluster::watch::Answer;
use crate::config::SessionAttrs;
use crate::net::{Target, timer, world};
use crate::protocol::settings::SettingsTable;
use crate::server::connect::{self, Login, LoginError};
use crate::server::{QueryError, Server};

/// Its `application_name`.
const NAME: &str = "carpool health check";
/// A host that nobody has logged in to for so many rounds is logged in to by the next.
const ROUNDS: u32 = 10;
/// The shortest pause between two rounds.
const SHORTEST: Duration = Duration::from_millis(20);

/// Of a pool.
#[derive(Debug, Default)]
pub(super) struct Shared {
    is_running: AtomicBool,
    changed: Arc<Notify>,
}

impl Shared {
    /// Has the task look what has changed.
    pub(super) fn look(&self) {
        self.changed.notify_one();
    }
}

/// The task is running as long as this is there.
struct Running(Weak<Pool>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pool) = self.0.upgrade() {
            pool.watch.is_running.store(false, Ordering::Release);
        }
    }
}

/// The connection to one host, if there is one.
#[derive(Default)]
struct Link(Option<Server>);

/// A connection on which the host has said where it stands.
type Told = (Server, Answer);

impl Pool {
    fn is_watched(&self, spec: &Spec) -> bool {
        spec.policy.is_watched() && !spec.health_check.0.is_zero() && !self.is_retired() && !self.is_paused()
    }

    /// Has hosts checked where that is of use.
    pub(super) fn keep_watching(self: &Arc<Self>) {
        if self.cluster.is_plain() || self.watch.is_running.load(Ordering::Acquire) {
            return;
        }
        if !self.is_watched(&self.spec.load()) || self.checking_login(&self.spec.load(), 0).is_none() {
            return;
        }
        self.watch.is_running.store(true, Ordering::Release);
        world::spawn(run(Running(Arc::downgrade(self)), Arc::clone(&self.watch.changed)));
    }

    /// How a host is logged in to: as one of the clients' roles, another one in each turn.
    fn checking_login(&self, spec: &Spec, turn: usize) -> Option<Login> {
        let users = self.users.lock();
        let of_clients: Vec<_> = users.list.iter().filter(|user| user.purpose == Purpose::Clients).collect();
        let user = of_clients.get(turn.checked_rem(of_clients.len())?)?;
        let parameters = vec![("application_name".to_owned(), NAME.to_owned())];
        Some(Login {
            attrs: SessionAttrs::Any,
            // A host that keeps other logins waiting for too long isn't fine.
            timeout: spec.health_check.1.min(spec.connect_timeout),
            ..spec.login(user.name.clone(), user.credentials.lock().clone(), parameters)
        })
    }

    /// Acts on what the hosts have said.
    fn checked(self: &Arc<Self>, spec: &Spec, findings: &[Finding], began: Instant) {
        if !self.cluster.checked(&spec.policy, findings, began) {
            return;
        }
        let idle = self.queue.lock().take_expired(0, |pooled, _| self.cluster.is_no_good(pooled.server.shared.host));
        for (_, pooled) in idle {
            background::close(pooled, background::Slot::Closing);
        }
        // Who waits for a host need not wait any longer.
        let mut backoff = self.backoff.lock();
        if !backoff.last.as_ref().is_some_and(|error| error.is_permanent()) {
            backoff.until = None;
        }
        drop(backoff);
        self.pump();
    }
}

async fn run(running: Running, changed: Arc<Notify>) {
    let (mut links, settings, mut turn) = (Vec::new(), SettingsTable::default(), 0);
    while let Some(pool) = running.0.upgrade() {
        let spec = pool.spec.load_full();
        let Some(login) = pool.checking_login(&spec, turn).filter(|_| pool.is_watched(&spec)) else {
            pool.cluster.unwatched(&spec.policy, spec.health_check.0.is_zero());
            break;
        };
        links.resize_with(spec.policy.hosts.len(), Link::default);
        let began = world::now();
        let doubtful = pool.cluster.doubtful(spec.health_check.0.saturating_mul(ROUNDS));
        let hosts = links.iter_mut().zip(spec.policy.hosts.iter()).zip(doubtful);
        let checks = hosts.map(|((link, target), anew)| link.check(target, &login, &settings, anew));
        let findings = all(checks).await;
        if findings.iter().all(|finding| finding.answer == Answer::Refused) {
            turn += 1;
        }
        if pool.is_watched(&pool.spec.load()) {
            pool.checked(&spec, &findings, began);
        }
        drop(pool);
        let pause = spec.health_check.0.saturating_sub(world::now().saturating_duration_since(began)).max(SHORTEST);
        tokio::select! {
            () = timer::sleep(pause) => {}
            () = changed.notified() => {}
        }
    }
    all(links.into_iter().filter_map(|link| link.0).map(Server::close)).await;
}

/// What each of these comes to, all at the same time.
async fn all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<Pin<Box<F>>> = futures.map(Box::pin).collect();
    let mut results: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (future, result) in futures.iter_mut().zip(&mut results).filter(|(_, result)| result.is_none()) {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                *result = Some(output);
            }
        }
        if results.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    results.into_iter().flatten().collect()
}

/// The connections to one host, as a check has found them: the one from before, if that has answered, and a new one.
struct Found {
    kept: Option<Told>,
    new: Option<Result<Told, LoginError>>,
}

impl Link {
    /// Asks the host where it stands; `anew`: and logs in to it, though there is a connection.
    async fn check(&mut self, target: &Target, login: &Login, settings: &SettingsTable, anew: bool) -> Finding {
        let login = Login { target: target.clone(), ..login.clone() };
        let Found { kept, new } = find(self.0.take(), &login, settings, anew).await;
        let (door, error) = match new {
            Some(Ok((server, answer))) => {
                if let Some((before, _)) = kept {
                    world::spawn(async {
                        before.close().await;
                    });
                }
                self.0 = Some(server);
                return Finding { answer, door: Door::Open, error: None };
            }
            Some(Err(error)) => (if is_refusal(&error) { Door::Untried } else { Door::Shut }, Some(error)),
            None => (Door::Untried, None),
        };
        let answer = match kept {
            Some((server, answer)) => {
                self.0 = Some(server);
                answer
            }
            None if door == Door::Shut => Answer::Failed,
            None => Answer::Refused,
        };
        let error = error.map(|error| Arc::new(failure(error, &login)));
        error.iter().for_each(|error| debug!("{error}"));
        Finding { answer, door, error }
    }
}

async fn find(kept: Option<Server>, login: &Login, settings: &SettingsTable, anew: bool) -> Found {
    let deadline = world::now() + login.timeout;
    match kept {
        // At the same time: one of them may hang, and has the whole time for that.
        Some(server) if anew => {
            let (kept, new) = tokio::join!(ask(server, settings, deadline), enter(login, settings, deadline));
            Found { kept: kept.ok(), new: Some(new) }
        }
        Some(server) => match ask(server, settings, deadline).await {
            Ok(kept) => Found { kept: Some(kept), new: None },
            // Whatever is wrong with a connection, its host may be fine: a new one tells.
            Err(_) => Found { kept: None, new: Some(enter(login, settings, deadline).await) },
        },
        None => Found { kept: None, new: Some(enter(login, settings, deadline).await) },
    }
}

/// Whether the host is there, and only doesn't let this login in.
fn is_refusal(error: &LoginError) -> bool {
    match error {
        // Starting up, stopping, or a standby that takes no queries.
        LoginError::Refused { code, .. } => !code.starts_with("57P"),
        error => error.is_permanent(),
    }
}

fn failure(error: LoginError, login: &Login) -> LoginError {
    let error = match error {
        LoginError::Timeout { .. } => format!("no answer within {:?} (health_check_timeout)", login.timeout),
        error => error.to_string(),
    };
    LoginError::Check { target: login.target.clone(), error }
}

async fn enter(login: &Login, settings: &SettingsTable, deadline: Instant) -> Result<Told, LoginError> {
    let login_ends = timer::timeout(left(deadline), connect::login(login, settings)).await;
    let server = login_ends.unwrap_or_else(|_| Err(late(login)))?.server;
    ask(server, settings, deadline).await.map_err(|error| refused(login, error))
}

/// A server that doesn't answer in time isn't kept: its answer would come later.
async fn ask(mut server: Server, settings: &SettingsTable, deadline: Instant) -> Result<Told, QueryError> {
    let (asked, left) = (world::now(), left(deadline));
    let said = timer::timeout(left, server.ask_standing(settings, left)).await;
    let said = said.unwrap_or(Err(QueryError::Timeout(left)))?;
    Ok((server, Answer::Said { said, asked, answered: world::now() }))
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(world::now())
}

fn late(login: &Login) -> LoginError {
    LoginError::Timeout { target: login.target.clone(), timeout: login.timeout }
}

fn refused(login: &Login, error: QueryError) -> LoginError {
    let target = login.target.clone();
    match error {
        QueryError::Refused { code, message } => LoginError::Refused { target, code, message },
        QueryError::Timeout(_) => late(login),
        error => LoginError::Protocol { target, error: error.to_string() },
    }
}
