//! What `auth_type` needs beside the users: the hba file and its maps, the LDAP server, the keys of tokens.

use std::path::Path;
use std::sync::Arc;

use super::hba::{ClientCertificate, Disk, Findings, Hba, IdentMaps, LoadError};
use super::jwt::JwtRules;
use super::ldap::{Ldap, LdapOptions};
use super::report::{KeyPath, Place, Report};
use super::{AuthType, Config, Pooler, hba};
use crate::tls::SslMode;

/// The most that clocks may differ.
const LONGEST_LEEWAY: std::time::Duration = std::time::Duration::from_secs(300);

/// See the module. What `auth_type` doesn't need is not read.
#[derive(Debug, Default)]
pub struct Access {
    /// The lines of `auth_hba_file`.
    pub hba: Hba,
    /// The maps of `auth_ident_file`.
    pub maps: IdentMaps,
    /// `auth_ldap_options`.
    pub ldap: Option<Arc<Ldap>>,
    /// What a token must fulfil.
    pub jwt: Option<JwtRules>,
}

impl Access {
    /// Reads what the settings name.
    pub(super) fn load(config: &Config, report: &mut Report) -> Self {
        let pooler = &config.pooler;
        let path = config.format.pooler_path();
        let (hba, maps) = match pooler.auth_type {
            AuthType::Hba => load_hba(config, &path, report).unwrap_or_default(),
            _ => Default::default(),
        };
        if pooler.auth_type == AuthType::Pam && cfg!(not(feature = "pam")) {
            report.error(&path.join("auth_type"), WITHOUT_PAM);
        }
        let uses_jwt = hba.lines().iter().any(|line| line.method == hba::Method::Jwt);
        Self {
            ldap: if pooler.auth_type == AuthType::Ldap { load_ldap(pooler, &path, report) } else { None },
            jwt: if uses_jwt || pooler.auth_type == AuthType::Jwt { load_jwt(pooler, &path, report) } else { None },
            hba,
            maps,
        }
        .warn_of_unused(pooler, &path, report)
        .warn_of_clear_text(pooler, &path, report)
    }

    /// Passwords in the clear, where others than this host can connect.
    fn warn_of_clear_text(self, pooler: &Pooler, path: &KeyPath, report: &mut Report) -> Self {
        let in_clear = matches!(pooler.auth_type, AuthType::Ldap | AuthType::Pam | AuthType::Jwt);
        let is_here = |address: &String| {
            address == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        };
        if in_clear && pooler.client_tls_sslmode < SslMode::Require && !pooler.listen_addr.iter().all(is_here) {
            let word = pooler.auth_type.as_str();
            let message = format!("{word} has passwords travel as clear text; see client_tls_sslmode");
            report.warn(&path.join("auth_type"), message);
        }
        self
    }

    fn warn_of_unused(self, pooler: &Pooler, path: &KeyPath, report: &mut Report) -> Self {
        let hba = pooler.auth_type == AuthType::Hba;
        for (name, given, used, need) in [
            ("auth_hba_file", pooler.auth_hba_file.is_some(), hba, "auth_type hba"),
            ("auth_ident_file", pooler.auth_ident_file.is_some(), hba, "auth_type hba"),
            ("auth_ldap_options", pooler.auth_ldap_options.is_some(), self.ldap.is_some(), "auth_type ldap"),
            ("auth_jwks_file", pooler.auth_jwks_file.is_some(), self.jwt.is_some(), "auth_type jwt, or an hba line"),
        ] {
            if given && !used && report.is_clean() {
                report.warn(&path.join(name), format!("has no effect without {need}"));
            }
        }
        self
    }
}

