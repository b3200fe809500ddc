//! `auth_hba_file` and `auth_ident_file`: who may connect from where, and how they show who they are, in the format
//! of PostgreSQL's `pg_hba.conf` and `pg_ident.conf`.
//!
//! The first line that is for a connection decides. Some lines need what only the outside knows (is the user a member
//! of a role, what is the host called): then [`Hba::judge`] gives a [`Question`], and is asked again with the answer.
//! So all of it is pure. Invariant: a file with anything wrong in it isn't used at all, since leaving out a line could
//! let somebody in whom it refuses.
//!
//! | file | owns |
//! |---|---|
//! | `tokens` | text to words, with included files |
//! | `line`, `names`, `address`, `pattern` | one line and its fields: reading and matching |
//! | `ident` | identity maps |
//!
//! See <https://www.postgresql.org/docs/current/auth-pg-hba-conf.html>.

mod address;
mod ident;
mod line;
mod names;
mod pattern;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use super::ldap::Ldap;
pub use address::Net;
pub use ident::IdentMaps;
pub use line::Line;
pub use tokens::Place;
pub(crate) use tokens::{Disk, Fault, Sources};

/// The lines of an hba file, in order.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Hba {
    lines: Vec<Line>,
}

/// How a client has to show who it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Method {
    /// Not at all.
    Trust,
    /// Nobody is let in.
    Reject,
    /// By a clear-text password.
    Password,
    /// By MD5, or SCRAM for users whose secret is a SCRAM one.
    Md5,
    /// By SCRAM-SHA-256.
    ScramSha256,
    /// By the user of the operating system at the other end of the unix socket.
    Peer,
    /// By the name in its TLS certificate.
    Cert,
    /// By a password that an LDAP server knows.
    Ldap(Arc<Ldap>),
    /// By a password that PAM knows under this service's name.
    Pam(Arc<str>),
    /// By a signed token in the place of a password (Carpool's own).
    Jwt,
}

impl Method {
    /// The word of the file.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Trust => "trust",
            Self::Reject => "reject",
            Self::Password => "password",
            Self::Md5 => "md5",
            Self::ScramSha256 => "scram-sha-256",
            Self::Peer => "peer",
            Self::Cert => "cert",
            Self::Ldap(_) => "ldap",
            Self::Pam(_) => "pam",
            Self::Jwt => "jwt",
        }
    }

    /// Whether the client sends a password, or what is as good as one, as clear text.
    #[must_use]
    pub const fn takes_password(&self) -> bool {
        matches!(self, Self::Password | Self::Ldap(_) | Self::Pam(_) | Self::Jwt)
    }
}

/// What is asked of a client's certificate beside the method.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ClientCertificate {
    /// Nothing.
    #[default]
    None,
    /// That there is one which a trusted authority has signed (`clientcert=verify-ca`).
    VerifyCa,
    /// And that it has the user's name, or one that the map takes for it (`clientcert=verify-full`).
    VerifyFull,
}

/// The name in a certificate that counts (`clientname`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CertificateName {
    /// The common name.
    #[default]
    CommonName,
    /// The whole subject, as RFC 2253 writes it.
    DistinguishedName,
}

/// What is known of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'c> {
    /// The client's address, an IPv4 one as such; `None` over the unix socket.
    pub address: Option<IpAddr>,
    /// Whether it is encrypted.
    pub tls: bool,
    /// Who the client says it is.
    pub user: &'c str,
    /// Which database it asks for.
    pub database: &'c str,
    /// The database that it is the read-only route of, if it is one: lines for either name are for it.
    pub route_of: Option<&'c str>,
    /// Whether it asks for physical replication, which has no database.
    pub physical_replication: bool,
}

/// What has to be found out first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Question {
    /// Whether the user is a member of this role, itself included.
    Member(String),
    /// The addresses and networks of this host.
    Interfaces,
    /// What the client's host is called: a name that leads back to its address.
    HostName,
}

/// What has been found out for one connection.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// By role, whether the user is a member.
    pub members: HashMap<String, bool>,
    /// See [`Question::Interfaces`].
    pub interfaces: Option<Vec<Net>>,
    /// See [`Question::HostName`]; within, `None` for a host without such a name.
    pub host_name: Option<Option<String>>,
}

/// An answer as far as it can be given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// Yes.
    Yes,
    /// No.
    No,
    /// This has to be known first.
    Ask(Question),
}

impl From<bool> for Told {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

impl Told {
    /// Whether one says yes. Nothing is asked where that is known.
    fn any(parts: impl Iterator<Item = Self>) -> Self {
        let mut told = Self::No;
        for part in parts {
            match (&told, part) {
                (_, Self::Yes) => return Self::Yes,
                (Self::No, part) => told = part,
                _ => {}
            }
        }
        told
    }

