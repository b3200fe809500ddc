//! Settings that follow a client from server to server.
//!
//! A [`Settings`] is an immutable, sorted list of parameters; equal lists are one allocation (interned by
//! [`SettingsTable`]), so "this server is as this client wants it" is one pointer comparison. The difference
//! of two becomes the SQL of the replay.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::Mutex;

/// Reported parameters that a session can't set, or that aren't the session's own. The last is the client's only where
/// it has set it, which is asked for as of those that aren't reported: who runs the server makes it read-only by a
/// reload, in the midst of sessions, and nobody is to undo that, or to stay so when it is over.
const NOT_FOLLOWED: [&str; 6] =
    ["server_version", "server_encoding", "integer_datetimes", "is_superuser", IN_HOT_STANDBY, DEFAULT_READ_ONLY];

/// Whether the server is a standby; a report of it in mid-session says that it was promoted.
pub const IN_HOT_STANDBY: &str = "in_hot_standby";

/// See [`NOT_FOLLOWED`].
pub const DEFAULT_READ_ONLY: &str = "default_transaction_read_only";

/// The parameter behind SET ROLE. It isn't reported, so it is among the settings only where it isn't `none`.
pub const ROLE: &str = "role";

/// The parameter behind SET SESSION AUTHORIZATION.
pub const SESSION_AUTHORIZATION: &str = "session_authorization";

/// A mark that settings bear which nobody else is to have.
pub const UNSHARED: &str = "carpool.unshared";

/// What a text's meaning can depend on when it is parsed: how constants are read, and what names mean.
const WHEN_PARSING: [&str; 14] = [
    "array_nulls",
    "backslash_quote",
    "client_encoding",
    "datestyle",
    "intervalstyle",
    "lc_monetary",
    ROLE,
    "search_path",
    SESSION_AUTHORIZATION,
    "standard_conforming_strings",
    "timezone",
    "timezone_abbreviations",
    "transform_null_equals",
    "xmloption",
];

/// Parameters whose value is a list of identifiers: `SET x TO 'a, b'` would make one identifier of it.
const LIST_QUOTED: [&str; 5] = [
    "search_path",
    "temp_tablespaces",
    "session_preload_libraries",
    "local_preload_libraries",
    "unix_socket_directories",
];

/// Whether a reported parameter is part of a client's settings.
#[must_use]
pub fn follows_client(name: &str) -> bool {
    !NOT_FOLLOWED.iter().any(|n| n.eq_ignore_ascii_case(name))
}

/// A parameter's name as servers spell it, for one in lower case.
#[must_use]
pub fn canonical_name(name: &str) -> &str {
    match name {
        "datestyle" => "DateStyle",
        "intervalstyle" => "IntervalStyle",
        "timezone" => "TimeZone",
        _ => name,
    }
}

/// One parameter. Names compare without case, as PostgreSQL's do, and are kept in lower case.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Setting {
    name: Box<str>,
    value: Box<str>,
    /// The server reports each change of it (ParameterStatus), so its value here is always the true one.
    reported: bool,
}

/// A sorted list of parameters, without duplicates. Lists that differ in one share the others.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Settings(Box<[Arc<Setting>]>);

