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
    let passed_on = PASSED_ON.iter().any(|name| headers.contains_key(*name));
    let own_name = text(headers, HOST.as_str()).is_some_and(is_this_host);
    peer.ip().to_canonical().is_loopback() && !passed_on && own_name && is_own_page(headers)
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether a request isn't another site's: it comes from a page of this server's, or from no page at all.
pub(super) fn is_own_page(headers: &HeaderMap) -> bool {
    // Browsers send it with whatever isn't just a link.
    match headers.get(ORIGIN) {
        None => headers.get("sec-fetch-site").is_none_or(|site| site == "same-origin" || site == "none"),
        Some(_) => {
            let origin = text(headers, ORIGIN.as_str());
            // Where a proxy speaks TLS it is of https.
            let host = origin.and_then(|origin| origin.strip_prefix("http://").or(origin.strip_prefix("https://")));
            host.is_some() && host == text(headers, HOST.as_str())
        }
    }
}

/// Whether a browser may be here by this name. A page of another site can make a name of its own lead to this server
/// and then read what it says: so names with a dot, which anybody may own, have to be those that are configured.
pub(super) fn is_known_host(headers: &HeaderMap, known: &[String]) -> bool {
    // No browser leaves it out.
    let Some(host) = headers.get(HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = name_of(host).trim_end_matches('.');
    let is_address = name.parse::<IpAddr>().is_ok();
    is_address || !name.contains('.') || known.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Whether `host`, perhaps with a port, is a name of this host that nobody else can give.
fn is_this_host(host: &str) -> bool {
    let is_loopback = |text: &str| text.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let name = name_of(host);
    name == "localhost" || is_loopback(name)
}

/// A host without its port.
fn name_of(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
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
    fn by_which_names_browsers_may_come() {
        let is_known = |host: &'static str| {
            let headers = [(HOST, hyper::header::HeaderValue::from_static(host))].into_iter().collect();
            is_known_host(&headers, &["pool.example.com".to_owned()])
        };
        let known = "localhost localhost:9187 10.0.0.1:9187 [2001:db8::1]:9187 carpool:9187 pool.example.com POOL.example.com:80";
        for host in known.split(' ') {
            assert!(is_known(host), "{host}");
        }
        for host in ["evil.example", "evil.example.:9187", "10.0.0.1.evil.example", "x.pool.example.com", "[::1.evil"] {
            assert!(!is_known(host), "{host}");
        }
        assert!(is_known_host(&HeaderMap::new(), &[]), "no browser");
    }

    #[test]
    fn pages_behind_tls_are_own_ones() {
        let own = |origin: &'static str| {
            let headers = [("host", "pool.example.com"), ("origin", origin)];
            let headers = headers.into_iter().map(|(name, value)| {
                (hyper::header::HeaderName::from_static(name), hyper::header::HeaderValue::from_static(value))
            });
            is_own_page(&headers.collect())
        };
        assert!(own("https://pool.example.com") && own("http://pool.example.com"));
        for other in ["https://evil.example", "null", "ftp://pool.example.com", "https://pool.example.com:8443"] {
            assert!(!own(other), "{other}");
        }
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
