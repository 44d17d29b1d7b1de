//! A session: one connection, or one source of REST heartbeats, of one user. It holds the lease, where there is one.
//!
//! The lease is one atomic: the last tick of it. Renewing it is a single swap by whoever owns the session, no map and no lock;
//! the wheel looks at it when it might have run out. What the session has joined stands behind a mutex that
//! only joins, leaves and the end of the lease touch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{Room, State, Tick};

/// In place of a tick: the lease has ended, by time or by an explicit end.
const ENDED: u64 = u64::MAX;

/// One live (or grace) presence of one user.
#[derive(Debug)]
pub struct Session {
    user: Arc<str>,
    /// The last tick of the lease, or [`ENDED`]. Written by the owner (swap) and by expiry (compare and exchange), so that a
    /// renewal and an expiry can never both win.
    lease: AtomicU64,
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
    pub(super) fn new(user: Arc<str>, lease: Tick) -> Self {
        Self {
            user,
            lease: AtomicU64::new(lease),
            rooms: Mutex::new(SessionRooms { counted: true, joined: SmallVec::new() }),
        }
    }

    /// Whose session this is.
    #[must_use]
    pub fn user(&self) -> &Arc<str> {
        &self.user
    }

    /// Records a sign of life: the lease goes on until the end of tick `lease`. Returns false if it had ended: then the
    /// registry must count the session in again.
    #[must_use]
    pub(super) fn renew(&self, lease: Tick) -> bool {
        self.lease.swap(lease, Ordering::Relaxed) != ENDED
    }

    /// The last tick of the lease; `None` once it has ended.
    pub(super) fn lease(&self) -> Option<Tick> {
        Some(self.lease.load(Ordering::Relaxed)).filter(|lease| *lease != ENDED)
    }

    /// Ends the lease unless it is another than `lease` by now.
    pub(super) fn end_unless_renewed(&self, lease: Tick) -> bool {
        self.lease.compare_exchange(lease, ENDED, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Ends the lease now.
    pub(super) fn end(&self) {
        self.lease.store(ENDED, Ordering::Relaxed);
    }

    /// Has the lease end no later than with tick `lease`.
    pub(super) fn shorten(&self, lease: Tick) {
        // The owner is going, so only expiry can interfere; an ended lease stays ended.
        let _ = self.lease.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            (held != ENDED && held > lease).then_some(lease)
        });
    }
}
