//! The advisor against what is known: formulas, parameters that traces were made with, bounds.

use proptest::prelude::*;

use super::advise::measured;
use super::contention::{Course, Curve, Evidence, fit};
use super::pieces::{Summary, cut};
use super::simulate::{Scenario, simulate};
use super::trace::{Loan, Trace, Window};
use super::{Advice, advise};
use crate::config::Target;

/// Advice that recommends a size.
pub(super) fn advice_of(size: u32) -> Advice {
    let trace = Trace { database: "app".into(), size: 10, windows: Vec::new() };
    let mut advice = advise(&trace, &Target::default(), 200);
    (advice.recommended, advice.enough) = (Some(size), Some(size));
    advice
}

/// Random numbers from a seed.
struct Random(u64);

impl Random {
    /// From 0 to 1.
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -self.uniform().ln() * mean
    }
}

/// A world of which a trace is taken: clients that think, a pool, servers that slow each other down.
struct World {
    clients: usize,
    /// Mean pause of a client, microseconds.
    think: f64,
    /// Mean work, microseconds.
    work: f64,
    /// Whether times vary.
    varies: bool,
    curve: Curve,
    size: usize,
    seconds: f64,
}

impl World {
    /// Steps through it, independently of the simulation: one event after the other, everybody looked at each time.
    fn trace(&self, seed: u64) -> Trace {
        #[derive(Clone, Copy)]
        enum State {
            Thinks(f64),
            Waits(f64),
            Works { asked: f64, granted: f64, left: f64 },
        }
        let mut random = Random(seed | 1);
        let mut draw = |mean: f64| if self.varies { random.exponential(mean) } else { mean };
        let mut states: Vec<State> = (0..self.clients)
            .map(|i| State::Thinks(draw(self.think) * (i as f64 + 0.5) / self.clients as f64))
            .collect();
        let (mut now, mut loans, until) = (0.0, Vec::new(), self.seconds * 1e6);
        let mut queue: std::collections::VecDeque<usize> = Default::default();
        while now < until {
            let busy = states.iter().filter(|s| matches!(s, State::Works { .. })).count();
            let rate = self.curve.factor(busy as f64);
            let next = states.iter().map(|s| match s {
                State::Thinks(at) => *at,
                State::Waits(_) => f64::INFINITY,
                State::Works { left, .. } => now + left * rate,
            });
            let (who, at) = next.enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
            for state in &mut states {
                if let State::Works { left, .. } = state {
                    *left -= (at - now) / rate;
                }
            }
            now = at;
            match states[who] {
                State::Thinks(_) => {
                    states[who] = State::Waits(now);
                    queue.push_back(who);
                }
                State::Works { asked, granted, .. } => {
                    let (wait, hold) = ((granted - asked) as u32, (now - granted) as u32);
                    loans.push(Loan { end: now as u64, wait, hold, client: who as u32, group: 0 });
                    states[who] = State::Thinks(now + draw(self.think));
                }
                State::Waits(_) => unreachable!(),
            }
            let mut busy = states.iter().filter(|s| matches!(s, State::Works { .. })).count();
            while busy < self.size && !queue.is_empty() {
                let first = queue.pop_front().unwrap();
                let State::Waits(asked) = states[first] else { unreachable!() };
                states[first] = State::Works { asked, granted: now, left: draw(self.work) };
                busy += 1;
            }
        }
        loans.sort_by_key(|loan| loan.end);
        let windows = vec![Window { begin: 0, end: until as u64 + 1, loans }];
        let mut trace = Trace { database: "app".into(), size: self.size as u32, windows };
        trace.windows[0].loans.retain(|loan| loan.end <= until as u64);
        trace
    }
}

fn target() -> Target {
    Target::default()
}

/// Poisson's arrivals, exponential times: each client comes once, so the replay is open.
fn open(rate: f64, hold: f64, seconds: f64, seed: u64) -> Trace {
    let (mut random, mut at, mut loans) = (Random(seed), 0.0, Vec::new());
    for client in 0.. {
        at += random.exponential(1e6 / rate);
        let hold = random.exponential(hold);
        if at > seconds * 1e6 {
            break;
        }
        loans.push(Loan { end: (at + hold) as u64, wait: 0, hold: hold as u32, client, group: 0 });
    }
    loans.sort_by_key(|loan| loan.end);
    let end = loans.last().unwrap().end + 1;
    Trace { database: "app".into(), size: 200, windows: vec![Window { begin: 0, end, loans }] }
}

