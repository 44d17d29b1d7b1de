//! Shared by the benches: reproducible random numbers, a room full of users with heartbeats, and the messages of
//! clients.
//!
//! When cargo runs a bench as a test, it is a smoke run: everything is executed once, with small sizes, and only the
//! checks matter.
#![allow(dead_code, reason = "every bench uses its own part of this module")]

use std::cell::{LazyCell, RefCell};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use criterion::Criterion;
use mimalloc::MiMalloc;
use rollcall::Config;
use rollcall::broadcast::encoder::Encoders;
use rollcall::presence::{Diff, Now, Reason, Registry, Room, Roster, Session, Settings, State, Tick};
use rollcall::protocol;
use wire::frame;

/// The allocator of the server.
#[global_allocator]
static GLOBAL: MiMalloc = MiMalloc;

/// The seed of all random numbers.
pub(crate) const SEED: u64 = 0x5eed;
/// The room that all users are in.
pub(crate) const ROOM: &str = "lobby";
/// Worker threads of the registry; observers are spread over them.
pub(crate) const WORKERS: usize = 2;
/// The tick of the server.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// The lease of the server: 10 s in ticks.
pub(crate) const TTL: Tick = 100;
/// The heartbeat interval of a client: 5 s in ticks.
const HEARTBEAT_INTERVAL: Tick = 50;

/// All benches together take about seven minutes, and two digits of each result are stable.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(15)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(1_000))
        .nresamples(10_000)
        .without_plots()
}

/// Whether this is a smoke run. As criterion decides it: with `--test`, or without the `--bench` of `cargo bench`.
pub(crate) fn smoke() -> bool {
    let given = |flag: &str| std::env::args().any(|argument| argument == flag);
    given("--test") || !given("--bench")
}

/// Sizes of a [`BusyRoom`].
pub(crate) fn user_counts() -> &'static [usize] {
    if smoke() { &[1_000] } else { &[1_000, 10_000, 100_000, 1_000_000] }
}

/// Pseudo-random numbers (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        Self(SEED)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.below(end + 1));
        }
    }
}

/// A user name of typical length.
pub(crate) fn user_name(number: usize) -> String {
    format!("user-{number:06}")
}

/// The encoders of a server with default settings.
pub(crate) fn encoders() -> Encoders {
    protocol::encoders(&Config::from_args(["rollcall"]).expect("default settings are valid"))
}

/// An empty registry.
pub(crate) fn registry() -> Registry {
    Registry::new(Settings { ttl: TTL, workers: WORKERS, incarnation: 1 })
}

/// A registry whose users are all in one room and send heartbeats, each tick an equal share of them.
pub(crate) struct BusyRoom {
    pub(crate) registry: Arc<Registry>,
    /// In random order: neighbors here are not neighbors in memory, as on a server that has run for a while.
    pub(crate) sessions: Vec<Arc<Session>>,
    pub(crate) now: Now,
}

impl BusyRoom {
    /// The users arrive evenly over one heartbeat interval.
    pub(crate) fn with_users(users: usize) -> Self {
        let mut busy = Self { registry: Arc::new(registry()), sessions: Vec::new(), now: Now::default() };
        let mut random = Random::new();
        let mut numbers: Vec<usize> = (0..users).collect();
        random.shuffle(&mut numbers);
        for arrivals in numbers.chunks(users.div_ceil(HEARTBEAT_INTERVAL as usize)) {
            busy.now.tick += 1;
            for number in arrivals {
                let session = busy.registry.open_session(&user_name(*number), busy.now);
                busy.registry.join(&session, ROOM, None, busy.now);
                busy.sessions.push(session);
            }
            busy.settle();
        }
        random.shuffle(&mut busy.sessions);
        // After two leases the timing wheel is filled as evenly as it will be.
        for _ in 0..2 * TTL {
            busy.next_tick();
            busy.settle();
        }
        assert_eq!(busy.registry.users_online(), users, "heartbeats keep all users online");
        busy
    }

    /// Advances the clock by one tick and sends the heartbeats that are due in it.
    pub(crate) fn next_tick(&mut self) {
        self.now.tick += 1;
        let turn = (self.now.tick % HEARTBEAT_INTERVAL) as usize;
        let share = |turn| self.sessions.len() * turn / HEARTBEAT_INTERVAL as usize;
        for session in &self.sessions[share(turn)..share(turn + 1)] {
            self.registry.renew(session, self.now);
        }
    }

    /// What a tick does to the registry, without a broadcast.
    pub(crate) fn settle(&self) {
        self.registry.end_leases(self.now);
        for room in self.registry.take_dirty() {
            self.registry.settle(&room);
        }
    }

    /// Announced members of the room.
    pub(crate) fn announced(&self) -> usize {
        self.registry.room(ROOM).map_or(0, |room| room.read(Roster::count))
    }
}

/// One room per user count, each created when a bench first needs it.
pub(crate) type BusyRooms<F> = Vec<(usize, LazyCell<RefCell<BusyRoom>, F>)>;

