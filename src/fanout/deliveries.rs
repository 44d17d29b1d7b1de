//! The writes that a tick brings: which frames go to which connection, and what becomes of those that cannot take them.
//!
//! Several frames for one socket go in one call, and between some writes the worker yields, so that reads go on while many observers
//! are told.

use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;

use crate::broadcast::RoomFrames;
use crate::connection::{Connection, ObserverState, Phase, Subscription};
use crate::worker::Worker;

/// Sockets written to before other tasks get their turn: at some 7 µs each about a millisecond.
const WRITES_PER_TURN: usize = 128;

/// Frames of one batch and who gets them.
#[derive(Debug, Default)]
pub struct Deliveries {
    /// Each frame once; shared frames are counted once a worker, not once a receiver.
    frames: Vec<(Bytes, Origin)>,
    pub(super) list: Vec<(Rc<Connection>, u32)>,
}

/// Where a frame comes from: a room, by its number.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    /// Who is there. Whoever misses it needs a snapshot.
    Presence(u64),
    /// What was said there. Whoever misses it has missed it.
    RoomMessage(u64),
    /// Users who are watched by name. Whoever misses it is told anew of all whom it watches.
    Watched,
}

impl Deliveries {
    /// Adds a frame that tells who is there.
    pub(super) fn frame(&mut self, frame: &Bytes, update: &RoomFrames) -> u32 {
        self.add(frame.clone(), Origin::Presence(update.room.id()))
    }

    /// Adds a frame. Returns its number.
    pub(super) fn add(&mut self, frame: Bytes, origin: Origin) -> u32 {
        self.frames.push((frame, origin));
        (self.frames.len() - 1) as u32
    }

    /// What is left of a page when `cut` is taken out of it.
    pub(super) fn frames_around(&mut self, page: &Bytes, cut: Range<usize>, update: &RoomFrames) -> Vec<u32> {
        let around = [page.slice(..cut.start), page.slice(cut.end..)];
        around.iter().filter(|bytes| !bytes.is_empty()).map(|bytes| self.frame(bytes, update)).collect()
    }

    /// Writes it all.
    pub async fn write(self, worker: &Rc<Worker>) {
        let mut frames = Vec::new();
        for (turn, group) in self.list.chunk_by(|a, b| Rc::ptr_eq(&a.0, &b.0)).enumerate() {
            if turn % WRITES_PER_TURN == WRITES_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
            let connection = &group[0].0;
            if connection.phase.get() == Phase::Dead {
                continue;
            }
            // Since the plan was made the connection may have lagged and be waiting for a snapshot, or have left: what was
            // planned for it then would make a gap.
            let planned = group.iter().map(|(_, frame)| &self.frames[*frame as usize]);
            let due = planned.filter(|(_, origin)| match origin {
                Origin::Presence(room) | Origin::RoomMessage(room) => is_attached(connection, *room),
                Origin::Watched => worker.fanout.borrow().watching.is_told(connection),
            });
            frames.clear();
            frames.extend(due.map(|(frame, _)| frame));
            if frames.is_empty() {
                continue;
            }
            let stream = connection.protocol.is_stream();
            if connection.deliver(worker, &frames) || stream && connection.wait_behind(worker, &frames) {
                worker.counters.deliveries.add(frames.len() as u64);
                worker.counters.delivered_bytes.add(frames.iter().map(|frame| frame.len() as u64).sum());
            } else if stream {
                worker.counters.connections_too_slow.add(1);
                connection.abort();
            } else {
                worker.counters.deliveries_skipped.add(frames.len() as u64);
                for (_, frame) in group {
                    match self.frames[*frame as usize].1 {
                        Origin::Presence(room) => lag(connection, room),
                        Origin::RoomMessage(_) => {}
                        Origin::Watched => worker.fanout.borrow_mut().watching.lag(connection),
                    }
                }
            }
        }
    }
}

fn is_attached(connection: &Connection, room: u64) -> bool {
    let attached = |subscription: &Subscription| {
        subscription.room.id() == room && matches!(subscription.place, ObserverState::Attached(_))
    };
    connection.with_subscriptions(|subscriptions| subscriptions.iter().any(attached))
}

/// Notes that a connection missed something of a room.
fn lag(connection: &Connection, room: u64) {
    connection.with_subscriptions(|subscriptions| {
        if let Some(subscription) = subscriptions.iter_mut().find(|subscription| subscription.room.id() == room)
            && let ObserverState::Attached(slot) = subscription.place
        {
            subscription.place = ObserverState::Lagging(slot);
        }
    });
}
