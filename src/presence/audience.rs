//! Audiences: observers of a room that receive the same bytes. To presence an audience is only a number; the protocol
//! that defines it decides what its observers receive.

/// The limit of audiences of all protocols together. Arrays of this length are indexed by [`Audience::index`].
pub const MAX_AUDIENCES: usize = 8;

/// One audience. Each change is encoded once per audience, however many observers it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Audience(u8);

impl Audience {
    /// The audience with this number.
    ///
    /// # Panics
    /// If the number is not below [`MAX_AUDIENCES`]. Protocols define their audiences as constants, so this fails at
    /// compile time.
    #[must_use]
    pub const fn new(number: usize) -> Self {
        assert!(number < MAX_AUDIENCES, "too many audiences");
        Self(number as u8)
    }

    /// Its number.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// All audiences, whether a protocol uses them or not.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..MAX_AUDIENCES as u8).map(Self)
    }
}

/// A set of audiences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AudienceSet(u8);

impl AudienceSet {
    /// Adds an audience.
    pub fn insert(&mut self, audience: Audience) {
        self.0 |= 1 << audience.0;
    }

    /// Whether an audience is in the set.
    #[must_use]
    pub fn contains(self, audience: Audience) -> bool {
        self.0 & (1 << audience.0) != 0
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The audiences that are in either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// How many observers of each audience one worker has in a room.
pub type Observers = [u32; MAX_AUDIENCES];
