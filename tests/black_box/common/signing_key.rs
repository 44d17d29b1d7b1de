//! A key of an identity provider that publishes it in a key set.

use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::Does;
use super::token::now;

/// An Ed25519 key of an issuer, created with openssl.
pub(crate) struct SigningKey {
    id: &'static str,
    /// The private key, PKCS #8.
    private: Vec<u8>,
    /// The public key, in base64url.
    public: String,
}

impl SigningKey {
    pub(crate) fn new(id: &'static str) -> Self {
        let pem = openssl(&["genpkey", "-algorithm", "ed25519"], b"");
        let public = openssl(&["pkey", "-pubout", "-outform", "DER"], &pem);
        let public = URL_SAFE_NO_PAD.encode(&public[public.len() - 32..]);
        Self { id, private: openssl(&["pkey", "-outform", "DER"], &pem), public }
    }

    /// As it is published.
    pub(crate) fn published(&self) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "x": self.public, "kid": self.id, "use": "sig", "alg": "EdDSA"})
    }

    /// A token of this user for ten minutes.
    pub(crate) fn token(&self, user: &str, further: &Value) -> String {
        self.token_with(Some(self.id), user, further)
    }

    pub(crate) fn token_with(&self, id: Option<&str>, user: &str, further: &Value) -> String {
        let mut claims = json!({"sub": user, "iat": now(), "exp": now() + 600});
        claims.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
        let header = Header { kid: id.map(str::to_owned), ..Header::new(Algorithm::EdDSA) };
        encode(&header, &claims, &EncodingKey::from_ed_der(&self.private)).expect("a token")
    }
}

fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("openssl");
    let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("openssl");
    child.stdin.take().expect("piped").write_all(input).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{arguments:?}");
    output.stdout
}

/// Publishes these keys.
pub(crate) fn key_set(keys: &[&SigningKey]) -> Does {
    let keys: Vec<_> = keys.iter().map(|key| key.published()).collect();
    Does::json(200, &json!({ "keys": keys }))
}
