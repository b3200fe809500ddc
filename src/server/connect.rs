//! Logging in to a server, in steps: connect, StartupMessage, authentication, parameters, ReadyForQuery.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::RngExt;
use tokio::io::AsyncWriteExt;

use super::encrypt::{self, Encryption, OpenError, Way};
use super::{QueryError, Server, ServerShared, next_message};
use crate::auth::scram::{ChannelBinding, ScramKeys};
use crate::auth::{ServerAuth, ServerAuthError, ServerCredentials, ServerStep};
use crate::config::{Role, SessionAttrs};
use crate::error::{ClientError, SqlState};
use crate::names::{ServerId, UserName};
use crate::net::timer;
use crate::net::world;
use crate::net::{Target, TcpOptions};
use crate::protocol::ServerState;
use crate::protocol::settings::{DEFAULT_READ_ONLY, IN_HOT_STANDBY, Settings, SettingsTable, follows_client};
use crate::tls::{BindingMode, ConnectTls, TlsInfo};
use crate::wire::backend::{self, tag};
use crate::wire::frame::{Fields, FrameError};
use crate::wire::frontend;
use crate::wire::startup::{self, CancelKey, Secret};

/// What a login needs.
#[derive(Clone, Debug)]
pub struct Login {
    /// Where.
    pub target: Target,
    /// Its place in the list of hosts.
    pub host: u8,
    /// What the server has to be.
    pub attrs: SessionAttrs,
    /// Socket options.
    pub options: TcpOptions,
    /// TLS, or not.
    pub tls: ConnectTls,
    /// As whom.
    pub user: UserName,
    /// To which database, by its name on the server.
    pub database: String,
    /// With what.
    pub credentials: ServerCredentials,
    /// Further startup parameters (`replication`, for one).
    pub parameters: Vec<(String, String)>,
    /// Run once logged in.
    pub connect_query: Option<String>,
    /// For all of it.
    pub timeout: Duration,
    /// `max_prepared_statements`.
    pub max_prepared_statements: usize,
    /// How long the connection may serve; zero: without end.
    pub lifetime: Duration,
    /// The pool's generation.
    pub generation: u32,
}

/// A logged-in server and what it told about itself.
#[derive(Debug)]
pub struct LoggedIn {
    /// The connection.
    pub server: Server,
    /// Its ParameterStatus messages, in order.
    pub parameters: Vec<(String, String)>,
    /// Keys for the next login with the same password.
    pub keys: Option<ScramKeys>,
    /// What it is, if it has said so (PostgreSQL 14 and later), or has been asked.
    pub role: Option<Role>,
}

/// Why a login failed.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The socket failed.
    #[error("cannot connect to server {target}: {error}")]
    Io {
        /// Where.
        target: Target,
        /// What the system said.
        error: io::Error,
    },
    /// TLS is wanted, and can't be had, or not from this server.
    #[error("no TLS with server {target}: {error}")]
    Tls {
        /// Where.
        target: Target,
        /// Why.
        error: OpenError,
    },
    /// It took too long.
    #[error("login to server {target} took longer than {timeout:?} (server_connect_timeout)")]
    Timeout {
        /// Where.
        target: Target,
        /// The bound.
        timeout: Duration,
    },
    /// The server said no.
    #[error("server {target} refused the login: {message}")]
    Refused {
        /// Where.
        target: Target,
        /// SQLSTATE.
        code: String,
        /// In the server's words.
        message: String,
    },
    /// What it asks for isn't known here.
    #[error("cannot authenticate to server {target}: {error}")]
    Auth {
        /// Where.
        target: Target,
        /// What is missing.
        error: ServerAuthError,
    },
    /// It isn't what is wanted.
    #[error("server {target} is a {role}, which is not {} (target_session_attrs)", .attrs.as_str())]
    Role {
        /// Where.
        target: Target,
        /// What it is.
        role: Role,
        /// What was wanted.
        attrs: SessionAttrs,
    },
    /// It is too far behind the primary, or it isn't known how far.
    #[error("{}", lagging(.target, *.lag, *.limit))]
    Lag {
        /// Where.
        target: Target,
        /// How far.
        lag: Option<Duration>,
        /// How far it may be.
        limit: Duration,
    },
    /// It says that it is the primary, and isn't the one that is used.
    #[error("server {target} says that it is the primary, {}", in_place(.primary.as_ref()))]
    Deposed {
        /// Where.
        target: Target,
        /// The one that is, if it is known.
        primary: Option<Target>,
    },
    /// It follows the old one of two primaries, or none that is known.
    #[error("server {target} is a standby that does not follow the primary{}", .primary.as_ref().map(|primary| format!(", {primary}")).unwrap_or_default())]
    Astray {
        /// Where.
        target: Target,
        /// The one that is used, if it is known.
        primary: Option<Target>,
    },
    /// It was asked what it is, and didn't answer.
    #[error("health check of server {target} failed: {error}")]
    Check {
        /// Where.
        target: Target,
        /// Why.
        error: String,
    },
    /// What several Carpools share doesn't let this one log in.
    #[error("this process may not log in at the moment: it hasn't been able to renew its part of shared_pool_size")]
    Budget,
    /// None of several hosts can be used: the reason of each.
    #[error("no host can be used: {}", listed(.0))]
    Hosts(Vec<Arc<LoginError>>),
    /// It doesn't speak the protocol.
    #[error("server {target} broke the protocol during login: {error}")]
    Protocol {
        /// Where.
        target: Target,
        /// How.
        error: String,
    },
}

