//! The demand on a pool of late: who asked for a server when, how long they waited, how long they held it.
//!
//! A [`Recorder`] keeps it in a ring of slots of time. Each slot has room for so many loans: where more come, the rest
//! of the slot isn't recorded at all. Leaving out single ones instead would tear the queues apart that a replay is to
//! show. So memory is bounded, whatever the rate, and what is there is whole.

use std::collections::VecDeque;

/// Slots of time.
pub const SLOTS: usize = 32;
/// Loans recorded in one slot.
pub const SLOT_LOANS: usize = 2048;
/// The longest slot, microseconds: times within one have 32 bits.
const LONGEST_SLOT: u64 = 3_600_000_000;

/// One loan of a server to a client, microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loan {
    /// When the server came back.
    pub end: u64,
    /// How long the client waited for it.
    pub wait: u32,
    /// How long the client had it.
    pub hold: u32,
    /// Who: the same number is the same client.
    pub client: u32,
    /// Clients of the same group are of the same application and user.
    pub group: u16,
}

impl Loan {
    /// When the client got the server.
    #[must_use]
    pub fn granted(&self) -> u64 {
        self.end.saturating_sub(self.hold.into())
    }

    /// When the client asked for a server.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.granted().saturating_sub(self.wait.into())
    }
}

/// A time without gaps in the record, microseconds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Window {
    /// Its first moment.
    pub begin: u64,
    /// The moment after it.
    pub end: u64,
    /// The loans that ended in it, in that order.
    pub loans: Vec<Loan>,
}

/// What a recorder has, or a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trace {
    /// The database, as clients call it.
    pub database: String,
    /// The pool's size at the time.
    pub size: u32,
    /// Times that were recorded as a whole, in order.
    pub windows: Vec<Window>,
}

impl Trace {
    /// Forgets what ended more than `last` microseconds before the end.
    pub fn keep_last(&mut self, last: u64) {
        let from = self.windows.last().map_or(0, |window| window.end.saturating_sub(last));
        self.windows.retain(|window| window.end > from);
        if let Some(window) = self.windows.first_mut().filter(|window| window.begin < from) {
            window.loans.retain(|loan| loan.end >= from);
            window.begin = from;
        }
    }

    /// The number of loans.
    #[must_use]
    pub fn len(&self) -> usize {
        self.windows.iter().map(|window| window.loans.len()).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How much time is recorded, microseconds.
    #[must_use]
    pub fn recorded(&self) -> u64 {
        self.windows.iter().map(|window| window.end.saturating_sub(window.begin)).sum()
    }

    /// All loans.
    pub fn loans(&self) -> impl Iterator<Item = &Loan> {
        self.windows.iter().flat_map(|window| &window.loans)
    }
}

/// As [`Loan`], in 20 bytes.
#[derive(Clone, Copy, Debug)]
struct Packed {
    /// After the slot's beginning.
    end: u32,
    wait: u32,
    hold: u32,
    client: u32,
    group: u16,
}

#[derive(Debug)]
struct Slot {
    /// Its place among all slots since time 0.
    index: u64,
    /// From when on it is recorded.
    begin: u64,
    /// When it was full.
    full: Option<u64>,
    loans: Vec<Packed>,
}

/// See the module. Times are microseconds after a moment of the caller's choice, and don't go back by much.
#[derive(Debug)]
pub struct Recorder {
    /// The length of a slot.
    length: u64,
    /// The end of the current slot.
    until: u64,
    slots: VecDeque<Slot>,
}

impl Recorder {
    /// One that covers `window` microseconds, beginning at `now`.
    #[must_use]
    pub fn new(window: u64, now: u64) -> Self {
        let length = (window / SLOTS as u64).clamp(1, LONGEST_SLOT);
        let mut recorder = Self { length, until: 0, slots: VecDeque::new() };
        recorder.turn(now);
        if let Some(slot) = recorder.slots.back_mut() {
            slot.begin = now;
        }
        recorder
    }

    /// What it covers, microseconds.
    #[must_use]
    pub const fn window(&self) -> u64 {
        self.length * SLOTS as u64
    }

    /// A loan has ended.
    pub fn record(&mut self, loan: Loan) {
        if loan.end >= self.until {
            self.turn(loan.end);
        }
        let Some(slot) = self.slots.back_mut() else { return };
        if slot.full.is_some() {
            return;
        }
        let Loan { end, wait, hold, client, group } = loan;
        // Of two threads one may come a little late.
        let end = u32::try_from(end.saturating_sub(slot.begin)).unwrap_or(u32::MAX);
        slot.loans.push(Packed { end, wait, hold, client, group });
        if slot.loans.len() >= SLOT_LOANS {
            slot.full = Some(slot.begin + u64::from(end) + 1);
        }
    }

    /// Begins the slot of `now`, and forgets the oldest ones.
    #[cold]
    fn turn(&mut self, now: u64) {
        let index = now / self.length;
        self.until = (index + 1) * self.length;
        let mut room = Vec::new();
        let outdated = |slot: &Slot| slot.index + SLOTS as u64 <= index;
        while self.slots.len() >= SLOTS || self.slots.front().is_some_and(outdated) {
            if let Some(slot) = self.slots.pop_front() {
                room = slot.loans;
            }
        }
        room.clear();
        self.slots.push_back(Slot { index, begin: index * self.length, full: None, loans: room });
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.slots.iter().map(|slot| slot.loans.capacity() * size_of::<Packed>()).sum()
    }

