//! Reads bytes, decodes frames in place, and passes messages to the connection's protocol.

use std::ops::ControlFlow;

use bytes::BytesMut;

use super::commands::Commands;
use super::{Codec, Ending, Worker};
use crate::connection::{Connection, Input, Partial, Phase};
use crate::protocol::Client;
use crate::websocket::decoder::{Message, decode_frames, next_message_bytes};
use crate::websocket::{close, put_close, put_pong};

/// The limit of bytes per read while messages may have to wait for a turn. Long messages wait in the socket.
const SHORT_READ_BYTES: usize = 1024;
/// Replies are written once they have this many bytes, although the same read may cause more.
const REPLY_BYTES: usize = 16 * 1024;

impl Worker {
    /// Reads from a connection once, or continues to decode what was read before. If more may be left, the next turn of
    /// the loop continues. The connection is [`Phase::Dead`] afterwards if it has ended.
    pub(super) fn read(&mut self, connection: &mut Connection, scratch: &mut [u8], codec: &mut Codec) {
        if connection.phase == Phase::Dead || connection.must_wait() {
            return; // It continues when the client has read its replies, or when its pause is over.
        }
        if connection.has_backlog() {
            self.receive(connection, &mut [], codec);
        } else {
            // A record of TLS is decrypted as a whole.
            let is_short = self.turns.is_tight() && !self.turns.is_turn() && connection.tls().is_none();
            let bytes = if is_short { scratch.len().min(SHORT_READ_BYTES) } else { scratch.len() };
            if let Some(read) = connection.read(&mut scratch[..bytes]) {
                self.receive(connection, &mut scratch[..read], codec);
            }
        }
        self.continue_if_unread(connection);
    }

    /// Reads from the connection whose turn it is: what was read before, and then from the socket, where the rest of a
    /// long message is.
    pub(super) fn read_in_turn(&mut self, connection: &mut Connection, scratch: &mut [u8], codec: &mut Codec) {
        let had_backlog = connection.has_backlog();
        self.read(connection, scratch, codec);
        if had_backlog && self.is_turn_unused() {
            self.read(connection, scratch, codec);
        }
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
            Phase::AwaitingProxyHeader | Phase::AwaitingTls | Phase::AwaitingRequest => return,
            Phase::Failed | Phase::Dead => return,
        }
        match connection.take_partial() {
            None => {
                let mut partial = Partial::default();
                let done = self.decode(connection, bytes, &mut partial, codec);
                if done < bytes.len() || partial.unfinished.is_some() {
                    partial.tail = bytes[done..].to_vec();
                    self.keep(connection, partial, true);
                }
            }
            Some(mut partial) => {
                let mut buffer = std::mem::take(&mut partial.tail);
                buffer.extend_from_slice(bytes);
                let done = self.decode(connection, &mut buffer, &mut partial, codec);
                buffer.drain(..done);
                partial.tail = buffer;
                if !partial.tail.is_empty() || partial.unfinished.is_some() {
                    self.keep(connection, partial, done > 0);
                }
            }
        }
    }

    /// Handles frames until no complete frame is left, the client must wait or read its replies first, or the
    /// connection has ended. Returns the number of decoded bytes.
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
        if connection.is_paused {
            partial.backlog = true;
            return 0;
        }
        loop {
            if self.turns.is_tight()
                && let Some(message_bytes) = next_message_bytes(&bytes[done..], partial.unfinished.as_ref())
                && self.must_wait_for_turn(connection, message_bytes)
            {
                partial.backlog = true;
                break;
            }
            let mut is_full = false;
            let result = decode_frames(&mut bytes[done..], &mut partial.unfinished, limits, |message| {
                self.counters.frames_received.add(1);
                flow = self.handle_message(connection, message, codec);
                if connection.is_paused {
                    self.end_if_over_limit(connection, &mut codec.replies);
                }
                is_full = codec.replies.len() > REPLY_BYTES || connection.is_paused || self.turns.is_tight();
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
            Message::TooBig => {
                if let Some(too_big) = connection.protocol.rules().too_big {
                    too_big(&mut Client::new(&mut Commands::new(self, connection), replies));
                }
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

fn put_close_reply(replies: &mut BytesMut, code: Option<u16>) {
    match code {
        Some(code) => put_close(replies, code, ""),
        None => replies.extend_from_slice(&[0x88, 0]),
    }
}
