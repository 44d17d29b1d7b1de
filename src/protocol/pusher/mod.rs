//! The Pusher protocol, versions 5 to 7: `GET /app/{key}?protocol=7&client=…`.
//!
//! ```text
//! C  {"event":"pusher:subscribe","data":{"channel":C,"auth":A?,"channel_data":"{…}"?}}
//! C  {"event":"pusher:unsubscribe","data":{"channel":C}}
//! C  {"event":"client-…","channel":C,"data":any JSON}          on private and presence channels
//! C  {"event":"pusher:signin","data":{"auth":A,"user_data":"{\"id\":U,\"user_info\":{…}?,\"watchlist\":[U,…]?}"}}
//! C  {"event":"pusher:ping","data":{}}
//!
//! S  {"event":"pusher:connection_established","data":"{\"socket_id\":\"1.2\",\"activity_timeout\":120}"}
//! S  {"event":"pusher_internal:subscription_succeeded","channel":C,"data":"{}"}
//! S  {"event":"pusher_internal:subscription_succeeded","channel":C,
//!     "data":"{\"presence\":{\"count\":N,\"ids\":[U,…],\"hash\":{\"U\":{…}|null,…}}}"}
//! S  {"event":"pusher_internal:member_added","channel":C,"data":"{\"user_id\":U,\"user_info\":{…}}"}
//! S  {"event":"pusher_internal:member_removed","channel":C,"data":"{\"user_id\":U}"}
//! S  {"event":"rollcall:member_updated","channel":C,"data":"{\"user_id\":U,\"user_info\":{…}|null}"}   in shared rooms
//! S  {"channel":C,"event":E,"data":…,"user_id":U?}              an event of the application, or of a client
//! S  {"event":"pusher:signin_success","data":"{\"user_data\":\"{…}\"}"}             as the client sent it
//! S  {"event":"pusher_internal:watchlist_events","data":"{\"events\":[{\"name\":\"online\"|\"offline\",
//!     \"user_ids\":[U,…]},…]}"}                                  all watched users after a sign-in, then changes
//! S  {"event":"pusher:cache_miss","channel":C}                  a cache channel has no last event for a new subscriber
//! S  {"event":"pusher_internal:subscription_count","channel":C,"data":"{\"subscription_count\":N}"}
//!                                                               if the application has that option
//! S  {"event":"pusher:subscription_error","channel":C,"data":{"type":…,"error":…,"status":N}}
//! S  {"event":"pusher:pong","data":"{}"}           {"event":"pusher:error","data":{"code":N|null,"message":M}}
//! ```
//!
//! The application signs what its clients may do, so no other credential is asked for. A channel is a room of its own,
//! and users are those of the application, unless it shares rooms with other protocols
//! ([`AppRooms`]). A member's `user_info` is the info; the state is the JSON of a `user_id`
//! that is a number. Liveness and grace are those of the native protocol. A user who has signed in is a hidden user in
//! a hidden room, and owns the channel `#server-to-user-U`.

mod channel;
mod decode;
mod encode;
mod encoders;
mod errors;
mod members;
mod messages;
mod raw_json;
mod sign_in;
mod socket;
mod subscriptions;
mod user_id;
mod watchlist;

use super::{AtClose, Client, CloseCodes, Handshake, Identity, Missed, OnClose, Presence, Protocol, Rules, Upgrade};
use crate::presence::{AppRooms, Audience, Reason};
use crate::websocket::Refusal;
use crate::websocket::decoder::Limits;
use decode::Message;
use encode::{put_error, put_pong};
use encoders::{Channels, Members};
use socket::Socket;

pub use channel::is_cache_channel;
pub use messages::{data_of_event, event_data, socket_number};
pub use user_id::{is_user_id, owner_of_channel, signed_in_user};

/// Observers of channels without members.
pub const CHANNEL: Audience = Protocol::Pusher.audience(0);
/// Observers of presence channels.
pub const MEMBERS: Audience = Protocol::Pusher.audience(MEMBERS_NUMBER);
const MEMBERS_NUMBER: usize = 1;

/// The longest message: a sign-in with a list of 100 users.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// Messages up to this length cost nothing but what they ask for.
const SHORT_MESSAGE_BYTES: usize = 1024;
/// Longer ones pay for being read, a byte of work for this many bytes.
const BYTES_PER_WORK: usize = 64;

/// Close codes of the protocol. From 4000 to 4099 clients do not come back, from 4100 on they do.
const TLS_ONLY: u16 = 4000;
const UNKNOWN_APP: u16 = 4001;
const DISABLED_APP: u16 = 4003;
const UNSUPPORTED_VERSION: u16 = 4007;
const NO_VERSION: u16 = 4008;
const UNAUTHORIZED: u16 = 4009;
const OVER_CAPACITY: u16 = 4100;

