//! Honest clients, on a thread of their own. They do what applications do and record how long the server needs: join →
//! seen by others, leave → seen, the snapshot and the status for a newcomer, a message, the chat history.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use wire::room::{Diff, RoomMirror, Snapshot};

use crate::background::ADDRESS;
use crate::client::Reading;
use crate::swarm::{Event, Id, Swarm};
use crate::trial::Plan;

const RESIDENTS: usize = 20;
const JOINERS: usize = 4;
const TURN: Duration = Duration::from_millis(5);
/// How long a joiner stays, and stays away.
const STAY: Duration = Duration::from_millis(150);
const NEWCOMER_INTERVAL: Duration = Duration::from_millis(300);
const MESSAGE_INTERVAL: Duration = Duration::from_millis(500);
const CHAT_INTERVAL: Duration = Duration::from_millis(700);
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3);
/// Enough to see what is wrong.
const MAX_BROKEN: usize = 20;
const CHAT_TEXT: &str = "an honest message";

/// A guarantee that honest clients lost, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// A sentence.
    pub what: String,
    /// At least one.
    pub times: u64,
}

/// Times of one kind: when each wait began, and when it ended.
#[derive(Clone, Debug, Default)]
pub struct Waits(pub Vec<(Instant, Option<Instant>)>);

/// Everything that was recorded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    /// By kind.
    pub(crate) waits: BTreeMap<&'static str, Waits>,
    pub(crate) broken: Vec<Broken>,
}

impl Log {
    fn failed(what: String) -> Self {
        Self { broken: vec![Broken { what, times: 1 }], ..Self::default() }
    }

    fn begin(&mut self, kind: &'static str) -> usize {
        let waits = &mut self.waits.entry(kind).or_default().0;
        waits.push((Instant::now(), None));
        waits.len() - 1
    }

    fn end(&mut self, kind: &'static str, number: usize) {
        if let Some(wait) = self.waits.get_mut(kind).and_then(|waits| waits.0.get_mut(number)) {
            wait.1.get_or_insert_with(Instant::now);
        }
    }

    fn is_done(&self) -> bool {
        self.waits.values().flat_map(|waits| &waits.0).all(|(_, end)| end.is_some())
    }

    fn broken(&mut self, what: String) {
        if let Some(broken) = self.broken.iter_mut().find(|broken| broken.what == what) {
            broken.times += 1;
        } else if self.broken.len() < MAX_BROKEN {
            self.broken.push(Broken { what, times: 1 });
        }
    }
}

/// See the module's documentation.
pub(crate) struct Running {
    is_ready: Arc<AtomicBool>,
    finish: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Log>>,
}

impl Running {
    /// Starts and waits until all residents are there. `with_chat`: whether the chat history is checked.
    pub(crate) fn start(plan: &Plan, with_chat: bool) -> Result<Self, String> {
        let (limit, patience) = (plan.limit, plan.patience);
        let (is_ready, finish) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let swarm = Swarm::new(plan, ADDRESS).map_err(|error| error.to_string())?;
        let mut crowd = Crowd::new(swarm, with_chat);
        let flags = (Arc::clone(&is_ready), Arc::clone(&finish));
        let thread = std::thread::spawn(move || crowd.run(&flags.0, &flags.1, patience));
        let running = Self { is_ready, finish, thread };
        let begin = Instant::now();
        while !running.is_ready.load(Ordering::Relaxed) {
            if begin.elapsed() > limit || running.thread.is_finished() {
                return Err("the honest clients do not get into their room".to_owned());
            }
            std::thread::sleep(TURN);
        }
        Ok(running)
    }

    /// Ends them when nothing is left to wait for, or when the time limit is over.
    pub(crate) fn finish(self) -> Log {
        self.finish.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(Ok(log)) => log,
            Ok(Err(error)) => Log::failed(format!("the honest clients failed: {error}")),
            Err(_) => Log::failed("the honest clients panicked".to_owned()),
        }
    }
}

