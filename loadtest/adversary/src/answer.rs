//! HTTP/1.1 answers as they arrive: where one ends. The body is only counted.

/// A complete answer at the start of the received bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Complete {
    pub(crate) status: u16,
    /// Head and body.
    pub(crate) bytes: usize,
}

/// The length of a head with its empty line.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|position| position + 4)
}

/// The status of a head; 0 if there is none.
pub(crate) fn status(head: &[u8]) -> u16 {
    let digits = head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// The first answer, if it is complete. `None` also for an answer without a length, which ends with the connection.
pub(crate) fn complete(bytes: &[u8]) -> Option<Complete> {
    let head_bytes = head_end(bytes)?;
    let head = std::str::from_utf8(&bytes[..head_bytes]).ok()?;
    let field = |name: &str| {
        let found =
            head.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    };
    let status = status(bytes);
    if status < 200 || status == 204 || status == 304 {
        return Some(Complete { status, bytes: head_bytes });
    }
    if field("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        return Some(Complete { status, bytes: head_bytes + chunks_end(&bytes[head_bytes..])? });
    }
    let length: usize = field("content-length")?.parse().ok()?;
    (bytes.len() >= head_bytes + length).then_some(Complete { status, bytes: head_bytes + length })
}

/// The length of a chunked body (RFC 9112 section 7.1), without trailers.
fn chunks_end(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = body[at..].windows(2).position(|window| window == b"\r\n")?;
        let digits = std::str::from_utf8(&body[at..at + line]).ok()?;
        let length = usize::from_str_radix(digits.split(';').next()?.trim(), 16).ok()?;
        at += line + 2 + length + 2;
        if at > body.len() {
            return None;
        }
        if length == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: Option<(u16, usize)>) {
        let found = complete(bytes).map(|found| (found.status, found.bytes));
        assert_eq!(found, expected, "{}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn an_answer_ends_with_its_length_or_its_last_chunk() {
        check(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}rest", Some((200, 40)));
        check(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", None);
        check(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", Some((503, 40)));
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
        check(chunked, Some((200, chunked.len())));
        check(&chunked[..chunked.len() - 1], None);
        check(b"HTTP/1.1 304 Not Modified\r\n\r\n", Some((304, 29)));
        check(b"HTTP/1.1 200 OK\r\n", None);
    }
}
