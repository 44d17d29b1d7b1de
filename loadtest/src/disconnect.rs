//! Why a connection ended.

use std::fmt;
use std::io::{self, ErrorKind};
use wire::frame::Violation;

/// Displayed as a sentence.
#[derive(Debug)]
pub(crate) enum Disconnect {
    Connect(io::Error),
    /// The server did not answer the handshake with 101; the text says what it answered.
    Refused(String),
    Violation(Violation),
    Closed {
        code: Option<u16>,
        reason: String,
    },
    Broken(io::Error),
    /// The stream ended without a close frame.
    Ended,
}

impl fmt::Display for Disconnect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) if error.kind() == ErrorKind::ConnectionRefused => {
                write!(formatter, "connection refused; is a server listening there?")
            }
            Self::Connect(error) => write!(formatter, "cannot connect: {error}"),
            Self::Refused(message) => write!(formatter, "the server refused the WebSocket: {message}"),
            Self::Violation(violation) => write!(formatter, "the server violated RFC 6455: {}", violation.0),
            Self::Closed { code: Some(code), reason } if reason.is_empty() => {
                write!(formatter, "closed by the server with {code}")
            }
            Self::Closed { code: Some(code), reason } => {
                write!(formatter, "closed by the server with {code} {reason:?}")
            }
            Self::Closed { code: None, .. } => write!(formatter, "closed by the server without a code"),
            Self::Broken(error) => write!(formatter, "the connection broke: {error}"),
            Self::Ended => write!(formatter, "the server ended the connection without a close frame"),
        }
    }
}
