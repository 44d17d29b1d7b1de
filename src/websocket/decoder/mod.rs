//! Decodes the complete frames of a buffer in place.
//!
//! A read nearly always ends at the end of a frame, so nothing has to be kept between reads. A header is checked as
//! soon as it is complete, before its payload arrives: a frame that announces too many bytes costs no memory. Each
//! complete frame becomes a fastwebsockets `Frame` that borrows the bytes that were read and unmasks them in place.

use std::ops::ControlFlow;

use fastwebsockets::{Frame, OpCode, Payload};

use super::{close, close_code_allowed};

/// The limits of frames and messages.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of payload per frame.
    pub frame_bytes: usize,
    /// Bytes of payload per message, all fragments together.
    pub message_bytes: usize,
}

/// Up to this length, text is checked for ASCII before it is checked for UTF-8.
const SHORT_TEXT_BYTES: usize = 64;

impl Limits {
    /// For presence protocols, whose clients send short messages.
    pub const PRESENCE: Self = Self { frame_bytes: 16 * 1024, message_bytes: 16 * 1024 };
    /// For conformance suites, which send up to 16 MiB.
    #[cfg(feature = "echo")]
    pub const ECHO: Self = Self { frame_bytes: 16 << 20, message_bytes: 16 << 20 };
}

/// A complete message or control frame of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// A text message, valid UTF-8.
    Text(&'a [u8]),
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping. The pong repeats its payload.
    Ping(&'a [u8]),
    /// A pong.
    Pong,
    /// A close frame with its code, if it has one.
    Close(Option<u16>),
}

/// A violation of RFC 6455 or of the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// The code to close with.
    pub code: u16,
    /// The reason in the close frame.
    pub reason: &'static str,
}

/// The fragments of an incomplete message.
#[derive(Debug)]
pub struct Fragments {
    is_text: bool,
    data: Vec<u8>,
    /// Bytes at the start of `data` that are complete UTF-8 characters.
    valid: usize,
}

struct Header {
    fin: bool,
    opcode: OpCode,
    mask: [u8; 4],
    /// Bytes before the payload.
    size: usize,
    payload_size: usize,
}