impl LoginError {
    /// Whether trying again can't help before somebody changes something.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Refused { code, .. } => code.starts_with("28") || code == "3D000" || code == "42501",
            Self::Auth { .. } => true,
            Self::Tls { error, .. } => error.is_permanent(),
            Self::Hosts(each) => !each.is_empty() && each.iter().all(|error| error.is_permanent()),
            _ => false,
        }
    }

    /// Whether the server has said so itself, and so has no connection left of it.
    #[must_use]
    pub fn is_the_servers(&self) -> bool {
        match self {
            Self::Refused { .. } => true,
            Self::Hosts(each) => each.iter().all(|error| error.is_the_servers()),
            _ => false,
        }
    }

    /// In PgBouncer's words.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io { .. } => "connect failed",
            Self::Tls { .. } => "TLS startup failed",
            Self::Timeout { .. } => "connect timeout",
            Self::Refused { .. } => "login failed",
            Self::Auth { .. } => "failed to answer authreq",
            Self::Protocol { .. } => "unknown pkt from server",
            Self::Role { .. } | Self::Deposed { .. } => "server has another role",
            Self::Lag { .. } | Self::Astray { .. } => "server is behind",
            Self::Check { .. } => "health check failed",
            Self::Budget => "no part of shared_pool_size",
            Self::Hosts(each) => each.first().map_or("no host", |first| first.reason()),
        }
    }

    /// Whether the server may let Carpool in with TLS where it was without, or the other way round: libpq's rule for
    /// sslmode allow and prefer, but for passwords, which aren't tried twice.
    fn asks_for_other_way(&self) -> bool {
        match self {
            Self::Tls { error, .. } => matches!(error, OpenError::Handshake(_) | OpenError::Answer(_)),
            Self::Refused { code, .. } => code == "28000",
            _ => false,
        }
    }

    /// What the clients that waited for this login are told. The server's own refusals keep their code where
    /// they are about the client's request.
    #[must_use]
    pub fn client_error(&self) -> ClientError {
        ClientError::fatal(self.sqlstate(), format!("server login failed: {self}"))
    }

    fn sqlstate(&self) -> SqlState {
        match self {
            Self::Hosts(each) => {
                // Where they are of one mind that is the reason.
                let mut codes = each.iter().map(|error| error.sqlstate());
                let first = codes.next().unwrap_or(SqlState::CONNECTION_FAILURE);
                if codes.all(|code| code == first) { first } else { SqlState::CONNECTION_FAILURE }
            }
            Self::Refused { code, .. } if code == "3D000" => SqlState::INVALID_CATALOG_NAME,
            Self::Refused { code, .. } if code == "28P01" => SqlState::INVALID_PASSWORD,
            Self::Refused { code, .. } if code.starts_with("28") => SqlState::INVALID_AUTHORIZATION,
            Self::Refused { code, .. } if code == "57P03" => SqlState::CANNOT_CONNECT_NOW,
            Self::Refused { code, .. } if code == "53300" => SqlState::TOO_MANY_CONNECTIONS,
            _ => SqlState::CONNECTION_FAILURE,
        }
    }
}

fn lagging(target: &Target, lag: Option<Duration>, limit: Duration) -> String {
    match lag {
        Some(lag) => format!("server {target} is {lag:?} behind, more than {limit:?} (max_replica_lag)"),
        None => format!("it isn't known how far server {target} is behind (max_replica_lag)"),
    }
}

fn in_place(primary: Option<&Target>) -> String {
    match primary {
        Some(primary) => format!("which {primary} is"),
        None => "but another has been promoted since (RECONNECT on the console has it used again)".to_owned(),
    }
}

