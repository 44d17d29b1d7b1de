//! A Pusher client that mirrors its channels from the messages it receives. It asserts the rules of the protocol on
//! each message: every member is added once and removed once, and a list replaces all members.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::DEADLINE;
use super::socket::{Event, Socket};

/// An application, as the flag `--pusher-app` and its server know it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct App {
    pub(crate) key: &'static str,
    pub(crate) secret: &'static str,
}

/// The application of these flags.
pub(crate) const APP: App = App { key: "app-key", secret: "app-secret" };
/// A server for its clients and for all others.
pub(crate) const APP_FLAGS: [&str; 3] = ["--open", "--pusher-app", "1:app-key:app-secret,client-messages"];

impl App {
    /// What an authentication endpoint of the application returns as `auth`.
    pub(crate) fn sign(&self, text: &str) -> String {
        format!("{}:{}", self.key, wire::signature::hex(self.secret, text))
    }
}

/// What a client knows about a channel.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Channel {
    /// By user id as text, the id as JSON and the info.
    pub(crate) members: BTreeMap<String, (Value, Value)>,
    /// How often it was told that it is subscribed.
    pub(crate) succeeded: usize,
}

pub(crate) struct PusherClient {
    pub(crate) app: App,
    /// Empty until the connection is established.
    pub(crate) socket_id: String,
    /// The channels to which it is subscribed.
    pub(crate) channels: BTreeMap<String, Channel>,
    /// Every message in order. The data of the server's own events is decoded.
    pub(crate) log: Vec<Value>,
    /// The close frame the server sent, with its code.
    pub(crate) closed: Option<Option<u16>>,
    /// The connection has ended.
    pub(crate) ended: bool,
    socket: Socket,
}

impl PusherClient {
    /// Connects as stock clients do, and waits until the connection is established.
    pub(crate) async fn connect(address: SocketAddr, app: App) -> Self {
        Self::open(address, app, &stock_path(app)).await.established().await
    }

    /// With a small receive buffer: a slow client soon after it stops reading.
    pub(crate) async fn connect_with_small_buffer(address: SocketAddr, app: App) -> Self {
        Self::over(Socket::connect_with_small_buffer(address, &stock_path(app)).await, app).established().await
    }

    /// Connects to this path.
    pub(crate) async fn open(address: SocketAddr, app: App, path: &str) -> Self {
        Self::over(Socket::connect(address, path).await, app)
    }

    fn over(socket: Socket, app: App) -> Self {
        let (channels, log) = (BTreeMap::new(), Vec::new());
        Self { app, socket_id: String::new(), channels, log, closed: None, ended: false, socket }
    }

    async fn established(mut self) -> Self {
        self.wait_until("the connection", |client| !client.socket_id.is_empty()).await;
        self
    }

    /// Stops or resumes reading from the socket.
    pub(crate) fn set_reading(&self, on: bool) {
        self.socket.set_reading(on);
    }

    pub(crate) fn send(&self, message: &Value) {
        self.socket.send(message.to_string());
    }

    pub(crate) fn send_text(&self, text: &str) {
        self.socket.send(text);
    }

    /// Sends `pusher:subscribe`, with what the application signs.
    pub(crate) fn subscribe(&self, channel: &str, channel_data: Option<&str>) {
        let mut data = json!({"channel": channel, "auth": ""});
        if channel.starts_with("private-") || channel.starts_with("presence-") {
            let member = channel_data.map(|data| format!(":{data}")).unwrap_or_default();
            data["auth"] = self.app.sign(&format!("{}:{channel}{member}", self.socket_id)).into();
        }
        if let Some(channel_data) = channel_data {
            data["channel_data"] = channel_data.into();
        }
        self.send(&json!({"event": "pusher:subscribe", "data": data}));
    }

    /// Subscribes and waits until it is.
    pub(crate) async fn join(&mut self, channel: &str, channel_data: Option<&str>) {
        self.subscribe(channel, channel_data);
        self.wait_until("the subscription", |client| client.channels.contains_key(channel)).await;
    }

    /// Sends `pusher:signin`, with what the application signs.
    pub(crate) fn sign_in(&self, user_data: &str) {
        let auth = self.app.sign(&format!("{}::user::{user_data}", self.socket_id));
        self.send(&json!({"event": "pusher:signin", "data": {"auth": auth, "user_data": user_data}}));
    }

    /// Signs in as a user who watches these users, and waits until it is.
    pub(crate) async fn sign_in_as(&mut self, user: &str, watchlist: &[&str]) {
        let before = self.of("pusher:signin_success").len();
        self.sign_in(&json!({"id": user, "watchlist": watchlist}).to_string());
        self.wait_until("the sign-in", |client| client.of("pusher:signin_success").len() > before).await;
    }

    /// What it was told about the users whom it watches, in order: `+7` for online, `-7` for offline.
    pub(crate) fn watched(&self) -> Vec<String> {
        let events = self.of("pusher_internal:watchlist_events").into_iter();
        let events = events.flat_map(|message| message["data"]["events"].as_array().expect("a list"));
        let users = events.flat_map(|event| {
            let mark = match event["name"].as_str() {
                Some("online") => '+',
                Some("offline") => '-',
                name => panic!("{name:?} is not the name of a watchlist event"),
            };
            let users = event["user_ids"].as_array().expect("a list");
            assert!(!users.is_empty(), "an event without users");
            users.iter().map(move |user| format!("{mark}{}", user.as_str().expect("ids are strings")))
        });
        users.collect()
    }

