//! Session state that servers don't report: what may have changed ([`Taints`]), the question that finds out
//! ([`Probe`]), and what it found ([`Findings`]).
//!
//! A text that may leave something behind is noticed when it goes out. When the transaction has ended the server
//! is asked what there is: settings then follow the client like the reported ones; what can't be moved to
//! another server ties the client to this one (a *pin*) until a later question finds it gone.

use super::custom;
use super::functions::{Class, Unknown};
use super::listen::{Channel, NOTE};
use super::settings::ROLE;
use crate::wire::frame::{Fields, FrameError};

/// A kind of session state that may be on a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Taint {
    /// A parameter that isn't reported was set or reset, and its name couldn't be told.
    Setting = 1 << 0,
    /// SET ROLE, SET SESSION AUTHORIZATION.
    SessionUser = 1 << 1,
    /// SQL-level PREPARE.
    SqlPrepare = 1 << 2,
    /// LISTEN.
    Listen = 1 << 3,
    /// A temporary object.
    Temporary = 1 << 4,
    /// A session-level advisory lock.
    AdvisoryLock = 1 << 5,
    /// DECLARE … WITH HOLD.
    HeldCursor = 1 << 6,
    /// LOAD, SET SEED: there is no asking whether something is left of it, and no reset removes it.
    Unknown = 1 << 7,
    /// Something that no reset removes, so that the connection must be closed.
    Lasting = 1 << 8,
    /// A client had it for a whole session.
    Session = 1 << 9,
    /// As [`Taint::Setting`], with the names known.
    Named = 1 << 10,
    /// It read sequence values (`currval`, `lastval`), and may again; only DISCARD ends that.
    Sequences = 1 << 11,
    /// A C function was called whose variables live as long as the backend.
    Opaque = 1 << 12,
    /// Of a text, among what it ends: it acts on the channels listened to, shows them, or sends notifications.
    Channels = 1 << 13,
    /// It wrote its server's process number down: others may look it up to cancel what the client runs.
    ProcessNumber = 1 << 14,
    /// The client asked for its server, see [`super::own`].
    ByHand = 1 << 15,
    /// It ends its server: the session ends with that.
    EndsServer = 1 << 18,
    /// Of a text, among what it ends: it shows which prepared statements there are.
    ShowsPrepared = 1 << 17,
    /// What it does depends on what its server's process has run before: it gets a server that nobody else has used.
    Process = 1 << 16,
}

impl Taint {
    /// All, in the order in which they are named to people.
    pub const ALL: [Self; 16] = [
        Self::Temporary,
        Self::AdvisoryLock,
        Self::HeldCursor,
        Self::Listen,
        Self::SqlPrepare,
        Self::Sequences,
        Self::Opaque,
        Self::Unknown,
        Self::Lasting,
        Self::Process,
        Self::ProcessNumber,
        Self::ByHand,
        Self::SessionUser,
        Self::Setting,
        Self::Named,
        Self::Session,
    ];

    /// For logs, SHOW and error texts: what is on the server.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Setting | Self::Named => "settings",
            Self::SessionUser => "session user",
            Self::SqlPrepare | Self::ShowsPrepared => "prepared statement",
            Self::Listen | Self::Channels => "listen",
            Self::Temporary => "temporary object",
            Self::AdvisoryLock => "advisory lock",
            Self::HeldCursor => "held cursor",
            Self::Sequences => "sequence values",
            Self::Opaque => "C function",
            Self::Unknown => "unknown state",
            Self::Lasting => "lasting state",
            Self::EndsServer => "ended server",
            Self::Session => "session",
            Self::ProcessNumber => "process number",
            Self::Process => "server process",
            Self::ByHand => "by hand",
        }
    }
}

/// A set of [`Taint`]s.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Taints(u32);

impl Taints {
    /// None.
    pub const NONE: Self = Self(0);

    /// As a number, see [`Taints::from_bits`].
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Those of a number that another process has given.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// What follows a client to other servers.
    pub const MOVABLE: Self = Self(Taint::Setting as u32 | Taint::Named as u32 | Taint::SessionUser as u32);
    /// What a [`Probe`] can find out about.
    pub const ASKABLE: Self = Self(
        Self::MOVABLE.0
            | Taint::SqlPrepare as u32
            | Taint::Listen as u32
            | Taint::Temporary as u32
            | Taint::AdvisoryLock as u32
            | Taint::HeldCursor as u32,
    );

