//! Who asks over HTTP, and what they may.

use std::net::SocketAddr;
use std::time::Instant;

use hyper::header::{self, HeaderMap};
use sha2::{Digest, Sha256};

use super::super::{Admin, local};
use super::sessions::{Found, Mark};
use crate::config::{Config, HttpAnonymous};
use crate::names::UserName;

/// The header that has the session's token.
const TOKEN: &str = "x-carpool-token";

/// How much one may, each more than the one before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Level {
    /// Nothing but health and metrics.
    Nothing,
    /// Numbers of pools.
    Status,
    /// Everything is shown.
    Read,
    /// And changes are made.
    Admin,
}

impl Level {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Status => "status",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}

impl From<HttpAnonymous> for Level {
    fn from(anonymous: HttpAnonymous) -> Self {
        match anonymous {
            HttpAnonymous::None => Self::Nothing,
            HttpAnonymous::Status => Self::Status,
            HttpAnonymous::Read => Self::Read,
        }
    }
}

/// What a user of the console may.
pub(super) fn level_of(config: &Config, user: &UserName) -> Level {
    match (config.pooler.admin_users.contains(user), config.pooler.stats_users.contains(user)) {
        (true, _) => Level::Admin,
        (false, true) => Level::Read,
        (false, false) => Level::Nothing,
    }
}

/// See [`Mark`]: another one ends the sessions of who knew the secret before.
pub(super) fn mark_of(config: &Config, user: &UserName) -> Mark {
    let secret = config.users.get(user).and_then(|user| user.password.as_ref());
    secret.map_or([0; 32], |secret| Sha256::digest(secret.expose()).into())
}

/// One who asks.
#[derive(Debug)]
pub(super) struct Visitor {
    /// From where.
    pub(super) peer: SocketAddr,
    /// Directly from this host, see [`local`].
    pub(super) is_local: bool,
    /// Whether they come from a page of this server's, or from none.
    pub(super) is_own_page: bool,
    /// Who they are, if they have logged in.
    pub(super) session: Option<Found>,
    /// What they may see.
    pub(super) level: Level,
    has_token: bool,
}

impl Visitor {
    /// Of a request.
    pub(super) fn new(admin: &Admin, config: &Config, peer: SocketAddr, headers: &HeaderMap) -> Self {
        let holds =
            |user: &UserName, mark: &Mark| level_of(config, user) != Level::Nothing && mark_of(config, user) == *mark;
        let sessions = &admin.web.sessions;
        let session = cookie(config, headers).and_then(|cookie| sessions.find(cookie, Instant::now(), holds));
        let is_local = local::is_local(peer, headers);
        let anonymous = Level::from(config.pooler.http_anonymous).max(match is_local {
            true => Level::Status,
            false => Level::Nothing,
        });
        let level = session.as_ref().map_or(anonymous, |session| level_of(config, &session.user).max(anonymous));
        let token = headers.get(TOKEN).map_or(&b""[..], |token| token.as_bytes());
        let has_token = session.as_ref().is_some_and(|session| session.has_token(token));
        Self { peer, is_local, is_own_page: local::is_own_page(headers), session, level, has_token }
    }

    /// The same one, who has just logged in.
    pub(super) fn logged_in(self, config: &Config, session: Found) -> Self {
        Self { level: level_of(config, &session.user).max(self.level), session: Some(session), ..self }
    }

    /// The user, if the request is an admin's own wish: not that of another site's page.
    pub(super) fn admin(&self) -> Option<&UserName> {
        let session = self.session.as_ref().filter(|_| self.wants_it())?;
        (self.level == Level::Admin).then_some(&session.user)
    }

    /// Whether the request is what somebody who has logged in wants.
    pub(super) const fn wants_it(&self) -> bool {
        self.has_token && self.is_own_page
    }
}

/// The cookie's name: browsers send those of one port to the others of the host.
pub(super) fn cookie_name(config: &Config) -> String {
    format!("carpool_{}", config.pooler.http_port.unwrap_or_default())
}

/// The session's cookie.
pub(super) fn cookie<'h>(config: &Config, headers: &'h HeaderMap) -> Option<&'h str> {
    let name = cookie_name(config);
    let all = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// What `path` needs to be read.
pub(super) fn need(path: &str) -> Level {
    match path {
        "/api/pools" | "/api/history" | "/api/audit" | "/api/waits" | "/api/advice" => Level::Status,
        // The texts are only for admins, and for those on this host.
        "/api/statements" => Level::Status,
        _ if path.starts_with("/api/") => Level::Read,
        _ => Level::Nothing,
    }
}

/// What programs on this host read without a login, as they may ask for a reload.
pub(super) fn is_for_this_host(path: &str) -> bool {
    matches!(path, "/api/trace" | "/api/blockers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_isnt_named_needs_a_login() {
        assert_eq!(need("/metrics"), Level::Nothing);
        assert_eq!(need("/api/pools"), Level::Status);
        for path in ["/api/clients", "/api/blockers", "/api/hosts", "/api/trace", "/api/whatever"] {
            assert_eq!(need(path), Level::Read, "{path}");
        }
    }

    #[test]
    fn cookies_are_found_among_others() {
        let mut config = Config::default();
        config.pooler.http_port = Some(9187);
        let mut headers = HeaderMap::new();
        assert_eq!(cookie(&config, &headers), None);
        headers.insert(header::COOKIE, header::HeaderValue::from_static("a=b; carpool_1=no; carpool_9187=yes; c"));
        assert_eq!(cookie(&config, &headers), Some("yes"));
    }
}
