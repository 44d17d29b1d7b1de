//! What the HTTP threads share: lists that take long to make, the answers that clients have not read, and the numbers
//! of errors.

use std::sync::Arc;

use parking_lot::Mutex;

use super::errors::ErrorCounts;
use super::shared_work::SharedWork;
use super::unread::{SharedBody, TooLarge, UnreadAnswers};

/// The shared state of all HTTP threads.
#[derive(Debug)]
pub struct Answers {
    /// Long answers that clients have not read.
    pub(super) unread: Arc<UnreadAnswers>,
    /// All rooms with members or observers, but for those of applications.
    pub(super) rooms: SharedRooms,
    /// The same of all applications.
    pub(super) channels: SharedRooms,
    /// The list of `GET /online_users` while it is made.
    pub(super) names: SharedWork<Result<Arc<SharedBody>, TooLarge>>,
    /// The last such list, shared until a user joins or leaves.
    pub(super) last_names: Mutex<Option<CachedNames>>,
    /// The errors with which requests were answered.
    pub(super) errors: ErrorCounts,
}

impl Answers {
    /// Without lists. The limit is that of unread answers, in bytes.
    #[must_use]
    pub fn new(max_unread_bytes: usize) -> Self {
        Self {
            unread: Arc::new(UnreadAnswers::new(max_unread_bytes)),
            rooms: SharedWork::default(),
            channels: SharedWork::default(),
            names: SharedWork::default(),
            last_names: Mutex::default(),
            errors: ErrorCounts::default(),
        }
    }
}

/// Rooms, sorted by name.
pub(super) type RoomList = Arc<Vec<RoomEntry>>;
pub(super) type SharedRooms = SharedWork<RoomList>;

/// A room in a list, with how many members and observers it has on all nodes.
#[derive(Debug)]
pub(super) struct RoomEntry {
    pub(super) name: Arc<str>,
    pub(super) members: usize,
    pub(super) observers: u64,
}

impl RoomEntry {
    /// Whether the room has members or observers.
    pub(super) fn is_used(&self) -> bool {
        self.members > 0 || self.observers > 0
    }
}

/// The list of the members of the lobby, as of a sequence number.
#[derive(Debug)]
pub(super) struct CachedNames {
    pub(super) room: u64,
    pub(super) seq: u64,
    pub(super) body: Arc<SharedBody>,
}

impl CachedNames {
    /// The list, unless the room has changed since.
    pub(super) fn valid_for(&self, room: u64, seq: u64) -> Option<Arc<SharedBody>> {
        ((self.room, self.seq) == (room, seq)).then(|| Arc::clone(&self.body))
    }
}
