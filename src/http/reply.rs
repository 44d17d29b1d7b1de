//! Answers: status, JSON, and the one form of every error.

use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};

use crate::json::put_string;
use crate::memory_budget::{COUNTED_BYTES, MemoryBudget};

/// An answer that is not sent yet. Refusals have the same form: handlers return them as errors.
#[derive(Debug)]
pub(super) struct Reply {
    head: Box<Response<()>>,
    body: Bytes,
    /// Many answers hold the same body, which is memory only once.
    shared: bool,
}

impl Reply {
    /// 200 with JSON that `write` appends.
    pub(super) fn json(write: impl FnOnce(&mut BytesMut)) -> Self {
        Self::with_json(StatusCode::OK, write)
    }

    /// 200 with JSON that others get too.
    pub(super) fn shared(body: Bytes) -> Self {
        let reply = Self::new(StatusCode::OK, "application/json", body).and(header::CACHE_CONTROL, "no-store");
        Self { shared: true, ..reply }
    }

    /// A file of a page.
    pub(super) fn file(media_type: &'static str, body: &'static [u8]) -> Self {
        let reply = Self::new(StatusCode::OK, media_type, Bytes::from_static(body));
        Self { shared: true, ..reply.and(header::CACHE_CONTROL, "no-cache") }
    }

    /// 200 with text made for this request.
    pub(super) fn text(media_type: &'static str, body: String) -> Self {
        Self::new(StatusCode::OK, media_type, body.into()).and(header::CACHE_CONTROL, "no-store")
    }

    /// 101 or any other status without a body.
    pub(super) fn empty(status: StatusCode) -> Self {
        let mut head = Response::new(());
        *head.status_mut() = status;
        Self { head: Box::new(head), body: Bytes::new(), shared: true }
    }

    /// An error: `{"error":{"code":…,"message":…}}`.
    pub(super) fn error(status: StatusCode, code: &str, message: &str) -> Self {
        Self::with_json(status, |buffer| {
            buffer.extend_from_slice(br#"{"error":{"code":"#);
            put_string(buffer, code);
            buffer.extend_from_slice(br#","message":"#);
            put_string(buffer, message);
            buffer.extend_from_slice(b"}}");
        })
    }

    /// An error with a status that is not hyper's; 500 if it is not a status.
    pub(super) fn refusal(status: u16, code: &str, message: &str) -> Self {
        Self::error(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), code, message)
    }

    /// 400: something about the request is wrong; the message says what would be right.
    pub(super) fn bad_request(message: &str) -> Self {
        Self::error(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// 503: too much waits for clients that do not read.
    pub(super) fn busy() -> Self {
        let message = "too many answers wait to be read, try again later";
        Self::error(StatusCode::SERVICE_UNAVAILABLE, "busy", message).and(header::RETRY_AFTER, "5")
    }

    /// 404.
    pub(super) fn not_found(path: &str) -> Self {
        let short: String = path.chars().take(100).collect();
        Self::error(StatusCode::NOT_FOUND, "not_found", &format!("there is nothing at {short}"))
    }

    /// 405 with what is allowed.
    pub(super) fn method_not_allowed(allowed: &[Method]) -> Self {
        let allowed: Vec<&str> = allowed.iter().map(Method::as_str).collect();
        let allowed = allowed.join(", ");
        let reply = Self::error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &format!("use {allowed}"));
        reply.and(header::ALLOW, &allowed)
    }

    /// Adds a number to a JSON object.
    pub(super) fn and_number(mut self, name: &str, number: u64) -> Self {
        if let Some(object) = self.body.strip_suffix(b"}") {
            let field = format!(",\"{name}\":{number}}}");
            (self.body, self.shared) = ([object, field.as_bytes()].concat().into(), false);
        }
        self
    }

    /// Adds a header. A value that cannot be one is left out: all of them are ours.
    pub(super) fn and(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.head.headers_mut().insert(name, value);
        }
        self
    }

    /// Counts a long body of its own against what may wait for slow clients, until it has been written or given up; 503 when that
    /// is too much.
    pub(super) fn account(self, waiting: &MemoryBudget) -> Self {
        if self.shared || self.body.len() < COUNTED_BYTES {
            return self;
        }
        if waiting.is_full(self.body.len()) {
            return Self::busy();
        }
        Self { body: waiting.count(self.body), ..self }
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let body = self.body;
        self.head.map(|()| Full::new(body))
    }

    /// The answer to HEAD: what GET would publish, without its body.
    pub(super) fn without_body(self) -> Response<Full<Bytes>> {
        let length = self.body.len().to_string();
        let reply = self.and(header::CONTENT_LENGTH, &length);
        reply.head.map(|()| Full::default())
    }

    fn with_json(status: StatusCode, write: impl FnOnce(&mut BytesMut)) -> Self {
        let mut body = BytesMut::with_capacity(256);
        write(&mut body);
        Self::new(status, "application/json", body.freeze()).and(header::CACHE_CONTROL, "no-store")
    }

    fn new(status: StatusCode, media_type: &'static str, body: Bytes) -> Self {
        let reply = Self { body, shared: false, ..Self::empty(status) };
        reply.and(header::CONTENT_TYPE, media_type).and(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_BYTES: usize = 100 * COUNTED_BYTES;

    #[test]
    fn long_answers_are_counted_until_they_are_dropped_and_refused_beyond_the_limit() {
        let waiting = MemoryBudget::new(MAX_BYTES);
        let long = || Reply::json(|body| body.resize(MAX_BYTES / 2 + 1, b'x')).account(&waiting);
        let first = long().into_response();
        assert!(waiting.is_full(MAX_BYTES / 2));
        assert_eq!(long().into_response().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            Reply::json(|body| body.resize(10, b'x')).account(&waiting).into_response().status(),
            StatusCode::OK
        );
        drop(first);
        assert_eq!(long().into_response().status(), StatusCode::OK);
    }
}
