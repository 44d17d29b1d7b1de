//! Connections with bytes that wait: for the client to read them, or for the client to send the rest of a message. Both
//! take memory, so both have a deadline. Such connections are listed as slow and checked once per second.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::Worker;
use crate::broadcast::UnreadExcess;
use crate::connection::{Connection, ConnectionId, Connections, Partial, Phase, find_connection};
use crate::presence::Tick;
use crate::websocket::decoder::Unfinished;
use crate::websocket::put_close;

/// A client that does not read the bytes that wait for it within this time is disconnected.
const OUTBOX_WAIT: Duration = Duration::from_secs(30);
/// Many bytes have a longer deadline: one second more per this many bytes, some 256 kbit/s.
const SLOWEST_BYTES_PER_SECOND: usize = 32 * 1024;
/// The limit of bytes of incomplete messages per worker: 512 of the longest ones. Beyond it, messages of the address
/// that has the most bytes of them are given up, the oldest ones first.
const MAX_PARTIAL_BYTES: usize = 64 * 1024 * 1024;

/// Clients with fewer unread bytes are not disconnected to free memory.
const SHED_BYTES: usize = 16 * 1024;
/// The part of the connections that is closed at once when memory is short.
const SHED_PART: usize = 32;
/// A client that read nothing between this many checks is disconnected before those that read slowly.
const STALLED_CHECKS: u32 = 3;

impl Worker {
    /// Keeps input that is incomplete or was not decoded yet. `is_next` says that it is not the rest of what was kept
    /// before.
    pub(super) fn keep(&mut self, connection: &mut Connection, mut partial: Partial, is_next: bool) {
        if connection.phase == Phase::Failed {
            return;
        }
        let begins = partial.unfinished.as_mut().map_or(is_next, Unfinished::take_is_new);
        if begins || partial.backlog {
            partial.since = self.node.now().tick;
        }
        // A buffer that grows is not trimmed each time: a client may send its message byte by byte.
        if partial.tail.capacity() > 2 * partial.tail.len() {
            partial.tail.shrink_to_fit();
        }
        connection.keep_partial(partial);
        self.list_as_slow(connection);
    }

    pub(super) fn list_as_slow(&mut self, connection: &mut Connection) {
        if !std::mem::replace(&mut connection.is_slow, true) {
            self.slow.push(connection.id);
        }
    }

    /// Checks all listed connections. Disconnects clients that do not read what waits for them, or do not complete what
    /// they have begun to send.
    pub(super) fn check_slow(&mut self, connections: &mut Connections, now: Tick) {
        let (mut partials, mut bytes) = (Vec::new(), 0);
        for id in std::mem::take(&mut self.slow) {
            let Some(connection) = find_connection(connections, id) else { continue };
            connection.is_slow = false;
            self.check_outbox(connection, now);
            self.check_partial(connection, now);
            if let Some(partial) = connection.partial() {
                bytes += partial.memory_bytes();
                partials.push((id, partial.since, partial.memory_bytes()));
            }
            if connection.is_blocked() || connection.partial().is_some() {
                self.list_as_slow(connection);
            }
        }
        if bytes > MAX_PARTIAL_BYTES {
            self.give_up_messages(connections, partials, bytes - MAX_PARTIAL_BYTES);
        }
    }

    /// Disconnects the clients that have the most unread bytes, until this many are freed. First come those that have
    /// read nothing for seconds.
    pub(super) fn shed_unread(&mut self, connections: &mut Connections, excess: UnreadExcess) {
        let holder = |id: &ConnectionId| {
            let (bytes, stalled_checks) = find_connection(connections, *id)?.unread();
            (bytes >= SHED_BYTES).then_some((stalled_checks < STALLED_CHECKS, Reverse(bytes), *id))
        };
        let mut holders: Vec<_> = self.slow.iter().filter_map(holder).collect();
        holders.sort_unstable_by_key(|(reads, bytes, _)| (*reads, *bytes));
        let mut freed = 0;
        for (reads, Reverse(bytes), id) in holders {
            let Some(connection) = find_connection(connections, id) else { continue };
            if freed >= if reads { excess.of_all } else { excess.of_stalled } {
                return;
            }
            self.counters.connections_shed.add(1);
            self.abort(connection);
            freed += bytes;
        }
    }

