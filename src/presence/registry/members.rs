//! Joins, leaves, states and messages of sessions, and the membership that all sessions and nodes of a user share.

use std::collections::HashMap;
use std::sync::Arc;

use dashmap::Entry;
use foldhash::fast::RandomState;

use super::Registry;
use crate::presence::change::{HoldChange, LiveState};
use crate::presence::holders::Holders;
use crate::presence::membership::Membership;
use crate::presence::memberships::{Memberships, User};
use crate::presence::message::Publisher;
use crate::presence::room::Reported;
use crate::presence::session::{Joined, SessionRooms};
use crate::presence::{ApplicationMessage, Form, Info, Now, Reason, Room, RoomMessage, Session, State};

impl Registry {
    /// Makes the session's user a member of `room`, or replaces its state there if a state is given.
    pub fn join(&self, session: &Arc<Session>, room: &str, state: Option<State>, now: Now) -> Arc<Room> {
        let state = state.map(|state| state.stamped(now.unix_ms));
        let mut rooms = self.lock_counted(session, now);
        if let Some(joined) = rooms.joined.iter_mut().find(|joined| joined.room.is_named(room)) {
            if let Some(state) = state {
                let state = Some(state.over(joined.state.as_ref()));
                joined.state.clone_from(&state);
                self.set_live_state(session.user(), &joined.room, state, now);
            }
            return Arc::clone(&joined.room);
        }
        let room = self.count_in(session.user(), room, state.as_ref(), now);
        rooms.joined.push(Joined { room: Arc::clone(&room), state });
        room
    }

    /// Replaces the state of a joined room. False if the session has not joined it.
    pub fn set_state(&self, session: &Arc<Session>, room: &str, state: Option<State>, now: Now) -> bool {
        // Other nodes must see that the state was cleared later than the state that they have.
        let cleared = || self.has_store.then(|| State::written("", now.unix_ms));
        let state = state.map(|state| state.stamped(now.unix_ms)).or_else(cleared);
        let mut rooms = self.lock_counted(session, now);
        let Some(joined) = rooms.joined.iter_mut().find(|joined| joined.room.is_named(room)) else { return false };
        let info = joined.state.as_ref().and_then(State::info).cloned();
        let state = match info {
            Some(info) => Some(state.unwrap_or_else(|| State::written("", now.unix_ms)).with_info(Some(info))),
            None => state,
        };
        joined.state.clone_from(&state);
        self.set_live_state(session.user(), &joined.room, state, now);
        true
    }

    /// Replaces the info of the session's user in all rooms of the session. Returns the number of these rooms.
    pub fn set_info(&self, session: &Arc<Session>, info: &Info, now: Now) -> usize {
        let mut rooms = self.lock_counted(session, now);
        for joined in &mut rooms.joined {
            let state = Some(State::of_info(info.clone()).over(joined.state.as_ref()));
            joined.state.clone_from(&state);
            self.set_live_state(session.user(), &joined.room, state, now);
        }
        rooms.joined.len()
    }

    /// Takes the session out of one room. False if it had not joined it.
    pub fn leave(&self, session: &Session, room: &str) -> bool {
        let mut rooms = session.rooms.lock();
        let Some(at) = rooms.joined.iter().position(|joined| joined.room.is_named(room)) else { return false };
        let joined = rooms.joined.swap_remove(at);
        if rooms.counted {
            self.count_out(session.user(), &joined.room, Reason::Left);
        }
        true
    }

    /// Publishes a message to the observers of a joined room. False if the session has not joined it, or if the room
    /// has too many bytes of messages in this tick.
    pub fn publish(&self, session: &Arc<Session>, room: &str, data: Box<str>, now: Now) -> bool {
        let rooms = self.lock_counted(session, now);
        let Some(joined) = rooms.joined.iter().find(|joined| joined.room.is_named(room)) else { return false };
        let message = RoomMessage::local(Some(Arc::clone(session.user())), data);
        let (reported, accepted) = joined.room.publish(message);
        self.queue(&joined.room, reported);
        accepted
    }

