//! What a load generator proves to a server that requires identity: a token per user, and a key for the HTTP API.

use std::time::Duration;

use wire::token::{signed, unix_s};

/// Tokens are valid for this long, which is longer than any run.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// The credentials of a run. Empty for an open server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Credentials {
    /// Signs tokens (HS256).
    pub(crate) jwt_secret: Option<String>,
    /// Reads the HTTP API.
    pub(crate) key: Option<String>,
    /// When its tokens end, in seconds since the Unix epoch, if that is not after any run.
    pub(crate) valid_until_s: Option<u64>,
}

impl Credentials {
    /// The header line with the token of the user in the query of this path, if tokens are used.
    pub(crate) fn token_line(&self, path: &str) -> String {
        let user = path.split(['?', '&']).find_map(|part| part.strip_prefix("user="));
        let token = user.and_then(|user| self.token(user));
        token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default()
    }

    /// A token of this user, if tokens are used.
    pub(crate) fn token(&self, user: &str) -> Option<String> {
        let expires = self.valid_until_s.unwrap_or_else(|| unix_s() + LIFETIME.as_secs());
        self.jwt_secret.as_ref().map(|secret| signed(secret, user, expires))
    }

    /// The header line with the key, if there is one.
    pub(crate) fn key_line(&self) -> String {
        self.key.as_ref().map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    #[test]
    fn the_user_of_the_path_is_the_one_of_the_token() {
        let credentials = Credentials { jwt_secret: Some("secret".to_owned()), ..Credentials::default() };
        let line = credentials.token_line("/v1/connect?room=r&user=user-000007");
        let token = line.strip_prefix("Authorization: Bearer ").unwrap().trim_end();
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        assert!(String::from_utf8(claims).unwrap().starts_with(r#"{"sub":"user-000007","iat":"#));
        assert_eq!(credentials.token_line("/v1/connect"), "");
        assert_eq!(Credentials::default().token_line("/v1/connect?user=a"), "");
    }
}
