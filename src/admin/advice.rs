//! Advice on the size of pools: SHOW ADVICE, `/api/advice`, `/api/trace`, its gauges in `/metrics`, and pools that size
//! themselves.
//!
//! It is worked out on a thread apart from sessions, one question at a time, and holds for a while: however many ask,
//! it costs no more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use tracing::{info, warn};

use super::Admin;
use crate::config::Target;
use crate::net::timer;
use crate::pool::Pool;
use crate::stats::advisor::auto::{self, Memory};
use crate::stats::advisor::format;
use crate::stats::advisor::trace::Trace;
use crate::stats::advisor::{Advice, advise};
use crate::stats::prometheus::{Exposition, Type};
use crate::stats::table::{Row, Value, row};

/// How long advice holds.
const FRESH: Duration = Duration::from_secs(10);
/// The same for `/metrics`, which is asked all the time.
const FRESH_METRICS: Duration = Duration::from_secs(60);
/// Pools that there is advice on: those with the most demand.
const MOST_POOLS: usize = 20;
/// Sizes that are looked at.
const MOST_SIZE: u32 = crate::stats::advisor::advise::MOST;
/// How often pools that size themselves are looked at.
const AUTO_PERIOD: Duration = Duration::from_secs(30);
/// What these look at: the last minutes, since yesterday's demand is no reason to grow.
const AUTO_WINDOW: Duration = Duration::from_secs(120);

/// Advice on all pools, and when it was given.
#[derive(Debug)]
pub struct Report {
    at: Instant,
    target: Target,
    pools: Vec<Advice>,
}

/// What was advised last.
#[derive(Debug, Default)]
pub struct Advisor {
    last: Mutex<Option<Arc<Report>>>,
    /// Held by who works it out.
    working: tokio::sync::Mutex<()>,
}

impl Advisor {
    fn last(&self, fresh: Duration) -> Option<Arc<Report>> {
        self.last.lock().clone().filter(|report| report.at.elapsed() < fresh)
    }
}

/// The JSON of `/api/advice`.
#[derive(Serialize)]
struct Shown<'a> {
    enabled: bool,
    target: String,
    pools: Vec<ShownPool<'a>>,
}

#[derive(Serialize)]
struct ShownPool<'a> {
    #[serde(flatten)]
    advice: &'a Advice,
    /// Between which sizes the pool sizes itself.
    auto: Option<(u32, u32)>,
}

impl Admin {
    /// Advice on all pools whose demand is recorded, of now or a few seconds ago.
    pub async fn advice(&self) -> Arc<Report> {
        if let Some(report) = self.advisor.last(FRESH) {
            return report;
        }
        let _working = self.advisor.working.lock().await;
        if let Some(report) = self.advisor.last(FRESH) {
            return report;
        }
        let target = self.context.config.load().pooler.advisor_target.clone();
        let mut traces: Vec<Trace> = self.context.pools.all().iter().filter_map(|pool| pool.demand()).collect();
        traces.sort_by_key(|trace| std::cmp::Reverse(trace.len()));
        traces.truncate(MOST_POOLS);
        let pools = work_out(traces, target.clone(), MOST_SIZE).await;
        let report = Arc::new(Report { at: Instant::now(), target, pools });
        *self.advisor.last.lock() = Some(Arc::clone(&report));
        report
    }

    /// The rows of SHOW ADVICE, of the advice given last.
    pub(super) fn advice_rows(&self) -> Vec<Row> {
        let report = self.advisor.last.lock().clone();
        let of = |pool: &Arc<Pool>| report.as_ref()?.pools.iter().find(|advice| advice.database == pool.name.as_str());
        let row = |pool: Arc<Pool>| match (of(&pool), pool.spec.load().records) {
            (Some(advice), Some(_)) => advice_row(advice, report.as_ref().map(|r| r.target.to_string())),
            (None, Some(_)) => {
                silent(&pool, format!("none yet: only the {MOST_POOLS} databases with most transactions have advice"))
            }
            _ => silent(&pool, "off: advisor = true in [pooler] and RELOAD begin to record demand".to_owned()),
        };
        self.context.pools.all().into_iter().map(row).collect()
    }

    /// The JSON of `/api/advice`, of the advice given last.
    pub(super) fn advice_json(&self) -> serde_json::Result<String> {
        let report = self.advisor.last.lock().clone();
        let config = self.context.config.load();
        let pool = |advice| ShownPool { advice, auto: None };
        let mut shown = Shown {
            enabled: config.pooler.advisor,
            target: config.pooler.advisor_target.to_string(),
            pools: report.iter().flat_map(|report| &report.pools).map(pool).collect(),
        };
        shown.pools.retain_mut(|shown| {
            let pool = self.context.pools.find(&shown.advice.database);
            shown.auto = pool.as_ref().and_then(|pool| pool.auto_bounds());
            pool.is_some_and(|pool| pool.spec.load().records.is_some())
        });
        shown.pools.sort_by(|a, b| a.advice.database.cmp(&b.advice.database));
        serde_json::to_string(&shown)
    }

