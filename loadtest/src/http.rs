//! Blocking GET requests before and after a measured window. Not a general client: no redirects, no chunked bodies, no
//! keep-alive.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::handshake::{head_end, header_value};
use crate::socket::Socket;
use crate::target::Target;

/// Far more than a working server needs, even with little CPU.
const TIMEOUT: Duration = Duration::from_secs(30);
const MAX_ANSWER_BYTES: u64 = 4 * 1024 * 1024;

/// The JSON document at `path`.
pub(crate) fn get_json(target: &Target, path: &str) -> Result<Value> {
    let body = get_body(target, path)?;
    serde_json::from_slice(&body).with_context(|| format!("GET {path}: the answer is not JSON"))
}

/// The body at `path`. An error unless the status is 200.
pub(crate) fn get_body(target: &Target, path: &str) -> Result<Vec<u8>> {
    let path = format!("{}{path}", target.base_path);
    let answer = get(target, &path).with_context(|| format!("GET {path}"))?;
    body(answer).with_context(|| format!("GET {path}"))
}

/// For a name in a path or a query (RFC 3986 section 2.1).
pub(crate) fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

fn get(target: &Target, path: &str) -> Result<Vec<u8>> {
    let tcp = TcpStream::connect_timeout(&target.address, TIMEOUT)?;
    tcp.set_read_timeout(Some(TIMEOUT))?;
    tcp.set_write_timeout(Some(TIMEOUT))?;
    let mut stream = match target.is_encrypted {
        true => Socket::encrypted(tcp, target.address.ip())?,
        false => Socket::plain(tcp),
    };
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\nConnection: close\r\n{}\r\n",
        target.authority,
        target.credentials.key_line()
    )?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
    Ok(answer)
}

fn body(mut answer: Vec<u8>) -> Result<Vec<u8>> {
    let head_bytes = head_end(&answer).context("the answer has no HTTP head")?;
    let head = String::from_utf8_lossy(&answer[..head_bytes]);
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("{status}");
    }
    let length = header_value(&head, "content-length").and_then(|value| value.parse().ok()).unwrap_or(usize::MAX);
    let mut body = answer.split_off(head_bytes);
    body.truncate(length);
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_ends_after_its_content_length() {
        let read = |answer: &[u8]| body(answer.to_vec());
        assert_eq!(read(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{\"a\":1}rest").unwrap(), br#"{"a":1}"#);
        assert!(read(b"HTTP/1.1 404 Not Found\r\n\r\n{}").unwrap_err().to_string().contains("404"));
        assert!(read(b"nonsense").is_err());
    }

    #[test]
    fn names_are_percent_encoded() {
        assert_eq!(percent_encode("user-000.001"), "user-000.001");
        assert_eq!(percent_encode("a b&ü"), "a%20b%26%C3%BC");
    }
}
