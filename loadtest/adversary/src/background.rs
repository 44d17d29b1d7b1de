//! Users and rooms that a server holds on behalf of honest users before an attack begins. A thread keeps them alive.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::attack::{Background, Pace};
use crate::client::Reading;
use crate::swarm::{Event, Id, Swarm};
use crate::trial::Plan;

/// The address of honest clients: 127.0.0.1.
pub(crate) const ADDRESS: u8 = 1;
/// The server answers the first heartbeat of a REST user after a tick. Several sockets send heartbeats meanwhile.
const REST_SOCKETS: usize = 1000;
const HANDSHAKES_AT_ONCE: usize = 64;
const TURN: Duration = Duration::from_millis(5);

/// See the module's documentation.
pub(crate) struct Running {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    ready: AtomicUsize,
    refused: AtomicUsize,
}

impl Running {
    /// Starts and waits until everything is there.
    pub(crate) fn start(plan: &Plan, spec: Background, ttl: Duration) -> Result<Self, String> {
        let limit = plan.limit;
        let shared = Arc::<Shared>::default();
        let swarm = Swarm::new(plan, ADDRESS).map_err(|error| error.to_string())?;
        let own = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let _ = Keeper::new(spec, ttl, swarm).run(&own);
        });
        let running = Self { shared, thread: Some(thread) };
        let begin = Instant::now();
        let wanted = spec.members + spec.rest_users;
        while running.shared.ready.load(Ordering::Relaxed) < wanted {
            if begin.elapsed() > limit {
                let ready = running.shared.ready.load(Ordering::Relaxed);
                let refused = running.shared.refused.load(Ordering::Relaxed);
                return Err(format!("{ready} of {wanted} users of the background are there; {refused} were refused"));
            }
            std::thread::sleep(TURN);
        }
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Keeper {
    spec: Background,
    swarm: Swarm,
    begun_members: usize,
    joined: usize,
    connecting: usize,
    /// Idle sockets for REST heartbeats.
    idle: Vec<Id>,
    sockets: usize,
    /// Users who need a heartbeat.
    due: VecDeque<usize>,
    renewals: Pace,
    replacements: Pace,
    /// The REST users are those from here on.
    first_rest: usize,
    cursor: usize,
}

impl Keeper {
    fn new(spec: Background, ttl: Duration, swarm: Swarm) -> Self {
        Self {
            swarm,
            begun_members: 0,
            joined: 0,
            connecting: 0,
            idle: Vec::new(),
            sockets: 0,
            due: (0..spec.rest_users).collect(),
            renewals: Pace::new(spec.rest_users as f64 / (ttl.as_secs_f64() / 2.0)),
            replacements: Pace::new(spec.replaced_per_s as f64),
            first_rest: 0,
            cursor: 0,
            spec,
        }
    }

    fn run(mut self, shared: &Shared) -> io::Result<()> {
        let begin = Instant::now();
        while !shared.stop.load(Ordering::Relaxed) {
            self.connect_members();
            let is_ready = shared.ready.load(Ordering::Relaxed) >= self.spec.members + self.spec.rest_users;
            self.heartbeats(begin.elapsed(), is_ready);
            for event in self.swarm.turn(TURN)? {
                self.react(&event, shared);
            }
        }
        Ok(())
    }

    fn connect_members(&mut self) {
        while self.connecting < HANDSHAKES_AT_ONCE && self.begun_members < self.spec.members {
            self.swarm.websocket(&format!("/v1/connect?user=member-{}", self.begun_members), Reading::Always);
            self.begun_members += 1;
            self.connecting += 1;
        }
    }

    fn heartbeats(&mut self, now: Duration, is_ready: bool) {
        let due = self.renewals.due(now);
        if is_ready {
            for _ in 0..due {
                self.due.push_back(self.first_rest + self.cursor % self.spec.rest_users.max(1));
                self.cursor += 1;
            }
            for _ in 0..self.replacements.due(now) {
                self.due.push_back(self.first_rest + self.spec.rest_users);
                self.first_rest += 1;
            }
        }
        while !self.due.is_empty() {
            let id = match self.idle.pop() {
                Some(id) => id,
                None if self.sockets < REST_SOCKETS => {
                    self.sockets += 1;
                    self.swarm.plain(Reading::Always)
                }
                None => return,
            };
            let Some(user) = self.due.pop_front() else { return };
            let name = format!("rest-{user:0width$}", width = self.spec.name_bytes.saturating_sub(5));
            self.swarm.post(id, "/heartbeat", &format!(r#"{{"user_id":"{name}"}}"#));
        }
    }

    fn react(&mut self, event: &Event, shared: &Shared) {
        match event {
            Event::Open(id) => {
                self.connecting -= 1;
                self.join(*id);
            }
            Event::Text(_, text) if text.starts_with(br#"{"type":"heartbeat_ack""#) => {
                shared.ready.fetch_add(1, Ordering::Relaxed);
            }
            Event::Text(..) => {}
            Event::Answer { id, status, .. } => {
                self.idle.push(*id);
                let counter = if *status == 200 { &shared.ready } else { &shared.refused };
                counter.fetch_add(1, Ordering::Relaxed);
            }
            Event::Closed(id, _) => {
                shared.refused.fetch_add(1, Ordering::Relaxed);
                self.sockets = self.sockets.saturating_sub(1);
                self.idle.retain(|other| other != id);
            }
        }
    }

    fn join(&mut self, id: Id) {
        let state = match self.spec.state_bytes {
            0 => String::new(),
            bytes => format!(r#","state":{{"x":"{}"}}"#, "x".repeat(bytes.saturating_sub(8))),
        };
        let first = if self.spec.same_rooms { 0 } else { self.joined * self.spec.rooms_each };
        self.joined += 1;
        for room in first..first + self.spec.rooms_each {
            self.swarm.send(id, &format!(r#"{{"type":"join","room":"hall {room}","observe":false{state}}}"#));
        }
        self.swarm.send(id, r#"{"type":"heartbeat","ack":true}"#);
    }
}
