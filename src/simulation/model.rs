//! What a client asks for, and exactly what it must be answered. Each row that it asks for is a number of its own.

use std::collections::{BTreeMap, BTreeSet};

use super::stage::Stage;
use crate::wire::frame;
use crate::wire::frontend::{put_query, tag};

/// A client's rows are its number times this, and more.
pub(super) const TAGS: u64 = 1_000_000;

/// The settings that clients change: one that is reported, and one that isn't.
pub(super) const SETTINGS: [&str; 3] = ["application_name", "DateStyle", "foo"];

/// A part of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Expect {
    /// A message of this type.
    Kind(u8),
    /// A row with this value.
    Row(String),
    /// A row with the value of this setting: any of its own, since the last change may have failed.
    Unsure(&'static str),
    /// An error.
    Error(&'static str),
    /// ReadyForQuery.
    Ready(u8),
}

/// Requests up to one ReadyForQuery.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) bytes: Vec<u8>,
    pub(super) expect: Vec<Expect>,
}

/// Values of settings, as far as they are known.
type Values = BTreeMap<&'static str, Option<String>>;

/// A client as it knows itself.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) id: u64,
    tag: u64,
    /// As in ReadyForQuery.
    pub(super) status: u8,
    pub(super) values: Values,
    before: Option<Values>,
    named: BTreeSet<String>,
    names: u32,
}

impl Model {
    pub(super) fn new(id: u64) -> Self {
        let values = SETTINGS.iter().map(|name| (*name, Some(default(name).to_owned()))).collect();
        Self { id, tag: 0, status: b'I', values, before: None, named: BTreeSet::new(), names: 0 }
    }

    /// A number that nobody has had.
    pub(super) fn tag(&mut self) -> String {
        self.tag += 1;
        (self.id * TAGS + self.tag).to_string()
    }

    /// A value of a setting that nobody has had.
    pub(super) fn value(&mut self) -> String {
        self.tag += 1;
        format!("c{}v{}", self.id, self.tag)
    }

    /// Whether it may be its own value of a setting.
    pub(super) fn is_own(&self, name: &str, value: &str) -> bool {
        value == default(name) || value.starts_with(&format!("c{}v", self.id))
    }

    /// Something has failed that was not to: what was asked for meanwhile may have been done or not.
    pub(super) fn doubt(&mut self, status: u8) {
        self.status = status;
        self.values.values_mut().for_each(|value| *value = None);
        self.before = (status != b'I').then(|| self.values.clone());
        self.named.clear();
        self.names += 100;
    }

    /// What it asks for next.
    pub(super) fn group(&mut self, stage: &Stage) -> Group {
        let mut group = Group::default();
        match stage.below(20) {
            0..5 => self.select(&mut group, stage),
            5..11 => self.extended(&mut group, stage),
            11..14 => self.transaction(&mut group, stage),
            14..16 => self.set(&mut group, stage),
            16..18 => self.show(&mut group, stage),
            18 => self.copy(&mut group, stage),
            _ => self.failing(&mut group),
        }
        group.expect.push(Expect::Ready(self.status));
        group
    }

    /// Ends a transaction.
    pub(super) fn end(&mut self) -> Group {
        let mut group = Group::default();
        put_query(&mut group.bytes, b"rollback");
        group.expect.push(Expect::Kind(b'C'));
        self.roll_back();
        self.status = b'I';
        group.expect.push(Expect::Ready(b'I'));
        group
    }

    fn roll_back(&mut self) {
        if let Some(before) = self.before.take() {
            self.values = before;
        }
    }

    /// What is asked in a failed transaction is refused.
    fn is_refused(&self, group: &mut Group) -> bool {
        let refused = self.status == b'E';
        if refused {
            group.expect.push(Expect::Error("25P02"));
        }
        refused
    }

    fn fails(&mut self, group: &mut Group, code: &'static str) {
        group.expect.push(Expect::Error(code));
        if self.status == b'T' {
            self.status = b'E';
            self.roll_back();
        }
    }

    fn select(&mut self, group: &mut Group, stage: &Stage) {
        let tags: Vec<_> = (0..=stage.below(3)).map(|_| self.tag()).collect();
        let texts: Vec<_> = tags.iter().map(|tag| format!("select {tag}")).collect();
        put_query(&mut group.bytes, texts.join("; ").as_bytes());
        if self.is_refused(group) {
            return;
        }
        for tag in tags {
            group.expect.extend([Expect::Kind(b'T'), Expect::Row(tag), Expect::Kind(b'C')]);
        }
    }

    fn transaction(&mut self, group: &mut Group, stage: &Stage) {
        if self.status == b'I' {
            put_query(&mut group.bytes, b"begin");
            self.status = b'T';
            self.before = Some(self.values.clone());
        } else if stage.once_in(2) {
            put_query(&mut group.bytes, b"commit");
            if self.status == b'E' {
                self.roll_back();
            }
            self.before = None;
            self.status = b'I';
        } else {
            put_query(&mut group.bytes, b"rollback");
            self.roll_back();
            self.status = b'I';
        }
        group.expect.push(Expect::Kind(b'C'));
    }

