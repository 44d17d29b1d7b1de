//! Background heartbeats, spread evenly over all connections, for servers that end the presence of silent clients.
//! Pure: the time is passed in.

use std::time::Duration;

use crate::clients::Clients;
use crate::schedule::nanos;

/// Each client sends one heartbeat per interval.
pub(crate) struct Keepalive {
    frame: Vec<u8>,
    interval_ns: u64,
    client_count: u64,
    /// The number of the next heartbeat.
    next: u64,
}

impl Keepalive {
    pub(crate) fn new(clients: &Clients, client_count: usize, interval: Duration) -> Self {
        let frame = clients.protocol.heartbeat(false);
        Self { frame, interval_ns: nanos(interval), client_count: client_count as u64, next: 0 }
    }

    /// When the next heartbeat is due, in nanoseconds since the start.
    pub(crate) fn next_ns(&self) -> u64 {
        let exact = u128::from(self.next) * u128::from(self.interval_ns) / u128::from(self.client_count);
        u64::try_from(exact).unwrap_or(u64::MAX)
    }

    /// Sends the heartbeats that are due. Clients without a connection, or with a full socket, are skipped.
    pub(crate) fn send_due(&mut self, elapsed_ns: u64, clients: &mut Clients) {
        while self.next_ns() <= elapsed_ns {
            let client = (self.next % self.client_count) as usize;
            self.next += 1;
            clients.engine.try_send(client, &self.frame);
        }
    }
}