/// The probability of a wait in M/M/c, and the mean wait in units of the mean hold.
fn erlang_c(servers: u32, load: f64) -> (f64, f64) {
    let mut blocked = 1.0;
    for n in 1..=servers {
        blocked = load * blocked / (f64::from(n) + load * blocked);
    }
    let servers = f64::from(servers);
    let waits = blocked / (1.0 - load / servers * (1.0 - blocked));
    (waits, waits / (servers - load))
}

#[test]
fn the_replay_of_an_open_queue_is_as_erlangs_formula_says() {
    // 1000 a second, 10 ms each: ten servers' worth of work.
    let trace = open(1000.0, 10_000.0, 120.0, 7);
    let summary = Summary::new(&trace);
    let pieces = cut(&trace, &summary);
    let factors = Curve::None.table();
    for servers in [12, 14, 18] {
        let (waits, mean) = erlang_c(servers, 10.0);
        let (mut total, mut response, mut ended) = (0.0, 0.0, 0.0);
        let mut sum = super::simulate::Histogram::default();
        for piece in &pieces {
            let outcome = simulate(&Scenario::new(piece, &summary, &factors), servers as usize, &factors);
            sum.merge(&outcome.waits);
            response += outcome.response_sum;
            ended += outcome.ended as f64;
            total += outcome.busy;
        }
        let wait = response / ended - total / ended;
        assert!(
            (wait / 10_000.0 - mean).abs() < 0.12 * mean + 0.004,
            "{servers}: {wait} instead of {}",
            mean * 10_000.0
        );
        // P(wait > t) = C e^-(c-a)t: the 99th percentile, where there is one.
        let p99 = ((waits / 0.01).ln() / (f64::from(servers) - 10.0)).max(0.0) * 10_000.0;
        let found = sum.quantile(0.99);
        assert!((found - p99).abs() < 0.2 * p99 + 300.0, "{servers}: p99 {found} instead of {p99}");
    }
}

#[test]
fn the_curve_that_a_trace_was_made_with_is_found() {
    let world =
        |curve, size| World { clients: 60, think: 60_000.0, work: 4_000.0, varies: true, curve, size, seconds: 60.0 };
    for curve in [
        Curve::None,
        Curve::Usl { sigma: 0.1, kappa: 0.0 },
        Curve::Usl { sigma: 0.05, kappa: 0.004 },
        Curve::Knee { room: 4.0, sharpness: 16.0 },
    ] {
        let trace = world(curve, 40).trace(11);
        let summary = Summary::new(&trace);
        let found = fit(&Evidence::new(&cut(&trace, &summary), &summary), 16.0);
        for n in [2.0, 4.0, 8.0, 12.0] {
            let (want, got) = (curve.factor(n) / curve.factor(3.0), found.likely.factor(n) / found.likely.factor(3.0));
            assert!((got / want).ln().abs() < 0.25, "{curve:?} at {n}: {got} instead of {want}: {:?}", found.likely);
        }
        if curve == Curve::None {
            assert_eq!(found.likely, Curve::None);
        }
    }
}

#[test]
fn sizes_that_were_not_seen_are_predicted() {
    for (curve, seen) in [
        (Curve::None, 4),
        (Curve::None, 30),
        (Curve::Knee { room: 3.0, sharpness: 16.0 }, 12),
        (Curve::Usl { sigma: 0.15, kappa: 0.0 }, 12),
    ] {
        let world =
            |size, seconds| World { clients: 40, think: 40_000.0, work: 5_000.0, varies: true, curve, size, seconds };
        let advice = advise(&world(seen, 60.0).trace(3), &target(), 200);
        for size in [3usize, 6, 10, 20] {
            let real = measured(&world(size, 60.0).trace(5));
            let got = &advice.sizes[size - 1];
            let (want, p99) = (real.wait_p99_us as f64, got.wait_p99_us as f64);
            let near = (p99 - want).abs() < 0.35 * want + 2_500.0;
            let within = (got.wait_p99_low_us as f64) < want * 1.15 + 1_000.0
                && want < got.wait_p99_high_us as f64 * 1.15 + 1_000.0;
            assert!(
                near || within,
                "{curve:?}, seen {seen}, at {size}: {got:?} instead of {real:?}; {:?}",
                advice.contention
            );
            assert!((got.throughput / real.throughput).ln().abs() < 0.15 || within, "{curve:?} {seen} {size}");
        }
    }
}

