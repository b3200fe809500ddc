//! The dashboard over HTTP: its page, its `/api`, and who may do what.
//!
//! Everything that isn't health or metrics comes through [`answer`]: it refuses names that lead here from elsewhere,
//! finds out who asks ([`visitor`]), and asks for what each path needs. Invariants: nothing changes anything but for an
//! admin who has logged in, from a page of this server's, with the session's token (and a reload for those on this
//! host); no answer has a secret; what takes long runs apart from the event loop, and few at once.

mod act;
mod assets;
mod attempts;
mod lists;
mod login;
mod sessions;
mod visitor;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::{Method, StatusCode};
use serde_json::json;
use tokio::sync::Semaphore;

use super::http::{self, Response, TEXT, not_allowed, response};
use super::{Admin, Order, local};
use crate::config::Config;
use crate::net::timer;
use crate::stats::recent::Span;
use act::Deed;
use lists::Query;
use visitor::{Level, Visitor, is_for_this_host, need};

/// What the body of a request may have, bytes.
const MOST_BODY: usize = 4096;
/// How long it may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Passwords that are checked at once.
const CHECKS: usize = 2;
/// Lists that are made at once.
const LISTS: usize = 2;

/// What the dashboard keeps.
#[derive(Debug)]
pub(super) struct Web {
    sessions: sessions::Sessions,
    attempts: attempts::Attempts,
    checks: Semaphore,
    lists: Arc<Semaphore>,
}

impl Default for Web {
    fn default() -> Self {
        Self {
            sessions: sessions::Sessions::default(),
            attempts: attempts::Attempts::default(),
            checks: Semaphore::new(CHECKS),
            lists: Arc::new(Semaphore::new(LISTS)),
        }
    }
}

/// An error as JSON. The hint names the setting, or says what to do; it may be empty.
fn error(status: u16, text: &str, hint: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response(status, "application/json", json!({ "error": text, "hint": hint }).to_string())
}

/// To what another site's page has sent, or looks so.
fn refused() -> Response {
    error(
        403,
        "not from another site's page",
        "The page sends its session's token along, and a proxy must pass Host on.",
    )
}

/// The answer to a request.
pub(super) async fn answer(
    admin: &Arc<Admin>,
    peer: SocketAddr,
    request: hyper::Request<hyper::body::Incoming>,
) -> Response {
    let (head, body) = request.into_parts();
    let (method, path) = (&head.method, head.uri.path());
    if matches!(path, "/healthz" | "/readyz" | "/metrics") {
        return http::respond(admin, method, path, false);
    }
    let config = admin.context.config.load_full();
    if !local::is_known_host(&head.headers, &config.pooler.http_hosts) {
        let text = "this name is none of http_hosts, which has to have names by which the dashboard is reached\n";
        return response(StatusCode::MISDIRECTED_REQUEST, TEXT, text);
    }
    if let Some(asset) = assets::respond(method, path, &head.headers) {
        return asset;
    }
    let visitor = Visitor::new(admin, &config, peer, &head.headers);
    if *method != Method::POST {
        return read(admin, &config, &visitor, method, path, head.uri.query().unwrap_or_default()).await;
    }
    if path == "/api/login" {
        return match timer::timeout(BODY_TIMEOUT, Limited::new(body, MOST_BODY).collect()).await {
            Ok(Ok(body)) => login::login(admin, &config, visitor, &head.headers, &body.to_bytes()).await,
            _ => error(400, "no body, or a long one", ""),
        };
    }
    if path == "/api/logout" {
        return login::logout(admin, &config, &visitor, &head.headers);
    }
    change(admin, &visitor, path, head.uri.query().unwrap_or_default()).await
}

/// What only reads.
async fn read(
    admin: &Arc<Admin>,
    config: &Config,
    visitor: &Visitor,
    method: &Method,
    path: &str,
    query: &str,
) -> Response {
    let is_get = matches!(*method, Method::GET | Method::HEAD);
    match path {
        "/api/reload" | "/api/login" | "/api/logout" => return not_allowed("POST"),
        "/api/session" if is_get => return login::me(config, visitor),
        _ => {}
    }
    if visitor.level < need(path) && !(visitor.is_local && is_for_this_host(path)) {
        let text = "this needs a login";
        return error(
            401,
            text,
            "Users of admin_users and stats_users can log in; http_anonymous says what needs none.",
        );
    }
    match path {
        "/api/clients" | "/api/servers" | "/api/config" | "/api/history" if !is_get => not_allowed("GET, HEAD"),
        "/api/clients" => list(admin, query, lists::clients).await,
        "/api/servers" => list(admin, query, lists::servers).await,
        "/api/config" => http::json(serde_json::to_string(&settings(config))),
        "/api/history" => history(admin, query),
        http::ADVICE | http::TRACE => http::advice(admin, method, path).await,
        path => http::respond(admin, method, path, visitor.is_local || visitor.level >= Level::Read),
    }
}

