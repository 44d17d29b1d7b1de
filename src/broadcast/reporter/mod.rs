//! Tells the sinks what happened: which members joined and left, and, if a sink listens to everything, which states
//! changed, which rooms became occupied or vacant, and which users came online or went offline.
//!
//! Several nodes may announce the same change to their observers; one of them reports it. The registry knows whether it
//! is this one ([`Registry::reports_join`], [`Registry::reports_leave`]).

mod announced;

use std::sync::Arc;
use std::time::Duration;

use super::encoder::Encoders;
use super::observer_counts::ObserverCounts;
use crate::presence::{Form, Now, Publisher, Registry, Room, RoomChange, RoomMessage, is_hidden, is_internal};
use crate::store::{CountEvent, Event, Happening, MemberChange, MemberEvent, Notice, Notices, RoomEvent, Scope, Sinks};
use announced::Announced;

/// Collects the events of a tick for the sinks.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    sinks: Arc<Sinks>,
    /// Whether a sink needs to know which changes this node reports.
    needs_reporter: bool,
    /// Everything that is announced, if a sink listens to everything.
    announced: Option<Announced>,
    /// What sinks were told of the numbers of observers, if a sink takes them.
    counts: Option<ObserverCounts>,
    /// The notices that sinks take.
    notices: Notices,
    /// Of the present tick.
    events: Vec<Event>,
}

impl Reporter {
    pub(super) fn new(sinks: Arc<Sinks>, tick: Duration) -> Self {
        let announced = (sinks.scope() == Some(Scope::All)).then(Announced::default);
        let (needs_reporter, notices) = (sinks.need_reporter(), sinks.notices());
        let counts = sinks.take_counts().then(|| ObserverCounts::new(tick));
        Self { sinks, needs_reporter, announced, counts, notices, events: Vec::new() }
    }

    /// The observers of these rooms of applications have changed on other nodes.
    pub(super) fn touch_channels(&mut self, rooms: &[Arc<str>]) {
        if let Some(announced) = &mut self.announced {
            rooms.iter().filter(|room| !is_hidden(room)).for_each(|room| announced.touch_channel(room));
        }
    }

    /// Collects the changes of a room that was settled just now.
    pub(super) fn collect(&mut self, registry: &Registry, room: &Room, change: &RoomChange, now: Now) {
        if !self.needs_reporter && self.announced.is_none() {
            return;
        }
        if !is_hidden(room.name()) {
            self.collect_visible(registry, room, change, now);
            if self.notices.client_events {
                self.events.extend(change.messages.iter().filter_map(|message| client_event(room, message)));
            }
        }
        registry.forget_ended();
    }

    /// New observers were told that a room has no last message.
    pub(super) fn last_is_missing(&mut self, room: &Room) {
        if self.notices.cache_misses {
            self.events.push(Event::Notice(Notice { room: Arc::clone(room.name()), what: Happening::CacheMiss }));
        }
    }

    /// Collects the changes. Channels of applications are occupied while they have observers, too. A room is occupied
    /// before its first member joins, and vacant after its last one left.
    fn collect_visible(&mut self, registry: &Registry, room: &Room, change: &RoomChange, now: Now) {
        let Self { events, announced, needs_reporter, .. } = self;
        let (diff, at_unix_ms) = (&change.diff, now.unix_ms);
        let is_channel = is_internal(room.name());
        if let Some(announced) = announced
            && is_channel
            && (change.observers_change.is_some() || diff.changes_members())
        {
            announced.touch_channel(room.name());
        }
        if diff.is_empty() {
            return;
        }
        let room_event =
            |is_occupied| Event::Room(RoomEvent { at_unix_ms, room: Arc::clone(room.name()), is_occupied });
        let was_occupied = change.count + diff.left.len() > diff.joined.len();
        let is_new = announced.as_mut().is_some_and(|announced| match is_channel {
            true => change.count > 0 && announced.occupy(room.name()),
            false => change.count > 0 && !was_occupied,
        });
        if is_new {
            events.push(room_event(true));
        }
        let mut push = |user: &Arc<str>, since_unix_ms, change, is_reported| {
            let (room, user) = (Arc::clone(room.name()), Arc::clone(user));
            events.push(Event::Member(MemberEvent { at_unix_ms, since_unix_ms, room, user, change, is_reported }));
        };
        for (user, reason) in &diff.left {
            let is_reported = *needs_reporter && registry.reports_leave(user, *reason);
            let known = announced.as_mut().map(|announced| announced.leave(room.id(), user, now));
            if is_reported || known.is_some() {
                let (since_unix_ms, before) = known.unwrap_or_default();
                push(user, since_unix_ms, MemberChange::Left { reason: *reason, before }, is_reported);
            }
        }
        for (user, state) in &diff.joined {
            let is_reported = *needs_reporter && registry.reports_join(room, user);
            let since =
                announced.as_mut().map(|announced| announced.join(registry, room.id(), user, state.as_ref(), now));
            if is_reported || since.is_some() {
                push(user, since.unwrap_or_default(), MemberChange::Joined(state.clone()), is_reported);
            }
        }
        let Some(announced) = announced else { return };
        for (user, _) in &diff.updated {
            let Some(shown) = room.read(|roster| roster.state_of(user).map(Option::<&_>::cloned)) else { continue };
            let (since_unix_ms, before) = announced.update(room.id(), user, shown.as_ref());
            push(user, since_unix_ms, MemberChange::Updated { before, now: shown }, false);
        }
        if was_occupied && change.count == 0 && !is_channel {
            events.push(room_event(false));
        }
    }

    /// Hands the events of the tick over.
    pub(super) fn flush(&mut self, registry: &Registry, encoders: &Encoders, now: Now) {
        if let Some(announced) = &mut self.announced {
            let counts = self.counts.as_mut();
            let counts =
                counts.map(|counts| count_events(counts, announced.touched_channels(), registry, encoders, now));
            self.events.extend(announced.take_channels(registry, now).map(Event::Room));
            self.events.extend(announced.take_users(now).map(Event::User));
            self.events.extend(counts.into_iter().flatten());
        }
        if !self.events.is_empty() {
            // Taken, so that the memory of a tick with many changes is freed.
            self.sinks.record(&std::mem::take(&mut self.events));
        }
    }
}

/// The numbers of observers that are told of these channels, and of those whose pause is over.
fn count_events<'a>(
    counts: &mut ObserverCounts,
    touched: impl Iterator<Item = &'a Arc<str>>,
    registry: &Registry,
    encoders: &Encoders,
    now: Now,
) -> Vec<Event> {
    let mut events = Vec::new();
    let rooms: Vec<_> = touched.cloned().chain(counts.take_due(now.tick)).collect();
    for room in rooms {
        if !encoders.announce_count(&room) {
            counts.forget(&room);
            continue;
        }
        let observers = registry.observers_at_tick(&room);
        if counts.is_told(&room, observers, now.tick) {
            let at_unix_ms = now.unix_ms;
            events.push(Event::Count(CountEvent { at_unix_ms, room, observers }));
        }
    }
    events
}

/// The notice of a message, if a client has published it as an event on this node.
fn client_event(room: &Room, message: &RoomMessage) -> Option<Event> {
    let is_of_client = message.is_local && message.publisher == Publisher::Client && message.form == Form::Event;
    let connection = message.excluded.filter(|_| is_of_client)?;
    let what = Happening::ClientEvent { event: (*message.data).into(), user: message.user.clone(), connection };
    Some(Event::Notice(Notice { room: Arc::clone(room.name()), what }))
}
