//! One client connection: handshake, frames in both directions, callbacks to the scenario. An idle connection owns a
//! socket and empty vectors.
//!
//! Bytes are read into the engine's shared buffer and handled in place; only an incomplete frame is kept. Of a message
//! longer than `keep_bytes` the client gets the beginning and the rest is skipped, so long lists cost the generator no
//! memory.

use std::io::{ErrorKind, Read as _, Write as _};
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpStream;
use socket2::SockRef;
use wire::frame::{self, Header, Violation};

use crate::disconnect::Disconnect;
use crate::handshake::{Answer, Handshake};
use crate::socket::Socket;

/// The shortest beginning of a long message that a client gets; enough to tell its kind.
pub(crate) const HEAD_BYTES: usize = 256;
/// Frames beyond this are dropped: the server sends pings and does not read the pongs.
const MAX_OUTBOX_BYTES: usize = 64 * 1024;

/// What a scenario implements to follow its connections. It may answer through `connection`.
pub(crate) trait Client {
    /// The handshake is complete.
    fn opened(&mut self, _connection: &mut Connection) {}
    fn message(&mut self, _connection: &mut Connection, _message: &Message<'_>) {}
    /// The connection is over; its index may be opened again.
    fn closed(&mut self, _index: usize, _disconnect: Disconnect) {}
}

/// Ignores everything.
pub(crate) struct NullClient;

impl Client for NullClient {}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Which client this is; also its token in the engine.
    index: usize,
    stream: Socket<TcpStream>,
    stage: Stage,
    /// Received bytes of an incomplete frame or handshake.
    tail: Vec<u8>,
    /// Bytes of a long message that are still to be skipped.
    skip_bytes: u64,
    /// The fragments so far of a message in several frames.
    fragments: Option<Vec<u8>>,
    /// Bytes that the socket did not take yet. At first it holds the handshake request.
    outbox: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    Upgrading,
    Open,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendOutcome {
    /// The kernel has it, or its rest waits in the outbox.
    Sent,
    /// The socket is full: nothing was written.
    Blocked,
    /// The connection is not open.
    Closed,
}

/// A text or binary message, from one frame or several.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    /// Only the beginning if the message is longer than `keep_bytes`.
    pub(crate) payload: &'a [u8],
    pub(crate) is_whole: bool,
}

/// What all connections together have received.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) pings: u64,
}

/// What the engine lends to each connection that reads.
pub(crate) struct ReadContext<'a> {
    pub(crate) handshake: &'a Handshake,
    pub(crate) buffer: &'a mut [u8],
    pub(crate) traffic: &'a mut Traffic,
    /// Of longer messages the client gets only the beginning.
    pub(crate) keep_bytes: usize,
}

impl Connection {
    /// Takes a socket that is still connecting. The request goes out when the socket is writable.
    pub(crate) fn new(index: usize, stream: Socket<TcpStream>, request: Vec<u8>) -> Self {
        Self {
            index,
            stream,
            stage: Stage::Connecting,
            tail: Vec::new(),
            skip_bytes: 0,
            fragments: None,
            outbox: request,
        }
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Writes a complete frame now or not at all: one system call, no copy.
    #[inline]
    pub(crate) fn try_send(&mut self, frame: &[u8]) -> SendOutcome {
        if self.stage != Stage::Open {
            return SendOutcome::Closed;
        }
        if !self.outbox.is_empty() {
            return SendOutcome::Blocked;
        }
        match self.stream.write(frame) {
            Ok(written) => {
                self.outbox.extend_from_slice(&frame[written..]);
                SendOutcome::Sent
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => SendOutcome::Blocked,
            // The next event reports the reason.
            Err(_) => SendOutcome::Closed,
        }
    }

    /// Writes a complete frame now or as soon as the socket has room.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        if self.try_send(frame) == SendOutcome::Blocked && self.outbox.len() + frame.len() <= MAX_OUTBOX_BYTES {
            self.outbox.extend_from_slice(frame);
        }
    }

    /// Closes with a reset instead of a clean end of the stream.
    pub(crate) fn reset_on_drop(&self) {
        // It fails only if the connection is already gone.
        let _ = SockRef::from(&self.stream.tcp).set_linger(Some(Duration::ZERO));
    }

