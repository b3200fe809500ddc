//! Prepared statements: the client's names, the texts behind them, and which server has which.
//!
//! Clients that parse the same text with the same parameter types *under the same settings* share one
//! [`Statement`] (literals are read under DateStyle, TimeZone and so on when a text is parsed, names under
//! search_path: sharing across different settings would give one client the other's reading). Keys compare
//! these parts themselves, not a hash of them.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::numbers::{Argument, Calls};
use super::own;
use super::sequences::Advances;
use super::session::{Taint, Taints};
use super::settings::Settings;
use super::sql::{self, Effect, Reading};

/// One text with its parameter types, as Parse gave them.
#[derive(Debug)]
pub struct Statement {
    /// Unique for the life of the process; makes the name on servers.
    pub id: u64,
    server_name: Box<[u8]>,
    key: Key,
    /// What running it does to state kept here.
    pub effect: Effect,
    /// What session state running it may leave behind.
    pub taint: Taints,
    /// What session state may be gone once it has run.
    pub ends: Taints,
    /// The parameters that it sets.
    pub names: Vec<Box<str>>,
    /// The parameters that it sets to their defaults.
    pub defaults: Vec<Box<str>>,
    /// Whether running it advances a sequence.
    pub advances: Advances,
    /// The functions that it calls, see [`Reading::functions`].
    pub functions: Vec<Box<str>>,
    /// Whether running it may change settings that follow the client.
    pub sets: bool,
    /// Whether running it may create a table, see [`Reading::creates`].
    pub creates: bool,
    /// What it sets of Carpool's own settings.
    pub own: Vec<own::Assignment>,
    /// Where it says which process a signal is for.
    pub numbers: Vec<Argument>,
    generation: AtomicU32,
    /// A client has parsed it as its unnamed statement.
    came: AtomicBool,
    shapes: Mutex<Shapes>,
}

/// What a statement's parameters and rows look like: one of those that it was ever described with. PostgreSQL
/// holds a connection to the first: "cached plan must not change result type".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape(u16);

/// How many shapes of a statement are known apart.
const SHAPES_LIMIT: usize = 32;

#[derive(Debug, Default)]
struct Shapes {
    known: Vec<Box<[u8]>>,
    /// The schema epoch in which the newest was seen last.
    seen: u32,
}

/// What makes two statements the same.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Key {
    /// A Parse body after the name.
    rest: Box<[u8]>,
    /// The settings that it was parsed under, without `application_name`.
    context: Arc<Settings>,
}

/// Looks a [`Key`] up without owning one.
trait KeyView {
    fn parts(&self) -> (&[u8], &Settings);
}

impl KeyView for Arc<Statement> {
    fn parts(&self) -> (&[u8], &Settings) {
        (&self.key.rest, &self.key.context)
    }
}

impl KeyView for (&[u8], &Settings) {
    fn parts(&self) -> (&[u8], &Settings) {
        *self
    }
}

impl PartialEq for dyn KeyView + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn KeyView + '_ {}

impl Hash for dyn KeyView + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

#[derive(Debug)]
struct ByKey(Arc<Statement>);

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.parts() == other.0.parts()
    }
}

impl Eq for ByKey {}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.parts().hash(state);
    }
}

impl<'a> Borrow<dyn KeyView + 'a> for ByKey {
    fn borrow(&self) -> &(dyn KeyView + 'a) {
        &self.0
    }
}

