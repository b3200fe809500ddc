//! How much longer a loan takes when more servers are at work: told from a trace.
//!
//! Each loan met some numbers of servers at work, which follow from the other loans. By a curve its time comes to some work: what it
//! takes alone. Under the right curve work has the same distribution whatever a loan met. So the likelihood of a curve is that of the
//! work under the distribution that all work has by that curve, whichever that is, with what the change of variables brings:
//! the curve's factor at the end of each loan. (Without that, long loans would seem to suffer from the others whom they hold up.
//! Counting ends over time spent at each number, which is the same for exponential times, goes wrong for those that take all the
//! same time: they end together, one after the other as the number falls. For that reason, too, the end is the last twentieth of a loan.)
//! Groups of clients have distributions of their own and the curve in common, so that a nightly batch of long transactions isn't
//! taken for contention.
//!
//! Curves: none; the Universal Scalability Law, 1 + σ(N-1) + κN(N-1) (<https://doi.org/10.48550/arXiv.0808.1431>); and what
//! a server with m cores does (or m rows that all lock): nothing up to m, then in proportion, with a more or less sharp
//! knee. The simplest curve that isn't worse than the best one by more than the error of the difference, as the pieces of the
//! trace differ in it, is taken. Those that can't be told from it bound what is predicted: where the number of servers at
//! work hardly varied, these are all.

use std::collections::HashMap;

use super::pieces::{Piece, Summary};
use super::trace::Loan;

