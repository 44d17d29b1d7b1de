//! Answers: status, JSON, and the one form of every error.

use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};

use crate::dialect::json::put_string;

/// An answer that is not sent yet. Refusals have the same form: handlers return them as errors.
#[derive(Debug)]
pub(super) struct Reply(Box<Response<Full<Bytes>>>);

impl Reply {
    /// 200 with JSON that `write` appends.
    pub(super) fn json(write: impl FnOnce(&mut BytesMut)) -> Self {
        Self::with_json(StatusCode::OK, write)
    }

    /// A file of a page.
    pub(super) fn file(media_type: &'static str, body: &'static [u8]) -> Self {
        Self::new(StatusCode::OK, media_type, Bytes::from_static(body)).and(header::CACHE_CONTROL, "no-cache")
    }

    /// 101 or any other status without a body.
    pub(super) fn empty(status: StatusCode) -> Self {
        let mut response = Response::new(Full::default());
        *response.status_mut() = status;
        Self(Box::new(response))
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

    /// 400: something about the request is wrong; the message says what would be right.
    pub(super) fn bad_request(message: &str) -> Self {
        Self::error(StatusCode::BAD_REQUEST, "bad_request", message)
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

    /// Adds a header. A value that cannot be one is left out: all of them are ours.
    pub(super) fn and(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.headers_mut().insert(name, value);
        }
        self
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        *self.0
    }

    /// The answer to HEAD: what GET would say, without its body.
    pub(super) fn without_body(self) -> Response<Full<Bytes>> {
        use hyper::body::Body;
        let length = self.0.body().size_hint().exact().unwrap_or(0);
        let reply = self.and(header::CONTENT_LENGTH, &length.to_string());
        reply.0.map(|_| Full::default())
    }

    fn with_json(status: StatusCode, write: impl FnOnce(&mut BytesMut)) -> Self {
        let mut body = BytesMut::with_capacity(256);
        write(&mut body);
        Self::new(status, "application/json", body.freeze()).and(header::CACHE_CONTROL, "no-store")
    }

    fn new(status: StatusCode, media_type: &'static str, body: Bytes) -> Self {
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        Self(Box::new(response)).and(header::CONTENT_TYPE, media_type).and(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
    }
}
