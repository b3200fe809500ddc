//! TLS as words and checks, without sockets: what the settings can ask for, what a certificate says, whom to believe.
//!
//! [`setup`] makes rustls' configurations of settings and files that were read, so that a configuration with TLS
//! can't be invalid; `net::tls` speaks it. Invariant: nothing here decides by a certificate that wasn't checked, and
//! no private key shows in `Debug`.

pub mod certificate;
pub mod setup;
pub mod suites;
pub mod verify;

pub use certificate::Peer;
pub use setup::{AcceptTls, ConnectTls};
pub use suites::Cipher;

/// The words of all variants.
macro_rules! words {
    ($type:ident) => {{
        let mut words = [""; $type::ALL.len()];
        let mut at = 0;
        while at < words.len() {
            words[at] = $type::ALL[at].as_str();
            at += 1;
        }
        words
    }};
}

/// The protocol's name in ALPN.
pub const ALPN: &[u8] = b"postgresql";

/// Whether TLS is used, and who proves what (`client_tls_sslmode`, `server_tls_sslmode`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum SslMode {
    /// Never.
    #[default]
    Disable,
    /// To a server, only where it insists; for a client, if it asks.
    Allow,
    /// Where the other side has it.
    Prefer,
    /// Always, whatever certificate the other side has.
    Require,
    /// Always, with a certificate of an authority that is trusted.
    VerifyCa,
    /// As `VerifyCa`, and the server's certificate must have its host name.
    VerifyFull,
}

impl SslMode {
    /// All modes.
    pub const ALL: [Self; 6] =
        [Self::Disable, Self::Allow, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];

    /// The words of the configuration.
    pub const WORDS: [&str; 6] = words!(SslMode);

    /// The word of the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    /// Whether the other side needs a certificate of a trusted authority.
    #[must_use]
    pub const fn verifies(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyFull)
    }
}

/// How TLS begins with a server (libpq's `sslnegotiation`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SslNegotiation {
    /// By asking for it (SSLRequest).
    #[default]
    Postgres,
    /// At once; PostgreSQL 17 and later.
    Direct,
}

impl SslNegotiation {
    /// All ways.
    pub const ALL: [Self; 2] = [Self::Postgres, Self::Direct];

    /// The words of the configuration.
    pub const WORDS: [&str; 2] = words!(SslNegotiation);

    /// The word of the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Direct => "direct",
        }
    }
}

/// Whether a login to a server is bound to the TLS connection (libpq's `channel_binding`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BindingMode {
    /// Never.
    Disable,
    /// Where the server offers it.
    #[default]
    Prefer,
    /// Always, else the login fails.
    Require,
}

impl BindingMode {
    /// All modes.
    pub const ALL: [Self; 3] = [Self::Disable, Self::Prefer, Self::Require];

    /// The words of the configuration.
    pub const WORDS: [&str; 3] = words!(BindingMode);

    /// The word of the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
        }
    }
}

/// What is known of an encrypted connection once its handshake is done.
#[derive(Clone, Debug)]
pub struct TlsInfo {
    /// Protocol version and cipher suite.
    pub cipher: Cipher,
    /// The certificate of the other side, if it gave one. That of a client was verified against
    /// `client_tls_ca_file` if there is one, see [`Peer::verified`].
    pub peer: Option<Box<Peer>>,
    /// The hash of the server's certificate, for channel binding (`tls-server-end-point`, RFC 5929); empty where the
    /// certificate's signature algorithm defines none. Towards clients that is Carpool's own certificate.
    pub server_end_point: Vec<u8>,
}

/// Why files, or settings about TLS, can't be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct TlsError {
    /// Which of the settings, without its `client_` or `server_`: `tls_cert_file`, say.
    pub setting: &'static str,
    /// What is wrong.
    pub message: String,
}

impl TlsError {
    pub(crate) fn new(setting: &'static str, message: impl Into<String>) -> Self {
        Self { setting, message: message.into() }
    }
}