#[test]
fn a_starving_pool_is_told_to_grow_and_an_idle_one_to_shrink() {
    let world = |size| World {
        clients: 40,
        think: 20_000.0,
        work: 5_000.0,
        varies: true,
        curve: Curve::None,
        size,
        seconds: 30.0,
    };
    let (few, many) = (advise(&world(3).trace(1), &target(), 200), advise(&world(60).trace(1), &target(), 200));
    assert!(few.recommended.unwrap() > 8, "{}", few.verdict);
    assert!(few.verdict.contains("too few"), "{}", few.verdict);
    assert!(many.recommended.unwrap() < 20, "{}", many.verdict);
    assert!(many.verdict.contains("more than"), "{}", many.verdict);
    assert_eq!(many.sizes.len(), 200);
    assert!(many.low <= many.recommended && many.recommended <= many.high, "{many:?}");
}

#[test]
fn beyond_the_cores_more_servers_are_not_advised() {
    let curve = Curve::Knee { room: 2.0, sharpness: 16.0 };
    let world = World { clients: 50, think: 90_000.0, work: 4_000.0, varies: true, curve, size: 25, seconds: 60.0 };
    let advice = advise(&world.trace(9), &target(), 200);
    let best = advice.best().unwrap();
    assert!(best <= 8, "{best}: {} {:?}", advice.verdict, advice.contention);
    assert!(advice.verdict.contains("moves into the database"), "{}", advice.verdict);
}

#[test]
fn a_number_of_servers_that_never_varied_leaves_a_wide_range() {
    // Always all three at work.
    let curve = Curve::Knee { room: 2.0, sharpness: 16.0 };
    let world = World { clients: 40, think: 1_000.0, work: 5_000.0, varies: true, curve, size: 3, seconds: 30.0 };
    let advice = advise(&world.trace(4), &target(), 200);
    assert!(!advice.contention.is_known);
    assert!(advice.verdict.contains("a guess"), "{}", advice.verdict);
    assert!(advice.contention.growth_high > 1.5 && advice.contention.growth_low < 1.1, "{:?}", advice.contention);
    let wide = &advice.sizes[19];
    assert!(wide.wait_p99_high_us > 2 * wide.wait_p99_low_us + 10_000, "{wide:?}");
}

#[test]
fn little_data_gives_no_advice() {
    let world =
        World { clients: 5, think: 50_000.0, work: 5_000.0, varies: true, curve: Curve::None, size: 3, seconds: 2.5 };
    let advice = advise(&world.trace(4), &target(), 200);
    assert_eq!((advice.recommended, advice.best(), advice.sizes.len()), (None, None, 0));
    assert!(advice.verdict.contains("too little data"), "{}", advice.verdict);
}

/// Bursts by a clock: those that were late come no earlier for being served sooner.
#[test]
fn clients_that_go_by_a_clock_keep_to_it() {
    let mut loans = Vec::new();
    // Every 200 ms twenty clients at once, 5 ms each, two servers.
    for tick in 0..200u64 {
        for i in 0..20u32 {
            let begin = tick * 200_000 + u64::from(i / 2) * 5_000;
            loans.push(Loan {
                end: begin + 5_000,
                wait: i / 2 * 5_000,
                hold: 5_000,
                client: (i * 7 + tick as u32 * 3) % 20,
                group: 0,
            });
        }
    }
    let trace = Trace { database: "app".into(), size: 2, windows: vec![Window { begin: 0, end: 40_000_000, loans }] };
    let summary = Summary::new(&trace);
    assert!(summary.catching_up[&0] > 0.95, "{:?}", summary.catching_up);
    let advice = advise(&trace, &target(), 200);
    for (size, want) in [(2, 45_000.0), (4, 20_000.0), (10, 5_000.0), (20, 0.0)] {
        let got = advice.sizes[size - 1].wait_p99_us as f64;
        assert!((got - want).abs() < 0.15 * want + 100.0, "{size}: {got} instead of {want}");
    }
    assert_eq!(advice.recommended, Some(20));
}

