//! Reads Carpool's own format.

use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::{Document, Raw, Section, read_text};
use super::report::{KeyPath, Place, Report};

/// The sections that there are.
const SECTIONS: [&str; 4] = ["pooler", "databases", "users", "peers"];

/// Reads a file; `None` when nothing can be said of what it means.
pub(super) fn load(path: &Path, report: &mut Report) -> Option<Document> {
    match read_text(path) {
        Ok(text) => parse(&text, path, report),
        Err(message) => {
            report.error(&KeyPath::default(), message);
            None
        }
    }
}

/// Reads a text that stands in `file`; `None` when it isn't TOML.
pub(super) fn parse(text: &str, file: &Path, report: &mut Report) -> Option<Document> {
    let mut reader = Reader { lines: Lines::new(text), file: file.into(), report };
    let (top, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let place = reader.place(error.span().map_or(text.len(), |span| span.start));
        // The message is the grammar's; the line itself isn't shown, as there may be a password in it.
        reader.report.error_at(&place, &KeyPath::default(), error.message());
    }
    if !errors.is_empty() {
        return None;
    }
    if top.get_ref().is_empty() {
        reader.report.error(&KeyPath::default(), "is empty: expected at least a section [pooler] or [databases.NAME]");
        return None;
    }
    let mut document = Document::default();
    for (key, value) in top.get_ref() {
        let path = reader.key(&KeyPath::default(), key);
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("pooler", DeValue::Table(table)) => document.pooler = reader.section(&path, table),
            ("databases", DeValue::Table(table)) => document.databases = reader.sections(&path, table).collect(),
            ("users", DeValue::Table(table)) => document.users = reader.sections(&path, table).collect(),
            ("peers", DeValue::Table(table)) => document.peers = reader.sections(&path, table).collect(),
            (name, _) if SECTIONS.contains(&name) => reader.report.error(&path, "expected a section"),
            (name, _) => {
                let hint = super::build::nearest(name, SECTIONS.into_iter())
                    .or_else(|| super::settings::POOLER.iter().any(|s| s.name == name).then_some("pooler"))
                    .map_or_else(String::new, |near| format!("; did you mean [{near}]?"));
                reader.report.error(&path, format!("unknown section{hint}"));
            }
        }
    }
    Some(document)
}

struct Reader<'r> {
    lines: Lines,
    file: Arc<Path>,
    report: &'r mut Report,
}

impl Reader<'_> {
    fn place(&self, offset: usize) -> Place {
        Place { file: Arc::clone(&self.file), line: self.lines.of(offset) }
    }

    /// Notes a key's place.
    fn key(&mut self, above: &KeyPath, key: &Spanned<std::borrow::Cow<'_, str>>) -> KeyPath {
        let path = above.join(key.get_ref());
        self.report.found(path.clone(), self.place(key.span().start));
        path
    }

    fn section(&mut self, path: &KeyPath, table: &DeTable<'_>) -> Section {
        let read = |(key, value): (&Spanned<std::borrow::Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
            self.key(path, key);
            (key.get_ref().clone().into_owned(), raw(value.get_ref()))
        };
        table.iter().map(read).collect()
    }

    fn sections(&mut self, path: &KeyPath, table: &DeTable<'_>) -> impl Iterator<Item = (String, Section)> {
        let mut sections = Vec::new();
        for (key, value) in table {
            let path = self.key(path, key);
            match value.get_ref() {
                DeValue::Table(table) => {
                    sections.push((key.get_ref().clone().into_owned(), self.section(&path, table)));
                }
                _ => self.report.error(&path, format!("expected a section [{path}]")),
            }
        }
        sections.into_iter()
    }
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.clone().into_owned()),
        DeValue::Integer(integer) => {
            let text = integer.as_str();
            let nearest = if text.starts_with('-') { i64::MIN } else { i64::MAX };
            let value = i64::from_str_radix(text, integer.radix()).unwrap_or(nearest);
            Raw::Integer { value, decimal: integer.radix() == 10 }
        }
        DeValue::Float(float) => Raw::Float(float.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => Raw::Flag(*flag),
        DeValue::Datetime(_) => Raw::Date,
        DeValue::Array(items) => Raw::List(items.iter().map(|item| raw(item.get_ref())).collect()),
        DeValue::Table(table) => {
            let entries = table.iter().map(|(k, v)| (k.get_ref().clone().into_owned(), raw(v.get_ref())));
            Raw::Table(entries.collect())
        }
    }
}

/// Where the lines of a text start.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at).collect())
    }

    /// The line of a byte, from 1.
    fn of(&self, offset: usize) -> usize {
        1 + self.0.partition_point(|line_end| *line_end < offset)
    }
}
