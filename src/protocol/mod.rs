//! Layer 2: what the messages mean. Pure: no sockets, no clock, no tokio.
//!
//! [`pipeline`] matches replies with requests; [`statements`] and [`settings`] hold what follows a client from
//! server to server; [`request`] and [`reply`] apply them to the two byte streams; [`sql`] reads just enough
//! SQL. [`ClientState`] and [`ServerState`] are the two sides' memory between messages.

mod asking;
pub mod audit;
pub mod custom;
pub mod functions;
pub mod listen;
pub mod numbers;
pub mod own;
pub mod pipeline;
pub mod reply;
pub mod request;
pub mod sequences;
pub mod session;
pub mod settings;
pub mod sql;
pub mod statements;
pub mod trace;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use functions::Unknown;
use listen::{Listening, OnServer};
use numbers::Numbers;
use own::Own;
use pipeline::Pipeline;
use pipeline::loss::Owed;
use request::Tables;
use sequences::Sequences;
use session::{Probe, Taint, Taints};
use settings::{Settings, SettingsTable, UNSHARED};
use statements::{ClientStatements, ServerStatements, Statement};

use crate::stats::StatementCounts;

/// What a client has set up and expects to find on every server. In this order in memory: what each transaction touches
/// is together.
#[derive(Debug)]
#[repr(C)]
pub struct ClientState {
    /// Its settings, complete: every reported parameter and those it asked for at startup.
    pub settings: Arc<Settings>,
    /// Which of Carpool's own settings are among them.
    pub own: Own,
    /// An error was answered without a server: everything up to Sync is dropped.
    pub skipping: bool,
    /// What it listens to, where its server needn't.
    pub listening: Option<Box<Listening>>,
    /// Who it is to [`Sequences`]: a new number after each DISCARD of its own.
    pub tenant: u64,
    /// Reasons to keep a server that it is to be told of, see [`own::PIN_NOTICE`].
    pub to_tell: Taints,
    /// Those that it was told of.
    pub told: Taints,
    /// The settings that matter when a text is parsed, see [`Settings::when_parsing`].
    pub context: Arc<Settings>,
    /// Its prepared statements.
    pub statements: ClientStatements,
    /// What its settings were at startup: what RESET ALL and DISCARD ALL bring back.
    pub startup: Arc<Settings>,
}

impl ClientState {
    /// A client with nothing prepared.
    #[must_use]
    pub fn new(settings: Arc<Settings>, table: &SettingsTable) -> Self {
        let context = table.intern(settings.when_parsing());
        Self::starting(settings, context)
    }

    /// As [`ClientState::new`], with the settings among them that matter when a text is parsed.
    #[must_use]
    pub fn starting(settings: Arc<Settings>, context: Arc<Settings>) -> Self {
        let tenant = sequences::new_tenant();
        let (startup, own) = (Arc::clone(&settings), Own::of(&settings));
        let (to_tell, told) = (Taints::NONE, Taints::NONE);
        Self {
            tenant,
            statements: ClientStatements::default(),
            settings,
            startup,
            context,
            own,
            skipping: false,
            to_tell,
            told,
            listening: None,
        }
    }

    /// The settings that matter when a text is parsed, made to be nobody else's.
    #[must_use]
    pub fn unshared_context(&self) -> Arc<Settings> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mark = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
        Arc::new(self.context.with(UNSHARED, &mark))
    }

    /// Replaces the settings.
    pub fn set_settings(&mut self, settings: Arc<Settings>, table: &SettingsTable) {
        self.context = table.intern(settings.when_parsing());
        self.own = Own::of(&settings);
        self.settings = settings;
    }
}

