//! The wall clock, and chance, for numbers that tell lives apart. The time is shown to people and other nodes; what has to be measured
//! is measured in ticks.

use std::hash::{BuildHasher as _, Hasher as _};
use std::time::{SystemTime, UNIX_EPOCH};

/// The wall clock in milliseconds since the Unix epoch.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Any number: the standard library's hashers begin with random keys.
pub(crate) fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

/// A number that no other process takes, and that is greater than those of its earlier lives: the milliseconds, and `bits` of chance.
/// A process id is no such thing: in a container it is always 1.
pub(crate) fn number_of_life(unix_ms: u64, bits: u32) -> u64 {
    unix_ms << bits | random() & ((1 << bits) - 1)
}
