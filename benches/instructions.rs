//! The hot paths of the engine, one at a time, for `scripts/instructions` to count instructions of.
//!
//! Only what runs within [`measured`] is counted, so the preparation may do what it likes. As a bench or a test it does everything
//! once. Hashes are seeded at random as on a server: what looks into a map does so for enough names that the mean stays.
//!
//! ```text
//! instructions --list            names the paths
//! instructions --count PATH      walks one and prints how often it did
//! ```

mod common;

use std::hint::black_box;
use std::io::IoSlice;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use common::{
    Crowd, ROOM, Random, TICK, TTL, WORKERS, diff_of, encoders, join_message, masked_frame, registry, room_of,
    user_name,
};
use rollcall::broadcast::Broadcaster;
use rollcall::json::Reader;
use rollcall::presence::{Audience, Now, Reason, Registry, Session};
use rollcall::protocol::client::{Client, Host, ServerInfo};
use rollcall::protocol::{Command, Outcome, Protocol, SessionNumber, chat, native, online_status, online_users};
use rollcall::websocket::decoder::{Limits, Message, decode_frames};
use rollcall::websocket::outbox::{MAX_SLICES, Outbox};

/// Operations of a round; users, where there are users.
const BATCH: usize = 1_000;
/// Rounds that are counted. What falls into some rounds only, as tables that grow, weighs a tenth of a round then.
const ROUNDS: usize = 10;
/// Users who come or go between two ticks.
const CHANGES: usize = 100;

/// An audience of each kind.
const AUDIENCES: [Audience; 5] =
    [native::MEMBERS, native::COUNT, online_users::NAMES, online_status::EVENTS, chat::CHAT];

/// Walks a path for so many rounds and returns how often that was.
type Walk = fn(rounds: usize) -> usize;

const PATHS: &[(&str, Walk)] = &[
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
    ("lease/looked-at", lease_looked_at),
    ("lease/ended", |rounds| come_and_go(rounds, Moment::Lapse)),
    ("session/join", |rounds| come_and_go(rounds, Moment::Come)),
    ("session/leave", |rounds| come_and_go(rounds, Moment::Go)),
    ("tick/quiet", tick_quiet),
    ("tick/settle", settle),
    ("tick/change", tick_change),
    ("tick/room", tick_room),
    ("encode/heartbeat-ack", encode_ack),
    ("encode/diff-of-1", |rounds| encode_diff(rounds, 1)),
    ("encode/diff-change", |rounds| encode_diff(rounds, CHANGES)),
    ("encode/count", encode_count),
    ("encode/snapshot-member", encode_snapshot),
    ("encode/names-member", encode_names),
    ("outbox/frame", outbox),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        PATHS.iter().for_each(|(name, _)| println!("{name}: benchmark"));
        return ExitCode::SUCCESS;
    }
    let Some(at) = arguments.iter().position(|argument| argument == "--count") else {
        PATHS.iter().for_each(|(_, walk)| assert!(walk(1) > 0));
        return ExitCode::SUCCESS;
    };
    let Some((_, walk)) = PATHS.iter().find(|(name, _)| arguments.get(at + 1).is_some_and(|wanted| wanted == name))
    else {
        eprintln!("instructions: --count takes one of the paths that --list names");
        return ExitCode::from(64);
    };
    println!("{}", walk(ROUNDS));
    ExitCode::SUCCESS
}

/// The script counts by the name of this function, so it must stay one that is called.
#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    work();
}

/// For work that finds everything as it was: once so that buffers have grown, then for the count.
fn repeat(times: usize, mut work: impl FnMut()) -> usize {
    work();
    measured(&mut || (0..times).for_each(|_| work()));
    times
}

/// One read that holds one frame, as nearly all do.
fn decode_frame(rounds: usize, payload: &[u8]) -> usize {
    let wire = masked_frame(&mut Random::new(), payload);
    let mut reads = wire.repeat(rounds * BATCH);
    let mut taken = 0;
    measured(&mut || {
        for read in reads.chunks_exact_mut(wire.len()) {
            let done = decode_frames(read, &mut None, &Limits::PRESENCE, |incoming| {
                taken += usize::from(matches!(black_box(incoming), Message::Text(_)));
                ControlFlow::Continue(())
            });
            assert!(black_box(done).is_ok());
        }
    });
    assert!(reads.chunks_exact(wire.len()).all(|read| read.ends_with(payload)), "unmasked in place");
    taken
}

