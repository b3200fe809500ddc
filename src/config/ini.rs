//! Reads PgBouncer's format, with its rules of quoting, comments and `%include`.
//!
//! What a file may say is PgBouncer's (`doc/config.md`, "Description", "Section \[databases\]", "Include directive").
//! Unlike there, all errors are found, not the first one alone.

mod connection_string;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::document::{Document, Raw, Section, read_text, unquote};
use super::report::{KeyPath, Place, Report};
use super::{Format, build, foreign, sections};

/// How deep files may include others, as in PgBouncer.
const MOST_INCLUDES: usize = 10;

/// A line of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Item {
    /// `[name]`.
    Section(String),
    /// `key = value`.
    Pair(String, String),
    /// `%include path`.
    Include(String),
    /// Anything else; what is wrong with it.
    Broken(&'static str),
}

/// Reads a file and those that it includes; `None` when it can't be read.
pub(super) fn load(path: &Path, report: &mut Report) -> Option<Document> {
    match read_text(path) {
        Ok(text) => parse(&text, path, report),
        Err(message) => {
            report.error(&KeyPath::default(), message);
            None
        }
    }
}

/// Reads a text that stands in `file`.
///
/// It is `Some` whatever the text, as each line can be told from the others.
pub(super) fn parse(text: &str, file: &Path, report: &mut Report) -> Option<Document> {
    let document = Document::default();
    let mut reader = Reader { document, section: None, has_main: false, files: Vec::new(), report };
    reader.file(file, text);
    if !reader.has_main {
        reader.report.error(&KeyPath::default(), "has no section [pgbouncer]");
    }
    Some(reader.document)
}

struct Reader<'r> {
    document: Document,
    /// The section that keys are read into; it goes on into included files and back out.
    section: Option<String>,
    has_main: bool,
    /// The files that are being read, the innermost last.
    files: Vec<PathBuf>,
    report: &'r mut Report,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, text: &str) {
        self.files.push(path.to_owned());
        let file: Arc<Path> = path.into();
        for (line, item) in items(text) {
            let place = Place { file: Arc::clone(&file), line };
            match item {
                Item::Section(name) => self.start_section(name, &place),
                Item::Pair(key, value) => self.pair(&key, &value, place),
                Item::Include(path) => self.include(Path::new(&path), &place),
                Item::Broken(message) => self.report.error_at(&place, &KeyPath::default(), message),
            }
        }
        self.files.pop();
    }

    fn include(&mut self, path: &Path, place: &Place) {
        let mut wrong = |message: &str| {
            let message = format!("%include {}: {message}", path.display());
            self.report.error_at(place, &KeyPath::default(), message);
        };
        if self.files.len() > MOST_INCLUDES || self.files.iter().any(|file| file == path) {
            return wrong("files include each other, or too deep");
        }
        match read_text(path) {
            Ok(text) => self.file(path, &text),
            Err(message) => wrong(&message),
        }
    }

    fn start_section(&mut self, name: String, place: &Place) {
        let path = KeyPath::top(&name);
        match name.as_str() {
            // PgBouncer sets all of its settings back to their defaults at each start of this section.
            "pgbouncer" => {
                self.has_main = true;
                if !self.document.pooler.is_empty() {
                    self.report.found(path.clone(), place.clone());
                    self.report.warn(&path, "starts again: settings above this line are back at their defaults");
                    self.document.pooler.clear();
                }
            }
            "databases" | "users" | "peers" => {}
            name => {
                let near = match name {
                    // Its name in TOML.
                    "pooler" => Some("pgbouncer"),
                    name => build::nearest(name, ["pgbouncer", "databases", "users", "peers"].into_iter()),
                };
                let hint = near.map_or_else(String::new, |near| format!("; did you mean [{near}]?"));
                self.report.error_at(place, &path, format!("unknown section{hint}"));
            }
        }
        self.section = Some(name);
    }

    fn pair(&mut self, key: &str, value: &str, place: Place) {
        let Some(section) = self.section.as_deref() else {
            return self.report.error_at(&place, &KeyPath::top(key), "stands before the first [section]");
        };
        let path = KeyPath::top(section).join(key);
        self.report.found(path.clone(), place);
        match section {
            "pgbouncer" => {
                let pooler = &mut self.document.pooler;
                pooler.retain(|(earlier, _)| earlier != key);
                pooler.push((key.to_owned(), Raw::Text(value.to_owned())));
            }
            "databases" | "users" | "peers" => {
                let sections = match section {
                    "databases" => &mut self.document.databases,
                    "users" => &mut self.document.users,
                    _ => &mut self.document.peers,
                };
                match section_of(value) {
                    Ok(settings) => drop(sections.insert(key.to_owned(), settings)),
                    Err(message) => self.report.error(&path, message),
                }
            }
            // An unknown section is one error, not one for each of its keys.
            _ => {}
        }
    }
}