/// What is known of one server connection. In this order in memory: what each transaction touches is together.
#[derive(Debug)]
#[repr(C)]
pub struct ServerState {
    /// Requests in flight and the transaction's state.
    pub pipeline: Pipeline,
    /// Its settings, by the same rule as the client's.
    pub settings: Arc<Settings>,
    /// What of the session may have been changed, beyond the reported settings, since it was last known.
    pub touched: Taints,
    /// What is on the server that ties the client to it.
    pub pins: Taints,
    /// Whether the client may keep the server between transactions.
    pub keeping: Keeping,
    /// A named function was called in the transaction at hand.
    pub called: bool,
    /// Functions were changed in the transaction at hand.
    pub functions_changed: bool,
    /// A schema change ran in the transaction at hand.
    pub schema_changed: bool,
    /// The client's next messages wait until all that is in flight is answered.
    pub hold: bool,
    /// Requests went out that may have changed the settings, and their end isn't known: what is parsed now is
    /// parsed under settings that aren't known either.
    pub unsettled: bool,
    /// A message is on its way to the client in parts: nothing may be put in between.
    pub partial: bool,
    /// A query that begins a transaction block went out, since the last one ended.
    pub begins: bool,
    /// A reset by the client has succeeded; what the server reports up to ReadyForQuery are its own defaults,
    /// not the client's.
    pub was_reset: bool,
    /// A question about the session under way.
    pub probe: Option<Box<Probe>>,
    /// The question that was asked last, where it may be asked again.
    pub question: Option<Arc<Statement>>,
    /// What it listens to for its client.
    pub listens: Option<Box<OnServer>>,
    /// Whose the sequence values are that it remembers.
    pub sequences: Sequences,
    /// Uses of named statements that are not in the statistics yet.
    pub counts: StatementCounts,
    /// Statements prepared on it.
    pub statements: ServerStatements,
    /// The bytes of a lone prepared execution, kept while it may have to be sent again.
    pub retry: request::Retry,
    /// The portals that change the records when executed.
    pub portals: request::Portals,
    /// As `was_reset`, for these parameters only.
    pub defaulted: Vec<Box<str>>,
    /// The names of statements that the client has prepared on it by SQL.
    pub by_sql: HashSet<Box<[u8]>>,
    /// The parameters that may have been changed, see `touched`, where their names are known.
    pub touched_names: Vec<Box<str>>,
    /// The last command tag of a transaction that may leave something, or of a pinned one, without its numbers.
    pub last_command: String,
    /// The functions that were `called` and whose class isn't known.
    pub unknown_functions: Unknown,
    /// The numbers of clients in the request at hand.
    pub numbers: Option<Box<Numbers>>,
    /// Its process number.
    pub pid: u32,
    /// It has said that it isn't a standby any more.
    pub promoted: bool,
}

impl ServerState {
    /// The state after login.
    #[must_use]
    pub fn new(settings: Arc<Settings>, max_prepared_statements: usize) -> Self {
        Self {
            pipeline: Pipeline::default(),
            statements: ServerStatements::new(max_prepared_statements),
            by_sql: HashSet::new(),
            settings,
            touched: Taints::NONE,
            touched_names: Vec::new(),
            pins: Taints::NONE,
            last_command: String::new(),
            keeping: Keeping::Unasked,
            sequences: Sequences::default(),
            probe: None,
            question: None,
            called: false,
            unknown_functions: Unknown::default(),
            functions_changed: false,
            schema_changed: false,
            retry: request::Retry::default(),
            portals: request::Portals::default(),
            hold: false,
            counts: StatementCounts::default(),
            unsettled: false,
            partial: false,
            begins: false,
            was_reset: false,
            defaulted: Vec::new(),
            numbers: None,
            pid: 0,
            promoted: false,
            listens: None,
        }
    }

    /// The server is lost. What its client is owed, if its session can go on with another; `None` where the client has
    /// lost more than the request that was under way.
    pub fn lose(&mut self) -> Option<Owed> {
        let tied = !self.pins.is_empty() || self.listens.is_some() || self.probe.is_some() || self.partial;
        // Drivers take it that BEGIN fails with the connection only, and else that they are in a block for ever.
        if tied || self.begins || self.touched.has(Taint::EndsServer) {
            None
        } else if self.pipeline.is_idle() {
            // Whatever it may have left there would be gone.
            self.left().is_empty().then_some(Owed::Nothing)
        } else {
            self.pipeline.lose()
        }
    }

    /// All that was sent is answered.
    pub fn settle(&mut self) {
        if !self.pipeline.is_open() {
            self.unsettled = false;
            self.statements.settle();
        }
        if self.pipeline.is_idle() {
            self.portals.clear();
            self.retry.stop();
            self.called = false;
        }
    }

    /// Notes what a request may do to the session.
    pub fn touch(&mut self, taint: Taints, ends: Taints, names: &[Box<str>]) {
        // What a question under way may find counts as there.
        let asked = self.probe.as_ref().map_or(Taints::NONE, |probe| probe.asked().and(Taints::PINNING));
        self.touched |= taint.or(ends.and(self.pins.or(asked)));
        for name in names {
            if !self.touched_names.contains(name) {
                self.touched_names.push(name.clone());
            }
        }
    }

