//! Reading: whole frames out of a buffer, in place.
//!
//! A read nearly always ends at the end of a frame, so nothing has to be kept between reads. Heads are checked as soon as they
//! are complete, before a payload is waited for: a frame that claims too much costs nothing. Each whole frame becomes a
//! fastwebsockets `Frame` over the very bytes that were read, which unmasks it there.

use std::ops::ControlFlow;

use fastwebsockets::{Frame, OpCode, Payload};

use super::{close, close_code_allowed};

/// What one frame and one message may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of payload of one frame.
    pub frame_bytes: usize,
    /// Bytes of all fragments of one message.
    pub message_bytes: usize,
}

/// Longer texts are not looked through for ASCII first.
const SHORT_TEXT: usize = 64;

impl Limits {
    /// For presence: messages of clients are short.
    pub const PRESENCE: Self = Self { frame_bytes: 16 * 1024, message_bytes: 16 * 1024 };
    /// For conformance suites, which send up to 16 MiB.
    #[cfg(feature = "echo")]
    pub const ECHO: Self = Self { frame_bytes: 16 << 20, message_bytes: 16 << 20 };
}

/// Something whole that a client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// A text message, valid UTF-8.
    Text(&'a [u8]),
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping, to be answered with its payload.
    Ping(&'a [u8]),
    /// A pong.
    Pong,
    /// A close frame with its code, if it had one.
    Close(Option<u16>),
}

/// A breach of RFC 6455, or of the limits, and the code to close with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// The close code.
    pub code: u16,
    /// What was wrong, for the close frame.
    pub reason: &'static str,
}

/// The fragments of a message whose end has not come yet.
#[derive(Debug)]
pub struct Fragments {
    text: bool,
    data: Vec<u8>,
    /// Bytes of `data` known to be UTF-8 up to a character's end.
    valid: usize,
}

struct Head {
    fin: bool,
    opcode: OpCode,
    mask: [u8; 4],
    /// Bytes before the payload.
    size: usize,
    payload: usize,
}

/// Takes the whole frames at the start of `bytes` and hands what they carry to `take`, until it breaks or no whole frame is
/// left. Returns how many bytes are done; the rest is to be shown again, with more behind it.
pub fn decode_frames(
    bytes: &mut [u8],
    fragments: &mut Option<Fragments>,
    limits: &Limits,
    mut take: impl FnMut(Message<'_>) -> ControlFlow<()>,
) -> Result<usize, Violation> {
    let mut done = 0;
    while let Some(head) = parse_head(&bytes[done..], limits)? {
        let start = done + head.size;
        let Some(payload) = bytes.get_mut(start..start + head.payload) else { break };
        done = start + head.payload;
        let mut frame = Frame::new(head.fin, head.opcode, Some(head.mask), Payload::BorrowedMut(payload));
        frame.unmask();
        if decode_frame(&frame, fragments, limits, &mut take)?.is_break() {
            break;
        }
    }
    Ok(done)
}

fn decode_frame(
    frame: &Frame<'_>,
    fragments: &mut Option<Fragments>,
    limits: &Limits,
    take: &mut impl FnMut(Message<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Violation> {
    let payload: &[u8] = &frame.payload;
    match frame.opcode {
        OpCode::Ping => Ok(take(Message::Ping(payload))),
        OpCode::Pong => Ok(take(Message::Pong)),
        OpCode::Close => Ok(take(Message::Close(close_code(payload)?))),
        OpCode::Continuation => {
            let message = fragments.as_mut().ok_or(protocol("a continuation without a message before it"))?;
            message.append(payload, frame.fin, limits)?;
            if !frame.fin {
                return Ok(ControlFlow::Continue(()));
            }
            let Some(message) = fragments.take() else { return Ok(ControlFlow::Continue(())) };
            Ok(take(if message.text { Message::Text(&message.data) } else { Message::Binary(&message.data) }))
        }
        OpCode::Text | OpCode::Binary if fragments.is_some() => Err(protocol("a new message inside a fragmented one")),
        OpCode::Text if frame.fin => match is_utf8(payload) {
            true => Ok(take(Message::Text(payload))),
            false => Err(INVALID_UTF8),
        },
        OpCode::Binary if frame.fin => Ok(take(Message::Binary(payload))),
        OpCode::Text | OpCode::Binary => {
            let mut message = Fragments { text: frame.opcode == OpCode::Text, data: Vec::new(), valid: 0 };
            message.append(payload, false, limits)?;
            *fragments = Some(message);
            Ok(ControlFlow::Continue(()))
        }
    }
}

impl Fragments {
    fn append(&mut self, payload: &[u8], last: bool, limits: &Limits) -> Result<(), Violation> {
        if self.data.len() + payload.len() > limits.message_bytes {
            return Err(TOO_BIG);
        }
        self.data.extend_from_slice(payload);
        if !self.text {
            return Ok(());
        }
        match std::str::from_utf8(&self.data[self.valid..]) {
            Ok(text) => self.valid += text.len(),
            // A character may go on in the next fragment, but not after the last one.
            Err(error) if error.error_len().is_none() && !last => self.valid += error.valid_up_to(),
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

/// Reads the head of a frame (RFC 6455, 5.2); `None` while it is not complete. What is there already is judged at once.
fn parse_head(bytes: &[u8], limits: &Limits) -> Result<Option<Head>, Violation> {
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
    let (length_bytes, payload) = match length {
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
    if payload >> 63 != 0 {
        return Err(protocol("the highest bit of a length must be 0"));
    }
    if payload > limits.frame_bytes as u64 {
        return Err(TOO_BIG);
    }
    let mask_at = 2 + length_bytes;
    let Some(mask) = bytes.get(mask_at..mask_at + 4) else { return Ok(None) };
    let mask = [mask[0], mask[1], mask[2], mask[3]];
    Ok(Some(Head { fin, opcode, mask, size: mask_at + 4, payload: payload as usize }))
}

/// A heartbeat is short and ASCII, which is found out faster than what UTF-8 a longer text is.
fn is_utf8(payload: &[u8]) -> bool {
    (payload.len() <= SHORT_TEXT && payload.is_ascii()) || std::str::from_utf8(payload).is_ok()
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
