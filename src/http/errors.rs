//! Counts the errors with which requests are answered, by their codes. Every refusal has a code, so each has a metric.

use std::sync::atomic::{AtomicU64, Ordering};

use hyper::Response;

/// All codes of errors, sorted.
const CODES: [&str; 31] = [
    "bad_request",
    "bad_token",
    "bad_user_id",
    "busy",
    "disabled_app",
    "draining",
    "forbidden",
    "memory",
    "method_not_allowed",
    "no_http_transport",
    "not_found",
    "not_open",
    "not_signed_in",
    "stalled",
    "timeout",
    "tls_required",
    "token_expired",
    "token_revoked",
    "too_large",
    "too_many_connections",
    "too_many_failures",
    "too_many_messages",
    "too_many_requests",
    "too_many_revocations",
    "too_many_users",
    "try_again_later",
    "unauthenticated",
    "unauthorized",
    "unknown_app",
    "upgrade_required",
    "wrong_origin",
];

/// The code of an error, with its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ErrorCode(&'static str);

impl ErrorCode {
    /// This code, which must be one of [`CODES`].
    pub(super) fn new(code: &'static str) -> Self {
        debug_assert!(CODES.binary_search(&code).is_ok(), "{code} is missing in the list of codes");
        Self(code)
    }
}

/// The numbers of errors since the start, by code.
#[derive(Debug, Default)]
pub(super) struct ErrorCounts([AtomicU64; CODES.len()]);

impl ErrorCounts {
    /// Counts a response if it is an error.
    pub(super) fn count<B>(&self, response: &Response<B>) {
        if let Some(code) = response.extensions().get::<ErrorCode>() {
            self.count_code(*code);
        }
    }

    /// Counts an error.
    pub(super) fn count_code(&self, ErrorCode(code): ErrorCode) {
        if let Ok(at) = CODES.binary_search(&code) {
            self.0[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The codes and their numbers.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CODES.into_iter().zip(&self.0).map(|(code, count)| (code, count.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_own_count() {
        assert!(CODES.is_sorted_by(|one, next| one < next));
        let counts = ErrorCounts::default();
        for (at, code) in CODES.into_iter().enumerate() {
            (0..at).for_each(|_| counts.count_code(ErrorCode::new(code)));
        }
        assert!(counts.counts().enumerate().all(|(at, (code, count))| code == CODES[at] && count == at as u64));
    }
}
