//! What an entry of the list is about, and its form in the store.

use std::fmt;
use std::sync::Arc;

use crate::presence::is_id;

/// The limit of bytes of the id of a token or a key that can be revoked.
pub const MAX_ID_BYTES: usize = 256;

/// Whose credentials are revoked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// Those of a user.
    User(Arc<str>),
    /// The token with this id.
    Token(Arc<str>),
    /// Those that the key with this id has verified.
    Key(Arc<str>),
    /// All.
    Everybody,
}

impl Target {
    /// Whether only credentials are meant that were issued before some time. The id of a token is never used again, and
    /// a thief of a key can write any time.
    #[must_use]
    pub fn has_time(&self) -> bool {
        matches!(self, Self::User(_) | Self::Everybody)
    }
}

/// For logs.
impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => write!(formatter, "user {user}"),
            Self::Token(id) => write!(formatter, "token {id}"),
            Self::Key(id) => write!(formatter, "key {id}"),
            Self::Everybody => formatter.write_str("everybody"),
        }
    }
}

/// An entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Whose credentials are revoked.
    pub target: Target,
    /// Those that were issued at this time or before, in seconds since the Unix epoch; all if the target has no time.
    pub issued_before: u64,
    /// The end of the entry, in seconds since the Unix epoch.
    pub until: u64,
}

impl Revocation {
    /// The entry as stores keep it, without its end.
    #[must_use]
    pub fn text(&self) -> String {
        match &self.target {
            Target::User(user) => format!("user:{}:{user}", self.issued_before),
            Target::Token(id) => format!("jti:{id}"),
            Target::Key(id) => format!("kid:{id}"),
            Target::Everybody => format!("all:{}", self.issued_before),
        }
    }

    /// Reads an entry; `None` if it is not one.
    #[must_use]
    pub fn parse(text: &str, until: u64) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let id = || Some(rest).filter(|id| !id.is_empty() && id.len() <= MAX_ID_BYTES).map(Arc::from);
        let (target, issued_before) = match kind {
            "user" => {
                let (time, user) = rest.split_once(':').filter(|(_, user)| is_id(user))?;
                (Target::User(user.into()), time.parse().ok()?)
            }
            "jti" => (Target::Token(id()?), 0),
            "kid" => (Target::Key(id()?), 0),
            "all" => (Target::Everybody, rest.parse().ok()?),
            _ => return None,
        };
        Some(Self { target, issued_before, until })
    }
}
