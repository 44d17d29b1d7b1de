//! One socket of a swarm: bytes to send, received bytes, and the state of its protocol. It recognizes WebSocket frames
//! and HTTP answers; the caller interprets them.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mio::net::TcpStream;
use socket2::{Domain, SockAddr, Socket, Type};
use wire::frame::{self, CLOSE, PING, PONG, TEXT};

use crate::answer;

const READ_BYTES: usize = 64 * 1024;
/// At most this much is read from one socket before the others get their turn.
const READS_PER_TURN: usize = 16;
/// Of a client that does not read: the smallest that the kernel grants, so that unread bytes wait in the server.
const SMALL_BUFFER: usize = 2048;

/// As on Ethernet.
const SEGMENT_BYTES: u32 = 1400;

/// Whether a client reads what it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// As soon as it arrives.
    Always,
    /// Only the answer to its handshake.
    Never,
}

/// What a socket received.
pub(crate) enum Received {
    Open,
    Text(Vec<u8>),
    Answer {
        status: u16,
        bytes: usize,
    },
    /// The connection is over; the code is that of the server's close frame.
    Closed(Option<u16>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Handshake,
    Frames,
    Http,
    Closed,
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    stage: Stage,
    reading: Reading,
    output: Vec<u8>,
    input: Vec<u8>,
    message: Vec<u8>,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
}

impl Client {
    /// Begins to connect. `source` is the local address, or `None` for any.
    pub(crate) fn connect(
        server: SocketAddr,
        source: Option<IpAddr>,
        reading: Reading,
        handshake: Option<Vec<u8>>,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        // A client that does not read is reset when it closes, as the kernel does with unread bytes anyway.
        if reading == Reading::Never {
            socket.set_recv_buffer_size(SMALL_BUFFER)?;
            // On loopback the kernel would buffer 2.6 MB for the server, because segments are large there.
            let _ = socket.set_tcp_mss(SEGMENT_BYTES);
        }
        socket.set_linger(Some(Duration::ZERO))?;
        if let Some(source) = source {
            socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
        }
        match socket.connect(&SockAddr::from(server)) {
            Err(error) if error.raw_os_error() != Some(EINPROGRESS) => return Err(error),
            _ => {}
        }
        Ok(Self {
            stream: TcpStream::from_std(socket.into()),
            stage: if handshake.is_some() { Stage::Handshake } else { Stage::Http },
            reading,
            output: handshake.unwrap_or_default(),
            input: Vec::new(),
            message: Vec::new(),
            sent_bytes: 0,
            received_bytes: 0,
        })
    }

    pub(crate) fn is_open(&self) -> bool {
        self.stage == Stage::Frames
    }

    pub(crate) fn reads(&self) -> bool {
        self.reading == Reading::Always || self.stage == Stage::Handshake
    }

    /// Bytes that wait to be sent.
    pub(crate) fn backlog(&self) -> usize {
        self.output.len()
    }

    pub(crate) fn queue(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// Sends what the kernel accepts.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let mut start = 0;
        let result = loop {
            if start == self.output.len() {
                break Ok(());
            }
            match self.stream.write(&self.output[start..]) {
                Ok(written) => start += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Not connected yet: the socket becomes writable later.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.output.drain(..start);
        self.sent_bytes += start as u64;
        result
    }

    /// Reads what has arrived and reports it. Returns whether more may wait.
    pub(crate) fn read(&mut self, scratch: &mut Vec<u8>, mut report: impl FnMut(Received)) -> bool {
        scratch.resize(READ_BYTES, 0);
        for _ in 0..READS_PER_TURN {
            if !self.reads() {
                return false;
            }
            match self.stream.read(scratch) {
                Ok(0) => return self.end(None, report),
                Ok(read) => {
                    self.received_bytes += read as u64;
                    self.input.extend_from_slice(&scratch[..read]);
                    if !self.parse(&mut report) {
                        return false;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.end(None, report),
            }
        }
        true
    }

    fn end(&mut self, code: Option<u16>, mut report: impl FnMut(Received)) -> bool {
        if self.stage != Stage::Closed {
            self.stage = Stage::Closed;
            report(Received::Closed(code));
        }
        false
    }

    /// Whether the connection goes on.
    fn parse(&mut self, report: &mut impl FnMut(Received)) -> bool {
        if self.stage == Stage::Handshake {
            let Some(head_bytes) = answer::head_end(&self.input) else { return true };
            if answer::status(&self.input) != 101 {
                let status = answer::status(&self.input);
                report(Received::Answer { status, bytes: self.input.len() });
                return self.end(None, report);
            }
            self.input.drain(..head_bytes);
            self.stage = Stage::Frames;
            report(Received::Open);
        }
        match self.stage {
            Stage::Frames => self.parse_frames(report),
            Stage::Http => {
                while let Some(found) = answer::complete(&self.input) {
                    self.input.drain(..found.bytes);
                    report(Received::Answer { status: found.status, bytes: found.bytes });
                }
                true
            }
            Stage::Handshake | Stage::Closed => false,
        }
    }

    fn parse_frames(&mut self, report: &mut impl FnMut(Received)) -> bool {
        let mut start = 0;
        while let Ok(Some(header)) = frame::parse_header(&self.input[start..]) {
            let body = start + header.header_bytes;
            let end = body + header.payload_bytes as usize;
            if end > self.input.len() {
                break;
            }
            let payload = &self.input[body..end];
            start = end;
            match header.opcode {
                PING => self.output.extend_from_slice(&frame::masked(PONG, payload)),
                CLOSE => {
                    let code = payload.first_chunk::<2>().map(|code| u16::from_be_bytes(*code));
                    return self.end(code, report);
                }
                PONG => {}
                _ => {
                    self.message.extend_from_slice(payload);
                    if header.is_final {
                        report(Received::Text(std::mem::take(&mut self.message)));
                    }
                }
            }
        }
        self.input.drain(..start);
        true
    }
}

/// `EINPROGRESS` of Linux: the connection is being made.
const EINPROGRESS: i32 = 115;

/// A text frame.
pub(crate) fn text(message: &str) -> Vec<u8> {
    frame::masked(TEXT, message.as_bytes())
}
