//! Tokens as an application issues them.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

/// The secret of the tests' application.
pub(crate) const SECRET: &str = "the secret of the application in these tests";
/// Makes a server accept its tokens.
pub(crate) const SECRET_FLAG: [&str; 2] = ["--jwt-secret", SECRET];

/// Seconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set").as_secs()
}

/// A token of this user for ten minutes, with further claims. A claim that is null is left out.
pub(crate) fn token(user: &str, further: &Value) -> String {
    let mut claims = json!({"sub": user, "iat": now(), "exp": now() + 600});
    let object = claims.as_object_mut().expect("an object");
    for (name, value) in further.as_object().expect("an object") {
        match value {
            Value::Null => drop(object.remove(name)),
            value => drop(object.insert(name.clone(), value.clone())),
        }
    }
    signed_with(SECRET, &claims)
}

/// A token with exactly these claims, signed with this secret.
pub(crate) fn signed_with(secret: &str, claims: &Value) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes()).expect("a key");
    encode(&Header::new(Algorithm::HS256), claims, &key).expect("a token")
}

/// A token as browsers send it.
pub(crate) fn subprotocols(token: &str) -> String {
    format!("presence.v1, bearer.{token}")
}
