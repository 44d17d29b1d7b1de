//! Keys that verify signatures. The only file that knows jsonwebtoken.
//!
//! A key determines which algorithms its tokens may use; the header of a token only chooses among them. So a public key
//! never verifies an HMAC, whatever the token says.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
use smallvec::SmallVec;

use super::der;
use crate::config::Secret;

pub use jsonwebtoken::Algorithm;

/// Smaller RSA keys can be factored, and larger ones let a client cause much work.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
/// The start of each P-256 public key in DER: everything before the coordinates (RFC 5480).
const P256_DER: &[u8] =
    b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
/// The same of P-384.
const P384_DER: &[u8] = b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00";
/// The same of Ed25519 (RFC 8410).
const ED25519_DER: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
/// The algorithms of each kind of key.
const HMAC: &[Algorithm] = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const RSA: &[Algorithm] =
    &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];
const P256: &[Algorithm] = &[Algorithm::ES256];
const P384: &[Algorithm] = &[Algorithm::ES384];
const ED25519: &[Algorithm] = &[Algorithm::EdDSA];

/// Keys that may have signed a token. Nearly always one or two.
pub type Keys = SmallVec<[Arc<Key>; 2]>;

/// A set of keys, such as those of the settings, or those that an issuer publishes.
pub trait KeySet: fmt::Debug + Send + Sync {
    /// Finds the keys that may have signed a token.
    fn find<'a>(&'a self, wanted: &Wanted<'_>) -> Found<'a>;
}

/// What a token says about its key. Nothing of it is verified.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The id of the key.
    pub key_id: Option<&'a str>,
    /// The algorithm.
    pub algorithm: Algorithm,
    /// The issuer of the token.
    pub issuer: Option<&'a str>,
}

/// The answer of a [`KeySet`].
pub enum Found<'a> {
    /// The keys that fit, perhaps none.
    Now(Keys),
    /// The set has to be fetched first.
    Later(Pin<Box<dyn Future<Output = Result<Keys, Unavailable>> + 'a>>),
}

/// The keys cannot be had now: whether a token is valid cannot be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailable;

/// A key.
#[derive(Clone)]
pub struct Key {
    /// Its id, if it has one.
    pub id: Option<Arc<str>>,
    /// What its tokens may use.
    algorithms: &'static [Algorithm],
    key: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Key").field("algorithms", &self.algorithms).finish_non_exhaustive()
    }
}

impl Key {
    /// The key of a secret.
    #[must_use]
    pub fn of_secret(secret: &Secret) -> Option<Self> {
        Some(Self::new(HMAC, DecodingKey::from_secret(secret.as_bytes()).ok()?))
    }

    /// The RSA key of a modulus and an exponent in base64url (RFC 7518, 6.3).
    ///
    /// # Errors
    /// If it is not one, or too small or too large.
    pub fn rsa(modulus: &str, exponent: &str) -> Result<Self, String> {
        let wrong = |_| "its modulus or exponent is not base64url".to_owned();
        let modulus = URL_SAFE_NO_PAD.decode(modulus).map_err(wrong)?;
        let exponent = URL_SAFE_NO_PAD.decode(exponent).map_err(wrong)?;
        Self::of_numbers(&modulus, &exponent)
    }

    fn of_numbers(modulus: &[u8], exponent: &[u8]) -> Result<Self, String> {
        let first = modulus.iter().position(|byte| *byte != 0).unwrap_or(modulus.len());
        let modulus = &modulus[first..];
        let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
        if !RSA_BITS.contains(&bits) {
            return Err(format!("RSA keys must have {} to {} bits; it has {bits}", RSA_BITS.start(), RSA_BITS.end()));
        }
        Ok(Self::new(RSA, DecodingKey::from_rsa_raw_components(modulus, exponent)))
    }

    /// The key of an elliptic curve (`P-256`, `P-384`) and its coordinates in base64url (RFC 7518, 6.2).
    ///
    /// # Errors
    /// If it is not one.
    pub fn elliptic(curve: &str, x: &str, y: &str) -> Result<Self, String> {
        let (algorithms, bytes) = match curve {
            "P-256" => (P256, 32),
            "P-384" => (P384, 48),
            _ => return Err("its curve must be P-256 or P-384".to_owned()),
        };
        let decode = |text| URL_SAFE_NO_PAD.decode(text).ok().filter(|coordinate| coordinate.len() == bytes);
        let (Some(x), Some(y)) = (decode(x), decode(y)) else {
            return Err(format!("each of its coordinates must be {bytes} bytes in base64url"));
        };
        Ok(Self::new(algorithms, DecodingKey::from_ec_der(&[&[4], &x[..], &y[..]].concat())))
    }

