//! One line of an hba file.

use std::sync::Arc;

use super::address::{self, Addresses, name_matches};
use super::names::{DatabaseWord, UserWord};
use super::tokens::{Place, Record, Token};
use super::{Answers, CertificateName, ClientCertificate, Facts, Method, Question, Told};
use crate::config::ldap::LdapOptions;

/// The PAM service of lines that name none; PostgreSQL's.
const PAM_SERVICE: &str = "postgresql";

/// How a client is connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Connection {
    /// Over the unix socket.
    Local,
    /// Over TCP.
    Host,
    /// Over TCP with TLS.
    HostSsl,
    /// Over TCP without TLS.
    HostNoSsl,
    /// Over TCP with GSSAPI encryption, which nobody has here.
    HostGssEnc,
}

/// A line: whom it is for, and how those show who they are.
#[derive(Clone, PartialEq, Debug)]
pub struct Line {
    /// Where it stands.
    pub place: Place,
    /// How a client has to show who it is.
    pub method: Method,
    /// What is asked of its certificate, whatever the method.
    pub certificate: ClientCertificate,
    /// Which of the certificate's names counts.
    pub certificate_name: CertificateName,
    /// The identity map to use.
    pub map: Option<Arc<str>>,
    connection: Connection,
    databases: Vec<DatabaseWord>,
    users: Vec<UserWord>,
    addresses: Addresses,
}

impl Line {
    /// Whether the line is for this connection. Everything that isn't known yet and matters is asked for.
    pub(super) fn judge(&self, facts: &Facts<'_>, answers: &Answers) -> Told {
        let parts = [
            Told::from(self.suits(facts)),
            Told::any(self.databases.iter().map(|word| word.judge(facts, answers))),
            Told::any(self.users.iter().map(|word| word.judge(facts.user, answers))),
            self.judge_address(facts, answers),
        ];
        Told::all(parts)
    }

    fn suits(&self, facts: &Facts<'_>) -> bool {
        match (self.connection, facts.address) {
            (Connection::Local, None) | (Connection::Host, Some(_)) => true,
            (Connection::HostSsl, Some(_)) => facts.tls,
            (Connection::HostNoSsl, Some(_)) => !facts.tls,
            _ => false,
        }
    }

    fn judge_address(&self, facts: &Facts<'_>, answers: &Answers) -> Told {
        let Some(address) = facts.address else { return Told::Yes };
        let interface = |matches: fn(&super::Net, std::net::IpAddr) -> bool| match &answers.interfaces {
            Some(own) => Told::from(own.iter().any(|net| matches(net, address))),
            None => Told::Ask(Question::Interfaces),
        };
        match &self.addresses {
            Addresses::All => Told::Yes,
            Addresses::Net(net) => Told::from(net.contains(address)),
            Addresses::SameHost => interface(|net, address| net.address() == address),
            Addresses::SameNet => interface(super::Net::contains),
            Addresses::Name(pattern) => match &answers.host_name {
                Some(name) => Told::from(name.as_ref().is_some_and(|name| name_matches(pattern, name))),
                None => Told::Ask(Question::HostName),
            },
        }
    }

    /// Whether only encrypted connections match.
    pub(crate) fn needs_tls(&self) -> bool {
        self.connection == Connection::HostSsl
    }

    /// Whether it asks who is a member of a role.
    pub(super) fn asks_for_membership(&self) -> bool {
        self.databases.iter().any(DatabaseWord::asks_for_membership)
            || self.users.iter().any(UserWord::asks_for_membership)
    }

    /// What is likely a mistake.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.connection == Connection::HostGssEnc {
            warnings.push("matches no connection: GSSAPI encryption is not supported".to_owned());
        }
        if matches!(&self.addresses, Addresses::Net(net) if net.is_mapped()) {
            warnings.push("matches no connection: write an IPv4 address as such".to_owned());
        }
        let unprotected = matches!(self.connection, Connection::Host | Connection::HostNoSsl);
        let is_loopback = matches!(&self.addresses, Addresses::SameHost)
            || matches!(&self.addresses, Addresses::Net(net) if net.address().is_loopback());
        if unprotected && !is_loopback && self.method.takes_password() {
            let method = self.method.as_str();
            warnings
                .push(format!("method {method} has passwords travel as clear text unless TLS is used; see hostssl"));
        }
        warnings
    }
}

/// Reads a line.
///
/// # Errors
/// All that is wrong with it.
pub(super) fn read(record: &Record) -> Result<Line, Vec<String>> {
    let mut fields = Fields { record, at: 0 };
    let mut line = head(&mut fields).map_err(|message| vec![message])?;
    let method = match fields.one("authentication method") {
        Ok(token) => token.text.clone(),
        Err(message) => return Err(vec![message]),
    };
    let mut options = Options::default();
    let mut faults = Vec::new();
    for token in record.fields[fields.at..].iter().flatten() {
        if let Err(message) = options.take(token, &method, line.connection) {
            faults.push(message);
        }
    }
    match finish(&mut line, &method, options) {
        Ok(()) if faults.is_empty() => Ok(line),
        Ok(()) => Err(faults),
        Err(message) => {
            faults.push(message);
            Err(faults)
        }
    }
}

/// The fields of a line, one after the other.
struct Fields<'r> {
    record: &'r Record,
    at: usize,
}

impl<'r> Fields<'r> {
    fn list(&mut self, what: &str) -> Result<&'r Vec<Token>, String> {
        let field = self.record.fields.get(self.at).ok_or_else(|| format!("the line ends before the {what}"))?;
        self.at += 1;
        Ok(field)
    }

    fn one(&mut self, what: &str) -> Result<&'r Token, String> {
        match self.list(what)?.as_slice() {
            [one] => Ok(one),
            _ => Err(format!("multiple values for the {what}")),
        }
    }
}