/// All reasons, one behind the other.
fn listed(errors: &[Arc<LoginError>]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

pub(super) fn next_id() -> ServerId {
    // Errors name servers, and are to be of the same length each time.
    #[cfg(test)]
    if let Some(number) = crate::net::simulated::next_server() {
        return ServerId(number);
    }
    ServerId(NEXT_ID.fetch_add(1, Ordering::Relaxed))
}

/// Connects and logs in.
///
/// # Errors
/// See [`LoginError`]; the socket is closed by then.
pub async fn login(login: &Login, settings: &SettingsTable) -> Result<LoggedIn, LoginError> {
    let steps = async {
        let mut ways = encrypt::ways(&login.target, &login.tls).iter().peekable();
        loop {
            let way = ways.next().copied().unwrap_or(Way::Plain);
            match log_in(login, way, settings).await {
                Err(error) if ways.peek().is_some() && error.asks_for_other_way() => {}
                ended => return ended,
            }
        }
    };
    let late = || LoginError::Timeout { target: login.target.clone(), timeout: login.timeout };
    timer::timeout(login.timeout, steps).await.unwrap_or_else(|_| Err(late()))
}

async fn log_in(login: &Login, way: Way, settings: &SettingsTable) -> Result<LoggedIn, LoginError> {
    let opened = encrypt::open(&login.target, &login.options, &login.tls, way).await;
    let (stream, tls) = opened.map_err(|error| open_error(login, error))?;
    let mut session = Session { login, stream, tls, buf: Vec::new(), keys: None };
    session.start().await?;
    session.authenticate().await?;
    let mut logged_in = session.until_ready(settings).await?;
    check_role(login, &mut logged_in, settings).await?;
    if let Some(sql) = &login.connect_query {
        let run = logged_in.server.query(sql, settings, login.timeout).await;
        run.map_err(|error| query_error(login, error))?;
    }
    Ok(logged_in)
}

/// Sees to it that the server is what it has to be.
async fn check_role(login: &Login, logged_in: &mut LoggedIn, settings: &SettingsTable) -> Result<(), LoginError> {
    if login.attrs == SessionAttrs::Any {
        return Ok(());
    }
    if logged_in.role.is_none() {
        let role = logged_in.server.ask_role(settings, login.timeout).await;
        logged_in.role = Some(role.map_err(|error| query_error(login, error))?);
    }
    match logged_in.role {
        Some(role) if !login.attrs.fits(role) => {
            // Its place is another host's next: it has to be gone by then.
            let _ = timer::timeout(super::CLOSE_TIMEOUT, logged_in.server.goodbye()).await;
            Err(LoginError::Role { target: login.target.clone(), role, attrs: login.attrs })
        }
        _ => Ok(()),
    }
}

/// What a server reports of its role.
fn reported_role(parameters: &[(String, String)]) -> Option<Role> {
    let is_on = |name: &str| parameters.iter().find(|(n, _)| n == name).map(|(_, value)| value == "on");
    let standby = is_on(IN_HOT_STANDBY)?;
    Some(Role { standby, read_only: standby || is_on(DEFAULT_READ_ONLY)? })
}

fn open_error(login: &Login, error: OpenError) -> LoginError {
    match error {
        OpenError::Io(error) => io_error(login, error),
        error => LoginError::Tls { target: login.target.clone(), error },
    }
}

fn io_error(login: &Login, error: io::Error) -> LoginError {
    LoginError::Io { target: login.target.clone(), error }
}

fn query_error(login: &Login, error: QueryError) -> LoginError {
    match error {
        QueryError::Io(error) => io_error(login, error),
        other => LoginError::Protocol { target: login.target.clone(), error: other.to_string() },
    }
}

/// A login under way.
struct Session<'a> {
    login: &'a Login,
    stream: crate::net::stream::Stream,
    tls: Option<TlsInfo>,
    buf: Vec<u8>,
    keys: Option<ScramKeys>,
}

