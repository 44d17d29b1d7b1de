//! The event log.

use std::path::PathBuf;

use crate::store::event_log::Target;

/// The settings as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Event log")]
pub struct EventLogArgs {
    /// Append one JSON line per join and leave to FILE; SIGHUP reopens the file, for log rotation. `-` is standard
    /// output; startup lines then go to standard error [default: no event log]
    #[arg(long, env = "ROLLCALL_EVENT_LOG", value_name = "FILE|-")]
    pub event_log: Option<PathBuf>,
}

impl EventLogArgs {
    /// Where the event log goes, if there is one. The server opens it.
    pub(super) fn check(self) -> Option<Target> {
        let path = self.event_log?;
        Some(if path.as_os_str() == "-" { Target::Stdout } else { Target::File(path) })
    }
}