impl Statement {
    /// The Parse body after the name: query text with its zero, parameter types.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.key.rest
    }

    /// Whether what is sent for it depends on when that is: it must be sent anew for each use.
    #[must_use]
    pub fn changes(&self) -> bool {
        self.effect.names_for_now() || self.numbers.iter().any(|argument| argument.constant().is_some())
    }

    /// Its calls that signal a process.
    #[must_use]
    pub fn calls(&self) -> Calls<'_> {
        let types = memchr::memchr(0, self.rest()).map_or(&b""[..], |at| &self.rest()[at + 1..]);
        Calls { arguments: &self.numbers, types }
    }

    /// Whether this is `rest` parsed under `context`.
    #[must_use]
    pub fn is(&self, rest: &[u8], context: &Arc<Settings>) -> bool {
        Arc::ptr_eq(&self.key.context, context) && *self.key.rest == *rest
    }

    /// The settings that it was parsed under.
    #[must_use]
    pub fn context(&self) -> &Arc<Settings> {
        &self.key.context
    }

    /// Its name on servers.
    #[must_use]
    pub fn server_name(&self) -> &[u8] {
        &self.server_name
    }

    /// Notes a shape that it was described with in schema epoch `epoch`; `None` for one too many.
    #[must_use]
    pub fn shape(&self, described: &[u8], epoch: u32) -> Option<Shape> {
        let mut shapes = self.shapes.lock();
        let at = shapes.known.iter().position(|known| **known == *described);
        if at.is_none() && shapes.known.len() >= SHAPES_LIMIT {
            return None;
        }
        let at = at.unwrap_or_else(|| {
            shapes.known.push(described.into());
            shapes.known.len() - 1
        });
        shapes.seen = epoch;
        u16::try_from(at).ok().map(Shape)
    }

    /// What it looks like in a shape.
    #[must_use]
    pub fn described(&self, shape: Shape) -> Option<Box<[u8]>> {
        self.shapes.lock().known.get(usize::from(shape.0)).cloned()
    }

    /// Another statement's `shape` among this one's. They have the same text.
    #[must_use]
    pub fn shape_of(&self, other: &Self, shape: Shape) -> Option<Shape> {
        let (described, seen) = {
            let shapes = other.shapes.lock();
            (shapes.known.get(usize::from(shape.0))?.clone(), shapes.seen)
        };
        self.shape(&described, seen)
    }

    /// Whether it has only ever had one shape, and the schema has not been seen to change since it was last seen.
    #[must_use]
    pub fn is_steady(&self, epoch: u32) -> bool {
        let shapes = self.shapes.lock();
        shapes.known.len() == 1 && shapes.seen == epoch
    }

    /// Whether it has been a client's unnamed statement before; from this call on it has.
    #[must_use]
    pub fn comes_again(&self) -> bool {
        self.came.load(Ordering::Relaxed) || self.came.swap(true, Ordering::Relaxed)
    }

    /// Servers prepared before this call must prepare it again before using it.
    pub fn mark_stale(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }
}

/// Every name that Carpool prepares on servers starts so; clients' own names are never sent.
pub const SERVER_PREFIX: &[u8] = b"carpool_";

/// A statement prepared only to be deallocated, in the place of one that the client deallocates: that one may
/// be others', too.
pub const DUMMY: &[u8] = b"carpool_0";

/// How many bytes of a statement's name PostgreSQL looks at (`NAMEDATALEN - 1`).
const NAME_LIMIT: usize = 63;

/// A statement's name as far as it counts.
#[must_use]
pub fn significant(name: &[u8]) -> &[u8] {
    &name[..name.len().min(NAME_LIMIT)]
}

