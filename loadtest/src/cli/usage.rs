//! The error for a command line that parses but cannot be run.

use std::fmt;

/// The options contradict each other or exceed a limit. Nothing was opened yet; the exit code is 64.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl fmt::Display for UsageError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}
