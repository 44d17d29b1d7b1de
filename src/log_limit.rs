//! Log lines that clients can cause: one per kind and second, with the number of lines that were left out.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::outside::shown;
use crate::peer::PeerAddress;

/// Limits the lines of one kind.
#[derive(Debug)]
pub struct LogLimit {
    /// The second of the last line, since the Unix epoch.
    second: AtomicU64,
    left_out: AtomicU64,
}

impl LogLimit {
    /// No line has been logged.
    #[must_use]
    pub const fn new() -> Self {
        Self { second: AtomicU64::new(0), left_out: AtomicU64::new(0) }
    }

    /// Whether a line may be logged now, and if so, how many were left out since the last one.
    pub fn allow(&self, unix_ms: u64) -> Option<u64> {
        let second = unix_ms / 1000;
        if self.second.swap(second, Ordering::Relaxed) == second {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.left_out.swap(0, Ordering::Relaxed))
    }
}

impl Default for LogLimit {
    fn default() -> Self {
        Self::new()
    }
}

/// Logs that clients are refused, for a reason and within this limit of it.
pub fn refused(limit: &LogLimit, unix_ms: u64, reason: &str, address: Option<PeerAddress>) {
    if let Some(left_out) = limit.allow(unix_ms) {
        let (left_out, address) = ((left_out > 0).then_some(left_out), address.map(tracing::field::display));
        tracing::info!(left_out, reason, address, "a client was refused");
    }
}

/// Logs what an application did with its key, and to whom or what.
pub fn used_key(key: impl std::fmt::Display, action: &str, target: &str) {
    tracing::info!(%key, target = %shown(target), "an application used its API key: {action}");
}

/// As `tracing::warn!`, for lines that clients can cause. Each place in the code is a kind.
macro_rules! warn_limited {
    ($($part:tt)*) => {{
        static LIMIT: crate::log_limit::LogLimit = crate::log_limit::LogLimit::new();
        if let Some(left_out) = LIMIT.allow(crate::os::unix_ms()) {
            tracing::warn!(left_out = (left_out > 0).then_some(left_out), $($part)*);
        }
    }};
}

/// The same for errors: an operator has to act.
macro_rules! error_limited {
    ($($part:tt)*) => {{
        static LIMIT: crate::log_limit::LogLimit = crate::log_limit::LogLimit::new();
        if let Some(left_out) = LIMIT.allow(crate::os::unix_ms()) {
            tracing::error!(left_out = (left_out > 0).then_some(left_out), $($part)*);
        }
    }};
}

/// As `tracing::warn!`, once in the life of the process: for a setting that is missing.
macro_rules! warn_once {
    ($($part:tt)*) => {{
        static IS_LOGGED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
        let is_logged = || IS_LOGGED.load(std::sync::atomic::Ordering::Relaxed);
        if !is_logged() && !IS_LOGGED.swap(true, std::sync::atomic::Ordering::Relaxed) {
            tracing::warn!($($part)*);
        }
    }};
}

pub(crate) use error_limited;
pub(crate) use warn_limited;
pub(crate) use warn_once;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_second_is_logged_and_the_others_are_counted() {
        let limit = LogLimit::new();
        assert_eq!(limit.allow(10_000), Some(0));
        assert_eq!((limit.allow(10_001), limit.allow(10_999)), (None, None));
        assert_eq!((limit.allow(11_000), limit.allow(11_000)), (Some(2), None));
        assert_eq!(limit.allow(60_000), Some(1));
    }
}
