//! The client's side of each protocol: path, handshake messages, heartbeat. No sockets.
//!
//! ```text
//! native        GET /v1/connect?user=NAME   ◄ welcome   ► join | observe   [◄ count | snapshot]   ► heartbeat, leave
//! online-users  GET /ws/NAME                ◄ online_users                              ► heartbeat ◄ heartbeat_ack
//! online-status GET /ws-online-status?userId=NAME   ◄ CONNECTION_ESTABLISHED                (the server sends pings)
//! chat          GET /ws                     ► join, ping  ◄ pong                        ► ping ◄ pong
//! pusher        see `pusher`
//! floor         GET /                                                                   ► heartbeat
//! ```

use std::str;

use clap::ValueEnum;
use serde_json::json;
use wire::frame;

use crate::pusher;

const USER_PREFIX: &str = "user-";

/// The protocols of docs/protocols.md that can be loaded (Native, Online users, Online status, Chat), and the floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// presence.v1 at /v1/connect: snapshots and diffs
    Native,
    /// /ws/{user}: the list of online users
    OnlineUsers,
    /// /ws-online-status: an event per user who comes online or goes offline
    OnlineStatus,
    /// /ws: a chat room with an event per join and leave
    Chat,
    /// Pusher protocol 7 at /app/loadtest: presence channels. The server needs an app with the key `loadtest` and the
    /// secret `loadtest-secret`
    Pusher,
    /// Bare WebSocket at any path: heartbeats only
    Floor,
}

/// What a client observes in its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Observe {
    /// Nothing
    None,
    /// The number of members
    Count,
    /// The members
    Members,
}

/// What a client does after it has connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Joins its room.
    Member(Observe),
    /// Observes the members of its room without joining it.
    Observer,
    /// Enters no room.
    NoRoom,
}

/// A protocol with the settings of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientProtocol {
    pub(crate) kind: Protocol,
    pub(crate) rooms: u32,
    pub(crate) first_user: u32,
    /// User names are padded to this many digits.
    pub(crate) user_digits: u8,
}

/// How a client that is not ready yet reacts to a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reaction {
    /// A complete frame.
    pub(crate) send: Option<Vec<u8>>,
    /// The client has reached its role.
    pub(crate) is_ready: bool,
}

impl Protocol {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::OnlineUsers => "online-users",
            Self::OnlineStatus => "online-status",
            Self::Chat => "chat",
            Self::Pusher => "pusher",
            Self::Floor => "floor",
        }
    }

    /// Whether a connected user is present. Then every client also receives the presence of every other.
    pub(crate) fn joins_by_connecting(self) -> bool {
        matches!(self, Self::OnlineUsers | Self::OnlineStatus | Self::Chat)
    }

    /// Whether a user leaves as soon as its connection closes.
    pub(crate) fn leaves_by_closing(self) -> bool {
        matches!(self, Self::OnlineStatus | Self::Chat)
    }
}

impl ClientProtocol {
    pub(crate) fn user(&self, index: usize) -> String {
        let (number, digits) = (self.first_user as usize + index, usize::from(self.user_digits));
        format!("{USER_PREFIX}{number:0digits$}")
    }

    /// The inverse of `user`. `None`: the name does not belong to this generator.
    pub(crate) fn index_of(&self, user: &str) -> Option<usize> {
        let number: usize = user.strip_prefix(USER_PREFIX)?.parse().ok()?;
        number.checked_sub(self.first_user as usize)
    }

    pub(crate) fn room(&self, index: usize) -> String {
        self.room_name(index % self.rooms as usize)
    }

    pub(crate) fn room_name(&self, number: usize) -> String {
        if self.rooms == 1 { "lobby".to_owned() } else { format!("room-{number:05}") }
    }

    /// Names are plain ASCII, so they need no percent-encoding.
    pub(crate) fn path(&self, base_path: &str, index: usize, role: Role) -> String {
        let user = self.user(index);
        match self.kind {
            Protocol::Native if role == Role::Member(Observe::Members) => {
                format!("{base_path}/v1/connect?user={user}&room={}", self.room(index))
            }
            Protocol::Native => format!("{base_path}/v1/connect?user={user}"),
            Protocol::OnlineUsers => format!("{base_path}/ws/{user}"),
            Protocol::OnlineStatus => format!("{base_path}/ws-online-status?userId={user}"),
            Protocol::Chat => format!("{base_path}/ws"),
            Protocol::Pusher => pusher::path(base_path),
            Protocol::Floor => format!("{base_path}/"),
        }
    }

    pub(crate) fn on_open(&self, index: usize) -> Reaction {
        Reaction {
            send: (self.kind == Protocol::Chat).then(|| self.join_chat(index)),
            is_ready: self.kind == Protocol::Floor,
        }
    }

