//! Reads bytes, decodes frames in place, and passes messages to the connection's protocol.

use std::ops::ControlFlow;

use bytes::BytesMut;

use super::commands::Commands;
use super::{Codec, Ending, Worker};
use crate::connection::{Connection, Input, Partial, Phase};
use crate::protocol::Client;
use crate::websocket::decoder::{Message, decode_frames};
use crate::websocket::{close, put_close, put_pong};

/// Replies are written once they have this many bytes, although the same read may cause more.
const REPLY_BYTES: usize = 16 * 1024;

impl Worker {
    /// Reads from a connection once, or continues to decode what was read before. If more may be left, the next turn of
    /// the loop continues. The connection is [`Phase::Dead`] afterwards if it has ended.
    pub(super) fn read(&mut self, connection: &mut Connection, scratch: &mut [u8], codec: &mut Codec) {
        if connection.phase == Phase::Dead || connection.must_wait() {
            return; // The writer continues when the client has read its replies.
        }
        if connection.has_backlog() {
            self.receive(connection, &mut [], codec);
        } else if let Some(read) = connection.read(scratch) {
            self.receive(connection, &mut scratch[..read], codec);
        }
        self.continue_if_unread(connection);
    }

    /// Has the next turn of the loop continue with a connection that may have more input.
    pub(super) fn continue_if_unread(&mut self, connection: &mut Connection) {
        let is_left = connection.input != Input::Nothing || connection.has_backlog();
        if is_left && connection.phase != Phase::Dead && !connection.must_wait() {
            self.continue_later(connection);
        }
    }

    /// Handles bytes that a client sent.
    pub(super) fn receive(&mut self, connection: &mut Connection, bytes: &mut [u8], codec: &mut Codec) {
        match connection.phase {
            Phase::Open => self.sign_of_life(connection, self.node.now()),
            Phase::Closing => {}
            Phase::AwaitingRequest | Phase::Failed | Phase::Dead => return,
        }
        match connection.take_partial() {
            None => {
                let mut partial = Partial::default();
                let done = self.decode(connection, bytes, &mut partial, codec);
                partial.tail = bytes[done..].to_vec();
                keep(connection, partial);
            }
            Some(mut partial) => {
                let mut buffer = std::mem::take(&mut partial.tail);
                buffer.extend_from_slice(bytes);
                let done = self.decode(connection, &mut buffer, &mut partial, codec);
                buffer.drain(..done);
                partial.tail = buffer;
                keep(connection, partial);
            }
        }
    }

    /// Handles frames until no complete frame is left, the client must read its replies first, or the connection has
    /// ended. Returns the number of decoded bytes.
    fn decode(
        &mut self,
        connection: &mut Connection,
        bytes: &mut [u8],
        partial: &mut Partial,
        codec: &mut Codec,
    ) -> usize {
        let limits = &connection.protocol.rules().limits;
        let (mut done, mut flow) = (0, ControlFlow::Continue(()));
        partial.backlog = false;
        loop {
            let mut is_full = false;
            let result = decode_frames(&mut bytes[done..], &mut partial.fragments, limits, |message| {
                self.counters.frames_received.add(1);
                flow = self.handle_message(connection, message, codec);
                is_full = codec.replies.len() > REPLY_BYTES;
                if is_full { ControlFlow::Break(()) } else { flow }
            });
            match result {
                Ok(decoded) => done += decoded,
                Err(violation) => {
                    self.counters.protocol_violations.add(1);
                    if connection.phase == Phase::Open {
                        put_close(&mut codec.replies, violation.code, violation.reason);
                    }
                    self.expect_close(connection, Phase::Failed);
                }
            }
            self.reply(connection, &mut codec.replies);
            if flow.is_break() && connection.is_blocked() {
                // The reply to the client's close frame waits for the socket: keep the connection until it is sent.
                self.expect_close(connection, Phase::Closing);
                flow = ControlFlow::Continue(());
            }
            partial.backlog = is_full && flow.is_continue() && connection.must_wait();
            if !is_full || flow.is_break() || partial.backlog {
                break;
            }
        }
        if flow.is_break() {
            connection.phase = Phase::Dead;
        }
        if connection.phase == Phase::Failed {
            connection.finish_writing();
            done = bytes.len();
        }
        done
    }

    /// Handles a message. Breaks when the client has closed the connection.
    fn handle_message(
        &mut self,
        connection: &mut Connection,
        message: Message<'_>,
        codec: &mut Codec,
    ) -> ControlFlow<()> {
        let Codec { json, replies } = codec;
        let closing = connection.phase != Phase::Open;
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
                let rules = connection.protocol.rules();
                (rules.receive)(&mut Client::new(&mut Commands::new(self, connection), replies), json, text);
            }
            Message::Binary(data) => match connection.protocol.rules().receive_binary {
                Some(receive) => receive(&mut Client::new(&mut Commands::new(self, connection), replies), data),
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
fn keep(connection: &mut Connection, mut partial: Partial) {
    if connection.phase != Phase::Failed && (!partial.tail.is_empty() || partial.fragments.is_some()) {
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
