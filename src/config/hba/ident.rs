//! `auth_ident_file`: which users somebody may be whom the operating system, a certificate or a token names.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::names::UserWord;
use super::pattern::Pattern;
use super::tokens::{Fault, Reader, Record, Sources};
use super::{Answers, Told};

/// Where the first group of the regular expression goes.
const GROUP: &str = "\\1";

/// All maps, by name.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct IdentMaps(BTreeMap<Arc<str>, Vec<Entry>>);

/// One line of a map.
#[derive(Clone, PartialEq, Debug)]
struct Entry {
    system: System,
    user: User,
}

/// Whom a line is about.
#[derive(Clone, PartialEq, Debug)]
enum System {
    Name(String),
    Pattern(Pattern),
}

/// Who that may be.
#[derive(Clone, PartialEq, Debug)]
enum User {
    Word(UserWord),
    /// A name with [`GROUP`] in it.
    Template(String),
}

impl IdentMaps {
    pub(super) fn load(path: &Path, sources: &dyn Sources, faults: &mut Vec<Fault>) -> Result<Self, String> {
        let mut reader = Reader::new(sources);
        let records = reader.file(path)?;
        faults.append(&mut reader.faults);
        Ok(Self::read(&records, faults))
    }

    pub(super) fn read(records: &[Record], faults: &mut Vec<Fault>) -> Self {
        let mut maps = Self::default();
        for record in records {
            match entry(record) {
                Ok((map, entry)) => maps.0.entry(map.into()).or_default().push(entry),
                Err(message) => faults.push((record.place.clone(), message)),
            }
        }
        maps
    }

    /// Whether there is such a map.
    #[must_use]
    pub fn has(&self, map: &str) -> bool {
        self.0.contains_key(map)
    }

    /// Whether a map asks who is a member of a role.
    pub(super) fn asks_for_membership(&self, map: &str) -> bool {
        let asks = |entry: &Entry| matches!(&entry.user, User::Word(word) if word.asks_for_membership());
        self.0.get(map).is_some_and(|entries| entries.iter().any(asks))
    }

    /// Whether `system` may be `user`: without a map, when both are the same.
    #[must_use]
    pub fn judge(&self, map: Option<&str>, system: &str, user: &str, answers: &Answers) -> Told {
        let Some(map) = map else { return Told::from(system == user) };
        let entries = self.0.get(map).map(Vec::as_slice).unwrap_or_default();
        Told::any(entries.iter().map(|entry| entry.judge(system, user, answers)))
    }
}

impl Entry {
    fn judge(&self, system: &str, user: &str, answers: &Answers) -> Told {
        let is_about = match &self.system {
            System::Name(name) => name == system,
            System::Pattern(pattern) => pattern.is_match(system),
        };
        match (is_about, &self.user, &self.system) {
            (false, ..) => Told::No,
            (true, User::Word(word), _) => word.judge(user, answers),
            // What the group has is compared literally, whatever it looks like.
            (true, User::Template(template), System::Pattern(pattern)) => {
                let name = pattern.capture(system).map(|group| template.replacen(GROUP, group, 1));
                Told::from(name.as_deref() == Some(user))
            }
            (true, User::Template(template), System::Name(_)) => Told::from(template == user),
        }
    }
}

fn entry(record: &Record) -> Result<(String, Entry), String> {
    let [map, system, user] = record.fields.as_slice() else {
        return Err("expected MAP SYSTEM-USER DATABASE-USER".into());
    };
    let ([map], [system], [user]) = (map.as_slice(), system.as_slice(), user.as_slice()) else {
        return Err("a list can't stand in an ident file".into());
    };
    let system = match system.text.strip_prefix('/') {
        Some(pattern) => System::Pattern(Pattern::parse(pattern)?),
        None => System::Name(system.text.clone()),
    };
    let word = UserWord::read(user)?;
    let user = match (&word, &system) {
        (UserWord::Name(name), System::Pattern(pattern)) if name.contains(GROUP) => {
            pattern.check_capture()?;
            User::Template(name.clone())
        }
        _ => User::Word(word),
    };
    Ok((map.text.clone(), Entry { system, user }))
}

#[cfg(test)]
mod tests {
    use super::super::tests::Files;
    use super::super::{Question, tests};
    use super::*;

    fn maps(text: &str) -> (IdentMaps, Vec<String>) {
        let mut faults = Vec::new();
        let maps = IdentMaps::load(Path::new("f"), &Files::new(&[("f", text)]), &mut faults).unwrap();
        (maps, faults.iter().map(|(place, message)| format!("{place}: {message}")).collect())
    }

    #[test]
    fn who_may_be_whom() {
        let (maps, faults) = maps(
            "m ann bob\nm ann \"all\"\nm root all\nm /^(.*)@corp$ \\1\nm /^x(.*)$ /^y\nm op +admins\n\
             other carl carl\nm \"/^q(.*)$\" \"pre_\\1_post\"\nm z \\1\n",
        );
        assert!(faults.is_empty(), "{faults:?}");
        let mut answers = Answers::default();
        answers.members.insert("admins".into(), true);
        for (map, system, user, expected) in [
            (None, "ann", "ann", true),
            (None, "ann", "Ann", false),
            (Some("m"), "ann", "bob", true),
            (Some("m"), "ann", "ann", false),
            (Some("m"), "ann", "all", true),
            (Some("m"), "root", "anybody", true),
            (Some("m"), "eve@corp", "eve", true),
            (Some("m"), "eve@corp", "bob", false),
            (Some("m"), "all@corp", "bob", false),
            (Some("m"), "+admins@corp", "bob", false),
            (Some("m"), "eve@corp.example", "eve", false),
            (Some("m"), "x1", "y2", true),
            (Some("m"), "x1", "z", false),
            (Some("m"), "op", "anybody", true),
            (Some("m"), "carl", "carl", false),
            (Some("other"), "carl", "carl", true),
            (Some("none"), "carl", "carl", false),
            (Some("m"), "qt", "pre_t_post", true),
            (Some("m"), "z", "\\1", true),
        ] {
            let told = maps.judge(map, system, user, &answers);
            assert_eq!(told, Told::from(expected), "{map:?} {system} as {user}");
        }
        let told = maps.judge(Some("m"), "op", "anybody", &Answers::default());
        assert_eq!(told, Told::Ask(Question::Member("admins".into())));
        assert!(maps.asks_for_membership("m") && !maps.asks_for_membership("other"));
        let _ = tests::Files::new(&[]);
    }

    #[test]
    fn each_broken_line_is_reported() {
        let (_, faults) = maps("m a\nm a b c\nm /( x\nm /a \\1\nm a,b c\nm a +\n");
        let places: Vec<_> = faults.iter().map(|fault| fault.split(": ").next().unwrap()).collect();
        assert_eq!(places, ["f:1", "f:2", "f:3", "f:4", "f:5", "f:6"]);
    }
}
