//! One database from a URL, as libpq takes it:
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>.

use std::collections::BTreeMap;

use super::document::Raw;
use super::field::Field;
use super::kind::Kind;
use super::report::{KeyPath, Report};
use super::sections::DATABASE;
use super::settings::POOLER;
use super::{
    AuthType, Config, ConfigErrors, Database, Format, Host, LoadBalance, Pooler, Secret, User, build, check, tls,
};
use crate::names::{DatabaseName, UserName};

/// What errors call the URL, which they never show.
const SOURCE: &str = "DATABASE_URL";

/// Settings that a session starts with.
const SESSION: [&str; 5] = ["application_name", "client_encoding", "datestyle", "timezone", "search_path"];

/// libpq's parameters about TLS, by the names of the settings that they are here.
const TLS: [(&str, &str); 6] = [
    ("channel_binding", "channel_binding"),
    ("sslmode", "server_tls_sslmode"),
    ("sslnegotiation", "sslnegotiation"),
    ("sslrootcert", "server_tls_ca_file"),
    ("sslcert", "server_tls_cert_file"),
    ("sslkey", "server_tls_key_file"),
];

/// libpq's parameters that change nothing between Carpool and a server on whom there is no choice.
const NO_EFFECT: [&str; 10] = [
    "connect_timeout",
    "fallback_application_name",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "sslcompression",
    "tcp_user_timeout",
];

/// Of those, the values that ask for what can't be had.
const REFUSED: [(&str, &str); 1] = [("gssencmode", "require")];

/// libpq's parameters about several hosts, which are settings of a database.
const HOSTS: [&str; 2] = ["load_balance_hosts", "target_session_attrs"];

/// Makes a configuration of a URL.
pub(super) fn load(url: &str) -> Result<Config, ConfigErrors> {
    let mut report = Report::default();
    let mut parts = Parts::default();
    if let Err(message) = parts.read(url, &mut report) {
        report.error(&KeyPath::top(SOURCE), message);
    }
    if !report.is_clean() {
        return Err(report.into_errors());
    }
    let mut config = parts.into_config(&mut report);
    check::check(&config, &mut report);
    tls::load(&mut config, &mut report);
    config.warnings = report.finish()?;
    Ok(config)
}

/// What a URL says; empty text is nothing.
#[derive(Default)]
struct Parts {
    host: String,
    port: String,
    user: String,
    password: String,
    dbname: String,
    session: BTreeMap<String, String>,
    tls: BTreeMap<String, String>,
    hosts: BTreeMap<String, String>,
}

