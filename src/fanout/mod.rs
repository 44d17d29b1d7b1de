//! The observers of each room on one worker. Turns a batch into a list of connections and frames, which the worker
//! writes.
//!
//! Connections that watch users by user id are in `watchers`.

mod deliveries;
mod observers;
mod watchers;

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::broadcast::Batch;
use crate::connection::{Connection, ConnectionId, Connections, ObserverState, Subscription};
use crate::node::Node;
use crate::presence::{Audience, Room};
use crate::protocol::{Resume, SessionNumber};
use observers::{Pending, RoomObservers, find, position};
use watchers::Watching;

pub use deliveries::{Deliveries, Origin};

/// The observers of all rooms on one worker, and its connections that watch users by user id.
#[derive(Debug)]
pub struct Fanout {
    node: Arc<Node>,
    worker: usize,
    rooms: HashMap<u64, RoomObservers, RandomState>,
    watching: Watching,
}

impl Fanout {
    /// The fanout of a worker, without observers.
    #[must_use]
    pub fn new(node: Arc<Node>, worker: usize) -> Self {
        let watching = Watching::new(Arc::clone(&node), worker);
        Self { node, worker, rooms: HashMap::default(), watching }
    }

    /// Records that a session of the connection is a member of a room.
    pub fn joined(&mut self, connection: &mut Connection, room: &Arc<Room>, session: SessionNumber) {
        match find(&mut connection.subscriptions, room.name()) {
            Some(subscription) => subscription.member = Some(session),
            None => connection.subscriptions.push(Subscription {
                room: Arc::clone(room),
                member: Some(session),
                audience: Audience::new(0),
                state: ObserverState::Absent,
            }),
        }
    }

    /// Records that the connection left a room, and stops observing it.
    pub fn left(&mut self, connection: &mut Connection, room: &str) {
        let rooms = &mut connection.subscriptions;
        if let Some(subscription) = position(rooms, room).and_then(|at| rooms.remove(at)) {
            self.detach(&subscription);
        }
    }

    /// Starts or restarts observing a room: with a snapshot, or with the diffs that the client missed.
    pub fn observe(&mut self, connection: &mut Connection, room: &str, audience: Audience, resume: Option<Resume<'_>>) {
        let registry = &self.node.registry;
        let attachment = registry.observe(room, self.worker, audience, resume.is_none());
        let since = resume.filter(|resume| *resume.epoch == *attachment.room.epoch()).map(|resume| resume.seq);
        if resume.is_some() && since.is_none() {
            registry.request_snapshot(&attachment.room, audience, true);
        }
        let rooms = &mut connection.subscriptions;
        let mut member = None;
        if let Some(previous) = position(rooms, room).and_then(|at| rooms.remove(at)) {
            self.detach(&previous);
            member = previous.member;
        }
        let (id, generation) = (attachment.room.id(), attachment.generation);
        let pending = Pending { connection: connection.id, audience, generation, since };
        let state = self.rooms.entry(id).or_default().wait(pending);
        connection.subscriptions.push(Subscription { room: attachment.room, member, audience, state });
    }

    /// Stops observing a room; a member stays a member. False if the connection did not observe it.
    pub fn unobserve(&mut self, connection: &mut Connection, room: &str) -> bool {
        let rooms = &mut connection.subscriptions;
        let observed = position(rooms, room).filter(|at| rooms[*at].state != ObserverState::Absent);
        let Some(at) = observed else { return false };
        self.detach(&rooms[at]);
        rooms[at].state = ObserverState::Absent;
        if rooms[at].member.is_none() {
            rooms.remove(at);
        }
        true
    }

    /// Makes an observer wait for a snapshot. False if the connection does not observe the room.
    pub fn resync(&mut self, connection: &mut Connection, room: &str) -> bool {
        let id = connection.id;
        let observed = find(&mut connection.subscriptions, room).filter(|room| room.state != ObserverState::Absent);
        observed.map(|subscription| self.request_snapshot(id, subscription)).is_some()
    }

