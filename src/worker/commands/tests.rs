//! Connections with several users, and with none.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;

use super::*;
use crate::config::Config;
use crate::connection::ConnectionId;
use crate::fanout::Requested;
use crate::node::Node;
use crate::presence::kick::Kick;
use crate::presence::{Reason, Registry, Settings};
use crate::protocol::Protocol;
use crate::store::{MemoryStore, Sinks};
use crate::worker::Ending;

const TTL: u64 = 10;
const MEMBERS: Audience = Protocol::ALL[0].audience(0);

/// Calls `test` with an open connection that has no user. Its client stays connected as long as the test runs.
pub(in crate::worker) fn with_connection(test: impl FnOnce(&mut Worker, &mut Connection)) {
    let config = Config::from_args(["rollcall", "--workers", "1"]).unwrap();
    let settings = Settings { ttl: TTL, workers: 1, incarnation: 1 };
    let (registry, sinks) = (Arc::new(Registry::new(settings)), Arc::<Sinks>::default());
    let node = Node::new(config, "node".to_owned(), registry, Box::<MemoryStore>::default(), sinks);
    let mut worker = Worker::new(0, Arc::new(node));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let id = ConnectionId { index: 0, serial: 0 };
    let mut connection = Connection::new(id, Protocol::ALL[0], stream.into(), 0);
    connection.open(Protocol::ALL[0], 0);
    test(&mut worker, &mut connection);
}

fn join(room: &str) -> Command<'_> {
    Command::Join { room, state: None, audience: None, resume: None }
}

fn rooms(worker: &Worker, user: &str) -> Vec<String> {
    let status = worker.node.registry.status(user, "", usize::MAX);
    status.map_or_else(Vec::new, |status| status.rooms.iter().map(ToString::to_string).collect())
}

fn now(tick: u64) -> crate::presence::Now {
    crate::presence::Now { tick, unix_ms: 0 }
}

#[test]
fn one_connection_acts_for_several_users() {
    with_connection(|worker, connection| {
        let mut host = Commands::new(worker, connection);
        let (ann, bob) = (host.identify("ann").unwrap(), host.identify("bob").unwrap());
        assert_eq!((host.identify("ann"), host.identify("bob")), (Some(ann), Some(bob)), "one session per user");
        assert_eq!(host.execute(ann, join("red")), Ok(()));
        assert_eq!(host.execute(bob, join("blue")), Ok(()));
        let (of_ann, of_bob) = (rooms(host.worker, "ann"), rooms(host.worker, "bob"));
        assert_eq!((of_ann, of_bob), (vec!["red".to_owned()], vec!["blue".to_owned()]));
        // Commands about a joined room are those of its member, whichever session executes them.
        assert_eq!(host.execute(ann, Command::Publish { room: "blue", data: "1".to_owned() }), Ok(()));
        assert_eq!(host.execute(ann, Command::Leave { room: "blue" }), Ok(()));
        assert_eq!(rooms(host.worker, "bob"), Vec::<String>::new());
        assert_eq!(host.execute(bob, Command::Leave { room: "blue" }), Err(Refused::NotJoined));
    });
}

#[test]
fn a_user_who_could_not_join_anything_is_taken_away_again() {
    with_connection(|worker, connection| {
        let mut host = Commands::new(worker, connection);
        let (ann, bob) = (host.identify("ann").unwrap(), host.identify("bob").unwrap());
        host.execute(bob, join("blue")).unwrap();
        [ann, bob].into_iter().for_each(|session| host.forget(session));
        assert_eq!(host.connection.sessions().count(), 2, "the last one has joined a room");
        host.execute(bob, Command::Leave { room: "blue" }).unwrap();
        [bob, bob, ann].into_iter().for_each(|session| host.forget(session));
        assert_eq!(host.connection.sessions().count(), 0);
        assert_eq!(host.identify("carol"), Some(ann), "as the first user");
    });
}

#[test]
fn a_sign_of_life_renews_the_leases_of_all_users_of_a_connection() {
    with_connection(|worker, connection| {
        let mut host = Commands::new(worker, connection);
        for (user, room) in [("ann", "red"), ("bob", "blue")] {
            let session = host.identify(user).unwrap();
            host.execute(session, join(room)).unwrap();
        }
        worker.sign_of_life(connection, now(TTL));
        worker.node.registry.end_leases(now(TTL + 5));
        assert_eq!((rooms(worker, "ann").len(), rooms(worker, "bob").len()), (1, 1));
        worker.node.registry.end_leases(now(3 * TTL));
        assert_eq!((rooms(worker, "ann").len(), rooms(worker, "bob").len()), (0, 0));
    });
}

#[test]
fn the_end_of_a_connection_ends_the_sessions_of_all_its_users() {
    with_connection(|worker, connection| {
        let mut host = Commands::new(worker, connection);
        for (user, room) in [("ann", "red"), ("bob", "blue")] {
            let session = host.identify(user).unwrap();
            host.execute(session, join(room)).unwrap();
        }
        worker.release(connection, Ending::Clean);
        assert_eq!((rooms(worker, "ann").len(), rooms(worker, "bob").len()), (0, 0));
    });
}

#[test]
fn a_room_that_one_user_of_a_connection_has_joined_stays_the_room_of_this_user() {
    with_connection(|worker, connection| {
        let mut host = Commands::new(worker, connection);
        let (ann, bob) = (host.identify("ann").unwrap(), host.identify("bob").unwrap());
        host.execute(ann, join("red")).unwrap();
        host.execute(bob, join("red")).unwrap();
        assert_eq!((rooms(host.worker, "ann").len(), rooms(host.worker, "bob").len()), (1, 0));
        host.execute(bob, Command::Leave { room: "red" }).unwrap();
        assert_eq!(rooms(host.worker, "ann").len(), 0);
    });
}

