//! The HTTP API: answers from the local cache, never from a scan of anything else.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use hyper::body::Incoming;
use hyper::{Request, StatusCode, header};
use simd_json::prelude::{ValueAsScalar, ValueIntoString};

use super::reply::Reply;
use super::request::{Target, body, id_segment, pairs};
use super::stats;
use crate::deadline::timeout;
use crate::json::{self, put_list, put_member, put_number, put_string};
use crate::node::{RoomAnswer, RoomList};
use crate::presence::{LOBBY, Registry, Room, Roster, State, check_id};
use crate::worker::Worker;

/// Members or rooms on one page at most.
const MAX_PAGE: usize = 1000;
/// Users that one status request may ask about.
const MAX_STATUS_USERS: usize = 1000;
/// A list of rooms that took no longer than this to collect is collected anew for whoever asks next: some 20,000 rooms.
const CHEAP_LIST: Duration = Duration::from_millis(20);
/// How long the first heartbeat of a user waits until the tick has shown it to everybody. Normally that is one tick.
const MAX_ANNOUNCEMENT_WAIT: Duration = Duration::from_secs(2);

/// Whether there is an answer at this path.
pub(super) fn knows(segments: &[&str]) -> bool {
    matches!(
        segments,
        ["livez" | "readyz" | "metrics" | "heartbeat" | "online_users"]
            | ["v1", "stats" | "rooms"]
            | ["v1", "users", "status"]
            | ["v1", "rooms", _, "members" | "count"]
    )
}

