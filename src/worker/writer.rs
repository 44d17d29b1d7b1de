//! Writes replies and deliveries directly to the socket. Bytes that it does not accept wait until it does.

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::Worker;
use crate::connection::{Connection, Connections, Delivery, Phase, find_connection};
use crate::fanout::Deliveries;
use crate::protocol::Missed;

/// Writes before the loop handles other events: about a millisecond at some 7 µs per write.
const WRITES_PER_TURN: usize = 128;

impl Worker {
    /// Sends replies. Empties the buffer.
    pub(super) fn reply(&mut self, connection: &mut Connection, replies: &mut BytesMut) {
        connection.reply(replies);
        self.note_blocked(connection);
    }

    /// Lists the connection as slow if bytes wait for its socket.
    pub(super) fn note_blocked(&mut self, connection: &mut Connection) {
        if connection.is_blocked() && !std::mem::replace(&mut connection.is_slow, true) {
            self.slow.push(connection.id);
        }
    }

    /// Writes a slice of the deliveries of a tick. Returns whether some are left.
    pub(super) fn deliver(&mut self, deliveries: &mut Deliveries, connections: &mut Connections) -> bool {
        for _ in 0..WRITES_PER_TURN {
            let Some((id, planned)) = deliveries.next_connection() else { return false };
            let Some(connection) = find_connection(connections, id) else { continue };
            let due = planned.clone().filter(|(_, origin)| self.fanout.is_due(connection, *origin));
            let frames: SmallVec<[&Bytes; 8]> = due.map(|(frame, _)| frame).collect();
            if frames.is_empty() || connection.phase == Phase::Dead {
                continue;
            }
            let missed = connection.protocol.rules().missed;
            let mut delivery = connection.deliver(&frames);
            if delivery == Delivery::Busy && missed == Missed::Queue {
                delivery = connection.wait_behind(&frames);
            }
            match (delivery, missed) {
                (Delivery::Accepted, _) => {
                    self.note_blocked(connection);
                    self.counters.deliveries.add(frames.len() as u64);
                    self.counters.delivered_bytes.add(frames.iter().map(|frame| frame.len() as u64).sum());
                }
                (Delivery::Busy, Missed::Queue) => {
                    self.counters.connections_too_slow.add(1);
                    self.abort(connection);
                }
                (Delivery::Busy, Missed::Snapshot) => {
                    self.counters.deliveries_skipped.add(frames.len() as u64);
                    planned.for_each(|(_, origin)| self.fanout.missed(connection, *origin));
                }
            }
        }
        true
    }

    /// Sends waiting bytes to a socket that accepts more. When all are sent, the client catches up.
    pub(super) fn flush(&mut self, connection: &mut Connection) {
        let written = connection.flush();
        if written > 0 && connection.phase == Phase::Open {
            self.sign_of_life(connection, self.node.now()); // The client's system acknowledges bytes.
        }
        if !connection.is_blocked() {
            match connection.phase {
                Phase::Failed => connection.finish_writing(),
                Phase::Open => self.fanout.catch_up(connection),
                Phase::AwaitingRequest | Phase::Closing | Phase::Dead => {}
            }
        }
        self.continue_if_unread(connection);
    }
}
