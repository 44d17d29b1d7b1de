//! Refusals of an opening handshake, and how the client learns the reason.

use std::borrow::Cow;

/// A refused handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The request is answered with an HTTP error: it is malformed, or its sender can read HTTP errors.
    Http {
        /// The HTTP status.
        status: u16,
        /// The error code for programs.
        code: &'static str,
        /// What is wrong and what to do, for people.
        message: Cow<'static, str>,
        /// When the client may try again, in seconds, if waiting helps.
        retry_after_s: Option<u64>,
    },
    /// The handshake succeeds and a close frame follows: browsers hide the HTTP errors of a WebSocket from their pages.
    Close {
        /// The close code.
        code: u16,
        /// The reason in the close frame; the limit is 123 bytes.
        reason: Cow<'static, str>,
    },
}

impl Refusal {
    /// Refuses a request with an HTTP error.
    pub fn http(status: u16, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::Http { status, code, message: message.into(), retry_after_s: None }
    }

    /// The same; the client may try again after this many seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: Option<u64>) -> Self {
        if let Self::Http { retry_after_s, .. } = &mut self {
            *retry_after_s = seconds;
        }
        self
    }

    /// Accepts a valid handshake and refuses the connection with a close frame.
    pub fn close(code: u16, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Close { code, reason: reason.into() }
    }
}
