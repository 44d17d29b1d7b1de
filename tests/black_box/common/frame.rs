//! WebSocket frames for the black-box tests (RFC 6455 section 5.2): an encoder that can break the rules, and a strict
//! decoder of what the server sends. Headers are built and parsed by the crate `wire`, which the load generator uses
//! too.

pub(crate) use wire::frame::{BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT};

use wire::frame::{MASKING_KEY, apply_mask, parse_header, put_header};

/// A frame from the client. By default it is final, masked and valid.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) fin: bool,
    /// The three reserved bits, RSV1 highest.
    pub(crate) rsv: u8,
    pub(crate) opcode: u8,
    pub(crate) masked: bool,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { fin: true, rsv: 0, opcode, masked: true, payload: payload.into() }
    }

    pub(crate) fn text(payload: &str) -> Self {
        Self::new(TEXT, payload)
    }

    /// A close frame with a status code and a reason.
    pub(crate) fn close(code: u16, reason: &[u8]) -> Self {
        let mut payload = code.to_be_bytes().to_vec();
        payload.extend_from_slice(reason);
        Self::new(CLOSE, payload)
    }

    /// Makes this a frame that is not the last of its message.
    pub(crate) fn open(mut self) -> Self {
        self.fin = false;
        self
    }

    pub(crate) fn reserved(mut self, rsv: u8) -> Self {
        self.rsv = rsv;
        self
    }

    pub(crate) fn unmasked(mut self) -> Self {
        self.masked = false;
        self
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.header(self.payload.len() as u64);
        let start = bytes.len();
        bytes.extend_from_slice(&self.payload);
        if let Some(mask) = self.mask() {
            apply_mask(&mut bytes[start..], mask);
        }
        bytes
    }

    /// Only the header, with `length` as the length of the payload.
    pub(crate) fn header(&self, length: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let first_byte = u8::from(self.fin) << 7 | (self.rsv & 7) << 4 | (self.opcode & 15);
        put_header(&mut bytes, first_byte, self.mask(), length);
        bytes
    }

    fn mask(&self) -> Option<[u8; 4]> {
        self.masked.then_some(MASKING_KEY)
    }
}

/// Several frames as the bytes of one write.
pub(crate) fn glued(frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(Frame::encode).collect()
}

/// A frame from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerFrame {
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

impl ServerFrame {
    /// The status code of a close frame; `None` if it has no payload.
    pub(crate) fn close_code(&self) -> Option<u16> {
        assert_eq!(self.opcode, CLOSE);
        self.payload.first_chunk().copied().map(u16::from_be_bytes)
    }
}

/// Takes one complete frame off the front of `buffer`. Panics if the server must not send such a frame.
pub(crate) fn decode(buffer: &mut Vec<u8>) -> Option<ServerFrame> {
    let header =
        parse_header(buffer).unwrap_or_else(|violation| panic!("the server breaks RFC 6455: {}", violation.0))?;
    assert!(header.is_final, "the server does not fragment");
    assert_eq!(header.mask, None, "a server does not mask");
    let opcode = header.opcode;
    assert!(matches!(opcode, TEXT | CLOSE | PING | PONG), "opcode {opcode}");
    let end = header.header_bytes + usize::try_from(header.payload_bytes).expect("a length that fits");
    let payload = buffer.get(header.header_bytes..end)?.to_vec();
    buffer.drain(..end);
    Some(ServerFrame { opcode, payload })
}
