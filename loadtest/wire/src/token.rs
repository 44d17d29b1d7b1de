//! JSON Web Tokens of HS256, as an application signs them.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::signature;

/// Seconds since the Unix epoch.
pub fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A token of a user, whose name needs no escapes. It ends at this second since the Unix epoch.
pub fn signed(secret: &str, user: &str, expires_s: u64) -> String {
    let claims = format!(r#"{{"sub":"{user}","iat":{},"exp":{expires_s}}}"#, unix_s());
    let message = unsigned(r#"{"alg":"HS256","typ":"JWT"}"#, &claims);
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature::bytes(secret, &message)))
}

/// A token with this header, and with a signature of the right length that no key has made.
pub fn forged(header: &str, user: &str, signature_bytes: usize) -> String {
    let (now, signature) = (unix_s(), URL_SAFE_NO_PAD.encode(vec![7; signature_bytes]));
    let claims = format!(r#"{{"sub":"{user}","iat":{now},"exp":{}}}"#, now + 600);
    format!("{}.{signature}", unsigned(header, &claims))
}

fn unsigned(header: &str, claims: &str) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
}
