//! Budgets that several Carpools share (`shared_pool_size`): SHOW BUDGET, and their part of `/metrics`.

use std::collections::BTreeMap;

use super::collect::View;
use crate::stats::prometheus::{Exposition, Type};
use crate::stats::table::{Row, row};

/// Of the pools of one label.
#[derive(Clone, Copy, Default)]
struct Sum {
    size: u32,
    held: u32,
    want: u32,
    elsewhere: u32,
    members: u32,
    fails: bool,
}

/// Its name, what it means, and which of the sums it is.
type Gauge = (&'static str, &'static str, fn(&Sum) -> u32);

impl View<'_> {
    /// SHOW BUDGET.
    pub(super) fn budgets(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for pool in &self.pools {
            let Some(view) = pool.budget() else { continue };
            let age = self.now.saturating_duration_since(view.at);
            for part in &view.members {
                rows.push(row![
                    pool.name.to_string(),
                    view.size,
                    part.id.clone(),
                    part.name.clone(),
                    if part.own { "yes" } else { "no" },
                    part.state,
                    part.want,
                    part.held,
                    part.servers,
                    u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
                    view.error.clone(),
                ]);
            }
        }
        rows
    }

    /// The budgets' metrics; `label` gives a database's.
    pub(super) fn budget_metrics(&self, label: impl Fn(&str) -> String, text: &mut Exposition) {
        let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
        for pool in &self.pools {
            let Some(view) = pool.budget() else { continue };
            let sum = sums.entry(label(pool.name.as_str())).or_default();
            sum.size += view.size;
            sum.fails |= view.error.is_some();
            for part in &view.members {
                sum.members += 1;
                if part.own {
                    (sum.held, sum.want) = (sum.held + part.held, sum.want + part.want);
                } else {
                    sum.elsewhere += part.held;
                }
            }
        }
        let gauges: [Gauge; 6] = [
            (
                "carpool_budget_size",
                "Server connections that several Carpools may have together (shared_pool_size).",
                |sum| sum.size,
            ),
            ("carpool_budget_held", "How many of them this one may have.", |sum| sum.held),
            ("carpool_budget_wanted", "How many of them this one could use.", |sum| sum.want),
            ("carpool_budget_held_elsewhere", "How many of them the others may have.", |sum| sum.elsewhere),
            ("carpool_budget_members", "Carpools that share them, those that were given up included.", |sum| {
                sum.members
            }),
            ("carpool_budget_failing", "1 while the ledger can't be read or written.", |sum| u32::from(sum.fails)),
        ];
        for (name, help, of) in gauges {
            let mut family = text.family(name, Type::Gauge, help);
            for (database, sum) in &sums {
                family.sample(&[("database", database)], of(sum));
            }
        }
    }
}
