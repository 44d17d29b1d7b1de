//! The clients that PROXY headers named, of connections that are no WebSockets yet. A WebSocket needs only the address
//! that limits count, which the worker keeps for all of them.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::connection::ConnectionId;
use crate::peer::ClientAddress;

/// The memory of a smaller table than this is never returned.
const SMALL_TABLE: usize = 64;
/// Memory is returned when only this part of the table is in use.
const USED_PART: usize = 8;

/// Clients by serial number of the connection.
#[derive(Debug, Default)]
pub(super) struct NamedClients(HashMap<u32, ClientAddress, RandomState>);

impl NamedClients {
    /// A PROXY header has named the client of a connection.
    pub(super) fn add(&mut self, connection: ConnectionId, client: ClientAddress) {
        self.0.insert(connection.serial, client);
    }

    /// The client of a connection, if a PROXY header named it.
    pub(super) fn of(&self, connection: ConnectionId) -> Option<ClientAddress> {
        if self.0.is_empty() { None } else { self.0.get(&connection.serial).copied() }
    }

    /// The same; forgets the connection.
    pub(super) fn take(&mut self, connection: ConnectionId) -> Option<ClientAddress> {
        if self.0.is_empty() {
            return None;
        }
        let client = self.0.remove(&connection.serial);
        if self.0.capacity() > SMALL_TABLE && self.0.len() < self.0.capacity() / USED_PART {
            self.0.shrink_to(2 * self.0.len());
        }
        client
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_known_until_they_are_taken_and_leave_no_memory() {
        let id = |serial| ConnectionId { index: 0, serial };
        let client = ClientAddress::of_proxy_header("203.0.113.7".parse().unwrap());
        let mut clients = NamedClients::default();
        (0..10_000).for_each(|serial| clients.add(id(serial), client));
        assert_eq!((clients.of(id(7)), clients.of(id(10_000))), (Some(client), None));
        for serial in 0..10_000 {
            assert_eq!((clients.take(id(serial)), clients.take(id(serial))), (Some(client), None));
        }
        assert!(clients.of(id(7)).is_none() && clients.0.capacity() <= SMALL_TABLE);
    }
}
