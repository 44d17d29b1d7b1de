//! Heartbeats in the background, evenly over all connections, for servers that end a silent presence. No clock in here.

use std::time::Duration;

use crate::connection::Offer;
use crate::crowd::Crowd;

/// Each slot once an interval.
pub(crate) struct Keepalive {
    frame: Vec<u8>,
    interval_ns: u64,
    slots: u64,
    next: u64,
    pub(crate) sent: u64,
}

impl Keepalive {
    pub(crate) fn new(crowd: &Crowd, slots: usize, interval: Duration) -> Self {
        let interval_ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        Self { frame: crowd.dialect.heartbeat(false), interval_ns, slots: slots as u64, next: 0, sent: 0 }
    }

    /// When the next heartbeat is due, in nanoseconds since the start.
    pub(crate) fn next_ns(&self) -> u64 {
        let exact = u128::from(self.next) * u128::from(self.interval_ns) / u128::from(self.slots);
        u64::try_from(exact).unwrap_or(u64::MAX)
    }

    /// Sends what is due. A slot without a connection, or one that takes nothing, goes without.
    pub(crate) fn send_due(&mut self, elapsed_ns: u64, crowd: &mut Crowd) {
        while self.next_ns() <= elapsed_ns {
            let slot = (self.next % self.slots) as usize;
            self.next += 1;
            self.sent += u64::from(crowd.engine.offer(slot, &self.frame) == Offer::Taken);
        }
    }
}
