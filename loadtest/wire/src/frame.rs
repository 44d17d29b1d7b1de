//! WebSocket frames (RFC 6455 section 5.2) in both directions: parses headers, builds frames. No state, no sockets.

/// Opcodes of RFC 6455 section 5.2.
pub const CONTINUATION: u8 = 0x0;
/// A text message.
pub const TEXT: u8 = 0x1;
/// A binary message.
pub const BINARY: u8 = 0x2;
/// The closing handshake, with an optional status code and reason.
pub const CLOSE: u8 = 0x8;
/// Asks the peer for a pong with the same payload.
pub const PING: u8 = 0x9;
/// Answers a ping.
pub const PONG: u8 = 0xA;

const FINAL_BIT: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
const MASK_BIT: u8 = 0x80;
const MAX_CONTROL_BYTES: u64 = 125;

/// The masking key of all client frames. It need not be random here. It changes every byte, so a server that forgets to
/// unmask fails.
pub const MASKING_KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What precedes a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The low four bits of the first byte.
    pub opcode: u8,
    /// This is the last frame of its message.
    pub is_final: bool,
    /// `None`: the payload is not masked.
    pub mask: Option<[u8; 4]>,
    /// Length of the header itself, masking key included.
    pub header_bytes: usize,
    /// Length of the payload that follows.
    pub payload_bytes: u64,
}

/// The peer broke RFC 6455; the text says how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation(pub &'static str);

impl Header {
    fn is_control(&self) -> bool {
        self.opcode & 0x8 != 0
    }
}

/// Parses the header at the start of `bytes`. `None`: it is incomplete.
#[inline]
pub fn parse_header(bytes: &[u8]) -> Result<Option<Header>, Violation> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    if first & RESERVED_BITS != 0 {
        return Err(Violation("a reserved bit is set"));
    }
    let (length_bytes, payload_bytes) = match second & !MASK_BIT {
        126 => match rest.first_chunk::<2>() {
            Some(length) => (2, u64::from(u16::from_be_bytes(*length))),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(length) => (8, u64::from_be_bytes(*length)),
            None => return Ok(None),
        },
        short => (0, u64::from(short)),
    };
    if length_bytes > 0 && length_bytes != length_bytes_of(payload_bytes) {
        return Err(Violation("a payload length is not encoded in the shortest form"));
    }
    let mut header = Header {
        opcode: first & 0xF,
        is_final: first & FINAL_BIT != 0,
        mask: None,
        header_bytes: 2 + length_bytes,
        payload_bytes,
    };
    if header.is_control() && (payload_bytes > MAX_CONTROL_BYTES || !header.is_final) {
        return Err(Violation("a control frame is fragmented or longer than 125 bytes"));
    }
    if second & MASK_BIT != 0 {
        let Some(mask) = rest[length_bytes..].first_chunk::<4>() else {
            return Ok(None);
        };
        header.mask = Some(*mask);
        header.header_bytes += mask.len();
    }
    Ok(Some(header))
}

/// A complete client frame.
pub fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    masked_with(MASKING_KEY, opcode, payload)
}

/// A complete client frame with the given masking key.
pub fn masked_with(mask: [u8; 4], opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 14);
    put_header(&mut frame, FINAL_BIT | opcode, Some(mask), payload.len() as u64);
    let payload_start = frame.len();
    frame.extend_from_slice(payload);
    apply_mask(&mut frame[payload_start..], mask);
    frame
}

/// A complete server frame.
pub fn unmasked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 10);
    put_header(&mut frame, FINAL_BIT | opcode, None, payload.len() as u64);
    frame.extend_from_slice(payload);
    frame
}

/// Appends a header to `frame`. `first_byte` holds the final bit, the reserved bits and the opcode, valid or not.
pub fn put_header(frame: &mut Vec<u8>, first_byte: u8, mask: Option<[u8; 4]>, payload_bytes: u64) {
    let mask_bit = if mask.is_some() { MASK_BIT } else { 0 };
    frame.push(first_byte);
    match length_bytes_of(payload_bytes) {
        0 => frame.push(mask_bit | payload_bytes as u8),
        2 => {
            frame.push(mask_bit | 126);
            frame.extend_from_slice(&(payload_bytes as u16).to_be_bytes());
        }
        _ => {
            frame.push(mask_bit | 127);
            frame.extend_from_slice(&payload_bytes.to_be_bytes());
        }
    }
    frame.extend(mask.into_iter().flatten());
}

/// Masks or unmasks in place; both are the same operation.
#[inline]
pub fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    for (index, byte) in payload.iter_mut().enumerate() {
        *byte ^= mask[index & 3];
    }
}

/// How many bytes of extended length a payload of this size needs.
#[inline]
fn length_bytes_of(payload_bytes: u64) -> usize {
    match payload_bytes {
        0..=125 => 0,
        126..=0xFFFF => 2,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_round_trip(payload_bytes: usize) {
        let payload: Vec<u8> = (0..payload_bytes).map(|index| index as u8).collect();
        for mut frame in [masked(TEXT, &payload), unmasked(TEXT, &payload)] {
            let header = parse_header(&frame).unwrap().expect("a complete header");
            assert_eq!(header.payload_bytes, payload_bytes as u64);
            let body = &mut frame[header.header_bytes..];
            apply_mask(body, header.mask.unwrap_or_default());
            assert_eq!(body, payload);
        }
    }

    #[test]
    fn all_length_encodings_survive_a_round_trip() {
        for payload_bytes in [0, 1, 9, 125, 126, 127, 65_535, 65_536, 70_000] {
            check_round_trip(payload_bytes);
        }
    }

    #[test]
    fn the_hello_example_of_the_rfc_is_encoded_as_printed() {
        // RFC 6455 section 5.7, with the same key.
        assert_eq!(masked(TEXT, b"Hello"), [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
        assert_eq!(unmasked(TEXT, b"Hello"), [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
    }

    #[test]
    fn an_incomplete_header_is_not_an_error() {
        for frame in [masked(TEXT, &[7; 5]), masked(TEXT, &[7; 300]), masked(TEXT, &[7; 70_000])] {
            let header_bytes = parse_header(&frame).unwrap().expect("a complete header").header_bytes;
            for length in 0..header_bytes {
                assert_eq!(parse_header(&frame[..length]), Ok(None));
            }
        }
    }

    #[test]
    fn violations_are_reported() {
        assert!(parse_header(&[0xC1, 0x00]).is_err(), "reserved bit");
        assert!(parse_header(&[0x09, 0x00]).is_err(), "fragmented ping");
        assert!(parse_header(&[0x88, 126, 0, 200]).is_err(), "long close");
        assert!(parse_header(&[0x81, 126, 0, 125]).is_err(), "16-bit length for a short payload");
        assert!(
            parse_header(&[0x81, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]).is_err(),
            "64-bit length for a medium payload"
        );
    }
}
