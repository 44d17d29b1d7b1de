//! Tables of valid and invalid frames, and the property that a stream decodes the same wherever it is cut.

use super::*;
use proptest::prelude::*;

const LIMITS: Limits = Limits { frame_bytes: 300, message_bytes: 500, drops_too_big: false };
const DROPPING: Limits = Limits { drops_too_big: true, ..LIMITS };
const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

/// A masked frame with the shortest header.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        0..126 => bytes.push(0x80 | payload.len() as u8),
        _ => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// Decodes a stream that arrives in pieces that end at `cuts`. Returns the messages as text, and the number of bytes
/// left or the close code.
fn decode(stream: &[u8], cuts: &[usize], limits: &Limits) -> (Vec<String>, Result<usize, u16>) {
    let (mut messages, mut unfinished, mut rest, mut from) = (Vec::new(), None, Vec::new(), 0);
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).chain([stream.len()]).collect();
    ends.sort_unstable();
    for end in ends {
        rest.extend_from_slice(&stream[from..end]);
        from = end;
        let result = decode_frames(&mut rest, &mut unfinished, limits, |message| {
            messages.push(format!("{message:?}"));
            ControlFlow::Continue(())
        });
        match result {
            Ok(done) => drop(rest.drain(..done)),
            Err(violation) => return (messages, Err(violation.code)),
        }
    }
    (messages, Ok(rest.len()))
}

