//! The driver towards clients: which mechanism a client must use, and whether it has proved who it is.
//!
//! [`ClientAuth::start`] gives the first message to send, [`ClientAuth::step`] takes each answer. Whoever can't be
//! let in (unknown, without a password, with a secret of the wrong kind) still goes through the whole exchange,
//! against a decoy that no password fits; only the log learns the reason.

use std::fmt;
use std::sync::Arc;

use rand::CryptoRng;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::sasl::{self, InitialResponse, Mechanisms, SaslError};
use super::scram::server::{Mechanism, ScramError, ServerFinal, ServerFirst};
use super::{
    ChannelBinding, MAX_PASSWORD_MESSAGE, Md5Secret, Password, ScramKeys, ScramVerifier, SecretKind, StoredSecret,
    Verifiers, code, md5,
};
use crate::config::AuthType;
use crate::error::{ClientError, SqlState};
use crate::names::UserName;

/// How clients have to log in.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The configured `auth_type`.
    pub auth_type: AuthType,
    /// The kind of secret that unknown users pretend to have where the exchange depends on it: the kind that most
    /// known users have.
    pub decoy: SecretKind,
    /// What TLS gives for channel binding on this connection.
    pub binding: ChannelBinding,
}

impl From<AuthType> for Policy {
    fn from(auth_type: AuthType) -> Self {
        Self { auth_type, decoy: SecretKind::default(), binding: ChannelBinding::None }
    }
}

/// What is known of the user who wants to log in.
#[derive(Clone, Copy, Debug)]
pub enum Account<'a> {
    /// No such user.
    Unknown,
    /// A user, with its secret if it has one.
    Known(Option<&'a StoredSecret>),
}

/// What a login has shown, as far as it helps to log in to the server as the same user.
#[derive(Clone, Debug)]
pub enum Proven {
    /// Nothing beyond what is stored.
    Nothing,
    /// The password was seen (`auth_type` plain).
    Password {
        /// The password, which is right.
        password: Password,
        /// Its keys, where they had to be derived to check it.
        keys: Option<ScramKeys>,
    },
    /// The keys of the user's SCRAM secret were seen.
    Keys(ScramKeys),
}

/// What to do next.
#[derive(Debug)]
pub enum ClientStep {
    /// Send this body of an authentication (`R`) message, then hand the client's answer to the new state.
    Send(Vec<u8>, ClientAuth),
    /// The client is who it says. Send the last message, if any, and then AuthenticationOk.
    Done {
        /// Body of an authentication message that the client still waits for (AuthenticationSASLFinal).
        last_message: Option<Vec<u8>>,
        /// What was learned.
        proven: Proven,
    },
    /// The client isn't let in: send `ClientError::from(failure)` and close.
    Failed(AuthFailure),
}

impl ClientStep {
    const fn done(proven: Proven) -> Self {
        Self::Done { last_message: None, proven }
    }
}

/// Why a client isn't let in. `Display` is for the log; what the client may see is its [`ClientError`].
#[derive(Clone, Debug, thiserror::Error)]
#[error("login of user {user:?} failed: {reason}")]
pub struct AuthFailure {
    user: UserName,
    reason: FailureReason,
}

impl AuthFailure {
    /// A failure that was found outside of an exchange.
    #[must_use]
    pub fn new(user: &UserName, reason: FailureReason) -> Self {
        Self { user: user.clone(), reason }
    }

    /// The true reason, for the log only.
    #[must_use]
    pub const fn reason(&self) -> FailureReason {
        self.reason
    }
}