/// Answers a GET.
pub(super) fn answer(worker: &Worker, segments: &[&str], target: &Target) -> Result<Reply, Reply> {
    let registry = &*worker.node.registry;
    match segments {
        ["v1", "rooms", room, "members"] => members(registry, &id_segment(room, "the room")?, target),
        ["v1", "rooms", room, "count"] => Ok(count(registry, &id_segment(room, "the room")?)),
        ["v1", "stats"] => Ok(stats::json(worker)),
        ["metrics"] => Ok(stats::prometheus(worker)),
        ["online_users"] => Ok(online_users(worker)),
        ["readyz"] if worker.draining.get() => {
            Err(Reply::error(StatusCode::SERVICE_UNAVAILABLE, "draining", "the server is stopping")
                .and(header::RETRY_AFTER, "5"))
        }
        // Still ready when degraded: an outage of Redis must not take every node out of service.
        ["readyz"] => Ok(match worker.node.store.degraded_since() {
            Some(since) => {
                Reply::json(|buffer| buffer.put_slice(br#"{"status":"degraded"}"#)).and_number("degraded_since", since)
            }
            None => Reply::json(|buffer| buffer.put_slice(br#"{"status":"ok"}"#)),
        }),
        ["livez"] => Ok(Reply::json(|buffer| buffer.put_slice(br#"{"status":"ok"}"#))),
        _ => Err(Reply::not_found(&target.path)),
    }
}

fn members(registry: &Registry, name: &str, target: &Target) -> Result<Reply, Reply> {
    let limit = target.number("limit", MAX_PAGE, 1..=MAX_PAGE)?;
    let after = target.first("after")?;
    Ok(Reply::json(|buffer| {
        buffer.put_slice(br#"{"room":"#);
        put_string(buffer, name);
        let Some(room) = registry.room(name) else {
            return buffer.put_slice(br#","epoch":"","seq":0,"count":0,"members":[]}"#);
        };
        buffer.put_slice(br#","epoch":"#);
        put_string(buffer, room.epoch());
        let next = put_members(buffer, &room, after.as_deref(), limit);
        put_next(buffer, next.as_deref());
    }))
}

/// Appends a page of members and returns the name to go on after, if there are more.
fn put_members(buffer: &mut BytesMut, room: &Room, after: Option<&str>, limit: usize) -> Option<Arc<str>> {
    // The page is taken under the lock and written after it: references, no copies.
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

fn count(registry: &Registry, name: &str) -> Reply {
    let count = registry.room(name).map_or(0, |room| room.read(Roster::count));
    Reply::json(|buffer| put_room_count(buffer, name, count))
}

fn put_room_count(buffer: &mut BytesMut, name: &str, count: usize) {
    buffer.put_slice(br#"{"room":"#);
    put_string(buffer, name);
    buffer.put_slice(br#","count":"#);
    put_number(buffer, count);
    buffer.put_u8(b'}');
}

/// `GET /v1/rooms`: a page of the list of rooms.
pub(super) async fn rooms(worker: &Rc<Worker>, target: &Target) -> Result<Reply, Reply> {
    let limit = target.number("limit", MAX_PAGE, 1..=MAX_PAGE)?;
    let after = target.first("after")?.unwrap_or_default();
    let rooms = room_list(worker).await;
    let start = rooms.partition_point(|(name, _)| **name <= *after);
    let page = &rooms[start..rooms.len().min(start + limit)];
    let next = page.last().filter(|_| start + limit < rooms.len()).map(|(name, _)| &**name);
    Ok(Reply::json(|buffer| {
        buffer.put_slice(br#"{"rooms":["#);
        put_list(buffer, page, |buffer, (name, count)| put_room_count(buffer, name, *count));
        buffer.put_u8(b']');
        put_next(buffer, next);
    }))
}

/// All rooms with members, sorted. With very many of them that takes a while: it is done on a thread of its own, once for all who ask
/// at the same time, and if it took long the list is good for ten times as long.
async fn room_list(worker: &Worker) -> Arc<[(Arc<str>, usize)]> {
    let mut held = worker.node.room_list.lock().await;
    if let Some(list) = held.as_ref().filter(|list| list.good_until > Instant::now()) {
        return Arc::clone(&list.rooms);
    }
    let registry = Arc::clone(&worker.node.registry);
    let collect = move || {
        let started = Instant::now();
        (collect_rooms(&registry), started.elapsed())
    };
    let (rooms, took) = tokio::task::spawn_blocking(collect).await.unwrap_or_default();
    let reuse = if took < CHEAP_LIST { Duration::ZERO } else { took * 10 };
    *held = Some(RoomList { rooms: Arc::clone(&rooms), good_until: Instant::now() + reuse });
    rooms
}

fn collect_rooms(registry: &Registry) -> Arc<[(Arc<str>, usize)]> {
    let rooms = registry.rooms();
    let counted = rooms.iter().map(|room| (Arc::clone(room.name()), room.read(Roster::count)));
    let mut list: Vec<_> = counted.filter(|(_, count)| *count > 0).collect();
    list.sort_unstable();
    list.into()
}

fn online_users(worker: &Worker) -> Reply {
    let Some(room) = worker.node.registry.room(LOBBY) else { return Reply::shared(encode_names(&[])) };
    let mut cached = worker.node.names.lock();
    let seq = room.read(Roster::seq);
    if let Some(answer) = cached.as_ref().filter(|answer| (answer.room, answer.seq) == (room.id(), seq)) {
        return Reply::shared(answer.body.clone());
    }
    let (seq, names) = room.read(|roster| {
        let names: Vec<_> = roster.members_after(None).map(|(user, _)| Arc::clone(user)).collect();
        (roster.seq(), names)
    });
    // Counted once, however many answers share it: a room that changes all the time makes many of them.
    let waiting = &worker.node.answer_bytes;
    if waiting.is_full(0) {
        return Reply::busy();
    }
    let body = waiting.count(encode_names(&names));
    *cached = Some(RoomAnswer { room: room.id(), seq, body: body.clone() });
    Reply::shared(body)
}

fn encode_names(names: &[Arc<str>]) -> Bytes {
    let mut buffer = BytesMut::with_capacity(32 + names.len() * 16);
    buffer.put_slice(br#"{"online_users":["#);
    put_list(&mut buffer, names, |buffer, name| put_string(buffer, name));
    buffer.put_slice(b"]}");
    buffer.freeze()
}

/// `POST /heartbeat`: keeps a user online for one lease. The first one is answered when everybody can see the user.
pub(super) async fn heartbeat(worker: &Rc<Worker>, request: Request<Incoming>) -> Result<Reply, Reply> {
    let unprocessable = |message: &str| Reply::error(StatusCode::UNPROCESSABLE_ENTITY, "bad_user_id", message);
    let body = body(request, worker.node.config.limits.header_timeout).await?;
    let user = text_field(&body, "user_id").ok_or_else(|| {
        unprocessable("send user_id as a form field or as JSON: user_id=alice or {\"user_id\":\"alice\"}")
    })?;
    let user = check_id(&user).map_err(|error| unprocessable(&format!("user_id {error}")))?;
    let node = &worker.node;
    worker.counters.heartbeats.add(1);
    let new = node.registry.rest_heartbeat(user, LOBBY, node.now());
    let new = new.map_err(|_| {
        Reply::error(StatusCode::SERVICE_UNAVAILABLE, "too_many_users", "too many users are online through this API")
    })?;
    if new || !is_shown(&node.registry, user) {
        wait_for_ticks(worker, 1).await;
    }
    Ok(Reply::json(|buffer| buffer.put_slice(br#"{"status":"success"}"#)))
}

/// Whether the observers of the room know the user: two requests may bring the same user in at the same time.
fn is_shown(registry: &Registry, user: &str) -> bool {
    registry.room(LOBBY).is_some_and(|room| room.read(|roster| roster.contains(user)))
}

/// Waits for so many ticks, the first of which has certainly seen what was done before.
pub(super) async fn wait_for_ticks(worker: &Worker, ticks: u64) {
    let last = worker.node.now().tick + ticks;
    let mut done = worker.done.subscribe();
    // A server that is too busy to tick in time still does what it was told: the answer is only early.
    let _ = timeout(MAX_ANNOUNCEMENT_WAIT, done.wait_for(|tick| *tick >= last)).await;
}

/// A name in a body: JSON if it looks like an object, else a form.
pub(super) fn text_field(body: &[u8], field: &str) -> Option<String> {
    if body.trim_ascii_start().starts_with(b"{") {
        return json::Reader::default().read(body, |value| {
            let user = value?.get(field)?;
            let number = || {
                user.as_u64()
                    .map(|number| number.to_string())
                    .or_else(|| user.as_i64().map(|number| number.to_string()))
            };
            user.as_str().map(str::to_owned).or_else(number)
        });
    }
    let pairs = pairs(std::str::from_utf8(body).ok()?)?;
    pairs.into_iter().find(|(name, _)| name == field).map(|(_, user)| user)
}

/// `POST /v1/users/status`.
pub(super) async fn users_status(worker: &Rc<Worker>, request: Request<Incoming>) -> Result<Reply, Reply> {
    let body = body(request, worker.node.config.limits.header_timeout).await?;
    let users: Option<Vec<String>> = json::Reader::default().read(&body, |value| {
        let users = value?.get("users")?.as_array()?;
        users.iter().map(|user| user.into_string().map(str::to_owned)).collect()
    });
    let users = users.ok_or_else(|| Reply::bad_request("send {\"users\":[\"alice\",\"bob\"]}"))?;
    if users.len() > MAX_STATUS_USERS {
        return Err(Reply::bad_request(&format!(
            "{} users are asked about, at most {MAX_STATUS_USERS} go in one request",
            users.len()
        )));
    }
    if let Some(error) = users.iter().find_map(|user| check_id(user).err()) {
        return Err(Reply::bad_request(&format!("a user {error}")));
    }
    let registry = &worker.node.registry;
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
