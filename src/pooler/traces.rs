//! Exports spans to a collector, by OTLP over HTTP with JSON (`otlp_endpoint`), from a thread of its own that begins
//! with the first endpoint: sessions never wait for it.

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::client::Context;
use crate::stats::spans::to_otlp;

/// How long one export may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long what is left may take at the end.
const LAST: Duration = Duration::from_secs(2);
/// Where collectors take spans, unless the endpoint says otherwise.
const PATH: &str = "/v1/traces";

/// Begins to export if the configuration asks for it and nothing does yet.
pub(super) fn follow(context: &Arc<Context>) {
    let Some(endpoint) = context.config.load().pooler.otlp_endpoint.clone() else { return };
    if !context.spans.begin() {
        return;
    }
    info!("exporting spans to {}", url(&endpoint));
    let context = Arc::clone(context);
    let spawned = std::thread::Builder::new().name("traces".into()).spawn(move || export(&context));
    if let Err(error) = spawned {
        error!("cannot start the thread that exports spans: {error}");
    }
}

/// Exports what is left, for a while.
pub(super) async fn finish(context: &Arc<Context>) {
    let context = Arc::clone(context);
    // Fails only when it panics.
    let _ = tokio::task::spawn_blocking(move || context.spans.finish(LAST)).await;
}

/// The endpoint, with the usual path where it has none.
fn url(endpoint: &str) -> String {
    let (_, rest) = endpoint.split_once("://").unwrap_or(("", endpoint));
    match rest.trim_end_matches('/').contains('/') {
        true => endpoint.to_owned(),
        false => format!("{}{PATH}", endpoint.trim_end_matches('/')),
    }
}

fn agent() -> ureq::Agent {
    let found = rustls_native_certs::load_native_certs().certs;
    let roots: Vec<_> = found.iter().map(|cert| Certificate::from_der(cert).to_owned()).collect();
    let tls = TlsConfig::builder().root_certs(RootCerts::Specific(Arc::new(roots))).build();
    let config = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).tls_config(tls).max_redirects(0);
    config.build().into()
}

fn export(context: &Context) {
    let agent = agent();
    let mut is_failing = false;
    while let Some(spans) = context.spans.next() {
        let endpoint = context.config.load().pooler.otlp_endpoint.clone();
        // It has been taken out of the configuration meanwhile.
        let Some(endpoint) = endpoint else {
            context.spans.note(spans.len(), false);
            continue;
        };
        let url = url(&endpoint);
        let body = to_otlp(&spans).to_string();
        let sent = agent.post(&url).header("content-type", "application/json").send(body);
        context.spans.note(spans.len(), sent.is_ok());
        // One line for a whole spell of failures.
        match (&sent, std::mem::replace(&mut is_failing, sent.is_err())) {
            (Err(error), false) => warn!("spans could not be exported to {url}, and are dropped: {error}"),
            (Ok(_), true) => info!("spans are exported to {url} again"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_path_is_added_where_there_is_none() {
        for (endpoint, want) in [
            ("http://localhost:4318", "http://localhost:4318/v1/traces"),
            ("http://localhost:4318/", "http://localhost:4318/v1/traces"),
            ("https://c.example/otlp/v1/traces", "https://c.example/otlp/v1/traces"),
        ] {
            assert_eq!(url(endpoint), want);
        }
    }
}
