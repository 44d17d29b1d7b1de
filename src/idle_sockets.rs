//! HTTP connections that wait for their next request, oldest first: those that are closed when sockets get scarce.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The idle HTTP connections of a node. HTTP threads add and remove theirs; workers that have no socket left for a new
/// client close the oldest.
#[derive(Debug, Default)]
pub struct IdleSockets(Mutex<Idle>);

#[derive(Debug, Default)]
struct Idle {
    /// By number: a connection that became idle later has a greater one.
    sockets: BTreeMap<u64, Arc<Notify>>,
    next: u64,
}

impl IdleSockets {
    /// Adds a connection that became idle. `close` tells it to close. Returns its number.
    pub fn add(&self, close: &Arc<Notify>) -> u64 {
        let mut idle = self.0.lock();
        let number = idle.next;
        idle.next += 1;
        idle.sockets.insert(number, Arc::clone(close));
        number
    }

    /// Removes a connection that is no longer idle.
    pub fn remove(&self, number: u64) {
        self.0.lock().sockets.remove(&number);
    }

    /// Tells the connection that has been idle for the longest time to close.
    pub fn close_oldest(&self) {
        let oldest = self.0.lock().sockets.pop_first();
        if let Some((_, close)) = oldest {
            close.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn the_oldest_idle_connection_is_closed_first() {
        let sockets = IdleSockets::default();
        let close: Vec<_> = (0..3).map(|_| Arc::new(Notify::new())).collect();
        let numbers: Vec<_> = close.iter().map(|close| sockets.add(close)).collect();
        let closed = || -> Vec<bool> {
            let mut context = Context::from_waker(Waker::noop());
            close.iter().map(|close| pin!(close.notified()).poll(&mut context).is_ready()).collect()
        };
        // The first has a request and becomes idle again: now it is the youngest.
        sockets.remove(numbers[0]);
        sockets.add(&close[0]);
        sockets.close_oldest();
        assert_eq!(closed(), [false, true, false]);
        sockets.close_oldest();
        assert_eq!(closed(), [false, false, true]);
        sockets.close_oldest();
        sockets.close_oldest();
        assert_eq!(closed(), [true, false, false]);
        assert!(sockets.0.lock().sockets.is_empty());
    }
}
