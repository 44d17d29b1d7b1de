//! The authorities whose certificates of servers are accepted, and the settings of connections that this node opens.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::provider;

/// The authorities that may sign certificates of servers.
#[derive(Clone, Default)]
pub struct Roots {
    /// Those of a file; `None` for the ones that the system trusts.
    own: Option<Arc<RootCertStore>>,
}

impl fmt::Debug for Roots {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.own {
            Some(own) => write!(formatter, "Roots({} of a file)", own.len()),
            None => formatter.write_str("Roots(of the system)"),
        }
    }
}

impl Roots {
    /// The certificates in a text in PEM format.
    ///
    /// # Errors
    /// If it has none, or one that cannot be used, as the rest of a sentence about the file.
    pub fn from_pem(text: &[u8]) -> Result<Self, String> {
        let mut store = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(text) {
            let certificate = certificate.map_err(|error| format!("is not in PEM format: {error}"))?;
            store.add(certificate).map_err(|error| format!("has a certificate that cannot be used: {error}"))?;
        }
        match store.is_empty() {
            true => Err("has no certificate: a line `-----BEGIN CERTIFICATE-----` begins one".to_owned()),
            false => Ok(Self { own: Some(Arc::new(store)) }),
        }
    }

    /// No authority.
    #[must_use]
    pub fn nobody() -> Self {
        Self { own: Some(Arc::new(RootCertStore::empty())) }
    }

    /// Settings of connections to servers whose certificates these authorities have signed.
    ///
    /// # Errors
    /// If the system trusts no authority, as a sentence.
    pub fn client_config(&self) -> Result<ClientConfig, String> {
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?;
        let store = self.own.clone().map_or_else(system, Ok)?;
        Ok(builder.with_root_certificates(store).with_no_client_auth())
    }
}

/// The authorities that the system trusts.
fn system() -> Result<Arc<RootCertStore>, String> {
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match added {
        0 => Err("the system has no certificates of authorities, which https needs; name a file".to_owned()),
        _ => Ok(Arc::new(store)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_an_error() {
        for text in ["", "x", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            assert!(Roots::from_pem(text.as_bytes()).unwrap_err().contains("has no certificate"), "{text}");
        }
        for text in ["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\n"]
        {
            assert!(Roots::from_pem(text.as_bytes()).is_err(), "{text}");
        }
    }
}
