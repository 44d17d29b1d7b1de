//! The interface of an authentication method: it receives the credentials of a handshake, and returns an identity or a
//! refusal.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use crate::websocket::Refusal;

/// Finds the user of a WebSocket. One per node, shared by all workers.
pub trait Authenticator: fmt::Debug + Send + Sync {
    /// Checks a handshake. The returned future does not borrow `credentials`: read them before.
    fn authenticate<'a>(&'a self, credentials: &Credentials<'_>) -> Authentication<'a>;
}

/// The result of an [`Authenticator`]: the identity, or `None` if the handshake names no user and the authenticator
/// requires none. The protocol decides whether a connection needs a user.
pub type Authentication<'a> = Pin<Box<dyn Future<Output = Result<Option<Identity>, Refusal>> + 'a>>;

/// The user of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user id.
    pub user: String,
    /// The login of the handshake, if it has one. When the login ends, the connection is closed.
    pub login: Option<u64>,
}

/// The parts of a valid handshake that can identify its user.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// The path, as sent.
    pub path: &'a str,
    /// The query without its question mark, as sent.
    pub query: &'a str,
    /// The user id that the client claims to have, decoded and checked.
    pub claimed_user: Option<&'a str>,
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
