//! JSON Web Tokens (RFC 7519) with a signature (RFC 7515, compact serialization): finds the key, checks the signature,
//! then the claims. Encrypted and unsigned tokens are refused.

#[cfg(test)]
mod attacks;
mod claims;
mod configured_keys;
mod der;
mod keys;
mod shared_permissions;
#[cfg(test)]
mod vectors;

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::denied::{Denied, Reason};
use super::{Grant, Permissions, strict_json};
use crate::config::TokenRules;
use crate::revocations::Revocations;

pub use configured_keys::ConfiguredKeys;
pub(super) use shared_permissions::SharedPermissions;

pub use keys::{Algorithm, Found, Key, KeySet, Keys, Unavailable, Wanted};

/// The limit of bytes of a token.
pub const MAX_TOKEN_BYTES: usize = 6 * 1024;

/// Checks tokens.
#[derive(Debug)]
pub struct Verifier {
    rules: TokenRules,
    sets: Vec<Arc<dyn KeySet>>,
    shared: SharedPermissions,
    revocations: Arc<Revocations>,
}

/// The user of a token, and what it grants.
pub type Verified = (String, Grant);

/// A token that was taken apart. Nothing of it is verified.
struct Token<'a> {
    algorithm: Algorithm,
    key_id: Option<String>,
    claims: Map<String, Value>,
    /// What was signed.
    message: &'a str,
    signature: &'a str,
}

impl Verifier {
    /// Accepts tokens that a key of these sets has signed. Tokens without `caps` get the default permissions.
    #[must_use]
    pub fn new(rules: TokenRules, sets: Vec<Arc<dyn KeySet>>, default: Permissions) -> Self {
        Self { rules, sets, shared: SharedPermissions::new(default), revocations: Arc::default() }
    }

    /// The same, refusing what is revoked.
    #[must_use]
    pub fn with_revocations(self, revocations: Arc<Revocations>) -> Self {
        Self { revocations, ..self }
    }

    /// Checks a token.
    ///
    /// # Errors
    /// If it is not valid, or its key cannot be had now.
    pub async fn verify(&self, token: &str, unix_ms: u64) -> Result<Verified, Denied> {
        let token = Token::parse(token)?;
        let mut keys = Keys::new();
        let mut unavailable = Ok(());
        for set in &self.sets {
            match set.find(&token.wanted()) {
                Found::Now(found) => keys.extend(found),
                Found::Later(fetching) => match fetching.await {
                    Ok(found) => keys.extend(found),
                    Err(Unavailable) => unavailable = Err(Unavailable),
                },
            }
        }
        match self.check(&token, &keys, unix_ms) {
            // Another set may have the key.
            Err(denied) if unavailable.is_err() && denied.message == NO_KEY => Err(Denied::new(
                Reason::Undecided,
                "the keys of the token's issuer cannot be fetched now; try again later",
            )),
            result => result,
        }
    }

    /// Checks a token at once if that takes a few microseconds: its key is a secret. `None` if it takes longer.
    #[must_use]
    pub fn verify_now(&self, token: &str, unix_ms: u64) -> Option<Result<Verified, Denied>> {
        let token = Token::parse(token).ok()?;
        let mut keys = Keys::new();
        for set in &self.sets {
            let Found::Now(found) = set.find(&token.wanted()) else { return None };
            keys.extend(found);
        }
        let is_fast = !keys.is_empty() && keys.iter().all(|key| key.is_secret());
        is_fast.then(|| self.check(&token, &keys, unix_ms))
    }

    fn check(&self, token: &Token<'_>, keys: &[Arc<Key>], unix_ms: u64) -> Result<Verified, Denied> {
        let fits = |key: &&Arc<Key>| key.verify(token.algorithm, token.message, token.signature);
        let key = keys.iter().find(fits).ok_or_else(|| Denied::new(Reason::Invalid, NO_KEY))?;
        let (user, grant) = claims::check(&token.claims, key.id.as_ref(), &self.rules, &self.shared, unix_ms)?;
        match grant.is_revoked(&user, &self.revocations) {
            true => Err(Denied::revoked()),
            false => {
                if let Some(issued_at) = grant.issued_at {
                    self.revocations.note_issued(issued_at, unix_ms / 1000);
                }
                Ok((user, grant))
            }
        }
    }
}

/// The message if no key has signed a token.
const NO_KEY: &str = "the token's signature does not fit any key of this server";

impl<'a> Token<'a> {
    fn parse(token: &'a str) -> Result<Self, Denied> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Denied::new(Reason::Malformed, "the token is larger than 6 KiB"));
        }
        let wrong = || Denied::new(Reason::Invalid, "the token is not a signed JSON Web Token");
        let (message, signature) = token.rsplit_once('.').ok_or_else(wrong)?;
        let (header, payload) =
            message.split_once('.').filter(|(_, payload)| !payload.contains('.')).ok_or_else(wrong)?;
        let object = |part: &str, what: &str| {
            let text = URL_SAFE_NO_PAD.decode(part).ok();
            text.and_then(|text| strict_json::object(&text)).ok_or_else(|| {
                Denied::invalid(format!(
                    "the token's {what} is not a JSON object in base64url without repeated members"
                ))
            })
        };
        let header = object(header, "header")?;
        let claims = object(payload, "payload")?;
        let text = |name: &str| match header.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(Denied::invalid(format!("the token's header `{name}` must be a string"))),
        };
        let algorithm = text("alg")?.and_then(|name| name.parse().ok());
        let algorithm = algorithm.ok_or_else(|| {
            Denied::new(Reason::Invalid, "the token's `alg` must be HS*, RS*, PS*, ES256, ES384 or EdDSA")
        })?;
        let key_id = text("kid")?.map(str::to_owned);
        text("typ")?;
        // Critical extensions change the meaning of a token (RFC 7515, 4.1.11); none is known here. A key that a token
        // brings along proves nothing.
        if let Some(name) = ["crit", "jwk"].into_iter().find(|name| header.contains_key(*name)) {
            return Err(Denied::invalid(format!("the token's header must not have `{name}`")));
        }
        Ok(Self { algorithm, key_id, claims, message, signature })
    }

    fn wanted(&self) -> Wanted<'_> {
        let issuer = self.claims.get("iss").and_then(Value::as_str);
        Wanted { key_id: self.key_id.as_deref(), algorithm: self.algorithm, issuer }
    }
}

/// A token with these claims, signed with this secret.
#[cfg(test)]
pub(crate) fn signed(claims: &Value, secret: &str) -> String {
    let message =
        [r#"{"alg":"HS256"}"#.to_owned(), claims.to_string()].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let signature = keys::testing::sign(&message, secret.as_bytes(), Algorithm::HS256);
    format!("{message}.{signature}")
}
