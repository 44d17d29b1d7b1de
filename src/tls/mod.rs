//! TLS (RFC 8446, RFC 5246): the certificate of the server, the state of a connection, and settings of connections that
//! this node opens. The only module that uses rustls. The state of a connection reads and writes no socket: the owner
//! of the socket passes bytes on.

mod certificate;
mod client;
mod names;
mod roots;
mod session;
mod validity;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use certificate::{Files, ServerTls};
pub use client::{Stream, connect};
pub use roots::Roots;
pub use session::{Broken, RECORD_BYTES, Session};

use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;

/// The limit of bytes of a file with certificates or a key. The certificates of all authorities have some 250 KB.
pub const MAX_PEM_BYTES: u64 = 4 * 1024 * 1024;
/// What clients may ask for with ALPN.
const HTTP_1_1: &[u8] = b"http/1.1";
/// Tickets for a client that comes back. A connection serves all requests of a client, so one is enough.
const TICKETS: usize = 1;

/// Makes libraries that use TLS use the cryptography of this module.
pub(crate) fn install_provider() {
    let _ = aws_lc_rs::default_provider().install_default(); // An error means that it is installed already.
}

/// The cryptography that all of TLS uses.
fn provider() -> Arc<CryptoProvider> {
    install_provider();
    CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider()))
}

/// Settings of connections that clients open, with a certificate that can be replaced.
fn server_config(certificate: Arc<certificate::Current>) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(certificate);
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = TICKETS;
    config.max_early_data_size = 0;
    Ok(config)
}
