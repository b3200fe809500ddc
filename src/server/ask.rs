//! Questions of Carpool's own with parameters and rows: on a server that no client's state can be on.

use std::time::Duration;

use super::{QueryError, Server};
use crate::config::Role;
use crate::net::timer;
use crate::protocol::pipeline::Kind;
use crate::protocol::settings::SettingsTable;
use crate::wire::backend::{self, tag};
use crate::wire::frontend;

/// A row in text format; `None` is NULL.
pub type Row = Vec<Option<Vec<u8>>>;

/// Rows that are kept; further ones are read and dropped.
const MOST_ROWS: usize = 2;

/// What a server is that doesn't report it, as libpq asks for it.
const ROLE: &str = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only')";

/// What a health check asks.
const STANDING: &str = "SELECT r.standby, \
     CASE WHEN r.standby THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END, \
     CASE WHEN r.standby THEN (SELECT pg_catalog.to_hex(greatest(c.timeline_id, m.min_recovery_end_timeline)) \
     FROM pg_catalog.pg_control_checkpoint() c, pg_catalog.pg_control_recovery() m) ELSE \
     pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8) END, \
     (SELECT s.system_identifier FROM pg_catalog.pg_control_system() s), \
     CASE WHEN r.standby THEN pg_catalog.date_part('epoch', \
     pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp()) END, \
     r.standby AND pg_catalog.pg_last_wal_receive_lsn() = pg_catalog.pg_last_wal_replay_lsn() \
     AND EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver), \
     CASE WHEN r.standby THEN (SELECT pg_catalog.to_hex(greatest(w.receive_start_tli, w.received_tli)) \
     FROM pg_catalog.pg_stat_wal_receiver w) END \
     FROM (SELECT pg_catalog.pg_is_in_recovery() AS standby) r";

/// Where a server stands: what a health check wants to know. What isn't told is `None`.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Standing {
    /// It is in recovery.
    pub standby: bool,
    /// The end of a primary's write-ahead log, or how far a standby has replayed it, bytes.
    pub position: Option<u64>,
    /// A primary's timeline, or one that a standby has reached: its control file may know of a new one minutes later.
    pub timeline: Option<u32>,
    /// The timeline that a standby is sent, which only roles with `pg_read_all_stats` are told.
    pub upstream: Option<u32>,
    /// The cluster's `system_identifier`.
    pub system: Option<u64>,
    /// How long ago the commit was that a standby has replayed last.
    pub replayed: Option<Duration>,
    /// A standby receives, and has replayed all of that.
    pub caught_up: bool,
}

impl Standing {
    fn read(row: &Row) -> Self {
        let text = |at: usize| std::str::from_utf8(row.get(at)?.as_deref()?).ok();
        let hex = |at| text(at).and_then(|text| u32::from_str_radix(text, 16).ok());
        Self {
            standby: text(0) == Some("t"),
            position: text(1).and_then(position),
            timeline: hex(2),
            upstream: hex(6),
            system: text(3).and_then(|text| text.parse().ok()),
            replayed: text(4).and_then(seconds),
            caught_up: text(5) == Some("t"),
        }
    }
}

/// By clocks that don't agree it may be in the future.
fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.parse().ok()?;
    Duration::try_from_secs_f64(if seconds < 0.0 { 0.0 } else { seconds }).ok()
}

/// A `pg_lsn`: two numbers in hexadecimal.
fn position(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let part = |text: &str| u32::from_str_radix(text, 16).ok().map(u64::from);
    Some(part(high)? << 32 | part(low)?)
}

impl Server {
    /// Asks where it stands; of a server that doesn't let this role know, no more than its role.
    ///
    /// # Errors
    /// As [`Server::ask`].
    pub async fn ask_standing(&mut self, settings: &SettingsTable, timeout: Duration) -> Result<Standing, QueryError> {
        match self.ask(STANDING, &[], settings, timeout).await {
            Err(QueryError::Refused { code, .. }) if code == "42501" || code == "42883" => {
                let standby = self.ask_role(settings, timeout).await?.standby;
                Ok(Standing { standby, ..Standing::default() })
            }
            answer => Ok(Standing::read(answer?.first().unwrap_or(&Row::new()))),
        }
    }

    /// Asks whether it is a primary or a standby.
    ///
    /// # Errors
    /// As [`Server::ask`].
    pub async fn ask_role(&mut self, settings: &SettingsTable, timeout: Duration) -> Result<Role, QueryError> {
        let rows = self.ask(ROLE, &[], settings, timeout).await?;
        let is = |at: usize, word: &[u8]| {
            rows.first().and_then(|row| row.get(at)).and_then(Option::as_deref).is_some_and(|value| value == word)
        };
        let standby = is(0, b"t");
        Ok(Role { standby, read_only: standby || is(1, b"on") })
    }

    /// Runs one statement with text parameters `$1`, `$2`, … on a server at a message boundary, and gives the first
    /// rows, two at most.
    ///
    /// # Errors
    /// After any but [`QueryError::Refused`] the server must be closed.
    pub async fn ask(
        &mut self,
        sql: &str,
        parameters: &[&str],
        settings: &SettingsTable,
        timeout: Duration,
    ) -> Result<Vec<Row>, QueryError> {
        let run = self.run_question(sql, parameters, settings);
        timer::timeout(timeout, run).await.unwrap_or(Err(QueryError::Timeout(timeout)))
    }

    async fn run_question(
        &mut self,
        sql: &str,
        parameters: &[&str],
        settings: &SettingsTable,
    ) -> Result<Vec<Row>, QueryError> {
        let mut message = Vec::new();
        frontend::put_question(&mut message, sql, parameters);
        self.state.statements.unnamed = None;
        let mut rows = Vec::new();
        let each = |tag, body: &[u8]| {
            if tag == tag::DATA_ROW && rows.len() < MOST_ROWS {
                rows.push(backend::data_row(body)?);
            }
            Ok(())
        };
        self.exchange(&message, Kind::Sync, settings, each).await?;
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(columns: [Option<&str>; 7]) -> Standing {
        Standing::read(&columns.iter().map(|column| column.map(|text| text.as_bytes().to_vec())).collect())
    }

    #[test]
    fn where_a_server_stands() {
        let primary =
            read([Some("f"), Some("2/1F"), Some("0000000A"), Some("7300000000000000001"), None, Some("f"), None]);
        assert!(!primary.standby);
        assert_eq!(
            (primary.position, primary.timeline, primary.system),
            (Some(0x2_0000_001f), Some(10), Some(7_300_000_000_000_000_001))
        );
        assert_eq!((primary.replayed, primary.caught_up, primary.upstream), (None, false, None));
        let standby = read([Some("t"), Some("0/0"), Some("b"), None, Some("1.5"), Some("t"), Some("1f")]);
        assert_eq!((standby.timeline, standby.upstream), (Some(11), Some(31)));
        assert!(standby.standby);
        assert_eq!((standby.position, standby.replayed), (Some(0), Some(Duration::from_millis(1500))));
        assert!(standby.caught_up);
        let odd = read([Some("t"), Some("0"), Some("x"), Some(""), Some("-3"), None, None]);
        assert_eq!((odd.position, odd.timeline, odd.system), (None, None, None));
        assert_eq!((odd.replayed, odd.caught_up), (Some(Duration::ZERO), false));
        assert_eq!(read([Some("f"), None, None, None, Some("NaN"), None, None]).replayed, None);
    }
}
