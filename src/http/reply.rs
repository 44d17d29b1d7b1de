//! Responses: status, headers and body. All errors have the same form.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};
use simd_json::prelude::ValueIntoString;

use super::client::Client;
use super::errors::ErrorCode;
use super::unread::{SharedBody, UnreadAnswers};
use crate::json::{Reader, field, put_string};
use crate::peer::PeerAddress;

/// The limit of characters of an unknown path that a message repeats.
const MAX_SHOWN_CHARS: usize = 100;
/// The limits of messages are per tick, and `Retry-After` has no shorter time.
const NEXT_TICK_S: u64 = 1;

/// A response that is not sent yet. Handlers return refusals as errors of this type.
#[derive(Debug)]
pub(super) struct Reply {
    head: Box<Response<()>>,
    body: Body,
}

#[derive(Debug)]
enum Body {
    /// Made for this response.
    Own(Bytes),
    /// A file of the program, which takes no memory.
    File(&'static [u8]),
    /// A list that many responses share, so that it takes memory only once.
    Shared(Arc<SharedBody>),
}

impl Body {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::File(bytes) => bytes,
            Self::Shared(shared) => shared.bytes(),
        }
    }
}

impl Reply {
    /// 200 with JSON that `write` appends.
    pub(super) fn json(write: impl FnOnce(&mut BytesMut)) -> Self {
        Self::with_json(StatusCode::OK, write)
    }

    /// The length of its body.
    pub(super) fn body_bytes(&self) -> usize {
        self.body.bytes().len()
    }

    /// 200 with JSON that several responses share.
    pub(super) fn shared(body: Arc<SharedBody>) -> Self {
        let reply = Self::new(StatusCode::OK, "application/json", Body::Shared(body));
        reply.and(header::CACHE_CONTROL, "no-store")
    }

    /// A file of a page.
    pub(super) fn file(media_type: &'static str, body: &'static [u8]) -> Self {
        Self::new(StatusCode::OK, media_type, Body::File(body)).and(header::CACHE_CONTROL, "no-cache")
    }

    /// 200 with text made for this request.
    pub(super) fn text(media_type: &'static str, body: String) -> Self {
        Self::new(StatusCode::OK, media_type, Body::Own(body.into())).and(header::CACHE_CONTROL, "no-store")
    }

    /// 101 or any other status without a body.
    pub(super) fn empty(status: StatusCode) -> Self {
        let mut head = Response::new(());
        *head.status_mut() = status;
        Self { head: Box::new(head), body: Body::File(&[]) }
    }

    /// An error: `{"error":{"code":…,"message":…}}`.
    pub(super) fn error(status: StatusCode, code: &'static str, message: &str) -> Self {
        Self::with_json(status, |buffer| put_error(buffer, code, message)).with_code(code)
    }

    /// The same as an error with this code, which the metrics count.
    pub(super) fn with_code(mut self, code: &'static str) -> Self {
        self.head.extensions_mut().insert(ErrorCode::new(code));
        self
    }

    /// An error with a status as a number; 500 if the number is not a status.
    pub(super) fn refusal(status: u16, code: &'static str, message: &str) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let reply = Self::error(status, code, message);
        match status {
            // A 401 names the scheme that would have been accepted (RFC 9110, 15.5.2).
            StatusCode::UNAUTHORIZED => reply.and(header::WWW_AUTHENTICATE, "Bearer"),
            _ => reply,
        }
    }

    /// 400: the request is invalid. The message says what is expected.
    pub(super) fn bad_request(message: &str) -> Self {
        Self::error(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// 503: the response is too long, even if all unread ones were dropped.
    pub(super) fn busy() -> Self {
        Self::retry_later("the answer is longer than the limit of unread answers; try again later")
    }

    /// 429: the client has to wait that many seconds.
    pub(super) fn too_many(code: &'static str, message: &str, seconds: u64) -> Self {
        Self::error(StatusCode::TOO_MANY_REQUESTS, code, message).and(header::RETRY_AFTER, &seconds.to_string())
    }

    /// 429: the application publishes too much in this tick.
    pub(super) fn too_many_messages(message: &str) -> Self {
        Self::too_many("too_many_messages", message, NEXT_TICK_S)
    }

    /// 503: the cause passes by itself.
    pub(super) fn retry_later(message: &str) -> Self {
        Self::error(StatusCode::SERVICE_UNAVAILABLE, "busy", message).and(header::RETRY_AFTER, "5")
    }

    /// 404.
    pub(super) fn not_found(path: &str) -> Self {
        let short: String = path.chars().take(MAX_SHOWN_CHARS).collect();
        let hint = match path {
            "/" => "this server has no pages (--pages)",
            _ if path.ends_with('/') => "try it without the slash at its end",
            _ => "check the path",
        };
        Self::error(StatusCode::NOT_FOUND, "not_found", &format!("there is nothing at {short}; {hint}"))
    }

    /// 405 with the methods that the path allows.
    pub(super) fn method_not_allowed(allowed: &[Method]) -> Self {
        let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
        let message = format!("this path does not allow the method; use {}", names.join(" or "));
        let reply = Self::error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &message);
        reply.and(header::ALLOW, &allow(allowed))
    }

    /// The answer to OPTIONS: 204 with the methods that the path allows.
    pub(super) fn options(allowed: &[Method]) -> Self {
        Self::empty(StatusCode::NO_CONTENT).and(header::ALLOW, &allow(allowed))
    }

    /// 308: the same request at another address, relative to the path of this one.
    pub(super) fn moved(to: &str) -> Self {
        let message = "the path has a slash too many at its end";
        // Not an error: clients follow it.
        let reply = Self::with_json(StatusCode::PERMANENT_REDIRECT, |buffer| put_error(buffer, "moved", message));
        reply.and(header::LOCATION, to)
    }

    /// An error as text, without its code.
    pub(super) fn into_text(self) -> Self {
        let message = Reader::default().read(self.body.bytes(), |value| {
            let error = field(&value?, "error")?;
            field(&error, "message")?.into_string().map(str::to_owned)
        });
        let Some(message) = message else { return self };
        Self { body: Body::Own(message.into()), ..self }.and(header::CONTENT_TYPE, "text/plain; charset=utf-8")
    }

    /// The status and the headers.
    pub(super) fn head(&self) -> &Response<()> {
        &self.head
    }

    pub(super) fn status(&self) -> StatusCode {
        self.head.status()
    }

    /// The same with another status.
    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        *self.head.status_mut() = status;
        self
    }

