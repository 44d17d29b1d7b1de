//! User ids and room names: 1 to 128 bytes of UTF-8 without control characters.

use std::fmt;

use percent_encoding::percent_decode_str;

/// The longest user id or room name, in bytes of UTF-8.
pub const MAX_ID_BYTES: usize = 128;

/// Why a text is not a valid user id or room name. Displayed after the name of the field: "`room` must not be empty".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdError {
    /// It has no characters.
    Empty,
    /// It is longer than [`MAX_ID_BYTES`].
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It contains a control character (U+0000–U+001F, U+007F–U+009F).
    Control,
    /// Percent-decoding it does not result in UTF-8.
    Encoding,
}

impl fmt::Display for IdError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(formatter, "must not be empty"),
            Self::TooLong { bytes } => write!(formatter, "is {bytes} bytes of UTF-8; the limit is {MAX_ID_BYTES}"),
            Self::Control => write!(formatter, "must not contain control characters"),
            Self::Encoding => write!(formatter, "must be percent-encoded UTF-8"),
        }
    }
}

impl std::error::Error for IdError {}

/// Returns the text if it is a valid user id or room name.
pub fn check_id(text: &str) -> Result<&str, IdError> {
    if text.is_empty() {
        Err(IdError::Empty)
    } else if text.len() > MAX_ID_BYTES {
        Err(IdError::TooLong { bytes: text.len() })
    } else if text.chars().any(char::is_control) {
        Err(IdError::Control)
    } else {
        Ok(text)
    }
}

/// Decodes a segment of a path, and returns it if it is a valid user id or room name.
pub fn decode_id(segment: &str) -> Result<String, IdError> {
    let text = percent_decode_str(segment).decode_utf8().map_err(|_| IdError::Encoding)?;
    check_id(&text).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_not_empty_at_most_128_bytes_and_without_control_characters() {
        let check = |text: &str, expected: Result<(), IdError>| {
            assert_eq!(check_id(text).map(|_| ()), expected, "{text:?}");
        };
        check("alice", Ok(()));
        check("名前 with space", Ok(()));
        check(&"x".repeat(128), Ok(()));
        check(&"x".repeat(129), Err(IdError::TooLong { bytes: 129 }));
        check(&"é".repeat(65), Err(IdError::TooLong { bytes: 130 }));
        check("", Err(IdError::Empty));
        check("a\0b", Err(IdError::Control));
        check("a\u{85}b", Err(IdError::Control));
        check("line\n", Err(IdError::Control));
    }

    #[test]
    fn a_segment_is_decoded_before_it_is_checked() {
        let check = |segment: &str, expected: Result<&str, IdError>| {
            assert_eq!(decode_id(segment), expected.map(str::to_owned), "{segment:?}");
        };
        check("a%2Fb+c%zz", Ok("a/b+c%zz"));
        check("%C3%A9", Ok("é"));
        check("%C3", Err(IdError::Encoding));
        check("%00", Err(IdError::Control));
        check("", Err(IdError::Empty));
        check(&"%41".repeat(128), Ok(&"A".repeat(128)));
    }

    #[test]
    fn an_error_states_the_length_and_the_limit() {
        let error = check_id(&"x".repeat(129)).unwrap_err();
        assert_eq!(error.to_string(), "is 129 bytes of UTF-8; the limit is 128");
    }
}