/// The true reason of a failed login.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FailureReason {
    /// There is no such user.
    #[error("unknown user")]
    UnknownUser,
    /// There is no such user, and no password would have been asked for, so nothing hides it.
    #[error("unknown user, with auth_type trust")]
    NotTrusted,
    /// The user needs a certificate, and has none that names it.
    #[error("no certificate that names the user")]
    NoCertificate,
    /// There is no such user, whatever the certificate says.
    #[error("unknown user, with auth_type cert")]
    UnknownCertificateUser,
    /// The method isn't one that looks at the stored secret.
    #[error("the method doesn't look at stored secrets")]
    DecidedElsewhere,
    /// The user has no password.
    #[error("no password is set for the user")]
    NoPassword,
    /// The user's secret is an md5 one, which doesn't do for SCRAM.
    #[error("only an md5 secret is known for the user, but auth_type is scram-sha-256")]
    OnlyMd5Secret,
    /// The password is wrong.
    #[error("wrong password")]
    WrongPassword,
    /// The client sent a password of no characters.
    #[error("empty password")]
    EmptyPassword,
    /// The password message isn't one string ended by a NUL, or is too long.
    #[error("invalid password packet")]
    InvalidPasswordMessage,
    /// A SASL message isn't one.
    #[error(transparent)]
    Sasl(#[from] SaslError),
    /// The SCRAM exchange went wrong in its form.
    #[error(transparent)]
    Scram(#[from] ScramError),
}

impl FailureReason {
    /// Whether another secret could have let the client in.
    #[must_use]
    pub const fn is_of_the_secret(self) -> bool {
        matches!(
            self,
            Self::UnknownUser
                | Self::NoPassword
                | Self::OnlyMd5Secret
                | Self::WrongPassword
                | Self::Scram(ScramError::WrongProof)
        )
    }
}

impl From<AuthFailure> for ClientError {
    fn from(failure: AuthFailure) -> Self {
        use FailureReason as Reason;
        let user = &failure.user;
        let (code, message) = match failure.reason {
            Reason::NotTrusted => (SqlState::INVALID_AUTHORIZATION, format!("role \"{user}\" does not exist")),
            Reason::NoCertificate | Reason::UnknownCertificateUser => {
                (SqlState::INVALID_AUTHORIZATION, format!("certificate authentication failed for user \"{user}\""))
            }
            Reason::EmptyPassword => (SqlState::INVALID_PASSWORD, "empty password returned by client".to_owned()),
            Reason::InvalidPasswordMessage => (SqlState::PROTOCOL_VIOLATION, "invalid password packet size".to_owned()),
            Reason::Sasl(error) => (SqlState::PROTOCOL_VIOLATION, error.to_string()),
            Reason::Scram(error) if error != ScramError::WrongProof => return scram_error(error),
            Reason::UnknownUser
            | Reason::DecidedElsewhere
            | Reason::NoPassword
            | Reason::OnlyMd5Secret
            | Reason::WrongPassword
            | Reason::Scram(_) => {
                (SqlState::INVALID_PASSWORD, format!("password authentication failed for user \"{user}\""))
            }
        };
        Self::fatal(code, message)
    }
}

fn scram_error(error: ScramError) -> ClientError {
    let code = match error {
        ScramError::AuthorizationIdentity | ScramError::MandatoryExtension => SqlState::FEATURE_NOT_SUPPORTED,
        ScramError::ChannelBindingNegotiation | ScramError::ChannelBindingMismatch => SqlState::INVALID_AUTHORIZATION,
        _ => SqlState::PROTOCOL_VIOLATION,
    };
    match error {
        ScramError::Malformed(malformed) => ClientError::fatal(code, "malformed SCRAM message").detail(malformed.0),
        other => ClientError::fatal(code, other.to_string()),
    }
}

/// A login under way: a message was sent, the client's answer is awaited.
pub struct ClientAuth {
    attempt: Attempt,
    state: State,
}

/// What stays the same through an exchange.
struct Attempt {
    user: UserName,
    /// Why the login will fail whatever the client answers.
    doom: Option<FailureReason>,
    /// Whether the keys that a SCRAM exchange reveals are those of a stored secret, so of use elsewhere.
    keys_are_stored: bool,
}

enum State {
    Plain(StoredSecret),
    Md5(Md5Secret, [u8; md5::SALT_LEN]),
    SaslInitial(ServerFirst),
    SaslFirst(ServerFirst, Mechanism),
    SaslFinal(ServerFinal),
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Plain(_) => "Plain",
            State::Md5(..) => "Md5",
            State::SaslInitial(_) => "SaslInitial",
            State::SaslFirst(..) => "SaslFirst",
            State::SaslFinal(_) => "SaslFinal",
        };
        write!(f, "ClientAuth({:?}, {state})", self.attempt.user)
    }
}

