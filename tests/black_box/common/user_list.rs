//! A client of the online-users protocol (`/ws/{user_id}`). It keeps the last list, and asserts that lists are sorted
//! and that each list differs from the one before.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::room::assert_keys;
use super::socket::{Event, Socket};
use super::{DEADLINE, SHORT_TTL, encoded};

pub(crate) struct UserList {
    /// The last list.
    pub(crate) users: Vec<String>,
    /// How many lists were received.
    pub(crate) lists: usize,
    /// How many heartbeats were acknowledged.
    pub(crate) acknowledged: usize,
    /// How many errors were received.
    pub(crate) errors: usize,
    pub(crate) closed: Option<Option<u16>>,
    pub(crate) ended: bool,
    user: String,
    socket: Socket,
}

impl UserList {
    /// Connects and waits for the first list.
    pub(crate) async fn connect(address: SocketAddr, user: &str) -> Self {
        Self::over(Socket::connect(address, &format!("/ws/{}", encoded(user))).await, user).await
    }

    /// With a small receive buffer: a slow client soon after it stops reading.
    pub(crate) async fn connect_with_small_buffer(address: SocketAddr, user: &str) -> Self {
        let socket = Socket::connect_with_small_buffer(address, &format!("/ws/{}", encoded(user))).await;
        Self::over(socket, user).await
    }

    async fn over(socket: Socket, user: &str) -> Self {
        let mut list = Self {
            users: Vec::new(),
            lists: 0,
            acknowledged: 0,
            errors: 0,
            closed: None,
            ended: false,
            user: user.to_owned(),
            socket,
        };
        list.wait_until("the first list", |list| list.lists > 0).await;
        list
    }

    /// Sends heartbeats from now on, often enough for the shortest lease of the tests.
    pub(crate) fn with_heartbeats(self) -> Self {
        self.socket.send_heartbeats(SHORT_TTL);
        self
    }

    pub(crate) fn send(&self, text: &str) {
        self.socket.send(text);
    }

    pub(crate) fn close(&self, code: u16) {
        self.socket.close(code);
    }

    /// Stops or resumes reading from the socket.
    pub(crate) fn set_reading(&self, on: bool) {
        self.socket.set_reading(on);
    }

    pub(crate) fn has(&self, user: &str) -> bool {
        self.users.iter().any(|other| other == user)
    }

    /// Sends a heartbeat and waits for its acknowledgement.
    pub(crate) async fn heartbeat(&mut self) {
        let before = self.acknowledged;
        self.send("heartbeat");
        self.wait_until("the acknowledgement", |list| list.acknowledged > before).await;
    }

    pub(crate) async fn wait_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !done(self) {
            let (user, users) = (&self.user, &self.users);
            assert!(!self.ended, "{user}: ended while waiting for {what}, closed {:?}", self.closed);
            match timeout_at(deadline, self.socket.events.recv()).await {
                Ok(Some(event)) => self.apply(event),
                Ok(None) => self.ended = true,
                Err(_) => panic!("{user}: waited for {what} in vain; the list is {users:?}"),
            }
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Text(text) => {
                let message: Value = serde_json::from_str(&text).expect("messages are JSON");
                self.apply_message(&message);
            }
            Event::Close(code) => self.closed = Some(code),
            Event::End => self.ended = true,
        }
    }

    fn apply_message(&mut self, message: &Value) {
        match message["type"].as_str() {
            Some("online_users") => {
                assert_keys(message, &["type", "users"], &[]);
                let users: Vec<String> =
                    serde_json::from_value(message["users"].clone()).expect("users are a list of strings");
                assert!(users.is_sorted_by(|a, b| a < b), "sorted, each once: {users:?}");
                assert!(self.lists == 0 || users != self.users, "the same list again: {users:?}");
                self.users = users;
                self.lists += 1;
            }
            Some("heartbeat_ack") => {
                assert_keys(message, &["type"], &[]);
                self.acknowledged += 1;
            }
            _ => {
                assert_eq!(*message, serde_json::json!({"type": "error", "message": "Unknown message"}));
                self.errors += 1;
            }
        }
    }
}
