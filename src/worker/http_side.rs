//! The interface between a worker and the HTTP side of the server: what the first request of a connection asks for.

use std::fmt;
use std::net::TcpStream;

use bytes::{Bytes, BytesMut};

use crate::protocol::Upgrade;

/// The HTTP side of the server, as a worker uses it.
pub trait Http: fmt::Debug + Send {
    /// The handshake at the start of `bytes`, if it is complete and valid and nothing has to be awaited to accept it.
    fn handshake(&mut self, bytes: &[u8]) -> Option<ValidHandshake>;

    /// Takes a connection over. `read` has the bytes that were read from it.
    fn serve(&self, stream: TcpStream, read: Bytes);

    /// Nothing is given to it any more: it ends when it has served everything.
    fn close(&mut self);
}

/// A valid handshake.
#[derive(Debug)]
pub struct ValidHandshake {
    /// What the client and its protocol agreed on.
    pub upgrade: Upgrade,
    /// The HTTP response.
    pub response: BytesMut,
    /// The length of the request.
    pub request_bytes: usize,
}
