//! An application that receives webhooks: it checks signatures, applies the events to a mirror as docs/webhooks.md
//! says, and reads from the server when it is told to. The test decides which requests it takes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use tokio::time::{Instant, sleep};

use super::http::{Response, request_text};
use super::room::{assert_keys, number, string};
use super::upstream::Seen;
use super::{DEADLINE, Does, Upstream, encoded};

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const POLL: Duration = Duration::from_millis(5);

/// What the application does with a request.
pub(crate) enum Plan {
    /// Takes it and answers 204.
    Take,
    /// Takes it, and does something else than to answer 204.
    TakeBut(Does),
    /// Does not take it.
    Refuse(Does),
}

/// What the application knows.
#[derive(Default)]
pub(crate) struct Known {
    /// Members and their states, by room.
    pub(crate) rooms: BTreeMap<String, BTreeMap<String, Value>>,
    pub(crate) occupied: BTreeSet<String>,
    pub(crate) online: BTreeSet<String>,
    /// All events that were applied.
    pub(crate) events: Vec<Value>,
    versions: BTreeMap<(Option<String>, Option<String>), u64>,
    /// The bodies of requests by id: they are the same on each attempt.
    bodies: BTreeMap<String, Vec<u8>>,
    event_ids: BTreeMap<String, Value>,
}

/// Decides what happens to a request.
type Planner = Box<dyn FnMut(&Seen) -> Plan + Send>;

struct Application {
    known: Mutex<Known>,
    plan: Mutex<Planner>,
    /// The nodes to read from.
    nodes: Mutex<Vec<SocketAddr>>,
    secret: Mutex<String>,
}

pub(crate) struct Receiver {
    pub(crate) upstream: Upstream,
    application: Arc<Application>,
}

impl Receiver {
    /// One that takes everything.
    pub(crate) async fn start() -> Self {
        let application = Arc::new(Application {
            known: Mutex::default(),
            plan: Mutex::new(Box::new(|_| Plan::Take)),
            nodes: Mutex::default(),
            secret: Mutex::new(SECRET.to_owned()),
        });
        let handler = Arc::clone(&application);
        Self { upstream: Upstream::start(move |seen| handler.handle(seen)).await, application }
    }

    /// The flags of a server that sends its webhooks here. A leave does not wait.
    pub(crate) fn flags(&self) -> Vec<String> {
        let url = self.upstream.url("/hook");
        ["--webhook-url", &url, "--webhook-secret", SECRET, "--webhook-delay", "0s"].map(str::to_owned).to_vec()
    }

    /// Decides about further requests in this way.
    pub(crate) fn set(&self, plan: impl FnMut(&Seen) -> Plan + Send + 'static) {
        *self.application.plan.lock().expect("no panic") = Box::new(plan);
    }

    /// From now on requests are signed with this secret.
    pub(crate) fn expect_secret(&self, secret: &str) {
        secret.clone_into(&mut self.application.secret.lock().expect("no panic"));
    }

    /// Reads from these nodes, the first one that answers.
    pub(crate) fn read_from(&self, nodes: &[SocketAddr]) {
        *self.application.nodes.lock().expect("no panic") = nodes.to_vec();
    }

    pub(crate) fn known<R>(&self, read: impl FnOnce(&Known) -> R) -> R {
        read(&self.application.known.lock().expect("no panic"))
    }

    /// The events that were applied, as short texts, without the resync at the start.
    pub(crate) fn events(&self) -> Vec<String> {
        self.known(|known| known.events.iter().map(summary).filter(|event| event != "resync").collect())
    }

    /// Waits until the condition holds.
    pub(crate) async fn wait_until(&self, what: &str, done: impl Fn(&Known) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !self.known(&done) {
            assert!(Instant::now() < deadline, "waited for {what} in vain: {:?}", self.events());
            sleep(POLL).await;
        }
    }

    /// Waits until these events have come, and no others.
    pub(crate) async fn wait_for(&self, expected: &[&str]) {
        let deadline = Instant::now() + DEADLINE;
        while self.events().len() < expected.len() {
            assert!(Instant::now() < deadline, "{:?} instead of {expected:?}", self.events());
            sleep(POLL).await;
        }
        let (mut events, mut expected) = (self.events(), expected.to_vec());
        events.sort_unstable();
        expected.sort_unstable();
        assert_eq!(events, expected);
    }

