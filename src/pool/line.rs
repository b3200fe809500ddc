//! Who waits for the servers of one role, in groups that share them (`share_by`). Pure: no I/O, no clock.
//!
//! Within a group it is first in, first out; with one group it is so for all. Between groups, the next server goes to
//! the one that has had the least of its part. What counts is time that servers were held while others waited, over
//! the group's weight: a group of long transactions has no more of the servers than one of short ones. Servers that it
//! has just now count ahead, with the time that it usually keeps one, so that a server which comes free goes to who
//! has few of them, rather than making up for the past at once.
//!
//! Nothing is remembered of times in which nobody waited, and little of others ([`MEMORY`]): a group that begins to
//! wait stands where the one that has had the least stands.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::queue::Waiter;
use crate::config::Weights;

/// Groups of one role at most. Names are the clients' choice: those that come when there are so many are one group.
const MOST_GROUPS: usize = 64;
/// A group that has had more than its part waits no longer for the others to catch up than this takes them, seconds.
const MEMORY: f64 = 5.0;
/// A group that waits gets a server after this and twice the time in which its part lets it expect one, seconds,
/// whatever it has had: those who wait aren't to suffer for ever from what others of their group keep.
const PATIENCE: f64 = 1.0;
/// How much each transaction counts in what is usual for its group.
const GAIN: f64 = 1.0 / 16.0;

/// A group; an index into its line's table. It means the same group for as long as that has servers or waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group(u32);

/// Those who are in no group of their own.
const OTHERS: Group = Group(0);

impl Group {
    const fn at(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug)]
pub(super) struct Waiting<W> {
    pub(super) waiter: W,
    /// In the order of coming, over all lines.
    pub(super) number: u64,
    pub(super) since: Instant,
}

#[derive(Debug)]
struct Member<W> {
    name: Box<str>,
    weight: f64,
    waiting: VecDeque<Waiting<W>>,
    /// Servers that it has.
    held: u32,
    /// Seconds times servers that it has had while anybody waited, over its weight, until `stamp`.
    used: f64,
    /// The line's time at which `used` was right.
    stamp: f64,
    /// Seconds that it keeps a server, lately.
    usual: f64,
    /// When it got a server last, or began to wait.
    fed: Option<Instant>,
    grants: u64,
    waited: Duration,
}

impl<W> Member<W> {
    fn new(name: &str, weight: u32, stamp: f64, used: f64) -> Self {
        Self {
            name: name.into(),
            weight: f64::from(weight),
            waiting: VecDeque::new(),
            held: 0,
            used,
            stamp,
            usual: 0.0,
            fed: None,
            grants: 0,
            waited: Duration::ZERO,
        }
    }

    /// Counts what it has had until the line's `time`.
    fn settle(&mut self, time: f64) {
        if time > self.stamp {
            self.used += f64::from(self.held) * (time - self.stamp) / self.weight;
            self.stamp = time;
        }
    }

    /// What it has had, and will have had once those that it has come back.
    fn had(&self) -> f64 {
        self.used + f64::from(self.held) * self.usual / self.weight
    }

    fn is_unused(&self) -> bool {
        self.held == 0 && self.waiting.is_empty()
    }
}

/// Counts of a group, for SHOW SHARES.
#[derive(Clone, PartialEq, Debug)]
pub struct GroupCounts {
    /// Its name; empty for those that are in no group of their own.
    pub name: String,
    /// Its weight.
    pub weight: u32,
    /// Servers that it has.
    pub held: u32,
    /// Clients of it that wait.
    pub waiting: u32,
    /// Since when the first of them does.
    pub waiting_since: Option<Instant>,
    /// Servers that it got after waiting.
    pub grants: u64,
    /// How long its clients waited for them in all.
    pub waited: Duration,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Line<W> {
    /// The first is [`OTHERS`].
    groups: Vec<Member<W>>,
    /// In front of all groups.
    front: VecDeque<Waiting<W>>,
    waiting: usize,
    /// Seconds for which somebody waited, until `since`.
    time: f64,
    /// Somebody waits; from when on that isn't in `time`.
    since: Option<Instant>,
    /// What who had the least had, of those who waited last.
    floor: f64,
}

impl<W: Waiter> Line<W> {
    pub(super) fn new() -> Self {
        let groups = vec![Member::new("", 1, 0.0, 0.0)];
        Self { groups, front: VecDeque::new(), waiting: 0, time: 0.0, since: None, floor: 0.0 }
    }