impl ClientAuth {
    /// Begins a login. For a user with a plain password under SCRAM the verifier comes from `verifiers`, which should
    /// have derived it before ([`Verifiers::of_password`]).
    pub fn start(
        policy: &Policy,
        user: &UserName,
        account: Account<'_>,
        verifiers: &Verifiers,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> ClientStep {
        let decoy = match policy.auth_type {
            AuthType::Any => return ClientStep::done(Proven::Nothing),
            AuthType::Trust => return trust(user, account),
            // That is checked where TLS is known.
            AuthType::Cert => {
                return ClientStep::Failed(AuthFailure::new(user, FailureReason::NoCertificate));
            }
            AuthType::Plain | AuthType::Md5 => policy.decoy,
            AuthType::ScramSha256 => SecretKind::Scram,
            AuthType::Hba | AuthType::Peer | AuthType::Ldap | AuthType::Pam | AuthType::Jwt => {
                return ClientStep::Failed(AuthFailure::new(user, FailureReason::DecidedElsewhere));
            }
        };
        let (secret, doom) = match account {
            Account::Known(Some(secret)) if !secret.is_empty() => (secret.clone(), None),
            Account::Known(_) => (verifiers.decoy_secret(user, decoy), Some(FailureReason::NoPassword)),
            Account::Unknown => (verifiers.decoy_secret(user, decoy), Some(FailureReason::UnknownUser)),
        };
        let attempt = Attempt { user: user.clone(), doom, keys_are_stored: secret.kind() == SecretKind::Scram };
        match (policy.auth_type, secret) {
            (AuthType::Plain, secret) => attempt.ask_plain(secret),
            (AuthType::Md5, StoredSecret::Plain(password)) => {
                let secret = Md5Secret::of_password(user, &password);
                attempt.ask_md5(secret, rng)
            }
            (AuthType::Md5, StoredSecret::Md5(secret)) => attempt.ask_md5(secret, rng),
            (_, StoredSecret::Scram(verifier)) => attempt.ask_scram(verifier, policy, rng),
            (_, StoredSecret::Plain(password)) => {
                attempt.ask_scram(verifiers.of_password(user, &password), policy, rng)
            }
            (_, StoredSecret::Md5(_)) => {
                let doom = Some(FailureReason::OnlyMd5Secret);
                Attempt { doom, ..attempt }.ask_scram(Arc::new(verifiers.decoy(user)), policy, rng)
            }
        }
    }

    /// Takes the body of the client's password (`p`) message. With `auth_type` plain and a SCRAM secret this derives
    /// the password's keys: about a millisecond for each 4096 iterations of the secret.
    #[must_use]
    pub fn step(self, body: &[u8]) -> ClientStep {
        let Self { attempt, state } = self;
        match state {
            State::Plain(secret) => attempt.check_plain(&secret, body),
            State::Md5(secret, salt) => attempt.check_md5(&secret, salt, body),
            State::SaslInitial(exchange) => attempt.sasl_initial(exchange, body),
            State::SaslFirst(exchange, mechanism) => match sasl::parse_response(body) {
                Ok(message) => attempt.sasl_first(exchange, mechanism, message),
                Err(error) => attempt.fail(error.into()),
            },
            State::SaslFinal(exchange) => attempt.sasl_final(exchange, body),
        }
    }
}

fn trust(user: &UserName, account: Account<'_>) -> ClientStep {
    match account {
        Account::Known(_) => ClientStep::done(Proven::Nothing),
        Account::Unknown => ClientStep::Failed(AuthFailure { user: user.clone(), reason: FailureReason::NotTrusted }),
    }
}

impl Attempt {
    fn ask_plain(self, secret: StoredSecret) -> ClientStep {
        self.send(code::CLEARTEXT_PASSWORD, b"", State::Plain(secret))
    }

    fn ask_md5(self, secret: Md5Secret, rng: &mut (impl CryptoRng + ?Sized)) -> ClientStep {
        let mut salt = [0; md5::SALT_LEN];
        rng.fill_bytes(&mut salt);
        self.send(code::MD5_PASSWORD, &salt, State::Md5(secret, salt))
    }

