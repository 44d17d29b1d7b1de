//! One blocking GET for JSON at a time, before and after a measured window. Not a general client: no
//! redirects, no chunked bodies, no keep-alive.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::handshake::{head_end, header_value};
use crate::target::Target;

const TIMEOUT: Duration = Duration::from_secs(2);
const MAX_ANSWER_BYTES: u64 = 4 * 1024 * 1024;

/// The JSON at `path`; an error if there is none, whatever the reason.
pub(crate) fn get_json(target: &Target, path: &str) -> Result<Value> {
    let path = format!("{}{path}", target.base_path);
    let answer = get(target, &path).with_context(|| format!("GET {path}"))?;
    parse(&answer).with_context(|| format!("GET {path}"))
}

fn get(target: &Target, path: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&target.address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\nConnection: close\r\n\r\n",
        target.authority
    )?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
    Ok(answer)
}

fn parse(answer: &[u8]) -> Result<Value> {
    let head_bytes = head_end(answer).context("the answer has no HTTP head")?;
    let head = String::from_utf8_lossy(&answer[..head_bytes]);
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("{status}");
    }
    let body = &answer[head_bytes..];
    let length = header_value(&head, "content-length").and_then(|value| value.parse().ok()).unwrap_or(body.len());
    serde_json::from_slice(&body[..length.min(body.len())]).context("the answer is not JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let value = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{\"a\":1}rest").unwrap();
        assert_eq!(value["a"], 1);
        assert!(parse(b"HTTP/1.1 404 Not Found\r\n\r\n{}").unwrap_err().to_string().contains("404"));
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n<html>").is_err());
        assert!(parse(b"nonsense").is_err());
    }
}
