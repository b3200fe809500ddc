//! A console command bound to its result formats, and how far it was executed.

use super::command::Command;
use super::encode::{self, Formats};
use super::show::Show;
use crate::stats::table::{Column, Row};
use crate::wire::backend::{self, tag};

/// What Execute left.
#[derive(Debug)]
enum Progress {
    /// It was not executed.
    Bound,
    /// These rows are left.
    Suspended(std::vec::IntoIter<Row>),
    /// All is done.
    Ended,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Portal {
    pub(super) command: Command,
    formats: Formats,
    progress: Progress,
}

impl Portal {
    pub(super) const fn new(command: Command, formats: Formats) -> Self {
        Self { command, formats, progress: Progress::Bound }
    }

    /// Appends the description of its rows.
    pub(super) fn describe(&self, out: &mut Vec<u8>) {
        describe(&self.command, &self.formats, out);
    }

    /// Appends rows, at most `limit` of them (0: all), and says whether there are more. `rows` is asked the first
    /// time.
    pub(super) fn fetch(&mut self, show: Show, limit: usize, rows: impl FnOnce() -> Vec<Row>, out: &mut Vec<u8>) {
        let mut left = match std::mem::replace(&mut self.progress, Progress::Ended) {
            Progress::Bound => rows().into_iter(),
            Progress::Suspended(left) => left,
            Progress::Ended => Vec::new().into_iter(),
        };
        let limit = if limit == 0 { usize::MAX } else { limit };
        put_rows(show.columns(), left.by_ref().take(limit), &self.formats, out);
        if left.len() > 0 {
            self.progress = Progress::Suspended(left);
            backend::put_empty(out, tag::PORTAL_SUSPENDED);
        } else {
            backend::put_command_complete(out, show.tag());
        }
    }
}

/// Appends the description of a command's rows.
pub(super) fn describe(command: &Command, formats: &Formats, out: &mut Vec<u8>) {
    match command {
        Command::Show(show) => encode::put_row_description(out, show.columns(), formats),
        _ => backend::put_empty(out, tag::NO_DATA),
    }
}

/// Appends rows.
pub(super) fn put_rows(columns: &[Column], rows: impl Iterator<Item = Row>, formats: &Formats, out: &mut Vec<u8>) {
    rows.for_each(|row| encode::put_data_row(out, columns, &row, formats));
}

/// How many columns a command's rows have.
pub(super) fn columns(command: &Command) -> usize {
    match command {
        Command::Show(show) => show.columns().len(),
        _ => 0,
    }
}
