//! Who looks at which room on this worker, and what each of them is told of a batch.
//!
//! A batch becomes a list of (connection, frame) first, here, and writes second, in `deliveries`. Who watches users by name stands
//! in `watching`.

mod deliveries;
mod watchers;

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use slab::Slab;
use smallvec::SmallVec;

use crate::broadcast::{Batch, RoomFrames};
use crate::connection::{Connection, ObserverState, Subscription};
use crate::presence::{AUDIENCES, Audience, Room};
use crate::protocol::Resume;
use crate::worker::Worker;
use deliveries::Origin;
use watchers::Watching;

pub use deliveries::Deliveries;
pub use watchers::MAX_WATCHED_PER_CONNECTION;

/// The observers of all rooms on this worker, and those who watch users by name.
#[derive(Debug, Default)]
pub struct Fanout {
    rooms: HashMap<u64, RoomObservers, RandomState>,
    watching: Watching,
}

#[derive(Debug, Default)]
struct RoomObservers {
    attached: [Slab<Rc<Connection>>; AUDIENCES],
    pending: Slab<Pending>,
}

/// An observer that waits for its first update.
#[derive(Debug)]
struct Pending {
    connection: Rc<Connection>,
    audience: Audience,
    /// Served by an update of a later generation: that one has seen what this connection did before it asked.
    generation: u64,
    /// The diff after which the client wants to go on, if history will do.
    since: Option<u64>,
}

impl Fanout {
    /// Notes that the connection's session is a member of a room.
    pub fn joined(&mut self, connection: &Connection, room: &Arc<Room>) {
        connection.with_subscriptions(|subscriptions| match find(subscriptions, room.name()) {
            Some(subscription) => subscription.joined = true,
            None => subscriptions.push(Subscription {
                room: Arc::clone(room),
                joined: true,
                audience: Audience::Members,
                place: ObserverState::Nowhere,
            }),
        });
    }

    /// Notes that it is not any more, and ends its looking.
    pub fn left(&mut self, worker: &Worker, connection: &Rc<Connection>, room: &str) {
        let subscription = connection.with_subscriptions(|rooms| rooms.remove(position(rooms, room)?));
        if let Some(subscription) = subscription {
            self.detach(worker, &subscription);
        }
    }

    /// Starts to look at a room, or anew: with a snapshot, or with the diffs since what the client has.
    pub fn observe(
        &mut self,
        worker: &Worker,
        connection: &Rc<Connection>,
        room: &str,
        audience: Audience,
        resume: Option<Resume<'_>>,
    ) {
        let registry = &worker.node.registry;
        let attachment = registry.observe(room, worker.number, audience, resume.is_none());
        let since = resume.filter(|resume| audience == Audience::Members && *resume.epoch == *attachment.room.epoch());
        let since = since.map(|resume| resume.seq);
        if resume.is_some() && since.is_none() {
            registry.ask(&attachment.room, audience, true);
        }
        connection.with_subscriptions(|subscriptions| {
            let mut joined = false;
            if let Some(before) = position(subscriptions, room).and_then(|at| subscriptions.remove(at)) {
                self.detach(worker, &before);
                joined = before.joined;
            }
            let (id, generation) = (attachment.room.id(), attachment.generation);
            let pending = Pending { connection: Rc::clone(connection), audience, generation, since };
            let place = self.rooms.entry(id).or_default().wait(pending);
            subscriptions.push(Subscription { room: attachment.room, joined, audience, place });
        });
    }

    /// Stops looking; a member stays one. False if the connection did not look.
    pub fn unobserve(&mut self, worker: &Worker, connection: &Rc<Connection>, room: &str) -> bool {
        connection.with_subscriptions(|subscriptions| {
            let observed =
                position(subscriptions, room).filter(|at| subscriptions[*at].place != ObserverState::Nowhere);
            let Some(at) = observed else { return false };
            self.detach(worker, &subscriptions[at]);
            subscriptions[at].place = ObserverState::Nowhere;
            if !subscriptions[at].joined {
                subscriptions.remove(at);
            }
            true
        })
    }

    /// Puts an observer back in line for a snapshot. False if the connection does not look at the room.
    pub fn resync(&mut self, worker: &Worker, connection: &Rc<Connection>, room: &str) -> bool {
        connection.with_subscriptions(|subscriptions| {
            let observed =
                find(subscriptions, room).filter(|subscription| subscription.place != ObserverState::Nowhere);
            observed.map(|subscription| self.line_up(worker, connection, subscription)).is_some()
        })
    }