fn decode(rounds: usize, text: &[u8]) -> usize {
    let mut reader = Reader::default();
    let mut good = 0;
    let count = repeat(rounds * BATCH, || {
        good += usize::from(native::decode(&mut reader, black_box(text), |command| black_box(command).is_ok()));
    });
    assert_eq!(good, count + 1);
    count
}

fn decode_online_users(rounds: usize) -> usize {
    repeat(rounds * BATCH, || assert!(online_users::is_heartbeat(black_box(b"heartbeat"))))
}

fn renew(rounds: usize) -> usize {
    let crowd = Crowd::gather(BATCH);
    measured(&mut || {
        for session in crowd.sessions.iter().cycle().take(rounds * BATCH) {
            crowd.registry.renew(session, black_box(crowd.now));
        }
    });
    rounds * BATCH
}

/// A connection with one session that only sends heartbeats.
struct Heartbeats<'a> {
    crowd: &'a Crowd,
    session: &'a Arc<Session>,
}

impl Host for Heartbeats<'_> {
    fn execute(&self, _: SessionNumber, command: Command<'_>) -> Outcome {
        if command == Command::Heartbeat {
            self.crowd.registry.renew(self.session, black_box(self.crowd.now));
        }
        Ok(())
    }

    fn identify(&self, _: &str) -> Option<SessionNumber> {
        None
    }

    fn is_identified(&self) -> bool {
        true
    }

    fn count_refusal(&self) {
        panic!("a heartbeat is never refused");
    }

    fn expect_close(&self) {
        panic!("a heartbeat closes nothing");
    }

    fn name(&self) -> String {
        String::new()
    }

    fn server(&self) -> ServerInfo<'_> {
        panic!("a heartbeat does not ask about the server");
    }
}

/// The whole path of a heartbeat, but for the socket it comes from: frame, protocol, command, lease.
fn frame_to_lease(rounds: usize) -> usize {
    let crowd = Crowd::gather(BATCH);
    let mut reader = Reader::default();
    let mut replies = BytesMut::new();
    let rules = black_box(Protocol::Native).rules();
    let wire = masked_frame(&mut Random::new(), b"heartbeat");
    let mut reads = wire.repeat(rounds * BATCH);
    let mut beats = 0;
    measured(&mut || {
        for (read, session) in reads.chunks_exact_mut(wire.len()).zip(crowd.sessions.iter().cycle()) {
            let done = decode_frames(read, &mut None, &Limits::PRESENCE, |incoming| {
                let Message::Text(text) = incoming else { return ControlFlow::Break(()) };
                let host = Heartbeats { crowd: &crowd, session };
                (rules.receive)(&mut Client::new(&host, &mut replies), &mut reader, text);
                beats += 1;
                ControlFlow::Continue(())
            });
            assert!(done.is_ok());
        }
    });
    beats
}

fn rest_heartbeat(rounds: usize) -> usize {
    let registry = registry();
    let users: Vec<String> = (0..BATCH).map(user_name).collect();
    let now = Now::default();
    assert!(users.iter().all(|user| registry.rest_heartbeat(user, ROOM, now) == Ok(true)));
    let mut known = 0;
    measured(&mut || {
        for user in users.iter().cycle().take(rounds * BATCH) {
            known += usize::from(registry.rest_heartbeat(user, ROOM, now) == Ok(false));
        }
    });
    known
}

/// Within one lease each session of a crowd that beats comes out of the wheel once and is put back.
fn lease_looked_at(rounds: usize) -> usize {
    let mut crowd = Crowd::gather(BATCH);
    for _ in 0..rounds as u64 * TTL {
        crowd.rest_heartbeat();
        measured(&mut || crowd.registry.end_leases(crowd.now));
    }
    assert_eq!(crowd.registry.users_online(), BATCH);
    rounds * BATCH
}

/// What is counted of a life of a session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    Come,
    Go,
    Lapse,
}