    /// What is recorded, for `carpool advise`.
    pub(super) async fn trace_text(&self) -> String {
        let traces: Vec<Trace> = self.context.pools.all().iter().filter_map(|pool| pool.demand()).collect();
        // Megabytes of text.
        tokio::task::spawn_blocking(move || format::write(&traces)).await.unwrap_or_default()
    }

    /// Its part of `/metrics`, of the advice given last; `label` says under which name a database stands, if it does.
    pub(super) fn advice_metrics(self: &Arc<Self>, label: impl Fn(&str) -> bool, text: &mut Exposition) {
        let records = |pool: &Arc<Pool>| pool.spec.load().records.is_some();
        if !self.context.pools.all().iter().any(records) {
            return;
        }
        if self.advisor.last(FRESH_METRICS).is_none() {
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                let admin = Arc::clone(self);
                runtime.spawn(async move { drop(admin.advice().await) });
            }
        }
        let report = self.advisor.last.lock().clone();
        let pools: Vec<&Advice> = report.iter().flat_map(|r| &r.pools).filter(|a| label(&a.database)).collect();
        let help = "The pool's size that advisor_target takes; none where there is no advice.";
        let mut family = text.family("carpool_pool_size_recommended", Type::Gauge, help);
        for advice in &pools {
            if let Some(size) = advice.recommended {
                family.sample(&[("database", &advice.database)], size);
            }
        }
        let help = "The size beyond which responses get no faster.";
        let mut family = text.family("carpool_pool_size_enough", Type::Gauge, help);
        for advice in &pools {
            if let Some(size) = advice.enough {
                family.sample(&[("database", &advice.database)], size);
            }
        }
    }
}

/// Works advice out, away from sessions.
async fn work_out(traces: Vec<Trace>, target: Target, most: u32) -> Vec<Advice> {
    let work = move || traces.iter().map(|trace| advise(trace, &target, most)).collect();
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        warn!("no advice on pools: {error}");
        Vec::new()
    })
}

fn silent(pool: &Pool, verdict: String) -> Row {
    let mut row = vec![Value::Null; 15];
    row[0] = pool.name.to_string().into();
    row[1] = pool.size().into();
    row[14] = verdict.into();
    row
}

fn advice_row(advice: &Advice, target: Option<String>) -> Row {
    let at = |size: u32| advice.sizes.get(size.saturating_sub(1) as usize).map(|s| s.wait_p99_us);
    row![
        advice.database.clone(),
        advice.size,
        advice.recommended,
        advice.low,
        advice.high,
        advice.enough,
        target,
        advice.measured.wait_p50_us,
        advice.measured.wait_p99_us,
        advice.recommended.and_then(at),
        (advice.measured.utilization * 100.0).round() as u64,
        advice.trace.transactions,
        advice.trace.seconds.round() as u64,
        advice.contention.model,
        advice.verdict.clone(),
    ]
}

/// Looks after pools that size themselves.
pub async fn size_pools(admin: Arc<Admin>) {
    let begun = Instant::now();
    let mut memories: HashMap<String, Memory> = HashMap::new();
    loop {
        let delay = admin.context.config.load().pooler.auto_pool_size_delay;
        timer::sleep(AUTO_PERIOD.min(delay.max(Duration::from_secs(1)))).await;
        let pools: Vec<Arc<Pool>> =
            admin.context.pools.all().into_iter().filter(|pool| pool.auto_bounds().is_some()).collect();
        memories.retain(|name, _| pools.iter().any(|pool| pool.name.as_str() == name));
        for pool in pools {
            let (Some(bounds), Some(mut trace)) = (pool.auto_bounds(), pool.demand()) else { continue };
            trace.keep_last(u64::try_from(AUTO_WINDOW.as_micros()).unwrap_or(u64::MAX));
            let target = admin.context.config.load().pooler.advisor_target.clone();
            let Some(advice) = work_out(vec![trace], target, bounds.1).await.pop() else { continue };
            let memory = memories.entry(pool.name.to_string()).or_default();
            let size = pool.size();
            let change = auto::decide(memory, &advice, size, bounds, begun.elapsed(), delay);
            if let Some(auto::Change { size: new, reason }) = change {
                info!(database = %pool.name, "pool_size: {size} -> {new}, {reason}");
                pool.set_size(new);
            }
        }
    }
}
