//! Continues with connections that wait for their turn, see [`crate::worker::turns`].

use super::EventLoop;
use crate::connection::{ConnectionId, find_connection};

/// Connections that have their turn before the others are looked at again.
const TURNS_AT_ONCE: usize = 256;

impl EventLoop {
    /// Continues with some of the connections that wait for their turn.
    pub(super) fn give_turns(&mut self) {
        for _ in 0..TURNS_AT_ONCE {
            let Some(id) = self.worker.begin_turn() else { return };
            self.take_turn(id);
            self.worker.end_turn();
        }
    }

    fn take_turn(&mut self, id: ConnectionId) {
        let Some(connection) = find_connection(&mut self.connections, id) else { return };
        if self.worker.is_pausing(connection) || self.worker.is_renewing(connection) {
            return; // It is read when its pause is over.
        }
        connection.is_paused = false;
        if Self::awaits_greeting(&self.late_greetings, connection) {
            self.worker.continue_later(connection);
            self.greet_late(id);
        } else {
            self.worker.read_in_turn(connection, &mut self.scratch, &mut self.codec);
            self.remove_if_dead(id);
        }
    }
}
