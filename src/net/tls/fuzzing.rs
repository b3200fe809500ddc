//! Both ends of a connection inside TLS with a hostile wire between them, for fuzzing.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};

use super::session::{Connection, Session, Write, nothing_to_write};
use crate::tls::setup::{ConnectSettings, Files};
use crate::tls::{ConnectTls, SslMode};

const CERTIFICATE: &[u8] = include_bytes!("../../tls/tests/version1.der");
const KEY: &[u8] = include_bytes!("../../tls/tests/version1.key.der");

/// Turns after which nothing that is under way can be unfinished: a handshake takes four.
const TURNS: usize = 16;

/// What both ends use.
#[derive(Debug)]
pub(crate) struct Configs {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// One end, and what is on the way to it.
struct End {
    session: Session,
    wire: Vec<u8>,
    /// Bytes of the start of `wire` that have come in.
    arrived: usize,
    /// What it wrote, and what it read.
    sent: Vec<u8>,
    got: Vec<u8>,
    failed: bool,
}

impl Configs {
    /// With a key that anybody may know. `None` if the library doesn't take it.
    pub(crate) fn new() -> Option<Self> {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(KEY));
        let key = rustls::crypto::ring::sign::any_supported_type(&key).ok()?;
        let shown = SingleCertAndKey::from(CertifiedKey::new(vec![CertificateDer::from(CERTIFICATE)], key));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
        let server = Arc::new(builder.with_no_client_auth().with_cert_resolver(Arc::new(shown)));
        let settings = ConnectSettings { mode: SslMode::Require, ..ConnectSettings::default() };
        let client = ConnectTls::new(settings, &Files::default(), |_, _| ()).ok()?.config?;
        Some(Self { server, client })
    }

    /// Plays the input's operations. Whatever the wire does, each end reads nothing but what the other wrote, from its
    /// beginning on; on an honest wire, all of it.
    pub(crate) fn play(&self, data: &[u8]) {
        let connections = (
            UnbufferedServerConnection::new(Arc::clone(&self.server)),
            ServerName::try_from("localhost")
                .map(|name| UnbufferedClientConnection::new(Arc::clone(&self.client), name)),
        );
        let (Ok(server), Ok(Ok(client))) = connections else { return };
        let mut ends = [End::new(Connection::Connected(client)), End::new(Connection::Accepted(server))];
        let (mut honest, mut operations) = (true, data.iter().copied());
        if operations.next().is_some_and(|byte| byte % 4 > 0) {
            settle(&mut ends);
        }
        while let (Some(operation), Some(size)) = (operations.next(), operations.next()) {
            let (from, size) = (usize::from(operation & 1), usize::from(size));
            match (operation >> 1) % 8 {
                0..=2 => write(&mut ends, from, size * if operation & 64 > 0 { 256 } else { 1 }),
                3 | 4 => deliver(&mut ends, from, size),
                5 => settle(&mut ends),
                6 => honest &= !ends[from].damage(size, operations.next().unwrap_or_default()),
                _ => {
                    ends[from].wire.extend(operations.by_ref().take(size));
                    honest &= size == 0;
                }
            }
        }
        settle(&mut ends);
        let [client, server] = &ends;
        for (reader, writer) in [(client, server), (server, client)] {
            assert!(writer.sent.starts_with(&reader.got), "read what nobody wrote");
            assert!(!honest || reader.got.len() == writer.sent.len() && !reader.failed, "lost something");
        }
    }
}

impl End {
    const fn new(connection: Connection) -> Self {
        let session = Session { connection, closed: false };
        Self { session, wire: Vec::new(), arrived: 0, sent: Vec::new(), got: Vec::new(), failed: false }
    }

    /// Changes a byte on the way. Says whether there was one.
    fn damage(&mut self, at: usize, by: u8) -> bool {
        let len = self.wire.len();
        match self.wire.get_mut(at % len.max(1)) {
            Some(byte) => {
                *byte ^= by;
                by != 0
            }
            None => false,
        }
    }

    /// Takes what has arrived, lets `write` write, gives what is to be sent.
    fn advance(&mut self, write: &mut Write<'_>) -> Vec<u8> {
        let mut outgoing = Vec::new();
        if self.failed {
            return outgoing;
        }
        let got = &mut self.got;
        let plain = &mut |bytes: &[u8]| got.extend_from_slice(bytes);
        let input = &mut self.wire[..self.arrived];
        match self.session.advance(input, plain, &mut outgoing, write) {
            Ok(progress) => {
                assert!(progress.consumed <= self.arrived);
                self.wire.drain(..progress.consumed);
                self.arrived -= progress.consumed;
            }
            Err(_) => self.failed = true,
        }
        outgoing
    }
}

/// `size` more bytes come in at an end.
fn deliver(ends: &mut [End; 2], to: usize, size: usize) {
    let end = &mut ends[to];
    end.arrived = (end.arrived + size).min(end.wire.len());
    let outgoing = end.advance(&mut nothing_to_write);
    ends[1 - to].wire.extend(outgoing);
}

/// All comes in that is on the way.
fn settle(ends: &mut [End; 2]) {
    for turn in 0..TURNS {
        deliver(ends, turn % 2, usize::MAX / 2);
    }
}

/// An end writes, if its handshake is done.
fn write(ends: &mut [End; 2], from: usize, size: usize) {
    let end = &mut ends[from];
    if end.failed || end.session.state().is_handshaking() {
        return;
    }
    let text: Vec<u8> = (end.sent.len()..end.sent.len() + size).map(|at| (at % 251) as u8).collect();
    let mut written = false;
    let outgoing = end.advance(&mut |traffic, out| {
        written = true;
        traffic.encrypt(&text, out)
    });
    if written {
        end.sent.extend_from_slice(&text);
    }
    ends[1 - from].wire.extend(outgoing);
}