pub(super) static RULES: Rules = Rules {
    name: "pusher",
    presence: Presence::Lease { any_frame_renews: true },
    missed: Missed::Wait { members: MEMBERS_NUMBER },
    observes_first: false,
    events: None,
    identity: Identity::Signed,
    on_close: OnClose { clean: AtClose::Leave(Reason::Closed), lost: AtClose::Grace, drained: AtClose::Grace },
    close_codes: CloseCodes {
        restart: OVER_CAPACITY,
        try_again: OVER_CAPACITY,
        removed: UNAUTHORIZED,
        policy: OVER_CAPACITY,
    },
    limits: Limits { frame_bytes: MAX_MESSAGE_BYTES, message_bytes: MAX_MESSAGE_BYTES, drops_too_big: true },
    subprotocol: None,
    audiences: 2,
    counting: None,
    status: Some(watchlist::STATUS),
    user_message: None,
    health: None,
    renewed: None,
    upgrade: |handshake| Some(upgrade(handshake, handshake.path.strip_prefix("/app/")?)),
    greet,
    receive: |client, _, text| receive(client, text),
    receive_binary: Some(|client, _| refuse(client, None, "messages are text")),
    too_big: Some(|client| {
        let message = format!("the message is larger than {MAX_MESSAGE_BYTES} bytes; it was dropped");
        refuse(client, None, &message);
    }),
    alarm: Some(check_authorized),
    encoders: |config| vec![Box::new(Channels::new(&config.pusher)), Box::new(Members)],
};

/// Browsers cannot see an HTTP status, so a handshake is always accepted; errors are close codes.
fn upgrade(handshake: &Handshake<'_>, key: &str) -> Result<Upgrade, Refusal> {
    match handshake.parameter("protocol") {
        Ok(Some(version)) if matches!(&*version, "5" | "6" | "7") => {}
        Ok(None) => return Err(Refusal::close(NO_VERSION, "the query has no protocol version: ?protocol=7")),
        _ => return Err(Refusal::close(UNSUPPORTED_VERSION, "the protocol version must be 5, 6 or 7")),
    }
    Ok(Upgrade { app_key: Some(key.into()), ..Upgrade::new(Protocol::Pusher, None) })
}

fn greet(client: &mut Client<'_>, upgrade: &Upgrade) {
    let is_encrypted = upgrade.is_encrypted.unwrap_or_else(|| client.is_encrypted());
    match Socket::open(client, upgrade.app_key.as_deref().unwrap_or_default(), is_encrypted) {
        Ok(socket) => {
            client.set_number(socket.number);
            encode::put_established(client.replies, &socket.id);
            if let Some(within) = socket.read_app(client, |app| app.options.authorized_within).flatten() {
                client.set_alarm(within);
            }
            client.keep(Box::new(socket));
        }
        Err((code, reason)) => client.refuse_handshake(code, reason),
    }
}

/// Closes a connection that the application has not authorized for anything in time.
fn check_authorized(client: &mut Client<'_>) {
    let Some(socket) = client.take_data::<Socket>() else { return };
    if !socket.is_authorized {
        let reason = "the client neither signed in nor subscribed to a private or presence channel in time";
        client.close(UNAUTHORIZED, reason);
    }
    client.keep(socket);
}

fn receive(client: &mut Client<'_>, text: &[u8]) {
    let Some(mut socket) = client.take_data::<Socket>() else { return };
    if let Err((code, reason)) = socket.check_app(client) {
        return client.close(code, reason);
    }
    if text.len() > SHORT_MESSAGE_BYTES {
        client.charge(text.len() / BYTES_PER_WORK);
    }
    let message = std::str::from_utf8(text).ok().and_then(Message::read);
    match message {
        None => refuse(client, None, "a message is a JSON object with an event"),
        Some(message) => match &*message.event {
            "pusher:ping" => put_pong(client.replies),
            "pusher:subscribe" => subscriptions::subscribe(client, &mut socket, &message),
            "pusher:unsubscribe" => subscriptions::unsubscribe(client, &mut socket, &message),
            "pusher:signin" => sign_in::sign_in(client, &mut socket, &message),
            "pusher:pong" => {}
            event if event.starts_with("client-") => messages::relay(client, &socket, &message),
            _ => refuse(client, None, "unknown event"),
        },
    }
    client.keep(socket);
}

/// Which rooms the channels are.
fn rooms(client: &Client<'_>) -> AppRooms {
    client.server().config.pusher.rooms
}

/// Answers a message with an error. The connection stays.
fn refuse(client: &mut Client<'_>, code: Option<u16>, message: &str) {
    client.count_refusal();
    put_error(client.replies, code, message);
}
