//! `max_user_connections`: what one user may have of all pools together. Pure.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use dashmap::DashMap;
use parking_lot::Mutex;

use crate::config::Config;
use crate::names::UserName;

/// The slots of one user over all pools. Pools take and give them under locks of their own.
#[derive(Debug, Default)]
pub struct Quota {
    /// 0: no limit.
    most: AtomicU32,
    taken: AtomicU32,
    /// A pool has clients waiting that got none.
    wanted: AtomicBool,
}

impl Quota {
    /// With this limit.
    #[cfg(test)]
    pub(super) fn with_limit(most: u32) -> Self {
        Self { most: AtomicU32::new(most), ..Self::default() }
    }

    /// Whether a slot is left; that one is wanted is noted otherwise.
    pub fn has_room(&self) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        let room = most == 0 || self.taken.load(Ordering::Acquire) < most;
        if !room {
            self.wanted.store(true, Ordering::Relaxed);
        }
        room
    }

    /// Takes a slot, unless the limit is reached.
    pub fn take(&self) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        let more = |taken: u32| (most == 0 || taken < most).then(|| taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// Another process has `after` slots of the user where it had `before`.
    pub fn shift(&self, before: u32, after: u32) {
        let shifted = |taken: u32| Some(taken.saturating_sub(before).saturating_add(after));
        // It always takes one.
        let _ = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, shifted);
    }

    /// Gives a slot back.
    pub fn give(&self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Of every user that has had servers.
#[derive(Debug, Default)]
pub struct Quotas {
    quotas: DashMap<UserName, Arc<Quota>>,
    /// Of users without a limit of their own.
    general: AtomicU32,
    own: Mutex<HashMap<UserName, u32>>,
}

impl Quotas {
    /// The one of a user.
    pub(super) fn of(&self, user: &UserName) -> Arc<Quota> {
        let new = || Arc::new(Quota { most: AtomicU32::new(self.most(user)), ..Quota::default() });
        Arc::clone(&self.quotas.entry(user.clone()).or_insert_with(new))
    }

    fn most(&self, user: &UserName) -> u32 {
        self.own.lock().get(user).copied().unwrap_or_else(|| self.general.load(Ordering::Relaxed))
    }

    /// Takes a configuration's limits over.
    pub(super) fn apply(&self, config: &Config) {
        self.general.store(config.pooler.max_user_connections, Ordering::Relaxed);
        *self.own.lock() = config.users.iter().map(|(name, user)| (name.clone(), user.max_user_connections)).collect();
        self.quotas.iter().for_each(|quota| quota.most.store(self.most(quota.key()), Ordering::Relaxed));
    }

    /// The users of whom some pool has wanted a slot that there isn't, since the last time.
    pub(super) fn take_wanted(&self) -> Vec<UserName> {
        let wanted = self.quotas.iter().filter(|quota| quota.wanted.swap(false, Ordering::Relaxed));
        wanted.map(|quota| quota.key().clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_is_taken() {
        let mut config = Config::default();
        let (quotas, user) = (Quotas::default(), UserName::from("u"));
        let quota = quotas.of(&user);
        assert!((0..9).all(|_| quota.take()), "without a limit");
        (0..9).for_each(|_| quota.give());
        config.pooler.max_user_connections = 2;
        quotas.apply(&config);
        assert_eq!([quota.take(), quota.take(), quota.take()], [true, true, false]);
        assert!(!quota.has_room());
        assert_eq!((quotas.take_wanted(), quotas.take_wanted()), (vec![user.clone()], Vec::new()));
        quota.give();
        assert!(quota.has_room() && quota.take());
        config.users.insert(user, crate::config::User { max_user_connections: 3, ..Default::default() });
        quotas.apply(&config);
        assert_eq!([quota.take(), quota.take()], [true, false], "its own limit comes first");
        assert_eq!(quotas.of(&"other".into()).most.load(Ordering::Relaxed), 2);
    }
}