pub(crate) fn busy_rooms() -> BusyRooms<impl FnOnce() -> RefCell<BusyRoom>> {
    let later = |users: &usize| {
        let users = *users;
        (users, LazyCell::new(move || RefCell::new(BusyRoom::with_users(users))))
    };
    user_counts().iter().map(later).collect()
}

/// A room in which every second member has a state.
pub(crate) fn room_of(members: usize) -> Arc<Room> {
    let registry = registry();
    let now = Now::default();
    for number in 0..members {
        let session = registry.open_session(&user_name(number), now);
        registry.join(&session, ROOM, state(number), now);
    }
    let room = registry.room(ROOM).unwrap();
    assert_eq!(registry.settle(&room).count, members);
    room
}

fn state(number: usize) -> Option<State> {
    (number % 2 == 1).then(|| State::from(String::from(r#"{"status":"away","device":"phone"}"#)))
}

/// Joins, leaves and updates in turn, of users in random order.
pub(crate) fn diff_of(changes: usize) -> Diff {
    let mut numbers: Vec<usize> = (0..changes).collect();
    Random::new().shuffle(&mut numbers);
    let mut diff = Diff::default();
    for (position, number) in numbers.into_iter().enumerate() {
        let user = Arc::from(user_name(number));
        match position % 3 {
            0 => diff.joined.push((user, state(number))),
            1 => diff.left.push((user, Reason::Closed)),
            _ => diff.updated.push((user, state(number))),
        }
    }
    diff
}

/// A client's text frame with a random masking key.
pub(crate) fn masked_frame(random: &mut Random, payload: &[u8]) -> Vec<u8> {
    let mask = std::array::from_fn(|_| random.below(256) as u8);
    frame::masked_with(mask, frame::TEXT, payload)
}

/// A join message of exactly this length. Its state has fields as applications use them.
pub(crate) fn join_message(random: &mut Random, bytes: usize) -> String {
    let resume = if bytes < 200 { "" } else { r#","resume":{"epoch":"18c2f4a91b-1","seq":4217}"# };
    let bare = format!(r#"{{"type":"join","room":"lobby"{resume}}}"#);
    if bytes == bare.len() {
        return bare;
    }
    let mut message = format!(r#"{},"state":{{"#, bare.strip_suffix('}').unwrap());
    for number in 0.. {
        let field = match random.below(5) {
            0 => format!(r#""name{number}":"{} caf\u00e9\n","#, user_name(random.below(1_000_000))),
            1 => format!(r#""x{number}":{},"#, random.below(1_000_000)),
            2 => format!(r#""y{number}":-{}.5,"#, random.below(1_000)),
            3 => format!(r#""at{number}":[{},{},null],"#, random.below(100), random.below(100)),
            _ => format!(r#""on{number}":true,"#),
        };
        let end = r#""pad":""}}"#;
        if message.len() + field.len() + end.len() > bytes {
            let pad = "x".repeat(bytes - message.len() - end.len());
            return format!(r#"{message}"pad":"{pad}"}}}}"#);
        }
        message += &field;
    }
    unreachable!("the loop returns when the message is long enough")
}

/// How long `work` takes.
pub(crate) fn timed(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

/// Runs `work` on one thread per share. All threads start each round together. Returns the time of the slowest thread,
/// as `work` measures it.
pub(crate) fn run_on_threads<T: Send>(
    shares: Vec<T>,
    rounds: usize,
    work: impl Fn(&mut T, usize) -> Duration + Sync,
) -> Duration {
    run_on_threads_with_pauses(shares, rounds, work, |_| ())
}

/// Also calls `pause` after each round, while the threads wait.
pub(crate) fn run_on_threads_with_pauses<T: Send>(
    shares: Vec<T>,
    rounds: usize,
    work: impl Fn(&mut T, usize) -> Duration + Sync,
    mut pause: impl FnMut(usize),
) -> Duration {
    let barrier = Barrier::new(shares.len() + 1);
    let run = |mut share| {
        let mut spent = Duration::ZERO;
        for round in 0..rounds {
            barrier.wait();
            spent += work(&mut share, round);
            barrier.wait();
        }
        spent
    };
    let run = &run;
    std::thread::scope(|scope| {
        let threads: Vec<_> = shares.into_iter().map(|share| scope.spawn(move || run(share))).collect();
        for round in 0..rounds {
            barrier.wait();
            barrier.wait();
            pause(round);
        }
        threads.into_iter().map(|thread| thread.join().unwrap()).max().unwrap_or_default()
    })
}

/// The JSON payload of a complete, unmasked text frame.
pub(crate) fn json_of(frame: &[u8]) -> serde_json::Value {
    let header = frame::parse_header(frame).expect("a valid header").expect("a complete header");
    assert_eq!((header.opcode, header.is_final, header.mask), (frame::TEXT, true, None));
    let payload = &frame[header.header_bytes..];
    assert_eq!(payload.len() as u64, header.payload_bytes, "one frame and nothing after it");
    serde_json::from_slice(payload).unwrap()
}
