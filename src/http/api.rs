//! The HTTP API of rooms, answered from the local cache.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use super::answers::{RoomEntry, RoomList, SharedRooms};
use super::context::Context;
use super::reply::Reply;
use super::rights::Position;
use crate::auth::{Action, Permissions};
use crate::json::{put_list, put_member, put_number, put_string, string_bytes};
use crate::presence::{Info, Registry, Room, Roster, State, is_internal};

/// The most members or rooms on one page.
pub(super) const MAX_PAGE: usize = 1000;
/// Rooms that are collected by the request itself: in well under a millisecond.
const SHORT_LIST: usize = 1000;
/// The bytes of a room or member in a list, without its name and state.
const ROOM_BYTES: usize = 64;

/// `GET /v1/rooms/{room}/members`: a page of the members.
pub(super) async fn members(context: Context) -> Result<Reply, Reply> {
    let name = context.id("room", "the room name")?;
    context.rights.check(Action::Observe, &name)?;
    let limit = context.target.number("limit", MAX_PAGE, 1..=MAX_PAGE)?;
    let after = context.target.first("after")?;
    let registry = &context.node().registry;
    let observers = registry.observers(&name);
    let room = registry.room(&name);
    let page = room.as_ref().map_or_else(Page::default, |room| Page::read(room, after.as_deref(), limit));
    context.charge(page.bytes())?;
    Ok(Reply::json(|buffer| {
        buffer.put_slice(br#"{"room":"#);
        put_string(buffer, &name);
        buffer.put_slice(br#","epoch":"#);
        put_string(buffer, room.as_ref().map_or("", |room| room.epoch()));
        page.put(buffer, observers);
    }))
}

/// A page of the members of a room. It is copied as references under the lock of the room and written without it.
#[derive(Debug, Default)]
struct Page {
    seq: u64,
    count: usize,
    members: Vec<(Arc<str>, Option<State>)>,
    /// Whether members come after the page.
    has_more: bool,
}

impl Page {
    fn read(room: &Room, after: Option<&str>, limit: usize) -> Self {
        let (seq, count, mut members): (_, _, Vec<_>) = room.read(|roster| {
            let members = roster.members_after(after).take(limit + 1);
            (roster.seq(), roster.count(), members.map(|(user, state)| (Arc::clone(user), state.cloned())).collect())
        });
        let has_more = members.len() > limit;
        members.truncate(limit);
        Self { seq, count, members, has_more }
    }

    /// An upper bound of its length.
    fn bytes(&self) -> usize {
        let state_bytes = |state: &Option<State>| state.as_ref().map_or(0, State::bytes);
        self.members.iter().map(|(user, state)| string_bytes(user) + state_bytes(state) + ROOM_BYTES).sum()
    }

    fn put(&self, buffer: &mut BytesMut, observers: u64) {
        buffer.reserve(self.bytes());
        buffer.put_slice(br#","seq":"#);
        put_number(buffer, self.seq);
        buffer.put_slice(br#","count":"#);
        put_number(buffer, self.count);
        buffer.put_slice(br#","observers":"#);
        put_number(buffer, observers);
        buffer.put_slice(br#","members":["#);
        put_list(buffer, &self.members, |buffer, (user, state)| {
            let (state, info) = (state.as_ref(), state.as_ref().and_then(State::info));
            put_member(buffer, user, state.and_then(State::json), info.map(Info::as_str));
        });
        buffer.put_u8(b']');
        put_next(buffer, self.members.last().filter(|_| self.has_more).map(|(user, _)| &**user));
    }
}

/// Appends where the next page begins, if there is one, and the end of the object.
pub(super) fn put_next(buffer: &mut BytesMut, next: Option<&str>) {
    if let Some(next) = next {
        buffer.put_slice(br#","next":"#);
        put_string(buffer, next);
    }
    buffer.put_u8(b'}');
}

/// `GET /v1/rooms/{room}/count`.
pub(super) async fn count(context: Context) -> Result<Reply, Reply> {
    let name = context.id("room", "the room name")?;
    context.rights.check(Action::Count, &name)?;
    let entry = room_entry(&context.node().registry, name.into());
    Ok(Reply::json(|buffer| put_room(buffer, &entry)))
}

/// How many members and observers a room has.
pub(super) fn room_entry(registry: &Registry, name: Arc<str>) -> RoomEntry {
    let members = registry.room(&name).map_or(0, |room| room.read(Roster::count));
    RoomEntry { members, observers: registry.observers(&name), name }
}

fn put_room(buffer: &mut BytesMut, room: &RoomEntry) {
    buffer.put_slice(br#"{"room":"#);
    put_string(buffer, &room.name);
    buffer.put_slice(br#","count":"#);
    put_number(buffer, room.members);
    buffer.put_slice(br#","observers":"#);
    put_number(buffer, room.observers);
    buffer.put_u8(b'}');
}

/// `GET /v1/rooms`: a page of the list of rooms.
pub(super) async fn rooms(context: Context) -> Result<Reply, Reply> {
    let limit = context.target.number("limit", MAX_PAGE, 1..=MAX_PAGE)?;
    let after = context.target.first("after")?.unwrap_or_default();
    // Rooms of applications are their own affair.
    let rooms = room_list(&context, &context.thread.answers.rooms, |name| !is_internal(name)).await;
    let (page, next) = match context.rights.restricted() {
        None => page_of(&rooms, &after, limit),
        Some(permissions) => visible_page(&rooms, &after, limit, permissions),
    };
    let bytes: usize = page.iter().map(|room| string_bytes(&room.name) + ROOM_BYTES).sum();
    context.charge(bytes + context.rights.check_work(2 * limit))?;
    Ok(Reply::json(|buffer| {
        buffer.put_slice(br#"{"rooms":["#);
        put_list(buffer, page, put_room);
        buffer.put_u8(b']');
        put_next(buffer, next.as_deref());
    }))
}

/// A page of the rooms, and where the next one begins.
fn page_of<'a>(rooms: &'a [RoomEntry], after: &str, limit: usize) -> (Vec<&'a RoomEntry>, Option<String>) {
    let start = rooms.partition_point(|room| *room.name <= *after);
    let page = &rooms[start..rooms.len().min(start + limit)];
    let next = page.last().filter(|_| start + limit < rooms.len()).map(|room| room.name.to_string());
    (page.iter().collect(), next)
}

/// A page of the rooms that these permissions let a client observe. It looks at `limit` rooms, whether it shows them or
/// not. Ranges in which no name can be allowed count as one.
fn visible_page<'a>(
    rooms: &'a [RoomEntry],
    after: &str,
    limit: usize,
    permissions: &Permissions,
) -> (Vec<&'a RoomEntry>, Option<String>) {
    let Position { after, skipped } = Position::read(after);
    let (mut last, mut behind_last) = (after, rooms.partition_point(|room| *room.name <= *after));
    let mut at = behind_last.saturating_add(skipped).min(rooms.len());
    let mut page = Vec::new();
    for _ in 0..limit {
        let Some(room) = rooms.get(at) else { break };
        match permissions.next_room(Action::Observe, &room.name) {
            None => at = rooms.len(),
            Some(next) if *next > *room.name => at += rooms[at..].partition_point(|room| *room.name < *next),
            Some(_) => {
                at += 1;
                if permissions.allow(Action::Observe, &room.name) {
                    page.push(room);
                    (last, behind_last) = (&room.name, at);
                }
            }
        }
    }
    let next = (at < rooms.len()).then(|| Position { after: last, skipped: at - behind_last }.text());
    (page, next)
}

/// The rooms with members or observers that are listed, sorted. Many rooms are collected on the thread for long work,
/// for all requests together.
pub(super) async fn room_list(context: &Context, shared: &SharedRooms, is_listed: fn(&str) -> bool) -> RoomList {
    let registry = &context.node().registry;
    if registry.max_used_rooms() <= SHORT_LIST {
        return collect_rooms(registry, is_listed);
    }
    let registry = Arc::clone(registry);
    shared.get(move || collect_rooms(&registry, is_listed)).await
}

fn collect_rooms(registry: &Registry, is_listed: fn(&str) -> bool) -> RoomList {
    let mut names = registry.used_rooms();
    names.retain(|name| is_listed(name));
    let mut list = Vec::with_capacity(names.len());
    let rooms = names.into_iter().map(|name| room_entry(registry, name));
    // A room may have been left since its name was collected.
    list.extend(rooms.filter(RoomEntry::is_used));
    Arc::new(list)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rooms(names: &[&str]) -> Vec<RoomEntry> {
        names.iter().map(|name| RoomEntry { name: Arc::from(*name), members: 1, observers: 0 }).collect()
    }

    fn permissions(rooms: &[&str]) -> Permissions {
        let caps = json!([{"rooms": rooms, "allow": ["observe"]}, {"rooms": ["*"], "allow": ["join"]}]);
        Permissions::from_claims(Some(&caps), None, &Permissions::everything()).unwrap()
    }

    /// The pages of all rooms, with the `next` of each.
    fn pages(rooms: &[RoomEntry], limit: usize, permissions: &Permissions) -> Vec<(Vec<String>, Option<String>)> {
        let (mut pages, mut after) = (Vec::new(), Some(String::new()));
        while let Some(from) = after.take() {
            let (page, next) = visible_page(rooms, &from, limit, permissions);
            after.clone_from(&next);
            pages.push((page.iter().map(|room| room.name.to_string()).collect(), next));
        }
        pages
    }

    #[test]
    fn pages_have_each_visible_room_once_and_name_no_other() {
        let all = rooms(&["a-open", "b-secret", "c-secret", "d-secret", "e-open", "f-secret", "g-open", "h-secret"]);
        for limit in 1..10 {
            let pages = pages(&all, limit, &permissions(&["*-open"]));
            let shown: Vec<_> = pages.iter().flat_map(|(page, _)| page).collect();
            assert_eq!(shown, ["a-open", "e-open", "g-open"], "{limit}");
            assert!(pages.iter().all(|(_, next)| !next.as_deref().unwrap_or("").contains("secret")), "{pages:?}");
            assert!(pages.len() <= 8 / limit + 1, "{pages:?}");
        }
    }

    #[test]
    fn ranges_without_visible_rooms_are_skipped_at_once() {
        let names: Vec<String> = (0..1000).map(|number| format!("room-{number:03}")).collect();
        let all = rooms(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let pages = pages(&all, 4, &permissions(&["room-5*", "room-777", "team-*"]));
        assert_eq!(pages.iter().map(|(page, _)| page.len()).sum::<usize>(), 101);
        assert!(pages.len() < 30, "{} pages", pages.len());
        assert!(visible_page(&all, "room-6", 4, &permissions(&["room-5*"])).1.is_none());
    }
}
