//! Bytes of a client become frames, frames become messages, messages are answered.

use std::ops::ControlFlow;
use std::rc::Rc;

use bytes::BytesMut;

use super::{Ending, Worker};
use crate::connection::{Connection, Inbound, Phase};
use crate::protocol::{Protocol, chat, native, online_users};
use crate::websocket::decoder::{Limits, Message, decode_frames};
use crate::websocket::{close, put_close, put_pong};

/// Answers are written when there are so many bytes of them, although more may follow from the same read.
const ANSWER_BYTES: usize = 16 * 1024;

impl Worker {
    /// Takes bytes that a client has sent. Breaks when the connection is over.
    pub(crate) fn receive(self: &Rc<Self>, connection: &Rc<Connection>, bytes: &mut [u8]) -> ControlFlow<()> {
        let now = self.node.now();
        match connection.phase.get() {
            Phase::Open => self.sign_of_life(connection, now),
            Phase::Closing => {}
            Phase::Failed => return ControlFlow::Continue(()),
            Phase::Dead => return ControlFlow::Break(()),
        }
        match connection.inbound.take() {
            None => {
                let mut inbound = Inbound::default();
                let (done, flow) = self.take_all(connection, bytes, &mut inbound);
                inbound.tail = bytes[done..].to_vec();
                self.keep(connection, inbound);
                flow
            }
            Some(mut inbound) => {
                let mut buffer = std::mem::take(&mut inbound.tail);
                buffer.extend_from_slice(bytes);
                let (done, flow) = self.take_all(connection, &mut buffer, &mut inbound);
                buffer.drain(..done);
                inbound.tail = buffer;
                self.keep(connection, *inbound);
                flow
            }
        }
    }

    /// Keeps what is not whole yet, if there is anything.
    fn keep(&self, connection: &Connection, mut inbound: Inbound) {
        if connection.phase.get() != Phase::Failed && (!inbound.tail.is_empty() || inbound.fragments.is_some()) {
            inbound.tail.shrink_to_fit();
            connection.inbound.set(Some(Box::new(inbound)));
        }
    }

    /// Whether whole frames wait that were not looked at because answers were not read.
    pub(crate) fn has_backlog(&self, connection: &Connection) -> bool {
        let inbound = connection.inbound.take();
        let backlog = inbound.as_ref().is_some_and(|inbound| inbound.backlog);
        connection.inbound.set(inbound);
        backlog
    }

    /// Takes frames until none is whole, the client must read first, or the connection is over.
    fn take_all(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        bytes: &mut [u8],
        inbound: &mut Inbound,
    ) -> (usize, ControlFlow<()>) {
        let limits = limits(connection.protocol);
        let mut answers = std::mem::take(&mut *self.answers.borrow_mut());
        let (mut done, mut over) = (0, ControlFlow::Continue(()));
        inbound.backlog = false;
        loop {
            let mut full = false;
            let result = decode_frames(&mut bytes[done..], &mut inbound.fragments, &limits, |incoming| {
                self.counters.frames_received.add(1);
                over = self.take(connection, incoming, &mut answers);
                full = answers.len() > ANSWER_BYTES;
                if full { ControlFlow::Break(()) } else { over }
            });
            match result {
                Ok(taken) => done += taken,
                Err(violation) => {
                    self.counters.protocol_violations.add(1);
                    if connection.phase.get() == Phase::Open {
                        put_close(&mut answers, violation.code, violation.reason);
                    }
                    self.expect_close(connection, Phase::Failed);
                }
            }
            connection.answer(self, &mut answers);
            if over.is_break() && connection.is_blocked() {
                // The answer to the client's close frame waits behind others: it is given the time to go out.
                self.expect_close(connection, Phase::Closing);
                over = ControlFlow::Continue(());
            }
            inbound.backlog = full && over.is_continue() && connection.is_choked();
            if !full || over.is_break() || inbound.backlog {
                break;
            }
        }
        *self.answers.borrow_mut() = answers;
        if connection.phase.get() == Phase::Failed {
            connection.finish_writing();
            done = bytes.len();
        }
        (done, over)
    }

    fn take(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        incoming: Message<'_>,
        answers: &mut BytesMut,
    ) -> ControlFlow<()> {
        let closing = connection.phase.get() != Phase::Open;
        match incoming {
            Message::Close(code) => {
                if !closing {
                    put_close_answer(answers, code);
                    let clean = matches!(code, None | Some(close::NORMAL));
                    self.release(connection, if clean { Ending::Clean } else { Ending::Lost });
                }
                return ControlFlow::Break(());
            }
            _ if closing => {}
            Message::Ping(payload) => put_pong(answers, payload),
            Message::Pong => {}
            Message::Text(text) => self.take_text(connection, text, answers),
            #[cfg(feature = "echo")]
            Message::Binary(data) if connection.protocol == Protocol::Echo => {
                crate::websocket::put_message(answers, false, data);
            }
            Message::Binary(_) => {
                put_close(answers, close::UNSUPPORTED, "messages are text");
                self.expect_close(connection, Phase::Closing);
            }
        }
        ControlFlow::Continue(())
    }

    fn take_text(self: &Rc<Self>, connection: &Rc<Connection>, text: &[u8], answers: &mut BytesMut) {
        match connection.protocol {
            Protocol::Native => {
                let mut json = self.json.borrow_mut();
                native::decode(&mut json, text, |command| match command {
                    Ok(command) => self.execute(connection, command, answers),
                    Err(refusal) => self.refuse(&refusal, answers),
                });
            }
            Protocol::OnlineUsers => match online_users::decode(text) {
                Some(command) => self.execute(connection, command, answers),
                None => {
                    self.counters.messages_refused.add(1);
                    answers.extend_from_slice(online_users::UNKNOWN_MESSAGE);
                }
            },
            Protocol::Chat => {
                let mut json = self.json.borrow_mut();
                chat::decode(&mut json, text, |request| self.converse(connection, request, answers));
            }
            Protocol::Status => {} // Its clients only listen.
            #[cfg(feature = "echo")]
            Protocol::Echo => crate::websocket::put_message(answers, true, text),
        }
    }
}

fn limits(protocol: Protocol) -> Limits {
    match protocol {
        Protocol::Native | Protocol::OnlineUsers | Protocol::Status | Protocol::Chat => Limits::PRESENCE,
        #[cfg(feature = "echo")]
        Protocol::Echo => Limits::ECHO,
    }
}

fn put_close_answer(answers: &mut BytesMut, code: Option<u16>) {
    match code {
        Some(code) => put_close(answers, code, ""),
        None => answers.extend_from_slice(&[0x88, 0]),
    }
}
