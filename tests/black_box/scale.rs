//! Many at once: a thousand connections, paged snapshots, and a random schedule after which every mirror has to be
//! what the registry says.

use futures_util::future::join_all;
use serde_json::json;

use crate::common::room::PAGE_LIMIT;
use crate::common::{Mirror, TestServer};

/// Heartbeats over REST for many users, some hundred at a time: the first of a user is answered at the next tick.
async fn beat_all(server: &TestServer, users: &[String]) {
    for group in users.chunks(250) {
        join_all(group.iter().map(|user| server.rest_heartbeat(user))).await;
    }
}

#[tokio::test]
async fn a_thousand_connections_see_the_same() {
    const CONNECTIONS: usize = 1000;
    rlimit::increase_nofile_limit(8192).expect("2,000 sockets are allowed");
    let server = TestServer::start(&["--tick", "100ms"]);
    let mut mirrors = Vec::new();
    let users: Vec<String> = (0..CONNECTIONS).map(|n| format!("user-{n:04}")).collect();
    for group in users.chunks(200) {
        let joining = group.iter().map(|user| Mirror::connect(server.address(), user, &["lobby"]));
        mirrors.extend(join_all(joining).await);
    }
    for mirror in &mut mirrors {
        mirror.logging = false;
        mirror.wait_until("everybody", |mirror| mirror.size("lobby") == CONNECTIONS).await;
    }
    let members = server.wait_for_agreement("lobby", &mut mirrors).await;
    assert!(members.keys().eq(&users));
    // A third leaves, a third changes; all the others and the registry agree again.
    for (n, mirror) in mirrors.iter().enumerate() {
        match n % 3 {
            0 => mirror.send(&json!({"type": "leave", "room": "lobby"})),
            1 => mirror.send(&json!({"type": "state", "room": "lobby", "state": {"n": n}})),
            _ => {}
        }
    }
    let changed = (0..CONNECTIONS).filter(|n| n % 3 == 1).count();
    let mut staying: Vec<Mirror> =
        mirrors.into_iter().enumerate().filter_map(|(n, mirror)| (n % 3 != 0).then_some(mirror)).collect();
    let expected = (staying.len(), changed);
    let complete = |mirror: &Mirror| {
        let members = &mirror.room("lobby").members;
        (members.len(), members.values().flatten().count()) == expected
    };
    for mirror in &mut staying {
        mirror.wait_until("the changes", complete).await;
    }
    server.wait_for_agreement("lobby", &mut staying).await;
    assert_eq!(server.count("lobby").await, staying.len() as u64);
    server.stop().await;
}

#[tokio::test]
async fn more_than_a_page_of_members_come_in_pages() {
    let server = TestServer::start(&[]);
    let users: Vec<String> = (0..2 * PAGE_LIMIT + 500).map(|n| format!("user-{n:05}")).collect();
    // Exactly a page is one page still.
    beat_all(&server, &users[..PAGE_LIMIT]).await;
    let full = server.observe("full", "lobby").await;
    assert_eq!(full.members("lobby").len(), PAGE_LIMIT);
    let page = full.since(0, "snapshot", "lobby");
    assert_eq!((page.len(), &page[0]["pages"]), (1, &json!(1)));
    // One more makes two.
    beat_all(&server, &users[..=PAGE_LIMIT]).await;
    let over = server.observe("over", "lobby").await;
    assert_eq!(over.members("lobby").len(), PAGE_LIMIT + 1);
    let pages = over.since(0, "snapshot", "lobby");
    assert_eq!(pages.len(), 2);
    assert_eq!(pages[1]["members"], json!([{"user": users[PAGE_LIMIT]}]));
    beat_all(&server, &users).await;
    let mut late = server.connect_to("late", "lobby").await;
    assert_eq!(late.since(0, "snapshot", "lobby").len(), 3);
    late.wait_until("all", |late| late.size("lobby") == users.len() + 1).await;
    let members = server.wait_for_agreement("lobby", &mut [full, over, late]).await;
    assert_eq!(members.len(), users.len() + 1);
    server.stop().await;
}

