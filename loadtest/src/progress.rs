//! Progress of a phase on stderr: a bar on a terminal, otherwise a line every two seconds. Only the report goes to
//! stdout.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// When stderr is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// Each redraw of the bar costs a write.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// Progress of one phase.
pub(crate) struct Progress {
    label: &'static str,
    total: u64,
    /// `None` when stderr is not a terminal.
    bar: Option<ProgressBar>,
    shown: Instant,
}

impl Progress {
    pub(crate) fn new(label: &'static str, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix:<12} {wide_bar} {human_pos}/{human_len} {elapsed}");
            ProgressBar::new(total)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                .with_prefix(label)
        });
        Self { label, total, bar, shown: Instant::now() }
    }

    /// Cheap enough to call in every turn of a loop.
    pub(crate) fn set(&mut self, position: u64) {
        let now = Instant::now();
        let every = if self.bar.is_some() { DRAW_EVERY } else { LINE_EVERY };
        if now.duration_since(self.shown) < every {
            return;
        }
        self.shown = now;
        match &self.bar {
            Some(bar) => bar.set_position(position),
            None => eprintln!("{} {position}/{}", self.label, self.total),
        }
    }

    pub(crate) fn finish(self) {
        match self.bar {
            Some(bar) => bar.finish_and_clear(),
            None => eprintln!("{} done", self.label),
        }
    }
}
