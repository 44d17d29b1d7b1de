//! The transport below a connection: a TCP socket, with the state of TLS if the connection is encrypted.
//!
//! System calls are made directly (rustix) and not through the C library, whose `recv` and `send` do extra work in
//! programs with threads because a thread may be cancelled in them.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};

use crate::tls::{RECORD_BYTES, Session};

/// Reads in a row that bring no plaintext, before other connections have their turn.
const MAX_EMPTY_READS: usize = 4;
/// The limit of bytes per read. A heartbeat has 15 bytes; the limit matters for clients that send a flood, which is
/// read in parts so that it does not delay other clients much. The longest record of TLS fits.
pub const READ_BYTES: usize = RECORD_BYTES + 4 * 1024;

thread_local! {
    /// What is read from an encrypted connection.
    static ENCRYPTED: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// A connected, non-blocking socket.
#[derive(Debug)]
pub struct Stream(TcpStream);

/// A socket between two threads, with the state of TLS if the connection is encrypted.
#[derive(Debug)]
pub struct Transport {
    /// The socket, non-blocking.
    pub socket: TcpStream,
    /// The state of TLS.
    pub tls: Option<Box<Session>>,
}

/// The result of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// This many bytes, at least one. `is_all` says that nothing more has arrived.
    Bytes {
        /// The number of bytes.
        count: usize,
        /// Whether nothing more has arrived. (A read that does not fill the buffer may also end at urgent data. What is
        /// behind that is read with the next segment.)
        is_all: bool,
    },
    /// Nothing has arrived.
    Nothing,
    /// Bytes that bring no plaintext: an incomplete record, or a part of the handshake.
    Incomplete {
        /// Whether nothing more has arrived.
        is_all: bool,
    },
    /// The client has closed the connection, or it is broken.
    End,
}

impl Stream {
    /// Has the poll report when the transport can be read or written, each time that this begins (edge-triggered).
    ///
    /// # Errors
    /// If the system has no memory for another socket in the poll.
    pub fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.0.as_raw_fd()), token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Removes it from the poll and returns the socket, which is non-blocking.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn deregister(self, registry: &Registry) -> io::Result<TcpStream> {
        registry.deregister(&mut SourceFd(&self.0.as_raw_fd()))?;
        Ok(self.0)
    }

    /// Reads what has arrived.
    pub fn read(&self, tls: Option<&mut Session>, buffer: &mut [u8]) -> Received {
        match tls {
            None => receive(&self.0, buffer),
            Some(tls) => read_tls(&self.0, tls, buffer),
        }
    }

    /// The first bytes that have arrived, at least one, and as many as fit. They stay where they are.
    ///
    /// # Errors
    /// If there is none: nothing has arrived, or the connection has ended.
    pub fn peek<'a>(&self, buffer: &'a mut [u8]) -> Result<&'a [u8], Received> {
        loop {
            return match recv(&self.0, &mut *buffer, RecvFlags::PEEK) {
                Ok((count @ 1.., _)) => Ok(&buffer[..count]),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Err(Received::Nothing),
                Ok(_) | Err(_) => Err(Received::End),
            };
        }
    }

    /// Writes as much as the socket accepts. Returns the number of bytes, 0 if the socket is full. A broken socket
    /// accepts everything: the next read reports its end.
    ///
    /// With TLS, bytes count as accepted when the whole record is: the caller offers them again until then.
    pub fn try_write(&self, tls: Option<&mut Session>, slices: &[IoSlice<'_>]) -> usize {
        match tls {
            None => transmit(&self.0, slices).unwrap_or_else(|_| length(slices)),
            Some(tls) => write_tls(&self.0, tls, slices).unwrap_or_else(|_| length(slices)),
        }
    }

    /// Writes records that wait for the socket: of the handshake, or those of bytes that were accepted.
    pub fn flush(&self, tls: &mut Session) {
        // If the socket is broken, the next read reports its end.
        let _ = flush_tls(&self.0, tls);
    }

    /// The address of the client; `None` if the connection is broken.
    #[must_use]
    pub fn peer(&self) -> Option<IpAddr> {
        self.0.peer_addr().ok().map(|peer| peer.ip())
    }

    /// Shuts down one or both directions.
    pub fn shutdown(&self, how: Shutdown) {
        // It fails if the connection is closed already.
        let _ = self.0.shutdown(how);
    }
}

impl From<TcpStream> for Transport {
    /// Without TLS. The socket must be non-blocking.
    fn from(socket: TcpStream) -> Self {
        Self { socket, tls: None }
    }
}

impl From<TcpStream> for Stream {
    /// The socket must be non-blocking.
    fn from(socket: TcpStream) -> Self {
        Self(socket)
    }
}

