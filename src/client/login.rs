//! From the StartupMessage to the first ReadyForQuery: who is it, what may it use, what does it start with.
//!
//! Before the password has been checked nothing tells an unknown user or database from a known one.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tracing::info;
use zeroize::Zeroizing;

use super::access::{Asked, Decided};
use super::door::Waiting;
use super::registry::{Admission, ClientKind, Identity, Registered, Registry};
use super::relay::Session;
use super::secrets::{self, Known};
use super::startup::{Handshake, HandshakeError, requested_settings};
use super::{Context, access, cert};
use crate::auth::{
    self, AuthFailure, ClientAuth, ClientStep, FailureReason, Policy, Proven, ServerCredentials, StoredSecret,
};
use crate::config::{AuthType, Config, Database, PoolMode};
use crate::error::{ClientError, Severity, SqlState};
use crate::names::{DatabaseName, UserName};
use crate::net::Peer;
use crate::net::stream::Stream;
use crate::net::timer;
use crate::net::world;
use crate::pool::sharing::Asker;
use crate::pool::start::Start;
use crate::pool::{Checkout, Judged, Lease, Pool, PoolUser, Welcome};
use crate::protocol::ClientState;
use crate::protocol::own;
use crate::protocol::settings::Settings;
use crate::server::QueryError;
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::startup::{PROTOCOL_3_2, Startup};

/// The longest name of a user or database, bytes: PostgreSQL's `NAMEDATALEN - 1`.
pub(super) const NAME_LIMIT: usize = 63;
/// What the greeting has besides the parameters, bytes: enough for a long cancel key.
const GREETING_ENDS: usize = 64;
/// How long an error on its way to a client that doesn't read is kept up.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(2);

/// The names of the admin console's database.
pub const CONSOLE_DATABASES: [&str; 2] = ["pgbouncer", "carpool"];

/// What a login leads to.
#[derive(Debug)]
pub enum Entered {
    /// A pooled session.
    Session(Box<Session>),
    /// The admin console.
    Console(Box<Console>),
    /// A replication connection with a server of its own.
    Replication(Box<super::replication::Replication>),
}

/// A login to the admin console.
#[derive(Debug)]
pub struct Console {
    /// The socket and what was read behind the login.
    pub handshake: Handshake,
    /// Its entry in the registry.
    pub registered: Registered,
    /// Whether it may run commands that change something.
    pub is_admin: bool,
}

/// Who asks, for what.
struct Request {
    startup: Startup,
    user: UserName,
    database: DatabaseName,
    peer: Peer,
}

impl Request {
    fn new(startup: Startup, peer: Peer) -> Result<Self, ClientError> {
        let user = startup.parameter("user").filter(|u| !u.is_empty()).map(UserName::from);
        let Some(user) = user else {
            let text = "no PostgreSQL user name specified in startup packet";
            return Err(ClientError::fatal(SqlState::INVALID_AUTHORIZATION, text));
        };
        let database = startup.parameter("database").filter(|d| !d.is_empty()).unwrap_or(user.as_str());
        for (what, name) in [("user", user.as_str()), ("database", database)] {
            if name.len() > NAME_LIMIT {
                let text = format!("{what} name is longer than {NAME_LIMIT} bytes");
                return Err(ClientError::fatal(SqlState::PROTOCOL_VIOLATION, text));
            }
        }
        let database = DatabaseName::from(database);
        Ok(Self { startup, user, database, peer })
    }

    /// What is asked for, as `auth_hba_file` sees it. The console has one name there, whichever the client used.
    fn asked<'r>(&'r self, waiting: Option<&'r Waiting>) -> Asked<'r> {
        let database = if self.is_console() { CONSOLE_DATABASES[0] } else { self.database.as_str() };
        let replication = replication_mode(&self.startup).is_some_and(|mode| mode != "database");
        Asked { user: &self.user, database, physical_replication: replication, peer: self.peer, waiting }
    }

    fn is_console(&self) -> bool {
        CONSOLE_DATABASES.contains(&self.database.as_str())
    }
}

