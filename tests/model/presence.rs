//! The presence core against a model: random sessions, heartbeats, leaves, crashes and time, and observers that mirror
//! what they receive. After each tick the announced state, the model and every mirror must be equal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use rollcall::Config;
use rollcall::broadcast::{Broadcaster, RoomFrames};
use rollcall::presence::{Now, Reason, Registry, Session, Settings, State};
use rollcall::protocol::{self, native};
use serde_json::Value;

const TTL: u64 = 5;
const GRACE: u64 = 2;
const USERS: usize = 4;
const ROOMS: [&str; 3] = ["lobby", "kitchen", "attic"];

/// What can happen between two ticks.
#[derive(Debug, Clone)]
enum Step {
    Open { user: usize },
    Join { session: usize, room: usize, state: Option<u8> },
    SetState { session: usize, room: usize, state: Option<u8> },
    Leave { session: usize, room: usize },
    Heartbeat { session: usize },
    CloseCleanly { session: usize },
    Drop { session: usize },
    RestHeartbeat { user: usize },
    Observe { room: usize },
    Unobserve { observer: usize },
    Tick,
}

fn step() -> impl Strategy<Value = Step> {
    let session = 0..12usize;
    let room = 0..ROOMS.len();
    let state = prop::option::of(0..3u8);
    prop_oneof![
        2 => (0..USERS).prop_map(|user| Step::Open { user }),
        4 => (session.clone(), room.clone(), state.clone()).prop_map(|(session, room, state)| Step::Join { session, room, state }),
        2 => (session.clone(), room.clone(), state).prop_map(|(session, room, state)| Step::SetState { session, room, state }),
        2 => (session.clone(), room.clone()).prop_map(|(session, room)| Step::Leave { session, room }),
        4 => session.clone().prop_map(|session| Step::Heartbeat { session }),
        1 => session.clone().prop_map(|session| Step::CloseCleanly { session }),
        1 => session.prop_map(|session| Step::Drop { session }),
        1 => (0..USERS).prop_map(|user| Step::RestHeartbeat { user }),
        2 => room.prop_map(|room| Step::Observe { room }),
        1 => (0..6usize).prop_map(|observer| Step::Unobserve { observer }),
        8 => Just(Step::Tick),
    ]
}

/// A session with what the model knows of it.
#[derive(Debug)]
struct ModelSession {
    session: Arc<Session>,
    user: usize,
    joined: BTreeMap<usize, Option<u8>>,
    last_seen: u64,
    /// If the connection is lost, the last tick of the grace period.
    ends: u64,
    /// Whether its connection has ended.
    closed: bool,
    /// Whether its lease has not ended.
    is_alive: bool,
}

/// What an observer has received.
#[derive(Debug)]
struct Mirror {
    room: usize,
    observed_room: Arc<rollcall::presence::Room>,
    attached_at: u64,
    seq: Option<u64>,
    members: BTreeMap<String, Value>,
}

struct World {
    registry: Arc<Registry>,
    broadcaster: Broadcaster,
    now: Now,
    sessions: Vec<ModelSession>,
    mirrors: Vec<Mirror>,
    rest: BTreeMap<usize, u64>,
    /// The last state written per member, as long as a session has the membership.
    states: BTreeMap<(usize, usize), Option<u8>>,
}

fn user_name(user: usize) -> String {
    format!("user \"{user}\"")
}

fn state_of(state: Option<u8>) -> Option<State> {
    state.map(|state| State::from(format!("{{\"n\":{state}}}")))
}

impl World {
    fn new() -> Self {
        let registry = Arc::new(Registry::new(Settings { ttl: TTL, workers: 2, incarnation: 7 }));
        let encoders = protocol::encoders(&Config::from_args(["rollcall"]).expect("settings"));
        let broadcaster = Broadcaster::new(Arc::clone(&registry), 2, Duration::from_millis(100), encoders);
        Self {
            registry,
            broadcaster,
            now: Now::default(),
            sessions: Vec::new(),
            mirrors: Vec::new(),
            rest: BTreeMap::new(),
            states: BTreeMap::new(),
        }
    }

    fn is_member(&self, user: usize, room: usize) -> bool {
        let rest = room == 0 && self.rest.contains_key(&user);
        rest || self
            .sessions
            .iter()
            .any(|session| session.user == user && session.is_alive && session.joined.contains_key(&room))
    }

    /// Records a state that a session has written. The first session of a member starts without a state.
    fn write_state(&mut self, user: usize, room: usize, state: Option<u8>, was_member: bool) {
        if state.is_some() || !was_member {
            self.states.insert((user, room), state);
        }
    }

