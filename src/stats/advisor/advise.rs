//! Advice on the size of a pool, from a trace.

use std::fmt::Write;

use serde::Serialize;

use super::contention::{Curve, Evidence, Fit, fit};
use super::pieces::{Piece, Summary, cut, quantile, spread};
use super::simulate::{Histogram, Outcome, Scenario, simulate};
use super::trace::Trace;
use crate::config::Target;

/// Sizes that are looked at.
pub const MOST: u32 = 200;
/// Fewer transactions say too little.
pub const LEAST_LOANS: usize = 300;
/// Fewer seconds do, too.
const LEAST_TIME: u64 = 2_000_000;
/// Loans that are replayed for each size and curve.
const BUDGET: usize = 12_000;
/// Pieces that are replayed.
const PIECES: usize = 24;
/// Times that the pieces are drawn anew, to see how much the outcome depends on which there are.
const DRAWS: usize = 24;
/// More servers than these, and neither the mean nor the slowest responses get better by more than a twentieth.
const NO_BETTER: f64 = 1.05;

/// What one size would bring. Times in microseconds.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct SizeAdvice {
    /// The size.
    pub size: u32,
    /// Half of the waits are no longer.
    pub wait_p50_us: u64,
    /// All but a hundredth are no longer.
    pub wait_p99_us: u64,
    /// It may be as little as this.
    pub wait_p99_low_us: u64,
    /// Or as much.
    pub wait_p99_high_us: u64,
    /// The part of the servers that is on loan, 0 to 1.
    pub utilization: f64,
    /// Transactions in a second.
    pub throughput: f64,
    /// The mean of waits and transactions together.
    pub response_mean_us: u64,
    /// All but a hundredth of these are no longer.
    pub response_p99_us: u64,
    /// Of the target: what is expected, and from where to where it may be.
    #[serde(skip)]
    target: [f64; 3],
}

/// What was measured.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "as in SizeAdvice")]
pub struct Measured {
    pub wait_p50_us: u64,
    pub wait_p99_us: u64,
    pub utilization: f64,
    pub throughput: f64,
}

/// What the advice is drawn from.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Basis {
    /// Loans of a server: mostly one transaction each.
    pub transactions: u64,
    /// Recorded time.
    pub seconds: f64,
    /// From the first moment to the last.
    pub span_seconds: f64,
    /// Different clients.
    pub clients: u64,
}

/// Transactions that ended with so many servers at work.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[expect(missing_docs, reason = "plain")]
pub struct Level {
    pub servers: u32,
    pub hold_us: u64,
    pub transactions: u64,
}

/// How much longer transactions take when more servers are at work.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Contention {
    /// `none`, `usl` or `knee`.
    pub model: &'static str,
    /// σ of the best Universal Scalability Law.
    pub sigma: f64,
    /// Its κ.
    pub kappa: f64,
    /// With the model `knee`: how many the database works on at a time without slowing down.
    pub room: Option<f64>,
    /// At twice the servers that were seen at work, how many times as long a transaction takes as at the usual number.
    pub growth: f64,
    /// It may be as little as this.
    pub growth_low: f64,
    /// Or as much.
    pub growth_high: f64,
    /// Different numbers of servers at work were seen: the model isn't a guess.
    pub is_known: bool,
    /// What was seen.
    pub observed: Vec<Level>,
}

/// Advice on one pool.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Advice {
    /// The database, as clients call it.
    pub database: String,
    /// The size that it has.
    pub size: u32,
    /// The smallest that meets the target.
    pub recommended: Option<u32>,
    /// It may be as small as this.
    pub low: Option<u32>,
    /// Or as large; `None`: none is large enough, for all that is known.
    pub high: Option<u32>,
    /// Beyond it responses get no faster.
    pub enough: Option<u32>,
    /// All in a sentence.
    pub verdict: String,
    /// What it is drawn from.
    pub trace: Basis,
    /// What was measured meanwhile.
    pub measured: Measured,
    /// See there.
    pub contention: Contention,
    /// What each size would bring.
    pub sizes: Vec<SizeAdvice>,
}

impl Advice {
    /// The size that serves best: the one recommended, but none beyond which responses get no faster.
    #[must_use]
    pub fn best(&self) -> Option<u32> {
        let enough = self.enough?;
        Some(self.recommended.unwrap_or(MOST).min(enough.max(1)))
    }