#[test]
fn a_pin_is_no_load() {
    let world = World {
        clients: 20,
        think: 20_000.0,
        work: 2_000.0,
        varies: true,
        curve: Curve::None,
        size: 10,
        seconds: 60.0,
    };
    let mut trace = world.trace(8);
    trace.windows[0].loans.push(Loan { end: 60_000_000, wait: 0, hold: 59_000_000, client: 99, group: 1 });
    let advice = advise(&trace, &target(), 200);
    assert_eq!(advice.contention.model, "none", "{:?}", advice.contention);
    let without = advise(&world.trace(8), &target(), 200);
    let (with, without) = (advice.recommended.unwrap(), without.recommended.unwrap());
    assert!(with == without + 1 || with == without, "{with}, without it {without}");
}

#[test]
fn the_work_of_loans_is_what_they_take_alone() {
    let curve = Curve::Knee { room: 1.0, sharpness: 16.0 };
    let world = World { clients: 8, think: 8_000.0, work: 3_000.0, varies: false, curve, size: 8, seconds: 20.0 };
    let trace = world.trace(2);
    let summary = Summary::new(&trace);
    let (mut all, mut near) = (0.0, 0.0);
    for piece in cut(&trace, &summary) {
        for work in Course::new(&piece).work(&piece, &curve.table()) {
            all += 1.0;
            near += f64::from(u8::from((work - 3_000.0).abs() < 60.0));
        }
    }
    assert!(near / all > 0.97, "{near} of {all}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Without contention more servers never make waits longer.
    #[test]
    fn more_servers_never_make_waits_longer(
        clients in 2..30usize, think in 1_000..50_000u32, work in 500..20_000u32, size in 1..12usize, seed: u64,
    ) {
        let (think, work) = (think.into(), work.into());
        let trace = World { clients, think, work, varies: true, curve: Curve::None, size, seconds: 4.0 }.trace(seed);
        let summary = Summary::new(&trace);
        let factors = Curve::None.table();
        for piece in cut(&trace, &summary).iter().take(3) {
            let scenario = Scenario::new(piece, &summary, &factors);
            let mut before = f64::INFINITY;
            for size in 1..clients + 2 {
                let outcome = simulate(&scenario, size, &factors);
                let mean = outcome.response_sum / outcome.ended.max(1) as f64;
                prop_assert!(outcome.busy <= outcome.time * size as f64 * 1.000_001);
                // The mean of what ended in the time, which differs a little at its edges.
                prop_assert!(mean <= before * 1.10 + 500.0, "{size}: {mean} after {before}");
                before = mean;
                if size >= clients {
                    prop_assert!(!outcome.queued);
                }
            }
        }
    }

    /// No trace, however odd, makes it panic or take long, and the outcome is in order.
    #[test]
    fn any_trace_has_advice(
        loans in prop::collection::vec((0..5_000_000u64, any::<u32>(), any::<u32>(), 0..5u32, 0..3u16), 0..800),
        small: bool, size in 1..1000u32, most in 0..400u32,
    ) {
        let cap = if small { 20_000 } else { u32::MAX };
        let mut loans: Vec<Loan> = loans
            .into_iter()
            .map(|(end, wait, hold, client, group)| Loan { end, wait: wait % cap, hold: hold % cap, client, group })
            .collect();
        loans.sort_by_key(|loan| loan.end);
        let trace = Trace { database: "app".into(), size, windows: vec![Window { begin: 0, end: 5_000_000, loans }] };
        let advice = advise(&trace, &target(), most);
        for s in &advice.sizes {
            prop_assert!(s.wait_p99_low_us <= s.wait_p99_us && s.wait_p99_us <= s.wait_p99_high_us);
            prop_assert!(s.utilization <= 1.001 && s.throughput.is_finite());
        }
        prop_assert!(advice.sizes.len() <= 200);
    }
}
