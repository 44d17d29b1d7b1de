//! One client connection: handshake, frames in, frames out. Idle it owns a socket and three empty vectors.
//!
//! Bytes are read into the engine's shared buffer and handled in place; only an incomplete frame is kept.
//! A message longer than the run keeps is shown by its beginning and the rest is skipped, so that a server
//! that sends long lists costs the generator no memory.

use std::fmt;
use std::io::{self, ErrorKind, Read as _, Write as _};

use mio::event::Event;
use mio::net::TcpStream;

use crate::engine::Client;
use crate::frame::{self, Header, Violation};
use crate::handshake::{Answer, Handshake};

/// Enough of a long message to tell what it is.
pub(crate) const HEAD_BYTES: usize = 256;
/// A peer that sends pings and reads no pongs is not owed more than this.
const MAX_OUTBOX_BYTES: usize = 64 * 1024;

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Which client this is; also its token in the engine.
    index: usize,
    stream: TcpStream,
    stage: Stage,
    /// Bytes after the last whole frame, or of the answer to the handshake.
    tail: Vec<u8>,
    /// Bytes of a long message that are still to be thrown away.
    skip_bytes: u64,
    /// The rest of a short write, and what came after it; starts with the request.
    outbox: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    Upgrading,
    Open,
}

/// What became of a frame that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// It is in the kernel, or its rest goes out as soon as there is room.
    Taken,
    /// The peer does not read: nothing was written.
    Blocked,
    /// The connection is not open, or no longer.
    Gone,
}

/// A text or binary message, or the beginning of a long one.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub(crate) payload: &'a [u8],
}

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum Loss {
    Connect(io::Error),
    Refused(String),
    Violation(Violation),
    Closed { code: Option<u16>, reason: String },
    Broken(io::Error),
    Ended,
}

/// What has come in on all connections together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) pings: u64,
}

/// What all connections of an engine share while they read.
pub(crate) struct Shared<'a> {
    pub(crate) handshake: &'a Handshake,
    pub(crate) buffer: &'a mut [u8],
    pub(crate) traffic: &'a mut Traffic,
    /// Longer messages are not kept.
    pub(crate) keep_bytes: usize,
}