impl Settings {
    /// From pairs in any order; a later pair wins. None counts as reported.
    pub fn from_pairs<N: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        pairs.into_iter().fold(Self::default(), |s, (name, value)| s.with(name.as_ref(), value.as_ref()))
    }

    /// As [`Settings::from_pairs`], from a server's ParameterStatus messages.
    pub fn from_reported<N: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        pairs.into_iter().fold(Self::default(), |s, (name, value)| s.with_reported(name.as_ref(), value.as_ref()))
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|s| s.name.bytes().cmp(name.bytes().map(|b| b.to_ascii_lowercase())))
    }

    /// The value of a parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.find(name).ok().map(|at| &*self.0[at].value)
    }

    /// What the client calls itself. Of all parameters this one may be asked for in each transaction.
    #[must_use]
    pub fn application_name(&self) -> Option<&str> {
        const NAME: &str = "application_name";
        // Names are in order, and few come before this one.
        match self.0.first() {
            Some(first) if *first.name == *NAME => Some(&first.value),
            _ => self.get(NAME),
        }
    }

    /// Whether it is a parameter that servers report.
    #[must_use]
    pub fn reported(&self, name: &str) -> bool {
        self.find(name).is_ok_and(|at| self.0[at].reported)
    }

    /// Only the parameters that servers report: what is left of a session's settings after DISCARD ALL.
    #[must_use]
    pub fn only_reported(&self) -> Self {
        Self(self.0.iter().filter(|s| s.reported).cloned().collect())
    }

    /// Whether they are made to be nobody else's.
    #[must_use]
    pub fn is_unshared(&self) -> bool {
        self.get(UNSHARED).is_some()
    }

    /// All but one parameter.
    #[must_use]
    pub fn without(&self, name: &str) -> Self {
        Self(self.0.iter().filter(|s| !s.name.eq_ignore_ascii_case(name)).cloned().collect())
    }

    /// Those for which `keep` says so, of their names (lower case) and whether servers report them.
    #[must_use]
    pub fn retain(&self, keep: impl Fn(&str, bool) -> bool) -> Self {
        Self(self.0.iter().filter(|s| keep(&s.name, s.reported)).cloned().collect())
    }

    /// Only what a text's meaning can depend on when it is parsed. Extensions' own parameters aren't among that:
    /// were they, tenants that are told apart by one could share no statement.
    #[must_use]
    pub fn when_parsing(&self) -> Self {
        self.retain(|name, _| WHEN_PARSING.contains(&name))
    }

    /// The same with one parameter as it is in `other`, or isn't.
    #[must_use]
    pub fn with_that_of(&self, other: &Self, name: &str) -> Self {
        match other.find(name) {
            Ok(at) => self.put(name, &other.0[at].value, other.0[at].reported),
            Err(_) => self.without(name),
        }
    }

    /// Names (lower case) and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|s| (&*s.name, &*s.value))
    }

    /// The same with one parameter set.
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> Self {
        self.put(name, value, self.reported(name))
    }

    /// The same with one parameter as a server reported it.
    #[must_use]
    pub fn with_reported(&self, name: &str, value: &str) -> Self {
        self.put(name, value, true)
    }

    fn put(&self, name: &str, value: &str, reported: bool) -> Self {
        let setting = Arc::new(Setting { name: name.to_ascii_lowercase().into(), value: value.into(), reported });
        let mut list = self.0.to_vec();
        match self.find(name) {
            Ok(at) => list[at] = setting,
            Err(at) => list.insert(at, setting),
        }
        Self(list.into())
    }

    /// The SQL that makes a server with settings `self` like `wanted`; empty when nothing is to do.
    #[must_use]
    pub fn replay(&self, wanted: &Self) -> String {
        let is_user = |name: &str| name == ROLE || name == SESSION_AUTHORIZATION;
        let mut sql = String::new();
        for (name, value) in wanted.iter().filter(|&(name, value)| !is_user(name) && self.get(name) != Some(value)) {
            put_set(&mut sql, name, value);
        }
        for (name, _) in self.iter().filter(|&(name, _)| !is_user(name) && wanted.get(name).is_none()) {
            sql.push_str("RESET ");
            put_identifier(&mut sql, name);
            sql.push(';');
        }
        let same = |name: &str| self.get(name) == wanted.get(name);
        if same(ROLE) && same(SESSION_AUTHORIZATION) && (sql.is_empty() || self.get(ROLE).is_none()) {
            return sql;
        }
        // The others may need the rights of the user who logged in.
        let mut as_user = String::from("RESET ROLE;");
        if !same(SESSION_AUTHORIZATION) {
            as_user.push_str("RESET SESSION AUTHORIZATION;");
        }
        as_user.push_str(&sql);
        if let (Some(user), false) = (wanted.get(SESSION_AUTHORIZATION), same(SESSION_AUTHORIZATION)) {
            put_set(&mut as_user, SESSION_AUTHORIZATION, user);
        }
        if let Some(role) = wanted.get(ROLE) {
            put_set(&mut as_user, ROLE, role);
        }
        as_user
    }
}

