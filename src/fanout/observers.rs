//! The observers of one room on one worker: attached observers receive each change, pending ones wait for a snapshot.

use std::ops::Range;
use std::sync::Arc;

use slab::Slab;

use super::deliveries::{Deliveries, Origin};
use super::exceptions::{Exception, Exceptions};
use super::{FrameIndexes, Numbers};
use crate::broadcast::encoder::EncodedMessages;
use crate::broadcast::{AudienceFrames, MessageFrames, RoomFrames};
use crate::connection::{Connection, ConnectionId, Connections, ObserverState, Subscription, find_connection};
use crate::presence::{Audience, MAX_AUDIENCES, Registry, Room};
use crate::protocol::Protocol;

#[derive(Debug, Default)]
pub(super) struct RoomObservers {
    attached: [Slab<ConnectionId>; MAX_AUDIENCES],
    pending: Slab<Pending>,
}

/// An observer that waits for a snapshot, or for the diffs that it missed.
#[derive(Debug)]
pub(super) struct Pending {
    of: Observer,
    /// Frames of a later generation serve it: they include everything that this connection did before its request.
    pub(super) generation: u64,
    /// The last diff that the client has, if it resumes.
    pub(super) since: Option<u64>,
    /// Why it waits.
    cause: Cause,
    /// Whether it was not served because bytes wait for its socket. It requests the list again when they are sent.
    is_put_off: bool,
}

/// A connection that observes a room.
#[derive(Debug, Clone, Copy)]
pub(super) struct Observer {
    pub(super) connection: ConnectionId,
    pub(super) protocol: Protocol,
    pub(super) audience: Audience,
}

impl Pending {
    pub(super) fn new(of: Observer, generation: u64, cause: Cause) -> Self {
        Self { of, generation, since: None, cause, is_put_off: false }
    }

    /// Whether it receives the messages of the room while it waits.
    fn keeps_messages(&self) -> bool {
        self.cause != Cause::First && self.of.protocol.keeps_messages()
    }
}

