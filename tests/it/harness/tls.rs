//! Certificates of the tests' own authorities, PostgreSQL with TLS, and a proxy that adds TLS for raw clients.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Postgres;
use super::postgres::give_to_server;

/// Signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Certificates between it and its root, itself included, in PEM; nothing for a root.
    chain: String,
}

/// A certificate, with those between it and its root, and its key, in PEM.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Authority {
    /// A root.
    pub fn new(name: &str) -> Self {
        let issuer = CertifiedIssuer::self_signed(authority(name), KeyPair::generate().unwrap()).unwrap();
        Self { issuer, chain: String::new() }
    }

    /// One below this one.
    pub fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::signed_by(authority(name), key, &self.issuer).unwrap();
        let chain = issuer.as_ref().pem() + &self.chain;
        Self { issuer, chain }
    }

    /// Its certificate.
    pub fn pem(&self) -> String {
        self.issuer.as_ref().pem()
    }

    /// A certificate for a subject and alternative names.
    pub fn issue(&self, common_name: &str, names: &[&str]) -> Identity {
        self.issue_with(common_name, names, |_| ())
    }

    /// As [`Authority::issue`], changed.
    pub fn issue_with(
        &self,
        common_name: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem() + &self.chain;
        Identity { certificate, key: key.serialize_pem() }
    }
}

/// Makes a certificate one that is past its time.
pub fn expired(params: &mut CertificateParams) {
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
}

/// A directory with files, removed at the end.
pub struct Files(PathBuf);

impl Files {
    pub fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("carpool-test-{}-tls-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file that only its owner reads, as libpq wants keys to be.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        // In one step: a reload may look at any time.
        let new = self.path(&format!("{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::rename(&new, &path).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Writes `NAME.crt` and `NAME.key`.
    pub fn write_identity(&self, name: &str, identity: &Identity) -> (String, String) {
        let certificate = self.write(&format!("{name}.crt"), &identity.certificate);
        (certificate, self.write(&format!("{name}.key"), &identity.key))
    }

    /// Lines of `[pooler]` that have Carpool offer TLS with this identity.
    pub fn pooler(&self, identity: &Identity, mode: &str) -> String {
        let (certificate, key) = self.write_identity("carpool", identity);
        format!(
            "client_tls_sslmode = \"{mode}\"\nclient_tls_cert_file = \"{certificate}\"\n\
             client_tls_key_file = \"{key}\"\n"
        )
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A cluster with TLS, by this identity. `clients`: the authority of clients' certificates.
pub fn postgres(bin: &Path, files: &Files, identity: &Identity, clients: Option<&Authority>) -> Postgres {
    let (certificate, key) = files.write_identity("postgres", identity);
    let mut conf = format!("ssl = on\nssl_cert_file = '{certificate}'\nssl_key_file = '{key}'\n");
    let mut given = vec![certificate, key];
    if let Some(authority) = clients {
        given.push(files.write("clients.crt", &authority.pem()));
        conf += &format!("ssl_ca_file = '{}'\n", given[2]);
    }
    given.iter().for_each(|file| give_to_server(Path::new(file)));
    Postgres::start(bin, &conf)
}

/// What a client of the tests believes.
pub fn client_config(authority: &Authority) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    builder.with_root_certificates(roots).with_no_client_auth()
}

/// SSLRequest.
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Adds TLS for clients that have none: listens on the port that it gives, until the test process ends. The server is
/// to be `localhost`.
pub fn proxy(server: u16, config: ClientConfig) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((client, _)) = listener.accept().await {
                let connector = connector.clone();
                tokio::spawn(async move { drop(pass(client, server, connector).await) });
            }
        });
    });
    port
}

async fn pass(
    mut client: tokio::net::TcpStream,
    server: u16,
    connector: tokio_rustls::TlsConnector,
) -> std::io::Result<()> {
    let mut upstream = tokio::net::TcpStream::connect(("127.0.0.1", server)).await?;
    for stream in [&client, &upstream] {
        stream.set_nodelay(true)?;
    }
    upstream.write_all(&SSL_REQUEST).await?;
    assert_eq!(upstream.read_u8().await?, b'S');
    let mut upstream = connector.connect(ServerName::try_from("localhost").unwrap(), upstream).await?;
    tokio::io::copy_bidirectional(&mut client, &mut upstream).await.map(drop)
}

/// A client that does TLS itself, and has its socket at hand.
pub type Blocking = rustls::StreamOwned<rustls::ClientConnection, std::net::TcpStream>;

/// Begins TLS over a connected socket, whatever was sent on it before.
pub fn begin(mut socket: std::net::TcpStream, config: ClientConfig) -> std::io::Result<Blocking> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(rustls::StreamOwned::new(connection, socket))
}

/// A connected socket whose reads end.
pub fn socket(port: u16) -> std::net::TcpStream {
    let socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(super::PATIENCE)).unwrap();
    socket
}
