//! The WebSocket layer: bytes to frames and messages, frames to bytes (RFC 6455). It alone knows fastwebsockets.

pub mod decoder;
pub mod frame;
pub mod handshake;
pub mod outbox;
mod refusal;
pub mod stream;

use bytes::{BufMut, BytesMut};
use fastwebsockets::{CloseCode, Frame, OpCode, Payload};

pub use refusal::Refusal;

/// A ping without payload, as a finished frame.
pub const PING: &[u8] = &[0x89, 0];

/// Close codes that the server sends (RFC 6455, 7.4.1, and the IANA registry).
pub mod close {
    /// The purpose has been fulfilled.
    pub const NORMAL: u16 = 1000;
    /// A violation of the protocol.
    pub const PROTOCOL: u16 = 1002;
    /// A type of data that is not taken.
    pub const UNSUPPORTED: u16 = 1003;
    /// Text that is not UTF-8.
    pub const INVALID: u16 = 1007;
    /// Not what the server's rules ask for.
    pub const POLICY: u16 = 1008;
    /// A message that is too big.
    pub const TOO_BIG: u16 = 1009;
    /// The server is going away; come back after a random delay.
    pub const RESTART: u16 = 1012;
    /// What the frame with [`RESTART`] says.
    pub const RESTART_REASON: &str = "the server is going away, come back after a random delay";
    /// Too many connections; try again later.
    pub const TRY_AGAIN: u16 = 1013;
}

/// Appends a close frame.
pub fn put_close(buffer: &mut BytesMut, code: u16, reason: &str) {
    put_frame(buffer, Frame::close(code, reason.as_bytes()));
}

/// Appends the answer to a ping, with its payload (RFC 6455, 5.5.3).
pub fn put_pong(buffer: &mut BytesMut, payload: &[u8]) {
    put_frame(buffer, Frame::pong(Payload::Borrowed(payload)));
}

/// Appends a whole message, as an echo does.
pub fn put_message(buffer: &mut BytesMut, text: bool, payload: &[u8]) {
    let opcode = if text { OpCode::Text } else { OpCode::Binary };
    put_frame(buffer, Frame::new(true, opcode, None, Payload::Borrowed(payload)));
}

fn put_frame(buffer: &mut BytesMut, mut frame: Frame<'_>) {
    let mut head = [0; 16];
    let head_bytes = frame.fmt_head(&mut head);
    buffer.put_slice(&head[..head_bytes]);
    buffer.put_slice(&frame.payload);
}

/// Whether a peer may send this close code (RFC 6455, 7.4).
fn close_code_allowed(code: u16) -> bool {
    CloseCode::from(code).is_allowed()
}