    /// A session with a connection.
    fn open(&self, session: usize) -> Option<usize> {
        self.sessions.get(session).filter(|session| !session.closed).map(|_| session)
    }

    /// A sign of life: a session whose lease has ended rejoins its rooms with the states that it wrote.
    fn touch(&mut self, at: usize) {
        self.sessions[at].last_seen = self.now.tick;
        if self.sessions[at].is_alive {
            return;
        }
        let user = self.sessions[at].user;
        let joined = self.sessions[at].joined.clone();
        for (room, state) in &joined {
            // States that other sessions have written in the meantime stay.
            if !self.is_member(user, *room) {
                self.states.insert((user, *room), *state);
            }
        }
        self.sessions[at].is_alive = true;
    }

    fn join(&mut self, at: usize, room: usize, state: Option<u8>) {
        self.touch(at);
        let session = &self.sessions[at];
        self.registry.join(&session.session, ROOMS[room], state_of(state), self.now);
        let (user, again) = (session.user, session.joined.contains_key(&room));
        let was_member = self.is_member(user, room);
        self.write_state(user, room, state, was_member);
        if !again || state.is_some() {
            self.sessions[at].joined.insert(room, state);
        }
    }

    fn close_cleanly(&mut self, at: usize) {
        let session = &mut self.sessions[at];
        self.registry.end_session(&session.session, Reason::Closed);
        (session.closed, session.is_alive) = (true, false);
        session.joined.clear();
    }

    fn drop_connection(&mut self, at: usize) {
        let session = &mut self.sessions[at];
        self.registry.detach_session(&session.session, GRACE, self.now);
        session.closed = true;
        session.ends = self.now.tick + GRACE;
    }

    fn act(&mut self, step: &Step) {
        let now = self.now;
        match *step {
            Step::Open { user } if self.sessions.len() < 12 => {
                let session = self.registry.open_session(&user_name(user), now);
                let joined = BTreeMap::new();
                self.sessions.push(ModelSession {
                    session,
                    user,
                    joined,
                    last_seen: now.tick,
                    ends: u64::MAX,
                    closed: false,
                    is_alive: true,
                });
            }
            Step::Join { session, room, state } => {
                let Some(at) = self.open(session) else { return };
                self.join(at, room, state);
            }
            Step::SetState { session, room, state } => {
                let Some(at) = self.open(session) else { return };
                self.touch(at);
                let known = self.registry.set_state(&self.sessions[at].session, ROOMS[room], state_of(state), now);
                assert_eq!(known, self.sessions[at].joined.contains_key(&room));
                if known {
                    self.sessions[at].joined.insert(room, state);
                    self.states.insert((self.sessions[at].user, room), state);
                }
            }
            Step::Leave { session, room } => {
                let Some(at) = self.open(session) else { return };
                let left = self.registry.leave(&self.sessions[at].session, ROOMS[room]);
                assert_eq!(left, self.sessions[at].joined.remove(&room).is_some());
            }
            Step::Heartbeat { session } => {
                let Some(at) = self.open(session) else { return };
                self.registry.renew(&self.sessions[at].session, now);
                self.touch(at);
            }
            Step::CloseCleanly { session } => {
                let Some(at) = self.open(session) else { return };
                self.close_cleanly(at);
            }
            Step::Drop { session } => {
                let Some(at) = self.open(session) else { return };
                self.drop_connection(at);
            }
            Step::RestHeartbeat { user } => {
                let was_member = self.is_member(user, 0);
                self.registry.rest_heartbeat(&user_name(user), ROOMS[0], None, None, now).unwrap();
                self.rest.insert(user, now.tick);
                self.write_state(user, 0, None, was_member);
            }
            Step::Observe { room } if self.mirrors.len() < 6 => {
                let attachment = self.registry.observe(ROOMS[room], room % 2, native::MEMBERS, true);
                let (observed_room, attached_at) = (attachment.room, attachment.generation);
                self.mirrors.push(Mirror { room, observed_room, attached_at, seq: None, members: BTreeMap::new() });
            }
            Step::Unobserve { observer } if observer < self.mirrors.len() => {
                let mirror = self.mirrors.swap_remove(observer);
                self.registry.unobserve(&mirror.observed_room, mirror.room % 2, native::MEMBERS);
            }
            Step::Tick => self.tick(),
            Step::Open { .. } | Step::Observe { .. } | Step::Unobserve { .. } => {}
        }
    }

