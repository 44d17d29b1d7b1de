//! Many users at once: a thousand connections, snapshots of several pages, and a random schedule after which every
//! mirror equals the registry.

use futures_util::future::join_all;
use serde_json::json;

use crate::common::room::PAGE_LIMIT;
use crate::common::{Mirror, Random, TestServer};

/// Sends REST heartbeats for many users, 250 at a time: the first heartbeat of a user is answered at the next tick.
async fn heartbeat_all(server: &TestServer, users: &[String]) {
    for group in users.chunks(250) {
        join_all(group.iter().map(|user| server.rest_heartbeat(user))).await;
    }
}

#[tokio::test]
async fn a_thousand_connections_see_the_same_members() {
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
        mirror.wait_until("all members", |mirror| mirror.size("lobby") == CONNECTIONS).await;
    }
    let members = server.wait_for_agreement("lobby", &mut mirrors).await;
    assert!(members.keys().eq(&users));
    // A third leaves and a third changes its state. All others and the registry agree again.
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
async fn snapshots_of_more_than_a_thousand_members_come_in_pages() {
    let server = TestServer::start(&[]);
    let users: Vec<String> = (0..2 * PAGE_LIMIT + 500).map(|n| format!("user-{n:05}")).collect();
    // A thousand members fit on one page.
    heartbeat_all(&server, &users[..PAGE_LIMIT]).await;
    let full = server.observe("full", "lobby").await;
    assert_eq!(full.members("lobby").len(), PAGE_LIMIT);
    let page = full.since(0, "snapshot", "lobby");
    assert_eq!((page.len(), &page[0]["pages"]), (1, &json!(1)));
    // One more needs two pages.
    heartbeat_all(&server, &users[..=PAGE_LIMIT]).await;
    let over = server.observe("over", "lobby").await;
    assert_eq!(over.members("lobby").len(), PAGE_LIMIT + 1);
    let pages = over.since(0, "snapshot", "lobby");
    assert_eq!(pages.len(), 2);
    assert_eq!(pages[1]["members"], json!([{"user": users[PAGE_LIMIT]}]));
    heartbeat_all(&server, &users).await;
    let mut late = server.connect_to("late", "lobby").await;
    assert_eq!(late.since(0, "snapshot", "lobby").len(), 3);
    late.wait_until("all members", |late| late.size("lobby") == users.len() + 1).await;
    let members = server.wait_for_agreement("lobby", &mut [full, over, late]).await;
    assert_eq!(members.len(), users.len() + 1);
    server.stop().await;
}

#[tokio::test]
async fn diffs_between_the_pages_of_a_snapshot_apply() {
    // Observers attach while the room changes with every tick. Each ends with the current members.
    let server = TestServer::start(&["--tick", "10ms"]);
    let users: Vec<String> = (0..3 * PAGE_LIMIT).map(|n| format!("user-{n:05}")).collect();
    heartbeat_all(&server, &users).await;
    let mut busy = server.connect_to("busy", "lobby").await;
    let mut mirrors = Vec::new();
    for round in 0..10 {
        busy.send(&json!({"type": "state", "room": "lobby", "state": {"round": round}}));
        let observer = server.connect(&format!("observer-{round}")).await;
        observer.send(&json!({"type": "observe", "room": "lobby"}));
        busy.send(&json!({"type": "state", "room": "lobby", "state": {"round": round, "half": true}}));
        observer.send(&json!({"type": "resync", "room": "lobby"}));
        mirrors.push(observer);
    }
    let last = json!({"round": 9, "half": true});
    busy.wait_until("the last state", |busy| busy.state("lobby", "busy") == Some(&last)).await;
    mirrors.push(busy);
    server.wait_for_agreement("lobby", &mut mirrors).await;
    server.stop().await;
}

const ROOMS: [&str; 3] = ["red", "green", "blue"];

/// What one client of the schedule should have in each room: no membership, or a state.
#[derive(Default)]
struct Expected {
    states: [Option<u64>; ROOMS.len()],
}

#[tokio::test]
async fn all_mirrors_equal_the_registry_after_a_random_schedule() {
    const CLIENTS: usize = 16;
    const STEPS: u64 = 1500;
    let server = TestServer::start(&["--ttl", "1s", "--tick", "10ms"]);
    let mut observer = Mirror::connect(server.address(), "observer", &[]).await;
    for room in ROOMS {
        observer.send(&json!({"type": "observe", "room": room}));
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
                // Disconnect in one of three ways, and reconnect as the same user without rooms.
                match random.below(3) {
                    0 => client.close(1000),
                    1 => client.close(1001),
                    _ => {}
                }
                *client = server.connect(&client.user.clone()).await;
                *expected = Expected::default();
            }
            17 => observer.send(&json!({"type": "resync", "room": room})),
            _ => {
                client.heartbeat().await;
            }
        }
        observer.apply_pending();
    }
    // Users without a clean close stay for a lease. After that the registry equals what the clients did.
    for (at, room) in ROOMS.iter().enumerate() {
        let meant = clients.iter().filter_map(|(client, expected)| {
            expected.states[at].map(|step| (client.user.clone(), Some(json!({ "step": step }))))
        });
        let meant: crate::common::Members = meant.collect();
        observer.wait_until("the expected members", |observer| observer.has_exactly(room, &meant)).await;
        for (client, expected) in &mut clients {
            if expected.states[at].is_some() {
                client.wait_until("the expected members", |client| client.has_exactly(room, &meant)).await;
            }
        }
        assert_eq!(server.members(room).await, meant, "{room} over HTTP");
    }
    server.stop().await;
}
