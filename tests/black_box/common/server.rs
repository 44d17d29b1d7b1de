//! A server inside the test process, on port 0. A test stops it at its end and waits for that; if the test fails,
//! dropping the server stops it without waiting.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use rollcall::{Config, Server};

use super::http::{self, Response};
use super::room::{Members, members_of, number};
use super::{DEADLINE, EventClient, Mirror, RawClient, UserList, encoded};

/// Default flags: short ticks, more than one worker, and timeouts that no test reaches on a slow machine.
const DEFAULTS: [[&str; 2]; 7] = [
    ["--listen", "127.0.0.1:0"],
    ["--workers", "2"],
    ["--tick", "20ms"],
    ["--ttl", "600s"],
    ["--header-timeout", "600s"],
    ["--ping-interval", "600s"],
    ["--drain", "60s"],
];

/// A read key of servers in which users prove who they are.
const STATS_KEY: &str = "a key to read counters";

pub(crate) struct TestServer {
    address: SocketAddr,
    status_address: Option<SocketAddr>,
    internal_address: Option<SocketAddr>,
    /// Where it is asked for its counters.
    stats_address: SocketAddr,
    /// `Authorization` with its API key, if it has one.
    authorization: Option<String>,
    /// The same with a key for counters, if they need one.
    stats_authorization: Option<String>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl TestServer {
    /// Starts a server; `flags` win over the defaults.
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::start_with(flags, |_| {})
    }

