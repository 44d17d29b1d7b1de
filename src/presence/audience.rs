//! How observers look at a room, and sets and numbers of them.

/// How an observer looks at a room. Each audience is encoded once per change, whatever the number of its observers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Audience {
    /// Members with their states: a snapshot, then diffs (native).
    Members,
    /// The number of members only (native, `detail: "count"`).
    Count,
    /// The whole list of names at each change (online users).
    Names,
    /// Who came and who went, one event each (online status).
    Events,
    /// Who came, what was said and who went, one message each (chat).
    Talk,
}

/// The number of audiences; arrays are indexed by `Audience as usize`.
pub const AUDIENCES: usize = 5;

impl Audience {
    /// All of them.
    pub const ALL: [Self; AUDIENCES] = [Self::Members, Self::Count, Self::Names, Self::Events, Self::Talk];
}

/// A set of audiences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AudienceSet(pub(super) u8);

impl AudienceSet {
    /// Adds one.
    pub fn insert(&mut self, audience: Audience) {
        self.0 |= 1 << audience as u8;
    }

    /// Whether it is in.
    #[must_use]
    pub fn contains(self, audience: Audience) -> bool {
        self.0 & (1 << audience as u8) != 0
    }

    /// Whether none is in.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// How many observers of each audience one worker has in a room.
pub type Observers = [u32; AUDIENCES];
