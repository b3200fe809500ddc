//! Passwords that an LDAP server knows: by a bind as the user's entry, which is known or searched for.

use std::sync::Arc;
use std::time::Duration;

use ldap3::{LdapConnAsync, LdapConnSettings, Scope, SearchEntry, SearchOptions, ldap_escape};
use rustls::{ClientConfig, RootCertStore};

use super::outside::Outside;
use crate::auth::Password;
use crate::config::ldap::{Ldap, LdapMode, LdapScope, LdapSearch};
use crate::names::UserName;

/// How long one server may take to connect before the next is tried, and to answer one request.
const STEP: Duration = Duration::from_secs(4);
/// Where the user's name goes in a filter.
const PLACE: &str = "$username";
/// "No attributes", RFC 4511.
const NO_ATTRIBUTES: [&str; 1] = ["1.1"];
/// The result code of a search that found more than it may.
const SIZE_LIMIT_EXCEEDED: u32 = 4;

/// Checks a password.
///
/// # Errors
/// Why it isn't taken; for the log only.
pub(super) async fn check(
    outside: &Outside,
    ldap: &Arc<Ldap>,
    user: &UserName,
    password: &Password,
) -> Result<(), String> {
    let password = std::str::from_utf8(password.expose()).map_err(|_| "the password is not UTF-8 text")?.to_owned();
    let (ldap, user) = (Arc::clone(ldap), user.clone());
    outside.network(async move { bind_as(&ldap, user.as_str(), &password).await }).await?
}

async fn bind_as(ldap: &Ldap, user: &str, password: &str) -> Result<(), String> {
    let name = match &ldap.mode {
        LdapMode::Bind { prefix, suffix } => format!("{prefix}{user}{suffix}"),
        LdapMode::Search(search) => find(ldap, search, user).await?,
    };
    let mut connection = connect(ldap).await?;
    let bound = connection.with_timeout(STEP).simple_bind(&name, password).await;
    let result = bound.map_err(|error| error.to_string())?.success();
    // The answer is there; how the connection ends is nothing to us.
    let _ = connection.unbind().await;
    result.map(|_| ()).map_err(|error| format!("bind as {name:?}: {error}"))
}

/// The name of the user's entry.
async fn find(ldap: &Ldap, search: &LdapSearch, user: &str) -> Result<String, String> {
    // As PostgreSQL: no user is called so, and in a filter they mean something.
    if user.contains(['*', '(', ')', '\\', '/']) {
        return Err("the user name has characters that LDAP filters use".into());
    }
    let mut connection = connect(ldap).await?;
    let bound = connection.with_timeout(STEP).simple_bind(&search.bind_dn, search.bind_password.expose()).await;
    let bound = bound.map_err(|error| error.to_string())?.success();
    bound.map_err(|error| format!("bind as ldapbinddn {:?}: {error}", search.bind_dn))?;
    let scope = match search.scope {
        LdapScope::Base => Scope::Base,
        LdapScope::One => Scope::OneLevel,
        LdapScope::Subtree => Scope::Subtree,
    };
    let filter = search.filter.replace(PLACE, &ldap_escape(user));
    // Two are as good as many: one is wanted.
    connection.with_search_options(SearchOptions::new().sizelimit(2)).with_timeout(STEP);
    let found = connection.search(&search.base, scope, &filter, NO_ATTRIBUTES).await;
    let found = found.map_err(|error| format!("search for {filter}: {error}"))?;
    let _ = connection.unbind().await;
    let ldap3::SearchResult(entries, result) = found;
    if result.rc != 0 && result.rc != SIZE_LIMIT_EXCEEDED {
        return Err(format!("search for {filter}: {result}"));
    }
    match <[_; 1]>::try_from(entries) {
        Ok([entry]) if result.rc == 0 => Ok(SearchEntry::construct(entry).dn),
        Ok(_) => Err(format!("several entries match {filter}")),
        Err(entries) if entries.is_empty() => Err(format!("no entry matches {filter}")),
        Err(_) => Err(format!("several entries match {filter}")),
    }
}

/// The first server that can be connected to.
async fn connect(ldap: &Ldap) -> Result<ldap3::Ldap, String> {
    let mut failure = String::from("no LDAP server is configured");
    for url in &ldap.servers {
        let mut settings = LdapConnSettings::new().set_conn_timeout(STEP).set_starttls(ldap.starttls);
        if ldap.starttls || url.starts_with("ldaps:") {
            settings = settings.set_config(Arc::new(tls()?));
        }
        match LdapConnAsync::with_settings(settings, url).await {
            Ok((connection, handle)) => {
                // It ends with its handle; what breaks it, the request at hand is told.
                tokio::spawn(async move { drop(connection.drive().await) });
                return Ok(handle);
            }
            Err(error) => failure = format!("{url}: {error}"),
        }
    }
    Err(failure)
}

/// Trust in the system's authorities (`SSL_CERT_FILE` names others), read each time, so that a change holds at once.
fn tls() -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
