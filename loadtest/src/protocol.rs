//! What is particular to each dialect: the path, the words of joining, the heartbeat. No sockets.
//!
//! ```text
//! native        GET /v1/connect?user=NAME   ◄ welcome   ► join   [◄ count | snapshot]   ► heartbeat
//! online-users  GET /ws/NAME                ◄ online_users                              ► heartbeat ◄ heartbeat_ack
//! floor         GET /                                                                   ► heartbeat
//! ```

use std::str;

use clap::ValueEnum;
use serde_json::json;

use crate::frame;

/// The dialects of PROTOCOLS that can be loaded, and the floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// presence.v1 at /v1/connect
    Native,
    /// The list of online users at /ws/{user}
    OnlineUsers,
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

/// A dialect with the choices of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dialect {
    pub(crate) protocol: Protocol,
    pub(crate) observe: Observe,
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
            Self::Floor => "floor",
        }
    }
}

impl Dialect {
    pub(crate) fn user(&self, index: usize) -> String {
        format!("user-{:06}", self.first_user as usize + index)
    }

    pub(crate) fn room(&self, index: usize) -> String {
        self.room_name(index % self.rooms as usize)
    }

    pub(crate) fn room_name(&self, number: usize) -> String {
        if self.rooms == 1 { "lobby".to_owned() } else { format!("room-{number:05}") }
    }

    /// Names are plain ASCII, so nothing needs percent-encoding.
    pub(crate) fn path(&self, base_path: &str, index: usize) -> String {
        let user = self.user(index);
        match self.protocol {
            Protocol::Native if self.observe == Observe::Members => {
                format!("{base_path}/v1/connect?user={user}&room={}", self.room(index))
            }
            Protocol::Native => format!("{base_path}/v1/connect?user={user}"),
            Protocol::OnlineUsers => format!("{base_path}/ws/{user}"),
            Protocol::Floor => format!("{base_path}/"),
        }
    }

    pub(crate) fn on_open(&self) -> Step {
        Step { send: None, joined: self.protocol == Protocol::Floor }
    }

    /// What follows from a message while the client is not in yet.
    pub(crate) fn on_message(&self, index: usize, payload: &[u8]) -> Step {
        let kind = message_kind(payload).unwrap_or_default();
        match (self.protocol, self.observe, kind) {
            (Protocol::Native, Observe::None, "welcome") => {
                Step { send: Some(self.join(index, &json!({ "observe": false }))), joined: true }
            }
            (Protocol::Native, Observe::Count, "welcome") => {
                Step { send: Some(self.join(index, &json!({ "detail": "count" }))), joined: false }
            }
            (Protocol::Native, Observe::Count, "count")
            | (Protocol::Native, Observe::Members, "snapshot")
            | (Protocol::OnlineUsers, _, "online_users") => Step { send: None, joined: true },
            _ => Step::default(),
        }
    }

    /// The finished heartbeat frame, the same for all clients.
    pub(crate) fn heartbeat(&self, ask_ack: bool) -> Vec<u8> {
        let text: &[u8] = match self.protocol {
            Protocol::Native if ask_ack => br#"{"type":"heartbeat","ack":true}"#,
            _ => b"heartbeat",
        };
        frame::masked(frame::TEXT, text)
    }

    /// Whether heartbeats are answered. The floor does it when it was told to.
    pub(crate) fn answers(&self, ask_ack: bool) -> bool {
        ask_ack || self.protocol == Protocol::OnlineUsers
    }

    fn join(&self, index: usize, extra: &serde_json::Value) -> Vec<u8> {
        let mut message = json!({ "type": "join", "room": self.room(index) });
        if let (Some(message), Some(extra)) = (message.as_object_mut(), extra.as_object()) {
            message.extend(extra.clone());
        }
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

    fn native(observe: Observe) -> Dialect {
        Dialect { protocol: Protocol::Native, observe, rooms: 1, first_user: 0 }
    }

    #[test]
    fn paths() {
        assert_eq!(native(Observe::None).path("", 7), "/v1/connect?user=user-000007");
        assert_eq!(native(Observe::Members).path("/p", 7), "/p/v1/connect?user=user-000007&room=lobby");
        let online = Dialect { protocol: Protocol::OnlineUsers, first_user: 5000, ..native(Observe::None) };
        assert_eq!(online.path("", 7), "/ws/user-005007");
        let rooms = Dialect { rooms: 3, ..native(Observe::Members) };
        assert_eq!(rooms.path("", 7), "/v1/connect?user=user-000007&room=room-00001");
    }

    #[test]
    fn joining_without_looking_takes_a_welcome() {
        let dialect = native(Observe::None);
        assert_eq!(dialect.on_message(0, br#"{"type":"diff","room":"lobby"}"#), Step::default());
        let step = dialect.on_message(0, br#"{"type":"welcome","user":"user-000000"}"#);
        assert!(step.joined);
        let expected = frame::masked(frame::TEXT, br#"{"observe":false,"room":"lobby","type":"join"}"#);
        assert_eq!(step.send, Some(expected));
    }

    #[test]
    fn observers_are_in_when_they_see_the_room() {
        assert!(native(Observe::Members).on_message(0, br#"{"type":"snapshot","seq":1}"#).joined);
        assert!(!native(Observe::Members).on_message(0, br#"{"type":"welcome"}"#).joined);
        assert!(native(Observe::Count).on_message(0, br#"{"type":"count","count":1}"#).joined);
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
