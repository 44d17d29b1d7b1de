//! Presence over REST alone: `POST /heartbeat` and `GET /online_users`.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use hyper::StatusCode;

use super::context::Context;
use super::reply::{Reply, thousands};
use super::request::text_field;
use crate::json::{put_list, put_string};
use crate::node::CachedList;
use crate::presence::{LOBBY, Registry, Roster, check_id};

/// `POST /heartbeat`: keeps a user online for one lease. The first one is answered after the tick that announces the
/// user.
pub(super) async fn heartbeat(mut context: Context) -> Result<Reply, Reply> {
    let unprocessable = |message: &str| Reply::error(StatusCode::UNPROCESSABLE_ENTITY, "bad_user_id", message);
    let body = context.body().await?;
    let user = text_field(&body, "user_id").ok_or_else(|| {
        unprocessable("user_id is missing; send a form field or JSON: user_id=alice or {\"user_id\":\"alice\"}")
    })?;
    let user = check_id(&user).map_err(|error| unprocessable(&format!("user_id {error}")))?;
    let node = context.node();
    context.thread.counters.heartbeats.add(1);
    let new = node.registry.rest_heartbeat(user, LOBBY, node.now());
    let new = new.map_err(|full| {
        let limit = thousands(full.limit);
        let message = format!(
            "too many users are online through POST /heartbeat: the limit is {limit}; try again later, or connect over \
             WebSocket"
        );
        Reply::error(StatusCode::SERVICE_UNAVAILABLE, "too_many_users", &message)
    })?;
    if new || !is_announced(&node.registry, user) {
        context.wait_for_ticks(1).await;
    }
    Ok(Reply::json(|buffer| buffer.put_slice(br#"{"status":"success"}"#)))
}

/// Whether observers of the room know the user. They may not know it yet although this heartbeat was not the first: two
/// requests can bring the same user online at the same time.
fn is_announced(registry: &Registry, user: &str) -> bool {
    registry.room(LOBBY).is_some_and(|room| room.read(|roster| roster.contains(user)))
}

/// `GET /online_users`: the members of the lobby. Clients that poll share one encoded list until it changes.
pub(super) async fn online_users(context: Context) -> Result<Reply, Reply> {
    let node = context.node();
    let Some(room) = node.registry.room(LOBBY) else { return Ok(Reply::shared(encode_names(&[]))) };
    let mut cached = node.online_users.lock();
    let seq = room.read(Roster::seq);
    if let Some(answer) = cached.as_ref().filter(|answer| (answer.room, answer.seq) == (room.id(), seq)) {
        return Ok(Reply::shared(answer.body.clone()));
    }
    let (seq, names) = room.read(|roster| {
        let names: Vec<_> = roster.members_after(None).map(|(user, _)| Arc::clone(user)).collect();
        (roster.seq(), names)
    });
    // Each list is counted once, however many answers share it: a room that changes all the time makes many lists.
    let unread = &node.response_bytes;
    if unread.is_full(0) {
        return Err(Reply::busy());
    }
    let body = unread.count(encode_names(&names));
    *cached = Some(CachedList { room: room.id(), seq, body: body.clone() });
    Ok(Reply::shared(body))
}

fn encode_names(names: &[Arc<str>]) -> Bytes {
    let mut buffer = BytesMut::with_capacity(32 + names.len() * 16);
    buffer.put_slice(br#"{"online_users":["#);
    put_list(&mut buffer, names, |buffer, name| put_string(buffer, name));
    buffer.put_slice(b"]}");
    buffer.freeze()
}
