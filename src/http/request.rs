//! The parts of a request, decoded and bounded: path, query and the fields of a form.

use std::borrow::Cow;
use std::fmt;

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode, Version};
use simd_json::prelude::ValueAsScalar;

use super::multipart;
use super::reply::{Reply, thousands};
use crate::auth::Headers;
use crate::json;
use crate::presence::{check_id, decode_id};
use crate::query::Query;

/// The longest name of a host (RFC 1035, 2.3.4).
const MAX_NAME_BYTES: usize = 253;
/// The most characters of a wrong value that a message repeats.
const MAX_SHOWN_CHARS: usize = 32;

/// Path and query of a request, as they were sent.
pub(super) struct Target {
    pub(super) path: String,
    pub(super) raw_query: String,
}

impl fmt::Debug for Target {
    /// Without the query, which may have a token.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Target").field("path", &self.path).finish_non_exhaustive()
    }
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

    /// The first value of a query parameter. Other parameters are not looked at.
    pub(super) fn first(&self, name: &str) -> Result<Option<String>, Reply> {
        let value = Query::new(&self.raw_query).first(name);
        let value = value.map_err(|_| Reply::bad_request(&format!("{name} must be percent-encoded UTF-8")))?;
        Ok(value.map(Cow::into_owned))
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

/// Checks that a request has one `Host` header with a valid value, as RFC 9112 (3.2) requires. HTTP/1.0 does not.
pub(super) fn check_host<B>(request: &Request<B>) -> Result<(), Reply> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host.as_bytes()) => Ok(()),
        (Some(_), None) => {
            Err(Reply::bad_request("the Host header must be a name or an address, with an optional port"))
        }
        (None, _) if request.version() < Version::HTTP_11 => Ok(()),
        (None, _) => Err(Reply::bad_request("the Host header is missing; HTTP/1.1 requires one")),
        (Some(_), Some(_)) => Err(Reply::bad_request("there must be one Host header; this request has several")),
    }
}

/// Whether a value can be a host. It may be empty (RFC 9110, 7.2).
fn is_host(value: &[u8]) -> bool {
    value.iter().all(|byte| byte.is_ascii_graphic() && !br#"/\?#@,"<>^`{|}"#.contains(byte))
}

/// The answer to a request that is not encrypted, on a port that requires TLS: it names the right URL.
pub(super) fn needs_tls<B>(request: &Request<B>) -> Reply {
    let scheme = if request.headers().contains_key(header::UPGRADE) { "wss" } else { "https" };
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).filter(|host| is_name(host));
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let message = match host {
        Some(host) => format!("this port requires TLS: use {scheme}://{host}{target}"),
        None => format!("this port requires TLS: use {scheme}:// and the name of this server"),
    };
    Reply::error(StatusCode::BAD_REQUEST, "tls_required", &message).and(header::CONNECTION, "close")
}

/// Whether a host is a plain name or address, with an optional port, which a message may repeat.
fn is_name(host: &str) -> bool {
    let is_plain = |letter: u8| letter.is_ascii_alphanumeric() || b"-._".contains(&letter);
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => (name, port),
        Some(_) if !host.ends_with(']') => return false,
        _ => (host, ""),
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let is_host = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(is_plain),
    };
    is_host && port.len() <= 5
}

/// Whether the client is a browser that shows what it receives to a person.
pub(super) fn wants_page<B>(request: &Request<B>) -> bool {
    let accepted = request.headers().get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = accepted.flat_map(|value| value.split(',')).map(|kind| kind.split(';').next().unwrap_or_default());
    let is_html = kinds.any(|kind| kind.trim().eq_ignore_ascii_case("text/html"));
    is_html && matches!(*request.method(), Method::GET | Method::HEAD)
}

/// Decodes the id in a segment of a path.
pub(super) fn id_segment(segment: &str, what: &str) -> Result<String, Reply> {
    decode_id(segment).map_err(|error| Reply::bad_request(&format!("{what} {error}")))
}

/// The id that a text stands for.
pub(super) fn id(text: &str, what: &str) -> Result<String, Reply> {
    let checked = check_id(text).map_err(|error| Reply::bad_request(&format!("{what} {error}")))?;
    Ok(checked.into_owned())
}

/// A name in a body: a field of a form as `FormData` sends it, of a JSON object, or of any other form. A whole number
/// in JSON is taken as its digits.
pub(super) fn text_field(headers: &HeaderMap, body: &[u8], field: &str) -> Option<String> {
    if let Some(boundary) = multipart::boundary(headers) {
        return String::from_utf8(multipart::field(body, boundary, field)?.to_vec()).ok();
    }
    if body.trim_ascii_start().starts_with(b"{") {
        return json::Reader::default().read(body, |value| {
            let value = json::field(&value?, field)?;
            value.as_str().map(str::to_owned).or_else(|| json::whole_number(&value).map(|number| number.to_string()))
        });
    }
    Query::new(body).first(field).ok()?.map(Cow::into_owned)
}
