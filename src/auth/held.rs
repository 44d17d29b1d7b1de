//! What a connection keeps of its grant, in 40 bytes.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::{Grant, Permissions};
use crate::presence::{Credential, Info};
use crate::revocations::TextHashes;

/// What a connection keeps of its grant. Texts that are only compared are kept as hashes with a random seed.
#[derive(Debug, Clone)]
pub struct Held {
    /// What it may do.
    pub permissions: Arc<Permissions>,
    /// What the application says about the user.
    pub info: Option<Info>,
    /// The hash of the id of the credential; 0 if it has none.
    pub token_id: u64,
    /// When it expires, in seconds since the Unix epoch; 0 if it does not.
    pub expires_at: u32,
    /// When it was issued, in seconds since the Unix epoch; 0 if that is not known.
    pub issued_at: u32,
    /// The hash of its issuer, if it names one.
    pub issuer: Option<NonZeroU32>,
    /// The hash of the id of its key, if that has one.
    pub key_id: Option<NonZeroU32>,
}

impl Held {
    /// What is kept of a grant.
    #[must_use]
    pub fn new(grant: &Grant, hashes: &TextHashes) -> Self {
        let seconds = |time: Option<u64>| time.map_or(0, |time| u32::try_from(time).unwrap_or(u32::MAX));
        Self {
            permissions: Arc::clone(&grant.permissions),
            info: grant.info.clone(),
            token_id: grant.token_id.as_ref().map_or(0, |id| hashes.long(id)),
            expires_at: seconds(grant.expires_at),
            issued_at: seconds(grant.issued_at),
            issuer: grant.issuer.as_ref().map(|name| hashes.short(name)),
            key_id: grant.key_id.as_ref().map(|name| hashes.short(name)),
        }
    }

    /// What the list of revocations compares, with the same hashes.
    #[must_use]
    pub fn credential(&self) -> Credential {
        let Self { token_id, issued_at, key_id, .. } = self;
        Credential { issued_at: (*issued_at).into(), token_id: *token_id, key_id: key_id.map_or(0, NonZeroU32::get) }
    }
}