    fn without(trace: &Trace, verdict: String) -> Self {
        Self {
            database: trace.database.clone(),
            size: trace.size,
            recommended: None,
            low: None,
            high: None,
            enough: None,
            verdict,
            trace: basis(trace),
            measured: measured(trace),
            contention: Contention {
                model: "none",
                growth: 1.0,
                growth_low: 1.0,
                growth_high: 1.0,
                ..Contention::default()
            },
            sizes: Vec::new(),
        }
    }
}

/// Advice from a trace, for sizes up to `most`.
#[must_use]
pub fn advise(trace: &Trace, target: &Target, most: u32) -> Advice {
    let (loans, time) = (trace.len(), trace.recorded());
    if loans < LEAST_LOANS || time < LEAST_TIME {
        let seconds = time as f64 / 1e6;
        let verdict = format!(
            "too little data: {loans} transactions in {seconds:.0} s, and it takes {LEAST_LOANS} in {} s or more",
            LEAST_TIME / 1_000_000
        );
        return Advice::without(trace, verdict);
    }
    let summary = Summary::new(trace);
    let all = cut(trace, &summary);
    let evidence = Evidence::new(&all, &summary);
    let seen = evidence.observed();
    let most_seen = seen.iter().map(|o| o.servers).max().unwrap_or(1) as f64;
    let reach = (most_seen * 2.0).min(f64::from(most)).max(2.0);
    let fit = fit(&evidence, reach);
    let mean = all.iter().map(|piece| piece.loans.len()).sum::<usize>() / all.len().max(1);
    let replayed = spread(all, PIECES.min(BUDGET / mean.max(1)).max(4));
    let sizes = replay(&replayed, &summary, &fit, target, most.clamp(1, MOST));
    let mut advice = Advice::without(trace, String::new());
    advice.contention = contention(&fit, reach, loans);
    let meets = |which: usize| sizes.iter().find(|s| s.target[which] < target.micros).map(|s| s.size);
    (advice.recommended, advice.low, advice.high) = (meets(0), meets(1), meets(2));
    advice.enough = enough(&sizes);
    advice.sizes = sizes;
    advice.verdict = verdict(&advice, target);
    advice
}

fn basis(trace: &Trace) -> Basis {
    let mut clients: Vec<u32> = trace.loans().map(|loan| loan.client).collect();
    clients.sort_unstable();
    clients.dedup();
    let span = match (trace.windows.first(), trace.windows.last()) {
        (Some(first), Some(last)) => last.end.saturating_sub(first.begin),
        _ => 0,
    };
    Basis {
        transactions: trace.len() as u64,
        seconds: rounded(trace.recorded() as f64 / 1e6),
        span_seconds: rounded(span as f64 / 1e6),
        clients: clients.len() as u64,
    }
}