    fn ask_scram(
        self,
        verifier: Arc<ScramVerifier>,
        policy: &Policy,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> ClientStep {
        let exchange = ServerFirst::new(verifier, policy.binding.clone(), rng);
        let offer = Mechanisms::encode(exchange.mechanisms());
        self.send(code::SASL, &offer, State::SaslInitial(exchange))
    }

    fn check_plain(self, secret: &StoredSecret, body: &[u8]) -> ClientStep {
        let password = match password_of(body) {
            Ok(password) => password,
            Err(reason) => return self.fail(reason),
        };
        let (right, keys) = match secret {
            // Hashes compare in constant time whatever the lengths.
            StoredSecret::Plain(stored) => (same_text(stored.expose(), password.expose()), None),
            StoredSecret::Md5(stored) => {
                let given = Md5Secret::of_password(&self.user, &password);
                (stored.expose().ct_eq(given.expose()).into(), None)
            }
            StoredSecret::Scram(verifier) => {
                let keys = verifier.check_password(password.expose());
                (keys.is_some(), keys)
            }
        };
        self.verdict(right, Proven::Password { password, keys })
    }

    fn check_md5(self, secret: &Md5Secret, salt: [u8; md5::SALT_LEN], body: &[u8]) -> ClientStep {
        match password_of(body) {
            Ok(response) => {
                let right = md5::verify(secret, salt, response.expose());
                self.verdict(right, Proven::Nothing)
            }
            Err(reason) => self.fail(reason),
        }
    }

    fn sasl_initial(self, exchange: ServerFirst, body: &[u8]) -> ClientStep {
        let initial = match InitialResponse::parse(body) {
            Ok(initial) => initial,
            Err(error) => return self.fail(error.into()),
        };
        let mechanism = match exchange.choose(initial.mechanism) {
            Ok(mechanism) => mechanism,
            Err(error) => return self.fail(error.into()),
        };
        match initial.response {
            Some(message) => self.sasl_first(exchange, mechanism, message),
            // As PostgreSQL: an empty challenge asks for the message that was left out.
            None => {
                let state = State::SaslFirst(exchange, mechanism);
                self.send(code::SASL_CONTINUE, b"", state)
            }
        }
    }

    fn sasl_first(self, exchange: ServerFirst, mechanism: Mechanism, message: &[u8]) -> ClientStep {
        match exchange.client_first(mechanism, message) {
            Ok((next, server_first)) => self.send(code::SASL_CONTINUE, &server_first, State::SaslFinal(next)),
            Err(error) => self.fail(error.into()),
        }
    }

    fn sasl_final(self, exchange: ServerFinal, body: &[u8]) -> ClientStep {
        let message = match sasl::parse_response(body) {
            Ok(message) => message,
            Err(error) => return self.fail(error.into()),
        };
        let verified = match exchange.client_final(message) {
            Ok(verified) => verified,
            Err(ScramError::WrongProof) => return self.verdict(false, Proven::Nothing),
            Err(error) => return self.fail(error.into()),
        };
        let proven = if self.keys_are_stored { Proven::Keys(verified.keys) } else { Proven::Nothing };
        match self.verdict(true, proven) {
            ClientStep::Done { proven, .. } => ClientStep::Done {
                last_message: Some(authentication(code::SASL_FINAL, &verified.server_final)),
                proven,
            },
            failed => failed,
        }
    }

    fn send(self, code: u32, rest: &[u8], state: State) -> ClientStep {
        let attempt = self;
        ClientStep::Send(authentication(code, rest), ClientAuth { attempt, state })
    }

    fn verdict(self, right: bool, proven: Proven) -> ClientStep {
        match self.doom {
            Some(reason) => self.fail(reason),
            None if right => ClientStep::done(proven),
            None => self.fail(FailureReason::WrongPassword),
        }
    }

    fn fail(self, reason: FailureReason) -> ClientStep {
        let user = self.user;
        ClientStep::Failed(AuthFailure { user, reason })
    }
}

/// The body of the message that asks for a clear-text password.
#[must_use]
pub fn cleartext_request() -> Vec<u8> {
    authentication(code::CLEARTEXT_PASSWORD, b"")
}

/// The one string of a PasswordMessage.
///
/// # Errors
/// When it isn't one, or empty.
pub fn password_of(body: &[u8]) -> Result<Password, FailureReason> {
    if body.len() > MAX_PASSWORD_MESSAGE {
        return Err(FailureReason::InvalidPasswordMessage);
    }
    match body.split_last() {
        Some((0, [])) => Err(FailureReason::EmptyPassword),
        Some((0, password)) if !password.contains(&0) => Ok(Password::new(password)),
        _ => Err(FailureReason::InvalidPasswordMessage),
    }
}

fn same_text(left: &[u8], right: &[u8]) -> bool {
    Sha256::digest(left)[..].ct_eq(&Sha256::digest(right)[..]).into()
}

fn authentication(code: u32, rest: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], rest].concat()
}
