//! What the next node must repeat: the rooms and users that changed since the node that delivers last said that
//! everything is delivered, or all rooms with members and all users who are online if that node died. Each node keeps
//! this for all partitions, because each may have to take one over.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::queue::Subject;
use crate::store::{Event, UserEvent};

/// More changes are kept than wait for an endpoint: most are delivered already.
const CHANGED_PER_QUEUED: usize = 4;

/// The changes of one partition. Pure: the time is passed in.
#[derive(Debug)]
pub(super) struct Tracker {
    /// The limit of changes that wait for an endpoint.
    max_queued: usize,
    /// Another node may learn of a change, or be late with it, for this time.
    slack_ms: u64,
    /// All rooms with members.
    occupied: HashSet<Arc<str>, RandomState>,
    /// All users who are online, and since when.
    online: HashMap<Arc<str>, u64, RandomState>,
    /// When rooms changed last, in milliseconds since the Unix epoch.
    rooms: HashMap<Arc<str>, u64, RandomState>,
    /// The last events of users, and, if receivers cannot read rooms, of rooms and members.
    events: HashMap<Subject, Event, RandomState>,
    /// Whether receivers can read rooms again.
    can_resync: bool,
    /// When more changed than fits.
    overflowed_at: Option<u64>,
    /// The last time at which this node may have missed changes of other nodes.
    missed_at: Option<u64>,
    /// Events were lost: `occupied` and `online` are wrong from then on.
    has_lost: bool,
}

/// What is to be repeated.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    Everything,
    /// These rooms are read again, and these events are sent again.
    Some(Vec<Arc<str>>, Vec<Event>),
}

impl Tracker {
    pub(super) fn new(max_queued: usize, slack_ms: u64, can_resync: bool) -> Self {
        Self {
            max_queued,
            slack_ms,
            occupied: HashSet::default(),
            online: HashMap::default(),
            rooms: HashMap::default(),
            events: HashMap::default(),
            can_resync,
            overflowed_at: None,
            missed_at: None,
            has_lost: false,
        }
    }

    pub(super) fn record(&mut self, event: &Event) {
        let at_unix_ms = at(event);
        let (room, subject) = match event {
            Event::Member(event) => {
                (Some(&event.room), Subject::Member(Arc::clone(&event.room), Arc::clone(&event.user)))
            }
            Event::Room(event) => {
                match event.is_occupied {
                    true => drop(self.occupied.insert(Arc::clone(&event.room))),
                    false => drop(self.occupied.remove(&event.room)),
                }
                (Some(&event.room), Subject::Room(Arc::clone(&event.room)))
            }
            Event::User(event) => {
                match event.is_online {
                    true => drop(self.online.insert(Arc::clone(&event.user), event.since_unix_ms)),
                    false => drop(self.online.remove(&event.user)),
                }
                (None, Subject::User(Arc::clone(&event.user)))
            }
            Event::Count(event) => (Some(&event.room), Subject::Count(Arc::clone(&event.room))),
            Event::Notice(_) => return,
        };
        match room {
            Some(room) if self.can_resync => drop(self.rooms.insert(Arc::clone(room), at_unix_ms)),
            _ => drop(self.events.insert(subject, event.clone())),
        }
        if self.rooms.len() + self.events.len() > CHANGED_PER_QUEUED * self.max_queued {
            self.overflow(at_unix_ms);
        }
    }

    /// Events were lost because there were too many.
    pub(super) fn lost(&mut self, at_unix_ms: u64) {
        self.overflow(at_unix_ms);
        self.has_lost = true;
    }

    /// More changed than fits.
    fn overflow(&mut self, at_unix_ms: u64) {
        (self.rooms, self.events) = (HashMap::default(), HashMap::default());
        self.overflowed_at = Some(at_unix_ms);
    }

    /// This node may have missed changes of other nodes until now.
    pub(super) fn missed(&mut self, at_unix_ms: u64) {
        self.missed_at = Some(at_unix_ms);
    }

    /// Everything before this time is delivered.
    pub(super) fn forget(&mut self, delivered_unix_ms: u64) {
        let until = delivered_unix_ms.saturating_sub(self.slack_ms);
        self.rooms.retain(|_, at| *at >= until);
        self.events.retain(|_, event| at(event) >= until);
        self.overflowed_at.take_if(|at| *at < until);
        self.missed_at.take_if(|at| *at < until);
    }

    /// What may not be delivered. If the last node has handed its work over, and this one has followed all changes,
    /// other rooms and users are known to be. Otherwise the last node may have reported changes that no other node has
    /// seen, for example that a user left who is still online.
    pub(super) fn repeat(&self, is_handed_over: bool, is_fresh: bool) -> Repeat {
        // A node that has just started does not know what became empty before.
        if self.overflowed_at.is_some() || is_fresh && self.can_resync {
            return Repeat::Everything;
        }
        let is_rest_known = is_handed_over && self.missed_at.is_none();
        // What has changed is counted twice.
        let count = self.rooms.len() + self.events.len() + self.occupied.len() + self.online.len();
        if self.can_resync && !is_rest_known && (self.has_lost || count > self.max_queued) {
            return Repeat::Everything;
        }
        let all = self.occupied.iter().filter(|room| !is_rest_known && !self.rooms.contains_key(*room));
        let rooms = self.rooms.keys().chain(all).cloned().collect();
        let mut events: Vec<_> = self.events.values().cloned().collect();
        if !is_rest_known {
            events.extend(self.unchanged_users());
        }
        events.sort_by_key(|event| (at(event), rank(event)));
        Repeat::Some(rooms, events)
    }