    /// The join of a user who is present already is not broadcast, so the answer to a ping shows that the join is done.
    fn join_chat(&self, index: usize) -> Vec<u8> {
        let join = json!({ "type": "join", "payload": { "user": self.user(index) } });
        [frame::masked(frame::TEXT, join.to_string().as_bytes()), self.heartbeat(true)].concat()
    }

    /// The reaction to a message while the client is not ready.
    pub(crate) fn on_message(&self, index: usize, role: Role, payload: &[u8]) -> Reaction {
        if self.kind == Protocol::Pusher {
            return self.on_pusher_message(index, role, payload);
        }
        let kind = message_kind(payload).unwrap_or_default();
        match (self.kind, role, kind) {
            (Protocol::Native, Role::NoRoom, "welcome") => Reaction { send: None, is_ready: true },
            (Protocol::Native, Role::Member(Observe::None), "welcome") => {
                Reaction { send: Some(self.join(index)), is_ready: true }
            }
            (Protocol::Native, Role::Member(Observe::Count), "welcome") => {
                let join = self.room_message(index, &json!({ "type": "join", "detail": "count" }));
                Reaction { send: Some(join), is_ready: false }
            }
            (Protocol::Native, Role::Observer, "welcome") => {
                Reaction { send: Some(self.room_message(index, &json!({ "type": "observe" }))), is_ready: false }
            }
            (Protocol::Native, Role::Member(Observe::Count), "count")
            | (Protocol::Native, Role::Member(Observe::Members) | Role::Observer, "snapshot")
            | (Protocol::OnlineUsers, _, "online_users")
            | (Protocol::OnlineStatus, _, "CONNECTION_ESTABLISHED")
            | (Protocol::Chat, _, "pong") => Reaction { send: None, is_ready: true },
            _ => Reaction::default(),
        }
    }

    /// The server speaks first. Its frame contains the id that the subscription is signed with.
    fn on_pusher_message(&self, index: usize, role: Role, payload: &[u8]) -> Reaction {
        let Some(socket_id) = pusher::socket_id(payload) else {
            return Reaction { send: None, is_ready: pusher::is_subscribed(payload) };
        };
        match role {
            Role::NoRoom => Reaction { send: None, is_ready: true },
            Role::Member(_) | Role::Observer => {
                let subscribe = pusher::subscribe(&socket_id, &self.room(index), &self.user(index));
                Reaction { send: Some(subscribe), is_ready: false }
            }
        }
    }

    /// Joins the client's room without observing it (native).
    pub(crate) fn join(&self, index: usize) -> Vec<u8> {
        self.room_message(index, &json!({ "type": "join", "observe": false }))
    }

    /// Joins with a state (native).
    pub(crate) fn join_with(&self, index: usize, state: &serde_json::Value) -> Vec<u8> {
        self.room_message(index, &json!({ "type": "join", "observe": false, "state": state }))
    }

    /// Replaces the client's state (native).
    pub(crate) fn set_state(&self, index: usize, state: &serde_json::Value) -> Vec<u8> {
        self.room_message(index, &json!({ "type": "state", "state": state }))
    }

    /// Leaves the client's room (native).
    pub(crate) fn leave(&self, index: usize) -> Vec<u8> {
        self.room_message(index, &json!({ "type": "leave" }))
    }

    /// The complete heartbeat frame, the same for all clients.
    pub(crate) fn heartbeat(&self, ask_ack: bool) -> Vec<u8> {
        let text: &[u8] = match self.kind {
            Protocol::Native if ask_ack => br#"{"type":"heartbeat","ack":true}"#,
            Protocol::Chat => br#"{"type":"ping"}"#,
            _ => b"heartbeat",
        };
        frame::masked(frame::TEXT, text)
    }

    /// Whether the server answers heartbeats. The floor does if it was started with --ack.
    pub(crate) fn answers(&self, ask_ack: bool) -> bool {
        ask_ack || matches!(self.kind, Protocol::OnlineUsers | Protocol::Chat)
    }

    /// The kind of message that answers a heartbeat.
    pub(crate) fn answer_kind(&self) -> &'static str {
        if self.kind == Protocol::Chat { "pong" } else { "heartbeat_ack" }
    }

    /// A complete frame about the client's room.
    fn room_message(&self, index: usize, message: &serde_json::Value) -> Vec<u8> {
        let mut message = message.clone();
        message["room"] = self.room(index).into();
        frame::masked(frame::TEXT, message.to_string().as_bytes())
    }
}

