//! Who gets which server: a pool's slots, its idle servers and those who wait. Pure: no I/O, no clock.
//!
//! A slot is counted from the moment that a login is decided until the server's socket has closed, so the sum
//! of all slots never exceeds the size. Waiting is first in, first out among the clients of one user, or of a group
//! of them ([`super::line`]); users share the slots, and one that has less than its share takes slots over from one
//! that has more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::line::{Group, GroupCounts, Line, Waiting};
use super::quota::Quota;
use crate::config::Weights;

/// A user of the pool; an index into its table, never reused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserIndex(usize);

/// One who waits. It may be gone by the time a server comes free.
pub trait Waiter {
    /// Whether it still waits.
    fn is_waiting(&self) -> bool;
}

/// The bounds of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// All slots.
    pub size: u32,
    /// Slots of one user.
    pub per_user: u32,
    /// Logins under way at once.
    pub logins: u32,
    /// Idle servers are lent in turn, not the one used last first.
    pub in_turn: bool,
}

/// What is to be done now.
#[derive(Debug)]
pub enum Plan<S> {
    /// Log in a new server for this user; its slot is taken.
    Login(UserIndex),
    /// Close this idle server of that user; its slot is free after [`Queue::closed`].
    Close(UserIndex, S),
}

/// Who would rather that nobody else had a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// The client that asks.
    Own,
    /// Nobody.
    Nobodys,
    /// Another client.
    Others,
}

/// Where a server that came free goes.
#[derive(Debug)]
pub enum Released<S, W> {
    /// To this waiter, as a loan to its group.
    Handed(W, S, Option<Loan>),
    /// It stays, idle.
    Kept,
    /// It is to be closed, so that another user can have its slot; which is free after [`Queue::closed`].
    Surplus(S),
}

#[derive(Debug)]
struct Idle<S> {
    server: S,
    since: Instant,
}

/// A server that is lent to a group. The queue is told when it comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loan {
    /// Whose it counts as.
    pub group: Group,
    /// Since when.
    pub since: Instant,
}

#[derive(Debug)]
struct User<S, W> {
    idle: VecDeque<Idle<S>>,
    waiting: Line<W>,
    /// Its part of the slots, in relation to other users'.
    weight: u32,
    slots: u32,
    logins: u32,
    closing: u32,
    limit: Option<u32>,
    /// What another process may have of its slots.
    elsewhere: u32,
    /// What is left to it while another process takes over.
    ceded: u32,
    /// What it may have over all pools.
    quota: Option<Arc<Quota>>,
}

impl<S, W: Waiter> User<S, W> {
    /// Those waiting for whom no login is under way.
    fn unmet(&self) -> u32 {
        u32::try_from(self.waiting.len()).unwrap_or(u32::MAX).saturating_sub(self.logins)
    }

    /// Slots that it keeps.
    const fn held(&self) -> u32 {
        self.slots - self.closing
    }

    /// Whether it may have one more, as far as all pools together go.
    fn has_room(&self) -> bool {
        self.quota.as_ref().is_none_or(|quota| quota.has_room())
    }

    fn first(&self) -> Option<u64> {
        self.waiting.first()
    }

    fn is_active(&self) -> bool {
        !self.waiting.is_empty() || self.slots as usize > self.idle.len()
    }

    fn drop_gone(&mut self) {
        self.waiting.drop_gone();
    }

    /// The place of an idle server that is `wanted`: the first, where they serve `in_turn`, else the last.
    fn find_idle(&self, in_turn: bool, wanted: impl Fn(&S) -> bool) -> Option<usize> {
        match in_turn {
            true => self.idle.iter().position(|idle| wanted(&idle.server)),
            // Nearly always the last.
            false => self.idle.iter().rposition(|idle| wanted(&idle.server)),
        }
    }
}

/// Counts for SHOW POOLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Servers that nobody uses.
    pub idle: u32,
    /// Servers on loan, in reset, or being closed.
    pub busy: u32,
    /// Logins under way.
    pub logins: u32,
    /// Clients that wait.
    pub waiting: u32,
    /// Since when the first of them does.
    pub waiting_since: Option<Instant>,
}

impl Counts {
    /// Adds another user's.
    pub fn add(&mut self, other: Self) {
        self.idle += other.idle;
        self.busy += other.busy;
        self.logins += other.logins;
        self.waiting += other.waiting;
        self.waiting_since = [self.waiting_since, other.waiting_since].into_iter().flatten().min();
    }
}

