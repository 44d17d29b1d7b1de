//! Signatures with a shared secret: HMAC-SHA256, as bytes or in hexadecimal digits, and the MD5 of a body. The server
//! has implementations of its own, so that neither checks itself.

use std::fmt::Write as _;

use aws_lc_rs::hmac;
use md5::{Digest, Md5};

/// The signature of a text in hexadecimal digits.
pub fn hex(secret: &str, text: &str) -> String {
    digits(bytes(secret, text).as_ref())
}

/// The MD5 of a body in hexadecimal digits.
pub fn md5(body: &[u8]) -> String {
    digits(&Md5::digest(body))
}

/// The signature of a text.
pub(crate) fn bytes(secret: &str, text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), text.as_bytes())
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}
