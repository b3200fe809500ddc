//! Logging in to the dashboard, and out.
//!
//! The password is checked as the console's are (`client::access::password`). Whoever isn't let in is told one thing,
//! whether there is no such user, the password is wrong, or the user is neither in `admin_users` nor in `stats_users`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use tracing::info;

use super::super::Admin;
use super::super::http::{Response, json};
use super::visitor::{Level, Visitor, cookie, cookie_name, level_of, mark_of};
use super::{error, refused};
use crate::auth::Password;
use crate::client::access::password;
use crate::config::Config;
use crate::names::UserName;
use crate::net::Peer;

/// What a page sends to log in.
#[derive(Deserialize)]
struct Credentials {
    user: String,
    password: zeroize::Zeroizing<String>,
}

/// Who one is, for the page.
#[derive(Serialize)]
struct Me<'m> {
    user: Option<&'m str>,
    level: &'static str,
    /// What is shown without a login.
    anonymous: &'static str,
    /// What changes need in the header `X-Carpool-Token`.
    token: Option<&'m str>,
    version: &'static str,
}

/// `GET /api/session`.
pub(super) fn me(config: &Config, visitor: &Visitor) -> Response {
    json(serde_json::to_string(&Me {
        user: visitor.session.as_ref().map(|session| session.user.as_str()),
        level: visitor.level.as_str(),
        anonymous: config.pooler.http_anonymous.as_str(),
        token: visitor.session.as_ref().map(|session| session.token.as_str()),
        version: env!("CARGO_PKG_VERSION"),
    }))
}

/// `POST /api/login`.
pub(super) async fn login(
    admin: &Arc<Admin>,
    config: &Config,
    visitor: Visitor,
    headers: &HeaderMap,
    body: &Bytes,
) -> Response {
    // Another site's page can't send this kind without being asked whether it may, and it may not.
    let is_json = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if !visitor.is_own_page || !is_json {
        return refused();
    }
    let Ok(Credentials { user, password }) = serde_json::from_slice(body) else {
        return error(400, "expected {\"user\": …, \"password\": …}", "");
    };
    let peer = visitor.peer;
    if let Err(wait) = admin.web.attempts.begin(peer.ip(), Instant::now()) {
        let seconds = wait.as_secs() + 1;
        let text = format!("too many failed logins from this address, try again in {seconds} s");
        let mut answer = error(429, &text, "Wrong passwords are limited to ten a minute for each address.");
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        return answer;
    }
    let user = UserName::from(user.as_str());
    if !is_let_in(admin, config, &user, peer, &Password::new(password.as_bytes())).await {
        return error(401, "wrong user or password", "Users of admin_users and stats_users can log in, by a password.");
    }
    admin.web.attempts.was_right(peer.ip());
    if let Some(before) = cookie(config, headers) {
        admin.web.sessions.close(before);
    }
    let (cookie, session) = admin.web.sessions.open(&user, mark_of(config, &user), Instant::now(), &mut rand::rng());
    info!("user {user} has logged in to the dashboard from {}", Peer::Tcp(peer));
    let mut answer = me(config, &visitor.logged_in(config, session));
    // A proxy in front speaks TLS: then the cookie is for that alone.
    let secure = if headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https") { "; Secure" } else { "" };
    let name = cookie_name(config);
    set_cookie(&mut answer, &format!("{name}={cookie}; HttpOnly; SameSite=Strict; Path=/{secure}"));
    answer
}

async fn is_let_in(
    admin: &Arc<Admin>,
    config: &Config,
    user: &UserName,
    peer: SocketAddr,
    password: &Password,
) -> bool {
    // Few at once: a check costs CPU. Never closed, so there always comes a permit.
    let _permit = admin.web.checks.acquire().await;
    let is_right = password::check(&admin.context, config, user, Peer::Tcp(peer), password).await;
    if is_right && level_of(config, user) == Level::Nothing {
        info!("dashboard: login of user {user:?} failed: neither in admin_users nor in stats_users");
        return false;
    }
    is_right
}

/// `POST /api/logout`.
pub(super) fn logout(admin: &Admin, config: &Config, visitor: &Visitor, headers: &HeaderMap) -> Response {
    if !visitor.wants_it() {
        return refused();
    }
    if let Some(cookie) = cookie(config, headers) {
        admin.web.sessions.close(cookie);
    }
    let mut answer = json(Ok("{}".into()));
    set_cookie(&mut answer, &format!("{}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0", cookie_name(config)));
    answer
}

fn set_cookie(answer: &mut Response, cookie: &str) {
    if let Ok(value) = HeaderValue::from_str(cookie) {
        answer.headers_mut().insert(header::SET_COOKIE, value);
    }
}
