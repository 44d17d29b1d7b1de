//! The parts of a request, decoded and bounded: path, query and body.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Request, StatusCode};
use simd_json::prelude::ValueAsScalar;

use super::reply::{Reply, thousands};
use crate::auth::Headers;
use crate::json;
use crate::presence::{check_id, decode_id};
use crate::query::Query;

/// The longest body. 1,000 user ids of 128 bytes fit, escaped.
const MAX_BODY_BYTES: usize = 256 * 1024;

/// The most characters of a wrong value that a message repeats.
const MAX_SHOWN_CHARS: usize = 32;

/// Path and query of a request, as they were sent.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) path: String,
    pub(super) raw_query: String,
}

impl Headers for HeaderMap {
    fn values(&self, name: &'static str) -> Vec<&[u8]> {
        self.get_all(name).iter().map(HeaderValue::as_bytes).collect()
    }
}

impl Target {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        Self { path: request.uri().path().to_owned(), raw_query: request.uri().query().unwrap_or_default().to_owned() }
    }

    /// The parameters of the query.
    pub(super) fn query(&self) -> Result<Query, Reply> {
        Query::parse(&self.raw_query).ok_or_else(|| Reply::bad_request("the query must be percent-encoded UTF-8"))
    }

    /// The first value of a query parameter.
    pub(super) fn first(&self, name: &str) -> Result<Option<String>, Reply> {
        Ok(self.query()?.first(name).map(str::to_owned))
    }

    /// A whole number in a range, or its default if the query has none.
    pub(super) fn number(
        &self,
        name: &str,
        default: usize,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<usize, Reply> {
        let Some(text) = self.first(name)? else { return Ok(default) };
        let digits = Some(&text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let number = digits.and_then(|text| text.parse().ok()).filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let (least, most) = (thousands(*range.start()), thousands(*range.end()));
            let short: String = text.chars().take(MAX_SHOWN_CHARS).collect();
            Reply::bad_request(&format!("{name} must be a whole number from {least} to {most}; this one is {short:?}"))
        })
    }
}

/// Decodes a segment of a path and checks that it is a valid id.
pub(super) fn id_segment(segment: &str, what: &str) -> Result<String, Reply> {
    decode_id(segment).map_err(|error| Reply::bad_request(&format!("{what} {error}")))
}

/// Checks that a text is a valid id.
pub(super) fn id(text: &str, what: &str) -> Result<String, Reply> {
    let checked = check_id(text).map_err(|error| Reply::bad_request(&format!("{what} {error}")))?;
    Ok(checked.to_owned())
}

/// A name in a body: a field of a JSON object, or else of a form. A whole number in JSON is taken as its digits.
pub(super) fn text_field(body: &[u8], field: &str) -> Option<String> {
    if body.trim_ascii_start().starts_with(b"{") {
        return json::Reader::default().read(body, |value| {
            let value = value?.get(field)?;
            let number = || {
                value
                    .as_u64()
                    .map(|number| number.to_string())
                    .or_else(|| value.as_i64().map(|number| number.to_string()))
            };
            value.as_str().map(str::to_owned).or_else(number)
        });
    }
    Query::parse(std::str::from_utf8(body).ok()?)?.first(field).map(str::to_owned)
}

/// The whole body, within its limits of bytes and time.
pub(super) async fn body(body: &mut Incoming, time: Duration) -> Result<Bytes, Reply> {
    let collect = Limited::new(body, MAX_BODY_BYTES).collect();
    match tokio::time::timeout(time, collect).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(Reply::error(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            &format!("the body is too large; the limit is {} bytes", thousands(MAX_BODY_BYTES)),
        )),
        Ok(Err(error)) => Err(Reply::bad_request(&format!("the body cannot be read: {error}"))),
        Err(_) => {
            let message = format!("the body did not arrive in time; the limit is {time:?}");
            Err(Reply::error(StatusCode::REQUEST_TIMEOUT, "timeout", &message))
        }
    }
}