/// Why an observer waits for a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The client began to observe the room.
    First,
    /// The client asked for it although it observed the room already.
    Repeat,
    /// The server skipped changes because the client was slow.
    Skipped,
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

    /// Whether the pending observer in this slot receives the messages of the room while it waits.
    pub(super) fn keeps_messages(&self, slot: u32) -> bool {
        self.pending.get(slot as usize).is_some_and(Pending::keeps_messages)
    }

    /// Requests a list for the pending observer in this slot, if it was put off.
    pub(super) fn request_again(&mut self, slot: u32, registry: &Registry, room: &Arc<Room>) {
        if let Some(pending) = self.pending.get_mut(slot as usize).filter(|pending| pending.is_put_off) {
            pending.is_put_off = false;
            pending.generation = registry.request_snapshot(room, pending.of.audience, true);
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
        numbers: &Numbers,
        connections: &mut Connections,
        deliveries: &mut Deliveries,
    ) {
        let mut messages = [MessageIndexes::default(); MAX_AUDIENCES];
        let mut exceptions = Exceptions::default();
        for AudienceFrames { audience, changes, messages: own, .. } in &frames.audiences {
            let indexes = &mut messages[audience.index()];
            *indexes = own.as_ref().map_or_else(Default::default, |own| plan_messages(frames, own, deliveries));
            if let Some(own) = own {
                exceptions.plan(frames.room.id(), (*audience, own), numbers, deliveries);
            }
            let attached = &self.attached[audience.index()];
            if attached.is_empty() {
                continue;
            }
            let change = changes.as_ref().map(|frame| deliveries.presence(frame, frames));
            let all: FrameIndexes = [indexes.before, change, indexes.after].into_iter().flatten().collect();
            if all.is_empty() {
                continue;
            }
            // All frames of one observer together, so that they go out in one write, or none of them does.
            for (_, connection) in attached {
                match exceptions.of(*audience, *connection) {
                    Some(own) => {
                        let all = own.before.iter().copied().chain(change).chain(own.after.iter().copied());
                        all.for_each(|frame| deliveries.push(*connection, frame));
                    }
                    None => all.iter().for_each(|frame| deliveries.push(*connection, *frame)),
                }
            }
        }
        if self.pending.is_empty() {
            return;
        }
        // A connection that waits for a list receives the messages of each tick, before or after the list.
        self.plan_kept(&exceptions, |audience| messages[audience.index()].before, |own| &own.before, deliveries);
        self.serve_pending(registry, frames, (&messages, &exceptions), connections, deliveries);
        self.plan_kept(&exceptions, |audience| messages[audience.index()].after, |own| &own.after, deliveries);
        if self.pending.is_empty() {
            self.pending = Slab::new(); // Most rooms have no newcomers for long.
        }
    }

    /// Plans a part of the messages for the pending observers that keep them.
    fn plan_kept(
        &self,
        exceptions: &Exceptions,
        shared: impl Fn(Audience) -> Option<u32>,
        own: impl Fn(&Exception) -> &FrameIndexes,
        deliveries: &mut Deliveries,
    ) {
        for (_, pending) in self.pending.iter().filter(|(_, pending)| pending.keeps_messages()) {
            let Observer { connection, audience, .. } = pending.of;
            match exceptions.of(audience, connection) {
                Some(exception) => own(exception).iter().for_each(|frame| deliveries.push(connection, *frame)),
                None => shared(audience).into_iter().for_each(|frame| deliveries.push(connection, frame)),
            }
        }
    }

    /// Attaches the observers that these frames serve, and plans their first frames.
    fn serve_pending(
        &mut self,
        registry: &Registry,
        frames: &RoomFrames,
        (messages, exceptions): (&[MessageIndexes; MAX_AUDIENCES], &Exceptions),
        connections: &mut Connections,
        deliveries: &mut Deliveries,
    ) {
        let mut pages: [Vec<u32>; MAX_AUDIENCES] = Default::default();
        for slot in self.served_by(frames) {
            let audience = self.pending[slot].of.audience;
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
            if self.puts_off(slot, connections) {
                continue;
            }
            let whole = &mut pages[audience.index()];
            if whole.is_empty() {
                let snapshot = snapshot.pages.iter().map(|page| deliveries.presence(page, frames));
                // Without the messages of members who leave in this tick: the snapshot does not have these members.
                *whole = snapshot.chain(after).collect();
            }
            let is_new = self.pending[slot].cause != Cause::Skipped;
            let known = if is_new { 0 } else { snapshot.for_new };
            let (pages, shared) = whole.split_at(whole.len() - usize::from(after.is_some()));
            let pages = &pages[..pages.len() - known];
            let own = exceptions.of(audience, self.pending[slot].of.connection);
            let own = own.map(|own| if is_new { &*own.after_snapshot } else { &*own.after });
            if own.is_some() || known > 0 {
                let first = [pages, own.unwrap_or(shared)].concat();
                self.attach(slot, &first, frames, connections, deliveries);
                continue;
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

    /// Whether a list must wait because bytes wait for the socket of its observer. Only for clients for which messages
    /// wait: others miss the list and request it again.
    fn puts_off(&mut self, slot: usize, connections: &Connections) -> bool {
        let Pending { of, is_put_off, .. } = &mut self.pending[slot];
        if of.protocol.replaces_members(of.audience) {
            let connection = connections.get(of.connection.index as usize).filter(|known| known.id == of.connection);
            *is_put_off = connection.is_some_and(Connection::is_blocked);
        }
        *is_put_off
    }

    /// The page and the bytes of a pending observer's own entry in the snapshot, if its protocol leaves the own entry
    /// out. Only snapshots have to be cut: clients of such protocols are members as long as they observe, so no later
    /// change is about their own user.
    fn own_entry(&self, slot: usize, frames: &RoomFrames, connections: &Connections) -> Option<(usize, Range<usize>)> {
        let Observer { connection, audience, .. } = &self.pending[slot].of;
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
        let Pending { of: Observer { connection, audience, .. }, cause, .. } = self.pending.remove(slot);
        let slot = self.attached[audience.index()].insert(connection) as u32;
        if let Some(connection) = find_connection(connections, connection)
            && let Some(subscription) = find(&mut connection.subscriptions, frames.room.name())
        {
            subscription.state = ObserverState::Attached(slot);
        }
        match cause {
            Cause::Skipped => first.iter().for_each(|frame| deliveries.push(connection, *frame)),
            Cause::First | Cause::Repeat => {
                deliveries.push_requested(connection, first, frames.room.id(), cause == Cause::Repeat);
            }
        }
    }
}

fn plan_messages(frames: &RoomFrames, messages: &MessageFrames, deliveries: &mut Deliveries) -> MessageIndexes {
    let mut add = |part: &Option<EncodedMessages>| {
        part.as_ref().map(|part| deliveries.add(part.frames.clone(), Origin::Messages(frames.room.id())))
    };
    MessageIndexes { before: add(&messages.before_changes), after: add(&messages.after_changes) }
}

pub(super) fn position(subscriptions: &[Subscription], room: &str) -> Option<usize> {
    subscriptions.iter().position(|subscription| subscription.room.is_named(room))
}

pub(super) fn find<'a>(subscriptions: &'a mut [Subscription], room: &str) -> Option<&'a mut Subscription> {
    subscriptions.iter_mut().find(|subscription| subscription.room.is_named(room))
}