/// Appends one `SET` (or its equal for lists).
fn put_set(sql: &mut String, name: &str, value: &str) {
    if LIST_QUOTED.contains(&name) {
        sql.push_str("SELECT pg_catalog.set_config(");
        put_literal(sql, name);
        sql.push(',');
        put_literal(sql, value);
        sql.push_str(",false);");
    } else {
        sql.push_str("SET ");
        put_identifier(sql, name);
        sql.push_str(" TO ");
        put_literal(sql, value);
        sql.push(';');
    }
}

/// Appends a parameter's name; a dot separates an extension's prefix.
fn put_identifier(sql: &mut String, name: &str) {
    for (i, part) in name.split('.').enumerate() {
        if i > 0 {
            sql.push('.');
        }
        sql.push('"');
        sql.push_str(&part.replace('"', "\"\""));
        sql.push('"');
    }
}

/// Appends a string constant that reads the same whatever `standard_conforming_strings` and `client_encoding`
/// are.
fn put_literal(sql: &mut String, value: &str) {
    if value.contains('\\') || !value.is_ascii() {
        sql.push_str(" E");
    }
    sql.push('\'');
    for c in value.chars() {
        match c {
            '\'' | '\\' => sql.extend([c, c]),
            c if c.is_ascii() => sql.push(c),
            c => drop(write!(sql, "\\U{:08X}", u32::from(c))),
        }
    }
    sql.push('\'');
}

/// Interns [`Settings`]: equal lists share one allocation for as long as anybody holds it.
#[derive(Debug, Default)]
pub struct SettingsTable {
    known: Mutex<HashSet<Arc<Settings>, foldhash::fast::RandomState>>,
}

impl SettingsTable {
    /// The shared allocation of a list.
    #[must_use]
    pub fn intern(&self, settings: Settings) -> Arc<Settings> {
        let mut known = self.known.lock();
        if let Some(found) = known.get(&settings) {
            return Arc::clone(found);
        }
        // Sweep before growing, so that the table stays within twice what is in use.
        if known.len() == known.capacity() {
            known.retain(|s| Arc::strong_count(s) > 1);
        }
        let settings = Arc::new(settings);
        known.insert(Arc::clone(&settings));
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::super::sql::Token;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_compare_without_case() {
        let s = Settings::from_pairs([("TimeZone", "UTC"), ("timezone", "CET")]);
        assert_eq!(s.get("TIMEZONE"), Some("CET"));
        assert_eq!(s.iter().count(), 1);
    }

    #[test]
    fn the_application_is_found_wherever_it_stands() {
        let named = |before: &[&str]| {
            let others = before.iter().map(|name| (*name, "other"));
            Settings::from_pairs(others.chain([("Application_Name", "web"), ("timezone", "UTC")]))
        };
        assert_eq!(named(&[]).application_name(), Some("web"));
        assert_eq!(named(&["app.tenant", "zero_damaged_pages"]).application_name(), Some("web"));
        assert_eq!(Settings::from_pairs([("timezone", "UTC")]).application_name(), None);
        assert_eq!(Settings::default().application_name(), None);
    }

    #[test]
    fn replay_sets_resets_and_quotes() {
        let server = Settings::from_pairs([("DateStyle", "ISO, MDY"), ("geqo", "off"), ("my.var", "x")]);
        let client =
            Settings::from_pairs([("datestyle", "ISO, DMY"), ("search_path", "\"$user\", a'b"), ("app", "c\\d")]);
        assert_eq!(
            server.replay(&client),
            "SET \"app\" TO  E'c\\\\d';SET \"datestyle\" TO 'ISO, DMY';\
             SELECT pg_catalog.set_config('search_path','\"$user\", a''b',false);RESET \"geqo\";RESET \"my\".\"var\";"
        );
        assert_eq!(client.replay(&client), "");
    }

    #[test]
    fn equal_settings_are_one_allocation_and_unused_ones_go() {
        let table = SettingsTable::default();
        let a = table.intern(Settings::from_pairs([("a", "1")]));
        assert!(Arc::ptr_eq(&a, &table.intern(Settings::from_pairs([("A", "1")]))));
        for i in 0..1000 {
            let _ = table.intern(Settings::from_pairs([("a", i.to_string())]));
        }
        assert!(table.known.lock().len() < 10, "{}", table.known.lock().len());
    }

    /// What a server makes of a replay: its session's values, where those that aren't set are its defaults.
    fn apply(session: &mut std::collections::BTreeMap<String, String>, sql: &str) {
        let tokens: Vec<_> = super::super::sql::Lexer::new(sql.as_bytes()).collect();
        for statement in tokens.split(|token| *token == Token::Symbol(b';')).filter(|s| !s.is_empty()) {
            let text = |token: &Token<'_>| match token {
                Token::Quoted(text) => {
                    let text = String::from_utf8(text.to_vec()).unwrap();
                    text[1..text.len() - 1].replace("\"\"", "\"")
                }
                Token::Text(text) => read_constant(std::str::from_utf8(text).unwrap()),
                other => panic!("{other:?} in {sql}"),
            };
            // A name may have a dot.
            let name = |tokens: &[Token<'_>]| -> String {
                tokens.iter().map(|t| if *t == Token::Symbol(b'.') { ".".into() } else { text(t) }).collect()
            };
            match statement {
                [Token::Word(b"SET"), names @ .., Token::Word(b"TO"), value] => {
                    session.insert(name(names), text(value));
                }
                [Token::Word(b"RESET"), names @ ..] => drop(session.remove(&name(names))),
                [Token::Word(b"SELECT"), _, Token::Symbol(b'.'), _, Token::Symbol(b'('), set, _, value, _, _, _] => {
                    session.insert(text(set), text(value));
                }
                other => panic!("{other:?} in {sql}"),
            }
        }
    }

