//! How much longer a loan takes when more servers are at work: told from a trace.
//!
//! For each number of servers in use the time spent there, server by server, over the loans that ended there is the mean
//! time that a loan takes at that number. This holds whatever the distribution of the times, also for a mix of short and
//! long ones, where pairs of (servers at the grant, time) would mislead: a long loan sees the number of servers go back
//! to the usual, a short one doesn't. Groups of clients have means of their own and the curve in common, so that a nightly
//! batch of long transactions isn't taken for contention.
//!
//! Curves: none; the Universal Scalability Law, 1 + σ(N-1) + κN(N-1) (<https://doi.org/10.48550/arXiv.0808.1431>); and what
//! a server with m cores does (or m rows that all lock): nothing up to m, then in proportion, with a more or less sharp
//! knee. The likelihood is Poisson's for the loans that end at each number. The simplest curve that isn't worse than the
//! best one by more than the error of the difference, as the pieces of the trace differ in it, is taken. Those that can't be
//! told from it bound what is predicted: where the number of servers in use hardly varied, these are all.

use std::collections::HashMap;

use super::pieces::{Piece, Summary};

/// More servers in use count as so many.
pub const LEVELS: usize = 512;
/// Groups with a mean of their own.
const CLASSES: usize = 8;

/// How the time that a loan takes grows with the number of servers at work; 1 for one server.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Curve {
    /// Not at all.
    None,
    /// The Universal Scalability Law.
    Usl {
        /// σ: what is serial.
        sigma: f64,
        /// κ: what each pair costs.
        kappa: f64,
    },
    /// Something has room for so many at a time.
    Knee {
        /// For how many.
        room: f64,
        /// How sharp the knee is.
        sharpness: f64,
    },
}

impl Curve {
    /// The factor with `n` servers at work.
    #[must_use]
    pub fn factor(&self, n: f64) -> f64 {
        let n = n.max(1.0);
        match *self {
            Self::None => 1.0,
            Self::Usl { sigma, kappa } => 1.0 + sigma * (n - 1.0) + kappa * n * (n - 1.0),
            Self::Knee { room, sharpness } => {
                let part = |n: f64| 1.0 + (n / room).powf(sharpness);
                (part(n) / part(1.0)).powf(1.0 / sharpness)
            }
        }
    }

    /// The factors for 0 to [`LEVELS`] servers.
    #[must_use]
    pub fn table(&self) -> Vec<f64> {
        (0..=LEVELS).map(|n| self.factor(n as f64)).collect()
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Usl { .. } => "usl",
            Self::Knee { .. } => "knee",
        }
    }

    const fn parameters(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Usl { sigma, kappa } => (*sigma > 0.0) as usize + (*kappa > 0.0) as usize,
            Self::Knee { sharpness, .. } => 1 + (*sharpness < SHARP) as usize,
        }
    }
}

const SHARP: f64 = 16.0;

/// All curves that are tried.
fn candidates() -> Vec<Curve> {
    let mut all = vec![Curve::None];
    let steps = |from: f64, factor: f64, n: i32| (0..n).map(move |i| from * factor.powi(i));
    for sharpness in [2.0, 4.0, SHARP] {
        all.extend(steps(1.0, 1.12, 46).map(|room| Curve::Knee { room, sharpness }));
    }
    let sigmas = [0.0].into_iter().chain(steps(0.002, 1.3, 25));
    for sigma in sigmas {
        let kappas = [0.0].into_iter().chain(steps(0.000_01, 2.2, 12));
        all.extend(kappas.map(|kappa| Curve::Usl { sigma, kappa }).filter(|curve| curve.parameters() > 0));
    }
    all
}

/// The number of servers at work over time.
#[derive(Debug, Default)]
pub struct Course {
    /// When it changes.
    times: Vec<u64>,
    /// To what, from then on.
    counts: Vec<u16>,
}

impl Course {
    /// In a piece, as its loans have it.
    #[must_use]
    pub fn new(piece: &Piece, summary: &Summary) -> Self {
        let mut events: Vec<(u64, i32)> = Vec::with_capacity(piece.loans.len() * 2);
        for loan in piece.loans.iter().filter(|loan| u64::from(loan.hold) <= summary.idler) {
            events.extend([(loan.granted(), 1), (loan.end.max(loan.granted() + 1), -1)]);
        }
        events.sort_unstable();
        let mut course = Self::default();
        let mut n = 0;
        for (time, change) in events {
            n += change;
            let count = u16::try_from(n.clamp(0, LEVELS as i32)).unwrap_or(0);
            if course.times.last() == Some(&time) {
                if let Some(last) = course.counts.last_mut() {
                    *last = count;
                }
            } else {
                course.times.push(time);
                course.counts.push(count);
            }
        }
        course
    }

