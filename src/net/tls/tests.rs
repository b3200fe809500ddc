use std::future::poll_fn;

use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::net::stream::{IdleState, Stream};
use crate::tls::setup::{ConnectSettings, Files};
use crate::tls::suites::Wanted;
use crate::tls::{AcceptTls, ConnectTls, SslMode};

struct World {
    accept: AcceptTls,
    connect: ConnectTls,
    certificate: Vec<u8>,
}

fn params(name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Example, Inc.");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A server `localhost` and a client `alice`, by one authority, who check each other.
fn world(protocols: &str) -> World {
    let mut authority = params("authority", &[]);
    authority.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let root = authority.as_ref().pem().into_bytes();
    let issue = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let certificate = params(name, &[name]).signed_by(&key, &authority).unwrap();
        let files = Files {
            certificate: Some(certificate.pem().into_bytes()),
            key: Some(key.serialize_pem().into_bytes()),
            authorities: Some(root.clone()),
        };
        (files, certificate.der().to_vec())
    };
    let wanted = Wanted { protocols: protocols.into(), ..Wanted::default() };
    let warn = |setting: &str, text: String| panic!("{setting}: {text}");
    let (files, certificate) = issue("localhost");
    let accept = AcceptTls::new(SslMode::VerifyFull, &wanted, &files, warn).unwrap();
    let settings = ConnectSettings { mode: SslMode::VerifyFull, wanted, ..ConnectSettings::default() };
    let connect = ConnectTls::new(settings, &issue("alice").0, warn).unwrap();
    World { accept, connect, certificate }
}

/// Both ends of a connection, Carpool's client side first.
async fn pair(world: &World) -> ((Stream, TlsInfo), (Stream, TlsInfo)) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = async {
        let (socket, _) = listener.accept().await.unwrap();
        accept(socket, world.accept.config.as_ref().unwrap(), Vec::new(), true).await.unwrap()
    };
    let connecting = async {
        let socket = TcpStream::connect(address).await.unwrap();
        connect(socket, world.connect.config.as_ref().unwrap(), "localhost").await.unwrap()
    };
    let (accepted, connected) = tokio::join!(accepting, connecting);
    let boxed = |(stream, info)| (Stream::Tls(Box::new(stream)), info);
    (boxed(accepted), boxed(connected))
}

fn tls(stream: &Stream) -> &TlsStream {
    let Stream::Tls(stream) = stream else { panic!("not TLS") };
    stream
}

#[tokio::test]
async fn both_know_the_other_and_the_certificate_that_binds() {
    for (protocols, version) in [("secure", "TLSv1.3"), ("tlsv1.2", "TLSv1.2")] {
        let world = world(protocols);
        let ((accepted, server), (connected, client)) = pair(&world).await;
        assert_eq!((server.cipher.version(), client.cipher.version()), (version, version));
        let alice = server.peer.unwrap();
        assert_eq!(alice.common_name.as_deref(), Some("alice"));
        assert_eq!(alice.subject, "CN=alice,O=Example\\, Inc.");
        assert!(alice.verified);
        assert!(!client.peer.unwrap().verified, "nobody is let in by a server's certificate");
        use sha2::Digest;
        let hash = sha2::Sha256::digest(&world.certificate).to_vec();
        assert_eq!((&client.server_end_point, &world.accept.server_end_point), (&hash, &hash));
        assert!(tls(&accepted).has_alpn() && tls(&connected).has_alpn());
    }
}

