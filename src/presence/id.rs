//! User ids and room names: 1 to 128 bytes of visible UTF-8 in Unicode normalization form C (NFC).
//!
//! Names that look the same should be the same user, as far as that can be decided without guessing. So `é` has one
//! form, however it was typed, and invisible characters are refused. Similar letters (Latin `a`, Cyrillic `а`)
//! stay different, and so do upper and lower case.

use std::borrow::Cow;
use std::fmt;

use percent_encoding::percent_decode_str;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc, is_nfc_quick};

/// The longest user id or room name, in bytes of UTF-8.
pub const MAX_ID_BYTES: usize = 128;
/// Longer texts are refused before they are normalized: NFC makes no text shorter than a third (Hangul, 9 bytes to 3).
const MAX_DECOMPOSED_BYTES: usize = 3 * MAX_ID_BYTES;

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
    /// It contains a control character (U+0000–U+001F, U+007F–U+009F) or a separator of lines.
    Control,
    /// It begins or ends with a space, or has nothing but spaces.
    Space,
    /// It contains a character that nobody sees.
    Invisible(char),
    /// Percent-decoding it does not result in UTF-8.
    Encoding,
}

impl fmt::Display for IdError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(formatter, "must not be empty"),
            Self::TooLong { bytes } => write!(formatter, "is {bytes} bytes of UTF-8; the limit is {MAX_ID_BYTES}"),
            Self::Control => write!(formatter, "must not contain control characters"),
            Self::Space => write!(formatter, "must not be blank, nor begin or end with a space"),
            Self::Invisible(character) => {
                let code = u32::from(*character);
                write!(formatter, "must not contain the invisible character U+{code:04X} here")
            }
            Self::Encoding => write!(formatter, "must be percent-encoded UTF-8"),
        }
    }
}

impl std::error::Error for IdError {}

/// Returns the user id or room name that a text stands for, in NFC; the text itself if it is that already.
pub fn check_id(text: &str) -> Result<Cow<'_, str>, IdError> {
    if text.bytes().all(|byte| byte.is_ascii_graphic()) {
        check_length(text)?;
        return Ok(Cow::Borrowed(text));
    }
    if text.len() > MAX_DECOMPOSED_BYTES {
        return Err(IdError::TooLong { bytes: text.len() });
    }
    let name = normalize(text);
    check_length(&name)?;
    check_characters(&name)?;
    Ok(name)
}

/// Whether a text is a valid user id or room name as it is.
#[must_use]
pub fn is_id(text: &str) -> bool {
    matches!(check_id(text), Ok(Cow::Borrowed(_)))
}

/// Decodes a segment of a path, and returns the user id or room name that it stands for.
pub fn decode_id(segment: &str) -> Result<String, IdError> {
    let text = percent_decode_str(segment).decode_utf8().map_err(|_| IdError::Encoding)?;
    check_id(&text).map(Cow::into_owned)
}

fn normalize(text: &str) -> Cow<'_, str> {
    let is_normal = match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => true,
        IsNormalized::No => false,
        IsNormalized::Maybe => is_nfc(text),
    };
    if is_normal { Cow::Borrowed(text) } else { Cow::Owned(text.nfc().collect()) }
}

fn check_length(name: &str) -> Result<(), IdError> {
    match name.len() {
        0 => Err(IdError::Empty),
        1..=MAX_ID_BYTES => Ok(()),
        bytes => Err(IdError::TooLong { bytes }),
    }
}

fn check_characters(name: &str) -> Result<(), IdError> {
    if name.starts_with(is_blank) || name.ends_with(is_blank) {
        // A name of control characters is better called that than blank.
        return Err(if name.contains(is_control) { IdError::Control } else { IdError::Space });
    }
    let mut before = Seen::Nothing;
    for character in name.chars() {
        if is_control(character) {
            return Err(IdError::Control);
        }
        before = before.then(character).map_err(IdError::Invisible)?;
    }
    // A joiner joins nothing at the end.
    match before {
        Seen::Joiner(joiner) => Err(IdError::Invisible(joiner)),
        _ => Ok(()),
    }
}

