//! JSON: a reader with reused buffers, and functions that write strings, numbers and lists.
//!
//! The reader is simd-json's tape over one buffer per worker: after the first message it does not allocate. The nesting
//! depth is limited, so that a message full of brackets is refused instead of overflowing the stack. Writers append
//! directly to the frame that is being built.

use bytes::{BufMut, BytesMut};
use simd_json::prelude::{TypedScalarValue, ValueAsScalar, Writable};
use simd_json::{Buffers, INPUT_PADDING, Tape};

/// The limit of nesting in a message. The protocols themselves need two levels; the rest is for states and data.
pub const MAX_DEPTH: usize = 8;

/// A parsed message.
pub type Value<'tape, 'input> = simd_json::tape::Value<'tape, 'input>;

/// Reads messages; one per worker, reused for each.
pub struct Reader {
    buffers: Buffers,
    tape: Tape<'static>,
    /// The message with the padding that the parser needs. The parser overwrites it.
    input: Vec<u8>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Default for Reader {
    fn default() -> Self {
        Self { buffers: Buffers::with_max_depth(1024, MAX_DEPTH), tape: Tape(Vec::new()), input: Vec::new() }
    }
}

impl Reader {
    /// Parses `text` and passes it to `read`; `None` if it is not JSON or nested deeper than [`MAX_DEPTH`]. Surrogates
    /// without a partner become U+FFFD.
    pub fn read<R>(&mut self, text: &[u8], read: impl FnOnce(Option<Value<'_, '_>>) -> R) -> R {
        let tape = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        set_input(&mut self.input, text);
        let tape = match parse(&mut self.input, &mut self.buffers, tape) {
            Ok(tape) => {
                let result = read(Some(tape.as_value()));
                self.tape = tape.reset();
                return result;
            }
            Err(tape) => tape,
        };
        self.read_repaired(text, tape, read)
    }

    /// Parses a text that the parser has refused a second time if the reason may be a surrogate without a partner.
    /// JavaScript cuts strings between the two halves of an emoji, and `JSON.stringify` writes the rest as an escape.
    #[cold]
    fn read_repaired<R>(
        &mut self,
        text: &[u8],
        tape: Tape<'static>,
        read: impl FnOnce(Option<Value<'_, '_>>) -> R,
    ) -> R {
        set_input(&mut self.input, text);
        let repaired = match replace_lone_surrogates(&mut self.input) {
            true => parse(&mut self.input, &mut self.buffers, tape.reset()),
            false => Err(tape),
        };
        let result = read(repaired.as_ref().ok().map(Tape::as_value));
        self.tape = repaired.map_or_else(|tape| tape, Tape::reset);
        result
    }
}

/// Copies a text with the padding that the parser needs.
fn set_input(input: &mut Vec<u8>, text: &[u8]) {
    input.clear();
    input.extend_from_slice(text);
    input.resize(text.len() + INPUT_PADDING, 0);
}

/// Fills a tape with the parsed input. If it cannot be parsed, the tape comes back empty.
fn parse<'input>(
    input: &'input mut [u8],
    buffers: &mut Buffers,
    mut tape: Tape<'input>,
) -> Result<Tape<'input>, Tape<'static>> {
    let length = input.len() - INPUT_PADDING;
    match simd_json::fill_tape_padded(input, length, buffers, &mut tape) {
        Ok(()) => Ok(tape),
        Err(_) => Err(tape.reset()),
    }
}

/// Replaces escapes of surrogates that are not followed by their partner (RFC 8259, 8.2). Both escapes have 6 bytes.
fn replace_lone_surrogates(text: &mut [u8]) -> bool {
    const REPLACEMENT: &[u8] = b"\\ufffd";
    let (mut at, mut is_replaced) = (0, false);
    while let Some(next) = text.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == b'\\')) {
        at += next;
        at += match (escaped_unit(text, at), escaped_unit(text, at + REPLACEMENT.len())) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 2 * REPLACEMENT.len(),
            (Some(0xd800..=0xdfff), _) => {
                text[at..at + REPLACEMENT.len()].copy_from_slice(REPLACEMENT);
                is_replaced = true;
                REPLACEMENT.len()
            }
            _ => 2, // The escaped character may be a backslash.
        };
    }
    is_replaced
}