#[tokio::test]
async fn bytes_arrive_whole_and_in_order_whatever_the_buffers() {
    for protocols in ["tlsv1.3", "tlsv1.2"] {
        let ((mut one, _), (mut other, _)) = pair(&world(protocols)).await;
        let sent: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        let copy = sent.clone();
        let writing = tokio::spawn(async move {
            for chunk in copy.chunks(77_777) {
                one.write_all(chunk).await.unwrap();
            }
            one.shutdown().await.unwrap();
            one
        });
        let mut got = Vec::new();
        for size in [1, 2, 100, 1000, 5000, 16_384, 20_000, 65_536].into_iter().cycle() {
            let mut buf = vec![0; size];
            match poll_fn(|cx| other.poll_read_into(cx, &mut buf)).await.unwrap() {
                0 => break,
                n => got.extend_from_slice(&buf[..n]),
            }
        }
        assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
        let stream = tls(&other);
        assert!(stream.plain.bytes.capacity() == 0 && stream.partial.capacity() == 0, "an idle connection has buffers");
        // The other direction is open still.
        other.write_all(b"goodbye").await.unwrap();
        let mut one = writing.await.unwrap();
        let mut buf = [0; 7];
        one.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"goodbye");
    }
}

#[tokio::test]
async fn a_write_is_reported_when_it_is_in_the_socket() {
    let ((mut one, _), (mut other, _)) = pair(&world("secure")).await;
    let block = vec![7; 64 * 1024];
    let mut reported = 0;
    let mut cx = Context::from_waker(std::task::Waker::noop());
    // Until the sockets are full.
    let full = loop {
        match one.poll_write_from(&mut cx, &block) {
            Poll::Ready(n) => reported += n.unwrap(),
            Poll::Pending => {
                // The runtime may not know yet that there is room.
                tokio::task::yield_now().await;
                if one.poll_write_from(&mut cx, &block).is_pending() && reported > 0 {
                    break true;
                }
                reported += block.len();
            }
        }
        assert!(reported < 100_000_000);
    };
    assert!(full && !tls(&one).outgoing.is_empty());
    let reading = tokio::spawn(async move {
        let mut total = 0;
        let mut buf = vec![0; 65_536];
        loop {
            match other.read(&mut buf).await.unwrap() {
                0 => return total,
                n => total += n,
            }
        }
    });
    let n = poll_fn(|cx| one.poll_write_from(cx, &block)).await.unwrap();
    reported += n;
    assert!(tls(&one).outgoing.is_empty(), "reported before it was sent");
    one.shutdown().await.unwrap();
    assert_eq!(reading.await.unwrap(), reported);
}

#[tokio::test]
async fn idle_connections_are_quiet_until_something_comes() {
    for protocols in ["tlsv1.3", "tlsv1.2"] {
        let ((mut one, _), (mut other, _)) = pair(&world(protocols)).await;
        assert_eq!(other.idle_state(), IdleState::Quiet);
        one.write_all(b"x").await.unwrap();
        while other.idle_state() == IdleState::Quiet {
            tokio::task::yield_now().await;
        }
        let ((mut one, _), (mut other, _)) = pair(&world(protocols)).await;
        // A goodbye is the end, whether or not the socket's follows.
        poll_fn(|cx| Pin::new(&mut one).poll_shutdown(cx)).await.unwrap();
        while other.idle_state() == IdleState::Quiet {
            tokio::task::yield_now().await;
        }
        assert_eq!(other.read(&mut [0; 10]).await.unwrap(), 0);
        drop(one);
    }
}

#[tokio::test]
async fn changed_keys_go_unnoticed() {
    let ((mut one, _), (mut other, _)) = pair(&world("tlsv1.3")).await;
    for round in 0..20u8 {
        let Stream::Tls(stream) = &mut one else { panic!() };
        let Connection::Accepted(connection) = &mut stream.session.connection else { panic!() };
        let rustls::unbuffered::UnbufferedStatus { state: Ok(state), .. } = connection.process_tls_records(&mut [])
        else {
            panic!("no state")
        };
        let rustls::unbuffered::ConnectionState::WriteTraffic(traffic) = state else { panic!("{state:?}") };
        traffic.refresh_traffic_keys().unwrap();
        one.write_all(&[round; 3]).await.unwrap();
        let mut buf = [0; 3];
        other.read_exact(&mut buf).await.unwrap();
        assert_eq!(buf, [round; 3]);
        // The answer to the change goes out with what is written next.
        other.write_all(&[round]).await.unwrap();
        one.read_exact(&mut buf[..1]).await.unwrap();
        assert_eq!(buf[0], round);
    }
}