/// What stands before a character, as far as it decides whether an invisible one may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// A visible character that no invisible one changes, or the beginning.
    Nothing,
    /// A visible character of an emoji, or of a script in which joiners and selectors change what people see.
    Base,
    /// A base with its variation selector.
    Selected,
    /// A zero-width joiner or non-joiner.
    Joiner(char),
    /// A flag, or a tag after it: 🏴󠁧󠁢󠁳󠁣󠁴󠁿.
    Tagged,
}

impl Seen {
    /// What stands before the next character. An invisible one that changes nothing that people see is an error.
    fn then(self, character: char) -> Result<Self, char> {
        let (fits, next) = match character {
            // Variation selectors: text or emoji, forms of letters.
            '\u{fe00}'..='\u{fe0f}' | '\u{180b}'..='\u{180d}' | '\u{180f}' | '\u{e0100}'..='\u{e01ef}' => {
                (matches!(self, Self::Base | Self::Tagged), Self::Selected)
            }
            '\u{200c}' | '\u{200d}' => {
                (matches!(self, Self::Base | Self::Selected | Self::Tagged), Self::Joiner(character))
            }
            '\u{e0020}'..='\u{e007f}' => (self == Self::Tagged, self),
            _ if is_invisible(character) => (false, self),
            '\u{1f3f4}' => (true, Self::Tagged),
            _ if takes_invisible(character) => (true, Self::Base),
            _ => match self {
                // The joiner in `👩‍b` changes nothing.
                Self::Joiner(joiner) => return Err(joiner),
                _ => (true, Self::Nothing),
            },
        };
        if fits { Ok(next) } else { Err(character) }
    }
}

/// Whether variation selectors and joiners may follow: digits (1️⃣), symbols, and all scripts except Latin, Greek and
/// Cyrillic, in which they change nothing.
fn takes_invisible(character: char) -> bool {
    let is_western = matches!(character, '\u{1d00}'..='\u{1fff}' | '\u{2c60}'..='\u{2c7f}' | '\u{a720}'..='\u{a7ff}');
    matches!(character, '0'..='9' | '#' | '*' | '©' | '®' | '\u{590}'..) && !is_western
}

/// Spaces, and the empty Braille pattern, which looks like one.
fn is_blank(character: char) -> bool {
    character.is_whitespace() || character == '\u{2800}'
}

/// Control characters, and separators of lines and paragraphs.
fn is_control(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}' | '\u{2029}')
}

