//! A [`Config`] as TOML, and its global settings as SHOW CONFIG has them.

use toml::{Table, Value as Toml};

use super::build::FALLBACK;
use super::field::Value;
use super::sections::{DATABASE, PEER, USER};
use super::settings::{POOLER, Setting};
use super::{Config, Database, Entry, Peer, Pooler, User};

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

    /// The same configuration in TOML, without what is at its default there. Secrets are written out, but those of
    /// `auth_file` stay in that file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let pooler = differences(POOLER, &self.pooler, &Pooler::default());
        let fallback = self.fallback.iter().map(|database| (FALLBACK, database));
        let databases = self.databases.iter().map(|(name, database)| (name.as_str(), database)).chain(fallback);
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
        let mut inherited = Database::inheriting(&self.pooler);
        inherited.min_pool_size = self.pooler.min_pool_size.min(database.pool_size);
        differences(DATABASE, database, &inherited)
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
