//! One client connection: handshake, frames in, frames out. Idle it owns a socket and empty vectors.
//!
//! Bytes are read into the engine's shared buffer and handled in place; only an incomplete frame is kept.
//! A message longer than the run keeps is shown by its beginning and the rest is skipped, so that a server
//! that sends long lists costs the generator no memory.

use std::io::{ErrorKind, Read as _, Write as _};
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpStream;
use socket2::SockRef;

use crate::engine::Client;
use crate::frame::{self, Header, Violation};
use crate::handshake::{Answer, Handshake};
use crate::loss::Loss;

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
    /// What there is of a message that comes in several frames.
    fragments: Option<Vec<u8>>,
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

/// A text or binary message, whatever the number of its frames.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    /// All of it, or the beginning of one that is longer than the run keeps.
    pub(crate) payload: &'a [u8],
    pub(crate) is_whole: bool,
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

    /// The peer is to see a reset, whatever is still on its way.
    pub(crate) fn reset_on_drop(&self) {
        // A socket that cannot be reset any more is gone already.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
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
            self.take_frame(header, shown, keep_bytes, traffic, client)?;
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
        keep_bytes: usize,
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
            frame::TEXT | frame::BINARY | frame::CONTINUATION => {
                traffic.bytes += header.payload_bytes;
                let is_whole = payload.len() as u64 == header.payload_bytes;
                if header.opcode != frame::CONTINUATION && header.is_final && self.fragments.is_none() {
                    traffic.messages += 1;
                    client.message(self, &Message { payload, is_whole });
                } else if let Some((payload, is_whole)) = self.gather(header, payload, keep_bytes)? {
                    traffic.messages += 1;
                    client.message(self, &Message { payload: &payload, is_whole });
                }
            }
            _ => return Err(Loss::Violation(Violation("an opcode is unknown"))),
        }
        Ok(())
    }

    /// Puts a fragment to those that came before (RFC 6455 §5.4); the message when it was the last, and whether
    /// that is all of it.
    fn gather(&mut self, header: Header, payload: &[u8], keep_bytes: usize) -> Result<Option<(Vec<u8>, bool)>, Loss> {
        let begins = header.opcode != frame::CONTINUATION;
        if begins == self.fragments.is_some() {
            return Err(Loss::Violation(Violation("a message begins within another, or goes on without a beginning")));
        }
        let mut gathered = self.fragments.take().unwrap_or_default();
        // One byte more than is kept tells that the message was longer.
        let room = (keep_bytes + 1).saturating_sub(gathered.len());
        gathered.extend_from_slice(&payload[..payload.len().min(room)]);
        if !header.is_final {
            self.fragments = Some(gathered);
            return Ok(None);
        }
        let is_whole = gathered.len() <= keep_bytes && payload.len() as u64 == header.payload_bytes;
        Ok(Some((gathered, is_whole)))
    }
}