/// Logs a client in.
///
/// # Errors
/// The client is to be told; see [`Handshake::refuse`].
pub async fn login(
    mut admission: Admission,
    config: Arc<Config>,
    handshake: &mut Option<Handshake>,
    startup: Startup,
    peer: Peer,
) -> Result<Entered, HandshakeError> {
    let context = Arc::clone(admission.context());
    let mut request = Request::new(startup, peer)?;
    let io = handshake.as_mut().ok_or_else(gone)?;
    negotiate(io, &request.startup).await?;
    if request.is_console() && is_own_user(io, &request.user) {
        return console(admission, handshake, &config, request, true).await;
    }
    let waiting = admission.waiting();
    let (proven, known) = authenticate(io, &context, &config, &request, waiting.as_deref()).await?;
    admission.proved(&config)?;
    if request.is_console() {
        return console(admission, handshake, &config, request, false).await;
    }
    let (database, pool) = open_pool(&context, &config, &request.database)?;
    check_limits(&context, &config, database, &request)?;
    let (server_user, credentials) = server_login(&config, database, &request.user, known.secret(), &proven);
    let settings = startup_settings(&config, database, &request)?;
    if let Some(replication) = replication_mode(&request.startup) {
        check_unpaused(&pool)?;
        let login = super::replication::login(&pool, server_user, credentials, replication, settings);
        let logical = replication == "database";
        let kind = if logical { ClientKind::LogicalReplication } else { ClientKind::PhysicalReplication };
        let identity = identity(&request, io, kind);
        return Box::pin(super::replication::enter(admission, handshake, (login, &pool), identity)).await;
    }
    let share = config.user_share(&server_user);
    let user = pool.user(&server_user, credentials, share);
    let start = start_of(&pool, &user, settings).await.inspect_err(|error| {
        // The server may have another password by now.
        if error.code.0.starts_with("28") {
            known.doubt(&context);
        }
    })?;
    request.user.share(&user.name);
    request.database.share(&pool.name);
    let identity = identity(&request, io, ClientKind::Pooled);
    let registered = Registry::register(admission, identity, Arc::clone(&start.settings));
    pool.count_client_login();
    io.send(&greeting(&start, &registered)).await?;
    let io = handshake.take().ok_or_else(gone)?;
    let (stream, unread) = io.into_parts();
    let state = ClientState::starting(Arc::clone(&start.settings), Arc::clone(&start.context));
    let mode = pool_mode(&config, database, &request.user);
    Ok(Entered::Session(Box::new(Session { stream, unread, registered, pool, user, state, mode })))
}

/// The socket is another's already, or has failed.
fn gone() -> HandshakeError {
    std::io::Error::from(std::io::ErrorKind::NotConnected).into()
}

/// The database that a client wants, and its pool, if clients may use it.
fn open_pool<'c>(
    context: &Context,
    config: &'c Config,
    name: &DatabaseName,
) -> Result<(&'c Database, Arc<Pool>), ClientError> {
    let database = crate::pool::directory::find(config, name.as_str());
    let (Some(database), Some(pool)) = (database, context.pools.get(name.as_str(), config)) else {
        return Err(ClientError::fatal(SqlState::INVALID_CATALOG_NAME, format!("database \"{name}\" does not exist"))
            .hint("It is not in the configuration's databases, and there is no \"*\" among them."));
    };
    if pool.is_disabled() {
        return Err(ClientError::fatal(SqlState::CANNOT_CONNECT_NOW, format!("database \"{name}\" is disabled"))
            .hint("DISABLE was issued on the console; ENABLE lets clients in."));
    }
    Ok((database, pool))
}

/// Others than replication wait for the end of a pause.
fn check_unpaused(pool: &Pool) -> Result<(), ClientError> {
    if !pool.is_paused() {
        return Ok(());
    }
    Err(ClientError::fatal(SqlState::CANNOT_CONNECT_NOW, format!("database \"{}\" is paused", pool.name))
        .hint("RESUME on the console ends the pause."))
}

fn identity(request: &Request, io: &Handshake, kind: ClientKind) -> Identity {
    Identity {
        user: request.user.clone(),
        database: request.database.clone(),
        kind,
        peer: request.peer,
        local: io.local,
        tls: io.tls.as_ref().map(|tls| tls.cipher),
        protocol: request.startup.protocol,
    }
}

