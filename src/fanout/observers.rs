//! The observers of one room on one worker: attached observers receive each change, pending ones wait for a snapshot.

use std::ops::Range;

use bytes::Bytes;
use slab::Slab;

use super::FrameIndexes;
use super::deliveries::{Deliveries, Origin};
use crate::broadcast::{AudienceFrames, MessageFrames, RoomFrames};
use crate::connection::{ConnectionId, Connections, ObserverState, Subscription, find_connection};
use crate::presence::{Audience, MAX_AUDIENCES, Registry};

#[derive(Debug, Default)]
pub(super) struct RoomObservers {
    attached: [Slab<ConnectionId>; MAX_AUDIENCES],
    pending: Slab<Pending>,
}

/// An observer that waits for a snapshot, or for the diffs that it missed.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) connection: ConnectionId,
    pub(super) audience: Audience,
    /// Frames of a later generation serve it: they include everything that this connection did before its request.
    pub(super) generation: u64,
    /// The last diff that the client has, if it resumes.
    pub(super) since: Option<u64>,
}

/// The indexes of the message frames to send before and after the changes.
#[derive(Debug, Clone, Copy, Default)]
struct MessageIndexes {
    before: Option<u32>,
    after: Option<u32>,
}

impl RoomObservers {
    pub(super) fn wait(&mut self, pending: Pending) -> ObserverState {
        ObserverState::Pending(self.pending.insert(pending) as u32)
    }

    pub(super) fn remove(&mut self, subscription: &Subscription) {
        match subscription.state {
            ObserverState::Absent => {}
            ObserverState::Pending(slot) => drop(self.pending.try_remove(slot as usize)),
            ObserverState::Attached(slot) | ObserverState::Lagging(slot) => {
                self.attached[subscription.audience.index()].try_remove(slot as usize);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.attached.iter().all(Slab::is_empty)
    }

    /// Adds the frames of this room to the deliveries.
    pub(super) fn plan(
        &mut self,
        registry: &Registry,
        frames: &RoomFrames,
        connections: &mut Connections,
        deliveries: &mut Deliveries,
    ) {
        let mut messages = [MessageIndexes::default(); MAX_AUDIENCES];
        for AudienceFrames { audience, changes, messages: own, .. } in &frames.audiences {
            let numbers = &mut messages[audience.index()];
            *numbers = own.as_ref().map_or_else(Default::default, |own| plan_messages(frames, own, deliveries));
            let attached = &self.attached[audience.index()];
            if attached.is_empty() {
                continue;
            }
            let change = changes.as_ref().map(|frame| deliveries.presence(frame, frames));
            let all: FrameIndexes = [numbers.before, change, numbers.after].into_iter().flatten().collect();
            // All frames of one observer together, so that they go out in one write, or none of them does.
            for (_, connection) in attached.iter().filter(|_| !all.is_empty()) {
                all.iter().for_each(|frame| deliveries.push(*connection, *frame));
            }
        }
        self.serve_pending(registry, frames, &messages, connections, deliveries);
    }

    /// Attaches the observers that these frames serve, and plans their first frames.
    fn serve_pending(
        &mut self,
        registry: &Registry,
        frames: &RoomFrames,
        messages: &[MessageIndexes; MAX_AUDIENCES],
        connections: &mut Connections,
        deliveries: &mut Deliveries,
    ) {
        let mut pages: [Vec<u32>; MAX_AUDIENCES] = Default::default();
        for slot in self.served_by(frames) {
            let audience = self.pending[slot].audience;
            let after = messages[audience.index()].after;
            if let Some(since) = self.pending[slot].since.take() {
                match frames.room.read(|roster| roster.history(since, frames.seq)) {
                    Some(missed) => {
                        let missed = missed.iter().map(|frame| deliveries.presence(frame, frames));
                        let first: Vec<u32> = missed.chain(after).collect();
                        self.attach(slot, &first, frames, connections, deliveries);
                    }
                    None => {
                        self.pending[slot].generation = registry.request_snapshot(&frames.room, audience, true);
                    }
                }
                continue;
            }
            // If there is none, it was deferred: a later tick settles the room again.
            let Some(snapshot) = frames.snapshot(audience) else { continue };
            let whole = &mut pages[audience.index()];
            if whole.is_empty() {
                let snapshot = snapshot.pages.iter().map(|page| deliveries.presence(page, frames));
                // Without the messages of members who leave in this tick: the snapshot does not have these members.
                *whole = snapshot.chain(after).collect();
            }
            match self.own_entry(slot, frames, connections) {
                Some((page, own)) => {
                    let around = deliveries.presence_around(&snapshot.pages[page], own, frames);
                    let first = [&whole[..page], &around, &whole[page + 1..]].concat();
                    self.attach(slot, &first, frames, connections, deliveries);
                }
                None => self.attach(slot, whole, frames, connections, deliveries),
            }
        }
    }

    /// The page and the bytes of a pending observer's own entry in the snapshot, if its protocol leaves the own entry
    /// out. Only snapshots have to be cut: clients of such protocols are members as long as they observe, so no later
    /// change is about their own user.
    fn own_entry(&self, slot: usize, frames: &RoomFrames, connections: &Connections) -> Option<(usize, Range<usize>)> {
        let Pending { connection, audience, .. } = &self.pending[slot];
        let spans = frames.snapshot(*audience)?.spans.as_ref()?;
        let connection = connections.get(connection.index as usize).filter(|known| known.id == *connection)?;
        spans.find(connection.session()?.user())
    }

    fn served_by(&self, frames: &RoomFrames) -> Vec<usize> {
        let served = self.pending.iter().filter(|(_, pending)| pending.generation < frames.generation);
        served.map(|(slot, _)| slot).collect()
    }

    /// Attaches a pending observer, and plans its first frames.
    fn attach(
        &mut self,
        slot: usize,
        first: &[u32],
        frames: &RoomFrames,
        connections: &mut Connections,
        deliveries: &mut Deliveries,
    ) {
        let Pending { connection, audience, .. } = self.pending.remove(slot);
        let slot = self.attached[audience.index()].insert(connection) as u32;
        if let Some(connection) = find_connection(connections, connection)
            && let Some(subscription) = find(&mut connection.subscriptions, frames.room.name())
        {
            subscription.state = ObserverState::Attached(slot);
        }
        first.iter().for_each(|frame| deliveries.push(connection, *frame));
    }
}

fn plan_messages(frames: &RoomFrames, messages: &MessageFrames, deliveries: &mut Deliveries) -> MessageIndexes {
    let mut add = |frame: &Option<Bytes>| {
        frame.as_ref().map(|frame| deliveries.add(frame.clone(), Origin::Messages(frames.room.id())))
    };
    MessageIndexes { before: add(&messages.before_changes), after: add(&messages.after_changes) }
}

pub(super) fn position(subscriptions: &[Subscription], room: &str) -> Option<usize> {
    subscriptions.iter().position(|subscription| subscription.room.is_named(room))
}

pub(super) fn find<'a>(subscriptions: &'a mut [Subscription], room: &str) -> Option<&'a mut Subscription> {
    subscriptions.iter_mut().find(|subscription| subscription.room.is_named(room))
}
