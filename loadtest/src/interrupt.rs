//! Ctrl-C and SIGTERM: the first asks the run to end with its report, the second ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// What a shell expects of a process that a second SIGINT ended.
const EXIT_KILLED: i32 = 130;

/// Set by the signal handler, read by every loop that may last.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub(crate) fn listen() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // The order counts: the flag is still down when the first signal passes the shutdown.
            flag::register_conditional_shutdown(signal, EXIT_KILLED, Arc::clone(&asked))
                .context("cannot listen to signals")?;
            flag::register(signal, Arc::clone(&asked)).context("cannot listen to signals")?;
        }
        Ok(Self(asked))
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
