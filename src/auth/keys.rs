//! The keys with which applications use the HTTP API (`--api-key`, `--read-key`). Only their hashes are compared, in
//! constant time: how long that takes says nothing about a key.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::config::{Derived, Keys, Secret};

/// The SHA-256 of a key.
#[derive(Clone, Copy)]
struct KeyHash([u8; 32]);

impl KeyHash {
    fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }
}

/// A key as logs name it: the first 8 hexadecimal digits of its hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyName(u32);

impl fmt::Display for KeyName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:08x}", self.0)
    }
}

impl fmt::Debug for KeyName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Who sent a request to the HTTP API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Anybody.
    Anyone,
    /// An application with a read key.
    Reader,
    /// An application with an API key.
    Application(KeyName),
}

/// The keys of this node.
#[derive(Debug, Default)]
pub struct ApiKeys {
    api: Option<Derived<KeyHash>>,
    read: Option<Derived<KeyHash>>,
}

impl ApiKeys {
    /// The keys of the settings. They follow a reload.
    pub(super) fn new(keys: &Keys) -> Self {
        let hash = |secret: &Secret| KeyHash::of(secret.as_bytes());
        let derive = |keys: &Option<crate::config::Secrets>| keys.clone().map(|keys| keys.derive(hash));
        Self { api: derive(&keys.api), read: derive(&keys.read) }
    }

    /// Whether there is any key.
    #[must_use]
    pub fn exist(&self) -> bool {
        self.api.is_some() || self.read.is_some()
    }

    /// Who has this key; `None` if nobody has.
    #[must_use]
    pub fn find(&self, key: &str) -> Option<Caller> {
        let KeyHash(given) = KeyHash::of(key.as_bytes());
        let has = |keys: &Option<Derived<KeyHash>>| {
            let keys = keys.as_ref().map(Derived::current);
            let all = keys.iter().flat_map(|keys| keys.iter());
            bool::from(all.fold(Choice::from(0), |found, KeyHash(known)| found | known.ct_eq(&given)))
        };
        let (is_api, is_read) = (has(&self.api), has(&self.read));
        let [a, b, c, d, ..] = given;
        match (is_api, is_read) {
            (true, _) => Some(Caller::Application(KeyName(u32::from_be_bytes([a, b, c, d])))),
            (false, true) => Some(Caller::Reader),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn keys_are_found_by_their_hash_and_named_by_its_first_digits() {
        let (api, other, read) = ("an api key for tests", "another key for tests", "a read key for tests");
        let flags = ["rollcall", "--api-key", api, "--api-key", other, "--read-key", read];
        let keys = ApiKeys::new(&Config::from_args(flags).unwrap().keys);
        assert!(keys.exist() && !ApiKeys::default().exist());
        let name = |key: &str| match keys.find(key) {
            Some(Caller::Application(name)) => name.to_string(),
            caller => panic!("{caller:?}"),
        };
        // sha256sum
        let digest = Sha256::digest(api);
        assert_eq!(name(api), format!("{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3]));
        assert_ne!(name(api), name(other));
        assert_eq!(keys.find(read), Some(Caller::Reader));
        for wrong in ["", "an api key for test", "an api key for tests ", "AN API KEY FOR TESTS"] {
            assert_eq!(keys.find(wrong), None, "{wrong}");
        }
        assert!(!format!("{keys:?}").contains("tests"));
    }
}
