//! Executes the commands of clients, whichever protocol decoded them.

use std::sync::Arc;
use std::time::Duration;

use super::price::Price;
use super::{Worker, grants};
use crate::connection::{Connection, ObserverState, Phase, ProtocolData};
use crate::presence::{Audience, Form, RoomMessage, Session, State};
use crate::protocol::client::{Host, ServerInfo};
use crate::protocol::{Command, MAX_ROOMS_PER_CONNECTION, MAX_ROOMS_PER_USER, Outcome, Refused, Resume, SessionNumber};

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
        self.check_confirmed(room)?;
        self.check_room(room)?;
        let state = self.hold_state(state)?;
        let member = self.member_of(room).unwrap_or(session);
        let joining = self.connection.session_at(member).ok_or(Refused::NoUser)?;
        let node = &self.worker.node;
        // Most connections join one room. Looking the user up for it would make every arrival slower.
        if !self.connection.subscriptions.is_empty() && node.registry.rooms_of(joining.user()) >= MAX_ROOMS_PER_USER {
            return Err(Refused::TooManyRoomsOfUser);
        }
        let info = self.worker.grants.get(self.connection.id).and_then(|held| held.info.as_ref());
        let state = match info {
            Some(info) => Some(match state {
                Some(state) => state.with_info(Some(info.clone())),
                None => State::of_info(info.clone()),
            }),
            None => state,
        };
        node.registry.first_joins.note(self.worker.number, || node.started.elapsed().as_micros() as u64);
        let next_room_id = node.registry.next_room_id();
        // A tick between the two would announce the join to nobody.
        let observes_first = self.connection.protocol.rules().observes_first;
        if let Some(audience) = audience.filter(|_| observes_first) {
            self.worker.fanout.observe(self.connection, room, audience, None);
        }
        let joining = self.connection.session_at(member).ok_or(Refused::NoUser)?;
        let node = &self.worker.node;
        let room = node.registry.join(joining, room, state, node.now());
        self.worker.note_new_room(self.connection, &room, next_room_id);
        self.worker.fanout.joined(self.connection, &room, member);
        match audience {
            Some(_) if observes_first => {}
            Some(audience) => drop(self.worker.fanout.observe(self.connection, room.name(), audience, resume)),
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

    fn set_state(&mut self, room: &str, state: Option<State>) -> Outcome {
        let state = self.hold_state(state)?;
        let node = &self.worker.node;
        done(node.registry.set_state(self.session_in(room)?, room, state, node.now()), Refused::NotJoined)
    }

    fn publish(&mut self, room: &str, data: String) -> Outcome {
        self.session_in(room)?;
        let allowed = self.allow_message();
        let (registry, now) = (&self.worker.node.registry, self.worker.node.now());
        done(allowed && registry.publish(self.session_in(room)?, room, data.into(), now), Refused::RateLimited)
    }

    fn relay(&mut self, room: &str, data: String) -> Outcome {
        let rooms = &self.connection.subscriptions;
        let known = rooms.iter().find(|known| known.room.is_named(room) && known.state != ObserverState::Absent);
        let known = known.ok_or(Refused::NotObserved)?;
        let member = known.member.and_then(|member| self.connection.session_at(member));
        let user = member.map(|member| Arc::clone(member.user()));
        let message = RoomMessage::local(user, data.into()).in_form(Form::Event).except(self.connection.number());
        let room = Arc::clone(&known.room);
        let allowed = self.allow_message();
        done(allowed && self.worker.node.registry.publish_as_observer(&room, message), Refused::RateLimited)
    }

    /// Counts a message. False if the client sends too many.
    fn allow_message(&mut self) -> bool {
        // Not the second of ticks: on a busy server they are late, and clients are not.
        let second = self.worker.node.now().unix_ms / 1000;
        self.worker.rate_limits.allow(self.connection.id.serial, second)
    }

    /// Refuses new rooms while the application does not confirm the session.
    fn check_confirmed(&self, room: &str) -> Outcome {
        let is_known = || self.connection.subscriptions.iter().any(|known| known.room.is_named(room));
        done(!self.worker.is_stale(self.connection) || is_known(), Refused::Unconfirmed)
    }

    /// Refuses a room that would exceed the limit of the connection.
    fn check_room(&mut self, room: &str) -> Outcome {
        let rooms = &self.connection.subscriptions;
        let fits = rooms.len() < MAX_ROOMS_PER_CONNECTION || rooms.iter().any(|known| known.room.is_named(room));
        done(fits, Refused::TooManyRooms)?;
        self.worker.check_new_room(self.connection, room)
    }

    /// Counts a state that the client sets.
    fn hold_state(&mut self, state: Option<State>) -> Result<Option<State>, Refused> {
        state.map(|state| self.worker.hold_state(self.connection, state)).transpose()
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

    /// Ends something on behalf of the server: it is free.
    pub(super) fn end(&mut self, command: Command<'_>) {
        // It may have ended already.
        let _ = self.execute_priced(SessionNumber::FIRST, command);
    }

    /// Executes a command that has a price.
    fn execute_priced(&mut self, session: SessionNumber, command: Command<'_>) -> Outcome {
        let fanout = &mut self.worker.fanout;
        match command {
            Command::Heartbeat => self.heartbeat(),
            Command::Join { room, state, audience, resume } => self.join(session, room, state, audience, resume),
            Command::Leave { room } => self.leave(room),
            Command::SetState { room, state } => self.set_state(room, state),
            Command::Observe { room, audience, resume } => {
                self.check_confirmed(room)?;
                self.check_room(room)?;
                let next_room_id = self.worker.node.registry.next_room_id();
                let room = self.worker.fanout.observe(self.connection, room, audience, resume);
                self.worker.note_new_room(self.connection, &room, next_room_id);
                Ok(())
            }
            Command::Unobserve { room } => done(fanout.unobserve(self.connection, room), Refused::NotObserved),
            Command::Resync { room } => done(fanout.resync(self.connection, room), Refused::NotObserved),
            Command::Watch { users } => {
                let grant = self.worker.grants.get(self.connection.id);
                let permissions = grant.map(|grant| &grant.permissions);
                done(fanout.watch(self.connection, &users, permissions), Refused::TooManyWatched)
            }
            Command::Unwatch { users } => {
                fanout.unwatch(self.connection, &users);
                Ok(())
            }
            Command::Publish { room, data } => self.publish(room, data),
            Command::Relay { room, data } => self.relay(room, data),
        }
    }
}

impl Host for Commands<'_> {
    fn execute(&mut self, session: SessionNumber, mut command: Command<'_>) -> Outcome {
        if matches!(command, Command::Heartbeat) {
            return self.heartbeat();
        }
        let mut price = Price::of(&command);
        let outcome = match self.worker.grants.get(self.connection.id) {
            Some(held) => {
                price.work += grants::work(&held.permissions, &command) as u64;
                grants::check(&held.permissions, self.connection.protocol, &mut command)
            }
            None => Ok(()),
        };
        let outcome = outcome.and_then(|()| self.execute_priced(session, command));
        self.worker.charge(self.connection, price);
        outcome
    }

    fn identify(&mut self, user: &str) -> Option<SessionNumber> {
        // The holder of a credential has one user: the one whom it names.
        if self.worker.grants.get(self.connection.id).is_some() && self.connection.session_of(user).is_none() {
            return None;
        }
        self.worker.identify(self.connection, user, None)
    }

    fn forget(&mut self, session: SessionNumber) {
        if !self.connection.subscriptions.iter().any(|known| known.member == Some(session)) {
            self.worker.forget_session(self.connection, session);
        }
    }

    fn charge(&mut self, work: usize) {
        self.worker.charge(self.connection, Price::new(work, 0));
    }

    fn renew(&mut self, token: &str) -> Outcome {
        self.worker.renew(self.connection, token)
    }

    fn check_user(&self, user: &str) -> Result<(), &'static str> {
        // A user that the connection has is counted already.
        if self.connection.session_of(user).is_some() {
            return Ok(());
        }
        self.worker.check_user(self.connection.id, user)
    }

    fn watched(&self) -> Vec<Arc<str>> {
        self.worker.fanout.watched_by(self.connection, |_| true)
    }

    fn has_rooms(&self) -> bool {
        !self.connection.subscriptions.is_empty()
    }

    fn count_refusal(&mut self) {
        self.worker.counters.messages_refused.add(1);
        self.worker.charge(self.connection, Price::REFUSAL);
    }

    fn count_refused_handshake(&mut self) {
        self.worker.counters.handshakes_refused.add(1);
    }

    fn expect_close(&mut self) {
        self.worker.expect_close(self.connection, Phase::Closing);
    }

    fn data(&mut self) -> &mut Option<ProtocolData> {
        self.connection.data_mut()
    }

    fn set_number(&mut self, number: u64) {
        self.connection.set_number(number);
        self.worker.fanout.set_number(self.connection, number);
    }

    fn set_alarm(&mut self, after: Duration) {
        let at = self.worker.node.now().tick + self.worker.node.config.ticks(after);
        self.worker.alarms.set(at, self.connection.id);
    }

    fn is_encrypted(&self) -> bool {
        self.connection.tls().is_some()
    }

    fn name(&self) -> String {
        format!("{}-{:x}", self.worker.number, self.connection.id.serial)
    }

    fn server(&self) -> ServerInfo<'_> {
        let node = &self.worker.node;
        let degraded_since_unix_ms = node.store.degraded_since();
        ServerInfo {
            node_id: &node.id,
            worker: self.worker.number,
            config: &node.config,
            apps: &node.auth.apps,
            incarnation: node.registry.incarnation(),
            unix_ms: node.now().unix_ms,
            degraded_since_unix_ms,
        }
    }
}

/// The outcome of a command that was done, or was not for this reason.
fn done(done: bool, refused: Refused) -> Outcome {
    if done { Ok(()) } else { Err(refused) }
}

#[cfg(test)]
pub(super) mod tests;
