//! The opening handshake as protocols see it: the request, and the upgrade that they agree to.

use std::borrow::Cow;
use std::sync::Arc;

use super::Protocol;
use crate::auth::Grant;
use crate::peer::BehindProxy;
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
    /// What the client's credential grants. Without one, everything is allowed.
    pub grant: Option<Arc<Grant>>,
    /// The client, if it is not the peer of the socket.
    pub behind_proxy: Option<BehindProxy>,
    /// Whether the client speaks TLS with a trusted proxy, if one says so.
    pub is_encrypted: Option<bool>,
    /// The key of the application that the path names, in protocols where it does.
    pub app_key: Option<Box<str>>,
}

impl Upgrade {
    /// An upgrade to this protocol, for this user if the request names one.
    #[must_use]
    pub fn new(protocol: Protocol, user: Option<String>) -> Self {
        let user = user.map(Into::into);
        Self {
            protocol,
            user,
            rooms: Vec::new(),
            login: None,
            grant: None,
            behind_proxy: None,
            is_encrypted: None,
            app_key: None,
        }
    }
}

impl<'a> Handshake<'a> {
    /// The first value of a parameter of the query. Other parameters are not looked at.
    ///
    /// # Errors
    /// If it is not UTF-8.
    pub fn parameter(&self, name: &'a str) -> Result<Option<Cow<'a, str>>, Refusal> {
        self.parameters(name).next().transpose()
    }

    /// All values of a parameter of the query.
    pub fn parameters(&self, name: &'a str) -> impl Iterator<Item = Result<Cow<'a, str>, Refusal>> {
        let refused = move |_| bad_request(format!("{name} must be percent-encoded UTF-8"));
        Query::new(self.query).all(name).map(move |value| value.map_err(refused))
    }
}

/// Decodes the id in a segment of a path. Errors begin with `what`.
pub(super) fn id_segment(segment: &str, what: &str) -> Result<String, Refusal> {
    decode_id(segment).map_err(|error| bad_request(format!("{what} {error}")))
}

/// The id that a text stands for. Errors begin with `what`.
pub(super) fn id(text: &str, what: &str) -> Result<String, Refusal> {
    let checked = check_id(text).map_err(|error| bad_request(format!("{what} {error}")))?;
    Ok(checked.into_owned())
}

/// Refuses a request with status 400.
pub(super) fn bad_request(message: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::http(400, "bad_request", message)
}
