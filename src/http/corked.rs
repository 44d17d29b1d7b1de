//! A stream that keeps back the answer to an upgrade, so that it is sent together with the greeting of the protocol.
//! This saves one `send` and one packet per connection, a sixth of the cost of a handshake (measured as
//! `server_cpu_per_arrival_us` by `scripts/budgets`).

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;

use super::client::Client;
use super::stream::HttpStream;

/// The bytes that are kept back. While it is `None`, writes go to the socket. Set when a request becomes a WebSocket;
/// after that hyper writes the head of one answer and nothing else.
pub(super) type Cork = Rc<RefCell<Option<BytesMut>>>;

pub(super) struct CorkedStream {
    stream: TokioIo<HttpStream>,
    /// Bytes that were read from the socket already.
    read: Bytes,
    cork: Cork,
    client: Arc<Client>,
}

impl CorkedStream {
    pub(super) fn new(stream: HttpStream, read: Bytes, cork: Cork, client: Arc<Client>) -> Self {
        Self { stream: TokioIo::new(stream), read, cork, client }
    }

    /// The socket, the bytes that were kept back, and the bytes that hyper has not read.
    pub(super) fn into_parts(self) -> (HttpStream, BytesMut, Bytes) {
        let mut stream = self.stream.into_inner();
        let decrypted = stream.take_plaintext();
        let read = if decrypted.is_empty() { self.read } else { [self.read, decrypted].concat().into() };
        (stream, self.cork.take().unwrap_or_default(), read)
    }

    /// Notes that the socket accepted bytes.
    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(bytes)) if bytes > 0) {
            self.client.note_read();
        }
        written
    }

    /// Keeps the bytes back and returns how many they are; `None` if they are to be written.
    fn keep(&self, slices: &[io::IoSlice<'_>]) -> Option<usize> {
        let mut cork = self.cork.borrow_mut();
        let kept = cork.as_mut()?;
        slices.iter().for_each(|slice| kept.extend_from_slice(slice));
        Some(slices.iter().map(|slice| slice.len()).sum())
    }
}

impl Read for CorkedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.read.is_empty() {
            let bytes = buffer.remaining().min(self.read.len());
            // Splitting off the rest frees it.
            buffer.put_slice(&self.read.split_to(bytes));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl Write for CorkedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.keep(&[io::IoSlice::new(bytes)]) {
            Some(kept) => Poll::Ready(Ok(kept)),
            None => {
                let written = Pin::new(&mut self.stream).poll_write(context, bytes);
                self.note(written)
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.keep(slices) {
            Some(kept) => Poll::Ready(Ok(kept)),
            None => {
                let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
                self.note(written)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
