//! The readiness audit's outcome: SHOW AUDIT and `/api/audit`.

use serde::Serialize;

use super::Admin;
use super::collect::View;
use crate::protocol::audit::judge;
use crate::stats::table::{Row, row};

/// One line, for machines.
#[derive(Serialize)]
struct Line {
    database: String,
    user: String,
    application_name: String,
    kind: &'static str,
    detail: String,
    uses: u64,
    sessions: u64,
    pins: u64,
    handling: &'static str,
    advice: &'static str,
}

/// What `/api/audit` gives.
#[derive(Serialize)]
struct Report {
    enabled: bool,
    lines: Vec<Line>,
}

impl View<'_> {
    fn audit_lines(&self) -> impl Iterator<Item = Line> {
        self.admin.context.audit.lines().into_iter().map(|line| {
            let pool = self.pools.iter().find(|pool| pool.name.as_str() == &*line.place.database);
            let (handling, advice) = judge(line.what.0, pool.is_none_or(|pool| pool.spec.load().max_pinned > 0));
            Line {
                database: line.place.database.to_string(),
                user: line.place.user.to_string(),
                application_name: line.place.application.to_string(),
                kind: line.what.0,
                detail: line.what.1.into(),
                uses: line.uses,
                sessions: line.sessions,
                pins: line.pins,
                handling: handling.as_str(),
                advice,
            }
        })
    }

    /// SHOW AUDIT.
    pub(super) fn audit(&self) -> Vec<Row> {
        let row = |l: Line| {
            row![
                l.database,
                l.user,
                l.application_name,
                l.kind,
                l.detail,
                l.uses,
                l.sessions,
                l.pins,
                l.handling,
                l.advice
            ]
        };
        self.audit_lines().map(row).collect()
    }
}

/// The JSON of `/api/audit`.
///
/// # Errors
/// None that is known.
pub fn report(admin: &Admin) -> serde_json::Result<String> {
    let view = View::new(admin);
    serde_json::to_string(&Report { enabled: view.config.pooler.audit, lines: view.audit_lines().collect() })
}
