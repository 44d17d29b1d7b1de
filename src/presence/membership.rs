//! One user in the live truth: the rooms it is in, how many sessions hold it there, and which other nodes do.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dashmap::Entry;
use smallvec::SmallVec;

use super::remote::Hold;
use super::room::{HoldChange, LiveState, Reported};
use super::session::SessionRooms;
use super::{Now, Reason, Registry, Room, Session, State};
use crate::inline_vec::InlineVec;

/// One user, in all rooms.
#[derive(Debug)]
pub(super) struct User {
    pub(super) since_unix_ms: u64,
    pub(super) memberships: InlineVec<Membership>,
}

/// One user in one room. All of it is guarded by the shard of the user.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) room: Arc<Room>,
    /// What sessions of this node wrote last; of no meaning without one.
    pub(super) state: Option<State>,
    /// Sessions of this node that count here.
    pub(super) sessions: u32,
    /// The user stands in the room's inbox already.
    pub(super) pending: bool,
    /// Sessions of this node have changed something since the room was settled last.
    pub(super) moved: bool,
    /// The store knows that this node holds the user here.
    pub(super) told: bool,
    /// Why the last hold ended.
    pub(super) reason: Reason,
    /// Other nodes that hold the user here. Boxed: most members have none.
    pub(super) remote: Option<Box<SmallVec<[Hold; 1]>>>,
}

impl User {
    pub(super) fn membership(&mut self, room: &Arc<Room>) -> Option<&mut Membership> {
        self.memberships.iter_mut().find(|membership| Arc::ptr_eq(&membership.room, room))
    }
}

impl Membership {
    /// Held by nobody yet, and reported.
    pub(super) fn empty(room: &Arc<Room>) -> Self {
        Self {
            room: Arc::clone(room),
            state: None,
            sessions: 0,
            pending: true,
            moved: false,
            told: false,
            reason: Reason::Left,
            remote: None,
        }
    }

    /// Whether a session of this node or another node holds the user here.
    pub(super) fn is_online(&self) -> bool {
        self.sessions > 0 || self.remote.is_some()
    }

    pub(super) fn report(&mut self, user: &Arc<str>) -> Reported {
        if std::mem::replace(&mut self.pending, true) { Reported::AlreadyQueued } else { self.room.report(user) }
    }

    /// The state to show: of all that were written on any node the last. The same on every node, whatever came in first.
    pub(super) fn shown_state(&self) -> Option<State> {
        let here = self.state.iter().filter(|_| self.sessions > 0);
        let remote = self.remote.iter().flat_map(|holds| holds.iter()).filter_map(|hold| hold.state.as_ref());
        let last = here.chain(remote).max_by_key(|state| state.age_key());
        last.filter(|state| !state.is_cleared()).cloned()
    }

    /// The state as it is to be kept: one that is written now is later than any other node's, whatever the clocks publish. One that
    /// comes back with its session is as old as it was.
    pub(super) fn dated(&self, state: State, now: Now) -> State {
        let remote = self.remote.iter().flat_map(|holds| holds.iter()).filter_map(|hold| hold.state.as_ref());
        match remote.map(State::written_unix_ms).max() {
            Some(latest) if state.written_unix_ms() == now.unix_ms && latest >= now.unix_ms => {
                state.stamped(latest.saturating_add(1))
            }
            _ => state,
        }
    }

    /// What the store has to be told about this node's sessions since the last time, if anything.
    pub(super) fn tell(&mut self) -> Option<HoldChange> {
        let (moved, told) = (std::mem::take(&mut self.moved), self.told);
        self.told = moved && self.sessions > 0 || !moved && told;
        match (self.sessions > 0, told) {
            _ if !moved => None,
            (true, told) => Some(HoldChange::Held { state: self.state.clone(), joined: !told }),
            (false, true) => Some(HoldChange::Released(self.reason)),
            (false, false) => None,
        }
    }
}

impl Registry {
    /// Counts a session in. Returns the room that has this name now.
    pub(super) fn count_in(&self, user: &Arc<str>, room: &str, state: Option<&State>, now: Now) -> Arc<Room> {
        self.enter(user, room, now.unix_ms, |_, membership| {
            if membership.sessions == 0 || state.is_some() {
                membership.state = state.cloned().map(|state| membership.dated(state, now));
                membership.moved = true;
            }
            membership.sessions += 1;
            true
        })
    }

    /// Changes a membership, which it creates if need be, and since when the user is here. It is reported to its room if it is new,
    /// or if `change` says that there is something to announce. Returns the room.
    pub(super) fn enter(
        &self,
        user: &Arc<str>,
        room: &str,
        since_unix_ms: u64,
        change: impl Fn(&mut u64, &mut Membership) -> bool,
    ) -> Arc<Room> {
        loop {
            let room = self.room_or_new(room);
            let reported = self.try_enter(user, &room, since_unix_ms, &change);
            if reported != Reported::Closed {
                self.queue(&room, reported);
                return room;
            }
        }
    }

