//! The first packets of a connection, up to the StartupMessage. What a client can make Carpool hold before it
//! has logged in is bounded: one startup packet or one password message.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use zeroize::Zeroize;

use crate::auth::ChannelBinding;
use crate::error::{ClientError, SqlState};
use crate::net::stream::Stream;
use crate::net::tls;
use crate::tls::{AcceptTls, SslMode, TlsInfo};
use crate::wire::frame::{self, Header};
use crate::wire::startup::{self, CancelKey, Startup, StartupPacket};
use crate::wire::{backend, frontend};

/// At least how many bytes are read at once.
const READ_SIZE: usize = 512;

/// A client's socket during login, with what was read and not yet taken.
#[derive(Debug)]
pub struct Handshake {
    /// The socket.
    pub stream: Stream,
    /// Its own address (TCP).
    pub local: Option<SocketAddr>,
    /// What is known of its encryption, if it has any.
    pub tls: Option<Box<TlsInfo>>,
    buf: Vec<u8>,
    /// What goes out with whatever is sent next.
    held: Vec<u8>,
}

/// Why a connection ends before or during login.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The socket failed, or the client left.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The client is told.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// TLS could not be agreed on; the client was told by an alert, if at all.
    #[error("TLS handshake failed: {0}")]
    Tls(io::Error),
}

/// What a client wants.
#[derive(Debug)]
pub enum Wish {
    /// A session.
    Session(Startup),
    /// To cancel a query.
    Cancel(CancelKey),
}

impl Handshake {
    /// For an accepted socket.
    #[must_use]
    pub const fn new(stream: Stream, local: Option<SocketAddr>) -> Self {
        Self { stream, local, tls: None, buf: Vec::new(), held: Vec::new() }
    }

    /// Socket and unread bytes, for the relay.
    #[must_use]
    pub fn into_parts(self) -> (Stream, Vec<u8>) {
        // An idle client's memory counts.
        let unread = if self.buf.is_empty() { Vec::new() } else { self.buf };
        (self.stream, unread)
    }

    /// The socket, and what is still to be sent, followed by `last`.
    #[must_use]
    pub fn with_last_words(self, last: &[u8]) -> (Stream, Vec<u8>) {
        let mut bytes = self.held;
        bytes.extend_from_slice(last);
        (self.stream, bytes)
    }

    /// What a SCRAM login can be bound to.
    #[must_use]
    pub fn binding(&self) -> ChannelBinding {
        match &self.tls {
            Some(tls) if !tls.server_end_point.is_empty() => {
                ChannelBinding::TlsServerEndPoint(tls.server_end_point.clone())
            }
            _ => ChannelBinding::None,
        }
    }

    /// Keeps bytes to go out with whatever is sent next: one packet less, and the client is woken once.
    pub fn hold(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// The socket's.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.held.is_empty() {
            return self.stream.write_all(bytes).await;
        }
        self.held.extend_from_slice(bytes);
        let held = std::mem::take(&mut self.held);
        self.stream.write_all(&held).await
    }

    async fn fill(&mut self) -> io::Result<()> {
        self.buf.reserve(READ_SIZE);
        if self.stream.read_buf(&mut self.buf).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// The first byte of the connection, left where it is.
    async fn first_byte(&mut self) -> io::Result<u8> {
        loop {
            if let Some(byte) = self.buf.first() {
                return Ok(*byte);
            }
            self.fill().await?;
        }
    }

    async fn packet(&mut self) -> Result<StartupPacket, HandshakeError> {
        loop {
            if let Some(len) = frame::peek_startup(&self.buf).map_err(ClientError::from)? {
                if self.buf.len() >= len {
                    let packet: Vec<u8> = self.buf.drain(..len).collect();
                    return Ok(startup::parse(&packet).map_err(ClientError::from)?);
                }
            }
            self.fill().await?;
        }
    }

    /// Reads the client's answer to an authentication request: the body of a password message.
    ///
    /// # Errors
    /// For any other message, and for bodies over `limit` bytes.
    pub async fn password(&mut self, limit: usize) -> Result<Vec<u8>, HandshakeError> {
        loop {
            if let Some(Header { tag, body_len }) = frame::peek(&self.buf).map_err(ClientError::from)? {
                if tag != frontend::tag::PASSWORD {
                    let text = format!("expected password response, got message type {tag}");
                    return Err(ClientError::fatal(SqlState::PROTOCOL_VIOLATION, text).into());
                }
                if body_len > limit {
                    let text = "password message is too long";
                    return Err(ClientError::fatal(SqlState::PROTOCOL_VIOLATION, text).into());
                }
            }
            let whole = frame::whole(&self.buf).map_err(ClientError::from)?;
            if let Some((header, body)) = whole {
                let body = body.to_vec();
                self.buf.drain(..header.total_len());
                if self.buf.is_empty() {
                    // A password may have been in it.
                    self.buf.zeroize();
                }
                return Ok(body);
            }
            self.fill().await?;
        }
    }

    /// Tells the client why the connection ends. It may be gone already.
    pub async fn refuse(&mut self, error: &ClientError) {
        let mut message = Vec::new();
        backend::put_error(&mut message, error);
        if self.send(&message).await.is_ok() {
            let _ = self.stream.shutdown().await;
        }
    }
}