    /// For each loan of the piece how long it would have taken alone, microseconds.
    #[must_use]
    pub fn work(&self, piece: &Piece, factors: &[f64]) -> Vec<f64> {
        let mut done = Vec::with_capacity(self.times.len());
        let mut sum = 0.0;
        for (i, &time) in self.times.iter().enumerate() {
            if i > 0 {
                sum += (time - self.times[i - 1]) as f64 / factors[usize::from(self.counts[i - 1]).max(1)];
            }
            done.push(sum);
        }
        let until = |time: u64| {
            let i = self.times.partition_point(|t| *t <= time);
            match i.checked_sub(1) {
                None => 0.0,
                Some(i) => done[i] + (time - self.times[i]) as f64 / factors[usize::from(self.counts[i]).max(1)],
            }
        };
        piece.loans.iter().map(|loan| (until(loan.end) - until(loan.granted())).max(1.0)).collect()
    }
}

/// Of one piece and one class at one number of servers at work.
#[derive(Clone, Copy, Debug)]
struct Cell {
    class: usize,
    level: usize,
    /// Microseconds times servers.
    exposure: f64,
    /// Loans that ended.
    ended: f64,
}

/// What the pieces say.
#[derive(Debug, Default)]
pub struct Evidence {
    pieces: Vec<Vec<Cell>>,
}

/// At one number of servers at work.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Observed {
    /// The number.
    pub servers: usize,
    /// The mean time that a loan took, microseconds.
    pub hold: f64,
    /// Loans that ended.
    pub loans: f64,
}

impl Evidence {
    /// Of these pieces.
    #[must_use]
    pub fn new(pieces: &[Piece], summary: &Summary) -> Self {
        let classes = classes(pieces);
        Self { pieces: pieces.iter().map(|piece| cells(piece, summary, &classes)).collect() }
    }

    /// What was seen at each number of servers at work.
    #[must_use]
    pub fn observed(&self) -> Vec<Observed> {
        let mut sums = vec![(0.0, 0.0); LEVELS + 1];
        for cell in self.pieces.iter().flatten() {
            sums[cell.level].0 += cell.exposure;
            sums[cell.level].1 += cell.ended;
        }
        let seen = |(servers, (exposure, loans)): (usize, (f64, f64))| {
            (loans > 0.0).then(|| Observed { servers, hold: exposure / loans, loans })
        };
        sums.into_iter().enumerate().filter_map(seen).collect()
    }

    /// The logarithm of the likelihood of a curve, piece by piece, but for what is the same for all curves.
    fn likelihood(&self, curve: Curve) -> Vec<f64> {
        let factors = curve.table();
        let mut work = [0.0; CLASSES];
        let mut ended = [0.0; CLASSES];
        for cell in self.pieces.iter().flatten() {
            work[cell.class] += cell.exposure / factors[cell.level];
            ended[cell.class] += cell.ended;
        }
        // The mean work of a class, as its loans have it.
        let mean: Vec<f64> = work.iter().zip(ended).map(|(work, ended)| work / f64::max(ended, 0.5)).collect();
        let of_piece = |cells: &Vec<Cell>| {
            let of_cell = |cell: &Cell| {
                let time = mean[cell.class].max(1e-9) * factors[cell.level];
                -cell.ended * time.ln() - cell.exposure / time
            };
            cells.iter().map(of_cell).sum()
        };
        self.pieces.iter().map(of_piece).collect()
    }
}

/// The groups with most loans have a class each, the others one.
fn classes(pieces: &[Piece]) -> HashMap<u16, usize> {
    let mut counts: HashMap<u16, usize> = HashMap::new();
    pieces.iter().flat_map(|piece| &piece.loans).for_each(|loan| *counts.entry(loan.group).or_default() += 1);
    let mut groups: Vec<_> = counts.into_iter().collect();
    groups.sort_by_key(|&(group, count)| (std::cmp::Reverse(count), group));
    groups.into_iter().take(CLASSES - 1).enumerate().map(|(class, (group, _))| (group, class)).collect()
}