fn check(stream: &[u8], expected: Result<&[Message<'_>], u16>) {
    check_with(&LIMITS, stream, expected);
}

fn check_with(limits: &Limits, stream: &[u8], expected: Result<&[Message<'_>], u16>) {
    let (messages, end) = decode(stream, &[], limits);
    match expected {
        Ok(expected) => {
            assert_eq!(messages, expected.iter().map(|message| format!("{message:?}")).collect::<Vec<_>>());
            assert_eq!(end, Ok(0));
        }
        Err(code) => assert_eq!(end, Err(code), "{stream:x?}"),
    }
    let everywhere: Vec<usize> = (0..stream.len()).collect();
    assert_eq!(decode(stream, &everywhere, limits), (messages, end), "one byte at a time");
}

#[test]
fn complete_messages_are_decoded() {
    check(&frame(0x81, b"heartbeat"), Ok(&[Message::Text(b"heartbeat")]));
    check(&frame(0x81, &[b'x'; 300]), Ok(&[Message::Text(&[b'x'; 300])]));
    check(&frame(0x82, &[0xff, 0]), Ok(&[Message::Binary(&[0xff, 0])]));
    check(&frame(0x89, b"hi"), Ok(&[Message::Ping(b"hi")]));
    check(&frame(0x8a, b""), Ok(&[Message::Pong]));
    check(&frame(0x88, b""), Ok(&[Message::Close(None)]));
    check(&frame(0x88, b"\x03\xe8bye"), Ok(&[Message::Close(Some(1000))]));
    check(&[frame(0x81, b"a"), frame(0x81, b"b")].concat(), Ok(&[Message::Text(b"a"), Message::Text(b"b")]));
}

#[test]
fn fragments_become_one_message_even_with_a_control_frame_between() {
    let stream =
        [frame(0x01, "é".as_bytes().split_at(1).0), frame(0x89, b"p"), frame(0x80, &"é".as_bytes()[1..])].concat();
    check(&stream, Ok(&[Message::Ping(b"p"), Message::Text("é".as_bytes())]));
}

#[test]
fn each_violation_has_its_close_code() {
    let mut unmasked = frame(0x81, b"");
    unmasked[1] = 0;
    let huge = [0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0];
    let big = [0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let cases: &[(&[u8], u16)] = &[
        (&unmasked, close::PROTOCOL),
        (&frame(0xc1, b"rsv1"), close::PROTOCOL),
        (&frame(0xa1, b"rsv2"), close::PROTOCOL),
        (&frame(0x91, b"rsv3"), close::PROTOCOL),
        (&frame(0x83, b"opcode"), close::PROTOCOL),
        (&frame(0x8b, b"opcode"), close::PROTOCOL),
        (&frame(0x09, b"fragmented ping"), close::PROTOCOL),
        (&frame(0x89, &[0; 126]), close::PROTOCOL),
        (&frame(0x8a, &[0; 126]), close::PROTOCOL),
        (&frame(0x88, &[3; 126]), close::PROTOCOL),
        (&frame(0x80, b"continuation"), close::PROTOCOL),
        (&[frame(0x01, b"a"), frame(0x81, b"b")].concat(), close::PROTOCOL),
        (&frame(0x88, b"\x03"), close::PROTOCOL),
        (&frame(0x88, &1005u16.to_be_bytes()), close::PROTOCOL),
        (&frame(0x88, &999u16.to_be_bytes()), close::PROTOCOL),
        (&frame(0x88, &2999u16.to_be_bytes()), close::PROTOCOL),
        (&frame(0x88, b"\x03\xe8\xff"), close::INVALID),
        (&frame(0x81, b"\xff"), close::INVALID),
        (&frame(0x81, "é".as_bytes().split_at(1).0), close::INVALID),
        (&[frame(0x01, b"a"), frame(0x80, b"\xff")].concat(), close::INVALID),
        (&[frame(0x01, b"\xc3"), frame(0x80, b"")].concat(), close::INVALID),
        (&[frame(0x01, b"\xff"), frame(0x00, b"")].concat(), close::INVALID),
        (&frame(0x81, &[b'x'; 301]), close::TOO_BIG),
        (&[frame(0x01, &[b'x'; 300]), frame(0x80, &[b'x'; 201])].concat(), close::TOO_BIG),
        (&huge, close::PROTOCOL),
        (&big, close::TOO_BIG),
    ];
    for (stream, code) in cases {
        check(stream, Err(*code));
    }
}

#[test]
fn a_message_that_is_too_big_is_dropped_and_the_next_one_is_decoded() {
    let (big, next) = (vec![b'x'; 301], frame(0x81, b"next"));
    let ping = frame(0x89, b"");
    let check = |stream: &[&[u8]], expected: Result<&[Message<'_>], u16>| {
        check_with(&DROPPING, &stream.concat(), expected);
    };
    let (dropped, pinged, text) = (Message::TooBig, Message::Ping(b""), Message::Text(b"next"));
    check(&[&frame(0x81, &big), &next], Ok(&[dropped, text]));
    // Even text that is not UTF-8: nothing looks at it.
    check(&[&frame(0x81, &[0xff; 1000]), &frame(0x81, &big), &next], Ok(&[dropped, dropped, text]));
    check(&[&frame(0x01, &big), &ping, &frame(0x00, &big), &frame(0x80, b"x"), &next], Ok(&[dropped, pinged, text]));
    check(&[&frame(0x01, b"a"), &frame(0x00, &big), &frame(0x80, b""), &next], Ok(&[dropped, text]));
    check(
        &[&frame(0x01, &big[..300]), &frame(0x00, &big[..201]), &ping, &frame(0x80, &big), &next],
        Ok(&[dropped, pinged, text]),
    );
    check(&[&frame(0x01, &big[..300]), &frame(0x80, &big[..201]), &next], Ok(&[dropped, text]));
    // The rules of fragments apply to what is dropped, and binary messages are not worth it.
    check(&[&frame(0x01, &big), &frame(0x81, b"a")], Err(close::PROTOCOL));
    check(&[&frame(0x01, &big), &frame(0x81, &big)], Err(close::PROTOCOL));
    check(&[&frame(0x80, &big)], Err(close::PROTOCOL));
    check(&[&frame(0x82, &big)], Err(close::TOO_BIG));
    check(&[&frame(0x02, b"a"), &frame(0x80, &big)], Err(close::TOO_BIG));
    check(&[&frame(0x02, &big[..300]), &frame(0x80, &big[..201])], Err(close::TOO_BIG));
}

#[test]
fn decoding_stops_where_the_handler_breaks() {
    let mut stream = [frame(0x81, b"a"), frame(0x81, b"b")].concat();
    let done = decode_frames(&mut stream, &mut None, &LIMITS, |_| ControlFlow::Break(())).unwrap();
    assert_eq!(done, stream.len() / 2);
}

proptest! {
    #[test]
    fn a_stream_decodes_the_same_wherever_it_is_cut(
        frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..400)), 1..6),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        let stream: Vec<u8> = frames.iter().flat_map(|(first, payload)| frame(*first, payload)).collect();
        for limits in [LIMITS, DROPPING] {
            prop_assert_eq!(decode(&stream, &cuts, &limits), decode(&stream, &[], &limits));
        }
    }

    #[test]
    fn random_bytes_decode_the_same_wherever_they_are_cut(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        cuts in prop::collection::vec(any::<usize>(), 0..4),
    ) {
        for limits in [LIMITS, DROPPING] {
            prop_assert_eq!(decode(&bytes, &cuts, &limits), decode(&bytes, &[], &limits));
        }
    }
}