    /// Watches users. False if that would exceed a limit; then no user is added.
    pub fn watch(&mut self, connection: &mut Connection, users: &[&str]) -> bool {
        self.watching.watch(connection, users)
    }

    /// Stops watching users.
    pub fn unwatch(&mut self, connection: &mut Connection, users: &[&str]) {
        self.watching.unwatch(connection, users);
    }

    /// Requests everything that a slow connection missed, when its socket accepts bytes again.
    pub fn catch_up(&mut self, connection: &mut Connection) {
        self.watching.catch_up(connection);
        for subscription in connection.subscriptions.iter_mut() {
            if matches!(subscription.state, ObserverState::Lagging(_)) {
                self.request_snapshot(connection.id, subscription);
            }
        }
    }

    /// Stops all observing and watching of a connection.
    pub fn forget(&mut self, connection: &mut Connection) {
        self.watching.forget(connection);
        for subscription in std::mem::take(&mut connection.subscriptions).iter() {
            self.detach(subscription);
        }
    }

    /// Whether a planned frame must still be sent. Since the plan was made, the connection may have started to lag and
    /// wait for a snapshot, or have left the room: the frame would leave a gap then.
    #[must_use]
    pub fn is_due(&self, connection: &Connection, origin: Origin) -> bool {
        match origin {
            Origin::Presence(room) | Origin::Messages(room) => {
                let mut rooms = connection.subscriptions.iter().filter(|subscription| subscription.room.id() == room);
                rooms.any(|subscription| matches!(subscription.state, ObserverState::Attached(_)))
            }
            Origin::Statuses => self.watching.is_due(connection),
        }
    }

    /// Records that a connection missed a frame. Members and statuses are sent again later; messages are lost.
    pub fn missed(&mut self, connection: &mut Connection, origin: Origin) {
        match origin {
            Origin::Presence(room) => {
                let mut rooms = connection.subscriptions.iter_mut();
                if let Some(subscription) = rooms.find(|subscription| subscription.room.id() == room)
                    && let ObserverState::Attached(slot) = subscription.state
                {
                    subscription.state = ObserverState::Lagging(slot);
                }
            }
            Origin::Messages(_) => {}
            Origin::Statuses => self.watching.missed(connection),
        }
    }

    /// Turns a batch into deliveries, and attaches the observers that it serves.
    pub fn plan(&mut self, batch: &Batch, connections: &mut Connections) -> Deliveries {
        let mut deliveries = Deliveries::default();
        for frames in &batch.rooms {
            let Some(observers) = self.rooms.get_mut(&frames.room.id()) else { continue };
            observers.plan(&self.node.registry, frames, connections, &mut deliveries);
        }
        for (connection, status) in self.watching.plan(&batch.status_frames) {
            let frame = deliveries.add(status, Origin::Statuses);
            deliveries.push(connection, frame);
        }
        if batch.rooms.len() + batch.status_frames.len() > 1 {
            deliveries.group_by_connection();
        }
        deliveries
    }

    /// Makes an observer wait for a snapshot. The room still counts it.
    fn request_snapshot(&mut self, connection: ConnectionId, subscription: &mut Subscription) {
        self.remove(subscription);
        let audience = subscription.audience;
        let generation = self.node.registry.request_snapshot(&subscription.room, audience, true);
        let pending = Pending { connection, audience, generation, since: None };
        subscription.state = self.rooms.entry(subscription.room.id()).or_default().wait(pending);
    }

    /// Removes an observer, also from the room's count.
    fn detach(&mut self, subscription: &Subscription) {
        if subscription.state != ObserverState::Absent {
            self.remove(subscription);
            self.node.registry.unobserve(&subscription.room, self.worker, subscription.audience);
        }
    }

    fn remove(&mut self, subscription: &Subscription) {
        let id = subscription.room.id();
        let Some(observers) = self.rooms.get_mut(&id) else { return };
        observers.remove(subscription);
        if observers.is_empty() {
            self.rooms.remove(&id);
        }
    }
}

/// The frames of one room for one observer, in order, by their index.
type FrameIndexes = SmallVec<[u32; 3]>;