/// A user who joins and leaves, again and again.
struct Joiner {
    id: Id,
    user: String,
    is_member: bool,
    /// The wait under way.
    wait: Option<(&'static str, usize)>,
    next: Instant,
}

/// A client that has just connected, and what it waits for.
struct Newcomer {
    waits: Vec<(&'static str, &'static str, usize)>,
}

struct Crowd {
    swarm: Swarm,
    log: Log,
    mirror: RoomMirror,
    residents: Vec<Id>,
    joiners: Vec<Joiner>,
    newcomers: BTreeMap<Id, Newcomer>,
    chat: Option<Id>,
    /// The number in the message under way, and its wait.
    message: Option<(u64, usize)>,
    counter: u64,
    with_chat: bool,
    ending: Vec<Id>,
    /// HTTP requests under way.
    requests: BTreeMap<Id, (&'static str, usize)>,
}

impl Crowd {
    fn new(swarm: Swarm, with_chat: bool) -> Self {
        Self {
            swarm,
            log: Log::default(),
            mirror: RoomMirror::default(),
            residents: Vec::new(),
            joiners: Vec::new(),
            newcomers: BTreeMap::new(),
            chat: None,
            message: None,
            counter: 0,
            with_chat,
            ending: Vec::new(),
            requests: BTreeMap::new(),
        }
    }

