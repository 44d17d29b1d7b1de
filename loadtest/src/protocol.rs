//! What is particular to each dialect: the path, the words of joining, the heartbeat. No sockets.
//!
//! ```text
//! native        GET /v1/connect?user=NAME   ◄ welcome   ► join | observe   [◄ count | snapshot]   ► heartbeat, leave
//! online-users  GET /ws/NAME                ◄ online_users                              ► heartbeat ◄ heartbeat_ack
//! status        GET /ws-online-status?userId=NAME   ◄ CONNECTION_ESTABLISHED                (its server pings)
//! chat          GET /ws                     ► join, ping  ◄ pong                        ► ping ◄ pong
//! floor         GET /                                                                   ► heartbeat
//! ```

use std::str;

use clap::ValueEnum;
use serde_json::json;

use crate::frame;

const USER_PREFIX: &str = "user-";

/// The dialects of docs/protocols.md that can be loaded (its headings Native, Online users, Online status, Chat), and the floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// presence.v1 at /v1/connect
    Native,
    /// The list of online users at /ws/{user}
    OnlineUsers,
    /// Single events of who comes and goes at /ws-online-status
    Status,
    /// A chat room at /ws
    Chat,
    /// Bare WebSocket at any path: nothing is said but heartbeats
    Floor,
}

/// What a client is told about its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Observe {
    /// Join without looking
    None,
    /// Numbers only
    Count,
    /// Everybody
    Members,
}

/// What a client is in its room once it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Present, and told this much.
    Member(Observe),
    /// Told everything, and not present.
    Onlooker,
    /// Connected, and in no room yet.
    Visitor,
}

/// A dialect with the choices of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dialect {
    pub(crate) protocol: Protocol,
    pub(crate) rooms: u32,
    pub(crate) first_user: u32,
}

/// What a client does on its way in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// A finished frame.
    pub(crate) send: Option<Vec<u8>>,
    /// The client is in.
    pub(crate) joined: bool,
}

impl Protocol {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::OnlineUsers => "online-users",
            Self::Status => "status",
            Self::Chat => "chat",
            Self::Floor => "floor",
        }
    }

    /// Whether to be connected is to be present: then everybody is also told of everybody.
    pub(crate) fn joins_by_connecting(self) -> bool {
        matches!(self, Self::OnlineUsers | Self::Status | Self::Chat)
    }

    /// Whether a user is gone as soon as its connection is closed.
    pub(crate) fn leaves_by_closing(self) -> bool {
        matches!(self, Self::Status | Self::Chat)
    }
}

impl Dialect {
    pub(crate) fn user(&self, index: usize) -> String {
        format!("{USER_PREFIX}{:06}", self.first_user as usize + index)
    }

    /// The index of the client with this name, if it is a name that `user` gives.
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

    /// Names are plain ASCII, so nothing needs percent-encoding.
    pub(crate) fn path(&self, base_path: &str, index: usize, role: Role) -> String {
        let user = self.user(index);
        match self.protocol {
            Protocol::Native if role == Role::Member(Observe::Members) => {
                format!("{base_path}/v1/connect?user={user}&room={}", self.room(index))
            }
            Protocol::Native => format!("{base_path}/v1/connect?user={user}"),
            Protocol::OnlineUsers => format!("{base_path}/ws/{user}"),
            Protocol::Status => format!("{base_path}/ws-online-status?userId={user}"),
            Protocol::Chat => format!("{base_path}/ws"),
            Protocol::Floor => format!("{base_path}/"),
        }
    }

    pub(crate) fn on_open(&self, index: usize) -> Step {
        Step {
            send: (self.protocol == Protocol::Chat).then(|| self.enter_chat(index)),
            joined: self.protocol == Protocol::Floor,
        }
    }

    /// A chat tells nobody of a user who was there already, so the answer to a ping says that one is in.
    fn enter_chat(&self, index: usize) -> Vec<u8> {
        let join = json!({ "type": "join", "payload": { "user": self.user(index) } });
        [frame::masked(frame::TEXT, join.to_string().as_bytes()), self.heartbeat(true)].concat()
    }

    /// What follows from a message while the client is not in yet.
    pub(crate) fn on_message(&self, index: usize, role: Role, payload: &[u8]) -> Step {
        let kind = message_kind(payload).unwrap_or_default();
        match (self.protocol, role, kind) {
            (Protocol::Native, Role::Visitor, "welcome") => Step { send: None, joined: true },
            (Protocol::Native, Role::Member(Observe::None), "welcome") => {
                Step { send: Some(self.join(index)), joined: true }
            }
            (Protocol::Native, Role::Member(Observe::Count), "welcome") => {
                let join = self.room_message(index, &json!({ "type": "join", "detail": "count" }));
                Step { send: Some(join), joined: false }
            }
            (Protocol::Native, Role::Onlooker, "welcome") => {
                Step { send: Some(self.room_message(index, &json!({ "type": "observe" }))), joined: false }
            }
            (Protocol::Native, Role::Member(Observe::Count), "count")
            | (Protocol::Native, Role::Member(Observe::Members) | Role::Onlooker, "snapshot")
            | (Protocol::OnlineUsers, _, "online_users")
            | (Protocol::Status, _, "CONNECTION_ESTABLISHED")
            | (Protocol::Chat, _, "pong") => Step { send: None, joined: true },
            _ => Step::default(),
        }
    }

    /// Become present in one's room without looking at it (native).
    pub(crate) fn join(&self, index: usize) -> Vec<u8> {
        self.room_message(index, &json!({ "type": "join", "observe": false }))
    }

