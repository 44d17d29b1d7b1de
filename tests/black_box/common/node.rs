//! A node of a cluster: the binary as its own process, so that it can be killed, and its HTTP API.

use std::net::SocketAddr;
use std::process::{ExitStatus, Output};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant, sleep};

use super::front_door::Credentials;
use super::http::{self, Response};
use super::process::{Process, command, run_to_exit};
use super::redis::POLL;
use super::room::{Members, members_of};
use super::{DEADLINE, EventClient, Mirror, UserList, encoded};

/// A lease of users and nodes: short enough to wait for, long enough for the pauses of a busy machine.
pub(crate) const SHORT_TTL: Duration = Duration::from_secs(3);
pub(crate) const SHORT_TTL_FLAG: [&str; 2] = ["--ttl", "3s"];
/// After this time without a sign of life, other nodes have declared a node lost: its lease, and 1.5 s in which users
/// may reconnect.
pub(crate) const NODE_LOST_AFTER: Duration = Duration::from_secs(5);
pub(crate) const TICK: Duration = Duration::from_millis(50);
/// Short ticks, one worker, and timeouts that no test reaches on a slow machine.
const DEFAULTS: [[&str; 2]; 6] = [
    ["--listen", "127.0.0.1:0"],
    ["--workers", "1"],
    ["--tick", "50ms"],
    ["--ttl", "60s"],
    ["--header-timeout", "600s"],
    ["--drain", "60s"],
];

pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) address: SocketAddr,
    /// `Authorization` with its API key, if it has one.
    authorization: Option<String>,
    /// What its clients prove who they are with.
    credentials: Credentials,
    process: Process,
}

/// The command line of a node; `flags` win over the defaults.
pub(crate) fn arguments<'a>(id: &'a str, flags: &[&'a str]) -> Vec<&'a str> {
    let mut arguments: Vec<_> = DEFAULTS.iter().filter(|[name, _]| !flags.contains(name)).flatten().copied().collect();
    arguments.extend(["--node-id", id]);
    arguments.extend(flags);
    arguments
}

/// Runs a node that must refuse to start.
pub(crate) async fn start_refused(id: &str, flags: &[&str]) -> Output {
    let command = command(&arguments(id, flags));
    spawn_blocking(move || run_to_exit(command)).await.expect("it ends by itself")
}

/// Waits until these nodes know the rooms of this device's user. Changes of a user arrive in order, so the test joins a
/// further room and waits for that.
pub(crate) async fn wait_until_known(device: &Mirror, nodes: &[&Node]) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let room = format!("barrier {}", NEXT.fetch_add(1, Ordering::Relaxed));
    device.send(&json!({"type": "join", "room": room, "observe": false}));
    for node in nodes {
        node.wait_until("the further room", async || node.members(&room).await.contains_key(&device.user)).await;
    }
    device.send(&json!({"type": "leave", "room": room}));
}

/// Whether this output says that a node did not start because Redis was slow.
pub(crate) fn is_timeout_error(output: &str) -> bool {
    output.contains("no reply within") || output.contains("was not ready within")
}

/// Whether a busy machine alone can cause this warning: Redis was too slow, or a node that started at the same moment
/// had not written yet what it holds.
fn a_busy_machine_causes(warning: &str) -> bool {
    is_timeout_error(warning) || warning.contains("this node starts before it could read everything")
}

/// Whether it answers; a node may have printed its URL and be exiting.
async fn ready(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    let mut answer = Vec::new();
    let request = http::request_text("GET", "/readyz", &[], b"");
    let exchanged = stream.write_all(&request).await.is_ok() && stream.read_to_end(&mut answer).await.is_ok();
    exchanged && answer.starts_with(b"HTTP/1.1 200 ")
}

impl Node {
    /// Starts a node on the Redis at `url` and waits until it is ready.
    pub(crate) async fn start(id: &str, url: &str, flags: &[&str]) -> Self {
        Self::with_flags(id, &[&["--redis", url], flags].concat()).await
    }

    pub(crate) async fn with_flags(id: &str, flags: &[&str]) -> Self {
        Self::with_environment(id, flags, &[]).await
    }

