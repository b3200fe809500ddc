//! A client's state on its way to another process: [`ClientState`] as plain data and back. And a server's.
//!
//! Lists of settings are written once, however many statements were prepared under them. Only the state of a client that
//! is between transactions, and doesn't listen, can be carried; of a server only where a reset has left nothing else than
//! what it reports.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::request::Tables;
use super::sequences::Sequences;
use super::session::Taints;
use super::settings::{Settings, UNSHARED};
use super::statements::{Named, Statement, Told};
use super::{ClientState, ServerState, unshared_mark};

/// Bytes, as base64.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Blob(Box<[u8]>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(|bytes| Self(bytes.into())).map_err(serde::de::Error::custom)
    }
}

/// A parameter: its name, its value, whether servers report it.
type Parameter = (String, String, bool);

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct CarriedStatement {
    /// A Parse body after the name.
    rest: Blob,
    /// Which of the lists it was parsed under.
    context: usize,
    /// The shape that the client knows it in.
    told: Option<Blob>,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CarriedState {
    lists: Vec<Vec<Parameter>>,
    /// Of the lists.
    settings: usize,
    /// Of the lists.
    startup: usize,
    named: Vec<(Blob, CarriedStatement)>,
    unnamed: Option<CarriedStatement>,
    /// Why it was told that it keeps its server: it isn't told again.
    told: u32,
}

/// The lists written so far.
#[derive(Default)]
struct Lists {
    known: Vec<Arc<Settings>>,
}

impl Lists {
    fn place(&mut self, settings: &Arc<Settings>) -> usize {
        self.known.iter().position(|known| Arc::ptr_eq(known, settings)).unwrap_or_else(|| {
            self.known.push(Arc::clone(settings));
            self.known.len() - 1
        })
    }

    fn statement(&mut self, statement: &Statement, told: Told) -> CarriedStatement {
        let told = match told {
            Told::Shape(shape) => statement.described(shape).map(Blob),
            Told::Nothing | Told::Asked => None,
        };
        CarriedStatement { rest: Blob(statement.rest().into()), context: self.place(statement.context()), told }
    }
}

impl CarriedState {
    /// What is to be carried of a state.
    #[must_use]
    pub fn of(state: &ClientState) -> Self {
        let mut lists = Lists::default();
        let (settings, startup) = (lists.place(&state.settings), lists.place(&state.startup));
        let named = state.statements.named.iter();
        let named = named.map(|(name, named)| (Blob(name.clone()), lists.statement(&named.statement, named.told)));
        let named = named.collect();
        let unnamed = state.statements.unnamed.as_ref().map(|s| lists.statement(s, Told::Nothing));
        let plain = |list: &Arc<Settings>| {
            list.iter().map(|(name, value)| (name.to_owned(), value.to_owned(), list.reported(name))).collect()
        };
        let (lists, told) = (lists.known.iter().map(plain).collect(), state.told.bits());
        Self { lists, settings, startup, named, unnamed, told }
    }

    /// The state again, with what a pool's clients share.
    #[must_use]
    pub fn unpack(self, tables: &Tables) -> ClientState {
        let lists: Vec<_> = self.lists.into_iter().map(|list| unpack_list(list, tables)).collect();
        let list = |at: usize| lists.get(at).map_or_else(Arc::default, Arc::clone);
        let mut state = ClientState::new(list(self.settings), &tables.settings);
        state.startup = list(self.startup);
        state.told = Taints::from_bits(self.told);
        let statement = |carried: CarriedStatement| {
            let statement = tables.statements.intern(&carried.rest.0, &list(carried.context));
            // Seen in an epoch that is over: what it looks like by now is asked for again.
            let before = tables.statements.epoch().wrapping_sub(1);
            let told = carried.told.and_then(|described| statement.shape(&described.0, before));
            Named { statement, told: told.map_or(Told::Nothing, Told::Shape) }
        };
        state.statements.named = self.named.into_iter().map(|(name, carried)| (name.0, statement(carried))).collect();
        state.statements.unnamed = self.unnamed.map(|carried| statement(carried).statement);
        state
    }
}

/// A list that was made to be nobody else's is so again, by a mark of this process.
fn unpack_list(list: Vec<Parameter>, tables: &Tables) -> Arc<Settings> {
    let settings = list.into_iter().fold(Settings::default(), |settings, (name, value, reported)| match reported {
        true => settings.with_reported(&name, &value),
        false => settings.with(&name, &value),
    });
    if settings.is_unshared() {
        return Arc::new(settings.with(UNSHARED, &unshared_mark()));
    }
    tables.settings.intern(settings)
}

/// What there is to know of a server that was reset.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CarriedServerState {
    /// The settings that it reports.
    reported: Vec<(String, String)>,
    pid: u32,
}

impl CarriedServerState {
    /// What is to be carried of a state; `None` where there is more to know.
    #[must_use]
    pub fn of(state: &ServerState) -> Option<Self> {
        let quiet = state.pipeline.is_idle() && !state.hold && !state.unsettled && !state.partial;
        let blank = state.left().is_empty() && state.statements.is_empty() && state.by_sql.is_empty();
        let told = state.listens.is_none() && state.probe.is_none() && !state.promoted;
        let settings = &state.settings;
        let known = settings.iter().all(|(name, _)| settings.reported(name));
        let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let carried = || Self { reported: settings.iter().map(pair).collect(), pid: state.pid };
        (quiet && blank && told && known).then(carried)
    }