/// Tells a client that asks for a newer protocol, or for extensions, what there is.
async fn negotiate(io: &mut Handshake, startup: &Startup) -> Result<(), HandshakeError> {
    let newer = startup.protocol > PROTOCOL_3_2;
    if newer || startup.extensions().next().is_some() {
        let mut message = Vec::new();
        backend::put_negotiate(&mut message, startup.protocol.min(PROTOCOL_3_2), startup.extensions());
        io.send(&message).await?;
    }
    Ok(())
}

/// Checks the password. Gives what was learned and what is stored.
async fn authenticate(
    io: &mut Handshake,
    context: &Arc<Context>,
    config: &Config,
    request: &Request,
    waiting: Option<&Waiting>,
) -> Result<(Proven, Known), HandshakeError> {
    let auth_type = match access::decide(io, context, config, &request.asked(waiting)).await? {
        Decided::Proven(proven) => return Ok((proven, Known::configured(config, &request.user))),
        Decided::Stored(auth_type) => auth_type,
    };
    let busy = waiting.map(Waiting::busy);
    let mut known = secrets::find(context, config, &request.user, &request.database).await?;
    drop(busy);
    if auth_type == AuthType::Cert {
        let names = |peer: &_| cert::is_common_name(peer, &request.user);
        let checked = cert::check(io.tls.as_deref(), &request.user, known.account(), names);
        return checked.map(|()| (Proven::Nothing, known)).map_err(|failure| refused(request, failure));
    }
    let decoy = context.secrets.decoy(config, request.database.as_str());
    let policy = Policy { auth_type, decoy, binding: io.binding() };
    let start = |known: &Known| {
        ClientAuth::start(&policy, &request.user, known.account(), &context.verifiers, &mut world::rng())
    };
    let mut step = start(&known);
    let (mut message, mut answer) = (Vec::new(), Zeroizing::new(Vec::new()));
    loop {
        message.clear();
        match step {
            ClientStep::Send(body, auth) => {
                backend::put_authentication(&mut message, &body);
                io.send(&message).await?;
                answer = Zeroizing::new(io.password(auth::MAX_PASSWORD_MESSAGE).await?);
                step = auth.step(&answer);
            }
            ClientStep::Done { last_message, proven } => {
                if let Some(body) = last_message {
                    backend::put_authentication(&mut message, &body);
                    io.hold(&message);
                }
                return Ok((proven, known));
            }
            // A password in plain can be held against the newest secret. Other exchanges can't be taken up again; the
            // next login gets it.
            ClientStep::Failed(failure)
                if failure.reason().is_of_the_secret()
                    && known.doubt(context)
                    && policy.auth_type == AuthType::Plain =>
            {
                known = secrets::find(context, config, &request.user, &request.database).await?;
                step = match start(&known) {
                    ClientStep::Send(_, auth) => auth.step(&answer),
                    other => other,
                };
            }
            ClientStep::Failed(failure) => {
                if failure.reason() == FailureReason::NotTrusted {
                    // As PostgreSQL, which asks for nothing, and only then looks for the role. Drivers that try several
                    // kinds of connections stop at what comes behind it.
                    backend::put_authentication(&mut message, &[0; 4]);
                    io.hold(&message);
                }
                return Err(refused(request, failure));
            }
        }
    }
}

/// The log learns the reason, the client only what it may.
fn refused(request: &Request, failure: AuthFailure) -> HandshakeError {
    info!(peer = %request.peer, "{failure}");
    ClientError::from(failure).into()
}

fn check_limits(context: &Context, config: &Config, database: &Database, request: &Request) -> Result<(), ClientError> {
    let of_user = config.users.get(&request.user);
    let of_user = of_user.map_or(config.pooler.max_user_client_connections, |u| u.max_client_connections);
    let of_database = database.max_client_connections;
    if of_user == 0 && of_database == 0 {
        return Ok(());
    }
    let (user, db) = context.registry.counts(&request.user, &request.database);
    let refuse = |limit: &str, what: String, setting: &'static str| {
        Err(ClientError::fatal(SqlState::TOO_MANY_CONNECTIONS, format!("client connections exceeded ({limit})"))
            .detail(format!("There are as many of {what} as there may be."))
            .hint(setting))
    };
    if of_user > 0 && user >= of_user {
        let what = format!("user \"{}\"", request.user);
        return refuse("max_user_client_connections", what, "See max_client_connections of the user.");
    }
    if of_database > 0 && db >= of_database {
        let what = format!("database \"{}\"", request.database);
        return refuse("max_db_client_connections", what, "See max_client_connections of the database.");
    }
    Ok(())
}