    /// What is recorded up to `now`, as windows without gaps.
    #[must_use]
    pub fn windows(&self, now: u64) -> Vec<Window> {
        let mut windows: Vec<Window> = Vec::new();
        let mut slots = self.slots.iter().peekable();
        while let Some(slot) = slots.next() {
            // Nothing happened in slots that aren't there: they belong to the one before.
            let next = slots.peek().map_or(now.max(slot.begin), |next| next.begin);
            let end = slot.full.unwrap_or(next).min(next.max(slot.begin));
            let loans = slot.loans.iter().map(|packed| {
                let &Packed { end, wait, hold, client, group } = packed;
                Loan { end: slot.begin + u64::from(end), wait, hold, client, group }
            });
            match windows.last_mut().filter(|window| window.end == slot.begin) {
                Some(window) => {
                    window.end = end;
                    window.loans.extend(loans);
                }
                None => windows.push(Window { begin: slot.begin, end, loans: loans.collect() }),
            }
        }
        for window in &mut windows {
            window.loans.sort_by_key(|loan| loan.end);
        }
        windows.retain(|window| window.end > window.begin);
        windows
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000;

    fn loan(end: u64, client: u32) -> Loan {
        Loan { end, wait: 5, hold: 100, client, group: 1 }
    }

    #[test]
    fn a_quiet_trace_is_one_window() {
        let mut recorder = Recorder::new(32 * SECOND, 500);
        for n in 0..20u64 {
            recorder.record(loan(500 + n * SECOND, 7));
        }
        let windows = recorder.windows(20 * SECOND);
        assert_eq!(windows.len(), 1);
        assert_eq!((windows[0].begin, windows[0].end, windows[0].loans.len()), (500, 20 * SECOND, 20));
        assert_eq!(windows[0].loans[3], loan(500 + 3 * SECOND, 7));
    }

    #[test]
    fn where_more_come_whole_times_are_left_out() {
        let mut recorder = Recorder::new(32 * SECOND, 0);
        // 10,000 a second: each slot of a second has room for the first fifth of one.
        for n in 0..50_000u64 {
            recorder.record(loan(n * 100, u32::try_from(n % 50).unwrap()));
        }
        let windows = recorder.windows(5 * SECOND);
        assert_eq!(windows.len(), 5);
        for (i, window) in windows.iter().enumerate() {
            assert_eq!(window.begin, i as u64 * SECOND);
            assert_eq!(window.loans.len(), SLOT_LOANS);
            assert!(
                window.loans.windows(2).all(|pair| pair[1].end - pair[0].end == 100),
                "none is left out in between"
            );
            assert_eq!(window.end, window.loans.last().unwrap().end + 1);
        }
    }

    #[test]
    fn the_last_part_of_a_trace_is_whole() {
        let mut recorder = Recorder::new(32 * SECOND, 0);
        (0..30u64).for_each(|n| recorder.record(loan(n * SECOND, 1)));
        let mut trace = Trace { database: "app".into(), size: 1, windows: recorder.windows(30 * SECOND) };
        trace.keep_last(100 * SECOND);
        assert_eq!((trace.len(), trace.recorded()), (30, 30 * SECOND));
        trace.keep_last(10 * SECOND);
        assert_eq!((trace.len(), trace.recorded(), trace.windows[0].begin), (10, 10 * SECOND, 20 * SECOND));
        trace.windows.clear();
        trace.keep_last(1);
        assert!(trace.is_empty());
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let mut recorder = Recorder::new(32 * SECOND, 0);
        for n in 0..100u64 {
            recorder.record(loan(n * SECOND, 1));
        }
        let windows = recorder.windows(100 * SECOND);
        assert_eq!(windows[0].begin, 68 * SECOND);
        assert_eq!(windows.iter().map(|w| w.loans.len()).sum::<usize>(), 32);
        recorder.record(loan(1000 * SECOND, 1));
        let windows = recorder.windows(1001 * SECOND);
        assert_eq!((windows.len(), windows[0].begin), (1, 1000 * SECOND));
    }

    proptest! {
        #[test]
        fn memory_is_bounded_and_windows_are_in_order(
            window in 1..100_000_000_000u64,
            steps in prop::collection::vec((0..10_000_000u64, 0..400usize), 1..200),
        ) {
            let mut recorder = Recorder::new(window, 0);
            let mut now = 0;
            for (step, burst) in steps {
                now += step;
                for i in 0..burst {
                    recorder.record(loan(now, u32::try_from(i).unwrap()));
                }
            }
            prop_assert!(recorder.memory() <= SLOTS * SLOT_LOANS * size_of::<Packed>());
            let windows = recorder.windows(now);
            for window in &windows {
                prop_assert!(window.begin < window.end);
                prop_assert!(window.loans.is_sorted_by_key(|loan| loan.end));
            }
            for pair in windows.windows(2) {
                prop_assert!(pair[0].end <= pair[1].begin);
            }
        }
    }
}
