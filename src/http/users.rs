//! `POST /v1/users/status`: which users are online, and on request where.
//!
//! The answer is prepared in slices, with other requests in between: a user may be in many rooms.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use simd_json::prelude::ValueIntoString;
use tokio::task::yield_now;

use super::api::MAX_PAGE;
use super::context::Context;
use super::reply::{Reply, thousands};
use super::rights::Position;
use crate::auth::{Action, Permissions};
use crate::json::{self, Value, put_list, put_number, put_string, string_bytes};
use crate::presence::{Registry, UserRooms, check_id};

/// The most users in one request.
const MAX_USERS: usize = 1000;
/// Users that are looked up before other requests have their turn.
const USERS_PER_SLICE: usize = 16;
/// The bytes of a user in the answer, without names.
const USER_BYTES: usize = 80;
/// The work of looking at a room that is not listed, in bytes of an answer.
const LOOK_BYTES: usize = 2;
/// The work of reading a room that is skipped.
const SKIP_BYTES: usize = 16;

/// The users that a request asks about, each once, and which of their rooms it wants.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    users: Vec<String>,
    /// The limit of rooms per user; `None` if rooms are not requested.
    rooms: Option<usize>,
    /// Rooms up to this name were listed before.
    after: String,
}

/// `POST /v1/users/status`.
pub(super) async fn status(context: Context) -> Result<Reply, Reply> {
    let body = context.body().await?;
    // An address that is over its budget causes no work.
    context.charge(0)?;
    let mut question = json::Reader::default().read(&body, |value| Question::read(value.as_ref()))?;
    let checks = question.users.len() + if question.rooms.is_some() { MAX_PAGE } else { 0 };
    let permissions = context.rights.restricted();
    if let Some(permissions) = permissions {
        question.users.retain(|user| permissions.allow_watch(user));
    }
    let registry = &context.node().registry;
    let mut answer = Answer { left: MAX_PAGE, users: Vec::with_capacity(question.users.len()), bytes: 0, work: 0 };
    for users in question.users.chunks(USERS_PER_SLICE) {
        users.iter().for_each(|user| answer.add(registry, &question, user, permissions));
        yield_now().await;
    }
    context.charge(answer.bytes)?;
    context.charge_work(answer.work + context.rights.check_work(checks))?;
    Ok(Reply::json(|buffer| answer.put(buffer, &question)))
}

impl Question {
    fn read(body: Option<&Value<'_, '_>>) -> Result<Self, Reply> {
        let bad = |message: &str| Err(Reply::bad_request(message));
        let Some(body) = body.filter(|body| body.is_object()) else {
            return bad("the body is not a JSON object; send a list of user ids: {\"users\":[\"alice\",\"bob\"]}");
        };
        let field = |name: &str| json::field(body, name);
        let users = field("users");
        if users.is_none() {
            return bad("users is missing; send a list of user ids: {\"users\":[\"alice\",\"bob\"]}");
        }
        let Some(named) = users.as_ref().and_then(Value::as_array) else {
            return bad("users must be a list of user ids: {\"users\":[\"alice\",\"bob\"]}");
        };
        if named.len() > MAX_USERS {
            let (limit, asked) = (thousands(MAX_USERS), thousands(named.len()));
            return bad(&format!("the limit is {limit} users per request; this one asks about {asked}"));
        }
        let (mut known, mut users) = (HashSet::new(), Vec::new());
        for (at, user) in named.iter().enumerate() {
            let Some(user) = user.into_string() else { return bad(&format!("users[{at}] must be a string")) };
            let user = match check_id(user) {
                Ok(user) => user.into_owned(),
                Err(error) => return bad(&format!("users[{at}] {error}")),
            };
            if known.insert(user.clone()) {
                users.push(user);
            }
        }
        let rooms = match field("rooms").map(|rooms| json::whole_number(&rooms)) {
            None => None,
            Some(Some(rooms)) if (1..=MAX_PAGE as i128).contains(&rooms) => Some(rooms as usize),
            Some(_) => {
                let limit = thousands(MAX_PAGE);
                return bad(&format!("rooms limits the rooms per user; it must be a whole number from 1 to {limit}"));
            }
        };
        let after = match field("after").map(ValueIntoString::into_string) {
            None => String::new(),
            Some(Some(after)) => after.to_owned(),
            Some(None) => return bad("after must be a string: the `next` of an answer"),
        };
        Ok(Self { users, rooms, after })
    }
}

/// The statuses as references, so that the length of the answer is known before it is written.
#[derive(Debug)]
struct Answer {
    /// Rooms that the answer may still list.
    left: usize,
    /// In the order of the question; `None` for users who are offline.
    users: Vec<Option<Listed>>,
    /// An upper bound of the length of the answer.
    bytes: usize,
    /// The work of finding it, in bytes, which its length does not include: a page may begin far behind the first room,
    /// or behind the last one.
    work: usize,
}

/// A user who is online, with a page of the rooms.
#[derive(Debug, PartialEq, Eq)]
struct Listed {
    since_unix_ms: u64,
    rooms: Vec<Arc<str>>,
    /// Where the next page begins, if there is one.
    next: Option<String>,
}