fn load_hba(config: &Config, path: &KeyPath, report: &mut Report) -> Option<(Hba, IdentMaps)> {
    let (hba_key, ident_key) = (path.join("auth_hba_file"), path.join("auth_ident_file"));
    let pooler = &config.pooler;
    let Some(file) = &pooler.auth_hba_file else {
        report.error(&path.join("auth_type"), "hba needs auth_hba_file");
        return None;
    };
    let mut findings = Findings::default();
    let loaded = Hba::load(file, pooler.auth_ident_file.as_deref(), &Disk, &mut findings);
    for (place, fault) in findings.faults {
        report.error_at(&located(&place), &KeyPath::default(), fault);
    }
    for (place, warning) in findings.warnings {
        report.warn(&hba_key, format!("{place}: {warning}"));
    }
    let (hba, maps) = match loaded {
        Ok(loaded) => loaded,
        Err(LoadError::Hba(message)) => {
            report.error(&hba_key, message);
            return None;
        }
        Err(LoadError::Ident(message)) => {
            report.error(&ident_key, message);
            return None;
        }
    };
    for line in hba.lines() {
        if line.needs_tls() && pooler.client_tls_sslmode == SslMode::Disable {
            report.warn(&hba_key, format!("{}: matches no connection: client_tls_sslmode is disable", line.place));
        }
        if line.certificate != ClientCertificate::None && pooler.client_tls_ca_file.is_none() {
            let message = "certificates of clients can't be checked without client_tls_ca_file";
            report.error_at(&located(&line.place), &KeyPath::default(), message);
        }
    }
    if !config.can_tell_membership() {
        for line in hba.asking_for_membership(&maps) {
            let message = "+role and samerole need auth_query (auth_user), which tells who is a member";
            report.error_at(&located(&line.place), &KeyPath::default(), message);
        }
    }
    if cfg!(not(feature = "pam")) {
        for line in hba.lines().iter().filter(|line| matches!(line.method, hba::Method::Pam(_))) {
            report.error_at(&located(&line.place), &KeyPath::default(), WITHOUT_PAM);
        }
    }
    Some((hba, maps))
}

/// What a build without PAM says.
pub(super) const WITHOUT_PAM: &str = "this Carpool was built without PAM (cargo build --features pam)";

fn located(place: &hba::Place) -> Place {
    Place { file: Arc::clone(&place.file), line: place.line }
}

fn load_ldap(pooler: &Pooler, path: &KeyPath, report: &mut Report) -> Option<Arc<Ldap>> {
    let key = path.join("auth_ldap_options");
    let Some(options) = &pooler.auth_ldap_options else {
        report.error(&path.join("auth_type"), "ldap needs auth_ldap_options");
        return None;
    };
    match parse_ldap(options.expose()) {
        Ok(ldap) => Some(Arc::new(ldap)),
        Err(message) => {
            report.error(&key, message);
            None
        }
    }
}

/// Options as on an hba line.
fn parse_ldap(text: &str) -> Result<Ldap, String> {
    let mut options = LdapOptions::default();
    for word in hba::words(text)? {
        let (name, value) = word.split_once('=').ok_or("an option isn't of the form name=value")?;
        if !options.take(name, value)? {
            return Err(format!("unrecognized option \"{name}\""));
        }
    }
    options.finish()
}

fn load_jwt(pooler: &Pooler, path: &KeyPath, report: &mut Report) -> Option<JwtRules> {
    let needs = |name: &str, what: &str, report: &mut Report| {
        report.error(&path.join(name), format!("must be set for jwt: {what}"));
    };
    if pooler.auth_jwt_issuer.is_none() {
        needs("auth_jwt_issuer", "tokens of other issuers must not be taken", report);
    }
    if pooler.auth_jwt_audience.is_empty() {
        needs("auth_jwt_audience", "tokens made for others must not be taken", report);
    }
    if pooler.auth_jwt_leeway > LONGEST_LEEWAY {
        report.error(&path.join("auth_jwt_leeway"), format!("must be at most {LONGEST_LEEWAY:?}"));
    }
    let Some(file) = &pooler.auth_jwks_file else {
        needs("auth_jwks_file", "it has the keys that tokens are signed with", report);
        return None;
    };
    let keys = read_keys(file).map_err(|message| report.error(&path.join("auth_jwks_file"), message)).ok()?;
    for warning in keys.skipped {
        report.warn(&path.join("auth_jwks_file"), format!("{}: {warning}", file.display()));
    }
    Some(JwtRules {
        keys: keys.keys,
        issuer: pooler.auth_jwt_issuer.clone()?,
        audience: pooler.auth_jwt_audience.clone(),
        user_claim: pooler.auth_jwt_user_claim.clone(),
        leeway: pooler.auth_jwt_leeway,
    })
}

fn read_keys(file: &Path) -> Result<super::jwt::KeySet, String> {
    let text = super::document::read_text(file);
    let keys = text.and_then(|text| super::jwt::KeySet::parse(&text));
    keys.map_err(|message| format!("{}: {message}", file.display()))
}

impl Config {
    /// Whether somebody can be asked who is a member of a role.
    #[must_use]
    pub fn can_tell_membership(&self) -> bool {
        let mut databases = self.databases.values().chain(&self.fallback);
        self.pooler.auth_user.is_some() || databases.any(|database| database.auth_user.is_some())
    }
}
