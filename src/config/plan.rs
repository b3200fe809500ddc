//! What changes when one configuration takes the place of another: for the log, RELOAD and `carpool check --diff`.

use std::collections::BTreeSet;
use std::fmt;

use super::build::FALLBACK;
use super::field::Value;
use super::kind::Kind;
use super::sections::{DATABASE, PEER, USER};
use super::settings::{POOLER, Setting};
use super::{Config, Database, Format};

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The way to what changes (`databases.app.pool_size`).
    pub key: String,
    /// From what to what, and what comes of it.
    pub what: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.what)
    }
}

/// All changes; displayed one a line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan(Vec<Change>);

impl Plan {
    /// What changes from one configuration to another. Secrets aren't shown.
    #[must_use]
    pub fn new(old: &Config, new: &Config) -> Self {
        let mut plan = Self::default();
        let section = new.format.pooler_path().to_string();
        plan.settings(&section, POOLER, new.format, &old.pooler, &new.pooler);
        if old.client_tls.mode == new.client_tls.mode && old.client_tls != new.client_tls {
            let what = "the files have changed: clients that come in from now on are shown the new certificate";
            plan.push(format!("{section}.client_tls_cert_file"), what);
        }
        if old.server_tls.has_other_files(&new.server_tls) {
            let what = "the files of TLS have changed: new server connections use them";
            plan.push(format!("{section}.server_tls_ca_file"), what);
        }
        let (before, after) = (&old.access, &new.access);
        if (&before.hba, &before.maps) != (&after.hba, &after.maps) {
            let what = "the rules have changed: they are for clients that come in from now on";
            plan.push(format!("{section}.auth_hba_file"), what);
        }
        if before.jwt.as_ref().map(|jwt| &jwt.keys) != after.jwt.as_ref().map(|jwt| &jwt.keys) {
            let what = "the keys have changed: tokens of clients that come in from now on are checked by them";
            plan.push(format!("{section}.auth_jwks_file"), what);
        }
        let databases =
            |config: &Config| config.given_databases().map(|(name, _)| name.to_string()).collect::<BTreeSet<_>>();
        let mut names: Vec<_> = databases(old).union(&databases(new)).cloned().collect();
        names.push(FALLBACK.to_owned());
        for name in names {
            let pick = |config: &Config| match name.as_str() {
                FALLBACK => config.fallback.clone(),
                name => config.databases.get(name).filter(|database| database.route_of.is_none()).cloned(),
            };
            plan.database(&name, new, pick(old).as_ref(), pick(new).as_ref());
        }
        let users: BTreeSet<_> = old.users.keys().chain(new.users.keys()).collect();
        for name in users {
            let key = format!("users.{name}");
            match (old.users.get(name), new.users.get(name)) {
                (Some(old), Some(user)) => plan.settings(&key, USER, new.format, old, user),
                (None, Some(_)) => plan.push(key, "added"),
                (Some(_), None) => plan.push(key, "removed: nobody can log in as this user any more"),
                (None, None) => {}
            }
        }
        plan.peers(old, new);
        plan
    }

    fn peers(&mut self, old: &Config, new: &Config) {
        for id in old.peers.keys().chain(new.peers.keys()).collect::<BTreeSet<_>>() {
            let key = format!("peers.{id}");
            match (old.peers.get(id), new.peers.get(id)) {
                (Some(old), Some(peer)) => self.settings(&key, PEER, new.format, old, peer),
                (None, Some(_)) => self.push(key, "added"),
                (Some(_), None) => {
                    self.push(key, "removed: cancel requests for its sessions are not passed on any more")
                }
                (None, None) => {}
            }
        }
    }

    fn database(&mut self, name: &str, config: &Config, old: Option<&Database>, new: Option<&Database>) {
        let key = format!("databases.{name}");
        match (old, new) {
            (Some(old), Some(new)) => {
                self.settings(&key, DATABASE, config.format, old, new);
                if (&old.host, &old.port, &old.dbname) != (&new.host, &new.port, &new.dbname)
                    || old.target_session_attrs != new.target_session_attrs
                {
                    self.push(key, "server connections go to another place: they are replaced as they come free");
                }
            }
            (None, Some(_)) => self.push(key, "added"),
            (Some(_), None) if name != FALLBACK && config.fallback.is_some() => {
                self.push(key, "removed: the database \"*\" serves its name");
            }
            (Some(_), None) => self.push(key, "removed: its clients are ended when they are idle"),
            (None, None) => {}
        }
    }

    fn settings<T>(&mut self, key: &str, table: &'static [Setting<T>], format: Format, old: &T, new: &T) {
        for setting in table {
            let (before, after) = ((setting.get)(old), (setting.get)(new));
            if before == after {
                continue;
            }
            let name = if format == Format::Ini { setting.ini_name.unwrap_or(setting.name) } else { setting.name };
            let shown = |of: &T, value: &Value| match value {
                Value::Unset if setting.unset.is_none_or(str::is_empty) => "(not set)".to_owned(),
                _ => setting.text(of),
            };
            let mut what = match setting.kind {
                Kind::Secret => "changed".to_owned(),
                _ => format!("{} -> {}", shown(old, &before), shown(new, &after)),
            };
            if !setting.changeable {
                what.push_str(" (has no effect before a restart)");
            }
            self.push(format!("{key}.{name}"), what);
        }
    }

    fn push(&mut self, key: String, what: impl Into<String>) {
        self.0.push(Change { key, what: what.into() });
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The changes.
    pub fn iter(&self) -> std::slice::Iter<'_, Change> {
        self.0.iter()
    }
}

impl<'p> IntoIterator for &'p Plan {
    type Item = &'p Change;
    type IntoIter = std::slice::Iter<'p, Change>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing changes");
        }
        for (index, change) in self.iter().enumerate() {
            write!(f, "{}{change}", if index > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::toml;

    fn plan(old: &str, new: &str) -> Vec<String> {
        Plan::new(&toml(old), &toml(new)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_same_changes_nothing() {
        let text = "[pooler]\nquery_timeout = 1\n[databases.a]\nhost = 'h'\n[users.u]\npassword = 'p'\n";
        assert_eq!(Plan::new(&toml(text), &toml(text)).to_string(), "nothing changes");
    }

    #[test]
    fn each_change_has_its_line() {
        let old = "[pooler]\nquery_timeout = 1\nlisten_port = 1000\n[databases.a]\nhost = 'h'\n[databases.gone]\nhost = 'h'\n\
                   [users.u]\npassword = 'old'\n[users.gone]\n";
        let new = "[pooler]\nquery_timeout = 2\nlisten_port = 2000\n[databases.a]\nhost = 'i'\nuser_pool_size = 3\n\
                   [databases.new]\nhost = 'h'\npassword = 'secret'\n[users.u]\npassword = 'new'\n[users.more]\n";
        assert_eq!(
            plan(old, new),
            [
                "pooler.listen_port: 1000 -> 2000 (has no effect before a restart)",
                "pooler.query_timeout: 1 -> 2",
                "databases.a.host: h -> i",
                "databases.a.user_pool_size: 0 -> 3",
                "databases.a: server connections go to another place: they are replaced as they come free",
                "databases.gone: removed: its clients are ended when they are idle",
                "databases.new: added",
                "users.gone: removed: nobody can log in as this user any more",
                "users.more: added",
                "users.u.password: changed",
            ]
        );
        let lost = plan("[databases.a]\nhost = 'h'\n[databases.'*']\nhost = 'h'", "[databases.'*']\nhost = 'h'");
        assert_eq!(lost, ["databases.a: removed: the database \"*\" serves its name"]);
    }
}