    /// Adds a number to a JSON object.
    pub(super) fn and_number(mut self, name: &str, number: u64) -> Self {
        if let Some(object) = self.body.bytes().strip_suffix(b"}") {
            let comma = if object == b"{" { "" } else { "," };
            let field = format!("{comma}\"{name}\":{number}}}");
            self.body = Body::Own([object, field.as_bytes()].concat().into());
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

    /// The response to this client. A long body counts as unread, for this address, until the client has read it. 503
    /// if it is too long.
    pub(super) fn into_response_to(
        self,
        client: &Arc<Client>,
        address: PeerAddress,
        unread: &Arc<UnreadAnswers>,
    ) -> Response<Full<Bytes>> {
        let body = match &self.body {
            Body::Own(body) if unread.make_room(body.len()).is_err() => return Self::busy().into_response(),
            Body::Own(body) => unread.count(body.clone(), client, address),
            Body::Shared(shared) => shared.answer(client),
            Body::File(body) => Bytes::from_static(body),
        };
        self.head.map(|()| Full::new(body))
    }

    /// The body, and the reply with its length.
    pub(super) fn with_length(self) -> (Self, Bytes) {
        let body = Bytes::copy_from_slice(self.body.bytes());
        (self.and(header::CONTENT_LENGTH, &body.len().to_string()), body)
    }

    /// The response, not counted.
    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let body = match self.body {
            Body::Own(body) => body,
            Body::Shared(shared) => shared.bytes().clone(),
            Body::File(body) => Bytes::from_static(body),
        };
        self.head.map(|()| Full::new(body))
    }

    /// The response to HEAD: the one to GET without its body.
    pub(super) fn without_body(self) -> Response<Full<Bytes>> {
        let length = self.body.bytes().len().to_string();
        let reply = self.and(header::CONTENT_LENGTH, &length);
        reply.head.map(|()| Full::default())
    }

    fn with_json(status: StatusCode, write: impl FnOnce(&mut BytesMut)) -> Self {
        let mut body = BytesMut::with_capacity(256);
        write(&mut body);
        Self::new(status, "application/json", Body::Own(body.freeze())).and(header::CACHE_CONTROL, "no-store")
    }

    fn new(status: StatusCode, media_type: &'static str, body: Body) -> Self {
        let reply = Self { body, ..Self::empty(status) };
        reply.and(header::CONTENT_TYPE, media_type).and(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
    }
}

/// Appends the body of an error.
pub(super) fn put_error(buffer: &mut BytesMut, code: &str, message: &str) {
    buffer.extend_from_slice(br#"{"error":{"code":"#);
    put_string(buffer, code);
    buffer.extend_from_slice(br#","message":"#);
    put_string(buffer, message);
    buffer.extend_from_slice(b"}}");
}

/// The value of `Allow`. Every path allows OPTIONS.
fn allow(allowed: &[Method]) -> String {
    let names = allowed.iter().chain([&Method::OPTIONS]).map(Method::as_str);
    names.collect::<Vec<_>>().join(", ")
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
    fn a_number_is_added_to_an_object() {
        let check = |object: &'static [u8], want: &str| {
            let reply = Reply::json(|buffer| buffer.extend_from_slice(object)).and_number("since", 7);
            assert_eq!(str::from_utf8(reply.body.bytes()), Ok(want));
        };
        check(b"{}", r#"{"since":7}"#);
        check(br#"{"a":1}"#, r#"{"a":1,"since":7}"#);
    }

    #[test]
    fn numbers_are_shown_in_groups_of_three_digits() {
        let check = |number, want| assert_eq!(thousands(number), want);
        check(0, "0");
        check(999, "999");
        check(1000, "1,000");
        check(1_234_567, "1,234,567");
    }
}
