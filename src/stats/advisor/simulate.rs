//! A pool of some size in front of recorded demand: who waits how long, and what the servers do.
//!
//! Clients send their next request when they have thought, after the answer to the last one: one who waits doesn't send
//! meanwhile. So each comes after its own recorded pauses, shortened as far as the group makes up for delays
//! ([`Summary::catching_up`]); a client that came only once in the whole trace comes at its time whatever happens. The
//! queue is first come, first served. Servers at work share what they contend for equally: each advances by one over the
//! curve's factor, so one clock of work for all is enough. The piece of time is repeated: what comes before its first
//! moment is what came before its last.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use super::contention::{Course, LEVELS};
use super::pieces::{Piece, Summary};

/// Steps of a histogram for each doubling.
const STEPS: f64 = 12.0;
/// Up to more than an hour.
const BUCKETS: usize = 400;
/// The part of a piece that goes by before anything counts.
const WARM_UP: f64 = 0.25;
/// A simulation ends after so many times as many loans as were recorded: a pool that keeps up better has more.
const MOST_TIMES: usize = 8;

/// Times in buckets that grow by 6 %.
#[derive(Clone, PartialEq, Debug)]
pub struct Histogram {
    counts: Vec<u32>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }
}

impl Histogram {
    /// Counts a time, microseconds.
    pub fn add(&mut self, micros: f64) {
        let bucket = if micros < 1.0 { 0 } else { 1 + (micros.log2() * STEPS) as usize };
        self.counts[bucket.min(BUCKETS - 1)] += 1;
        self.total += 1;
    }

    /// Adds what another has.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
        self.total += other.total;
    }

    /// The time that `part` of all don't exceed, microseconds.
    #[must_use]
    pub fn quantile(&self, part: f64) -> f64 {
        let rank = (self.total as f64 * part).ceil().max(1.0) as u64;
        let mut sum = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            sum += u64::from(*count);
            if sum >= rank && self.total > 0 {
                return if bucket == 0 { 0.0 } else { ((bucket as f64 - 0.5) / STEPS).exp2() };
            }
        }
        0.0
    }
}

/// One transaction of a client.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// The pause before it.
    think: f64,
    /// How long the answer before it took when it was recorded.
    response_before: f64,
    /// How long it takes alone.
    work: f64,
    /// It takes that long whatever others do.
    is_idler: bool,
}

#[derive(Clone, Debug)]
struct Client {
    /// When it comes first.
    first: f64,
    steps: std::ops::Range<usize>,
    catches_up: f64,
    /// It comes at its time, whether or not it has got its answer.
    is_open: bool,
}

/// The demand of one piece of time, with the work as a curve has it.
#[derive(Clone, Debug)]
pub struct Scenario {
    duration: f64,
    steps: Vec<Step>,
    clients: Vec<Client>,
}

impl Scenario {
    /// Of a piece; `factors`: a curve's table.
    #[must_use]
    pub fn new(piece: &Piece, summary: &Summary, factors: &[f64]) -> Self {
        let work = Course::new(piece).work(piece, factors);
        let duration = (piece.end - piece.begin) as f64;
        let mut by_client: HashMap<u32, Vec<usize>> = HashMap::new();
        for (i, loan) in piece.loans.iter().enumerate() {
            by_client.entry(loan.client).or_default().push(i);
        }
        let mut ids: Vec<u32> = by_client.keys().copied().collect();
        ids.sort_unstable();
        let (mut steps, mut clients) = (Vec::with_capacity(piece.loans.len()), Vec::with_capacity(ids.len()));
        let after = |time: u64| time.saturating_sub(piece.begin) as f64;
        for id in ids {
            let own = &by_client[&id];
            let begin = steps.len();
            for (nth, &i) in own.iter().enumerate() {
                let (loan, before) = (&piece.loans[i], &piece.loans[own[(nth + own.len() - 1) % own.len()]]);
                let think = match nth {
                    0 => (duration - after(before.end)).max(0.0) + after(loan.asked()),
                    _ => loan.asked().saturating_sub(before.end) as f64,
                };
                let is_idler = u64::from(loan.hold) > summary.idler;
                let work = if is_idler { f64::from(loan.hold).min(duration) } else { work[i] };
                let response_before = f64::from(before.wait) + f64::from(before.hold);
                steps.push(Step { think, response_before, work, is_idler });
            }
            let first = &piece.loans[own[0]];
            clients.push(Client {
                first: after(first.asked()),
                steps: begin..steps.len(),
                catches_up: summary.catching_up.get(&first.group).copied().unwrap_or_default(),
                is_open: summary.visits.get(&id).is_none_or(|visits| *visits <= 1),
            });
        }
        Self { duration, steps, clients }
    }

    /// The number of loans that were recorded.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether nothing was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Waits for a server, of all.
    pub waits: Histogram,
    /// Waits and loans together.
    pub responses: Histogram,
    /// The sum of the latter, microseconds.
    pub response_sum: f64,
    /// Loans that ended.
    pub ended: u64,
    /// Microseconds times servers on loan.
    pub busy: f64,
    /// Microseconds.
    pub time: f64,
    /// Somebody had to wait.
    pub queued: bool,
}

