//! Signatures of requests, as Standard Webhooks defines them: `v1,` and the HMAC-SHA256 of `id.timestamp.body` in
//! base64, one per secret.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::signature::hmac_sha256;

/// The prefix of a secret, as the libraries of Standard Webhooks write it.
const PREFIX: &str = "whsec_";
/// The shortest and the longest secret, in bytes (Standard Webhooks, "Signature scheme").
const MIN_BYTES: usize = 24;
const MAX_BYTES: usize = 64;

/// A secret that signs requests.
#[derive(Clone)]
pub struct SigningKey(Box<[u8]>);

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SigningKey(…)")
    }
}

impl SigningKey {
    /// The secret `whsec_<base64>`.
    ///
    /// # Errors
    /// If it is of another form, as the rest of a sentence. It does not repeat the secret.
    pub fn parse(text: &str) -> Result<Self, String> {
        let form = || format!("must be {PREFIX} and base64 of {MIN_BYTES} to {MAX_BYTES} random bytes");
        let encoded = text.strip_prefix(PREFIX).ok_or_else(form)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| form())?;
        if (MIN_BYTES..=MAX_BYTES).contains(&bytes.len()) { Ok(Self(bytes.into())) } else { Err(form()) }
    }

    fn sign(&self, parts: &[&[u8]]) -> String {
        STANDARD.encode(hmac_sha256(&self.0, parts))
    }
}

/// The value of `webhook-signature`.
pub(super) fn signature(keys: &[SigningKey], id: &str, timestamp: &str, body: &[u8]) -> String {
    let sign = |key: &SigningKey| format!("v1,{}", key.sign(&[id.as_bytes(), b".", timestamp.as_bytes(), b".", body]));
    keys.iter().map(sign).collect::<Vec<_>>().join(" ")
}

/// The present secrets of an endpoint, at least one. They may change while the server runs.
#[derive(Clone)]
pub struct SigningKeys {
    current: Arc<dyn Fn() -> Vec<SigningKey> + Send + Sync>,
    reload: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SigningKeys({} hidden)", self.current().len())
    }
}

impl SigningKeys {
    /// The secrets that `current` returns. `reload` reads them again; it returns false if there is no file to read.
    pub fn new(
        current: impl Fn() -> Vec<SigningKey> + Send + Sync + 'static,
        reload: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { current: Arc::new(current), reload: Arc::new(reload) }
    }

    /// The secrets now.
    #[must_use]
    pub fn current(&self) -> Vec<SigningKey> {
        (self.current)()
    }

    /// Reads them again. False if they did not come from a file.
    #[must_use]
    pub fn reload(&self) -> bool {
        (self.reload)()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification of Standard Webhooks.
    #[test]
    fn the_example_of_the_specification_is_signed_as_there() {
        let key = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signed = signature(&[key.clone(), key], "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body);
        let one = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(signed, format!("{one} {one}"));
    }

    #[test]
    fn secrets_have_a_form_and_a_length() {
        for bad in ["", "sesame", "whsec_", "whsec_!", "whsec_c2VzYW1l", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            let error = SigningKey::parse(bad).unwrap_err();
            assert!(error.contains("24 to 64 random bytes") && !error.contains("sesame"), "{bad}: {error}");
        }
        let with = |bytes: usize| SigningKey::parse(&format!("whsec_{}", STANDARD.encode(vec![7; bytes])));
        assert!(with(23).is_err() && with(24).is_ok() && with(64).is_ok() && with(65).is_err());
    }
}
