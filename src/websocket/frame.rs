//! Builds text frames of the server: unmasked, with the shortest length (RFC 6455, section 5.2).
//!
//! A finished frame is shared by every receiver, so it is built once and never copied.

use bytes::{Bytes, BytesMut};

/// Builds a text frame around the JSON that `write` appends.
pub fn text_frame(write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut buffer = BytesMut::with_capacity(256);
    append_text_frame(&mut buffer, write);
    buffer.freeze()
}

/// Appends a text frame around the JSON that `write` appends to the buffer.
pub fn append_text_frame(buffer: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    const SHORT: usize = 2;
    let start = buffer.len();
    buffer.extend_from_slice(&[0; SHORT]);
    write(buffer);
    let length = buffer.len() - start - SHORT;
    let mut head = [0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let head: &[u8] = match length {
        0..126 => {
            head[1] = length as u8;
            &head[..2]
        }
        126..65_536 => {
            head[1] = 126;
            head[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            &head[..4]
        }
        _ => {
            head[1] = 127;
            head[2..10].copy_from_slice(&(length as u64).to_be_bytes());
            &head[..10]
        }
    };
    // Most frames are short and stay where they are; a longer head moves its payload up once, before anyone shares it.
    let longer = head.len() - SHORT;
    if longer > 0 {
        buffer.extend_from_slice(&[0; 8][..longer]);
        buffer.copy_within(start + SHORT..start + SHORT + length, start + head.len());
    }
    buffer[start..start + head.len()].copy_from_slice(head);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_have_the_shortest_length() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            let frame = text_frame(|buffer| buffer.extend(std::iter::repeat_n(b'x', length)));
            let mut expected = Vec::new();
            let payload = vec![b'x'; length];
            let expected = fastwebsockets::Frame::text(payload.into()).write(&mut expected).to_vec();
            assert!(frame == expected, "length {length}");
        }
    }
}
