//! A session: one connection of a user, or the user's REST heartbeats.
//!
//! The lease is one atomic: its last tick. The owner of the session renews it with a single swap, without a map or a
//! lock; the wheel reads it when the lease might have ended. The joined rooms are behind a mutex that only joins,
//! leaves and the end of the lease take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{Room, State, Tick};

/// Stored instead of a tick: the lease has ended, by time or explicitly.
const ENDED: u64 = u64::MAX;

/// One session of one user, connected or in its grace period.
#[derive(Debug)]
pub struct Session {
    user: Arc<str>,
    /// The last tick of the lease, or [`ENDED`]. Written by the owner (swap) and by expiry (compare and exchange), so
    /// that of a renewal and an expiry at the same time only one takes effect.
    lease: AtomicU64,
    /// Written by the owner and by expiry. Both keep it locked while they count the session in or out of its rooms.
    pub(super) rooms: Mutex<SessionRooms>,
}

/// The rooms of a session, and whether they count it at present.
#[derive(Debug)]
pub(super) struct SessionRooms {
    /// Whether the joined rooms count this session. False after the lease ended; a later sign of life counts it in
    /// again.
    pub(super) counted: bool,
    /// When the session began. It fits into the padding behind `counted`.
    begun: Begun,
    /// Nearly always one room, which needs no allocation.
    pub(super) joined: SmallVec<[Joined; 1]>,
}

/// A room that a session has joined, with the state that it set there last. A session that returns after its lease
/// ended has this state again.
#[derive(Debug, Clone)]
pub(super) struct Joined {
    pub(super) room: Arc<Room>,
    pub(super) state: Option<State>,
}

/// When something began, in tenths of a second and in four bytes: enough to compare times of the last thirteen years.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Begun(u32);

impl Begun {
    /// This time.
    #[must_use]
    pub fn at(unix_ms: u64) -> Self {
        Self((unix_ms / 100) as u32)
    }

    /// Whether it is after the first time and not after the second. False for what seems to begin in the future: a
    /// clock was set back, and nothing is known.
    pub(super) fn is_between(self, after_unix_ms: u64, now_unix_ms: u64) -> bool {
        let (Self(after), Self(now)) = (Self::at(after_unix_ms), Self::at(now_unix_ms.max(after_unix_ms)));
        now.wrapping_sub(self.0) < now.wrapping_sub(after)
    }
}

impl Session {
    pub(super) fn new(user: Arc<str>, lease_end: Tick) -> Self {
        let rooms = SessionRooms { counted: true, begun: Begun::default(), joined: SmallVec::new() };
        Self { user, lease: AtomicU64::new(lease_end), rooms: Mutex::new(rooms) }
    }

    /// Records that it begins at this time. Otherwise it counts as older than everything.
    pub fn begin(&self, unix_ms: u64) {
        self.rooms.lock().begun = Begun::at(unix_ms);
    }

    /// When it began.
    #[must_use]
    pub fn begun(&self) -> Begun {
        self.rooms.lock().begun
    }

    /// The user.
    #[must_use]
    pub fn user(&self) -> &Arc<str> {
        &self.user
    }

    /// Records a sign of life: `lease_end` becomes the last tick of the lease. Returns false if the lease had ended;
    /// the registry must count the session in again then.
    #[must_use]
    pub(super) fn renew(&self, lease_end: Tick) -> bool {
        self.lease.swap(lease_end, Ordering::Relaxed) != ENDED
    }

    /// The last tick of the lease; `None` once it has ended.
    pub(super) fn lease_end(&self) -> Option<Tick> {
        Some(self.lease.load(Ordering::Relaxed)).filter(|lease_end| *lease_end != ENDED)
    }

    /// Ends the lease if `lease_end` is still its last tick. Returns whether it did.
    pub(super) fn end_unless_renewed(&self, lease_end: Tick) -> bool {
        self.lease.compare_exchange(lease_end, ENDED, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Ends the lease now.
    pub(super) fn end(&self) {
        self.lease.store(ENDED, Ordering::Relaxed);
    }

    /// Makes `lease_end` the last tick of the lease, unless it ends before that.
    pub(super) fn shorten(&self, lease_end: Tick) {
        // The owner does not renew it any more, so only expiry can interfere. An ended lease stays ended.
        let _ = self.lease.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |current| {
            (current != ENDED && current > lease_end).then_some(lease_end)
        });
    }
}