    fn read_constant(constant: &str) -> String {
        let (escapes, inner) = match constant.strip_prefix('E') {
            Some(inner) => (true, inner),
            None => (false, constant),
        };
        let inner = &inner[1..inner.len() - 1];
        let mut value = String::new();
        let mut rest = inner.chars();
        while let Some(c) = rest.next() {
            match c {
                '\'' => value.extend(rest.next()),
                '\\' if escapes => match rest.next() {
                    Some('U') => {
                        let code: String = rest.by_ref().take(8).collect();
                        value.extend(char::from_u32(u32::from_str_radix(&code, 16).unwrap()));
                    }
                    other => value.extend(other),
                },
                c => value.push(c),
            }
        }
        value
    }

    fn any_settings() -> impl Strategy<Value = Vec<(String, String)>> {
        let name =
            prop::sample::select(vec!["DateStyle", "search_path", "geqo", "my.var", "odd\"name", "temp_tablespaces"]);
        prop::collection::vec((name.prop_map(str::to_owned), r#"[a-z'"\\,;é$ ]{0,12}"#), 0..6)
    }

    proptest! {
        #[test]
        fn a_replay_makes_a_server_as_the_client_wants_it(has in any_settings(), wants in any_settings()) {
            let (has, wants) = (Settings::from_pairs(has), Settings::from_pairs(wants));
            let values = |settings: &Settings| settings.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            let mut session: std::collections::BTreeMap<String, String> = values(&has);
            let sql = has.replay(&wants);
            prop_assert!(sql.is_ascii(), "{}", sql);
            apply(&mut session, &sql);
            prop_assert_eq!(session, values(&wants), "{}", sql);
        }

        #[test]
        fn literals_cannot_break_out(value in r"[a'\\;\PC]{0,20}") {
            let sql = Settings::default().replay(&Settings::from_pairs([("x", &value)]));
            let tokens: Vec<_> = super::super::sql::Lexer::new(sql.as_bytes()).collect();
            prop_assert_eq!(tokens.len(), 5, "{}", sql);
        }
    }
}