/// The value of `type` if it is the first field, as it is in all protocols. The rest is not parsed.
pub(crate) fn message_kind(payload: &[u8]) -> Option<&str> {
    let rest = after(payload, b"{")?;
    let rest = after(rest, br#""type""#)?;
    let rest = after(rest, b":")?;
    let rest = after(rest, b"\"")?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    str::from_utf8(&rest[..end]).ok()
}

fn after<'a>(bytes: &'a [u8], token: &[u8]) -> Option<&'a [u8]> {
    bytes.trim_ascii_start().strip_prefix(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NATIVE: ClientProtocol = ClientProtocol { kind: Protocol::Native, rooms: 1, first_user: 0, user_digits: 6 };
    const JOINS_ONLY: Role = Role::Member(Observe::None);
    const OBSERVES: Role = Role::Member(Observe::Members);

    #[test]
    fn paths_carry_the_user_and_the_room_to_join() {
        assert_eq!(NATIVE.path("", 7, JOINS_ONLY), "/v1/connect?user=user-000007");
        assert_eq!(NATIVE.path("/p", 7, OBSERVES), "/p/v1/connect?user=user-000007&room=lobby");
        let online = ClientProtocol { kind: Protocol::OnlineUsers, first_user: 5000, ..NATIVE };
        assert_eq!(online.path("", 7, JOINS_ONLY), "/ws/user-005007");
        let status = ClientProtocol { kind: Protocol::OnlineStatus, ..NATIVE };
        assert_eq!(status.path("", 7, OBSERVES), "/ws-online-status?userId=user-000007");
        let rooms = ClientProtocol { rooms: 3, ..NATIVE };
        assert_eq!(rooms.path("", 7, OBSERVES), "/v1/connect?user=user-000007&room=room-00001");
    }

    #[test]
    fn a_user_name_leads_back_to_its_client() {
        let protocol = ClientProtocol { first_user: 5000, ..NATIVE };
        assert_eq!(protocol.index_of(&protocol.user(1_234_567)), Some(1_234_567));
        assert_eq!(protocol.index_of("user-004999"), None, "the user of another generator");
        assert_eq!(protocol.index_of("alice"), None);
        let short = ClientProtocol { user_digits: 5, ..NATIVE };
        assert_eq!((short.user(42), short.index_of("user-00042")), ("user-00042".to_owned(), Some(42)));
    }

    #[test]
    fn joining_without_observing_waits_for_the_welcome() {
        assert_eq!(NATIVE.on_message(0, JOINS_ONLY, br#"{"type":"diff","room":"lobby"}"#), Reaction::default());
        let step = NATIVE.on_message(0, JOINS_ONLY, br#"{"type":"welcome","user":"user-000000"}"#);
        assert!(step.is_ready);
        let expected = frame::masked(frame::TEXT, br#"{"observe":false,"room":"lobby","type":"join"}"#);
        assert_eq!(step.send, Some(expected));
    }

    #[test]
    fn observing_clients_are_ready_with_their_first_snapshot_or_count() {
        assert!(NATIVE.on_message(0, OBSERVES, br#"{"type":"snapshot","seq":1}"#).is_ready);
        assert!(NATIVE.on_message(0, Role::Observer, br#"{"type":"snapshot","seq":1}"#).is_ready);
        assert!(!NATIVE.on_message(0, OBSERVES, br#"{"type":"welcome"}"#).is_ready);
        assert!(NATIVE.on_message(0, Role::Member(Observe::Count), br#"{"type":"count","count":1}"#).is_ready);
        let step = NATIVE.on_message(0, Role::Observer, br#"{"type":"welcome"}"#);
        assert_eq!(step.send, Some(frame::masked(frame::TEXT, br#"{"room":"lobby","type":"observe"}"#)));
    }

    #[test]
    fn clients_without_a_room_are_ready_with_the_welcome() {
        assert_eq!(
            NATIVE.on_message(0, Role::NoRoom, br#"{"type":"welcome"}"#),
            Reaction { send: None, is_ready: true }
        );
    }

    #[test]
    fn chat_clients_are_ready_with_the_answer_to_their_ping() {
        let chat = ClientProtocol { kind: Protocol::Chat, ..NATIVE };
        let join_frame = frame::masked(frame::TEXT, br#"{"payload":{"user":"user-000003"},"type":"join"}"#);
        let ping = frame::masked(frame::TEXT, br#"{"type":"ping"}"#);
        assert_eq!(chat.on_open(3), Reaction { send: Some([join_frame, ping].concat()), is_ready: false });
        let join = br#"{"type":"join","payload":{"user":"user-000003","ts":1.5}}"#;
        assert!(!chat.on_message(3, OBSERVES, join).is_ready, "it may come from the history");
        assert!(chat.on_message(3, OBSERVES, br#"{"type":"pong","ts":1.5}"#).is_ready);
    }

    #[test]
    fn the_kind_is_found_with_and_without_spaces() {
        for (payload, kind) in [
            (r#"{"type":"heartbeat_ack","ts":1}"#, Some("heartbeat_ack")),
            (r#" { "type" : "online_users", "users": ["a"]}"#, Some("online_users")),
            (r#"{"room":"lobby","type":"diff"}"#, None),
            (r#"{"type":"cut"#, None),
            ("heartbeat", None),
        ] {
            assert_eq!(message_kind(payload.as_bytes()), kind, "{payload}");
        }
    }
}
