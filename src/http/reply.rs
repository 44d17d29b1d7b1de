//! Responses: status, headers and body. All errors have the same form.

use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};

use crate::json::put_string;
use crate::memory_budget::{COUNTED_BYTES, MAX_UNREAD_BYTES, MemoryBudget};

/// The limit of characters of an unknown path that a message repeats.
const MAX_SHOWN_CHARS: usize = 100;

/// A response that is not sent yet. Handlers return refusals as errors of this type.
#[derive(Debug)]
pub(super) struct Reply {
    head: Box<Response<()>>,
    body: Bytes,
    /// Many responses share the body, so it takes memory only once.
    shared: bool,
}

impl Reply {
    /// 200 with JSON that `write` appends.
    pub(super) fn json(write: impl FnOnce(&mut BytesMut)) -> Self {
        Self::with_json(StatusCode::OK, write)
    }

    /// 200 with JSON that several responses share.
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

    /// An error with a status as a number; 500 if the number is not a status.
    pub(super) fn refusal(status: u16, code: &str, message: &str) -> Self {
        Self::error(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), code, message)
    }

    /// 400: the request is invalid. The message says what is expected.
    pub(super) fn bad_request(message: &str) -> Self {
        Self::error(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// 503: clients do not read their responses.
    pub(super) fn busy() -> Self {
        const MAX_MIB: usize = MAX_UNREAD_BYTES / (1024 * 1024);
        Self::retry_later(&format!("answers that clients do not read fill the limit of {MAX_MIB} MiB; try again later"))
    }

    /// 503: the cause passes by itself.
    pub(super) fn retry_later(message: &str) -> Self {
        Self::error(StatusCode::SERVICE_UNAVAILABLE, "busy", message).and(header::RETRY_AFTER, "5")
    }

    /// 404.
    pub(super) fn not_found(path: &str) -> Self {
        let short: String = path.chars().take(MAX_SHOWN_CHARS).collect();
        Self::error(StatusCode::NOT_FOUND, "not_found", &format!("there is nothing at {short}; check the path"))
    }

    /// 405 with the methods that the path allows.
    pub(super) fn method_not_allowed(allowed: &[Method]) -> Self {
        let allowed: Vec<&str> = allowed.iter().map(Method::as_str).collect();
        let message = format!("this path does not allow the method; use {}", allowed.join(" or "));
        let reply = Self::error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &message);
        reply.and(header::ALLOW, &allowed.join(", "))
    }

    /// Adds a number to a JSON object.
    pub(super) fn and_number(mut self, name: &str, number: u64) -> Self {
        if let Some(object) = self.body.strip_suffix(b"}") {
            let field = format!(",\"{name}\":{number}}}");
            (self.body, self.shared) = ([object, field.as_bytes()].concat().into(), false);
        }
        self
    }

    /// Adds a header. An invalid value is ignored: values never come from clients.
    pub(super) fn and(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.head.headers_mut().insert(name, value);
        }
        self
    }

    /// Counts a long body that is not shared against the budget of unread responses, until it is written or dropped.
    /// 503 if it exceeds the budget.
    pub(super) fn account(self, unread: &MemoryBudget) -> Self {
        if self.shared || self.body.len() < COUNTED_BYTES {
            return self;
        }
        if unread.is_full(self.body.len()) {
            return Self::busy();
        }
        Self { body: unread.count(self.body), ..self }
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let body = self.body;
        self.head.map(|()| Full::new(body))
    }

    /// The response to HEAD: the one to GET without its body.
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

/// A number for people, in groups of three digits: `1,000`.
pub(super) fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_in_groups_of_three_digits() {
        let check = |number, want| assert_eq!(thousands(number), want);
        check(0, "0");
        check(999, "999");
        check(1000, "1,000");
        check(1_234_567, "1,234,567");
    }

    const MAX_BYTES: usize = 100 * COUNTED_BYTES;

    #[test]
    fn long_answers_count_until_they_are_dropped_and_are_refused_beyond_the_limit() {
        let unread = MemoryBudget::new(MAX_BYTES);
        let long = || Reply::json(|body| body.resize(MAX_BYTES / 2 + 1, b'x')).account(&unread);
        let first = long().into_response();
        assert!(unread.is_full(MAX_BYTES / 2));
        assert_eq!(long().into_response().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(Reply::json(|body| body.resize(10, b'x')).account(&unread).into_response().status(), StatusCode::OK);
        drop(first);
        assert_eq!(long().into_response().status(), StatusCode::OK);
    }
}
