//! The driver towards PostgreSQL: answers whatever authentication the server asks for, as far as the credentials go.
//!
//! Every message out of order is an error, and an AuthenticationOk in the middle of a SCRAM exchange most of all: the
//! server has to prove first that it knows the secret. Error texts name the user and what is missing.

use std::fmt;

use rand::CryptoRng;

use super::client::Proven;
use super::sasl::{InitialResponse, MAX_SERVER_MESSAGE, Mechanisms, SaslError};
use super::scram::client::{
    self as scram_client, AwaitServerFinal, AwaitServerFirst, ScramClientError, ScramCredentials,
};
use super::scram::{self, ScramKeys};
use super::{ChannelBinding, Md5Secret, Password, StoredSecret, code, md5};
use crate::names::UserName;

/// What Carpool can log in to the server with.
#[derive(Clone, Debug)]
pub enum ServerCredentials {
    /// Nothing: only a server that trusts lets it in.
    None,
    /// The password, and the keys that an earlier login derived from it.
    Password {
        /// The password.
        password: Password,
        /// What [`ServerStep::Done`] gave at an earlier login; spares the derivation if it still fits.
        keys: Option<ScramKeys>,
    },
    /// The md5 hash: enough for the md5 method alone.
    Md5Hash(Md5Secret),
    /// SCRAM keys from a client's login: enough for SCRAM with the same secret alone.
    ScramKeys(ScramKeys),
    /// A SCRAM secret, but no client has shown its keys yet: enough for nothing.
    ScramSecret,
}

impl ServerCredentials {
    /// The best that a stored secret and a client's login give together.
    #[must_use]
    pub fn new(secret: Option<&StoredSecret>, proven: &Proven) -> Self {
        match (secret, proven) {
            (Some(StoredSecret::Plain(password)), _) if !password.expose().is_empty() => {
                Self::Password { password: password.clone(), keys: None }
            }
            (_, Proven::Password { password, keys }) => {
                Self::Password { password: password.clone(), keys: keys.clone() }
            }
            (_, Proven::Keys(keys)) => Self::ScramKeys(keys.clone()),
            (Some(StoredSecret::Md5(hash)), Proven::Nothing) => Self::Md5Hash(hash.clone()),
            (Some(StoredSecret::Scram(_)), Proven::Nothing) => Self::ScramSecret,
            (Some(StoredSecret::Plain(_)) | None, Proven::Nothing) => Self::None,
        }
    }

    const fn known(&self) -> &'static str {
        match self {
            Self::None => "no password",
            Self::Password { .. } => "a password",
            Self::Md5Hash(_) => "only an md5 secret",
            Self::ScramKeys(_) => "nothing but SCRAM keys",
            Self::ScramSecret => "only a SCRAM secret, whose keys no client's SCRAM login has shown yet,",
        }
    }
}

/// What to do next.
#[derive(Debug)]
pub enum ServerStep {
    /// Send this body of a password (`p`) message, then hand over the server's next authentication message.
    Send(Vec<u8>, ServerAuth),
    /// The next authentication message must follow, nothing is to be sent.
    Wait(ServerAuth),
    /// Logged in. The keys of a SCRAM login, for [`ServerCredentials`] at the next one.
    Done(Option<ScramKeys>),
}

/// Why a login failed on this side. The texts name the user, so they are for the log and for clients of that user.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ServerAuthError {
    /// The server asks for what the credentials don't give.
    #[error("server requests {method} authentication but {known} is known for user \"{user}\"")]
    MissingCredential {
        /// What it asks for.
        method: &'static str,
        /// What there is.
        known: &'static str,
        /// Who logs in.
        user: UserName,
    },
    /// The server asks for a method that Carpool doesn't speak.
    #[error("server requests {method} authentication for user \"{user}\", which is not supported")]
    Unsupported {
        /// The method's name, or its number.
        method: String,
        /// Who logs in.
        user: UserName,
    },
    /// A password with a NUL can't be sent.
    #[error("the password of user \"{0}\" contains a NUL byte, which cannot be sent")]
    NulInPassword(UserName),
    /// An authentication message that can't come now.
    #[error("server sent authentication message {code} while {awaited} was expected")]
    OutOfOrder {
        /// The message's code.
        code: u32,
        /// What should have come.
        awaited: &'static str,
    },
    /// A body of the wrong length.
    #[error("server sent a malformed authentication message {code}")]
    Malformed {
        /// The message's code.
        code: u32,
    },
    /// A SASL message that isn't one.
    #[error("server sent a malformed authentication message: {0}")]
    Sasl(#[from] SaslError),
    /// The login must be bound to the TLS connection, and the server doesn't do that.
    #[error("channel binding is required for user \"{user}\" (channel_binding), but {why}")]
    NotBound {
        /// Who logs in.
        user: UserName,
        /// What stands against it.
        why: &'static str,
    },
    /// The SCRAM exchange failed.
    #[error("SCRAM authentication of user \"{user}\" failed: {error}")]
    Scram {
        /// Who logs in.
        user: UserName,
        /// Why.
        #[source]
        error: ScramClientError,
    },
}

