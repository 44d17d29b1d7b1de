//! All rooms and sessions, and what happens on timers: ticks, expiring leases, removal of empty rooms.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::time::{MissedTickBehavior, interval};

use crate::room::Room;
use crate::session::Session;
use crate::wire::Reason;

pub const TICK: Duration = Duration::from_millis(100);
pub const TTL: Duration = Duration::from_secs(10);
const EXPIRY_CHECK: Duration = Duration::from_secs(1);
const CLEANUP: Duration = Duration::from_secs(30);

pub struct Hub {
    started: Instant,
    /// Makes epochs unique across restarts.
    incarnation: u128,
    rooms: Mutex<HashMap<Arc<str>, Arc<Room>>>,
    /// Rooms that the next tick must settle, by name.
    changed: Mutex<HashMap<Arc<str>, Arc<Room>>>,
    sessions: Mutex<HashMap<u64, Arc<Session>>>,
    /// Counters, which also number sessions and epochs.
    pub accepted: AtomicU64,
    pub heartbeats: AtomicU64,
    opened: AtomicU64,
}

/// Runs the timers as long as the server runs.
pub async fn run(hub: Arc<Hub>) {
    let (mut tick, mut expiry, mut cleanup) = (interval(TICK), interval(EXPIRY_CHECK), interval(CLEANUP));
    for timer in [&mut tick, &mut expiry, &mut cleanup] {
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    loop {
        tokio::select! {
            _ = tick.tick() => hub.tick(),
            _ = expiry.tick() => hub.end_expired(),
            _ = cleanup.tick() => hub.remove_empty(),
        }
    }
}

impl Hub {
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            incarnation: unix_ms(),
            rooms: Mutex::default(),
            changed: Mutex::default(),
            sessions: Mutex::default(),
            accepted: AtomicU64::new(0),
            heartbeats: AtomicU64::new(0),
            opened: AtomicU64::new(0),
        }
    }

    pub fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    pub fn begin(&self, user: Arc<str>) -> Arc<Session> {
        let id = self.accepted.fetch_add(1, Ordering::Relaxed);
        let session = Arc::new(Session::new(id, user, self.now_ms()));
        self.sessions.lock().unwrap().insert(id, Arc::clone(&session));
        session
    }

    /// Ends the presence in all rooms. Repeated calls have no effect.
    pub fn end(&self, session: &Session, reason: Reason) {
        self.sessions.lock().unwrap().remove(&session.id);
        session.ended.store(true, Ordering::Relaxed);
        for room in std::mem::take(&mut *session.rooms.lock().unwrap()) {
            room.leave(&session.user, reason);
            self.mark_changed(&room);
        }
    }

    /// The room of this name, which is created if it does not exist.
    pub fn open(&self, name: &str) -> Arc<Room> {
        let mut rooms = self.rooms.lock().unwrap();
        if let Some(room) = rooms.get(name) {
            return Arc::clone(room);
        }
        let name: Arc<str> = name.into();
        let epoch = format!("{:x}-{}", self.incarnation, self.opened.fetch_add(1, Ordering::Relaxed));
        let room = Arc::new(Room::new(Arc::clone(&name), epoch));
        rooms.insert(name, Arc::clone(&room));
        room
    }

    pub fn find(&self, name: &str) -> Option<Arc<Room>> {
        self.rooms.lock().unwrap().get(name).cloned()
    }

    /// Names and member counts of all rooms with members, sorted.
    pub fn list(&self) -> Vec<(Arc<str>, usize)> {
        let rooms: Vec<_> = self.rooms.lock().unwrap().values().cloned().collect();
        let counted = rooms.iter().map(|room| (Arc::clone(&room.name), room.count()));
        let mut list: Vec<_> = counted.filter(|(_, count)| *count > 0).collect();
        list.sort_unstable();
        list
    }

    /// The next tick settles the room.
    pub fn mark_changed(&self, room: &Arc<Room>) {
        self.changed.lock().unwrap().entry(Arc::clone(&room.name)).or_insert_with(|| Arc::clone(room));
    }

    fn tick(&self) {
        for room in std::mem::take(&mut *self.changed.lock().unwrap()).into_values() {
            room.settle();
        }
    }

    /// Ends sessions whose lease has expired, connected or not.
    fn end_expired(&self) {
        let now_ms = self.now_ms();
        let is_expired = |session: &&Arc<Session>| session.silent_for_ms(now_ms) > TTL.as_millis() as u64;
        let expired: Vec<_> = self.sessions.lock().unwrap().values().filter(is_expired).cloned().collect();
        for session in expired {
            self.end(&session, Reason::Timeout);
        }
    }

    fn remove_empty(&self) {
        let changed = self.changed.lock().unwrap();
        self.rooms.lock().unwrap().retain(|name, room| changed.contains_key(name) || !room.is_empty());
    }
}

pub fn unix_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}
