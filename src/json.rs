//! JSON: a reader with reused buffers, and functions that write strings, numbers and lists.
//!
//! The reader is simd-json's tape over one buffer per worker: after the first message it does not allocate. The nesting
//! depth is limited, so that a message full of brackets is refused instead of overflowing the stack. Writers append
//! directly to the frame that is being built.

use bytes::{BufMut, BytesMut};
use simd_json::prelude::Writable;
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
    /// Parses `text` and passes it to `read`; `None` if it is not JSON or nested deeper than [`MAX_DEPTH`].
    pub fn read<R>(&mut self, text: &[u8], read: impl FnOnce(Option<Value<'_, '_>>) -> R) -> R {
        self.input.clear();
        self.input.extend_from_slice(text);
        self.input.resize(text.len() + INPUT_PADDING, 0);
        let mut tape = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let parsed = simd_json::fill_tape_padded(&mut self.input, text.len(), &mut self.buffers, &mut tape);
        let result = read(parsed.is_ok().then(|| tape.as_value()));
        self.tape = tape.reset();
        result
    }
}

/// Whether the text is one JSON object, nested no deeper than [`MAX_DEPTH`].
pub fn is_object(reader: &mut Reader, text: &str) -> bool {
    reader.read(text.as_bytes(), |value| value.is_some_and(|value| value.is_object()))
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

/// Whether no byte needs an escape. Checks eight bytes at a time ("Bit Twiddling Hacks", S. E. Anderson: `hasless`,
/// `hasvalue`).
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
pub fn put_member(buffer: &mut BytesMut, user: &str, state: Option<&str>) {
    buffer.put_slice(br#"{"user":"#);
    put_string(buffer, user);
    if let Some(state) = state {
        buffer.put_slice(br#","state":"#);
        buffer.put_slice(state.as_bytes());
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

    proptest! {
        #[test]
        fn a_written_string_parses_to_the_same_text(text in any::<String>()) {
            let mut buffer = BytesMut::new();
            put_string(&mut buffer, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&buffer).unwrap(), text);
        }

        #[test]
        fn the_reader_accepts_only_what_serde_json_accepts(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Reader::default();
            let accepted = reader.read(&bytes, |value| value.is_some());
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