    /// Closes the connections that take the most memory, until this many bytes are freed: at most one in 32 at once,
    /// because it takes a moment until freed memory shows.
    pub(super) fn shed_memory(&mut self, connections: &mut Connections, mut excess: usize) {
        let open = connections.iter().filter(|(_, connection)| connection.phase == Phase::Open);
        let mut holders: Vec<_> = open.map(|(_, connection)| (connection.memory_bytes(), connection.id)).collect();
        holders.sort_unstable_by_key(|(bytes, _)| Reverse(*bytes));
        holders.truncate(holders.len().div_ceil(SHED_PART));
        for (bytes, id) in holders {
            if let Some(connection) = find_connection(connections, id).filter(|_| excess > 0) {
                self.counters.connections_shed.add(1);
                if connection.is_blocked() {
                    self.abort(connection); // A close frame would wait behind what takes the memory.
                } else {
                    let code = connection.protocol.rules().close_codes.try_again;
                    self.close(connection, code, "the server is short of memory, try again later");
                }
                excess = excess.saturating_sub(bytes);
            }
        }
    }

    fn check_outbox(&mut self, connection: &mut Connection, now: Tick) {
        let config = &self.node.config;
        let more = |bytes: usize| Duration::from_secs((bytes / SLOWEST_BYTES_PER_SECOND) as u64);
        let wait = |bytes: usize| config.ticks(OUTBOX_WAIT + more(bytes));
        if connection.is_blocked() && connection.is_overdue(now, wait) {
            self.counters.connections_too_slow.add(1);
            self.abort(connection);
        }
    }

    fn check_partial(&mut self, connection: &mut Connection, now: Tick) {
        if connection.must_wait() {
            // The server does not read the rest of the message at present.
            connection.restart_partial(now);
        }
        let Some(partial) = connection.partial() else { return };
        // In other phases the connection has a deadline.
        if connection.phase != Phase::Open || partial.backlog {
            return;
        }
        let bytes = partial.memory_bytes();
        let more = Duration::from_secs((bytes / SLOWEST_BYTES_PER_SECOND) as u64);
        if now.saturating_sub(partial.since) > self.times.message_wait + self.node.config.ticks(more) {
            self.give_up_message(connection);
        }
    }

    /// Closes a connection whose client does not complete its message.
    fn give_up_message(&mut self, connection: &mut Connection) {
        self.counters.connections_timed_out.add(1);
        let mut replies = BytesMut::new();
        let code = connection.protocol.rules().close_codes.policy;
        put_close(&mut replies, code, "the message was not completed in time");
        self.reply(connection, &mut replies);
        self.expect_close(connection, Phase::Failed);
        connection.take_partial();
        connection.finish_writing();
    }

    /// Makes room for messages of other addresses: gives up messages until this many bytes are freed. Users on this
    /// machine count like addresses, because a proxy may stand between them and the server.
    fn give_up_messages(
        &mut self,
        connections: &mut Connections,
        partials: Vec<(ConnectionId, Tick, usize)>,
        mut excess: usize,
    ) {
        let mut holder = |id: ConnectionId| {
            let connection = find_connection(connections, id).filter(|connection| connection.phase == Phase::Open)?;
            let address = self.addresses.of(connection);
            let user = connection.session().filter(|_| address.is_none()).map(|session| Arc::clone(session.user()));
            Some((address, user))
        };
        let of_open = partials.into_iter().filter_map(|(id, since, bytes)| Some((holder(id)?, since, id, bytes)));
        let partials: Vec<_> = of_open.collect();
        let mut held: HashMap<_, usize> = HashMap::new();
        for (holder, .., bytes) in &partials {
            *held.entry(holder).or_default() += bytes;
        }
        let mut order: Vec<_> = partials.iter().collect();
        order.sort_by_key(|(holder, since, ..)| (Reverse(held[holder]), *since));
        for (.., id, bytes) in order {
            if excess == 0 {
                return;
            }
            if let Some(connection) = find_connection(connections, *id) {
                self.give_up_message(connection);
                excess = excess.saturating_sub(*bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::commands::tests::with_connection;

    #[test]
    fn the_deadline_of_a_message_does_not_pass_while_the_server_does_not_read() {
        with_connection(|worker, connection| {
            let wait = worker.times.message_wait;
            worker.keep(connection, Partial { tail: vec![0x81], ..Partial::default() }, true);
            connection.is_paused = true;
            worker.check_partial(connection, 10 * wait);
            connection.is_paused = false;
            worker.check_partial(connection, 11 * wait);
            assert_eq!(connection.phase, Phase::Open);
            worker.check_partial(connection, 11 * wait + 1);
            assert_eq!(connection.phase, Phase::Failed);
            assert!(connection.partial().is_none());
        });
    }
}
