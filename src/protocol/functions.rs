//! What is known of the functions that clients call: what a call may leave behind in a session, by name.
//!
//! A database is asked once for each name, for the worst of all functions that have it, and asked anew when
//! functions were seen to change or a server has logged in.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::session::{Taint, Taints};

/// How many names are known at once. Beyond, all are forgotten.
const LIMIT: usize = 4096;

/// What a call of a function may do to the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Class {
    /// It is volatile: it may change anything that can be asked for.
    pub asks: bool,
    /// It is C code that came with no extension: what it keeps in the backend can't be asked for, nor be reset.
    pub opaque: bool,
    /// It is an extension's C code, or in a language whose interpreter may keep values for the session.
    pub foreign: bool,
    /// It reads sequence values.
    pub reads_sequences: bool,
    /// It sets parameters whose names aren't known, see [`custom`](super::custom).
    pub sets_unnamed: bool,
}

impl Class {
    /// As a [`Probe`](super::session::Probe)'s answer has it: a letter for each property.
    #[must_use]
    pub fn from_letters(letters: &str) -> Self {
        let has = |letter| letters.contains(letter);
        Self { asks: has('a'), opaque: has('o'), foreign: has('x'), reads_sequences: has('s'), sets_unnamed: has('d') }
    }

    /// What may be left of a call. `strict`: nothing is trusted that can't be asked for.
    #[must_use]
    pub fn taint(self, strict: bool) -> Taints {
        let mut taint = if self.asks { Taints::ASKABLE } else { Taints::NONE };
        if self.opaque || strict && self.foreign {
            taint |= Taint::Opaque;
        }
        if self.reads_sequences {
            taint |= Taint::Sequences;
        }
        if self.sets_unnamed {
            taint |= Taint::Session;
        }
        taint
    }
}

/// The functions of one database.
#[derive(Debug, Default)]
pub struct FunctionTable {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Raised by each [`FunctionTable::forget`].
    epoch: u32,
    classes: HashMap<Box<str>, Class>,
    /// The parameters with a dot that functions of the database set.
    custom: Option<Arc<[Box<str>]>>,
}

impl FunctionTable {
    /// What is known of a name.
    #[must_use]
    pub fn class(&self, name: &str) -> Option<Class> {
        self.known.lock().classes.get(name).copied()
    }

    /// To be given to [`FunctionTable::learn`] with what was asked for since.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.known.lock().epoch
    }

    /// Notes a name's class, asked for in `epoch`.
    pub fn learn(&self, name: &str, class: Class, epoch: u32) {
        let mut known = self.known.lock();
        if known.epoch != epoch {
            return;
        }
        if known.classes.len() >= LIMIT {
            known.classes.clear();
        }
        known.classes.insert(name.into(), class);
    }

    /// Notes the parameters with a dot that functions set, asked for in `epoch`.
    pub fn learn_custom(&self, names: impl Iterator<Item = Box<str>>, epoch: u32) {
        let mut known = self.known.lock();
        if known.epoch == epoch {
            known.custom = Some(names.collect());
        }
    }

    /// Functions may have changed.
    pub fn forget(&self) {
        let mut known = self.known.lock();
        known.epoch = known.epoch.wrapping_add(1);
        known.classes.clear();
        known.custom = None;
    }
}

/// Whether a command, by its tag, may have changed what functions do.
#[must_use]
pub fn changes_functions(tag: &[u8]) -> bool {
    const OBJECTS: [&[u8]; 5] = [b"FUNCTION", b"PROCEDURE", b"ROUTINE", b"AGGREGATE", b"EXTENSION"];
    let mut words = tag.split(|&b| b == b' ');
    let changes = matches!(words.next(), Some(b"CREATE" | b"ALTER" | b"DROP"));
    changes && words.next().is_some_and(|object| OBJECTS.contains(&object)) || tag == b"COMMIT PREPARED"
}

/// The functions of unknown class that were called on one server since it was last asked.
#[derive(Debug, Default)]
pub struct Unknown {
    /// Their names.
    pub names: Vec<Box<str>>,
    /// Of [`FunctionTable::epoch`], when the first was called.
    pub epoch: u32,
    /// The parameters that functions set are known, and needn't be asked for.
    pub custom_known: bool,
}

impl Unknown {
    /// How many are asked for at once; the class of more isn't, this time.
    const MOST: usize = 64;

    /// Adds one.
    pub fn note(&mut self, name: &str, table: &FunctionTable) {
        if self.names.is_empty() {
            self.epoch = table.epoch();
        }
        if self.names.len() < Self::MOST && !self.names.iter().any(|known| **known == *name) {
            self.names.push(name.into());
        }
    }

    /// Nothing about functions is to be asked.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.names.is_empty() && self.custom_known
    }

    /// All settings are asked for: adds those that functions set to `names`, if they are known.
    pub fn add_custom(&mut self, names: &mut Vec<Box<str>>, table: &FunctionTable) {
        let known = table.known.lock();
        if self.names.is_empty() {
            self.epoch = known.epoch;
        }
        self.custom_known = known.custom.is_some();
        names.extend(known.custom.iter().flat_map(|custom| custom.iter().cloned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_before_a_change_is_not_learned() {
        let table = FunctionTable::default();
        let mut unknown = Unknown::default();
        unknown.note("f", &table);
        unknown.note("f", &table);
        assert_eq!(unknown.names.len(), 1);
        table.forget();
        table.learn("f", Class::default(), unknown.epoch);
        assert_eq!(table.class("f"), None);
        table.learn("f", Class::default(), table.epoch());
        assert_eq!(table.class("f"), Some(Class::default()));
        for i in 0..=LIMIT {
            table.learn(&i.to_string(), Class::default(), table.epoch());
        }
        assert!(table.known.lock().classes.len() <= LIMIT);
    }

    #[test]
    fn classes() {
        assert_eq!(Class::from_letters("").taint(true), Taints::NONE);
        assert_eq!(Class::from_letters("ax").taint(false), Taints::ASKABLE);
        assert_eq!(Class::from_letters("ax").taint(true), Taints::ASKABLE.or(Taint::Opaque.into()));
        assert_eq!(Class::from_letters("aos").taint(false).first(), Some(Taint::Temporary));
        assert!(Class::from_letters("o").taint(false).has(Taint::Opaque));
        assert!(Class::from_letters("s").taint(false).has(Taint::Sequences));
    }

    #[test]
    fn commands_that_change_functions() {
        let all = [
            "CREATE FUNCTION",
            "ALTER ROUTINE",
            "DROP EXTENSION",
            "CREATE PROCEDURE",
            "DROP AGGREGATE",
            "COMMIT PREPARED",
        ];
        for tag in all {
            assert!(changes_functions(tag.as_bytes()), "{tag}");
        }
        for tag in ["CREATE TABLE", "INSERT 0 1", "DROP", "SELECT 1", "COMMIT", ""] {
            assert!(!changes_functions(tag.as_bytes()), "{tag}");
        }
    }
}