    /// Publishes plain data of the application, which is not a member, to the observers of a room. False if the
    /// application has published too many bytes there, or in all, in this tick.
    pub fn publish_as_application(&self, room: &str, data: &str) -> bool {
        self.publish_all_as_application(vec![ApplicationMessage {
            room: room.to_owned(),
            data: data.into(),
            form: Form::Plain,
            excluded: None,
        }])
    }

    /// Publishes messages of the application: all of them, or none if one would exceed a limit of this tick. Where
    /// others publish to the last bytes of a room at the same moment, it may be some of them; then the result is false
    /// as well.
    pub fn publish_all_as_application(&self, messages: Vec<ApplicationMessage>) -> bool {
        let mut rooms = HashMap::<&str, usize, RandomState>::default();
        messages.iter().for_each(|message| *rooms.entry(&message.room).or_default() += message.bytes());
        let fits = |room: &str, bytes| self.room(room).is_none_or(|room| room.has_space(Publisher::Application, bytes));
        let all_bytes: usize = messages.iter().map(|message| message.room.len() + message.data.len()).sum();
        if !rooms.iter().all(|(room, bytes)| fits(room, *bytes))
            || !self.application_messages.reserve(messages.len(), all_bytes)
        {
            return false;
        }
        // Each of them, even if another one does not fit any more.
        messages.into_iter().fold(true, |accepted, ApplicationMessage { room, data, form, excluded }| {
            let message = RoomMessage::local(None, data).in_form(form).except(excluded);
            self.publish_to(&room, &message) && accepted
        })
    }

    /// Publishes a message of a client, which observes the room, to the other observers. It is delivered only if the
    /// user is a member by then; without a user, it is delivered in any case. False if the room has too many bytes of
    /// messages of clients in this tick.
    pub fn publish_as_observer(&self, room: &Arc<Room>, message: RoomMessage) -> bool {
        // An observed room is not closed.
        let (reported, accepted) = room.publish(message.of_client());
        self.queue(room, reported);
        accepted
    }

    fn publish_to(&self, room: &str, message: &RoomMessage) -> bool {
        loop {
            let room = self.room_or_new(room);
            let (reported, accepted) = room.publish(message.clone());
            if reported != Reported::Closed {
                self.queue(&room, reported);
                return accepted;
            }
        }
    }

    /// Counts a session in. Returns the room: a new one if the room that the session knew is closed.
    pub(super) fn count_in(&self, user: &Arc<str>, room: &str, state: Option<&State>, now: Now) -> Arc<Room> {
        self.upsert_membership(user, room, now.unix_ms, |_, membership| {
            let former = membership.state.as_ref().filter(|_| membership.sessions > 0);
            if membership.sessions == 0 || state.is_some() {
                let state = state.cloned().map(|state| state.over(former));
                membership.state = state.map(|state| membership.newer_than_remote(state, now));
                membership.changed_here = true;
            }
            membership.sessions += 1;
            true
        })
    }

    /// Calls `change` with the user's `since_unix_ms` and the membership, which is created if it does not exist.
    /// Reports the user to the room if the membership is new or `change` returns true. Returns the room.
    pub(in crate::presence) fn upsert_membership(
        &self,
        user: &Arc<str>,
        room: &str,
        since_unix_ms: u64,
        change: impl Fn(&mut u64, &mut Membership) -> bool,
    ) -> Arc<Room> {
        loop {
            let room = self.room_or_new(room);
            let reported = self.try_upsert(user, &room, since_unix_ms, &change);
            if reported != Reported::Closed {
                self.queue(&room, reported);
                return room;
            }
        }
    }

