//! A pool's size, divided between two processes while one takes the other's place.
//!
//! The old one gives up slots as its clients leave, never takes one back, and says each time what it keeps; the new one
//! has the rest. What is kept is said only when the servers beyond it have hung up, or with one that goes there
//! ([`super::transfer`]), and until something is said of a pool
//! the new one has nothing of it, so both together never have more than the pool's size. Where three processes follow
//! each other, the one in the middle counts what the first one keeps as its own.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::queue::UserIndex;
use super::transfer::{self, Way};
use super::{Pool, PoolQueue, PoolUser, Users};
use crate::names::UserName;

/// What another process may have of a pool.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    /// In all.
    pub total: u32,
    /// Of the users that have any.
    pub users: Vec<(String, u32)>,
}

impl Kept {
    /// It may have them all.
    pub const ALL: Self = Self { total: u32::MAX, users: Vec::new() };

    /// It may have them all; of users so many.
    #[must_use]
    pub fn all_with(users: &[(String, u32)]) -> Self {
        Self { total: u32::MAX, users: users.to_vec() }
    }

    /// Of a user.
    fn of(&self, name: &str) -> u32 {
        self.users.iter().find(|(user, _)| user == name).map_or(0, |(_, slots)| *slots)
    }

    fn add(&mut self, name: &str, slots: u32) {
        match self.users.iter_mut().find(|(user, _)| user == name) {
            _ if slots == 0 => {}
            Some((_, sum)) => *sum = sum.saturating_add(slots),
            None => self.users.push((name.to_owned(), slots)),
        }
    }
}

/// How a pool's size is divided.
#[derive(Clone, Debug)]
pub(super) struct Division {
    /// The most that is left here.
    left: u32,
    elsewhere: Kept,
    /// Where servers go instead of being closed.
    way: Option<Way>,
}

impl Default for Division {
    fn default() -> Self {
        Self { left: u32::MAX, elsewhere: Kept::default(), way: None }
    }
}

impl Division {
    /// Without what is elsewhere, which is to be counted by [`Pool::set_elsewhere`].
    pub(super) fn here(&self) -> Self {
        Self { left: self.left, ..Self::default() }
    }

    /// What is kept of a pool whose slots are these.
    fn kept(&self, queue: &PoolQueue, users: &[Arc<PoolUser>], slots: impl Fn(UserIndex, u32) -> u32) -> Kept {
        let mut kept = self.elsewhere();
        let mut all = 0;
        for user in users {
            let (may_have, has) = queue.left_of(user.index);
            let has = slots(user.index, has);
            all += has;
            kept.add(user.name.as_str(), may_have.min(self.left).max(has));
        }
        kept.total = kept.total.saturating_add(self.left.max(all));
        kept
    }

    /// What another process may have.
    pub(super) fn elsewhere(&self) -> Kept {
        self.elsewhere.clone()
    }

    /// What is to be had here of a pool of `size`.
    pub(super) fn part_of(&self, size: u32) -> u32 {
        size.saturating_sub(self.elsewhere.total).min(self.left)
    }
}

impl super::control::Control {
    /// Whether this process gives the pool up, slot by slot.
    pub(super) fn is_ceding(&self) -> bool {
        self.division.lock().left != u32::MAX
    }

    /// Where servers go instead of being closed, if they do.
    pub(super) fn way(&self) -> Option<Way> {
        self.division.lock().way.clone()
    }

    /// What another process may have of a user's slots.
    pub(super) fn elsewhere_of(&self, name: &UserName) -> u32 {
        self.division.lock().elsewhere.of(name.as_str())
    }
}

