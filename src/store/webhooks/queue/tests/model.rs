//! A receiver mirrors the server from the requests that arrive, reads when it is told to, and ignores what is older
//! than what it knows.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::presence::Reason;
use crate::store::{MemberEvent, RoomEvent, UserEvent};

/// The members of rooms with the numbers of their states, as the server has them or a receiver.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct World {
    rooms: BTreeMap<String, BTreeMap<String, u8>>,
}

impl World {
    fn is_online(&self, user: &str) -> bool {
        self.rooms.values().any(|members| members.contains_key(user))
    }

    fn users(&self) -> BTreeSet<String> {
        self.rooms.values().flat_map(BTreeMap::keys).cloned().collect()
    }

    /// Makes a user present with this state, or absent, and returns the events of that.
    pub(super) fn set(&mut self, room: &str, user: &str, shown: Option<u8>, at_unix_ms: u64) -> Vec<Event> {
        let was_online = self.is_online(user);
        let members = self.rooms.entry(room.to_owned()).or_default();
        let was_occupied = !members.is_empty();
        let before = match shown {
            Some(number) => members.insert(user.to_owned(), number),
            None => members.remove(user),
        };
        let is_occupied = !members.is_empty();
        if !is_occupied {
            self.rooms.remove(room);
        }
        let change = match (before, shown) {
            (None, Some(now)) => MemberChange::Joined(state(now)),
            (Some(before), Some(now)) if before != now => {
                MemberChange::Updated { before: state(before), now: state(now) }
            }
            (Some(before), None) => MemberChange::Left { reason: Reason::Closed, before: state(before) },
            _ => return Vec::new(),
        };
        let mut events = Vec::new();
        let room_event = |is_occupied| Event::Room(RoomEvent { at_unix_ms, room: room.into(), is_occupied });
        if !was_occupied && is_occupied {
            events.push(room_event(true));
        }
        let (since_unix_ms, is_reported) = (0, true);
        let (room_name, name) = (room.into(), user.into());
        let member = MemberEvent { at_unix_ms, since_unix_ms, room: room_name, user: name, change, is_reported };
        events.push(Event::Member(member));
        if was_occupied && !is_occupied {
            events.push(room_event(false));
        }
        let is_online = self.is_online(user);
        if was_online != is_online {
            events.push(Event::User(UserEvent { at_unix_ms, since_unix_ms, user: user.into(), is_online }));
        }
        events
    }
}

/// An application that mirrors the server.
#[derive(Debug, Default)]
struct Receiver {
    mirror: World,
    occupied: BTreeSet<String>,
    online: BTreeSet<String>,
    /// Rooms that were read and have had no event of their own since: events that follow may be older than what was
    /// read, and are corrected by later ones.
    read: BTreeSet<String>,
    /// The highest version per room and user.
    versions: BTreeMap<(Option<String>, Option<String>), u64>,
}

type Versioned = (u64, Change);

impl Receiver {
    /// The check of docs/webhooks.md.
    fn is_new(&mut self, version: u64, room: Option<&str>, user: Option<&str>) -> bool {
        let key = |room: Option<&str>, user: Option<&str>| (room.map(str::to_owned), user.map(str::to_owned));
        let known = [key(room, user), key(room, None), key(None, None)];
        let newest = known.iter().filter_map(|key| self.versions.get(key)).max().copied().unwrap_or(0);
        if version > newest {
            self.versions.insert(key(room, user), version);
        }
        version > newest
    }

    /// Takes a request. `read` is what the server answers to a receiver that reads. An old request may come late.
    fn take(&mut self, request: &[Versioned], read: &World, is_late: bool) {
        for (version, change) in request {
            let (room, user) = match change.subject() {
                Subject::Everything | Subject::Notice(_) => (None, None),
                Subject::Room(room) => (Some(&**room), None),
                Subject::Member(room, user) => (Some(&**room), Some(&**user)),
                Subject::User(user) => (None, Some(&**user)),
                Subject::Count(room) => (Some(&**room), None),
            };
            if self.is_new(*version, room, user) {
                self.apply(change, room.unwrap_or_default(), user.unwrap_or_default(), read, is_late);
            }
        }
    }

