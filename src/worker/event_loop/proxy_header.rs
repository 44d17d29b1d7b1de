//! The PROXY header that precedes the first byte of a client (`--proxy-protocol`). It is read before TLS and before the
//! first request. Until it is complete, its bytes stay in the socket.

use std::io::IoSlice;
use std::net::IpAddr;

use super::EventLoop;
use crate::connection::{ConnectionId, Input, Phase, find_connection};
use crate::peer::{ClientAddress, PeerAddress};
use crate::proxy_header::{self, Header, MAX_BYTES, Reason};
use crate::websocket::stream::Received;

impl EventLoop {
    /// The phase of a connection whose client may send its first byte.
    pub(super) fn first_phase(&self) -> Phase {
        if self.worker.node.config.tls.is_some() { Phase::AwaitingTls } else { Phase::AwaitingRequest }
    }

    /// Whether a peer may send PROXY headers. If not, its connection is to be closed.
    pub(super) fn is_proxy(&self, peer: Option<IpAddr>) -> bool {
        let is_proxy = peer.is_some_and(|peer| self.worker.node.config.entry.trusts(peer));
        if !is_proxy {
            self.record(Reason::Untrusted, peer);
        }
        is_proxy
    }

    /// Reads the header, and nothing behind it, once it is complete. Closes the connection if it cannot be valid.
    pub(super) fn read_proxy_header(&mut self, id: ConnectionId) {
        let Some(connection) = find_connection(&mut self.connections, id) else { return };
        let parsed = match connection.stream().peek(&mut [0; MAX_BYTES]) {
            Ok(bytes) => proxy_header::parse(bytes),
            Err(Received::Nothing) => Ok(None),
            Err(_) => Err(Reason::Incomplete),
        };
        match parsed {
            Ok(Some(header)) => self.take_proxy_header(id, header),
            Ok(None) if connection.input != Input::End => connection.input = Input::Nothing,
            Ok(None) => self.reject(id, Reason::Incomplete),
            Err(reason) => self.reject(id, reason),
        }
    }

    /// A connection ends. Counts it if its header was not complete.
    pub(super) fn note_incomplete_header(&mut self, id: ConnectionId) {
        let connection = find_connection(&mut self.connections, id);
        if connection.is_some_and(|connection| connection.phase == Phase::AwaitingProxyHeader) {
            self.reject(id, Reason::Incomplete);
        }
    }

    fn take_proxy_header(&mut self, id: ConnectionId, Header { bytes, client }: Header) {
        let first_phase = self.first_phase();
        let Some(connection) = find_connection(&mut self.connections, id) else { return };
        // The bytes are there: they were looked at.
        match connection.stream().read(None, &mut self.scratch[..bytes]) {
            Received::Bytes { count, .. } if count == bytes => {}
            _ => return self.reject(id, Reason::Incomplete),
        }
        if let Some(ip) = client {
            let (address, mut client) = (PeerAddress::of(ip), ClientAddress::of_proxy_header(ip));
            if self.worker.node.config.entry.trusts(ip) {
                // Another proxy, whose sockets are of many clients.
                client = ClientAddress::forwarded(ip);
            } else {
                match self.worker.admit_address(address) {
                    Ok(permit) => self.worker.permits.add(id, Some(permit)),
                    Err(answer) => {
                        let _ = answer.map(|answer| connection.stream().try_write(None, &[IoSlice::new(answer)]));
                        connection.phase = Phase::Dead;
                        return;
                    }
                }
            }
            self.worker.addresses.set(id, address);
            self.worker.named_clients.add(id, client);
        }
        connection.phase = first_phase;
        // From now on, the client has its own time.
        self.awaiting_request.insert(id);
        match first_phase {
            Phase::AwaitingTls => self.look_at_first_byte(id),
            _ => self.read_request(id),
        }
    }

    fn reject(&mut self, id: ConnectionId, reason: Reason) {
        let Some(connection) = find_connection(&mut self.connections, id) else { return };
        connection.phase = Phase::Dead;
        let peer = connection.stream().peer();
        self.record(reason, peer);
    }

    fn record(&self, reason: Reason, peer: Option<IpAddr>) {
        let node = &self.worker.node;
        node.proxy_headers_rejected.record(reason, peer, node.now().unix_ms);
    }
}