    /// Handles what epoll reports. An error means that the connection is over.
    pub(crate) fn on_event(
        &mut self,
        event: &Event,
        context: &mut ReadContext<'_>,
        client: &mut impl Client,
    ) -> Result<(), Disconnect> {
        if self.stage == Stage::Connecting {
            if let Some(error) = self.stream.tcp.take_error().map_err(Disconnect::Connect)? {
                return Err(Disconnect::Connect(error));
            }
            if !event.is_writable() {
                return Ok(());
            }
            self.stage = Stage::Upgrading;
        }
        if event.is_writable() {
            self.stream.flush_tls().map_err(Disconnect::Broken)?;
            if !self.outbox.is_empty() {
                self.flush()?;
            }
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            return self.read(event.is_read_closed(), context, client);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Disconnect> {
        match self.stream.write(&self.outbox) {
            Ok(written) if written == self.outbox.len() => self.outbox = Vec::new(),
            Ok(written) => drop(self.outbox.drain(..written)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(Disconnect::Broken(error)),
        }
        Ok(())
    }

    /// Events are edge-triggered. A short read means that the socket is empty, unless its end was reported as well.
    fn read(
        &mut self,
        to_the_end: bool,
        context: &mut ReadContext<'_>,
        client: &mut impl Client,
    ) -> Result<(), Disconnect> {
        loop {
            let carried = self.tail.len();
            match self.stream.read(&mut context.buffer[carried..]) {
                Ok(0) => return Err(Disconnect::Ended),
                Ok(received) => {
                    let filled = carried + received;
                    let emptied = filled < context.buffer.len() && !to_the_end && !self.stream.is_encrypted();
                    self.handle_bytes(filled, context, client)?;
                    if emptied {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Disconnect::Broken(error)),
            }
        }
    }

    /// Puts the tail in front of the bytes just read, handles all of it and keeps what is incomplete.
    fn handle_bytes(
        &mut self,
        filled: usize,
        context: &mut ReadContext<'_>,
        client: &mut impl Client,
    ) -> Result<(), Disconnect> {
        context.buffer[..self.tail.len()].copy_from_slice(&self.tail);
        self.tail = Vec::new();
        let bytes = &context.buffer[..filled];
        let mut start = 0;
        if self.stage == Stage::Upgrading {
            match context.handshake.check(bytes) {
                Answer::Switched(head_bytes) => start = head_bytes,
                Answer::Refused(message) => return Err(Disconnect::Refused(message)),
                Answer::Incomplete => {
                    self.tail = bytes.to_vec();
                    return Ok(());
                }
            }
            self.stage = Stage::Open;
            client.opened(self);
        }
        let rest = self.handle_frames(&bytes[start..], context.keep_bytes, context.traffic, client)?;
        self.tail = rest.to_vec();
        Ok(())
    }

    /// Handles all complete frames and returns the rest.
    fn handle_frames<'a>(
        &mut self,
        mut bytes: &'a [u8],
        keep_bytes: usize,
        traffic: &mut Traffic,
        client: &mut impl Client,
    ) -> Result<&'a [u8], Disconnect> {
        loop {
            bytes = self.skip(bytes);
            let Some(header) = frame::parse_header(bytes).map_err(Disconnect::Violation)? else {
                return Ok(bytes);
            };
            if header.mask.is_some() {
                return Err(Disconnect::Violation(Violation("a server frame is masked")));
            }
            let payload = &bytes[header.header_bytes..];
            let whole = usize::try_from(header.payload_bytes).ok().and_then(|length| payload.get(..length));
            let shown = match whole {
                Some(payload) => payload,
                None if header.payload_bytes > keep_bytes as u64 && payload.len() >= HEAD_BYTES => payload,
                None => return Ok(bytes),
            };
            self.skip_bytes = header.payload_bytes - shown.len() as u64;
            bytes = &payload[shown.len()..];
            self.handle_frame(header, shown, keep_bytes, traffic, client)?;
        }
    }

    fn skip<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let skipped = usize::try_from(self.skip_bytes).map_or(bytes.len(), |skip| skip.min(bytes.len()));
        self.skip_bytes -= skipped as u64;
        &bytes[skipped..]
    }

    fn handle_frame(
        &mut self,
        header: Header,
        payload: &[u8],
        keep_bytes: usize,
        traffic: &mut Traffic,
        client: &mut impl Client,
    ) -> Result<(), Disconnect> {
        match header.opcode {
            frame::PING => {
                traffic.pings += 1;
                self.send(&frame::masked(frame::PONG, payload));
            }
            frame::PONG => {}
            frame::CLOSE => {
                self.send(&frame::masked(frame::CLOSE, &payload[..payload.len().min(2)]));
                let code = payload.first_chunk::<2>().map(|code| u16::from_be_bytes(*code));
                let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned();
                return Err(Disconnect::Closed { code, reason });
            }
            frame::TEXT | frame::BINARY | frame::CONTINUATION => {
                traffic.bytes += header.payload_bytes;
                let is_whole = payload.len() as u64 == header.payload_bytes;
                if header.opcode != frame::CONTINUATION && header.is_final && self.fragments.is_none() {
                    traffic.messages += 1;
                    client.message(self, &Message { payload, is_whole });
                } else if let Some((payload, is_whole)) = self.add_fragment(header, payload, keep_bytes)? {
                    traffic.messages += 1;
                    client.message(self, &Message { payload: &payload, is_whole });
                }
            }
            _ => return Err(Disconnect::Violation(Violation("an opcode is unknown"))),
        }
        Ok(())
    }

    /// Adds a frame to the fragments of its message (RFC 6455 section 5.4). With the last one it returns the message,
    /// and whether that is all of it.
    fn add_fragment(
        &mut self,
        header: Header,
        payload: &[u8],
        keep_bytes: usize,
    ) -> Result<Option<(Vec<u8>, bool)>, Disconnect> {
        let is_first = header.opcode != frame::CONTINUATION;
        if is_first == self.fragments.is_some() {
            return Err(Disconnect::Violation(Violation("a message starts within another one, or continues none")));
        }
        let mut message = self.fragments.take().unwrap_or_default();
        // One byte more than `keep_bytes` shows that the message was longer.
        let room = (keep_bytes + 1).saturating_sub(message.len());
        message.extend_from_slice(&payload[..payload.len().min(room)]);
        if !header.is_final {
            self.fragments = Some(message);
            return Ok(None);
        }
        let is_whole = message.len() <= keep_bytes && payload.len() as u64 == header.payload_bytes;
        Ok(Some((message, is_whole)))
    }
}