    /// Whether all say yes. Nothing is asked where one says no.
    fn all(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut told = Self::Yes;
        for part in parts {
            match (&told, part) {
                (_, Self::No) => return Self::No,
                (Self::Yes, part) => told = part,
                _ => {}
            }
        }
        told
    }
}

/// Which line decides.
#[derive(Clone, Debug)]
pub enum Judgement<'h> {
    /// This one.
    Line(&'h Line),
    /// None: the connection is refused.
    NoLine,
    /// This has to be known first.
    Ask(Question),
}

/// What is to be said about a file's lines.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// What keeps the file from being used.
    pub(crate) faults: Vec<Fault>,
    /// What is likely a mistake.
    pub(crate) warnings: Vec<Fault>,
}

impl Hba {
    /// Reads an hba file, and the ident file that its maps are in.
    ///
    /// # Errors
    /// Which of the two can't be read at all, and why.
    pub(crate) fn load(
        path: &Path,
        ident: Option<&Path>,
        sources: &dyn Sources,
        findings: &mut Findings,
    ) -> Result<(Self, IdentMaps), LoadError> {
        let maps = match ident {
            Some(ident) => IdentMaps::load(ident, sources, &mut findings.faults).map_err(LoadError::Ident)?,
            None => IdentMaps::default(),
        };
        let mut reader = tokens::Reader::new(sources);
        let records = reader.file(path).map_err(LoadError::Hba)?;
        findings.faults.append(&mut reader.faults);
        let mut hba = Self::default();
        for record in &records {
            match line::read(record) {
                Ok(line) => hba.add(line, &maps, findings),
                Err(faults) => {
                    findings.faults.extend(faults.into_iter().map(|fault| (record.place.clone(), fault)));
                }
            }
        }
        Ok((hba, maps))
    }

    fn add(&mut self, line: Line, maps: &IdentMaps, findings: &mut Findings) {
        if let Some(map) = line.map.as_deref().filter(|map| !maps.has(map)) {
            let message = format!("the map \"{map}\" is not in auth_ident_file");
            findings.faults.push((line.place.clone(), message));
        }
        findings.warnings.extend(line.warnings().into_iter().map(|warning| (line.place.clone(), warning)));
        self.lines.push(line);
    }

    /// Reads the text of a file that includes no others.
    ///
    /// # Errors
    /// All that is wrong with it, with the number of the line.
    pub fn parse(text: &str) -> Result<Self, Vec<(usize, String)>> {
        let mut reader = tokens::Reader::new(&tokens::Nothing);
        let mut records = Vec::new();
        reader.text(Path::new(""), text, 0, &mut records);
        let mut faults: Vec<_> = reader.faults.into_iter().map(|(place, fault)| (place.line, fault)).collect();
        let mut lines = Vec::new();
        for record in &records {
            match line::read(record) {
                Ok(line) => lines.push(line),
                Err(wrong) => faults.extend(wrong.into_iter().map(|fault| (record.place.line, fault))),
            }
        }
        if faults.is_empty() { Ok(Self { lines }) } else { Err(faults) }
    }

    /// The lines, in order.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Lines that ask who is a member of a role, by themselves or by their map.
    pub(crate) fn asking_for_membership<'h>(&'h self, maps: &'h IdentMaps) -> impl Iterator<Item = &'h Line> {
        let by_map = |line: &Line| line.map.as_deref().is_some_and(|map| maps.asks_for_membership(map));
        self.lines.iter().filter(move |line| line.asks_for_membership() || by_map(line))
    }

    /// The first line that is for this connection, as far as that can be told.
    #[must_use]
    pub fn judge(&self, facts: &Facts<'_>, answers: &Answers) -> Judgement<'_> {
        for line in &self.lines {
            match line.judge(facts, answers) {
                Told::Yes => return Judgement::Line(line),
                Told::No => {}
                Told::Ask(question) => return Judgement::Ask(question),
            }
        }
        Judgement::NoLine
    }
}

/// The words of a text, as those of a line.
///
/// # Errors
/// Why it can't be read.
pub(crate) fn words(text: &str) -> Result<Vec<String>, String> {
    let mut reader = tokens::Reader::new(&tokens::Nothing);
    let mut records = Vec::new();
    reader.text(Path::new(""), text, 0, &mut records);
    match reader.faults.pop() {
        Some((_, fault)) => Err(fault),
        None => Ok(records.into_iter().flat_map(|r| r.fields).flatten().map(|token| token.text).collect()),
    }
}

/// Which file can't be read, and why.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// `auth_hba_file`.
    Hba(String),
    /// `auth_ident_file`.
    Ident(String),
}
