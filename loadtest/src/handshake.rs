//! The opening handshake (RFC 6455 section 4), both sides: the client's request and its check of the answer, and the
//! accept key that the floor computes.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::credentials::Credentials;

/// RFC 6455 section 1.3.
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The limit of the answer's header.
const MAX_ANSWER_BYTES: usize = 16 * 1024;
/// How much of the body of an error answer is shown.
const MAX_SHOWN_BYTES: usize = 200;

/// All connections of a run send the same key, so its accept value is computed once. The key is not a secret; it only
/// proves that the server speaks WebSocket.
#[derive(Debug)]
pub(crate) struct Handshake {
    key: String,
    accept: String,
    authority: String,
    credentials: Credentials,
}

/// The server's answer so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The header is incomplete.
    Incomplete,
    /// 101 with the right accept key. Frames start at this byte.
    Switched(usize),
    /// Anything else, as a sentence.
    Refused(String),
}

impl Handshake {
    pub(crate) fn new(authority: &str, credentials: Credentials, seed: u64) -> Self {
        let mut key_bytes = [0; 16];
        fastrand::Rng::with_seed(seed).fill(&mut key_bytes);
        let key = STANDARD.encode(key_bytes);
        let accept = accept_key(&key);
        Self { key, accept, authority: authority.to_owned(), credentials }
    }

    pub(crate) fn request(&self, path: &str) -> Vec<u8> {
        format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {}\r\nSec-WebSocket-Version: 13\r\n{}\r\n",
            self.authority,
            self.key,
            self.credentials.token_line(path)
        )
        .into_bytes()
    }

    /// Checks what the server has sent since the request.
    pub(crate) fn check(&self, bytes: &[u8]) -> Answer {
        let Some(head_bytes) = head_end(bytes) else {
            if bytes.len() > MAX_ANSWER_BYTES {
                return Answer::Refused("it answered with more than 16 KiB that are not an HTTP header".to_owned());
            }
            return Answer::Incomplete;
        };
        let head = String::from_utf8_lossy(&bytes[..head_bytes]);
        let status = head.lines().next().unwrap_or_default();
        if status.split(' ').nth(1) != Some("101") {
            return Answer::Refused(refusal(status, &bytes[head_bytes..]));
        }
        match header_value(&head, "sec-websocket-accept") {
            Some(accept) if accept == self.accept => Answer::Switched(head_bytes),
            _ => Answer::Refused("it answered 101 with a wrong or missing Sec-WebSocket-Accept".to_owned()),
        }
    }
}

/// The value of `Sec-WebSocket-Accept` for a request's key.
pub(crate) fn accept_key(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(ACCEPT_SUFFIX).finalize())
}

/// The length of an HTTP header with its empty line.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|position| position + 4)
}

/// The value of the header field `name`.
pub(crate) fn header_value<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(found, _)| found.trim().eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

fn refusal(status: &str, body: &[u8]) -> String {
    let mut message = format!("it answered {:?}", status.trim());
    let shown = String::from_utf8_lossy(&body[..body.len().min(MAX_SHOWN_BYTES)]);
    if !shown.trim().is_empty() {
        let _ = write!(message, ": {}", shown.trim());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_key_of_the_rfc_is_computed() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn an_accepted_handshake_says_where_frames_start() {
        let handshake = Handshake::new("localhost", Credentials::default(), 1);
        let head = format!("HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept:  {}\r\n\r\n", handshake.accept);
        let with_frame = format!("{head}\u{1}");
        assert_eq!(handshake.check(with_frame.as_bytes()), Answer::Switched(head.len()));
        assert_eq!(handshake.check(&head.as_bytes()[..head.len() - 1]), Answer::Incomplete);
    }

    #[test]
    fn other_answers_are_refused_with_the_reason() {
        let handshake = Handshake::new("localhost", Credentials::default(), 1);
        let refused = |bytes: &[u8]| match handshake.check(bytes) {
            Answer::Refused(message) => message,
            other => panic!("not refused: {other:?}"),
        };
        assert!(refused(b"HTTP/1.1 404 Not Found\r\n\r\nno such page").contains("404 Not Found\": no such page"));
        assert!(refused(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").contains("Sec-WebSocket-Accept"));
        assert!(refused(&[b'x'; MAX_ANSWER_BYTES + 1]).contains("16 KiB"));
    }
}
