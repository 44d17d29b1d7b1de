//! The observers of each room on one worker. Turns a batch into a list of connections and frames, which the worker
//! writes.
//!
//! Connections that watch users by user id are in `watchers`.

mod deliveries;
mod exceptions;
mod observers;
mod views;
mod watched_users;
mod watchers;

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::auth::Permissions;
use crate::broadcast::Batch;
use crate::connection::{Connection, ConnectionId, Connections, ObserverState, Phase, Subscription};
use crate::node::Node;
use crate::presence::{Audience, Room};
use crate::protocol::{Protocol, Resume, SessionNumber};
use observers::{Cause, Observer, Pending, RoomObservers, find, position};
use watchers::Watching;

pub use deliveries::{Deliveries, Origin, Requested};

/// The observers of all rooms on one worker, and its connections that watch users by user id.
#[derive(Debug)]
pub struct Fanout {
    node: Arc<Node>,
    worker: usize,
    /// Boxed, because a map has up to twice as many places as entries.
    rooms: HashMap<u64, Box<RoomObservers>, RandomState>,
    watching: Watching,
    /// The connections that messages can leave out, by their numbers.
    numbers: Numbers,
}

impl Fanout {
    /// The fanout of a worker, without observers.
    #[must_use]
    pub fn new(node: Arc<Node>, worker: usize) -> Self {
        let watching = Watching::new(Arc::clone(&node), worker);
        Self { node, worker, rooms: HashMap::default(), watching, numbers: Numbers::default() }
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
    pub fn observe(
        &mut self,
        connection: &mut Connection,
        room: &str,
        audience: Audience,
        resume: Option<Resume<'_>>,
    ) -> Arc<Room> {
        let registry = &self.node.registry;
        let attachment = registry.observe(room, self.worker, audience, resume.is_none());
        let since = resume.filter(|resume| *resume.epoch == *attachment.room.epoch()).map(|resume| resume.seq);
        if resume.is_some() && since.is_none() {
            registry.request_snapshot(&attachment.room, audience, true);
        }
        let rooms = &mut connection.subscriptions;
        let (mut member, mut cause) = (None, Cause::First);
        if let Some(previous) = position(rooms, room).and_then(|at| rooms.remove(at)) {
            self.detach(&previous);
            member = previous.member;
            if previous.state != ObserverState::Absent {
                cause = Cause::Repeat;
            }
        }
        let (id, generation) = (attachment.room.id(), attachment.generation);
        let of = Observer { connection: connection.id, protocol: connection.protocol, audience };
        let mut pending = Pending::new(of, generation, cause);
        pending.since = since;
        let state = self.rooms.entry(id).or_default().wait(pending);
        let room = Arc::clone(&attachment.room);
        connection.subscriptions.push(Subscription { room: attachment.room, member, audience, state });
        room
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
        let (id, protocol) = (connection.id, connection.protocol);
        let observed = find(&mut connection.subscriptions, room).filter(|room| room.state != ObserverState::Absent);
        observed.map(|subscription| self.request_snapshot((id, protocol), subscription, Cause::Repeat)).is_some()
    }

    /// Watches users. False if that would exceed a limit; then no user is added. With permissions, their states come
    /// only from rooms that the client may observe.
    pub fn watch(
        &mut self,
        connection: &mut Connection,
        users: &[&str],
        permissions: Option<&Arc<Permissions>>,
    ) -> bool {
        self.watching.watch(connection, users, permissions)
    }

    /// The watched users of a connection whom `is_selected` selects.
    pub fn watched_by(&self, connection: &Connection, is_selected: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        self.watching.watched_by(connection, is_selected)
    }

    /// The states of the users that a connection watches come only from rooms that these permissions allow to observe.
    pub fn permit_watching(&mut self, connection: &Connection, permissions: &Arc<Permissions>) {
        self.watching.permit(connection, permissions);
    }

    /// Stops watching users.
    pub fn unwatch(&mut self, connection: &mut Connection, users: &[&str]) {
        self.watching.unwatch(connection, users);
    }

    /// Requests everything that a slow connection missed, when its socket accepts bytes again.
    pub fn catch_up(&mut self, connection: &mut Connection) {
        self.watching.catch_up(connection);
        for subscription in connection.subscriptions.iter_mut() {
            match subscription.state {
                ObserverState::Lagging(_) => {
                    self.request_snapshot((connection.id, connection.protocol), subscription, Cause::Skipped);
                }
                ObserverState::Pending(slot) => {
                    if let Some(observers) = self.rooms.get_mut(&subscription.room.id()) {
                        observers.request_again(slot, &self.node.registry, &subscription.room);
                    }
                }
                ObserverState::Absent | ObserverState::Attached(_) => {}
            }
        }
    }

    /// Gives a connection a number by which messages can leave it out, until [`Fanout::forget`].
    pub fn set_number(&mut self, connection: &Connection, number: u64) {
        self.numbers.insert(number, connection.id);
    }

    /// Stops all observing and watching of a connection.
    pub fn forget(&mut self, connection: &mut Connection) {
        if let Some(number) = connection.number() {
            self.numbers.remove(&number);
        }
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
            Origin::Presence(room) => matches!(state_in(connection, room), ObserverState::Attached(_)),
            Origin::Messages(room) => match state_in(connection, room) {
                ObserverState::Attached(_) => true,
                ObserverState::Absent => false,
                ObserverState::Lagging(_) => connection.protocol.keeps_messages(),
                ObserverState::Pending(slot) => {
                    self.rooms.get(&room).is_some_and(|observers| observers.keeps_messages(slot))
                }
            },
            Origin::ToUser => connection.phase == Phase::Open,
            Origin::Statuses => self.watching.is_due(connection),
        }
    }