/// As whom, and with what, servers are logged in for this client.
fn server_login(
    config: &Config,
    database: &Database,
    user: &UserName,
    secret: Option<&StoredSecret>,
    proven: &Proven,
) -> (UserName, ServerCredentials) {
    let configured = database.password.as_ref().map(StoredSecret::parse);
    match &database.user {
        Some(forced) => {
            let of_user = || config.users.get(forced)?.password.as_ref().map(StoredSecret::parse);
            let secret = configured.or_else(of_user);
            let proven = if forced == user { proven } else { &Proven::Nothing };
            (forced.clone(), ServerCredentials::new(secret.as_ref(), proven))
        }
        None => (user.clone(), ServerCredentials::new(configured.as_ref().or(secret), proven)),
    }
}

/// The login of a database whose `user` is everybody's, as far as it needs no client's: for `min_pool_size` before the
/// first client.
#[must_use]
pub fn forced_login(config: &Config, database: &Database) -> Option<(UserName, ServerCredentials)> {
    let user = database.user.as_ref()?;
    let (user, credentials) = server_login(config, database, user, None, &Proven::Nothing);
    // Its keys show when a client logs in.
    (!matches!(credentials, ServerCredentials::ScramSecret)).then_some((user, credentials))
}

/// As whom, and with what, servers are logged in for a client of another process: what the configuration has comes first,
/// else what was `carried` over, which that client's login has shown.
pub(super) fn server_login_again(
    config: &Config,
    database: &Database,
    user: &UserName,
    carried: (UserName, ServerCredentials),
) -> (UserName, ServerCredentials) {
    let secret = config.users.get(user).and_then(|user| user.password.as_ref()).map(StoredSecret::parse);
    let (server_user, configured) = server_login(config, database, user, secret.as_ref(), &Proven::Nothing);
    let is_enough = matches!(configured, ServerCredentials::Password { .. });
    if is_enough || carried.0 != server_user { (server_user, configured) } else { carried }
}

pub(super) fn pool_mode(config: &Config, database: &Database, user: &UserName) -> PoolMode {
    let of_user = config.users.get(user).and_then(|u| u.pool_mode);
    of_user.or(database.pool_mode).unwrap_or(config.pooler.pool_mode)
}

/// `replication=true|database` as PostgreSQL reads it.
fn replication_mode(startup: &Startup) -> Option<&str> {
    let value = startup.parameter("replication")?;
    (!matches!(value, "" | "false" | "off" | "no" | "0")).then_some(value)
}

/// What the client asks for at startup, and what the configuration gives its database, without what is to be
/// ignored.
fn startup_settings(
    config: &Config,
    database: &Database,
    request: &Request,
) -> Result<Vec<(String, String)>, ClientError> {
    let ignored = &config.pooler.ignore_startup_parameters;
    let given = database.startup_parameters.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    let wanted = given.chain(requested_settings(&request.startup)?);
    let mut settings: Vec<_> =
        wanted.filter(|(name, _)| !ignored.iter().any(|i| i.eq_ignore_ascii_case(name))).collect();
    if config.pooler.application_name_add_host {
        add_host(&mut settings, request.peer);
    }
    check_own_settings(&settings)?;
    Ok(settings)
}

/// `application_name_add_host`: as PgBouncer spells it.
fn add_host(settings: &mut Vec<(String, String)>, peer: Peer) {
    let at = settings.iter().rposition(|(name, _)| name == APPLICATION_NAME);
    let given = at.map(|at| settings.remove(at).1).unwrap_or_else(|| "app".to_owned());
    let host = match peer {
        Peer::Tcp(addr) => std::net::SocketAddr::new(addr.ip().to_canonical(), addr.port()).to_string(),
        Peer::Unix => "unix".to_owned(),
    };
    settings.push((APPLICATION_NAME.to_owned(), format!("{given} - {host}")));
}

/// PostgreSQL would take any value for these.
fn check_own_settings(settings: &[(String, String)]) -> Result<(), ClientError> {
    let refusal = settings.iter().find_map(|(name, value)| own::refusal(name, value));
    refusal.map_or(Ok(()), |refusal| Err(ClientError { severity: Severity::Fatal, ..refusal.into() }))
}

