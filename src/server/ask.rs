//! Questions of Carpool's own with parameters and rows: on a server that no client's state can be on.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::{QueryError, Server, next_message};
use crate::net::timer;
use crate::protocol::pipeline::{Kind, Request, ServerUndo};
use crate::protocol::settings::SettingsTable;
use crate::wire::backend::{self, tag};
use crate::wire::frame::FrameError;
use crate::wire::frontend;

/// A row in text format; `None` is NULL.
pub type Row = Vec<Option<Vec<u8>>>;

/// Rows that are kept; further ones are read and dropped.
const MOST_ROWS: usize = 2;

impl Server {
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
        self.state.pipeline.push(Request::skip(Kind::Sync, ServerUndo::None));
        self.stream.write_all(&message).await?;
        let (mut rows, mut refused) = (Vec::new(), None);
        let mut buf = std::mem::take(&mut self.carry);
        loop {
            let (header, body) = next_message(&mut self.stream, &mut buf).await?;
            match header.tag {
                tag::READY_FOR_QUERY => {
                    let status = backend::ready_for_query(&body)?;
                    self.state.pipeline.ready(status).map_err(|_| FrameError::Body(tag::READY_FOR_QUERY))?;
                    self.state.settle();
                    break;
                }
                tag::DATA_ROW if rows.len() < MOST_ROWS => rows.push(backend::data_row(&body)?),
                tag::ERROR_RESPONSE => {
                    let text = |field| {
                        String::from_utf8_lossy(backend::error_field(&body, field).unwrap_or_default()).into_owned()
                    };
                    refused = Some(QueryError::Refused { code: text(b'C'), message: text(b'M') });
                }
                tag::PARAMETER_STATUS => self.note_parameter(&body, settings)?,
                _ => {}
            }
        }
        self.carry = buf;
        refused.map_or(Ok(rows), Err)
    }
}