    /// The group of that name, made where there is none.
    pub(super) fn group(&mut self, name: &str, weights: &Weights) -> Group {
        let at = self.groups.iter().skip(1).position(|group| *group.name == *name).map(|at| at + 1);
        let at = at.or_else(|| self.new_group(name, weights));
        at.and_then(|at| u32::try_from(at).ok()).map_or(OTHERS, Group)
    }

    fn new_group(&mut self, name: &str, weights: &Weights) -> Option<usize> {
        let group = Member::new(name, weight_of(name, weights), self.time, self.floor);
        if self.groups.len() < MOST_GROUPS {
            self.groups.push(group);
            return Some(self.groups.len() - 1);
        }
        let at = self.groups.iter().skip(1).position(Member::is_unused)? + 1;
        self.groups[at] = group;
        Some(at)
    }

    /// Changes what the groups may have.
    pub(super) fn set_weights(&mut self, weights: &Weights) {
        let time = self.time;
        for group in self.groups.iter_mut().skip(1) {
            group.settle(time);
            group.weight = f64::from(weight_of(&group.name, weights));
        }
    }

    /// The time that counts: it stands still while nobody waits.
    fn advance(&mut self, now: Instant) -> f64 {
        if let Some(since) = &mut self.since {
            self.time += now.saturating_duration_since(*since).as_secs_f64();
            *since = now.max(*since);
        }
        self.time
    }

    fn begin_waiting(&mut self, now: Instant) {
        if !self.is_one() {
            self.advance(now);
        }
        self.since.get_or_insert(now);
        self.waiting += 1;
    }

    fn end_waiting(&mut self, how_many: usize) {
        self.waiting -= how_many;
        if self.waiting == 0 {
            self.since = None;
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.waiting
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Queues one up behind all of its group.
    pub(super) fn push(&mut self, group: Option<Group>, waiting: Waiting<W>) {
        let now = waiting.since;
        self.begin_waiting(now);
        let at = group.unwrap_or(OTHERS).at();
        if !self.is_one() && self.groups[at].waiting.is_empty() {
            let (floor, _) = self.raise_floor();
            let (time, group) = (self.time, &mut self.groups[at]);
            group.settle(time);
            group.used = group.used.max(floor);
            group.fed = Some(now);
        }
        self.groups[at].waiting.push_back(waiting);
    }

    /// Queues one up in front of all others.
    pub(super) fn push_front(&mut self, waiting: Waiting<W>) {
        self.begin_waiting(waiting.since);
        self.front.push_front(waiting);
    }

    /// Whether all are one group: then nothing is counted, as it would be for each transaction.
    fn is_one(&self) -> bool {
        self.groups.len() == 1
    }

    /// Who is next, and the group that has the server on loan from now on.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(W, Option<Group>)> {
        if self.waiting == 0 {
            return None;
        }
        if self.is_one() {
            let waiting = self.front.pop_front().or_else(|| self.groups[0].waiting.pop_front())?;
            self.end_waiting(1);
            return Some((waiting.waiter, None));
        }
        let (waiting, group) = match self.front.pop_front() {
            Some(waiting) => (waiting, OTHERS),
            None => {
                let at = self.next(now);
                let group = &mut self.groups[at];
                let waiting = group.waiting.pop_front()?;
                group.fed = Some(now);
                group.grants += 1;
                group.waited += now.saturating_duration_since(waiting.since);
                (waiting, Group(u32::try_from(at).unwrap_or(0)))
            }
        };
        self.end_waiting(1);
        Some((waiting.waiter, self.lend(group)))
    }

    /// The group that is next.
    fn next(&mut self, now: Instant) -> usize {
        self.advance(now);
        let (least, weights) = self.raise_floor();
        let held = self.groups.iter().map(|group| group.held).sum::<u32>().max(1);
        let most = least + MEMORY * f64::from(held) / weights;
        let starves = |group: &Member<W>| {
            let patience = PATIENCE + 2.0 * group.usual * weights / group.weight;
            group.fed.is_none_or(|fed| now.saturating_duration_since(fed).as_secs_f64() > patience)
        };
        let mut next: Option<(usize, (bool, f64, u64))> = None;
        for (at, group) in self.groups.iter_mut().enumerate() {
            let Some(first) = group.waiting.front().map(|waiting| waiting.number) else { continue };
            group.used = group.used.min(most);
            let key = (!starves(group), group.had(), first);
            let before = |(_, other): &(usize, (bool, f64, u64))| {
                key.0.cmp(&other.0).then(key.1.total_cmp(&other.1)).then(key.2.cmp(&other.2)).is_lt()
            };
            if next.as_ref().is_none_or(before) {
                next = Some((at, key));
            }
        }
        next.map_or(0, |(at, _)| at)
    }

    /// Brings what those who wait have had up to date, and gives the least of it, no less than it ever was, and the
    /// sum of their weights.
    fn raise_floor(&mut self) -> (f64, f64) {
        let (mut least, mut weights) = (f64::INFINITY, 0.0);
        for group in self.groups.iter_mut().filter(|group| !group.waiting.is_empty()) {
            group.settle(self.time);
            least = least.min(group.used);
            weights += group.weight;
        }
        if least.is_finite() {
            self.floor = self.floor.max(least);
        }
        (self.floor, weights)
    }

    /// A server is lent to a client of this group; what is to be told when it comes back.
    pub(super) fn lend(&mut self, group: Group) -> Option<Group> {
        if self.is_one() {
            return None;
        }
        let time = self.time;
        let member = &mut self.groups[group.at()];
        member.settle(time);
        member.held += 1;
        Some(group)
    }

    /// A server that was lent to this group at `lent` comes back.
    pub(super) fn take_back(&mut self, group: Group, lent: Instant, now: Instant) {
        let time = self.advance(now);
        let contended = self.waiting > 0;
        let group = &mut self.groups[group.at()];
        group.settle(time);
        group.held = group.held.saturating_sub(1);
        if contended {
            let kept = now.saturating_duration_since(lent).as_secs_f64();
            group.usual += GAIN * (kept - group.usual);
        }
    }

    /// Forgets those who are gone, as far as they stand first in their group.
    pub(super) fn drop_gone(&mut self) {
        if self.waiting == 0 {
            return;
        }
        let mut gone = drop_first(&mut self.front);
        for group in &mut self.groups {
            gone += drop_first(&mut group.waiting);
        }
        if gone > 0 {
            self.end_waiting(gone);
        }
    }

    /// The number of who came first.
    pub(super) fn first(&self) -> Option<u64> {
        if self.waiting == 0 {
            return None;
        }
        self.lanes().filter_map(|lane| lane.front()).map(|waiting| waiting.number).min()
    }

    /// Since when whoever has waited longest does.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.lanes().filter_map(|lane| lane.front()).map(|waiting| waiting.since).min()
    }

