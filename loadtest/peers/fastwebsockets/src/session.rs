//! The presence of one connection. After an unclean close it lasts until its lease ends.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::room::Room;

pub struct Session {
    pub id: u64,
    pub user: Arc<str>,
    /// When the last message of the client arrived, in milliseconds since the server started.
    seen_ms: AtomicU64,
    /// Set by the hub when the lease has expired; the connection then closes.
    pub ended: AtomicBool,
    /// Rooms that it has joined. Written by its connection, emptied by the hub when it ends.
    pub rooms: Mutex<Vec<Arc<Room>>>,
}

impl Session {
    pub fn new(id: u64, user: Arc<str>, now_ms: u64) -> Self {
        let seen_ms = AtomicU64::new(now_ms);
        Self { id, user, seen_ms, ended: AtomicBool::new(false), rooms: Mutex::default() }
    }

    pub fn renew(&self, now_ms: u64) {
        self.seen_ms.store(now_ms, Ordering::Relaxed);
    }

    pub fn silent_for_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.seen_ms.load(Ordering::Relaxed))
    }
}
