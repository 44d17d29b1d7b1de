//! The task of a connection: reads bytes, decodes frames in place, and passes messages to the connection's protocol.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;

use super::commands::Commands;
use super::{Ending, Worker};
use crate::connection::{Connection, Partial, Phase};
use crate::protocol::Client;
use crate::websocket::decoder::{Message, decode_frames};
use crate::websocket::{close, put_close, put_pong};

/// Reads of one connection before other tasks run. Nearly always the first read returns everything, and the second
/// finds that nothing is left without a system call; a client that sends a flood takes turns with the others.
const CHUNKS_PER_TURN: usize = 2;
/// Replies are written once they have this many bytes, although the same read may cause more.
const REPLY_BYTES: usize = 16 * 1024;

/// Reads from a connection until its end.
#[derive(Debug)]
pub(super) struct Reader {
    connection: Rc<Connection>,
    worker: Rc<Worker>,
}

impl Reader {
    pub(super) fn new(connection: Rc<Connection>, worker: Rc<Worker>) -> Self {
        Self { connection, worker }
    }

    fn poll_chunk(&self, context: &mut Context<'_>) -> Poll<ControlFlow<()>> {
        if self.connection.must_wait(Some(context)) {
            return Poll::Pending;
        }
        if self.connection.has_backlog() {
            return Poll::Ready(self.worker.receive(&self.connection, &mut []));
        }
        let mut scratch = self.worker.scratch.borrow_mut();
        match ready!(self.connection.poll_read(context, &mut scratch)) {
            Ok(read) if read > 0 => Poll::Ready(self.worker.receive(&self.connection, &mut scratch[..read])),
            _ => Poll::Ready(ControlFlow::Break(())),
        }
    }
}

impl Future for Reader {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        for _ in 0..CHUNKS_PER_TURN {
            if ready!(self.poll_chunk(context)).is_break() {
                self.worker.disconnected(&self.connection);
                return Poll::Ready(());
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Worker {
    /// Handles bytes that a client sent. Breaks when the connection has ended.
    pub(super) fn receive(self: &Rc<Self>, connection: &Rc<Connection>, bytes: &mut [u8]) -> ControlFlow<()> {
        match connection.phase.get() {
            Phase::Open => self.sign_of_life(connection, self.node.now()),
            Phase::Closing => {}
            Phase::Failed => return ControlFlow::Continue(()),
            Phase::Dead => return ControlFlow::Break(()),
        }
        match connection.take_partial() {
            None => {
                let mut partial = Partial::default();
                let (done, flow) = self.decode(connection, bytes, &mut partial);
                partial.tail = bytes[done..].to_vec();
                keep(connection, partial);
                flow
            }
            Some(mut partial) => {
                let mut buffer = std::mem::take(&mut partial.tail);
                buffer.extend_from_slice(bytes);
                let (done, flow) = self.decode(connection, &mut buffer, &mut partial);
                buffer.drain(..done);
                partial.tail = buffer;
                keep(connection, partial);
                flow
            }
        }
    }

    /// Handles frames until no complete frame is left, the client must read its replies first, or the connection has
    /// ended. Returns the number of decoded bytes.
    fn decode(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        bytes: &mut [u8],
        partial: &mut Partial,
    ) -> (usize, ControlFlow<()>) {
        let limits = &connection.protocol.rules().limits;
        let mut replies = std::mem::take(&mut *self.replies.borrow_mut());
        let (mut done, mut flow) = (0, ControlFlow::Continue(()));
        partial.backlog = false;
        loop {
            let mut is_full = false;
            let result = decode_frames(&mut bytes[done..], &mut partial.fragments, limits, |message| {
                self.counters.frames_received.add(1);
                flow = self.handle(connection, message, &mut replies);
                is_full = replies.len() > REPLY_BYTES;
                if is_full { ControlFlow::Break(()) } else { flow }
            });
            match result {
                Ok(decoded) => done += decoded,
                Err(violation) => {
                    self.counters.protocol_violations.add(1);
                    if connection.phase.get() == Phase::Open {
                        put_close(&mut replies, violation.code, violation.reason);
                    }
                    self.expect_close(connection, Phase::Failed);
                }
            }
            self.reply(connection, &mut replies);
            if flow.is_break() && connection.is_blocked() {
                // The reply to the client's close frame waits for the socket: keep the connection until it is sent.
                self.expect_close(connection, Phase::Closing);
                flow = ControlFlow::Continue(());
            }
            partial.backlog = is_full && flow.is_continue() && connection.must_wait(None);
            if !is_full || flow.is_break() || partial.backlog {
                break;
            }
        }
        *self.replies.borrow_mut() = replies;
        if connection.phase.get() == Phase::Failed {
            connection.finish_writing();
            done = bytes.len();
        }
        (done, flow)
    }

    /// Handles a message. Breaks when the client has closed the connection.
    fn handle(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        message: Message<'_>,
        replies: &mut BytesMut,
    ) -> ControlFlow<()> {
        let closing = connection.phase.get() != Phase::Open;
        match message {
            Message::Close(code) => {
                if !closing {
                    put_close_reply(replies, code);
                    let clean = matches!(code, None | Some(close::NORMAL));
                    self.release(connection, if clean { Ending::Clean } else { Ending::Lost });
                }
                return ControlFlow::Break(());
            }
            _ if closing => {}
            Message::Ping(payload) => put_pong(replies, payload),
            Message::Pong => {}
            Message::Text(text) => {
                let host = Commands::new(self, connection);
                let mut json = self.json.borrow_mut();
                (connection.protocol.rules().receive)(&mut Client::new(&host, replies), &mut json, text);
            }
            Message::Binary(data) => match connection.protocol.rules().receive_binary {
                Some(receive) => receive(&mut Client::new(&Commands::new(self, connection), replies), data),
                None => {
                    put_close(replies, close::UNSUPPORTED, "messages are text");
                    self.expect_close(connection, Phase::Closing);
                }
            },
        }
        ControlFlow::Continue(())
    }
}

/// Keeps input that is incomplete or was not decoded yet, if there is any.
fn keep(connection: &Connection, mut partial: Partial) {
    if connection.phase.get() != Phase::Failed && (!partial.tail.is_empty() || partial.fragments.is_some()) {
        partial.tail.shrink_to_fit();
        connection.keep_partial(partial);
    }
}

fn put_close_reply(replies: &mut BytesMut, code: Option<u16>) {
    match code {
        Some(code) => put_close(replies, code, ""),
        None => replies.extend_from_slice(&[0x88, 0]),
    }
}
