//! Where the time of transactions and statements goes: SHOW WAITS, SHOW STATEMENTS, `/api/waits`, `/api/statements` and
//! their part of `/metrics`.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use super::Admin;
use super::collect::View;
use super::show::Show;
use crate::stats::prometheus::{Exposition, Type, seconds};
use crate::stats::rows;
use crate::stats::statements::Data;
use crate::stats::table::{Row, Value, row};
use crate::stats::waits::{Part, Parts, Summary, Sums};

/// What those see of a text who may not read it: PostgreSQL's words.
const HIDDEN: &str = "<insufficient privilege>";
/// The upper ends of the buckets in `/metrics`, as powers of 2, microseconds: 128 µs to 134 s.
const EXPONENTS: [u32; 11] = [7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27];

/// What groups are told apart by, and how they are called.
type Key = (&'static str, String, String);

/// One group, for machines.
#[derive(Serialize)]
struct Group {
    by: &'static str,
    database: String,
    name: String,
    transactions: u64,
    #[serde(flatten)]
    parts: BTreeMap<&'static str, Summary>,
}

/// What `/api/waits` gives.
#[derive(Serialize)]
struct WaitsReport {
    tracking: bool,
    since_s: f64,
    groups: Vec<Group>,
}

/// One statement, for machines.
#[derive(Serialize)]
struct Statement {
    database: String,
    user: String,
    query: String,
    calls: u64,
    mean_us: u64,
    p99_us: u64,
    total_us: BTreeMap<&'static str, u64>,
}

/// What `/api/statements` gives.
#[derive(Serialize)]
struct StatementsReport {
    tracking: bool,
    left_out: u64,
    statements: Vec<Statement>,
}

/// All sums, by database (`pool`), user and application of it; databases are called by `label`.
fn groups(admin: &Admin, label: impl Fn(&str) -> String) -> BTreeMap<Key, Sums> {
    let mut groups: BTreeMap<Key, Sums> = BTreeMap::new();
    for (place, sums) in admin.context.waits.read() {
        let database = label(&place.database);
        let names = [("pool", database.as_str()), ("user", &*place.user), ("application", &*place.application)];
        for (by, name) in names {
            groups.entry((by, database.clone(), name.to_owned())).or_default().add(&sums);
        }
    }
    groups
}

/// Pools first, then users, then applications.
const ORDER: [&str; 3] = ["pool", "user", "application"];

fn ordered(groups: &BTreeMap<Key, Sums>) -> impl Iterator<Item = (&Key, &Sums)> {
    ORDER.into_iter().flat_map(|by| groups.iter().filter(move |((b, ..), _)| *b == by))
}

impl View<'_> {
    /// SHOW WAITS.
    pub(super) fn waits(&self) -> Vec<Row> {
        let row = |((by, database, name), sums): (&Key, &Sums)| {
            let mut row = row![*by, database.clone(), name.clone(), sums.transactions];
            for part in Part::ALL {
                let Summary { total_us, p50_us, p99_us } = sums.summary(part);
                row.extend(row![total_us, p50_us, p99_us]);
            }
            row
        };
        ordered(&groups(self.admin, str::to_owned)).map(row).collect()
    }

    /// SHOW STATEMENTS.
    pub(super) fn statements(&self) -> Vec<Row> {
        let row = |data: Data| {
            let (mean, p99) = (data.mean(), data.p99());
            let mut row = row![data.database.to_string(), data.user.to_string(), String::from(data.query), data.calls];
            row.extend(row![data.total.total(), mean, p99]);
            row.extend(Part::ALL.map(|part| Value::from(data.total.get(part))));
            row
        };
        self.admin.context.statements.read().into_iter().map(row).collect()
    }
}

/// Takes from these rows what `reader` may not see, who is no admin: as in pg_stat_statements, the texts of others.
pub(super) fn hide(show: Show, mut rows: Vec<Row>, reader: &str) -> Vec<Row> {
    if show == Show::Statements {
        let at = |name| rows::STATEMENTS.iter().position(|column| column.name == name);
        let (Some(user), Some(query)) = (at("user"), at("query")) else { return Vec::new() };
        for row in rows.iter_mut().filter(|row| row[user] != Value::from(reader.to_owned())) {
            row[query] = HIDDEN.into();
        }
    }
    rows
}