/// The UTF-16 code unit of an escape at this position: `\u` and four hexadecimal digits.
fn escaped_unit(text: &[u8], at: usize) -> Option<u16> {
    let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
    let digits =
        std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    u16::from_str_radix(digits, 16).ok()
}

/// A field of an object; `None` if it is missing or null. If an object repeats a field, the last one counts, as in
/// JavaScript.
#[must_use]
pub fn field<'tape, 'input>(object: &Value<'tape, 'input>, name: &str) -> Option<Value<'tape, 'input>> {
    field_or_null(object, name).filter(|value| !value.is_null())
}

/// The same for fields in which null has a meaning.
#[must_use]
pub fn field_or_null<'tape, 'input>(object: &Value<'tape, 'input>, name: &str) -> Option<Value<'tape, 'input>> {
    object.as_object()?.iter().filter(|(key, _)| *key == name).map(|(_, value)| value).last()
}

/// A whole number, however it is written: 7, 7.0 and 7e0 are the same number (JSON Schema, 6.1.1).
#[must_use]
pub fn whole_number(value: &Value<'_, '_>) -> Option<i128> {
    /// Beyond these, floats are not exact.
    const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
    let exact = value.as_u64().map(i128::from).or_else(|| value.as_i64().map(i128::from));
    let whole = |float: &f64| float.fract() == 0.0 && float.abs() <= MAX_EXACT;
    exact.or_else(|| value.as_f64().filter(whole).map(|float| float as i128))
}

/// Whether the text is one JSON object, nested no deeper than [`MAX_DEPTH`].
pub fn is_object(reader: &mut Reader, text: &str) -> bool {
    reader.read(text.as_bytes(), |value| value.is_some_and(|value| value.is_object()))
}