    /// What ties a client to its server.
    pub const PINNING: Self = Self(
        Taint::SqlPrepare as u32
            | Taint::Listen as u32
            | Taint::Temporary as u32
            | Taint::AdvisoryLock as u32
            | Taint::HeldCursor as u32
            | Taint::Sequences as u32
            | Taint::Opaque as u32
            | Taint::Unknown as u32
            | Taint::Lasting as u32
            | Taint::Process as u32
            | Taint::ProcessNumber as u32
            | Taint::ByHand as u32,
    );

    /// What no reset removes.
    pub const LASTING: Self =
        Self(Taint::Lasting as u32 | Taint::Opaque as u32 | Taint::Unknown as u32 | Taint::Process as u32);

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether these are signs that the client will be tied to its server, rather than that it can't be told.
    #[must_use]
    pub fn will_pin(self) -> bool {
        let pinning = self.and(Self::PINNING);
        !pinning.without(Self::ASKABLE).is_empty() || !pinning.is_empty() && self.and(Self::ASKABLE) != Self::ASKABLE
    }

    /// Whether `taint` is one of them.
    #[must_use]
    pub const fn has(self, taint: Taint) -> bool {
        self.0 & taint as u32 != 0
    }

    /// Those in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those in either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that aren't in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The one to name first.
    #[must_use]
    pub fn first(self) -> Option<Taint> {
        self.iter().next()
    }

    /// All, in the order in which they are named to people.
    pub fn iter(self) -> impl Iterator<Item = Taint> {
        Taint::ALL.into_iter().filter(move |&taint| self.has(taint))
    }

    /// All by name, with commas between.
    #[must_use]
    pub fn names(self) -> String {
        let mut names: Vec<_> = self.iter().map(Taint::as_str).collect();
        names.dedup();
        names.join(", ")
    }
}

impl From<Taint> for Taints {
    fn from(taint: Taint) -> Self {
        Self(taint as u32)
    }
}

impl std::ops::BitOrAssign<Taint> for Taints {
    fn bitor_assign(&mut self, taint: Taint) {
        self.0 |= taint as u32;
    }
}

impl std::ops::BitOrAssign for Taints {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// A question to a server under way: what session state is there?
#[derive(Debug)]
pub struct Probe {
    asked: Taints,
    functions: Unknown,
    findings: Findings,
    failed: bool,
}

/// What a [`Probe`] found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings {
    /// What is there, of what was asked about and can't be moved.
    pub present: Taints,
    /// Whether `settings` are all that differ from the session's start; else only some were asked about.
    pub complete: bool,
    /// Parameters and their values, in the server's spelling; `None`: there is no such parameter.
    pub settings: Vec<(String, Option<String>)>,
    /// As `settings`, of parameters that functions of the database set; see [`custom`](super::custom).
    pub custom: Vec<(Box<str>, Option<String>)>,
    /// They were asked for.
    pub custom_asked: bool,
    /// The channels listened to, in their order.
    pub channels: Vec<Channel>,
    /// The channels that were restored in a transaction have been committed.
    pub noted: bool,
    /// The functions that were asked for, and what they may do.
    pub functions: Vec<(Box<str>, Class)>,
}

/// Where in `pg_catalog` each kind is seen.
const PRESENCE: [(Taint, &str); 4] = [
    (Taint::SqlPrepare, "pg_catalog.pg_prepared_statements WHERE from_sql"),
    // Everything in a schema depends on it.
    (
        Taint::Temporary,
        "pg_catalog.pg_depend WHERE refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass \
         AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()",
    ),
    (
        Taint::AdvisoryLock,
        "pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' \
         AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()",
    ),
    (Taint::HeldCursor, "pg_catalog.pg_cursors WHERE is_holdable"),
];

