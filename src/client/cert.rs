//! `auth_type = cert`: a client is who its certificate says.

use crate::auth::{Account, AuthFailure, FailureReason};
use crate::names::UserName;
use crate::tls::{Peer, TlsInfo};

/// Checks that the client has a certificate of a trusted authority which `names` the user. By PostgreSQL's and
/// PgBouncer's rule that is the common name, unless an identity map says otherwise.
///
/// # Errors
/// Why the client isn't let in. An unknown user fails like one whose name another certificate has.
pub fn check(
    tls: Option<&TlsInfo>,
    user: &UserName,
    account: Account<'_>,
    names: impl Fn(&Peer) -> bool,
) -> Result<(), AuthFailure> {
    let peer = tls.and_then(|tls| tls.peer.as_deref()).filter(|peer| peer.verified);
    let reason = match (peer, account) {
        (_, Account::Unknown) => FailureReason::UnknownCertificateUser,
        (Some(peer), Account::Known(_)) if names(peer) => return Ok(()),
        _ => FailureReason::NoCertificate,
    };
    Err(AuthFailure::new(user, reason))
}

/// Whether the common name is the user's name.
#[must_use]
pub fn is_common_name(peer: &Peer, user: &UserName) -> bool {
    peer.common_name.as_deref() == Some(user.as_str())
}
