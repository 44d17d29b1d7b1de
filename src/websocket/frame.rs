//! Text frames of the server: unmasked, with the shortest length (RFC 6455, section 5.2).
//!
//! A finished frame is shared by all receivers: it is built once and not copied.

use bytes::{Bytes, BytesMut};

/// Builds a text frame around the JSON that `write` appends.
pub fn text_frame(write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut buffer = BytesMut::with_capacity(256);
    append_text_frame(&mut buffer, write);
    buffer.freeze()
}

/// Appends a text frame around the JSON that `write` appends to the buffer.
pub fn append_text_frame(buffer: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    const SHORT_HEADER: usize = 2;
    let start = buffer.len();
    buffer.extend_from_slice(&[0; SHORT_HEADER]);
    write(buffer);
    let length = buffer.len() - start - SHORT_HEADER;
    let mut header = [0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let header: &[u8] = match length {
        0..126 => {
            header[1] = length as u8;
            &header[..2]
        }
        126..65_536 => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            &header[..4]
        }
        _ => {
            header[1] = 127;
            header[2..10].copy_from_slice(&(length as u64).to_be_bytes());
            &header[..10]
        }
    };
    // Most frames are short, so their payload is in its place already. For a longer header it is moved once.
    let longer = header.len() - SHORT_HEADER;
    if longer > 0 {
        buffer.extend_from_slice(&[0; 8][..longer]);
        buffer.copy_within(start + SHORT_HEADER..start + SHORT_HEADER + length, start + header.len());
    }
    buffer[start..start + header.len()].copy_from_slice(header);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_the_shortest_length() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            let frame = text_frame(|buffer| buffer.extend(std::iter::repeat_n(b'x', length)));
            let mut expected = Vec::new();
            let payload = vec![b'x'; length];
            let expected = fastwebsockets::Frame::text(payload.into()).write(&mut expected).to_vec();
            assert!(frame == expected, "length {length}");
        }
    }
}
