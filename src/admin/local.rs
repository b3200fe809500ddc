//! Whether a request over HTTP comes from this host itself: such may do more than read.
//!
//! A loopback address alone doesn't say so. A proxy on this host may pass requests on; a page of another site may have
//! somebody's browser here send one, under a name that leads here, too.

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;
use hyper::header::{HOST, ORIGIN};

/// Headers of requests that somebody has passed on.
const PASSED_ON: [&str; 5] = ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"];

/// See the module.
pub(super) fn is_local(peer: SocketAddr, headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &hyper::header::HeaderValue| value.to_str().ok());
    let passed_on = PASSED_ON.iter().any(|name| headers.contains_key(*name));
    let own_name = text(HOST.as_str()).is_some_and(is_this_host);
    // Browsers send it with whatever isn't just a link.
    let own_page = match headers.get(ORIGIN) {
        None => headers.get("sec-fetch-site").is_none_or(|site| site == "same-origin" || site == "none"),
        Some(_) => text(ORIGIN.as_str()).and_then(|origin| origin.strip_prefix("http://")) == text(HOST.as_str()),
    };
    peer.ip().to_canonical().is_loopback() && !passed_on && own_name && own_page
}

/// Whether `host`, perhaps with a port, is a name of this host that nobody else can give.
fn is_this_host(host: &str) -> bool {
    let is_loopback = |text: &str| text.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || is_loopback(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(peer: &str, headers: &[(&'static str, &'static str)]) -> bool {
        let headers = headers.iter().map(|(name, value)| {
            (hyper::header::HeaderName::from_static(name), hyper::header::HeaderValue::from_static(value))
        });
        is_local(peer.parse().unwrap(), &headers.collect())
    }

    #[test]
    fn who_is_local() {
        for host in ["localhost", "localhost:9187", "127.0.0.1:9187", "[::1]:9187"] {
            assert!(local("127.0.0.1:5", &[("host", host)]), "{host}");
        }
        assert!(local("[::ffff:127.0.0.1]:5", &[("host", "localhost")]));
        assert!(local("[::1]:5", &[("host", "localhost:1"), ("origin", "http://localhost:1")]));
        assert!(local("[::1]:5", &[("host", "localhost"), ("sec-fetch-site", "same-origin")]));
    }

    #[test]
    fn who_is_not() {
        let host = ("host", "localhost");
        assert!(!local("10.0.0.1:5", &[host]), "from elsewhere");
        assert!(!local("127.0.0.1:5", &[]), "without a name");
        for name in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", ""] {
            assert!(!local("127.0.0.1:5", &[("host", name)]), "{name}");
        }
        for header in [
            ("x-forwarded-for", "127.0.0.1"),
            ("forwarded", "for=::1"),
            ("via", "1.1 proxy"),
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
        ] {
            assert!(!local("127.0.0.1:5", &[host, header]), "{header:?}");
        }
    }
}
