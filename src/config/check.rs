//! What must hold between settings, and what is likely a mistake.

use super::report::{KeyPath, Report};
use super::route::ROUTE;
use super::{
    AuthType, Config, Database, Format, RESERVED_DATABASES, SessionAttrs, ShareBy, UNLIMITED, User, build, hosts,
};
use crate::names::{DatabaseName, UserName};

/// The longest name of a user or database, bytes: PostgreSQL's `NAMEDATALEN - 1`.
const NAME_LIMIT: usize = 63;

/// Checks a whole configuration.
pub(super) fn check(config: &Config, report: &mut Report) {
    listening(config, report);
    pooler_sizes(config, report);
    traces(config, report);
    if config.pooler.flight_recorder > 0 && config.pooler.flight_recorder_dir.is_none() {
        report.error(&config.format.pooler_path().join("flight_recorder"), "needs flight_recorder_dir");
    }
    for (name, database) in databases_of(config) {
        check_database(config, name, database, report);
    }
    for (name, user) in &config.users {
        check_user(config, name.as_str(), user, report);
    }
    if config.databases.is_empty() && config.fallback.is_none() {
        report.warn(&KeyPath::default(), "names no database, so clients can only use the console");
    }
    sharing(config, report);
    lookups(config, report);
    let looks_up = config.pooler.auth_user.is_some() || databases_of(config).any(|(_, d)| d.auth_user.is_some());
    // Others know who their users are.
    let needs_none = [AuthType::Any, AuthType::Hba, AuthType::Ldap, AuthType::Pam, AuthType::Jwt];
    if config.users.is_empty() && !looks_up && !needs_none.contains(&config.pooler.auth_type) {
        report.warn(&KeyPath::default(), "names no user, so nobody can log in");
    }
}

/// All databases with their names, `*` among them.
fn databases_of(config: &Config) -> impl Iterator<Item = (&str, &Database)> {
    let databases = config.given_databases().map(|(name, database)| (name.as_str(), database));
    databases.chain(config.fallback.iter().map(|database| (build::FALLBACK, database)))
}

/// Weights where nothing is shared.
fn sharing(config: &Config, report: &mut Report) {
    let shares = |database: &Database| database.share_by.unwrap_or(config.pooler.share_by) != ShareBy::None;
    let mut warn = |path: &KeyPath| report.warn(&path.join("share_weights"), "has no effect without share_by");
    for (name, database) in databases_of(config) {
        if database.share_weights.as_ref().is_some_and(|weights| !weights.is_empty()) && !shares(database) {
            warn(&KeyPath::top("databases").join(name));
        }
    }
    let any_shares = config.pooler.share_by != ShareBy::None || databases_of(config).any(|(_, d)| shares(d));
    if !config.pooler.share_weights.is_empty() && !any_shares {
        warn(&config.format.pooler_path());
    }
}

/// `auth_user`, `auth_query` and `auth_dbname`.
fn lookups(config: &Config, report: &mut Report) {
    let pooler = &config.pooler;
    let mut check = |path: &KeyPath, user: Option<&UserName>, query: Option<&str>, database: Option<&DatabaseName>| {
        if let Some(user) = user {
            check_name(user.as_str(), &path.join("auth_user"), report);
            let secret = config.users.get(user).and_then(|user| user.password.as_ref());
            if secret.is_some_and(|secret| secret.expose().starts_with(SCRAM)) {
                let message = "has a SCRAM secret, which can check a password but not log in with it";
                report.warn(&path.join("auth_user"), message);
            }
        }
        if query.is_some_and(|query| !query.contains("$1")) {
            report.error(&path.join("auth_query"), "asks for nobody: the user's name is $1");
        }
        let Some(database) = database.map(DatabaseName::as_str) else { return };
        if RESERVED_DATABASES.contains(&database) {
            report.error(&path.join("auth_dbname"), "this name is the admin console's");
        } else if config.database(database).is_none() {
            report.error(&path.join("auth_dbname"), format!("there is no {database:?} in [databases]"));
        }
    };
    let path = config.format.pooler_path();
    check(&path, pooler.auth_user.as_ref(), Some(&pooler.auth_query), pooler.auth_dbname.as_ref());
    for (name, database) in databases_of(config) {
        let path = KeyPath::top("databases").join(name);
        let query = database.auth_query.as_deref();
        check(&path, database.auth_user.as_ref(), query, database.auth_dbname.as_ref());
    }
}

