//! From settings, and files that were read, to what handshakes need. All that can be wrong with them shows here.

use std::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ServerConfig};
use sha2::{Digest, Sha256};

use super::suites::{Chosen, Wanted};
use super::verify::{ClientVerifier, ServerVerifier, Trust};
use super::{ALPN, BindingMode, SslMode, SslNegotiation, TlsError, certificate};

/// What the files of one side contain.
#[derive(Clone, Default)]
pub struct Files {
    /// `tls_cert_file`: the own certificate, and those between it and its authority.
    pub certificate: Option<Vec<u8>>,
    /// `tls_key_file`: its private key.
    pub key: Option<Vec<u8>>,
    /// `tls_ca_file`: the authorities that the other side's certificate may come from.
    pub authorities: Option<Vec<u8>>,
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Files(***)")
    }
}

impl Files {
    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for part in [&self.certificate, &self.key, &self.authorities] {
            digest.update(part.as_ref().map_or(u64::MAX, |bytes| bytes.len() as u64).to_be_bytes());
            digest.update(part.as_deref().unwrap_or_default());
        }
        digest.finalize().into()
    }

    /// The own certificate and key, if there are any.
    fn identity(&self) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, TlsError> {
        match (&self.certificate, &self.key) {
            (None, None) => Ok(None),
            (Some(_), None) => Err(TlsError::new("tls_key_file", "must be set, since tls_cert_file is")),
            (None, Some(_)) => Err(TlsError::new("tls_cert_file", "must be set, since tls_key_file is")),
            (Some(certificate), Some(key)) => {
                Ok(Some((certificates(certificate, "tls_cert_file")?, private_key(key)?)))
            }
        }
    }

    fn trust(&self) -> Result<Option<Trust>, TlsError> {
        const SETTING: &str = "tls_ca_file";
        let Some(authorities) = &self.authorities else { return Ok(None) };
        let trust = Trust::new(certificates(authorities, SETTING)?);
        trust.map(Some).map_err(|error| TlsError::new(SETTING, format!("has no usable certificate: {error}")))
    }
}

fn certificates(pem: &[u8], setting: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(read) if !read.is_empty() => Ok(read),
        Ok(_) => Err(TlsError::new(setting, "has no certificate in PEM format")),
        Err(error) => Err(TlsError::new(setting, format!("is not in PEM format: {error:?}"))),
    }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    const SETTING: &str = "tls_key_file";
    if pem.windows(9).any(|window| window == b"ENCRYPTED") {
        return Err(TlsError::new(SETTING, "is encrypted with a passphrase, which is not supported"));
    }
    // The library's own error could show what stands in the file.
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| TlsError::new(SETTING, "has no private key in PEM format"))
}

/// TLS with clients.
#[derive(Clone)]
pub struct AcceptTls {
    /// `client_tls_sslmode`.
    pub mode: SslMode,
    /// What handshakes use; `None` with mode disable.
    pub config: Option<Arc<ServerConfig>>,
    /// See [`super::TlsInfo`].
    pub server_end_point: Vec<u8>,
    /// Whether certificates of clients are checked, where clients give one.
    pub verifies: bool,
    digest: [u8; 32],
}

impl Default for AcceptTls {
    fn default() -> Self {
        Self {
            mode: SslMode::Disable,
            config: None,
            server_end_point: Vec::new(),
            verifies: false,
            digest: Files::default().digest(),
        }
    }
}

impl PartialEq for AcceptTls {
    fn eq(&self, other: &Self) -> bool {
        self.mode == other.mode && self.digest == other.digest
    }
}

impl fmt::Debug for AcceptTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AcceptTls({})", self.mode.as_str())
    }
}