/// All statements of one pool, shared by text.
#[derive(Debug, Default)]
pub struct StatementTable {
    known: Mutex<HashSet<ByKey>>,
    /// Raised by schema changes: whether statements are what they were must be asked again.
    epoch: AtomicU32,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

#[cfg(test)]
thread_local! {
    /// The next one on a thread where a simulation runs: names are to be of the same length each time.
    pub(crate) static SIMULATED_ID: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
}

fn next_id() -> u64 {
    #[cfg(test)]
    if let Some(id) = SIMULATED_ID.get() {
        SIMULATED_ID.set(Some(id + 1));
        return id;
    }
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

impl StatementTable {
    /// The shared statement of a Parse body after the name.
    #[must_use]
    pub fn intern(&self, rest: &[u8], context: &Arc<Settings>) -> Arc<Statement> {
        let mut known = self.known.lock();
        if let Some(found) = known.get(&(rest, &**context) as &dyn KeyView) {
            return Arc::clone(&found.0);
        }
        // Sweep before growing, so that the table stays within twice what clients and servers hold.
        if known.len() == known.capacity() {
            known.retain(|s| Arc::strong_count(&s.0) > 1);
        }
        let text = rest.split(|&b| b == 0).next().unwrap_or_default();
        let Reading {
            effect,
            mut taint,
            ends,
            names,
            defaults,
            resets,
            sets,
            creates,
            own,
            numbers,
            advances,
            functions,
            ..
        } = sql::read(text, context);
        if resets {
            taint |= Taint::Setting;
        }
        let id = next_id();
        let statement = Arc::new(Statement {
            id,
            server_name: [SERVER_PREFIX, id.to_string().as_bytes()].concat().into(),
            effect,
            taint,
            ends,
            names,
            defaults,
            advances,
            functions,
            sets,
            creates,
            own,
            numbers,
            key: Key { rest: rest.into(), context: Arc::clone(context) },
            generation: AtomicU32::new(0),
            came: AtomicBool::new(false),
            shapes: Mutex::default(),
        });
        known.insert(ByKey(Arc::clone(&statement)));
        statement
    }

    /// A schema change was committed, or found out.
    pub fn schema_changed(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }

    /// The current schema epoch.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// How many texts are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.lock().len()
    }

    /// Whether no text is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What one name means to a client.
#[derive(Clone, Debug)]
pub struct Named {
    /// The statement.
    pub statement: Arc<Statement>,
    /// What the client knows of its shape.
    pub told: Told,
}

/// What a client was told of a statement's shape.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Told {
    /// Nothing.
    #[default]
    Nothing,
    /// It has asked, and will be.
    Asked,
    /// This.
    Shape(Shape),
}

/// Looked into for every Bind: its hasher, seeded at random, is several times cheaper than the standard one.
type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// One client's statements by its own names.
#[derive(Debug, Default)]
pub struct ClientStatements {
    /// Named ones.
    pub named: Map<Box<[u8]>, Named>,
    /// The unnamed one, which lives until the next Parse of it or simple query.
    pub unnamed: Option<Arc<Statement>>,
}

#[derive(Debug)]
struct Slot {
    /// The statement, which is known as long as a server has it; `None` where it may be there.
    statement: Option<Arc<Statement>>,
    added: u64,
    last_used: u64,
    /// [`Statement::mark_stale`]; `None`: must be prepared again.
    generation: Option<u32>,
    /// The schema epoch in which it was last seen to be valid.
    seen: u32,
    shape: Option<Shape>,
}

/// An id that no statement has: an unnamed statement that nobody may use.
const NOBODYS: u64 = 0;

/// Which statements one server has, least recently used first out. In this order in memory: what each transaction touches is together.
#[derive(Debug)]
#[repr(C)]
pub struct ServerStatements {
    /// What its unnamed statement is; `None`: none that anybody may use.
    pub unnamed: Option<u64>,
    /// When all that had been sent was answered.
    settled: u64,
    clock: u64,
    slots: Map<u64, Slot>,
    limit: usize,
}

impl ServerStatements {
    /// For at most `limit` named statements (at least one).
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { slots: Map::default(), clock: 0, settled: 0, limit: limit.max(1), unnamed: None }
    }