impl Pool {
    /// Gives up what is idle, but for one server of each user that `needs` one beside those in use, and `spare` slots for
    /// users that have none; what can go by that `way` does. Gives what is kept, closing servers included.
    #[must_use]
    pub fn cede(self: &Arc<Self>, needs: impl Fn(&UserName) -> bool, spare: u32, way: &Way) -> Kept {
        let users = self.users.lock().list.clone();
        let mut queue = self.queue.lock();
        let spec = self.spec.load();
        let mut division = self.control.division.lock();
        // The new process must get on, too.
        let most = self.control.size(&spec).saturating_sub(division.elsewhere.total).saturating_sub(1).max(1);
        let (mut going, mut left) = (Vec::new(), spare);
        for user in &users {
            going.extend(queue.cede(user.index, u32::from(needs(&user.name))));
            left = left.saturating_add(queue.left_of(user.index).0);
        }
        division.left = division.left.min(left).min(most);
        division.way = Some(way.clone());
        let kept = division.kept(&queue, &users, |_, has| has);
        drop(division);
        queue.set_limits(self.control.limits(&spec));
        drop(queue);
        going.into_iter().for_each(transfer::part);
        self.pump();
        kept
    }

    /// What is kept when a server of this user, which counts as one that is being closed, has gone to the other process
    /// with its slot; `None` where that isn't one that this process gives up.
    pub(super) fn kept_without(&self, gone: UserIndex) -> Option<Kept> {
        let users = self.users.lock().list.clone();
        let (queue, division) = (self.queue.lock(), self.control.division.lock());
        let (may_have, has) = queue.left_of(gone);
        let given_up = queue.slots() > division.left && has > may_have.min(division.left);
        given_up.then(|| division.kept(&queue, &users, |user, has| has - u32::from(user == gone)))
    }

    /// Takes back what was given up: the process that had it is no more.
    pub fn cede_nothing(self: &Arc<Self>) {
        let mut queue = self.queue.lock();
        queue.cede_nothing();
        {
            let mut division = self.control.division.lock();
            (division.left, division.way) = (u32::MAX, None);
        }
        queue.set_limits(self.control.limits(&self.spec.load()));
        drop(queue);
        self.pump();
    }

    /// Whether it isn't known yet what another process has of it.
    #[must_use]
    pub fn awaits_division(&self) -> bool {
        self.control.division.lock().elsewhere.total == u32::MAX
    }

    /// Another process may have so many of this pool's slots from now on.
    pub fn set_elsewhere(self: &Arc<Self>, kept: Kept) {
        let (users, mut queue) = (self.users.lock(), self.queue.lock());
        self.count_elsewhere(&users, &mut queue, kept);
        drop((queue, users));
        self.pump();
    }

    /// A server of this user has come from another process, with the slot that it had there; that process may have `kept`
    /// from now on.
    pub(super) fn take_over(&self, user: UserIndex, kept: Kept) {
        let (users, mut queue) = (self.users.lock(), self.queue.lock());
        queue.adopt(user);
        self.count_elsewhere(&users, &mut queue, kept);
    }

