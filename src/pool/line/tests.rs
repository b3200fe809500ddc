//! Clients of groups on a few servers, in simulated time.

use super::*;
use proptest::prelude::*;
use std::cell::Cell;
use std::rc::Rc;

#[derive(Debug, Clone)]
struct Person {
    number: u64,
    group: usize,
    stays: Rc<Cell<bool>>,
}

impl Waiter for Person {
    fn is_waiting(&self) -> bool {
        self.stays.get()
    }
}

/// How the clients of a group are: each asks, keeps a server for a time, and asks again after a pause.
#[derive(Debug, Clone)]
struct Load {
    name: String,
    clients: usize,
    /// Microseconds, from and to.
    keeps: (u64, u64),
    pauses: u64,
}

fn load(name: &str, clients: usize, keeps: (u64, u64), pauses: u64) -> Load {
    Load { name: name.into(), clients, keeps, pauses }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Asks,
    GivesBack,
}

#[derive(Debug)]
struct Use {
    held: f64,
    grants: u64,
    longest_wait: Duration,
}

/// Servers, clients, and a clock.
struct World {
    line: Line<Person>,
    loads: Vec<Load>,
    shared: bool,
    weights: Weights,
    begin: Instant,
    now: u64,
    free: usize,
    /// By time; the number makes it a definite order.
    events: std::collections::BTreeSet<(u64, u64, Event, usize)>,
    loans: std::collections::HashMap<u64, (Option<Group>, u64)>,
    /// Who waits of each group, and since when, as a plain queue has it.
    model: Vec<VecDeque<(u64, u64)>>,
    number: u64,
    random: u64,
    uses: Vec<Use>,
}

impl World {
    fn new(servers: usize, loads: &[Load], weights: &[(&str, u32)], shared: bool) -> Self {
        let new = || Use { held: 0.0, grants: 0, longest_wait: Duration::ZERO };
        let mut world = Self {
            line: Line::new(),
            loads: loads.to_vec(),
            shared,
            weights: weights.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect(),
            begin: Instant::now(),
            now: 0,
            free: servers,
            events: std::collections::BTreeSet::new(),
            loans: std::collections::HashMap::new(),
            model: vec![VecDeque::new(); if shared { loads.len() } else { 1 }],
            number: 0,
            random: 0x9e37_79b9_7f4a_7c15,
            uses: loads.iter().map(|_| new()).collect(),
        };
        for (group, load) in loads.iter().enumerate() {
            for _ in 0..load.clients {
                world.at(0, Event::Asks, group);
            }
        }
        world
    }

    fn random(&mut self, from: u64, to: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        from + self.random % (to - from + 1)
    }

    fn time(&self, micros: u64) -> Instant {
        self.begin + Duration::from_micros(micros)
    }

    fn at(&mut self, later: u64, event: Event, group: usize) {
        self.number += 1;
        self.events.insert((self.now + later, self.number, event, group));
    }

    fn queue_of(&self, group: usize) -> usize {
        if self.shared { group } else { 0 }
    }

    fn lend(&mut self, loan: Option<Group>, group: usize) {
        let (from, to) = self.loads[group].keeps;
        let keeps = self.random(from, to);
        self.uses[group].grants += 1;
        self.at(keeps, Event::GivesBack, group);
        self.loans.insert(self.number, (loan, self.now));
    }

    /// Runs for so many microseconds.
    fn run(&mut self, micros: u64) {
        let end = self.now + micros;
        while let Some(&(at, number, event, group)) = self.events.first().filter(|event| event.0 <= end) {
            self.events.pop_first();
            self.now = at;
            match event {
                Event::Asks => self.ask(number, group),
                Event::GivesBack => self.give_back(number, group),
            }
            assert_eq!(self.line.len(), self.model.iter().map(VecDeque::len).sum::<usize>());
        }
        self.now = end;
    }

    fn ask(&mut self, number: u64, group: usize) {
        let name = self.loads[group].name.clone();
        let own = self.shared.then(|| self.line.group(&name, &self.weights));
        if self.free > 0 && self.line.is_empty() {
            self.free -= 1;
            let loan = own.and_then(|own| self.line.lend(own));
            return self.lend(loan, group);
        }
        let queue = self.queue_of(group);
        self.model[queue].push_back((number, self.now));
        let waiter = Person { number, group, stays: Rc::new(Cell::new(true)) };
        self.line.push(own, Waiting { waiter, number, since: self.time(self.now) });
    }

    fn give_back(&mut self, number: u64, group: usize) {
        let (loan, since) = self.loans.remove(&number).unwrap();
        let (lent, now) = (self.time(since), self.time(self.now));
        self.uses[group].held += (now - lent).as_secs_f64();
        if let Some(loan) = loan {
            self.line.take_back(loan, lent, now);
        }
        let pauses = self.loads[group].pauses;
        self.at(pauses, Event::Asks, group);
        self.free += 1;
        let Some((next, loan)) = self.line.pop(now) else {
            assert!(self.line.is_empty(), "somebody waits, and nobody is next");
            return;
        };
        self.free -= 1;
        let queue = self.queue_of(next.group);
        let (first, since) = self.model[queue].pop_front().unwrap();
        assert_eq!(first, next.number, "first in, first out");
        let longest = &mut self.uses[next.group].longest_wait;
        *longest = (*longest).max(Duration::from_micros(self.now - since));
        self.lend(loan, next.group);
    }