fn cells(piece: &Piece, summary: &Summary, classes: &HashMap<u16, usize>) -> Vec<Cell> {
    let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(piece.loans.len() * 2);
    for loan in piece.loans.iter().filter(|loan| u64::from(loan.hold) <= summary.idler) {
        let class = classes.get(&loan.group).copied().unwrap_or(CLASSES - 1);
        events.extend([(loan.granted(), true, class), (loan.end.max(loan.granted() + 1), false, class)]);
    }
    events.sort_unstable();
    // Of loans that end after the piece nothing is known here: towards its end servers are missing.
    let tail = super::pieces::quantile(piece.loans.iter().map(|loan| loan.hold), 0.9);
    let (from, until) = (piece.begin, piece.end.saturating_sub(tail.min((piece.end - piece.begin) / 4)));
    let mut sums: HashMap<(usize, usize), (f64, f64)> = HashMap::new();
    let mut at_work = [0u32; CLASSES];
    // What ends at the same moment ends at the number of servers of the moment before.
    let (mut before, mut moment, mut level) = (from, None, 0);
    for (time, begins, class) in events {
        if moment.replace(time) != Some(time) {
            level = (at_work.iter().sum::<u32>() as usize).min(LEVELS);
        }
        let passed = time.clamp(from, until).saturating_sub(before);
        if passed > 0 {
            for (class, n) in at_work.iter().enumerate().filter(|(_, n)| **n > 0) {
                sums.entry((class, level)).or_default().0 += f64::from(*n) * passed as f64;
            }
            before = time.clamp(from, until);
        }
        if begins {
            at_work[class] += 1;
        } else {
            at_work[class] = at_work[class].saturating_sub(1);
            if (from..until).contains(&time) {
                sums.entry((class, level)).or_default().1 += 1.0;
            }
        }
    }
    let cell = |((class, level), (exposure, ended))| Cell { class, level, exposure, ended };
    let mut cells: Vec<Cell> = sums.into_iter().map(cell).collect();
    cells.sort_by_key(|cell| (cell.class, cell.level));
    cells
}

/// What a trace says about contention.
#[derive(Clone, PartialEq, Debug)]
pub struct Fit {
    /// The curve.
    pub likely: Curve,
    /// Of those that may be as well the one that grows least.
    pub weak: Curve,
    /// And the one that grows most.
    pub strong: Curve,
    /// The best one of the Universal Scalability Law: σ and κ.
    pub usl: (f64, f64),
    /// What was seen.
    pub observed: Vec<Observed>,
}

/// Fits the curves to what was seen. `reach`: up to how many servers the curve matters.
#[must_use]
pub fn fit(evidence: &Evidence, reach: f64) -> Fit {
    let observed = evidence.observed();
    let scored: Vec<(Curve, Vec<f64>, f64)> = candidates()
        .into_iter()
        .map(|curve| {
            let parts = evidence.likelihood(curve);
            let sum = parts.iter().sum();
            (curve, parts, sum)
        })
        .collect();
    let best = |of: &dyn Fn(&Curve) -> bool| {
        scored.iter().filter(|(curve, ..)| of(curve)).max_by(|a, b| a.2.total_cmp(&b.2)).unwrap_or(&scored[0])
    };
    let top = best(&|_| true);
    // How much worse a curve is, in errors of the difference; what is less than `slack` doesn't count.
    let stands = |(_, parts, sum): &(Curve, Vec<f64>, f64), slack: f64| {
        let worse = top.2 - sum;
        worse <= slack + (2.0 * worse).max(spread_of(parts, &top.1)).sqrt()
    };
    let likely = (0..3)
        .map(|parameters| best(&|curve| curve.parameters() <= parameters))
        .find(|candidate| stands(candidate, 1.0))
        .map_or(top.0, |candidate| candidate.0);
    let weight = |o: &Observed| o.hold * o.loans;
    let mean = observed.iter().map(|o| o.servers as f64 * weight(o)).sum::<f64>()
        / observed.iter().map(weight).sum::<f64>().max(1e-9);
    let growth = |curve: Curve| curve.factor(reach) / curve.factor(mean);
    let has_pairs = |curve: &Curve| matches!(curve, Curve::Usl { kappa, .. } if *kappa > 0.0);
    let (mut weak, mut strong) = (likely, likely);
    for candidate in scored.iter().filter(|c| (!has_pairs(&c.0) || has_pairs(&likely)) && stands(c, 2.0)) {
        if growth(candidate.0) < growth(weak) {
            weak = candidate.0;
        }
        if growth(candidate.0) > growth(strong) {
            strong = candidate.0;
        }
    }
    let usl = match best(&|curve| matches!(curve, Curve::None | Curve::Usl { .. })).0 {
        Curve::Usl { sigma, kappa } => (sigma, kappa),
        _ => (0.0, 0.0),
    };
    Fit { likely, weak, strong, usl, observed }
}

/// The variance of the difference of two sums, from those of their parts.
fn spread_of(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len() as f64;
    if a.len() < 3 {
        return 0.0;
    }
    let differences = || a.iter().zip(b).map(|(a, b)| a - b);
    let mean = differences().sum::<f64>() / n;
    differences().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0) * n
}