impl Probe {
    /// A question about `asked`, unless all settings are among that about the parameters `names`, whether the server
    /// has `note` (see [`restoring`](super::listen::restoring)), and about the `functions`; and its SQL. Everything in
    /// it is qualified: the client's `search_path` must not change its meaning.
    ///
    /// When all settings are asked for, `names` must have those of the client that have a dot.
    #[must_use]
    pub fn new(asked: Taints, names: &[Box<str>], note: Option<&str>, functions: Unknown) -> (Self, String) {
        let asked = asked.and(Taints::ASKABLE);
        let complete = asked.has(Taint::Setting);
        let mut parts = Vec::new();
        if complete {
            parts.push(
                "SELECT 's',name,setting FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.=) 'session'"
                    .to_owned(),
            );
            // The view doesn't have those with a dot, unless a library has defined them: then it knows better.
            let dotted = names.iter().filter(|name| name.contains('.')).map(|name| literal(name));
            let dotted = dotted.collect::<Vec<_>>().join(",");
            if !dotted.is_empty() {
                parts.push(format!(
                    "SELECT 's',n,pg_catalog.current_setting(n,true) FROM pg_catalog.unnest(ARRAY[{dotted}]) AS n \
                     WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_settings s \
                     WHERE pg_catalog.lower(s.name) OPERATOR(pg_catalog.=) n)"
                ));
            }
            if !functions.custom_known {
                parts.push(custom::question());
            }
        } else {
            for name in names {
                let literal = literal(name);
                parts.push(format!("SELECT 's',{literal},pg_catalog.current_setting({literal},true)"));
            }
        }
        if asked.has(Taint::SessionUser) {
            parts.push(format!("SELECT 's','{ROLE}',pg_catalog.current_setting('{ROLE}',true)"));
        }
        for (taint, place) in PRESENCE.iter().filter(|(taint, _)| asked.has(*taint)) {
            parts.push(format!("SELECT 'p','{}','' WHERE EXISTS (SELECT FROM {place})", taint.as_str()));
        }
        if asked.has(Taint::Listen) {
            parts.push("SELECT 'l',c,'' FROM pg_catalog.pg_listening_channels() AS c".to_owned());
        }
        if let Some(note) = note {
            let setting = literal(NOTE);
            parts.push(format!(
                "SELECT 'n','','' WHERE pg_catalog.current_setting({setting},true) OPERATOR(pg_catalog.=) '{note}'"
            ));
        }
        if !functions.names.is_empty() {
            parts.push(class_question(&functions.names));
        }
        let sql = format!("/* carpool */ {}", parts.join(" UNION ALL "));
        let custom_asked = complete && !functions.custom_known;
        (
            Self {
                asked,
                functions,
                findings: Findings { complete, custom_asked, ..Findings::default() },
                failed: false,
            },
            sql,
        )
    }

    /// Takes a DataRow.
    ///
    /// # Errors
    /// When it isn't one of the answer's.
    pub fn row(&mut self, tag: u8, body: &[u8]) -> Result<(), FrameError> {
        let mut fields = Fields::new(tag, body);
        let columns = fields.u16()?;
        let (kind, name, value) = (fields.value()?, fields.value()?, fields.value()?);
        let (Some(kind), Some(name), 3) = (kind, name, columns) else { return Err(FrameError::Body(tag)) };
        fields.end()?;
        if kind == b"l" {
            // In whatever encoding.
            self.findings.present |= Taint::Listen;
            self.findings.channels.push(name.into());
            return Ok(());
        }
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| FrameError::Body(tag));
        let (name, value) = (text(name)?, value.map(text).transpose()?);
        match kind {
            b"n" => self.findings.noted = true,
            b"f" => {
                let class = Class::from_letters(value.ok_or(FrameError::Body(tag))?);
                self.findings.functions.push((name.into(), class));
            }
            b"s" => self.findings.settings.push((name.to_owned(), value.map(str::to_owned))),
            b"c" => self.findings.custom.push((name.into(), value.map(str::to_owned))),
            _ => {
                let taint = Taint::ALL.into_iter().find(|taint| taint.as_str() == name);
                self.findings.present |= taint.ok_or(FrameError::Body(tag))?;
            }
        }
        Ok(())
    }

    /// It could not be asked as it was.
    pub const fn fail(&mut self) {
        self.failed = true;
    }

    /// Whether it could not be.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        self.failed
    }

    /// What was asked about.
    #[must_use]
    pub const fn asked(&self) -> Taints {
        self.asked
    }

    /// When the class of the first of the functions was found to be unknown.
    #[must_use]
    pub const fn functions_epoch(&self) -> u32 {
        self.functions.epoch
    }

    /// What was found, when all rows have come. Names that no function has do nothing.
    #[must_use]
    pub fn finish(self) -> Findings {
        let mut findings = self.findings;
        for name in self.functions.names {
            if !findings.functions.iter().any(|(found, _)| *found == name) {
                findings.functions.push((name, Class::default()));
            }
        }
        findings
    }
}

