//! Groups that share servers (`share_by`): SHOW SHARES, and their part of `/metrics`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::collect::View;
use crate::pool::line::GroupCounts;
use crate::stats::prometheus::{Exposition, Type};
use crate::stats::table::{Row, row};

/// What those have for a name that are in no group of their own.
const OTHERS: &str = "(others)";

fn name(group: &GroupCounts) -> String {
    if group.name.is_empty() { OTHERS.to_owned() } else { group.name.clone() }
}

impl View<'_> {
    /// SHOW SHARES.
    pub(super) fn shares(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for pool in &self.pools {
            let by = pool.spec.load().share_by.as_str();
            for (user, groups) in pool.groups() {
                for group in groups {
                    let since = group.waiting_since;
                    let longest = since.map_or(Duration::ZERO, |since| self.now.saturating_duration_since(since));
                    rows.push(row![
                        pool.name.to_string(),
                        user.to_string(),
                        by,
                        name(&group),
                        group.weight,
                        group.held,
                        group.waiting,
                        longest.as_secs(),
                        longest.subsec_micros(),
                        group.grants,
                        micros(group.waited),
                    ]);
                }
            }
        }
        rows
    }

    /// The groups' metrics; `label` gives a database's.
    pub(super) fn share_metrics(&self, label: impl Fn(&str) -> String, text: &mut Exposition) {
        let mut sums: BTreeMap<[String; 3], GroupCounts> = BTreeMap::new();
        for pool in &self.pools {
            for (user, groups) in pool.groups() {
                for group in groups {
                    let key = [label(pool.name.as_str()), user.to_string(), name(&group)];
                    let Some(sum) = sums.get_mut(&key) else {
                        sums.insert(key, group);
                        continue;
                    };
                    sum.held += group.held;
                    sum.waiting += group.waiting;
                    sum.grants += group.grants;
                    sum.waited += group.waited;
                }
            }
        }
        let mut family = |name, kind, help, value: fn(&GroupCounts) -> f64| {
            let mut family = text.family(name, kind, help);
            for ([database, user, group], counts) in &sums {
                family.sample(&[("database", database), ("user", user), ("group", group)], value(counts));
            }
        };
        let help = "Servers that a group of clients (share_by) has.";
        family("carpool_share_servers", Type::Gauge, help, |group| f64::from(group.held));
        let help = "Clients of a group that wait for a server.";
        family("carpool_share_clients_waiting", Type::Gauge, help, |group| f64::from(group.waiting));
        let help = "Servers that a group's clients got after waiting.";
        #[expect(clippy::cast_precision_loss, reason = "a count")]
        family("carpool_share_grants_total", Type::Counter, help, |group| group.grants as f64);
        let help = "Time that a group's clients waited for the servers that they got.";
        family("carpool_share_wait_seconds_total", Type::Counter, help, |group| group.waited.as_secs_f64());
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