/// The settings of a database, user or peer; a key given twice has its last value, as in PgBouncer.
fn section_of(value: &str) -> Result<Section, String> {
    let mut section = Section::new();
    for (key, value) in connection_string::parse(value, is_known)? {
        section.retain(|(earlier, _)| *earlier != key);
        section.push((key, Raw::Text(value)));
    }
    Ok(section)
}

/// Whether a database has such a setting.
fn is_known(key: &str) -> bool {
    sections::DATABASE.iter().any(|setting| setting.is_named(key, Format::Ini))
        || foreign::find(foreign::DATABASE, key).is_some()
}

/// The lines of a text that say something, with their numbers.
fn items(text: &str) -> Vec<(usize, Item)> {
    let mut items = Vec::new();
    for (index, line) in text.split('\n').enumerate() {
        let mut rest = line.trim();
        // After `[section]` a line goes on.
        while !rest.is_empty() && !rest.starts_with(['#', ';']) {
            let (item, behind) = item(rest);
            items.push((index + 1, item));
            rest = behind.trim_start();
        }
    }
    items
}

fn item(line: &str) -> (Item, &str) {
    if let Some(path) = line.strip_prefix("%include").filter(|path| path.starts_with([' ', '\t'])) {
        return (Item::Include(path.trim().to_owned()), "");
    }
    if let Some(section) = line.strip_prefix('[') {
        return match section.split_once(']') {
            Some((name, behind)) => (Item::Section(name.to_owned()), behind),
            None => (Item::Broken("a section without its ]"), ""),
        };
    }
    let pair = key(line).and_then(|(key, behind)| Some((key, behind.trim_start().strip_prefix('=')?)));
    match pair {
        Some((key, value)) => (Item::Pair(key, value.trim().to_owned()), ""),
        // The line isn't shown: it may have a password in it.
        None => (Item::Broken("expected key = value, [section], %include or a comment"), ""),
    }
}

/// A key at the start of a line: letters, digits and `_.-*`, or anything in quotes.
fn key(line: &str) -> Option<(String, &str)> {
    let Some(quote) = line.chars().next().filter(|c| matches!(c, '\'' | '"')) else {
        let end = line.find(|c: char| !(c.is_alphanumeric() || "_.-*".contains(c))).unwrap_or(line.len());
        return (end > 0).then(|| (line[..end].to_owned(), &line[end..]));
    };
    let (key, behind) = unquote(line, quote)?;
    (!key.is_empty()).then_some((key, behind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair(key: &str, value: &str) -> Item {
        Item::Pair(key.into(), value.into())
    }

    #[test]
    fn lines_of_all_sorts() {
        let text = "; comment\n# another\n\n  [databases] ; here too\r\n\
                    app=host=a port=1 ; not a comment\n* = host=b\n'with space' = x\n\"double \"\"quoted\"\"\" = y\n\
                    [users] bob = pool_size=1\n%include  other file.ini \n%included = 1\n[open\nno value\n= 1\n'open = 1\n";
        let broken = Item::Broken("expected key = value, [section], %include or a comment");
        let expected = [
            (4, Item::Section("databases".into())),
            (5, pair("app", "host=a port=1 ; not a comment")),
            (6, pair("*", "host=b")),
            (7, pair("with space", "x")),
            (8, pair("double \"quoted\"", "y")),
            (9, Item::Section("users".into())),
            (9, pair("bob", "pool_size=1")),
            (10, Item::Include("other file.ini".into())),
            (11, broken.clone()),
            (12, Item::Broken("a section without its ]")),
            (13, broken.clone()),
            (14, broken.clone()),
            (15, broken),
        ];
        assert_eq!(items(text), expected);
    }

    proptest! {
        #[test]
        fn never_panics(text in "(\\PC|[\\[\\]%='\"\n\r; ]){0,80}") {
            for (_, item) in items(&text) {
                if let Item::Pair(_, value) = item {
                    let _ = connection_string::parse(&value, is_known);
                }
            }
        }

        #[test]
        fn pairs_are_read(key in "[a-z_*]{1,9}", value in "[a-z=' ]{0,20}") {
            let line = format!("{key} = {value}");
            prop_assert_eq!(items(&line), [(1, pair(&key, value.trim()))]);
        }
    }
}