/// What the session starts with.
async fn start_of(
    pool: &Arc<Pool>,
    user: &Arc<PoolUser>,
    wanted: Vec<(String, String)>,
) -> Result<Arc<Start>, ClientError> {
    if let Some(start) = user.last_start(&wanted) {
        return Ok(start);
    }
    let (welcome, judged) = initial_settings(pool, user, wanted.clone()).await?;
    let start = Arc::new(Start::new(wanted, welcome, &judged, &pool.tables.settings));
    user.note_start(&start);
    Ok(start)
}

/// What the client is told of the server, and the settings that it starts with. A plain `application_name`
/// needs no server to judge it, and would make every client's request another one.
async fn initial_settings(
    pool: &Arc<Pool>,
    user: &Arc<PoolUser>,
    mut wanted: Vec<(String, String)>,
) -> Result<(Arc<Welcome>, Judged), ClientError> {
    let is_plain = |(name, value): &(String, String)| name == APPLICATION_NAME && is_plain_name(value);
    let last = wanted.iter().rposition(|(name, _)| name == APPLICATION_NAME);
    let name = last.filter(|&at| is_plain(&wanted[at])).map(|at| wanted[at].1.clone());
    if name.is_some() {
        wanted.retain(|(name, _)| name != APPLICATION_NAME);
    }
    let (welcome, mut judged) = judged_settings(pool, user, wanted).await?;
    if let Some(name) = name {
        judged.settings = pool.tables.settings.intern(judged.settings.with(APPLICATION_NAME, &name));
    }
    Ok((welcome, judged))
}

const APPLICATION_NAME: &str = "application_name";

/// Whether PostgreSQL takes an `application_name` as it is: it cuts long ones and replaces what isn't printable ASCII.
fn is_plain_name(value: &str) -> bool {
    value.len() <= NAME_LIMIT && value.bytes().all(|b| (b' '..=b'~').contains(&b))
}

/// The first time that a pool sees such a request a server is asked: it knows whether the values are valid, and how
/// they are spelled.
async fn judged_settings(
    pool: &Arc<Pool>,
    user: &Arc<PoolUser>,
    wanted: Vec<(String, String)>,
) -> Result<(Arc<Welcome>, Judged), ClientError> {
    if let (Some(welcome), Some(judged)) = (user.welcome.load_full(), user.canonical(&wanted)) {
        return Ok((welcome, judged));
    }
    let mut lease = wait_for_server(pool, user).await?;
    let (Some(welcome), Some(server)) = (user.welcome.load_full(), lease.server()) else {
        return Err(ClientError::fatal(SqlState::INTERNAL_ERROR, "a server without a welcome"));
    };
    if wanted.is_empty() {
        return Ok((Arc::clone(&welcome), Judged::silently(Arc::clone(&welcome.baseline))));
    }
    let table = &pool.tables.settings;
    let target = wanted.iter().fold((*welcome.baseline).clone(), |s, (name, value)| s.with(name, value));
    // By way of the baseline: what a value like "german" comes to depends on what was there before, and that may
    // be another client's.
    let to_baseline = server.state.settings.replay(&welcome.baseline);
    let sql = to_baseline + &welcome.baseline.replay(&target);
    let mut notices = Vec::new();
    if !sql.is_empty() {
        let timeout = pool.spec.load().connect_timeout;
        match server.query_with_notices(&sql, table, timeout).await {
            Ok(brought) => notices = brought,
            Err(error) => {
                if !matches!(error, QueryError::Refused { .. }) {
                    lease.close();
                }
                return Err(startup_parameter_error(error));
            }
        }
    }
    // What the server reports is spelled its way; the rest is taken as it was asked for.
    let reported = server.state.settings.only_reported();
    let settings = target.iter().filter(|(name, _)| !reported.reported(name));
    let settings = settings.fold(reported.clone(), |s, (name, value)| s.with(name, value));
    let settings = table.intern(settings);
    server.state.settings = Arc::clone(&settings);
    let judged = Judged { settings, notices: notices.into() };
    user.learn_canonical(wanted, judged.clone());
    Ok((welcome, judged))
}

