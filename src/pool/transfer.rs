//! Servers that go to the process that takes this one's place, instead of being closed.
//!
//! Only such about which everything can be said: idle over a plain socket, of a pool with one host, never named by a
//! cancel request, and reset once more before they go ([`Server::may_go`](crate::server::Server::may_go)). The slot goes
//! with the server, in one message: until that is sent it counts here, as that of a server that is being closed, and from
//! its arrival on there. Whoever has the socket last closes it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::background::{self, Slot, TIDY_TIMEOUT};
use super::cede::Kept;
use super::{Pool, PoolUser, Pooled, Purpose, Welcome};
use crate::auth::carried::CarriedCredentials;
use crate::config::{Config, Host};
use crate::names::{DatabaseName, UserName};
use crate::net::stream::{IdleState, Stream};
use crate::net::world::{self, spawn_if_running as spawn};
use crate::protocol::settings::{Settings, follows_client};
use crate::server::carried::{CarriedServer, Known};
use crate::tls::SslMode;

/// Where servers come out that are to go.
pub type Way = mpsc::UnboundedSender<Leaving>;

/// A server that was reset and is to go. Dropped, it is closed.
#[derive(Debug)]
pub struct Leaving(Option<Box<Pooled>>);

/// A server for the other process, and what else goes with it.
#[derive(Serialize, Deserialize)]
pub struct Arrival {
    /// Whose pool it is in.
    pub database: String,
    /// Who it is logged in as.
    pub user: String,
    credentials: CarriedCredentials,
    /// What servers of the user say at their login.
    welcome: Vec<(String, String)>,
    target: String,
    is_tcp: bool,
    /// The database's name there.
    dbname: String,
    tls: String,
    server: CarriedServer,
    /// What the old process keeps of the pool without it.
    kept: Kept,
}

/// Has an idle server that counts as being closed go to the other process, if there is one and it can, or else closes it.
pub(super) fn part(pooled: Box<Pooled>) {
    match pooled.pool.control.way() {
        Some(way) if pooled.may_go() => reset(Leaving(Some(pooled)), way),
        _ => background::close(pooled, Slot::Closing),
    }
}

/// Whatever the configuration has as a reset query: the other process knows nothing of what it leaves.
fn reset(mut leaving: Leaving, way: Way) {
    spawn(async move {
        let Some(pooled) = &mut leaving.0 else { return };
        let settings = &pooled.pool.tables.settings;
        match pooled.server.reset("DISCARD ALL", settings, TIDY_TIMEOUT).await {
            // One that comes back, as nobody takes it, is dropped.
            Ok(()) => drop(way.send(leaving)),
            Err(error) => warn!(server = %pooled.server.shared.id, "closing because: reset query failed: {error}"),
        }
    });
}

impl Pooled {
    fn may_go(&self) -> bool {
        let (pool, spec) = (&self.pool, self.pool.spec.load());
        let known = self.user.purpose == Purpose::Clients && spec.policy.is_plain() && spec.connect_query.is_none();
        // What several Carpools share is written down for each process.
        let known = known && !pool.control.is_shared();
        known && !pool.is_outdated(&self.server.shared) && self.server.may_go()
    }
}

impl Leaving {
    /// What the other process is to be told; `None`: it is to be closed after all.
    pub fn pack(&self) -> Option<Arrival> {
        let pooled = self.0.as_ref()?;
        if !pooled.may_go() || pooled.server.stream.idle_state_now() != IdleState::Quiet {
            return None;
        }
        let Pooled { pool, user, server, .. } = &**pooled;
        let spec = pool.spec.load();
        Some(Arrival {
            database: pool.name.as_str().to_owned(),
            user: user.name.as_str().to_owned(),
            credentials: CarriedCredentials::from(&*user.credentials.lock()),
            welcome: user.welcome.load().as_ref()?.parameters.clone(),
            target: server.shared.target.to_string(),
            is_tcp: matches!(server.shared.target.host, Host::Tcp(_)),
            dbname: spec.dbname.clone(),
            tls: spec.tls.settings.mode.as_str().to_owned(),
            server: server.carry()?,
            kept: pool.kept_without(user.index)?,
        })
    }

    /// Its socket, to be sent.
    #[must_use]
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref()?.server.stream.as_fd()
    }

    /// The other process has it, and its slot.
    pub fn gone(mut self) {
        if let Some(pooled) = self.0.take() {
            debug!(server = %pooled.server.shared.id, database = %pooled.pool.name, "goes to the new process");
            background::let_go(*pooled);
        }
    }

    /// The other process may have had it, and is no more: nobody knows what it has said to the server.
    pub fn distrust(&mut self) {
        if let Some(pooled) = &mut self.0 {
            pooled.server.cut = true;
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Some(pooled) = self.0.take() {
            background::close(pooled, Slot::Closing);
        }
    }
}