/// What was measured when a trace was recorded.
#[must_use]
pub fn measured(trace: &Trace) -> Measured {
    let time = trace.recorded().max(1) as f64;
    let held: f64 = trace.loans().map(|loan| f64::from(loan.hold)).sum();
    Measured {
        wait_p50_us: quantile(trace.loans().map(|loan| loan.wait), 0.5),
        wait_p99_us: quantile(trace.loans().map(|loan| loan.wait), 0.99),
        utilization: rounded(held / time / f64::from(trace.size.max(1))),
        throughput: rounded(trace.len() as f64 / time * 1e6),
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

fn contention(fit: &Fit, reach: f64, loans: usize) -> Contention {
    let weight: f64 = fit.observed.iter().map(|o| o.hold * o.loans).sum();
    let mean = fit.observed.iter().map(|o| o.servers as f64 * o.hold * o.loans).sum::<f64>() / weight.max(1e-9);
    let growth = |curve: Curve| rounded(curve.factor(reach) / curve.factor(mean));
    // One that was seen often enough, and another that is half as large again.
    let often = |o: &&super::contention::Observed| o.loans >= 20.0 && o.loans * 100.0 >= loans as f64;
    let (least, greatest) = (fit.observed.iter().find(often), fit.observed.iter().rev().find(often));
    let is_known = least.zip(greatest).is_some_and(|(a, b)| b.servers * 2 >= a.servers * 3);
    let level = |o: &super::contention::Observed| Level {
        servers: u32::try_from(o.servers).unwrap_or(u32::MAX),
        hold_us: o.hold as u64,
        transactions: o.loans as u64,
    };
    Contention {
        model: fit.likely.name(),
        sigma: rounded(fit.usl.0),
        kappa: (fit.usl.1 * 1e6).round() / 1e6,
        room: match fit.likely {
            Curve::Knee { room, .. } => Some(rounded(room)),
            _ => None,
        },
        growth: growth(fit.likely),
        growth_low: growth(fit.weak),
        growth_high: growth(fit.strong),
        is_known,
        observed: fit.observed.iter().map(level).collect(),
    }
}

/// Sizes that are replayed; between them is interpolated.
fn grid(most: u32) -> Vec<u32> {
    let wanted = |size: &u32| match *size {
        0..=32 => true,
        33..=64 => size % 2 == 0,
        65..=128 => size % 4 == 0,
        _ => size % 8 == 0,
    };
    (1..=most).filter(|size| wanted(size) || *size == most).collect()
}

fn replay(pieces: &[Piece], summary: &Summary, fit: &Fit, target: &Target, most: u32) -> Vec<SizeAdvice> {
    let mut curves = vec![fit.likely, fit.weak, fit.strong];
    curves.dedup();
    let worlds: Vec<(Vec<f64>, Vec<Scenario>)> = curves
        .into_iter()
        .map(|curve| {
            let factors = curve.table();
            let scenarios = pieces.iter().map(|piece| Scenario::new(piece, summary, &factors)).collect();
            (factors, scenarios)
        })
        .collect();
    let draws = draws(pieces.len());
    let mut sizes: Vec<SizeAdvice> = Vec::new();
    for size in grid(most) {
        let outcomes: Vec<Vec<Outcome>> = worlds
            .iter()
            .map(|(factors, scenarios)| scenarios.iter().map(|s| simulate(s, size as usize, factors)).collect())
            .collect();
        let advice = size_advice(size, &outcomes, &draws, target);
        fill(&mut sizes, &advice);
        let queued = outcomes.iter().flatten().any(|outcome| outcome.queued);
        sizes.push(advice);
        if !queued {
            break;
        }
    }
    // Where nobody waits any more, more servers only idle.
    while let Some(last) = sizes.last().filter(|last| last.size < most) {
        let (size, before) = (last.size + 1, f64::from(last.size));
        let utilization = rounded(last.utilization * before / f64::from(size));
        let next = SizeAdvice { size, utilization, ..last.clone() };
        sizes.push(next);
    }
    sizes
}

/// Sizes between the last one and `next`, which are as far between them in all they say.
fn fill(sizes: &mut Vec<SizeAdvice>, next: &SizeAdvice) {
    let Some(from) = sizes.last().cloned() else { return };
    for size in from.size + 1..next.size {
        let part = f64::from(size - from.size) / f64::from(next.size - from.size);
        let mix = |a: f64, b: f64| a + (b - a) * part;
        let time = |a: u64, b: u64| mix(a as f64, b as f64) as u64;
        sizes.push(SizeAdvice {
            size,
            wait_p50_us: time(from.wait_p50_us, next.wait_p50_us),
            wait_p99_us: time(from.wait_p99_us, next.wait_p99_us),
            wait_p99_low_us: time(from.wait_p99_low_us, next.wait_p99_low_us),
            wait_p99_high_us: time(from.wait_p99_high_us, next.wait_p99_high_us),
            utilization: rounded(mix(from.utilization, next.utilization)),
            throughput: rounded(mix(from.throughput, next.throughput)),
            response_mean_us: time(from.response_mean_us, next.response_mean_us),
            response_p99_us: time(from.response_p99_us, next.response_p99_us),
            target: std::array::from_fn(|i| mix(from.target[i], next.target[i])),
        });
    }
}

fn sum<'o>(outcomes: impl Iterator<Item = &'o Outcome>) -> Outcome {
    let mut sum = Outcome::default();
    outcomes.for_each(|outcome| sum.merge(outcome));
    sum
}

fn size_advice(size: u32, worlds: &[Vec<Outcome>], draws: &[Vec<usize>], target: &Target) -> SizeAdvice {
    let likely = sum(worlds[0].iter());
    let (p50, p99, wanted) =
        (likely.waits.quantile(0.5), likely.waits.quantile(0.99), likely.waits.quantile(target.quantile));
    let (mut of_p99, mut of_target) = ((p99, p99), (wanted, wanted));
    for outcomes in worlds {
        let drawn = |draw: &Vec<usize>| {
            let mut waits = Histogram::default();
            draw.iter().for_each(|&i| waits.merge(&outcomes[i].waits));
            (waits.quantile(0.99), waits.quantile(target.quantile))
        };
        let (mut p99s, mut targets): (Vec<f64>, Vec<f64>) = draws.iter().map(drawn).unzip();
        widen(&mut of_p99, &mut p99s);
        widen(&mut of_target, &mut targets);
    }
    let ended = likely.ended.max(1) as f64;
    SizeAdvice {
        size,
        wait_p50_us: p50 as u64,
        wait_p99_us: p99 as u64,
        wait_p99_low_us: of_p99.0 as u64,
        wait_p99_high_us: of_p99.1 as u64,
        utilization: rounded(likely.busy / likely.time.max(1.0) / f64::from(size)),
        throughput: rounded(likely.ended as f64 / likely.time.max(1.0) * 1e6),
        response_mean_us: (likely.response_sum / ended) as u64,
        response_p99_us: likely.responses.quantile(0.99) as u64,
        target: [wanted, of_target.0, of_target.1],
    }
}

/// Widens a range to nine tenths of what was drawn.
fn widen(range: &mut (f64, f64), drawn: &mut [f64]) {
    drawn.sort_by(f64::total_cmp);
    let at = |part: f64| drawn.get(((drawn.len() as f64 - 1.0) * part).round() as usize).copied();
    if let (Some(low), Some(high)) = (at(0.05), at(0.95)) {
        *range = (range.0.min(low), range.1.max(high));
    }
}

/// Pieces drawn with putting back, from a fixed seed.
fn draws(pieces: usize) -> Vec<Vec<usize>> {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        // Marsaglia's xorshift.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % pieces.max(1) as u64) as usize
    };
    (0..DRAWS).map(|_| (0..pieces).map(|_| next()).collect()).collect()
}

