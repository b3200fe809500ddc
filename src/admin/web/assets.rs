//! The dashboard's page and what it is made of: embedded, and all that it ever asks for.

use std::fmt::Write as _;
use std::sync::LazyLock;

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use sha2::{Digest, Sha256};

use super::super::http::{Response, not_allowed, response};

/// What the page may do: run its own scripts and styles, and ask this server.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// A file of the dashboard.
struct Asset {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A file in `src/admin/dashboard`.
macro_rules! asset {
    ($content_type:expr, $name:literal) => {
        Asset {
            path: concat!("/dashboard/", $name),
            content_type: $content_type,
            text: include_str!(concat!("../dashboard/", $name)),
        }
    };
}

static ASSETS: &[Asset] = &[
    Asset { path: "/", content_type: HTML, text: include_str!("../dashboard/index.html") },
    asset!(CSS, "style.css"),
    asset!(SCRIPT, "api.js"),
    asset!(SCRIPT, "app.js"),
    asset!(SCRIPT, "chart.js"),
    asset!(SCRIPT, "config.js"),
    asset!(SCRIPT, "dialog.js"),
    asset!(SCRIPT, "dom.js"),
    asset!(SCRIPT, "format.js"),
    asset!(SCRIPT, "grid.js"),
    asset!(SCRIPT, "insight.js"),
    asset!(SCRIPT, "lists.js"),
    asset!(SCRIPT, "overview.js"),
];

/// Of each, in the same order: what changes when it does.
static TAGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let tag = |asset: &Asset| {
        let mut tag = String::from("\"");
        for byte in &Sha256::digest(asset.text)[..12] {
            // Writing to a String can't fail.
            let _ = write!(tag, "{byte:02x}");
        }
        tag + "\""
    };
    ASSETS.iter().map(tag).collect()
});

/// The answer to a request for one of them.
pub(super) fn respond(method: &Method, path: &str, headers: &HeaderMap) -> Option<Response> {
    let index = ASSETS.iter().position(|asset| asset.path == path)?;
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Some(not_allowed("GET, HEAD"));
    }
    let (asset, tag) = (&ASSETS[index], &TAGS[index]);
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known == tag.as_str());
    let mut answer = match known {
        true => response(StatusCode::NOT_MODIFIED, asset.content_type, ""),
        false => response(StatusCode::OK, asset.content_type, asset.text),
    };
    let headers = answer.headers_mut();
    // It is asked each time, so that a new Carpool never meets an old page.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_is_small_and_asks_nobody_else() {
        let size: usize = ASSETS.iter().map(|asset| asset.text.len()).sum();
        assert!(size < 300_000, "{size} bytes");
        for asset in ASSETS {
            // The namespace of SVG is a name, and asked of nobody.
            let text = asset.text.replace("http://www.w3.org/2000/svg", "");
            for foreign in ["http://", "https://", "\"//", "url(", "@import"] {
                assert!(!text.contains(foreign), "{}: {foreign}", asset.path);
            }
        }
    }

    #[test]
    fn nothing_is_inline_or_made_of_text() {
        for asset in ASSETS {
            for way in ["<style", " style=", " onclick=", "innerHTML", "insertAdjacentHTML", "eval(", "document.write"]
            {
                assert!(!asset.text.contains(way), "{}: {way}", asset.path);
            }
            let scripts = asset.text.matches("<script").count();
            assert_eq!(scripts, asset.text.matches("<script type=\"module\" src=\"").count(), "{}", asset.path);
        }
    }

    #[test]
    fn every_import_is_served() {
        for asset in ASSETS.iter().filter(|asset| asset.content_type == SCRIPT) {
            for import in asset.text.split("from './").skip(1) {
                let name = import.split('\'').next().unwrap_or_default();
                assert!(
                    ASSETS.iter().any(|asset| asset.path == format!("/dashboard/{name}")),
                    "{}: {name}",
                    asset.path
                );
            }
        }
    }

    #[test]
    fn what_is_known_isn_t_sent_again() {
        let mut headers = HeaderMap::new();
        let first = respond(&Method::GET, "/", &headers).unwrap();
        assert!(first.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().contains("script-src 'self'"));
        headers.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        assert_eq!(respond(&Method::GET, "/", &headers).unwrap().status(), StatusCode::NOT_MODIFIED);
        assert_eq!(respond(&Method::GET, "/dashboard/style.css", &headers).unwrap().status(), StatusCode::OK);
        assert_eq!(respond(&Method::POST, "/", &headers).unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
        assert!(respond(&Method::GET, "/dashboard/../mod.rs", &headers).is_none());
    }
}