    /// The same with a state.
    pub(crate) fn join_with(&self, index: usize, state: &serde_json::Value) -> Vec<u8> {
        self.room_message(index, &json!({ "type": "join", "observe": false, "state": state }))
    }

    /// Replaces one's state (native).
    pub(crate) fn set_state(&self, index: usize, state: &serde_json::Value) -> Vec<u8> {
        self.room_message(index, &json!({ "type": "state", "state": state }))
    }

    /// The opposite of `join`.
    pub(crate) fn leave(&self, index: usize) -> Vec<u8> {
        self.room_message(index, &json!({ "type": "leave" }))
    }

    /// The finished heartbeat frame, the same for all clients.
    pub(crate) fn heartbeat(&self, ask_ack: bool) -> Vec<u8> {
        let text: &[u8] = match self.protocol {
            Protocol::Native if ask_ack => br#"{"type":"heartbeat","ack":true}"#,
            Protocol::Chat => br#"{"type":"ping"}"#,
            _ => b"heartbeat",
        };
        frame::masked(frame::TEXT, text)
    }

    /// Whether heartbeats are answered. The floor does it when it was told to.
    pub(crate) fn answers(&self, ask_ack: bool) -> bool {
        ask_ack || matches!(self.protocol, Protocol::OnlineUsers | Protocol::Chat)
    }

    /// The kind of message in which they are.
    pub(crate) fn answer_kind(&self) -> &'static str {
        if self.protocol == Protocol::Chat { "pong" } else { "heartbeat_ack" }
    }

    /// A finished frame about the client's room.
    fn room_message(&self, index: usize, message: &serde_json::Value) -> Vec<u8> {
        let mut message = message.clone();
        message["room"] = self.room(index).into();
        frame::masked(frame::TEXT, message.to_string().as_bytes())
    }
}

/// The value of `type` when it is the first field, as it is in all dialects; does not parse the rest.
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

    const NATIVE: Dialect = Dialect { protocol: Protocol::Native, rooms: 1, first_user: 0 };
    const UNSEEING: Role = Role::Member(Observe::None);
    const SEEING: Role = Role::Member(Observe::Members);

    #[test]
    fn paths() {
        assert_eq!(NATIVE.path("", 7, UNSEEING), "/v1/connect?user=user-000007");
        assert_eq!(NATIVE.path("/p", 7, SEEING), "/p/v1/connect?user=user-000007&room=lobby");
        let online = Dialect { protocol: Protocol::OnlineUsers, first_user: 5000, ..NATIVE };
        assert_eq!(online.path("", 7, UNSEEING), "/ws/user-005007");
        let status = Dialect { protocol: Protocol::Status, ..NATIVE };
        assert_eq!(status.path("", 7, SEEING), "/ws-online-status?userId=user-000007");
        let rooms = Dialect { rooms: 3, ..NATIVE };
        assert_eq!(rooms.path("", 7, SEEING), "/v1/connect?user=user-000007&room=room-00001");
    }

    #[test]
    fn names_lead_back_to_their_clients() {
        let dialect = Dialect { first_user: 5000, ..NATIVE };
        assert_eq!(dialect.index_of(&dialect.user(1_234_567)), Some(1_234_567));
        assert_eq!(dialect.index_of("user-004999"), None, "another generator's");
        assert_eq!(dialect.index_of("alice"), None);
    }

    #[test]
    fn joining_without_looking_takes_a_welcome() {
        assert_eq!(NATIVE.on_message(0, UNSEEING, br#"{"type":"diff","room":"lobby"}"#), Step::default());
        let step = NATIVE.on_message(0, UNSEEING, br#"{"type":"welcome","user":"user-000000"}"#);
        assert!(step.joined);
        let expected = frame::masked(frame::TEXT, br#"{"observe":false,"room":"lobby","type":"join"}"#);
        assert_eq!(step.send, Some(expected));
    }

    #[test]
    fn those_who_look_are_in_when_they_see_the_room() {
        assert!(NATIVE.on_message(0, SEEING, br#"{"type":"snapshot","seq":1}"#).joined);
        assert!(NATIVE.on_message(0, Role::Onlooker, br#"{"type":"snapshot","seq":1}"#).joined);
        assert!(!NATIVE.on_message(0, SEEING, br#"{"type":"welcome"}"#).joined);
        assert!(NATIVE.on_message(0, Role::Member(Observe::Count), br#"{"type":"count","count":1}"#).joined);
        let step = NATIVE.on_message(0, Role::Onlooker, br#"{"type":"welcome"}"#);
        assert_eq!(step.send, Some(frame::masked(frame::TEXT, br#"{"room":"lobby","type":"observe"}"#)));
    }

    #[test]
    fn visitors_go_no_further_than_the_door() {
        assert_eq!(NATIVE.on_message(0, Role::Visitor, br#"{"type":"welcome"}"#), Step { send: None, joined: true });
    }

    #[test]
    fn in_a_chat_one_is_in_when_it_answers() {
        let chat = Dialect { protocol: Protocol::Chat, ..NATIVE };
        let join = frame::masked(frame::TEXT, br#"{"payload":{"user":"user-000003"},"type":"join"}"#);
        let ping = frame::masked(frame::TEXT, br#"{"type":"ping"}"#);
        assert_eq!(chat.on_open(3), Step { send: Some([join, ping].concat()), joined: false });
        let told = br#"{"type":"join","payload":{"user":"user-000003","ts":1.5}}"#;
        assert!(!chat.on_message(3, SEEING, told).joined, "it may be the history");
        assert!(chat.on_message(3, SEEING, br#"{"type":"pong","ts":1.5}"#).joined);
    }

    #[test]
    fn kinds_are_found_with_and_without_spaces() {
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
