//! From a file's keys and values to a [`Config`]: typing, defaults, inheritance.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::access::Access;
use super::document::{Document, Raw, Section};
use super::field::Value;
use super::foreign::{self, Foreign, Verdict};
use super::report::{KeyPath, Report};
use super::sections::{DATABASE, PEER, USER};
use super::settings::{POOLER, Setting};
use super::{
    Config, ConfigErrors, Database, Format, Host, MOST_PEERS, Peer, Pooler, UNLIMITED, User, check, kind, secret,
    userlist,
};
use crate::names::{DatabaseName, UserName};

/// The name of the database that stands for all that aren't named.
pub(super) const FALLBACK: &str = "*";

/// Cancel requests that are passed on to one peer at a time, at most.
const MOST_TO_PEER: u32 = 65_535;

/// PgBouncer's global setting that is only a default for databases here.
pub(super) const MAX_DB_CONNECTIONS: &str = "max_db_connections";

/// Makes a configuration of a file, or says all that is wrong with it.
pub(super) fn build(document: Document, format: Format, mut report: Report) -> Result<Config, ConfigErrors> {
    let mut builder = Builder { format, report: &mut report };
    let mut config = Config { format, ..Config::default() };
    let total = builder.pooler(&mut config, document.pooler);
    for (name, section) in document.databases {
        let database = builder.database(&config.pooler, total, &name, section);
        match name.as_str() {
            FALLBACK => config.fallback = Some(database),
            name => drop(config.databases.insert(DatabaseName::from(name), database)),
        }
    }
    for (name, section) in document.users {
        let user = builder.user(&config.pooler, &name, section);
        config.users.insert(UserName::from(name), user);
    }
    for (name, section) in document.peers {
        builder.peer(&mut config, &name, section);
    }
    builder.auth_file(&mut config);
    builder.cap_min_pool_size(&mut config.pooler);
    config.make_routes();
    config.access = Arc::new(Access::load(&config, &mut report));
    check::check(&config, &mut report);
    super::tls::load(&mut config, &mut report);
    config.warnings = report.finish()?;
    Ok(config)
}

impl Format {
    /// The path of the global settings.
    pub(super) fn pooler_path(self) -> KeyPath {
        KeyPath::top(if self == Self::Toml { "pooler" } else { "pgbouncer" })
    }
}

struct Builder<'r> {
    format: Format,
    report: &'r mut Report,
}

