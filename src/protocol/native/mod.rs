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
//! S  {"type":"message","data":…,"ts":MS}                         of the application to the user of the connection
//! S  {"type":"status","users":[{"user":U,"online":true|false,"since":MS?,"state":{…}?},…]}
//! S  {"type":"error","code":…,"message":…,"type_sent":…?,"room":R?}
//! ```

mod decode;
mod encode;

use bytes::{Bytes, BytesMut};

use super::handshake::{bad_request, id};
use super::{
    AtClose, Client, CloseCodes, Command, Counting, Handshake, Identity, MAX_MESSAGES_PER_SECOND,
    MAX_ROOMS_PER_CONNECTION, MAX_ROOMS_PER_USER, MAX_WATCHED_PER_CONNECTION, Missed, OnClose, Presence, Protocol,
    Refused, Rules, Upgrade,
};
use crate::broadcast::encoder::{EncodedMessages, Encoder, MessageEncoder, Pacing, StatusEncoder};
use crate::broadcast::{RoomUpdate, Snapshot};
use crate::memory_budget::MemoryBudget;
use crate::os::unix_ms;
use crate::presence::{Audience, Form, Reason};
use crate::websocket::Refusal;
use crate::websocket::decoder::Limits;

use decode::is_heartbeat;
pub use decode::{ErrorReply, MAX_DATA_BYTES, Request, decode};
pub use encode::{
    PAGE_MEMBERS, Welcome, encode_count, encode_diff, encode_messages, encode_snapshot, encode_status,
    encode_user_message, encode_user_status, put_error, put_health, put_heartbeat_ack, put_renewed, put_welcome,
};

/// The longest message: a `watch` of 1,000 names, which is the limit per connection, if all have 128 bytes.
pub const MAX_MESSAGE_BYTES: usize = 128 * 1024;

/// Observers of the members: a snapshot, then diffs.
pub const MEMBERS: Audience = Protocol::Native.audience(0);
/// Observers of the number of members.
pub const COUNT: Audience = Protocol::Native.audience(1);

pub(super) static RULES: Rules = Rules {
    name: "native",
    presence: Presence::Lease { any_frame_renews: true },
    missed: Missed::Snapshot,
    observes_first: false,
    events: None,
    identity: Identity::AtUpgrade { missing: || bad_request("user is missing: /v1/connect?user=NAME") },
    on_close: OnClose { clean: AtClose::Leave(Reason::Closed), lost: AtClose::Grace, drained: AtClose::Grace },
    close_codes: CloseCodes::STANDARD,
    limits: Limits { frame_bytes: MAX_MESSAGE_BYTES, message_bytes: MAX_MESSAGE_BYTES, drops_too_big: true },
    subprotocol: Some(SUBPROTOCOL),
    audiences: 3,
    counting: Some(Counting { audience: 1, numbers_only: 2 }),
    status: Some(StatusEncoder { user: encode_user_status, frame: encode_status }),
    user_message: Some(encode_user_message),
    health: Some(put_health),
    renewed: Some(put_renewed),
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
    too_big: Some(|client| {
        let message = format!("the message is larger than {MAX_MESSAGE_BYTES} bytes; it was dropped");
        refuse(client, Err(ErrorReply::new("too_large", message)));
    }),
    alarm: None,
    encoders: |_| vec![Box::new(Members), Box::new(Count { messages: true }), Box::new(Count { messages: false })],
};

/// The subprotocol's name (RFC 6455, 1.9).
pub const SUBPROTOCOL: &str = "presence.v1";

/// `user` may be missing: authentication may find the user.
fn upgrade(handshake: &Handshake<'_>) -> Result<Upgrade, Refusal> {
    let user = handshake.parameter("user")?.map(|user| id(&user, "user")).transpose()?;
    let rooms = handshake.parameters("room").count();
    if rooms > MAX_ROOMS_PER_CONNECTION {
        let limit = MAX_ROOMS_PER_CONNECTION;
        return Err(bad_request(format!("{rooms} rooms are too many: the limit is {limit} rooms per connection")));
    }
    let rooms: Result<Vec<_>, _> = handshake.parameters("room").map(|room| Ok(id(&room?, "room")?.into())).collect();
    Ok(Upgrade { rooms: rooms?, ..Upgrade::new(Protocol::Native, user) })
}