/// Whether the text is JSON, nested to any depth.
#[must_use]
pub fn is_valid(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// The value as compact JSON text.
pub fn compact(value: &Value<'_, '_>) -> String {
    let mut text = Vec::with_capacity(128);
    // Writing to a vector cannot fail, and the parser accepts only UTF-8.
    let _ = value.write(&mut text);
    String::from_utf8(text).unwrap_or_default()
}

/// Appends `text` as a JSON string, quotes included.
pub fn put_string(buffer: &mut BytesMut, text: &str) {
    let bytes = text.as_bytes();
    buffer.reserve(bytes.len() + 2);
    buffer.put_u8(b'"');
    if !is_plain(bytes) {
        return put_escaped(buffer, bytes);
    }
    buffer.extend_from_slice(bytes);
    buffer.put_u8(b'"');
}

/// `text` as a JSON string, quotes included.
#[must_use]
pub fn string(text: &str) -> String {
    let mut buffer = BytesMut::new();
    put_string(&mut buffer, text);
    // It was text.
    String::from_utf8(buffer.into()).unwrap_or_default()
}

/// Appends text that `write` appends, as a JSON string: JSON within JSON.
pub fn put_as_string(buffer: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    let mut text = BytesMut::new();
    write(&mut text);
    buffer.reserve(text.len() + text.len() / 8 + 2);
    buffer.put_u8(b'"');
    put_escaped(buffer, &text);
}

/// Whether no byte needs an escape. Checks eight bytes at a time ("Bit Twiddling Hacks", S. E. Anderson: `hasless`,
/// `hasvalue`).
#[inline(always)] // Two callers; as a call, each string costs 15 instructions more (`scripts/instructions`).
fn is_plain(bytes: &[u8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let has_less = |word: u64, than: u64| word.wrapping_sub(ONES * than) & !word & HIGH;
    let has = |word: u64, byte: u8| has_less(word ^ (ONES * u64::from(byte)), 1);
    let (words, rest) = bytes.as_chunks();
    let found = words.iter().fold(0, |found, word| {
        let word = u64::from_ne_bytes(*word);
        found | has_less(word, 0x20) | has(word, b'"') | has(word, b'\\')
    });
    found == 0 && rest.iter().all(|byte| ESCAPES[usize::from(*byte)] == 0)
}

/// Appends the content of a string with escapes (RFC 8259, 7), and the closing quote.
fn put_escaped(buffer: &mut BytesMut, bytes: &[u8]) {
    let mut written = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let escape = ESCAPES[usize::from(*byte)];
        if escape == 0 {
            continue;
        }
        buffer.extend_from_slice(&bytes[written..at]);
        written = at + 1;
        buffer.extend_from_slice(&[b'\\', escape]);
        if escape == b'u' {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
            buffer.extend_from_slice(&[b'0', b'0', high, low]);
        }
    }
    buffer.extend_from_slice(&bytes[written..]);
    buffer.put_u8(b'"');
}

/// The number of bytes that [`put_string`] appends.
#[must_use]
pub fn string_bytes(text: &str) -> usize {
    if is_plain(text.as_bytes()) {
        return 2 + text.len();
    }
    let escaped = |byte: u8| match ESCAPES[usize::from(byte)] {
        0 => 1,
        b'u' => 6,
        _ => 2,
    };
    2 + text.bytes().map(escaped).sum::<usize>()
}

/// Appends a number.
pub fn put_number(buffer: &mut BytesMut, number: impl itoa::Integer) {
    buffer.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends the items with commas between them.
pub fn put_list<T>(buffer: &mut BytesMut, items: impl IntoIterator<Item = T>, mut put: impl FnMut(&mut BytesMut, T)) {
    for (position, item) in items.into_iter().enumerate() {
        if position > 0 {
            buffer.put_u8(b',');
        }
        put(buffer, item);
    }
}

/// Appends a member as an object: the user and, if there is one, the state, which is JSON already.
pub fn put_member(buffer: &mut BytesMut, user: &str, state: Option<&str>, info: Option<&str>) {
    buffer.put_slice(br#"{"user":"#);
    put_string(buffer, user);
    if let Some(state) = state {
        buffer.put_slice(br#","state":"#);
        buffer.put_slice(state.as_bytes());
    }
    if let Some(info) = info {
        buffer.put_slice(br#","info":"#);
        buffer.put_slice(if info.is_empty() { "null".as_bytes() } else { info.as_bytes() });
    }
    buffer.put_u8(b'}');
}

/// For each byte that must be escaped (RFC 8259, 7), the character after the backslash: `u` if there is no short form.
/// 0 for all other bytes.
const ESCAPES: [u8; 256] = {
    let mut escapes = [0; 256];
    let mut control = 0;
    while control < 0x20 {
        escapes[control] = b'u';
        control += 1;
    }
    escapes[b'\n' as usize] = b'n';
    escapes[b'\r' as usize] = b'r';
    escapes[b'\t' as usize] = b't';
    escapes[8] = b'b';
    escapes[12] = b'f';
    escapes[b'"' as usize] = b'"';
    escapes[b'\\' as usize] = b'\\';
    escapes
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_nested_too_deep_are_refused_and_the_next_one_is_read() {
        let mut reader = Reader::default();
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(reader.read(nested(MAX_DEPTH).as_bytes(), |value| value.is_some()));
        assert!(!reader.read(nested(MAX_DEPTH + 1).as_bytes(), |value| value.is_some()));
        assert!(!reader.read("[".repeat(5_000).as_bytes(), |value| value.is_some()));
        assert!(!reader.read(nested(5_000).as_bytes(), |value| value.is_some()));
        assert!(reader.read(b"{}", |value| value.is_some()));
    }

    #[test]
    fn a_whole_number_is_one_however_it_is_written() {
        let check = |text: &str, want: Option<i128>| {
            let got = Reader::default().read(text.as_bytes(), |value| whole_number(&value.unwrap()));
            assert_eq!(got, want, "{text}");
        };
        ["7", "7.0", "7e0", "0.7e1"].iter().for_each(|text| check(text, Some(7)));
        check("-9223372036854775808", Some(i64::MIN.into()));
        check("18446744073709551615", Some(u64::MAX.into()));
        for text in ["7.5", "1e300", "18446744073709551616", "true", "null", "\"7\"", "[7]"] {
            check(text, None);
        }
    }

    #[test]
    fn surrogates_without_a_partner_become_replacement_characters() {
        let check = |text: &str, expected: Option<&str>| {
            let mut reader = Reader::default();
            let got = reader.read(text.as_bytes(), |value| value.as_ref().map(compact));
            assert_eq!(got.as_deref(), expected, "{text}");
            assert!(reader.read(b"{}", |value| value.is_some()), "the next message is read");
        };
        check(r#"["abc\ud83d"]"#, Some("[\"abc\u{fffd}\"]"));
        check(r#"["\uDE00abc"]"#, Some("[\"\u{fffd}abc\"]"));
        check(r#"["\ud83d\ud83d\ude00\ude00"]"#, Some("[\"\u{fffd}😀\u{fffd}\"]"));
        check(r#"["\ude00\ud83d"]"#, Some("[\"\u{fffd}\u{fffd}\"]"));
        check(r#"["\ud83d\n"]"#, Some("[\"\u{fffd}\\n\"]"));
        check(r#"["\ud83d\u0041"]"#, Some("[\"\u{fffd}A\"]"));
        check(r#"{"\ud83d":"\ud83d"}"#, Some("{\"\u{fffd}\":\"\u{fffd}\"}"));
        // A backslash, then text that only looks like an escape.
        check(r#"["\\ud83d","\\\ud83d"]"#, Some("[\"\\\\ud83d\",\"\\\\\u{fffd}\"]"));
        for wrong in [r#"["\ud83"]"#, r#"["\ud83d"#, r#"["\ud83d\"]"#, r#"["\ud83d",]"#, r#"["\ud83g"]"#, r"\ud83d"] {
            check(wrong, None);
        }
    }

    #[test]
    fn the_last_of_repeated_fields_counts_and_null_counts_as_missing() {
        let check = |text: &str, read: fn(&Value<'_, '_>) -> Option<String>, expected: Option<&str>| {
            let got = Reader::default().read(text.as_bytes(), |value| read(&value.unwrap()));
            assert_eq!(got.as_deref(), expected, "{text}");
        };
        check(r#"{"a":1,"b":2,"a":3}"#, |value| field(value, "a").map(|a| compact(&a)), Some("3"));
        check(r#"{"a":1,"\u0061":[4]}"#, |value| field(value, "a").map(|a| compact(&a)), Some("[4]"));
        check(r#"{"a":1,"a":null}"#, |value| field(value, "a").map(|a| compact(&a)), None);
        check(r#"{"a":null}"#, |value| field_or_null(value, "a").map(|a| compact(&a)), Some("null"));
        check(r#"{"a":{"b":1}}"#, |value| field(value, "b").map(|a| compact(&a)), None);
        check("[1]", |value| field(value, "b").map(|a| compact(&a)), None);
    }

    proptest! {
        #[test]
        fn strings_are_read_as_javascript_reads_them(units in prop::collection::vec(
            prop_oneof![Just(0xd83d_u16), Just(0xde00), Just(0x41), Just(0x5c), Just(0x22), any::<u16>()], 0..12)) {
            let escaped: String = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
            let text = format!("[\"{escaped}\"]");
            let expected = serde_json::to_string(&[String::from_utf16_lossy(&units)]).unwrap();
            let got = Reader::default().read(text.as_bytes(), |value| compact(&value.unwrap()));
            let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
            prop_assert_eq!(value(&got), value(&expected));
        }
        #[test]
        fn a_written_string_parses_to_the_same_text(text in any::<String>()) {
            let mut buffer = BytesMut::new();
            put_string(&mut buffer, &text);
            prop_assert_eq!(buffer.len(), string_bytes(&text));
            prop_assert_eq!(serde_json::from_slice::<String>(&buffer).unwrap(), text);
        }

        #[test]
        fn the_reader_accepts_only_what_serde_json_accepts(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Reader::default();
            let accepted = reader.read(&bytes, |value| value.is_some());
            let accepted = accepted && !bytes.windows(3).any(|part| part == b"\\ud" || part == b"\\uD");
            prop_assert!(!accepted || serde_json::from_slice::<serde_json::Value>(&bytes).is_ok());
        }

        #[test]
        fn compact_text_parses_to_the_same_value(
            numbers in prop::collection::vec(any::<i64>(), 0..5),
            text in any::<String>(),
            float in -1e9f64..1e9,
        ) {
            let value = serde_json::json!({ "n": numbers, "t": text, "f": float, "b": [true, null] });
            let mut reader = Reader::default();
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            let text = reader.read(pretty.as_bytes(), |value| compact(&value.unwrap()));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        }
    }
}