    /// Waits until it was told exactly this about the users whom it watches.
    pub(crate) async fn wait_for_watched(&mut self, expected: &[&str]) {
        self.wait_until("the watchlist events", |client| client.watched().len() >= expected.len()).await;
        assert_eq!(self.watched(), expected);
    }

    pub(crate) fn unsubscribe(&mut self, channel: &str) {
        self.send(&json!({"event": "pusher:unsubscribe", "data": {"channel": channel}}));
        self.channels.remove(channel);
    }

    pub(crate) fn trigger(&self, channel: &str, event: &str, data: &Value) {
        self.send(&json!({"event": event, "channel": channel, "data": data}));
    }

    pub(crate) fn close(&self, code: u16) {
        self.socket.close(code);
    }

    /// The user ids of the members, sorted.
    pub(crate) fn members(&self, channel: &str) -> Vec<&str> {
        self.channels.get(channel).into_iter().flat_map(|channel| channel.members.keys().map(String::as_str)).collect()
    }

    /// Messages with this event, oldest first.
    pub(crate) fn of(&self, event: &str) -> Vec<&Value> {
        self.log.iter().filter(|message| message["event"] == event).collect()
    }

    /// Waits until the server answers a ping: it has handled everything that was sent before.
    pub(crate) async fn sync(&mut self) {
        let pongs = self.of("pusher:pong").len();
        self.send(&json!({"event": "pusher:ping", "data": {}}));
        self.wait_until("a pong", |client| client.of("pusher:pong").len() > pongs).await;
    }

    /// Receives messages until the condition holds. Fails at the deadline, and at once when the connection ends.
    pub(crate) async fn wait_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !done(self) {
            assert!(!self.ended, "ended while waiting for {what}, closed {:?}: {:?}", self.closed, self.log);
            match timeout_at(deadline, self.socket.events.recv()).await {
                Ok(Some(Event::Text(text))) => self.apply(serde_json::from_str(&text).expect("messages are JSON")),
                Ok(Some(Event::Close(code))) => self.closed = Some(code),
                Ok(Some(Event::End) | None) => self.ended = true,
                Err(_) => panic!("waited for {what} in vain: {:?} {:?}", self.channels, self.log),
            }
        }
    }

    /// Waits until the server has closed and the connection has ended. Returns the close code.
    pub(crate) async fn wait_for_close(&mut self) -> Option<u16> {
        self.wait_until("the end", |client| client.ended).await;
        self.closed.flatten()
    }

    fn apply(&mut self, mut message: Value) {
        let event = message["event"].as_str().expect("an event").to_owned();
        if (event.starts_with("pusher") || event.starts_with("rollcall:"))
            && let Some(data) = message["data"].as_str()
        {
            message["data"] = serde_json::from_str(data).expect("the data of the server is JSON");
        }
        let data = &message["data"];
        if self.log.is_empty() {
            assert_eq!(event, "pusher:connection_established", "{message}");
            self.socket_id = data["socket_id"].as_str().expect("a socket id").to_owned();
        }
        let name = message["channel"].as_str().unwrap_or_default().to_owned();
        match &*event {
            "pusher_internal:subscription_succeeded" => self.succeeded(name, data),
            "pusher_internal:member_added" => {
                let member = (data["user_id"].clone(), data["user_info"].clone());
                let members = self.channels.get_mut(&name).map(|channel| &mut channel.members);
                let known = members.map(|members| members.insert(text(&data["user_id"]), member));
                assert!(!matches!(known, Some(Some(_))), "a member is added a second time: {message}");
            }
            "rollcall:member_updated" => {
                let members = self.channels.get_mut(&name).map(|channel| &mut channel.members);
                let known = members.and_then(|members| members.get_mut(&text(&data["user_id"])));
                let (_, info) = known.expect("an update is about a member");
                *info = data["user_info"].clone();
            }
            "pusher_internal:member_removed" => {
                let members = self.channels.get_mut(&name).map(|channel| &mut channel.members);
                let known = members.map(|members| members.remove(&text(&data["user_id"])));
                assert!(!matches!(known, Some(None)), "a member is removed who is none: {message}");
            }
            _ => {}
        }
        self.log.push(message);
    }

    fn succeeded(&mut self, name: String, data: &Value) {
        let channel = self.channels.entry(name).or_default();
        channel.succeeded += 1;
        let presence = &data["presence"];
        let ids = presence["ids"].as_array().cloned().unwrap_or_default();
        assert_eq!(presence["count"].as_u64().unwrap_or_default() as usize, ids.len(), "{data}");
        let member = |id: Value| (text(&id), (id.clone(), presence["hash"][text(&id)].clone()));
        channel.members = ids.into_iter().map(member).collect();
        assert_eq!(channel.members.len(), presence["hash"].as_object().map_or(0, serde_json::Map::len), "{data}");
    }
}

/// The path that stock clients request.
fn stock_path(app: App) -> String {
    format!("/app/{}?protocol=7&client=js&version=8.6.0&flash=false", app.key)
}

/// A user id as the key of the members.
fn text(id: &Value) -> String {
    id.as_str().map_or_else(|| id.to_string(), str::to_owned)
}
