//! Counts the connections that were closed for lack of a valid header, by reason, and logs them.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Reason;
use crate::log_limit::{self, LogLimit};
use crate::peer::PeerAddress;

impl Reason {
    /// All reasons, with their names in metrics and what the log says.
    const NAMES: [(Self, &'static str, &'static str); 6] = [
        (Self::Untrusted, "untrusted", "--proxy-protocol is given, and this peer is not in --trust-proxy"),
        (Self::Missing, "missing", "--proxy-protocol is given, and the proxy sent no PROXY header"),
        (Self::Malformed, "malformed", "the PROXY header is malformed"),
        (Self::TooLong, "too_long", "the PROXY header is too long"),
        (Self::Unsupported, "unsupported", "the PROXY header is for a client that does not use TCP"),
        (Self::Incomplete, "incomplete", "the PROXY header was not complete in time"),
    ];
}

/// The connections that were closed since the start.
#[derive(Debug, Default)]
pub struct Rejections {
    by_reason: [AtomicU64; Reason::NAMES.len()],
    log: [LogLimit; Reason::NAMES.len()],
}

impl Rejections {
    /// Counts and logs that the connection of this peer is closed.
    pub fn record(&self, reason: Reason, peer: Option<IpAddr>, unix_ms: u64) {
        self.by_reason[reason as usize].fetch_add(1, Ordering::Relaxed);
        let (_, _, why) = Reason::NAMES[reason as usize];
        log_limit::refused(&self.log[reason as usize], unix_ms, why, peer.map(PeerAddress::of));
    }

    /// The number of connections closed for each reason, with its name.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Reason::NAMES.iter().map(|(reason, name, _)| (*name, self.by_reason[*reason as usize].load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_count() {
        for (at, (reason, ..)) in Reason::NAMES.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
        }
        let rejections = Rejections::default();
        rejections.record(Reason::TooLong, None, 1);
        rejections.record(Reason::TooLong, None, 1);
        assert_eq!(rejections.counts().find(|(_, count)| *count > 0), Some(("too_long", 2)));
    }
}
