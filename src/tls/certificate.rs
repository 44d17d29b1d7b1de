//! The certificate of the server and its key: reading and checking the files, and replacing the pair while the server
//! runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::{fmt, mem};

use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tracing::{error, info, warn};

use super::names::names;
use super::session::{Broken, Session};
use super::validity::validity;
use super::{MAX_PEM_BYTES, provider, server_config};
use crate::os::{read_bounded, unix_ms};

/// A certificate that expires within this time is a reason for a warning.
const WARN_SECONDS: i64 = 14 * 24 * 3600;
/// How often the log repeats that the certificate expires soon.
const WARN_EVERY_SECONDS: i64 = 24 * 3600;

/// The certificate and the key of the server, and the files that they come from.
pub struct ServerTls {
    files: Files,
    config: Arc<ServerConfig>,
    current: Arc<Current>,
    /// What was found in the files, and was not used yet or cannot be used.
    watch: Mutex<Watch>,
    /// When the certificate expires, in seconds since the Unix epoch.
    expires: AtomicI64,
}

/// The files of a certificate and its key, as the flags name them.
#[derive(Debug, Clone)]
pub struct Files {
    /// `--tls-cert`.
    pub certificate: PathBuf,
    /// `--tls-key`.
    pub key: PathBuf,
}

/// What the last looks at the files found.
#[derive(Debug, Default)]
struct Watch {
    /// The bytes that are in use.
    used: Bytes,
    /// The bytes of the last look.
    seen: Bytes,
    /// Bytes that cannot be used, so that the log says it once.
    refused: Bytes,
    /// Whether the log says that the files cannot be read.
    is_unreadable: bool,
    /// When all certificates of the chain are valid.
    begins: i64,
    /// When the log last said that the certificate expires soon, or is not valid yet.
    warned: i64,
}

/// The bytes of both files.
#[derive(Clone, Default, PartialEq, Eq)]
struct Bytes {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl fmt::Debug for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Bytes(…)")
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ServerTls").field("files", &self.files).finish_non_exhaustive()
    }
}

/// The certificate that new connections get.
#[derive(Debug)]
pub(super) struct Current(Mutex<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.lock()))
    }
}

/// A certificate with the key that belongs to it.
struct Pair {
    key: Arc<CertifiedKey>,
    /// When the first certificate of the chain expires.
    expires: i64,
    /// When all certificates of the chain are valid.
    begins: i64,
}

impl ServerTls {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// If they cannot be used: what is wrong with which flag.
    pub fn open(files: Files) -> Result<Self, String> {
        let bytes = Bytes::read(&files)?;
        let pair = Pair::new(&bytes, &files)?;
        let current = Arc::new(Current(Mutex::new(pair.key)));
        let config = server_config(Arc::clone(&current) as Arc<_>).map_err(|error| format!("TLS: {error}"))?;
        let watch = Watch { used: bytes.clone(), seen: bytes, begins: pair.begins, ..Watch::default() };
        let (config, expires) = (Arc::new(config), AtomicI64::new(pair.expires));
        Ok(Self { files, config, current, watch: Mutex::new(watch), expires })
    }

    /// The state of a new connection.
    ///
    /// # Errors
    /// If there is no memory or randomness for it.
    pub fn session(&self) -> Result<Session, Broken> {
        Session::new(&self.config)
    }

    /// When the certificate expires, in seconds since the Unix epoch.
    #[must_use]
    pub fn expires(&self) -> i64 {
        self.expires.load(Ordering::Relaxed)
    }

    /// The names that the certificate is for.
    #[must_use]
    pub fn names(&self) -> String {
        self.current.0.lock().cert.first().map_or_else(String::new, |certificate| names(certificate))
    }

    /// Looks whether the files have changed. New ones are used when two looks in a row have found the same bytes, so
    /// that no half-written file is used. Logs what it does, and once per day that the certificate expires soon.
    pub fn look(&self) {
        let mut watch = self.watch.lock();
        match Bytes::read_again(&self.files) {
            Err(why) => {
                if !mem::replace(&mut watch.is_unreadable, true) {
                    error!("the TLS certificate is not reloaded: {why}");
                }
            }
            Ok(bytes) => {
                watch.is_unreadable = false;
                let is_settled = bytes == watch.seen;
                if is_settled && bytes != watch.used && bytes != watch.refused {
                    self.replace(&mut watch, bytes);
                } else if !is_settled {
                    watch.seen = bytes;
                }
            }
        }
        self.warn_of_validity(&mut watch);
    }