#[test]
fn a_kick_ends_the_session_of_the_kicked_user_at_once_and_leaves_the_others_their_grace_period() {
    with_connection(|worker, connection| {
        let mut host = Commands::new(worker, connection);
        for (user, room) in [("ann", "red"), ("bob", "blue")] {
            let session = host.identify(user).unwrap();
            host.execute(session, join(room)).unwrap();
        }
        let kick = Kick { user: "ann".into(), login: None, reason: Reason::Kicked, requested_unix_ms: None };
        worker.kick_connection(connection, &kick);
        assert_eq!((rooms(worker, "ann").len(), rooms(worker, "bob").len()), (0, 1));
        assert_eq!(connection.phase, Phase::Closing);
    });
}

#[test]
fn a_connection_without_a_user_observes_and_does_nothing_else() {
    with_connection(|worker, connection| {
        let mut host = Commands::new(worker, connection);
        let first = SessionNumber::FIRST;
        let observe = Command::Observe { room: "red", audience: MEMBERS, resume: None };
        assert_eq!(host.execute(first, observe), Ok(()));
        assert_eq!(host.execute(first, join("red")), Err(Refused::NoUser));
        assert_eq!(
            host.execute(first, Command::Publish { room: "red", data: "1".to_owned() }),
            Err(Refused::NotJoined)
        );
        assert_eq!(host.execute(first, Command::Heartbeat), Ok(()));
        host.worker.sign_of_life(host.connection, now(1));
        assert!(host.has_rooms() && host.worker.node.registry.users_online() == 0);
        assert_eq!(host.execute(first, Command::Unobserve { room: "red" }), Ok(()));
        assert_eq!(host.execute(first, Command::Unobserve { room: "red" }), Err(Refused::NotObserved));
    });
}

#[test]
fn a_connection_has_a_maximum_number_of_users() {
    with_connection(|worker, connection| {
        let mut host = Commands::new(worker, connection);
        assert!((0..256).all(|number| host.identify(&format!("user-{number}")).is_some()));
        assert_eq!(host.identify("one too many"), None);
        assert_eq!(host.identify("user-255").map(SessionNumber::index), Some(255));
    });
}

/// Executes a command forever, as fast as its pauses allow. Returns how many were executed before the connection was
/// closed.
fn execute_until_closed(
    worker: &mut Worker,
    connection: &mut Connection,
    mut command: impl FnMut(usize) -> String,
) -> usize {
    let mut replies = BytesMut::new();
    for number in 0..1_000_000 {
        let room = command(number);
        let session = SessionNumber::FIRST;
        let _ = Commands::new(worker, connection).execute(session, Command::Leave { room: &room });
        worker.end_if_over_limit(connection, &mut replies);
        if connection.phase != Phase::Open {
            return number;
        }
        while connection.is_paused {
            let tick = worker.node.tick.fetch_add(1, Ordering::Relaxed) + 1;
            for _ in worker.take_waiting(tick) {
                connection.is_paused = !worker.may_resume(connection, tick);
            }
        }
    }
    usize::MAX
}

#[test]
fn persistent_abuse_is_closed_and_not_before_minutes_have_passed() {
    with_connection(|worker, connection| {
        Commands::new(worker, connection).identify("mallory").unwrap();
        execute_until_closed(worker, connection, |number| format!("room-{number}"));
        let minutes = worker.node.now().tick / worker.times.second / 60;
        assert!((2..5).contains(&minutes), "closed after {minutes} minutes");
    });
}

#[test]
fn a_huge_debt_is_closed_at_once() {
    with_connection(|worker, connection| {
        let requested = Requested { connection: connection.id, bytes: 20 << 20, room: None, is_repeat: false };
        worker.charge_for_reply(connection, requested);
        assert_eq!(connection.phase, Phase::Open);
        worker.charge_for_reply(connection, requested);
        assert_eq!(connection.phase, Phase::Closing, "40 MiB are more than the limit");
        assert_eq!(worker.counters.connections_over_limit.get(), 1);
    });
}

#[test]
fn clients_that_are_told_their_own_join_observe_the_room_when_it_is_settled() {
    const JOINS: usize = 1000;
    for protocol in Protocol::ALL.iter().filter(|protocol| protocol.rules().observes_first) {
        with_connection(|worker, connection| {
            connection.open(*protocol, 0);
            let (registry, audience) = (Arc::clone(&worker.node.registry), protocol.audience(0));
            // The other thread may get the CPU late.
            let joins = AtomicUsize::new(0);
            let settle_all = || {
                while joins.load(Ordering::Acquire) < JOINS {
                    for room in registry.take_dirty() {
                        let change = registry.settle(&room);
                        let is_observed = change.observed.iter().any(|audiences| audiences.contains(audience));
                        let joined = change.diff.joined.len();
                        // Ends the loops, also if the assertion fails.
                        joins.fetch_add(if is_observed { joined } else { JOINS * joined }, Ordering::AcqRel);
                        assert!(joined == 0 || is_observed, "{protocol:?}: a join that nobody sees");
                        registry.close_if_unused(&room);
                    }
                }
            };
            std::thread::scope(|scope| {
                scope.spawn(settle_all);
                let mut host = Commands::new(worker, connection);
                let ann = host.identify("ann").unwrap();
                let rooms = (0..).map(|number| format!("room {number}"));
                for room in rooms.take_while(|_| joins.load(Ordering::Acquire) < JOINS) {
                    let join = Command::Join { room: &room, state: None, audience: Some(audience), resume: None };
                    host.execute(ann, join).unwrap();
                    host.execute(ann, Command::Leave { room: &room }).unwrap();
                }
            });
        });
    }
}
