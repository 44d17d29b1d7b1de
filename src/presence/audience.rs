//! Audiences: observers of a room that receive the same bytes. To presence an audience is only a number; the protocol
//! that defines it decides what its observers receive.

/// The limit of audiences of all protocols together: as many as there are. Rooms and workers have arrays of this
/// length, indexed by [`Audience::index`].
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
        assert!(number < MAX_AUDIENCES, "too many audiences: raise MAX_AUDIENCES");
        Self(number as u8)
    }

    /// Its number.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
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

    /// The audiences that have observers.
    #[must_use]
    pub fn with_observers(observers: &Observers) -> Self {
        let bits = observers.iter().enumerate().map(|(number, count)| u8::from(*count > 0) << number);
        Self(bits.fold(0, |set, bit| set | bit))
    }

    /// The audiences in the set, in order.
    pub fn iter(self) -> impl Iterator<Item = Audience> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let number = rest.trailing_zeros() as u8;
            rest &= rest.checked_sub(1)?;
            Some(Audience(number))
        })
    }

    /// The audiences that are in either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromIterator<Audience> for AudienceSet {
    fn from_iter<T: IntoIterator<Item = Audience>>(audiences: T) -> Self {
        audiences.into_iter().fold(Self::default(), |mut set, audience| {
            set.insert(audience);
            set
        })
    }
}

/// How many observers of each audience one worker has in a room.
pub type Observers = [u32; MAX_AUDIENCES];