impl Arrival {
    /// What the old process keeps of which pool.
    #[must_use]
    pub fn kept(&self) -> (DatabaseName, Kept) {
        (DatabaseName::from(self.database.as_str()), self.kept.clone())
    }

    /// Closes a server whose database there isn't any more.
    pub(super) fn turn_away(self, socket: OwnedFd) {
        info!(database = %self.database, "closing because: database was removed from the configuration");
        drop(socket);
    }

    /// Whether a pool would log in to what it is logged in to.
    fn suits(&self, pool: &Pool) -> bool {
        let spec = pool.spec.load();
        let (target, tls) = (spec.policy.first(), spec.tls.settings.mode);
        let there = target.to_string() == self.target && matches!(target.host, Host::Tcp(_)) == self.is_tcp;
        let same = there && spec.policy.is_plain() && spec.dbname == self.dbname && spec.connect_query.is_none();
        // As when the configuration is read anew: one that was made by other rules isn't to stay.
        let plain = tls < SslMode::Require && tls.as_str() == self.tls;
        same && plain && !pool.control.is_shared() && !pool.is_retired()
    }
}

impl Pool {
    /// Takes in a server of the other process, with its slot, if it suits; `may_be`: its user may have servers here. Says
    /// whether it stays.
    pub(super) fn take_in(self: &Arc<Self>, arrival: Arrival, socket: OwnedFd, may_be: bool, config: &Config) -> bool {
        // A server from before the first RECONNECT, PAUSE or move in this process is outdated.
        let suits = may_be && self.control.generation() == 0 && arrival.suits(self);
        let name = UserName::from(arrival.user.as_str());
        let user = self.user_of_arrived(&name, arrival.credentials.into(), config.user_share(&name));
        let stream = Stream::from_fd(socket, arrival.is_tcp);
        let Ok(stream) = stream.inspect_err(|error| warn!("a server's socket could not be taken over: {error}")) else {
            self.set_elsewhere(arrival.kept);
            return false;
        };
        let spec = self.spec.load_full();
        let (target, max_prepared_statements) = (spec.policy.first(), spec.max_prepared_statements);
        let known = Known { target, user: name, generation: 0, max_prepared_statements };
        let server = arrival.server.unpack(stream, known, &self.tables);
        self.books.adopt(&server.shared);
        self.take_over(user.index, arrival.kept);
        if suits {
            user.welcome_as(arrival.welcome, self);
        }
        let pooled = Pooled { server, pool: Arc::clone(self), user, lent: world::now(), loan: None, waited: 0 };
        let stays = pooled.settle(suits);
        self.pump();
        stays
    }
}

impl Pooled {
    /// Offers a server that has come to who waits, or closes it.
    fn settle(self, suits: bool) -> bool {
        let shared = &self.server.shared;
        let options = self.pool.spec.load().options;
        let ready =
            self.server.stream.set_options(&options).is_ok() && self.server.stream.idle_state_now() == IdleState::Quiet;
        let stays = suits && ready;
        if stays {
            debug!(server = %shared.id, database = %self.pool.name, user = %self.user.name, "a server has come over");
            Pool::offer(Box::new(self), world::now(), false);
        } else {
            info!(server = %shared.id, database = %self.pool.name, "closing because: it isn't what this process would log in to");
            background::close(Box::new(self), Slot::Loan);
        }
        stays
    }
}

