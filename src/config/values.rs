//! Kinds of values that several features take: durations, secrets, names.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

/// The longest lease, and the limit of most other durations: the timing wheel has one slot per tick.
pub(super) const MAX_DURATION: Duration = Duration::from_secs(3600);

/// A value that is never printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The value as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// Parses a [`Secret`].
pub(super) fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret(text.to_owned()))
}

/// Parses a duration with its unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}: write it like 500ms, 10s or 2m"))
}

/// A duration as it is written on the command line.
pub(super) fn show(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}
