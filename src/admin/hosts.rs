//! The hosts of databases: SHOW HOSTS, `/api/hosts`, and their part of `/metrics`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::collect::View;
use crate::cluster::HostState;
use crate::config::Host;
use crate::pool::Pool;
use crate::stats::prometheus::{Exposition, Type};
use crate::stats::table::{Row, row};

/// One host of a database.
#[derive(Debug, Serialize)]
struct HostJson {
    database: String,
    host: String,
    port: u16,
    /// What it last said it is.
    role: Option<String>,
    state: &'static str,
    /// Connections to it.
    servers: u32,
    logins: u64,
    failed_logins: u64,
    /// Failed logins in a row.
    failures: u32,
    /// How long it is still left alone.
    rests_ms: u64,
    last_error: Option<String>,
    /// How long ago it last answered a health check.
    checked_ms: Option<u64>,
    /// How far a standby is behind.
    lag_ms: Option<u64>,
    /// A primary's, or the one that a standby has reached, as far as is known.
    timeline: Option<u32>,
}

impl HostJson {
    fn new(view: &View<'_>, pool: &Pool, host: &HostState, is_told: bool) -> Self {
        let servers = pool.servers().iter().filter(|server| server.target == host.target).count();
        let rests = host.health.rests_until.map(|until| until.saturating_duration_since(view.now));
        let error = host.last_error.as_ref();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let checked = host.checked.at.map(|at| view.now.saturating_duration_since(at));
        Self {
            database: pool.name.to_string(),
            host: match &host.target.host {
                Host::Tcp(name) => name.clone(),
                Host::Unix(directory) => directory.display().to_string(),
            },
            port: host.target.port,
            role: host.health.role.map(|role| role.to_string()),
            state: host.state(),
            servers: u32::try_from(servers).unwrap_or(u32::MAX),
            logins: host.health.logins,
            failed_logins: host.health.failed,
            failures: host.health.failures,
            rests_ms: rests.map_or(0, millis),
            last_error: error.map(|error| if is_told { error.to_string() } else { "see the log".to_owned() }),
            checked_ms: checked.map(millis),
            lag_ms: host.checked.lag.map(millis),
            timeline: host.checked.said.and_then(|said| said.timeline.max(said.upstream)),
        }
    }
}

impl View<'_> {
    fn all_hosts(&self, is_told: bool) -> Vec<HostJson> {
        let of_pool = |pool: &std::sync::Arc<Pool>| {
            let hosts = pool.hosts();
            hosts.iter().map(|host| HostJson::new(self, pool, host, is_told)).collect::<Vec<_>>()
        };
        self.pools.iter().flat_map(of_pool).collect()
    }

    /// SHOW HOSTS.
    pub(super) fn hosts(&self) -> Vec<Row> {
        let row = |host: HostJson| {
            row![
                host.database,
                host.host,
                host.port,
                host.role,
                host.state,
                host.servers,
                host.logins,
                host.failed_logins,
                host.failures,
                host.rests_ms,
                host.last_error,
                host.checked_ms,
                host.lag_ms,
                host.timeline,
            ]
        };
        self.all_hosts(true).into_iter().map(row).collect()
    }

    /// `/api/hosts`.
    pub(super) fn hosts_json(&self, is_told: bool) -> serde_json::Result<String> {
        serde_json::to_string(&serde_json::json!({ "hosts": self.all_hosts(is_told) }))
    }

    /// The hosts' metrics; `label` gives a database's.
    pub(super) fn host_metrics(&self, label: impl Fn(&str) -> String, text: &mut Exposition) {
        // Databases of the fallback have one label: what is down for one of them is down.
        let mut hosts: BTreeMap<[String; 2], (bool, u64)> = BTreeMap::new();
        let mut lags: BTreeMap<[String; 2], Duration> = BTreeMap::new();
        let mut failovers: BTreeMap<String, u64> = BTreeMap::new();
        for pool in &self.pools {
            let database = label(pool.name.as_str());
            for host in pool.hosts() {
                let entry = hosts.entry([database.clone(), host.target.to_string()]).or_insert((true, 0));
                entry.0 &= host.state() != "down";
                entry.1 += host.health.failed;
                if let Some(lag) = host.checked.lag {
                    let most = lags.entry([database.clone(), host.target.to_string()]).or_insert(lag);
                    *most = lag.max(*most);
                }
            }
            *failovers.entry(database).or_default() += pool.cluster.failovers();
        }
        let help = "0 while logins to a host fail. One of another role than is wanted is up.";
        let mut family = text.family("carpool_host_up", Type::Gauge, help);
        for ([database, host], (up, _)) in &hosts {
            family.sample(&[("database", database), ("host", host)], u8::from(*up));
        }
        let help = "How far a standby is behind, as far as health checks tell.";
        let mut family = text.family("carpool_replica_lag_seconds", Type::Gauge, help);
        for ([database, host], lag) in &lags {
            family.sample(&[("database", database), ("host", host)], lag.as_secs_f64());
        }
        let help = "Failed logins to a host.";
        let mut family = text.family("carpool_host_login_failures_total", Type::Counter, help);
        for ([database, host], (_, failed)) in &hosts {
            family.sample(&[("database", database), ("host", host)], failed);
        }
        let help = "Times that server connections have gone to another host since the one before couldn't be used.";
        let mut family = text.family("carpool_failovers_total", Type::Counter, help);
        for (database, count) in &failovers {
            family.sample(&[("database", database)], count);
        }
    }
}
