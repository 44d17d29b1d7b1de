//! Which members were announced, since when, and with what state: what a sink needs to know of a member when it has
//! left. Empty unless a sink listens to everything; then some 100 bytes per member.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::quality::RandomState;

use crate::presence::{Now, Registry, State};
use crate::store::{RoomEvent, UserEvent};

/// All announced members. Written by the tick only.
#[derive(Debug, Default)]
pub(super) struct Announced {
    /// By the id of the room, and the user.
    members: HashMap<(u64, Arc<str>), Member, RandomState>,
    users: HashMap<Arc<str>, User, RandomState>,
    /// Users who joined or left in this tick, each once, with whether they were online before.
    touched: Vec<(Arc<str>, bool)>,
    /// The channels of applications that have members or observers on any node.
    channels: HashSet<Arc<str>, RandomState>,
    /// Channels whose members or observers changed in this tick.
    touched_channels: HashSet<Arc<str>, RandomState>,
}

#[derive(Debug)]
struct Member {
    since_unix_ms: u64,
    state: Option<State>,
}

#[derive(Debug)]
struct User {
    since_unix_ms: u64,
    /// The number of rooms that announce the user.
    rooms: u32,
    is_touched: bool,
}

impl Announced {
    /// A member is announced. Returns since when it is one: a user whom another node held before this node knew has
    /// been a member for as long as the user is online.
    pub(super) fn join(
        &mut self,
        registry: &Registry,
        room: u64,
        user: &Arc<str>,
        state: Option<&State>,
        now: Now,
    ) -> u64 {
        let online_since = || registry.online_since(user).unwrap_or(now.unix_ms).min(now.unix_ms);
        let new = || User { since_unix_ms: online_since(), rooms: 0, is_touched: false };
        let known = self.users.entry(Arc::clone(user)).or_insert_with(new);
        let is_first = known.rooms == 0;
        known.touch(user, &mut self.touched);
        known.rooms += 1;
        let since_unix_ms = if is_first { known.since_unix_ms } else { now.unix_ms };
        self.members.insert((room, Arc::clone(user)), Member { since_unix_ms, state: state.cloned() });
        since_unix_ms
    }

    /// A member shows another state. Returns since when it is a member, and what it showed.
    pub(super) fn update(&mut self, room: u64, user: &Arc<str>, state: Option<&State>) -> (u64, Option<State>) {
        let Some(member) = self.members.get_mut(&(room, Arc::clone(user))) else { return (0, None) };
        (member.since_unix_ms, std::mem::replace(&mut member.state, state.cloned()))
    }

    /// A member has left. Returns since when it was one, and what it showed.
    pub(super) fn leave(&mut self, room: u64, user: &Arc<str>, now: Now) -> (u64, Option<State>) {
        if let Some(known) = self.users.get_mut(user) {
            known.touch(user, &mut self.touched);
            known.rooms = known.rooms.saturating_sub(1);
        }
        let member = self.members.remove(&(room, Arc::clone(user)));
        member.map_or((now.unix_ms, None), |member| (member.since_unix_ms, member.state))
    }

    /// The members or observers of a channel have changed.
    pub(super) fn touch_channel(&mut self, channel: &Arc<str>) {
        self.touched_channels.insert(Arc::clone(channel));
    }

    /// The channels whose members or observers have changed in this tick.
    pub(super) fn touched_channels(&self) -> impl Iterator<Item = &Arc<str>> {
        self.touched_channels.iter()
    }

    /// A channel has members. True if it was not occupied.
    pub(super) fn occupy(&mut self, channel: &Arc<str>) -> bool {
        self.channels.insert(Arc::clone(channel))
    }

    /// The other channels that became occupied or vacant in this tick, on any node.
    pub(super) fn take_channels(&mut self, registry: &Registry, now: Now) -> impl Iterator<Item = RoomEvent> {
        let (channels, at_unix_ms) = (&mut self.channels, now.unix_ms);
        std::mem::take(&mut self.touched_channels).into_iter().filter_map(move |room| {
            let is_occupied = registry.is_used(&room);
            let changes = if is_occupied { channels.insert(Arc::clone(&room)) } else { channels.remove(&room) };
            changes.then_some(RoomEvent { at_unix_ms, room, is_occupied })
        })
    }

    /// The users who came online or went offline in this tick.
    pub(super) fn take_users(&mut self, now: Now) -> impl Iterator<Item = UserEvent> + use<'_> {
        let users = &mut self.users;
        std::mem::take(&mut self.touched).into_iter().filter_map(move |(user, was_online)| {
            let known = users.get_mut(&user)?;
            known.is_touched = false;
            let (is_online, since_unix_ms) = (known.rooms > 0, known.since_unix_ms);
            if !is_online {
                users.remove(&user);
            }
            (is_online != was_online).then_some(UserEvent { at_unix_ms: now.unix_ms, since_unix_ms, user, is_online })
        })
    }
}

impl User {
    fn touch(&mut self, user: &Arc<str>, touched: &mut Vec<(Arc<str>, bool)>) {
        if !std::mem::replace(&mut self.is_touched, true) {
            touched.push((Arc::clone(user), self.rooms > 0));
        }
    }
}
