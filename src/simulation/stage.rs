//! What all parts of a simulation share, and the checks that need the whole.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;

use super::Outcome;
use super::executor::{Executor, Task};
use super::postgres::{self, Control};
use crate::admin::{self, Admin};
use crate::client::Context;
use crate::client::registry::order;
use crate::config::{AuthType, Config, Database, Host, PoolMode, User};
use crate::error::{ClientError, SqlState};
use crate::net::simulated::{self, Servers};
use crate::pool::Pool;
use crate::protocol::request::tests::backend;

/// The databases. In the last one clients have their servers for as long as they are there.
pub(super) const DATABASES: [&str; 3] = ["db", "other", "sessions"];
const SESSIONS: &str = DATABASES[2];

/// A client, for as long as something of it may be somewhere.
#[derive(Clone, Default, Debug)]
struct Person {
    database: &'static str,
    user: &'static str,
    /// The number that it was given.
    number: Option<u32>,
    /// The server that it has for its whole session.
    server: Option<u32>,
    /// Its session ends, or has ended.
    gone: bool,
}

/// Cancels of one client's queries.
#[derive(Clone, Copy, Default, Debug)]
struct Cancels {
    wanted: u32,
    hit: u32,
}

/// See the module.
pub(super) struct Stage {
    chance: RefCell<StdRng>,
    spawned: RefCell<Vec<Task>>,
    hash: Cell<u64>,
    tells: bool,
    /// What fails, if anything may.
    pub(super) faults: bool,
    stopping: Cell<bool>,
    /// Clients that have not come to their end.
    pub(super) clients: Cell<u32>,
    next_client: Cell<u64>,
    pub(super) backends: RefCell<BTreeMap<u32, Rc<Control>>>,
    next_pid: Cell<u32>,
    cancels: RefCell<BTreeMap<u64, Cancels>>,
    people: RefCell<BTreeMap<u64, Person>>,
    /// How many of the databases clients want.
    databases: usize,
    pub(super) database: Rc<RefCell<backend::Database>>,
    pub(super) context: Arc<Context>,
    pub(super) admin: Arc<Admin>,
    /// The largest that the pool was allowed to be.
    most_servers: Cell<u32>,
    replies: Cell<u64>,
    losses: Cell<u64>,
}

fn config(pool_size: u32, reuses_unnamed: bool) -> Config {
    let mut config = Config::default();
    config.pooler.reuse_unnamed_statements = reuses_unnamed;
    config.pooler.auth_type = AuthType::Trust;
    config.pooler.query_wait_timeout = Duration::from_secs(500);
    config.pooler.server_login_retry = Duration::from_secs(1);
    config.pooler.server_idle_timeout = Duration::from_secs(20);
    config.pooler.server_lifetime = Duration::from_secs(50);
    for user in ["anna", "bert"] {
        config.users.insert(user.into(), User::default());
    }
    for name in DATABASES {
        let host = vec![Host::Tcp("simulated".into())];
        let pool_mode = (name == SESSIONS).then_some(PoolMode::Session);
        config.databases.insert(name.into(), Database { host, pool_size, pool_mode, ..Database::default() });
    }
    config
}

