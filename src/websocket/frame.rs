//! Text frames of the server: unmasked, with the shortest length (RFC 6455, section 5.2).
//!
//! A finished frame is shared by all receivers: it is built once and not copied.

use bytes::{Bytes, BytesMut};

/// Two bytes, and eight for the length of a long frame.
const LONGEST_HEADER: usize = 10;
/// The length of the buffer in which a frame is built; it grows if the frame is longer.
const BUFFER_BYTES: usize = 256;

/// Builds a text frame around the JSON that `write` appends.
pub fn text_frame(write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut buffer = BytesMut::with_capacity(BUFFER_BYTES);
    append_text_frame(&mut buffer, write);
    buffer.freeze()
}

/// A text frame that is kept for long: it does not pin a buffer that is much longer.
pub fn kept_text_frame(write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut buffer = BytesMut::with_capacity(BUFFER_BYTES);
    append_text_frame(&mut buffer, write);
    trimmed(buffer)
}

/// A finished frame, or several, that is kept for long: it does not pin a buffer that is much longer.
pub fn trimmed(buffer: BytesMut) -> Bytes {
    let is_wasteful = buffer.capacity() > BUFFER_BYTES && buffer.capacity() - buffer.len() > buffer.len() / 8;
    if is_wasteful { Bytes::copy_from_slice(&buffer) } else { buffer.freeze() }
}

/// Appends a text frame around the JSON that `write` appends to the buffer.
pub fn append_text_frame(buffer: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    const SHORT_HEADER: usize = 2;
    let start = buffer.len();
    buffer.extend_from_slice(&[0; SHORT_HEADER]);
    write(buffer);
    let length = buffer.len() - start - SHORT_HEADER;
    let mut header = [0; LONGEST_HEADER];
    let header = fill_header(&mut header, length);
    // Most frames are short, so their payload is in its place already. For a longer header it is moved once.
    let longer = header.len() - SHORT_HEADER;
    if longer > 0 {
        buffer.extend_from_slice(&[0; 8][..longer]);
        buffer.copy_within(start + SHORT_HEADER..start + SHORT_HEADER + length, start + header.len());
    }
    buffer[start..start + header.len()].copy_from_slice(header);
}

/// Builds a text frame around JSON of this length, which `write` appends.
pub fn sized_text_frame(length: usize, write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut buffer = BytesMut::with_capacity(LONGEST_HEADER + length);
    let mut header = [0; LONGEST_HEADER];
    let header = fill_header(&mut header, length);
    buffer.extend_from_slice(header);
    write(&mut buffer);
    debug_assert_eq!(buffer.len(), header.len() + length);
    buffer.freeze()
}

/// Writes the header of a text frame with this length, and returns the part of the buffer that is used.
#[inline]
fn fill_header(header: &mut [u8; LONGEST_HEADER], length: usize) -> &[u8] {
    header[0] = 0x81;
    match length {
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
            header[2..].copy_from_slice(&(length as u64).to_be_bytes());
            &header[..]
        }
    }
}

/// The frames in bytes that [`append_text_frame`] wrote, each with its payload.
pub fn split_frames(mut bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let (header, length) = match *bytes {
            [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
            [_, 127, ref rest @ ..] => (10, u64::from_be_bytes(*rest.first_chunk()?) as usize),
            [_, length, ..] => (2, usize::from(length)),
            _ => return None,
        };
        let (frame, rest) = bytes.split_at_checked(header + length)?;
        bytes = rest;
        Some((frame, &frame[header..]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_split_where_they_were_joined() {
        let lengths = [0, 1, 125, 126, 127, 65_535, 65_536, 3];
        let mut joined = BytesMut::new();
        for length in lengths {
            append_text_frame(&mut joined, |buffer| buffer.extend(std::iter::repeat_n(b'x', length)));
        }
        let (frames, payloads): (Vec<_>, Vec<_>) = split_frames(&joined).unzip();
        assert_eq!(payloads.iter().map(|payload| payload.len()).collect::<Vec<_>>(), lengths);
        assert_eq!(frames.concat(), joined);
    }

    #[test]
    fn headers_have_the_shortest_length() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            let frame = text_frame(|buffer| buffer.extend(std::iter::repeat_n(b'x', length)));
            let mut expected = Vec::new();
            let payload = vec![b'x'; length];
            let expected = fastwebsockets::Frame::text(payload.into()).write(&mut expected).to_vec();
            assert!(frame == expected, "length {length}");
            let sized = sized_text_frame(length, |buffer| buffer.extend(std::iter::repeat_n(b'x', length)));
            assert!(sized == expected, "length {length}");
        }
    }
}