    pub(crate) async fn with_environment(id: &str, flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match Self::try_start(id, flags, environment).await {
                Ok(node) => return node,
                // On a very busy machine even Redis may answer too late.
                Err(said) if is_timeout_error(&said) && Instant::now() < deadline => {}
                Err(said) => panic!("{id} does not start: {said}"),
            }
        }
    }

    /// Starts a node and waits until it is ready. If it exits instead, returns its output.
    pub(crate) async fn try_start(id: &str, flags: &[&str], environment: &[(&str, &str)]) -> Result<Self, String> {
        let mut command = command(&arguments(id, flags));
        command.envs(environment.iter().copied());
        let mut process = Process::spawn(command);
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(address) = process.try_address()
                && ready(address).await
            {
                let flag = flags.iter().position(|flag| *flag == "--api-key").map(|at| flags[at + 1]);
                let variable = environment.iter().find(|(name, _)| *name == "ROLLCALL_API_KEY").map(|(_, key)| *key);
                let key = flag.or(variable);
                let authorization = key.map(|key| format!("Bearer {key}"));
                let credentials = Credentials::default();
                return Ok(Self { id: id.to_owned(), address, authorization, credentials, process });
            }
            if !process.running() {
                return Err(process.final_output().join("\n"));
            }
            assert!(Instant::now() < deadline, "{id} neither starts nor exits: {:#?}", process.output());
            sleep(POLL).await;
        }
    }

    /// From now on its clients prove who they are with these.
    pub(crate) fn with_credentials(self, credentials: Credentials) -> Self {
        Self { credentials, ..self }
    }

    /// SIGKILL.
    pub(crate) fn kill(self) {
        drop(self.process);
    }

    /// SIGTERM. Returns the exit status.
    pub(crate) async fn terminate(self) -> ExitStatus {
        self.process.signal("TERM");
        let mut process = self.process;
        spawn_blocking(move || process.wait_for_exit()).await.expect("it ends")
    }

    /// SIGSTOP and SIGCONT.
    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// The log so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.process.stderr()
    }

    /// The warnings in the log so far, without those that a busy machine alone can cause.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let is_warning = |line: &String| line.contains("WARN") && !a_busy_machine_causes(line);
        self.log().into_iter().filter(is_warning).collect()
    }

    /// The output so far.
    pub(crate) fn output(&self) -> String {
        self.process.output().join("\n")
    }

    /// Waits for a condition.
    pub(crate) async fn wait_until(&self, what: &str, mut done: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !done().await {
            assert!(Instant::now() < deadline, "{}: waited for {what} in vain: {:#?}", self.id, self.process.output());
            sleep(POLL).await;
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        let key: Vec<_> = self.authorization.iter().map(|key| ("authorization", &**key)).collect();
        http::request(self.address, "GET", path, &key, b"").await
    }

    pub(crate) async fn post_json(&self, path: &str, body: &Value) -> Response {
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(self.authorization.iter().map(|key| ("authorization", &**key)));
        http::request(self.address, "POST", path, &headers, body.to_string().as_bytes()).await
    }

    /// A REST heartbeat that has to succeed.
    pub(crate) async fn rest_heartbeat(&self, user: &str) {
        let credentials = self.credentials.of(user);
        let mut headers = vec![("content-type", "application/x-www-form-urlencoded")];
        headers.extend(credentials.iter().map(|(name, value)| (*name, &**value)));
        let body = format!("user_id={}", encoded(user));
        let answer = http::request(self.address, "POST", "/heartbeat", &headers, body.as_bytes()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// A counter of `/v1/stats`.
    pub(crate) async fn stat(&self, name: &str) -> u64 {
        let stats = self.get("/v1/stats").await.json();
        stats[name].as_u64().unwrap_or_else(|| panic!("{name} is a number: {stats}"))
    }

    /// Since when the node is degraded according to `/readyz`; `None` if it is not.
    pub(crate) async fn degraded(&self) -> Option<u64> {
        let answer = self.get("/readyz").await;
        assert_eq!(
            answer.status, 200,
            "an unreachable Redis must not take a node out of the load balancer: {answer:?}"
        );
        let json = answer.json();
        assert_eq!(json["status"], if json["degraded_since"].is_null() { "ok" } else { "degraded" }, "{json}");
        json["degraded_since"].as_u64()
    }

    pub(crate) async fn wait_until_degraded(&self, degraded: bool) {
        let what = if degraded { "degraded" } else { "not degraded" };
        self.wait_until(what, async || self.degraded().await.is_some() == degraded).await;
    }

    /// The members of a room; 1,000 at most, which is one page.
    pub(crate) async fn members(&self, room: &str) -> Members {
        let page = self.get(&format!("/v1/rooms/{}/members", encoded(room))).await;
        assert_eq!(page.status, 200, "{page:?}");
        members_of(&page.json()["members"])
    }

    /// A native client that has joined `room` and received the snapshot.
    pub(crate) async fn connect_to(&self, user: &str, room: &str) -> Mirror {
        let mut mirror = self.mirror(user, &[room]).await;
        mirror.wait_until("the snapshot with the user", |mirror| mirror.has(room, user)).await;
        mirror
    }

    /// A native client without rooms.
    pub(crate) async fn connect(&self, user: &str) -> Mirror {
        self.mirror(user, &[]).await
    }

    async fn mirror(&self, user: &str, rooms: &[&str]) -> Mirror {
        Mirror::connect_with(self.address, user, rooms, &self.credentials.of(user)).await.with_heartbeats()
    }

    /// An online-users client that has received its first list.
    pub(crate) async fn online_users(&self, user: &str) -> UserList {
        UserList::connect(self.address, user).await.with_heartbeats()
    }

    /// An online-status client that has received its greeting.
    pub(crate) async fn online_status(&self, user: &str) -> EventClient {
        let mut client =
            EventClient::connect(self.address, &format!("/ws-online-status?userId={}", encoded(user))).await;
        client.wait_until("the greeting", |client| !client.log.is_empty()).await;
        client
    }

    /// A chat client that has joined and received its own join.
    pub(crate) async fn chat(&self, user: &str) -> EventClient {
        let mut client = EventClient::connect(self.address, "/ws").await;
        client.send(&json!({"type": "join", "payload": {"user": user}}));
        let own = |message: &Value| message["type"] == "join" && message["payload"]["user"] == user;
        client.wait_until("its join", |client| client.log.iter().any(own)).await;
        client
    }
}
