//! The pools by database name.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use dashmap::DashMap;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::mpsc;
use tracing::info;

use super::Pool;
use super::budget::Terms;
use super::cede::Kept;
use super::control::Pauser;
use super::quota::Quotas;
use super::spec::Spec;
use super::transfer::Arrival;
use crate::config::{Config, Database};
use crate::names::DatabaseName;

/// All pools. Those of the configuration exist from the start, those of the `*` fallback from their first client.
#[derive(Debug, Default)]
pub struct Directory {
    pools: DashMap<DatabaseName, Arc<Pool>>,
    /// PAUSE of everything: pools made meanwhile are paused, too.
    paused: AtomicBool,
    changing: Mutex<()>,
    quotas: Arc<Quotas>,
    /// Where new pools are told of while another process may have servers of theirs.
    claims: Mutex<Option<mpsc::UnboundedSender<DatabaseName>>>,
    /// Another process counts on what was said of the pools: none is forgotten.
    keeps: AtomicBool,
}

/// What the configuration says of a database name, the fallback included.
#[must_use]
pub fn find<'c>(config: &'c Config, name: &str) -> Option<&'c Database> {
    config.database(name).map(|(database, _)| database)
}

impl Directory {
    /// The pool of a database, if the configuration has one by that name.
    #[must_use]
    pub fn get(&self, name: &str, config: &Config) -> Option<Arc<Pool>> {
        if let Some(pool) = self.pools.get(name) {
            return Some(Arc::clone(&pool));
        }
        let database = find(config, name)?;
        let name = DatabaseName::from(name);
        let spec = Spec::new(&name, database, config);
        let is_fallback = !config.databases.contains_key(&name);
        let pool = self.pools.entry(name.clone()).or_insert_with(|| {
            if is_fallback {
                info!("registered new auto-database: {name}");
            }
            let pool = Pool::new(name, spec, &self.quotas);
            // Here, where whoever ends the sharing waits for it.
            self.claim(&pool);
            pool
        });
        let pool = Arc::clone(&pool);
        if self.is_paused() {
            pool.pause(Pauser::All);
            // Whoever resumes meanwhile may have seen the pool before it was paused.
            if !self.is_paused() {
                pool.resume(Pauser::All);
            }
        }
        Some(pool)
    }

    /// Another process may have servers of all these pools, and of those to come: a pool has nothing to lend before that has
    /// said what it keeps ([`Directory::divide`]). Gives the names of those that it is to be asked about.
    pub fn share(&self) -> mpsc::UnboundedReceiver<DatabaseName> {
        let (claims, claimed) = mpsc::unbounded_channel();
        *self.claims.lock() = Some(claims);
        // One that is made meanwhile is asked about twice.
        self.all().iter().for_each(|pool| self.claim(pool));
        claimed
    }

    fn claim(&self, pool: &Arc<Pool>) {
        if let Some(claims) = &*self.claims.lock() {
            pool.set_elsewhere(Kept::ALL);
            // When nobody asks any more, the sharing is about to end.
            drop(claims.send(pool.name.clone()));
        }
    }

    /// Takes in what the other process keeps. What it has of users counts in all pools before any of them lends.
    pub fn divide(&self, kept: Vec<(String, Kept)>, config: &Config) {
        let pool_of = |name: &str, kept: &Kept| match *kept == Kept::default() {
            true => self.find(name),
            false => self.get(name, config),
        };
        let parts: Vec<_> = kept.into_iter().filter_map(|(name, kept)| Some((pool_of(&name, &kept)?, kept))).collect();
        for (pool, kept) in parts.iter().filter(|(pool, _)| pool.awaits_division()) {
            pool.set_elsewhere(Kept::all_with(&kept.users));
        }
        for (pool, kept) in parts {
            pool.set_elsewhere(kept);
        }
    }

    /// Takes in a server of the other process, with its slot. Closes it where it isn't what this process would log in to;
    /// says whether it stays.
    pub fn take_in(&self, arrival: Arrival, socket: OwnedFd, config: &Config) -> bool {
        let name = DatabaseName::from(arrival.database.as_str());
        let (Some(pool), Some(database)) = (self.get(name.as_str(), config), find(config, name.as_str())) else {
            arrival.turn_away(socket);
            return false;
        };
        let forced = database.user.as_ref().is_none_or(|user| user.as_str() == arrival.user);
        pool.take_in(arrival, socket, forced, config)
    }

