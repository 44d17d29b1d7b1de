//! The tick: end leases, settle the rooms in which something moved, encode each change once, hand it to the workers.
//!
//! It does no I/O. What it costs follows what changed: the users that reported something, and the rosters that somebody asked
//! to see whole. Whole rosters are paced: encoding them takes a bounded share of the ticks, and what an observer of a changing
//! list is sent is bounded in bytes per second by stretching the interval, so a queue never grows.

mod batch;
mod pacer;
mod reporter;

use std::sync::Arc;
use std::time::Duration;

use crate::json;
use crate::memory_budget::{MAX_UNREAD_BYTES, MemoryBudget};
use crate::presence::{
    Audience, AudienceSet, LOBBY, Now, Registry, Room, RoomChange, RoomMessage, Roster, StatusChange,
};
use crate::protocol::{chat, native, online_status as status, online_users};
use crate::store::{Sinks, StoreEvent};
use pacer::Pacer;
use reporter::Reporter;

pub use batch::{Batch, Pages, RoomFrames, Spoken, StatusFrame, TickCounts};

/// Turns changes of the registry into batches.
#[derive(Debug)]
pub struct Broadcaster {
    registry: Arc<Registry>,
    workers: usize,
    pacer: Pacer,
    /// What was said in the lobby. It outlives the room, which goes when everybody has gone.
    history: chat::History,
    /// Reads the data of what was said.
    json: json::Reader,
    /// Whole lists that slow clients hold. Nearly all are gone as soon as they are written.
    unread: MemoryBudget,
    /// What the store has to be told of the last tick.
    news: Vec<StoreEvent>,
    reporter: Reporter,
}

/// A room in which something moved, at one tick.
#[derive(Debug, Clone, Copy)]
struct RoomUpdate<'a> {
    room: &'a Arc<Room>,
    change: &'a RoomChange,
    /// Audiences that have observers.
    in_use: AudienceSet,
    now: Now,
}

impl Broadcaster {
    /// An broadcaster for this many workers, which remembers so many messages of a chat.
    #[must_use]
    pub fn new(registry: Arc<Registry>, workers: usize, tick: Duration, history: usize) -> Self {
        let (pacer, history) = (Pacer::new(tick), chat::History::new(history));
        let (json, unread) = (json::Reader::default(), MemoryBudget::new(MAX_UNREAD_BYTES));
        Self { registry, workers, pacer, history, json, unread, news: Vec::new(), reporter: Reporter::default() }
    }

    /// Has it report joins and leaves to these sinks.
    #[must_use]
    pub fn with_sinks(self, sinks: Arc<Sinks>) -> Self {
        Self { reporter: Reporter::new(sinks), ..self }
    }

    /// What sessions of this node did in the last tick, for the store.
    pub fn take_store_events(&mut self) -> Vec<StoreEvent> {
        std::mem::take(&mut self.news)
    }

    /// Does one tick and returns a batch for each worker.
    pub fn tick(&mut self, now: Now) -> (Vec<Batch>, TickCounts) {
        self.registry.end_leases(now);
        let mut batches = vec![Batch { now, ..Batch::default() }; self.workers];
        let mut counts = TickCounts::default();
        for room in self.registry.take_dirty() {
            let change = self.registry.settle(&room);
            if self.registry.has_store() {
                self.news.extend(StoreEvent::of(&room, &change));
            }
            self.reporter.collect(&room, &change, now);
            counts.rooms += 1;
            counts.changes += (change.diff.joined.len() + change.diff.updated.len() + change.diff.left.len()) as u64;
            self.registry.watchlist.note(&change.diff);
            self.announce(&room, &change, now, &mut batches);
        }
        self.tell_watchers(now, &mut batches);
        self.reporter.flush();
        (batches, counts)
    }

    /// Tells about watched users, each encoded once however many watch it.
    fn tell_watchers(&self, now: Now, batches: &mut [Batch]) {
        for StatusChange { user, sight, changed, watchers } in
            self.registry.watchlist.settle(&self.registry, now.unix_ms)
        {
            let status_frame = StatusFrame { object: native::encode_user_status(&user, &sight), user, changed };
            let watching = batches.iter_mut().zip(watchers).filter(|(_, watchers)| *watchers > 0);
            watching.for_each(|(batch, _)| batch.status_frames.push(status_frame.clone()));
        }
    }

    fn announce(&mut self, room: &Arc<Room>, change: &RoomChange, now: Now, batches: &mut [Batch]) {
        let mut in_use = AudienceSet::default();
        for audience in Audience::ALL {
            if change.observers.iter().any(|observers| observers[audience as usize] > 0) {
                in_use.insert(audience);
            }
        }
        let update = Arc::new(self.encode(RoomUpdate { room, change, in_use, now }));
        for (batch, observers) in batches.iter_mut().zip(&change.observers) {
            if observers.iter().any(|count| *count > 0) {
                batch.updates.push(Arc::clone(&update));
            }
        }
        if change.count == 0 && in_use.is_empty() {
            self.pacer.forget(room);
            self.registry.close_if_unused(room);
        }
    }