    /// The state again, as that of a server that others have used.
    #[must_use]
    pub fn unpack(self, tables: &Tables, max_prepared_statements: usize) -> ServerState {
        let settings = tables.settings.intern(Settings::from_reported(self.reported));
        let mut state = ServerState::new(settings, max_prepared_statements);
        state.pid = self.pid;
        state.sequences = Sequences::of_used();
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::session::Taint;

    #[test]
    fn a_server_arrives_as_one_that_others_have_used() {
        let (here, there) = (Tables::default(), Tables::default());
        let reported = Settings::from_reported([("DateStyle", "ISO, MDY"), ("client_encoding", "UTF8")]);
        let mut state = ServerState::new(here.settings.intern(reported.clone()), 10);
        state.pid = 4711;
        let carried = CarriedServerState::of(&state).unwrap();
        let json = serde_json::to_vec(&carried).unwrap();
        let after = serde_json::from_slice::<CarriedServerState>(&json).unwrap().unpack(&there, 10);
        assert_eq!((&*after.settings, after.pid), (&reported, 4711));
        assert!(Arc::ptr_eq(&after.settings, &there.settings.intern(reported.clone())), "not interned");
        assert!(after.sequences.is_worn(), "it would do for texts that need a server that nobody else has used");
        assert!(!after.sequences.only_foreign());
    }

    #[test]
    fn a_server_that_was_not_reset_stays() {
        let tables = Tables::default();
        let reported = || tables.settings.intern(Settings::from_reported([("DateStyle", "ISO, MDY")]));
        let stays = |change: &dyn Fn(&mut ServerState)| {
            let mut state = ServerState::new(reported(), 10);
            change(&mut state);
            CarriedServerState::of(&state).is_none()
        };
        assert!(!stays(&|_| {}));
        assert!(stays(&|state| state.settings = tables.settings.intern(state.settings.with("app.tenant", "x"))));
        assert!(stays(&|state| state.touched |= Taint::Lasting));
        assert!(stays(&|state| state.pins |= Taint::Temporary));
        assert!(stays(&|state| state.listens = Some(Box::default())));
        assert!(stays(&|state| state.promoted = true));
        assert!(stays(&|state| assert!(state.by_sql.insert((*b"mine").into()))));
        let statement = tables.statements.intern(&parse("select $1"), &reported());
        assert!(stays(&|state| state.statements.insert(&statement, 0)));
    }

    fn parse(text: &str) -> Vec<u8> {
        [text.as_bytes(), &[0, 0, 1, 0, 0, 0, 23][..]].concat()
    }

    fn client(tables: &Tables) -> ClientState {
        let reported = Settings::from_reported([("DateStyle", "ISO, MDY"), ("client_encoding", "UTF8")]);
        let startup = tables.settings.intern(reported.with("application_name", "web"));
        let mut state = ClientState::new(Arc::clone(&startup), &tables.settings);
        let first = tables.statements.intern(&parse("select $1"), &state.context);
        let shape = first.shape(b"row", tables.statements.epoch()).unwrap();
        state.statements.named.insert((*b"first").into(), Named { statement: first, told: Told::Shape(shape) });
        let later =
            tables.settings.intern(startup.with_reported("datestyle", "SQL, DMY").with("app.tenant", "\u{e9}'"));
        state.set_settings(later, &tables.settings);
        let second = tables.statements.intern(&parse("select '01/02/03'::date, $1"), &state.context);
        state.statements.named.insert((*b"\xff").into(), Named { statement: Arc::clone(&second), told: Told::Nothing });
        state.statements.unnamed = Some(second);
        state
    }

    #[test]
    fn a_state_arrives_as_it_left() {
        let (here, there) = (Tables::default(), Tables::default());
        let mut before = client(&here);
        before.told = Taints::MOVABLE;
        let carried = CarriedState::of(&before);
        let json = serde_json::to_vec(&carried).unwrap();
        let after = serde_json::from_slice::<CarriedState>(&json).unwrap().unpack(&there);
        assert_eq!(*after.settings, *before.settings);
        assert_eq!(*after.startup, *before.startup);
        assert_eq!(after.told, Taints::MOVABLE);
        assert!(!Arc::ptr_eq(&after.settings, &after.startup));
        assert!(Arc::ptr_eq(&after.settings, &there.settings.intern((*before.settings).clone())), "not interned");
        assert_eq!(after.statements.named.len(), 2);
        for (name, was) in &before.statements.named {
            let is = &after.statements.named[name];
            assert_eq!(
                (is.statement.rest(), &**is.statement.context()),
                (was.statement.rest(), &**was.statement.context())
            );
        }
        let unnamed = after.statements.unnamed.as_ref().unwrap();
        assert!(Arc::ptr_eq(unnamed, &after.statements.named[&b"\xff"[..]].statement));
        assert!(unnamed.is(&parse("select '01/02/03'::date, $1"), &after.context));
        let first = &after.statements.named[&b"first"[..]];
        let Told::Shape(shape) = first.told else { panic!("{first:?}") };
        assert_eq!(first.statement.described(shape).as_deref(), Some(&b"row"[..]));
        assert!(!first.statement.is_steady(there.statements.epoch()), "nobody has looked");
    }

    /// Such marks are numbers of one process: in another they could be somebody else's.
    #[test]
    fn what_is_nobody_elses_stays_so() {
        let (here, there) = (Tables::default(), Tables::default());
        let mut before = client(&here);
        let context = before.unshared_context();
        before.statements.unnamed = Some(here.statements.intern(&parse("select $1"), &context));
        let arrive = || CarriedState::of(&before).unpack(&there).statements.unnamed.unwrap();
        let (one, other) = (arrive(), arrive());
        assert!(one.context().is_unshared() && other.context().is_unshared());
        assert_ne!(one.context(), other.context());
    }
}
