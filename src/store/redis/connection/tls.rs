//! Certificates for TLS, and what to do about a refused one.

use std::fmt;

use redis::{Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, TlsCertificates};

/// Certificates and a key in PEM.
#[derive(Clone, Default)]
pub struct TlsPem {
    /// The authorities that sign certificates of servers, instead of those that the system trusts.
    pub authority: Option<Vec<u8>>,
    /// The certificate of this client, and its key.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
}

/// Leaves out the key.
impl fmt::Debug for TlsPem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (authority, client) = (self.authority.is_some(), self.client.is_some());
        formatter.debug_struct("TlsPem").field("authority", &authority).field("client", &client).finish()
    }
}

impl TlsPem {
    /// Uses the certificates for connections to a server.
    pub(super) fn apply(&self, info: ConnectionInfo) -> Result<ConnectionInfo, String> {
        if self.authority.is_none() && self.client.is_none() {
            return Ok(info);
        }
        if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            return Err("does not use TLS, and --redis-ca or --redis-cert is given: write rediss://".to_owned());
        }
        let has_certificate = |pem: &Vec<u8>| pem.windows(PEM.len()).any(|part| part == PEM);
        if self.authority.as_ref().is_some_and(|pem| !has_certificate(pem)) {
            return Err("cannot be used with this --redis-ca: the file contains no certificate in PEM".to_owned());
        }
        if self.client.as_ref().is_some_and(|(pem, _)| !has_certificate(pem)) {
            return Err("cannot be used with this --redis-cert: the file contains no certificate in PEM".to_owned());
        }
        let client_tls = self.client.clone();
        let client_tls = client_tls.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
        let certificates = TlsCertificates { client_tls, root_cert: self.authority.clone() };
        let client = Client::build_with_tls(info, certificates);
        let client = client.map_err(|error| format!("cannot be used with these certificates: {error}"))?;
        Ok(client.get_connection_info().clone())
    }
}

const PEM: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Adds a hint to the error of a connection that could not be opened.
pub(super) fn explain(error: String, address: &ConnectionAddr) -> String {
    const HINTS: [(&str, &str); 8] = [
        (
            "CaUsedAsEndEntity",
            "the server uses the certificate of an authority, as `openssl req -x509` makes them by default: make it again \
             with `-addext basicConstraints=critical,CA:FALSE`, or sign a certificate for the server with it",
        ),
        ("UnknownIssuer", "name the certificate of the authority that signed it with --redis-ca FILE"),
        ("NotValidForName", "the certificate does not have the host of --redis in its subjectAltName"),
        ("not valid for name", "the certificate does not have the host of --redis in its subjectAltName"),
        ("UnsupportedCertVersion", "the certificate has no extensions: make it again with a subjectAltName"),
        ("CertificateRequired", "the server asks for a client certificate: --redis-cert FILE and --redis-key FILE"),
        ("InvalidContentType", NO_TLS),
        ("no reply within", NO_TLS),
    ];
    const NO_TLS: &str = "if this port does not speak TLS, write redis://, or use the port that does";
    const ENDED: [&str; 4] = ["broken pipe", "connection reset", "end of file", "closed"];
    let has_ended = ENDED.iter().any(|words| error.to_lowercase().contains(words));
    if !matches!(address, ConnectionAddr::TcpTls { .. }) {
        return match has_ended {
            true => format!("{error}: if this port speaks TLS, write rediss://"),
            false => error,
        };
    }
    if has_ended {
        return format!(
            "{error}: if the server asks for a client certificate, give --redis-cert FILE and --redis-key FILE"
        );
    }
    match HINTS.iter().find(|(name, _)| error.contains(name)) {
        Some((_, hint)) => format!("{error}: {hint}"),
        None => error,
    }
}