impl Connection {
    /// Takes a socket that is still connecting; the request goes out when it is writable.
    pub(crate) fn new(index: usize, stream: TcpStream, request: Vec<u8>) -> Self {
        Self { index, stream, stage: Stage::Connecting, tail: Vec::new(), skip_bytes: 0, outbox: request }
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Writes a finished frame now or not at all: one system call, no copy.
    #[inline]
    pub(crate) fn offer(&mut self, frame: &[u8]) -> Offer {
        if self.stage != Stage::Open {
            return Offer::Gone;
        }
        if !self.outbox.is_empty() {
            return Offer::Blocked;
        }
        match self.stream.write(frame) {
            Ok(written) => {
                self.outbox.extend_from_slice(&frame[written..]);
                Offer::Taken
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Offer::Blocked,
            // The event that follows tells why.
            Err(_) => Offer::Gone,
        }
    }

    /// Writes a finished frame now or as soon as there is room.
    pub(crate) fn push(&mut self, frame: &[u8]) {
        if self.offer(frame) == Offer::Blocked && self.outbox.len() + frame.len() <= MAX_OUTBOX_BYTES {
            self.outbox.extend_from_slice(frame);
        }
    }

    /// Handles what epoll reports. An error means the connection is over.
    pub(crate) fn on_event(
        &mut self,
        event: &Event,
        shared: &mut Shared<'_>,
        client: &mut impl Client,
    ) -> Result<(), Loss> {
        if self.stage == Stage::Connecting {
            if let Some(error) = self.stream.take_error().map_err(Loss::Connect)? {
                return Err(Loss::Connect(error));
            }
            if !event.is_writable() {
                return Ok(());
            }
            self.stage = Stage::Upgrading;
        }
        if event.is_writable() && !self.outbox.is_empty() {
            self.flush()?;
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            return self.read(event.is_read_closed(), shared, client);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Loss> {
        match self.stream.write(&self.outbox) {
            Ok(written) if written == self.outbox.len() => self.outbox = Vec::new(),
            Ok(written) => drop(self.outbox.drain(..written)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(Loss::Broken(error)),
        }
        Ok(())
    }

    /// Events are edge-triggered. A short read has emptied the socket, unless its end has come as well.
    fn read(&mut self, to_the_end: bool, shared: &mut Shared<'_>, client: &mut impl Client) -> Result<(), Loss> {
        loop {
            let carried = self.tail.len();
            match self.stream.read(&mut shared.buffer[carried..]) {
                Ok(0) => return Err(Loss::Ended),
                Ok(received) => {
                    let filled = carried + received;
                    let emptied = filled < shared.buffer.len() && !to_the_end;
                    self.take(filled, shared, client)?;
                    if emptied {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Loss::Broken(error)),
            }
        }
    }

    /// Handles the tail and what was read behind its place in the buffer; keeps what is incomplete.
    fn take(&mut self, filled: usize, shared: &mut Shared<'_>, client: &mut impl Client) -> Result<(), Loss> {
        shared.buffer[..self.tail.len()].copy_from_slice(&self.tail);
        self.tail = Vec::new();
        let bytes = &shared.buffer[..filled];
        let mut start = 0;
        if self.stage == Stage::Upgrading {
            match shared.handshake.judge(bytes) {
                Answer::Switched(head_bytes) => start = head_bytes,
                Answer::Refused(message) => return Err(Loss::Refused(message)),
                Answer::Incomplete => {
                    self.tail = bytes.to_vec();
                    return Ok(());
                }
            }
            self.stage = Stage::Open;
            client.opened(self);
        }
        let rest = self.take_frames(&bytes[start..], shared.keep_bytes, shared.traffic, client)?;
        self.tail = rest.to_vec();
        Ok(())
    }

    /// Handles all whole frames and returns what is left.
    fn take_frames<'a>(
        &mut self,
        mut bytes: &'a [u8],
        keep_bytes: usize,
        traffic: &mut Traffic,
        client: &mut impl Client,
    ) -> Result<&'a [u8], Loss> {
        loop {
            bytes = self.skip(bytes);
            let Some(header) = frame::parse_header(bytes).map_err(Loss::Violation)? else {
                return Ok(bytes);
            };
            if header.mask.is_some() {
                return Err(Loss::Violation(Violation("a server frame is masked")));
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
            self.take_frame(header, shown, traffic, client)?;
        }
    }

    fn skip<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let skipped = usize::try_from(self.skip_bytes).map_or(bytes.len(), |skip| skip.min(bytes.len()));
        self.skip_bytes -= skipped as u64;
        &bytes[skipped..]
    }

    fn take_frame(
        &mut self,
        header: Header,
        payload: &[u8],
        traffic: &mut Traffic,
        client: &mut impl Client,
    ) -> Result<(), Loss> {
        match header.opcode {
            frame::PING => {
                traffic.pings += 1;
                self.push(&frame::masked(frame::PONG, payload));
            }
            frame::PONG => {}
            frame::CLOSE => {
                self.push(&frame::masked(frame::CLOSE, &payload[..payload.len().min(2)]));
                let code = payload.first_chunk::<2>().map(|code| u16::from_be_bytes(*code));
                let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned();
                return Err(Loss::Closed { code, reason });
            }
            _ => {
                traffic.messages += 1;
                traffic.bytes += header.payload_bytes;
                client.message(self, &Message { payload });
            }
        }
        Ok(())
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) if error.kind() == ErrorKind::ConnectionRefused => {
                write!(formatter, "connection refused; is a server listening there?")
            }
            Self::Connect(error) => write!(formatter, "cannot connect: {error}"),
            Self::Refused(message) => {
                write!(formatter, "the server refused the WebSocket: {message}")
            }
            Self::Violation(violation) => {
                write!(formatter, "the server broke RFC 6455: {}", violation.0)
            }
            Self::Closed { code: Some(code), reason } if reason.is_empty() => {
                write!(formatter, "closed by the server with {code}")
            }
            Self::Closed { code: Some(code), reason } => {
                write!(formatter, "closed by the server with {code} {reason:?}")
            }
            Self::Closed { code: None, .. } => {
                write!(formatter, "closed by the server without a code")
            }
            Self::Broken(error) => write!(formatter, "the connection broke: {error}"),
            Self::Ended => write!(formatter, "the server ended the connection without a close frame"),
        }
    }
}
