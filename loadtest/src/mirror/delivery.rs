//! One presence message that an observer received.

/// What it contains.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery {
    /// How many members joined, changed or left.
    pub(crate) changes: u32,
}
