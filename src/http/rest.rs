//! Presence over REST alone: `POST /heartbeat` and `GET /online_users`.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use hyper::StatusCode;

use super::access::refused;
use super::answers::{Answers, CachedNames};
use super::context::Context;
use super::reply::{Reply, thousands};
use super::request::text_field;
use super::unread::{SharedBody, TooLarge};
use crate::auth::{Action, Credentials, Grant};
use crate::json::{put_list, put_string, string_bytes};
use crate::node::Node;
use crate::presence::{Credential, Info, LOBBY, Reason, Registry, RestOrigin, RestRefused, Room, Roster, check_id};

/// A list of that many names is made by the request itself: in well under a millisecond.
const SHORT_LIST: usize = 1000;
/// Names that are copied while the room is locked.
const PAGE_NAMES: usize = 1000;
/// The work of a changed info without its text, in bytes.
const INFO_BYTES: usize = 64;
/// The bytes of a list without its names.
const LIST_BYTES: usize = 32;

/// `POST /heartbeat`: keeps a user online for one lease. The first one is answered after the tick that announces the
/// user.
pub(super) async fn heartbeat(context: Context) -> Result<Reply, Reply> {
    let unprocessable = |message: &str| Reply::error(StatusCode::UNPROCESSABLE_ENTITY, "bad_user_id", message);
    let body = context.body().await?;
    let user = text_field(context.headers(), &body, "user_id").ok_or_else(|| {
        unprocessable("user_id is missing; send a form field or JSON: user_id=alice or {\"user_id\":\"alice\"}")
    })?;
    let user = check_id(&user).map_err(|error| unprocessable(&format!("user_id {error}")))?;
    let grant = identify(&context, &user).await?;
    let node = context.node();
    let info = grant.as_ref().map(|grant| grant.info.clone().unwrap_or_else(|| grant.no_info(node.now().unix_ms)));
    context.thread.counters.heartbeats.add(1);
    let limit = node.config.limits.rest_users_per_address;
    let origin = context.visitor.address.limited().map(|address| RestOrigin { address, limit });
    let new = node.registry.rest_heartbeat(&user, LOBBY, origin, info.as_ref(), node.now());
    let new = new.map_err(|refused| {
        context.thread.counters.rest_users_refused.add(1);
        refusal(refused, node.config.presence.ttl)
    })?;
    if let Some(grant) = grant {
        hold(&context, &user, grant.credential(&node.auth.revocations))?;
    }
    if let Some(info) = info.filter(|_| !new) {
        show(&context, &user, &info);
    }
    if new || !is_announced(&node.registry, &user) {
        context.wait_for_ticks(1).await;
    }
    Ok(Reply::json(|buffer| buffer.put_slice(br#"{"status":"success"}"#)))
}

/// Shows another info of the user. A change costs the address budget, and waits for a later heartbeat without one.
fn show(context: &Context, user: &str, info: &Info) {
    let (node, address) = (context.node(), context.visitor.address.limited());
    if node.charge_request(address, 0).is_ok() && node.registry.set_rest_info(user, info, node.now()) {
        // It was within its budget a moment ago.
        let _ = node.charge_request(address, (INFO_BYTES + info.as_str().len()) as u64);
    }
}

/// Keeps the credential with the user's session. It may have been revoked after it was checked and before that: then
/// nothing else would end the session.
fn hold(context: &Context, user: &str, credential: Credential) -> Result<(), Reply> {
    let Node { registry, auth, .. } = context.node();
    registry.note_rest_credential(user, credential);
    if !auth.revocations.refuse(user, &credential) {
        return Ok(());
    }
    registry.end_revoked(Some(user), |user, credential| auth.revocations.refuse(user, credential), Reason::Kicked);
    Err(refused(&auth.reject_revoked(context.visitor.address.limited(), context.node().now().unix_ms)))
}

/// Checks that the request speaks for this user, who may join the lobby. Returns what its credential grants, if it
/// needs one.
async fn identify(context: &Context, user: &str) -> Result<Option<Arc<Grant>>, Reply> {
    let node = context.node();
    let credentials = Credentials {
        // The protocol whose clients see these users.
        protocol: "online_users",
        subprotocol: None,
        address: context.visitor.address.ip(),
        counted: context.visitor.address.limited(),
        path: &context.target.path,
        query: &context.target.raw_query,
        claimed_user: Some(user),
        may_use_cookies: context.visitor.may_use_cookies,
        headers: context.headers(),
        unix_ms: node.now().unix_ms,
    };
    let identity = node.auth.identify_request(&credentials).await.map_err(|refusal| refused(&refusal))?;
    let grant = identity.and_then(|identity| identity.grant);
    let Some(grant) = grant else { return Ok(None) };
    match grant.permissions.allow(Action::Join, LOBBY) {
        true => Ok(Some(grant)),
        false => Err(Reply::refusal(403, "forbidden", "the credential does not allow `join` in the lobby")),
    }
}

/// The answer to a heartbeat that brings nobody online. Other users go offline within one lease.
fn refusal(refused: RestRefused, ttl: Duration) -> Reply {
    match refused {
        RestRefused::Full(limit) => {
            let limit = thousands(limit);
            let message = format!(
                "too many users are online through POST /heartbeat: the limit is {limit}; try again later, or connect \
                 over WebSocket"
            );
            Reply::error(StatusCode::SERVICE_UNAVAILABLE, "too_many_users", &message)
        }
        RestRefused::AddressFull(limit) => {
            let limit = thousands(limit as usize);
            let message = format!(
                "too many users are online through POST /heartbeat from this address: the limit is {limit} \
                 (--rest-users-per-address); try again later, or connect over WebSocket"
            );
            Reply::too_many("too_many_users", &message, ttl.as_secs().max(1))
        }
    }
}

/// Whether observers of the room know the user. They may not know it yet although this heartbeat was not the first: two
/// requests can bring the same user online at the same time.
fn is_announced(registry: &Registry, user: &str) -> bool {
    registry.room(LOBBY).is_some_and(|room| room.read(|roster| roster.contains(user)))
}

/// `GET /online_users`: the members of the lobby. Clients that poll share one encoded list until it changes. A long
/// list is made on the thread for long work.
pub(super) async fn online_users(context: Context) -> Result<Reply, Reply> {
    context.rights.check(Action::Observe, LOBBY)?;
    let registry = &context.node().registry;
    let answers = &context.thread.answers;
    let Some(room) = registry.room(LOBBY) else {
        return Ok(Reply::json(|buffer| buffer.put_slice(br#"{"online_users":[]}"#)));
    };
    let (seq, count) = room.read(|roster| (roster.seq(), roster.count()));
    let cached = answers.last_names.lock().as_ref().and_then(|cached| cached.valid_for(room.id(), seq));
    let body = match cached {
        Some(body) => Ok(body),
        None if count <= SHORT_LIST => make_list(&room, answers),
        None => {
            let (room, answers) = (Arc::clone(&room), Arc::clone(answers));
            context.thread.answers.names.get(move || make_list(&room, &answers)).await
        }
    };
    let body = body.map_err(|TooLarge| Reply::busy())?;
    context.charge(body.bytes().len())?;
    Ok(Reply::shared(body))
}

/// Makes the list, and keeps it for further requests. Names are copied as references, page by page, so that the room is
/// never locked for long: the list may have the changes of a tick only in part, and is not kept then.
fn make_list(room: &Room, answers: &Answers) -> Result<Arc<SharedBody>, TooLarge> {
    let seq = room.read(Roster::seq);
    let mut names: Vec<Arc<str>> = Vec::new();
    loop {
        let (before, after) = (names.len(), names.last().cloned());
        room.read(|roster| {
            let page = roster.members_after(after.as_deref()).take(PAGE_NAMES);
            names.extend(page.map(|(user, _)| Arc::clone(user)));
        });
        if names.len() - before < PAGE_NAMES {
            break;
        }
    }
    let bytes = names.iter().map(|name| string_bytes(name) + 1).sum::<usize>() + LIST_BYTES;
    answers.unread.make_room(bytes)?;
    let body = Arc::new(answers.unread.share(encode_names(&names, bytes)));
    if room.read(Roster::seq) == seq {
        let mut last = answers.last_names.lock();
        // Another thread may have made a newer one meanwhile.
        if last.as_ref().is_none_or(|last| (last.room, last.seq) <= (room.id(), seq)) {
            *last = Some(CachedNames { room: room.id(), seq, body: Arc::clone(&body) });
        }
    }
    Ok(body)
}

fn encode_names(names: &[Arc<str>], bytes: usize) -> Bytes {
    let mut buffer = BytesMut::with_capacity(bytes);
    buffer.put_slice(br#"{"online_users":["#);
    put_list(&mut buffer, names, |buffer, name| put_string(buffer, name));
    buffer.put_slice(b"]}");
    buffer.freeze()
}