/// The size beyond which responses get no faster, neither their mean nor the slowest ones.
fn enough(sizes: &[SizeAdvice]) -> Option<u32> {
    let least = |of: fn(&SizeAdvice) -> u64| sizes.iter().map(of).min().unwrap_or_default().max(1) as f64;
    let (mean, p99) = (least(|s| s.response_mean_us), least(|s| s.response_p99_us));
    let worse = |s: &SizeAdvice| f64::max(s.response_mean_us as f64 / mean, s.response_p99_us as f64 / p99);
    let best = sizes.iter().map(worse).min_by(f64::total_cmp)?;
    sizes.iter().find(|s| worse(s) <= best * NO_BETTER).map(|s| s.size)
}

fn time(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.1} s", micros as f64 / 1e6),
    }
}

fn verdict(advice: &Advice, target: &Target) -> String {
    let size = advice.size;
    let range = match (advice.low, advice.high) {
        (Some(low), Some(high)) if low == high => String::new(),
        (Some(low), Some(high)) => format!(" ({low} to {high})"),
        (Some(low), None) => format!(" ({low} or more)"),
        _ => String::new(),
    };
    let now = time(advice.measured.wait_p99_us);
    let mut text = match advice.recommended {
        None => format!("{size} servers, and no size up to {} is expected to meet \"{target}\"", advice.sizes.len()),
        Some(best) if best > size => {
            format!("{size} servers are {} too few: \"{target}\" takes {best}{range}; p99 wait is {now}", best - size)
        }
        Some(best) if best < size => {
            format!("{size} servers are {} more than \"{target}\" takes: {best}{range} would do", size - best)
        }
        Some(_) => format!("{size} servers are what \"{target}\" takes{range}"),
    };
    // Writing to a String can't fail.
    let slows_down = advice.contention.growth > 1.1;
    if let Some(enough) = advice.enough.filter(|n| slows_down && *n < advice.recommended.unwrap_or(MOST)) {
        let _ = write!(text, "; beyond {enough} the waiting only moves into the database: responses get no faster");
    }
    if !advice.contention.is_known {
        text.push_str(
            "; how the database slows down under more is a guess, since the number of servers at work hardly varied",
        );
    }
    text
}
