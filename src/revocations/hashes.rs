//! Hashes in place of texts that are only compared.

use std::hash::BuildHasher;
use std::num::NonZeroU32;

use foldhash::quality::RandomState;

/// Hashes of texts that clients cannot predict. Copies have the same seed.
#[derive(Debug, Clone, Default)]
pub struct TextHashes(RandomState);

impl TextHashes {
    /// The hash of the id of a credential, which is never 0.
    #[must_use]
    pub fn long(&self, text: &str) -> u64 {
        self.0.hash_one(text) | 1
    }

    /// The hash of the name of an issuer or a key.
    #[must_use]
    pub fn short(&self, text: &str) -> NonZeroU32 {
        NonZeroU32::MIN | (self.0.hash_one(text) >> 32) as u32
    }
}