impl Listed {
    /// A page for a client that sees all rooms.
    fn all(page: UserRooms, after: &str) -> Self {
        let UserRooms { rooms, has_more, since_unix_ms, .. } = page;
        let next = has_more.then(|| rooms.last().map_or(after, |room| room).to_owned());
        Self { since_unix_ms, rooms, next }
    }

    /// The part of a page that a client may see: rooms that it may observe. `page` begins before the position.
    fn visible(mut page: UserRooms, position: Position<'_>, permissions: &Permissions) -> Self {
        page.rooms.drain(..position.skipped.min(page.rooms.len()));
        let (mut last, mut skipped, mut rooms) = (Arc::from(position.after), position.skipped, Vec::new());
        for room in page.rooms {
            if permissions.allow(Action::Observe, &room) {
                (last, skipped) = (Arc::clone(&room), 0);
                rooms.push(room);
            } else {
                skipped += 1;
            }
        }
        let next = page.has_more.then(|| Position { after: &last, skipped }.text());
        Self { since_unix_ms: page.since_unix_ms, rooms, next }
    }
}

impl Answer {
    fn add(&mut self, registry: &Registry, question: &Question, user: &str, permissions: Option<&Permissions>) {
        let limit = question.rooms.map_or(0, |rooms| rooms.min(self.left));
        let looked_at = |page: &Option<UserRooms>| page.as_ref().map_or(0, |page| page.looked_at * LOOK_BYTES);
        let status = match permissions {
            None => {
                let page = registry.status(user, &question.after, limit);
                self.work += looked_at(&page);
                self.left -= page.as_ref().map_or(0, |page| page.rooms.len());
                page.map(|page| Listed::all(page, &question.after))
            }
            Some(permissions) => {
                let position = Position::read(&question.after);
                let page = registry.status(user, position.after, position.skipped.saturating_add(limit));
                let read = page.as_ref().map_or(0, |page| page.rooms.len());
                self.work += looked_at(&page) + read.min(position.skipped) * SKIP_BYTES;
                self.left -= page.as_ref().map_or(0, |page| page.rooms.len().saturating_sub(position.skipped));
                page.map(|page| Listed::visible(page, position, permissions))
            }
        };
        let rooms = status.as_ref().map_or(&[][..], |status| &status.rooms);
        self.bytes += USER_BYTES + string_bytes(user) + rooms.iter().map(|room| string_bytes(room) + 1).sum::<usize>();
        // For `next`.
        self.bytes += status.as_ref().and_then(|status| status.next.as_deref()).map_or(0, string_bytes);
        self.users.push(status);
    }

    fn put(&self, buffer: &mut BytesMut, question: &Question) {
        buffer.reserve(self.bytes);
        buffer.put_slice(br#"{"users":["#);
        put_list(buffer, question.users.iter().zip(&self.users), |buffer, (user, status)| {
            put_status(buffer, question, user, status.as_ref());
        });
        buffer.put_slice(b"]}");
    }
}

fn put_status(buffer: &mut BytesMut, question: &Question, user: &str, status: Option<&Listed>) {
    buffer.put_slice(br#"{"user":"#);
    put_string(buffer, user);
    let Some(status) = status else { return buffer.put_slice(br#","online":false}"#) };
    buffer.put_slice(br#","online":true,"since":"#);
    put_number(buffer, status.since_unix_ms);
    if question.rooms.is_some() {
        buffer.put_slice(br#","rooms":["#);
        put_list(buffer, &status.rooms, |buffer, room| put_string(buffer, room));
        buffer.put_u8(b']');
        if let Some(next) = &status.next {
            buffer.put_slice(br#","next":"#);
            put_string(buffer, next);
        }
    }
    buffer.put_u8(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::{Now, Settings};

    #[test]
    fn rooms_that_are_skipped_cost_work() {
        let registry = Registry::new(Settings { ttl: 10, workers: 1, incarnation: 1 });
        let session = registry.open_session("alice", Now::default());
        for room in 0..100 {
            registry.join(&session, &format!("room-{room}"), None, Now::default());
        }
        let everything = Permissions::everything();
        let work = |after: &str, rooms: Option<usize>, permissions| {
            let question = Question { users: vec!["alice".to_owned()], rooms, after: after.to_owned() };
            let mut answer = Answer { left: MAX_PAGE, users: Vec::new(), bytes: 0, work: 0 };
            answer.add(&registry, &question, "alice", permissions);
            assert!(answer.bytes < 200, "nothing is listed: {answer:?}");
            answer.work
        };
        assert!(work("room-99", Some(1000), None) >= 100 * LOOK_BYTES, "behind the end");
        assert!(work("", None, None) >= 100 * LOOK_BYTES, "only the status");
        for skipped in [100, 9999, usize::MAX] {
            let behind = work(&format!("\t{skipped}"), Some(1000), Some(&everything));
            assert!(behind >= 100 * SKIP_BYTES, "{skipped} skipped: {behind}");
        }
    }
}