fn listening(config: &Config, report: &mut Report) {
    let pooler = &config.pooler;
    let path = config.format.pooler_path();
    if pooler.listen_addr.is_empty() && pooler.unix_socket_dir.is_none() {
        report.error(&path.join("listen_addr"), "is empty, and so is unix_socket_dir: nobody could connect");
    }
    if pooler.listen_addr.iter().any(|addr| addr != "*" && addr.contains([' ', '/', ','])) {
        report.error(&path.join("listen_addr"), "an item is neither a name, nor an address, nor *");
    }
    if pooler.unix_socket_dir.as_ref().is_some_and(|dir| dir.starts_with("@") || !dir.is_absolute()) {
        report.error(&path.join("unix_socket_dir"), "must be an absolute path; abstract sockets are not supported yet");
    }
    let Some(port) = pooler.http_port else { return };
    if pooler.http_addr.is_empty() {
        report.error(&path.join("http_addr"), "is empty, but http_port is set");
    }
    let same_address = pooler.listen_addr.iter().any(|addr| *addr == pooler.http_addr || addr == "*");
    if port == pooler.listen_port && port != 0 && same_address {
        report.error(&path.join("http_port"), format!("{port} is the listen_port too"));
    }
}

fn traces(config: &Config, report: &mut Report) {
    let Some(endpoint) = &config.pooler.otlp_endpoint else { return };
    let rest = ["http://", "https://"].iter().find_map(|scheme| endpoint.strip_prefix(scheme));
    let is_url = |rest: &str| !rest.starts_with('/') && rest.bytes().all(|b| b.is_ascii_graphic());
    if !rest.is_some_and(|rest| !rest.is_empty() && is_url(rest)) {
        report.error(&config.format.pooler_path().join("otlp_endpoint"), "is no URL of http or https");
    }
}

fn pooler_sizes(config: &Config, report: &mut Report) {
    let pooler = &config.pooler;
    // PgBouncer caps it instead.
    if config.format == Format::Toml && pooler.min_pool_size > pooler.default_pool_size {
        let message = format!("{} is more than default_pool_size ({})", pooler.min_pool_size, pooler.default_pool_size);
        report.error(&config.format.pooler_path().join("min_pool_size"), message);
    }
}

fn check_database(config: &Config, name: &str, database: &Database, report: &mut Report) {
    let path = KeyPath::top("databases").join(name);
    check_name(name, &path, report);
    if RESERVED_DATABASES.contains(&name) {
        report.error(&path, "this name is the admin console's");
    }
    if config.pooler.auth_type == AuthType::Any && database.user.is_none() {
        report.error(&path.join("user"), "must be set with auth_type any, which does not know who the client is");
    }
    check_hosts(database, &path, report);
    check_replicas(config, name, database, &path, report);
    check_shared(config, database, &path, report);
    if database.auto_pool_size && database.min_auto_pool_size > database.max_auto_pool_size {
        let (least, most) = (database.min_auto_pool_size, database.max_auto_pool_size);
        report.error(&path.join("min_auto_pool_size"), format!("{least} is more than max_auto_pool_size ({most})"));
    }
    if database.min_pool_size > database.pool_size {
        let message = format!("{} is more than pool_size ({})", database.min_pool_size, database.pool_size);
        report.error(&path.join("min_pool_size"), message);
    }
    if database.min_pool_size == UNLIMITED {
        report.error(&path.join("min_pool_size"), "must be a number");
    }
    for (key, name) in [("user", database.user.as_ref().map(|u| u.as_str())), ("dbname", database.dbname.as_deref())] {
        if let Some(name) = name {
            check_name(name, &path.join(key), report);
        }
    }
    if database.password.as_ref().is_some_and(|secret| secret.expose().starts_with(SCRAM)) {
        report.warn(&path.join("password"), "is a SCRAM secret, which can check a password but not log in with it");
    }
}

