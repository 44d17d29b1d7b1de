//! TLS on a worker: begins handshakes, and gives clients that speak plain HTTP to an HTTP thread, which refuses them.

use std::time::Instant;

use bytes::Bytes;
use tracing::debug;

use super::EventLoop;
use crate::connection::{ConnectionId, Input, Phase, find_connection};
use crate::peer::ClientAddress;
use crate::websocket::stream::Received;
use crate::worker::http_side::Port;

impl EventLoop {
    /// Looks at the first byte that a client has sent. Begins the handshake if it is the client's turn.
    pub(super) fn look_at_first_byte(&mut self, id: ConnectionId) {
        let Some(connection) = find_connection(&mut self.connections, id) else { return };
        match connection.stream().peek(&mut [0]).map(|first| first[0]) {
            Err(Received::Nothing) => connection.input = Input::Nothing,
            Err(_) => connection.phase = Phase::Dead,
            // The name of a method. Every TLS record begins with a small number.
            Ok(first) if first.is_ascii_uppercase() => {
                self.awaiting_request.remove(id);
                self.handshakes.end(id);
                self.give_to_http(id, Bytes::new(), Port::NeedsTls, None);
            }
            Ok(_) => {
                let named = self.worker.named_clients.of(id);
                let peer = || connection.stream().peer().map(ClientAddress::of_peer);
                let address = named.or_else(peer).and_then(ClientAddress::limited);
                if self.handshakes.start(id, address) {
                    self.start_handshake(id);
                }
            }
        }
    }

    /// Begins the handshakes of clients that have waited for their turn.
    pub(super) fn continue_handshakes(&mut self) {
        self.handshakes.begin_turn();
        while let Some(id) = self.handshakes.next() {
            self.start_handshake(id);
            self.remove_if_dead(id);
        }
    }

    fn start_handshake(&mut self, id: ConnectionId) {
        let (Some(connection), Some(tls)) =
            (find_connection(&mut self.connections, id), self.worker.node.config.tls.as_ref())
        else {
            self.handshakes.end(id);
            return;
        };
        match tls.session() {
            Ok(session) => {
                connection.encrypt(session);
                connection.phase = Phase::AwaitingRequest;
                // The handshake has a time limit of its own.
                self.awaiting_request.remove(id);
                self.read_request(id);
            }
            Err(error) => {
                debug!(%error, "a TLS connection could not be opened");
                connection.phase = Phase::Dead;
            }
        }
    }

    /// Notes that the handshake of a connection may be complete. From then on, the first request has its time limit.
    pub(super) fn note_handshake(&mut self, id: ConnectionId) {
        let Some(connection) = find_connection(&mut self.connections, id) else { return };
        if connection.tls().is_some_and(|tls| !tls.is_handshaking()) && self.handshakes.end(id) {
            self.worker.counters.tls_handshakes.add(1);
            self.awaiting_request.insert(id);
        }
        self.worker.continue_if_unread(connection);
    }

    /// Notes that a connection ends which was no WebSocket, perhaps during its handshake.
    pub(super) fn end_handshake(&mut self, id: ConnectionId) {
        if self.handshakes.end(id) {
            self.worker.counters.tls_handshakes_failed.add(1);
        }
    }

    /// Closes connections whose handshake has taken too long.
    pub(super) fn end_slow_handshakes(&mut self) {
        if self.handshakes.is_empty() {
            return;
        }
        for id in self.handshakes.overdue(Instant::now()) {
            if let Some(connection) = find_connection(&mut self.connections, id) {
                connection.phase = Phase::Dead;
                self.remove_if_dead(id);
            }
        }
    }
}
