//! The interface of an authentication method: it receives the credentials of a handshake, and returns an identity or a
//! refusal.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use super::Grant;
use crate::peer::PeerAddress;
use crate::websocket::Refusal;

/// Finds the user of a WebSocket. One per node, shared by all workers.
pub trait Authenticator: fmt::Debug + Send + Sync {
    /// Checks a handshake. The returned future does not borrow `credentials`: read them before.
    fn authenticate<'a>(&'a self, credentials: &Credentials<'_>) -> Authentication<'a>;

    /// The same at once, if that takes a few microseconds. Whether cookies count is not known here.
    fn decide_now(&self, _: &Credentials<'_>) -> Option<Result<Identity, Refusal>> {
        None
    }
}

/// The result of an [`Authenticator`].
pub type Authentication<'a> = Pin<Box<dyn Future<Output = Result<Identity, Refusal>> + 'a>>;

/// The user of a connection, and what the connection may do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// The user id; `None` if the handshake names no user and the authenticator requires none, as for visitors without
    /// a credential. The protocol decides whether a connection needs a user.
    pub user: Option<String>,
    /// The login of the handshake, if it has one. When the login ends, the connection is closed.
    pub login: Option<u64>,
    /// What the credential grants. Without one, everything is allowed.
    pub grant: Option<Arc<Grant>>,
}

/// The parts of a valid handshake that can identify its user.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// The name of the protocol.
    pub protocol: &'static str,
    /// The subprotocol that the protocol selects, if it has one.
    pub subprotocol: Option<&'static str>,
    /// The address of the client.
    pub address: IpAddr,
    /// The address that limits count; `None` if there are none.
    pub counted: Option<PeerAddress>,
    /// The path, as sent.
    pub path: &'a str,
    /// The query without its question mark, as sent.
    pub query: &'a str,
    /// The user id that the client claims to have, decoded and checked.
    pub claimed_user: Option<&'a str>,
    /// Whether cookies count: a page that may use them sent the request.
    pub may_use_cookies: bool,
    /// The headers of the request.
    pub headers: &'a dyn Headers,
    /// The wall clock, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
}

/// The headers of a request.
pub trait Headers {
    /// The values of all lines of a header, in the order sent.
    fn values(&self, name: &'static str) -> Vec<&[u8]>;

    /// The value of the first line of a header. If it contains other characters than visible ASCII, spaces and tabs,
    /// the result is empty.
    fn text(&self, name: &'static str) -> Option<&str> {
        let value = *self.values(name).first()?;
        let visible = value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
        Some(std::str::from_utf8(value).ok().filter(|_| visible).unwrap_or_default())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Headers as lines of names and values.
    pub(crate) struct Lines<'a>(pub(crate) &'a [(&'a str, &'a str)]);

    impl Headers for Lines<'_> {
        fn values(&self, name: &'static str) -> Vec<&[u8]> {
            self.0.iter().filter(|(known, _)| *known == name).map(|(_, value)| value.as_bytes()).collect()
        }
    }

    #[test]
    fn a_header_that_is_not_visible_ascii_reads_as_empty() {
        let headers = Lines(&[("origin", "http://a"), ("origin", "http://b"), ("host", "ü")]);
        assert_eq!(headers.text("origin"), Some("http://a"));
        assert_eq!(headers.text("host"), Some(""));
        assert_eq!(headers.text("cookie"), None);
    }
}