impl Session<'_> {
    /// What a login is bound to.
    fn binding(&self) -> ChannelBinding {
        let wanted = self.login.tls.settings.binding != BindingMode::Disable;
        match &self.tls {
            Some(tls) if wanted && !tls.server_end_point.is_empty() => {
                ChannelBinding::TlsServerEndPoint(tls.server_end_point.clone())
            }
            _ => ChannelBinding::None,
        }
    }

    async fn start(&mut self) -> Result<(), LoginError> {
        let mut message = Vec::new();
        let named = [("user", self.login.user.as_str()), ("database", self.login.database.as_str())];
        let further = self.login.parameters.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        startup::put_startup(&mut message, startup::PROTOCOL_3_0, named.into_iter().chain(further));
        self.send(&message).await
    }

    async fn send(&mut self, message: &[u8]) -> Result<(), LoginError> {
        self.stream.write_all(message).await.map_err(|error| io_error(self.login, error))
    }

    /// The next message that isn't a notice. An ErrorResponse is the login's failure.
    async fn next(&mut self) -> Result<(u8, Vec<u8>), LoginError> {
        loop {
            let next = next_message(&mut self.stream, &mut self.buf).await;
            let (header, body) = next.map_err(|error| query_error(self.login, error))?;
            match header.tag {
                tag::NOTICE_RESPONSE | tag::NEGOTIATE_PROTOCOL_VERSION => {}
                tag::ERROR_RESPONSE => return Err(self.refused(&body)),
                tag => return Ok((tag, body)),
            }
        }
    }

    fn refused(&self, body: &[u8]) -> LoginError {
        let field = |code, default: &str| {
            backend::error_field(body, code).map_or_else(|| default.into(), |v| String::from_utf8_lossy(v).into_owned())
        };
        LoginError::Refused {
            target: self.login.target.clone(),
            code: field(b'C', "XX000"),
            message: field(b'M', "no reason given"),
        }
    }

    fn protocol(&self, error: impl ToString) -> LoginError {
        LoginError::Protocol { target: self.login.target.clone(), error: error.to_string() }
    }

    async fn authenticate(&mut self) -> Result<(), LoginError> {
        let (user, credentials) = (&self.login.user, self.login.credentials.clone());
        let mut auth = ServerAuth::new(user, credentials, self.binding(), &mut world::rng());
        if self.login.tls.settings.binding == BindingMode::Require {
            auth = auth.require_binding();
        }
        loop {
            let (message, body) = self.next().await?;
            if message != tag::AUTHENTICATION {
                return Err(self.protocol(format!("message type 0x{message:02x} before the login's end")));
            }
            let mut fields = Fields::new(message, &body);
            let code = fields.u32().map_err(|error| self.protocol(error))?;
            let step = auth.step(code, fields.rest());
            match step.map_err(|error| LoginError::Auth { target: self.login.target.clone(), error })? {
                ServerStep::Send(body, next) => {
                    let mut message = Vec::new();
                    frontend::put_password(&mut message, &body);
                    self.send(&message).await?;
                    auth = next;
                }
                ServerStep::Wait(next) => auth = next,
                ServerStep::Done(keys) => {
                    self.keys = keys;
                    return Ok(());
                }
            }
        }
    }

    async fn until_ready(mut self, settings: &SettingsTable) -> Result<LoggedIn, LoginError> {
        let mut parameters = Vec::new();
        let mut key = None;
        loop {
            let (message, body) = self.next().await?;
            let frame = |error: FrameError| LoginError::Protocol {
                target: self.login.target.clone(),
                error: error.to_string(),
            };
            match message {
                tag::PARAMETER_STATUS => {
                    let (name, value) = backend::parameter_status(&body).map_err(frame)?;
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    parameters.push((text(name), text(value)));
                }
                tag::BACKEND_KEY_DATA => key = Some(backend::backend_key_data(&body).map_err(frame)?),
                tag::READY_FOR_QUERY => break,
                other => return Err(self.protocol(format!("unexpected message type 0x{other:02x}"))),
            }
        }
        let reported = parameters.iter().filter(|(name, _)| follows_client(name)).map(|(n, v)| (n, v));
        let reported = settings.intern(Settings::from_reported(reported));
        // Without a key (some proxies give none) cancels have nothing to go by; this one fits nobody.
        let key = key.unwrap_or(CancelKey { pid: 0, secret: Secret::Short([0; 4]) });
        let keys = self.keys.take();
        let role = reported_role(&parameters);
        Ok(LoggedIn { server: self.into_server(reported, key), parameters, keys, role })
    }

    fn into_server(self, settings: Arc<Settings>, key: CancelKey) -> Server {
        let login = self.login;
        let encryption = self.tls.map(|tls| Encryption { cipher: tls.cipher, tls: login.tls.clone() });
        let mut state = ServerState::new(settings, login.max_prepared_statements);
        state.pid = key.pid;
        let known = (login.target.clone(), login.user.clone(), login.generation);
        let mut shared = ServerShared::new(known, key, self.stream.addresses(), world::time_of_day());
        (shared.host, shared.encryption) = (login.host, encryption);
        // Lifetimes are spread by up to a tenth, so that a pool filled at once isn't emptied at once.
        let spread = login.lifetime.mul_f64(world::rng().random_range(0.9..=1.0));
        let expires = (!login.lifetime.is_zero()).then(|| world::now() + spread);
        Server { carry: self.buf, ..Server::new(self.stream, state, shared, expires) }
    }
}
