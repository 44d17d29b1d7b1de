//! The parts of a request, decoded and bounded: path, query and body.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Request, StatusCode};
use percent_encoding::percent_decode_str;
use simd_json::prelude::ValueAsScalar;

use super::reply::{Reply, thousands};
use crate::auth::Headers;
use crate::json;
use crate::presence::check_id;

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

/// The parameters of a query, decoded.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// All values of a parameter.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// Its first value.
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }
}

impl Target {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        Self { path: request.uri().path().to_owned(), raw_query: request.uri().query().unwrap_or_default().to_owned() }
    }

    /// The parameters of the query.
    pub(super) fn query(&self) -> Result<Query, Reply> {
        let pairs =
            pairs(&self.raw_query).ok_or_else(|| Reply::bad_request("the query is not percent-encoded UTF-8"))?;
        Ok(Query(pairs))
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
    let text = percent_decode_str(segment).decode_utf8();
    let text = text.map_err(|_| Reply::bad_request(&format!("{what} is not percent-encoded UTF-8")))?;
    id(&text, what)
}

/// Checks that a text is a valid id.
pub(super) fn id(text: &str, what: &str) -> Result<String, Reply> {
    let checked = check_id(text).map_err(|error| Reply::bad_request(&format!("{what} {error}")))?;
    Ok(checked.to_owned())
}

/// Names and values of a query or a form (application/x-www-form-urlencoded); `None` if it is not UTF-8.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let decode = |part: &str| Some(percent_decode_str(&part.replace('+', " ")).decode_utf8().ok()?.into_owned());
    let parts = text.split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Some((decode(name)?, decode(value)?))
        })
        .collect()
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
    let pairs = pairs(std::str::from_utf8(body).ok()?)?;
    pairs.into_iter().find(|(name, _)| name == field).map(|(_, value)| value)
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn forms_are_decoded() {
        let check = |text: &str, want: Option<&[(&str, &str)]>| {
            let got = pairs(text);
            let got: Option<Vec<(&str, &str)>> =
                got.as_ref().map(|pairs| pairs.iter().map(|(a, b)| (&**a, &**b)).collect());
            assert_eq!(got.as_deref(), want, "{text:?}");
        };
        check("", Some(&[]));
        check("user=alice&room=a&room=b", Some(&[("user", "alice"), ("room", "a"), ("room", "b")]));
        check("user=a+b%2Bc%26", Some(&[("user", "a b+c&")]));
        check("user", Some(&[("user", "")]));
        check("user=%ff", None);
        check("user=%zz%", Some(&[("user", "%zz%")]));
    }

    proptest! {
        #[test]
        fn every_name_survives_encoding(name in any::<String>()) {
            let encoded = percent_encoding::utf8_percent_encode(&name, percent_encoding::NON_ALPHANUMERIC).to_string();
            prop_assert_eq!(pairs(&format!("user={encoded}")), Some(vec![("user".to_owned(), name)]));
        }

        #[test]
        fn every_text_is_read_or_refused(text in any::<String>()) {
            let _ = pairs(&text);
            let _ = id_segment(&text, "room");
        }
    }
}
