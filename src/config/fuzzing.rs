//! Whole configurations from texts, for fuzzing. What would read other files or run commands is passed over.

use std::path::Path;

use super::report::Report;
use super::{Format, build, ini as ini_file, toml_file, userlist};

/// Words of what reaches out of the text.
const OUTWARD: [&str; 4] = ["command", "file", "include", "env"];

/// Carpool's format.
pub(crate) fn toml(text: &str) {
    let path = Path::new("fuzz.toml");
    let mut report = Report::new(path);
    let document = toml_file::parse(text, path, &mut report);
    if let (Some(document), true) = (document, is_closed(text)) {
        let _ = build::build(document, Format::Toml, report);
    }
}

/// PgBouncer's format.
pub(crate) fn ini(text: &str) {
    if !is_closed(text) {
        return;
    }
    let path = Path::new("fuzz.ini");
    let mut report = Report::new(path);
    if let Some(document) = ini_file::parse(text, path, &mut report) {
        let _ = build::build(document, Format::Ini, report);
    }
}

/// PgBouncer's `auth_file`.
pub(crate) fn userlist(text: &str) {
    let _ = userlist::parse(text);
}

/// Escapes could spell the words otherwise.
fn is_closed(text: &str) -> bool {
    !text.contains('\\') && !OUTWARD.iter().any(|word| text.contains(word))
}
