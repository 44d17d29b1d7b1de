//! What the clients of a trial prove to a server that requires identity.

use wire::token;

/// Longer than any trial.
const LIFETIME_S: u64 = 12 * 3600;
/// Of the tokens for lists, which need the name of some user.
const READER: &str = "reader";

/// The secret that signs tokens, and a key that reads counters.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// As given to the server's `--jwt-secret`.
    pub jwt_secret: String,
    /// As given to its `--read-key`.
    pub read_key: String,
}

impl Credentials {
    /// A valid token of this user.
    pub fn token(&self, user: &str) -> String {
        token::signed(&self.jwt_secret, user, token::unix_s() + LIFETIME_S)
    }

    /// The header line for a request of this user.
    pub(crate) fn line(&self, user: Option<&str>) -> String {
        format!("Authorization: Bearer {}\r\n", self.token(user.unwrap_or(READER)))
    }

    /// The header line that reads counters.
    pub(crate) fn key_line(&self) -> String {
        format!("Authorization: Bearer {}\r\n", self.read_key)
    }
}

/// The user that a path names.
pub(crate) fn user_in(path: &str) -> Option<&str> {
    let after = |start: &str| path.split_once(start).map(|(_, rest)| rest);
    let rest = after("user=").or_else(|| after("userId=")).or_else(|| after("/ws/"))?;
    rest.split('&').next()
}

/// The user that the body of a REST heartbeat names.
pub(crate) fn user_in_body(body: &str) -> Option<&str> {
    body.split_once(r#""user_id":""#)?.1.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_the_one_that_the_request_names() {
        assert_eq!(user_in("/v1/connect?user=a-1&room=r"), Some("a-1"));
        assert_eq!(user_in("/ws-online-status?userId=a"), Some("a"));
        assert_eq!(user_in("/ws/a"), Some("a"));
        assert_eq!(user_in("/ws"), None);
        assert_eq!(user_in_body(r#"{"user_id":"a"}"#), Some("a"));
    }
}
