//! One room and all protocols at once: whichever protocol users join, send messages and leave with, observers of every
//! protocol agree on the members and messages.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::common::{DEADLINE, EventClient, Mirror, Random, TestServer, UserList};

/// A client for each way to observe the lobby.
struct Observers {
    native: Mirror,
    counting: Mirror,
    watching: Mirror,
    list: UserList,
    status: EventClient,
    chat: EventClient,
}

impl Observers {
    /// The chat client connects first, so it sees every join.
    async fn start(server: &TestServer, users: &[String]) -> Self {
        let chat = server.chat("chat").await;
        let list = server.online_users("list").await;
        let status = server.online_status("status").await;
        let native = server.observe("native", "lobby").await;
        let counting = server.connect("counting").await;
        counting.send(&json!({"type": "observe", "room": "lobby", "detail": "count"}));
        let watching = server.connect("watching").await;
        watching.send(&json!({"type": "watch", "users": users}));
        Self { native, counting, watching, list, status, chat }
    }

    /// Waits until every observer sees exactly these members; three of the observers are members themselves.
    async fn agree(&mut self, members: &BTreeSet<String>, users: &[String]) {
        let count = members.len();
        let is = |received: BTreeSet<String>| received == *members;
        self.native.wait_until("the members", |mirror| is(mirror.members("lobby").into_keys().collect())).await;
        let counted = |mirror: &Mirror| mirror.rooms.get("lobby").is_some_and(|room| room.count == count as u64);
        self.counting.wait_until("the count", counted).await;
        self.list.wait_until("the list", |list| is(list.users.iter().cloned().collect())).await;
        self.chat.wait_until("the chat members", |chat| is(chat_members(chat))).await;
        // An online-status client is not told about its own user. Its log has user ids as JSON.
        let others: BTreeSet<String> =
            members.iter().filter(|user| *user != "status").map(|user| format!("\"{user}\"")).collect();
        self.status.wait_until("the online-status events", |status| status.online == others).await;
        let online = |mirror: &Mirror, user: &String| mirror.watched.get(user).map(|status| status["online"] == true);
        let complete = |mirror: &Mirror| users.iter().all(|user| online(mirror, user) == Some(members.contains(user)));
        self.watching.wait_until("the status of all users", complete).await;
    }
}

/// The members according to the joins and leaves that a chat client received.
fn chat_members(chat: &EventClient) -> BTreeSet<String> {
    let mut members = BTreeSet::new();
    for message in &chat.log {
        let user = message["payload"]["user"].as_str().unwrap_or_default().to_owned();
        match message["type"].as_str() {
            Some("join") => assert!(members.insert(user), "a second join: {message}"),
            Some("leave") => assert!(members.remove(&user), "left without a join: {message}"),
            Some("msg") => assert!(members.contains(&user), "a message from a user who is not a member: {message}"),
            _ => {}
        }
    }
    members
}

/// A user connected with one of the protocols.
enum Guest {
    Native(Mirror),
    List(UserList),
    Status(EventClient),
    Chat(EventClient),
}

impl Guest {
    async fn connect(server: &TestServer, user: &str, protocol: usize) -> Self {
        match protocol {
            0 => Self::Native(Mirror::connect(server.address(), user, &["lobby"]).await),
            1 => Self::List(server.online_users(user).await),
            2 => Self::Status(server.online_status(user).await),
            _ => {
                let chat = EventClient::connect(server.address(), "/ws").await;
                chat.send(&json!({"type": "join", "payload": {"user": user}}));
                Self::Chat(chat)
            }
        }
    }

    fn publish(&self, text: &str) {
        match self {
            Self::Native(native) => native.send(&json!({"type": "message", "room": "lobby", "data": {"text": text}})),
            Self::Chat(chat) => chat.send(&json!({"type": "msg", "payload": {"text": text}})),
            Self::List(_) | Self::Status(_) => {}
        }
    }

    fn disconnect(&self) {
        match self {
            Self::Native(native) => native.close(1000),
            Self::List(list) => list.close(1000),
            Self::Status(client) | Self::Chat(client) => client.close(1000),
        }
    }
}

#[tokio::test]
async fn observers_of_all_protocols_agree_after_random_joins_messages_and_leaves() {
    let server = TestServer::start(&["--ttl", "2s", "--tick", "20ms", "--workers", "3"]);
    let users: Vec<String> = (0..10).map(|n| format!("user-{n}")).collect();
    let mut observers = Observers::start(&server, &users).await;
    let mut guests: Vec<Vec<Guest>> = users.iter().map(|_| Vec::new()).collect();
    let mut random = Random(0xA11_5EE5);
    let mut sent = 0;
    for step in 0..300 {
        let at = random.below(users.len());
        match random.below(8) {
            0..3 if guests[at].len() < 3 => guests[at].push(Guest::connect(&server, &users[at], random.below(4)).await),
            3 => server.rest_heartbeat(&users[at]).await,
            4..6 => {
                guests[at].iter().for_each(|guest| guest.publish(&format!("message {step}")));
                sent += guests[at].len();
            }
            6 if !guests[at].is_empty() => {
                let gone = random.below(guests[at].len());
                guests[at].swap_remove(gone).disconnect();
            }
            _ => {}
        }
        observers.list.heartbeat().await;
    }
    // Online-users clients send no heartbeats here, so their users leave when the leases end. All other connected users
    // stay.
    let mut members: BTreeSet<String> = ["chat", "list", "status"].map(str::to_owned).into();
    for (user, guests) in users.iter().zip(&guests) {
        if guests.iter().any(|guest| !matches!(guest, Guest::List(_))) {
            members.insert(user.clone());
        }
    }
    assert!(
        sent > 50 && members.len() > 5 && members.len() < 13,
        "the schedule has too few messages or members: {sent}, {members:?}"
    );
    let deadline = Instant::now() + DEADLINE;
    while server.count("lobby").await != members.len() as u64 {
        assert!(Instant::now() < deadline, "the members are {:?}, not {members:?}", server.members("lobby").await);
        observers.list.heartbeat().await;
    }
    observers.list.heartbeat().await;
    observers.agree(&members, &users).await;
    assert!(server.members("lobby").await.into_keys().eq(members.iter().cloned()));
    let names = server.get("/online_users").await.json();
    assert_eq!(names["online_users"], json!(members));
    // All observers received the same messages. A message of a leaving user may come earlier or later within a tick.
    let of_native = |message: &Value| (message["user"].to_string(), message["data"]["text"].to_string());
    let of_chat = |message: &Value| (message["payload"]["user"].to_string(), message["payload"]["text"].to_string());
    let native_messages: Vec<_> = observers.native.since(0, "message", "lobby").into_iter().map(of_native).collect();
    let chat_messages: Vec<_> = observers.chat.of("msg").into_iter().map(of_chat).collect();
    assert!(native_messages.len() > 50, "{}", native_messages.len());
    let sorted = |mut messages: Vec<(String, String)>| {
        messages.sort();
        messages
    };
    assert_eq!(sorted(native_messages), sorted(chat_messages));
    server.stop().await;
}
