//! The log.

use std::ffi::OsString;
use std::path::Path;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::ConfigError;
use super::command::is_check;
use super::file::File;
use super::sources::is_flag;

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

impl LogFormat {
    /// The format for errors in the settings: that of the command line (program name first), or else of the variable,
    /// or else of the configuration file, as far as they can be read. Those of `rollcall check` are text.
    #[must_use]
    pub fn of(words: &[OsString]) -> Self {
        if is_check(words) {
            return Self::Text;
        }
        // Empty variables count as unset, as everywhere.
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let given = |flag: &str, name: &str| typed(words, flag).or_else(|| variable(name));
        let in_file = || {
            let file = File::open(Path::new(&given("--config", "ROLLCALL_CONFIG")?)).ok()?;
            file.text("log-format").map(OsString::from)
        };
        let format = given("--log-format", "ROLLCALL_LOG_FORMAT").or_else(in_file);
        if format.is_some_and(|format| format.eq_ignore_ascii_case("json")) { Self::Json } else { Self::Text }
    }
}

/// The last value of a flag on a command line.
fn typed(words: &[OsString], flag: &str) -> Option<OsString> {
    let at = words.iter().rposition(|word| is_flag(word, flag))?;
    match words[at].to_str()?.split_once('=') {
        Some((_, value)) => Some(value.into()),
        None => words.get(at + 1).cloned(),
    }
}

/// A word of a filter that should be a level but is not; `None` if there is none. The filter takes such a word as the
/// name of a part of the server and logs only that part: `--log wran` would silence the server.
fn unknown_level(filter: &str) -> Option<&str> {
    let mut words = filter.split(',').map(str::trim);
    words.find(|word| !word.contains(['=', '[']) && (word.is_empty() || word.parse::<LevelFilter>().is_err()))
}

impl LogArgs {
    /// Checks the filter.
    pub(super) fn check(self) -> Result<Log, ConfigError> {
        if let Some(word) = unknown_level(&self.log) {
            return Err(ConfigError::Invalid(format!(
                "--log {:?}: {word:?} is not a level; the levels are off, error, warn, info, debug and trace, and a \
                 part of the server has one as in info,rollcall::http=debug",
                self.log
            )));
        }
        if let Err(error) = self.log.parse::<EnvFilter>() {
            return Err(ConfigError::Invalid(format!(
                "--log {:?} is not a log filter: {error}; write it like info or info,rollcall::http=debug",
                self.log
            )));
        }
        Ok(Log { filter: self.log, format: self.log_format })
    }
}