    /// Starts a server with settings that have no flag.
    pub(crate) fn start_with(flags: &[&str], change: impl FnOnce(&mut Config)) -> Self {
        let mut arguments = vec!["rollcall"];
        arguments.extend(DEFAULTS.iter().filter(|[name, _]| !flags.contains(name)).flatten());
        arguments.extend(flags);
        // Where users prove who they are, counters need a key.
        let has_identity = flags.iter().any(|flag| flag.starts_with("--jw") || *flag == "--auth-url");
        if has_identity {
            arguments.extend(["--read-key", STATS_KEY]);
        }
        let mut config =
            Config::from_args(arguments.iter().copied()).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
        change(&mut config);
        let server = Server::bind(config).expect("port 0 can always be bound");
        let (address, status_address) = (server.local_addr(), server.status_addr());
        let internal_address = server.internal_addr();
        // Clients of the other port have to send PROXY headers.
        let stats_address = internal_address.filter(|_| flags.contains(&"--proxy-protocol")).unwrap_or(address);
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(server.run(async move {
            // A dropped sender stops the server too, so that a failed test leaves none behind.
            let _ = stopped.await;
        }));
        let key = flags.iter().position(|flag| *flag == "--api-key").map(|at| flags[at + 1]);
        let authorization = key.map(|key| format!("Bearer {key}"));
        let stats_authorization = has_identity.then(|| format!("Bearer {STATS_KEY}"));
        Self {
            address,
            status_address,
            internal_address,
            stats_address,
            authorization,
            stats_authorization,
            stop,
            task,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of `--status-port`.
    pub(crate) fn status_address(&self) -> SocketAddr {
        self.status_address.expect("started with --status-port")
    }

    /// The address of `--internal-listen`.
    pub(crate) fn internal_address(&self) -> SocketAddr {
        self.internal_address.expect("started with --internal-listen")
    }

    /// Stops the server and waits until `run()` returns, which must be without an error.
    pub(crate) async fn stop(self) {
        let ending = self.begin_stop();
        let ended = timeout(DEADLINE, ending).await.expect("run() returns in bounded time");
        ended.expect("the server does not panic").expect("a stop is not an error");
    }

    /// Starts the stop. Returns what `run()` will return.
    pub(crate) fn begin_stop(self) -> JoinHandle<anyhow::Result<()>> {
        self.stop.send(()).expect("the server was still running");
        self.task
    }

    /// Runs this on a thread of its own. No tick passes meanwhile, because the server ticks on the thread of the test,
    /// which waits here: no budget refills and no pause or lease ends, however slow the machine is. The clients of the
    /// test stand still as well. Clients that `work` connects end with it, unless it detaches and returns them.
    pub(crate) async fn without_ticks<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        // The server has started, and its threads with it.
        self.ticks().await;
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(work())
        };
        let done = std::thread::scope(|scope| scope.spawn(run).join());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A native client without rooms.
    pub(crate) async fn connect(&self, user: &str) -> Mirror {
        Mirror::connect(self.address, user, &[]).await
    }

    /// A native client that has joined `room` and received the snapshot.
    pub(crate) async fn connect_to(&self, user: &str, room: &str) -> Mirror {
        let mut mirror = Mirror::connect(self.address, user, &[room]).await;
        mirror.wait_until("the snapshot with the user", |mirror| mirror.has(room, user)).await;
        mirror
    }

    /// A native client that observes `room` without joining it and has received the snapshot.
    pub(crate) async fn observe(&self, user: &str, room: &str) -> Mirror {
        let mut mirror = Mirror::connect(self.address, user, &[]).await;
        mirror.send(&serde_json::json!({"type": "observe", "room": room}));
        mirror.wait_until("the snapshot", |mirror| mirror.observes(room)).await;
        mirror
    }

    /// An online-users client that has received its first list.
    pub(crate) async fn online_users(&self, user: &str) -> UserList {
        UserList::connect(self.address, user).await
    }

    /// An online-status client that has received its greeting.
    pub(crate) async fn online_status(&self, user: &str) -> EventClient {
        let mut client =
            EventClient::connect(self.address, &format!("/ws-online-status?userId={}", encoded(user))).await;
        client.wait_until("the greeting", |client| !client.log.is_empty()).await;
        client
    }

    /// A chat client that has joined and received its own join, or the one of another connection of the user.
    pub(crate) async fn chat(&self, user: &str) -> EventClient {
        let mut client = EventClient::connect(self.address, "/ws").await;
        client.send(&serde_json::json!({"type": "join", "payload": {"user": user}}));
        let own = |message: &Value| message["type"] == "join" && message["payload"]["user"] == user;
        client.wait_until("its join", |client| client.log.iter().any(own)).await;
        client
    }

    /// A native client that may send any bytes, after its welcome.
    pub(crate) async fn raw(&self, user: &str) -> RawClient {
        let mut client = RawClient::open(self.address, &format!("/v1/connect?user={}", encoded(user))).await;
        let welcome = client.json().await;
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        client
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        let is_stats = matches!(path, "/v1/stats" | "/metrics");
        let key = self.authorization.as_ref().or(self.stats_authorization.as_ref().filter(|_| is_stats));
        let address = if is_stats { self.stats_address } else { self.address };
        Self::get_from(address, path, key).await
    }

    /// With whatever key the server has.
    async fn read(&self, path: &str) -> Response {
        let key = self.authorization.as_ref().or(self.stats_authorization.as_ref());
        Self::get_from(self.address, path, key).await
    }

    async fn get_from(address: SocketAddr, path: &str, key: Option<&String>) -> Response {
        let key: Vec<_> = key.into_iter().map(|key| ("authorization", &**key)).collect();
        http::request(address, "GET", path, &key, b"").await
    }

    pub(crate) async fn post_json(&self, path: &str, body: &Value) -> Response {
        let body = body.to_string();
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(self.authorization.iter().map(|key| ("authorization", &**key)));
        http::request(self.address, "POST", path, &headers, body.as_bytes()).await
    }

    pub(crate) async fn post_form(&self, path: &str, body: &str) -> Response {
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        http::request(self.address, "POST", path, &headers, body.as_bytes()).await
    }

    /// A REST heartbeat that has to succeed.
    pub(crate) async fn rest_heartbeat(&self, user: &str) {
        let answer = self.post_form("/heartbeat", &format!("user_id={}", encoded(user))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    pub(crate) async fn count(&self, room: &str) -> u64 {
        let answer = self.read(&format!("/v1/rooms/{}/count", encoded(room))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["count"].as_u64().expect("a count is a number")
    }

    /// A counter of `/v1/stats`.
    pub(crate) async fn stat(&self, name: &str) -> u64 {
        number(&self.get("/v1/stats").await.json(), name)
    }

    /// Waits until a metric has this value.
    pub(crate) async fn wait_for_stat(&self, name: &str, value: u64) {
        let deadline = Instant::now() + DEADLINE;
        while self.stat(name).await != value {
            assert!(Instant::now() < deadline, "{name} is not {value}");
            sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// The number of ticks so far. What happens between two calls that return the same number is handled within one
    /// tick: the server ticks on the thread of the test, so no tick is half done during the call.
    pub(crate) async fn ticks(&self) -> u64 {
        self.stat("ticks").await
    }

    /// All members of a room, over as many pages of the HTTP API as necessary.
    pub(crate) async fn members(&self, room: &str) -> Members {
        let mut members = Members::new();
        let mut after = String::new();
        loop {
            let path = format!("/v1/rooms/{}/members{after}", encoded(room));
            let page = self.read(&path).await;
            assert_eq!(page.status, 200, "{page:?}");
            let page = page.json();
            members.extend(members_of(&page["members"]));
            match page["next"].as_str() {
                Some(next) => after = format!("?after={}", encoded(next)),
                None => return members,
            }
        }
    }

    /// Waits until the room of every mirror equals the members over HTTP. Returns the members.
    pub(crate) async fn wait_for_agreement(&self, room: &str, mirrors: &mut [Mirror]) -> Members {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let members = self.members(room).await;
            let mut differing = mirrors.iter_mut().filter_map(|mirror| {
                mirror.apply_pending();
                (!mirror.has_exactly(room, &members)).then(|| mirror.describe())
            });
            let Some(example) = differing.next() else { return members };
            assert!(Instant::now() < deadline, "no agreement on {members:.2000?}: {example}");
            drop(differing);
            sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// Waits until `user` is a member of `room` according to the HTTP API, or is not.
    pub(crate) async fn wait_for_member(&self, room: &str, user: &str, present: bool) {
        let deadline = Instant::now() + DEADLINE;
        while self.members(room).await.contains_key(user) != present {
            assert!(Instant::now() < deadline, "{user} is a member of {room}: still not {present}");
            sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}