    fn encode(&mut self, visit: RoomUpdate<'_>) -> RoomFrames {
        let mut update = RoomFrames {
            room: Arc::clone(visit.room),
            generation: visit.change.generation,
            seq: visit.change.seq,
            changes: Default::default(),
            snapshots: Default::default(),
            said: Spoken::default(),
            spans: status::Spans::default(),
        };
        self.members(visit, &mut update);
        count(visit, &mut update);
        let defers_names = self.names(visit, &mut update);
        self.events(visit, &mut update);
        let said = heard(visit);
        messages(visit, &said, &mut update);
        if visit.room.is_named(LOBBY) {
            self.talk(visit, &said, &mut update);
        }
        let mut put_off = AudienceSet::default();
        for audience in Audience::ALL {
            if visit.wants(audience) && update.snapshots[audience as usize].is_none() {
                put_off.insert(audience);
            }
        }
        if !put_off.is_empty() || defers_names {
            self.registry.revisit(visit.room, put_off);
        }
        update
    }

    /// The diff, which the room remembers for those who resume, and the snapshot.
    fn members(&mut self, visit: RoomUpdate<'_>, update: &mut RoomFrames) {
        let RoomUpdate { room, change, .. } = visit;
        if !change.diff.is_empty() && change.keeps_history {
            let frame = native::encode_diff(room, change.seq, change.count, &change.diff);
            room.remember(change.seq, frame.clone());
            update.changes[Audience::Members as usize] = Some(frame);
        }
        if visit.wants(Audience::Members) {
            update.snapshots[Audience::Members as usize] =
                self.whole(visit, Audience::Members, native::encode_snapshot);
        }
    }

    /// The list of names, for newcomers and, at its pace, for those who are attached. True if it is still deferred to these.
    fn names(&mut self, visit: RoomUpdate<'_>, update: &mut RoomFrames) -> bool {
        let deferred =
            visit.in_use.contains(Audience::Names) && (visit.change.diff.moved() || self.pacer.is_deferred(visit));
        let due = deferred && self.pacer.may_tell(visit);
        if due || visit.wants(Audience::Names) {
            let list = self.whole(visit, Audience::Names, encode_names);
            update.changes[Audience::Names as usize] = list.as_ref().filter(|_| due).map(|list| list[0].clone());
            update.snapshots[Audience::Names as usize] = list;
        }
        let told = update.changes[Audience::Names as usize].is_some();
        self.pacer.note(visit, deferred, told);
        deferred && !told
    }

    /// Who came and who went, and for newcomers who is there, with the place of each in it.
    fn events(&mut self, visit: RoomUpdate<'_>, update: &mut RoomFrames) {
        let RoomUpdate { change, now, .. } = visit;
        if visit.in_use.contains(Audience::Events) && change.diff.moved() {
            update.changes[Audience::Events as usize] = Some(status::encode_changes(&change.diff, now.unix_ms));
        }
        if visit.wants(Audience::Events) {
            let spans = &mut update.spans;
            let roster = self.whole(visit, Audience::Events, |room| {
                let (pages, found) = status::encode_roster(room, now.unix_ms);
                *spans = found;
                pages
            });
            update.snapshots[Audience::Events as usize] = roster;
        }
    }

    /// Who came, what was said and who went, and for newcomers what was before.
    fn talk(&mut self, visit: RoomUpdate<'_>, said: &[RoomMessage], update: &mut RoomFrames) {
        let listening = visit.in_use.contains(Audience::Talk);
        self.history.begun |= listening;
        if !self.history.begun {
            return;
        }
        let messages = chat::Messages::encode(&mut self.json, &visit.change.diff, said, visit.now.unix_ms);
        if visit.wants(Audience::Talk) && !self.unread.is_full(0) {
            let history = self.history.frames(|frames| self.unread.count(frames));
            let pages = [history, messages.frames.clone()].into_iter();
            update.snapshots[Audience::Talk as usize] = Some(pages.filter(|page| !page.is_empty()).collect());
        }
        self.history.add(&messages);
        if listening && !messages.frames.is_empty() {
            update.changes[Audience::Talk as usize] = Some(messages.frames);
        }
    }

    /// Encodes something whole, unless the last one was so long that its share of the ticks is not over, or too much that is whole
    /// waits for clients that do not read.
    fn whole(
        &mut self,
        visit: RoomUpdate<'_>,
        audience: Audience,
        encode: impl FnOnce(&Room) -> Pages,
    ) -> Option<Pages> {
        if !self.pacer.may_encode(visit, audience) || self.unread.is_full(0) {
            return None;
        }
        let pages: Pages = encode(visit.room).iter().map(|page| self.unread.count(page.clone())).collect();
        self.pacer.encoded(visit, audience, pages.iter().map(|page| page.len() as u64).sum());
        Some(pages)
    }
}

impl RoomUpdate<'_> {
    /// Whether an observer of this audience waits for a snapshot.
    fn wants(&self, audience: Audience) -> bool {
        self.change.wanted.contains(audience) && self.in_use.contains(audience)
    }
}

