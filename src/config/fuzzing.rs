//! Whole configurations from texts, for fuzzing. What would read other files or run commands is passed over.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use super::hba::{Answers, Facts, Findings, Hba, IdentMaps, Judgement, Line, Question, Sources, Told};
use super::report::Report;
use super::{Format, build, ini as ini_file, jwt, toml_file, userlist};

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

/// A set of keys for tokens.
pub(crate) fn key_set(text: &str) {
    let _ = jwt::KeySet::parse(text);
}

/// Texts of an hba file, an ident file, and one that both may include. What they say of a few connections.
pub(crate) fn hba(text: &str) {
    let mut parts = text.split('\0');
    let mut next = || parts.next().unwrap_or_default().to_owned();
    let files = Files { hba: next(), ident: next(), more: next(), reads: Cell::new(0) };
    let mut findings = Findings::default();
    let loaded = Hba::load(Path::new("hba"), Some(Path::new("ident")), &files, &mut findings);
    let (Ok((hba, maps)), true) = (loaded, findings.faults.is_empty()) else { return };
    for address in [None, Some("10.1.2.3"), Some("::1")] {
        let address = address.and_then(|text| text.parse().ok());
        for (tls, user, database) in [(false, "alice", "app"), (true, "bob", "bob"), (true, "", "replication")] {
            let (route_of, physical_replication) = (None, database == "replication");
            let facts = Facts { address, tls, user, database, route_of, physical_replication };
            if let Some(line) = judged(&hba, &facts) {
                named(&maps, line.map.as_deref(), user);
            }
        }
    }
}

/// Which line is for the connection, once all is known that has to be. Nothing is asked twice.
fn judged<'h>(hba: &'h Hba, facts: &Facts<'_>) -> Option<&'h Line> {
    let mut answers = Answers::default();
    loop {
        match hba.judge(facts, &answers) {
            Judgement::Line(line) => return Some(line),
            Judgement::NoLine => return None,
            Judgement::Ask(question) => answer(question, &mut answers),
        }
    }
}

/// Whom a name stands for.
fn named(maps: &IdentMaps, map: Option<&str>, user: &str) {
    let mut answers = Answers::default();
    for system in ["alice", "alice@example.com", ""] {
        while let Told::Ask(question) = maps.judge(map, system, user, &answers) {
            answer(question, &mut answers);
        }
    }
}

fn answer(question: Question, answers: &mut Answers) {
    let asked_before = match question {
        Question::Member(role) => {
            let is_member = role.len() % 2 == 0;
            answers.members.insert(role, is_member).is_some()
        }
        Question::Interfaces => answers.interfaces.replace(Vec::new()).is_some(),
        Question::HostName => answers.host_name.replace(Some("db.example.com".into())).is_some(),
    };
    assert!(!asked_before, "asked twice");
}

/// The only files that there are.
struct Files {
    hba: String,
    ident: String,
    more: String,
    reads: Cell<usize>,
}

impl Sources for Files {
    fn read(&self, path: &Path) -> Result<String, String> {
        // Their own bound is on bytes, which takes seconds to reach.
        self.reads.set(self.reads.get() + 1);
        match (path.to_str(), self.reads.get()) {
            (Some("hba"), 1..=50) => Ok(self.hba.clone()),
            (Some("ident"), 1..=50) => Ok(self.ident.clone()),
            (Some("more"), 1..=50) => Ok(self.more.clone()),
            _ => Err("no such file".into()),
        }
    }

    fn exists(&self, path: &Path) -> bool {
        path == Path::new("more")
    }

    fn list(&self, _: &Path) -> Result<Vec<PathBuf>, String> {
        Ok(vec!["more".into(), "more.conf".into()])
    }
}

/// Escapes could spell the words otherwise.
fn is_closed(text: &str) -> bool {
    !text.contains('\\') && !OUTWARD.iter().any(|word| text.contains(word))
}
