//! The WebSocket layer: bytes to frames and messages, frames to bytes (RFC 6455). The only module that uses
//! fastwebsockets.

pub mod decoder;
pub mod frame;
pub mod handshake;
pub mod outbox;
mod refusal;
pub mod stream;

use bytes::{BufMut, BytesMut};
use fastwebsockets::{CloseCode, Frame, OpCode, Payload};

pub use refusal::Refusal;

/// A ping without payload, as a complete frame.
pub const PING: &[u8] = &[0x89, 0];

/// Close codes (RFC 6455, 7.4.1, and the IANA registry).
pub mod close {
    /// Normal closure.
    pub const NORMAL: u16 = 1000;
    /// A violation of RFC 6455.
    pub const PROTOCOL: u16 = 1002;
    /// A type of data that is not supported.
    pub const UNSUPPORTED: u16 = 1003;
    /// Text that is not UTF-8.
    pub const INVALID: u16 = 1007;
    /// A violation of the server's rules.
    pub const POLICY: u16 = 1008;
    /// A message that is too big.
    pub const TOO_BIG: u16 = 1009;
    /// The server is going away; reconnect after a random delay.
    pub const RESTART: u16 = 1012;
    /// The reason in the frame with [`RESTART`].
    pub const RESTART_REASON: &str = "the server is going away, come back after a random delay";
    /// Too many connections; try again later.
    pub const TRY_AGAIN: u16 = 1013;
    /// The credential has expired; come back with a new one. Codes from 4000 belong to applications.
    pub const EXPIRED: u16 = 4401;
}

/// Appends a close frame.
pub fn put_close(buffer: &mut BytesMut, code: u16, reason: &str) {
    put_frame(buffer, Frame::close(code, reason.as_bytes()));
}

/// Appends the reply to a ping, with the payload of the ping (RFC 6455, 5.5.3).
pub fn put_pong(buffer: &mut BytesMut, payload: &[u8]) {
    put_frame(buffer, Frame::pong(Payload::Borrowed(payload)));
}

/// Appends an unfragmented message.
pub fn put_message(buffer: &mut BytesMut, text: bool, payload: &[u8]) {
    let opcode = if text { OpCode::Text } else { OpCode::Binary };
    put_frame(buffer, Frame::new(true, opcode, None, Payload::Borrowed(payload)));
}

fn put_frame(buffer: &mut BytesMut, mut frame: Frame<'_>) {
    let mut header = [0; 16];
    let header_bytes = frame.fmt_head(&mut header);
    buffer.put_slice(&header[..header_bytes]);
    buffer.put_slice(&frame.payload);
}

/// Whether clients may send this close code (RFC 6455, 7.4).
fn close_code_allowed(code: u16) -> bool {
    CloseCode::from(code).is_allowed()
}
