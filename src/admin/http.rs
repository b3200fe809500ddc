//! HTTP: health for load balancers, `/metrics` for Prometheus, the dashboard ([`super::web`]) for people.
//!
//! Each connection serves one request and has a time limit, and so have all of them together a bound: what
//! watches Carpool can't burden it. Those that say nothing make room for others ([`super::crowd`]).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, info, warn};

use super::collect::View;
use super::crowd::{Asked, Crowd};
use super::{Admin, Failure, Order, audit, metrics, waits, web};
use crate::net::timer;
use crate::stats::prometheus;

/// Connections at once.
const CONNECTIONS: usize = 64;
/// How long the request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may take.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause after a failure to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
/// The process's timers, for hyper.
#[derive(Clone, Copy)]
struct Timers;

/// See [`Timers`].
struct Sleep(timer::Sleep);

impl hyper::rt::Timer for Timers {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(Sleep(timer::sleep(duration)))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(Sleep(timer::sleep_until(deadline)))
    }
}

impl hyper::rt::Sleep for Sleep {}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx)
    }
}

pub(super) type Response = hyper::Response<Full<Bytes>>;

/// Serves until dropped.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let mut crowd = Crowd::new(CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let admin = Arc::clone(&admin);
                let serve = async move |asked| {
                    if timer::timeout(CONNECTION_TIMEOUT, connection(stream, peer, admin, asked)).await.is_err() {
                        debug!("http connection took longer than {CONNECTION_TIMEOUT:?}");
                    }
                };
                crowd.serve(serve).await;
            }
            Err(error) => {
                warn!("http accept failed: {error}");
                timer::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, admin: Arc<Admin>, asked: Asked) {
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        asked.tell();
        let admin = Arc::clone(&admin);
        async move { Ok::<_, Infallible>(web::answer(&admin, peer, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(Timers)
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!("http connection failed: {error}");
    }
}

/// Has the configuration read again, or looks what that would change. Answers with what it is.
pub(super) async fn reload(admin: &Admin, order: Order) -> Response {
    info!("POST /api/reload");
    match admin.control.order(order).await {
        Ok(plan) => response(StatusCode::OK, TEXT, format!("{plan}\n")),
        Err(Failure::Gone) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, "stopping\n"),
        Err(failure) => response(StatusCode::UNPROCESSABLE_ENTITY, TEXT, format!("{failure}\n")),
    }
}

/// Advice, which may have to be worked out first.
pub(super) async fn advice(admin: &Arc<Admin>) -> Response {
    admin.advice().await;
    json(admin.advice_json())
}

/// What advice is drawn from: who did what when.
pub(super) async fn trace(admin: &Admin) -> Response {
    response(StatusCode::OK, TEXT, admin.trace_text().await)
}

pub(super) fn not_allowed(allowed: &'static str) -> Response {
    let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "method not allowed\n");
    refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    refused
}

/// The answer to a request for what only reads, of one who may see it: with `is_told`, all of it. That to HEAD gets its
/// body taken off on the way out.
pub(super) fn respond(admin: &Arc<Admin>, method: &Method, path: &str, is_told: bool) -> Response {
    let known = matches!(path, "/healthz" | "/readyz" | "/metrics" | "/api/pools" | "/api/audit")
        || matches!(path, "/api/blockers" | "/api/hosts" | "/api/waits" | "/api/statements");
    if !known {
        return response(StatusCode::NOT_FOUND, TEXT, "not found\n");
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        return not_allowed("GET, HEAD");
    }
    match path {
        "/healthz" => response(StatusCode::OK, TEXT, "ok"),
        "/readyz" if admin.is_accepting() => response(StatusCode::OK, TEXT, "ready"),
        "/readyz" => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, "stopping"),
        "/metrics" => response(StatusCode::OK, prometheus::CONTENT_TYPE, metrics::prometheus(admin)),
        "/api/pools" => json(metrics::overview(admin, is_told)),
        "/api/audit" => json(audit::report(admin)),
        "/api/hosts" => json(View::new(admin).hosts_json(is_told)),
        "/api/waits" => json(waits::report(admin)),
        "/api/statements" => json(waits::statements(admin, is_told)),
        _ => json(serde_json::to_string(&View::new(admin).blockers_json())),
    }
}

pub(super) fn json(written: serde_json::Result<String>) -> Response {
    written.map_or_else(
        |error| {
            warn!("cannot write JSON: {error}");
            response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "internal error\n")
        },
        |json| response(StatusCode::OK, "application/json", json),
    )
}

pub(super) fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::tests::Stand;

    fn status(stand: &Stand, method: Method, path: &str) -> u16 {
        respond(&stand.admin, &method, path, false).status().as_u16()
    }

    #[test]
    fn paths_and_methods() {
        let stand = Stand::new(&["app"]);
        for path in [
            "/healthz",
            "/readyz",
            "/metrics",
            "/api/pools",
            "/api/audit",
            "/api/waits",
            "/api/statements",
            "/api/blockers",
            "/api/hosts",
        ] {
            assert_eq!(status(&stand, Method::GET, path), 200, "{path}");
            assert_eq!(status(&stand, Method::HEAD, path), 200, "{path}");
            assert_eq!(status(&stand, Method::POST, path), 405, "{path}");
        }
        assert_eq!(status(&stand, Method::GET, "/other"), 404);
        assert_eq!(status(&stand, Method::POST, "/other"), 404);
    }

    #[tokio::test]
    async fn reloads_tell_what_came_of_them() {
        let mut stand = Stand::new(&[]);
        for (outcome, status) in [
            (Ok(crate::config::Plan::default()), 200),
            (Err(Failure::Reload("x".into())), 422),
            (Err(Failure::Gone), 503),
        ] {
            let (asked, ()) = tokio::join!(reload(&stand.admin, Order::Reload), async {
                let request = stand.orders.recv().await.unwrap();
                assert_eq!(request.order, Order::Reload);
                request.outcome.send(outcome).unwrap();
            });
            assert_eq!(asked.status().as_u16(), status);
        }
    }

    #[test]
    fn health_is_not_readiness() {
        let stand = Stand::new(&[]);
        stand.stopping.send_replace(true);
        assert_eq!(status(&stand, Method::GET, "/healthz"), 200);
        assert_eq!(status(&stand, Method::GET, "/readyz"), 503);
    }
}
