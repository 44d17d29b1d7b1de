//! The log, and lines that are printed outside of it, in the same format.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;

use tracing::subscriber::with_default;
use tracing::{Level, error, info};
use tracing_appender::non_blocking::NonBlocking;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Starts the log.
pub fn start(log: &Log, writer: NonBlocking) {
    // A log line that cannot be written is lost: reporting that on the same broken pipe would end the process.
    let lines = tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_env_filter(EnvFilter::new(&log.filter))
        .with_writer(writer);
    let lines = lines.with_ansi(std::io::stderr().is_terminal());
    match log.format {
        LogFormat::Text => lines.with_target(false).init(),
        LogFormat::Json => {
            lines.json().init();
            // The default hook prints several lines of text.
            std::panic::set_hook(Box::new(|panic| print(LogFormat::Json, Level::ERROR, std::io::stderr(), &panic)));
        }
    }
}

/// Prints a line as text, or as a line of the JSON log, independent of the log filter. A failure is ignored: a closed
/// output must not stop the server.
pub fn print(format: LogFormat, level: Level, mut out: impl Write + Send + 'static, line: &dyn std::fmt::Display) {
    match format {
        LogFormat::Text => {
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        }
        LogFormat::Json => {
            let lines = tracing_subscriber::fmt().json().log_internal_errors(false).with_writer(Mutex::new(out));
            with_default(lines.finish(), || match level {
                Level::ERROR => error!("{line}"),
                _ => info!("{line}"),
            });
        }
    }
}
