//! Executes the commands of clients, whichever protocol decoded them.

use std::rc::Rc;

use super::Worker;
use crate::connection::{Connection, Phase};
use crate::presence::Audience;
use crate::protocol::client::{Host, ServerInfo};
use crate::protocol::{Command, MAX_ROOMS_PER_CONNECTION, Outcome, Refused, Resume, SessionNumber};

/// A connection on its worker, as the connection's protocol uses it.
pub(super) struct Commands<'a> {
    worker: &'a Rc<Worker>,
    connection: &'a Rc<Connection>,
}

impl<'a> Commands<'a> {
    pub(super) fn new(worker: &'a Rc<Worker>, connection: &'a Rc<Connection>) -> Self {
        Self { worker, connection }
    }

    fn heartbeat(&self) -> Outcome {
        let worker = self.worker;
        worker.counters.heartbeats.add(1);
        if !worker.times.any_frame_renews(self.connection.protocol) {
            let now = worker.node.now();
            self.connection.for_each_session(|session| worker.node.registry.renew(session, now));
        }
        Ok(())
    }

    fn join(&self, session: SessionNumber, command: Command<'_>) -> Outcome {
        let Command::Join { room, state, audience, resume } = command else { return Ok(()) };
        let Some(joining) = self.connection.session_at(session) else { return Err(Refused::NoUser) };
        self.check_room(room)?;
        let node = &self.worker.node;
        let room = node.registry.join(&joining, room, state, node.now());
        self.worker.fanout.borrow_mut().joined(self.connection, &room, session);
        match audience {
            Some(audience) => self.observe(room.name(), audience, resume),
            // The connection may have observed the room before.
            None => drop(self.worker.fanout.borrow_mut().unobserve(self.connection, room.name())),
        }
        Ok(())
    }

    fn leave(&self, room: &str) -> Outcome {
        let member = self.member_of(room).ok_or(Refused::NotJoined)?;
        let session = self.connection.session_at(member).ok_or(Refused::NoUser)?;
        if !self.worker.node.registry.leave(&session, room) {
            return Err(Refused::NotJoined);
        }
        self.worker.fanout.borrow_mut().left(self.connection, room);
        Ok(())
    }

    fn set_state(&self, room: &str, state: Option<crate::presence::State>) -> Outcome {
        let member = self.member_of(room).ok_or(Refused::NotJoined)?;
        let session = self.connection.session_at(member).ok_or(Refused::NoUser)?;
        let node = &self.worker.node;
        done(node.registry.set_state(&session, room, state, node.now()), Refused::NotJoined)
    }

    fn publish(&self, room: &str, data: String) -> Outcome {
        let member = self.member_of(room).ok_or(Refused::NotJoined)?;
        let session = self.connection.session_at(member).ok_or(Refused::NoUser)?;
        let (worker, now) = (self.worker, self.worker.node.now());
        let second = now.tick / worker.times.second;
        let allowed = worker.rate_limits.borrow_mut().allow(self.connection.id.serial, second);
        done(allowed && worker.node.registry.publish(&session, room, data.into(), now), Refused::RateLimited)
    }

    fn observe(&self, room: &str, audience: Audience, resume: Option<Resume<'_>>) {
        self.worker.fanout.borrow_mut().observe(self.connection, room, audience, resume);
    }

    /// Refuses a room that would exceed the limit of the connection.
    fn check_room(&self, room: &str) -> Outcome {
        let fits = self.connection.with_subscriptions(|rooms| {
            rooms.len() < MAX_ROOMS_PER_CONNECTION || rooms.iter().any(|known| known.room.is_named(room))
        });
        done(fits, Refused::TooManyRooms)
    }

    /// The session of the connection that has joined the room.
    fn member_of(&self, room: &str) -> Option<SessionNumber> {
        self.connection.with_subscriptions(|rooms| rooms.iter().find(|known| known.room.is_named(room))?.member)
    }
}

impl Host for Commands<'_> {
    fn execute(&self, session: SessionNumber, command: Command<'_>) -> Outcome {
        let (fanout, connection) = (&self.worker.fanout, self.connection);
        match command {
            Command::Heartbeat => self.heartbeat(),
            Command::Join { .. } => self.join(session, command),
            Command::Leave { room } => self.leave(room),
            Command::SetState { room, state } => self.set_state(room, state),
            Command::Observe { room, audience, resume } => {
                self.check_room(room)?;
                self.observe(room, audience, resume);
                Ok(())
            }
            Command::Unobserve { room } => done(fanout.borrow_mut().unobserve(connection, room), Refused::NotObserved),
            Command::Resync { room } => done(fanout.borrow_mut().resync(connection, room), Refused::NotObserved),
            Command::Watch { users } => done(fanout.borrow_mut().watch(connection, &users), Refused::TooManyWatched),
            Command::Unwatch { users } => {
                fanout.borrow_mut().unwatch(connection, &users);
                Ok(())
            }
            Command::Publish { room, data } => self.publish(room, data),
        }
    }

    fn identify(&self, user: &str) -> Option<SessionNumber> {
        self.worker.identify(self.connection, user, None)
    }

    fn is_identified(&self) -> bool {
        self.connection.session().is_some()
    }

    fn count_refusal(&self) {
        self.worker.counters.messages_refused.add(1);
    }

    fn expect_close(&self) {
        self.worker.expect_close(self.connection, Phase::Closing);
    }

    fn name(&self) -> String {
        format!("{}-{:x}", self.worker.number, self.connection.id.serial)
    }

    fn server(&self) -> ServerInfo<'_> {
        let node = &self.worker.node;
        let degraded_since_unix_ms = node.store.degraded_since();
        ServerInfo { node_id: &node.id, config: &node.config, degraded_since_unix_ms }
    }
}

/// The outcome of a command that was done, or was not for this reason.
fn done(done: bool, refused: Refused) -> Outcome {
    if done { Ok(()) } else { Err(refused) }
}

#[cfg(test)]
mod tests;