/// `Default_Ignorable_Code_Point` of the Unicode Character Database, and marks of annotations (U+FFF9 to U+FFFB).
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expected: Result<&str, IdError>) {
        let got = check_id(text);
        assert_eq!(got.as_deref().map_err(|error| *error), expected, "{text:?}");
    }

    #[test]
    fn ids_are_not_empty_at_most_128_bytes_and_without_control_characters() {
        for name in ["alice", "名前 with space", &"x".repeat(128), "a  b", "\u{fffd}"] {
            check(name, Ok(name));
        }
        check(&"x".repeat(129), Err(IdError::TooLong { bytes: 129 }));
        check(&"é".repeat(65), Err(IdError::TooLong { bytes: 130 }));
        check(&"é".repeat(5000), Err(IdError::TooLong { bytes: 10_000 }));
        check("", Err(IdError::Empty));
        check("a\0b", Err(IdError::Control));
        check("a\u{85}b", Err(IdError::Control));
        check("line\n", Err(IdError::Control));
        check("a\u{2028}b", Err(IdError::Control));
    }

    #[test]
    fn names_that_look_the_same_because_of_their_encoding_are_the_same() {
        check("Jose\u{301}", Ok("José"));
        check("José", Ok("José"));
        check("\u{212b}ngstro\u{308}m", Ok("Ångström"));
        check("\u{1112}\u{1161}\u{11ab}", Ok("한"));
        check(&"e\u{301}".repeat(64), Ok(&"é".repeat(64)));
        check(&"e\u{301}".repeat(65), Err(IdError::TooLong { bytes: 130 }));
        // The form that grows: U+1D160 has no composed form in NFC.
        assert!(matches!(check_id(&"\u{1d160}".repeat(32)), Err(IdError::TooLong { .. })));
        assert!(is_id("José") && !is_id("Jose\u{301}") && !is_id(""));
    }

    #[test]
    fn blank_names_and_spaces_at_the_ends_are_refused() {
        let blanks = [" ", "   ", "\u{a0}", "\u{3000}", "\u{2800}", " alice", "alice ", "alice\u{2003}", "\u{1680}a"];
        for name in blanks {
            check(name, Err(IdError::Space));
        }
    }

    #[test]
    fn invisible_characters_are_refused_where_they_have_no_visible_effect() {
        let hidden = [
            "\u{200b}",
            "\u{ad}",
            "\u{34f}",
            "\u{61c}",
            "\u{1160}",
            "\u{180e}",
            "\u{200e}",
            "\u{202e}",
            "\u{2060}",
            "\u{2066}",
            "\u{3164}",
            "\u{feff}",
            "\u{ffa0}",
            "\u{fff9}",
            "\u{e0001}",
            "\u{200d}",
            "\u{200c}",
            "\u{fe0f}",
            "\u{e0101}",
            "\u{e0067}",
        ];
        for hidden in hidden {
            let character = hidden.chars().next().unwrap();
            for name in
                [hidden.to_owned(), format!("ali{hidden}ce"), format!("{hidden}alice"), format!("alice{hidden}")]
            {
                check(&name, Err(IdError::Invisible(character)));
            }
        }
        for name in
            ["José\u{200d}", "é\u{200d}é", "Иван\u{200c}", "🏳\u{fe0f}\u{fe0f}", "🏳\u{200d}\u{200d}🌈", "👩\u{200d}"]
        {
            assert!(matches!(check_id(name), Err(IdError::Invisible(_))), "{name:?}");
        }
    }

    #[test]
    fn emoji_and_scripts_that_need_invisible_characters_keep_them() {
        let family = "👨\u{200d}👩\u{200d}👧";
        let scotland = "🏴\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}";
        let pride = "🏳\u{fe0f}\u{200d}🌈";
        let persian = "می\u{200c}خواهم";
        let sinhala = "ක\u{200d}ෂ";
        for name in
            [family, scotland, pride, persian, sinhala, "1\u{fe0f}\u{20e3}", "❤\u{fe0f}", "©\u{fe0f}", "葛\u{e0100}"]
        {
            check(name, Ok(name));
        }
    }

    #[test]
    fn a_segment_is_decoded_before_it_is_checked() {
        let check = |segment: &str, expected: Result<&str, IdError>| {
            assert_eq!(decode_id(segment), expected.map(str::to_owned), "{segment:?}");
        };
        check("a%2Fb+c%zz", Ok("a/b+c%zz"));
        check("%C3%A9", Ok("é"));
        check("Jose%CC%81", Ok("José"));
        check("%C3", Err(IdError::Encoding));
        check("%00", Err(IdError::Control));
        check("%E2%80%8B", Err(IdError::Invisible('\u{200b}')));
        check("", Err(IdError::Empty));
        check(&"%41".repeat(128), Ok(&"A".repeat(128)));
    }

    #[test]
    fn an_error_states_the_length_and_the_limit_or_the_character() {
        let error = |text: &str| check_id(text).unwrap_err().to_string();
        assert_eq!(error(&"x".repeat(129)), "is 129 bytes of UTF-8; the limit is 128");
        assert_eq!(error("a\u{200b}"), "must not contain the invisible character U+200B here");
    }

    proptest! {
        #[test]
        fn checking_a_name_again_changes_nothing(text in "\\PC{1,40}|[a-e\u{301}\u{200b}-\u{200f}\u{fe0f}🏴👩 ]{1,12}") {
            if let Ok(name) = check_id(&text) {
                prop_assert!(is_id(&name), "{name:?}");
                prop_assert!(name.len() <= MAX_ID_BYTES);
            }
        }
    }
}
