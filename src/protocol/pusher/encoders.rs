//! Encodes what a tick sends to the observers of channels.

use bytes::{Bytes, BytesMut};

use super::channel::{Kind, Traits, is_cache_channel};
use super::encode::{
    put_added, put_cache_miss, put_count, put_published, put_removed, put_roster, put_succeeded, put_updated,
};
use crate::broadcast::encoder::{EncodedMessages, Encoder, Exclusion, MessageEncoder, Pacing};
use crate::broadcast::{Last, RoomUpdate, Snapshot};
use crate::config::Pusher;
use crate::memory_budget::MemoryBudget;
use crate::presence::{AppName, Diff, Form, Info, Room, channel_name, is_hidden, is_internal};
use crate::websocket::frame::trimmed;

/// More changes of a tick than this may be sent as a new list of the members.
const MAX_CHANGES: usize = 100;

/// Encodes channels without members.
#[derive(Debug)]
pub(super) struct Channels {
    /// Some applications have channels that announce how many connections are subscribed.
    apps: Pusher,
}

impl Channels {
    /// Those of these applications.
    pub(super) fn new(apps: &Pusher) -> Self {
        Self { apps: apps.clone() }
    }
}

/// Encodes presence channels: their members one by one, or all of them.
#[derive(Debug)]
pub(super) struct Members;

impl Encoder for Channels {
    fn pacing(&self) -> Pacing {
        Pacing::Short
    }

    fn keeps_last(&self, room: &Room) -> bool {
        is_cached(room)
    }

    fn announces_count(&self, room: &str) -> bool {
        let is_counted =
            |room: AppName<'_>| Traits::of(room.name).kind != Kind::Presence && self.apps.counts_subscribers(room.app);
        !is_hidden(room) && AppName::parse(room).is_some_and(is_counted)
    }

    fn changes(&mut self, update: RoomUpdate<'_>) -> Option<Bytes> {
        let count = update.observers.filter(|count| count.is_due)?;
        let mut frame = BytesMut::new();
        put_count(&mut frame, &channel_name(update.room.name()), count.number);
        Some(trimmed(frame))
    }

    fn snapshot(&mut self, update: RoomUpdate<'_>, _: &MemoryBudget) -> Snapshot {
        let mut frames = BytesMut::new();
        put_succeeded(&mut frames, &channel_name(update.room.name()));
        put_last(&mut frames, update);
        if let Some(count) = update.observers {
            put_count(&mut frames, &channel_name(update.room.name()), count.number);
        }
        Snapshot { pages: [frames.freeze()].into(), ..Snapshot::default() }
    }

    fn messages(&self) -> Option<MessageEncoder> {
        Some(encode_events)
    }
}

impl Encoder for Members {
    fn pacing(&self) -> Pacing {
        Pacing::Snapshots
    }

    fn changes(&mut self, update: RoomUpdate<'_>) -> Option<Bytes> {
        let diff = &update.change.diff;
        let updated = || updated_infos(update.room, diff);
        let changes = diff.joined.len() + diff.left.len() + updated().count();
        if changes == 0 {
            return None;
        }
        if changes > MAX_CHANGES && changes > update.change.count / 2 {
            return Some(roster(update.room));
        }
        let (mut frames, channel) = (BytesMut::new(), channel_name(update.room.name()));
        for (user, _) in &diff.left {
            let last = diff.last_states.binary_search_by(|(known, _)| known.cmp(user)).ok();
            put_removed(&mut frames, &channel, user, last.map(|at| &diff.last_states[at].1));
        }
        for (user, state) in &diff.joined {
            put_added(&mut frames, &channel, user, state.as_ref());
        }
        updated().for_each(|(user, info)| put_updated(&mut frames, &channel, user, info));
        Some(trimmed(frames))
    }

    fn keeps_last(&self, room: &Room) -> bool {
        is_cached(room)
    }

    fn snapshot(&mut self, update: RoomUpdate<'_>, unread: &MemoryBudget) -> Snapshot {
        let mut last = BytesMut::new();
        put_last(&mut last, update);
        let for_new = usize::from(!last.is_empty());
        let pages = [roster(update.room), trimmed(last)];
        Snapshot { for_new, ..Snapshot::new(pages.into_iter().filter(|page| !page.is_empty()), unread) }
    }

    fn messages(&self) -> Option<MessageEncoder> {
        Some(encode_events)
    }
}

fn roster(room: &Room) -> Bytes {
    let mut frame = BytesMut::new();
    room.read(|roster| put_roster(&mut frame, &channel_name(room.name()), roster));
    trimmed(frame)
}

/// Whether new subscribers of the channel receive the last event of the application.
fn is_cached(room: &Room) -> bool {
    is_cache_channel(&channel_name(room.name()))
}

/// Appends the last event for a new subscriber, or that there is none.
fn put_last(frames: &mut BytesMut, update: RoomUpdate<'_>) {
    match update.last {
        Last::Message(event) => put_published(frames, &channel_name(update.room.name()), event),
        Last::Missing => put_cache_miss(frames, &channel_name(update.room.name())),
        Last::Nothing | Last::Unknown => {}
    }
}

fn encode_events(update: RoomUpdate<'_>, leaving: bool) -> EncodedMessages {
    let (mut frames, mut excluded) = (BytesMut::new(), Vec::new());
    let channel = channel_name(update.room.name());
    let last = update.last_of_tick().map(|last| last.stamp);
    for message in update.messages_of(Form::Event, leaving) {
        let start = frames.len();
        put_published(&mut frames, &channel, &message.data);
        let (bytes, is_last) = (start..frames.len(), last == Some(message.stamp));
        excluded.extend(message.excluded.map(|number| Exclusion { number, bytes, is_last }));
    }
    EncodedMessages { frames: trimmed(frames), excluded }
}

/// The members with another info than before. In rooms of applications, the first info counts until a member leaves.
fn updated_infos<'a>(room: &Room, diff: &'a Diff) -> impl Iterator<Item = (&'a str, &'a Info)> {
    let updated = if is_internal(room.name()) { &[][..] } else { &diff.updated[..] };
    updated.iter().filter_map(|(user, state)| Some((&**user, state.as_ref()?.info()?)))
}