/// A login to a server under way: its next authentication message is awaited.
pub struct ServerAuth {
    login: Login,
    state: State,
}

struct Login {
    user: UserName,
    binding: ChannelBinding,
    /// `channel_binding` is require.
    must_bind: bool,
}

enum State {
    /// Nothing was asked for yet.
    Start(ServerCredentials, String),
    /// A password or its hash was sent.
    PasswordSent,
    ScramFirst(AwaitServerFirst),
    ScramFinal(AwaitServerFinal),
    /// The server has proved itself.
    ScramDone(ScramKeys),
}

impl State {
    const fn awaited(&self) -> &'static str {
        match self {
            Self::Start(..) => "an authentication request",
            Self::PasswordSent => "AuthenticationOk",
            Self::ScramFirst(_) => "AuthenticationSASLContinue",
            Self::ScramFinal(_) => "AuthenticationSASLFinal",
            Self::ScramDone(_) => "AuthenticationOk after the SCRAM exchange",
        }
    }
}

impl fmt::Debug for ServerAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let awaited = self.state.awaited();
        write!(f, "ServerAuth({:?}, awaits {awaited})", self.login.user)
    }
}

impl ServerAuth {
    /// Begins a login as `user`, right after the startup packet.
    pub fn new(
        user: &UserName,
        credentials: ServerCredentials,
        binding: ChannelBinding,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Self {
        let user = user.clone();
        let login = Login { user, binding, must_bind: false };
        Self { login, state: State::Start(credentials, scram::nonce(rng)) }
    }

    /// Has the login fail unless it is bound to the TLS connection.
    #[must_use]
    pub fn require_binding(mut self) -> Self {
        self.login.must_bind = true;
        self
    }

    /// Takes an authentication (`R`) message: its code, and the body after the code. SCRAM with a password derives
    /// its keys unless they were handed in: about a millisecond for each 4096 iterations.
    ///
    /// # Errors
    /// What the server did wrong, or what is missing here; the connection is to be closed.
    pub fn step(self, code: u32, rest: &[u8]) -> Result<ServerStep, ServerAuthError> {
        if rest.len() > MAX_SERVER_MESSAGE {
            return Err(ServerAuthError::Malformed { code });
        }
        let Self { login, state } = self;
        if login.must_bind && matches!(state, State::Start(..)) && code != code::SASL {
            return Err(login.not_bound("the server asks for no SCRAM login"));
        }
        match (state, code) {
            (State::Start(..) | State::PasswordSent, code::OK) => done(None, rest),
            (State::ScramDone(keys), code::OK) => done(Some(keys), rest),
            (State::Start(credentials, nonce), _) => login.answer(credentials, nonce, code, rest),
            (State::ScramFirst(state), code::SASL_CONTINUE) => {
                let (state, message) = state.server_first(rest).map_err(|error| login.scram_error(error))?;
                Ok(login.send(message, State::ScramFinal(state)))
            }
            (State::ScramFinal(state), code::SASL_FINAL) => {
                let keys = state.server_final(rest).map_err(|error| login.scram_error(error))?;
                let state = State::ScramDone(keys);
                Ok(ServerStep::Wait(Self { login, state }))
            }
            (state, code) => Err(ServerAuthError::OutOfOrder { code, awaited: state.awaited() }),
        }
    }
}

fn done(keys: Option<ScramKeys>, rest: &[u8]) -> Result<ServerStep, ServerAuthError> {
    if rest.is_empty() {
        return Ok(ServerStep::Done(keys));
    }
    Err(ServerAuthError::Malformed { code: code::OK })
}

impl Login {
    /// Answers the server's first request.
    fn answer(
        self,
        credentials: ServerCredentials,
        nonce: String,
        code: u32,
        rest: &[u8],
    ) -> Result<ServerStep, ServerAuthError> {
        match code {
            code::CLEARTEXT_PASSWORD if rest.is_empty() => self.send_password(&credentials),
            code::MD5_PASSWORD => match rest.try_into() {
                Ok(salt) => self.send_md5(&credentials, salt),
                Err(_) => Err(ServerAuthError::Malformed { code }),
            },
            code::SASL => self.begin_scram(credentials, nonce, rest),
            code::CLEARTEXT_PASSWORD => Err(ServerAuthError::Malformed { code }),
            code::SASL_CONTINUE | code::SASL_FINAL | code::GSS_CONTINUE => {
                Err(ServerAuthError::OutOfOrder { code, awaited: State::Start(credentials, nonce).awaited() })
            }
            other => Err(self.unsupported(match other {
                code::KERBEROS_V5 => "Kerberos V5".to_owned(),
                code::CRYPT_PASSWORD => "crypt".to_owned(),
                code::SCM_CREDENTIAL => "SCM credential".to_owned(),
                code::GSS => "GSSAPI".to_owned(),
                code::SSPI => "SSPI".to_owned(),
                number => format!("unknown ({number})"),
            })),
        }
    }

