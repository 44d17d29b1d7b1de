//! WebSocket frames (RFC 6455 §5.2), both ways: headers in, finished frames out. No state, no sockets.

/// Opcodes of RFC 6455 §5.2.
pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;

const FINAL_BIT: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
const MASK_BIT: u8 = 0x80;
const MAX_CONTROL_BYTES: u64 = 125;
/// The same for all frames. It need not be secret here, but it must not be zero, or a server that forgets
/// to unmask would pass.
const MASKING_KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What stands before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) opcode: u8,
    /// The last frame of its message.
    pub(crate) is_final: bool,
    pub(crate) mask: Option<[u8; 4]>,
    pub(crate) header_bytes: usize,
    pub(crate) payload_bytes: u64,
}

/// The peer broke RFC 6455; the text says how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) &'static str);

impl Header {
    pub(crate) fn is_control(&self) -> bool {
        self.opcode & 0x8 != 0
    }
}

/// Reads the header at the start of `bytes`; `None` if it is not all there yet.
#[inline]
pub(crate) fn parse_header(bytes: &[u8]) -> Result<Option<Header>, Violation> {
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

/// A finished client frame.
pub(crate) fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = start(opcode, MASK_BIT, payload.len());
    frame.extend_from_slice(&MASKING_KEY);
    let payload_start = frame.len();
    frame.extend_from_slice(payload);
    apply_mask(&mut frame[payload_start..], MASKING_KEY);
    frame
}

/// A finished server frame.
pub(crate) fn unmasked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = start(opcode, 0, payload.len());
    frame.extend_from_slice(payload);
    frame
}

/// Masks or unmasks in place: it is the same operation.
#[inline]
pub(crate) fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    for (index, byte) in payload.iter_mut().enumerate() {
        *byte ^= mask[index & 3];
    }
}

fn start(opcode: u8, mask_bit: u8, payload_bytes: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload_bytes + 14);
    frame.push(FINAL_BIT | opcode);
    match (u8::try_from(payload_bytes), u16::try_from(payload_bytes)) {
        (Ok(short @ 0..=125), _) => frame.push(mask_bit | short),
        (_, Ok(medium)) => {
            frame.push(mask_bit | 126);
            frame.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            frame.push(mask_bit | 127);
            frame.extend_from_slice(&(payload_bytes as u64).to_be_bytes());
        }
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_round_trip(payload_bytes: usize) {
        let payload: Vec<u8> = (0..payload_bytes).map(|index| index as u8).collect();
        for mut frame in [masked(TEXT, &payload), unmasked(TEXT, &payload)] {
            let header = parse_header(&frame).unwrap().expect("whole");
            assert_eq!(header.payload_bytes, payload_bytes as u64);
            let body = &mut frame[header.header_bytes..];
            apply_mask(body, header.mask.unwrap_or_default());
            assert_eq!(body, payload);
        }
    }

    #[test]
    fn every_length_form_survives_the_round_trip() {
        for payload_bytes in [0, 1, 9, 125, 126, 127, 65_535, 65_536, 70_000] {
            check_round_trip(payload_bytes);
        }
    }

    #[test]
    fn the_hello_of_the_rfc() {
        // RFC 6455 §5.7 with the same key.
        assert_eq!(masked(TEXT, b"Hello"), [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
        assert_eq!(unmasked(TEXT, b"Hello"), [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
    }

    #[test]
    fn a_header_in_pieces_is_waited_for() {
        for frame in [masked(TEXT, &[7; 5]), masked(TEXT, &[7; 300]), masked(TEXT, &[7; 70_000])] {
            let header_bytes = parse_header(&frame).unwrap().expect("whole").header_bytes;
            for length in 0..header_bytes {
                assert_eq!(parse_header(&frame[..length]), Ok(None));
            }
        }
    }

    #[test]
    fn violations_are_told() {
        assert!(parse_header(&[0xC1, 0x00]).is_err(), "reserved bit");
        assert!(parse_header(&[0x09, 0x00]).is_err(), "fragmented ping");
        assert!(parse_header(&[0x88, 126, 0, 200]).is_err(), "long close");
    }
}
