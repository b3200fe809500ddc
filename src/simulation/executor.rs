//! Runs tasks one at a time; chance decides which is next.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::stage::Stage;
use crate::net::simulated;

/// A task, of the simulation or of production code.
pub(super) type Task = Pin<Box<dyn Future<Output = ()>>>;

/// One in so many steps time passes although there is something to do.
const STEPS_PER_TIME: u32 = 40;

/// See the module.
pub(super) struct Executor {
    tasks: BTreeMap<u64, (Task, Waker)>,
    ready: Ready,
    next: u64,
    chance: StdRng,
    /// Turns of tasks and pieces of bytes so far.
    pub(super) steps: u64,
}

/// In the order of their numbers: in which order they were woken says nothing.
type Ready = Arc<Mutex<BTreeSet<u64>>>;

struct Bell {
    number: u64,
    ready: Ready,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ready.lock().insert(self.number);
    }
}

impl Executor {
    pub(super) fn new(seed: u64) -> Self {
        let chance = StdRng::seed_from_u64(seed ^ 0xe8ec);
        Self { tasks: BTreeMap::new(), ready: Ready::default(), next: 0, chance, steps: 0 }
    }

    fn add(&mut self, task: Task) {
        let number = self.next;
        self.next += 1;
        let waker = Waker::from(Arc::new(Bell { number, ready: Arc::clone(&self.ready) }));
        self.tasks.insert(number, (task, waker));
        self.ready.lock().insert(number);
    }

    fn take_new(&mut self, stage: &Rc<Stage>) {
        for task in simulated::take_spawned() {
            self.add(task);
        }
        stage.serve_new();
        for task in stage.take_spawned() {
            self.add(task);
        }
    }

    /// One step, or time passes where there is nothing to do.
    ///
    /// # Panics
    /// When nothing will ever happen.
    pub(super) fn turn(&mut self, stage: &Rc<Stage>) {
        self.take_new(stage);
        let (ready, busy) = (self.ready.lock().len(), simulated::busy_count());
        if ready + busy == 0 {
            assert!(simulated::advance_to_next(), "nobody waits for anything");
            return;
        }
        if self.chance.random_range(0..STEPS_PER_TIME) == 0 {
            simulated::advance(Duration::from_micros(self.chance.random_range(1..3000)));
        }
        self.steps += 1;
        let choice = self.chance.random_range(0..ready + busy);
        stage.mix([ready as u64, busy as u64, choice as u64]);
        if choice >= ready {
            simulated::deliver(choice - ready);
            return;
        }
        let number = {
            let mut ready = self.ready.lock();
            let number = ready.iter().nth(choice).copied().unwrap_or_default();
            ready.remove(&number);
            number
        };
        let Some((task, waker)) = self.tasks.get_mut(&number) else { return };
        if task.as_mut().poll(&mut Context::from_waker(waker)).is_ready() {
            self.tasks.remove(&number);
        }
    }
}
