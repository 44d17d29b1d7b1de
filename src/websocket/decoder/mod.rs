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
    /// Whether a text message beyond a limit is dropped while it arrives, without keeping it; if not, it is a
    /// violation.
    pub drops_too_big: bool,
}

/// Up to this length, text is checked for ASCII before it is checked for UTF-8.
const SHORT_TEXT_BYTES: usize = 64;

impl Limits {
    /// For presence protocols, whose clients send short messages.
    pub const PRESENCE: Self = Self { frame_bytes: 16 * 1024, message_bytes: 16 * 1024, drops_too_big: false };
    /// For conformance suites, which send up to 16 MiB.
    #[cfg(feature = "echo")]
    pub const ECHO: Self = Self { frame_bytes: 16 << 20, message_bytes: 16 << 20, drops_too_big: false };
}

/// A complete message or control frame of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// A text message, valid UTF-8.
    Text(&'a [u8]),
    /// A binary message.
    Binary(&'a [u8]),
    /// A text message beyond the limits, which is dropped. Passed on when it is recognized, which is before it ends.
    TooBig,
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

/// A message that is not complete.
#[derive(Debug)]
pub struct Unfinished {
    /// Whether it has begun since [`Unfinished::take_is_new`] was called for the last time.
    is_new: bool,
    part: Part,
}

/// What is kept of an incomplete message.
#[derive(Debug)]
enum Part {
    /// Its fragments so far.
    Kept(Fragments),
    /// Nothing, because it is too big: bytes of the present frame that have not arrived, and whether that is the last
    /// frame of the message.
    Dropped { missing: u64, is_last: bool },
}

/// The fragments of an incomplete message.
#[derive(Debug)]
struct Fragments {
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
    payload_size: u64,
}

/// Decodes the complete frames at the start of `bytes` and passes their messages to `handle`, until it breaks or no
/// complete frame is left. Returns the number of decoded bytes; the caller keeps the rest and passes it again with more
/// bytes. What arrives of a message that is dropped counts as decoded.
pub fn decode_frames(
    bytes: &mut [u8],
    unfinished: &mut Option<Unfinished>,
    limits: &Limits,
    mut handle: impl FnMut(Message<'_>) -> ControlFlow<()>,
) -> Result<usize, Violation> {
    let mut done = if unfinished.is_some() { skip(bytes.len(), unfinished) } else { 0 };
    while let Some(header) = parse_header(&bytes[done..], limits)? {
        let start = done + header.size;
        if header.payload_size > limits.frame_bytes as u64 {
            let flow = drop_message(&header, unfinished, &mut handle)?;
            done = start + skip(bytes.len() - start, unfinished);
            if flow.is_break() {
                break;
            }
            continue;
        }
        let payload_size = header.payload_size as usize;
        let Some(payload) = bytes.get_mut(start..start + payload_size) else { break };
        done = start + payload_size;
        let mut frame = Frame::new(header.fin, header.opcode, Some(header.mask), Payload::BorrowedMut(payload));
        frame.unmask();
        if decode_frame(&frame, unfinished, limits, &mut handle)?.is_break() {
            break;
        }
    }
    Ok(done)
}

/// The length of the next message, as far as the header of its next frame tells; `None` if no header has arrived, for
/// control frames, and for a message that is dropped.
#[must_use]
pub fn next_message_bytes(bytes: &[u8], unfinished: Option<&Unfinished>) -> Option<usize> {
    const CONTROL: u8 = 0x08;
    let known = unfinished.map_or(Some(0), Unfinished::message_bytes)?;
    if bytes.first()? & CONTROL != 0 {
        return None;
    }
    let length = match *bytes.get(1)? & 0x7f {
        126 => usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])),
        127 => usize::MAX,
        short => usize::from(short),
    };
    Some(known.saturating_add(length))
}

