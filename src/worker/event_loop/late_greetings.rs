//! Connections that are greeted later, because their user or address has caused too much work. Until then they have no
//! session, and nothing is sent to them behind the HTTP response.

use std::collections::HashMap;
use std::time::Instant;

use bytes::BytesMut;
use foldhash::fast::RandomState;

use super::EventLoop;
use crate::connection::{Connection, ConnectionId, Phase, find_connection};
use crate::presence::kick::Kick;
use crate::presence::{Begun, Tick};
use crate::protocol::Upgrade;

/// The connections that wait for their greeting, by serial number.
pub(super) type LateGreetings = HashMap<u32, LateGreeting, RandomState>;

/// A connection that waits for its greeting.
#[derive(Debug)]
pub(super) struct LateGreeting {
    connection: ConnectionId,
    upgrade: Upgrade,
    requested: Instant,
}

impl LateGreeting {
    fn is_for(&self, kick: &Kick, now_unix_ms: u64) -> bool {
        let is_of_user = self.upgrade.user.as_deref() == Some(&*kick.user);
        let begun = Begun::at(now_unix_ms.saturating_sub(self.requested.elapsed().as_millis() as u64));
        is_of_user
            && match kick.login {
                None => kick.ends_begun(begun, now_unix_ms),
                login => login == self.upgrade.login,
            }
    }
}

impl EventLoop {
    /// Has a connection wait for its greeting until its pause is over.
    pub(super) fn greet_after_pause(&mut self, connection: ConnectionId, upgrade: &Upgrade, requested: Instant) {
        let greeting = LateGreeting { connection, upgrade: upgrade.clone(), requested };
        self.late_greetings.insert(connection.serial, greeting);
    }

    /// Whether a connection waits for its greeting.
    pub(super) fn awaits_greeting(late_greetings: &LateGreetings, connection: &Connection) -> bool {
        !late_greetings.is_empty() && late_greetings.contains_key(&connection.id.serial)
    }

    /// Continues with connections whose pause is over.
    pub(super) fn end_pauses(&mut self, now: Tick) {
        for id in self.worker.take_waiting(now) {
            if let Some(connection) = find_connection(&mut self.connections, id)
                && self.worker.may_resume(connection, now)
                && !self.worker.is_renewing(connection)
            {
                connection.is_paused = false;
                let greeting = self.late_greetings.get(&id.serial).map(|greeting| &greeting.upgrade);
                if let Some(Upgrade { user, rooms, .. }) = greeting
                    && self.worker.must_wait_for_greeting(connection, user.as_deref(), rooms.len())
                {
                    continue;
                }
                self.worker.continue_later(connection);
                self.greet_late(id);
            }
        }
    }

    /// Greets a connection if it waits for that.
    pub(super) fn greet_late(&mut self, id: ConnectionId) {
        let Some(LateGreeting { upgrade, requested, .. }) = self.late_greetings.remove(&id.serial) else { return };
        let connection = find_connection(&mut self.connections, id);
        // Otherwise it was closed while it waited: its sessions would never end.
        if connection.is_some_and(|connection| connection.phase == Phase::Open) {
            self.greet(id, &upgrade, &mut BytesMut::new(), requested);
        }
    }

    /// Executes kicks of users whose connections wait for their greeting: no index has them.
    pub(super) fn kick_late(&mut self, kicks: &[Kick]) {
        if kicks.is_empty() || self.late_greetings.is_empty() {
            return;
        }
        let now_unix_ms = self.worker.node.now().unix_ms;
        let kicked = |greeting: &LateGreeting| kicks.iter().find(|kick| greeting.is_for(kick, now_unix_ms));
        let kicked: Vec<_> = self
            .late_greetings
            .values()
            .filter_map(|greeting| Some((greeting.connection, kicked(greeting)?)))
            .collect();
        for (id, kick) in kicked {
            self.late_greetings.remove(&id.serial);
            if let Some(connection) = find_connection(&mut self.connections, id) {
                self.worker.close_kicked(connection, kick);
            }
        }
    }
}
