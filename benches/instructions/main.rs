//! The hot paths of the engine, one at a time. `scripts/instructions` counts their instructions.
//!
//! Only what runs within [`measured`] is counted, not the preparation. As a bench or a test the program executes every
//! path once. Hashes have random seeds, as on a server; a path that looks up names uses enough of them for a stable
//! mean.
//!
//! ```text
//! instructions --list            prints the names of the paths
//! instructions --count PATH      executes a path and prints the number of its operations
//! ```

#[path = "../common/mod.rs"]
mod common;
mod heartbeat_host;

use std::hint::black_box;
use std::io::IoSlice;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use common::{
    BusyRoom, ROOM, Random, TICK, TTL, WORKERS, diff_of, encoders, join_message, masked_frame, registry, room_of,
    user_name,
};
use heartbeat_host::HeartbeatHost;
use rollcall::broadcast::Broadcaster;
use rollcall::json::Reader;
use rollcall::presence::{Audience, Now, Reason, Registry, Session};
use rollcall::protocol::client::Client;
use rollcall::protocol::{Protocol, chat, native, online_status, online_users};
use rollcall::websocket::decoder::{Limits, Message, decode_frames};
use rollcall::websocket::outbox::{MAX_SLICES, Outbox};

/// Operations per round, and number of users.
const BATCH: usize = 1_000;
/// Rounds that are counted. What happens in a single round, such as the growth of a table, counts only a tenth.
const ROUNDS: usize = 10;
/// Users who join or leave between two ticks.
const CHANGES: usize = 100;

/// An audience of each kind.
const AUDIENCES: [Audience; 5] =
    [native::MEMBERS, native::COUNT, online_users::NAMES, online_status::EVENTS, chat::CHAT];

/// Executes a path for this many rounds and returns the number of operations.
type PathFn = fn(rounds: usize) -> usize;

