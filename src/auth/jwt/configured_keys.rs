//! The keys of the settings: secrets and public keys. They have no ids, so each one that allows the algorithm of a
//! token is tried.

use std::sync::Arc;

use parking_lot::RwLock;

use super::keys::{Found, Key, KeySet, Wanted};
use crate::config::{Derived, PublicKeyFiles, Secrets};

/// The limit of public keys: each may have to be tried.
const MAX_PUBLIC_KEYS: usize = 16;

/// Secrets and public keys.
#[derive(Debug)]
pub struct ConfiguredKeys {
    secrets: Option<Secrets>,
    made: Option<Derived<Option<Arc<Key>>>>,
    files: PublicKeyFiles,
    public: RwLock<Arc<[Arc<Key>]>>,
}

impl ConfiguredKeys {
    /// The keys of these secrets and in these files.
    ///
    /// # Errors
    /// If a file is not a list of public keys, as a sentence.
    pub fn new(secrets: Option<Secrets>, files: PublicKeyFiles) -> Result<Self, String> {
        let make = |secrets: Secrets| secrets.derive(|secret| Key::of_secret(secret).map(Arc::new));
        let made = secrets.clone().map(make);
        let public = RwLock::new(parse(files.read()?)?);
        Ok(Self { secrets, made, files, public })
    }

    /// Reads the files of the keys again. False if there are none.
    ///
    /// # Errors
    /// If a file of public keys is not valid; then they stay.
    pub fn reload(&self) -> Result<bool, String> {
        let has_secrets = self.secrets.as_ref().is_some_and(Secrets::reload);
        if self.files.is_empty() {
            return Ok(has_secrets);
        }
        let keys = parse(self.files.read_again()?)?;
        *self.public.write() = keys;
        Ok(true)
    }
}

fn parse(files: Vec<(String, String)>) -> Result<Arc<[Arc<Key>]>, String> {
    let mut keys = Vec::new();
    for (name, text) in files {
        keys.extend(Key::from_pem(&text).map_err(|why| format!("--jwt-public-key {name}: {why}"))?);
    }
    if keys.len() > MAX_PUBLIC_KEYS {
        return Err(format!("--jwt-public-key has {} keys; the limit is {MAX_PUBLIC_KEYS}", keys.len()));
    }
    Ok(keys.into_iter().map(Arc::new).collect())
}

impl KeySet for ConfiguredKeys {
    fn find<'a>(&'a self, wanted: &Wanted<'_>) -> Found<'a> {
        let allows = |key: &&Arc<Key>| key.allows(wanted.algorithm);
        let secrets = self.made.as_ref().map(Derived::current);
        let secrets = secrets.iter().flat_map(|secrets| secrets.iter()).flatten();
        let public = self.public.read();
        Found::Now(secrets.chain(public.iter()).filter(allows).cloned().collect())
    }
}