    /// What the groups had of the servers' time.
    fn shares(&self) -> Vec<f64> {
        let all: f64 = self.uses.iter().map(|used| used.held).sum();
        self.uses.iter().map(|used| used.held / all).collect()
    }
}

const SECOND: u64 = 1_000_000;

#[test]
fn without_groups_it_is_first_in_first_out_for_all() {
    let loads = [load("a", 3, (1_000, 9_000), 500), load("b", 50, (1_000, 20_000), 0)];
    let mut world = World::new(4, &loads, &[("a", 7)], false);
    // The model has one queue.
    world.run(20 * SECOND);
    assert!(world.uses.iter().all(|used| used.grants > 300), "{:?}", world.uses);
    assert_eq!(world.line.counts(), []);
}

#[test]
fn a_few_clients_wait_little_beside_a_flood() {
    let alone = [load("sync", 5, (5_000, 5_000), 1_000)];
    let mut quiet = World::new(25, &alone, &[], true);
    quiet.run(10 * SECOND);
    let both = [alone[0].clone(), load("async", 500, (4_000, 8_000), 0)];
    let (mut fair, mut fifo) = (World::new(25, &both, &[], true), World::new(25, &both, &[], false));
    fair.run(10 * SECOND);
    fifo.run(10 * SECOND);
    let grants = [&quiet, &fair, &fifo].map(|world| world.uses[0].grants);
    assert!(grants[1] * 100 > grants[0] * 85, "{grants:?}");
    assert!(grants[2] * 10 < grants[0], "first in, first out can't: {grants:?}");
    assert!(fair.uses[0].longest_wait < Duration::from_millis(8), "{:?}", fair.uses);
    assert!(fifo.uses[0].longest_wait > Duration::from_millis(60), "{:?}", fifo.uses);
}

/// Only who waits has a part: what one leaves is the others'.
#[test]
fn what_one_group_leaves_others_have() {
    let loads = [load("a", 1, (8_000, 12_000), 0), load("b", 9, (8_000, 12_000), 0)];
    let mut world = World::new(4, &loads, &[("a", 1000)], true);
    world.run(20 * SECOND);
    let shares = world.shares();
    // Nearly all of one server: it waits only until the next one comes free.
    assert!((0.18..0.25).contains(&shares[0]), "{shares:?}");
}

#[test]
fn what_a_group_had_while_nobody_waited_is_not_held_against_it() {
    let mut world = World::new(2, &[load("early", 1, (SECOND, SECOND), 0)], &[], true);
    world.run(60 * SECOND);
    assert_eq!(world.line.groups[1].used, 0.0);
    world.loads.push(load("late", 40, (1_000, 1_000), 0));
    world.uses.push(Use { held: 0.0, grants: 0, longest_wait: Duration::ZERO });
    world.model.push(VecDeque::new());
    (0..40).for_each(|_| world.at(0, Event::Asks, 1));
    world.run(20 * SECOND);
    // One second of work each time, and hardly any wait.
    assert!(world.uses[0].longest_wait < Duration::from_millis(5), "{:?}", world.uses);
}

/// Servers that a group never gives back count as its own, but its other clients get on.
#[test]
fn clients_beside_kept_servers_of_their_group_are_served() {
    let loads = [load("keeps", 20, (1_000 * SECOND, 1_000 * SECOND), 0), load("busy", 100, (5_000, 5_000), 0)];
    let mut world = World::new(25, &loads, &[], true);
    world.run(10 * SECOND);
    world.loads[0].keeps = (5_000, 5_000);
    let before = world.uses[0].grants;
    (0..10).for_each(|_| world.at(0, Event::Asks, 0));
    world.run(60 * SECOND);
    let more = world.uses[0].grants - before;
    assert!((20..600).contains(&more), "{more}");
    assert!(world.uses[0].longest_wait < Duration::from_secs(15), "{:?}", world.uses);
}

#[test]
fn a_debt_is_forgiven_after_a_while() {
    // All servers are the first's for a minute in which the second waits.
    let mut world = World::new(
        4,
        &[load("long", 4, (60 * SECOND, 60 * SECOND), 0), load("short", 40, (1_000, 1_000), 0)],
        &[],
        true,
    );
    world.run(59 * SECOND);
    world.loads[0].keeps = (1_000, 1_000);
    world.run(2 * SECOND);
    let before = world.uses[0].grants;
    world.run(10 * SECOND);
    assert!(world.uses[0].grants - before > 10_000, "{:?}", world.uses);
}

