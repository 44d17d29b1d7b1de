//! Events of chat, read back from their frames for slow clients.

use bytes::{BufMut, BytesMut};

use crate::protocol::event::split_value;
use crate::protocol::{Event, EventFormat, EventKind};
use crate::websocket::frame::append_text_frame;

pub(super) const FORMAT: EventFormat = EventFormat { read, put };

const KINDS: [(&str, EventKind); 3] =
    [("join", EventKind::Joined), ("leave", EventKind::Left), ("msg", EventKind::Message)];

fn read(payload: &[u8]) -> Option<Event<'_>> {
    let typed = payload.strip_prefix(br#"{"type":""#)?;
    let (name, kind) = KINDS.into_iter().find(|(name, _)| typed.starts_with(name.as_bytes()))?;
    let (user, rest) = split_value(typed[name.len()..].strip_prefix(br#"","payload":{"user":"#)?)?;
    let rest = match kind {
        EventKind::Message => split_value(rest.strip_prefix(br#","text":"#)?)?.1,
        EventKind::Joined | EventKind::Left => rest,
    };
    let time = rest.strip_prefix(br#","ts":"#)?.strip_suffix(b"}}")?;
    Some(Event { kind, user, time })
}

fn put(buffer: &mut BytesMut, event: Event<'_>) {
    let name = KINDS.iter().find(|(_, kind)| *kind == event.kind).map_or("", |(name, _)| name);
    append_text_frame(buffer, |buffer| {
        buffer.put_slice(br#"{"type":""#);
        buffer.put_slice(name.as_bytes());
        buffer.put_slice(br#"","payload":{"user":"#);
        buffer.put_slice(event.user);
        buffer.put_slice(br#","ts":"#);
        buffer.put_slice(event.time);
        buffer.put_slice(b"}}");
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json::Reader;
    use crate::presence::{Diff, Reason};
    use crate::protocol::chat::history::Messages;
    use crate::websocket::frame::split_frames;

    proptest! {
        #[test]
        fn events_that_were_read_are_written_as_they_were(joined in "[^\\p{Cc}]{1,40}", left in "[^\\p{Cc}]{1,40}") {
            let diff = Diff {
                joined: vec![(joined.as_str().into(), None)],
                left: vec![(left.as_str().into(), Reason::Closed)],
                ..Diff::default()
            };
            let frames = Messages::encode(&mut Reader::default(), &diff, &[], 1_700_000_000_120).frames;
            let mut again = BytesMut::new();
            let read: Vec<_> = split_frames(&frames).map(|(_, payload)| read(payload).unwrap()).collect();
            read.iter().for_each(|event| put(&mut again, *event));
            prop_assert_eq!(&again, &frames);
            prop_assert_eq!([read[0].kind, read[1].kind], [EventKind::Joined, EventKind::Left]);
        }
    }

    #[test]
    fn a_message_names_its_sender_and_other_frames_are_not_events() {
        let message = br#"{"type":"msg","payload":{"user":"a\"n","text":"\"user\":\\","ts":1700000000.123}}"#;
        let event = read(message).unwrap();
        assert_eq!(
            (event.kind, event.user, event.time),
            (EventKind::Message, &br#""a\"n""#[..], &b"1700000000.123"[..])
        );
        for other in [&br#"{"type":"pong","ts":1}"#[..], br#"{"type":"error","message":"x"}"#, b"", b"{}"] {
            assert_eq!(read(other), None);
        }
    }
}
