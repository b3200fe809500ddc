//! HTTP: health for load balancers, `/metrics` for Prometheus, a status page for people. It only reads, but for
//! `POST /api/reload`, which is for those on this host.
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

use super::crowd::{Asked, Crowd};
use super::{Admin, Failure, Order, audit, local, metrics};
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

/// Advice on the size of pools, and what it is drawn from.
const ADVICE: &str = "/api/advice";
const TRACE: &str = "/api/trace";
/// Where a reload is asked for.
const RELOAD: &str = "/api/reload";
const TEXT: &str = "text/plain; charset=utf-8";
/// The status page. Everything that it needs is in it.
const PAGE: &str = include_str!("status.html");
/// What the status page may do: nothing but ask this server.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
     connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

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

type Response = hyper::Response<Full<Bytes>>;

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
        async move {
            let is_local = local::is_local(peer, request.headers());
            let (method, path) = (request.method(), request.uri().path());
            Ok::<_, Infallible>(match path {
                RELOAD => reload(&admin, method, is_local).await,
                ADVICE | TRACE => advice(&admin, method, path, is_local).await,
                path => respond(&admin, method, path, is_local),
            })
        }
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

/// Has the configuration read again. Answers with what that changes.
async fn reload(admin: &Admin, method: &Method, is_local: bool) -> Response {
    if *method != Method::POST {
        return not_allowed("POST");
    }
    if !is_local {
        let text = "only from this host, directly, and not by another site's page\n";
        return response(StatusCode::FORBIDDEN, TEXT, text);
    }
    info!("POST {RELOAD}");
    match admin.control.order(Order::Reload).await {
        Ok(plan) => response(StatusCode::OK, TEXT, format!("{plan}\n")),
        Err(Failure::Gone) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, "stopping\n"),
        Err(failure) => response(StatusCode::UNPROCESSABLE_ENTITY, TEXT, format!("{failure}\n")),
    }
}

/// Advice, which may have to be worked out first. What it is drawn from is for those on this host: it says who did
/// what when.
async fn advice(admin: &Admin, method: &Method, path: &str, is_local: bool) -> Response {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return not_allowed("GET, HEAD");
    }
    if path == ADVICE {
        admin.advice().await;
        return json(admin.advice_json());
    }
    match is_local {
        true => response(StatusCode::OK, TEXT, admin.trace_text().await),
        false => {
            response(StatusCode::FORBIDDEN, TEXT, "only from this host, directly, and not by another site's page\n")
        }
    }
}

fn not_allowed(allowed: &'static str) -> Response {
    let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "method not allowed\n");
    refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    refused
}

/// The answer to a request. That to HEAD gets its body taken off on the way out.
fn respond(admin: &Arc<Admin>, method: &Method, path: &str, is_local: bool) -> Response {
    let known = matches!(path, "/" | "/healthz" | "/readyz" | "/metrics" | "/api/pools" | "/api/audit");
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
        "/api/pools" => json(metrics::overview(admin, is_local)),
        "/api/audit" => json(audit::report(admin)),
        _ => {
            let mut page = response(StatusCode::OK, "text/html; charset=utf-8", PAGE);
            let policy = HeaderValue::from_static(PAGE_POLICY);
            page.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
            page
        }
    }
}

fn json(written: serde_json::Result<String>) -> Response {
    written.map_or_else(
        |error| {
            warn!("cannot write JSON: {error}");
            response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "internal error\n")
        },
        |json| response(StatusCode::OK, "application/json", json),
    )
}

fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
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
        for path in ["/", "/healthz", "/readyz", "/metrics", "/api/pools", "/api/audit"] {
            assert_eq!(status(&stand, Method::GET, path), 200, "{path}");
            assert_eq!(status(&stand, Method::HEAD, path), 200, "{path}");
            assert_eq!(status(&stand, Method::POST, path), 405, "{path}");
        }
        assert_eq!(status(&stand, Method::GET, "/other"), 404);
        assert_eq!(status(&stand, Method::POST, "/other"), 404);
    }

    #[tokio::test]
    async fn only_those_on_this_host_reload() {
        let mut stand = Stand::new(&[]);
        assert_eq!(reload(&stand.admin, &Method::POST, false).await.status().as_u16(), 403);
        assert_eq!(reload(&stand.admin, &Method::GET, true).await.status().as_u16(), 405);
        assert!(stand.orders.try_recv().is_err());
        for (outcome, status) in [
            (Ok(crate::config::Plan::default()), 200),
            (Err(Failure::Reload("x".into())), 422),
            (Err(Failure::Gone), 503),
        ] {
            let (asked, ()) = tokio::join!(reload(&stand.admin, &Method::POST, true), async {
                let request = stand.orders.recv().await.unwrap();
                assert_eq!(request.order, Order::Reload);
                request.outcome.send(outcome).unwrap();
            });
            assert_eq!(asked.status().as_u16(), status);
        }
    }

    #[tokio::test]
    async fn advice_is_for_all_and_traces_for_those_on_this_host() {
        let stand = Stand::new(&["app"]);
        for (method, path, is_local, status) in [
            (Method::GET, ADVICE, false, 200),
            (Method::POST, ADVICE, true, 405),
            (Method::GET, TRACE, true, 200),
            (Method::GET, TRACE, false, 403),
            (Method::PUT, TRACE, true, 405),
        ] {
            let response = advice(&stand.admin, &method, path, is_local).await;
            assert_eq!(response.status().as_u16(), status, "{method} {path}");
        }
    }

    #[test]
    fn health_is_not_readiness() {
        let stand = Stand::new(&[]);
        stand.stopping.send_replace(true);
        assert_eq!(status(&stand, Method::GET, "/healthz"), 200);
        assert_eq!(status(&stand, Method::GET, "/readyz"), 503);
    }

    #[test]
    fn the_page_asks_nobody_else() {
        assert!(!PAGE.contains("http://") && !PAGE.contains("https://") && !PAGE.contains("//cdn"));
    }
}