    /// Watches users by name. False if that would be too many for one connection.
    pub fn watch(&mut self, worker: &Worker, connection: &Rc<Connection>, users: &[&str]) -> bool {
        self.watching.watch(worker, connection, users)
    }

    /// Watches them no longer.
    pub fn unwatch(&mut self, worker: &Worker, connection: &Rc<Connection>, users: &[&str]) {
        self.watching.unwatch(worker, connection, users);
    }

    /// Puts everything that a slow connection missed back in line.
    pub fn catch_up(&mut self, worker: &Worker, connection: &Rc<Connection>) {
        self.watching.catch_up(worker, connection);
        connection.with_subscriptions(|subscriptions| {
            for subscription in subscriptions.iter_mut() {
                if matches!(subscription.place, ObserverState::Lagging(_)) {
                    self.line_up(worker, connection, subscription);
                }
            }
        });
    }

    /// Ends all looking and watching of a connection that is going.
    pub fn forget(&mut self, worker: &Worker, connection: &Rc<Connection>) {
        self.watching.forget(worker, connection);
        for subscription in connection.with_subscriptions(std::mem::take).iter() {
            self.detach(worker, subscription);
        }
    }

    /// Takes an observer from where it stands and has it wait for a snapshot; the room goes on counting it.
    fn line_up(&mut self, worker: &Worker, connection: &Rc<Connection>, subscription: &mut Subscription) {
        self.remove(subscription);
        let audience = subscription.audience;
        let generation = worker.node.registry.ask(&subscription.room, audience, true);
        let pending = Pending { connection: Rc::clone(connection), audience, generation, since: None };
        subscription.place = self.rooms.entry(subscription.room.id()).or_default().wait(pending);
    }

    /// Takes an observer from where it stands and tells the room.
    fn detach(&mut self, worker: &Worker, subscription: &Subscription) {
        if subscription.place != ObserverState::Nowhere {
            self.remove(subscription);
            worker.node.registry.unobserve(&subscription.room, worker.number, subscription.audience);
        }
    }

    fn remove(&mut self, subscription: &Subscription) {
        let id = subscription.room.id();
        let Some(observers) = self.rooms.get_mut(&id) else { return };
        match subscription.place {
            ObserverState::Nowhere => {}
            ObserverState::Pending(slot) => drop(observers.pending.remove(slot as usize)),
            ObserverState::Attached(slot) | ObserverState::Lagging(slot) => {
                observers.attached[subscription.audience as usize].remove(slot as usize);
            }
        }
        if observers.pending.is_empty() && observers.attached.iter().all(Slab::is_empty) {
            self.rooms.remove(&id);
        }
    }

    /// Turns a batch into writes, and attaches those who waited for it.
    pub fn plan(&mut self, worker: &Worker, batch: &Batch) -> Deliveries {
        let mut deliveries = Deliveries::default();
        for update in &batch.updates {
            let Some(observers) = self.rooms.get_mut(&update.room.id()) else { continue };
            let said = RoomMessage::plan(update, &mut deliveries);
            for audience in Audience::ALL {
                let change = update.changes[audience as usize].as_ref().map(|frame| deliveries.frame(frame, update));
                let (before, after) = said.around(audience);
                let frames: SmallVec<[u32; 3]> = [before, change, after].into_iter().flatten().collect();
                let attached = &observers.attached[audience as usize];
                // All of one observer together, so that they go out in one write, or none of them does.
                for (_, connection) in attached.iter().filter(|_| !frames.is_empty()) {
                    deliveries.list.extend(frames.iter().map(|frame| (Rc::clone(connection), *frame)));
                }
            }
            observers.serve_pending(worker, update, said, &mut deliveries);
        }
        for (connection, status) in self.watching.plan(worker, &batch.status_frames) {
            let frame = deliveries.add(status, Origin::Watched);
            deliveries.list.push((connection, frame));
        }
        if batch.updates.len() + batch.status_frames.len() > 1 {
            // Stable, so that the frames of one connection stay in order and come to stand together.
            deliveries.list.sort_by_key(|(connection, _)| connection.id.index);
        }
        deliveries
    }
}