    fn tick(&mut self) {
        self.now.tick += 1;
        let tick = self.now.tick;
        for session in &mut self.sessions {
            session.is_alive &= tick <= (session.last_seen + TTL).min(session.ends);
        }
        self.rest.retain(|_, seen| tick <= *seen + TTL);
        let (batches, _) = self.broadcaster.tick(self.now);
        for (worker, batch) in batches.iter().enumerate() {
            for update in &batch.rooms {
                let mirrors = self.mirrors.iter_mut().filter(|mirror| mirror.room % 2 == worker);
                mirrors
                    .filter(|mirror| mirror.observed_room.id() == update.room.id())
                    .for_each(|mirror| mirror.apply(update));
            }
        }
        self.check();
    }

    /// The announced state, the model and the mirrors agree.
    fn check(&self) {
        let mut online = BTreeSet::new();
        for (room, name) in ROOMS.iter().enumerate() {
            let members = (0..USERS).filter(|user| self.is_member(*user, room));
            let model: BTreeMap<String, Value> = members
                .map(|user| {
                    online.insert(user);
                    let state = self.states.get(&(user, room)).copied().flatten();
                    (user_name(user), state.map_or(Value::Null, |state| serde_json::json!({ "n": state })))
                })
                .collect();
            let (seq, announced) = self.announced(name);
            assert_eq!(announced, model, "room {name} at tick {}", self.now.tick);
            for mirror in self.mirrors.iter().filter(|mirror| mirror.room == room) {
                assert_eq!(mirror.members, model, "a mirror of {name} at tick {}", self.now.tick);
                assert_eq!(mirror.seq, Some(seq));
            }
            for user in 0..USERS {
                let status = self.registry.status(&user_name(user), "", usize::MAX);
                let here = status.is_some_and(|status| status.rooms.iter().any(|room| **room == **name));
                assert_eq!(here, self.is_member(user, room));
            }
        }
        assert_eq!(self.registry.users_online(), online.len());
    }

    fn announced(&self, room: &str) -> (u64, BTreeMap<String, Value>) {
        let Some(room) = self.registry.room(room) else { return (0, BTreeMap::new()) };
        room.read(|roster| {
            let value = |state: Option<&State>| {
                state.map_or(Value::Null, |state| serde_json::from_str(state.as_str()).unwrap())
            };
            let members = roster.members_after(None).map(|(user, state)| (user.to_string(), value(state)));
            (roster.seq(), members.collect())
        })
    }
}

impl Mirror {
    fn apply(&mut self, update: &RoomFrames) {
        let members = native::MEMBERS;
        match (self.seq, update.changes(members), update.snapshot(members)) {
            (Some(seq), Some(diff), _) => {
                let diff = payload(diff);
                assert_eq!(diff["seq"], seq + 1, "seq grows by one");
                self.apply_diff(&diff);
                let once = self.members.clone();
                self.apply_diff(&diff);
                assert_eq!(self.members, once, "applying a diff twice changes nothing");
            }
            (None, _, Some(pages)) if update.generation > self.attached_at => {
                self.members = pages
                    .pages
                    .iter()
                    .flat_map(|page| payload(page)["members"].as_array().unwrap().clone())
                    .map(|member| entry(&member))
                    .collect();
                self.seq = Some(update.seq);
            }
            _ => {}
        }
    }

    fn apply_diff(&mut self, diff: &Value) {
        for list in ["joined", "updated"] {
            let changed = diff.get(list).map(|list| list.as_array().unwrap().clone());
            assert_ne!(changed.as_ref().map(Vec::len), Some(0), "an empty list is left out");
            self.members.extend(changed.unwrap_or_default().iter().map(entry));
        }
        for left in diff.get("left").and_then(Value::as_array).into_iter().flatten() {
            self.members.remove(left["user"].as_str().unwrap());
        }
        assert_eq!(diff["count"], self.members.len());
        self.seq = diff["seq"].as_u64();
    }
}

fn entry(member: &Value) -> (String, Value) {
    (member["user"].as_str().unwrap().to_owned(), member.get("state").cloned().unwrap_or_default())
}

/// The JSON of a finished server frame.
fn payload(frame: &Bytes) -> Value {
    let start = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    serde_json::from_slice(&frame[start..]).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(600), ..ProptestConfig::default() })]

    #[test]
    fn announced_state_model_and_mirrors_agree(steps in prop::collection::vec(step(), 1..150)) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.act(step));
        // After a lease without signs of life no member and no room is left.
        (0..=TTL + 1).for_each(|_| world.tick());
        while let Some(mirror) = world.mirrors.pop() {
            world.registry.unobserve(&mirror.observed_room, mirror.room % 2, native::MEMBERS);
        }
        world.tick();
        prop_assert_eq!((world.registry.users_online(), world.registry.rooms_open()), (0, 0));
    }
}