const PATHS: &[(&str, PathFn)] = &[
    ("frame/heartbeat", |rounds| decode_frame(rounds, b"heartbeat")),
    ("frame/300-bytes", |rounds| decode_frame(rounds, join_message(&mut Random::new(), 300).as_bytes())),
    ("decode/heartbeat-text", |rounds| decode(rounds, b"heartbeat")),
    ("decode/heartbeat-json", |rounds| decode(rounds, br#"{"type":"heartbeat"}"#)),
    ("decode/heartbeat-parsed", |rounds| decode(rounds, br#"{"type":"heartbeat","ack":true}"#)),
    ("decode/join-300-bytes", |rounds| decode(rounds, join_message(&mut Random::new(), 300).as_bytes())),
    ("decode/heartbeat-online-users", decode_online_users),
    ("heartbeat/renew", renew),
    ("heartbeat/frame-to-lease", frame_to_lease),
    ("heartbeat/rest", rest_heartbeat),
    ("lease/rescheduled", lease_rescheduled),
    ("lease/ended", |rounds| session_life(rounds, Part::Expiry)),
    ("session/join", |rounds| session_life(rounds, Part::Join)),
    ("session/leave", |rounds| session_life(rounds, Part::Leave)),
    ("tick/quiet", tick_quiet),
    ("tick/settle", settle),
    ("tick/change", tick_change),
    ("tick/room", tick_room),
    ("encode/heartbeat-ack", encode_ack),
    ("encode/diff-of-1", |rounds| encode_diff(rounds, 1)),
    ("encode/diff-change", |rounds| encode_diff(rounds, CHANGES)),
    ("encode/count", encode_count),
    ("encode/snapshot-member", encode_snapshot),
    ("encode/user-list-member", encode_user_list),
    ("outbox/frame", outbox),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        PATHS.iter().for_each(|(name, _)| println!("{name}: benchmark"));
        return ExitCode::SUCCESS;
    }
    let Some(at) = arguments.iter().position(|argument| argument == "--count") else {
        PATHS.iter().for_each(|(_, execute)| assert!(execute(1) > 0));
        return ExitCode::SUCCESS;
    };
    let Some((_, execute)) = PATHS.iter().find(|(name, _)| arguments.get(at + 1).is_some_and(|wanted| wanted == name))
    else {
        eprintln!("instructions: --count takes a path that --list prints");
        return ExitCode::from(64);
    };
    println!("{}", execute(ROUNDS));
    ExitCode::SUCCESS
}

/// The script counts by the name of this function, so it must not be inlined.
#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    work();
}

/// For work that changes nothing. The first call, which lets buffers grow, is not counted.
fn repeat(times: usize, mut work: impl FnMut()) -> usize {
    work();
    measured(&mut || (0..times).for_each(|_| work()));
    times
}

/// Reads with one frame each, as nearly all reads have.
fn decode_frame(rounds: usize, payload: &[u8]) -> usize {
    let wire = masked_frame(&mut Random::new(), payload);
    let mut reads = wire.repeat(rounds * BATCH);
    let mut texts = 0;
    measured(&mut || {
        for read in reads.chunks_exact_mut(wire.len()) {
            let done = decode_frames(read, &mut None, &Limits::PRESENCE, |message| {
                texts += usize::from(matches!(black_box(message), Message::Text(_)));
                ControlFlow::Continue(())
            });
            assert!(black_box(done).is_ok());
        }
    });
    assert!(reads.chunks_exact(wire.len()).all(|read| read.ends_with(payload)), "frames are unmasked in place");
    texts
}

fn decode(rounds: usize, text: &[u8]) -> usize {
    let mut reader = Reader::default();
    let mut valid = 0;
    let count = repeat(rounds * BATCH, || {
        valid += usize::from(native::decode(&mut reader, black_box(text), |command| black_box(command).is_ok()));
    });
    assert_eq!(valid, count + 1);
    count
}

fn decode_online_users(rounds: usize) -> usize {
    repeat(rounds * BATCH, || assert!(online_users::is_heartbeat(black_box(b"heartbeat"))))
}

fn renew(rounds: usize) -> usize {
    let busy = BusyRoom::with_users(BATCH);
    measured(&mut || {
        for session in busy.sessions.iter().cycle().take(rounds * BATCH) {
            busy.registry.renew(session, black_box(busy.now));
        }
    });
    rounds * BATCH
}

/// The whole path of a heartbeat, except for the socket: frame, protocol, command, lease.
fn frame_to_lease(rounds: usize) -> usize {
    let busy = BusyRoom::with_users(BATCH);
    let mut reader = Reader::default();
    let mut replies = BytesMut::new();
    let rules = black_box(Protocol::Native).rules();
    let wire = masked_frame(&mut Random::new(), b"heartbeat");
    let mut reads = wire.repeat(rounds * BATCH);
    let mut heartbeats = 0;
    measured(&mut || {
        for (read, session) in reads.chunks_exact_mut(wire.len()).zip(busy.sessions.iter().cycle()) {
            let done = decode_frames(read, &mut None, &Limits::PRESENCE, |message| {
                let Message::Text(text) = message else { return ControlFlow::Break(()) };
                let mut host = HeartbeatHost { busy: &busy, session };
                (rules.receive)(&mut Client::new(&mut host, &mut replies), &mut reader, text);
                heartbeats += 1;
                ControlFlow::Continue(())
            });
            assert!(done.is_ok());
        }
    });
    heartbeats
}

fn rest_heartbeat(rounds: usize) -> usize {
    let registry = registry();
    let users: Vec<String> = (0..BATCH).map(user_name).collect();
    let now = Now::default();
    assert!(users.iter().all(|user| registry.rest_heartbeat(user, ROOM, None, None, now) == Ok(true)));
    let mut known = 0;
    measured(&mut || {
        for user in users.iter().cycle().take(rounds * BATCH) {
            known += usize::from(registry.rest_heartbeat(user, ROOM, None, None, now) == Ok(false));
        }
    });
    known
}

/// Within one lease, each session leaves the timing wheel once and is put back because heartbeats have renewed its
/// lease.
fn lease_rescheduled(rounds: usize) -> usize {
    let mut busy = BusyRoom::with_users(BATCH);
    for _ in 0..rounds as u64 * TTL {
        busy.next_tick();
        measured(&mut || busy.registry.end_leases(busy.now));
    }
    assert_eq!(busy.registry.users_online(), BATCH);
    rounds * BATCH
}

/// The part of a session's life that is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Join,
    Leave,
    Expiry,
}

fn session_life(rounds: usize, part: Part) -> usize {
    let registry = registry();
    let names: Vec<String> = (0..BATCH).map(user_name).collect();
    let mut now = Now::default();
    // The first round, in which tables are empty, is not counted.
    for round in 0..=rounds {
        let counted =
            |this: Part, work: &mut dyn FnMut()| if round > 0 && this == part { measured(work) } else { work() };
        let mut sessions: Vec<Arc<Session>> = Vec::with_capacity(BATCH);
        counted(Part::Join, &mut || {
            for name in &names {
                let session = registry.open_session(name, now);
                registry.join(&session, ROOM, None, now);
                sessions.push(session);
            }
        });
        assert_eq!(settle_all(&registry), BATCH);
        if part == Part::Leave {
            counted(Part::Leave, &mut || {
                for session in &sessions {
                    registry.end_session(session, Reason::Left);
                }
            });
        }
        now.tick += TTL + 1;
        counted(Part::Expiry, &mut || registry.end_leases(now));
        assert_eq!((settle_all(&registry), registry.users_online()), (BATCH, 0));
    }
    rounds * BATCH
}

/// A tick without changes and without leases to check.
fn tick_quiet(rounds: usize) -> usize {
    let busy = BusyRoom::with_users(BATCH);
    let mut broadcaster = Broadcaster::new(Arc::clone(&busy.registry), WORKERS, TICK, encoders());
    repeat(rounds * BATCH, || assert_eq!(broadcaster.tick(busy.now).1.rooms, 0))
}

/// Joins and leaves in turn, without a broadcast.
fn settle(rounds: usize) -> usize {
    let busy = BusyRoom::with_users(BATCH);
    let churn = churn(&busy.registry, busy.now, |_| ROOM.into());
    let room = busy.registry.room(ROOM).unwrap();
    let mut changes = 0;
    for _ in 0..rounds * BATCH / CHANGES {
        toggle(&busy.registry, &churn, busy.now);
        assert_eq!(busy.registry.take_dirty().len(), 1);
        measured(&mut || {
            let diff = busy.registry.settle(&room).diff;
            changes += diff.joined.len() + diff.left.len();
        });
    }
    changes
}

/// Many changes in one room, with observers of every kind.
fn tick_change(rounds: usize) -> usize {
    let busy = BusyRoom::with_users(BATCH);
    for worker in 0..WORKERS {
        for audience in AUDIENCES {
            busy.registry.observe(ROOM, worker, audience, false);
        }
    }
    let churn = churn(&busy.registry, busy.now, |_| ROOM.into());
    tick_toggles(rounds, &busy.registry, &churn, busy.now)
}

/// One change in each of many small rooms: the cost of a tick per room.
fn tick_room(rounds: usize) -> usize {
    let registry = Arc::new(registry());
    let now = Now::default();
    let churn = churn(&registry, now, |number| format!("room-{number}").into());
    for (_, room) in &churn {
        registry.observe(room, 0, native::MEMBERS, false);
    }
    tick_toggles(rounds, &registry, &churn, now)
}

fn tick_toggles(rounds: usize, registry: &Arc<Registry>, churn: &[ChurnSession], now: Now) -> usize {
    let mut broadcaster = Broadcaster::new(Arc::clone(registry), WORKERS, TICK, encoders());
    broadcaster.tick(now);
    let mut changes = 0;
    for _ in 0..rounds * BATCH / CHANGES {
        toggle(registry, churn, now);
        measured(&mut || changes += broadcaster.tick(now).1.changes() as usize);
    }
    changes
}

fn encode_ack(rounds: usize) -> usize {
    let mut buffer = BytesMut::new();
    repeat(rounds * BATCH, || {
        buffer.clear();
        native::put_heartbeat_ack(&mut buffer, black_box(1_793_000_000_000));
    })
}

/// Per change. A quiet room sends frames with one change; in frames with many, the changes themselves dominate.
fn encode_diff(rounds: usize, changes: usize) -> usize {
    let (room, diff) = (room_of(1), diff_of(changes));
    let encode = || native::encode_diff(&room, 7, 1_234, black_box(&diff));
    changes * repeat(rounds * BATCH / changes, || drop(black_box(encode())))
}

fn encode_count(rounds: usize) -> usize {
    let room = room_of(1);
    repeat(rounds * BATCH, || drop(black_box(native::encode_count(&room, 7, black_box(1_234)))))
}

fn encode_snapshot(rounds: usize) -> usize {
    let room = room_of(BATCH);
    measured(&mut || (0..rounds).for_each(|_| drop(black_box(native::encode_snapshot(black_box(&room))))));
    rounds * BATCH
}

fn encode_user_list(rounds: usize) -> usize {
    let room = room_of(BATCH);
    let encode = || room.read(|roster| online_users::encode_list(roster.members_after(None).map(|(user, _)| user)));
    measured(&mut || (0..rounds).for_each(|_| drop(black_box(encode()))));
    rounds * BATCH
}

/// A slow client: several frames wait and go out with one call.
fn outbox(rounds: usize) -> usize {
    const WAITING: usize = 8;
    let frame = Bytes::from(vec![0; 200]);
    let mut outbox = Outbox::default();
    WAITING
        * repeat(rounds * BATCH, || {
            (0..WAITING).for_each(|_| outbox.push(frame.clone()));
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            assert_eq!(outbox.slices(black_box(&mut slices)), WAITING);
            outbox.advance(outbox.bytes());
        })
}

/// Settles all changed rooms and returns the number of changes.
fn settle_all(registry: &Registry) -> usize {
    let diffs = registry.take_dirty().into_iter().map(|room| registry.settle(&room).diff);
    diffs.map(|diff| diff.joined.len() + diff.left.len()).sum()
}

/// A session, and the room that it joins and leaves.
type ChurnSession = (Arc<Session>, Box<str>);

fn churn(registry: &Registry, now: Now, room: impl Fn(usize) -> Box<str>) -> Vec<ChurnSession> {
    (0..CHANGES).map(|number| (registry.open_session(&format!("churn-{number}"), now), room(number))).collect()
}

/// Each session leaves its room if it is in it, and otherwise joins.
fn toggle(registry: &Registry, churn: &[ChurnSession], now: Now) {
    for (session, room) in churn {
        if !registry.leave(session, room) {
            registry.join(session, room, None, now);
        }
    }
}