/// A list, made apart from the event loop.
async fn list(admin: &Arc<Admin>, query: &str, make: fn(&Admin, &Query) -> serde_json::Result<String>) -> Response {
    // Never closed, so there always comes a permit; it goes along, since the work goes on when the visitor has left.
    let permit = Arc::clone(&admin.web.lists).acquire_owned().await;
    let (admin, query) = (Arc::clone(admin), Query::parse(query));
    let made = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        make(&admin, &query)
    });
    match made.await {
        Ok(made) => http::json(made),
        Err(_) => error(500, "internal error", "The log has the reason."),
    }
}

/// `/api/history`.
fn history(admin: &Admin, query: &str) -> Response {
    let (mut span, mut since) = (Span::Minutes, 0);
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match (&*key, &*value) {
            ("span", "hour") => span = Span::Hour,
            ("since", value) => since = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    http::json(admin.recent.json(span, since))
}

/// `/api/config`: all settings in force.
fn settings(config: &Config) -> serde_json::Value {
    let entry = |entry: crate::config::Entry| {
        json!({
            "name": entry.name, "value": entry.value, "default": entry.default, "reloadable": entry.changeable,
            "meaning": entry.doc,
        })
    };
    let sections = config
        .section_entries()
        .into_iter()
        .map(|(name, entries)| json!({ "name": name, "settings": entries.into_iter().map(entry).collect::<Vec<_>>() }));
    json!({
        "settings": config.entries().into_iter().map(entry).collect::<Vec<_>>(),
        "sections": sections.collect::<Vec<_>>(),
    })
}

/// What changes something.
async fn change(admin: &Arc<Admin>, visitor: &Visitor, path: &str, query: &str) -> Response {
    if path == "/api/reload" {
        return reload(admin, visitor, query).await;
    }
    let parts: Vec<_> = path.strip_prefix("/api/").unwrap_or_default().split('/').collect();
    let named = percent_encoding::percent_decode_str(parts.get(1).unwrap_or(&"")).decode_utf8();
    let operation = parts.get(2).and_then(|name| act::operation(name));
    match (parts.as_slice(), operation, named) {
        (["clients", id, deed @ ("kill" | "cancel")], _, _) => {
            let Ok(id) = id.parse() else { return error(404, "clients have numbers", "") };
            let Some(user) = visitor.admin() else { return denied(visitor) };
            let deed = if *deed == "kill" { Deed::Kill } else { Deed::Cancel };
            act::client(admin, id, deed, user, visitor.peer)
        }
        (["pools", _, _], Some(operation), Ok(name)) => {
            let Some(user) = visitor.admin() else { return denied(visitor) };
            act::pool(admin, name.into_owned(), operation, user, visitor.peer).await
        }
        _ if matches!(need(path), Level::Nothing) => response(StatusCode::NOT_FOUND, TEXT, "not found\n"),
        // It may be there to be read.
        _ => http::respond(admin, &Method::POST, path, false),
    }
}

/// Why a change isn't made.
fn denied(visitor: &Visitor) -> Response {
    match &visitor.session {
        None => error(401, "this needs a login", "Users of admin_users can make changes."),
        Some(_) if visitor.level < Level::Admin => error(403, "this is for admins", "See admin_users."),
        Some(_) => refused(),
    }
}

/// Reads the configuration again, or with `check` tells what that would change.
async fn reload(admin: &Admin, visitor: &Visitor, query: &str) -> Response {
    let order = if query == "check" { Order::Plan } else { Order::Reload };
    match (visitor.admin(), visitor.is_local) {
        (Some(_), _) => act::reload(admin, order).await,
        // Without a login, as ever, and in plain text.
        (None, true) => http::reload(admin, order).await,
        (None, false) if visitor.session.is_some() => denied(visitor),
        (None, false) => {
            let text = "only from this host, directly, and not by another site's page\n";
            response(StatusCode::FORBIDDEN, TEXT, text)
        }
    }
}
