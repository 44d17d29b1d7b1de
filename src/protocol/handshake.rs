//! The opening handshake as protocols see it: the request, and the upgrade that they agree to.

use std::borrow::Cow;

use super::Protocol;
use crate::presence::{check_id, decode_id};
use crate::query::Query;
use crate::websocket::Refusal;

/// The parts of a handshake request that protocols decide about.
#[derive(Debug, Clone, Copy)]
pub struct Handshake<'a> {
    /// The path, as sent.
    pub path: &'a str,
    /// The query string, as sent.
    pub query: &'a str,
    /// Whether the request asks for an upgrade at all.
    pub is_upgrade: bool,
}

/// An accepted handshake.
#[derive(Debug, Clone)]
pub struct Upgrade {
    /// The protocol.
    pub protocol: Protocol,
    /// Before authentication, the user that the client claims to be; after it, the authenticated user.
    pub user: Option<Box<str>>,
    /// Rooms to join at once.
    pub rooms: Vec<Box<str>>,
    /// The user's login, if the request has one.
    pub login: Option<u64>,
}

impl Upgrade {
    /// An upgrade to this protocol, for this user if the request names one.
    #[must_use]
    pub fn new(protocol: Protocol, user: Option<String>) -> Self {
        Self { protocol, user: user.map(Into::into), rooms: Vec::new(), login: None }
    }
}

impl Handshake<'_> {
    /// The parameters of the query.
    ///
    /// # Errors
    /// If they are not UTF-8.
    pub fn query(&self) -> Result<Query, Refusal> {
        Query::parse(self.query).ok_or_else(|| bad_request("the query must be percent-encoded UTF-8"))
    }
}

/// Decodes a segment of a path and checks that it is a valid id. Errors begin with `what`.
pub(super) fn id_segment(segment: &str, what: &str) -> Result<String, Refusal> {
    decode_id(segment).map_err(|error| bad_request(format!("{what} {error}")))
}

/// Checks that a text is a valid id. Errors begin with `what`.
pub(super) fn id(text: &str, what: &str) -> Result<String, Refusal> {
    let checked = check_id(text).map_err(|error| bad_request(format!("{what} {error}")))?;
    Ok(checked.to_owned())
}

/// Refuses a request with status 400.
pub(super) fn bad_request(message: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::http(400, "bad_request", message)
}