    fn replace(&self, watch: &mut Watch, bytes: Bytes) {
        match Pair::new(&bytes, &self.files) {
            Ok(pair) => {
                *self.current.0.lock() = pair.key;
                self.expires.store(pair.expires, Ordering::Relaxed);
                info!(expires_unix = pair.expires, "the TLS certificate was replaced");
                (watch.used, watch.begins, watch.warned) = (bytes, pair.begins, 0);
            }
            Err(why) => {
                error!("the TLS certificate is not replaced, the old one stays: {why}");
                watch.refused = bytes;
            }
        }
    }

    fn warn_of_validity(&self, watch: &mut Watch) {
        let (now, expires) = ((unix_ms() / 1000) as i64, self.expires());
        let is_valid = watch.begins <= now && expires - now >= WARN_SECONDS;
        if is_valid || now - watch.warned < WARN_EVERY_SECONDS {
            return;
        }
        watch.warned = now;
        let (certificate, days) = (self.files.certificate.display(), (expires - now) / (24 * 3600));
        if expires <= now {
            warn!(%certificate, "the TLS certificate has expired: clients refuse it; replace the files");
        } else if watch.begins > now {
            warn!(%certificate, "the TLS certificate is not valid yet: clients refuse it; check the clock");
        } else {
            warn!(%certificate, days, "the TLS certificate expires soon; replace the files");
        }
    }
}

impl Bytes {
    fn read(files: &Files) -> Result<Self, String> {
        Ok(Self { certificate: read("--tls-cert", &files.certificate)?, key: read("--tls-key", &files.key)? })
    }

    /// The same for a running server. Reading a FIFO could wait forever for a program that writes to it.
    fn read_again(files: &Files) -> Result<Self, String> {
        for path in [&files.certificate, &files.key] {
            let metadata = path.metadata().map_err(|error| format!("{}: {error}", path.display()))?;
            if !metadata.is_file() {
                return Err(format!("{} is not a regular file", path.display()));
            }
        }
        Self::read(files)
    }
}

fn read(flag: &str, path: &Path) -> Result<Vec<u8>, String> {
    let wrong = |why: String| format!("{flag} {}: {why}", path.display());
    let bytes = read_bounded(path, MAX_PEM_BYTES).map_err(wrong)?;
    if bytes.trim_ascii().is_empty() {
        return Err(wrong("it is empty".to_owned()));
    }
    Ok(bytes)
}

impl Pair {
    /// Checks the bytes. Errors never contain any of them.
    fn new(bytes: &Bytes, files: &Files) -> Result<Self, String> {
        let (certificate, key) = (files.certificate.display(), files.key.display());
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes.certificate).collect();
        let chain = chain.map_err(|_| format!("--tls-cert {certificate}: it is not valid PEM"))?;
        let validity: Option<Vec<_>> = chain.iter().map(|certificate| validity(certificate)).collect();
        let validity = validity.ok_or_else(|| format!("--tls-cert {certificate}: a certificate in it is broken"))?;
        let begins = validity.iter().map(|(begins, _)| *begins).max();
        let expires = validity.iter().map(|(_, expires)| *expires).min();
        let (Some(begins), Some(expires)) = (begins, expires) else {
            return Err(format!("--tls-cert {certificate}: the file contains no certificate in PEM"));
        };
        let private = PrivateKeyDer::from_pem_slice(&bytes.key).map_err(|_| {
            let is_encrypted = bytes.key.windows(ENCRYPTED.len()).any(|part| part == ENCRYPTED);
            let why =
                if is_encrypted { "the key is encrypted; decrypt it, for example with `openssl pkey`" } else { NO_KEY };
            format!("--tls-key {key}: {why}")
        })?;
        let signing = provider().key_provider.load_private_key(private);
        let signing =
            signing.map_err(|_| format!("--tls-key {key}: this kind of key is not supported; use RSA or ECDSA"))?;
        let pair = CertifiedKey::new(chain, signing);
        pair.keys_match().map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                format!("--tls-key {key} is not the key of the first certificate in --tls-cert {certificate}")
            }
            other => format!("--tls-cert {certificate}: the first certificate cannot be used: {other}"),
        })?;
        Ok(Self { key: Arc::new(pair), expires, begins })
    }
}

const ENCRYPTED: &[u8] = b"ENCRYPTED";
const NO_KEY: &str = "the file contains no private key in PEM";
