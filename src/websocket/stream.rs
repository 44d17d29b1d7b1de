//! The transport below a WebSocket connection: a plain TCP socket. TLS will be a second variant.

use std::io::{self, IoSlice, Read};
use std::net::Shutdown;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A connected, non-blocking transport. Reads and writes share it, so it is not split.
#[derive(Debug)]
pub enum Stream {
    /// TCP without encryption.
    Plain(TcpStream),
}

impl Stream {
    /// Reads what has arrived; 0 bytes mean that the peer has closed.
    ///
    /// A short read tells tokio that there is no more, as tokio's own `poll_read` does: without it, each message would cost a
    /// second call that finds nothing. That `poll_read` needs the stream for itself, or split behind one more allocation.
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

    /// Writes as much as the socket accepts, 0 if it is full. A broken socket accepts everything: the reader finds out.
    ///
    /// Nearly always it is one slice, for which `send` is much cheaper than `writev`.
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

    /// Shuts one or both directions down. A socket that is already gone has nothing to shut down.
    pub fn shutdown(&self, how: Shutdown) {
        let Self::Plain(stream) = self;
        let _ = SockRef::from(stream).shutdown(how);
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}
