//! Events that a client must not miss. For a client that is far behind, a connection reads them back from their frames,
//! and drops those that cancel out.

use bytes::BytesMut;

/// An event in the format of a protocol. Parts are JSON as they are in the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// What happened.
    pub kind: EventKind,
    /// The user it is about, or who sent the message.
    pub user: &'a [u8],
    /// When it happened.
    pub time: &'a [u8],
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A user joined.
    Joined,
    /// A user left.
    Left,
    /// A user sent a message. It comes after the join of the user and before the leave.
    Message,
}

/// How a protocol writes events.
#[derive(Debug, Clone, Copy)]
pub struct EventFormat {
    /// Reads the payload of a frame; `None` if it is no event.
    pub read: fn(payload: &[u8]) -> Option<Event<'_>>,
    /// Appends the frame of a join or a leave: the same bytes that were read.
    pub put: fn(&mut BytesMut, Event<'_>),
}

/// The JSON string or number at the start of a text, and what comes after it.
pub(super) fn split_value(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = if text.first() == Some(&b'"') {
        let mut is_escaped = false;
        let is_end = |byte: &u8| {
            let ends = *byte == b'"' && !is_escaped;
            is_escaped = *byte == b'\\' && !is_escaped;
            ends
        };
        2 + text[1..].iter().position(is_end)?
    } else {
        text.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b'-' | b'.'))?
    };
    Some(text.split_at(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_ends_at_its_closing_quote_or_last_digit() {
        let check = |text: &str, value: &str| {
            let (got, rest) = split_value(text.as_bytes()).unwrap();
            assert_eq!((got, rest), (value.as_bytes(), &text.as_bytes()[value.len()..]));
        };
        check(r#""ann","ts":1"#, r#""ann""#);
        check(r#""a\"b\\","ts":1"#, r#""a\"b\\""#);
        check(r#""",x"#, r#""""#);
        check(r#"-7.25,"#, "-7.25");
        assert_eq!(split_value(br#""ann"#), None);
    }
}
