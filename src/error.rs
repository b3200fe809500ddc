//! Errors that a client may see.
//!
//! Only a [`ClientError`] can be written to a client, so nothing internal (paths, secrets, another client's
//! data) reaches one by accident. Layers have their own error enums and convert at their edge.

use std::borrow::Cow;

/// How PostgreSQL's drivers are to take an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// The statement failed; the connection lives on.
    Error,
    /// The connection ends after this message.
    Fatal,
}

impl Severity {
    /// The word of the `S` and `V` fields.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }
}

/// A five-character SQLSTATE, see <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SqlState(pub &'static str);

#[expect(missing_docs, reason = "named as in PostgreSQL's errcodes.txt")]
impl SqlState {
    pub const SUCCESSFUL_COMPLETION: Self = Self("00000");
    pub const WARNING: Self = Self("01000");
    pub const CONNECTION_FAILURE: Self = Self("08006");
    pub const PROTOCOL_VIOLATION: Self = Self("08P01");
    pub const FEATURE_NOT_SUPPORTED: Self = Self("0A000");
    pub const UNDEFINED_OBJECT: Self = Self("42704");
    pub const CANT_CHANGE_RUNTIME_PARAM: Self = Self("55P02");
    pub const INVALID_PARAMETER_VALUE: Self = Self("22023");
    pub const INVALID_AUTHORIZATION: Self = Self("28000");
    pub const INVALID_PASSWORD: Self = Self("28P01");
    pub const INVALID_STATEMENT_NAME: Self = Self("26000");
    pub const INVALID_CATALOG_NAME: Self = Self("3D000");
    pub const DUPLICATE_STATEMENT: Self = Self("42P05");
    pub const SYNTAX_ERROR: Self = Self("42601");
    pub const INSUFFICIENT_PRIVILEGE: Self = Self("42501");
    pub const TOO_MANY_CONNECTIONS: Self = Self("53300");
    pub const CONFIGURATION_LIMIT: Self = Self("53400");
    pub const PROGRAM_LIMIT_EXCEEDED: Self = Self("54000");
    pub const QUERY_CANCELED: Self = Self("57014");
    pub const ADMIN_SHUTDOWN: Self = Self("57P01");
    pub const CANNOT_CONNECT_NOW: Self = Self("57P03");
    pub const IDLE_SESSION_TIMEOUT: Self = Self("57P05");
    pub const IDLE_IN_TRANSACTION_TIMEOUT: Self = Self("25P03");
    pub const CONFIG_FILE_ERROR: Self = Self("F0000");
    pub const INTERNAL_ERROR: Self = Self("XX000");
}

/// An error with text that a client may see: severity, SQLSTATE, message, and where they help a detail and a
/// hint (which names the setting that governs the limit).
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ClientError {
    /// Whether the connection ends.
    pub severity: Severity,
    /// The code that drivers branch on.
    pub code: SqlState,
    /// One line, lower case, no full stop, as PostgreSQL's own.
    pub message: Cow<'static, str>,
    /// Who and what, in full sentences.
    pub detail: Option<String>,
    /// What to do about it, naming the setting.
    pub hint: Option<Cow<'static, str>>,
}

impl ClientError {
    /// An error that ends the connection.
    pub fn fatal(code: SqlState, message: impl Into<Cow<'static, str>>) -> Self {
        Self { severity: Severity::Fatal, code, message: message.into(), detail: None, hint: None }
    }

    /// An error after which the connection lives on.
    pub fn error(code: SqlState, message: impl Into<Cow<'static, str>>) -> Self {
        Self { severity: Severity::Error, ..Self::fatal(code, message) }
    }

    /// Adds the `D` field.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds the `H` field.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
