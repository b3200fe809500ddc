//! What the configuration says about one pool, ready for use.

use std::sync::Arc;
use std::time::Duration;

use super::budget::Terms;
use super::queue::Limits;
use crate::auth::ServerCredentials;
use crate::cluster::Policy;
use crate::config::{Config, Database, ShareBy, Weights};
use crate::names::{DatabaseName, UserName};
use crate::net::TcpOptions;
use crate::server::connect::Login;
use crate::tls::ConnectTls;

/// Of a startup packet: names and values.
type Parameters = Vec<(String, String)>;

/// The settings of one pool. Zero durations mean "off".
#[derive(Clone, PartialEq, Debug)]
pub struct Spec {
    /// Where the servers are, and which of them are meant.
    pub policy: Policy,
    /// Socket options towards them.
    pub options: TcpOptions,
    /// TLS towards them.
    pub tls: ConnectTls,
    /// The database's name there.
    pub dbname: String,
    /// Bounds.
    pub limits: Limits,
    /// Servers on top, for those who have waited for so long.
    pub reserve: (u32, Duration),
    /// `server_fast_close`.
    pub fast_close: bool,
    /// Servers to keep.
    pub min_size: u32,
    /// Servers that may be pinned at once; 0: none, see [`Database::max_pinned`].
    pub max_pinned: u32,
    /// `pin_notice`.
    pub pin_notice: bool,
    /// `share_by`.
    pub share_by: ShareBy,
    /// `share_weights`.
    pub share_weights: Arc<Weights>,
    /// `strict_session_state`.
    pub strict_session_state: bool,
    /// `reuse_unnamed_statements`, where servers keep any.
    pub reuses_unnamed: bool,
    /// `diagnostic_connection`.
    pub diagnoses: bool,
    /// `query_wait_timeout`.
    pub wait_timeout: Duration,
    /// `server_connect_timeout`.
    pub connect_timeout: Duration,
    /// `server_login_retry`: the longest pause after failed logins.
    pub login_retry: Duration,
    /// `health_check_interval` and `health_check_timeout`.
    pub health_check: (Duration, Duration),
    /// `server_idle_timeout`.
    pub idle_timeout: Duration,
    /// `server_lifetime`.
    pub lifetime: Duration,
    /// `server_check_delay`.
    pub check_delay: Duration,
    /// `max_packet_size`, bytes.
    pub max_packet_size: u32,
    /// `server_check_query`.
    pub check_query: String,
    /// `server_reset_query`.
    pub reset_query: String,
    /// `server_reset_query_always`.
    pub reset_always: bool,
    /// `connect_query`.
    pub connect_query: Option<String>,
    /// `max_prepared_statements`.
    pub max_prepared_statements: usize,
    /// `cancel_wait_timeout`.
    pub cancel_timeout: Duration,
    /// How far back the demand is recorded; `None`: it isn't.
    pub records: Option<Duration>,
    /// How the pool sizes itself, if it does; `limits` have the largest size.
    pub auto: Option<AutoSize>,
    /// What several Carpools share, if they do.
    pub budget: Option<Terms>,
    /// How long a transaction has to take for something to be told of it; `None`: of none.
    pub tells_from: Option<Duration>,
}

/// The bounds of a pool that sizes itself; the largest is in the limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AutoSize {
    /// The smallest.
    pub least: u32,
    /// What it begins with.
    pub first: u32,
}

