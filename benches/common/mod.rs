//! What the benches share: random numbers that are the same in every run, a crowd that is alive, and what clients
//! send and are told.
//!
//! A bench is smoke when cargo runs it as a test: it does everything once, on small sizes, and its checks count.
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

/// The allocator of the server.
#[global_allocator]
static GLOBAL: MiMalloc = MiMalloc;

/// Every bench starts its random numbers here.
pub(crate) const SEED: u64 = 0x5eed;
/// Where everybody is.
pub(crate) const ROOM: &str = "lobby";
/// Worker threads that the registry knows; observers are spread over them.
pub(crate) const WORKERS: usize = 2;
/// The tick of the server.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// 10 s of ticks, the lease of the server.
pub(crate) const TTL: Tick = 100;
/// 5 s of ticks: how often a client sends its heartbeat.
const BEAT: Tick = 50;

/// Short enough that all benches together take some seven minutes, long enough for two digits that stay.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(15)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(1_000))
        .nresamples(10_000)
        .without_plots()
}

/// Whether this run only shows that everything works. As criterion decides it: `--test`, or not from `cargo bench`.
pub(crate) fn smoke() -> bool {
    let given = |flag: &str| std::env::args().any(|argument| argument == flag);
    given("--test") || !given("--bench")
}

/// How many users are present.
pub(crate) fn crowd_sizes() -> &'static [usize] {
    if smoke() { &[1_000] } else { &[1_000, 10_000, 100_000, 1_000_000] }
}

/// Numbers that look random (splitmix64).
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

/// The name of a user, as long as names usually are.
pub(crate) fn user_name(number: usize) -> String {
    format!("user-{number:06}")
}

/// The encoders of a server with default settings.
pub(crate) fn encoders() -> Encoders {
    protocol::encoders(&Config::from_args(["rollcall"]).expect("settings"))
}

/// A registry with nobody in it.
pub(crate) fn registry() -> Registry {
    Registry::new(Settings { ttl: TTL, workers: WORKERS, incarnation: 1 })
}

/// Users in one room who send their heartbeats, each tick those whose turn it is.
pub(crate) struct Crowd {
    pub(crate) registry: Arc<Registry>,
    /// In random order: neighbours here are not neighbours in memory, as on a server that has run for a while.
    pub(crate) sessions: Vec<Arc<Session>>,
    pub(crate) now: Now,
}

impl Crowd {
    /// This many users, who arrived over one heartbeat's time.
    pub(crate) fn gather(users: usize) -> Self {
        let mut crowd = Self { registry: Arc::new(registry()), sessions: Vec::new(), now: Now::default() };
        let mut random = Random::new();
        let mut numbers: Vec<usize> = (0..users).collect();
        random.shuffle(&mut numbers);
        for arrivals in numbers.chunks(users.div_ceil(BEAT as usize)) {
            crowd.now.tick += 1;
            for number in arrivals {
                let session = crowd.registry.open_session(&user_name(*number), crowd.now);
                crowd.registry.join(&session, ROOM, None, crowd.now);
                crowd.sessions.push(session);
            }
            crowd.settle();
        }
        random.shuffle(&mut crowd.sessions);
        // One lease later everybody beats in its turn, and the wheel is as full everywhere as it will be.
        for _ in 0..2 * TTL {
            crowd.rest_heartbeat();
            crowd.settle();
        }
        assert_eq!(crowd.registry.users_online(), users, "a heartbeat keeps its user");
        crowd
    }

    /// The next tick has come; the users whose turn it is have sent their heartbeats.
    pub(crate) fn rest_heartbeat(&mut self) {
        self.now.tick += 1;
        let turn = (self.now.tick % BEAT) as usize;
        let share = |turn| self.sessions.len() * turn / BEAT as usize;
        for session in &self.sessions[share(turn)..share(turn + 1)] {
            self.registry.renew(session, self.now);
        }
    }

    /// What a tick does to the registry, without telling anyone.
    pub(crate) fn settle(&self) {
        self.registry.end_leases(self.now);
        for room in self.registry.take_dirty() {
            self.registry.settle(&room);
        }
    }

    /// Members that the room announces.
    pub(crate) fn announced(&self) -> usize {
        self.registry.room(ROOM).map_or(0, |room| room.read(Roster::count))
    }
}

/// Crowds of all sizes, each gathered when the first bench needs it.
pub(crate) type Crowds<F> = Vec<(usize, LazyCell<RefCell<Crowd>, F>)>;

pub(crate) fn crowds() -> Crowds<impl FnOnce() -> RefCell<Crowd>> {
    let later = |users: &usize| {
        let users = *users;
        (users, LazyCell::new(move || RefCell::new(Crowd::gather(users))))
    };
    crowd_sizes().iter().map(later).collect()
}

/// A room in which every second member says something about itself.
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

/// Joins, updates and leaves in turn, of users in random order.
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

/// A frame as a client sends it (RFC 6455, 5.2 and 5.3).
pub(crate) fn masked_frame(random: &mut Random, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    if payload.len() < 126 {
        frame.push(0x80 | payload.len() as u8);
    } else {
        frame.push(0x80 | 126);
        frame.extend((payload.len() as u16).to_be_bytes());
    }
    let mask: [u8; 4] = std::array::from_fn(|_| random.below(256) as u8);
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A join of exactly this length, its state made of what applications put there.
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
    unreachable!("the message ends when it is long enough")
}

/// How long the work takes.
pub(crate) fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

/// Gives each share to a thread of its own, all at once and round for round. Returns the longest that a thread worked, as
/// `work` times itself.
pub(crate) fn race<T: Send>(
    shares: Vec<T>,
    rounds: usize,
    work: impl Fn(&mut T, usize) -> Duration + Sync,
) -> Duration {
    race_with_pauses(shares, rounds, work, |_| ())
}

/// And calls `pause` after each round, while everybody waits.
pub(crate) fn race_with_pauses<T: Send>(
    shares: Vec<T>,
    rounds: usize,
    work: impl Fn(&mut T, usize) -> Duration + Sync,
    mut pause: impl FnMut(usize),
) -> Duration {
    let gate = Barrier::new(shares.len() + 1);
    let run = |mut share| {
        let mut spent = Duration::ZERO;
        for round in 0..rounds {
            gate.wait();
            spent += work(&mut share, round);
            gate.wait();
        }
        spent
    };
    let run = &run;
    std::thread::scope(|scope| {
        let runners: Vec<_> = shares.into_iter().map(|share| scope.spawn(move || run(share))).collect();
        for round in 0..rounds {
            gate.wait();
            gate.wait();
            pause(round);
        }
        runners.into_iter().map(|runner| runner.join().unwrap()).max().unwrap_or_default()
    })
}

/// The payload of a finished, unmasked text frame, as JSON.
pub(crate) fn json_of(frame: &[u8]) -> serde_json::Value {
    assert_eq!(frame[0], 0x81, "a whole text frame");
    let (head, length) = match frame[1] {
        126 => (4, usize::from(u16::from_be_bytes([frame[2], frame[3]]))),
        127 => (10, u64::from_be_bytes(frame[2..10].try_into().unwrap()) as usize),
        short => (2, usize::from(short)),
    };
    assert_eq!(frame.len(), head + length, "one frame and nothing behind it");
    serde_json::from_slice(&frame[head..]).unwrap()
}
