//! The interface between a worker and the HTTP side of the server: what the first request of a connection asks for.

use std::fmt;

use bytes::{Bytes, BytesMut};

use super::verifications::RenewalJob;
use crate::peer::ClientAddress;
use crate::protocol::Upgrade;
use crate::quota::SocketPermit;
use crate::websocket::Refusal;
use crate::websocket::stream::{Stream, Transport};

/// The limit of bytes of a request line and its headers.
pub const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The HTTP side of the server, as a worker uses it.
pub trait Http: fmt::Debug + Send {
    /// What the first request of a connection is, of which this transport has received these bytes. A PROXY header may
    /// have named the client.
    fn read(&mut self, bytes: &[u8], named: Option<ClientAddress>, stream: &Stream) -> FirstRequest;

    /// Takes a connection over.
    fn serve(&self, connection: FirstBytes);

    /// Verifies the next credential of a connection. The result comes through the mailbox of the worker.
    fn renew(&self, job: RenewalJob);

    /// Nothing is given to it any more: it ends when it has served everything.
    fn close(&mut self);
}

/// What a worker gives to an HTTP thread.
#[derive(Debug)]
pub enum HttpJob {
    /// Serve a connection.
    Serve(FirstBytes),
    /// Verify a credential.
    Renew(RenewalJob),
}

/// A connection that is not a WebSocket, or not without further checks.
pub struct FirstBytes {
    /// The socket.
    pub transport: Transport,
    /// The client, if a PROXY header named it.
    pub named: Option<ClientAddress>,
    /// The bytes that were read from it.
    pub read: Bytes,
    /// What is served to it.
    pub port: Port,
    /// Why its handshake is refused, if that is decided already.
    pub refusal: Option<Refusal>,
    /// Its part of the limits of sockets that are no WebSockets, if it has limits.
    pub permit: Option<SocketPermit>,
}

impl fmt::Debug for FirstBytes {
    /// Without the bytes, which may have a credential.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FirstBytes").field("port", &self.port).finish_non_exhaustive()
    }
}

/// What a connection is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// Everything.
    Public,
    /// Nothing: it is not encrypted although this port requires TLS.
    NeedsTls,
    /// Probes and counters, without a key (`--internal-listen`).
    Internal,
}

/// The first request of a connection.
#[derive(Debug)]
pub enum FirstRequest {
    /// Its head is not complete, not wrong so far, and not too long yet.
    Incomplete,
    /// A handshake that is valid, and nothing has to be awaited to accept it.
    Handshake(ValidHandshake),
    /// A sound handshake that is refused. Telling the client so takes time.
    Refused(Refusal),
    /// Anything else.
    Other,
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
