//! The HTTP API below `/v1`: rooms and users, answered from the local cache.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use simd_json::prelude::ValueIntoString;

use super::context::Context;
use super::reply::{Reply, thousands};
use crate::json::{self, put_list, put_member, put_number, put_string};
use crate::node::{Node, RoomEntry, RoomList};
use crate::presence::{Registry, Room, Roster, State, check_id};

/// The most members or rooms on one page.
const MAX_PAGE: usize = 1000;
/// The most users in one status request.
const MAX_STATUS_USERS: usize = 1000;
/// A list of rooms that was collected faster than this is not reused: collecting it again is cheap. Some 20,000 rooms.
const CHEAP_LIST: Duration = Duration::from_millis(20);
/// A list that took longer is reused for this many times the time it took.
const REUSE_FACTOR: u32 = 10;

/// `GET /v1/rooms/{room}/members`: a page of the members.
pub(super) async fn members(context: Context) -> Result<Reply, Reply> {
    let name = context.id("room", "the room name")?;
    let limit = context.target.number("limit", MAX_PAGE, 1..=MAX_PAGE)?;
    let after = context.target.first("after")?;
    Ok(Reply::json(|buffer| {
        buffer.put_slice(br#"{"room":"#);
        put_string(buffer, &name);
        let registry = &context.node().registry;
        let observers = registry.observers(&name);
        let Some(room) = registry.room(&name) else {
            buffer.put_slice(br#","epoch":"","seq":0,"count":0,"observers":"#);
            put_number(buffer, observers);
            return buffer.put_slice(br#","members":[]}"#);
        };
        buffer.put_slice(br#","epoch":"#);
        put_string(buffer, room.epoch());
        let next = put_members(buffer, &room, observers, after.as_deref(), limit);
        put_next(buffer, next.as_deref());
    }))
}

/// Appends a page of members. Returns the last user of the page if there are more.
fn put_members(
    buffer: &mut BytesMut,
    room: &Room,
    observers: u64,
    after: Option<&str>,
    limit: usize,
) -> Option<Arc<str>> {
    // The page is copied as references under the lock of the room and written without it.
    let (seq, count, mut page): (_, _, Vec<(Arc<str>, Option<State>)>) = room.read(|roster| {
        let members = roster.members_after(after).take(limit + 1);
        (roster.seq(), roster.count(), members.map(|(user, state)| (Arc::clone(user), state.cloned())).collect())
    });
    let more = page.len() > limit;
    page.truncate(limit);
    buffer.put_slice(br#","seq":"#);
    put_number(buffer, seq);
    buffer.put_slice(br#","count":"#);
    put_number(buffer, count);
    buffer.put_slice(br#","observers":"#);
    put_number(buffer, observers);
    buffer.put_slice(br#","members":["#);
    put_list(buffer, &page, |buffer, (user, state)| put_member(buffer, user, state.as_ref().map(State::as_str)));
    buffer.put_u8(b']');
    page.pop().filter(|_| more).map(|(user, _)| user)
}

fn put_next(buffer: &mut BytesMut, next: Option<&str>) {
    if let Some(next) = next {
        buffer.put_slice(br#","next":"#);
        put_string(buffer, next);
    }
    buffer.put_u8(b'}');
}

/// `GET /v1/rooms/{room}/count`.
pub(super) async fn count(context: Context) -> Result<Reply, Reply> {
    let name = context.id("room", "the room name")?;
    let entry = room_entry(&context.node().registry, name.into());
    Ok(Reply::json(|buffer| put_room(buffer, &entry)))
}

fn room_entry(registry: &Registry, name: Arc<str>) -> RoomEntry {
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
    let rooms = room_list(context.node()).await;
    let start = rooms.partition_point(|room| *room.name <= *after);
    let page = &rooms[start..rooms.len().min(start + limit)];
    let next = page.last().filter(|_| start + limit < rooms.len()).map(|room| &*room.name);
    Ok(Reply::json(|buffer| {
        buffer.put_slice(br#"{"rooms":["#);
        put_list(buffer, page, put_room);
        buffer.put_u8(b']');
        put_next(buffer, next);
    }))
}

/// All rooms with members or observers, sorted. Collecting many rooms takes a while, so it runs on its own thread, once
/// for all requests that arrive meanwhile; a list that took long is reused.
async fn room_list(node: &Node) -> Arc<[RoomEntry]> {
    let mut cached = node.room_list.lock().await;
    if let Some(list) = cached.as_ref().filter(|list| list.valid_until > Instant::now()) {
        return Arc::clone(&list.rooms);
    }
    let registry = Arc::clone(&node.registry);
    let collect = move || {
        let started = Instant::now();
        (collect_rooms(&registry), started.elapsed())
    };
    let (rooms, took) = tokio::task::spawn_blocking(collect).await.unwrap_or_default();
    let reuse = if took < CHEAP_LIST { Duration::ZERO } else { took * REUSE_FACTOR };
    *cached = Some(RoomList { rooms: Arc::clone(&rooms), valid_until: Instant::now() + reuse });
    rooms
}

fn collect_rooms(registry: &Registry) -> Arc<[RoomEntry]> {
    let rooms = registry.used_rooms().into_iter().map(|name| room_entry(registry, name));
    // A room may have been left since its name was collected.
    let mut list: Vec<_> = rooms.filter(|room| room.members > 0 || room.observers > 0).collect();
    list.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    list.into()
}

/// `POST /v1/users/status`.
pub(super) async fn users_status(mut context: Context) -> Result<Reply, Reply> {
    let body = context.body().await?;
    let users: Option<Vec<String>> = json::Reader::default().read(&body, |value| {
        let users = value?.get("users")?.as_array()?;
        users.iter().map(|user| user.into_string().map(str::to_owned)).collect()
    });
    let users = users.ok_or_else(|| {
        Reply::bad_request("the body must be a JSON object with a list of user ids: {\"users\":[\"alice\",\"bob\"]}")
    })?;
    if users.len() > MAX_STATUS_USERS {
        return Err(Reply::bad_request(&format!(
            "the limit is {} users per request; this one asks about {}",
            thousands(MAX_STATUS_USERS),
            thousands(users.len())
        )));
    }
    if let Some(error) = users.iter().find_map(|user| check_id(user).err()) {
        return Err(Reply::bad_request(&format!("a user id {error}")));
    }
    let registry = &context.node().registry;
    Ok(Reply::json(|buffer| {
        buffer.put_slice(br#"{"users":["#);
        put_list(buffer, &users, |buffer, user| put_status(buffer, registry, user));
        buffer.put_slice(b"]}");
    }))
}

fn put_status(buffer: &mut BytesMut, registry: &Registry, user: &str) {
    buffer.put_slice(br#"{"user":"#);
    put_string(buffer, user);
    let Some(status) = registry.status(user) else { return buffer.put_slice(br#","online":false}"#) };
    buffer.put_slice(br#","online":true,"rooms":["#);
    put_list(buffer, &status.rooms, |buffer, room| put_string(buffer, room));
    buffer.put_slice(br#"],"since":"#);
    put_number(buffer, status.since_unix_ms);
    buffer.put_u8(b'}');
}