/// How many members there are. It is short, so it is never put off.
fn count(visit: RoomUpdate<'_>, update: &mut RoomFrames) {
    let change = visit.change;
    let changed = change.diff.joined.len() != change.diff.left.len();
    if visit.in_use.contains(Audience::Count) && (changed || visit.wants(Audience::Count)) {
        let frame = native::encode_count(visit.room, change.seq, change.count);
        update.snapshots[Audience::Count as usize] = Some(Arc::from([frame.clone()]));
        update.changes[Audience::Count as usize] = changed.then_some(frame);
    }
}

/// What was said by those who are members now, or whose leave this tick tells. Nobody speaks who is not seen to be there: what was
/// said by a member who came and went within the tick, or who went while it was being settled, is dropped.
fn heard(visit: RoomUpdate<'_>) -> Vec<RoomMessage> {
    let said = &visit.change.said;
    if said.is_empty() {
        return Vec::new();
    }
    let is_known = |roster: &Roster, said: &RoomMessage| roster.contains(&said.user) || is_leaving(visit, said);
    visit.room.read(|roster| said.iter().filter(|said| is_known(roster, said)).cloned().collect())
}

fn is_leaving(visit: RoomUpdate<'_>, said: &RoomMessage) -> bool {
    visit.change.diff.left.binary_search_by(|(user, _)| user.cmp(&said.user)).is_ok()
}

/// What was said, for those who see it as messages of the room.
fn messages(visit: RoomUpdate<'_>, said: &[RoomMessage], update: &mut RoomFrames) {
    let listening = [Audience::Members, Audience::Count].iter().any(|audience| visit.in_use.contains(*audience));
    if listening && !said.is_empty() {
        let encode = |leaving: bool| {
            let said = said.iter().filter(|said| is_leaving(visit, said) == leaving);
            Some(native::encode_messages(visit.room, said, visit.now.unix_ms)).filter(|frames| !frames.is_empty())
        };
        update.said = Spoken { before_changes: encode(true), after_changes: encode(false) };
    }
}

fn encode_names(room: &Room) -> Pages {
    let list = room.read(|roster| online_users::encode_list(roster.members_after(None).map(|(user, _)| user)));
    Arc::from([list])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::{Reason, Settings};

    /// A room with this many members, and one who waits for a snapshot of it.
    fn room_of(members: usize, audience: Audience) -> (Arc<Registry>, Broadcaster) {
        let registry = Arc::new(Registry::new(Settings { ttl: 100, workers: 1, incarnation: 1 }));
        for number in 0..members {
            let session = registry.open_session(&format!("user-{number}"), Now::default());
            registry.join(&session, LOBBY, None, Now::default());
        }
        registry.observe(LOBBY, 0, audience, true);
        let broadcaster = Broadcaster::new(Arc::clone(&registry), 1, Duration::from_millis(100), 100);
        (registry, broadcaster)
    }

    #[test]
    fn whole_lists_that_nobody_reads_have_a_bound() {
        for audience in [Audience::Members, Audience::Names, Audience::Events] {
            let (registry, mut broadcaster) = room_of(2_000, audience);
            broadcaster.unread = MemoryBudget::new(1);
            let snapshot = |(batches, _): (Vec<Batch>, TickCounts)| {
                batches[0].updates.first().and_then(|update| update.snapshots[audience as usize].clone())
            };
            let unread = snapshot(broadcaster.tick(Now::default())).expect("the first is made");
            registry.observe(LOBBY, 0, audience, true);
            for _ in 0..3 {
                assert!(snapshot(broadcaster.tick(Now::default())).is_none(), "{audience:?}: put off");
            }
            drop(unread);
            assert!(
                snapshot(broadcaster.tick(Now::default())).is_some(),
                "{audience:?}: made when there is room again"
            );
        }
    }

    #[test]
    fn nobody_is_heard_who_was_never_there() {
        let (registry, mut broadcaster) = room_of(1, Audience::Talk);
        broadcaster.tick(Now::default());
        let said = |broadcaster: &mut Broadcaster| {
            let (batches, _) = broadcaster.tick(Now::default());
            let update = batches[0].updates.first()?;
            update.changes[Audience::Talk as usize].as_ref().map(|frames| String::from_utf8_lossy(frames).into_owned())
        };
        let passer_by = registry.open_unleased_session("passer-by");
        registry.join(&passer_by, LOBBY, None, Now::default());
        assert!(registry.publish(&passer_by, LOBBY, "\"boo\"".into(), Now::default()));
        registry.end_session(&passer_by, Reason::Closed);
        assert_eq!(said(&mut broadcaster), None);
        let guest = registry.open_unleased_session("guest");
        registry.join(&guest, LOBBY, None, Now::default());
        assert!(said(&mut broadcaster).is_some_and(|frames| frames.contains("guest")));
        assert!(registry.publish(&guest, LOBBY, "\"bye\"".into(), Now::default()));
        registry.end_session(&guest, Reason::Closed);
        let last = said(&mut broadcaster).expect("a message and a leave");
        assert!(last.find("bye") < last.find("leave"), "{last}");
    }
}
