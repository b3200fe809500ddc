//! Passwords that PAM knows, in a build with it (`--features pam`): the library is C's, and not everywhere.

use std::sync::Arc;

use super::Asked;
use super::outside::Outside;
use crate::auth::Password;

/// Checks a password under a service's name.
///
/// # Errors
/// Why it isn't taken; for the log only.
#[cfg(feature = "pam")]
pub(super) async fn check(
    outside: &Outside,
    service: &Arc<str>,
    asked: &Asked<'_>,
    password: &Password,
) -> Result<(), String> {
    use crate::net::Peer;
    let host = match asked.peer {
        Peer::Tcp(address) => address.ip().to_canonical().to_string(),
        Peer::Unix => "[local]".to_owned(),
    };
    let (service, user, password) = (Arc::clone(service), asked.user.clone(), password.clone());
    outside.check(move || with_pam::check(&service, user.as_str(), &host, password)).await?
}

/// The configuration has seen to it that nobody gets here.
#[cfg(not(feature = "pam"))]
#[expect(clippy::unused_async, reason = "as the other")]
pub(super) async fn check(_: &Outside, _: &Arc<str>, _: &Asked<'_>, _: &Password) -> Result<(), String> {
    Err("this Carpool was built without PAM".into())
}

#[cfg(feature = "pam")]
mod with_pam {
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::OsStrExt as _;

    use nonstick::{
        AuthnFlags, ConversationAdapter, ErrorCode, PamShared as _, Result as PamResult, Transaction as _,
        TransactionBuilder, items::ItemsMut as _,
    };
    use tracing::info;

    use crate::auth::Password;

    /// Answers the question for a password, and no other.
    struct Answers(Password);

    impl ConversationAdapter for Answers {
        fn prompt(&self, _: impl AsRef<OsStr>) -> PamResult<OsString> {
            Err(ErrorCode::ConversationError)
        }

        fn masked_prompt(&self, _: impl AsRef<OsStr>) -> PamResult<OsString> {
            Ok(OsStr::from_bytes(self.0.expose()).to_owned())
        }

        fn error_msg(&self, message: impl AsRef<OsStr>) {
            info!("PAM: {:?}", message.as_ref());
        }

        fn info_msg(&self, _: impl AsRef<OsStr>) {}
    }

    pub(super) fn check(service: &str, user: &str, host: &str, password: Password) -> Result<(), String> {
        let text = |error: ErrorCode| format!("service {service:?}: {error}");
        let builder = TransactionBuilder::new_with_service(service).username(user);
        let mut transaction = builder.build(Answers(password).into_conversation()).map_err(text)?;
        transaction.items_mut().set_remote_host(Some(host.as_ref())).map_err(text)?;
        transaction.authenticate(AuthnFlags::empty()).map_err(text)?;
        transaction.account_management(AuthnFlags::empty()).map_err(text)
    }
}
