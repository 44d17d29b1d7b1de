//! What is due in a tick: checks of silent and slow connections, and alarms that protocols have set.

use bytes::BytesMut;

use super::EventLoop;
use crate::connection::{Phase, find_connection};
use crate::presence::Tick;
use crate::protocol::Client;
use crate::worker::commands::Commands;

impl EventLoop {
    /// Pings silent connections. Disconnects clients that stay silent, do not name their user, do not finish closing or
    /// do not read.
    pub(super) fn check_connections(&mut self, now: Tick) {
        let mut due = Vec::new();
        self.worker.checks.take_due(now, &mut due);
        for id in due {
            let Some(connection) = find_connection(&mut self.connections, id) else { continue };
            match self.worker.check(connection, now) {
                Some(next) => self.worker.checks.insert(next, id),
                None => self.worker.abort(connection),
            }
        }
        self.end_renewals(now);
        self.end_pauses(now);
        self.ring_alarms(now);
        if now.is_multiple_of(self.worker.times.second) {
            self.worker.review_spenders(&self.connections, now);
            self.worker.check_slow(&mut self.connections, now);
        }
    }

    /// Tells protocols that the alarms of their connections go off.
    fn ring_alarms(&mut self, now: Tick) {
        for id in self.worker.alarms.take_due(now) {
            let Some(connection) = find_connection(&mut self.connections, id) else { continue };
            if connection.phase == Phase::Open
                && let Some(alarm) = connection.protocol.rules().alarm
            {
                let mut replies = BytesMut::new();
                alarm(&mut Client::new(&mut Commands::new(&mut self.worker, connection), &mut replies));
                self.worker.reply(connection, &mut replies);
            }
        }
    }
}