/// More servers in use count as so many.
pub const LEVELS: usize = 512;
/// Groups with a mean of their own.
const CLASSES: usize = 8;
/// Loans that are compared, at most: evenly from all.
const MOST_POINTS: usize = 5_000;
/// Numbers of servers at work are told apart so finely.
const FINE: f64 = 8.0;
/// The part of a loan that is its end.
const LAST: u64 = 20;

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
    /// In a piece.
    #[must_use]
    pub fn new(piece: &Piece) -> Self {
        let mut events: Vec<(u64, i32)> = Vec::with_capacity(piece.around.len() * 2);
        for loan in &piece.around {
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

    /// For how long there was which number of servers at work, in a time in which one was.
    fn met(&self, from: u64, until: u64) -> Vec<(u16, f64)> {
        let mut met: Vec<(u16, f64)> = Vec::new();
        let mut at = self.times.partition_point(|time| *time <= from);
        let mut before = from;
        while before < until {
            let next = self.times.get(at).copied().unwrap_or(until).min(until);
            let count = at.checked_sub(1).map_or(1, |i| self.counts[i].max(1));
            let time = (next - before) as f64;
            match met.iter_mut().find(|(n, _)| *n == count) {
                Some((_, sum)) => *sum += time,
                None => met.push((count, time)),
            }
            before = next;
            at += 1;
        }
        met
    }

    /// The mean of these numbers.
    fn average(&self, from: u64, until: u64) -> f64 {
        let met = self.met(from, until);
        let sum = |of: fn(&(u16, f64)) -> f64| met.iter().map(of).sum::<f64>();
        (sum(|(n, time)| f64::from(*n) * time) / sum(|(_, time)| *time).max(1.0)).clamp(1.0, LEVELS as f64)
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

/// A loan, and the numbers of servers at work that it met.
#[derive(Clone, Debug)]
struct Point {
    piece: usize,
    class: usize,
    /// Its time at each number.
    met: Vec<(u16, f64)>,
    /// The mean number towards its end, in parts of [`FINE`].
    last: usize,
}

/// What the pieces say.
#[derive(Debug, Default)]
pub struct Evidence {
    pieces: usize,
    points: Vec<Point>,
    observed: Vec<Observed>,
}

/// At one number of servers at work.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Observed {
    /// The number.
    pub servers: usize,
    /// The mean time that a loan took, microseconds.
    pub hold: f64,
    /// Loans.
    pub loans: f64,
}

impl Evidence {
    /// Of these pieces.
    #[must_use]
    pub fn new(pieces: &[Piece], summary: &Summary) -> Self {
        let classes = classes(pieces);
        let every = pieces.iter().map(|piece| piece.loans.len()).sum::<usize>() / MOST_POINTS + 1;
        let mut evidence = Self { pieces: pieces.len(), ..Self::default() };
        let mut sums = vec![(0.0, 0.0); LEVELS + 1];
        for (at, piece) in pieces.iter().enumerate() {
            let course = Course::new(piece);
            // Of loans that ended before anything was recorded, or haven't yet, nothing is known.
            let (begin, end) = piece.known;
            let tail = super::pieces::quantile(piece.loans.iter().map(|loan| loan.hold), 0.9);
            let until = end.saturating_sub(tail.min((end - begin) / 4));
            let whole = |loan: &Loan| loan.granted() >= begin && loan.end < until;
            let fit = |loan: &&Loan| whole(loan) && u64::from(loan.hold) <= summary.idler && loan.hold > 0;
            for (nth, loan) in piece.loans.iter().filter(fit).enumerate() {
                let (from, to) = (loan.granted(), loan.end.max(loan.granted() + 1));
                let met = course.average(from, to);
                let last = course.average(to - ((to - from) / LAST).max(1), to);
                let sum: &mut (f64, f64) = &mut sums[met.round() as usize];
                *sum = (sum.0 + f64::from(loan.hold), sum.1 + 1.0);
                if nth % every == 0 {
                    let class = classes.get(&loan.group).copied().unwrap_or(CLASSES - 1);
                    let (met, last) = (course.met(from, to), (last * FINE).round() as usize);
                    evidence.points.push(Point { piece: at, class, met, last });
                }
            }
        }
        let seen = |(servers, (hold, loans)): (usize, (f64, f64))| {
            (loans > 0.0).then(|| Observed { servers, hold: hold / loans, loans })
        };
        evidence.observed = sums.into_iter().enumerate().filter_map(seen).collect();
        evidence
    }

    /// What was seen at each number of servers at work.
    #[must_use]
    pub fn observed(&self) -> Vec<Observed> {
        self.observed.clone()
    }

    /// The logarithm of the likelihood of a curve, piece by piece, but for what is the same for all curves.
    fn likelihood(&self, curve: Curve) -> Vec<f64> {
        let speeds: Vec<f64> = curve.table().into_iter().map(f64::recip).collect();
        let top = self.points.iter().map(|point| point.last).max().unwrap_or_default();
        let factors: Vec<f64> = (0..=top).map(|level| curve.factor(level as f64 / FINE).ln()).collect();
        let work = |point: &Point| point.met.iter().map(|(n, time)| time * speeds[usize::from(*n)]).sum::<f64>().ln();
        let works: Vec<f64> = self.points.iter().map(work).collect();
        let mut classes = vec![Density::default(); CLASSES];
        self.points.iter().zip(&works).for_each(|(point, work)| classes[point.class].count(*work));
        self.points.iter().zip(&works).for_each(|(point, work)| classes[point.class].add(*work));
        classes.iter_mut().for_each(Density::smooth);
        let mut parts = vec![0.0; self.pieces];
        for (point, work) in self.points.iter().zip(&works) {
            parts[point.piece] += classes[point.class].of(*work).max(1e-9).ln() - work - factors[point.last];
        }
        parts
    }
}

/// The distribution of logarithms.
#[derive(Clone, Debug)]
struct Density {
    /// Around the mean: where in a bin a value falls must not depend on the curve.
    bins: Vec<f64>,
    count: f64,
    sum: f64,
}

impl Default for Density {
    fn default() -> Self {
        Self { bins: vec![0.0; 400], count: 0.0, sum: 0.0 }
    }
}

impl Density {
    /// A time differs by that much for no reason.
    const WIDTH: f64 = 0.1;

    fn count(&mut self, value: f64) {
        self.count += 1.0;
        self.sum += value;
    }

    fn place(&self, value: f64) -> (usize, f64) {
        let middle = self.bins.len() as f64 / 2.0;
        let at = ((value - self.sum / self.count) / Self::WIDTH + middle).clamp(2.0, self.bins.len() as f64 - 4.0);
        (at as usize, at.fract())
    }

    fn add(&mut self, value: f64) {
        let (at, part) = self.place(value);
        self.bins[at] += 1.0 - part;
        self.bins[at + 1] += part;
    }

    fn smooth(&mut self) {
        for _ in 0..2 {
            let smooth = |three: &[f64]| three[0] / 4.0 + three[1] / 2.0 + three[2] / 4.0;
            let inner: Vec<f64> = self.bins.windows(3).map(smooth).collect();
            self.bins[1..=inner.len()].copy_from_slice(&inner);
        }
    }

    fn of(&self, value: f64) -> f64 {
        let (at, part) = self.place(value);
        (self.bins[at] * (1.0 - part) + self.bins[at + 1] * part) / (self.count * Self::WIDTH)
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