impl Builder<'_> {
    /// Reads the global settings; gives the size of a database's pool unless it has one of its own.
    fn pooler(&mut self, config: &mut Config, mut section: Section) -> u32 {
        config.pooler = Pooler::defaults(self.format);
        let path = self.format.pooler_path();
        let total = match self.format {
            Format::Toml => None,
            Format::Ini => self.take_total(&mut section, &path),
        };
        // In an ini file a query that isn't there switches the check off; here its delay does.
        let is_unchecked = |(key, raw): &(String, Raw)| {
            key == "server_check_query" && raw.as_text().is_some_and(|text| text.is_empty())
        };
        let unchecked = self.format == Format::Ini && section.iter().any(is_unchecked);
        self.apply(POOLER, foreign::POOLER, &path, section, &mut config.pooler);
        if unchecked {
            config.pooler.server_check_delay = std::time::Duration::ZERO;
        }
        match self.format {
            Format::Toml => config.pooler.default_pool_size,
            Format::Ini => total.unwrap_or(UNLIMITED),
        }
    }

    /// Takes PgBouncer's global `max_db_connections` out of its section.
    fn take_total(&mut self, section: &mut Section, path: &KeyPath) -> Option<u32> {
        let at = section.iter().position(|(key, _)| key == MAX_DB_CONNECTIONS)?;
        let (key, raw) = section.remove(at);
        match kind::Kind::Size.parse(&raw, self.format) {
            Ok(Value::Number(total)) => Some(total),
            Ok(_) => None,
            Err(message) => {
                self.report.error(&path.join(&key), message);
                None
            }
        }
    }

    fn database(&mut self, pooler: &Pooler, total: u32, name: &str, section: Section) -> Database {
        let path = KeyPath::top("databases").join(name);
        let mut database = Database::inheriting(pooler);
        if self.format == Format::Ini {
            database.pool_size = total;
            database.min_pool_size = pooler.min_pool_size;
            database.user_pool_size = Some(pooler.default_pool_size).filter(|size| *size != UNLIMITED);
            self.local_host(pooler, &path, &section, &mut database);
        }
        let given = self.apply(DATABASE, foreign::DATABASE, &path, section, &mut database);
        if database.auto_pool_size {
            // What must hold of its size holds of the largest.
            database.pool_size = database.max_auto_pool_size;
        }
        let share = database.user_pool_size.unwrap_or(UNLIMITED);
        // PgBouncer caps what is kept open at the pool's size. Here that is an error where both were given.
        match self.format {
            Format::Toml if given.contains("min_pool_size") => {}
            Format::Toml => database.min_pool_size = pooler.min_pool_size.min(database.pool_size),
            Format::Ini => database.min_pool_size = database.min_pool_size.min(database.pool_size).min(share),
        }
        database
    }

    /// PgBouncer's servers without a host are behind the directory of its own socket.
    fn local_host(&mut self, pooler: &Pooler, path: &KeyPath, section: &Section, database: &mut Database) {
        match &pooler.unix_socket_dir {
            Some(directory) => database.host = vec![Host::Unix(directory.clone())],
            None if section.iter().any(|(key, _)| key == "host") => {}
            None => self.report.error(path, "has no host, and unix_socket_dir is empty"),
        }
    }

    /// In PgBouncer the least is "effectively capped at the pool size"; what is left of it is for SHOW CONFIG.
    fn cap_min_pool_size(&mut self, pooler: &mut Pooler) {
        if self.format == Format::Ini && pooler.min_pool_size > pooler.default_pool_size {
            let path = self.format.pooler_path().join("min_pool_size");
            self.report.warn(&path, format!("{} is more than default_pool_size", pooler.min_pool_size));
            pooler.min_pool_size = pooler.default_pool_size;
        }
    }

    fn user(&mut self, pooler: &Pooler, name: &str, section: Section) -> User {
        let path = KeyPath::top("users").join(name);
        let mut user = User::inheriting(pooler);
        self.apply(USER, foreign::USER, &path, section, &mut user);
        user
    }

    fn peer(&mut self, config: &mut Config, name: &str, section: Section) {
        let path = KeyPath::top("peers").join(name);
        let mut peer = Peer::default();
        if self.format == Format::Ini {
            peer.pool_size = config.pooler.default_pool_size.min(MOST_TO_PEER);
        }
        self.apply(PEER, &[], &path, section, &mut peer);
        if peer.host.is_none() {
            self.report.error(&path, "has no host");
        }
        match name.parse() {
            Ok(id) if (1..=MOST_PEERS).contains(&id) => drop(config.peers.insert(id, peer)),
            _ => self.report.error(&path, format!("is no peer_id: a number from 1 to {MOST_PEERS}")),
        }
    }

    /// Adds the users of `auth_file`.
    fn auth_file(&mut self, config: &mut Config) {
        let Some(file) = &config.pooler.auth_file else { return };
        let key = self.format.pooler_path().join("auth_file");
        let mut seen = BTreeSet::new();
        for userlist::Entry { line, user: name, secret } in userlist::load(file, &key, self.report) {
            if !seen.insert(name.clone()) {
                let message = format!("{}:{line}: \"{name}\" stands there again; the last one holds", file.display());
                self.report.warn(&key, message);
            }
            let first = || User::inheriting(&config.pooler);
            let user = config.users.entry(name.clone()).or_insert_with(first);
            if user.password.is_none() || config.auth_file_users.contains(&name) {
                user.password = secret;
                config.auth_file_users.insert(name);
            }
        }
    }

    /// Sets what a section says. Gives the names of the settings that it has.
    fn apply<T>(
        &mut self,
        table: &'static [Setting<T>],
        foreign: &[Foreign],
        path: &KeyPath,
        section: Section,
        target: &mut T,
    ) -> BTreeSet<&'static str> {
        let mut given = BTreeSet::new();
        for (key, raw) in section {
            let path = path.join(&key);
            let Some(setting) = table.iter().find(|setting| setting.is_named(&key, self.format)) else {
                self.not_a_setting(table, foreign, &path, &key, &raw);
                continue;
            };
            if !given.insert(setting.name) {
                let both = format!("{} and {} are the same setting", setting.name, setting.alias.unwrap_or(&key));
                self.report.error(&path, both);
            }
            if self.inherits(setting, &path, &raw) {
                continue;
            }
            if setting.kind == kind::Kind::Secret {
                secret::warning(&raw).into_iter().for_each(|warning| self.report.warn(&path, warning));
            }
            let stored = setting.parse(&raw, self.format).and_then(|value| setting.store(target, value));
            if let Err(message) = stored {
                self.report.error(&path, message);
            }
        }
        given
    }

    /// Whether a value in an ini file says that the global one holds: PgBouncer takes any negative number for that.
    fn inherits<T>(&self, setting: &Setting<T>, path: &KeyPath, raw: &Raw) -> bool {
        let number = raw.as_text().and_then(|text| kind::c_integer(&text));
        let is_global = *path == self.format.pooler_path().join(setting.name);
        let says_so = number.is_some_and(|n| n < 0 || (n == 0 && setting.ini_zero_inherits));
        self.format == Format::Ini && !is_global && setting.kind.is_number() && says_so
    }

    fn not_a_setting<T>(
        &mut self,
        table: &'static [Setting<T>],
        foreign: &[Foreign],
        path: &KeyPath,
        key: &str,
        raw: &Raw,
    ) {
        if let Some(foreign) = foreign::find(foreign, key) {
            match foreign.judge(raw.as_text().as_deref()) {
                Verdict::Fine => {}
                Verdict::Warning(message) => self.report.warn(path, message),
                Verdict::Error(message) => self.report.error(path, message),
            }
            return;
        }
        let name_here = |setting: &Setting<T>| match self.format {
            Format::Toml => Some(setting.name),
            Format::Ini => setting.ini_name,
        };
        let known = table.iter().filter_map(name_here).chain(table.iter().filter_map(|setting| setting.alias));
        // Its name in the other format says best what is meant.
        let other_name = table.iter().find(|setting| setting.name == key).and_then(name_here);
        let near = other_name.or_else(|| nearest(key, known));
        let hint = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
        self.report.error(path, format!("unknown setting{hint}"));
    }
}

