//! Who holds the servers that others wait for: SHOW BLOCKERS, `/api/blockers`, and their part of `/metrics`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::collect::View;
use crate::client::holders::{self, Holder, Look};
use crate::names::ClientId;
use crate::pool::Pool;
use crate::pool::diagnosis::{Blocker, Diagnosis, Finding};
use crate::pool::starvation;
use crate::stats::table::{Row, row};

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// One who holds a server.
#[derive(Debug, Serialize)]
struct HolderJson {
    client: String,
    client_id: Option<u64>,
    user: String,
    application: String,
    address: String,
    server: String,
    server_pid: u32,
    held_us: u64,
    state: &'static str,
    state_us: u64,
    pinned: String,
    /// What it waits for at PostgreSQL.
    waits_for: Option<String>,
    blocked_by: Vec<i64>,
    /// Who these are.
    blockers: Vec<String>,
    query: Option<String>,
}

/// A pool.
#[derive(Debug, Serialize)]
struct PoolJson {
    database: String,
    size: u32,
    waiting: u32,
    max_wait_us: u64,
    starved_by: Option<String>,
    /// Whether PostgreSQL was asked who blocks whom.
    diagnosed: bool,
    holders: Vec<HolderJson>,
}

/// What `/api/blockers` gives.
#[derive(Debug, Serialize)]
pub(super) struct Blockers {
    pools: Vec<PoolJson>,
}

/// What PostgreSQL has said, and what of it may be shown.
struct Known<'a> {
    diagnosis: Option<&'a Diagnosis>,
    look: &'a Look,
    shows_text: bool,
}

impl Known<'_> {
    fn holder(&self, holder: &Holder) -> HolderJson {
        let pid = holder.server.key.pid;
        let finding = self.diagnosis.and_then(|diagnosis| diagnosis.of(pid));
        let waits_for =
            finding.and_then(|finding| Some((finding.wait_event_type.as_ref()?, finding.wait_event.as_ref()?)));
        let blocked_by = finding.map(|finding| finding.blocked_by.clone()).unwrap_or_default();
        let is_client = !matches!(holder.client, ClientId::LISTENER | ClientId::LOOKUP | ClientId::DIAGNOSIS);
        HolderJson {
            client: if is_client { holder.client.to_string() } else { String::new() },
            client_id: is_client.then_some(holder.client.0),
            user: holder.user().to_string(),
            application: holder.application().to_owned(),
            address: holder.peer.map(|peer| peer.to_string()).unwrap_or_default(),
            server: holder.server.id.to_string(),
            server_pid: pid,
            held_us: micros(holder.held),
            state: holder.doing.as_str(),
            state_us: micros(holder.since),
            pinned: holder.reasons(),
            waits_for: waits_for.map(|(kind, event)| format!("{kind}: {event}")),
            blockers: blocked_by.iter().map(|&pid| self.blocker(pid)).collect(),
            blocked_by,
            query: self.query(finding, holder),
        }
    }

    /// What it runs, or has run last: as PostgreSQL says, or as it is tracked, without constants.
    fn query(&self, finding: Option<&Finding>, holder: &Holder) -> Option<String> {
        if !self.shows_text {
            return None;
        }
        let told = finding.and_then(|finding| finding.query.clone()).filter(|query| !query.is_empty());
        told.or_else(|| holder.statement.clone())
    }

    /// Whose lock it is: a client's, if the process is one of this pool's servers.
    fn blocker(&self, pid: i64) -> String {
        let own = self.look.holders.iter().find(|holder| i64::from(holder.server.key.pid) == pid);
        if let Some(own) = own {
            return format!(
                "{} (user \"{}\", application \"{}\", {})",
                own.client,
                own.user(),
                own.application(),
                own.doing.as_str()
            );
        }
        if pid == 0 {
            return "a prepared transaction".to_owned();
        }
        let Some(Blocker { user, application, state, query, .. }) = self.diagnosis.and_then(|d| d.blocker(pid)) else {
            return format!("process {pid}");
        };
        let named = |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("{name} \"{value}\""));
        let mut words: Vec<_> =
            [named("user", user), named("application", application)].into_iter().flatten().collect();
        words.extend(state.clone());
        words.extend(named("query", query).filter(|_| self.shows_text));
        format!("process {pid} ({})", words.join(", "))
    }
}

impl View<'_> {
    fn pool_blockers(&self, pool: &Pool) -> PoolJson {
        let look = holders::look(&self.admin.context, pool, self.now);
        let (waiting, since) = waiting(pool);
        let answer = pool.diagnosis(self.now);
        let shows_text = self.config.pooler.show_query_text;
        let known = Known { diagnosis: answer.as_ref().map(|answer| &answer.1), look: &look, shows_text };
        let waited = since.map_or(Duration::ZERO, |since| self.now.saturating_duration_since(since));
        PoolJson {
            database: pool.name.to_string(),
            size: pool.size(),
            waiting,
            max_wait_us: micros(waited),
            starved_by: Some(starvation::sentence(&look.starving)).filter(|text| !text.is_empty()),
            diagnosed: known.diagnosis.is_some(),
            holders: look.holders.iter().map(|holder| known.holder(holder)).collect(),
        }
    }

    /// `/api/blockers`: all pools, those with the longest wait first.
    pub(super) fn blockers_json(&self) -> Blockers {
        let mut pools: Vec<_> = self.pools.iter().map(|pool| self.pool_blockers(pool)).collect();
        pools.sort_by(|a, b| (b.max_wait_us, &a.database).cmp(&(a.max_wait_us, &b.database)));
        Blockers { pools }
    }

    /// SHOW BLOCKERS: the holders of each pool for which somebody waits, the longest first.
    pub(super) fn blockers(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let waited_for: Vec<&Arc<Pool>> = self.pools.iter().filter(|pool| waiting(pool).0 > 0).collect();
        for pool in waited_for {
            let PoolJson { database, waiting, max_wait_us, starved_by, holders, .. } = self.pool_blockers(pool);
            for holder in holders {
                rows.push(row![
                    database.clone(),
                    waiting,
                    max_wait_us,
                    holder.user,
                    holder.client,
                    holder.client_id,
                    holder.application,
                    holder.address,
                    holder.server,
                    holder.server_pid,
                    holder.held_us,
                    holder.state,
                    holder.state_us,
                    holder.pinned,
                    holder.waits_for,
                    holder.blockers.join("; "),
                    holder.query,
                    starved_by.clone(),
                ]);
            }
        }
        rows
    }
}

/// How many clients wait, and since when the first one does.
fn waiting(pool: &Pool) -> (u32, Option<Instant>) {
    pool.counts().into_iter().fold((0, None), |(n, since), (_, counts)| {
        (n + counts.waiting, [since, counts.waiting_since].into_iter().flatten().min())
    })
}
