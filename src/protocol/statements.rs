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
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::Taint;
use super::settings::Settings;
use super::sql::{self, Effect};

/// One text with its parameter types, as Parse gave them.
#[derive(Debug)]
pub struct Statement {
    /// Unique for the life of the process; makes the name on servers.
    pub id: u64,
    key: Key,
    /// What running it does to state kept here.
    pub effect: Effect,
    /// Whether running it leaves session state behind.
    pub taint: Option<Taint>,
    generation: AtomicU32,
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

    /// Whether this is `rest` parsed under `context`.
    #[must_use]
    pub fn is(&self, rest: &[u8], context: &Arc<Settings>) -> bool {
        Arc::ptr_eq(&self.key.context, context) && *self.key.rest == *rest
    }

    /// Appends its name on servers.
    pub fn put_server_name(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(SERVER_PREFIX);
        out.extend_from_slice(self.id.to_string().as_bytes());
    }

    /// Its name on servers.
    #[must_use]
    pub fn server_name(&self) -> Vec<u8> {
        let mut name = Vec::with_capacity(24);
        self.put_server_name(&mut name);
        name
    }

    /// Servers prepared before this call must prepare it again before using it.
    pub fn mark_stale(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }
}

/// Every name that Carpool prepares on servers starts so; clients' own names are never sent.
pub const SERVER_PREFIX: &[u8] = b"carpool_";

/// All statements of one pool, shared by text.
#[derive(Debug, Default)]
pub struct StatementTable {
    known: Mutex<HashSet<ByKey>>,
    /// Raised by schema changes: what servers prepared before is prepared again.
    epoch: AtomicU32,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

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
        let statement = Arc::new(Statement {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            effect: sql::effect(text),
            taint: sql::taint(text, context),
            key: Key { rest: rest.into(), context: Arc::clone(context) },
            generation: AtomicU32::new(0),
        });
        known.insert(ByKey(Arc::clone(&statement)));
        statement
    }

    /// A schema change was committed.
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

/// One client's statements by its own names.
#[derive(Debug, Default)]
pub struct ClientStatements {
    /// Named ones.
    pub named: HashMap<Box<[u8]>, Arc<Statement>>,
    /// The unnamed one, which lives until the next Parse of it or simple query.
    pub unnamed: Option<Arc<Statement>>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    last_used: u64,
    generation: u32,
    epoch: u32,
}

/// Which statements one server has, least recently used first out.
#[derive(Debug)]
pub struct ServerStatements {
    slots: HashMap<u64, Slot>,
    clock: u64,
    limit: usize,
    /// What its unnamed statement is; `None`: none that anybody may use.
    pub unnamed: Option<u64>,
}

impl ServerStatements {
    /// For at most `limit` named statements (at least one).
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { slots: HashMap::new(), clock: 0, limit: limit.max(1), unnamed: None }
    }

    /// Whether the server has a current copy; counts as a use.
    pub fn touch(&mut self, statement: &Statement, epoch: u32) -> Presence {
        self.clock += 1;
        match self.slots.get_mut(&statement.id) {
            None => Presence::Missing,
            Some(slot) => {
                slot.last_used = self.clock;
                if slot.generation == statement.generation.load(Ordering::Relaxed) && slot.epoch == epoch {
                    Presence::Current
                } else {
                    Presence::Stale
                }
            }
        }
    }

    /// Notes that it is being prepared.
    pub fn insert(&mut self, statement: &Statement, epoch: u32) {
        self.clock += 1;
        let generation = statement.generation.load(Ordering::Relaxed);
        self.slots.insert(statement.id, Slot { last_used: self.clock, generation, epoch });
    }

    /// Notes that it is gone.
    pub fn remove(&mut self, id: u64) {
        self.slots.remove(&id);
    }

    /// Puts back one whose Close wasn't carried out. Taken as stale, since its age was forgotten.
    pub fn restore(&mut self, id: u64) {
        self.slots.insert(id, Slot { last_used: 0, generation: u32::MAX, epoch: u32::MAX });
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

    /// All named ones are gone (DEALLOCATE ALL); the unnamed one isn't among those.
    pub fn clear_named(&mut self) {
        self.slots.clear();
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
        assert_eq!(server.touch(&a, 0), Presence::Current);
        assert_eq!(server.evict(), Some(b.id));
        server.insert(&c, 0);
        assert_eq!(server.touch(&b, 0), Presence::Missing);
        assert_eq!(server.touch(&a, 1), Presence::Stale);
        c.mark_stale();
        assert_eq!(server.touch(&c, 0), Presence::Stale);
    }
}
