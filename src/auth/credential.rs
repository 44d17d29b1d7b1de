//! Finds the token of a request: in `Authorization`, in the subprotocols of a WebSocket, or in the query.

use std::borrow::Cow;
use std::fmt;

use super::authenticator::{Credentials, Headers};
use super::denied::{Denied, Reason};
use super::jwt::MAX_TOKEN_BYTES;
use crate::query::Query;

/// The scheme of `Authorization` (RFC 6750, 2.1).
const BEARER: &str = "bearer";
/// What precedes a token in the list of subprotocols: browsers let pages set no other header of a WebSocket.
const SUBPROTOCOL_PREFIX: &str = "bearer.";
/// The parameter of the query.
const PARAMETER: &str = "token";

/// The token of a request.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) token: Option<String>,
    /// Whether the request has an `Authorization` header with a token: then its client reads HTTP errors.
    pub(super) has_authorization: bool,
}

impl fmt::Debug for Found {
    /// Without the token.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Found").field("has_authorization", &self.has_authorization).finish_non_exhaustive()
    }
}

/// The token in `Authorization`.
///
/// # Errors
/// If there are several, or it is empty or too long.
pub fn of_headers(headers: &dyn Headers) -> Result<Option<String>, Denied> {
    let mut tokens = bearers(headers);
    match (tokens.next(), tokens.next()) {
        (Some(_), Some(_)) => Err(two()),
        (Some(token), None) => check(token).map(Some),
        (None, _) => Ok(None),
    }
}

/// The token of a handshake. `subprotocol` is the one that its protocol selects, if it has any.
///
/// # Errors
/// If the request has several tokens, or one in a place where it does not count.
pub(super) fn of_handshake(
    credentials: &Credentials<'_>,
    subprotocol: Option<&str>,
    in_query: bool,
) -> Result<Found, (Denied, bool)> {
    let mut tokens: Vec<String> = bearers(credentials.headers).collect();
    let has_authorization = !tokens.is_empty();
    let refuse = |denied| (denied, has_authorization);
    tokens.extend(offered(credentials.headers, subprotocol).map_err(refuse)?);
    tokens.extend(of_query(credentials.query, subprotocol, in_query).map_err(refuse)?);
    if tokens.len() > 1 {
        return Err(refuse(two()));
    }
    let token = tokens.pop().map(check).transpose().map_err(refuse)?;
    Ok(Found { token, has_authorization })
}

/// The tokens in `Authorization`. Other schemes are for a proxy in between.
fn bearers(headers: &dyn Headers) -> impl Iterator<Item = String> {
    let lines = headers.values("authorization").into_iter().map(|line| String::from_utf8_lossy(line).into_owned());
    lines.filter_map(|line| {
        let (scheme, token) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        scheme.eq_ignore_ascii_case(BEARER).then(|| token.trim().to_owned())
    })
}

/// The tokens among the offered subprotocols.
fn offered(headers: &dyn Headers, subprotocol: Option<&str>) -> Result<Vec<String>, Denied> {
    let lines = headers.values("sec-websocket-protocol");
    let lines: Vec<_> = lines.into_iter().map(String::from_utf8_lossy).collect();
    let names = || lines.iter().flat_map(|line| line.split(',')).map(str::trim);
    let tokens: Vec<_> = names().filter_map(|name| name.strip_prefix(SUBPROTOCOL_PREFIX)).map(str::to_owned).collect();
    if tokens.is_empty() {
        return Ok(tokens);
    }
    // Browsers close the connection if the server selects none of the names that they offer.
    match subprotocol {
        Some(wanted) if names().any(|name| name.eq_ignore_ascii_case(wanted)) => Ok(tokens),
        Some(wanted) => {
            Err(malformed(format!("a token as subprotocol must come with {wanted}: {wanted}, bearer.TOKEN")))
        }
        None => Err(malformed("this protocol has no subprotocols; send the token in Authorization, or as ?token=")),
    }
}

fn of_query(query: &str, subprotocol: Option<&str>, is_allowed: bool) -> Result<Vec<String>, Denied> {
    let tokens: Vec<_> = Query::new(query).all(PARAMETER).collect();
    if tokens.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(name) = subprotocol {
        let how =
            format!("send it in Authorization: Bearer TOKEN, or in a browser as a subprotocol: {name}, bearer.TOKEN");
        return Err(malformed(format!("a token must not be in the query, which proxies log; {how}")));
    }
    if !is_allowed {
        return Err(malformed("a token in the query needs --token-in-query; otherwise send it in Authorization"));
    }
    let wrong = |_| malformed("the token in the query must be percent-encoded UTF-8");
    tokens.into_iter().map(|token| token.map(Cow::into_owned).map_err(wrong)).collect()
}

fn check(token: String) -> Result<String, Denied> {
    match token.len() {
        0 => Err(malformed("the token is empty")),
        1..=MAX_TOKEN_BYTES => Ok(token),
        _ => Err(malformed("the token is larger than 6 KiB")),
    }
}

fn two() -> Denied {
    malformed("the request has several tokens; send one")
}

fn malformed(message: impl Into<std::borrow::Cow<'static, str>>) -> Denied {
    Denied::new(Reason::Malformed, message)
}