    /// Users who are online and have not changed lately.
    fn unchanged_users(&self) -> impl Iterator<Item = Event> {
        let users = self.online.iter().filter(|(user, _)| !self.events.contains_key(&Subject::User(Arc::clone(user))));
        users.map(|(user, since)| {
            let (user, at_unix_ms, since_unix_ms) = (Arc::clone(user), *since, *since);
            Event::User(UserEvent { at_unix_ms, since_unix_ms, user, is_online: true })
        })
    }
}

/// When an event happened, in milliseconds since the Unix epoch.
fn at(event: &Event) -> u64 {
    match event {
        Event::Member(event) => event.at_unix_ms,
        Event::Room(event) => event.at_unix_ms,
        Event::User(event) => event.at_unix_ms,
        Event::Count(event) => event.at_unix_ms,
        Event::Notice(_) => 0, // No other node repeats it.
    }
}

/// The order of events of the same time.
fn rank(event: &Event) -> u8 {
    match event {
        Event::Room(event) if event.is_occupied => 0,
        Event::Member(_) => 1,
        Event::Room(_) => 2,
        Event::User(_) | Event::Count(_) | Event::Notice(_) => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::RoomEvent;

    fn room(name: &str, at_unix_ms: u64, is_occupied: bool) -> Event {
        Event::Room(RoomEvent { at_unix_ms, room: name.into(), is_occupied })
    }

    fn online(name: &str, at_unix_ms: u64) -> UserEvent {
        UserEvent { at_unix_ms, since_unix_ms: at_unix_ms, user: name.into(), is_online: true }
    }

    fn user(name: &str, at_unix_ms: u64) -> Event {
        Event::User(online(name, at_unix_ms))
    }

    fn check(tracker: &Tracker, is_handed_over: bool, rooms: &[&str], users: &[&str]) {
        let Repeat::Some(mut got, events) = tracker.repeat(is_handed_over, false) else { panic!("everything") };
        got.sort_unstable();
        assert_eq!(got.iter().map(|room| &**room).collect::<Vec<_>>(), rooms);
        let got_users = events.iter().map(|event| match event {
            Event::User(event) => &*event.user,
            other => panic!("{other:?}"),
        });
        assert_eq!(got_users.collect::<Vec<_>>(), users);
    }

    #[test]
    fn changes_are_kept_until_they_are_delivered_for_a_while() {
        let mut tracker = Tracker::new(10, 100, true);
        let events = [room("old", 1000, true), room("gone", 1050, false), room("new", 1200, true)];
        events.iter().chain([&user("alice", 1060)]).for_each(|event| tracker.record(event));
        check(&tracker, true, &["gone", "new", "old"], &["alice"]);
        tracker.forget(1150);
        check(&tracker, true, &["gone", "new"], &["alice"]);
        tracker.forget(1170);
        check(&tracker, true, &["new"], &[]);
    }

    #[test]
    fn all_that_is_there_is_repeated_if_the_last_node_died_or_this_one_missed_changes() {
        let mut tracker = Tracker::new(10, 100, true);
        let gone = Event::User(UserEvent { is_online: false, ..online("gone", 1010) });
        let events = [room("old", 1000, true), user("alice", 1000), user("gone", 1005), gone, user("bob", 1200)];
        events.iter().for_each(|event| tracker.record(event));
        tracker.forget(1250);
        check(&tracker, true, &[], &["bob"]);
        check(&tracker, false, &["old"], &["alice", "bob"]);
        tracker.missed(1300);
        check(&tracker, true, &["old"], &["alice", "bob"]);
        tracker.forget(1401);
        check(&tracker, true, &[], &[]);
    }

    #[test]
    fn events_are_repeated_for_receivers_that_cannot_read() {
        let mut tracker = Tracker::new(10, 100, false);
        let events = [room("a", 1000, true), room("b", 1000, true), room("a", 1010, false)];
        events.iter().for_each(|event| tracker.record(event));
        let expected = Repeat::Some(Vec::new(), vec![room("b", 1000, true), room("a", 1010, false)]);
        assert_eq!(tracker.repeat(true, false), expected);
        assert_eq!(tracker.repeat(true, true), expected);
    }

    #[test]
    fn after_too_many_changes_everything_is_repeated_until_they_are_delivered() {
        let mut tracker = Tracker::new(10, 100, true);
        (0..41).for_each(|number| tracker.record(&room(&number.to_string(), 1000, true)));
        tracker.record(&room("last", 1001, true));
        assert_eq!(tracker.repeat(true, false), Repeat::Everything);
        tracker.forget(1101);
        check(&tracker, true, &["last"], &[]);
    }

    #[test]
    fn everything_is_read_again_if_events_are_unknown_or_too_much_would_be_repeated() {
        let mut tracker = Tracker::new(3, 100, true);
        [room("a", 1000, true), user("alice", 1000)].iter().for_each(|event| tracker.record(event));
        tracker.forget(1200);
        check(&tracker, false, &["a"], &["alice"]);
        assert_eq!(tracker.repeat(true, true), Repeat::Everything, "of a node that has just started");
        tracker.lost(1300);
        tracker.forget(1500);
        check(&tracker, true, &[], &[]);
        assert_eq!(tracker.repeat(false, false), Repeat::Everything, "alice may be gone");
        let mut tracker = Tracker::new(3, 100, true);
        (0..4).for_each(|number| tracker.record(&user(&number.to_string(), 1000)));
        tracker.forget(1200);
        check(&tracker, true, &[], &[]);
        assert_eq!(tracker.repeat(false, false), Repeat::Everything);
    }
}
