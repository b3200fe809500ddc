//! Whom to believe: the checks of certificates, of servers by Carpool and of clients by Carpool.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};

use super::certificate::{ServerNames, is_in_time};

/// The authorities that are trusted, and single certificates.
#[derive(Debug)]
pub(super) struct Trust {
    roots: Arc<RootCertStore>,
    /// As they stand in the file: PostgreSQL's own recipe makes a self-signed certificate that is its own authority,
    /// which no chain leads to.
    pinned: Vec<CertificateDer<'static>>,
}

impl Trust {
    /// Of the certificates of a file.
    ///
    /// # Errors
    /// When one can't be an authority's.
    pub(super) fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            // One of version 1 can't be an anchor here, but is good for itself.
            let added = roots.add(certificate.clone());
            if let (Err(error), true) = (added, Certificate::from_der(certificate).is_err()) {
                return Err(error.to_string());
            }
        }
        Ok(Self { roots: Arc::new(roots), pinned: certificates })
    }

    /// Whether the certificate itself stands in the file.
    fn has(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Result<bool, Error> {
        if !self.pinned.contains(certificate) {
            return Ok(false);
        }
        match is_in_time(certificate, now.as_secs()) {
            true => Ok(true),
            false => Err(CertificateError::Expired.into()),
        }
    }
}

/// Checks servers.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    /// `None`: any certificate will do.
    pub(super) trust: Option<Trust>,
    /// Whether the certificate must have the name that was connected to.
    pub(super) checks_name: bool,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(trust) = &self.trust else { return Ok(ServerCertVerified::assertion()) };
        if !trust.has(end_entity, now)? {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, &trust.roots, intermediates, now, algorithms)?;
        }
        if self.checks_name {
            let names = ServerNames::read(end_entity).ok_or(CertificateError::BadEncoding)?;
            if !names.fits(&server_name.to_str()) {
                return Err(CertificateError::NotValidForName.into());
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
            .or_else(|error| self.verify_old(message, cert, dss, error))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
            .or_else(|error| self.verify_old(message, cert, dss, error))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerVerifier {
    /// A signature by the key of a certificate that webpki doesn't read, one of X.509 version 1 for instance. Whether
    /// the certificate is believed is another question, answered before.
    fn verify_old(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
        error: Error,
    ) -> Result<HandshakeSignatureValid, Error> {
        let unreadable = matches!(
            error,
            Error::InvalidCertificate(
                CertificateError::BadEncoding
                    | CertificateError::Other(_)
                    | CertificateError::UnhandledCriticalExtension
            )
        );
        let key = if unreadable { public_key(cert) } else { None };
        let Some((algorithm, key)) = key else { return Err(error) };
        let of_scheme = self.algorithms.mapping.iter().filter(|(scheme, _)| *scheme == dss.scheme);
        let mut fitting = of_scheme.flat_map(|(_, all)| all.iter()).filter(|a| *a.public_key_alg_id() == *algorithm);
        match fitting.any(|a| a.verify_signature(&key, message, dss.signature()).is_ok()) {
            true => Ok(HandshakeSignatureValid::assertion()),
            false => Err(error),
        }
    }
}

/// The inside of the key's AlgorithmIdentifier, and the key.
fn public_key(cert: &CertificateDer<'_>) -> Option<(Vec<u8>, Vec<u8>)> {
    let certificate = Certificate::from_der(cert).ok()?;
    let key = certificate.tbs_certificate().subject_public_key_info();
    let mut algorithm = key.algorithm.oid.to_der().ok()?;
    if let Some(parameters) = &key.algorithm.parameters {
        algorithm.extend(parameters.to_der().ok()?);
    }
    Some((algorithm, key.subject_public_key.raw_bytes().to_vec()))
}

/// Checks clients that give a certificate.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    trust: Trust,
    chains: Arc<dyn ClientCertVerifier>,
}

impl ClientVerifier {
    /// Clients without a certificate get through the handshake, so that they can be told what is missing.
    pub(super) fn new(trust: Trust, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(&trust.roots), provider);
        let chains = builder.allow_unauthenticated().build().map_err(|error| error.to_string())?;
        Ok(Self { trust, chains })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.chains.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.trust.has(end_entity, now)? {
            return Ok(ClientCertVerified::assertion());
        }
        self.chains.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}