#[tokio::test]
async fn records_cut_up_and_joined_anyhow() {
    // A middleman that passes one byte at a time, then everything at once.
    let world = world("secure");
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let front = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (back, front_address) = (listener.local_addr().unwrap(), front.local_addr().unwrap());
    tokio::spawn(async move {
        let (client, _) = front.accept().await.unwrap();
        let server = TcpStream::connect(back).await.unwrap();
        server.set_nodelay(true).unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        let mut passed = 0;
        let mut buf = [0; 50_000];
        loop {
            let size = if passed < 6_000 { 1 } else { buf.len() };
            let n = from_client.read(&mut buf[..size]).await.unwrap();
            if n == 0 || to_server.write_all(&buf[..n]).await.is_err() {
                return;
            }
            passed += n;
        }
    });
    let accepting = async {
        let (socket, _) = listener.accept().await.unwrap();
        accept(socket, world.accept.config.as_ref().unwrap(), Vec::new(), true).await.unwrap()
    };
    let connecting = async {
        let socket = TcpStream::connect(front_address).await.unwrap();
        connect(socket, world.connect.config.as_ref().unwrap(), "localhost").await.unwrap()
    };
    let ((accepted, _), (connected, _)) = tokio::join!(accepting, connecting);
    let (mut server, mut client) = (Stream::Tls(Box::new(accepted)), Stream::Tls(Box::new(connected)));
    let sent: Vec<u8> = (0..200_000_u32).map(|i| (i % 253) as u8).collect();
    let copy = sent.clone();
    let writing = tokio::spawn(async move {
        client.write_all(&copy).await.unwrap();
        client
    });
    let mut got = vec![0; sent.len()];
    server.read_exact(&mut got).await.unwrap();
    assert!(got == sent);
    drop(writing.await.unwrap());
}

#[test]
fn a_connection_is_small() {
    let bytes = size_of::<TlsStream>();
    assert!(bytes <= 1400, "a TlsStream has {bytes} bytes");
    assert!(size_of::<Stream>() <= size_of::<TcpStream>() + 8, "a Stream has {} bytes", size_of::<Stream>());
}

/// A certificate of X.509 version 1, as old recipes make it, and its key.
const OLD: &[u8] = include_bytes!("../../tls/tests/version1.der");
const OLD_KEY: &[u8] = include_bytes!("../../tls/tests/version1.key.der");

/// A handshake with a server that shows the old certificate and signs with this key.
async fn with_old_server(key: &[u8], mode: SslMode, protocols: &str) -> io::Result<()> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.to_vec()));
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    let shown = SingleCertAndKey::from(CertifiedKey::new(vec![CertificateDer::from(OLD)], key));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let server = Arc::new(builder.with_no_client_auth().with_cert_resolver(Arc::new(shown)));
    use base64::Engine;
    let pem = base64::engine::general_purpose::STANDARD.encode(OLD);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{pem}\n-----END CERTIFICATE-----\n");
    let wanted = Wanted { protocols: protocols.into(), ..Wanted::default() };
    let settings = ConnectSettings { mode, wanted, ..ConnectSettings::default() };
    let files = Files { authorities: Some(pem.into_bytes()), ..Files::default() };
    let client = ConnectTls::new(settings, &files, |_, _| ()).unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let accepting = async { accept(listener.accept().await?.0, &server, Vec::new(), false).await };
    let config = client.config.unwrap();
    let connecting = async { connect(TcpStream::connect(address).await?, &config, "old.example.com").await };
    let (_, connected) = tokio::join!(accepting, connecting);
    connected.map(drop)
}

#[tokio::test]
async fn old_certificates_do_where_they_are_trusted_by_themselves() {
    let stranger = KeyPair::generate().unwrap().serialize_der();
    for protocols in ["tlsv1.2", "tlsv1.3"] {
        for mode in [SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull] {
            with_old_server(OLD_KEY, mode, protocols).await.unwrap();
            let error = with_old_server(&stranger, mode, protocols).await.unwrap_err();
            assert!(error.to_string().contains("invalid peer certificate"), "{error}");
        }
    }
}