/// All up to the method, which is [`Method::Reject`] still.
fn head(fields: &mut Fields<'_>) -> Result<Line, String> {
    let connection = match fields.one("connection type")?.text.as_str() {
        "local" => Connection::Local,
        // Nobody has GSSAPI encryption.
        "host" | "hostnogssenc" => Connection::Host,
        "hostssl" => Connection::HostSsl,
        "hostnossl" => Connection::HostNoSsl,
        "hostgssenc" => Connection::HostGssEnc,
        other => return Err(format!("invalid connection type \"{other}\"")),
    };
    let databases = DatabaseWord::field(fields.list("database")?)?;
    let users = UserWord::field(fields.list("user")?)?;
    let addresses = if connection == Connection::Local { Addresses::All } else { addresses(fields)? };
    Ok(Line {
        place: fields.record.place.clone(),
        method: Method::Reject,
        certificate: ClientCertificate::None,
        certificate_name: CertificateName::default(),
        map: None,
        connection,
        databases,
        users,
        addresses,
    })
}

fn addresses(fields: &mut Fields<'_>) -> Result<Addresses, String> {
    let token = fields.one("address")?;
    for (word, addresses) in
        [("all", Addresses::All), ("samehost", Addresses::SameHost), ("samenet", Addresses::SameNet)]
    {
        if token.is_keyword(word) {
            return Ok(addresses);
        }
    }
    let next = fields.record.fields.get(fields.at).and_then(|field| field.first());
    let (addresses, took_mask) = address::parse(&token.text, next.map(|token| token.text.as_str()))?;
    if took_mask {
        fields.one("netmask")?;
    }
    Ok(addresses)
}

/// The options behind the method.
#[derive(Default)]
struct Options {
    map: Option<Arc<str>>,
    certificate: ClientCertificate,
    certificate_name: CertificateName,
    pam_service: Option<Arc<str>>,
    ldap: LdapOptions,
}

impl Options {
    fn take(&mut self, token: &Token, method: &str, connection: Connection) -> Result<(), String> {
        let Some((name, value)) = token.text.split_once('=') else {
            return Err("an authentication option isn't of the form name=value".into());
        };
        let only_for = |methods: &[&str]| match methods.contains(&method) {
            true => Ok(()),
            false => Err(format!("option \"{name}\" is only valid for authentication methods {}", methods.join(", "))),
        };
        let only_tls = || match connection {
            Connection::HostSsl => Ok(()),
            _ => Err(format!("{name} can only be configured for \"hostssl\" rows")),
        };
        match name {
            "map" => {
                only_for(&["ident", "peer", "cert", "jwt"])?;
                self.map = (!value.is_empty()).then(|| value.into());
            }
            "clientcert" => {
                only_tls()?;
                self.certificate = match (value, method) {
                    ("verify-full", _) => ClientCertificate::VerifyFull,
                    ("verify-ca", "cert") => {
                        return Err("clientcert only accepts \"verify-full\" when using \"cert\" authentication".into());
                    }
                    ("verify-ca", _) => ClientCertificate::VerifyCa,
                    _ => return Err(format!("invalid value for clientcert: \"{value}\"")),
                };
            }
            "clientname" => {
                only_tls()?;
                self.certificate_name = match value {
                    "CN" => CertificateName::CommonName,
                    "DN" => CertificateName::DistinguishedName,
                    _ => return Err(format!("invalid value for clientname: \"{value}\"")),
                };
            }
            "pamservice" => {
                only_for(&["pam"])?;
                self.pam_service = Some(value.into());
            }
            // The host is told by its address in any case.
            "pam_use_hostname" => only_for(&["pam"])?,
            name if name.starts_with("ldap") => {
                only_for(&["ldap"])?;
                if !self.ldap.take(name, value)? {
                    return Err(format!("unrecognized authentication option name: \"{name}\""));
                }
            }
            name => return Err(format!("unrecognized authentication option name: \"{name}\"")),
        }
        Ok(())
    }
}

/// Methods of PostgreSQL's that aren't here.
const NOT_SUPPORTED: [&str; 6] = ["gss", "sspi", "bsd", "radius", "oauth", "any"];

fn finish(line: &mut Line, method: &str, options: Options) -> Result<(), String> {
    let (local, tls) = (line.connection == Connection::Local, line.connection == Connection::HostSsl);
    line.method = match method {
        "trust" => Method::Trust,
        "reject" => Method::Reject,
        "password" => Method::Password,
        "md5" => Method::Md5,
        "scram-sha-256" => Method::ScramSha256,
        "peer" if !local => return Err("peer authentication is only supported on local sockets".into()),
        "ident" if !local => return Err("method ident over TCP is not supported".into()),
        "peer" | "ident" => Method::Peer,
        "cert" if !tls => return Err("cert authentication is only supported on hostssl connections".into()),
        "cert" => Method::Cert,
        "ldap" => Method::Ldap(Arc::new(options.ldap.finish()?)),
        "pam" => Method::Pam(options.pam_service.unwrap_or_else(|| PAM_SERVICE.into())),
        "jwt" => Method::Jwt,
        other if NOT_SUPPORTED.contains(&other) => return Err(format!("method {other} is not supported")),
        other => return Err(format!("invalid authentication method \"{other}\"")),
    };
    line.map = options.map;
    line.certificate_name = options.certificate_name;
    line.certificate = match line.method {
        Method::Cert => ClientCertificate::VerifyFull,
        _ => options.certificate,
    };
    Ok(())
}
