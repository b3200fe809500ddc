//! How a client has to show who it is, and those ways of showing it that look at no stored secret.
//!
//! `auth_type`, or the line of `auth_hba_file` that is for the connection, gives the method before anything is known of
//! the user. Passwords that somebody else knows (LDAP, PAM) and names that must be looked up are left to
//! [`outside::Outside`], off the event loop. Invariant: whatever goes wrong, nobody is let in by it.

mod ldap;
pub mod outside;
mod pam;
pub mod password;
mod system;

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use tracing::{info, warn};

use super::door::{Busy, Waiting};
use super::startup::{Handshake, HandshakeError};
use super::{Context, secrets};
use crate::auth::{self, AuthFailure, Password, Proven, jwt};
use crate::config::hba::{Answers, CertificateName, ClientCertificate, Facts, Judgement, Line, Method, Question, Told};
use crate::config::{AuthType, Config};
use crate::error::{ClientError, SqlState};
use crate::names::{DatabaseName, UserName};
use crate::net::Peer;
use crate::net::stream::Stream;
use crate::net::world;
use crate::wire::backend;

/// The PAM service of `auth_type = pam`; PgBouncer's.
const PAM_SERVICE: &str = "pgbouncer";

/// Who asks, for what.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'r> {
    /// The user that the client wants to be.
    pub user: &'r UserName,
    /// The database, the console's under its first name.
    pub database: &'r str,
    /// Whether it asks for physical replication.
    pub physical_replication: bool,
    /// Where it is.
    pub peer: Peer,
    /// Its place among those who have not proved who they are.
    pub waiting: Option<&'r Waiting>,
}

impl<'r> Asked<'r> {
    /// While this lives others are asked, and the client isn't to blame for the time that it takes.
    fn busy(&self) -> Option<Busy<'r>> {
        self.waiting.map(Waiting::busy)
    }
}

/// What comes of it.
#[derive(Debug)]
pub enum Decided {
    /// The client is who it says, whatever is stored.
    Proven(Proven),
    /// What is stored decides, in this way. `Trust` stands for a known user who needs to show nothing more.
    Stored(AuthType),
}

impl Decided {
    const fn by_password(password: Password) -> Self {
        Self::Proven(Proven::Password { password, keys: None })
    }
}

/// Finds out how the client has to show who it is, and sees to it where no stored secret decides.
///
/// # Errors
/// The client isn't let in.
pub async fn decide(
    io: &mut Handshake,
    context: &Arc<Context>,
    config: &Config,
    asked: &Asked<'_>,
) -> Result<Decided, HandshakeError> {
    match config.pooler.auth_type {
        // On the heap: most logins are not to carry it.
        AuthType::Hba | AuthType::Peer | AuthType::Ldap | AuthType::Pam | AuthType::Jwt => {
            Box::pin(inquire(io, context, config, asked)).await
        }
        stored => Ok(Decided::Stored(stored)),
    }
}

async fn inquire(
    io: &mut Handshake,
    context: &Arc<Context>,
    config: &Config,
    asked: &Asked<'_>,
) -> Result<Decided, HandshakeError> {
    let own;
    let mut inquiry = Inquiry { context, config, asked, answers: Answers::default() };
    let (method, line) = match config.pooler.auth_type {
        AuthType::Hba => {
            let line = inquiry.line(io.tls.is_some()).await?;
            (&line.method, Some(line))
        }
        AuthType::Peer => (&Method::Peer, None),
        AuthType::Ldap => {
            let ldap = config.access.ldap.clone().ok_or_else(|| inquiry.refused(&Method::Reject, "no LDAP server"))?;
            own = Method::Ldap(ldap);
            (&own, None)
        }
        AuthType::Pam => {
            own = Method::Pam(PAM_SERVICE.into());
            (&own, None)
        }
        AuthType::Jwt => (&Method::Jwt, None),
        stored => return Ok(Decided::Stored(stored)),
    };
    if let Some(line) = line {
        inquiry.check_certificate(io, line).await?;
    }
    let map = line.and_then(|line| line.map.as_deref());
    match method {
        Method::Trust | Method::Cert => Ok(Decided::Stored(AuthType::Trust)),
        Method::Reject => Err(inquiry.rejected(io.tls.is_some()).into()),
        Method::Password => Ok(Decided::Stored(AuthType::Plain)),
        Method::Md5 => Ok(Decided::Stored(AuthType::Md5)),
        Method::ScramSha256 => Ok(Decided::Stored(AuthType::ScramSha256)),
        Method::Peer => {
            let name = inquiry.system_user(io).await?;
            inquiry.check_name(map, &name, method).await?;
            Ok(Decided::Stored(AuthType::Trust))
        }
        Method::Ldap(ldap) => {
            let password = ask_password(io, asked).await?;
            let check = ldap::check(&context.outside, ldap, asked.user, &password);
            inquiry.vouched(method, Box::pin(check)).await?;
            Ok(Decided::by_password(password))
        }
        Method::Pam(service) => {
            let password = ask_password(io, asked).await?;
            let check = pam::check(&context.outside, service, asked, &password);
            inquiry.vouched(method, Box::pin(check)).await?;
            Ok(Decided::by_password(password))
        }
        Method::Jwt => {
            let token = ask_password(io, asked).await?;
            let name = inquiry.check_token(&token)?;
            inquiry.check_name(map, &name, method).await?;
            Ok(Decided::Proven(Proven::Nothing))
        }
    }
}

