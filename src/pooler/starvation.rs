//! Looks for pools that starve, and tells the log. See [`crate::pool::starvation`].

use std::time::Instant;

use tracing::{info, warn};

use crate::client::{Context, holders};
use crate::pool::Pool;
use crate::pool::starvation::{Change, STILLNESS, sentence};

/// One look at all pools.
pub(super) fn look(context: &Context, now: Instant) {
    for pool in context.pools.all() {
        let starving = match has_waited(&pool, now) {
            true => holders::look(context, &pool, now).starving,
            false => Vec::new(),
        };
        let text = sentence(&starving);
        match pool.starvation().note(starving, now) {
            Some(Change::Begins) => warn!(
                database = %pool.name,
                "{text} See query_wait_timeout, idle_transaction_timeout and pool_size; SHOW BLOCKERS on the console"
            ),
            Some(Change::Ends(after)) => {
                info!(database = %pool.name, "starvation is over, after {:.1} s", after.as_secs_f64());
            }
            None => {}
        }
    }
}

/// Whether anybody has waited for so long that it may be that. All clients are looked at only then.
fn has_waited(pool: &Pool, now: Instant) -> bool {
    let since = pool.counts().into_iter().filter_map(|(_, counts)| counts.waiting_since).min();
    since.is_some_and(|since| now.saturating_duration_since(since) >= STILLNESS)
}
