//! Signatures with a shared secret: HMAC-SHA256 (RFC 2104), as bytes or as 64 lower-case hexadecimal digits. MD5
//! (RFC 1321) for protocols that sign it in place of a body; by itself it proves nothing.

use std::fmt::Write as _;

use hmac::{Hmac, Mac};
use md5::{Digest, Md5};
use sha2::Sha256;

/// The bytes of a signature, before they become digits.
const BYTES: usize = 32;

/// The signature of a text, whose parts are signed as if they were one text.
#[must_use]
pub fn sign(secret: &[u8], parts: &[&[u8]]) -> String {
    hexadecimal(&hmac_sha256(secret, parts))
}

/// The MD5 of a body, as 32 lower-case hexadecimal digits.
#[must_use]
pub fn md5(body: &[u8]) -> String {
    hexadecimal(&Md5::digest(body))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut digits, byte| {
        // Writing to a string does not fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// The bytes of the signature of a text.
#[must_use]
pub fn hmac_sha256(secret: &[u8], parts: &[&[u8]]) -> [u8; BYTES] {
    mac(secret, parts).finalize().into_bytes().into()
}

/// Whether this is the signature of a text. How long the comparison takes says nothing about the right one.
#[must_use]
pub fn is_signature(signature: &str, secret: &[u8], parts: &[&[u8]]) -> bool {
    decode(signature).is_some_and(|signature| mac(secret, parts).verify_slice(&signature).is_ok())
}

fn mac(secret: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let key = Hmac::<Sha256>::new_from_slice(secret);
    // A key of any length is accepted.
    let mut mac = key.unwrap_or_else(|_| Hmac::new(&Default::default()));
    parts.iter().for_each(|part| mac.update(part));
    mac
}

fn decode(digits: &str) -> Option<[u8; BYTES]> {
    let digits: &[u8; 2 * BYTES] = digits.as_bytes().try_into().ok()?;
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Pusher's documentation and of its library for Node, each computed again with Python's `hmac`.
    const VECTORS: [(&str, &str, &str); 9] = [
        (DOCS, "1234.1234:private-foobar", "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"),
        (
            DOCS,
            "1234.1234::user::{\"id\":\"12345\"}",
            "4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba",
        ),
        (
            DOCS,
            "1234.1234:presence-foobar:{\"user_id\":10,\"user_info\":{\"name\":\"Mr. Channels\"}}",
            "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80",
        ),
        (
            DOCS,
            "1234.1234:presence-foobar:{\"user_id\":10,\"user_info\":{\"name\":\"Mr. Pusher\"}}",
            "afaed3695da2ffd16931f457e338e6c9f2921fa133ce7dac49f529792be6304c",
        ),
        ("tofu", "123.456:test", "efa6cf7644a0b35cba36aa0f776f3cbf7bb60e95ea2696bde1dbe8403b61bd7c"),
        ("tofu", "123.456:test:{\"foo\":\"bar\"}", "f41faf9ead2ea76772cc6b1168363057459f02499ae4d92e88229dc7f4efa2d4"),
        ("tofu", "1.1:test:\"ą§¶™€łü€ß£\"", "2a229263e89d9c50524fd80c2e88be2843379f6931e28995e2cc214282c9db0c"),
        (
            "tofu",
            "123.456::user::{\"id\":\"45678\"}",
            "f4b1fdeea7c93e32648c7230e32b172057c5623cace6cfce791c6e7035e0babd",
        ),
        (
            "tofu",
            "1.1::user::{\"id\":\"ą§¶™€łü€ß£\"}",
            "620494cee53d6c568b49598313194088afda37218f0d059af03c0c898ed61ff4",
        ),
    ];
    const DOCS: &str = "7ad3773142a6692b25b8";

    #[test]
    fn signatures_are_those_of_the_vectors() {
        for (secret, text, signature) in VECTORS {
            let secret = secret.as_bytes();
            let (first, rest) = text.as_bytes().split_at(text.len() / 2);
            assert_eq!(sign(secret, &[text.as_bytes()]), signature, "{text}");
            assert!(is_signature(signature, secret, &[first, rest]), "{text}");
            assert!(!is_signature(signature, secret, &[first, rest, b" "]), "{text}");
            assert!(!is_signature(signature, b"another secret", &[first, rest]), "{text}");
        }
    }

    #[test]
    fn only_64_lower_case_digits_are_a_signature() {
        let (secret, text) = (&b"secret"[..], &[&b"text"[..]][..]);
        let signature = sign(secret, text);
        assert!(is_signature(&signature, secret, text) && sign(b"", text).len() == 64);
        let upper = signature.to_uppercase();
        for wrong in ["", &signature[1..], &upper, &format!("{signature} "), &"é".repeat(32), &"0".repeat(64)] {
            assert!(!is_signature(wrong, secret, text), "{wrong}");
        }
    }
}
