//! New connections: accepts them, reads their first request, and opens those that become WebSockets.
//!
//! Nearly all first requests are complete handshakes that need nothing but the settings. They are answered here. All
//! other connections go to an HTTP thread with the bytes that were read; one that becomes a WebSocket there comes back
//! through the mailbox.

use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tracing::debug;

use super::{EventLoop, token};
use crate::connection::{Connection, ConnectionId, Phase, find_connection};
use crate::protocol::{Client, Protocol, Upgrade};
use crate::websocket::{close, put_close};
use crate::worker::commands::Commands;
use crate::worker::http_side::ValidHandshake;
use crate::worker::mailbox::Arrival;

/// Connections that one turn of the loop accepts.
const ACCEPTS_PER_TURN: usize = 64;

impl EventLoop {
    /// Accepts some of the waiting connections.
    pub(super) fn accept(&mut self) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(stream) = self.listeners.accept(&self.worker.node, &self.worker.counters) else { return };
            self.add_socket(stream);
        }
    }

    /// Accepts the connections that wait, because closing the listeners would reset them, and closes the listeners.
    pub(super) fn stop_accepting(&mut self) {
        self.listeners.look_again();
        while let Some(stream) = self.listeners.accept(&self.worker.node, &self.worker.counters) {
            self.add_socket(stream);
        }
        self.listeners.close();
    }

    /// Adds a socket whose first request has not arrived.
    fn add_socket(&mut self, stream: TcpStream) {
        self.worker.node.sockets.fetch_add(1, Ordering::Relaxed);
        if let Some(id) = self.insert(stream) {
            self.awaiting_request.insert(id);
        }
    }

    /// Adds a socket to the slab and the poll. `None` if it had to be closed.
    fn insert(&mut self, stream: TcpStream) -> Option<ConnectionId> {
        let worker = &mut self.worker;
        let now = worker.node.now().tick;
        let entry = self.connections.vacant_entry();
        let id = ConnectionId { index: entry.key() as u32, serial: self.next_serial };
        self.next_serial = self.next_serial.wrapping_add(1);
        let connection = entry.insert(Connection::new(id, Protocol::ALL[0], stream.into(), now));
        worker.counters.sockets.add(1);
        if connection.stream().register(self.poll.registry(), token(id)).is_err() {
            worker.counters.accept_errors.add(1);
            connection.phase = Phase::Dead;
            self.remove_if_dead(id);
            return None;
        }
        Some(id)
    }

    /// Reads the first request of a connection. Opens the connection if it is a handshake, or else hands it to an HTTP
    /// thread.
    pub(super) fn read_request(&mut self, id: ConnectionId) {
        let connection = find_connection(&mut self.connections, id);
        let Some(read) = connection.and_then(|connection| connection.read(&mut self.scratch)) else { return };
        let requested = Instant::now();
        self.awaiting_request.remove(id);
        let handshake = self.http.handshake(&self.scratch[..read]);
        // HTTP threads refuse clients of a full server.
        match handshake.filter(|_| self.worker.node.add_connection()) {
            Some(ValidHandshake { upgrade, mut response, request_bytes }) => {
                self.worker.counters.requests.add(1);
                self.open(id, &upgrade, &mut response, requested);
                self.receive_ahead(id, &mut Vec::from(&self.scratch[request_bytes..read]));
            }
            None => self.give_to_http(id, read),
        }
    }

    /// Hands a connection over with the bytes at the start of the scratch buffer.
    fn give_to_http(&mut self, id: ConnectionId, read: usize) {
        let stream = self.connections.remove(id.index as usize).into_stream();
        self.worker.counters.sockets.subtract(1);
        match stream.deregister(self.poll.registry()) {
            Ok(stream) => self.http.serve(stream, Bytes::copy_from_slice(&self.scratch[..read])),
            Err(error) => {
                debug!(%error, "a connection could not be handed over");
                self.worker.node.sockets.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Opens a connection that became a WebSocket on an HTTP thread.
    pub(super) fn take_arrival(&mut self, arrival: Arrival) {
        let Arrival { stream, mut response, read_ahead, upgrade, requested } = arrival;
        let Some(id) = self.insert(stream) else {
            self.worker.node.connections.fetch_sub(1, Ordering::Relaxed);
            return;
        };
        self.open(id, &upgrade, &mut response, requested);
        self.receive_ahead(id, &mut Vec::from(read_ahead));
    }

    /// Opens a connection, which is counted already: sends the HTTP response and the greeting together.
    fn open(&mut self, id: ConnectionId, upgrade: &Upgrade, response: &mut BytesMut, requested: Instant) {
        let Some(connection) = find_connection(&mut self.connections, id) else { return };
        let worker = &mut self.worker;
        worker.counters.connections.add(1);
        worker.counters.connections_opened.add(1);
        let now = worker.node.now().tick;
        connection.open(upgrade.protocol, now);
        worker.checks.insert(now + worker.times.first_check(upgrade.protocol), id);
        if worker.is_draining {
            put_close(response, close::RESTART, close::RESTART_REASON);
            worker.reply(connection, response);
            worker.expect_close(connection, Phase::Closing);
            return;
        }
        if let Some(user) = &upgrade.user {
            worker.identify(connection, user, upgrade.login);
        }
        let mut host = Commands::new(worker, connection);
        (upgrade.protocol.rules().greet)(&mut Client::new(&mut host, response), upgrade);
        worker.reply(connection, response);
        let took_us = requested.elapsed().as_micros() as u64;
        worker.counters.greeting_us.add(took_us);
        worker.counters.greeting_us_max.raise(took_us);
    }

    /// Closes connections whose first request has not arrived in time.
    pub(super) fn end_silent_sockets(&mut self) {
        let limit = self.worker.node.config.limits.header_timeout;
        for id in self.awaiting_request.overdue(limit) {
            if let Some(connection) = find_connection(&mut self.connections, id) {
                connection.phase = Phase::Dead;
                self.remove_if_dead(id);
            }
        }
    }

    /// Handles bytes that the client sent behind its request, if there are any. The next turn of the loop reads what
    /// may have arrived since.
    fn receive_ahead(&mut self, id: ConnectionId, bytes: &mut [u8]) {
        if let Some(connection) = find_connection(&mut self.connections, id) {
            if !bytes.is_empty() {
                self.worker.receive(connection, bytes, &mut self.codec);
            }
            self.worker.continue_if_unread(connection);
            self.remove_if_dead(id);
        }
    }
}
