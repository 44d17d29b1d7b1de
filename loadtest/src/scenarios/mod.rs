//! One file per scenario: what it does, which figures it gives, what must hold for them to count.

mod acks;
pub(crate) mod heartbeat;
pub(crate) mod idle;
mod verify;
mod window;