/// Asks for the worst of the functions of each name: [`Class::from_letters`]. 13 is the language C, 11 the schema
/// `pg_catalog`; an aggregate's volatility isn't its functions'.
fn class_question(names: &[Box<str>]) -> String {
    let names = names.iter().map(|name| literal(name)).collect::<Vec<_>>().join(",");
    let volatile = "(p.provolatile OPERATOR(pg_catalog.=) 'v' OR p.prokind OPERATOR(pg_catalog.=) 'a' AND \
                     p.pronamespace OPERATOR(pg_catalog.<>) 11::pg_catalog.oid)";
    let others = "p.pronamespace OPERATOR(pg_catalog.<>) 11::pg_catalog.oid";
    let c = "p.prolang OPERATOR(pg_catalog.=) 13::pg_catalog.oid";
    let extension = "EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid OPERATOR(pg_catalog.=) \
                     'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid OPERATOR(pg_catalog.=) p.oid \
                     AND d.deptype OPERATOR(pg_catalog.=) 'e')";
    let language = "l.lanname OPERATOR(pg_catalog.<>) ALL (ARRAY['internal','sql','plpgsql']::pg_catalog.name[])";
    let sequences = "pg_catalog.lower(p.prosrc) OPERATOR(pg_catalog.~) '(curr|last)val'";
    let unnamed = custom::SETS_UNNAMED;
    format!(
        "SELECT 'f',p.proname::pg_catalog.text,pg_catalog.concat(\
         CASE WHEN pg_catalog.bool_or({volatile}) THEN 'a' END,\
         CASE WHEN pg_catalog.bool_or({volatile} AND {others} AND {c} AND NOT {extension}) THEN 'o' END,\
         CASE WHEN pg_catalog.bool_or({volatile} AND {others} AND {language}) THEN 'x' END,\
         CASE WHEN pg_catalog.bool_or({others} AND {sequences}) THEN 's' END,\
         CASE WHEN pg_catalog.bool_or({others} AND {unnamed}) THEN 'd' END) \
         FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) p.prolang \
         WHERE p.proname OPERATOR(pg_catalog.=) ANY (ARRAY[{names}]::pg_catalog.name[]) GROUP BY p.proname"
    )
}

/// A string constant of a parameter's name, which has no backslashes or is refused before.
fn literal(name: &str) -> String {
    format!("'{}'", name.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(columns: [Option<&str>; 3]) -> Vec<u8> {
        let mut body = 3u16.to_be_bytes().to_vec();
        for column in columns {
            match column {
                Some(text) => {
                    body.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
                    body.extend_from_slice(text.as_bytes());
                }
                None => body.extend_from_slice(&u32::MAX.to_be_bytes()),
            }
        }
        body
    }

    #[test]
    fn asks_only_what_is_in_question() {
        let (_, sql) = Probe::new(Taint::Listen.into(), &["a.b".into(), "x".into()], None, Unknown::default());
        assert_eq!(
            sql,
            "/* carpool */ SELECT 's','a.b',pg_catalog.current_setting('a.b',true) \
             UNION ALL SELECT 's','x',pg_catalog.current_setting('x',true) \
             UNION ALL SELECT 'l',c,'' FROM pg_catalog.pg_listening_channels() AS c"
        );
        let (_, sql) = Probe::new(Taint::Setting.into(), &["a.b".into(), "x".into()], None, Unknown::default());
        assert!(sql.contains("'a.b'") && !sql.contains("'x'"), "{sql}");
    }

    #[test]
    fn reads_what_is_there() {
        let (mut probe, _) = Probe::new(
            Taints::ASKABLE,
            &[],
            None,
            Unknown { names: vec!["f".into(), "g".into()], epoch: 0, custom_known: true },
        );
        probe.row(b'D', &row([Some("s"), Some("work_mem"), Some("64")])).unwrap();
        probe.row(b'D', &row([Some("s"), Some("my.x"), None])).unwrap();
        probe.row(b'D', &row([Some("p"), Some("advisory lock"), Some("")])).unwrap();
        assert!(probe.row(b'D', &row([Some("p"), Some("nonsense"), Some("")])).is_err());
        assert!(probe.row(b'D', &row([None, Some("a"), None])).is_err());
        probe.row(b'D', &row([Some("f"), Some("g"), Some("ao")])).unwrap();
        assert!(probe.row(b'D', &row([Some("f"), Some("g"), None])).is_err());
        let whole = row([Some("s"), Some("a"), None]);
        for end in 0..whole.len() {
            assert!(probe.row(b'D', &whole[..end]).is_err());
        }
        let findings = probe.finish();
        assert!(findings.complete);
        assert_eq!(findings.present, Taint::AdvisoryLock.into());
        assert_eq!(findings.settings.len(), 2);
        assert_eq!(findings.functions, [("g".into(), Class::from_letters("ao")), ("f".into(), Class::default())]);
    }

    #[test]
    fn the_pins_are_named_first() {
        let mut taints = Taints::from(Taint::Setting);
        taints |= Taint::Temporary;
        assert_eq!(taints.first(), Some(Taint::Temporary));
        assert_eq!(taints.without(Taint::Temporary.into()).first(), Some(Taint::Setting));
        assert_eq!(Taints::NONE.first(), None);
    }
}
