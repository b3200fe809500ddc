//! A trace cut into pieces of time: what is replayed one by one, and resampled to tell how sure a prediction is.

use std::collections::HashMap;

use super::trace::{Loan, Trace, Window};

/// Pieces that contention is told from, at most.
const MOST_PIECES: usize = 96;
/// Loans in a piece.
const LEAST: usize = 250;
const MOST: usize = 6_000;
/// How often each client should come in a piece.
const VISITS: usize = 4;
/// A piece is longer than its loans usually take.
const TURNS: u64 = 20;
/// Fewer loans than this in a window tell nothing, where there are others.
const TOO_FEW: usize = 20;
/// Loans that take so many times as long as nearly all others are waits of their own (a pin, a session that sits idle in
/// a transaction): they hold a server but don't load it.
const IDLER: u64 = 30;

/// A piece of time and the loans that ended in it.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Its first moment.
    pub begin: u64,
    /// The moment after it.
    pub end: u64,
    /// In the order of their end.
    pub loans: Vec<Loan>,
    /// All loans that lasted while one of these did and load their server, these among them.
    pub around: Vec<Loan>,
    /// From when to when all loans are known that ended.
    pub known: (u64, u64),
}

/// What is said of a trace as a whole.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// A loan that takes longer, microseconds, doesn't load its server.
    pub idler: u64,
    /// Loans of each client.
    pub visits: HashMap<u32, u32>,
    /// For each group how much of a delay its clients make up for by thinking less, 0 to 1.
    pub catching_up: HashMap<u16, f64>,
}

impl Summary {
    /// Of a trace.
    #[must_use]
    pub fn new(trace: &Trace) -> Self {
        let mut visits: HashMap<u32, u32> = HashMap::new();
        trace.loans().for_each(|loan| *visits.entry(loan.client).or_default() += 1);
        let idler = quantile(trace.loans().map(|loan| loan.hold), 0.95).max(1) * IDLER;
        Self { idler, visits, catching_up: catching_up(trace) }
    }
}

/// The value that `part` of all don't exceed; 0 of none.
pub fn quantile(values: impl Iterator<Item = u32>, part: f64) -> u64 {
    let mut values: Vec<u32> = values.collect();
    if values.is_empty() {
        return 0;
    }
    let at = ((values.len() as f64 * part).ceil() as usize).clamp(1, values.len()) - 1;
    (*values.select_nth_unstable(at).1).into()
}

/// Sums of a regression.
#[derive(Default)]
struct Sums {
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
    yy: f64,
}

impl Sums {
    fn add(&mut self, x: f64, y: f64) {
        self.n += 1.0;
        self.x += x;
        self.y += y;
        self.xx += x * x;
        self.xy += x * y;
        self.yy += y * y;
    }
}

/// How clients think after an answer that took longer than usual: one that works by a clock thinks so much less, one
/// that reacts to what it gets thinks as ever. Told from pairs of one response and the pause after it, each client
/// compared with itself; 0 where it isn't clear.
fn catching_up(trace: &Trace) -> HashMap<u16, f64> {
    let mut clients: HashMap<u32, (u16, Sums)> = HashMap::new();
    for window in &trace.windows {
        let mut last: HashMap<u32, Loan> = HashMap::new();
        for loan in &window.loans {
            let Some(before) = last.insert(loan.client, *loan) else { continue };
            let response = before.wait as f64 + before.hold as f64;
            let think = loan.asked().saturating_sub(before.end) as f64;
            clients.entry(loan.client).or_insert_with(|| (loan.group, Sums::default())).1.add(response, think);
        }
    }
    let mut groups: HashMap<u16, Sums> = HashMap::new();
    for (group, s) in clients.into_values().filter(|(_, s)| s.n >= 3.0) {
        let sums = groups.entry(group).or_default();
        sums.n += s.n - 1.0;
        sums.xx += s.xx - s.x * s.x / s.n;
        sums.xy += s.xy - s.x * s.y / s.n;
        sums.yy += s.yy - s.y * s.y / s.n;
    }
    groups
        .into_iter()
        .filter_map(|(group, s)| {
            if s.n < 20.0 || s.xx <= 0.0 {
                return None;
            }
            let slope = s.xy / s.xx;
            let error = ((s.yy - slope * s.xy).max(0.0) / (s.n - 1.0) / s.xx).sqrt();
            (slope < -0.3 && -slope > 4.0 * error).then(|| (group, (-slope).min(1.0)))
        })
        .collect()
}

/// Cuts a trace into pieces.
#[must_use]
pub fn cut(trace: &Trace, summary: &Summary) -> Vec<Piece> {
    let usual = summary.idler / IDLER;
    let long_enough = |w: &&Window| w.loans.len() >= TOO_FEW && w.end - w.begin > TURNS * usual;
    let mut windows: Vec<&Window> = trace.windows.iter().filter(long_enough).collect();
    if windows.is_empty() {
        windows = trace.windows.iter().filter(|w| !w.loans.is_empty()).collect();
    }
    let total: usize = windows.iter().map(|w| w.loans.len()).sum();
    let visited = summary.visits.len() * VISITS;
    let wanted = (total / 24).max(visited).clamp(LEAST, MOST);
    let mut spans = Vec::new();
    for window in windows {
        let length = window.end - window.begin;
        let by_time = length / (TURNS * usual).max(1);
        let count = (window.loans.len() as u64 / wanted as u64).min(by_time).max(1);
        let mut from = 0;
        for i in 0..count {
            let (begin, end) = (window.begin + length * i / count, window.begin + length * (i + 1) / count);
            let last = i + 1 == count;
            let to = if last { window.loans.len() } else { window.loans.partition_point(|loan| loan.end < end) };
            if to > from {
                spans.push((window, from..to, begin, end));
            }
            from = to;
        }
    }
    let piece = |(window, range, begin, end): (&Window, std::ops::Range<usize>, u64, u64)| {
        let loans = window.loans[range].to_vec();
        let loads = |loan: &&Loan| u64::from(loan.hold) <= summary.idler;
        let first = loans.iter().filter(loads).map(Loan::granted).min().unwrap_or(begin);
        let around = &window.loans[window.loans.partition_point(|loan| loan.end <= first)..];
        let around = around.iter().filter(|loan| loads(loan) && loan.granted() < end).copied().collect();
        Piece { begin, end, loans, around, known: (window.begin, window.end) }
    };
    spread(spans, MOST_PIECES).into_iter().map(piece).collect()
}

/// So many of them at most, from all over.
#[must_use]
pub fn spread<T>(pieces: Vec<T>, most: usize) -> Vec<T> {
    let all = pieces.len();
    if all <= most.max(1) {
        return pieces;
    }
    let mut taken = 0;
    let wanted = |(i, _): &(usize, T)| {
        let take = i * most / all >= taken;
        taken += usize::from(take);
        take
    };
    pieces.into_iter().enumerate().filter(wanted).map(|(_, piece)| piece).collect()
}