    fn set(&mut self, group: &mut Group, stage: &Stage) {
        let name = SETTINGS[usize::try_from(stage.below(3)).unwrap()];
        let value = self.value();
        put_query(&mut group.bytes, format!("set {name} = '{value}'").as_bytes());
        if !self.is_refused(group) {
            self.values.insert(name, Some(value));
            group.expect.push(Expect::Kind(b'C'));
        }
    }

    fn show(&mut self, group: &mut Group, stage: &Stage) {
        let name = SETTINGS[usize::try_from(stage.below(3)).unwrap()];
        put_query(&mut group.bytes, format!("show {name}").as_bytes());
        if self.is_refused(group) {
            return;
        }
        let row = match &self.values[name] {
            Some(value) => Expect::Row(value.clone()),
            None => Expect::Unsure(name),
        };
        group.expect.extend([Expect::Kind(b'T'), row, Expect::Kind(b'C')]);
    }

    fn copy(&mut self, group: &mut Group, stage: &Stage) {
        let out = stage.once_in(2);
        put_query(&mut group.bytes, if out { b"copy t to stdout" } else { b"copy t from stdin" });
        if !out {
            frame::message(&mut group.bytes, tag::COPY_DATA, |b| b.extend_from_slice(b"one\n"));
            frame::message(&mut group.bytes, tag::COPY_DONE, |_| {});
        }
        if self.is_refused(group) {
            return;
        }
        let kinds: &[u8] = if out { b"HddcC" } else { b"GC" };
        group.expect.extend(kinds.iter().map(|kind| Expect::Kind(*kind)));
    }

    fn failing(&mut self, group: &mut Group) {
        put_query(&mut group.bytes, b"select 1/0");
        if !self.is_refused(group) {
            group.expect.push(Expect::Kind(b'T'));
            self.fails(group, "22012");
        }
    }

    /// Some statements before one Sync, the last of which may fail.
    fn extended(&mut self, group: &mut Group, stage: &Stage) {
        let (mut refused, count) = (false, 1 + stage.below(4));
        let fails = stage.once_in(8);
        for number in 0..count {
            refused |= self.one_extended(group, stage, fails && number + 1 == count, refused);
        }
        frame::message(&mut group.bytes, tag::SYNC, |_| {});
    }

    /// Says whether what follows is left out.
    fn one_extended(&mut self, group: &mut Group, stage: &Stage, fails: bool, refused: bool) -> bool {
        let named = stage.once_in(2) && !fails;
        let name = match named {
            true => format!("s{}", u64::from(self.names) + stage.below(3)),
            false => String::new(),
        };
        let (out, value) = (&mut group.bytes, if fails { None } else { Some((self.id * TAGS) + self.tag + 1) });
        self.tag += 1;
        let parses = !self.named.contains(&name);
        let refuses = self.status == b'E';
        if parses {
            let text = if fails { "select 1/0" } else { "select $1" };
            frame::message(out, tag::PARSE, |b| {
                frame::put_cstr(b, name.as_bytes());
                frame::put_cstr(b, text.as_bytes());
                b.extend_from_slice(&[0, 0]);
            });
            if named && !refuses && !refused {
                self.named.insert(name.clone());
            }
        }
        put_bind(out, &name, value);
        let described = stage.once_in(2);
        if described {
            frame::message(out, tag::DESCRIBE, |b| b.extend_from_slice(b"P\0"));
        }
        frame::message(out, tag::EXECUTE, |b| b.extend_from_slice(&[0; 5]));
        if refused {
            return true;
        }
        if self.is_refused(group) {
            return true;
        }
        let kinds = [(parses, b'1'), (true, b'2'), (described, b'T')];
        group.expect.extend(kinds.iter().filter(|(there, _)| *there).map(|(_, kind)| Expect::Kind(*kind)));
        match value {
            Some(value) => group.expect.extend([Expect::Row(value.to_string()), Expect::Kind(b'C')]),
            None => self.fails(group, "22012"),
        }
        false
    }
}

/// What a setting is where nobody has set it.
fn default(name: &str) -> &'static str {
    if name == "foo" { "0" } else { "default" }
}

fn put_bind(out: &mut Vec<u8>, name: &str, value: Option<u64>) {
    frame::message(out, tag::BIND, |b| {
        b.push(0);
        frame::put_cstr(b, name.as_bytes());
        b.extend_from_slice(&[0, 0, 0, u8::from(value.is_some())]);
        if let Some(value) = value {
            let value = value.to_string();
            b.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
            b.extend_from_slice(value.as_bytes());
        }
        b.extend_from_slice(&[0, 0]);
    });
}
