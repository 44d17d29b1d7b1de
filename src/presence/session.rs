//! A session: one connection, or one source of REST heartbeats, of one user. It holds the lease.
//!
//! The lease is one atomic: the tick of the last sign of life. Renewing it is a single swap by whoever owns the session, no
//! map and no lock; the wheel looks at it when it might have run out. What the session has joined stands behind a mutex that
//! only joins, leaves and the end of the lease touch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{Room, State, Tick};

/// In place of a tick: the lease has ended, by time or by an explicit end.
const ENDED: u64 = u64::MAX;

/// One live (or lingering) presence of one user.
#[derive(Debug)]
pub struct Session {
    user: Arc<str>,
    /// The tick of the last sign of life, or [`ENDED`]. Written by the owner (swap) and by expiry (compare and exchange), so
    /// that a renewal and an expiry can never both win.
    last_seen: AtomicU64,
    /// Written by the owner and by expiry, each for as long as it takes to count the session in or out of its rooms.
    pub(super) rooms: Mutex<SessionRooms>,
}

/// The rooms of a session, and whether it counts in them at present.
#[derive(Debug)]
pub(super) struct SessionRooms {
    /// Whether each joined room counts this session. False after the lease ended; a later sign of life counts it in again.
    pub(super) counted: bool,
    /// Nearly always one room: no allocation of its own for that.
    pub(super) joined: SmallVec<[Joined; 1]>,
}

/// A room that a session has joined, with the state that it wrote there last: a lapsed session comes back with it.
#[derive(Debug, Clone)]
pub(super) struct Joined {
    pub(super) room: Arc<Room>,
    pub(super) state: Option<State>,
}

impl Session {
    pub(super) fn new(user: Arc<str>, now: Tick) -> Self {
        Self {
            user,
            last_seen: AtomicU64::new(now),
            rooms: Mutex::new(SessionRooms { counted: true, joined: SmallVec::new() }),
        }
    }

    /// Whose session this is.
    #[must_use]
    pub fn user(&self) -> &Arc<str> {
        &self.user
    }

    /// Records a sign of life. Returns false if the lease had ended: then the registry must count the session in again.
    #[must_use]
    pub(super) fn renew(&self, now: Tick) -> bool {
        self.last_seen.swap(now, Ordering::Relaxed) != ENDED
    }

    /// The tick of the last sign of life; `None` once the lease has ended.
    pub(super) fn last_seen(&self) -> Option<Tick> {
        Some(self.last_seen.load(Ordering::Relaxed)).filter(|seen| *seen != ENDED)
    }

    /// Ends the lease if nothing was heard since `seen`.
    pub(super) fn end_unless_renewed(&self, seen: Tick) -> bool {
        self.last_seen.compare_exchange(seen, ENDED, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Ends the lease now.
    pub(super) fn end(&self) {
        self.last_seen.store(ENDED, Ordering::Relaxed);
    }

    /// Pretends that the last sign of life was no later than `tick`, so that the lease ends sooner.
    pub(super) fn age_to(&self, tick: Tick) {
        // The owner has just closed, so only expiry can interfere; an ended lease stays ended.
        let _ = self
            .last_seen
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seen| (seen != ENDED && seen > tick).then_some(tick));
    }
}