impl Database {
    /// One that says nothing of its own, in TOML.
    pub(super) fn inheriting(pooler: &Pooler) -> Self {
        let pool_size = pooler.default_pool_size;
        let min_pool_size = pooler.min_pool_size.min(pool_size);
        let max_client_connections = pooler.max_db_client_connections;
        let reserve_pool_size = pooler.reserve_pool_size;
        Self { pool_size, min_pool_size, reserve_pool_size, max_client_connections, ..Self::default() }
    }
}

impl User {
    /// One that says nothing of its own.
    pub(super) fn inheriting(pooler: &Pooler) -> Self {
        let max_client_connections = pooler.max_user_client_connections;
        let max_user_connections = pooler.max_user_connections;
        Self { max_client_connections, max_user_connections, ..Self::default() }
    }
}

/// The name that somebody most likely meant, if any is near.
pub(super) fn nearest<'n>(name: &str, among: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    // A prefix is a word left off, or one too many, which edit distance thinks far.
    let distance = |near: &str| match near.starts_with(name) || name.starts_with(near) {
        true if name.len().min(near.len()) >= 4 => 1,
        _ => strsim::damerau_levenshtein(name, near),
    };
    let (least, near) = among.map(|near| (distance(near), near)).min()?;
    (least <= (name.chars().count() / 3).max(2)).then_some(near)
}
