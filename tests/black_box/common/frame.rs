//! WebSocket frames by hand (RFC 6455 section 5.2): an encoder that can be told to break the rules, and a strict
//! decoder for what the server sends.

pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;

/// Any mask will do; this one changes every byte and shows when it was forgotten.
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// A frame from the client: final, masked and well formed until told otherwise.
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

    /// A close with a status code and a reason.
    pub(crate) fn close(code: u16, reason: &[u8]) -> Self {
        let mut payload = code.to_be_bytes().to_vec();
        payload.extend_from_slice(reason);
        Self::new(CLOSE, payload)
    }

    /// The same frame with more to follow.
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
        if self.masked {
            let masked = self.payload.iter().zip(MASK.iter().cycle());
            bytes.extend(masked.map(|(byte, mask)| byte ^ mask));
        } else {
            bytes.extend_from_slice(&self.payload);
        }
        bytes
    }

    /// Only the header, claiming `length` bytes of payload.
    pub(crate) fn header(&self, length: u64) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.fin) << 7 | (self.rsv & 7) << 4 | (self.opcode & 15)];
        let masked = u8::from(self.masked) << 7;
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short), _) if short < 126 => bytes.push(masked | short),
            (_, Ok(medium)) => {
                bytes.push(masked | 126);
                bytes.extend_from_slice(&medium.to_be_bytes());
            }
            _ => {
                bytes.push(masked | 127);
                bytes.extend_from_slice(&length.to_be_bytes());
            }
        }
        if self.masked {
            bytes.extend_from_slice(&MASK);
        }
        bytes
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
    /// The status code of a close frame; `None` for an empty one.
    pub(crate) fn close_code(&self) -> Option<u16> {
        assert_eq!(self.opcode, CLOSE);
        self.payload.first_chunk().copied().map(u16::from_be_bytes)
    }
}

/// Takes one whole frame off the front of `buffer`. Whatever a server must not send is an assertion.
pub(crate) fn decode(buffer: &mut Vec<u8>) -> Option<ServerFrame> {
    let [first, second, ..] = buffer[..] else { return None };
    assert_eq!(first & 0x80, 0x80, "the server does not fragment");
    assert_eq!(first & 0x70, 0, "no extension was agreed on, so no reserved bit is set");
    assert_eq!(second & 0x80, 0, "a server does not mask");
    let opcode = first & 0x0F;
    assert!(matches!(opcode, TEXT | CLOSE | PING | PONG), "opcode {opcode}");
    let (header, length) = match second {
        127 => {
            let length = u64::from_be_bytes(*buffer.get(2..)?.first_chunk()?);
            assert!(length > u64::from(u16::MAX), "lengths are as short as can be");
            (10, usize::try_from(length).expect("a length that fits"))
        }
        126 => {
            let length = u16::from_be_bytes(*buffer.get(2..)?.first_chunk()?);
            assert!(length > 125, "lengths are as short as can be");
            (4, usize::from(length))
        }
        short => (2, usize::from(short)),
    };
    if opcode >= CLOSE {
        assert!(length <= 125, "control frames are short");
    }
    let payload = buffer.get(header..header + length)?.to_vec();
    buffer.drain(..header + length);
    Some(ServerFrame { opcode, payload })
}