    fn send_password(self, credentials: &ServerCredentials) -> Result<ServerStep, ServerAuthError> {
        let ServerCredentials::Password { password, .. } = credentials else {
            return Err(self.missing("cleartext password", credentials));
        };
        if password.expose().contains(&0) {
            return Err(ServerAuthError::NulInPassword(self.user));
        }
        let body = [password.expose(), b"\0"].concat();
        Ok(self.send(body, State::PasswordSent))
    }

    fn send_md5(
        self,
        credentials: &ServerCredentials,
        salt: [u8; md5::SALT_LEN],
    ) -> Result<ServerStep, ServerAuthError> {
        let hash = match credentials {
            ServerCredentials::Password { password, .. } => Md5Secret::of_password(&self.user, password),
            ServerCredentials::Md5Hash(hash) => hash.clone(),
            other => return Err(self.missing("md5 password", other)),
        };
        let body = [&md5::respond(&hash, salt)[..], b"\0"].concat();
        Ok(self.send(body, State::PasswordSent))
    }

    fn begin_scram(
        self,
        credentials: ServerCredentials,
        nonce: String,
        rest: &[u8],
    ) -> Result<ServerStep, ServerAuthError> {
        let mechanisms = Mechanisms::parse(rest)?;
        if self.must_bind && self.binding == ChannelBinding::None {
            return Err(self.not_bound("there is no TLS, or the server's certificate has no hash for it"));
        }
        if self.must_bind && !mechanisms.offers(scram::MECHANISM_PLUS) {
            return Err(self.not_bound("the server doesn't offer it"));
        }
        let credentials = match credentials {
            ServerCredentials::Password { password, keys } => ScramCredentials::Password(password, keys),
            ServerCredentials::ScramKeys(keys) => ScramCredentials::Keys(keys),
            other => return Err(self.missing(scram::MECHANISM, &other)),
        };
        let offers = |name: &str| mechanisms.offers(name);
        let start = match scram_client::start(credentials, &self.binding, offers, nonce) {
            Ok(start) => start,
            Err(ScramClientError::NoMechanism) => {
                return Err(self.unsupported(printable(&mechanisms)));
            }
            Err(error) => return Err(self.scram_error(error)),
        };
        let body = InitialResponse::encode(start.mechanism, &start.client_first);
        Ok(self.send(body, State::ScramFirst(start.state)))
    }

    fn send(self, body: Vec<u8>, state: State) -> ServerStep {
        ServerStep::Send(body, ServerAuth { login: self, state })
    }

    fn not_bound(&self, why: &'static str) -> ServerAuthError {
        ServerAuthError::NotBound { user: self.user.clone(), why }
    }

    fn missing(self, method: &'static str, credentials: &ServerCredentials) -> ServerAuthError {
        ServerAuthError::MissingCredential { method, known: credentials.known(), user: self.user }
    }

    fn unsupported(self, method: String) -> ServerAuthError {
        ServerAuthError::Unsupported { method, user: self.user }
    }

    fn scram_error(&self, error: ScramClientError) -> ServerAuthError {
        ServerAuthError::Scram { user: self.user.clone(), error }
    }
}

/// The names of the mechanisms, fit for a log line.
fn printable(mechanisms: &Mechanisms<'_>) -> String {
    let mut text = String::from("SASL");
    for (index, name) in mechanisms.names().take(8).enumerate() {
        text.push_str(if index == 0 { " " } else { "/" });
        let shown = name.iter().take(20).copied();
        text.extend(shown.flat_map(std::ascii::escape_default).map(char::from));
    }
    text
}
