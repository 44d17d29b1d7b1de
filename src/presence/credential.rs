//! What is remembered of the credential of a session, so that the session ends when the credential is revoked.

/// A credential without its texts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Credential {
    /// When it was issued, in seconds since the Unix epoch; 0 if that is not known.
    pub issued_at: u64,
    /// The hash of its id; 0 if it has none.
    pub token_id: u64,
    /// The hash of the id of the key that verified it; 0 if the key has none.
    pub key_id: u32,
}
