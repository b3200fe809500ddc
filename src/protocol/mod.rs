//! Layer 2: what the messages mean. Pure: no sockets, no clock, no tokio.
//!
//! [`pipeline`] matches replies with requests; [`statements`] and [`settings`] hold what follows a client from
//! server to server; [`request`] and [`reply`] apply them to the two byte streams; [`sql`] reads just enough
//! SQL. [`ClientState`] and [`ServerState`] are the two sides' memory between messages.

pub mod pipeline;
pub mod reply;
pub mod request;
pub mod settings;
pub mod sql;
pub mod statements;

use std::sync::Arc;

use pipeline::Pipeline;
use settings::{Settings, SettingsTable};
use statements::{ClientStatements, ServerStatements};

use crate::stats::StatementCounts;

/// What a client has set up and expects to find on every server.
#[derive(Debug)]
pub struct ClientState {
    /// Its prepared statements.
    pub statements: ClientStatements,
    /// Its settings, complete: every reported parameter and those it asked for at startup.
    pub settings: Arc<Settings>,
    /// The settings that matter when a text is parsed: all but `application_name`.
    pub context: Arc<Settings>,
    /// An error was answered without a server: everything up to Sync is dropped.
    pub skipping: bool,
}

impl ClientState {
    /// A client with nothing prepared.
    #[must_use]
    pub fn new(settings: Arc<Settings>, table: &SettingsTable) -> Self {
        let context = table.intern(settings.without("application_name"));
        Self { statements: ClientStatements::default(), settings, context, skipping: false }
    }

    /// Replaces the settings.
    pub fn set_settings(&mut self, settings: Arc<Settings>, table: &SettingsTable) {
        self.context = table.intern(settings.without("application_name"));
        self.settings = settings;
    }
}

/// What is known of one server connection.
#[derive(Debug)]
pub struct ServerState {
    /// Requests in flight and the transaction's state.
    pub pipeline: Pipeline,
    /// Statements prepared on it.
    pub statements: ServerStatements,
    /// Its settings, by the same rule as the client's.
    pub settings: Arc<Settings>,
    /// Session state that this layer can't follow was or may have been changed, and why: the server must be
    /// reset before another client gets it.
    pub taint: Option<Taint>,
    /// A schema change ran in the transaction at hand.
    pub schema_changed: bool,
    /// The bytes of a lone prepared execution, kept while it may have to be sent again.
    pub retry: request::Retry,
    /// What the portal bound last does when executed.
    pub bound: request::Bound,
    /// The client's next messages wait until all that is in flight is answered.
    pub hold: bool,
    /// Uses of named statements that are not in the statistics yet.
    pub counts: StatementCounts,
}

impl ServerState {
    /// The state after login.
    #[must_use]
    pub fn new(settings: Arc<Settings>, max_prepared_statements: usize) -> Self {
        Self {
            pipeline: Pipeline::default(),
            statements: ServerStatements::new(max_prepared_statements),
            settings,
            taint: None,
            schema_changed: false,
            retry: request::Retry::default(),
            bound: request::Bound::default(),
            hold: false,
            counts: StatementCounts::default(),
        }
    }
}

/// Why a server needs a reset before its next client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taint {
    /// SET or RESET of a parameter that isn't reported.
    Setting,
    /// SQL-level PREPARE.
    SqlPrepare,
    /// LISTEN.
    Listen,
    /// LOAD.
    Load,
    /// DECLARE … WITH HOLD, or a temporary object.
    SessionObject,
    /// The session user was changed.
    SessionUser,
    /// A client had it for a whole session.
    Session,
}

impl Taint {
    /// For logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Setting => "a setting was changed",
            Self::SqlPrepare => "PREPARE was used",
            Self::Listen => "LISTEN was used",
            Self::Load => "LOAD was used",
            Self::SessionObject => "a temporary object or held cursor was made",
            Self::SessionUser => "the session user was changed",
            Self::Session => "a client's session ended",
        }
    }
}