    fn count_elsewhere(&self, users: &Users, queue: &mut PoolQueue, kept: Kept) {
        // One that has ended counts nowhere any more, nor will it lend.
        let kept = if self.is_retired() { Kept::default() } else { kept };
        let before = std::mem::replace(&mut self.control.division.lock().elsewhere, kept.clone());
        // Also of users that have no servers here: they may in other pools.
        let names: BTreeSet<_> = before.users.iter().chain(&kept.users).map(|(name, _)| name.as_str()).collect();
        for name in names {
            self.quotas.of(&UserName::from(name)).shift(before.of(name), kept.of(name));
        }
        for user in users.by_name.values() {
            queue.set_elsewhere(user.index, kept.of(user.name.as_str()));
        }
        queue.set_limits(self.control.limits(&self.spec.load()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Database};
    use crate::names::DatabaseName;
    use crate::pool::directory::Directory;

    #[test]
    fn both_parts_are_the_size() {
        let old = |left| Division { left, ..Division::default() };
        let new = |total| Division { elsewhere: Kept { total, users: Vec::new() }, ..Division::default() };
        for left in 0..=25 {
            assert_eq!(old(left).part_of(25) + new(left).part_of(25), 25);
        }
        assert_eq!(
            (old(u32::MAX).part_of(25), new(u32::MAX).part_of(25), Division::default().part_of(25)),
            (25, 0, 25)
        );
    }

    /// Nobody takes what goes by it.
    fn way() -> Way {
        tokio::sync::mpsc::unbounded_channel().0
    }

    fn directory(config: &Config) -> Directory {
        let directory = Directory::default();
        directory.apply(config);
        directory
    }

    fn config() -> Config {
        let database = Database { pool_size: 4, ..Database::default() };
        let mut config = Config { fallback: Some(database.clone()), ..Config::default() };
        config.databases.insert("known".into(), database);
        config
    }

    /// What a pool may have just now.
    fn size(pool: &Pool) -> u32 {
        pool.control.limits(&pool.spec.load()).size
    }

    #[test]
    fn what_nothing_was_said_of_is_the_others() {
        let config = config();
        let (old, new) = (directory(&config), directory(&config));
        let mut claims = new.share();
        let born = new.get("born", &config).unwrap();
        let known = new.find("known").unwrap();
        assert_eq!((size(&known), size(&born)), (0, 0));
        let asked: Vec<_> = std::iter::from_fn(|| claims.try_recv().ok()).collect();
        assert_eq!(asked, ["known", "born"].map(DatabaseName::from));
        // One who logs in to the old process as yet keeps a slot of it, whoever it is.
        old.keep_all(true);
        let there = old.get("born", &config).unwrap();
        let kept = there.cede(|_| true, 1, &way());
        assert_eq!(kept.total, 1);
        new.divide(vec![("born".into(), kept), ("unknown".into(), Kept::default())], &config);
        assert_eq!((size(&born), size(&there), size(&known)), (3, 1, 0));
        assert!(new.find("unknown").is_none());
        assert_eq!(there.cede(|_| false, 0, &way()).total, 0);
        new.divide(vec![("born".into(), Kept::default())], &config);
        assert_eq!((size(&born), size(&there)), (4, 0));
        old.forget_unreached("born", &config);
        assert_eq!(old.get("born", &config).map(|pool| size(&pool)), Some(0), "it was given up");
        new.share_no_more();
        assert_eq!((size(&known), size(&new.get("later", &config).unwrap())), (4, 4));
        there.cede_nothing();
        assert_eq!(size(&there), 4);
    }

    #[test]
    fn the_one_in_the_middle_counts_what_the_first_one_keeps() {
        let config = config();
        let (middle, last) = (directory(&config), directory(&config));
        let _claims = (middle.share(), last.share());
        let pools = [&middle, &last].map(|directory| directory.find("known").unwrap());
        let hand_on = |spare| {
            last.divide(vec![("known".into(), pools[0].cede(|_| false, spare, &way()))], &config);
            pools.each_ref().map(|pool| size(pool))
        };
        assert_eq!(hand_on(1), [0, 0], "the middle one doesn't know yet");
        middle.divide(vec![("known".into(), Kept { total: 2, users: vec![("u".into(), 2)] })], &config);
        assert_eq!(hand_on(1), [1, 1]);
        assert_eq!(pools[1].control.elsewhere_of(&"u".into()), 2);
        middle.share_no_more();
        assert_eq!(hand_on(1), [1, 3]);
        assert_eq!(hand_on(0), [0, 4]);
    }

    /// Of a user's servers in all pools.
    #[test]
    fn a_users_servers_elsewhere_count_wherever_it_logs_in() {
        let mut config = config();
        config.pooler.max_user_connections = 3;
        config.databases.insert("other".into(), config.databases["known"].clone());
        let new = directory(&config);
        let _claims = new.share();
        let user = UserName::from("u");
        let quota = new.find("other").unwrap().quotas.of(&user);
        let kept = Kept { total: 2, users: vec![("u".into(), 2)] };
        new.divide(vec![("other".into(), Kept::default()), ("known".into(), kept)], &config);
        assert_eq!([quota.take(), quota.take()], [true, false], "it has never logged in to the pool");
        // Its pool goes, and another one takes its place.
        for port in [1, 2] {
            config.databases.get_mut("known").unwrap().port = vec![port];
            new.apply(&config);
            assert!(!quota.has_room(), "port {port}");
        }
        config.databases.remove("known");
        config.fallback = None;
        new.apply(&config);
        assert_eq!([quota.take(), quota.take(), quota.take()], [true, true, false]);
        new.share_no_more();
        assert!(!quota.has_room());
    }
}
