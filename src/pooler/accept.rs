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
use crate::client::door::{self, End, Entrant};
use crate::client::login::{self, Entered};
use crate::client::registry::Admission;
use crate::client::relay::Session;
use crate::client::startup::{self, Handshake, HandshakeError, Wish};
use crate::client::{Context, cancel};
use crate::error::{ClientError, SqlState};
use crate::net::listener::{Accepted, Listener};
use crate::net::stream::Stream;
use crate::net::timer;
use crate::net::world;
use crate::net::{Peer, TcpOptions};
use crate::stats::tally::refusal_of;

/// The pause after a failure to accept: descriptors have run out, and some must be freed first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What one is told who makes room for another.
const NO_ROOM: &str = "too many connections are logging in, and this one was not done in time (max_login_connections)";

/// What one is told who is too slow.
const LOGIN_TIMEOUT: &str = "client_login_timeout";

/// How many are waited for, at a time, until they have taken in why they are sent away.
const MOST_LEAVING: usize = 64;

/// Accepts until told to stop by `closing`, or to leave that to another process by `ceded`: then whoever was accepted is
/// let in.
pub async fn accept(
    mut listener: Listener,
    admin: Arc<Admin>,
    mut closing: watch::Receiver<bool>,
    mut ceded: watch::Receiver<bool>,
) {
    let context = Arc::clone(&admin.context);
    let mut failing = false;
    loop {
        let options = TcpOptions::from(&context.config.load().pooler);
        let accepted = tokio::select! {
            biased;
            _ = ceded.wait_for(|ceded| *ceded) => return,
            accepted = listener.accept(options) => accepted,
            _ = closing.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok(accepted) => {
                failing = false;
                let config = context.config.load_full();
                let entered = tokio::select! {
                    biased;
                    entered = door::enter(&context, &config.pooler, accepted.peer) => entered,
                    _ = closing.wait_for(|stop| *stop) => return,
                };
                drop(config);
                admin.until_moving().await;
                match entered {
                    Ok(entrant) => {
                        // On the heap: a large future is copied several times on its way to becoming a task.
                        let entering = Box::pin(serve(Arc::clone(&admin), accepted, entrant));
                        world::spawn(Connection::Entering(entering));
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

/// What becomes of one connection, for simulations.
#[cfg(test)]
pub(crate) async fn admit(admin: Arc<Admin>, accepted: Accepted) {
    let config = admin.context.config.load_full();
    match door::enter(&admin.context, &config.pooler, accepted.peer).await {
        Ok(entrant) => world::spawn(Connection::Entering(Box::pin(serve(admin, accepted, entrant)))),
        Err(error) => turn_away(accepted.stream, accepted.peer, Vec::new(), &error),
    }
}

/// Tells one for whom there is no room; `held` comes first.
fn turn_away(stream: Stream, peer: Peer, held: Vec<u8>, error: &ClientError) {
    debug!(%peer, "closing because: {error}");
    let mut message = held;
    crate::wire::backend::put_error(&mut message, error);
    world::spawn(send_off(stream, message));
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
async fn serve(admin: Arc<Admin>, accepted: Accepted, entrant: Entrant) -> Option<Box<Session>> {
    let context = &admin.context;
    let Accepted { stream, peer, local } = accepted;
    let mut handshake = Some(Handshake::new(stream, local));
    let waiting = Arc::clone(entrant.waiting());
    let entered = tokio::select! {
        biased;
        entered = enter(context, &mut handshake, entrant, peer) => entered,
        end = waiting.ended() => Err(sent_away(end).into()),
    };
    if let Err(error) = &entered {
        context.refusals.count(reason(error));
    }
    match entered {
        Ok(None) => {}
        Ok(Some(Entered::Session(session))) => return Some(session),
        Ok(Some(Entered::Replication(replication))) => {
            world::spawn(Box::pin(replication.run()));
        }
        Ok(Some(Entered::Console(console))) => {
            world::spawn(Box::pin(crate::admin::console::serve(*console, admin)));
        }
        Err(HandshakeError::Io(error)) => debug!(%peer, "connection lost during login: {error}"),
        Err(error @ HandshakeError::Tls(_)) => info!(%peer, "closing because: {error}"),
        Err(HandshakeError::Client(error)) => {
            tell_log(peer, &error);
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

/// What one is told who is sent away from outside.
fn sent_away(end: End) -> ClientError {
    match end {
        End::NoRoom => ClientError::fatal(SqlState::TOO_MANY_CONNECTIONS, NO_ROOM).hint("See max_login_connections."),
        End::Late(limit) => ClientError::fatal(SqlState::CONNECTION_FAILURE, LOGIN_TIMEOUT)
            .detail(format!("The login took longer than {limit:?}."))
            .hint("See client_login_timeout."),
        End::Stop => ClientError::fatal(SqlState::CANNOT_CONNECT_NOW, "Carpool is shutting down"),
    }
}

/// Of those who make room there may be very many.
fn tell_log(peer: Peer, error: &ClientError) {
    if error.message == NO_ROOM {
        debug!(%peer, "closing because: {error}");
    } else {
        info!(%peer, "closing because: {error}");
    }
}

/// Reads what the connection is for, and logs in.
async fn enter(
    context: &Arc<Context>,
    handshake: &mut Option<Handshake>,
    entrant: Entrant,
    peer: Peer,
) -> Result<Option<Entered>, HandshakeError> {
    let config = context.config.load_full();
    let wish = startup::wish(handshake, &config.client_tls).await?;
    drop(config);
    let startup = match wish {
        Wish::Cancel(key) => {
            // Not for a key that is somebody else's at best: passing it on may take long.
            let _busy = context.registry.find(&key).map(|_| entrant.waiting().busy());
            Box::pin(cancel::request(context, &key)).await;
            return Ok(None);
        }
        Wish::Session(startup) => startup,
    };
    // One who isn't in yet has nothing to lose by a stop. Whoever looks after it may come in by the unix socket, which
    // is open to the end.
    let database = startup.parameter("database").unwrap_or_default();
    let local_console = peer == Peer::Unix && login::CONSOLE_DATABASES.contains(&database);
    if !local_console && !entrant.may_log_in() {
        return Err(sent_away(End::Stop).into());
    }
    // It may have taken its time.
    let config = context.config.load_full();
    let Some(admission) = Admission::new(entrant, &config) else { return Err(Admission::refusal().into()) };
    let log = config.pooler.log_connections;
    // Apart, so that one who says nothing doesn't hold the memory for it.
    let entered = Box::pin(login::login(admission, config, handshake, startup, peer)).await?;
    if log {
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
    info!(client = %client.id, peer = %client.peer(), user = %client.user, database = %client.database, tls, "login");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// What few logins need (TLS, LDAP, replication, last words) is not in what all of them are made of: a large future is
    /// copied several times on its way, and takes the caches from everything else.
    #[test]
    fn a_login_is_small() {
        assert!(size(serve) <= 1280, "{}", size(serve));
        let login = size(|(admission, config), handshake: &'static mut Option<Handshake>, (startup, peer)| {
            login::login(admission, config, handshake, startup, peer)
        });
        assert!(login <= 2048, "{login}");
    }
}
