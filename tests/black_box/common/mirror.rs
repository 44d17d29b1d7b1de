//! A native client that mirrors its rooms from the messages it receives. It asserts the rules of the protocol on each
//! message, and waits for conditions instead of fixed times.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tokio::time::{Duration, Instant, timeout_at};

use super::room::{Members, Room, assert_keys, number, string};
use super::socket::{Event, Socket};
use super::{DEADLINE, encoded};

const CODES: [&str; 7] =
    ["unknown_type", "bad_json", "bad_field", "too_large", "not_joined", "rate_limited", "forbidden"];

pub(crate) struct Mirror {
    pub(crate) user: String,
    /// The first message; `Null` until it is received.
    pub(crate) welcome: Value,
    pub(crate) rooms: BTreeMap<String, Room>,
    /// The last status received of each watched user.
    pub(crate) watched: BTreeMap<String, Value>,
    /// Every message in order, unless `logging` is off. Tests with many mirrors turn it off to save memory.
    pub(crate) log: Vec<Value>,
    pub(crate) logging: bool,
    /// Since when the node is degraded, in milliseconds since the Unix epoch; `None` while it is not.
    pub(crate) degraded: Option<u64>,
    /// The close frame the server sent, with its code.
    pub(crate) closed: Option<Option<u16>>,
    /// Whether the connection has ended.
    pub(crate) ended: bool,
    socket: Socket,
}

impl Mirror {
    /// Connects with `room` parameters and waits for the welcome.
    pub(crate) async fn connect(address: SocketAddr, user: &str, rooms: &[&str]) -> Self {
        Self::connect_with(address, user, rooms, &[]).await
    }

    /// The same with further headers.
    pub(crate) async fn connect_with(
        address: SocketAddr,
        user: &str,
        rooms: &[&str],
        headers: &[(&'static str, String)],
    ) -> Self {
        let socket = Socket::connect_with(address, &path(user, rooms), headers).await;
        Self::over(socket, user).await
    }

    /// Connects with a small receive buffer: the client is slow soon after it stops reading.
    pub(crate) async fn connect_with_small_buffer(address: SocketAddr, user: &str, rooms: &[&str]) -> Self {
        let socket = Socket::connect_with_small_buffer(address, &path(user, rooms)).await;
        Self::over(socket, user).await
    }

    async fn over(socket: Socket, user: &str) -> Self {
        let mut mirror = Self {
            user: user.to_owned(),
            welcome: Value::Null,
            rooms: BTreeMap::new(),
            watched: BTreeMap::new(),
            log: Vec::new(),
            logging: true,
            degraded: None,
            closed: None,
            ended: false,
            socket,
        };
        mirror.wait_until("the welcome", |mirror| !mirror.welcome.is_null()).await;
        mirror
    }

    /// Sends heartbeats in the background from now on.
    pub(crate) fn with_heartbeats(self) -> Self {
        self.socket.send_heartbeats(Duration::from_millis(number(&self.welcome, "ttl_ms")));
        self
    }

    pub(crate) fn send(&self, message: &Value) {
        self.socket.send(message.to_string());
    }

    pub(crate) fn send_text(&self, text: &str) {
        self.socket.send(text);
    }

    /// Sends several messages in one TCP segment, so that the server handles them together.
    pub(crate) fn send_all(&self, messages: &[Value]) {
        self.socket.send_all(messages.iter().map(Value::to_string));
    }

    pub(crate) fn close(&self, code: u16) {
        self.socket.close(code);
    }

    /// Ends the connection without a close frame.
    pub(crate) fn drop_connection(self) {
        drop(self);
    }

    /// Stops or resumes reading from the socket.
    pub(crate) fn set_reading(&self, on: bool) {
        self.socket.set_reading(on);
    }

    pub(crate) fn observes(&self, room: &str) -> bool {
        self.rooms.get(room).is_some_and(|room| room.attached)
    }

    pub(crate) fn has(&self, room: &str, user: &str) -> bool {
        self.rooms.get(room).is_some_and(|room| room.members.contains_key(user))
    }

    pub(crate) fn state(&self, room: &str, user: &str) -> Option<&Value> {
        self.rooms.get(room)?.members.get(user)?.as_ref()
    }

    pub(crate) fn members(&self, room: &str) -> Members {
        self.rooms.get(room).map(|room| room.members.clone()).unwrap_or_default()
    }

    /// Whether the room is known and has exactly these members; cheaper than comparing `members()`.
    pub(crate) fn has_exactly(&self, room: &str, members: &Members) -> bool {
        self.rooms.get(room).is_some_and(|room| room.members == *members)
    }

    /// The number of known members of the room.
    pub(crate) fn size(&self, room: &str) -> usize {
        self.rooms.get(room).map_or(0, |room| room.members.len())
    }

    pub(crate) fn room(&self, room: &str) -> &Room {
        self.rooms.get(room).unwrap_or_else(|| panic!("{room} is unknown: {}", self.describe()))
    }

    /// The length of the log, for `since`.
    pub(crate) fn mark(&self) -> usize {
        self.log.len()
    }

    /// The messages of a type received after a mark; if `room` is not empty, only those about it.
    pub(crate) fn since<'a>(&'a self, mark: usize, kind: &str, room: &str) -> Vec<&'a Value> {
        let about = |message: &&Value| room.is_empty() || message["room"] == room;
        self.log[mark..].iter().filter(|message| message["type"] == kind).filter(about).collect()
    }