fn length(slices: &[IoSlice<'_>]) -> usize {
    slices.iter().map(|slice| slice.len()).sum()
}

fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Received {
    loop {
        return match recv(&socket, &mut *buffer, RecvFlags::empty()) {
            Ok((0, _)) => Received::End,
            Ok((count, _)) => Received::Bytes { count, is_all: count < buffer.len() },
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => Received::Nothing,
            Err(_) => Received::End,
        };
    }
}

/// Sends as much as the socket accepts; 0 bytes if it is full. Nearly always there is one slice, for which `send` is
/// much cheaper than `sendmsg`.
fn transmit(socket: impl AsFd, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    loop {
        let written = match slices {
            [slice] => send(&socket, slice, SendFlags::NOSIGNAL),
            slices => sendmsg(&socket, slices, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL),
        };
        return match written {
            Ok(written) => Ok(written),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => Ok(0),
            Err(error) => Err(error.into()),
        };
    }
}

/// Reads and decrypts. What the client waits for meanwhile is sent: messages of the handshake, or the reason why it is
/// refused.
pub fn read_tls(socket: impl AsFd, tls: &mut Session, buffer: &mut [u8]) -> Received {
    ENCRYPTED.with_borrow_mut(|encrypted| {
        for _ in 0..MAX_EMPTY_READS {
            if tls.is_closed() {
                return Received::End;
            }
            let room = tls.room(buffer.len()).min(encrypted.len());
            let (count, is_all) = match receive(&socket, &mut encrypted[..room]) {
                Received::Bytes { count, is_all } => (count, is_all),
                other => return other,
            };
            let decrypted = tls.decrypt(&mut encrypted[..count], buffer);
            let flushed = flush_tls(&socket, tls);
            match (decrypted, flushed) {
                (Err(_), _) | (_, Err(_)) => return Received::End,
                (Ok(0), _) if is_all && !tls.is_closed() => return Received::Incomplete { is_all },
                (Ok(0), _) => {}
                (Ok(count), _) => return Received::Bytes { count, is_all: is_all && !tls.is_closed() },
            }
        }
        Received::Incomplete { is_all: false }
    })
}

/// Sends records that wait. Returns whether none is left.
///
/// # Errors
/// If the socket is broken.
pub fn flush_tls(socket: impl AsFd, tls: &mut Session) -> io::Result<bool> {
    while !tls.unsent().is_empty() {
        match transmit(&socket, &[IoSlice::new(tls.unsent())])? {
            0 => return Ok(false),
            sent => tls.sent(sent),
        }
    }
    Ok(true)
}

/// Encrypts and sends one record after the other. Returns how many bytes the socket has accepted with their whole
/// record; the one that it has not is encrypted ahead.
fn write_tls(socket: impl AsFd, tls: &mut Session, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let (mut accepted, all) = (0, length(slices));
    loop {
        if !flush_tls(&socket, tls)? {
            return Ok(accepted);
        }
        accepted += tls.take_sent();
        if accepted >= all {
            return Ok(all);
        }
        let encrypted = match slices {
            [slice] => tls.encrypt_ahead(&slice[accepted..]),
            slices => tls.encrypt_ahead(&joined(slices, accepted)),
        };
        encrypted.map_err(|_| broken(&socket))?;
    }
}

/// The plaintext of one record, without the bytes before it.
fn joined(slices: &[IoSlice<'_>], mut skipped: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(RECORD_BYTES.min(length(slices) - skipped));
    for slice in slices {
        let begin = skipped.min(slice.len());
        skipped -= begin;
        let rest = &slice[begin..];
        let fits = rest.len().min(RECORD_BYTES - bytes.len());
        bytes.extend_from_slice(&rest[..fits]);
    }
    bytes
}

/// Ends a connection that can send nothing any more.
fn broken(socket: impl AsFd) -> io::Error {
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
    io::ErrorKind::BrokenPipe.into()
}

/// Encrypts the beginning of the bytes as one record. Returns how many bytes it has: they count as accepted, although
/// the socket may not have accepted the record.
///
/// # Errors
/// `WouldBlock` if earlier records wait for the socket; another error if the connection is broken.
pub fn write_record(socket: impl AsFd, tls: &mut Session, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    if !flush_tls(&socket, tls)? {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let encrypted = match slices {
        [slice] => tls.encrypt(slice),
        slices => tls.encrypt(&joined(slices, 0)),
    };
    let accepted = encrypted.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
    flush_tls(&socket, tls)?;
    Ok(accepted)
}

#[cfg(test)]
mod tests;
