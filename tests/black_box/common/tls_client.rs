//! Clients that speak TLS with rustls, and trust one authority.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::raw::Transport;
use super::tls::Certificates;
use super::{DEADLINE, RawClient, raw};

/// Connects to servers with TLS.
#[derive(Clone)]
pub(crate) struct TlsClient {
    pub(crate) config: Arc<ClientConfig>,
}

impl TlsClient {
    /// Trusts the authority of these certificates.
    pub(crate) fn new(certificates: &Certificates) -> Self {
        Self::with_versions(certificates, &[&TLS13, &TLS12])
    }

    pub(crate) fn with_versions(certificates: &Certificates, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_file_iter(certificates.path("ca.crt")).expect("the file exists") {
            roots.add(authority.expect("PEM")).expect("a certificate");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions);
        let mut config = builder.expect("versions").with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { config: Arc::new(config) }
    }

    /// The same with other settings.
    pub(crate) fn changed(&self, change: impl FnOnce(&mut ClientConfig)) -> Self {
        let mut config = (*self.config).clone();
        change(&mut config);
        Self { config: Arc::new(config) }
    }

    pub(crate) async fn handshake<S: Transport>(&self, stream: S) -> std::io::Result<TlsStream<S>> {
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        let connector = TlsConnector::from(Arc::clone(&self.config));
        timeout(DEADLINE, connector.connect(name, stream)).await.expect("the handshake ends")
    }

    pub(crate) async fn stream(&self, address: SocketAddr) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(address).await.expect("the server accepts");
        stream.set_nodelay(true).expect("TCP_NODELAY can be set");
        self.handshake(stream).await.expect("the handshake succeeds")
    }

    /// A client that may send any bytes over TLS.
    pub(crate) async fn connect(&self, address: SocketAddr) -> RawClient<TlsStream<TcpStream>> {
        RawClient::over(self.stream(address).await)
    }

    /// A native client, after its welcome.
    pub(crate) async fn native(&self, address: SocketAddr, query: &str) -> RawClient<TlsStream<TcpStream>> {
        let mut client = self.connect(address).await;
        client.upgrade(&format!("/v1/connect?{query}")).await;
        let welcome = client.json().await;
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        client
    }

    /// With a small receive buffer, so that the server soon notices when this client does not read.
    pub(crate) async fn connect_with_small_buffer(&self, address: SocketAddr) -> RawClient<TlsStream<TcpStream>> {
        let stream = raw::small_buffer_stream(address).await;
        RawClient::over(self.handshake(stream).await.expect("the handshake succeeds"))
    }
}
