//! A presence message that an observer received.

/// The content of the message, as far as it is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery {
    /// The number of members that joined, left or changed their state.
    pub(crate) changes: u32,
}
