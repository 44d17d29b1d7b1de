//! A socket that keeps back the answer to an upgrade, so that it goes out together with the first words of the protocol: one
//! `send` and one packet less for each connection (a sixth of what a handshake costs; measured: `server_cpu_per_arrival_us` of
//! `scripts/budgets`).

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// `None`: writes go to the socket; `Some`: they are kept. The router sets it when a request becomes a WebSocket, after which
/// hyper writes one head and no more.
pub(super) type Held = Rc<RefCell<Option<BytesMut>>>;

pub(super) struct CorkedStream {
    stream: TokioIo<TcpStream>,
    held: Held,
}

impl CorkedStream {
    pub(super) fn new(stream: TcpStream, held: Held) -> Self {
        Self { stream: TokioIo::new(stream), held }
    }

    /// The socket, and what was kept back.
    pub(super) fn into_parts(self) -> (TcpStream, BytesMut) {
        (self.stream.into_inner(), self.held.take().unwrap_or_default())
    }

    fn hold(&self, slices: &[io::IoSlice<'_>]) -> Option<usize> {
        let mut held = self.held.borrow_mut();
        let held = held.as_mut()?;
        slices.iter().for_each(|slice| held.extend_from_slice(slice));
        Some(slices.iter().map(|slice| slice.len()).sum())
    }
}

impl Read for CorkedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl Write for CorkedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.hold(&[io::IoSlice::new(bytes)]) {
            Some(held) => Poll::Ready(Ok(held)),
            None => Pin::new(&mut self.stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.hold(slices) {
            Some(held) => Poll::Ready(Ok(held)),
            None => Pin::new(&mut self.stream).poll_write_vectored(context, slices),
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
