//! The chat.

use super::values::number;
use super::{ConfigError, require};

/// The most chat messages that may be kept. The history itself bounds their bytes.
const MAX_HISTORY: usize = 100_000;

/// The settings as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Chat")]
pub struct ChatArgs {
    /// Number of chat messages that new clients receive, up to 1 MiB. They also receive up to as many joins and leaves.
    /// With Redis, all nodes share the messages
    #[arg(long, env = "ROLLCALL_HISTORY", default_value_t = 100, value_parser = number::<usize>, value_name = "N")]
    pub history: usize,
}

/// The chat.
#[derive(Debug, Clone, Copy)]
pub struct Chat {
    /// Messages kept for new clients.
    pub history: usize,
}

impl ChatArgs {
    /// Checks the length of the history.
    pub(super) fn check(&self) -> Result<Chat, ConfigError> {
        require(self.history <= MAX_HISTORY, || {
            format!("--history is {}; it must be at most {MAX_HISTORY}", self.history)
        })?;
        Ok(Chat { history: self.history })
    }
}