/// The first byte of a TLS handshake. No startup packet begins so: it would be hundreds of megabytes long.
const TLS_HANDSHAKE: u8 = 0x16;

/// Reads packets up to the one that says what the client wants. TLS begins where the client asks for it, or begins it
/// at once, and `tls` allows it (over TCP only, as PostgreSQL); GSSAPI encryption is refused politely.
///
/// # Errors
/// For packets that can't be, and for bytes behind an encryption request: they could only have been injected
/// (CVE-2021-3935). The handshake is gone when TLS could not be agreed on.
pub async fn wish(handshake: &mut Option<Handshake>, tls: &AcceptTls) -> Result<Wish, HandshakeError> {
    let offered = tls.config.is_some() && matches!(handshake, Some(Handshake { stream: Stream::Tcp(_), .. }));
    let (mut ssl_asked, mut gss_asked) = (false, false);
    if offered && present(handshake)?.first_byte().await? == TLS_HANDSHAKE {
        // On the heap, here and below: those without TLS are not to carry it.
        Box::pin(encrypt(handshake, tls, true)).await?;
        (ssl_asked, gss_asked) = (true, true);
    }
    loop {
        let io = present(handshake)?;
        let packet = io.packet().await?;
        match packet {
            StartupPacket::Ssl if !ssl_asked => ssl_asked = true,
            StartupPacket::GssEnc if !gss_asked => gss_asked = true,
            StartupPacket::Ssl | StartupPacket::GssEnc => {
                let text = "repeated encryption request";
                return Err(ClientError::fatal(SqlState::PROTOCOL_VIOLATION, text).into());
            }
            StartupPacket::Cancel(key) => return Ok(Wish::Cancel(key)),
            StartupPacket::Startup(startup) => {
                check_encryption(io, tls)?;
                return Ok(Wish::Session(startup));
            }
            StartupPacket::UnsupportedProtocol(version) => {
                let (major, minor) = (version >> 16, version & 0xffff);
                let text = format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2");
                return Err(ClientError::fatal(SqlState::FEATURE_NOT_SUPPORTED, text).into());
            }
        }
        if !io.buf.is_empty() {
            let text = "received unencrypted data after encryption request";
            return Err(ClientError::fatal(SqlState::PROTOCOL_VIOLATION, text).into());
        }
        if offered && packet == StartupPacket::Ssl {
            io.send(b"S").await?;
            Box::pin(encrypt(handshake, tls, false)).await?;
            gss_asked = true;
        } else {
            io.send(b"N").await?;
        }
    }
}

fn present(handshake: &mut Option<Handshake>) -> io::Result<&mut Handshake> {
    handshake.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
}

/// Replaces the socket by TLS over it.
async fn encrypt(handshake: &mut Option<Handshake>, tls: &AcceptTls, direct: bool) -> Result<(), HandshakeError> {
    // What an encrypted connection needs can't be said in the clear, so there are no last words if this fails.
    let (Some(config), Some(io)) = (&tls.config, handshake.take()) else { return Ok(()) };
    let Handshake { stream: Stream::Tcp(socket), local, buf, .. } = io else { return Ok(()) };
    let accepted = tls::accept(socket, config, buf, tls.verifies).await;
    let (stream, mut info) = accepted.map_err(HandshakeError::Tls)?;
    if direct && !stream.has_alpn() {
        // As PostgreSQL: what isn't meant for this protocol may be somebody's trick on another one (ALPACA).
        stream.part().await;
        let text = "direct TLS connection without ALPN \"postgresql\"";
        return Err(HandshakeError::Tls(io::Error::new(io::ErrorKind::InvalidData, text)));
    }
    info.server_end_point.clone_from(&tls.server_end_point);
    let stream = Stream::Tls(Box::new(stream));
    *handshake = Some(Handshake { tls: Some(Box::new(info)), ..Handshake::new(stream, local) });
    Ok(())
}