    /// One of those that it has by its number.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&Arc<Statement>> {
        self.slots.get(&id)?.statement.as_ref()
    }

    /// Whether the server has a current copy.
    #[must_use]
    pub fn presence(&self, statement: &Statement) -> Presence {
        let current = Some(statement.generation.load(Ordering::Relaxed));
        match self.slots.get(&statement.id) {
            None => Presence::Missing,
            Some(slot) if slot.generation == current => Presence::Current,
            Some(_) => Presence::Stale,
        }
    }

    /// As [`ServerStatements::presence`]; counts as a use.
    pub fn touch(&mut self, statement: &Statement) -> Presence {
        self.clock += 1;
        if let Some(slot) = self.slots.get_mut(&statement.id) {
            slot.last_used = self.clock;
        }
        self.presence(statement)
    }

    /// Whether the schema has not been seen to change since the server prepared or described it: it would
    /// prepare it again without an error.
    #[must_use]
    pub fn is_fresh(&self, statement: &Statement, epoch: u32) -> bool {
        self.slots.get(&statement.id).is_some_and(|slot| slot.seen == epoch)
    }

    /// Its unnamed statement is used no more if it is this one, which has a name now.
    pub fn leave_unnamed(&mut self, id: u64) {
        self.unnamed = self.unnamed.map(|unnamed| if unnamed == id { NOBODYS } else { unnamed });
    }

    /// Notes that it is being prepared, in schema epoch `epoch`.
    pub fn insert(&mut self, statement: &Arc<Statement>, epoch: u32) {
        self.clock += 1;
        let generation = Some(statement.generation.load(Ordering::Relaxed));
        let slot = Slot {
            statement: Some(Arc::clone(statement)),
            added: self.clock,
            last_used: self.clock,
            generation,
            seen: epoch,
            shape: None,
        };
        self.slots.insert(statement.id, slot);
    }

    /// The shape that the server has it in, if it has been described there.
    #[must_use]
    pub fn shape(&self, id: u64) -> Option<Shape> {
        self.slots.get(&id)?.shape
    }

    /// Notes the shape that the server has it in, in schema epoch `epoch`.
    pub fn set_shape(&mut self, id: u64, shape: Option<Shape>, epoch: u32) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.shape = shape;
            slot.seen = epoch;
        }
    }

    /// Notes that it is gone.
    pub fn remove(&mut self, id: u64) {
        self.slots.remove(&id);
    }

    /// Puts back one whose Close wasn't carried out. Taken as stale, since its age was forgotten.
    pub fn restore(&mut self, id: u64) {
        let slot = Slot { statement: None, added: 0, last_used: 0, generation: None, seen: 0, shape: None };
        self.slots.insert(id, slot);
    }

    /// All that was sent is answered: what is prepared was prepared under the settings that were thought in force.
    pub fn settle(&mut self) {
        self.settled = self.clock;
    }

    /// The settings turn out to have changed since [`ServerStatements::settle`]: what was prepared since then
    /// may read otherwise than it should.
    pub fn distrust_recent(&mut self) {
        for slot in self.slots.values_mut().filter(|slot| slot.added > self.settled) {
            slot.generation = None;
        }
        self.unnamed = self.unnamed.map(|_| NOBODYS);
    }

    /// When full: the least recently used one, now to be closed.
    pub fn evict(&mut self) -> Option<u64> {
        if self.slots.len() < self.limit {
            return None;
        }
        // A scan: the limit is small, and evictions are rare where it suits the work.
        let id = *self.slots.iter().min_by_key(|(_, slot)| slot.last_used)?.0;
        self.slots.remove(&id);
        Some(id)
    }

    /// Whether one more has its place, and doesn't take that of the only other.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.slots.len() + 1 < self.limit
    }

    /// All named ones are gone (DEALLOCATE ALL); the unnamed one isn't among those.
    pub fn clear_named(&mut self) {
        self.slots.clear();
    }

    /// The ids of those it has; `certain`: without those that only may be there.
    #[must_use]
    pub fn ids(&self, certain: bool) -> Vec<u64> {
        self.slots.iter().filter(|(_, slot)| !certain || slot.generation.is_some()).map(|(&id, _)| id).collect()
    }

    /// How many named statements it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

