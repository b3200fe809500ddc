//! The outside of a simulation, in the place of the real one on the thread where one runs: a clock that stands still until
//! it is moved, chance by a seed, tasks, and a network in memory. Tests only.

mod pipe;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng, TryCryptoRng, TryRng};

use super::stream::Stream;
use super::timer;
use crate::protocol::statements::SIMULATED_ID;
pub use pipe::SimulatedStream;
use pipe::{Pipe, pair};

/// A task.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What becomes of connections to servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Servers {
    /// They are accepted.
    #[default]
    Accept,
    /// They are refused.
    Refuse,
}

struct World {
    base: Instant,
    passed: Cell<Duration>,
    /// What production code draws from, and what the network does: apart, so that one more draw here doesn't move the other.
    chance: RefCell<StdRng>,
    network: RefCell<StdRng>,
    spawned: RefCell<Vec<Task>>,
    /// Where something is on its way, or may be.
    busy: RefCell<BTreeMap<u64, Arc<Mutex<Pipe>>>>,
    next_pipe: Cell<u64>,
    next_server: Cell<u64>,
    servers: Cell<Servers>,
    /// The far ends of connections to servers.
    incoming: RefCell<Vec<Stream>>,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fn with<R>(f: impl FnOnce(&World) -> R) -> Option<R> {
    WORLD.try_with(|world| world.borrow().as_ref().map(f)).ok().flatten()
}

/// A simulation runs on this thread as long as this lives.
#[derive(Debug)]
pub struct Running(());

/// Begins one.
#[must_use]
pub fn begin(seed: u64) -> Running {
    let world = World {
        base: Instant::now(),
        passed: Cell::default(),
        chance: RefCell::new(StdRng::seed_from_u64(seed ^ 0x5eed)),
        network: RefCell::new(StdRng::seed_from_u64(seed ^ 0x00ff_11e5)),
        spawned: RefCell::default(),
        busy: RefCell::default(),
        next_pipe: Cell::default(),
        next_server: Cell::new(1),
        servers: Cell::default(),
        incoming: RefCell::default(),
    };
    WORLD.with(|there| *there.borrow_mut() = Some(world));
    SIMULATED_ID.set(Some(1));
    Running(())
}

impl Drop for Running {
    fn drop(&mut self) {
        let world = WORLD.with(|there| there.borrow_mut().take());
        drop(world);
        SIMULATED_ID.set(None);
        timer::simulated::forget();
    }
}

/// Whether one runs on this thread.
#[must_use]
pub fn is_running() -> bool {
    with(|_| ()).is_some()
}

/// Its time.
#[must_use]
pub fn now() -> Option<Instant> {
    with(|world| world.base + world.passed.get())
}

/// How much time has passed in it.
#[must_use]
pub fn passed() -> Duration {
    with(|world| world.passed.get()).unwrap_or_default()
}

/// Its time of day.
#[must_use]
pub fn time_of_day() -> Option<SystemTime> {
    with(|world| UNIX_EPOCH + Duration::from_secs(1_700_000_000) + world.passed.get())
}

/// Lets time pass; whoever waits for less is woken.
pub fn advance(by: Duration) {
    with(|world| world.passed.set(world.passed.get() + by));
    timer::simulated::ring();
}

/// Lets time pass up to the first timer. False where nobody waits.
pub fn advance_to_next() -> bool {
    let (Some(next), Some(now)) = (timer::simulated::next(), now()) else { return false };
    advance(next.saturating_duration_since(now));
    true
}

/// Takes a task to be run.
pub fn spawn(task: Task) {
    with(|world| world.spawned.borrow_mut().push(task));
}

/// The tasks that are to be run.
#[must_use]
pub fn take_spawned() -> Vec<Task> {
    with(|world| world.spawned.take()).unwrap_or_default()
}

/// Sets what becomes of connections to servers from now on.
pub fn set_servers(servers: Servers) {
    with(|world| world.servers.set(servers));
}

/// The far ends of new connections to servers.
#[must_use]
pub fn take_incoming() -> Vec<Stream> {
    with(|world| world.incoming.take()).unwrap_or_default()
}

/// The next server's number, if a simulation runs.
#[must_use]
pub fn next_server() -> Option<u64> {
    with(|world| world.next_server.replace(world.next_server.get() + 1))
}

/// Connects to a server, if a simulation runs.
#[must_use]
pub fn connect() -> Option<io::Result<Stream>> {
    let servers = with(|world| world.servers.get())?;
    if servers == Servers::Refuse {
        return Some(Err(io::ErrorKind::ConnectionRefused.into()));
    }
    let (near, far) = connection();
    with(|world| world.incoming.borrow_mut().push(far));
    Some(Ok(near))
}

/// A new connection's two ends.
#[must_use]
pub fn connection() -> (Stream, Stream) {
    let (near, far) = pair(&mut next_pipe);
    (Stream::Simulated(near), Stream::Simulated(far))
}

fn next_pipe() -> u64 {
    let next = || with(|world| world.next_pipe.replace(world.next_pipe.get() + 1));
    next().unwrap_or_default()
}

/// Something is on its way.
fn note_busy(number: u64, pipe: &Arc<Mutex<Pipe>>) {
    with(|world| world.busy.borrow_mut().insert(number, Arc::clone(pipe)));
}

/// How many connections have bytes on their way, at most.
#[must_use]
pub fn busy_count() -> usize {
    with(|world| world.busy.borrow().len()).unwrap_or_default()
}

/// Brings a part of what is on its way in the connection that comes at `at` to its end.
pub fn deliver(at: usize) {
    let pipe = with(|world| world.busy.borrow().iter().nth(at).map(|(number, pipe)| (*number, Arc::clone(pipe))));
    let Some(Some((number, pipe))) = pipe else { return };
    let (left, wakers) = {
        let mut pipe = pipe.lock();
        with(|world| pipe.deliver(&mut world.network.borrow_mut())).unwrap_or_default()
    };
    if !left {
        with(|world| world.busy.borrow_mut().remove(&number));
    }
    wakers.into_iter().flatten().for_each(std::task::Waker::wake);
}

/// A number below `n`, for the network.
fn below(n: usize) -> usize {
    with(|world| world.network.borrow_mut().random_range(0..n.max(1))).unwrap_or_default()
}

/// What production code draws from: by the seed where a simulation runs, else as in production.
#[derive(Debug)]
pub struct Chance;

impl Chance {
    fn draw<R>(simulated: impl FnOnce(&mut StdRng) -> R) -> Option<R> {
        with(|world| simulated(&mut world.chance.borrow_mut()))
    }
}

impl TryRng for Chance {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(Self::draw(Rng::next_u32).unwrap_or_else(|| rand::rng().next_u32()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(Self::draw(Rng::next_u64).unwrap_or_else(|| rand::rng().next_u64()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        match is_running() {
            true => drop(Self::draw(|rng| rng.fill_bytes(bytes))),
            false => rand::rng().fill_bytes(bytes),
        }
        Ok(())
    }
}

impl TryCryptoRng for Chance {}