async fn wait_for_server(pool: &Arc<Pool>, user: &Arc<PoolUser>) -> Result<Lease, ClientError> {
    match pool.checkout(user, &Asker::itself(crate::names::ClientId(0)), world::now()) {
        Checkout::Now(lease) => Ok(lease),
        Checkout::Wait(granted) => granted.await.unwrap_or_else(|_| {
            let text = format!("database \"{}\" was removed", pool.name);
            Err(ClientError::fatal(SqlState::ADMIN_SHUTDOWN, text))
        }),
    }
}

/// A startup parameter that the server doesn't take, as PostgreSQL itself refuses it.
fn startup_parameter_error(error: QueryError) -> ClientError {
    let QueryError::Refused { code, message } = error else {
        return ClientError::fatal(SqlState::CONNECTION_FAILURE, format!("server connection failed: {error}"));
    };
    let code = match code.as_str() {
        "42704" => SqlState::UNDEFINED_OBJECT,
        "55P02" => SqlState::CANT_CHANGE_RUNTIME_PARAM,
        "42501" => SqlState::INSUFFICIENT_PRIVILEGE,
        _ => SqlState::INVALID_PARAMETER_VALUE,
    };
    ClientError::fatal(code, Cow::Owned(message))
        .detail("It was given as a startup parameter.")
        .hint("See ignore_startup_parameters.")
}

/// AuthenticationOk, notices about what the client asked for, the parameters, the cancel key, ReadyForQuery.
fn greeting(start: &Start, registered: &Registered) -> Vec<u8> {
    let mut message = Vec::with_capacity(start.greeting.len() + GREETING_ENDS);
    backend::put_authentication(&mut message, &[0; 4]);
    message.extend_from_slice(&start.greeting);
    finish_greeting(&mut message, registered);
    message
}

/// The cancel key and ReadyForQuery.
pub(super) fn finish_greeting(message: &mut Vec<u8>, registered: &Registered) {
    backend::put_backend_key(message, &registered.shared.key);
    backend::put_ready(message, TransactionStatus::Idle);
}

/// Whether it is the system's user as whom Carpool runs, by the unix socket: who could read its secrets anyway needs
/// none.
fn is_own_user(io: &Handshake, user: &UserName) -> bool {
    let own = nix::unistd::getuid().as_raw();
    CONSOLE_DATABASES.contains(&user.as_str()) && io.stream.peer_uid() == Some(own)
}

async fn console(
    admission: Admission,
    handshake: &mut Option<Handshake>,
    config: &Config,
    request: Request,
    is_own: bool,
) -> Result<Entered, HandshakeError> {
    let is_admin = is_own || config.pooler.admin_users.contains(&request.user);
    if !is_admin && !config.pooler.stats_users.contains(&request.user) {
        return Err(ClientError::fatal(SqlState::INSUFFICIENT_PRIVILEGE, "not allowed to use the admin console")
            .hint("See admin_users and stats_users.")
            .into());
    }
    let mut io = handshake.take().ok_or_else(gone)?;
    let settings =
        Settings::from_pairs([(APPLICATION_NAME, request.startup.parameter(APPLICATION_NAME).unwrap_or(""))]);
    let identity = identity(&request, &io, ClientKind::Console);
    let registered = Registry::register(admission, identity, Arc::new(settings));
    let mut message = Vec::new();
    backend::put_authentication(&mut message, &[0; 4]);
    let version = concat!(env!("CARGO_PKG_VERSION"), "/carpool");
    for (name, value) in [
        ("server_version", version),
        ("client_encoding", "UTF8"),
        ("server_encoding", "UTF8"),
        ("DateStyle", "ISO"),
        ("TimeZone", "GMT"),
        ("standard_conforming_strings", "on"),
        ("is_superuser", if is_admin { "on" } else { "off" }),
    ] {
        backend::put_parameter_status(&mut message, name.as_bytes(), value.as_bytes());
    }
    finish_greeting(&mut message, &registered);
    io.send(&message).await?;
    Ok(Entered::Console(Box::new(Console { handshake: io, registered, is_admin })))
}

/// Sends what is left for a client and closes in an order that lets it arrive: closing a socket with unread
/// bytes would reset the connection and take the error with it.
pub async fn last_words(mut stream: Stream, bytes: Vec<u8>) {
    let parting = async {
        stream.write_all(&bytes).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    // One who doesn't listen isn't waited for.
    let _ = timer::timeout(LAST_WORDS_TIMEOUT, parting).await;
}
