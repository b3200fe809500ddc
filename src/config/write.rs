//! A [`Config`] as TOML, and its global settings as SHOW CONFIG has them.

use toml::{Table, Value as Toml};

use super::build::FALLBACK;
use super::field::Value;
use super::kind::Kind;
use super::sections::{DATABASE, PEER, USER};
use super::settings::{POOLER, Setting};
use super::{Config, Database, Entry, Peer, Pooler, User};

/// In place of a secret.
const HIDDEN: &str = "(hidden)";

impl Config {
    /// All global settings, by name.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let defaults = Pooler::defaults(self.format);
        let entry = |setting: &Setting<Pooler>| Entry {
            name: setting.name,
            value: setting.text(&self.pooler),
            default: setting.text(&defaults),
            changeable: setting.changeable,
            doc: setting.doc,
        };
        let mut entries: Vec<_> = POOLER.iter().map(entry).collect();
        entries.sort_by_key(|entry| entry.name);
        entries
    }

    /// What the sections of databases and users set, each setting that isn't as it would be anyway, by section. No
    /// secrets, but that there is one.
    #[must_use]
    pub fn section_entries(&self) -> Vec<(String, Vec<Entry>)> {
        let fallback = self.fallback.iter().map(|database| (FALLBACK, database));
        let databases = self.given_databases().map(|(name, database)| (name.as_str(), database)).chain(fallback);
        let databases = databases.map(|(name, database)| {
            (format!("databases.{name}"), changed(DATABASE, database, &self.inherited(database)))
        });
        let users = self
            .users
            .iter()
            .map(|(name, user)| (format!("users.{name}"), changed(USER, user, &User::inheriting(&self.pooler))));
        let peers = self.peers.iter().map(|(id, peer)| (format!("peers.{id}"), changed(PEER, peer, &Peer::default())));
        databases.chain(users).chain(peers).collect()
    }

    /// The same configuration in TOML, without what is at its default there. Secrets are written out, but those of
    /// `auth_file` stay in that file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let pooler = differences(POOLER, &self.pooler, &Pooler::default());
        let fallback = self.fallback.iter().map(|database| (FALLBACK, database));
        let databases = self.given_databases().map(|(name, database)| (name.as_str(), database)).chain(fallback);
        let databases = databases.map(|(name, database)| (name.to_owned(), Toml::Table(self.database_table(database))));
        let mut users = Table::new();
        for (name, user) in &self.users {
            let from_file = self.pooler.auth_file.is_some() && self.auth_file_users.contains(name);
            let mut shown = user.clone();
            if from_file {
                shown.password = None;
            }
            let table = differences(USER, &shown, &User::inheriting(&self.pooler));
            if !(from_file && table.is_empty()) {
                users.insert(name.as_str().to_owned(), table.into());
            }
        }
        let peer = |(id, peer): (&u32, &Peer)| (id.to_string(), Toml::Table(differences(PEER, peer, &Peer::default())));
        let peers = self.peers.iter().map(peer).collect();
        let sections = [("pooler", pooler), ("databases", databases.collect()), ("users", users), ("peers", peers)];
        let text = |(name, table): (&str, Table)| {
            let whole = Table::from_iter([(name.to_owned(), Toml::Table(table))]);
            // Tables of texts, numbers and lists can't fail to be written.
            toml::to_string(&whole).unwrap_or_default()
        };
        let written = sections.into_iter().filter(|(_, table)| !table.is_empty()).map(text);
        let text = written.collect::<Vec<_>>().join("\n");
        // A file without any section is taken for a mistake.
        if text.is_empty() { "[pooler]\n".to_owned() } else { text }
    }

    fn database_table(&self, database: &Database) -> Table {
        differences(DATABASE, database, &self.inherited(database))
    }

    /// What a database would be without settings of its own but its size.
    fn inherited(&self, database: &Database) -> Database {
        let mut inherited = Database::inheriting(&self.pooler);
        inherited.min_pool_size = self.pooler.min_pool_size.min(database.pool_size);
        inherited
    }
}

/// The settings that aren't what they would be anyway.
fn differences<T>(table: &'static [Setting<T>], of: &T, defaults: &T) -> Table {
    let mut written = Table::new();
    for setting in table {
        let value = (setting.get)(of);
        if value != (setting.get)(defaults) {
            let toml = match &value {
                Value::Unset => setting.unset.unwrap_or_default().into(),
                value => setting.kind.to_toml(value),
            };
            written.insert(setting.name.to_owned(), toml);
        }
    }
    written
}

/// The same, to be shown.
fn changed<T>(table: &'static [Setting<T>], of: &T, defaults: &T) -> Vec<Entry> {
    let changed = table.iter().filter(|setting| (setting.get)(of) != (setting.get)(defaults));
    let entry = |setting: &'static Setting<T>| Entry {
        name: setting.name,
        value: if setting.kind == Kind::Secret { HIDDEN.to_owned() } else { setting.text(of) },
        default: setting.text(defaults),
        changeable: setting.changeable,
        doc: setting.doc,
    };
    changed.map(entry).collect()
}