/// Asks for a clear-text password.
async fn ask_password(io: &mut Handshake, asked: &Asked<'_>) -> Result<Password, HandshakeError> {
    let mut message = Vec::new();
    backend::put_authentication(&mut message, &auth::client::cleartext_request());
    io.send(&message).await?;
    let answer = io.password(auth::MAX_PASSWORD_MESSAGE).await?;
    let password = auth::client::password_of(&answer);
    password.map_err(|reason| {
        let failure = AuthFailure::new(asked.user, reason);
        info!(peer = %asked.peer, "{failure}");
        ClientError::from(failure).into()
    })
}

/// What is being found out for one connection.
struct Inquiry<'c> {
    context: &'c Arc<Context>,
    config: &'c Config,
    asked: &'c Asked<'c>,
    answers: Answers,
}

impl<'c> Inquiry<'c> {
    fn facts(&self, tls: bool) -> Facts<'c> {
        let address = match self.asked.peer {
            // A socket for both families shows IPv4 addresses as IPv6.
            Peer::Tcp(address) => Some(address.ip().to_canonical()),
            Peer::Unix => None,
        };
        let Asked { user, database, physical_replication, .. } = *self.asked;
        let route_of = Some(self.config.base_of(database)).filter(|base| *base != database);
        Facts { address, tls, user: user.as_str(), database, route_of, physical_replication }
    }

    /// The line of the hba file that is for the connection.
    async fn line(&mut self, tls: bool) -> Result<&'c Line, ClientError> {
        let facts = self.facts(tls);
        loop {
            match self.config.access.hba.judge(&facts, &self.answers) {
                Judgement::Line(line) => return Ok(line),
                Judgement::NoLine => return Err(self.unmatched(tls)),
                Judgement::Ask(question) => self.find_out(question).await?,
            }
        }
    }

    async fn find_out(&mut self, question: Question) -> Result<(), ClientError> {
        let _busy = self.asked.busy();
        match question {
            Question::Member(role) => {
                let is_member = self.is_member(&role).await?;
                self.answers.members.insert(role, is_member);
            }
            Question::Interfaces => {
                let interfaces = system::interfaces();
                self.answers.interfaces = Some(interfaces.map_err(|error| self.unanswered(&error.to_string()))?);
            }
            Question::HostName => {
                let Some(address) = self.facts(false).address else {
                    self.answers.host_name = Some(None);
                    return Ok(());
                };
                let name = system::host_name(&self.context.outside, address).await;
                self.answers.host_name = Some(name.map_err(|error| self.unanswered(&error))?);
            }
        }
        Ok(())
    }

    async fn is_member(&self, role: &str) -> Result<bool, ClientError> {
        let (role, database) = (UserName::from(role), DatabaseName::from(self.asked.database));
        let told = secrets::is_member(self.context, self.config, &database, self.asked.user, &role).await?;
        told.ok_or_else(|| self.unanswered("auth_user is not set for the database, so nobody can be asked"))
    }

    /// Whether the client may be let in can't be told, so it isn't.
    fn unanswered(&self, why: &str) -> ClientError {
        warn!(peer = %self.asked.peer, user = %self.asked.user, "cannot tell which line of auth_hba_file holds: {why}");
        let text = "cannot tell how this connection has to authenticate";
        ClientError::fatal(SqlState::CANNOT_CONNECT_NOW, text)
            .detail("A host name or a role membership that auth_hba_file needs could not be looked up.")
            .hint("See auth_hba_file, and auth_user for role memberships.")
    }

    /// Whether the certificate is as the line wants it.
    async fn check_certificate(&mut self, io: &Handshake, line: &Line) -> Result<(), ClientError> {
        if line.certificate == ClientCertificate::None {
            return Ok(());
        }
        let peer = io.tls.as_deref().and_then(|tls| tls.peer.as_deref()).filter(|peer| peer.verified);
        let Some(peer) = peer else {
            let text = "connection requires a valid client certificate";
            return Err(ClientError::fatal(SqlState::INVALID_AUTHORIZATION, text)
                .hint("See clientcert and cert in auth_hba_file, and client_tls_ca_file."));
        };
        if line.certificate == ClientCertificate::VerifyCa {
            return Ok(());
        }
        let name = match line.certificate_name {
            CertificateName::CommonName => peer.common_name.as_deref(),
            CertificateName::DistinguishedName => Some(peer.subject.as_str()),
        };
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Err(self.refused(&line.method, "the client's certificate has no user name"));
        };
        self.check_name(line.map.as_deref(), name, &line.method).await
    }

    /// Whether whom somebody else calls `name` may be the user.
    async fn check_name(&mut self, map: Option<&str>, name: &str, method: &Method) -> Result<(), ClientError> {
        loop {
            match self.config.access.maps.judge(map, name, self.asked.user.as_str(), &self.answers) {
                Told::Yes => return Ok(()),
                Told::No => {
                    let by = map.map_or_else(String::new, |map| format!(" by map \"{map}\""));
                    let why = format!("authenticated as {name:?}, which is not that user{by}");
                    return Err(self.refused(method, &why));
                }
                Told::Ask(question) => self.find_out(question).await?,
            }
        }
    }

    /// The name of the client's user at the other end of the unix socket.
    async fn system_user(&self, io: &Handshake) -> Result<String, ClientError> {
        let Stream::Unix(socket) = &io.stream else {
            return Err(self.refused(&Method::Peer, "it is not on the unix socket"));
        };
        let credentials = socket.peer_cred().map_err(|error| self.refused(&Method::Peer, &error.to_string()))?;
        let name = system::user_name(&self.context.outside, credentials.uid()).await;
        name.map_err(|why| self.refused(&Method::Peer, &why))
    }

    /// Waits for what somebody else says of a password.
    async fn vouched(
        &self,
        method: &Method,
        check: impl Future<Output = Result<(), String>>,
    ) -> Result<(), ClientError> {
        let _busy = self.asked.busy();
        check.await.map_err(|why| self.refused(method, &why))
    }

    fn check_token(&self, token: &Password) -> Result<String, ClientError> {
        let Some(rules) = &self.config.access.jwt else { return Err(self.refused(&Method::Jwt, "no keys")) };
        let now = world::time_of_day().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        jwt::verify(token.expose(), rules, now).map_err(|error| self.refused(&Method::Jwt, &error.to_string()))
    }

    /// The log learns the reason, the client only that the method failed.
    fn refused(&self, method: &Method, why: &str) -> ClientError {
        let Asked { user, peer, .. } = self.asked;
        info!(%peer, "login of user {user:?} by {} failed: {why}", method.as_str());
        let what = match method {
            Method::Trust => "\"trust\"",
            Method::Peer => "Peer",
            Method::Cert => "certificate",
            Method::Ldap(_) => "LDAP",
            Method::Pam(_) => "PAM",
            Method::Jwt => "JWT",
            Method::Reject | Method::Password | Method::Md5 | Method::ScramSha256 => {
                let text = format!("password authentication failed for user \"{user}\"");
                return ClientError::fatal(SqlState::INVALID_PASSWORD, text);
            }
        };
        ClientError::fatal(SqlState::INVALID_AUTHORIZATION, format!("{what} authentication failed for user \"{user}\""))
    }

    /// PostgreSQL's words for a line with `reject`.
    fn rejected(&self, tls: bool) -> ClientError {
        let (connection, what) = match self.asked.physical_replication {
            true => ("replication connection", String::new()),
            false => ("connection", format!(", database \"{}\"", self.asked.database)),
        };
        let rest = self.whence(&what, tls);
        self.no_entry(format!("pg_hba.conf rejects {connection} for {rest}"))
    }

    /// And for no line at all.
    fn unmatched(&self, tls: bool) -> ClientError {
        let (connection, what) = match self.asked.physical_replication {
            true => ("replication connection from ", String::new()),
            false => ("", format!(", database \"{}\"", self.asked.database)),
        };
        let rest = self.whence(&what, tls);
        self.no_entry(format!("no pg_hba.conf entry for {connection}{rest}"))
    }

    fn whence(&self, database: &str, tls: bool) -> String {
        let host = self.facts(tls).address.map_or_else(|| "[local]".to_owned(), |address| address.to_string());
        let encryption = if tls { "SSL encryption" } else { "no encryption" };
        format!("host \"{host}\", user \"{}\"{database}, {encryption}", self.asked.user)
    }

    fn no_entry(&self, text: String) -> ClientError {
        info!(peer = %self.asked.peer, "{text}");
        ClientError::fatal(SqlState::INVALID_AUTHORIZATION, text).hint("See auth_hba_file.")
    }
}
