//! Passwords that come in another way than by the protocol, in clear text: those of the dashboard's users.
//!
//! They are checked as a login to the console from that address, over TCP and without TLS, would be, but for one
//! thing: nobody is let in without a password, whatever `auth_type` says. Invariant, as for logins: an unknown user is
//! told nothing else than a wrong password, and takes as long.

use std::sync::Arc;

use tracing::info;
use zeroize::Zeroizing;

use super::{Asked, Inquiry, PAM_SERVICE, ldap, pam};
use crate::auth::{AuthFailure, ClientAuth, ClientStep, FailureReason, Password, Policy};
use crate::client::Context;
use crate::client::login::{CONSOLE_DATABASES, NAME_LIMIT};
use crate::client::secrets::{self, Known};
use crate::config::hba::{Answers, ClientCertificate, Method};
use crate::config::{AuthType, Config};
use crate::names::{DatabaseName, UserName};
use crate::net::Peer;
use crate::net::world;

/// Whether `password` is the user's. The log learns why not.
pub async fn check(context: &Arc<Context>, config: &Config, user: &UserName, peer: Peer, password: &Password) -> bool {
    if user.as_str().is_empty() || user.as_str().len() > NAME_LIMIT || password.expose().contains(&0) {
        return false;
    }
    let database = CONSOLE_DATABASES[0];
    let asked = Asked { user, database, physical_replication: false, peer, waiting: None };
    let mut inquiry = Inquiry { context, config, asked: &asked, answers: Answers::default() };
    let (method, map) = match config.pooler.auth_type {
        AuthType::Hba => match inquiry.line(false).await {
            Ok(line) if line.certificate == ClientCertificate::None => (line.method.clone(), line.map.as_deref()),
            _ => return false,
        },
        AuthType::Ldap => match config.access.ldap.clone() {
            Some(ldap) => (Method::Ldap(ldap), None),
            None => return false,
        },
        AuthType::Pam => (Method::Pam(PAM_SERVICE.into()), None),
        AuthType::Jwt => (Method::Jwt, None),
        AuthType::Peer => (Method::Peer, None),
        AuthType::Cert => (Method::Cert, None),
        AuthType::Trust | AuthType::Any | AuthType::Plain | AuthType::Md5 | AuthType::ScramSha256 => {
            (Method::Password, None)
        }
    };
    let outcome = match &method {
        Method::Trust | Method::Password | Method::Md5 | Method::ScramSha256 => {
            return stored(context, config, &asked, password).await;
        }
        Method::Ldap(ldap) => {
            let check = ldap::check(&context.outside, ldap, user, password);
            inquiry.vouched(&method, Box::pin(check)).await
        }
        Method::Pam(service) => {
            let check = pam::check(&context.outside, service, &asked, password);
            inquiry.vouched(&method, Box::pin(check)).await
        }
        Method::Jwt => match inquiry.check_token(password) {
            Ok(name) => inquiry.check_name(map, &name, &method).await,
            Err(error) => Err(error),
        },
        Method::Reject | Method::Peer | Method::Cert => Err(inquiry.refused(&method, "it takes no password")),
    };
    outcome.is_ok()
}

/// Checks it against the secret of the configuration, else of `auth_query`.
async fn stored(context: &Arc<Context>, config: &Config, asked: &Asked<'_>, password: &Password) -> bool {
    let database = DatabaseName::from(asked.database);
    let mut is_again = false;
    loop {
        let known = match secrets::find(context, config, asked.user, &database).await {
            Ok(known) => Arc::new(known),
            Err(error) => {
                info!(peer = %asked.peer, "login of user {:?} failed: {error}", asked.user);
                return false;
            }
        };
        let Some(failure) = compare(context, config, asked.user, &known, password).await else { return true };
        // What was looked up may be old.
        if is_again || !failure.reason().is_of_the_secret() || !known.doubt(context) {
            info!(peer = %asked.peer, "dashboard: {failure}");
            return false;
        }
        is_again = true;
    }
}

/// Away from the event loop: keys are derived from passwords.
async fn compare(
    context: &Arc<Context>,
    config: &Config,
    user: &UserName,
    known: &Arc<Known>,
    password: &Password,
) -> Option<AuthFailure> {
    let decoy = context.secrets.decoy(config, CONSOLE_DATABASES[0]);
    let policy = Policy { decoy, ..Policy::from(AuthType::Plain) };
    let mut message = Zeroizing::new(password.expose().to_vec());
    message.push(0);
    let (context, known, asked) = (Arc::clone(context), Arc::clone(known), user.clone());
    let compared = tokio::task::spawn_blocking(move || {
        let begun = ClientAuth::start(&policy, &asked, known.account(), &context.verifiers, &mut world::rng());
        match begun {
            ClientStep::Send(_, auth) => auth.step(&message),
            other => other,
        }
    });
    match compared.await {
        Ok(ClientStep::Done { .. }) => None,
        Ok(ClientStep::Failed(failure)) => Some(failure),
        _ => Some(AuthFailure::new(user, FailureReason::DecidedElsewhere)),
    }
}