impl Spec {
    /// The settings of database `name`.
    #[must_use]
    pub fn new(name: &DatabaseName, database: &Database, config: &Config) -> Self {
        let pooler = &config.pooler;
        let auto = database.auto_pool_size.then(|| {
            let least = database.min_auto_pool_size;
            AutoSize { least, first: pooler.default_pool_size.clamp(least, database.pool_size.max(least)) }
        });
        // What must hold of its size holds of the smallest.
        let least = auto.map_or(database.pool_size, |auto| auto.least);
        Self {
            policy: Policy::new(database, pooler.server_login_retry),
            options: TcpOptions::from(pooler),
            tls: config.server_tls.of(name.as_str()),
            dbname: config.server_name(name, database),
            limits: Limits {
                size: database.pool_size,
                per_user: database.user_pool_size.unwrap_or(u32::MAX),
                logins: pooler.max_concurrent_logins.max(1),
                in_turn: pooler.server_round_robin,
            },
            reserve: (database.reserve_pool_size, pooler.reserve_pool_timeout),
            fast_close: pooler.server_fast_close,
            min_size: database.min_pool_size.min(least),
            max_pinned: database.max_pinned.min(most_pinned(least)),
            pin_notice: database.pin_notice.unwrap_or(pooler.pin_notice),
            share_by: database.share_by.unwrap_or(pooler.share_by),
            share_weights: Arc::new(database.share_weights.as_ref().unwrap_or(&pooler.share_weights).clone()),
            strict_session_state: database.strict_session_state.unwrap_or(pooler.strict_session_state),
            reuses_unnamed: database.reuse_unnamed_statements.unwrap_or(pooler.reuse_unnamed_statements)
                && pooler.max_prepared_statements > 0,
            diagnoses: database.diagnostic_connection.unwrap_or(pooler.diagnostic_connection),
            wait_timeout: database.query_wait_timeout.unwrap_or(pooler.query_wait_timeout),
            connect_timeout: pooler.server_connect_timeout,
            login_retry: pooler.server_login_retry,
            health_check: (pooler.health_check_interval, pooler.health_check_timeout),
            idle_timeout: pooler.server_idle_timeout,
            lifetime: database.server_lifetime.unwrap_or(pooler.server_lifetime),
            check_delay: pooler.server_check_delay,
            max_packet_size: pooler.max_packet_size,
            check_query: pooler.server_check_query.clone(),
            reset_query: pooler.server_reset_query.clone(),
            reset_always: pooler.server_reset_query_always,
            connect_query: database.connect_query.clone(),
            max_prepared_statements: pooler.max_prepared_statements as usize,
            cancel_timeout: pooler.cancel_wait_timeout,
            records: (pooler.advisor || auto.is_some()).then_some(pooler.advisor_window),
            auto,
            budget: budget(database, config),
            tells_from: match (&pooler.otlp_endpoint, pooler.log_slow_transactions) {
                (Some(_), _) => Some(Duration::ZERO),
                (None, bound) => (!bound.is_zero()).then_some(bound),
            },
        }
    }

    /// How a connection beside the pool's servers is logged in to: on none of them, and for its task alone.
    pub(crate) fn login(&self, user: UserName, credentials: ServerCredentials, parameters: Parameters) -> Login {
        Login {
            target: self.policy.first(),
            host: 0,
            attrs: self.policy.attrs,
            options: self.options,
            tls: self.tls.clone(),
            user,
            database: self.dbname.clone(),
            credentials,
            parameters,
            connect_query: None,
            timeout: self.connect_timeout,
            max_prepared_statements: 0,
            lifetime: Duration::ZERO,
            generation: 0,
        }
    }
}

fn budget(database: &Database, config: &Config) -> Option<Terms> {
    let user = database.shared_pool_user.as_ref().or(database.user.as_ref())?;
    let of_user = config.users.get(user).and_then(|user| user.password.clone());
    let of_database = || database.password.clone().filter(|_| database.user.as_ref() == Some(user));
    let terms = Terms { size: database.shared_pool_size, user: user.clone(), password: of_user.or_else(of_database) };
    (terms.size > 0).then_some(terms)
}

/// Four fifths of a pool, so that clients without session state always get on; of a pool of one, that one.
fn most_pinned(pool_size: u32) -> u32 {
    u32::try_from(u64::from(pool_size) * 4 / 5).unwrap_or(pool_size).max(1)
}