/// What a pool has, and could use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Slots taken.
    pub slots: u32,
    /// Logins under way, among them.
    pub logins: u32,
    /// Servers that are in use or waited for, within what each user may have.
    pub need: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Queue<S, W> {
    users: Vec<User<S, W>>,
    limits: Limits,
    slots: u32,
    logins: u32,
    closing: u32,
    next_number: u64,
    /// Of groups.
    weights: Arc<Weights>,
}

impl<S, W: Waiter> Queue<S, W> {
    /// An empty pool.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let weights = Arc::default();
        Self { users: Vec::new(), limits, slots: 0, logins: 0, closing: 0, next_number: 0, weights }
    }

    /// Adds a user; `limit` caps its slots in place of the pool's cap for each user, `quota` those of all pools.
    pub fn add_user(&mut self, limit: Option<u32>, quota: Option<Arc<Quota>>) -> UserIndex {
        self.users.push(User {
            idle: VecDeque::new(),
            waiting: Line::new(),
            weight: 1,
            slots: 0,
            logins: 0,
            closing: 0,
            limit,
            elsewhere: 0,
            ceded: u32::MAX,
            quota,
        });
        UserIndex(self.users.len() - 1)
    }

    /// Changes a user's own cap.
    pub fn set_user_limit(&mut self, user: UserIndex, limit: Option<u32>) {
        self.users[user.0].limit = limit;
    }

    /// Another process may have so many of a user's slots.
    pub fn set_elsewhere(&mut self, user: UserIndex, slots: u32) {
        self.users[user.0].elsewhere = slots;
    }

    /// Has a user keep the servers that are in use, and as many as are waited for, or `more` idle ones; gives the idle ones
    /// beyond that, to be closed. What it has left never grows again: another process counts on it. See [`Queue::left_of`].
    pub fn cede(&mut self, user: UserIndex, more: u32) -> Vec<S> {
        let at = &mut self.users[user.0];
        let idle = u32::try_from(at.idle.len()).unwrap_or(u32::MAX);
        let used = at.slots - at.closing - idle.min(at.slots - at.closing);
        let waiting = u32::try_from(at.waiting.len()).unwrap_or(u32::MAX);
        at.ceded = at.ceded.min(used.saturating_add(more).max(waiting));
        let mut given = Vec::new();
        while at.held() > at.ceded {
            let Some(idle) = at.idle.pop_front() else { break };
            at.closing += 1;
            self.closing += 1;
            given.push(idle.server);
        }
        given
    }

    /// Takes back what [`Queue::cede`] has given up.
    pub fn cede_nothing(&mut self) {
        self.users.iter_mut().for_each(|user| user.ceded = u32::MAX);
    }

    /// What a user may have after [`Queue::cede`], and what it has, those being closed included.
    #[must_use]
    pub fn left_of(&self, user: UserIndex) -> (u32, u32) {
        let user = &self.users[user.0];
        (user.ceded, user.slots)
    }

    /// A server of another process has come, with the slot that it had there. It counts as on loan.
    pub fn adopt(&mut self, user: UserIndex) {
        self.slots += 1;
        let user = &mut self.users[user.0];
        user.slots += 1;
        if let Some(quota) = &user.quota {
            // Also beyond the limit: it is there.
            quota.shift(0, 1);
        }
    }

    /// Changes a user's part of the slots, in relation to other users'; at least 1.
    pub fn set_user_weight(&mut self, user: UserIndex, weight: u32) {
        self.users[user.0].weight = weight.max(1);
    }

    /// Changes what groups may have.
    pub fn set_weights(&mut self, weights: &Arc<Weights>) {
        self.weights = Arc::clone(weights);
        self.users.iter_mut().for_each(|user| user.waiting.set_weights(weights));
    }

    /// The group of that name among the clients of a user, to be used before anything else is done to the queue.
    pub fn group(&mut self, user: UserIndex, name: &str) -> Group {
        self.users[user.0].waiting.group(name, &self.weights)
    }

    /// A server that was taken by [`Self::take_idle`] is lent to a group. Gives what is to be told when it comes back.
    pub fn lend(&mut self, user: UserIndex, group: Group, now: Instant) -> Option<Loan> {
        self.users[user.0].waiting.lend(group).map(|group| Loan { group, since: now })
    }

    /// What was lent to a group isn't any more.
    pub fn take_back(&mut self, user: UserIndex, loan: Loan, now: Instant) {
        self.users[user.0].waiting.take_back(loan.group, loan.since, now);
    }

    /// The groups that share the servers of a user, if its clients are in several.
    #[must_use]
    pub fn groups(&self, user: UserIndex) -> Vec<GroupCounts> {
        self.users[user.0].waiting.counts()
    }

    /// Changes the bounds. Slots over a lower size are closed as they come free.
    pub const fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Slots taken.
    #[must_use]
    pub const fn slots(&self) -> u32 {
        self.slots
    }

    /// An idle server, unless others of the user wait already: of those that suit, or else of all, the one used last.
    pub fn take_idle(&mut self, user: UserIndex, suits: impl Fn(&S) -> bool) -> Option<(S, Instant)> {
        let user = &mut self.users[user.0];
        user.drop_gone();
        if !user.waiting.is_empty() {
            return None;
        }
        let idle = match user.find_idle(self.limits.in_turn, suits) {
            Some(at) => user.idle.remove(at),
            None if self.limits.in_turn => user.idle.pop_front(),
            None => user.idle.pop_back(),
        };
        idle.map(|idle| (idle.server, idle.since))
    }

    /// As [`Self::take_idle`], where clients have a `claim` to servers: the client's own, or else one that is nobody's,
    /// or else that of others which has been idle for longest.
    pub fn take_unclaimed(
        &mut self,
        user: UserIndex,
        suits: impl Fn(&S) -> bool,
        claim: impl Fn(&S) -> Claim,
    ) -> Option<(S, Instant, Claim)> {
        let in_turn = self.limits.in_turn;
        let user = &mut self.users[user.0];
        user.drop_gone();
        if !user.waiting.is_empty() {
            return None;
        }
        let at = user
            .find_idle(in_turn, |server| claim(server) == Claim::Own)
            .or_else(|| user.find_idle(in_turn, |server| claim(server) == Claim::Nobodys && suits(server)))
            .or_else(|| user.find_idle(in_turn, |server| claim(server) == Claim::Nobodys))
            .unwrap_or_default();
        let idle = user.idle.remove(at)?;
        let claim = claim(&idle.server);
        Some((idle.server, idle.since, claim))
    }

    /// Whether the next one of a user to wait in front of all gets a server even if none comes back.
    #[must_use]
    pub fn has_one_for(&self, user: UserIndex) -> bool {
        let user = &self.users[user.0];
        let room = self.slots < self.limits.size && user.slots < self.per_user(user) && user.has_room();
        room || user.logins > 0 || !user.idle.is_empty()
    }

    /// The idle servers of a user.
    pub fn idle_of(&mut self, user: UserIndex) -> impl Iterator<Item = &mut S> {
        self.users[user.0].idle.iter_mut().map(|idle| &mut idle.server)
    }

    /// Whether [`Self::plan`] may have anything to do, at a glance.
    #[must_use]
    pub fn may_plan(&self) -> bool {
        self.logins < self.limits.logins && (self.slots < self.limits.size || self.users.len() > 1)
    }

    /// Queues one up, as one of `group`.
    pub fn wait(&mut self, user: UserIndex, group: Option<Group>, waiter: W, now: Instant) {
        self.next_number += 1;
        let number = self.next_number;
        self.users[user.0].waiting.push(group, Waiting { waiter, number, since: now });
    }

    /// Queues one up in front of all others: one that many of them wait for.
    pub fn wait_in_front(&mut self, user: UserIndex, waiter: W, now: Instant) {
        self.users[user.0].waiting.push_front(Waiting { waiter, number: 0, since: now });
    }

    /// A server on loan comes back usable, or a login has ended well (`login`).
    pub fn release(&mut self, user: UserIndex, server: S, now: Instant, login: bool) -> Released<S, W> {
        if login {
            self.login_ended(user);
        }
        self.users.iter_mut().for_each(User::drop_gone);
        // A new server first serves one who waited for it: were it given away at once, two users could go on
        // trading a slot with nobody served.
        if self.is_oversized() || (!login && self.must_yield(user)) {
            self.begin_closing(user);
            return Released::Surplus(server);
        }
        let user = &mut self.users[user.0];
        match user.waiting.pop(now) {
            Some((waiter, group)) => Released::Handed(waiter, server, group.map(|group| Loan { group, since: now })),
            None => {
                user.idle.push_back(Idle { server, since: now });
                Released::Kept
            }
        }
    }

    fn begin_closing(&mut self, user: UserIndex) {
        self.closing += 1;
        self.users[user.0].closing += 1;
    }

    /// The weights of all users that have anything to do: their parts of the slots are by these.
    fn active_weight(&self) -> u32 {
        let active = self.users.iter().filter(|u| u.is_active());
        active.fold(0_u32, |sum, u| sum.saturating_add(u.weight)).max(1)
    }

    /// A user's part of the slots, where all that have anything to do weigh `active`.
    fn share(&self, user: &User<S, W>, active: u32) -> u32 {
        let share = u64::from(self.limits.size) * u64::from(user.weight) / u64::from(active.max(user.weight));
        u32::try_from(share).unwrap_or(u32::MAX).max(1)
    }

    /// How many slots a user lacks of its share.
    fn lacks(&self, user: &User<S, W>, active: u32) -> u32 {
        let lacks = self.share(user, active).min(self.per_user(user)).saturating_sub(user.held()).min(user.unmet());
        if lacks == 0 || user.has_room() { lacks } else { 0 }
    }

    /// Whether a server of `user` must make room for another user's: when others lack some of their share, more
    /// than the slots that are becoming free, and `user` has more than its share; or, with more users than
    /// slots, when one that has none has waited for longer.
    fn must_yield(&self, user: UserIndex) -> bool {
        if self.users.len() == 1 || self.slots < self.limits.size {
            return false;
        }
        let active = self.active_weight();
        let giver = &self.users[user.0];
        let others = || self.users.iter().enumerate().filter(|&(i, _)| i != user.0).map(|(_, other)| other);
        if others().map(|other| self.lacks(other, active)).sum::<u32>() <= self.closing {
            return false;
        }
        let is_older = |other: &User<S, W>| giver.first().is_none_or(|own| other.first().is_some_and(|n| n < own));
        let has_more = giver.held() > self.share(giver, active);
        has_more || others().any(|o| o.held() == 0 && self.lacks(o, active) > 0 && is_older(o))
    }

    fn per_user(&self, user: &User<S, W>) -> u32 {
        user.limit.unwrap_or(self.limits.per_user).saturating_sub(user.elsewhere).min(user.ceded)
    }

    fn login_ended(&mut self, user: UserIndex) {
        self.logins -= 1;
        self.users[user.0].logins -= 1;
    }

    /// A login has ended well, but its server is to be closed at once, which is then reported by [`Queue::lost`].
    pub fn login_outdated(&mut self, user: UserIndex) {
        self.login_ended(user);
    }

    /// A login has failed; its slot is free.
    pub fn login_failed(&mut self, user: UserIndex) {
        self.login_ended(user);
        self.free(user);
    }

    /// A server on loan is gone; its slot is free.
    pub fn lost(&mut self, user: UserIndex) {
        self.free(user);
    }

    /// A server given out by [`Plan::Close`], [`Released::Surplus`] or [`Queue::take_expired`] has closed.
    pub fn closed(&mut self, user: UserIndex) {
        self.closing -= 1;
        self.users[user.0].closing -= 1;
        self.free(user);
    }

    fn free(&mut self, user: UserIndex) {
        self.slots -= 1;
        let user = &mut self.users[user.0];
        user.slots -= 1;
        if let Some(quota) = &user.quota {
            quota.give();
        }
    }

    /// What is to be done next for those who wait; ask again until `None`. Without `may_login` nothing new is
    /// begun (after failures, say).
    pub fn plan(&mut self, may_login: bool) -> Option<Plan<S>> {
        if !may_login || self.logins >= self.limits.logins {
            return None;
        }
        self.users.iter_mut().for_each(User::drop_gone);
        let active = self.active_weight();
        let wants = |u: &User<S, W>| u.unmet() > 0 && u.held() < self.per_user(u) && u.has_room();
        // Those below their share come first, then who has waited longest.
        let order = |u: &User<S, W>| (self.lacks(u, active) == 0, u.first());
        let takers = self.users.iter().enumerate().filter(|(_, u)| wants(u));
        let (at, _) = takers.min_by_key(|(_, u)| order(u))?;
        if self.slots < self.limits.size {
            let user = UserIndex(at);
            // Another pool may have taken the last one meanwhile.
            return self.begin_login(user).then_some(Plan::Login(user));
        }
        let unmet: u32 = self.users.iter().filter(|u| wants(u)).map(User::unmet).sum();
        if unmet <= self.closing {
            return None;
        }
        // Room is made by closing the server that has idled longest among other users'.
        let others = self.users.iter().enumerate().filter(|&(i, _)| i != at);
        let (giver, _) =
            others.filter_map(|(i, u)| Some((i, u.idle.front()?.since))).min_by_key(|&(_, since)| since)?;
        let idle = self.users[giver].idle.pop_front()?;
        self.begin_closing(UserIndex(giver));
        Some(Plan::Close(UserIndex(giver), idle.server))
    }

    /// Takes a slot, unless the user has all that it may have of all pools.
    fn begin_login(&mut self, user: UserIndex) -> bool {
        let user = &mut self.users[user.0];
        if user.quota.as_ref().is_some_and(|quota| !quota.take()) {
            return false;
        }
        user.slots += 1;
        user.logins += 1;
        self.slots += 1;
        self.logins += 1;
        true
    }

    /// Takes a slot to log a server in that nobody waits for (`min_pool_size`, the first login of a user), if
    /// one is free.
    pub fn spare_login(&mut self, user: UserIndex) -> bool {
        let free = self.slots < self.limits.size && self.logins < self.limits.logins;
        let free = free && self.users[user.0].slots < self.per_user(&self.users[user.0]);
        free && self.begin_login(user)
    }

    /// More slots than there may be by now, without those becoming free.
    const fn is_oversized(&self) -> bool {
        self.slots - self.closing > self.limits.size
    }

    /// Takes the idle servers for which `expired` says so, longest idle first, leaving `keep` slots in the pool,
    /// and those over the size. Each is to be closed and then reported by [`Queue::closed`].
    pub fn take_expired(&mut self, keep: u32, mut expired: impl FnMut(&S, Instant) -> bool) -> Vec<(UserIndex, S)> {
        let mut taken = Vec::new();
        for (at, user) in self.users.iter_mut().enumerate() {
            let mut kept = VecDeque::with_capacity(user.idle.len());
            for idle in user.idle.drain(..) {
                let held = self.slots - self.closing;
                if held > keep && (held > self.limits.size || expired(&idle.server, idle.since)) {
                    self.closing += 1;
                    user.closing += 1;
                    taken.push((UserIndex(at), idle.server));
                } else {
                    kept.push_back(idle);
                }
            }
            user.idle = kept;
        }
        taken
    }

    /// Takes the server of a user that has been idle for longest, to be closed and then reported by [`Queue::closed`].
    pub fn take_oldest(&mut self, user: UserIndex) -> Option<S> {
        let idle = self.users[user.0].idle.pop_front()?;
        self.begin_closing(user);
        Some(idle.server)
    }

    /// Takes those who have waited since before `deadline`, of all users.
    pub fn take_overdue(&mut self, deadline: Instant) -> Vec<W> {
        let mut overdue = Vec::new();
        for user in &mut self.users {
            user.waiting.take_overdue(deadline, &mut overdue);
        }
        overdue
    }

    /// Takes all who wait as one user.
    pub fn take_waiting(&mut self, user: UserIndex) -> Vec<W> {
        self.users[user.0].waiting.take_all()
    }

    /// Slots of one user, other than logins under way.
    #[must_use]
    pub fn established(&self, user: UserIndex) -> u32 {
        self.users[user.0].slots - self.users[user.0].logins
    }

    /// The most slots that one user may have, as far as the pool has them.
    #[must_use]
    pub fn most_of(&self, user: UserIndex) -> u32 {
        self.per_user(&self.users[user.0])
    }

    /// What is taken, and needed.
    pub fn load(&mut self) -> Load {
        self.users.iter_mut().for_each(User::drop_gone);
        let need = |user: &User<S, W>| {
            let idle = u32::try_from(user.idle.len()).unwrap_or(u32::MAX);
            let used = user.slots.saturating_sub(user.closing).saturating_sub(user.logins).saturating_sub(idle);
            let waiting = u32::try_from(user.waiting.len()).unwrap_or(u32::MAX);
            used.saturating_add(waiting).min(self.per_user(user))
        };
        let need = self.users.iter().fold(0, |sum: u32, user| sum.saturating_add(need(user)));
        Load { slots: self.slots, logins: self.logins, need }
    }

    /// Since when whoever has waited longest does.
    pub fn waiting_since(&mut self) -> Option<Instant> {
        self.users.iter_mut().for_each(User::drop_gone);
        self.users.iter().filter_map(|u| u.waiting.waiting_since()).min()
    }

    /// Whether anybody waits.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        self.users.iter().any(|u| !u.waiting.is_empty())
    }

    /// All idle servers, and since when they are.
    pub fn idle(&self) -> impl Iterator<Item = (&S, Instant)> {
        self.users.iter().flat_map(|u| &u.idle).map(|idle| (&idle.server, idle.since))
    }

    /// The state of one user.
    #[must_use]
    pub fn counts(&self, user: UserIndex) -> Counts {
        let user = &self.users[user.0];
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let waiting = user.waiting.iter().filter(|w| w.waiter.is_waiting());
        Counts {
            idle: count(user.idle.len()),
            busy: user.slots - user.logins - count(user.idle.len()),
            logins: user.logins,
            waiting: count(waiting.clone().count()),
            waiting_since: waiting.map(|w| w.since).min(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::rc::Rc;

    #[derive(Debug, Clone)]
    struct Person(u64, Rc<Cell<bool>>);

    impl Waiter for Person {
        fn is_waiting(&self) -> bool {
            self.1.get()
        }
    }

    fn person(number: u64) -> Person {
        Person(number, Rc::new(Cell::new(true)))
    }

    fn limits(size: u32) -> Limits {
        Limits { size, per_user: u32::MAX, logins: 4, in_turn: false }
    }

    #[test]
    fn one_that_suits_is_preferred_to_the_one_used_last() {
        let mut queue: Queue<u64, Person> = Queue::new(limits(3));
        let user = queue.add_user(None, None);
        let now = Instant::now();
        for server in [1, 2, 3] {
            assert!(queue.spare_login(user));
            assert!(matches!(queue.release(user, server, now, true), Released::Kept));
        }
        let mut take = |suitable: &[u64]| queue.take_idle(user, |server| suitable.contains(server)).map(|idle| idle.0);
        assert_eq!(take(&[1, 2]), Some(2), "of those, the one used last");
        assert_eq!(take(&[9]), Some(3));
        assert_eq!(take(&[]), Some(1));
        assert_eq!(take(&[1]), None);
    }

    #[test]
    fn a_client_gets_its_own_server_and_takes_others_last() {
        let mut queue: Queue<u64, Person> = Queue::new(limits(4));
        let user = queue.add_user(None, None);
        for server in [10, 20, 11, 30] {
            assert!(queue.spare_login(user));
            assert!(matches!(queue.release(user, server, Instant::now(), true), Released::Kept));
        }
        // Tens say whose it is; 1 is nobody.
        let mut take = |who: u64, suitable: u64| {
            let claim = |server: &u64| match server / 10 {
                1 => Claim::Nobodys,
                owner if owner == who => Claim::Own,
                _ => Claim::Others,
            };
            queue.take_unclaimed(user, |server| *server == suitable, claim).map(|(server, _, claim)| (server, claim))
        };
        assert_eq!(take(2, 10), Some((20, Claim::Own)), "whatever else suits");
        assert_eq!(take(2, 10), Some((10, Claim::Nobodys)));
        assert_eq!(take(2, 30), Some((11, Claim::Nobodys)));
        assert_eq!(take(2, 30), Some((30, Claim::Others)));
        assert_eq!(take(2, 30), None);
        queue.wait(user, None, person(1), Instant::now());
        assert!(matches!(queue.release(user, 10, Instant::now(), false), Released::Handed(..)));
        queue.wait(user, None, person(2), Instant::now());
        assert!(queue.take_unclaimed(user, |_| true, |_| Claim::Own).is_none(), "others wait");
    }

    #[test]
    fn a_user_without_room_elsewhere_gets_no_login_and_takes_nobodys_server() {
        let quota = Arc::new(Quota::with_limit(2));
        let mut queues: Vec<Queue<u64, Person>> = (0..2).map(|_| Queue::new(limits(2))).collect();
        let limited: Vec<_> = queues.iter_mut().map(|q| q.add_user(None, Some(Arc::clone(&quota)))).collect();
        let other = queues[1].add_user(None, None);
        let now = Instant::now();
        for number in 0..3 {
            queues[0].wait(limited[0], None, person(number), now);
            queues[1].wait(limited[1], None, person(number), now);
        }
        queues[1].wait(other, None, person(9), now);
        let first = &mut queues[0];
        assert!(matches!(first.plan(true), Some(Plan::Login(_))) && matches!(first.plan(true), Some(Plan::Login(_))));
        let second = &mut queues[1];
        assert!(matches!(second.plan(true), Some(Plan::Login(user)) if user == other), "it holds up nobody else");
        assert!(matches!(second.release(other, 7, now, true), Released::Handed(..)));
        assert!(matches!(second.release(other, 7, now, false), Released::Kept));
        assert!(second.plan(true).is_none());
        queues[0].login_failed(limited[0]);
        assert!(matches!(queues[1].plan(true), Some(Plan::Login(user)) if user == limited[1]));
        assert!(!queues[0].spare_login(limited[0]) && queues[0].plan(true).is_none());
        assert_eq!(queues[1].take_oldest(other), Some(7));
    }

    #[test]
    fn in_turn_the_one_idle_for_longest_is_next() {
        let mut queue: Queue<u64, Person> = Queue::new(Limits { in_turn: true, ..limits(3) });
        let user = queue.add_user(None, None);
        for server in [1, 2, 3] {
            assert!(queue.spare_login(user));
            assert!(matches!(queue.release(user, server, Instant::now(), true), Released::Kept));
        }
        let mut take = |suitable: &[u64]| queue.take_idle(user, |server| suitable.contains(server)).map(|idle| idle.0);
        assert_eq!(take(&[2, 3]), Some(2), "of those that suit");
        assert_eq!(take(&[]), Some(1));
    }

    #[test]
    fn one_that_many_wait_for_is_next_and_holds_up_no_time_limit() {
        let mut queue: Queue<u64, Person> = Queue::new(limits(1));
        let user = queue.add_user(None, None);
        let begin = Instant::now();
        let late = begin + std::time::Duration::from_secs(1);
        queue.wait(user, None, person(1), begin);
        queue.wait(user, None, person(2), late);
        queue.wait_in_front(user, person(3), late);
        assert!(matches!(queue.plan(true), Some(Plan::Login(_))));
        let overdue: Vec<_> = queue.take_overdue(begin).into_iter().map(|p| p.0).collect();
        assert_eq!(overdue, [1]);
        let Released::Handed(next, 7, _) = queue.release(user, 7, late, true) else { panic!("nobody got it") };
        assert_eq!(next.0, 3);
    }

    #[derive(Debug, Clone)]
    enum Op {
        Ask(usize),
        LoginEnds(usize, bool),
        Return(usize, bool),
        Close(usize),
        GiveUp(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (0..3usize).prop_map(Op::Ask),
            2 => (any::<usize>(), prop::bool::weighted(0.9)).prop_map(|(i, ok)| Op::LoginEnds(i, ok)),
            3 => (any::<usize>(), prop::bool::weighted(0.9)).prop_map(|(i, ok)| Op::Return(i, ok)),
            1 => any::<usize>().prop_map(Op::Close),
            1 => any::<usize>().prop_map(Op::GiveUp),
        ]
    }

    /// The world around a queue: what is on loan, logging in, closing, and who waits in which order.
    struct World {
        queue: Queue<u64, Person>,
        users: Vec<UserIndex>,
        loans: Vec<(usize, u64)>,
        logins: Vec<usize>,
        closing: Vec<usize>,
        waiting: Vec<Vec<Person>>,
        next: u64,
        now: Instant,
    }

    impl World {
        fn new(size: u32, users: usize) -> Self {
            let mut queue = Queue::new(limits(size));
            let users: Vec<_> = (0..users).map(|_| queue.add_user(None, None)).collect();
            let waiting = vec![Vec::new(); users.len()];
            let (loans, logins, closing) = (Vec::new(), Vec::new(), Vec::new());
            Self { queue, users, loans, logins, closing, waiting, next: 0, now: Instant::now() }
        }

        fn at(&self, index: UserIndex) -> usize {
            self.users.iter().position(|u| *u == index).unwrap()
        }

        fn settle(&mut self) {
            while let Some(plan) = self.queue.plan(true) {
                match plan {
                    Plan::Login(user) => self.logins.push(self.at(user)),
                    Plan::Close(user, _) => self.closing.push(self.at(user)),
                }
            }
        }

        fn give_back(&mut self, user: usize, server: u64, login: bool) {
            match self.queue.release(self.users[user], server, self.now, login) {
                Released::Handed(person, server, _) => {
                    let first = self.waiting[user].iter().position(|p| p.1.get()).unwrap();
                    assert_eq!(self.waiting[user][first].0, person.0, "not first in, first out");
                    self.waiting[user].remove(first);
                    self.loans.push((user, server));
                }
                Released::Kept => assert!(!self.waiting[user].iter().any(|p| p.1.get()), "kept while one waits"),
                Released::Surplus(_) => self.closing.push(user),
            }
        }

        fn step(&mut self, op: &Op) {
            match *op {
                Op::Ask(user) => {
                    self.next += 1;
                    match self.queue.take_idle(self.users[user], |_| false) {
                        Some((server, _)) => self.loans.push((user, server)),
                        None => {
                            let person = person(self.next);
                            self.waiting[user].push(person.clone());
                            self.queue.wait(self.users[user], None, person, self.now);
                        }
                    }
                }
                Op::LoginEnds(i, ok) if !self.logins.is_empty() => {
                    let user = self.logins.remove(i % self.logins.len());
                    self.next += 1;
                    if ok { self.give_back(user, self.next, true) } else { self.queue.login_failed(self.users[user]) }
                }
                Op::Return(i, ok) if !self.loans.is_empty() => {
                    let (user, server) = self.loans.remove(i % self.loans.len());
                    if ok { self.give_back(user, server, false) } else { self.queue.lost(self.users[user]) }
                }
                Op::Close(i) if !self.closing.is_empty() => {
                    let user = self.closing.remove(i % self.closing.len());
                    self.queue.closed(self.users[user]);
                }
                Op::GiveUp(i) => {
                    let all: Vec<_> = self.waiting.iter().flatten().collect();
                    if let Some(person) = all.get(i % all.len().max(1)) {
                        person.1.set(false);
                    }
                }
                _ => {}
            }
            self.settle();
        }

        fn idle(&self) -> u32 {
            self.users.iter().map(|u| self.queue.counts(*u).idle).sum()
        }

        fn check(&self, size: u32) {
            let real = self.loans.len() + self.logins.len() + self.closing.len() + self.idle() as usize;
            assert_eq!(self.queue.slots() as usize, real, "slots are counted right");
            assert!(self.queue.slots() <= size, "never more than the size");
        }

        /// Everything in progress ends well: all who wait must then be served.
        fn drain(&mut self) {
            for _ in 0..100_000 {
                if self.waiting.iter().flatten().all(|p| !p.1.get()) {
                    return;
                }
                match (self.logins.len(), self.closing.len(), self.loans.len()) {
                    (1.., _, _) => self.step(&Op::LoginEnds(0, true)),
                    (_, 1.., _) => self.step(&Op::Close(0)),
                    (_, _, 1..) => self.step(&Op::Return(0, true)),
                    _ => panic!("stuck: {:?}", self.queue),
                }
            }
            panic!("no progress: {:?}", self.queue);
        }
    }

    proptest! {
        #[test]
        fn slots_order_and_progress(size in 1..5u32, users in 1..4usize, ops in prop::collection::vec(op(), 1..200)) {
            let mut world = World::new(size, users);
            for op in &ops {
                let op = if let Op::Ask(u) = op { Op::Ask(u % users) } else { op.clone() };
                world.step(&op);
                world.check(size);
            }
            world.drain();
            world.check(size);
        }

        /// A pause is a size of 0.
        #[test]
        fn a_pause_empties_the_pool_and_its_end_serves_all(
            size in 1..5u32,
            users in 1..4usize,
            before in prop::collection::vec(op(), 1..100),
            during in prop::collection::vec(op(), 1..100),
        ) {
            let mut world = World::new(size, users);
            let step = |world: &mut World, op: &Op| {
                world.step(&if let Op::Ask(u) = op { Op::Ask(u % users) } else { op.clone() });
            };
            before.iter().for_each(|op| step(&mut world, op));
            world.queue.set_limits(limits(0));
            let idle = world.queue.take_expired(0, |_, _| true);
            let idle: Vec<_> = idle.into_iter().map(|(user, _)| world.at(user)).collect();
            world.closing.extend(idle);
            for op in &during {
                let (loans, logins) = (world.loans.len(), world.logins.len());
                step(&mut world, op);
                assert!(world.loans.len() <= loans && world.logins.len() <= logins, "nothing is lent or begun");
            }
            while world.queue.slots() > 0 {
                match (world.logins.len(), world.closing.len()) {
                    (1.., _) => world.step(&Op::LoginEnds(0, true)),
                    (_, 1..) => world.step(&Op::Close(0)),
                    _ => world.step(&Op::Return(0, true)),
                }
            }
            world.queue.set_limits(limits(size));
            world.settle();
            world.drain();
            world.check(size);
        }
    }

    #[test]
    fn two_busy_users_share_without_trading_servers_each_time() {
        let mut world = World::new(10, 2);
        for i in 0..100 {
            world.step(&Op::Ask(usize::from(i >= 50)));
        }
        let mut closed = 0;
        for _ in 0..2_000 {
            while !world.logins.is_empty() {
                world.step(&Op::LoginEnds(0, true));
            }
            while !world.closing.is_empty() {
                closed += 1;
                world.step(&Op::Close(0));
            }
            if let Some(&(user, _)) = world.loans.first() {
                world.step(&Op::Return(0, true));
                world.step(&Op::Ask(user));
            }
        }
        let shares = [0, 1].map(|u| world.loans.iter().filter(|(user, _)| *user == u).count());
        assert_eq!(shares, [5, 5]);
        assert!(closed <= 5, "{closed} servers closed");
    }

    #[test]
    fn a_lower_size_closes_servers_as_they_come_back() {
        let mut world = World::new(4, 1);
        for _ in 0..4 {
            world.step(&Op::Ask(0));
        }
        while !world.logins.is_empty() {
            world.step(&Op::LoginEnds(0, true));
        }
        world.queue.set_limits(limits(2));
        world.step(&Op::Return(0, true));
        world.step(&Op::Return(0, true));
        assert_eq!(world.closing.len(), 2);
        world.step(&Op::Close(0));
        world.step(&Op::Close(0));
        world.step(&Op::Return(0, true));
        assert_eq!((world.idle(), world.queue.slots()), (1, 2));
    }
}