    fn run(&mut self, is_ready: &AtomicBool, finish: &AtomicBool, patience: Duration) -> io::Result<Log> {
        self.open();
        let mut heartbeat = Instant::now();
        let mut last = [Instant::now(); 4];
        let mut finishing = None;
        loop {
            for event in self.swarm.turn(TURN)? {
                self.react(event);
            }
            let now = Instant::now();
            if now - heartbeat > HEARTBEAT_INTERVAL {
                heartbeat = now;
                let joiners = self.joiners.iter().map(|joiner| &joiner.id);
                self.residents.iter().chain(joiners).for_each(|id| self.swarm.send(*id, r#"{"type":"heartbeat"}"#));
            }
            if !is_ready.load(Ordering::Relaxed) {
                let are_open = self.joiners.iter().all(|joiner| self.swarm.is_open(joiner.id));
                if are_open && self.mirror.members.len() == RESIDENTS {
                    is_ready.store(true, Ordering::Relaxed);
                }
                if finish.load(Ordering::Relaxed) {
                    return Ok(std::mem::take(&mut self.log));
                }
                continue;
            }
            if finish.load(Ordering::Relaxed) {
                let begin = *finishing.get_or_insert(now);
                if self.log.is_done() || now - begin > patience {
                    return Ok(std::mem::take(&mut self.log));
                }
                continue;
            }
            self.act(now, &mut last);
        }
    }

    fn open(&mut self) {
        for number in 0..RESIDENTS {
            let path = format!("/v1/connect?user=resident-{number}&room=honest");
            self.residents.push(self.swarm.websocket(&path, Reading::Always));
        }
        for number in 0..JOINERS {
            let user = format!("joiner-{number}");
            let id = self.swarm.websocket(&format!("/v1/connect?user={user}"), Reading::Always);
            self.joiners.push(Joiner { id, user, is_member: false, wait: None, next: Instant::now() });
        }
        if self.with_chat {
            let id = self.swarm.websocket_of("talker", "/ws", Reading::Always);
            self.swarm.send(id, r#"{"type":"join","payload":{"user":"talker"}}"#);
            self.swarm.send(id, &format!(r#"{{"type":"msg","payload":{{"text":"{CHAT_TEXT}"}}}}"#));
            self.chat = Some(id);
        }
    }

    /// Begins what is due.
    fn act(&mut self, now: Instant, last: &mut [Instant; 4]) {
        for joiner in &mut self.joiners {
            if joiner.wait.is_none() && now >= joiner.next {
                let (kind, command) = if joiner.is_member { ("leave", "leave") } else { ("join", "join") };
                self.swarm.send(joiner.id, &format!(r#"{{"type":"{command}","room":"honest"}}"#));
                joiner.wait = Some((kind, self.log.begin(kind)));
            }
        }
        let [newcomer, message, chat, request] = last;
        if now - *newcomer > NEWCOMER_INTERVAL {
            *newcomer = now;
            self.counter += 1;
            let id = self.swarm.websocket(&format!("/v1/connect?user=newcomer-{}", self.counter), Reading::Always);
            self.swarm.send(id, r#"{"type":"observe","room":"honest"}"#);
            self.swarm.send(id, r#"{"type":"watch","users":["resident-0"]}"#);
            let waits = vec![
                (r#"{"type":"snapshot""#, "snapshot", self.log.begin("snapshot")),
                (r#"{"type":"status""#, "status", self.log.begin("status")),
            ];
            self.newcomers.insert(id, Newcomer { waits });
        }
        if now - *message > MESSAGE_INTERVAL && self.message.is_none() {
            *message = now;
            self.counter += 1;
            let text = format!(r#"{{"type":"message","room":"honest","data":{}}}"#, self.counter);
            self.swarm.send(self.residents[1], &text);
            self.message = Some((self.counter, self.log.begin("message")));
        }
        if now - *request > MESSAGE_INTERVAL {
            *request = now;
            for (path, kind) in [("/presence.js", "page"), ("/v1/rooms/honest/members", "list over HTTP")] {
                let id = self.swarm.plain(Reading::Always);
                self.swarm.get(id, path);
                self.requests.insert(id, (kind, self.log.begin(kind)));
            }
        }
        if self.with_chat && now - *chat > CHAT_INTERVAL {
            *chat = now;
            self.counter += 1;
            let user = format!("reader-{}", self.counter);
            let id = self.swarm.websocket_of(&user, "/ws", Reading::Always);
            let join = format!(r#"{{"type":"join","payload":{{"user":"{user}"}}}}"#);
            self.swarm.send(id, &join);
            let wait = self.log.begin("chat history");
            self.newcomers.insert(id, Newcomer { waits: vec![(r#"{"type":"msg""#, "chat history", wait)] });
        }
    }

    fn react(&mut self, event: Event) {
        match event {
            Event::Text(id, text) => self.read(id, &text),
            Event::Closed(id, code) => {
                let was_ending = self.ending.contains(&id);
                self.ending.retain(|other| *other != id);
                self.newcomers.remove(&id);
                if !was_ending {
                    self.log.broken(format!("an honest connection was closed, code {code:?}"));
                }
            }
            Event::Answer { id, status, .. } if self.requests.contains_key(&id) => {
                if let Some((kind, number)) = self.requests.remove(&id) {
                    self.log.end(kind, number);
                    if status != 200 {
                        self.log.broken(format!("a {kind} was answered with {status}"));
                    }
                }
                self.swarm.reset(id);
            }
            Event::Answer { status, .. } => self.log.broken(format!("an honest handshake was answered with {status}")),
            Event::Open(_) => {}
        }
    }

    fn read(&mut self, id: Id, text: &[u8]) {
        if text.starts_with(br#"{"type":"error""#) {
            self.log.broken(format!("an honest client received {}", String::from_utf8_lossy(text)));
        }
        if Some(&id) == self.residents.first() {
            self.mirror(text);
        }
        let Some(newcomer) = self.newcomers.get_mut(&id) else { return };
        for (start, kind, number) in &newcomer.waits {
            let is_it = text.starts_with(start.as_bytes());
            if is_it
                && (*kind != "chat history" || text.windows(CHAT_TEXT.len()).any(|part| part == CHAT_TEXT.as_bytes()))
            {
                self.log.end(kind, *number);
            }
        }
        let waits = &self.log.waits;
        let done = newcomer.waits.iter().all(|(_, kind, number)| waits[kind].0[*number].1.is_some());
        if done {
            self.newcomers.remove(&id);
            self.ending.push(id);
            self.swarm.close(id);
        }
    }

    /// The first resident mirrors the room.
    fn mirror(&mut self, text: &[u8]) {
        if text.starts_with(br#"{"type":"snapshot""#) {
            let page: Result<Snapshot<'_>, _> = serde_json::from_slice(text);
            match page.map_err(|error| error.to_string()).and_then(|page| self.mirror.apply_page(&page)) {
                Ok(_) => {}
                Err(error) => self.log.broken(format!("a wrong snapshot: {error}")),
            }
        } else if text.starts_with(br#"{"type":"diff""#) {
            let diff: Result<Diff<'_>, _> = serde_json::from_slice(text);
            match diff.map_err(|error| error.to_string()).and_then(|diff| self.mirror.apply_diff(&diff)) {
                Ok(()) => {}
                Err(error) => self.log.broken(format!("a wrong diff: {error}")),
            }
        } else if text.starts_with(br#"{"type":"message""#) {
            let data = serde_json::from_slice::<Value>(text).ok().and_then(|message| message["data"].as_u64());
            if let Some((_, wait)) = self.message.take_if(|(number, _)| Some(*number) == data) {
                self.log.end("message", wait);
            }
        }
        for joiner in &mut self.joiners {
            let is_member = self.mirror.members.contains_key(&joiner.user);
            if let Some((kind, number)) = joiner.wait
                && is_member != joiner.is_member
            {
                self.log.end(kind, number);
                joiner.is_member = is_member;
                joiner.wait = None;
                joiner.next = Instant::now() + STAY;
            }
        }
    }
}
