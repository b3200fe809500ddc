//! The pools by database name.

use std::sync::Arc;

use dashmap::DashMap;

use super::Pool;
use super::spec::Spec;
use crate::config::{Config, Database};
use crate::names::DatabaseName;

/// All pools. Those of the configuration exist from the start, those of the `*` fallback from their first client.
#[derive(Debug, Default)]
pub struct Directory {
    pools: DashMap<DatabaseName, Arc<Pool>>,
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
        Some(Arc::clone(&self.pools.entry(name.clone()).or_insert_with(|| Pool::new(name, spec))))
    }

    /// Removes a pool of the fallback that never had a server: anybody can ask for any name, so what nothing is behind
    /// must not stay.
    pub fn forget_unreached(&self, name: &str, config: &Config) {
        if config.databases.contains_key(name) {
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
        self.pools.retain(|name, pool| match find(config, name.as_str()) {
            Some(database) => {
                let spec = Spec::new(name, database, config);
                if **pool.spec.load() == spec {
                    return true;
                }
                let moved = {
                    let old = pool.spec.load();
                    // Servers that logged in with less security than is asked for now aren't to stay.
                    old.target != spec.target || old.dbname != spec.dbname || old.tls.asks_otherwise(&spec.tls)
                };
                if moved {
                    pool.retire()
                } else {
                    pool.reconfigure(spec)
                }
                !moved
            }
            None => {
                pool.retire();
                false
            }
        });
        for name in config.databases.keys() {
            drop(self.get(name.as_str(), config));
        }
    }
}