    fn apply(&mut self, change: &Change, room: &str, user: &str, read: &World, is_late: bool) {
        let number = |state: &Option<State>| {
            let digit = |state: &State| state.as_str().as_bytes().get(5).map_or(0, |digit| digit - b'0');
            state.as_ref().map_or(0, digit)
        };
        match change {
            Change::Resync(Subject::Everything) => {
                self.read = (0..10).map(|number| format!("r{number}")).collect();
                self.mirror = read.clone();
                self.occupied = read.rooms.keys().cloned().collect();
                self.online = read.users();
            }
            Change::Resync(_) => {
                self.read.insert(room.to_owned());
                self.occupied.remove(room);
                self.mirror.rooms.remove(room);
                if let Some(members) = read.rooms.get(room) {
                    self.mirror.rooms.insert(room.to_owned(), members.clone());
                    self.occupied.insert(room.to_owned());
                }
            }
            Change::Status { subject: Subject::Room(_), now: Status::Present(_), .. } => {
                self.read.remove(room);
                self.occupied.insert(room.to_owned());
            }
            Change::Status { subject: Subject::Room(_), .. } => {
                let is_late = is_late || self.read.remove(room);
                assert!(is_late || !self.mirror.rooms.contains_key(room), "vacated before the last leave");
                self.occupied.remove(room);
            }
            Change::Status { subject: Subject::User(_), now: Status::Present(_), .. } => {
                self.online.insert(user.to_owned());
            }
            Change::Status { subject: Subject::User(_), .. } => drop(self.online.remove(user)),
            Change::Status { now: Status::Present(state), .. } => {
                let is_late = is_late || self.read.contains(room);
                assert!(is_late || self.occupied.contains(room), "a join before the room is occupied");
                let members = self.mirror.rooms.entry(room.to_owned()).or_default();
                members.insert(user.to_owned(), number(state));
            }
            Change::Notice(..) => panic!("a schedule has no notices"),
            Change::Status { .. } => {
                if let Some(members) = self.mirror.rooms.get_mut(room) {
                    members.remove(user);
                    if members.is_empty() {
                        self.mirror.rooms.remove(room);
                    }
                }
            }
        }
    }
}

/// A server, its queue, and a receiver.
pub(super) struct Simulation {
    pub(super) queue: Queue,
    max_changes: usize,
    world: World,
    /// The world at earlier times: another node may be behind.
    past: Vec<(Ms, World)>,
    receiver: Receiver,
    pub(super) now: Ms,
    version: u64,
    /// The request that is under way.
    pub(super) request: Option<Vec<Versioned>>,
    /// Attempts that may still arrive.
    late: Vec<Vec<Versioned>>,
}

impl Simulation {
    pub(super) fn new(max_changes: usize) -> Self {
        let queue = Queue::new(settings(max_changes));
        let past = vec![(0, World::default())];
        let (world, receiver) = (World::default(), Receiver::default());
        Self { queue, max_changes, world, past, receiver, now: 0, version: 0, request: None, late: Vec::new() }
    }

    pub(super) fn set(&mut self, room: &str, user: &str, shown: Option<u8>) {
        for event in self.world.set(room, user, shown, self.now) {
            self.queue.record(&event, self.now);
        }
        self.past.push((self.now, self.world.clone()));
        let limit = self.max_changes + MAX_CHANGES;
        assert!(self.queue.len() <= limit, "{} changes, the limit is {limit}", self.queue.len());
    }

    /// What a node answers that is so far behind.
    fn read(&self, lag: Ms) -> World {
        let time = self.now.saturating_sub(lag.min(SETTLE));
        let known = self.past.iter().rev().find(|(since, _)| *since <= time);
        known.map(|(_, world)| world.clone()).unwrap_or_default()
    }

    /// One attempt at the next request. It may arrive without an answer.
    pub(super) fn attempt(&mut self, arrives: bool, answered: bool, lag: Ms) {
        if self.request.is_none() && self.queue.due().is_some_and(|due| due <= self.now) {
            let (mut changes, mut version) = (Vec::new(), self.version);
            let is_frozen = self.queue.freeze(self.now, |change| {
                if changes.len() == 3 {
                    return Fit::Full;
                }
                version += 1;
                changes.push((version, change.clone()));
                Fit::Taken
            });
            (self.version, self.request) = (version, is_frozen.then_some(changes));
        }
        let Some(request) = self.request.clone() else { return };
        if arrives {
            let read = self.read(lag);
            self.receiver.take(&request, &read, false);
        } else {
            self.late.push(request);
        }
        if arrives && answered {
            self.queue.delivered();
            self.request = None;
        } else if self.queue.expire(self.now) {
            self.request = None;
        }
    }

    /// An attempt that seemed lost arrives.
    pub(super) fn arrive_late(&mut self, at: usize) {
        if !self.late.is_empty() {
            let request = self.late.swap_remove(at % self.late.len());
            let read = self.read(0);
            self.receiver.take(&request, &read, true);
        }
    }

    pub(super) fn check_end(mut self) {
        self.now += 10 * COLLAPSE_MS;
        self.past = vec![(0, self.world.clone())];
        while !self.queue.is_empty() {
            self.attempt(true, true, 0);
            self.now += SETTLE + DELAY + BATCH_MS;
        }
        self.arrive_late(0);
        let Receiver { mirror, occupied, online, .. } = self.receiver;
        assert_eq!(mirror, self.world);
        assert_eq!(occupied, self.world.rooms.keys().cloned().collect());
        assert_eq!(online, self.world.users());
        assert!(self.queue.order.is_empty() && self.queue.rooms.is_empty() && self.queue.users.is_empty());
    }
}
