//! Deterministic simulation: the production code from the accepted connection on, in one thread, over a network in memory,
//! with a scripted PostgreSQL, a clock that is moved, and a seed that decides everything else: which task runs next, how
//! many bytes arrive, what clients ask for, and what fails. See docs/simulation.md.

mod client;
mod executor;
mod model;
mod postgres;
mod stage;
mod world;

use std::rc::Rc;
use std::time::Duration;

use crate::net::simulated;
use executor::Executor;
use stage::Stage;

/// How much the tests run, in steps. A step is a turn of a task, or a piece of bytes that arrives.
const STEPS: u64 = 1_000_000;
/// How long one seed runs, in steps, before its clients are told to come to an end.
const STEPS_OF_SEED: u64 = 20_000;
/// How many steps the end may take.
const STEPS_OF_END: u64 = 2_000_000;

/// What came of a seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Outcome {
    /// Of all that has happened, in its order.
    hash: u64,
    steps: u64,
    replies: u64,
    cancels: u64,
    losses: u64,
}

/// Tells how to see it again, if this is dropped in a panic.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("to see it again: CARPOOL_SIM_SEED={seed} cargo test --lib simulation -- --nocapture");
        }
    }
}

/// Runs a seed.
///
/// # Panics
/// When something is wrong.
fn run(seed: u64, tells: bool) -> Outcome {
    let _seed = Seed(seed);
    let _running = simulated::begin(seed);
    let mut executor = Executor::new(seed);
    let stage = Rc::new(Stage::new(seed, tells));
    world::open(&stage);
    while executor.steps < STEPS_OF_SEED {
        executor.turn(&stage);
    }
    stage.stop();
    while stage.clients.get() > 0 {
        executor.turn(&stage);
        assert!(executor.steps < STEPS_OF_SEED + STEPS_OF_END, "clients don't come to an end");
    }
    let rest = simulated::passed() + Duration::from_secs(30);
    while simulated::passed() < rest {
        executor.turn(&stage);
    }
    stage.check_rest();
    stage.retire();
    let rest = simulated::passed() + Duration::from_secs(30);
    while simulated::passed() < rest {
        executor.turn(&stage);
    }
    stage.check_end();
    let outcome = stage.outcome(&executor);
    // While the simulation still runs, since what they hold ends in it.
    drop((executor, stage));
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(name: &str) -> Option<u64> {
        std::env::var(name).ok().map(|text| text.parse().unwrap())
    }

    /// The runs of all seeds, up to so many steps or so much time.
    fn run_all(first: u64, enough: impl Fn(u64) -> bool) {
        let (mut seed, mut steps, mut replies, mut cancels, mut losses) = (first, 0, 0, 0, 0);
        while !enough(steps) {
            let outcome = run(seed, false);
            seed += 1;
            steps += outcome.steps;
            replies += outcome.replies;
            cancels += outcome.cancels;
            losses += outcome.losses;
        }
        let seeds = seed - first;
        println!(
            "{seeds} seeds from {first}, {steps} steps, {replies} replies, {cancels} cancels, {losses} servers lost"
        );
        assert!(replies > 0);
    }

    /// A million steps, one seed (`CARPOOL_SIM_SEED`), or as long as is wanted (`CARPOOL_SIM_SECONDS`).
    #[test]
    fn nothing_goes_wrong() {
        if let Some(seed) = number("CARPOOL_SIM_SEED") {
            println!("{:?}", run(seed, true));
            return;
        }
        let first = number("CARPOOL_SIM_FIRST").unwrap_or(1);
        match number("CARPOOL_SIM_SECONDS") {
            Some(seconds) => {
                let end = std::time::Instant::now() + Duration::from_secs(seconds);
                run_all(first, |_| std::time::Instant::now() >= end);
            }
            None => run_all(first, |steps| steps >= number("CARPOOL_SIM_STEPS").unwrap_or(STEPS)),
        }
    }

    #[test]
    fn a_seed_runs_the_same_each_time() {
        for seed in 1..4 {
            assert_eq!(run(seed, false), run(seed, false), "seed {seed}");
        }
        assert_ne!(run(1, false).hash, run(2, false).hash);
    }
}
