//! What the console's commands give.

use super::{Carpool, Message, Raw};

/// The rows of a console command by the names of their columns.
pub fn rows(carpool: &Carpool, command: &str) -> Vec<Vec<(String, String)>> {
    let mut console = Raw::login(carpool.port, "postgres", "pgbouncer");
    let replies = console.query(command);
    let head = replies.iter().find(|m| m.tag == b'T').unwrap_or_else(|| panic!("{replies:?}"));
    let mut rest = &head.body[2..];
    let mut names = Vec::new();
    while let Some(end) = rest.iter().position(|&b| b == 0) {
        names.push(String::from_utf8_lossy(&rest[..end]).into_owned());
        rest = &rest[end + 19..];
    }
    let row = |m: &Message| names.iter().cloned().zip(m.columns().into_iter().map(Option::unwrap_or_default)).collect();
    replies.iter().filter(|m| m.tag == b'D').map(row).collect()
}

/// A row's value in a column.
pub fn value<'r>(row: &'r [(String, String)], column: &str) -> &'r str {
    &row.iter().find(|(name, _)| name == column).unwrap_or_else(|| panic!("no {column} in {row:?}")).1
}
