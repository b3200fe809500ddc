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

impl Server {
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
