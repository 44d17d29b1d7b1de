//! What other nodes hold: a user is online while a session of this node or any other node holds the user.
//!
//! A node publishes changes of what it holds, and everything when it is read as a whole; a hold that is not found again
//! then is swept. Each incarnation of a node stands for itself: the next one neither inherits nor ends what the last
//! one held.

use std::sync::Arc;

use super::membership::Membership;
use super::remote_hold::{IncarnationId, RemoteHold};
use super::room::Reported;
use super::{Info, Reason, Registry, RoomMessage, State};

/// A user in a room, as an incarnation reports it.
#[derive(Debug, Clone, Copy)]
pub struct RemoteMember<'a> {
    /// The incarnation.
    pub incarnation: IncarnationId,
    /// Counts loads of what the incarnation holds.
    pub generation: u32,
    /// The room.
    pub room: &'a str,
    /// The user.
    pub user: &'a str,
}

impl Registry {
    /// An incarnation of another node is alive.
    pub fn add_incarnation(&self, id: IncarnationId, incarnation: u64) {
        self.holders.iter().for_each(|holders| holders.add_incarnation(id, incarnation));
    }

    /// An incarnation of another node is dead. Its holds are released after this.
    pub fn remove_incarnation(&self, id: IncarnationId) {
        self.holders.iter().for_each(|holders| holders.remove_incarnation(id));
    }

    /// An incarnation holds a user: the user joined, has another state, or is only reported again.
    pub fn hold_remote(&self, member: RemoteMember<'_>, state: Option<&State>, since_unix_ms: u64) {
        let RemoteMember { incarnation, generation, room, user } = member;
        let name = self.shared_name(user);
        self.upsert_membership(&name, room, since_unix_ms, |since, membership| {
            *since = since_unix_ms.min(*since);
            let has_changed = membership.hold_remote(RemoteHold { incarnation, generation, state: state.cloned() });
            self.note_holders(&name, membership);
            has_changed
        });
    }

    /// An incarnation no longer holds a user. True if a session of this node holds the user in some room.
    pub fn release_remote(&self, member: RemoteMember<'_>, reason: Reason) -> bool {
        let room = self.room(member.room);
        let Some(mut user) = self.users.get_mut(member.user) else { return false };
        let name = Arc::clone(user.key());
        let user = user.value_mut();
        let is_held_here = user.memberships.iter().any(|membership| membership.sessions > 0);
        if let Some(membership) = room.and_then(|room| user.memberships.get_mut(&room)) {
            let reported = membership.release_remote(&name, reason, |hold| hold.incarnation == member.incarnation);
            self.queue(&membership.room, reported);
        }
        is_held_here
    }

    /// Releases everything that an incarnation held before this generation, of the selected users. Walks all users, one
    /// shard at a time: for the rare cases in which a node died or events were missed. Returns the affected users whom
    /// a session of this node holds.
    pub fn sweep_remote_holds(
        &self,
        incarnation: IncarnationId,
        generation: u32,
        reason: Reason,
        is_selected: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let mut held_here = Vec::new();
        for mut user in self.users.iter_mut() {
            let name = Arc::clone(user.key());
            let mut is_swept = false;
            for membership in user.memberships.iter_mut() {
                let is_old = |hold: &RemoteHold| hold.incarnation == incarnation && hold.generation < generation;
                if membership.remote.iter().flat_map(|holds| holds.iter()).any(is_old) && is_selected(&name) {
                    let reported = membership.release_remote(&name, reason, is_old);
                    self.queue(&membership.room, reported);
                    is_swept = true;
                }
            }
            if is_swept && user.memberships.iter().any(|membership| membership.sessions > 0) {
                held_here.push(name.as_ref().to_owned());
            }
        }
        held_here
    }

    /// Adds a message from another node to the next tick. A message of a user is delivered only if the user is a member
    /// by then; one without a user is the application's, or that of an observer.
    pub fn publish_remote(&self, room: &str, message: RoomMessage) {
        if let Some(room) = self.room(room) {
            let user = message.user.as_ref().map(|user| self.shared_name(user));
            let (reported, _) = room.publish(RoomMessage { user, ..message });
            self.queue(&room, reported);
        }
    }

    /// Whether another node holds the user in some room.
    #[must_use]
    pub fn is_held_remotely(&self, user: &str) -> bool {
        self.users.get(user).is_some_and(|user| user.memberships.iter().any(|held| held.remote.is_some()))
    }
}

/// Distinguishes what an incarnation reports from what it reported before.
fn age_key(hold: &RemoteHold) -> Option<(AgeKey<'_>, Option<AgeKey<'_>>)> {
    hold.state.as_ref().map(|state| (state.age_key(), state.info().map(Info::age_key)))
}

type AgeKey<'a> = (u64, &'a str);

impl Membership {
    /// Returns whether something changed. A load reports every hold again, and the tick must not look at all of them.
    fn hold_remote(&mut self, hold: RemoteHold) -> bool {
        let holds = self.remote.get_or_insert_default();
        match holds.iter_mut().find(|known| known.incarnation == hold.incarnation) {
            Some(known) => {
                let has_changed = age_key(known) != age_key(&hold);
                *known = hold;
                has_changed
            }
            None => {
                holds.push(hold);
                true
            }
        }
    }

    /// Removes the holds that `is_over` selects.
    fn release_remote(&mut self, user: &Arc<str>, reason: Reason, is_over: impl Fn(&RemoteHold) -> bool) -> Reported {
        if let Some(holds) = &mut self.remote {
            holds.retain(|hold| !is_over(hold));
            if holds.is_empty() {
                self.remote = None;
            }
        }
        if self.sessions == 0 {
            self.reason = reason;
        }
        self.report(user)
    }
}
