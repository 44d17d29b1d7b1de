//! Identities that are rejected: why, and how the client hears it.

use std::borrow::Cow;

use crate::websocket::{Refusal, close};

/// The kinds of rejections, which the metrics count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There is no credential.
    Missing,
    /// The credential cannot be read: the request is malformed.
    Malformed,
    /// The credential is not valid.
    Invalid,
    /// The credential was valid until a while ago.
    Expired,
    /// The credential was revoked.
    Revoked,
    /// The application refuses the client.
    Forbidden,
    /// The request names another user than the credential.
    OtherUser,
    /// Whether the credential is valid cannot be decided now.
    Undecided,
    /// Too many credentials of the address were rejected.
    TooMany,
    /// No application has the key of a request to the HTTP API.
    WrongKey,
}

impl Reason {
    /// All kinds, with their names in metrics and logs.
    pub const NAMES: [(Self, &'static str); 10] = [
        (Self::Missing, "missing"),
        (Self::Malformed, "malformed"),
        (Self::Invalid, "invalid"),
        (Self::Expired, "expired"),
        (Self::Revoked, "revoked"),
        (Self::Forbidden, "forbidden"),
        (Self::OtherUser, "other_user"),
        (Self::Undecided, "undecided"),
        (Self::TooMany, "too_many"),
        (Self::WrongKey, "wrong_key"),
    ];

    /// The name in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize].1
    }

    /// Whether it counts as a failed authentication of the address.
    #[must_use]
    pub fn is_failure(self) -> bool {
        match self {
            Self::Malformed | Self::Invalid | Self::Expired | Self::Revoked | Self::Forbidden | Self::WrongKey => true,
            Self::Missing | Self::OtherUser | Self::Undecided | Self::TooMany => false,
        }
    }

    /// The close code; `None` if the handshake itself is refused.
    fn close_code(self) -> Option<u16> {
        match self {
            Self::Malformed | Self::TooMany => None,
            Self::Expired => Some(close::EXPIRED),
            Self::Undecided => Some(close::TRY_AGAIN),
            _ => Some(close::POLICY),
        }
    }

    /// The HTTP status and the error code.
    fn status(self) -> (u16, &'static str) {
        match self {
            Self::Missing => (401, "unauthenticated"),
            Self::Malformed => (400, "bad_request"),
            Self::Invalid => (401, "bad_token"),
            Self::Expired => (401, "token_expired"),
            Self::Revoked => (401, "token_revoked"),
            Self::Forbidden | Self::OtherUser | Self::WrongKey => (403, "forbidden"),
            Self::Undecided => (503, "try_again_later"),
            Self::TooMany => (429, "too_many_failures"),
        }
    }
}

/// A rejected identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// The kind.
    pub reason: Reason,
    /// What is wrong, for the client. It contains nothing of the credential except what is escaped and cut.
    pub message: Cow<'static, str>,
    /// When the client may try again, in seconds, if waiting helps.
    pub retry_after_s: Option<u64>,
}

/// After this many seconds, an undecided credential may be decided.
const UNDECIDED_RETRY_S: u64 = 5;

impl Denied {
    /// Rejects an identity.
    pub fn new(reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        let retry_after_s = (reason == Reason::Undecided).then_some(UNDECIDED_RETRY_S);
        Self { reason, message: message.into(), retry_after_s }
    }

    /// Rejects any credential of an address for this long.
    #[must_use]
    pub fn too_many(wait_ms: u64) -> Self {
        let message = "too many credentials from your address were rejected; try again later";
        Self { retry_after_s: Some(wait_ms / 1000 + 1), ..Self::new(Reason::TooMany, message) }
    }

    /// Rejects a credential that was revoked.
    #[must_use]
    pub fn revoked() -> Self {
        Self::new(Reason::Revoked, "revoked")
    }

    /// The answer to a handshake. Browsers hide HTTP errors from their pages, so it is a close frame unless the request
    /// is malformed, or its client is not a browser: then it has sent `Authorization`.
    #[must_use]
    pub fn of_handshake(self, has_authorization: bool) -> Refusal {
        match self.reason.close_code().filter(|_| !has_authorization) {
            Some(code) => Refusal::close(code, cut(self.message)),
            None => self.of_request(),
        }
    }

    /// What is wrong, as the reason of a close frame.
    #[must_use]
    pub fn close_reason(self) -> Cow<'static, str> {
        cut(self.message)
    }

    /// The answer to an HTTP request.
    #[must_use]
    pub fn of_request(self) -> Refusal {
        let (status, code) = self.reason.status();
        Refusal::http(status, code, self.message).retry_after(self.retry_after_s)
    }
}

/// The limit of bytes of the reason in a close frame (RFC 6455, 5.5).
const MAX_CLOSE_REASON_BYTES: usize = 123;

fn cut(text: Cow<'static, str>) -> Cow<'static, str> {
    if text.len() <= MAX_CLOSE_REASON_BYTES {
        return text;
    }
    text[..text.floor_char_boundary(MAX_CLOSE_REASON_BYTES)].to_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_name() {
        for (reason, name) in Reason::NAMES {
            assert_eq!(reason.name(), name);
        }
    }

    #[test]
    fn a_rejected_identity_is_a_close_frame_and_an_http_error_for_clients_that_read_it() {
        let check = |reason, has_authorization, want: u16| {
            let code = match Denied::new(reason, "x").of_handshake(has_authorization) {
                Refusal::Close { code, .. } => code,
                Refusal::Http { status, .. } => status,
            };
            assert_eq!(code, want, "{reason:?} {has_authorization}");
        };
        let table = [
            (Reason::Missing, 1008, 401),
            (Reason::Malformed, 400, 400),
            (Reason::Invalid, 1008, 401),
            (Reason::Expired, 4401, 401),
            (Reason::Revoked, 1008, 401),
            (Reason::Forbidden, 1008, 403),
            (Reason::OtherUser, 1008, 403),
            (Reason::Undecided, 1013, 503),
            (Reason::TooMany, 429, 429),
            (Reason::WrongKey, 1008, 403),
        ];
        for (reason, in_browser, elsewhere) in table {
            check(reason, false, in_browser);
            check(reason, true, elsewhere);
        }
    }

    #[test]
    fn a_close_reason_is_cut_between_characters() {
        let Refusal::Close { reason, .. } = Denied::new(Reason::Invalid, "ü".repeat(100)).of_handshake(false) else {
            panic!("a close frame");
        };
        assert_eq!(reason, "ü".repeat(61));
    }
}
