//! The read-only routes of databases: who asks for `NAME@ro` gets standbys of NAME's hosts.
//!
//! A route is a database like any other, with a pool of its own, that is made of the one that it is for: all settings are the
//! same but what its servers have to be. A database that is called `NAME@ro` in the configuration is that one, and no route.

use super::{Config, Database, ReadOnlyRoute};
use crate::names::DatabaseName;

/// What is behind the database's name.
pub(super) const ROUTE: &str = "@ro";

impl Database {
    /// Its route, if it has one.
    fn route(&self, base: Option<&DatabaseName>) -> Option<Self> {
        let attrs = self.read_only_route.attrs()?;
        let dbname = self.dbname.clone().or_else(|| base.map(ToString::to_string));
        let (route_of, read_only_route) = (base.cloned(), ReadOnlyRoute::Off);
        // The budget is one of the primary's connections, which keeps the books of it.
        let shared_pool_size = 0;
        Some(Self { target_session_attrs: attrs, read_only_route, route_of, dbname, shared_pool_size, ..self.clone() })
    }

    /// How far its standbys may be behind matters.
    #[must_use]
    pub(crate) fn limits_lag(&self) -> bool {
        !self.max_replica_lag.is_zero() && self.target_session_attrs.takes_standbys()
    }
}

impl Config {
    /// Makes the routes that databases ask for.
    pub(super) fn make_routes(&mut self) {
        let made = self.databases.iter().filter_map(|(name, database)| {
            let route = DatabaseName::from(format!("{name}{ROUTE}").as_str());
            Some((route, database.route(Some(name))?)).filter(|(route, _)| !self.databases.contains_key(route))
        });
        let made: Vec<_> = made.collect();
        self.databases.extend(made);
        self.fallback_route = self.fallback.as_ref().and_then(|database| database.route(None));
    }

    /// The databases that stand in the file, without `*`.
    pub(super) fn given_databases(&self) -> impl Iterator<Item = (&DatabaseName, &Database)> {
        self.databases.iter().filter(|(_, database)| database.route_of.is_none())
    }

    /// The routes of those, each with the name of its database.
    pub(super) fn routes(&self) -> impl Iterator<Item = (&DatabaseName, &DatabaseName)> {
        self.databases.iter().filter_map(|(name, database)| Some((name, database.route_of.as_ref()?)))
    }