/// What [`ServerStatements::touch`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// Usable.
    Current,
    /// Prepared before a change that may have made its plan wrong.
    Stale,
    /// Not there.
    Missing,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::Strategy as _;

    use super::*;

    fn context(timezone: &str) -> Arc<Settings> {
        Arc::new(Settings::from_pairs([("timezone", timezone)]))
    }

    #[test]
    fn shared_by_text_types_and_settings() {
        let table = StatementTable::default();
        let utc = context("UTC");
        let one = table.intern(b"select 1\0\0\0", &utc);
        assert_eq!(one.id, table.intern(b"select 1\0\0\0", &context("UTC")).id);
        assert_ne!(one.id, table.intern(b"select 1\0\0\x01\0\0\0\x17", &utc).id);
        assert_ne!(one.id, table.intern(b"select 1\0\0\0", &context("CET")).id);
        assert_eq!(table.len(), 3);
    }

    #[test]
    fn unused_statements_are_swept() {
        let table = StatementTable::default();
        let utc = context("UTC");
        let kept = table.intern(b"kept\0\0\0", &utc);
        for i in 0..10_000 {
            let _ = table.intern(format!("select {i}\0\0\0").as_bytes(), &utc);
        }
        assert!(table.len() < 100, "{}", table.len());
        assert_eq!(table.intern(b"kept\0\0\0", &utc).id, kept.id);
    }

    #[test]
    fn least_recently_used_goes_first() {
        let table = StatementTable::default();
        let utc = context("UTC");
        let [a, b, c] = ["a", "b", "c"].map(|t| table.intern(format!("{t}\0\0\0").as_bytes(), &utc));
        let mut server = ServerStatements::new(2);
        server.insert(&a, 0);
        server.insert(&b, 0);
        assert_eq!(server.touch(&a), Presence::Current);
        assert_eq!(server.evict(), Some(b.id));
        server.insert(&c, 0);
        assert_eq!(server.touch(&b), Presence::Missing);
        c.mark_stale();
        assert_eq!(server.touch(&c), Presence::Stale);
    }

    #[test]
    fn shapes_are_told_apart_and_bounded() {
        let table = StatementTable::default();
        let [a, b] = ["UTC", "CET"].map(|zone| table.intern(b"a\0\0\0", &context(zone)));
        let one = a.shape(b"one", 1).unwrap();
        assert!(a.is_steady(1) && !a.is_steady(2));
        assert_eq!(a.shape(b"one", 2), Some(one));
        assert!(a.is_steady(2), "seen again");
        assert_ne!(a.shape(b"two", 2), Some(one));
        assert!(!a.is_steady(2));
        assert_eq!(b.shape(b"two", 2), b.shape_of(&a, a.shape(b"two", 2).unwrap()));
        assert_ne!(b.shape_of(&a, one), b.shape(b"two", 2));
        for i in 0..100u32 {
            let _ = a.shape(&i.to_be_bytes(), 3);
        }
        assert_eq!(a.shape(b"one too many", 3), None);
    }

    #[test]
    fn what_settings_changed_under_is_distrusted() {
        let table = StatementTable::default();
        let [a, b] = ["a", "b"].map(|t| table.intern(format!("{t}\0\0\0").as_bytes(), &context("UTC")));
        let mut server = ServerStatements::new(9);
        server.insert(&a, 0);
        server.settle();
        server.insert(&b, 0);
        server.unnamed = Some(b.id);
        server.distrust_recent();
        assert_eq!((server.presence(&a), server.presence(&b)), (Presence::Current, Presence::Stale));
        assert_eq!(server.unnamed, Some(NOBODYS));
    }

    #[derive(Clone, Copy, Debug)]
    enum Use {
        Prepare(usize),
        Touch(usize),
        Close(usize),
        Stale(usize),
        Undo(usize),
        All,
    }

    proptest::proptest! {
        /// Against a list in the order of use.
        #[test]
        fn servers_statements(limit in 1usize..5, uses in proptest::collection::vec(
            (0usize..6, 0usize..6).prop_map(|(kind, at)| match kind {
                0 | 1 => Use::Prepare(at),
                2 => Use::Touch(at),
                3 => Use::Close(at),
                4 => if at < 3 { Use::Stale(at) } else { Use::Undo(at) },
                _ => if at == 0 { Use::All } else { Use::Touch(at) },
            }), 0..60,
        )) {
            let table = StatementTable::default();
            let all: Vec<_> =
                (0..6).map(|i| table.intern(format!("{i}\0\0\0").as_bytes(), &context("UTC"))).collect();
            let mut server = ServerStatements::new(limit);
            // (which, current), least recently used first.
            let mut model: Vec<(usize, bool)> = Vec::new();
            for step in uses {
                match step {
                    Use::Prepare(i) => {
                        model.retain(|m| m.0 != i);
                        server.remove(all[i].id);
                        while model.len() >= limit {
                            let (victim, _) = model.remove(0);
                            proptest::prop_assert_eq!(server.evict(), Some(all[victim].id));
                        }
                        proptest::prop_assert_eq!(server.evict(), None);
                        server.insert(&all[i], 0);
                        model.push((i, true));
                    }
                    Use::Touch(i) => {
                        let known = model.iter().position(|m| m.0 == i).map(|at| model.remove(at));
                        let wanted = match known {
                            None => Presence::Missing,
                            Some((_, true)) => Presence::Current,
                            Some((_, false)) => Presence::Stale,
                        };
                        model.extend(known);
                        proptest::prop_assert_eq!(server.touch(&all[i]), wanted);
                    }
                    Use::Close(i) => {
                        server.remove(all[i].id);
                        model.retain(|m| m.0 != i);
                    }
                    Use::Stale(i) => {
                        all[i].mark_stale();
                        model.iter_mut().filter(|m| m.0 == i).for_each(|m| m.1 = false);
                    }
                    Use::Undo(i) => {
                        // Back, as the first to go again.
                        server.remove(all[i].id);
                        model.retain(|m| m.0 != i);
                        if server.len() < limit && !model.iter().any(|m| !m.1) {
                            server.restore(all[i].id);
                            model.insert(0, (i, false));
                        }
                    }
                    Use::All => {
                        server.clear_named();
                        model.clear();
                    }
                }
                proptest::prop_assert_eq!(server.len(), model.len());
            }
        }
    }
}
