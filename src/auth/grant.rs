//! What a verified credential grants: to whom, what, and until when.

use std::sync::Arc;

use super::permissions::Permissions;
use crate::presence::{Credential, Info};
use crate::revocations::Revocations;

/// The result of a verified credential. A connection without one, in open mode, may do everything for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// What its holder may do.
    pub permissions: Arc<Permissions>,
    /// When it expires, in seconds since the Unix epoch; `None` for visitors without a credential.
    pub expires_at: Option<u64>,
    /// What the application says about the user to other members.
    pub info: Option<Info>,
    /// When the credential was issued, in seconds since the Unix epoch, if it says so.
    pub issued_at: Option<u64>,
    /// Who issued it, if it says so.
    pub issuer: Option<Arc<str>>,
    /// The key that verified it, if the key has an id.
    pub key_id: Option<Arc<str>>,
    /// The id of the credential, if it has one.
    pub token_id: Option<Arc<str>>,
    /// How it is renewed.
    pub renewal: Renewal,
}

/// How a grant is renewed before it expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// The client sends a new token.
    Token,
    /// The server asks the application again, and names this session if the application did.
    Recheck {
        /// The application's name for the session.
        session: Option<Arc<str>>,
    },
    /// It does not expire.
    Never,
}

impl Grant {
    /// The grant of a visitor without a credential.
    #[must_use]
    pub fn anonymous(permissions: Arc<Permissions>) -> Self {
        Self {
            permissions,
            expires_at: None,
            info: None,
            issued_at: None,
            issuer: None,
            key_id: None,
            token_id: None,
            renewal: Renewal::Never,
        }
    }

    /// Whether it was revoked.
    #[must_use]
    pub fn is_revoked(&self, user: &str, revocations: &Revocations) -> bool {
        !revocations.is_empty() && revocations.refuse(user, &self.credential(revocations))
    }

    /// The credential as the list of revocations compares it.
    #[must_use]
    pub fn credential(&self, revocations: &Revocations) -> Credential {
        revocations.credential(self.issued_at, self.token_id.as_deref(), self.key_id.as_deref())
    }

    /// An info that says nothing, as old as the credential: for users whose former credential said something.
    #[must_use]
    pub fn no_info(&self, unix_ms: u64) -> Info {
        Info::new("", self.issued_at.unwrap_or(unix_ms / 1000))
    }

    /// The time until it expires, in milliseconds; 0 if it has.
    #[must_use]
    pub fn expires_in_ms(&self, unix_ms: u64) -> Option<u64> {
        Some(self.expires_at?.saturating_mul(1000).saturating_sub(unix_ms))
    }
}
