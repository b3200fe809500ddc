//! Health checks of a pool's hosts, where there are several or standbys must not be too far behind: a task that keeps one
//! connection to each host, beside `pool_size` (in a full pool it has to go on), and asks all of them at once where they
//! stand, every `health_check_interval`. It runs from the first client on, as the role of a client.
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
use crate::cluster::watch::Answer;
use crate::config::SessionAttrs;
use crate::net::{Target, timer, world};
use crate::protocol::settings::SettingsTable;
use crate::server::ask::Standing;
use crate::server::connect::{self, Login, LoginError};
use crate::server::{QueryError, Server};

/// Its `application_name`.
const NAME: &str = "carpool health check";
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

type Finding = (Answer, Option<Arc<LoginError>>);

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
        Some(Login {
            target: spec.policy.first(),
            host: 0,
            attrs: SessionAttrs::Any,
            options: spec.options,
            tls: spec.tls.clone(),
            user: user.name.clone(),
            database: spec.dbname.clone(),
            credentials: user.credentials.lock().clone(),
            parameters: vec![("application_name".to_owned(), NAME.to_owned())],
            connect_query: None,
            timeout: spec.health_check.1,
            max_prepared_statements: 0,
            lifetime: Duration::ZERO,
            generation: 0,
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
        let hosts = links.iter_mut().zip(spec.policy.hosts.iter());
        let findings = all(hosts.map(|(link, target)| link.check(target, &login, &settings))).await;
        if findings.iter().all(|(answer, _)| *answer == Answer::Refused) {
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

impl Link {
    /// Asks the host where it stands.
    async fn check(&mut self, target: &Target, login: &Login, settings: &SettingsTable) -> Finding {
        let login = Login { target: target.clone(), ..login.clone() };
        let asked = world::now();
        // A server that doesn't answer in time isn't kept: its answer would come later.
        let kept = self.0.take();
        let steps = timer::timeout(login.timeout, ask(kept, &login, settings)).await;
        let failed = |error: String| LoginError::Check { target: target.clone(), error };
        let (answer, error) = match steps {
            Ok(Ok((server, said))) => {
                self.0 = Some(server);
                return (Answer::Said { said, asked, answered: world::now() }, None);
            }
            Ok(Err(error)) if is_refusal(&error) => (Answer::Refused, failed(error.to_string())),
            Ok(Err(LoginError::Timeout { .. })) | Err(_) => {
                (Answer::Failed, failed(format!("no answer within {:?} (health_check_timeout)", login.timeout)))
            }
            Ok(Err(error)) => (Answer::Failed, failed(error.to_string())),
        };
        debug!("{error}");
        (answer, Some(Arc::new(error)))
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

async fn ask(kept: Option<Server>, login: &Login, settings: &SettingsTable) -> Result<(Server, Standing), LoginError> {
    if let Some(mut server) = kept {
        // Whatever is wrong with a connection, its host may be fine: a new one tells.
        if let Ok(said) = server.ask_standing(settings, login.timeout).await {
            return Ok((server, said));
        }
    }
    let mut server = connect::login(login, settings).await?.server;
    let said = server.ask_standing(settings, login.timeout).await.map_err(|error| refused(login, error))?;
    Ok((server, said))
}

fn refused(login: &Login, error: QueryError) -> LoginError {
    let target = login.target.clone();
    match error {
        QueryError::Refused { code, message } => LoginError::Refused { target, code, message },
        error => LoginError::Protocol { target, error: error.to_string() },
    }
}
