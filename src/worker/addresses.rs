//! The addresses of clients that limits count, and for two ticks which clients have none. An arrival needs its address
//! when it is admitted, when it joins, and when it is sent its first snapshot, one or two ticks later. Each look-up
//! would be a system call.

use std::collections::HashMap;
use std::net::IpAddr;

use foldhash::fast::RandomState;

use crate::connection::{Connection, ConnectionId};
use crate::peer::PeerAddress;

/// Addresses by serial number of the connection; `None` for those that have no limits.
type ByConnection = HashMap<u32, Option<PeerAddress>, RandomState>;

/// The addresses that were looked up lately. Connections do not keep them: most never need theirs again.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// Looked up since the last tick.
    recent: ByConnection,
    /// Looked up in the tick before.
    before: ByConnection,
    /// Those of clients that have limits, by the slot of the connection. They are needed when a connection ends: the
    /// system may have forgotten its peer then. Clients on this machine take no memory here.
    kept: Vec<Entry>,
}

/// The bits of an address, inverted: zero, which stands for none, would be the network of `::1`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Entry(u128);

impl Addresses {
    /// Notes who the peer of a new connection is, as accepting it told: nobody has to ask the system.
    pub(super) fn accepted(&mut self, connection: ConnectionId, peer: IpAddr) {
        match PeerAddress::limited(peer) {
            Some(address) => self.set(connection, address),
            None => drop(self.recent.insert(connection.serial, None)),
        }
    }

    /// The address that was kept for a connection: always the same as when it was opened.
    pub(super) fn kept(&self, connection: ConnectionId) -> Option<PeerAddress> {
        let entry = self.kept.get(connection.index as usize).filter(|entry| **entry != Entry::default())?;
        Some(PeerAddress::from_bits(!entry.0))
    }

    /// Sets the address that counts for a connection.
    pub(super) fn set(&mut self, connection: ConnectionId, address: PeerAddress) {
        let slot = connection.index as usize;
        if slot >= self.kept.len() {
            self.kept.resize(slot + 1, Entry::default());
        }
        self.kept[slot] = Entry(!address.to_bits());
    }

    /// Forgets a connection, whose slot another one may take.
    pub(super) fn forget(&mut self, connection: ConnectionId) {
        if let Some(entry) = self.kept.get_mut(connection.index as usize) {
            *entry = Entry::default();
        }
    }

    /// The address, if it is known without a look-up.
    fn known(&self, connection: ConnectionId) -> Option<Option<PeerAddress>> {
        match self.kept(connection) {
            Some(address) => Some(Some(address)),
            None => self.recent.get(&connection.serial).or_else(|| self.before.get(&connection.serial)).copied(),
        }
    }

    /// The address of a connection that limits count, if any do. It is not kept.
    pub(super) fn limited(&self, connection: &Connection) -> Option<PeerAddress> {
        let look_up = || connection.stream().peer().and_then(PeerAddress::limited);
        self.known(connection.id).unwrap_or_else(look_up)
    }

    /// The same for a connection that came or pays: its address is kept for two ticks.
    pub(super) fn of(&mut self, connection: &Connection) -> Option<PeerAddress> {
        let serial = connection.id.serial;
        if let Some(known) = self.known(connection.id) {
            return known;
        }
        let address = connection.stream().peer().and_then(PeerAddress::limited);
        self.recent.insert(serial, address);
        address
    }

    /// A tick is done: forgets what was looked up before the last one.
    pub(super) fn end_tick(&mut self) {
        std::mem::swap(&mut self.recent, &mut self.before);
        self.recent.clear();
        self.recent.shrink_to(2 * self.before.len());
    }

    /// The number of connections that were looked up since the last tick.
    #[cfg(test)]
    pub(super) fn looked_up(&self) -> usize {
        self.recent.len()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::protocol::Protocol;
    use crate::websocket::stream::Transport;

    #[test]
    fn an_address_behind_a_proxy_replaces_that_of_the_peer_until_the_slot_is_free() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let id = ConnectionId { index: 3, serial: 7 };
        let connection = Connection::new(id, Protocol::ALL[0], Transport::from(stream), 0);
        let mut addresses = Addresses::default();
        assert_eq!(addresses.of(&connection), None, "the peer is this machine");
        for address in ["1.2.3.4", "127.0.0.1", "::1", "::", "2001:db8::1"] {
            let address = PeerAddress::of(address.parse().unwrap());
            addresses.set(id, address);
            assert_eq!((addresses.of(&connection), addresses.limited(&connection)), (Some(address), Some(address)));
        }
        addresses.forget(id);
        assert_eq!((addresses.of(&connection), addresses.limited(&connection)), (None, None));
        assert_eq!(size_of::<Entry>(), 16);
    }
}
