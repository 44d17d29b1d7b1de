//! The transport of an HTTP connection as tokio uses it: a TCP socket, or TLS over one.

use std::io;
use std::net::TcpStream as StdStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::tls::Session;
use crate::websocket::stream::{READ_BYTES, Received, Transport, flush_tls, read_tls, write_record};

pub(super) struct HttpStream {
    socket: TcpStream,
    tls: Option<Box<Session>>,
    /// Decrypted bytes that were not read.
    plaintext: Bytes,
}

impl HttpStream {
    /// Must be called on a runtime.
    pub(super) fn new(Transport { socket, tls }: Transport) -> io::Result<Self> {
        Ok(Self { socket: TcpStream::from_std(socket)?, tls, plaintext: Bytes::new() })
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Takes decrypted bytes that were not read.
    pub(super) fn take_plaintext(&mut self) -> Bytes {
        std::mem::take(&mut self.plaintext)
    }

    /// Takes it off the runtime, for another thread.
    pub(super) fn into_transport(self) -> io::Result<Transport> {
        let socket: StdStream = self.socket.into_std()?;
        Ok(Transport { socket, tls: self.tls })
    }

    /// Decrypts what arrives. `plaintext` stays empty at the end of the stream.
    fn poll_decrypt(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(tls) = &mut self.tls else { return Poll::Ready(Ok(())) };
        let mut buffer = vec![0; READ_BYTES];
        loop {
            ready!(self.socket.poll_read_ready(context))?;
            let read = self.socket.try_io(Interest::READABLE, || match read_tls(&self.socket, tls, &mut buffer) {
                Received::Bytes { count, .. } => Ok(Some(count)),
                Received::End => Ok(Some(0)),
                Received::Incomplete { .. } => Ok(None),
                Received::Nothing => Err(io::ErrorKind::WouldBlock.into()),
            });
            match read {
                Ok(Some(count)) => {
                    self.plaintext = Bytes::copy_from_slice(&buffer[..count]);
                    return Poll::Ready(Ok(()));
                }
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Calls `write` until the socket accepts something.
    fn poll_tls<T>(
        &mut self,
        context: &mut Context<'_>,
        mut write: impl FnMut(&TcpStream, &mut Session) -> io::Result<T>,
    ) -> Option<Poll<io::Result<T>>> {
        let Self { socket, tls, .. } = self;
        let tls = tls.as_deref_mut()?;
        loop {
            match socket.poll_write_ready(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                Poll::Pending => return Some(Poll::Pending),
            }
            match socket.try_io(Interest::WRITABLE, || write(socket, tls)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Some(Poll::Ready(result)),
            }
        }
    }
}

fn flush(socket: &TcpStream, tls: &mut Session) -> io::Result<()> {
    if flush_tls(socket, tls)? { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

impl AsyncRead for HttpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.tls.is_none() {
            return Pin::new(&mut self.socket).poll_read(context, buffer);
        }
        if self.plaintext.is_empty() {
            ready!(self.poll_decrypt(context))?;
        }
        let count = buffer.remaining().min(self.plaintext.len());
        buffer.put_slice(&self.plaintext.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let slices = [io::IoSlice::new(bytes)];
        match self.poll_tls(context, |socket, tls| write_record(socket, tls, &slices)) {
            Some(written) => written,
            None => Pin::new(&mut self.socket).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.poll_tls(context, |socket, tls| write_record(socket, tls, slices)) {
            Some(written) => written,
            None => Pin::new(&mut self.socket).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.poll_tls(context, flush) {
            Some(flushed) => flushed,
            None => Pin::new(&mut self.socket).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = self.poll_tls(context, |socket, tls| {
            tls.close();
            flush(socket, tls)
        });
        match closed {
            Some(Poll::Pending) => Poll::Pending,
            Some(Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            Some(Poll::Ready(Ok(()))) | None => Pin::new(&mut self.socket).poll_shutdown(context),
        }
    }
}
