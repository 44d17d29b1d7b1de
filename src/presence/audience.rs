//! Audiences: observers of a room that are sent the same bytes. To presence an audience is a number; what its observers are sent
//! is a matter of the protocol that registered it.

/// The number of audiences that all protocols together may have; arrays are indexed by [`Audience::index`].
pub const MAX_AUDIENCES: usize = 8;

/// One audience. Each is encoded once per change, whatever the number of its observers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Audience(u8);

impl Audience {
    /// The audience of this number.
    ///
    /// # Panics
    /// If the number is not below [`MAX_AUDIENCES`]. Protocols name their audiences in constants, so it fails at compile time.
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