/// What is to be said beside the rows: that nothing is kept, or not all.
pub(super) fn remark(show: Show, admin: &Admin) -> Option<String> {
    let config = admin.context.config.load();
    let pooler = &config.pooler;
    match (show, admin.context.statements.counts().1) {
        (Show::Waits, _) if !pooler.track_waits && !pooler.track_statements => Some("track_waits is off".into()),
        (Show::Statements, _) if !pooler.track_statements => Some("track_statements is off".into()),
        (Show::Statements, left_out @ 1..) => Some(format!("{left_out} statements that were used least are left out")),
        _ => None,
    }
}

/// Begins anew. Gives the tag of the answer.
pub(super) fn reset(admin: &Admin) -> &'static str {
    admin.context.waits.reset(Instant::now());
    admin.context.statements.reset();
    "RESET_WAITS"
}

/// The JSON of `/api/waits`.
///
/// # Errors
/// None that is known.
pub fn report(admin: &Admin) -> serde_json::Result<String> {
    let view = View::new(admin);
    let all = groups(admin, str::to_owned);
    let group = |((by, database, name), sums): (&Key, &Sums)| Group {
        by,
        database: database.clone(),
        name: name.clone(),
        transactions: sums.transactions,
        parts: Part::ALL.into_iter().map(|part| (part.name(), sums.summary(part))).collect(),
    };
    serde_json::to_string(&WaitsReport {
        tracking: view.config.pooler.track_waits || view.config.pooler.track_statements,
        since_s: admin.context.waits.since().unwrap_or(admin.context.started).elapsed().as_secs_f64(),
        groups: ordered(&all).map(group).collect(),
    })
}

/// The JSON of `/api/statements`. Texts, though without constants, are for admins and those on this host.
///
/// # Errors
/// None that is known.
pub fn statements(admin: &Admin, is_told: bool) -> serde_json::Result<String> {
    let by_part = |parts: &Parts| Part::ALL.into_iter().map(|part| (part.name(), parts.get(part))).collect();
    let statement = |data: Data| Statement {
        calls: data.calls,
        mean_us: data.mean(),
        p99_us: data.p99(),
        total_us: by_part(&data.total),
        database: data.database.to_string(),
        user: data.user.to_string(),
        query: if is_told { data.query.into() } else { HIDDEN.into() },
    };
    serde_json::to_string(&StatementsReport {
        tracking: admin.context.config.load().pooler.track_statements,
        left_out: admin.context.statements.counts().1,
        statements: admin.context.statements.read().into_iter().map(statement).collect(),
    })
}