    fn lanes(&self) -> impl Iterator<Item = &VecDeque<Waiting<W>>> + Clone {
        std::iter::once(&self.front).chain(self.groups.iter().map(|group| &group.waiting))
    }

    /// All who wait.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Waiting<W>> + Clone {
        self.lanes().flatten()
    }

    /// Takes those who have waited since before `deadline`.
    pub(super) fn take_overdue(&mut self, deadline: Instant, overdue: &mut Vec<W>) {
        let before = overdue.len();
        let lanes = std::iter::once(&mut self.front).chain(self.groups.iter_mut().map(|group| &mut group.waiting));
        for lane in lanes {
            // They stand in the order of their coming.
            while lane.front().is_some_and(|first| first.since <= deadline) {
                overdue.extend(lane.pop_front().map(|waiting| waiting.waiter));
            }
        }
        self.end_waiting(overdue.len() - before);
    }

    /// Takes all.
    pub(super) fn take_all(&mut self) -> Vec<W> {
        let lanes = std::iter::once(&mut self.front).chain(self.groups.iter_mut().map(|group| &mut group.waiting));
        let mut all: Vec<_> = lanes.flat_map(std::mem::take).collect();
        all.sort_by_key(|waiting| waiting.number);
        self.end_waiting(self.waiting);
        all.into_iter().map(|waiting| waiting.waiter).collect()
    }

    /// The groups that there are; none where all are one.
    pub(super) fn counts(&self) -> Vec<GroupCounts> {
        let others = self.groups.len() > 1 && (self.groups[0].grants > 0 || !self.groups[0].is_unused());
        self.groups.iter().skip(usize::from(!others)).map(counts_of).collect()
    }
}

fn counts_of<W: Waiter>(group: &Member<W>) -> GroupCounts {
    let waiting = group.waiting.iter().filter(|waiting| waiting.waiter.is_waiting());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was a u32")]
    let weight = group.weight as u32;
    GroupCounts {
        name: group.name.to_string(),
        weight,
        held: group.held,
        waiting: u32::try_from(waiting.clone().count()).unwrap_or(u32::MAX),
        waiting_since: waiting.map(|waiting| waiting.since).min(),
        grants: group.grants,
        waited: group.waited,
    }
}

fn drop_first<W: Waiter>(lane: &mut VecDeque<Waiting<W>>) -> usize {
    let mut gone = 0;
    while lane.front().is_some_and(|first| !first.waiter.is_waiting()) {
        lane.pop_front();
        gone += 1;
    }
    gone
}

fn weight_of(name: &str, weights: &Weights) -> u32 {
    weights.get(name).copied().unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests;