impl Stage {
    pub(super) fn new(seed: u64, tells: bool) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let pool_size = chance.random_range(1..5);
        let context = Arc::new(Context::new(config(pool_size, chance.random_range(0..2) > 0)));
        let (_, stopping) = watch::channel(false);
        let admin = Arc::new(Admin::new(Arc::clone(&context), admin::Control::new().0, stopping));
        let (faults, databases) = (chance.random_range(0..3) > 0, [1, DATABASES.len()][chance.random_range(0..2)]);
        Self {
            faults,
            databases,
            chance: RefCell::new(chance),
            spawned: RefCell::default(),
            hash: Cell::new(seed),
            tells,
            stopping: Cell::new(false),
            clients: Cell::new(0),
            next_client: Cell::new(1),
            backends: RefCell::default(),
            next_pid: Cell::new(100),
            cancels: RefCell::default(),
            people: RefCell::default(),
            database: Rc::default(),
            context,
            admin,
            most_servers: Cell::new(pool_size),
            replies: Cell::new(0),
            losses: Cell::new(0),
        }
    }

    /// A number below `n`.
    pub(super) fn below(&self, n: u64) -> u64 {
        self.chance.borrow_mut().random_range(0..n.max(1))
    }

    /// True once in `n` times.
    pub(super) fn once_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// As [`Self::once_in`], where things may fail.
    pub(super) fn fails_once_in(&self, n: u64) -> bool {
        self.once_in(n) && self.faults && !self.is_stopping()
    }

    /// Up to `most` microseconds.
    pub(super) fn time(&self, most: u64) -> Duration {
        Duration::from_micros(1 + self.below(most))
    }

    /// Adds numbers to the hash of what has happened.
    pub(super) fn mix(&self, numbers: [u64; 3]) {
        let mix = |hash: u64, number: u64| (hash ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        self.hash.set(numbers.into_iter().fold(self.hash.get(), mix));
    }

    /// Notes what happens.
    pub(super) fn note(&self, what: impl FnOnce() -> String) {
        if self.tells {
            println!("{:>12.6} {}", simulated::passed().as_secs_f64(), what());
        }
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.spawned.borrow_mut().push(Box::pin(task));
    }

    pub(super) fn take_spawned(&self) -> Vec<Task> {
        self.spawned.take()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    pub(super) fn next_client(&self) -> u64 {
        self.next_client.replace(self.next_client.get() + 1)
    }

    pub(super) fn next_pid(&self) -> u32 {
        self.next_pid.replace(self.next_pid.get() + 1)
    }

    pub(super) fn note_reply(&self) {
        self.replies.set(self.replies.get() + 1);
    }

    pub(super) fn note_loss(&self) {
        self.losses.set(self.losses.get() + 1);
    }

    pub(super) fn cancel_wanted(&self, client: u64) {
        self.cancels.borrow_mut().entry(client).or_default().wanted += 1;
    }

    /// A client logs in, to any database as any user.
    pub(super) fn logs_in(&self, client: u64) -> (&'static str, &'static str) {
        let user = if self.once_in(3) { "bert" } else { "anna" };
        let database = DATABASES[usize::try_from(self.below(self.databases as u64)).unwrap()];
        self.people.borrow_mut().insert(client, Person { database, user, ..Person::default() });
        (database, user)
    }

    /// It was given this number.
    pub(super) fn is_in(&self, client: u64, number: u32) {
        self.people.borrow_mut().entry(client).or_default().number = Some(number);
    }

    /// Its session ends: what it left running is cancelled, and others may have its server.
    pub(super) fn is_gone(&self, client: u64) {
        self.people.borrow_mut().entry(client).or_default().gone = true;
    }

    /// Ends any client's session from outside.
    pub(super) fn end_one(&self) {
        let clients = self.context.registry.all();
        if clients.is_empty() {
            return;
        }
        let chosen = &clients[usize::try_from(self.below(clients.len() as u64)).unwrap()];
        let mut people = self.people.borrow_mut();
        let Some((id, person)) = people.iter_mut().find(|(_, person)| person.number == Some(chosen.key.pid)) else {
            // It doesn't know yet that it is in.
            return;
        };
        self.note(|| format!("client {id} is to end"));
        person.gone = true;
        chosen.end(order::END_NOW, ClientError::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection"));
    }

    /// A request of this client's has come to a server, whose last client was another or the same.
    ///
    /// # Panics
    /// When it must not be there.
    pub(super) fn check_place(&self, client: u64, server: &Control, pid: u32) {
        let mut people = self.people.borrow_mut();
        let person = people.entry(client).or_default();
        let (is, wanted) = ((server.database.as_str(), server.user.as_str()), (person.database, person.user));
        assert_eq!(is, wanted, "client {client} is at server {pid}, which is another database's or user's");
        if person.database != SESSIONS {
            return;
        }
        let own = *person.server.get_or_insert(pid);
        assert_eq!(own, pid, "client {client} has got another server in its session");
        let before = people.iter().find(|(id, other)| **id != client && other.server == Some(pid) && !other.gone);
        assert!(before.is_none(), "client {client} has got server {pid}, which still is that of {before:?}");
    }

    /// Whether it has asked for a cancel.
    pub(super) fn has_cancelled(&self, client: u64) -> bool {
        self.cancels.borrow().get(&client).is_some_and(|cancels| cancels.wanted > 0)
    }

    /// A query of this client's is cancelled.
    ///
    /// # Panics
    /// When nobody wanted that.
    pub(super) fn cancel_hits(&self, client: u64) {
        let gone = self.people.borrow().get(&client).is_some_and(|person| person.gone);
        let mut cancels = self.cancels.borrow_mut();
        let of_client = cancels.entry(client).or_default();
        of_client.hit += 1;
        let wanted = gone || of_client.hit <= of_client.wanted;
        assert!(wanted, "a cancel hit client {client}, who didn't ask for it: {of_client:?}");
    }

    /// Any pool.
    pub(super) fn pool(&self) -> Arc<Pool> {
        let pools = self.context.pools.all();
        Arc::clone(&pools[usize::try_from(self.below(pools.len() as u64)).unwrap()])
    }

    /// How large the pool may be from now on.
    pub(super) fn resize(&self, pool_size: u32) {
        self.most_servers.set(self.most_servers.get().max(pool_size));
        crate::pooler::reload::apply(&self.context, config(pool_size, self.once_in(2)));
    }

    /// A server of this database is in use.
    ///
    /// # Panics
    /// When there are too many.
    pub(super) fn check_servers(&self, database: &str) {
        let backends = self.backends.borrow();
        let used = backends.values().filter(|control| control.is_used.get() && control.database == database).count();
        assert!(used <= self.most_servers.get() as usize, "{used} servers of {database}");
    }

    /// Gives each new connection a server.
    pub(super) fn serve_new(self: &Rc<Self>) {
        for stream in simulated::take_incoming() {
            self.spawn(postgres::serve(Rc::clone(self), stream));
        }
    }

    /// From now on nothing fails any more, and clients come to their ends.
    pub(super) fn stop(&self) {
        self.note(|| "all come to their ends".into());
        self.stopping.set(true);
        simulated::set_servers(Servers::Accept);
    }

    /// Everybody has gone: nothing is left of them.
    pub(super) fn check_rest(&self) {
        let context = &self.context;
        assert_eq!(context.registry.connections(), 0, "clients are left in the registry");
        assert_eq!(context.door.waiting(), 0, "connections are left at the door");
        let mut all_idle = 0;
        for pool in context.pools.all() {
            let idle = pool.idle_servers().len();
            assert_eq!(pool.slots() as usize, idle, "slots are taken without a server: {:?}", pool.counts());
            for server in pool.servers() {
                assert!(server.holder.lock().is_none(), "{} is still held", server.id);
                assert_eq!(server.cancels.load(Ordering::Relaxed), 0, "a cancel is still counted");
            }
            assert_eq!(pool.servers().len(), idle, "servers are in the books that are no more");
            all_idle += idle;
        }
        let living = self.backends.borrow().values().filter(|control| control.is_logged_in.get()).count();
        assert_eq!(living, all_idle, "server connections that no pool knows");
    }

    pub(super) fn retire(&self) {
        self.context.pools.all().iter().for_each(Pool::retire);
    }

    pub(super) fn check_end(&self) {
        assert!(self.context.pools.all().iter().all(|pool| pool.slots() == 0), "slots of a retired pool");
        assert!(self.backends.borrow().is_empty(), "server connections of a retired pool");
    }

    pub(super) fn outcome(&self, executor: &Executor) -> Outcome {
        let cancels = self.cancels.borrow().values().map(|cancels| u64::from(cancels.hit)).sum();
        let (replies, losses) = (self.replies.get(), self.losses.get());
        Outcome { hash: self.hash.get(), steps: executor.steps, replies, cancels, losses }
    }
}