    /// Whether a client for which messages wait receives a new list in place of this frame, after
    /// [`Fanout::missed`].
    #[must_use]
    pub fn is_replaced_later(&self, connection: &Connection, origin: Origin) -> bool {
        match origin {
            Origin::Presence(room) => {
                let mut rooms = connection.subscriptions.iter();
                let subscription = rooms.find(|subscription| subscription.room.id() == room);
                subscription.is_some_and(|subscription| connection.protocol.replaces_members(subscription.audience))
            }
            Origin::Statuses => true,
            Origin::Messages(_) | Origin::ToUser => false,
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
            Origin::Messages(_) | Origin::ToUser => {}
            Origin::Statuses => self.watching.missed(connection),
        }
    }

    /// Turns a batch into deliveries, and attaches the observers that it serves. Also returns what clients requested.
    pub fn plan(&mut self, batch: &Batch, connections: &mut Connections) -> (Deliveries, Vec<Requested>) {
        let mut deliveries = Deliveries::default();
        for frames in &batch.rooms {
            let Some(observers) = self.rooms.get_mut(&frames.room.id()) else { continue };
            observers.plan(&self.node.registry, frames, &self.numbers, connections, &mut deliveries);
        }
        self.watching.plan(&batch.status_frames, &mut deliveries);
        if batch.rooms.len() + batch.status_frames.len() > 1 {
            deliveries.group_by_connection();
        }
        let requested = deliveries.take_requested();
        (deliveries, requested)
    }

    /// Makes an observer wait for a snapshot. The room still counts it.
    fn request_snapshot(
        &mut self,
        (connection, protocol): (ConnectionId, Protocol),
        subscription: &mut Subscription,
        cause: Cause,
    ) {
        self.remove(subscription);
        let audience = subscription.audience;
        let generation = self.node.registry.request_snapshot(&subscription.room, audience, true);
        let pending = Pending::new(Observer { connection, protocol, audience }, generation, cause);
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

/// The state of a connection as an observer of a room.
fn state_in(connection: &Connection, room: u64) -> ObserverState {
    let mut rooms = connection.subscriptions.iter();
    rooms.find(|subscription| subscription.room.id() == room).map_or(ObserverState::Absent, |room| room.state)
}

/// The connections that have a number.
type Numbers = HashMap<u64, ConnectionId, RandomState>;

/// The frames of one room for one observer, in order, by their index.
type FrameIndexes = SmallVec<[u32; 3]>;
