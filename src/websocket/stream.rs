//! The transport below a WebSocket connection: a plain TCP socket. TLS will be a second variant.

use std::io::{self, IoSlice, Read};
use std::net::Shutdown;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A connected, non-blocking transport. All methods take `&self`, so it need not be split into halves.
#[derive(Debug)]
pub enum Stream {
    /// TCP without encryption.
    Plain(TcpStream),
}

impl Stream {
    /// Reads what has arrived. 0 bytes mean that the client has closed the connection.
    ///
    /// A read that does not fill the buffer clears tokio's readiness, as in tokio's own `poll_read`: otherwise each
    /// message would cost a second call that reads nothing. That method itself cannot be used here: it needs `&mut`
    /// access, or a split stream with one more allocation.
    pub fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self::Plain(stream) = self;
        loop {
            ready!(stream.poll_read_ready(context))?;
            let mut read = 0;
            let result = stream.try_io(Interest::READABLE, || {
                read = (&*SockRef::from(stream)).read(buffer)?;
                if read > 0 && read < buffer.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && read == 0 => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Ready(Ok(read)),
                result => return Poll::Ready(result.map(|()| read)),
            }
        }
    }

    /// Writes as much as the socket accepts. Returns the number of bytes, 0 if the socket is full. A broken socket
    /// accepts everything: the reader notices the error.
    ///
    /// Nearly always there is one slice, for which `send` is much cheaper than `writev`.
    pub fn try_write(&self, slices: &[IoSlice<'_>]) -> usize {
        let Self::Plain(stream) = self;
        let written = match slices {
            [slice] => stream.try_write(slice),
            slices => stream.try_write_vectored(slices),
        };
        match written {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => slices.iter().map(|slice| slice.len()).sum(),
        }
    }

    /// Waits until the socket accepts more.
    pub async fn writable(&self) -> io::Result<()> {
        let Self::Plain(stream) = self;
        stream.writable().await
    }

    /// Shuts down one or both directions.
    pub fn shutdown(&self, how: Shutdown) {
        let Self::Plain(stream) = self;
        // It fails if the connection is closed already.
        let _ = SockRef::from(stream).shutdown(how);
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}
