//! Watched users against a model: random joins, leaves, ends of sessions and ticks, while users are watched and no
//! longer watched on two workers. After each tick every worker has the current status of exactly the users that its
//! connections watch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rollcall::Config;
use rollcall::broadcast::Broadcaster;
use rollcall::presence::{Now, Reason, Registry, Session, Settings, State};
use rollcall::protocol::{self, Protocol};
use serde_json::{Value, json};

const USERS: usize = 3;
const WORKERS: usize = 2;
const ROOMS: [&str; 3] = ["lobby", "kitchen", "attic"];

#[derive(Debug, Clone)]
enum Step {
    Open { user: usize },
    Join { session: usize, room: usize, state: Option<u8> },
    Leave { session: usize, room: usize },
    End { session: usize },
    Watch { worker: usize, user: usize },
    Unwatch { worker: usize, user: usize },
    RequestStatus { user: usize },
    Tick,
}

fn step() -> impl Strategy<Value = Step> {
    let (session, room, user, worker) = (0..6usize, 0..ROOMS.len(), 0..USERS, 0..WORKERS);
    prop_oneof![
        2 => user.clone().prop_map(|user| Step::Open { user }),
        5 => (session.clone(), room.clone(), prop::option::of(0..2u8))
            .prop_map(|(session, room, state)| Step::Join { session, room, state }),
        4 => (session.clone(), room).prop_map(|(session, room)| Step::Leave { session, room }),
        1 => session.prop_map(|session| Step::End { session }),
        3 => (worker.clone(), user.clone()).prop_map(|(worker, user)| Step::Watch { worker, user }),
        2 => (worker, user.clone()).prop_map(|(worker, user)| Step::Unwatch { worker, user }),
        1 => user.prop_map(|user| Step::RequestStatus { user }),
        6 => Just(Step::Tick),
    ]
}

/// A member of a room: its sessions there and its state.
#[derive(Debug)]
struct Member {
    room: usize,
    sessions: u32,
    state: Option<u8>,
}

#[derive(Debug, Default)]
struct User {
    /// In the order of joins; members without sessions leave with the tick.
    member_of: Vec<Member>,
    /// As of the last tick.
    online: bool,
    online_since: u64,
    offline_since: Option<u64>,
    watchers: [u32; WORKERS],
    /// Whether the user has been watched without a break since going offline.
    watched_since_offline: bool,
    /// The last status that workers received.
    last_status: Option<Value>,
}

struct World {
    registry: Arc<Registry>,
    broadcaster: Broadcaster,
    now: Now,
    sessions: Vec<(Arc<Session>, usize, Vec<usize>)>,
    users: [User; USERS],
    /// The last status that each worker received of the users it watches.
    mirrors: [BTreeMap<usize, Value>; WORKERS],
}

fn name(user: usize) -> String {
    format!("user \"{user}\"")
}

impl World {
    fn new() -> Self {
        let registry = Arc::new(Registry::new(Settings { ttl: 1_000_000, workers: WORKERS, incarnation: 7 }));
        let encoders = protocol::encoders(&Config::from_args(["rollcall"]).expect("settings"));
        let broadcaster = Broadcaster::new(Arc::clone(&registry), WORKERS, Duration::from_millis(100), encoders);
        let now = Now { tick: 0, unix_ms: 1_000 };
        Self {
            registry,
            broadcaster,
            now,
            sessions: Vec::new(),
            users: Default::default(),
            mirrors: Default::default(),
        }
    }

    fn act(&mut self, step: &Step) {
        match *step {
            Step::Open { user } if self.sessions.len() < 6 => {
                self.sessions.push((self.registry.open_session(&name(user), self.now), user, Vec::new()));
            }
            Step::Join { session, room, state } if session < self.sessions.len() => self.join(session, room, state),
            Step::Leave { session, room } if session < self.sessions.len() => {
                let (opened, user, rooms) = &mut self.sessions[session];
                if self.registry.leave(opened, ROOMS[room]) {
                    rooms.retain(|joined| *joined != room);
                    self.users[*user].count_out(room);
                }
            }
            Step::End { session } if session < self.sessions.len() => {
                let (opened, user, rooms) = self.sessions.swap_remove(session);
                self.registry.end_session(&opened, Reason::Closed);
                rooms.into_iter().for_each(|room| self.users[user].count_out(room));
            }
            Step::Watch { worker, user } => {
                self.registry.watchlist.watch(worker, [&*name(user)].into_iter(), false);
                self.users[user].watchers[worker] += 1;
            }
            Step::Unwatch { worker, user } if self.users[user].watchers[worker] > 0 => {
                self.registry.watchlist.unwatch(worker, [Arc::from(name(user))].iter(), false);
                let watchers = &mut self.users[user].watchers;
                watchers[worker] -= 1;
                if watchers[worker] == 0 {
                    self.mirrors[worker].remove(&user);
                }
                if *watchers == [0; WORKERS] {
                    self.users[user].watched_since_offline = false;
                    self.users[user].last_status = None;
                }
            }
            Step::RequestStatus { user } => self.registry.watchlist.request_status([Arc::from(name(user))].iter()),
            Step::Tick => self.tick(),
            _ => {}
        }
    }