    /// Why `user` left `room`, according to the last diff with a leave of that user.
    pub(crate) fn reason(&self, room: &str, user: &str) -> Option<String> {
        let diffs = self.log.iter().rev().filter(|message| message["room"] == room);
        let mut left = diffs.filter_map(|diff| diff["left"].as_array()).flatten();
        left.find(|entry| entry["user"] == user).map(|entry| string(entry, "reason"))
    }

    /// Applies messages until the condition holds. Fails at the deadline, and at once if the connection ends.
    pub(crate) async fn wait_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !done(self) {
            assert!(!self.ended, "the connection ended while waiting for {what}: {}", self.describe());
            match timeout_at(deadline, self.socket.events.recv()).await {
                Ok(Some(event)) => self.apply(event),
                Ok(None) => self.ended = true,
                Err(_) => panic!("{what} did not come: {}", self.describe()),
            }
        }
    }

    /// Waits for the close frame of the server and for the end of the connection. Returns the code.
    pub(crate) async fn wait_for_close(&mut self) -> Option<u16> {
        self.wait_until("the end", |mirror| mirror.ended).await;
        self.closed.unwrap_or_else(|| panic!("no close frame: {}", self.describe()))
    }

    /// Applies the messages received so far, without waiting.
    pub(crate) fn apply_pending(&mut self) {
        while let Ok(event) = self.socket.events.try_recv() {
            self.apply(event);
        }
    }

    /// Waits until the messages of a tick that began after this call have been received, and with them those of all
    /// earlier ticks. To this end it observes a new empty room, whose snapshot is sent with the next tick.
    pub(crate) async fn barrier(&mut self) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let room = format!("barrier-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.send(&json!({"type": "observe", "room": room}));
        self.wait_until("the barrier", |mirror| mirror.observes(&room)).await;
        self.send(&json!({"type": "unobserve", "room": room}));
    }

    /// Sends a message that must be answered with an error. Returns the error.
    pub(crate) async fn expect_error(&mut self, text: &str) -> Value {
        let mark = self.mark();
        self.send_text(text);
        self.wait_until(&format!("an error for {text:.200}"), |mirror| !mirror.since(mark, "error", "").is_empty())
            .await;
        let errors = self.since(mark, "error", "");
        assert_eq!(errors.len(), 1, "not one error for one message: {errors:?}");
        errors[0].clone()
    }

    /// Requests an acknowledgement and waits for it: the server has handled all earlier messages of this client.
    pub(crate) async fn heartbeat(&mut self) -> Value {
        let mark = self.mark();
        self.send(&json!({"type": "heartbeat", "ack": true}));
        let acknowledged = |mirror: &Self| !mirror.since(mark, "heartbeat_ack", "").is_empty();
        self.wait_until("the acknowledgement", acknowledged).await;
        self.since(mark, "heartbeat_ack", "")[0].clone()
    }

    /// The text that a failed assertion prints.
    pub(crate) fn describe(&self) -> String {
        let tail = &self.log[self.log.len().saturating_sub(6)..];
        let tail: Vec<_> = tail.iter().map(|message| format!("{:.400}", message.to_string())).collect();
        let (user, closed) = (&self.user, &self.closed);
        format!("{user} closed={closed:?} ended={} last messages: {tail:#?}", self.ended)
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Text(text) => {
                let message = serde_json::from_str(&text)
                    .unwrap_or_else(|error| panic!("one JSON message a frame: {error}: {text}"));
                self.apply_message(message);
            }
            Event::Close(code) => self.closed = Some(code),
            Event::End => self.ended = true,
        }
    }

    fn apply_message(&mut self, message: Value) {
        let kind = string(&message, "type");
        assert_eq!(
            kind == "welcome",
            self.welcome.is_null(),
            "the welcome must be the first message and come once: {message}"
        );
        match kind.as_str() {
            "welcome" => self.welcome = message.clone(),
            "snapshot" => self.room_of(&message).apply_snapshot(&message),
            "diff" => self.room_of(&message).apply_diff(&message),
            "count" => self.room_of(&message).apply_count(&message),
            "status" => {
                assert_keys(&message, &["type", "users"], &[]);
                let users = message["users"].as_array().expect("a list of users");
                let named: BTreeSet<String> = users.iter().map(|user| string(user, "user")).collect();
                assert!(
                    !users.is_empty() && named.len() == users.len(),
                    "users must be listed, and each once: {message}"
                );
                for user in users {
                    assert_keys(user, &["user", "online"], &["since", "state"]);
                    let online = user["online"].as_bool().expect("online or not");
                    assert!(!online || user.get("since").is_some(), "an online user has no `since`: {user}");
                    assert!(online || user.get("state").is_none(), "an offline user has a state: {user}");
                    self.watched.insert(string(user, "user"), user.clone());
                }
            }
            "message" => {
                number(&message, "ts");
                self.check_message(&message);
            }
            "heartbeat_ack" => {
                assert_keys(&message, &["type", "ts"], &[]);
                number(&message, "ts");
            }
            "authenticated" => {
                assert_keys(&message, &["type", "expires_in_ms"], &[]);
                number(&message, "expires_in_ms");
            }
            "health" => self.apply_health(&message),
            "error" => {
                assert_keys(&message, &["type", "code", "message"], &["type_sent", "room"]);
                assert!(CODES.contains(&string(&message, "code").as_str()), "{message}");
                assert!(!string(&message, "message").is_empty(), "{message}");
            }
            _ => panic!("{kind} is unknown: {message}"),
        }
        if self.logging {
            self.log.push(message);
        }
    }

    /// A message of a member has a room and a user, one of the application to a room no user, and one of the
    /// application to the user of this connection neither.
    fn check_message(&self, message: &Value) {
        let keys = ["type", "data", "ts"];
        let Some(room) = message.get("room") else { return assert_keys(message, &keys, &[]) };
        assert_keys(message, &keys, &["room", "user"]);
        let room = room.as_str().expect("a name");
        assert!(self.observes(room), "a message of a room that is not observed: {message}");
        let known = &self.rooms[room];
        // Observers of the count do not know the members.
        if let Some(user) = message.get("user")
            && known.snapshots > 0
        {
            assert!(known.members.contains_key(user.as_str().expect("a name")), "not a member: {message}");
        }
    }

    fn apply_health(&mut self, message: &Value) {
        let degraded = message["degraded"].as_bool().unwrap_or_else(|| panic!("degraded is not a boolean: {message}"));
        let keys = ["type", "degraded", "since"];
        assert_keys(message, if degraded { &keys } else { &keys[..2] }, &[]);
        self.degraded = degraded.then(|| number(message, "since"));
    }

    fn room_of(&mut self, message: &Value) -> &mut Room {
        self.rooms.entry(string(message, "room")).or_default()
    }
}

/// The path that connects `user` and joins `rooms`.
pub(crate) fn path(user: &str, rooms: &[&str]) -> String {
    let mut path = format!("/v1/connect?user={}", encoded(user));
    for room in rooms {
        path.push_str("&room=");
        path.push_str(&encoded(room));
    }
    path
}
