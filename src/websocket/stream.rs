//! The transport below a WebSocket connection: a plain TCP socket. TLS will be a second variant.
//!
//! System calls are made directly (rustix) and not through the C library, whose `recv` and `send` do extra work in
//! programs with threads because a thread may be cancelled in them.

use std::io::{self, IoSlice};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};

/// A connected, non-blocking transport.
#[derive(Debug)]
pub enum Stream {
    /// TCP without encryption.
    Plain(TcpStream),
}

/// The result of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// This many bytes, at least one.
    Bytes(usize),
    /// Nothing has arrived.
    Nothing,
    /// The client has closed the connection, or it is broken.
    End,
}

impl Stream {
    /// Has the poll report when the transport can be read or written, each time that this begins (edge-triggered).
    ///
    /// # Errors
    /// If the system has no memory for another socket in the poll.
    pub fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        let Self::Plain(stream) = self;
        registry.register(&mut SourceFd(&stream.as_raw_fd()), token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Removes it from the poll and returns the socket, which is non-blocking.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn deregister(self, registry: &Registry) -> io::Result<TcpStream> {
        let Self::Plain(stream) = self;
        registry.deregister(&mut SourceFd(&stream.as_raw_fd()))?;
        Ok(stream)
    }

    /// Reads what has arrived.
    pub fn read(&mut self, buffer: &mut [u8]) -> Received {
        let Self::Plain(stream) = self;
        loop {
            return match recv(&*stream, &mut *buffer, RecvFlags::empty()) {
                Ok((0, _)) => Received::End,
                Ok((read, _)) => Received::Bytes(read),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Received::Nothing,
                Err(_) => Received::End,
            };
        }
    }

    /// Writes as much as the socket accepts. Returns the number of bytes, 0 if the socket is full. A broken socket
    /// accepts everything: the next read reports its end.
    ///
    /// Nearly always there is one slice, for which `send` is much cheaper than `sendmsg`.
    pub fn try_write(&mut self, slices: &[IoSlice<'_>]) -> usize {
        let Self::Plain(stream) = self;
        loop {
            let written = match slices {
                [slice] => send(&*stream, slice, SendFlags::NOSIGNAL),
                slices => sendmsg(&*stream, slices, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL),
            };
            return match written {
                Ok(written) => written,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => 0,
                Err(_) => slices.iter().map(|slice| slice.len()).sum(),
            };
        }
    }

    /// Shuts down one or both directions.
    pub fn shutdown(&self, how: Shutdown) {
        let Self::Plain(stream) = self;
        // It fails if the connection is closed already.
        let _ = stream.shutdown(how);
    }
}

impl From<TcpStream> for Stream {
    /// The socket must be non-blocking.
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}
