//! Watched users against a model: random joins, leaves and ends, watchers on two workers that come and go, and ticks.
//! After each tick every worker has the current status of the users whom its connections watch, and of no others.

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
    Ask { user: usize },
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
        1 => user.prop_map(|user| Step::Ask { user }),
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
    online_since: u64,
    gone_at: Option<u64>,
    watchers: [u32; WORKERS],
    /// The user has been watched without a break since going offline.
    seen_going: bool,
    /// The last status reported.
    told: Option<Value>,
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
                let (held, user, rooms) = &mut self.sessions[session];
                if self.registry.leave(held, ROOMS[room]) {
                    rooms.retain(|joined| *joined != room);
                    self.users[*user].count_out(room);
                }
            }
            Step::End { session } if session < self.sessions.len() => {
                let (held, user, rooms) = self.sessions.swap_remove(session);
                self.registry.end_session(&held, Reason::Closed);
                rooms.into_iter().for_each(|room| self.users[user].count_out(room));
            }
            Step::Watch { worker, user } => {
                self.registry.watchlist.watch(worker, [&*name(user)].into_iter());
                self.users[user].watchers[worker] += 1;
            }
            Step::Unwatch { worker, user } if self.users[user].watchers[worker] > 0 => {
                self.registry.watchlist.unwatch(worker, [Arc::from(name(user))].iter());
                let watchers = &mut self.users[user].watchers;
                watchers[worker] -= 1;
                if watchers[worker] == 0 {
                    self.mirrors[worker].remove(&user);
                }
                if *watchers == [0; WORKERS] {
                    self.users[user].seen_going = false;
                    self.users[user].told = None;
                }
            }
            Step::Ask { user } => self.registry.watchlist.request_status([Arc::from(name(user))].iter()),
            Step::Tick => self.tick(),
            _ => {}
        }
    }

    fn join(&mut self, session: usize, room: usize, state: Option<u8>) {
        let (held, user, rooms) = &mut self.sessions[session];
        let json = state.map(|state| State::from(json!({ "n": state }).to_string()));
        self.registry.join(held, ROOMS[room], json, self.now);
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
        let mut news = BTreeMap::new();
        let format = Protocol::Native.status_format().expect("native clients watch users");
        for (worker, batch) in batches.iter().enumerate() {
            for status in &batch.status_frames {
                let user = (0..USERS).find(|user| *name(*user) == *status.user).expect("a user of the model");
                let told: Value = serde_json::from_slice(&status.objects[format]).expect("an object");
                assert!(self.users[user].watchers[worker] > 0, "worker {worker} does not watch this user: {told}");
                // Workers that did not ask receive changes only.
                if let Some(known) = self.mirrors[worker].get(&user) {
                    assert_eq!(status.changed, *known != told, "{known} then {told}");
                }
                self.mirrors[worker].insert(user, told.clone());
                news.insert(user, told);
            }
        }
        news.into_iter().for_each(|(user, told)| self.users[user].told = Some(told));
        for (user, truth) in self.users.iter().enumerate() {
            for (mirror, watchers) in self.mirrors.iter().zip(truth.watchers) {
                assert_eq!(mirror.contains_key(&user), watchers > 0, "status of {user} at {:?}", self.now);
                mirror.get(&user).into_iter().for_each(|told| truth.check(user, told));
            }
        }
        let watched = self.users.iter().filter(|user| user.watchers != [0; WORKERS]).count();
        assert_eq!(self.registry.watchlist.watched(), watched, "only watched users are kept");
    }
}

impl User {
    fn count_out(&mut self, room: usize) {
        let member = self.member_of.iter_mut().find(|member| member.room == room);
        member.expect("it was a member").sessions -= 1;
    }

    fn settle(&mut self, unix_ms: u64) {
        // A user who came and went within the tick was never online.
        let was_online = self.told.as_ref().is_some_and(|told| told["online"] == true);
        self.member_of.retain(|member| member.sessions > 0);
        if was_online && self.member_of.is_empty() {
            self.gone_at = Some(unix_ms);
            self.seen_going = true;
        }
    }

    fn check(&self, user: usize, told: &Value) {
        let mut truth = json!({"user": name(user), "online": !self.member_of.is_empty()});
        if !self.member_of.is_empty() {
            truth["since"] = self.online_since.into();
        } else if self.seen_going {
            truth["since"] = self.gone_at.into();
        } else if told.get("since").is_some() {
            // Nobody watched for a moment; the status of before may still be known.
            truth["since"] = self.gone_at.into();
        }
        if let Some(state) = self.member_of.iter().find_map(|member| member.state) {
            truth["state"] = json!({ "n": state });
        }
        assert_eq!(*told, truth);
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