    /// The database that `name` is the read-only route of, by way of the fallback. One that is listed has no route unless it
    /// says so itself.
    pub(super) fn fallback_base<'n>(&self, name: &'n str) -> Option<&'n str> {
        self.fallback_route.as_ref()?;
        let base = name.strip_suffix(ROUTE).filter(|base| !base.is_empty())?;
        (!self.databases.contains_key(name) && !self.databases.contains_key(base)).then_some(base)
    }

    /// The database that clients mean by `name`: another only where that is a read-only route.
    #[must_use]
    pub fn base_of<'n>(&'n self, name: &'n str) -> &'n str {
        let route_of = self.databases.get(name).and_then(|database| database.route_of.as_ref());
        route_of.map(DatabaseName::as_str).or_else(|| self.fallback_base(name)).unwrap_or(name)
    }

    /// What the database that clients call `name` is called on its server.
    #[must_use]
    pub fn server_name(&self, name: &DatabaseName, database: &Database) -> String {
        database.dbname.clone().unwrap_or_else(|| self.base_of(name.as_str()).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{errors, ini, toml};
    use crate::config::{Format, Plan, SessionAttrs};

    fn attrs(config: &Config, name: &str) -> Option<SessionAttrs> {
        config.database(name).map(|(database, _)| database.target_session_attrs)
    }

    fn server_name(config: &Config, name: &str) -> String {
        let database = config.database(name).unwrap().0;
        config.server_name(&name.into(), database)
    }

    const APP: &str = "[databases.app]\nhost = 'a,b'\npool_size = 7\ntarget_session_attrs = 'primary'\n";

    #[test]
    fn a_route_is_the_database_on_its_standbys() {
        let config = toml(&format!("{APP}read_only_route = 'standby'\nmax_replica_lag = '5s'\n"));
        assert_eq!(attrs(&config, "app"), Some(SessionAttrs::Primary));
        assert_eq!(attrs(&config, "app@ro"), Some(SessionAttrs::Standby));
        let route = &config.databases["app@ro"];
        assert_eq!((route.pool_size, route.max_replica_lag.as_secs(), route.host.len()), (7, 5, 2));
        assert!(route.limits_lag() && !config.databases["app"].limits_lag());
        assert_eq!((server_name(&config, "app@ro"), config.base_of("app@ro")), ("app".into(), "app"));
        assert_eq!(attrs(&config, "app@ro@ro"), None);
        assert_eq!(attrs(&toml(APP), "app@ro"), None);
        let other = toml(&format!("{APP}dbname = 'x'\nread_only_route = 'prefer-standby'\n"));
        assert_eq!(attrs(&other, "app@ro"), Some(SessionAttrs::PreferStandby));
        assert_eq!(server_name(&other, "app@ro"), "x");
    }

    #[test]
    fn a_route_is_not_written_out() {
        let config = toml(&format!("{APP}read_only_route = 'standby'\n"));
        assert!(!config.to_toml().contains("@ro"), "{}", config.to_toml());
        assert_eq!(toml(&config.to_toml()), config);
        assert!(config.section_entries().iter().all(|(section, _)| !section.contains("@ro")));
        let changes: Vec<_> = Plan::new(&toml(APP), &config).iter().map(ToString::to_string).collect();
        assert_eq!(changes, ["databases.app.read_only_route: off -> standby"]);
    }

    #[test]
    fn a_database_of_that_name_is_itself() {
        let config = toml(&format!("{APP}read_only_route = 'standby'\n[databases.\"app@ro\"]\nhost = 'c'\n"));
        assert_eq!(attrs(&config, "app@ro"), Some(SessionAttrs::Any));
        assert_eq!((server_name(&config, "app@ro"), config.base_of("app@ro")), ("app@ro".into(), "app@ro"));
        assert!(config.to_toml().contains("app@ro"));
    }

    #[test]
    fn routes_of_the_fallback() {
        let text = "[pgbouncer]\nauth_type = trust\n[databases]\n* = host=a,b read_only_route=standby\nx = host=c\n";
        let config = ini(text);
        assert_eq!(attrs(&config, "app@ro"), Some(SessionAttrs::Standby));
        assert_eq!((server_name(&config, "app@ro"), config.base_of("app@ro")), ("app".into(), "app"));
        assert_eq!(attrs(&config, "app"), Some(SessionAttrs::Any));
        // One that is listed hasn't the fallback's route: its hosts are others.
        assert_eq!((attrs(&config, "x@ro"), config.base_of("x@ro")), (Some(SessionAttrs::Any), "x@ro"));
        assert_eq!((attrs(&config, "@ro"), config.base_of("@ro")), (Some(SessionAttrs::Any), "@ro"));
        let with_name = ini("[pgbouncer]\n[databases]\n* = host=a,b dbname=y read_only_route=standby\n");
        assert_eq!((server_name(&with_name, "app@ro"), with_name.base_of("app@ro")), ("y".into(), "app"));
    }

    #[test]
    fn what_is_wrong() {
        let lag = |pooler: &str, line: &str| format!("[pooler]\n{pooler}\n{APP}max_replica_lag = 5\n{line}\n");
        let found = errors(&lag("health_check_interval = 0", "read_only_route = 'standby'"), Format::Toml);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("databases.app.max_replica_lag: needs health_check_interval"), "{found:?}");
        let config = toml(&lag("", ""));
        let told =
            config.warnings.iter().any(|warning| warning.contains("max_replica_lag") && warning.contains("no effect"));
        assert!(told, "{:?}", config.warnings);
        let long = "x".repeat(61);
        let found = errors(&format!("[databases.{long}]\nread_only_route = 'standby'"), Format::Toml);
        assert!(found[0].contains("read_only_route") && found[0].contains("63 bytes"), "{found:?}");
        let found = errors("[databases.d]\nread_only_route = true", Format::Toml);
        assert!(found[0].contains("read_only_route"), "{found:?}");
    }
}
