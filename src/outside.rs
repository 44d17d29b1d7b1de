//! Text from outside, such as what clients, applications and other servers send, as logs and messages show it.
//!
//! Control characters could forge lines and colours of a log; invisible ones could turn the rest of a line around. All
//! text from outside passes through this file before it is logged or becomes part of a message.

/// The limit of bytes in logs and messages.
pub const MAX_SHOWN_BYTES: usize = 128;

/// Text from outside: in one line, with escapes for characters that nobody sees, and cut.
#[must_use]
pub fn shown(text: &str) -> String {
    shown_within(text, MAX_SHOWN_BYTES)
}

/// The same for bytes that may not be UTF-8.
#[must_use]
pub fn shown_bytes(bytes: &[u8]) -> String {
    shown(&String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_SHOWN_BYTES)]))
}

/// The same with another limit of bytes.
#[must_use]
pub fn shown_within(text: &str, max_bytes: usize) -> String {
    let mut shown = String::new();
    for character in text.chars() {
        let escaped = character.escape_debug();
        let is_kept = is_kept(character);
        let bytes = if is_kept { character.len_utf8() } else { escaped.len() };
        if shown.len() + bytes > max_bytes {
            break;
        }
        match is_kept {
            true => shown.push(character),
            false => shown.extend(escaped),
        }
    }
    shown
}

/// Whether a character is shown as it is.
fn is_kept(character: char) -> bool {
    match character {
        // Quotes are harmless and common.
        '\'' | '"' | ' '..='[' | ']'..='~' => true,
        '\\' => false,
        // Accents that follow their letter are escaped only when they stand alone.
        _ => {
            let mut buffer = [b'a', 0, 0, 0, 0];
            let bytes = 1 + character.encode_utf8(&mut buffer[1..]).len();
            std::str::from_utf8(&buffer[..bytes]).is_ok_and(|pair| pair.escape_debug().nth(1) == Some(character))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_nobody_sees_are_escaped() {
        let check = |text: &str, want: &str| assert_eq!(shown(text), want);
        check("a \"b\" it's\n\u{1b}[31m", "a \"b\" it's\\n\\u{1b}[31m");
        check("admin\u{202e}nimda", "admin\\u{202e}nimda");
        check(
            "\u{200b}\u{feff}\u{2066}\u{2028}\u{85}\u{e0001}",
            "\\u{200b}\\u{feff}\\u{2066}\\u{2028}\\u{85}\\u{e0001}",
        );
        check("back\\slash \u{7f}\0", "back\\\\slash \\u{7f}\\0");
        check("é e\u{301} नमस्ते 名前 🙂", "é e\u{301} नमस्ते 名前 🙂");
        assert_eq!(shown_bytes(b"a\x1b[31m\nb\xff"), "a\\u{1b}[31m\\nb\u{fffd}");
    }

    #[test]
    fn long_text_is_cut_between_characters_and_escapes() {
        assert_eq!(shown(&"\n".repeat(1000)).len(), MAX_SHOWN_BYTES);
        assert_eq!(shown(&"名".repeat(1000)).len(), 126);
        assert_eq!(shown(&"\u{202e}".repeat(1000)).len(), 128);
        assert_eq!(shown_bytes(&[b'a'; 1000]).len(), MAX_SHOWN_BYTES);
        assert_eq!((shown_within("abc", 2), shown_within("\u{202e}", 7)), ("ab".to_owned(), String::new()));
    }
}