/// Whether a session may begin without encryption, or without a certificate.
fn check_encryption(io: &Handshake, tls: &AcceptTls) -> Result<(), ClientError> {
    if let Some(info) = &io.tls {
        if tls.mode.verifies() && !info.peer.as_ref().is_some_and(|peer| peer.verified) {
            let text = "connection requires a valid client certificate";
            let error = ClientError::fatal(SqlState::INVALID_AUTHORIZATION, text);
            return Err(error.hint("See client_tls_sslmode and client_tls_ca_file."));
        }
        return Ok(());
    }
    if tls.mode < SslMode::Require || !matches!(io.stream, Stream::Tcp(_)) {
        return Ok(());
    }
    let error = ClientError::fatal(SqlState::INVALID_AUTHORIZATION, "SSL required");
    Err(error.hint("Connect with sslmode=require or stricter; see client_tls_sslmode."))
}

/// The settings that a StartupMessage asks for, in order: parameters other than the well-known ones, and those
/// in `options` (`-c name=value`, `--name=value`), names in lower case.
///
/// # Errors
/// For `options` that aren't settings.
pub fn requested_settings(startup: &Startup) -> Result<Vec<(String, String)>, ClientError> {
    let mut settings = Vec::new();
    if let Some(options) = startup.parameter("options") {
        parse_options(options, &mut settings)?;
    }
    let named = startup.parameters.iter().filter(|(name, _)| {
        !matches!(name.as_str(), "user" | "database" | "options" | "replication") && !name.starts_with("_pq_.")
    });
    settings.extend(named.map(|(name, value)| (name.to_ascii_lowercase(), value.clone())));
    Ok(settings)
}

/// Splits command-line options at white space, where a backslash takes the next character as it is, as
/// PostgreSQL's `pg_split_opts` does.
fn split_options(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = options.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_ascii_whitespace() => words.extend(word.take()),
            '\\' => word.get_or_insert_default().extend(chars.next()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn parse_options(options: &str, settings: &mut Vec<(String, String)>) -> Result<(), ClientError> {
    let mut words = split_options(options).into_iter();
    while let Some(word) = words.next() {
        let setting = if word == "-c" {
            words.next()
        } else {
            word.strip_prefix("-c").or_else(|| word.strip_prefix("--")).map(str::to_owned)
        };
        let pair = setting.as_deref().and_then(|s| s.split_once('='));
        let Some((name, value)) = pair else {
            let text = "unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed";
            return Err(ClientError::fatal(SqlState::FEATURE_NOT_SUPPORTED, text)
                .detail(format!("\"{word}\" is another one."))
                .hint("See ignore_startup_parameters."));
        };
        settings.push((name.replace('-', "_").to_ascii_lowercase(), value.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup(parameters: &[(&str, &str)]) -> Startup {
        let own = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
        Startup { protocol: startup::PROTOCOL_3_0, parameters: parameters.iter().map(own).collect() }
    }

    #[test]
    fn options_become_settings() {
        let s = startup(&[
            ("user", "u"),
            ("options", r"-c geqo=off  --statement-timeout=5s -csearch_path=a\ b"),
            ("DateStyle", "ISO"),
            ("_pq_.x", "1"),
        ]);
        let want = [("geqo", "off"), ("statement_timeout", "5s"), ("search_path", "a b"), ("datestyle", "ISO")];
        let want: Vec<_> = want.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        assert_eq!(requested_settings(&s).unwrap(), want);
    }

    #[test]
    fn other_options_are_refused() {
        for bad in ["-f", "-c", "-c x", "word"] {
            assert!(requested_settings(&startup(&[("options", bad)])).is_err(), "{bad}");
        }
    }
}