    /// Waits until the mirror equals what the node at this address answers.
    pub(crate) async fn wait_for_agreement(&self, node: SocketAddr) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let rooms = tokio::task::spawn_blocking(move || read_all(node)).await.expect("no panic");
            let Some(rooms) = rooms else {
                assert!(Instant::now() < deadline, "{node} does not answer, or does not know the other nodes");
                sleep(POLL).await;
                continue;
            };
            let online: BTreeSet<_> = rooms.values().flat_map(BTreeMap::keys).cloned().collect();
            let occupied: BTreeSet<_> = rooms.keys().cloned().collect();
            let (agree, shown) = self.known(|known| {
                let agree = known.rooms == rooms && known.online == online && known.occupied == occupied;
                let latest = &known.events[known.events.len().saturating_sub(30)..];
                let latest: Vec<_> = latest.iter().map(|event| (summary(event), &event["version"])).collect();
                (agree, format!("{:?} {:?} {:?} after {latest:?}", known.rooms, known.occupied, known.online))
            });
            if agree {
                return;
            }
            assert!(Instant::now() < deadline, "the mirror is {shown:.9000} and the server has {rooms:.3000?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Application {
    fn handle(&self, seen: &Seen) -> Does {
        let answer = |status: u16| Does::Answer(status, String::new(), Vec::new());
        self.check(seen);
        match (self.plan.lock().expect("no panic"))(seen) {
            Plan::Refuse(does) => does,
            Plan::Take => answer(if self.take(seen) { 204 } else { 503 }),
            Plan::TakeBut(does) => {
                let _ = self.take(seen);
                does
            }
        }
    }

    fn check(&self, seen: &Seen) {
        let header = |name: &str| seen.header(name).unwrap_or_else(|| panic!("no {name}: {seen:?}")).to_owned();
        let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
        assert!(seen.line.starts_with("POST ") && header("content-type") == "application/json", "{seen:?}");
        let secret = self.secret.lock().expect("no panic").clone();
        let key = STANDARD.decode(secret.strip_prefix("whsec_").expect("a prefix")).expect("base64");
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key");
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(&seen.body);
        let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        let sent = header("webhook-signature");
        assert!(sent.split(' ').any(|sent| sent == signature), "{sent} has no {signature}");
        let mut known = self.known.lock().expect("no panic");
        let former = known.bodies.insert(id, seen.body.clone());
        assert!(former.is_none_or(|former| former == seen.body), "an attempt has another body: {seen:?}");
    }

    /// Applies the events. False if it has to read and cannot.
    fn take(&self, seen: &Seen) -> bool {
        let body = seen.json();
        assert_keys(&body, &["node", "sent_at", "events"], &[]);
        let events = body["events"].as_array().expect("events");
        assert!((1..=100).contains(&events.len()), "{body}");
        let mut known = self.known.lock().expect("no panic");
        for event in events {
            let former = known.event_ids.insert(string(event, "id"), event.clone());
            assert!(former.is_none_or(|former| former == *event), "an id stands for two events: {event}");
            if !known.is_new(event) {
                continue;
            }
            if event["type"] == "resync" && !self.resync(&mut known, event) {
                return false;
            }
            known.apply(event);
            known.versions.insert(key_of(event), number(event, "version"));
            known.events.push(event.clone());
        }
        true
    }

    /// Reads a room, or everything.
    fn resync(&self, known: &mut Known, event: &Value) -> bool {
        let nodes = self.nodes.lock().expect("no panic").clone();
        let room = event["room"].as_str();
        if nodes.is_empty() {
            // Tests whose server has just started.
            assert!(room.is_none() && known.rooms.is_empty(), "the test does not expect a resync: {event}");
            return true;
        }
        match room {
            None => {
                let Some(rooms) = nodes.iter().find_map(|node| read_all(*node)) else { return false };
                known.occupied = rooms.keys().cloned().collect();
                known.online = rooms.values().flat_map(BTreeMap::keys).cloned().collect();
                known.rooms = rooms;
            }
            Some(room) => {
                let Some(members) = nodes.iter().find_map(|node| read_room(*node, room)) else { return false };
                known.rooms.remove(room);
                known.occupied.remove(room);
                if !members.is_empty() {
                    known.rooms.insert(room.to_owned(), members);
                    known.occupied.insert(room.to_owned());
                }
            }
        }
        true
    }
}

type Key = (Option<String>, Option<String>);

fn key_of(event: &Value) -> Key {
    let text = |name: &str| event[name].as_str().map(str::to_owned);
    (text("room"), text("user"))
}

impl Known {
    fn newest(&self, (room, user): &Key) -> u64 {
        let keys = [(room.clone(), user.clone()), (room.clone(), None), (None, None)];
        keys.iter().filter_map(|key| self.versions.get(key)).max().copied().unwrap_or(0)
    }

