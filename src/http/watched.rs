//! The stream that hyper works with: it notes what the connection is doing, and gives hyper's own error responses,
//! which have no body, the body that all errors have.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use hyper::StatusCode;
use hyper::rt::{Read, ReadBufCursor, Write};

use super::activity::Activity;
use super::answers::Answers;
use super::corked::CorkedStream;
use super::errors::ErrorCode;
use super::reply::put_error;
use super::{MAX_HEAD_BYTES, MAX_HEADERS};
use crate::worker::http_side::Port;

/// A response of hyper begins so if it refuses a request, and so does that of a handler that refuses.
const REFUSAL: &[u8] = b"HTTP/1.1 4";
/// Responses of handlers have no such line if they refuse.
const NO_BODY: &[u8] = b"\r\ncontent-length: 0\r\n";

pub(super) struct WatchedStream {
    stream: CorkedStream,
    activity: Rc<Activity>,
    /// What a client may have got wrong if it does not send HTTP.
    hint: &'static str,
    /// Counts hyper's errors.
    answers: Arc<Answers>,
    /// The rest of a response that replaces hyper's.
    replacement: Bytes,
}

impl WatchedStream {
    pub(super) fn new(
        stream: CorkedStream,
        (activity, answers): (Rc<Activity>, Arc<Answers>),
        hint: &'static str,
    ) -> Self {
        Self { stream, activity, hint, answers, replacement: Bytes::new() }
    }

    pub(super) fn into_inner(self) -> CorkedStream {
        self.stream
    }

    fn note(&self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.activity.sent();
        }
    }

    /// Writes the rest of the replacement.
    fn poll_replacement(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.replacement.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.replacement))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.replacement.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

/// What a client may have got wrong whose bytes are not HTTP.
pub(super) fn tls_hint(is_encrypted: bool, port: Port) -> &'static str {
    match (is_encrypted, port) {
        (true, _) => "",
        (false, Port::NeedsTls) => " (this port requires TLS)",
        (false, Port::Public | Port::Internal) => " (this port has no TLS)",
    }
}

/// The response that replaces one of hyper's own, and the code of its error; `None` if a handler made it.
fn replacement(response: &[u8], hint: &str) -> Option<(&'static str, Bytes)> {
    let is_bare = response.starts_with(REFUSAL) && response.windows(NO_BODY.len()).any(|part| part == NO_BODY);
    let status = response.get(REFUSAL.len() - 1..REFUSAL.len() + 2).filter(|_| is_bare)?;
    let status = StatusCode::from_bytes(status).ok()?;
    let too_large = format!(
        "the request line and headers are too large; the limits are {} KiB and {MAX_HEADERS} headers",
        MAX_HEAD_BYTES / 1024
    );
    let (code, message) = match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE | StatusCode::URI_TOO_LONG => ("too_large", &*too_large),
        _ => ("bad_request", &*format!("this is not valid HTTP/1.1; check the request line and headers{hint}")),
    };
    let mut body = BytesMut::new();
    put_error(&mut body, code, message);
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nx-content-type-options: nosniff\r\n\
         cache-control: no-store\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    Some((code, [head.as_bytes(), &body].concat().into()))
}

impl Read for WatchedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if matches!(read, Poll::Ready(Ok(()))) {
            self.activity.received();
        }
        read
    }
}

impl Write for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some((code, replacement)) = replacement(bytes, self.hint) {
            self.answers.errors.count_code(ErrorCode::new(code));
            self.replacement = replacement;
            // What the socket does not accept now is written by the flush that follows.
            return match self.poll_replacement(context) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(bytes.len())),
            };
        }
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [slice] = slices {
            return self.poll_write(context, slice);
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_replacement(context))?;
        // hyper flushes when it has written all that it has.
        self.activity.flushed();
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_replacement(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_responses_of_hyper_are_replaced() {
        let check = |response: &str, want: Option<&str>| {
            let got = replacement(response.as_bytes(), "");
            let got = got.map(|(_, bytes)| String::from_utf8(bytes.to_vec()).unwrap());
            assert_eq!(got.as_deref().map(|got| got.split("\r\n").next().unwrap()), want, "{response:?}");
            assert!(got.is_none_or(|got| got.ends_with("}}") && !got.contains("content-length: 0")));
        };
        let bare =
            |status: &str| format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n");
        check(&bare("400 Bad Request"), Some("HTTP/1.1 400 Bad Request"));
        check(&bare("431 x"), Some("HTTP/1.1 431 Request Header Fields Too Large"));
        check(&bare("200 OK"), None);
        check("HTTP/1.1 404 Not Found\r\ncontent-length: 10\r\n\r\n{\"a\":true}", None);
        check("HTTP/1.1 4", None);
        check("", None);
    }
}
