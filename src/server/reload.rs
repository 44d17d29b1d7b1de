//! What SIGHUP reloads: files that may have been replaced since the server opened or read them. Settings are not
//! reloaded: changing them needs a restart.

use std::fmt;
use std::sync::Arc;

use tracing::info;

/// Reloads one part of the server. False if it has nothing to reload. It logs its own errors: a part that cannot be
/// reloaded continues with what it has.
type Part = Arc<dyn Fn() -> bool + Send + Sync>;

/// The parts that can be reloaded, with their names for the log.
#[derive(Clone, Default)]
pub struct Reload(Vec<(&'static str, Part)>);

impl Reload {
    /// Adds a part.
    #[must_use]
    pub fn with(mut self, name: &'static str, part: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.0.push((name, Arc::new(part)));
        self
    }

    /// Reloads all parts.
    pub fn run(&self) {
        let reloaded: Vec<_> = self.0.iter().filter(|(_, part)| part()).map(|(name, _)| *name).collect();
        if reloaded.is_empty() {
            info!("SIGHUP: there is nothing to reload");
        } else {
            info!(parts = reloaded.join(", "), "SIGHUP: reloading");
        }
    }
}

impl fmt::Debug for Reload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}
