//! Kinds of values that several features take: durations, secrets, names.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::fmt;
use std::num::{IntErrorKind, ParseIntError};
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{BoolishValueParser, TypedValueParser as _};
use clap::{Arg, Command};

/// The longest lease, and the limit of most other durations: the timing wheel has one slot per tick.
pub(super) const MAX_DURATION: Duration = Duration::from_secs(3600);

const TOO_LARGE: &str = "the number is too large";

/// A value that is never printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Keeps a value.
    pub(super) fn new(value: &str) -> Self {
        Self(value.to_owned())
    }

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
    Ok(Secret::new(text))
}

/// Parses a duration with its unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| match error {
        humantime::DurationError::NumberOverflow => "the duration is too long".to_owned(),
        _ => "write a duration with its unit, such as 500ms, 10s or 2m".to_owned(),
    })
}

/// Parses a number that can be zero.
pub(super) fn number<N: FromStr<Err = ParseIntError>>(text: &str) -> Result<N, String> {
    whole(text, "write a whole number, such as 100")
}

/// Parses a number that is not zero.
pub(super) fn positive<N: FromStr<Err = ParseIntError>>(text: &str) -> Result<N, String> {
    whole(text, "write a whole number from 1")
}

fn whole<N: FromStr<Err = ParseIntError>>(text: &str, rule: &str) -> Result<N, String> {
    text.parse().map_err(|error: ParseIntError| match error.kind() {
        IntErrorKind::PosOverflow => TOO_LARGE.to_owned(),
        _ => rule.to_owned(),
    })
}

/// Parses the number of a port.
pub(super) fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| "write the number of a port, such as 9000; the largest is 65535".to_owned())
}

/// Parses a variable that switches its setting on or off.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    boolean(OsStr::new(text)).ok_or_else(|| "write true or false; yes, no, on, off, 1 and 0 work as well".to_owned())
}

/// Parses a number of bytes with its unit.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || "write a number of bytes, such as 4096, 512M or 2G".to_owned();
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(wrong()),
    };
    if number.is_empty() {
        return Err(wrong());
    }
    // A text of digits that cannot be parsed is too large.
    let number = number.parse().ok().and_then(|number: u64| number.checked_mul(1 << shift));
    number.ok_or_else(|| TOO_LARGE.to_owned())
}

/// Whether a variable switches its setting on.
pub(super) fn is_true(value: &OsStr) -> bool {
    boolean(value).unwrap_or(false)
}

fn boolean(value: &OsStr) -> Option<bool> {
    let (arg, command) = (Arg::new("flag"), Command::new("rollcall"));
    BoolishValueParser::new().parse_ref(&command, Some(&arg), value).ok()
}

/// A duration as it is written on the command line.
pub(super) fn show(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        for (text, expected) in [("1024", 1024), ("64k", 65_536), ("512M", 512 << 20), ("2 GiB", 2 << 30), ("0", 0)] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "M", "1.5G", "2T", "-1", "99999999999999999999T"] {
            assert!(bytes(text).is_err_and(|why| why.starts_with("write a number of bytes")), "{text}");
        }
        for text in ["99999999999G", "99999999999999999999", "99999999999999999999M"] {
            assert_eq!(bytes(text).as_ref().map_err(|why| &**why), Err(TOO_LARGE), "{text}");
        }
    }
}