fn decode_frame(
    frame: &Frame<'_>,
    unfinished: &mut Option<Unfinished>,
    limits: &Limits,
    handle: &mut impl FnMut(Message<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Violation> {
    let payload: &[u8] = &frame.payload;
    match frame.opcode {
        OpCode::Ping => Ok(handle(Message::Ping(payload))),
        OpCode::Pong => Ok(handle(Message::Pong)),
        OpCode::Close => Ok(handle(Message::Close(close_code(payload)?))),
        OpCode::Continuation => continue_message(frame, unfinished, limits, handle),
        OpCode::Text | OpCode::Binary if unfinished.is_some() => Err(NESTED),
        OpCode::Text if frame.fin => match is_utf8(payload) {
            true => Ok(handle(Message::Text(payload))),
            false => Err(INVALID_UTF8),
        },
        OpCode::Binary if frame.fin => Ok(handle(Message::Binary(payload))),
        OpCode::Text | OpCode::Binary => {
            let mut message = Fragments { is_text: frame.opcode == OpCode::Text, data: Vec::new(), valid: 0 };
            message.append(payload, false)?;
            *unfinished = Some(Unfinished { is_new: true, part: Part::Kept(message) });
            Ok(ControlFlow::Continue(()))
        }
    }
}

#[inline(never)] // Few messages have fragments, and all others pay for a longer function.
fn continue_message(
    frame: &Frame<'_>,
    unfinished: &mut Option<Unfinished>,
    limits: &Limits,
    handle: &mut impl FnMut(Message<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Violation> {
    let Unfinished { is_new, part } = unfinished.take().ok_or(ORPHAN)?;
    let dropped = Unfinished { is_new, part: Part::Dropped { missing: 0, is_last: false } };
    let Part::Kept(mut message) = part else {
        *unfinished = (!frame.fin).then_some(dropped);
        return Ok(ControlFlow::Continue(()));
    };
    if message.data.len() + frame.payload.len() > limits.message_bytes {
        if !(limits.drops_too_big && message.is_text) {
            return Err(TOO_BIG);
        }
        *unfinished = (!frame.fin).then_some(dropped);
        return Ok(handle(Message::TooBig));
    }
    message.append(&frame.payload, frame.fin)?;
    if frame.fin {
        return Ok(handle(if message.is_text { Message::Text(&message.data) } else { Message::Binary(&message.data) }));
    }
    *unfinished = Some(Unfinished { is_new, part: Part::Kept(message) });
    Ok(ControlFlow::Continue(()))
}

/// Begins to drop the payload of a frame that is too big.
#[cold]
fn drop_message(
    header: &Header,
    unfinished: &mut Option<Unfinished>,
    handle: &mut impl FnMut(Message<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Violation> {
    let part = Part::Dropped { missing: header.payload_size, is_last: header.fin };
    let is_known = match (&mut *unfinished, header.opcode) {
        (None, OpCode::Text) => {
            *unfinished = Some(Unfinished { is_new: true, part });
            false
        }
        (None, _) => return Err(ORPHAN),
        (Some(_), OpCode::Text) => return Err(NESTED),
        (Some(message), _) => match std::mem::replace(&mut message.part, part) {
            Part::Kept(kept) if !kept.is_text => return Err(TOO_BIG),
            Part::Kept(_) => false,
            Part::Dropped { .. } => true,
        },
    };
    Ok(if is_known { ControlFlow::Continue(()) } else { handle(Message::TooBig) })
}

/// How many of these bytes belong to a frame that is dropped.
#[cold]
fn skip(arrived: usize, unfinished: &mut Option<Unfinished>) -> usize {
    let Some(Unfinished { part: Part::Dropped { missing, is_last }, .. }) = unfinished else { return 0 };
    let skipped = (*missing).min(arrived as u64);
    *missing -= skipped;
    if *missing == 0 && *is_last {
        *unfinished = None;
    }
    skipped as usize
}

impl Unfinished {
    /// Whether it is another message than at the last call.
    pub fn take_is_new(&mut self) -> bool {
        std::mem::take(&mut self.is_new)
    }

    /// The length of its fragments so far; `None` if it is dropped.
    fn message_bytes(&self) -> Option<usize> {
        match &self.part {
            Part::Kept(fragments) => Some(fragments.data.len()),
            Part::Dropped { .. } => None,
        }
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        match &self.part {
            Part::Kept(fragments) => fragments.data.capacity(),
            Part::Dropped { .. } => 0,
        }
    }
}

impl Fragments {
    fn append(&mut self, payload: &[u8], is_last: bool) -> Result<(), Violation> {
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
const ORPHAN: Violation = protocol("a continuation without a message before it");
const NESTED: Violation = protocol("a new message inside a fragmented one");

const fn protocol(reason: &'static str) -> Violation {
    Violation { code: close::PROTOCOL, reason }
}

/// Parses the header of a frame (RFC 6455, 5.2); `None` if it is incomplete. Violations in the bytes that have arrived
/// are returned even then.
#[inline(always)] // As a call, it costs a tenth of a heartbeat more (`scripts/instructions`).
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
    if payload_size > limits.frame_bytes as u64 && !(limits.drops_too_big && opcode != OpCode::Binary) {
        return Err(TOO_BIG);
    }
    let mask_at = 2 + length_bytes;
    let Some(mask) = bytes.get(mask_at..mask_at + 4) else { return Ok(None) };
    let mask = [mask[0], mask[1], mask[2], mask[3]];
    Ok(Some(Header { fin, opcode, mask, size: mask_at + 4, payload_size }))
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
