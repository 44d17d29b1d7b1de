//! Writes replies and deliveries directly to the socket. A task per slow connection sends the bytes that its socket did
//! not accept.

use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;

use super::Worker;
use crate::connection::{Connection, Delivery, Phase, Written};
use crate::fanout::Deliveries;
use crate::protocol::Missed;

/// Writes before other tasks run: about a millisecond at some 7 µs per write.
const WRITES_PER_TURN: usize = 128;
/// A client that does not read the bytes that wait for it within this time is disconnected, because they take memory.
const OUTBOX_DEADLINE: Duration = Duration::from_secs(30);
/// Many bytes have a longer deadline: one second more per this many bytes, some 256 kbit/s.
const SLOWEST_BYTES_PER_SECOND: usize = 32 * 1024;

impl Worker {
    /// Sends replies. Empties the buffer.
    pub(super) fn reply(self: &Rc<Self>, connection: &Rc<Connection>, replies: &mut BytesMut) {
        let written = connection.reply(replies);
        self.send_later(connection, written);
    }

    /// Writes all deliveries of a tick.
    pub(super) async fn deliver(self: &Rc<Self>, deliveries: &Deliveries) {
        let mut frames = Vec::new();
        for (turn, (connection, planned)) in deliveries.by_connection().enumerate() {
            if turn % WRITES_PER_TURN == WRITES_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
            if connection.phase.get() == Phase::Dead {
                continue;
            }
            let fanout = self.fanout.borrow();
            frames.clear();
            frames.extend(
                planned.clone().filter(|(_, origin)| fanout.is_due(connection, *origin)).map(|(frame, _)| frame),
            );
            drop(fanout);
            if frames.is_empty() {
                continue;
            }
            let missed = connection.protocol.rules().missed;
            let mut delivery = connection.deliver(&frames);
            if delivery == Delivery::Busy && missed == Missed::Queue {
                delivery = connection.wait_behind(&frames);
            }
            match (delivery, missed) {
                (Delivery::Accepted(written), _) => {
                    self.send_later(connection, written);
                    self.counters.deliveries.add(frames.len() as u64);
                    self.counters.delivered_bytes.add(frames.iter().map(|frame| frame.len() as u64).sum());
                }
                (Delivery::Busy, Missed::Queue) => {
                    self.counters.connections_too_slow.add(1);
                    connection.abort();
                }
                (Delivery::Busy, Missed::Snapshot) => {
                    self.counters.deliveries_skipped.add(frames.len() as u64);
                    let mut fanout = self.fanout.borrow_mut();
                    planned.for_each(|(_, origin)| fanout.missed(connection, *origin));
                }
            }
        }
    }

    /// Starts the task that sends the waiting bytes, if there is none.
    pub(super) fn send_later(self: &Rc<Self>, connection: &Rc<Connection>, written: Written) {
        if written == Written::Blocked {
            tokio::task::spawn_local(send_outbox(Rc::clone(connection), Rc::clone(self)));
        }
    }
}

/// Sends the waiting bytes to a slow socket. Ends when the outbox is empty.
async fn send_outbox(connection: Rc<Connection>, worker: Rc<Worker>) {
    let mut due = connection.unsent_bytes();
    while due > 0 {
        let deadline = OUTBOX_DEADLINE + Duration::from_secs((due / SLOWEST_BYTES_PER_SECOND) as u64);
        match tokio::time::timeout(deadline, send(&connection, &worker, due)).await {
            // Bytes that were queued in the meantime have their own deadline.
            Ok(left) => due = left,
            Err(_) => {
                worker.counters.connections_too_slow.add(1);
                connection.abort();
                break;
            }
        }
    }
    connection.drop_outbound();
    match connection.phase.get() {
        Phase::Failed => connection.finish_writing(),
        Phase::Open => worker.fanout.borrow_mut().catch_up(&connection),
        Phase::Closing | Phase::Dead => {}
    }
}

/// Writes this many bytes of the outbox as the socket accepts them. Returns the number of bytes that wait then; 0 if
/// the connection has ended.
async fn send(connection: &Rc<Connection>, worker: &Rc<Worker>, mut due: usize) -> usize {
    while due > 0 {
        if connection.phase.get() == Phase::Dead || connection.writable().await.is_err() {
            return 0;
        }
        let written = connection.flush();
        due = due.saturating_sub(written);
        if written > 0 && connection.phase.get() == Phase::Open {
            worker.sign_of_life(connection, worker.node.now()); // The client's system acknowledges bytes.
        }
        if !connection.must_wait(None) {
            connection.wake_reader();
        }
    }
    connection.unsent_bytes()
}