    fn join(&mut self, session: usize, room: usize, state: Option<u8>) {
        let (opened, user, rooms) = &mut self.sessions[session];
        let json = state.map(|state| State::from(json!({ "n": state }).to_string()));
        self.registry.join(opened, ROOMS[room], json, self.now);
        let user = &mut self.users[*user];
        if user.member_of.is_empty() {
            user.online_since = self.now.unix_ms;
        }
        let at = user.member_of.iter().position(|member| member.room == room).unwrap_or_else(|| {
            user.member_of.push(Member { room, sessions: 0, state: None });
            user.member_of.len() - 1
        });
        let member = &mut user.member_of[at];
        if state.is_some() || member.sessions == 0 {
            member.state = state;
        }
        if !rooms.contains(&room) {
            rooms.push(room);
            member.sessions += 1;
        }
    }

    fn tick(&mut self) {
        self.now = Now { tick: self.now.tick + 1, unix_ms: self.now.unix_ms + 100 };
        let unix_ms = self.now.unix_ms;
        self.users.iter_mut().for_each(|user| user.settle(unix_ms));
        let (batches, _) = self.broadcaster.tick(self.now);
        let mut received = BTreeMap::new();
        let format = Protocol::Native.status_format().expect("native clients watch users");
        for (worker, batch) in batches.iter().enumerate() {
            for frame in &batch.status_frames {
                let user = (0..USERS).find(|user| *name(*user) == *frame.user).expect("a user of the model");
                let status: Value = serde_json::from_slice(&frame.objects[format]).expect("an object");
                assert!(self.users[user].watchers[worker] > 0, "worker {worker} does not watch this user: {status}");
                // Workers that did not ask receive changes only.
                if let Some(known) = self.mirrors[worker].get(&user) {
                    assert_eq!(frame.changed, *known != status, "{known} then {status}");
                }
                self.mirrors[worker].insert(user, status.clone());
                received.insert(user, status);
            }
        }
        received.into_iter().for_each(|(user, status)| self.users[user].last_status = Some(status));
        for (user, model) in self.users.iter().enumerate() {
            for (mirror, watchers) in self.mirrors.iter().zip(model.watchers) {
                assert_eq!(mirror.contains_key(&user), watchers > 0, "status of {user} at {:?}", self.now);
                mirror.get(&user).into_iter().for_each(|status| model.check(user, status));
            }
        }
        let watched = self.users.iter().filter(|user| user.watchers != [0; WORKERS]).count();
        assert_eq!(self.registry.watchlist.watched(), watched, "the watchlist must contain exactly the watched users");
    }
}

impl User {
    fn count_out(&mut self, room: usize) {
        let member = self.member_of.iter_mut().find(|member| member.room == room);
        member.expect("the user is a member").sessions -= 1;
    }

    fn settle(&mut self, unix_ms: u64) {
        self.member_of.retain(|member| member.sessions > 0);
        // A user who joined and left within the tick was never online.
        let was_online = std::mem::replace(&mut self.online, !self.member_of.is_empty());
        if was_online && !self.online {
            self.offline_since = Some(unix_ms);
            self.watched_since_offline = self.last_status.as_ref().is_some_and(|status| status["online"] == true);
        }
    }

    fn check(&self, user: usize, status: &Value) {
        let mut expected = json!({"user": name(user), "online": !self.member_of.is_empty()});
        if !self.member_of.is_empty() {
            expected["since"] = self.online_since.into();
        } else if self.watched_since_offline {
            expected["since"] = self.offline_since.into();
        } else if status.get("since").is_some() {
            // The user was not watched for a moment; the time may still be known from before.
            expected["since"] = self.offline_since.into();
        }
        if let Some(state) = self.member_of.iter().find_map(|member| member.state) {
            expected["state"] = json!({ "n": state });
        }
        assert_eq!(*status, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(600), ..ProptestConfig::default() })]

    #[test]
    fn workers_receive_the_current_status_of_exactly_the_users_they_watch(steps in prop::collection::vec(step(), 1..150)) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.act(step));
        world.tick();
    }
}
