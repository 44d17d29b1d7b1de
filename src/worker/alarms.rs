//! Alarms that protocols set for their connections.

use std::collections::BTreeSet;

use crate::connection::ConnectionId;
use crate::presence::Tick;

/// The alarms of a worker: when each goes off, and the slot and the serial number of its connection. The alarm of a
/// connection that has ended stays until then, so protocols set none that are far ahead.
#[derive(Debug, Default)]
pub(super) struct Alarms(BTreeSet<(Tick, u32, u32)>);

impl Alarms {
    pub(super) fn set(&mut self, at: Tick, connection: ConnectionId) {
        self.0.insert((at, connection.index, connection.serial));
    }

    /// Takes the connections whose alarms go off.
    pub(super) fn take_due(&mut self, now: Tick) -> Vec<ConnectionId> {
        let mut due = Vec::new();
        while self.0.first().is_some_and(|(at, ..)| *at <= now) {
            let Some((_, index, serial)) = self.0.pop_first() else { break };
            due.push(ConnectionId { index, serial });
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_go_off_once_at_their_tick() {
        let id = |index| ConnectionId { index, serial: 7 };
        let mut alarms = Alarms::default();
        alarms.set(5, id(1));
        alarms.set(3, id(2));
        alarms.set(5, id(3));
        assert_eq!(alarms.take_due(2), []);
        assert_eq!(alarms.take_due(4), [id(2)]);
        assert_eq!(alarms.take_due(9), [id(1), id(3)]);
        assert_eq!(alarms.take_due(9), []);
    }
}