    /// The Ed25519 key of a public key in base64url (RFC 8037, 2).
    ///
    /// # Errors
    /// If it is not one.
    pub fn ed25519(x: &str) -> Result<Self, String> {
        let key = URL_SAFE_NO_PAD.decode(x).ok().filter(|key| key.len() == 32);
        let key = key.ok_or("an Ed25519 key must be 32 bytes in base64url")?;
        Ok(Self::new(ED25519, DecodingKey::from_ed_der(&key)))
    }

    /// The public keys of a PEM file.
    ///
    /// # Errors
    /// If it has none, or anything else than public keys.
    pub fn from_pem(text: &str) -> Result<Vec<Self>, String> {
        let mut keys = Vec::new();
        let mut rest = text;
        while let Some((_, begun)) = rest.split_once("-----BEGIN ") {
            let (label, begun) = begun.split_once("-----").ok_or("it is not a PEM file")?;
            let end = format!("-----END {label}-----");
            let (body, after) = begun.split_once(&end).ok_or("the end of a key is missing")?;
            keys.push(Self::of_block(label, body)?);
            rest = after;
        }
        if keys.is_empty() {
            return Err("it has no public key: a PEM file begins with -----BEGIN PUBLIC KEY-----".to_owned());
        }
        Ok(keys)
    }

    fn of_block(label: &str, body: &str) -> Result<Self, String> {
        match label {
            "PUBLIC KEY" | "RSA PUBLIC KEY" => {}
            "CERTIFICATE" => {
                let how = "openssl x509 -pubkey -noout -in FILE";
                return Err(format!("it is a certificate; give its public key: {how}"));
            }
            _ if label.ends_with("PRIVATE KEY") => {
                let how = "openssl pkey -pubout -in FILE";
                return Err(format!(
                    "it is a private key, which belongs to the application only; give its public key: {how}"
                ));
            }
            _ => return Err("it is not a public key".to_owned()),
        }
        let encoded: String = body.split_whitespace().collect();
        let der = STANDARD.decode(encoded).map_err(|_| "a key is not base64".to_owned())?;
        let point = |head: &[u8], bytes: usize| der.strip_prefix(head).filter(|key| key.len() == bytes);
        let is_uncompressed = |key: &&[u8]| key[0] == 4;
        if let Some(key) = point(P256_DER, 65).filter(is_uncompressed) {
            return Ok(Self::new(P256, DecodingKey::from_ec_der(key)));
        }
        if let Some(key) = point(P384_DER, 97).filter(is_uncompressed) {
            return Ok(Self::new(P384, DecodingKey::from_ec_der(key)));
        }
        if let Some(key) = point(ED25519_DER, 32) {
            return Ok(Self::new(ED25519, DecodingKey::from_ed_der(key)));
        }
        let key = if label == "PUBLIC KEY" { der::rsa_key(&der) } else { Some(&der[..]) };
        let key = key.ok_or("it must be an RSA, P-256, P-384 or Ed25519 key")?;
        let (modulus, exponent) = der::two_integers(key).ok_or("it is not a valid RSA key")?;
        Self::of_numbers(modulus, exponent)
    }

    fn new(algorithms: &'static [Algorithm], key: DecodingKey) -> Self {
        Self { id: None, algorithms, key }
    }

    /// The same key with an id.
    #[must_use]
    pub fn with_id(self, id: &str) -> Self {
        Self { id: Some(id.into()), ..self }
    }

    /// The same key for one algorithm only.
    ///
    /// # Errors
    /// If the key does not have the algorithm.
    pub fn only_for(self, algorithm: &str) -> Result<Self, String> {
        let wanted = algorithm.parse().ok();
        let place = self.algorithms.iter().position(|known| Some(*known) == wanted);
        let place = place.ok_or("it is for another algorithm")?;
        Ok(Self { algorithms: &self.algorithms[place..=place], ..self })
    }

    /// What its tokens may use.
    #[must_use]
    pub fn algorithms(&self) -> &'static [Algorithm] {
        self.algorithms
    }

    /// Whether a token of this algorithm may be verified with it.
    #[must_use]
    pub fn allows(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Whether it is a secret, with which a check takes a few microseconds.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        self.algorithms.iter().all(|algorithm| HMAC.contains(algorithm))
    }

    /// Whether the signature, in base64url, is that of the message.
    pub(super) fn verify(&self, algorithm: Algorithm, message: &str, signature: &str) -> bool {
        self.allows(algorithm)
            && matches!(jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.key, algorithm), Ok(true))
    }
}

#[cfg(test)]
pub(super) mod testing {
    use jsonwebtoken::EncodingKey;

    use super::*;

    /// The key of these bytes.
    pub(in super::super) fn hmac(secret: &[u8]) -> Key {
        Key::new(HMAC, DecodingKey::from_secret(secret).unwrap())
    }

    /// An HMAC of the message, in base64url.
    pub(in super::super) fn sign(message: &str, secret: &[u8], algorithm: Algorithm) -> String {
        jsonwebtoken::crypto::sign(message.as_bytes(), &EncodingKey::from_secret(secret).unwrap(), algorithm).unwrap()
    }
}
