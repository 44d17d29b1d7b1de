//! Writes replies and deliveries directly to the socket. Bytes that it does not accept wait until it does.

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::Worker;
use crate::connection::{Connection, Connections, Delivery, Phase, find_connection};
use crate::fanout::{Deliveries, Origin};
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
        if connection.is_blocked() {
            self.list_as_slow(connection);
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
                    if !self.keep_events(connection, &frames) {
                        self.counters.connections_too_slow.add(1);
                        self.abort(connection);
                    }
                }
                (Delivery::Busy, Missed::Wait { .. }) => self.keep_messages(connection, planned),
                (Delivery::Busy, Missed::Snapshot) => {
                    self.counters.deliveries_skipped.add(frames.len() as u64);
                    planned.for_each(|(_, origin)| self.fanout.missed(connection, *origin));
                }
            }
        }
        true
    }

    /// Keeps events for a client that is far behind. False if it has more than its share of the memory for that.
    fn keep_events(&mut self, connection: &mut Connection, frames: &[&Bytes]) -> bool {
        let before = connection.backlog_bytes();
        let kept = connection.keep_events(frames);
        let after = connection.backlog_bytes();
        self.backlogs.change(before, after);
        self.counters.events_cancelled.add(kept.unwrap_or(0));
        kept.is_some() && self.backlogs.is_allowed(after)
    }

    /// Keeps messages for a client that does not read, and skips what a new list replaces. Closes the connection if too
    /// many bytes wait.
    fn keep_messages<'a>(&mut self, connection: &mut Connection, planned: impl Iterator<Item = &'a (Bytes, Origin)>) {
        let mut messages: SmallVec<[&Bytes; 8]> = SmallVec::new();
        for (frame, origin) in planned {
            if !self.fanout.is_due(connection, *origin) {
                continue;
            }
            if self.fanout.is_replaced_later(connection, *origin) {
                self.fanout.missed(connection, *origin);
                self.counters.deliveries_skipped.add(1);
            } else {
                messages.push(frame);
            }
        }
        if messages.is_empty() {
            return;
        }
        let before = connection.kept_bytes();
        let is_kept = connection.wait_behind(&messages) == Delivery::Accepted;
        let after = connection.kept_bytes();
        self.backlogs.change(before, after);
        if is_kept && self.backlogs.is_allowed(after) {
            self.counters.deliveries.add(messages.len() as u64);
            self.counters.delivered_bytes.add(messages.iter().map(|frame| frame.len() as u64).sum());
        } else {
            self.close_too_slow(connection);
        }
    }

    /// Closes the connection of a client for which too much waits. What waits is dropped, so that the close frame is
    /// the next one that the client reads.
    fn close_too_slow(&mut self, connection: &mut Connection) {
        self.counters.connections_too_slow.add(1);
        let before = connection.kept_bytes();
        connection.drop_unsent();
        self.backlogs.change(before, connection.kept_bytes());
        let code = connection.protocol.rules().close_codes.try_again;
        self.close(connection, code, "too many messages wait for the client, connect again");
    }

    /// Sends what waits for a socket that accepts more.
    pub(super) fn continue_writing(&mut self, connection: &mut Connection) {
        if connection.is_blocked() {
            self.flush(connection);
        } else {
            connection.flush_tls();
        }
    }

    /// Sends waiting bytes to a socket that accepts more. When all are sent, the client catches up.
    pub(super) fn flush(&mut self, connection: &mut Connection) {
        let before = connection.kept_bytes();
        let written = connection.flush();
        self.backlogs.change(before, connection.kept_bytes());
        if written > 0 && connection.phase == Phase::Open {
            self.sign_of_life(connection, self.node.now()); // The client's system acknowledges bytes.
        }
        if !connection.is_blocked() {
            match connection.phase {
                Phase::Failed => connection.finish_writing(),
                Phase::Open => self.fanout.catch_up(connection),
                Phase::AwaitingProxyHeader | Phase::AwaitingTls | Phase::AwaitingRequest => {}
                Phase::Closing | Phase::Dead => {}
            }
        }
        self.continue_if_unread(connection);
    }
}
