//! When a request that failed is sent again.

use std::time::{Duration, SystemTime};

use crate::outgoing::unexpected_status;

/// The first pause; each further one is twice as long.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(20);
/// The longest pause that an endpoint may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(300);
/// The pause of an endpoint that says that it is gone.
const GONE: Duration = Duration::from_secs(3600);

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It has arrived.
    Delivered,
    /// It was not sent: its application does not exist any more.
    Void,
    /// The endpoint answered that it does not exist any more (410).
    Gone,
    /// It may or may not have arrived.
    Failed {
        /// Why, for the log.
        why: String,
        /// The pause that the endpoint asks for.
        asked: Option<Duration>,
    },
}

impl Outcome {
    /// Of an answer with this status and `Retry-After`.
    pub(super) fn of(status: u16, retry_after: Option<&str>, now: SystemTime) -> Self {
        match status {
            200..=299 => Self::Delivered,
            410 => Self::Gone,
            _ => {
                let asked = retry_after.filter(|_| status >= 400).and_then(|text| seconds(text, now));
                Self::Failed { why: unexpected_status(status), asked }
            }
        }
    }

    /// The pause after this many failures in a row. `random` spreads the nodes and endpoints over time.
    pub(super) fn pause(&self, failures: u32, random: u64) -> Duration {
        let longest = LONGEST.min(FIRST * 2u32.saturating_pow(failures.saturating_sub(1).min(16)));
        // Half of it is random.
        let pause = longest / 2 + longest.mul_f64((random % 1000) as f64 / 2000.0);
        match self {
            Self::Delivered | Self::Void => Duration::ZERO,
            Self::Gone => GONE,
            Self::Failed { asked, .. } => pause.max(asked.unwrap_or_default()),
        }
    }
}

/// `Retry-After` (RFC 9110, 10.2.3): seconds, or a date.
fn seconds(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    let asked = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).ok()?,
    };
    Some(asked.min(LONGEST_ASKED))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT

    fn outcome(status: u16, retry_after: Option<&str>) -> Outcome {
        Outcome::of(status, retry_after, SystemTime::UNIX_EPOCH + NOW)
    }

    #[test]
    fn pauses_double_up_to_the_longest_one() {
        let failed = outcome(500, None);
        let pause = |failures| (failed.pause(failures, 0), failed.pause(failures, 999));
        for (failures, ms) in [(1, 100), (2, 200), (3, 400), (8, 12_800), (9, 20_000), (u32::MAX, 20_000)] {
            let (least, most) = pause(failures);
            let longest = Duration::from_millis(ms);
            assert!(
                least == longest / 2 && most < longest && most > longest * 9 / 10,
                "{failures}: {least:?} {most:?}"
            );
        }
    }

    #[test]
    fn the_endpoint_may_ask_for_a_longer_pause() {
        let check = |status, header, seconds| {
            assert_eq!(outcome(status, header).pause(1, 0), Duration::from_millis(seconds), "{status} {header:?}");
        };
        check(429, Some("7"), 7000);
        check(503, Some("Sun, 06 Nov 1994 08:49:47 GMT"), 10_000);
        check(503, Some("Sun, 06 Nov 1994 08:49:27 GMT"), 50);
        check(500, Some("100000"), 300_000);
        check(429, Some("99999999999999999999"), 50);
        check(429, Some("soon"), 50);
        check(429, Some("-1"), 50);
        check(410, None, 3_600_000);
        assert_eq!(outcome(204, None), Outcome::Delivered);
        assert!(matches!(outcome(301, None), Outcome::Failed { why, .. } if why.contains("redirects")));
    }
}