    fn is_new(&self, event: &Value) -> bool {
        number(event, "version") > self.newest(&key_of(event))
    }

    fn apply(&mut self, event: &Value) {
        let (room, user) = (event["room"].as_str().unwrap_or_default(), event["user"].as_str().unwrap_or_default());
        let (room, user) = (room.to_owned(), user.to_owned());
        let common = ["id", "type", "version", "at"];
        let with = |more: &[&'static str]| [&common[..], more].concat();
        match event["type"].as_str().expect("a type") {
            "member_joined" | "member_updated" => {
                assert_keys(event, &with(&["room", "user", "since"]), &["info", "state"]);
                self.rooms.entry(room).or_default().insert(user, event["state"].clone());
            }
            "member_left" => {
                assert_keys(event, &with(&["room", "user", "since", "reason"]), &[]);
                if let Some(members) = self.rooms.get_mut(&room) {
                    members.remove(&user);
                    if members.is_empty() {
                        self.rooms.remove(&room);
                    }
                }
            }
            "room_occupied" => {
                assert_keys(event, &with(&["room"]), &[]);
                self.occupied.insert(room);
            }
            "room_vacated" => {
                assert_keys(event, &with(&["room"]), &[]);
                self.occupied.remove(&room);
            }
            "user_online" => {
                assert_keys(event, &with(&["user", "since"]), &[]);
                self.online.insert(user);
            }
            "user_offline" => {
                assert_keys(event, &with(&["user", "since", "last_seen"]), &[]);
                self.online.remove(&user);
            }
            "resync" => assert_keys(event, &common, &["room"]),
            other => panic!("unknown event type {other}: {event}"),
        }
    }
}

/// An event as a short text: `member_left lobby alice closed`.
pub(crate) fn summary(event: &Value) -> String {
    let words = ["type", "room", "user", "reason"].map(|name| event[name].as_str());
    words.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// The members of all rooms. `None` if the node does not answer.
fn read_all(node: SocketAddr) -> Option<BTreeMap<String, BTreeMap<String, Value>>> {
    let (mut rooms, mut after) = (BTreeMap::new(), String::new());
    loop {
        let page = get(node, &format!("/v1/rooms{after}"))?;
        for room in page["rooms"].as_array()?.iter().filter(|room| room["count"] != 0) {
            let room = room["room"].as_str()?;
            let members = read_room(node, room)?;
            if !members.is_empty() {
                rooms.insert(room.to_owned(), members);
            }
        }
        match page["next"].as_str() {
            Some(next) => after = format!("?after={}", encoded(next)),
            None => return Some(rooms),
        }
    }
}

fn read_room(node: SocketAddr, room: &str) -> Option<BTreeMap<String, Value>> {
    let (mut members, mut after) = (BTreeMap::new(), String::new());
    loop {
        let page = get(node, &format!("/v1/rooms/{}/members{after}", encoded(room)))?;
        for member in page["members"].as_array()? {
            members.insert(member["user"].as_str()?.to_owned(), member["state"].clone());
        }
        match page["next"].as_str() {
            Some(next) => after = format!("?after={}", encoded(next)),
            None => return Some(members),
        }
    }
}

/// Blocks the thread, as an application may do.
fn get(node: SocketAddr, path: &str) -> Option<Value> {
    let mut stream = TcpStream::connect_timeout(&node, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(&request_text("GET", path, &[], b"")).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    if answer.is_empty() {
        return None;
    }
    let answer = Response::parse(&answer);
    let json = (answer.status == 200).then(|| answer.json())?;
    // Otherwise the node does not know the others.
    json["degraded_since"].is_null().then_some(json)
}
