//! Which numbers clients get, which they take for those of processes: never one that somebody has.
//!
//! Processes that follow each other ([`super::exodus`]) have clients at the same time, and pass cancel requests on by these
//! numbers. So each gives out those of a *lane* of its own; one that goes over with its client to another process isn't
//! given out by the first one again, nor by the other while its client is still with the first.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use rand::{Rng, RngExt};

use crate::protocol::numbers;

/// After so many upgrades a lane comes again, and a number of it might be that of a client that has stayed through all of
/// them, and was on its way just then. A lane has numbers for eight million clients.
const LANES: u32 = 256;

/// See the module.
#[derive(Debug)]
pub struct Numbering {
    lane: AtomicU32,
    /// How many numbers a lane has.
    span: u32,
    foreign: Mutex<Foreign>,
}

/// Numbers of clients that other processes have.
#[derive(Debug, Default)]
struct Foreign {
    /// The one before this: they may come over.
    before: HashSet<u32>,
    /// The one after this: they have gone over.
    after: HashSet<u32>,
}

impl Default for Numbering {
    fn default() -> Self {
        Self::with_span((numbers::LAST - numbers::FIRST) / LANES)
    }
}

impl Numbering {
    fn with_span(span: u32) -> Self {
        Self { lane: AtomicU32::new(0), span, foreign: Mutex::default() }
    }

    /// A number by chance that no client of another process has. Whether one of this process has it is to be seen.
    pub fn pick(&self, rng: &mut impl Rng) -> u32 {
        let lane = self.lane.load(Ordering::Relaxed);
        let foreign = self.foreign.lock();
        loop {
            let number = numbers::FIRST + rng.random_range(0..self.span) * LANES + lane;
            if !foreign.before.contains(&number) && !foreign.after.contains(&number) {
                return number;
            }
        }
    }

    /// The lane of the process that takes over.
    #[must_use]
    pub fn next_lane(&self) -> u32 {
        (self.lane.load(Ordering::Relaxed) + 1) % LANES
    }

    /// This process takes over from one with clients of these numbers, and has this lane.
    pub fn follow(&self, lane: u32, numbers: impl IntoIterator<Item = u32>) {
        self.lane.store(lane % LANES, Ordering::Relaxed);
        self.foreign.lock().before = numbers.into_iter().collect();
    }

    /// The process before this has ended.
    pub fn follow_nobody(&self) {
        self.foreign.lock().before = HashSet::new();
    }

    /// A client comes over from the process before this.
    pub fn came(&self, number: u32) {
        self.foreign.lock().before.remove(&number);
    }

    /// A client has gone over to the process after this.
    pub fn went(&self, number: u32) {
        self.foreign.lock().after.insert(number);
    }

    /// The process after this has ended, and its clients with it.
    pub fn precede_nobody(&self) {
        self.foreign.lock().after = HashSet::new();
    }

    /// The numbers that are in use elsewhere.
    #[must_use]
    pub fn elsewhere(&self) -> Vec<u32> {
        let foreign = self.foreign.lock();
        foreign.before.iter().chain(&foreign.after).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    /// Numbers of a lane, so few that a collision is likely.
    const FEW: u32 = 8;

    struct Process {
        numbering: Numbering,
        clients: Vec<u32>,
    }

    impl Process {
        fn new() -> Self {
            Self { numbering: Numbering::with_span(FEW), clients: Vec::new() }
        }

        fn numbers(&self) -> Vec<u32> {
            self.clients.iter().copied().chain(self.numbering.elsewhere()).collect()
        }

        fn login(&mut self, rng: &mut impl Rng) {
            // More of one lane there can't be; a process with all numbers taken looks for one forever.
            let lane = self.numbering.lane.load(Ordering::Relaxed);
            let taken: HashSet<_> =
                self.numbers().into_iter().filter(|n| (n - numbers::FIRST) % LANES == lane).collect();
            if taken.len() == FEW as usize {
                return;
            }
            let number = std::iter::repeat_with(|| self.numbering.pick(rng)).find(|n| !self.clients.contains(n));
            self.clients.push(number.unwrap());
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Login(usize),
        Leave(usize, usize),
        GoOver(usize, usize),
        Upgrade,
        FirstEnds,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            5 => any::<usize>().prop_map(Op::Login),
            2 => (any::<usize>(), any::<usize>()).prop_map(|(process, client)| Op::Leave(process, client)),
            4 => (any::<usize>(), any::<usize>()).prop_map(|(process, client)| Op::GoOver(process, client)),
            1 => Just(Op::Upgrade),
            1 => Just(Op::FirstEnds),
        ]
    }

    proptest! {
        /// Several processes at a time, each with clients, logins in all of them, clients going over.
        #[test]
        fn no_two_clients_have_the_same_number(ops in prop::collection::vec(op(), 1..LANES as usize), seed in any::<u64>()) {
            let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
            let mut line = vec![Process::new()];
            for op in ops {
                match op {
                    Op::Login(process) => {
                        let at = process % line.len();
                        line[at].login(&mut rng);
                    }
                    Op::Leave(process, client) => {
                        let at = process % line.len();
                        if !line[at].clients.is_empty() {
                            let client = client % line[at].clients.len();
                            line[at].clients.swap_remove(client);
                        }
                    }
                    Op::GoOver(process, client) => {
                        let at = process % line.len();
                        if at + 1 < line.len() && !line[at].clients.is_empty() {
                            let client = client % line[at].clients.len();
                            let number = line[at].clients.swap_remove(client);
                            line[at].numbering.went(number);
                            line[at + 1].numbering.came(number);
                            line[at + 1].clients.push(number);
                        }
                    }
                    Op::Upgrade if line.len() < 5 => {
                        let next = Process::new();
                        let last = line.last().unwrap();
                        next.numbering.follow(last.numbering.next_lane(), last.numbers());
                        line.push(next);
                    }
                    Op::FirstEnds if line.len() > 1 && line[0].clients.is_empty() => {
                        drop(line.remove(0));
                        line[0].numbering.follow_nobody();
                    }
                    Op::Upgrade | Op::FirstEnds => {}
                }
                let all: Vec<_> = line.iter().flat_map(|process| process.clients.iter().copied()).collect();
                let different: HashSet<_> = all.iter().collect();
                prop_assert_eq!(different.len(), all.len(), "{:?}", all);
            }
        }
    }

    #[test]
    fn all_numbers_are_clients_numbers() {
        let numbering = Numbering::default();
        numbering.follow(LANES - 1, []);
        let last = numbers::FIRST + (numbering.span - 1) * LANES + LANES - 1;
        assert!(last <= numbers::LAST && last > numbers::LAST - 2 * LANES, "{last}");
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        assert!((0..1000).map(|_| numbering.pick(&mut rng)).all(|n| (numbers::FIRST..=numbers::LAST).contains(&n)));
        assert_eq!(numbering.next_lane(), 0);
    }
}