fn greet(client: &mut Client<'_>, upgrade: &Upgrade) {
    let (name, server) = (client.name(), client.server());
    let ttl_ms = server.config.presence.ttl.as_millis() as u64;
    let mut first = BytesMut::new();
    let welcome = Welcome {
        user: upgrade.user.as_deref(),
        connection: &name,
        node: server.node_id,
        ttl_ms,
        heartbeat_ms: ttl_ms / 2,
        tick_ms: server.config.presence.tick.as_millis() as u64,
        expires_in_ms: upgrade.grant.as_ref().and_then(|grant| grant.expires_in_ms(unix_ms())),
    };
    put_welcome(&mut first, &welcome);
    if let Some(since) = server.degraded_since_unix_ms {
        put_health(&mut first, Some(since));
    }
    client.replies.extend_from_slice(&first);
    for room in &upgrade.rooms {
        let join = Command::Join { room, state: None, audience: Some(MEMBERS), resume: None };
        let done = client.execute(join).map_err(|refused| error_for(refused, "join", room));
        refuse(client, done);
    }
}

fn receive(client: &mut Client<'_>, request: Result<Request<'_>, ErrorReply>) {
    let done = match request {
        Ok(Request::Heartbeat { ack }) => {
            let done = client.execute(Command::Heartbeat).map_err(|refused| error_for(refused, "heartbeat", ""));
            if ack {
                put_heartbeat_ack(client.replies, unix_ms());
            }
            done
        }
        Ok(Request::Renew { token }) => client.renew(token).map_err(|refused| error_for(refused, "auth", "")),
        Ok(Request::Command(command)) => {
            let (kind, room) = subject(&command);
            client.execute(command).map_err(|refused| error_for(refused, kind, room))
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

/// The type of the message that became this command, and its room.
fn subject<'a>(command: &Command<'a>) -> (&'static str, &'a str) {
    match command {
        Command::Join { room, .. } => ("join", room),
        Command::Leave { room } => ("leave", room),
        Command::SetState { room, .. } => ("state", room),
        Command::Observe { room, .. } => ("observe", room),
        Command::Unobserve { room } => ("unobserve", room),
        Command::Resync { room } => ("resync", room),
        Command::Publish { room, .. } | Command::Relay { room, .. } => ("message", room),
        Command::Heartbeat => ("heartbeat", ""),
        Command::Watch { .. } => ("watch", ""),
        Command::Unwatch { .. } => ("unwatch", ""),
    }
}

/// The error for a command that was not executed.
fn error_for(refused: Refused, kind: &str, room: &str) -> ErrorReply {
    let error = match refused {
        Refused::NoUser | Refused::NotJoined => ErrorReply::new("not_joined", format!("you have not joined `{room}`")),
        Refused::NotObserved => ErrorReply::new("not_joined", format!("you do not observe `{room}`")),
        Refused::TooManyRooms => ErrorReply::new(
            "forbidden",
            format!("too many rooms: the limit is {MAX_ROOMS_PER_CONNECTION} rooms per connection; leave one first"),
        ),
        Refused::TooManyRoomsOfUser => ErrorReply::new(
            "forbidden",
            format!("too many rooms: the limit is {MAX_ROOMS_PER_USER} rooms per user; leave one first"),
        ),
        Refused::TooManyRoomsInAll | Refused::TooMuchState => ErrorReply::new("forbidden", refused.reason(room)),
        Refused::TooManyWatched => ErrorReply::new(
            "forbidden",
            format!(
                "too many watched users: the limits are {MAX_WATCHED_PER_CONNECTION} per connection, fewer while the \
                 server has nearly a million; unwatch some first"
            ),
        ),
        Refused::RateLimited => ErrorReply::new(
            "rate_limited",
            format!(
                "too many messages: the limits are {MAX_MESSAGES_PER_SECOND} messages per second and connection, and \
                 32 KiB per tick and room; this message was not sent"
            ),
        ),
        Refused::Forbidden(action) => {
            ErrorReply::new("forbidden", format!("your credential does not allow `{}` in `{room}`", action.name()))
        }
        Refused::NoToken => ErrorReply::new("bad_token", "the connection did not begin with a token"),
        Refused::Unconfirmed => {
            ErrorReply::new("forbidden", "the application has not confirmed your session; try again later")
        }
        Refused::ForbiddenWatch => {
            ErrorReply::new("forbidden", "your credential does not allow to watch one of these users".to_owned())
        }
    };
    error.about(kind, room)
}

fn encode_tick_messages(update: RoomUpdate<'_>, leaving: bool) -> EncodedMessages {
    EncodedMessages::for_all(encode_messages(update.room, update.messages_of(Form::Plain, leaving), update.now.unix_ms))
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

/// Encodes the number of members, and messages unless the clients may see numbers only.
#[derive(Debug)]
struct Count {
    messages: bool,
}

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
        Snapshot { pages: [frame].into(), ..Snapshot::default() }
    }

    fn messages(&self) -> Option<MessageEncoder> {
        self.messages.then_some(encode_tick_messages)
    }
}