#[tokio::test]
async fn pages_and_diffs_go_together() {
    // Observers arrive while the room changes with every tick; each ends up with the truth.
    let server = TestServer::start(&["--tick", "10ms"]);
    let users: Vec<String> = (0..3 * PAGE_LIMIT).map(|n| format!("user-{n:05}")).collect();
    beat_all(&server, &users).await;
    let mut busy = server.connect_to("busy", "lobby").await;
    let mut mirrors = Vec::new();
    for round in 0..10 {
        busy.send(&json!({"type": "state", "room": "lobby", "state": {"round": round}}));
        let watcher = server.connect(&format!("watcher-{round}")).await;
        watcher.send(&json!({"type": "observe", "room": "lobby"}));
        busy.send(&json!({"type": "state", "room": "lobby", "state": {"round": round, "half": true}}));
        watcher.send(&json!({"type": "resync", "room": "lobby"}));
        mirrors.push(watcher);
    }
    let last = json!({"round": 9, "half": true});
    busy.wait_until("the last state", |busy| busy.state("lobby", "busy") == Some(&last)).await;
    mirrors.push(busy);
    server.wait_for_agreement("lobby", &mut mirrors).await;
    server.stop().await;
}

/// A small generator of our own, so that the schedule is the same on every machine and for ever (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        usize::try_from(high).expect("32 bits fit") % limit
    }
}

const ROOMS: [&str; 3] = ["red", "green", "blue"];

/// What one client of the schedule should have in each room: nothing, or a state.
#[derive(Default)]
struct Expected {
    states: [Option<u64>; ROOMS.len()],
}

#[tokio::test]
async fn a_random_schedule_ends_in_agreement() {
    const CLIENTS: usize = 16;
    const STEPS: u64 = 1500;
    let server = TestServer::start(&["--ttl", "1s", "--tick", "10ms"]);
    let mut watcher = Mirror::connect(server.address(), "watcher", &[]).await;
    for room in ROOMS {
        watcher.send(&json!({"type": "observe", "room": room}));
    }
    let mut random = Random(0x5EED);
    let mut clients: Vec<(Mirror, Expected)> = Vec::new();
    for n in 0..CLIENTS {
        clients.push((server.connect(&format!("client-{n:02}")).await, Expected::default()));
    }
    for step in 0..STEPS {
        let (client, expected) = &mut clients[random.below(CLIENTS)];
        let at = random.below(ROOMS.len());
        let room = ROOMS[at];
        let joined = expected.states[at].is_some();
        match random.below(20) {
            0..6 => {
                client.send(&json!({"type": "join", "room": room, "state": {"step": step}}));
                expected.states[at] = Some(step);
            }
            6..9 if joined => {
                client.send(&json!({"type": "leave", "room": room}));
                expected.states[at] = None;
            }
            9..14 if joined => {
                client.send(&json!({"type": "state", "room": room, "state": {"step": step}}));
                expected.states[at] = Some(step);
            }
            14 if joined => client.send(&json!({"type": "resync", "room": room})),
            15 => client.send(&json!({"type": "observe", "room": room})),
            16 => {
                // Gone in one of three ways, and back as the same user without any room.
                match random.below(3) {
                    0 => client.close(1000),
                    1 => client.close(1001),
                    _ => {}
                }
                *client = server.connect(&client.user.clone()).await;
                *expected = Expected::default();
            }
            17 => watcher.send(&json!({"type": "resync", "room": room})),
            _ => {
                client.heartbeat().await;
            }
        }
        watcher.apply_pending();
    }
    // Those who vanished linger for a lease; after that the registry is what the clients meant.
    for (at, room) in ROOMS.iter().enumerate() {
        let meant = clients.iter().filter_map(|(client, expected)| {
            expected.states[at].map(|step| (client.user.clone(), Some(json!({ "step": step }))))
        });
        let meant: crate::common::Members = meant.collect();
        watcher.wait_until("what was meant", |watcher| watcher.has_exactly(room, &meant)).await;
        for (client, expected) in &mut clients {
            if expected.states[at].is_some() {
                client.wait_until("what was meant", |client| client.has_exactly(room, &meant)).await;
            }
        }
        assert_eq!(server.members(room).await, meant, "{room} over HTTP");
    }
    server.stop().await;
}
