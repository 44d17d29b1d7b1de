//! The parts of the opening handshake that are not HTTP (RFC 6455, section 4.2.2).

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, PAD};
use sha1::{Digest, Sha1};

/// Appended to the client's key before hashing (RFC 6455, section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Accepts any value of the bits that the last character of a key has in excess: RFC 6455 has such a key as an example
/// (section 4.1), and clients send them.
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, PAD.with_decode_allow_trailing_bits(true));
/// The WebSocket version, for `Sec-WebSocket-Version`.
pub const VERSION: &str = "13";

/// The value of `Sec-WebSocket-Accept` for a client's `Sec-WebSocket-Key`; `None` unless the key is 16 bytes in base64.
#[must_use]
pub fn accept_key(key: &[u8]) -> Option<String> {
    let key = key.trim_ascii();
    let is_valid = BASE64.decode(key).is_ok_and(|nonce| nonce.len() == 16);
    is_valid.then(|| BASE64.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_the_rfc_are_accepted_and_keys_of_other_lengths_are_not() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ==").as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        // Section 4.1, with excess bits.
        assert_eq!(accept_key(b"AQIDBAUGBwgJCgsMDQ4PEC==").as_deref(), Some("OfS0wDaT5NoxF2gqm7Zj2YtetzM="));
        for key in ["short", "", "AQIDBAUGBwgJCgsMDQ4PEC", "AQIDBAUGBwgJCgsMDQ4P", "AQIDBAUGBwgJCgsMDQ4PEBE="] {
            assert_eq!(accept_key(key.as_bytes()), None, "{key}");
        }
    }
}