impl AcceptTls {
    /// Checks settings and files. What has no effect is told to `warn`.
    ///
    /// # Errors
    /// What can't be used.
    pub fn new(
        mode: SslMode,
        wanted: &Wanted,
        files: &Files,
        mut warn: impl FnMut(&'static str, String),
    ) -> Result<Self, TlsError> {
        if mode == SslMode::Disable {
            return Ok(Self::default());
        }
        let needed = |setting| TlsError::new(setting, "must be set for TLS with clients (client_tls_sslmode)");
        let Some((chain, key)) = files.identity()? else {
            return Err(needed(if files.key.is_none() { "tls_key_file" } else { "tls_cert_file" }));
        };
        let trust = files.trust()?;
        if trust.is_none() && mode.verifies() {
            let text = format!("must be set for client_tls_sslmode {}", mode.as_str());
            return Err(TlsError::new("tls_ca_file", text));
        }
        let Chosen { provider, versions } = wanted.choose(&mut warn)?;
        let provider = Arc::new(provider);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&versions);
        let builder = builder.map_err(|error| TlsError::new("tls_protocols", error.to_string()))?;
        let verifies = trust.is_some();
        let builder = match trust {
            None => builder.with_no_client_auth(),
            Some(trust) => {
                let verifier = ClientVerifier::new(trust, provider);
                let verifier = verifier.map_err(|error| TlsError::new("tls_ca_file", error))?;
                builder.with_client_cert_verifier(Arc::new(verifier))
            }
        };
        let server_end_point = chain.first().map(|own| certificate::server_end_point(own)).unwrap_or_default();
        let mut config = builder.with_single_cert(chain, key).map_err(|error| own_error(&error))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // As PostgreSQL: sessions aren't resumed, so no state of them is kept.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let (config, digest) = (Some(Arc::new(config)), files.digest());
        Ok(Self { mode, config, server_end_point, verifies, digest })
    }
}

fn own_error(error: &rustls::Error) -> TlsError {
    match error {
        rustls::Error::InconsistentKeys(_) => TlsError::new("tls_key_file", "is not the key of tls_cert_file"),
        rustls::Error::InvalidCertificate(reason) => {
            TlsError::new("tls_cert_file", format!("has a certificate that can't be used: {reason}"))
        }
        other => TlsError::new("tls_key_file", format!("can't be used: {other}")),
    }
}

/// What the settings say about TLS to a server, beside the files.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConnectSettings {
    /// `server_tls_sslmode`.
    pub mode: SslMode,
    /// `sslnegotiation`.
    pub negotiation: SslNegotiation,
    /// `channel_binding`.
    pub binding: BindingMode,
    /// Protocols and ciphers.
    pub wanted: Wanted,
    /// The names of the files: certificate, key, authorities.
    pub paths: [Option<std::path::PathBuf>; 3],
}

/// TLS to servers.
#[derive(Clone, Default)]
pub struct ConnectTls {
    /// The settings that it was made of.
    pub settings: Arc<ConnectSettings>,
    /// What handshakes use; `None` with mode disable.
    pub config: Option<Arc<ClientConfig>>,
    digest: [u8; 32],
}

impl PartialEq for ConnectTls {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings && self.digest == other.digest
    }
}

impl fmt::Debug for ConnectTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectTls({})", self.settings.mode.as_str())
    }
}

impl ConnectTls {
    /// Checks settings and files. What has no effect is told to `warn`.
    ///
    /// # Errors
    /// What can't be used.
    pub fn new(
        settings: ConnectSettings,
        files: &Files,
        mut warn: impl FnMut(&'static str, String),
    ) -> Result<Self, TlsError> {
        let mode = settings.mode;
        if mode == SslMode::Disable {
            return Ok(Self { settings: Arc::new(settings), ..Self::default() });
        }
        if settings.negotiation == SslNegotiation::Direct && mode < SslMode::Require {
            let text = "direct needs server_tls_sslmode require, verify-ca or verify-full";
            return Err(TlsError::new("sslnegotiation", text));
        }
        // Others check nothing, so the file must not look as if they did.
        let trust = if mode.verifies() { files.trust()? } else { None };
        if trust.is_none() && mode.verifies() {
            let text = format!("must be set for server_tls_sslmode {}", mode.as_str());
            return Err(TlsError::new("tls_ca_file", text));
        }
        let Chosen { provider, versions } = settings.wanted.choose(&mut warn)?;
        let algorithms = provider.signature_verification_algorithms;
        let verifier = ServerVerifier { trust, checks_name: mode == SslMode::VerifyFull, algorithms };
        let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&versions);
        let builder = builder.map_err(|error| TlsError::new("tls_protocols", error.to_string()))?;
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match files.identity()? {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| own_error(&error))?,
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { settings: Arc::new(settings), config: Some(Arc::new(config)), digest: files.digest() })
    }

    /// Settings that can't be used; remembered so that each is reported once.
    pub(crate) fn unusable(settings: ConnectSettings) -> Self {
        Self { settings: Arc::new(settings), ..Self::default() }
    }

    /// Whether servers that logged in with the other are to be replaced: settings differ, not only what is in files.
    #[must_use]
    pub fn asks_otherwise(&self, other: &Self) -> bool {
        self.settings != other.settings
    }
}
