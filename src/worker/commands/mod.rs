//! Executes the commands of clients, whichever protocol decoded them.

use std::sync::Arc;

use super::Worker;
use crate::connection::{Connection, Phase};
use crate::presence::{Audience, Session, State};
use crate::protocol::client::{Host, ServerInfo};
use crate::protocol::{Command, MAX_ROOMS_PER_CONNECTION, Outcome, Refused, Resume, SessionNumber};

/// A connection on its worker, as the connection's protocol uses it.
pub(super) struct Commands<'a> {
    worker: &'a mut Worker,
    connection: &'a mut Connection,
}

impl<'a> Commands<'a> {
    pub(super) fn new(worker: &'a mut Worker, connection: &'a mut Connection) -> Self {
        Self { worker, connection }
    }

    fn heartbeat(&self) -> Outcome {
        let worker = &*self.worker;
        worker.counters.heartbeats.add(1);
        if !worker.times.any_frame_renews(self.connection.protocol) {
            let now = worker.node.now();
            self.connection.sessions().for_each(|session| worker.node.registry.renew(session, now));
        }
        Ok(())
    }

    fn join(
        &mut self,
        session: SessionNumber,
        room: &str,
        state: Option<State>,
        audience: Option<Audience>,
        resume: Option<Resume<'_>>,
    ) -> Outcome {
        self.check_room(room)?;
        let member = self.member_of(room).unwrap_or(session);
        let joining = self.connection.session_at(member).ok_or(Refused::NoUser)?;
        let node = &self.worker.node;
        let room = node.registry.join(joining, room, state, node.now());
        self.worker.fanout.joined(self.connection, &room, member);
        match audience {
            Some(audience) => self.worker.fanout.observe(self.connection, room.name(), audience, resume),
            // The connection may have observed the room before.
            None => drop(self.worker.fanout.unobserve(self.connection, room.name())),
        }
        Ok(())
    }

    fn leave(&mut self, room: &str) -> Outcome {
        let left = self.worker.node.registry.leave(self.session_in(room)?, room);
        self.worker.fanout.left(self.connection, room);
        done(left, Refused::NotJoined)
    }

    fn set_state(&self, room: &str, state: Option<State>) -> Outcome {
        let node = &self.worker.node;
        done(node.registry.set_state(self.session_in(room)?, room, state, node.now()), Refused::NotJoined)
    }

    fn publish(&mut self, room: &str, data: String) -> Outcome {
        self.session_in(room)?;
        let now = self.worker.node.now();
        let second = now.tick / self.worker.times.second;
        let allowed = self.worker.rate_limits.allow(self.connection.id.serial, second);
        let registry = &self.worker.node.registry;
        done(allowed && registry.publish(self.session_in(room)?, room, data.into(), now), Refused::RateLimited)
    }

    /// Refuses a room that would exceed the limit of the connection.
    fn check_room(&self, room: &str) -> Outcome {
        let rooms = &self.connection.subscriptions;
        let fits = rooms.len() < MAX_ROOMS_PER_CONNECTION || rooms.iter().any(|known| known.room.is_named(room));
        done(fits, Refused::TooManyRooms)
    }

    /// The number of the session that has joined the room.
    fn member_of(&self, room: &str) -> Option<SessionNumber> {
        self.connection.subscriptions.iter().find(|known| known.room.is_named(room))?.member
    }

    /// The session that has joined the room.
    fn session_in(&self, room: &str) -> Result<&Arc<Session>, Refused> {
        let member = self.member_of(room).ok_or(Refused::NotJoined)?;
        self.connection.session_at(member).ok_or(Refused::NoUser)
    }
}

impl Host for Commands<'_> {
    fn execute(&mut self, session: SessionNumber, command: Command<'_>) -> Outcome {
        let fanout = &mut self.worker.fanout;
        match command {
            Command::Heartbeat => self.heartbeat(),
            Command::Join { room, state, audience, resume } => self.join(session, room, state, audience, resume),
            Command::Leave { room } => self.leave(room),
            Command::SetState { room, state } => self.set_state(room, state),
            Command::Observe { room, audience, resume } => {
                self.check_room(room)?;
                self.worker.fanout.observe(self.connection, room, audience, resume);
                Ok(())
            }
            Command::Unobserve { room } => done(fanout.unobserve(self.connection, room), Refused::NotObserved),
            Command::Resync { room } => done(fanout.resync(self.connection, room), Refused::NotObserved),
            Command::Watch { users } => done(fanout.watch(self.connection, &users), Refused::TooManyWatched),
            Command::Unwatch { users } => {
                fanout.unwatch(self.connection, &users);
                Ok(())
            }
            Command::Publish { room, data } => self.publish(room, data),
        }
    }

    fn identify(&mut self, user: &str) -> Option<SessionNumber> {
        self.worker.identify(self.connection, user, None)
    }

    fn is_identified(&self) -> bool {
        self.connection.session().is_some()
    }

    fn count_refusal(&mut self) {
        self.worker.counters.messages_refused.add(1);
    }

    fn expect_close(&mut self) {
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