    /// Notes what ran, where it may be asked for: see [`Self::last_command`].
    pub fn note_command(&mut self, tag: &[u8]) {
        if !self.left().is_empty() {
            let words = tag.split(u8::is_ascii_digit).next().unwrap_or_default();
            self.last_command.clear();
            self.last_command.push_str(String::from_utf8_lossy(words.trim_ascii()).as_ref());
        }
    }

    /// Something was found that ties the client to the server, or has it be reset where nobody may keep one.
    pub fn found(&mut self, pins: Taints) {
        match self.keeping {
            Keeping::Never => self.touched |= pins,
            _ => self.pins |= pins,
        }
    }

    /// What a reset must clear, or can't.
    #[must_use]
    pub const fn left(&self) -> Taints {
        self.touched.or(self.pins)
    }

    /// The session was reset (DISCARD ALL).
    pub fn discarded(&mut self) {
        self.probe = None;
        self.sequences.forget();
        self.touched = self.touched.and(Taints::LASTING);
        self.pins = self.pins.and(Taints::LASTING);
        self.touched_names.clear();
        self.by_sql.clear();
        self.unknown_functions = Unknown::default();
        if let Some(listens) = &mut self.listens {
            listens.channels.clear();
            listens.noted = true;
        }
    }

    /// The client keeps the server by its own wish, or doesn't any more. What it used it for is unknown: then the
    /// server is reset when the client parts from it.
    pub fn keep_by_hand(&mut self, wanted: bool) {
        let kept = self.pins.has(Taint::ByHand);
        if wanted && self.keeping == Keeping::Allowed {
            self.pins |= Taint::ByHand;
        } else if kept {
            self.pins = self.pins.without(Taint::ByHand.into());
            self.touched |= Taint::Session;
        }
    }

    /// Whether the client may part from an idle server, and else what is to be done first.
    pub fn parting(&mut self, tables: &Tables) -> Parting {
        // It is still there, and the block has ended.
        self.begins = false;
        self.touched = self.touched.without(Taint::EndsServer.into());
        if self.left().is_empty() && self.listens.is_none() {
            return Parting::Free;
        }
        let askable = match self.keeping {
            // The rest stays noted, and is a reason to reset the server.
            Keeping::Never => Taints::MOVABLE,
            _ => Taints::ASKABLE,
        };
        if self.keeping != Keeping::Never {
            let found = self.touched.without(askable).and(Taints::PINNING);
            self.pins |= found;
            self.touched = self.touched.without(found);
        }
        if self.touched.and(askable).is_empty() {
            return match &self.listens {
                Some(_) => Parting::Listens,
                None if self.pins.is_empty() => Parting::Free,
                None => Parting::Pinned,
            };
        }
        let note = self.listens.as_ref().and_then(|l| l.note.as_deref());
        let mut functions = std::mem::take(&mut self.unknown_functions);
        let mut names = std::mem::take(&mut self.touched_names);
        if self.touched.has(Taint::Setting) {
            // Nothing lists those with a dot.
            names.extend(self.settings.iter().filter(|(name, _)| name.contains('.')).map(|(name, _)| name.into()));
            functions.add_custom(&mut names, &tables.functions);
            names.sort_unstable();
            names.dedup();
        }
        // What can't be asked otherwise, should that fail, is asked for once.
        let repeats = self.touched.has(Taint::Setting) && note.is_none() && functions.is_settled();
        let (probe, sql) = Probe::new(self.left().and(askable), &names, note, functions);
        self.touched = self.touched.without(askable);
        self.probe = Some(Box::new(probe));
        // What is parsed before the answer is parsed under settings that aren't known.
        self.unsettled = true;
        Parting::Ask(self.ask(&sql, repeats, &tables.statements))
    }
}

/// Whether a client may keep its server between transactions for what can't be moved to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keeping {
    /// It hasn't needed to.
    Unasked,
    /// It may.
    Allowed,
    /// Nobody may: such state ends with the transaction.
    Never,
}

/// See [`ServerState::parting`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Parting {
    /// It may.
    Free,
    /// These messages are to be sent; the answer will tell.
    Ask(Vec<u8>),
    /// It may not.
    Pinned,
    /// The server listens, or did: who delivers from now on is to be settled first.
    Listens,
}
