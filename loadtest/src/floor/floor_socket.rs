//! One connection of the floor: an HTTP request, then heartbeats.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;

use mio::net::TcpStream;
use wire::frame;

use super::counters::FloorCounters;
use crate::handshake::{accept_key, head_end, header_value};

/// Room for many heartbeats; a client that sends more at once is read twice.
pub(crate) const BUFFER_BYTES: usize = 16 * 1024;
const HEARTBEAT: &[u8] = b"heartbeat";
/// The native heartbeat as JSON. The fields that may follow do not matter here.
const HEARTBEAT_JSON: &[u8] = br#"{"type":"heartbeat""#;
const HEARTBEAT_ACK: &[u8] = br#"{"type":"heartbeat_ack"}"#;

/// The socket must be dropped: the peer closed it, it broke, or it received garbage.
#[derive(Debug)]
pub(crate) struct Finished;

#[derive(Debug)]
pub(crate) struct FloorSocket {
    stream: TcpStream,
    /// The handshake is complete.
    open: bool,
    /// Bytes of an incomplete request or frame.
    tail: Vec<u8>,
}

impl FloorSocket {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, open: false, tail: Vec::new() }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// Events are edge-triggered. A short read means that the socket is empty, unless its end was reported as well.
    #[inline]
    pub(crate) fn read(
        &mut self,
        reads_to_end: bool,
        buffer: &mut [u8],
        ack: bool,
        counters: &mut FloorCounters,
    ) -> Result<(), Finished> {
        loop {
            let carried = self.tail.len();
            match self.stream.read(&mut buffer[carried..]) {
                Ok(0) => return Err(Finished),
                Ok(received) => {
                    let filled = carried + received;
                    let emptied = filled < buffer.len() && !reads_to_end;
                    self.handle_bytes(&mut buffer[..filled], ack, counters)?;
                    if emptied {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Finished),
            }
        }
    }

    /// Writes a whole frame or nothing. After a short write the stream is broken, so it ends.
    pub(crate) fn send(&mut self, frame: &[u8]) -> bool {
        match self.stream.write(frame) {
            Ok(written) if written == frame.len() => true,
            Ok(_) => {
                // The next read sees the end and drops the socket.
                let _ = self.stream.shutdown(Shutdown::Both);
                false
            }
            Err(_) => false,
        }
    }

    #[inline]
    fn handle_bytes(&mut self, bytes: &mut [u8], ack: bool, counters: &mut FloorCounters) -> Result<(), Finished> {
        if !self.tail.is_empty() {
            bytes[..self.tail.len()].copy_from_slice(&self.tail);
            self.tail = Vec::new();
        }
        let used =
            if self.open { self.handle_frames(bytes, ack, counters)? } else { self.handle_request(bytes, counters)? };
        // Frames that arrive together with the request wait for the next read. Clients of loadtest send none.
        if used < bytes.len() {
            if bytes.len() - used > BUFFER_BYTES / 2 {
                return Err(Finished);
            }
            self.tail = bytes[used..].to_vec();
        }
        Ok(())
    }

    /// Handles all complete frames and returns their length.
    #[inline]
    fn handle_frames(&mut self, bytes: &mut [u8], ack: bool, counters: &mut FloorCounters) -> Result<usize, Finished> {
        let mut used = 0;
        while let Some(header) = frame::parse_header(&bytes[used..]).map_err(|_| Finished)? {
            let start = used + header.header_bytes;
            let length = usize::try_from(header.payload_bytes).map_err(|_| Finished)?;
            let Some(payload) = bytes.get_mut(start..).and_then(|rest| rest.get_mut(..length)) else {
                break;
            };
            frame::apply_mask(payload, header.mask.ok_or(Finished)?);
            if header.opcode == frame::CLOSE {
                return Err(Finished);
            }
            if header.opcode == frame::TEXT && (payload == HEARTBEAT || payload.starts_with(HEARTBEAT_JSON)) {
                counters.heartbeats += 1;
                if ack {
                    self.send(&frame::unmasked(frame::TEXT, HEARTBEAT_ACK));
                }
            }
            used = start + length;
        }
        Ok(used)
    }

    /// Answers a WebSocket handshake or a request for the counters. Anything else ends the connection.
    fn handle_request(&mut self, bytes: &[u8], counters: &mut FloorCounters) -> Result<usize, Finished> {
        let Some(head_bytes) = head_end(bytes) else {
            return Ok(0);
        };
        let head = str::from_utf8(&bytes[..head_bytes]).map_err(|_| Finished)?;
        if head.starts_with("GET /v1/stats ") {
            let body = counters.json();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            self.send(answer.as_bytes());
            return Err(Finished);
        }
        let Some(key) = header_value(head, "sec-websocket-key") else {
            self.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            return Err(Finished);
        };
        let accept = accept_key(key);
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        if !self.send(answer.as_bytes()) {
            return Err(Finished);
        }
        self.open = true;
        counters.connections += 1;
        Ok(head_bytes)
    }
}