impl Outcome {
    /// Adds another.
    pub fn merge(&mut self, other: &Self) {
        self.waits.merge(&other.waits);
        self.responses.merge(&other.responses);
        self.response_sum += other.response_sum;
        self.ended += other.ended;
        self.busy += other.busy;
        self.time += other.time;
        self.queued |= other.queued;
    }
}

/// A moment, and whose.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Key(f64, u32);

impl Eq for Key {}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

type Agenda = BinaryHeap<Reverse<Key>>;

/// Of a client that waits or has a server.
#[derive(Clone, Copy, Debug, Default)]
struct Visit {
    asked: f64,
    step: usize,
}

struct Pool<'s> {
    scenario: &'s Scenario,
    factors: &'s [f64],
    size: usize,
    now: f64,
    /// Work that each server at work has done since the beginning.
    work: f64,
    from: f64,
    arrivals: Agenda,
    /// By the work that is done by then.
    at_work: Agenda,
    idlers: Agenda,
    queue: VecDeque<(u32, Visit)>,
    visits: Vec<Visit>,
    /// The next step of each client.
    next: Vec<usize>,
    outcome: Outcome,
}

/// Replays demand with a pool of `size` servers, and `factors` for how they slow each other down.
#[must_use]
pub fn simulate(scenario: &Scenario, size: usize, factors: &[f64]) -> Outcome {
    let clients = &scenario.clients;
    let mut pool = Pool {
        scenario,
        factors,
        size: size.max(1),
        now: 0.0,
        work: 0.0,
        from: scenario.duration * WARM_UP,
        arrivals: clients.iter().zip(0..).map(|(client, i)| Reverse(Key(client.first, i))).collect(),
        at_work: Agenda::new(),
        idlers: Agenda::new(),
        queue: VecDeque::new(),
        visits: vec![Visit::default(); clients.len()],
        next: clients.iter().map(|client| client.steps.start).collect(),
        outcome: Outcome::default(),
    };
    pool.run(scenario.duration * (1.0 + WARM_UP));
    pool.outcome
}

impl Pool<'_> {
    fn run(&mut self, until: f64) {
        let most = self.scenario.len() * MOST_TIMES + 1000;
        for _ in 0..most * 2 {
            let arrival = self.arrivals.peek().map_or(f64::INFINITY, |Reverse(key)| key.0);
            let idler = self.idlers.peek().map_or(f64::INFINITY, |Reverse(key)| key.0);
            let rate = self.factors[self.at_work.len().clamp(1, LEVELS)];
            let done = self
                .at_work
                .peek()
                .map_or(f64::INFINITY, |Reverse(key)| self.now + (key.0 - self.work).max(0.0) * rate);
            let next = arrival.min(idler).min(done);
            if next > until {
                self.pass(until, rate);
                break;
            }
            self.pass(next, rate);
            if done <= next {
                self.work = self.at_work.pop().map_or(self.work, |Reverse(key)| {
                    self.ended(key.1);
                    key.0.max(self.work)
                });
            } else if idler <= next {
                if let Some(Reverse(Key(_, client))) = self.idlers.pop() {
                    self.ended(client);
                }
            } else if let Some(Reverse(Key(_, client))) = self.arrivals.pop() {
                self.arrived(client);
            }
        }
        self.outcome.time = (self.now - self.from).max(0.0);
    }

    fn pass(&mut self, next: f64, rate: f64) {
        let busy = self.at_work.len() + self.idlers.len();
        self.outcome.busy += (next - self.now.max(self.from)).max(0.0) * busy as f64;
        self.work += (next - self.now) / rate;
        self.now = next;
    }

    fn arrived(&mut self, client: u32) {
        let i = client as usize;
        let script = &self.scenario.clients[i];
        let visit = Visit { asked: self.now, step: self.next[i] };
        self.next[i] = if visit.step + 1 < script.steps.end { visit.step + 1 } else { script.steps.start };
        if script.is_open {
            self.arrivals.push(Reverse(Key(self.now + self.scenario.duration, client)));
        }
        if self.at_work.len() + self.idlers.len() < self.size {
            self.granted(client, visit);
        } else {
            self.outcome.queued = true;
            self.queue.push_back((client, visit));
        }
    }

    fn granted(&mut self, client: u32, visit: Visit) {
        if self.now >= self.from {
            self.outcome.waits.add(self.now - visit.asked);
        }
        let step = &self.scenario.steps[visit.step];
        self.visits[client as usize] = visit;
        match step.is_idler {
            true => self.idlers.push(Reverse(Key(self.now + step.work, client))),
            false => self.at_work.push(Reverse(Key(self.work + step.work, client))),
        }
    }

    fn ended(&mut self, client: u32) {
        let i = client as usize;
        let response = self.now - self.visits[i].asked;
        if self.now >= self.from {
            self.outcome.ended += 1;
            self.outcome.responses.add(response);
            self.outcome.response_sum += response;
        }
        let script = &self.scenario.clients[i];
        if !script.is_open {
            let step = &self.scenario.steps[self.next[i]];
            let think = step.think + script.catches_up * (step.response_before - response);
            self.arrivals.push(Reverse(Key(self.now + think.max(0.0), client)));
        }
        if let Some((client, visit)) = self.queue.pop_front() {
            self.granted(client, visit);
        }
    }
}
