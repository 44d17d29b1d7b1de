//! What may be called a user or a room: 1–128 bytes of UTF-8 without control characters.

use std::fmt;

/// The longest user id or room name, in bytes of UTF-8.
pub const MAX_ID_BYTES: usize = 128;

/// Why a text cannot be a user id or a room name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdError {
    /// Nothing was given.
    Empty,
    /// More than [`MAX_ID_BYTES`].
    TooLong,
    /// A control character (U+0000–U+001F, U+007F–U+009F) is in it.
    Control,
}

impl fmt::Display for IdError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(formatter, "must not be empty"),
            Self::TooLong => write!(formatter, "must be at most {MAX_ID_BYTES} bytes of UTF-8"),
            Self::Control => write!(formatter, "must not contain control characters"),
        }
    }
}

impl std::error::Error for IdError {}

/// Gives the text back if it may be an id.
pub fn check_id(text: &str) -> Result<&str, IdError> {
    if text.is_empty() {
        Err(IdError::Empty)
    } else if text.len() > MAX_ID_BYTES {
        Err(IdError::TooLong)
    } else if text.chars().any(char::is_control) {
        Err(IdError::Control)
    } else {
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_visible_text() {
        let check = |text: &str, want: Result<(), IdError>| {
            assert_eq!(check_id(text).map(|_| ()), want, "{text:?}");
        };
        check("alice", Ok(()));
        check("名前 with space", Ok(()));
        check(&"x".repeat(128), Ok(()));
        check(&"x".repeat(129), Err(IdError::TooLong));
        check(&"é".repeat(65), Err(IdError::TooLong));
        check("", Err(IdError::Empty));
        check("a\0b", Err(IdError::Control));
        check("a\u{85}b", Err(IdError::Control));
        check("line\n", Err(IdError::Control));
    }
}
