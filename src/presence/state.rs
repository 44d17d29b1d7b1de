//! What a user says about itself in a room.

use std::fmt;
use std::sync::Arc;

/// Compact JSON text, shared by everyone who holds it.
///
/// One pointer wide, where an `Arc<str>` is two: members without a state are many, and each holds the place for one three
/// times (session, membership, roster).
#[derive(Clone, PartialEq, Eq)]
pub struct State(Arc<Text>);

#[derive(PartialEq, Eq)]
struct Text(Box<str>);

impl State {
    /// The JSON.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.0
    }
}

impl From<String> for State {
    fn from(json: String) -> Self {
        Self(Arc::new(Text(json.into_boxed_str())))
    }
}

impl fmt::Debug for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