/// Its part of `/metrics`.
pub(super) fn metrics(admin: &Admin, label: impl Fn(&str) -> String, text: &mut Exposition) {
    let groups = groups(admin, label);
    let pools = || groups.iter().filter(|((by, ..), _)| *by == "pool");
    let others = || groups.iter().filter(|((by, ..), _)| *by != "pool");
    let help = "Where the time of transactions went (track_waits).";
    let mut parts = text.family("carpool_transaction_part_seconds", Type::Histogram, help);
    for ((_, database, _), sums) in pools() {
        for part in Part::ALL {
            let labels = [("database", database.as_str()), ("part", part.name())];
            parts.buckets(&labels, sums.below(part, &EXPONENTS), sums.transactions, sums.total().get(part));
        }
    }
    let help = "Transactions by user and application (track_waits).";
    let mut transactions = text.family("carpool_group_transactions_total", Type::Counter, help);
    for ((by, database, name), sums) in others() {
        transactions.sample(&[("database", database), ("by", by), ("name", name)], sums.transactions);
    }
    let help = "Where their time went, by user and application (track_waits).";
    let mut times = text.family("carpool_group_part_seconds_total", Type::Counter, help);
    for ((by, database, name), sums) in others() {
        for part in Part::ALL {
            let labels = [("database", database.as_str()), ("by", by), ("name", name), ("part", part.name())];
            times.sample(&labels, seconds(sums.total().get(part)));
        }
    }
    let (known, left_out) = admin.context.statements.counts();
    text.family("carpool_statements", Type::Gauge, "Normalized statements that are kept (track_statements).")
        .sample(&[], known);
    let help = "Statements that were used least and made way for others (track_statements).";
    text.family("carpool_statements_left_out_total", Type::Counter, help).sample(&[], left_out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::tests::Stand;
    use crate::stats::audit::Place;

    fn stand() -> Stand {
        let stand = Stand::new(&["app"]);
        let context = &stand.admin.context;
        let mut parts = Parts::default();
        parts.add(Part::Server, 100);
        parts.add(Part::Queue, 50);
        for (database, user, application) in [
            ("app", "anna", "web"),
            ("app", "anna", "jobs"),
            ("app", "otto", "web"),
            ("x1", "otto", "web"),
            ("x2", "u\"", ""),
        ] {
            let place = Place { database: database.into(), user: user.into(), application: application.into() };
            context.waits.group(place).count(&parts);
        }
        for (key, user) in [(1, "anna"), (2, "otto")] {
            context.statements.entry(key, || Data::new("app", user, format!("select {user}"))).count(&parts);
        }
        stand
    }

    #[test]
    fn groups_are_summed_by_pool_user_and_application() {
        let json: serde_json::Value = serde_json::from_str(&report(&stand().admin).unwrap()).unwrap();
        assert_eq!(json["tracking"], false);
        let groups = json["groups"].as_array().unwrap();
        let of = |by: &str, database: &str, name: &str| {
            let found = groups.iter().find(|g| g["by"] == by && g["database"] == database && g["name"] == name);
            found.unwrap_or_else(|| panic!("{by} {database} {name}"))
        };
        assert_eq!(of("pool", "app", "app")["transactions"], 3);
        assert_eq!(of("user", "app", "anna")["transactions"], 2);
        assert_eq!(of("application", "app", "web")["server"]["total_us"], 200);
        assert_eq!(of("application", "app", "web")["queue"]["p50_us"], 51, "of a bucket");
        assert_eq!(of("application", "x1", "web")["transactions"], 1);
        assert_eq!(of("pool", "x2", "x2")["client"]["total_us"], 0);
        assert_eq!(groups[0]["by"], "pool");
    }

    #[test]
    fn databases_of_the_fallback_share_one_label() {
        let mut text = Exposition::default();
        metrics(&stand().admin, |name| if name == "app" { name.into() } else { "*".into() }, &mut text);
        let text = text.finish();
        for line in [
            "carpool_transaction_part_seconds_count{database=\"*\",part=\"server\"} 2\n",
            "carpool_transaction_part_seconds_bucket{database=\"app\",part=\"server\",le=\"0.000128\"} 3\n",
            "carpool_transaction_part_seconds_bucket{database=\"app\",part=\"replay\",le=\"+Inf\"} 3\n",
            "carpool_transaction_part_seconds_sum{database=\"app\",part=\"queue\"} 0.00015\n",
            "carpool_group_transactions_total{database=\"*\",by=\"user\",name=\"u\\\"\"} 1\n",
            "carpool_statements 2\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }

    #[test]
    fn texts_of_others_are_for_admins() {
        let stand = stand();
        let rows = || Show::Statements.rows(&stand.admin);
        let texts = |rows: Vec<Row>| {
            let mut texts: Vec<_> = rows.iter().map(|row| format!("{:?}", row[2])).collect();
            texts.sort();
            texts
        };
        assert_eq!(texts(rows()), ["Text(\"select anna\")", "Text(\"select otto\")"]);
        assert_eq!(
            texts(hide(Show::Statements, rows(), "anna")),
            [format!("Text({HIDDEN:?})"), "Text(\"select anna\")".into()]
        );
        assert!(statements(&stand.admin, true).unwrap().contains("select otto"));
        assert!(!statements(&stand.admin, false).unwrap().contains("select "));
        assert_eq!(remark(Show::Statements, &stand.admin).as_deref(), Some("track_statements is off"));
        reset(&stand.admin);
        assert!(rows().is_empty() && Show::Waits.rows(&stand.admin).is_empty());
    }
}
