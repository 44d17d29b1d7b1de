//! The certificate of the server.

use std::path::PathBuf;
use std::sync::Arc;

use super::variables::TLS_HEADING;
use super::{ConfigError, require};
use crate::tls::{Files, ServerTls};

/// The settings as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = TLS_HEADING)]
pub struct TlsArgs {
    /// Certificate (PEM) of the server, followed by the intermediate certificates; --listen and --status-port then
    /// speak TLS (https://, wss://). The server reloads the file when it changes
    #[arg(long, env = "ROLLCALL_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// Private key (PEM, not encrypted, RSA or ECDSA) of --tls-cert
    #[arg(long, env = "ROLLCALL_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
}

impl TlsArgs {
    /// Reads the certificate, if there is one.
    pub(super) fn check(self) -> Result<Option<Arc<ServerTls>>, ConfigError> {
        let given = self.tls_cert.is_some() == self.tls_key.is_some();
        require(given, || "--tls-cert and --tls-key belong together: give both or neither".to_owned())?;
        let (Some(certificate), Some(key)) = (self.tls_cert, self.tls_key) else { return Ok(None) };
        let tls = ServerTls::open(Files { certificate, key }).map_err(ConfigError::Invalid)?;
        Ok(Some(Arc::new(tls)))
    }
}
