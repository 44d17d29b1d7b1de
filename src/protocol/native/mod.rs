//! The native protocol `presence.v1`: `GET /v1/connect?user=alice[&room=lobby…]`.
//!
//! ```text
//! C  heartbeat   (the bare text)            {"type":"heartbeat","ack":true?}
//! C  {"type":"join","room":R,"state":{…}?,"observe":true?,"detail":"members"|"count"?,
//!     "resume":{"epoch":E,"seq":N}?}
//! C  {"type":"leave","room":R}              {"type":"state","room":R,"state":{…}|null}
//! C  {"type":"observe","room":R,"detail":…?,"resume":…?}
//! C  {"type":"unobserve","room":R}          {"type":"resync","room":R}
//! C  {"type":"message","room":R,"data":any JSON}
//! C  {"type":"watch","users":[U,…]}         {"type":"unwatch","users":[U,…]}
//!
//! S  {"type":"welcome","protocol":"presence.v1","user":U,"connection":C,"node":N,"ttl_ms":…,"heartbeat_ms":…,
//!     "tick_ms":…}
//! S  {"type":"snapshot","room":R,"epoch":E,"seq":N,"count":K,"members":[{"user":U,"state":{…}?},…],"page":1,"pages":1}
//! S  {"type":"diff","room":R,"seq":N,"count":K,"joined":[…]?,"updated":[…]?,"left":[{"user":U,"reason":…},…]?}
//! S  {"type":"count","room":R,"seq":N,"count":K}              {"type":"heartbeat_ack","ts":MS}
//! S  {"type":"health","degraded":true,"since":MS}              {"type":"health","degraded":false}
//! S  {"type":"message","room":R,"user":U?,"data":…,"ts":MS}      without `user` if the application published it
//! S  {"type":"status","users":[{"user":U,"online":true|false,"since":MS?,"state":{…}?},…]}
//! S  {"type":"error","code":…,"message":…,"type_sent":…?}
//! ```

mod decode;
mod encode;

use bytes::{Bytes, BytesMut};

use super::handshake::{bad_request, id};
use super::{
    AtClose, Client, Command, Handshake, Identity, MAX_MESSAGES_PER_SECOND, MAX_ROOMS_PER_CONNECTION,
    MAX_WATCHED_PER_CONNECTION, Missed, OnClose, Presence, Protocol, Refused, Rules, Upgrade,
};
use crate::broadcast::encoder::{Encoder, MessageEncoder, Pacing, StatusEncoder};
use crate::broadcast::{RoomUpdate, Snapshot};
use crate::memory_budget::MemoryBudget;
use crate::os::unix_ms;
use crate::presence::{Audience, Reason};
use crate::websocket::Refusal;
use crate::websocket::decoder::Limits;

use decode::is_heartbeat;
pub use decode::{ErrorReply, MAX_DATA_BYTES, Request, decode};
pub use encode::{
    PAGE_MEMBERS, Welcome, encode_count, encode_diff, encode_messages, encode_snapshot, encode_status,
    encode_user_status, put_error, put_health, put_heartbeat_ack, put_welcome,
};

/// Observers of the members: a snapshot, then diffs.
pub const MEMBERS: Audience = Protocol::Native.audience(0);
/// Observers of the number of members.
pub const COUNT: Audience = Protocol::Native.audience(1);

pub(super) static RULES: Rules = Rules {
    presence: Presence::Lease { any_frame_renews: true },
    missed: Missed::Snapshot,
    identity: Identity::AtUpgrade { missing: || bad_request("user is missing: /v1/connect?user=NAME") },
    on_close: OnClose { clean: AtClose::Leave(Reason::Closed), lost: AtClose::Grace, drained: AtClose::Grace },
    limits: Limits::PRESENCE,
    subprotocol: Some(SUBPROTOCOL),
    audiences: 2,
    status: Some(StatusEncoder { user: encode_user_status, frame: encode_status }),
    health: Some(put_health),
    upgrade: |handshake| (handshake.path == "/v1/connect").then(|| upgrade(handshake)),
    greet,
    receive: |client, reader, text| match is_heartbeat(text) {
        // Nearly every message: no parser and no reply. `decode` recognizes it as well, but through it a heartbeat
        // costs 31 to 48 instructions more (`scripts/instructions`, of 358).
        true => {
            let _ = client.execute(Command::Heartbeat);
        }
        false => decode(reader, text, |request| receive(client, request)),
    },
    receive_binary: None,
    encoders: |_| vec![Box::new(Members), Box::new(Count)],
};

/// The subprotocol's name (RFC 6455, 1.9).
pub const SUBPROTOCOL: &str = "presence.v1";

/// `user` may be missing: authentication may find the user.
fn upgrade(handshake: &Handshake<'_>) -> Result<Upgrade, Refusal> {
    let query = handshake.query()?;
    let user = query.first("user").map(|user| id(user, "user")).transpose()?;
    let rooms = query.all("room").count();
    if rooms > MAX_ROOMS_PER_CONNECTION {
        let limit = MAX_ROOMS_PER_CONNECTION;
        return Err(bad_request(format!("{rooms} rooms are too many: the limit is {limit} rooms per connection")));
    }
    let rooms: Result<Vec<_>, _> = query.all("room").map(|room| Ok(id(room, "room")?.into())).collect();
    Ok(Upgrade { rooms: rooms?, ..Upgrade::new(Protocol::Native, user) })
}

