//! What other nodes hold: a user is online while a session of this node or any other node holds it.
//!
//! A node tells what it holds as it changes, and all of it when it is asked; what it was told of before and is not told of
//! again is swept. Each life of a node (a *run*) is on its own: the next one neither inherits nor ends what the last one held.

use std::sync::Arc;

use super::membership::Membership;
use super::room::Reported;
use super::{Reason, Registry, RoomMessage, State};

/// Names a run of another node, for as long as this process lives.
pub type RunNumber = u32;

/// One run holds the user in a room.
#[derive(Debug)]
pub(super) struct Hold {
    run: RunNumber,
    /// When the run was last asked for everything: older ones are swept then.
    generation: u32,
    pub(super) state: Option<State>,
}

/// What a run says about a user in a room.
#[derive(Debug, Clone, Copy)]
pub struct Remote<'a> {
    /// Who says so.
    pub run: RunNumber,
    /// Counts the times that the run was asked for everything.
    pub generation: u32,
    /// Where.
    pub room: &'a str,
    /// Who.
    pub user: &'a str,
}

/// What this node holds of a user.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LocalHolds {
    /// Milliseconds since the Unix epoch.
    pub since_unix_ms: u64,
    /// Rooms in which a session of this node holds it, with the state that was written here last.
    pub rooms: Vec<(Arc<str>, Option<State>)>,
}

impl Registry {
    /// A run holds a user: it came, or it has another state, or is only named again.
    pub fn hold_remote(&self, remote: Remote<'_>, state: Option<&State>, since_unix_ms: u64) {
        let Remote { run, generation, room, user } = remote;
        self.enter(&self.shared_name(user), room, since_unix_ms, |since, membership| {
            *since = since_unix_ms.min(*since);
            membership.hold(Hold { run, generation, state: state.cloned() })
        });
    }

    /// A run has let go of a user. True if a session of this node holds it somewhere.
    pub fn release_remote(&self, remote: Remote<'_>, reason: Reason) -> bool {
        let Some(mut user) = self.users.get_mut(remote.user) else { return false };
        let name = Arc::clone(user.key());
        let user = user.value_mut();
        let local_holds = user.memberships.iter().any(|membership| membership.sessions > 0);
        let held = user.memberships.iter_mut().find(|membership| membership.room.is_named(remote.room));
        if let Some(membership) = held {
            let reported = membership.release(&name, reason, |hold| hold.run == remote.run);
            self.queue(&membership.room, reported);
        }
        local_holds
    }

    /// Lets go of everything that a run held before this generation, of the users that are asked about. Walks all users, a shard at
    /// a time: for the rare moments in which a node has died or was misheard. Returns those of them whom a session of this node holds.
    pub fn sweep_remote(
        &self,
        run: RunNumber,
        generation: u32,
        reason: Reason,
        is_asked: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let mut local_holds = Vec::new();
        for mut user in self.users.iter_mut() {
            let name = Arc::clone(user.key());
            let mut swept = false;
            for membership in user.memberships.iter_mut() {
                let is_old = |hold: &Hold| hold.run == run && hold.generation < generation;
                if membership.remote.iter().flat_map(|holds| holds.iter()).any(is_old) && is_asked(&name) {
                    let reported = membership.release(&name, reason, is_old);
                    self.queue(&membership.room, reported);
                    swept = true;
                }
            }
            if swept && user.memberships.iter().any(|membership| membership.sessions > 0) {
                local_holds.push(name.as_ref().to_owned());
            }
        }
        local_holds
    }

    /// Takes what was said on another node to the next tick. Who says it must be a member by then, or it is not heard.
    pub fn publish_remote(&self, room: &str, user: &str, data: Box<str>) {
        if let Some(room) = self.room(room) {
            let (reported, _) = room.publish(RoomMessage { user: Some(self.shared_name(user)), data, is_local: false });
            self.queue(&room, reported);
        }
    }

    /// What sessions of this node hold of a user; `None` if nothing. With `told_only` what the store has been told of.
    #[must_use]
    pub fn local_holds(&self, user: &str, told_only: bool) -> Option<LocalHolds> {
        let user = self.users.get(user)?;
        let held = user.memberships.iter().filter(|held| held.sessions > 0 && (held.told || !told_only));
        let rooms: Vec<_> = held.map(|held| (Arc::clone(held.room.name()), held.state.clone())).collect();
        (!rooms.is_empty()).then_some(LocalHolds { since_unix_ms: user.since_unix_ms, rooms })
    }

    /// Since when the user has been here or on another node, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn since(&self, user: &str) -> Option<u64> {
        self.users.get(user).map(|user| user.since_unix_ms)
    }

    /// What the store has been told of a user in a room: that this node holds it there, with this state.
    #[must_use]
    pub fn told(&self, room: &str, user: &str) -> Option<Option<State>> {
        let user = self.users.get(user)?;
        let mut told = user.memberships.iter().filter(|membership| membership.told);
        told.find(|membership| membership.room.is_named(room)).map(|membership| membership.state.clone())
    }

    /// Whether another node holds the user anywhere.
    #[must_use]
    pub fn is_held_remotely(&self, user: &str) -> bool {
        self.users.get(user).is_some_and(|user| user.memberships.iter().any(|held| held.remote.is_some()))
    }

    /// All users that sessions of this node hold, of those that are asked about. Walks all users, a shard at a time.
    pub fn local_users(&self, is_asked: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let held = self.users.iter().filter(|user| user.memberships.iter().any(|held| held.sessions > 0));
        held.filter(|user| is_asked(user.key())).map(|user| Arc::clone(user.key())).collect()
    }
}

impl Membership {
    /// True if that is news: all that a run holds may be named again, and the tick must not look at all of it.
    fn hold(&mut self, hold: Hold) -> bool {
        let holds = self.remote.get_or_insert_default();
        match holds.iter_mut().find(|held| held.run == hold.run) {
            Some(held) => {
                let news = held.state.as_ref().map(State::age_key) != hold.state.as_ref().map(State::age_key);
                *held = hold;
                news
            }
            None => {
                holds.push(hold);
                true
            }
        }
    }

    /// Lets go of the holds that `is_over` picks.
    fn release(&mut self, user: &Arc<str>, reason: Reason, is_over: impl Fn(&Hold) -> bool) -> Reported {
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