fn check_hosts(database: &Database, path: &KeyPath, report: &mut Report) {
    let (hosts, ports) = (database.host.len(), database.port.len());
    if hosts > hosts::MOST {
        report.error(&path.join("host"), format!("has more than {} hosts", hosts::MOST));
    }
    if ports != 1 && ports != hosts {
        let s = if hosts == 1 { "" } else { "s" };
        let message = format!("there are {ports} ports for {hosts} host{s}: one for all, or one for each");
        report.error(&path.join("port"), message);
    }
}

/// The read-only route, and how far standbys may be behind.
fn check_replicas(config: &Config, name: &str, database: &Database, path: &KeyPath, report: &mut Report) {
    let route = database.read_only_route.attrs();
    if route.is_some() && name != build::FALLBACK && name.len() + ROUTE.len() > NAME_LIMIT {
        let message = format!("{name}{ROUTE} is longer than PostgreSQL's {NAME_LIMIT} bytes");
        report.error(&path.join("read_only_route"), message);
    }
    if database.max_replica_lag.is_zero() {
        return;
    }
    let path = path.join("max_replica_lag");
    if config.pooler.health_check_interval.is_zero() {
        report.error(&path, "needs health_check_interval: nothing else asks standbys how far they are behind");
    }
    if route.is_none() && !database.target_session_attrs.takes_standbys() {
        report.warn(
            &path,
            "has no effect: target_session_attrs lets no standby be used, and there is no read_only_route",
        );
    }
}

/// The budget that several Carpools share.
fn check_shared(config: &Config, database: &Database, path: &KeyPath, report: &mut Report) {
    if database.shared_pool_size == 0 {
        return;
    }
    let Some(user) = database.shared_pool_user.as_ref().or(database.user.as_ref()) else {
        let message = "needs shared_pool_user (or user): somebody has to keep the books on the server";
        report.error(&path.join("shared_pool_size"), message);
        return;
    };
    check_name(user.as_str(), &path.join("shared_pool_user"), report);
    let of_user = config.users.get(user).and_then(|user| user.password.as_ref());
    if of_user.is_some_and(|secret| secret.expose().starts_with(SCRAM)) {
        let message = "has a SCRAM secret, which can check a password but not log in with it";
        report.warn(&path.join("shared_pool_user"), message);
    }
    let attrs = database.target_session_attrs;
    if database.host.len() > 1 && !matches!(attrs, SessionAttrs::Primary | SessionAttrs::ReadWrite) {
        let message = "with several hosts needs target_session_attrs = \"read-write\" or \"primary\": it is for one server's connections";
        report.error(&path.join("shared_pool_size"), message);
    }
}

/// How a SCRAM secret starts.
const SCRAM: &str = "SCRAM-SHA-256$";

fn check_user(config: &Config, name: &str, user: &User, report: &mut Report) {
    let path = KeyPath::top("users").join(name);
    check_name(name, &path, report);
    let Some(secret) = user.password.as_ref().map(|secret| secret.expose()) else { return };
    let is_md5 = secret.len() == 35 && secret.starts_with("md5") && secret[3..].bytes().all(|b| b.is_ascii_hexdigit());
    if is_md5 && config.pooler.auth_type == AuthType::ScramSha256 {
        report.warn(&path.join("password"), "is an md5 secret, so auth_type scram-sha-256 lets nobody in with it");
    }
}

fn check_name(name: &str, path: &KeyPath, report: &mut Report) {
    match name {
        "" => report.error(path, "the name is empty"),
        name if name.contains('\0') => report.error(path, "the name has a NUL character"),
        name if name.len() > NAME_LIMIT => {
            report.error(path, format!("the name is longer than PostgreSQL's {NAME_LIMIT} bytes"));
        }
        _ => {}
    }
}
