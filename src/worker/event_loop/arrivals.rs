//! New connections: accepts them, reads their first request, and opens those that become WebSockets.
//!
//! Nearly all first requests are handshakes that need nothing but the settings. They are answered here. A request that
//! arrives in parts waits here until its head is complete. All other connections go to an HTTP thread with the bytes
//! that were read; one that becomes a WebSocket there comes back through the mailbox.

use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tracing::debug;

use super::awaiting_request::{Head, Waiting};
use super::listeners::Accepted;
use super::{EventLoop, token};
use crate::connection::{Connection, ConnectionId, Phase, find_connection};
use crate::log_limit::warn_limited;
use crate::peer::{ClientAddress, PeerAddress};
use crate::protocol::{Client, Protocol, Upgrade};
use crate::websocket::stream::Transport;
use crate::websocket::{Refusal, close, put_close};
use crate::worker::Worker;
use crate::worker::commands::Commands;
use crate::worker::http_side::{FirstBytes, FirstRequest, Port, ValidHandshake};
use crate::worker::mailbox::Arrival;
use crate::worker::revoke::REVOKED;
use crate::worker::throttle::Admission;

/// Connections that one turn of the loop accepts.
const ACCEPTS_PER_TURN: usize = 64;

impl EventLoop {
    /// Accepts some of the waiting connections.
    pub(super) fn accept(&mut self) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(accepted) = self.listeners.accept(&self.worker.node, &self.worker.counters) else { return };
            self.add_socket(accepted);
        }
    }

    /// Accepts the connections that wait, because closing the listeners would reset them, and closes the listeners.
    pub(super) fn stop_accepting(&mut self) {
        self.listeners.look_again();
        while let Some(accepted) = self.listeners.accept(&self.worker.node, &self.worker.counters) {
            self.add_socket(accepted);
        }
        self.listeners.close();
    }

    /// Adds a socket whose first request has not arrived, unless its peer has reached a limit. The internal port has no
    /// WebSockets: its connections go to an HTTP thread.
    fn add_socket(&mut self, Accepted { stream, peer, is_internal }: Accepted) {
        let awaits_proxy_header = self.worker.node.config.entry.proxy_protocol && !is_internal;
        if awaits_proxy_header && !self.is_proxy(peer) {
            return;
        }
        let Some(permit) = self.worker.admit_socket(&stream, peer) else { return };
        if self.worker.node.has_too_many_plain_sockets() {
            warn_limited!(
                "too many connections are no WebSockets; those that are idle for the longest time are closed"
            );
            self.give_up_requests(&self.awaiting_request.oldest());
        }
        self.worker.node.sockets.fetch_add(1, Ordering::Relaxed);
        if is_internal {
            let (transport, read, port) = (stream.into(), Bytes::new(), Port::Internal);
            return self.http.serve(FirstBytes { transport, named: None, read, port, refusal: None, permit });
        }
        if let Some(id) = self.insert(stream.into()) {
            if let Some(peer) = peer {
                self.worker.addresses.accepted(id, peer);
            }
            self.worker.permits.add(id, permit);
            let phase = if awaits_proxy_header { Phase::AwaitingProxyHeader } else { self.first_phase() };
            if let Some(connection) = find_connection(&mut self.connections, id) {
                connection.phase = phase;
            }
            self.awaiting_request.insert(id);
        }
    }

    /// Adds a socket to the slab and the poll. `None` if it had to be closed.
    fn insert(&mut self, transport: Transport) -> Option<ConnectionId> {
        let worker = &mut self.worker;
        let now = worker.node.now().tick;
        let entry = self.connections.vacant_entry();
        let id = ConnectionId { index: entry.key() as u32, serial: self.next_serial };
        self.next_serial = self.next_serial.wrapping_add(1);
        let connection = entry.insert(Connection::new(id, Protocol::ALL[0], transport, now));
        worker.counters.sockets.add(1);
        if connection.stream().register(self.poll.registry(), token(id)).is_err() {
            worker.counters.accept_errors.add(1);
            connection.phase = Phase::Dead;
            self.remove_if_dead(id);
            return None;
        }
        Some(id)
    }

    /// Reads the first request of a connection. Opens the connection if it is a handshake, keeps what has arrived if it
    /// is incomplete, or else hands the connection to an HTTP thread.
    pub(super) fn read_request(&mut self, id: ConnectionId) {
        let Some(connection) = find_connection(&mut self.connections, id) else { return };
        let read = connection.read(&mut self.scratch);
        self.note_handshake(id);
        let Some(read) = read else { return };
        let requested = Instant::now();
        let mut waiting = self.awaiting_request.remove(id).unwrap_or_else(|| Waiting::new(id));
        let mut head = waiting.head.take();
        let is_worth_parsing = head.as_mut().is_none_or(|head| head.add(&self.scratch[..read]));
        let bytes = head.as_ref().map_or(&self.scratch[..read], |head| &head.bytes);
        let named = self.worker.named_clients.of(id);
        let Some(connection) = find_connection(&mut self.connections, id) else { return };
        let request = match is_worth_parsing {
            true => self.http.read(bytes, named, connection.stream()),
            false => FirstRequest::Incomplete,
        };
        match request {
            FirstRequest::Incomplete => {
                let is_first = head.is_none();
                let address =
                    || named.map(ClientAddress::ip).or_else(|| connection.stream().peer()).map(PeerAddress::of);
                let head = head.unwrap_or_else(|| Box::new(Head::new(&self.scratch[..read], address())));
                self.awaiting_request.keep(waiting, head, is_first);
                self.worker.continue_if_unread(connection);
                self.give_up_requests(&self.awaiting_request.excess());
            }
            // HTTP threads refuse clients of a full server.
            FirstRequest::Handshake(handshake) if self.worker.node.add_connection() => {
                let ValidHandshake { upgrade, mut response, request_bytes } = handshake;
                let mut ahead = Vec::from(&bytes[request_bytes..]);
                self.worker.counters.requests.add(1);
                self.open(id, &upgrade, &mut response, requested);
                self.receive_ahead(id, &mut ahead);
            }
            decided => {
                let refusal = if let FirstRequest::Refused(refusal) = decided { Some(refusal) } else { None };
                let read = head.map_or_else(|| Bytes::copy_from_slice(&self.scratch[..read]), |head| head.bytes.into());
                self.give_to_http(id, read, Port::Public, refusal);
            }
        }
    }

    /// Closes connections whose incomplete requests take too much memory.
    pub(super) fn give_up_requests(&mut self, ids: &[ConnectionId]) {
        self.worker.counters.requests_given_up.add(ids.len() as u64);
        ids.iter().for_each(|id| self.end_socket(*id));
    }

    fn end_socket(&mut self, id: ConnectionId) {
        self.note_incomplete_header(id);
        if let Some(connection) = find_connection(&mut self.connections, id) {
            connection.phase = Phase::Dead;
            self.remove_if_dead(id);
        }
    }

    /// Hands a connection over with the bytes that were read.
    pub(super) fn give_to_http(&mut self, id: ConnectionId, read: Bytes, port: Port, refusal: Option<Refusal>) {
        let (permit, named) = (self.worker.permits.take(id), self.worker.named_clients.take(id));
        self.worker.addresses.forget(id);
        let (socket, tls) = self.connections.remove(id.index as usize).into_transport();
        self.worker.counters.sockets.subtract(1);
        match socket.deregister(self.poll.registry()) {
            Ok(socket) => {
                let transport = Transport { socket, tls };
                self.http.serve(FirstBytes { transport, named, read, port, refusal, permit });
            }
            Err(error) => {
                debug!(%error, "a connection could not be handed over");
                self.worker.node.sockets.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Opens a connection that became a WebSocket on an HTTP thread.
    pub(super) fn take_arrival(&mut self, arrival: Arrival) {
        let Arrival { transport, mut response, read_ahead, upgrade, requested } = arrival;
        let Some(id) = self.insert(transport) else {
            self.worker.node.connections.fetch_sub(1, Ordering::Relaxed);
            return;
        };
        if let Some(peer) = find_connection(&mut self.connections, id).and_then(|connection| connection.stream().peer())
        {
            self.worker.addresses.accepted(id, peer);
        }
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
        if let Some(grant) = &upgrade.grant {
            worker.grants.set(id, grant);
        }
        if let Some(client) = upgrade.behind_proxy {
            worker.addresses.set(id, client.address);
        }
        let first_check = now + worker.times.first_check(upgrade.protocol);
        let grant_over = worker.is_grant_over(connection);
        let grant_check = if grant_over.is_none() { worker.check_grant(connection, now) } else { None };
        worker.checks.insert(grant_check.map_or(first_check, |tick| tick.min(first_check)), id);
        let over_quota = worker.count_opened(id, upgrade.behind_proxy);
        let codes = &upgrade.protocol.rules().close_codes;
        if worker.is_draining {
            return Self::refuse(worker, connection, response, codes.restart, close::RESTART_REASON);
        }
        if let Err(reason) = over_quota {
            return Self::refuse(worker, connection, response, codes.try_again, reason);
        }
        // Behind the HTTP response, and before the connection has a session.
        if let Some((code, reason)) = grant_over {
            worker.counters.connections_expired.add(1);
            return Self::refuse(worker, connection, response, code, reason);
        }
        match worker.admit(connection, upgrade.user.as_deref(), upgrade.rooms.len()) {
            Admission::Now => {}
            Admission::Later => {
                worker.reply(connection, response);
                self.greet_after_pause(id, upgrade, requested);
                return;
            }
            Admission::Refused(code, reason) => {
                return Self::refuse(worker, connection, response, code, reason);
            }
        }
        self.greet(id, upgrade, response, requested);
    }

    /// Sends the greeting, and the HTTP response if it was not sent yet.
    pub(super) fn greet(&mut self, id: ConnectionId, upgrade: &Upgrade, response: &mut BytesMut, requested: Instant) {
        let Some(connection) = find_connection(&mut self.connections, id) else { return };
        let worker = &mut self.worker;
        if let Some(user) = &upgrade.user {
            if let Err(reason) = worker.check_user(id, user) {
                let code = upgrade.protocol.rules().close_codes.try_again;
                return Self::refuse(worker, connection, response, code, reason);
            }
            worker.identify(connection, user, upgrade.login);
            // Its credential may have been revoked after it was checked. From now on revocations find the connection.
            if worker.is_revoked(connection) {
                put_close(response, close::POLICY, REVOKED);
                worker.reply(connection, response);
                worker.expect_close(connection, Phase::Closing);
                return;
            }
        }
        let mut host = Commands::new(worker, connection);
        (upgrade.protocol.rules().greet)(&mut Client::new(&mut host, response), upgrade);
        worker.end_if_over_limit(connection, response);
        worker.reply(connection, response);
        worker.counters.greeting.observe(requested.elapsed());
    }

    /// Closes a connection that is not served: without a session, and behind the HTTP response.
    fn refuse(worker: &mut Worker, connection: &mut Connection, response: &mut BytesMut, code: u16, reason: &str) {
        put_close(response, code, reason);
        worker.reply(connection, response);
        worker.expect_close(connection, Phase::Closing);
    }

    /// Closes connections whose first request has not arrived in time.
    pub(super) fn end_silent_sockets(&mut self) {
        let limit = self.worker.node.config.limits.header_timeout;
        self.awaiting_request.overdue(limit).into_iter().for_each(|id| self.end_socket(id));
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