impl Parts {
    fn read(&mut self, url: &str, report: &mut Report) -> Result<(), &'static str> {
        let rest = url.strip_prefix("postgresql://").or_else(|| url.strip_prefix("postgres://"));
        let rest = rest.ok_or("expected a URL that starts with postgres:// or postgresql://")?;
        let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, dbname) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, address) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (host, port) = split_addresses(address)?;
        self.user = decode(user)?;
        self.password = decode(password)?;
        self.host = decode(&host)?;
        self.port = decode(&port)?;
        self.dbname = decode(dbname)?;
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').ok_or("expected name=value behind the ?")?;
            self.parameter(&decode(name)?, decode(value)?, report);
        }
        Ok(())
    }

    fn parameter(&mut self, name: &str, value: String, report: &mut Report) {
        let path = KeyPath::top(SOURCE).join(name);
        match name {
            "host" => self.host = value,
            "port" => self.port = value,
            "user" => self.user = value,
            "password" => self.password = value,
            "dbname" => self.dbname = value,
            "options" => match options(&value) {
                Some(settings) => self.session.extend(settings),
                None => report.error(&path, "expected -c name=value or --name=value"),
            },
            name if TLS.iter().any(|(parameter, _)| *parameter == name) => {
                self.tls.insert(name.to_owned(), value);
            }
            name if HOSTS.contains(&name) => drop(self.hosts.insert(name.to_owned(), value)),
            name if SESSION.contains(&name) => drop(self.session.insert(name.to_owned(), value)),
            name if REFUSED.contains(&(name, value.as_str())) => report.error(&path, "is not supported yet"),
            name if NO_EFFECT.contains(&name) => report.warn(&path, "has no effect"),
            name => {
                let known = ["host", "port", "user", "password", "dbname", "options"];
                let tls = TLS.iter().map(|(parameter, _)| *parameter);
                let near = build::nearest(name, known.into_iter().chain(SESSION).chain(HOSTS).chain(tls));
                let hint = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
                report.error(&path, format!("unknown parameter{hint}"));
            }
        }
    }

    fn into_config(mut self, report: &mut Report) -> Config {
        let path = KeyPath::top(SOURCE);
        if self.user.is_empty() {
            report.error(&path, "names no user");
        }
        let dbname = if self.dbname.is_empty() { self.user.clone() } else { std::mem::take(&mut self.dbname) };
        let mut pooler = Pooler::default();
        if self.password.is_empty() {
            pooler.auth_type = AuthType::Trust;
        }
        let mut database =
            Database { startup_parameters: std::mem::take(&mut self.session), ..Database::inheriting(&pooler) };
        self.places(&mut database, &path, report);
        for (name, value) in self.tls {
            let setting = TLS.iter().find(|(parameter, _)| *parameter == name).map_or("", |(_, setting)| setting);
            let value = Raw::Text(value);
            let stored = match POOLER.iter().find(|known| known.name == setting) {
                Some(known) => known.parse(&value, Format::Toml).and_then(|value| known.store(&mut pooler, value)),
                None => match DATABASE.iter().find(|known| known.name == setting) {
                    Some(known) => known.parse(&value, Format::Toml).and_then(|v| known.store(&mut database, v)),
                    None => Ok(()),
                },
            };
            if let Err(message) = stored {
                report.error(&path.join(&name), message);
            }
        }
        let password = Some(self.password).filter(|password| !password.is_empty());
        let user = User { password: password.map(|p| Secret::new(&p)), ..User::inheriting(&pooler) };
        Config {
            pooler,
            databases: BTreeMap::from([(DatabaseName::from(dbname), database)]),
            users: BTreeMap::from([(UserName::from(self.user), user)]),
            ..Config::default()
        }
    }

    /// Where the servers are, and which of them are meant.
    fn places(&self, database: &mut Database, path: &KeyPath, report: &mut Report) {
        // libpq's default, where PgBouncer's holds in files.
        database.load_balance_hosts = LoadBalance::Disable;
        if !self.host.is_empty() {
            match Kind::Hosts.parse(&Raw::Text(self.host.clone()), Format::Toml).map(Vec::<Host>::from_value) {
                Ok(hosts) => database.host = hosts.unwrap_or_default(),
                Err(message) => report.error(&path.join("host"), message),
            }
        }
        if !self.port.is_empty() {
            // One that is left out is the default.
            let ports: Vec<_> = self.port.split(',').map(|port| if port.is_empty() { "5432" } else { port }).collect();
            match Kind::Ports.parse(&Raw::Text(ports.join(",")), Format::Ini).map(Vec::<u16>::from_value) {
                Ok(ports) => database.port = ports.unwrap_or_default(),
                Err(message) => report.error(&path.join("port"), message),
            }
        }
        for (name, value) in &self.hosts {
            let Some(setting) = DATABASE.iter().find(|known| known.name == name) else { continue };
            let value = setting.parse(&Raw::Text(value.clone()), Format::Toml);
            if let Err(message) = value.and_then(|value| setting.store(database, value)) {
                report.error(&path.join(name), message);
            }
        }
    }
}

/// One or several `host:port` with commas between them: the hosts and the ports, each with commas between them.
fn split_addresses(addresses: &str) -> Result<(String, String), &'static str> {
    let each = addresses.split(',').map(split_address).collect::<Result<Vec<_>, _>>()?;
    let hosts: Vec<_> = each.iter().map(|(host, _)| *host).collect();
    let ports: Vec<_> = each.iter().map(|(_, port)| *port).collect();
    let ports = if ports.iter().all(|port| port.is_empty()) { String::new() } else { ports.join(",") };
    Ok((hosts.join(","), ports))
}

