//! The client's side of the wire: WebSocket frames, the mirror of a room built from the native protocol's messages,
//! tokens and signatures.
//!
//! The load generator and rollcall's black-box tests share this crate. It shares no code with the server, so the
//! server's encoders and decoders are checked against an independent implementation.

pub mod frame;
pub mod room;
pub mod signature;
pub mod token;