    /// The other process is no more.
    pub fn share_no_more(&self) {
        *self.claims.lock() = None;
        for pool in self.all() {
            pool.set_elsewhere(Kept::default());
        }
    }

    /// Whether no pool is to be forgotten, since another process counts on what was said of it.
    pub fn keep_all(&self, keeps: bool) {
        self.keeps.store(keeps, Ordering::SeqCst);
    }

    /// Forgets pools of the fallback that `is_used` doesn't name, that have no servers, and that were so for `limit`.
    pub fn forget_unused(&self, config: &Config, is_used: impl Fn(&DatabaseName) -> bool, now: Instant) {
        let limit = config.pooler.autodb_idle_timeout;
        if limit.is_zero() || self.keeps.load(Ordering::SeqCst) {
            return;
        }
        let _changing = self.changing();
        self.pools.retain(|name, pool| {
            let named = config.databases.contains_key(name);
            let unused = !named && pool.unused_for(now, is_used(name)).is_some_and(|unused| unused >= limit);
            // Nobody can come by it just now, so when it is in no other hands it never will be again.
            !(unused && Arc::strong_count(pool) == 1)
        });
    }

    /// Where a pool can have no more servers of a user, `max_user_connections` being reached, an idle one of another
    /// pool is closed.
    pub fn balance(&self) {
        for user in self.quotas.take_wanted() {
            self.all().iter().any(|pool| pool.make_room(&user));
        }
    }

    /// The pool of a database that has one.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Pool>> {
        self.pools.get(name).map(|pool| Arc::clone(&pool))
    }

    /// Keeps reloads out: whoever pauses a pool, say, must not do it to one whose place another is taking.
    pub fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock()
    }

    /// Whether everything is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// Pauses everything; says whether it wasn't.
    pub fn pause(&self) -> bool {
        let _changing = self.changing();
        // First, so that no pool comes in between unpaused.
        let new = !self.paused.swap(true, Ordering::SeqCst);
        for pool in self.all() {
            pool.pause(Pauser::All);
        }
        new
    }

    /// Takes back [`Directory::pause`]; says whether it was there.
    pub fn resume(&self) -> bool {
        let _changing = self.changing();
        let was = self.paused.swap(false, Ordering::SeqCst);
        for pool in self.all() {
            pool.resume(Pauser::All);
        }
        was
    }

    /// Removes a pool of the fallback that never had a server: anybody can ask for any name, so what nothing is behind
    /// must not stay.
    pub fn forget_unreached(&self, name: &str, config: &Config) {
        if config.databases.contains_key(name) || self.keeps.load(Ordering::SeqCst) {
            return;
        }
        let unreached = |_: &DatabaseName, pool: &Arc<Pool>| !pool.was_reached() && pool.slots() == 0;
        if let Some((_, pool)) = self.pools.remove_if(name, unreached) {
            pool.retire();
        }
    }

    /// All pools, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Pool>> {
        let mut pools: Vec<_> = self.pools.iter().map(|p| Arc::clone(&p)).collect();
        pools.sort_by(|a, b| a.name.cmp(&b.name));
        pools
    }

    /// Takes a configuration over: new pools are made, changed ones adapt, those gone are retired.
    pub fn apply(&self, config: &Config) {
        let _changing = self.changing();
        self.quotas.apply(config);
        // One after the other by name: in the map's own order they would come differently each time.
        for pool in self.all() {
            let name = &pool.name;
            let Some(database) = find(config, name.as_str()) else {
                self.pools.remove(name);
                pool.retire();
                continue;
            };
            let spec = Spec::new(name, database, config);
            let moved = {
                let old = pool.spec.load();
                if **old == spec {
                    continue;
                }
                // Servers that logged in with less security than is asked for now aren't to stay.
                old.policy.is_elsewhere(&spec.policy)
                    || Terms::are_others(old.budget.as_ref(), spec.budget.as_ref())
                    || old.dbname != spec.dbname
                    || old.tls.asks_otherwise(&spec.tls)
            };
            if !moved {
                pool.reconfigure(spec);
            } else if let Some(mut place) = self.pools.get_mut(name) {
                *place = pool.successor(spec);
                drop(place);
                pool.retire();
            }
        }
        for name in config.databases.keys() {
            drop(self.get(name.as_str(), config));
        }
    }
}
