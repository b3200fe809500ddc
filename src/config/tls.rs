//! The files that the settings about TLS name, read and checked as a part of the configuration: a bad one is an error
//! like any other, and a reload that would bring it changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::report::{KeyPath, Report};
use super::{AuthType, Config, Database, Pooler};
use crate::names::DatabaseName;
use crate::tls::setup::{ConnectSettings, Files};
use crate::tls::suites::Wanted;
use crate::tls::{AcceptTls, ConnectTls, SslMode, TlsError};

/// TLS to the servers of each database.
#[derive(Clone, Debug, Default)]
pub struct ServerTls {
    databases: BTreeMap<DatabaseName, ConnectTls>,
    fallback: ConnectTls,
}

impl ServerTls {
    /// Whether the same settings name files that say something else.
    pub(super) fn has_other_files(&self, new: &Self) -> bool {
        let changed = |old: &ConnectTls, new: &ConnectTls| !old.asks_otherwise(new) && old != new;
        let named =
            |(name, old): (&DatabaseName, &ConnectTls)| new.databases.get(name).is_some_and(|n| changed(old, n));
        changed(&self.fallback, &new.fallback) || self.databases.iter().any(named)
    }

    /// That of the database that clients call `name`.
    #[must_use]
    pub fn of(&self, name: &str) -> ConnectTls {
        self.databases.get(name).unwrap_or(&self.fallback).clone()
    }
}

/// Reads what the settings name, and keeps it.
pub(super) fn load(config: &mut Config, report: &mut Report) {
    let path = config.format.pooler_path();
    config.client_tls = client(&config.pooler, &path, report).unwrap_or_default();
    let pooler = &config.pooler;
    let mut reader = Reader { pooler, path: &path, known: Vec::new() };
    let named = config.given_databases().map(|(name, database)| {
        let path = KeyPath::top("databases").join(name.as_str());
        (name.clone(), reader.server(database, &path, report))
    });
    let mut databases: std::collections::BTreeMap<_, _> = named.collect();
    for (name, base) in config.routes() {
        if let Some(tls) = databases.get(base).cloned() {
            databases.insert(name.clone(), tls);
        }
    }
    let fallback = match &config.fallback {
        Some(database) => reader.server(database, &KeyPath::top("databases").join("*"), report),
        None => ConnectTls::default(),
    };
    config.server_tls = ServerTls { databases, fallback };
}

fn client(pooler: &Pooler, path: &KeyPath, report: &mut Report) -> Option<AcceptTls> {
    let mode = pooler.client_tls_sslmode;
    if pooler.auth_type == AuthType::Cert && !mode.verifies() {
        let key = path.join("client_tls_sslmode");
        report
            .error(&key, "must be verify-full (or verify-ca) for auth_type cert, which goes by clients' certificates");
    }
    if mode == SslMode::Disable {
        return None;
    }
    let wanted = Wanted {
        protocols: pooler.client_tls_protocols.clone(),
        ciphers: pooler.client_tls_ciphers.clone(),
        ciphers13: pooler.client_tls13_ciphers.clone(),
        curve: pooler.client_tls_ecdhcurve.clone(),
        dheparams: pooler.client_tls_dheparams.clone(),
    };
    let names = [&pooler.client_tls_cert_file, &pooler.client_tls_key_file, &pooler.client_tls_ca_file];
    let files = read(names, "client_", path, report)?;
    let warnings = &mut Vec::new();
    let made = AcceptTls::new(mode, &wanted, &files, |setting, text| warnings.push((setting, text)));
    tell(warnings, "client_", path, report);
    made.map_err(|error| refuse(&error, "client_", names, path, report)).ok()
}

/// Reads the files of servers once, however many databases there are.
struct Reader<'c> {
    pooler: &'c Pooler,
    path: &'c KeyPath,
    known: Vec<ConnectTls>,
}

impl Reader<'_> {
    fn server(&mut self, database: &Database, path: &KeyPath, report: &mut Report) -> ConnectTls {
        let pooler = self.pooler;
        let authorities = database.server_tls_ca_file.as_ref().or(pooler.server_tls_ca_file.as_ref());
        let settings = ConnectSettings {
            mode: database.server_tls_sslmode.unwrap_or(pooler.server_tls_sslmode),
            negotiation: database.sslnegotiation,
            binding: database.channel_binding,
            wanted: Wanted {
                protocols: pooler.server_tls_protocols.clone(),
                ciphers: pooler.server_tls_ciphers.clone(),
                ciphers13: pooler.server_tls13_ciphers.clone(),
                ..Wanted::default()
            },
            paths: [pooler.server_tls_cert_file.clone(), pooler.server_tls_key_file.clone(), authorities.cloned()],
        };
        if let Some(known) = self.known.iter().find(|known| *known.settings == settings) {
            return known.clone();
        }
        let made = self.make(&settings, database, path, report);
        // One that failed isn't reported for each database.
        let made = made.unwrap_or_else(|| ConnectTls::unusable(settings));
        self.known.push(made.clone());
        made
    }

    fn make(
        &self,
        settings: &ConnectSettings,
        database: &Database,
        path: &KeyPath,
        report: &mut Report,
    ) -> Option<ConnectTls> {
        let names = [&settings.paths[0], &settings.paths[1], &settings.paths[2]];
        let files = match settings.mode {
            SslMode::Disable => Files::default(),
            _ => read(names, "server_", self.path, report)?,
        };
        let warnings = &mut Vec::new();
        let made = ConnectTls::new(settings.clone(), &files, |setting, text| warnings.push((setting, text)));
        tell(warnings, "server_", self.path, report);
        let refused = |error: TlsError| match error.setting {
            "sslnegotiation" => report.error(&path.join(error.setting), error.message),
            "tls_ca_file" if database.server_tls_ca_file.is_some() || database.server_tls_sslmode.is_some() => {
                refuse(&error, "server_", names, path, report);
            }
            _ => refuse(&error, "server_", names, self.path, report),
        };
        made.map_err(refused).ok()
    }
}

/// Reads the files that are named: certificate, key, authorities.
fn read(
    [certificate, key, authorities]: [&Option<PathBuf>; 3],
    side: &str,
    path: &KeyPath,
    report: &mut Report,
) -> Option<Files> {
    let mut failed = false;
    let mut contents = |file: &Option<PathBuf>, setting: &str| {
        let file = file.as_deref()?;
        let read = std::fs::read(file);
        read.map_err(|error| {
            failed = true;
            report.error(&path.join(&format!("{side}{setting}")), format!("{}: {error}", Path::display(file)));
        })
        .ok()
    };
    let files = Files {
        certificate: contents(certificate, "tls_cert_file"),
        key: contents(key, "tls_key_file"),
        authorities: contents(authorities, "tls_ca_file"),
    };
    (!failed).then_some(files)
}

/// An error names the file, too, where it is about one.
fn refuse(error: &TlsError, side: &str, files: [&Option<PathBuf>; 3], path: &KeyPath, report: &mut Report) {
    let file = match error.setting {
        "tls_cert_file" => files[0],
        "tls_key_file" => files[1],
        "tls_ca_file" => files[2],
        _ => &None,
    };
    let message = match file {
        Some(file) => format!("{}: {error}", file.display()),
        None => error.to_string(),
    };
    report.error(&path.join(&format!("{side}{}", error.setting)), message);
}

fn tell(warnings: &mut Vec<(&'static str, String)>, side: &str, path: &KeyPath, report: &mut Report) {
    for (setting, text) in warnings.drain(..) {
        report.warn(&path.join(&format!("{side}{setting}")), text);
    }
}