fn come_and_go(rounds: usize, moment: Moment) -> usize {
    let registry = registry();
    let names: Vec<String> = (0..BATCH).map(user_name).collect();
    let mut now = Now::default();
    // The first round finds empty tables, as a server does once.
    for round in 0..=rounds {
        let counted =
            |this: Moment, work: &mut dyn FnMut()| if round > 0 && this == moment { measured(work) } else { work() };
        let mut sessions: Vec<Arc<Session>> = Vec::with_capacity(BATCH);
        counted(Moment::Come, &mut || {
            for name in &names {
                let session = registry.open_session(name, now);
                registry.join(&session, ROOM, None, now);
                sessions.push(session);
            }
        });
        assert_eq!(settle_all(&registry), BATCH);
        if moment == Moment::Go {
            counted(Moment::Go, &mut || {
                for session in &sessions {
                    registry.end_session(session, Reason::Left);
                }
            });
        }
        now.tick += TTL + 1;
        counted(Moment::Lapse, &mut || registry.end_leases(now));
        assert_eq!((settle_all(&registry), registry.users_online()), (BATCH, 0));
    }
    rounds * BATCH
}

/// A tick in which nobody came, went or is due.
fn tick_quiet(rounds: usize) -> usize {
    let crowd = Crowd::gather(BATCH);
    let mut broadcaster = Broadcaster::new(Arc::clone(&crowd.registry), WORKERS, TICK, encoders());
    repeat(rounds * BATCH, || assert_eq!(broadcaster.tick(crowd.now).1.rooms, 0))
}

/// Joins and leaves in turn, without telling anyone.
fn settle(rounds: usize) -> usize {
    let crowd = Crowd::gather(BATCH);
    let churn = churn(&crowd.registry, crowd.now, |_| ROOM.into());
    let room = crowd.registry.room(ROOM).unwrap();
    let mut changes = 0;
    for _ in 0..rounds * BATCH / CHANGES {
        swap(&crowd.registry, &churn, crowd.now);
        assert_eq!(crowd.registry.take_dirty().len(), 1);
        measured(&mut || {
            let diff = crowd.registry.settle(&room).diff;
            changes += diff.joined.len() + diff.left.len();
        });
    }
    changes
}

/// Many changes of one room, told to those who look at it in each way.
fn tick_change(rounds: usize) -> usize {
    let crowd = Crowd::gather(BATCH);
    for worker in 0..WORKERS {
        for audience in AUDIENCES {
            crowd.registry.observe(ROOM, worker, audience, false);
        }
    }
    let churn = churn(&crowd.registry, crowd.now, |_| ROOM.into());
    tick_swaps(rounds, &crowd.registry, &churn, crowd.now)
}

/// One change in each of many small rooms: what a tick costs by the room.
fn tick_room(rounds: usize) -> usize {
    let registry = Arc::new(registry());
    let now = Now::default();
    let churn = churn(&registry, now, |number| format!("room-{number}").into());
    for (_, room) in &churn {
        registry.observe(room, 0, native::MEMBERS, false);
    }
    tick_swaps(rounds, &registry, &churn, now)
}

fn tick_swaps(rounds: usize, registry: &Arc<Registry>, churn: &[Newcomer], now: Now) -> usize {
    let mut broadcaster = Broadcaster::new(Arc::clone(registry), WORKERS, TICK, encoders());
    broadcaster.tick(now);
    let mut changes = 0;
    for _ in 0..rounds * BATCH / CHANGES {
        swap(registry, churn, now);
        measured(&mut || changes += broadcaster.tick(now).1.changes as usize);
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

/// By the change: a frame of one is what a quiet room sends, in one of many the changes themselves are what costs.
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

fn encode_names(rounds: usize) -> usize {
    let room = room_of(BATCH);
    let encode = || room.read(|roster| online_users::encode_list(roster.members_after(None).map(|(user, _)| user)));
    measured(&mut || (0..rounds).for_each(|_| drop(black_box(encode()))));
    rounds * BATCH
}

/// A slow client's share: frames wait together and go out with one call.
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

/// Settles what has changed and returns how many members that concerned.
fn settle_all(registry: &Registry) -> usize {
    let diffs = registry.take_dirty().into_iter().map(|room| registry.settle(&room).diff);
    diffs.map(|diff| diff.joined.len() + diff.left.len()).sum()
}

/// A session and the room that it comes to and goes from.
type Newcomer = (Arc<Session>, Box<str>);

fn churn(registry: &Registry, now: Now, room: impl Fn(usize) -> Box<str>) -> Vec<Newcomer> {
    (0..CHANGES).map(|number| (registry.open_session(&format!("churn-{number}"), now), room(number))).collect()
}

/// Whoever is out comes, whoever is in goes.
fn swap(registry: &Registry, churn: &[Newcomer], now: Now) {
    for (session, room) in churn {
        if !registry.leave(session, room) {
            registry.join(session, room, None, now);
        }
    }
}