/// `host:port`, the host in brackets when it is an IPv6 address.
fn split_address(address: &str) -> Result<(&str, &str), &'static str> {
    let Some(inner) = address.strip_prefix('[') else {
        return Ok(address.split_once(':').unwrap_or((address, "")));
    };
    let (host, behind) = inner.split_once(']').ok_or("a ] is missing")?;
    let port = behind.strip_prefix(':').unwrap_or(behind);
    let is_clean = port.len() < behind.len() || behind.is_empty();
    if is_clean { Ok((host, port)) } else { Err("expected : and a port behind the ]") }
}

/// Resolves `%41`.
fn decode(text: &str) -> Result<String, &'static str> {
    const BROKEN: &str = "a % must be followed by two hexadecimal digits";
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        let digits = part.get(..2).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit())).ok_or(BROKEN)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| BROKEN)?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    if bytes.contains(&0) {
        return Err("%00 is not possible");
    }
    String::from_utf8(bytes).map_err(|_| "what is escaped with % is not UTF-8")
}

/// The settings of libpq's `options`: `-c name=value`, `--name=value`; a backslash keeps a space.
fn options(text: &str) -> Option<Vec<(String, String)>> {
    let mut settings = Vec::new();
    let mut words = words(text).into_iter();
    while let Some(word) = words.next() {
        let pair = match word.strip_prefix("--") {
            Some(long) => long.to_owned(),
            None => match word.strip_prefix("-c")? {
                "" => words.next()?,
                pair => pair.to_owned(),
            },
        };
        let (name, value) = pair.split_once('=')?;
        if name.is_empty() {
            return None;
        }
        settings.push((name.replace('-', "_").to_ascii_lowercase(), value.to_owned()));
    }
    Some(settings)
}

fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' => words.push(String::new()),
            character => {
                let kept = if character == '\\' { characters.next() } else { Some(character) };
                if let Some(word) = words.last_mut() {
                    word.extend(kept);
                }
            }
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SessionAttrs;
    use proptest::prelude::*;

    fn only(config: &Config) -> (&str, &Database) {
        let mut databases = config.databases.iter();
        let (name, database) = databases.next().unwrap();
        assert!(databases.next().is_none() && config.fallback.is_none());
        (name.as_str(), database)
    }

    #[test]
    fn everything_in_one() {
        let url = "postgres://app%40x:p%3Aw%2F%C3%BC@db.example:5433/my%20db\
                   ?application_name=web&options=-c%20geqo%3Doff%20--statement-timeout=5s&sslmode=prefer";
        let config = load(url).unwrap();
        let (name, database) = only(&config);
        assert_eq!(name, "my db");
        assert_eq!(database.places().collect::<Vec<_>>(), [(Host::Tcp("db.example".into()), 5433)]);
        assert_eq!((&database.dbname, &database.user, database.pool_size), (&None, &None, 25));
        let session: Vec<_> = database.startup_parameters.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(session, ["application_name=web", "geqo=off", "statement_timeout=5s"]);
        let user = &config.users["app@x"];
        assert_eq!(user.password, Some(Secret::new("p:w/ü")));
        assert_eq!(config.pooler, Pooler::default());
        assert!(config.warnings.is_empty());
    }

    #[test]
    fn where_the_server_is() {
        let host = |url: &str| {
            let config = load(url).unwrap();
            let (_, database) = only(&config);
            let mut places = database.places();
            let first = places.next().unwrap();
            assert!(places.next().is_none());
            first
        };
        let default = Database::default().host.remove(0);
        assert_eq!(host("postgresql://u@/d"), (default.clone(), 5432));
        assert_eq!(host("postgresql://u@:1/d"), (default, 1));
        assert_eq!(host("postgresql://u@[::1]:2/d"), (Host::Tcp("::1".into()), 2));
        assert_eq!(host("postgresql://u@[::1]/d"), (Host::Tcp("::1".into()), 5432));
        assert_eq!(host("postgresql://u@%2Ftmp%2Fpg:3/d"), (Host::Unix("/tmp/pg".into()), 3));
        assert_eq!(host("postgresql://u@/d?host=/run/pg&port=4"), (Host::Unix("/run/pg".into()), 4));
        assert_eq!(host("postgresql:///?user=u&host=h&dbname=d"), (Host::Tcp("h".into()), 5432));
    }

    #[test]
    fn several_hosts() {
        let places = |url: &str| {
            let config = load(url).unwrap();
            let text = |(host, port): (Host, u16)| match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(directory) => format!("{}:{port}", directory.display()),
            };
            only(&config).1.places().map(text).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(places("postgres://u@a:1,b,[::1]:3/d"), "a:1 b:5432 ::1:3");
        assert_eq!(places("postgres://u@a,b/d"), "a:5432 b:5432");
        assert_eq!(places("postgres://u@a,b/d?port=7"), "a:7 b:7");
        assert_eq!(places("postgres://u@/d?host=a,/run/b&port=1,"), "a:1 /run/b:5432");
        let config = load("postgres://u@a,b/d?target_session_attrs=read-write&load_balance_hosts=random").unwrap();
        let database = only(&config).1;
        assert_eq!(database.target_session_attrs, SessionAttrs::ReadWrite);
        assert_eq!(database.load_balance_hosts, LoadBalance::Random);
        // libpq's default.
        assert_eq!(only(&load("postgres://u@a,b/d").unwrap()).1.load_balance_hosts, LoadBalance::Disable);
    }

    #[test]
    fn without_a_password_clients_need_none() {
        let config = load("postgres://u@h").unwrap();
        assert_eq!(config.pooler.auth_type, AuthType::Trust);
        assert_eq!(only(&config).0, "u");
        assert_eq!(config.users["u"], User::default());
    }

    #[test]
    fn errors_name_the_part() {
        for (url, error) in [
            ("mysql://u@h", "DATABASE_URL: expected a URL that starts with postgres:// or postgresql://"),
            ("", "DATABASE_URL: expected a URL that starts with postgres:// or postgresql://"),
            ("postgres://h/d", "DATABASE_URL: names no user"),
            ("postgres://u:s%4@h/d", "DATABASE_URL: a % must be followed by two hexadecimal digits"),
            ("postgres://u:%ff@h/d", "DATABASE_URL: what is escaped with % is not UTF-8"),
            ("postgres://u:%00@h/d", "DATABASE_URL: %00 is not possible"),
            ("postgres://u@[::1/d", "DATABASE_URL: a ] is missing"),
            ("postgres://u@[::1]5/d", "DATABASE_URL: expected : and a port behind the ]"),
            ("postgres://u@a,/d", "DATABASE_URL.host: is empty"),
            ("postgres://u@a:1,b:x/d", "DATABASE_URL.port: expected a whole number"),
            ("postgres://u@a,b/d?port=1,2,3", "there are 3 ports for 2 hosts"),
            ("postgres://u@h/d?target_session_attrs=x", "DATABASE_URL.target_session_attrs: \"x\" is not one of any"),
            ("postgres://u@h:70000/d", "DATABASE_URL.port: 70000 is out of range (1 to 65535)"),
            ("postgres://u@h/d?sslmode=verify-full", "server_tls_ca_file: must be set"),
            ("postgres://u@h/d?sslmode=on", "DATABASE_URL.sslmode: \"on\" is not one of disable, allow, prefer"),
            ("postgres://u@h/d?aplication_name=x", "unknown parameter; did you mean application_name?"),
            ("postgres://u@h/d?options=-x", "DATABASE_URL.options: expected -c name=value or --name=value"),
            ("postgres://u@h/d?gssencmode=require", "is not supported yet"),
            ("postgres://u@h/pgbouncer", "databases.pgbouncer: this name is the admin console's"),
        ] {
            let errors = load(url).unwrap_err().to_string();
            assert!(errors.contains(error), "{url}: {errors}");
        }
        assert_eq!(load("postgres://u@h/d?connect_timeout=5").unwrap().warnings.len(), 1);
    }

    proptest! {
        #[test]
        fn never_panics(rest in "(\\PC|[:/@?&=%\\[\\]]){0,60}") {
            let _ = load(&format!("postgres://{rest}"));
            let _ = load(&rest);
        }

        #[test]
        fn secrets_stay_out_of_errors(secret in "[a-z]{12}") {
            let errors = load(&format!("postgres://u:{secret}@h:x/d?sslmode=require&nonsense={secret}")).unwrap_err();
            prop_assert!(!errors.to_string().contains(&secret));
        }
    }
}
