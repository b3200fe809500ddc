//! Accepting connections, and what becomes of each.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncWrite as _;
use tokio::sync::{Semaphore, watch};
use tracing::{debug, info, warn};

use crate::admin::Admin;
use crate::client::connection::Connection;
use crate::client::door::{self, Entrant};
use crate::client::login::{self, Entered};
use crate::client::registry::Admission;
use crate::client::relay::Session;
use crate::client::startup::{self, Handshake, HandshakeError, Wish};
use crate::client::{Context, cancel};
use crate::error::{ClientError, SqlState};
use crate::net::listener::{Accepted, Listener};
use crate::net::stream::Stream;
use crate::net::timer;
use crate::net::{Peer, TcpOptions};
use crate::stats::tally::refusal_of;

/// The pause after a failure to accept: descriptors have run out, and some must be freed first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What one is told who is too slow.
const LOGIN_TIMEOUT: &str = "client_login_timeout";

/// How many are waited for, at a time, until they have taken in why they are sent away.
const MOST_LEAVING: usize = 64;

/// Accepts until told to stop by `closing`; `stopping` is what connections see.
pub async fn accept(
    mut listener: Listener,
    admin: Arc<Admin>,
    mut closing: watch::Receiver<bool>,
    stopping: watch::Receiver<bool>,
) {
    let context = Arc::clone(&admin.context);
    let mut failing = false;
    loop {
        let options = TcpOptions::from(&context.config.load().pooler);
        let accepted = tokio::select! {
            accepted = listener.accept(options) => accepted,
            _ = closing.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok(accepted) => {
                failing = false;
                let entered = tokio::select! {
                    entered = door::enter(&context, accepted.peer) => entered,
                    _ = closing.wait_for(|stop| *stop) => return,
                };
                admin.until_moving().await;
                match entered {
                    Ok(entrant) => {
                        // On the heap: a large future is copied several times on its way to becoming a task.
                        let entering = Box::pin(serve(Arc::clone(&admin), accepted, entrant, stopping.clone()));
                        tokio::spawn(Connection::Entering(entering));
                    }
                    Err(error) => {
                        context.refusals.count(refusal_of(error.code.0));
                        turn_away(accepted.stream, accepted.peer, Vec::new(), &error);
                    }
                }
            }
            Err(error) => {
                // One line for a whole spell of failures.
                if !std::mem::replace(&mut failing, true) {
                    warn!("accept failed on {}: {error}; trying again", listener.address());
                }
                timer::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Tells one for whom there is no room; `held` comes first.
fn turn_away(stream: Stream, peer: Peer, held: Vec<u8>, error: &ClientError) {
    debug!(%peer, "closing because: {error}");
    let mut message = held;
    crate::wire::backend::put_error(&mut message, error);
    tokio::spawn(send_off(stream, message));
}

/// Sends the last of a connection that isn't logged in. It isn't counted any more, so only so many may take their time:
/// the others get what their sockets take at once.
async fn send_off(mut stream: Stream, message: Vec<u8>) {
    static LEAVING: Semaphore = Semaphore::const_new(MOST_LEAVING);
    if let Ok(_permit) = LEAVING.try_acquire() {
        return login::last_words(stream, message).await;
    }
    std::future::poll_fn(|context| {
        let _ = Pin::new(&mut stream).poll_write(context, &message);
        Poll::Ready(())
    })
    .await;
}

/// One connection, from its first byte on. Gives the session that it comes to; others are served by other tasks.
async fn serve(
    admin: Arc<Admin>,
    accepted: Accepted,
    entrant: Entrant,
    stopping: watch::Receiver<bool>,
) -> Option<Box<Session>> {
    let context = &admin.context;
    let Accepted { stream, peer, local } = accepted;
    let mut handshake = Some(Handshake::new(stream, local));
    let timeout = context.config.load().pooler.client_login_timeout;
    let waiting = Arc::clone(entrant.waiting());
    let entering = async {
        tokio::select! {
            entered = enter(context, &mut handshake, entrant, peer, stopping) => Some(entered),
            () = waiting.closed() => None,
        }
    };
    let entered = if timeout.is_zero() {
        entering.await
    } else {
        let late = || Some(Err(login_timeout(timeout).into()));
        timer::timeout(timeout, entering).await.unwrap_or_else(|_| late())
    };
    let Some(entered) = entered else {
        if let Some(handshake) = handshake {
            let (stream, held) = handshake.with_last_words(&[]);
            turn_away(stream, peer, held, &made_room());
        }
        context.refusals.count(refusal_of(made_room().code.0));
        return None;
    };
    if let Err(error) = &entered {
        context.refusals.count(reason(error));
    }
    match entered {
        Ok(None) => {}
        Ok(Some(Entered::Session(session))) => return Some(session),
        Ok(Some(Entered::Replication(replication))) => {
            tokio::spawn(Box::pin(replication.run()));
        }
        Ok(Some(Entered::Console(console))) => {
            tokio::spawn(Box::pin(crate::admin::console::serve(*console, admin)));
        }
        Err(HandshakeError::Io(error)) => debug!(%peer, "connection lost during login: {error}"),
        Err(error @ HandshakeError::Tls(_)) => info!(%peer, "closing because: {error}"),
        Err(HandshakeError::Client(error)) => {
            info!(%peer, "closing because: {error}");
            if let Some(handshake) = handshake {
                let mut message = Vec::new();
                crate::wire::backend::put_error(&mut message, &error);
                let (stream, message) = handshake.with_last_words(&message);
                Box::pin(send_off(stream, message)).await;
            }
        }
    }
    None
}

/// Why a login has failed, as `/metrics` says it.
fn reason(error: &HandshakeError) -> &'static str {
    match error {
        HandshakeError::Io(_) => "lost",
        HandshakeError::Tls(_) => "tls",
        HandshakeError::Client(error) if error.message == LOGIN_TIMEOUT => "timeout",
        HandshakeError::Client(error) => refusal_of(error.code.0),
    }
}

fn made_room() -> ClientError {
    let text = "too many connections are logging in, and this one was not done in time (max_login_connections)";
    ClientError::fatal(SqlState::TOO_MANY_CONNECTIONS, text).hint("See max_login_connections.")
}

fn login_timeout(timeout: Duration) -> ClientError {
    ClientError::fatal(SqlState::CONNECTION_FAILURE, LOGIN_TIMEOUT)
        .detail(format!("The login took longer than {timeout:?}."))
        .hint("See client_login_timeout.")
}

/// Reads what the connection is for, and logs in.
async fn enter(
    context: &Arc<Context>,
    handshake: &mut Option<Handshake>,
    entrant: Entrant,
    peer: Peer,
    mut stopping: watch::Receiver<bool>,
) -> Result<Option<Entered>, HandshakeError> {
    let tls = context.config.load().client_tls.clone();
    let startup = match startup::wish(handshake, &tls).await? {
        Wish::Cancel(key) => {
            // Not for a key that is somebody else's at best: passing it on may take long.
            let _busy = context.registry.find(&key).map(|_| entrant.waiting().busy());
            Box::pin(cancel::request(context, &key)).await;
            return Ok(None);
        }
        Wish::Session(startup) => startup,
    };
    let Some(admission) = Admission::new(entrant) else { return Err(Admission::refusal().into()) };
    // One who isn't in yet has nothing to lose by a stop. Whoever looks after it may come in by the unix socket, which
    // is open to the end.
    let database = startup.parameter("database").unwrap_or_default();
    let local_console = peer == Peer::Unix && login::CONSOLE_DATABASES.contains(&database);
    let stop = async {
        match local_console {
            true => std::future::pending().await,
            false => stopping.wait_for(|stop| *stop).await.map(drop),
        }
    };
    let entered = tokio::select! {
        biased;
        _ = stop => {
            return Err(ClientError::fatal(SqlState::CANNOT_CONNECT_NOW, "Carpool is shutting down").into());
        }
        // Apart, so that one who says nothing doesn't hold the memory for it.
        entered = Box::pin(login::login(admission, handshake, startup, peer)) => entered?,
    };
    if context.config.load().pooler.log_connections {
        log_login(&entered);
    }
    Ok(Some(entered))
}

fn log_login(entered: &Entered) {
    let registered = match entered {
        Entered::Session(session) => &session.registered,
        Entered::Console(console) => &console.registered,
        Entered::Replication(replication) => replication.registered(),
    };
    let client = &registered.shared;
    let tls = client.tls.map(|cipher| cipher.to_string());
    let tls = tls.as_deref().unwrap_or("no");
    info!(client = %client.id, peer = %client.peer, user = %client.user, database = %client.database, tls, "login");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// What few logins need (TLS, LDAP, replication, last words) is not in what all of them are made of: a large future is
    /// copied several times on its way, and takes the caches from everything else.
    #[test]
    fn a_login_is_small() {
        assert!(size(serve) <= 2048, "{}", size(serve));
        let login = size(|admission, handshake: &'static mut Option<Handshake>, startup, peer| {
            login::login(admission, handshake, startup, peer)
        });
        assert!(login <= 3072, "{login}");
    }
}