/// Decodes the complete frames at the start of `bytes` and passes their messages to `handle`, until it breaks or no
/// complete frame is left. Returns the number of decoded bytes; the caller keeps the rest and passes it again with more
/// bytes.
pub fn decode_frames(
    bytes: &mut [u8],
    fragments: &mut Option<Fragments>,
    limits: &Limits,
    mut handle: impl FnMut(Message<'_>) -> ControlFlow<()>,
) -> Result<usize, Violation> {
    let mut done = 0;
    while let Some(header) = parse_header(&bytes[done..], limits)? {
        let start = done + header.size;
        let Some(payload) = bytes.get_mut(start..start + header.payload_size) else { break };
        done = start + header.payload_size;
        let mut frame = Frame::new(header.fin, header.opcode, Some(header.mask), Payload::BorrowedMut(payload));
        frame.unmask();
        if decode_frame(&frame, fragments, limits, &mut handle)?.is_break() {
            break;
        }
    }
    Ok(done)
}

fn decode_frame(
    frame: &Frame<'_>,
    fragments: &mut Option<Fragments>,
    limits: &Limits,
    handle: &mut impl FnMut(Message<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Violation> {
    let payload: &[u8] = &frame.payload;
    match frame.opcode {
        OpCode::Ping => Ok(handle(Message::Ping(payload))),
        OpCode::Pong => Ok(handle(Message::Pong)),
        OpCode::Close => Ok(handle(Message::Close(close_code(payload)?))),
        OpCode::Continuation => {
            let message = fragments.as_mut().ok_or(protocol("a continuation without a message before it"))?;
            message.append(payload, frame.fin, limits)?;
            if !frame.fin {
                return Ok(ControlFlow::Continue(()));
            }
            let Some(message) = fragments.take() else { return Ok(ControlFlow::Continue(())) };
            Ok(handle(if message.is_text { Message::Text(&message.data) } else { Message::Binary(&message.data) }))
        }
        OpCode::Text | OpCode::Binary if fragments.is_some() => Err(protocol("a new message inside a fragmented one")),
        OpCode::Text if frame.fin => match is_utf8(payload) {
            true => Ok(handle(Message::Text(payload))),
            false => Err(INVALID_UTF8),
        },
        OpCode::Binary if frame.fin => Ok(handle(Message::Binary(payload))),
        OpCode::Text | OpCode::Binary => {
            let mut message = Fragments { is_text: frame.opcode == OpCode::Text, data: Vec::new(), valid: 0 };
            message.append(payload, false, limits)?;
            *fragments = Some(message);
            Ok(ControlFlow::Continue(()))
        }
    }
}

impl Fragments {
    fn append(&mut self, payload: &[u8], is_last: bool, limits: &Limits) -> Result<(), Violation> {
        if self.data.len() + payload.len() > limits.message_bytes {
            return Err(TOO_BIG);
        }
        self.data.extend_from_slice(payload);
        if !self.is_text {
            return Ok(());
        }
        match std::str::from_utf8(&self.data[self.valid..]) {
            Ok(text) => self.valid += text.len(),
            // A character may continue in the next fragment, but not after the last one.
            Err(error) if error.error_len().is_none() && !is_last => self.valid += error.valid_up_to(),
            Err(_) => return Err(INVALID_UTF8),
        }
        Ok(())
    }
}

const INVALID_UTF8: Violation = Violation { code: close::INVALID, reason: "text must be UTF-8" };
const TOO_BIG: Violation = Violation { code: close::TOO_BIG, reason: "the message is too big" };

const fn protocol(reason: &'static str) -> Violation {
    Violation { code: close::PROTOCOL, reason }
}

/// Parses the header of a frame (RFC 6455, 5.2); `None` if it is incomplete. Violations in the bytes that have arrived
/// are returned even then.
fn parse_header(bytes: &[u8], limits: &Limits) -> Result<Option<Header>, Violation> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err(protocol("reserved bits are set and no extension was negotiated"));
    }
    let opcode = OpCode::try_from(first & 0x0f).map_err(|_| protocol("an unknown opcode"))?;
    let fin = first & 0x80 != 0;
    let control = matches!(opcode, OpCode::Close | OpCode::Ping | OpCode::Pong);
    if control && !fin {
        return Err(protocol("a control frame must not be fragmented"));
    }
    let Some(&second) = bytes.get(1) else { return Ok(None) };
    if second & 0x80 == 0 {
        return Err(protocol("a client must mask its frames"));
    }
    let length = second & 0x7f;
    if control && length > 125 {
        return Err(protocol("a control frame has at most 125 bytes"));
    }
    let (length_bytes, payload_size) = match length {
        126 => {
            let Some(length) = bytes.get(2..4) else { return Ok(None) };
            (2, length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
        }
        127 => {
            let Some(length) = bytes.get(2..10) else { return Ok(None) };
            (8, length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
        }
        short => (0, u64::from(short)),
    };
    if payload_size >> 63 != 0 {
        return Err(protocol("the highest bit of a length must be 0"));
    }
    if payload_size > limits.frame_bytes as u64 {
        return Err(TOO_BIG);
    }
    let mask_at = 2 + length_bytes;
    let Some(mask) = bytes.get(mask_at..mask_at + 4) else { return Ok(None) };
    let mask = [mask[0], mask[1], mask[2], mask[3]];
    Ok(Some(Header { fin, opcode, mask, size: mask_at + 4, payload_size: payload_size as usize }))
}

/// Most messages are heartbeats, which are short and ASCII: for these the check for ASCII is faster.
fn is_utf8(payload: &[u8]) -> bool {
    (payload.len() <= SHORT_TEXT_BYTES && payload.is_ascii()) || std::str::from_utf8(payload).is_ok()
}

fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    match payload {
        [] => Ok(None),
        [_] => Err(protocol("a close frame has no payload, or a code")),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !close_code_allowed(code) {
                return Err(protocol("a close code that may not be sent"));
            }
            std::str::from_utf8(reason).map_err(|_| INVALID_UTF8)?;
            Ok(Some(code))
        }
    }
}

#[cfg(test)]
mod tests;