fn greet(client: &mut Client<'_>, upgrade: &Upgrade) {
    let (name, server) = (client.name(), client.server());
    let ttl_ms = server.config.presence.ttl.as_millis() as u64;
    let mut first = BytesMut::new();
    let welcome = Welcome {
        user: upgrade.user.as_deref().unwrap_or_default(),
        connection: &name,
        node: server.node_id,
        ttl_ms,
        heartbeat_ms: ttl_ms / 2,
        tick_ms: server.config.presence.tick.as_millis() as u64,
    };
    put_welcome(&mut first, &welcome);
    if let Some(since) = server.degraded_since_unix_ms {
        put_health(&mut first, Some(since));
    }
    client.replies.extend_from_slice(&first);
    for room in &upgrade.rooms {
        let join = Command::Join { room, state: None, audience: Some(MEMBERS), resume: None };
        let done = client.execute(join).map_err(|refused| error_for(refused, room));
        refuse(client, done);
    }
}

fn receive(client: &mut Client<'_>, request: Result<Request<'_>, ErrorReply>) {
    let done = match request {
        Ok(Request::Heartbeat { ack }) => {
            let done = client.execute(Command::Heartbeat).map_err(|refused| error_for(refused, ""));
            if ack {
                put_heartbeat_ack(client.replies, unix_ms());
            }
            done
        }
        Ok(Request::Command(command)) => {
            let room = room_of(&command);
            client.execute(command).map_err(|refused| error_for(refused, room))
        }
        Err(error) => Err(error),
    };
    refuse(client, done);
}

fn refuse(client: &mut Client<'_>, done: Result<(), ErrorReply>) {
    if let Err(error) = done {
        client.count_refusal();
        put_error(client.replies, &error);
    }
}

fn room_of<'a>(command: &Command<'a>) -> &'a str {
    match command {
        Command::Join { room, .. }
        | Command::Leave { room }
        | Command::SetState { room, .. }
        | Command::Observe { room, .. }
        | Command::Unobserve { room }
        | Command::Resync { room }
        | Command::Publish { room, .. } => room,
        Command::Heartbeat | Command::Watch { .. } | Command::Unwatch { .. } => "",
    }
}

/// The error for a command that was not executed.
fn error_for(refused: Refused, room: &str) -> ErrorReply {
    match refused {
        Refused::NoUser | Refused::NotJoined => ErrorReply::new("not_joined", format!("you have not joined `{room}`")),
        Refused::NotObserved => ErrorReply::new("not_joined", format!("you do not observe `{room}`")),
        Refused::TooManyRooms => ErrorReply::new(
            "forbidden",
            format!("too many rooms: the limit is {MAX_ROOMS_PER_CONNECTION} rooms per connection; leave one first"),
        ),
        Refused::TooManyWatched => ErrorReply::new(
            "forbidden",
            format!(
                "too many watched users: the limits are {MAX_WATCHED_PER_CONNECTION} per connection and a million per \
                 server; unwatch some first"
            ),
        ),
        Refused::RateLimited => ErrorReply::new(
            "rate_limited",
            format!(
                "too many messages: the limits are {MAX_MESSAGES_PER_SECOND} messages per second and connection, and \
                 32 KiB per tick and room; this message was not sent"
            ),
        ),
    }
}

fn encode_tick_messages(update: RoomUpdate<'_>, leaving: bool) -> Bytes {
    encode_messages(update.room, update.messages_of(leaving), update.now.unix_ms)
}

/// Encodes snapshots and diffs.
#[derive(Debug)]
struct Members;

impl Encoder for Members {
    fn pacing(&self) -> Pacing {
        Pacing::Snapshots
    }

    fn has_history(&self) -> bool {
        true
    }

    /// The room keeps diffs for clients that resume, even while it has no observers.
    fn records(&self, update: RoomUpdate<'_>) -> bool {
        update.change.observed_before.contains(MEMBERS)
    }

    fn changes(&mut self, update: RoomUpdate<'_>) -> Option<Bytes> {
        let RoomUpdate { room, change, .. } = update;
        if change.diff.is_empty() {
            return None;
        }
        let frame = encode_diff(room, change.seq, change.count, &change.diff);
        room.remember(change.seq, frame.clone());
        Some(frame)
    }

    fn snapshot(&mut self, update: RoomUpdate<'_>, unread: &MemoryBudget) -> Snapshot {
        Snapshot::new(encode_snapshot(update.room), unread)
    }

    fn messages(&self) -> Option<MessageEncoder> {
        Some(encode_tick_messages)
    }
}

/// Encodes the number of members.
#[derive(Debug)]
struct Count;

impl Encoder for Count {
    fn pacing(&self) -> Pacing {
        Pacing::Short
    }

    fn changes(&mut self, update: RoomUpdate<'_>) -> Option<Bytes> {
        let RoomUpdate { room, change, .. } = update;
        let changed = change.diff.joined.len() != change.diff.left.len();
        changed.then(|| encode_count(room, change.seq, change.count))
    }

    fn snapshot(&mut self, update: RoomUpdate<'_>, _: &MemoryBudget) -> Snapshot {
        let frame = encode_count(update.room, update.change.seq, update.change.count);
        Snapshot { pages: [frame].into(), spans: None }
    }

    fn messages(&self) -> Option<MessageEncoder> {
        Some(encode_tick_messages)
    }
}