impl RoomObservers {
    fn wait(&mut self, pending: Pending) -> ObserverState {
        ObserverState::Pending(self.pending.insert(pending) as u32)
    }

    /// Attaches those whom this update serves, and plans what they get first.
    fn serve_pending(&mut self, worker: &Worker, update: &RoomFrames, said: RoomMessage, deliveries: &mut Deliveries) {
        let mut pages: [Vec<u32>; AUDIENCES] = Default::default();
        for slot in self.waiting_for(update) {
            let audience = self.pending[slot].audience;
            if let Some(since) = self.pending[slot].since.take() {
                match update.room.read(|roster| roster.history(since, update.seq)) {
                    Some(missed) => {
                        let missed = missed.iter().map(|frame| deliveries.frame(frame, update));
                        let frames: Vec<u32> = missed.chain(said.after).collect();
                        self.attach(slot, &frames, update, deliveries);
                    }
                    None => self.pending[slot].generation = worker.node.registry.ask(&update.room, audience, true),
                }
                continue;
            }
            // Without a snapshot in it: that was put off, and the room is visited again.
            let Some(snapshot) = &update.snapshots[audience as usize] else { continue };
            let whole = &mut pages[audience as usize];
            if whole.is_empty() {
                let snapshot = snapshot.iter().map(|page| deliveries.frame(page, update));
                // What those who have just left said is nothing to somebody who has not seen them.
                *whole = snapshot.chain(said.around(audience).1).collect();
            }
            match self.span_of(slot, update) {
                Some((page, own)) => {
                    let around = deliveries.frames_around(&snapshot[page], own, update);
                    let frames = [&whole[..page], &around, &whole[page + 1..]].concat();
                    self.attach(slot, &frames, update, deliveries);
                }
                None => self.attach(slot, whole, update, deliveries),
            }
        }
    }

    /// Where the snapshot tells a waiting observer of itself, if its audience is not to be told that. Only there: as long as it
    /// looks it is a member, so that no later change is about its user.
    fn span_of(&self, slot: usize, update: &RoomFrames) -> Option<(usize, Range<usize>)> {
        let Pending { connection, audience, .. } = &self.pending[slot];
        let session = connection.session.get().filter(|_| *audience == Audience::Events)?;
        update.spans.find(session.user())
    }

    fn waiting_for(&self, update: &RoomFrames) -> Vec<usize> {
        let served = self.pending.iter().filter(|(_, pending)| pending.generation < update.generation);
        served.map(|(slot, _)| slot).collect()
    }

    fn attach(&mut self, slot: usize, frames: &[u32], update: &RoomFrames, deliveries: &mut Deliveries) {
        let Pending { connection, audience, .. } = self.pending.remove(slot);
        let slot = self.attached[audience as usize].insert(Rc::clone(&connection)) as u32;
        connection.with_subscriptions(|subscriptions| {
            if let Some(subscription) = find(subscriptions, update.room.name()) {
                subscription.place = ObserverState::Attached(slot);
            }
        });
        deliveries.list.extend(frames.iter().map(|frame| (Rc::clone(&connection), *frame)));
    }
}

/// The frames of what was said in a room, for those who see it as messages.
#[derive(Debug, Clone, Copy)]
struct RoomMessage {
    before: Option<u32>,
    after: Option<u32>,
}

impl RoomMessage {
    fn plan(update: &RoomFrames, deliveries: &mut Deliveries) -> Self {
        let mut plan = |frames: &Option<Bytes>| {
            let frames = frames.as_ref()?;
            Some(deliveries.add(frames.clone(), Origin::RoomMessage(update.room.id())))
        };
        Self { before: plan(&update.said.before_changes), after: plan(&update.said.after_changes) }
    }

    /// What comes before the changes of the room, and what behind them.
    fn around(self, audience: Audience) -> (Option<u32>, Option<u32>) {
        match audience {
            Audience::Members | Audience::Count => (self.before, self.after),
            Audience::Names | Audience::Events | Audience::Talk => (None, None),
        }
    }
}

fn position(subscriptions: &[Subscription], room: &str) -> Option<usize> {
    subscriptions.iter().position(|subscription| subscription.room.is_named(room))
}

fn find<'a>(subscriptions: &'a mut [Subscription], room: &str) -> Option<&'a mut Subscription> {
    subscriptions.iter_mut().find(|subscription| subscription.room.is_named(room))
}
