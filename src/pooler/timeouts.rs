//! Time limits of clients, looked after from time to time: no timer per query. And the periodic statistics line.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::info;

use crate::client::Context;
use crate::client::registry::{ClientShared, Phase, order};
use crate::config::{Config, Pooler, User};
use crate::error::{ClientError, SqlState};
use crate::stats::Totals;

/// Ends the clients that are over a limit.
pub fn enforce(context: &Context, now: Instant) {
    let config = context.config.load();
    if !any_limit(&config) {
        return;
    }
    context.registry.for_each(|client| {
        if let Some(error) = overdue(client, &config, now, context.started) {
            client.end(order::END_NOW, error);
        }
    });
}

fn any_limit(config: &Config) -> bool {
    let p = &config.pooler;
    let global = [p.query_timeout, p.idle_transaction_timeout, p.transaction_timeout, p.client_idle_timeout];
    let of_user = |u: &User| {
        [u.query_timeout, u.idle_transaction_timeout, u.transaction_timeout, u.client_idle_timeout]
            .iter()
            .any(Option::is_some)
    };
    global.iter().any(|limit| !limit.is_zero()) || config.users.values().any(of_user)
}

/// Which limit a client is over.
fn overdue(client: &ClientShared, config: &Config, now: Instant, epoch: Instant) -> Option<ClientError> {
    let user = config.users.get(&client.user);
    let limit = |of_user: fn(&User) -> Option<Duration>, global: fn(&Pooler) -> Duration| {
        user.and_then(of_user).unwrap_or_else(|| global(&config.pooler))
    };
    let (phase, since) = client.phase(now, epoch);
    let (name, code, limit, passed) = match phase {
        Phase::Active => {
            ("query_timeout", SqlState::QUERY_CANCELED, limit(|u| u.query_timeout, |p| p.query_timeout), since)
        }
        Phase::IdleInTransaction => {
            let limit = limit(|u| u.idle_transaction_timeout, |p| p.idle_transaction_timeout);
            ("idle_transaction_timeout", SqlState::IDLE_IN_TRANSACTION_TIMEOUT, limit, since)
        }
        Phase::Idle => {
            let limit = limit(|u| u.client_idle_timeout, |p| p.client_idle_timeout);
            ("client_idle_timeout", SqlState::IDLE_SESSION_TIMEOUT, limit, since)
        }
        Phase::Login | Phase::Waiting => return None,
    };
    let over = |name: &'static str, code, limit: Duration, passed: Duration| {
        (!limit.is_zero() && passed > limit).then(|| {
            ClientError::fatal(code, name).detail(format!("The limit is {limit:?}.")).hint(format!("See {name}."))
        })
    };
    over(name, code, limit, passed).or_else(|| {
        let passed = client.transaction_time(now, epoch)?;
        let limit = user.and_then(|u| u.transaction_timeout).unwrap_or(config.pooler.transaction_timeout);
        over("transaction_timeout", SqlState::QUERY_CANCELED, limit, passed)
    })
}

/// Logs PgBouncer's line of statistics every `stats_period`.
pub async fn log_statistics(context: Arc<Context>) {
    let mut before = Totals::default();
    loop {
        let (period, wanted) = {
            let config = context.config.load();
            (config.pooler.stats_period.max(Duration::from_secs(1)), config.pooler.log_stats)
        };
        tokio::time::sleep(period).await;
        let totals = context.pools.all().iter().fold(Totals::default(), |sum, pool| sum + pool.totals());
        let per_second = |now: u64, then: u64| now.saturating_sub(then) / period.as_secs().max(1);
        let average = |time: u64, then: u64, count: u64| time.saturating_sub(then).checked_div(count).unwrap_or(0);
        let (transactions, queries) = (totals.transactions - before.transactions, totals.queries - before.queries);
        if wanted {
            info!(
                "stats: {} xacts/s, {} queries/s, in {} B/s, out {} B/s, xact {} us, query {} us, wait {} us",
                per_second(totals.transactions, before.transactions),
                per_second(totals.queries, before.queries),
                per_second(totals.received, before.received),
                per_second(totals.sent, before.sent),
                average(totals.transaction_time, before.transaction_time, transactions),
                average(totals.query_time, before.query_time, queries),
                average(totals.wait_time, before.wait_time, transactions),
            );
        }
        before = totals;
    }
}