    /// Does nothing if the room is closed. A room with a membership cannot close.
    fn try_upsert(
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
                    entry.insert(User { since_unix_ms, memberships: Memberships::one(membership) });
                    self.count_online(user, 1);
                }
                return reported;
            }
        };
        let User { since_unix_ms, memberships } = entry.value_mut();
        if let Some(membership) = memberships.get_mut(room) {
            let has_changed = change(since_unix_ms, membership);
            return if has_changed { membership.report(user) } else { Reported::AlreadyQueued };
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
        self.update_membership(user, room, |membership| {
            membership.sessions -= 1;
            membership.reason = reason;
            membership.sessions == 0
        });
    }

    /// Counts a session out of all its rooms, if they count it.
    pub(super) fn count_out_all(&self, session: &Session, rooms: &mut SessionRooms, reason: Reason) {
        if std::mem::replace(&mut rooms.counted, false) {
            for joined in &rooms.joined {
                self.count_out(session.user(), &joined.room, reason);
            }
        }
    }

    pub(super) fn set_live_state(&self, user: &Arc<str>, room: &Arc<Room>, state: Option<State>, now: Now) {
        self.update_membership(user, room, |membership| {
            // With a store, the time of the state matters too: the latest state of all nodes is shown.
            let state = match (state, &membership.state) {
                (Some(state), former) => Some(state.over(former.as_ref())),
                // The info of another session of the user stays.
                (None, former) => former.as_ref().and_then(State::info).cloned().map(State::of_info),
            };
            let changed = membership.state != state || self.has_store;
            membership.state = state.map(|state| membership.newer_than_remote(state, now));
            changed
        });
    }

    /// Calls `change` with an existing membership, and reports the user to the room if it returns true.
    fn update_membership(&self, user: &Arc<str>, room: &Arc<Room>, change: impl FnOnce(&mut Membership) -> bool) {
        let Some(mut entry) = self.users.get_mut(user) else { return };
        let Some(membership) = entry.membership(room) else { return };
        if change(membership) {
            membership.changed_here = true;
            let reported = membership.report(user);
            drop(entry);
            self.queue(room, reported);
        }
    }

    /// The live state of a user in a room, and the change for the store. Removes the membership if no session and no
    /// node holds it.
    pub(super) fn live_state(&self, user: &Arc<str>, room: &Arc<Room>) -> (LiveState, Option<HoldChange>) {
        let offline = || (LiveState::Offline(Reason::Left), None);
        let Entry::Occupied(mut entry) = self.users.entry(Arc::clone(user)) else { return offline() };
        let memberships = &mut entry.get_mut().memberships;
        let Some(membership) = memberships.get_mut(room) else { return offline() };
        membership.pending = false;
        let hold_change = if self.has_store { membership.take_hold_change() } else { None };
        self.note_holders(user, membership);
        if membership.is_online() {
            return (LiveState::Online(membership.latest_state()), hold_change);
        }
        let reason = membership.reason;
        memberships.remove(room);
        if let Some(holders) = &self.holders {
            holders.note_end(room.id(), user, matches!(hold_change, Some(HoldChange::Released(_))));
        }
        if memberships.is_empty() {
            entry.remove();
            self.count_online(user, -1);
        }
        (LiveState::Offline(reason), hold_change)
    }

    /// If sinks listen, remembers which other nodes hold this.
    pub(in crate::presence) fn note_holders(&self, user: &Arc<str>, membership: &Membership) {
        if let Some(holders) = &self.holders {
            holders.note(membership.room.id(), user, membership.known_to_store, membership.other_holders());
        }
    }

    /// Whether this node reports to its sinks that a user joined the room that was settled last: whether it, and no
    /// node with a lower incarnation, holds the user there.
    #[must_use]
    pub fn reports_join(&self, room: &Room, user: &str) -> bool {
        let Some(holders) = &self.holders else { return true };
        let Some(user) = self.users.get(user) else { return false };
        let membership = user.memberships.get(room);
        membership.is_some_and(|membership| holders.reports_join(membership.known_to_store, membership.other_holders()))
    }

    /// Whether this node reports to its sinks that the user left the room that was settled last.
    #[must_use]
    pub fn reports_leave(&self, user: &str, reason: Reason) -> bool {
        self.holders.as_ref().is_none_or(|holders| holders.reports_leave(user, reason))
    }

    /// The leaves of the room that was settled last are reported.
    pub fn forget_ended(&self) {
        self.holders.iter().for_each(Holders::forget_ended);
    }

    /// Whether sessions of this node hold the user in the room.
    pub(super) fn is_held_here(&self, user: &str, room: &str) -> bool {
        let Some(room) = self.room(room) else { return false };
        let Some(user) = self.users.get(user) else { return false };
        user.memberships.get(&room).is_some_and(|membership| membership.sessions > 0)
    }

    /// The number of rooms of a user, those included that the user has left since the last tick.
    #[must_use]
    pub fn rooms_of(&self, user: &str) -> usize {
        self.users.get(user).map_or(0, |user| user.memberships.len())
    }
}
