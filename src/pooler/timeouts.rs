//! Time limits of clients, looked after from time to time: no timer per query.

use std::time::{Duration, Instant};

use crate::client::Context;
use crate::client::registry::{ClientKind, ClientShared, Phase, order};
use crate::config::{Config, Pooler, User};
use crate::error::{ClientError, SqlState};

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

/// Has those told who have waited for `query_wait_notify` since the last look, at `before`.
pub fn notify_waiting(context: &Context, now: Instant, before: Instant) {
    let limit = context.config.load().pooler.query_wait_notify;
    if limit.is_zero() {
        return;
    }
    context.registry.for_each(|client| {
        let (phase, waited) = client.phase(now, context.started);
        let looked_at = waited.checked_sub(now.saturating_duration_since(before));
        let is_due = waited >= limit && looked_at.is_none_or(|then| then < limit);
        if phase == Phase::Waiting && is_due {
            client.order(order::NOTIFY_WAIT);
        }
    });
}

/// `server_fast_close`: ends idle clients that keep a server which is to be replaced.
pub fn close_fast(context: &Context) {
    for pool in context.pools.all().iter().filter(|pool| pool.spec.load().fast_close) {
        let holders: Vec<_> =
            pool.outdated().iter().filter_map(|s| s.holder.lock().as_ref().map(|h| h.client)).collect();
        if holders.is_empty() {
            continue;
        }
        context.registry.for_each(|client| {
            if holders.contains(&client.id) && client.orders() & order::END_IDLE == 0 {
                let error = ClientError::fatal(SqlState::ADMIN_SHUTDOWN, "database configuration changed");
                client.end(order::END_IDLE, error.hint("See server_fast_close."));
            }
        });
    }
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
    // Somebody who looks after Carpool may take their time.
    if client.kind == ClientKind::Console {
        return None;
    }
    let user = config.users.get(&client.user);
    let limit = |of_user: fn(&User) -> Option<Duration>, global: fn(&Pooler) -> Duration| {
        user.and_then(of_user).unwrap_or_else(|| global(&config.pooler))
    };
    let (phase, since) = client.phase(now, epoch);
    let (name, code, limit, passed) = match phase {
        Phase::Active => {
            ("query timeout", SqlState::QUERY_CANCELED, limit(|u| u.query_timeout, |p| p.query_timeout), since)
        }
        Phase::IdleInTransaction => {
            let limit = limit(|u| u.idle_transaction_timeout, |p| p.idle_transaction_timeout);
            ("idle transaction timeout", SqlState::IDLE_IN_TRANSACTION_TIMEOUT, limit, since)
        }
        Phase::Idle => {
            let limit = limit(|u| u.client_idle_timeout, |p| p.client_idle_timeout);
            ("client_idle_timeout", SqlState::IDLE_SESSION_TIMEOUT, limit, since)
        }
        Phase::Login | Phase::Waiting => return None,
    };
    // The texts are PgBouncer's; the settings have the same names, underscored.
    let over = |text: &'static str, code, limit: Duration, passed: Duration| {
        (!limit.is_zero() && passed > limit).then(|| {
            let setting = text.replace(' ', "_");
            ClientError::fatal(code, text).detail(format!("The limit is {limit:?}.")).hint(format!("See {setting}."))
        })
    };
    over(name, code, limit, passed).or_else(|| {
        let passed = client.transaction_time(now, epoch)?;
        let limit = user.and_then(|u| u.transaction_timeout).unwrap_or(config.pooler.transaction_timeout);
        over("transaction timeout", SqlState::QUERY_CANCELED, limit, passed)
    })
}