    /// Does nothing if the room is closed. An existing membership keeps its room open.
    fn try_enter(
        &self,
        user: &Arc<str>,
        room: &Arc<Room>,
        since_unix_ms: u64,
        change: impl Fn(&mut u64, &mut Membership) -> bool,
    ) -> Reported {
        let mut entry = match self.users.entry(Arc::clone(user)) {
            Entry::Occupied(entry) => entry.into_ref(),
            Entry::Vacant(entry) => {
                let reported = room.report(user);
                if reported != Reported::Closed {
                    let (mut since_unix_ms, mut membership) = (since_unix_ms, Membership::empty(room));
                    change(&mut since_unix_ms, &mut membership);
                    entry.insert(User { since_unix_ms, memberships: InlineVec::One(membership) });
                    self.online.fetch_add(1, Ordering::Relaxed);
                }
                return reported;
            }
        };
        let User { since_unix_ms, memberships } = entry.value_mut();
        if let Some(membership) = memberships.iter_mut().find(|membership| Arc::ptr_eq(&membership.room, room)) {
            let is_news = change(since_unix_ms, membership);
            return if is_news { membership.report(user) } else { Reported::AlreadyQueued };
        }
        let reported = room.report(user);
        if reported != Reported::Closed {
            let mut membership = Membership::empty(room);
            change(since_unix_ms, &mut membership);
            memberships.push(membership);
        }
        reported
    }

    pub(super) fn count_out(&self, user: &Arc<str>, room: &Arc<Room>, reason: Reason) {
        self.with_membership(user, room, |membership| {
            membership.sessions -= 1;
            membership.reason = reason;
            membership.sessions == 0
        });
    }

    /// Counts a session out of all its rooms, if it counts there.
    pub(super) fn count_out_all(&self, session: &Session, rooms: &mut SessionRooms, reason: Reason) {
        if std::mem::replace(&mut rooms.counted, false) {
            for joined in &rooms.joined {
                self.count_out(session.user(), &joined.room, reason);
            }
        }
    }

    pub(super) fn set_live_state(&self, user: &Arc<str>, room: &Arc<Room>, state: Option<State>, now: Now) {
        self.with_membership(user, room, |membership| {
            // Beside other nodes' states it matters when it was written, even if it says what it said before.
            let changed = membership.state != state || self.has_store;
            membership.state = state.map(|state| membership.dated(state, now));
            changed
        });
    }

    /// Changes a membership, and reports it to its room if `change` says that there is something to announce.
    fn with_membership(&self, user: &Arc<str>, room: &Arc<Room>, change: impl FnOnce(&mut Membership) -> bool) {
        let Some(mut entry) = self.users.get_mut(user) else { return };
        let Some(membership) = entry.membership(room) else { return };
        if change(membership) {
            membership.moved = true;
            let reported = membership.report(user);
            drop(entry);
            self.queue(room, reported);
        }
    }

    /// What the live truth says about a user in a room's inbox, and what of that the store does not know; a membership that
    /// nobody holds goes away with it.
    pub(super) fn live_state(&self, user: &Arc<str>, room: &Arc<Room>) -> (LiveState, Option<HoldChange>) {
        let gone = || (LiveState::Offline(Reason::Left), None);
        let Entry::Occupied(mut entry) = self.users.entry(Arc::clone(user)) else { return gone() };
        let memberships = &mut entry.get_mut().memberships;
        let Some(at) = memberships.iter().position(|membership| Arc::ptr_eq(&membership.room, room)) else {
            return gone();
        };
        memberships[at].pending = false;
        let told = if self.has_store { memberships[at].tell() } else { None };
        if memberships[at].is_online() {
            return (LiveState::Online(memberships[at].shown_state()), told);
        }
        let reason = memberships[at].reason;
        memberships.remove(at);
        if memberships.is_empty() {
            entry.remove();
            self.online.fetch_sub(1, Ordering::Relaxed);
        }
        (LiveState::Offline(reason), told)
    }

    /// Whether sessions of this node hold the user there.
    pub(super) fn is_member(&self, user: &str, room: &str) -> bool {
        let Some(user) = self.users.get(user) else { return false };
        user.memberships.iter().any(|membership| membership.room.is_named(room) && membership.sessions > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_in_one_room_takes_no_more_than_that_room() {
        assert_eq!(size_of::<User>(), size_of::<Membership>() + 8);
        assert!(size_of::<Membership>() <= 32);
    }
}