#[test]
fn names_without_end_are_one_group_and_unused_ones_make_room() {
    let mut line: Line<Person> = Line::new();
    let weights = Weights::new();
    let now = Instant::now();
    let mut loans = Vec::new();
    for i in 0..200 {
        let group = line.group(&format!("app {i}"), &weights);
        assert_eq!(group == OTHERS, i >= MOST_GROUPS - 1, "{i}");
        loans.extend(line.lend(group));
    }
    assert_eq!(line.counts().len(), MOST_GROUPS);
    assert_eq!(line.group("app 7", &weights), Group(8), "those that are there stay");
    line.take_back(loans[3], now, now);
    assert_eq!(line.group("new", &weights), Group(4));
    assert_eq!(line.counts().iter().map(|group| group.held).sum::<u32>(), 199);
}

#[test]
fn who_leaves_or_is_overdue_is_counted_out() {
    let mut line: Line<Person> = Line::new();
    let weights = Weights::new();
    let begin = Instant::now();
    let people: Vec<_> = (0..8).map(|number| Person { number, group: 0, stays: Rc::new(Cell::new(true)) }).collect();
    for person in &people {
        let group = (person.number % 3 > 0).then(|| line.group(&format!("{}", person.number % 3), &weights));
        let since = begin + Duration::from_secs(person.number);
        line.push(group, Waiting { waiter: person.clone(), number: person.number, since });
    }
    people[0].stays.set(false);
    people[4].stays.set(false);
    line.drop_gone();
    // The fourth stands behind another of its group.
    assert_eq!((line.len(), line.first(), line.waiting_since()), (7, Some(1), Some(begin + Duration::from_secs(1))));
    let mut overdue = Vec::new();
    line.take_overdue(begin + Duration::from_secs(2), &mut overdue);
    assert_eq!(overdue.iter().map(|p| p.number).collect::<Vec<_>>(), [1, 2]);
    line.drop_gone();
    assert_eq!(line.take_all().iter().map(|p| p.number).collect::<Vec<_>>(), [3, 5, 6, 7]);
    assert!(line.is_empty() && line.since.is_none());
    assert!(line.pop(begin).is_none());
}

prop_compose! {
    fn busy(most: u64)(from in 200..most, more in 0..most, pauses in 0..2_000_u64) -> (u64, u64, u64) {
        (from, from + more, pauses)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Groups that always wait get the servers' time by their weights, however long their transactions are.
    #[test]
    fn time_is_shared_by_weight(
        servers in 1..30_usize,
        groups in prop::collection::vec((1..6_u32, busy(20_000)), 2..5),
    ) {
        let names: Vec<_> = (0..groups.len()).map(|i| format!("g{i}")).collect();
        let loads: Vec<_> = groups.iter().zip(&names)
            .map(|((_, (from, to, pauses)), name)| load(name, servers * 12 + 40, (*from, *to), *pauses)).collect();
        let weights: Vec<_> = groups.iter().zip(&names).map(|((weight, _), name)| (name.as_str(), *weight)).collect();
        let mut world = World::new(servers, &loads, &weights, true);
        world.run(15 * SECOND);
        let sum: u32 = groups.iter().map(|(weight, _)| weight).sum();
        for (share, (weight, _)) in world.shares().iter().zip(&groups) {
            let wanted = f64::from(*weight) / f64::from(sum);
            prop_assert!((share - wanted).abs() < 0.02 + 0.08 * wanted, "{share} of {wanted}: {:?}", world.uses);
        }
    }

    /// Whatever groups do, each that waits gets a server within bounds.
    #[test]
    fn nobody_starves(
        servers in 1..10_usize,
        groups in prop::collection::vec((1..9_u32, 1..60_usize, busy(50_000)), 2..6),
    ) {
        let names: Vec<_> = (0..groups.len()).map(|i| format!("g{i}")).collect();
        let loads: Vec<_> = groups.iter().zip(&names)
            .map(|((_, clients, (from, to, pauses)), name)| load(name, *clients, (*from, *to), *pauses)).collect();
        let weights: Vec<_> = groups.iter().zip(&names).map(|((weight, ..), name)| (name.as_str(), *weight)).collect();
        let mut world = World::new(servers, &loads, &weights, true);
        world.run(20 * SECOND);
        let sum: u32 = groups.iter().map(|(weight, ..)| weight).sum();
        for (used, (weight, clients, (_, to, _))) in world.uses.iter().zip(&groups) {
            // Its own clients one after the other, each in its group's turn.
            let turns = *clients as f64 / servers as f64 + 2.0;
            let turn = 1.5 * 0.1 * f64::from(sum) / f64::from(*weight) + *to as f64 / 1e6;
            let bound = 2.0 + turns * turn;
            prop_assert!(used.longest_wait.as_secs_f64() < bound, "{:?}, bound {bound}", world.uses);
            prop_assert!(used.grants > 0);
        }
    }
}
