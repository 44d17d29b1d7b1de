//! What a chat client asks for is done: it comes in with its first message, and what it says goes to its room with the tick. What
//! clients of other protocols publish goes the same way.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use foldhash::fast::RandomState;

use super::Worker;
use crate::connection::{Connection, Phase};
use crate::os::unix_ms;
use crate::presence::{Audience, IdError, LOBBY, Session, Tick, check_id};
use crate::protocol::Command;
use crate::protocol::chat::{self, Request};
use crate::websocket::{close, put_close};

/// What one connection may publish a second: more than people type, and paste.
const MESSAGES_PER_SECOND: u32 = 10;

/// How much each connection has said in the present second. Only those who speak are in it, and each second begins empty, so
/// it needs no memory of a connection and no work of the tick.
#[derive(Debug, Default)]
pub(super) struct RateLimits {
    second: Tick,
    said: HashMap<u32, u32, RandomState>,
}

impl RateLimits {
    /// Counts a message of a connection, by its serial number. False if it was one too many.
    fn allow(&mut self, serial: u32, second: Tick) -> bool {
        if std::mem::replace(&mut self.second, second) != second {
            self.said = HashMap::default();
        }
        let said = self.said.entry(serial).or_default();
        *said += 1;
        *said <= MESSAGES_PER_SECOND
    }
}

impl Worker {
    /// Does what a chat client asks for.
    pub(super) fn converse(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        request: Result<Request<'_>, &'static str>,
        answers: &mut BytesMut,
    ) {
        let Some(session) = connection.session.get() else {
            let user = if let Ok(Request::Join(user)) = request { user } else { "" };
            return self.enter(connection, user, answers);
        };
        let done = request.and_then(|request| match request {
            Request::Join(_) => Err(chat::ALREADY_JOINED),
            Request::Say(data) => self.publish(connection, session, LOBBY, data).then_some(()).ok_or(chat::SLOW_DOWN),
            Request::Blank => Ok(()),
            Request::Ping => {
                chat::put_pong(answers, unix_ms());
                Ok(())
            }
        });
        if let Err(message) = done {
            self.complain(message, answers);
        }
    }

    /// The first message names the user, or is the end.
    fn enter(self: &Rc<Self>, connection: &Rc<Connection>, user: &str, answers: &mut BytesMut) {
        match check_id(user) {
            Ok(user) => {
                self.identify(connection, user, None);
                self.execute(connection, Command::join_lobby(Audience::Talk), answers);
            }
            Err(error) => {
                match error {
                    IdError::Empty => self.complain(chat::MISSING_JOIN, answers),
                    error => self.complain(&format!("user {error}"), answers),
                }
                put_close(answers, close::POLICY, chat::MISSING_JOIN);
                self.expect_close(connection, Phase::Closing);
            }
        }
    }

    /// Says something in a joined room. False if the connection, or all who are there together, publish too much.
    pub(super) fn publish(&self, connection: &Connection, session: &Arc<Session>, room: &str, data: String) -> bool {
        let now = self.node.now();
        let second = now.tick / self.times.second;
        self.rate_limits.borrow_mut().allow(connection.id.serial, second)
            && self.node.registry.publish(session, room, data.into(), now)
    }

    fn complain(&self, message: &str, answers: &mut BytesMut) {
        self.counters.messages_refused.add(1);
        chat::put_error(answers, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_speaks_for_itself_and_each_second_is_a_new_one() {
        let mut rate_limits = RateLimits::default();
        for _ in 0..MESSAGES_PER_SECOND {
            assert!(rate_limits.allow(1, 5));
        }
        assert!(!rate_limits.allow(1, 5));
        assert!(rate_limits.allow(2, 5));
        assert!(rate_limits.allow(1, 6));
    }
}