impl PoolUser {
    /// Notes what servers say at their login, where none has logged in here.
    fn welcome_as(&self, parameters: Vec<(String, String)>, pool: &Pool) {
        if self.welcome.load().is_some() {
            return;
        }
        let reported = parameters.iter().filter(|(name, _)| follows_client(name)).map(|(n, v)| (n, v));
        let baseline = pool.tables.settings.intern(Settings::from_reported(reported));
        self.welcome.store(Some(Arc::new(Welcome { parameters, baseline })));
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    use super::*;
    use crate::config::Database;
    use crate::pool::control::Pauser;
    use crate::pool::directory::Directory;

    /// What PostgreSQL says to DISCARD ALL.
    const DISCARDED: &[u8] = b"C\0\0\0\x10DISCARD ALL\0Z\0\0\0\x05I";
    const TERMINATE: &[u8] = b"X\0\0\0\x04";

    fn config() -> Config {
        let host = vec![Host::Unix("/nowhere".into())];
        let mut config = Config::default();
        config.databases.insert("d".into(), Database { host, pool_size: 3, ..Database::default() });
        config
    }

    fn directory(config: &Config) -> (Directory, Arc<Pool>) {
        let directory = Directory::default();
        directory.apply(config);
        let pool = directory.find("d").unwrap();
        (directory, pool)
    }

    fn arrival(kept: u32) -> Arrival {
        let server =
            r#"{"key":[7,[0,0,0,1]],"connected":{"secs":0,"nanos":0},"left":null,"state":{"reported":[],"pid":7}}"#;
        Arrival {
            database: "d".into(),
            user: "u".into(),
            credentials: CarriedCredentials::None,
            welcome: vec![("server_version".into(), "17.1".into())],
            target: "/nowhere:5432".into(),
            is_tcp: false,
            dbname: "d".into(),
            tls: "disable".into(),
            server: serde_json::from_str(server).unwrap(),
            kept: Kept { total: kept, users: Vec::new() },
        }
    }

    /// A server's socket, and PostgreSQL's end of it.
    fn socket() -> (OwnedFd, UnixStream) {
        let (own, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        (own.into(), UnixStream::from_std(theirs).unwrap())
    }

    /// Takes a server in; PostgreSQL's end of it.
    fn take_in(directory: &Directory, arrival: Arrival, config: &Config) -> UnixStream {
        let (own, theirs) = socket();
        directory.take_in(arrival, own, config);
        theirs
    }

    fn idle(pool: &Pool) -> u32 {
        pool.counts().iter().map(|(_, counts)| counts.idle).sum()
    }

    /// What a pool may have just now.
    fn size(pool: &Pool) -> u32 {
        pool.control.limits(&pool.spec.load()).size
    }

    async fn discards(server: &mut UnixStream) {
        let mut text = [0; 17];
        server.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"Q\0\0\0\x10DISCARD ALL\0");
        server.write_all(DISCARDED).await.unwrap();
    }

    /// What is said to a server until its connection is shut.
    async fn until_shut(mut server: UnixStream) -> Vec<u8> {
        let mut said = Vec::new();
        server.read_to_end(&mut said).await.unwrap();
        said
    }

    async fn until_empty(pool: &Pool) {
        while pool.slots() > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn the_slot_goes_with_the_server() {
        let config = config();
        let ((old, old_pool), (new, new_pool)) = (directory(&config), directory(&config));
        let _claims = new.share();
        let mut servers: Vec<_> = (0..3).map(|_| take_in(&old, arrival(0), &config)).collect();
        assert_eq!((old_pool.slots(), idle(&old_pool)), (3, 3));
        let (way, mut going) = mpsc::unbounded_channel();
        new.divide(vec![("d".into(), old_pool.cede(|_| false, 0, &way))], &config);
        assert_eq!((old_pool.slots(), idle(&old_pool), size(&new_pool)), (3, 0, 0));
        for server in &mut servers {
            discards(server).await;
        }
        for there in 1..=3 {
            let leaving = going.recv().await.unwrap();
            let json = serde_json::to_vec(&leaving.pack().unwrap()).unwrap();
            let socket = leaving.socket().unwrap().try_clone_to_owned().unwrap();
            leaving.gone();
            assert_eq!((old_pool.slots(), size(&new_pool)), (3 - there, there - 1));
            new.take_in(serde_json::from_slice(&json).unwrap(), socket, &config);
            assert_eq!((new_pool.slots(), idle(&new_pool), size(&new_pool)), (there, there, there));
        }
        assert_eq!(old_pool.cede(|_| false, 0, &way).total, 0);
        assert!(new_pool.user_of_arrived(&"u".into(), CarriedCredentials::None.into(), None).welcome.load().is_some());
        new_pool.retire();
        for server in servers {
            assert_eq!(until_shut(server).await, TERMINATE);
        }
        until_empty(&new_pool).await;
    }

    /// Somebody may come whom the old process wants a slot for.
    #[tokio::test]
    async fn a_server_whose_slot_is_not_given_up_is_closed() {
        let config = config();
        let (old, pool) = directory(&config);
        let mut server = take_in(&old, arrival(0), &config);
        let (way, mut going) = mpsc::unbounded_channel();
        assert_eq!(pool.cede(|_| false, 3, &way).total, 2);
        discards(&mut server).await;
        assert!(going.recv().await.unwrap().pack().is_none());
        assert_eq!(until_shut(server).await, TERMINATE);
        until_empty(&pool).await;
    }

    /// What happens to one while it waits to be given away.
    #[tokio::test]
    async fn one_that_is_not_as_it_was_stays() {
        type Happens = fn(&Leaving, &mut UnixStream, &Pool);
        let happens: [Happens; 4] = [
            |_, server, _| assert_eq!(server.try_write(b"N\0\0\0\x04").unwrap(), 5),
            |_, _, pool| pool.control.end_generation(),
            |leaving, _, _| {
                leaving.0.as_ref().unwrap().server.shared.doomed.store(true, std::sync::atomic::Ordering::Release)
            },
            |leaving, _, _| {
                drop(crate::server::cancel::CancelInFlight::begin(&leaving.0.as_ref().unwrap().server.shared))
            },
        ];
        for (round, happens) in happens.into_iter().enumerate() {
            let config = config();
            let (old, pool) = directory(&config);
            let mut server = take_in(&old, arrival(0), &config);
            let (way, mut going) = mpsc::unbounded_channel();
            assert_eq!(pool.cede(|_| false, 0, &way).total, 1);
            discards(&mut server).await;
            let leaving = going.recv().await.unwrap();
            happens(&leaving, &mut server, &pool);
            assert!(leaving.pack().is_none(), "round {round}");
            drop((leaving, server));
            until_empty(&pool).await;
        }
    }

    /// The new process may have sent it a part of a message.
    #[tokio::test]
    async fn nothing_is_said_to_one_that_another_may_have_had() {
        let config = config();
        let (old, pool) = directory(&config);
        let mut server = take_in(&old, arrival(0), &config);
        let (way, mut going) = mpsc::unbounded_channel();
        assert_eq!(pool.cede(|_| false, 0, &way).total, 1);
        discards(&mut server).await;
        let mut leaving = going.recv().await.unwrap();
        leaving.distrust();
        drop(leaving);
        assert_eq!(pool.slots(), 1, "PostgreSQL hasn't hung up");
        assert_eq!(until_shut(server).await, b"");
        until_empty(&pool).await;
    }

    #[tokio::test]
    async fn what_does_not_suit_is_closed_and_counts_until_then() {
        type Change = fn(&mut Config, &mut Arrival, &Pool);
        let changes: [Change; 9] = [
            |_, arrival, _| arrival.target = "/elsewhere:5432".into(),
            |_, arrival, _| arrival.is_tcp = true,
            |_, arrival, _| arrival.dbname = "other".into(),
            |_, arrival, _| arrival.tls = "prefer".into(),
            |config, _, _| config.databases.get_mut("d").unwrap().user = Some("other".into()),
            |config, _, _| config.databases.get_mut("d").unwrap().connect_query = Some("select 1".into()),
            |config, _, _| config.databases.get_mut("d").unwrap().host.push(Host::Unix("/more".into())),
            |_, _, pool| pool.control.end_generation(),
            |config, _, _| config.databases.get_mut("d").unwrap().pool_size = 1,
        ];
        for (round, change) in changes.into_iter().enumerate() {
            let (mut config, mut arrival) = (config(), arrival(1));
            let (new, pool) = directory(&config);
            change(&mut config, &mut arrival, &pool);
            new.apply(&config);
            let server = take_in(&new, arrival, &config);
            let pool = new.find("d").unwrap();
            assert_eq!((pool.slots(), idle(&pool)), (1, 0), "round {round}");
            assert_eq!(until_shut(server).await, TERMINATE, "round {round}");
            until_empty(&pool).await;
        }
    }

    /// As one that was terminated on the way has.
    #[tokio::test]
    async fn one_that_has_said_something_is_closed() {
        let config = config();
        let (new, pool) = directory(&config);
        let (own, mut theirs) = socket();
        theirs.write_all(b"E\0\0\0\x05\0").await.unwrap();
        new.take_in(arrival(0), own, &config);
        assert_eq!(idle(&pool), 0);
        assert_eq!(until_shut(theirs).await, TERMINATE);
        until_empty(&pool).await;
    }

    #[tokio::test]
    async fn where_nobody_may_have_it_it_is_closed() {
        let mut config = config();
        let (new, pool) = directory(&config);
        pool.pause(Pauser::Database);
        assert_eq!(until_shut(take_in(&new, arrival(0), &config)).await, TERMINATE);
        until_empty(&pool).await;
        config.databases.clear();
        config.fallback = None;
        new.apply(&config);
        assert_eq!(until_shut(take_in(&new, arrival(0), &config)).await, b"");
    }
}
