//! Authentication: password mechanisms as state machines that consume themselves, on both sides.
//!
//! [`ClientAuth`] asks a client for its password, [`ServerAuth`] gives one to PostgreSQL. Both take and give message
//! bodies; sockets, clock and timeouts belong to the caller, randomness comes in as an argument. Invariants: a step
//! can't be taken twice or out of order; every input is bounded; secrets compare in constant time and never show in
//! `Debug`; an unknown user's exchange runs like a known user's to its end and fails with the same words.
//!
//! | file | owns |
//! |---|---|
//! | [`carried`] | credentials on their way to another process |
//! | [`client`] | the driver towards clients |
//! | [`server`] | the driver towards PostgreSQL |
//! | [`secret`] | what is known of a user |
//! | [`md5`], [`scram`] | the mechanisms |
//! | [`jwt`] | signed tokens in the place of a password |
//! | [`sasl`] | the bodies of SASL messages |
//!
//! See <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>.

pub mod carried;
pub mod client;
pub mod jwt;
pub mod md5;
pub mod sasl;
pub mod scram;
pub mod secret;
pub mod server;

pub use client::{Account, AuthFailure, ClientAuth, ClientStep, FailureReason, Policy, Proven};
pub use scram::verifiers::Verifiers;
pub use scram::{ChannelBinding, ScramKeys, ScramVerifier};
pub use secret::{Md5Secret, Password, SecretKind, StoredSecret};
pub use server::{ServerAuth, ServerAuthError, ServerCredentials, ServerStep};

/// Codes that open the body of an authentication (`R`) message.
pub mod code {
    /// AuthenticationOk: the login succeeded.
    pub const OK: u32 = 0;
    /// AuthenticationKerberosV5.
    pub const KERBEROS_V5: u32 = 2;
    /// AuthenticationCleartextPassword.
    pub const CLEARTEXT_PASSWORD: u32 = 3;
    /// AuthenticationCryptPassword, long gone from PostgreSQL.
    pub const CRYPT_PASSWORD: u32 = 4;
    /// AuthenticationMD5Password.
    pub const MD5_PASSWORD: u32 = 5;
    /// AuthenticationSCMCredential, long gone from PostgreSQL.
    pub const SCM_CREDENTIAL: u32 = 6;
    /// AuthenticationGSS.
    pub const GSS: u32 = 7;
    /// AuthenticationGSSContinue.
    pub const GSS_CONTINUE: u32 = 8;
    /// AuthenticationSSPI.
    pub const SSPI: u32 = 9;
    /// AuthenticationSASL: the mechanisms offered.
    pub const SASL: u32 = 10;
    /// AuthenticationSASLContinue.
    pub const SASL_CONTINUE: u32 = 11;
    /// AuthenticationSASLFinal.
    pub const SASL_FINAL: u32 = 12;
}

/// Longest body of any password (`p`) message from a client, bytes; PostgreSQL's bound. SASL messages have a lower
/// one, [`sasl::MAX_CLIENT_MESSAGE`].
pub const MAX_PASSWORD_MESSAGE: usize = 65_535;

#[cfg(test)]
mod tests;
