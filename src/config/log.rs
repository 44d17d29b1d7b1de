//! The log.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use super::ConfigError;

/// The settings as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// What to log: error, warn, info, debug, trace, or directives such as info,rollcall::http=debug
    #[arg(long, env = "ROLLCALL_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,

    /// Format of log lines
    #[arg(long, env = "ROLLCALL_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// The log.
#[derive(Debug, Clone)]
pub struct Log {
    /// The filter, already checked.
    pub filter: String,
    /// The format of lines.
    pub format: LogFormat,
}

impl LogArgs {
    /// Checks the filter.
    pub(super) fn check(self) -> Result<Log, ConfigError> {
        if let Err(error) = self.log.parse::<EnvFilter>() {
            return Err(ConfigError::Invalid(format!(
                "--log {:?} is not a log filter: {error}; write it like info or info,rollcall::http=debug",
                self.log
            )));
        }
        Ok(Log { filter: self.log, format: self.log_format })
    }
}
